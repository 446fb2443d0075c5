//! OAUTHBEARER (RFC 7628) and XOAUTH2: the client brings a token that somebody else has issued.
//!
//! Both say it once, in pairs of key and value. A client whose token is refused is told in JSON what would be good
//! ([`Hint`]), answers with nothing to the point, and hears the refusal then. Nothing here looks into a token.

use serde_json::{Map, Value};

use super::ExchangeError;
use super::scram::decode_saslname;
use crate::decision::Claim;
use crate::secret::Secret;

/// What ends a pair, and the message: `kvsep = %x01`.
const SEPARATOR: u8 = 1;
/// What stands before a token, in any case of letters (RFC 6750 section 2.1).
const SCHEME: &[u8] = b"Bearer ";

/// What clients are told whose token was refused: the same for each, so that it tells nothing about the token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// The scopes that are wanted, with blanks between.
    pub scope: Option<String>,
    /// Where it is written how to get a token (OpenID Connect Discovery 1.0 section 4).
    pub openid_configuration: Option<String>,
}

impl Hint {
    /// RFC 7628 section 3.2.2.
    pub(super) fn oauthbearer(&self) -> Vec<u8> {
        let configuration = &self.openid_configuration;
        json([
            ("status", Some("invalid_token")),
            ("scope", self.scope.as_deref()),
            ("openid-configuration", configuration.as_deref()),
        ])
    }

    /// As Google's and Microsoft's servers say it.
    pub(super) fn xoauth2(&self) -> Vec<u8> {
        json([
            ("status", Some("401")),
            ("schemes", Some("bearer")),
            ("scope", self.scope.as_deref()),
        ])
    }
}

fn json(members: [(&str, Option<&str>); 3]) -> Vec<u8> {
    let members = members.into_iter();
    let said: Map<String, Value> = members
        .filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
        .collect();
    Value::Object(said).to_string().into_bytes()
}

/// `client-resp = gs2-header kvsep *kvpair kvsep` (RFC 7628 section 3.1), where
/// `gs2-header = ("n" / "y") "," [ "a=" saslname ] ","` (RFC 5801 section 4).
pub(super) fn parse_oauthbearer(response: &[u8]) -> Result<Claim, ExchangeError> {
    let end = memchr::memchr(SEPARATOR, response).ok_or(ExchangeError::Malformed)?;
    let (header, pairs) = (&response[..end], &response[end + 1..]);
    let header = std::str::from_utf8(header).map_err(|_| ExchangeError::Malformed)?;
    let parts: Vec<&str> = header.splitn(4, ',').collect();
    let [flag, authorization, ""] = parts[..] else {
        return Err(ExchangeError::Malformed);
    };
    match flag {
        // There is no variant that binds, so a client that could has nothing to complain about.
        "n" | "y" => {}
        _ if flag.starts_with("p=") => return Err(ExchangeError::BindingUnsupported),
        _ => return Err(ExchangeError::Malformed),
    }
    let authorization_identity = match authorization.strip_prefix("a=") {
        Some(name) => decode_saslname(name)?,
        None if authorization.is_empty() => String::new(),
        None => return Err(ExchangeError::Malformed),
    };
    let [authorization] = read_pairs(pairs, ["auth"])?;
    Ok(Claim::Token {
        authorization_identity,
        token: token(authorization)?,
    })
}

/// `"user=" name kvsep "auth=Bearer " token kvsep kvsep`
pub(super) fn parse_xoauth2(response: &[u8]) -> Result<Claim, ExchangeError> {
    let [user, authorization] = read_pairs(response, ["user", "auth"])?;
    let user = std::str::from_utf8(user).map_err(|_| ExchangeError::Malformed)?;
    if user.contains('\0') {
        return Err(ExchangeError::Malformed);
    }
    Ok(Claim::Token {
        authorization_identity: user.to_owned(),
        token: token(authorization)?,
    })
}

/// The values of these keys, each of which must be there, once. What else is there is passed over (RFC 7628
/// section 3.1 wants it so).
fn read_pairs<'r, const N: usize>(
    response: &'r [u8],
    keys: [&str; N],
) -> Result<[&'r [u8]; N], ExchangeError> {
    let pairs = response
        .strip_suffix(&[SEPARATOR, SEPARATOR])
        .ok_or(ExchangeError::Malformed)?;
    let mut values = [None; N];
    for pair in pairs.split(|&octet| octet == SEPARATOR) {
        let equals = memchr::memchr(b'=', pair).ok_or(ExchangeError::Malformed)?;
        let (key, value) = (&pair[..equals], &pair[equals + 1..]);
        if key.is_empty() || !key.iter().all(u8::is_ascii_alphabetic) {
            return Err(ExchangeError::Malformed);
        }
        if let Some(index) = keys.iter().position(|wanted| wanted.as_bytes() == key)
            && values[index].replace(value).is_some()
        {
            return Err(ExchangeError::Malformed);
        }
    }
    let mut found = [&[][..]; N];
    for (found, value) in found.iter_mut().zip(values) {
        *found = value.ok_or(ExchangeError::Malformed)?;
    }
    Ok(found)
}

/// `b64token = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="` (RFC 6750 section 2.1), behind its scheme.
/// A client that has none yet leaves the value empty, to be told where to get one (RFC 7628 section 3.2.2).
fn token(value: &[u8]) -> Result<Secret, ExchangeError> {
    if value.is_empty() {
        return Ok(Secret::default());
    }
    let token = value
        .split_at_checked(SCHEME.len())
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME))
        .map(|(_, token)| token)
        .ok_or(ExchangeError::Malformed)?;
    let padding = token.iter().rev().take_while(|&&octet| octet == b'=');
    let body = &token[..token.len() - padding.count()];
    let is_good = |octet: &u8| octet.is_ascii_alphanumeric() || b"-._~+/".contains(octet);
    if !body.iter().all(is_good) || (body.is_empty() && !token.is_empty()) {
        return Err(ExchangeError::Malformed);
    }
    Ok(Secret::new(token.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(claim: Result<Claim, ExchangeError>) -> Result<(String, String), ExchangeError> {
        match claim? {
            Claim::Token {
                authorization_identity,
                token,
            } => {
                let token = String::from_utf8(token.expose().to_vec()).unwrap();
                Ok((authorization_identity, token))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn oauthbearer_messages() {
        for (response, expected) in [
            // RFC 7628 section 4.1.
            (
                "n,a=user@example.com,\x01host=server.example.com\x01port=143\x01\
                 auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01",
                Ok((
                    "user@example.com",
                    "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==",
                )),
            ),
            ("n,,\x01auth=Bearer a.b.c\x01\x01", Ok(("", "a.b.c"))),
            ("y,,\x01auth=bearer a.b.c\x01\x01", Ok(("", "a.b.c"))),
            (
                "n,a=x=2Cy=3Dz,\x01auth=Bearer t\x01\x01",
                Ok(("x,y=z", "t")),
            ),
            // Who has no token asks where to get one.
            ("n,,\x01auth=\x01\x01", Ok(("", ""))),
            ("n,,\x01auth=Bearer \x01\x01", Ok(("", ""))),
            // What we do not know is no mistake.
            (
                "n,,\x01x=\x01auth=Bearer t\x01mthd=POST\x01\x01",
                Ok(("", "t")),
            ),
            ("", Err(ExchangeError::Malformed)),
            ("\x01", Err(ExchangeError::Malformed)),
            ("n,,", Err(ExchangeError::Malformed)),
            ("n,,\x01\x01", Err(ExchangeError::Malformed)),
            ("n,\x01auth=Bearer t\x01\x01", Err(ExchangeError::Malformed)),
            (
                "n,,,\x01auth=Bearer t\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            (
                "n,,x\x01auth=Bearer t\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            (
                "n,b=x,\x01auth=Bearer t\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            (
                "n,a=,\x01auth=Bearer t\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            (
                "n,a=x=,\x01auth=Bearer t\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            (
                "x,,\x01auth=Bearer t\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            (
                "p=tls-exporter,,\x01auth=Bearer t\x01\x01",
                Err(ExchangeError::BindingUnsupported),
            ),
            ("n,,\x01auth=Bearer t\x01", Err(ExchangeError::Malformed)),
            ("n,,\x01auth=Bearer t", Err(ExchangeError::Malformed)),
            (
                "n,,\x01auth=Bearer t\x01\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            (
                "n,,\x01auth=Bearer t\x01\x01n,,",
                Err(ExchangeError::Malformed),
            ),
            ("n,,\x01host=x\x01\x01", Err(ExchangeError::Malformed)),
            ("n,,\x01auth\x01\x01", Err(ExchangeError::Malformed)),
            (
                "n,,\x01=x\x01auth=Bearer t\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            (
                "n,,\x01auth=Basic dDp0\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            (
                "n,,\x01auth=Bearer  t\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            (
                "n,,\x01auth=Bearer t=t\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            (
                "n,,\x01auth=Bearer ==\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            (
                "n,,\x01auth=Bearer \u{e9}\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            ("n,,\x01auth=Bearer\x01\x01", Err(ExchangeError::Malformed)),
            // Which of the two?
            (
                "n,,\x01auth=Bearer t\x01auth=Bearer u\x01\x01",
                Err(ExchangeError::Malformed),
            ),
        ] {
            let expected = expected.map(|(name, token)| (name.to_owned(), token.to_owned()));
            let found = said(parse_oauthbearer(response.as_bytes()));
            assert_eq!(found, expected, "{response:?}");
        }
    }

    #[test]
    fn xoauth2_messages() {
        for (response, expected) in [
            (
                "user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\x01\x01",
                Ok((
                    "someuser@example.com",
                    "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg",
                )),
            ),
            ("user=\x01auth=Bearer t\x01\x01", Ok(("", "t"))),
            ("user=x=y\x01auth=Bearer t\x01\x01", Ok(("x=y", "t"))),
            ("auth=Bearer t\x01\x01", Err(ExchangeError::Malformed)),
            ("user=x\x01\x01", Err(ExchangeError::Malformed)),
            (
                "user=x\0\x01auth=Bearer t\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            ("user=x\x01auth=Bearer t\x01", Err(ExchangeError::Malformed)),
            (
                "user=x\x01user=y\x01auth=Bearer t\x01\x01",
                Err(ExchangeError::Malformed),
            ),
            (
                "n,,\x01auth=Bearer t\x01\x01",
                Err(ExchangeError::Malformed),
            ),
        ] {
            let expected = expected.map(|(name, token)| (name.to_owned(), token.to_owned()));
            let found = said(parse_xoauth2(response.as_bytes()));
            assert_eq!(found, expected, "{response:?}");
        }
    }

    #[test]
    fn hints() {
        let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
        let nothing = Hint::default();
        assert_eq!(text(nothing.oauthbearer()), r#"{"status":"invalid_token"}"#);
        assert_eq!(
            text(nothing.xoauth2()),
            r#"{"status":"401","schemes":"bearer"}"#
        );
        let everything = Hint {
            scope: Some("openid smtp".to_owned()),
            openid_configuration: Some("https://id.example.org/.well-known/x".to_owned()),
        };
        assert_eq!(
            text(everything.oauthbearer()),
            r#"{"status":"invalid_token","scope":"openid smtp","openid-configuration":"https://id.example.org/.well-known/x"}"#
        );
        assert_eq!(
            text(everything.xoauth2()),
            r#"{"status":"401","schemes":"bearer","scope":"openid smtp"}"#
        );
    }

    #[test]
    fn a_claim_shows_no_token() {
        let claim = parse_xoauth2(b"user=x\x01auth=Bearer hunter2\x01\x01").unwrap();
        assert!(!format!("{claim:?}").contains("hunter2"));
    }
}
