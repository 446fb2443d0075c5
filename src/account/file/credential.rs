//! `[[account.credential]]`: the further secrets of an account, and what each of them may.

use std::ops::Range;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::Reader;
use crate::account::credential::{self, CREDENTIALS_MAX, Evidence, GeneratedSecret};
use crate::clock::Timestamp;
use crate::decision::{Credential, RecipientPattern, SenderPattern};
use crate::diagnostic::nearest;
use crate::sasl::external::Fingerprint;
use crate::sasl::scram::Keys;

/// All keys of an `[[account.credential]]`.
const KEYS: [&str; 11] = [
    "allow_from",
    "certificate",
    "expires",
    "messages_per_hour",
    "name",
    "note",
    "rcpt_allow",
    "recipients_per_day",
    "scram",
    "secret",
    "send_as",
];

/// Those of them whose values are secrets.
const SECRET_KEYS: [&str; 2] = ["scram", "secret"];

/// The form of a secret, and who makes it.
const SECRET_HINT: &str = "make another: gatepost account credential add ACCOUNT --name NAME";

/// A credential as it is written.
pub(super) struct Written {
    pub(super) credential: Arc<Credential>,
    pub(super) evidence: Evidence,
    pub(super) scram: Option<Keys>,
    /// Where its SCRAM keys are written.
    pub(super) scram_span: Range<usize>,
}

impl Reader<'_> {
    /// All credentials of the account called `label`, but for those in which something is wrong.
    pub(super) fn credentials(
        &mut self,
        label: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Vec<Written> {
        let entries = match value.get_ref() {
            DeValue::Array(entries) if entries.iter().all(is_table) => entries,
            _ => {
                self.notes.secret(value.span());
                self.notes
                    .error(
                        &value.span(),
                        format!("{label}: credential is no list of credentials"),
                    )
                    .hint = Some("begin each one with [[account.credential]]".to_owned());
                return Vec::new();
            }
        };
        self.hide_secrets(entries);
        if entries.len() > CREDENTIALS_MAX {
            let message = format!("{label} has more than {CREDENTIALS_MAX} credentials");
            self.notes.error(&value.span(), message).hint =
                Some("give whoever needs so many an account of their own".to_owned());
            return Vec::new();
        }
        let mut written: Vec<Written> = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let DeValue::Table(table) = entry.get_ref() else {
                continue;
            };
            let Some(one) = self.credential(label, index + 1, &entry.span(), table) else {
                continue;
            };
            let name = &one.credential.name;
            if written.iter().any(|other| other.credential.name == *name) {
                let message = format!("{label} has two credentials `{name}`");
                self.notes.error(&entry.span(), message).hint =
                    Some("give one of them another name".to_owned());
                continue;
            }
            written.push(one);
        }
        written
    }

    /// Before anything is said about them, so that no finding about another key on the same line shows a secret.
    fn hide_secrets(&mut self, entries: &DeArray<'_>) {
        let tables = entries
            .iter()
            .filter_map(|entry| entry.get_ref().as_table());
        for (key, value) in tables.flat_map(|table| table.iter()) {
            let harmless =
                nearest(key.get_ref(), KEYS).is_some_and(|known| !SECRET_KEYS.contains(&known));
            if !harmless {
                self.notes.secret(value.span());
            }
        }
    }

    fn credential(
        &mut self,
        account: &str,
        number: usize,
        span: &Range<usize>,
        table: &DeTable<'_>,
    ) -> Option<Written> {
        let get = |key: &str| table.get(key);
        let name = get("name").and_then(|value| value.get_ref().as_str());
        let label = match name.filter(|name| credential::is_name(name)) {
            Some(name) => format!("{account}, credential `{name}`"),
            None => format!("{account}, credential number {number}"),
        };
        for key in table.keys() {
            if !KEYS.contains(&key.get_ref().as_ref()) {
                self.unknown_key(key, Some(&label), KEYS);
            }
        }
        let name = match (get("name"), name) {
            (_, Some(name)) if credential::is_name(name) => Some(name.to_owned()),
            (Some(value), _) => {
                let message =
                    format!("{label}: the name is not 1 to 64 letters, digits, `-`, `.`, `_`");
                self.notes.error(&value.span(), message).hint =
                    Some("name = \"scanner\"".to_owned());
                None
            }
            (None, _) => {
                self.notes.error(span, format!("{label} has no name")).hint =
                    Some("name = \"scanner\"".to_owned());
                None
            }
        };
        let evidence = match (get("secret"), get("certificate")) {
            (Some(value), None) => self.generated_secret(&label, value).map(Evidence::Secret),
            (None, Some(value)) => self.certificate(&label, value).map(Evidence::Certificate),
            (None, None) => {
                self.notes
                    .error(span, format!("{label} has no secret"))
                    .hint = Some(SECRET_HINT.to_owned());
                None
            }
            (Some(_), Some(value)) => {
                let message = format!("{label} has both a secret and a certificate");
                self.notes.error(&value.span(), message).hint =
                    Some("give each a credential of its own".to_owned());
                None
            }
        };
        if let (Some(_), Some(value)) = (get("certificate"), get("scram")) {
            let message = format!("{label} has SCRAM keys, which a certificate cannot use");
            self.notes.error(&value.span(), message).hint =
                Some("give what they belong to a credential of its own".to_owned());
        }
        let scram_span = get("scram").map_or(span.clone(), Spanned::span);
        let scram = get("scram").and_then(|value| self.scram(&label, value));
        let expires = get("expires").and_then(|value| self.time(&label, "expires", value));
        let send_as = get("send_as")
            .map(|value| {
                let shape = "send_as = [\"alice@example.org\", \"*@lists.example.org\"]";
                let empty = "leave it out for all that the account may send as";
                self.patterns(
                    &label,
                    "send_as",
                    value,
                    (shape, empty),
                    SenderPattern::parse,
                )
            })
            .unwrap_or_default();
        let rcpt_allow = get("rcpt_allow")
            .map(|value| {
                let shape = "rcpt_allow = [\"*@example.org\", \"bob@example.net\"]";
                let empty = "leave it out to allow every recipient, or remove the credential";
                self.patterns(
                    &label,
                    "rcpt_allow",
                    value,
                    (shape, empty),
                    RecipientPattern::parse,
                )
            })
            .unwrap_or_default();
        let allow_from = get("allow_from")
            .map(|value| self.networks(&label, value))
            .unwrap_or_default();
        let messages_per_hour = self.own_limit(&label, "messages_per_hour", table);
        let recipients_per_day = self.own_limit(&label, "recipients_per_day", table);
        let note = self.note(&label, table);
        Some(Written {
            credential: Arc::new(Credential {
                name: name?,
                expires,
                allow_from,
                send_as,
                rcpt_allow,
                messages_per_hour,
                recipients_per_day,
                note,
                origin: self.notes.origin(span),
            }),
            evidence: evidence?,
            scram,
            scram_span,
        })
    }

    fn generated_secret(
        &mut self,
        label: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<GeneratedSecret> {
        let text = self.secret_text(label, "secret", value, SECRET_HINT)?;
        match GeneratedSecret::parse(text) {
            Ok(secret) => Some(secret),
            Err(error) => {
                self.notes
                    .error(&value.span(), format!("{label}: the secret {error}"))
                    .hint = Some(SECRET_HINT.to_owned());
                None
            }
        }
    }

    /// A fingerprint; whose certificate it is must be plain, so there is each once in the file.
    fn certificate(&mut self, label: &str, value: &Spanned<DeValue<'_>>) -> Option<Fingerprint> {
        let span = value.span();
        let problem = match value.get_ref().as_str().map(Fingerprint::parse) {
            Some(Ok(fingerprint)) => {
                let line = self.notes.line(span.start);
                let Some(first) = self.certificates.insert(fingerprint, line) else {
                    return Some(fingerprint);
                };
                let message =
                    format!("{label}: the certificate is there twice, first on line {first}");
                self.notes.error(&span, message).hint =
                    Some("a certificate belongs to one credential of one account".to_owned());
                return None;
            }
            Some(Err(error)) => error.to_string(),
            None => "is not a text".to_owned(),
        };
        self.notes
            .error(&span, format!("{label}: certificate {problem}"))
            .hint = Some(
            "openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE shows it; gatepost account \
             credential add ACCOUNT --name NAME --certificate FILE writes it"
                .to_owned(),
        );
        None
    }

    /// A moment: a TOML date with time and offset, or a date alone, which begins at midnight UTC.
    fn time(&mut self, label: &str, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Timestamp> {
        let time = value.get_ref().as_datetime().and_then(|written| {
            let text = written.to_string();
            let midnight = |date: Date| date.to_zoned(TimeZone::UTC).ok();
            match (written.time, written.offset) {
                (Some(_), Some(_)) => text.parse().ok(),
                (None, None) => text
                    .parse()
                    .ok()
                    .and_then(midnight)
                    .map(|day| day.timestamp()),
                _ => None,
            }
        });
        if time.is_none() {
            let shape = format!("{key} = 2027-01-31, or {key} = 2027-01-31T18:00:00Z");
            self.wrong_type(
                label,
                key,
                value,
                "a date, or a date and time with its offset",
                &shape,
            );
        }
        time
    }
}

fn is_table(entry: &Spanned<DeValue<'_>>) -> bool {
    matches!(entry.get_ref(), DeValue::Table(_))
}
