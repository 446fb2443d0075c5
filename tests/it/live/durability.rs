//! After its 250 a message is never lost, whatever ends the process; and a queue that cannot be written to is a 4xx,
//! for as long as that lasts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, mpsc};

use gatepost::server::TlsStart;

use super::harness::{Client, DOORS, Daemon, Settings, World, eventually, move_file};

const ROUNDS: u64 = 5;
const CLIENTS: usize = 4;

/// Every client sends marked messages, small ones and some that spill, until the daemon is killed in the middle of
/// it. What was acknowledged is there, once and whole; what was not is there at most once, and whole.
#[test]
fn what_was_acknowledged_survives_kill_9() {
    let world = World::new(Settings {
        account_limits: "messages_per_hour = \"unlimited\"\nrecipients_per_day = \"unlimited\"",
        ..Settings::default()
    });
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    for round in 0..ROUNDS {
        let mut daemon = world.start();
        let already = acknowledged.lock().unwrap().len();
        let (tell, told) = mpsc::channel();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let mut client = Client::logged_in(&daemon, DOORS[number % 2]);
                let (acknowledged, tell) = (Arc::clone(&acknowledged), tell.clone());
                std::thread::spawn(move || {
                    for serial in 0.. {
                        let marker = format!("marker-{round}-{number}-{serial}-end");
                        let padding = if serial % 4 == 3 { 6000 } else { 2 };
                        let message = body(&marker, padding);
                        let Some(reply) = client.try_message(&message) else {
                            return;
                        };
                        assert!(reply.starts_with("250 "), "{reply}");
                        acknowledged.lock().unwrap().push(marker);
                        let _ = tell.send(());
                    }
                })
            })
            .collect();
        drop(tell);
        // The moment is another one each time, for each client in another place.
        for _ in 0..7 + 11 * round {
            told.recv().unwrap();
        }
        daemon.kill();
        for client in clients {
            client.join().unwrap();
        }
        assert!(acknowledged.lock().unwrap().len() > already);
    }

    let daemon = world.start();
    let mut stored: HashMap<String, usize> = HashMap::new();
    for (envelope, message) in world.queued() {
        assert_eq!(envelope["size"], message.len());
        let (_, rest) = message.split_once("Subject: ").unwrap();
        let marker = rest.split("\r\n").next().unwrap();
        let padding = rest.matches("padding").count();
        assert!(
            message.ends_with(&body(marker, padding)),
            "{marker} is whole"
        );
        *stored.entry(marker.to_owned()).or_default() += 1;
    }
    for marker in acknowledged.lock().unwrap().iter() {
        assert_eq!(stored.get(marker), Some(&1), "{marker} was acknowledged");
    }
    assert!(
        stored.values().all(|&count| count == 1),
        "nothing is there twice"
    );
    // No litter either: a pair for each message, and nothing unfinished.
    assert_eq!(world.files("ready").len(), 2 * stored.len());
    assert_eq!(world.files("drafts"), [""; 0]);
    daemon.stop();
}

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
