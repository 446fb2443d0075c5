//! The accounts file: TOML to accounts, with every mistake in it found at once and said with its place.
//!
//! What a line with a password says is never shown, nor is the value of an unknown key, which may be a misspelt
//! `password`. A file with any error gives no accounts at all: whoever reads it keeps what it had before. Nothing here
//! writes the file (that is [`edit`](super::edit)) or compares a password.
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::directory::{CredentialRecord, Directory, Record, ScramSecrets};
use super::identity::{NAME_BYTES_MAX, prepare_name};
use super::stored::Stored;
use crate::decision::{Account, SenderPattern};
use crate::diagnostic::{Finding, nearest};
use crate::sasl::external::Fingerprint;
use crate::sasl::scram::{Keys, Verifier};
use credential::Written;
use notes::Notes;

mod credential;
mod notes;
mod tripwires;
mod values;

/// Octets in an accounts file: more than a hundred thousand accounts, and nothing that a mistaken path could name.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// How often a file that changes while it is read is read again.
const READ_TRIES: usize = 3;

/// The end of a warning about an account that nobody can log in to, but with a certificate or a token that names it.
pub(super) const CANNOT_LOG_IN: &str = "has no password and cannot log in";

/// All keys of an `[[account]]`.
const KEYS: [&str; 12] = [
    "allow_from",
    "credential",
    "disabled",
    "messages_per_hour",
    "name",
    "note",
    "over_limit",
    "password",
    "recipients_per_day",
    "scram",
    "send_as",
    "tripwires",
];

/// Those of them whose values are secrets, or hold some.
const SECRET_KEYS: [&str; 3] = ["credential", "password", "scram"];

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
        let findings = reader.notes.finish();
        if findings.iter().any(Finding::is_error) {
            return Err(findings);
        }
        let blank = source.trim().is_empty();
        let directory = Self::new(records, blank, memory_kib_max);
        Ok((directory, findings))
    }
}

/// Those of the warnings that are some where certificates or tokens can name accounts, if they can: an account needs
/// nothing else then.
pub fn relevant(mut warnings: Vec<Finding>, without_password: bool) -> Vec<Finding> {
    warnings.retain(|warning| !(without_password && warning.message.ends_with(CANNOT_LOG_IN)));
    warnings
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

/// Goes through one file and notes everything that is wrong with it.
struct Reader<'s> {
    source: &'s str,
    memory_kib_max: u32,
    notes: Notes<'s>,
    /// Lines on which a name was first given.
    names: HashMap<String, usize>,
    /// Likewise, of certificates.
    certificates: HashMap<Fingerprint, usize>,
}

impl<'s> Reader<'s> {
    fn new(path: &Path, source: &'s str, memory_kib_max: u32) -> Self {
        Self {
            source,
            memory_kib_max,
            notes: Notes::new(path, source),
            names: HashMap::new(),
            certificates: HashMap::new(),
        }
    }

    fn document(&mut self) -> Vec<Record> {
        let (document, errors) = DeTable::parse_recoverable(self.source);
        if !errors.is_empty() {
            // What could be recovered of a file that is no TOML would only raise errors that follow from the first.
            for error in errors {
                let span = error.span().unwrap_or(0..0);
                if self.may_hold_a_secret(&span) {
                    self.notes.secret(span.clone());
                }
                self.notes
                    .error(&span, format!("not valid TOML: {}", error.message()));
            }
            return Vec::new();
        }
        let mut records = Vec::new();
        let document = document.into_inner();
        if document.is_empty() {
            self.notes
                .warning(&(0..0), "there is no account: nobody can log in")
                .hint = Some("gatepost account add NAME".to_owned());
        }
        for (key, value) in &document {
            if key.get_ref() != "account" {
                self.notes.secret(value.span());
                self.unknown_key(key, None, ["account"]);
                continue;
            }
            let entries = match value.get_ref() {
                DeValue::Array(entries) => entries.iter(),
                _ => {
                    self.notes.secret(value.span());
                    self.notes
                        .error(&key.span(), "`account` is not a list of accounts")
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
                        self.notes.secret(entry.span());
                        self.notes
                            .error(&entry.span(), "an account is a table of keys")
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
            // What is in its credentials is hidden key by key.
            if key.get_ref() != "credential" && !is_plainly_no_secret(key.get_ref()) {
                self.notes.secret(value.span());
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
        let origin = self.notes.origin(span);
        let name = match get("name") {
            Some(value) => self.name(&label, value),
            None => {
                self.notes.error(span, format!("{label} has no name")).hint =
                    Some("name = \"alice@example.org\"".to_owned());
                None
            }
        };
        let credentials = match get("credential") {
            Some(value) => self.credentials(&label, value),
            None => Vec::new(),
        };
        let own_keys = get("scram").and_then(|value| self.scram(&label, value));
        let password = match get("password") {
            Some(value) => self.password(&label, value),
            None => own_keys
                .as_ref()
                .and_then(|keys| Verifier::new(std::slice::from_ref(keys)))
                .map(|verifier| Arc::new(Stored::Scram(Arc::new(verifier)))),
        };
        if ["credential", "password", "scram"]
            .iter()
            .all(|key| get(key).is_none())
        {
            self.notes
                .warning(span, format!("{label} {CANNOT_LOG_IN}"))
                .hint = Some(format!(
                "gatepost account password {}",
                written_name.unwrap_or("NAME")
            ));
        }
        let scram = self.scram_secrets(&label, own_keys, &credentials);
        let send_as = match get("send_as") {
            Some(value) => self.send_as(&label, value),
            None => match name.as_deref().map(SenderPattern::parse) {
                Some(Ok(own @ SenderPattern::Address(_))) => vec![(own, origin.clone())],
                None => Vec::new(),
                Some(_) => {
                    self.notes.warning(
                        span,
                        format!("{label} may send as nobody: its name is no address and it has no send_as"),
                    )
                    .hint = Some("send_as = [\"alice@example.org\"]".to_owned());
                    Vec::new()
                }
            },
        };
        let disabled = get("disabled").is_some_and(|value| self.boolean(&label, "disabled", value));
        let messages_per_hour = self.own_limit(&label, "messages_per_hour", table);
        let recipients_per_day = self.own_limit(&label, "recipients_per_day", table);
        let over_limit = self.over_limit(&label, table);
        let allow_from = get("allow_from")
            .map(|value| self.networks(&label, value))
            .unwrap_or_default();
        let note = self.note(&label, table);
        let tripwires = get("tripwires").and_then(|value| self.tripwires(&label, value));
        let account = Account {
            name: name?,
            enabled: !disabled,
            allow_from,
            send_as,
            messages_per_hour,
            recipients_per_day,
            tripwires,
            over_limit,
            note,
            origin,
            credential: None,
            grant: None,
        };
        let credentials = credentials.into_iter().map(|written| CredentialRecord {
            account: Arc::new(Account {
                credential: Some(Arc::clone(&written.credential)),
                ..account.clone()
            }),
            credential: written.credential,
            evidence: written.evidence,
            has_scram: written.scram.is_some(),
        });
        Some(Record {
            credentials: credentials.collect(),
            account: Arc::new(account),
            password,
            scram,
        })
    }

    /// The keys of an account and its credentials together: SCRAM can ask for one salt only.
    fn scram_secrets(
        &mut self,
        label: &str,
        own: Option<Keys>,
        credentials: &[Written],
    ) -> Option<ScramSecrets> {
        let (mut keys, mut owners): (Vec<Keys>, Vec<Option<usize>>) = (Vec::new(), Vec::new());
        if let Some(own) = own {
            keys.push(own);
            owners.push(None);
        }
        for (index, credential) in credentials.iter().enumerate() {
            let Some(of_credential) = &credential.scram else {
                continue;
            };
            if let Some(first) = keys.first()
                && !first.shares_salt_with(of_credential)
            {
                let message = format!(
                    "{label}: the keys of credential `{}` have another salt than those before them",
                    credential.credential.name
                );
                self.notes.error(&credential.scram_span, message).hint = Some(
                    "the keys of one account share salt and iterations, as `gatepost account` makes them"
                        .to_owned(),
                );
                continue;
            }
            keys.push(of_credential.clone());
            owners.push(Some(index));
        }
        Some(ScramSecrets {
            verifier: Arc::new(Verifier::new(&keys)?),
            owners,
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
                self.notes
                    .error(&span, format!("{label}: the name {unusable}"));
                return None;
            }
        };
        let line = self.notes.line(span.start);
        if let Some(first) = self.names.insert(name.clone(), line) {
            self.notes
                .error(
                    &span,
                    format!("{label} is there twice, first on line {first}"),
                )
                .hint =
                Some("names are compared without regard to the case of the domain".to_owned());
        }
        Some(name)
    }

    fn password(&mut self, label: &str, value: &Spanned<DeValue<'_>>) -> Option<Arc<Stored>> {
        let hint = "set it anew: gatepost account password NAME";
        let text = self.secret_text(label, "password", value, hint)?;
        match Stored::parse(text, self.memory_kib_max) {
            Ok(stored) => Some(Arc::new(stored)),
            Err(error) => {
                self.notes
                    .error(&value.span(), format!("{label}: the password {error}"))
                    .hint = Some(hint.to_owned());
                None
            }
        }
    }

    fn scram(&mut self, label: &str, value: &Spanned<DeValue<'_>>) -> Option<Keys> {
        let hint = "make them anew: gatepost account password NAME --store both";
        let text = self.secret_text(label, "scram", value, hint)?;
        match Keys::parse(text) {
            Ok(keys) => Some(keys),
            Err(error) => {
                self.notes
                    .error(&value.span(), format!("{label}: the keys {error}"))
                    .hint = Some(hint.to_owned());
                None
            }
        }
    }

    fn secret_text<'v>(
        &mut self,
        label: &str,
        key: &str,
        value: &'v Spanned<DeValue<'_>>,
        hint: &str,
    ) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.notes
                .error(&value.span(), format!("{label}: {key} is not a text"))
                .hint = Some(hint.to_owned());
        }
        text
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
        self.notes
            .error(&key.span(), format!("{prefix}unknown key `{name}`"))
            .hint = Some(hint);
    }

    /// Whether the line of a syntax error may be, or may have been meant to be, one with a password. Only a line that
    /// plainly begins with another key may be shown.
    fn may_hold_a_secret(&self, span: &Range<usize>) -> bool {
        let text = self.notes.line_text(span.start).trim();
        let key = text.split('=').next().unwrap_or_default().trim();
        let harmless = text.starts_with("[[") || (text.contains('=') && is_plainly_no_secret(key));
        !harmless || text.contains("pass") || text.contains('$')
    }
}

/// Whether a key is known, or near to a known one, and that one is for no secret.
fn is_plainly_no_secret(key: &str) -> bool {
    nearest(key, KEYS).is_some_and(|known| !SECRET_KEYS.contains(&known))
}

#[cfg(test)]
mod tests;
