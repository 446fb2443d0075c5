//! Which signatures count, and which tokens and sets of keys are understood at all.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::signers::{PrivateKey, SIGNERS, Signer, base64, claims, key_id, set};
use crate::account::token::keys::{Jwt, KeySet, KeysError};
use crate::account::token::{ALGORITHMS, Algorithm};
use crate::decision::TokenFault;

/// What a set of keys says of a token.
fn verify(keys: &[u8], token: &str, algorithms: &[Algorithm]) -> Result<(), TokenFault> {
    let keys = KeySet::parse(keys).unwrap();
    let jwt = Jwt::peek(token).ok_or(TokenFault::Malformed)??;
    keys.verify(&jwt, algorithms).map(drop)
}

const EVERY: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

#[test]
fn every_algorithm() {
    let keys = SIGNERS.set();
    for (name, algorithm) in ALGORITHMS {
        let token = SIGNERS.of(name).token(name, key_id(name));
        assert_eq!(verify(&keys, &token, &EVERY), Ok(()), "{name}");
        assert_eq!(verify(&keys, &token, &[algorithm]), Ok(()), "{name}");
        // It counts what the operator allows, and nothing else.
        let others: Vec<Algorithm> = EVERY
            .into_iter()
            .filter(|other| *other != algorithm)
            .collect();
        let refused = verify(&keys, &token, &others);
        assert_eq!(refused, Err(TokenFault::Algorithm), "{name}");
        // One octet of the signature, of the claims, of the header.
        let parts: Vec<&str> = token.split('.').collect();
        let changed = |index: usize| {
            let mut octets = BASE64_URL_SAFE_NO_PAD.decode(parts[index]).unwrap();
            let last = octets.len() - 2;
            octets[last] ^= 1;
            let mut parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            parts[index] = base64(octets);
            parts.join(".")
        };
        assert_eq!(
            verify(&keys, &changed(2), &EVERY),
            Err(TokenFault::Signature),
            "{name}"
        );
        assert!(verify(&keys, &changed(1), &EVERY).is_err(), "{name}");
        assert!(verify(&keys, &changed(0), &EVERY).is_err(), "{name}");
        // Somebody else's key of the same kind under the same name.
        let other = match name {
            "ES256" => Signer::ecdsa("P-256"),
            "ES384" => Signer::ecdsa("P-384"),
            "EdDSA" => Signer::ed25519(),
            _ => continue,
        };
        let forged = other.token(name, key_id(name));
        assert_eq!(
            verify(&keys, &forged, &EVERY),
            Err(TokenFault::Signature),
            "{name}"
        );
    }
    let forged = Signer::rsa().token("RS256", "rsa");
    assert_eq!(verify(&keys, &forged, &EVERY), Err(TokenFault::Signature));
}

/// What has let people in elsewhere.
#[test]
fn no_algorithm_is_taken_for_another() {
    let keys = SIGNERS.set();
    let part = |value: &Value| base64(value.to_string());
    // No signature at all.
    for none in ["none", "None", "NONE", ""] {
        for signature in ["", "AA"] {
            let header = part(&json!({ "alg": none, "kid": "rsa" }));
            let token = format!("{header}.{}.{signature}", part(&claims()));
            assert_eq!(
                verify(&keys, &token, &EVERY),
                Err(TokenFault::Algorithm),
                "{none}"
            );
        }
    }
    // The public key taken for a shared secret, in each form in which it could be.
    let PrivateKey::Rsa(rsa) = &SIGNERS.rsa.key else {
        unreachable!()
    };
    let spki = rsa.public_key().as_der().unwrap();
    let modulus = SIGNERS.rsa.jwk["n"].as_str().unwrap();
    let secrets = [
        rsa.public_key().as_ref().to_vec(),
        spki.as_ref().to_vec(),
        modulus.as_bytes().to_vec(),
        BASE64_URL_SAFE_NO_PAD.decode(modulus).unwrap(),
        SIGNERS.rsa.jwk.to_string().into_bytes(),
    ];
    for secret in secrets {
        let header = part(&json!({ "alg": "HS256", "kid": "rsa" }));
        let message = format!("{header}.{}", part(&claims()));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
        let signature = aws_lc_rs::hmac::sign(&key, message.as_bytes());
        let token = format!("{message}.{}", base64(signature));
        assert_eq!(verify(&keys, &token, &EVERY), Err(TokenFault::Algorithm));
    }
    // A shared secret that somebody has published is no key.
    let secret = json!({ "kty": "oct", "kid": "rsa", "k": base64("secret"), "alg": "HS256" });
    assert_eq!(KeySet::parse(&set(&[secret])).err(), Some(KeysError::NoKey));
    // A key of one kind named for the algorithm of another.
    for (algorithm, key_id) in [
        ("RS256", "p256"),
        ("ES256", "rsa"),
        ("ES256", "p384"),
        ("EdDSA", "p256"),
    ] {
        let token = SIGNERS.of(algorithm).token(algorithm, key_id);
        let refused = verify(&keys, &token, &EVERY);
        assert_eq!(refused, Err(TokenFault::Algorithm), "{algorithm}, {key_id}");
    }
    // A key that says what it is for is for nothing else.
    let only = set(&[SIGNERS
        .rsa
        .published(&json!({ "kid": "rsa", "alg": "PS256" }))]);
    assert_eq!(
        verify(&only, &SIGNERS.rsa.token("PS256", "rsa"), &EVERY),
        Ok(())
    );
    let other = verify(&only, &SIGNERS.rsa.token("RS256", "rsa"), &EVERY);
    assert_eq!(other, Err(TokenFault::Algorithm));
    // Its own key in its header is not asked for.
    let stranger = Signer::ecdsa("P-256");
    let header =
        json!({ "alg": "ES256", "kid": "p256", "jwk": stranger.jwk, "jku": "https://a.example" });
    let token = stranger.token_with(&header, &claims().to_string());
    assert_eq!(verify(&keys, &token, &EVERY), Err(TokenFault::Signature));
}

#[test]
fn which_key_it_is() {
    let signer = &SIGNERS.p256;
    let other = Signer::ecdsa("P-256").jwk;
    let named = |id: &str| signer.published(&json!({ "kid": id }));
    let token = |id: Option<&str>| {
        let mut header = json!({ "alg": "ES256" });
        if let Some(id) = id {
            header["kid"] = id.into();
        }
        signer.token_with(&header, &claims().to_string())
    };
    for (keys, id, expected) in [
        (vec![named("a")], Some("a"), Ok(())),
        (vec![named("a")], None, Ok(())),
        (vec![other.clone(), named("a")], None, Ok(())),
        // No key of the set has a name.
        (vec![other.clone(), signer.jwk.clone()], Some("a"), Ok(())),
        // Two of one name.
        (
            vec![SIGNERS.rsa.published(&json!({ "kid": "a" })), named("a")],
            Some("a"),
            Ok(()),
        ),
        // What may be among the keys of tomorrow.
        (vec![named("a")], Some("b"), Err(TokenFault::Key)),
        (vec![other.clone()], Some("a"), Err(TokenFault::Key)),
        (vec![other.clone()], None, Err(TokenFault::Key)),
        (vec![SIGNERS.rsa.jwk.clone()], None, Err(TokenFault::Key)),
    ] {
        assert_eq!(
            verify(&set(&keys), &token(id), &EVERY),
            expected,
            "{keys:?} {id:?}"
        );
    }
}

#[test]
fn sets_of_keys() {
    let good = SIGNERS.p256.jwk.clone();
    let with = |more: Value| SIGNERS.p256.published(&more);
    let small = json!({ "kty": "RSA", "n": base64([0xa5; 128]), "e": "AQAB" });
    let padded =
        json!({ "kty": "RSA", "n": base64([[0; 200], [0xa5; 200]].concat()), "e": "AQAB" });
    let huge = json!({ "kty": "RSA", "n": base64([0xa5; 1025]), "e": "AQAB" });
    for (key, usable) in [
        (with(json!({ "use": "sig" })), true),
        (with(json!({ "key_ops": ["verify"] })), true),
        (
            with(json!({ "x5c": ["?"], "alg": "ES256", "ext": true, "exp": 1 })),
            true,
        ),
        (with(json!({ "use": "enc" })), false),
        (with(json!({ "key_ops": ["encrypt"] })), false),
        (with(json!({ "key_ops": "verify" })), false),
        (with(json!({ "crv": "P-521" })), false),
        (with(json!({ "crv": "secp256k1" })), false),
        (with(json!({ "kty": "XYZ" })), false),
        (json!({ "kty": "EC", "crv": "P-256" }), false),
        (json!({ "kty": "RSA", "n": "!", "e": "AQAB" }), false),
        (json!("key"), false),
        (small, false),
        (padded, false),
        (huge, false),
    ] {
        let alone = KeySet::parse(&set(std::slice::from_ref(&key)));
        assert_eq!(alone.is_ok(), usable, "{key}");
        // One that is of no use does no harm to the others.
        assert!(KeySet::parse(&set(&[key, good.clone()])).is_ok());
    }
    for (text, error) in [
        ("", "there is no set of keys (RFC 7517 section 5)"),
        ("[]", "there is no set of keys (RFC 7517 section 5)"),
        (
            "{\"keys\":{}}",
            "there is no set of keys (RFC 7517 section 5)",
        ),
        (
            "{\"keys\":[]}",
            "there is no key for signatures in the set of keys",
        ),
    ] {
        assert_eq!(
            KeySet::parse(text.as_bytes()).unwrap_err().to_string(),
            error
        );
    }
    let many = vec![good; 65];
    assert_eq!(
        KeySet::parse(&set(&many)).unwrap_err().to_string(),
        "there are more than 64 keys"
    );
    assert!(KeySet::parse(&set(&many[..64])).is_ok());
}

#[test]
fn forms_of_tokens() {
    let signer = &SIGNERS.p256;
    let keys = SIGNERS.set();
    let header = json!({ "alg": "ES256", "kid": "p256" });
    let text = claims().to_string();
    let with_claims = |claims: &str| signer.token_with(&header, claims);
    let with_header = |more: Value| {
        let mut header = header.clone();
        for (name, value) in more.as_object().unwrap() {
            header[name] = value.clone();
        }
        signer.token_with(&header, &text)
    };
    let good = with_claims(&text);
    let padding = format!("\"filler\":\"{}\",", "x".repeat(6000));
    let twice = format!("\"aud\":\"other\",{}", &text[1..]);
    let large = format!("{{{padding}{}", &text[1..]);
    let deep = format!(
        "{{\"a\":{}{},{}",
        "[".repeat(200),
        "]".repeat(200),
        &text[1..]
    );
    for (token, expected) in [
        (good.clone(), Ok(())),
        (with_claims(&large), Ok(())),
        (with_header(json!({ "typ": "JWT" })), Ok(())),
        (
            with_header(json!({ "cty": "JWT", "x5t": "abc", "other": [1] })),
            Ok(()),
        ),
        (
            with_claims(&format!("{{{twice}")),
            Err(TokenFault::Malformed),
        ),
        (with_claims(&deep), Err(TokenFault::Malformed)),
        (with_claims("[]"), Err(TokenFault::Malformed)),
        (with_claims("{}x"), Err(TokenFault::Malformed)),
        (
            with_header(json!({ "crit": ["exp"] })),
            Err(TokenFault::Malformed),
        ),
        (
            with_header(json!({ "crit": [] })),
            Err(TokenFault::Malformed),
        ),
        (format!("{good}."), Err(TokenFault::Malformed)),
        (format!("{good}.{good}"), Err(TokenFault::Malformed)),
        (good.replace('.', ""), Err(TokenFault::Malformed)),
        ("..".to_owned(), Err(TokenFault::Malformed)),
        (String::new(), Err(TokenFault::Malformed)),
    ] {
        assert_eq!(verify(&keys, &token, &EVERY), expected, "{token:.80}");
    }
    // A header that says `alg` twice says nothing, and a signature with other octets at its end is another.
    let message = format!(
        "{}.{}",
        base64(r#"{"alg":"none","alg":"ES256","kid":"p256"}"#),
        base64(&text)
    );
    let token = format!(
        "{message}.{}",
        base64(signer.sign("ES256", message.as_bytes()))
    );
    assert_eq!(verify(&keys, &token, &EVERY), Err(TokenFault::Malformed));
    for end in ["A", "AA", "=", "=="] {
        assert!(
            verify(&keys, &format!("{good}{end}"), &EVERY).is_err(),
            "{end}"
        );
    }
}
