//! The keys of an issuer (a JWK set, RFC 7517), and signed tokens (JWT, RFC 7519) checked against them.
//!
//! Which algorithms count is said by the operator, and only those with a public key can be said: neither `none` nor a
//! public key taken for a shared secret gets anybody in. A key is used for the algorithms of its own kind alone.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;

use super::claims::Claims;
use super::name_of;
use crate::decision::TokenFault;

/// Keys in one set: what one token without the name of a key can make us try. Providers have a handful.
const KEYS_MAX: usize = 64;
/// Octets of the modulus of an RSA key: 2048 to 8192 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// The keys of an issuer that can sign tokens.
#[derive(Debug)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    kind: Kind,
    /// The only algorithm that it is for, where it says so.
    algorithm: Option<String>,
    key: DecodingKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ed25519,
    P256,
    P384,
    Rsa,
}

/// Why something is not a set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeysError {
    #[error("there is no set of keys (RFC 7517 section 5)")]
    NoSet,
    #[error("there is no key for signatures in the set of keys")]
    NoKey,
    #[error("there are more than {KEYS_MAX} keys")]
    TooMany,
}

/// A token in the form of a JWT, and what it says of itself before anybody has looked at its signature.
#[derive(Debug)]
pub(super) struct Jwt<'t> {
    token: &'t str,
    algorithm: String,
    key_id: Option<String>,
    /// From whom it says that it is.
    pub(super) issuer: Option<String>,
}

impl KeySet {
    /// Reads a set of keys. What is not for signatures, or of a kind that we do not know, is passed over.
    pub(super) fn parse(octets: &[u8]) -> Result<Self, KeysError> {
        let set: Value = serde_json::from_slice(octets).map_err(|_| KeysError::NoSet)?;
        let Some(Value::Array(written)) = set.get("keys") else {
            return Err(KeysError::NoSet);
        };
        if written.len() > KEYS_MAX {
            return Err(KeysError::TooMany);
        }
        let keys: Vec<Key> = written.iter().filter_map(Key::read).collect();
        match keys.is_empty() {
            true => Err(KeysError::NoKey),
            false => Ok(Self(keys)),
        }
    }

    /// What the token says, if one of the keys has signed it by one of these algorithms.
    ///
    /// [`TokenFault::Key`] means that a newer set may have the key.
    pub(super) fn verify(
        &self,
        jwt: &Jwt<'_>,
        algorithms: &[Algorithm],
    ) -> Result<Claims, TokenFault> {
        let algorithm = algorithms
            .iter()
            .copied()
            .find(|algorithm| name_of(*algorithm) == jwt.algorithm)
            .ok_or(TokenFault::Algorithm)?;
        let is_named = |key: &&Key| jwt.key_id.is_some() && key.id == jwt.key_id;
        let named = self.0.iter().any(|key| is_named(&key));
        let candidates = self.0.iter().filter(|key| match named {
            true => is_named(key),
            // A set may name none of its keys, and a token none.
            false => key.id.is_none() || jwt.key_id.is_none(),
        });
        let mut fitting = candidates.filter(|key| key.is_for(algorithm)).peekable();
        if named && fitting.peek().is_none() {
            return Err(TokenFault::Algorithm);
        }
        let mut validation = Validation::new(algorithm);
        // Who may use it and when is judged by Claims, for all tokens alike.
        validation.required_spec_claims.clear();
        validation.validate_aud = false;
        validation.validate_exp = false;
        validation.validate_nbf = false;
        for key in fitting {
            match jsonwebtoken::decode::<Claims>(jwt.token, &key.key, &validation) {
                Ok(decoded) => return Ok(decoded.claims),
                Err(error) if is_about_signature(error.kind()) => {}
                Err(_) => return Err(TokenFault::Malformed),
            }
        }
        Err(match named {
            true => TokenFault::Signature,
            false => TokenFault::Key,
        })
    }
}

/// Another key may do better.
fn is_about_signature(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::InvalidSignature
            | ErrorKind::InvalidEcdsaKey
            | ErrorKind::InvalidRsaKey(_)
            | ErrorKind::InvalidKeyFormat
    )
}

impl Key {
    fn read(written: &Value) -> Option<Self> {
        let text = |name: &str| written.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        if let Some(operations) = written.get("key_ops") {
            let operations = operations.as_array()?;
            if !operations.iter().any(|operation| operation == "verify") {
                return None;
            }
        }
        let kind = match (text("kty")?, text("crv")) {
            ("RSA", _) => Kind::Rsa,
            ("EC", Some("P-256")) => Kind::P256,
            ("EC", Some("P-384")) => Kind::P384,
            ("OKP", Some("Ed25519")) => Kind::Ed25519,
            _ => return None,
        };
        if kind == Kind::Rsa {
            let modulus = BASE64_URL_SAFE_NO_PAD.decode(text("n")?).ok()?;
            let zeros = modulus.iter().take_while(|&&octet| octet == 0).count();
            if !MODULUS_BYTES.contains(&(modulus.len() - zeros)) {
                return None;
            }
        }
        let jwk: Jwk = serde_json::from_value(without_extras(written)).ok()?;
        Some(Self {
            id: text("kid").map(str::to_owned),
            kind,
            algorithm: text("alg").map(str::to_owned),
            key: DecodingKey::from_jwk(&jwk).ok()?,
        })
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        let of_kind = match algorithm {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => self.kind == Kind::Rsa,
            Algorithm::ES256 => self.kind == Kind::P256,
            Algorithm::ES384 => self.kind == Kind::P384,
            Algorithm::EdDSA => self.kind == Kind::Ed25519,
            _ => false,
        };
        let only = self.algorithm.as_deref();
        of_kind && only.is_none_or(|only| only == name_of(algorithm))
    }
}

/// The key itself, without what providers add to it and a strict reader might stumble over.
fn without_extras(written: &Value) -> Value {
    let members = ["kty", "crv", "n", "e", "x", "y"];
    let members = members
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), written.get(name)?.clone())));
    Value::Object(members.collect())
}

impl<'t> Jwt<'t> {
    /// Looks at a token; `None` if it does not have the form, and only its issuer can tell what it is.
    pub(super) fn peek(token: &'t str) -> Option<Result<Self, TokenFault>> {
        let parts: Vec<&str> = token.splitn(4, '.').collect();
        let [header, claims, _signature] = parts[..] else {
            return None;
        };
        let read = |part: &str| Claims::parse(&BASE64_URL_SAFE_NO_PAD.decode(part).ok()?);
        let header = read(header)?;
        let algorithm = header.text("alg")?.to_owned();
        let Some(claims) = read(claims) else {
            return Some(Err(TokenFault::Malformed));
        };
        // RFC 7515 section 4.1.11: whoever does not understand what is critical must refuse, and we know nothing that
        // would be.
        if header.get("crit").is_some() {
            return Some(Err(TokenFault::Malformed));
        }
        Some(Ok(Self {
            token,
            algorithm,
            key_id: header.text("kid").map(str::to_owned),
            issuer: claims.text("iss").map(str::to_owned),
        }))
    }
}
