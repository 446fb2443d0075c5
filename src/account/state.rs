//! What the accounts room remembers across restarts, in a small JSON file of its own: when each secret was last used,
//! and the key from which made-up salts come ([`scram`](super::scram)).
//!
//! The accounts file is the operator's and is not written for this. After a crash the logins of the last seconds are
//! forgotten; a file that cannot be read is put aside, and everything begins anew. Memory is bounded by the number of
//! accounts and credentials: what is not in the accounts file any more is forgotten at the next save.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::diagnostic::Finding;

/// The name of the file, in the queue directory.
pub const STATE_FILE: &str = "logins.json";
/// The version of the file that this program writes.
const STATE_VERSION: u32 = 1;
/// Octets in a state file: more accounts than an accounts file can have.
const STATE_BYTES_MAX: u64 = 64 << 20;
/// How exactly the last use is remembered. A program that logs in for every message makes one write of it.
const PRECISION: SignedDuration = SignedDuration::from_mins(1);
/// Octets in the key of made-up salts.
const KEY_BYTES: usize = 32;

/// Which secret of which account: the account's name, and the credential's; an empty one is the account's password.
type Login = (String, String);

/// What is remembered. Shared by all threads.
pub struct LoginState {
    /// `None`: kept in memory only.
    file: Option<PathBuf>,
    salt_key: Zeroizing<[u8; KEY_BYTES]>,
    state: Mutex<State>,
    /// Held while the file is written, so that an older state never replaces a newer one.
    saving: Mutex<()>,
}

#[derive(Default)]
struct State {
    last_used: HashMap<Login, Timestamp>,
    /// Counts the changes.
    changes: u64,
    /// The change that was saved last.
    saved: u64,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    salt_key: String,
    /// By account, then by credential.
    last_used: BTreeMap<String, BTreeMap<String, Timestamp>>,
}

impl LoginState {
    /// A state that begins anew, in memory only.
    pub fn in_memory() -> Self {
        let mut salt_key = Zeroizing::new([0; KEY_BYTES]);
        if getrandom::fill(salt_key.as_mut_slice()).is_err() {
            // Without randomness there is no nonce either, and so no login that would need a salt.
            salt_key.fill(0);
        }
        Self {
            file: None,
            salt_key,
            state: Mutex::default(),
            saving: Mutex::default(),
        }
    }

    /// Takes up the state in the file at `path`, if there is one. A file that cannot be read is put aside as
    /// `logins.json.broken` (after its own name) and reported in a warning. Blocks on the disk.
    pub fn open(path: &Path) -> (Self, Vec<Finding>) {
        let (state, finding) = Self::look_into(path);
        let Some(finding) = finding else {
            return (state, Vec::new());
        };
        let aside = with_suffix(path, ".broken");
        let hint = match put_aside(path, &aside) {
            Ok(()) => format!("the broken file is kept as {}", aside.display()),
            Err(error) => format!("the broken file will be overwritten: {error}"),
        };
        (state, vec![finding.hint(hint)])
    }

    /// The same for whoever only looks: nothing on the disk is touched.
    pub fn look_into(path: &Path) -> (Self, Option<Finding>) {
        let mut state = Self {
            file: Some(path.to_owned()),
            // A new key is worth saving at once.
            state: Mutex::new(State {
                changes: 1,
                ..State::default()
            }),
            ..Self::in_memory()
        };
        match read(path) {
            Ok((salt_key, last_used)) => {
                state.salt_key = salt_key;
                state.state = Mutex::new(State {
                    last_used,
                    ..State::default()
                });
                (state, None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (state, None),
            Err(error) => {
                let message = format!("cannot read when logins were last used: {error}");
                (state, Some(Finding::warning(message).in_file(path)))
            }
        }
    }

    /// The key of made-up salts.
    pub(super) fn salt_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.salt_key.as_slice())
    }

    /// A login with this secret succeeded; `credential` is empty for the account's own password.
    pub(super) fn used(&self, account: &str, credential: &str, at: Timestamp) {
        let mut state = self.lock();
        let login = (account.to_owned(), credential.to_owned());
        match state.last_used.get(&login) {
            Some(last) if at >= *last && at.duration_since(*last) < PRECISION => {}
            _ => {
                state.last_used.insert(login, at);
                state.changes += 1;
            }
        }
    }

    /// When this secret was last used; `credential` is empty for the account's own password.
    pub fn last_used(&self, account: &str, credential: &str) -> Option<Timestamp> {
        let key = (account.to_owned(), credential.to_owned());
        self.lock().last_used.get(&key).copied()
    }

    /// Writes the state to its file, if anything changed since the last time, and says whether it did. Secrets for
    /// which `exists` is false are forgotten. After an error the next call tries again. Blocks on the disk.
    pub(super) fn save(&self, exists: impl Fn(&str, &str) -> bool) -> io::Result<bool> {
        let Some(path) = &self.file else {
            return Ok(false);
        };
        let _one_at_a_time = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, change) = {
            let mut state = self.lock();
            if state.changes == state.saved {
                return Ok(false);
            }
            state
                .last_used
                .retain(|(account, credential), _| exists(account, credential));
            let mut last_used: BTreeMap<String, BTreeMap<String, Timestamp>> = BTreeMap::new();
            for ((account, credential), at) in &state.last_used {
                let of_account = last_used.entry(account.clone()).or_default();
                of_account.insert(credential.clone(), *at);
            }
            let file = StateFile {
                version: STATE_VERSION,
                salt_key: BASE64_STANDARD.encode(self.salt_key.as_slice()),
                last_used,
            };
            (file, state.changes)
        };
        replace(path, &serde_json::to_vec(&file)?)?;
        self.lock().saved = change;
        Ok(true)
    }

    /// A panic under the lock leaves a state that is one login behind at most.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Content = (Zeroizing<[u8; KEY_BYTES]>, HashMap<Login, Timestamp>);

fn read(path: &Path) -> io::Result<Content> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut octets = Zeroizing::new(Vec::new());
    File::open(path)?
        .take(STATE_BYTES_MAX + 1)
        .read_to_end(&mut octets)?;
    if octets.len() as u64 > STATE_BYTES_MAX {
        return Err(invalid(format!(
            "larger than {} MiB",
            STATE_BYTES_MAX >> 20
        )));
    }
    // What serde says may repeat what it has read, and that may be the key.
    let file: StateFile = serde_json::from_slice(&octets).map_err(|error| {
        invalid(format!(
            "not as gatepost writes it (line {}, column {})",
            error.line(),
            error.column()
        ))
    })?;
    if file.version != STATE_VERSION {
        return Err(invalid(format!("unknown version {}", file.version)));
    }
    let salt_key = BASE64_STANDARD
        .decode(&file.salt_key)
        .ok()
        .and_then(|key| <[u8; KEY_BYTES]>::try_from(key).ok())
        .ok_or_else(|| invalid("salt_key is damaged".to_owned()))?;
    let mut last_used = HashMap::new();
    for (account, credentials) in file.last_used {
        for (credential, at) in credentials {
            last_used.insert((account.clone(), credential), at);
        }
    }
    Ok((Zeroizing::new(salt_key), last_used))
}

/// Replaces the file at `path` in one step. The data is synced before the rename, so that after a crash there is the
/// old state or the new one; the directory is not, because either will do.
#[expect(
    clippy::disallowed_methods,
    reason = "the state of logins is replaced in one step"
)]
fn replace(path: &Path, octets: &[u8]) -> io::Result<()> {
    let temporary = with_suffix(path, ".new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(octets)?;
    file.sync_data()?;
    std::fs::rename(&temporary, path)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a broken state of logins is kept for whoever wants to know"
)]
fn put_aside(path: &Path, aside: &Path) -> io::Result<()> {
    std::fs::rename(path, aside)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Now;

    #[test]
    fn a_restart_forgets_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(STATE_FILE);
        let now = Now::read().wall;
        let (state, findings) = LoginState::open(&path);
        assert_eq!(findings, []);
        state.used("alice@example.org", "", now);
        state.used("alice@example.org", "scanner", now);
        state.used("gone@example.org", "", now);
        assert!(
            state
                .save(|account, _| account != "gone@example.org")
                .unwrap()
        );
        assert!(
            !state.save(|_, _| true).unwrap(),
            "nothing has changed since"
        );
        let (again, findings) = LoginState::open(&path);
        assert_eq!(findings, []);
        assert_eq!(again.last_used("alice@example.org", "scanner"), Some(now));
        assert_eq!(again.last_used("alice@example.org", "other"), None);
        assert_eq!(again.last_used("gone@example.org", ""), None);
        assert_eq!(again.salt_key, state.salt_key);
        let (fresh, _) = LoginState::open(&directory.path().join("other.json"));
        assert_ne!(fresh.salt_key, state.salt_key);
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        // The next login of the same program is no news, one a minute later is; and a clock may be set back.
        let seconds = |seconds| now + SignedDuration::from_secs(seconds);
        for (at, saved) in [(59, false), (60, true), (0, true)] {
            state.used("alice@example.org", "scanner", seconds(at));
            assert_eq!(state.save(|_, _| true).unwrap(), saved, "{at}");
        }
    }

    #[test]
    fn a_broken_file_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(STATE_FILE);
        for broken in [
            "",
            "{",
            r#"{"version":2,"salt_key":"","last_used":{}}"#,
            r#"{"version":1,"salt_key":"AAAA","last_used":{}}"#,
        ] {
            std::fs::write(&path, broken).unwrap();
            let (_, finding) = LoginState::look_into(&path);
            assert!(
                finding.is_some() && path.exists(),
                "looking touches nothing"
            );
            let (state, findings) = LoginState::open(&path);
            assert_eq!(findings.len(), 1, "{broken}");
            assert!(!findings[0].is_error() && !path.exists());
            assert!(state.save(|_, _| true).unwrap());
            assert!(LoginState::open(&path).1.is_empty());
        }
    }
}
