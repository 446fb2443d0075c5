//! When and how soon: HOLDFOR, HOLDUNTIL, BY and MT-PRIORITY of MAIL (RFC 4865, RFC 2852, RFC 6710).

use std::time::Duration;

use crate::clock::Timestamp;
use crate::envelope::{DeliverBy, DeliverByMode};

/// How long a message is to be held (RFC 4865 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// HOLDFOR: so long from now.
    For(Duration),
    /// HOLDUNTIL: until then.
    Until(Timestamp),
}

impl Hold {
    /// What was asked for, as a report about the message repeats it: the value of the field Future-Release-Request.
    pub fn request(self) -> String {
        match self {
            Self::For(interval) => format!("for;{}", interval.as_secs()),
            Self::Until(time) => format!("until;{time}"),
        }
    }

    /// When the message is to be released. `None` if that is not in the future, or further away than `longest`.
    pub fn release_at(self, now: Timestamp, longest: Duration) -> Option<Timestamp> {
        let at = match self {
            Self::For(interval) => now.checked_add(interval).ok()?,
            Self::Until(time) => time,
        };
        let latest = now.checked_add(longest).unwrap_or(Timestamp::MAX);
        (at > now && at <= latest).then_some(at)
    }
}

/// By when a message is to be delivered, counted from MAIL (RFC 2852 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    /// Seconds; not above zero only where the mode is [`DeliverByMode::Notify`].
    pub seconds: i32,
    /// What happens then.
    pub mode: DeliverByMode,
    /// Whether each server on the way is to report.
    pub trace: bool,
}

impl By {
    /// The same as a time of day.
    pub fn counted_from(self, now: Timestamp) -> DeliverBy {
        let by = jiff::SignedDuration::from_secs(self.seconds.into());
        DeliverBy {
            // Thirty years off at the most, so there is such a time.
            at: now.checked_add(by).unwrap_or(now),
            mode: self.mode,
            trace: self.trace,
        }
    }
}

/// The value of HOLDFOR, `future-release-integer = %x31-39 *8DIGIT`, or of HOLDUNTIL, `date-time` of RFC 3339 section 5.6
/// (so says erratum 2040).
pub(super) fn parse_hold(keyword: &str, value: &str) -> Option<Hold> {
    if keyword == "HOLDUNTIL" {
        return parse_date_time(value).map(Hold::Until);
    }
    let well_formed = (1..=9).contains(&value.len())
        && !value.starts_with('0')
        && value.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = value.parse().ok().filter(|_| well_formed)?;
    Some(Hold::For(Duration::from_secs(seconds)))
}

/// `full-date "T" partial-time ("Z" / time-numoffset)` and nothing else that a lenient reader would take for a time.
fn parse_date_time(text: &str) -> Option<Timestamp> {
    let rest = in_shape(text, b"0000-00-00T00:00:00")?;
    let offset = match rest.strip_prefix('.') {
        Some(fraction) => {
            let offset = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            (offset.len() < fraction.len()).then_some(offset)?
        }
        None => rest,
    };
    let well_formed = match offset.strip_prefix(['+', '-']) {
        // time-hour and time-minute.
        Some(offset) => {
            in_shape(offset, b"00:00") == Some("")
                && offset <= "23:59"
                && offset.as_bytes()[3] <= b'5'
        }
        None => offset.eq_ignore_ascii_case("Z"),
    };
    well_formed.then(|| text.parse().ok())?
}

/// What follows a text of this shape, in which `0` is any digit.
fn in_shape<'a>(text: &'a str, shape: &[u8]) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(shape.len())?;
    let fits = start.bytes().zip(shape).all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        other => byte.eq_ignore_ascii_case(other),
    });
    fits.then_some(rest)
}

/// `by-value = by-time ";" by-mode [by-trace]`, `by-time = ["-" / "+"] 1*9digit`.
pub(super) fn parse_by(value: &str) -> Option<By> {
    let (time, mode) = value.split_once(';')?;
    let digits = time.strip_prefix(['-', '+']).unwrap_or(time);
    let well_formed =
        (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let seconds: i32 = time.parse().ok().filter(|_| well_formed)?;
    let (mode, trace) = match mode.to_ascii_uppercase().as_str() {
        "N" => (DeliverByMode::Notify, false),
        "NT" => (DeliverByMode::Notify, true),
        "R" => (DeliverByMode::Return, false),
        "RT" => (DeliverByMode::Return, true),
        _ => return None,
    };
    // What is to be returned at once need not be sent.
    let possible = mode == DeliverByMode::Notify || seconds > 0;
    possible.then_some(By {
        seconds,
        mode,
        trace,
    })
}

/// `priority-value = (["-"] NZDIGIT) / "0"`.
pub(super) fn parse_priority(value: &str) -> Option<i8> {
    let digit = value.strip_prefix('-').unwrap_or(value);
    let well_formed = value == "0" || matches!(digit.as_bytes(), [b'1'..=b'9']);
    value.parse().ok().filter(|_| well_formed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        let seconds = |number| Some(Hold::For(Duration::from_secs(number)));
        for (value, expected) in [
            ("1", seconds(1)),
            ("86400", seconds(86_400)),
            ("999999999", seconds(999_999_999)),
            ("0", None),
            ("060", None),
            ("1000000000", None),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1h", None),
        ] {
            assert_eq!(parse_hold("HOLDFOR", value), expected, "{value}");
        }
    }

    #[test]
    fn times() {
        for (value, expected) in [
            ("2026-11-21T09:30:00Z", Some("2026-11-21T09:30:00Z")),
            ("2026-11-21t09:30:00.5z", Some("2026-11-21T09:30:00.5Z")),
            ("2028-02-29T23:59:59Z", Some("2028-02-29T23:59:59Z")),
            ("2026-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-11-21T24:00:00Z", None),
            ("2026-11-21T09:30:00", None),
            (
                "2026-11-21T10:30:00.25+01:00",
                Some("2026-11-21T09:30:00.25Z"),
            ),
            ("2026-11-21T00:30:00-09:00", Some("2026-11-21T09:30:00Z")),
            ("2026-11-21T09:30:00-00:00", Some("2026-11-21T09:30:00Z")),
            ("2026-11-21T09:30:00+24:00", None),
            ("2026-11-21T09:30:00+01:60", None),
            ("2026-11-21T09:30:00+0100", None),
            ("2026-11-21T09:30:00+01", None),
            ("2026-11-21T09:30:00+01:00Z", None),
            ("2026-11-21T09:30:00Zz", None),
            ("2026-11-21T09:30:00.\u{e9}Z", None),
            ("2026-11-21T09:30Z", None),
            ("2026-11-21T09:30:00.Z", None),
            ("2026-11-21 09:30:00Z", None),
            ("20261121T093000Z", None),
            ("2026-11-21T09:30:00Z[UTC]", None),
            ("+002026-11-21T09:30:00Z", None),
            ("2026-11-21T09:30:0\u{e9}Z", None),
            ("", None),
        ] {
            let expected = expected.map(|text| Hold::Until(text.parse().unwrap()));
            assert_eq!(parse_hold("HOLDUNTIL", value), expected, "{value}");
        }
    }

    #[test]
    fn releases() {
        let now: Timestamp = "2026-11-21T09:30:00Z".parse().unwrap();
        let day = Duration::from_secs(86_400);
        let hold_for = |seconds| Hold::For(Duration::from_secs(seconds)).release_at(now, day);
        let until = |text: &str| Hold::Until(text.parse().unwrap()).release_at(now, day);
        let tomorrow: Timestamp = "2026-11-22T09:30:00Z".parse().unwrap();
        assert_eq!(hold_for(86_400), Some(tomorrow));
        assert_eq!(hold_for(86_401), None);
        assert_eq!(until("2026-11-22T09:30:00Z"), Some(tomorrow));
        assert_eq!(until("2026-11-22T09:30:00.001Z"), None);
        assert_eq!(until("2026-11-21T09:30:00Z"), None);
        assert_eq!(until("2020-01-01T00:00:00Z"), None);
        let century = Duration::from_secs(u64::MAX);
        let longest = Hold::For(Duration::from_secs(999_999_999)).release_at(now, century);
        assert!(longest.is_some());
    }

    #[test]
    fn deliver_by() {
        use DeliverByMode::{Notify, Return};
        let by = |seconds, mode, trace| {
            Some(By {
                seconds,
                mode,
                trace,
            })
        };
        for (value, expected) in [
            ("120;R", by(120, Return, false)),
            ("+120;RT", by(120, Return, true)),
            ("999999999;n", by(999_999_999, Notify, false)),
            ("-999999999;NT", by(-999_999_999, Notify, true)),
            ("0;N", by(0, Notify, false)),
            ("0;R", None),
            ("-1;R", None),
            ("1000000000;N", None),
            ("120", None),
            ("120;", None),
            (";R", None),
            ("120;X", None),
            ("120;T", None),
            ("120;RX", None),
            ("120;R;T", None),
            ("--1;N", None),
            ("1.5;N", None),
            ("", None),
        ] {
            assert_eq!(parse_by(value), expected, "{value}");
        }
        let now: Timestamp = "2026-11-21T09:30:00Z".parse().unwrap();
        let at = |value| parse_by(value).unwrap().counted_from(now).at.to_string();
        assert_eq!(at("90;R"), "2026-11-21T09:31:30Z");
        assert_eq!(at("-90;N"), "2026-11-21T09:28:30Z");
    }

    #[test]
    fn priorities() {
        for (value, expected) in [
            ("0", Some(0)),
            ("9", Some(9)),
            ("-9", Some(-9)),
            ("10", None),
            ("-10", None),
            ("-0", None),
            ("+3", None),
            ("03", None),
            ("", None),
            ("-", None),
            ("high", None),
        ] {
            assert_eq!(parse_priority(value), expected, "{value}");
        }
    }
}
