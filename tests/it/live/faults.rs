//! File operations of the real daemon that fail: strace makes the kernel refuse them, from one moment to another.
//!
//! As long as it lasts, what cannot be made durable is a 4xx, and the daemon stays; when it is over, it accepts again
//! by itself. Each fault ends twice: once the fault goes, and once the daemon is killed in the middle of it.
//!
//! One exception is known, and argued at the top of `src/queue.rs`: when the very last sync of a commit fails, its names
//! have been in `ready/` for a moment, and a consumer may have taken the message that is refused now; and if the disk
//! keeps them from being taken back, too, the message stays queued. So no consumer is at work here, and removing files
//! is not made to fail.
//!
//! This takes strace, and a system that lets it attach: the tests are ignored by default, and `.ci/run` runs them where
//! it can and says so where it cannot.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use gatepost::server::TlsStart;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::crash::busy_settings;
use super::harness::{Client, Daemon, World, eventually, text};
use super::load::{LARGE_LINES, Ledger, Sender, seed};
use crate::process::Lines;
use crate::support::Chance;

const CLIENTS: u64 = 4;
const REFUSALS: u64 = 12;
/// More syncs than any message needs.
const SYNCS_MAX: usize = 16;
const NO_ROOM: &str = "452 4.3.1 not enough storage now, try again later";
const CANNOT_STORE: &str = "451 4.3.0 cannot store the message now, try again later";

/// All ways to ask for stable storage, those to make a file, and those to give it another name. Nothing that the daemon
/// does with sockets and its log is among them.
const SYNCS: &str = "fsync,fdatasync,sync_file_range,syncfs,msync";
const OPENS: &str = "open,openat,openat2,creat";
const RENAMES: &str = "rename,renameat,renameat2,link,linkat";
const WRITES: &str = "write,writev,pwrite64,pwritev,pwritev2,fallocate,ftruncate";

/// What strace writes behind a call that it made fail.
const INJECTED: &str = "(INJECTED)";

/// System calls that fail, until it is dropped or the daemon ends.
struct Fault {
    strace: Child,
    seen: Lines,
}

impl Fault {
    /// `how` is an error and perhaps which calls of a thread it is for: `EIO:when=2+3`. With `paths`, only calls on
    /// these files.
    fn begin(daemon: &Daemon, calls: &str, how: &str, paths: &BTreeSet<PathBuf>) -> Self {
        Self::inject(daemon, calls, &format!("error={how}"), paths)
    }

    /// What strace does to the calls, in its own words.
    fn inject(daemon: &Daemon, calls: &str, what: &str, paths: &BTreeSet<PathBuf>) -> Self {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-p", &daemon.process().to_string()])
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:{what}")])
            .args(["-e", "signal=none"]);
        for path in paths {
            command.arg("-P").arg(path);
        }
        let mut strace = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        let seen = Lines::of(strace.stderr.take().unwrap());
        // From here on every call of every thread is looked at.
        seen.wait_for(|line| line.contains(" attached"));
        Self { strace, seen }
    }

    /// Waits until a call has failed.
    fn has_struck(&self) {
        self.seen.wait_for(|line| line.contains(INJECTED));
    }

    /// The disk is well again. Whether a call has failed.
    fn end(mut self) -> bool {
        self.let_go();
        let lines = self.seen.to_the_end();
        lines.iter().any(|line| line.contains(INJECTED))
    }

    fn let_go(&mut self) {
        // It lets go of the daemon when it is told to end; killed, it might take it along.
        let _ = kill(Pid::from_raw(self.strace.id() as i32), Signal::SIGINT);
        let _ = self.strace.wait();
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        if matches!(self.strace.try_wait(), Ok(None)) {
            self.let_go();
        }
    }
}

/// How much gets through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passing {
    Nothing,
    Some,
}

/// Calls fail under load; the fault goes; it comes again, and the daemon is killed.
fn calls_fail(calls: &str, how: &str, passing: Passing, reply: &str) {
    let mut chance = Chance::from_seed(seed());
    let world = World::new(busy_settings());
    let ledger = Ledger::of(&world);
    let mut daemon = world.start();
    for killed in [false, true] {
        let name = if killed { "killed" } else { "ended" };
        let before = ledger.counts();
        let fault = Fault::begin(&daemon, calls, how, &BTreeSet::new());
        let senders = ledger.senders(name, CLIENTS, &daemon, &mut chance);
        ledger.wait("refusals", |counts| {
            let acknowledged = counts.acknowledged - before.acknowledged;
            counts.refused() >= before.refused() + REFUSALS
                && (passing == Passing::Nothing || acknowledged >= REFUSALS)
        });
        if killed {
            senders.daemon_may_end();
            daemon.kill();
            senders.ended();
        } else {
            senders.stop();
        }
        assert!(fault.end());
        let counts = ledger.counts();
        if passing == Passing::Nothing {
            assert_eq!(counts.acknowledged, before.acknowledged, "{counts:?}");
        }
        assert!(
            counts.refused.keys().all(|heard| heard == reply),
            "{counts:?}"
        );
        if killed {
            daemon = world.start();
            ledger.settle();
        }
        ledger.works_again(&format!("{name}-after"), &daemon, &mut chance);
    }
    daemon.stop();
    let daemon = world.start();
    ledger.settle();
    daemon.stop();
}

#[test]
#[ignore = "needs strace: .ci/run installs it"]
fn no_sync_succeeds() {
    calls_fail(SYNCS, "EIO", Passing::Nothing, CANNOT_STORE);
}

#[test]
#[ignore = "needs strace: .ci/run installs it"]
fn some_syncs_fail() {
    // With four in place of five each commit would meet it at the same step.
    calls_fail(SYNCS, "EIO:when=3+5", Passing::Some, CANNOT_STORE);
}

#[test]
#[ignore = "needs strace: .ci/run installs it"]
fn no_file_can_be_opened() {
    calls_fail(OPENS, "EIO", Passing::Nothing, CANNOT_STORE);
}

#[test]
#[ignore = "needs strace: .ci/run installs it"]
fn there_is_no_room_for_some_files() {
    calls_fail(OPENS, "ENOSPC:when=2+3", Passing::Some, NO_ROOM);
}

#[test]
#[ignore = "needs strace: .ci/run installs it"]
fn some_files_cannot_be_renamed() {
    calls_fail(RENAMES, "EIO:when=2+3", Passing::Some, CANNOT_STORE);
}

#[test]
#[ignore = "needs strace: .ci/run installs it"]
fn nobody_knows_how_much_is_free() {
    calls_fail("statfs,fstatfs", "EIO", Passing::Nothing, CANNOT_STORE);
}

/// One after the other, each sync on the way to a 250 fails, and there is none. None of them is for show.
#[test]
#[ignore = "needs strace: .ci/run installs it"]
fn every_sync_before_the_250_counts() {
    let mut chance = Chance::from_seed(seed());
    let world = World::new(busy_settings());
    let ledger = Ledger::of(&world);
    let daemon = world.start();
    for lines in [1, LARGE_LINES] {
        let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
        let mut sender = Sender::new(format!("of-{lines}"), chance.next(), &ledger);
        let failed = (1..SYNCS_MAX).take_while(|number| {
            let how = format!("EIO:when={number}");
            let fault = Fault::begin(&daemon, SYNCS, &how, &BTreeSet::new());
            let before = ledger.counts();
            assert!(sender.deliver_lines(&mut client, lines));
            let has_failed = fault.end();
            let counts = ledger.counts();
            let refused = counts.refused() - before.refused();
            assert_eq!(
                refused,
                u64::from(has_failed),
                "sync {number} of {lines} lines"
            );
            has_failed
        });
        let failed = failed.count();
        assert!((1..SYNCS_MAX - 1).contains(&failed), "{failed} syncs");
        println!("{failed} syncs for {lines} lines");
    }
    ledger.settle();
    daemon.stop();
    let daemon = world.start();
    ledger.settle();
    daemon.stop();
}

/// Files of the queue that the daemon has open now.
fn open_files(world: &World, daemon: &Daemon) -> BTreeSet<PathBuf> {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.process()))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter(|path| path.starts_with(world.queue()) && path.is_file())
        .collect()
}

/// What is open is what strace can tell apart from sockets: a large message in the middle, and whatever else the queue
/// keeps open for writing.
#[test]
#[ignore = "needs strace: .ci/run installs it"]
fn open_files_cannot_be_written_to() {
    let mut chance = Chance::from_seed(seed());
    let world = World::new(busy_settings());
    let ledger = Ledger::of(&world);
    let daemon = world.start();
    let piece = "a line of a message that is too large for memory\r\n".repeat(20_000);
    // A write that failed is not made good by those that follow.
    let cases = [("ENOSPC", false), ("EIO", false), ("EIO", true)];
    for (number, (error, ends_before_the_message)) in cases.into_iter().enumerate() {
        let before = open_files(&world, &daemon);
        let mut client = Client::in_data(&daemon, TlsStart::Implicit);
        client.say("From: <alice@example.org>\r\nSubject: large\r\n");
        client.send(piece.as_bytes());
        let open = eventually(|| {
            Some(open_files(&world, &daemon)).filter(|open| !open.is_subset(&before))
        });
        let fault = Fault::begin(&daemon, WRITES, error, &open.expect("it is on the disk"));
        client.send(piece.as_bytes());
        fault.has_struck();
        let mut fault = Some(fault);
        if ends_before_the_message {
            fault = None;
        } else {
            let begun = ledger.counts().begun;
            let senders = ledger.senders(&format!("{number}"), CLIENTS, &daemon, &mut chance);
            // Whatever these hear is true.
            ledger.wait("messages", |counts| counts.begun > begun + REFUSALS);
            senders.stop();
        }
        let reply = if error == "ENOSPC" {
            NO_ROOM
        } else {
            CANNOT_STORE
        };
        assert_eq!(client.ask("."), reply);
        client.expect("NOOP", "250 ");
        drop(fault);
        ledger.works_again(&format!("{number}-after"), &daemon, &mut chance);
        ledger.settle();
    }
    daemon.stop();
    let daemon = world.start();
    ledger.settle();
    daemon.stop();
}

/// A message whose commit is under way when its sender is contained: it is held when the command has its answer, and not
/// some time later.
#[test]
#[ignore = "needs strace: .ci/run installs it"]
fn whoever_contains_waits_for_a_commit_that_takes_its_time() {
    let world = World::new(busy_settings());
    let daemon = world.start();
    let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
    assert!(client.message("quick").starts_with("250 "));
    let of_journal = |path: &PathBuf| path.starts_with(world.queue().join("journal"));
    let segments = open_files(&world, &daemon).into_iter().filter(of_journal);
    let slow = Fault::inject(
        &daemon,
        "fdatasync",
        "delay_enter=3000000",
        &segments.collect(),
    );
    client.begin_message();
    client.say(&text("slow"));
    // A thread that strace keeps from going on with a sync.
    let is_syncing = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.process())).unwrap();
        let mut calls = tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("syscall")).ok());
        let sync = format!("{} ", nix::libc::SYS_fdatasync);
        calls.any(|call| call.starts_with(&sync)).then_some(())
    };
    assert!(eventually(is_syncing).is_some());
    world.ask(&["contain", "alice@example.org"]);
    assert_eq!(world.files("ready"), [""; 0]);
    assert_eq!(world.files("hold").len(), 2 * 2);
    assert!(client.reply().starts_with("250 "), "the commit came first");
    drop(slow);
    daemon.stop();
}
