//! The queue directory as the operator sees it: [`QueueDirectory`].
//!
//! Works beside a running daemon and beside whoever sees messages onward: it only ever touches whole messages, and one
//! that disappears while it looks is simply not there. The order of its steps is argued in `queue.rs`. It blocks.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use crate::envelope::{Envelope, Hold, HoldReason, MessageId};

use super::disk::{DirectoryEntry, Disk, LockAttempt, LockGuard, RealDisk};
use super::layout::{
    EnvelopeFault, Layout, Part, Place, parse_envelope, parse_file_name, read_envelope,
    read_envelope_text,
};
use super::{QueueError, fault};

/// How often the lock on moves is tried before giving up; with the pause below some five seconds. A move takes a few
/// milliseconds.
const LOCK_ATTEMPTS_MAX: u32 = 250;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Octets of a header section that are shown. Longer ones are cut.
const HEADER_BYTES_MAX: u64 = 256 * 1024;

/// The queue directory, for looking after it.
#[derive(Clone, Debug)]
pub struct QueueDirectory {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) layout: Layout,
}

/// One message in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: MessageId,
    /// Where it is.
    pub place: Place,
    /// Its envelope, or why that cannot be read.
    pub envelope: Result<Envelope, String>,
}

impl Entry {
    /// Why the message is in `hold/` and until when, where its envelope says so. The operator's word needs no reason.
    pub fn hold(&self) -> Option<&Hold> {
        let envelope = self.envelope.as_ref().ok()?;
        envelope.hold.as_ref().filter(|_| self.place == Place::Hold)
    }
}

impl QueueDirectory {
    /// The directory at `path`, which a daemon must have opened once.
    pub fn open(path: &Path) -> Result<Self, QueueError> {
        Self::open_on(path, Arc::new(RealDisk))
    }

    /// The same on any disk.
    pub fn open_on(path: &Path, disk: Arc<dyn Disk>) -> Result<Self, QueueError> {
        let layout = Layout::new(path);
        for place in [Place::Ready, Place::Hold] {
            let directory = layout.directory(place);
            disk.length(&directory)
                .and_then(|length| length.ok_or_else(|| Errno::ENOENT.into()))
                .map_err(fault("open", &directory))?;
        }
        Ok(Self { disk, layout })
    }

    /// That of an open spool.
    pub(super) fn of(disk: Arc<dyn Disk>, layout: Layout) -> Self {
        Self { disk, layout }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.layout.root
    }

    /// The file that holds the entry's message.
    pub fn message_path(&self, entry: &Entry) -> Result<PathBuf, QueueError> {
        self.locate_message(entry.place, &entry.id)
    }

    /// All messages, the oldest first.
    pub fn list(&self) -> Result<Vec<Entry>, QueueError> {
        let mut entries = Vec::new();
        for place in [Place::Ready, Place::Hold] {
            let ids = self.ids(place)?.into_iter();
            entries.extend(ids.filter_map(|id| self.read(place, id)));
        }
        entries.sort_by(|this, other| this.id.cmp(&other.id));
        Ok(entries)
    }

    /// One message.
    pub fn find(&self, id: &MessageId) -> Result<Entry, QueueError> {
        [Place::Ready, Place::Hold]
            .into_iter()
            .find_map(|place| self.read(place, id.clone()))
            .ok_or_else(|| self.missing(id))
    }

    /// Withholds a message until it is let go. One that is held already stays so, and if it had a time when it would have
    /// been released, that is cancelled.
    pub fn hold(&self, id: &MessageId) -> Result<(), QueueError> {
        let _guard = self.lock()?;
        self.place_of(id)?;
        self.relocate(id, Part::Envelope, Place::Ready, Place::Hold)?;
        self.sign(id)?;
        self.relocate(id, Part::Message, Place::Ready, Place::Hold)
    }

    /// Lets a held message go. One that is not held stays where it is.
    pub fn release(&self, id: &MessageId) -> Result<(), QueueError> {
        let _guard = self.lock()?;
        let place = self.place_of(id)?;
        // An envelope alone does not go to ready.
        self.locate_message(place, id)?;
        if place == Place::Hold {
            // In ready the mark means nothing, so it may stay where the disk takes nothing more.
            let _ = self.unsign(id);
        }
        self.relocate(id, Part::Message, Place::Hold, Place::Ready)?;
        self.relocate(id, Part::Envelope, Place::Hold, Place::Ready)
    }

    /// Removes a message for good, wherever it is.
    pub fn remove(&self, id: &MessageId) -> Result<(), QueueError> {
        let _guard = self.lock()?;
        let place = self.place_of(id)?;
        let message = self.locate_message(place, id);
        self.note_gone(id)?;
        self.remove_file(&self.layout.file(place, id, Part::Envelope))?;
        match message {
            Ok(path) => self.remove_file(&path),
            // An envelope alone: there is nothing more to remove.
            Err(QueueError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes the message, as it is stored, to `out`. Gives its length.
    pub fn export(&self, id: &MessageId, out: &mut impl Write) -> Result<u64, QueueError> {
        let (path, mut message) = self.open_message(id)?;
        io::copy(&mut message, out).map_err(fault("copy", &path))
    }

    /// The header section of the message: everything before the first empty line.
    pub fn header_section(&self, id: &MessageId) -> Result<Vec<u8>, QueueError> {
        let (path, message) = self.open_message(id)?;
        let mut start = Vec::new();
        message
            .take(HEADER_BYTES_MAX)
            .read_to_end(&mut start)
            .map_err(fault("read", &path))?;
        if start.starts_with(b"\r\n") {
            start.clear();
        } else if let Some(end) = memchr::memmem::find(&start, b"\r\n\r\n") {
            start.truncate(end + 2);
        }
        Ok(start)
    }

    /// Keeps every daemon from the directory, for as long as the guard lives; an error if one has it.
    pub fn lock_out_daemon(&self) -> Result<LockGuard, QueueError> {
        lock_directory(&*self.disk, &self.layout)
    }

    /// Keeps everybody else from moving messages.
    pub(super) fn lock(&self) -> Result<LockGuard, QueueError> {
        lock_moves(&*self.disk, &self.layout)
    }

    /// What has an envelope there.
    pub(super) fn ids(&self, place: Place) -> Result<Vec<MessageId>, QueueError> {
        let directory = self.layout.directory(place);
        let names = self
            .disk
            .list_directory(&directory)
            .map_err(fault("list", &directory))?;
        let id = |name: &DirectoryEntry| match parse_file_name(&name.name) {
            // To open a named pipe would be to wait for somebody at its other end.
            Some((id, Part::Envelope)) if name.is_file => Some(id),
            _ => None,
        };
        Ok(names.iter().filter_map(id).collect())
    }

    fn missing(&self, id: &MessageId) -> QueueError {
        QueueError::Missing {
            directory: self.layout.root.clone(),
            id: id.clone(),
        }
    }

    /// `None` if it is not there.
    pub(super) fn read(&self, place: Place, id: MessageId) -> Option<Entry> {
        let path = self.layout.file(place, &id, Part::Envelope);
        let envelope = match read_envelope(&*self.disk, &path, &id) {
            Ok(envelope) => Ok(envelope),
            Err(EnvelopeFault::Missing) => return None,
            Err(EnvelopeFault::Unreadable(reason)) => Err(reason),
        };
        Some(Entry {
            id,
            place,
            envelope,
        })
    }

    /// The fault of an envelope that cannot be read.
    pub(super) fn unreadable(&self, place: Place, id: &MessageId, reason: &str) -> QueueError {
        let source = io::Error::new(io::ErrorKind::InvalidData, reason);
        fault("read", &self.layout.file(place, id, Part::Envelope))(source)
    }

    pub(super) fn has(&self, place: Place, id: &MessageId, part: Part) -> Result<bool, QueueError> {
        let path = self.layout.file(place, id, part);
        let length = self.disk.length(&path).map_err(fault("look at", &path))?;
        Ok(length.is_some())
    }

    /// Where the envelope is, which decides where the message counts as being.
    fn place_of(&self, id: &MessageId) -> Result<Place, QueueError> {
        for place in [Place::Ready, Place::Hold] {
            if self.has(place, id, Part::Envelope)? {
                return Ok(place);
            }
        }
        Err(self.missing(id))
    }

    /// The `.eml` of a message whose envelope is in `place`: there, or in the other place in the middle of a move.
    pub(super) fn locate_message(
        &self,
        place: Place,
        id: &MessageId,
    ) -> Result<PathBuf, QueueError> {
        let other = match place {
            Place::Hold => Place::Ready,
            Place::Ready => Place::Hold,
        };
        for place in [place, other] {
            if self.has(place, id, Part::Message)? {
                return Ok(self.layout.file(place, id, Part::Message));
            }
        }
        Err(self.missing(id))
    }

    fn open_message(&self, id: &MessageId) -> Result<(PathBuf, Box<dyn Read + Send>), QueueError> {
        let place = self.place_of(id)?;
        let path = self.locate_message(place, id)?;
        let file = self.disk.open_file(&path).map_err(fault("open", &path))?;
        Ok((path, file))
    }

    /// Moves one file, if it is not there already, and waits until that is durable on both sides. An earlier attempt
    /// may have got as far as the rename; that is why the waiting is for both.
    fn relocate(
        &self,
        id: &MessageId,
        part: Part,
        from: Place,
        to: Place,
    ) -> Result<(), QueueError> {
        self.rename(id, part, from, to)?;
        for place in [to, from] {
            self.sync(&self.layout.directory(place))?;
        }
        Ok(())
    }

    /// Moves one file, if it is not there already.
    pub(super) fn rename(
        &self,
        id: &MessageId,
        part: Part,
        from: Place,
        to: Place,
    ) -> Result<(), QueueError> {
        if !self.has(from, id, part)? {
            return Ok(());
        }
        self.keep_free(to, id, part)?;
        let target = self.layout.file(to, id, part);
        self.disk
            .rename(&self.layout.file(from, id, part), &target)
            .map_err(|error| match error.kind() {
                // Seen onward in this moment.
                io::ErrorKind::NotFound => self.missing(id),
                _ => fault("rename to", &target)(error),
            })
    }

    /// Nothing is put on top of something else.
    pub(super) fn keep_free(
        &self,
        place: Place,
        id: &MessageId,
        part: Part,
    ) -> Result<(), QueueError> {
        match self.has(place, id, part)? {
            true => Err(QueueError::Exists {
                path: self.layout.file(place, id, part),
            }),
            false => Ok(()),
        }
    }

    /// Waits until all moves between the two places are durable.
    pub(super) fn sync_places(&self) -> Result<(), QueueError> {
        for place in [Place::Ready, Place::Hold] {
            self.sync(&self.layout.directory(place))?;
        }
        Ok(())
    }

    /// Sees to it that a held message is released by nobody but the operator, durably.
    fn sign(&self, id: &MessageId) -> Result<(), QueueError> {
        let path = self.layout.file(Place::Hold, id, Part::Envelope);
        let text = read_envelope_text(&*self.disk, &path).map_err(fault("read", &path))?;
        let operators = Some(Hold::new(HoldReason::Operator, None));
        match parse_envelope(&text, id) {
            Ok(envelope) if envelope.hold == operators => Ok(()),
            Ok(envelope) if envelope.hold.is_none() => {
                // It is held without that, too, and also where the disk takes nothing more. The mark is for later: see
                // `containment.rs`.
                let _ = self.replace_envelope(id, &text, operators);
                Ok(())
            }
            Ok(_) => self.replace_envelope(id, &text, operators),
            // Nobody releases by its time what cannot be read.
            Err(_) => Ok(()),
        }
    }

    /// Takes back what [`sign`](Self::sign) wrote, if that is what the envelope says.
    fn unsign(&self, id: &MessageId) -> Result<(), QueueError> {
        let path = self.layout.file(Place::Hold, id, Part::Envelope);
        let text = read_envelope_text(&*self.disk, &path).map_err(fault("read", &path))?;
        match parse_envelope(&text, id) {
            Ok(envelope) if envelope.hold == Some(Hold::new(HoldReason::Operator, None)) => {
                self.replace_envelope(id, &text, None)
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Gives a held message an envelope that says this instead; all other fields stay, those of later versions included.
    pub(super) fn replace_envelope(
        &self,
        id: &MessageId,
        text: &[u8],
        hold: Option<Hold>,
    ) -> Result<(), QueueError> {
        self.write_new_envelope(id, text, hold)?;
        self.put_new_envelopes([id])
    }

    /// The first half of that: the new envelope is durable, under another name.
    pub(super) fn write_new_envelope(
        &self,
        id: &MessageId,
        text: &[u8],
        hold: Option<Hold>,
    ) -> Result<(), QueueError> {
        let impossible = |error: serde_json::Error| {
            QueueError::Interrupted(format!("cannot write an envelope: {error}"))
        };
        let mut fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(text).map_err(impossible)?;
        match hold {
            Some(hold) => {
                let hold = serde_json::to_value(hold).map_err(impossible)?;
                fields.insert("hold".to_owned(), hold);
            }
            None => drop(fields.remove("hold")),
        }
        let text = serde_json::to_vec(&fields).map_err(impossible)?;
        let new = self.layout.new_envelope(id);
        let file = match self.disk.create_file(&new) {
            // Left by an attempt before this one.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.remove_file(&new)?;
                self.disk.create_file(&new)
            }
            other => other,
        };
        let mut file = file.map_err(fault("create", &new))?;
        file.append(&text).map_err(fault("write", &new))?;
        file.sync().map_err(fault("sync", &new))
    }

    /// The second half, for as many as there are: they get their names, durably.
    pub(super) fn put_new_envelopes<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a MessageId>,
    ) -> Result<(), QueueError> {
        for id in ids {
            let path = self.layout.file(Place::Hold, id, Part::Envelope);
            self.disk
                .rename(&self.layout.new_envelope(id), &path)
                .map_err(fault("rename to", &path))?;
        }
        self.sync(&self.layout.directory(Place::Hold))
    }

    /// Keeps the journal, which may still hold the message, from bringing it back after a crash.
    fn note_gone(&self, id: &MessageId) -> Result<(), QueueError> {
        let path = self.layout.gone(id);
        match self.disk.create_file(&path) {
            Ok(_) => self.sync(&self.layout.gone),
            // Noted by an attempt before this one, which may not have come to the sync.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.sync(&self.layout.gone)
            }
            // A directory from before there was a journal.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(fault("create", &path)(error)),
        }
    }

    /// Removes a file, if it is still there, and waits until that is durable.
    fn remove_file(&self, path: &Path) -> Result<(), QueueError> {
        match self.disk.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fault("remove", path)(error));
            }
            _ => {}
        }
        path.parent().map_or(Ok(()), |parent| self.sync(parent))
    }

    fn sync(&self, directory: &Path) -> Result<(), QueueError> {
        self.disk
            .sync_directory(directory)
            .map_err(fault("sync", directory))
    }
}

/// Has the directory for this process alone, as far as accepting messages goes.
pub(super) fn lock_directory(disk: &dyn Disk, layout: &Layout) -> Result<LockGuard, QueueError> {
    let (path, note) = (&layout.lock, std::process::id().to_string());
    match disk.lock(path, &note).map_err(fault("lock", path))? {
        LockAttempt::Taken(guard) => Ok(guard),
        LockAttempt::Held(note) => Err(QueueError::Locked {
            directory: layout.root.clone(),
            process: note.parse().ok(),
        }),
    }
}

/// Keeps everybody else from moving messages between `ready/` and `hold/`. Waits a bounded time.
pub(super) fn lock_moves(disk: &dyn Disk, layout: &Layout) -> Result<LockGuard, QueueError> {
    let path = &layout.moves_lock;
    let note = std::process::id().to_string();
    for attempt in 0..LOCK_ATTEMPTS_MAX {
        if attempt > 0 {
            std::thread::sleep(LOCK_PAUSE);
        }
        match disk.lock(path, &note).map_err(fault("lock", path))? {
            LockAttempt::Held(_) => {}
            LockAttempt::Taken(guard) => return Ok(guard),
        }
    }
    Err(QueueError::Busy {
        directory: layout.root.clone(),
    })
}
