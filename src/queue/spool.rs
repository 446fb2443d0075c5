//! The [`Spool`]: the queue directory as the running daemon uses it.
//!
//! It hands out ids and drafts, and knows how much room there is. File work of large messages goes to the runtime's
//! blocking threads, a bounded number of operations at a time; small messages go through the journal, which has threads
//! of its own ([`super::pipeline`]).

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use uuid::{ContextV7, Uuid};

use crate::clock::{Now, Timestamp};
use crate::envelope::{Envelope, MessageId, Receipt};
use crate::message::Fingerprint;

use super::directory::lock_directory;
use super::disk::{Disk, LockGuard, RealDisk};
use super::draft::Draft;
use super::journal::Sizes;
use super::layout::{Layout, Part, Place, parse_file_name, read_envelope};
use super::pipeline::{Pipeline, Workers, Written};
use super::recovery::{self, Recovered};
use super::release::{Released, Timers, release};
use super::repetition::Repetitions;
use super::replay::replay;
use super::room::Room;
use super::{QueueError, SpoolEvent, SpoolSettings, fault};

/// File operations of large messages at a time. Waiting for an fsync costs a thread and no processor; more of them at
/// once let the file system commit several with one journal write, up to about here.
const OPERATIONS_MAX: usize = 64;

/// Messages that are looked at when the directory is opened, for they may come again.
const REMEMBERED_AT_START_MAX: usize = 10_000;

/// The queue directory, open for accepting messages. Cheap to clone; all clones are the same spool.
///
/// One process at a time has a directory open: the lock goes with the last clone and the last draft.
#[derive(Clone, Debug)]
pub struct Spool {
    pub(super) shared: Arc<Shared>,
}

/// What all clones and drafts have in common.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) layout: Layout,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) timers: Arc<Timers>,
    pub(super) room: Arc<Room>,
    pub(super) repetitions: Repetitions,
    commit_timeout_ms: AtomicU64,
    ids: Mutex<ContextV7>,
    operations: Arc<Semaphore>,
    /// None where somebody else does their work. They go before the lock does.
    workers: Mutex<Option<Workers>>,
    _lock: LockGuard,
}

impl Spool {
    /// Makes the queue directory if it is not there, durably, but not its parent. Whether it was made. For those who
    /// may not do so any more when they open it.
    pub fn make_directory(directory: &Path) -> Result<bool, QueueError> {
        make_root(&RealDisk, directory)
    }

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
        let (spool, recovered) = Self::open_stepped(settings, disk)?;
        let workers = Workers::start(&spool.shared.pipeline)?;
        *spool.workers() = Some(workers);
        Ok((spool, recovered))
    }

    /// The same without threads of its own: small messages get no further than [`Spool::turn`] takes them, and nothing
    /// is covered but by [`Spool::cover`]. For tests, which want to know what happens when.
    pub fn open_stepped(
        settings: &SpoolSettings,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, Recovered), QueueError> {
        let layout = Layout::new(&settings.directory);
        let lock = prepare(&*disk, &layout)?;
        let replayed = replay(&disk, &layout, Sizes::new(settings))?;
        let timers = Arc::clone(replayed.placer.timers());
        let mut recovered = recovery::recover(&*disk, &layout, &timers)?;
        recovered.replayed = replayed.messages;
        recovered.findings.splice(0..0, replayed.findings);
        let room = Arc::new(Room::new(&layout.root, settings.minimum_free));
        let pipeline = Arc::new(Pipeline::new(
            Arc::clone(&disk),
            layout.clone(),
            Arc::clone(&room),
            Sizes::new(settings),
            replayed.file_system,
            replayed.journal,
            replayed.placer,
        ));
        let shared = Shared {
            disk,
            layout,
            pipeline,
            timers,
            room,
            repetitions: Repetitions::default(),
            commit_timeout_ms: AtomicU64::new(0),
            ids: Mutex::new(ContextV7::new()),
            operations: Arc::new(Semaphore::new(OPERATIONS_MAX)),
            workers: Mutex::new(None),
            _lock: lock,
        };
        let spool = Self {
            shared: Arc::new(shared),
        };
        spool.apply(settings);
        if let Some(window) = settings.duplicate_window {
            spool.remember(window)?;
        }
        Ok((spool, recovered))
    }

    /// Takes over all settings but the directory; for a reload.
    pub fn apply(&self, settings: &SpoolSettings) {
        let shared = &self.shared;
        shared.room.set_minimum_free(settings.minimum_free);
        shared.pipeline.resize_journal(Sizes::new(settings));
        let timeout = u64::try_from(settings.commit_timeout.as_millis()).unwrap_or(u64::MAX);
        shared.commit_timeout_ms.store(timeout, Ordering::Relaxed);
        shared.repetitions.set_window(settings.duplicate_window);
    }

    /// The client of a message has heard that it is queued: the same again is another message.
    pub fn delivered(&self, fingerprint: &Fingerprint) {
        self.shared.repetitions.delivered(fingerprint);
    }

    /// Remembers the youngest messages that are queued: the process before us may have died before it said so.
    fn remember(&self, window: Duration) -> Result<(), QueueError> {
        let Shared { disk, layout, .. } = &*self.shared;
        let now = Now::read();
        let mut ids = Vec::new();
        for place in [Place::Ready, Place::Hold] {
            let directory = layout.directory(place);
            let entries = disk.list_directory(&directory);
            for entry in entries.map_err(fault("list", &directory))? {
                if let Some((id, Part::Envelope)) = parse_file_name(&entry.name)
                    && entry.is_file
                    && age(&id, now) < window
                {
                    ids.push((id, place));
                }
            }
        }
        ids.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let excess = ids.len().saturating_sub(REMEMBERED_AT_START_MAX);
        for (id, place) in ids.split_off(excess) {
            let path = layout.file(place, &id, Part::Envelope);
            // One that cannot be read has been reported, or has just been taken.
            if let Ok(envelope) = read_envelope(&**disk, &path, &id)
                && let Some(fingerprint) = envelope.fingerprint
            {
                let until = now.instant + window.saturating_sub(age(&id, now));
                let receipt = Receipt::new(id, envelope.size);
                self.shared.repetitions.restore(fingerprint, receipt, until);
            }
        }
        Ok(())
    }

    /// Stops: what was begun is committed, all of it is covered, and whatever comes later is refused. Blocks, as long as
    /// the disk takes. Dropping the last clone and the last draft does the same.
    pub fn close(&self) {
        let workers = self.workers().take();
        drop(workers);
    }

    /// Troubles of the queue as a whole, and their ends, since the last call.
    pub fn take_events(&self) -> Vec<SpoolEvent> {
        self.shared.pipeline.take_events()
    }

    /// Commits the small messages that wait, as many as one batch takes; for a spool that was opened stepped. Whether
    /// there were any.
    pub fn turn(&self) -> bool {
        let pipeline = &self.shared.pipeline;
        let mut written = pipeline.write();
        if written == Written::Full {
            while pipeline.place() {}
            let _ = pipeline.cover();
            written = pipeline.write();
        }
        pipeline.place();
        written == Written::Batch
    }

    /// Covers all that has been placed, so that a crash of the machine cannot bring it back; for a spool that was opened
    /// stepped.
    pub fn cover(&self) -> Result<(), QueueError> {
        self.shared.pipeline.cover()
    }

    /// Whether there are messages in `hold/` whose time has come; to be asked now and then. Does not block.
    pub fn is_release_due(&self, now: Timestamp) -> bool {
        self.shared.timers.is_due(now)
    }

    /// Releases messages from `hold/` whose time has come, up to a bound; those that cannot be are tried again. Blocks.
    ///
    /// What was released is in `ready/`, durably unless [`Spool::take_events`] tells of trouble with `release`.
    pub fn release_due(&self, now: Timestamp) -> Vec<Released> {
        let shared = &self.shared;
        let (released, result) = release(&self.directory(), &shared.timers, now);
        shared.pipeline.note_release(result);
        released
    }

    fn workers(&self) -> std::sync::MutexGuard<'_, Option<Workers>> {
        let workers = self.shared.workers.lock();
        workers.unwrap_or_else(PoisonError::into_inner)
    }

    /// An id for a message accepted now: greater than all that this spool gave before, even if the clock is set back.
    pub fn next_id(&self, now: Now) -> MessageId {
        let seconds = u64::try_from(now.wall.as_second()).unwrap_or(0);
        let nanoseconds = u32::try_from(now.wall.subsec_nanosecond()).unwrap_or(0);
        let timestamp = uuid::Timestamp::from_unix(&self.shared.ids, seconds, nanoseconds);
        MessageId::from_bits(Uuid::new_v7(timestamp).as_u128())
    }

    /// Whether a message of `bytes` would be taken at the moment: whether it would leave `minimum_free`, and nothing is
    /// out of order. Asked at MAIL, and again whenever something is written.
    pub async fn room_for(&self, bytes: u64) -> Result<(), QueueError> {
        self.shared.pipeline.is_ready()?;
        if self.shared.room.is_plenty(bytes) {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let work = move || shared.room.check(&*shared.disk, bytes);
        self.shared.blocking(work).await
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

    /// How long a message may wait for its turn to be written.
    pub(super) fn commit_timeout(&self) -> Duration {
        Duration::from_millis(self.commit_timeout_ms.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("directory", &self.layout.root)
            .finish_non_exhaustive()
    }
}

/// How long ago a message was accepted; one that comes from the future, now.
fn age(id: &MessageId, now: Now) -> Duration {
    let then = Timestamp::from_millisecond(id.milliseconds()).unwrap_or_default();
    Duration::try_from(now.wall.duration_since(then)).unwrap_or_default()
}

/// Makes the queue directory itself, durably. Whether it was made.
fn make_root(disk: &dyn Disk, root: &Path) -> Result<bool, QueueError> {
    let is_new = disk
        .create_directory(root)
        .map_err(fault("make the directory", root))?;
    let parent = match root.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // A process that died between making the directory and this left it to us; but a parent that we did not have to
    // write to may also be one that we may not open.
    match disk.sync_directory(parent).map_err(fault("sync", parent)) {
        Err(error) if is_new => Err(error),
        _ => Ok(is_new),
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

    make_root(disk, root)?;

    let lock = lock_directory(disk, layout)?;
    let device = |path: &Path| disk.device(path).map_err(fault("look at", path));
    let device_of_root = device(root)?;
    for directory in [
        layout.directory(Place::Ready),
        layout.directory(Place::Hold),
        layout.drafts.clone(),
        layout.journal.clone(),
        layout.gone.clone(),
    ] {
        make(&directory)?;
        if device(&directory)? != device_of_root {
            return Err(QueueError::Elsewhere { directory });
        }
    }
    sync(&layout.journal)?;
    sync(root)?;
    Ok(lock)
}
