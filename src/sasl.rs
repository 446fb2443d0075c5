//! SASL: the exchanges of AUTH, from base64 to a claim (RFC 4422, RFC 4954).
//!
//! An exchange only understands what the client says; whether it is true is for the credential store. A broken
//! exchange is an error, a wrong password is none. Where a mechanism needs something of the store in its middle (SCRAM
//! needs the keys of a name), the exchange stops there and goes on with the answer.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use crate::decision::Claim;
use crate::secret::Secret;

pub mod bearer;
pub mod external;
pub mod scram;

use external::Certificate;

/// A SASL mechanism that gatepost has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// EXTERNAL (RFC 4422 appendix A): the login that the client's certificate has proven already.
    External,
    /// LOGIN: two prompts, two answers; never standardised and known to every old device
    /// (draft-murchison-sasl-login).
    Login,
    /// OAUTHBEARER (RFC 7628).
    OauthBearer,
    /// PLAIN (RFC 4616).
    Plain,
    /// SCRAM-SHA-256 (RFC 7677).
    ScramSha256,
    /// SCRAM-SHA-256-PLUS: the same, bound to the TLS channel.
    ScramSha256Plus,
    /// XOAUTH2: what Google and Microsoft had before OAUTHBEARER; never standardised.
    Xoauth2,
}

impl Mechanism {
    /// All that there are.
    pub const ALL: [Self; 7] = [
        Self::External,
        Self::Login,
        Self::OauthBearer,
        Self::Plain,
        Self::ScramSha256,
        Self::ScramSha256Plus,
        Self::Xoauth2,
    ];

    /// The name on the wire and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::External => "EXTERNAL",
            Self::Login => "LOGIN",
            Self::OauthBearer => "OAUTHBEARER",
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::Xoauth2 => "XOAUTH2",
        }
    }

    /// The mechanism of this name, in any case of letters.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
    }

    /// Whether it needs [`scram::Keys`], which not every account has.
    pub fn is_scram(self) -> bool {
        matches!(self, Self::ScramSha256 | Self::ScramSha256Plus)
    }

    /// Whether it brings a token, which somebody has to have issued.
    pub fn takes_token(self) -> bool {
        matches!(self, Self::OauthBearer | Self::Xoauth2)
    }

    /// Whether it binds the login to the TLS channel, and can be offered only where that is possible.
    pub fn binds_channel(self) -> bool {
        self == Self::ScramSha256Plus
    }
}

/// What a login can be bound to (RFC 5056): octets that both ends of one TLS connection know, and that nobody in the
/// middle of two of them can make the same. Each kind is there only where it is sound.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ChannelBindings {
    /// `tls-exporter` (RFC 9266).
    pub exporter: Option<[u8; 32]>,
    /// `tls-server-end-point` (RFC 5929 section 4): the hash of our certificate.
    pub server_end_point: Option<Vec<u8>>,
}

impl ChannelBindings {
    /// Whether there is nothing to bind to.
    pub fn is_empty(&self) -> bool {
        self.exporter.is_none() && self.server_end_point.is_none()
    }

    /// Whether a mechanism that binds can be offered to everybody. Clients do not ask which kinds we have: on TLS 1.3
    /// they take the exporter (RFC 9266 section 3), on TLS 1.2 mostly `tls-unique` (RFC 5802 section 6.1), which there
    /// is not here, and then fail instead of logging in unbound. So TLS 1.2 clients are not offered to bind; those that
    /// do it by `tls-server-end-point` unasked are served.
    pub fn suit_everybody(&self) -> bool {
        self.exporter.is_some()
    }

    /// The octets of this kind of binding; `None` if there is no such kind here.
    fn data(&self, kind: &str) -> Option<&[u8]> {
        match kind {
            "tls-exporter" => self.exporter.as_ref().map(<[u8; 32]>::as_slice),
            "tls-server-end-point" => self.server_end_point.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Debug for ChannelBindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelBindings")
            .field("exporter", &self.exporter.is_some())
            .field("server_end_point", &self.server_end_point.is_some())
            .finish()
    }
}

/// One AUTH exchange that has begun.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    state: State,
}

#[derive(Debug)]
enum State {
    /// With what the client has shown.
    External(Option<Arc<Certificate>>),
    Login(Login),
    OauthBearer,
    Plain,
    Scram(Box<scram::Server>),
    Xoauth2,
}

/// How far LOGIN is.
#[derive(Debug, Default)]
enum Login {
    #[default]
    Begun,
    /// The name was asked for.
    Asked,
    /// The name is there, and the password was asked for.
    Named(String),
}

/// What comes next.
#[derive(Debug)]
pub enum Turn {
    /// Send this challenge (not yet in base64) and step again with the response.
    Challenge(Vec<u8>),
    /// The exchange is complete: check this. If it is accepted, [`Exchange::last_challenge`] may still have something
    /// to say.
    Check(Claim),
    /// Look up the SCRAM keys of this name, which is not prepared yet, and go on with [`Exchange::found`].
    LookUp(String),
}

/// A response that the mechanism cannot go on with. The exchange is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// The response is `*` (RFC 4954 section 4).
    #[error("cancelled by the client")]
    Cancelled,
    /// The response is not base64.
    #[error("response is not base64")]
    NotBase64,
    /// A name that is not UTF-8, a NUL too many or too few, an attribute out of place.
    #[error("response does not have the form of the mechanism")]
    Malformed,
    /// EXTERNAL, from a client that has shown no certificate.
    #[error("the client has shown no certificate")]
    NoCertificate,
    /// SCRAM: an extension that the client says must be understood, and that we do not have.
    #[error("the client wants a SCRAM extension that there is not")]
    ExtensionUnsupported,
    /// SCRAM: the nonce is not that of this exchange: replayed or mixed up.
    #[error("response belongs to another exchange")]
    AnotherExchange,
    /// SCRAM-PLUS: a kind of channel binding that this connection does not have.
    #[error("the client wants a kind of channel binding that this connection does not have")]
    BindingUnsupported,
    /// SCRAM: the client is on another TLS channel than we are.
    #[error("channel binding does not match: somebody may be in the middle")]
    BindingMismatch,
    /// SCRAM: the client did not see the mechanism with channel binding that we have offered.
    #[error(
        "the client was not offered channel binding, but we did: somebody may be in the middle"
    )]
    Downgrade,
}

impl ExchangeError {
    /// Whether the response could not even be read, as opposed to a login that must not succeed.
    pub fn is_unreadable(self) -> bool {
        match self {
            Self::Cancelled | Self::NotBase64 | Self::Malformed => true,
            Self::NoCertificate
            | Self::ExtensionUnsupported
            | Self::AnotherExchange
            | Self::BindingUnsupported
            | Self::BindingMismatch
            | Self::Downgrade => false,
        }
    }
}

impl Exchange {
    /// Begins; the first [`step`](Self::step) takes the initial response, if there is one. `bindings` is what the
    /// mechanisms offered on this connection can bind to: nothing, if none that binds is among them.
    pub fn new(mechanism: Mechanism, bindings: &ChannelBindings) -> Self {
        let state = match mechanism {
            Mechanism::External => State::External(None),
            Mechanism::Login => State::Login(Login::Begun),
            Mechanism::OauthBearer => State::OauthBearer,
            Mechanism::Plain => State::Plain,
            Mechanism::Xoauth2 => State::Xoauth2,
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => State::Scram(Box::new(
                scram::Server::new(mechanism.binds_channel(), bindings),
            )),
        };
        Self { mechanism, state }
    }

    /// The same, of a client that has shown this certificate. Only EXTERNAL looks at it.
    #[must_use]
    pub fn with_certificate(mut self, shown: Option<Arc<Certificate>>) -> Self {
        if let State::External(certificate) = &mut self.state {
            *certificate = shown;
        }
        self
    }

    /// Which mechanism it is.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Whether `=` is taken for an empty response behind a challenge, too.
    pub fn expects_equals(&self) -> bool {
        matches!(self.state, State::External(_))
    }

    /// Takes a decoded response; `None` where the client has sent none yet.
    pub fn step(&mut self, response: Option<&Secret>) -> Result<Turn, ExchangeError> {
        match (&mut self.state, response) {
            (State::External(None), _) => Err(ExchangeError::NoCertificate),
            (State::External(_) | State::OauthBearer | State::Plain | State::Xoauth2, None) => {
                Ok(Turn::Challenge(Vec::new()))
            }
            (State::External(Some(certificate)), Some(response)) => {
                Ok(Turn::Check(Claim::Certificate {
                    authorization_identity: external::authorization_identity(response.expose())?,
                    certificate: Arc::clone(certificate),
                }))
            }
            (State::OauthBearer, Some(response)) => {
                bearer::parse_oauthbearer(response.expose()).map(Turn::Check)
            }
            (State::Plain, Some(response)) => parse_plain(response.expose()).map(Turn::Check),
            (State::Xoauth2, Some(response)) => {
                bearer::parse_xoauth2(response.expose()).map(Turn::Check)
            }
            // "AUTH LOGIN =" is a client that has nothing to say yet, and says so.
            (State::Login(login), response)
                if matches!(login, Login::Begun)
                    && response.is_none_or(|response| response.is_empty()) =>
            {
                *login = Login::Asked;
                Ok(Turn::Challenge(b"Username:".to_vec()))
            }
            (State::Login(_), None) => Err(ExchangeError::Malformed),
            (State::Login(login), Some(response)) => match std::mem::take(login) {
                Login::Begun | Login::Asked => {
                    *login = Login::Named(name(response.expose())?);
                    Ok(Turn::Challenge(b"Password:".to_vec()))
                }
                Login::Named(login_name) => Ok(Turn::Check(Claim::Password {
                    authorization_identity: String::new(),
                    authentication_identity: login_name,
                    password: response.clone(),
                })),
            },
            (State::Scram(_), None) => Ok(Turn::Challenge(Vec::new())),
            (State::Scram(server), Some(response)) => match server.take(response.expose())? {
                scram::Progress::LookUp(name) => Ok(Turn::LookUp(name)),
                scram::Progress::Proven {
                    authorization_identity,
                    authentication_identity,
                    proof,
                } => Ok(Turn::Check(Claim::Scram {
                    authorization_identity,
                    authentication_identity,
                    proof,
                })),
            },
        }
    }

    /// Goes on after [`Turn::LookUp`] with what the store has for the name.
    pub fn found(&mut self, offer: scram::Offer) -> Result<Turn, ExchangeError> {
        match &mut self.state {
            State::Scram(server) => Ok(Turn::Challenge(server.found(offer)?.into_bytes())),
            _ => Err(ExchangeError::Malformed),
        }
    }

    /// What is still to be said to a client whose claim was accepted; its response must be empty (RFC 4954
    /// section 4), and only then is it logged in.
    pub fn last_challenge(&mut self) -> Option<Vec<u8>> {
        match &mut self.state {
            State::Scram(server) => server.server_final().map(String::into_bytes),
            _ => None,
        }
    }

    /// What is to be said to a client whose claim was refused, before its refusal; whatever it responds, it is refused
    /// then (RFC 7628 section 3.2.3).
    pub fn failure(&self, hint: &bearer::Hint) -> Option<Vec<u8>> {
        match &self.state {
            State::OauthBearer => Some(hint.oauthbearer()),
            State::Xoauth2 => Some(hint.xoauth2()),
            _ => None,
        }
    }
}

/// The octets of a response line. `=` is an empty response only as the initial one (RFC 4954 section 4), where
/// `initial` is set; curl takes it for one behind a challenge, too, which is let pass where an empty response makes
/// sense (see [`Exchange::expects_equals`]).
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
            Ok(Turn::Challenge(challenge)) => Err(String::from_utf8_lossy(&challenge).into_owned()),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn plain(line: &str, initial: bool) -> Result<[String; 3], String> {
        let response =
            decode_response(line.as_bytes(), initial).map_err(|error| error.to_string())?;
        claim(Exchange::new(Mechanism::Plain, &ChannelBindings::default()).step(Some(&response)))
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
        let mut exchange = Exchange::new(Mechanism::Login, &ChannelBindings::default());
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

        let mut with_initial_response =
            Exchange::new(Mechanism::Login, &ChannelBindings::default());
        assert_eq!(
            claim(with_initial_response.step(Some(&Secret::from("tim")))),
            Err("Password:".to_owned())
        );
        let mut with_empty_response = Exchange::new(Mechanism::Login, &ChannelBindings::default());
        for (response, challenge) in [("", "Username:"), ("tim", "Password:")] {
            let turn = with_empty_response.step(Some(&Secret::from(response)));
            assert_eq!(claim(turn), Err(challenge.to_owned()));
        }
        assert_eq!(encode_challenge(b"Username:"), "VXNlcm5hbWU6");
        assert_eq!(encode_challenge(b"Password:"), "UGFzc3dvcmQ6");
    }

    #[test]
    fn an_exchange_shows_no_password() {
        let mut exchange = Exchange::new(Mechanism::Plain, &ChannelBindings::default());
        let turn = exchange
            .step(Some(&Secret::from("\0tim\0hunter2")))
            .unwrap();
        assert!(!format!("{turn:?}{exchange:?}").contains("hunter2"));
    }
}
