//! Listeners behind a proxy: what a PROXY header changes, and who may say one. The proxy here is the test; haproxy and
//! nginx are in `proxy_programs.rs`.

use std::net::Ipv4Addr;

use gatepost::server::TlsStart;
use serde_json::Value;

use super::harness::{
    ALICE, Client, DOORS, Daemon, PASSWORD, Settings, World, account, another_loopback, eventually,
    listeners_of,
};

const ACCEPTED: &str = "235 2.7.0 authentication succeeded";
const FAILED: &str = "535 5.7.8 authentication failed";
const TOO_MANY: &str = "421 4.7.0 too many connections, try again later";
const OURS: &str = "proxy_protocol = true\nproxies = [\"127.0.0.1\"]\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Both listeners believe 127.0.0.1.
fn world(limits: &'static str) -> World {
    World::new(Settings {
        listeners: OURS,
        limits,
        ..Settings::default()
    })
}

fn v1(client: &str, port: u16) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.1 {port} 587\r\n").into_bytes()
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

/// The version 2 header of an IPv4 client, with these TLVs.
fn v2_tcp4(client: &str, port: u16, fields: &[u8]) -> Vec<u8> {
    let client: Ipv4Addr = client.parse().unwrap();
    let ours = Ipv4Addr::new(198, 51, 100, 1);
    let ports = [port.to_be_bytes(), 587_u16.to_be_bytes()].concat();
    let rest = [&client.octets()[..], &ours.octets(), &ports, fields].concat();
    v2(0x21, 0x11, &rest)
}

fn local() -> Vec<u8> {
    v2(0x20, 0x00, b"")
}

/// A connection that begins with this.
fn beginning_with(daemon: &Daemon, door: TlsStart, header: &[u8]) -> Client {
    let mut client = Client::connect(daemon, door);
    assert!(client.send(header));
    client
}

fn secured(daemon: &Daemon, door: TlsStart, header: &[u8]) -> Client {
    let mut client = beginning_with(daemon, door, header);
    client.secure(door);
    client
}

fn is_from(client: &str, port: u16) -> impl Fn(&Value) -> bool {
    move |event| event["client"] == client && event["port"] == port
}

#[test]
fn the_client_is_who_the_proxy_says() {
    let mut world = world("");
    world.settings.auth = "\n[message]\nreveal_client = true";
    world.write_configuration();
    let daemon = world.start();
    let six = b"PROXY TCP6 2001:db8::7 2001:db8::1 50003 587\r\n".to_vec();
    let mapped = b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 50004 587\r\n".to_vec();
    for (header, address, port) in [
        (v1("192.0.2.7", 50_001), "192.0.2.7", 50_001),
        (v2_tcp4("192.0.2.7", 50_002, b""), "192.0.2.7", 50_002),
        (six, "2001:db8::7", 50_003),
        (mapped, "192.0.2.7", 50_004),
    ] {
        for door in DOORS {
            let known = daemon.log.mark();
            let mut client = secured(&daemon, door, &header);
            assert_eq!(client.login(ALICE, PASSWORD), ACCEPTED);
            let reply = client.message("through a proxy");
            assert!(reply.starts_with("250 "), "{reply}");
            let local = client.local();
            client.expect("QUIT", "221 ");
            drop(client);
            // The log is read by a thread of its own: until its last line is there, others may be missing.
            let events = eventually(|| {
                let lines = daemon.log.since(known);
                let events: Vec<Value> = lines
                    .iter()
                    .map(|line| serde_json::from_str(line).unwrap())
                    .filter(|event: &Value| !event["session"].is_null())
                    .collect();
                let is_over = events.iter().any(|event| event["event"] == "closed");
                is_over.then_some(events)
            });
            let events = events.expect("the connection is closed");
            for event in &events {
                assert!(is_from(address, port)(event), "{event}");
            }
            let connected = &events[0];
            assert_eq!(connected["event"], "connected");
            assert_eq!(connected["proxy"], local);
            assert_eq!(connected["listener"], daemon.address(door).to_string());
            for name in ["auth.accepted", "message.accepted", "closed"] {
                assert!(events.iter().any(|event| event["event"] == name), "{name}");
            }
            let (envelope, message) = world.queued().pop().unwrap();
            assert_eq!(envelope["client"]["address"], address);
            assert_eq!(envelope["client"]["port"], port);
            let received = message.split("\r\n").next().unwrap();
            assert!(received.contains(address), "{received}");
        }
    }
}

/// Behind the header, in the same segment, are TLS or SMTP; and the header may come in pieces.
#[test]
fn not_one_octet_of_what_follows_is_lost() {
    let world = world("");
    let daemon = world.start();
    for header in [v1("192.0.2.7", 50_001), v2_tcp4("192.0.2.7", 50_002, b"")] {
        let mut client = Client::connect(&daemon, TlsStart::StartTls);
        client.send(&[&header[..], b"EHLO laptop.example.org\r\nNOOP\r\nQUIT\r\n"].concat());
        assert!(client.reply().starts_with("220 "));
        for start in ["250 ", "250 2.0.0 ", "221 "] {
            assert!(client.reply().starts_with(start));
        }

        let mut client = Client::connect(&daemon, TlsStart::Implicit);
        let hello = client.client_hello();
        client.send(&[&header[..], &hello].concat());
        // A TLS handshake message: ours was read from its first octet on.
        assert_eq!(client.octets(3)[..2], [0x16, 0x03]);

        for door in DOORS {
            let mut client = Client::connect(&daemon, door);
            for octet in &header {
                assert!(client.send(&[*octet]));
            }
            client.secure(door);
            assert_eq!(client.login(ALICE, PASSWORD), ACCEPTED);
        }
    }
}

/// STARTTLS and its own rules are as they are: what the proxy says of TLS is not ours.
#[test]
fn tls_facts_of_the_proxy_are_not_believed() {
    let world = world("");
    let daemon = world.start();
    let certificate = [
        // TLS was used, with a certificate, which was verified.
        &[0x20, 0x00, 0x19, 0x07, 0, 0, 0, 0][..],
        &[0x21, 0x00, 0x07],
        b"TLSv1.3",
        &[0x22, 0x00, 0x07],
        b"alice@e",
    ]
    .concat();
    let header = v2_tcp4("192.0.2.7", 50_001, &certificate);
    let mut client = beginning_with(&daemon, TlsStart::StartTls, &header);
    assert!(client.reply().starts_with("220 "));
    client.say("EHLO laptop.example.org");
    while let line = client.line()
        && !line.starts_with("250 ")
    {
        assert!(line.starts_with("250-") && !line.contains("AUTH"), "{line}");
    }
    assert_eq!(
        client.login(ALICE, PASSWORD),
        "538 5.7.11 encryption required: use STARTTLS first"
    );
    assert!(
        client
            .ask("MAIL FROM:<alice@example.org>")
            .starts_with("530 ")
    );
    let mut client = secured(&daemon, TlsStart::StartTls, &header);
    assert!(
        client
            .ask("MAIL FROM:<alice@example.org>")
            .starts_with("530 ")
    );
}

#[test]
fn allow_from_is_about_the_client() {
    let world = world("");
    world.replace(
        "accounts.toml",
        &account(ALICE, PASSWORD, "allow_from = [\"192.0.2.0/24\"]"),
    );
    let daemon = world.start();
    for door in DOORS {
        let mut inside = secured(&daemon, door, &v1("192.0.2.7", 50_001));
        assert_eq!(inside.login(ALICE, PASSWORD), ACCEPTED);
        for header in [v2_tcp4("198.51.100.7", 50_002, b""), local()] {
            let mut outside = secured(&daemon, door, &header);
            assert_eq!(outside.login(ALICE, PASSWORD), FAILED);
        }
        let refused = daemon.event("auth.refused", is_from("198.51.100.7", 50_002));
        assert_eq!(refused["reason"], "address not in allow_from");
    }
}

#[test]
fn connections_are_counted_for_the_client() {
    let world = world("connections_per_address = 2\nconnections = 8");
    let daemon = world.start();
    for (door, base) in DOORS.into_iter().zip([50_000, 51_000]) {
        let mut inside = vec![
            secured(&daemon, door, &v1("192.0.2.7", base + 1)),
            secured(&daemon, door, &v2_tcp4("192.0.2.7", base + 2, b"")),
            // The proxy itself, and those of whom it knows nothing, are not limited so.
            secured(&daemon, door, &local()),
            secured(&daemon, door, &local()),
            secured(&daemon, door, b"PROXY UNKNOWN\r\n"),
            secured(&daemon, door, &v1("198.51.100.7", base + 3)),
        ];
        let mut third = beginning_with(&daemon, door, &v1("192.0.2.7", base + 4));
        assert_eq!(third.greeting(door), TOO_MANY);
        assert_eq!(third.rest(), "");
        let refused = daemon.event("refused", is_from("192.0.2.7", base + 4));
        assert_eq!(refused["reason"], "limits.connections_per_address");
        assert_eq!(refused["proxy"], third.local());

        // A place is free when the client is gone.
        inside.remove(0).expect("QUIT", "221 ");
        daemon.event("closed", is_from("192.0.2.7", base + 1));
        inside.push(secured(&daemon, door, &v1("192.0.2.7", base + 5)));

        // All together have their bound, whose header has not come as well.
        let mut silent = [
            Client::connect(&daemon, door),
            Client::connect(&daemon, door),
        ];
        for client in &mut silent {
            client.send(b"PROXY");
        }
        let mut more = beginning_with(&daemon, door, &v1("203.0.113.7", base + 6));
        assert_eq!(more.greeting(door), TOO_MANY);
        let refused = daemon.event("refused", is_from("203.0.113.7", base + 6));
        assert_eq!(refused["reason"], "limits.connections");
        for client in silent {
            let is_me = client.is_me();
            drop(client);
            daemon.event("proxy.refused", is_me);
        }
        secured(&daemon, door, &v1("203.0.113.7", base + 7));
        drop(inside);
        daemon.all_closed();
    }
}

/// The guard counts failures for the address in the header: neither the proxy nor anybody else whom it brings is banned
/// with a guesser.
#[test]
fn guests_of_a_proxy_are_banned_one_by_one() {
    const BANNED: &str =
        "421 4.7.0 too many failed authentications from your address, try again later";
    let world = World::new(Settings {
        listeners: OURS,
        guessing: "failures_per_address = 3\nfailures_per_login = 3\ndelay_max = \"off\"",
        ..Settings::default()
    });
    let daemon = world.start();
    let six =
        |host: &str| format!("PROXY TCP6 2001:db8:{host} 2001:db8::1 50003 587\r\n").into_bytes();
    for (guesser, header, neighbour, stranger) in [
        (
            "192.0.2.66",
            v1("192.0.2.66", 50_001),
            v1("192.0.2.67", 50_001),
            v2_tcp4("203.0.113.9", 50_001, b""),
        ),
        (
            "198.51.100.66",
            v2_tcp4("198.51.100.66", 50_001, b""),
            v2_tcp4("198.51.100.67", 50_001, b""),
            v1("203.0.113.10", 50_001),
        ),
        (
            "2001:db8:0:7::/64",
            six("0:7::1"),
            six("0:8::1"),
            six("9::1"),
        ),
    ] {
        for number in 0..3 {
            let mut client = secured(&daemon, TlsStart::Implicit, &header);
            assert_eq!(client.login(ALICE, &format!("guess {number}")), FAILED);
        }
        let banned = daemon.event("banned", |event| {
            event["scope"] == "network" && event["network"] == guesser
        });
        assert_eq!(banned["enforced"], true);
        // The guesser is out, with a word where TLS does not come first.
        let mut client = beginning_with(&daemon, TlsStart::StartTls, &header);
        assert_eq!(client.reply(), BANNED);
        assert_eq!(client.rest(), "");
        let mut client = beginning_with(&daemon, TlsStart::Implicit, &header);
        assert!(client.try_handshake().is_err());
        // Nobody else is: not those beside it, not those who come for the first time, not the proxy.
        for other in [&neighbour, &stranger, &local()] {
            for door in DOORS {
                let mut client = secured(&daemon, door, other);
                assert_eq!(client.login(ALICE, PASSWORD), ACCEPTED);
            }
        }
    }
    let bans = world.ask(&["ban", "list"]);
    let bans = bans.as_array().unwrap();
    let of_networks = bans.iter().filter(|ban| ban["kind"] == "network");
    assert_eq!(of_networks.count(), 3);
    assert!(bans.iter().all(|ban| ban["network"] != "127.0.0.1"));
    let is_shared = |event: &Value| event["event"] == "guessing.shared_address";
    assert!(!daemon.events().iter().any(is_shared));
}

/// Closed without a word, and the log says why.
fn refused(daemon: &Daemon, client: &mut Client, reason: &str) -> Value {
    assert_eq!(client.rest(), "");
    let event = daemon.event("proxy.refused", client.is_me());
    assert_eq!(event["reason"], reason);
    event
}

#[test]
fn without_a_good_header_nobody_comes_in() {
    let world = world("");
    let daemon = world.start();
    for door in DOORS {
        let hello = Client::connect(&daemon, door).client_hello();
        for (octets, reason) in [
            (&b"EHLO laptop.example.org\r\n"[..], "no PROXY header"),
            (&hello, "no PROXY header"),
            (b"GET / HTTP/1.1\r\n\r\n", "no PROXY header"),
            (b"PROXY TCP4 192.0.2.7\r\n", "malformed PROXY header"),
            (
                b"PROXY TCP4 localhost localhost 1 2\r\n",
                "malformed PROXY header",
            ),
            (&v2(0x21, 0x12, &[0; 12]), "malformed PROXY header"),
            (&[b'P', b'R'].repeat(2000), "no PROXY header"),
            (
                &[b"PROXY UNKNOWN ", &[b'x'; 4000][..]].concat(),
                "PROXY header too large",
            ),
            (&v2(0x21, 0x11, &[0; 5000]), "PROXY header too large"),
            (
                &v2_tcp4("192.0.2.7", 1, &[3, 0, 4, 1, 2, 3, 4]),
                "PROXY header with a wrong checksum",
            ),
        ] {
            let mut client = beginning_with(&daemon, door, octets);
            let event = refused(&daemon, &mut client, reason);
            assert_eq!(event["level"], "warn");
            assert_eq!(event["listener"], daemon.address(door).to_string());
        }
        let mut half = beginning_with(&daemon, door, b"PROXY TCP4 192.0.2.7 ");
        half.end();
        let event = refused(
            &daemon,
            &mut half,
            "connection ended before its PROXY header",
        );
        assert_eq!(event["level"], "warn");
        // Somebody who only looks whether the port is open fills no log.
        let mut nothing = Client::connect(&daemon, door);
        nothing.end();
        let event = refused(
            &daemon,
            &mut nothing,
            "connection ended before its PROXY header",
        );
        assert_eq!(event["level"], "debug");
    }
    let names = daemon.events();
    assert!(names.iter().all(|event| event["event"] != "connected"));
    assert_eq!(world.files("ready"), [""; 0]);
}

#[test]
fn a_header_takes_its_time_and_no_more() {
    let world = world("");
    let daemon = world.start();
    let begun = v2_tcp4("192.0.2.7", 50_001, b"");
    let waiting = DOORS.map(|door| {
        [&b""[..], b"PROXY TCP4 192.0.2.7 ", &begun[..20]]
            .map(|octets| beginning_with(&daemon, door, octets))
    });
    for mut client in waiting.into_iter().flatten() {
        let event = refused(&daemon, &mut client, "PROXY header took too long");
        assert_eq!(event["level"], "warn");
    }
}

/// A stop does not wait for headers.
#[test]
fn a_stop_waits_for_no_header() {
    let world = world("");
    let daemon = world.start();
    let mut waiting = beginning_with(&daemon, TlsStart::Implicit, b"PROXY ");
    let mut inside = secured(&daemon, TlsStart::Implicit, &local());
    let is_me = waiting.is_me();
    inside.expect("NOOP", "250 ");
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(waiting.rest(), "");
    assert_eq!(
        daemon.event("proxy.refused", is_me)["reason"],
        "the server stops"
    );
}

#[test]
fn only_proxies_are_listened_to() {
    let world = world("");
    let daemon = world.start();
    for door in DOORS {
        let from = another_loopback();
        let mut stranger = Client::connect_from(&daemon, from, daemon.address(door));
        stranger.send(&v1("192.0.2.7", 50_001));
        let event = refused(&daemon, &mut stranger, "address not in proxies");
        assert_eq!(event["client"], from.to_string());
        assert_eq!(event["level"], "warn");
    }
    let events = daemon.events();
    assert!(events.iter().all(|event| event["event"] != "connected"));
}

#[test]
fn proxies_change_with_a_reload() {
    let mut world = world("");
    let daemon = world.start();
    let mut before = secured(&daemon, TlsStart::Implicit, &v1("192.0.2.7", 50_001));
    world.settings.listeners = "proxy_protocol = true\nproxies = [\"127.0.0.2/31\"]\n";
    world.write_configuration();
    let reload = daemon.reload();
    assert_eq!(reload["event"], "reload");
    assert_eq!(listeners_of(&reload), daemon.listeners);
    for door in DOORS {
        let mut stranger = beginning_with(&daemon, door, &v1("192.0.2.7", 50_002));
        refused(&daemon, &mut stranger, "address not in proxies");
        let from = another_loopback();
        let mut friend = Client::connect_from(&daemon, from, daemon.address(door));
        friend.send(&v1("192.0.2.7", 50_003));
        friend.secure(door);
        assert_eq!(friend.login(ALICE, PASSWORD), ACCEPTED);
    }
    assert_eq!(before.login(ALICE, PASSWORD), ACCEPTED);
}

/// As with the kind of TLS: the listener that is to go still holds the port.
#[test]
fn a_port_that_is_to_ask_for_headers_needs_a_restart() {
    let mut world = World::with_limits("");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    world.settings.listen = vec![(address, "implicit")];
    world.write_configuration();
    let daemon = world.start();
    world.settings.listeners = OURS;
    world.write_configuration();
    let failed = daemon.reload();
    assert_eq!(failed["event"], "reload.failed");
    let error = failed["error"].as_str().unwrap();
    let hint = "gatepost itself listens on this port";
    assert!(error.contains(hint), "{error}");
    Client::logged_in(&daemon, TlsStart::Implicit);
}

/// Who is not asked for a header and gives one is a client that speaks no SMTP.
#[test]
fn elsewhere_a_header_is_a_bad_command() {
    let world = World::with_limits("");
    let daemon = world.start();
    let (mut client, _) = Client::greeted(&daemon, TlsStart::StartTls);
    client.expect("PROXY TCP4 192.0.2.7 198.51.100.1 50001 587", "500 5.5.1 ");
    // The second version has four lines before its addresses, one of them no line at all.
    client.send(&v2_tcp4("192.0.2.7", 50_002, b"\r\n"));
    client.say("NOOP");
    let mut replies = Vec::new();
    loop {
        match client.reply() {
            reply if reply.starts_with("250 ") => break,
            reply => replies.push(reply),
        }
    }
    assert!(!replies.is_empty());
    assert!(
        replies.iter().all(|reply| reply.starts_with("500 5.5.")),
        "{replies:?}"
    );
    for header in [v1("192.0.2.7", 50_001), v2_tcp4("192.0.2.7", 50_002, b"")] {
        let mut client = beginning_with(&daemon, TlsStart::Implicit, &header);
        assert!(client.try_handshake().is_err());
    }
    drop(client);
    daemon.all_closed();
    for event in daemon.events() {
        assert!(
            event["client"] == "127.0.0.1" || event["client"].is_null(),
            "{event}"
        );
        assert_eq!(event["proxy"], Value::Null);
    }
}

/// Health checks come every few seconds, and an ordinary log has no line of them.
#[test]
fn a_proxy_that_looks_after_us_fills_no_log() {
    let world = world("");
    let daemon = world.start();
    for door in DOORS {
        for header in [local(), b"PROXY UNKNOWN\r\n".to_vec()] {
            // As far as the connection, the greeting, TLS, EHLO.
            beginning_with(&daemon, door, &header).vanish(true);
            beginning_with(&daemon, door, &header).vanish(false);
            let mut client = beginning_with(&daemon, door, &header);
            client.greeting(door);
            let mut client = secured(&daemon, door, &header);
            let connected = daemon.event("connected", client.is_me());
            assert_eq!(connected["client"], "127.0.0.1");
            assert_eq!(connected["proxy"], client.local());
            client.expect("QUIT", "221 ");
        }
    }
    daemon.all_closed();
    let loud: Vec<Value> = daemon
        .events()
        .into_iter()
        .filter(|event| !event["session"].is_null() && event["level"] != "debug")
        .collect();
    assert!(loud.is_empty(), "{loud:#?}");

    // Mail that comes so is in the log as ever.
    let mut client = secured(&daemon, TlsStart::Implicit, &local());
    assert_eq!(client.login(ALICE, PASSWORD), ACCEPTED);
    assert!(client.message("from the proxy").starts_with("250 "));
    let is_me = client.is_me();
    client.expect("QUIT", "221 ");
    assert_eq!(daemon.event("closed", is_me)["level"], "info");
    let (envelope, _) = world.queued().pop().unwrap();
    assert_eq!(envelope["client"]["address"], "127.0.0.1");
}
