//! Messages in `hold/` that wait for room under the limits of their account: which they are, and how they leave.
//!
//! The queue does not know the limits; whoever does says of each message whether it may leave.

use crate::clock::Timestamp;
use crate::envelope::{Envelope, Hold, HoldReason, MessageId};

use super::directory::QueueDirectory;
use super::layout::{Part, Place, parse_envelope, read_envelope_text};
use super::release::Released;
use super::spool::Spool;
use super::{QueueError, fault};

/// A message that waits for room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverLimit {
    /// Its name.
    pub id: MessageId,
    /// Whose limits it waits for.
    pub account: String,
    /// How many recipients it has.
    pub recipients: u64,
}

impl OverLimit {
    pub(super) fn of(envelope: &Envelope) -> Self {
        Self {
            id: envelope.id.clone(),
            account: envelope.account.clone(),
            recipients: envelope.recipients.len() as u64,
        }
    }
}

/// What became of messages that were to leave.
#[derive(Debug, Default)]
pub struct Departure {
    /// Those that are in `ready/` now, in their order.
    pub released: Vec<Released>,
    /// Those that do not wait for room any more: they were released, or wait for a time alone, or were not found waiting.
    pub settled: Vec<MessageId>,
    /// The recipients of each message that was allowed to leave and could not.
    pub failed: Vec<u64>,
}

impl QueueDirectory {
    /// The messages that wait for room, in the order of their ids. Envelopes that cannot be read are left out.
    pub fn over_limit(&self) -> Result<Vec<OverLimit>, QueueError> {
        let mut ids = self.ids(Place::Hold)?;
        ids.sort_unstable();
        let waiting = ids.into_iter().filter_map(|id| {
            let envelope = self.read(Place::Hold, id)?.envelope.ok()?;
            is_over_limit(&envelope).then(|| OverLimit::of(&envelope))
        });
        Ok(waiting.collect())
    }
}

impl Spool {
    /// Releases these messages, which are in `hold/` because of a limit, in this order, up to the first that `may_leave` says no
    /// of. It is asked of each that still waits, once. Blocks.
    ///
    /// If the disk fails, what follows is not released before; [`Spool::take_events`] tells of trouble with `release`.
    pub fn release_over_limit(
        &self,
        ids: &[MessageId],
        now: Timestamp,
        may_leave: &mut dyn FnMut(&Envelope) -> bool,
    ) -> Departure {
        let directory = self.directory();
        let mut round = Round {
            spool: self,
            directory: &directory,
            now,
            departure: Departure::default(),
        };
        let result = round.release(ids, may_leave);
        self.shared.pipeline.note_release(result);
        round.departure
    }
}

struct Round<'a> {
    spool: &'a Spool,
    directory: &'a QueueDirectory,
    now: Timestamp,
    departure: Departure,
}

impl Round<'_> {
    /// The moves of `queue release`, for many at once: first all messages, then all envelopes.
    fn release(
        &mut self,
        ids: &[MessageId],
        may_leave: &mut dyn FnMut(&Envelope) -> bool,
    ) -> Result<(), QueueError> {
        let _guard = self.directory.lock()?;
        let mut moving: Vec<(Released, u64)> = Vec::new();
        let mut result = Ok(());
        for id in ids {
            match self.begin(id, may_leave) {
                Ok(Step::Moving(released, recipients)) => moving.push((released, recipients)),
                Ok(Step::Settled) => self.departure.settled.push(id.clone()),
                Ok(Step::Stop) => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if moving.is_empty() {
            return result;
        }
        let mut moving = moving.into_iter();
        let moved = self.directory.sync_places().and_then(|()| {
            for (released, recipients) in moving.by_ref() {
                if let Err(error) = self.directory.move_envelope_to_ready(&released.id) {
                    self.departure.failed.push(recipients);
                    return Err(error);
                }
                self.departure.settled.push(released.id.clone());
                self.departure.released.push(released);
            }
            // If this fails, they are in `ready/` all the same. After a crash of the machine they may be in `hold/` again, and
            // then it will be their turn again.
            self.directory.sync_places()
        });
        let left = moving.map(|(_, recipients)| recipients);
        self.departure.failed.extend(left);
        result.and(moved)
    }

    /// Takes a message as far as the first half of its release, if it still waits and may leave.
    fn begin(
        &mut self,
        id: &MessageId,
        may_leave: &mut dyn FnMut(&Envelope) -> bool,
    ) -> Result<Step, QueueError> {
        let directory = self.directory;
        if !directory.has(Place::Hold, id, Part::Envelope)? {
            return Ok(Step::Settled);
        }
        let path = directory.layout.file(Place::Hold, id, Part::Envelope);
        let text = read_envelope_text(&*directory.disk, &path).map_err(fault("read", &path))?;
        // What cannot be read, or has no content, waits for the operator: the start has reported it.
        let Ok(envelope) = parse_envelope(&text, id) else {
            return Ok(Step::Settled);
        };
        let is_whole = match directory.locate_message(Place::Hold, id) {
            Ok(_) => true,
            Err(QueueError::Missing { .. }) => false,
            Err(error) => return Err(error),
        };
        if !is_whole || !is_over_limit(&envelope) {
            return Ok(Step::Settled);
        }
        if !may_leave(&envelope) {
            return Ok(Step::Stop);
        }
        let recipients = envelope.recipients.len() as u64;
        let until = envelope.hold.and_then(|hold| hold.until);
        let begun = match until.filter(|until| *until > self.now) {
            Some(until) => {
                let hold = Hold::new(HoldReason::FutureRelease, Some(until));
                directory.replace_envelope(id, &text, Some(hold)).map(|()| {
                    self.spool.shared.timers.set(until, id.clone());
                    Step::Settled
                })
            }
            None => directory.move_message_to_ready(id).map(|()| {
                let released = Released {
                    id: id.clone(),
                    account: envelope.account,
                    from: envelope.reverse_path,
                    reason: HoldReason::OverLimit,
                    until,
                };
                Step::Moving(released, recipients)
            }),
        };
        begun.inspect_err(|_| self.departure.failed.push(recipients))
    }
}

/// How far a message has come.
enum Step {
    /// Its content is on its way to `ready/`; it has so many recipients.
    Moving(Released, u64),
    /// It does not wait any more.
    Settled,
    /// It may not leave.
    Stop,
}

fn is_over_limit(envelope: &Envelope) -> bool {
    envelope
        .hold
        .is_some_and(|hold| hold.reason == HoldReason::OverLimit)
}
