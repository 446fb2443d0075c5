//! What one client, or all together, can make the daemon hold or wait for.

use gatepost::server::TlsStart;

use super::harness::{ALICE, Client, DOORS, Daemon, Settings, World, eventually};

const TOO_MANY: &str = "421 4.7.0 too many connections, try again later";
const TIMED_OUT: &str = "421 4.4.2 timed out, closing the connection\r\n";

/// What a client may add to the memory of the daemon at its worst. The bounds of one session are far below; the rest
/// is the allocator's and TLS's own.
const MEMORY_KIB_MAX: u64 = 8 << 10;
/// More than any honest line, and more than the memory that is looked at.
const LINE_BYTES: usize = 1 << 30;

fn places(limits: &'static str, reason: &str) {
    let world = World::with_limits(limits);
    let daemon = world.start();
    for door in DOORS {
        // Strangers would make room.
        let mut inside = [
            Client::logged_in(&daemon, door),
            Client::logged_in(&daemon, TlsStart::StartTls),
        ];
        for door in DOORS {
            let (mut third, greeting) = Client::greeted(&daemon, door);
            assert_eq!(greeting, TOO_MANY);
            assert_eq!(third.rest(), "");
            let refused = daemon.event("refused", third.is_me());
            assert_eq!(refused["reason"], reason);
        }
        for client in &mut inside {
            client.expect("NOOP", "250 ");
        }
        let [first, second] = inside;
        let is_first = first.is_me();
        first.vanish(false);
        daemon.event("closed", is_first);
        let back = Client::secured(&daemon, door);
        drop((second, back));
        daemon.all_closed();
    }
}

#[test]
fn connections_from_one_address() {
    places(
        "connections_per_address = 2",
        "limits.connections_per_address",
    );
}

#[test]
fn connections_in_all() {
    places("connections = 2", "limits.connections");
}

/// Without a pause after a failed accept, a daemon that is out of descriptors would spin until one of its clients left.
#[test]
fn descriptors_can_run_out_and_come_back() {
    let world = World::new(Settings {
        descriptors: Some(40),
        ..Settings::default()
    });
    let daemon = world.start();
    let warned = daemon.event("warning", |event| {
        let finding = event["finding"].as_str().unwrap();
        finding.contains("only 40 file descriptors allowed")
    });
    assert!(warned["finding"].as_str().unwrap().contains("LimitNOFILE"));
    for door in DOORS {
        // The kernel takes in what the daemon cannot.
        let waiting: Vec<_> = (0..60).map(|_| Client::connect(&daemon, door)).collect();
        let listener = daemon.address(door).to_string();
        daemon.event("accept.failed", |event| event["listener"] == listener);
        drop(waiting);
        Client::secured(&daemon, door).expect("NOOP", "250 ");
    }
}

#[test]
fn silence_has_an_end() {
    let world = World::with_limits("idle_timeout = \"1s\"");
    let daemon = world.start();
    for door in DOORS {
        let mut clients = [
            Client::greeted(&daemon, door).0,
            Client::secured(&daemon, door),
            Client::logged_in(&daemon, door),
            Client::in_data(&daemon, door),
        ];
        clients[3].say("From: <alice@example.org>\r\n\r\nand then");
        for client in &mut clients {
            assert_eq!(client.rest(), TIMED_OUT);
            let closed = daemon.event("closed", client.is_me());
            assert_eq!(closed["reason"], "the client's time is up");
        }
    }
    assert_eq!(world.files("ready"), [""; 0]);
}

/// However lively it is: commands and octets without end put nothing off.
#[test]
fn login_takes_its_time_and_no_more() {
    let world = World::with_limits("login_timeout = \"1s\"");
    let daemon = world.start();
    for door in DOORS {
        let mut silent = Client::secured(&daemon, door);
        let mut lively = Client::secured(&daemon, door);
        let mut flooding = Client::secured(&daemon, door);
        let mut in_time = Client::logged_in(&daemon, door);
        assert_eq!(silent.rest(), TIMED_OUT);
        let end = eventually(|| Some(lively.ask("NOOP")).filter(|reply| reply != "250 2.0.0 ok"));
        assert_eq!(end.unwrap() + "\r\n", TIMED_OUT);
        let is_me = flooding.is_me();
        flooding.flood(&[b'x'; 64 << 10]);
        assert_eq!(
            daemon.event("closed", is_me)["reason"],
            "the client's time is up"
        );
        assert!(in_time.message("in time").starts_with("250 "));
    }
}

#[test]
fn a_message_takes_its_time_and_no_more() {
    let world = World::with_limits("data_timeout = \"1s\"\nmessage_size = \"1GiB\"");
    let daemon = world.start();
    for door in DOORS {
        let mut client = Client::in_data(&daemon, door);
        let is_me = client.is_me();
        client.say("From: <alice@example.org>\r\n");
        let line = [&[b'x'; 70][..], b"\r\n"].concat();
        client.flood(&line.repeat(100));
        let refused = daemon.event("message.refused", &is_me);
        assert_eq!(refused["reason"], "the client's time is up");
        daemon.event("closed", &is_me);
    }
    assert_eq!(world.files("ready"), [""; 0]);
    assert_eq!(world.files("drafts"), [""; 0]);
}

#[test]
fn guessing_has_an_end() {
    let world = World::with_limits("");
    let daemon = world.start();
    for door in DOORS {
        let mut client = Client::secured(&daemon, door);
        for _ in 0..3 {
            assert_eq!(
                client.login(ALICE, "guess"),
                "535 5.7.8 authentication failed"
            );
        }
        assert_eq!(
            client.rest(),
            "421 4.7.0 too many failed authentications, closing the connection\r\n"
        );
        assert_eq!(
            daemon.event("closed", client.is_me())["reason"],
            "too many failed logins"
        );
    }
}

/// The daemon's memory now, once everything that the first client costs is there.
fn quiet_memory_kib(daemon: &Daemon) -> u64 {
    for door in DOORS {
        assert!(
            Client::logged_in(daemon, door)
                .message("warm up")
                .starts_with("250 ")
        );
    }
    daemon.all_closed();
    daemon.memory_kib("VmHWM:")
}

fn check_memory(daemon: &Daemon, quiet_kib: u64) {
    let peak_kib = daemon.memory_kib("VmHWM:");
    assert!(
        peak_kib <= quiet_kib + MEMORY_KIB_MAX,
        "{quiet_kib} KiB when quiet, {peak_kib} KiB at the peak"
    );
}

#[test]
fn a_line_without_an_end_is_not_held() {
    let world = World::with_limits("");
    let daemon = world.start();
    let quiet_kib = quiet_memory_kib(&daemon);
    let (mut client, _) = Client::greeted(&daemon, TlsStart::StartTls);
    let octets = vec![b'x'; 1 << 20];
    for _ in 0..LINE_BYTES / octets.len() {
        assert!(client.send(&octets));
    }
    // One error for one line, and in step behind it.
    assert_eq!(client.ask(""), "500 5.5.2 line too long");
    client.expect("NOOP", "250 ");
    check_memory(&daemon, quiet_kib);
}

#[test]
fn a_large_message_is_not_held() {
    const MESSAGE_BYTES: usize = 30 << 20;
    let world = World::with_limits("");
    let daemon = world.start();
    let quiet_kib = quiet_memory_kib(&daemon);
    for line_bytes in [76, 1 << 20] {
        let mut client = Client::in_data(&daemon, TlsStart::Implicit);
        client.say("From: <alice@example.org>\r\n");
        let line = [vec![b'x'; line_bytes], b"\r\n".to_vec()].concat();
        let piece = line.repeat((1 << 20) / line.len() + 1);
        for _ in 0..MESSAGE_BYTES / piece.len() {
            assert!(client.send(&piece));
        }
        client.expect(".", "250 2.0.0 queued as ");
        let (envelope, message) = world.queued().pop().unwrap();
        assert_eq!(envelope["size"], message.len());
        assert!(message.len() > MESSAGE_BYTES - (2 << 20));
    }
    check_memory(&daemon, quiet_kib);
}

#[test]
fn a_large_message_in_chunks_is_not_held() {
    const MESSAGE_BYTES: usize = 30 << 20;
    const HEADER: &[u8] = b"From: <alice@example.org>\r\n\r\n";
    let world = World::with_limits("");
    let daemon = world.start();
    let quiet_kib = quiet_memory_kib(&daemon);
    // One chunk; many, all of them in the pipeline.
    for chunk_bytes in [MESSAGE_BYTES, 1 << 20] {
        let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
        let mail = format!("MAIL FROM:<{ALICE}> BODY=BINARYMIME\r\n");
        client.send(mail.as_bytes());
        client.send(b"RCPT TO:<bob@example.net>\r\n");
        client.send(format!("BDAT {}\r\n", HEADER.len()).as_bytes());
        client.send(HEADER);
        let chunk = vec![0; chunk_bytes];
        for _ in 0..MESSAGE_BYTES / chunk_bytes {
            client.send(format!("BDAT {chunk_bytes}\r\n").as_bytes());
            assert!(client.send(&chunk));
        }
        client.send(b"BDAT 0 LAST\r\n");
        assert_eq!(client.line(), "250 2.1.0 sender ok");
        assert_eq!(client.line(), "250 2.1.5 recipient ok");
        assert_eq!(
            client.line(),
            format!("250 2.0.0 {} octets received", HEADER.len())
        );
        for _ in 0..MESSAGE_BYTES / chunk_bytes {
            let received = format!("250 2.0.0 {chunk_bytes} octets received");
            assert_eq!(client.line(), received);
        }
        assert!(client.line().starts_with("250 2.0.0 queued as "));
        let (envelope, message) = world.queued().pop().unwrap();
        assert_eq!(envelope["size"], message.len());
        assert_eq!(envelope["body"], "BINARYMIME");
        assert!(message.ends_with(&"\0".repeat(MESSAGE_BYTES)));
    }
    // More than there may be is read and forgotten: what follows is a command again.
    let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
    client.expect(&format!("MAIL FROM:<{ALICE}>"), "250 ");
    client.expect("RCPT TO:<bob@example.net>", "250 ");
    client.send(format!("BDAT {} LAST\r\n", 40 << 20).as_bytes());
    for _ in 0..40 {
        assert!(client.send(&b"QUIT\r\n\0\0".repeat(1 << 17)));
    }
    assert!(client.line().starts_with("552 5.3.4 "));
    client.expect("NOOP", "250 ");
    check_memory(&daemon, quiet_kib);
}

#[test]
fn ten_thousand_commands_at_once() {
    const COMMANDS: usize = 10_000;
    let world = World::with_limits("");
    let daemon = world.start();
    let quiet_kib = quiet_memory_kib(&daemon);
    for door in DOORS {
        let mut client = Client::logged_in(&daemon, door);
        assert!(client.send(&b"NOOP\r\n".repeat(COMMANDS)));
        for _ in 0..COMMANDS {
            assert_eq!(client.line(), "250 2.0.0 ok");
        }
        client.expect("QUIT", "221 ");
    }
    check_memory(&daemon, quiet_kib);
}

#[test]
fn who_never_reads_is_cut_off() {
    let world = World::with_limits("idle_timeout = \"1s\"");
    let daemon = world.start();
    let quiet_kib = quiet_memory_kib(&daemon);
    for door in DOORS {
        let mut client = Client::secured(&daemon, door);
        let is_me = client.is_me();
        let commands = b"HELP\r\n".repeat(1000);
        client.flood(&commands);
        daemon.event("closed", is_me);
    }
    check_memory(&daemon, quiet_kib);
    assert!(
        Client::logged_in(&daemon, TlsStart::Implicit)
            .message("served")
            .starts_with("250 ")
    );
}

/// An account's limits outlast a restart; a limit that is reached says which it is and when it frees.
#[test]
fn limits_of_an_account_outlast_a_restart() {
    let mut world = World::with_limits("");
    world.settings.account_limits = "messages_per_hour = 3";
    world.write_configuration();
    let daemon = world.start();
    let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
    for number in 1..=3 {
        assert!(
            client
                .message(&format!("message {number}"))
                .starts_with("250 ")
        );
    }
    drop(client);
    daemon.stop();
    let saved = std::fs::read_to_string(world.path("queue/limits.json")).unwrap();
    assert!(saved.contains(ALICE), "{saved}");

    let daemon = world.start();
    let mut client = Client::logged_in(&daemon, TlsStart::StartTls);
    let reply = client.ask("MAIL FROM:<alice@example.org>");
    let (what, when) = reply.split_once(", try again at ").unwrap();
    assert_eq!(what, "450 4.7.28 limit messages_per_hour = 3 reached");
    assert!(when.parse::<jiff::Timestamp>().is_ok(), "{when}");
    let refused = daemon.event("mail.refused", client.is_me());
    assert_eq!(
        (refused["level"].as_str(), refused["account"].as_str()),
        (Some("warn"), Some(ALICE))
    );
    assert_eq!(world.queued().len(), 3);
}
