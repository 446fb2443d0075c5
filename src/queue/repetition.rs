//! Messages that come a second time: [`Repetitions`].
//!
//! A client that loses its connection after the end of the data, and before our reply, cannot know whether the message
//! was queued, and sends it again (RFC 1047). So a message that was queued is remembered by its fingerprint until its
//! client has surely heard the 250, which it has when it goes on talking or takes its leave in good order, and at most for `duplicate_window`. The same
//! message again is answered with the first one's id, and nothing is queued.
//!
//! A crash between the commit and the reply looks the same to a client: what lies in the directories and is young
//! enough is remembered again at the start.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Instant;
use crate::envelope::Receipt;
use crate::message::Fingerprint;

/// Messages that are remembered: each waits for a client that has gone. The oldest is forgotten for one more.
const REMEMBERED_MAX: usize = 100_000;

/// What was queued and may come again.
#[derive(Debug, Default)]
pub(super) struct Repetitions {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// `None`: nothing is remembered.
    window: Option<Duration>,
    known: HashMap<Fingerprint, Known>,
    /// What is queued, by the time until which it is remembered. What is not in `known` any more, or under another time,
    /// does not count.
    order: VecDeque<(Instant, Fingerprint)>,
}

#[derive(Clone, Debug)]
enum Known {
    /// Its commit is under way; it tells when it has ended.
    UnderWay(Arc<Notify>),
    /// It is queued.
    Queued { receipt: Receipt, until: Instant },
}

/// Whether a message is new.
pub(super) enum Arrival<'r> {
    /// It is to be queued.
    First(FirstTime<'r>),
    /// It was.
    Again(Receipt),
}

impl Repetitions {
    /// For how long messages are remembered from now on; `None`: not at all.
    pub(super) fn set_window(&self, window: Option<Duration>) {
        let mut table = self.table();
        table.window = window;
        if window.is_none() {
            table
                .known
                .retain(|_, known| matches!(known, Known::UnderWay(_)));
            table.order.clear();
        }
    }

    /// Remembers a message that was queued before the start, until some time.
    pub(super) fn restore(&self, fingerprint: Fingerprint, receipt: Receipt, until: Instant) {
        self.table().remember(fingerprint, receipt, until);
    }

    /// A message is about to be queued. Waits for another one that is the same, if its commit is under way.
    pub(super) async fn arrive(
        &self,
        fingerprint: Fingerprint,
        now: impl Fn() -> Instant,
    ) -> Arrival<'_> {
        loop {
            let other = {
                let mut table = self.table();
                let now = now();
                table.forget_expired(now);
                if matches!(table.known.get(&fingerprint), Some(Known::Queued { until, .. }) if *until <= now)
                {
                    // Behind one that is remembered for longer, from before the window was made shorter.
                    table.known.remove(&fingerprint);
                }
                match table.known.entry(fingerprint) {
                    Entry::Vacant(entry) => {
                        let ended = Arc::new(Notify::new());
                        entry.insert(Known::UnderWay(Arc::clone(&ended)));
                        return Arrival::First(FirstTime {
                            repetitions: self,
                            fingerprint,
                            ended,
                            queued: None,
                        });
                    }
                    Entry::Occupied(entry) => match entry.get() {
                        Known::Queued { receipt, .. } => return Arrival::Again(receipt.clone()),
                        // Waits from here on: nothing is missed when the lock is given up.
                        Known::UnderWay(ended) => Arc::clone(ended).notified_owned(),
                    },
                }
            };
            other.await;
        }
    }

    /// Its client has heard the reply: it knows what became of the message, and the same again is another one.
    pub(super) fn delivered(&self, fingerprint: &Fingerprint) {
        let mut table = self.table();
        if matches!(table.known.get(fingerprint), Some(Known::Queued { .. })) {
            table.known.remove(fingerprint);
        }
    }

    /// A panic under the lock leaves at most a message that is not remembered.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn remember(&mut self, fingerprint: Fingerprint, receipt: Receipt, until: Instant) {
        self.known
            .insert(fingerprint, Known::Queued { receipt, until });
        self.order.push_back((until, fingerprint));
        if self.order.len() > REMEMBERED_MAX {
            self.forget_first();
        }
    }

    /// Nearly all are delivered at once, so what is in front is mostly nobody's; it goes a little at a time.
    fn forget_expired(&mut self, now: Instant) {
        while let Some((until, fingerprint)) = self.order.front() {
            let counts = matches!(
                self.known.get(fingerprint),
                Some(Known::Queued { until: known, .. }) if known == until
            );
            if counts && *until > now {
                break;
            }
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((until, fingerprint)) = self.order.pop_front() else {
            return;
        };
        if let Entry::Occupied(entry) = self.known.entry(fingerprint)
            && matches!(entry.get(), Known::Queued { until: known, .. } if *known == until)
        {
            entry.remove();
        }
    }
}

/// The right to queue a message, for the first one of its kind. If it is dropped without a receipt, the next one is.
pub(super) struct FirstTime<'r> {
    repetitions: &'r Repetitions,
    fingerprint: Fingerprint,
    ended: Arc<Notify>,
    queued: Option<(Receipt, Instant)>,
}

impl FirstTime<'_> {
    /// It is queued.
    pub(super) fn queued(mut self, receipt: &Receipt, now: Instant) {
        self.queued = Some((receipt.clone(), now));
    }
}

impl Drop for FirstTime<'_> {
    fn drop(&mut self) {
        let mut table = self.repetitions.table();
        table.known.remove(&self.fingerprint);
        if let (Some((receipt, now)), Some(window)) = (self.queued.take(), table.window) {
            table.remember(self.fingerprint, receipt, now + window);
        }
        drop(table);
        self.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;
    use crate::clock::Now;
    use crate::envelope::MessageId;
    use crate::message::Fingerprinter;

    const WINDOW: Duration = Duration::from_secs(600);

    fn fingerprint(text: &str) -> Fingerprint {
        Fingerprinter::new(text, "", std::iter::empty()).fingerprint()
    }

    fn receipt(number: u128) -> Receipt {
        Receipt::new(MessageId::from_bits(number), 1)
    }

    fn with_window() -> Repetitions {
        let repetitions = Repetitions::default();
        repetitions.set_window(Some(WINDOW));
        repetitions
    }

    async fn arrive<'r>(repetitions: &'r Repetitions, text: &str, now: Instant) -> Arrival<'r> {
        repetitions.arrive(fingerprint(text), || now).await
    }

    /// Queues it if it is new; the id that its client hears.
    async fn send(repetitions: &Repetitions, text: &str, number: u128, now: Instant) -> MessageId {
        match arrive(repetitions, text, now).await {
            Arrival::First(turn) => {
                turn.queued(&receipt(number), now);
                MessageId::from_bits(number)
            }
            Arrival::Again(receipt) => receipt.id,
        }
    }

    #[tokio::test]
    async fn what_was_not_heard_of_is_queued_once() {
        let (repetitions, now) = (with_window(), Now::read().instant);
        let id = MessageId::from_bits;
        assert_eq!(send(&repetitions, "a", 1, now).await, id(1));
        assert_eq!(send(&repetitions, "b", 2, now).await, id(2));
        let just_in_time = now + WINDOW - Duration::from_secs(1);
        assert_eq!(send(&repetitions, "a", 3, just_in_time).await, id(1));
        assert_eq!(send(&repetitions, "a", 4, now + WINDOW).await, id(4));
        repetitions.delivered(&fingerprint("a"));
        assert_eq!(send(&repetitions, "a", 5, now + WINDOW).await, id(5));
    }

    #[tokio::test]
    async fn a_shorter_window_is_not_as_long_as_the_one_before() {
        let (repetitions, now) = (with_window(), Now::read().instant);
        let id = MessageId::from_bits;
        assert_eq!(send(&repetitions, "a", 1, now).await, id(1));
        repetitions.set_window(Some(Duration::from_secs(60)));
        assert_eq!(send(&repetitions, "b", 2, now).await, id(2));
        let later = now + Duration::from_secs(60);
        assert_eq!(send(&repetitions, "a", 3, later).await, id(1));
        assert_eq!(send(&repetitions, "b", 4, later).await, id(4));
    }

    #[tokio::test]
    async fn nothing_is_left_of_what_was_delivered() {
        let (repetitions, now) = (with_window(), Now::read().instant);
        for number in 0..1000 {
            let text = number.to_string();
            send(&repetitions, &text, number, now).await;
            repetitions.delivered(&fingerprint(&text));
        }
        assert!(repetitions.table().known.is_empty());
        assert!(repetitions.table().order.len() <= 1);
    }

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let (repetitions, now) = (with_window(), Now::read().instant);
        for succeeds in [true, false] {
            let text = succeeds.to_string();
            let Arrival::First(first) = arrive(&repetitions, &text, now).await else {
                panic!("nothing has arrived before");
            };
            let mut second = Box::pin(arrive(&repetitions, &text, now));
            let poll = std::future::poll_fn(|context| Poll::Ready(second.as_mut().poll(context)));
            assert!(poll.await.is_pending());
            match succeeds {
                true => first.queued(&receipt(7), now),
                false => drop(first),
            }
            match second.await {
                Arrival::Again(known) => assert!(succeeds && known == receipt(7)),
                Arrival::First(_) => assert!(!succeeds),
            }
        }
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let (repetitions, now) = (with_window(), Now::read().instant);
        for number in 0..=REMEMBERED_MAX {
            send(&repetitions, &number.to_string(), number as u128, now).await;
        }
        assert_eq!(repetitions.table().known.len(), REMEMBERED_MAX);
        assert_eq!(repetitions.table().order.len(), REMEMBERED_MAX);
        assert_eq!(send(&repetitions, "0", 42, now).await, receipt(42).id);
    }

    #[tokio::test]
    async fn off_is_off() {
        let (repetitions, now) = (with_window(), Now::read().instant);
        send(&repetitions, "a", 1, now).await;
        repetitions.set_window(None);
        for number in [2, 3] {
            let id = send(&repetitions, "a", number, now).await;
            assert_eq!(id, MessageId::from_bits(number));
        }
        assert!(repetitions.table().known.is_empty());
    }
}
