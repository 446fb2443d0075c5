//! Who the process is: finding the user that the operator names, and becoming it for good.

use std::ffi::CString;
use std::fs::{Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getresgid, getresuid, initgroups, setgroups,
    setresgid, setresuid, setuid,
};

use super::ProcessSettings;
use crate::diagnostic::Finding;

/// A user to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As the operator wrote it.
    name: String,
    /// Its name among the users; `None`: it is only a number.
    login: Option<CString>,
    uid: Uid,
    gid: Gid,
    /// Whether the operator named the group, too.
    group_counts: bool,
}

/// Why that is impossible.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A step did not work, or did not do what it should have.
    #[error("cannot become user {user}: {step}: {reason}")]
    Failed {
        /// As whom.
        user: String,
        /// Which step.
        step: &'static str,
        /// What the system said, or what came of it.
        reason: String,
    },
    /// The list of users or groups cannot be read.
    #[error("cannot look up {kind} \"{name}\": {errno}")]
    Lookup {
        /// `user` or `group`.
        kind: &'static str,
        /// Which.
        name: String,
        /// What the system said.
        errno: Errno,
    },
    /// A number that is no known user has no group of its own.
    #[error("user {user} is a number that no user has, so its group is unknown")]
    NoGroup {
        /// The number.
        user: String,
    },
    /// Only root can become somebody else.
    #[error("only root can become user {user} (with group {group}); gatepost was started by {by}")]
    NotRoot {
        /// Who was wanted.
        user: String,
        /// With which group.
        group: Gid,
        /// Who it is.
        by: String,
    },
    /// There is no such user or group.
    #[error("there is no {kind} \"{name}\"")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// Which.
        name: String,
    },
}

impl IdentityError {
    /// What an operator can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Failed { .. } => {
                "in a container, let gatepost have CAP_SETUID and CAP_SETGID, or start it as that user".to_owned()
            }
            Self::Lookup { .. } => "write the number of the user or group".to_owned(),
            Self::NoGroup { .. } => "name a group as well".to_owned(),
            Self::NotRoot { .. } => {
                "start it as root, or as that user (systemd: User=); or leave `user` and `group` out".to_owned()
            }
            Self::Unknown { kind: "group", name } => format!("groupadd --system {name}"),
            Self::Unknown { name, .. } => format!(
                "useradd --system --user-group --home-dir /nonexistent --shell /usr/sbin/nologin {name}"
            ),
        }
    }
}

impl Identity {
    /// The user and group of the settings, if they name any. Reads the system's lists of users and groups.
    pub fn find(settings: &ProcessSettings) -> Result<Option<Self>, IdentityError> {
        let Some(name) = &settings.user else {
            return Ok(None);
        };
        let found = look_up("user", name, User::from_name, |number| {
            User::from_uid(Uid::from_raw(number))
        })?;
        let (uid, login, own_group) = match found {
            Found::Known(user) => (user.uid, CString::new(user.name).ok(), Some(user.gid)),
            Found::Number(number) => {
                let uid = Uid::from_raw(number);
                // As in a container that knows no users.
                (uid, None, (uid == geteuid()).then(getegid))
            }
        };
        let gid = match &settings.group {
            None => own_group.ok_or_else(|| IdentityError::NoGroup { user: name.clone() })?,
            Some(group) => {
                let found = look_up("group", group, Group::from_name, |number| {
                    Group::from_gid(Gid::from_raw(number))
                })?;
                match found {
                    Found::Known(group) => group.gid,
                    Found::Number(number) => Gid::from_raw(number),
                }
            }
        };
        let identity = Self {
            name: name.clone(),
            login,
            uid,
            gid,
            group_counts: settings.group.is_some(),
        };
        if !geteuid().is_root() && !identity.is_in_force() {
            return Err(IdentityError::NotRoot {
                user: identity.name,
                group: gid,
                by: current(),
            });
        }
        Ok(Some(identity))
    }

    /// As the operator wrote it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user and the group, as `chown` takes them.
    pub fn with_group(&self) -> String {
        match Group::from_gid(self.gid) {
            Ok(Some(group)) => format!("{}:{}", self.name, group.name),
            _ => format!("{}:{}", self.name, self.gid),
        }
    }

    /// Whether this user owns the file.
    pub fn owns(&self, file: &Metadata) -> bool {
        file.uid() == self.uid.as_raw()
    }

    /// Makes this user and group the owners of a file or directory. Takes root, unless they are already.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        let metadata = std::fs::symlink_metadata(path)?;
        if self.owns(&metadata) && metadata.gid() == self.gid.as_raw() {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
    }

    /// Lets this user's group read a file.
    pub fn let_read(&self, path: &Path) -> io::Result<()> {
        std::os::unix::fs::lchown(path, None, Some(self.gid.as_raw()))?;
        let mode = std::fs::metadata(path)?.mode();
        std::fs::set_permissions(path, Permissions::from_mode(mode & 0o7777 | 0o040))
    }

    fn is_in_force(&self) -> bool {
        let user = getresuid().is_ok_and(|is| [is.real, is.effective, is.saved] == [self.uid; 3]);
        user && (!self.group_counts || getegid() == self.gid)
    }

    /// Becomes this user, with its groups, and makes sure that there is no way back.
    ///
    /// Root gives up everything that it could. Who is this user already keeps the groups that it has.
    pub fn assume(&self) -> Result<(), IdentityError> {
        if self.is_in_force() {
            return Ok(());
        }
        let failed = |step, reason: String| IdentityError::Failed {
            user: self.name.clone(),
            step,
            reason,
        };
        let call = |step, result: nix::Result<()>| {
            result.map_err(|errno| failed(step, errno.desc().to_owned()))
        };
        // The groups first: afterwards there is no right to change them.
        let groups = match &self.login {
            Some(login) => initgroups(login, self.gid),
            None => setgroups(&[self.gid]),
        };
        call("taking its groups", groups)?;
        call("taking its group", setresgid(self.gid, self.gid, self.gid))?;
        call("taking its number", setresuid(self.uid, self.uid, self.uid))?;

        let groups = getresgid().is_ok_and(|is| [is.real, is.effective, is.saved] == [self.gid; 3]);
        if !groups || !self.is_in_force() {
            return Err(failed(
                "looking at the result",
                "it is not that user".to_owned(),
            ));
        }
        if !self.uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
            return Err(failed(
                "looking at the result",
                "it can be root again".to_owned(),
            ));
        }
        Ok(())
    }
}

/// The name of who this process is, or its number.
pub fn current() -> String {
    name_of(geteuid().as_raw())
}

/// The name of a user, or the number where it has none.
pub fn name_of(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

/// The warning for root where it has not been asked for.
pub fn root_finding(settings: &ProcessSettings) -> Option<Finding> {
    (settings.user.is_none() && geteuid().is_root()).then(|| {
        Finding::warning("gatepost runs as root, and stays root: a hole in it would be the whole machine's")
            .hint("user = \"gatepost\" at the top of the configuration; root is only needed to bind and to read keys")
    })
}

enum Found<T> {
    Known(T),
    /// Nobody's in particular.
    Number(u32),
}

/// Finds by name, else by number.
fn look_up<T>(
    kind: &'static str,
    name: &str,
    by_name: impl FnOnce(&str) -> nix::Result<Option<T>>,
    by_number: impl FnOnce(u32) -> nix::Result<Option<T>>,
) -> Result<Found<T>, IdentityError> {
    let fault = |errno| IdentityError::Lookup {
        kind,
        name: name.to_owned(),
        errno,
    };
    if let Some(found) = by_name(name).map_err(fault)? {
        return Ok(Found::Known(found));
    }
    let Ok(number) = name.parse() else {
        return Err(IdentityError::Unknown {
            kind,
            name: name.to_owned(),
        });
    };
    Ok(by_number(number)
        .map_err(fault)?
        .map_or(Found::Number(number), Found::Known))
}
