//! By what a message is known if its client sends it again: [`Fingerprint`].

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::envelope::Recipient;

/// Half of a SHA-256: nobody but the account itself could gain from finding two alike, and it would lose its mail.
const FINGERPRINT_BYTES: usize = 16;

/// A digest of everything that one submission shares with its repetition: the account, the reverse-path, the recipients
/// with what is said of each, and the octets that the client sent. What depends on time is no part of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; FINGERPRINT_BYTES]);

/// A text that is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint has {} hexadecimal digits", 2 * FINGERPRINT_BYTES)]
pub struct FingerprintError;

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if text.len() != 2 * FINGERPRINT_BYTES || !is_hex {
            return Err(FingerprintError);
        }
        u128::from_str_radix(text, 16)
            .map(|bits| Self(bits.to_be_bytes()))
            .map_err(|_| FingerprintError)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;

    fn try_from(text: String) -> Result<Self, FingerprintError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

/// Takes a fingerprint while the message comes in.
#[derive(Clone)]
pub struct Fingerprinter(Context);

impl fmt::Debug for Fingerprinter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fingerprinter").finish_non_exhaustive()
    }
}

impl Fingerprinter {
    /// For a message of `account` with this envelope.
    pub fn new<'r>(
        account: &str,
        reverse_path: &str,
        recipients: impl Iterator<Item = &'r Recipient>,
    ) -> Self {
        let mut this = Self(Context::new(&SHA256));
        this.part(account.as_bytes());
        this.part(reverse_path.as_bytes());
        for recipient in recipients {
            this.part(recipient.forward_path.as_bytes());
            let notify = recipient.notify.iter().map(|notify| notify.as_str());
            this.part(notify.collect::<Vec<_>>().join(",").as_bytes());
            this.part(recipient.orcpt.as_deref().unwrap_or_default().as_bytes());
        }
        this.part(b"");
        this
    }

    /// So that no two envelopes run together into the same octets.
    fn part(&mut self, octets: &[u8]) {
        self.0.update(&(octets.len() as u64).to_be_bytes());
        self.0.update(octets);
    }

    /// The next octets of the message, as the client sent them.
    pub fn update(&mut self, octets: &[u8]) {
        self.0.update(octets);
    }

    /// The fingerprint of the message up to here.
    pub fn fingerprint(&self) -> Fingerprint {
        let digest = self.0.clone().finish();
        let mut half = [0; FINGERPRINT_BYTES];
        half.copy_from_slice(&digest.as_ref()[..FINGERPRINT_BYTES]);
        Fingerprint(half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Notify;

    fn of(account: &str, from: &str, to: &[Recipient], pieces: &[&str]) -> Fingerprint {
        let mut fingerprinter = Fingerprinter::new(account, from, to.iter());
        for piece in pieces {
            fingerprinter.update(piece.as_bytes());
        }
        fingerprinter.fingerprint()
    }

    #[test]
    fn anything_else_is_another_message() {
        let to = |path: &str| Recipient::new(path);
        let with_notify = Recipient {
            notify: vec![Notify::Never],
            ..to("b@example.net")
        };
        let with_orcpt = Recipient {
            orcpt: Some("rfc822;x@example.net".to_owned()),
            ..to("b@example.net")
        };
        let b = [to("b@example.net")];
        let all = [
            of("alice", "a", &b, &["text"]),
            of("bob", "a", &b, &["text"]),
            of("alic", "ea", &b, &["text"]),
            of("alice", "", &b, &["text"]),
            of("alice", "a", &[], &["text"]),
            of("alice", "a", &[with_notify], &["text"]),
            of("alice", "a", &[with_orcpt], &["text"]),
            of("alice", "a", &[to("b@example.net"), to("c")], &["text"]),
            of("alice", "a", &b, &["texts"]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{index}");
        }
        assert_eq!(all[0], of("alice", "a", &b, &["te", "", "xt"]));
    }

    #[test]
    fn its_text_is_itself() {
        let one = of("alice", "a", &[], &["text"]);
        assert_eq!(one.to_string().parse(), Ok(one));
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Fingerprint>(&json).unwrap(), one);
        let text = one.to_string();
        let wrong_digit = format!("+{}", &text[1..]);
        for bad in ["", "00", &text[1..], &format!("{text}0"), &wrong_digit] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(FingerprintError), "{bad}");
        }
    }
}
