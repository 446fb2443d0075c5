//! The sandbox: what remains possible to somebody who has taken over a thread of ours.
//!
//! Three walls, each for itself. [`identity`]: the process is an ordinary user and cannot become another one.
//! `files`: Landlock lets it reach the files that the configuration names and no others, execute none, and connect to
//! nobody. `calls`: seccomp takes away the system calls that a mail server has no use for, first those that start
//! programs.
//!
//! A wall that the kernel does not have is left out and named in the log, unless the operator says
//! [`SandboxMode::Required`]. None can be taken down or moved again: whatever needs more than [`Needs`] told needs a
//! restart, and [`Sandbox::outside`] says so before the kernel does.
//!
//! All of it is for the calling thread *and those that it starts*. So it happens while there is no other, before the
//! runtime and the queue have any. What has to be done with more rights than remain, such as running a program for the
//! operator, is for a helper process that was started before, and is talked to over a pipe.

use std::path::{Path, PathBuf};

use self::files::{Grant, Reach};
use crate::diagnostic::Finding;

mod calls;
mod files;
pub mod identity;

/// What the operator can set about the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Who to be once everything is bound; a name or a number. `None`: who started it.
    pub user: Option<String>,
    /// The group; `None`: the user's own.
    pub group: Option<String>,
    /// Whether there is a sandbox.
    pub sandbox: SandboxMode,
}

/// Whether there is a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SandboxMode {
    /// None.
    Off,
    /// As much of it as the kernel has.
    #[default]
    On,
    /// All of it, or no start.
    Required,
}

/// What the process needs once it is confined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Files that are read, now or later. Whoever renews one puts another in its place, so the directory that it is
    /// in can be read, too, and that of the file that it is a link to.
    pub read: Vec<PathBuf>,
    /// Files that are replaced: all files in their directories can be.
    pub replace: Vec<PathBuf>,
    /// Directories in which everything can be done except to execute.
    pub own: Vec<PathBuf>,
    /// Whether it connects to others: then it may look names up and read the certificates of the system's authorities,
    /// and TCP connections from here are possible.
    pub network_client: bool,
}

/// A sandbox that is made ready: its files are found and held, with the rights from before. It holds nobody back yet.
#[derive(Debug)]
pub struct Prepared {
    mode: SandboxMode,
    grants: Vec<Grant>,
    /// Files whose directory is not opened for their sake.
    alone: Vec<PathBuf>,
    network_client: bool,
}

/// The sandbox that this thread, and each that it starts, is in.
#[derive(Debug)]
pub struct Sandbox {
    /// `None`: the operator wants none.
    walls: Option<Walls>,
    grants: Vec<Grant>,
    network_client: bool,
}

/// For each wall what is in force, or why it is not.
#[derive(Debug)]
struct Walls {
    files: Result<String, String>,
    calls: Result<String, String>,
}

impl Prepared {
    /// Finds what is needed. Paths that are not there are left out: they stay out of reach.
    pub fn new(mode: SandboxMode, needs: &Needs) -> Self {
        let (grants, alone) = match mode {
            SandboxMode::Off => Default::default(),
            SandboxMode::On | SandboxMode::Required => files::grants(needs),
        };
        Self {
            mode,
            grants,
            alone,
            network_client: needs.network_client,
        }
    }

    /// Closes it around this thread, for good. Threads that there are already stay outside.
    ///
    /// Fails only where the operator requires what the kernel does not have.
    pub fn enter(self) -> Result<Sandbox, Finding> {
        if self.mode == SandboxMode::Off {
            return Ok(Sandbox {
                walls: None,
                grants: Vec::new(),
                network_client: true,
            });
        }
        // In this order, since the second could take away what the first takes.
        let walls = Walls {
            files: files::confine(&self.grants, self.network_client),
            calls: calls::confine(),
        };
        let missing = walls.files.as_ref().err().or(walls.calls.as_ref().err());
        if self.mode == SandboxMode::Required
            && let Some(missing) = missing
        {
            let finding = Finding::error(format!("the sandbox is required, and {missing}"));
            return Err(finding.hint(
                "sandbox = \"on\" takes what the kernel has; Landlock wants Linux 5.19 with `landlock` in its list lsm=",
            ));
        }
        Ok(Sandbox {
            walls: Some(walls),
            grants: self.grants,
            network_client: self.network_client,
        })
    }

    /// What the operator should know of it.
    pub fn findings(&self) -> Vec<Finding> {
        let alone = self.alone.iter();
        alone.map(|path| stands_alone(path)).collect()
    }
}

impl Sandbox {
    /// What is in force, in a few words: `landlock abi 7, seccomp`.
    pub fn in_words(&self) -> String {
        let Some(Walls { files, calls }) = &self.walls else {
            return "off".to_owned();
        };
        match (files, calls) {
            (Err(no_files), Err(no_calls)) => format!("off: {no_files}, {no_calls}"),
            _ => [files, calls]
                .map(|wall| wall.as_ref().unwrap_or_else(|missing| missing).as_str())
                .join(", "),
        }
    }

    /// What of these needs cannot be had any more, one finding for each path. Links are followed as they are now.
    pub fn outside(&self, needs: &Needs) -> Vec<Finding> {
        let in_force = |walls: &Walls| walls.files.is_ok();
        if !self.walls.as_ref().is_some_and(in_force) {
            return Vec::new();
        }
        let hint = "restart gatepost: what the configuration names is let in at the start";
        let outside = files::outside(&self.grants, needs).into_iter();
        let mut findings: Vec<Finding> = outside
            .map(|(path, reach)| {
                let what = match reach {
                    Reach::Read => "read",
                    Reach::Replace | Reach::Own => "written",
                };
                let message = format!(
                    "the sandbox was closed without it, and it cannot be {what} from inside"
                );
                Finding::error(message).in_file(&path).hint(hint)
            })
            .collect();
        if needs.network_client && !self.network_client {
            let message = "the sandbox was closed when nobody was to be asked over the network, and nobody can be \
                           asked from inside";
            findings.push(Finding::error(message).hint(hint));
        }
        findings
    }
}

fn stands_alone(path: &Path) -> Finding {
    let directory = path.parent().unwrap_or(path).display();
    Finding::warning(format!(
        "it stands in {directory}, which the sandbox does not open for the sake of one file: a new file in its place \
         cannot be read without a restart"
    ))
    .in_file(path)
    .hint("give gatepost's files a directory of their own, /etc/gatepost for example")
}
