//! The session under a random client and a random world.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use gatepost::clock::Now;
use gatepost::decision::{
    Account, Authentication, Claim, Origin, Question, Refusal, RefusedLogin, Rule, SenderPattern,
    Unavailable, Verdict,
};
use gatepost::envelope::{MessageId, Receipt};
use gatepost::event::Event;
use gatepost::sasl::scram::{Offer, Verifier};
use gatepost::sasl::{ChannelBindings, Mechanism};
use gatepost::session::{Link, Profile, Session, Step, TlsFacts};
use gatepost::smtp::reply::Reply;

use super::{Script, TIME, check_reply_lines, pieces};

/// The input: the profile and the link, then what the client and the world do, act by act (see [`World::act`]).
///
/// Whatever they do: nothing is begun without a login, a MAIL and an RCPT that were allowed; nothing is committed
/// without a verdict on its authors and on the whole of it; only a commit leads to `queued as`, and each to one;
/// every command line has exactly one reply, a BDAT behind its octets; a closed session stays closed and leaves no draft behind.
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
        ..Profile::default()
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
        admitted: false,
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
        in_auth: false,
        said_421: false,
        gone: false,
    };
    world.run();
}

pub(super) static BEGINNING: LazyLock<Now> = LazyLock::new(|| Now {
    wall: *TIME,
    ..Now::read()
});

pub(super) fn tls_facts() -> TlsFacts {
    TlsFacts {
        version: "TLSv1.3".to_owned(),
        cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
        bindings: ChannelBindings {
            exporter: Some([7; 32]),
            server_end_point: None,
        },
        ..TlsFacts::default()
    }
}

static NOBODY: LazyLock<Arc<Verifier>> = LazyLock::new(|| {
    let iterations = NonZeroU32::new(4096).expect("it is not zero");
    Arc::new(Verifier::nobodys(vec![0; 16], iterations))
});

pub(super) static ALICE: LazyLock<Arc<Account>> = LazyLock::new(|| {
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
        tripwires: None,
        over_limit: None,
        note: None,
        origin,
        credential: None,
        grant: None,
    })
});

/// Lines that get a client somewhere; the rest of the input is free to say anything else.
const LINES: [&[u8]; 26] = [
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
    b"AUTH XOAUTH2 dXNlcj0BYXV0aD1CZWFyZXIgdAEB",
    b"AQ==",
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
    /// A claim was accepted; the exchange may still have a last word.
    admitted: bool,
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
    /// The next line is a response of AUTH.
    in_auth: bool,
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
            230..=234 => {
                self.session.stop_now();
                self.pump()
            }
            235..=239 => {
                self.session.withdraw("contained");
                self.pump()
            }
            240..=244 => {
                self.disconnect();
                self.pump()
            }
            // A chunk, which may hold anything; its head is a header section that gets through.
            choice @ 248..=249 if pumped == Pumped::Waits && !self.in_data && !self.in_auth => {
                let size = 8 * usize::from(self.script.octet());
                let last = if choice == 249 { " LAST" } else { "" };
                let mut octets = format!("BDAT {size}{last}\r\n").into_bytes();
                let end = octets.len() + size;
                let length = usize::from(self.script.octet());
                octets.extend_from_slice(self.script.take(length));
                octets.extend_from_slice(b"From: alice@example.org\r\n\r\nQUIT\r\n");
                octets.resize(end, b'x');
                self.say(&octets, 1)
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
        // The octets of a BDAT are an act of their own.
        if line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"BDAT") {
            line[0] = b'x';
        }
        line.extend_from_slice(b"\r\n");
        let is_text = self.in_data && line != b".\r\n";
        self.say(&line, usize::from(!is_text))
    }

    /// Says something that has so many replies, in pieces.
    fn say(&mut self, octets: &[u8], replies: usize) -> Pumped {
        let before = self.replies;
        let length = self.script.octet();
        let lengths: &[u8] = if length == 0 { &[] } else { &[length] };
        let mut rest = pieces(octets, lengths).into_iter().peekable();
        while let Some(piece) = rest.next() {
            self.session.receive(piece, self.now);
            let mut pumped = self.pump();
            // The rest of a line comes when the ask is answered; behind its end, other things may come first.
            while pumped == Pumped::Dropped && rest.peek().is_some() {
                pumped = self.pump();
            }
            if pumped != Pumped::Waits {
                return pumped;
            }
        }
        let said = self.replies - before;
        assert_eq!(said, replies, "{}", octets.escape_ascii());
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
                Step::LookUp(ask) => {
                    assert!(self.under_tls && !self.authenticated);
                    if choice >= 245 {
                        ask.turn_away("banned");
                        continue;
                    }
                    ask.answer(match choice {
                        0..=219 => Ok(Offer {
                            verifier: Arc::clone(&NOBODY),
                            nonce: "server-nonce".to_owned(),
                        }),
                        _ => Err(Unavailable("overloaded".to_owned())),
                    });
                }
                Step::Check(ask) => {
                    assert!(self.under_tls && !self.authenticated);
                    // No certificate was shown.
                    assert!(!matches!(ask.claim(), Claim::Certificate { .. }));
                    self.admitted = choice < 220;
                    if choice >= 245 {
                        ask.turn_away("banned");
                        continue;
                    }
                    ask.answer(match choice {
                        0..=219 => Ok(Authentication::Accept(Arc::clone(&ALICE))),
                        220..=239 => Ok(Authentication::Refuse {
                            reason: RefusedLogin::WrongPassword,
                            name: None,
                            credential: None,
                            issuer: None,
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
                        ask.answer(Ok(Receipt::new(id, 1)));
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
        self.in_auth = reply.code() == 334;
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
            Event::AuthAccepted { .. } => {
                assert!(self.admitted && !self.authenticated);
                self.authenticated = true;
            }
            Event::MessageAccepted { id, .. } => {
                assert!(self.ids.contains(id));
                self.accepted_events += 1;
            }
            Event::MessageAbandoned { .. } => assert!(self.draft.is_some()),
            _ => {}
        }
    }
}

fn refuse(reply: Reply) -> Verdict {
    Verdict::Refuse(Refusal::new(reply, "refused"))
}
