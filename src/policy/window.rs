//! A sliding window: how much happened in the last hour or day, in bounded memory.
//!
//! Time is cut into buckets of equal length, counted from the epoch. A unit counts for at least the whole length of the
//! window and at most one bucket longer, so a limit is never exceeded in any stretch of time of that length.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Timestamp;

/// The latest bucket that is read back: no time that a clock can show lies behind it.
const BUCKET_MAX: i64 = 1 << 40;
/// The greatest count that is read back for one bucket: nobody sends a million million messages in a quarter of an hour.
const COUNT_MAX: u64 = 1 << 40;

/// How long a window is and how finely it slides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Seconds in one bucket.
    pub(super) bucket_seconds: i64,
    /// Buckets in the window.
    pub(super) buckets: i64,
}

impl Span {
    /// 60 buckets of a minute.
    pub(super) const HOUR: Self = Self {
        bucket_seconds: 60,
        buckets: 60,
    };
    /// 96 buckets of 15 minutes.
    pub(super) const DAY: Self = Self {
        bucket_seconds: 15 * 60,
        buckets: 96,
    };

    /// The bucket that `time` falls into.
    pub(super) fn bucket(self, time: Timestamp) -> i64 {
        time.as_second().div_euclid(self.bucket_seconds)
    }

    /// How long a unit that is counted now counts at most.
    pub(super) fn longest(self) -> Duration {
        let seconds = (self.buckets + 1).saturating_mul(self.bucket_seconds);
        Duration::from_secs(seconds.unsigned_abs())
    }

    /// When what counts in `bucket` ceases to count.
    fn end(self, bucket: i64) -> Timestamp {
        let second = (bucket + self.buckets + 1).saturating_mul(self.bucket_seconds);
        Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
    }
}

/// What happened, by bucket: index and count, in the order of time, without empty ones.
///
/// It never holds more than one bucket more than the window has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    buckets: VecDeque<(i64, u64)>,
}

impl Window {
    /// A window with these buckets, if they could have come from a window: in order, none empty, not too many.
    pub(super) fn restore(buckets: Vec<(i64, u64)>, span: Span) -> Option<Self> {
        let plausible = buckets.len() as i64 <= span.buckets + 1
            && buckets.is_sorted_by(|before, after| before.0 < after.0)
            && buckets.iter().all(|&(index, count)| {
                (0..=BUCKET_MAX).contains(&index) && (1..=COUNT_MAX).contains(&count)
            });
        plausible.then(|| Self {
            buckets: buckets.into(),
        })
    }

    /// Its buckets, for keeping.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (i64, u64)> {
        self.buckets.iter().copied()
    }

    /// Forgets what has ceased to count at `now`.
    ///
    /// Buckets of the future come from a clock that was put back. They count as if they were of now: neither forgotten,
    /// nor in force until that future comes.
    pub(super) fn slide(&mut self, span: Span, now: Timestamp) {
        let current = span.bucket(now);
        let mut from_the_future = 0_u64;
        while let Some(&(index, count)) = self.buckets.back()
            && index > current
        {
            from_the_future = from_the_future.saturating_add(count);
            self.buckets.pop_back();
        }
        if from_the_future > 0 {
            self.add_to(current, from_the_future);
        }
        while let Some(&(index, _)) = self.buckets.front()
            && index < current - span.buckets
        {
            self.buckets.pop_front();
        }
    }

    /// How much counts. [`slide`](Self::slide) comes first.
    pub(super) fn used(&self) -> u64 {
        self.buckets
            .iter()
            .fold(0, |sum, &(_, count)| sum.saturating_add(count))
    }

    /// Counts `count` more at `now`. [`slide`](Self::slide) comes first.
    pub(super) fn add(&mut self, span: Span, now: Timestamp, count: u64) {
        if count > 0 {
            self.add_to(span.bucket(now), count);
        }
    }

    /// Counts up to `count` less, the latest first.
    pub(super) fn take_back(&mut self, mut count: u64) {
        while count > 0
            && let Some((_, last)) = self.buckets.back_mut()
        {
            let back = count.min(*last);
            *last -= back;
            count -= back;
            if *last == 0 {
                self.buckets.pop_back();
            }
        }
    }

    /// When so much has ceased to count that at most `allowed` is left; `None` if that is so already.
    pub(super) fn falls_to(&self, span: Span, allowed: u64) -> Option<Timestamp> {
        let mut used = self.used();
        let mut frees = None;
        for &(index, count) in &self.buckets {
            if used <= allowed {
                break;
            }
            used = used.saturating_sub(count);
            frees = Some(span.end(index));
        }
        frees
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Adds to a bucket that is not older than the newest.
    fn add_to(&mut self, index: i64, count: u64) {
        match self.buckets.back_mut() {
            Some((last, sum)) if *last == index => *sum = sum.saturating_add(count),
            _ => self.buckets.push_back((index, count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn add(window: &mut Window, seconds: i64, count: u64) {
        window.slide(Span::HOUR, at(seconds));
        window.add(Span::HOUR, at(seconds), count);
    }

    fn used(window: &mut Window, seconds: i64) -> u64 {
        window.slide(Span::HOUR, at(seconds));
        window.used()
    }

    #[test]
    fn a_unit_counts_for_the_whole_window() {
        for second in [0, 1, 59, 60, 61] {
            let mut window = Window::default();
            add(&mut window, second, 1);
            assert_eq!(used(&mut window, second + 3600 - 1), 1, "{second}");
            assert_eq!(used(&mut window, second + 3600 + 60), 0, "{second}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut window = Window::default();
        for second in 0..20_000 {
            add(&mut window, second, 1);
            assert!(window.buckets.len() <= 61);
        }
        assert_eq!(window.buckets.len(), 61);
    }

    #[test]
    fn a_clock_put_back_neither_forgets_nor_blocks_for_ever() {
        let mut window = Window::default();
        add(&mut window, 0, 1);
        add(&mut window, 600, 2);
        add(&mut window, 10 * 365 * 86400, 4);
        // Everything older was forgotten when the clock was wrong; what is left counts from now.
        assert_eq!(used(&mut window, 700), 4);
        assert_eq!(used(&mut window, 700 + 3600 - 60), 4);
        assert_eq!(used(&mut window, 700 + 3600 + 60), 0);
        // A small step back merges into the present.
        add(&mut window, 10_000, 1);
        add(&mut window, 9_000, 1);
        assert_eq!(used(&mut window, 9_000), 2);
        assert_eq!(window.buckets.len(), 1);
    }

    #[test]
    fn when_room_frees() {
        let mut window = Window::default();
        add(&mut window, 0, 2);
        add(&mut window, 120, 3);
        assert_eq!(window.falls_to(Span::HOUR, 5), None);
        assert_eq!(window.falls_to(Span::HOUR, 4), Some(at(3660)));
        assert_eq!(window.falls_to(Span::HOUR, 3), Some(at(3660)));
        assert_eq!(window.falls_to(Span::HOUR, 2), Some(at(3780)));
        assert_eq!(used(&mut window, 3659), 5);
        assert_eq!(used(&mut window, 3660), 3);
    }

    #[test]
    fn taking_back() {
        let mut window = Window::default();
        add(&mut window, 0, 2);
        add(&mut window, 120, 3);
        window.take_back(4);
        assert_eq!(
            window.buckets().map(|(_, count)| count).collect::<Vec<_>>(),
            [1]
        );
        window.take_back(4);
        assert!(window.is_empty());
    }

    #[test]
    fn only_what_a_window_could_hold_is_restored() {
        let good = vec![(5, 1), (6, 2)];
        assert!(Window::restore(good, Span::HOUR).is_some());
        for absurd in [
            vec![(6, 1), (5, 1)],
            vec![(5, 1), (5, 1)],
            vec![(5, 0)],
            vec![(-1, 1)],
            vec![(i64::MAX, 1)],
            vec![(5, u64::MAX)],
            (0..62).map(|index| (index, 1)).collect(),
        ] {
            assert!(
                Window::restore(absurd.clone(), Span::HOUR).is_none(),
                "{absurd:?}"
            );
        }
    }
}
