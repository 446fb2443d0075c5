//! Editing the accounts file in place: one entry changes, every comment and every other line stays as it is.
//!
//! The order of a write: lock the directory, so that two editors cannot undo each other; read; change; read the
//! result as `serve` would, and give up if that finds an error; write a temporary file beside the old one, with its mode and
//! owner; fsync; rename over the old one; fsync the directory. Whoever reads the file sees the old text or the new one,
//! whole, at every moment and after a crash.
//!
//! Nothing here asks for passwords or hashes them: an edit is given the hash.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml_edit::{Array, ArrayOfTables, DocumentMut, Formatted, Item, Table, Value};

use super::directory::Directory;
use super::identity::prepare_name;
use crate::clock::Timestamp;
use crate::diagnostic::{Finding, nearest};

/// How long an edit waits for another one, in pauses of [`LOCK_PAUSE`]: ten seconds. An edit holds the lock for a few
/// milliseconds.
const LOCK_TRIES: usize = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// The mode of a new accounts file. Password hashes are nobody else's business.
const NEW_FILE_MODE: u32 = 0o600;
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
    /// Another password. What was kept of the old one goes, in every form.
    SetPassword(NewPassword),
}

/// What is kept of a new password; at least one of both.
#[derive(Clone)]
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

/// What a new credential begins with.
#[derive(Clone)]
pub struct NewCredential {
    /// Its name within the account.
    pub name: String,
    /// What is kept of its secret, as text.
    pub secret: String,
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
        table.insert("secret", toml_edit::value(&self.secret));
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
    let is_add = matches!(edit, Edit::Add(_));
    if is_add && !directory.exists() {
        DirBuilder::new()
            .mode(0o755)
            .create(&directory)
            .map_err(|error| failed("create the directory of the accounts file", error))?;
    }
    let _lock = lock(&directory).map_err(|error| failed("lock the directory", error))?;

    let created = !target.exists();
    let (source, before) = if created {
        if !is_add {
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
    change(&mut document, path, name, &prepared, edit)?;
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
    Ok(Edited {
        name: prepared,
        created,
        changed,
        warnings,
    })
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
    if !document.contains_key("account") {
        document.insert("account", Item::ArrayOfTables(ArrayOfTables::new()));
    }
    let Some(entries) = document
        .get_mut("account")
        .and_then(Item::as_array_of_tables_mut)
    else {
        return Err(vec![
            Finding::error(
                "the accounts are written as one inline list, which cannot be edited in place",
            )
            .in_file(path)
            .hint("write each account below its own [[account]]"),
        ]);
    };
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
        let mut entry = new.to_table(written);
        // What stood at the end of the file stays above what is appended to it.
        let gap = if entries.is_empty() && trailing.is_empty() {
            ""
        } else {
            "\n"
        };
        entry.decor_mut().set_prefix(format!("{trailing}{gap}"));
        entries.push(entry);
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
        Edit::AddCredential(new) => add_credential(entries, index, new)?,
        Edit::RemoveCredential(name) => {
            let kept = remove_credential(entries, index, name)
                .ok_or_else(|| vec![no_credential(entries, index, name).in_file(path)])?;
            let next = (index + 1..entries.len()).next();
            match next.and_then(|next| entries.get_mut(next)) {
                _ if kept.is_empty() => {}
                Some(next) => put_above(next, &kept),
                None => document.set_trailing(format!("{kept}{trailing}")),
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

/// Appends a credential to the account at `index`.
fn add_credential(
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
fn remove_credential(entries: &mut ArrayOfTables, index: usize, name: &str) -> Option<String> {
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

fn no_credential(entries: &ArrayOfTables, index: usize, name: &str) -> Finding {
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
        if !self.send_as.is_empty() {
            let patterns: Array = self.send_as.iter().collect();
            table.insert("send_as", toml_edit::value(patterns));
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

/// An exclusive lock on the directory, held until the file is dropped. A lock on the accounts file itself would not
/// outlive the rename that replaces it.
fn lock(directory: &Path) -> io::Result<File> {
    let file = File::open(directory)?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "another edit does not end",
    ))
}

/// Puts `text` in the place of the file at `target`, in `directory`, whose lock is held.
#[expect(
    clippy::disallowed_methods,
    reason = "the accounts file is replaced in one step"
)]
fn replace(target: &Path, directory: &Path, text: &str) -> io::Result<()> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // Under the lock nobody else uses this name: what is there was left by a crash.
    let temporary = directory.join(format!(".{name}.new"));
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_beside(target, &temporary, text);
    if let Err(error) = written.and_then(|()| std::fs::rename(&temporary, target)) {
        // The first error is the one to tell; what is left over is removed by the next edit.
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

fn write_beside(target: &Path, temporary: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(NEW_FILE_MODE)
        .open(temporary)?;
    match std::fs::metadata(target) {
        Ok(old) => {
            let new = file.metadata()?;
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                // Only root can give a file away. Without its owner's right to read, the file would be lost to the
                // daemon, so the edit fails rather than that.
                std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            // After the owner, who would otherwise be somebody else for a moment.
            file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
    const OTHER: &str =
        "$argon2id$v=19$m=128,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    fn hashed(hash: &str) -> NewPassword {
        NewPassword {
            hash: Some(hash.to_owned()),
            scram: None,
        }
    }

    fn add(send_as: &[&str], note: Option<&str>) -> Edit {
        Edit::Add(NewAccount {
            password: hashed(HASH),
            send_as: send_as.iter().map(|&text| text.to_owned()).collect(),
            note: note.map(str::to_owned),
        })
    }

    /// Applies the edits to a file that holds `source`, or to none, and gives what is in it then.
    fn edited(source: Option<&str>, edits: &[(&str, Edit)]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accounts.toml");
        if let Some(source) = source {
            std::fs::write(&path, source).unwrap();
        }
        for (name, edit) in edits {
            apply(&path, name, edit, 1024).unwrap();
        }
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing is left beside the file: {left:?}");
        std::fs::read_to_string(&path).unwrap()
    }

    fn sample() -> String {
        format!(
            r#"# Accounts of example.org,
# kept by hand.

# Alice, 1st floor
[[account]]
name = "alice@example.org"   # since 2020
password = "{HASH}" # changed in May
send_as = [
  "alice@example.org", # own
]

# --- machines ---

# the scanner
[[account]]
# it has no other
name = "scanner@example.org"
password = '{HASH}'
disabled = true # broken

# end of file
"#
        )
    }

    #[test]
    fn a_new_file() {
        let text = edited(
            None,
            &[
                ("alice@example.org", add(&[], None)),
                (
                    "Bob@Example.org",
                    add(
                        &["bob@example.org", "*@lists.example.org"],
                        Some("a \"note\""),
                    ),
                ),
            ],
        );
        assert_eq!(
            text,
            format!(
                r#"{TOP_COMMENT}
[[account]]
name = "alice@example.org"
password = "{HASH}"

[[account]]
name = "Bob@Example.org"
password = "{HASH}"
send_as = ["bob@example.org", "*@lists.example.org"]
note = 'a "note"'
"#
            )
        );
    }

    #[test]
    fn adding_keeps_everything() {
        let text = edited(Some(&sample()), &[("carol@example.org", add(&[], None))]);
        assert_eq!(
            text,
            format!(
                "{}\n[[account]]\nname = \"carol@example.org\"\npassword = \"{HASH}\"\n",
                sample()
            )
        );
    }

    #[test]
    fn values_change_and_comments_stay() {
        let set = Edit::SetPassword(hashed(OTHER));
        assert_eq!(
            edited(Some(&sample()), &[("alice@EXAMPLE.org", set)]),
            sample().replacen(HASH, OTHER, 1)
        );
        assert_eq!(
            edited(Some(&sample()), &[("scanner@example.org", Edit::Enable)]),
            sample().replace("disabled = true # broken", "disabled = false # broken")
        );
        assert_eq!(
            edited(Some(&sample()), &[("alice@example.org", Edit::Disable)]),
            sample().replace("# own\n]\n", "# own\n]\ndisabled = true\n")
        );
        for unchanged in [
            ("alice@example.org", Edit::Enable),
            ("scanner@example.org", Edit::Disable),
        ] {
            assert_eq!(edited(Some(&sample()), &[unchanged]), sample());
        }
    }

    #[test]
    fn a_new_password_leaves_nothing_of_the_old_one() {
        let keys = |octet: u8| {
            let iterations = std::num::NonZeroU32::new(4096).unwrap();
            crate::sasl::scram::Keys::derive(&[octet], &[octet; 16], iterations).to_text()
        };
        let set = |hash: Option<&str>, scram: Option<u8>| {
            let password = NewPassword {
                hash: hash.map(str::to_owned),
                scram: scram.map(keys),
            };
            ("alice@example.org", Edit::SetPassword(password))
        };
        let text = edited(Some(&sample()), &[set(Some(OTHER), Some(1))]);
        assert!(text.contains(OTHER) && text.contains(&format!("scram = \"{}\"\n", keys(1))));
        let text = edited(Some(&text), &[set(None, Some(2))]);
        assert!(!text.contains(OTHER) && !text.contains(&keys(1)) && text.contains(&keys(2)));
        let text = edited(Some(&text), &[set(Some(HASH), None)]);
        assert!(text.contains(HASH) && !text.contains("SCRAM"));
    }

    fn credential(name: &str) -> Edit {
        Edit::AddCredential(NewCredential {
            name: name.to_owned(),
            secret: SECRET.to_owned(),
            scram: None,
            expires: None,
            allow_from: Vec::new(),
            send_as: Vec::new(),
            rcpt_allow: Vec::new(),
            messages_per_hour: None,
            recipients_per_day: None,
            note: None,
        })
    }

    const SECRET: &str = "sha256:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";

    #[test]
    fn credentials_come_and_go() {
        let alice = "alice@example.org";
        let Edit::AddCredential(scanner) = credential("scanner") else {
            unreachable!();
        };
        let narrow = Edit::AddCredential(NewCredential {
            expires: Some("2027-01-31T00:00:00Z".parse().unwrap()),
            allow_from: vec!["192.0.2.0/24".to_owned()],
            send_as: vec![alice.to_owned()],
            rcpt_allow: vec!["*@example.org".to_owned()],
            messages_per_hour: Some(50),
            note: Some("2nd floor".to_owned()),
            ..scanner
        });
        let text = edited(
            Some(&sample()),
            &[(alice, narrow), (alice, credential("phone"))],
        );
        let added = format!(
            r#"
[[account.credential]]
name = "scanner"
secret = "{SECRET}"
expires = 2027-01-31T00:00:00Z
allow_from = ["192.0.2.0/24"]
send_as = ["alice@example.org"]
rcpt_allow = ["*@example.org"]
messages_per_hour = 50
note = "2nd floor"

[[account.credential]]
name = "phone"
secret = "{SECRET}"
"#
        );
        let expected = sample().replace("# own\n]\n", &format!("# own\n]\n{added}"));
        assert_eq!(text, expected);
        let remove = |name: &str| (alice, Edit::RemoveCredential(name.to_owned()));
        // One goes, the other stays; without any, the file is as it was.
        let (without_scanner, _) = added
            .split_once("\n[[account.credential]]\nname = \"phone\"")
            .unwrap();
        let without_scanner = expected.replace(without_scanner, "");
        assert_eq!(edited(Some(&text), &[remove("scanner")]), without_scanner);
        assert_eq!(
            edited(Some(&text), &[remove("phone"), remove("scanner")]),
            sample()
        );
        // Another password, and a new account behind, leave them alone.
        let other = [
            (alice, Edit::SetPassword(hashed(OTHER))),
            ("new@example.org", add(&[], None)),
        ];
        let changed = edited(Some(&text), &other);
        assert!(changed.contains(&added) && changed.ends_with(&format!("password = \"{HASH}\"\n")));
        let comments = text.replace(
            "\n[[account.credential]]\nname = \"phone\"",
            "\n# --- small things ---\n\n# in her pocket\n[[account.credential]]\nname = \"phone\"",
        );
        let removed = edited(Some(&comments), &[remove("phone")]);
        assert!(
            removed.contains("small things") && !removed.contains("pocket"),
            "{removed}"
        );
    }

    #[test]
    fn removing_takes_the_entry_and_its_own_comment() {
        assert_eq!(
            edited(Some(&sample()), &[("scanner@example.org", Edit::Remove)]),
            format!(
                r#"# Accounts of example.org,
# kept by hand.

# Alice, 1st floor
[[account]]
name = "alice@example.org"   # since 2020
password = "{HASH}" # changed in May
send_as = [
  "alice@example.org", # own
]

# --- machines ---

# end of file
"#
            )
        );
        let first_removed = edited(Some(&sample()), &[("alice@example.org", Edit::Remove)]);
        assert!(first_removed.starts_with("# Accounts of example.org,\n# kept by hand.\n"));
        assert!(first_removed.contains("# --- machines ---\n\n# the scanner\n[[account]]\n"));
        assert!(!first_removed.contains("alice@"));
    }

    #[test]
    fn the_last_account_leaves_a_file_that_is_not_empty() {
        let source = format!("[[account]]\nname = \"a@b.example\"\npassword = \"{HASH}\"\n");
        let text = edited(Some(&source), &[("a@b.example", Edit::Remove)]);
        assert_eq!(text, TOP_COMMENT);
    }

    #[test]
    fn what_cannot_be_done_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accounts.toml");
        let fails = |name: &str, edit: &Edit| -> String {
            let findings = apply(&path, name, edit, 1024).unwrap_err();
            findings.iter().map(Finding::one_line).collect()
        };
        assert!(fails("alice@example.org", &Edit::Remove).contains("no accounts file"));
        assert!(!path.exists());
        for (source, name, edit, expected) in [
            (
                sample(),
                "alcie@example.org",
                Edit::Remove,
                "did you mean `alice@example.org`?",
            ),
            (
                sample(),
                "alice@Example.org",
                add(&[], None),
                "exists already",
            ),
            (sample(), "", add(&[], None), "the name is empty"),
            (
                sample(),
                "new@example.org",
                add(&["nonsense"], None),
                "`nonsense` is not an address",
            ),
            (
                sample(),
                "alice@example.org",
                Edit::SetPassword(hashed("plain")),
                "is not an argon2id hash",
            ),
            (
                sample(),
                "alice@example.org",
                Edit::RemoveCredential("scanner".to_owned()),
                "has no credential `scanner` (hint: it has none at all)",
            ),
            (
                sample() + "surprise = 1\n",
                "alice@example.org",
                Edit::Disable,
                "unknown key `surprise`",
            ),
            (
                format!("account = [{{ name = \"a@b.example\", password = \"{HASH}\" }}]\n"),
                "a@b.example",
                Edit::Disable,
                "below its own [[account]]",
            ),
        ] {
            std::fs::write(&path, &source).unwrap();
            let said = fails(name, &edit);
            assert!(said.contains(expected), "{said}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), source);
        }
    }

    #[test]
    fn modes_and_links() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accounts.toml");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        let made = apply(&path, "alice@example.org", &add(&[], None), 1024).unwrap();
        assert!(made.created && made.changed);
        assert_eq!(mode(&path), 0o600);
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let link = directory.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        // What a crash left behind is no obstacle.
        std::fs::write(directory.path().join(".accounts.toml.new"), "half").unwrap();
        apply(&link, "alice@example.org", &Edit::Disable, 1024).unwrap();
        assert_eq!(mode(&path), 0o640);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .contains("disabled = true")
        );
    }

    #[test]
    fn concurrent_edits_all_take_effect() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accounts.toml");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let name = format!("user{number}@example.org");
                    apply(path, &name, &add(&[], None), 1024).unwrap();
                });
            }
        });
        let (accounts, _) = Directory::read(&path, 1024).unwrap();
        assert_eq!(accounts.records().len(), 8);
    }

    #[test]
    fn only_new_warnings_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("accounts.toml");
        std::fs::write(&path, "[[account]]\nname = \"a@b.example\"\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let edited = apply(&path, "scanner", &add(&[], None), 1024).unwrap();
        let said: Vec<_> = edited.warnings.iter().map(|w| w.message.as_str()).collect();
        assert_eq!(
            said,
            ["account `scanner` may send as nobody: its name is no address and it has no send_as"]
        );
    }
}
