//! A message that gatepost itself writes to somebody: plain text with its header section ([`Notice`]).
//!
//! Whatever the subject and the text hold, the message has the fields that are written here and no others, consists of
//! ASCII lines of at most 998 octets (RFC 5322 section 2.1.1), and says the same to whoever reads it: what is not plain
//! ASCII is encoded (RFC 2047 in the subject, quoted-printable of RFC 2045 section 6.7 in the text).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::clock::{Timestamp, rfc5322_date};
use crate::envelope::MessageId;
use crate::smtp::address::Mailbox;

/// Characters of a subject that are kept.
const SUBJECT_CHARS_MAX: usize = 150;
/// Octets in an encoded word before their encoding: with `Subject: ` in front of it the line has 76 (RFC 2047 section 2).
const ENCODED_WORD_BYTES_MAX: usize = 39;
/// RFC 5322 section 2.1.1.
const LINE_BYTES_MAX: usize = 998;
/// RFC 2045 section 6.7, rule 5.
const QUOTED_LINE_BYTES_MAX: usize = 76;

/// A message of our own.
#[derive(Clone, Copy, Debug)]
pub struct Notice<'a> {
    /// Its name in the queue.
    pub id: &'a MessageId,
    /// When it is written.
    pub time: Timestamp,
    /// Our own name, for the Message-ID.
    pub hostname: &'a str,
    /// Whose address stands in From; of ASCII.
    pub from: &'a Mailbox,
    /// Who gets it; of ASCII, and not nobody.
    pub to: &'a [Mailbox],
    /// Any text; of a long one the beginning is kept.
    pub subject: &'a str,
    /// Any text, its lines ended by `\n`.
    pub text: &'a str,
}

impl Notice<'_> {
    /// The message as it goes into the queue, with CRLF line ends.
    ///
    /// It says that a program wrote it (RFC 3834 section 5), so that no other program answers it.
    pub fn to_text(&self) -> String {
        let to: Vec<String> = self
            .to
            .iter()
            .map(|mailbox| format!("<{mailbox}>"))
            .collect();
        let (encoding, text) = match is_plain(self.text) {
            true => ("7bit", self.text.replace('\n', "\r\n")),
            false => ("quoted-printable", quoted_printable(self.text)),
        };
        let end = if text.ends_with("\r\n") { "" } else { "\r\n" };
        format!(
            "Date: {date}\r\n\
             From: gatepost <{from}>\r\n\
             To: {to}\r\n\
             Message-ID: <{id}@{hostname}>\r\n\
             Subject: {subject}\r\n\
             Auto-Submitted: auto-generated\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: {encoding}\r\n\
             \r\n\
             {text}{end}",
            date = rfc5322_date(self.time),
            from = self.from,
            to = to.join(",\r\n "),
            id = self.id,
            hostname = self.hostname,
            subject = unstructured(self.subject),
        )
    }
}

/// Whether a text can go as it is.
fn is_plain(text: &str) -> bool {
    text.split('\n').all(|line| {
        line.len() <= LINE_BYTES_MAX && line.bytes().all(|octet| matches!(octet, b' '..=b'~'))
    })
}

/// The value of an unstructured field, on as many lines as it takes.
fn unstructured(text: &str) -> String {
    let blank = |c: char| if c.is_control() { ' ' } else { c };
    let shown: String = text.chars().map(blank).take(SUBJECT_CHARS_MAX).collect();
    // What looks like an encoded word would be read as one.
    if shown.bytes().all(|octet| matches!(octet, b' '..=b'~')) && !shown.contains("=?") {
        return shown;
    }
    let mut words = vec![String::new()];
    for character in shown.chars() {
        let last = words.last().map_or(0, String::len);
        if last + character.len_utf8() > ENCODED_WORD_BYTES_MAX {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(character);
        }
    }
    let encode = |word: &String| format!("=?utf-8?B?{}?=", BASE64_STANDARD.encode(word));
    let words: Vec<String> = words.iter().map(encode).collect();
    words.join("\r\n ")
}

/// The text in quoted-printable: only `\n` ends a line of it.
fn quoted_printable(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + text.len() / 4);
    for (number, line) in text.split('\n').enumerate() {
        if number > 0 {
            encoded.push_str("\r\n");
        }
        let mut column = 0;
        let last = line.len().saturating_sub(1);
        for (index, octet) in line.bytes().enumerate() {
            let literal = match octet {
                b'=' => false,
                b'!'..=b'~' => true,
                // A blank at the end of a line can get lost.
                b' ' => index != last,
                _ => false,
            };
            let width = if literal { 1 } else { 3 };
            // The last column is for the sign that the line goes on.
            if column + width >= QUOTED_LINE_BYTES_MAX {
                encoded.push_str("=\r\n");
                column = 0;
            }
            column += width;
            if literal {
                encoded.push(char::from(octet));
            } else {
                let _ = write!(encoded, "={octet:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{Header, HeaderSection, Progress};

    fn mailbox(text: &str) -> Mailbox {
        Mailbox::parse(text.as_bytes()).unwrap()
    }

    fn notice(subject: &str, text: &str) -> String {
        let to = [
            mailbox("postmaster@example.org"),
            mailbox("\"on call\"@example.net"),
        ];
        Notice {
            id: &MessageId::from_bits(7),
            time: "2026-11-21T09:30:00Z".parse().unwrap(),
            hostname: "mail.example.org",
            from: &mailbox("postmaster@mail.example.org"),
            to: &to,
            subject,
            text,
        }
        .to_text()
    }

    /// The fields by their names, unfolded, and the body.
    fn read(message: &str) -> (Vec<(String, String)>, String) {
        let mut section = HeaderSection::default();
        let Progress::Complete { header_bytes } = section.push(message.as_bytes()) else {
            panic!("no empty line: {message}");
        };
        let (header, body): (Header, _) = section.finish(header_bytes);
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
        let fields = header.fields.iter().map(|field| {
            let value = text(&header.bytes[field.value.clone()]).replace("\r\n ", " ");
            (field.name.clone(), value.trim().to_owned())
        });
        (fields.collect(), text(&body))
    }

    /// What a reader of RFC 2047 makes of a value.
    fn decoded(value: &str) -> String {
        if !value.contains("=?") {
            return value.to_owned();
        }
        let words = value.split_ascii_whitespace().map(|word| {
            let word = word.strip_prefix("=?utf-8?B?").unwrap();
            let octets = BASE64_STANDARD.decode(word.strip_suffix("?=").unwrap());
            String::from_utf8(octets.unwrap()).unwrap()
        });
        words.collect()
    }

    /// What a reader of quoted-printable makes of a body.
    fn unquoted(body: &str) -> String {
        let mut octets = Vec::new();
        let joined = body.replace("=\r\n", "").replace("\r\n", "\n");
        let mut rest = joined.as_bytes();
        while let [first, behind @ ..] = rest {
            rest = behind;
            match first {
                b'=' => {
                    let digits = std::str::from_utf8(&behind[..2]).unwrap();
                    octets.push(u8::from_str_radix(digits, 16).unwrap());
                    rest = &behind[2..];
                }
                octet => octets.push(*octet),
            }
        }
        String::from_utf8(octets).unwrap()
    }

    #[test]
    fn plain_text_goes_as_it_is() {
        assert_eq!(
            notice("account contained", "a = b\n\n.\nend\n"),
            "Date: Sat, 21 Nov 2026 09:30:00 +0000\r\n\
             From: gatepost <postmaster@mail.example.org>\r\n\
             To: <postmaster@example.org>,\r\n <\"on call\"@example.net>\r\n\
             Message-ID: <00000000000000000000000007@mail.example.org>\r\n\
             Subject: account contained\r\n\
             Auto-Submitted: auto-generated\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 7bit\r\n\
             \r\n\
             a = b\r\n\r\n.\r\nend\r\n"
        );
    }

    #[test]
    fn other_text_is_encoded() {
        let message = notice("B\u{fc}cher", "a=b \nJos\u{e9}\n");
        assert!(
            message.contains("\r\nSubject: =?utf-8?B?QsO8Y2hlcg==?=\r\n"),
            "{message}"
        );
        assert!(
            message.ends_with("quoted-printable\r\n\r\na=3Db=20\r\nJos=C3=A9\r\n"),
            "{message}"
        );
        // A name that would be read as something else, and one that would be fields of its own.
        for subject in [
            "=?utf-8?B?QQ==?=",
            "x\r\nBcc: everybody@example.net\r\n\r\nbody",
        ] {
            let (fields, _) = read(&notice(subject, "text"));
            assert_eq!(fields.len(), 9, "{fields:?}");
            let blanked = subject.replace(['\r', '\n'], " ");
            assert_eq!(decoded(&fields[4].1), blanked);
        }
        let long = "x".repeat(2000);
        assert!(notice(&long, "text").contains(&format!("Subject: {}\r\n", &long[..150])));
        assert!(notice("text", &long).contains("quoted-printable"));
    }

    proptest! {
        #[test]
        fn nothing_breaks_out(subject in ".{0,80}|(?s).{0,80}", text in "(?s).{0,400}|[a-z =.\n]{0,400}") {
            let message = notice(&subject, &text);
            prop_assert!(message.is_ascii());
            prop_assert!(message.ends_with("\r\n"));
            for line in message.strip_suffix("\r\n").unwrap().split("\r\n") {
                prop_assert!(line.len() <= LINE_BYTES_MAX);
                prop_assert!(line.bytes().all(|octet| matches!(octet, b' '..=b'~')), "{line:?}");
            }
            let (fields, body) = read(&message);
            let names: Vec<&str> = fields.iter().map(|(name, _)| &**name).collect();
            prop_assert_eq!(names, [
                "date", "from", "to", "message-id", "subject", "auto-submitted", "mime-version", "content-type",
                "content-transfer-encoding",
            ]);
            let expected: String = subject.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let shown = decoded(&fields[4].1);
            prop_assert_eq!(shown.trim(), expected.trim());
            let said = match &*fields[8].1 {
                "7bit" => body.replace("\r\n", "\n"),
                _ => unquoted(&body),
            };
            prop_assert_eq!(said.trim_end_matches('\n'), text.trim_end_matches('\n'));
        }
    }
}
