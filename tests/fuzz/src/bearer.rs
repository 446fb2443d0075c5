//! OAUTHBEARER and XOAUTH2, and the tokens that they bring.

use std::time::Duration;

use gatepost::account::token::{ALGORITHMS, IssuerSettings, TokenCheck, account_in, signed_by};
use gatepost::decision::Claim;
use gatepost::sasl::{ChannelBindings, Exchange, Mechanism, Turn};
use gatepost::secret::Secret;

use serde_json::Value;

use super::{Script, TIME};

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

/// The input: who says it and what is asked of it, then claims as JSON.
///
/// Claims that are good for a login say so to a reader of JSON that knows nothing of tokens, and only once.
pub fn check_claims(data: &[u8]) {
    let mut script = Script(data);
    let shape = script.octet();
    let (by_issuer, scoped) = (shape & 1 == 1, shape & 2 == 2);
    let claim = if shape & 4 == 4 { "email" } else { "sub" };
    let settings = IssuerSettings {
        issuer: ISSUER.to_owned(),
        audience: if shape & 8 == 8 {
            Vec::new()
        } else {
            vec!["smtp".to_owned()]
        },
        check: TokenCheck::KeyFile("keys.json".into()),
        account_claim: claim.to_owned(),
        scope: if scoped {
            vec!["send".to_owned()]
        } else {
            Vec::new()
        },
        algorithms: Vec::new(),
        leeway: Duration::from_secs(60),
        timeout: Duration::from_secs(5),
        ca: None,
    };
    let judge = |claims: &[u8]| account_in(claims, &settings, by_issuer, *TIME);
    let Ok(name) = judge(script.0) else {
        return;
    };
    let claims: Value = serde_json::from_slice(script.0).expect("it was understood");
    assert_eq!(judge(claims.to_string().as_bytes()), Ok(name.clone()));
    assert_eq!(claims[claim], *name);
    assert!((by_issuer && claims["iss"].is_null()) || claims["iss"] == ISSUER);
    let has = |value: &Value, word: &str| match value {
        Value::Array(values) => values.iter().any(|value| value == word),
        Value::String(text) => text.split_ascii_whitespace().any(|one| one == word),
        _ => false,
    };
    assert!(shape & 8 == 8 || has(&claims["aud"], "smtp"));
    assert!(!scoped || has(&claims["scope"], "send") || has(&claims["scp"], "send"));
    let now = TIME.as_second() as f64;
    let seconds = |name: &str| claims[name].as_f64();
    assert!(
        seconds("exp").is_some_and(|exp| exp + 61.0 > now)
            || (by_issuer && claims["exp"].is_null())
    );
    assert!(seconds("nbf").is_none_or(|nbf| nbf - 61.0 < now));
    if claim == "email" {
        let verified = &claims["email_verified"];
        assert!(verified.is_null() || *verified == true || verified == "true");
    }
}

const ISSUER: &str = "https://id.example.org";
