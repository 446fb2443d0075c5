//! Landlock: which files the process can still reach, and that it connects to nobody, unless that is needed.
//!
//! Rules are for whole directories, since files get replaced: a rule for a file ends with that file. Directories that
//! everything is in (`/etc`, `/tmp`) are not opened for the sake of one file.
//!
//! Nothing can be executed. Ports can still be bound, since a reload may bring new ones; a port that listens gives
//! nobody's secrets away. What Landlock does not look at are the mode and owner of files, and their mere existence.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope, make_bitflags,
};

use super::Needs;

/// The newest kind of Landlock whose rights are meant here. What the kernel lacks of it is left out; what newer kernels
/// add, nobody has tried yet.
const KNOWN: ABI = ABI::V6;

/// Directories that many programs share. Their content is nobody's in particular, so one of our files in them is no
/// reason to let anybody at the rest.
const SHARED_DIRECTORIES: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/usr/local/bin",
    "/usr/local/etc",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/lib",
    "/var/spool",
    "/var/tmp",
];

/// What the process itself reads, where it is there: which boot this is (the journal asks), and randomness.
const SYSTEM: &[&str] = &[
    "/dev/sysgenid",
    "/dev/urandom",
    "/proc/sys/kernel/random/boot_id",
    "/sys/devices/system/cpu/online",
];

/// What it takes to look up a name (with whatever library /etc/nsswitch.conf asks for), and to trust somebody's
/// certificate.
const NETWORK_CLIENT: &[&str] = &[
    "/etc/ca-certificates",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/pki",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl",
    "/lib",
    "/lib64",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/share/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/share/pki",
];

/// What can be done with a file or below a directory. Each includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    Read,
    Replace,
    Own,
}

impl Reach {
    fn rights(self, is_directory: bool) -> BitFlags<AccessFs> {
        let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        let replace =
            read | make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | RemoveFile});
        let rights = match self {
            Self::Read => read,
            Self::Replace => replace,
            Self::Own => {
                replace | make_bitflags!(AccessFs::{MakeDir | MakeSock | RemoveDir | Refer})
            }
        };
        match is_directory {
            true => rights,
            false => rights & AccessFs::from_file(KNOWN),
        }
    }
}

/// One file, or one directory with all below it.
pub(super) struct Grant {
    /// Without links in it.
    path: PathBuf,
    is_directory: bool,
    reach: Reach,
    /// Opened without the right to read it.
    handle: PathFd,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.reach, self.path.display())
    }
}

/// What is needed, as far as it is there; and the files that are let in without their directory.
pub(super) fn grants(needs: &Needs) -> (Vec<Grant>, Vec<PathBuf>) {
    let mut grants = Vec::new();
    let mut alone = Vec::new();
    let mut add = |path: &Path, reach| {
        let Ok(path) = fs::canonicalize(path) else {
            return;
        };
        if let Ok(handle) = PathFd::new(&path) {
            let is_directory = path.is_dir();
            grants.push(Grant {
                path,
                is_directory,
                reach,
                handle,
            });
        }
    };
    for (file, reach) in files(needs) {
        for place in places(file) {
            match place {
                Place::Directory(directory) => add(&directory, reach),
                Place::Shared(path) => {
                    add(&path, Reach::Read);
                    alone.push(path);
                }
            }
        }
    }
    for directory in &needs.own {
        add(directory, Reach::Own);
    }
    let network_client = match needs.network_client {
        true => NETWORK_CLIENT,
        false => &[],
    };
    for path in [SYSTEM, network_client].concat() {
        add(Path::new(path), Reach::Read);
    }
    // Where the operator keeps certificates of authorities instead.
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        if let (true, Some(path)) = (needs.network_client, std::env::var_os(name)) {
            add(Path::new(&path), Reach::Read);
        }
    }
    alone.sort();
    alone.dedup();
    (grants, alone)
}

fn files(needs: &Needs) -> impl Iterator<Item = (&PathBuf, Reach)> {
    needs
        .read
        .iter()
        .map(|file| (file, Reach::Read))
        .chain(needs.replace.iter().map(|file| (file, Reach::Replace)))
}

/// Where a file is to be let in.
enum Place {
    Directory(PathBuf),
    /// In a directory that is not ours to open.
    Shared(PathBuf),
}

/// Where the name of `file` is, and where the file is that it is a link to: certbot's `live/NAME/fullchain.pem` is a
/// link to `archive/NAME/fullchain7.pem`, and the next one is beside either.
fn places(file: &Path) -> Vec<Place> {
    let real = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let place = |path: &Path| {
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        let directory = fs::canonicalize(directory).ok()?;
        Some(
            match SHARED_DIRECTORIES
                .iter()
                .any(|shared| directory == Path::new(shared))
            {
                true => Place::Shared(path.to_owned()),
                false => Place::Directory(directory),
            },
        )
    };
    [file, &real].into_iter().filter_map(place).collect()
}

/// What of `needs` is not in reach, with what was wanted of it. What is not there at all is not named.
pub(super) fn outside(grants: &[Grant], needs: &Needs) -> Vec<(PathBuf, Reach)> {
    let within = |path: &Path, reach: Reach| {
        grants.iter().any(|grant| {
            let covers = match grant.is_directory {
                true => path.starts_with(&grant.path),
                false => path == grant.path,
            };
            covers && grant.reach >= reach
        })
    };
    let own = needs.own.iter().map(|directory| (directory, Reach::Own));
    files(needs)
        .chain(own)
        .filter(|(path, reach)| fs::canonicalize(path).is_ok_and(|real| !within(&real, *reach)))
        .map(|(path, reach)| (path.clone(), reach))
        .collect()
}

/// Puts the rules into force for this thread: what is, or why nothing is.
pub(super) fn confine(grants: &[Grant], network_client: bool) -> Result<String, String> {
    let status = restrict(grants, network_client).map_err(|fault| match fault {
        Fault::None => "no landlock in this kernel".to_owned(),
        Fault::Old => "no landlock that lets files be moved in this kernel".to_owned(),
        Fault::Refused(error) => format!("no landlock ({error})"),
    })?;
    match (status.ruleset, status.landlock) {
        (
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
            LandlockStatus::Available {
                effective_abi,
                kernel_abi,
            },
        ) => {
            let abi = kernel_abi.unwrap_or(effective_abi as i32);
            Ok(format!("landlock abi {abi}"))
        }
        _ => Err("no landlock in this kernel".to_owned()),
    }
}

enum Fault {
    None,
    Old,
    Refused(RulesetError),
}

impl From<RulesetError> for Fault {
    fn from(error: RulesetError) -> Self {
        Self::Refused(error)
    }
}

fn restrict(grants: &[Grant], network_client: bool) -> Result<RestrictionStatus, Fault> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Execute)
        .map_err(|_| Fault::None)?
        // Its first kind forbids to move files from one directory to another, which is what the queue does.
        .handle_access(AccessFs::Refer)
        .map_err(|_| Fault::Old)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .scope(Scope::Signal | Scope::AbstractUnixSocket)?;
    if !network_client {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    let mut ruleset = ruleset.create()?;
    for grant in grants {
        let rights = grant.reach.rights(grant.is_directory);
        ruleset = ruleset.add_rule(PathBeneath::new(&grant.handle, rights))?;
    }
    Ok(ruleset.restrict_self()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn shown(place: &Place, root: &Path) -> String {
        let (kind, path) = match place {
            Place::Directory(path) => ("all of", path),
            Place::Shared(path) => ("only", path),
        };
        let path = path.strip_prefix(root).unwrap_or(path);
        format!("{kind} {}", path.display())
    }

    #[test]
    fn a_link_is_let_in_on_both_ends() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        for directory in ["live", "archive"] {
            fs::create_dir(root.join(directory)).unwrap();
        }
        fs::write(root.join("archive/chain1.pem"), "").unwrap();
        symlink("../archive/chain1.pem", root.join("live/chain.pem")).unwrap();
        let found = |name: &Path| -> Vec<String> {
            let places = places(name);
            places.iter().map(|place| shown(place, &root)).collect()
        };
        let link = found(&root.join("live/chain.pem"));
        assert_eq!(link, ["all of live", "all of archive"]);
        // One that is not there yet may come.
        let to_come = found(&root.join("live/key.pem"));
        assert_eq!(to_come, ["all of live", "all of live"]);
        assert_eq!(
            found(Path::new("/etc/gatepost.toml"))[0],
            "only /etc/gatepost.toml"
        );
        assert_eq!(
            found(Path::new("/etc/../etc/passwd"))[0],
            "only /etc/../etc/passwd"
        );
        assert!(found(&root.join("nowhere/key.pem")).is_empty());
    }

    #[test]
    fn what_is_outside_is_known_beforehand() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for directory in ["etc", "queue", "elsewhere"] {
            fs::create_dir(path(directory)).unwrap();
        }
        for file in ["etc/accounts.toml", "etc/key.pem", "elsewhere/key.pem"] {
            fs::write(path(file), "").unwrap();
        }
        let needs = |read: &[&str], replace: &[&str]| Needs {
            read: read.iter().map(|name| path(name)).collect(),
            replace: replace.iter().map(|name| path(name)).collect(),
            own: vec![path("queue")],
            network_client: false,
        };
        let (grants, alone) = grants(&needs(&["etc/accounts.toml"], &[]));
        assert!(alone.is_empty());
        let check = |needs: &Needs, expected: &[(&str, Reach)]| {
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, reach)| (path(name), *reach))
                .collect();
            assert_eq!(outside(&grants, needs), expected);
        };
        check(
            &needs(&["etc/accounts.toml", "etc/key.pem", "etc/missing"], &[]),
            &[],
        );
        check(
            &needs(&["elsewhere/key.pem"], &[]),
            &[("elsewhere/key.pem", Reach::Read)],
        );
        check(
            &needs(&[], &["etc/accounts.toml"]),
            &[("etc/accounts.toml", Reach::Replace)],
        );
        // The same name, and another file behind it.
        fs::remove_file(path("etc/key.pem")).unwrap();
        symlink("../elsewhere/key.pem", path("etc/key.pem")).unwrap();
        check(
            &needs(&["etc/key.pem"], &[]),
            &[("etc/key.pem", Reach::Read)],
        );
    }
}
