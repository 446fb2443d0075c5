//! OAUTHBEARER and XOAUTH2, and the tokens that they bring.

use gatepost::account::token::{ALGORITHMS, signed_by};
use gatepost::decision::Claim;
use gatepost::sasl::{ChannelBindings, Exchange, Mechanism, Turn};
use gatepost::secret::Secret;

use super::Script;

/// The input: the mechanism and its message; or a set of keys, a NUL, a token.
///
/// What a message is understood to say, written again in the simplest way, says the same, and the token is a piece of
/// the message. A token that a key has signed is signed no more when one octet of it is another.
pub fn check_bearer(data: &[u8]) {
    let mut script = Script(data);
    match script.below(3) {
        0 => check_message(Mechanism::OauthBearer, script.0),
        1 => check_message(Mechanism::Xoauth2, script.0),
        _ => check_token(script.0),
    }
}

fn claimed(mechanism: Mechanism, message: &[u8]) -> Option<(String, Vec<u8>)> {
    let mut exchange = Exchange::new(mechanism, &ChannelBindings::default());
    match exchange.step(Some(&Secret::new(message.to_vec()))) {
        Ok(Turn::Check(Claim::Token {
            authorization_identity,
            token,
        })) => {
            assert!(exchange.last_challenge().is_none());
            Some((authorization_identity, token.expose().to_vec()))
        }
        Ok(other) => panic!("{other:?} is for other mechanisms"),
        Err(_) => None,
    }
}

fn check_message(mechanism: Mechanism, message: &[u8]) {
    let Some((name, token)) = claimed(mechanism, message) else {
        return;
    };
    let mut pieces = message.windows(token.len().max(1));
    assert!(token.is_empty() || pieces.any(|piece| piece == token));
    assert!(token.iter().all(u8::is_ascii_graphic));
    let mut simple = match (mechanism, name.as_str()) {
        (Mechanism::Xoauth2, name) => format!("user={name}\x01"),
        (_, "") => "n,,\x01".to_owned(),
        (_, name) => {
            let escaped = name.replace('=', "=3D").replace(',', "=2C");
            format!("n,a={escaped},\x01")
        }
    }
    .into_bytes();
    simple.extend_from_slice(b"auth=Bearer ");
    simple.extend_from_slice(&token);
    simple.extend_from_slice(b"\x01\x01");
    assert_eq!(claimed(mechanism, &simple), Some((name, token)));
}

fn check_token(input: &[u8]) {
    let mut parts = input.splitn(2, |&octet| octet == 0);
    let (keys, token) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let algorithms = ALGORITHMS.map(|(_, algorithm)| algorithm);
    let is_signed = |token: &[u8], algorithms: &[_]| {
        signed_by(keys, &Secret::new(token.to_vec()), algorithms).is_ok()
    };
    if !is_signed(token, &algorithms) {
        return;
    }
    assert!(!is_signed(token, &[]));
    for place in 0..token.len() {
        let mut changed = token.to_vec();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        assert!(!is_signed(&changed, &algorithms), "octet {place}");
    }
}
