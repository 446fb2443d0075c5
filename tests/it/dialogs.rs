//! Runs tests/dialogs/*.txt (the notation is in its README): in memory as written, octet by octet and cut at random,
//! and over real TLS sockets. The replies must be the same each time.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gatepost::clock::Now;
use gatepost::decision::{Limit, OverLimit, Refusal, Verdict};
use gatepost::envelope::{MessageId, Receipt};
use gatepost::event::Event;
use gatepost::policy::{Limiter, Policy, PolicySettings};
use gatepost::sasl::external::{Certificate, Fingerprint};
use gatepost::sasl::{ChannelBindings, Mechanism};
use gatepost::server::ServerLimits;
use gatepost::session::{Link, Profile, Session, Step, TlsFacts};
use gatepost::smtp::extension::Extension;
use gatepost::smtp::reply::Reply;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;

use crate::support::{FixedAccounts, Server};

/// A dialogue as it is written down.
struct Dialogue {
    name: String,
    profile: Profile,
    limits: PolicySettings,
    under_tls: bool,
    /// The addresses in the client's certificate, if it shows one.
    certificate: Option<Vec<String>>,
    over_sockets: bool,
    in_pieces: bool,
    lines: Vec<Line>,
}

#[derive(Clone, Debug)]
enum Line {
    Client(Vec<u8>),
    Closed,
    Fault(Fault),
    Event(String),
    /// A JSON pointer into the envelope, and what is there; `None` for nothing.
    Envelope(String, Option<serde_json::Value>),
    Gone,
    Message(String),
    Pass(Duration),
    Rest,
    Server(String),
    Shutdown,
}

/// What goes wrong in the world around the session, once, at the next occasion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Append,
    Banned,
    Begin,
    Commit,
    Withdrawn,
}

fn dialogues() -> Vec<Dialogue> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs");
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    assert!(paths.len() > 20, "the dialogues are there");
    paths.iter().map(|path| parse(path)).collect()
}

fn parse(path: &Path) -> Dialogue {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(
        text.starts_with('#'),
        "{name}: the first line says what it is about"
    );
    let profile = Profile {
        hostname: "mail.example.org".to_owned(),
        ..Profile::default()
    };
    let mut dialogue = Dialogue {
        name,
        profile,
        limits: PolicySettings {
            messages_per_hour: (Limit::Unlimited, None),
            recipients_per_day: (Limit::Unlimited, None),
            over_limit: (OverLimit::Refuse, None),
            held_messages: (10_000, None),
        },
        under_tls: true,
        certificate: None,
        over_sockets: true,
        in_pieces: true,
        lines: Vec::new(),
    };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        let parsed = match key {
            "link" => {
                dialogue.under_tls = rest == "tls";
                continue;
            }
            "certificate" => {
                let addresses = rest.split_whitespace().map(str::to_owned);
                dialogue.certificate = Some(addresses.collect());
                continue;
            }
            "only" => {
                dialogue.over_sockets = rest != "memory";
                dialogue.in_pieces = rest != "whole";
                continue;
            }
            "withhold" => {
                let withheld = Extension::from_keyword(rest).unwrap();
                let extensions = &mut dialogue.profile.extensions;
                extensions.retain(|extension| *extension != withheld);
                continue;
            }
            "set" => {
                set(&mut dialogue, rest);
                continue;
            }
            "C:" => Line::Client([rest.as_bytes(), b"\r\n"].concat()),
            "R:" => Line::Client(unescape(rest)),
            "S:" if rest == "..." => Line::Rest,
            "S:" => Line::Server(rest.to_owned()),
            "E:" => Line::Event(rest.to_owned()),
            "J:" => {
                let (pointer, value) = rest.split_once(' ').unwrap();
                let value = (value != "-").then(|| serde_json::from_str(value).unwrap());
                Line::Envelope(pointer.to_owned(), value)
            }
            "M:" => Line::Message(rest.to_owned()),
            "F:" => Line::Fault(match rest {
                "append" => Fault::Append,
                "banned" => Fault::Banned,
                "begin" => Fault::Begin,
                "commit" => Fault::Commit,
                "withdrawn" => Fault::Withdrawn,
                other => panic!("{}: F: {other}", dialogue.name),
            }),
            "W:" => Line::Pass(humantime::parse_duration(rest).unwrap()),
            "X:" => match rest {
                "closed" => Line::Closed,
                "gone" => Line::Gone,
                "shutdown" => Line::Shutdown,
                other => panic!("{}: X: {other}", dialogue.name),
            },
            other => panic!("{}: {other}", dialogue.name),
        };
        dialogue.lines.push(parsed);
    }
    dialogue
}

fn set(dialogue: &mut Dialogue, words: &str) {
    let (name, value) = words.split_once(' ').unwrap();
    if name == "mechanisms" {
        let names = value.split(' ');
        dialogue.profile.mechanisms = names
            .map(|name| Mechanism::from_name(name).unwrap())
            .collect();
        return;
    }
    if name == "over_limit" {
        let mut words = OverLimit::WORDS.into_iter();
        let (_, over_limit) = words.find(|(word, _)| *word == value).unwrap();
        dialogue.limits.over_limit.0 = over_limit;
        dialogue.profile.over_limit = over_limit;
        return;
    }
    if name == "scope" {
        dialogue.profile.token_hint.scope = Some(value.to_owned());
        return;
    }
    let number: u64 = value.parse().unwrap();
    let profile = &mut dialogue.profile;
    let at_most = number.try_into().map_or(Limit::Unlimited, Limit::AtMost);
    match name {
        "messages_per_hour" => {
            dialogue.limits.messages_per_hour.0 = at_most;
            profile.messages_per_hour = at_most;
        }
        "recipients_per_day" => {
            dialogue.limits.recipients_per_day.0 = at_most;
            profile.recipients_per_day = at_most;
        }
        "held_messages" => dialogue.limits.held_messages.0 = number,
        "deliver_by_min" => profile.deliver_by_min = Some(Duration::from_secs(number)),
        "future_release_max" => profile.future_release_max = Duration::from_secs(number),
        "messages_max" => profile.messages_max = number as u32,
        "priority_max" => profile.priority_max = number as i8,
        "data_timeout" => profile.data_timeout = Duration::from_secs(number),
        "errors_max" => profile.errors_max = number as u32,
        "failed_logins_max" => profile.failed_logins_max = number as u32,
        "header_bytes_max" => profile.header_bytes_max = number,
        "message_bytes_max" => profile.message_bytes_max = number,
        "received_fields_max" => profile.received_fields_max = number as usize,
        "recipients_max" => profile.recipients_max = number as usize,
        other => panic!("set {other}"),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let escaped = match byte {
            b'\\' => match rest.next().unwrap() {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => other,
            },
            other => other,
        };
        bytes.push(escaped);
    }
    bytes
}

/// `<id>` stands for a message id, `<*>` for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let (literal, wild) = match (pattern.find("<id>"), pattern.find("<*>")) {
        (None, None) => return pattern == text,
        (Some(id), any) if any.is_none_or(|any| id < any) => (id, "<id>"),
        (_, any) => (any.unwrap(), "<*>"),
    };
    let (head, tail) = (&pattern[..literal], &pattern[literal + wild.len()..]);
    let Some(rest) = text.strip_prefix(head) else {
        return false;
    };
    match wild {
        "<id>" => {
            rest.get(..26)
                .is_some_and(|id| id.parse::<MessageId>().is_ok())
                && matches(tail, &rest[26..])
        }
        _ => (0..=rest.len())
            .filter(|&cut| rest.is_char_boundary(cut))
            .any(|cut| matches(tail, &rest[cut..])),
    }
}

/// An event as a dialogue names it.
fn event_words(event: &Event) -> String {
    match event {
        Event::AuthAccepted { .. } => "auth.accepted".to_owned(),
        Event::AuthRefused { reason, .. } => format!("auth.refused {reason}"),
        Event::CommandRefused { reply } => format!("command.refused {reply}"),
        Event::MailRefused { reason, .. } => format!("mail.refused {reason}"),
        Event::MessageAbandoned { .. } => "message.abandoned".to_owned(),
        Event::MessageAccepted { .. } => "message.accepted".to_owned(),
        Event::MessageHeld { hold, reason, .. } => {
            format!("message.held {} {reason}", hold.as_str())
        }
        Event::MessageRepeated { .. } => "message.repeated".to_owned(),
        Event::MessageRefused { reason, .. } => format!("message.refused {reason}"),
        Event::RcptRefused { reason, .. } => format!("rcpt.refused {reason}"),
    }
}

/// Cuts what the client sends into pieces.
type Cut<'a> = &'a mut dyn FnMut(&[u8]) -> Vec<Vec<u8>>;

/// A session with the world around it, all in memory.
struct Memory {
    session: Session,
    /// What a handshake comes to.
    facts: TlsFacts,
    accounts: FixedAccounts,
    policy: Policy,
    now: Now,
    draft: Option<Vec<u8>>,
    fault: Option<Fault>,
    stored: Vec<Vec<u8>>,
    /// Of the last draft.
    envelope: serde_json::Value,
    events: VecDeque<String>,
    output: Vec<u8>,
    closed: bool,
    ids: u128,
}

fn facts(dialogue: &Dialogue, accounts: &FixedAccounts) -> TlsFacts {
    let certificate = dialogue.certificate.as_ref().map(|addresses| Certificate {
        fingerprint: Fingerprint::of(b"the certificate of the dialogues"),
        addresses: addresses.clone(),
        not_before: "2026-01-01T00:00:00Z".parse().unwrap(),
        not_after: "2026-12-31T23:59:59Z".parse().unwrap(),
    });
    TlsFacts {
        version: "TLSv1.3".to_owned(),
        cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
        bindings: ChannelBindings {
            exporter: Some(*b"what both ends of a channel know"),
            server_end_point: None,
        },
        certificate_known: certificate
            .as_ref()
            .is_some_and(|certificate| !accounts.logins(certificate).is_empty()),
        certificate: certificate.map(Arc::new),
    }
}

impl Memory {
    fn new(dialogue: &Dialogue) -> Self {
        let now = Now {
            wall: "2026-11-21T09:30:00Z".parse().unwrap(),
            ..Now::read()
        };
        let accounts = FixedAccounts::new();
        let facts = facts(dialogue, &accounts);
        let link = Link {
            client: "203.0.113.7:50123".parse().unwrap(),
            tls: dialogue.under_tls.then(|| facts.clone()),
        };
        Self {
            session: Session::new(Arc::new(dialogue.profile.clone()), link, now),
            facts,
            accounts,
            policy: Policy::new(dialogue.limits.clone(), Arc::new(Limiter::default())),
            now,
            draft: None,
            fault: None,
            stored: Vec::new(),
            envelope: serde_json::Value::Null,
            events: VecDeque::new(),
            output: Vec::new(),
            closed: false,
            ids: 1000,
        }
    }

    /// Whether this is to go wrong now.
    fn fails(fault: &mut Option<Fault>, now: Fault) -> bool {
        fault.take_if(|fault| *fault == now).is_some()
    }

    /// Carries out steps until the session waits or closes.
    fn pump(&mut self) {
        loop {
            match self.session.next_step() {
                Step::Abort => self.draft = None,
                Step::Append(ask) if Self::fails(&mut self.fault, Fault::Append) => {
                    ask.answer(Err(Refusal::new(Reply::storage_failed(), "disk error")));
                }
                Step::Append(ask) => {
                    self.draft.as_mut().unwrap().extend_from_slice(ask.bytes());
                    ask.answer(Ok(()));
                }
                Step::Begin(ask) if Self::fails(&mut self.fault, Fault::Begin) => {
                    ask.answer(Err(Refusal::new(Reply::storage_full(), "disk full")));
                }
                Step::Begin(ask) => {
                    self.ids += 1;
                    let id = MessageId::from_bits(self.ids);
                    let envelope = ask.envelope(id.clone());
                    assert!(!envelope.recipients.is_empty());
                    self.envelope = serde_json::to_value(&envelope).unwrap();
                    assert!(
                        self.draft.replace(Vec::new()).is_none(),
                        "one draft at a time"
                    );
                    ask.answer(Ok(id));
                }
                Step::Check(ask) if Self::fails(&mut self.fault, Fault::Banned) => {
                    ask.turn_away("this address is banned");
                }
                Step::Check(ask) => {
                    let answer = self.accounts.answer(ask.claim());
                    ask.answer(answer);
                }
                Step::LookUp(ask) if Self::fails(&mut self.fault, Fault::Banned) => {
                    ask.turn_away("this account is banned from this address");
                }
                Step::LookUp(ask) => {
                    let offer = self.accounts.offer(ask.name());
                    ask.answer(offer);
                }
                Step::Close => {
                    self.closed = true;
                    return;
                }
                Step::Commit(ask) if Self::fails(&mut self.fault, Fault::Commit) => {
                    self.draft = None;
                    let (account, recipients) = (ask.account(), ask.recipients());
                    match ask.is_postponed() {
                        true => self.policy.withdraw(account, recipients, self.now),
                        false => self.policy.refund(account, recipients, self.now),
                    }
                    ask.answer(Err(Refusal::new(Reply::storage_failed(), "disk error")));
                }
                Step::Commit(ask) => {
                    let message = self.draft.take().unwrap();
                    let id = MessageId::from_bits(self.ids);
                    if ask.is_postponed() {
                        self.policy.settle(ask.account(), &id, ask.recipients());
                    }
                    let receipt = Receipt::new(id, message.len() as u64);
                    self.stored.push(message);
                    ask.answer(Ok(receipt));
                }
                Step::Decide(ask) if Self::fails(&mut self.fault, Fault::Withdrawn) => {
                    let refusal = Refusal::new(Reply::account_withdrawn(), "account removed");
                    ask.answer(Verdict::Refuse(refusal));
                }
                Step::Decide(ask) => {
                    let verdict = self.policy.decide(ask.account(), ask.question(), self.now);
                    ask.answer(verdict);
                }
                Step::Report(event) => self.events.push_back(event_words(&event)),
                Step::Send(reply) => reply.write_to(&mut self.output),
                Step::StartTls(ask) => ask.answer(self.facts.clone()),
                Step::Wait { .. } => return,
            }
        }
    }

    fn next_line(&mut self) -> Option<String> {
        let end = self
            .output
            .windows(2)
            .position(|window| window == b"\r\n")?;
        let line = String::from_utf8(self.output[..end].to_vec()).unwrap();
        self.output.drain(..end + 2);
        Some(line)
    }
}

fn in_memory(dialogue: &Dialogue, cut: Cut<'_>) {
    let mut memory = Memory::new(dialogue);
    let mut stored_lines = VecDeque::new();
    let mut batch = Vec::new();
    let name = &dialogue.name;
    for line in &dialogue.lines {
        if let Line::Client(bytes) = line {
            batch.extend_from_slice(bytes);
            continue;
        }
        memory.pump();
        if !batch.is_empty() {
            for piece in cut(&std::mem::take(&mut batch)) {
                memory.session.receive(&piece, memory.now);
                memory.pump();
            }
        }
        match line {
            Line::Client(_) => unreachable!(),
            Line::Closed => assert!(memory.closed, "{name}: it should have closed"),
            Line::Fault(fault) => memory.fault = Some(*fault),
            Line::Event(expected) => {
                while let Some(event) = memory.events.pop_front() {
                    if matches(expected, &event) {
                        break;
                    }
                    assert!(
                        !memory.events.is_empty(),
                        "{name}: no event {expected}, last was {event}"
                    );
                }
            }
            Line::Envelope(pointer, expected) => assert_eq!(
                memory.envelope.pointer(pointer),
                expected.as_ref(),
                "{name}: {pointer} of the envelope"
            ),
            Line::Gone => {
                memory.session.disconnected();
                memory.pump();
            }
            Line::Message(expected) => {
                if stored_lines.is_empty() {
                    assert!(!memory.stored.is_empty(), "{name}: a message was stored");
                    stored_lines = lines_of(&memory.stored.remove(0));
                }
                let found = stored_lines.pop_front().unwrap();
                assert!(
                    matches(expected, &found),
                    "{name}: stored {found:?}, expected {expected:?}"
                );
            }
            Line::Pass(duration) => {
                memory.now = memory.now.after(*duration);
                memory.session.tick(memory.now);
                memory.pump();
            }
            Line::Rest => {
                while memory
                    .next_line()
                    .unwrap_or_else(|| panic!("{name}: the reply does not end"))
                    .as_bytes()[3]
                    == b'-'
                {}
            }
            Line::Server(expected) => {
                let found = memory
                    .next_line()
                    .unwrap_or_else(|| panic!("{name}: no reply, expected {expected:?}"));
                assert!(
                    matches(expected, &found),
                    "{name}: got {found:?}, expected {expected:?}"
                );
            }
            Line::Shutdown => {
                memory.session.begin_shutdown();
                memory.pump();
            }
        }
    }
    assert_eq!(memory.fault, None, "{name}: a fault that never came");
    assert!(batch.is_empty(), "{name}: ends with an answer");
    assert!(
        stored_lines.is_empty(),
        "{name}: stored more: {stored_lines:?}"
    );
    assert_eq!(
        String::from_utf8_lossy(&memory.output),
        "",
        "{name}: said more"
    );
    assert!(
        !memory.closed || memory.draft.is_none(),
        "{name}: a closed session leaves no draft"
    );
}

/// The lines of a stored message. What a line of text cannot hold is written as \xNN, and so is what is no UTF-8; a
/// last line without its end has <no end> behind it.
fn lines_of(message: &[u8]) -> VecDeque<String> {
    let mut text = String::new();
    for chunk in message.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    let mut lines: VecDeque<String> = text
        .split("\r\n")
        .map(|line| {
            line.chars()
                .map(|c| match c {
                    '\0' | '\r' | '\n' => format!("\\x{:02x}", u32::from(c)),
                    other => other.to_string(),
                })
                .collect()
        })
        .collect();
    match lines.pop_back() {
        Some(last) if !last.is_empty() => lines.push_back(last + "<no end>"),
        _ => {}
    }
    lines
}

#[test]
fn in_memory_as_written() {
    for dialogue in dialogues() {
        in_memory(&dialogue, &mut |bytes| vec![bytes.to_vec()]);
    }
}

#[test]
fn in_memory_octet_by_octet() {
    for dialogue in dialogues().iter().filter(|dialogue| dialogue.in_pieces) {
        in_memory(dialogue, &mut |bytes| {
            bytes.iter().map(|byte| vec![*byte]).collect()
        });
    }
}

#[test]
fn in_memory_cut_at_random() {
    // A generator of its own (SplitMix64), so that a seed means the same everywhere.
    for seed in 0..20_u64 {
        let mut state = seed;
        let mut random = move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        println!("seed {seed}");
        for dialogue in dialogues().iter().filter(|dialogue| dialogue.in_pieces) {
            in_memory(dialogue, &mut |bytes| {
                let (mut pieces, mut rest) = (Vec::new(), bytes);
                while !rest.is_empty() {
                    let (piece, tail) =
                        rest.split_at((random() % 40 + 1).min(rest.len() as u64) as usize);
                    pieces.push(piece.to_vec());
                    rest = tail;
                }
                pieces
            });
        }
    }
}

/// No answer of the server may take longer; it bounds a failing test, nothing else.
const PATIENCE: Duration = Duration::from_secs(20);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn under_tls(stream: TcpStream, server: &Server) -> Box<dyn Stream> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_slice(&server.certificate).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    Box::new(connector.connect(name, stream).await.unwrap())
}

/// The server's next line, under TLS or before.
async fn hear(
    stream: &mut Option<BufReader<Box<dyn Stream>>>,
    plain: &mut Option<BufReader<TcpStream>>,
    name: &str,
) -> String {
    let mut line = String::new();
    let read = match (stream, plain) {
        (Some(stream), _) => tokio::time::timeout(PATIENCE, stream.read_line(&mut line)).await,
        (None, Some(plain)) => tokio::time::timeout(PATIENCE, plain.read_line(&mut line)).await,
        (None, None) => unreachable!(),
    };
    read.unwrap_or_else(|_| panic!("{name}: no answer in time"))
        .unwrap();
    line
}

async fn over_sockets(dialogue: &Dialogue) {
    let server = Server::start(dialogue.profile.clone(), ServerLimits::default());
    let name = &dialogue.name;
    let address = if dialogue.under_tls {
        server.implicit
    } else {
        server.starttls
    };
    let tcp = TcpStream::connect(address).await.unwrap();
    // Kept beside the stream, to begin TLS on.
    let (mut stream, mut plain) = if dialogue.under_tls {
        (Some(BufReader::new(under_tls(tcp, &server).await)), None)
    } else {
        (None, Some(BufReader::new(tcp)))
    };
    let mut batch = Vec::new();
    let mut stored_lines = VecDeque::new();
    let mut messages_seen = 0;
    for line in &dialogue.lines {
        if let Line::Client(bytes) = line {
            batch.extend_from_slice(bytes);
            continue;
        }
        if !batch.is_empty() {
            let bytes = std::mem::take(&mut batch);
            match (&mut stream, &mut plain) {
                (Some(stream), _) => {
                    // The server may have closed already, with more to say than it wants to hear.
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.flush().await;
                }
                (None, Some(plain)) => plain.write_all(&bytes).await.unwrap(),
                (None, None) => unreachable!(),
            }
        }
        match line {
            Line::Closed => {
                let mut rest = Vec::new();
                let end = match (&mut stream, &mut plain) {
                    (Some(stream), _) => {
                        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await
                    }
                    (None, Some(plain)) => {
                        tokio::time::timeout(PATIENCE, plain.read_to_end(&mut rest)).await
                    }
                    (None, None) => unreachable!(),
                };
                end.unwrap_or_else(|_| panic!("{name}: it should have closed"))
                    .unwrap();
                assert_eq!(rest, b"", "{name}");
            }
            Line::Message(expected) => {
                if stored_lines.is_empty() {
                    stored_lines = lines_of(&server.stored()[messages_seen]);
                    messages_seen += 1;
                }
                let found = stored_lines.pop_front().unwrap();
                assert!(
                    matches(expected, &found),
                    "{name}: stored {found:?}, expected {expected:?}"
                );
            }
            Line::Rest => while hear(&mut stream, &mut plain, name).await.as_bytes()[3] == b'-' {},
            Line::Server(expected) => {
                let found = hear(&mut stream, &mut plain, name).await;
                let found = found
                    .strip_suffix("\r\n")
                    .unwrap_or_else(|| panic!("{name}: {found:?}"))
                    .to_owned();
                assert!(
                    matches(expected, &found),
                    "{name}: got {found:?}, expected {expected:?}"
                );
                if found.starts_with("220 2.0.0") {
                    let tcp = plain.take().unwrap().into_inner();
                    stream = Some(BufReader::new(under_tls(tcp, &server).await));
                }
            }
            Line::Client(_)
            | Line::Envelope(..)
            | Line::Event(_)
            | Line::Fault(_)
            | Line::Gone
            | Line::Pass(_)
            | Line::Shutdown => {}
        }
    }
    drop((stream, plain));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_sockets() {
    for dialogue in dialogues().iter().filter(|dialogue| dialogue.over_sockets) {
        over_sockets(dialogue).await;
    }
}
