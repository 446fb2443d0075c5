//! Who is contained: accounts, and credentials of accounts, that are stopped because somebody else seems to use them.
//!
//! Whoever is contained cannot log in and cannot send, and what it has in the queue is held; all of that is done
//! elsewhere, by those who ask here. It stays so until the operator undoes it, across restarts and crashes: the file is
//! written, durably, before anybody hears that it is so. A file that cannot be read stops the start, since those who
//! are in it must not come in again by accident.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clock::{Now, Timestamp};
use crate::decision::Account;
use crate::diagnostic::Finding;
use crate::kept::{Kept, damaged};

/// The name of the file, in the queue directory.
pub const CONTAINED_FILE: &str = "contained.json";
/// The version of the file that this program writes.
const STATE_VERSION: u32 = 1;

/// Who can be contained.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Login {
    /// The account, in its compared form.
    pub account: String,
    /// One of its credentials; `None`: all of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl Login {
    /// All that this account, or this credential of it, is logged in as.
    pub fn new(account: impl Into<String>, credential: Option<String>) -> Self {
        Self {
            account: account.into(),
            credential,
        }
    }

    /// Whether a login with this credential (`None`: the account's own password) is one of these.
    pub fn covers(&self, account: &str, credential: Option<&str>) -> bool {
        self.account == account
            && (self.credential.is_none() || self.credential.as_deref() == credential)
    }
}

/// Who contained it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// `gatepost contain`.
    Operator,
    /// A trip wire.
    Tripwire,
}

impl By {
    /// The word that the log and the file have for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Tripwire => "tripwire",
        }
    }
}

/// Since when somebody is contained, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Since when, in milliseconds since 1970.
    since: i64,
    /// Who wanted it.
    pub by: By,
    /// For the operator to read.
    pub reason: String,
}

impl Cause {
    /// From now on.
    pub fn new(by: By, reason: impl Into<String>, now: Now) -> Self {
        Self {
            since: now.wall.as_millisecond(),
            by,
            reason: reason.into(),
        }
    }

    /// Since when.
    pub fn since(&self) -> Timestamp {
        Timestamp::from_millisecond(self.since).unwrap_or_default()
    }
}

/// Who is contained. Shared by all threads.
#[derive(Debug, Default)]
pub struct Containment {
    kept: Kept<Logins>,
    /// Held by whoever brings the queue in line with it.
    turn: Mutex<()>,
}

type Logins = BTreeMap<Login, Cause>;

impl Containment {
    /// Takes up what is in the file at `path`, if there is one. The finding is an error: nobody knows who is contained.
    /// Blocks on the disk.
    pub fn open(path: &Path) -> Result<Self, Finding> {
        let loss = "cannot read who is contained";
        let (kept, finding) =
            Kept::look_into(path, STATE_VERSION, loss, Logins::default, |file: File| {
                let count = file.contained.len();
                let logins: Logins = file
                    .contained
                    .into_iter()
                    .map(|Entry { login, cause }| (login, cause))
                    .collect();
                match logins.len() == count {
                    true => Ok(logins),
                    false => Err(damaged("names somebody twice")),
                }
            });
        match finding {
            None => Ok(Self {
                kept,
                turn: Mutex::default(),
            }),
            Some(finding) => Err(Finding::error(finding.message).in_file(path).hint(
                "put it right, or remove it and contain again whom the log names (event=contained)",
            )),
        }
    }

    /// To be held while the queue is brought in line with who is contained: one who contains and one who ends that would
    /// move the same messages to and fro. Not to be waited for on a thread that others wait for.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this login is contained: its account, or its credential.
    pub fn holds(&self, account: &str, credential: Option<&str>) -> bool {
        let logins = self.kept.lock();
        !logins.is_empty() && logins.keys().any(|login| login.covers(account, credential))
    }

    /// Whether what somebody is logged in as is contained.
    pub fn holds_login(&self, login: &Account) -> bool {
        self.holds(&login.name, login.credential_name())
    }

    /// Contains somebody, in memory: [`save`](Self::save) comes next. False if that was so before; then the first
    /// cause stays.
    pub fn add(&self, login: &Login, cause: Cause) -> bool {
        let mut logins = self.kept.lock();
        if logins.contains_key(login) {
            return false;
        }
        logins.insert(login.clone(), cause);
        logins.changed();
        true
    }

    /// Ends a containment, in memory, and says which: of an account as a whole, those of its credentials too.
    pub fn remove(&self, login: &Login) -> Vec<(Login, Cause)> {
        let mut logins = self.kept.lock();
        let mut ended = Vec::new();
        logins.retain(|contained, cause| {
            let ends = login.covers(&contained.account, contained.credential.as_deref());
            if ends {
                ended.push((contained.clone(), cause.clone()));
            }
            !ends
        });
        if !ended.is_empty() {
            logins.changed();
        }
        ended
    }

    /// Who is contained, and why.
    pub fn list(&self) -> Vec<(Login, Cause)> {
        let logins = self.kept.lock();
        let both = |(login, cause): (&Login, &Cause)| (login.clone(), cause.clone());
        logins.iter().map(both).collect()
    }

    /// Writes who is contained, if that has changed, and waits until it is durable. After an error the next call tries
    /// again. Blocks on the disk.
    pub fn save(&self) -> io::Result<bool> {
        self.kept.save_durably(|logins| File {
            version: STATE_VERSION,
            contained: logins
                .iter()
                .map(|(login, cause)| Entry {
                    login: login.clone(),
                    cause: cause.clone(),
                })
                .collect(),
        })
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    contained: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    login: Login,
    #[serde(flatten)]
    cause: Cause,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause() -> Cause {
        Cause::new(By::Operator, "by hand", Now::read())
    }

    fn login(account: &str, credential: Option<&str>) -> Login {
        Login::new(account, credential.map(str::to_owned))
    }

    #[test]
    fn an_account_is_more_than_its_credentials() {
        let containment = Containment::default();
        assert!(containment.add(&login("a", Some("phone")), cause()));
        assert!(!containment.add(&login("a", Some("phone")), cause()));
        assert!(containment.holds("a", Some("phone")));
        assert!(!containment.holds("a", Some("laptop")));
        assert!(!containment.holds("a", None));
        assert!(!containment.holds("b", Some("phone")));
        assert!(containment.add(&login("a", None), cause()));
        assert!(containment.holds("a", Some("laptop")));
        assert!(containment.holds("a", None));
        assert_eq!(containment.remove(&login("a", Some("laptop"))), []);
        assert_eq!(containment.remove(&login("a", Some("phone"))).len(), 1);
        assert!(containment.holds("a", Some("phone")), "by its account");
        containment.add(&login("a", Some("phone")), cause());
        containment.add(&login("b", None), cause());
        assert_eq!(containment.remove(&login("a", None)).len(), 2);
        assert!(!containment.holds("a", Some("phone")));
        assert_eq!(containment.list().len(), 1);
    }

    #[test]
    fn a_restart_forgets_nobody_and_a_broken_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(CONTAINED_FILE);
        let containment = Containment::open(&path).unwrap();
        assert!(!containment.save().unwrap());
        containment.add(&login("a", None), cause());
        containment.add(&login("b", Some("phone")), cause());
        assert!(containment.save().unwrap());
        let again = Containment::open(&path).unwrap();
        assert_eq!(again.list(), containment.list());
        again.remove(&login("a", None));
        assert!(again.save().unwrap());
        assert_eq!(Containment::open(&path).unwrap().list().len(), 1);

        let written = std::fs::read_to_string(&path).unwrap();
        for broken in ["", "{", &written[..written.len() - 2]] {
            std::fs::write(&path, broken).unwrap();
            let finding = Containment::open(&path).unwrap_err();
            assert!(finding.is_error());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), broken, "untouched");
        }
    }
}
