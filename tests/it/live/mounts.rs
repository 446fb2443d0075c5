//! A queue on file systems that are full, read-only or several. The daemon sees them in a mount namespace of its own,
//! so that nothing of them is left when a test ends, however it ends.
//!
//! That takes a system on which root may do so, or everybody in a user namespace of theirs: the tests are ignored by
//! default, and `.ci/run` runs them where it can and says so where it cannot.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use gatepost::server::TlsStart;

use super::harness::{Client, DOORS, Daemon, Settings, World, eventually};
use super::load::{Ledger, seed};
use crate::support::Chance;

const CLIENTS: u64 = 4;
const NO_ROOM: &str = "452 4.3.1 not enough storage now, try again later";
const CANNOT_STORE: &str = "451 4.3.0 cannot store the message now, try again later";
const MIB: u64 = 1 << 20;

/// A mount namespace. It lives as long as the process that keeps it, or the last daemon in it.
pub(super) struct Mounts {
    keeper: Child,
    /// Whether it came with a user namespace.
    of_user: bool,
}

impl Mounts {
    pub(super) fn new() -> Self {
        let of_user = !nix::unistd::geteuid().is_root();
        let mut command = Command::new("unshare");
        if of_user {
            command.arg("--map-root-user");
        }
        let mut keeper = command
            // It ends when its input does, which is with us at the latest.
            .args(["--mount", "sh", "-c", "echo here && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare, of util-linux");
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "here\n", "no mount namespace can be made here");
        Self { keeper, of_user }
    }

    /// A command that runs inside.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.keeper.id().to_string(), "--mount"]);
        if self.of_user {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }

    /// `mount` or `umount` inside.
    fn run(&self, program: &str, arguments: &[&OsStr]) {
        let status = self.command(program).args(arguments).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}: {status}");
    }

    /// Makes `to` another name of `from`.
    fn bind(&self, from: &Path, to: &Path) {
        self.run("mount", &["--bind".as_ref(), from.as_ref(), to.as_ref()]);
    }

    /// Where we see what is `path` inside.
    pub(super) fn seen(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.id()));
        root.join(path.strip_prefix("/").unwrap())
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// A world whose queue is on a file system of its own, with room beside it.
fn world_on(options: &str, queue: &'static str) -> World {
    let mut world = World::new(Settings {
        queue,
        ..super::crash::busy_settings()
    });
    let [disk, place] = ["disk", "queue"].map(|name| world.path(name));
    for path in [&disk, &place] {
        std::fs::create_dir(path).unwrap();
    }
    let mounts = world.isolate();
    let words: [&OsStr; 6] = [
        "-t".as_ref(),
        "tmpfs".as_ref(),
        "-o".as_ref(),
        options.as_ref(),
        "tmpfs".as_ref(),
        disk.as_ref(),
    ];
    mounts.run("mount", &words);
    std::fs::create_dir(mounts.seen(&disk).join("queue")).unwrap();
    mounts.bind(&disk.join("queue"), &place);
    world
}

impl World {
    fn forbid_writing(&self, name: &str) {
        let path = self.path(name);
        self.mounts().bind(&path, &path);
        let words = ["-o", "remount,bind,ro"].map(OsStr::new);
        self.mounts()
            .run("mount", &[words[0], words[1], path.as_ref()]);
    }

    fn unmount(&self, name: &str) {
        self.mounts().run("umount", &[self.path(name).as_ref()]);
    }
}

fn free(world: &World) -> u64 {
    let status = nix::sys::statvfs::statvfs(&world.seen("disk")).unwrap();
    status.blocks_available() * status.fragment_size()
}

/// Fills the file system until only so much is free.
fn fill(world: &World, leave: u64) {
    let mut ballast = File::options()
        .create(true)
        .append(true)
        .open(world.seen("disk/ballast"))
        .unwrap();
    while free(world) > leave {
        let piece = vec![b'x'; (free(world) - leave).min(MIB) as usize];
        match ballast.write_all(&piece) {
            Err(error) if error.kind() == ErrorKind::StorageFull => {}
            result => result.unwrap(),
        }
    }
}

fn make_room(world: &World) {
    std::fs::remove_file(world.seen("disk/ballast")).unwrap();
}

fn hears_at_mail(daemon: &Daemon, reply: &str) {
    for door in DOORS {
        let mut client = Client::logged_in(daemon, door);
        assert_eq!(client.ask("MAIL FROM:<alice@example.org>"), reply);
        client.expect("NOOP", "250 ");
    }
}

/// Sends until there have been refusals, each of them one of a full disk.
fn send_until_refused(name: &str, ledger: &Arc<Ledger>, daemon: &Daemon, chance: &mut Chance) {
    let before = ledger.counts();
    let senders = ledger.senders(name, CLIENTS, daemon, chance);
    ledger.wait("refusals", |counts| {
        counts.refused() > before.refused() + 40
    });
    senders.stop();
    let counts = ledger.counts();
    assert!(counts.acknowledged > before.acknowledged, "{counts:?}");
    for reply in counts.refused.keys() {
        assert!([NO_ROOM, CANNOT_STORE].contains(&reply.as_str()), "{reply}");
    }
}

#[test]
#[ignore = "needs a mount namespace: .ci/run runs it"]
fn a_disk_that_fills_up() {
    let mut chance = Chance::from_seed(seed());
    let world = world_on("size=48m", "minimum_free = \"1MiB\"");
    let ledger = Ledger::of(&world);
    let mut daemon = world.start();
    fill(&world, 16 * MIB);
    send_until_refused("full", &ledger, &daemon, &mut chance);
    fill(&world, 0);
    hears_at_mail(&daemon, NO_ROOM);
    // Not even its end and the next start need room.
    daemon.kill();
    let daemon = world.start();
    hears_at_mail(&daemon, NO_ROOM);
    // The consumer makes room, and that is all that it takes.
    ledger.settle();
    ledger.works_again("room", &daemon, &mut chance);
    ledger.settle();
    daemon.stop();
    let daemon = world.start();
    ledger.settle();
    daemon.stop();
}

/// No `minimum_free` warns of this: the file system itself refuses, in the middle of a commit.
#[test]
#[ignore = "needs a mount namespace: .ci/run runs it"]
fn a_file_system_without_inodes() {
    let mut chance = Chance::from_seed(seed());
    let world = world_on("size=48m,nr_inodes=300", "minimum_free = \"1MiB\"");
    let ledger = Ledger::of(&world);
    let mut daemon = world.start();
    send_until_refused("full", &ledger, &daemon, &mut chance);
    let reason = daemon.event("message.refused", |_| true)["reason"].to_string();
    assert!(reason.contains("No space left on device"), "{reason}");
    ledger.settle();
    send_until_refused("full-again", &ledger, &daemon, &mut chance);
    daemon.kill();
    let daemon = world.start();
    ledger.settle();
    ledger.works_again("room", &daemon, &mut chance);
    daemon.stop();
    let daemon = world.start();
    ledger.settle();
    daemon.stop();
}

#[test]
#[ignore = "needs a mount namespace: .ci/run runs it"]
fn minimum_free_is_told_at_mail_until_there_is_room() {
    let world = world_on("size=48m", "minimum_free = \"24MiB\"");
    let daemon = world.start();
    let mut clients = DOORS.map(|door| Client::logged_in(&daemon, door));
    for round in 0..3 {
        fill(&world, 23 * MIB);
        for client in &mut clients {
            assert_eq!(client.ask("MAIL FROM:<alice@example.org>"), NO_ROOM);
        }
        make_room(&world);
        for client in &mut clients {
            let reply = client.message(&format!("round {round}"));
            assert!(reply.starts_with("250 "), "{reply}");
        }
    }
    daemon.stop();
    assert_eq!(world.queued().len(), 6);
}

#[test]
#[ignore = "needs a mount namespace: .ci/run runs it"]
fn a_disk_that_fills_up_within_a_message() {
    let world = world_on("size=48m", "minimum_free = \"1MiB\"");
    let daemon = world.start();
    Client::logged_in(&daemon, TlsStart::Implicit).message("before");
    let mebibyte =
        "a line of sixty-four octets, again and again, and its end is: \r\n".repeat(16384);
    for door in DOORS {
        let before = free(&world);
        let mut clients = [(); 2].map(|()| {
            let mut client = Client::in_data(&daemon, door);
            client.say("From: <alice@example.org>\r\nSubject: large\r\n");
            client.send(mebibyte.as_bytes());
            client
        });
        // Both are on the disk in part.
        assert!(eventually(|| (free(&world) < before - MIB).then_some(())).is_some());
        fill(&world, 0);
        for client in &mut clients {
            client.send(mebibyte.as_bytes());
            assert_eq!(client.ask("."), NO_ROOM);
        }
        make_room(&world);
        // Nothing of them stays.
        assert!(eventually(|| (free(&world) >= before).then_some(())).is_some());
        for client in &mut clients {
            let reply = client.message("after");
            assert!(reply.starts_with("250 "), "{reply}");
        }
    }
    daemon.stop();
    assert_eq!(world.queued().len(), 5);
}

/// As after an error that ext4 answers by mounting itself read-only.
#[test]
#[ignore = "needs a mount namespace: .ci/run runs it"]
fn a_file_system_that_is_read_only_for_a_while() {
    let mut chance = Chance::from_seed(seed());
    let world = world_on("size=48m", "minimum_free = \"1MiB\"");
    let ledger = Ledger::of(&world);
    let daemon = world.start();
    for round in 0..2 {
        ledger.works_again(&format!("{round}"), &daemon, &mut chance);
        world.forbid_writing("queue");
        let before = ledger.counts();
        let senders = ledger.senders(&format!("{round}-not"), CLIENTS, &daemon, &mut chance);
        ledger.wait("refusals", |counts| {
            counts.refused() > before.refused() + 40
        });
        senders.stop();
        world.unmount("queue");
    }
    ledger.works_again("last", &daemon, &mut chance);
    ledger.settle();
    daemon.stop();
}

#[test]
#[ignore = "needs a mount namespace: .ci/run runs it"]
fn a_start_on_a_read_only_file_system() {
    for made_before in [false, true] {
        let world = world_on("size=48m", "minimum_free = \"1MiB\"");
        if made_before {
            let daemon = world.start();
            Client::logged_in(&daemon, TlsStart::Implicit).message("before");
            daemon.stop();
        }
        world.forbid_writing("queue");
        let (status, text) = world.refused_start();
        assert_eq!(status, Some(1), "{text}");
        assert_eq!(
            text.trim_end(),
            "error: DIR/queue: cannot write to DIR/queue: Read-only file system\n\
             hint: mount its file system for writing (`findmnt -T DIR/queue` names it), \
             or name another directory in queue.directory"
        );
        world.unmount("queue");
        let daemon = world.start();
        assert_eq!(world.queued().len(), usize::from(made_before));
        daemon.stop();
    }
}

#[test]
#[ignore = "needs a mount namespace: .ci/run runs it"]
fn a_part_of_the_queue_on_another_file_system() {
    let world = world_on("size=48m", "minimum_free = \"1MiB\"");
    let daemon = world.start();
    Client::logged_in(&daemon, TlsStart::Implicit).message("before");
    daemon.stop();
    std::fs::create_dir(world.path("elsewhere")).unwrap();
    for part in ["ready", "hold", "drafts", "journal"] {
        let place = world.path("queue").join(part);
        world.mounts().bind(&world.path("elsewhere"), &place);
        let (status, text) = world.refused_start();
        assert_eq!(status, Some(1), "{text}");
        assert_eq!(
            text.trim_end(),
            format!(
                "error: DIR/queue/{part} is on another file system than the queue directory\n\
                 hint: messages are renamed from one part to another: give the whole queue directory the file system"
            )
        );
        world.unmount(&format!("queue/{part}"));
    }
    let daemon = world.start();
    assert_eq!(world.queued().len(), 1);
    daemon.stop();
}
