//! `[account.tripwires]`: what an account says of its own trip wires.

use std::sync::Arc;

use toml::Spanned;
use toml::de::DeValue;

use super::Reader;
use super::values::limit_of;
use crate::decision::{Limit, Origin, OwnTripwires, TripwireMode};
use crate::diagnostic::nearest;

/// All keys of an `[account.tripwires]`: those of `[tripwires]` in the configuration, but for `exempt`.
const KEYS: [&str; 5] = [
    "messages_per_10_minutes",
    "mode",
    "networks_per_hour",
    "new_recipients_per_hour",
    "refused_recipients_per_hour",
];

impl Reader<'_> {
    /// The table of the account called `label`; what cannot be used of it is reported and left out.
    pub(super) fn tripwires(
        &mut self,
        label: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<Arc<OwnTripwires>> {
        let DeValue::Table(table) = value.get_ref() else {
            let shape = "tripwires.mode = \"dry-run\", or tripwires.networks_per_hour = 50";
            self.wrong_type(label, "tripwires", value, "a table of keys", shape);
            return None;
        };
        // A password that was written below the header of this table is one all the same.
        for (key, value) in table {
            if nearest(key.get_ref(), KEYS).is_none() {
                self.notes.secret(value.span());
            }
        }
        let label = format!("{label}, tripwires");
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if KEYS.contains(&name) {
                continue;
            }
            if super::KEYS.contains(&name) {
                let message = format!("{label}: `{name}` is a key of the account itself");
                self.notes.error(&key.span(), message).hint = Some(
                    "write it above [account.tripwires]: a table goes on until the next header"
                        .to_owned(),
                );
            } else {
                self.unknown_key(key, Some(&label), KEYS);
            }
        }
        let mode = table.get("mode").and_then(|value| self.mode(&label, value));
        let mut limit = |key| {
            table
                .get(key)
                .and_then(|value| self.wire(&label, key, value))
        };
        Some(Arc::new(OwnTripwires {
            mode,
            messages_per_10_minutes: limit("messages_per_10_minutes"),
            new_recipients_per_hour: limit("new_recipients_per_hour"),
            networks_per_hour: limit("networks_per_hour"),
            refused_recipients_per_hour: limit("refused_recipients_per_hour"),
        }))
    }

    fn mode(
        &mut self,
        label: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<(TripwireMode, Origin)> {
        let text = value.get_ref().as_str();
        let mode = TripwireMode::ALL
            .into_iter()
            .find(|mode| text == Some(mode.name()));
        let Some(mode) = mode else {
            let message = format!("{label}: mode is none of \"on\", \"dry-run\", \"off\"");
            self.notes.error(&value.span(), message).hint =
                Some("leave it out for what tripwires.mode says in the configuration".to_owned());
            return None;
        };
        Some((mode, self.notes.origin(&value.span())))
    }

    fn wire(
        &mut self,
        label: &str,
        key: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<(Limit, Origin)> {
        let Some(limit) = limit_of(value) else {
            let message = format!("{label}: {key} is not a positive integer or \"unlimited\"");
            self.notes.error(&value.span(), message).hint = Some(format!(
                "{key} = 50; \"unlimited\" leaves this wire out, mode = \"off\" all of them"
            ));
            return None;
        };
        Some((limit, self.notes.origin(&value.span())))
    }
}
