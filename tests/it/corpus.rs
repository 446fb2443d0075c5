//! What the fuzz targets check (tests/fuzz), on every test run: with their seed corpus, which holds all that they ever
//! found, and with a fixed number of inputs that are made by changing seeds.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "it is a library of its own in tests/fuzz")]
mod checks;

type Check = fn(&[u8]);

/// The name of a target, what it checks, and how many inputs it gets here: cheap ones get more.
const TARGETS: [(&str, Check, u32); 28] = [
    ("accounts", checks::check_accounts, 500),
    ("address", checks::check_address, 3000),
    ("argument", checks::check_argument, 3000),
    ("author", checks::check_author, 3000),
    ("bdat", checks::check_bdat, 500),
    ("bearer", checks::check_bearer, 2000),
    ("certificate", checks::check_certificate, 300),
    ("claims", checks::check_claims, 3000),
    ("command", checks::check_command, 3000),
    ("config", checks::check_config, 500),
    ("control", checks::check_control, 3000),
    ("dialogue", checks::check_dialogue, 1000),
    ("edit", checks::check_edit, 200),
    ("envelope", checks::check_envelope, 3000),
    ("framing", checks::check_framing, 3000),
    ("hash", checks::check_hash, 3000),
    ("header", checks::check_header, 2000),
    ("import", checks::check_import, 2000),
    ("journal", checks::check_journal, 60),
    ("kept", checks::check_kept, 1000),
    ("parameters", checks::check_parameters, 3000),
    ("proxy", checks::check_proxy, 3000),
    ("queue", checks::check_queue, 60),
    ("reply", checks::check_reply, 1000),
    ("sasl", checks::check_sasl, 2000),
    ("scram", checks::check_scram, 2000),
    ("session", checks::check_session, 2000),
    ("token", checks::check_token, 2000),
];

fn fuzz_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}

/// The seeds of a target with their names, in the order of these.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = fuzz_directory().join("corpus").join(target);
    let mut seeds: Vec<_> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{target} has seeds");
    seeds
}

#[test]
fn every_target_is_checked_here() {
    let mut targets: Vec<String> = std::fs::read_dir(fuzz_directory().join("targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    targets.sort();
    assert_eq!(targets, TARGETS.map(|(name, ..)| name));
}

#[test]
fn seeds_pass() {
    for (target, check, _) in TARGETS {
        for (name, seed) in seeds(target) {
            println!("corpus/{target}/{name}");
            check(&seed);
        }
    }
}

#[test]
fn changed_seeds_pass() {
    for (target, check, cases) in TARGETS {
        println!("{target}");
        let seeds: Vec<Vec<u8>> = seeds(target).into_iter().map(|(_, seed)| seed).collect();
        let config = Config {
            cases,
            failure_persistence: None,
            ..Config::default()
        };
        let tested = TestRunner::new(config).run(&changed(seeds), |input| {
            check(&input);
            Ok(())
        });
        // The message holds the smallest input that fails.
        tested.unwrap_or_else(|error| panic!("{target}: {error}"));
    }
}

/// The head of one seed and the tail of another, with some octets changed.
fn changed(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let seed = prop::sample::select(seeds);
    let octet = prop_oneof![
        any::<u8>(),
        prop::sample::select(b"\r\n\0 \t.,:;<>@\"\\()[]*=-".to_vec()),
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), octet), 0..6);
    let cut = any::<prop::sample::Index>;
    (seed.clone(), seed, cut(), cut(), changes).prop_map(|(head, tail, end, start, changes)| {
        let mut input = head[..end.index(head.len() + 1)].to_vec();
        input.extend_from_slice(&tail[start.index(tail.len() + 1)..]);
        for (place, octet) in changes {
            if !input.is_empty() {
                let place = place.index(input.len());
                input[place] = octet;
            }
        }
        input
    })
}
