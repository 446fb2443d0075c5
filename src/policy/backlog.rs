//! Who waits for room under the limits of its account: the messages that are held because of `over_limit`, in the order
//! in which they leave.
//!
//! Each account has a line of its own, and whoever is first in it was accepted first. What is known here is only ever a
//! reason to look into `hold/`, where the envelope says whether a message still waits. It is made anew from there at each
//! start. Nothing is looked at before a limit has room again, but where that may have changed.
//!
//! Memory is bounded: by account (`held_messages`) and in all.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::envelope::MessageId;

/// Messages that wait, of all accounts together; some 40 octets each. One more is refused, however few its account has.
const MESSAGES_IN_ALL_MAX: u64 = 500_000;

/// All lines. Shared by all threads.
#[derive(Debug, Default)]
pub struct Backlog(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    accounts: HashMap<String, Line>,
    messages: u64,
}

/// The messages of one account that wait.
#[derive(Debug)]
struct Line {
    /// How many there are, with those that are not on the disk yet.
    sum: Sum,
    /// Those that are in `hold/`, by their ids, with the recipients of each.
    waiting: BTreeMap<u128, u64>,
    /// When to look after the first of them.
    look_at: Timestamp,
    /// When that was found out: the clock may be set back.
    looked_at: Timestamp,
}

/// Some messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub messages: u64,
    /// Their recipients.
    pub recipients: u64,
}

/// All that wait, for the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Accounts with messages that wait.
    pub accounts: u64,
    /// How many wait.
    pub messages: u64,
    /// When the next ones are likely to leave; `None` if all wait for something else than a time.
    pub next: Option<Timestamp>,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            sum: Sum::default(),
            waiting: BTreeMap::new(),
            look_at: Timestamp::MIN,
            looked_at: Timestamp::MIN,
        }
    }
}

impl Backlog {
    /// What waits of an account.
    pub fn sum(&self, account: &str) -> Sum {
        let lines = self.lines();
        lines
            .accounts
            .get(account)
            .map_or_else(Sum::default, |line| line.sum)
    }

    /// Whether another message of the account finds no place, where it may have so many.
    pub(super) fn is_full(&self, account: &str, messages_max: u64) -> bool {
        self.lines().is_full(account, messages_max)
    }

    /// A message takes a place in the line: it is about to be committed. Whether there was one: then it has to be
    /// [settled](Self::settle), or to [leave](Self::leave).
    pub(super) fn enter(&self, account: &str, recipients: u64, messages_max: u64) -> bool {
        let mut lines = self.lines();
        let has_place = !lines.is_full(account, messages_max);
        if has_place {
            lines.count(account, recipients);
        }
        has_place
    }

    /// A message that has entered was not committed.
    pub(super) fn leave(&self, account: &str, recipients: u64) {
        self.lines().discount(account, recipients);
    }

    /// A message that has entered is in `hold/`.
    pub(super) fn settle(&self, account: &str, id: &MessageId, recipients: u64) {
        let mut lines = self.lines();
        let line = lines.line(account);
        if line.waiting.insert(id.bits(), recipients).is_some() {
            // Found in hold in the meantime.
            lines.discount(account, recipients);
        }
    }

    /// A message was found in `hold/` that waits for room.
    pub fn add(&self, account: &str, id: &MessageId, recipients: u64) {
        let mut lines = self.lines();
        let line = lines.line(account);
        let is_new = line.waiting.insert(id.bits(), recipients).is_none();
        line.look_at = Timestamp::MIN;
        if is_new {
            lines.count(account, recipients);
        }
    }

    /// Those accounts that are to be looked after now, the longest due first.
    pub fn due(&self, now: Timestamp) -> Vec<String> {
        let lines = self.lines();
        let mut due: Vec<(Timestamp, &String)> = lines
            .accounts
            .iter()
            .filter(|(_, line)| line.is_due(now))
            .map(|(account, line)| (line.look_at, account))
            .collect();
        due.sort_unstable();
        due.into_iter()
            .map(|(_, account)| account.clone())
            .collect()
    }

    /// Whether there are any.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.lines().accounts.values().any(|line| line.is_due(now))
    }

    /// The first messages of an account's line, so many at most.
    pub fn first(&self, account: &str, most: usize) -> Vec<MessageId> {
        let lines = self.lines();
        let line = lines.accounts.get(account);
        let ids = line.into_iter().flat_map(|line| line.waiting.keys());
        ids.take(most)
            .map(|bits| MessageId::from_bits(*bits))
            .collect()
    }

    /// These do not wait any more.
    pub fn remove(&self, account: &str, ids: &[MessageId]) {
        let mut lines = self.lines();
        for id in ids {
            let line = lines.accounts.get_mut(account);
            if let Some(recipients) = line.and_then(|line| line.waiting.remove(&id.bits())) {
                lines.discount(account, recipients);
            }
        }
    }

    /// Nothing is to be done for an account before that time, unless it [hears](Self::wake) otherwise.
    pub fn rest_until(&self, account: &str, at: Timestamp, now: Timestamp) {
        if let Some(line) = self.lines().accounts.get_mut(account) {
            line.look_at = at;
            line.looked_at = now;
        }
    }

    /// The same, but no later than it is said already.
    pub fn rest_at_most_until(&self, account: &str, at: Timestamp) {
        if let Some(line) = self.lines().accounts.get_mut(account) {
            line.look_at = line.look_at.min(at);
        }
    }

    /// There may be room for an account.
    pub fn wake(&self, account: &str) {
        if let Some(line) = self.lines().accounts.get_mut(account) {
            line.look_at = Timestamp::MIN;
        }
    }

    /// There may be room for anybody: limits or accounts have changed.
    pub fn wake_all(&self) {
        for line in self.lines().accounts.values_mut() {
            line.look_at = Timestamp::MIN;
        }
    }

    /// What waits, of all accounts.
    pub fn summary(&self, now: Timestamp) -> Summary {
        let lines = self.lines();
        let times = lines.accounts.values().map(|line| line.look_at);
        Summary {
            accounts: lines.accounts.len() as u64,
            messages: lines.messages,
            next: times
                .filter(|at| *at < Timestamp::MAX)
                .min()
                .map(|at| at.max(now)),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn line(&mut self, account: &str) -> &mut Line {
        self.accounts.entry(account.to_owned()).or_default()
    }

    fn is_full(&self, account: &str, messages_max: u64) -> bool {
        let own = self.accounts.get(account);
        self.messages >= MESSAGES_IN_ALL_MAX
            || own.is_some_and(|line| line.sum.messages >= messages_max)
    }

    fn count(&mut self, account: &str, recipients: u64) {
        let sum = &mut self.line(account).sum;
        sum.messages += 1;
        sum.recipients = sum.recipients.saturating_add(recipients);
        self.messages += 1;
    }

    fn discount(&mut self, account: &str, recipients: u64) {
        let Some(line) = self.accounts.get_mut(account) else {
            return;
        };
        line.sum.messages = line.sum.messages.saturating_sub(1);
        line.sum.recipients = line.sum.recipients.saturating_sub(recipients);
        if line.sum.messages == 0 {
            self.accounts.remove(account);
        }
        self.messages = self.messages.saturating_sub(1);
    }
}

impl Line {
    fn is_due(&self, now: Timestamp) -> bool {
        !self.waiting.is_empty() && (self.look_at <= now || now < self.looked_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn id(number: u128) -> MessageId {
        MessageId::from_bits(number)
    }

    fn sum(messages: u64, recipients: u64) -> Sum {
        Sum {
            messages,
            recipients,
        }
    }

    #[test]
    fn whoever_comes_waits_behind_those_who_are_there() {
        let backlog = Backlog::default();
        assert!(backlog.enter("a", 5, 3));
        // One that is about to be committed counts.
        assert_eq!(backlog.sum("a"), sum(1, 5));
        assert!(backlog.enter("a", 2, 3) && backlog.enter("b", 1, 3));
        // Nothing is in hold yet.
        assert!(!backlog.is_due(at(0)));
        backlog.settle("a", &id(7), 2);
        backlog.settle("a", &id(3), 5);
        backlog.leave("b", 1);
        assert_eq!(backlog.first("a", 10), [id(3), id(7)]);
        assert_eq!(backlog.first("a", 1), [id(3)]);
        assert_eq!(backlog.first("b", 10), []);
        assert_eq!(backlog.due(at(0)), ["a"]);
        assert_eq!(backlog.summary(at(0)).messages, 2);
        backlog.remove("a", &[id(3), id(4)]);
        assert_eq!(backlog.sum("a"), sum(1, 2));
        backlog.remove("a", &[id(7)]);
        assert_eq!(backlog.summary(at(0)), Summary::default());
    }

    #[test]
    fn a_line_has_an_end() {
        let backlog = Backlog::default();
        for number in 0..3 {
            assert!(!backlog.is_full("a", 3));
            assert!(backlog.enter("a", 1, 3));
            backlog.settle("a", &id(number), 1);
        }
        assert!(backlog.is_full("a", 3));
        assert!(!backlog.enter("a", 1, 3));
        assert_eq!(backlog.sum("a"), sum(3, 3));
        assert!(!backlog.is_full("b", 3));
        // Fewer than there are already: they stay.
        assert!(!backlog.enter("a", 1, 1));
        backlog.remove("a", &[id(0)]);
        assert!(backlog.enter("a", 1, 3));

        backlog.lines().messages = MESSAGES_IN_ALL_MAX;
        assert!(!backlog.enter("b", 1, 3));
    }

    #[test]
    fn what_is_found_in_hold_counts_once() {
        let backlog = Backlog::default();
        assert!(backlog.enter("a", 4, 3));
        backlog.add("a", &id(1), 4);
        backlog.settle("a", &id(1), 4);
        backlog.add("a", &id(1), 4);
        assert_eq!(backlog.sum("a"), sum(1, 4));
        assert_eq!(backlog.summary(at(0)).messages, 1);
    }

    #[test]
    fn nobody_is_looked_after_before_their_time() {
        let backlog = Backlog::default();
        backlog.add("a", &id(1), 1);
        backlog.add("b", &id(2), 1);
        backlog.rest_until("a", at(100), at(50));
        backlog.rest_until("b", Timestamp::MAX, at(50));
        assert_eq!(backlog.summary(at(0)).next, Some(at(100)));
        assert!(!backlog.is_due(at(99)));
        assert_eq!(backlog.due(at(100)), ["a"]);
        // A message that comes behind them changes nothing.
        assert!(backlog.enter("a", 1, 3));
        backlog.settle("a", &id(3), 1);
        assert!(!backlog.is_due(at(99)));
        // The clock was set back: what was found out is worth nothing.
        assert!(backlog.is_due(at(49)));
        backlog.wake("b");
        assert_eq!(backlog.due(at(99)), ["b"]);
        backlog.rest_at_most_until("b", at(200));
        assert_eq!(backlog.due(at(99)), ["b"]);
        backlog.rest_until("b", Timestamp::MAX, at(99));
        backlog.rest_at_most_until("b", at(200));
        assert_eq!(backlog.summary(at(0)).next, Some(at(100)));
        assert_eq!(backlog.due(at(200)), ["a", "b"]);
        backlog.wake_all();
        assert_eq!(backlog.due(at(99)).len(), 2);
    }
}
