//! The [`Journal`]: makes many small messages durable with one sync.
//!
//! It is a handful of segments, files of one size under `journal/` that are written once with zeros and from then on
//! only ever in place, so that a sync of one waits for its octets and for nothing else. Messages come in *batches*: one
//! write, one sync. What the octets mean is in `journal/batch.rs`, how they are found again in `journal/scan.rs`, why
//! it is safe in `queue.rs`.

mod batch;
mod scan;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostic::Finding;

pub(super) use batch::Record;
use batch::{JournalId, PAGE, SegmentHeader};

use super::disk::{BlockFile, Disk, Machine};
use super::layout::NEW_SEGMENT;
use super::{QueueError, SpoolSettings, fault};

/// Fewer segments than this would leave no room to write while another is waiting to be covered.
const SEGMENTS_MIN: u64 = 2;
/// Octets of the records of one batch: what one write takes at most, and what is held in memory for it.
const BATCH_BYTES_MAX: u64 = 1024 * 1024;
/// Octets of one record. Only an envelope of many hundred recipients can make a message that is held in memory larger.
const RECORD_BYTES_MAX: u64 = 512 * 1024;
/// A segment has room for some batches of the largest kind.
const BATCHES_PER_SEGMENT_MIN: u64 = 4;

/// How large the journal and its parts are, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    segment: u64,
    segments_max: u64,
}

impl Sizes {
    pub(super) fn new(settings: &SpoolSettings) -> Self {
        let segment = settings.segment_size.next_multiple_of(PAGE as u64);
        Self {
            segment,
            segments_max: (settings.journal_size / segment).max(SEGMENTS_MIN),
        }
    }

    /// What the records of one batch take at most, if it has more than one.
    pub(super) fn batch_bytes_max(self) -> usize {
        (self.segment / BATCHES_PER_SEGMENT_MIN).min(BATCH_BYTES_MAX) as usize
    }

    /// What one record takes at most.
    pub(super) fn record_bytes_max(self) -> usize {
        (self.segment / BATCHES_PER_SEGMENT_MIN).min(RECORD_BYTES_MAX) as usize
    }
}

/// The journal of a queue, open for writing.
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    id: JournalId,
    host: String,
    /// By the number in their name.
    segments: BTreeMap<u64, Segment>,
    /// The segment that is being written.
    current: Option<u64>,
    sizes: Sizes,
    /// The number of the next batch, whatever becomes of it.
    next: u64,
    /// The last batch that counts.
    previous: u64,
    /// Batches up to this one are on stable storage elsewhere.
    covered: u64,
    /// The greatest such number that a batch in the journal says.
    recorded: u64,
    /// Where the batches with records are that are not covered.
    uncovered: VecDeque<Location>,
    /// A batch that does not count may be readable: the next one has to say so before anything else happens.
    doubtful: bool,
    buffer: Vec<u8>,
}

struct Segment {
    path: PathBuf,
    file: Box<dyn BlockFile>,
    /// Where the next batch goes.
    end: u64,
    /// The greatest number of a batch in it.
    last: u64,
    /// Whether it may be written to again.
    trusted: bool,
}

impl Segment {
    /// Makes a batch unreadable for whoever comes after this process. Not for good: that takes a batch behind it which
    /// does not know it. But that one may have to wait for a disk that works.
    fn erase(&mut self, offset: u64) {
        let _ = self.file.write_at(offset, batch::ERASED_MAGIC);
    }
}

/// How badly a batch is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It can wait until there is room.
    Ordinary,
    /// It makes room, or keeps the promise; the journal may become larger by it.
    Urgent,
}

/// Where a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Location {
    number: u64,
    previous: u64,
    segment: u64,
    offset: u64,
    bytes: usize,
}

/// What is known of a journal after it has been read, and what is to be done about it.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// What the operator should know of.
    pub(super) findings: Vec<Finding>,
    /// Segments that are kept for a closer look once their content is replayed.
    aside: Vec<u64>,
    /// Segments that are removed then: there is nothing wrong with them, but they are not to be used again.
    obsolete: Vec<u64>,
}

impl Journal {
    /// Reads what is in `directory`, which has to exist. `announced` is a batch that is known to have been durable.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        directory: &Path,
        sizes: Sizes,
        machine: &Machine,
        announced: u64,
    ) -> Result<(Self, Opened), QueueError> {
        let new = directory.join(NEW_SEGMENT);
        if disk.length(&new).map_err(fault("look at", &new))?.is_some() {
            disk.remove_file(&new).map_err(fault("remove", &new))?;
        }
        let found = scan::scan(&**disk, directory, sizes.segment)?;
        let mut opened = Opened::default();
        let chain = found.chain(announced, machine, directory, &mut opened);
        let mut journal = Self {
            disk: Arc::clone(disk),
            directory: directory.to_owned(),
            id: found.journal.map_or_else(random_id, Ok)?,
            host: machine.host.clone(),
            current: None,
            sizes,
            next: found.greatest().max(announced) + 1,
            previous: chain.tip,
            covered: chain.covered,
            recorded: chain.covered,
            uncovered: chain.batches,
            doubtful: false,
            buffer: Vec::new(),
            segments: found.into_segments(),
        };
        // A process that was killed may have left what was read in the kernel's memory alone.
        for segment in journal.segments.values_mut() {
            segment.file.sync().map_err(fault("sync", &segment.path))?;
        }
        Ok((journal, opened))
    }

    /// The number of the last batch that counts.
    pub(super) fn last(&self) -> u64 {
        self.previous
    }

    /// The batches with messages that are not covered, in order.
    pub(super) fn uncovered(&self) -> Vec<u64> {
        self.uncovered.iter().map(|found| found.number).collect()
    }

    /// Whether more than half of its room is taken by what is not covered.
    pub(super) fn is_half_full(&self) -> bool {
        let segments = self.segments.values();
        let taken = segments.filter(|segment| segment.last > self.covered);
        taken.count() as u64 * 2 > self.sizes.segments_max
    }

    /// Changes how large it may get. What is more now goes when the queue is opened the next time.
    pub(super) fn resize(&mut self, sizes: Sizes) {
        self.sizes.segments_max = sizes.segments_max;
    }

    /// Makes the records durable: when this is `Ok`, they are. Gives the number of their batch.
    ///
    /// After an error they are not, and will not come back, unless the disk refuses even to write that down; then they
    /// may. [`QueueError::JournalFull`] means that nothing was tried, and that something has to be covered first.
    pub(super) fn append(&mut self, records: &[Record]) -> Result<u64, QueueError> {
        self.settle_doubts()?;
        let result = self.write(records, Need::Ordinary);
        if self.doubtful {
            // The error that is told is the one that came first.
            let _ = self.settle_doubts();
        }
        result
    }

    /// Takes a batch and all after it back: they do not count any more. What is to stay of them is in a batch of its own
    /// from now on, whose number it gives.
    ///
    /// That is durable when this is `Ok`. After an error nothing of them counts, but they may come back if the machine
    /// fails before it has become possible to write that down.
    pub(super) fn withdraw(&mut self, number: u64, stays: &[Record]) -> Result<u64, QueueError> {
        while let Some(last) = self.uncovered.back()
            && last.number >= number
        {
            self.previous = last.previous;
            self.doubtful = true;
            if let Some(segment) = self.segments.get_mut(&last.segment) {
                segment.erase(last.offset);
            }
            self.uncovered.pop_back();
        }
        let number = self.write(stays, Need::Urgent)?;
        self.doubtful = false;
        Ok(number)
    }

    /// Writes down that batches up to `number` are on stable storage elsewhere.
    pub(super) fn cover(&mut self, number: u64) -> Result<(), QueueError> {
        let before = self.covered;
        self.covered = before.max(number);
        let settled = self.settle_doubts();
        if let Err(error) = settled.and_then(|()| self.write(&[], Need::Urgent)) {
            self.covered = before;
            return Err(error);
        }
        while let Some(first) = self.uncovered.front()
            && first.number <= self.covered
        {
            self.uncovered.pop_front();
        }
        Ok(())
    }

    /// Reads a batch back.
    pub(super) fn read(&self, number: u64) -> Result<Vec<Record>, QueueError> {
        let place = self.uncovered.iter().find(|found| found.number == number);
        let Some((place, segment)) =
            place.and_then(|place| Some((place, self.segments.get(&place.segment)?)))
        else {
            return Ok(Vec::new());
        };
        let mut bytes = vec![0; place.bytes];
        segment
            .file
            .read_at(place.offset, &mut bytes)
            .map_err(fault("read", &segment.path))?;
        match batch::decode(&bytes) {
            Some((header, records)) if header.number == number => Ok(records),
            _ => Err(fault("read a batch of", &segment.path)(
                std::io::ErrorKind::InvalidData.into(),
            )),
        }
    }

    /// Ends the recovery of what was opened: everything in it has been replayed and is on stable storage. `false`: there
    /// was no room to write that down, and it stays uncovered.
    pub(super) fn finish(&mut self, opened: &Opened, aside: &Path) -> Result<bool, QueueError> {
        for name in opened.aside.iter().chain(&opened.obsolete) {
            if let Some(segment) = self.segments.get_mut(name) {
                segment.trusted = false;
            }
        }
        if !self.uncovered.is_empty() || !opened.aside.is_empty() {
            match self.cover(self.previous) {
                // It is all in the directories, and stays in the journal too until there is room.
                Err(QueueError::OutOfSpace { .. }) => return Ok(false),
                other => other?,
            }
        }
        for name in &opened.aside {
            if let Some(segment) = self.segments.remove(name) {
                keep_aside(&*self.disk, &segment.path, aside)?;
            }
        }
        let excess = (self.segments.len() as u64).saturating_sub(self.sizes.segments_max);
        for segment in self.segments.values_mut().take(excess as usize) {
            segment.trusted = false;
        }
        self.clear_away();
        Ok(true)
    }

    /// Removes the segments that will not be written to again and that nothing is needed of.
    pub(super) fn clear_away(&mut self) {
        let names: Vec<u64> = self
            .segments
            .iter()
            .filter(|(name, segment)| !segment.trusted && self.is_free(**name))
            .map(|(name, _)| *name)
            .collect();
        for name in names {
            // One that cannot be removed stays where it is and counts as before.
            if let Some(segment) = self.segments.get(&name)
                && self.disk.remove_file(&segment.path).is_ok()
            {
                self.segments.remove(&name);
            }
        }
    }

    /// Makes sure that a batch that failed does not count, by a batch after it that does not know it.
    fn settle_doubts(&mut self) -> Result<(), QueueError> {
        if self.doubtful {
            self.write(&[], Need::Urgent)?;
            self.doubtful = false;
        }
        Ok(())
    }

    fn write(&mut self, records: &[Record], need: Need) -> Result<u64, QueueError> {
        let numbers = [self.next, self.previous, self.covered];
        let mut buffer = std::mem::take(&mut self.buffer);
        batch::encode(&mut buffer, &self.id, numbers, records);
        let result = self.write_batch(&buffer, !records.is_empty(), need);
        self.buffer = buffer;
        result
    }

    fn write_batch(
        &mut self,
        bytes: &[u8],
        has_records: bool,
        need: Need,
    ) -> Result<u64, QueueError> {
        let name = self.segment_for(bytes.len() as u64, need)?;
        let Some(segment) = self.segments.get_mut(&name) else {
            return Err(QueueError::Abandoned);
        };
        // Numbers are never used twice, or a batch that failed could be taken for its successor.
        let number = self.next;
        self.next += 1;
        let written = segment
            .file
            .write_at(segment.end, bytes)
            .map_err(fault("write", &segment.path))
            .and_then(|()| segment.file.sync().map_err(fault("sync", &segment.path)));
        if let Err(error) = written {
            // What the kernel holds of this file is no longer what the disk has: it is not written to again. What was
            // synced before is good.
            segment.erase(segment.end);
            segment.trusted = false;
            segment.last = number;
            self.current = None;
            self.doubtful = true;
            return Err(error);
        }
        if has_records {
            self.uncovered.push_back(Location {
                number,
                previous: self.previous,
                segment: name,
                offset: segment.end,
                bytes: bytes.len(),
            });
        }
        segment.end += bytes.len() as u64;
        segment.last = number;
        self.recorded = self.covered;
        self.previous = number;
        Ok(number)
    }

    /// The segment that takes so many octets next. What is ordinary leaves a page for a batch that says what is covered,
    /// which should not need a new segment.
    fn segment_for(&mut self, bytes: u64, need: Need) -> Result<u64, QueueError> {
        let reserve = match need {
            Need::Ordinary => PAGE as u64,
            Need::Urgent => 0,
        };
        if let Some(name) = self.current
            && let Some(segment) = self.segments.get(&name)
            && segment.end + bytes + reserve <= self.sizes.segment
        {
            return Ok(name);
        }
        let free = self
            .segments
            .iter()
            .find(|(name, segment)| segment.trusted && self.is_free(**name))
            .map(|(name, _)| *name);
        let name = match free {
            Some(name) => name,
            None if (self.segments.len() as u64) < self.sizes.segments_max => {
                self.create_segment()?
            }
            None if need == Need::Urgent => self.create_segment()?,
            None => {
                return Err(QueueError::JournalFull {
                    directory: self.directory.clone(),
                });
            }
        };
        if let Some(segment) = self.segments.get_mut(&name) {
            segment.end = PAGE as u64;
            segment.last = 0;
        }
        self.current = Some(name);
        Ok(name)
    }

    /// Whether nothing in the segment is needed. The batch that says so is greater than all that it covers, so it is never
    /// in a segment that is free itself.
    fn is_free(&self, name: u64) -> bool {
        let last = self.segments.get(&name).map_or(0, |segment| segment.last);
        self.current != Some(name) && last <= self.recorded
    }

    fn create_segment(&mut self) -> Result<u64, QueueError> {
        let name = self.segments.keys().next_back().map_or(1, |last| last + 1);
        let path = self.directory.join(scan::segment_name(name));
        // What has a segment's name is a whole segment.
        let new = self.directory.join(NEW_SEGMENT);
        let header = SegmentHeader {
            journal: self.id,
            host: self.host.clone(),
        };
        let create = || -> Result<Box<dyn BlockFile>, QueueError> {
            let mut file = self
                .disk
                .create_block_file(&new, self.sizes.segment)
                .map_err(fault("create", &new))?;
            file.write_at(0, &header.encode())
                .map_err(fault("write", &new))?;
            file.sync().map_err(fault("sync", &new))?;
            self.disk
                .rename(&new, &path)
                .map_err(fault("rename to", &path))?;
            self.disk
                .sync_directory(&self.directory)
                .map_err(fault("sync", &self.directory))?;
            Ok(file)
        };
        match create() {
            Ok(file) => {
                let segment = Segment {
                    path,
                    file,
                    end: PAGE as u64,
                    last: 0,
                    trusted: true,
                };
                self.segments.insert(name, segment);
                Ok(name)
            }
            Err(error) => {
                for path in [&new, &path] {
                    let _ = self.disk.remove_file(path);
                }
                Err(error)
            }
        }
    }
}

fn random_id() -> Result<JournalId, QueueError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| QueueError::Interrupted(error.to_string()))?;
    Ok(id)
}

/// Moves a file to the directory `aside`, under a name that is not taken there.
fn keep_aside(disk: &dyn Disk, path: &Path, aside: &Path) -> Result<(), QueueError> {
    disk.create_directory(aside)
        .map_err(fault("make the directory", aside))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for attempt in 1..=u32::MAX {
        let kept = aside.join(format!("{name}.{attempt}"));
        if disk
            .length(&kept)
            .map_err(fault("look at", &kept))?
            .is_none()
        {
            return disk.rename(path, &kept).map_err(fault("rename to", &kept));
        }
    }
    Ok(())
}
