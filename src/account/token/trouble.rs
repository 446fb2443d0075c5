//! Tells the log when a provider cannot be asked, once for each change: it may be asked a hundred times a second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Whether one issuer can be asked.
pub(super) struct Trouble {
    issuer: Arc<str>,
    /// What was said last, and whether it keeps logins out; `None` while all is well.
    said: Mutex<Option<(String, bool)>>,
}

impl Trouble {
    pub(super) fn new(issuer: &Arc<str>) -> Self {
        Self {
            issuer: Arc::clone(issuer),
            said: Mutex::default(),
        }
    }

    /// It cannot be asked; `bridged` is how long logins go on without it.
    pub(super) fn goes_on(&self, error: &str, bridged: Option<Duration>) {
        let now = Some((error.to_owned(), bridged.is_none()));
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said == now {
            return;
        }
        *said = now;
        drop(said);
        let issuer = &*self.issuer;
        match bridged {
            Some(left) => {
                let left = left.as_secs();
                tracing::warn!(
                    event = "issuer.unavailable",
                    issuer,
                    error,
                    keys_seconds = left
                );
            }
            None => tracing::error!(event = "issuer.unavailable", issuer, error),
        }
    }

    /// It can be asked.
    pub(super) fn is_over(&self) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.take().is_some() {
            drop(said);
            let issuer = &*self.issuer;
            tracing::warn!(event = "issuer.recovered", issuer);
        }
    }
}
