//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, the server's side (RFC 5802, RFC 7677).
//!
//! The client proves that it knows the password and never sends it; the server proves that it knows the client's keys.
//! What is stored ([`Keys`]) lets nobody log in, but can be guessed against at the price of its iterations. The octets
//! go in and out of [`Exchange`](super::Exchange); keys and the server's nonce come from the credential store as an
//! [`Offer`]. Names and passwords arrive here prepared (RFC 4013) or are handed out to be.
//!
//! SCRAM asks for one salt per name, so the several secrets of one account share salt and iterations
//! ([`Verifier`]), and a proof may be one of any of them.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::sync::Arc;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use zeroize::Zeroizing;

use super::{ChannelBindings, ExchangeError};

/// Iterations of stored keys. RFC 7677 section 4 wants 4096 at least; at a million one PLAIN login against such keys
/// takes as long as several argon2id hashes.
pub const ITERATIONS: RangeInclusive<u32> = 4096..=1_000_000;
/// Octets in a salt.
pub const SALT_BYTES: RangeInclusive<usize> = 8..=64;
/// Octets in a key and in a proof.
pub const KEY_BYTES: usize = digest::SHA256_OUTPUT_LEN;
/// Octets in the client's part of the nonce. It is repeated to the client and held for one turn.
const CLIENT_NONCE_BYTES_MAX: usize = 512;
/// Octets in a stored text that is read at all.
const TEXT_BYTES_MAX: usize = 512;
/// The name of the mechanism, at the beginning of a stored text.
const SCHEME: &str = "SCRAM-SHA-256";

/// What the server keeps of one password: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, the keys and the salt in
/// base64. This is the form that PostgreSQL and others use.
#[derive(Clone)]
pub struct Keys {
    salt: Vec<u8>,
    iterations: NonZeroU32,
    pair: KeyPair,
}

/// StoredKey and ServerKey (RFC 5802 section 3).
#[derive(Clone)]
struct KeyPair {
    stored_key: [u8; KEY_BYTES],
    server_key: Zeroizing<[u8; KEY_BYTES]>,
}

/// Why a text is no [`Keys`]. The text itself is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// It does not have the form.
    #[error("are not SCRAM keys (`SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`)")]
    Malformed,
    /// Outside [`ITERATIONS`].
    #[error("take {0} iterations: 4096 to 1000000 are allowed")]
    Iterations(u32),
    /// Outside [`SALT_BYTES`].
    #[error("have a salt of {0} octets: 8 to 64 are allowed")]
    Salt(usize),
}

impl Keys {
    /// The keys of `password`, which is prepared. Takes as long as its iterations do.
    pub fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        Self {
            salt: salt.to_vec(),
            iterations,
            pair: KeyPair::derive(password, salt, iterations),
        }
    }

    /// Reads the stored text.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let rest = text
            .strip_prefix(SCHEME)
            .and_then(|rest| rest.strip_prefix('$'))
            .filter(|_| text.len() <= TEXT_BYTES_MAX)
            .ok_or(KeysError::Malformed)?;
        let (cost, pair) = rest.split_once('$').ok_or(KeysError::Malformed)?;
        let (iterations, salt) = cost.split_once(':').ok_or(KeysError::Malformed)?;
        let (stored_key, server_key) = pair.split_once(':').ok_or(KeysError::Malformed)?;
        let octets = |text: &str| {
            BASE64_STANDARD
                .decode(text)
                .map_err(|_| KeysError::Malformed)
        };
        let key = |text: &str| {
            let octets = Zeroizing::new(octets(text)?);
            <[u8; KEY_BYTES]>::try_from(octets.as_slice()).map_err(|_| KeysError::Malformed)
        };
        let iterations = parse_number(iterations).ok_or(KeysError::Malformed)?;
        let salt = octets(salt)?;
        let (stored_key, server_key) = (key(stored_key)?, Zeroizing::new(key(server_key)?));
        let checked = NonZeroU32::new(iterations).filter(|_| ITERATIONS.contains(&iterations));
        let iterations = checked.ok_or(KeysError::Iterations(iterations))?;
        if !SALT_BYTES.contains(&salt.len()) {
            return Err(KeysError::Salt(salt.len()));
        }
        Ok(Self {
            salt,
            iterations,
            pair: KeyPair {
                stored_key,
                server_key,
            },
        })
    }

    /// The text that [`parse`](Self::parse) reads. It is a secret, so there is no `Display`.
    pub fn to_text(&self) -> String {
        let base64 = |octets: &[u8]| BASE64_STANDARD.encode(octets);
        format!(
            "{SCHEME}${}:{}${}:{}",
            self.iterations,
            base64(&self.salt),
            base64(&self.pair.stored_key),
            base64(self.pair.server_key.as_slice())
        )
    }

    /// Whether both can be the keys of one name: the server can ask for one salt only.
    pub fn shares_salt_with(&self, other: &Self) -> bool {
        self.salt == other.salt && self.iterations == other.iterations
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} iterations, ..)", self.iterations)
    }
}

impl KeyPair {
    fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted_password = Zeroizing::new([0; KEY_BYTES]);
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            password,
            salted_password.as_mut_slice(),
        );
        let client_key = Zeroizing::new(hmac_sha256(salted_password.as_slice(), b"Client Key"));
        Self {
            stored_key: sha256(client_key.as_slice()),
            server_key: Zeroizing::new(hmac_sha256(salted_password.as_slice(), b"Server Key")),
        }
    }
}

/// What one login is checked against: the keys of all secrets that a name has, under its one salt.
#[derive(Clone)]
pub struct Verifier {
    salt: Vec<u8>,
    iterations: NonZeroU32,
    /// Never empty.
    pairs: Vec<KeyPair>,
}

impl Verifier {
    /// `None` if there are no keys, or they do not share salt and iterations.
    pub fn new(keys: &[Keys]) -> Option<Self> {
        let first = keys.first()?;
        let shared = |other: &Keys| first.shares_salt_with(other);
        keys.iter().all(shared).then(|| Self {
            salt: first.salt.clone(),
            iterations: first.iterations,
            pairs: keys.iter().map(|keys| keys.pair.clone()).collect(),
        })
    }

    /// For a name without keys: it asks for a proof like any other, and no proof is right for it.
    pub fn nobodys(salt: Vec<u8>, iterations: NonZeroU32) -> Self {
        // A key whose SHA-256 is zero is not known to anybody.
        let pair = KeyPair {
            stored_key: [0; KEY_BYTES],
            server_key: Zeroizing::new([0; KEY_BYTES]),
        };
        Self {
            salt,
            iterations,
            pairs: vec![pair],
        }
    }

    /// The iterations.
    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// The salt.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Which of the secrets `password` is; it is prepared. Takes as long as the iterations do.
    pub fn matching_password(&self, password: &[u8]) -> Option<usize> {
        let tried = KeyPair::derive(password, &self.salt, self.iterations);
        self.first_with(|pair| pair.stored_key.ct_eq(&tried.stored_key))
    }

    /// Whether both are the same stored keys.
    pub fn same_as(&self, other: &Self) -> bool {
        let same = |(one, other): (&KeyPair, &KeyPair)| {
            bool::from(
                one.stored_key.ct_eq(&other.stored_key)
                    & one.server_key.ct_eq(other.server_key.as_slice()),
            )
        };
        self.salt == other.salt
            && self.iterations == other.iterations
            && self.pairs.len() == other.pairs.len()
            && self.pairs.iter().zip(&other.pairs).all(same)
    }

    /// Gives all that makes these keys the ones that they are, piece by piece.
    pub fn each_part(&self, mut take: impl FnMut(&[u8])) {
        take(&self.iterations.get().to_le_bytes());
        take(&self.salt);
        for pair in &self.pairs {
            take(&pair.stored_key);
        }
    }

    /// RFC 5802 section 3: whose proof it is, and what the server answers to it.
    fn check(&self, auth_message: &[u8], proof: &[u8; KEY_BYTES]) -> (Option<usize>, String) {
        let matched = self.first_with(|pair| {
            let signature = Zeroizing::new(hmac_sha256(&pair.stored_key, auth_message));
            let mut client_key = Zeroizing::new([0; KEY_BYTES]);
            for ((key, proof), signature) in client_key.iter_mut().zip(proof).zip(signature.iter())
            {
                *key = proof ^ signature;
            }
            sha256(client_key.as_slice()).ct_eq(&pair.stored_key)
        });
        let server_key = &self.pairs[matched.unwrap_or(0)].server_key;
        let signature = hmac_sha256(server_key.as_slice(), auth_message);
        (matched, BASE64_STANDARD.encode(signature))
    }

    /// The first pair for which `holds`, looking at all of them.
    fn first_with(&self, holds: impl Fn(&KeyPair) -> Choice) -> Option<usize> {
        let (mut found, mut index) = (Choice::from(0), 0_u32);
        for (at, pair) in (0_u32..).zip(&self.pairs) {
            let now = holds(pair) & !found;
            index.conditional_assign(&at, now);
            found |= now;
        }
        bool::from(found).then_some(index as usize)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Verifier({} iterations, {} keys, ..)",
            self.iterations,
            self.pairs.len()
        )
    }
}

/// What the store gives for a name: keys, and randomness for one exchange.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The name's keys; for a name that has none, [`Verifier::nobodys`].
    pub verifier: Arc<Verifier>,
    /// The server's part of the nonce: printable ASCII without commas, and never the same twice.
    pub nonce: String,
}

/// What the client has said when it has proven something, or nothing.
#[derive(Clone, Debug)]
pub struct Proof {
    /// What it was checked against.
    pub verifier: Arc<Verifier>,
    /// Which of the verifier's secrets the client knows; `None`: none.
    pub matched: Option<usize>,
}

/// The server's side of one exchange.
#[derive(Debug)]
pub(super) struct Server {
    /// Whether the mechanism is the one with channel binding.
    plus: bool,
    bindings: ChannelBindings,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing is said yet.
    Begun,
    /// The client's first message is there, the store's answer is not.
    Named(First),
    /// The server's first message is sent.
    Asked {
        first: First,
        server_first: String,
        /// Both halves.
        nonce: String,
        verifier: Arc<Verifier>,
    },
    /// The client's final message is there; this is the server's, for a client that has proven something.
    Answered { server_final: Option<String> },
}

/// The client's first message (RFC 5802 section 7).
#[derive(Debug, PartialEq, Eq)]
struct First {
    gs2_header: String,
    /// What the channel binding must be, behind the header, in `c=`.
    binding: Vec<u8>,
    authorization_identity: String,
    bare: String,
    name: String,
    nonce: String,
}

/// What a message of the client leads to.
#[derive(Debug)]
pub(super) enum Progress {
    /// Look this name up.
    LookUp(String),
    /// The client has said all.
    Proven {
        authorization_identity: String,
        authentication_identity: String,
        proof: Proof,
    },
}

impl Server {
    pub(super) fn new(plus: bool, bindings: &ChannelBindings) -> Self {
        Self {
            plus,
            bindings: bindings.clone(),
            state: State::Begun,
        }
    }

    /// Takes a message of the client.
    pub(super) fn take(&mut self, message: &[u8]) -> Result<Progress, ExchangeError> {
        let text = std::str::from_utf8(message).map_err(|_| ExchangeError::Malformed)?;
        match std::mem::replace(&mut self.state, State::Begun) {
            State::Begun => {
                let first = self.first(text)?;
                let name = first.name.clone();
                self.state = State::Named(first);
                Ok(Progress::LookUp(name))
            }
            State::Asked {
                first,
                server_first,
                nonce,
                verifier,
            } => self.last(text, first, &server_first, &nonce, verifier),
            // No message of the client is waited for.
            State::Named(_) | State::Answered { .. } => Err(ExchangeError::Malformed),
        }
    }

    /// Goes on with what the store has found; the server's first message.
    pub(super) fn found(&mut self, offer: Offer) -> Result<String, ExchangeError> {
        let State::Named(first) = std::mem::replace(&mut self.state, State::Begun) else {
            return Err(ExchangeError::Malformed);
        };
        let Offer { verifier, nonce } = offer;
        let nonce = format!("{}{nonce}", first.nonce);
        let server_first = format!(
            "r={nonce},s={},i={}",
            BASE64_STANDARD.encode(&verifier.salt),
            verifier.iterations
        );
        self.state = State::Asked {
            first,
            server_first: server_first.clone(),
            nonce,
            verifier,
        };
        Ok(server_first)
    }

    /// The server's final message, for a client whose claim was accepted.
    pub(super) fn server_final(&mut self) -> Option<String> {
        match std::mem::replace(&mut self.state, State::Begun) {
            State::Answered { server_final } => server_final,
            other => {
                self.state = other;
                None
            }
        }
    }

    /// `client-first-message = gs2-header client-first-message-bare`
    fn first(&self, text: &str) -> Result<First, ExchangeError> {
        let mut parts = text.splitn(3, ',');
        let (Some(flag), Some(authorization), Some(bare)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(ExchangeError::Malformed);
        };
        let binding = match flag {
            // RFC 5802 section 6: the client could bind and was told that we cannot. If we have offered it, somebody
            // in the middle has taken it away.
            "y" if !self.plus && !self.bindings.is_empty() => return Err(ExchangeError::Downgrade),
            "n" | "y" if !self.plus => Vec::new(),
            _ => match flag.strip_prefix("p=") {
                Some(kind) if self.plus => self
                    .bindings
                    .data(kind)
                    .ok_or(ExchangeError::BindingUnsupported)?
                    .to_vec(),
                _ => return Err(ExchangeError::Malformed),
            },
        };
        let authorization_identity = match authorization.strip_prefix("a=") {
            // Not in the grammar, and what GNU SASL sends for "myself".
            Some("") => String::new(),
            Some(name) => decode_saslname(name)?,
            None if authorization.is_empty() => String::new(),
            None => return Err(ExchangeError::Malformed),
        };
        let mut attributes = bare.split(',');
        let name = match attributes.next().and_then(|part| part.split_once('=')) {
            Some(("n", name)) => decode_saslname(name)?,
            // RFC 5802 section 5.1: an extension that must be understood.
            Some(("m", _)) => return Err(ExchangeError::ExtensionUnsupported),
            _ => return Err(ExchangeError::Malformed),
        };
        let nonce = match attributes.next().and_then(|part| part.split_once('=')) {
            Some(("r", nonce)) if is_nonce(nonce) => nonce.to_owned(),
            _ => return Err(ExchangeError::Malformed),
        };
        if !attributes.all(is_attribute) {
            return Err(ExchangeError::Malformed);
        }
        Ok(First {
            gs2_header: text[..text.len() - bare.len()].to_owned(),
            binding,
            authorization_identity,
            bare: bare.to_owned(),
            name,
            nonce,
        })
    }

    /// `client-final-message = channel-binding "," nonce ["," extensions] "," proof`
    fn last(
        &mut self,
        text: &str,
        first: First,
        server_first: &str,
        expected_nonce: &str,
        verifier: Arc<Verifier>,
    ) -> Result<Progress, ExchangeError> {
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(ExchangeError::Malformed)?;
        let mut attributes = without_proof.split(',');
        let mut value = |key: &str| {
            attributes
                .next()
                .and_then(|part| part.split_once('='))
                .filter(|(name, _)| *name == key)
                .map(|(_, value)| value.to_owned())
                .ok_or(ExchangeError::Malformed)
        };
        let (binding, nonce) = (value("c")?, value("r")?);
        if !attributes.all(is_attribute) {
            return Err(ExchangeError::Malformed);
        }
        let decode = |text: &str| {
            BASE64_STANDARD
                .decode(text)
                .map_err(|_| ExchangeError::Malformed)
        };
        let binding = decode(&binding)?;
        let proof =
            <[u8; KEY_BYTES]>::try_from(decode(proof)?).map_err(|_| ExchangeError::Malformed)?;
        if nonce != expected_nonce {
            return Err(ExchangeError::AnotherExchange);
        }
        let expected = [first.gs2_header.as_bytes(), &first.binding].concat();
        if !bool::from(binding.ct_eq(&expected)) {
            return Err(ExchangeError::BindingMismatch);
        }
        let auth_message = format!("{},{server_first},{without_proof}", first.bare);
        let (matched, signature) = verifier.check(auth_message.as_bytes(), &proof);
        self.state = State::Answered {
            server_final: matched.map(|_| format!("v={signature}")),
        };
        Ok(Progress::Proven {
            authorization_identity: first.authorization_identity,
            authentication_identity: first.name,
            proof: Proof { verifier, matched },
        })
    }
}

/// `saslname = 1*(value-safe-char / "=2C" / "=3D")`
pub(super) fn decode_saslname(text: &str) -> Result<String, ExchangeError> {
    let mut parts = text.split('=');
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (character, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            (None, None) => return Err(ExchangeError::Malformed),
        };
        name.push(character);
        name.push_str(rest);
    }
    if name.is_empty() || name.contains('\0') {
        return Err(ExchangeError::Malformed);
    }
    Ok(name)
}

/// `printable = %x21-2B / %x2D-7E`
fn is_nonce(text: &str) -> bool {
    (1..=CLIENT_NONCE_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'!'..=b'+' | b'-'..=b'~'))
}

/// `attr-val = ALPHA "=" value`: an extension that may be passed over.
fn is_attribute(text: &str) -> bool {
    matches!(text.as_bytes(), [name, b'=', _, ..] if name.is_ascii_alphabetic())
        && !text.contains('\0')
}

/// `posit-number = %x31-39 *DIGIT`
fn parse_number(text: &str) -> Option<u32> {
    let well_formed = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| well_formed)
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; KEY_BYTES] {
    let mut code = [0; KEY_BYTES];
    code.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref());
    code
}

fn sha256(message: &[u8]) -> [u8; KEY_BYTES] {
    let mut hash = [0; KEY_BYTES];
    hash.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::super::{Exchange, Mechanism, Turn};
    use super::*;
    use crate::decision::Claim;
    use crate::secret::Secret;

    const BINDING: [u8; 32] = [7; 32];
    const CLIENT_FIRST_BARE: &str = "n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn keys(password: &str) -> Keys {
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        Keys::derive(password.as_bytes(), &salt, NonZeroU32::new(4096).unwrap())
    }

    fn offer(passwords: &[&str]) -> Offer {
        let keys: Vec<Keys> = passwords.iter().map(|password| keys(password)).collect();
        Offer {
            verifier: Arc::new(Verifier::new(&keys).unwrap()),
            nonce: SERVER_NONCE.to_owned(),
        }
    }

    fn bindings(exporter: bool) -> ChannelBindings {
        ChannelBindings {
            exporter: exporter.then_some(BINDING),
            server_end_point: None,
        }
    }

    fn text(turn: Result<Turn, ExchangeError>) -> String {
        match turn {
            Ok(Turn::Challenge(challenge)) => String::from_utf8(challenge).unwrap(),
            Ok(Turn::LookUp(name)) => format!("look up {name}"),
            Ok(Turn::Check(Claim::Scram {
                authorization_identity,
                authentication_identity,
                proof,
            })) => format!(
                "{authentication_identity} as {authorization_identity:?}: {:?}",
                proof.matched
            ),
            Ok(other) => panic!("{other:?}"),
            Err(error) => error.to_string(),
        }
    }

    fn step(exchange: &mut Exchange, message: &str) -> String {
        text(exchange.step(Some(&Secret::from(message))))
    }

    /// What a client that knows `password` sends at the end.
    fn client_final(
        password: &str,
        gs2_header: &str,
        binding: &[u8],
        bare: &str,
        server_first: &str,
    ) -> String {
        let (nonce, _) = server_first.split_once(",s=").unwrap();
        let binding = BASE64_STANDARD.encode([gs2_header.as_bytes(), binding].concat());
        let without_proof = format!("c={binding},{nonce}");
        let mut salted = [0; KEY_BYTES];
        let keys = keys(password);
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            keys.iterations,
            &keys.salt,
            password.as_bytes(),
            &mut salted,
        );
        let client_key = hmac_sha256(&salted, b"Client Key");
        let auth_message = format!("{bare},{server_first},{without_proof}");
        let signature = hmac_sha256(&sha256(&client_key), auth_message.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(signature)
            .map(|(key, octet)| key ^ octet)
            .collect();
        format!("{without_proof},p={}", BASE64_STANDARD.encode(proof))
    }

    #[test]
    fn the_example_of_rfc_7677() {
        let mut exchange = Exchange::new(Mechanism::ScramSha256, &bindings(false));
        assert_eq!(
            text(exchange.step(None)),
            "",
            "an empty challenge asks for the first message"
        );
        let first = format!("n,,{CLIENT_FIRST_BARE}");
        assert_eq!(step(&mut exchange, &first), "look up user");
        assert_eq!(text(exchange.found(offer(&["pencil"]))), SERVER_FIRST);
        assert_eq!(exchange.last_challenge(), None, "nothing is proven yet");
        assert_eq!(step(&mut exchange, CLIENT_FINAL), "user as \"\": Some(0)");
        assert_eq!(exchange.last_challenge().unwrap(), SERVER_FINAL.as_bytes());
        assert_eq!(exchange.last_challenge(), None);
    }

    #[test]
    fn any_secret_of_the_name_will_do_and_no_other() {
        let finish = |passwords: &[&str], used: &str| {
            let mut exchange = Exchange::new(Mechanism::ScramSha256, &bindings(false));
            step(&mut exchange, &format!("n,a=boss,{CLIENT_FIRST_BARE}"));
            let server_first = text(exchange.found(offer(passwords)));
            let last = client_final(used, "n,a=boss,", b"", CLIENT_FIRST_BARE, &server_first);
            step(&mut exchange, &last)
        };
        assert_eq!(
            finish(&["one", "other"], "one"),
            "user as \"boss\": Some(0)"
        );
        assert_eq!(
            finish(&["one", "other"], "other"),
            "user as \"boss\": Some(1)"
        );
        assert_eq!(finish(&["one", "other"], "third"), "user as \"boss\": None");
        let mut exchange = Exchange::new(Mechanism::ScramSha256, &bindings(false));
        step(&mut exchange, &format!("n,,{CLIENT_FIRST_BARE}"));
        let nobody = Offer {
            verifier: Arc::new(Verifier::nobodys(keys("").salt, keys("").iterations)),
            nonce: SERVER_NONCE.to_owned(),
        };
        assert_eq!(text(exchange.found(nobody)), SERVER_FIRST);
        assert_eq!(step(&mut exchange, CLIENT_FINAL), "user as \"\": None");
    }

    #[test]
    fn channel_binding() {
        let finish = |bound: &[u8], header: &str| {
            let mut exchange = Exchange::new(Mechanism::ScramSha256Plus, &bindings(true));
            let looked_up = step(&mut exchange, &format!("{header}{CLIENT_FIRST_BARE}"));
            if looked_up != "look up user" {
                return looked_up;
            }
            let server_first = text(exchange.found(offer(&["pencil"])));
            let last = client_final("pencil", header, bound, CLIENT_FIRST_BARE, &server_first);
            step(&mut exchange, &last)
        };
        let exporter = "p=tls-exporter,,";
        assert_eq!(finish(&BINDING, exporter), "user as \"\": Some(0)");
        let mismatch = ExchangeError::BindingMismatch.to_string();
        assert_eq!(finish(&[8; 32], exporter), mismatch);
        assert_eq!(finish(b"", exporter), mismatch);
        for kind in ["tls-unique", "tls-server-end-point", "", "TLS-EXPORTER"] {
            let said = finish(&BINDING, &format!("p={kind},,"));
            assert_eq!(
                said,
                ExchangeError::BindingUnsupported.to_string(),
                "{kind}"
            );
        }
        for header in ["n,,", "y,,", "p,,", ",,", "x=1,,"] {
            assert_eq!(
                finish(b"", header),
                ExchangeError::Malformed.to_string(),
                "{header}"
            );
        }

        let begin = |offered: bool, header: &str| {
            let mut exchange = Exchange::new(Mechanism::ScramSha256, &bindings(offered));
            step(&mut exchange, &format!("{header}{CLIENT_FIRST_BARE}"))
        };
        assert_eq!(begin(true, "n,,"), "look up user");
        assert_eq!(begin(false, "y,,"), "look up user");
        assert_eq!(begin(true, "y,,"), ExchangeError::Downgrade.to_string());
        assert_eq!(begin(true, exporter), ExchangeError::Malformed.to_string());
    }

    #[test]
    fn first_messages() {
        let malformed = ExchangeError::Malformed.to_string();
        let long = "r".repeat(CLIENT_NONCE_BYTES_MAX + 1);
        for (message, said) in [
            ("n,,n=a=2Cb=3Dc,r=x", "look up a,b=c"),
            ("n,,n=\u{e9},r=x,z=optional", "look up \u{e9}"),
            ("n,a=x=2C,n=user,r=x", "look up user"),
            (
                "n,,m=ext,n=user,r=x",
                &ExchangeError::ExtensionUnsupported.to_string(),
            ),
            ("", &malformed),
            ("n,,", &malformed),
            ("n,n=user,r=x", &malformed),
            ("n,,n=user", &malformed),
            ("n,,r=x,n=user", &malformed),
            ("n,,n=,r=x", &malformed),
            ("n,,n=user,r=", &malformed),
            ("n,,n=user,r=a b", &malformed),
            ("n,,n=us=er,r=x", &malformed),
            ("n,,n=us=2cer,r=x", &malformed),
            ("n,,n=us\0er,r=x", &malformed),
            ("n,b=x,n=user,r=x", &malformed),
            ("n,,n=user,r=x,", &malformed),
            ("n,,n=user,r=x,1=2", &malformed),
            (&format!("n,,n=user,r={long}"), &malformed),
        ] {
            let mut exchange = Exchange::new(Mechanism::ScramSha256, &bindings(false));
            assert_eq!(step(&mut exchange, message), said, "{message:?}");
        }
        let mut exchange = Exchange::new(Mechanism::ScramSha256, &bindings(false));
        let latin = Secret::new(b"n,,n=\xe9,r=x".to_vec());
        assert_eq!(text(exchange.step(Some(&latin))), malformed);
    }

    #[test]
    fn final_messages() {
        let (head, proof) = CLIENT_FINAL.rsplit_once(",p=").unwrap();
        let malformed = ExchangeError::Malformed.to_string();
        for (message, said) in [
            (CLIENT_FINAL.to_owned(), "user as \"\": Some(0)"),
            // What is added counts in the proof.
            (format!("{head},z=y,p={proof}"), "user as \"\": None"),
            (CLIENT_FINAL.replace("dHzb", "dHzc"), "user as \"\": None"),
            (
                CLIENT_FINAL.replace("$k0", "$k1"),
                &ExchangeError::AnotherExchange.to_string(),
            ),
            (
                CLIENT_FINAL.replace("%hv", "%hw"),
                &ExchangeError::AnotherExchange.to_string(),
            ),
            (
                CLIENT_FINAL.replace("biws", "eSws"),
                &ExchangeError::BindingMismatch.to_string(),
            ),
            (format!("{head},p={}", &proof[4..]), &malformed),
            (format!("{head},p={proof}="), &malformed),
            (head.to_owned(), &malformed),
            (format!("{CLIENT_FINAL},z=y"), &malformed),
            (CLIENT_FINAL.replace("c=biws,", ""), &malformed),
            (format!("n,,{CLIENT_FIRST_BARE}"), &malformed),
            (String::new(), &malformed),
        ] {
            let mut exchange = Exchange::new(Mechanism::ScramSha256, &bindings(false));
            step(&mut exchange, &format!("n,,{CLIENT_FIRST_BARE}"));
            text(exchange.found(offer(&["pencil"])));
            assert_eq!(step(&mut exchange, &message), said, "{message}");
        }
    }

    #[test]
    fn stored_texts() {
        let text = keys("pencil").to_text();
        // As PostgreSQL stores it.
        assert!(
            text.starts_with("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"),
            "{text}"
        );
        let read = Keys::parse(&text).unwrap();
        assert_eq!(read.to_text(), text);
        let verifier = Verifier::new(&[read]).unwrap();
        assert_eq!(verifier.matching_password(b"pencil"), Some(0));
        assert_eq!(verifier.matching_password(b"pen"), None);
        assert!(!format!("{verifier:?}{:?}", keys("pencil")).contains("W22Z"));
        for (broken, error) in [
            (
                text.replace("SCRAM-SHA-256", "SCRAM-SHA-1"),
                KeysError::Malformed,
            ),
            (text.replace("$4096", "$04096"), KeysError::Malformed),
            (text.replace("$4096", "$+4096"), KeysError::Malformed),
            (text.replace("$4096", "$4095"), KeysError::Iterations(4095)),
            (
                text.replace("$4096", "$1000001"),
                KeysError::Iterations(1_000_001),
            ),
            (text.replace("$4096", "$99999999999"), KeysError::Malformed),
            (
                text.replace("W22ZaJ0SNY7soEsUEjb6gQ==", "W22Z"),
                KeysError::Salt(3),
            ),
            (text[..text.len() - 4].to_owned(), KeysError::Malformed),
            (format!("{text}AAAA"), KeysError::Malformed),
            ("hunter2".to_owned(), KeysError::Malformed),
            (
                format!("{text}{}", " ".repeat(TEXT_BYTES_MAX)),
                KeysError::Malformed,
            ),
        ] {
            assert_eq!(Keys::parse(&broken).unwrap_err(), error, "{broken}");
        }
    }
}
