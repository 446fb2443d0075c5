//! The time, read in one place and handed down.
//!
//! The protocol core and the policy never read a clock: they are given a [`Now`], so that a test can move time as it
//! likes and a dialogue replays exactly.

use std::time::Duration;

pub use jiff::Timestamp;
pub use std::time::Instant;

/// One moment, on both clocks.
///
/// `instant` measures waiting (it never goes backwards); `wall` is what people and protocols call the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock: deadlines and durations.
    pub instant: Instant,
    /// The calendar clock, UTC: what is written into messages, envelopes and limits.
    pub wall: Timestamp,
}

impl Now {
    /// Reads both clocks of the machine.
    #[expect(
        clippy::disallowed_methods,
        reason = "the sanctioned door to the clocks"
    )]
    pub fn read() -> Self {
        Self {
            instant: Instant::now(),
            wall: Timestamp::now(),
        }
    }

    /// This moment moved forward by `by`; what tests use to let time pass.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        let wall = jiff::SignedDuration::try_from(by)
            .ok()
            .and_then(|by| self.wall.checked_add(by).ok());
        Self {
            instant: self.instant + by,
            wall: wall.unwrap_or(Timestamp::MAX),
        }
    }
}

/// `time` as RFC 5322 section 3.3 writes dates: `Sat, 21 Nov 2026 09:30:00 +0000`.
pub fn rfc5322_date(time: Timestamp) -> String {
    time.to_zoned(jiff::tz::TimeZone::UTC)
        .strftime("%a, %d %b %Y %H:%M:%S +0000")
        .to_string()
}

/// `time` as the envelope and the log write it: RFC 3339, UTC, milliseconds.
pub fn rfc3339_milliseconds(time: Timestamp) -> String {
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations() {
        let time: Timestamp = "2026-11-21T09:30:00.1234Z".parse().unwrap();
        assert_eq!(rfc5322_date(time), "Sat, 21 Nov 2026 09:30:00 +0000");
        assert_eq!(rfc3339_milliseconds(time), "2026-11-21T09:30:00.123Z");
        let single_digit: Timestamp = "2026-02-03T00:00:00Z".parse().unwrap();
        assert_eq!(
            rfc5322_date(single_digit),
            "Tue, 03 Feb 2026 00:00:00 +0000"
        );
        assert_eq!(
            rfc3339_milliseconds(single_digit),
            "2026-02-03T00:00:00.000Z"
        );
    }
}
