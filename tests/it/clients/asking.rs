//! Clients that ask for more than the sending: reports, times, addresses beyond ASCII, chunks.

use serde_json::{Value, json};

use super::programs::{msmtp_with, smtplib_with};
use super::{ALICE, DATED, FIELDS, Outcome, PASSWORD, Submission};
use crate::daemon::{Daemon, field};

/// The envelope and the message that a submission leaves in the queue.
fn stored(daemon: &Daemon, submit: impl FnOnce() -> Outcome) -> (Value, Vec<u8>) {
    let mark = daemon.log.mark();
    let outcome = submit();
    assert!(outcome.accepted, "{}", outcome.said);
    let accepted = daemon.log.wait(mark, &["event=message.accepted"]);
    let id = field(&accepted, "id").unwrap();
    let read = |extension| std::fs::read(daemon.file("ready", id, extension)).unwrap();
    (serde_json::from_slice(&read("json")).unwrap(), read("eml"))
}

#[test]
#[ignore = "needs msmtp and python3: .ci/run installs them"]
fn programs_ask_for_what_is_offered() {
    let daemon = Daemon::serve(&[(ALICE, PASSWORD, &["*"])], "");
    let text = format!("{FIELDS}{DATED}\r\nIt works.\r\n").into_bytes();

    let (envelope, _) = stored(&daemon, || {
        let dsn = ["--dsn-notify=success,delay", "--dsn-return=hdrs"];
        msmtp_with(&Submission::new(&daemon, &text), &dsn)
    });
    assert_eq!(envelope["ret"], "HDRS");
    let notify = &envelope["recipients"][0]["notify"];
    assert_eq!(*notify, json!(["SUCCESS", "DELAY"]));

    let wishes = json!({
        "mail_options": ["BODY=8BITMIME", "RET=FULL", "ENVID=Q+2B1", "BY=3600;RT", "MT-PRIORITY=-4", "REQUIRETLS"],
        "rcpt_options": ["NOTIFY=FAILURE", "ORCPT=rfc822;Bob+2Btag@example.net"],
    });
    let (envelope, message) = stored(&daemon, || {
        smtplib_with(&Submission::new(&daemon, &text), wishes)
    });
    assert_eq!(envelope["ret"], "FULL");
    assert_eq!(envelope["envid"], "Q+1");
    assert_eq!(envelope["deliver_by"]["mode"], "R");
    assert_eq!(envelope["deliver_by"]["trace"], true);
    assert_eq!(envelope["priority"], -4);
    assert_eq!(envelope["require_tls"], true);
    let recipient = json!({
        "forward_path": "bob@example.net", "notify": ["FAILURE"], "orcpt": "rfc822;Bob+tag@example.net",
    });
    assert_eq!(envelope["recipients"][0], recipient);
    let message = String::from_utf8(message).unwrap();
    assert!(message.contains(" priority -4;\r\n"), "{message}");

    // As an application in Python sends to people whose names are not English.
    let international = format!(
        "From: R\u{e9}my <r\u{e9}my@b\u{fc}cher.example>\r\n{DATED}\r\nGr\u{fc}\u{df}e\r\n"
    );
    let (envelope, message) = stored(&daemon, || {
        let submission = Submission {
            reverse_path: "r\u{e9}my@b\u{fc}cher.example",
            recipients: &["\u{7528}\u{6237}@\u{4f8b}\u{5b50}.example"],
            ..Submission::new(&daemon, international.as_bytes())
        };
        smtplib_with(
            &submission,
            json!({"mail_options": ["SMTPUTF8", "BODY=8BITMIME"]}),
        )
    });
    assert_eq!(envelope["smtputf8"], true);
    assert_eq!(envelope["reverse_path"], "r\u{e9}my@b\u{fc}cher.example");
    let forward_path = &envelope["recipients"][0]["forward_path"];
    assert_eq!(*forward_path, "\u{7528}\u{6237}@\u{4f8b}\u{5b50}.example");
    let message = String::from_utf8(message).unwrap();
    assert!(message.contains("\twith UTF8SMTPSA id "), "{message}");
    assert!(message.ends_with(&international), "{message}");

    let binary = [text.as_slice(), b"a\nb\rc\0\xff\r\n.\r\n\r"].concat();
    for chunk_size in [1, 7, 1 << 20] {
        let (envelope, message) = stored(&daemon, || {
            let more = json!({"mail_options": ["BODY=BINARYMIME"], "chunk_size": chunk_size});
            smtplib_with(&Submission::new(&daemon, &binary), more)
        });
        assert_eq!(envelope["body"], "BINARYMIME");
        assert!(message.ends_with(&binary));
    }
    daemon.stop();
}
