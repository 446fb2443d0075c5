//! How many lines those may cause who have not logged in.
//!
//! Anybody can connect, and a connection that is broken off at once still is two lines: without a bound, a flood of them
//! fills the disk, or has the journal drop what matters along with what does not. So there is one for each minute. What
//! is beyond it is counted, and the counts are lines of their own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Instant;
use crate::decision::Limit;

/// What the bound is for.
const SPAN: Duration = Duration::from_secs(60);
/// [`Strangers::bound`] of no bound.
const UNLIMITED: u64 = u64::MAX;

/// Counts the lines of strangers. Shared by all threads.
#[derive(Debug)]
pub(super) struct Strangers {
    bound: AtomicU64,
    minute: Mutex<Minute>,
}

/// The minute that is counted. It begins with a line, so between floods there is none.
#[derive(Debug, Default)]
struct Minute {
    begun: Option<Instant>,
    written: u64,
    left_out: u64,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// It is written.
    Written,
    /// It is the first in its minute that is not.
    FirstLeftOut,
    /// It is another one that is not.
    LeftOut,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            bound: AtomicU64::new(UNLIMITED),
            minute: Mutex::default(),
        }
    }
}

impl Strangers {
    /// From now on so many are written in a minute.
    pub(super) fn apply(&self, limit: Limit) {
        let bound = match limit {
            Limit::AtMost(bound) => bound.get(),
            Limit::Unlimited => UNLIMITED,
        };
        self.bound.store(bound, Ordering::Relaxed);
    }

    /// How many are written in a minute.
    pub(super) fn bound(&self) -> u64 {
        self.bound.load(Ordering::Relaxed)
    }

    /// Counts a line. [`end_minute`](Self::end_minute) comes before.
    pub(super) fn count(&self, now: Instant) -> Line {
        let bound = self.bound();
        let mut minute = self.minute();
        minute.begun.get_or_insert(now);
        if minute.written < bound {
            minute.written += 1;
            return Line::Written;
        }
        minute.left_out += 1;
        match minute.left_out {
            1 => Line::FirstLeftOut,
            _ => Line::LeftOut,
        }
    }

    /// A stranger has logged in, and the line about its coming is none of a stranger any more.
    pub(super) fn give_back(&self) {
        let mut minute = self.minute();
        minute.written = minute.written.saturating_sub(1);
    }

    /// If a minute is over, or at the end of all: how many lines were left out, if any were. The next begins with its first
    /// line.
    pub(super) fn end_minute(&self, now: Instant, at_once: bool) -> Option<u64> {
        let mut minute = self.minute();
        let begun = minute.begun?;
        if !at_once && now.saturating_duration_since(begun) < SPAN {
            return None;
        }
        let left_out = std::mem::take(&mut *minute).left_out;
        (left_out > 0).then_some(left_out)
    }

    fn minute(&self) -> MutexGuard<'_, Minute> {
        self.minute.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::clock::Now;

    fn at_most(bound: u64) -> Strangers {
        let strangers = Strangers::default();
        strangers.apply(Limit::AtMost(NonZeroU64::new(bound).unwrap()));
        strangers
    }

    #[test]
    fn a_minute_has_its_lines_and_then_a_count() {
        let (strangers, begun) = (at_most(2), Now::read().instant);
        let after = |seconds| begun + Duration::from_secs(seconds);
        for (second, line) in [
            (0, Line::Written),
            (1, Line::Written),
            (2, Line::FirstLeftOut),
            (3, Line::LeftOut),
            (59, Line::LeftOut),
        ] {
            assert_eq!(strangers.end_minute(after(second), false), None);
            assert_eq!(strangers.count(after(second)), line, "{second} s");
        }
        assert_eq!(strangers.end_minute(after(60), false), Some(3));
        assert_eq!(strangers.end_minute(after(61), false), None);
        // The next begins with its first line, not with the end of the one before.
        assert_eq!(strangers.count(after(100)), Line::Written);
        assert_eq!(strangers.end_minute(after(159), false), None);
        assert_eq!(strangers.end_minute(after(160), false), None);
        assert_eq!(strangers.count(after(161)), Line::Written);
        assert_eq!(strangers.count(after(161)), Line::Written);
        assert_eq!(strangers.count(after(161)), Line::FirstLeftOut);
        assert_eq!(strangers.end_minute(after(162), true), Some(1));
    }

    #[test]
    fn whoever_logs_in_was_no_stranger() {
        let (strangers, now) = (at_most(1), Now::read().instant);
        for _ in 0..5 {
            assert_eq!(strangers.count(now), Line::Written);
            strangers.give_back();
        }
        assert_eq!(strangers.count(now), Line::Written);
        assert_eq!(strangers.count(now), Line::FirstLeftOut);
    }

    #[test]
    fn a_reload_counts_at_once() {
        let (strangers, now) = (at_most(1), Now::read().instant);
        assert_eq!(strangers.count(now), Line::Written);
        assert_eq!(strangers.count(now), Line::FirstLeftOut);
        strangers.apply(Limit::Unlimited);
        assert_eq!(strangers.count(now), Line::Written);
        strangers.apply(Limit::AtMost(NonZeroU64::MIN));
        assert_eq!(strangers.count(now), Line::LeftOut);
    }
}
