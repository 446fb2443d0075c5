//! The operator's socket: what a command asks of a running daemon, and what becomes of anything else that comes there.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use gatepost::server::TlsStart;

use super::harness::{Client, World};

#[test]
fn status_tells_how_it_is() {
    let world = World::with_limits("");
    let output = world.run(&["status"], "");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("gatepost is not running"), "{text}");

    let mut daemon = world.start();
    let _client = Client::logged_in(&daemon, TlsStart::Implicit);
    let status = world.ask(&["status"]);
    assert_eq!(status["process"], daemon.process());
    assert_eq!(status["hostname"], "mail.example.org");
    assert_eq!(status["connections"], 1);
    assert_eq!(status["accounts"], 1);

    // What a killed daemon leaves there is nobody's.
    daemon.kill();
    assert_eq!(world.run(&["status"], "").status.code(), Some(1));
    let daemon = world.start();
    assert_eq!(world.ask(&["status"])["process"], daemon.process());
    daemon.stop();
    assert!(!world.path("queue/control").exists());
}

#[test]
fn only_the_owner_may_ask() {
    let world = World::with_limits("");
    let _daemon = world.start();
    let metadata = std::fs::metadata(world.path("queue/control")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}

#[test]
fn whatever_is_no_request_is_told_so() {
    let world = World::with_limits("");
    let daemon = world.start();
    let endless = "x".repeat(1 << 20);
    let no_line = "{".repeat(1 << 20);
    for (octets, starts) in [
        ("\n", true),
        ("GET / HTTP/1.1\r\n\r\n", true),
        ("{\"ask\":\"rain\"}\n", true),
        ("{\"ask\":\"status\",\"ask\":\"status\"}\n", true),
        ("\0\0\0\n", true),
        (&endless, false),
        (&no_line, false),
    ] {
        let mut stream = UnixStream::connect(world.path("queue/control")).unwrap();
        let sent = stream.write_all(octets.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        // Who sends more than is read may be cut off before the answer.
        if starts {
            sent.and(read.map(drop)).unwrap();
            assert!(answer.starts_with("{\"failed\":\""), "{octets}: {answer}");
        }
    }
    // Nobody else has noticed.
    let mut client = Client::logged_in(&daemon, TlsStart::StartTls);
    assert!(client.message("after").starts_with("250 "));
    assert_eq!(world.ask(&["status"])["process"], daemon.process());
}
