//! A small typed reader over a parsed TOML document, which collects findings instead of stopping at the first.
//!
//! `serde` stops at the first error; an operator wants to hear of all of them at once. So a value that cannot be used
//! is reported and read as its default, and whoever asked goes on. The document as a whole is refused at the end, by
//! the findings.

use std::cell::RefCell;
use std::fmt::Display;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::keys::{Meaning, bracketed, hint_for_unknown, join, meaning};
use super::quantity::{
    Bounds, DURATION_FORMS, Problem, SIZE_FORMS, Size, Wait, parse_duration, parse_size,
};
use crate::decision::{Limit, Origin};
use crate::diagnostic::{Finding, Spot};

/// The word for a mechanism that is not wanted.
const OFF: &str = "off";

/// The word for a limit that does not hold.
const UNLIMITED: &str = "unlimited";

/// A document that is being read.
pub(super) struct Document<'s> {
    file: &'s Path,
    shared_file: Arc<Path>,
    source: &'s str,
    root: Spanned<DeTable<'s>>,
    /// With where each begins, so that they come out in the order of the file. A cell, because the sections of one
    /// document are read in any order and all report here.
    findings: RefCell<Vec<(usize, Finding)>>,
}

impl<'s> Document<'s> {
    /// Parses `source`, the text of `file`. A syntax error comes alone: what follows it cannot be trusted.
    pub(super) fn parse(file: &'s Path, source: &'s str) -> Result<Self, Vec<Finding>> {
        let root = DeTable::parse(source).map_err(|error| {
            let finding = Finding::error(error.message().replace('\n', " "));
            let finding = match error.span() {
                Some(span) => finding.at(file, source, span),
                None => finding.in_file(file),
            };
            let hint = if error.message().starts_with("duplicate") {
                "each key, and each table with single brackets, can be there once"
            } else {
                "this is not TOML; see https://toml.io for its rules"
            };
            vec![finding.hint(hint)]
        })?;
        Ok(Self {
            file,
            shared_file: file.into(),
            source,
            root,
            findings: RefCell::default(),
        })
    }

    /// The table of this full name; empty when it is not there. The empty name is the top of the file.
    pub(super) fn section(&self, name: &'static str) -> Section<'_> {
        let mut table = self.root.get_ref();
        let mut span = self.root.span();
        let mut path = String::new();
        for step in name.split('.').filter(|step| !step.is_empty()) {
            path = join(&path, step);
            let Some(value) = table.get(step) else {
                return Section::new(self, name, None, 0..0);
            };
            let DeValue::Table(inner) = value.get_ref() else {
                let hint = if is_list_of_tables(value.get_ref()) {
                    format!("write [{path}], once and with one pair of brackets")
                } else {
                    format!("write its keys below [{path}]")
                };
                let text = format!("`{path}` is {}, not a table", kind(value.get_ref()));
                self.report(value.span(), Finding::error(text).hint(hint));
                return Section::new(self, name, None, 0..0);
            };
            table = inner;
            span = value.span();
        }
        Section::new(self, name, Some(table), span)
    }

    /// All tables `[[name]]`, in their order.
    pub(super) fn sections(&self, name: &'static str) -> Vec<Section<'_>> {
        let Some(value) = self.root.get_ref().get(name) else {
            return Vec::new();
        };
        let wrong = |span: Range<usize>, value: &DeValue<'_>| {
            let text = format!("`{name}` is {}, not a list of tables", kind(value));
            let hint = format!("write [[{name}]] with two pairs of brackets; there may be several");
            self.report(span, Finding::error(text).hint(hint));
        };
        let DeValue::Array(elements) = value.get_ref() else {
            wrong(value.span(), value.get_ref());
            return Vec::new();
        };
        let mut sections = Vec::new();
        for element in elements.iter() {
            match element.get_ref() {
                DeValue::Table(table) => {
                    sections.push(Section::new(self, name, Some(table), element.span()));
                }
                other => wrong(element.span(), other),
            }
        }
        sections
    }

    /// Whether there is not even an attempt at a table `[[name]]`.
    pub(super) fn lacks(&self, name: &str) -> bool {
        match self.root.get_ref().get(name).map(Spanned::get_ref) {
            None => true,
            Some(DeValue::Array(elements)) => elements.is_empty(),
            Some(_) => false,
        }
    }

    /// Reports every key and table that nobody knows.
    pub(super) fn report_unknown(&self) {
        self.report_unknown_in("", self.root.get_ref());
    }

    fn report_unknown_in(&self, path: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = key.get_ref();
            let full = join(path, name);
            match (meaning(&full), value.get_ref()) {
                (Meaning::Table, DeValue::Table(inner)) => self.report_unknown_in(&full, inner),
                (Meaning::Table, DeValue::Array(elements)) => {
                    for element in elements.iter() {
                        if let DeValue::Table(inner) = element.get_ref() {
                            self.report_unknown_in(&full, inner);
                        }
                    }
                }
                // A table that is something else was reported by whoever looked for it.
                (Meaning::Key | Meaning::Table, _) => {}
                (Meaning::Unknown, value) => {
                    let shown = name.escape_debug();
                    let text = match value {
                        DeValue::Table(_) => format!("unknown table [{}]", full.escape_debug()),
                        value if is_list_of_tables(value) => {
                            format!("unknown table [[{}]]", full.escape_debug())
                        }
                        _ if path.is_empty() => format!("unknown key `{shown}`"),
                        _ => format!("unknown key `{shown}` in {}", bracketed(path)),
                    };
                    let hint = hint_for_unknown(path, name);
                    self.report(key.span(), Finding::error(text).hint(hint));
                }
            }
        }
    }

    /// Reports a finding about the octets `span`.
    pub(super) fn report(&self, span: Range<usize>, finding: Finding) {
        let start = span.start;
        let finding = finding.at(self.file, self.source, span);
        self.findings.borrow_mut().push((start, finding));
    }

    /// Reports a finding about the file as a whole. These come last.
    pub(super) fn report_whole(&self, finding: Finding) {
        let finding = finding.in_file(self.file);
        self.findings.borrow_mut().push((usize::MAX, finding));
    }

    /// Where the octets `span` are.
    pub(super) fn origin(&self, span: Range<usize>) -> Origin {
        Origin {
            file: Arc::clone(&self.shared_file),
            line: Spot::locate(self.source, span).line,
        }
    }

    /// All findings, in the order of the file.
    pub(super) fn into_findings(self) -> Vec<Finding> {
        let mut findings = self.findings.into_inner();
        findings.sort_by_key(|(start, _)| *start);
        // [limits] is looked up twice, for itself and for [limits.account]; one finding is enough.
        findings.dedup();
        findings.into_iter().map(|(_, finding)| finding).collect()
    }
}

/// One table of a document.
pub(super) struct Section<'d> {
    document: &'d Document<'d>,
    name: &'static str,
    table: Option<&'d DeTable<'d>>,
    span: Range<usize>,
}

/// A value together with where it is written.
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<'d> Section<'d> {
    fn new(
        document: &'d Document<'_>,
        name: &'static str,
        table: Option<&'d DeTable<'d>>,
        span: Range<usize>,
    ) -> Self {
        Self {
            document,
            name,
            table,
            span,
        }
    }

    /// Where its header is.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Where the value of `key` is, if it is written.
    pub(super) fn span_of(&self, key: &'static str) -> Option<Range<usize>> {
        self.value(key).map(Spanned::span)
    }

    /// Whether `key` is written, usable or not.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// Reports that a key that must be there is not.
    pub(super) fn report_missing(&self, key: &str, hint: &str) {
        let finding = Finding::error(match self.name {
            "" => format!("`{key}` is missing"),
            name => format!("{} has no `{key}`", bracketed(name)),
        })
        .hint(hint);
        if self.table.is_some() {
            self.document.report(self.span(), finding);
        } else {
            self.document.report_whole(finding);
        }
    }

    /// A text.
    pub(super) fn text(&self, key: &'static str, example: &str) -> Option<Located<&'d str>> {
        self.read(key, |value| match value {
            DeValue::String(text) => Ok(text.as_ref()),
            other => Err(wrong_kind(key, other, "a text", example)),
        })
    }

    /// A text, or a list of texts; never an empty list.
    pub(super) fn texts(&self, key: &'static str, example: &str) -> Vec<Located<&'d str>> {
        if let Some(value) = self.value(key)
            && let DeValue::Array(elements) = value.get_ref()
            && elements.is_empty()
        {
            self.report(key, value.span(), Problem::new("is empty", example));
        }
        self.texts_if_any(key, example)
    }

    /// The same, where an empty list means something.
    pub(super) fn texts_if_any(&self, key: &'static str, example: &str) -> Vec<Located<&'d str>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let elements = match value.get_ref() {
            DeValue::Array(elements) => elements.iter().collect(),
            _ => vec![value],
        };
        let mut texts = Vec::new();
        for element in elements {
            match element.get_ref() {
                DeValue::String(text) => texts.push(Located {
                    value: text.as_ref(),
                    span: element.span(),
                }),
                other => {
                    let problem = wrong_kind(key, other, "a text or a list of texts", example);
                    self.report(key, element.span(), problem);
                }
            }
        }
        texts
    }

    /// A path. A relative one is relative to the file that names it.
    pub(super) fn path(&self, key: &'static str, example: &str) -> Option<PathBuf> {
        let text = self.read(key, |value| match value {
            DeValue::String(text) if text.is_empty() => Err(Problem::new("is empty", example)),
            DeValue::String(text) if text.contains('\0') => {
                Err(Problem::new("holds a NUL, which no path can", example))
            }
            DeValue::String(text) => Ok(text.as_ref()),
            other => Err(wrong_kind(key, other, "a path", example)),
        })?;
        let directory = self.document.file.parent().unwrap_or(Path::new(""));
        Some(directory.join(text.value))
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &'static str, default: bool) -> bool {
        self.read(key, |value| match value {
            DeValue::Boolean(flag) => Ok(*flag),
            other => Err(wrong_kind(
                key,
                other,
                "a boolean",
                "write true or false, without quotes",
            )),
        })
        .map_or(default, |flag| flag.value)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, default: T, words: &[(&str, T)]) -> T {
        self.choice_at(key, default, words).0
    }

    /// The same, and where it was made.
    pub(super) fn choice_at<T: Copy>(
        &self,
        key: &'static str,
        default: T,
        words: &[(&str, T)],
    ) -> (T, Option<Origin>) {
        let list = words
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect::<Vec<_>>()
            .join(", ");
        let hint = format!("one of: {list}");
        self.read(key, |value| match value {
            DeValue::String(text) => words
                .iter()
                .find(|(word, _)| word == text)
                .map(|(_, choice)| *choice)
                .ok_or_else(|| {
                    let text = format!("cannot be \"{}\"", text.escape_debug());
                    Problem::new(text, hint.clone())
                }),
            other => Err(wrong_kind(key, other, "a text", &hint)),
        })
        .map_or((default, None), |choice| {
            (choice.value, Some(self.document.origin(choice.span)))
        })
    }

    /// A whole number within bounds.
    pub(super) fn count<T>(&self, key: &'static str, default: T, bounds: Bounds<T>) -> T
    where
        T: Copy + PartialOrd + Display + TryFrom<i128>,
    {
        self.read(key, |value| match value {
            DeValue::Integer(integer) => match integer_of(integer).map(|n| (n, T::try_from(n))) {
                Some((_, Ok(count))) => bounds.check(count),
                Some((number, Err(_))) if number < 0 => Err(bounds.too_low()),
                _ => Err(bounds.too_high()),
            },
            DeValue::String(text) if text == UNLIMITED => Err(bounds.cannot_be_lifted()),
            other => Err(wrong_kind(
                key,
                other,
                "a whole number",
                &format!("write it without quotes: {key} = {default}"),
            )),
        })
        .map_or(default, |count| count.value)
    }

    /// A size within bounds, in octets; `None` if it is not there or not usable.
    pub(super) fn size_if_any(
        &self,
        key: &'static str,
        bounds: Bounds<Size>,
    ) -> Option<Located<u64>> {
        self.read(key, |value| match value {
            DeValue::Integer(integer) => match integer_of(integer) {
                Some(number) => match u64::try_from(number) {
                    Ok(octets) => bounds.check(Size(octets)),
                    Err(_) if number < 0 => Err(bounds.too_low()),
                    Err(_) => Err(bounds.too_high()),
                },
                None => Err(bounds.too_high()),
            },
            DeValue::String(text) if text == UNLIMITED => Err(bounds.cannot_be_lifted()),
            DeValue::String(text) => parse_size(text).and_then(|size| bounds.check(size)),
            other => Err(wrong_kind(key, other, "a size", SIZE_FORMS)),
        })
        .map(|size| Located {
            value: size.value.0,
            span: size.span,
        })
    }

    /// A size within bounds, in octets.
    pub(super) fn size(&self, key: &'static str, default: u64, bounds: Bounds<Size>) -> u64 {
        self.size_if_any(key, bounds)
            .map_or(default, |size| size.value)
    }

    /// A duration within bounds.
    pub(super) fn duration(
        &self,
        key: &'static str,
        default: Duration,
        bounds: Bounds<Wait>,
    ) -> Duration {
        self.read(key, |value| wait(key, value, &bounds))
            .map_or(default, |wait| wait.value.0)
    }

    /// A duration within bounds; `None` for the word "off".
    pub(super) fn duration_or_off(
        &self,
        key: &'static str,
        default: Option<Duration>,
        bounds: Bounds<Wait>,
    ) -> Option<Duration> {
        self.read(key, |value| match value {
            DeValue::String(text) if text == OFF => Ok(None),
            other => wait(key, other, &bounds)
                .map(Some)
                .map_err(|problem| Problem {
                    hint: problem.hint.map(|hint| format!("{hint}; or \"off\"")),
                    ..problem
                }),
        })
        .map_or(default, |wait| wait.value.map(|wait| wait.0))
    }

    /// A limit that can be lifted, and where it is written.
    pub(super) fn limit(&self, key: &'static str, default: Limit) -> (Limit, Option<Origin>) {
        let hint = "write a number from 1, or \"unlimited\" for no limit";
        self.read(key, |value| match value {
            DeValue::Integer(integer) => integer_of(integer)
                .and_then(|number| u64::try_from(number).ok())
                .and_then(NonZeroU64::new)
                .map(Limit::AtMost)
                .ok_or_else(|| Problem::new("must be at least 1", hint)),
            DeValue::String(text) if text == UNLIMITED => Ok(Limit::Unlimited),
            DeValue::String(text) => Err(Problem::new(
                format!("cannot be \"{}\"", text.escape_debug()),
                hint,
            )),
            other => Err(wrong_kind(key, other, "a number", hint)),
        })
        .map_or((default, None), |limit| {
            (limit.value, Some(self.document.origin(limit.span)))
        })
    }

    /// Reports a problem with the value of `key`, which is written at `span`.
    pub(super) fn report(&self, key: &str, span: Range<usize>, problem: Problem) {
        let mut finding = Finding::error(format!("`{}` {}", join(self.name, key), problem.text));
        finding.hint = problem.hint;
        self.document.report(span, finding);
    }

    /// Converts the value of `key`, if it is there; reports it if that fails.
    fn read<T>(
        &self,
        key: &'static str,
        convert: impl FnOnce(&'d DeValue<'d>) -> Result<T, Problem>,
    ) -> Option<Located<T>> {
        let value = self.value(key)?;
        match convert(value.get_ref()) {
            Ok(converted) => Some(Located {
                value: converted,
                span: value.span(),
            }),
            Err(problem) => {
                self.report(key, value.span(), problem);
                None
            }
        }
    }

    fn value(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        let full = join(self.name, key);
        debug_assert_eq!(meaning(&full), Meaning::Key, "{full} is not in KEYS");
        self.table?.get(key)
    }
}

/// Reads a duration within bounds.
fn wait(key: &str, value: &DeValue<'_>, bounds: &Bounds<Wait>) -> Result<Wait, Problem> {
    match value {
        DeValue::String(text) if text == UNLIMITED => Err(bounds.cannot_be_lifted()),
        DeValue::String(text) => parse_duration(text).and_then(|wait| bounds.check(wait)),
        DeValue::Integer(_) => Err(Problem::new("has no unit", DURATION_FORMS)),
        other => Err(wrong_kind(key, other, "a duration", DURATION_FORMS)),
    }
}

/// The problem with a value of another type than the one that was wanted.
fn wrong_kind(key: &str, value: &DeValue<'_>, wanted: &str, hint: &str) -> Problem {
    let hint = match value {
        DeValue::Table(_) => format!("`{key}` is a key, not a table; {hint}"),
        _ => hint.to_owned(),
    };
    Problem::new(format!("is {}, not {wanted}", kind(value)), hint)
}

/// The name of a value's type, for people.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Array(_) => "a list",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Float(_) => "a fraction",
        DeValue::Integer(_) => "a number",
        DeValue::String(_) => "a text",
        DeValue::Table(_) => "a table",
    }
}

/// Whether `value` is what `[[name]]` makes.
fn is_list_of_tables(value: &DeValue<'_>) -> bool {
    matches!(value, DeValue::Array(elements)
        if elements.iter().any(|element| matches!(element.get_ref(), DeValue::Table(_))))
}

/// The number, unless it has more digits than any setting can use.
fn integer_of(integer: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}
