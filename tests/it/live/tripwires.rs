//! Trip wires: a stolen password used for spam, from the first message to the alert; and what does not trip.

use std::path::PathBuf;

use gatepost::server::TlsStart;
use serde_json::{Value, json};

use super::containment::{logged_in_as, refusal, two_accounts};
use super::harness::{ALICE, Client, Daemon, PASSWORD, Settings, World, eventually};

const BOB: &str = "bob@example.org";
const OVER: &str = "421 4.7.0 the account's rights have changed, log in again";

/// With these sections, which come where [tls] ends.
fn world(sections: &str) -> World {
    let world = two_accounts(Settings::default());
    let path = world.path("gatepost.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    world.replace("gatepost.toml", &format!("{text}{sections}"));
    world
}

/// A program that appends what it hears, and how it was called, to a file.
fn pager(world: &World) -> (PathBuf, PathBuf) {
    use std::os::unix::fs::PermissionsExt as _;
    let (program, heard) = (world.path("page-me"), world.path("heard"));
    let script = format!(
        "#!/bin/sh\nread -r facts\nprintf '%s|%s|%s|%s\\n' \"$1\" \"$GATEPOST_EVENT\" \"$GATEPOST_ACCOUNT\" \"$facts\" >> '{}'\n",
        heard.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (program, heard)
}

/// Hands in a message to these many people, who are others each time; `None` if the server has closed instead.
fn spam(client: &mut Client, name: &str, round: u32, recipients: u32) -> Option<String> {
    let reply = client.try_ask(&format!("MAIL FROM:<{name}>"))?;
    if !reply.starts_with("250 ") {
        return Some(reply);
    }
    for number in 0..recipients {
        client.try_ask(&format!("RCPT TO:<victim{round}-{number}@example.net>"))?;
    }
    client.try_ask("DATA")?;
    client.try_ask(&format!("From: <{name}>\r\n\r\nbuy\r\n."))
}

fn tripped(daemon: &Daemon) -> Vec<Value> {
    let events = daemon.events().into_iter();
    events
        .filter(|event| event["event"] == "tripwire")
        .collect()
}

#[test]
fn a_stolen_password_does_not_get_far() {
    let sections = "[tripwires]\nnew_recipients_per_hour = 10\n[alert]\ncommand = [\"PROGRAM\", \"two words; $(id)\"]\n";
    let world = world("");
    let (program, heard) = pager(&world);
    let text = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
    let sections = sections.replace("PROGRAM", program.to_str().unwrap());
    world.replace("gatepost.toml", &(text + &sections));
    let daemon = world.start();
    let mut owner = logged_in_as(&daemon, ALICE);
    let mut bob = logged_in_as(&daemon, BOB);
    let mut thief = logged_in_as(&daemon, ALICE);
    assert!(spam(&mut bob, BOB, 0, 9).unwrap().starts_with("250 "));
    for round in 0..3 {
        let reply = spam(&mut thief, ALICE, round, 3).unwrap();
        assert!(reply.starts_with("250 "), "{reply}");
    }
    // One that has left already.
    let first = world.ask(&["queue", "list"]);
    let first = first.as_array().unwrap();
    let first = first
        .iter()
        .find(|entry| entry["account"] == ALICE)
        .unwrap()["id"]
        .as_str()
        .unwrap();
    for extension in ["json", "eml"] {
        std::fs::remove_file(world.queue().join(format!("ready/{first}.{extension}"))).unwrap();
    }

    // The twelfth one that it does not know.
    assert_eq!(spam(&mut thief, ALICE, 3, 3), Some(OVER.to_owned()));
    assert_eq!(thief.rest(), "");
    assert_eq!(owner.reply(), OVER);
    let event = daemon.event("tripwire", |_| true);
    assert_eq!(
        (&event["account"], &event["wire"]),
        (&json!(ALICE), &json!("new_recipients_per_hour"))
    );
    assert_eq!(
        (&event["count"], &event["allowed"], &event["mode"]),
        (&json!(12), &json!(10), &json!("on"))
    );
    daemon.event("alert.sent", |event| event["account"] == ALICE);
    let event = daemon.event("contained", |_| true);
    assert_eq!(
        (&event["by"], &event["held"], &event["left"]),
        (&json!("tripwire"), &json!(2), &json!(1))
    );
    assert!(refusal(&daemon, ALICE, PASSWORD).starts_with("535 5.7.8 "));
    let places: Vec<(Value, Value)> = world
        .ask(&["queue", "list"])
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["account"].clone(), entry["place"].clone()))
        .collect();
    let expected = [(BOB, "ready"), (ALICE, "hold"), (ALICE, "hold")];
    assert_eq!(
        places,
        expected.map(|(account, place)| (json!(account), json!(place)))
    );

    // One alert, with the facts, its arguments as they are.
    let said = std::fs::read_to_string(&heard).unwrap();
    let (called, facts) = said.split_once('{').unwrap();
    assert_eq!(called, format!("two words; $(id)|contained|{ALICE}|"));
    let facts: Value = serde_json::from_str(&format!("{{{facts}")).unwrap();
    for (name, value) in [
        ("event", json!("contained")),
        ("account", json!(ALICE)),
        ("wire", json!("new_recipients_per_hour")),
        ("count", json!(12)),
        ("allowed", json!(10)),
        ("accepted", json!(3)),
        ("held", json!(2)),
        ("left", json!(1)),
        ("left_recipients", json!(3)),
    ] {
        assert_eq!(facts[name], value, "{name}");
    }
    assert_eq!(tripped(&daemon).len(), 1);

    // Nobody else has noticed; and afterwards it begins anew.
    assert!(spam(&mut bob, BOB, 0, 9).unwrap().starts_with("250 "));
    let report = world.ask(&["uncontain", ALICE, "--remove-held"]);
    assert_eq!(report["ended"][0]["by"], "tripwire");
    let mut owner = logged_in_as(&daemon, ALICE);
    assert!(spam(&mut owner, ALICE, 9, 9).unwrap().starts_with("250 "));
    let explained = world.run(&["explain", "--account", ALICE, "--from", ALICE], "");
    assert!(explained.status.success(), "{explained:?}");
    daemon.stop();
    assert_eq!(std::fs::read_to_string(&heard).unwrap(), said);
    let explained = world.run(&["explain", "--account", ALICE, "--from", ALICE], "");
    let explained = String::from_utf8(explained.stdout).unwrap();
    assert!(
        explained.contains("tripwires.new_recipients_per_hour (on): 9 of 10"),
        "{explained}"
    );
}

#[test]
fn many_connections_at_once_are_one_incident() {
    let world = world("[tripwires]\nmessages_per_10_minutes = 5\n");
    let (program, heard) = pager(&world);
    let text = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
    let command = format!("[alert]\ncommand = [\"{}\", \"x\"]\n", program.display());
    world.replace("gatepost.toml", &(text + &command));
    let daemon = world.start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = Client::secured(&daemon, TlsStart::Implicit);
                client.login(ALICE, PASSWORD);
                for _ in 0..4 {
                    if spam(&mut client, ALICE, 0, 1).is_none_or(|reply| reply.starts_with("421 "))
                    {
                        break;
                    }
                }
            });
        }
    });
    daemon.event("alert.sent", |_| true);
    daemon.all_closed();
    assert_eq!(tripped(&daemon).len(), 1);
    assert_eq!(world.files("ready"), [""; 0]);
    assert_eq!(world.files("hold").len(), 2 * 5);
    daemon.stop();
    assert_eq!(std::fs::read_to_string(&heard).unwrap().lines().count(), 1);
}

#[test]
fn a_dry_run_only_says_so() {
    let world = world(
        "[tripwires]\nmode = \"dry-run\"\nmessages_per_10_minutes = 2\n[alert]\ncommand = [\"/bin/false\"]\n",
    );
    let daemon = world.start();
    let mut client = logged_in_as(&daemon, ALICE);
    for round in 0..6 {
        assert!(
            spam(&mut client, ALICE, round, 1)
                .unwrap()
                .starts_with("250 ")
        );
    }
    client.expect("NOOP", "250 ");
    let events = tripped(&daemon);
    assert_eq!(events.len(), 1);
    assert_eq!(
        (&events[0]["mode"], &events[0]["count"]),
        (&json!("dry-run"), &json!(3))
    );
    assert_eq!(world.ask(&["contain", "--list"]), json!([]));
    assert_eq!(world.ask(&["status"])["tripwires"], "dry-run");
    daemon.stop();
    assert_eq!(world.files("ready").len(), 12);
}

#[test]
fn logins_from_everywhere_trip() {
    let world = world("[tripwires]\nnetworks_per_hour = 2\n");
    let daemon = world.start();
    let to = daemon.address(TlsStart::Implicit);
    let from = |address: &str| {
        let mut client = Client::connect_from(&daemon, address.parse().unwrap(), to);
        client.secure(TlsStart::Implicit);
        client
    };
    for address in ["127.0.0.1", "127.0.0.9", "127.0.1.1", "127.0.0.1"] {
        let mut client = from(address);
        assert!(client.login(ALICE, PASSWORD).starts_with("235 "));
        client.expect("NOOP", "250 ");
    }
    // Failures are no logins.
    assert!(from("127.0.2.1").login(ALICE, "wrong").starts_with("535 "));
    let mut third = from("127.0.3.1");
    assert!(third.login(ALICE, PASSWORD).starts_with("235 "));
    assert_eq!(third.reply(), OVER);
    assert_eq!(
        daemon.event("tripwire", |_| true)["wire"],
        "networks_per_hour"
    );
    daemon.stop();
}

#[test]
fn an_alert_that_fails_or_hangs_keeps_nobody_waiting() {
    for (command, timeout, said) in [
        ("/nowhere/page-me", "30s", "cannot run"),
        ("/bin/false", "30s", "exit status: 1"),
        ("/bin/sleep\", \"1000", "1s", "killed after 1 s"),
    ] {
        let world = world(&format!(
            "[tripwires]\nmessages_per_10_minutes = 1\n[alert]\ncommand = [\"{command}\"]\ntimeout = \"{timeout}\"\n"
        ));
        let daemon = world.start();
        let mut client = logged_in_as(&daemon, ALICE);
        assert!(spam(&mut client, ALICE, 0, 1).unwrap().starts_with("250 "));
        assert_eq!(spam(&mut client, ALICE, 1, 1), Some(OVER.to_owned()));
        let mut bob = logged_in_as(&daemon, BOB);
        assert!(spam(&mut bob, BOB, 0, 1).unwrap().starts_with("250 "));
        let event = daemon.event("alert.failed", |_| true);
        assert!(event["error"].as_str().unwrap().contains(said), "{event}");
        daemon.stop();
    }
}

#[test]
fn who_was_written_to_is_known_after_a_restart() {
    let world = world("[tripwires]\nnew_recipients_per_hour = 4\n");
    let daemon = world.start();
    let mut client = logged_in_as(&daemon, ALICE);
    assert!(spam(&mut client, ALICE, 0, 4).unwrap().starts_with("250 "));
    daemon.stop();
    // An hour passes.
    let path = world.path("queue/tripwires.json");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    state["accounts"][ALICE]["new_recipients"] = json!([]);
    std::fs::write(&path, state.to_string()).unwrap();
    let mut daemon = world.start();
    let mut client = logged_in_as(&daemon, ALICE);
    for _ in 0..3 {
        assert!(spam(&mut client, ALICE, 0, 4).unwrap().starts_with("250 "));
    }
    assert!(spam(&mut client, ALICE, 1, 4).unwrap().starts_with("250 "));
    assert_eq!(spam(&mut client, ALICE, 2, 1), Some(OVER.to_owned()));
    let contained = eventually(|| {
        let list = world.ask(&["contain", "--list"]);
        (list[0]["by"] == "tripwire").then_some(())
    });
    assert!(contained.is_some());
    daemon.event("contained", |_| true);
    daemon.kill();
    let daemon = world.start();
    assert!(refusal(&daemon, ALICE, PASSWORD).starts_with("535 5.7.8 "));
    daemon.stop();
}
