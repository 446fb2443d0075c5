//! The messages of somebody who is [contained](crate::containment): withheld all at once, and let go again.
//!
//! Each message takes the steps of the operator's `hold` and `release` (see `queue.rs`), many at a time with the same
//! syncs. What was in `ready/` leaves it before anything else is done, and gets its mark, `hold` with the reason
//! `contained`, afterwards. What was held before, until a time, keeps what it had: [`Hold::before`].
//!
//! *Who held what:* the operator's `hold` leaves a mark, too, and a message that lies in `hold/` without one when its
//! sender is contained gets the operator's. So one without a mark is ours from then on: a crash, or a disk that failed,
//! came between its move and its mark, and the next call gives it that. (A release by the operator takes the operator's
//! mark away; if that could not be written, the message would count as held by the operator after such a crash.)

use std::io;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::envelope::{Envelope, Hold, HoldReason, MessageId};

use super::backlog::OverLimit;
use super::directory::QueueDirectory;
use super::layout::{Part, Place, parse_envelope, read_envelope_text};
use super::spool::Spool;
use super::{QueueError, fault};

/// Messages that are moved together, with the same syncs and under one lock.
const TOGETHER_MAX: usize = 1_000;
/// Messages whose envelopes are written under one lock: each costs a sync, and others wait for the lock.
const MARKED_TOGETHER_MAX: usize = 100;

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
    /// Those of them that go on waiting for room under the limits of their account.
    pub over_limit: Vec<OverLimit>,
}

impl QueueDirectory {
    /// Withholds all messages that are `theirs`, and gives the names of those that are in `hold/` then, whatever put
    /// them there. `begins`: they were not contained before. An error leaves some where they were; the same call again,
    /// with `begins` false, does the rest.
    pub fn contain(
        &self,
        theirs: impl Fn(&Envelope) -> bool,
        begins: bool,
    ) -> Result<Vec<MessageId>, QueueError> {
        let mut trouble = Trouble::default();
        let mut others = Vec::new();
        if begins {
            let is_unmarked = |envelope: &Envelope| envelope.hold.is_none() && theirs(envelope);
            others = self.select(Place::Hold, is_unmarked, &mut trouble)?;
            trouble.note(self.mark_all(&others, operators));
        }
        let mut ready = self.select(Place::Ready, &theirs, &mut trouble)?;
        loop {
            let mut moved = Vec::new();
            for ids in ready.chunks(TOGETHER_MAX) {
                trouble.note(self.withdraw(ids, &mut moved));
            }
            trouble.note(self.mark_all(&moved, |hold| contained(hold, true)));
            let held = self.select(Place::Hold, &theirs, &mut trouble)?;
            for ids in held.chunks(TOGETHER_MAX) {
                trouble.note(self.finish_moves(ids));
            }
            let is_ours = |id: &&MessageId| !others.contains(id);
            let ours: Vec<MessageId> = held.iter().filter(is_ours).cloned().collect();
            trouble.note(self.mark_all(&ours, |hold| contained(hold, false)));
            // Those whose time came between our look into ready and our mark have gone there meanwhile; nothing follows
            // them.
            let late = self.select(Place::Ready, &theirs, &mut trouble)?;
            if late.is_empty() || late == ready {
                return trouble.or(held);
            }
            ready = late;
        }
    }

    /// Withholds one message likewise, that of somebody who is contained.
    pub fn contain_one(&self, id: &MessageId) -> Result<(), QueueError> {
        let mut moved = Vec::new();
        let withdrawn = self.withdraw(std::slice::from_ref(id), &mut moved);
        self.mark(id, |hold| contained(hold, !moved.is_empty()))?;
        withdrawn
    }

    /// Lets go, at `now`, what was withheld because somebody was contained who is not any more. After an error the same
    /// call again does the rest.
    pub fn uncontain(
        &self,
        theirs: impl Fn(&Envelope) -> bool,
        afterwards: Afterwards,
        now: Timestamp,
    ) -> Result<Freed, QueueError> {
        let is_withheld = |envelope: &Envelope| is_contained(envelope) && theirs(envelope);
        let mut trouble = Trouble::default();
        let mut freed = Freed {
            ids: self.select(Place::Hold, is_withheld, &mut trouble)?,
            ..Freed::default()
        };
        match afterwards {
            Afterwards::Keep => trouble.note(self.mark_all(&freed.ids, operators)),
            Afterwards::Remove => {
                for id in &freed.ids {
                    match self.remove(id) {
                        // The operator was faster.
                        Err(QueueError::Missing { .. }) => {}
                        result => trouble.note(result),
                    }
                }
            }
            Afterwards::Release => {
                let mut ready = Vec::new();
                for id in &freed.ids {
                    let envelope = match self.envelope(Place::Hold, id) {
                        Ok(envelope) => envelope,
                        Err(error) => {
                            trouble.note(Err(error));
                            continue;
                        }
                    };
                    let hold = envelope.as_ref().and_then(|envelope| envelope.hold);
                    match hold.and_then(|hold| as_before(hold, now)) {
                        Some(hold) => {
                            trouble.note(self.mark(id, |_| Some(hold)));
                            let until = hold.releases_at();
                            freed.waiting.extend(until.map(|until| (until, id.clone())));
                            // Its limits have not been used up.
                            let over_limit = envelope
                                .as_ref()
                                .filter(|_| hold.reason == HoldReason::OverLimit);
                            freed.over_limit.extend(over_limit.map(OverLimit::of));
                        }
                        None => ready.push(id.clone()),
                    }
                }
                for ids in ready.chunks(TOGETHER_MAX) {
                    trouble.note(self.let_go(ids));
                }
            }
        }
        trouble.or(freed)
    }

    /// The messages there that are wanted, the oldest first.
    fn select(
        &self,
        place: Place,
        wanted: impl Fn(&Envelope) -> bool,
        trouble: &mut Trouble,
    ) -> Result<Vec<MessageId>, QueueError> {
        let mut ids = self.ids(place)?;
        ids.sort_unstable();
        ids.retain(|id| match self.envelope(place, id) {
            Ok(envelope) => envelope.is_some_and(|envelope| wanted(&envelope)),
            Err(error) => {
                trouble.note(Err(error));
                false
            }
        });
        Ok(ids)
    }

    /// The envelope of a message that is there. One that is none is nobody's; one that the disk does not give now is an
    /// error.
    fn envelope(&self, place: Place, id: &MessageId) -> Result<Option<Envelope>, QueueError> {
        let path = self.layout.file(place, id, Part::Envelope);
        match read_envelope_text(&*self.disk, &path) {
            Ok(text) => Ok(parse_envelope(&text, id).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fault("read", &path)(error)),
        }
    }

    /// The moves of `hold`, for many at once: first all envelopes, then all messages. Those that are seen onward meanwhile
    /// are gone. One that cannot be moved keeps no other from it.
    fn withdraw(&self, ids: &[MessageId], moved: &mut Vec<MessageId>) -> Result<(), QueueError> {
        let _guard = self.lock()?;
        let begun = moved.len();
        let mut trouble = Trouble::default();
        for id in ids {
            match self.take_out(id) {
                Ok(true) => moved.push(id.clone()),
                Ok(false) => {}
                Err(error) => trouble.note(Err(error)),
            }
        }
        self.sync_places()?;
        for id in &moved[begun..] {
            trouble.note(self.rename(id, Part::Message, Place::Ready, Place::Hold));
        }
        self.sync_places()?;
        trouble.or(())
    }

    /// Brings the messages to their envelopes, where an attempt before this one was cut short.
    fn finish_moves(&self, ids: &[MessageId]) -> Result<(), QueueError> {
        let _guard = self.lock()?;
        let mut trouble = Trouble::default();
        let mut apart = Vec::new();
        for id in ids {
            match self.has(Place::Ready, id, Part::Message) {
                Ok(is_apart) => apart.extend(is_apart.then_some(id)),
                Err(error) => trouble.note(Err(error)),
            }
        }
        if !apart.is_empty() {
            self.sync_places()?;
            for id in apart {
                // If it has been released meanwhile, both are there.
                if self.has(Place::Hold, id, Part::Envelope)? {
                    trouble.note(self.rename(id, Part::Message, Place::Ready, Place::Hold));
                }
            }
            self.sync_places()?;
        }
        trouble.or(())
    }

    /// Takes an envelope out of ready; whether it was there.
    fn take_out(&self, id: &MessageId) -> Result<bool, QueueError> {
        if !self.has(Place::Ready, id, Part::Envelope)? {
            return Ok(false);
        }
        match self.rename(id, Part::Envelope, Place::Ready, Place::Hold) {
            Ok(()) => self.has(Place::Hold, id, Part::Envelope),
            Err(QueueError::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The moves of `release`, for many at once, of those that are still withheld.
    fn let_go(&self, ids: &[MessageId]) -> Result<(), QueueError> {
        let _guard = self.lock()?;
        let mut trouble = Trouble::default();
        let mut moving = Vec::new();
        for id in ids {
            match self.envelope(Place::Hold, id) {
                Ok(Some(envelope)) if is_contained(&envelope) => {}
                // The operator was faster.
                Ok(_) => continue,
                Err(error) => {
                    trouble.note(Err(error));
                    continue;
                }
            }
            match self.move_message_to_ready(id) {
                Ok(()) => moving.push(id),
                Err(error) => trouble.note(Err(error)),
            }
        }
        self.sync_places()?;
        for id in moving {
            trouble.note(self.move_envelope_to_ready(id));
        }
        self.sync_places()?;
        trouble.or(())
    }

    /// Changes why a message is held, if it still is and `change` wants to.
    fn mark(
        &self,
        id: &MessageId,
        change: impl Fn(Option<Hold>) -> Option<Hold>,
    ) -> Result<(), QueueError> {
        self.mark_all(std::slice::from_ref(id), change)
    }

    /// The same for many, with fewer syncs.
    fn mark_all(
        &self,
        ids: &[MessageId],
        change: impl Fn(Option<Hold>) -> Option<Hold>,
    ) -> Result<(), QueueError> {
        let mut trouble = Trouble::default();
        for ids in ids.chunks(MARKED_TOGETHER_MAX) {
            let _guard = self.lock()?;
            let mut written = Vec::new();
            for id in ids {
                match self.write_mark(id, &change) {
                    Ok(true) => written.push(id),
                    Ok(false) => {}
                    Err(error) => trouble.note(Err(error)),
                }
            }
            if !written.is_empty() {
                trouble.note(self.put_new_envelopes(written));
            }
        }
        trouble.or(())
    }

    /// Writes the envelope with the mark beside the old one; whether there is anything to change.
    fn write_mark(
        &self,
        id: &MessageId,
        change: impl Fn(Option<Hold>) -> Option<Hold>,
    ) -> Result<bool, QueueError> {
        if !self.has(Place::Hold, id, Part::Envelope)? {
            return Ok(false);
        }
        let path = self.layout.file(Place::Hold, id, Part::Envelope);
        let text = read_envelope_text(&*self.disk, &path).map_err(fault("read", &path))?;
        // What cannot be read is nobody's to send.
        let Ok(envelope) = parse_envelope(&text, id) else {
            return Ok(false);
        };
        match change(envelope.hold) {
            Some(hold) if Some(hold) != envelope.hold => {
                self.write_new_envelope(id, &text, Some(hold))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// What went wrong first, while the rest is done all the same.
#[derive(Default)]
struct Trouble(Option<QueueError>);

impl Trouble {
    fn note(&mut self, result: Result<(), QueueError>) {
        if let Err(error) = result {
            self.0.get_or_insert(error);
        }
    }

    fn or<T>(self, done: T) -> Result<T, QueueError> {
        self.0.map_or(Ok(done), Err)
    }
}

fn is_contained(envelope: &Envelope) -> bool {
    envelope.hold.map(|hold| hold.reason) == Some(HoldReason::Contained)
}

/// How a message is held that nobody but the operator shall release; `None`: as it is.
fn operators(hold: Option<Hold>) -> Option<Hold> {
    let operators = Hold::new(HoldReason::Operator, None);
    (hold != Some(operators)).then_some(operators)
}

/// How it goes on being held when its sender is not contained any more, if it does.
fn as_before(hold: Hold, now: Timestamp) -> Option<Hold> {
    let until = hold.until.filter(|until| *until > now);
    match hold.before {
        None | Some(HoldReason::FutureRelease) => {
            until.map(|until| Hold::new(HoldReason::FutureRelease, Some(until)))
        }
        Some(reason) => Some(Hold::new(reason, hold.until)),
    }
}

/// How a message is held on whose sender is contained; `None`: as it is.
fn contained(hold: Option<Hold>, was_ready: bool) -> Option<Hold> {
    match hold {
        Some(hold) if !was_ready => match hold.reason {
            HoldReason::Contained | HoldReason::Operator => None,
            HoldReason::FutureRelease | HoldReason::OverLimit | HoldReason::Other => Some(Hold {
                reason: HoldReason::Contained,
                until: hold.until,
                before: Some(hold.reason),
            }),
        },
        // What its envelope says of an earlier time in hold means nothing any more. Without a mark, see the top.
        _ => Some(Hold::new(HoldReason::Contained, None)),
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
