//! The message on its way in: from 354, or from the first BDAT, to its end.
//!
//! The header section is held until it is judged, the body goes through in pieces. Whatever is wrong, the data is
//! read to its true end before the client hears of it: otherwise it would take what is left of the message for
//! commands.

use super::{Discard, Input, Judged, Session, Stage, State, Transaction, Transfer};
use crate::decision::Refusal;
use crate::envelope::{Body, MessageId};
use crate::event::Event;
use crate::message::token::Sender;
use crate::message::{Fingerprinter, Header, HeaderError, Progress, Trace, TraceClient};
use crate::smtp::address::ReversePath;
use crate::smtp::framing::{Frame, Mode};
use crate::smtp::reply::Reply;

/// How many octets of a message are collected before they are handed on.
const UNSTORED_BYTES_MAX: usize = 64 << 10;

impl Session {
    /// Reads a piece of the data; whether anything came of it. Only to be called in `Data`.
    pub(super) fn read_data(&mut self) -> bool {
        let State::Data(transfer) = &mut self.state else {
            unreachable!("data is read in no other state");
        };
        if transfer.ended {
            if !self.unstored.is_empty() {
                return false;
            }
            self.end_data();
            return true;
        }
        if self.unstored.len() >= UNSTORED_BYTES_MAX {
            return false;
        }
        let mode = match transfer.input {
            Input::Dotted => Mode::Data,
            Input::Chunk { left: 0, .. } => return self.end_chunk(),
            Input::Chunk { left, .. } => Mode::Chunk { left },
        };
        let complete = match self.framer.next(mode) {
            Ok(Some(Frame::Body(bytes))) => {
                transfer.octets += bytes.len() as u64;
                if let Input::Chunk { left, .. } = &mut transfer.input {
                    *left -= bytes.len() as u64;
                }
                transfer.take_in(bytes, &mut self.unstored)
            }
            Ok(Some(Frame::End)) => {
                transfer.ended = true;
                None
            }
            // Nothing to read, and lines are no frames of data.
            _ => return false,
        };
        self.look_at_data(complete);
        true
    }

    /// A chunk has been read: the message ends with it, or the client hears that it is here. Whether anything came of
    /// it.
    fn end_chunk(&mut self) -> bool {
        let State::Data(transfer) = &mut self.state else {
            unreachable!("a chunk is read in no other state");
        };
        let Input::Chunk { size, last, .. } = transfer.input else {
            unreachable!("a chunk ends where there is one");
        };
        if last {
            transfer.ended = true;
            // A text without its last CRLF gets it (RFC 3030 section 2 has lines delimited so), and so does a header
            // section; a binary body stays as it is.
            let binary = transfer.is_binary() && matches!(transfer.stage, Stage::Body);
            let complete = match self.framer.end_chunks() && !binary {
                true => transfer.take_in(b"\r\n", &mut self.unstored),
                false => None,
            };
            self.look_at_data(complete);
            return true;
        }
        // What is acknowledged is with the draft.
        if !self.unstored.is_empty() {
            return false;
        }
        if matches!(transfer.stage, Stage::Refused(_)) {
            self.chunks_failed = true;
            self.end_data();
            return true;
        }
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Data(transfer) => State::Chunks(transfer),
            other => other,
        };
        self.replies.push_back(Reply::chunk_received(size));
        true
    }

    /// Reads a piece of a chunk that was refused; whether anything came of it.
    pub(super) fn discard(&mut self) -> bool {
        let Some(discard) = &mut self.discarding else {
            return false;
        };
        if discard.left > 0 {
            return match self.framer.next(Mode::Chunk { left: discard.left }) {
                Ok(Some(Frame::Body(bytes))) => {
                    discard.left -= bytes.len() as u64;
                    true
                }
                _ => false,
            };
        }
        if let Some(discard) = self.discarding.take() {
            let Discard { reply, event, .. } = *discard;
            match event {
                Some(event) => {
                    self.events.push_back(event);
                    self.respond(reply);
                }
                None => self.replies.push_back(reply),
            }
        }
        true
    }

    /// Octets have been taken in: something may be wrong with them, or the header section complete.
    fn look_at_data(&mut self, complete: Option<usize>) {
        if let Some(refusal) = self.fault() {
            let State::Data(transfer) = std::mem::replace(&mut self.state, State::Closed) else {
                unreachable!("it was Data above");
            };
            self.refuse_data(transfer, refusal);
        } else if let Some(header_bytes) = complete {
            self.judge_header(header_bytes);
        }
    }

    /// The refusal of a message above its bound.
    pub(super) fn too_large(&self) -> Refusal {
        Refusal::new(
            Reply::message_too_large(self.profile.message_bytes_max),
            "larger than limits.message_size",
        )
    }

    /// What the octets themselves did wrong so far, if it is not known yet.
    fn fault(&self) -> Option<Refusal> {
        let State::Data(transfer) = &self.state else {
            return None;
        };
        let profile = &self.profile;
        let header_bytes = match &transfer.stage {
            Stage::Header(section) => section.examined_bytes(),
            Stage::Body => 0,
            Stage::Refused(_) => return None,
        };
        if !self.framer.is_clean() && !transfer.is_binary() {
            return Some(Refusal::new(
                Reply::forbidden_data(),
                "NUL, bare CR or bare LF in the data",
            ));
        }
        if transfer.octets > profile.message_bytes_max {
            return Some(self.too_large());
        }
        (header_bytes as u64 > profile.header_bytes_max).then(|| {
            Refusal::new(
                Reply::header_too_large(profile.header_bytes_max),
                "header section larger than limits.header_size",
            )
        })
    }

    /// The header section is complete: read it, and ask whether its authors may be.
    fn judge_header(&mut self, header_bytes: usize) {
        let State::Data(mut transfer) = std::mem::replace(&mut self.state, State::Closed) else {
            unreachable!("a header section is judged while data comes in");
        };
        let Stage::Header(section) = std::mem::replace(&mut transfer.stage, Stage::Body) else {
            unreachable!("there is one header section");
        };
        // Of a binary message, only the body may be binary: a header section consists of lines, or two readers could
        // see two of it.
        if !section.is_clean(header_bytes) {
            let reason = "NUL, bare CR or bare LF in the header section";
            return self.refuse_data(transfer, Refusal::new(Reply::forbidden_data(), reason));
        }
        let (header, body) = section.finish(header_bytes);
        let authors = header
            .refuse_excess(self.profile.received_fields_max)
            .and_then(|()| header.authors());
        match authors {
            Err(error) => {
                let reply = match &error {
                    HeaderError::Loop(_) => Reply::mail_loop(),
                    _ => Reply::bad_header(format!("message refused: {error}")),
                };
                self.refuse_data(transfer, Refusal::new(reply, error.to_string()));
            }
            Ok(authors)
                if authors.from.is_empty()
                    && transfer.transaction.reverse_path == ReversePath::Null =>
            {
                let reply = Reply::bad_header("message refused: it has no From field");
                self.refuse_data(
                    transfer,
                    Refusal::new(reply, "no From field, and the null reverse-path"),
                );
            }
            Ok(authors) if !transfer.transaction.parameters.smtputf8 && !authors.are_ascii() => {
                let refusal = Refusal::new(Reply::non_ascii_author(), "no SMTPUTF8");
                self.refuse_data(transfer, refusal);
            }
            Ok(authors) => {
                self.state = State::JudgingAuthors(
                    transfer,
                    Box::new(Judged {
                        header,
                        authors,
                        body,
                    }),
                )
            }
        }
    }

    /// The authors are fine: the header section goes to the draft, and the body after it.
    pub(super) fn accept_header(&mut self, mut transfer: Box<Transfer>, judged: Judged) {
        let Judged { header, body, .. } = judged;
        let Transaction {
            ready,
            reverse_path,
            parameters,
            terms,
            ..
        } = &*transfer.transaction;
        let address = self.link.client.ip().to_canonical();
        let token = self
            .profile
            .trace_key
            .as_ref()
            .filter(|_| !self.profile.reveal_client)
            .and_then(|key| {
                let sender = Sender {
                    address,
                    port: self.link.client.port(),
                    account: ready.account.name.clone(),
                    credential: ready.account.credential_name().map(str::to_owned),
                };
                key.seal(&transfer.id, &sender)
            });
        let trace = Trace {
            hostname: &self.profile.hostname,
            id: &transfer.id,
            cipher: self.link.tls.as_ref().map_or("", |tls| &tls.cipher),
            time: transfer.began.wall,
            smtputf8: parameters.smtputf8,
            priority: terms.priority,
            token: token.as_deref(),
            client: self.profile.reveal_client.then(|| TraceClient {
                name: &ready.greeting.client_name,
                address,
                account: &ready.account.name,
            }),
        };
        let author = match reverse_path {
            ReversePath::Mailbox(mailbox) => Some(mailbox),
            ReversePath::Null => None,
        };
        // Without a Message-ID nobody could tell a repetition from another message that says the same.
        transfer.fingerprinter =
            (self.profile.fingerprints && header.message_id().is_some()).then(|| {
                let transaction = &transfer.transaction;
                let mut fingerprinter = Fingerprinter::new(
                    &transaction.ready.account.name,
                    &transaction.reverse_path.to_string(),
                    transaction.envelope_recipients().iter(),
                );
                fingerprinter.update(header.as_sent());
                fingerprinter.update(b"\r\n");
                fingerprinter.update(&body);
                Box::new(fingerprinter)
            });
        header.write_to(&mut self.unstored, &trace, author);
        self.unstored.extend_from_slice(&body);
        transfer.message_id = Some(
            header
                .message_id()
                .map_or_else(|| Header::added_message_id(&trace), str::to_owned),
        );
        transfer.stage = Stage::Body;
        self.state = State::Data(transfer);
    }

    /// Nothing of the message is kept from here on. If it has ended, the client hears so now; else at its end.
    pub(super) fn refuse_data(&mut self, mut transfer: Box<Transfer>, refusal: Refusal) {
        self.abort_due = true;
        self.unstored = Vec::new();
        transfer.stage = Stage::Refused(refusal);
        self.state = State::Data(transfer);
    }

    /// The data has ended, and everything of it is with the draft.
    fn end_data(&mut self) {
        let State::Data(transfer) = std::mem::replace(&mut self.state, State::Closed) else {
            unreachable!("data ends while data comes in");
        };
        match &transfer.stage {
            Stage::Header(section) => {
                let end = section.end();
                self.state = State::Data(transfer);
                self.judge_header(end);
            }
            Stage::Body => self.state = State::JudgingMessage(transfer),
            Stage::Refused(refusal) => {
                let (reply, refusal) = (refusal.reply.clone(), refusal.clone());
                self.events.push_back(transfer.refused(refusal));
                self.state = State::Ready(transfer.transaction.ready);
                self.respond(reply);
            }
        }
    }
}

impl Transfer {
    /// Takes in octets of the message; where the header section ends, if that is known with them.
    fn take_in(&mut self, bytes: &[u8], unstored: &mut Vec<u8>) -> Option<usize> {
        match &mut self.stage {
            Stage::Header(section) => match section.push(bytes) {
                Progress::Complete { header_bytes } => return Some(header_bytes),
                Progress::Incomplete => {}
            },
            Stage::Body => {
                unstored.extend_from_slice(bytes);
                if let Some(fingerprinter) = &mut self.fingerprinter {
                    fingerprinter.update(bytes);
                }
            }
            Stage::Refused(_) => {}
        }
        None
    }

    /// Whether its body may hold any octets.
    fn is_binary(&self) -> bool {
        self.transaction.parameters.body == Some(Body::Binary)
    }

    pub(super) fn refused(&self, refusal: Refusal) -> Event {
        self.transaction.refused(Some(&self.id), refusal)
    }

    pub(super) fn abandoned(&self) -> Event {
        Event::MessageAbandoned {
            account: self.transaction.ready.account.name.clone(),
            from: self.transaction.reverse_path.to_string(),
            id: self.id.clone(),
        }
    }
}

impl Transaction {
    /// The message was refused; its id, if it had one already.
    pub(super) fn refused(&self, id: Option<&MessageId>, refusal: Refusal) -> Event {
        Event::MessageRefused {
            account: self.ready.account.name.clone(),
            id: id.cloned(),
            from: self.reverse_path.to_string(),
            reply: refusal.reply,
            reason: refusal.reason,
        }
    }
}
