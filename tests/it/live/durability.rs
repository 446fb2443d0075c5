//! A queue that cannot be written to is a 4xx, for as long as that lasts.

use gatepost::server::TlsStart;

use super::harness::{Client, DOORS, Daemon, Settings, World, eventually, move_file};

/// A message as it is stored, but for the fields that are added.
fn body(marker: &str, padding: usize) -> String {
    let lines = "padding and more padding\r\n".repeat(padding / 2);
    format!("From: <alice@example.org>\r\nSubject: {marker}\r\n\r\n{lines}This is {marker}.\r\n")
}

#[test]
fn a_full_disk_is_told_at_mail() {
    let world = World::new(Settings {
        queue: "minimum_free = \"1PiB\"",
        ..Settings::default()
    });
    let daemon = world.start();
    for door in DOORS {
        let mut client = Client::logged_in(&daemon, door);
        assert_eq!(
            client.ask("MAIL FROM:<alice@example.org>"),
            "452 4.3.1 not enough storage now, try again later"
        );
        let refused = daemon.event("mail.refused", client.is_me());
        assert!(
            refused["reason"].as_str().unwrap().contains("minimum_free"),
            "{refused}"
        );
        client.expect("NOOP", "250 ");
    }
    // Room is made: the operator lowers the mark. Old connections see it, too.
    let text = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
    let mut waiting = Client::logged_in(&daemon, TlsStart::Implicit);
    world.replace("gatepost.toml", &text.replace("1PiB", "1MiB"));
    assert_eq!(daemon.reload()["event"], "reload");
    assert!(waiting.message("now").starts_with("250 "));
}

fn refuses_for_now(daemon: &Daemon, world: &World, padding: usize) {
    for door in DOORS {
        let mut client = Client::in_data(daemon, door);
        let message = body("too early", padding);
        assert_eq!(
            client.ask(&format!("{message}.")),
            "451 4.3.0 cannot store the message now, try again later"
        );
        let refused = daemon.event("message.refused", client.is_me());
        assert_eq!(refused["level"], "warn");
        assert!(
            refused["reason"]
                .as_str()
                .unwrap()
                .contains(&world.shown("queue")),
            "{refused}"
        );
        // The connection goes on.
        client.expect("NOOP", "250 ");
    }
}

/// Not by permissions, which do not stop root: the directory is not there, or is no directory.
#[test]
fn a_queue_that_cannot_be_written_to() {
    let world = World::with_limits("");
    let daemon = world.start();
    let queue = world.path("queue");
    let mut sent = 0;
    for directory in ["drafts", "ready"] {
        let (place, aside) = (queue.join(directory), queue.join("aside"));
        move_file(&place, &aside);
        for no_directory in [false, true] {
            if no_directory {
                std::fs::write(&place, "").unwrap();
            }
            for padding in [2, 20_000] {
                refuses_for_now(&daemon, &world, padding);
            }
            if no_directory {
                std::fs::remove_file(&place).unwrap();
            }
        }
        move_file(&aside, &place);
        let empty = || world.files("drafts").is_empty().then_some(());
        assert!(eventually(empty).is_some(), "{:?}", world.files("drafts"));
        for door in DOORS {
            assert!(
                Client::logged_in(&daemon, door)
                    .message("put right")
                    .starts_with("250 ")
            );
            sent += 1;
        }
        assert_eq!(world.queued().len(), sent);
    }
    daemon.stop();
}
