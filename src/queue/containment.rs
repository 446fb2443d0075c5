//! The messages of somebody who is [contained](crate::containment): withheld all at once, and let go again.
//!
//! Each message takes the steps of the operator's `hold` and `release` (see `queue.rs`), many at a time with the same
//! syncs. What was in `ready/` leaves it before anything else is done, and gets its mark, `hold` with the reason
//! `contained`, afterwards. A crash in between leaves a message in `hold/` without a mark, as if the operator had held it:
//! it is not sent by accident, and `queue release` lets it go. What was held before, until a time, keeps what it had:
//! [`Hold::before`].

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::envelope::{Envelope, Hold, HoldReason, MessageId};

use super::directory::QueueDirectory;
use super::layout::{Part, Place, parse_envelope, read_envelope_text};
use super::spool::Spool;
use super::{QueueError, fault};

/// Messages that are moved together, with the same syncs and under one lock.
const TOGETHER_MAX: usize = 1_000;

/// What becomes of the messages that were held because their sender was contained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// They stay in `hold/`, for the operator to look at.
    Keep,
    /// They go on as they would have.
    Release,
    /// They are removed for good.
    Remove,
}

/// What became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// All that were held for this reason.
    pub ids: Vec<MessageId>,
    /// Those of them that go on waiting for their time.
    pub waiting: Vec<(Timestamp, MessageId)>,
}

impl QueueDirectory {
    /// Withholds all messages that are `theirs`, and gives the names of those that are in `hold/` then, whatever put
    /// them there. An error leaves some where they were; the same call again does the rest.
    pub fn contain(
        &self,
        theirs: impl Fn(&Envelope) -> bool,
    ) -> Result<Vec<MessageId>, QueueError> {
        let ready = self.select(Place::Ready, &theirs)?;
        let mut moved = Vec::new();
        for ids in ready.chunks(TOGETHER_MAX) {
            self.withdraw(ids, &mut moved)?;
        }
        for id in &moved {
            self.mark(id, |hold| contained(hold, true))?;
        }
        let held = self.select(Place::Hold, &theirs)?;
        for id in &held {
            self.mark(id, |hold| contained(hold, false))?;
        }
        Ok(held)
    }

    /// Withholds one message likewise.
    pub fn contain_one(&self, id: &MessageId) -> Result<(), QueueError> {
        let mut moved = Vec::new();
        self.withdraw(std::slice::from_ref(id), &mut moved)?;
        self.mark(id, |hold| contained(hold, !moved.is_empty()))
    }

    /// Lets go, at `now`, what was withheld because somebody was contained who is not any more.
    pub fn uncontain(
        &self,
        theirs: impl Fn(&Envelope) -> bool,
        afterwards: Afterwards,
        now: Timestamp,
    ) -> Result<Freed, QueueError> {
        let is_contained = |envelope: &Envelope| {
            let reason = envelope.hold.as_ref().map(|hold| hold.reason);
            reason == Some(HoldReason::Contained) && theirs(envelope)
        };
        let mut freed = Freed {
            ids: self.select(Place::Hold, is_contained)?,
            waiting: Vec::new(),
        };
        let mut ready = Vec::new();
        for id in &freed.ids {
            match afterwards {
                Afterwards::Remove => self.remove(id)?,
                Afterwards::Keep => {
                    self.mark(id, |_| Some(Hold::new(HoldReason::Operator, None)))?;
                }
                Afterwards::Release => {
                    let entry = self.read(Place::Hold, id.clone());
                    let hold = entry
                        .and_then(|entry| entry.envelope.ok())
                        .and_then(|envelope| envelope.hold);
                    match hold {
                        Some(Hold {
                            until: Some(until),
                            before,
                            ..
                        }) if until > now => {
                            let before = before.unwrap_or(HoldReason::FutureRelease);
                            self.mark(id, |_| Some(Hold::new(before, Some(until))))?;
                            freed.waiting.push((until, id.clone()));
                        }
                        _ => ready.push(id.clone()),
                    }
                }
            }
        }
        for ids in ready.chunks(TOGETHER_MAX) {
            self.let_go(ids)?;
        }
        Ok(freed)
    }

    /// The messages there that are wanted, the oldest first. An envelope that cannot be read is nobody's.
    fn select(
        &self,
        place: Place,
        wanted: impl Fn(&Envelope) -> bool,
    ) -> Result<Vec<MessageId>, QueueError> {
        let mut ids = self.ids(place)?;
        ids.sort_unstable();
        ids.retain(|id| {
            let entry = self.read(place, id.clone());
            let envelope = entry.and_then(|entry| entry.envelope.ok());
            envelope.is_some_and(|envelope| wanted(&envelope))
        });
        Ok(ids)
    }

    /// The moves of `hold`, for many at once: first all envelopes, then all messages. Those that are seen onward meanwhile
    /// are gone.
    fn withdraw(&self, ids: &[MessageId], moved: &mut Vec<MessageId>) -> Result<(), QueueError> {
        let _guard = self.lock()?;
        let begun = moved.len();
        let mut trouble = Ok(());
        for id in ids {
            match self.has(Place::Ready, id, Part::Envelope) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    trouble = Err(error);
                    break;
                }
            }
            match self.rename(id, Part::Envelope, Place::Ready, Place::Hold) {
                Ok(()) => {}
                Err(QueueError::Missing { .. }) => continue,
                Err(error) => {
                    trouble = Err(error);
                    break;
                }
            }
            if self.has(Place::Hold, id, Part::Envelope)? {
                moved.push(id.clone());
            }
        }
        self.sync_places()?;
        for id in &moved[begun..] {
            self.rename(id, Part::Message, Place::Ready, Place::Hold)?;
        }
        self.sync_places()?;
        trouble
    }

    /// The moves of `release`, for many at once.
    fn let_go(&self, ids: &[MessageId]) -> Result<(), QueueError> {
        let _guard = self.lock()?;
        let mut moving = Vec::new();
        for id in ids {
            match self.move_message_to_ready(id) {
                Ok(()) => moving.push(id),
                // The operator was faster.
                Err(QueueError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.sync_places()?;
        for id in moving {
            self.move_envelope_to_ready(id)?;
        }
        self.sync_places()
    }

    /// Changes why a message is held, if it still is and `change` wants to.
    fn mark(
        &self,
        id: &MessageId,
        change: impl FnOnce(Option<Hold>) -> Option<Hold>,
    ) -> Result<(), QueueError> {
        let _guard = self.lock()?;
        if !self.has(Place::Hold, id, Part::Envelope)? {
            return Ok(());
        }
        let path = self.layout.file(Place::Hold, id, Part::Envelope);
        let text = read_envelope_text(&*self.disk, &path).map_err(fault("read", &path))?;
        // What cannot be read is nobody's to send.
        let Ok(envelope) = parse_envelope(&text, id) else {
            return Ok(());
        };
        match change(envelope.hold) {
            Some(hold) if Some(hold) != envelope.hold => self.replace_envelope(id, &text, hold),
            _ => Ok(()),
        }
    }
}

/// How a message is held on whose sender is contained; `None`: as it is.
fn contained(hold: Option<Hold>, was_ready: bool) -> Option<Hold> {
    match hold {
        // What its envelope says of an earlier time in hold means nothing any more.
        _ if was_ready => Some(Hold::new(HoldReason::Contained, None)),
        None => None,
        Some(hold) => match hold.reason {
            HoldReason::Contained | HoldReason::Operator => None,
            HoldReason::FutureRelease | HoldReason::Other => Some(Hold {
                reason: HoldReason::Contained,
                until: hold.until,
                before: Some(hold.reason),
            }),
        },
    }
}

impl Spool {
    /// The directory, for looking after it.
    pub fn directory(&self) -> QueueDirectory {
        QueueDirectory::of(Arc::clone(&self.shared.disk), self.shared.layout.clone())
    }

    /// Notes when messages that were [freed](QueueDirectory::uncontain) go on their way.
    pub fn expect_release(&self, freed: &Freed) {
        for (until, id) in &freed.waiting {
            self.shared.timers.set(*until, id.clone());
        }
    }
}
