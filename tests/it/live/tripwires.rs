//! Trip wires: a stolen password used for spam, from the first message to the alert; and what does not trip.

use std::path::PathBuf;

use gatepost::server::TlsStart;
use serde_json::{Value, json};

use super::containment::{logged_in_as, refusal, two_accounts};
use super::harness::{ALICE, Client, Daemon, PASSWORD, Settings, World, account, eventually};

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

/// What gatepost itself has put into the queue: envelope and message.
fn own_mail(world: &World) -> Vec<(Value, String)> {
    let mut queued = world.queued();
    queued.retain(|(envelope, _)| envelope["account"] == "");
    queued
}

/// The command lines of an alert, as they stand there.
fn commands(message: &str) -> Vec<&str> {
    let lines = message.lines();
    lines
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.starts_with("gatepost "))
        .collect()
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
    assert_eq!(event["sessions"], 2, "the owner's and the thief's");
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
        ("sessions", json!(2)),
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
        explained.contains("\ntrip wire new_recipients_per_hour = 10 (at ")
            && explained.contains("): 9 counted\n"),
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

/// A client that lost the connection, or met a disk that is full, hands the same message in again and again.
#[test]
fn the_same_message_again_is_not_another_one() {
    const TIMES: usize = 5;
    let world = world("[tripwires]\nmessages_per_10_minutes = 2\n");
    let daemon = world.start();
    for number in 0..TIMES {
        let mut client = Client::in_data(&daemon, TlsStart::Implicit);
        client.say("From: <alice@example.org>\r\nMessage-ID: <once@example.org>\r\n\r\nhello\r\n.");
        match number {
            0 => daemon.event("message.accepted", client.is_me()),
            _ => daemon.event("message.repeated", client.is_me()),
        };
    }
    assert_eq!(tripped(&daemon), [Value::Null; 0]);
    assert_eq!(world.files("ready").len(), 2);
    let mut client = logged_in_as(&daemon, ALICE);
    assert!(spam(&mut client, ALICE, 0, 1).unwrap().starts_with("250 "));
    assert_eq!(spam(&mut client, ALICE, 0, 1), Some(OVER.to_owned()));
    daemon.stop();
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
    daemon.event("tripwire", |_| true);
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

/// Recipients that cannot be are what a list that was bought is full of. That there are too many for one message is no
/// such thing. What was sent along with the one too many is not heard any more.
#[test]
fn refused_recipients_trip() {
    let world = world("[tripwires]\nrefused_recipients_per_hour = 3\n");
    let daemon = world.start();
    let mut client = logged_in_as(&daemon, ALICE);
    client.expect("MAIL FROM:<alice@example.org>", "250 ");
    for number in 0..106 {
        let start = if number < 100 { "250 " } else { "452 " };
        client.expect(&format!("RCPT TO:<p{number}@example.net>"), start);
    }
    for number in 0..3 {
        client.expect(&format!("RCPT TO:<p{number}@>"), "501 ");
    }
    client.expect("NOOP", "250 ");
    assert_eq!(tripped(&daemon), [Value::Null; 0]);
    client.say("RCPT TO:<one-more@>\r\nRSET\r\nMAIL FROM:<alice@example.org>");
    for start in ["501 ", "250 ", OVER] {
        let reply = client.reply();
        assert!(reply.starts_with(start), "{start}: {reply}");
    }
    assert_eq!(client.rest(), "");
    let event = daemon.event("tripwire", |_| true);
    assert_eq!(event["wire"], "refused_recipients_per_hour");
    assert_eq!((&event["count"], &event["allowed"]), (&json!(4), &json!(3)));
    daemon.event("contained", |_| true);
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

#[test]
fn the_operator_gets_one_mail() {
    let world = world(
        "[tripwires]\nnew_recipients_per_hour = 5\n[alert]\nto = [\"postmaster@example.net\", \"on-call@example.net\"]\n",
    );
    let mut daemon = world.start();
    let mut bob = logged_in_as(&daemon, BOB);
    assert!(spam(&mut bob, BOB, 0, 1).unwrap().starts_with("250 "));
    let mut thief = logged_in_as(&daemon, ALICE);
    assert!(spam(&mut thief, ALICE, 0, 3).unwrap().starts_with("250 "));
    assert_eq!(spam(&mut thief, ALICE, 1, 3), Some(OVER.to_owned()));
    let event = daemon.event("alert.queued", |_| true);
    assert_eq!(event["account"], ALICE);

    // What is left of it in ready/ is bob's and the mail.
    let accounts: Vec<Value> = world
        .queued()
        .iter()
        .map(|(envelope, _)| envelope["account"].clone())
        .collect();
    assert_eq!(accounts, [json!(BOB), json!("")]);
    let mail = own_mail(&world);
    let (envelope, message) = &mail[0];
    assert_eq!(envelope["id"], event["id"]);
    assert_eq!(envelope["reverse_path"], "");
    let to = json!([{"forward_path": "postmaster@example.net"}, {"forward_path": "on-call@example.net"}]);
    assert_eq!(envelope["recipients"], to);
    assert_eq!(envelope["size"], message.len());
    assert_eq!(
        (
            &envelope["credential"],
            &envelope["hold"],
            &envelope["fingerprint"]
        ),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    let id = envelope["id"].as_str().unwrap();
    for line in [
        "From: gatepost <postmaster@mail.example.org>",
        "To: <postmaster@example.net>,",
        &format!("Message-ID: <{id}@mail.example.org>"),
        "Subject: [mail.example.org] account alice@example.org is contained",
        "Auto-Submitted: auto-generated",
        "trip wire   new_recipients_per_hour",
        "counted     6 recipients in an hour that it never wrote to before",
        "allowed     5",
        "sessions ended        1",
        "accepted in 24 hours  1 to 3 recipients",
        "held now              1",
        "left already          0 to 0 recipients",
    ] {
        assert!(
            message.split("\r\n").any(|said| said == line),
            "{line}: {message}"
        );
    }
    let listed = String::from_utf8(world.run(&["queue", "list"], "").stdout).unwrap();
    assert!(listed.contains("(gatepost)"), "{listed}");
    assert_eq!(world.run(&["trace", id], "").status.code(), Some(1));

    // It is nobody's: whoever is contained, it stays, also after a crash.
    world.ask(&["contain", BOB]);
    daemon.kill();
    let daemon = world.start();
    assert_eq!(own_mail(&world), mail);
    assert_eq!(world.files("ready").len(), 2);

    // What it says can be pasted.
    let commands = commands(message);
    let program = crate::process::program();
    let undo = commands
        .iter()
        .find(|line| line.contains(" uncontain "))
        .unwrap();
    let paste = undo.replacen("gatepost", program.to_str().unwrap(), 1);
    let pasted = std::process::Command::new("sh")
        .args(["-c", &paste])
        .output()
        .unwrap();
    assert!(pasted.status.success(), "{paste}: {pasted:?}");
    assert!(refusal(&daemon, ALICE, PASSWORD).starts_with("235 "));
    daemon.stop();
    assert_eq!(own_mail(&world), mail, "one, and by hand none");
}

#[test]
fn a_dry_run_is_told_as_one() {
    let world = world("[tripwires]\nmode = \"dry-run\"\nmessages_per_10_minutes = 2\n");
    let (program, heard) = pager(&world);
    let text = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
    let alert = format!(
        "[alert]\nto = \"postmaster@example.net\"\ncommand = [\"{}\", \"x\"]\n",
        program.display()
    );
    world.replace("gatepost.toml", &(text + &alert));
    let daemon = world.start();
    let mut client = logged_in_as(&daemon, ALICE);
    for round in 0..6 {
        assert!(
            spam(&mut client, ALICE, round, 1)
                .unwrap()
                .starts_with("250 ")
        );
    }
    daemon.event("alert.queued", |_| true);
    daemon.event("alert.sent", |_| true);
    daemon.stop();
    let mail = own_mail(&world);
    assert_eq!(mail.len(), 1);
    let subject =
        "Subject: [mail.example.org] dry run: account alice@example.org would be contained\r\n";
    assert!(mail[0].1.contains(subject), "{}", mail[0].1);
    assert_eq!(world.files("ready").len(), 2 * (6 + 1), "nothing is held");
    let said = std::fs::read_to_string(&heard).unwrap();
    assert!(said.starts_with(&format!("x|tripwire|{ALICE}|")), "{said}");
    assert_eq!(said.lines().count(), 1);
    assert!(said.contains("\"mode\":\"dry-run\""), "{said}");
}

#[test]
fn a_wave_of_incidents_is_told_together() {
    let name = |number: u32| format!("user{number}@example.org");
    let world = world(
        "[tripwires]\nmessages_per_10_minutes = 1\n[alert]\nto = \"postmaster@example.net\"\n",
    );
    let accounts: Vec<String> = (0..23)
        .map(|number| account(&name(number), PASSWORD, ""))
        .collect();
    world.replace("accounts.toml", &accounts.concat());
    let daemon = world.start();
    for number in 0..23 {
        let mut client = logged_in_as(&daemon, &name(number));
        for round in 0..2 {
            let _ = spam(&mut client, &name(number), round, 1);
        }
        let told = if number < 20 {
            "alert.queued"
        } else {
            "alert.deferred"
        };
        daemon.event(told, |event| event["account"] == *name(number));
    }
    let mail = own_mail(&world);
    assert_eq!(mail.len(), 20);
    assert!(
        mail[19]
            .1
            .contains("\r\nThis is mail number 20 in an hour."),
        "{}",
        mail[19].1
    );
    // A stop is the last chance to tell of the others.
    daemon.stop();
    let mail = own_mail(&world);
    assert_eq!(mail.len(), 21);
    let (_, last) = &mail[20];
    assert!(
        last.contains("\r\nSubject: [mail.example.org] 3 more incidents\r\n"),
        "{last}"
    );
    for number in 20..23 {
        assert!(
            last.contains(&format!("\r\n  {}\r\n", name(number))),
            "{last}"
        );
    }
}

#[test]
fn a_queue_that_takes_nothing_holds_no_containment_up() {
    let mut world = world("");
    world.settings.queue = "minimum_free = \"1PiB\"";
    world.write_configuration();
    let text = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
    let more = "[tripwires]\nnetworks_per_hour = 1\n[alert]\nto = \"postmaster@example.net\"\n";
    world.replace("gatepost.toml", &(text + more));
    let daemon = world.start();
    drop(logged_in_as(&daemon, ALICE));
    let mut other = Client::come_from("127.0.1.1", &daemon, TlsStart::Implicit);
    other.secure(TlsStart::Implicit);
    assert!(other.login(ALICE, PASSWORD).starts_with("235 "));
    assert_eq!(other.reply(), OVER);
    let event = daemon.event("alert.failed", |_| true);
    assert_eq!(event["account"], ALICE);
    let error = event["error"].as_str().unwrap();
    assert!(error.contains("less than minimum_free"), "{error}");
    assert!(refusal(&daemon, ALICE, PASSWORD).starts_with("535 5.7.8 "));
    assert_eq!(world.ask(&["contain", "--list"])[0]["account"], ALICE);
    assert_eq!(world.files("ready"), [""; 0]);
    // Once there is room it is told after all, at a stop at the latest.
    let text = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
    world.replace("gatepost.toml", &text.replace("1PiB", "1MiB"));
    assert_eq!(daemon.reload()["event"], "reload");
    daemon.stop();
    let mail = own_mail(&world);
    assert_eq!(mail.len(), 1);
    let (_, said) = &mail[0];
    assert!(
        said.contains("\r\nSubject: [mail.example.org] 1 more incident\r\n"),
        "{said}"
    );
    assert!(said.contains(&format!("\r\n  {ALICE}\r\n")), "{said}");
}

#[test]
fn alerts_can_be_tried_out() {
    let world = world("");
    let without = world.run(&["alert", "test"], "");
    assert_eq!(without.status.code(), Some(1));
    let said = String::from_utf8(without.stderr).unwrap();
    assert!(said.contains("gatepost is not running"), "{said}");
    let daemon = world.start();
    let nobody = world.run(&["alert", "test"], "");
    assert_eq!(nobody.status.code(), Some(1));
    let said = String::from_utf8(nobody.stdout).unwrap();
    assert_eq!(said, "command  none\nmail     to nobody\n");

    // Who gets mail can change with a reload.
    let text = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
    let alert = "[alert]\nto = \"postmaster@example.net\"\nfrom = \"gatepost@example.net\"\n";
    world.replace("gatepost.toml", &(text + alert));
    assert_eq!(daemon.reload()["event"], "reload");
    let report = world.ask(&["alert", "test"]);
    assert_eq!(report["command"], Value::Null);
    assert_eq!(report["mail"]["to"], json!(["postmaster@example.net"]));
    let mail = own_mail(&world);
    assert_eq!(mail.len(), 1);
    assert_eq!(mail[0].0["id"], report["mail"]["id"]);
    assert!(
        mail[0]
            .1
            .contains("\r\nSubject: [mail.example.org] a test of alerts\r\n")
    );
    assert!(
        mail[0]
            .1
            .contains("\r\nFrom: gatepost <gatepost@example.net>\r\n")
    );
    daemon.stop();
}

/// Python's email package reads an alert as it was meant, whatever the account is called.
#[test]
#[ignore = "needs python3: .ci/run installs it"]
fn a_mail_program_reads_the_alert() {
    const SCRIPT: &str = "import email, email.policy, json, sys\n\
        m = email.message_from_binary_file(sys.stdin.buffer, policy=email.policy.default)\n\
        assert not m.defects, m.defects\n\
        print(json.dumps({'fields': m.keys(), 'subject': m['subject'], 'to': m['to'].addresses[0].addr_spec,\n\
          'type': m.get_content_type(), 'text': m.get_content(), 'defects': [str(d) for k in m.keys() for d in m[k].defects]}))";
    let plain = "alice@example.org".to_owned();
    let strange = format!(
        "jos\u{e9} =?utf-8?B?QQ==?= $(id)'{}@example.org",
        "x".repeat(300)
    );
    for (name, encoding) in [(plain, "7bit"), (strange, "quoted-printable")] {
        let world = world(
            "[tripwires]\nmessages_per_10_minutes = 1\n[alert]\nto = \"postmaster@example.net\"\n",
        );
        let accounts = account(&name, PASSWORD, "send_as = [\"alice@example.org\"]");
        world.replace("accounts.toml", &accounts);
        let daemon = world.start();
        let mut client = logged_in_as(&daemon, &name);
        assert!(spam(&mut client, ALICE, 0, 1).unwrap().starts_with("250 "));
        assert_eq!(spam(&mut client, ALICE, 1, 1), Some(OVER.to_owned()));
        daemon.event("alert.queued", |_| true);
        daemon.stop();
        let mail = own_mail(&world);
        let message = &mail[0].1;
        assert!(
            message.contains(&format!("Encoding: {encoding}\r\n")),
            "{message}"
        );

        let mut python = std::process::Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = python.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, message.as_bytes()).unwrap();
        drop(input);
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success(), "{message}");
        let read: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(read["defects"], json!([]));
        let fields = "Date From To Message-ID Subject Auto-Submitted MIME-Version Content-Type Content-Transfer-Encoding";
        assert_eq!(read["fields"], json!(fields.split(' ').collect::<Vec<_>>()));
        assert_eq!(
            (&read["to"], &read["type"]),
            (&json!("postmaster@example.net"), &json!("text/plain"))
        );
        let subject = format!("[mail.example.org] account {name} is contained");
        let subject: String = subject.chars().take(150).collect();
        assert_eq!(read["subject"], subject);
        let text = read["text"].as_str().unwrap();
        assert!(text.contains(&format!("\naccount     {name}\n")), "{text}");
        let commands = commands(text);
        let undo = commands
            .iter()
            .find(|line| line.contains(" uncontain "))
            .unwrap();
        let program = crate::process::program();
        let paste = undo.replacen("gatepost", program.to_str().unwrap(), 1);
        let pasted = std::process::Command::new("sh")
            .args(["-c", &paste])
            .output()
            .unwrap();
        assert!(pasted.status.success(), "{paste}: {pasted:?}");
    }
}

#[test]
fn an_account_has_trip_wires_of_its_own() {
    let world = world("[tripwires]\nmessages_per_10_minutes = 4\n");
    let accounts = |of_alice: &str| {
        let both = [
            account(BOB, PASSWORD, ""),
            account(ALICE, PASSWORD, of_alice),
        ];
        world.replace("accounts.toml", &both.concat());
    };
    accounts("[account.tripwires]\nmessages_per_10_minutes = 2");
    let daemon = world.start();
    let mut client = logged_in_as(&daemon, ALICE);
    for round in 0..2 {
        assert!(
            spam(&mut client, ALICE, round, 1)
                .unwrap()
                .starts_with("250 ")
        );
    }
    // What is written counts at once, also for those who came before.
    accounts("[account.tripwires]\nmessages_per_10_minutes = 3\nmode = \"dry-run\"");
    daemon.event("reload", |event| event["what"] == "accounts");
    for round in 2..6 {
        let reply = spam(&mut client, ALICE, round, 1).unwrap();
        assert!(reply.starts_with("250 "), "{reply}");
    }
    let mut bob = logged_in_as(&daemon, BOB);
    for round in 0..4 {
        assert!(spam(&mut bob, BOB, round, 1).unwrap().starts_with("250 "));
    }
    assert_eq!(spam(&mut bob, BOB, 4, 1), Some(OVER.to_owned()));
    daemon.event("tripwire", |event| event["account"] == BOB);
    let said = |event: &Value| {
        let names = ["account", "mode", "count", "allowed"];
        json!(names.map(|name| event[name].clone()))
    };
    let said: Vec<Value> = tripped(&daemon).iter().map(said).collect();
    assert_eq!(
        said,
        [json!([ALICE, "dry-run", 4, 3]), json!([BOB, "on", 5, 4])]
    );
    daemon.stop();

    let explain = |account| {
        let output = world.run(&["explain", "--account", account, "--from", account], "");
        String::from_utf8(output.stdout).unwrap()
    };
    let (file, configuration) = (world.shown("accounts.toml"), world.shown("gatepost.toml"));
    let text = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
    let line =
        |of: &str, what: &str| of.lines().position(|line| line.starts_with(what)).unwrap() + 1;
    let of_all = line(&text, "messages_per_10_minutes");
    let text = std::fs::read_to_string(world.path("accounts.toml")).unwrap();
    let (own, mode) = (line(&text, "messages_per_10_minutes"), line(&text, "mode"));
    for (account, expected) in [
        (
            ALICE,
            format!("trip wires: dry-run (tripwires.mode at {file}:{mode})"),
        ),
        (
            ALICE,
            format!("trip wire messages_per_10_minutes = 3 (at {file}:{own}): 6 counted"),
        ),
        (
            ALICE,
            "trip wire networks_per_hour = 15 (by default): 1 counted".to_owned(),
        ),
        (ALICE, "alert: in the log alone".to_owned()),
        (BOB, "trip wires: on (by default)".to_owned()),
        (
            BOB,
            format!(
                "trip wire messages_per_10_minutes = 4 (at {configuration}:{of_all}): 5 counted"
            ),
        ),
    ] {
        let explained = explain(account);
        assert!(
            explained.lines().any(|line| line == expected),
            "{expected}: {explained}"
        );
    }
}
