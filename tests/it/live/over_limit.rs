//! `over_limit = "hold"` over the wire: what is over a limit is accepted, seen in `hold/`, and leaves when there is room.

use gatepost::server::TlsStart;
use serde_json::{Value, json};

use super::harness::{ALICE, Client, Daemon, PASSWORD, World, account, text};

/// Hands in a message; gives what is said of it.
fn send(client: &mut Client) -> String {
    client.expect(&format!("MAIL FROM:<{ALICE}>"), "250 ");
    client.expect("RCPT TO:<bob@example.net>", "250 ");
    client.expect("DATA", "354 ");
    client.expect(&text("more"), "250 2.0.0 queued as ")
}

/// The id that a reply tells.
fn id(reply: &str) -> String {
    let id = reply.strip_prefix("250 2.0.0 queued as ").unwrap();
    id[..26].to_owned()
}

fn released(daemon: &Daemon) -> Vec<String> {
    let events = daemon.events().into_iter();
    events
        .filter(|event| event["event"] == "message.released")
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect()
}

fn waiting(world: &World) -> Vec<(String, Value)> {
    let listed = world.ask(&["queue", "list"]);
    let entries = listed.as_array().unwrap().iter();
    let held = entries.filter(|entry| entry["place"] == "hold");
    held.map(|entry| {
        (
            entry["id"].as_str().unwrap().to_owned(),
            entry["hold"].clone(),
        )
    })
    .collect()
}

#[test]
fn what_is_over_a_limit_is_held_and_leaves_when_there_is_room() {
    let mut world = World::with_limits("");
    world.settings.account_limits =
        "messages_per_hour = 2\nover_limit = \"hold\"\nheld_messages = 3";
    world.write_configuration();
    let daemon = world.start();
    let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
    let replies: Vec<String> = (0..5).map(|_| send(&mut client)).collect();
    let ids: Vec<String> = replies.iter().map(|reply| id(reply)).collect();
    assert!(replies[1].ends_with(&*ids[1]), "{}", replies[1]);
    for reply in &replies[2..] {
        let (_, about) = reply
            .split_once(", held by the account's limits until about ")
            .unwrap();
        assert!(about.parse::<jiff::Timestamp>().is_ok(), "{reply}");
    }
    client.expect(
        &format!("MAIL FROM:<{ALICE}>"),
        "450 4.7.28 too many messages are held over the account's limits, try again later",
    );
    let held = daemon.event("message.held", |event| event["id"] == *ids[2]);
    assert_eq!(
        (&held["account"], &held["hold"]),
        (&json!(ALICE), &json!("over-limit"))
    );
    let reason = format!("messages_per_hour = 2 of account {ALICE} leaves no room for 1 more");
    assert_eq!(held["reason"], reason);
    assert!(
        held["leaves_about"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .is_ok()
    );

    // Everybody can see it.
    let of = |ids: &[String]| -> Vec<(String, Value)> {
        let hold = json!({"reason": "over-limit"});
        ids.iter().map(|id| (id.clone(), hold.clone())).collect()
    };
    assert_eq!(waiting(&world), of(&ids[2..]));
    let status = world.ask(&["status"]);
    assert_eq!(
        (&status["over_limit"], &status["over_limit_accounts"]),
        (&json!(3), &json!(1))
    );
    assert!(status["over_limit_next"].is_string(), "{status}");
    let explain = [
        "explain",
        "--account",
        ALICE,
        "--from",
        ALICE,
        "--to",
        "b@example.net",
    ];
    let output = world.run(&explain, "");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("too many messages are held"), "{said}");
    assert!(
        said.contains(
            "note: messages of the account that wait in hold/ for room under its limits: 3; "
        ),
        "{said}"
    );

    // A killed daemon forgets none, and lets none go before its time.
    let mut daemon = daemon;
    let saved = super::harness::eventually(|| {
        let text = std::fs::read_to_string(world.path("queue/limits.json")).ok()?;
        text.contains(ALICE).then_some(())
    });
    saved.unwrap();
    daemon.kill();
    let daemon = world.start();
    assert_eq!(waiting(&world), of(&ids[2..]));
    assert_eq!(world.ask(&["status"])["over_limit"], 3);
    let mut client = Client::logged_in(&daemon, TlsStart::StartTls);
    client.expect(&format!("MAIL FROM:<{ALICE}>"), "450 4.7.28 ");

    // One more an hour, by the configuration: the first of them leaves.
    world.settings.account_limits = "messages_per_hour = 3\nover_limit = \"hold\"";
    world.write_configuration();
    assert_eq!(daemon.reload()["event"], "reload");
    daemon.event_number(1, "message.released");
    assert_eq!(released(&daemon), ids[2..3]);
    let event = daemon.event("message.released", |_| true);
    assert_eq!(
        (&event["reason"], &event["until"]),
        (&json!("over-limit"), &Value::Null)
    );
    assert_eq!(waiting(&world), of(&ids[3..]));
    // Who comes now goes behind them.
    let last = id(&send(&mut client));
    let output = world.run(&explain, "");
    let said = String::from_utf8(output.stdout).unwrap();
    let wait = format!("3 messages of account {ALICE} wait before it");
    let step = format!(
        "DATA 1 recipient: allowed, and held\n  rule    over_limit at {}:",
        world.shown("gatepost.toml")
    );
    assert!(said.contains(&step) && said.contains(&wait), "{said}");
    let said = world.ask(&explain);
    let step = said["steps"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&step["decision"], &said["waiting"]),
        (&json!("hold"), &json!(3))
    );

    // As many as they like, by the accounts file: all of them, in their order.
    let unlimited = account(ALICE, PASSWORD, "messages_per_hour = \"unlimited\"");
    world.replace("accounts.toml", &unlimited);
    daemon.event_number(4, "message.released");
    let mut expected = ids[2..].to_vec();
    expected.push(last);
    assert_eq!(released(&daemon), expected);
    assert_eq!(waiting(&world), []);
    assert_eq!(world.ask(&["status"])["over_limit"], 0);
    let sent = send(&mut client);
    assert!(!sent.contains("held"), "{sent}");
    daemon.stop();
    assert_eq!(world.queued().len(), 7);
}

/// Trip wires count what is accepted; whoever is contained keeps what is held, and it waits again afterwards.
#[test]
fn a_burst_that_is_held_trips_the_wires_all_the_same() {
    let mut world = World::with_limits("");
    world.settings.account_limits =
        "messages_per_hour = 1\nover_limit = \"hold\"\n[tripwires]\nmessages_per_10_minutes = 4";
    world.write_configuration();
    let daemon = world.start();
    let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
    let ids: Vec<String> = (0..4).map(|_| id(&send(&mut client))).collect();
    client.expect(&format!("MAIL FROM:<{ALICE}>"), "250 ");
    client.expect("RCPT TO:<bob@example.net>", "250 ");
    client.expect("DATA", "354 ");
    client.expect(&text("one too many"), "421 4.7.0 ");
    let contained = daemon.event("contained", |_| true);
    assert_eq!(contained["held"], 4);
    for (index, (held, hold)) in waiting(&world).into_iter().enumerate() {
        assert_eq!(
            (held, &hold["reason"]),
            (ids[index].clone(), &json!("contained"))
        );
    }
    world.ask(&["uncontain", ALICE]);
    daemon.event("uncontained", |_| true);
    let over_limit = json!({"reason": "over-limit"});
    let still: Vec<_> = ids[1..]
        .iter()
        .map(|id| (id.clone(), over_limit.clone()))
        .collect();
    assert_eq!(waiting(&world), still);
    // The message that was not committed takes no place.
    assert_eq!(world.ask(&["status"])["over_limit"], 3);
    daemon.stop();
}
