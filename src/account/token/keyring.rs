//! An issuer's keys, fetched from where it publishes them and kept.
//!
//! They are fetched anew when they are older than `refresh`, before anybody needs it, and when a token names a key that
//! is not among them. One fetch runs at a time, and [`FETCH_PAUSE`] lies between two: whoever sends tokens with
//! made-up names of keys cannot make us bother the provider. A provider that is down is bridged for `stale`; after that
//! its tokens cannot be checked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::Algorithm;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::claims::Claims;
use super::keys::{Jwt, KeySet};
use super::trouble::Trouble;
use super::web::{Client, WebAddress};
use crate::clock::{Instant, Now};
use crate::decision::{TokenFault, Unavailable};

/// From the beginning of one fetch to that of the next. It is how long a key that a provider uses without having
/// published it before is not known.
const FETCH_PAUSE: Duration = Duration::from_secs(10);
/// Requests in one fetch: the provider's configuration, and its keys.
const REQUESTS_PER_FETCH: u32 = 2;

/// Where the keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// It is said in the provider's configuration (OpenID Connect Discovery 1.0 section 4), which is there.
    Discovery(WebAddress),
    /// There.
    Keys(WebAddress),
}

/// The keys of one issuer, and what is under way to have them.
pub(super) struct Keyring {
    issuer: Arc<str>,
    source: Source,
    client: Client,
    refresh: Duration,
    stale: Duration,
    state: Mutex<State>,
    /// Counts the fetches that have ended.
    ended: watch::Sender<u64>,
    trouble: Trouble,
}

#[derive(Default)]
struct State {
    /// With when they were asked for.
    keys: Option<(Arc<KeySet>, Instant)>,
    /// When the last fetch began.
    began: Option<Instant>,
    running: bool,
    /// Why the last fetch that has ended brought no keys.
    error: Option<String>,
}

impl Keyring {
    pub(super) fn new(
        issuer: &Arc<str>,
        source: Source,
        client: Client,
        refresh: Duration,
        stale: Duration,
    ) -> Self {
        Self {
            issuer: Arc::clone(issuer),
            source,
            client,
            refresh,
            stale,
            state: Mutex::default(),
            ended: watch::Sender::new(0),
            trouble: Trouble::new(issuer),
        }
    }

    /// What the token says, if it is signed by one of the keys; they are fetched if that may help.
    pub(super) async fn verify(
        self: &Arc<Self>,
        jwt: &Jwt<'_>,
        algorithms: &[Algorithm],
        tasks: &TaskTracker,
        now: Now,
    ) -> Result<Result<Claims, TokenFault>, Unavailable> {
        let mut ended = self.ended.subscribe();
        let first = self.look(now);
        match first.verify(jwt, algorithms) {
            None | Some(Err(TokenFault::Key)) => {}
            Some(answer) => return Ok(answer),
        }
        if self.fetch(tasks, now) {
            let patience = self.client.timeout * REQUESTS_PER_FETCH;
            // One that is not back by then has failed for this login; the next look says how.
            let _ = tokio::time::timeout(patience, ended.changed()).await;
        }
        let second = self.look(now);
        match (second.verify(jwt, algorithms), second.error) {
            // It may be a key of today, and nobody can tell.
            (None | Some(Err(TokenFault::Key)), Some(error)) => Err(Unavailable(error)),
            (None, None) => Err(Unavailable("its keys have not come yet".to_owned())),
            (Some(answer), _) => Ok(answer),
        }
    }

    /// Fetches the keys if it is time to.
    pub(super) fn refresh(self: &Arc<Self>, tasks: &TaskTracker, now: Now) {
        let is_fresh =
            self.state().keys.as_ref().is_some_and(|(_, since)| {
                now.instant.saturating_duration_since(*since) < self.refresh
            });
        if !is_fresh {
            self.fetch(tasks, now);
        }
    }

    fn look(&self, now: Now) -> Look {
        let state = self.state();
        let usable = state
            .keys
            .as_ref()
            .filter(|(_, since)| now.instant.saturating_duration_since(*since) < self.stale);
        Look {
            keys: usable.map(|(keys, _)| Arc::clone(keys)),
            error: state.error.clone(),
        }
    }

    /// Sees to it that a fetch runs; whether one does, and its end is worth waiting for.
    fn fetch(self: &Arc<Self>, tasks: &TaskTracker, now: Now) -> bool {
        let mut state = self.state();
        if state.running {
            return true;
        }
        let too_soon = state
            .began
            .is_some_and(|began| now.instant.saturating_duration_since(began) < FETCH_PAUSE);
        if too_soon {
            return false;
        }
        state.began = Some(now.instant);
        state.running = true;
        drop(state);
        let keyring = Arc::clone(self);
        tasks.spawn(async move {
            let fetched = keyring.fetched().await;
            keyring.end(fetched, now.instant);
        });
        true
    }

    /// A fetch that began at `began` has ended.
    fn end(&self, fetched: Result<KeySet, String>, began: Instant) {
        let mut state = self.state();
        state.running = false;
        match fetched {
            Ok(keys) => {
                state.keys = Some((Arc::new(keys), began));
                state.error = None;
                self.trouble.is_over();
            }
            Err(error) => {
                let bridged = state
                    .keys
                    .as_ref()
                    .and_then(|(_, since)| {
                        let age = began.saturating_duration_since(*since);
                        self.stale.checked_sub(age)
                    })
                    .filter(|left| !left.is_zero());
                self.trouble.goes_on(&error, bridged);
                state.error = Some(error);
            }
        }
        drop(state);
        self.ended
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    async fn fetched(&self) -> Result<KeySet, String> {
        let discovered;
        let address = match &self.source {
            Source::Keys(address) => address,
            Source::Discovery(configuration) => {
                discovered = self.discovered(configuration).await?;
                &discovered
            }
        };
        let octets = self.get(address).await?;
        KeySet::parse(&octets).map_err(|error| format!("{address}: {error}"))
    }

    /// Where the keys are, as the provider's configuration has it.
    async fn discovered(&self, configuration: &WebAddress) -> Result<WebAddress, String> {
        let octets = self.get(configuration).await?;
        let said = Claims::parse(&octets)
            .ok_or_else(|| format!("{configuration}: there is no JSON object"))?;
        // OpenID Connect Discovery 1.0 section 4.3: exactly the same, else it is somebody else's.
        if said.text("issuer") != Some(&*self.issuer) {
            return Err(format!(
                "{configuration}: it is the configuration of another issuer"
            ));
        }
        let keys = said
            .text("jwks_uri")
            .ok_or_else(|| format!("{configuration}: there is no jwks_uri"))?;
        WebAddress::parse(keys).map_err(|error| format!("{configuration}: jwks_uri {error}"))
    }

    async fn get(&self, address: &WebAddress) -> Result<Vec<u8>, String> {
        let answer = self.client.get(address).await;
        answer.map_err(|error| format!("{address}: {error}"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is at one moment.
struct Look {
    /// If they are not too old.
    keys: Option<Arc<KeySet>>,
    error: Option<String>,
}

impl Look {
    fn verify(
        &self,
        jwt: &Jwt<'_>,
        algorithms: &[Algorithm],
    ) -> Option<Result<Claims, TokenFault>> {
        let keys = self.keys.as_ref()?;
        Some(keys.verify(jwt, algorithms))
    }
}
