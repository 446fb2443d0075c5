//! A disk in memory that tells what a program has written from what would survive a power cut.
//!
//! It is as unkind as a journalling file system may be: content is durable only after a sync of the file, names only
//! after a sync of their directory, and a crash keeps any subset of the name changes in between, in particular a later
//! one without an earlier one. A rename is one change. What is written in place is kept or lost sector by sector. A sync
//! that failed has lost the content for good, and the next one reports success all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use gatepost::queue::disk::{
    BlockFile, DirectoryEntry, Disk, DiskFile, FileSystem, LockAttempt, LockGuard, Machine,
};

/// What a disk writes wholly or not at all.
const SECTOR: usize = 512;

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
    /// Each sector by chance, from this seed.
    Mixed(u64),
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
    syncs: usize,
    fault: Fault,
    free: u64,
    boot: u8,
    host: String,
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
    /// Written in place, not appended to: the sectors that no sync has covered.
    dirty: Option<BTreeSet<usize>>,
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
            syncs: 0,
            fault: Fault::None,
            free: u64::MAX,
            boot: 1,
            host: "mail.example.org".to_owned(),
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
    fn names(&self) -> impl Iterator<Item = &Path> {
        let (first, second) = match self {
            Self::Add(path, _) | Self::MakeDirectory(path) | Self::Remove(path) => (path, None),
            Self::Rename(from, to, _) => (from, Some(to)),
        };
        std::iter::once(first).chain(second).map(PathBuf::as_path)
    }

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

    /// Syncs of whatever kind, as long as the disk has been there.
    pub(crate) fn syncs(&self) -> usize {
        self.lock_state().syncs
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
        self.crashed_keeping(|index| kept >> index & 1 == 1, unsynced)
    }

    /// The disk after a power cut that kept of everything what chance kept.
    pub(crate) fn crashed_by_chance(&self, seed: u64) -> Self {
        let kept = |index| match seed % 4 {
            0 => false,
            1 => true,
            _ => mix(seed, index as u64) & 1 == 1,
        };
        self.crashed_keeping(kept, Unsynced::Mixed(seed))
    }

    fn crashed_keeping(&self, kept: impl Fn(usize) -> bool, unsynced: Unsynced) -> Self {
        let state = self.lock_state();
        let mut names = state.durable.clone();
        for (index, change) in state.pending.iter().enumerate() {
            if kept(index) {
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
                    dirty: inode.dirty.as_ref().map(|_| BTreeSet::new()),
                }
            })
            .collect();
        Self {
            state: Arc::new(Mutex::new(State {
                inodes,
                live: names.clone(),
                durable: names,
                boot: state.boot + 1,
                host: state.host.clone(),
                ..State::default()
            })),
        }
    }

    /// Moves the disk to a machine of another name.
    pub(crate) fn rename_host(&self, host: &str) {
        self.lock_state().host = host.to_owned();
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

    /// The files as a program sees them, without the locks and the journal.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = self.all_files();
        files.retain(|path, _| !path.starts_with("/queue/journal"));
        files
    }

    /// The same with the journal.
    pub(crate) fn all_files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
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
            ..Inode::default()
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
        let kept = |sector: usize| match unsynced {
            Unsynced::Gone | Unsynced::Zeros => false,
            Unsynced::Half => sector.is_multiple_of(2),
            Unsynced::Kept => true,
            Unsynced::Mixed(seed) => mix(seed, sector as u64) & 1 == 1,
        };
        if let Some(dirty) = &self.dirty {
            let mut content = self.durable.clone();
            for sector in dirty.iter().filter(|sector| kept(**sector)) {
                let start = sector * SECTOR;
                let end = (start + SECTOR).min(self.live.len());
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[start..end].copy_from_slice(&self.live[start..end]);
            }
            return content;
        }
        if !self.live.starts_with(&self.durable) {
            // Written anew.
            return if kept(0) { &self.live } else { &self.durable }.clone();
        }
        let tail = &self.live[self.durable.len()..];
        let mut content = self.durable.clone();
        match unsynced {
            Unsynced::Gone => {}
            Unsynced::Half => content.extend(&tail[..tail.len() / 2]),
            Unsynced::Kept => content.extend(tail),
            Unsynced::Zeros => content.resize(self.live.len(), 0),
            Unsynced::Mixed(_) => content.extend(tail.chunks(SECTOR).enumerate().flat_map(
                |(sector, octets)| {
                    let kept = kept(sector);
                    octets
                        .iter()
                        .map(move |octet| if kept { *octet } else { 0 })
                },
            )),
        }
        content
    }

    fn sync(&mut self, result: &io::Result<()>) {
        if let Some(dirty) = &mut self.dirty {
            // After an error the kernel takes them for clean, and never writes them.
            for sector in std::mem::take(dirty) {
                let start = sector * SECTOR;
                let end = (start + SECTOR).min(self.live.len());
                if result.is_ok() && self.durable.len() < end {
                    self.durable.resize(end, 0);
                }
                if result.is_ok() {
                    self.durable[start..end].copy_from_slice(&self.live[start..end]);
                }
            }
        } else if result.is_err() {
            self.lost |= self.live != self.durable;
        } else if !self.lost {
            self.durable.clone_from(&self.live);
        }
    }
}

/// A number by chance, and always the same for the same two.
pub(crate) fn mix(seed: u64, index: u64) -> u64 {
    let mut value = seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
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

    fn create_block_file(&self, path: &Path, length: u64) -> io::Result<Box<dyn BlockFile>> {
        let file = self.create_file(path)?;
        drop(file);
        let mut state = self.operate()?;
        let inode = state.inode(path)?;
        state.inodes[inode] = Inode {
            live: vec![0; length as usize],
            durable: vec![0; length as usize],
            lost: false,
            dirty: Some(BTreeSet::new()),
        };
        drop(state);
        Ok(Box::new(ModelFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn device(&self, path: &Path) -> io::Result<u64> {
        let state = self.operate()?;
        let elsewhere = state.live.files.contains_key(&path.join("elsewhere"));
        Ok(if elsewhere { 8 } else { 7 })
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

    fn machine(&self) -> io::Result<Machine> {
        let state = self.operate()?;
        Ok(Machine {
            boot: [state.boot; 16],
            host: state.host.clone(),
        })
    }

    fn open_block_file(&self, path: &Path) -> io::Result<Box<dyn BlockFile>> {
        let mut state = self.operate()?;
        let inode = state.inode(path)?;
        // Whatever it was made as: from here on it is written in place.
        state.inodes[inode].dirty.get_or_insert_default();
        drop(state);
        Ok(Box::new(ModelFile {
            disk: self.clone(),
            inode,
        }))
    }

    fn open_file_system(&self, _path: &Path) -> io::Result<Box<dyn FileSystem>> {
        drop(self.operate()?);
        Ok(Box::new(ModelFileSystem(self.clone())))
    }

    fn overwrite_file(&self, path: &Path, content: &[u8]) -> io::Result<bool> {
        let mut state = self.operate()?;
        let Ok(inode) = state.inode(path) else {
            return Ok(false);
        };
        let inode = &mut state.inodes[inode];
        inode.live = content.to_vec();
        inode.lost = false;
        Ok(true)
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
        state.change(Change::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.operate()?;
        state.syncs += 1;
        state.need_directory(path)?;
        // What happened to a name before goes with what happened to it last.
        let mut names = BTreeSet::new();
        let (mut covered, mut rest) = (Vec::new(), Vec::new());
        for change in std::mem::take(&mut state.pending).into_iter().rev() {
            if change.touches(path) || change.names().any(|name| names.contains(name)) {
                names.extend(change.names().map(Path::to_owned));
                covered.push(change);
            } else {
                rest.push(change);
            }
        }
        for change in covered.iter().rev() {
            state.durable.apply(change);
        }
        rest.reverse();
        state.pending = rest;
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
        state.syncs += 1;
        if !state.crashed() {
            state.inodes[self.inode].sync(&result);
        }
        result
    }
}

impl BlockFile for ModelFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.lock_state();
        state.operate()?;
        let live = &state.inodes[self.inode].live;
        let rest = live.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        DiskFile::sync(self)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.lock_state();
        let result = state.operate();
        // A write that fails, or that the power interrupts, has written some sectors of it.
        let written = match &result {
            Ok(()) => bytes,
            Err(_) if state.crashed() || bytes.len() <= SECTOR => &[],
            Err(_) => &bytes[..bytes.len() / 2],
        };
        let (start, end) = (offset as usize, offset as usize + written.len());
        let Inode { live, dirty, .. } = &mut state.inodes[self.inode];
        if live.len() < end {
            live.resize(end, 0);
        }
        live[start..end].copy_from_slice(written);
        if let Some(dirty) = dirty {
            dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
        }
        result
    }
}

struct ModelFileSystem(ModelDisk);

impl FileSystem for ModelFileSystem {
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.0.lock_state();
        let result = state.operate();
        state.syncs += 1;
        if state.crashed() {
            return result;
        }
        for inode in &mut state.inodes {
            inode.sync(&result);
        }
        if result.is_ok() {
            for change in std::mem::take(&mut state.pending) {
                state.durable.apply(&change);
            }
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
