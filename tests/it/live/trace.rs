//! Who sent a message, for the operator and for nobody else.

use gatepost::server::TlsStart;

use super::harness::{ALICE, Client, World};

/// The token in a stored message.
fn token(message: &str) -> &str {
    let (_, rest) = message.split_once("(trace ").unwrap();
    rest.split_once(')').unwrap().0
}

#[test]
fn the_operator_can_tell_and_nobody_else() {
    let world = World::with_limits("");
    let daemon = world.start();
    let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
    assert!(client.message("traced").starts_with("250 "));
    let port = client.port();
    let (envelope, message) = world.queued().pop().unwrap();
    let id = envelope["id"].as_str().unwrap();
    let (ours, _) = message.split_once("From:").unwrap();
    for telltale in [
        "127.0.0.1",
        "alice",
        "client.example.org",
        &port.to_string(),
    ] {
        assert!(!ours.contains(telltale), "{telltale} in {ours}");
    }

    // After a restart, when the message has left, and by the file, too.
    daemon.stop();
    let file = world.path("complaint.eml");
    std::fs::write(
        &file,
        format!("Received: by elsewhere (x)\r\n\tid 1;\r\n{message}"),
    )
    .unwrap();
    let file = file.to_str().unwrap();
    for what in [token(&message), id, file] {
        let traced = world.ask(&["trace", what]);
        assert_eq!(traced["id"], id);
        assert_eq!(traced["time"].as_str().map(str::len), Some(24));
        assert_eq!(traced["account"], ALICE);
        assert_eq!(
            (&traced["address"], &traced["port"]),
            (&"127.0.0.1".into(), &port.into())
        );
    }
    let from_input = world.run(&["trace", "-"], &message);
    let text = String::from_utf8(from_input.stdout).unwrap();
    assert!(text.contains("account     alice@example.org\n"), "{text}");

    let queue = world.queue();
    for part in ["json", "eml"] {
        std::fs::remove_file(queue.join(format!("ready/{id}.{part}"))).unwrap();
    }
    assert_eq!(world.ask(&["trace", token(&message)])["account"], ALICE);
    let gone = world.run(&["trace", id], "");
    assert_eq!(gone.status.code(), Some(1));
    let text = String::from_utf8(gone.stderr).unwrap();
    assert!(text.contains("give its token"), "{text}");
}

#[test]
fn a_forged_token_is_refused() {
    let world = World::with_limits("");
    let daemon = world.start();
    for subject in ["one", "two"] {
        let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
        assert!(client.message(subject).starts_with("250 "));
    }
    let queued = world.queued();
    let (one, two) = (token(&queued[0].1), token(&queued[1].1));
    let elsewhere = World::with_limits("");
    drop(elsewhere.start());
    let own = &queued[0].1;
    let moved = own.replace(one, two);
    let changed = own.replace(one, &one.replace(['A', 'B', 'C', 'D', 'E', 'F'], "g"));
    for (world, what, input) in [
        // Of another gatepost, of another message, changed, made up, none at all.
        (&elsewhere, one, ""),
        (&elsewhere, "-", own.as_str()),
        (&world, "-", moved.as_str()),
        (&world, "-", changed.as_str()),
        (&world, "-", "Received: by x id 1 (trace AAAA);\r\n\r\n"),
        (&world, "-", "Subject: (trace AAAA)\r\n\r\n"),
        (&world, "-", "\0\r\n\r\n"),
        (&world, "nothing", ""),
    ] {
        let output = world.run(&["trace", what], input);
        assert_eq!(output.status.code(), Some(1), "{what} {input}: {output:?}");
        assert!(output.stdout.is_empty());
    }
}
