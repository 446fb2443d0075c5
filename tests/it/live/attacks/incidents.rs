//! What went wrong elsewhere, tried here: docs/incidents.md says which incident each of these is for.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gatepost::server::TlsStart;
use rustls::StreamOwned;
use serde_json::{Value, json};

use super::super::harness::{
    ALICE, Client, DOORS, Daemon, PASSWORD, Settings, World, eventually, text,
};
use super::{MALLORY, Target, TlsStream, ask, reply, world};

const ACCEPTED: &str = "235 2.7.0 authentication succeeded";

/// Every sequence of up to three of these.
fn sequences(of: [&str; 3]) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut longest = found.clone();
    for _ in 0..3 {
        longest = longest
            .iter()
            .flat_map(|start| of.map(|next| format!("{start}{next}")))
            .collect();
        found.extend(longest.iter().cloned());
    }
    found
}

/// SMTP smuggling: what is taken for the end of the data by some and for text by others. Only CRLF.CRLF is the end, and
/// nothing is stored that anybody else could take for one.
#[test]
fn only_one_end_of_data() {
    let mut world = world(
        "errors_per_connection = 1000\nmessages_per_connection = 999999",
        "",
    );
    world.settings.queue = "minimum_free = \"1MiB\"\nduplicate_window = \"off\"";
    world.write_configuration();
    let daemon = world.start();
    let mut accepted = 0;
    for before in sequences(["\r", "\n", "x"]) {
        let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
        for after in sequences(["\r", "\n", "x"]) {
            client.begin_message();
            let octets = format!("From: <{ALICE}>\r\n\r\na{before}.{after}\r\n.\r\n");
            client.send(octets.as_bytes());
            let (message, left) = octets.split_once("\r\n.\r\n").unwrap();
            let is_clean = !message.replace("\r\n", "").contains(['\r', '\n']);
            let expected = match is_clean {
                true => "250 2.0.0 queued as ",
                false => "554 5.6.0 message refused: it holds a NUL, a bare CR or a bare LF",
            };
            accepted += usize::from(is_clean);
            let answer = client.reply();
            assert!(answer.starts_with(expected), "{octets:?}: {answer}");
            // What is left behind the end are commands.
            for _ in left.matches("\r\n") {
                let answer = client.reply();
                assert!(answer.starts_with("500 5.5."), "{octets:?}: {answer}");
            }
        }
        client.expect("QUIT", "221 ");
    }
    let queued = world.queued();
    assert_eq!(queued.len(), accepted);
    for (_, message) in queued {
        let lines = message.replace("\r\n", "");
        assert!(!lines.contains(['\r', '\n']), "{message:?}");
    }
}

/// STARTTLS injection: whatever comes behind STARTTLS in the clear, and however it is cut, is never a command.
#[test]
fn nothing_behind_starttls_is_a_command() {
    let world = world("", "");
    let daemon = world.start();
    let target = Target::of(&world, &daemon, 0);
    let mut stream = target.under_tls(TlsStart::StartTls).unwrap();
    let offer = ask(&mut stream, b"EHLO x\r\n").unwrap();
    drop(stream);
    for command in [
        "AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAGNvcnJlY3QgaG9yc2U=\r\n",
        "BDAT 5 LAST\r\nQUIT\r\n",
        "DATA\r\n",
        "EHLO injected.example.org\r\n",
        "EXPN x\r\n",
        "HELO injected.example.org\r\n",
        "HELP\r\n",
        "MAIL FROM:<alice@example.org>\r\n",
        "NOOP\r\n",
        "QUIT\r\n",
        "RCPT TO:<bob@example.net>\r\n",
        "RSET\r\n",
        "STARTTLS\r\n",
        "VRFY x\r\n",
    ] {
        let octets = format!("STARTTLS\r\n{command}");
        for cut in 0..octets.len() {
            let mut stream = target.greeted().unwrap();
            ask(&mut stream, b"EHLO x\r\n").unwrap();
            let (first, second) = octets.as_bytes().split_at(cut);
            // It may be closed before the second part.
            let _ = stream.write_all(first);
            let _ = stream.write_all(second);
            let Ok(answer) = reply(&mut stream) else {
                continue;
            };
            if answer == "501 5.5.2 data behind STARTTLS, closing the connection" {
                assert!(reply(&mut stream).is_err(), "{octets:?} cut at {cut}");
                continue;
            }
            assert!(answer.starts_with("220 2.0.0 "), "{octets:?}: {answer}");
            // Octets that came later are for TLS, which cannot read them.
            let mut connection = target.connection();
            let mut handshake = || -> io::Result<()> {
                while connection.is_handshaking() {
                    connection.complete_io(&mut stream)?;
                }
                Ok(())
            };
            if handshake().is_err() {
                continue;
            }
            // Who gets through hears one reply to each command of theirs.
            let mut stream = StreamOwned::new(connection, stream);
            for (command, expected) in [("EHLO x\r\n", &*offer), ("QUIT\r\n", "221 2.0.0 goodbye")]
            {
                let answer = ask(&mut stream, command.as_bytes()).unwrap();
                assert_eq!(answer, expected, "{octets:?} cut at {cut}");
            }
        }
    }
    daemon.all_closed();
    let events = daemon.events();
    let heard = |event: &&Value| {
        let name = event["event"].as_str().unwrap();
        ["auth", "mail", "rcpt", "message"].contains(&name.split('.').next().unwrap())
    };
    assert_eq!(events.iter().find(heard), None);

    // And what was said before the handshake counts for nothing behind it (RFC 3207 section 4.2).
    let mut client = Client::greeted(&daemon, TlsStart::StartTls).0;
    client.expect("EHLO before.example.org", "250 ");
    client.start_tls();
    assert_eq!(client.login(ALICE, PASSWORD), "503 5.5.1 send EHLO first");
}

/// How far a client gets.
type Progress = (&'static str, &'static [&'static [u8]]);

const MAIL: &[u8] = b"MAIL FROM:<mallory@example.org>\r\n";
const RCPT: &[u8] = b"RCPT TO:<bob@example.net>\r\n";

/// What is said behind EHLO, each with its reply but the last; the last leaves the session in the middle of something.
const STATES: [Progress; 10] = [
    ("greeted", &[b""]),
    ("in AUTH", &[b"AUTH LOGIN\r\n", b""]),
    ("in a response", &[b"AUTH LOGIN\r\n", b"bWFsbG9y"]),
    ("logged in", &[LOGIN, b""]),
    ("in a command", &[LOGIN, b"MAIL FR"]),
    ("in a transaction", &[LOGIN, MAIL, RCPT, b""]),
    (
        "in a header section",
        &[LOGIN, MAIL, RCPT, b"DATA\r\n", b"From: <mallory@exa"],
    ),
    (
        "in a body",
        &[
            LOGIN,
            MAIL,
            RCPT,
            b"DATA\r\n",
            b"From: <mallory@example.org>\r\n\r\nhalf\r\n.",
        ],
    ),
    (
        "in a chunk",
        &[
            LOGIN,
            MAIL,
            RCPT,
            b"BDAT 1000\r\nFrom: <mallory@example.org>\r\n\r\nhalf",
        ],
    ),
    (
        "between chunks",
        &[
            LOGIN,
            MAIL,
            RCPT,
            b"BDAT 31\r\nFrom: <mallory@example.org>\r\n\r\n",
            b"",
        ],
    ),
];
const LOGIN: &[u8] = b"AUTH PLAIN AG1hbGxvcnlAZXhhbXBsZS5vcmcAY29ycmVjdCBob3JzZQ==\r\n";

/// How TLS ends, and what does it.
type Ending = (&'static str, fn(&mut TlsStream));

fn in_state(target: &Target, door: TlsStart, (name, said): Progress) -> TlsStream {
    let mut stream = target.secured(door).unwrap();
    let (last, before) = said.split_last().unwrap();
    for octets in before {
        let answer = ask(&mut stream, octets).unwrap();
        assert!(answer.starts_with(['2', '3']), "{name}: {answer}");
    }
    stream.write_all(last).unwrap();
    stream.flush().unwrap();
    stream
}

/// TLS that ends inside BDAT was the use after free of CVE-2026-45185. Here it ends in every state, in every way, and once
/// it has, nothing that comes is heard.
#[test]
fn tls_can_end_in_every_state() {
    const ENDINGS: [Ending; 4] = [
        ("close_notify, and commands in the clear", |stream| {
            stream.conn.send_close_notify();
            let _ = stream.flush();
            let _ = stream.sock.write_all(b"\r\n.\r\nNOOP\r\nQUIT\r\n");
            let _ = stream.sock.shutdown(Shutdown::Write);
        }),
        ("commands in the clear", |stream| {
            let _ = stream.sock.write_all(b"\r\n.\r\nNOOP\r\nQUIT\r\n");
            let _ = stream.sock.shutdown(Shutdown::Write);
        }),
        ("the end of TCP", |stream| {
            let _ = stream.sock.shutdown(Shutdown::Write);
        }),
        ("a reset", |_| {}),
    ];
    let world = world("", "");
    let daemon = world.start();
    let target = Target::of(&world, &daemon, 0);
    for state in STATES {
        for (number, (ending, end)) in ENDINGS.iter().enumerate() {
            let mut stream = in_state(&target, DOORS[number % 2], state);
            let port = stream.sock.local_addr().unwrap().port();
            end(&mut stream);
            if *ending == "a reset" {
                drop(stream);
            } else {
                let mut left = Vec::new();
                let _ = stream.sock.read_to_end(&mut left);
                let left = String::from_utf8_lossy(&left);
                assert!(
                    !left.contains("250 ") && !left.contains("221 "),
                    "{state:?} {ending}"
                );
            }
            let closed = daemon.event("closed", |event| event["port"] == port);
            assert_eq!(closed["messages"], 0, "{} {ending}", state.0);
        }
    }
    daemon.all_closed();
    let gone = eventually(|| world.files("drafts").is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", world.files("drafts"));
    assert_eq!(world.files("ready"), [""; 0]);
    honest(&daemon);
}

/// STARTTLS where there is TLS already is an error or text, and never a second handshake.
#[test]
fn starttls_in_every_state() {
    let world = world("", "");
    let daemon = world.start();
    let target = Target::of(&world, &daemon, 0);
    for state in STATES {
        let mut stream = in_state(&target, TlsStart::StartTls, state);
        stream.write_all(b"STARTTLS\r\n").unwrap();
        let (name, said) = state;
        let is_text = name == "in a header section" || name == "in a body" || name == "in a chunk";
        if !is_text {
            let answer = reply(&mut stream).unwrap();
            assert!(answer.starts_with('5'), "{name}: {answer}");
            let answer = ask(&mut stream, b"NOOP\r\n").unwrap();
            assert_eq!(answer, "250 2.0.0 ok", "{name}");
            continue;
        }
        // The rest of what it is in the middle of.
        let left = match name {
            "in a chunk" => vec![b'x'; 1000 - (said[3].len() - 11) - 10],
            _ => b"ample.org>\r\n\r\n\r\n.\r\n".to_vec(),
        };
        let answer = ask(&mut stream, &left).unwrap();
        assert!(!answer.starts_with("220"), "{name}: {answer}");
        assert_eq!(
            ask(&mut stream, b"NOOP\r\n").unwrap(),
            "250 2.0.0 ok",
            "{name}"
        );
    }
    honest(&daemon);
}

fn honest(daemon: &Daemon) {
    for door in DOORS {
        let answer = Client::logged_in(daemon, door).message("served");
        assert!(answer.starts_with("250 "), "{answer}");
    }
}

/// Nobody sends mail without a login, wherever they come from and whoever they say they are: the relays that Docker's NAT
/// opened trusted an address.
#[test]
fn no_relay_for_anybody() {
    let refused = |client: &mut Client, who: &str| {
        for (line, expected) in [
            (
                "MAIL FROM:<alice@example.org>",
                "530 5.7.0 authentication required",
            ),
            ("MAIL FROM:<>", "530 5.7.0 authentication required"),
            (
                "RCPT TO:<bob@example.net>",
                "530 5.7.0 authentication required",
            ),
            (
                "RCPT TO:<alice@example.org>",
                "530 5.7.0 authentication required",
            ),
            ("DATA", "530 5.7.0 authentication required"),
        ] {
            assert_eq!(client.ask(line), expected, "{who}: {line}");
        }
    };
    let mut world = World::new(Settings {
        listen: vec![
            ("127.0.0.1:0".to_owned(), "starttls"),
            ("127.0.0.1:0".to_owned(), "implicit"),
            ("[::1]:0".to_owned(), "starttls"),
            ("[::1]:0".to_owned(), "implicit"),
        ],
        ..Settings::default()
    });
    let daemon = world.start();
    for (address, door) in &daemon.listeners {
        let mut sources = vec![(address.ip(), *address)];
        if let IpAddr::V4(v4) = address.ip() {
            sources.push(("127.0.0.2".parse().unwrap(), *address));
            let mapped = SocketAddr::new(v4.to_ipv6_mapped().into(), address.port());
            sources.push((mapped.ip(), mapped));
        }
        for (source, address) in sources {
            let mut client = Client::connect_from(&daemon, source, address);
            client.greeting(*door);
            client.expect("EHLO localhost", "250 ");
            refused(&mut client, &format!("{source} in the clear or under TLS"));
            if *door == TlsStart::StartTls {
                client.start_tls();
                client.expect("EHLO localhost", "250 ");
                refused(&mut client, &format!("{source} under TLS"));
            }
        }
    }
    drop(daemon);

    world.settings.listen.truncate(2);
    world.settings.listeners = "proxy_protocol = true\nproxies = [\"127.0.0.1\"]\n";
    world.write_configuration();
    let daemon = world.start();
    for client_address in [
        "TCP4 127.0.0.1 127.0.0.1",
        "TCP4 10.0.0.1 10.0.0.2",
        "TCP4 172.17.0.1 172.17.0.2",
        "TCP4 192.168.1.1 192.168.1.2",
        "TCP6 ::1 ::1",
        "TCP6 fd00::1 fd00::2",
        "TCP6 fe80::1 fe80::2",
        "TCP6 ::ffff:127.0.0.1 ::1",
        "TCP6 ::ffff:10.0.0.1 ::1",
    ] {
        for door in DOORS {
            let mut client = Client::connect(&daemon, door);
            client.send(format!("PROXY {client_address} 1025 587\r\n").as_bytes());
            client.secure(door);
            refused(&mut client, client_address);
        }
    }
    assert_eq!(world.files("ready"), [""; 0]);
}

/// OpenSMTPD ran the text of an address in a shell, and took lines of an envelope for commands (CVE-2020-7247,
/// CVE-2020-8794). Whatever an envelope holds is one JSON text, and what comes out is what went in.
#[test]
fn no_field_breaks_out_of_the_envelope() {
    let world = world("", "");
    let daemon = world.start();
    let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
    client.expect(
        "MAIL FROM:<alice@example.org> SMTPUTF8 ENVID=a+22b+3Bc+5Cd RET=HDRS",
        "250 ",
    );
    let addresses = [
        "\";for i in 0 1;do read x;done;sh;exit 0;\"@example.net",
        "\"a\\\"b\\\\c\"@example.net",
        "\"`id`$(id)|id&&id\"@example.net",
        "\"../../etc/passwd\"@example.net",
        "\"'; DROP TABLE x; --\"@example.net",
        "\"%s%n\"@example.net",
        "\"\"@example.net",
        "{\"version\":1}@example.net",
        "-oQ/tmp@example.net",
        "\u{202e}x\u{2028}@example.net",
    ];
    let mut accepted = Vec::new();
    for address in addresses {
        let answer = client.ask(&format!("RCPT TO:<{address}> ORCPT=rfc822;x+3By@z.example"));
        match answer.starts_with("250 2.1.5 ") {
            true => accepted.push(address),
            false => assert!(answer.starts_with("501 5.1.3 "), "{address}: {answer}"),
        }
    }
    assert!(accepted.len() >= 7, "{accepted:?}");
    // What could end a line is in none of them.
    for octets in [
        "RCPT TO:<a\nb@example.net>",
        "RCPT TO:<\"a\nb\"@example.net>",
        "RCPT TO:<a\rb@example.net>",
        "RCPT TO:<\"a\0b\"@example.net>",
        "RCPT TO:<\"a\\\nb\"@example.net>",
        "RCPT TO:<bob@example.net> ORCPT=rfc822;a+0Ab@z.example",
        "RCPT TO:<bob@example.net> ORCPT=rfc822;a+00b@z.example",
    ] {
        let answer = client.ask(octets);
        assert!(answer.starts_with('5'), "{octets:?}: {answer}");
    }
    client.expect("DATA", "354 ");
    client.expect(&text("a message"), "250 ");
    let (envelope, _) = world.queued().pop().unwrap();
    let recipients = envelope["recipients"].as_array().unwrap();
    let mailbox =
        |one: &Value| gatepost::smtp::address::Mailbox::parse(one.as_str().unwrap().as_bytes());
    assert_eq!(recipients.len(), accepted.len());
    for (recipient, sent) in recipients.iter().zip(&accepted) {
        let stored = mailbox(&recipient["forward_path"]).unwrap();
        assert_eq!(Ok(stored), mailbox(&json!(sent)), "{sent}");
        assert_eq!(recipient["orcpt"], "rfc822;x;y@z.example");
    }
    assert_eq!(envelope["envid"], "a\"b;c\\d");
    let name = world
        .files("ready")
        .into_iter()
        .find(|name| name.ends_with(".json"))
        .unwrap();
    let file = std::fs::read_to_string(world.path("queue/ready").join(name)).unwrap();
    assert_eq!(file.trim_end().lines().count(), 1, "{file}");
}

/// Tables whose keys come from clients: a name of any kind is a key like any other, or none (CVE-2025-26794 and
/// CVE-2025-67896 were SQL in such a key). Afterwards the state files can be read, and everybody is who they were.
#[test]
fn names_of_any_kind() {
    let world = world("failed_logins_per_connection = 100", "");
    let daemon = world.start();
    honest(&daemon);
    let long = "x".repeat(9_000);
    for name in [
        "' OR '1'='1",
        "alice@example.org'; DROP TABLE limits; --",
        "alice@example.org\" OR \"\"=\"",
        "alice@example.org\n",
        "alice@example.org\r\nevent=auth.accepted",
        "alice@example.org\0mallory@example.org",
        "{\"alice@example.org\":1}",
        "../../queue/limits.json",
        "%s%s%s%n",
        "\u{0}",
        &long,
    ] {
        // One connection each: who guesses is made to wait on theirs.
        let mut client = Client::secured(&daemon, TlsStart::Implicit);
        let response = BASE64_STANDARD.encode(format!("\0{name}\0{PASSWORD}"));
        let answer = client.ask(&format!("AUTH PLAIN {response}"));
        assert!(answer.starts_with('5'), "{name:?}: {answer}");
        client.say("AUTH LOGIN");
        client.reply();
        client.say(&BASE64_STANDARD.encode(name));
        if client.reply().starts_with("334") {
            let answer = client.ask(&BASE64_STANDARD.encode(PASSWORD));
            assert!(answer.starts_with('5'), "{name:?}: {answer}");
        }
    }
    daemon.stop();
    for file in std::fs::read_dir(world.path("queue")).unwrap() {
        let path = file.unwrap().path();
        assert!(
            path.extension().is_none_or(|found| found != "broken"),
            "{path:?}"
        );
        if path.extension().is_some_and(|found| found == "json") {
            let content = std::fs::read_to_string(&path).unwrap();
            let state: Value = serde_json::from_str(&content).unwrap();
            assert!(
                !content.contains("DROP") && !content.contains(&long),
                "{path:?}: {state}"
            );
        }
    }
    let daemon = world.start();
    assert!(daemon.events().iter().all(|event| {
        let finding = event["finding"].as_str().unwrap_or_default();
        !finding.contains("cannot read the state")
    }));
    honest(&daemon);
}

/// An authorization identity is empty or the login itself; a good password of one's own does not make anybody else
/// (CVE-2023-27582).
#[test]
fn nobody_is_somebody_else() {
    let world = world("failed_logins_per_connection = 100", "");
    let daemon = world.start();
    let login = |authorization: &str, name: &str| {
        let mut client = Client::secured(&daemon, TlsStart::Implicit);
        let response = BASE64_STANDARD.encode(format!("{authorization}\0{name}\0{PASSWORD}"));
        let answer = client.ask(&format!("AUTH PLAIN {response}"));
        let sender = match answer.as_str() {
            ACCEPTED => Some(client.ask("MAIL FROM:<alice@example.org>")),
            _ => None,
        };
        (answer, sender)
    };
    for authorization in ["", MALLORY, "mallory@EXAMPLE.ORG"] {
        let (answer, sender) = login(authorization, MALLORY);
        assert_eq!(answer, ACCEPTED, "{authorization}");
        assert!(sender.unwrap().starts_with("550 5.7.1 "), "{authorization}");
    }
    for authorization in [ALICE, "root", "*", " ", "mallory@example.org ", "alice"] {
        let (answer, _) = login(authorization, MALLORY);
        assert!(
            answer.starts_with("535 5.7.8 "),
            "{authorization}: {answer}"
        );
    }
}

/// AUTH that is cancelled, left or broken off at each point, and commands where a response should be (CVE-2019-11494,
/// CVE-2019-11499, CVE-2020-10967).
#[test]
fn auth_can_be_broken_off_anywhere() {
    let world = world(
        "errors_per_connection = 1000\nfailed_logins_per_connection = 100",
        "",
    );
    let daemon = world.start();
    let target = Target::of(&world, &daemon, 0);
    for begin in [
        "AUTH PLAIN",
        "AUTH LOGIN",
        "AUTH LOGIN =",
        "AUTH LOGIN bWFsbG9yeUBleGFtcGxlLm9yZw==",
    ] {
        for end in [
            "*",
            "",
            "=",
            "==",
            "QUIT",
            "RSET",
            "AUTH PLAIN",
            "AAAA",
            "\0",
            "*\0",
            " *",
            "* ",
        ] {
            let mut stream = target.secured(TlsStart::Implicit).unwrap();
            let answer = ask(&mut stream, format!("{begin}\r\n").as_bytes()).unwrap();
            assert!(answer.starts_with("334"), "{begin}: {answer}");
            let mut answer = ask(&mut stream, format!("{end}\r\n").as_bytes()).unwrap();
            if answer.starts_with("334") {
                answer = ask(&mut stream, b"*\r\n").unwrap();
            }
            assert!(answer.starts_with('5'), "{begin}, {end}: {answer}");
            // Still a session, and nobody's.
            assert!(
                ask(&mut stream, b"MAIL FROM:<mallory@example.org>\r\n")
                    .unwrap()
                    .starts_with("530 ")
            );
        }
    }
    // HELO in the same segment as what follows it.
    let mut stream: TcpStream = target.greeted().unwrap();
    stream
        .write_all(b"HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<\"\"@x>\r\nQUIT\r\n")
        .unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    for expected in ["250 ", "530 ", "530 ", "221 "] {
        let answer = reply(&mut stream).unwrap();
        assert!(answer.starts_with(expected), "{answer}");
    }
    honest(&daemon);
}
