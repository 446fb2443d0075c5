//! What stands in Received in place of a client's address and login: a token that says nothing to anybody but the
//! operator, who has its key ([`TraceKey`]).
//!
//! It holds who sent the message, encrypted and authenticated with AES-256-GCM-SIV (RFC 8452), so that it needs no log
//! and no table to be read, and cannot be made by anybody else, nor be moved to another message: it is bound to the
//! message's id. The nonce comes from the id, too, which is never given twice; if it were, the mode bears it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::envelope::MessageId;

/// Octets in a key.
pub const TRACE_KEY_BYTES: usize = 32;
/// The first octet of a token.
const VERSION: u8 = 1;
const ID_BYTES: usize = 16;
/// The texts are filled up to a multiple of this, so that a token's length hardly tells whose it is.
const PADDING_BYTES: usize = 48;
/// Octets in a token, encoded: far more than any account's name makes of it.
const TOKEN_BYTES_MAX: usize = 4096;

/// Who sent a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// From where.
    pub address: IpAddr,
    /// From which port.
    pub port: u16,
    /// The account.
    pub account: String,
    /// Its credential; `None` for the account's own password.
    pub credential: Option<String>,
}

/// A text that is no token, or none of this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was made, or changed, by somebody who does not have the key.
    #[error("the token was not made with this key, or was changed")]
    Forged,
    /// It is no token.
    #[error("this is no trace token")]
    Malformed,
}

/// What makes and reads tokens.
#[derive(PartialEq, Eq)]
pub struct TraceKey(Zeroizing<[u8; TRACE_KEY_BYTES]>);

impl fmt::Debug for TraceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TraceKey").finish_non_exhaustive()
    }
}

impl TraceKey {
    /// The key that these octets are.
    pub fn new(octets: &[u8; TRACE_KEY_BYTES]) -> Self {
        Self(Zeroizing::new(*octets))
    }

    fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM_SIV, self.0.as_slice());
        LessSafeKey::new(key.expect("it has the length of a key"))
    }

    /// The token of a message. `None` for a sender whose name no token can hold.
    pub fn seal(&self, id: &MessageId, sender: &Sender) -> Option<String> {
        let mut token = vec![VERSION];
        token.extend_from_slice(&id.bits().to_be_bytes());
        let address = match sender.address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut content = address.octets().to_vec();
        content.extend_from_slice(&sender.port.to_be_bytes());
        let mut texts = Vec::new();
        for text in [Some(sender.account.as_str()), sender.credential.as_deref()] {
            let text = text.unwrap_or_default();
            texts.extend_from_slice(&u16::try_from(text.len()).ok()?.to_be_bytes());
            texts.extend_from_slice(text.as_bytes());
        }
        texts.resize(texts.len().next_multiple_of(PADDING_BYTES), 0);
        content.extend_from_slice(&texts);
        let aad = Aad::from(token.clone());
        self.cipher()
            .seal_in_place_append_tag(nonce(id), aad, &mut content)
            .ok()?;
        token.extend_from_slice(&content);
        let token = BASE64_URL_SAFE_NO_PAD.encode(token);
        (token.len() <= TOKEN_BYTES_MAX).then_some(token)
    }

    /// Which message a token is of, and who sent it.
    pub fn open(&self, token: &str) -> Result<(MessageId, Sender), TokenError> {
        let (id, mut content) = parse(token).ok_or(TokenError::Malformed)?;
        let mut sealed = content.split_off(1 + ID_BYTES);
        let opened = self
            .cipher()
            .open_in_place(nonce(&id), Aad::from(content), &mut sealed)
            .map_err(|_| TokenError::Forged)?;
        // What the key opens, we have made; yet nothing here is taken for granted.
        let sender = read(opened).ok_or(TokenError::Malformed)?;
        Ok((id, sender))
    }
}

/// The id in a token, and all its octets.
fn parse(token: &str) -> Option<(MessageId, Vec<u8>)> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let octets = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
    let id = octets.get(1..=ID_BYTES)?.try_into().ok()?;
    (octets[0] == VERSION).then_some(())?;
    Some((MessageId::from_bits(u128::from_be_bytes(id)), octets))
}

fn nonce(id: &MessageId) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&id.bits().to_be_bytes()[ID_BYTES - NONCE_LEN..]);
    Nonce::assume_unique_for_key(nonce)
}

fn read(octets: &[u8]) -> Option<Sender> {
    let (address, rest) = octets.split_first_chunk::<16>()?;
    let (port, rest) = rest.split_first_chunk()?;
    let (account, rest) = read_text(rest)?;
    let (credential, _) = read_text(rest)?;
    Some(Sender {
        address: IpAddr::V6(Ipv6Addr::from(*address)).to_canonical(),
        port: u16::from_be_bytes(*port),
        account,
        credential: Some(credential).filter(|name| !name.is_empty()),
    })
}

fn read_text(octets: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = octets.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((String::from_utf8(text.to_vec()).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(octet: u8) -> TraceKey {
        TraceKey::new(&[octet; TRACE_KEY_BYTES])
    }

    fn alice() -> Sender {
        Sender {
            address: "203.0.113.7".parse().unwrap(),
            port: 50123,
            account: "alice@example.org".to_owned(),
            credential: Some("scanner".to_owned()),
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_can_be_opened(
            bits: u128, address: IpAddr, port: u16, account in ".{0,300}", credential in ".{0,64}",
        ) {
            let sender = Sender {
                address: address.to_canonical(),
                port,
                account,
                credential: Some(credential).filter(|name| !name.is_empty()),
            };
            let id = MessageId::from_bits(bits);
            let token = key(1).seal(&id, &sender).unwrap();
            prop_assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
            prop_assert_eq!(key(1).open(&token), Ok((id, sender)));
            prop_assert_eq!(key(2).open(&token), Err(TokenError::Forged));
        }

        #[test]
        fn anything_else_is_refused(text in "\\PC*") {
            prop_assert!(key(1).open(&text).is_err());
        }
    }

    #[test]
    fn a_changed_token_is_refused() {
        let token = key(1).seal(&MessageId::from_bits(7), &alice()).unwrap();
        let octets = BASE64_URL_SAFE_NO_PAD.decode(&token).unwrap();
        for bit in 0..octets.len() * 8 {
            let mut changed = octets.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = BASE64_URL_SAFE_NO_PAD.encode(changed);
            assert!(key(1).open(&changed).is_err(), "bit {bit}");
        }
        for length in 0..token.len() {
            assert!(key(1).open(&token[..length]).is_err(), "{length} octets");
        }
        assert!(key(1).open(&"A".repeat(TOKEN_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn its_length_hardly_tells_whose_it_is() {
        let length = |account: &str| {
            let sender = Sender {
                account: account.to_owned(),
                ..alice()
            };
            key(1)
                .seal(&MessageId::from_bits(7), &sender)
                .unwrap()
                .len()
        };
        assert_eq!(length("a@b"), length("someone.long@example.org"));
    }

    #[test]
    fn nothing_shows_a_key() {
        assert_eq!(format!("{:?}", key(65)), "TraceKey(..)");
    }
}
