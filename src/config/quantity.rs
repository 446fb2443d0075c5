//! Sizes and durations as operators write them, and the bounds that they must keep.
//!
//! `humantime` and `bytesize` read the texts; what they say about a text that they cannot read is not fit for an
//! operator, so the errors are ours.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;

/// Why a value cannot be used, told so that it reads on after the key's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// `must be at least 100`
    pub(super) text: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
}

impl Problem {
    /// A problem with its remedy.
    pub(super) fn new(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            hint: Some(hint.into()),
        }
    }
}

/// The values that a key may have, ends included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds<T> {
    /// Not below this.
    pub(super) least: T,
    /// Not above this.
    pub(super) most: T,
    /// Why not below; shown as the hint.
    pub(super) reason: Option<&'static str>,
}

impl<T> Bounds<T> {
    /// Bounds that speak for themselves.
    pub(super) const fn new(least: T, most: T) -> Self {
        Self {
            least,
            most,
            reason: None,
        }
    }

    /// The same, with the reason for the lower one.
    pub(super) const fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }
}

impl<T: Copy + PartialOrd + fmt::Display> Bounds<T> {
    /// `value`, if it is within them.
    pub(super) fn check(&self, value: T) -> Result<T, Problem> {
        if value < self.least {
            Err(self.too_low())
        } else if value > self.most {
            Err(self.too_high())
        } else {
            Ok(value)
        }
    }

    /// The problem with a value below the bounds.
    pub(super) fn too_low(&self) -> Problem {
        let Self { least, most, .. } = self;
        let text = format!("must be at least {least}");
        match self.reason {
            Some(reason) => Problem::new(text, reason),
            None => Problem::new(text, format!("anything from {least} to {most} will do")),
        }
    }

    /// The problem with a value above the bounds.
    pub(super) fn too_high(&self) -> Problem {
        let Self { least, most, .. } = self;
        Problem::new(
            format!("must be at most {most}"),
            format!("anything from {least} to {most} will do"),
        )
    }

    /// The problem with the word for no limit where there must be one.
    pub(super) fn cannot_be_lifted(&self) -> Problem {
        Problem::new(
            "cannot be lifted",
            format!(
                "the most is {}; only limits of accounts and of the log can be \"unlimited\"",
                self.most
            ),
        )
    }
}

/// Octets, shown in the largest unit that divides them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << shift && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{} octets", self.0)
    }
}

/// A wait, shown as it would be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wait(pub(super) Duration);

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            1.. if seconds.is_multiple_of(86_400) => write!(f, "{}d", seconds / 86_400),
            1.. if seconds.is_multiple_of(3600) => write!(f, "{}h", seconds / 3600),
            1.. if seconds.is_multiple_of(60) => write!(f, "{}m", seconds / 60),
            _ => write!(f, "{seconds}s"),
        }
    }
}

/// Reads `"35MiB"`.
pub(super) fn parse_size(text: &str) -> Result<Size, Problem> {
    match text.parse::<ByteSize>() {
        Ok(size) => Ok(Size(size.as_u64())),
        Err(_) if text.starts_with('-') => Err(Problem::new("cannot be negative", SIZE_FORMS)),
        Err(_) => Err(Problem::new(
            format!("is not a size: \"{}\"", text.escape_debug()),
            SIZE_FORMS,
        )),
    }
}

/// Reads `"5m"`.
pub(super) fn parse_duration(text: &str) -> Result<Wait, Problem> {
    match humantime::parse_duration(text) {
        Ok(duration) => Ok(Wait(duration)),
        Err(_) if text.starts_with('-') => Err(Problem::new("cannot be negative", DURATION_FORMS)),
        Err(_) => Err(Problem::new(
            format!("is not a duration: \"{}\"", text.escape_debug()),
            DURATION_FORMS,
        )),
    }
}

/// How sizes are written.
pub(super) const SIZE_FORMS: &str =
    "write octets as a number, or a text with a unit: 65536, \"512KiB\", \"35MiB\", \"1GiB\"";

/// How durations are written.
pub(super) const DURATION_FORMS: &str = "write a text with a unit: \"30s\", \"5m\", \"1h\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("512KiB", Some(512 << 10)),
            ("35 MiB", Some(35 << 20)),
            ("1.5MiB", Some(3 << 19)),
            ("1MB", Some(1_000_000)),
            ("", None),
            ("35 mebi", None),
            ("-1", None),
            ("MiB", None),
        ] {
            assert_eq!(parse_size(text).ok(), size.map(Size), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("30s", Some(30)),
            ("5m", Some(300)),
            ("1h 30m", Some(5400)),
            ("1d", Some(86_400)),
            ("", None),
            ("5", None),
            ("-5m", None),
            ("5 parsecs", None),
        ] {
            assert_eq!(
                parse_duration(text).ok(),
                seconds.map(|seconds| Wait(Duration::from_secs(seconds))),
                "{text}"
            );
        }
    }

    #[test]
    fn shown_as_written() {
        for size in ["19MiB", "64KiB", "1TiB", "1025KiB"] {
            assert_eq!(parse_size(size).unwrap().to_string(), size);
        }
        assert_eq!(Size(100).to_string(), "100 octets");
        for wait in ["1s", "90s", "5m", "1h", "1d"] {
            assert_eq!(parse_duration(wait).unwrap().to_string(), wait);
        }
    }

    #[test]
    fn bounds_include_their_ends() {
        let bounds = Bounds::new(1, 3);
        assert!(bounds.check(0).is_err());
        assert!(bounds.check(1).is_ok());
        assert!(bounds.check(3).is_ok());
        assert!(bounds.check(4).is_err());
    }
}
