//! Reads the segments of a journal: which batches are there, which of them count, and what is missing.
//!
//! Changes nothing on the disk.
//!
//! Every batch names the one before it. So the batches that count are found from the last one backwards, as far as
//! what is not covered: one that failed, and may be readable all the same, is not on that way; one that is on the way
//! and cannot be read is damage. Behind the last one there may be the beginning of another that was being written when
//! the power went. That is no damage: its messages had not been acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use crate::diagnostic::Finding;

use super::super::disk::{BlockFile, Disk, Machine};
use super::super::{QueueError, fault};
use super::batch::{self, Header, JournalId, PAGE, SegmentFault, SegmentHeader};
use super::{Location, Opened, Segment};

/// The file name of a segment.
pub(super) fn segment_name(number: u64) -> String {
    format!("{number:010}.segment")
}

fn parse_segment_name(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".segment")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

/// What is in the directory of a journal.
pub(super) struct Found {
    /// Which journal it is; `None` if there is none.
    pub(super) journal: Option<JournalId>,
    segments: BTreeMap<u64, FoundSegment>,
    /// The whole batches of this journal.
    batches: BTreeMap<u64, (Header, Location)>,
    /// Names in the directory that are not the journal's.
    foreign: Vec<PathBuf>,
    /// What a segment has.
    segment_bytes: u64,
}

struct FoundSegment {
    path: PathBuf,
    file: Box<dyn BlockFile>,
    length: u64,
    header: Result<SegmentHeader, SegmentFault>,
    /// Whole batches, and where they begin.
    batches: Vec<(Header, u64)>,
    /// Batches that begin here and are not whole.
    broken: Vec<Header>,
    /// The numbers of batches that were erased.
    erased: Vec<u64>,
}

/// The batches that count and are not covered.
pub(super) struct Chain {
    /// The last batch that counts.
    pub(super) tip: u64,
    pub(super) covered: u64,
    pub(super) batches: VecDeque<Location>,
}

pub(super) fn scan(
    disk: &dyn Disk,
    directory: &Path,
    segment_bytes: u64,
) -> Result<Found, QueueError> {
    let mut segments = BTreeMap::new();
    let mut foreign = Vec::new();
    let entries = disk
        .list_directory(directory)
        .map_err(fault("list", directory))?;
    for entry in entries {
        let path = directory.join(&entry.name);
        match entry.name.to_str().and_then(parse_segment_name) {
            Some(number) if entry.is_file => {
                segments.insert(number, read_segment(disk, path, segment_bytes)?);
            }
            _ if super::super::layout::is_journal_name(&entry.name) => {}
            _ => foreign.push(path),
        }
    }
    let journal = choose(&segments);
    let mut batches = BTreeMap::new();
    for (name, segment) in &segments {
        for (header, offset) in &segment.batches {
            if Some(header.journal) == journal {
                let location = Location {
                    number: header.number,
                    previous: header.previous,
                    segment: *name,
                    offset: *offset,
                    bytes: header.padded_bytes(),
                };
                batches.insert(header.number, (*header, location));
            }
        }
    }
    Ok(Found {
        journal,
        segments,
        batches,
        foreign,
        segment_bytes,
    })
}

fn read_segment(
    disk: &dyn Disk,
    path: PathBuf,
    segment_bytes: u64,
) -> Result<FoundSegment, QueueError> {
    let length = disk
        .length(&path)
        .map_err(fault("look at", &path))?
        .unwrap_or(0);
    let file = disk.open_block_file(&path).map_err(fault("open", &path))?;
    let mut bytes = vec![0; length.min(segment_bytes) as usize];
    let read = file.read_at(0, &mut bytes).map_err(fault("read", &path))?;
    bytes.truncate(read);
    let header = SegmentHeader::decode(&bytes);
    if let Err(SegmentFault::Version(version)) = header {
        return Err(QueueError::JournalVersion { path, version });
    }
    let (mut batches, mut broken, mut erased) = (Vec::new(), Vec::new(), Vec::new());
    let mut offset = PAGE;
    while let Some(rest) = bytes.get(offset..)
        && !rest.is_empty()
    {
        if let Some(header) = batch::decode_header(rest) {
            batches.push((header, offset as u64));
            offset += header.padded_bytes();
        } else {
            broken.extend(batch::claimed_header(rest));
            erased.extend(batch::erased_number(rest));
            offset += PAGE;
        }
    }
    Ok(FoundSegment {
        path,
        file,
        length,
        header,
        batches,
        broken,
        erased,
    })
}

/// Which journal the segments are of: that of the latest batch in a segment whose first page is whole and agrees, or
/// else of the latest right behind a first page. (Further on, the octets may be a message's.)
fn choose(segments: &BTreeMap<u64, FoundSegment>) -> Option<JournalId> {
    let headers = segments.values().filter_map(|segment| {
        let header = segment.header.as_ref().ok()?;
        let own = |found: &&(Header, u64)| found.0.journal == header.journal;
        let greatest = segment
            .batches
            .iter()
            .filter(own)
            .map(|found| found.0.number);
        Some((greatest.max().unwrap_or(0), header.journal))
    });
    let first = segments.values().filter_map(|segment| {
        let (header, offset) = segment.batches.first()?;
        (*offset == PAGE as u64).then_some((header.number, header.journal))
    });
    headers.max().or_else(|| first.max()).map(|(_, id)| id)
}

impl Found {
    /// The greatest number of a batch, whether it counts or not.
    pub(super) fn greatest(&self) -> u64 {
        let broken = self.segments.values().flat_map(|segment| &segment.broken);
        broken
            .filter(|header| Some(header.journal) == self.journal)
            .map(|header| header.number)
            .chain(self.batches.keys().copied())
            .max()
            .unwrap_or(0)
    }

    /// Goes from the last batch backwards, and says what is wrong. `announced` is a batch that was once durable.
    pub(super) fn chain(
        &self,
        announced: u64,
        machine: &Machine,
        directory: &Path,
        opened: &mut Opened,
    ) -> Chain {
        let tip = self.batches.keys().next_back().copied().unwrap_or(0);
        let covered = self.batches.values().map(|(header, _)| header.covered);
        let covered = covered.max().unwrap_or(0);
        let mut missing = Vec::new();
        let mut erased = self.segments.values().flat_map(|segment| &segment.erased);
        let is_erased = erased.any(|number| *number == announced);
        if announced > tip && announced > covered && !is_erased {
            missing.push((tip, announced));
        }
        let mut batches = VecDeque::new();
        let mut wanted = tip;
        while wanted > covered {
            // What is wanted, or the next that can be read if it cannot: too much rather than too little.
            let Some((number, (header, location))) = self.batches.range(..=wanted).next_back()
            else {
                missing.push((covered, wanted));
                break;
            };
            if *number < wanted {
                missing.push(((*number).max(covered), wanted));
            }
            if *number <= covered {
                break;
            }
            if header.records > 0 {
                batches.push_front(*location);
            }
            wanted = header.previous.min(number - 1);
        }
        self.report_missing(&missing, directory, opened);
        self.report_segments(machine, !batches.is_empty(), opened);
        let torn = self.segments.values().flat_map(|segment| &segment.broken);
        let torn = torn
            .filter(|header| Some(header.journal) == self.journal && header.number > tip)
            .map(|header| header.records)
            .max();
        if let (Some(records), []) = (torn, &missing[..]) {
            opened.findings.push(
                Finding::warning(format!(
                    "the journal ends in the middle of a write of {records} messages: none of them had been \
                     acknowledged, unless the disk damaged it later"
                ))
                .in_file(directory)
                .hint("nothing needs to be done after a power cut; otherwise look at the disk"),
            );
        }
        Chain {
            tip,
            covered,
            batches,
        }
    }

    fn report_missing(&self, missing: &[(u64, u64)], directory: &Path, opened: &mut Opened) {
        for (after, last) in missing {
            opened.findings.push(
                Finding::error(format!(
                    "the journal is damaged: its batches after {after} up to {last} cannot be read, and messages \
                     in them that had been acknowledged may be missing"
                ))
                .in_file(directory)
                .hint(
                    "its segments are kept in damaged/ beside it; look at the disk, and compare message.accepted in \
                     the log with what was seen onward",
                ),
            );
        }
        if !missing.is_empty() {
            opened.aside.extend(self.segments.keys());
        }
    }

    fn report_segments(&self, machine: &Machine, replays: bool, opened: &mut Opened) {
        let mut hosts = BTreeSet::new();
        for (name, segment) in &self.segments {
            let trouble = match &segment.header {
                Err(_) => Some("its first page is damaged".to_owned()),
                Ok(header) if Some(header.journal) != self.journal => {
                    Some("it is part of another queue's journal, and is not read".to_owned())
                }
                Ok(_) if segment.length != self.segment_bytes => Some(format!(
                    "it has {} octets in place of {}",
                    segment.length, self.segment_bytes
                )),
                Ok(header) => {
                    if header.host != machine.host {
                        hosts.insert(header.host.clone());
                        opened.obsolete.push(*name);
                    }
                    None
                }
            };
            if let Some(trouble) = trouble {
                opened.findings.push(
                    Finding::warning(format!(
                        "the segment of the journal is not as it was: {trouble}"
                    ))
                    .in_file(&segment.path)
                    .hint("it is kept in damaged/; what could be read of it is in the queue"),
                );
                opened.aside.push(*name);
            }
        }
        if replays && !hosts.is_empty() {
            let hosts: Vec<String> = hosts.into_iter().collect();
            opened.findings.push(
                Finding::warning(format!(
                    "messages in the journal were accepted on the machine {}; this is {}",
                    hosts.join(", "),
                    machine.host
                ))
                .hint(
                    "they are queued here now; if that machine still runs gatepost on a copy of this directory, they \
                     will be sent from both",
                ),
            );
        }
        for path in &self.foreign {
            opened.findings.push(
                Finding::warning("not a file of gatepost's: left alone")
                    .in_file(path)
                    .hint("the queue directory is no place for other files"),
            );
        }
    }

    pub(super) fn into_segments(self) -> BTreeMap<u64, Segment> {
        let (journal, segment_bytes) = (self.journal, self.segment_bytes);
        self.segments
            .into_iter()
            .map(|(name, found)| {
                let own = |header: &&Header| Some(header.journal) == journal;
                let headers = found.batches.iter().map(|(header, _)| header).filter(own);
                let segment = Segment {
                    path: found.path,
                    file: found.file,
                    end: segment_bytes,
                    last: headers.map(|header| header.number).max().unwrap_or(0),
                    trusted: found.length == segment_bytes && found.header.is_ok(),
                };
                (name, segment)
            })
            .collect()
    }
}
