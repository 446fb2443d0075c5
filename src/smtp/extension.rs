//! Extensions: what EHLO offers, and the parameters that come with each (RFC 5321 section 2.2).
//!
//! An extension lives here in whole: its EHLO line, the octets that it adds to a command line, and the meaning of its
//! parameters. What is not offered is not understood: its parameters get 555.

use std::borrow::Cow;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::envelope::{Body, Notify, Return};
use crate::sasl::Mechanism;
use crate::smtp::address::Mailbox;
use crate::smtp::command::Parameter;
use crate::smtp::reply::Reply;

mod notification;
mod timing;
mod xtext;

pub use timing::{By, Hold};
pub use xtext::decode_xtext;

/// RFC 5321 section 4.5.3.1.4: octets in a command line, CRLF included.
const COMMAND_LINE_BASE: usize = 512;
/// RFC 1870 section 3: SIZE adds 26 octets to MAIL.
const SIZE_PARAMETER: usize = 26;
/// RFC 6152 section 2: BODY adds 17 octets to MAIL.
const BODY_PARAMETER: usize = 17;
/// RFC 4954 section 3: AUTH adds 500 octets to MAIL.
const AUTH_PARAMETER: usize = 500;

/// RFC 9422 section 4: a limit has at most six digits.
const LIMIT_MAX: u64 = 999_999;

/// RFC 4954 section 4: the longest line of an AUTH exchange, here without its CRLF.
pub const AUTH_RESPONSE_BYTES_MAX: usize = 12_288;
/// The longest AUTH command, CRLF included: the name of a mechanism (RFC 4422 section 3.1 gives it 20 octets) and an
/// initial response, which is as long as any other. There are tokens of some thousand octets.
pub const AUTH_COMMAND_BYTES_MAX: usize = "AUTH ".len() + 20 + 1 + AUTH_RESPONSE_BYTES_MAX + 2;

/// An extension that the operator can withhold. The others (PIPELINING, SIZE, 8BITMIME, ENHANCEDSTATUSCODES, STARTTLS,
/// AUTH) are what submission is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// BINARYMIME (RFC 3030): the value BINARYMIME of BODY. Offered only together with [`Extension::Chunking`].
    BinaryMime,
    /// CHUNKING (RFC 3030): BDAT.
    Chunking,
    /// DELIVERBY (RFC 2852): BY of MAIL.
    DeliverBy,
    /// DSN (RFC 3461): RET and ENVID of MAIL, NOTIFY and ORCPT of RCPT.
    Dsn,
    /// FUTURERELEASE (RFC 4865): HOLDFOR and HOLDUNTIL of MAIL.
    FutureRelease,
    /// LIMITS (RFC 9422): how much one message and one session may have.
    Limits,
    /// MT-PRIORITY (RFC 6710): MT-PRIORITY of MAIL.
    MtPriority,
    /// REQUIRETLS (RFC 8689): REQUIRETLS of MAIL. Offered only under TLS.
    RequireTls,
    /// SMTPUTF8 (RFC 6531): SMTPUTF8 of MAIL, and addresses in UTF-8.
    SmtpUtf8,
}

impl Extension {
    /// All of them, in the order of EHLO's lines.
    pub const ALL: [Self; 9] = [
        Self::SmtpUtf8,
        Self::Dsn,
        Self::Chunking,
        Self::BinaryMime,
        Self::DeliverBy,
        Self::MtPriority,
        Self::RequireTls,
        Self::Limits,
        Self::FutureRelease,
    ];

    /// Its EHLO keyword.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::BinaryMime => "BINARYMIME",
            Self::Chunking => "CHUNKING",
            Self::DeliverBy => "DELIVERBY",
            Self::Dsn => "DSN",
            Self::FutureRelease => "FUTURERELEASE",
            Self::Limits => "LIMITS",
            Self::MtPriority => "MT-PRIORITY",
            Self::RequireTls => "REQUIRETLS",
            Self::SmtpUtf8 => "SMTPUTF8",
        }
    }

    /// The extension of this keyword, in any case of letters.
    pub fn from_keyword(keyword: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|extension| extension.keyword().eq_ignore_ascii_case(keyword))
    }

    /// The octets that it adds to MAIL and to RCPT.
    fn line_bytes(self) -> (usize, usize) {
        match self {
            // RFC 3030 section 3 adds 16, which BODY's own 17 have room for.
            Self::BinaryMime | Self::Chunking | Self::Limits => (0, 0),
            // RFC 2852 section 2.
            Self::DeliverBy => (17, 0),
            // RFC 4865 section 4.
            Self::FutureRelease => (34, 0),
            // RFC 6710 section 3.
            Self::MtPriority => (15, 0),
            // RFC 8689 section 2.
            Self::RequireTls => (11, 0),
            // RFC 6531 section 3.1.
            Self::SmtpUtf8 => (10, 0),
            Self::Dsn => (notification::MAIL_BYTES, notification::RCPT_BYTES),
        }
    }
}

/// The longest command line, CRLF included, with everything that the offered extensions add to the one command to
/// which they add most.
pub fn command_line_bytes_max(offered: &[Extension]) -> usize {
    let (mail, rcpt) = offered
        .iter()
        .map(|extension| extension.line_bytes())
        .fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1));
    COMMAND_LINE_BASE + rcpt.max(SIZE_PARAMETER + BODY_PARAMETER + AUTH_PARAMETER + mail)
}

/// What EHLO offers to one client at one time.
#[derive(Clone, Debug)]
pub struct Offer<'a> {
    /// Octets of the largest message.
    pub message_bytes_max: u64,
    /// What is not withheld.
    pub extensions: &'a [Extension],
    /// AUTH's. There are none where only a certificate logs in, and the client has shown none.
    pub mechanisms: &'a [Mechanism],
    /// AUTH and REQUIRETLS are offered only then, STARTTLS only before (RFC 3207 section 4.2).
    pub under_tls: bool,
    /// How long a message may be held, and until when that is.
    pub future_release_max: (Duration, Timestamp),
    /// The shortest time in which a message may be asked to be delivered or returned.
    pub deliver_by_min: Option<Duration>,
    /// Messages in this session.
    pub messages_max: u64,
    /// Recipients of one message.
    pub recipients_max: u64,
}

impl Offer<'_> {
    /// The lines of EHLO behind the host name.
    pub fn lines(&self) -> Vec<Cow<'static, str>> {
        let mut lines = vec![
            "PIPELINING".into(),
            format!("SIZE {}", self.message_bytes_max).into(),
            "8BITMIME".into(),
            "ENHANCEDSTATUSCODES".into(),
        ];
        lines.extend(self.extensions.iter().filter_map(|one| self.line(*one)));
        if !self.under_tls {
            lines.push("STARTTLS".into());
        } else if !self.mechanisms.is_empty() {
            lines.push(format!("AUTH {}", mechanism_list(self.mechanisms)).into());
        }
        lines
    }

    fn line(&self, extension: Extension) -> Option<Cow<'static, str>> {
        let keyword = extension.keyword();
        Some(match extension {
            Extension::RequireTls if !self.under_tls => return None,
            Extension::DeliverBy => match self.deliver_by_min {
                Some(least) => format!("{keyword} {}", least.as_secs()).into(),
                None => keyword.into(),
            },
            // RFC 4865 section 4.
            Extension::FutureRelease => {
                let (longest, until) = self.future_release_max;
                format!("{keyword} {} {until:.0}", longest.as_secs()).into()
            }
            Extension::Limits => format!(
                "{keyword} MAILMAX={} RCPTMAX={}",
                self.messages_max.clamp(1, LIMIT_MAX),
                self.recipients_max.clamp(1, LIMIT_MAX)
            )
            .into(),
            _ => keyword.into(),
        })
    }
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
    /// BODY= (RFC 6152, RFC 3030).
    pub body: Option<Body>,
    /// AUTH= (RFC 4954 section 5).
    pub auth: Option<AuthParameter>,
    /// SMTPUTF8 (RFC 6531 section 3.4): addresses and header section may hold UTF-8.
    pub smtputf8: bool,
    /// HOLDFOR= or HOLDUNTIL= (RFC 4865 section 4).
    pub hold: Option<Hold>,
    /// BY= (RFC 2852 section 4).
    pub by: Option<By>,
    /// MT-PRIORITY= (RFC 6710 section 4), from -9 to 9.
    pub priority: Option<i8>,
    /// REQUIRETLS (RFC 8689 section 2).
    pub require_tls: bool,
    /// RET= (RFC 3461 section 4.3).
    pub ret: Option<Return>,
    /// ENVID= (RFC 3461 section 4.4), decoded.
    pub envid: Option<String>,
}

/// The parameters of RCPT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcptParameters {
    /// NOTIFY= (RFC 3461 section 4.1), each word once and in order.
    pub notify: Option<Vec<Notify>>,
    /// ORCPT= (RFC 3461 section 4.2), decoded: the address type, `;`, and the address.
    pub orcpt: Option<String>,
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
    /// The meaning of MAIL's parameters where these extensions are offered, or the reply that refuses them.
    pub fn parse(parameters: &[Parameter], offered: &[Extension]) -> Result<Self, Reply> {
        let offers = |extension| offered.contains(&extension);
        let dsn = offers(Extension::Dsn);
        let (mut smtputf8, mut require_tls) = (None, None);
        let mut parsed = Self::default();
        for parameter in parameters {
            let value = parameter.value.as_deref().unwrap_or_default();
            match parameter.keyword.as_str() {
                "SIZE" => once(&mut parsed.size, parse_size(value), "SIZE")?,
                "BODY" => {
                    let body = parse_body(value, offers(Extension::BinaryMime));
                    once(&mut parsed.body, body, "BODY")?
                }
                "AUTH" => once(&mut parsed.auth, parse_auth(value), "AUTH")?,
                "RET" if dsn => once(&mut parsed.ret, notification::parse_ret(value), "RET")?,
                "ENVID" if dsn => {
                    once(&mut parsed.envid, notification::parse_envid(value), "ENVID")?
                }
                "SMTPUTF8" if offers(Extension::SmtpUtf8) => {
                    once(&mut smtputf8, no_value(parameter), "SMTPUTF8")?
                }
                // Only one of the two may be there: RFC 4865 section 4.
                keyword @ ("HOLDFOR" | "HOLDUNTIL") if offers(Extension::FutureRelease) => once(
                    &mut parsed.hold,
                    timing::parse_hold(keyword, value),
                    keyword,
                )?,
                "BY" if offers(Extension::DeliverBy) => {
                    once(&mut parsed.by, timing::parse_by(value), "BY")?
                }
                "MT-PRIORITY" if offers(Extension::MtPriority) => {
                    let priority = timing::parse_priority(value);
                    once(&mut parsed.priority, priority, "MT-PRIORITY")?
                }
                "REQUIRETLS" if offers(Extension::RequireTls) => {
                    once(&mut require_tls, no_value(parameter), "REQUIRETLS")?
                }
                other => return Err(Reply::unknown_parameter(other)),
            }
        }
        parsed.smtputf8 = smtputf8.is_some();
        parsed.require_tls = require_tls.is_some();
        let mailbox = match &parsed.auth {
            Some(AuthParameter::Mailbox(mailbox)) => Some(mailbox),
            _ => None,
        };
        if !parsed.smtputf8 && mailbox.is_some_and(|mailbox| !mailbox.is_ascii()) {
            return Err(bad_value("AUTH"));
        }
        Ok(parsed)
    }
}

impl RcptParameters {
    /// The meaning of RCPT's parameters where these extensions are offered, or the reply that refuses them.
    ///
    /// `smtputf8`: whether MAIL had that parameter, so that these may hold UTF-8 too.
    pub fn parse(
        parameters: &[Parameter],
        offered: &[Extension],
        smtputf8: bool,
    ) -> Result<Self, Reply> {
        let dsn = offered.contains(&Extension::Dsn);
        let mut parsed = Self::default();
        for parameter in parameters {
            let value = parameter.value.as_deref().unwrap_or_default();
            match parameter.keyword.as_str() {
                "NOTIFY" if dsn => once(
                    &mut parsed.notify,
                    notification::parse_notify(value),
                    "NOTIFY",
                )?,
                "ORCPT" if dsn => {
                    let orcpt = Some(value).filter(|value| smtputf8 || value.is_ascii());
                    let orcpt = orcpt.and_then(notification::parse_orcpt);
                    once(&mut parsed.orcpt, orcpt, "ORCPT")?
                }
                other => return Err(Reply::unknown_parameter(other)),
            }
        }
        Ok(parsed)
    }
}

/// A parameter that is there or not, and has no value.
fn no_value(parameter: &Parameter) -> Option<()> {
    parameter.value.is_none().then_some(())
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
        None => Err(bad_value(keyword)),
    }
}

fn bad_value(keyword: &str) -> Reply {
    Reply::bad_arguments(format!("parameter {keyword} has a bad value"))
}

/// `size-value = 1*20DIGIT`
fn parse_size(value: &str) -> Option<u64> {
    let well_formed =
        (1..=20).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| value.parse().unwrap_or(u64::MAX))
}

fn parse_body(value: &str, binary_mime: bool) -> Option<Body> {
    match value {
        _ if value.eq_ignore_ascii_case("BINARYMIME") => Some(Body::Binary).filter(|_| binary_mime),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::command::Command;

    fn check(parameters: &str) -> Result<MailParameters, String> {
        let line = format!("MAIL FROM:<a@b.example> {parameters}");
        let Ok(Command::Mail { parameters, .. }) = Command::parse(line.as_bytes()) else {
            panic!("{line}")
        };
        MailParameters::parse(&parameters, &Extension::ALL)
            .map_err(|reply| reply.to_string()[..9].to_owned())
    }

    fn check_rcpt(parameters: &str) -> Result<RcptParameters, String> {
        check_rcpt_of(parameters, false)
    }

    fn check_rcpt_of(parameters: &str, smtputf8: bool) -> Result<RcptParameters, String> {
        let line = format!("RCPT TO:<a@b.example> {parameters}");
        let Ok(Command::Rcpt { parameters, .. }) = Command::parse(line.as_bytes()) else {
            panic!("{line}")
        };
        RcptParameters::parse(&parameters, &Extension::ALL, smtputf8)
            .map_err(|reply| reply.to_string()[..9].to_owned())
    }

    #[test]
    fn mail_parameters() {
        assert_eq!(check(""), Ok(MailParameters::default()));
        let parsed =
            check("SIZE=1000 body=8bitmime AUTH=e+3Dmc2@example.com ret=full ENVID=Q+2B").unwrap();
        assert_eq!(parsed.size, Some(1000));
        assert_eq!(parsed.body, Some(Body::EightBitMime));
        assert_eq!(parsed.ret, Some(Return::Full));
        assert_eq!(parsed.envid.as_deref(), Some("Q+"));
        let Some(AuthParameter::Mailbox(mailbox)) = parsed.auth else {
            panic!()
        };
        assert_eq!(mailbox.to_string(), "e=mc2@example.com");
        assert_eq!(check("AUTH=<>").unwrap().auth, Some(AuthParameter::Unknown));
        assert_eq!(
            check("SIZE=99999999999999999999").unwrap().size,
            Some(u64::MAX)
        );
        assert!(!parsed.smtputf8);
        let hold = |text| check(text).unwrap().hold.unwrap().request();
        assert_eq!(hold("holdfor=60"), "for;60");
        let until = "2027-01-01T00:00:00Z";
        assert_eq!(
            hold(&format!("HOLDUNTIL={until}")),
            format!("until;{until}")
        );
        let binary = check("BODY=BinaryMIME").unwrap();
        assert_eq!(binary.body, Some(Body::Binary));
        let parsed = check("AUTH=+C3+BC@b.example smtputf8").unwrap();
        assert!(parsed.smtputf8 && parsed.auth.is_some());
        for (bad, reply) in [
            ("SIZE", "501 5.5.4"),
            ("SIZE=-1", "501 5.5.4"),
            ("SIZE=1e3", "501 5.5.4"),
            ("SIZE=000000000000000000001", "501 5.5.4"),
            ("SIZE=1 SIZE=2", "501 5.5.4"),
            ("BODY=BINARY", "501 5.5.4"),
            ("AUTH=a+4", "501 5.5.4"),
            ("AUTH=+zz", "501 5.5.4"),
            ("AUTH=nobody", "501 5.5.4"),
            ("RET", "501 5.5.4"),
            ("RET=ALL", "501 5.5.4"),
            ("RET=FULL RET=FULL", "501 5.5.4"),
            ("ENVID=+0A", "501 5.5.4"),
            ("ENVID=a ENVID=b", "501 5.5.4"),
            ("NOTIFY=NEVER", "555 5.5.4"),
            ("ORCPT=rfc822;a@b.example", "555 5.5.4"),
            ("X-OURS=1", "555 5.5.4"),
            ("BY=120", "501 5.5.4"),
            ("BY=120;R BY=120;R", "501 5.5.4"),
            ("MT-PRIORITY=10", "501 5.5.4"),
            ("MT-PRIORITY=1 MT-PRIORITY=1", "501 5.5.4"),
            ("REQUIRETLS=yes", "501 5.5.4"),
            ("REQUIRETLS REQUIRETLS", "501 5.5.4"),
            ("HOLDFOR=0", "501 5.5.4"),
            ("HOLDFOR", "501 5.5.4"),
            ("HOLDUNTIL=60", "501 5.5.4"),
            ("HOLDFOR=60 HOLDFOR=60", "501 5.5.4"),
            ("HOLDFOR=60 HOLDUNTIL=2027-01-01T00:00:00Z", "501 5.5.4"),
            ("LIMITS", "555 5.5.4"),
            ("SMTPUTF8=1", "501 5.5.4"),
            ("SMTPUTF8 SMTPUTF8", "501 5.5.4"),
            ("AUTH=+C3+BC@b.example", "501 5.5.4"),
            ("AUTH=\u{fc}@b.example SMTPUTF8", "501 5.5.4"),
        ] {
            assert_eq!(check(bad), Err(reply.to_owned()), "{bad}");
        }
    }

    #[test]
    fn rcpt_parameters() {
        assert_eq!(check_rcpt(""), Ok(RcptParameters::default()));
        let parsed = check_rcpt("ORCPT=rfc822;a+2Bb@b.example notify=delay,Success").unwrap();
        assert_eq!(parsed.notify, Some(vec![Notify::Success, Notify::Delay]));
        assert_eq!(parsed.orcpt.as_deref(), Some("rfc822;a+b@b.example"));
        let orcpt = |parameters, smtputf8| check_rcpt_of(parameters, smtputf8).unwrap().orcpt;
        let expected = Some("utf-8;\u{fc}@b.example".to_owned());
        assert_eq!(orcpt(r"ORCPT=utf-8;\x{FC}@b.example", false), expected);
        assert_eq!(orcpt("ORCPT=utf-8;\u{fc}@b.example", true), expected);
        for (bad, reply) in [
            ("NOTIFY", "501 5.5.4"),
            ("NOTIFY=NEVER,DELAY", "501 5.5.4"),
            ("NOTIFY=NEVER NOTIFY=NEVER", "501 5.5.4"),
            ("ORCPT=a@b.example", "501 5.5.4"),
            ("ORCPT=utf-8;\u{fc}@b.example", "501 5.5.4"),
            ("ORCPT=rfc822;a ORCPT=rfc822;a", "501 5.5.4"),
            ("RET=FULL", "555 5.5.4"),
            ("SIZE=1", "555 5.5.4"),
        ] {
            assert_eq!(check_rcpt(bad), Err(reply.to_owned()), "{bad}");
        }
    }

    #[test]
    fn what_is_not_offered_is_not_understood() {
        let parameter = |keyword: &str, value: &str| Parameter {
            keyword: keyword.to_owned(),
            value: Some(value.to_owned()),
        };
        for (mail, rcpt) in [
            (parameter("RET", "FULL"), parameter("NOTIFY", "NEVER")),
            (parameter("HOLDFOR", "60"), parameter("NOTIFY", "NEVER")),
            (parameter("ENVID", "1"), parameter("ORCPT", "rfc822;a")),
        ] {
            let binary = parameter("BODY", "BINARYMIME");
            let refused = MailParameters::parse(&[binary], &[Extension::Chunking]).unwrap_err();
            assert!(refused.to_string().starts_with("501 5.5.4"), "{refused}");
            for refused in [
                MailParameters::parse(&[mail], &[]).unwrap_err(),
                RcptParameters::parse(&[rcpt], &[], false).unwrap_err(),
            ] {
                assert!(refused.to_string().starts_with("555 5.5.4"), "{refused}");
            }
        }
    }

    #[test]
    fn lines_grow_with_what_is_offered() {
        assert_eq!(command_line_bytes_max(&[]), 512 + 26 + 17 + 500);
        let longest = format!(
            " SIZE={} BODY=8BITMIME RET=FULL ENVID={}",
            u64::MAX,
            "x".repeat(100)
        );
        assert!(command_line_bytes_max(&Extension::ALL) >= 1012 + longest.len());
    }

    #[test]
    fn ehlo_lines() {
        let mut offer = Offer {
            message_bytes_max: 1000,
            extensions: &[
                Extension::FutureRelease,
                Extension::DeliverBy,
                Extension::RequireTls,
                Extension::Limits,
            ],
            mechanisms: &[Mechanism::Plain, Mechanism::Login],
            under_tls: true,
            future_release_max: (
                Duration::from_secs(86_400),
                "2026-11-22T09:30:00.123Z".parse().unwrap(),
            ),
            deliver_by_min: Some(Duration::from_secs(90)),
            messages_max: u64::MAX,
            recipients_max: 0,
        };
        assert_eq!(
            offer.lines(),
            [
                "PIPELINING",
                "SIZE 1000",
                "8BITMIME",
                "ENHANCEDSTATUSCODES",
                "FUTURERELEASE 86400 2026-11-22T09:30:00Z",
                "DELIVERBY 90",
                "REQUIRETLS",
                "LIMITS MAILMAX=999999 RCPTMAX=1",
                "AUTH PLAIN LOGIN",
            ]
        );
        offer.under_tls = false;
        offer.extensions = &Extension::ALL;
        offer.deliver_by_min = None;
        let lines = offer.lines();
        assert!(lines.contains(&"STARTTLS".into()) && lines.contains(&"DELIVERBY".into()));
        assert!(!lines.iter().any(|line| line.starts_with("AUTH")));
        assert!(!lines.contains(&"REQUIRETLS".into()));
        assert!(lines.iter().any(|line| line.starts_with("FUTURERELEASE ")));
    }
}
