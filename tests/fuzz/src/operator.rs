//! What the operator's side reads beside files: words of the command line, edits of the accounts file, a queue directory
//! in which anything may lie.

use std::path::Path;
use std::sync::Arc;

use gatepost::account::directory::{Directory, Record};
use gatepost::account::edit::{Edit, NewAccount, NewPassword, apply};
use gatepost::account::token::WebAddress;
use gatepost::decision::RecipientPattern;
use gatepost::diagnostic::Finding;
use gatepost::envelope::{Envelope, MessageId};
use gatepost::guard::Lift;
use gatepost::message;
use gatepost::queue::disk::RealDisk;
use gatepost::queue::{Place, QueueDirectory, Spool, SpoolSettings};
use gatepost::sasl::Mechanism;
use gatepost::sasl::external;
use gatepost::smtp::extension::Extension;
use tempfile::tempdir;

use super::Script;

/// The input: a word of the command line. What is understood, and is written again, is understood as the same.
pub fn check_argument(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(id) = text.parse::<MessageId>() {
        assert_eq!(id.as_str(), text);
        assert_eq!(MessageId::from_bits(id.bits()), id);
        assert!(id.milliseconds() >= 0);
    }
    if let Ok(fingerprint) = external::Fingerprint::parse(text) {
        let written = fingerprint.to_string();
        assert_eq!(external::Fingerprint::parse(&written), Ok(fingerprint));
    }
    if let Ok(fingerprint) = text.parse::<message::Fingerprint>() {
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert_eq!(fingerprint.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(Lift::Network(network)) = text.parse() {
        assert_eq!(network.to_string().parse(), Ok(Lift::Network(network)));
    }
    if let Ok(pattern) = RecipientPattern::parse(text) {
        let written = pattern.to_string();
        assert!(!written.chars().any(char::is_control), "{written:?}");
        assert_eq!(RecipientPattern::parse(&written), Ok(pattern));
    }
    if let Ok(address) = WebAddress::parse(text) {
        // What is asked there is written into a request, line by line.
        assert!(text.bytes().all(|byte| byte > b' '), "{text:?}");
        assert_eq!(WebAddress::parse(&address.to_string()), Ok(address.clone()));
        assert_eq!(address.is_plain(), text[..5].eq_ignore_ascii_case("http:"));
    }
    if let Some(mechanism) = Mechanism::from_name(text) {
        assert!(mechanism.name().eq_ignore_ascii_case(text));
    }
    if let Some(extension) = Extension::from_keyword(text) {
        assert_eq!(Extension::from_keyword(text), Some(extension));
    }
}

/// Memory for hashes in an accounts file here.
const MEMORY_KIB_MAX: u32 = 64;

/// The input: which edit, the name of an account, and an accounts file.
///
/// An edit does what it says and nothing else: the other accounts are what they were, comments stay, and where it is
/// refused the file is as it was, to the octet.
pub fn check_edit(data: &[u8]) {
    let mut script = Script(data);
    let kind = script.below(6);
    let length = usize::from(script.octet());
    let name = String::from_utf8_lossy(script.take(length)).into_owned();
    let source = String::from_utf8_lossy(script.0).into_owned();
    let password = NewPassword {
        hash: None,
        scram: None,
    };
    let edit = match kind {
        0 => Edit::Add(NewAccount {
            password,
            send_as: Vec::new(),
            allow_from: vec!["192.0.2.0/24".to_owned()],
            note: Some(name.clone()),
        }),
        1 => Edit::Disable,
        2 => Edit::Enable,
        3 => Edit::Remove,
        4 => Edit::RemoveCredential("printer".to_owned()),
        _ => Edit::SetPassword(password),
    };
    let directory = tempdir().expect("a directory");
    let path = directory.path().join("accounts.toml");
    std::fs::write(&path, &source).expect("room for it");
    let before = Directory::parse(&path, &source, MEMORY_KIB_MAX);
    let edited = apply(&path, &name, &edit, MEMORY_KIB_MAX);
    let written = std::fs::read_to_string(&path).expect("it is there");
    let edited = match edited {
        Ok(edited) => edited,
        Err(findings) => {
            assert_eq!(written, source, "a refused edit changes nothing");
            assert!(findings.iter().any(Finding::is_error));
            for finding in findings {
                assert!(!finding.one_line().contains('\n'), "{finding}");
            }
            return;
        }
    };
    let (before, _) = before.expect("nothing that is broken is edited");
    let (after, _) = Directory::parse(&path, &written, MEMORY_KIB_MAX).expect("it was looked at");
    let rest = |directory: &Directory| -> Vec<String> {
        let mut others: Vec<_> = directory
            .records()
            .iter()
            .filter(|record| record.account.name != edited.name)
            .map(describe)
            .collect();
        others.sort();
        others
    };
    assert_eq!(rest(&after), rest(&before), "the others");
    let (was, is) = (before.find(&edited.name), after.find(&edited.name));
    let is_enabled = is.map(|record| record.account.enabled);
    match kind {
        0 => assert!(was.is_none() && is_enabled == Some(true)),
        1 => assert!(was.is_some() && is_enabled == Some(false)),
        2 => assert!(was.is_some() && is_enabled == Some(true)),
        3 => assert!(was.is_some() && is.is_none()),
        4 => assert!(is.is_some_and(|record| {
            record.credentials.len() + 1 == was.map_or(0, |was| was.credentials.len())
        })),
        _ => assert!(is.is_some_and(|record| record.password.is_none())),
    }
    if kind <= 2 {
        for line in source
            .lines()
            .filter(|line| line.trim_start().starts_with('#'))
        {
            assert!(written.contains(line), "{line:?} is gone");
        }
    }
    assert_eq!(edited.changed, written != source);
}

/// What an entry says, without where it stands.
fn describe(record: &Record) -> String {
    let account = &record.account;
    let patterns: Vec<_> = account.send_as.iter().map(|(pattern, _)| pattern).collect();
    let credentials: Vec<_> = record
        .credentials
        .iter()
        .map(|credential| &credential.credential.name)
        .collect();
    format!(
        "{} {} {:?} {:?} {:?} {} {} {credentials:?}",
        account.name,
        account.enabled,
        account.allow_from,
        patterns,
        account.note,
        record.password.is_some(),
        record.scram.is_some(),
    )
}

/// The input: where it lies in the queue directory, and what it is: the envelope of a message in `ready/` or `hold/`, the
/// note of the journal, or the name of a file.
///
/// The directory can be looked at, and the queue opens; what can be read as an envelope is held and let go without
/// losing anything but its time; what cannot is said in one line; and a foreign file is left alone.
pub fn check_queue(data: &[u8]) {
    let mut script = Script(data);
    let kind = script.below(4);
    let directory = tempdir().expect("a directory");
    for name in ["ready", "hold", "drafts", "journal"] {
        std::fs::create_dir(directory.path().join(name)).expect("a directory");
    }
    let id = MessageId::from_bits(7);
    let settings = SpoolSettings {
        minimum_free: 0,
        journal_size: 4 * SEGMENT_BYTES,
        segment_size: SEGMENT_BYTES,
        ..SpoolSettings::new(directory.path().to_owned())
    };
    let opens = || {
        let Ok((spool, recovered)) = Spool::open_stepped(&settings, Arc::new(RealDisk)) else {
            return;
        };
        for finding in &recovered.findings {
            assert!(!finding.one_line().contains('\n'), "{finding}");
        }
        drop(spool);
    };
    match kind {
        0 | 1 => {
            let place = [Place::Ready, Place::Hold][kind];
            let file = |extension: &str| {
                let name = format!("{id}.{extension}");
                directory.path().join(place.as_str()).join(name)
            };
            std::fs::write(file("json"), script.0).expect("room for it");
            std::fs::write(file("eml"), MESSAGE).expect("room for it");
            check_moves(directory.path(), &id, place);
            opens();
        }
        2 => {
            std::fs::write(directory.path().join("journal/intent"), script.0).expect("room for it");
            opens();
            opens();
        }
        _ => {
            let name = String::from_utf8_lossy(script.0);
            let name: String = name.chars().filter(|c| !matches!(c, '/' | '\0')).collect();
            let path = directory.path().join("ready").join(&name);
            if name.is_empty() || std::fs::write(&path, b"foreign").is_err() {
                return;
            }
            opens();
            // Half of a message that never was one is put in order.
            let is_ours = name
                .strip_suffix(".eml")
                .or(name.strip_suffix(".json"))
                .is_some_and(|id| id.parse::<MessageId>().is_ok());
            let queue = QueueDirectory::open(directory.path()).expect("it is a queue");
            let listed = queue.list().expect("it can be listed");
            assert!(is_ours || (path.exists() && listed.is_empty()), "{name:?}");
        }
    }
}

const SEGMENT_BYTES: u64 = 8 * 4096;
const MESSAGE: &[u8] = b"From: alice@example.org\r\n\r\nhello\r\n";

fn check_moves(directory: &Path, id: &MessageId, place: Place) {
    let queue = QueueDirectory::open(directory).expect("it is a queue");
    let look = || {
        let listed = queue.list().expect("it can be listed");
        assert_eq!(listed.len(), 1);
        let entry = queue.find(id).expect("it is there");
        assert_eq!(listed[0], entry);
        let mut message = Vec::new();
        queue.export(id, &mut message).expect("it can be read");
        assert_eq!(message, MESSAGE);
        entry
    };
    let untimed = |envelope: &Result<Envelope, String>| match envelope {
        Ok(envelope) => {
            let mut envelope = envelope.clone();
            envelope.hold = None;
            format!("{envelope:?}")
        }
        Err(reason) => {
            assert!(!reason.contains('\n'), "{reason}");
            reason.clone()
        }
    };
    let before = look();
    assert_eq!(before.place, place);
    queue.hold(id).expect("it can be held");
    let held = look();
    assert_eq!(held.place, Place::Hold);
    assert_eq!(untimed(&held.envelope), untimed(&before.envelope));
    if let (Some(hold), Ok(_)) = (held.hold(), &held.envelope) {
        assert_eq!(hold.releases_at(), None, "the operator holds it now");
    }
    queue.release(id).expect("it can be let go");
    let released = look();
    assert_eq!(released.place, Place::Ready);
    assert_eq!(untimed(&released.envelope), untimed(&before.envelope));
}
