//! Messages that leave `hold/` by themselves: when ([`Timers`]), and how ([`release`]).
//!
//! What is known of their times in memory is only ever a reason to look: the envelope in `hold/` decides, so that what
//! the operator did meanwhile counts. Times are of the calendar clock, read anew at each look. If that is set forward or
//! the daemon was not running, messages are released late, all at once; if it is set back, they wait.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::envelope::{Envelope, HoldReason, MessageId};

use super::QueueError;
use super::directory::QueueDirectory;
use super::layout::{Part, Place};

/// Times that are kept in memory, the nearest ones; some 100 octets each. The others are read again when theirs come
/// near.
const TIMERS_MAX: usize = 100_000;
/// Messages that are released together, with the same syncs and under one lock; what a stop may have to wait for.
const TOGETHER_MAX: usize = 1_000;
/// When a message is tried again that could not be released.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// A message that was released because its time had come, or its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// Its name.
    pub id: MessageId,
    /// Which account sent it.
    pub account: String,
    /// Its reverse-path.
    pub from: String,
    /// Why it had been held.
    pub reason: HoldReason,
    /// Until when; `None` if no time was set.
    pub until: Option<Timestamp>,
}

/// When to look after which message in `hold/`.
#[derive(Debug, Default)]
pub(super) struct Timers(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    due: BTreeSet<(Timestamp, MessageId)>,
    /// From then on, `due` does not have all: what is in `hold/` has to be read again before.
    unknown_from: Option<Timestamp>,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Messages to look after.
    ids: Vec<MessageId>,
    /// All of `hold/` has to be read.
    unknown: bool,
}

impl Timers {
    /// Notes that the message may leave at that time.
    pub(super) fn set(&self, at: Timestamp, id: MessageId) {
        self.waiting().set(at, id, TIMERS_MAX);
    }

    /// Notes that nothing is known.
    pub(super) fn forget(&self) {
        self.waiting().unknown_from = Some(Timestamp::MIN);
    }

    /// Whether there is something to do.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        let waiting = self.waiting();
        let first = waiting.due.first().map(|(at, _)| *at);
        first.is_some_and(|at| at <= now) || waiting.unknown_from.is_some_and(|at| at <= now)
    }

    fn take(&self, now: Timestamp) -> Due {
        self.waiting().take(now, TOGETHER_MAX)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn set(&mut self, at: Timestamp, id: MessageId, most: usize) {
        if self.unknown_from.is_some_and(|from| at >= from) {
            return;
        }
        self.due.insert((at, id));
        if self.due.len() > most
            && let Some((last, _)) = self.due.pop_last()
        {
            self.unknown_from = Some(last);
        }
    }

    fn take(&mut self, now: Timestamp, most: usize) -> Due {
        if self.unknown_from.is_some_and(|from| from <= now) {
            self.unknown_from = None;
            return Due {
                unknown: true,
                ..Due::default()
            };
        }
        let mut due = Due::default();
        while due.ids.len() < most
            && let Some((at, _)) = self.due.first()
            && *at <= now
        {
            due.ids.extend(self.due.pop_first().map(|(_, id)| id));
        }
        due
    }
}

/// Releases messages whose time has come, as many as are released together. Those that could not be are tried again
/// later; `Err` says why, for the first of them.
pub(super) fn release(
    directory: &QueueDirectory,
    timers: &Timers,
    now: Timestamp,
) -> (Vec<Released>, Result<(), QueueError>) {
    let mut round = Round {
        directory,
        timers,
        now,
        trouble: Ok(()),
        released: Vec::new(),
    };
    let due = timers.take(now);
    if due.unknown {
        round.read_all();
    } else {
        round.release(due.ids);
    }
    (round.released, round.trouble)
}

struct Round<'a> {
    directory: &'a QueueDirectory,
    timers: &'a Timers,
    now: Timestamp,
    trouble: Result<(), QueueError>,
    released: Vec<Released>,
}

impl Round<'_> {
    fn read_all(&mut self) {
        let ids = match self.directory.ids(Place::Hold) {
            Ok(ids) => ids,
            Err(error) => {
                self.note(error);
                let again = self.later();
                self.timers.waiting().unknown_from = Some(again);
                return;
            }
        };
        for id in ids {
            let entry = self.directory.read(Place::Hold, id);
            let envelope = entry.and_then(|entry| entry.envelope.ok());
            if let Some(envelope) = envelope
                && let Some(until) = envelope.hold.and_then(|hold| hold.releases_at())
            {
                self.timers.set(until, envelope.id);
            }
        }
    }

    /// The moves of `queue release`, for many at once: first all messages, then all envelopes.
    fn release(&mut self, ids: Vec<MessageId>) {
        let _guard = match self.directory.lock() {
            Ok(guard) => guard,
            Err(error) => return self.retry(ids, error),
        };
        let mut moving = Vec::new();
        for id in ids {
            match self.examine(&id) {
                Ok(Some(released)) => match self.directory.move_message_to_ready(&id) {
                    Ok(()) => moving.push(released),
                    Err(error) => self.retry([id], error),
                },
                Ok(None) => {}
                Err(error) => self.retry([id], error),
            }
        }
        if moving.is_empty() {
            return;
        }
        if let Err(error) = self.directory.sync_places() {
            return self.retry(moving.into_iter().map(|released| released.id), error);
        }
        for released in moving {
            match self.directory.move_envelope_to_ready(&released.id) {
                Ok(()) => self.released.push(released),
                Err(error) => self.retry([released.id], error),
            }
        }
        // If this fails, they are in `ready/` all the same. After a crash of the machine they may be in `hold/` again, and
        // then their time has come again.
        if let Err(error) = self.directory.sync_places() {
            self.note(error);
        }
    }

    /// Whether the message is still held, with a time, and that has come.
    fn examine(&self, id: &MessageId) -> Result<Option<Released>, QueueError> {
        let Some(entry) = self.directory.read(Place::Hold, id.clone()) else {
            return Ok(None);
        };
        let envelope = entry
            .envelope
            .map_err(|reason| self.directory.unreadable(Place::Hold, id, &reason))?;
        let Envelope {
            account,
            reverse_path,
            hold: Some(hold),
            ..
        } = envelope
        else {
            return Ok(None);
        };
        let Some(until) = hold.releases_at() else {
            return Ok(None);
        };
        if until > self.now {
            self.timers.set(until, id.clone());
            return Ok(None);
        }
        Ok(Some(Released {
            id: id.clone(),
            account,
            from: reverse_path,
            reason: hold.reason,
            until: Some(until),
        }))
    }

    fn retry(&mut self, ids: impl IntoIterator<Item = MessageId>, error: QueueError) {
        let again = self.later();
        for id in ids {
            self.timers.set(again, id);
        }
        self.note(error);
    }

    fn note(&mut self, error: QueueError) {
        if self.trouble.is_ok() {
            self.trouble = Err(error);
        }
    }

    fn later(&self) -> Timestamp {
        self.now.checked_add(RETRY_AFTER).unwrap_or(Timestamp::MAX)
    }
}

impl QueueDirectory {
    /// The first half of a release, without its syncs. In the middle of a move it may have been done.
    pub(super) fn move_message_to_ready(&self, id: &MessageId) -> Result<(), QueueError> {
        // An envelope alone does not go to ready, nor does one on top of another.
        self.locate_message(Place::Hold, id)?;
        self.keep_free(Place::Ready, id, Part::Envelope)?;
        self.rename(id, Part::Message, Place::Hold, Place::Ready)
    }

    /// The second half.
    pub(super) fn move_envelope_to_ready(&self, id: &MessageId) -> Result<(), QueueError> {
        self.rename(id, Part::Envelope, Place::Hold, Place::Ready)
    }
}

#[cfg(test)]
mod tests {
    use crate::envelope::{Client, Hold};
    use crate::queue::{Spool, SpoolSettings};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn id(number: u128) -> MessageId {
        MessageId::from_bits(number)
    }

    #[test]
    fn times_come_in_their_order_and_no_sooner() {
        let timers = Timers::default();
        for (second, number) in [(30, 1), (10, 2), (20, 3), (10, 4)] {
            timers.set(at(second), id(number));
        }
        assert!(!timers.is_due(at(9)));
        assert_eq!(timers.take(at(9)), Due::default());
        assert!(timers.is_due(at(10)));
        assert_eq!(timers.take(at(25)).ids, [id(2), id(4), id(3)]);
        assert_eq!(timers.take(at(25)), Due::default());
        // The clock was set back, and then forward.
        assert!(!timers.is_due(at(5)));
        assert_eq!(timers.take(at(1_000)).ids, [id(1)]);
    }

    #[test]
    fn what_does_not_fit_is_read_again_in_time() {
        let mut waiting = Waiting::default();
        for second in [50, 10, 40, 20, 30] {
            waiting.set(at(second), id(second as u128), 3);
        }
        assert_eq!(waiting.due.len(), 3);
        assert_eq!(waiting.unknown_from, Some(at(40)));
        // What comes later is read again with the others.
        waiting.set(at(45), id(45), 3);
        assert_eq!(waiting.due.len(), 3);
        assert_eq!(waiting.take(at(39), 2).ids, [id(10), id(20)]);
        assert_eq!(waiting.take(at(39), 2).ids, [id(30)]);
        let unknown = Due {
            unknown: true,
            ids: Vec::new(),
        };
        assert_eq!(waiting.take(at(40), 2), unknown);
        assert_eq!(waiting.take(at(40), 2), Due::default());
        waiting.set(at(45), id(45), 3);
        assert_eq!(waiting.take(at(45), 2).ids, [id(45)]);
    }

    #[test]
    fn where_nothing_is_known_all_is_read() {
        let parent = tempfile::tempdir().unwrap();
        let settings = SpoolSettings {
            minimum_free: 0,
            ..SpoolSettings::new(parent.path().join("queue"))
        };
        let (spool, _) = Spool::open(&settings).unwrap();
        let client = Client {
            address: "203.0.113.7".parse().unwrap(),
            port: 50123,
            name: String::new(),
            mechanism: String::new(),
            tls: String::new(),
            cipher: String::new(),
        };
        let hold = |number: i64| {
            (number < 3).then(|| Hold::new(HoldReason::FutureRelease, Some(at(number * 10))))
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        for number in 1..=3 {
            let envelope = Envelope {
                hold: hold(number),
                ..Envelope::new(id(number as u128), at(0), client.clone())
            };
            runtime
                .block_on(async { spool.begin(envelope).await?.commit().await })
                .unwrap();
        }
        let directory = QueueDirectory::open(&settings.directory).unwrap();
        let timers = Timers::default();
        timers.forget();
        assert!(timers.is_due(Timestamp::MIN));
        let (released, result) = release(&directory, &timers, at(15));
        assert_eq!((released.len(), result.is_ok()), (0, true));
        assert!(timers.is_due(at(15)));
        let (released, result) = release(&directory, &timers, at(15));
        assert!(result.is_ok());
        let released: Vec<_> = released.into_iter().map(|one| one.id).collect();
        assert_eq!(released, [id(1)]);
        assert!(!timers.is_due(at(19)) && timers.is_due(at(20)));
    }
}
