//! Who gets their turn: one client with a huge message beside many with small ones.

use gatepost::server::TlsStart;

use super::harness::{Client, DOORS, World};

/// Octets of the huge message by which everybody else must have been served.
const HUGE_BYTES_MAX: usize = 768 << 20;
const CLIENTS: usize = 8;
const MESSAGES_EACH: usize = 10;

/// The huge message never pauses: it ends when the small ones are queued, and there is more of it than fits if they
/// have to wait for it.
#[test]
fn small_messages_do_not_wait_for_a_huge_one() {
    let world = World::with_limits("message_size = \"1GiB\"");
    let daemon = world.start();
    let mut huge = Client::in_data(&daemon, TlsStart::Implicit);
    huge.say("From: <alice@example.org>\r\n");
    let piece = [&[b'x'; 70][..], b"\r\n"].concat().repeat((1 << 20) / 72);
    std::thread::scope(|scope| {
        let small: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let daemon = &daemon;
                scope.spawn(move || {
                    let mut client = Client::logged_in(daemon, DOORS[number % 2]);
                    for message in 0..MESSAGES_EACH {
                        let reply = client.message(&format!("small {number} {message}"));
                        assert!(reply.starts_with("250 "), "{reply}");
                    }
                })
            })
            .collect();
        let mut sent = 0;
        while small.iter().any(|client| !client.is_finished()) {
            assert!(sent < HUGE_BYTES_MAX, "small messages wait for a huge one");
            assert!(huge.send(&piece));
            sent += piece.len();
        }
        assert!(sent > 0, "the huge message was on its way meanwhile");
    });
    assert_eq!(world.queued().len(), CLIENTS * MESSAGES_EACH);
    huge.expect(".", "250 2.0.0 queued as ");
}
