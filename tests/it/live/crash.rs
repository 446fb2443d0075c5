//! After its 250 a message is never lost, and never there twice: the daemon is killed under load at random moments, at
//! work and while it starts, and started again; and the same with an orderly stop.
//!
//! `GATEPOST_ROUNDS` is how many times (a few without it); `GATEPOST_SEED` repeats what is sent, and when the blow falls.

use std::sync::Arc;

use gatepost::clock::Now;
use nix::sys::signal::Signal;

use super::harness::{Settings, World};
use super::load::{Consumer, Counts, Ledger, seed};
use crate::support::Chance;

const CLIENTS: u64 = 12;
/// The most events that one life of the daemon lasts.
const EVENTS_MAX: u64 = 240;

fn rounds(usual: u64) -> u64 {
    match std::env::var("GATEPOST_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("GATEPOST_ROUNDS is a number"),
        Err(_) => usual,
    }
}

/// For load: nobody is too busy.
pub(super) fn busy_settings() -> Settings {
    Settings {
        account_limits: "messages_per_hour = \"unlimited\"\nrecipients_per_day = \"unlimited\"",
        log: "format = \"json\"\nlevel = \"info\"",
        ..Settings::default()
    }
}

/// The event that the blow follows at once: so many more final dots sent, replies heard or messages taken. Other
/// clients are anywhere at that moment.
fn wait_for_the_moment(ledger: &Ledger, chance: &mut Chance) {
    let before = ledger.counts();
    let more = 1 + chance.below(EVENTS_MAX);
    let figure: fn(&Counts) -> u64 = chance.pick(&[
        |counts: &Counts| counts.begun,
        |counts: &Counts| counts.acknowledged,
        |counts: &Counts| counts.taken,
    ]);
    ledger.wait("progress", |counts| {
        figure(counts) >= figure(&before) + more && counts.acknowledged > before.acknowledged
    });
}

/// A start that does not get far, or just gets there.
fn interrupted_start(world: &World, usual: std::time::Duration, chance: &mut Chance) {
    let mut daemon = world.begin_start();
    // This waits for nothing: the moment itself is what is tried.
    let until = Now::read().instant + usual.mul_f64(chance.below(1000) as f64 / 800.0);
    while Now::read().instant < until {
        std::thread::yield_now();
    }
    daemon.kill();
}

fn lives(rounds: u64, signal: Signal) -> (Counts, Arc<Ledger>) {
    let mut chance = Chance::from_seed(seed());
    let world = World::new(busy_settings());
    let ledger = Ledger::of(&world);
    let consumer = Consumer::start(&ledger, chance.next());
    for round in 0..rounds {
        let begun = Now::read().instant;
        let mut daemon = world.start();
        let start_took = Now::read().instant - begun;
        let senders = ledger.senders(&round.to_string(), CLIENTS, &daemon, &mut chance);
        wait_for_the_moment(&ledger, &mut chance);
        senders.daemon_may_end();
        daemon.signal(signal);
        let status = daemon.ended();
        senders.ended();
        if signal == Signal::SIGKILL {
            assert_eq!(status.code(), None);
            while chance.one_in(3) {
                interrupted_start(&world, start_took, &mut chance);
            }
        } else {
            assert_eq!(status.code(), Some(0));
        }
    }
    consumer.stop();
    let daemon = world.start();
    let counts = ledger.settle();
    daemon.stop();
    assert_eq!(counts.refused(), 0, "{counts:?}");
    assert!(counts.acknowledged >= rounds, "{counts:?}");
    (counts, ledger)
}

#[test]
fn nothing_is_lost_or_doubled_by_sigkill() {
    let rounds = rounds(16);
    let (counts, ledger) = lives(rounds, Signal::SIGKILL);
    // A test in which nothing happens proves nothing.
    assert!(counts.acknowledged_large > 0, "{counts:?}");
    assert!(!ledger.unanswered().is_empty(), "nobody was interrupted");
}

#[test]
fn nothing_is_lost_or_left_unanswered_by_sigterm() {
    let rounds = rounds(6);
    let (_, ledger) = lives(rounds, Signal::SIGTERM);
    // Whoever heard 354 hears what became of the message.
    assert_eq!(ledger.unanswered(), [""; 0]);
}
