//! SASL: the exchanges of AUTH, from base64 to a claim (RFC 4422, RFC 4954).
//!
//! An exchange only understands what the client says; whether it is true is for the credential store. A broken
//! exchange is an error, a wrong password is none.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use crate::decision::Claim;
use crate::secret::Secret;

/// A SASL mechanism that gatepost has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// LOGIN: two prompts, two answers; never standardised and known to every old device
    /// (draft-murchison-sasl-login).
    Login,
    /// PLAIN (RFC 4616).
    Plain,
}

impl Mechanism {
    /// All that there are.
    pub const ALL: [Self; 2] = [Self::Login, Self::Plain];

    /// The name on the wire and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Login => "LOGIN",
            Self::Plain => "PLAIN",
        }
    }

    /// The mechanism of this name, in any case of letters.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
    }
}

/// One AUTH exchange that has begun.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    /// LOGIN's first answer.
    login_name: Option<String>,
}

/// What comes next.
#[derive(Debug)]
pub enum Turn {
    /// Send this challenge (not yet in base64) and step again with the response.
    Challenge(&'static [u8]),
    /// The exchange is complete: check this.
    Check(Claim),
}

/// A response that the mechanism cannot understand. The exchange is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// The response is `*` (RFC 4954 section 4).
    #[error("cancelled by the client")]
    Cancelled,
    /// The response is not base64.
    #[error("response is not base64")]
    NotBase64,
    /// A name that is not UTF-8, or a NUL too many or too few.
    #[error("response does not have the form of the mechanism")]
    Malformed,
}

impl Exchange {
    /// Begins; the first [`step`](Self::step) takes the initial response, if there is one.
    pub fn new(mechanism: Mechanism) -> Self {
        Self {
            mechanism,
            login_name: None,
        }
    }

    /// Which mechanism it is.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Takes a decoded response; `None` where the client has sent none yet.
    pub fn step(&mut self, response: Option<&Secret>) -> Result<Turn, ExchangeError> {
        match (self.mechanism, response) {
            (Mechanism::Plain, None) => Ok(Turn::Challenge(b"")),
            (Mechanism::Plain, Some(response)) => parse_plain(response.expose()).map(Turn::Check),
            (Mechanism::Login, None) => Ok(Turn::Challenge(b"Username:")),
            (Mechanism::Login, Some(response)) => match self.login_name.take() {
                None => {
                    self.login_name = Some(name(response.expose())?);
                    Ok(Turn::Challenge(b"Password:"))
                }
                Some(login_name) => Ok(Turn::Check(Claim::Password {
                    authorization_identity: String::new(),
                    authentication_identity: login_name,
                    password: response.clone(),
                })),
            },
        }
    }
}

/// The octets of a response line. `=` is an empty response only as the initial one (RFC 4954 section 4), where
/// `initial` is set.
pub fn decode_response(line: &[u8], initial: bool) -> Result<Secret, ExchangeError> {
    match line {
        b"*" => Err(ExchangeError::Cancelled),
        b"=" if initial => Ok(Secret::default()),
        _ => BASE64_STANDARD
            .decode(line)
            .map(Secret::new)
            .map_err(|_| ExchangeError::NotBase64),
    }
}

/// A challenge as it goes over the wire.
pub fn encode_challenge(challenge: &[u8]) -> String {
    BASE64_STANDARD.encode(challenge)
}

/// `message = [authzid] UTF8NUL authcid UTF8NUL passwd` (RFC 4616 section 2)
fn parse_plain(response: &[u8]) -> Result<Claim, ExchangeError> {
    let mut parts = response.split(|&byte| byte == 0);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(authorization), Some(authentication), Some(password), None) => Ok(Claim::Password {
            authorization_identity: name(authorization)?,
            authentication_identity: name(authentication)?,
            password: Secret::new(password.to_vec()),
        }),
        _ => Err(ExchangeError::Malformed),
    }
}

fn name(bytes: &[u8]) -> Result<String, ExchangeError> {
    // The copy that fails to be text may be half a password.
    String::from_utf8(bytes.to_vec()).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        ExchangeError::Malformed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(turn: Result<Turn, ExchangeError>) -> Result<[String; 3], String> {
        match turn {
            Ok(Turn::Check(Claim::Password {
                authorization_identity,
                authentication_identity,
                password,
            })) => {
                let password = String::from_utf8_lossy(password.expose()).into_owned();
                Ok([authorization_identity, authentication_identity, password])
            }
            Ok(Turn::Challenge(challenge)) => Err(String::from_utf8_lossy(challenge).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn plain(line: &str, initial: bool) -> Result<[String; 3], String> {
        let response =
            decode_response(line.as_bytes(), initial).map_err(|error| error.to_string())?;
        claim(Exchange::new(Mechanism::Plain).step(Some(&response)))
    }

    #[test]
    fn plain_responses() {
        let texts = |parts: [&str; 3]| Ok(parts.map(str::to_owned));
        assert_eq!(
            plain("AHRpbQB0YW5zdGFhZnRhbnN0YWFm", true),
            texts(["", "tim", "tanstaaftanstaaf"])
        );
        assert_eq!(
            plain("VXJzZWwAS3VydABzZWNyZXQ=", false),
            texts(["Ursel", "Kurt", "secret"])
        );
        // Empty names and passwords are well-formed here; the store refuses them, for the price of a wrong one.
        assert_eq!(plain("AAA=", false), texts(["", "", ""]));
        let malformed = Err("response does not have the form of the mechanism".to_owned());
        for line in [
            "",
            "dGlt",
            "dGltAHNlY3JldA==",
            "AHRpbQBzZWMAcmV0",
            "AP8AeA==",
        ] {
            assert_eq!(plain(line, false), malformed, "{line}");
        }
        assert_eq!(plain("=", true), malformed);
        for line in [
            "=",
            "AHRpbQB0YW5zdGFhZnRhbnN0YWF",
            "AHRp bQ==",
            "A\u{e9}==",
            "AHRpbQ",
            "AHRpbR==",
        ] {
            assert_eq!(
                plain(line, false),
                Err("response is not base64".to_owned()),
                "{line}"
            );
        }
        assert_eq!(plain("*", false), Err("cancelled by the client".to_owned()));
    }

    #[test]
    fn login_asks_twice() {
        let mut exchange = Exchange::new(Mechanism::Login);
        assert_eq!(claim(exchange.step(None)), Err("Username:".to_owned()));
        assert_eq!(
            claim(exchange.step(Some(&Secret::from("tim")))),
            Err("Password:".to_owned())
        );
        let expected = ["", "tim", "tanstaaf"].map(str::to_owned);
        assert_eq!(
            claim(exchange.step(Some(&Secret::from("tanstaaf")))),
            Ok(expected)
        );

        let mut with_initial_response = Exchange::new(Mechanism::Login);
        assert_eq!(
            claim(with_initial_response.step(Some(&Secret::from("tim")))),
            Err("Password:".to_owned())
        );
        assert_eq!(encode_challenge(b"Username:"), "VXNlcm5hbWU6");
        assert_eq!(encode_challenge(b"Password:"), "UGFzc3dvcmQ6");
    }

    #[test]
    fn an_exchange_shows_no_password() {
        let mut exchange = Exchange::new(Mechanism::Plain);
        let turn = exchange
            .step(Some(&Secret::from("\0tim\0hunter2")))
            .unwrap();
        assert!(!format!("{turn:?}{exchange:?}").contains("hunter2"));
    }
}
