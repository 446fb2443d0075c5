//! DSN: which reports are wanted, and what they shall say (RFC 3461 section 4).

use super::xtext::{decode_printable, decode_utf8_address};
use crate::envelope::{Notify, Return};
use crate::smtp::address::is_atext;

/// RFC 3461 section 4.4: characters of ENVID, as written.
const ENVID_CHARACTERS_MAX: usize = 100;
/// RFC 3461 section 4.2: characters of ORCPT, as written.
const ORCPT_CHARACTERS_MAX: usize = 500;

/// What MAIL grows by: ` RET=FULL` and ` ENVID=`.
pub(super) const MAIL_BYTES: usize = " RET=FULL".len() + " ENVID=".len() + ENVID_CHARACTERS_MAX;
/// What RCPT grows by: all words of NOTIFY and ` ORCPT=`.
pub(super) const RCPT_BYTES: usize =
    " NOTIFY=SUCCESS,FAILURE,DELAY".len() + " ORCPT=".len() + ORCPT_CHARACTERS_MAX;

/// `RET=FULL` or `RET=HDRS`, in any case of letters.
pub(super) fn parse_ret(value: &str) -> Option<Return> {
    match value {
        _ if value.eq_ignore_ascii_case("FULL") => Some(Return::Full),
        _ if value.eq_ignore_ascii_case("HDRS") => Some(Return::Headers),
        _ => None,
    }
}

/// `envid-parameter = "ENVID=" xtext`, decoded.
pub(super) fn parse_envid(value: &str) -> Option<String> {
    let fits = (1..=ENVID_CHARACTERS_MAX).contains(&value.len());
    decode_printable(value).filter(|_| fits)
}

/// `notify-esmtp-value = "NEVER" / 1#notify-list-element`. A word that is there twice is meant once.
pub(super) fn parse_notify(value: &str) -> Option<Vec<Notify>> {
    const WORDS: [(&str, Notify); 4] = [
        ("NEVER", Notify::Never),
        ("SUCCESS", Notify::Success),
        ("FAILURE", Notify::Failure),
        ("DELAY", Notify::Delay),
    ];
    let word = |text: &str| {
        WORDS
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(text))
            .map(|(_, notify)| *notify)
    };
    let mut notify = value.split(',').map(word).collect::<Option<Vec<_>>>()?;
    notify.sort_unstable();
    notify.dedup();
    let alone = !notify.contains(&Notify::Never) || value.len() == "NEVER".len();
    alone.then_some(notify)
}

/// `original-recipient-address = addr-type ";" xtext`, decoded; with the type `utf-8` as RFC 6533 section 3 has it.
///
/// What type of address it is, and whether it looks like one, is between the sender and its reports.
pub(super) fn parse_orcpt(value: &str) -> Option<String> {
    if value.len() > ORCPT_CHARACTERS_MAX {
        return None;
    }
    let (address_type, address) = value.split_once(';')?;
    let is_atom = !address_type.is_empty() && address_type.bytes().all(is_atext);
    if !is_atom || address.is_empty() {
        return None;
    }
    let address = match address_type.eq_ignore_ascii_case("utf-8") {
        true => decode_utf8_address(address)?,
        false => decode_printable(address)?,
    };
    Some(format!("{address_type};{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ret() {
        for (value, expected) in [
            ("FULL", Some(Return::Full)),
            ("hdrs", Some(Return::Headers)),
            ("Hdrs", Some(Return::Headers)),
            ("", None),
            ("BODY", None),
            ("FULL,HDRS", None),
        ] {
            assert_eq!(parse_ret(value), expected, "{value}");
        }
    }

    #[test]
    fn envid() {
        let longest = "x".repeat(100);
        for (value, expected) in [
            ("QQ314159", Some("QQ314159")),
            ("a+20b+3D+2B", Some("a b=+")),
            (&longest, Some(&*longest)),
            (&format!("{longest}x"), None),
            ("", None),
            ("a+0Ab", None),
            ("a+7F", None),
            ("a+C3+A9", None),
            ("a+2b", None),
            ("a+", None),
        ] {
            assert_eq!(parse_envid(value).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn notify() {
        use Notify::{Delay, Failure, Never, Success};
        for (value, expected) in [
            ("NEVER", Some(&[Never][..])),
            ("never", Some(&[Never])),
            ("SUCCESS", Some(&[Success])),
            ("Delay,failure,SUCCESS", Some(&[Success, Failure, Delay])),
            ("FAILURE,DELAY", Some(&[Failure, Delay])),
            ("SUCCESS,SUCCESS", Some(&[Success])),
            ("NEVER,SUCCESS", None),
            ("SUCCESS,NEVER", None),
            ("NEVER,NEVER", None),
            ("", None),
            (",", None),
            ("SUCCESS,", None),
            (",SUCCESS", None),
            ("SUCCESS,,DELAY", None),
            ("SUCCESS;DELAY", None),
            ("ALWAYS", None),
        ] {
            assert_eq!(parse_notify(value).as_deref(), expected, "{value}");
        }
    }

    #[test]
    fn orcpt() {
        let longest = format!("rfc822;{}", "x".repeat(493));
        for (value, expected) in [
            ("rfc822;bob@example.net", Some("rfc822;bob@example.net")),
            (
                "RFC822;Bob+2Btag@example.net",
                Some("RFC822;Bob+tag@example.net"),
            ),
            ("x400;/C=de/", None),
            ("x400;/C+3Dde/S+3Da+20b/", Some("x400;/C=de/S=a b/")),
            ("unknown;;", Some("unknown;;")),
            (&longest, Some(&*longest)),
            (&format!("{longest}x"), None),
            (
                r"utf-8;r\x{E9}my\x{2B}x@example.net",
                Some("utf-8;r\u{e9}my+x@example.net"),
            ),
            (
                "UTF-8;r\u{e9}my@example.net",
                Some("UTF-8;r\u{e9}my@example.net"),
            ),
            ("utf-8;a+2Bb@example.net", None),
            ("rfc822;r\u{e9}my@example.net", None),
            ("rfc822;r+C3+A9my@example.net", None),
            ("rfc822;a+0D+0Ab", None),
            ("rfc822;", None),
            (";bob@example.net", None),
            ("bob@example.net", None),
            ("rfc 822;bob", None),
            ("rfc@822;bob", None),
            ("rfc822;a+4", None),
            ("", None),
        ] {
            assert_eq!(parse_orcpt(value).as_deref(), expected, "{value}");
        }
    }
}
