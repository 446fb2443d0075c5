//! Real clients against the real program: what they send is found in the queue byte for byte, and its envelope tells
//! the truth. The operator's commands beside it, end to end.
//!
//! lettre is a library and always here. The tests of clients that are programs are ignored by default, so that a
//! machine without them passes; `.ci/run` installs them and runs these tests on the release build.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use crate::daemon::{Daemon, HOSTNAME, field};
use programs::{CLIENT_NAME, Client, PROGRAMS, gsasl, lettre, msmtp};
use wire::Wire;

mod asking;
mod certificates;
mod openid;
mod programs;
mod wire;

const ALICE: &str = "alice@example.org";
const BOB: &str = "bob@example.org";
const PASSWORD: &str = "correct horse 7 battery";
const FIELDS: &str = "From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nSubject: hello\r\n";
const DATED: &str =
    "Date: Sat, 21 Nov 2026 09:30:00 +0000\r\nMessage-ID: <1.first@laptop.example.org>\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    Implicit,
    StartTls,
}

/// One message that a client is to submit.
#[derive(Clone)]
struct Submission<'a> {
    daemon: &'a Daemon,
    certificate: PathBuf,
    listener: Listener,
    mechanism: &'static str,
    account: &'a str,
    password: &'a str,
    /// The client's own certificate and its key, for EXTERNAL.
    own: Option<&'a OwnCertificate>,
    reverse_path: &'a str,
    recipients: &'a [&'a str],
    message: &'a [u8],
}

/// Files of a client.
struct OwnCertificate {
    certificate: String,
    key: String,
}

impl<'a> Submission<'a> {
    /// What alice may send.
    fn new(daemon: &'a Daemon, message: &'a [u8]) -> Self {
        Self {
            daemon,
            certificate: daemon.certificate(),
            listener: Listener::StartTls,
            mechanism: "PLAIN",
            account: ALICE,
            password: PASSWORD,
            own: None,
            reverse_path: ALICE,
            recipients: &["bob@example.net"],
            message,
        }
    }

    fn port(&self) -> u16 {
        match self.listener {
            Listener::Implicit => self.daemon.implicit.port(),
            Listener::StartTls => self.daemon.starttls.port(),
        }
    }

    fn certificate_text(&self) -> &str {
        self.certificate.to_str().unwrap()
    }
}

/// What came of it, as the client sees it.
struct Outcome {
    accepted: bool,
    /// What it told its user.
    said: String,
    /// What it had to send, its own changes included.
    sent: Vec<u8>,
    /// BODY= as it gave it.
    body: Option<&'static str>,
}

/// The messages that every client sends.
struct Sample {
    name: &'static str,
    recipients: &'static [&'static str],
    message: Vec<u8>,
}

fn samples() -> Vec<Sample> {
    let sample = |name, recipients, message: Vec<u8>| Sample {
        name,
        recipients,
        message,
    };
    let one = &["bob@example.net"][..];
    let with_body = |body: &[u8]| [format!("{FIELDS}{DATED}\r\n").as_bytes(), body].concat();
    vec![
        sample("a short message", one, with_body(b"It works.\r\n")),
        sample(
            "8-bit text",
            one,
            with_body("Gr\u{fc}\u{df}e, \u{4f60}\u{597d} \u{1f4ec}\r\n".as_bytes()),
        ),
        sample(
            "lines that begin with dots",
            one,
            with_body(b".\r\n..\r\n.x\r\n...y\r\nnot. this\r\n.\r\n"),
        ),
        sample(
            "a line of 5000 octets",
            one,
            with_body(&[&b"x".repeat(5000)[..], b"\r\n"].concat()),
        ),
        sample("an empty body", one, with_body(b"")),
        sample("3 MiB", one, with_body(&three_mebibytes())),
        sample(
            "several recipients",
            &[
                "bob@example.net",
                "carol@example.net",
                "dave@[192.0.2.1]",
                "erin+tag@sub.example.com",
                "frank@example.net",
            ],
            with_body(b"To all of you.\r\n"),
        ),
        sample(
            "no Date and no Message-ID",
            one,
            format!("{FIELDS}\r\nWhen?\r\n").into_bytes(),
        ),
        sample(
            "a hidden recipient",
            &["bob@example.net", "carol@example.net"],
            format!("{FIELDS}Bcc: carol@example.net,\r\n dave@example.net\r\n{DATED}\r\nHush.\r\n")
                .into_bytes(),
        ),
    ]
}

/// As an attachment looks: lines of base64.
fn three_mebibytes() -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = 1_u64;
    let mut body = Vec::with_capacity((3 << 20) + 80);
    while body.len() < 3 << 20 {
        for _ in 0..76 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            body.push(ALPHABET[(state >> 58) as usize]);
        }
        body.extend_from_slice(b"\r\n");
    }
    body
}

/// The message without its Bcc fields.
fn without_bcc(message: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(message.len());
    let (mut in_header, mut in_bcc) = (true, false);
    for line in message.split_inclusive(|&byte| byte == b'\n') {
        in_header &= line != b"\r\n";
        in_bcc = in_header && (line.starts_with(b"Bcc:") || in_bcc && line.starts_with(b" "));
        if !in_bcc {
            kept.extend_from_slice(line);
        }
    }
    kept
}

fn has_field(message: &[u8], name: &str) -> bool {
    let mut lines = message.split(|&byte| byte == b'\n');
    lines
        .by_ref()
        .take_while(|line| *line != b"\r")
        .any(|line| line.starts_with(format!("{name}:").as_bytes()))
}

/// Takes off what we add in front of a message, all of it and nothing else.
pub(crate) fn without_added<'m>(
    stored: &'m [u8],
    sent: &[u8],
    id: &str,
    hostname: &str,
    name: &str,
) -> &'m [u8] {
    let mut rest = stored;
    let mut line = || {
        let end = memchr::memchr(b'\n', rest).unwrap();
        let (line, tail) = rest.split_at(end + 1);
        rest = tail;
        String::from_utf8(line.to_vec()).unwrap()
    };
    assert_eq!(
        line(),
        format!("Received: by {hostname} (gatepost)\r\n"),
        "{name}"
    );
    assert_eq!(line(), format!("\twith ESMTPSA id {id}\r\n"), "{name}");
    let token = line();
    assert!(
        token.starts_with("\t(trace ") && token.ends_with(")\r\n"),
        "{name}: {token}"
    );
    let tls = line();
    assert!(
        tls.starts_with("\ttls TLS_") && tls.ends_with(";\r\n"),
        "{name}: {tls}"
    );
    let date = line();
    assert!(date.ends_with(" +0000\r\n"), "{name}: {date}");
    if !has_field(sent, "Date") {
        assert_eq!(line(), format!("Date: {}", date.trim_start()), "{name}");
    }
    if !has_field(sent, "Message-ID") {
        assert_eq!(
            line(),
            format!("Message-ID: <{id}@{hostname}>\r\n"),
            "{name}"
        );
    }
    rest
}

/// Submits, and checks all that must be true of a message that was accepted. Gives its id.
fn submit(name: &str, client: Client, submission: &Submission<'_>) -> String {
    let name = &format!(
        "{name}, {:?}, {}",
        submission.listener, submission.mechanism
    );
    let mark = submission.daemon.log.mark();
    let outcome = client(submission);
    assert!(outcome.accepted, "{name}: {}", outcome.said);

    let accepted = submission
        .daemon
        .log
        .wait(mark, &["event=message.accepted"]);
    let id = field(&accepted, "id").unwrap();
    let stored = std::fs::read(submission.daemon.file("ready", id, "eml")).unwrap();
    let rest = without_added(&stored, &outcome.sent, id, HOSTNAME, name);
    let expected = without_bcc(&outcome.sent);
    if let Some(at) =
        (0..rest.len().max(expected.len())).find(|&at| rest.get(at) != expected.get(at))
    {
        let around = |bytes: &[u8]| {
            let (from, to) = (
                at.saturating_sub(40).min(bytes.len()),
                (at + 40).min(bytes.len()),
            );
            String::from_utf8_lossy(&bytes[from..to]).into_owned()
        };
        panic!(
            "{name}: octet {at} differs: stored {:?}, sent {:?}",
            around(rest),
            around(&expected)
        );
    }

    let envelope = std::fs::read(submission.daemon.file("ready", id, "json")).unwrap();
    let envelope: Value = serde_json::from_slice(&envelope).unwrap();
    let client = &envelope["client"];
    let forward_paths: BTreeSet<&str> = envelope["recipients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|recipient| recipient["forward_path"].as_str().unwrap())
        .collect();
    assert_eq!(envelope["version"], 1, "{name}");
    assert_eq!(envelope["id"], id, "{name}");
    assert_eq!(envelope["account"], submission.account, "{name}");
    assert_eq!(envelope["reverse_path"], submission.reverse_path, "{name}");
    assert_eq!(
        forward_paths,
        submission.recipients.iter().copied().collect(),
        "{name}"
    );
    assert_eq!(envelope["size"], stored.len(), "{name}");
    assert_eq!(envelope["body"].as_str(), outcome.body, "{name}");
    assert_eq!(client["address"], "127.0.0.1", "{name}");
    assert_eq!(
        client["port"].to_string(),
        field(&accepted, "port").unwrap(),
        "{name}"
    );
    assert_eq!(client["name"], CLIENT_NAME, "{name}");
    assert_eq!(client["mechanism"], submission.mechanism, "{name}");
    assert_eq!(client["tls"], "TLSv1.3", "{name}");
    let cipher = client["cipher"].as_str().unwrap();
    assert!(cipher.starts_with("TLS13_"), "{name}: {cipher}");
    id.to_owned()
}

/// Submits what must be refused: the client has to notice, the log has to say why, and nothing may be queued.
fn refuse(name: &str, client: Client, submission: &Submission<'_>, reply: &str, words: &[&str]) {
    let name = &format!("{name}, {:?}", submission.listener);
    let queued = queued(submission.daemon);
    let mark = submission.daemon.log.mark();
    let outcome = client(submission);
    assert!(!outcome.accepted, "{name}: {}", outcome.said);
    assert!(
        outcome.said.contains(reply),
        "{name} hides the server's answer: {}",
        outcome.said
    );
    let line = submission.daemon.log.wait(mark, words);
    assert!(line.contains(reply), "{name}: {line}");
    assert_eq!(self::queued(submission.daemon), queued, "{name}");
}

/// How many messages there are in the queue.
fn queued(daemon: &Daemon) -> usize {
    std::fs::read_dir(daemon.folder().join("queue/ready"))
        .unwrap()
        .count()
}

const LISTENERS: [Listener; 2] = [Listener::StartTls, Listener::Implicit];

fn every_message_arrives(name: &str, client: Client) {
    let daemon = Daemon::serve(&[(ALICE, PASSWORD, &[])], "");
    for listener in LISTENERS {
        for mechanism in ["PLAIN", "LOGIN"] {
            for sample in samples() {
                let submission = Submission {
                    listener,
                    mechanism,
                    recipients: sample.recipients,
                    ..Submission::new(&daemon, &sample.message)
                };
                submit(&format!("{name}, {}", sample.name), client, &submission);
            }
        }
    }
    daemon.stop();
}

fn refusals_are_noticed(name: &str, client: Client) {
    let daemon = Daemon::serve(&[(ALICE, PASSWORD, &[])], "");
    let message = &samples()[0].message;
    let forged = format!("{FIELDS}{DATED}\r\nIt works.\r\n").replace(ALICE, "mallory@example.net");
    for listener in LISTENERS {
        for mechanism in ["PLAIN", "LOGIN"] {
            let good = Submission {
                listener,
                mechanism,
                ..Submission::new(&daemon, message)
            };
            let wrong_password = Submission {
                password: "Correct horse 7 battery",
                ..good.clone()
            };
            let words = ["event=auth.refused", "reason=\"wrong password\""];
            refuse(name, client, &wrong_password, "535 5.7.8", &words);
        }
        let good = Submission {
            listener,
            ..Submission::new(&daemon, message)
        };
        let wrong_sender = Submission {
            reverse_path: "mallory@example.net",
            ..good.clone()
        };
        let words = ["event=mail.refused", "from=mallory@example.net"];
        refuse(name, client, &wrong_sender, "550 5.7.1", &words);
        if name != "s-nail" {
            // It writes From and reverse-path from the one setting.
            let wrong_author = Submission {
                message: forged.as_bytes(),
                ..good.clone()
            };
            let words = ["event=message.refused", "mallory@example.net"];
            refuse(name, client, &wrong_author, "550 5.7.1", &words);
        }
    }
    daemon.stop();
}

/// A client that is told to trust somebody else does not show us its password.
fn somebody_elses_certificate_is_not_trusted(name: &str, client: Client) {
    let daemon = Daemon::serve(&[(ALICE, PASSWORD, &[])], "");
    let elsewhere = tempfile::tempdir().unwrap();
    let other = gatepost::tls::fresh::self_signed(&["localhost"], gatepost::clock::Now::read())
        .unwrap()
        .write(elsewhere.path())
        .unwrap();
    let message = &samples()[0].message;
    for listener in LISTENERS {
        let submission = Submission {
            listener,
            certificate: other.chain.clone(),
            ..Submission::new(&daemon, message)
        };
        let mark = daemon.log.mark();
        let outcome = client(&submission);
        assert!(!outcome.accepted, "{name}, {listener:?}: {}", outcome.said);
        daemon.log.wait(mark, &["event=closed"]);
        let logins = daemon.log.since(mark);
        let logins = logins.iter().filter(|line| line.contains("event=auth"));
        assert_eq!(logins.count(), 0, "{name}, {listener:?}");
    }
    daemon.stop();
}

#[test]
fn lettre_submits_every_message() {
    every_message_arrives("lettre", lettre);
}

#[test]
fn lettre_notices_refusals() {
    refusals_are_noticed("lettre", lettre);
}

#[test]
fn lettre_does_not_trust_somebody_elses_certificate() {
    somebody_elses_certificate_is_not_trusted("lettre", lettre);
}

#[test]
#[ignore = "needs swaks, curl, msmtp, s-nail, exim4, python3: .ci/run installs them"]
fn programs_submit_every_message() {
    for (name, client) in PROGRAMS {
        every_message_arrives(name, client);
    }
}

#[test]
#[ignore = "needs swaks, curl, msmtp, s-nail, exim4, python3: .ci/run installs them"]
fn programs_notice_refusals() {
    for (name, client) in PROGRAMS {
        refusals_are_noticed(name, client);
    }
}

#[test]
#[ignore = "needs swaks, curl, msmtp, s-nail, exim4, python3: .ci/run installs them"]
fn programs_do_not_trust_somebody_elses_certificate() {
    for (name, client) in PROGRAMS {
        somebody_elses_certificate_is_not_trusted(name, client);
    }
}

/// GNU SASL wrote its SCRAM after the RFCs as we did, and checks our signature; msmtp sends a message with it.
#[test]
#[ignore = "needs gsasl and msmtp: .ci/run installs them"]
fn programs_log_in_with_scram() {
    let mechanisms = "[auth]\nmechanisms = [\"SCRAM-SHA-256-PLUS\", \"SCRAM-SHA-256\"]\n";
    let daemon = Daemon::serve(&[(ALICE, PASSWORD, &[])], mechanisms);
    let message = &samples()[0].message;
    for store in ["both", "scram"] {
        daemon.set_password(ALICE, PASSWORD, store);
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"] {
            let good = Submission {
                mechanism,
                ..Submission::new(&daemon, message)
            };
            let mark = daemon.log.mark();
            let outcome = gsasl(&good);
            assert!(outcome.accepted, "{mechanism}, {store}: {}", outcome.said);
            assert!(outcome.said.contains("server trusted"), "{}", outcome.said);
            let line = daemon.log.wait(mark, &["event=auth.accepted"]);
            assert_eq!(field(&line, "mechanism"), Some(mechanism));
            let wrong = Submission {
                password: "Correct horse 7 battery",
                ..good
            };
            let words = ["event=auth.refused", "reason=\"wrong password\""];
            refuse("gsasl", gsasl, &wrong, "535 5.7.8", &words);
        }
        for listener in LISTENERS {
            let good = Submission {
                listener,
                mechanism: "SCRAM-SHA-256",
                ..Submission::new(&daemon, message)
            };
            submit("msmtp", msmtp, &good);
            let wrong = Submission {
                password: "Correct horse 7 battery",
                ..good
            };
            let words = ["event=auth.refused", "reason=\"wrong password\""];
            refuse("msmtp", msmtp, &wrong, "535 5.7.8", &words);
        }
    }
    daemon.stop();
}

#[test]
#[ignore = "needs swaks, curl, msmtp, s-nail, exim4, python3: .ci/run installs them"]
fn programs_send_odd_passwords() {
    let longest = "x".repeat(255);
    for password in ["1", "a:b c%d%s@e", &longest] {
        let daemon = Daemon::serve(&[(ALICE, password, &[])], "");
        for (name, client) in PROGRAMS {
            for mechanism in ["PLAIN", "LOGIN"] {
                let message = &samples()[0].message;
                let submission = Submission {
                    password,
                    mechanism,
                    ..Submission::new(&daemon, message)
                };
                submit(&format!("{name}, {password}"), client, &submission);
            }
        }
        daemon.stop();
    }
}

/// What `gatepost try` prints before anybody connects.
fn introduction(daemon: &Daemon) -> Vec<String> {
    daemon.output.wait(0, &["Ctrl-C stops."]);
    daemon.output.since(0)
}

#[test]
fn try_shows_what_arrives() {
    let daemon = Daemon::try_out();
    let introduction = introduction(&daemon);
    let (_, password) = introduction[0].rsplit_once(' ').unwrap();
    let folder = std::fs::read_dir(daemon.folder())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    for listener in LISTENERS {
        let mark = daemon.output.mark();
        let submission = Submission {
            listener,
            certificate: folder.path().join("certificate.pem"),
            account: "try@localhost",
            password,
            reverse_path: "anybody@example.com",
            ..Submission::new(
                &daemon,
                b"From: anybody@example.com\r\n\r\nCan you see it?\r\n",
            )
        };
        let outcome = lettre(&submission);
        assert!(outcome.accepted, "{}", outcome.said);
        let heading = daemon.output.wait(mark, &["--- gatepost-try-", ".eml ("]);
        daemon.output.wait(mark, &["Can you see it?"]);
        let (path, _) = heading["--- ".len()..].split_once(' ').unwrap();
        let stored = std::fs::read(daemon.folder().join(path)).unwrap();
        assert!(stored.ends_with(b"\r\n\r\nCan you see it?\r\n"));
    }
    daemon.stop();
}

#[test]
#[ignore = "needs swaks, curl, msmtp, s-nail, exim4, python3: .ci/run installs them"]
fn the_commands_that_try_prints_work_when_pasted() {
    let daemon = Daemon::try_out();
    let lines = introduction(&daemon);
    let mut pasted = Vec::new();
    for (program, shown) in [
        ("| curl ", "It works."),
        ("swaks ", "This is a test mailing"),
    ] {
        for line in lines.iter().filter(|line| line.contains(program)) {
            let mark = daemon.output.mark();
            programs::pasted(daemon.folder(), line);
            daemon.output.wait(mark, &["--- gatepost-try-", ".eml ("]);
            daemon.output.wait(mark, &[shown]);
            daemon.output.wait(mark, &["---"]);
            pasted.push(line);
        }
    }
    assert_eq!(
        pasted.len(),
        4,
        "one for each program and listener: {lines:#?}"
    );
    daemon.stop();
}

/// An operator's change of the accounts is in force without a restart.
#[test]
fn accounts_change_while_it_runs() {
    let daemon = Daemon::serve(&[(ALICE, PASSWORD, &[])], "");
    let message = format!("{FIELDS}\r\nHello.\r\n").replace(ALICE, BOB);
    let bob = Submission {
        account: BOB,
        reverse_path: BOB,
        ..Submission::new(&daemon, message.as_bytes())
    };
    let reloaded = |change: &dyn Fn()| {
        let mark = daemon.log.mark();
        change();
        daemon.log.wait(mark, &["event=reload", "what=accounts"])
    };
    let refused = |password: &str, reason: &str| {
        let submission = Submission {
            password,
            ..bob.clone()
        };
        let reason = format!("reason=\"{reason}\"");
        let words = ["event=auth.refused", &reason];
        refuse("lettre", lettre, &submission, "535 5.7.8", &words);
    };

    refused(PASSWORD, "no such account");
    let line = reloaded(&|| daemon.add_account((BOB, PASSWORD, &[])));
    assert_eq!(field(&line, "accounts"), Some("2"));
    submit("lettre", lettre, &bob);

    reloaded(&|| drop(daemon.done(&["account", "disable", BOB])));
    refused(PASSWORD, "account is disabled");
    reloaded(&|| drop(daemon.done(&["account", "enable", BOB])));
    submit("lettre", lettre, &bob);

    reloaded(&|| drop(daemon.done(&["account", "remove", BOB])));
    refused(PASSWORD, "no such account");
    daemon.stop();
}

/// All that an operator does with the queue, beside the running daemon.
#[test]
fn the_queue_is_looked_after_while_it_runs() {
    let daemon = Daemon::serve(&[(ALICE, PASSWORD, &[])], "");
    let samples = samples();
    let [first, second] = [&samples[0], &samples[1]].map(|sample| {
        let submission = Submission::new(&daemon, &sample.message);
        submit(sample.name, lettre, &submission)
    });
    let list = || -> Vec<Value> {
        serde_json::from_str(&daemon.done(&["queue", "list", "--json"])).unwrap()
    };
    let places = || -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let listed = list();
        let pairs = listed
            .iter()
            .map(|one| (text(&one["id"]), text(&one["place"])));
        pairs.collect()
    };
    let pair = |id: &String, place: &str| (id.clone(), place.to_owned());
    let there = |place, id: &str| {
        ["eml", "json"].map(|extension| daemon.file(place, id, extension).exists())
    };

    assert_eq!(places(), [pair(&first, "ready"), pair(&second, "ready")]);
    let envelope = std::fs::read(daemon.file("ready", &first, "json")).unwrap();
    let mut envelope: Value = serde_json::from_slice(&envelope).unwrap();
    envelope["place"] = "ready".into();
    assert_eq!(list()[0], envelope);

    let shown = daemon.done(&["queue", "show", &first]);
    for words in [
        &*first,
        ALICE,
        "<bob@example.net>",
        CLIENT_NAME,
        "Subject: hello",
    ] {
        assert!(shown.contains(words), "{words} is missing: {shown}");
    }

    let stored = std::fs::read(daemon.file("ready", &second, "eml")).unwrap();
    let export = || daemon.gatepost(&["queue", "export", &second]).stdout;
    assert_eq!(export(), stored);
    daemon.done(&["queue", "hold", &second]);
    assert_eq!(places(), [pair(&first, "ready"), pair(&second, "hold")]);
    assert_eq!(there("ready", &second), [false; 2]);
    assert_eq!(there("hold", &second), [true; 2]);
    assert_eq!(export(), stored);
    daemon.done(&["queue", "release", &second]);
    assert_eq!(places(), [pair(&first, "ready"), pair(&second, "ready")]);
    assert_eq!(there("ready", &second), [true; 2]);
    assert_eq!(export(), stored);

    daemon.done(&["queue", "remove", &first]);
    assert_eq!(places(), [pair(&second, "ready")]);
    assert_eq!(there("ready", &first), [false; 2]);
    let again = daemon.gatepost(&["queue", "remove", &first]);
    assert_eq!(again.status.code(), Some(1));
    let complaint = String::from_utf8(again.stderr).unwrap();
    assert!(
        complaint.starts_with("error: there is no message"),
        "{complaint}"
    );
    daemon.stop();
}

/// What `gatepost explain` says of one message.
struct Explained {
    allowed: bool,
    steps: Vec<Value>,
}

impl Explained {
    fn new(daemon: &Daemon, account: &str, from: &str, to: &[&str], author: &str) -> Self {
        let mut arguments = vec!["explain", "--json", "--account", account, "--from", from];
        arguments.extend(["--client", "127.0.0.1", "--header-from", author]);
        for to in to {
            arguments.extend(["--to", to]);
        }
        let output = daemon.gatepost(&arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!(
                "{arguments:?}: {error}: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
        let allowed = json["allowed"].as_bool().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(!allowed)));
        Self {
            allowed,
            steps: json["steps"].as_array().unwrap().clone(),
        }
    }

    /// The replies to one kind of step.
    fn replies(&self, step: &str) -> Vec<&str> {
        let steps = self.steps.iter().filter(|one| one["step"] == step);
        steps.filter_map(|step| step["reply"].as_str()).collect()
    }
}

/// Sends one message and holds every reply against what was foretold.
fn agrees(daemon: &Daemon, account: &str, from: &str, to: &[&str], author: &str) {
    let explained = Explained::new(daemon, account, from, to, author);
    let name = format!("account {account}, from {from:?}, to {to:?}, header {author}");
    let mut wire = Wire::connect(daemon);
    let login = wire.log_in(account, PASSWORD);
    assert_eq!([&*login][..], explained.replies("AUTH"), "{name}");
    if !login.starts_with("235 ") {
        assert!(!explained.allowed, "{name}");
        return;
    }
    // As a client says it that has anything but ASCII to say.
    let addresses = [from, author].into_iter().chain(to.iter().copied());
    let parameter = match addresses.into_iter().all(str::is_ascii) {
        true => "",
        false => " SMTPUTF8",
    };
    let mail = wire.ask(&format!("MAIL FROM:<{from}>{parameter}"));
    assert_eq!([&*mail][..], explained.replies("MAIL"), "{name}");
    if !mail.starts_with("250 ") {
        assert!(!explained.allowed, "{name}");
        return;
    }
    let recipients: Vec<String> = to
        .iter()
        .map(|to| wire.ask(&format!("RCPT TO:<{to}>")))
        .collect();
    assert_eq!(recipients, explained.replies("RCPT"), "{name}");
    if !recipients.iter().any(|reply| reply.starts_with("250 ")) {
        assert!(!explained.allowed, "{name}");
        return;
    }
    assert!(wire.ask("DATA").starts_with("354 "), "{name}");
    let end = wire.ask(&format!("From: {author}\r\nSubject: x\r\n\r\nx\r\n."));
    let end = match end.strip_prefix("250 2.0.0 queued as ") {
        Some(id) => {
            assert!(daemon.file("ready", id, "json").exists(), "{name}");
            "250 2.0.0 queued as ID"
        }
        None => &end,
    };
    let foretold = [explained.replies("FROM"), explained.replies("DATA")].concat();
    assert_eq!(Some(&end), foretold.first(), "{name}");
    let all = recipients.iter().all(|reply| reply.starts_with("250 "));
    assert_eq!(explained.allowed, all && end.starts_with("250 "), "{name}");
}

#[test]
fn explain_foretells_what_serve_answers() {
    const NEWS: &str = "news@example.org";
    let patterns: &[&str] = &[ALICE, "*@lists.example.org", "<>"];
    let daemon = Daemon::serve(
        &[
            (ALICE, PASSWORD, patterns),
            (NEWS, PASSWORD, &["*"]),
            (BOB, PASSWORD, &[]),
            ("carol@example.org", PASSWORD, &[]),
        ],
        "",
    );
    let mark = daemon.log.mark();
    daemon.done(&["account", "disable", BOB]);
    daemon.log.wait(mark, &["event=reload", "what=accounts"]);
    // No command sets this one.
    let accounts = daemon.folder().join("accounts.toml");
    let mark = daemon.log.mark();
    let text = std::fs::read_to_string(&accounts).unwrap();
    let carol = "name = \"carol@example.org\"\n";
    assert!(text.contains(carol), "{text}");
    let text = text.replace(carol, &format!("{carol}allow_from = [\"192.0.2.0/24\"]\n"));
    std::fs::write(&accounts, text).unwrap();
    daemon.log.wait(mark, &["event=reload", "what=accounts"]);

    let good: &[&str] = &["bob@example.net"];
    for account in [ALICE, NEWS, BOB, "carol@example.org", "nobody@example.org"] {
        agrees(&daemon, account, ALICE, good, ALICE);
    }
    for from in [
        "alice@EXAMPLE.org",
        "alice+tag@example.org",
        "Alice@example.org",
        "any@lists.example.org",
        "any@sub.lists.example.org",
        "mallory@example.net",
        "",
        "alice",
        "alice@",
        "alice@-x-.example",
        "alic\u{e9}@example.org",
        "alice@example.org@example.org",
    ] {
        agrees(&daemon, ALICE, from, good, ALICE);
    }
    for to in [
        &["bob@example.net", "bob@example.net"][..],
        &["bob@", "bob@example.net"],
        &["Postmaster", "b\u{f6}b@example.net"],
        &["@relay.example:bob@example.net"],
        &[
            "bob@[192.0.2.1]",
            "bob@[IPv6:2001:db8::1]",
            "bob@[300.1.1.1]",
        ],
        &["\"b b\"@example.net", "b b@example.net"],
    ] {
        agrees(&daemon, ALICE, ALICE, to, ALICE);
    }
    for author in [
        "alice+tag@example.org",
        "any@lists.example.org",
        "mallory@example.net",
        "alice@example.org.example.net",
    ] {
        agrees(&daemon, ALICE, ALICE, good, author);
    }
    daemon.stop();
}

/// The limits come from what the daemon has saved: at its stop, for one.
#[test]
fn explain_foretells_the_limits() {
    let settings = "[limits.account]\nmessages_per_hour = 2\nrecipients_per_day = 3\n";
    let daemon = Daemon::serve(&[(ALICE, PASSWORD, &[]), (BOB, PASSWORD, &[])], settings);
    let good: &[&str] = &["bob@example.net"];
    agrees(&daemon, ALICE, ALICE, good, ALICE);
    agrees(&daemon, BOB, BOB, good, BOB);
    let daemon = daemon.restart();
    agrees(
        &daemon,
        BOB,
        BOB,
        &["a@example.net", "b@example.net", "c@example.net"],
        BOB,
    );
    agrees(&daemon, ALICE, ALICE, good, ALICE);
    let daemon = daemon.restart();
    let explained = Explained::new(&daemon, ALICE, ALICE, good, ALICE);
    let reply = explained.replies("MAIL")[0];
    assert!(reply.starts_with("450 4.7.28 "), "{reply}");
    agrees(&daemon, ALICE, ALICE, good, ALICE);
    daemon.stop();
}

#[test]
fn check_says_what_serve_would_do() {
    let daemon = Daemon::serve(&[(ALICE, PASSWORD, &[])], "");
    let config = daemon.folder().join("gatepost.toml");
    let said = daemon.done(&["check"]);
    let last = said.lines().last().unwrap();
    assert!(
        last.starts_with("ok: 2 listeners, 1 certificate, 1 account"),
        "{said}"
    );

    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replace("hostname", "hostnam")).unwrap();
    for command in ["check", "serve"] {
        let output = daemon.gatepost(&[command]);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command}: {said}");
        for words in [
            "gatepost.toml:1:1",
            "`hostnam`",
            "hint: did you mean `hostname`?",
        ] {
            assert!(
                said.contains(words),
                "{command}: {words} is missing: {said}"
            );
        }
    }
    let findings: Value =
        serde_json::from_slice(&daemon.gatepost(&["check", "--json"]).stdout).unwrap();
    assert_eq!(findings[0]["severity"], "error");
    assert_eq!(findings[0]["line"], 1);

    for wrong in [
        &["chek"][..],
        &["check", "--what"],
        &["queue", "show", "../x"],
    ] {
        assert_eq!(daemon.gatepost(wrong).status.code(), Some(2), "{wrong:?}");
    }
    daemon.stop();
}
