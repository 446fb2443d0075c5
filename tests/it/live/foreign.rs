//! A queue directory in which somebody left files that are not gatepost's: they are left alone and reported, one by
//! one up to a bound, and neither the messages that are there nor those to come are affected.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use gatepost::server::TlsStart;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::harness::{Client, Daemon, Settings, World};

const PLACES: [&str; 2] = ["ready", "hold"];
/// More than are reported one by one.
const MANY: usize = 2000;

/// What is in a directory, at any depth, and what each of it is.
fn content(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        let what = if kind.is_dir() {
            found.extend(content(&path));
            b"a directory".to_vec()
        } else if kind.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            target.as_os_str().as_bytes().to_vec()
        } else if kind.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            b"something else".to_vec()
        };
        found.insert(path, what);
    }
    found
}

fn places(world: &World) -> BTreeMap<PathBuf, Vec<u8>> {
    let places = PLACES.map(|place| content(&world.queue().join(place)));
    places.into_iter().flatten().collect()
}

/// What a start reports of the queue.
fn findings(daemon: &Daemon) -> Vec<String> {
    let events = daemon.events().into_iter();
    events
        .filter(|event| event["event"] == "recovered")
        .map(|event| event["finding"].as_str().unwrap().to_owned())
        .collect()
}

/// Sends a message and gives the paths of its two files.
fn send(world: &World, daemon: &Daemon) -> [PathBuf; 2] {
    let reply = Client::logged_in(daemon, TlsStart::Implicit).message("of ours");
    let id = reply.strip_prefix("250 2.0.0 queued as ").unwrap();
    ["json", "eml"].map(|extension| world.queue().join(format!("ready/{id}.{extension}")))
}

#[test]
fn foreign_files_are_left_alone_and_reported() {
    let world = World::new(Settings::default());
    let daemon = world.start();
    send(&world, &daemon);
    daemon.stop();
    let ours = places(&world);

    for (number, place) in PLACES.into_iter().enumerate() {
        let place = world.queue().join(place);
        let names: [&[u8]; 5] = [
            b"README",
            b".hidden",
            b"x.json",
            b"\xff\xfe.eml",
            b"00000000000000000000000000.eml.bak",
        ];
        for name in names {
            std::fs::write(place.join(OsStr::from_bytes(name)), "not ours").unwrap();
        }
        std::fs::create_dir(place.join("directory")).unwrap();
        // These are named as messages are.
        let name = |last: char| format!("01m7ytm6vte878meem8bn5mj{number}{last}");
        std::fs::create_dir(place.join(name('0') + ".eml")).unwrap();
        symlink("../../accounts.toml", place.join(name('1') + ".eml")).unwrap();
        // Opened for reading, a pipe waits for a writer.
        mkfifo(&place.join(name('2') + ".json"), Mode::S_IRWXU).unwrap();
        std::fs::write(place.join(name('3') + ".json"), "{\"version\": 1}").unwrap();
    }
    let before = places(&world);
    let foreign: Vec<_> = before
        .keys()
        .filter(|path| !ours.contains_key(*path))
        .collect();
    assert_eq!(foreign.len(), 20);

    let mut sent = Vec::new();
    for _ in 0..3 {
        let daemon = world.start();
        let findings = findings(&daemon);
        for path in &foreign {
            let path = path.to_string_lossy();
            let about = |finding: &&String| finding.contains(&*path);
            assert_eq!(
                findings.iter().filter(about).count(),
                1,
                "{path}: {findings:#?}"
            );
        }
        sent.extend(send(&world, &daemon));
        daemon.stop();
        let mut after = places(&world);
        for path in &sent {
            assert!(after.remove(path).is_some(), "{}", path.display());
        }
        assert_eq!(after, before);
    }
}

#[test]
fn a_directory_full_of_foreign_files() {
    let world = World::new(Settings::default());
    let daemon = world.start();
    send(&world, &daemon);
    daemon.stop();
    for number in 0..MANY {
        let name = format!("ready/{number}.json");
        std::fs::write(world.queue().join(name), "not ours").unwrap();
    }
    let before = places(&world);
    let daemon = world.start();
    let findings = findings(&daemon);
    let left_out: usize = findings
        .iter()
        .filter_map(|finding| finding.split_once(" and "))
        .filter_map(|(_, rest)| rest.strip_suffix(" more like these")?.parse::<usize>().ok())
        .sum();
    assert_eq!(findings.len() - 1 + left_out, MANY);
    assert!(findings.len() < MANY / 10, "{findings:#?}");
    let sent = send(&world, &daemon);
    daemon.stop();
    let mut after = places(&world);
    for path in &sent {
        assert!(after.remove(path).is_some(), "{}", path.display());
    }
    assert_eq!(after, before);
}
