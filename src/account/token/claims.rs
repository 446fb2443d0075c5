//! What a token says, or what its issuer says of it, and whether that is enough for a login.

use std::fmt;
use std::time::Duration;

use jiff::SignedDuration;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::IssuerSettings;
use crate::account::identity::NAME_BYTES_MAX;
use crate::clock::Timestamp;
use crate::decision::TokenFault;

/// The claim of an e-mail address (OpenID Connect Core 1.0 section 5.1), which comes with a word on whether the issuer
/// knows that it is the user's.
const EMAIL: &str = "email";

/// A JSON object that says nothing twice: which of the two would count is anybody's guess (RFC 7519 section 4).
#[derive(Debug)]
pub(super) struct Claims(Map<String, Value>);

/// A login that a token is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::account) struct Verified {
    /// The account, as the token writes it.
    pub(in crate::account) name: String,
    /// From when on it is good for nothing, leeway included.
    pub(in crate::account) expires: Option<Timestamp>,
}

/// Who says it: that decides what must be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The token itself: it must say from whom it is and how long it is good.
    ByToken,
    /// The issuer, when it was asked: what it does not say, it has looked at itself.
    ByIssuer,
}

impl Claims {
    /// Reads a JSON object; `None` if it is none.
    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        serde_json::from_slice(octets).ok()
    }

    /// What is said under this name.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// What is said under this name, if it is a text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// Whether all that is said allows a login now, and to which account.
    pub(super) fn judge(
        &self,
        settings: &IssuerSettings,
        said: Said,
        now: Timestamp,
    ) -> Result<Verified, TokenFault> {
        let by_token = said == Said::ByToken;
        match self.get("iss") {
            Some(Value::String(issuer)) if *issuer == settings.issuer => {}
            None if !by_token => {}
            _ => return Err(TokenFault::Issuer),
        }
        let expires = match self.date("exp")? {
            Some(expires) => Some(later(expires, settings.leeway)),
            None if by_token => return Err(TokenFault::Malformed),
            None => None,
        };
        if expires.is_some_and(|expires| now >= expires) {
            return Err(TokenFault::Expired);
        }
        if self
            .date("nbf")?
            .is_some_and(|from| later(now, settings.leeway) < from)
        {
            return Err(TokenFault::NotYetValid);
        }
        let audience = self.words("aud", false)?;
        let is_ours = |audience: &&str| settings.audience.iter().any(|ours| ours == audience);
        if !settings.audience.is_empty() && !audience.iter().any(is_ours) {
            return Err(TokenFault::Audience);
        }
        if !settings.scope.is_empty() {
            // RFC 9068 section 2.2.3; Microsoft and others say `scp`.
            let mut granted = self.words("scope", true)?;
            granted.extend(self.words("scp", true)?);
            if !settings
                .scope
                .iter()
                .all(|scope| granted.contains(&scope.as_str()))
            {
                return Err(TokenFault::Scope);
            }
        }
        let name = self.text(&settings.account_claim);
        let name = name
            .filter(|name| (1..=NAME_BYTES_MAX).contains(&name.len()))
            .ok_or(TokenFault::Account)?;
        if settings.account_claim == EMAIL {
            match self.get("email_verified") {
                None | Some(Value::Bool(true)) => {}
                Some(Value::String(text)) if text == "true" => {}
                Some(_) => return Err(TokenFault::Unverified),
            }
        }
        Ok(Verified {
            name: name.to_owned(),
            expires,
        })
    }

    /// A NumericDate (RFC 7519 section 2).
    fn date(&self, name: &str) -> Result<Option<Timestamp>, TokenFault> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let Value::Number(number) = value else {
            return Err(TokenFault::Malformed);
        };
        // Beyond what an i64 has, and beyond the years that a calendar has, lies "always" or "never".
        let seconds = number
            .as_i64()
            .unwrap_or_else(|| number.as_f64().unwrap_or(f64::MAX) as i64);
        let end = if seconds < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        };
        Ok(Some(Timestamp::from_second(seconds).unwrap_or(end)))
    }

    /// A text or a list of texts; `split` says that a text has several, with blanks between.
    fn words(&self, name: &str, split: bool) -> Result<Vec<&str>, TokenFault> {
        let cut = |text| match split {
            true => str::split_ascii_whitespace(text).collect(),
            false => vec![text],
        };
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(cut(text)),
            Some(Value::Array(values)) => {
                let texts = values.iter().map(Value::as_str);
                texts.collect::<Option<_>>().ok_or(TokenFault::Malformed)
            }
            Some(_) => Err(TokenFault::Malformed),
        }
    }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Claims, A::Error> {
                let mut claims = Map::new();
                while let Some((name, value)) = members.next_entry::<String, Value>()? {
                    if claims.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name comes twice"));
                    }
                }
                Ok(Claims(claims))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::settings;
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn judge(
        settings: &IssuerSettings,
        said: Said,
        claims: &Value,
    ) -> Result<Verified, TokenFault> {
        let claims = Claims::parse(claims.to_string().as_bytes()).unwrap();
        claims.judge(settings, said, Timestamp::from_second(NOW).unwrap())
    }

    /// Good claims with these changes; null takes one away.
    fn changed(changes: Value) -> Value {
        let mut claims = json!({
            "iss": "https://id.example.org", "aud": "smtp", "exp": NOW + 300, "email": "alice@example.org",
        });
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        claims
    }

    #[test]
    fn what_a_token_must_say() {
        let settings = IssuerSettings {
            scope: vec!["smtp".to_owned(), "mail".to_owned()],
            leeway: Duration::from_secs(60),
            ..settings()
        };
        let scoped = json!({ "scope": "openid mail smtp" });
        for (changes, fault) in [
            (json!({}), None),
            (json!({ "aud": ["other", "smtp"] }), None),
            (json!({ "scope": ["smtp", "mail"] }), None),
            (json!({ "scope": null, "scp": ["smtp", "mail"] }), None),
            (json!({ "scope": "smtp", "scp": "mail" }), None),
            (json!({ "nbf": NOW }), None),
            (json!({ "nbf": NOW + 60 }), None),
            (json!({ "exp": NOW - 59 }), None),
            (json!({ "exp": NOW as f64 + 0.5 }), None),
            (json!({ "exp": u64::MAX }), None),
            (json!({ "exp": 1e300 }), None),
            (json!({ "email_verified": true }), None),
            (json!({ "email_verified": "true" }), None),
            (json!({ "iss": null }), Some(TokenFault::Issuer)),
            (
                json!({ "iss": "https://id.example.org/" }),
                Some(TokenFault::Issuer),
            ),
            (
                json!({ "iss": ["https://id.example.org"] }),
                Some(TokenFault::Issuer),
            ),
            (json!({ "exp": null }), Some(TokenFault::Malformed)),
            (json!({ "exp": "1900000000" }), Some(TokenFault::Malformed)),
            (json!({ "exp": NOW - 60 }), Some(TokenFault::Expired)),
            (json!({ "exp": 0 }), Some(TokenFault::Expired)),
            (json!({ "exp": -1e300 }), Some(TokenFault::Expired)),
            (json!({ "nbf": NOW + 61 }), Some(TokenFault::NotYetValid)),
            (json!({ "nbf": "never" }), Some(TokenFault::Malformed)),
            (json!({ "aud": null }), Some(TokenFault::Audience)),
            (json!({ "aud": "smtp imap" }), Some(TokenFault::Audience)),
            (json!({ "aud": [] }), Some(TokenFault::Audience)),
            (json!({ "aud": ["smtp", 1] }), Some(TokenFault::Malformed)),
            (
                json!({ "aud": { "smtp": true } }),
                Some(TokenFault::Malformed),
            ),
            (json!({ "scope": null }), Some(TokenFault::Scope)),
            (json!({ "scope": "smtp" }), Some(TokenFault::Scope)),
            (json!({ "scope": "smtp,mail" }), Some(TokenFault::Scope)),
            (json!({ "scope": ["smtp mail"] }), Some(TokenFault::Scope)),
            (json!({ "scope": 7 }), Some(TokenFault::Malformed)),
            (json!({ "email": null }), Some(TokenFault::Account)),
            (json!({ "email": "" }), Some(TokenFault::Account)),
            (
                json!({ "email": ["alice@example.org"] }),
                Some(TokenFault::Account),
            ),
            (
                json!({ "email_verified": false }),
                Some(TokenFault::Unverified),
            ),
            (
                json!({ "email_verified": "false" }),
                Some(TokenFault::Unverified),
            ),
            (json!({ "email_verified": 1 }), Some(TokenFault::Unverified)),
        ] {
            let mut claims = changed(scoped.clone());
            for (name, value) in changed(changes.clone()).as_object().unwrap() {
                claims[name] = value.clone();
            }
            for (name, value) in changes.as_object().unwrap() {
                if value.is_null() {
                    claims.as_object_mut().unwrap().remove(name);
                }
            }
            let judged = judge(&settings, Said::ByToken, &claims);
            assert_eq!(judged.as_ref().err(), fault.as_ref(), "{changes}");
            if let Ok(verified) = judged {
                assert_eq!(verified.name, "alice@example.org");
                assert!(verified.expires.is_some());
            }
        }
    }

    /// The issuer may leave out what it has looked at itself, but what it says counts.
    #[test]
    fn what_an_issuer_must_say() {
        let settings = IssuerSettings {
            audience: Vec::new(),
            account_claim: "username".to_owned(),
            ..settings()
        };
        for (claims, fault) in [
            (json!({ "username": "alice" }), None),
            (
                json!({ "username": "alice", "email_verified": false }),
                None,
            ),
            (json!({ "username": "alice", "aud": "whatever" }), None),
            (
                json!({ "username": "alice", "exp": NOW }),
                Some(TokenFault::Expired),
            ),
            (
                json!({ "username": "alice", "iss": "https://elsewhere.example" }),
                Some(TokenFault::Issuer),
            ),
            (json!({ "sub": "alice" }), Some(TokenFault::Account)),
        ] {
            let judged = judge(&settings, Said::ByIssuer, &claims);
            assert_eq!(judged.err(), fault, "{claims}");
        }
    }

    #[test]
    fn nothing_is_said_twice() {
        assert!(Claims::parse(br#"{"a":1,"b":{"a":1}}"#).is_some());
        for text in [
            r#"{"aud":"other","aud":"smtp"}"#,
            r#"{"aud":"other","\u0061ud":"smtp"}"#,
            r#"[]"#,
            r#""text""#,
            "null",
            "",
            r#"{"a":1} {"#,
        ] {
            assert!(Claims::parse(text.as_bytes()).is_none(), "{text}");
        }
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(4000), "]".repeat(4000));
        assert!(Claims::parse(deep.as_bytes()).is_none());
    }
}
