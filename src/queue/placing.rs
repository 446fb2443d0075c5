//! Places the messages of the journal's batches into `ready/`, or into `hold/` if their envelopes say so: [`Placer`].
//!
//! Nothing here is synced: a batch is durable in the journal before it comes here, and stays there until a checkpoint
//! covers it. What is here instead is a note, the *intent*, of which batch is being placed. It tells a process that
//! comes after a killed one what that one did: of a batch that is announced, an envelope that is still among the drafts
//! has not been placed, and one that is not there has, so if it is not in `ready/` either, it was seen onward.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::envelope::MessageId;

use super::disk::{BlockFile, Disk};
use super::journal::Record;
use super::layout::{Layout, Part, Place, destination, parse_envelope, read_envelope_text};
use super::release::Timers;
use super::{QueueError, fault};

const INTENT_MAGIC: &[u8; 8] = b"gpintent";
const INTENT_BYTES: usize = 40;

/// Which batches of the journal have been placed, or were about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Intent {
    /// The boot of the machine that it is from: after another one it says nothing of the files.
    pub(super) boot: [u8; 16],
    /// The batch: all before it are placed; its own files are there, and may have their names.
    pub(super) batch: u64,
    /// A sync of the file system failed: the names are there, the content of what is not covered may be lost.
    pub(super) lost: bool,
}

/// A batch on its way into the directories.
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) records: Vec<Record>,
    stage: Stage,
}

/// How far it has come.
#[derive(Clone, Copy)]
enum Stage {
    /// Its files are being written.
    Writing,
    /// It is announced; so many of its messages have their names.
    Naming(usize),
}

impl Batch {
    pub(super) fn new(number: u64, records: Vec<Record>) -> Self {
        Self {
            number,
            records,
            stage: Stage::Writing,
        }
    }
}

/// Places batches, one after the other, in the order of their numbers.
pub(super) struct Placer {
    disk: Arc<dyn Disk>,
    layout: Layout,
    boot: [u8; 16],
    intent: Box<dyn BlockFile>,
    /// The last batch that was announced.
    announced: u64,
    /// As in [`Intent`].
    lost: bool,
    /// What is placed into `hold/` is noted there.
    timers: Arc<Timers>,
}

impl Placer {
    /// Opens the note; gives what the process before us left in it, if that can be read.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        layout: &Layout,
        boot: [u8; 16],
    ) -> Result<(Self, Option<Intent>), QueueError> {
        let path = &layout.intent;
        let present = disk.length(path).map_err(fault("look at", path))?;
        let intent = match present {
            Some(_) => disk.open_block_file(path).map_err(fault("open", path))?,
            None => disk
                .create_block_file(path, INTENT_BYTES as u64)
                .map_err(fault("create", path))?,
        };
        let mut bytes = [0; INTENT_BYTES];
        let length = intent.read_at(0, &mut bytes).map_err(fault("read", path))?;
        let found = Intent::decode(&bytes[..length]);
        let placer = Self {
            disk: Arc::clone(disk),
            layout: layout.clone(),
            boot,
            intent,
            announced: found.map_or(0, |intent| intent.batch),
            lost: found.is_some_and(|intent| intent.boot == boot && intent.lost),
            timers: Arc::default(),
        };
        Ok((placer, found))
    }

    /// When messages are to be released that are in `hold/`.
    pub(super) fn timers(&self) -> &Arc<Timers> {
        &self.timers
    }

    /// Places a batch that is new.
    pub(super) fn place(&mut self, batch: &mut Batch) -> Result<(), QueueError> {
        if let Stage::Writing = batch.stage {
            for record in &batch.records {
                let (place, _) = destination(&record.envelope);
                self.write(
                    &self.layout.file(place, &record.id, Part::Message),
                    &record.message,
                )?;
                self.write(
                    &self.layout.draft(&record.id, Part::Envelope),
                    &record.envelope,
                )?;
            }
            self.announce(batch.number)?;
            batch.stage = Stage::Naming(0);
        }
        self.name(batch, |placer, record| {
            let (place, until) = destination(&record.envelope);
            let draft = placer.layout.draft(&record.id, Part::Envelope);
            placer.rename_if_there(
                &draft,
                &placer.layout.file(place, &record.id, Part::Envelope),
            )?;
            if let Some(until) = until {
                placer.timers.set(until, record.id.clone());
            }
            Ok(())
        })
    }

    /// Gives up placing a batch that cannot be placed; gives those of its messages that have their names all the same.
    /// Of the others nothing stays.
    pub(super) fn abandon(&self, batch: Batch) -> Vec<Record> {
        let Batch { records, stage, .. } = batch;
        let named = match stage {
            Stage::Writing => 0,
            Stage::Naming(index) => index,
        };
        let mut placed = Vec::new();
        for (index, record) in records.into_iter().enumerate() {
            let draft = self.layout.draft(&record.id, Part::Envelope);
            // An error does not say whether the name was given.
            let is_placed = index < named
                || matches!(stage, Stage::Naming(at) if at == index)
                    && self
                        .disk
                        .length(&draft)
                        .is_ok_and(|length| length.is_none());
            if is_placed {
                placed.push(record);
                continue;
            }
            let (place, _) = destination(&record.envelope);
            for path in [draft, self.layout.file(place, &record.id, Part::Message)] {
                // What stays is litter, and removed at the next start.
                let _ = self.disk.remove_file(&path);
            }
        }
        placed
    }

    /// Places a batch of which anything may be there already, in any condition: whole, cut short, in hold.
    pub(super) fn restore(&mut self, batch: &mut Batch) -> Result<(), QueueError> {
        if let Stage::Writing = batch.stage {
            for record in &batch.records {
                self.write(
                    &self.layout.draft(&record.id, Part::Message),
                    &record.message,
                )?;
                self.write(
                    &self.layout.draft(&record.id, Part::Envelope),
                    &record.envelope,
                )?;
            }
            self.announce(batch.number)?;
            batch.stage = Stage::Naming(0);
        }
        self.name(batch, |placer, record| placer.finish(record).map(drop))
    }

    /// Gives a message of an announced batch its names, if the process that announced it did not come to it; whether
    /// that was so.
    pub(super) fn finish(&self, record: &Record) -> Result<bool, QueueError> {
        let id = &record.id;
        let draft = self.layout.draft(id, Part::Envelope);
        if !self.exists(&draft)? {
            return Ok(false);
        }
        let place = self.place_of(record)?;
        self.rename_if_there(
            &self.layout.draft(id, Part::Message),
            &self.layout.file(place, id, Part::Message),
        )?;
        let envelope = self.layout.file(place, id, Part::Envelope);
        if self.is_newer(&envelope, record)? {
            self.remove_if_there(&draft)?;
        } else {
            self.rename_if_there(&draft, &envelope)?;
        }
        if place == Place::Hold {
            // What a move that a crash cut off left in ready.
            for part in [Part::Envelope, Part::Message] {
                self.remove_if_there(&self.layout.file(Place::Ready, id, part))?;
            }
        }
        Ok(true)
    }

    /// Notes whether a sync of the file system failed, since it will not be told again: all that is not covered has to be
    /// written anew before the next one, by this process or another.
    pub(super) fn note_lost(&mut self, lost: bool) -> Result<(), QueueError> {
        self.lost = lost;
        self.announce(self.announced)
    }

    /// Whether that is so.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Writes the content of a placed message anew, where it still is, for a sync of the file system that failed.
    pub(super) fn rewrite(&self, record: &Record) -> Result<(), QueueError> {
        // A move between the two, in whatever direction, does not take it past us.
        for place in [Place::Hold, Place::Ready, Place::Hold] {
            for (part, content) in [
                (Part::Message, &record.message),
                (Part::Envelope, &record.envelope),
            ] {
                let path = self.layout.file(place, &record.id, part);
                if part == Part::Envelope && self.is_newer(&path, record)? {
                    continue;
                }
                self.disk
                    .overwrite_file(&path, content)
                    .map_err(fault("write", &path))?;
            }
        }
        Ok(())
    }

    /// Whether the operator removed the message.
    pub(super) fn is_gone(&self, id: &MessageId) -> Result<bool, QueueError> {
        self.exists(&self.layout.gone(id))
    }

    /// Removes whatever there is of a message.
    pub(super) fn remove(&self, id: &MessageId) -> Result<(), QueueError> {
        for place in [Place::Ready, Place::Hold] {
            for part in [Part::Envelope, Part::Message] {
                self.remove_if_there(&self.layout.file(place, id, part))?;
            }
        }
        Ok(())
    }

    fn name(
        &mut self,
        batch: &mut Batch,
        mut name: impl FnMut(&mut Self, &Record) -> Result<(), QueueError>,
    ) -> Result<(), QueueError> {
        while let Stage::Naming(index) = batch.stage
            && let Some(record) = batch.records.get(index)
        {
            name(self, record)?;
            batch.stage = Stage::Naming(index + 1);
        }
        Ok(())
    }

    /// Notes that the batch's files are there, and that its messages are about to get their names, or have them.
    pub(super) fn announce(&mut self, batch: u64) -> Result<(), QueueError> {
        let intent = Intent {
            boot: self.boot,
            batch,
            lost: self.lost,
        };
        self.intent
            .write_at(0, &intent.encode())
            .map_err(fault("write", &self.layout.intent))?;
        self.announced = batch;
        Ok(())
    }

    /// Where a message is, as far as any of its files tells; else where it goes at first.
    fn place_of(&self, record: &Record) -> Result<Place, QueueError> {
        for place in [Place::Hold, Place::Ready] {
            for part in [Part::Envelope, Part::Message] {
                if self.exists(&self.layout.file(place, &record.id, part))? {
                    return Ok(place);
                }
            }
        }
        Ok(destination(&record.envelope).0)
    }

    /// Whether there is an envelope that was changed after it had been placed. Whoever does that syncs it: it is whole, and
    /// it is what counts. What a crash has left of the record's own is not whole, or the same.
    fn is_newer(&self, path: &Path, record: &Record) -> Result<bool, QueueError> {
        match read_envelope_text(&*self.disk, path) {
            Ok(text) => Ok(text != record.envelope && parse_envelope(&text, &record.id).is_ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(fault("read", path)(error)),
        }
    }

    /// Makes a file with this content. What an attempt before this one left there goes.
    fn write(&self, path: &Path, content: &[u8]) -> Result<(), QueueError> {
        let file = match self.disk.create_file(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.remove_file(path).map_err(fault("remove", path))?;
                self.disk.create_file(path)
            }
            other => other,
        };
        let mut file = file.map_err(fault("create", path))?;
        file.append(content).map_err(fault("write", path))
    }

    fn exists(&self, path: &Path) -> Result<bool, QueueError> {
        let length = self.disk.length(path).map_err(fault("look at", path))?;
        Ok(length.is_some())
    }

    /// Renames a file; one that is not there was renamed before.
    fn rename_if_there(&self, from: &Path, to: &Path) -> Result<(), QueueError> {
        match self.disk.rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(fault("rename to", to)(error))
            }
            _ => Ok(()),
        }
    }

    fn remove_if_there(&self, path: &Path) -> Result<(), QueueError> {
        match self.disk.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(fault("remove", path)(error))
            }
            _ => Ok(()),
        }
    }
}

impl Intent {
    fn encode(&self) -> [u8; INTENT_BYTES] {
        let mut bytes = [0; INTENT_BYTES];
        bytes[..8].copy_from_slice(INTENT_MAGIC);
        bytes[8..24].copy_from_slice(&self.boot);
        bytes[24..32].copy_from_slice(&self.batch.to_le_bytes());
        bytes[32] = u8::from(self.lost);
        let checksum = crc32fast::hash(&bytes[..36]);
        bytes[36..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (fields, checksum) = bytes.split_at_checked(36)?;
        let whole =
            fields.starts_with(INTENT_MAGIC) && checksum == crc32fast::hash(fields).to_le_bytes();
        Some(Self {
            boot: fields[8..24].try_into().ok()?,
            batch: u64::from_le_bytes(fields[24..32].try_into().ok()?),
            lost: fields[32] != 0,
        })
        .filter(|_| whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intent_comes_back_or_not_at_all() {
        let intent = Intent {
            boot: [5; 16],
            batch: 77,
            lost: true,
        };
        let bytes = intent.encode();
        assert_eq!(Intent::decode(&bytes), Some(intent));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Intent::decode(&damaged), None, "bit {bit}");
        }
        assert_eq!(Intent::decode(&bytes[..20]), None);
        assert_eq!(Intent::decode(&[0; INTENT_BYTES]), None);
    }
}
