//! What must hold for any input whatever: one `check_...` for each door through which foreign octets come in.
//!
//! The fuzz targets call them under libFuzzer; `tests/it/corpus.rs` includes this file and calls them with the seed
//! corpus and with random input on every `cargo test`. A check panics when its property does not hold, and never
//! otherwise. What the octets of an input mean is said at each check; [`Script`] reads them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use gatepost::account::file::Directory;
use gatepost::clock::Now;
use gatepost::config;
use gatepost::decision::{
    Account, Authentication, Claim, Origin, Question, Refusal, RefusedLogin, Rule, SenderPattern,
    Unavailable, Verdict,
};
use gatepost::envelope::{MessageId, Receipt};
use gatepost::event::Event;
use gatepost::message::{Header, HeaderSection, Progress, Trace, parse_author};
use gatepost::sasl::{Exchange, Mechanism, Turn, decode_response, encode_challenge};
use gatepost::session::{Link, Profile, Session, Step, TlsFacts};
use gatepost::smtp::address::{Domain, ForwardPath, Mailbox, ReversePath};
use gatepost::smtp::command::{Command, Parameter};
use gatepost::smtp::extension::{MailParameters, decode_xtext};
use gatepost::smtp::framing::{Frame, Framer, FramingError, Mode};
use gatepost::smtp::reply::Reply;

/// Reads decisions off the front of an input. An input that is used up goes on as zeros.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn octet(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.octet()) % bound
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn is_used_up(&self) -> bool {
        self.0.is_empty()
    }
}

/// Cuts `octets` into pieces whose lengths go round in `lengths`.
fn pieces<'a>(octets: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let mut lengths = lengths.iter().copied().cycle();
    let (mut pieces, mut rest) = (Vec::new(), octets);
    while !rest.is_empty() {
        let length = usize::from(lengths.next().unwrap_or(u8::MAX)).max(1);
        let (piece, tail) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

// ---------------------------------------------------------------------------------------------------- framing

/// What a stream is made of. Pieces of one message are put together, since only their sum is promised.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Body(Vec<u8>),
    End { clean: bool },
    Fault(FramingError),
    Line(Vec<u8>),
}

/// The line that makes the rest of the stream a message, as DATA does.
const BEGIN_DATA: &[u8] = b"D";

/// The input: the bound of a line, three lengths of pieces, the stream.
///
/// The frames do not depend on how the stream is cut, a second and simpler reader finds the same ones, and what is
/// kept between two calls is less than one line.
pub fn check_framing(data: &[u8]) {
    let mut script = Script(data);
    let bytes_max = 3 + script.below(64);
    let lengths = script.take(3);
    let stream = script.0;
    let expected = read_simply(stream, bytes_max);
    for lengths in [&[][..], &[1], lengths] {
        let (found, unread) = read_frames(&pieces(stream, lengths), bytes_max);
        assert_eq!(found, expected, "cut into {lengths:?}");
        assert!(
            unread <= bytes_max,
            "{unread} octets kept, a line has {bytes_max}"
        );
    }
}

fn read_frames(pieces: &[&[u8]], bytes_max: usize) -> (Vec<Found>, usize) {
    let mut framer = Framer::default();
    let mut found = Vec::new();
    let mut in_data = false;
    for piece in pieces {
        framer.push(piece);
        loop {
            let mode = match in_data {
                true => Mode::Data,
                false => Mode::Line { bytes_max },
            };
            match framer.next(mode) {
                Ok(None) => break,
                Ok(Some(Frame::Body(octets))) => {
                    assert!(in_data && !octets.is_empty());
                    match found.last_mut() {
                        Some(Found::Body(body)) => body.extend_from_slice(octets),
                        _ => found.push(Found::Body(octets.to_vec())),
                    }
                }
                Ok(Some(Frame::End)) => {
                    found.push(Found::End {
                        clean: framer.is_clean(),
                    });
                    in_data = false;
                }
                Ok(Some(Frame::Line(line))) => {
                    assert!(!in_data);
                    in_data = line == BEGIN_DATA;
                    found.push(Found::Line(line.to_vec()));
                    if in_data {
                        framer.begin_data();
                    }
                }
                Err(error) => found.push(Found::Fault(error)),
            }
        }
    }
    (found, framer.discard())
}

/// The same by definition, without regard to memory or speed.
fn read_simply(stream: &[u8], bytes_max: usize) -> Vec<Found> {
    let mut found = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let line_end = rest.windows(2).position(|two| two == b"\r\n");
        let segment = &rest[..line_end.map_or(rest.len(), |end| end + 2)];
        let feed = segment.iter().position(|&byte| byte == b'\n');
        let fault = match feed {
            None if segment.len() > bytes_max => Some(FramingError::TooLong),
            None => None,
            Some(feed) if feed + 1 > bytes_max => Some(FramingError::TooLong),
            Some(feed) if feed + 1 < segment.len() || line_end.is_none() => {
                Some(FramingError::Forbidden)
            }
            Some(feed) => segment[..feed - 1]
                .iter()
                .any(|byte| matches!(byte, 0 | b'\r'))
                .then_some(FramingError::Forbidden),
        };
        rest = &rest[segment.len()..];
        match (fault, line_end) {
            (Some(fault), _) => found.push(Found::Fault(fault)),
            (None, Some(end)) => {
                let is_data = &segment[..end] == BEGIN_DATA;
                found.push(Found::Line(segment[..end].to_vec()));
                if is_data {
                    rest = read_message_simply(rest, &mut found);
                }
            }
            (None, None) => {}
        }
    }
    found
}

fn read_message_simply<'a>(stream: &'a [u8], found: &mut Vec<Found>) -> &'a [u8] {
    let mut body = Vec::new();
    let mut clean = true;
    let mut rest = stream;
    let mut ended = false;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|two| two == b"\r\n");
        let (line, tail) = rest.split_at(end.map_or(rest.len(), |end| end + 2));
        rest = tail;
        if line == b".\r\n" {
            ended = true;
            break;
        }
        // Whether the last octets of a stream that is cut off count already is nobody's business: a period may be
        // stuffing, or the end, and a CR may be half of one.
        let line = match end {
            Some(_) => line,
            None if line == b"." => b"",
            None => line.strip_suffix(b"\r").unwrap_or(line),
        };
        let text = line.strip_suffix(b"\r\n").unwrap_or(line);
        clean &= !text.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
        body.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    if !body.is_empty() {
        found.push(Found::Body(body));
    }
    if ended {
        found.push(Found::End { clean });
    }
    rest
}

// ---------------------------------------------------------------------------------- commands and addresses

/// The input: a command line.
///
/// What parses and is written again parses to the same.
pub fn check_command(data: &[u8]) {
    let command = match Command::parse(data) {
        Ok(command) => command,
        Err(error) => {
            check_reply_lines(&Reply::from(&error));
            return;
        }
    };
    let written = write_command(&command);
    let again = Command::parse(&written)
        .unwrap_or_else(|error| panic!("{}: {error:?}", written.escape_ascii()));
    // A Secret shows nothing of itself, so the written forms are compared.
    assert_eq!(format!("{again:?}"), format!("{command:?}"));
    assert_eq!(
        write_command(&again).escape_ascii().to_string(),
        written.escape_ascii().to_string()
    );
    if let Command::Mail { parameters, .. } = &command {
        match MailParameters::parse(parameters) {
            Ok(parsed) => assert!(
                parsed.size.is_some()
                    || parsed != MailParameters::default()
                    || parameters.is_empty()
            ),
            Err(reply) => {
                check_reply_lines(&reply);
            }
        }
        for value in parameters
            .iter()
            .filter_map(|parameter| parameter.value.as_deref())
        {
            if let Some(decoded) = decode_xtext(value) {
                assert!(decoded.len() <= value.len());
            }
        }
    }
}

fn write_command(command: &Command) -> Vec<u8> {
    let with_parameters = |start: String, parameters: &[Parameter]| {
        let mut text = start;
        for parameter in parameters {
            text.push(' ');
            text.push_str(&parameter.keyword);
            if let Some(value) = &parameter.value {
                text.push('=');
                text.push_str(value);
            }
        }
        text.into_bytes()
    };
    match command {
        Command::Auth {
            mechanism,
            initial_response,
        } => {
            let mut line = format!("AUTH {mechanism}").into_bytes();
            if let Some(response) = initial_response {
                line.push(b' ');
                line.extend_from_slice(response.expose());
            }
            line
        }
        Command::Data => b"DATA".to_vec(),
        Command::Ehlo(name) => format!("EHLO {name}").into_bytes(),
        Command::Expn => b"EXPN".to_vec(),
        Command::Helo(name) => format!("HELO {name}").into_bytes(),
        Command::Help => b"HELP".to_vec(),
        Command::Mail {
            reverse_path,
            parameters,
        } => with_parameters(format!("MAIL FROM:<{reverse_path}>"), parameters),
        Command::Noop => b"NOOP".to_vec(),
        Command::Quit => b"QUIT".to_vec(),
        Command::Rcpt {
            forward_path,
            parameters,
        } => with_parameters(format!("RCPT TO:<{forward_path}>"), parameters),
        Command::Rset => b"RSET".to_vec(),
        Command::StartTls => b"STARTTLS".to_vec(),
        Command::Vrfy => b"VRFY x".to_vec(),
    }
}

/// The input: an address, in any of the forms that we read.
///
/// What parses, and is written, parses to the same; what is written holds nothing that could end a path or a line.
pub fn check_address(data: &[u8]) {
    let harmless = |text: &str| {
        assert!(
            text.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{text:?}"
        );
    };
    if let Ok(mailbox) = Mailbox::parse(data) {
        let written = mailbox.to_string();
        harmless(&written);
        assert_eq!(Mailbox::parse(written.as_bytes()), Ok(mailbox.clone()));
        let path = format!("<{written}>");
        assert_eq!(
            ReversePath::parse(path.as_bytes()),
            Ok(ReversePath::Mailbox(mailbox.clone()))
        );
        assert_eq!(parse_author(path.as_bytes()), Ok(vec![mailbox.clone()]));
        assert!(SenderPattern::Address(mailbox.clone()).allows(&mailbox));
        assert!(SenderPattern::Domain(mailbox.domain().clone()).allows(&mailbox));
    }
    if let Ok(domain) = Domain::parse(data) {
        assert_eq!(Domain::parse(domain.to_string().as_bytes()), Ok(domain));
    }
    if let Ok(path) = ReversePath::parse(data) {
        let written = path.to_string();
        harmless(&written);
        assert_eq!(
            ReversePath::parse(format!("<{written}>").as_bytes()),
            Ok(path)
        );
    }
    if let Ok(path) = ForwardPath::parse(data) {
        let written = path.to_string();
        harmless(&written);
        assert_eq!(
            ForwardPath::parse(format!("<{written}>").as_bytes()),
            Ok(path)
        );
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(pattern) = SenderPattern::parse(text) {
            let written = pattern.to_string();
            harmless(&written);
            assert_eq!(SenderPattern::parse(&written), Ok(pattern));
        }
        if let Ok(domain) = Domain::parse_international(text) {
            assert_eq!(Domain::parse(domain.to_string().as_bytes()), Ok(domain));
        }
    }
}

// ------------------------------------------------------------------------------------------------------- sasl

/// The input: which mechanism, whether an initial response comes, then response lines, each behind its length.
///
/// A response that decodes is exactly the base64 of what it decodes to; an exchange ends after two responses at the
/// latest, and the claim holds what the client sent and nothing else.
pub fn check_sasl(data: &[u8]) {
    let mut script = Script(data);
    let mechanism = Mechanism::ALL[script.below(Mechanism::ALL.len())];
    let mut initial = script.below(2) == 1;
    let mut exchange = Exchange::new(mechanism);
    if !initial {
        assert!(matches!(exchange.step(None), Ok(Turn::Challenge(_))));
    }
    let mut responses: Vec<Vec<u8>> = Vec::new();
    loop {
        let length = usize::from(script.octet());
        let line = script.take(length);
        let Ok(response) = decode_response(line, initial) else {
            return;
        };
        let written = encode_challenge(response.expose());
        assert!(written.as_bytes() == line || (initial && line == b"="));
        initial = false;
        responses.push(response.expose().to_vec());
        match exchange.step(Some(&response)) {
            Err(_) => return,
            Ok(Turn::Challenge(_)) => {
                assert_eq!((mechanism, responses.len()), (Mechanism::Login, 1))
            }
            Ok(Turn::Check(Claim::Password {
                authorization_identity,
                authentication_identity,
                password,
            })) => {
                let claimed = [
                    authorization_identity.as_bytes(),
                    authentication_identity.as_bytes(),
                    password.expose(),
                ];
                match mechanism {
                    Mechanism::Plain => assert_eq!(claimed.join(&0), responses[0]),
                    Mechanism::Login => assert_eq!(claimed[1..], responses),
                }
                return;
            }
        }
    }
}

// --------------------------------------------------------------------------------------------------- messages

/// The input: three lengths of pieces, then a message; an LF stands for CRLF, since nothing else gets past the framer.
///
/// This is what the sender check rests on: what we check is what the recipient sees. However the message is cut, what
/// is stored begins with our Received, has no Bcc, its header section ends where we say, and whoever reads it finds
/// the authors that were checked, and no others.
pub fn check_header(data: &[u8]) {
    let mut script = Script(data);
    let lengths = script.take(3);
    let message = crlf_text(script.0);
    let id = MessageId::from_bits(7);
    let trace = Trace {
        hostname: "mail.example.org",
        id: &id,
        cipher: "TLS13_AES_256_GCM_SHA384",
        time: *TIME,
        client: None,
    };
    let account = Mailbox::parse(b"alice@example.org").expect("it is one");
    let stored = |lengths: &[u8]| {
        let (header, body) = read_header(&message, lengths);
        let mut section = Vec::new();
        header.write_to(&mut section, &trace, Some(&account));
        (header, section, body)
    };
    let (header, section, body) = stored(&[]);
    for lengths in [&[1][..], lengths] {
        let (other, other_section, other_body) = stored(lengths);
        assert_eq!(other.authors(), header.authors());
        assert_eq!((&other_section, &other_body), (&section, &body));
    }
    assert!(section.starts_with(b"Received: by mail.example.org (gatepost)\r\n"));
    assert!(
        message.ends_with(&body),
        "the body is the end of the message"
    );

    let whole = [&section[..], &body].concat();
    let (again, again_body) = read_header(&whole, &[]);
    assert_eq!(again_body, body, "the header section ends elsewhere");
    if let Ok(mut authors) = header.authors() {
        if authors.from.is_empty() {
            authors.from.push(account);
        }
        assert_eq!(again.authors(), Ok(authors));
    }
    let once = |name: &str, reader: Reader| {
        let count = field_names(&whole, reader)
            .iter()
            .filter(|found| *found == name)
            .count();
        if header.authors().is_ok() {
            assert!(count <= 1, "{count} {name} fields for {reader:?}");
        }
        count
    };
    assert!(once("from", Reader::Strict) == 1 || header.authors().is_err());
    for reader in [
        Reader::Strict,
        Reader::BlankLineEnds,
        Reader::SkipsWhatItCannotRead,
    ] {
        once("from", reader);
        once("sender", reader);
        assert!(
            !field_names(&whole, reader)
                .iter()
                .any(|name| name.contains("bcc") && matches!(name.as_str(), "bcc" | "resent-bcc"))
                || reader == Reader::BlankLineEnds,
        );
    }
}

static TIME: LazyLock<gatepost::clock::Timestamp> =
    LazyLock::new(|| "2026-11-21T09:30:00Z".parse().expect("it is a time"));

/// Octets as they can come out of a clean message: every line ends with CRLF, no NUL, no other CR.
fn crlf_text(octets: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for line in octets.split_inclusive(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        text.extend(line.iter().filter(|byte| !matches!(byte, 0 | b'\r')));
        text.extend_from_slice(b"\r\n");
    }
    text
}

fn read_header(message: &[u8], lengths: &[u8]) -> (Header, Vec<u8>) {
    let mut section = HeaderSection::default();
    let mut pushed = 0;
    for piece in pieces(message, lengths) {
        pushed += piece.len();
        if let Progress::Complete { header_bytes } = section.push(piece) {
            assert_eq!(section.header_bytes(), header_bytes);
            let (header, mut body) = section.finish(header_bytes);
            body.extend_from_slice(&message[pushed..]);
            return (header, body);
        }
        assert_eq!(section.header_bytes(), pushed);
    }
    let end = section.end();
    section.finish(end)
}

/// Ways in which mail programs read header sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// A line of blanks ends the header section too.
    BlankLineEnds,
    /// Lines that are no field are passed over.
    SkipsWhatItCannotRead,
    /// Only an empty line ends it.
    Strict,
}

/// The names of the fields, in lower case, as such a reader sees them.
fn field_names(message: &[u8], reader: Reader) -> Vec<String> {
    let text = String::from_utf8_lossy(message);
    let mut names = Vec::new();
    for line in text.split("\r\n") {
        if line.is_empty() || (reader == Reader::BlankLineEnds && line.trim().is_empty()) {
            break;
        }
        if line.starts_with([' ', '\t']) {
            continue;
        }
        match line.split_once(':') {
            Some((name, _)) => names.push(name.trim().to_ascii_lowercase()),
            None if reader == Reader::SkipsWhatItCannotRead => {}
            None => break,
        }
    }
    names
}

/// The input: the value of a From field.
///
/// Every address that is found is one; and where no quotes or comments hide anything, a naive reader finds no address
/// in brackets that we have not found.
pub fn check_author(data: &[u8]) {
    let Ok(found) = parse_author(data) else {
        return;
    };
    assert!(!found.is_empty());
    for mailbox in &found {
        let written = mailbox.to_string();
        assert_eq!(Mailbox::parse(written.as_bytes()), Ok(mailbox.clone()));
        assert_eq!(
            parse_author(format!("x <{written}>").as_bytes()),
            Ok(vec![mailbox.clone()])
        );
    }
    if data.iter().any(|byte| matches!(byte, b'"' | b'(' | b'\\')) {
        return;
    }
    let text = String::from_utf8_lossy(data);
    for part in text.split('<').skip(1) {
        let inside = part.split('>').next().unwrap_or(part);
        let inside: String = inside.split_ascii_whitespace().collect();
        let mailbox = Mailbox::parse(inside.as_bytes())
            .unwrap_or_else(|error| panic!("{inside:?} in brackets: {error}"));
        assert!(found.contains(&mailbox), "{mailbox} was not found");
    }
    assert!(found.len() <= text.matches('@').count());
}

/// The input: what kind of reply, then text.
///
/// Any text gives lines of at most 512 octets of printable ASCII, each with the code, as many as there are.
pub fn check_reply(data: &[u8]) {
    let mut script = Script(data);
    let kind = script.below(7);
    let text = String::from_utf8_lossy(script.0).into_owned();
    let reply = match kind {
        0 => Reply::unknown_parameter(&text),
        1 => Reply::bad_header(text),
        2 => Reply::extended_hello(&text, vec![text.clone().into(), "PIPELINING".into()]),
        3 => Reply::account_limit(&text, u64::MAX, &text),
        4 => Reply::author_not_owned(&text, "From", &text),
        5 => Reply::challenge(text),
        _ => Reply::bad_recipient_address(text),
    };
    check_reply_lines(&reply);
}

fn check_reply_lines(reply: &Reply) -> Vec<String> {
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    let wire = String::from_utf8(wire).expect("ASCII");
    let lines: Vec<String> = wire
        .strip_suffix("\r\n")
        .expect("a reply ends with CRLF")
        .split("\r\n")
        .map(str::to_owned)
        .collect();
    for (index, line) in lines.iter().enumerate() {
        assert!(line.len() + 2 <= 512, "{} octets", line.len() + 2);
        assert!(
            line.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{line:?}"
        );
        let separator = if index + 1 == lines.len() { " " } else { "-" };
        assert!(
            line.starts_with(&format!("{}{separator}", reply.code())),
            "{line}"
        );
        if let Some(status) = reply.status() {
            assert_eq!(u16::from(status.class), reply.code() / 100);
            assert!(line[4..].starts_with(&format!("{status} ")), "{line}");
        }
    }
    lines
}

// ------------------------------------------------------------------------------------------------------ files

/// The input: a configuration file. It is read or refused, never a panic, and a refusal says why.
pub fn check_config(data: &[u8]) {
    let source = String::from_utf8_lossy(data);
    if let Err(findings) = config::parse(Path::new("gatepost.toml"), &source) {
        assert!(findings.iter().any(|finding| finding.is_error()));
        for finding in findings {
            assert!(!finding.one_line().contains('\n'), "{}", finding.one_line());
            // How it is shown at length must not depend on luck either.
            let _ = finding.to_string();
        }
    }
}

/// The input: an accounts file. It is read or refused, never a panic, and every account can be found again.
pub fn check_accounts(data: &[u8]) {
    let source = String::from_utf8_lossy(data);
    match Directory::parse(Path::new("accounts.toml"), &source, 64) {
        Ok((directory, _)) => {
            for record in directory.records() {
                let found = directory.find(&record.account.name).expect("it is there");
                assert_eq!(found.account, record.account);
            }
            let _ = directory.name_for_log(&source);
        }
        Err(findings) => {
            assert!(findings.iter().any(|finding| finding.is_error()));
            for finding in findings {
                assert!(!finding.one_line().contains('\n'), "{}", finding.one_line());
                let _ = finding.to_string();
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------- session

/// The input: the profile and the link, then what the client and the world do, act by act (see [`World::act`]).
///
/// Whatever they do: nothing is begun without a login, a MAIL and an RCPT that were allowed; nothing is committed
/// without a verdict on its authors and on the whole of it; only a commit leads to `queued as`, and each to one;
/// every command line has exactly one reply; a closed session stays closed and leaves no draft behind.
pub fn check_session(data: &[u8]) {
    let mut script = Script(data);
    let shape = script.octet();
    let profile = Profile {
        hostname: "mail.example.org".to_owned(),
        message_bytes_max: 2000,
        header_bytes_max: 600,
        received_fields_max: 2,
        recipients_max: 3,
        errors_max: 6,
        failed_logins_max: 2,
        idle_timeout: Duration::from_secs(300),
        login_timeout: Duration::from_secs(600),
        data_timeout: Duration::from_secs(900),
        reveal_client: shape & 2 != 0,
        mechanisms: Mechanism::ALL.to_vec(),
    };
    let link = Link {
        client: "203.0.113.7:50123".parse().expect("an address"),
        tls: (shape & 1 == 0).then(tls_facts),
    };
    let now = *BEGINNING;
    let session = if shape & 0x1c == 0x1c {
        Session::turn_away(Arc::new(profile), link, Reply::too_many_connections(), now)
    } else {
        Session::new(Arc::new(profile), link, now)
    };
    let mut world = World {
        session,
        script,
        now,
        under_tls: shape & 1 == 0,
        draft: None,
        appended_all: true,
        authenticated: false,
        allowed_sender: false,
        allowed_recipients: 0,
        allowed_authors: false,
        allowed_message: false,
        unacknowledged: None,
        ids: HashSet::new(),
        committed: 0,
        acknowledged: 0,
        accepted_events: 0,
        replies: 0,
        in_data: false,
        said_421: false,
        gone: false,
    };
    world.run();
}

static BEGINNING: LazyLock<Now> = LazyLock::new(|| Now {
    wall: *TIME,
    ..Now::read()
});

fn tls_facts() -> TlsFacts {
    TlsFacts {
        version: "TLSv1.3".to_owned(),
        cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
    }
}

static ALICE: LazyLock<Arc<Account>> = LazyLock::new(|| {
    let origin = Origin {
        file: Path::new("accounts.toml").into(),
        line: 1,
    };
    Arc::new(Account {
        name: "alice@example.org".to_owned(),
        enabled: true,
        allow_from: Vec::new(),
        send_as: vec![(SenderPattern::Any, origin.clone())],
        messages_per_hour: None,
        recipients_per_day: None,
        note: None,
        origin,
    })
});

/// Lines that get a client somewhere; the rest of the input is free to say anything else.
const LINES: [&[u8]; 24] = [
    b"EHLO x",
    b"AUTH PLAIN AGFsaWNlAHNlY3JldA==",
    b"MAIL FROM:<alice@example.org>",
    b"RCPT TO:<bob@example.net>",
    b"DATA",
    b"From: alice@example.org",
    b"",
    b".",
    b"..",
    b"RCPT TO:<carol@example.net>",
    b"RSET",
    b"STARTTLS",
    b"QUIT",
    b"AUTH LOGIN",
    b"YWxpY2U=",
    b"*",
    b"HELO x",
    b"MAIL FROM:<> SIZE=100 BODY=8BITMIME AUTH=<>",
    b"MAIL FROM:<alice@example.org> SIZE=2001",
    b"VRFY x",
    b"Received: x",
    b"Bcc: x@example.net",
    b"AUTH PLAIN",
    b"From: x <",
];

/// How far [`World::pump`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pumped {
    /// The session is closed.
    Closed,
    /// An ask was dropped unanswered, as by a future that is cancelled.
    Dropped,
    /// It waits for octets.
    Waits,
}

/// A session, the world around it, and what may happen next.
struct World<'a> {
    session: Session,
    script: Script<'a>,
    now: Now,
    under_tls: bool,
    draft: Option<MessageId>,
    /// Nothing of the present draft was refused by the disk.
    appended_all: bool,
    authenticated: bool,
    allowed_sender: bool,
    allowed_recipients: usize,
    allowed_authors: bool,
    allowed_message: bool,
    /// Committed, and its 250 is not said yet.
    unacknowledged: Option<MessageId>,
    ids: HashSet<MessageId>,
    committed: u64,
    acknowledged: u64,
    accepted_events: u64,
    replies: usize,
    in_data: bool,
    said_421: bool,
    gone: bool,
}

impl World<'_> {
    fn run(&mut self) {
        let mut pumped = self.pump();
        while pumped != Pumped::Closed && !self.script.is_used_up() {
            pumped = self.act(pumped);
        }
        if pumped != Pumped::Closed {
            match self.script.below(2) {
                0 => self.disconnect(),
                _ => self.session.stop_now(),
            }
            // Nothing is asked any more, so nothing can be dropped.
            pumped = self.pump();
        }
        assert_eq!(pumped, Pumped::Closed);
        assert_eq!(self.draft, None, "a closed session leaves no draft");
        assert_eq!(self.committed, self.session.messages());
        assert_eq!(self.committed, self.accepted_events);
        assert!(self.acknowledged == self.committed || self.gone);
        // It stays closed.
        self.session.receive(b"NOOP\r\n", self.now);
        self.session.begin_shutdown();
        self.session
            .tick(self.now.after(Duration::from_secs(86_400)));
        self.session.stop_now();
        assert!(matches!(self.session.next_step(), Step::Close));
    }

    fn act(&mut self, pumped: Pumped) -> Pumped {
        match self.script.octet() {
            // A known line, an unknown one, a long one.
            choice @ 0..=199 => {
                // While an ask is open the session cannot listen.
                if pumped != Pumped::Waits {
                    return self.pump();
                }
                let choice = usize::from(choice);
                let line = match LINES.get(choice) {
                    Some(line) => line.to_vec(),
                    None if choice < 160 => LINES[choice % LINES.len()].to_vec(),
                    None if choice < 190 => {
                        let length = usize::from(self.script.octet());
                        self.script.take(length).to_vec()
                    }
                    None => {
                        let length = 64 * usize::from(self.script.octet());
                        vec![self.script.octet(); length]
                    }
                };
                self.say_line(line)
            }
            200..=219 => {
                let seconds = 3 * u64::from(self.script.octet());
                self.now = self.now.after(Duration::from_secs(seconds));
                self.session.tick(self.now);
                let pumped = self.pump();
                if pumped == Pumped::Waits
                    && let Step::Wait { until } = self.session.next_step()
                {
                    assert!(
                        until > self.now.instant,
                        "time is up and nothing came of it"
                    );
                }
                pumped
            }
            220..=229 => {
                self.session.begin_shutdown();
                self.pump()
            }
            230..=239 => {
                self.session.stop_now();
                self.pump()
            }
            240..=244 => {
                self.disconnect();
                self.pump()
            }
            // The future that carried a step out is gone, and another goes on.
            _ => self.pump(),
        }
    }

    fn disconnect(&mut self) {
        self.gone = true;
        self.session.disconnected();
    }

    /// Says one line, in pieces. It has exactly one reply, unless it is text of a message, or the session closes.
    fn say_line(&mut self, mut line: Vec<u8>) -> Pumped {
        // Only the last CRLF may be one.
        let mut previous = 0;
        line.retain(|&byte| {
            let keep = byte != b'\n' || previous != b'\r';
            if keep {
                previous = byte;
            }
            keep
        });
        line.extend_from_slice(b"\r\n");
        let is_text = self.in_data && line != b".\r\n";
        let before = self.replies;
        let length = self.script.octet();
        for piece in pieces(
            &line,
            if length == 0 {
                &[]
            } else {
                std::slice::from_ref(&length)
            },
        ) {
            self.session.receive(piece, self.now);
            let mut pumped = self.pump();
            for _ in 0..3 {
                if pumped == Pumped::Dropped {
                    pumped = self.pump();
                }
            }
            // Left open in the middle of a line: the rest is never heard, and not counted.
            if pumped != Pumped::Waits {
                return pumped;
            }
        }
        let said = self.replies - before;
        assert_eq!(said, usize::from(!is_text), "{}", line.escape_ascii());
        Pumped::Waits
    }

    /// Carries out steps until the session waits or closes, or until an ask is dropped.
    fn pump(&mut self) -> Pumped {
        // Each turn uses up an octet, a reply or a state; so many never come out of one line.
        for _ in 0..1000 {
            let choice = match self.session.next_step() {
                Step::Wait { .. } => return Pumped::Waits,
                Step::Close => return Pumped::Closed,
                Step::Send(reply) => {
                    self.hear(&reply);
                    continue;
                }
                Step::Report(event) => {
                    self.note(&event);
                    continue;
                }
                Step::Abort => {
                    assert!(self.draft.take().is_some(), "there is a draft to drop");
                    continue;
                }
                _ => self.script.octet(),
            };
            if choice >= 250 {
                return Pumped::Dropped;
            }
            match self.session.next_step() {
                Step::Append(ask) => {
                    assert!(self.draft.is_some() && self.allowed_authors);
                    assert!(!ask.bytes().is_empty() && ask.bytes().len() <= 64 << 10);
                    if choice >= 240 {
                        self.appended_all = false;
                        ask.answer(Err(Refusal::new(Reply::storage_failed(), "disk")));
                    } else {
                        ask.answer(Ok(()));
                    }
                }
                Step::Begin(ask) => {
                    assert!(self.authenticated && self.under_tls && self.allowed_sender);
                    let id = MessageId::from_bits(1000 + u128::from(self.committed) * 7);
                    let envelope = ask.envelope(id.clone());
                    assert_eq!(envelope.account, ALICE.name);
                    assert_eq!(envelope.recipients.len(), self.allowed_recipients);
                    assert!((1..=3).contains(&self.allowed_recipients));
                    if choice >= 240 {
                        ask.answer(Err(Refusal::new(Reply::storage_full(), "full")));
                    } else {
                        assert_eq!(self.draft.replace(id.clone()), None, "one draft at a time");
                        self.appended_all = true;
                        (self.allowed_authors, self.allowed_message) = (false, false);
                        ask.answer(Ok(id));
                    }
                }
                Step::Check(ask) => {
                    assert!(self.under_tls && !self.authenticated);
                    let Claim::Password { .. } = ask.claim();
                    ask.answer(match choice {
                        0..=219 => {
                            self.authenticated = true;
                            Ok(Authentication::Accept(Arc::clone(&ALICE)))
                        }
                        220..=239 => Ok(Authentication::Refuse {
                            reason: RefusedLogin::WrongPassword,
                            name: None,
                        }),
                        _ => Err(Unavailable("overloaded".to_owned())),
                    });
                }
                Step::Commit(ask) => {
                    let id = self.draft.take().expect("there is a draft to commit");
                    assert!(self.allowed_authors && self.allowed_message && self.appended_all);
                    assert_eq!(ask.recipients() as usize, self.allowed_recipients);
                    assert_eq!(self.unacknowledged, None);
                    (self.allowed_sender, self.allowed_recipients) = (false, 0);
                    if choice >= 240 {
                        ask.answer(Err(Refusal::new(Reply::storage_failed(), "disk")));
                    } else {
                        self.committed += 1;
                        self.ids.insert(id.clone());
                        self.unacknowledged = Some(id.clone());
                        ask.answer(Ok(Receipt { id, size: 1 }));
                    }
                }
                Step::Decide(ask) => {
                    assert!(self.authenticated);
                    assert_eq!(ask.account(), &**ALICE);
                    let allow = choice < 230;
                    match ask.question() {
                        Question::Author { .. } => self.allowed_authors = allow,
                        Question::Message { recipients } => {
                            assert_eq!(recipients as usize, self.allowed_recipients);
                            self.allowed_message = allow;
                        }
                        Question::Recipient { accepted, .. } => {
                            assert_eq!(accepted as usize, self.allowed_recipients);
                            self.allowed_recipients += usize::from(allow);
                        }
                        Question::Sender { .. } => {
                            (self.allowed_sender, self.allowed_recipients) = (allow, 0);
                        }
                    }
                    ask.answer(match choice {
                        _ if allow => Verdict::Allow(Rule {
                            name: "any",
                            origin: None,
                        }),
                        230..=239 => refuse(Reply::sender_not_owned("a", "b")),
                        240..=244 => refuse(Reply::account_limit("x", 1, "at noon")),
                        _ => refuse(Reply::account_withdrawn()),
                    });
                }
                Step::StartTls(ask) => {
                    assert!(!self.under_tls && !self.authenticated);
                    self.under_tls = true;
                    ask.answer(tls_facts());
                }
                step => panic!("a dropped ask is offered again, not {step:?}"),
            }
        }
        panic!("the session never waits");
    }

    fn hear(&mut self, reply: &Reply) {
        let lines = check_reply_lines(reply);
        assert!(
            !self.said_421 && !self.gone,
            "{lines:?} behind the last word"
        );
        let bare = matches!(reply.code(), 334 | 354)
            || lines[0].starts_with("220 mail.example.org ")
            || lines[0][4..] == *"mail.example.org";
        assert_eq!(reply.status().is_none(), bare, "{lines:?}");
        self.said_421 = reply.code() == 421;
        // The last word of a session answers no line of its own.
        if !self.said_421 {
            self.replies += 1;
        }
        self.in_data = reply.code() == 354;
        match lines[0].split_once("queued as ") {
            Some((_, id)) => {
                let committed = self.unacknowledged.take().expect("something was committed");
                assert_eq!(committed.as_str(), id);
                self.acknowledged += 1;
            }
            None => assert_eq!(self.unacknowledged, None, "a commit leads to 250 at once"),
        }
        match reply.code() {
            235 => assert!(self.authenticated),
            354 => assert!(self.draft.is_some()),
            _ => {}
        }
        if lines.iter().any(|line| line[4..].starts_with("AUTH ")) {
            assert!(self.under_tls, "AUTH is offered only under TLS");
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::AuthAccepted { .. } => assert!(self.authenticated),
            Event::MessageAccepted { id, .. } => {
                assert!(self.ids.contains(id));
                self.accepted_events += 1;
            }
            Event::MessageAbandoned { .. } => assert!(self.gone),
            _ => {}
        }
    }
}

fn refuse(reply: Reply) -> Verdict {
    Verdict::Refuse(Refusal::new(reply, "refused"))
}
