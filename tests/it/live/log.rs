//! The log of whole sessions: its names, one line for each event, and nothing that a peer could add to it.

use gatepost::envelope::MessageId;
use serde_json::Value;

use super::harness::{ALICE, Client, DOORS, PASSWORD, Settings, World, text};

/// One session in which everything is refused once that a log tells of, and then a message is accepted.
fn session(client: &mut Client) -> String {
    assert!(client.login(ALICE, "wrong").starts_with("535 "));
    assert!(client.login(ALICE, PASSWORD).starts_with("235 "));
    client.expect("MAIL FROM:<mallory@example.org>", "550 5.7.1 ");
    client.expect("MAIL FROM:<alice@example.org>", "250 ");
    client.expect("RCPT TO:<>", "501 ");
    client.expect("RCPT TO:<bob@example.net>", "250 ");
    client.expect("RCPT TO:<carol@example.net>", "250 ");
    client.expect("DATA", "354 ");
    client.expect("From: <mallory@example.org>\r\n\r\n.", "550 5.7.1 ");
    let queued = client.message("logged");
    client.expect("QUIT", "221 ");
    assert_eq!(client.rest(), "");
    queued
        .strip_prefix("250 2.0.0 queued as ")
        .unwrap()
        .to_owned()
}

#[test]
fn the_events_of_a_session() {
    for door in DOORS {
        let world = World::new(Settings::default());
        let daemon = world.start();
        let mut client = Client::secured(&daemon, door);
        let id = session(&mut client);
        let is_me = client.is_me();
        drop(client);
        daemon.event("closed", &is_me);
        let events: Vec<Value> = daemon.events().into_iter().filter(is_me).collect();
        let names: Vec<&str> = events
            .iter()
            .map(|event| event["event"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "connected",
                "tls.accepted",
                "auth.refused",
                "auth.accepted",
                "mail.refused",
                "rcpt.refused",
                "message.refused",
                "message.accepted",
                "closed"
            ]
        );
        for event in &events {
            assert_eq!(event["session"], events[0]["session"], "{event}");
            assert_eq!(event["client"], "127.0.0.1", "{event}");
            assert!(event["time"].as_str().unwrap().ends_with('Z'), "{event}");
        }
        for refused in events
            .iter()
            .filter(|event| event["event"].as_str().unwrap().ends_with("refused"))
        {
            assert!(
                refused["reason"].is_string() && refused["reply"].is_string(),
                "{refused}"
            );
            assert_eq!(refused["account"], ALICE, "{refused}");
        }
        assert_eq!(events[0]["listener"], daemon.address(door).to_string());
        assert_eq!(events[3]["mechanism"], "PLAIN");
        assert_eq!(events[4]["from"], "mallory@example.org");
        let accepted = &events[7];
        let (envelope, message) = world.queued().remove(0);
        assert_eq!(accepted["id"], id.as_str());
        assert_eq!(envelope["id"], id.as_str());
        assert_eq!(accepted["account"], ALICE);
        assert_eq!(accepted["from"], ALICE);
        assert_eq!(accepted["size"], message.len());
        assert_eq!(accepted["recipients"], 1);
        assert_eq!(events[8]["messages"], 1);
        assert_eq!(events[8]["reason"], "client quit");
    }
}

/// The same in text: each line has its event, and the words of the refusal.
#[test]
fn text_lines_of_a_session() {
    let world = World::new(Settings {
        log: "",
        ..Settings::default()
    });
    let daemon = world.start();
    let mut client = Client::secured(&daemon, DOORS[1]);
    let id = session(&mut client);
    let port = client.port();
    drop(client);
    daemon.log.wait_for(|line| line.contains(" event=closed "));
    let scope = format!(" client=127.0.0.1 port={port} ");
    let lines: Vec<String> = daemon
        .log
        .lines()
        .iter()
        .filter_map(|line| line.split_once(&scope))
        .map(|(head, tail)| {
            let event = head.split(' ').find_map(|word| word.strip_prefix("event="));
            // How long it took is nobody's business here.
            let tail = tail
                .split_once(" seconds=")
                .map_or(tail.to_owned(), |(tail, _)| format!("{tail} seconds=_"));
            format!("{} {tail}", event.unwrap())
        })
        .collect();
    let listener = daemon.address(DOORS[1]);
    let (_, message) = world.queued().remove(0);
    let size = message.len();
    let (_, message_id) = message.split_once("Message-ID: ").unwrap();
    let message_id = message_id.split("\r\n").next().unwrap();
    let (_, refused_id) = lines[5].split_once(" id=").unwrap();
    let refused_id = refused_id.split(' ').next().unwrap();
    assert!(refused_id.parse::<MessageId>().is_ok(), "{refused_id}");
    assert_eq!(
        lines,
        [
            format!("connected listener={listener}"),
            format!(
                "auth.refused account={ALICE} mechanism=PLAIN reply=\"535 5.7.8 authentication failed\" \
                 reason=\"wrong password\""
            ),
            format!("auth.accepted account={ALICE} mechanism=PLAIN"),
            format!(
                "mail.refused account={ALICE} from=mallory@example.org \
                 reply=\"550 5.7.1 account {ALICE} may not send as mallory@example.org\" \
                 reason=\"send_as of account {ALICE} does not allow mallory@example.org\""
            ),
            format!(
                "rcpt.refused account={ALICE} reply=\"501 5.1.3 the address is empty\" reason=\"malformed command\""
            ),
            format!(
                "message.refused account={ALICE} id={refused_id} from={ALICE} \
                 reply=\"550 5.7.1 account {ALICE} may not send with header From: mallory@example.org\" \
                 reason=\"send_as of account {ALICE} does not allow mallory@example.org in From\""
            ),
            format!(
                "message.accepted account={ALICE} id={id} size={size} recipients=1 from={ALICE} message_id={message_id}"
            ),
            "closed reason=\"client quit\" messages=1 seconds=_".to_owned(),
        ]
    );
}

/// What a client says about itself and its mail cannot become a line, or a field, of its own making.
#[test]
fn a_client_cannot_write_lines() {
    const FORGED: &str = "event=auth.accepted account=root";
    for log in [
        "format = \"text\"\nlevel = \"trace\"",
        "format = \"json\"\nlevel = \"trace\"",
    ] {
        let world = World::new(Settings {
            log,
            ..Settings::default()
        });
        let daemon = world.start();
        let mut client = Client::logged_in(&daemon, DOORS[0]);
        for command in [
            format!("EHLO x\n{FORGED}"),
            format!("EHLO x\r{FORGED}"),
            format!("EHLO x\u{1b}[2J {FORGED}"),
            "EHLO x\u{85}y".to_owned(),
            format!("MAIL FROM:<\"a\n{FORGED}\"@example.org>"),
            format!("MAIL FROM:<\"a\u{1b}[2J {FORGED}\"@example.org>"),
            format!("MAIL FROM:<\"a\\\" {FORGED} \\\"\"@example.org>"),
            format!("MAIL FROM:<alice@example.org> X={FORGED}"),
            format!("RCPT TO:<\"a\u{2028}{FORGED}\"@example.org>"),
        ] {
            client.say(&command);
            client.reply();
        }
        client.expect("RSET", "250 ");
        client.begin_message();
        client.say(&format!(
            "Message-ID: <\u{1b}[2J {FORGED}@x>\r\n{}",
            text("forged")
        ));
        client.reply();
        client.expect("MAIL FROM:<alice@example.org>", "250 ");
        client.expect("QUIT", "221 ");
        drop(client);
        daemon.log.wait_for(|line| line.contains("closed"));
        for line in daemon.log.lines() {
            assert!(
                line.starts_with("20") || line.starts_with("{\"time\":\"20"),
                "{line}"
            );
            assert!(
                line.bytes().all(|byte| byte >= b' ' && byte != 0x7f),
                "{line}"
            );
            assert!(!line.contains(['\u{85}', '\u{2028}']), "{line}");
            // In a text line only within quotes, where it is no field.
            if let (Some(at), false) = (line.find(FORGED), line.starts_with('{')) {
                let quotes = line[..at].replace("\\\"", "").matches('"').count();
                assert_eq!(quotes % 2, 1, "{line}");
            }
        }
    }
}
