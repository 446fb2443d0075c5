//! Findings about the accounts file while it is read: where each is, and that none shows a secret.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::decision::Origin;
use crate::diagnostic::Finding;

/// Findings about one file. Whoever makes the same mistake in ten thousand entries needs no ten thousand lines.
pub(super) const FINDINGS_MAX: usize = 100;

/// A finding whose place is still a span.
struct Draft {
    finding: Finding,
    span: Range<usize>,
}

/// What is to say about one text.
pub(super) struct Notes<'s> {
    path: Arc<Path>,
    source: &'s str,
    /// Where each line begins.
    line_starts: Vec<usize>,
    drafts: Vec<Draft>,
    /// Spans whose lines are never shown.
    secrets: Vec<Range<usize>>,
}

impl<'s> Notes<'s> {
    /// Nothing yet, about `source`, which is the text of the file `path`.
    pub(super) fn new(path: &Path, source: &'s str) -> Self {
        let behind_line_ends = source.match_indices('\n').map(|(index, _)| index + 1);
        Self {
            path: path.into(),
            source,
            line_starts: std::iter::once(0).chain(behind_line_ends).collect(),
            drafts: Vec::new(),
            secrets: Vec::new(),
        }
    }

    /// The lines of `span` may hold a secret: they are never shown.
    pub(super) fn secret(&mut self, span: Range<usize>) {
        self.secrets.push(span);
    }

    /// Notes an error.
    pub(super) fn error(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
    ) -> &mut Finding {
        self.note(span, Finding::error(message))
    }

    /// Notes a warning.
    pub(super) fn warning(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
    ) -> &mut Finding {
        self.note(span, Finding::warning(message))
    }

    fn note(&mut self, span: &Range<usize>, finding: Finding) -> &mut Finding {
        let span = span.clone();
        let index = self.drafts.len();
        self.drafts.push(Draft { finding, span });
        &mut self.drafts[index].finding
    }

    /// The findings in the order of the file, errors before warnings where there are too many.
    pub(super) fn finish(mut self) -> Vec<Finding> {
        let mut secret_lines: Vec<(usize, usize)> = self
            .secrets
            .iter()
            .map(|span| (self.line(span.start), self.line(span.end)))
            .collect();
        secret_lines.sort_unstable();
        let total = self.drafts.len();
        if total > FINDINGS_MAX {
            self.drafts.sort_by_key(|draft| !draft.finding.is_error());
            self.drafts.truncate(FINDINGS_MAX);
        }
        self.drafts.sort_by_key(|draft| draft.span.start);
        let mut findings: Vec<Finding> = Vec::with_capacity(self.drafts.len());
        for Draft { finding, span } in std::mem::take(&mut self.drafts) {
            let line = self.line(span.start);
            let finding = finding.at(&self.path, self.source, span);
            let secret = secret_lines
                .iter()
                .any(|&(first, last)| (first..=last).contains(&line));
            findings.push(if secret {
                finding.without_text()
            } else {
                finding
            });
        }
        if total > FINDINGS_MAX {
            let more = total - FINDINGS_MAX;
            findings
                .push(Finding::warning(format!("and {more} more findings")).in_file(&self.path));
        }
        findings
    }

    /// Where `span` begins.
    pub(super) fn origin(&self, span: &Range<usize>) -> Origin {
        Origin {
            file: Arc::clone(&self.path),
            line: self.line(span.start),
        }
    }

    /// The line, from 1, on which the octet at `index` stands.
    pub(super) fn line(&self, index: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= index)
    }

    /// The text of the line on which the octet at `index` stands.
    pub(super) fn line_text(&self, index: usize) -> &'s str {
        let line = self.line(index);
        let start = self.line_starts[line - 1];
        let end = self.line_starts.get(line).copied();
        &self.source[start..end.unwrap_or(self.source.len())]
    }
}
