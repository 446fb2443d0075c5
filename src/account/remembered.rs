//! Successful logins remembered for a while, so that a program that logs in for every message costs one password hash
//! and not thousands.
//!
//! What is kept is a code (HMAC-SHA-256 under a random key of this process) of the name, the stored hash and the
//! password together: never the password, and nothing that could be tried elsewhere. Since the stored hash is part of
//! it, another password in the accounts file makes what was remembered worthless at once. Only the comparison of the
//! password is remembered: whether the account is enabled and the address allowed is looked up each time. A failure is
//! never remembered, so a guess always costs a hash, whatever is remembered of the account.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;

use super::stored::Stored;
use crate::clock::Instant;
use crate::secret::Secret;

/// How many logins one generation remembers. There are two, of some 64 octets each: this bounds the memory to 8 MiB.
const REMEMBERED_MAX: usize = 65_536;

/// What stands for one successful login.
pub(super) type Code = [u8; 32];

/// The logins that are remembered.
pub(super) struct Remembered {
    key: hmac::Key,
    keep: Duration,
    generations: Mutex<Generations>,
}

/// Codes with the time until which they count. When the young ones are too many or too old, they become the old ones,
/// and what was old is forgotten: no login has to wait for a clean-up.
#[derive(Default)]
struct Generations {
    young: HashMap<Code, Instant>,
    old: HashMap<Code, Instant>,
    young_until: Option<Instant>,
}

impl Remembered {
    /// Remembers each login for `keep`. `None` if the system has no randomness for the key: then nothing is remembered.
    pub(super) fn new(keep: Duration) -> Option<Self> {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice()).ok()?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_slice());
        Some(Self {
            key,
            keep,
            generations: Mutex::default(),
        })
    }

    /// The code of a login: `name` and `password` prepared, `stored` what is stored for the account.
    pub(super) fn code(&self, name: &str, stored: &Stored, password: &Secret) -> Code {
        let mut context = hmac::Context::with_key(&self.key);
        // Each part with its length in front, so that no two logins are the same octets.
        stored.each_part(|part| {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        });
        for part in [name.as_bytes(), password.expose()] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut code = [0; 32];
        code.copy_from_slice(context.sign().as_ref());
        code
    }

    /// Whether this login succeeded not long ago.
    pub(super) fn knows(&self, code: &Code, now: Instant) -> bool {
        let generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let until = generations
            .young
            .get(code)
            .or_else(|| generations.old.get(code));
        until.is_some_and(|&until| now < until)
    }

    /// This login succeeded.
    pub(super) fn remember(&self, code: Code, now: Instant) {
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let full = generations.young.len() >= REMEMBERED_MAX;
        if full || generations.young_until.is_none_or(|until| now >= until) {
            generations.old = mem::take(&mut generations.young);
            generations.young_until = Some(now + self.keep);
        }
        generations.young.insert(code, now + self.keep);
    }
}

#[cfg(test)]
mod tests {
    use super::super::password::{Parameters, PasswordHash};
    use super::*;
    use crate::clock::Now;

    const KEEP: Duration = Duration::from_secs(600);

    fn hash(memory_kib: u32) -> Stored {
        let hash = PasswordHash::dummy(Parameters {
            memory_kib,
            passes: 1,
            lanes: 1,
        });
        Stored::Argon2(hash.unwrap())
    }

    #[test]
    fn a_login_is_known_for_its_time() {
        let remembered = Remembered::new(KEEP).unwrap();
        let start = Now::read().instant;
        let code = remembered.code("alice", &hash(8), &Secret::from("secret"));
        assert!(!remembered.knows(&code, start));
        remembered.remember(code, start);
        assert!(remembered.knows(&code, start + KEEP - Duration::from_secs(1)));
        assert!(!remembered.knows(&code, start + KEEP));
        // Also when newer logins have pushed it into the old generation.
        remembered.remember([1; 32], start + KEEP);
        assert!(!remembered.knows(&code, start + KEEP));
        assert!(remembered.knows(&[1; 32], start + KEEP + Duration::from_secs(1)));
    }

    #[test]
    fn anything_else_is_another_login() {
        let remembered = Remembered::new(KEEP).unwrap();
        let now = Now::read().instant;
        let secret = Secret::from("secret");
        remembered.remember(remembered.code("alice", &hash(8), &secret), now);
        for other in [
            remembered.code("alice", &hash(8), &Secret::from("secreT")),
            remembered.code("alic", &hash(8), &Secret::from("esecret")),
            remembered.code("bob", &hash(8), &secret),
            remembered.code("alice", &hash(16), &secret),
            Remembered::new(KEEP)
                .unwrap()
                .code("alice", &hash(8), &secret),
        ] {
            assert!(!remembered.knows(&other, now));
        }
    }

    #[test]
    fn memory_is_bounded() {
        let remembered = Remembered::new(KEEP).unwrap();
        let now = Now::read().instant;
        let code = |number: usize| {
            let mut code = [0; 32];
            code[..8].copy_from_slice(&(number as u64).to_le_bytes());
            code
        };
        for number in 0..3 * REMEMBERED_MAX {
            remembered.remember(code(number), now);
        }
        assert!(remembered.knows(&code(3 * REMEMBERED_MAX - 1), now));
        assert!(!remembered.knows(&code(0), now));
        let generations = remembered.generations.lock().unwrap();
        assert!(generations.young.len() + generations.old.len() <= 2 * REMEMBERED_MAX);
    }
}
