//! The [`Spool`]: the queue directory as the running daemon uses it.
//!
//! It hands out ids and drafts, and knows how much room there is. All file work goes to the runtime's blocking threads,
//! a bounded number of operations at a time. It waits as long as the disk does; who wants to wait less drops the
//! future, which is safe at any point.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use uuid::{ContextV7, Uuid};

use crate::clock::Now;
use crate::envelope::{Envelope, MessageId};

use super::disk::{Disk, LockAttempt, LockGuard, RealDisk};
use super::draft::Draft;
use super::layout::{Layout, Place};
use super::recovery::{self, Recovered};
use super::{QueueError, SpoolSettings, fault};

/// File operations of the queue at a time. Waiting for an fsync costs a thread and no processor; more of them at once
/// let the file system commit several with one journal write, up to about here.
const OPERATIONS_MAX: usize = 64;

/// The queue directory, open for accepting messages. Cheap to clone; all clones are the same spool.
///
/// One process at a time has a directory open: the lock goes with the last clone and the last draft.
#[derive(Clone, Debug)]
pub struct Spool {
    shared: Arc<Shared>,
}

/// What all clones and drafts have in common.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) layout: Layout,
    minimum_free: AtomicU64,
    ids: Mutex<ContextV7>,
    operations: Arc<Semaphore>,
    _lock: LockGuard,
}

impl Spool {
    /// Opens the queue directory on the machine's disk: makes it if it is not there (but not its parent), locks it,
    /// and puts in order what a crash left. Blocks; meant for the start.
    pub fn open(settings: &SpoolSettings) -> Result<(Self, Recovered), QueueError> {
        Self::open_on(settings, Arc::new(RealDisk))
    }

    /// The same on any disk.
    pub fn open_on(
        settings: &SpoolSettings,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, Recovered), QueueError> {
        let layout = Layout::new(&settings.directory);
        let lock = prepare(&*disk, &layout)?;
        let recovered = recovery::recover(&*disk, &layout)?;
        let shared = Shared {
            disk,
            layout,
            minimum_free: AtomicU64::new(settings.minimum_free),
            ids: Mutex::new(ContextV7::new()),
            operations: Arc::new(Semaphore::new(OPERATIONS_MAX)),
            _lock: lock,
        };
        let spool = Self {
            shared: Arc::new(shared),
        };
        Ok((spool, recovered))
    }

    /// Changes how many octets stay free; for a reload.
    pub fn set_minimum_free(&self, bytes: u64) {
        self.shared.minimum_free.store(bytes, Ordering::Relaxed);
    }

    /// An id for a message accepted now: greater than all that this spool gave before, even if the clock is set back.
    pub fn next_id(&self, now: Now) -> MessageId {
        let seconds = u64::try_from(now.wall.as_second()).unwrap_or(0);
        let nanoseconds = u32::try_from(now.wall.subsec_nanosecond()).unwrap_or(0);
        let timestamp = uuid::Timestamp::from_unix(&self.shared.ids, seconds, nanoseconds);
        MessageId::from_bits(Uuid::new_v7(timestamp).as_u128())
    }

    /// Whether a message of `bytes` would leave `minimum_free`; [`QueueError::Full`] if not. Asked at MAIL, and again
    /// by the draft whenever it writes.
    pub async fn room_for(&self, bytes: u64) -> Result<(), QueueError> {
        let shared = Arc::clone(&self.shared);
        self.shared.blocking(move || shared.check_room(bytes)).await
    }

    /// Begins a message. Its id comes from [`Spool::next_id`]; `size` is filled in at the commit.
    ///
    /// Touches nothing on the disk yet.
    #[expect(
        clippy::unused_async,
        reason = "other forms of the queue have to ask somebody first"
    )]
    pub async fn begin(&self, envelope: Envelope) -> Result<Draft, QueueError> {
        Ok(Draft::new(Arc::clone(&self.shared), envelope))
    }
}

impl Shared {
    /// Runs file work on a blocking thread.
    ///
    /// The work's permit goes with it, not with this future: when the future is dropped the work still runs to its
    /// end, and still counts.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, QueueError> {
        let permit = Arc::clone(&self.operations)
            .acquire_owned()
            .await
            .map_err(|error| QueueError::Interrupted(error.to_string()))?;
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
        .await
        .unwrap_or_else(|error| Err(QueueError::Interrupted(error.to_string())))
    }

    /// Whether `bytes` more would leave `minimum_free`. Blocks.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), QueueError> {
        let directory = &self.layout.root;
        let free = self
            .disk
            .free_bytes(directory)
            .map_err(fault("ask for the free space of", directory))?;
        let minimum_free = self.minimum_free.load(Ordering::Relaxed);
        if free.saturating_sub(bytes) < minimum_free {
            return Err(QueueError::Full {
                directory: directory.clone(),
                free,
                needed: bytes,
                minimum_free,
            });
        }
        Ok(())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("directory", &self.layout.root)
            .finish_non_exhaustive()
    }
}

/// Makes the directories, durably, and takes the lock.
fn prepare(disk: &dyn Disk, layout: &Layout) -> Result<LockGuard, QueueError> {
    let root = &layout.root;
    let make = |path: &Path| {
        disk.create_directory(path)
            .map_err(fault("make the directory", path))
    };
    let sync = |path: &Path| disk.sync_directory(path).map_err(fault("sync", path));

    let root_is_new = make(root)?;
    let parent = match root.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // A process that died between making the directory and this left it to us; but a parent that we did not have to
    // write to may also be one that we may not open.
    match sync(parent) {
        Err(error) if root_is_new => return Err(error),
        _ => {}
    }

    let lock = match disk
        .lock(&layout.lock, &std::process::id().to_string())
        .map_err(fault("lock", &layout.lock))?
    {
        LockAttempt::Taken(guard) => guard,
        LockAttempt::Held(note) => {
            return Err(QueueError::Locked {
                directory: root.clone(),
                process: note.parse().ok(),
            });
        }
    };
    for directory in [
        layout.directory(Place::Ready),
        layout.directory(Place::Hold),
        layout.drafts.clone(),
    ] {
        make(&directory)?;
    }
    sync(root)?;
    Ok(lock)
}
