//! EXTERNAL (RFC 4422 appendix A): the client has proven who it is before, by the certificate that it has shown in the
//! TLS handshake, and says here only as whom it wants to act.
//!
//! What a certificate is worth comes from outside, as a [`Certificate`]: that its owner has its key was proven in the
//! handshake, and the names in it are only those that a CA of ours vouches for. Whose it is, is for the credential
//! store.

use std::fmt::{self, Write as _};

use aws_lc_rs::digest;

use super::{ExchangeError, name};
use crate::clock::Timestamp;

/// What the text of a fingerprint begins with.
const SCHEME: &str = "sha256:";

/// The SHA-256 of a certificate in DER: what `openssl x509 -noout -fingerprint -sha256` shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; digest::SHA256_OUTPUT_LEN]);

/// Why a text is no [`Fingerprint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not the SHA-256 fingerprint of a certificate: 64 hexadecimal digits")]
pub struct NotAFingerprint;

impl Fingerprint {
    /// That of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        let mut octets = [0; digest::SHA256_OUTPUT_LEN];
        octets.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self(octets)
    }

    /// Reads 64 hexadecimal digits in either case, with colons between the octets or without, behind `sha256:`, behind
    /// what openssl writes in front of them, or alone.
    pub fn parse(text: &str) -> Result<Self, NotAFingerprint> {
        let text = text.trim();
        let digits = [SCHEME, "sha256 fingerprint="]
            .iter()
            .find_map(|prefix| {
                let (head, digits) = text.split_at_checked(prefix.len())?;
                head.eq_ignore_ascii_case(prefix).then_some(digits)
            })
            .unwrap_or(text);
        let octet_bytes = if digits.contains(':') { 3 } else { 2 };
        let mut octets = [0; digest::SHA256_OUTPUT_LEN];
        if digits.len() + octet_bytes - 2 != octets.len() * octet_bytes {
            return Err(NotAFingerprint);
        }
        for (octet, written) in octets.iter_mut().zip(digits.as_bytes().chunks(octet_bytes)) {
            let digit = |at: usize| {
                let character = written.get(at).copied().map(char::from);
                character.and_then(|character| character.to_digit(16))
            };
            let (Some(high), Some(low), None | Some(b':')) = (digit(0), digit(1), written.get(2))
            else {
                return Err(NotAFingerprint);
            };
            *octet = (high << 4 | low) as u8;
        }
        Ok(Self(octets))
    }
}

/// `sha256:` and lower-case digits without colons, which [`parse`](Fingerprint::parse) reads.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// It is no secret, and long.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        fmt::Display::fmt(self, f)?;
        f.write_char('"')
    }
}

/// A certificate whose key the client has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Which one.
    pub fingerprint: Fingerprint,
    /// The e-mail addresses that it names (rfc822Name of subjectAltName, RFC 5280 section 4.2.1.6), where a CA that we
    /// were told to trust vouches for them; else none.
    pub addresses: Vec<String>,
    /// The first moment of its validity.
    pub not_before: Timestamp,
    /// The last one.
    pub not_after: Timestamp,
}

impl Certificate {
    /// Whether it is valid at that time. Outside its validity it is good for nothing, whoever vouches for it.
    pub fn is_valid_at(&self, time: Timestamp) -> bool {
        (self.not_before..=self.not_after).contains(&time)
    }
}

/// `authz-id-string = 0*( UTF8-char-no-nul )`: as whom the client wants to act; empty for as whom the certificate says.
pub(super) fn authorization_identity(response: &[u8]) -> Result<String, ExchangeError> {
    match memchr::memchr(0, response) {
        Some(_) => Err(ExchangeError::Malformed),
        None => name(response),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{ChannelBindings, Exchange, Mechanism, Turn};
    use super::*;
    use crate::decision::Claim;
    use crate::secret::Secret;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn fingerprints() {
        let expected = Fingerprint::of(b"");
        assert_eq!(expected.to_string(), format!("sha256:{EMPTY}"));
        let octets: Vec<&str> = (0..32)
            .map(|index| &EMPTY[2 * index..2 * index + 2])
            .collect();
        let colons = octets.join(":");
        for text in [
            EMPTY.to_owned(),
            EMPTY.to_uppercase(),
            format!("sha256:{EMPTY}"),
            format!("SHA256:{}", colons.to_uppercase()),
            format!("sha256 Fingerprint={}\n", colons.to_uppercase()),
            colons.clone(),
        ] {
            assert_eq!(Fingerprint::parse(&text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "sha256:",
            &EMPTY[1..],
            &format!("{EMPTY}0"),
            &format!("{EMPTY}00"),
            &format!("{colons}:"),
            &format!(":{colons}"),
            &colons.replacen(':', "", 1),
            &colons.replace(':', "-"),
            &EMPTY.replacen('e', "g", 1),
            &EMPTY.replacen("e3", "\u{e9}", 1),
            &format!("sha1:{EMPTY}"),
            &format!("sha256:sha256:{EMPTY}"),
            "\u{e9}sha256",
        ] {
            assert_eq!(Fingerprint::parse(text), Err(NotAFingerprint), "{text}");
        }
    }

    #[test]
    fn validity_has_two_ends() {
        let time = |second| Timestamp::from_second(second).unwrap();
        let certificate = Certificate {
            fingerprint: Fingerprint::of(b""),
            addresses: Vec::new(),
            not_before: time(10),
            not_after: time(20),
        };
        for (second, valid) in [(9, false), (10, true), (20, true), (21, false)] {
            assert_eq!(certificate.is_valid_at(time(second)), valid, "{second}");
        }
    }

    #[test]
    fn exchanges() {
        let certificate = Arc::new(Certificate {
            fingerprint: Fingerprint::of(b""),
            addresses: Vec::new(),
            not_before: Timestamp::MIN,
            not_after: Timestamp::MAX,
        });
        let begin = |certificate| {
            Exchange::new(Mechanism::External, &ChannelBindings::default())
                .with_certificate(certificate)
        };
        let said = |response: &[u8]| {
            let response = Secret::new(response.to_vec());
            match begin(Some(Arc::clone(&certificate))).step(Some(&response)) {
                Ok(Turn::Check(Claim::Certificate {
                    authorization_identity,
                    certificate: claimed,
                })) => {
                    assert_eq!(claimed, certificate);
                    authorization_identity
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => error.to_string(),
            }
        };
        let malformed = ExchangeError::Malformed.to_string();
        assert_eq!(said(b""), "");
        assert_eq!(said("rémy@example.org".as_bytes()), "rémy@example.org");
        assert_eq!(said(b"a\0b"), malformed);
        assert_eq!(said(b"\xff"), malformed);
        let mut exchange = begin(Some(Arc::clone(&certificate)));
        assert!(
            matches!(exchange.step(None), Ok(Turn::Challenge(challenge)) if challenge.is_empty())
        );
        assert!(matches!(
            begin(None).step(Some(&Secret::default())),
            Err(ExchangeError::NoCertificate)
        ));
    }
}
