//! Putting a file in the place of another in one step, under a lock that editors share.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

/// How long an edit waits for another one, in pauses of [`LOCK_PAUSE`]: ten seconds. An edit holds the lock for a few
/// milliseconds.
const LOCK_TRIES: usize = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// The mode of a new accounts file. Password hashes are nobody else's business.
const NEW_FILE_MODE: u32 = 0o600;

/// An exclusive lock on the directory, held until the file is dropped. A lock on the accounts file itself would not
/// outlive the rename that replaces it.
pub(super) fn lock(directory: &Path) -> io::Result<File> {
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
pub(super) fn replace(target: &Path, directory: &Path, text: &str) -> io::Result<()> {
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
