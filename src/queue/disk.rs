//! The seam between the queue and the file system: every file operation that the queue does, and nothing else.
//!
//! [`RealDisk`] does them for real. Tests bring a disk of their own that fails or loses power at any of them; that is
//! why the trait is this narrow, and why nothing else in `queue/` touches `std::fs`.
//!
//! What the queue relies on, and every journalling file system gives (ext4, XFS, Btrfs, ZFS): what [`DiskFile::sync`]
//! and [`Disk::sync_directory`] have confirmed survives a power cut; a rename happens wholly or not at all, even
//! across one; nothing is said about the order of anything that has not been confirmed.

use std::any::Any;
use std::ffi::OsString;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::kept::give_to_owner_of_directory;

/// Only the owner may look into the queue: messages are nobody else's business.
const DIRECTORY_MODE: u32 = 0o700;
/// The same for files.
const FILE_MODE: u32 = 0o600;
/// How much of a lock file is read to learn who holds it: a process number and a line end.
const LOCK_NOTE_BYTES_MAX: u64 = 64;
/// How much of a new block file is written at once.
const ZEROS_BYTES: usize = 256 * 1024;
/// Where Linux says which boot this is.
const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// The file operations of the queue. All of them may block.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Creates a directory that only its owner can use; its parent has to exist. `false`: there was one already.
    fn create_directory(&self, path: &Path) -> io::Result<bool>;

    /// Creates a file of this length that must not exist yet, for writing anywhere in it: its content is zeros and, like
    /// its length, on stable storage when this returns. Its name is not.
    fn create_block_file(&self, path: &Path, length: u64) -> io::Result<Box<dyn BlockFile>>;

    /// Creates a file that must not exist yet, for appending to it.
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Which file system the file or directory is on, as a number.
    fn device(&self, path: &Path) -> io::Result<u64>;

    /// Octets that this process may still write on the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// The length of a file; `None` if there is none.
    fn length(&self, path: &Path) -> io::Result<Option<u64>>;

    /// What is in a directory, in no particular order.
    fn list_directory(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>>;

    /// Locks the file for this process, creating it if need be, and leaves `note` in it. Does not wait.
    fn lock(&self, path: &Path, note: &str) -> io::Result<LockAttempt>;

    /// Which machine this is, and since when it runs.
    fn machine(&self) -> io::Result<Machine>;

    /// Opens a file that exists, for reading and writing anywhere in it.
    fn open_block_file(&self, path: &Path) -> io::Result<Box<dyn BlockFile>>;

    /// Opens a file for reading from its start.
    fn open_file(&self, path: &Path) -> io::Result<Box<dyn Read + Send>>;

    /// Opens the file system of `path`, for syncing all of it.
    fn open_file_system(&self, path: &Path) -> io::Result<Box<dyn FileSystem>>;

    /// Writes the content of a file that exists anew. `false`: there is none. Changes no name.
    fn overwrite_file(&self, path: &Path, content: &[u8]) -> io::Result<bool>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Renames a file, within a directory or across two of the same file system. What had that name before is gone.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Waits until the names in the directory, as they are now, are on stable storage.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// A file that is being written.
pub trait DiskFile: Send {
    /// Writes all of `bytes` behind what is there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Lets the disk begin to write the octets from `offset` on, so that a sync later has less to wait for. Promises
    /// nothing, and need not do anything.
    fn hurry(&self, _offset: u64, _length: u64) {}

    /// Waits until the content is on stable storage.
    ///
    /// After an error nothing is known of what was written so far, and asking again does not help: the kernel may
    /// have dropped the pages that it could not write and then report success.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is written in place.
pub trait BlockFile: Send {
    /// Reads from `offset` on into `buffer`, as far as the file goes; gives how many octets that was.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Waits until the content is on stable storage. After an error the same holds as for [`DiskFile::sync`].
    fn sync(&mut self) -> io::Result<()>;

    /// Writes all of `bytes` from `offset` on.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// A file system as a whole.
pub trait FileSystem: Send {
    /// Waits until everything on it, content and names, is on stable storage as it was when this was called.
    ///
    /// An error tells that something that was written since the last call may be lost for good. It is told once: the
    /// next call may report success without it.
    fn sync(&mut self) -> io::Result<()>;
}

/// The machine that a disk is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Another value after each boot: whether what was written and not synced can still be there.
    pub boot: [u8; 16],
    /// Its name.
    pub host: String,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The name, without the directory.
    pub name: OsString,
    /// Whether it is an ordinary file.
    pub is_file: bool,
}

/// How an attempt to lock ended.
pub enum LockAttempt {
    /// Somebody else has it and left this note.
    Held(String),
    /// We have it until the guard is dropped, or the process ends in whatever way.
    Taken(LockGuard),
}

/// Keeps a lock for as long as it lives.
pub struct LockGuard(
    #[expect(dead_code, reason = "it is held for its drop alone")] Box<dyn Any + Send + Sync>,
);

impl LockGuard {
    /// A guard around whatever gives the lock up when dropped.
    pub fn new(lock: impl Any + Send + Sync) -> Self {
        Self(Box::new(lock))
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockGuard(..)")
    }
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_directory(&self, path: &Path) -> io::Result<bool> {
        match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn create_block_file(&self, path: &Path, length: u64) -> io::Result<Box<dyn BlockFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)?;
        // Real zeros: space that is only reserved costs a change of the file's metadata at its first write, which the
        // sync after it would wait for.
        let zeros = vec![0; ZEROS_BYTES];
        let mut offset = 0;
        while offset < length {
            let piece = (length - offset).min(ZEROS_BYTES as u64);
            file.write_all_at(&zeros[..piece as usize], offset)?;
            offset += piece;
        }
        file.sync_all()?;
        Ok(Box::new(file))
    }

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)?;
        give_to_owner_of_directory(&file, path);
        Ok(Box::new(file))
    }

    fn device(&self, path: &Path) -> io::Result<u64> {
        Ok(std::fs::metadata(path)?.dev())
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let status = nix::sys::statvfs::statvfs(path)?;
        Ok(status
            .blocks_available()
            .saturating_mul(status.fragment_size()))
    }

    fn length(&self, path: &Path) -> io::Result<Option<u64>> {
        match std::fs::metadata(path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list_directory(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        std::fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                Ok(DirectoryEntry {
                    is_file: entry.file_type().is_ok_and(|kind| kind.is_file()),
                    name: entry.file_name(),
                })
            })
            .collect()
    }

    fn lock(&self, path: &Path, note: &str) -> io::Result<LockAttempt> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)?;
        give_to_owner_of_directory(&file, path);
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = Vec::new();
                file.take(LOCK_NOTE_BYTES_MAX).read_to_end(&mut holder)?;
                let holder = String::from_utf8_lossy(&holder).trim().to_owned();
                return Ok(LockAttempt::Held(holder));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{note}")?;
        Ok(LockAttempt::Taken(LockGuard::new(file)))
    }

    fn machine(&self) -> io::Result<Machine> {
        let text = std::fs::read_to_string(BOOT_ID_PATH)?;
        let boot = uuid::Uuid::parse_str(text.trim()).map_err(io::Error::other)?;
        Ok(Machine {
            boot: boot.into_bytes(),
            host: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        })
    }

    fn open_block_file(&self, path: &Path) -> io::Result<Box<dyn BlockFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(file))
    }

    fn open_file(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(path)?))
    }

    fn open_file_system(&self, path: &Path) -> io::Result<Box<dyn FileSystem>> {
        Ok(Box::new(File::open(path)?))
    }

    fn overwrite_file(&self, path: &Path, content: &[u8]) -> io::Result<bool> {
        let mut file = match OpenOptions::new().write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        file.write_all(content)?;
        file.set_len(content.len() as u64)?;
        Ok(true)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the sanctioned door to renaming in the queue"
    )]
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

impl DiskFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn hurry(&self, offset: u64, length: u64) {
        // Linux begins to write what is dirty before it looks for what it could forget.
        let (Ok(offset), Ok(length)) = (offset.try_into(), length.try_into()) else {
            return;
        };
        let _ = posix_fadvise(
            self,
            offset,
            length,
            PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        );
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl BlockFile for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        while length < buffer.len() {
            match FileExt::read_at(self, &mut buffer[length..], offset + length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }
}

impl FileSystem for File {
    fn sync(&mut self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(&*self)?)
    }
}
