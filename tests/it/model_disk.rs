//! A disk in memory that tells what a program has written from what would survive a power cut.
//!
//! It is as unkind as a journalling file system may be: content is durable only after a sync of the file, names only
//! after a sync of their directory, and a crash keeps any subset of the name changes in between, in particular a later
//! one without an earlier one. A rename is one change. A sync that failed has lost the content for good, and the next
//! one reports success all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use gatepost::queue::disk::{DirectoryEntry, Disk, DiskFile, LockAttempt, LockGuard};

/// What is to go wrong. Operations are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The power goes before this operation: it and all later ones do nothing.
    CrashAt(usize),
    /// The first operation fails with an error number, and the power goes before the second.
    ErrorThenCrash(usize, i32, usize),
    /// This operation fails with an error number.
    ErrorAt(usize, i32),
    /// This operation and all later ones fail.
    ErrorFrom(usize, i32),
}

/// What a crash leaves of content that was written and not synced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unsynced {
    Gone,
    Half,
    Kept,
    /// The length is there and the content is not: what delayed allocation leaves.
    Zeros,
}

pub(crate) const UNSYNCED: [Unsynced; 4] = [
    Unsynced::Gone,
    Unsynced::Half,
    Unsynced::Kept,
    Unsynced::Zeros,
];

#[derive(Clone, Debug, Default)]
pub(crate) struct ModelDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Debug)]
struct State {
    inodes: Vec<Inode>,
    live: Names,
    durable: Names,
    /// Changes of names that no sync has covered, in order.
    pending: Vec<Change>,
    locks: BTreeSet<PathBuf>,
    operations: usize,
    fault: Fault,
    free: u64,
}

#[derive(Clone, Debug, Default)]
struct Names {
    directories: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, usize>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// A sync failed.
    lost: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Add(PathBuf, usize),
    MakeDirectory(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, usize),
}

impl Default for State {
    fn default() -> Self {
        let mut names = Names::default();
        names.directories.insert(PathBuf::from("/"));
        Self {
            inodes: Vec::new(),
            live: names.clone(),
            durable: names,
            pending: Vec::new(),
            locks: BTreeSet::new(),
            operations: 0,
            fault: Fault::None,
            free: u64::MAX,
        }
    }
}

impl Names {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Add(path, inode) => {
                self.files.insert(path.clone(), *inode);
            }
            Change::MakeDirectory(path) => {
                self.directories.insert(path.clone());
            }
            Change::Remove(path) => {
                self.files.remove(path);
            }
            Change::Rename(from, to, inode) => {
                self.files.remove(from);
                self.files.insert(to.clone(), *inode);
            }
        }
    }
}

impl Change {
    fn touches(&self, directory: &Path) -> bool {
        match self {
            Self::Add(path, _) | Self::MakeDirectory(path) | Self::Remove(path) => {
                path.parent() == Some(directory)
            }
            Self::Rename(from, to, _) => [from, to]
                .iter()
                .any(|path| path.parent() == Some(directory)),
        }
    }
}

impl ModelDisk {
    /// Sets what goes wrong from now on, and counts operations from 0 again.
    pub(crate) fn set_fault(&self, fault: Fault) {
        let mut state = self.lock_state();
        state.fault = fault;
        state.operations = 0;
    }

    /// Operations since the fault was set.
    pub(crate) fn operations(&self) -> usize {
        self.lock_state().operations
    }

    pub(crate) fn set_free(&self, bytes: u64) {
        self.lock_state().free = bytes;
    }

    /// Keeps every operation waiting until the guard is dropped.
    pub(crate) fn stop(&self) -> impl Drop + '_ {
        self.lock_state()
    }

    /// How many changes of names a crash may keep or lose.
    pub(crate) fn pending(&self) -> usize {
        self.lock_state().pending.len()
    }

    /// The disk after a power cut that kept the pending changes whose bits are set.
    pub(crate) fn crashed(&self, kept: u64, unsynced: Unsynced) -> Self {
        let state = self.lock_state();
        let mut names = state.durable.clone();
        for (index, change) in state.pending.iter().enumerate() {
            if kept >> index & 1 == 1 {
                names.apply(change);
            }
        }
        // What is in a directory that is not there is not there.
        loop {
            let before = names.directories.len();
            let known = names.directories.clone();
            let has_parent =
                |path: &PathBuf| path.parent().is_none_or(|parent| known.contains(parent));
            names.directories.retain(has_parent);
            if names.directories.len() == before {
                names.files.retain(|path, _| has_parent(path));
                break;
            }
        }
        let inodes = state
            .inodes
            .iter()
            .map(|inode| {
                let content = inode.after_crash(unsynced);
                Inode {
                    live: content.clone(),
                    durable: content,
                    lost: false,
                }
            })
            .collect();
        Self {
            state: Arc::new(Mutex::new(State {
                inodes,
                live: names.clone(),
                durable: names,
                ..State::default()
            })),
        }
    }

    /// A copy of everything as a program sees it now, with no fault and no lock.
    pub(crate) fn copy(&self) -> Self {
        let mut state = self.lock_state().clone();
        state.fault = Fault::None;
        state.locks.clear();
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The files as a program sees them, without the locks.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.lock_state();
        let files = state.live.files.iter();
        files
            .filter(|(path, _)| !path.ends_with("lock") && !path.ends_with("moves.lock"))
            .map(|(path, inode)| (path.clone(), state.inodes[*inode].live.clone()))
            .collect()
    }

    /// Puts a durable file there, as somebody else would.
    pub(crate) fn put(&self, path: &Path, content: &[u8]) {
        let mut state = self.lock_state();
        let inode = state.inodes.len();
        state.inodes.push(Inode {
            live: content.to_vec(),
            durable: content.to_vec(),
            lost: false,
        });
        state.live.files.insert(path.to_owned(), inode);
        state.durable.files.insert(path.to_owned(), inode);
    }

    /// Takes a file away, durably.
    pub(crate) fn take(&self, path: &Path) {
        let mut state = self.lock_state();
        state.live.files.remove(path);
        state.durable.files.remove(path);
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Counts an operation, and fails if it is to fail.
    fn operate(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock_state();
        state.operate()?;
        Ok(state)
    }
}

impl State {
    fn operate(&mut self) -> io::Result<()> {
        let index = self.operations;
        self.operations += 1;
        match self.fault {
            Fault::CrashAt(at) if index >= at => Err(io::Error::other("the power is gone")),
            Fault::ErrorThenCrash(_, _, at) if index >= at => {
                Err(io::Error::other("the power is gone"))
            }
            Fault::ErrorAt(at, errno) | Fault::ErrorThenCrash(at, errno, _) if index == at => {
                Err(io::Error::from_raw_os_error(errno))
            }
            Fault::ErrorFrom(at, errno) if index >= at => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        }
    }

    fn crashed(&self) -> bool {
        matches!(
            self.fault,
            Fault::CrashAt(at) | Fault::ErrorThenCrash(_, _, at) if self.operations > at
        )
    }

    fn change(&mut self, change: Change) {
        self.live.apply(&change);
        self.pending.push(change);
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        let inode = self.live.files.get(path).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn need_directory(&self, path: &Path) -> io::Result<()> {
        if self.live.directories.contains(path) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

impl Inode {
    fn after_crash(&self, unsynced: Unsynced) -> Vec<u8> {
        assert!(self.live.starts_with(&self.durable));
        let tail = &self.live[self.durable.len()..];
        let mut content = self.durable.clone();
        match unsynced {
            Unsynced::Gone => {}
            Unsynced::Half => content.extend(&tail[..tail.len() / 2]),
            Unsynced::Kept => content.extend(tail),
            Unsynced::Zeros => content.resize(self.live.len(), 0),
        }
        content
    }
}

impl Disk for ModelDisk {
    fn create_directory(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.operate()?;
        state.need_directory(path.parent().unwrap())?;
        if state.live.directories.contains(path) {
            return Ok(false);
        }
        state.change(Change::MakeDirectory(path.to_owned()));
        Ok(true)
    }

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.operate()?;
        state.need_directory(path.parent().unwrap())?;
        if state.live.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.change(Change::Add(path.to_owned(), inode));
        Ok(Box::new(ModelFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.operate()?.free)
    }

    fn length(&self, path: &Path) -> io::Result<Option<u64>> {
        let state = self.operate()?;
        if state.live.directories.contains(path) {
            return Ok(Some(0));
        }
        let inode = state.live.files.get(path);
        Ok(inode.map(|inode| state.inodes[*inode].live.len() as u64))
    }

    fn list_directory(&self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let state = self.operate()?;
        state.need_directory(path)?;
        let inside = |entry: &&PathBuf| entry.parent() == Some(path);
        let entry = |path: &PathBuf, is_file| DirectoryEntry {
            name: OsString::from(path.file_name().unwrap()),
            is_file,
        };
        let files = state.live.files.keys().filter(inside);
        let directories = state.live.directories.iter().filter(inside);
        Ok(files
            .map(|path| entry(path, true))
            .chain(directories.map(|path| entry(path, false)))
            .collect())
    }

    fn lock(&self, path: &Path, _note: &str) -> io::Result<LockAttempt> {
        let mut state = self.operate()?;
        state.need_directory(path.parent().unwrap())?;
        if !state.locks.insert(path.to_owned()) {
            return Ok(LockAttempt::Held("4711".to_owned()));
        }
        Ok(LockAttempt::Taken(LockGuard::new(ModelLock {
            disk: self.clone(),
            path: path.to_owned(),
        })))
    }

    fn open_file(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        let state = self.operate()?;
        let inode = state.inode(path)?;
        Ok(Box::new(Cursor::new(state.inodes[inode].live.clone())))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operate()?;
        state.inode(path)?;
        state.change(Change::Remove(path.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.operate()?;
        state.need_directory(to.parent().unwrap())?;
        let inode = state.inode(from)?;
        assert!(
            !state.live.files.contains_key(to),
            "{} would be replaced",
            to.display()
        );
        state.change(Change::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operate()?;
        state.need_directory(path)?;
        let (covered, rest) = std::mem::take(&mut state.pending)
            .into_iter()
            .partition(|change| change.touches(path));
        state.pending = rest;
        let covered: Vec<Change> = covered;
        for change in &covered {
            state.durable.apply(change);
        }
        Ok(())
    }
}

struct ModelFile {
    disk: ModelDisk,
    inode: usize,
}

impl DiskFile for ModelFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.lock_state();
        let result = state.operate();
        // A write that fails, or that the power interrupts, has written some of it.
        let written = match &result {
            Ok(()) => bytes,
            Err(_) if state.crashed() => &[],
            Err(_) => &bytes[..bytes.len() / 2],
        };
        state.inodes[self.inode].live.extend(written);
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.lock_state();
        let result = state.operate();
        let inode = &mut state.inodes[self.inode];
        if result.is_err() {
            inode.lost = true;
        } else if !inode.lost {
            inode.durable = inode.live.clone();
        }
        result
    }
}

struct ModelLock {
    disk: ModelDisk,
    path: PathBuf,
}

impl Drop for ModelLock {
    fn drop(&mut self) {
        self.disk.lock_state().locks.remove(&self.path);
    }
}
