//! What a room remembers across restarts: a value that all threads share, and the small JSON file that it is kept in.
//!
//! The file is replaced in one step, now and then and at the stop: after a crash the changes of the last seconds are
//! forgotten. So it is for what can do without them; a message is not. (What cannot is saved at once, by
//! [`Kept::save_durably`].) A file that cannot be read is put aside and everything begins anew: for most of it, that is
//! no reason not to serve.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::diagnostic::Finding;

/// Octets in a file: more than any room keeps within its own bounds.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// A value that outlasts a restart.
#[derive(Debug, Default)]
pub struct Kept<T> {
    /// `None`: in memory only.
    path: Option<PathBuf>,
    state: Mutex<State<T>>,
    /// Held while the file is written, so that an older state never replaces a newer one.
    saving: Mutex<()>,
}

#[derive(Debug, Default)]
struct State<T> {
    value: T,
    /// Counts the changes.
    changes: u64,
    /// The change that was saved last.
    saved: u64,
}

/// What a file holds, whatever else it does.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// The value, for as long as this is held.
pub struct Held<'k, T>(MutexGuard<'k, State<T>>);

impl<T> Held<'_, T> {
    /// The value is not what it was: the next save is to write it.
    pub fn changed(&mut self) {
        self.0.changes += 1;
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0.value
    }
}

impl<T> Kept<T> {
    /// A value that is kept in memory only.
    pub fn in_memory(value: T) -> Self {
        Self::new(None, value)
    }

    fn new(path: Option<PathBuf>, value: T) -> Self {
        Self {
            path,
            state: Mutex::new(State {
                value,
                changes: 0,
                saved: 0,
            }),
            saving: Mutex::default(),
        }
    }

    /// Takes up the value that is in the file at `path`, in this version of its format; `restore` makes it of what was
    /// read. `None`: there is no file yet, or it could not be read. Then the value is `fresh`, and the warning says
    /// what that means: `loss`, as in "cannot read the state of the limits". Nothing on the disk is touched; that is
    /// for whoever only looks. Blocks on the disk.
    pub fn look_into<F: DeserializeOwned>(
        path: &Path,
        version: u32,
        loss: &str,
        fresh: impl FnOnce() -> T,
        restore: impl FnOnce(F) -> io::Result<T>,
    ) -> (Self, Option<Finding>) {
        let keep = |value| Self::new(Some(path.to_owned()), value);
        match read(path, version).and_then(|file| file.map(restore).transpose()) {
            Ok(Some(value)) => (keep(value), None),
            Ok(None) => (keep(fresh()), None),
            Err(error) => {
                let finding = Finding::warning(format!("{loss}: {error}")).in_file(path);
                (keep(fresh()), Some(finding))
            }
        }
    }

    /// Keeps the file that could not be read beside the new one, under its name and `.broken`, and says so.
    pub fn put_aside(&self, finding: Finding) -> Finding {
        let Some(path) = &self.path else {
            return finding;
        };
        let aside = with_suffix(path, ".broken");
        finding.hint(match rename(path, &aside) {
            Ok(()) => format!("the broken file is kept as {}", aside.display()),
            Err(error) => format!("the broken file will be overwritten: {error}"),
        })
    }

    /// The value, for this thread alone. A panic of another that held it left it as it was at that moment: half a
    /// change at most, and no reason to stop.
    pub fn lock(&self) -> Held<'_, T> {
        Held(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes what `content` makes of the value to the file, if anything has changed since the last time, and says
    /// whether it did. After an error the next call tries again. Blocks on the disk.
    pub fn save<F: Serialize>(&self, content: impl FnOnce(&mut T) -> F) -> io::Result<bool> {
        self.save_as(content, |_| Ok(()))
    }

    /// The same for what a crash of the machine must not undo either: the directory is synced, too.
    pub fn save_durably<F: Serialize>(
        &self,
        content: impl FnOnce(&mut T) -> F,
    ) -> io::Result<bool> {
        self.save_as(content, |path| match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        })
    }

    fn save_as<F: Serialize>(
        &self,
        content: impl FnOnce(&mut T) -> F,
        then: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<bool> {
        let Some(path) = &self.path else {
            return Ok(false);
        };
        let _one_at_a_time = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, change) = {
            let mut held = self.lock();
            if held.0.changes == held.0.saved {
                return Ok(false);
            }
            (content(&mut held), held.0.changes)
        };
        replace(path, &Zeroizing::new(serde_json::to_vec(&file)?))?;
        then(path)?;
        self.lock().0.saved = change;
        Ok(true)
    }
}

/// What is in a file, if there is one.
fn read<F: DeserializeOwned>(path: &Path, version: u32) -> io::Result<Option<F>> {
    let mut octets = Zeroizing::new(Vec::new());
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > FILE_BYTES_MAX {
        let bound = FILE_BYTES_MAX >> 20;
        return Err(damaged(format!("larger than {bound} MiB")));
    }
    // What serde says may repeat what it has read, and that may be a key.
    let unknown = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        damaged(format!(
            "not as gatepost writes it (line {line}, column {column})"
        ))
    };
    let found: Version = serde_json::from_slice(&octets).map_err(unknown)?;
    if found.version != version {
        return Err(damaged(format!("unknown version {}", found.version)));
    }
    serde_json::from_slice(&octets).map(Some).map_err(unknown)
}

/// A file is not what it should be.
pub fn damaged(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Replaces the file at `path` in one step. The data is synced before the rename, so that after a crash there is the
/// old state or the new one; the directory is not, because either will do.
fn replace(path: &Path, octets: &[u8]) -> io::Result<()> {
    let temporary = with_suffix(path, ".new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    give_to_owner_of_directory(&file, &temporary);
    file.write_all(octets)?;
    file.sync_data()?;
    rename(&temporary, path)
}

/// What root makes in the directory of another user is for that user: a command that root gives while no daemon runs must
/// not leave files that the daemon cannot read. If that cannot be done, it says so itself.
pub fn give_to_owner_of_directory(file: &File, path: &Path) {
    let (true, Some(directory)) = (nix::unistd::geteuid().is_root(), path.parent()) else {
        return;
    };
    if let Ok(metadata) = std::fs::metadata(directory)
        && metadata.uid() != 0
    {
        let (user, group) = (metadata.uid(), metadata.gid());
        let _ = std::os::unix::fs::fchown(file, Some(user), Some(group));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "no message is in such a file, so it is no business of queue/disk.rs"
)]
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Counted {
        version: u32,
        count: u64,
    }

    fn look_into(path: &Path) -> (Kept<u64>, Option<Finding>) {
        Kept::look_into(
            path,
            1,
            "cannot count",
            || 0,
            |file: Counted| match file.count {
                13 => Err(damaged("thirteen")),
                count => Ok(count),
            },
        )
    }

    fn save(kept: &Kept<u64>) -> io::Result<bool> {
        kept.save(|count| Counted {
            version: 1,
            count: *count,
        })
    }

    #[test]
    fn a_restart_forgets_nothing() {
        use std::os::unix::fs::MetadataExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("count.json");
        let (kept, finding) = look_into(&path);
        assert_eq!((*kept.lock(), finding), (0, None));
        assert!(!save(&kept).unwrap(), "nothing has changed yet");
        let mut held = kept.lock();
        *held = 7;
        held.changed();
        drop(held);
        assert!(save(&kept).unwrap());
        assert!(!save(&kept).unwrap(), "nothing has changed since");
        let (again, finding) = look_into(&path);
        assert_eq!((*again.lock(), finding), (7, None));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let left = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 1, "files");
    }

    #[test]
    fn a_broken_file_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("count.json");
        for broken in [
            "",
            "{",
            "[]",
            "\0\0",
            r#"{"version": 2, "count": 1}"#,
            r#"{"version": 1}"#,
            r#"{"version": 1, "count": "secret"}"#,
            r#"{"version": 1, "count": 13}"#,
        ] {
            std::fs::write(&path, broken).unwrap();
            let (kept, finding) = look_into(&path);
            assert!(path.exists(), "looking touches nothing");
            let finding = kept.put_aside(finding.unwrap());
            assert!(!finding.is_error());
            let text = finding.to_string();
            assert!(text.contains("cannot count: "), "{text}");
            assert!(!text.contains("secret"), "{text}");
            assert!(!path.exists());
            let aside = directory.path().join("count.json.broken");
            assert_eq!(std::fs::read_to_string(aside).unwrap(), broken);
            kept.lock().changed();
            assert!(save(&kept).unwrap());
            assert_eq!(look_into(&path).1, None);
        }
    }

    #[test]
    fn a_failed_save_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub").join("count.json");
        let (kept, _) = look_into(&path);
        kept.lock().changed();
        assert!(save(&kept).is_err());
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        assert!(save(&kept).unwrap());
    }
}
