//! The key of the tokens in Received ([`TraceKey`]), and the file that it is kept in: as long as the file is there, the
//! operator can tell who sent a message, whatever became of the logs.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::diagnostic::Finding;
use crate::kept::{Kept, damaged};
use crate::message::token::{TRACE_KEY_BYTES, TraceKey};

/// The name of the file, in the queue directory.
pub const TRACE_FILE: &str = "trace.json";
/// The version of the file that this program writes.
const FILE_VERSION: u32 = 1;

type KeyBytes = Zeroizing<[u8; TRACE_KEY_BYTES]>;

/// The file.
#[derive(Serialize, Deserialize)]
struct TraceFile {
    version: u32,
    key: String,
}

/// Reads the key from its file, or makes a new one, and keeps it. `None`: that is impossible, as the findings say. A file
/// that cannot be read is put aside. Blocks on the disk.
pub fn open(path: &Path) -> (Option<TraceKey>, Vec<Finding>) {
    let (kept, finding, is_new) = look_into(path);
    let mut findings = Vec::from_iter(finding.map(|finding| kept.put_aside(finding)));
    if is_new {
        kept.lock().changed();
        let saved = kept.save(|key| TraceFile {
            version: FILE_VERSION,
            key: BASE64_STANDARD.encode(key.as_deref().map_or(&[][..], |key| key)),
        });
        // A token whose key is lost with the process is worth nothing.
        if let Err(error) = saved {
            let finding = Finding::warning(format!("cannot keep the key of trace tokens: {error}"));
            findings.push(
                finding
                    .in_file(path)
                    .hint("messages get no trace token until gatepost is started again"),
            );
            return (None, findings);
        }
    }
    let key = kept.lock().as_deref().map(TraceKey::new);
    (key, findings)
}

/// The key in a file, for whoever only reads tokens. Nothing on the disk is touched.
pub fn read(path: &Path) -> Result<TraceKey, Finding> {
    let (kept, finding, is_new) = look_into(path);
    if let Some(finding) = finding {
        return Err(finding);
    }
    let key = kept
        .lock()
        .as_deref()
        .filter(|_| !is_new)
        .map(TraceKey::new);
    key.ok_or_else(|| {
        Finding::error("there is no key of trace tokens yet")
            .in_file(path)
            .hint("`gatepost serve` makes it when it starts, in its queue directory")
    })
}

fn look_into(path: &Path) -> (Kept<Option<KeyBytes>>, Option<Finding>, bool) {
    let loss = "cannot read the key of trace tokens; those made with it cannot be read any more";
    let mut is_new = false;
    let fresh = || {
        is_new = true;
        let mut key = Zeroizing::new([0; TRACE_KEY_BYTES]);
        getrandom::fill(key.as_mut_slice()).ok().map(|()| key)
    };
    let (kept, finding) = Kept::look_into(path, FILE_VERSION, loss, fresh, restore);
    (kept, finding, is_new)
}

fn restore(file: TraceFile) -> io::Result<Option<KeyBytes>> {
    let octets = Zeroizing::new(BASE64_STANDARD.decode(&file.key).unwrap_or_default());
    let key = <[u8; TRACE_KEY_BYTES]>::try_from(octets.as_slice());
    key.map(|key| Some(Zeroizing::new(key)))
        .map_err(|_| damaged("the key is damaged"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::MessageId;
    use crate::message::token::Sender;

    #[test]
    fn a_key_outlasts_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(TRACE_FILE);
        assert!(read(&path).is_err(), "there is none yet");
        assert!(!path.exists(), "looking makes none");
        let (first, findings) = open(&path);
        assert_eq!(findings, []);
        let sender = Sender {
            address: "192.0.2.1".parse().unwrap(),
            port: 1,
            account: "alice".to_owned(),
            credential: None,
        };
        let id = MessageId::from_bits(7);
        let token = first.unwrap().seal(&id, &sender).unwrap();
        let (again, findings) = open(&path);
        assert_eq!(findings, []);
        assert_eq!(again.unwrap().open(&token).unwrap().1, sender);
        assert!(read(&path).unwrap().open(&token).is_ok());

        for broken in ["", r#"{"version": 1, "key": "AAAA"}"#] {
            std::fs::write(&path, broken).unwrap();
            assert!(read(&path).is_err());
            let (key, findings) = open(&path);
            assert_eq!((key.is_some(), findings.len()), (true, 1));
            assert!(key.unwrap().open(&token).is_err());
        }
        let (none, findings) = open(&directory.path().join("missing/trace.json"));
        assert_eq!((none.is_none(), findings.len()), (true, 1));
    }
}
