//! Where things lie in the queue directory, and reading an envelope from there.
//!
//! Changes nothing on the disk.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::clock::Timestamp;
use crate::envelope::{Envelope, Hold, MessageId};

use super::disk::Disk;

/// Octets in an envelope's file that are read at all: some 100,000 recipients.
const ENVELOPE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `hold/`: withheld.
    Hold,
    /// `ready/`: to be seen onward.
    Ready,
}

impl Place {
    /// The directory's name, and the word for it everywhere else.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Ready => "ready",
        }
    }
}

impl Place {
    /// Where a message goes when it is accepted: what is to be held is at no moment in `ready/`.
    pub(super) fn at_first(hold: Option<&Hold>) -> Self {
        match hold {
            Some(_) => Self::Hold,
            None => Self::Ready,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The two files of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// `.json`
    Envelope,
    /// `.eml`
    Message,
}

/// The paths below one queue directory.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
    /// Segments of the journal that were found damaged.
    pub(super) damaged: PathBuf,
    pub(super) drafts: PathBuf,
    /// One empty file for each message that the operator removed and that the journal may still hold.
    pub(super) gone: PathBuf,
    /// Which batch of the journal is being placed.
    pub(super) intent: PathBuf,
    pub(super) journal: PathBuf,
    /// Held by the daemon for as long as it runs.
    pub(super) lock: PathBuf,
    /// Held for a moment by whoever moves a message between `ready/` and `hold/`, and by recovery.
    pub(super) moves_lock: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            damaged: root.join("damaged"),
            drafts: root.join("drafts"),
            gone: root.join("journal").join(GONE),
            intent: root.join("journal").join(INTENT),
            journal: root.join("journal"),
            lock: root.join("lock"),
            moves_lock: root.join("moves.lock"),
        }
    }

    pub(super) fn directory(&self, place: Place) -> PathBuf {
        self.root.join(place.as_str())
    }

    pub(super) fn draft(&self, id: &MessageId, part: Part) -> PathBuf {
        self.drafts.join(file_name(id, part))
    }

    /// An envelope that is to take the place of the one in `hold/`.
    pub(super) fn new_envelope(&self, id: &MessageId) -> PathBuf {
        self.drafts.join(format!("{id}.hold"))
    }

    /// The file that says that the message was removed.
    pub(super) fn gone(&self, id: &MessageId) -> PathBuf {
        self.gone.join(id.as_str())
    }

    pub(super) fn file(&self, place: Place, id: &MessageId, part: Part) -> PathBuf {
        self.directory(place).join(file_name(id, part))
    }
}

/// Names in `journal/` beside its segments.
const GONE: &str = "gone";
const INTENT: &str = "intent";
/// A segment that is being made.
pub(super) const NEW_SEGMENT: &str = "new";

/// Whether a name in `journal/` is ours and not a segment's.
pub(super) fn is_journal_name(name: &OsStr) -> bool {
    name == GONE || name == INTENT || name == NEW_SEGMENT
}

fn file_name(id: &MessageId, part: Part) -> String {
    match part {
        Part::Envelope => format!("{id}.json"),
        Part::Message => format!("{id}.eml"),
    }
}

/// What a name in `ready/` or `hold/` stands for; `None` for a name that is not ours.
pub(super) fn parse_file_name(name: &OsStr) -> Option<(MessageId, Part)> {
    let (id, extension) = name.to_str()?.rsplit_once('.')?;
    let part = match extension {
        "eml" => Part::Message,
        "json" => Part::Envelope,
        _ => return None,
    };
    Some((id.parse().ok()?, part))
}

/// Why an envelope cannot be had.
#[derive(Debug)]
pub(super) enum EnvelopeFault {
    /// The file is not there.
    Missing,
    /// It cannot be read, or does not hold the envelope of this message. The text says what is wrong with it.
    Unreadable(String),
}

/// Reads the envelope of `id` from its file.
pub(super) fn read_envelope(
    disk: &dyn Disk,
    path: &Path,
    id: &MessageId,
) -> Result<Envelope, EnvelopeFault> {
    let text = read_envelope_text(disk, path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => EnvelopeFault::Missing,
        _ => EnvelopeFault::Unreadable(error.to_string()),
    })?;
    parse_envelope(&text, id).map_err(EnvelopeFault::Unreadable)
}

/// What the file of an envelope holds. A file that is too large for one is read that far.
pub(super) fn read_envelope_text(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    disk.open_file(path)?
        .take(ENVELOPE_BYTES_MAX + 1)
        .read_to_end(&mut text)?;
    Ok(text)
}

/// The envelope of `id`; else what is wrong with the text.
pub(super) fn parse_envelope(text: &[u8], id: &MessageId) -> Result<Envelope, String> {
    if text.len() as u64 > ENVELOPE_BYTES_MAX {
        return Err(format!("it is larger than {ENVELOPE_BYTES_MAX} octets"));
    }
    // Whoever changes one field keeps all others, those of later versions too: an envelope is one if it can be read so.
    let _: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let envelope: Envelope = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if envelope.id == *id {
        Ok(envelope)
    } else {
        Err(format!(
            "it is the envelope of another message, {}",
            envelope.id
        ))
    }
}

/// Where a message with this envelope goes when it is accepted, and when it is to leave there by itself.
///
/// An envelope without `hold`, as nearly all are, is not parsed for that. The name cannot occur within a text: there its
/// quotes are escaped.
pub(super) fn destination(envelope: &[u8]) -> (Place, Option<Timestamp>) {
    #[derive(Deserialize)]
    struct Part {
        hold: Option<Hold>,
    }
    if memchr::memmem::find(envelope, b"\"hold\":").is_none() {
        return (Place::Ready, None);
    }
    let hold = serde_json::from_slice::<Part>(envelope).map_or(None, |part| part.hold);
    (
        Place::at_first(hold.as_ref()),
        hold.and_then(|hold| hold.releases_at()),
    )
}

#[cfg(test)]
mod tests {
    use crate::envelope::{Client, HoldReason};

    use super::*;

    #[test]
    fn an_envelope_says_where_its_message_goes() {
        let client = Client {
            address: "203.0.113.7".parse().unwrap(),
            port: 50123,
            name: "\"hold\":".to_owned(),
            mechanism: String::new(),
            tls: String::new(),
            cipher: String::new(),
        };
        let time: Timestamp = "2026-11-22T08:00:00Z".parse().unwrap();
        let hold = |reason, until| Some(Hold::new(reason, until));
        for (hold, expected) in [
            (None, (Place::Ready, None)),
            (
                hold(HoldReason::FutureRelease, Some(time)),
                (Place::Hold, Some(time)),
            ),
            (hold(HoldReason::Operator, None), (Place::Hold, None)),
        ] {
            let envelope = Envelope {
                hold,
                ..Envelope::new(MessageId::from_bits(7), time, client.clone())
            };
            let json = serde_json::to_vec(&envelope).unwrap();
            assert_eq!(destination(&json), expected);
        }
        assert_eq!(destination(b""), (Place::Ready, None));
        assert_eq!(destination(br#"{"hold":7}"#), (Place::Ready, None));
        let later = br#"{"hold":{"reason":"moonlight","shade":3}}"#;
        assert_eq!(destination(later), (Place::Hold, None));
    }

    #[test]
    fn names() {
        let id = MessageId::from_bits(77);
        for part in [Part::Envelope, Part::Message] {
            let name = file_name(&id, part);
            assert_eq!(parse_file_name(OsStr::new(&name)), Some((id.clone(), part)));
        }
        for foreign in [
            "",
            ".",
            "..",
            "x.eml",
            "00000000000000000000000007",
            "a.json~",
        ] {
            assert_eq!(parse_file_name(OsStr::new(foreign)), None, "{foreign}");
        }
    }
}
