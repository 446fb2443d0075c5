//! Commands: one line of the client's, parsed (RFC 5321 section 4.1.1).
//!
//! A syntax error keeps the verb, because what is wrong first depends on it: MAIL before AUTH hears 530 whether its
//! address parses or not.

use crate::secret::Secret;
use crate::smtp::address::{AddressError, ForwardPath, ReversePath, path_length};
use crate::smtp::reply::Reply;

/// The longest name that a client may give itself: as long as a domain (RFC 5321 section 4.5.3.1.2).
const CLIENT_NAME_BYTES_MAX: usize = 255;

/// What the client wants.
#[derive(Clone, Debug)]
pub enum Command {
    /// AUTH (RFC 4954).
    Auth {
        /// The mechanism's name, as written.
        mechanism: String,
        /// The initial response, still in base64; `=` for an empty one.
        initial_response: Option<Secret>,
    },
    /// BDAT (RFC 3030), whose octets follow its line.
    Bdat {
        /// How many octets.
        size: u64,
        /// They are the last of the message.
        last: bool,
    },
    /// DATA.
    Data,
    /// EHLO and the name that the client gives itself.
    Ehlo(String),
    /// EXPN.
    Expn,
    /// HELO and the name that the client gives itself.
    Helo(String),
    /// HELP, whatever about.
    Help,
    /// MAIL.
    Mail {
        /// Who the message is from.
        reverse_path: ReversePath,
        /// What else is said of it.
        parameters: Vec<Parameter>,
    },
    /// NOOP, whatever it says.
    Noop,
    /// QUIT.
    Quit,
    /// RCPT.
    Rcpt {
        /// Who shall get it.
        forward_path: ForwardPath,
        /// What else is said of it.
        parameters: Vec<Parameter>,
    },
    /// RSET.
    Rset,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// VRFY.
    Vrfy,
}

/// A parameter of MAIL or RCPT: `esmtp-keyword ["=" esmtp-value]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// In upper case.
    pub keyword: String,
    /// As written. Beyond ASCII only the parameters of a message with SMTPUTF8 may be (RFC 6531 section 3.3).
    pub value: Option<String>,
}

/// The commands that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// AUTH
    Auth,
    /// BDAT
    Bdat,
    /// DATA
    Data,
    /// EHLO
    Ehlo,
    /// EXPN
    Expn,
    /// HELO
    Helo,
    /// HELP
    Help,
    /// MAIL
    Mail,
    /// NOOP
    Noop,
    /// QUIT
    Quit,
    /// RCPT
    Rcpt,
    /// RSET
    Rset,
    /// STARTTLS
    StartTls,
    /// VRFY
    Vrfy,
}

impl Verb {
    /// The verb of this name, in any case of letters.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        const NAMES: [(&str, Verb); 14] = [
            ("AUTH", Verb::Auth),
            ("BDAT", Verb::Bdat),
            ("DATA", Verb::Data),
            ("EHLO", Verb::Ehlo),
            ("EXPN", Verb::Expn),
            ("HELO", Verb::Helo),
            ("HELP", Verb::Help),
            ("MAIL", Verb::Mail),
            ("NOOP", Verb::Noop),
            ("QUIT", Verb::Quit),
            ("RCPT", Verb::Rcpt),
            ("RSET", Verb::Rset),
            ("STARTTLS", Verb::StartTls),
            ("VRFY", Verb::Vrfy),
        ];
        NAMES
            .iter()
            .find(|(text, _)| text.as_bytes().eq_ignore_ascii_case(name))
            .map(|(_, verb)| *verb)
    }
}

/// A line that is no command of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Whose arguments are wrong; `None` if the verb itself is not known.
    pub verb: Option<Verb>,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// MAIL or RCPT with an address that is none.
    Address(AddressError),
    /// Arguments missing, superfluous or malformed.
    Arguments(&'static str),
    /// BDAT with so many octets, and with something behind that is not LAST. The octets follow all the same.
    ChunkEnd(u64),
    /// BDAT without a size that could be counted: nobody knows how many octets follow.
    ChunkSize,
    /// VRFY of a non-ASCII address without SMTPUTF8.
    NeedsSmtpUtf8,
    /// It is an HTTP request: a browser was misled into talking to us.
    Http,
    /// No such command.
    UnknownVerb,
}

impl From<&SyntaxError> for Reply {
    fn from(error: &SyntaxError) -> Self {
        match &error.fault {
            Fault::Address(address) if error.verb == Some(Verb::Rcpt) => {
                Self::bad_recipient_address(address.to_string())
            }
            Fault::Address(address) => Self::bad_sender_address(address.to_string()),
            Fault::Arguments(text) => Self::bad_arguments(*text),
            Fault::ChunkEnd(_) => Self::bad_arguments("syntax: BDAT size [LAST]"),
            Fault::ChunkSize => Self::bad_chunk_size(),
            Fault::NeedsSmtpUtf8 => Self::non_ascii_address(),
            Fault::Http => Self::not_a_web_server(),
            Fault::UnknownVerb => Self::unknown_command(),
        }
    }
}

impl Command {
    /// Parses a line without its CRLF.
    ///
    /// Trailing white space is tolerated (RFC 5321 section 4.1.1), and so is a blank behind the colon of `MAIL FROM:`
    /// and `RCPT TO:`, which the RFC forbids and devices send.
    pub fn parse(line: &[u8]) -> Result<Self, SyntaxError> {
        let line = line.trim_ascii_end();
        let verb_end = line
            .iter()
            .position(|byte| byte.is_ascii_whitespace())
            .unwrap_or(line.len());
        let (name, arguments) = (&line[..verb_end], line[verb_end..].trim_ascii_start());
        let Some(verb) = Verb::from_name(name) else {
            let fault = if is_http(name, arguments) {
                Fault::Http
            } else {
                Fault::UnknownVerb
            };
            return Err(SyntaxError { verb: None, fault });
        };
        let fail = |fault| SyntaxError {
            verb: Some(verb),
            fault,
        };
        let no_arguments = |command: Self| match arguments {
            b"" => Ok(command),
            _ => Err(fail(Fault::Arguments("this command takes no arguments"))),
        };
        match verb {
            Verb::Auth => parse_auth(arguments).map_err(fail),
            Verb::Bdat => parse_bdat(arguments).map_err(fail),
            Verb::Data => no_arguments(Self::Data),
            Verb::Ehlo => parse_client_name(arguments).map(Self::Ehlo).map_err(fail),
            Verb::Expn => Ok(Self::Expn),
            Verb::Helo => parse_client_name(arguments).map(Self::Helo).map_err(fail),
            Verb::Help => Ok(Self::Help),
            Verb::Mail => {
                let (path, parameters) = parse_path_command(arguments, b"FROM:").map_err(fail)?;
                let reverse_path =
                    ReversePath::parse(path).map_err(|error| fail(Fault::Address(error)))?;
                Ok(Self::Mail {
                    reverse_path,
                    parameters: parse_parameters(parameters).map_err(fail)?,
                })
            }
            Verb::Noop => Ok(Self::Noop),
            Verb::Quit => no_arguments(Self::Quit),
            Verb::Rcpt => {
                let (path, parameters) = parse_path_command(arguments, b"TO:").map_err(fail)?;
                let forward_path =
                    ForwardPath::parse(path).map_err(|error| fail(Fault::Address(error)))?;
                Ok(Self::Rcpt {
                    forward_path,
                    parameters: parse_parameters(parameters).map_err(fail)?,
                })
            }
            Verb::Rset => no_arguments(Self::Rset),
            Verb::StartTls => no_arguments(Self::StartTls),
            Verb::Vrfy => parse_vrfy(arguments).map_err(fail),
        }
    }
}

/// `VRFY SP ( uLocal-part / uMailbox ) [ SP "SMTPUTF8" ]` (RFC 6531 section 3.7.4.2); or any text, for which RFC 5321
/// section 3.5.1 has room.
fn parse_vrfy(arguments: &[u8]) -> Result<Command, Fault> {
    let parameter = arguments.rsplit(|&byte| byte == b' ').next();
    let with_utf8 = parameter.is_some_and(|word| word.eq_ignore_ascii_case(b"SMTPUTF8"));
    match std::str::from_utf8(arguments) {
        Ok("") => Err(Fault::Arguments("VRFY needs an address")),
        Ok(text) if text.is_ascii() || with_utf8 => Ok(Command::Vrfy),
        Ok(_) => Err(Fault::NeedsSmtpUtf8),
        Err(_) => Err(Fault::Arguments("the address is neither ASCII nor UTF-8")),
    }
}

/// `AUTH SP sasl-mech [SP initial-response]`
fn parse_auth(arguments: &[u8]) -> Result<Command, Fault> {
    let mut words = arguments
        .split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty());
    let mechanism = words
        .next()
        .ok_or(Fault::Arguments("AUTH needs a mechanism"))?;
    let initial_response = words.next();
    // RFC 4422 section 3.1: sasl-mech = 1*20mech-char
    let well_formed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if words.next().is_some() || mechanism.len() > 20 || !mechanism.iter().all(well_formed) {
        return Err(Fault::Arguments(
            "AUTH takes a mechanism and at most one initial response",
        ));
    }
    Ok(Command::Auth {
        mechanism: String::from_utf8_lossy(mechanism).to_ascii_uppercase(),
        initial_response: initial_response.map(|response| Secret::new(response.to_vec())),
    })
}

/// `chunk-size [ SP end-marker ]`, `chunk-size = 1*DIGIT`, `end-marker = "LAST"` (RFC 3030 section 2).
fn parse_bdat(arguments: &[u8]) -> Result<Command, Fault> {
    let mut words = arguments
        .split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty());
    let digits = words.next().unwrap_or_default();
    let size = std::str::from_utf8(digits)
        .ok()
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or(Fault::ChunkSize)?;
    match (words.next(), words.next()) {
        (None, _) => Ok(Command::Bdat { size, last: false }),
        (Some(marker), None) if marker.eq_ignore_ascii_case(b"LAST") => {
            Ok(Command::Bdat { size, last: true })
        }
        _ => Err(Fault::ChunkEnd(size)),
    }
}

/// RFC 5321 section 4.1.4 forbids to refuse a client for the name that it gives itself, so any word will do.
fn parse_client_name(arguments: &[u8]) -> Result<String, Fault> {
    let printable = !arguments.is_empty() && arguments.iter().all(u8::is_ascii_graphic);
    if !printable || arguments.len() > CLIENT_NAME_BYTES_MAX {
        return Err(Fault::Arguments("a domain or an address literal is needed"));
    }
    Ok(String::from_utf8_lossy(arguments).into_owned())
}

/// The path and the text of the parameters.
fn parse_path_command<'a>(
    arguments: &'a [u8],
    keyword: &[u8],
) -> Result<(&'a [u8], &'a [u8]), Fault> {
    let syntax = match keyword {
        b"FROM:" => "syntax: MAIL FROM:<address>",
        _ => "syntax: RCPT TO:<address>",
    };
    if arguments.len() < keyword.len() || !arguments[..keyword.len()].eq_ignore_ascii_case(keyword)
    {
        return Err(Fault::Arguments(syntax));
    }
    let rest = arguments[keyword.len()..].trim_ascii_start();
    let Some(length) = path_length(rest) else {
        return Err(if rest.is_empty() {
            Fault::Arguments(syntax)
        } else {
            Fault::Address(AddressError::Brackets)
        });
    };
    let (path, parameters) = rest.split_at(length);
    match parameters.first() {
        None | Some(b' ' | b'\t') => Ok((path, parameters)),
        Some(_) => Err(Fault::Address(AddressError::Brackets)),
    }
}

/// `esmtp-param *(SP esmtp-param)`
fn parse_parameters(text: &[u8]) -> Result<Vec<Parameter>, Fault> {
    text.split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .map(parse_parameter)
        .collect()
}

fn parse_parameter(word: &[u8]) -> Result<Parameter, Fault> {
    let (keyword, value) = match word.iter().position(|&byte| byte == b'=') {
        Some(index) => (&word[..index], Some(&word[index + 1..])),
        None => (word, None),
    };
    // esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-"); esmtp-value = 1*(%d33-60 / %d62-126 / UTF8-non-ascii)
    let keyword_ok = keyword.first().is_some_and(u8::is_ascii_alphanumeric)
        && keyword
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    let value_ok = |value: &[u8]| {
        !value.is_empty()
            && value
                .iter()
                .all(|byte| matches!(byte, 33..=126 | 128..) && *byte != b'=')
            && std::str::from_utf8(value).is_ok()
    };
    if !keyword_ok || !value.is_none_or(value_ok) {
        return Err(Fault::Arguments("malformed parameter"));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Parameter {
        keyword: text(keyword).to_ascii_uppercase(),
        value: value.map(text),
    })
}

/// Whether a line is a request of a web browser, or a header field of one: somebody misuses a browser to speak SMTP.
fn is_http(name: &[u8], arguments: &[u8]) -> bool {
    let method = [
        &b"GET"[..],
        b"POST",
        b"PUT",
        b"HEAD",
        b"OPTIONS",
        b"CONNECT",
        b"DELETE",
        b"PATCH",
    ]
    .contains(&name);
    (method && arguments.windows(5).any(|window| window == b"HTTP/"))
        || name.eq_ignore_ascii_case(b"host:")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The command in few words, or the reply that its error gets.
    fn check(line: &str) -> String {
        match Command::parse(line.as_bytes()) {
            Ok(command) => match command {
                Command::Auth {
                    mechanism,
                    initial_response,
                } => {
                    let response = initial_response
                        .map(|secret| String::from_utf8_lossy(secret.expose()).into_owned());
                    format!("auth {mechanism} {response:?}")
                }
                Command::Bdat { size, last } => format!("bdat {size} {last}"),
                Command::Ehlo(name) => format!("ehlo {name}"),
                Command::Helo(name) => format!("helo {name}"),
                Command::Mail {
                    reverse_path,
                    parameters,
                } => format!("mail <{reverse_path}>{}", show(&parameters)),
                Command::Rcpt {
                    forward_path,
                    parameters,
                } => format!("rcpt <{forward_path}>{}", show(&parameters)),
                other => format!("{other:?}").to_lowercase(),
            },
            Err(error) => Reply::from(&error).to_string(),
        }
    }

    fn show(parameters: &[Parameter]) -> String {
        parameters
            .iter()
            .map(|parameter| match &parameter.value {
                Some(value) => format!(" {}={value}", parameter.keyword),
                None => format!(" {}", parameter.keyword),
            })
            .collect()
    }

    #[test]
    fn good_commands() {
        for (line, meaning) in [
            ("EHLO laptop.lan", "ehlo laptop.lan"),
            ("ehlo [192.0.2.1]", "ehlo [192.0.2.1]"),
            ("EHLO my_pc", "ehlo my_pc"),
            ("HELO  x ", "helo x"),
            ("AUTH PLAIN", "auth PLAIN None"),
            ("auth plain AGE=", "auth PLAIN Some(\"AGE=\")"),
            ("AUTH LOGIN =", "auth LOGIN Some(\"=\")"),
            ("MAIL FROM:<a@b.example>", "mail <a@b.example>"),
            ("mail from:<>", "mail <>"),
            ("MAIL FROM: <a@b.example>", "mail <a@b.example>"),
            (
                "MAIL FROM:<a@b.example> size=1000  BODY=8BITMIME ",
                "mail <a@b.example> SIZE=1000 BODY=8BITMIME",
            ),
            (
                "MAIL FROM:<\"a> b\"@b.example> X",
                "mail <\"a> b\"@b.example> X",
            ),
            ("RCPT TO:<Postmaster>", "rcpt <postmaster>"),
            ("RCPT TO:<@a.example:b@c.example>", "rcpt <b@c.example>"),
            ("BDAT 0", "bdat 0 false"),
            ("bdat  1000 last ", "bdat 1000 true"),
            (
                "BDAT 18446744073709551615 LAST",
                "bdat 18446744073709551615 true",
            ),
            ("BDAT 007", "bdat 7 false"),
            ("DATA", "data"),
            ("data  ", "data"),
            ("NOOP anything goes", "noop"),
            ("STARTTLS", "starttls"),
            (
                "MAIL FROM:<\u{fc}@b.example> SMTPUTF8",
                "mail <\u{fc}@b.example> SMTPUTF8",
            ),
            (
                "RCPT TO:<b@c.example> ORCPT=utf-8;\u{fc}",
                "rcpt <b@c.example> ORCPT=utf-8;\u{fc}",
            ),
            ("VRFY bob", "vrfy"),
            ("VRFY b\u{f6}b smtputf8", "vrfy"),
            ("EXPN list", "expn"),
            ("HELP", "help"),
            ("HELP MAIL", "help"),
            ("RSET", "rset"),
            ("QUIT", "quit"),
        ] {
            assert_eq!(check(line), meaning, "{line}");
        }
    }

    #[test]
    fn bad_commands() {
        for (line, reply) in [
            ("", "500 5.5.1"),
            ("   ", "500 5.5.1"),
            ("FOO", "500 5.5.1"),
            ("MAILFROM:<a@b.example>", "500 5.5.1"),
            ("\u{e9}HLO x", "500 5.5.1"),
            ("EHLO", "501 5.5.4"),
            ("EHLO two words", "501 5.5.4"),
            ("EHLO b\u{fc}ro", "501 5.5.4"),
            ("BDAT", "501 5.5.4 the number"),
            ("BDAT LAST", "501 5.5.4 the number"),
            ("BDAT -1", "501 5.5.4 the number"),
            ("BDAT +1", "501 5.5.4 the number"),
            ("BDAT 0x10", "501 5.5.4 the number"),
            ("BDAT 1e3", "501 5.5.4 the number"),
            ("BDAT 1,000", "501 5.5.4 the number"),
            ("BDAT 18446744073709551616", "501 5.5.4 the number"),
            ("BDAT \u{661}", "501 5.5.4 the number"),
            ("BDAT 10 FIRST", "501 5.5.4 syntax"),
            ("BDAT 10 LAST LAST", "501 5.5.4 syntax"),
            ("DATA now", "501 5.5.4"),
            ("RSET x", "501 5.5.4"),
            ("QUIT x", "501 5.5.4"),
            ("STARTTLS x", "501 5.5.4"),
            ("VRFY", "501 5.5.4"),
            ("VRFY b\u{f6}b", "553 5.6.7"),
            ("AUTH", "501 5.5.4"),
            ("AUTH PLAIN a b", "501 5.5.4"),
            ("AUTH PL/IN", "501 5.5.4"),
            ("AUTH ABCDEFGHIJKLMNOPQRSTUVWXYZ", "501 5.5.4"),
            ("MAIL", "501 5.5.4"),
            ("MAIL FROM:", "501 5.5.4"),
            ("MAIL TO:<a@b.example>", "501 5.5.4"),
            ("MAIL FROM <a@b.example>", "501 5.5.4"),
            ("MAIL FROM:a@b.example", "501 5.1.7"),
            ("MAIL FROM:<a@b.example", "501 5.1.7"),
            ("MAIL FROM:<a@b.example>SIZE=1", "501 5.1.7"),
            ("MAIL FROM:<a b@c.example>", "501 5.1.7"),
            ("MAIL FROM:<\u{85}@c.example>", "501 5.1.7"),
            ("MAIL FROM:<a@b.example> X=a\u{7f}", "501 5.5.4"),
            ("MAIL FROM:<a@b.example> =1", "501 5.5.4"),
            ("MAIL FROM:<a@b.example> SIZE=", "501 5.5.4"),
            ("MAIL FROM:<a@b.example> SIZE=1=2", "501 5.5.4"),
            ("MAIL FROM:<a@b.example> S_ZE=1", "501 5.5.4"),
            ("RCPT TO:<>", "501 5.1.3"),
            ("RCPT TO:<bob>", "501 5.1.3"),
            ("RCPT FROM:<a@b.example>", "501 5.5.4"),
            ("GET / HTTP/1.1", "421 4.7.0"),
            ("POST /x HTTP/1.0", "421 4.7.0"),
        ] {
            let answer = check(line);
            assert!(answer.starts_with(reply), "{line}: {answer}");
        }
    }

    #[test]
    fn debug_hides_the_initial_response() {
        let command = Command::parse(b"AUTH PLAIN c2VjcmV0").unwrap();
        assert!(!format!("{command:?}").contains("c2VjcmV0"));
    }
}
