//! Command lines and AUTH responses: what each does in each state.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{
    Addressee, Discard, Greeting, Input, Proposal, QUIT, Ready, Session, State, Terms, Transaction,
};
use crate::decision::{Limit, OverLimit};
use crate::envelope::{Body, DeliverByMode};
use crate::event::Event;
use crate::sasl::external::Certificate;
use crate::sasl::{
    ChannelBindings, Exchange, ExchangeError, Mechanism, Turn, decode_response, encode_challenge,
};
use crate::secret::Secret;
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::command::{Command, Fault, Parameter, SyntaxError, Verb};
use crate::smtp::extension::{
    AUTH_COMMAND_BYTES_MAX, AUTH_RESPONSE_BYTES_MAX, Extension, MailParameters, Offer,
    RcptParameters, command_line_bytes_max, mechanism_list,
};
use crate::smtp::framing::{Frame, FramingError, Mode};
use crate::smtp::reply::Reply;

impl Session {
    /// Reads one line and acts on it; whether there was one.
    pub(super) fn read_line(&mut self) -> bool {
        let authenticating = self.awaits_response();
        let command_bytes_max = command_line_bytes_max(&self.profile.extensions);
        let bytes_max = self.line_bytes_max();
        // A copy, since acting on the line changes what it is a part of. It may be a password.
        let line = match self.framer.next(Mode::Line { bytes_max }) {
            Ok(Some(Frame::Line(line))) => Ok(Zeroizing::new(line.to_vec())),
            Ok(_) => return false,
            Err(error) => Err(error),
        };
        match line {
            Ok(line) if authenticating => self.authentication_response(&line),
            Ok(line) if line.len() + 2 > command_bytes_max && !is_auth(&line) => {
                self.refuse_command(Reply::line_too_long());
            }
            Ok(line) => match Command::parse(&line) {
                Ok(command) => self.command(command),
                Err(error) => self.syntax_error(&error),
            },
            Err(error) if authenticating => self.broken_response(error),
            Err(FramingError::Forbidden) => self.refuse_command(Reply::forbidden_octet()),
            Err(FramingError::TooLong) => self.refuse_command(Reply::line_too_long()),
        }
        true
    }

    /// Whether the next line is a response of AUTH.
    fn awaits_response(&self) -> bool {
        matches!(
            self.state,
            State::Authenticating(..) | State::Confirming(_) | State::Failing(_)
        )
    }

    /// The longest line that is read in this state, its CRLF included.
    pub(super) fn line_bytes_max(&self) -> usize {
        let may_authenticate = self.link.tls.is_some() && matches!(self.state, State::Greeted(_));
        if self.awaits_response() {
            AUTH_RESPONSE_BYTES_MAX + 2
        } else if may_authenticate {
            AUTH_COMMAND_BYTES_MAX
        } else {
            command_line_bytes_max(&self.profile.extensions)
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Auth {
                mechanism,
                initial_response,
            } => self.auth(&mechanism, initial_response.as_ref()),
            Command::Bdat { size, last } => self.bdat(size, last),
            Command::Data => self.data(),
            Command::Ehlo(client_name) => self.hello(client_name, true),
            Command::Expn if !self.is_authenticated() => {
                self.refuse_command(Reply::authentication_required())
            }
            Command::Expn => self.refuse_command(Reply::not_implemented()),
            Command::Helo(client_name) => self.hello(client_name, false),
            Command::Help => self.respond(Reply::help()),
            Command::Mail {
                reverse_path,
                parameters,
            } => self.mail(reverse_path, &parameters),
            Command::Noop => self.respond(Reply::ok()),
            Command::Quit => {
                self.close(QUIT);
                self.replies.push_back(Reply::goodbye());
            }
            Command::Rcpt {
                forward_path,
                parameters,
            } => self.rcpt(forward_path, &parameters),
            Command::Rset => {
                self.reset();
                self.respond(Reply::ok());
            }
            Command::StartTls => self.start_tls(),
            Command::Vrfy if !self.is_authenticated() => {
                self.refuse_command(Reply::authentication_required())
            }
            Command::Vrfy => self.respond(Reply::cannot_verify()),
        }
    }

    fn syntax_error(&mut self, error: &SyntaxError) {
        let needs_login = matches!(
            error.verb,
            Some(Verb::Bdat | Verb::Data | Verb::Expn | Verb::Mail | Verb::Rcpt | Verb::Vrfy)
        );
        let reply = match needs_login && !self.is_authenticated() {
            true => Reply::authentication_required(),
            false => Reply::from(error),
        };
        match error.fault {
            Fault::ChunkEnd(size) => return self.refuse_chunk(size, reply),
            Fault::ChunkSize => {
                // Commands could hide in what follows: nothing of it is read.
                self.refuse_command(reply);
                return self.close("BDAT without a size");
            }
            _ => {}
        }
        match error.verb {
            Some(Verb::Mail) => self.refuse_mail(None, reply, "malformed command"),
            Some(Verb::Rcpt) => self.refuse_rcpt(None, reply, "malformed command"),
            _ => self.refuse_command(reply),
        }
    }

    fn refuse_command(&mut self, reply: Reply) {
        self.events.push_back(Event::CommandRefused {
            reply: reply.clone(),
        });
        self.respond(reply);
    }

    pub(super) fn refuse_mail(&mut self, from: Option<&ReversePath>, reply: Reply, reason: &str) {
        self.events.push_back(Event::MailRefused {
            account: self.account_name(),
            from: from.map(ReversePath::to_string),
            reply: reply.clone(),
            reason: reason.to_owned(),
        });
        self.respond(reply);
    }

    pub(super) fn refuse_rcpt(&mut self, to: Option<&ForwardPath>, reply: Reply, reason: &str) {
        self.events.push_back(Event::RcptRefused {
            account: self.account_name(),
            to: to.map(ForwardPath::to_string),
            reply: reply.clone(),
            reason: reason.to_owned(),
        });
        self.respond(reply);
    }

    fn account_name(&self) -> Option<String> {
        match &self.state {
            State::Ready(ready) => Some(ready.account.name.clone()),
            State::Mail(transaction) => Some(transaction.ready.account.name.clone()),
            State::Chunks(transfer) => Some(transfer.transaction.ready.account.name.clone()),
            _ => None,
        }
    }

    /// RFC 5321 section 4.1.4: a second EHLO resets like RSET; who is logged in stays so.
    fn hello(&mut self, client_name: String, extended: bool) {
        self.reset();
        let greeting = Greeting {
            client_name,
            extended,
        };
        match &mut self.state {
            State::Ready(ready) => ready.greeting = greeting,
            state => *state = State::Greeted(greeting),
        }
        let mechanisms = self.offered_mechanisms();
        let reply = match extended {
            true => {
                let lines = self.offer(&mechanisms).lines();
                Reply::extended_hello(&self.profile.hostname, lines)
            }
            false => Reply::hello(&self.profile.hostname),
        };
        self.respond(reply);
    }

    /// What EHLO offers now: who is logged in hears of its own limits (RFC 9422 section 3).
    fn offer<'a>(&'a self, mechanisms: &'a [Mechanism]) -> Offer<'a> {
        let profile = &*self.profile;
        let at_most = |limit| match limit {
            Limit::AtMost(number) => number.get(),
            Limit::Unlimited => u64::MAX,
        };
        let (messages, recipients) = match &self.state {
            State::Ready(Ready { account, .. }) => {
                let own = |limit: &Option<(Limit, _)>, general| {
                    at_most(limit.as_ref().map_or(general, |(limit, _)| *limit))
                };
                let over_limit = account.over_limit.as_ref();
                let messages = match over_limit
                    .map_or(profile.over_limit, |(over_limit, _)| *over_limit)
                {
                    // They are accepted, however many.
                    OverLimit::Hold => u64::MAX,
                    OverLimit::Refuse => own(&account.messages_per_hour, profile.messages_per_hour),
                };
                let recipients = own(&account.recipients_per_day, profile.recipients_per_day);
                // Both hold: those of the credential and those of its account.
                match &account.credential {
                    Some(credential) => (
                        messages.min(own(&credential.messages_per_hour, Limit::Unlimited)),
                        recipients.min(own(&credential.recipients_per_day, Limit::Unlimited)),
                    ),
                    None => (messages, recipients),
                }
            }
            _ => (u64::MAX, u64::MAX),
        };
        let now = self.now.wall;
        let held_until = now.checked_add(profile.future_release_max);
        Offer {
            message_bytes_max: profile.message_bytes_max,
            extensions: &profile.extensions,
            mechanisms,
            under_tls: self.link.tls.is_some(),
            future_release_max: (profile.future_release_max, held_until.unwrap_or(now)),
            deliver_by_min: profile.deliver_by_min,
            messages_max: messages.min(profile.messages_max.into()),
            recipients_max: recipients.min(profile.recipients_max as u64),
        }
    }

    fn start_tls(&mut self) {
        if self.link.tls.is_some() {
            return self.refuse_command(Reply::bad_sequence("TLS is already active"));
        }
        // RFC 3207 section 4.2 and the incidents of 2011 and 2021: what a third party put behind STARTTLS must not be
        // taken for what the client says under TLS.
        if self.framer.discard() > 0 {
            self.refuse_command(Reply::plaintext_behind_starttls());
            return self.close("data behind STARTTLS");
        }
        self.state = State::StartingTls;
        self.replies.push_back(Reply::ready_for_tls());
    }

    /// The mechanisms that AUTH offers on this connection, in the order of the profile.
    fn offered_mechanisms(&self) -> Vec<Mechanism> {
        let tls = self.link.tls.as_ref();
        let suits = |mechanism: &Mechanism| match mechanism {
            Mechanism::External => tls.is_some_and(|tls| tls.certificate_known),
            _ => !mechanism.binds_channel() || self.bindings().suit_everybody(),
        };
        let mechanisms = self.profile.mechanisms.iter().copied();
        mechanisms.filter(suits).collect()
    }

    /// The mechanism of this name, if it can be used on this connection.
    fn mechanism(&self, name: &str) -> Option<Mechanism> {
        Mechanism::from_name(name)
            .filter(|mechanism| self.profile.mechanisms.contains(mechanism))
            .filter(|mechanism| !mechanism.binds_channel() || !self.bindings().is_empty())
            .filter(|mechanism| *mechanism != Mechanism::External || self.certificate().is_some())
    }

    /// What the client has shown in the TLS handshake.
    pub(super) fn certificate(&self) -> Option<&Arc<Certificate>> {
        self.link.tls.as_ref()?.certificate.as_ref()
    }

    fn bindings(&self) -> &ChannelBindings {
        static NONE: ChannelBindings = ChannelBindings {
            exporter: None,
            server_end_point: None,
        };
        self.link.tls.as_ref().map_or(&NONE, |tls| &tls.bindings)
    }

    fn auth(&mut self, mechanism: &str, initial_response: Option<&Secret>) {
        if self.link.tls.is_none() {
            return self.refuse_command(Reply::encryption_required());
        }
        let greeting = match &self.state {
            State::Greeted(greeting) if greeting.extended => greeting.clone(),
            State::Start | State::Greeted(_) => {
                return self.refuse_command(Reply::bad_sequence("send EHLO first"));
            }
            // RFC 4954 section 4: after a successful AUTH, and during a transaction, no more AUTH.
            _ => return self.refuse_command(Reply::bad_sequence("already authenticated")),
        };
        let offered = self.offered_mechanisms();
        let Some(mechanism) = self.mechanism(mechanism) else {
            let reply = Reply::unknown_mechanism(&mechanism_list(&offered));
            let reason = match Mechanism::from_name(mechanism) {
                Some(Mechanism::External) if self.certificate().is_none() => {
                    "the client has shown no certificate"
                }
                _ => "mechanism not offered",
            };
            return self.refuse_auth(None, reply, reason);
        };
        let binding_offered = offered.iter().any(|mechanism| mechanism.binds_channel());
        let bindings = match binding_offered || mechanism.binds_channel() {
            true => self.bindings().clone(),
            // A client that could bind was told the truth: it was not offered.
            false => ChannelBindings::default(),
        };
        let mut exchange =
            Exchange::new(mechanism, &bindings).with_certificate(self.certificate().cloned());
        let response = initial_response
            .map(|response| decode_response(response.expose(), true))
            .transpose();
        let turn = response.and_then(|response| exchange.step(response.as_ref()));
        self.take_turn(greeting, exchange, turn);
    }

    fn authentication_response(&mut self, line: &[u8]) {
        let equals_too = match &self.state {
            State::Authenticating(_, exchange) => exchange.expects_equals(),
            _ => false,
        };
        let response = decode_response(line, equals_too);
        match std::mem::replace(&mut self.state, State::Closed) {
            // It has nothing to say any more, and no way out of its refusal.
            State::Failing(greeting) => self.fail_login(greeting),
            State::Authenticating(greeting, mut exchange) => {
                let turn = response.and_then(|response| exchange.step(Some(&response)));
                self.take_turn(greeting, exchange, turn);
            }
            State::Confirming(ready) => match response {
                // The client has heard our proof, and is content with it.
                Ok(response) if response.is_empty() => self.let_in(ready),
                Ok(_) => {
                    self.end_exchange(ready.greeting, ready.mechanism, ExchangeError::Malformed)
                }
                Err(error) => self.end_exchange(ready.greeting, ready.mechanism, error),
            },
            _ => unreachable!("a response is read in no other state"),
        }
    }

    /// Does what the exchange says comes next.
    pub(super) fn take_turn(
        &mut self,
        greeting: Greeting,
        exchange: Exchange,
        turn: Result<Turn, ExchangeError>,
    ) {
        match turn {
            Ok(Turn::Challenge(challenge)) => {
                self.state = State::Authenticating(greeting, exchange);
                self.replies
                    .push_back(Reply::challenge(encode_challenge(&challenge)));
            }
            Ok(Turn::Check(claim)) => self.state = State::Checking(greeting, exchange, claim),
            Ok(Turn::LookUp(name)) => self.state = State::LookingUp(greeting, exchange, name),
            Err(error) => self.end_exchange(greeting, exchange.mechanism(), error),
        }
    }

    /// The exchange has failed before there was a claim to check.
    fn end_exchange(&mut self, greeting: Greeting, mechanism: Mechanism, error: ExchangeError) {
        self.state = State::Greeted(greeting);
        let reply = match error {
            ExchangeError::Cancelled => Reply::authentication_cancelled(),
            _ if error.is_unreadable() => Reply::malformed_response(),
            _ => Reply::authentication_failed(),
        };
        self.refuse_auth(Some(mechanism), reply, &error.to_string());
        if !error.is_unreadable() {
            self.count_failed_login();
        }
    }

    /// A response that is no line at all ends the exchange too.
    fn broken_response(&mut self, error: FramingError) {
        let (greeting, mechanism) = match std::mem::replace(&mut self.state, State::Closed) {
            State::Authenticating(greeting, exchange) => (greeting, exchange.mechanism()),
            State::Confirming(ready) => (ready.greeting, ready.mechanism),
            State::Failing(greeting) => return self.fail_login(greeting),
            _ => unreachable!("a response is read in no other state"),
        };
        self.state = State::Greeted(greeting);
        let reply = match error {
            FramingError::Forbidden => Reply::malformed_response(),
            FramingError::TooLong => Reply::response_too_long(),
        };
        self.refuse_auth(Some(mechanism), reply, &error.to_string());
    }

    fn refuse_auth(&mut self, mechanism: Option<Mechanism>, reply: Reply, reason: &str) {
        self.events.push_back(Event::AuthRefused {
            account: None,
            credential: None,
            mechanism: mechanism.map(Mechanism::name),
            certificate: mechanism.and_then(|mechanism| self.fingerprint(mechanism)),
            issuer: None,
            reply: reply.clone(),
            reason: reason.to_owned(),
        });
        self.respond(reply);
    }

    fn mail(&mut self, reverse_path: ReversePath, parameters: &[Parameter]) {
        if !self.is_authenticated() {
            return self.refuse_mail(
                Some(&reverse_path),
                Reply::authentication_required(),
                "not authenticated",
            );
        }
        // RFC 9422 section 4.1: whether it succeeds or fails.
        self.mails += 1;
        if self.mails > self.profile.messages_max {
            let reply = Reply::too_many_messages(self.profile.messages_max);
            let reason = "limits.messages_per_connection";
            return self.refuse_mail(Some(&reverse_path), reply, reason);
        }
        if let State::Ready(ready) = &self.state
            && let Some(grant) = &ready.account.grant
            && grant.has_expired(self.now.wall)
        {
            // A message that has begun may end; for the next one somebody has to vouch again.
            let reply = Reply::account_withdrawn();
            return self.refuse_mail(Some(&reverse_path), reply, "the token has expired");
        }
        if matches!(self.state, State::Mail(_) | State::Chunks(_)) {
            let reply = Reply::bad_sequence("a transaction is already open: RSET first");
            return self.refuse_mail(Some(&reverse_path), reply, "nested MAIL");
        }
        self.chunks_failed = false;
        let parameters = match MailParameters::parse(parameters, &self.profile.extensions) {
            Ok(parameters) => parameters,
            Err(reply) => return self.refuse_mail(Some(&reverse_path), reply, "bad parameter"),
        };
        if !parameters.smtputf8 && !reverse_path.is_ascii() {
            let reply = Reply::non_ascii_sender();
            return self.refuse_mail(Some(&reverse_path), reply, "no SMTPUTF8");
        }
        // RFC 1870 section 6.1: refuse here, before the client has sent it all.
        if parameters
            .size
            .is_some_and(|size| size > self.profile.message_bytes_max)
        {
            let reply = Reply::message_too_large(self.profile.message_bytes_max);
            return self.refuse_mail(
                Some(&reverse_path),
                reply,
                "declared size above limits.message_size",
            );
        }
        let terms = match self.terms(&parameters) {
            Ok(terms) => terms,
            Err(reply) => return self.refuse_mail(Some(&reverse_path), reply, "bad parameter"),
        };
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Ready(ready) => State::JudgingSender(
                ready,
                Box::new(Proposal {
                    reverse_path,
                    parameters,
                    terms,
                }),
            ),
            other => other,
        };
    }

    /// What is granted of what MAIL's parameters ask for, or the reply that refuses it.
    fn terms(&self, parameters: &MailParameters) -> Result<Terms, Reply> {
        let (profile, now) = (&self.profile, self.now.wall);
        let longest = profile.future_release_max;
        let release_at = parameters
            .hold
            .map(|hold| {
                hold.release_at(now, longest)
                    .ok_or_else(|| Reply::cannot_hold(longest.as_secs()))
            })
            .transpose()?;
        let shortest = profile.deliver_by_min.map_or(0, |least| least.as_secs());
        if let Some(by) = parameters.by
            && by.mode == DeliverByMode::Return
            && i64::from(by.seconds) < i64::try_from(shortest).unwrap_or(i64::MAX)
        {
            return Err(Reply::deliver_by_too_soon(shortest));
        }
        let deliver_by = parameters.by.map(|by| by.counted_from(now));
        // RFC 4865 section 4: what is released too late cannot be delivered in time.
        if let (Some(release_at), Some(by)) = (release_at, deliver_by)
            && release_at >= by.at
        {
            return Err(Reply::bad_arguments(
                "BY ends before the message is released",
            ));
        }
        let priority = parameters.priority;
        Ok(Terms {
            release_at,
            deliver_by,
            priority: priority.map(|wanted| wanted.min(profile.priority_max)),
        })
    }

    fn rcpt(&mut self, forward_path: ForwardPath, parameters: &[Parameter]) {
        if !self.is_authenticated() {
            return self.refuse_rcpt(
                Some(&forward_path),
                Reply::authentication_required(),
                "not authenticated",
            );
        }
        let transaction = match &self.state {
            State::Mail(transaction) => transaction,
            State::Chunks(_) => {
                let reply = Reply::bad_sequence("the message has begun: send BDAT or RSET");
                return self.refuse_rcpt(Some(&forward_path), reply, "RCPT after BDAT");
            }
            _ => {
                let reply = Reply::bad_sequence("send MAIL first");
                return self.refuse_rcpt(Some(&forward_path), reply, "RCPT before MAIL");
            }
        };
        let smtputf8 = transaction.parameters.smtputf8;
        let parameters = match RcptParameters::parse(parameters, &self.profile.extensions, smtputf8)
        {
            Ok(parameters) => parameters,
            Err(reply) => return self.refuse_rcpt(Some(&forward_path), reply, "bad parameter"),
        };
        if !smtputf8 && !forward_path.is_ascii() {
            let reply = Reply::non_ascii_address();
            return self.refuse_rcpt(Some(&forward_path), reply, "no SMTPUTF8");
        }
        // Named twice is meant once: a second copy is what nobody wants. What was asked for first holds.
        if transaction
            .recipients
            .iter()
            .any(|known| known.forward_path.same_as(&forward_path))
        {
            return self.respond(Reply::recipient_ok());
        }
        if transaction.recipients.len() >= self.profile.recipients_max {
            let reply = Reply::too_many_recipients(self.profile.recipients_max);
            return self.refuse_rcpt(Some(&forward_path), reply, "limits.recipients_per_message");
        }
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Mail(transaction) => State::JudgingRecipient(
                transaction,
                Addressee {
                    forward_path,
                    parameters,
                },
            ),
            other => other,
        };
    }

    fn data(&mut self) {
        if !self.is_authenticated() {
            return self.refuse_command(Reply::authentication_required());
        }
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Mail(transaction) if transaction.recipients.is_empty() => {
                self.state = State::Mail(transaction);
                self.refuse_command(Reply::no_recipients());
            }
            State::Mail(transaction) if transaction.parameters.body == Some(Body::Binary) => {
                // RFC 3030 section 3: no dot could end it.
                self.state = State::Mail(transaction);
                self.refuse_command(Reply::bad_sequence("BODY=BINARYMIME needs BDAT"));
            }
            State::Mail(transaction) => self.state = State::Beginning(transaction, Input::Dotted),
            State::Chunks(transfer) => {
                // RFC 3030 section 2: one transaction has DATA or BDAT.
                self.state = State::Chunks(transfer);
                self.refuse_command(Reply::bad_sequence(
                    "the message has begun: send BDAT or RSET",
                ));
            }
            other => {
                self.state = other;
                self.refuse_command(Reply::bad_sequence("send MAIL first"));
            }
        }
    }

    /// RFC 3030 section 2. Its octets follow at once, whether it is accepted or not.
    fn bdat(&mut self, size: u64, last: bool) {
        if !self.is_authenticated() {
            return self.refuse_chunk(size, Reply::authentication_required());
        }
        if !self.profile.extensions.contains(&Extension::Chunking) {
            return self.refuse_chunk(size, Reply::not_implemented());
        }
        if self.chunks_failed {
            self.chunks_failed = !last;
            let reply = Reply::bad_sequence("an earlier BDAT of the message was refused");
            return self.discard_chunk(size, reply, None);
        }
        let input = Input::Chunk {
            size,
            left: size,
            last,
        };
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Mail(transaction) if transaction.recipients.is_empty() => {
                self.state = State::Mail(transaction);
                self.chunks_failed = !last;
                self.refuse_chunk(size, Reply::no_recipients());
            }
            State::Mail(transaction) if size > self.profile.message_bytes_max => {
                let refusal = self.too_large();
                let event = transaction.refused(None, refusal.clone());
                self.state = State::Ready(transaction.ready);
                self.chunks_failed = !last;
                self.discard_chunk(size, refusal.reply, Some(event));
            }
            State::Mail(transaction) => self.state = State::Beginning(transaction, input),
            State::Chunks(mut transfer) => {
                transfer.input = input;
                let announced = transfer.octets.saturating_add(size);
                if announced > self.profile.message_bytes_max {
                    let refusal = self.too_large();
                    self.refuse_data(transfer, refusal);
                } else {
                    self.state = State::Data(transfer);
                }
            }
            other => {
                self.state = other;
                self.chunks_failed = !last;
                self.refuse_chunk(size, Reply::bad_sequence("send MAIL first"));
            }
        }
    }

    /// Refuses a BDAT as a command.
    fn refuse_chunk(&mut self, size: u64, reply: Reply) {
        let event = Event::CommandRefused {
            reply: reply.clone(),
        };
        self.discard_chunk(size, reply, Some(event));
    }

    /// Refuses a BDAT, once its octets are read.
    pub(super) fn discard_chunk(&mut self, size: u64, reply: Reply, event: Option<Event>) {
        self.discarding = Some(Box::new(Discard {
            left: size,
            since: self.now.instant,
            reply,
            event,
        }));
    }
}

/// Whether it is the one command that may be longer than the others.
fn is_auth(line: &[u8]) -> bool {
    line.get(..5)
        .is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "))
}

impl Transaction {
    pub(super) fn new(ready: Ready, proposal: Proposal) -> Self {
        Self {
            ready,
            reverse_path: proposal.reverse_path,
            parameters: proposal.parameters,
            terms: proposal.terms,
            recipients: Vec::new(),
        }
    }
}
