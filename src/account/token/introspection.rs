//! Tokens that their issuer is asked about, one by one (RFC 7662).
//!
//! A good token is remembered for a short while, by a code (HMAC-SHA-256 under a random key of this process) and never
//! longer than it is good: a program that logs in for every message costs one question. One that is not good is asked
//! about each time. So many questions as [`QUESTIONS_MAX`] are under way at once; more wait, within the same time.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use hyper::header::HeaderValue;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::IssuerSettings;
use super::claims::{Claims, Said, Verified};
use super::trouble::Trouble;
use super::web::{Client, WebAddress, encoded};
use crate::clock::{Instant, Now};
use crate::decision::{TokenFault, Unavailable};
use crate::secret::Secret;

/// Questions to one issuer at a time, each with its connection.
const QUESTIONS_MAX: usize = 32;
/// Tokens that one generation remembers. There are two, of hardly more than 200 octets each: some 2 MiB, and
/// never more than 10, since a name has at most 1024.
const REMEMBERED_MAX: usize = 4096;

/// Asks one issuer.
pub(super) struct Introspection {
    address: WebAddress,
    login: HeaderValue,
    client: Client,
    questions: Semaphore,
    remembered: Option<Remembered>,
    trouble: Trouble,
}

impl Introspection {
    /// Good tokens are remembered for `cache_for`; `None` asks each time.
    pub(super) fn new(
        issuer: &Arc<str>,
        address: WebAddress,
        login: HeaderValue,
        client: Client,
        cache_for: Option<Duration>,
    ) -> Self {
        Self {
            address,
            login,
            client,
            questions: Semaphore::new(QUESTIONS_MAX),
            remembered: cache_for.and_then(Remembered::new),
            trouble: Trouble::new(issuer),
        }
    }

    /// Whether the token is good for a login.
    pub(super) async fn check(
        &self,
        token: &Secret,
        settings: &IssuerSettings,
        now: Now,
    ) -> Result<Result<Verified, TokenFault>, Unavailable> {
        let code = self
            .remembered
            .as_ref()
            .map(|remembered| remembered.code(token));
        if let (Some(remembered), Some(code)) = (&self.remembered, &code)
            && let Some(verified) = remembered.find(code, now)
        {
            return Ok(Ok(verified));
        }
        let said = match self.ask(token).await {
            Ok(said) => said,
            Err(error) => {
                self.trouble.goes_on(&error, None);
                return Err(Unavailable(error));
            }
        };
        self.trouble.is_over();
        let Some(said) = said else {
            return Ok(Err(TokenFault::Inactive));
        };
        let verified = said.judge(settings, Said::ByIssuer, now.wall);
        if let (Some(remembered), Some(code), Ok(verified)) = (&self.remembered, code, &verified) {
            remembered.remember(code, verified.clone(), now.instant);
        }
        Ok(verified)
    }

    /// How many more questions could be asked now.
    #[cfg(test)]
    pub(super) fn free_questions(&self) -> usize {
        self.questions.available_permits()
    }

    /// What the issuer says of the token; `None` if it is good for nothing.
    async fn ask(&self, token: &Secret) -> Result<Option<Claims>, String> {
        let address = &self.address;
        let (before, token) = (b"token=".as_slice(), encoded(token.expose()));
        let form = [before, token.expose(), b"&token_type_hint=access_token"];
        let form = Secret::new(form.concat());
        let asked = async {
            // The semaphore is never closed.
            let _one_of_few = self.questions.acquire().await;
            self.client.post_form(address, &self.login, &form).await
        };
        let limit = self.client.timeout;
        let answer = timeout(limit, asked)
            .await
            .map_err(|_| format!("{address}: there is no answer within {limit:?}"))?
            .map_err(|error| format!("{address}: {error}"))?;
        let broken =
            || format!("{address}: there is no answer to the question (RFC 7662 section 2.2)");
        let said = Claims::parse(&answer).ok_or_else(broken)?;
        match said.get("active") {
            Some(Value::Bool(true)) => Ok(Some(said)),
            Some(Value::Bool(false)) => Ok(None),
            _ => Err(broken()),
        }
    }
}

/// What stands for a token.
type Code = [u8; 32];

/// Tokens that were good not long ago.
struct Remembered {
    key: hmac::Key,
    keep: Duration,
    generations: Mutex<Generations>,
}

/// When the young ones are too many or too old, they become the old ones, and what was old is forgotten.
#[derive(Default)]
struct Generations {
    young: HashMap<Code, (Instant, Verified)>,
    old: HashMap<Code, (Instant, Verified)>,
    young_until: Option<Instant>,
}

impl Remembered {
    /// `None` if the system has no randomness for the key: then nothing is remembered.
    fn new(keep: Duration) -> Option<Self> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice()).ok()?;
        Some(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()),
            keep,
            generations: Mutex::default(),
        })
    }

    fn code(&self, token: &Secret) -> Code {
        let mut code = [0; 32];
        code.copy_from_slice(hmac::sign(&self.key, token.expose()).as_ref());
        code
    }

    fn find(&self, code: &Code, now: Now) -> Option<Verified> {
        let generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let found = generations
            .young
            .get(code)
            .or_else(|| generations.old.get(code));
        let (until, verified) = found?;
        let has_expired = verified.expires.is_some_and(|expires| now.wall >= expires);
        (now.instant < *until && !has_expired).then(|| verified.clone())
    }

    fn remember(&self, code: Code, verified: Verified, now: Instant) {
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let full = generations.young.len() >= REMEMBERED_MAX;
        if full || generations.young_until.is_none_or(|until| now >= until) {
            generations.old = mem::take(&mut generations.young);
            generations.young_until = Some(now + self.keep);
        }
        generations.young.insert(code, (now + self.keep, verified));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_forgotten_in_time() {
        let remembered = Remembered::new(Duration::from_secs(60)).unwrap();
        let now = Now::read();
        let later = |seconds| now.after(Duration::from_secs(seconds));
        let verified = |expires| Verified {
            name: "alice".to_owned(),
            expires,
        };
        let code = |token: &str| remembered.code(&Secret::from(token));
        remembered.remember(code("always"), verified(None), now.instant);
        remembered.remember(code("short"), verified(Some(later(30).wall)), now.instant);
        for (token, seconds, found) in [
            ("always", 0, true),
            ("always", 59, true),
            ("always", 60, false),
            ("short", 29, true),
            ("short", 30, false),
            ("alway", 0, false),
        ] {
            let is_found = remembered.find(&code(token), later(seconds)).is_some();
            assert_eq!(is_found, found, "{token} after {seconds} s");
        }
        // The key is another one each time.
        let other = Remembered::new(Duration::from_secs(60)).unwrap();
        assert_ne!(other.code(&Secret::from("always")), code("always"));
    }

    #[test]
    fn memory_is_bounded() {
        let remembered = Remembered::new(Duration::from_secs(60)).unwrap();
        let now = Now::read();
        for number in 0..3 * REMEMBERED_MAX {
            let code = remembered.code(&Secret::from(&*number.to_string()));
            let name = number.to_string();
            remembered.remember(
                code,
                Verified {
                    name,
                    expires: None,
                },
                now.instant,
            );
        }
        let last = remembered.code(&Secret::from(&*(3 * REMEMBERED_MAX - 1).to_string()));
        assert!(remembered.find(&last, now).is_some());
        let generations = remembered.generations.lock().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 2 * REMEMBERED_MAX);
    }
}
