//! What must hold for any input whatever: one `check_...` for each door through which foreign octets come in.
//!
//! The fuzz targets call them under libFuzzer; `tests/it/corpus.rs` includes this file and calls them with the seed
//! corpus and with random input on every `cargo test`. A check panics when its property does not hold, and never
//! otherwise. What the octets of an input mean is said at each check; [`Script`] reads them.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use argon2::Block;
use aws_lc_rs::{digest, hmac, pbkdf2};
use gatepost::account::credential::GeneratedSecret;
use gatepost::account::directory::Directory;
use gatepost::account::stored::Stored;
use gatepost::clock::Timestamp;
use gatepost::config;
use gatepost::decision::{Claim, SenderPattern};
use gatepost::envelope::MessageId;
use gatepost::message::{Header, HeaderSection, Progress, Trace, parse_author};
use gatepost::sasl::external::{Certificate, Fingerprint};
use gatepost::sasl::scram::{Keys, Offer, Verifier};
use gatepost::sasl::{
    ChannelBindings, Exchange, Mechanism, Turn, decode_response, encode_challenge,
};
use gatepost::secret::Secret;
use gatepost::smtp::address::{Domain, ForwardPath, Mailbox, ReversePath};
use gatepost::smtp::command::{Command, Parameter};
use gatepost::smtp::framing::{Frame, Framer, FramingError, Mode};
use gatepost::smtp::reply::Reply;

mod bdat;
mod bearer;
mod dialogue;
mod files;
mod operator;
mod parameters;
mod proxy;
mod session;

pub use bdat::check_bdat;
pub use bearer::{check_bearer, check_claims};
pub use dialogue::check_dialogue;
pub use files::{
    check_certificate, check_control, check_envelope, check_import, check_journal, check_kept,
    check_token,
};
pub use operator::{check_argument, check_edit, check_queue};
pub use parameters::check_parameters;
pub use proxy::check_proxy;
pub use session::check_session;

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
        Command::Bdat { size, last } => {
            format!("BDAT {size}{}", if *last { " LAST" } else { "" }).into_bytes()
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
        assert!(!text.chars().any(char::is_control), "{text:?}");
    };
    if let Ok(mailbox) = Mailbox::parse(data) {
        let written = mailbox.to_string();
        harmless(&written);
        assert_eq!(Mailbox::parse(written.as_bytes()), Ok(mailbox.clone()));
        let path = format!("<{written}>");
        // A mailbox alone may be a little longer than one in a path (RFC 5321 section 4.5.3.1.3).
        if path.len() <= 256 {
            assert_eq!(
                ReversePath::parse(path.as_bytes()),
                Ok(ReversePath::Mailbox(mailbox.clone()))
            );
        }
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
/// latest, and the claim holds what the client sent and nothing else. EXTERNAL is of a client that has shown a
/// certificate.
pub fn check_sasl(data: &[u8]) {
    let mut script = Script(data);
    let mechanism = [Mechanism::Login, Mechanism::Plain, Mechanism::External][script.below(3)];
    let mut initial = script.below(2) == 1;
    let mut exchange = Exchange::new(mechanism, &ChannelBindings::default())
        .with_certificate(Some(Arc::clone(&CERTIFICATE)));
    if !initial {
        assert!(matches!(exchange.step(None), Ok(Turn::Challenge(_))));
    }
    let mut initial_was_empty = false;
    let mut responses: Vec<Vec<u8>> = Vec::new();
    loop {
        let length = usize::from(script.octet());
        let line = script.take(length);
        let equals_too = initial || exchange.expects_equals();
        let Ok(response) = decode_response(line, equals_too) else {
            return;
        };
        let written = encode_challenge(response.expose());
        assert!(written.as_bytes() == line || (equals_too && line == b"="));
        initial_was_empty |= initial && response.is_empty();
        initial = false;
        responses.push(response.expose().to_vec());
        match exchange.step(Some(&response)) {
            Err(_) => return,
            Ok(Turn::Challenge(_)) => {
                // An empty initial response is none.
                responses.retain(|response| !response.is_empty() || !initial_was_empty);
                initial_was_empty = false;
                assert!(mechanism == Mechanism::Login && responses.len() <= 1);
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
                    _ => assert_eq!(claimed[1..], responses),
                }
                assert_eq!(exchange.last_challenge(), None);
                return;
            }
            Ok(Turn::Check(Claim::Certificate {
                authorization_identity,
                certificate,
            })) => {
                assert_eq!(mechanism, Mechanism::External);
                assert!(Arc::ptr_eq(&certificate, &CERTIFICATE));
                assert_eq!(authorization_identity.as_bytes(), responses[0]);
                assert!(!authorization_identity.contains('\0'));
                assert_eq!(exchange.last_challenge(), None);
                return;
            }
            Ok(other) => panic!("{other:?} is for other mechanisms"),
        }
    }
}

static CERTIFICATE: LazyLock<Arc<Certificate>> = LazyLock::new(|| {
    Arc::new(Certificate {
        fingerprint: Fingerprint::of(b"some certificate"),
        addresses: Vec::new(),
        not_before: Timestamp::MIN,
        not_after: Timestamp::MAX,
    })
});

/// The input: which mechanism and bindings, the store's secrets, then a client: its name and nonce, and what it
/// changes on the way.
///
/// A faithful client is understood and proven right, whatever its name; one that knows no secret, or whose last message
/// was changed on the way in any octet, proves nothing; and no messages lead to a proof without a secret.
pub fn check_scram(data: &[u8]) {
    let mut script = Script(data);
    let shape = script.octet();
    let (plus, offered) = (shape & 1 != 0, shape & 2 != 0);
    let bindings = ChannelBindings {
        exporter: (plus || offered).then_some([shape; 32]),
        server_end_point: None,
    };
    let mechanism = match plus {
        true => Mechanism::ScramSha256Plus,
        false => Mechanism::ScramSha256,
    };
    let password = [script.octet(), script.octet()];
    let salt = [script.octet(); 8];
    let right = Keys::derive(&password, &salt, *ITERATIONS);
    let wrong = Keys::derive(b"third", &salt, *ITERATIONS);
    let keys = match shape & 12 {
        0 => vec![right],
        4 => vec![wrong.clone(), right],
        _ => vec![wrong],
    };
    let known = shape & 12 <= 4;
    let offer = || Offer {
        verifier: Arc::new(Verifier::new(&keys).expect("they share their salt")),
        nonce: "server".to_owned(),
    };

    let name_length = usize::from(script.octet());
    let name = String::from_utf8_lossy(script.take(name_length)).replace('\0', "-");
    let written = name.replace('=', "=3D").replace(',', "=2C");
    let header = if plus { "p=tls-exporter,," } else { "n,," };
    let bare = format!("n={written},r=client{shape}");
    let mut exchange = Exchange::new(mechanism, &bindings);
    let first = Secret::new(format!("{header}{bare}").into_bytes());
    match exchange.step(Some(&first)) {
        Ok(Turn::LookUp(found)) => assert_eq!(found, name),
        Err(_) => assert!(name.is_empty()),
        Ok(other) => panic!("{other:?}"),
    }
    if !name.is_empty() {
        let Ok(Turn::Challenge(server_first)) = exchange.found(offer()) else {
            panic!("an offer leads to a challenge");
        };
        let server_first = String::from_utf8(server_first).expect("ASCII");
        let binding = if plus { &[shape; 32][..] } else { &[] };
        let (last, signature) =
            scram_answer(&password, &salt, header, binding, &bare, &server_first);
        let mut sent = last.clone().into_bytes();
        if shape & 16 != 0 {
            let place = usize::from(script.octet()) % sent.len();
            sent[place] ^= script.octet();
        }
        let changed = sent != last.as_bytes();
        match exchange.step(Some(&Secret::new(sent))) {
            Ok(Turn::Check(Claim::Scram {
                authentication_identity,
                proof,
                ..
            })) => {
                assert_eq!(authentication_identity, name);
                assert_eq!(proof.matched.is_some(), known && !changed);
                let expected = proof.matched.map(|_| signature.into_bytes());
                assert_eq!(exchange.last_challenge(), expected);
            }
            Err(_) => assert!(changed),
            Ok(other) => panic!("{other:?}"),
        }
    }

    // What is left of the input are messages of somebody who knows nothing.
    let mut exchange = Exchange::new(mechanism, &bindings);
    for message in script.0.split(|&byte| byte == b'\n') {
        match exchange.step(Some(&Secret::new(message.to_vec()))) {
            Ok(Turn::LookUp(name)) => {
                assert!(!name.is_empty() && !name.contains('\0'));
                assert!(matches!(exchange.found(offer()), Ok(Turn::Challenge(_))));
            }
            Ok(Turn::Check(Claim::Scram { proof, .. })) => assert_eq!(proof.matched, None),
            Ok(other) => panic!("{other:?}"),
            Err(_) => return,
        }
    }
}

static ITERATIONS: LazyLock<NonZeroU32> =
    LazyLock::new(|| NonZeroU32::new(1).expect("it is not zero"));

/// The last message of a client, and the server's that it expects (RFC 5802 section 3).
fn scram_answer(
    password: &[u8],
    salt: &[u8],
    header: &str,
    binding: &[u8],
    bare: &str,
    server_first: &str,
) -> (String, String) {
    let hmac = |key: &[u8], text: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::sign(&key, text).as_ref().to_vec()
    };
    let mut salted = [0; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        *ITERATIONS,
        salt,
        password,
        &mut salted,
    );
    let client_key = hmac(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, &client_key);
    let (nonce, _) = server_first.split_once(",s=").expect("a salt");
    let bound = encode_challenge(&[header.as_bytes(), binding].concat());
    let without_proof = format!("c={bound},{nonce}");
    let auth_message = format!("{bare},{server_first},{without_proof}");
    let signature = hmac(stored_key.as_ref(), auth_message.as_bytes());
    let proof: Vec<u8> = client_key
        .iter()
        .zip(&signature)
        .map(|(key, octet)| key ^ octet)
        .collect();
    let server_signature = hmac(&hmac(&salted, b"Server Key"), auth_message.as_bytes());
    (
        format!("{without_proof},p={}", encode_challenge(&proof)),
        format!("v={}", encode_challenge(&server_signature)),
    )
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
        smtputf8: false,
        priority: None,
        token: None,
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
    for reader in [
        Reader::Strict,
        Reader::BlankLineEnds,
        Reader::SkipsWhatItCannotRead,
    ] {
        let names = field_names(&whole, reader);
        let count = |name: &str| names.iter().filter(|found| *found == name).count();
        assert_eq!(count("bcc") + count("resent-bcc"), 0, "{reader:?}");
        if header.authors().is_ok() {
            assert!(count("from") <= 1 && count("sender") <= 1, "{reader:?}");
            assert!(count("from") == 1 || reader == Reader::BlankLineEnds);
        }
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
            assert!(section.examined_bytes() >= header_bytes);
            let (header, mut body) = section.finish(header_bytes);
            body.extend_from_slice(&message[pushed..]);
            return (header, body);
        }
        assert!((pushed - 1..=pushed).contains(&section.examined_bytes()));
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

/// The input: a password of four octets, then a stored secret, in any of the forms that an accounts file may have.
///
/// What is read stays within its bounds, can be compared without a panic, and matches no two passwords; texts that we
/// write ourselves are read as the same.
pub fn check_hash(data: &[u8]) {
    const MEMORY_KIB_MAX: u32 = 64;
    let mut script = Script(data);
    let password = script.take(4);
    let text = String::from_utf8_lossy(script.0);
    if let Ok(keys) = Keys::parse(&text) {
        assert_eq!(keys.to_text(), text);
    }
    if let Ok(secret) = GeneratedSecret::parse(&text) {
        assert_eq!(secret.to_text(), text);
    }
    let Ok(stored) = Stored::parse(&text, MEMORY_KIB_MAX) else {
        return;
    };
    assert!(stored.memory_kib() <= MEMORY_KIB_MAX);
    assert!(
        !format!("{stored:?}").contains("$"),
        "nothing of it is shown"
    );
    // Those that are not weak take their time, as they should.
    if stored.weakness().is_some() {
        let mut memory = vec![Block::new(); stored.block_count()];
        let mut matches = |password: &[u8]| {
            let answer = stored.matches(password, &mut memory);
            answer.expect("it is within all bounds")
        };
        let other = [password, b"x"].concat();
        assert!(!(matches(password) && matches(&other)));
    }
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
