//! Messages that are sent later: FUTURERELEASE over the wire, `hold/`, the timer, and `gatepost queue`.

use std::process::{Command, Output};

use gatepost::clock::{Now, Timestamp};
use gatepost::server::TlsStart;
use serde_json::Value;

use super::harness::{ALICE, Client, Daemon, Settings, World, text};
use crate::process::program;

/// Hands in a message with this parameter of MAIL; gives its id.
fn send(daemon: &Daemon, parameter: &str) -> String {
    let mut client = Client::logged_in(daemon, TlsStart::Implicit);
    client.expect(&format!("MAIL FROM:<{ALICE}> {parameter}"), "250 ");
    client.expect("RCPT TO:<bob@example.net>", "250 ");
    client.expect("DATA", "354 ");
    let reply = client.expect(&text("later"), "250 2.0.0 queued as ");
    reply.rsplit(' ').next().unwrap().to_owned()
}

fn queue(world: &World, arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.arg("queue").args(arguments);
    let configuration = world.path("gatepost.toml");
    let output = command.arg("-c").arg(configuration).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn listed(world: &World) -> Value {
    serde_json::from_slice(&queue(world, &["list", "--json"]).stdout).unwrap()
}

fn pair(id: &str) -> [String; 2] {
    [format!("{id}.eml"), format!("{id}.json")]
}

#[test]
fn a_message_is_held_and_then_released() {
    let world = World::with_limits("");
    let daemon = world.start();
    let id = send(&daemon, "HOLDFOR=1");
    let event = daemon.event("message.released", |event| event["id"] == *id);
    assert_eq!(event["account"], ALICE);
    assert_eq!(event["from"], ALICE);
    assert_eq!(event["reason"], "future-release");
    let until: Timestamp = event["until"].as_str().unwrap().parse().unwrap();
    assert!(until <= Now::read().wall);
    assert_eq!(world.files("ready"), pair(&id));
    assert_eq!(world.files("hold"), [""; 0]);
    let accepted = daemon.event("message.accepted", |event| event["id"] == *id);
    let received: Timestamp = accepted["time"].as_str().unwrap().parse().unwrap();
    let released: Timestamp = event["time"].as_str().unwrap().parse().unwrap();
    assert!(released >= until && released >= received);
    daemon.stop();
    assert_eq!(world.files("ready"), pair(&id));
}

#[test]
fn what_came_due_while_the_daemon_was_away_is_released_at_its_start() {
    let world = World::with_limits("");
    let mut daemon = world.start();
    let id = send(&daemon, "HOLDFOR=3600");
    let kept = send(&daemon, "HOLDFOR=3600");
    queue(&world, &["hold", &kept]);
    daemon.kill();
    // The hour passes.
    let path = world.queue().join(format!("hold/{id}.json"));
    let mut envelope: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    envelope["hold"]["until"] = "2026-01-01T00:00:00Z".into();
    std::fs::write(&path, envelope.to_string()).unwrap();

    let daemon = world.start();
    let event = daemon.event("message.released", |_| true);
    assert_eq!(event["id"], *id);
    assert_eq!(event["until"], "2026-01-01T00:00:00.000Z");
    daemon.stop();
    assert_eq!(world.files("ready"), pair(&id));
    assert_eq!(world.files("hold"), pair(&kept));
}

#[test]
fn the_operator_sees_when_and_may_want_it_otherwise() {
    let world = World::with_limits("");
    let daemon = world.start();
    let [early, kept, removed] = [(); 3].map(|()| send(&daemon, "HOLDFOR=86400"));
    let place = |id: &str| {
        let listed = listed(&world);
        let mut entries = listed.as_array().unwrap().iter();
        let entry = entries.find(|entry| entry["id"] == *id).cloned();
        entry.map(|entry| (entry["place"].clone(), entry["hold"].clone()))
    };
    for id in [&early, &kept, &removed] {
        let (place, hold) = place(id).unwrap();
        assert_eq!(
            (place, &hold["reason"]),
            ("hold".into(), &"future-release".into())
        );
        let until = hold["until"].as_str().unwrap();
        let line = format!("place      hold until {until}\nreason     future-release\n");
        let shown = String::from_utf8(queue(&world, &["show", id]).stdout).unwrap();
        assert!(shown.contains(&line), "{shown}");
        let table = String::from_utf8(queue(&world, &["list"]).stdout).unwrap();
        assert!(
            table.contains(&format!("  hold until {until}\n")),
            "{table}"
        );
    }

    queue(&world, &["release", &early]);
    assert_eq!(place(&early).unwrap().0, "ready");
    queue(&world, &["hold", &kept]);
    let operator = serde_json::json!({"reason": "operator"});
    assert_eq!(place(&kept).unwrap(), ("hold".into(), operator));
    let shown = String::from_utf8(queue(&world, &["show", &kept]).stdout).unwrap();
    assert!(
        shown.contains("place      hold\nreason     operator\n"),
        "{shown}"
    );
    queue(&world, &["remove", &removed]);
    assert_eq!(place(&removed), None);
    daemon.stop();
    assert_eq!(world.files("ready"), pair(&early));
    assert_eq!(world.files("hold"), pair(&kept));
}

#[test]
fn what_is_not_offered_is_refused() {
    let world = World::new(Settings {
        tls: "[extensions]\nfuture_release_max = \"off\"",
        ..Settings::default()
    });
    let daemon = world.start();
    let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
    client.say("EHLO client.example");
    let mut lines = vec![client.line()];
    while lines.last().unwrap().starts_with("250-") {
        lines.push(client.line());
    }
    assert!(lines.len() > 5, "{lines:?}");
    assert!(!lines.concat().contains("FUTURERELEASE"), "{lines:?}");
    client.expect(&format!("MAIL FROM:<{ALICE}> HOLDFOR=60"), "555 5.5.4 ");
    daemon.stop();
}
