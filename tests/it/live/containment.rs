//! Accounts that are contained: what becomes of their logins, sessions and messages, by command and after a crash.

use std::sync::atomic::{AtomicBool, Ordering};

use gatepost::server::TlsStart;
use serde_json::{Value, json};

use super::harness::{ALICE, Client, DOORS, Daemon, PASSWORD, Settings, World, account, text};

const BOB: &str = "bob@example.org";
const OVER: &str = "421 4.7.0 the account's rights have changed, log in again";

/// With two accounts of one password.
pub(super) fn two_accounts(settings: Settings) -> World {
    let world = World::new(settings);
    let accounts = [ALICE, BOB].map(|name| account(name, PASSWORD, ""));
    world.replace("accounts.toml", &accounts.concat());
    world
}

pub(super) fn logged_in_as(daemon: &Daemon, name: &str) -> Client {
    let mut client = Client::secured(daemon, TlsStart::Implicit);
    let reply = client.login(name, PASSWORD);
    assert!(reply.starts_with("235 "), "{reply}");
    client
}

/// Hands in a message; gives its id.
fn send(daemon: &Daemon, name: &str, parameter: &str) -> String {
    let mut client = logged_in_as(daemon, name);
    client.expect(&format!("MAIL FROM:<{name}>{parameter}"), "250 ");
    client.expect("RCPT TO:<carol@example.net>", "250 ");
    client.expect("RCPT TO:<dora@example.net>", "250 ");
    client.expect("DATA", "354 ");
    let message = format!("From: <{name}>\r\n\r\nhello\r\n.");
    let reply = client.expect(&message, "250 2.0.0 queued as ");
    reply.rsplit(' ').next().unwrap().to_owned()
}

/// What the consumer of the queue does.
fn take(world: &World, id: &str) {
    for extension in ["json", "eml"] {
        std::fs::remove_file(world.queue().join(format!("ready/{id}.{extension}"))).unwrap();
    }
}

fn place(world: &World, id: &str) -> (String, Value) {
    let listed = world.ask(&["queue", "show", id]);
    let place = listed["place"].as_str().unwrap().to_owned();
    (place, listed["hold"].clone())
}

pub(super) fn refusal(daemon: &Daemon, name: &str, password: &str) -> String {
    Client::secured(daemon, TlsStart::Implicit).login(name, password)
}

#[test]
fn a_contained_account_is_out_and_its_mail_is_held() {
    let world = two_accounts(Settings::default());
    let daemon = world.start();
    let gone = send(&daemon, ALICE, "");
    let queued = send(&daemon, ALICE, "");
    let later = send(&daemon, ALICE, " HOLDFOR=86400");
    let held = send(&daemon, ALICE, "");
    let bobs = send(&daemon, BOB, "");
    let output = world.run(&["queue", "hold", &held], "");
    assert!(output.status.success(), "{output:?}");
    take(&world, &gone);
    daemon.all_closed();
    let until = place(&world, &later).1["until"].clone();
    let mut idle: Vec<Client> = DOORS
        .iter()
        .map(|door| Client::logged_in(&daemon, *door))
        .collect();
    let mut in_data = Client::in_data(&daemon, TlsStart::StartTls);
    in_data.say("From: <alice@example.org>");
    let mut bob = logged_in_as(&daemon, BOB);

    let report = world.ask(&["contain", ALICE]);
    assert_eq!(report["account"], ALICE);
    assert_eq!(report["already"], false);
    // Those that do nothing, and the one in the middle of a message.
    let live = idle.len() as u64 + 1;
    assert_eq!(report["sessions"], live);
    let event = daemon.event("contained", |event| event["account"] == ALICE);
    assert_eq!(event["sessions"], live);
    assert_eq!(
        (&report["accepted"], &report["recipients"]),
        (&json!(4), &json!(8))
    );
    assert_eq!(report["left"], json!([gone]));
    assert_eq!(report["left_recipients"], 2);
    assert_eq!(report["held"], json!([queued, later, held]));

    for client in idle.iter_mut().chain([&mut in_data]) {
        assert_eq!(client.reply(), OVER);
        assert_eq!(client.rest(), "");
    }
    daemon.event("closed", |event| {
        event["reason"] == "the account is contained"
    });
    let event = daemon.event("contained", |event| event["account"] == ALICE);
    assert_eq!((&event["held"], &event["left"]), (&json!(3), &json!(1)));
    assert_eq!(event["left_ids"], *gone);
    assert_eq!(event["by"], "operator");
    let contained = json!({"reason": "contained"});
    assert_eq!(place(&world, &queued), ("hold".to_owned(), contained));
    let waiting = json!({"reason": "contained", "until": until, "before": "future-release"});
    assert_eq!(place(&world, &later), ("hold".to_owned(), waiting));

    // The same words as for a wrong password, and for the operator others.
    let wrong = refusal(&daemon, ALICE, "wrong");
    assert!(wrong.starts_with("535 5.7.8 "), "{wrong}");
    assert_eq!(refusal(&daemon, ALICE, PASSWORD), wrong);
    let event = daemon.event("auth.refused", |event| event["reason"] == "contained");
    assert_eq!(event["account"], ALICE);

    // Nobody else has noticed.
    bob.expect("NOOP", "250 ");
    assert_eq!(place(&world, &bobs).0, "ready");
    let bobs_second = send(&daemon, BOB, "");
    assert_eq!(place(&world, &bobs_second).0, "ready");

    let list = world.ask(&["contain", "--list"]);
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(
        (&list[0]["account"], &list[0]["by"]),
        (&json!(ALICE), &json!("operator"))
    );
    assert_eq!(world.ask(&["status"])["contained"], 1);
    let shown = world.ask(&["account", "show", ALICE]);
    assert_eq!(shown["contained"].as_array().unwrap().len(), 1);
    let explained = world.run(&["explain", "--account", ALICE, "--from", ALICE], "");
    let explained = String::from_utf8(explained.stdout).unwrap();
    assert!(explained.contains("contained"), "{explained}");
    let checked = world.run(&["check"], "");
    let checked = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    assert!(
        checked.contains("`alice@example.org` is contained since"),
        "{checked}"
    );

    let report = world.ask(&["uncontain", ALICE]);
    assert_eq!(report["messages"], json!([queued, later]));
    assert_eq!(place(&world, &queued).0, "ready");
    let waiting = json!({"reason": "future-release", "until": until});
    assert_eq!(place(&world, &later), ("hold".to_owned(), waiting));
    assert_eq!(place(&world, &held).0, "hold");
    daemon.event("uncontained", |event| event["account"] == ALICE);
    let again = send(&daemon, ALICE, "");
    assert_eq!(place(&world, &again).0, "ready");
    let output = world.run(&["uncontain", ALICE], "");
    assert_eq!(output.status.code(), Some(1));
    daemon.stop();
}

#[test]
fn what_was_answered_outlives_a_crash_at_that_moment() {
    let world = two_accounts(Settings::default());
    let mut daemon = world.start();
    let queued = send(&daemon, ALICE, "");
    world.ask(&["contain", ALICE]);
    daemon.kill();
    let mut daemon = world.start();
    assert!(refusal(&daemon, ALICE, PASSWORD).starts_with("535 5.7.8 "));
    assert_eq!(place(&world, &queued).0, "hold");
    assert_eq!(daemon.event("ready", |_| true)["contained"], 1);
    // A crash before the queue was put away: the start does it.
    let release = world.run(&["queue", "release", &queued], "");
    assert!(release.status.success(), "{release:?}");
    daemon.kill();
    let mut daemon = world.start();
    assert_eq!(place(&world, &queued).0, "hold");
    world.ask(&["uncontain", ALICE]);
    daemon.kill();
    let daemon = world.start();
    assert!(refusal(&daemon, ALICE, PASSWORD).starts_with("235 "));
    assert_eq!(place(&world, &queued).0, "ready");
    daemon.stop();
}

#[test]
fn one_credential_is_contained_alone() {
    let world = two_accounts(Settings::default());
    let add = ["account", "credential", "add", ALICE, "--name", "phone"];
    let secret = String::from_utf8(world.run(&add, "").stdout).unwrap();
    let secret = secret.trim_end();
    let daemon = world.start();
    let own = send(&daemon, ALICE, "");
    daemon.all_closed();
    let mut laptop = logged_in_as(&daemon, ALICE);
    let mut phone = Client::secured(&daemon, TlsStart::Implicit);
    assert!(phone.login(ALICE, secret).starts_with("235 "));
    let reply = phone.message("from the phone");
    let phones = reply.rsplit(' ').next().unwrap();
    assert_eq!(world.ask(&["queue", "show", phones])["credential"], "phone");

    let report = world.ask(&["contain", ALICE, "--credential", "phone"]);
    assert_eq!(report["held"], json!([phones]));
    assert_eq!(
        (&report["accepted"], &report["sessions"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(phone.reply(), OVER);
    assert!(refusal(&daemon, ALICE, secret).starts_with("535 5.7.8 "));
    laptop.expect("NOOP", "250 ");
    assert!(laptop.message("from the laptop").starts_with("250 "));
    assert_eq!(place(&world, &own).0, "ready");
    // All of the account, and back: with its credentials.
    let said = world.run(&["contain", ALICE], "");
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("\nsessions ended        1\n"), "{said}");
    assert_eq!(laptop.reply(), OVER);
    let report = world.ask(&["uncontain", ALICE, "--keep-held"]);
    assert_eq!(report["ended"].as_array().unwrap().len(), 2);
    assert_eq!(report["messages"].as_array().unwrap().len(), 3);
    assert_eq!(
        place(&world, phones),
        ("hold".to_owned(), json!({"reason": "operator"}))
    );
    assert!(refusal(&daemon, ALICE, secret).starts_with("235 "));
    let unknown = world.run(&["contain", ALICE, "--credential", "fridge"], "");
    assert_eq!(unknown.status.code(), Some(1));
    daemon.stop();
}

#[test]
fn it_works_without_a_daemon() {
    let world = two_accounts(Settings::default());
    let daemon = world.start();
    let queued = send(&daemon, ALICE, "");
    let gone = send(&daemon, ALICE, "");
    take(&world, &gone);
    daemon.stop();
    let report = world.ask(&["contain", ALICE]);
    assert_eq!(report["held"], json!([queued]));
    assert_eq!(report["left"], json!([gone]));
    assert_eq!(report["sessions"], 0);
    let text = world.run(&["contain", "--list"], "");
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("alice@example.org  operator: by command"),
        "{text}"
    );
    let daemon = world.start();
    assert!(refusal(&daemon, ALICE, PASSWORD).starts_with("535 5.7.8 "));
    daemon.stop();
    let report = world.ask(&["uncontain", ALICE, "--remove-held"]);
    assert_eq!(report["messages"], json!([queued]));
    assert_eq!(
        (world.files("ready"), world.files("hold")),
        (vec![], vec![])
    );
    let daemon = world.start();
    assert!(refusal(&daemon, ALICE, PASSWORD).starts_with("235 "));
    daemon.stop();
}

#[test]
fn nothing_slips_through_while_messages_are_committed() {
    let world = two_accounts(Settings {
        account_limits: "messages_per_hour = \"unlimited\"\nrecipients_per_day = \"unlimited\"",
        ..Settings::default()
    });
    let daemon = world.start();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
                while client
                    .try_ask(&format!("MAIL FROM:<{ALICE}>"))
                    .is_some_and(|reply| reply.starts_with("250 "))
                {
                    client.say("RCPT TO:<bob@example.net>\r\nDATA");
                    let _ = client.try_reply();
                    let _ = client.try_reply();
                    if client.try_ask(&text("spam")).is_none() {
                        break;
                    }
                }
                over.store(true, Ordering::Relaxed);
            });
        }
        daemon.event_number(40, "message.accepted");
        assert!(!over.load(Ordering::Relaxed));
        world.ask(&["contain", ALICE]);
        // Commits that were under way have ended, and none begins any more.
        assert_eq!(world.files("ready"), [""; 0]);
    });
    daemon.all_closed();
    let accepted = daemon.events();
    let accepted = accepted
        .iter()
        .filter(|event| event["event"] == "message.accepted")
        .count();
    assert_eq!(world.files("ready"), [""; 0]);
    assert_eq!(world.files("hold").len(), 2 * accepted);
    world.ask(&["uncontain", ALICE]);
    assert_eq!(world.files("ready").len(), 2 * accepted);
    daemon.stop();
}

#[test]
fn nobody_comes_in_by_a_broken_file() {
    let world = two_accounts(Settings::default());
    let daemon = world.start();
    world.ask(&["contain", ALICE]);
    daemon.stop();
    let path = world.path("queue/contained.json");
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &whole[1..]).unwrap();
    let (status, said) = world.refused_start();
    assert_eq!(status, Some(1));
    assert!(said.contains("cannot read who is contained"), "{said}");
    assert_eq!(world.run(&["contain", "--list"], "").status.code(), Some(1));
    std::fs::write(&path, whole).unwrap();
    world.start().stop();
}
