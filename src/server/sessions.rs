//! On how many connections each account, and each of its credentials, is logged in.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::containment::Login;
use crate::decision::Account;

/// Counts sessions by what they are logged in as. It holds as many names as there are connections, at most.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<HashMap<Login, u64>>>);

/// A session that counts until this is dropped.
#[derive(Debug)]
pub(super) struct LoggedIn {
    sessions: Sessions,
    login: Login,
}

impl Sessions {
    /// Counts a session that has logged in so.
    pub(super) fn enter(&self, login: &Account) -> LoggedIn {
        let credential = login.credential_name().map(str::to_owned);
        let login = Login::new(login.name.clone(), credential);
        *self.lock().entry(login.clone()).or_default() += 1;
        LoggedIn {
            sessions: self.clone(),
            login,
        }
    }

    /// How many there are of an account, with all its credentials, or of one of its credentials.
    pub(super) fn count(&self, of: &Login) -> u64 {
        let sessions = self.lock();
        let theirs = sessions
            .iter()
            .filter(|(login, _)| of.covers(&login.account, login.credential.as_deref()));
        theirs.map(|(_, count)| count).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Login, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LoggedIn {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.sessions.lock().entry(self.login.clone()) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}
