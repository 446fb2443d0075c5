//! `gatepost account credential`: the further secrets of an account, one for each device or program.
//!
//! A secret is made here, printed once on standard output, and known to nobody afterwards but to whoever it was given.
//! A client certificate takes the place of a secret: it was made elsewhere, and only its fingerprint is kept.

use std::path::Path;
use std::time::Duration;

use clap::Subcommand;
use ipnet::IpNet;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{Place, check_patterns, done, last_used, limit_json, print, printable, say};
use crate::account::credential::{Evidence, generate, is_name};
use crate::account::directory::{CredentialRecord, Record};
use crate::account::edit::{Edit, NewCredential};
use crate::account::scram;
use crate::account::state::LoginState;
use crate::cli::Failure;
use crate::clock::{Now, Timestamp, rfc3339_milliseconds};
use crate::decision::{Credential, RecipientPattern};
use crate::diagnostic::Finding;
use crate::sasl::external::Fingerprint;
use crate::tls::client_fingerprint;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a secret for a device or program, and show it once; or let its certificate log in
    #[command(after_help = ADD_HELP)]
    Add(Box<Add>),
    /// List the credentials of an account
    #[command(after_help = JSON_HELP)]
    List {
        /// The account
        account: String,
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Remove a credential, and the comment right above it; the others stay
    Remove {
        /// The account
        account: String,
        /// The credential
        #[arg(long)]
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// The account
    account: String,
    /// What the credential is called in the file and in the log: letters, digits, `-`, `.`, `_`
    #[arg(long)]
    name: String,
    /// Until when it is good: a date (2027-01-31), a time (2027-01-31T18:00:00Z) or a span from now (90d)
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// From where it may be used, any number of times: a network or an address
    #[arg(long, value_name = "NETWORK")]
    allow_from: Vec<String>,
    /// What it may send as, any number of times: a pattern as for `account add`
    #[arg(long, value_name = "PATTERN")]
    send_as: Vec<String>,
    /// Whom it may send to, any number of times: bob@example.net, '*@example.org'
    #[arg(long, value_name = "PATTERN")]
    rcpt_allow: Vec<String>,
    /// Messages in any hour, beside the account's own limit
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    messages_per_hour: Option<u32>,
    /// Recipients in any day, beside the account's own limit
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    recipients_per_day: Option<u32>,
    /// Make SCRAM keys for it even if the account's password has none
    #[arg(long)]
    scram: bool,
    /// In place of a secret, the client's certificate: its PEM file, or its SHA-256 fingerprint
    #[arg(long, value_name = "FILE|FINGERPRINT", conflicts_with = "scram")]
    certificate: Option<String>,
    /// A remark of your own
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

const ADD_HELP: &str = "\
The device logs in with the name of the account and this secret in place of the password. What is said of the
credential narrows what the account may, and never widens it. Where the account has SCRAM keys, it gets some too.
With --certificate it logs in with EXTERNAL and the certificate that it shows in the TLS handshake, no secret at all;
auth.mechanisms must name EXTERNAL.";

const JSON_HELP: &str = "\
JSON: an array of objects. Fields, which are only ever added to:
  name                text
  expires             time or null
  expired             boolean
  certificate         the fingerprint of the certificate that it is, or null: it is a secret
  has_scram           boolean: whether SCRAM-SHA-256 can be used with it
  last_login          time, or null: as far as it is remembered
  allow_from          array of networks; empty: as the account
  send_as             array of patterns; empty: as the account
  rcpt_allow          array of patterns; empty: everybody
  messages_per_hour   number, \"unlimited\", or null: only what the account has
  recipients_per_day  the same
  note                text or null
  file, line          where it is written";

pub(super) fn run(place: &Place, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add(add) => add_one(place, *add),
        Command::List { account, json } => {
            let record = place.record(&account)?;
            if json {
                print(format_args!("{:#}", to_json(&record, &place.memory)));
            } else {
                lines(&record, &place.memory).for_each(print);
            }
            Ok(())
        }
        Command::Remove { account, name } => {
            let edited = place.edit(&account, &Edit::RemoveCredential(name.clone()))?;
            print(done(&format!("removed the credential {name} of"), &edited));
            Ok(())
        }
    }
}

fn add_one(place: &Place, add: Add) -> Result<(), Failure> {
    let record = place.record(&add.account)?;
    if !is_name(&add.name) {
        let finding = Finding::error("--name is not 1 to 64 letters, digits, `-`, `.`, `_`");
        return Err(finding.hint("--name scanner").into());
    }
    check_patterns(&add.send_as)?;
    check_values("--rcpt-allow", &add.rcpt_allow, |text| {
        RecipientPattern::parse(text).is_ok()
    })?;
    check_values("--allow-from", &add.allow_from, |text| {
        text.parse::<IpNet>().is_ok() || text.parse::<std::net::IpAddr>().is_ok()
    })?;
    let expires = match &add.expires {
        Some(text) => Some(moment(text, Now::read())?),
        None => None,
    };
    let failed = |error| Failure::from(Finding::error(format!("{error}")));
    let (evidence, secret, scram) = match &add.certificate {
        Some(text) => (Evidence::Certificate(fingerprint(text)?), None, None),
        None => {
            let (secret, kept) = generate().map_err(failed)?;
            let verifier = record.scram.as_ref().map(|scram| &*scram.verifier);
            let scram = (add.scram || verifier.is_some())
                .then(|| scram::make(&secret, verifier))
                .transpose()
                .map_err(failed)?;
            (Evidence::Secret(kept), Some(secret), scram)
        }
    };
    let new = NewCredential {
        name: add.name.clone(),
        evidence,
        scram: scram.map(|keys| keys.to_text()),
        expires,
        allow_from: add.allow_from,
        send_as: add.send_as,
        rcpt_allow: add.rcpt_allow,
        messages_per_hour: add.messages_per_hour,
        recipients_per_day: add.recipients_per_day,
        note: add.note,
    };
    let edited = place.edit(&add.account, &Edit::AddCredential(new))?;
    say(done(
        &format!("added the credential {} of", add.name),
        &edited,
    ));
    match secret {
        Some(secret) => {
            say("its secret, which is shown this once:");
            print(String::from_utf8_lossy(secret.expose()));
        }
        None if !place.offers_external => say(
            "auth.mechanisms does not name EXTERNAL yet, without which no client is asked for a certificate",
        ),
        None => {}
    }
    Ok(())
}

/// What `--certificate` says: a fingerprint, else a file.
fn fingerprint(text: &str) -> Result<Fingerprint, Failure> {
    if let Ok(fingerprint) = Fingerprint::parse(text) {
        return Ok(fingerprint);
    }
    let (fingerprint, odd) = client_fingerprint(Path::new(text), Now::read())?;
    odd.iter().for_each(say);
    Ok(fingerprint)
}

fn check_values(
    option: &str,
    texts: &[String],
    is_good: impl Fn(&str) -> bool,
) -> Result<(), Failure> {
    let wrong = texts.iter().filter(|text| !is_good(text));
    let findings: Vec<Finding> = wrong
        .map(|text| Finding::error(format!("{option} cannot be `{text}`")))
        .collect();
    match findings.is_empty() {
        true => Ok(()),
        false => Err(findings.into()),
    }
}

/// A date, a time, or a span from `now`.
fn moment(text: &str, now: Now) -> Result<Timestamp, Failure> {
    let midnight = |date: Date| date.to_zoned(TimeZone::UTC).ok();
    let date = text
        .parse()
        .ok()
        .and_then(midnight)
        .map(|day| day.timestamp());
    let span = || {
        let span: Duration = humantime::parse_duration(text).ok()?;
        (!span.is_zero()).then(|| now.after(span).wall)
    };
    let time = text.parse().ok().or(date).or_else(span).ok_or_else(|| {
        let finding = Finding::error(format!("--expires cannot be `{text}`"));
        finding.hint("--expires 2027-01-31, 2027-01-31T18:00:00Z, or 90d")
    })?;
    if time <= now.wall {
        return Err(Finding::error(format!("--expires {text} is past")).into());
    }
    Ok(time)
}

fn texts<T: ToString>(items: impl Iterator<Item = T>) -> Vec<String> {
    items.map(|item| item.to_string()).collect()
}

pub(super) fn to_json(record: &Record, memory: &LoginState) -> Value {
    let now = Now::read().wall;
    let credentials = record.credentials.iter().map(|one| {
        let CredentialRecord {
            credential,
            evidence,
            has_scram,
            ..
        } = one;
        let certificate = evidence.certificate();
        json!({
            "name": credential.name,
            "expires": credential.expires.map(|time| time.to_string()),
            "expired": credential.expires.is_some_and(|expires| now >= expires),
            "certificate": certificate.map(|fingerprint| fingerprint.to_string()),
            "has_scram": has_scram,
            "last_login": memory
                .last_used(&record.account.name, &credential.name)
                .map(rfc3339_milliseconds),
            "allow_from": texts(credential.allow_from.iter()),
            "send_as": texts(credential.send_as.iter().map(|(pattern, _)| pattern)),
            "rcpt_allow": texts(credential.rcpt_allow.iter().map(|(pattern, _)| pattern)),
            "messages_per_hour": limit_json(&credential.messages_per_hour),
            "recipients_per_day": limit_json(&credential.recipients_per_day),
            "note": credential.note,
            "file": credential.origin.file.display().to_string(),
            "line": credential.origin.line,
        })
    });
    credentials.collect()
}

/// One line for each credential.
pub(super) fn lines<'r>(
    record: &'r Record,
    memory: &'r LoginState,
) -> impl Iterator<Item = String> + 'r {
    let now = Now::read().wall;
    record.credentials.iter().map(move |one| {
        let credential = &one.credential;
        let last = last_used(memory, &record.account.name, &credential.name);
        let mut line = format!("{}, last login: {last}", credential.name);
        if let Some(fingerprint) = one.evidence.certificate() {
            line.push_str(&format!(", certificate {fingerprint}"));
        }
        for words in narrowing(credential, now) {
            line.push_str(", ");
            line.push_str(&words);
        }
        if let Some(note) = &credential.note {
            line.push_str(&format!("  # {}", printable(note)));
        }
        line
    })
}

fn narrowing(credential: &Credential, now: Timestamp) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(expires) = credential.expires {
        let verb = if now >= expires { "expired" } else { "expires" };
        words.push(format!("{verb} {expires}"));
    }
    for (what, items) in [
        ("from", texts(credential.allow_from.iter())),
        (
            "sends as",
            texts(credential.send_as.iter().map(|(pattern, _)| pattern)),
        ),
        (
            "sends to",
            texts(credential.rcpt_allow.iter().map(|(pattern, _)| pattern)),
        ),
    ] {
        if !items.is_empty() {
            words.push(format!("{what} {}", items.join(" ")));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_named_or_shown() {
        let fingerprint_of_nothing =
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("client.pem");
        let shown = path.to_str().unwrap();
        let said = |text: &str| match fingerprint(text) {
            Ok(fingerprint) => fingerprint.to_string(),
            Err(Failure(findings)) => findings[0].one_line(),
        };
        let upper = fingerprint_of_nothing["sha256:".len()..].to_uppercase();
        assert_eq!(said(&upper), fingerprint_of_nothing);
        assert!(said(shown).contains("correct its name in --certificate"));
        let fresh = crate::tls::fresh::self_signed(&["localhost"], Now::read()).unwrap();
        std::fs::write(&path, fresh.key.expose()).unwrap();
        assert!(said(shown).contains("leave the key with its owner"));
        std::fs::write(&path, &fresh.chain).unwrap();
        assert!(said(shown).starts_with("sha256:"), "{}", said(shown));
    }

    #[test]
    fn moments() {
        let now = Now {
            wall: "2026-11-21T10:00:00Z".parse().unwrap(),
            ..Now::read()
        };
        for (text, expected) in [
            ("2027-01-31", Some("2027-01-31T00:00:00Z")),
            ("2027-01-31T18:00:00+01:00", Some("2027-01-31T17:00:00Z")),
            ("90d", Some("2027-02-19T10:00:00Z")),
            ("2h", Some("2026-11-21T12:00:00Z")),
            ("2026-11-21", None),
            ("0s", None),
            ("soon", None),
            ("", None),
        ] {
            let moment = moment(text, now).ok().map(|time| time.to_string());
            assert_eq!(moment.as_deref(), expected, "{text}");
        }
    }
}
