//! What is no SMTP, no TLS or no end: the daemon says what there is to say, lets go, and serves the next one.

use gatepost::server::TlsStart;

use super::harness::{ALICE, Client, DOORS, Daemon, PASSWORD, Settings, World, eventually, text};

fn still_serves(daemon: &Daemon) {
    for door in DOORS {
        assert!(
            Client::logged_in(daemon, door)
                .message("served")
                .starts_with("250 ")
        );
    }
}

/// Octets that are nothing at all, the same each time.
fn noise() -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..4096).map(|_| next()).collect()
}

#[test]
fn no_tls_where_tls_should_be() {
    let world = World::with_limits("");
    let daemon = world.start();
    for octets in [
        b"EHLO client.example.org\r\n".to_vec(),
        noise(),
        vec![0; 4096],
    ] {
        let mut implicit = Client::connect(&daemon, TlsStart::Implicit);
        let (mut after_starttls, _) = Client::greeted(&daemon, TlsStart::StartTls);
        after_starttls.expect("STARTTLS", "220 ");
        for client in [&mut implicit, &mut after_starttls] {
            client.send(&octets);
            // A TLS alert, perhaps, but no word of SMTP: the other side could not tell who said it.
            assert!(!client.rest().contains("\r\n"));
            daemon.event("tls.failed", client.is_me());
            let closed = daemon.event("closed", client.is_me());
            assert_eq!(closed["reason"], "TLS handshake failed");
        }
    }
    still_serves(&daemon);
}

#[test]
fn tls_where_smtp_should_be() {
    let world = World::with_limits("");
    let daemon = world.start();
    let (mut client, _) = Client::greeted(&daemon, TlsStart::StartTls);
    let hello = client.client_hello();
    client.send(&hello);
    client.send(b"\r\n");
    let reply = client.reply();
    assert!(reply.starts_with("500 5.5."), "{reply}");
    client.end();
    client.rest();

    let (mut client, _) = Client::greeted(&daemon, TlsStart::StartTls);
    client.send(&noise());
    client.end();
    client.rest();
    daemon.event("closed", client.is_me());
    still_serves(&daemon);
}

#[test]
fn a_handshake_without_an_end() {
    let world = World::new(Settings {
        tls: "handshake_timeout = \"1s\"",
        ..Settings::default()
    });
    let daemon = world.start();
    let silent = Client::connect(&daemon, TlsStart::Implicit);
    let half = Client::connect(&daemon, TlsStart::Implicit);
    let (after_starttls, _) = Client::greeted(&daemon, TlsStart::StartTls);
    let mut clients = [silent, half, after_starttls];
    let hello = clients[1].client_hello();
    clients[1].send(&hello[..hello.len() / 2]);
    clients[2].expect("STARTTLS", "220 ");
    for client in &mut clients {
        assert_eq!(client.rest(), "");
        let failed = daemon.event("tls.failed", client.is_me());
        assert_eq!(failed["reason"], "tls.handshake_timeout");
        daemon.event("closed", client.is_me());
    }
    still_serves(&daemon);
}

/// How far a client gets.
type Progress = fn(&World, &Daemon, TlsStart) -> Client;

const POINTS: &[(&str, Progress)] = &[
    ("after the connection", |_, daemon, door| {
        Client::connect(daemon, door)
    }),
    ("in the handshake", |_, daemon, door| {
        let mut client = Client::connect(daemon, door);
        if door == TlsStart::StartTls {
            client.reply();
            client.expect("STARTTLS", "220 ");
        }
        let hello = client.client_hello();
        client.send(&hello[..hello.len() / 2]);
        client
    }),
    ("after EHLO", |_, daemon, door| {
        Client::secured(daemon, door)
    }),
    ("in the middle of PLAIN", |_, daemon, door| {
        let mut client = Client::secured(daemon, door);
        client.expect("AUTH PLAIN", "334 ");
        client
    }),
    ("in the middle of LOGIN", |_, daemon, door| {
        let mut client = Client::secured(daemon, door);
        client.expect("AUTH LOGIN", "334 ");
        client.expect("YWxpY2VAZXhhbXBsZS5vcmc=", "334 ");
        client
    }),
    ("while the password is checked", |_, daemon, door| {
        let mut client = Client::secured(daemon, door);
        client.say("AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAGNvcnJlY3QgaG9yc2U=");
        client
    }),
    ("after AUTH", |_, daemon, door| {
        Client::logged_in(daemon, door)
    }),
    ("after MAIL", |_, daemon, door| {
        let mut client = Client::logged_in(daemon, door);
        client.expect("MAIL FROM:<alice@example.org>", "250 ");
        client
    }),
    ("after RCPT", |_, daemon, door| {
        let mut client = Client::logged_in(daemon, door);
        client.expect("MAIL FROM:<alice@example.org>", "250 ");
        client.expect("RCPT TO:<bob@example.net>", "250 ");
        client
    }),
    ("after DATA", |_, daemon, door| {
        Client::in_data(daemon, door)
    }),
    ("in the header section", |_, daemon, door| {
        let mut client = Client::in_data(daemon, door);
        client.send(b"From: <alice@example.org>\r\nSubj");
        client
    }),
    ("in a large body", |world, daemon, door| {
        let mut client = Client::in_data(daemon, door);
        client.send(b"From: <alice@example.org>\r\n\r\n");
        client.send(&b"0123456789abcdef\r\n".repeat(20_000));
        let spilled = || (!world.files("drafts").is_empty()).then_some(());
        assert!(eventually(spilled).is_some(), "a part of it is in a file");
        client
    }),
    ("before the last dot", |_, daemon, door| {
        let mut client = Client::in_data(daemon, door);
        client.send(text("unfinished").trim_end_matches('.').as_bytes());
        client
    }),
    ("behind the last dot", |_, daemon, door| {
        let mut client = Client::in_data(daemon, door);
        client.send(text("unfinished").as_bytes());
        client
    }),
];

/// A client that is gone takes what it began with it, and leaves its place.
#[test]
fn a_client_can_vanish_at_any_point() {
    let world = World::with_limits("connections_per_address = 3");
    let daemon = world.start();
    for (name, progress) in POINTS {
        for door in DOORS {
            for reset in [false, true] {
                let client = progress(&world, &daemon, door);
                let is_me = client.is_me();
                client.vanish(reset);
                let closed = daemon.event("closed", is_me);
                assert_eq!(closed["messages"], 0, "{name}");
            }
        }
        let gone = || world.files("drafts").is_empty().then_some(());
        assert!(
            eventually(gone).is_some(),
            "{name}: {:?}",
            world.files("drafts")
        );
        assert_eq!(world.files("ready"), [""; 0], "{name}");
    }
    let inside = [(); 3].map(|()| Client::secured(&daemon, TlsStart::StartTls));
    drop(inside);
    daemon.all_closed();
    still_serves(&daemon);
    assert_eq!(world.queued().len(), 2);
}

/// A client that leaves right behind the end of its message has sent it all: what it would have been told is in the
/// log.
#[test]
fn who_leaves_behind_the_end_has_sent_it() {
    let world = World::with_limits("");
    let daemon = world.start();
    let mut client = Client::secured(&daemon, TlsStart::StartTls);
    client.login(ALICE, PASSWORD);
    client.begin_message();
    client.say(&text("and away"));
    client.vanish(false);
    daemon.event("message.accepted", |event| event["account"] == ALICE);
    assert_eq!(world.queued().len(), 1);
}
