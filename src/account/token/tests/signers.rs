//! Keys of every kind, made here, and what they sign.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::ISSUER;
use crate::clock::Now;

pub(in crate::account) enum PrivateKey {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

/// A key, and how it is published.
pub(in crate::account) struct Signer {
    pub(in crate::account) key: PrivateKey,
    pub(in crate::account) jwk: Value,
}

pub(in crate::account) fn base64(octets: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(octets)
}

impl Signer {
    pub(in crate::account) fn rsa() -> Self {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        // RSAPublicKey (RFC 8017 appendix A.1.1): a modulus of 2048 bits behind 9 octets, then 65537.
        let public = key.public_key().as_ref().to_vec();
        let jwk = json!({ "kty": "RSA", "n": base64(&public[9..9 + 256]), "e": "AQAB" });
        Self {
            key: PrivateKey::Rsa(key),
            jwk,
        }
    }

    pub(in crate::account) fn ecdsa(curve: &str) -> Self {
        let algorithm = match curve {
            "P-256" => &ECDSA_P256_SHA256_FIXED_SIGNING,
            _ => &ECDSA_P384_SHA384_FIXED_SIGNING,
        };
        let key = EcdsaKeyPair::generate(algorithm).unwrap();
        let (x, y) = {
            let point = &key.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            (base64(x), base64(y))
        };
        Self {
            key: PrivateKey::Ecdsa(key),
            jwk: json!({ "kty": "EC", "crv": curve, "x": x, "y": y }),
        }
    }

    pub(in crate::account) fn ed25519() -> Self {
        let key = Ed25519KeyPair::generate().unwrap();
        let x = base64(key.public_key());
        Self {
            key: PrivateKey::Ed25519(key),
            jwk: json!({ "kty": "OKP", "crv": "Ed25519", "x": x }),
        }
    }

    /// The key as it is published, with these members more.
    pub(in crate::account) fn published(&self, more: &Value) -> Value {
        let mut jwk = self.jwk.clone();
        for (name, value) in more.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }

    pub(in crate::account) fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            PrivateKey::Ecdsa(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            PrivateKey::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            PrivateKey::Rsa(key) => {
                let padding: &'static dyn aws_lc_rs::signature::RsaEncoding = match algorithm {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// A token with this header and these claims.
    pub(in crate::account) fn token_with(&self, header: &Value, claims: &str) -> String {
        let message = format!("{}.{}", base64(header.to_string()), base64(claims));
        let algorithm = header["alg"].as_str().unwrap();
        let signature = self.sign(algorithm, message.as_bytes());
        format!("{message}.{}", base64(signature))
    }

    /// A good token of alice's.
    pub(in crate::account) fn token(&self, algorithm: &str, key_id: &str) -> String {
        let header = json!({ "alg": algorithm, "kid": key_id, "typ": "at+jwt" });
        self.token_with(&header, &claims().to_string())
    }
}

pub(in crate::account) fn claims() -> Value {
    let hour = jiff::SignedDuration::from_hours(1);
    let expires = Now::read().wall.checked_add(hour).unwrap();
    json!({
        "iss": ISSUER, "sub": "7c1e", "aud": ["smtp"], "email": "alice@example.org",
        "exp": expires.as_second(),
    })
}

/// One key of each kind; making an RSA key takes a while.
pub(in crate::account) struct Signers {
    pub(in crate::account) rsa: Signer,
    pub(in crate::account) p256: Signer,
    pub(in crate::account) p384: Signer,
    pub(in crate::account) ed25519: Signer,
}

pub(in crate::account) static SIGNERS: LazyLock<Signers> = LazyLock::new(|| Signers {
    rsa: Signer::rsa(),
    p256: Signer::ecdsa("P-256"),
    p384: Signer::ecdsa("P-384"),
    ed25519: Signer::ed25519(),
});

impl Signers {
    pub(in crate::account) fn of(&self, algorithm: &str) -> &Signer {
        match algorithm {
            "ES256" => &self.p256,
            "ES384" => &self.p384,
            "EdDSA" => &self.ed25519,
            _ => &self.rsa,
        }
    }

    /// All of them, each under the name of its kind.
    pub(in crate::account) fn set(&self) -> Vec<u8> {
        let keys = [
            ("rsa", &self.rsa),
            ("p256", &self.p256),
            ("p384", &self.p384),
            ("ed25519", &self.ed25519),
        ];
        set(&keys.map(|(id, signer)| signer.published(&json!({ "kid": id }))))
    }
}

pub(in crate::account) fn set(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

pub(in crate::account) fn key_id(algorithm: &str) -> &'static str {
    match algorithm {
        "ES256" => "p256",
        "ES384" => "p384",
        "EdDSA" => "ed25519",
        _ => "rsa",
    }
}
