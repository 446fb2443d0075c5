//! Extensions: what EHLO offers, and the parameters that come with each (RFC 5321 section 2.2).
//!
//! An extension lives here in whole: its EHLO line, the octets that it adds to a command line, and the meaning of its
//! parameters. What is not offered is not understood: its parameters get 555.

use std::borrow::Cow;

use crate::envelope::Body;
use crate::sasl::Mechanism;
use crate::smtp::address::Mailbox;
use crate::smtp::command::Parameter;
use crate::smtp::reply::Reply;

/// RFC 5321 section 4.5.3.1.4: octets in a command line, CRLF included.
const COMMAND_LINE_BASE: usize = 512;
/// RFC 1870 section 3: SIZE adds 26 octets to MAIL.
const SIZE_PARAMETER: usize = 26;
/// RFC 6152 section 2: BODY adds 17 octets to MAIL.
const BODY_PARAMETER: usize = 17;
/// RFC 4954 section 3: AUTH adds 500 octets to MAIL.
const AUTH_PARAMETER: usize = 500;

/// The longest command line, CRLF included, with everything that the offered extensions add.
pub const COMMAND_LINE_BYTES_MAX: usize =
    COMMAND_LINE_BASE + SIZE_PARAMETER + BODY_PARAMETER + AUTH_PARAMETER;

/// RFC 4954 section 4: the longest line of an AUTH exchange, here without its CRLF.
pub const AUTH_RESPONSE_BYTES_MAX: usize = 12_288;

/// The lines of EHLO behind the host name.
///
/// `under_tls`: AUTH is offered only then, STARTTLS only before (RFC 3207 section 4.2).
pub fn ehlo_lines(
    message_bytes_max: u64,
    mechanisms: &[Mechanism],
    under_tls: bool,
) -> Vec<Cow<'static, str>> {
    let mut lines = vec![
        "PIPELINING".into(),
        format!("SIZE {message_bytes_max}").into(),
        "8BITMIME".into(),
        "ENHANCEDSTATUSCODES".into(),
    ];
    lines.push(if under_tls {
        format!("AUTH {}", mechanism_list(mechanisms)).into()
    } else {
        "STARTTLS".into()
    });
    lines
}

/// The names of the mechanisms, with blanks between.
pub fn mechanism_list(mechanisms: &[Mechanism]) -> String {
    mechanisms
        .iter()
        .map(|mechanism| mechanism.name())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The parameters of MAIL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// SIZE= (RFC 1870 section 4): what the client thinks the message has. A number past 2^64 is 2^64 - 1.
    pub size: Option<u64>,
    /// BODY= (RFC 6152).
    pub body: Option<Body>,
    /// AUTH= (RFC 4954 section 5).
    pub auth: Option<AuthParameter>,
}

/// Who is said to have submitted the message first (RFC 4954 section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthParameter {
    /// This mailbox.
    Mailbox(Mailbox),
    /// `<>`: not known.
    Unknown,
}

impl MailParameters {
    /// The meaning of MAIL's parameters, or the reply that refuses them.
    pub fn parse(parameters: &[Parameter]) -> Result<Self, Reply> {
        let mut parsed = Self::default();
        for parameter in parameters {
            let value = parameter.value.as_deref().unwrap_or_default();
            match parameter.keyword.as_str() {
                "SIZE" => once(&mut parsed.size, parse_size(value), "SIZE")?,
                "BODY" => once(&mut parsed.body, parse_body(value), "BODY")?,
                "AUTH" => once(&mut parsed.auth, parse_auth(value), "AUTH")?,
                other => return Err(Reply::unknown_parameter(other)),
            }
        }
        Ok(parsed)
    }
}

/// RCPT has no parameters yet.
pub fn refuse_rcpt_parameters(parameters: &[Parameter]) -> Result<(), Reply> {
    parameters.first().map_or(Ok(()), |parameter| {
        Err(Reply::unknown_parameter(&parameter.keyword))
    })
}

fn once<T>(slot: &mut Option<T>, value: Option<T>, keyword: &str) -> Result<(), Reply> {
    match value {
        Some(_) if slot.is_some() => Err(Reply::bad_arguments(format!(
            "parameter {keyword} is given twice"
        ))),
        Some(value) => {
            *slot = Some(value);
            Ok(())
        }
        None => Err(Reply::bad_arguments(format!(
            "parameter {keyword} has a bad value"
        ))),
    }
}

/// `size-value = 1*20DIGIT`
fn parse_size(value: &str) -> Option<u64> {
    let well_formed =
        (1..=20).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| value.parse().unwrap_or(u64::MAX))
}

fn parse_body(value: &str) -> Option<Body> {
    match value {
        _ if value.eq_ignore_ascii_case("7BIT") => Some(Body::SevenBit),
        _ if value.eq_ignore_ascii_case("8BITMIME") => Some(Body::EightBitMime),
        _ => None,
    }
}

fn parse_auth(value: &str) -> Option<AuthParameter> {
    match decode_xtext(value)?.as_slice() {
        b"<>" => Some(AuthParameter::Unknown),
        mailbox => Mailbox::parse(mailbox).ok().map(AuthParameter::Mailbox),
    }
}

/// `xtext = *( xchar / hexchar )`, `hexchar = "+" 2(%x30-39 / %x41-46)` (RFC 3461 section 4): the octets that it means.
pub fn decode_xtext(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => decoded.push((digit(bytes.next()?)? << 4) | digit(bytes.next()?)?),
            b'!'..=b'~' if byte != b'=' => decoded.push(byte),
            _ => return None,
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::command::Command;

    fn check(parameters: &str) -> Result<MailParameters, String> {
        let line = format!("MAIL FROM:<a@b.example> {parameters}");
        let Ok(Command::Mail { parameters, .. }) = Command::parse(line.as_bytes()) else {
            panic!("{line}")
        };
        MailParameters::parse(&parameters).map_err(|reply| reply.to_string()[..9].to_owned())
    }

    #[test]
    fn mail_parameters() {
        assert_eq!(check(""), Ok(MailParameters::default()));
        let parsed = check("SIZE=1000 body=8bitmime AUTH=e+3Dmc2@example.com").unwrap();
        assert_eq!(parsed.size, Some(1000));
        assert_eq!(parsed.body, Some(Body::EightBitMime));
        let Some(AuthParameter::Mailbox(mailbox)) = parsed.auth else {
            panic!()
        };
        assert_eq!(mailbox.to_string(), "e=mc2@example.com");
        assert_eq!(check("AUTH=<>").unwrap().auth, Some(AuthParameter::Unknown));
        assert_eq!(
            check("SIZE=99999999999999999999").unwrap().size,
            Some(u64::MAX)
        );
        for (bad, reply) in [
            ("SIZE", "501 5.5.4"),
            ("SIZE=-1", "501 5.5.4"),
            ("SIZE=1e3", "501 5.5.4"),
            ("SIZE=000000000000000000001", "501 5.5.4"),
            ("SIZE=1 SIZE=2", "501 5.5.4"),
            ("BODY=BINARYMIME", "501 5.5.4"),
            ("AUTH=a+4", "501 5.5.4"),
            ("AUTH=+zz", "501 5.5.4"),
            ("AUTH=nobody", "501 5.5.4"),
            ("RET=FULL", "555 5.5.4"),
            ("SMTPUTF8", "555 5.5.4"),
        ] {
            assert_eq!(check(bad), Err(reply.to_owned()), "{bad}");
        }
    }

    #[test]
    fn auth_only_under_tls() {
        let before = ehlo_lines(1000, &Mechanism::ALL, false);
        assert!(
            before.contains(&"STARTTLS".into())
                && !before.iter().any(|line| line.starts_with("AUTH"))
        );
        let under = ehlo_lines(1000, &[Mechanism::Plain, Mechanism::Login], true);
        assert!(under.contains(&"AUTH PLAIN LOGIN".into()) && !under.contains(&"STARTTLS".into()));
    }
}
