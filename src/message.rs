//! The message: its header section read and put right (RFC 5322, RFC 6409 section 8). The body is never looked at.
//!
//! The header section is collected up to a bound while it arrives ([`HeaderSection`]), then read once ([`Header`]).
//! What we add stands in front of it; what the client sent keeps its octets and its order, except for Bcc, which
//! goes. A header section that two readers could read in two ways is refused: what we check must be what the
//! recipient sees.

use std::ops::Range;

use crate::clock::{Timestamp, rfc5322_date};
use crate::envelope::MessageId;
use crate::smtp::address::Mailbox;

mod author;
mod fingerprint;
mod notice;
pub mod token;

pub use author::{AuthorError, parse_author};
pub use fingerprint::{Fingerprint, FingerprintError, Fingerprinter};
pub use notice::Notice;

/// The longest Message-ID that is repeated in the log.
const LOGGED_MESSAGE_ID_BYTES_MAX: usize = 250;
/// Fields in a header section. What is kept of a field takes some twenty times the octets of a short one; a message that
/// has been through many hands and lists has two hundred.
const FIELDS_MAX: usize = 2000;

/// Collects the octets of a header section as they arrive.
///
/// It ends at the first empty line, at the first line that can be no part of a header section, or where the message
/// ends.
#[derive(Debug, Default)]
pub struct HeaderSection {
    bytes: Vec<u8>,
    /// Start of the first line that has not been looked at, or that is not a part of it.
    line_start: usize,
    /// No line ends before; so that a long line that arrives in many pieces is searched once.
    searched: usize,
    /// How far one had to look to see that it ended, once it did.
    ended_at: Option<usize>,
}

/// How far a [`HeaderSection`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It ended; [`HeaderSection::finish`] takes it apart.
    Complete {
        /// Octets of the header section itself, without the empty line that ended it.
        header_bytes: usize,
    },
    /// More is needed.
    Incomplete,
}

impl HeaderSection {
    /// Takes in the next octets of the message.
    pub fn push(&mut self, bytes: &[u8]) -> Progress {
        self.bytes.extend_from_slice(bytes);
        while let Some(feed) = memchr::memchr(b'\n', &self.bytes[self.searched..]) {
            let end = self.searched + feed + 1;
            let line = &self.bytes[self.line_start..end];
            let continues = matches!(line.first(), Some(b' ' | b'\t')) && self.line_start > 0;
            if !continues && field_name(line).is_none() {
                let content = line.strip_suffix(b"\n").unwrap_or(line);
                let content = content.strip_suffix(b"\r").unwrap_or(content);
                self.ended_at = Some(self.line_start + content.len());
                return Progress::Complete {
                    header_bytes: self.line_start,
                };
            }
            (self.line_start, self.searched) = (end, end);
        }
        self.searched = self.bytes.len();
        Progress::Incomplete
    }

    /// How many octets are kept.
    pub fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many octets had to be looked at so far: the section, and of the line behind it, or of one that has not ended,
    /// what is in front of its CRLF. It does not depend on the pieces that the message comes in.
    pub fn examined_bytes(&self) -> usize {
        self.ended_at.unwrap_or_else(|| {
            let half_an_end = usize::from(self.bytes.last() == Some(&b'\r'));
            self.bytes.len() - half_an_end
        })
    }

    /// Where the header section ends, now that the whole message has ended: what is left is a last line without its
    /// end, which a message cannot have here, or nothing.
    pub fn end(&self) -> usize {
        self.line_start
    }

    /// Whether what is here of the message before `end` has no NUL, no bare CR and no bare LF.
    pub fn is_clean(&self, end: usize) -> bool {
        let octets = &self.bytes[..end.min(self.bytes.len())];
        memchr::memchr3_iter(0, b'\r', b'\n', octets).all(|index| match octets[index] {
            b'\r' => octets.get(index + 1) == Some(&b'\n'),
            b'\n' => index > 0 && octets[index - 1] == b'\r',
            _ => false,
        })
    }

    /// The header section (without the empty line behind it) and the octets of the body that came with it.
    ///
    /// `header_bytes` is where the header section ends. The empty line is no part of either: the message gets one of
    /// its own, also where the client left it out.
    pub fn finish(mut self, header_bytes: usize) -> (Header, Vec<u8>) {
        let mut body = self.bytes.split_off(header_bytes.min(self.bytes.len()));
        if body.starts_with(b"\r\n") {
            body.drain(..2);
        }
        (Header::read(self.bytes), body)
    }
}

/// A header section that has been read.
#[derive(Debug)]
pub struct Header {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    /// In lower case.
    name: String,
    /// The whole field, continuation lines and the last CRLF included.
    whole: Range<usize>,
    /// What is behind the colon, without the last CRLF.
    value: Range<usize>,
}

/// Why a header section is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// From or Sender cannot be read, or says nobody.
    #[error("bad {field} field: {error}")]
    Author {
        /// `From` or `Sender`.
        field: &'static str,
        /// What is wrong with it.
        error: AuthorError,
    },
    /// A field that may occur once occurs more often (RFC 5322 section 3.6), so that readers would disagree.
    #[error("more than one {0} field")]
    Repeated(&'static str),
    /// The Sender field names more than one mailbox (RFC 5322 section 3.6.2).
    #[error("more than one mailbox in the Sender field")]
    ManySenders,
    /// More than 2000 fields.
    #[error("more than {FIELDS_MAX} header fields")]
    Fields,
    /// More Received fields than allowed.
    #[error("{0} Received fields")]
    Loop(usize),
}

/// Who the message says it is from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authors {
    /// The addresses of From; empty if there is no From field.
    pub from: Vec<Mailbox>,
    /// The address of Sender, if there is such a field.
    pub sender: Option<Mailbox>,
}

impl Authors {
    /// Whether all of their addresses can go where SMTPUTF8 does not reach.
    pub fn are_ascii(&self) -> bool {
        self.from.iter().chain(&self.sender).all(Mailbox::is_ascii)
    }
}

/// What stands in the Received field that we add.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// Our own name.
    pub hostname: &'a str,
    /// The message's name in the queue.
    pub id: &'a MessageId,
    /// The TLS cipher suite (RFC 8314 section 4.3).
    pub cipher: &'a str,
    /// When it was accepted.
    pub time: Timestamp,
    /// Whether it came with SMTPUTF8 (RFC 6531 section 4.3).
    pub smtputf8: bool,
    /// The priority that it was given with MT-PRIORITY.
    pub priority: Option<i8>,
    /// A token that tells the operator who sent it.
    pub token: Option<&'a str>,
    /// Who sent it, where the operator wants that to be seen.
    pub client: Option<TraceClient<'a>>,
}

/// The part of a Received field that tells of the client.
#[derive(Clone, Copy, Debug)]
pub struct TraceClient<'a> {
    /// What it calls itself.
    pub name: &'a str,
    /// Its address.
    pub address: std::net::IpAddr,
    /// As whom it is logged in.
    pub account: &'a str,
}

impl Header {
    fn read(bytes: Vec<u8>) -> Self {
        let mut fields: Vec<Field> = Vec::new();
        let mut start = 0;
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let end = start + line.len();
            let value_end = end - if line.ends_with(b"\r\n") { 2 } else { 0 };
            if fields.len() > FIELDS_MAX {
                // It is refused, so nobody asks for the rest.
                break;
            }
            match (field_name(line), fields.last_mut()) {
                (Some((name, colon)), _) if !matches!(line.first(), Some(b' ' | b'\t')) => fields
                    .push(Field {
                        name: String::from_utf8_lossy(name).to_ascii_lowercase(),
                        whole: start..end,
                        value: start + colon + 1..value_end,
                    }),
                (_, Some(field)) => {
                    field.whole.end = end;
                    field.value.end = value_end;
                }
                // The section begins with a field, or it is empty.
                (_, None) => {}
            }
            start = end;
        }
        Self { bytes, fields }
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |field| field.name == name)
            .map(|field| &self.bytes[field.value.clone()])
    }

    /// The value of a field that may occur at most once.
    fn single<'a>(
        &'a self,
        name: &'a str,
        shown: &'static str,
    ) -> Result<Option<&'a [u8]>, HeaderError> {
        let mut values = self.values(name);
        let first = values.next();
        if values.next().is_some() {
            Err(HeaderError::Repeated(shown))
        } else {
            Ok(first)
        }
    }

    /// Refuses a message that goes round in circles (RFC 5321 section 6.3), and one that is hardly anything but fields.
    pub fn refuse_excess(&self, received_fields_max: usize) -> Result<(), HeaderError> {
        if self.fields.len() > FIELDS_MAX {
            return Err(HeaderError::Fields);
        }
        let count = self.values("received").count();
        if count > received_fields_max {
            Err(HeaderError::Loop(count))
        } else {
            Ok(())
        }
    }

    /// Who the message says it is from.
    pub fn authors(&self) -> Result<Authors, HeaderError> {
        let mut authors = Authors::default();
        if let Some(value) = self.single("from", "From")? {
            authors.from = parse_author(value).map_err(|error| HeaderError::Author {
                field: "From",
                error,
            })?;
        }
        if let Some(value) = self.single("sender", "Sender")? {
            let mut sender = parse_author(value).map_err(|error| HeaderError::Author {
                field: "Sender",
                error,
            })?;
            authors.sender = sender.pop();
            if !sender.is_empty() {
                return Err(HeaderError::ManySenders);
            }
        }
        Ok(authors)
    }

    /// The Message-ID as the client gave it, if it is a word that fits a log.
    pub fn message_id(&self) -> Option<&str> {
        let value = std::str::from_utf8(self.values("message-id").next()?)
            .ok()?
            .trim();
        let fit = value.len() <= LOGGED_MESSAGE_ID_BYTES_MAX
            && value.bytes().all(|byte| byte.is_ascii_graphic());
        (fit && !value.is_empty()).then_some(value)
    }

    /// The octets that the client sent.
    pub fn as_sent(&self) -> &[u8] {
        &self.bytes
    }

    /// The Message-ID that [`write_to`](Self::write_to) adds where there is none.
    pub fn added_message_id(trace: &Trace<'_>) -> String {
        format!("<{}@{}>", trace.id, trace.hostname)
    }

    /// Appends the header section as it is stored, empty line included: our Received, the fields that were missing
    /// (RFC 6409 sections 8.1 to 8.3, and From from `author`), then the client's without Bcc. An MT-Priority field
    /// (RFC 6758) goes too where the envelope has a priority: the two must not contradict each other.
    pub fn write_to(&self, out: &mut Vec<u8>, trace: &Trace<'_>, author: Option<&Mailbox>) {
        out.extend_from_slice(received(trace).as_bytes());
        let missing = |name| self.values(name).next().is_none();
        if let (true, Some(author)) = (missing("from"), author) {
            out.extend_from_slice(format!("From: <{author}>\r\n").as_bytes());
        }
        if missing("date") {
            out.extend_from_slice(format!("Date: {}\r\n", rfc5322_date(trace.time)).as_bytes());
        }
        if missing("message-id") {
            out.extend_from_slice(
                format!("Message-ID: {}\r\n", Self::added_message_id(trace)).as_bytes(),
            );
        }
        for field in &self.fields {
            let kept = match field.name.as_str() {
                "bcc" | "resent-bcc" => false,
                "mt-priority" => trace.priority.is_none(),
                _ => true,
            };
            if kept {
                out.extend_from_slice(&self.bytes[field.whole.clone()]);
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Our trace field (RFC 5321 section 4.4), `with ESMTPSA` of RFC 3848 or `UTF8SMTPSA` of RFC 6531 section 4.3, `tls` of
/// RFC 8314 section 4.3, `priority` of RFC 6710 section 4.
///
/// Unless the operator wants it, there is no `from` clause: RFC 5321 asks for one, and what it would say (where the
/// person sits who writes the mail) is nobody's business on the way.
fn received(trace: &Trace<'_>) -> String {
    // IANA's names have no version in them, rustls's names of TLS 1.3 suites do.
    let cipher = trace.cipher.replacen("TLS13_", "TLS_", 1);
    let from = trace.client.map_or(String::new(), |client| {
        let address = match client.address {
            std::net::IpAddr::V4(address) => format!("[{address}]"),
            std::net::IpAddr::V6(address) => format!("[IPv6:{address}]"),
        };
        // The comment must stay one whatever the names hold.
        let plain = |text: &str| {
            text.chars()
                .map(|c| {
                    if c.is_ascii_graphic() && !matches!(c, '(' | ')' | '\\' | ';') {
                        c
                    } else {
                        '?'
                    }
                })
                .collect::<String>()
        };
        format!(
            "from {} ({address}) (authenticated as {})\r\n\t",
            plain(client.name),
            plain(client.account)
        )
    });
    let protocol = match trace.smtputf8 {
        true => "UTF8SMTPSA",
        false => "ESMTPSA",
    };
    let priority = trace
        .priority
        .map_or(String::new(), |priority| format!(" priority {priority}"));
    let token = trace
        .token
        .map_or(String::new(), |token| format!("(trace {token})\r\n\t"));
    format!(
        "Received: {from}by {} (gatepost)\r\n\twith {protocol} id {}\r\n\t{token}tls {cipher}{priority};\r\n\t{}\r\n",
        trace.hostname,
        trace.id,
        rfc5322_date(trace.time)
    )
}

/// The field name that a line begins with, and where its colon is. Blanks before the colon are obsolete syntax and
/// read as what they mean (RFC 5322 section 4.5).
fn field_name(line: &[u8]) -> Option<(&[u8], usize)> {
    let colon = memchr::memchr(b':', line)?;
    let name = line[..colon].trim_ascii_end();
    let well_formed = !name.is_empty() && name.iter().all(|byte| (33..=126).contains(byte));
    well_formed.then_some((name, colon))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(message: &str) -> (Header, String) {
        let mut section = HeaderSection::default();
        let end = match section.push(message.as_bytes()) {
            Progress::Complete { header_bytes } => header_bytes,
            Progress::Incomplete => section.end(),
        };
        let (header, body) = section.finish(end);
        (header, String::from_utf8(body).unwrap())
    }

    fn stored(message: &str) -> String {
        let (header, body) = split(message);
        let id = MessageId::from_bits(7);
        let trace = Trace {
            hostname: "mail.example.org",
            id: &id,
            cipher: "TLS13_AES_256_GCM_SHA384",
            time: "2026-11-21T09:30:00Z".parse().unwrap(),
            smtputf8: false,
            priority: None,
            token: None,
            client: None,
        };
        let author = Mailbox::parse(b"alice@example.org").unwrap();
        let mut out = Vec::new();
        header.write_to(&mut out, &trace, Some(&author));
        String::from_utf8(out).unwrap() + &body
    }

    const RECEIVED: &str = "Received: by mail.example.org (gatepost)\r\n\twith ESMTPSA id 00000000000000000000000007\r\n\
        \ttls TLS_AES_256_GCM_SHA384;\r\n\tSat, 21 Nov 2026 09:30:00 +0000\r\n";
    const DATE: &str = "Date: Sat, 21 Nov 2026 09:30:00 +0000\r\n";
    const MESSAGE_ID: &str = "Message-ID: <00000000000000000000000007@mail.example.org>\r\n";

    #[test]
    fn a_complete_header_only_gets_a_received() {
        let message = "From: a@b.example\r\nDATE: x\r\nmessage-id : <1@b>\r\nSubject: a\r\n folded\r\n\r\nbody\r\n";
        assert_eq!(stored(message), format!("{RECEIVED}{message}"));
    }

    #[test]
    fn missing_fields_are_added() {
        assert_eq!(
            stored("Subject: x\r\n\r\nbody\r\n"),
            format!(
                "{RECEIVED}From: <alice@example.org>\r\n{DATE}{MESSAGE_ID}Subject: x\r\n\r\nbody\r\n"
            )
        );
        let all = format!("{RECEIVED}From: <alice@example.org>\r\n{DATE}{MESSAGE_ID}\r\n");
        for (message, body) in [
            ("", ""),
            ("\r\n", ""),
            ("\r\nbody\r\n", "body\r\n"),
            (
                "no field here\r\nSubject: x\r\n\r\n",
                "no field here\r\nSubject: x\r\n\r\n",
            ),
            (" From: x@y.example\r\n\r\n", " From: x@y.example\r\n\r\n"),
            (": empty name\r\n", ": empty name\r\n"),
        ] {
            assert_eq!(stored(message), format!("{all}{body}"), "{message:?}");
        }
    }

    #[test]
    fn a_header_without_its_empty_line_gets_one() {
        let stored = stored("From: a@b.example\r\nhello\r\nFrom: x@y.example\r\n");
        assert!(
            stored.ends_with("From: a@b.example\r\n\r\nhello\r\nFrom: x@y.example\r\n"),
            "{stored}"
        );
    }

    #[test]
    fn bcc_goes() {
        let stored = stored(
            "Bcc: secret@b.example,\r\n more@b.example\r\nFrom: a@b.example\r\nBCC : z@b.example\r\nresent-bcc:q\r\n\r\nBcc: in the body\r\n",
        );
        assert!(
            stored.ends_with("\r\nFrom: a@b.example\r\n\r\nBcc: in the body\r\n"),
            "{stored}"
        );
        assert!(!stored.contains("secret") && !stored.contains("more@") && !stored.contains("z@"));
    }

    #[test]
    fn a_header_section_consists_of_lines() {
        for (octets, clean) in [
            ("", true),
            ("A: b\r\n", true),
            ("A: b\r\n c\r\n", true),
            ("A: b\n", false),
            ("A: b\rC: d\r\n", false),
            ("A: b\0\r\n", false),
            ("A: b\r\n\r", false),
            ("\nA: b\r\n", false),
        ] {
            let mut section = HeaderSection::default();
            section.push(octets.as_bytes());
            assert_eq!(section.is_clean(octets.len()), clean, "{octets:?}");
        }
        let mut section = HeaderSection::default();
        section.push(b"A: b\r\n\nbody\0");
        assert!(section.is_clean(6), "what is behind does not count");
    }

    #[test]
    fn octets_may_come_one_by_one() {
        let message = b"From: a@b.example\r\nSubject: x\r\n y\r\n\r\nbody\r\n";
        let mut section = HeaderSection::default();
        let complete = message
            .iter()
            .position(|&byte| section.push(&[byte]) != Progress::Incomplete);
        // At the LF of the empty line.
        assert_eq!(complete, Some(message.len() - b"body\r\n".len() - 1));
    }

    #[test]
    fn authors_are_read_strictly() {
        let authors = |header: &str| {
            split(&format!("{header}\r\n\r\n"))
                .0
                .authors()
                .map(|authors| {
                    let from: Vec<String> = authors.from.iter().map(Mailbox::to_string).collect();
                    (
                        from.join(" "),
                        authors.sender.map(|sender| sender.to_string()),
                    )
                })
        };
        assert_eq!(authors("Subject: x"), Ok((String::new(), None)));
        assert_eq!(
            authors("From: A <a@b.example>"),
            Ok(("a@b.example".to_owned(), None))
        );
        assert_eq!(
            authors("From: a@b.example, c@d.example\r\nSender: e@f.example"),
            Ok((
                "a@b.example c@d.example".to_owned(),
                Some("e@f.example".to_owned())
            ))
        );
        assert_eq!(
            authors("From: a@b.example\r\nFrom: c@d.example"),
            Err(HeaderError::Repeated("From"))
        );
        assert_eq!(
            authors("From: a@b.example\r\nFROM : c@d.example"),
            Err(HeaderError::Repeated("From"))
        );
        assert_eq!(
            authors("Sender: a@b.example\r\nsender: a@b.example"),
            Err(HeaderError::Repeated("Sender"))
        );
        assert_eq!(
            authors("Sender: a@b.example, c@d.example"),
            Err(HeaderError::ManySenders)
        );
        assert!(matches!(
            authors("From: nobody"),
            Err(HeaderError::Author { field: "From", .. })
        ));
    }

    #[test]
    fn loops_and_floods_are_seen() {
        let refused = |field: &str, times: usize| {
            let (header, _) = split(&field.repeat(times));
            header.refuse_excess(100)
        };
        let received = "Received: x\r\n";
        assert_eq!(refused(received, 101), Err(HeaderError::Loop(101)));
        assert_eq!(refused(received, 100), Ok(()));
        assert_eq!(refused("x:\r\n", FIELDS_MAX), Ok(()));
        assert_eq!(refused("x:\r\n", FIELDS_MAX + 1), Err(HeaderError::Fields));
        assert_eq!(refused("x:\r\n", 50_000), Err(HeaderError::Fields));
        // A field of many lines is one field.
        assert_eq!(refused("x:\r\n y\r\n z\r\n", FIELDS_MAX), Ok(()));
    }

    #[test]
    fn a_revealed_client_cannot_break_out_of_its_comment() {
        let id = MessageId::from_bits(7);
        let field = received(&Trace {
            hostname: "mail.example.org",
            id: &id,
            cipher: "TLS_ECDHE",
            time: "2026-11-21T09:30:00Z".parse().unwrap(),
            smtputf8: false,
            priority: None,
            token: None,
            client: Some(TraceClient {
                name: "x);evil",
                address: "2001:db8::1".parse().unwrap(),
                account: "alice@example.org",
            }),
        });
        assert!(field.starts_with(
            "Received: from x??evil ([IPv6:2001:db8::1]) (authenticated as alice@example.org)\r\n\tby mail.example.org"
        ));
    }
}
