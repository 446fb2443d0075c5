//! What credentials are recognised by: secrets, which are made here, shown once, and kept as their SHA-256; or the
//! fingerprints of certificates, which their owners have made themselves.
//!
//! Nobody chooses them, so nobody can guess them: 130 bits of randomness make every search hopeless, and what slows a
//! search down (argon2id, a salt) would only slow the login. That is why a login costs one password hash at most,
//! however many credentials an account has: they are all compared first, at the price of one SHA-256, and for a name
//! that does not exist that price is paid as well.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::password::HashingFailed;
use crate::sasl::external::Fingerprint;
use crate::secret::Secret;

/// Credentials of one account. Each is compared at every login to it.
pub const CREDENTIALS_MAX: usize = 100;
/// Characters in the name of a credential.
pub const NAME_CHARACTERS_MAX: usize = 64;
/// Characters of a secret, 5 bits each.
const SECRET_CHARACTERS: usize = 26;
/// What a secret is made of: 32 characters that a printer's keypad has and that look different on paper.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// What a stored secret begins with.
const SCHEME: &str = "sha256:";

/// The SHA-256 of a secret, or of what somebody tries as one.
pub(super) type SecretHash = [u8; digest::SHA256_OUTPUT_LEN];

/// What is kept of a generated secret: `sha256:` and its SHA-256 in base64.
#[derive(Clone)]
pub struct GeneratedSecret(SecretHash);

/// What a credential is recognised by.
#[derive(Clone, Debug)]
pub enum Evidence {
    /// The client's certificate (EXTERNAL).
    Certificate(Fingerprint),
    /// A secret in place of the password.
    Secret(GeneratedSecret),
}

impl Evidence {
    /// Whether it is that secret.
    pub(super) fn is_secret(&self, tried: &SecretHash) -> bool {
        match self {
            Self::Certificate(_) => false,
            Self::Secret(secret) => secret.matches(tried),
        }
    }

    /// The certificate, where it is one.
    pub fn certificate(&self) -> Option<Fingerprint> {
        match self {
            Self::Certificate(fingerprint) => Some(*fingerprint),
            Self::Secret(_) => None,
        }
    }
}

/// Why a text is no [`GeneratedSecret`]. The text itself is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not that of a generated secret (`sha256:...`)")]
pub struct NotGenerated;

impl GeneratedSecret {
    /// Reads the stored text.
    pub fn parse(text: &str) -> Result<Self, NotGenerated> {
        text.strip_prefix(SCHEME)
            .and_then(|text| BASE64_STANDARD_NO_PAD.decode(text).ok())
            .and_then(|octets| SecretHash::try_from(octets).ok())
            .map(Self)
            .ok_or(NotGenerated)
    }

    /// The text that [`parse`](Self::parse) reads.
    pub fn to_text(&self) -> String {
        format!("{SCHEME}{}", BASE64_STANDARD_NO_PAD.encode(self.0))
    }

    pub(super) fn matches(&self, tried: &SecretHash) -> bool {
        self.0.ct_eq(tried).into()
    }
}

impl std::fmt::Debug for GeneratedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GeneratedSecret(..)")
    }
}

/// Makes a secret: what its owner is told, once, and what is kept.
pub fn generate() -> Result<(Secret, GeneratedSecret), HashingFailed> {
    let mut octets = Zeroizing::new([0; SECRET_CHARACTERS]);
    getrandom::fill(octets.as_mut_slice()).map_err(|_| HashingFailed)?;
    // 256 is a multiple of 32: every character is as likely as any other.
    let characters = octets.iter().map(|octet| ALPHABET[usize::from(octet % 32)]);
    let secret = Secret::new(characters.collect());
    let kept = GeneratedSecret(hash(&secret));
    Ok((secret, kept))
}

/// What a password is compared with the secrets of credentials as.
pub(super) fn hash(secret: &Secret) -> SecretHash {
    let mut hash = SecretHash::default();
    hash.copy_from_slice(digest::digest(&digest::SHA256, secret.expose()).as_ref());
    hash
}

/// Whether a text can be the name of a credential: what stands in a log, a command line and a file without quotes.
pub fn is_name(text: &str) -> bool {
    (1..=NAME_CHARACTERS_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_recognised() {
        let (secret, kept) = generate().unwrap();
        assert_eq!(secret.expose().len(), SECRET_CHARACTERS);
        assert!(secret.expose().iter().all(|octet| ALPHABET.contains(octet)));
        let read = GeneratedSecret::parse(&kept.to_text()).unwrap();
        assert!(read.matches(&hash(&secret)));
        assert!(!read.matches(&hash(&Secret::from("guess"))));
        let (other, _) = generate().unwrap();
        assert_ne!(secret.expose(), other.expose());
        for broken in [
            "",
            "hunter2",
            "sha256:",
            "sha256:AAAA",
            "$argon2id$v=19$m=256,t=2,p=1$x$y",
        ] {
            assert!(GeneratedSecret::parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn names() {
        for (name, good) in [
            ("scanner", true),
            ("2nd-floor_scanner.old", true),
            ("", false),
            ("a b", false),
            ("caf\u{e9}", false),
            ("a/b", false),
            (&"x".repeat(64), true),
            (&"x".repeat(65), false),
        ] {
            assert_eq!(is_name(name), good, "{name}");
        }
    }
}
