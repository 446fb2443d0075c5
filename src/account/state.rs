//! What the accounts room remembers across restarts, in a small JSON file of its own: when each secret was last used,
//! and the key from which made-up salts come ([`scram`](super::scram)).
//!
//! The accounts file is the operator's and is not written for this. Memory is bounded by the number of accounts and
//! credentials: what is not in the accounts file any more is forgotten at the next save.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::diagnostic::Finding;
use crate::kept::{Kept, damaged};

/// The name of the file, in the queue directory.
pub const STATE_FILE: &str = "logins.json";
/// The version of the file that this program writes.
const STATE_VERSION: u32 = 1;
/// How exactly the last use is remembered. A program that logs in for every message makes one write of it.
const PRECISION: SignedDuration = SignedDuration::from_mins(1);
/// Octets in the key of made-up salts.
const KEY_BYTES: usize = 32;

/// Which secret of which account: the account's name, and the credential's; an empty one is the account's password.
type Login = (String, String);

/// What is remembered. Shared by all threads.
pub struct LoginState {
    kept: Kept<State>,
}

struct State {
    salt_key: Zeroizing<[u8; KEY_BYTES]>,
    last_used: HashMap<Login, Timestamp>,
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
        Self {
            kept: Kept::in_memory(State::new()),
        }
    }

    /// Takes up the state in the file at `path`, if there is one. A file that cannot be read is put aside as
    /// `logins.json.broken` (after its own name) and reported in a warning. Blocks on the disk.
    pub fn open(path: &Path) -> (Self, Vec<Finding>) {
        let (state, finding) = Self::look_into(path);
        let finding = finding.map(|finding| state.kept.put_aside(finding));
        (state, finding.into_iter().collect())
    }

    /// The same for whoever only looks: nothing on the disk is touched.
    pub fn look_into(path: &Path) -> (Self, Option<Finding>) {
        let loss = "cannot read when logins were last used";
        let mut is_new = false;
        let fresh = || {
            is_new = true;
            State::new()
        };
        let (kept, finding) = Kept::look_into(path, STATE_VERSION, loss, fresh, State::restore);
        if is_new {
            // A new key is worth saving at once.
            kept.lock().changed();
        }
        (Self { kept }, finding)
    }

    /// The key of made-up salts.
    pub(super) fn salt_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.kept.lock().salt_key.as_slice())
    }

    /// A login with this secret succeeded; `credential` is empty for the account's own password.
    pub(super) fn used(&self, account: &str, credential: &str, at: Timestamp) {
        let mut state = self.kept.lock();
        let login = (account.to_owned(), credential.to_owned());
        match state.last_used.get(&login) {
            Some(last) if at >= *last && at.duration_since(*last) < PRECISION => {}
            _ => {
                state.last_used.insert(login, at);
                state.changed();
            }
        }
    }

    /// When this secret was last used; `credential` is empty for the account's own password.
    pub fn last_used(&self, account: &str, credential: &str) -> Option<Timestamp> {
        let key = (account.to_owned(), credential.to_owned());
        self.kept.lock().last_used.get(&key).copied()
    }

    /// Writes the state to its file, if anything changed since the last time, and says whether it did. Secrets for
    /// which `exists` is false are forgotten. After an error the next call tries again. Blocks on the disk.
    pub(super) fn save(&self, exists: impl Fn(&str, &str) -> bool) -> io::Result<bool> {
        self.kept.save(|state| {
            state
                .last_used
                .retain(|(account, credential), _| exists(account, credential));
            let mut last_used: BTreeMap<String, BTreeMap<String, Timestamp>> = BTreeMap::new();
            for ((account, credential), at) in &state.last_used {
                let of_account = last_used.entry(account.clone()).or_default();
                of_account.insert(credential.clone(), *at);
            }
            StateFile {
                version: STATE_VERSION,
                salt_key: BASE64_STANDARD.encode(state.salt_key.as_slice()),
                last_used,
            }
        })
    }
}

impl State {
    fn new() -> Self {
        let mut salt_key = Zeroizing::new([0; KEY_BYTES]);
        if getrandom::fill(salt_key.as_mut_slice()).is_err() {
            // Without randomness there is no nonce either, and so no login that would need a salt.
            salt_key.fill(0);
        }
        Self {
            salt_key,
            last_used: HashMap::new(),
        }
    }

    fn restore(file: StateFile) -> io::Result<Self> {
        let salt_key = BASE64_STANDARD
            .decode(&file.salt_key)
            .ok()
            .and_then(|key| <[u8; KEY_BYTES]>::try_from(key).ok())
            .ok_or_else(|| damaged("salt_key is damaged"))?;
        let mut last_used = HashMap::new();
        for (account, credentials) in file.last_used {
            for (credential, at) in credentials {
                last_used.insert((account.clone(), credential), at);
            }
        }
        Ok(Self {
            salt_key: Zeroizing::new(salt_key),
            last_used,
        })
    }
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
        assert_eq!(again.kept.lock().salt_key, state.kept.lock().salt_key);
        let (fresh, _) = LoginState::open(&directory.path().join("other.json"));
        assert_ne!(fresh.kept.lock().salt_key, state.kept.lock().salt_key);
        // The next login of the same program is no news, one a minute later is; and a clock may be set back.
        let seconds = |seconds| now + SignedDuration::from_secs(seconds);
        for (at, saved) in [(59, false), (60, true), (0, true)] {
            state.used("alice@example.org", "scanner", seconds(at));
            assert_eq!(state.save(|_, _| true).unwrap(), saved, "{at}");
        }
    }

    #[test]
    fn a_broken_key_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(STATE_FILE);
        let broken = r#"{"version":1,"salt_key":"AAAA","last_used":{}}"#;
        std::fs::write(&path, broken).unwrap();
        let (state, findings) = LoginState::open(&path);
        assert_eq!(findings.len(), 1);
        assert!(state.save(|_, _| true).unwrap(), "the new key is saved");
        assert!(LoginState::open(&path).1.is_empty());
    }
}
