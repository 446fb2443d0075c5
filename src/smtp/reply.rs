//! Replies: a code, an enhanced status and text (RFC 5321 section 4.2, RFC 2034, RFC 3463).
//!
//! All the text that a client ever hears is written in this file, as one constructor per meaning; nobody else invents
//! wording or codes. The client hears a short general truth; the operator reads the cause in the log.

use std::borrow::Cow;
use std::fmt;

/// An enhanced status code: class, subject, detail (RFC 3463 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnhancedStatus {
    /// 2 success, 4 persistent transient failure, 5 permanent failure.
    pub class: u8,
    /// What it is about: 1 addressing, 2 mailbox, 3 mail system, 4 network, 5 protocol, 6 content, 7 security.
    pub subject: u16,
    /// Which of that subject's statuses.
    pub detail: u16,
}

impl fmt::Display for EnhancedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// One reply, of one or several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    status: Option<EnhancedStatus>,
    lines: Vec<Cow<'static, str>>,
}

/// RFC 5321 section 4.5.3.1.5: a reply line holds at most 512 octets, code and CRLF included. What is in front of the
/// text takes at most 16 of them.
const TEXT_BYTES_MAX: usize = 512 - 16;

impl Reply {
    /// A reply with an enhanced status, whose class is the code's first digit.
    pub fn new(code: u16, subject: u16, detail: u16, text: impl Into<Cow<'static, str>>) -> Self {
        debug_assert!(matches!(code / 100, 2 | 4 | 5));
        let class = (code / 100) as u8;
        Self {
            code,
            status: Some(EnhancedStatus {
                class,
                subject,
                detail,
            }),
            lines: vec![text.into()],
        }
    }

    /// A reply without an enhanced status: the greeting, HELO and EHLO (RFC 2034 section 4) and the 3xx ones.
    pub fn bare(code: u16, lines: Vec<Cow<'static, str>>) -> Self {
        debug_assert!(!lines.is_empty());
        Self {
            code,
            status: None,
            lines,
        }
    }

    /// The three-digit code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced status, where the reply has one.
    pub fn status(&self) -> Option<EnhancedStatus> {
        self.status
    }

    /// The first line of text, without codes.
    pub fn text(&self) -> &str {
        self.lines.first().map_or("", |line| line)
    }

    /// Whether the code is 2xx or 3xx.
    pub fn is_positive(&self) -> bool {
        self.code < 400
    }

    /// Appends the reply as it goes over the wire, CRLF included.
    ///
    /// Text that holds anything but printable ASCII (which only an echo of something foreign could bring) is written
    /// with `?` in its place, and cut to fit a reply line, so that no text can ever end a line early.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let last = self.lines.len() - 1;
        for (index, line) in self.lines.iter().enumerate() {
            out.extend_from_slice(self.code.to_string().as_bytes());
            out.push(if index == last { b' ' } else { b'-' });
            if let Some(status) = self.status {
                out.extend_from_slice(status.to_string().as_bytes());
                out.push(b' ');
            }
            let printable = |byte: u8| {
                if (b' '..=b'~').contains(&byte) {
                    byte
                } else {
                    b'?'
                }
            };
            out.extend(line.bytes().take(TEXT_BYTES_MAX).map(printable));
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    /// The reply's lines joined by ` / `, with their codes: what the log and `explain` show.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(status) = self.status {
            write!(f, " {status}")?;
        }
        for (index, line) in self.lines.iter().enumerate() {
            write!(f, "{}{line}", if index == 0 { " " } else { " / " })?;
        }
        Ok(())
    }
}

/// Success, and the way there.
impl Reply {
    /// The greeting of a new connection (RFC 5321 section 4.3.1).
    pub fn greeting(hostname: &str) -> Self {
        Self::bare(220, vec![format!("{hostname} ESMTP gatepost ready").into()])
    }

    /// HELO's answer.
    pub fn hello(hostname: &str) -> Self {
        Self::bare(250, vec![hostname.to_owned().into()])
    }

    /// EHLO's answer: the host name, then one line for each extension.
    pub fn extended_hello(hostname: &str, extensions: Vec<Cow<'static, str>>) -> Self {
        let mut lines = vec![hostname.to_owned().into()];
        lines.extend(extensions);
        Self::bare(250, lines)
    }

    /// STARTTLS: the client begins the handshake now.
    pub fn ready_for_tls() -> Self {
        Self::new(220, 0, 0, "ready to start TLS")
    }

    /// An AUTH challenge, already in base64 (RFC 4954 section 4).
    pub fn challenge(base64: String) -> Self {
        Self::bare(334, vec![base64.into()])
    }

    /// AUTH succeeded (RFC 4954 section 6).
    pub fn authenticated() -> Self {
        Self::new(235, 7, 0, "authentication succeeded")
    }

    /// MAIL accepted.
    pub fn sender_ok() -> Self {
        Self::new(250, 1, 0, "sender ok")
    }

    /// MAIL accepted, with a lower priority than was asked for (RFC 6710 section 4).
    pub fn priority_changed(priority: i8) -> Self {
        Self::new(
            250,
            3,
            6,
            format!("{priority} is the new priority of the message"),
        )
    }

    /// RCPT accepted.
    pub fn recipient_ok() -> Self {
        Self::new(250, 1, 5, "recipient ok")
    }

    /// DATA: the message may come.
    pub fn start_mail_input() -> Self {
        Self::bare(354, vec!["end the message with <CRLF>.<CRLF>".into()])
    }

    /// BDAT: a part of the message that is not its last one.
    pub fn chunk_received(octets: u64) -> Self {
        Self::new(250, 0, 0, format!("{octets} octets received"))
    }

    /// The message is on stable storage. Only a commit's receipt leads here.
    pub fn queued(id: &str) -> Self {
        Self::new(250, 0, 0, format!("queued as {id}"))
    }

    /// The message is on stable storage, and is held until its account's limits have room for it, at about that time.
    pub fn queued_over_limit(id: &str, leaves_about: &str) -> Self {
        let text =
            format!("queued as {id}, held by the account's limits until about {leaves_about}");
        Self::new(250, 0, 0, text)
    }

    /// RSET, NOOP.
    pub fn ok() -> Self {
        Self::new(250, 0, 0, "ok")
    }

    /// VRFY of an authenticated client: RFC 5321 section 3.5.3 allows to say nothing about the address.
    pub fn cannot_verify() -> Self {
        Self::new(
            252,
            5,
            0,
            "cannot verify the address, but will take mail for it",
        )
    }

    /// HELP.
    pub fn help() -> Self {
        Self::new(
            214,
            0,
            0,
            "commands: EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT (RFC 6409)",
        )
    }

    /// QUIT.
    pub fn goodbye() -> Self {
        Self::new(221, 0, 0, "goodbye")
    }
}

/// The client did not speak the grammar, or not in the right order.
impl Reply {
    /// No such command.
    pub fn unknown_command() -> Self {
        Self::new(500, 5, 1, "unknown command")
    }

    /// A command we know and do not carry out (EXPN, TURN and their like).
    pub fn not_implemented() -> Self {
        Self::new(502, 5, 1, "command not implemented")
    }

    /// A command line past its bound.
    pub fn line_too_long() -> Self {
        Self::new(500, 5, 2, "line too long")
    }

    /// A command line that holds NUL, a bare CR or a bare LF.
    pub fn forbidden_octet() -> Self {
        Self::new(
            500,
            5,
            2,
            "command lines end with CRLF and hold no NUL, CR or LF",
        )
    }

    /// A command whose arguments do not parse.
    pub fn bad_arguments(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(501, 5, 4, text)
    }

    /// BDAT without a number of octets: what follows could be anything, so the connection is closed.
    pub fn bad_chunk_size() -> Self {
        Self::new(
            501,
            5,
            4,
            "the number of octets cannot be read, closing the connection",
        )
    }

    /// MAIL with an address that is none.
    pub fn bad_sender_address(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(501, 1, 7, text)
    }

    /// RCPT with an address that is none.
    pub fn bad_recipient_address(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(501, 1, 3, text)
    }

    /// MAIL with a reverse-path that is not ASCII, without SMTPUTF8: RFC 6531 section 3.5 has 550 here.
    pub fn non_ascii_sender() -> Self {
        Self::new(550, 6, 7, "a non-ASCII sender address needs SMTPUTF8")
    }

    /// RCPT or VRFY with an address that is not ASCII, without SMTPUTF8: RFC 6531 section 3.5 has 553 here.
    pub fn non_ascii_address() -> Self {
        Self::new(553, 6, 7, "a non-ASCII address needs SMTPUTF8")
    }

    /// HOLDFOR or HOLDUNTIL beyond what is offered, or not in the future (RFC 4865 section 4).
    pub fn cannot_hold(seconds_max: u64) -> Self {
        Self::new(
            501,
            5,
            4,
            format!("a message can be held for 1 to {seconds_max} seconds"),
        )
    }

    /// BY with mode R and less time than was offered (RFC 2852 section 4).
    pub fn deliver_by_too_soon(seconds_min: u64) -> Self {
        Self::new(
            555,
            5,
            4,
            format!("parameter BY needs at least {seconds_min} seconds"),
        )
    }

    /// A MAIL or RCPT parameter that we do not know or did not advertise (RFC 5321 section 4.1.1.11).
    pub fn unknown_parameter(name: &str) -> Self {
        Self::new(555, 5, 4, format!("parameter {name} not recognized"))
    }

    /// A command at the wrong time; `text` says what should come first.
    pub fn bad_sequence(text: &'static str) -> Self {
        Self::new(503, 5, 1, text)
    }

    /// Too many errors on one connection; it is closed.
    pub fn too_many_errors() -> Self {
        Self::new(421, 7, 0, "too many errors, closing the connection")
    }

    /// An HTTP request, sent to us by a browser that somebody misled.
    pub fn not_a_web_server() -> Self {
        Self::new(421, 7, 0, "this is a mail server, closing the connection")
    }
}

/// TLS and AUTH.
impl Reply {
    /// A command that needs AUTH first (RFC 4954 section 6).
    pub fn authentication_required() -> Self {
        Self::new(530, 7, 0, "authentication required")
    }

    /// AUTH without TLS (RFC 4954 section 4).
    pub fn encryption_required() -> Self {
        Self::new(538, 7, 11, "encryption required: use STARTTLS first")
    }

    /// Bytes came behind STARTTLS before the handshake; nothing of them is executed and the connection is closed.
    pub fn plaintext_behind_starttls() -> Self {
        Self::new(501, 5, 2, "data behind STARTTLS, closing the connection")
    }

    /// An AUTH mechanism that we do not have; `offered` are those that we do, if any.
    pub fn unknown_mechanism(offered: &str) -> Self {
        let text = match offered {
            "" => "mechanism not supported, only a client certificate logs in here".to_owned(),
            _ => format!("mechanism not supported, use one of: {offered}"),
        };
        Self::new(504, 5, 4, text)
    }

    /// Any wrong credentials: the same text for all, so that it tells an attacker nothing.
    pub fn authentication_failed() -> Self {
        Self::new(535, 7, 8, "authentication failed")
    }

    /// The client sent `*`, or something that is not base64 (RFC 4954 section 4).
    pub fn authentication_cancelled() -> Self {
        Self::new(501, 7, 0, "authentication cancelled")
    }

    /// A response that is not base64, or not what the mechanism expects.
    pub fn malformed_response() -> Self {
        Self::new(501, 5, 2, "cannot decode the response")
    }

    /// A response past its bound (RFC 4954 section 4).
    pub fn response_too_long() -> Self {
        Self::new(500, 5, 6, "authentication exchange line is too long")
    }

    /// The credentials could not be checked: a fault or an overload of ours.
    pub fn authentication_unavailable() -> Self {
        Self::new(
            454,
            7,
            0,
            "credentials cannot be checked now, try again later",
        )
    }

    /// Too many failed AUTH on one connection; it is closed.
    pub fn too_many_failures() -> Self {
        Self::new(
            421,
            7,
            0,
            "too many failed authentications, closing the connection",
        )
    }

    /// The address, or the account there, is banned for a while; the connection is closed. The password was not looked
    /// at, and may be right: 535 would have people type another.
    pub fn banned() -> Self {
        Self::new(
            421,
            7,
            0,
            "too many failed authentications from your address, try again later",
        )
    }

    /// The account was disabled, removed or changed while its connection lived; the connection is closed.
    pub fn account_withdrawn() -> Self {
        Self::new(421, 7, 0, "the account's rights have changed, log in again")
    }
}

/// Policy.
impl Reply {
    /// MAIL with a reverse-path that the account may not use.
    pub fn sender_not_owned(account: &str, sender: &str) -> Self {
        Self::new(
            550,
            7,
            1,
            format!("account {account} may not send as {sender}"),
        )
    }

    /// A From or Sender field with an address that the account may not use.
    pub fn author_not_owned(account: &str, field: &str, address: &str) -> Self {
        Self::new(
            550,
            7,
            1,
            format!("account {account} may not send with header {field}: {address}"),
        )
    }

    /// RCPT for somebody to whom this login may not send.
    pub fn recipient_not_allowed(account: &str, recipient: &str) -> Self {
        Self::new(
            550,
            7,
            1,
            format!("account {account} may not send to {recipient} with this password"),
        )
    }

    /// A limit of the account is reached; `frees` says when.
    pub fn account_limit(limit: &str, allowed: u64, frees: &str) -> Self {
        Self::new(
            450,
            7,
            28,
            format!("limit {limit} = {allowed} reached, try again {frees}"),
        )
    }

    /// As many messages are held over the account's limits as may be.
    pub fn too_many_held() -> Self {
        let text = "too many messages are held over the account's limits, try again later";
        Self::new(450, 7, 28, text)
    }

    /// More recipients than one message may have (RFC 5321 section 4.5.3.1.10).
    pub fn too_many_recipients(allowed: usize) -> Self {
        Self::new(
            452,
            5,
            3,
            format!("too many recipients: at most {allowed} in one message"),
        )
    }

    /// As many messages as one connection may have (RFC 9422 section 4); it is closed.
    pub fn too_many_messages(allowed: u32) -> Self {
        Self::new(
            421,
            7,
            0,
            format!("at most {allowed} messages on one connection, open another"),
        )
    }

    /// DATA without one accepted recipient.
    pub fn no_recipients() -> Self {
        Self::new(554, 5, 1, "no valid recipients")
    }
}

/// The message, and where it is stored.
impl Reply {
    /// Larger than allowed (RFC 1870 section 6).
    pub fn message_too_large(allowed: u64) -> Self {
        Self::new(552, 3, 4, format!("message larger than {allowed} octets"))
    }

    /// The header section alone is past its bound.
    pub fn header_too_large(allowed: u64) -> Self {
        Self::new(
            552,
            3,
            4,
            format!("header section larger than {allowed} octets"),
        )
    }

    /// NUL, a bare CR or a bare LF in the data.
    pub fn forbidden_data() -> Self {
        Self::new(
            554,
            6,
            0,
            "message refused: it holds a NUL, a bare CR or a bare LF",
        )
    }

    /// A header section that cannot be read in one way only.
    pub fn bad_header(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(554, 6, 0, text)
    }

    /// A From or Sender field with an address that is not ASCII, without SMTPUTF8 (RFC 6531 section 3.5).
    pub fn non_ascii_author() -> Self {
        Self::new(
            550,
            6,
            7,
            "message refused: a non-ASCII address in From or Sender needs SMTPUTF8",
        )
    }

    /// More Received fields than any honest journey collects.
    pub fn mail_loop() -> Self {
        Self::new(554, 4, 6, "too many Received fields: mail loop")
    }

    /// Too little room in the queue's file system.
    pub fn storage_full() -> Self {
        Self::new(452, 3, 1, "not enough storage now, try again later")
    }

    /// The queue could not write; a fault of ours.
    pub fn storage_failed() -> Self {
        Self::new(451, 3, 0, "cannot store the message now, try again later")
    }

    /// A fault of ours that is not the disk's.
    pub fn internal_error() -> Self {
        Self::new(451, 3, 0, "local error, try again later")
    }
}

/// The connection.
impl Reply {
    /// The server stops.
    pub fn shutting_down() -> Self {
        Self::new(421, 3, 2, "shutting down, try again later")
    }

    /// The client was silent, or slow, for too long.
    pub fn timed_out() -> Self {
        Self::new(421, 4, 2, "timed out, closing the connection")
    }

    /// As many connections as the configuration allows, in all or from one address.
    pub fn too_many_connections() -> Self {
        Self::new(421, 7, 0, "too many connections, try again later")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_line_and_several() {
        assert_eq!(wire(&Reply::ok()), "250 2.0.0 ok\r\n");
        let reply = Reply::extended_hello(
            "mail.example.org",
            vec!["PIPELINING".into(), "SIZE 1000".into()],
        );
        assert_eq!(
            wire(&reply),
            "250-mail.example.org\r\n250-PIPELINING\r\n250 SIZE 1000\r\n"
        );
        assert_eq!(wire(&Reply::challenge(String::new())), "334 \r\n");
    }

    #[test]
    fn foreign_text_cannot_end_a_line_or_overflow_it() {
        let reply = Reply::unknown_parameter("X\r\n250 2.0.0 yes");
        assert_eq!(
            wire(&reply),
            "555 5.5.4 parameter X??250 2.0.0 yes not recognized\r\n"
        );
        let long = wire(&Reply::unknown_parameter(&"y".repeat(5000)));
        assert!(long.len() <= 512, "{}", long.len());
        assert!(long.ends_with("\r\n"));
    }

    #[test]
    fn the_status_has_the_class_of_the_code() {
        for reply in [
            Reply::authenticated(),
            Reply::storage_full(),
            Reply::mail_loop(),
        ] {
            assert_eq!(u16::from(reply.status().unwrap().class), reply.code() / 100);
        }
    }
}
