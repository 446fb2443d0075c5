//! The filter and the jail for fail2ban in `config/`, checked with what Debian has of it against what the daemon logs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use gatepost::server::TlsStart;

use super::harness::{ALICE, Client, Daemon, PASSWORD, Settings, World};
use crate::daemon::succeeded;

const GUESSER: &str = "127.0.0.2";
const OFFICE: &str = "127.0.0.3";
/// Names that are mailboxes of a domain with accounts, so that they are logged, and that would like to be something else.
const FORGERS: [&str; 3] = [
    r#""x client=192.0.2.66 reason=\"wrong password\" y"@example.org"#,
    r#""\" network=192.0.2.66 known=0 enforced=true"@example.org"#,
    r#""\",\"client\":\"192.0.2.66\",\"known\":0"@example.org"#,
];

const FORMATS: [&str; 2] = [
    "format = \"text\"\nlevel = \"trace\"",
    "format = \"json\"\nlevel = \"trace\"",
];

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config/fail2ban")
        .join(name)
}

/// What the filter finds in a log: addresses and networks.
fn found(log: &[String], mode: &str) -> BTreeSet<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), log.join("\n") + "\n").unwrap();
    let filter = config("filter.d/gatepost.conf");
    let output = Command::new("fail2ban-regex")
        .args(["--out", "<ip>"])
        .arg(file.path())
        .arg(format!("{}[mode={mode}]", filter.display()))
        .output()
        .unwrap();
    let found = String::from_utf8(succeeded(&["fail2ban-regex"], output)).unwrap();
    found.lines().map(str::to_owned).collect()
}

/// The log of a daemon that sees some of everything: guesses, two bans, one of them where somebody is known, a forger.
fn log_of_an_attack(format: &'static str) -> Vec<String> {
    let world = World::new(Settings {
        guessing: "failures_per_address = 5\nfailures_per_login = 3\ndelay_max = \"off\"",
        log: format,
        ..Settings::default()
    });
    let daemon = world.start();
    let login = |source: &str, name: &str, password: &str| {
        let mut client = Client::secured_from(source, &daemon, TlsStart::Implicit);
        client.login(name, password)
    };
    assert!(login(OFFICE, ALICE, PASSWORD).starts_with("235 "));
    for source in [GUESSER, OFFICE] {
        for name in FORGERS.iter().chain(&["nobody@example.org", ALICE]) {
            assert!(login(source, name, "guess").starts_with("535 "));
        }
    }
    log_of(daemon)
}

fn log_of(daemon: Daemon) -> Vec<String> {
    let log = daemon.log.clone();
    daemon.stop();
    let lines = log.to_the_end();
    let forged = lines.iter().filter(|line| line.contains("192.0.2.66"));
    assert_eq!(forged.count(), 2 * FORGERS.len());
    lines
}

#[test]
#[ignore = "needs fail2ban-regex: .ci/run installs it"]
fn the_filter_finds_who_is_meant_and_nobody_else() {
    let hosts = |hosts: &[&str]| hosts.iter().map(|host| (*host).to_owned()).collect();
    for format in FORMATS {
        let log = log_of_an_attack(format);
        // As syslog writes it into a file, and as fail2ban shows itself an entry of the journal.
        let through_syslog: Vec<String> = log
            .iter()
            .map(|line| format!("Nov 21 09:30:00 mail gatepost[4711]: {line}"))
            .collect();
        for log in [&log, &through_syslog] {
            let banned: BTreeSet<String> = hosts(&[GUESSER]);
            assert_eq!(found(log, "banned"), banned, "{log:#?}");
            let failed: BTreeSet<String> = hosts(&[GUESSER, OFFICE]);
            assert_eq!(found(log, "failures"), failed, "{log:#?}");
        }
    }
}

#[test]
#[ignore = "needs fail2ban-regex: .ci/run installs it"]
fn networks_are_banned_as_networks_and_what_is_not_carried_out_is_not() {
    let line = |network: &str, known: u32, enforced: bool| {
        format!(
            "2026-11-21T09:30:00.123Z WARN event=banned session=7f3a9c0d51e2 client=2001:db8::5 port=50123 \
             scope=network network={network} known={known} failures=20 seconds=600 enforced={enforced}"
        )
    };
    let log = [
        line("2001:db8:1:1::/64", 0, true),
        line("2001:db8:2::/48", 0, true),
        line("2001:db8:3:1::/64", 0, false),
        line("2001:db8:4:1::/64", 1, true),
    ];
    let expected = ["2001:db8:1:1::/64", "2001:db8:2::/48"];
    assert_eq!(
        found(&log, "banned").into_iter().collect::<Vec<_>>(),
        expected
    );
    assert_eq!(found(&log, "failures"), BTreeSet::new());
}

/// The jail as fail2ban reads it, beside its own files.
#[test]
#[ignore = "needs fail2ban-regex: .ci/run installs it"]
fn the_jail_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let etc = directory.path().join("fail2ban");
    let copied = Command::new("cp")
        .args(["-r", "/etc/fail2ban"])
        .arg(&etc)
        .output()
        .unwrap();
    succeeded(&["cp"], copied);
    // Only ours: what else the system watches is no business of this test.
    for jail in std::fs::read_dir(etc.join("jail.d")).unwrap() {
        std::fs::remove_file(jail.unwrap().path()).unwrap();
    }
    for name in ["filter.d/gatepost.conf", "jail.d/gatepost.conf"] {
        std::fs::copy(config(name), etc.join(name)).unwrap();
    }
    let dump = Command::new("fail2ban-client")
        .arg("-c")
        .arg(&etc)
        .arg("-d")
        .output()
        .unwrap();
    let dump = String::from_utf8(succeeded(&["fail2ban-client"], dump)).unwrap();
    for expected in [
        "['add', 'gatepost', 'systemd']",
        "['set', 'gatepost', 'maxretry', 1]",
        "_SYSTEMD_UNIT=gatepost.service",
        "event=banned",
        "['start', 'gatepost']",
    ] {
        assert!(dump.contains(expected), "{expected}: {dump}");
    }
}
