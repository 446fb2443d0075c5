//! Names and passwords in the form in which they are compared: SASLprep (RFC 4013) and its bounds.
//!
//! A name's domain part, behind the last `@`, is compared without regard to case; its local part is exact. Nothing
//! here knows which accounts exist.

use stringprep::saslprep;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Octets in a login name. No mailbox has more than 320, and whatever is longer is work for nothing.
pub const NAME_BYTES_MAX: usize = 1024;
/// Octets in a password, before its preparation.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// Why a text cannot be a name or a password. Its text goes behind the word for what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Nothing is left of it after the preparation.
    #[error("is empty")]
    Empty,
    /// It holds what SASLprep prohibits: control characters, private use, mixed directions.
    #[error("holds characters that SASLprep (RFC 4013) forbids")]
    Forbidden,
    /// Longer than [`NAME_BYTES_MAX`] or [`PASSWORD_BYTES_MAX`].
    #[error("is longer than 1024 octets")]
    TooLong,
}

/// The compared form of a login name.
pub fn prepare_name(text: &str) -> Result<String, Unusable> {
    if text.len() > NAME_BYTES_MAX {
        return Err(Unusable::TooLong);
    }
    let prepared = saslprep(text).map_err(|_| Unusable::Forbidden)?;
    match prepared.rsplit_once('@') {
        _ if prepared.is_empty() => Err(Unusable::Empty),
        Some((local, domain)) => Ok(format!("{local}@{}", domain.to_lowercase())),
        None => Ok(prepared.into_owned()),
    }
}

/// A password in the forms in which it can be compared.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// After SASLprep: what gatepost hashes.
    pub prepared: Secret,
    /// As it was typed, in UTF-8: what other programs hash.
    pub typed: Secret,
}

/// The form of a password that is hashed.
pub fn prepare_password(password: &Secret) -> Result<Secret, Unusable> {
    prepare_typed(password).map(|password| password.prepared)
}

/// Both forms of a password.
///
/// Octets that are not UTF-8 are taken for Latin-1: that is what clients send that know nothing of RFC 4616, and their
/// users type the same as everybody.
pub fn prepare_typed(password: &Secret) -> Result<Prepared, Unusable> {
    let octets = password.expose();
    if octets.len() > PASSWORD_BYTES_MAX {
        return Err(Unusable::TooLong);
    }
    let typed = match std::str::from_utf8(octets) {
        Ok(text) => Zeroizing::new(text.to_owned()),
        Err(_) => {
            let mut text = Zeroizing::new(String::with_capacity(2 * octets.len()));
            text.extend(octets.iter().copied().map(char::from));
            text
        }
    };
    let prepared = saslprep(&typed).map_err(|_| Unusable::Forbidden)?;
    if prepared.is_empty() {
        return Err(Unusable::Empty);
    }
    Ok(Prepared {
        prepared: Secret::new(prepared.into_owned().into_bytes()),
        typed: Secret::from(typed.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, prepared) in [
            ("alice@example.org", Ok("alice@example.org")),
            ("Alice@Example.ORG", Ok("Alice@example.org")),
            ("A@b@EXAMPLE.org", Ok("A@b@example.org")),
            ("Scanner", Ok("Scanner")),
            // RFC 4013 section 3: SOFT HYPHEN maps to nothing, ROMAN NUMERAL NINE is normalised.
            ("I\u{ad}X", Ok("IX")),
            ("\u{2168}@example.org", Ok("IX@example.org")),
            ("a\u{308}@example.org", Ok("\u{e4}@example.org")),
            ("", Err(Unusable::Empty)),
            ("\u{ad}", Err(Unusable::Empty)),
            ("a\0b", Err(Unusable::Forbidden)),
            ("a\u{7}", Err(Unusable::Forbidden)),
            ("\u{627}1", Err(Unusable::Forbidden)),
            (&"x".repeat(1025), Err(Unusable::TooLong)),
        ] {
            assert_eq!(
                prepare_name(text).as_deref(),
                prepared.as_ref().map(|text| &**text),
                "{text:?}"
            );
        }
    }

    #[test]
    fn passwords() {
        let prepare = |octets: &[u8]| {
            prepare_password(&Secret::new(octets.to_vec())).map(|secret| secret.expose().to_vec())
        };
        assert_eq!(prepare(b"correct horse"), Ok(b"correct horse".to_vec()));
        // RFC 4013 section 2.1: a non-ASCII space becomes a space.
        assert_eq!(prepare("a\u{a0}b".as_bytes()), Ok(b"a b".to_vec()));
        assert_eq!(prepare(b""), Err(Unusable::Empty));
        assert_eq!(prepare(b"a\0b"), Err(Unusable::Forbidden));
        // Latin-1, and what SASLprep forbids in it.
        assert_eq!(
            prepare(b"gr\xfc\xdf"),
            Ok("gr\u{fc}\u{df}".as_bytes().to_vec())
        );
        assert_eq!(prepare(b"\xe9\x85"), Err(Unusable::Forbidden));
        assert_eq!(prepare(b"\xff\0"), Err(Unusable::Forbidden));
        assert_eq!(prepare(&[b'x'; 1025]), Err(Unusable::TooLong));
        assert!(prepare(&[b'x'; 1024]).is_ok());
    }
}
