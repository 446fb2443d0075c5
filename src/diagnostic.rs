//! Findings about what an operator wrote: what is wrong, where, and what to do.
//!
//! Everything that reads a file of the operator's (configuration, accounts, certificates) reports in this form, so
//! that `serve`, `check`, a failed reload and the command line all say it the same way:
//!
//! ```text
//! error: /etc/gatepost/gatepost.toml:5:1: unknown key `hostnam`
//!   5 | hostnam = "mail.example.org"
//!     | ^^^^^^^
//! hint: did you mean `hostname`?
//! ```

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// `serve` starts all the same, and says it loudly.
    Warning,
    /// `serve` refuses to start; a reload keeps the old state.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line without a full stop.
    pub message: String,
    /// Where it is written, if in a file.
    pub place: Option<Place>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A place in a text file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line and column from 1, and what stands there; `None` for the file as a whole.
    pub spot: Option<Spot>,
}

/// A spot in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The whole line, without its end; empty where showing it could show a secret.
    pub text: String,
    /// How many characters are meant.
    pub width: usize,
}

impl Finding {
    /// An error that is not yet anywhere.
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            place: None,
            hint: None,
        }
    }

    /// A warning that is not yet anywhere.
    pub fn warning(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(message)
        }
    }

    /// The same, about a file as a whole.
    #[must_use]
    pub fn in_file(mut self, file: &Path) -> Self {
        self.place = Some(Place {
            file: file.to_owned(),
            spot: None,
        });
        self
    }

    /// The same, about the octets `span` of `source`, which is the text of `file`.
    #[must_use]
    pub fn at(mut self, file: &Path, source: &str, span: Range<usize>) -> Self {
        self.place = Some(Place {
            file: file.to_owned(),
            spot: Some(Spot::locate(source, span)),
        });
        self
    }

    /// The same, with the remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same without the line's text, for lines that may hold a secret.
    #[must_use]
    pub fn without_text(mut self) -> Self {
        if let Some(Place {
            spot: Some(spot), ..
        }) = &mut self.place
        {
            spot.text.clear();
        }
        self
    }

    /// Whether `serve` would refuse to start.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The finding in one line: what the log takes.
    pub fn one_line(&self) -> String {
        let mut line = String::new();
        if let Some(place) = &self.place {
            line.push_str(&format!("{place}: "));
        }
        line.push_str(&self.message);
        if let Some(hint) = &self.hint {
            line.push_str(&format!(" (hint: {hint})"));
        }
        without_controls(&line)
    }
}

/// A message repeats what a file says, and TOML's text can hold line ends and what steers a terminal: `name = "a\nb"`.
fn without_controls(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            plain.extend(c.escape_default());
        } else {
            plain.push(c);
        }
    }
    plain
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.severity {
            Severity::Warning => "warning: ",
            Severity::Error => "error: ",
        })?;
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&without_controls(&self.message))?;
        if let Some(Place {
            spot: Some(spot), ..
        }) = &self.place
            && !spot.text.is_empty()
        {
            let number = spot.line.to_string();
            let gutter = " ".repeat(number.len());
            let lead = " ".repeat(spot.column - 1);
            write!(
                f,
                "\n  {number} | {}\n  {gutter} | {lead}{}",
                spot.text,
                "^".repeat(spot.width)
            )?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {}", without_controls(hint))?;
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(spot) = &self.spot {
            write!(f, ":{}:{}", spot.line, spot.column)?;
        }
        Ok(())
    }
}

impl Spot {
    /// Line and column of the octets `span` in `source`. A span past the end, or inside a character, is moved to the
    /// nearest place that exists.
    pub fn locate(source: &str, span: Range<usize>) -> Self {
        let floor = |mut index: usize| {
            index = index.min(source.len());
            while !source.is_char_boundary(index) {
                index -= 1;
            }
            index
        };
        let (start, end) = (floor(span.start), floor(span.end.max(span.start)));
        let line_start = source[..start].rfind('\n').map_or(0, |index| index + 1);
        let line_end = source[start..]
            .find('\n')
            .map_or(source.len(), |index| start + index);
        let text = source[line_start..line_end].trim_end_matches('\r');
        // A tab is one column here and one blank in what is shown, so that the marks stand under what they mean.
        let width = source[start..end.min(line_end).max(start)]
            .chars()
            .count()
            .max(1);
        Self {
            line: source[..line_start].matches('\n').count() + 1,
            column: source[line_start..start].chars().count() + 1,
            text: text.replace('\t', " "),
            width,
        }
    }
}

/// The candidate that `text` is most likely a slip of the pen for, if any is near enough.
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, candidate) = candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(text, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + candidate.len() / 4).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_where() {
        let source = "a = 1\nhostnam = \"x\"\n";
        let finding = Finding::error("unknown key `hostnam`")
            .at(Path::new("gatepost.toml"), source, 6..13)
            .hint("did you mean `hostname`?");
        assert_eq!(
            finding.to_string(),
            "error: gatepost.toml:2:1: unknown key `hostnam`\n  2 | hostnam = \"x\"\n    | ^^^^^^^\nhint: did you mean `hostname`?"
        );
        assert_eq!(
            finding.one_line(),
            "gatepost.toml:2:1: unknown key `hostnam` (hint: did you mean `hostname`?)"
        );
    }

    /// An account whose name held a line end made two lines of one warning, in the log too.
    #[test]
    fn what_a_file_says_cannot_end_a_line() {
        let finding =
            Finding::warning("account `a\nb\u{1b}[2J` has no password").hint("password a\nb");
        assert_eq!(
            finding.one_line(),
            "account `a\\nb\\u{1b}[2J` has no password (hint: password a\\nb)"
        );
        assert_eq!(
            finding.to_string(),
            "warning: account `a\\nb\\u{1b}[2J` has no password\nhint: password a\\nb"
        );
    }

    #[test]
    fn odd_spans_stay_inside() {
        for span in [0..0, 3..100, 100..200, 1..2] {
            let spot = Spot::locate("\u{e9}\u{e9}", span);
            assert_eq!(spot.line, 1);
            assert!(spot.column <= 3);
        }
        assert_eq!(Spot::locate("", 0..0).column, 1);
    }

    #[test]
    fn near_names() {
        assert_eq!(nearest("hostnam", ["listen", "hostname"]), Some("hostname"));
        assert_eq!(nearest("zzz", ["listen", "hostname"]), None);
    }
}
