//! Puts the queue directory in order when it is opened: the last column of the table in `queue.rs`.
//!
//! Removes only what was never acknowledged, or what its consumer or the operator began to remove. What it cannot
//! explain it leaves alone and reports. Doing it twice, or being interrupted by another crash, does no harm.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::diagnostic::Finding;
use crate::envelope::{Envelope, HoldReason, MessageId};

use super::directory::lock_moves;
use super::disk::Disk;
use super::layout::{EnvelopeFault, Layout, Part, Place, parse_file_name, read_envelope};
use super::release::Timers;
use super::{QueueError, fault};

/// Findings that are kept; a directory with more of them needs a look in any case.
const FINDINGS_MAX: usize = 100;

/// What opening the queue directory found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Messages in `ready/`, those with an unreadable envelope included.
    pub queued: u64,
    /// Messages in `hold/`, likewise.
    pub held: u64,
    /// Files removed: unfinished messages, and what was left of finished ones.
    pub removed: u64,
    /// Moves to `hold/` that were finished.
    pub moved: u64,
    /// Messages that the journal gave back to the directories.
    pub replayed: u64,
    /// What the operator should know of. All are warnings: the spool works.
    pub findings: Vec<Finding>,
}

/// Which files of one id there are.
#[derive(Clone, Copy, Default)]
struct Files {
    ready_message: bool,
    ready_envelope: bool,
    hold_message: bool,
    hold_envelope: bool,
}

/// `timers` hears of what is held until some time.
pub(super) fn recover(
    disk: &dyn Disk,
    layout: &Layout,
    timers: &Timers,
) -> Result<Recovered, QueueError> {
    let mut recovery = Recovery {
        disk,
        layout,
        timers,
        recovered: Recovered::default(),
        findings_left_out: 0,
    };
    recovery.clear_drafts()?;
    match lock_moves(disk, layout) {
        Ok(_guard) => recovery.sort_messages()?,
        // A command that was stopped in the middle must not keep the daemon from starting.
        Err(QueueError::Busy { .. }) => {
            timers.forget();
            recovery.report(
                Finding::warning(
                    "another command is moving messages: what a crash may have left is not cleared up",
                )
                .in_file(&layout.root)
                .hint("it will be at the next start"),
            );
        }
        Err(error) => return Err(error),
    }
    // Also for the sake of a process that died between a rename and its sync: what we count is on stable storage.
    for place in [Place::Ready, Place::Hold] {
        let directory = layout.directory(place);
        disk.sync_directory(&directory)
            .map_err(fault("sync", &directory))?;
    }
    Ok(recovery.finish())
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    layout: &'a Layout,
    timers: &'a Timers,
    recovered: Recovered,
    findings_left_out: usize,
}

impl Recovery<'_> {
    /// Removes the unfinished messages of the process before us. The lock says that it is gone.
    fn clear_drafts(&mut self) -> Result<(), QueueError> {
        let drafts = &self.layout.drafts;
        for entry in list(self.disk, drafts)? {
            let path = drafts.join(&entry.name);
            if entry.is_file {
                self.remove(&path)?;
            } else {
                self.report_foreign(&path);
            }
        }
        Ok(())
    }

    fn sort_messages(&mut self) -> Result<(), QueueError> {
        let mut messages: BTreeMap<MessageId, Files> = BTreeMap::new();
        for place in [Place::Ready, Place::Hold] {
            let directory = self.layout.directory(place);
            for entry in list(self.disk, &directory)? {
                let parsed = parse_file_name(&entry.name).filter(|_| entry.is_file);
                let Some((id, part)) = parsed else {
                    self.report_foreign(&directory.join(&entry.name));
                    continue;
                };
                let files = messages.entry(id).or_default();
                match (place, part) {
                    (Place::Ready, Part::Message) => files.ready_message = true,
                    (Place::Ready, Part::Envelope) => files.ready_envelope = true,
                    (Place::Hold, Part::Message) => files.hold_message = true,
                    (Place::Hold, Part::Envelope) => files.hold_envelope = true,
                }
            }
        }
        for (id, files) in messages {
            self.sort_message(&id, files)?;
        }
        Ok(())
    }

    fn sort_message(&mut self, id: &MessageId, files: Files) -> Result<(), QueueError> {
        let path = |place, part| self.layout.file(place, id, part);
        let Files {
            ready_message,
            ready_envelope,
            hold_message,
            hold_envelope,
        } = files;
        match (ready_message, ready_envelope, hold_message, hold_envelope) {
            // S1
            (true, false, false, false) => self.remove(&path(Place::Ready, Part::Message))?,
            // S2
            (true, true, false, false) => self.keep(Place::Ready, id),
            // S3
            (false, true, false, false) => {
                let envelope = path(Place::Ready, Part::Envelope);
                match read_envelope(self.disk, &envelope, id) {
                    Ok(_) => self.remove_lone(&envelope)?,
                    // Seen onward between our look and now.
                    Err(EnvelopeFault::Missing) => {}
                    Err(EnvelopeFault::Unreadable(reason)) => {
                        self.report_unreadable(&envelope, &reason);
                    }
                }
            }
            // H1
            (false, false, true, false) => self.remove(&path(Place::Hold, Part::Message))?,
            // H2
            (false, false, true, true) => self.keep(Place::Hold, id),
            // H3
            (false, false, false, true) => {
                let envelope = path(Place::Hold, Part::Envelope);
                match read_envelope(self.disk, &envelope, id) {
                    Ok(Envelope {
                        hold: Some(hold), ..
                    }) if !matches!(hold.reason, HoldReason::Contained | HoldReason::Operator) => {
                        self.remove_lone(&envelope)?;
                    }
                    _ => self.report(
                        Finding::warning("an envelope in hold whose message is gone")
                            .in_file(&envelope)
                            .hint(format!("`gatepost queue remove {id}` removes the envelope")),
                    ),
                }
            }
            // M1
            (true, false, false, true) => {
                self.complete_hold(id, Part::Message)?;
                self.keep(Place::Hold, id);
            }
            // M2
            (false, true, true, false) => {
                self.complete_hold(id, Part::Envelope)?;
                self.report(
                    Finding::warning(
                        "the message was in hold and its envelope in ready: both are in hold now",
                    )
                    .in_file(&path(Place::Hold, Part::Envelope))
                    .hint(format!("`gatepost queue release {id}` sends it on its way")),
                );
                self.keep(Place::Hold, id);
            }
            _ => {
                self.recovered.queued += u64::from(ready_envelope);
                self.report(
                    Finding::warning(format!(
                        "files of the message {id} are in ready and in hold at the same time"
                    ))
                    .in_file(&self.layout.root)
                    .hint("gatepost does not do that; keep the pair that is right and remove the other"),
                );
            }
        }
        Ok(())
    }

    fn remove_lone(&mut self, envelope: &Path) -> Result<(), QueueError> {
        self.remove(envelope)?;
        self.report(
            Finding::warning(
                "an envelope without its message, left by a crash before the message was accepted: removed",
            )
            .in_file(envelope),
        );
        Ok(())
    }

    /// A message that stays; says so if it looks damaged.
    fn keep(&mut self, place: Place, id: &MessageId) {
        match place {
            Place::Hold => self.recovered.held += 1,
            Place::Ready => self.recovered.queued += 1,
        }
        let path = self.layout.file(place, id, Part::Envelope);
        let envelope = match read_envelope(self.disk, &path, id) {
            Ok(envelope) => envelope,
            Err(EnvelopeFault::Missing) => return,
            Err(EnvelopeFault::Unreadable(reason)) => {
                self.report_unreadable(&path, &reason);
                return;
            }
        };
        if place == Place::Hold
            && let Some(until) = envelope.hold.and_then(|hold| hold.releases_at())
        {
            self.timers.set(until, id.clone());
        }
        let message = self.layout.file(place, id, Part::Message);
        let problem = match self.disk.length(&message) {
            Ok(Some(length)) if length != envelope.size => format!(
                "the message has {length} octets, its envelope says {}",
                envelope.size
            ),
            Ok(_) => return,
            Err(error) => format!("cannot look at the message: {error}"),
        };
        self.report(
            Finding::warning(problem)
                .in_file(&message)
                .hint("the disk or somebody else changed it; compare it with what the sender has"),
        );
    }

    fn complete_hold(&mut self, id: &MessageId, part: Part) -> Result<(), QueueError> {
        let to = self.layout.file(Place::Hold, id, part);
        self.disk
            .rename(&self.layout.file(Place::Ready, id, part), &to)
            .map_err(fault("rename to", &to))?;
        self.recovered.moved += 1;
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> Result<(), QueueError> {
        match self.disk.remove_file(path) {
            Ok(()) => self.recovered.removed += 1,
            // Whoever sees messages onward may be at work already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fault("remove", path)(error)),
        }
        Ok(())
    }

    fn report_foreign(&mut self, path: &Path) {
        self.report(
            Finding::warning("not a file of gatepost's: left alone")
                .in_file(path)
                .hint("the queue directory is no place for other files"),
        );
    }

    fn report_unreadable(&mut self, path: &Path, reason: &str) {
        self.report(
            Finding::warning(format!("cannot read the envelope: {reason}"))
                .in_file(path)
                .hint(
                    "gatepost leaves it as it is; `gatepost queue export` still gives the message",
                ),
        );
    }

    fn report(&mut self, finding: Finding) {
        if self.recovered.findings.len() < FINDINGS_MAX {
            self.recovered.findings.push(finding);
        } else {
            self.findings_left_out += 1;
        }
    }

    fn finish(mut self) -> Recovered {
        if self.findings_left_out > 0 {
            self.recovered.findings.push(
                Finding::warning(format!("and {} more like these", self.findings_left_out))
                    .in_file(&self.layout.root),
            );
        }
        self.recovered
    }
}

fn list(disk: &dyn Disk, path: &Path) -> Result<Vec<super::disk::DirectoryEntry>, QueueError> {
    disk.list_directory(path).map_err(fault("list", path))
}
