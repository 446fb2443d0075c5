//! Messages that are sent again because their client has not heard that they are queued (RFC 1047).

use gatepost::server::TlsStart;

use super::harness::{ALICE, Client, DOORS, Daemon, Settings, World};

const TEXT: &str = "From: <alice@example.org>\r\nMessage-ID: <once@example.org>\r\n\r\nhello\r\n.";

fn begin(daemon: &Daemon, door: TlsStart) -> Client {
    Client::in_data(daemon, door)
}

/// Sends the message, and leaves before any answer to it is read.
fn send_and_leave(daemon: &Daemon, door: TlsStart) {
    let mut client = begin(daemon, door);
    let is_me = client.is_me();
    client.say(TEXT);
    // The message is queued; whether the client has read the 250, nobody knows.
    daemon.event("message.accepted", &is_me);
    drop(client);
    daemon.event("closed", &is_me);
}

#[test]
fn a_message_whose_reply_was_lost_is_queued_once() {
    for door in DOORS {
        let world = World::with_limits("");
        let daemon = world.start();
        send_and_leave(&daemon, door);
        let (envelope, _) = world.queued().pop().unwrap();
        let mut again = begin(&daemon, door);
        let heard = again.ask(TEXT);
        let id = envelope["id"].as_str().unwrap();
        assert_eq!(heard, format!("250 2.0.0 queued as {id}"));
        let repeated = daemon.event("message.repeated", again.is_me());
        assert_eq!(repeated["id"], id);
        assert_eq!(repeated["account"], ALICE);
        assert_eq!(repeated["message_id"], "<once@example.org>");
        assert_eq!(world.queued().len(), 1);
        // It has heard it now: the same once more is meant.
        again.expect("NOOP", "250 ");
        again.begin_message();
        let heard = again.ask(TEXT);
        assert!(!heard.ends_with(id), "{heard}");
        assert_eq!(world.queued().len(), 2);
    }
}

#[test]
fn another_message_is_another_message() {
    let world = World::with_limits("");
    let daemon = world.start();
    send_and_leave(&daemon, TlsStart::Implicit);
    let without_id = TEXT.replace("Message-ID", "X-Message-ID");
    let texts = [
        TEXT.replace("hello", "hullo"),
        TEXT.replace("<once@", "<twice@"),
        TEXT.replace("\r\n\r\n", "\r\nSubject: hello\r\n\r\n"),
        without_id.clone(),
        without_id,
    ];
    for (number, text) in texts.iter().enumerate() {
        let mut client = begin(&daemon, TlsStart::Implicit);
        client.expect(text, "250 2.0.0 queued as ");
        assert_eq!(world.queued().len(), number + 2);
    }
    // For somebody else, too.
    let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
    client.expect(&format!("MAIL FROM:<{ALICE}>"), "250 ");
    client.expect("RCPT TO:<carol@example.net>", "250 ");
    client.expect("DATA", "354 ");
    client.expect(TEXT, "250 ");
    assert_eq!(world.queued().len(), texts.len() + 2);
}

#[test]
fn a_daemon_that_died_before_it_said_so_knows_it_afterwards() {
    let world = World::with_limits("");
    let mut daemon = world.start();
    send_and_leave(&daemon, TlsStart::StartTls);
    daemon.kill();
    let daemon = world.start();
    let mut again = begin(&daemon, TlsStart::Implicit);
    again.expect(TEXT, "250 2.0.0 queued as ");
    daemon.event("message.repeated", again.is_me());
    assert_eq!(world.queued().len(), 1);
}

/// A repetition costs nothing of what the account may send.
#[test]
fn a_repetition_is_free() {
    let mut world = World::with_limits("");
    world.settings.account_limits = "messages_per_hour = 2";
    world.write_configuration();
    let daemon = world.start();
    send_and_leave(&daemon, TlsStart::Implicit);
    begin(&daemon, TlsStart::Implicit).expect(TEXT, "250 ");
    let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
    assert!(client.message("the second one").starts_with("250 "));
}

#[test]
fn it_can_be_switched_off() {
    let world = World::new(Settings {
        queue: "minimum_free = \"1MiB\"\nduplicate_window = \"off\"",
        ..Settings::default()
    });
    let daemon = world.start();
    send_and_leave(&daemon, TlsStart::Implicit);
    begin(&daemon, TlsStart::Implicit).expect(TEXT, "250 ");
    assert_eq!(world.queued().len(), 2);
}
