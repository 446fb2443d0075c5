//! What is read from disks and from the operator's side: state files, envelopes, the journal, certificates, imports,
//! requests to the daemon, trace tokens.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gatepost::account::state::LoginState;
use gatepost::cli::{import_line, trace_tokens};
use gatepost::containment::{By, Cause, Containment, Login};
use gatepost::control::{Answer, Request};
use gatepost::envelope::{Client, Envelope, MessageId};
use gatepost::guard::{Guard, GuessingSettings};
use gatepost::message::token::{Sender, TraceKey};
use gatepost::policy::history::History;
use gatepost::policy::limit::Limiter;
use gatepost::policy::tripwire::Tripwires;
use gatepost::queue::disk::RealDisk;
use gatepost::queue::{QueueDirectory, Spool, SpoolSettings};
use gatepost::tls::client::{ClientAuthorityFiles, ClientCertificates};
use gatepost::tls::fresh::self_signed;
use gatepost::tls::{CertificateFiles, MinimumVersion, Tls, TlsSettings, client_fingerprint};
use gatepost::trace;
use tempfile::{NamedTempFile, TempDir, tempdir};

use super::session::{ALICE, BEGINNING};
use super::{Script, TIME};

fn file_with(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file for the input");
    file.write_all(content).expect("room for the input");
    file
}

/// The input: which state file, then its content.
///
/// Whatever is in it, it is taken up or begun anew, with one finding; and what was taken up can be written and read
/// again.
pub fn check_kept(data: &[u8]) {
    let mut script = Script(data);
    let kind = script.below(7);
    let file = file_with(script.0);
    let finding = match kind {
        0 => {
            let (limiter, finding) = Limiter::look_into(file.path(), *BEGINNING);
            limiter.forget_expired(*BEGINNING);
            if finding.is_none() && limiter.save().expect("it can be written") {
                let (_, finding) = Limiter::look_into(file.path(), *BEGINNING);
                assert!(finding.is_none(), "{finding:?}");
            }
            finding
        }
        1 => {
            let (logins, finding) = LoginState::look_into(file.path());
            let _ = logins.last_used("alice@example.org", "");
            finding
        }
        2 => {
            let settings = GuessingSettings::default();
            let (guard, finding) = Guard::look_into(file.path(), settings, *BEGINNING);
            let _ = guard.admit("203.0.113.7".parse().expect("an address"), *BEGINNING);
            finding
        }
        3 => {
            let key = trace::read(file.path());
            assert!(!format!("{key:?}").contains("[7, 7"));
            key.err()
        }
        4 => {
            let (history, finding) = History::look_into(file.path(), *BEGINNING);
            if finding.is_none() {
                let sent = history.sent(&ALICE.name, *BEGINNING).len();
                let id = MessageId::from_bits((BEGINNING.wall.as_millisecond() as u128) << 80);
                history.accepted(&ALICE.name, None, &id, 1);
                assert!(history.sent(&ALICE.name, *BEGINNING).len() <= sent + 1);
                assert!(history.save(*BEGINNING).expect("it can be written"));
                let (_, finding) = History::look_into(file.path(), *BEGINNING);
                assert!(finding.is_none(), "{finding:?}");
            }
            finding
        }
        5 => {
            let (tripwires, finding) = Tripwires::look_into(file.path(), *BEGINNING);
            if finding.is_none() {
                tripwires.forgive(&ALICE.name);
                let counts = tripwires.counts(&ALICE.name, *BEGINNING);
                assert!(counts.iter().all(|(_, count)| *count == 0), "{counts:?}");
                tripwires.save(*BEGINNING).expect("it can be written");
                let (_, finding) = Tripwires::look_into(file.path(), *BEGINNING);
                assert!(finding.is_none(), "{finding:?}");
            }
            finding
        }
        // Nobody is let go because the file is broken.
        _ => match Containment::open(file.path()) {
            Ok(containment) => {
                let listed = containment.list();
                for (login, _) in &listed {
                    assert!(containment.holds(&login.account, login.credential.as_deref()));
                }
                let login = Login::new("alice@example.org", None);
                if containment.add(&login, Cause::new(By::Operator, "a test", *BEGINNING)) {
                    containment.save().expect("it can be written");
                    let again = Containment::open(file.path()).expect("it was written so");
                    assert_eq!(again.list(), containment.list());
                    containment.remove(&login);
                }
                assert!(listed.len() >= containment.list().len());
                None
            }
            Err(finding) => Some(finding),
        },
    };
    if let Some(finding) = finding {
        assert!(!finding.one_line().contains('\n'), "{finding}");
    }
}

/// The input: a line of the operator's socket. What is understood is written so that it is understood again; a request is
/// the same then. (Of an answer, numbers of many digits may be rounded.)
pub fn check_control(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let written = serde_json::to_vec(&request).expect("it is JSON");
        let again: Request = serde_json::from_slice(&written).expect("it was one");
        assert_eq!(again, request);
    }
    if let Ok(answer) = serde_json::from_slice::<Answer>(data) {
        let written = serde_json::to_vec(&answer).expect("it is JSON");
        let again: Answer = serde_json::from_slice(&written).expect("it was one");
        assert_eq!(
            std::mem::discriminant(&again),
            std::mem::discriminant(&answer)
        );
    }
}

/// The input: an envelope. What is read and written is read as the same, on one line.
pub fn check_envelope(data: &[u8]) {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(data) else {
        return;
    };
    let written = serde_json::to_vec(&envelope).expect("it is JSON");
    assert!(!written.contains(&b'\n'));
    let again: Envelope = serde_json::from_slice(&written).expect("it was one");
    assert_eq!(
        serde_json::to_vec(&again).expect("it is JSON"),
        written,
        "{envelope:?}"
    );
}

/// The input: whether it is a trace token, or what stands around one in a header section; if neither, whose one is made,
/// and what is changed in it.
///
/// One that opens is what its content is sealed as, so that there is no second one; a changed one does not open; and in a
/// message the one that is ours is found, behind its id.
pub fn check_token(data: &[u8]) {
    let key = TraceKey::new(&[7; 32]);
    let mut script = Script(data);
    let kind = script.below(3);
    if kind == 2 {
        return check_token_in_message(&key, &mut script);
    }
    if kind == 0 {
        let text = String::from_utf8_lossy(script.0);
        if let Ok((id, sender)) = key.open(&text) {
            assert_eq!(key.seal(&id, &sender).as_deref(), Some(&*text));
        }
        return;
    }
    let id = MessageId::from_bits(u128::from(script.octet()) << 64);
    let (place, change) = (usize::from(script.octet()), script.octet());
    let account = String::from_utf8_lossy(script.0).into_owned();
    let sender = Sender {
        address: "203.0.113.7".parse().expect("an address"),
        port: 50123,
        credential: account.split_once(' ').map(|(_, name)| name.to_owned()),
        account,
    };
    let Some(token) = key.seal(&id, &sender) else {
        return;
    };
    assert!(TraceKey::new(&[8; 32]).open(&token).is_err());
    let mut changed = token.clone().into_bytes();
    let place = place % changed.len();
    changed[place] ^= change & 0x7f;
    let changed = String::from_utf8(changed).expect("it is ASCII");
    match key.open(&changed) {
        Ok(opened) => {
            assert_eq!(changed, token);
            // An empty credential is none.
            let (sent, found) = (sender.credential.unwrap_or_default(), opened.1.credential);
            assert_eq!((&opened.0, sent), (&id, found.unwrap_or_default()));
            assert_eq!(opened.1.account, sender.account);
        }
        Err(_) => assert_ne!(changed, token),
    }
}

fn check_token_in_message(key: &TraceKey, script: &mut Script<'_>) {
    let length = usize::from(script.octet());
    let before = script.take(length).to_vec();
    let id = MessageId::from_bits(7);
    let sender = Sender {
        address: "203.0.113.7".parse().expect("an address"),
        port: 50123,
        account: "alice@example.org".to_owned(),
        credential: None,
    };
    let token = key.seal(&id, &sender).expect("it is short");
    let ours = format!(
        "Received: by mail.example.org (gatepost)\r\n\twith ESMTPSA id {id} (trace {token});\r\n"
    );
    let message = [ours.as_bytes(), script.0].concat();
    let found = trace_tokens(&message[..]).expect("it can be read");
    assert_eq!(found.first(), Some(&(Some(id.to_string()), token.clone())));
    // What stands before can be anything: that is what others have added, or the end of the header section.
    let message = [&before[..], b"\r\n", &message].concat();
    for (_, token) in trace_tokens(&message[..]).expect("it can be read") {
        assert!(!token.contains('\n'), "{token}");
    }
}

/// The input: a line of a passwd-file. A name that comes of it is an address, and a problem never shows the password.
pub fn check_import(data: &[u8]) {
    const MEMORY_KIB_MAX: u32 = 64;
    // Those that are hashed at once take their time, as they should.
    let is_plain = |text: &[u8]| {
        text.to_ascii_lowercase()
            .windows(5)
            .any(|at| at == b"plain")
    };
    if is_plain(data)
        || data
            .to_ascii_lowercase()
            .windows(5)
            .any(|at| at == b"clear")
    {
        return;
    }
    for domain in [None, Some("example.org")] {
        match import_line(data, domain, MEMORY_KIB_MAX) {
            Ok(name) => assert!(name.contains('@') && !name.chars().any(char::is_control)),
            Err(problem) => {
                assert!(!problem.contains('\n'), "{problem}");
                let hash = data.split(|octet| *octet == b':').nth(1).unwrap_or(b"");
                let hash = String::from_utf8_lossy(hash);
                assert!(hash.len() < 40 || !problem.contains(&*hash), "{problem}");
            }
        }
    }
}

/// Our own certificate, which stands in for all that is not the input.
static OURS: LazyLock<TempDir> = LazyLock::new(|| {
    let directory = tempdir().expect("a directory");
    let fresh = self_signed(&["localhost"], *BEGINNING).expect("a certificate");
    fresh.write(directory.path()).expect("room for it");
    directory
});

/// The input: what it is, then a certificate or another PEM file.
///
/// As a client's, in DER or PEM; as an authority's, as its list of revoked certificates, as our own, and as its key. It is
/// read or refused, and what it is refused for fits a line and shows nothing of a key.
pub fn check_certificate(data: &[u8]) {
    let mut script = Script(data);
    let kind = script.below(6);
    let file = match kind {
        0 => {
            let lines = BASE64_STANDARD.encode(script.0);
            let pem = format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n");
            file_with(pem.as_bytes())
        }
        _ => file_with(script.0),
    };
    if kind <= 1 {
        if let Err(finding) = client_fingerprint(file.path(), *BEGINNING) {
            assert!(!finding.one_line().contains('\n'), "{finding}");
        }
        return;
    }
    let ours = |name: &str| OURS.path().join(name);
    let given = file.path().to_owned();
    let (certificate, key) = (ours("certificate.pem"), ours("key.pem"));
    let (chain, key, authority) = match kind {
        2 => (certificate, key, Some((given, None))),
        3 => (certificate.clone(), key, Some((certificate, Some(given)))),
        4 => (given, key, None),
        _ => (certificate, given, None),
    };
    let authorities = authority.map(|(file, crl)| ClientAuthorityFiles { file, crl });
    let settings = TlsSettings {
        certificates: vec![CertificateFiles { chain, key }],
        minimum_version: MinimumVersion::Tls12,
        clients: ClientCertificates {
            asked_for: true,
            authorities: authorities.into_iter().collect(),
        },
    };
    match Tls::load(&settings) {
        Ok(tls) => {
            let _ = tls.findings("localhost", &[], *BEGINNING);
        }
        Err(findings) => {
            assert!(!findings.is_empty());
            for finding in findings {
                assert!(!finding.one_line().contains('\n'), "{finding}");
            }
        }
    }
}

/// What was put into batches.
#[derive(Default)]
struct Written {
    messages: HashMap<String, Vec<Vec<u8>>>,
    /// Some length is wrong under a checksum that is right. No crash does that, and whatever is read is as good.
    lengths_lie: bool,
}

/// The input: what a crash has left of a segment of the journal, batch by batch: their numbers, their records, whether
/// they are whole, and what is between them.
///
/// The queue opens, whatever that is; a message that comes of it is one that was in a batch, to the octet; and a
/// second opening finds the same.
pub fn check_journal(data: &[u8]) {
    const PAGE: usize = 4096;
    const SEGMENT_BYTES: usize = 8 * PAGE;
    let mut script = Script(data);
    let mut written = Written::default();
    let mut segment = segment_header(&mut script);
    segment.resize(PAGE, 0);
    for _ in 0..script.below(5) {
        let batch = journal_batch(&mut script, &mut written);
        segment.extend_from_slice(&batch);
        segment.resize(segment.len().next_multiple_of(PAGE), script.octet());
    }
    segment.resize(SEGMENT_BYTES.max(segment.len()), 0);
    let cut = usize::from(script.octet()) * 16;
    segment.truncate(segment.len() - cut.min(segment.len()));

    let directory = tempdir().expect("a directory");
    let journal = directory.path().join("journal");
    std::fs::create_dir(&journal).expect("a directory");
    std::fs::write(journal.join("0000000001.segment"), &segment).expect("room for it");
    let settings = SpoolSettings {
        minimum_free: 0,
        journal_size: 4 * SEGMENT_BYTES as u64,
        segment_size: SEGMENT_BYTES as u64,
        ..SpoolSettings::new(directory.path().to_owned())
    };
    let queued = || {
        let Ok((spool, recovered)) = Spool::open_stepped(&settings, Arc::new(RealDisk)) else {
            return None;
        };
        for finding in &recovered.findings {
            assert!(!finding.one_line().contains('\n'), "{finding}");
        }
        drop(spool);
        Some(messages(directory.path()))
    };
    let Some(first) = queued() else { return };
    for (id, message) in &first {
        let known = written.messages.get(id);
        let known = known.is_some_and(|known| known.contains(message));
        assert!(known || written.lengths_lie, "{id} was in no batch");
    }
    assert_eq!(queued(), Some(first), "the second opening");
}

fn messages(directory: &Path) -> HashMap<String, Vec<u8>> {
    let queue = QueueDirectory::open(directory).expect("it is a queue");
    let entries = queue.list().expect("it can be listed");
    let content = |id: &MessageId| {
        let mut content = Vec::new();
        queue.export(id, &mut content).expect("it can be read");
        content
    };
    entries
        .into_iter()
        .map(|entry| (entry.id.to_string(), content(&entry.id)))
        .collect()
}

const JOURNAL_ID: [u8; 16] = [7; 16];

fn segment_header(script: &mut Script<'_>) -> Vec<u8> {
    let mut rest = JOURNAL_ID.to_vec();
    let host = script.octet();
    rest.extend_from_slice(&u16::from(host).to_le_bytes());
    rest.resize(rest.len() + usize::from(host % 100), b'h');
    let version = 1 + u32::from(script.octet() / 200);
    let checksum = crc32fast::hash(&rest) ^ u32::from(script.octet() / 250);
    [
        &b"gatepost journal"[..],
        &version.to_le_bytes(),
        &checksum.to_le_bytes(),
        &rest,
    ]
    .concat()
}

/// One batch with its checksum; its messages go into `written`.
fn journal_batch(script: &mut Script<'_>, written: &mut Written) -> Vec<u8> {
    let numbers = [(); 3].map(|()| u64::from(script.octet() % 8));
    let mut records = Vec::new();
    let mut messages = Vec::new();
    let count = script.below(4);
    for _ in 0..count {
        let id = MessageId::from_bits(u128::from(script.octet() % 4));
        let length = usize::from(script.octet());
        let message = script.take(length).to_vec();
        let envelope = match script.octet() {
            0..=199 => serde_json::to_vec(&envelope(&id)).expect("it is JSON"),
            length => script.take(usize::from(length) - 200).to_vec(),
        };
        records.extend_from_slice(id.as_str().as_bytes());
        for octets in [&envelope, &message] {
            let wrong = u32::from(script.octet() / 240);
            written.lengths_lie |= wrong != 0;
            records.extend_from_slice(&(octets.len() as u32 ^ wrong).to_le_bytes());
        }
        records.extend_from_slice(&envelope);
        records.extend_from_slice(&message);
        messages.push((id.to_string(), message));
    }
    let magic = match script.octet() {
        0..=239 => b"gpbatch\x01",
        240..=249 => b"gperased",
        _ => b"gpbatch\x02",
    };
    let total = (64 + records.len()) as u32 ^ u32::from(script.octet() / 250);
    let mut rest = total.to_le_bytes().to_vec();
    rest.extend_from_slice(&JOURNAL_ID);
    for number in numbers {
        rest.extend_from_slice(&number.to_le_bytes());
    }
    rest.extend_from_slice(&(count as u32 ^ u32::from(script.octet() / 250)).to_le_bytes());
    rest.extend_from_slice(&[0; 4]);
    rest.extend_from_slice(&records);
    let checksum = crc32fast::hash(&rest) ^ u32::from(script.octet() / 250);
    for (id, message) in messages {
        written.messages.entry(id).or_default().push(message);
    }
    [&magic[..], &checksum.to_le_bytes(), &rest].concat()
}

fn envelope(id: &MessageId) -> Envelope {
    let client = Client {
        address: "203.0.113.7".parse().expect("an address"),
        port: 50123,
        name: "client.example.org".to_owned(),
        mechanism: "PLAIN".to_owned(),
        tls: "TLSv1.3".to_owned(),
        cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
    };
    Envelope::new(id.clone(), *TIME, client)
}
