//! The world around the session: carries a plan out, with the faults that are in it.

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
use gatepost::message::token::TraceKey;
use gatepost::sasl::Mechanism;
use gatepost::sasl::scram::{Keys, Offer, Verifier};
use gatepost::session::{Link, Profile, Session, Step, TlsFacts};
use gatepost::smtp::extension::{Extension, command_line_bytes_max};
use gatepost::smtp::reply::Reply;

use super::super::session::{BEGINNING, tls_facts};
use super::super::{CERTIFICATE, pieces};
use super::client::{ACCOUNTS, Act, EXPORTER, Fate, Plan, SALT, SERVER_NONCE, TOKEN};
use super::reading::{Answer, Reading, Said};

/// Octets that a message may have.
const MESSAGE_BYTES_MAX: u64 = 2000;
/// Octets of what we write in front of a message, and of the ends of lines that we give it, at most.
const ADDED_BYTES_MAX: usize = 1000;
const RECIPIENTS_MAX: u64 = 3;

/// What came of a plan.
pub(super) struct Transcript {
    pub(super) said: Vec<Said>,
    /// The messages that were queued, in their order.
    pub(super) stored: Vec<Vec<u8>>,
}

/// A plan that is carried out.
pub(super) struct Run<'a> {
    plan: &'a Plan,
    /// Of the pieces; none, and everything that is said at once comes at once.
    lengths: &'a [u8],
    session: Session,
    now: Now,
    world: World<'a>,
    closed: bool,
    gone: bool,
    /// What the client has said already when the handshake begins.
    too_early: &'a [u8],
    /// The longest piece so far.
    piece_bytes_max: usize,
    /// What could be held when it waited last.
    held_bytes_max: usize,
}

/// What the session asks.
struct World<'a> {
    plan: &'a Plan,
    reading: Reading,
    /// Asks are dropped once before they are answered.
    drops: bool,
    dropped: bool,
    /// How many replies there were: by that questions are told from each other.
    replies: usize,
    answers: Vec<Answer>,
    facts: TlsFacts,
    under_tls: bool,
    /// Whose claims were right, last.
    admitted: Option<&'static str>,
    draft: Option<Draft>,
    begun: u128,
    recipients: u64,
    stored: Vec<Vec<u8>>,
    ids: Vec<MessageId>,
    accepted: usize,
}

struct Draft {
    id: MessageId,
    octets: Vec<u8>,
    /// How many fit onto the disk.
    room: usize,
    failed: bool,
    authors_allowed: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(plan: &'a Plan, lengths: &'a [u8], drops: bool) -> Self {
        let shape = plan.shape;
        let extensions = Extension::ALL.into_iter();
        let few = [Mechanism::Plain, Mechanism::Login];
        let profile = Arc::new(Profile {
            hostname: "mail.example.org".to_owned(),
            mechanisms: if shape & 64 == 0 {
                Mechanism::ALL.to_vec()
            } else {
                few.to_vec()
            },
            extensions: extensions
                .filter(|extension| shape & 16 == 0 || *extension != Extension::Chunking)
                .collect(),
            message_bytes_max: MESSAGE_BYTES_MAX,
            header_bytes_max: 600,
            received_fields_max: 2,
            recipients_max: RECIPIENTS_MAX as usize,
            messages_max: 5,
            errors_max: if shape & 32 == 0 { 9 } else { 1 },
            failed_logins_max: 2,
            idle_timeout: Duration::from_secs(300),
            login_timeout: Duration::from_secs(600),
            data_timeout: Duration::from_secs(900),
            reveal_client: shape & 4 != 0,
            trace_key: (shape & 8 != 0).then(|| Arc::new(TraceKey::new(&[7; 32]))),
            ..Profile::default()
        });
        let mut facts = tls_facts();
        facts.bindings.exporter = Some(EXPORTER);
        if shape & 2 != 0 {
            facts.certificate = Some(Arc::clone(&CERTIFICATE));
            facts.certificate_known = true;
        }
        let under_tls = shape & 1 == 0;
        let link = Link {
            client: "203.0.113.7:50123".parse().expect("an address"),
            tls: under_tls.then(|| facts.clone()),
        };
        let now = *BEGINNING;
        let line_bytes_max = command_line_bytes_max(&profile.extensions);
        let session = match shape & 128 {
            0 => Session::new(profile, link, now),
            _ => Session::turn_away(profile, link, Reply::too_many_connections(), now),
        };
        Self {
            plan,
            lengths,
            session,
            now,
            world: World {
                plan,
                reading: Reading::new(under_tls, line_bytes_max),
                drops,
                dropped: false,
                replies: 0,
                answers: Vec::new(),
                facts,
                under_tls,
                admitted: None,
                draft: None,
                begun: 0,
                recipients: 0,
                stored: Vec::new(),
                ids: Vec::new(),
                accepted: 0,
            },
            closed: false,
            gone: false,
            too_early: &[],
            piece_bytes_max: 0,
            held_bytes_max: 0,
        }
    }

    /// Carries it out to its end.
    pub(super) fn play(mut self) -> Transcript {
        self.pump();
        let plan = self.plan;
        for act in &plan.acts {
            if self.closed {
                break;
            }
            match act {
                Act::Leave => self.leave(),
                Act::Pass(time) => {
                    self.now = self.now.after(*time);
                    self.session.tick(self.now);
                }
                Act::Say(octets) => self.say(octets),
                Act::Shutdown => self.session.begin_shutdown(),
                Act::Stop => self.session.stop_now(),
                Act::Withdraw => self.session.withdraw("contained"),
            }
            self.pump();
        }
        if !self.closed {
            self.leave();
            self.pump();
        }
        assert!(self.closed);
        let World {
            reading,
            draft,
            stored,
            ids,
            accepted,
            ..
        } = self.world;
        assert!(draft.is_none(), "a closed session leaves no draft");
        assert_eq!(self.session.messages(), ids.len() as u64);
        assert_eq!(accepted, ids.len());
        self.session.receive(b"NOOP\r\n", self.now);
        self.session.stop_now();
        assert!(matches!(self.session.next_step(), Step::Close));
        Transcript {
            said: reading.said,
            stored,
        }
    }

    fn leave(&mut self) {
        self.gone = true;
        self.session.disconnected();
    }

    fn say(&mut self, octets: &'a [u8]) {
        let pieces = match self.lengths {
            [] => vec![octets],
            lengths => pieces(octets, lengths),
        };
        let mut said = 0;
        for piece in pieces {
            said += piece.len();
            self.piece_bytes_max = self.piece_bytes_max.max(piece.len());
            self.world.reading.says(piece);
            self.too_early = &octets[said..];
            self.session.receive(piece, self.now);
            let in_plaintext = !self.world.under_tls;
            self.pump();
            // What the client had said before the handshake is no part of what it says under TLS.
            if self.closed || self.world.under_tls == in_plaintext {
                break;
            }
        }
        self.too_early = &[];
    }

    /// Carries out steps until the session waits or closes.
    fn pump(&mut self) {
        // Each turn uses up an octet, a reply or a state.
        for _ in 0..10_000 {
            // Between two waits comes what it was given, and what we add to it.
            let held = self.session.held_bytes();
            let held_max = self.held_bytes_max + self.piece_bytes_max + ADDED_BYTES_MAX;
            assert!(held <= held_max, "{held} octets held");
            let (session, world) = (&mut self.session, &mut self.world);
            let step = session.next_step();
            if world.drops && is_ask(&step) {
                world.dropped = !world.dropped;
                if world.dropped {
                    continue;
                }
            }
            if let Some(asked) = asked(&step) {
                drop(step);
                // Whether the authors are asked about depends on what else is found first: nothing but the message may
                // depend on the answer.
                match self.plan.fate(world.replies, asked as usize) {
                    Fate::Leave => self.leave(),
                    Fate::Stop => session.stop_now(),
                    Fate::Withdraw => session.withdraw("contained"),
                    fate => {
                        if fate == Fate::Shutdown && asked != Asked::Author {
                            session.begin_shutdown();
                        }
                        if asked == Asked::StartTls {
                            session.receive(std::mem::take(&mut self.too_early), self.now);
                        }
                        world.answer(session.next_step(), fate);
                    }
                }
                continue;
            }
            match step {
                Step::Wait { until } => {
                    assert!(
                        until > self.now.instant,
                        "time is up, and nothing came of it"
                    );
                    let (held, held_max) = (session.held_bytes(), session.held_bytes_max());
                    self.held_bytes_max = held_max;
                    assert!(held <= held_max, "{held} octets held while waiting");
                    world.reading.settle(self.gone);
                    return assert!(!world.reading.over, "it waits behind its last word");
                }
                Step::Close => {
                    self.closed = true;
                    world.reading.settle(true);
                    return assert!(world.reading.over || self.gone, "closed without a word");
                }
                Step::Send(reply) => world.hear(reply),
                Step::Report(event) => world.note(&event),
                Step::Abort => assert!(world.draft.take().is_some(), "there is a draft to drop"),
                Step::Append(ask) => {
                    let draft = world.draft.as_mut().expect("there is a draft");
                    assert!(!draft.failed && draft.authors_allowed);
                    draft.octets.extend_from_slice(ask.bytes());
                    draft.failed = draft.octets.len() > draft.room;
                    ask.answer(match draft.failed {
                        true => Err(Refusal::new(Reply::storage_failed(), "disk")),
                        false => Ok(()),
                    });
                }
                step => unreachable!("{step:?} is asked above"),
            }
        }
        panic!("the session never waits");
    }
}

/// What can be asked, and be answered in more than one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Author,
    Begin,
    Check,
    Commit,
    LookUp,
    Message,
    Recipient,
    Sender,
    StartTls,
}

fn asked(step: &Step<'_>) -> Option<Asked> {
    Some(match step {
        Step::Begin(_) => Asked::Begin,
        Step::Check(_) => Asked::Check,
        Step::Commit(_) => Asked::Commit,
        Step::Decide(ask) => match ask.question() {
            Question::Author { .. } => Asked::Author,
            Question::Message { .. } => Asked::Message,
            Question::Recipient { .. } => Asked::Recipient,
            Question::Sender { .. } => Asked::Sender,
        },
        Step::LookUp(_) => Asked::LookUp,
        Step::StartTls(_) => Asked::StartTls,
        _ => return None,
    })
}

fn is_ask(step: &Step<'_>) -> bool {
    asked(step).is_some() || matches!(step, Step::Append(_))
}

impl World<'_> {
    fn hear(&mut self, reply: Reply) {
        self.replies += 1;
        self.reading.hears(reply, std::mem::take(&mut self.answers));
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::AuthAccepted { account, .. } => {
                assert_eq!(self.admitted, Some(&**account), "who was admitted");
            }
            Event::MessageAccepted { id, .. } => {
                self.accepted += 1;
                assert_eq!(self.ids.get(self.accepted - 1), Some(id));
            }
            _ => {}
        }
    }

    fn answer(&mut self, step: Step<'_>, fate: Fate) {
        let refusal = match fate {
            Fate::Refuse => Reply::sender_not_owned("a", "b"),
            Fate::TurnAway => Reply::account_withdrawn(),
            Fate::Fault => Reply::storage_failed(),
            _ => Reply::account_limit("x", 1, "at noon"),
        };
        let refusal = Refusal::new(refusal, "refused");
        let allow = matches!(fate, Fate::Allow | Fate::AllowRepeated | Fate::Shutdown);
        let answer = match step {
            Step::Begin(ask) => {
                assert!(self.draft.is_none(), "one draft at a time");
                self.begun += 1;
                let id = MessageId::from_bits(self.begun * 1000);
                let envelope = ask.envelope(id.clone());
                assert!(self.is_logged_in_as(&envelope.account));
                assert_eq!(envelope.recipients.len() as u64, self.recipients);
                self.draft = allow.then(|| Draft {
                    id: id.clone(),
                    octets: Vec::new(),
                    room: self.plan.disk(self.replies),
                    failed: false,
                    authors_allowed: false,
                });
                ask.answer(if allow { Ok(id) } else { Err(refusal) });
                Answer::Began(allow)
            }
            Step::Check(ask) => {
                assert!(self.under_tls);
                let account = right_claim(ask.claim());
                self.admitted = account.filter(|_| allow);
                match (fate, account) {
                    (Fate::TurnAway, _) => ask.turn_away("banned"),
                    (Fate::Fault | Fate::RefuseForNow, _) => {
                        ask.answer(Err(Unavailable("overloaded".to_owned())));
                    }
                    (_, Some(name)) if allow => {
                        ask.answer(Ok(Authentication::Accept(account_of(name))));
                    }
                    _ => ask.answer(Ok(Authentication::Refuse {
                        reason: RefusedLogin::WrongPassword,
                        name: None,
                        credential: None,
                        issuer: None,
                    })),
                }
                self.admitted.map_or(Answer::NotAdmitted, Answer::Admitted)
            }
            Step::Commit(ask) => {
                let draft = self.draft.take().expect("there is a draft to commit");
                assert!(!draft.failed && draft.authors_allowed);
                assert!(self.answers.contains(&Answer::Message(true)));
                assert_eq!(ask.recipients(), self.recipients);
                assert!(self.is_logged_in_as(&ask.account().name));
                if !allow {
                    ask.answer(Err(refusal));
                    self.answers.push(Answer::Committed(None));
                    return;
                }
                let mut receipt = Receipt::new(draft.id, draft.octets.len() as u64);
                receipt.repeated = fate == Fate::AllowRepeated;
                let id = receipt.id.clone();
                if !receipt.repeated {
                    self.ids.push(id.clone());
                    self.stored.push(draft.octets.clone());
                }
                let stored = if receipt.repeated {
                    Vec::new()
                } else {
                    draft.octets
                };
                ask.answer(Ok(receipt));
                Answer::Committed(Some((id.as_str().to_owned(), stored)))
            }
            Step::Decide(ask) => {
                assert!(self.is_logged_in_as(&ask.account().name));
                let answer = match ask.question() {
                    Question::Author { .. } => {
                        let draft = self.draft.as_mut().expect("there is a draft");
                        draft.authors_allowed = allow;
                        Answer::Author(allow)
                    }
                    Question::Message { recipients } => {
                        assert_eq!(recipients, self.recipients);
                        Answer::Message(allow)
                    }
                    Question::Recipient { accepted, .. } => {
                        assert!(accepted == self.recipients && accepted < RECIPIENTS_MAX);
                        self.recipients += u64::from(allow);
                        Answer::Recipient(allow)
                    }
                    Question::Sender { .. } => {
                        self.recipients = 0;
                        Answer::Sender(allow)
                    }
                };
                ask.answer(match allow {
                    true => Verdict::Allow(Rule {
                        name: "any",
                        origin: None,
                    }),
                    false => Verdict::Refuse(refusal),
                });
                answer
            }
            Step::LookUp(ask) => {
                assert!(self.under_tls);
                let offer = Offer {
                    verifier: verifier_of(ask.name()),
                    nonce: SERVER_NONCE.to_owned(),
                };
                match fate {
                    Fate::TurnAway => ask.turn_away("banned"),
                    _ if allow => ask.answer(Ok(offer)),
                    _ => ask.answer(Err(Unavailable("overloaded".to_owned()))),
                }
                Answer::LookedUp(allow)
            }
            Step::StartTls(ask) => {
                assert!(!self.under_tls);
                self.under_tls = true;
                self.admitted = None;
                return ask.answer(self.facts.clone());
            }
            step => panic!("a dropped ask is offered again, not {step:?}"),
        };
        self.answers.push(answer);
    }

    fn is_logged_in_as(&self, name: &str) -> bool {
        self.under_tls && self.admitted == Some(name)
    }
}

/// Whose claim it is, if it is right.
fn right_claim(claim: &Claim) -> Option<&'static str> {
    let (acting_for, name) = match claim {
        Claim::Certificate {
            authorization_identity,
            ..
        } => (authorization_identity, Some(ACCOUNTS[0].0)),
        Claim::Password {
            authorization_identity,
            authentication_identity,
            password,
        } => {
            let account = ACCOUNTS.iter().find(|(name, right)| {
                name == authentication_identity && right.as_bytes() == password.expose()
            });
            (authorization_identity, account.map(|(name, _)| *name))
        }
        Claim::Scram {
            authorization_identity,
            authentication_identity,
            proof,
        } => {
            let account = ACCOUNTS
                .iter()
                .find(|(name, _)| name == authentication_identity && proof.matched.is_some());
            (authorization_identity, account.map(|(name, _)| *name))
        }
        Claim::Token {
            authorization_identity,
            token,
        } => {
            let is_right = token.expose() == TOKEN.as_bytes();
            (authorization_identity, is_right.then_some(ACCOUNTS[0].0))
        }
    };
    name.filter(|name| acting_for.is_empty() || acting_for == name)
}

fn account_of(name: &str) -> Arc<Account> {
    let origin = Origin {
        file: Path::new("accounts.toml").into(),
        line: 1,
    };
    Arc::new(Account {
        name: name.to_owned(),
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
}

/// The keys of the accounts, and of those that there are not.
static VERIFIERS: LazyLock<[Arc<Verifier>; 3]> = LazyLock::new(|| {
    let once = NonZeroU32::new(1).expect("it is not zero");
    let [alice, bob] = ACCOUNTS.map(|(_, password)| {
        let keys = Keys::derive(password.as_bytes(), SALT, once);
        Arc::new(Verifier::new(&[keys]).expect("there are keys"))
    });
    [alice, bob, Arc::new(Verifier::nobodys(SALT.to_vec(), once))]
});

fn verifier_of(name: &str) -> Arc<Verifier> {
    let index = ACCOUNTS.iter().position(|(known, _)| *known == name);
    Arc::clone(&VERIFIERS[index.unwrap_or(ACCOUNTS.len())])
}
