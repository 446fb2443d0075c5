//! The asks: what a session wants to know or have done, and what the answer does.
//!
//! Each borrows the session until it is answered or dropped. Each exists in its own state only; `unreachable!` states
//! that, and nothing a peer sends can make it untrue.

use std::mem::replace;
use std::sync::Arc;

use super::{Greeting, Input, Ready, Session, Stage, State, TlsFacts, Transaction, Transfer};
use crate::clock::Timestamp;
use crate::decision::{
    Account, Authentication, Claim, Postponement, Question, Refusal, Unavailable, Verdict,
};
use crate::envelope::{Client, Envelope, Hold, HoldReason, MessageId, Receipt, Recipient};
use crate::event::Event;
use crate::message::{Fingerprint, HeaderSection};
use crate::sasl::scram::Offer;
use crate::sasl::{Mechanism, encode_challenge};
use crate::smtp::extension::AuthParameter;
use crate::smtp::reply::Reply;

macro_rules! ask {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name<'s> {
            session: &'s mut Session,
        }

        impl<'s> $name<'s> {
            pub(super) fn new(session: &'s mut Session) -> Self {
                Self { session }
            }
        }
    };
}

ask! {
    /// Do the TLS handshake. If it fails, there is nothing to answer: the connection is over.
    TlsAsk
}

impl TlsAsk<'_> {
    /// The handshake succeeded. Nothing that was said before it survives (RFC 3207 section 4.2).
    pub fn answer(self, facts: TlsFacts) {
        self.session.link.tls = Some(facts);
        self.session.framer.discard();
        self.session.state = State::Start;
    }
}

ask! {
    /// Look up the SCRAM keys of a name.
    LookUpAsk
}

impl LookUpAsk<'_> {
    /// The name, as the client wrote it.
    pub fn name(&self) -> &str {
        match &self.session.state {
            State::LookingUp(_, _, name) => name,
            _ => unreachable!("a LookUpAsk exists only while looking up"),
        }
    }

    /// These are its keys, or stand in for those of a name that has none; or that could not be told.
    pub fn answer(self, answer: Result<Offer, Unavailable>) {
        let session = self.session;
        let State::LookingUp(greeting, mut exchange, _) =
            replace(&mut session.state, State::Closed)
        else {
            unreachable!("a LookUpAsk exists only while looking up");
        };
        match answer {
            Ok(offer) => {
                let turn = exchange.found(offer);
                session.take_turn(greeting, exchange, turn);
            }
            Err(Unavailable(reason)) => {
                session.state = State::Greeted(greeting);
                let reply = Reply::authentication_unavailable();
                session.refuse_claim(Refused::nobody(), exchange.mechanism(), reply, reason);
            }
        }
    }

    /// Nothing is looked up for whoever is banned.
    pub fn turn_away(self, reason: &str) {
        let session = self.session;
        let State::LookingUp(greeting, exchange, _) = replace(&mut session.state, State::Closed)
        else {
            unreachable!("a LookUpAsk exists only while looking up");
        };
        session.turn_away_claim(greeting, exchange.mechanism(), reason);
    }
}

ask! {
    /// Check who the client claims to be.
    AuthAsk
}

impl AuthAsk<'_> {
    /// Who it claims to be.
    pub fn claim(&self) -> &Claim {
        match &self.session.state {
            State::Checking(_, _, claim) => claim,
            _ => unreachable!("an AuthAsk exists only while checking"),
        }
    }

    /// It is, it is not, or that could not be told.
    pub fn answer(self, answer: Result<Authentication, Unavailable>) {
        let session = self.session;
        let State::Checking(greeting, mut exchange, claim) =
            replace(&mut session.state, State::Closed)
        else {
            unreachable!("an AuthAsk exists only while checking");
        };
        drop(claim);
        let mechanism = exchange.mechanism();
        match answer {
            Ok(Authentication::Accept(account)) => {
                let ready = Ready {
                    greeting,
                    account,
                    mechanism,
                };
                match exchange.last_challenge() {
                    Some(challenge) => {
                        session.state = State::Confirming(ready);
                        let challenge = Reply::challenge(encode_challenge(&challenge));
                        session.replies.push_back(challenge);
                    }
                    None => session.let_in(ready),
                }
            }
            Ok(Authentication::Refuse {
                reason,
                name,
                credential,
                issuer,
            }) => {
                let reply = Reply::authentication_failed();
                let who = Refused {
                    account: name,
                    credential,
                    issuer,
                };
                // Reported now: a client that leaves without a response was refused all the same.
                session.report_refusal(who, mechanism, &reply, reason.to_string());
                match exchange.failure(&session.profile.token_hint) {
                    Some(challenge) => {
                        session.state = State::Failing(greeting);
                        let challenge = Reply::challenge(encode_challenge(&challenge));
                        session.replies.push_back(challenge);
                    }
                    None => session.fail_login(greeting),
                }
            }
            Err(Unavailable(reason)) => {
                session.state = State::Greeted(greeting);
                let reply = Reply::authentication_unavailable();
                session.refuse_claim(Refused::nobody(), mechanism, reply, reason);
            }
        }
    }

    /// The claim is not checked, or its answer not given: the client is banned, and the connection ends.
    pub fn turn_away(self, reason: &str) {
        let session = self.session;
        let State::Checking(greeting, exchange, _) = replace(&mut session.state, State::Closed)
        else {
            unreachable!("an AuthAsk exists only while checking");
        };
        session.turn_away_claim(greeting, exchange.mechanism(), reason);
    }
}

impl Session {
    /// The exchange is over, and the client is who it claimed to be.
    pub(super) fn let_in(&mut self, ready: Ready) {
        self.events.push_back(Event::AuthAccepted {
            account: ready.account.name.clone(),
            credential: ready.account.credential_name().map(str::to_owned),
            mechanism: ready.mechanism.name(),
            certificate: self.fingerprint(ready.mechanism),
            issuer: ready
                .account
                .grant
                .as_ref()
                .map(|grant| Arc::clone(&grant.issuer)),
        });
        self.state = State::Ready(ready);
        self.respond(Reply::authenticated());
    }

    /// A guess costs one of the few that a connection has.
    pub(super) fn count_failed_login(&mut self) {
        self.failed_logins += 1;
        if self.failed_logins >= self.profile.failed_logins_max {
            self.close_with(Reply::too_many_failures(), "too many failed logins");
        }
    }

    /// The certificate that a login with this mechanism goes by, for the log.
    pub(super) fn fingerprint(&self, mechanism: Mechanism) -> Option<String> {
        self.certificate()
            .filter(|_| mechanism == Mechanism::External)
            .map(|certificate| certificate.fingerprint.to_string())
    }

    /// The client hears that its claim was refused.
    pub(super) fn fail_login(&mut self, greeting: Greeting) {
        self.state = State::Greeted(greeting);
        self.respond(Reply::authentication_failed());
        self.count_failed_login();
    }

    fn turn_away_claim(&mut self, greeting: Greeting, mechanism: Mechanism, reason: &str) {
        self.state = State::Greeted(greeting);
        self.refuse_claim(
            Refused::nobody(),
            mechanism,
            Reply::banned(),
            reason.to_owned(),
        );
    }

    fn refuse_claim(&mut self, who: Refused, mechanism: Mechanism, reply: Reply, reason: String) {
        self.report_refusal(who, mechanism, &reply, reason);
        self.respond(reply);
    }

    fn report_refusal(
        &mut self,
        who: Refused,
        mechanism: Mechanism,
        reply: &Reply,
        reason: String,
    ) {
        self.events.push_back(Event::AuthRefused {
            account: who.account,
            credential: who.credential,
            mechanism: Some(mechanism.name()),
            certificate: self.fingerprint(mechanism),
            issuer: who.issuer,
            reply: reply.clone(),
            reason,
        });
    }
}

/// Who was refused, as far as that is fit for the log.
struct Refused {
    account: Option<String>,
    credential: Option<String>,
    issuer: Option<Arc<str>>,
}

impl Refused {
    fn nobody() -> Self {
        Self {
            account: None,
            credential: None,
            issuer: None,
        }
    }
}

ask! {
    /// Ask the policy.
    PolicyAsk
}

impl PolicyAsk<'_> {
    /// Whose rights are in question, as they were at the login.
    pub fn account(&self) -> &Account {
        &self.ready().account
    }

    /// Whether the login stands on the client's certificate alone.
    pub fn stands_on_certificate(&self) -> bool {
        self.ready().mechanism == Mechanism::External
    }

    fn ready(&self) -> &Ready {
        match &self.session.state {
            State::JudgingSender(ready, _) => ready,
            State::JudgingRecipient(transaction, _) => &transaction.ready,
            State::JudgingAuthors(transfer, _) | State::JudgingMessage(transfer) => {
                &transfer.transaction.ready
            }
            _ => unreachable!("a PolicyAsk exists only while judging"),
        }
    }

    /// What is in question.
    pub fn question(&self) -> Question<'_> {
        match &self.session.state {
            State::JudgingSender(_, proposal) => Question::Sender {
                reverse_path: &proposal.reverse_path,
            },
            State::JudgingRecipient(transaction, addressee) => Question::Recipient {
                forward_path: &addressee.forward_path,
                accepted: transaction.recipients.len() as u64,
            },
            State::JudgingAuthors(_, judged) => Question::Author {
                from: &judged.authors.from,
                sender: judged.authors.sender.as_ref(),
            },
            State::JudgingMessage(transfer) => Question::Message {
                recipients: transfer.transaction.recipients.len() as u64,
            },
            _ => unreachable!("a PolicyAsk exists only while judging"),
        }
    }

    /// How many octets the message will have, as the client said with SIZE; 0 if it did not, or that is not in
    /// question here.
    pub fn declared_size(&self) -> u64 {
        match &self.session.state {
            State::JudgingSender(_, proposal) => proposal.parameters.size.unwrap_or(0),
            _ => 0,
        }
    }

    /// Yes or no, or yes but later.
    pub fn answer(self, verdict: Verdict) {
        let session = self.session;
        let (verdict, postponed) = match verdict {
            Verdict::Hold(postponement) => {
                let rule = postponement.rule.clone();
                (Verdict::Allow(rule), Some(Box::new(postponement)))
            }
            verdict => (verdict, None),
        };
        match (replace(&mut session.state, State::Closed), verdict) {
            (State::JudgingSender(ready, proposal), Verdict::Allow(_)) => {
                let reply = match (proposal.parameters.priority, proposal.terms.priority) {
                    (Some(wanted), Some(granted)) if wanted != granted => {
                        Reply::priority_changed(granted)
                    }
                    _ => Reply::sender_ok(),
                };
                session.state = State::Mail(Box::new(Transaction::new(ready, *proposal)));
                session.respond(reply);
            }
            (
                State::JudgingSender(ready, proposal),
                Verdict::Refuse(Refusal { reply, reason, .. }),
            ) => {
                session.state = State::Ready(ready);
                session.refuse_mail(Some(&proposal.reverse_path), reply, &reason);
            }
            (State::JudgingRecipient(mut transaction, addressee), Verdict::Allow(_)) => {
                transaction.recipients.push(addressee);
                session.state = State::Mail(transaction);
                session.respond(Reply::recipient_ok());
            }
            (
                State::JudgingRecipient(transaction, addressee),
                Verdict::Refuse(Refusal { reply, reason, .. }),
            ) => {
                session.state = State::Mail(transaction);
                session.refuse_rcpt(Some(&addressee.forward_path), reply, &reason);
            }
            (State::JudgingAuthors(transfer, judged), Verdict::Allow(_)) => {
                session.accept_header(transfer, *judged)
            }
            (State::JudgingAuthors(transfer, _), Verdict::Refuse(refusal)) => {
                session.refuse_data(transfer, refusal)
            }
            (State::JudgingMessage(mut transfer), Verdict::Allow(_)) => {
                transfer.postponed = postponed;
                session.state = State::Committing(transfer)
            }
            (State::JudgingMessage(transfer), Verdict::Refuse(refusal)) => {
                session.refuse_data(transfer, refusal)
            }
            _ => unreachable!("a PolicyAsk exists only while judging"),
        }
    }
}

ask! {
    /// Begin a draft for a message.
    BeginAsk
}

impl BeginAsk<'_> {
    /// The envelope under the name that the queue gives the message. Its `size` is for the queue to fill in.
    pub fn envelope(&self, id: MessageId) -> Envelope {
        let session = &self.session;
        let State::Beginning(transaction, _) = &session.state else {
            unreachable!("a BeginAsk exists only while beginning");
        };
        let tls = session
            .link
            .tls
            .as_ref()
            .expect("AUTH is possible only under TLS, and MAIL only after AUTH");
        let client = Client {
            address: session.link.client.ip().to_canonical(),
            port: session.link.client.port(),
            name: transaction.ready.greeting.client_name.clone(),
            mechanism: transaction.ready.mechanism.name().to_owned(),
            tls: tls.version.clone(),
            cipher: tls.cipher.clone(),
        };
        let parameters = &transaction.parameters;
        Envelope {
            account: transaction.ready.account.name.clone(),
            credential: transaction
                .ready
                .account
                .credential_name()
                .map(str::to_owned),
            reverse_path: transaction.reverse_path.to_string(),
            recipients: transaction.envelope_recipients(),
            body: parameters.body,
            ret: parameters.ret,
            envid: parameters.envid.clone(),
            smtputf8: parameters.smtputf8,
            auth: transaction.first_submitter(),
            release_at: transaction.terms.release_at,
            release_request: parameters.hold.map(|hold| hold.request()),
            hold: transaction
                .terms
                .release_at
                .map(|until| Hold::new(HoldReason::FutureRelease, Some(until))),
            deliver_by: transaction.terms.deliver_by,
            priority: transaction.terms.priority,
            require_tls: parameters.require_tls,
            ..Envelope::new(id, session.now.wall, client)
        }
    }

    /// The draft is there, under this name; or it cannot be.
    pub fn answer(self, answer: Result<MessageId, Refusal>) {
        let session = self.session;
        let State::Beginning(transaction, input) = replace(&mut session.state, State::Closed)
        else {
            unreachable!("a BeginAsk exists only while beginning");
        };
        match answer {
            Ok(id) => {
                session.framer.begin_data();
                session.state = State::Data(Box::new(Transfer {
                    transaction,
                    id,
                    began: session.now,
                    input,
                    octets: 0,
                    message_id: None,
                    postponed: None,
                    fingerprinter: None,
                    ended: false,
                    stage: Stage::Header(HeaderSection::default()),
                }));
                // BDAT's octets come without being asked for.
                if matches!(input, Input::Dotted) {
                    session.replies.push_back(Reply::start_mail_input());
                }
            }
            Err(refusal) => {
                let reply = refusal.reply.clone();
                let event = transaction.refused(None, refusal);
                match input {
                    Input::Dotted => {
                        session.events.push_back(event);
                        session.state = State::Mail(transaction);
                        session.respond(reply);
                    }
                    Input::Chunk { size, last, .. } => {
                        session.state = State::Ready(transaction.ready);
                        session.chunks_failed = !last;
                        session.discard_chunk(size, reply, Some(event));
                    }
                }
            }
        }
    }
}

impl Session {
    /// A message was accepted, and is held for the limits of its account.
    fn report_postponed(
        &mut self,
        transaction: &Transaction,
        id: &MessageId,
        postponement: Postponement,
    ) -> Reply {
        // It leaves when both allow it.
        let release_at = transaction.terms.release_at;
        let leaves_about = postponement
            .leaves_about
            .max(release_at.unwrap_or(Timestamp::MIN));
        self.events.push_back(Event::MessageHeld {
            account: transaction.ready.account.name.clone(),
            id: id.clone(),
            hold: HoldReason::OverLimit,
            reason: postponement.reason,
            leaves_about,
        });
        Reply::queued_over_limit(id.as_str(), &format!("{leaves_about:.0}"))
    }
}

impl Transaction {
    /// The recipients as the envelope has them.
    pub(super) fn envelope_recipients(&self) -> Vec<Recipient> {
        let recipients = self.recipients.iter().map(|addressee| Recipient {
            notify: addressee.parameters.notify.clone().unwrap_or_default(),
            orcpt: addressee.parameters.orcpt.clone(),
            ..Recipient::new(addressee.forward_path.to_string())
        });
        recipients.collect()
    }

    /// AUTH= as it may be passed on (RFC 4954 section 5): a client is believed about the addresses that are its own;
    /// any other claim becomes "not known".
    fn first_submitter(&self) -> Option<String> {
        let parameter = self.parameters.auth.as_ref()?;
        let own = |mailbox: &_| {
            let account = &self.ready.account;
            account
                .sender_origin(|pattern| pattern.allows(mailbox))
                .is_ok()
        };
        match parameter {
            AuthParameter::Mailbox(mailbox) if own(mailbox) => Some(mailbox.to_string()),
            AuthParameter::Mailbox(_) | AuthParameter::Unknown => Some("<>".to_owned()),
        }
    }
}

ask! {
    /// Append octets to the draft.
    BodyAsk
}

impl BodyAsk<'_> {
    /// The octets.
    pub fn bytes(&self) -> &[u8] {
        &self.session.unstored
    }

    /// They are appended; or they could not be, and the rest of the message is only read to its end.
    pub fn answer(self, answer: Result<(), Refusal>) {
        let session = self.session;
        session.unstored = Vec::new();
        if let Err(refusal) = answer {
            let State::Data(transfer) = replace(&mut session.state, State::Closed) else {
                unreachable!("a BodyAsk exists only while data comes in");
            };
            session.refuse_data(transfer, refusal);
        }
    }
}

ask! {
    /// Put the draft onto stable storage.
    CommitAsk
}

impl CommitAsk<'_> {
    /// Whose message it is.
    pub fn account(&self) -> &Account {
        &self.transfer().transaction.ready.account
    }

    /// How many recipients it has.
    pub fn recipients(&self) -> u64 {
        self.transfer().transaction.recipients.len() as u64
    }

    /// Who they are.
    pub fn forward_paths(&self) -> Vec<String> {
        let recipients = self.transfer().transaction.recipients.iter();
        recipients
            .map(|addressee| addressee.forward_path.to_string())
            .collect()
    }

    /// Whether it is to be held for the limits of its account.
    pub fn is_postponed(&self) -> bool {
        self.transfer().postponed.is_some()
    }

    /// By what the message is known if it comes again.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        let fingerprinter = self.transfer().fingerprinter.as_ref()?;
        Some(fingerprinter.fingerprint())
    }

    fn transfer(&self) -> &Transfer {
        match &self.session.state {
            State::Committing(transfer) => transfer,
            _ => unreachable!("a CommitAsk exists only while committing"),
        }
    }

    /// It is there, and here is the proof: this is the only way to a message's 250. Or it is not.
    pub fn answer(self, answer: Result<Receipt, Refusal>) {
        let session = self.session;
        let State::Committing(transfer) = replace(&mut session.state, State::Closed) else {
            unreachable!("a CommitAsk exists only while committing");
        };
        let reply = match answer {
            Ok(receipt) => {
                let postponed = transfer.postponed.filter(|_| !receipt.repeated);
                let transaction = &transfer.transaction;
                let account = transaction.ready.account.name.clone();
                let credential = transaction.ready.account.credential_name();
                let credential = credential.map(str::to_owned);
                let (id, from) = (receipt.id.clone(), transaction.reverse_path.to_string());
                let message_id = transfer.message_id;
                session.events.push_back(if receipt.repeated {
                    Event::MessageRepeated {
                        account,
                        credential,
                        id,
                        from,
                        message_id,
                    }
                } else {
                    session.messages += 1;
                    Event::MessageAccepted {
                        account,
                        credential,
                        id,
                        size: receipt.size,
                        recipients: transaction.recipients.len(),
                        from,
                        message_id,
                    }
                });
                match postponed {
                    Some(postponement) => {
                        session.report_postponed(transaction, &receipt.id, *postponement)
                    }
                    None => Reply::queued(receipt.id.as_str()),
                }
            }
            Err(refusal) => {
                let reply = refusal.reply.clone();
                session.events.push_back(transfer.refused(refusal));
                reply
            }
        };
        session.state = State::Ready(transfer.transaction.ready);
        session.respond(reply);
    }
}
