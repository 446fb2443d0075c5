//! Editing the accounts file in place: one entry changes, every comment and every other line stays as it is.
//!
//! The order of a write: lock the directory, so that two editors cannot undo each other; read; change; read the
//! result as `serve` would, and give up if that finds an error; write a temporary file beside the old one, with its mode and
//! owner; fsync; rename over the old one; fsync the directory. Whoever reads the file sees the old text or the new one,
//! whole, at every moment and after a crash.
//!
//! Nothing here asks for passwords or hashes them: an edit is given the hash.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value};

use super::directory::Directory;
use super::identity::prepare_name;
use super::stored::Stored;
use crate::diagnostic::{Finding, nearest};
pub use credential::NewCredential;
use replace::{lock, replace};

mod credential;
mod replace;

/// What a new file begins with, and what is left when the last account is removed.
const TOP_COMMENT: &str = "# The accounts of gatepost. Edit it by hand or with `gatepost account`; a running gatepost\n# takes changes up by itself.\n";

/// One change to the accounts file.
#[derive(Clone, Debug)]
pub enum Edit {
    /// A new account.
    Add(NewAccount),
    /// A new credential of an account.
    AddCredential(NewCredential),
    /// `disabled = true`.
    Disable,
    /// `disabled = false`, where there was anything else.
    Enable,
    /// The entry goes, with the comment right above it.
    Remove,
    /// The credential of this name goes, with the comment right above it.
    RemoveCredential(String),
    /// The same password in another hash, unless it is another password by now.
    UpgradePassword {
        /// What was stored when the password was known.
        from: Arc<Stored>,
        /// The PHC string of the new hash.
        hash: String,
    },
    /// Another password. What was kept of the old one goes, in every form.
    SetPassword(NewPassword),
}

/// What is kept of a new password; of none, nothing.
#[derive(Clone, Default)]
pub struct NewPassword {
    /// Its PHC string.
    pub hash: Option<String>,
    /// Its SCRAM keys, as text.
    pub scram: Option<String>,
}

impl std::fmt::Debug for NewPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewPassword(..)")
    }
}

/// What a new account begins with.
#[derive(Clone)]
pub struct NewAccount {
    /// Its password.
    pub password: NewPassword,
    /// As written: patterns. Empty leaves the key out.
    pub send_as: Vec<String>,
    /// As written: networks and addresses. Empty leaves the key out.
    pub allow_from: Vec<String>,
    /// The operator's own remark.
    pub note: Option<String>,
}

impl std::fmt::Debug for NewAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewAccount")
            .field("send_as", &self.send_as)
            .field("note", &self.note)
            .finish_non_exhaustive()
    }
}

/// What an edit did.
#[derive(Debug)]
pub struct Edited {
    /// The account's name in its compared form.
    pub name: String,
    /// Whether the file is new.
    pub created: bool,
    /// Whether anything changed; enabling an enabled account does not.
    pub changed: bool,
    /// What is to say about the file now and was not before.
    pub warnings: Vec<Finding>,
}

/// Applies `edit` to the account `name` in the file at `path`. `memory_kib_max` is what one password check may take, as
/// for [`Directory::read`]. On an error the file is as it was.
pub fn apply(
    path: &Path,
    name: &str,
    edit: &Edit,
    memory_kib_max: u32,
) -> Result<Edited, Vec<Finding>> {
    let prepared = prepare_name(name)
        .map_err(|unusable| vec![Finding::error(format!("the name {unusable}"))])?;
    let is_add = matches!(edit, Edit::Add(_));
    let rewritten = rewrite(path, is_add, memory_kib_max, |document| {
        change(document, path, name, &prepared, edit)
    })?;
    Ok(Edited {
        name: prepared,
        created: rewritten.created,
        changed: rewritten.changed,
        warnings: rewritten.warnings,
    })
}

/// Appends accounts whose names, prepared, are not in the file yet; any that are make it an error.
pub fn append(
    path: &Path,
    accounts: &[(String, NewAccount)],
    memory_kib_max: u32,
) -> Result<Vec<Finding>, Vec<Finding>> {
    let rewritten = rewrite(path, true, memory_kib_max, |document| {
        for (name, new) in accounts {
            let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
            push(entries_of(document, path)?, name, new, &trailing);
            document.set_trailing("");
        }
        Ok(())
    })?;
    Ok(rewritten.warnings)
}

/// What became of the file.
struct Rewritten {
    created: bool,
    changed: bool,
    warnings: Vec<Finding>,
}

/// The whole way of an edit, around `change`; `create` makes a file where there is none.
fn rewrite(
    path: &Path,
    create: bool,
    memory_kib_max: u32,
    change: impl FnOnce(&mut DocumentMut) -> Result<(), Vec<Finding>>,
) -> Result<Rewritten, Vec<Finding>> {
    let failed = |action: &str, error: io::Error| {
        vec![Finding::error(format!("cannot {action}: {error}")).in_file(path)]
    };
    // A link stays a link: what it points to is edited.
    let target = match std::fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(failed("find the accounts file", error)),
    };
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if create && !directory.exists() {
        DirBuilder::new()
            .mode(0o755)
            .create(&directory)
            .map_err(|error| failed("create the directory of the accounts file", error))?;
    }
    let _lock = lock(&directory).map_err(|error| failed("lock the directory", error))?;

    let created = !target.exists();
    let (source, before) = if created {
        if !create {
            return Err(vec![
                Finding::error("there is no accounts file")
                    .in_file(path)
                    .hint("gatepost account add NAME creates it"),
            ]);
        }
        (TOP_COMMENT.to_owned(), Vec::new())
    } else {
        let (_, warnings) = Directory::read(&target, memory_kib_max)?;
        let source = std::fs::read_to_string(&target)
            .map_err(|error| failed("read the accounts file", error))?;
        (source, warnings)
    };
    let mut document: DocumentMut = source.parse().map_err(|error: toml_edit::TomlError| {
        vec![Finding::error(format!("not valid TOML: {}", error.message())).in_file(path)]
    })?;
    change(&mut document)?;
    let mut text = document.to_string();
    if text.trim().is_empty() {
        // An empty file looks like one that somebody is just writing, and is not taken up.
        text = TOP_COMMENT.to_owned();
    }
    let changed = created || text != source;
    let (_, after) = Directory::parse(path, &text, memory_kib_max)?;
    if changed {
        replace(&target, &directory, &text)
            .map_err(|error| failed("write the accounts file", error))?;
    }
    let known = |warning: &Finding| before.iter().any(|known| known.message == warning.message);
    let warnings = after
        .into_iter()
        .filter(|warning| !known(warning))
        .collect();
    Ok(Rewritten {
        created,
        changed,
        warnings,
    })
}

/// The `[[account]]` entries of the document, which has some at the latest now.
fn entries_of<'d>(
    document: &'d mut DocumentMut,
    path: &Path,
) -> Result<&'d mut ArrayOfTables, Vec<Finding>> {
    if !document.contains_key("account") {
        document.insert("account", Item::ArrayOfTables(ArrayOfTables::new()));
    }
    document
        .get_mut("account")
        .and_then(Item::as_array_of_tables_mut)
        .ok_or_else(|| {
            vec![
                Finding::error(
                    "the accounts are written as one inline list, which cannot be edited in place",
                )
                .in_file(path)
                .hint("write each account below its own [[account]]"),
            ]
        })
}

/// Appends an account. `trailing`, what stood at the end of the file, stays above it.
fn push(entries: &mut ArrayOfTables, name: &str, new: &NewAccount, trailing: &str) {
    let mut entry = new.to_table(name);
    let gap = if entries.is_empty() && trailing.is_empty() {
        ""
    } else {
        "\n"
    };
    entry.decor_mut().set_prefix(format!("{trailing}{gap}"));
    entries.push(entry);
}

/// Carries out the edit on the document.
fn change(
    document: &mut DocumentMut,
    path: &Path,
    written: &str,
    prepared: &str,
    edit: &Edit,
) -> Result<(), Vec<Finding>> {
    let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
    let entries = entries_of(document, path)?;
    let name_of = |entry: &Table| entry.get("name").and_then(Item::as_str).map(str::to_owned);
    let index = entries.iter().position(|entry| {
        name_of(entry).is_some_and(|name| prepare_name(&name).as_deref() == Ok(prepared))
    });
    let Some(index) = index else {
        let Edit::Add(new) = edit else {
            let names: Vec<String> = entries.iter().filter_map(name_of).collect();
            let finding = Finding::error(format!("there is no account `{written}`")).in_file(path);
            return Err(vec![
                match nearest(written, names.iter().map(String::as_str)) {
                    Some(name) => finding.hint(format!("did you mean `{name}`?")),
                    None => finding.hint("gatepost account list shows all of them"),
                },
            ]);
        };
        push(entries, written, new, &trailing);
        document.set_trailing("");
        return Ok(());
    };
    match edit {
        Edit::Add(_) => {
            return Err(vec![
                Finding::error(format!("the account `{written}` exists already"))
                    .in_file(path)
                    .hint(format!(
                        "for another password: gatepost account password {written}"
                    )),
            ]);
        }
        Edit::Remove => {
            let removed = entries.remove(index);
            let prefix = removed.decor().prefix().and_then(|raw| raw.as_str());
            let kept = kept_comments(prefix.unwrap_or_default(), index == 0);
            if let Some(next) = entries.get_mut(index) {
                if !kept.is_empty() {
                    put_above(next, &kept);
                } else if index == 0 {
                    let own = next.decor().prefix().and_then(|raw| raw.as_str());
                    let own = own.unwrap_or_default().trim_start_matches('\n').to_owned();
                    next.decor_mut().set_prefix(own);
                }
            } else {
                document.set_trailing(format!("{kept}{trailing}"));
            }
        }
        Edit::AddCredential(new) => credential::add(entries, index, new)?,
        Edit::RemoveCredential(name) => {
            let kept = credential::remove(entries, index, name)
                .ok_or_else(|| vec![credential::missing(entries, index, name).in_file(path)])?;
            let next = (index + 1..entries.len()).next();
            match next.and_then(|next| entries.get_mut(next)) {
                _ if kept.is_empty() => {}
                Some(next) => put_above(next, &kept),
                None => document.set_trailing(format!("{kept}{trailing}")),
            }
        }
        Edit::UpgradePassword { from, hash } => {
            let now = entries.get(index).and_then(|entry| entry.get("password"));
            let now = now.and_then(Item::as_str);
            if now
                .and_then(|text| Stored::parse(text, u32::MAX).ok())
                .is_some_and(|now| now.same_as(from))
            {
                set(entries, index, "password", hash.as_str().into());
            }
        }
        Edit::Disable => set(entries, index, "disabled", true.into()),
        Edit::Enable => {
            if entries
                .get(index)
                .is_some_and(|entry| entry.contains_key("disabled"))
            {
                set(entries, index, "disabled", false.into());
            }
        }
        Edit::SetPassword(NewPassword { hash, scram }) => {
            for (key, value) in [("password", hash), ("scram", scram)] {
                match value {
                    Some(value) => set(entries, index, key, value.as_str().into()),
                    None => unset(entries, index, key),
                }
            }
        }
    }
    Ok(())
}

/// Gives a key another value and leaves the comments around the old one.
fn set(entries: &mut ArrayOfTables, index: usize, key: &str, mut value: Value) {
    let Some(entry) = entries.get_mut(index) else {
        return;
    };
    match entry.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => {
            entry.insert(key, Item::Value(value));
        }
    }
}

/// Puts comments above a table, in front of those that it has.
fn put_above(table: &mut Table, comments: &str) {
    let own = table.decor().prefix().and_then(|raw| raw.as_str());
    let own = own.unwrap_or_default().trim_start_matches('\n');
    let joined = format!("{comments}\n{own}");
    table.decor_mut().set_prefix(joined);
}

fn unset(entries: &mut ArrayOfTables, index: usize, key: &str) {
    if let Some(entry) = entries.get_mut(index) {
        entry.remove(key);
    }
}

impl NewAccount {
    fn to_table(&self, name: &str) -> Table {
        let mut table = Table::new();
        table.insert("name", toml_edit::value(name));
        let NewPassword { hash, scram } = &self.password;
        for (key, value) in [("password", hash), ("scram", scram)] {
            if let Some(value) = value {
                table.insert(key, toml_edit::value(value));
            }
        }
        for (key, texts) in [("send_as", &self.send_as), ("allow_from", &self.allow_from)] {
            if !texts.is_empty() {
                table.insert(key, toml_edit::value(texts.iter().collect::<Array>()));
            }
        }
        if let Some(note) = &self.note {
            table.insert("note", toml_edit::value(note));
        }
        table
    }
}

/// What stays of the comments above a removed entry: all but the lines right above it, which are its own. At the top
/// of the file, where they may be about the file, those stay too.
fn kept_comments(prefix: &str, at_top: bool) -> String {
    if at_top {
        return prefix.trim_end_matches('\n').to_owned()
            + if prefix.trim().is_empty() { "" } else { "\n" };
    }
    match prefix.rfind("\n\n") {
        Some(end) if !prefix[..end].trim().is_empty() => prefix[..=end].to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
