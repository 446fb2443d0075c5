//! The real program, for tests: `gatepost serve` and `gatepost try` in a folder of their own, on ports of the kernel's
//! choice.
//!
//! The process ends with the [`Daemon`] that holds it, and a test that fails shows its log.

use std::ffi::OsStr;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use gatepost::clock::Now;

use crate::process::{Lines, program};

/// A running gatepost, and the folder with all that it reads and writes.
pub(crate) struct Daemon {
    process: Child,
    folder: Arc<tempfile::TempDir>,
    /// What it logs.
    pub(crate) log: Lines,
    /// What it prints.
    pub(crate) output: Lines,
    pub(crate) starttls: SocketAddr,
    pub(crate) implicit: SocketAddr,
}

/// One account: its name, its password, and what it may send as beside (or in place of) its own name.
pub(crate) type NewAccount<'a> = (&'a str, &'a str, &'a [&'a str]);

/// The name that the configuration gives to the server.
pub(crate) const HOSTNAME: &str = "mail.example.org";

impl Daemon {
    /// Starts `gatepost serve` with these accounts and, beside what it needs, `settings` in its configuration.
    pub(crate) fn serve(accounts: &[NewAccount<'_>], settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        gatepost::tls::fresh::self_signed(&["localhost", HOSTNAME], Now::read())
            .unwrap()
            .write(folder.path())
            .unwrap();
        let config = format!(
            "hostname = \"{HOSTNAME}\"\n\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\ntls = \"starttls\"\n\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\ntls = \"implicit\"\n\n\
             [[certificate]]\nchain = \"certificate.pem\"\nkey = \"key.pem\"\n\n\
             [accounts]\nfile = \"accounts.toml\"\n\n\
             [queue]\ndirectory = \"queue\"\nminimum_free = \"1MiB\"\n\n{settings}"
        );
        std::fs::write(folder.path().join("gatepost.toml"), config).unwrap();
        for account in accounts {
            add_account(folder.path(), *account);
        }
        Self::start(Arc::new(folder), &["serve"])
    }

    /// Starts `gatepost try` on free ports.
    pub(crate) fn try_out() -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let arguments = ["try", "--starttls-port", "0", "--implicit-port", "0"];
        Self::start(folder, &arguments)
    }

    fn start(folder: Arc<tempfile::TempDir>, arguments: &[&str]) -> Self {
        let mut process = command(folder.path(), arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Lines::of(process.stderr.take().unwrap());
        let output = Lines::of(process.stdout.take().unwrap());
        let unknown = SocketAddr::from(([0; 4], 0));
        let mut daemon = Self {
            process,
            folder,
            log,
            output,
            starttls: unknown,
            implicit: unknown,
        };
        let ready = daemon.log.wait(0, &["event=ready"]);
        let listeners = field(&ready, "listeners").unwrap();
        let port = |tls| {
            let mut listeners = listeners.split(',').filter_map(|one| one.split_once('/'));
            let (address, _) = listeners.find(|(_, how)| *how == tls).unwrap();
            address.parse().unwrap()
        };
        (daemon.starttls, daemon.implicit) = (port("starttls"), port("implicit"));
        daemon
    }

    /// Its number.
    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate, which is its own authority: what clients are told to trust.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder().join("certificate.pem")
    }

    /// Runs a `gatepost` command beside the running daemon, on the same configuration.
    pub(crate) fn gatepost(&self, arguments: &[&str]) -> Output {
        command(self.folder(), arguments).output().unwrap()
    }

    /// Runs a `gatepost` command that has to succeed, and gives what it prints.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        String::from_utf8(succeeded(arguments, self.gatepost(arguments))).unwrap()
    }

    /// Gives an account a password of which this is kept, and waits until that is in force.
    pub(crate) fn set_password(&self, name: &str, password: &str, store: &str) {
        let mark = self.log.mark();
        let arguments = [
            "account",
            "password",
            name,
            "--password-stdin",
            "--store",
            store,
        ];
        done_with_input(self.folder(), &arguments, password);
        self.log.wait(mark, &["event=reload", "what=accounts"]);
    }

    /// Adds an account as an operator does, while the daemon runs or before.
    pub(crate) fn add_account(&self, account: NewAccount<'_>) {
        add_account(self.folder(), account);
    }

    /// The path of one message's file in `ready/` or `hold/`.
    pub(crate) fn file(&self, place: &str, id: &str, extension: &str) -> PathBuf {
        let name = format!("queue/{place}/{id}.{extension}");
        self.folder().join(name)
    }

    /// Stops it, and starts `gatepost serve` on the same folder.
    pub(crate) fn restart(self) -> Self {
        let folder = Arc::clone(&self.folder);
        self.stop();
        Self::start(folder, &["serve"])
    }

    /// Has it read everything anew.
    pub(crate) fn hang_up(&self) {
        let id = self.process.id().to_string();
        let status = Command::new("kill").args(["-HUP", &id]).status().unwrap();
        assert!(status.success());
    }

    /// Ends it with SIGTERM and waits for its end.
    pub(crate) fn stop(mut self) {
        let id = self.process.id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(status.success());
        self.log.wait(0, &["event=stopped"]);
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            println!("the log of gatepost:");
            for line in self.log.since(0) {
                println!("  {line}");
            }
        }
    }
}

/// The value of `name` in a log line. It must have no blank in it.
pub(crate) fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    line.split(' ')
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// A `gatepost` command in `folder`, on its `gatepost.toml`.
pub(crate) fn command(folder: &Path, arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(program());
    command
        .args(arguments)
        .current_dir(folder)
        .env("GATEPOST_CONFIG", folder.join("gatepost.toml"));
    command
}

fn add_account(folder: &Path, (name, password, send_as): NewAccount<'_>) {
    let mut arguments = vec!["account", "add", name, "--password-stdin"];
    for pattern in send_as {
        arguments.extend(["--send-as", pattern]);
    }
    done_with_input(folder, &arguments, password);
}

/// Runs a `gatepost` command that reads one line and has to succeed; what it prints.
fn done_with_input(folder: &Path, arguments: &[&str], line: &str) -> Vec<u8> {
    let mut process = command(folder, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    input.write_all(format!("{line}\n").as_bytes()).unwrap();
    drop(input);
    succeeded(arguments, process.wait_with_output().unwrap())
}

/// What a process that has to succeed printed.
pub(crate) fn succeeded(what: &[impl std::fmt::Debug], output: Output) -> Vec<u8> {
    assert!(
        output.status.success(),
        "{what:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
