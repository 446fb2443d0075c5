//! `[tripwires]` and `[alert]`: what is done about an account that somebody else seems to use.

use std::num::NonZeroU64;
use std::time::Duration;

use super::quantity::{Bounds, Problem, Wait};
use super::reader::{Document, Located};
use crate::account::identity::prepare_name;
use crate::decision::Limit;
use crate::policy::tripwire::{Mode, TripwireSettings};
use crate::server::alert::AlertSettings;

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
            Ok(name) => exempt.push(name),
            Err(unusable) => {
                let text = format!("has a name that {unusable}");
                section.report("exempt", span, Problem::new(text, example));
            }
        }
    }
    let limit = |key, default| section.limit(key, default).0;
    TripwireSettings {
        mode,
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

/// Reads `[alert]`.
pub(super) fn alert(document: &Document<'_>) -> AlertSettings {
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
    AlertSettings { command, timeout }
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
const ALERT_TIMEOUT: Bounds<Wait> =
    Bounds::new(Wait(Duration::from_secs(1)), Wait(Duration::from_secs(600)));
