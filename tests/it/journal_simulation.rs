//! The queue on a disk that loses, reorders and tears what was not synced, with everything that may happen to it, by
//! chance: messages, a consumer, an operator, faults, processes that are killed and machines that lose power, at any file
//! operation. What was acknowledged is there once and as it was sent, what was refused is not there, and what was seen
//! onward does not come back. What is to be released at some time is not in `ready/` before, unless the operator lets it,
//! and is there afterwards, unless the operator holds it.
//!
//! A failure names its seed: `GATEPOST_SEED=N cargo test --test it journal_simulation` plays it again.
//! `GATEPOST_SEEDS=N` plays so many.

use std::collections::BTreeMap;
use std::future::Future as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use gatepost::clock::Timestamp;
use gatepost::envelope::{Envelope, MessageId, Receipt};
use gatepost::queue::disk::Disk as _;
use gatepost::queue::{Place, QueueError, Spool, SpoolSettings};

use crate::model_disk::{Fault, ModelDisk, mix};
use crate::queue_crash::{ROOT, content, envelope, id, operator, settings, whole_queue};
use crate::queue_release::held_until;

const SEEDS: u64 = 1_500;
const STEPS: u64 = 30;
/// What is larger does not go through the journal.
const LARGE: usize = 4_000;
const EIO: i32 = nix::errno::Errno::EIO as i32;
const ENOSPC: i32 = nix::errno::Errno::ENOSPC as i32;

/// What the world outside knows of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its 250 was said.
    Acknowledged,
    /// Nobody knows: its client heard nothing, or the disk refused to take it back.
    Open,
    /// Its client heard 4xx.
    Refused,
    /// The consumer has it. A crash of the machine may bring it back until a sync has covered that.
    Taken { covered: bool },
    /// The operator removed it.
    Removed,
    /// The operator's command failed.
    PerhapsRemoved,
}

/// A message that is to be released at some time.
#[derive(Clone, Copy, Debug)]
struct Timed {
    /// When, in seconds.
    at: i64,
    word: Word,
}

/// What the operator said last of where it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Hold,
    Nothing,
    Release,
    /// The command failed; it may have been carried out.
    Unknown,
}

/// After how many seconds a release is tried again.
const RETRY_AFTER: i64 = 10;

struct World {
    seed: u64,
    drawn: u64,
    disk: ModelDisk,
    spool: Option<Spool>,
    /// The time of day, in seconds.
    now: i64,
    timed: BTreeMap<MessageId, Timed>,
    next: u128,
    messages: BTreeMap<MessageId, (usize, Fate)>,
    story: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = ModelDisk::default();
        let mut world = Self {
            seed,
            drawn: 0,
            disk,
            spool: None,
            now: 1_000,
            timed: BTreeMap::new(),
            next: 1,
            messages: BTreeMap::new(),
            story: Vec::new(),
        };
        world.open();
        world
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.drawn += 1;
        mix(self.seed, self.drawn) % below
    }

    fn tell(&mut self, text: impl Into<String>) {
        self.story.push(text.into());
    }

    fn settings() -> SpoolSettings {
        SpoolSettings {
            journal_size: 128 * 1024,
            segment_size: 32 * 1024,
            ..settings()
        }
    }

    fn open(&mut self) {
        let disk = Arc::new(self.disk.clone());
        let (spool, recovered) = Spool::open_stepped(&Self::settings(), disk).unwrap();
        self.tell(format!("opened, {} replayed", recovered.replayed));
        for finding in &recovered.findings {
            let line = finding.one_line();
            assert!(
                line.contains("ends in the middle of a write")
                    || line.contains("an envelope without its message"),
                "{line}"
            );
        }
        self.spool = Some(spool);
        self.check();
    }

    /// Everything that is there is whole, and it is what has to be there.
    fn check(&mut self) {
        let queue = whole_queue(&self.disk, "");
        for (id, (size, fate)) in &mut self.messages {
            let found = queue.get(id);
            if let Some((_, found)) = found {
                assert_eq!(found, size, "{id}");
            }
            let is_right = match (*fate, found.is_some()) {
                (Fate::Open, there) => {
                    *fate = if there {
                        Fate::Acknowledged
                    } else {
                        Fate::Refused
                    };
                    true
                }
                (Fate::PerhapsRemoved, there) => {
                    *fate = if there {
                        Fate::Acknowledged
                    } else {
                        Fate::Removed
                    };
                    true
                }
                (Fate::Acknowledged, there) => there,
                (Fate::Refused | Fate::Removed | Fate::Taken { .. }, there) => !there,
            };
            assert!(is_right, "{id}: {fate:?}, found {found:?}");
        }
        for (id, (place, _)) in &queue {
            assert!(self.messages.contains_key(id), "{id} comes from nowhere");
            let Some(Timed { at, word }) = self.timed.get(id) else {
                continue;
            };
            let is_right = match word {
                Word::Hold => *place == Place::Hold,
                Word::Nothing => *place == Place::Hold || *at <= self.now,
                Word::Release | Word::Unknown => true,
            };
            let now = self.now;
            assert!(
                is_right,
                "{id} is in {place} at {now}, due at {at}, {word:?}"
            );
        }
    }

    /// Time passes, and messages are released; the disk or the machine may fail in the middle.
    fn release(&mut self) {
        self.now += self.draw(60) as i64;
        let fault = match (self.draw(6), self.draw(30) as usize) {
            (0, at) => Fault::CrashAt(at),
            (1, at) => Fault::ErrorAt(at, EIO),
            _ => Fault::None,
        };
        self.tell(format!("release at {} with {fault:?}", self.now));
        let now = Timestamp::from_second(self.now).unwrap();
        let spool = self.spool.clone().unwrap();
        self.disk.set_fault(fault);
        while spool.is_release_due(now) {
            for released in spool.release_due(now) {
                self.tell(format!("  {}", released.id));
                let Timed { at, word } = self.timed[&released.id];
                assert!(at <= self.now && word != Word::Hold, "{}", released.id);
            }
        }
        drop(spool);
        self.disk.set_fault(Fault::None);
        match fault {
            Fault::None => {}
            Fault::CrashAt(_) if self.draw(2) == 0 => self.cut_power(),
            Fault::CrashAt(_) => self.kill(),
            // What could not be released is tried again, or found by the next process.
            _ => match self.draw(3) {
                0 => self.cut_power(),
                1 => self.kill(),
                _ => self.now += RETRY_AFTER,
            },
        }
        self.release_rest();
    }

    fn release_rest(&mut self) {
        let now = Timestamp::from_second(self.now).unwrap();
        let spool = self.spool.clone().unwrap();
        while spool.is_release_due(now) {
            spool.release_due(now);
        }
        self.check();
        self.check_releases();
    }

    /// What is due and nobody holds is in `ready/`.
    fn check_releases(&self) {
        for (id, (place, _)) in whole_queue(&self.disk, "") {
            let is_due = self
                .timed
                .get(&id)
                .is_some_and(|timed| timed.word == Word::Nothing && timed.at <= self.now);
            assert!(!is_due || place == Place::Ready, "{id} is late");
        }
    }

    fn step(&mut self) {
        match self.draw(23) {
            0..8 => self.send(),
            8..12 => self.take(),
            12..14 => self.command(),
            14..16 => self.cover(),
            16..18 => self.kill(),
            18 => self.cut_power(),
            20.. => self.release(),
            _ => self.check(),
        }
    }

    /// Several messages at once, and perhaps a fault, or the end of everything, on the way.
    fn send(&mut self) {
        let fault = match (self.draw(12), self.draw(60) as usize) {
            (0, at) => Fault::ErrorAt(at, EIO),
            (1, at) => Fault::ErrorAt(at, ENOSPC),
            (2, at) => Fault::ErrorFrom(at, EIO),
            (3 | 4, at) => Fault::CrashAt(at),
            _ => Fault::None,
        };
        let count = self.draw(6) + 1;
        let mut messages = Vec::new();
        for _ in 0..count {
            let size = match self.draw(12) {
                0 => 70_000,
                1 => 0,
                _ => self.draw(3_000) as usize,
            };
            let id = id(self.next);
            self.next += 1;
            messages.push(match self.draw(4) {
                0 => {
                    let at = self.now + self.draw(100) as i64;
                    let word = Word::Nothing;
                    self.timed.insert(id.clone(), Timed { at, word });
                    (held_until(&id, Timestamp::from_second(at).unwrap()), size)
                }
                _ => (envelope(&id), size),
            });
        }
        let words: Vec<_> = messages
            .iter()
            .map(|(envelope, size)| (size, envelope.hold.is_some()))
            .collect();
        self.tell(format!("send {words:?} with {fault:?}"));
        self.disk.set_fault(fault);
        let results = self.commit_all(messages);
        self.disk.set_fault(Fault::None);
        for (id, size, result) in results {
            let fate = match (result, fault) {
                (_, Fault::CrashAt(_)) => Fate::Open,
                (Some(Ok(_)), _) => Fate::Acknowledged,
                (Some(Err(_)), Fault::ErrorFrom(..)) | (None, _) => Fate::Open,
                (Some(Err(_)), _) => Fate::Refused,
            };
            self.tell(format!("  {id} of {size}: {fate:?}"));
            self.messages.insert(id, (size, fate));
        }
        match fault {
            Fault::CrashAt(_) if self.draw(2) == 0 => self.cut_power(),
            Fault::CrashAt(_) => self.kill(),
            // What is durable and could not be placed is placed by the next attempt.
            Fault::ErrorFrom(..) => {
                self.spool.as_ref().unwrap().turn();
                self.kill();
            }
            _ => {
                self.spool.as_ref().unwrap().turn();
            }
        }
    }

    /// Commits them together: as many as fit are in one batch.
    fn commit_all(&self, messages: Vec<(Envelope, usize)>) -> Vec<(MessageId, usize, Outcome)> {
        let spool = self.spool.clone().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut commits = Vec::new();
            for (envelope, size) in messages {
                let id = envelope.id.clone();
                if size > LARGE {
                    // Alone, since the threads of the runtime do its work in an order of their own.
                    let result = submit(spool.clone(), envelope, size).await;
                    commits.push((
                        id,
                        size,
                        Box::pin(std::future::pending()) as _,
                        Some(result),
                    ));
                    continue;
                }
                let commit: Commit = Box::pin(submit(spool.clone(), envelope, size));
                commits.push((id, size, commit, None));
            }
            std::future::poll_fn(|context| {
                loop {
                    for (_, _, commit, result) in &mut commits {
                        if result.is_none()
                            && let Poll::Ready(output) = commit.as_mut().poll(context)
                        {
                            *result = Some(output);
                        }
                    }
                    if commits.iter().all(|(_, _, _, result)| result.is_some()) {
                        return Poll::Ready(());
                    }
                    if !spool.turn() {
                        return Poll::Pending;
                    }
                }
            })
            .await;
            let outcomes = commits.into_iter();
            outcomes
                .map(|(id, size, _, result)| (id, size, result))
                .collect()
        })
    }

    /// The consumer takes some messages, as docs/queue.md says.
    fn take(&mut self) {
        let count = self.draw(5) as usize;
        let directory = operator(&self.disk);
        let ready = directory.list().unwrap().into_iter();
        let ready = ready.filter(|entry| entry.place == Place::Ready);
        for entry in ready.take(count).collect::<Vec<_>>() {
            let mut message = Vec::new();
            directory.export(&entry.id, &mut message).unwrap();
            assert!(message == content(&entry.id, message.len()), "{}", entry.id);
            self.tell(format!("take {}", entry.id));
            let (_, fate) = self.messages.get_mut(&entry.id).unwrap();
            assert_eq!(*fate, Fate::Acknowledged, "{} is taken", entry.id);
            *fate = Fate::Taken { covered: false };
            for extension in ["json", "eml"] {
                let name = format!("ready/{}.{extension}", entry.id);
                self.disk.remove_file(&Path::new(ROOT).join(name)).unwrap();
            }
        }
    }

    /// The operator holds, releases or removes a message; the machine may fail in the middle.
    fn command(&mut self) {
        let directory = operator(&self.disk);
        let entries = directory.list().unwrap();
        if entries.is_empty() {
            return;
        }
        let entry = &entries[self.draw(entries.len() as u64) as usize];
        let which = self.draw(4);
        let fault = match (self.draw(4), self.draw(12) as usize) {
            (0, at) => Fault::CrashAt(at),
            _ => Fault::None,
        };
        self.tell(format!("command {which} for {} with {fault:?}", entry.id));
        self.disk.set_fault(fault);
        let result = match which {
            0 => directory.hold(&entry.id),
            1 | 2 => directory.release(&entry.id),
            _ => directory.remove(&entry.id),
        };
        self.disk.set_fault(Fault::None);
        if let Some(timed) = self.timed.get_mut(&entry.id) {
            timed.word = match (which, &result) {
                (3, _) => timed.word,
                (_, Err(_)) => Word::Unknown,
                (0, Ok(())) => Word::Hold,
                (_, Ok(())) => Word::Release,
            };
        }
        if which == 3 {
            let (_, fate) = self.messages.get_mut(&entry.id).unwrap();
            *fate = match result {
                Ok(()) => Fate::Removed,
                Err(_) => Fate::PerhapsRemoved,
            };
        }
        if let Fault::CrashAt(_) = fault {
            if self.draw(2) == 0 {
                self.cut_power();
            } else {
                self.kill();
            }
        }
    }

    /// A checkpoint, which may fail or be the last thing that happens.
    fn cover(&mut self) {
        let fault = match (self.draw(6), self.draw(8) as usize) {
            (0, at) => Fault::ErrorAt(at, EIO),
            (1, at) => Fault::CrashAt(at),
            _ => Fault::None,
        };
        self.tell(format!("cover with {fault:?}"));
        self.disk.set_fault(fault);
        let result = self.spool.as_ref().unwrap().cover();
        self.disk.set_fault(Fault::None);
        if result.is_ok() {
            for (_, fate) in self.messages.values_mut() {
                if let Fate::Taken { covered } = fate {
                    *covered = true;
                }
            }
        }
        if let Fault::CrashAt(_) = fault {
            self.cut_power();
        }
    }

    /// SIGKILL: what the process wrote is in the kernel's hands.
    fn kill(&mut self) {
        self.tell("kill");
        // Whatever a spool does when it is dropped, a killed one does not.
        let disk = self.disk.copy();
        self.disk.set_fault(Fault::CrashAt(0));
        self.spool = None;
        self.disk = disk;
        self.open();
    }

    fn cut_power(&mut self) {
        let seed = self.draw(u64::MAX);
        self.tell(format!("power cut, {seed}"));
        let disk = self.disk.crashed_by_chance(seed);
        self.disk.set_fault(Fault::CrashAt(0));
        self.spool = None;
        self.disk = disk;
        for (_, fate) in self.messages.values_mut() {
            // It may come back: nobody synced its removal.
            if *fate == (Fate::Taken { covered: false }) {
                *fate = Fate::PerhapsRemoved;
            }
        }
        self.open();
    }
}

/// `None`: it never came to one.
type Outcome = Option<Result<Receipt, QueueError>>;
type Commit = Pin<Box<dyn Future<Output = Result<Receipt, QueueError>>>>;

async fn submit(spool: Spool, envelope: Envelope, size: usize) -> Result<Receipt, QueueError> {
    let content = content(&envelope.id, size);
    let mut draft = spool.begin(envelope).await?;
    draft.append(&content).await?;
    draft.commit().await
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_happens_nothing_is_lost_doubled_or_altered() {
    let (first, last) = match number("GATEPOST_SEED") {
        Some(seed) => (seed, seed),
        None => (1, number("GATEPOST_SEEDS").unwrap_or(SEEDS)),
    };
    let mut steps = 0;
    for seed in first..=last {
        let mut world = World::new(seed);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..STEPS {
                world.step();
            }
            world.cut_power();
            // Whatever happened to its releases, all of it is released in the end.
            world.now += 1_000;
            world.release_rest();
        }));
        if let Err(panic) = result {
            println!("GATEPOST_SEED={seed}:\n  {}", world.story.join("\n  "));
            std::panic::resume_unwind(panic);
        }
        steps += world.story.len();
    }
    assert!(
        first == last || steps as u64 > (last - first) * STEPS,
        "{steps} are too few"
    );
}

#[test]
fn a_commit_that_is_given_up_before_its_turn_leaves_nothing() {
    let disk = ModelDisk::default();
    let (spool, _) = Spool::open_stepped(&World::settings(), Arc::new(disk.clone())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let mut context = Context::from_waker(Waker::noop());
    let mut commits: Vec<_> = (1..=3)
        .map(|number| Box::pin(submit(spool.clone(), envelope(&id(number)), 100)))
        .collect();
    for commit in &mut commits {
        assert!(commit.as_mut().poll(&mut context).is_pending());
    }
    drop(commits.remove(1));
    assert!(spool.turn());
    for commit in &mut commits {
        assert!(matches!(
            commit.as_mut().poll(&mut context),
            Poll::Ready(Ok(_))
        ));
    }
    let queue = whole_queue(&disk, "");
    assert_eq!(queue.into_keys().collect::<Vec<_>>(), [id(1), id(3)]);
}
