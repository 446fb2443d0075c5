//! `[tripwires]` and `[alert]`: what is done about an account that somebody else seems to use.

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use super::quantity::{Bounds, Problem, Wait};
use super::reader::{Document, Located, Section};
use crate::account::identity::prepare_name;
use crate::decision::Limit;
use crate::policy::tripwire::{Mode, TripwireSettings};
use crate::server::alert::AlertSettings;
use crate::server::alert::mail::MailSettings;
use crate::smtp::address::Mailbox;

/// Reads `[tripwires]`. The defaults of two of them follow the limits that hold for all accounts.
pub(super) fn tripwires(
    document: &Document<'_>,
    messages_per_hour: Limit,
    recipients_per_day: Limit,
) -> TripwireSettings {
    let section = document.section("tripwires");
    let mode = section.choice(
        "mode",
        Mode::On,
        &[
            ("on", Mode::On),
            ("dry-run", Mode::DryRun),
            ("off", Mode::Off),
        ],
    );
    let example = "name accounts: exempt = [\"newsletter@example.org\"]";
    let mut exempt = Vec::new();
    for Located { value, span } in section.texts_if_any("exempt", example) {
        match prepare_name(value) {
            Ok(name) => exempt.push((name, Some(document.origin(span)))),
            Err(unusable) => {
                let text = format!("has a name that {unusable}");
                section.report("exempt", span, Problem::new(text, example));
            }
        }
    }
    let limit = |key, default| section.limit(key, default);
    TripwireSettings {
        mode: (
            mode,
            section.span_of("mode").map(|span| document.origin(span)),
        ),
        exempt,
        messages_per_10_minutes: limit(
            "messages_per_10_minutes",
            part(messages_per_hour, 2, MESSAGES_PER_10_MINUTES),
        ),
        new_recipients_per_hour: limit(
            "new_recipients_per_hour",
            part(recipients_per_day, 5, NEW_RECIPIENTS_PER_HOUR),
        ),
        networks_per_hour: limit("networks_per_hour", at_most(15)),
        refused_recipients_per_hour: limit("refused_recipients_per_hour", at_most(100)),
        messages_per_hour,
        recipients_per_day,
    }
}

/// Reads `[alert]`, in the file `config` of the server called `hostname`.
pub(super) fn alert(document: &Document<'_>, config: &Path, hostname: &str) -> AlertSettings {
    let section = document.section("alert");
    let example =
        "name a program and its arguments: command = [\"/usr/local/bin/page-me\", \"gatepost\"]";
    let words = section.texts_if_any("command", example);
    let mut command = Vec::new();
    for (index, Located { value, span }) in words.into_iter().enumerate() {
        if value.contains('\0') || (index == 0 && !value.starts_with('/')) {
            let text = match index {
                0 => "has a program that is not named by its whole path",
                _ => "has an argument with a NUL in it",
            };
            section.report("command", span, Problem::new(text, example));
        }
        command.push(value.to_owned());
    }
    let timeout = section.duration("timeout", AlertSettings::default().timeout, ALERT_TIMEOUT);
    AlertSettings {
        command,
        timeout,
        mail: mail(&section, config, hostname),
    }
}

/// `alert.to` and `alert.from`; `None` where nobody gets mail.
fn mail(section: &Section<'_>, config: &Path, hostname: &str) -> Option<MailSettings> {
    let example = "name who gets mail: to = \"postmaster@example.org\"";
    let mut to: Vec<Mailbox> = Vec::new();
    for text in section.texts_if_any("to", example) {
        let span = text.span.clone();
        match address(section, "to", text, example) {
            Some(mailbox) if to.iter().any(|other| other.same_as(&mailbox)) => {
                let text = format!("has <{mailbox}> twice");
                section.report("to", span, Problem::new(text, "remove one"));
            }
            Some(mailbox) => to.push(mailbox),
            None => {}
        }
    }
    if to.len() > RECIPIENTS_MAX {
        let text = format!("names more than {RECIPIENTS_MAX} addresses");
        let hint = "name the address of a list that they are on";
        section.report("to", section.span(), Problem::new(text, hint));
    }
    let example = "write whose address stands in From: from = \"postmaster@example.org\"";
    let from = match section.text("from", example) {
        Some(text) => address(section, "from", text, example),
        // A host name that cannot be one has been reported.
        None => Mailbox::parse(format!("postmaster@{hostname}").as_bytes()).ok(),
    };
    if to.is_empty() {
        return None;
    }
    Some(MailSettings {
        to,
        from: from?,
        hostname: hostname.to_owned(),
        // For commands that are given in another directory.
        config: std::path::absolute(config).unwrap_or_else(|_| config.to_owned()),
    })
}

/// An address that every server takes: one of ASCII, as an alert must not depend on SMTPUTF8. Its domain may be
/// written in Unicode.
fn address(
    section: &Section<'_>,
    key: &'static str,
    Located { value, span }: Located<&str>,
    example: &str,
) -> Option<Mailbox> {
    let shown = value.escape_debug();
    let problem = match Mailbox::parse_international(value) {
        Ok(mailbox) if mailbox.is_ascii() => return Some(mailbox),
        Ok(_) => format!("is not ASCII in front of the @: \"{shown}\""),
        Err(error) => format!("is not an e-mail address: \"{shown}\" ({error})"),
    };
    section.report(key, span, Problem::new(problem, example));
    None
}

/// A part of a limit, and not less than this much; as much as anybody likes, where there is none.
fn part(limit: Limit, divisor: u64, least: u64) -> Limit {
    match limit {
        Limit::AtMost(limit) => at_most((limit.get() / divisor).max(least)),
        Limit::Unlimited => Limit::Unlimited,
    }
}

fn at_most(count: u64) -> Limit {
    NonZeroU64::new(count).map_or(Limit::Unlimited, Limit::AtMost)
}

/// Half of what an hour allows: a program that sends what has come together may do that, and nobody writes as much.
const MESSAGES_PER_10_MINUTES: u64 = 300;
/// More than a first mailing to all members of a club.
const NEW_RECIPIENTS_PER_HOUR: u64 = 400;
/// Recipients of one message that every server takes (RFC 5321 section 4.5.3.1.8).
const RECIPIENTS_MAX: usize = 100;
const ALERT_TIMEOUT: Bounds<Wait> =
    Bounds::new(Wait(Duration::from_secs(1)), Wait(Duration::from_secs(600)));
