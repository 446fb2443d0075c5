//! Those who guess passwords are slowed down and shut out, and nobody else notices.
//!
//! Every client comes from an address of its own in 127.0.0.0/8.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use gatepost::account::password::{Parameters, make};
use gatepost::secret::Secret;
use gatepost::server::TlsStart;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::harness::{
    ALICE, Client, DOORS, Daemon, PASSWORD, Settings, World, account, eventually, text,
};

const GUESSER: &str = "127.0.0.2";
const HONEST: &str = "127.0.0.3";
const BOB: &str = "bob@example.org";
const CAROL: &str = "carol@example.org";

const ACCEPTED: &str = "235 2.7.0 authentication succeeded";
const FAILED: &str = "535 5.7.8 authentication failed";
const BANNED: &str = "421 4.7.0 too many failed authentications from your address, try again later";

/// A few failures are too many, and none waits.
const STRICT: &str = "failures_per_address = 3\nfailures_per_login = 3\ndelay_max = \"off\"";

fn world(guessing: &'static str) -> World {
    let world = World::new(Settings {
        guessing,
        ..Settings::default()
    });
    let accounts = [ALICE, BOB, CAROL].map(|name| account(name, PASSWORD, ""));
    world.replace("accounts.toml", &accounts.concat());
    world
}

/// Logs in from there on a connection of its own; the reply, or `None` if there was none.
fn login(daemon: &Daemon, source: &str, name: &str, password: &str) -> Option<String> {
    let door = TlsStart::Implicit;
    let mut client = Client::come_from(source, daemon, door);
    client.try_handshake().ok()?;
    client.try_reply()?;
    client.try_ask("EHLO client.example.org")?;
    client.try_login(name, password)
}

/// Guesses until the address is banned.
fn have_banned(daemon: &Daemon, source: &str, name: &str) -> Value {
    for number in 0..3 {
        let reply = login(daemon, source, name, &format!("guess {number}"));
        assert_eq!(reply.as_deref(), Some(FAILED));
    }
    daemon.event("banned", |event| {
        event["scope"] == "network" && event["network"] == source
    })
}

#[test]
fn a_guesser_is_shut_out_and_nobody_else() {
    let world = world(STRICT);
    let daemon = world.start();
    let mut inside = Client::secured_from(GUESSER, &daemon, TlsStart::StartTls);
    let mut honest = Client::secured_from(HONEST, &daemon, TlsStart::Implicit);
    let banned = have_banned(&daemon, GUESSER, ALICE);
    assert_eq!(banned["failures"], 3);
    assert_eq!(banned["seconds"], 600);
    assert_eq!(banned["enforced"], true);
    assert_eq!(banned["known"], 0);
    // Whoever is inside already is not heard any more, right as it may be.
    let is_me = inside.is_me();
    assert_eq!(inside.login(BOB, PASSWORD), BANNED);
    assert_eq!(inside.rest(), "");
    let refused = daemon.event("auth.refused", is_me);
    assert_eq!(refused["reason"], "this address is banned");
    // Nobody else comes in: with a word where TLS does not come first, and with none where it does.
    let mut at_587 = Client::come_from(GUESSER, &daemon, TlsStart::StartTls);
    let mut at_465 = Client::come_from(GUESSER, &daemon, TlsStart::Implicit);
    let refused = daemon.event("refused", |event| event["reason"] == "banned");
    assert_eq!(refused["client"], GUESSER);
    assert_eq!(refused["count"], 1);
    assert!(at_465.try_handshake().is_err());
    assert_eq!(at_587.reply(), BANNED);
    assert_eq!(at_587.rest(), "");
    // The account that they were after is open to its owner elsewhere.
    assert_eq!(honest.login(ALICE, PASSWORD), ACCEPTED);
    assert!(honest.message("still here").starts_with("250 "));
    let reply = login(&daemon, HONEST, ALICE, PASSWORD);
    assert_eq!(reply.as_deref(), Some(ACCEPTED));
    let status = world.ask(&["status"]);
    assert_eq!(status["guessing"], "on");
    assert_eq!(status["bans"], 2);
    assert_eq!(status["known_logins"], 1);
}

#[test]
fn a_phone_with_an_old_password_is_not_banned() {
    let world = world(STRICT);
    let daemon = world.start();
    for door in DOORS {
        for _ in 0..5 {
            let mut phone = Client::secured_from(GUESSER, &daemon, door);
            for _ in 0..3 {
                assert_eq!(phone.login(ALICE, "the old one"), FAILED);
            }
            assert!(phone.reply().starts_with("421 4.7.0 too many failed auth"));
        }
    }
    let reply = login(&daemon, GUESSER, ALICE, PASSWORD);
    assert_eq!(reply.as_deref(), Some(ACCEPTED));
    assert!(
        daemon
            .events()
            .iter()
            .all(|event| event["event"] != "banned")
    );
}

#[test]
fn whoever_is_known_is_not_locked_out_by_others() {
    let world = world(STRICT);
    let daemon = world.start();
    let accepted = || Some(ACCEPTED.to_owned());
    assert_eq!(login(&daemon, GUESSER, ALICE, PASSWORD), accepted());
    let banned = have_banned(&daemon, GUESSER, BOB);
    assert_eq!(banned["known"], 1);
    // Behind the same address: at the door nobody knows yet who it is, so it is open.
    assert_eq!(login(&daemon, GUESSER, ALICE, PASSWORD), accepted());
    let banned = Some(BANNED.to_owned());
    assert_eq!(login(&daemon, GUESSER, BOB, PASSWORD), banned);
    assert_eq!(login(&daemon, GUESSER, CAROL, PASSWORD), banned);
    // Its own failures are its own.
    for number in 0..3 {
        let reply = login(&daemon, GUESSER, ALICE, &format!("guess {number}"));
        assert_eq!(reply.as_deref(), Some(FAILED));
    }
    assert_eq!(login(&daemon, GUESSER, ALICE, PASSWORD), banned);
}

#[test]
fn bans_outlast_a_restart_and_can_be_lifted() {
    let world = world(STRICT);
    let explained = || {
        let arguments = ["explain", "--account", ALICE, "--from", ALICE];
        let output = world.run(
            &[&arguments[..], &["--client", GUESSER, "--json"]].concat(),
            "",
        );
        let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
        let steps = explained["steps"].as_array().unwrap().clone();
        steps.iter().any(|step| step["reply"] == BANNED)
    };
    let networks = |bans: &Value| -> Vec<String> {
        let bans = bans.as_array().unwrap().iter();
        bans.map(|ban| format!("{} {}", ban["kind"].as_str().unwrap(), ban["network"]))
            .collect()
    };
    let both = ["network \"127.0.0.2\"", "login \"127.0.0.2\""];
    let daemon = world.start();
    have_banned(&daemon, GUESSER, ALICE);
    assert_eq!(networks(&world.ask(&["ban", "list"])), both);
    daemon.stop();
    // Nobody runs: the file is looked into.
    let bans = world.ask(&["ban", "list"]);
    assert_eq!(networks(&bans), both);
    assert_eq!(bans[1]["account"], ALICE);
    assert!(explained());

    let daemon = world.start();
    let mut client = Client::come_from(GUESSER, &daemon, TlsStart::Implicit);
    daemon.event("refused", |event| event["reason"] == "banned");
    assert!(client.try_handshake().is_err());
    let nothing = world.run(&["ban", "lift", "192.0.2.1"], "");
    assert_eq!(nothing.status.code(), Some(1));
    let nonsense = world.run(&["ban", "lift", "everything"], "");
    let said = String::from_utf8(nonsense.stderr).unwrap();
    assert!(said.contains("neither an address nor a network"), "{said}");
    let lifted = world.ask(&["ban", "lift", "127.0.0.0/8"]);
    assert_eq!(networks(&lifted), both);
    daemon.event("ban.lifted", |event| event["network"] == GUESSER);
    let reply = login(&daemon, GUESSER, ALICE, PASSWORD);
    assert_eq!(reply.as_deref(), Some(ACCEPTED));
    have_banned(&daemon, "127.0.0.9", BOB);
    daemon.stop();

    assert_eq!(
        world.ask(&["ban", "lift", "all"]).as_array().unwrap().len(),
        2
    );
    assert!(!explained());
    let daemon = world.start();
    let reply = login(&daemon, "127.0.0.9", BOB, PASSWORD);
    assert_eq!(reply.as_deref(), Some(ACCEPTED));
}

#[test]
fn log_only_and_exempt() {
    let world = world(
        "failures_per_address = 3\nfailures_per_login = 3\nmode = \"log-only\"\nexempt = \"127.0.0.8\"",
    );
    let daemon = world.start();
    let banned = have_banned(&daemon, GUESSER, ALICE);
    assert_eq!(banned["enforced"], false);
    let reply = login(&daemon, GUESSER, ALICE, PASSWORD);
    assert_eq!(reply.as_deref(), Some(ACCEPTED));
    for number in 0..10 {
        let reply = login(&daemon, "127.0.0.8", BOB, &format!("guess {number}"));
        assert_eq!(reply.as_deref(), Some(FAILED));
    }
    let of_exempt = |event: &&Value| event["event"] == "banned" && event["network"] == "127.0.0.8";
    assert_eq!(daemon.events().iter().filter(of_exempt).count(), 0);
    // A reload makes it serious for those who were only talked about.
    let source = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
    world.replace("gatepost.toml", &source.replace("log-only", "on"));
    daemon.reload();
    let reply = login(&daemon, GUESSER, BOB, PASSWORD);
    assert_eq!(reply.as_deref(), Some(BANNED));
}

/// Behind an address that everybody shares, a ban would shut out everybody.
#[test]
fn a_proxy_is_not_banned() {
    let world = world(STRICT);
    let daemon = world.start();
    for name in [ALICE, BOB] {
        let reply = login(&daemon, GUESSER, name, PASSWORD);
        assert_eq!(reply.as_deref(), Some(ACCEPTED));
    }
    for number in 0..9 {
        let reply = login(&daemon, GUESSER, ALICE, &format!("guess {number}"));
        assert_eq!(reply.as_deref(), Some(FAILED));
    }
    let told = daemon.event("guessing.shared_address", |_| true);
    assert_eq!(told["network"], GUESSER);
    assert_eq!(told["accounts"], 2);
    for name in [ALICE, BOB, CAROL] {
        let reply = login(&daemon, GUESSER, name, PASSWORD);
        assert_eq!(reply.as_deref(), Some(ACCEPTED));
    }
    assert_eq!(world.ask(&["status"])["shared_address"], GUESSER);
    let bans = world.ask(&["ban", "list"]);
    let bans = bans.as_array().unwrap();
    assert!(!bans.is_empty() && bans.iter().all(|ban| ban["enforced"] == false));
}

/// The answer to a failure may take long, a stop may not: an answer that waited to the end would come too late.
#[test]
fn a_stop_does_not_wait_for_guessers() {
    let mut world = world(
        "mode = \"log-only\"\ndelay_max = \"30s\"\nfailures_per_address = 10\nfailures_per_login = 10",
    );
    world.settings.limits = "shutdown_timeout = \"1s\"";
    world.write_configuration();
    let mut daemon = world.start();
    for number in 0..9 {
        let reply = login(&daemon, GUESSER, &format!("nobody{number}"), "guess");
        assert_eq!(reply.as_deref(), Some(FAILED));
    }
    let source = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
    world.replace("gatepost.toml", &source.replace("log-only", "on"));
    daemon.reload();
    let mut client = Client::secured_from(GUESSER, &daemon, TlsStart::Implicit);
    client.say("AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAGd1ZXNz");
    // From now on the answer waits.
    daemon.event("banned", |event| event["failures"] == 10);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(client.reply(), FAILED);
    assert_eq!(client.reply(), "421 4.3.2 shutting down, try again later");
    assert_eq!(daemon.ended().code(), Some(0));
}

/// The door is quick, and the log does not grow with every knock.
#[test]
fn knocking_costs_little() {
    let world = world(STRICT);
    let daemon = world.start();
    have_banned(&daemon, GUESSER, ALICE);
    let knocks: Vec<Client> = (0..200)
        .map(|number| Client::come_from(GUESSER, &daemon, DOORS[number % 2]))
        .collect();
    // More than are held: the last of them is closed at once.
    let mut last = knocks.into_iter().next_back().unwrap();
    assert_eq!(last.rest(), "");
    let knocks = eventually(|| {
        let bans = world.ask(&["ban", "list"]);
        let refused = bans[0]["refused"].as_u64().unwrap();
        (refused == 200).then_some(refused)
    });
    assert_eq!(knocks, Some(200));
    let lines = daemon.events();
    let is_refused = |event: &&Value| event["event"] == "refused";
    // One more if all of it takes longer than a minute.
    assert!((1..=2).contains(&lines.iter().filter(is_refused).count()));
}

/// Guessers from many addresses, none of whom is banned, and hardly any places in the line for a hash: those who are
/// known are served all the same, and so is somebody who comes for the first time.
#[test]
fn a_flood_does_not_keep_honest_clients_out() {
    const GUESSERS: u32 = 32;
    const MESSAGES: usize = 10;
    let mut world = world(
        "failures_per_address = 1000000\nfailures_per_login = 1000000\nfailures_per_account = 1000000\n\
         delay_max = \"off\"",
    );
    world.settings.auth = "hash_memory = \"19MiB\"\nhash_queue = 4\ncache_for = \"off\"";
    world.write_configuration();
    let hash = make(&Secret::from(PASSWORD), Parameters::default()).unwrap();
    let entry = |name| format!("[[account]]\nname = \"{name}\"\npassword = \"{hash}\"\n");
    world.replace("accounts.toml", &(entry(ALICE) + &entry(BOB)));
    let daemon = world.start();
    let reply = login(&daemon, HONEST, ALICE, PASSWORD);
    assert_eq!(reply.as_deref(), Some(ACCEPTED));
    let quiet_kib = daemon.memory_kib("VmHWM");

    let (enough, guesses, full) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let all_have_failed = Barrier::new(GUESSERS as usize + 1);
    std::thread::scope(|scope| {
        for guesser in 0..GUESSERS {
            let (daemon, enough, guesses, full) = (&daemon, &enough, &guesses, &full);
            let all_have_failed = &all_have_failed;
            scope.spawn(move || {
                let source = format!("127.1.{guesser}.1");
                let mut has_failed = false;
                while !enough.load(Ordering::Relaxed) {
                    let number = guesses.fetch_add(1, Ordering::Relaxed);
                    let reply = login(daemon, &source, ALICE, &format!("guess {number}"));
                    match reply.as_deref() {
                        Some(FAILED) if !has_failed => {
                            has_failed = true;
                            all_have_failed.wait();
                        }
                        Some(FAILED) => {}
                        Some(reply) => {
                            assert!(reply.starts_with("454 4.7.0 "), "{reply}");
                            full.fetch_add(1, Ordering::Relaxed);
                        }
                        None => panic!("no reply"),
                    }
                }
            });
        }
        all_have_failed.wait();
        let submit = |source: &str, name: &str| {
            let mut client = Client::secured_from(source, &daemon, TlsStart::Implicit);
            assert_eq!(client.login(name, PASSWORD), ACCEPTED);
            client.expect(&format!("MAIL FROM:<{name}>"), "250 ");
            client.expect("RCPT TO:<bob@example.net>", "250 ");
            client.expect("DATA", "354 ");
            let message = text("in spite of it").replace(ALICE, name);
            client.expect(&message, "250 ");
        };
        for _ in 0..MESSAGES {
            submit(HONEST, ALICE);
        }
        submit("127.0.0.4", BOB);
        enough.store(true, Ordering::Relaxed);
    });
    assert!(full.into_inner() > 0, "the line was full");
    assert_eq!(world.queued().len(), MESSAGES + 1);
    let grown_kib = daemon.memory_kib("VmHWM") - quiet_kib;
    let allowed_kib = (19 + 32) << 10;
    assert!(grown_kib < allowed_kib, "{grown_kib} KiB more");
}
