//! The parameters of MAIL and RCPT, and xtext.

use std::fmt::Write as _;

use gatepost::envelope::{DeliverByMode, Notify};
use gatepost::smtp::command::{Command, Parameter};
use gatepost::smtp::extension::{
    AuthParameter, Extension, Hold, MailParameters, RcptParameters, decode_xtext,
};

use super::{Script, check_reply_lines};

/// The input: which extensions are offered (two octets), whether SMTPUTF8 was said, then parameters as text.
///
/// What is understood keeps to the bounds of its RFC, and means the same when it is written anew; what is not offered is
/// 555; xtext is what an encoder makes of what it means.
pub fn check_parameters(data: &[u8]) {
    let mut script = Script(data);
    let chosen = u16::from_le_bytes([script.octet(), script.octet()]);
    let smtputf8 = script.octet() & 1 == 1;
    let offered: Vec<Extension> = Extension::ALL
        .iter()
        .enumerate()
        .filter(|(index, _)| chosen & (1 << index) != 0)
        .map(|(_, extension)| *extension)
        .collect();
    let text = script.0;
    check_xtext(text);
    let Some(parameters) = parameters(text) else {
        return;
    };
    match MailParameters::parse(&parameters, &offered) {
        Ok(parsed) => {
            check_mail(&parsed, &offered);
            let again = self::parameters(write_mail(&parsed).as_bytes()).expect("it parsed once");
            assert_eq!(MailParameters::parse(&again, &offered), Ok(parsed));
        }
        Err(reply) => check_refusal(&reply),
    }
    match RcptParameters::parse(&parameters, &offered, smtputf8) {
        Ok(parsed) => {
            assert!(parameters.is_empty() || offered.contains(&Extension::Dsn));
            check_rcpt(&parsed);
            let again =
                self::parameters(write_rcpt(&parsed, smtputf8).as_bytes()).expect("it parsed once");
            assert_eq!(
                RcptParameters::parse(&again, &offered, smtputf8),
                Ok(parsed)
            );
        }
        Err(reply) => check_refusal(&reply),
    }
}

/// The parameters of a line, as a command has them.
fn parameters(text: &[u8]) -> Option<Vec<Parameter>> {
    let line = [b"RCPT TO:<a@b.example> ", text].concat();
    match Command::parse(&line) {
        Ok(Command::Rcpt { parameters, .. }) => Some(parameters),
        _ => None,
    }
}

fn check_refusal(reply: &gatepost::smtp::reply::Reply) {
    let lines = check_reply_lines(reply);
    assert!(
        lines[0].starts_with("501 5.5.4 ") || lines[0].starts_with("555 5.5.4 "),
        "{lines:?}"
    );
}

fn check_mail(parsed: &MailParameters, offered: &[Extension]) {
    let needs = [
        (parsed.ret.is_some(), Extension::Dsn),
        (parsed.envid.is_some(), Extension::Dsn),
        (parsed.smtputf8, Extension::SmtpUtf8),
        (parsed.require_tls, Extension::RequireTls),
        (parsed.by.is_some(), Extension::DeliverBy),
        (parsed.priority.is_some(), Extension::MtPriority),
        (parsed.hold.is_some(), Extension::FutureRelease),
    ];
    for (there, extension) in needs {
        assert!(!there || offered.contains(&extension), "{extension:?}");
    }
    if let Some(envid) = &parsed.envid {
        assert!((1..=100).contains(&envid.len()));
        assert!(envid.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }
    if let Some(by) = parsed.by {
        assert!(by.seconds.abs() < 1_000_000_000);
        assert!(by.mode == DeliverByMode::Notify || by.seconds > 0);
    }
    assert!(
        parsed
            .priority
            .is_none_or(|priority| (-9..=9).contains(&priority))
    );
    if let Some(Hold::For(interval)) = parsed.hold {
        assert!((1..1_000_000_000).contains(&interval.as_secs()));
    }
    if let Some(AuthParameter::Mailbox(mailbox)) = &parsed.auth {
        assert!(parsed.smtputf8 || mailbox.is_ascii());
    }
}

fn check_rcpt(parsed: &RcptParameters) {
    if let Some(notify) = &parsed.notify {
        assert!(!notify.is_empty() && notify.is_sorted());
        assert!(notify.windows(2).all(|two| two[0] != two[1]));
        assert!(notify.len() == 1 || !notify.contains(&Notify::Never));
    }
    if let Some(orcpt) = &parsed.orcpt {
        let (kind, address) = orcpt.split_once(';').expect("a type and an address");
        assert!(orcpt.len() <= 500 && !kind.is_empty() && !address.is_empty());
        assert!(!orcpt.chars().any(char::is_control));
        assert!(orcpt.is_ascii() || kind.eq_ignore_ascii_case("utf-8"));
    }
}

/// Any octets are what their xtext means; and text that is xtext says in its own way what our encoder says in another.
fn check_xtext(octets: &[u8]) {
    assert_eq!(decode_xtext(&encode_xtext(octets)).as_deref(), Some(octets));
    if let Some(decoded) = std::str::from_utf8(octets).ok().and_then(decode_xtext) {
        assert!(decoded.len() <= octets.len());
        assert_eq!(decode_xtext(&encode_xtext(&decoded)), Some(decoded));
    }
}

fn encode_xtext(octets: &[u8]) -> String {
    let mut text = String::new();
    for &byte in octets {
        match byte {
            b'!'..=b'~' if !matches!(byte, b'+' | b'=') => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "+{byte:02X}");
            }
        }
    }
    text
}

fn write_mail(parsed: &MailParameters) -> String {
    let mut text = String::new();
    let mut add = |keyword: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(text, " {keyword}={value}");
        }
    };
    add("SIZE", parsed.size.map(|size| size.to_string()));
    add("BODY", parsed.body.map(|body| body.as_str().to_owned()));
    add(
        "AUTH",
        parsed.auth.as_ref().map(|auth| match auth {
            AuthParameter::Mailbox(mailbox) => encode_xtext(mailbox.to_string().as_bytes()),
            AuthParameter::Unknown => "<>".to_owned(),
        }),
    );
    add("RET", parsed.ret.map(|ret| ret.as_str().to_owned()));
    add(
        "ENVID",
        parsed
            .envid
            .as_deref()
            .map(|envid| encode_xtext(envid.as_bytes())),
    );
    add(
        "BY",
        parsed.by.map(|by| {
            let trace = if by.trace { "T" } else { "" };
            format!("{};{}{trace}", by.seconds, by.mode.as_str())
        }),
    );
    add(
        "MT-PRIORITY",
        parsed.priority.map(|priority| priority.to_string()),
    );
    match parsed.hold {
        Some(Hold::For(interval)) => add("HOLDFOR", Some(interval.as_secs().to_string())),
        Some(Hold::Until(time)) => add("HOLDUNTIL", Some(time.to_string())),
        None => {}
    }
    if parsed.smtputf8 {
        text.push_str(" SMTPUTF8");
    }
    if parsed.require_tls {
        text.push_str(" REQUIRETLS");
    }
    text
}

/// No longer than it can have been before.
fn write_rcpt(parsed: &RcptParameters, smtputf8: bool) -> String {
    let mut text = String::new();
    if let Some(notify) = &parsed.notify {
        let words: Vec<&str> = notify.iter().map(|word| word.as_str()).collect();
        let _ = write!(text, " NOTIFY={}", words.join(","));
    }
    if let Some((kind, address)) = parsed
        .orcpt
        .as_deref()
        .and_then(|orcpt| orcpt.split_once(';'))
    {
        let written = match kind.eq_ignore_ascii_case("utf-8") {
            true => address
                .chars()
                .map(|c| match c {
                    '+' | '=' | '\\' | ' ' => format!("\\x{{{:02X}}}", u32::from(c)),
                    c if c.is_ascii() || smtputf8 => c.to_string(),
                    c => format!("\\x{{{:02X}}}", u32::from(c)),
                })
                .collect(),
            false => encode_xtext(address.as_bytes()),
        };
        let _ = write!(text, " ORCPT={kind};{written}");
    }
    text
}
