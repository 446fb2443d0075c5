//! `[guessing]`: what is done about those who try passwords.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::quantity::{Bounds, Problem, Wait};
use super::reader::{Document, Located, Section};
use crate::diagnostic::Finding;
use crate::guard::{GuessingSettings, Mode};

/// Reads the section.
pub(super) fn guessing(document: &Document<'_>) -> GuessingSettings {
    let default = GuessingSettings::default();
    let section = document.section("guessing");
    let mode = section.choice(
        "mode",
        default.mode,
        &[
            ("on", Mode::On),
            ("log-only", Mode::LogOnly),
            ("off", Mode::Off),
        ],
    );
    let exempt = exempt(document, &section);
    let failures_per_address = section.count(
        "failures_per_address",
        default.failures_per_address,
        FAILURES,
    );
    let failures_per_login =
        section.count("failures_per_login", default.failures_per_login, FAILURES);
    let failures_per_account = section.count(
        "failures_per_account",
        default.failures_per_account,
        FAILURES_OF_ACCOUNT,
    );
    let window = section.duration("window", default.window, WINDOW);
    let delay_max = section.duration_or_off("delay_max", default.delay_max, DELAY);
    let ban_for = section.duration("ban_for", default.ban_for, BAN);
    let ban_max = ban_max(&section, ban_for, default.ban_max);
    let known_for = section.duration("known_for", default.known_for, KNOWN);
    GuessingSettings {
        mode,
        exempt,
        failures_per_address,
        failures_per_login,
        failures_per_account,
        window,
        delay_max,
        ban_for,
        ban_max,
        known_for,
    }
}

/// `guessing.exempt`.
fn exempt(document: &Document<'_>, section: &Section<'_>) -> Vec<IpNet> {
    let example = "name networks or addresses: exempt = [\"192.0.2.0/24\", \"2001:db8::1\"]";
    let mut networks = Vec::new();
    for Located { value, span } in section.texts_if_any("exempt", example) {
        let shown = value.escape_debug();
        let network = match (value.parse::<IpNet>(), value.parse::<IpAddr>()) {
            (Ok(network), _) => network.trunc(),
            (_, Ok(address)) => address.to_canonical().into(),
            _ => {
                let text = format!("is neither a network nor an address: \"{shown}\"");
                section.report("exempt", span, Problem::new(text, example));
                continue;
            }
        };
        let warn = |text: String, hint: &str| {
            document.report(span.clone(), Finding::warning(text).hint(hint));
        };
        if network.prefix_len() == 0 {
            warn(
                format!("`guessing.exempt` lets everybody guess without end: \"{shown}\""),
                "write mode = \"off\" if that is meant",
            );
        } else if value
            .parse::<IpNet>()
            .is_ok_and(|written| written != network)
        {
            warn(
                format!("`guessing.exempt` has \"{shown}\", which means the network {network}"),
                "write it so, or the one address without the slash",
            );
        }
        networks.push(network);
    }
    networks
}

/// `guessing.ban_max`. Its default grows with `ban_for`, so that one key is enough to make bans long.
fn ban_max(section: &Section<'_>, ban_for: Duration, default: Duration) -> Duration {
    if !section.has("ban_max") {
        return default.max(ban_for);
    }
    let ban_max = section.duration("ban_max", default, BAN);
    if ban_max < ban_for {
        let text = format!(
            "cannot be shorter than `guessing.ban_for`, which is {}",
            Wait(ban_for)
        );
        let hint = "the first ban is the shortest: lower ban_for, or raise this";
        section.report("ban_max", section.span(), Problem::new(text, hint));
    }
    ban_max
}

const FAILURES: Bounds<u32> = Bounds::new(3, 1_000_000)
    .because("people mistype a password once or twice before they remember it");
const FAILURES_OF_ACCOUNT: Bounds<u32> = Bounds::new(10, 1_000_000)
    .because("an account of many people and devices has some failures on an ordinary day");
const WINDOW: Bounds<Wait> = Bounds::new(minutes(1), days(1));
/// Clients wait longer, people do not.
const DELAY: Bounds<Wait> =
    Bounds::new(Wait(Duration::from_secs(1)), Wait(Duration::from_secs(30)));
const BAN: Bounds<Wait> = Bounds::new(Wait(Duration::from_secs(1)), days(90));
const KNOWN: Bounds<Wait> = Bounds::new(days(1), days(366));

const fn minutes(count: u64) -> Wait {
    Wait(Duration::from_secs(count * 60))
}

const fn days(count: u64) -> Wait {
    minutes(count * 24 * 60)
}
