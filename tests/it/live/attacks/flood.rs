//! Connections in numbers: opened, held, left half-way, reset.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gatepost::server::TlsStart;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::super::harness::{Client, DOORS, Settings, World};
use super::{Target, ask, besieged, besieged_to_the_end, reply, until_closed, was_bounded, world};

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

/// Bound: `limits.connections`. No address has too many; together they take all places and keep them: without a word, in
/// the middle of TLS, in the middle of AUTH. A newcomer gets the place of the oldest of them.
#[test]
fn connections_from_everywhere() {
    const PLACES: usize = 100;
    /// How many of the first have to go before the siege is complete.
    const TURNED_OUT: usize = 50;
    /// Between those who come then.
    const PAUSE: Duration = Duration::from_millis(20);
    let world = world("connections = 100\nconnections_per_address = 10", "");
    let held: Arc<Mutex<VecDeque<Box<dyn io::Read + Send>>>> = Arc::default();
    let daemon = besieged(&world, 1, PLACES as u64, move |target| {
        let mut held = held.lock().unwrap();
        loop {
            let number = held.len() as u8;
            let from = Target {
                source: Ipv4Addr::new(127, 0, 2, 1 + number % 50),
                ..target.clone()
            };
            let come_in = || -> io::Result<Box<dyn io::Read + Send>> {
                Ok(match number % 3 {
                    0 => Box::new(from.greeted()?),
                    1 => Box::new(from.before_tls(TlsStart::StartTls)?),
                    _ => {
                        let mut stream = from.secured(TlsStart::StartTls)?;
                        ask(&mut stream, b"AUTH LOGIN\r\n")?;
                        Box::new(stream)
                    }
                })
            };
            // Who is turned away comes again, and leaves nothing that they have.
            if let Ok(connection) = come_in() {
                held.push_back(connection);
            }
            // For each that comes now somebody has to go, and there are always some who have been there for a second: they
            // become so as fast as all came at first, which was faster than they come now.
            if held.len() > PLACES + TURNED_OUT {
                break;
            } else if held.len() > PLACES {
                std::thread::sleep(PAUSE);
            }
        }
        let over = held.len().saturating_sub(2 * PLACES);
        held.drain(..over);
        drop(held);
        std::thread::sleep(PAUSE);
        Ok(())
    });
    let taken = "limits.connections: not logged in, and somebody else needed the place";
    was_bounded(&daemon, "closed", taken);
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
    const AT_A_TIME: usize = 8;
    let world = world("connections_per_address = 4", "");
    let daemon = besieged_to_the_end(&world, 2, 2 * AT_A_TIME as u64, |target| {
        drop(target.under_tls(TlsStart::StartTls)?);
        // All of them want something that costs, before any of them waits for it.
        let mut begun = Vec::new();
        for _ in 0..AT_A_TIME {
            let mut stream = target.connect(TlsStart::Implicit)?;
            let mut connection = target.connection();
            // Whoever is turned away may be gone already.
            if connection.write_tls(&mut stream).is_ok() {
                begun.push((connection, stream));
            }
        }
        let mut shaken = 0;
        for (connection, stream) in &mut begun {
            let mut result = Ok((0, 0));
            while connection.is_handshaking() && result.is_ok() {
                result = connection.complete_io(stream);
            }
            shaken += usize::from(result.is_ok());
        }
        match shaken {
            0 => Err(io::Error::other("nobody was heard")),
            _ => Ok(()),
        }
    });
    was_bounded(&daemon, "refused", "limits.connections_per_address");
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

/// Bound: `log.strangers_per_minute`. What is left out is counted, to the last line, and nothing of those who log in is.
#[test]
fn the_log_is_not_filled_by_strangers() {
    const STRANGERS: usize = 300;
    const BOUND: usize = 40;
    let world = World::new(Settings {
        limits: "connections_per_address = 1000",
        log: "format = \"json\"\nstrangers_per_minute = 40",
        ..Settings::default()
    });
    let mut daemon = world.start();
    let target = Target::of(&world, &daemon, 0);
    for number in 0..STRANGERS {
        let mut stream = target.connect(DOORS[number % 2]).unwrap();
        if number % 3 == 0 {
            // It may be gone already.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
        }
    }
    let mut alice = Client::logged_in(&daemon, TlsStart::Implicit);
    alice.message("in a flood");
    alice.expect("NONSENSE", "500 ");
    drop(alice);
    daemon.signal(Signal::SIGTERM);
    daemon.ended();
    daemon.event("stopped", |_| true);
    let events = daemon.events();

    let named = |name: &'static str| events.iter().filter(move |event| event["event"] == name);
    let accepted: Vec<_> = named("message.accepted").collect();
    let [accepted] = accepted[..] else {
        panic!("one message is accepted: {accepted:?}")
    };
    let alices = |event: &Value| event["session"] == accepted["session"];
    for name in ["auth.accepted", "command.refused", "closed"] {
        assert!(named(name).any(alices), "{name} of a login is there");
    }
    let strangers = |name| named(name).filter(|event| !alices(event)).count();
    let written = strangers("connected") + strangers("closed") + strangers("tls.failed");
    // One for the first that is left out, and one with the count; a minute may end meanwhile.
    let minutes = named("log.left_out").filter(|event| event.get("count").is_none());
    let minutes = minutes.count();
    assert!(minutes > 0, "the log says that it leaves out");
    assert!(
        written <= BOUND * (minutes + 1),
        "{written} lines of strangers"
    );
    let counts = named("log.left_out").filter_map(|event| event["count"].as_u64());
    let left_out = counts.sum::<u64>() as usize;
    assert!(
        written + left_out >= 2 * STRANGERS,
        "{written} were written and {left_out} counted"
    );
}

/// Bound: a connection that is gone takes all it had with it.
#[test]
fn resets_without_end() {
    const ATTACKERS: u8 = 4;
    const PLACES: usize = 10;
    let world = world("connections_per_address = 10", "");
    let daemon = besieged(&world, ATTACKERS, 4, |target| {
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
    // Whoever was there has left no place taken.
    for number in 0..ATTACKERS {
        let target = Target::of(&world, &daemon, number);
        let all: io::Result<Vec<TcpStream>> = (0..PLACES).map(|_| target.greeted()).collect();
        all.unwrap();
    }
}
