//! The accounts file: TOML to accounts, with every mistake in it found at once and said with its place.
//!
//! What a line with a password says is never shown, nor is the value of an unknown key, which may be a misspelt
//! `password`. A file with any error gives no accounts at all: whoever reads it keeps what it had before. Nothing here
//! writes the file (that is [`edit`](super::edit)) or compares a password.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::identity::{NAME_BYTES_MAX, prepare_name};
use super::password::{Parameters, PasswordHash};
use crate::decision::{Account, Limit, Origin, SenderPattern};
use crate::diagnostic::{Finding, nearest};
use crate::smtp::address::Mailbox;

/// Octets in an accounts file: more than a hundred thousand accounts, and nothing that a mistaken path could name.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// Findings about one file. Whoever makes the same mistake in ten thousand entries needs no ten thousand lines.
const FINDINGS_MAX: usize = 100;
/// How often a file that changes while it is read is read again.
const READ_TRIES: usize = 3;
/// Accounts up to which a mistyped name is compared with all of them.
const COMPARED_ACCOUNTS_MAX: usize = 1000;
/// Octets in a name up to which it is compared with others: the bound of RFC 5321 section 4.5.3.1.3, without brackets.
const COMPARED_BYTES_MAX: usize = 254;
/// Slips in a name that is still plainly meant to be another one.
const SLIPS_MAX: usize = 2;
/// Characters in a name below which two slips say nothing any more.
const COMPARED_CHARACTERS_MIN: usize = 4;

/// All keys of an `[[account]]`.
const KEYS: [&str; 8] = [
    "allow_from",
    "disabled",
    "messages_per_hour",
    "name",
    "note",
    "password",
    "recipients_per_day",
    "send_as",
];

/// All accounts of one file, as they stood at one moment.
#[derive(Debug)]
pub struct Directory {
    records: Vec<Record>,
    by_name: HashMap<String, usize>,
    domains: HashSet<String>,
    dummy: Arc<PasswordHash>,
    blank: bool,
}

/// One account and its password hash.
#[derive(Clone, Debug)]
pub struct Record {
    /// What everybody may know of it.
    pub account: Arc<Account>,
    /// What its password is compared with; without one nobody can log in.
    pub hash: Option<Arc<PasswordHash>>,
}

impl Directory {
    /// Reads `path`. `memory_kib_max` is what one password check may take. Warnings come with the accounts; any error
    /// comes without.
    pub fn read(path: &Path, memory_kib_max: u32) -> Result<(Self, Vec<Finding>), Vec<Finding>> {
        let (source, mut warnings) = read_text(path)?;
        let (directory, more) = Self::parse(path, &source, memory_kib_max)?;
        warnings.extend(more);
        Ok((directory, warnings))
    }

    /// The same from the text of the file that is, or will be, at `path`.
    pub fn parse(
        path: &Path,
        source: &str,
        memory_kib_max: u32,
    ) -> Result<(Self, Vec<Finding>), Vec<Finding>> {
        let mut reader = Reader::new(path, source, memory_kib_max);
        let records = reader.document();
        let findings = reader.finish();
        if findings.iter().any(Finding::is_error) {
            return Err(findings);
        }
        let directory = Self {
            blank: source.trim().is_empty(),
            ..Self::new(records, memory_kib_max)
        };
        Ok((directory, findings))
    }

    fn new(records: Vec<Record>, memory_kib_max: u32) -> Self {
        let by_name = records
            .iter()
            .enumerate()
            .map(|(index, record)| (record.account.name.clone(), index))
            .collect();
        let domains = records
            .iter()
            .filter_map(|record| domain_of(&record.account.name))
            .collect();
        let mut counts: HashMap<Parameters, usize> = HashMap::new();
        for hash in records.iter().filter_map(|record| record.hash.as_ref()) {
            *counts.entry(hash.parameters()).or_default() += 1;
        }
        let usual = counts
            .into_iter()
            .max_by_key(|&(parameters, count)| (count, parameters))
            .map(|(parameters, _)| parameters);
        let default = Parameters {
            memory_kib: Parameters::default()
                .memory_kib
                .clamp(8, memory_kib_max.max(8)),
            ..Parameters::default()
        };
        let dummy = PasswordHash::dummy(usual.unwrap_or(default))
            .expect("parameters from a file are checked, and the default is within all ceilings");
        Self {
            records,
            by_name,
            domains,
            dummy: Arc::new(dummy),
            blank: false,
        }
    }

    /// Whether there was nothing at all in the file, not even a comment.
    pub fn is_blank(&self) -> bool {
        self.blank
    }

    /// All accounts, in the order of the file.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The account of this name, which is prepared.
    pub fn find(&self, name: &str) -> Option<&Record> {
        self.by_name
            .get(name)
            .and_then(|&index| self.records.get(index))
    }

    /// What an unknown name's password is compared with: it costs what most others do.
    pub fn dummy(&self) -> &Arc<PasswordHash> {
        &self.dummy
    }

    /// `tried`, if it may be written into a log: the name of an account, or plainly a slip of the pen for one.
    ///
    /// The work depends on what was tried and not on whether there is such an account, so its time tells nothing.
    pub fn name_for_log(&self, tried: &str) -> Option<String> {
        let exists = self.by_name.contains_key(tried);
        let near_one = self.is_near_one(tried);
        let neighbour = domain_of(tried).is_some_and(|domain| self.domains.contains(&domain));
        (exists || near_one || neighbour).then(|| tried.to_owned())
    }

    fn is_near_one(&self, tried: &str) -> bool {
        if self.records.len() > COMPARED_ACCOUNTS_MAX
            || tried.len() > COMPARED_BYTES_MAX
            || tried.chars().count() < COMPARED_CHARACTERS_MIN
        {
            return false;
        }
        self.records
            .iter()
            .map(|record| &record.account.name)
            .filter(|name| name.len() <= COMPARED_BYTES_MAX)
            .filter(|name| strsim::osa_distance(tried, name) <= SLIPS_MAX)
            // Counted to the end, not found and left: see above.
            .count()
            > 0
    }
}

/// The domain of a name that is a mailbox, in lower case.
fn domain_of(name: &str) -> Option<String> {
    Mailbox::parse_international(name)
        .ok()
        .map(|mailbox| mailbox.domain().to_string().to_lowercase())
}

/// The text of the file, and what is to say about the file as such.
///
/// A file that somebody is writing to is read again, so that half of it is not taken for the whole.
fn read_text(path: &Path) -> Result<(String, Vec<Finding>), Vec<Finding>> {
    let refused = |message: String| vec![Finding::error(message).in_file(path)];
    let failed = |error: std::io::Error| {
        let mut findings = refused(format!("cannot read the accounts file: {error}"));
        if error.kind() == std::io::ErrorKind::NotFound {
            findings[0].hint = Some(
                "`gatepost account add NAME` makes it; its name is accounts.file in the configuration"
                    .to_owned(),
            );
        }
        findings
    };
    for _ in 0..READ_TRIES {
        // Asked before it is opened: opening a named pipe would wait for somebody to write to it.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(refused(
                "the accounts file is not a regular file".to_owned(),
            ));
        }
        let mut file = File::open(path).map_err(failed)?;
        let before = file.metadata().map_err(failed)?;
        let mut octets = Vec::new();
        (&mut file)
            .take(FILE_BYTES_MAX + 1)
            .read_to_end(&mut octets)
            .map_err(failed)?;
        if octets.len() as u64 > FILE_BYTES_MAX {
            return Err(refused(format!(
                "the accounts file is larger than {} MiB",
                FILE_BYTES_MAX >> 20
            )));
        }
        let after = file.metadata().map_err(failed)?;
        let mark = |metadata: &std::fs::Metadata| {
            (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
        };
        if mark(&before) != mark(&after) || octets.len() as u64 != after.len() {
            continue;
        }
        let mut warnings = Vec::new();
        if after.mode() & 0o007 != 0 {
            warnings.push(
                Finding::warning("the accounts file is open to every user of this machine")
                    .in_file(path)
                    .hint(format!("chmod 0640 {}", path.display())),
            );
        }
        let source = String::from_utf8(octets).map_err(|error| {
            let good = error.utf8_error().valid_up_to();
            let ends = error.as_bytes()[..good].iter();
            let line = ends.filter(|&&byte| byte == b'\n').count() + 1;
            refused(format!("line {line} is not UTF-8"))
        })?;
        return Ok((source, warnings));
    }
    Err(vec![
        Finding::error("the accounts file changes while it is read")
            .in_file(path)
            .hint("replace it in one step: write a new file beside it and rename that"),
    ])
}

/// A finding whose place is still a span.
struct Draft {
    finding: Finding,
    span: Range<usize>,
}

/// Goes through one file and notes everything that is wrong with it.
struct Reader<'s> {
    path: Arc<Path>,
    source: &'s str,
    memory_kib_max: u32,
    /// Where each line begins.
    line_starts: Vec<usize>,
    drafts: Vec<Draft>,
    /// Spans whose lines are never shown.
    secrets: Vec<Range<usize>>,
    /// Lines on which a name was first given.
    names: HashMap<String, usize>,
}

impl<'s> Reader<'s> {
    fn new(path: &Path, source: &'s str, memory_kib_max: u32) -> Self {
        let behind_line_ends = source.match_indices('\n').map(|(index, _)| index + 1);
        Self {
            path: path.into(),
            source,
            memory_kib_max,
            line_starts: std::iter::once(0).chain(behind_line_ends).collect(),
            drafts: Vec::new(),
            secrets: Vec::new(),
            names: HashMap::new(),
        }
    }

    fn document(&mut self) -> Vec<Record> {
        let (document, errors) = DeTable::parse_recoverable(self.source);
        if !errors.is_empty() {
            // What could be recovered of a file that is no TOML would only raise errors that follow from the first.
            for error in errors {
                let span = error.span().unwrap_or(0..0);
                if self.may_hold_a_secret(&span) {
                    self.secrets.push(span.clone());
                }
                self.error(&span, format!("not valid TOML: {}", error.message()));
            }
            return Vec::new();
        }
        let mut records = Vec::new();
        let document = document.into_inner();
        if document.is_empty() {
            self.warning(&(0..0), "there is no account: nobody can log in")
                .hint = Some("gatepost account add NAME".to_owned());
        }
        for (key, value) in &document {
            if key.get_ref() != "account" {
                self.secrets.push(value.span());
                self.unknown_key(key, None, ["account"]);
                continue;
            }
            let entries = match value.get_ref() {
                DeValue::Array(entries) => entries.iter(),
                _ => {
                    self.secrets.push(value.span());
                    self.error(&key.span(), "`account` is not a list of accounts")
                        .hint =
                        Some("begin each account with [[account]], in two brackets".to_owned());
                    continue;
                }
            };
            for (index, entry) in entries.enumerate() {
                match entry.get_ref() {
                    DeValue::Table(table) => {
                        records.extend(self.entry(index + 1, &entry.span(), table));
                    }
                    _ => {
                        self.secrets.push(entry.span());
                        self.error(&entry.span(), "an account is a table of keys")
                            .hint = Some("begin each account with [[account]]".to_owned());
                    }
                }
            }
        }
        records
    }

    /// One `[[account]]`; `None` if it has no usable name.
    fn entry(&mut self, number: usize, span: &Range<usize>, table: &DeTable<'_>) -> Option<Record> {
        // Secrets first, so that no finding about another key on the same line shows them.
        for (key, value) in table {
            if key.get_ref() == "password" || !is_plainly_no_password(key.get_ref()) {
                self.secrets.push(value.span());
            }
        }
        let get = |key: &str| table.get(key);
        let written_name = get("name").and_then(|value| value.get_ref().as_str());
        let label = match written_name {
            Some(name) if name.len() <= NAME_BYTES_MAX => format!("account `{name}`"),
            _ => format!("account number {number}"),
        };
        for key in table.keys() {
            if !KEYS.contains(&key.get_ref().as_ref()) {
                self.unknown_key(key, Some(&label), KEYS);
            }
        }
        let origin = self.origin(span);
        let name = match get("name") {
            Some(value) => self.name(&label, value),
            None => {
                self.error(span, format!("{label} has no name")).hint =
                    Some("name = \"alice@example.org\"".to_owned());
                None
            }
        };
        let hash = match get("password") {
            Some(value) => self.password(&label, value),
            None => {
                self.warning(span, format!("{label} has no password and cannot log in"))
                    .hint = Some(format!(
                    "gatepost account password {}",
                    written_name.unwrap_or("NAME")
                ));
                None
            }
        };
        let send_as = match get("send_as") {
            Some(value) => self.send_as(&label, value),
            None => match name.as_deref().map(SenderPattern::parse) {
                Some(Ok(own @ SenderPattern::Address(_))) => vec![(own, origin.clone())],
                None => Vec::new(),
                Some(_) => {
                    self.warning(
                        span,
                        format!("{label} may send as nobody: its name is no address and it has no send_as"),
                    )
                    .hint = Some("send_as = [\"alice@example.org\"]".to_owned());
                    Vec::new()
                }
            },
        };
        let disabled = get("disabled").is_some_and(|value| self.boolean(&label, "disabled", value));
        let mut limit = |key| {
            let value = get(key)?;
            let origin = self.origin(&value.span());
            self.limit(&label, key, value).map(|limit| (limit, origin))
        };
        let messages_per_hour = limit("messages_per_hour");
        let recipients_per_day = limit("recipients_per_day");
        let allow_from = get("allow_from")
            .map(|value| self.networks(&label, value))
            .unwrap_or_default();
        let note = get("note").and_then(|value| {
            let text = value.get_ref().as_str();
            if text.is_none() {
                self.wrong_type(&label, "note", value, "a text", "note = \"2nd floor\"");
            }
            text.map(str::to_owned)
        });
        Some(Record {
            account: Arc::new(Account {
                name: name?,
                enabled: !disabled,
                allow_from,
                send_as,
                messages_per_hour,
                recipients_per_day,
                note,
                origin,
            }),
            hash,
        })
    }

    fn name(&mut self, label: &str, value: &Spanned<DeValue<'_>>) -> Option<String> {
        let span = value.span();
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(
                label,
                "name",
                value,
                "a text",
                "name = \"alice@example.org\"",
            );
            return None;
        };
        let name = match prepare_name(text) {
            Ok(name) => name,
            Err(unusable) => {
                self.error(&span, format!("{label}: the name {unusable}"));
                return None;
            }
        };
        let line = self.line(span.start);
        if let Some(first) = self.names.insert(name.clone(), line) {
            self.error(
                &span,
                format!("{label} is there twice, first on line {first}"),
            )
            .hint = Some("names are compared without regard to the case of the domain".to_owned());
        }
        Some(name)
    }

    fn password(&mut self, label: &str, value: &Spanned<DeValue<'_>>) -> Option<Arc<PasswordHash>> {
        let Some(text) = value.get_ref().as_str() else {
            self.error(&value.span(), format!("{label}: password is not a text"))
                .hint = Some("gatepost account password NAME".to_owned());
            return None;
        };
        match PasswordHash::parse(text, self.memory_kib_max) {
            Ok(hash) => Some(Arc::new(hash)),
            Err(error) => {
                self.error(&value.span(), format!("{label}: the password {error}"))
                    .hint = Some("set it anew: gatepost account password NAME".to_owned());
                None
            }
        }
    }

    fn send_as(
        &mut self,
        label: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Vec<(SenderPattern, Origin)> {
        const SHAPE: &str = "send_as = [\"alice@example.org\", \"*@lists.example.org\"]";
        let texts = self.texts(label, "send_as", value, SHAPE);
        if value
            .get_ref()
            .as_array()
            .is_some_and(|list| list.is_empty())
        {
            self.error(&value.span(), format!("{label}: send_as is empty"))
                .hint =
                Some("leave it out for the account's own name, or say disabled = true".to_owned());
        }
        let mut patterns = Vec::with_capacity(texts.len());
        for (text, span) in texts {
            match SenderPattern::parse(&text) {
                Ok(pattern) => patterns.push((pattern, self.origin(&span))),
                Err(error) => {
                    self.error(&span, format!("{label}: {error}")).hint = Some(SHAPE.to_owned());
                }
            }
        }
        patterns
    }

    fn networks(&mut self, label: &str, value: &Spanned<DeValue<'_>>) -> Vec<IpNet> {
        const SHAPE: &str = "allow_from = [\"192.0.2.0/24\", \"2001:db8::1\"]";
        let texts = self.texts(label, "allow_from", value, SHAPE);
        if value
            .get_ref()
            .as_array()
            .is_some_and(|list| list.is_empty())
        {
            self.error(&value.span(), format!("{label}: allow_from is empty"))
                .hint =
                Some("leave it out to allow every address, or say disabled = true".to_owned());
        }
        let mut networks = Vec::with_capacity(texts.len());
        for (text, span) in texts {
            let address = text.parse::<std::net::IpAddr>();
            match (text.parse::<IpNet>(), address) {
                (Ok(network), _) => {
                    if network.trunc() != network {
                        self.warning(
                            &span,
                            format!("{label}: `{text}` means the network {}", network.trunc()),
                        );
                    }
                    networks.push(network.trunc());
                }
                (_, Ok(address)) => networks.push(address.to_canonical().into()),
                _ => {
                    self.error(
                        &span,
                        format!("{label}: `{text}` is neither a network nor an address"),
                    )
                    .hint = Some(SHAPE.to_owned());
                }
            }
        }
        networks
    }

    fn texts(
        &mut self,
        label: &str,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        shape: &str,
    ) -> Vec<(String, Range<usize>)> {
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_type(label, key, value, "a list of texts", shape);
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(list.len());
        for item in list.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push((text.to_owned(), item.span())),
                None => self.wrong_type(label, key, item, "a list of texts", shape),
            }
        }
        texts
    }

    fn boolean(&mut self, label: &str, key: &str, value: &Spanned<DeValue<'_>>) -> bool {
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong_type(label, key, value, "true or false", &format!("{key} = true"));
            false
        })
    }

    fn limit(&mut self, label: &str, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Limit> {
        let limit = match value.get_ref() {
            DeValue::String(text) if text == "unlimited" => Some(Limit::Unlimited),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .and_then(|number| u64::try_from(number).ok())
                .and_then(NonZeroU64::new)
                .map(Limit::AtMost),
            _ => None,
        };
        if limit.is_none() {
            self.error(
                &value.span(),
                format!("{label}: {key} is not a positive integer or \"unlimited\""),
            )
            .hint = Some(format!(
                "{key} = 50; to stop the account, say disabled = true"
            ));
        }
        limit
    }

    fn unknown_key<const N: usize>(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        label: Option<&str>,
        known: [&'static str; N],
    ) {
        let name = key.get_ref();
        let prefix = label.map(|label| format!("{label}: ")).unwrap_or_default();
        let hint = match nearest(name, known) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("the keys are: {}", known.join(", ")),
        };
        self.error(&key.span(), format!("{prefix}unknown key `{name}`"))
            .hint = Some(hint);
    }

    fn wrong_type(
        &mut self,
        label: &str,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        wanted: &str,
        shape: &str,
    ) {
        self.error(&value.span(), format!("{label}: {key} is not {wanted}"))
            .hint = Some(shape.to_owned());
    }

    fn error(&mut self, span: &Range<usize>, message: impl Into<String>) -> &mut Finding {
        self.note(span, Finding::error(message))
    }

    fn warning(&mut self, span: &Range<usize>, message: impl Into<String>) -> &mut Finding {
        self.note(span, Finding::warning(message))
    }

    fn note(&mut self, span: &Range<usize>, finding: Finding) -> &mut Finding {
        let span = span.clone();
        let index = self.drafts.len();
        self.drafts.push(Draft { finding, span });
        &mut self.drafts[index].finding
    }

    /// The findings in the order of the file, errors before warnings where there are too many.
    fn finish(mut self) -> Vec<Finding> {
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

    fn origin(&self, span: &Range<usize>) -> Origin {
        Origin {
            file: Arc::clone(&self.path),
            line: self.line(span.start),
        }
    }

    /// The line, from 1, on which the octet at `index` stands.
    fn line(&self, index: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= index)
    }

    /// Whether the line of a syntax error may be, or may have been meant to be, one with a password. Only a line that
    /// plainly begins with another key may be shown.
    fn may_hold_a_secret(&self, span: &Range<usize>) -> bool {
        let line = self.line(span.start);
        let start = self.line_starts[line - 1];
        let end = self.line_starts.get(line).copied();
        let text = self.source[start..end.unwrap_or(self.source.len())].trim();
        let key = text.split('=').next().unwrap_or_default().trim();
        let harmless =
            text.starts_with("[[") || (text.contains('=') && is_plainly_no_password(key));
        !harmless || text.contains("pass") || text.contains('$')
    }
}

/// Whether a key is known, or near to a known one, and that one is not `password`.
fn is_plainly_no_password(key: &str) -> bool {
    nearest(key, KEYS).is_some_and(|known| known != "password")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    fn parse(source: &str) -> Result<(Directory, Vec<Finding>), Vec<Finding>> {
        Directory::parse(Path::new("accounts.toml"), source, 1024)
    }

    /// All that is said about `source`, one finding per line and without its text.
    fn said(source: &str) -> String {
        let findings = match parse(source) {
            Ok((_, findings)) | Err(findings) => findings,
        };
        let lines: Vec<String> = findings.iter().map(Finding::one_line).collect();
        lines.join("\n")
    }

    #[test]
    fn a_whole_file() {
        let source = format!(
            r#"# Accounts of example.org
[[account]]
name = "Alice@Example.ORG"
password = "{HASH}"

[[account]]
name = "scanner"
password = "{HASH}"
send_as = [
  "scanner@example.org",
  "*@lists.example.org", "<>", "*",
]
disabled = true
messages_per_hour = 50
recipients_per_day = "unlimited"
allow_from = ["192.0.2.0/24", "2001:db8::1"]
note = "2nd floor"
"#
        );
        let (directory, warnings) = parse(&source).unwrap();
        assert_eq!(warnings, []);
        let alice = &directory.find("Alice@example.org").unwrap().account;
        assert_eq!(alice.origin.to_string(), "accounts.toml:2");
        assert_eq!(alice.send_as.len(), 1);
        assert_eq!(alice.send_as[0].0.to_string(), "Alice@example.org");
        assert_eq!(alice.send_as[0].1.line, 2);
        assert_eq!(alice.messages_per_hour, None);
        assert!(alice.enabled && alice.allow_from.is_empty());
        let scanner = &directory.find("scanner").unwrap().account;
        assert!(!scanner.enabled);
        let patterns: Vec<String> = scanner
            .send_as
            .iter()
            .map(|(pattern, origin)| format!("{}:{pattern}", origin.line))
            .collect();
        assert_eq!(
            patterns,
            [
                "10:scanner@example.org",
                "11:*@lists.example.org",
                "11:<>",
                "11:*"
            ]
        );
        let limit = |own: &Option<(Limit, Origin)>| {
            let (limit, origin) = own.as_ref().unwrap();
            (*limit, origin.line)
        };
        let fifty = Limit::AtMost(NonZeroU64::new(50).unwrap());
        assert_eq!(limit(&scanner.messages_per_hour), (fifty, 14));
        assert_eq!(limit(&scanner.recipients_per_day), (Limit::Unlimited, 15));
        let networks: Vec<String> = scanner.allow_from.iter().map(IpNet::to_string).collect();
        assert_eq!(networks, ["192.0.2.0/24", "2001:db8::1/128"]);
        assert_eq!(scanner.note.as_deref(), Some("2nd floor"));
        assert!(directory.find("alice@example.org").is_none());
    }

    #[test]
    fn every_mistake_is_found_at_once() {
        let source = r#"[[account]]
name = "alice@example.org"
sendas = ["a@example.org"]
send_as = ["nobody", 7]
disabled = "yes"
messages_per_hour = 0
recipients_per_day = "none"
allow_from = ["192.0.2.1/33", "192.0.2.9/24"]
note = 3

[[account]]
note = "no name"

[[account]]
name = "alice@EXAMPLE.org"
send_as = []
allow_from = []

[[acount]]
name = "x"
"#;
        assert_eq!(
            said(source),
            r#"accounts.toml:1:1: account `alice@example.org` has no password and cannot log in (hint: gatepost account password alice@example.org)
accounts.toml:3:1: account `alice@example.org`: unknown key `sendas` (hint: did you mean `send_as`?)
accounts.toml:4:12: account `alice@example.org`: `nobody` is not an address, `*@domain`, `*` or `<>` (hint: send_as = ["alice@example.org", "*@lists.example.org"])
accounts.toml:4:22: account `alice@example.org`: send_as is not a list of texts (hint: send_as = ["alice@example.org", "*@lists.example.org"])
accounts.toml:5:12: account `alice@example.org`: disabled is not true or false (hint: disabled = true)
accounts.toml:6:21: account `alice@example.org`: messages_per_hour is not a positive integer or "unlimited" (hint: messages_per_hour = 50; to stop the account, say disabled = true)
accounts.toml:7:22: account `alice@example.org`: recipients_per_day is not a positive integer or "unlimited" (hint: recipients_per_day = 50; to stop the account, say disabled = true)
accounts.toml:8:15: account `alice@example.org`: `192.0.2.1/33` is neither a network nor an address (hint: allow_from = ["192.0.2.0/24", "2001:db8::1"])
accounts.toml:8:31: account `alice@example.org`: `192.0.2.9/24` means the network 192.0.2.0/24
accounts.toml:9:8: account `alice@example.org`: note is not a text (hint: note = "2nd floor")
accounts.toml:11:1: account number 2 has no name (hint: name = "alice@example.org")
accounts.toml:11:1: account number 2 has no password and cannot log in (hint: gatepost account password NAME)
accounts.toml:14:1: account `alice@EXAMPLE.org` has no password and cannot log in (hint: gatepost account password alice@EXAMPLE.org)
accounts.toml:15:8: account `alice@EXAMPLE.org` is there twice, first on line 2 (hint: names are compared without regard to the case of the domain)
accounts.toml:16:11: account `alice@EXAMPLE.org`: send_as is empty (hint: leave it out for the account's own name, or say disabled = true)
accounts.toml:17:14: account `alice@EXAMPLE.org`: allow_from is empty (hint: leave it out to allow every address, or say disabled = true)
accounts.toml:19:3: unknown key `acount` (hint: did you mean `account`?)"#
        );
    }

    #[test]
    fn shapes_of_the_whole_file() {
        for (source, expected) in [
            ("", "there is no account: nobody can log in"),
            ("# nothing\n", "there is no account: nobody can log in"),
            (
                "[account]\nname = \"a@example.org\"\n",
                "accounts.toml:1:2: `account` is not a list of accounts (hint: begin each account with [[account]], in two brackets)",
            ),
            (
                "account = [1]",
                "accounts.toml:1:12: an account is a table of keys",
            ),
            (
                "[[account]\nname = 1",
                "accounts.toml:1:11: not valid TOML: ",
            ),
            (
                "[[account]]\nname = \"a\"\nname = \"b\"",
                "accounts.toml:3:1: not valid TOML: duplicate key",
            ),
            (
                "[[account]]\nname = \"scanner\"\n",
                "account `scanner` may send as nobody: its name is no address and it has no send_as",
            ),
        ] {
            let said = said(source);
            assert!(said.contains(expected), "{source:?}: {said}");
        }
    }

    #[test]
    fn no_finding_shows_a_password() {
        let secret = "Tr0ub4dor";
        for (shape, quote) in [
            ("password = @", '"'),
            ("password = @", '\''),
            ("password = \"$argon2id$@", '"'),
            ("pasword = @", '"'),
            ("hash = @", '"'),
            ("password = @", ' '),
            ("password = \"@", ' '),
            ("password = [@]", '"'),
            ("password @", '"'),
            ("password: @", '"'),
            ("password = \"\"\"\n@\n\"\"\" x", ' '),
            ("password = \"x\"\npassword = @", '"'),
            ("@", '"'),
            ("@ = 1", ' '),
        ] {
            let line = shape.replace('@', &format!("{quote}{secret}{quote}"));
            no_secret(
                &format!("[[account]]\nname = \"a@b.example\"\n{line}"),
                secret,
            );
        }
        for source in [
            "account = [{ name = 7, password = \"Tr0ub4dor\" }]",
            "account = [{ name = \"a@b.example\", pwd = \"Tr0ub4dor\", disabled = 1 }]",
            "[account]\nname = \"a@b.example\"\npassword = \"Tr0ub4dor\"",
            "account = { password = \"Tr0ub4dor\" }",
            "[alice]\npassword = \"Tr0ub4dor\"",
            "alice = \"Tr0ub4dor\"",
        ] {
            no_secret(source, secret);
        }
    }

    fn no_secret(source: &str, secret: &str) {
        let findings = parse(source).unwrap_err();
        assert!(!findings.is_empty(), "{source}");
        for finding in findings {
            let shown = format!("{finding}\n{finding:?}");
            // A bare word in the place of a key is what the finding is about, and is named as such.
            let named = shown.contains(&format!("unknown key `{secret}`"));
            assert!(named || !shown.contains(secret), "{source}\n{shown}");
        }
    }

    #[test]
    fn other_lines_are_shown() {
        let findings = parse("[[account]]\nname = \"a@b.example\"\nsendas = []\n").unwrap_err();
        assert!(
            findings
                .iter()
                .any(|finding| finding.to_string().contains("3 | sendas = []")),
            "{findings:?}"
        );
    }

    #[test]
    fn hashes_past_their_ceilings_name_the_entry() {
        let source = format!(
            "[[account]]\nname = \"a@b.example\"\npassword = \"{}\"\n",
            HASH.replace("m=256", "m=1025")
        );
        let said = said(&source);
        assert!(
            said.starts_with(
                "accounts.toml:3:12: account `a@b.example`: the password takes 1025 KiB"
            ),
            "{said}"
        );
    }

    #[test]
    fn a_flood_of_findings_ends() {
        let source = "[[account]]\nname = 1\n".repeat(500);
        let findings = parse(&source).unwrap_err();
        assert_eq!(findings.len(), FINDINGS_MAX + 1);
        assert!(findings[0].is_error());
        assert!(findings[FINDINGS_MAX].message.starts_with("and 900 more"));
    }

    #[test]
    fn names_for_the_log() {
        let source = format!(
            "[[account]]\nname = \"alice@example.org\"\npassword = \"{HASH}\"\n
             [[account]]\nname = \"scanner\"\npassword = \"{HASH}\"\nsend_as = [\"*\"]\n
             [[account]]\nname = \"bob\"\npassword = \"{HASH}\"\nsend_as = [\"*\"]\n"
        );
        let (directory, _) = parse(&source).unwrap();
        for (tried, shown) in [
            ("alice@example.org", true),
            ("bob", true),
            // A mailbox of a domain that has accounts.
            ("carol@example.org", true),
            ("carol@Example.org", true),
            ("carol@elsewhere.example", false),
            // Two slips, not three.
            ("alcie@example.ogr", true),
            ("Scaner", true),
            ("scnaenr", true),
            ("scan", false),
            // Too short to say anything.
            ("bo", false),
            ("bobb", true),
            ("rob", false),
            // What people type into the wrong field.
            ("correct horse battery staple", false),
            ("Tr0ub4dor&3", false),
            ("p@ssw0rd", false),
            ("", false),
            (&format!("{}@example.org", "a".repeat(300)), false),
        ] {
            assert_eq!(directory.name_for_log(tried).is_some(), shown, "{tried}");
        }
    }

    #[test]
    fn many_accounts_are_not_compared_one_by_one() {
        let account = |number: usize| {
            format!("[[account]]\nname = \"scanner-{number}\"\nsend_as = [\"*\"]\n")
        };
        let few: String = (0..COMPARED_ACCOUNTS_MAX).map(account).collect();
        let (directory, _) = parse(&few).unwrap();
        assert!(directory.name_for_log("scaner-5").is_some());
        let (directory, _) = parse(&(few + &account(COMPARED_ACCOUNTS_MAX))).unwrap();
        assert!(directory.name_for_log("scaner-5").is_none());
        assert!(directory.name_for_log("scanner-5").is_some());
    }

    #[test]
    fn the_dummy_costs_what_most_accounts_do() {
        let account = |name: &str, m: u32| {
            let hash = HASH.replace("m=256", &format!("m={m}"));
            format!("[[account]]\nname = \"{name}@b.example\"\npassword = \"{hash}\"\n")
        };
        let source = account("a", 64) + &account("b", 32) + &account("c", 32);
        let (directory, _) = parse(&source).unwrap();
        assert_eq!(directory.dummy().parameters().memory_kib, 32);
        let (empty, _) = Directory::parse(Path::new("x"), "", 1 << 20).unwrap();
        assert_eq!(empty.dummy().parameters(), Parameters::default());
        // Even a budget that is too small for anything real leaves a dummy that fits.
        let (tight, _) = parse("").unwrap();
        assert_eq!(tight.dummy().parameters().memory_kib, 1024);
    }

    #[test]
    fn files_that_are_none() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing.toml");
        let findings = Directory::read(&missing, 1024).unwrap_err();
        assert!(findings[0].message.contains("cannot read"), "{findings:?}");
        let findings = Directory::read(directory.path(), 1024).unwrap_err();
        assert!(findings[0].message.contains("regular file"), "{findings:?}");
        let latin = directory.path().join("latin1.toml");
        std::fs::write(&latin, b"# a\n# \xe9\n").unwrap();
        let findings = Directory::read(&latin, 1024).unwrap_err();
        assert!(
            findings[0].message.contains("line 2 is not UTF-8"),
            "{findings:?}"
        );
    }

    #[test]
    fn an_open_file_is_warned_about() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accounts.toml");
        std::fs::write(&path, "# empty\n").unwrap();
        for (mode, warned) in [(0o644, true), (0o640, false), (0o600, false), (0o602, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let (_, warnings) = Directory::read(&path, 1024).unwrap();
            let said = warnings.iter().any(|finding| {
                finding
                    .hint
                    .as_deref()
                    .is_some_and(|hint| hint.starts_with("chmod 0640"))
            });
            assert_eq!(said, warned, "{mode:o}");
        }
    }
}
