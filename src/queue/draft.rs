//! A message on its way into the queue: [`Draft`].
//!
//! Small messages stay in memory until they are committed, larger ones spill into a file under `drafts/`. Whatever goes
//! wrong, and wherever the caller stops, the files go: each is owned by a [`PartialMessage`], which removes what it
//! made unless it was committed. The order of the commit is argued in `queue.rs`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::Now;
use crate::envelope::{Envelope, Hold, HoldReason, MessageId, Receipt};
use crate::message::Fingerprint;

use super::disk::DiskFile;
use super::journal::Record;
use super::layout::{Part, Place};
use super::repetition::Arrival;
use super::spool::Shared;
use super::{QueueError, fault};

/// Octets of a message that are held in memory: messages up to this size touch the disk only when they are committed,
/// larger ones are written in pieces of it. Most mail is smaller; times the connections it is what the daemon may need.
const MEMORY_BYTES_MAX: usize = 64 * 1024;

/// A message that is being received. Dropping it gives it up, and nothing of it stays.
pub struct Draft {
    shared: Arc<Shared>,
    envelope: Envelope,
    /// What is not on disk yet; at most [`MEMORY_BYTES_MAX`].
    buffer: Vec<u8>,
    content: Content,
}

/// Where the content before the buffer's is.
enum Content {
    /// An operation failed, or its future was dropped: part of the content is missing. What was on disk is removed, or
    /// will be by the operation that still runs.
    Broken,
    /// Nowhere: the buffer has all of it.
    Memory,
    /// In a file.
    Spilled(Detached),
}

impl Draft {
    pub(super) fn new(shared: Arc<Shared>, envelope: Envelope) -> Self {
        Self {
            shared,
            envelope,
            buffer: Vec::new(),
            content: Content::Memory,
        }
    }

    /// The message's name in the queue, if it gets there.
    pub fn id(&self) -> &MessageId {
        &self.envelope.id
    }

    /// Adds to the end of the message.
    ///
    /// After an error, or if the future is dropped before it is ready, the draft is of no more use: everything that
    /// follows is [`QueueError::Abandoned`].
    pub async fn append(&mut self, mut bytes: &[u8]) -> Result<(), QueueError> {
        if matches!(self.content, Content::Broken) {
            return Err(QueueError::Abandoned);
        }
        loop {
            let room = MEMORY_BYTES_MAX - self.buffer.len();
            let (fits, rest) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(fits);
            if rest.is_empty() {
                return Ok(());
            }
            bytes = rest;
            self.spill().await?;
        }
    }

    /// Moves the buffer into the file.
    async fn spill(&mut self) -> Result<(), QueueError> {
        // Broken until proven otherwise: nobody comes back here if the future is dropped.
        let content = std::mem::replace(&mut self.content, Content::Broken);
        let mut buffer = std::mem::take(&mut self.buffer);
        let shared = Arc::clone(&self.shared);
        let id = self.envelope.id.clone();
        let work = move || {
            let mut message = content.into_partial_message(shared, &id)?;
            message.append(&buffer)?;
            buffer.clear();
            Ok((Detached::new(message), buffer))
        };
        let (message, buffer) = self.shared.blocking(work).await?;
        self.content = Content::Spilled(message);
        self.buffer = buffer;
        Ok(())
    }

    /// Makes the message durable and queued.
    ///
    /// An error means that it is not queued (with the reservation in `queue.rs` about a disk that fails at the very
    /// last step). If the future is dropped the message ends up wholly queued or not at all, and nobody knows which.
    ///
    /// A message that was [identified](Self::identify), and that was queued before without its client knowing so, is not
    /// queued again: the receipt is the first one's, [`repeated`](Receipt::repeated).
    pub async fn commit(self) -> Result<Receipt, QueueError> {
        let Some(fingerprint) = self.envelope.fingerprint else {
            return self.queue().await;
        };
        let shared = Arc::clone(&self.shared);
        let now = || Now::read().instant;
        match shared.repetitions.arrive(fingerprint, now).await {
            Arrival::Again(receipt) => Ok(Receipt {
                repeated: true,
                ..receipt
            }),
            Arrival::First(turn) => {
                let receipt = Box::pin(self.queue()).await?;
                turn.queued(&receipt, now());
                Ok(receipt)
            }
        }
    }

    /// By what the message is to be known if its client sends it again.
    pub fn identify(&mut self, fingerprint: Fingerprint) {
        self.envelope.fingerprint = Some(fingerprint);
    }

    /// The message is to be held until the limits of its account have room for it.
    pub fn postpone(&mut self) {
        let until = self.envelope.hold.and_then(|hold| hold.until);
        self.envelope.hold = Some(Hold::new(HoldReason::OverLimit, until));
    }

    async fn queue(self) -> Result<Receipt, QueueError> {
        let Self {
            shared,
            mut envelope,
            mut buffer,
            content,
        } = self;
        if matches!(content, Content::Memory) {
            envelope.size = buffer.len() as u64;
            let record = Record {
                id: envelope.id.clone(),
                envelope: to_json(&envelope)?,
                message: buffer,
            };
            if record.encoded_bytes() <= shared.pipeline.record_bytes_max() {
                // It can wait for long: then without the rest of this future.
                drop((envelope, content));
                let timeout = shared.commit_timeout();
                return shared.pipeline.commit(record, timeout).await;
            }
            buffer = record.message;
        }
        let worker = Arc::clone(&shared);
        let work = move || {
            let mut message = content.into_partial_message(worker, &envelope.id)?;
            message.append(&buffer)?;
            message.commit(envelope)
        };
        shared.blocking(work).await
    }
}

fn to_json(envelope: &Envelope) -> Result<Vec<u8>, QueueError> {
    serde_json::to_vec(envelope).map_err(|error| QueueError::Interrupted(error.to_string()))
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft")
            .field("id", self.id())
            .finish_non_exhaustive()
    }
}

impl Content {
    /// The message's file, made now if there is none yet. Blocks.
    fn into_partial_message(
        self,
        shared: Arc<Shared>,
        id: &MessageId,
    ) -> Result<PartialMessage, QueueError> {
        match self {
            Self::Broken => Err(QueueError::Abandoned),
            Self::Memory => PartialMessage::create(shared, id),
            Self::Spilled(detached) => detached.into_inner().ok_or(QueueError::Abandoned),
        }
    }
}

/// Octets of a large message after which the disk begins to write them while more are received.
const HURRY_BYTES: u64 = 1024 * 1024;

/// The files of a message that is not queued yet. Belongs on a blocking thread; dropping it removes them.
struct PartialMessage {
    shared: Arc<Shared>,
    file: Box<dyn DiskFile>,
    length: u64,
    /// How many of them the disk has been asked to write.
    hurried: u64,
    files: OwnedFiles,
}

impl PartialMessage {
    fn create(shared: Arc<Shared>, id: &MessageId) -> Result<Self, QueueError> {
        let path = shared.layout.draft(id, Part::Message);
        let mut files = OwnedFiles::new(Arc::clone(&shared));
        let file = files.create(path)?;
        Ok(Self {
            shared,
            file,
            length: 0,
            hurried: 0,
            files,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), QueueError> {
        let Shared { room, disk, .. } = &*self.shared;
        room.check(&**disk, bytes.len() as u64)?;
        self.file
            .append(bytes)
            .map_err(|error| self.files.fault("write", error))?;
        self.length += bytes.len() as u64;
        if self.length - self.hurried >= HURRY_BYTES {
            self.file.hurry(self.hurried, self.length - self.hurried);
            self.hurried = self.length;
        }
        Ok(())
    }

    /// The steps of the commit, numbered as in `queue.rs`.
    fn commit(mut self, mut envelope: Envelope) -> Result<Receipt, QueueError> {
        let id = envelope.id.clone();
        let layout = &self.shared.layout;
        let disk = &*self.shared.disk;
        envelope.size = self.length;

        // 1
        self.file
            .sync()
            .map_err(|error| self.files.fault("sync", error))?;

        // 2
        let json = to_json(&envelope)?;
        let json_draft = layout.draft(&id, Part::Envelope);
        let mut file = self.files.create(json_draft.clone())?;
        file.append(&json).map_err(fault("write", &json_draft))?;
        file.sync().map_err(fault("sync", &json_draft))?;

        // 3 and 4
        let place = Place::at_first(envelope.hold.as_ref());
        for part in [Part::Message, Part::Envelope] {
            let draft = layout.draft(&id, part);
            self.files.rename(&draft, layout.file(place, &id, part))?;
        }

        // 5
        let directory = layout.directory(place);
        disk.sync_directory(&directory)
            .map_err(fault("sync", &directory))?;

        self.files.release();
        if let Some(until) = envelope.hold.and_then(|hold| hold.releases_at()) {
            self.shared.timers.set(until, id.clone());
        }
        Ok(Receipt::new(id, self.length))
    }
}

/// Files that are removed when this is dropped, the last one first, unless they are released.
///
/// "Last one first" takes the `.json` out of `ready/` or `hold/` before the `.eml`.
struct OwnedFiles {
    shared: Arc<Shared>,
    /// Every path that we may have brought into being, in that order. A path is noted before a rename is tried, since
    /// an error does not tell whether it happened.
    paths: Vec<PathBuf>,
}

impl OwnedFiles {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            paths: Vec::new(),
        }
    }

    fn create(&mut self, path: PathBuf) -> Result<Box<dyn DiskFile>, QueueError> {
        match self.shared.disk.create_file(&path) {
            Ok(file) => {
                self.paths.push(path);
                Ok(file)
            }
            // Somebody else's file, which must not be removed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(QueueError::Exists { path })
            }
            Err(error) => {
                let error = fault("create", &path)(error);
                self.paths.push(path);
                Err(error)
            }
        }
    }

    /// Renames one of ours. Ids do not repeat; if one does all the same, what is queued under it must not be replaced.
    fn rename(&mut self, from: &Path, to: PathBuf) -> Result<(), QueueError> {
        let disk = &self.shared.disk;
        let occupied = disk.length(&to).map_err(fault("look at", &to))?.is_some();
        if occupied {
            return Err(QueueError::Exists { path: to });
        }
        let result = disk.rename(from, &to).map_err(fault("rename to", &to));
        self.paths.push(to);
        result
    }

    /// A fault of the message's own file.
    fn fault(&self, operation: &'static str, error: io::Error) -> QueueError {
        let path = self.paths.first().map_or(Path::new(""), PathBuf::as_path);
        fault(operation, path)(error)
    }

    /// They are somebody else's from now on.
    fn release(&mut self) {
        self.paths.clear();
    }
}

impl Drop for OwnedFiles {
    fn drop(&mut self) {
        let Shared { disk, layout, .. } = &*self.shared;
        // Errors are left to recovery, which finds the same files as litter.
        for path in self.paths.iter().rev() {
            let _ = disk.remove_file(path);
        }
        for place in [Place::Ready, Place::Hold] {
            let directory = layout.directory(place);
            if self.paths.iter().any(|path| path.starts_with(&directory)) {
                let _ = disk.sync_directory(&directory);
            }
        }
    }
}

/// A [`PartialMessage`] in the hands of asynchronous code: when dropped it goes to a blocking thread to remove its
/// files.
///
/// That takes no permit, since a drop cannot wait for one; the runtime bounds its blocking threads anyway. If the
/// runtime is gone, or going, it is done on the spot.
struct Detached(Option<PartialMessage>);

impl Detached {
    fn new(message: PartialMessage) -> Self {
        Self(Some(message))
    }

    fn into_inner(mut self) -> Option<PartialMessage> {
        self.0.take()
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let Some(message) = self.0.take() else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // A stopping runtime drops the closure without running it, and the message with it.
            runtime.spawn_blocking(move || drop(message));
        }
    }
}
