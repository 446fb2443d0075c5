//! SCRAM keys: made for an account, and made up for names that have none.
//!
//! Whoever asks for the salt of a name that has no keys gets one all the same, always the same one, so that the answer
//! does not tell which accounts there are. It comes from a key that nobody else has and that outlives the process
//! ([`LoginState`](super::state::LoginState)): were it another one after each restart, the salts that change would be
//! those of nobody.
//!
//! The exchange itself is [`sasl::scram`](crate::sasl::scram).

use std::num::NonZeroU32;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::password::HashingFailed;
use crate::sasl::scram::{Keys, Verifier};
use crate::secret::Secret;

/// Octets in a salt that we make.
pub(super) const SALT_BYTES: usize = 16;
/// Iterations of keys that we make. A login costs the client so many, and the server next to nothing; what they are
/// for is to make guessing slow when the accounts file is stolen. RFC 7677 section 4 has 4096 as the least; this is the
/// most that does not keep a small device waiting for seconds.
pub const ITERATIONS: NonZeroU32 = NonZeroU32::new(100_000).expect("it is not zero");
/// Octets of randomness in the server's part of a nonce: 24 characters of base64.
const NONCE_BYTES: usize = 18;

/// The SCRAM keys of `password`, which is prepared. With `beside`, under its salt and iterations: the secrets of one
/// account share them. Takes as long as the iterations do.
pub fn make(password: &Secret, beside: Option<&Verifier>) -> Result<Keys, HashingFailed> {
    Ok(match beside {
        Some(verifier) => Keys::derive(password.expose(), verifier.salt(), verifier.iterations()),
        None => {
            let mut salt = [0; SALT_BYTES];
            getrandom::fill(&mut salt).map_err(|_| HashingFailed)?;
            Keys::derive(password.expose(), &salt, ITERATIONS)
        }
    })
}

/// How the keys of a file mostly look, so that made-up ones look the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Shape {
    pub(super) iterations: NonZeroU32,
    pub(super) salt_bytes: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            iterations: ITERATIONS,
            salt_bytes: SALT_BYTES,
        }
    }
}

impl Shape {
    pub(super) fn of(verifier: &Verifier) -> Self {
        Self {
            iterations: verifier.iterations(),
            salt_bytes: verifier.salt().len(),
        }
    }

    /// What a name without keys is asked to prove.
    pub(super) fn nobodys(self, key: &hmac::Key, name: &str) -> Verifier {
        let mut salt = Vec::with_capacity(self.salt_bytes);
        for block in 0_u8.. {
            let mut context = hmac::Context::with_key(key);
            context.update(&[block]);
            context.update(name.as_bytes());
            let left = self.salt_bytes - salt.len();
            let code = context.sign();
            salt.extend(code.as_ref().iter().take(left));
            if salt.len() == self.salt_bytes {
                break;
            }
        }
        Verifier::nobodys(salt, self.iterations)
    }
}

/// A server's part of a nonce; `None` if the system has no randomness.
pub(super) fn nonce() -> Option<String> {
    let mut octets = [0; NONCE_BYTES];
    getrandom::fill(&mut octets).ok()?;
    Some(BASE64_STANDARD.encode(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_up_stays_the_same() {
        let key = |octet| hmac::Key::new(hmac::HMAC_SHA256, &[octet; 32]);
        let salt = |octet, name: &str| {
            let verifier = Shape::default().nobodys(&key(octet), name);
            verifier.salt().to_vec()
        };
        assert_eq!(salt(1, "alice"), salt(1, "alice"));
        assert_ne!(salt(1, "alice"), salt(1, "bob"));
        assert_ne!(salt(1, "alice"), salt(2, "alice"));
        let long = Shape {
            salt_bytes: 64,
            ..Shape::default()
        };
        let long = long.nobodys(&key(1), "alice");
        assert_eq!(long.salt().len(), 64);
        assert_ne!(long.salt()[..32], long.salt()[32..]);
    }

    #[test]
    fn keys_beside_others_share_their_salt() {
        let (one, other) = (Secret::from("one"), Secret::from("other"));
        let first = make(&one, None).unwrap();
        let alone = Verifier::new(std::slice::from_ref(&first)).unwrap();
        let second = make(&other, Some(&alone)).unwrap();
        let both = Verifier::new(&[first, second]).unwrap();
        assert_eq!(both.matching_password(b"one"), Some(0));
        assert_eq!(both.matching_password(b"other"), Some(1));
        assert_eq!(both.matching_password(b"third"), None);
        assert!(Verifier::new(&[make(&one, None).unwrap(), make(&one, None).unwrap()]).is_none());
        assert_ne!(nonce(), nonce());
    }
}
