//! No password reaches the log, however a client brings it: at the lowest level, in both formats, and in no encoding
//! that it passes through.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::harness::{ALICE, Client, DOORS, Daemon, Settings, World, account};

const MARKED: &str = "MARKED-s3cret-9f1c";
const DISABLED: &str = "disabled@example.org";

fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

/// What every text has in it that holds the secret, in clear or in base64 at any of its three alignments.
fn traces(secret: &str) -> Vec<String> {
    let mut traces = vec![secret.to_owned(), secret.to_lowercase()];
    for before in 0..3 {
        let whole = base64(&format!("{}{secret}", "\0".repeat(before)));
        // The first characters hold bits of what is before, the last ones of what comes behind.
        let first = (before * 8).div_ceil(6);
        let last = (before + secret.len()) * 8 / 6;
        traces.push(whole[first..last].to_owned());
    }
    traces
}

#[test]
fn traces_are_found_at_any_alignment() {
    for before in 0..6 {
        for behind in 0..6 {
            let text = format!("{}{MARKED}{}", "b".repeat(before), "e".repeat(behind));
            let encoded = base64(&text);
            assert!(
                traces(MARKED)[2..]
                    .iter()
                    .any(|trace| encoded.contains(trace)),
                "{encoded}"
            );
        }
    }
}

/// One connection with the lines of one attempt; replies are read as far as the server gives one for each.
fn attempt(daemon: &Daemon, lines: &[String]) -> Vec<String> {
    let mut replies = Vec::new();
    for door in DOORS {
        let mut client = Client::secured(daemon, door);
        replies = lines.iter().map(|line| client.ask(line)).collect();
        client.say("QUIT");
        client.rest();
        let port = client.port().to_string();
        drop(client);
        daemon
            .log
            .wait_for(|line| line.contains("closed") && line.contains(&port));
    }
    replies
}

fn every_way(daemon: &Daemon) {
    let plain = |text: &str| base64(text);
    let right = plain(&format!("\0{ALICE}\0{MARKED}"));
    let (name, secret) = (base64(ALICE), base64(MARKED));
    let one = |line: String| vec![line];
    let response = |line: String| vec!["AUTH PLAIN".to_owned(), line];
    let ways: Vec<(&str, Vec<String>)> = vec![
        ("235", one(format!("AUTH PLAIN {right}"))),
        ("235", response(right.clone())),
        (
            "235",
            vec!["AUTH LOGIN".to_owned(), name.clone(), secret.clone()],
        ),
        ("235", vec![format!("AUTH LOGIN {name}"), secret.clone()]),
        // Wrong in one place or another.
        (
            "535",
            one(format!(
                "AUTH PLAIN {}",
                plain(&format!("\0{ALICE}\0{MARKED}!"))
            )),
        ),
        (
            "535",
            one(format!(
                "AUTH PLAIN {}",
                plain(&format!("\0nobody@example.org\0{MARKED}"))
            )),
        ),
        (
            "535",
            one(format!(
                "AUTH PLAIN {}",
                plain(&format!("\0{DISABLED}\0{MARKED}"))
            )),
        ),
        (
            "535",
            one(format!(
                "AUTH PLAIN {}",
                plain(&format!("{MARKED}\0{ALICE}\0{MARKED}"))
            )),
        ),
        (
            "535",
            one(format!(
                "AUTH PLAIN {}",
                plain(&format!("bob\0{ALICE}\0{MARKED}"))
            )),
        ),
        (
            "535",
            one(format!(
                "AUTH PLAIN {}",
                plain(&format!("\0{ALICE}\0{MARKED}\u{7}"))
            )),
        ),
        // In the field of the name.
        (
            "535",
            one(format!(
                "AUTH PLAIN {}",
                plain(&format!("\0{MARKED}\0{ALICE}"))
            )),
        ),
        (
            "535",
            one(format!(
                "AUTH PLAIN {}",
                plain(&format!("\0{MARKED}@elsewhere.example\0x"))
            )),
        ),
        (
            "535",
            vec!["AUTH LOGIN".to_owned(), secret.clone(), name.clone()],
        ),
        // Not in the form of the mechanism.
        (
            "501",
            one(format!(
                "AUTH PLAIN {}",
                plain(&format!("{ALICE}\0{MARKED}"))
            )),
        ),
        ("501", one(format!("AUTH PLAIN {}", plain(MARKED)))),
        (
            "501",
            one(format!(
                "AUTH PLAIN {}",
                plain(&format!("\0{ALICE}\0{MARKED}\0"))
            )),
        ),
        (
            "501",
            one(format!(
                "AUTH PLAIN {}",
                plain(&format!("\0\0{ALICE}\0{MARKED}"))
            )),
        ),
        ("501", one(format!("AUTH PLAIN {MARKED}"))),
        ("501", response(MARKED.to_owned())),
        ("501", response(format!("{right}!"))),
        ("501", response(right[..right.len() - 3].to_owned())),
        (
            "501",
            vec!["AUTH LOGIN".to_owned(), name.clone(), MARKED.to_owned()],
        ),
        ("501", vec!["AUTH LOGIN".to_owned(), MARKED.to_owned()]),
        ("501", response(format!("{right} "))),
        ("501", response(format!("{secret}\0"))),
        ("501", one(format!("AUTH PLAIN {right} {right}"))),
        ("504", one(format!("AUTH CRAM-MD5 {secret}"))),
        ("504", one(format!("AUTH {MARKED}"))),
        ("501", one(format!("AUTH {secret}"))),
        ("500", response(secret.repeat(1000))),
        ("500", one(format!("AUTH PLAIN {}", secret.repeat(1000)))),
        // Where a command should be: a client that has lost step.
        ("500", one(MARKED.to_owned())),
        ("500", one(secret.clone())),
        ("500", one(right.clone())),
        ("500", one(format!("AUTHPLAIN {right}"))),
        ("500", one(format!("{MARKED} {MARKED}"))),
        ("500", one(format!("PASS {MARKED}"))),
        ("500", one(format!("{MARKED}\0"))),
        // After the login, a second one.
        (
            "503",
            vec![format!("AUTH PLAIN {right}"), format!("AUTH PLAIN {right}")],
        ),
        (
            "500",
            vec![format!("AUTH PLAIN {right}"), MARKED.to_owned()],
        ),
        // After a response that the server did not wait for.
        (
            "500",
            vec!["AUTH LOGIN".to_owned(), "*".to_owned(), secret.clone()],
        ),
    ];
    for (code, lines) in ways {
        let replies = attempt(daemon, &lines);
        let last = replies.last().unwrap();
        assert!(last.starts_with(code), "{lines:?}: {replies:?}, not {code}");
        for reply in replies {
            assert!(
                traces(MARKED).iter().all(|trace| !reply.contains(trace)),
                "{reply}"
            );
        }
    }
    // Cut off in the middle of it.
    for door in DOORS {
        for cut in [right.len() / 2, right.len()] {
            let mut client = Client::secured(daemon, door);
            client.send(format!("AUTH PLAIN {}", &right[..cut]).as_bytes());
            let port = client.port().to_string();
            client.vanish(false);
            daemon
                .log
                .wait_for(|line| line.contains("closed") && line.contains(&port));
        }
    }
    // Before TLS, against all advice.
    let mut client = Client::greeted(daemon, DOORS[0]).0;
    client.expect("EHLO client.example.org", "250 ");
    client.expect(&format!("AUTH PLAIN {right}"), "538 ");
    client.expect(MARKED, "500 ");
    client.expect("QUIT", "221 ");
}

fn nothing_in_the_log(log: &'static str) {
    let world = World::new(Settings {
        log,
        ..Settings::default()
    });
    let accounts = account(ALICE, MARKED, "") + &account(DISABLED, MARKED, "disabled = true");
    world.replace("accounts.toml", &accounts);
    let mut daemon = world.start();
    every_way(&daemon);
    // The file itself goes wrong, at the line of the password among others.
    for spoiled in [
        accounts.replace("$argon2id", MARKED),
        format!("{accounts}password = \"{MARKED}\"\n"),
        format!("{accounts}\"{MARKED}"),
    ] {
        let failures = || {
            let lines = daemon.log.lines();
            lines
                .iter()
                .filter(|line| line.contains("reload.failed"))
                .count()
        };
        let before = failures();
        world.replace("accounts.toml", &spoiled);
        let failed = super::harness::eventually(|| (failures() > before).then_some(()));
        assert!(failed.is_some(), "it was read");
    }
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.ended();
    daemon.log.wait_for(|line| line.contains("stopped"));
    let lines = daemon.log.lines();
    // The log that was searched is the right one.
    assert!(
        lines
            .iter()
            .any(|line| line.contains("auth.accepted") && line.contains(ALICE))
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains("account is disabled"))
    );
    for line in &lines {
        for trace in traces(MARKED) {
            assert!(!line.contains(&trace), "{trace} in {line}");
        }
    }
}

#[test]
fn no_password_in_text_lines() {
    nothing_in_the_log("format = \"text\"\nlevel = \"trace\"");
}

#[test]
fn no_password_in_json_lines() {
    nothing_in_the_log("format = \"json\"\nlevel = \"trace\"");
}
