//! The trip wires of an account, as `explain` shows them: how each holds for it, by which line, how near it is, and who
//! would hear of it.

use serde_json::{Value, json};

use super::place;
use crate::cli::account::printable;
use crate::clock::Now;
use crate::decision::{Account, Rule};
use crate::policy::tripwire::{Allowance, Mode, TripwireSettings, Tripwires, Wire};
use crate::server::alert::AlertSettings;

/// What is to say of them.
pub(super) struct Wires {
    mode: Mode,
    rule: Rule,
    /// Each with how much counts now; none where nothing is counted.
    wires: Vec<(Wire, Allowance, u64)>,
    mail_to: Vec<String>,
    command: Vec<String>,
}

impl Wires {
    pub(super) fn of(
        account: &Account,
        settings: &TripwireSettings,
        alert: &AlertSettings,
        tripwires: &Tripwires,
        now: Now,
    ) -> Self {
        let (mode, rule) = settings.mode_for(account);
        let counts = tripwires.counts(&account.name, now).into_iter();
        let mail_to = alert.mail.iter().flat_map(|mail| &mail.to);
        Self {
            mode,
            rule,
            wires: counts
                .filter(|_| mode != Mode::Off)
                .map(|(wire, count)| (wire, settings.allowance(account, wire), count))
                .collect(),
            mail_to: mail_to.map(ToString::to_string).collect(),
            command: alert.command.clone(),
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let by = match &self.rule.origin {
            Some(origin) => format!("{} at {origin}", self.rule.name),
            None => "by default".to_owned(),
        };
        let mut lines = vec![format!("trip wires: {} ({by})", self.mode.name())];
        for (wire, allowance, count) in &self.wires {
            let allowed = match allowance.allowed {
                Some(allowed) => allowed.to_string(),
                None => "unlimited".to_owned(),
            };
            let place = match &allowance.origin {
                Some(origin) => format!("at {origin}"),
                None => "by default".to_owned(),
            };
            let raised = match &allowance.raised_by {
                Some(origin) => format!(", raised by its own limit at {origin}"),
                None => String::new(),
            };
            lines.push(format!(
                "trip wire {} = {allowed} ({place}{raised}): {count} counted",
                wire.name()
            ));
        }
        if self.mode != Mode::Off {
            lines.push(format!("alert: {}", self.told()));
        }
        lines
    }

    /// Who hears of an incident.
    fn told(&self) -> String {
        let mail =
            (!self.mail_to.is_empty()).then(|| format!("mail to {}", self.mail_to.join(", ")));
        let program = self.command.first();
        let command = program.map(|program| format!("command {}", printable(program)));
        match (mail, command) {
            (Some(mail), Some(command)) => format!("{mail}; {command}"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => "in the log alone".to_owned(),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let wires = self.wires.iter().map(|(wire, allowance, count)| {
            let (file, line) = place(&allowance.origin);
            let (raised_file, raised_line) = place(&allowance.raised_by);
            json!({
                "name": wire.name(),
                "allowed": allowance.allowed.map_or("unlimited".into(), Value::from),
                "counted": count,
                "file": file,
                "line": line,
                "raised_by": allowance.raised_by.as_ref().map(|_| json!({"file": raised_file, "line": raised_line})),
            })
        });
        let (file, line) = place(&self.rule.origin);
        json!({
            "mode": self.mode.name(),
            "rule": { "name": self.rule.name, "file": file, "line": line },
            "wires": wires.collect::<Vec<_>>(),
            "alert": { "to": self.mail_to, "command": self.command },
        })
    }
}
