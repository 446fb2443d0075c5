//! SIGTERM and SIGINT: nobody new comes in, what is under way may end, and the daemon ends in time.

use gatepost::server::TlsStart;
use nix::sys::signal::Signal;

use super::harness::{Client, DOORS, World, eventually, is_closed, text};

const SHUTTING_DOWN: &str = "421 4.3.2 shutting down, try again later";

fn transactions_may_end(signal: Signal) {
    for door in DOORS {
        let world = World::with_limits("");
        let mut daemon = world.start();
        let mut idle = Client::logged_in(&daemon, door);
        let mut unknown = Client::greeted(&daemon, door).0;
        let mut busy = Client::in_data(&daemon, door);
        busy.say("From: <alice@example.org>\r\nSubject: under way\r\n\r\nthe first half,");

        daemon.signal(signal);
        assert_eq!(idle.reply(), SHUTTING_DOWN);
        assert_eq!(idle.rest(), "");
        assert_eq!(unknown.reply(), SHUTTING_DOWN);
        assert_eq!(unknown.rest(), "");
        daemon.event("stopping", |_| true);
        for door in DOORS {
            let closed = eventually(|| is_closed(daemon.address(door)).then_some(()));
            assert!(closed.is_some(), "nobody new comes in");
        }

        let reply = busy.ask("the second half\r\n.");
        assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
        assert_eq!(busy.reply(), SHUTTING_DOWN);
        assert_eq!(busy.rest(), "");
        drop((idle, unknown, busy));
        assert_eq!(daemon.ended().code(), Some(0));
        daemon.event("stopped", |_| true);
        let queued = world.queued();
        assert_eq!(queued.len(), 1);
        assert!(
            queued[0]
                .1
                .ends_with("the first half,\r\nthe second half\r\n")
        );
    }
}

#[test]
fn sigterm_lets_transactions_end() {
    transactions_may_end(Signal::SIGTERM);
}

#[test]
fn sigint_does_the_same() {
    transactions_may_end(Signal::SIGINT);
}

/// MAIL without DATA is a transaction too; the next message is not.
#[test]
fn a_transaction_before_data_may_end() {
    let world = World::with_limits("");
    let mut daemon = world.start();
    let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
    client.expect("MAIL FROM:<alice@example.org>", "250 ");
    client.expect("RCPT TO:<bob@example.net>", "250 ");
    daemon.signal(Signal::SIGTERM);
    daemon.event("stopping", |_| true);
    client.expect("DATA", "354 ");
    client.expect(&text("the last one"), "250 2.0.0 queued as ");
    assert_eq!(client.rest(), format!("{SHUTTING_DOWN}\r\n"));
    drop(client);
    assert_eq!(daemon.ended().code(), Some(0));
    assert_eq!(world.queued().len(), 1);
}

#[test]
fn who_never_ends_is_cut_off() {
    let world = World::with_limits("shutdown_timeout = \"1s\"");
    let mut daemon = world.start();
    let mut clients = DOORS.map(|door| {
        let mut client = Client::in_data(&daemon, door);
        client.say("From: <alice@example.org>\r\n\r\nno end,");
        client
    });
    // In the middle of a handshake, too.
    let silent = Client::connect(&daemon, TlsStart::Implicit);
    daemon.event("connected", silent.is_me());
    daemon.signal(Signal::SIGTERM);
    for client in &mut clients {
        assert_eq!(client.rest(), format!("{SHUTTING_DOWN}\r\n"));
    }
    // The process does not wait for anybody to close.
    assert_eq!(daemon.ended().code(), Some(0));
    drop((clients, silent));
    assert_eq!(world.files("ready"), [""; 0]);
    assert_eq!(world.files("drafts"), [""; 0]);
    daemon.event("message.refused", |event| {
        event["reason"] == "the server stops"
    });
    daemon.event("stopped", |_| true);
}
