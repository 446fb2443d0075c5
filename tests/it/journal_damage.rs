//! A journal that is not as it was left: cut, padded, with flipped bits, of another version, from another machine. What
//! can be read is queued, what cannot is reported and kept, and nothing is altered.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gatepost::diagnostic::Finding;
use gatepost::queue::{QueueError, Recovered, Spool, SpoolSettings};

use crate::model_disk::{Fault, ModelDisk, Unsynced, mix};
use crate::queue_crash::{Queue, ROOT, id, runtime, send, settings, whole_queue};

const ENOSPC: i32 = nix::errno::Errno::ENOSPC as i32;
const SEGMENT: usize = 32 * 1024;
const MESSAGES: u128 = 12;

fn small() -> SpoolSettings {
    SpoolSettings {
        journal_size: 8 * SEGMENT as u64,
        segment_size: SEGMENT as u64,
        ..settings()
    }
}

fn open(disk: &ModelDisk) -> Result<(Spool, Recovered), QueueError> {
    Spool::open_stepped(&small(), Arc::new(disk.clone()))
}

/// A disk after a power cut that left nothing but the journal: messages 1 to 12 are in it, in batches of one, in more
/// than one segment.
fn only_the_journal() -> ModelDisk {
    let disk = ModelDisk::default();
    let (spool, _) = open(&disk).unwrap();
    let runtime = runtime();
    for number in 1..=MESSAGES {
        runtime
            .block_on(send(&spool, &id(number), 3_000 + number as usize))
            .unwrap();
    }
    let crashed = disk.crashed(0, Unsynced::Gone);
    assert!(crashed.files().is_empty());
    assert!(segments(&crashed).len() >= 2);
    crashed
}

fn all() -> Vec<u128> {
    (1..=MESSAGES).collect()
}

fn segments(disk: &ModelDisk) -> Vec<PathBuf> {
    let files = disk.all_files().into_keys();
    files
        .filter(|path| path.extension().is_some_and(|end| end == "segment"))
        .collect()
}

fn change(disk: &ModelDisk, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = disk.all_files()[path].clone();
    change(&mut content);
    disk.put(path, &content);
}

/// The numbers of the messages that are in the queue, whole; whatever is in `damaged/` is left out.
fn queued(disk: &ModelDisk, context: &str) -> Vec<u128> {
    let damaged = Path::new(ROOT).join("damaged");
    for path in disk
        .files()
        .keys()
        .filter(|path| path.starts_with(&damaged))
    {
        disk.take(path);
    }
    let queue: Queue = whole_queue(disk, context);
    all()
        .into_iter()
        .filter(|number| queue.contains_key(&id(*number)))
        .collect()
}

fn kept(disk: &ModelDisk) -> usize {
    let damaged = Path::new(ROOT).join("damaged");
    let files = disk.files().into_keys();
    files.filter(|path| path.starts_with(&damaged)).count()
}

fn told(recovered: &Recovered) -> String {
    let lines: Vec<String> = recovered.findings.iter().map(Finding::one_line).collect();
    lines.join("\n")
}

#[test]
fn what_is_whole_comes_back_without_a_word() {
    let disk = only_the_journal();
    let (spool, recovered) = open(&disk).unwrap();
    assert_eq!((recovered.replayed, told(&recovered).as_str()), (12, ""));
    assert_eq!(queued(&disk, ""), all());
    drop(spool);
    // And only once.
    let (_spool, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.replayed, 0);
}

/// Page 0 is the segment's own; a batch begins at every page that is a multiple of what one takes.
fn batch_offset(disk: &ModelDisk, path: &Path, index: usize) -> usize {
    let content = &disk.all_files()[path];
    let starts = (4096..content.len()).step_by(4096);
    let mut batches = starts.filter(|at| content[*at..].starts_with(b"gpbatch"));
    batches.nth(index).unwrap()
}

#[test]
fn a_broken_batch_is_reported_and_its_segment_kept() {
    let disk = only_the_journal();
    let path = segments(&disk)[0].clone();
    let at = batch_offset(&disk, &path, 2) + 200;
    change(&disk, &path, |content| content[at] ^= 1);
    let (spool, recovered) = open(&disk).unwrap();
    let text = told(&recovered);
    assert!(text.contains("the journal is damaged"), "{text}");
    assert!(text.contains("after 2 up to 3"), "{text}");
    assert!(recovered.findings[0].is_error());
    assert!(kept(&disk) >= 2);
    let expected: Vec<u128> = all().into_iter().filter(|number| *number != 3).collect();
    assert_eq!(queued(&disk, ""), expected);
    // It goes on, and does not say it again.
    runtime().block_on(send(&spool, &id(100), 10)).unwrap();
    drop(spool);
    let (_spool, recovered) = open(&disk).unwrap();
    assert_eq!(told(&recovered), "");
}

#[test]
fn the_end_that_was_not_written_is_no_damage() {
    let disk = only_the_journal();
    let last = segments(&disk).pop().unwrap();
    let content = disk.all_files()[&last].clone();
    let count = (4096..content.len())
        .step_by(4096)
        .filter(|at| content[*at..].starts_with(b"gpbatch"))
        .count();
    let at = batch_offset(&disk, &last, count - 1);
    // As if the sectors behind the first had not got there.
    change(&disk, &last, |content| content[at + 512..at + 4096].fill(0));
    let announced = Path::new(ROOT).join("journal/intent");
    disk.take(&announced);
    let (_spool, recovered) = open(&disk).unwrap();
    let text = told(&recovered);
    assert!(
        text.contains("ends in the middle of a write of 1 messages"),
        "{text}"
    );
    assert!(!text.contains("damaged:"), "{text}");
    assert_eq!(queued(&disk, ""), (1..MESSAGES).collect::<Vec<_>>());
}

#[test]
fn a_last_batch_that_was_placed_and_is_gone_is_damage() {
    // A killed process: what it announced had been durable.
    let disk = ModelDisk::default();
    let (spool, _) = open(&disk).unwrap();
    runtime().block_on(send(&spool, &id(1), 100)).unwrap();
    let disk = disk.copy();
    let path = segments(&disk)[0].clone();
    let at = batch_offset(&disk, &path, 0);
    change(&disk, &path, |content| content[at..at + 4096].fill(0));
    let (_spool, recovered) = open(&disk).unwrap();
    let text = told(&recovered);
    assert!(text.contains("the journal is damaged"), "{text}");
    // Its files are still there.
    assert_eq!(queued(&disk, ""), [1]);
}

#[test]
fn flipped_bits_anywhere_lose_nothing_in_silence_and_alter_nothing() {
    let start = only_the_journal();
    let paths = segments(&start);
    for seed in 0..400 {
        let disk = start.crashed(0, Unsynced::Gone);
        for flip in 0..=mix(seed, 0) % 3 {
            let path = &paths[(mix(seed, flip * 2 + 1) % paths.len() as u64) as usize];
            let bit = (mix(seed, flip * 2 + 2) % (SEGMENT as u64 * 8)) as usize;
            change(&disk, path, |content| content[bit / 8] ^= 1 << (bit % 8));
        }
        match open(&disk) {
            Ok((_spool, recovered)) => {
                let found = queued(&disk, &format!("seed {seed}"));
                assert!(
                    found == all() || !recovered.findings.is_empty(),
                    "seed {seed}: lost in silence"
                );
                assert!(
                    found.len() >= MESSAGES as usize - 3,
                    "seed {seed}: {found:?}"
                );
            }
            // A flipped bit of the version number.
            Err(error) => {
                assert!(
                    matches!(error, QueueError::JournalVersion { .. }),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn cut_and_padded_segments() {
    for length in [0, 1, 4096, 9000, SEGMENT - 1, SEGMENT + 1, 3 * SEGMENT] {
        for which in [0, 1] {
            let disk = only_the_journal();
            let path = segments(&disk)[which].clone();
            change(&disk, &path, |content| content.resize(length, 0xa5));
            let (_spool, recovered) = open(&disk).unwrap();
            let text = told(&recovered);
            assert!(text.contains("is not as it was"), "{length}: {text}");
            assert!(kept(&disk) >= 1);
            let found = queued(&disk, &format!("{length}"));
            let cut = length < SEGMENT;
            assert!(
                found == all() || cut && text.contains("damaged"),
                "{length}: {text}"
            );
        }
    }
}

#[test]
fn another_version_is_refused_and_left_alone() {
    let disk = only_the_journal();
    let path = segments(&disk)[0].clone();
    change(&disk, &path, |content| content[16] = 2);
    let before = disk.all_files();
    let error = open(&disk).unwrap_err();
    assert!(
        error.to_string().contains("is of version 2 of the journal"),
        "{error}"
    );
    assert!(Finding::from(&error).hint.is_some());
    let mut after = disk.all_files();
    after.retain(|path, _| before.contains_key(path));
    assert_eq!(after, before);
}

#[test]
fn a_journal_from_another_machine_is_taken_over_and_reported() {
    let disk = only_the_journal();
    disk.rename_host("new.example.org");
    let (spool, recovered) = open(&disk).unwrap();
    let text = told(&recovered);
    assert!(
        text.contains("accepted on the machine mail.example.org; this is new.example.org"),
        "{text}"
    );
    assert_eq!(queued(&disk, ""), all());
    drop(spool);
    let (_spool, recovered) = open(&disk).unwrap();
    assert_eq!(told(&recovered), "");
}

#[test]
fn another_queues_segment_is_not_read() {
    let disk = only_the_journal();
    let other = only_the_journal();
    let stray = segments(&other)[0].clone();
    let target = Path::new(ROOT).join("journal/0000000077.segment");
    // Its batches have smaller numbers than ours, as its first segment has.
    disk.put(&target, &other.all_files()[&stray]);
    let (_spool, recovered) = open(&disk).unwrap();
    let text = told(&recovered);
    assert!(text.contains("part of another queue's journal"), "{text}");
    assert_eq!(kept(&disk), 1);
    assert_eq!(queued(&disk, ""), all());
}

#[test]
fn what_is_not_a_segment_is_left_alone() {
    let disk = only_the_journal();
    let stray = Path::new(ROOT).join("journal/notes.txt");
    disk.put(&stray, b"mine");
    let (_spool, recovered) = open(&disk).unwrap();
    let text = told(&recovered);
    assert!(
        text.contains("notes.txt: not a file of gatepost's"),
        "{text}"
    );
    assert_eq!(disk.all_files()[&stray], b"mine");
}

#[test]
fn a_part_on_another_file_system_is_refused() {
    let disk = ModelDisk::default();
    drop(open(&disk).unwrap());
    disk.put(&Path::new(ROOT).join("ready/elsewhere"), b"");
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, QueueError::Elsewhere { .. }), "{error}");
}

/// What the journal alone has may be acknowledged, also for the second start after a power cut: the first has announced
/// some of it, and did not get through.
#[test]
fn starts_on_a_full_disk_lose_nothing_of_the_journal() {
    let start = only_the_journal();
    for first in (20..140).step_by(15) {
        for second in 0..100 {
            let disk = start.crashed(0, Unsynced::Gone);
            for fault in [
                Fault::ErrorFrom(first, ENOSPC),
                Fault::ErrorAt(second, ENOSPC),
                Fault::None,
            ] {
                disk.set_fault(fault);
                drop(open(&disk));
            }
            let context = format!("full from {first}, then at {second}");
            assert_eq!(queued(&disk, &context), all(), "{context}");
        }
    }
}
