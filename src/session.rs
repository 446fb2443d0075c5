//! The submission session: the whole dialogue as a value, without any I/O.
//!
//! Octets go in with [`Session::receive`], and [`Session::next_step`] says what is to be done: send a reply, make a
//! decision, store some octets. The caller carries each step out and asks for the next, until one says to wait. What
//! the session cannot know it asks: an *ask* borrows the session until it is answered, so no octets can come between
//! a question and its answer, and no question can be answered twice. An ask that is dropped unanswered (a cancelled
//! future) is simply offered again.
//!
//! # States
//!
//! ```text
//! state             knows                          leaves by
//! Start             -                              EHLO/HELO -> Greeted; STARTTLS -> StartingTls
//! StartingTls       -                              handshake -> Start: nothing learned before survives (RFC 3207 4.2)
//! Greeted           the client's name              AUTH -> Authenticating, only under TLS and only after EHLO
//! Authenticating    + an exchange                  response -> Checking or LookingUp; "*" or garbage -> Greeted
//! LookingUp         + a name                       found -> Authenticating
//! Checking          + a claim                      right -> Ready or Confirming; wrong -> Greeted or Failing
//!                                                  banned -> Closed, as from LookingUp
//! Failing           + which mechanism              any response -> Greeted
//! Confirming        + an account, not yet in force an empty response -> Ready; anything else -> Greeted
//! Ready             + an account                   MAIL -> JudgingSender
//! JudgingSender     + a reverse-path               allowed -> Mail; refused -> Ready
//! Mail              a transaction                  RCPT -> JudgingRecipient; DATA -> Beginning; RSET, EHLO -> Ready
//! JudgingRecipient  + a forward-path               -> Mail
//! Beginning         a transaction                  a draft exists -> Data; refused -> Mail, of BDAT -> Ready
//! Data              + an id, the message so far    header complete -> JudgingAuthors; end -> JudgingMessage;
//!                                                  a chunk that is not the last has ended -> Chunks
//! Chunks            the same                       BDAT -> Data; RSET, EHLO -> Ready
//! JudgingAuthors    + the header section           -> Data (a refused message is read to its end, then answered)
//! JudgingMessage    the whole message is appended  allowed -> Committing; refused -> Ready
//! Committing        the same                       a receipt -> 250, Ready; none -> Ready
//! Closed            -                              -
//! ```
//!
//! Only `Ready` owns an account (`Confirming` owns a `Ready` that nobody has yet) and only `Ready` becomes a transaction: mail without AUTH cannot be built.
//!
//! A BDAT that is refused changes no state before its octets are read and forgotten (`Discard`): whatever is wrong,
//! client and server agree about where the next command begins.
//!
//! # Bounds
//!
//! What a client can make the session hold: one line (see [`crate::smtp::extension`]), one header section, a chunk of
//! the body, the recipients of one message; each bound is in [`Profile`] or named where it is checked. Time is bounded
//! by [`Step::Wait`]: the caller gives [`Session::tick`] when it has come.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::clock::{Instant, Now, Timestamp};
use crate::decision::{Account, Claim, Postponement, Refusal};
use crate::envelope::{DeliverBy, MessageId};
use crate::event::Event;
use crate::message::{Authors, Fingerprinter, Header, HeaderSection};
use crate::sasl::external::Certificate;
use crate::sasl::{ChannelBindings, Exchange, Mechanism};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::extension::{MailParameters, RcptParameters};
use crate::smtp::framing::Framer;
use crate::smtp::reply::Reply;

mod ask;
mod dialogue;
mod profile;
mod transfer;

pub use ask::{AuthAsk, BeginAsk, BodyAsk, CommitAsk, LookUpAsk, PolicyAsk, TlsAsk};
pub use profile::Profile;

/// What the session knows of the connection that it is on.
#[derive(Clone, Debug)]
pub struct Link {
    /// The other end.
    pub client: SocketAddr,
    /// TLS, once it is there; from the beginning on port 465.
    pub tls: Option<TlsFacts>,
}

/// What was agreed on in the TLS handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// As `TLSv1.3`.
    pub version: String,
    /// As rustls names it.
    pub cipher: String,
    /// What a login can be bound to.
    pub bindings: ChannelBindings,
    /// The certificate that the client has shown, if it was asked for one and has.
    pub certificate: Option<Arc<Certificate>>,
    /// Whether somebody can log in with that: EXTERNAL is offered only then.
    pub certificate_known: bool,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step<'s> {
    /// The draft is no longer wanted: drop it.
    Abort,
    /// Append these octets to the draft.
    Append(BodyAsk<'s>),
    /// Begin a draft.
    Begin(BeginAsk<'s>),
    /// Is this client who it claims to be?
    Check(AuthAsk<'s>),
    /// Everything is said: flush, and close the connection.
    Close,
    /// Put the draft onto stable storage.
    Commit(CommitAsk<'s>),
    /// May it?
    Decide(PolicyAsk<'s>),
    /// Which SCRAM keys does this name have?
    LookUp(LookUpAsk<'s>),
    /// Something happened that the operator may want to know.
    Report(Event),
    /// Send a reply. Replies may be collected until the next `Wait`, `StartTls` or `Close`.
    Send(Reply),
    /// Flush, then do the TLS handshake on this connection.
    StartTls(TlsAsk<'s>),
    /// Flush, then wait for octets; when `until` has come without any, call [`Session::tick`].
    Wait {
        /// When the client's time is up.
        until: Instant,
    },
}

/// One client's dialogue with the server, from the greeting to the end.
#[derive(Debug)]
pub struct Session {
    profile: Arc<Profile>,
    link: Link,
    state: State,
    framer: Framer,
    events: VecDeque<Event>,
    replies: VecDeque<Reply>,
    /// Octets of the message, as they are to be stored, that the draft does not have yet.
    unstored: Vec<u8>,
    /// The draft is no longer wanted.
    abort_due: bool,
    /// A refused BDAT whose octets are still coming.
    discarding: Option<Box<Discard>>,
    /// A BDAT that was not the last of its message was refused. Those that the client had sent by then belong to the
    /// same failure and are no further errors (RFC 3030 section 2), until LAST, RSET, EHLO or MAIL.
    chunks_failed: bool,
    shutting_down: bool,
    errors: u32,
    /// Replies with a 4, that did not close the connection.
    deferrals: u32,
    failed_logins: u32,
    messages: u64,
    /// How often the client has said MAIL since its login.
    mails: u32,
    /// Why it closed, for the log.
    ending: &'static str,
    now: Now,
    begun: Instant,
    last_heard: Instant,
}

/// See the table at the top of this file. What only a message under way has is boxed: most connections are idle.
#[derive(Debug)]
enum State {
    Start,
    StartingTls,
    Greeted(Greeting),
    Authenticating(Greeting, Exchange),
    LookingUp(Greeting, Exchange, String),
    Checking(Greeting, Exchange, Claim),
    /// The claim is accepted, and the client has not yet heard the last of the exchange.
    Confirming(Ready),
    /// The claim is refused, and the client is told what would be good before it hears so.
    Failing(Greeting),
    Ready(Ready),
    JudgingSender(Ready, Box<Proposal>),
    Mail(Box<Transaction>),
    JudgingRecipient(Box<Transaction>, Addressee),
    Beginning(Box<Transaction>, Input),
    Data(Box<Transfer>),
    Chunks(Box<Transfer>),
    JudgingAuthors(Box<Transfer>, Box<Judged>),
    JudgingMessage(Box<Transfer>),
    Committing(Box<Transfer>),
    Closed,
}

/// How the client introduced itself.
#[derive(Clone, Debug)]
struct Greeting {
    client_name: String,
    /// By EHLO; HELO knows no extensions.
    extended: bool,
}

/// An authenticated client.
#[derive(Debug)]
struct Ready {
    greeting: Greeting,
    account: Arc<Account>,
    mechanism: Mechanism,
}

/// MAIL as the client wants it.
#[derive(Debug)]
struct Proposal {
    reverse_path: ReversePath,
    parameters: MailParameters,
    terms: Terms,
}

/// What was agreed on in MAIL, counted from then.
#[derive(Clone, Copy, Debug)]
struct Terms {
    release_at: Option<Timestamp>,
    deliver_by: Option<DeliverBy>,
    /// As granted.
    priority: Option<i8>,
}

/// RCPT as the client wants it.
#[derive(Debug)]
struct Addressee {
    forward_path: ForwardPath,
    parameters: RcptParameters,
}

/// A transaction: MAIL was accepted.
#[derive(Debug)]
struct Transaction {
    ready: Ready,
    reverse_path: ReversePath,
    parameters: MailParameters,
    terms: Terms,
    recipients: Vec<Addressee>,
}

/// How a session ends that its client ends as it should.
const QUIT: &str = "client quit";

/// A message on its way in.
#[derive(Debug)]
struct Transfer {
    transaction: Box<Transaction>,
    id: MessageId,
    /// When DATA or the first BDAT was accepted, on both clocks.
    began: Now,
    input: Input,
    /// Octets of the message as the client counts them.
    octets: u64,
    /// For the log.
    message_id: Option<String>,
    /// It is to be held for the limits of its account.
    postponed: Option<Box<Postponement>>,
    /// Of a message with a Message-ID, where repetitions are to be known.
    fingerprinter: Option<Box<Fingerprinter>>,
    /// The end of the data has been read.
    ended: bool,
    stage: Stage,
}

/// How the octets of a message come.
#[derive(Clone, Copy, Debug)]
enum Input {
    /// In a chunk of BDAT.
    Chunk {
        /// How many octets it has.
        size: u64,
        /// How many of them are still to come.
        left: u64,
        /// No other follows.
        last: bool,
    },
    /// As DATA has them, up to the final dot.
    Dotted,
}

/// A refused BDAT: its octets are read, and then the client hears why.
#[derive(Debug)]
struct Discard {
    /// How many octets are still to come.
    left: u64,
    since: Instant,
    reply: Reply,
    /// What the operator hears; `None` if it belongs to a failure that was told, and is no error of its own.
    event: Option<Event>,
}

#[derive(Debug)]
enum Stage {
    /// The header section is being collected.
    Header(HeaderSection),
    /// The header section is accepted; the body goes straight through.
    Body,
    /// Nothing is kept any more; what remains is read to its end and then refused.
    Refused(Refusal),
}

/// A header section that waits for its verdict.
#[derive(Debug)]
struct Judged {
    header: Header,
    authors: Authors,
    /// Octets of the body that came with it.
    body: Vec<u8>,
}

impl Session {
    /// A new session; its first step is the greeting.
    pub fn new(profile: Arc<Profile>, link: Link, now: Now) -> Self {
        let greeting = Reply::greeting(&profile.hostname);
        Self {
            profile,
            link,
            state: State::Start,
            framer: Framer::default(),
            events: VecDeque::new(),
            replies: VecDeque::from([greeting]),
            unstored: Vec::new(),
            abort_due: false,
            discarding: None,
            chunks_failed: false,
            shutting_down: false,
            errors: 0,
            deferrals: 0,
            failed_logins: 0,
            messages: 0,
            mails: 0,
            ending: "client closed the connection",
            now,
            begun: now.instant,
            last_heard: now.instant,
        }
    }

    /// A session that has only this reply to say, 421, and then closes.
    pub fn turn_away(profile: Arc<Profile>, link: Link, reply: Reply, now: Now) -> Self {
        let mut session = Self::new(profile, link, now);
        session.replies = VecDeque::from([reply]);
        session.state = State::Closed;
        session.ending = "turned away";
        session
    }

    /// Takes in what the client sent. To be called only when [`next_step`](Self::next_step) said to wait: the octets
    /// that are held stay few only in that way.
    pub fn receive(&mut self, bytes: &[u8], now: Now) {
        self.now = now;
        self.last_heard = now.instant;
        if !matches!(self.state, State::Closed) {
            self.framer.push(bytes);
        }
    }

    /// Lets time pass: a client whose time is up is told so and the session closes.
    pub fn tick(&mut self, now: Now) {
        self.now = now;
        if now.instant >= self.deadline() {
            self.close_with(Reply::timed_out(), "the client's time is up");
        }
    }

    /// The server wants to stop. A transaction that has begun may still end; everybody else hears 421 at once.
    pub fn begin_shutdown(&mut self) {
        self.shutting_down = true;
    }

    /// The server's time to stop is up: whatever is in flight is refused with 421.
    pub fn stop_now(&mut self) {
        self.close_with(Reply::shutting_down(), "the server stops");
    }

    /// The login may do nothing any more: the client hears so, and the session closes. Whatever is in flight is refused.
    pub fn withdraw(&mut self, reason: &'static str) {
        self.close_with(Reply::account_withdrawn(), reason);
    }

    /// Who is logged in.
    pub fn login(&self) -> Option<&Account> {
        let ready = match &self.state {
            State::Start
            | State::StartingTls
            | State::Greeted(_)
            | State::Authenticating(..)
            | State::LookingUp(..)
            | State::Checking(..)
            | State::Failing(_)
            | State::Closed => return None,
            State::Confirming(ready) | State::Ready(ready) | State::JudgingSender(ready, _) => {
                ready
            }
            State::Mail(transaction)
            | State::JudgingRecipient(transaction, _)
            | State::Beginning(transaction, _) => &transaction.ready,
            State::Data(transfer)
            | State::Chunks(transfer)
            | State::JudgingAuthors(transfer, _)
            | State::JudgingMessage(transfer)
            | State::Committing(transfer) => &transfer.transaction.ready,
        };
        Some(&ready.account)
    }

    /// The client is gone. A message that had not ended is forgotten.
    pub fn disconnected(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Closed);
        self.replies.clear();
        self.discarding = None;
        if let State::Data(transfer)
        | State::Chunks(transfer)
        | State::JudgingAuthors(transfer, _)
        | State::JudgingMessage(transfer)
        | State::Committing(transfer) = state
        {
            self.drop_draft(&transfer);
            self.events.push_back(match &transfer.stage {
                // It will not hear why any more; the operator does.
                Stage::Refused(refusal) => transfer.refused(refusal.clone()),
                Stage::Header(_) | Stage::Body => transfer.abandoned(),
            });
        }
    }

    /// Why the session closed, in a few words for the log.
    pub fn ending(&self) -> &'static str {
        self.ending
    }

    /// Whether the client has ended it with QUIT.
    pub fn has_quit(&self) -> bool {
        self.ending == QUIT
    }

    /// How many messages were accepted so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// How many octets of what the client sent are held: unread ones, a header section, a body on its way to the draft.
    /// While the session waits, at most [`held_bytes_max`](Self::held_bytes_max).
    pub fn held_bytes(&self) -> usize {
        let section = match &self.state {
            State::Data(transfer) | State::Chunks(transfer) => match &transfer.stage {
                Stage::Header(section) => section.held_bytes(),
                Stage::Body | Stage::Refused(_) => 0,
            },
            State::JudgingAuthors(_, judged) => judged.header.as_sent().len() + judged.body.len(),
            _ => 0,
        };
        self.framer.unread_bytes() + self.unstored.len() + section
    }

    /// How many octets of the client's the session can hold while it waits, as things stand: a line, a header section,
    /// or, between two chunks, both. In between it holds what it is given at once, too.
    pub fn held_bytes_max(&self) -> usize {
        let line = match &self.state {
            State::Data(_) => HALF_AN_END_BYTES,
            _ => self.line_bytes_max(),
        };
        let section = match &self.state {
            State::Data(transfer) | State::Chunks(transfer)
                if matches!(transfer.stage, Stage::Header(_)) =>
            {
                // A CR at its end is not counted before its LF comes.
                usize::try_from(self.profile.header_bytes_max)
                    .map_or(usize::MAX, |most| most.saturating_add(1))
            }
            _ => 0,
        };
        section.saturating_add(line)
    }

    /// Whether the client has logged in.
    pub fn is_authenticated(&self) -> bool {
        !matches!(
            self.state,
            State::Start
                | State::StartingTls
                | State::Greeted(_)
                | State::Authenticating(..)
                | State::LookingUp(..)
                | State::Checking(..)
                | State::Confirming(_)
                | State::Failing(_)
                | State::Closed
        )
    }

    /// What is to be done next.
    pub fn next_step(&mut self) -> Step<'_> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Step::Report(event);
            }
            if std::mem::take(&mut self.abort_due) {
                return Step::Abort;
            }
            if let Some(reply) = self.replies.pop_front() {
                return Step::Send(reply);
            }
            match &self.state {
                State::StartingTls => return Step::StartTls(TlsAsk::new(self)),
                State::LookingUp(..) => return Step::LookUp(LookUpAsk::new(self)),
                State::Checking(..) => return Step::Check(AuthAsk::new(self)),
                State::JudgingSender(..)
                | State::JudgingRecipient(..)
                | State::JudgingAuthors(..)
                | State::JudgingMessage(_) => return Step::Decide(PolicyAsk::new(self)),
                State::Beginning(..) => return Step::Begin(BeginAsk::new(self)),
                State::Committing(_) => return Step::Commit(CommitAsk::new(self)),
                State::Closed => return Step::Close,
                State::Data(_) => {
                    if self.read_data() {
                        continue;
                    }
                    if !self.unstored.is_empty() {
                        return Step::Append(BodyAsk::new(self));
                    }
                }
                State::Start
                | State::Greeted(_)
                | State::Authenticating(..)
                | State::Confirming(_)
                | State::Failing(_)
                | State::Ready(_)
                    if self.shutting_down =>
                {
                    self.close_with(Reply::shutting_down(), "the server stops");
                    continue;
                }
                State::Start
                | State::Greeted(_)
                | State::Authenticating(..)
                | State::Confirming(_)
                | State::Failing(_)
                | State::Ready(_)
                | State::Mail(_)
                | State::Chunks(_) => {
                    let read = match self.discarding {
                        Some(_) => self.discard(),
                        None => self.read_line(),
                    };
                    if read {
                        continue;
                    }
                }
            }
            return Step::Wait {
                until: self.deadline(),
            };
        }
    }

    /// When the client's time is up.
    fn deadline(&self) -> Instant {
        let mut idle = self.last_heard + self.profile.idle_timeout;
        if let Some(discard) = &self.discarding {
            idle = idle.min(discard.since + self.profile.data_timeout);
        }
        match &self.state {
            State::Data(transfer) | State::Chunks(transfer) => {
                idle.min(transfer.began.instant + self.profile.data_timeout)
            }
            _ if !self.is_authenticated() => idle.min(self.begun + self.profile.login_timeout),
            _ => idle,
        }
    }

    /// Says why, and closes. A message in flight is refused for that reason.
    fn close_with(&mut self, reply: Reply, reason: &'static str) {
        match std::mem::replace(&mut self.state, State::Closed) {
            // An ask that was dropped unanswered can leave it in the middle of a question, too.
            State::Data(transfer)
            | State::Chunks(transfer)
            | State::JudgingAuthors(transfer, _)
            | State::JudgingMessage(transfer)
            | State::Committing(transfer) => {
                self.drop_draft(&transfer);
                let refusal = Refusal::new(reply.clone(), reason);
                self.events.push_back(transfer.refused(refusal));
            }
            State::Closed => return,
            _ => {}
        }
        self.discarding = None;
        self.ending = reason;
        self.replies.push_back(reply);
    }

    /// Closes because of what the client said itself. A message that came in chunks and had not ended is forgotten.
    fn close(&mut self, reason: &'static str) {
        self.reset();
        self.state = State::Closed;
        self.ending = reason;
    }

    /// Back to before MAIL (RFC 5321 section 4.1.1.5).
    fn reset(&mut self) {
        self.chunks_failed = false;
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Mail(transaction) => State::Ready(transaction.ready),
            State::Chunks(transfer) => {
                self.drop_draft(&transfer);
                self.events.push_back(transfer.abandoned());
                State::Ready(transfer.transaction.ready)
            }
            other => other,
        };
    }

    /// The draft of a message that ends here is dropped, once.
    fn drop_draft(&mut self, transfer: &Transfer) {
        self.unstored = Vec::new();
        self.abort_due |= !matches!(transfer.stage, Stage::Refused(_));
    }

    /// Sends a reply to a command. An error counts, and one too many closes the connection. "Not now" does as well, much
    /// later.
    fn respond(&mut self, reply: Reply) {
        let code = reply.code();
        self.replies.push_back(reply);
        if code == 421 {
            self.close("refused with 421");
        } else if code >= 500 {
            self.errors += 1;
            if self.errors > self.profile.errors_max {
                self.close_with(Reply::too_many_errors(), "too many errors");
            }
        } else if code >= 400 {
            self.deferrals += 1;
            if self.deferrals > DEFERRALS_MAX {
                self.close_with(Reply::too_many_errors(), "too many errors");
            }
        }
    }
}

/// Of data, so much can wait for what follows: a CR may be half of a line's end, a period and a CR half of the message's.
const HALF_AN_END_BYTES: usize = 2;

/// How many replies with a 4 one connection may hear. They are no fault of the client, but each of them is a line of the
/// log, and a client that has heard so many should come again later. A mailing of a thousand recipients that are too many
/// for one message fits (Postfix, too, counts none of the first 1000 as an error).
const DEFERRALS_MAX: u32 = 1000;
