//! Connections in numbers: opened, held, left half-way, reset.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use gatepost::server::TlsStart;

use super::super::harness::DOORS;
use super::{ask, besieged, reply, until_closed, was_bounded, world};

/// Bound: `limits.connections_per_address`.
#[test]
fn connections_from_one_address() {
    const HELD: usize = 30;
    let world = world("connections_per_address = 10", "");
    let daemon = besieged(&world, 2, 2 * 10, |target| {
        let held: Vec<TcpStream> = (0..HELD)
            .map(|number| target.connect(DOORS[number % 2]))
            .collect::<io::Result<_>>()?;
        // Those that are turned away are told so; the others wait for nothing.
        drop(held);
        Ok(())
    });
    was_bounded(&daemon, "refused", "limits.connections_per_address");
}

/// Bound: `tls.handshake_timeout`, together with `limits.connections_per_address`.
#[test]
fn handshakes_that_stop_half_way() {
    const HELD: usize = 5;
    let world = world("", "handshake_timeout = \"1s\"");
    let daemon = besieged(&world, 4, 4 * HELD as u64, |target| {
        let hello = target.hello();
        let mut held: Vec<TcpStream> = Vec::new();
        for part in 0..HELD {
            for door in DOORS {
                let mut stream = target.before_tls(door)?;
                stream.write_all(&hello[..hello.len() * part / HELD])?;
                held.push(stream);
            }
        }
        // They stay until they are thrown out.
        held.iter_mut().try_for_each(until_closed)
    });
    was_bounded(&daemon, "tls.failed", "tls.handshake_timeout");
}

/// Bound: `limits.connections_per_address`. A handshake is the dearest thing that a stranger can ask for; nobody has to
/// wait for more than those who came before.
#[test]
fn handshakes_without_end() {
    let world = world("connections_per_address = 4", "");
    besieged(&world, 4, 4, |target| {
        for door in DOORS {
            target.under_tls(door)?;
        }
        Ok(())
    });
}

/// Bound: `limits.login_timeout`, however lively the client is.
#[test]
fn an_octet_at_a_time() {
    let world = world("login_timeout = \"1s\"", "");
    let daemon = besieged(&world, 8, 16, |target| {
        let mut plain = target.connect(TlsStart::StartTls)?;
        let mut secured = target.secured(TlsStart::Implicit)?;
        for octet in b"NOOP\r\n".repeat(50) {
            plain.write_all(&[octet])?;
            secured.write_all(&[octet])?;
            secured.flush()?;
            // Slowness is the attack.
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    });
    was_bounded(&daemon, "closed", "the client's time is up");
}

/// Bound: a connection that is gone takes all it had with it.
#[test]
fn resets_without_end() {
    let world = world("connections_per_address = 10", "");
    besieged(&world, 4, 4, |target| {
        let door = TlsStart::StartTls;
        drop(target.connect(door)?);
        drop(target.connect(TlsStart::Implicit)?);
        reply(&mut target.connect(door)?)?;
        target.before_tls(door)?.write_all(&target.hello()[..50])?;
        let mut stream = target.secured(door)?;
        ask(&mut stream, b"AUTH LOGIN\r\n")?;
        drop(stream);
        let mut stream = target.logged_in(TlsStart::Implicit)?;
        ask(&mut stream, b"MAIL FROM:<mallory@example.org>\r\n")?;
        ask(&mut stream, b"RCPT TO:<bob@example.net>\r\n")?;
        ask(&mut stream, b"DATA\r\n")?;
        stream.write_all(b"From: <mallory@example.org>\r\n\r\n")?;
        stream.write_all(&b"0123456789abcdef\r\n".repeat(10_000))
        // Each of them is reset when it is dropped.
    });
}
