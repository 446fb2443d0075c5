//! The queue directory: makes accepted messages durable, finds them again after a crash, and lets the operator look
//! after them.
//!
//! It owns everything below the queue directory. It knows nothing of sessions, sockets or configuration files, and it
//! sends nothing onward: whoever does that reads `ready/ID.json`, then `ready/ID.eml`, and when it has taken
//! responsibility removes the `.json` first and the `.eml` second.
//!
//! # The states of a message on disk
//!
//! A message is a pair of files of one name. It is queued exactly when its `.json` is in `ready/`. `+` is there, `-` is
//! not; the last column is what recovery does when the directory is opened, once the journal has been replayed.
//!
//! ```text
//!        ready/        hold/
//!     .eml  .json   .eml  .json   what it is                                         recovery
//! S0   -     -       -     -      nothing                                            -
//! S1   +     -       -     -      being committed or seen onward; litter later       removes the .eml
//! S2   +     +       -     -      queued: its 250 may be said                        keeps it
//! S3   -     +       -     -      left by a crash within a commit, before its 250    removes the .json, reports
//! H1   -     -       +     -      being removed from hold; litter later              removes the .eml
//! H2   -     -       +     +      held                                               keeps it
//! H3   -     -       -     +      held, and somebody took its .eml away; or like S3  reports; or like S3
//! M1   +     -       -     +      between ready and hold, either way                 moves the .eml to hold
//! M2   -     +       +     -      nothing of ours leaves this                        moves the .json to hold, reports
//!      any other combination      nothing of ours leaves this                        reports
//! ```
//!
//! H3 is like S3 where the envelope says that the message was accepted into `hold/` (see there, at the end).
//!
//! A `.json` that cannot be read is never deleted, whatever its row says; it is reported. So are files that are not
//! ours.
//!
//! # The two ways into the queue
//!
//! Small messages go through the *journal*, many with one sync: the writer takes all that wait, writes them as one batch,
//! syncs that, and only then are their files made. Large ones, which would fill the journal, get synced files of their
//! own. `ready/` looks the same for both.
//!
//! # The order of a commit through the journal
//!
//! ```text
//! 1  a batch of records is written to the journal                          fdatasync: durable, all of them
//! 2  ready/ID.eml and drafts/ID.json created and written, for each         not synced         S1
//! 3  journal/intent: this batch is announced                               not synced
//! 4  drafts/ID.json renamed to ready/ID.json, for each                     not synced         S2: the Receipts
//! 5  a checkpoint: the file system is synced, and a batch written to the journal (fdatasync) that says that the
//!    batches up to here are covered; their segments may be written over
//! ```
//!
//! *Why nobody waits longer than for one sync and their own:* whoever comes while a sync is under way is in the next
//! batch, with all others who came. Steps 2 to 4 of one batch run beside step 1 of the next.
//!
//! *Why 4 comes before the Receipt, though the message is durable after 1:* who has heard 250 may look into `ready/`.
//!
//! *A crash of the process* leaves what it wrote in the kernel's hands. The next process replays what is not covered:
//! of an announced batch, an envelope that is still among the drafts gets its name, and one that is not has had it, so
//! that what is not in `ready/` was seen onward and must not come back; of a batch that is not announced, nobody has
//! seen anything, and it is placed as if it were new. That is what the intent is for, and why it goes between 2 and 4.
//!
//! *A crash of the machine* may leave any of 2 to 4, in any order, cut short, or none. So all that is not covered is
//! written anew from the journal, wherever the message is by then: in `ready/`, or in `hold/`. The intent tells which
//! of the two crashes it was: it names the boot. What was seen onward after the last checkpoint comes back, since its
//! removal was not synced either: twice rather than never. Checkpoints come every few seconds, and when the journal is
//! half full, so that is little. What the operator removed does not come back: the command leaves a synced note in
//! `journal/gone/` first, which recovery obeys, and a checkpoint behind the message clears away.
//!
//! *A file system that fails and is mounted again without a boot in between* looks like a crash of the process, and is
//! not told apart.
//!
//! # What the journal promises
//!
//! ```text
//! batch in the journal                            what it is                          recovery
//! whole, reached from the last one, uncovered     durable; perhaps acknowledged       replays it
//! whole, reached, covered                         in the directories, or done with    -
//! whole, not reached                              failed or taken back                -
//! erased                                          the same                            -
//! not whole, behind the last one                  being written when the power went   reports it: nobody was answered
//! not whole or absent, on the way                 damaged after it was durable        reports it, keeps the segments
//! announced, and behind the last one              the same                            reports it, keeps the segments
//! ```
//!
//! *Why batches name the one before them:* a sync that fails leaves a batch that may be readable or not, now or after a
//! crash. Its messages are refused, and so it must not come back. It is erased, which helps against a crash of the
//! process, and the next batch, in another segment, is linked to the one before it, which helps for good: what cannot
//! be reached from the last batch does not count. The next batch is written at once, with nothing in it, before the
//! refusal is answered. Messages that cannot be placed (step 2 or 4 fails) are taken back in the same way, together
//! with the batches behind them; those of them that have been placed are in the batch that takes them back.
//!
//! *Why a segment is not written to again after an error:* what the kernel has in memory of that file and what the disk
//! has may differ from then on, and no later sync would tell. What was synced before is good, and is covered in time;
//! then the file goes.
//!
//! *Why a segment can be written over:* all in it is covered, and the batch that says so is in another segment: its number
//! is greater than those that it covers. What the segment itself says is lost with the first write.
//!
//! *If the sync of a checkpoint fails,* something that was placed and is not covered may be lost, and the next sync would
//! not say so. That is noted in the intent; the next checkpoint, of this process or another, writes all of it anew from
//! the journal first, in place, which cannot bring back what was seen onward.
//!
//! # The order of a commit of a large message
//!
//! ```text
//! 1  drafts/ID.eml    created, written, fsync
//! 2  drafts/ID.json   created, written, fsync
//! 3  drafts/ID.eml  renamed to ready/ID.eml         S1
//! 4  drafts/ID.json renamed to ready/ID.json        S2, for whoever looks now
//! 5  fsync(ready/)                                  S2, for good: the Receipt, and only now the 250
//! ```
//!
//! *Why drafts first:* a name in `ready/` then always stands for whole, durable content. A crash can only take names
//! away, never cut a file short.
//!
//! *Why the `.eml` before the `.json`:* whoever works on `ready/` meanwhile goes by the `.json`, and when it is there
//! the `.eml` is. *But a crash does not respect that order:* before step 5 any of the two renames may have reached the
//! disk, which gives S0, S1, S2 or S3. None of them has been acknowledged, so S1 and S3 may be removed, and S2 is a
//! message whose client will send it again: twice rather than never (RFC 5321 section 6.1 asks to keep that window
//! small, and it is: one fsync and one reply).
//!
//! *Why no fsync of `drafts/`:* nothing is ever recovered from there after a crash of the machine. If a rename is durable
//! on the side of `ready/` only, recovery removes the second name and the first one keeps the file.
//!
//! *If a step fails,* the message is refused and its files are removed, `.json` first. An fsync that failed is never
//! repeated on the same file: the kernel may have dropped the data and would say yes. If step 5 fails the names in
//! `ready/` are taken back. That is the best that can be done, not a guarantee: if the disk refuses that too, or the
//! power goes at this moment, a message may stay queued that the client was told to send again; and somebody working
//! on `ready/` may have taken it between steps 4 and 5.
//!
//! # The order of hold, release and remove
//!
//! ```text
//! hold      .json to hold/, fsync both directories; .eml to hold/, fsync both
//! release   .eml to ready/, fsync both directories; .json to ready/, fsync both
//! remove    journal/gone/ID made, fsync its directory; .json removed, fsync its directory; .eml removed, fsync
//! ```
//!
//! The `.json` is in one place at any moment, and it alone says whether the message is queued. `hold` takes it away
//! first, so that nobody begins to see a message onward whose content is leaving; `release` puts it there last, so that
//! the content is there before. Interrupted in the middle, both leave the same state M1, which counts as held: what
//! the operator withheld is not sent by accident, and either command can be given again. The fsync in the middle keeps
//! a crash from reordering the two moves, which would give M2 or S3 and in the end a message without content. Moves
//! and recovery exclude each other by `moves.lock`, since recovery would take half of a live move for litter.

//!
//! # Messages that are accepted into hold
//!
//! A message whose envelope has a field `hold` is withheld from the beginning: its sender wants it sent later, or a rule
//! wants it looked at first. It takes the same way as any other, with `hold/` in the place of `ready/` in every step, and
//! is at no moment in `ready/`. The journal's record need not say so, since the envelope in it does: placing and replay
//! read it there. Only if neither directory has a file of the message does replay go by that; otherwise by what it finds,
//! since the message may have been released, or held, in the meantime.
//!
//! `hold` says why (`reason`), and perhaps until when (`until`). Then the daemon makes the operator's release at that
//! time, with the same steps, for many messages at once: all `.eml`, a sync of both directories, all `.json`, and another.
//! What M1 is to the operator's release it is to this one, and it is tried again.
//!
//! *Who knows the times:* the envelopes in `hold/`, and nothing else. The daemon notes the time of each message when it
//! has placed it, and of those that it finds at its start; but a note is only a reason to look into the envelope, under
//! `moves.lock`. So nothing that is lost in memory, or that the operator does beside the daemon, leads to a wrong release;
//! and there is nothing on the disk beside the pair that would have to be kept in step with it.
//!
//! *Once:* a message that has been released is not in `hold/`, and cannot be released again; nor does replay put it back
//! there after a crash of the process. After a crash of the machine it does, if neither its release nor anything behind it
//! was covered, and its consumer had taken it: twice rather than never, as with any other message.
//!
//! *What the operator says counts:* `hold` puts its own reason, which has no time, into the envelope. That is written
//! anew, synced, and renamed over the old one, in `hold/` only: nobody else renames or removes it there, while in
//! `ready/` a consumer may remove it at the same moment, and would find it back. So a message in `ready/` keeps the
//! field, where it means nothing (but for the operator's own, which `release` takes away while the message is still in
//! `hold/`); and if it is held again, `hold` takes the time out after the first of its two moves. (Cut off in between,
//! it may be released by its old time at the next start, as if the command had not been given.) The journal still has
//! the envelope as it was: replay and checkpoints leave an envelope alone that is whole and another, since whoever
//! wrote that has synced it. `release` lets it go before its time, and `remove` removes it.
//!
//! With the `reason` `over-limit` it waits for room under the limits of its account, and for `until` as well, if there is
//! one. The queue knows nothing of limits: whoever does asks for the release of the first ones of an account, and says of
//! each, when it is certain that it still waits, whether it may go ([`Spool::release_over_limit`]). Then it leaves with the
//! same steps, in the order of the ids; if its time has not come, it waits for that alone from then on. A crash in
//! the middle leaves what it leaves of any other release; what it used up of the limits is used up once more then.
//!
//! *If the clock is set,* messages are released when it says so: early by as much as it was set forward, which nobody can
//! tell from a daemon that was away for so long; and late if it was set back.

mod backlog;
mod containment;
mod directory;
pub mod disk;
mod draft;
mod journal;
mod layout;
mod pipeline;
mod placing;
mod recovery;
mod release;
mod repetition;
mod replay;
mod room;
mod spool;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::decision::Refusal;
use crate::diagnostic::Finding;
use crate::envelope::MessageId;
use crate::smtp::reply::Reply;

pub use backlog::{Departure, OverLimit};
pub use containment::{Afterwards, Freed};
pub use directory::{Entry, QueueDirectory};
pub use draft::Draft;
pub use layout::Place;
pub use recovery::Recovered;
pub use release::Released;
pub use spool::Spool;

/// What the operator can set about the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolSettings {
    /// The queue directory.
    pub directory: PathBuf,
    /// Octets that stay free on its file system.
    pub minimum_free: u64,
    /// Octets that the journal may take there; rounded down to whole segments, of which there are at least two.
    pub journal_size: u64,
    /// Octets of each of the files that the journal consists of. Small enough that a queue with little traffic takes
    /// little room, large enough that changing from one to the next is rare. Tests want less.
    pub segment_size: u64,
    /// How long a message may wait until its turn to be written comes.
    pub commit_timeout: Duration,
    /// How long a message is remembered whose client may not know that it was queued; `None`: not at all.
    pub duplicate_window: Option<Duration>,
}

impl SpoolSettings {
    /// The defaults for a queue in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            minimum_free: 64 << 20,
            journal_size: 64 << 20,
            segment_size: 4 << 20,
            commit_timeout: Duration::from_secs(30),
            duplicate_window: Some(Duration::from_secs(10 * 60)),
        }
    }
}

/// Something that concerns the queue as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpoolEvent {
    /// A part of it has recovered from its trouble.
    Recovered {
        /// Which part: `journal`, `ready`, `checkpoint` or `release`.
        part: &'static str,
    },
    /// A part of it does not work; it is tried again, without anybody's doing.
    Trouble {
        /// Which part.
        part: &'static str,
        /// What went wrong first.
        reason: String,
    },
}

/// What can go wrong with the queue. All of it is our fault or the operator's, none of it a client's.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The draft met a fault before, or one of its operations was dropped in the middle: what it has is not the
    /// message any more.
    #[error("the draft was given up after an earlier fault or an interrupted operation")]
    Abandoned,
    /// Several messages met this together.
    #[error(transparent)]
    Batch(Arc<Self>),
    /// Another command is moving messages and did not end in time.
    #[error("another command is at work in {directory}")]
    Busy {
        /// The queue directory.
        directory: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {operation} {path}: {source}")]
    Disk {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A part of the queue directory is on a file system of its own.
    #[error("{directory} is on another file system than the queue directory")]
    Elsewhere {
        /// Which part.
        directory: PathBuf,
    },
    /// A file that is about to be made is there already.
    #[error("{path} is there already")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The write would leave less than `minimum_free`.
    #[error(
        "{free} octets are free on the file system of {directory}; {needed} more would leave less than \
         minimum_free, {minimum_free}"
    )]
    Full {
        /// The queue directory.
        directory: PathBuf,
        /// Octets that are free.
        free: u64,
        /// Octets that were to be written.
        needed: u64,
        /// Octets that have to stay free.
        minimum_free: u64,
    },
    /// The work was cut off: the runtime is stopping, or a bug ended its thread.
    #[error("the work on the queue was cut off: {0}")]
    Interrupted(String),
    /// The journal takes no more messages until some of it is covered.
    #[error("the journal in {directory} is full")]
    JournalFull {
        /// The journal's directory.
        directory: PathBuf,
    },
    /// Another version of gatepost made the journal.
    #[error("{path} is of version {version} of the journal, which this gatepost does not know")]
    JournalVersion {
        /// One of its segments.
        path: PathBuf,
        /// The version that it says.
        version: u32,
    },
    /// Another daemon uses the directory.
    #[error("the queue directory {directory} is in use by {}", holder(*.process))]
    Locked {
        /// The queue directory.
        directory: PathBuf,
        /// The other one's process number, where it is known.
        process: Option<u32>,
    },
    /// No message of this id.
    #[error("there is no message {id} in {directory}")]
    Missing {
        /// The queue directory.
        directory: PathBuf,
        /// What was asked for.
        id: MessageId,
    },
    /// The file system or a quota has no room left.
    #[error("cannot {operation} {path}: {source}")]
    OutOfSpace {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk is too slow at the moment: the message's turn to be written did not come in time.
    #[error("{directory} is too slow: the write before this one has not come to its end")]
    Slow {
        /// The queue directory.
        directory: PathBuf,
    },
}

fn holder(process: Option<u32>) -> String {
    process.map_or_else(
        || "another process".to_owned(),
        |process| format!("process {process}"),
    )
}

/// What turns the system's word about `operation` on `path` into ours.
fn fault(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> QueueError {
    move |source| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => QueueError::OutOfSpace {
                operation,
                path,
                source,
            },
            _ => QueueError::Disk {
                operation,
                path,
                source,
            },
        }
    }
}

impl From<&QueueError> for Refusal {
    /// What the client hears: try again later, in any case.
    fn from(error: &QueueError) -> Self {
        let reply = match error {
            QueueError::Batch(shared) => return Self::from(&**shared),
            QueueError::Full { .. }
            | QueueError::JournalFull { .. }
            | QueueError::OutOfSpace { .. } => Reply::storage_full(),
            QueueError::Abandoned
            | QueueError::Busy { .. }
            | QueueError::Disk { .. }
            | QueueError::Elsewhere { .. }
            | QueueError::Exists { .. }
            | QueueError::Interrupted(_)
            | QueueError::JournalVersion { .. }
            | QueueError::Locked { .. }
            | QueueError::Missing { .. }
            | QueueError::Slow { .. } => Reply::storage_failed(),
        };
        Self::new(reply, error.to_string())
    }
}

impl From<&QueueError> for Finding {
    /// What the operator reads, with a remedy where there is one.
    fn from(error: &QueueError) -> Self {
        let finding = Self::error(error.to_string());
        match error {
            QueueError::Busy { .. } => finding
                .hint("wait for the other `gatepost queue` command to end, or end it, then try again"),
            QueueError::Disk { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                finding.hint("the queue directory belongs to the user that gatepost runs as; be that user, or root")
            }
            QueueError::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                finding.hint("`gatepost serve` makes the queue directory when it starts, but not the directory above it")
            }
            QueueError::Elsewhere { .. } => finding.hint(
                "messages are renamed from one part to another: give the whole queue directory the file system",
            ),
            QueueError::JournalVersion { .. } => finding.hint(
                "start the gatepost that wrote it and stop it with SIGTERM: then nothing is left in the journal, and \
                 the directory journal/ can be removed",
            ),
            QueueError::Full { .. } | QueueError::OutOfSpace { .. } => {
                finding.hint("make room there, or give the queue another directory")
            }
            QueueError::Locked { .. } => finding
                .hint("one gatepost per queue directory: stop the other one, or give this one its own"),
            QueueError::Missing { .. } => finding.hint("`gatepost queue list` shows what is there"),
            _ => finding,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_broken_one_sound_different() {
        let path = Path::new("/spool/drafts/x.eml");
        let reply =
            |errno| Refusal::from(&fault("write", path)(io::Error::from_raw_os_error(errno)));
        let (full, broken) = (
            reply(nix::errno::Errno::ENOSPC as i32),
            reply(nix::errno::Errno::EIO as i32),
        );
        assert_eq!(full.reply, Reply::storage_full());
        assert_eq!(broken.reply, Reply::storage_failed());
        assert!(
            broken
                .reason
                .starts_with("cannot write /spool/drafts/x.eml: "),
            "{}",
            broken.reason
        );
        let quota = reply(nix::errno::Errno::EDQUOT as i32);
        assert_eq!(quota.reply, Reply::storage_full());
    }
}
