//! Credentials that come and go below their account.

use toml_edit::{Array, ArrayOfTables, Formatted, Item, Table, Value};

use super::{kept_comments, put_above};
use crate::account::credential::Evidence;
use crate::clock::Timestamp;
use crate::diagnostic::{Finding, nearest};

/// What a new credential begins with.
#[derive(Clone)]
pub struct NewCredential {
    /// Its name within the account.
    pub name: String,
    /// What it is recognised by.
    pub evidence: Evidence,
    /// The SCRAM keys of its secret, as text.
    pub scram: Option<String>,
    /// From when on it is good for nothing.
    pub expires: Option<Timestamp>,
    /// As written: networks and addresses.
    pub allow_from: Vec<String>,
    /// As written: patterns.
    pub send_as: Vec<String>,
    /// As written: patterns.
    pub rcpt_allow: Vec<String>,
    /// A limit of its own.
    pub messages_per_hour: Option<u32>,
    /// Likewise.
    pub recipients_per_day: Option<u32>,
    /// The operator's own remark.
    pub note: Option<String>,
}

impl std::fmt::Debug for NewCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewCredential")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl NewCredential {
    fn to_table(&self) -> Table {
        let mut table = Table::new();
        table.insert("name", toml_edit::value(&self.name));
        match &self.evidence {
            Evidence::Certificate(fingerprint) => {
                table.insert("certificate", toml_edit::value(fingerprint.to_string()))
            }
            Evidence::Secret(secret) => table.insert("secret", toml_edit::value(secret.to_text())),
        };
        if let Some(scram) = &self.scram {
            table.insert("scram", toml_edit::value(scram));
        }
        // Every time that we show is one that TOML can hold.
        if let Some(time) = self
            .expires
            .and_then(|time| format!("{time:.0}").parse().ok())
        {
            table.insert(
                "expires",
                Item::Value(Value::Datetime(Formatted::new(time))),
            );
        }
        for (key, texts) in [
            ("allow_from", &self.allow_from),
            ("send_as", &self.send_as),
            ("rcpt_allow", &self.rcpt_allow),
        ] {
            if !texts.is_empty() {
                table.insert(key, toml_edit::value(texts.iter().collect::<Array>()));
            }
        }
        for (key, limit) in [
            ("messages_per_hour", self.messages_per_hour),
            ("recipients_per_day", self.recipients_per_day),
        ] {
            if let Some(limit) = limit {
                table.insert(key, toml_edit::value(i64::from(limit)));
            }
        }
        if let Some(note) = &self.note {
            table.insert("note", toml_edit::value(note));
        }
        table
    }
}

/// Appends a credential to the account at `index`.
pub(super) fn add(
    entries: &mut ArrayOfTables,
    index: usize,
    new: &NewCredential,
) -> Result<(), Vec<Finding>> {
    let Some(entry) = entries.get_mut(index) else {
        return Ok(());
    };
    let item = entry
        .entry("credential")
        .or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    let Some(credentials) = item.as_array_of_tables_mut() else {
        let message =
            "the credentials are written as one inline list, which cannot be edited in place";
        return Err(vec![
            Finding::error(message).hint("write each below its own [[account.credential]]"),
        ]);
    };
    if credentials
        .iter()
        .any(|one| name_in(one) == Some(&new.name))
    {
        let message = format!("the account has a credential `{}` already", new.name);
        return Err(vec![Finding::error(message).hint(
            "give the new one another name, then remove the old one: nothing stops working in between",
        )]);
    }
    let mut table = new.to_table();
    table.decor_mut().set_prefix("\n");
    credentials.push(table);
    Ok(())
}

/// Removes a credential from the account at `index`; `None` if there is none of the name. Gives the comments above it
/// that were not its own and now have to go above what follows the account.
pub(super) fn remove(entries: &mut ArrayOfTables, index: usize, name: &str) -> Option<String> {
    let entry = entries.get_mut(index)?;
    let credentials = entry.get_mut("credential")?.as_array_of_tables_mut()?;
    let at = credentials
        .iter()
        .position(|one| name_in(one) == Some(name))?;
    let removed = credentials.remove(at);
    let prefix = removed.decor().prefix().and_then(|raw| raw.as_str());
    let kept = kept_comments(prefix.unwrap_or_default(), false);
    let kept = match credentials.get_mut(at) {
        Some(next) if !kept.is_empty() => {
            put_above(next, &kept);
            String::new()
        }
        Some(_) => String::new(),
        None => kept,
    };
    if credentials.is_empty() {
        entry.remove("credential");
    }
    Some(kept)
}

pub(super) fn missing(entries: &ArrayOfTables, index: usize, name: &str) -> Finding {
    let credentials = entries
        .get(index)
        .and_then(|entry| entry.get("credential"))
        .and_then(Item::as_array_of_tables);
    let names: Vec<&str> = credentials.map_or_else(Vec::new, |credentials| {
        credentials.iter().filter_map(name_in).collect()
    });
    let finding = Finding::error(format!("the account has no credential `{name}`"));
    match (nearest(name, names.iter().copied()), names.as_slice()) {
        (Some(near), _) => finding.hint(format!("did you mean `{near}`?")),
        (None, []) => finding.hint("it has none at all"),
        (None, names) => finding.hint(format!("it has: {}", names.join(", "))),
    }
}

fn name_in(entry: &Table) -> Option<&str> {
    entry.get("name").and_then(Item::as_str)
}
