//! The first promise, tried at every file operation: what the queue acknowledged survives a power cut, once and byte
//! for byte, and what it refused is not there.
//!
//! The model disk (tests/it/model_disk.rs) loses power or fails at operation 0, 1, 2 and so on of whatever is being
//! done, until the work gets through untouched; after each, every state that the disk may be in is opened again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use gatepost::clock::Now;
use gatepost::decision::Refusal;
use gatepost::envelope::{Client, Envelope, MessageId, Receipt, Recipient};
use gatepost::queue::{Place, QueueDirectory, QueueError, Recovered, Spool, SpoolSettings};
use gatepost::smtp::reply::Reply;
use tokio::runtime::Runtime;

use crate::model_disk::{Fault, ModelDisk, UNSYNCED, Unsynced};
use crate::queue_release::send_under;

const EIO: i32 = nix::errno::Errno::EIO as i32;
const ENOSPC: i32 = nix::errno::Errno::ENOSPC as i32;

/// Messages of both kinds: held in memory until the commit, and spilled in several pieces.
pub(crate) const SIZES: [usize; 2] = [1_000, 200_000];

pub(crate) const ROOT: &str = "/queue";

pub(crate) fn settings() -> SpoolSettings {
    SpoolSettings {
        minimum_free: 1_000_000,
        journal_size: 1024 * 1024,
        segment_size: 64 * 1024,
        ..SpoolSettings::new(PathBuf::from(ROOT))
    }
}

pub(crate) fn open(disk: &ModelDisk) -> Result<(Spool, Recovered), QueueError> {
    Spool::open_stepped(&settings(), Arc::new(disk.clone()))
}

pub(crate) fn operator(disk: &ModelDisk) -> QueueDirectory {
    QueueDirectory::open_on(Path::new(ROOT), Arc::new(disk.clone())).unwrap()
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

pub(crate) fn id(number: u128) -> MessageId {
    MessageId::from_bits(number)
}

pub(crate) fn envelope(id: &MessageId) -> Envelope {
    let client = Client {
        address: "203.0.113.7".parse().unwrap(),
        port: 50123,
        name: "laptop.lan".to_owned(),
        mechanism: "PLAIN".to_owned(),
        tls: "TLSv1.3".to_owned(),
        cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
    };
    Envelope {
        account: "alice@example.org".to_owned(),
        reverse_path: "alice@example.org".to_owned(),
        recipients: vec![Recipient::new("bob@example.net")],
        ..Envelope::new(
            id.clone(),
            "2026-11-21T09:30:00.123Z".parse().unwrap(),
            client,
        )
    }
}

/// Content that differs from message to message and from place to place.
pub(crate) fn content(id: &MessageId, size: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(size + 4_096);
    for block in 0.. {
        if content.len() >= size {
            break;
        }
        content.extend(format!("Block: {id} {block}\r\n").repeat(64).into_bytes());
    }
    content.truncate(size);
    content
}

pub(crate) async fn send(
    spool: &Spool,
    id: &MessageId,
    size: usize,
) -> Result<Receipt, QueueError> {
    send_under(spool, envelope(id), size).await
}

/// Waits for something that a stepped spool has to be turned for.
pub(crate) async fn drive<T>(spool: &Spool, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(output);
            }
            if !spool.turn() {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// What has to be in the queue: whole messages of these sizes, each in its place.
pub(crate) type Queue = BTreeMap<MessageId, (Place, usize)>;

/// The queue on the disk. Panics if anything in `ready/` or `hold/` is not a whole message, or in both, or if there is
/// anything besides.
pub(crate) fn whole_queue(disk: &ModelDisk, context: &str) -> Queue {
    let mut files = disk.files();
    let directory = operator(disk);
    let mut queue = Queue::new();
    for entry in directory.list().unwrap() {
        let found = entry.envelope.unwrap_or_else(|error| {
            panic!("{context}: the envelope of {}: {error}", entry.id);
        });
        let mut message = Vec::new();
        directory.export(&entry.id, &mut message).unwrap();
        let size = message.len();
        let expected = Envelope {
            size: size as u64,
            hold: found.hold,
            ..envelope(&entry.id)
        };
        assert_eq!(found, expected, "{context}");
        assert!(
            message == content(&entry.id, size),
            "{context}: the content of {} is damaged: {:?}",
            entry.id,
            String::from_utf8_lossy(&message[..message.len().min(60)])
        );
        for extension in ["eml", "json"] {
            let path = Path::new(ROOT)
                .join(entry.place.as_str())
                .join(format!("{}.{extension}", entry.id));
            assert!(files.remove(&path).is_some(), "{context}: no {path:?}");
        }
        let before = queue.insert(entry.id, (entry.place, size));
        assert_eq!(before, None, "{context}: twice in the queue");
    }
    assert!(files.is_empty(), "{context}: left over: {:?}", files.keys());
    queue
}

/// Calls `check` with every state that the disk may be in after the power went.
pub(crate) fn each_crash(disk: &ModelDisk, mut check: impl FnMut(ModelDisk, &str)) {
    let pending = disk.pending();
    assert!(pending <= 10, "{pending} pending changes: sync more often");
    for kept in 0..1 << pending {
        for unsynced in UNSYNCED {
            check(
                disk.crashed(kept, unsynced),
                &format!("kept {kept:b} of {pending} changes, unsynced content {unsynced:?}"),
            );
        }
    }
}

/// Checks what somebody at work in `ready/` relies on at any moment: where an envelope is, its message is.
pub(crate) fn no_envelope_is_alone_in_ready(disk: &ModelDisk, context: &str) {
    let files = disk.files();
    for path in files.keys() {
        if path.starts_with(Path::new(ROOT).join("ready")) && path.extension().unwrap() == "json" {
            let message = path.with_extension("eml");
            assert!(files.contains_key(&message), "{context}: {path:?} is alone");
        }
    }
}

/// Runs `work` with the fault at operation 0, 1, 2, ... until it is not reached any more. `work` gets a fresh disk each
/// time; how many operations it took is up to it.
pub(crate) fn at_every_operation(
    fault: impl Fn(usize) -> Fault,
    mut work: impl FnMut(Fault) -> usize,
) -> usize {
    for at in 0..1_000 {
        if work(fault(at)) <= at {
            return at;
        }
    }
    panic!("there is no end to it");
}

/// A disk with one queued message, number 1, and one held, number 2.
fn furnished() -> ModelDisk {
    let disk = ModelDisk::default();
    let runtime = runtime();
    let (spool, _) = open(&disk).unwrap();
    for number in [1, 2] {
        runtime.block_on(send(&spool, &id(number), 500)).unwrap();
    }
    drop((spool, runtime));
    operator(&disk).hold(&id(2)).unwrap();
    disk
}

fn furniture() -> Queue {
    Queue::from([(id(1), (Place::Ready, 500)), (id(2), (Place::Hold, 500))])
}

#[test]
fn a_crash_anywhere_in_a_commit() {
    for size in SIZES {
        let operations = at_every_operation(Fault::CrashAt, |fault| {
            let disk = furnished();
            let runtime = runtime();
            let (spool, _) = open(&disk).unwrap();
            disk.set_fault(fault);
            let result = runtime.block_on(send(&spool, &id(3), size));
            no_envelope_is_alone_in_ready(&disk, &format!("{fault:?}"));
            // Cleaning up runs against a disk without power, too.
            drop((spool, runtime));
            let operations = disk.operations();
            each_crash(&disk, |disk, context| {
                let context = format!("{size} octets, {fault:?}, {context}");
                let (spool, recovered) = open(&disk).unwrap();
                let mut queue = whole_queue(&disk, &context);
                let new = queue.remove(&id(3));
                assert_eq!(queue, furniture(), "{context}");
                match new {
                    Some(new) => assert_eq!(new, (Place::Ready, size), "{context}"),
                    None => assert!(result.is_err(), "{context}: acknowledged and lost"),
                }
                assert_eq!(recovered.queued, 1 + u64::from(new.is_some()), "{context}");
                assert_eq!(recovered.held, 1, "{context}");
                drop(spool);
            });
            operations
        });
        assert!(operations >= 10, "the crashes did not reach the commit");
    }
}

#[test]
fn a_crash_right_after_the_receipt() {
    // Not only at the end of all work: other drafts are under way when the receipt is given.
    let disk = ModelDisk::default();
    let runtime = runtime();
    let (spool, _) = open(&disk).unwrap();
    runtime.block_on(async {
        let mut open_draft = spool.begin(envelope(&id(9))).await.unwrap();
        open_draft.append(&content(&id(9), 100_000)).await.unwrap();
        for (number, size) in [(1, SIZES[0]), (2, SIZES[1])] {
            send(&spool, &id(number), size).await.unwrap();
            each_crash(&disk, |disk, context| {
                let _spool = open(&disk).unwrap();
                let queue = whole_queue(&disk, context);
                assert_eq!(queue.get(&id(number)), Some(&(Place::Ready, size)));
            });
        }
    });
}

#[test]
fn a_crash_anywhere_in_recovery() {
    // Recovery gets every state that a cut-off commit or hold can leave, and is cut off anywhere itself.
    let mut starts = BTreeMap::new();
    let mut collect = |disk: &ModelDisk| {
        for kept in 0..1 << disk.pending() {
            let crashed = disk.crashed(kept, Unsynced::Kept);
            starts.insert(crashed.files(), crashed);
        }
    };
    at_every_operation(Fault::CrashAt, |fault| {
        let disk = furnished();
        let runtime = runtime();
        let (spool, _) = open(&disk).unwrap();
        disk.set_fault(fault);
        let _ = runtime.block_on(send(&spool, &id(3), SIZES[0]));
        drop((spool, runtime));
        collect(&disk);
        disk.operations()
    });
    at_every_operation(Fault::CrashAt, |fault| {
        let disk = furnished();
        let directory = operator(&disk);
        disk.set_fault(fault);
        let _ = directory.hold(&id(1));
        collect(&disk);
        disk.operations()
    });
    assert!(starts.len() >= 10, "{} states are too few", starts.len());
    for start in starts.into_values() {
        at_every_operation(Fault::CrashAt, |fault| {
            let disk = start.crashed(0, Unsynced::Kept);
            disk.set_fault(fault);
            let _ = open(&disk);
            let operations = disk.operations();
            for kept in [0, u64::MAX, 0x5555, 0xaaaa] {
                let disk = disk.crashed(kept, Unsynced::Gone);
                let _spool = open(&disk).unwrap();
                let mut queue = whole_queue(&disk, &format!("{fault:?}"));
                queue.remove(&id(3));
                // The hold may have been done or not.
                if let Some((place, _)) = queue.get_mut(&id(1)) {
                    *place = Place::Ready;
                }
                assert_eq!(queue, furniture());
            }
            operations
        });
    }
}

#[test]
fn a_crash_anywhere_in_the_first_opening() {
    at_every_operation(Fault::CrashAt, |fault| {
        let disk = ModelDisk::default();
        disk.set_fault(fault);
        let result = open(&disk);
        let operations = disk.operations();
        let opened = result.is_ok();
        drop(result);
        each_crash(&disk, |disk, context| {
            if opened {
                // Without this, messages would be committed into directories that are not there after the crash.
                operator(&disk);
            }
            let (_spool, recovered) = open(&disk).unwrap();
            assert_eq!(recovered, Recovered::default(), "{context}");
        });
        operations
    });
}

/// One of the operator's commands, the message it is for, and where that is before and after.
type Command = (
    fn(&QueueDirectory, &MessageId) -> Result<(), QueueError>,
    u128,
    Place,
    Option<Place>,
);

const COMMANDS: [Command; 4] = [
    (QueueDirectory::hold, 1, Place::Ready, Some(Place::Hold)),
    (QueueDirectory::release, 2, Place::Hold, Some(Place::Ready)),
    (QueueDirectory::remove, 1, Place::Ready, None),
    (QueueDirectory::remove, 2, Place::Hold, None),
];

#[test]
fn a_crash_anywhere_in_the_operators_commands() {
    for (command, number, before, after) in COMMANDS {
        at_every_operation(Fault::CrashAt, |fault| {
            let disk = furnished();
            let directory = operator(&disk);
            disk.set_fault(fault);
            let result = command(&directory, &id(number));
            no_envelope_is_alone_in_ready(&disk, &format!("{fault:?}"));
            let operations = disk.operations();
            each_crash(&disk, |disk, context| {
                let context = format!("{before} to {after:?}, {fault:?}, {context}");
                let (_spool, recovered) = open(&disk).unwrap();
                assert_eq!(recovered.findings, [], "{context}");
                let mut queue = whole_queue(&disk, &context);
                let place = queue.remove(&id(number)).map(|(place, size)| {
                    assert_eq!(size, 500);
                    place
                });
                if result.is_ok() {
                    assert_eq!(place, after, "{context}");
                } else {
                    assert!(place == Some(before) || place == after, "{context}");
                }
                let mut others = furniture();
                others.remove(&id(number));
                assert_eq!(queue, others, "{context}");
            });
            operations
        });
    }
}

#[test]
fn a_command_that_failed_anywhere_can_be_given_again() {
    for (command, number, before, after) in COMMANDS {
        at_every_operation(
            |at| Fault::ErrorAt(at, EIO),
            |fault| {
                let disk = furnished();
                let directory = operator(&disk);
                disk.set_fault(fault);
                let result = command(&directory, &id(number));
                let operations = disk.operations();
                disk.set_fault(Fault::None);
                match (command(&directory, &id(number)), after) {
                    (Ok(()), _) => {}
                    (Err(QueueError::Missing { .. }), None) => {}
                    (Err(error), _) => panic!("{fault:?}: {result:?}, again: {error}"),
                }
                each_crash(&disk, |disk, context| {
                    let context = format!("{before} to {after:?}, {fault:?}, {context}");
                    let _spool = open(&disk).unwrap();
                    let queue = whole_queue(&disk, &context);
                    let place = queue.get(&id(number)).map(|(place, _)| *place);
                    // A removal whose sync failed, and whose second try found nothing to remove, is not certain.
                    let uncertain = after.is_none() && result.is_err();
                    assert!(
                        place == after || uncertain && place == Some(before),
                        "{context}: {place:?}"
                    );
                });
                operations
            },
        );
    }
}

#[test]
fn an_error_anywhere_in_a_commit() {
    for size in SIZES {
        for errno in [EIO, ENOSPC] {
            at_every_operation(
                |at| Fault::ErrorAt(at, errno),
                |fault| {
                    let context = format!("{size} octets, {fault:?}");
                    let disk = furnished();
                    let runtime = runtime();
                    let (spool, _) = open(&disk).unwrap();
                    disk.set_fault(fault);
                    let result = runtime.block_on(send(&spool, &id(3), size));
                    let operations = disk.operations();
                    disk.set_fault(Fault::None);
                    // What is durable and could not be placed is placed by the next attempt.
                    spool.turn();
                    let mut expected = furniture();
                    match &result {
                        Ok(receipt) => {
                            assert_eq!(receipt.size, size as u64, "{context}");
                            expected.insert(id(3), (Place::Ready, size));
                        }
                        Err(error) => {
                            let reply = if errno == ENOSPC {
                                Reply::storage_full()
                            } else {
                                Reply::storage_failed()
                            };
                            assert_eq!(Refusal::from(error).reply, reply, "{context}: {error}");
                        }
                    }
                    // What was received before the fault may be removed behind our back; wait for it.
                    drop(runtime);
                    assert_eq!(whole_queue(&disk, &context), expected);
                    survives(&disk, 0..1 << disk.pending(), &expected, &context);

                    // The spool goes on.
                    let runtime = self::runtime();
                    runtime.block_on(send(&spool, &id(4), size)).unwrap();
                    expected.insert(id(4), (Place::Ready, size));
                    assert_eq!(whole_queue(&disk, &context), expected);
                    drop((spool, runtime));
                    survives(&disk, [0, u64::MAX, 0x5555, 0xaaaa], &expected, &context);
                    operations
                },
            );
        }
    }
}

/// Checks that nothing about the queue hangs on what a crash keeps of the rest.
fn survives(
    disk: &ModelDisk,
    kept: impl IntoIterator<Item = u64>,
    expected: &Queue,
    context: &str,
) {
    for kept in kept {
        let disk = disk.crashed(kept, Unsynced::Gone);
        let _spool = open(&disk).unwrap();
        assert_eq!(whole_queue(&disk, context), *expected, "{context}");
    }
}

#[test]
fn a_crash_anywhere_in_taking_a_refused_message_back() {
    // How many operations the commit takes; the last one makes it durable, and that is the one to fail.
    let operations = {
        let disk = furnished();
        let (spool, _) = open(&disk).unwrap();
        disk.set_fault(Fault::None);
        runtime().block_on(send(&spool, &id(3), SIZES[1])).unwrap();
        disk.operations()
    };
    let crashes = at_every_operation(
        |at| Fault::ErrorThenCrash(operations - 1, EIO, operations + at),
        |fault| {
            let disk = furnished();
            let (spool, _) = open(&disk).unwrap();
            disk.set_fault(fault);
            runtime()
                .block_on(send(&spool, &id(3), SIZES[1]))
                .unwrap_err();
            no_envelope_is_alone_in_ready(&disk, &format!("{fault:?}"));
            each_crash(&disk, |disk, context| {
                // It may be there or not, but whole.
                let _spool = open(&disk).unwrap();
                let mut queue = whole_queue(&disk, &format!("{fault:?}, {context}"));
                queue.remove(&id(3));
                assert_eq!(queue, furniture());
            });
            disk.operations() - operations
        },
    );
    assert!(crashes >= 3, "nothing was taken back");
}

#[test]
fn a_disk_that_stays_broken_loses_nothing() {
    for size in SIZES {
        at_every_operation(
            |at| Fault::ErrorFrom(at, EIO),
            |fault| {
                let disk = furnished();
                let runtime = runtime();
                let (spool, _) = open(&disk).unwrap();
                disk.set_fault(fault);
                let result = runtime.block_on(send(&spool, &id(3), size));
                let operations = disk.operations();
                drop((spool, runtime));
                disk.set_fault(Fault::None);
                let disk = disk.copy();
                let _spool = open(&disk).unwrap();
                let mut queue = whole_queue(&disk, &format!("{fault:?}"));
                // A message whose last sync failed may stay if it cannot be taken back: twice rather than never.
                let new = queue.remove(&id(3));
                assert!(new.is_some() || result.is_err());
                assert_eq!(queue, furniture());
                operations
            },
        );
    }
}

#[test]
fn an_error_anywhere_in_opening_leaves_the_queue_alone() {
    at_every_operation(
        |at| Fault::ErrorAt(at, EIO),
        |fault| {
            let disk = furnished();
            disk.put(
                Path::new("/queue/ready/00000000000000000000000007.eml"),
                b"x",
            );
            disk.set_fault(fault);
            let result = open(&disk);
            let operations = disk.operations();
            drop(result);
            disk.set_fault(Fault::None);
            let (_spool, recovered) = open(&disk).unwrap();
            assert_eq!((recovered.queued, recovered.held), (1, 1));
            assert_eq!(whole_queue(&disk, &format!("{fault:?}")), furniture());
            operations
        },
    );
}

#[test]
fn a_failed_append_never_becomes_a_shorter_message() {
    let disk = ModelDisk::default();
    let runtime = runtime();
    let (spool, _) = open(&disk).unwrap();
    runtime.block_on(async {
        let mut draft = spool.begin(envelope(&id(1))).await.unwrap();
        draft.append(&content(&id(1), 70_000)).await.unwrap();
        disk.set_fault(Fault::ErrorFrom(0, ENOSPC));
        let error = draft.append(&content(&id(1), 70_000)).await.unwrap_err();
        assert_eq!(Refusal::from(&error).reply, Reply::storage_full());
        disk.set_fault(Fault::None);
        let error = draft.append(b"x").await.unwrap_err();
        assert!(matches!(error, QueueError::Abandoned), "{error}");
        let error = draft.commit().await.unwrap_err();
        assert!(matches!(error, QueueError::Abandoned), "{error}");
    });
    drop(runtime);
    // The fault kept the draft's file from being removed; the next opening does.
    drop(spool);
    let (_spool, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.removed, 1);
    assert_eq!(whole_queue(&disk, ""), Queue::new());
}

#[test]
fn drafts_that_are_dropped_leave_nothing() {
    let disk = ModelDisk::default();
    let (spool, _) = open(&disk).unwrap();
    for size in SIZES {
        let runtime = runtime();
        runtime.block_on(async {
            let mut draft = spool.begin(envelope(&id(1))).await.unwrap();
            draft.append(&content(&id(1), size)).await.unwrap();
            assert_eq!(disk.files().is_empty(), size < 65_536);
        });
        drop(runtime);
        assert_eq!(whole_queue(&disk, ""), Queue::new());
    }
}

#[test]
fn operations_that_are_dropped_leave_all_or_nothing() {
    use std::task::{Context, Waker};

    let disk = ModelDisk::default();
    let (spool, _) = open(&disk).unwrap();
    let poll_once = |future: &mut (dyn Future<Output = Result<(), QueueError>> + Unpin)| {
        let mut context = Context::from_waker(Waker::noop());
        std::pin::Pin::new(future).poll(&mut context).is_ready()
    };
    let mut expected = Queue::new();
    for number in 0..50 {
        let runtime = runtime();
        let _inside = runtime.enter();
        let (id, size) = (id(number), 150_000);
        let mut whole = Box::pin(async {
            let mut draft = spool.begin(envelope(&id)).await?;
            draft.append(&content(&id, size)).await?;
            draft.commit().await?;
            Ok(())
        });
        // Dropped after one, two, three steps; where that is depends on the blocking threads, what must hold does not.
        for _ in 0..number {
            if poll_once(&mut whole) {
                break;
            }
            std::thread::yield_now();
        }
        drop(whole);
        drop(_inside);
        drop(runtime);
        let queue = whole_queue(&disk, &format!("message {number}"));
        if queue.contains_key(&id) {
            expected.insert(id, (Place::Ready, size));
        }
        assert_eq!(queue, expected);
    }
}

#[test]
fn an_append_that_was_dropped_spoils_the_draft() {
    use std::future::Future as _;
    use std::task::{Context, Waker};

    let disk = ModelDisk::default();
    let (spool, _) = open(&disk).unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        let mut draft = spool.begin(envelope(&id(1))).await.unwrap();
        {
            let bytes = content(&id(1), 150_000);
            let mut append = Box::pin(draft.append(&bytes));
            let mut context = Context::from_waker(Waker::noop());
            // While the disk stands still the operation cannot be ready.
            let _stopped = disk.stop();
            assert!(append.as_mut().poll(&mut context).is_pending());
        }
        assert!(matches!(
            draft.append(b"x").await,
            Err(QueueError::Abandoned)
        ));
        assert!(matches!(draft.commit().await, Err(QueueError::Abandoned)));
    });
    drop(runtime);
    assert_eq!(whole_queue(&disk, ""), Queue::new());
}

#[test]
fn a_second_draft_of_the_same_id_harms_nothing() {
    let disk = ModelDisk::default();
    let (spool, _) = open(&disk).unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        let mut first = spool.begin(envelope(&id(1))).await.unwrap();
        first.append(&content(&id(1), 100_000)).await.unwrap();
        let error = send(&spool, &id(1), 100_000).await.unwrap_err();
        assert!(matches!(error, QueueError::Exists { .. }), "{error}");
        send(&spool, &id(1), 500).await.unwrap();
        let error = send(&spool, &id(1), 501).await.unwrap_err();
        assert!(matches!(error, QueueError::Exists { .. }), "{error}");
        let error = first.commit().await.unwrap_err();
        assert!(matches!(error, QueueError::Exists { .. }), "{error}");
    });
    drop(runtime);
    let queue = whole_queue(&disk, "");
    assert_eq!(queue, Queue::from([(id(1), (Place::Ready, 500))]));
}

#[test]
fn minimum_free_is_kept() {
    let disk = ModelDisk::default();
    let (spool, _) = open(&disk).unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        disk.set_free(1_000_500);
        spool.room_for(500).await.unwrap();
        let error = spool.room_for(501).await.unwrap_err();
        assert!(matches!(
            error,
            QueueError::Full {
                free: 1_000_500,
                needed: 501,
                ..
            }
        ));
        assert_eq!(Refusal::from(&error).reply, Reply::storage_full());

        disk.set_free(1_001_500);
        send(&spool, &id(1), 500).await.unwrap();
        let error = send(&spool, &id(2), 1_501).await.unwrap_err();
        assert_eq!(Refusal::from(&error).reply, Reply::storage_full());

        // It runs short in the middle of a large one.
        disk.set_free(2_000_000);
        let mut draft = spool.begin(envelope(&id(3))).await.unwrap();
        draft.append(&content(&id(3), 100_000)).await.unwrap();
        disk.set_free(1_000_000);
        let error = draft.append(&content(&id(3), 100_000)).await.unwrap_err();
        assert!(matches!(error, QueueError::Full { .. }), "{error}");

        // A reload may change it.
        spool.apply(&SpoolSettings {
            minimum_free: 0,
            ..settings()
        });
        spool.room_for(1_000_000).await.unwrap();
    });
    drop(runtime);
    let queue = whole_queue(&disk, "");
    assert_eq!(queue, Queue::from([(id(1), (Place::Ready, 500))]));
}

#[test]
fn recovery_reports_what_it_cannot_explain_and_leaves_it_alone() {
    let disk = furnished();
    let ready = Path::new(ROOT).join("ready");
    let hold = Path::new(ROOT).join("hold");
    let json = |number| serde_json::to_vec(&envelope(&id(number))).unwrap();
    let name = |number, extension: &str| format!("{}.{extension}", id(number));
    let mut kept: Vec<PathBuf> = disk.files().into_keys().collect();
    let mut put = |path: PathBuf, content: &[u8], stays: bool| {
        disk.put(&path, content);
        if stays {
            kept.push(path);
        }
    };
    put(ready.join("README"), b"hello", true);
    put(ready.join(name(10, "eml")), b"unreadable envelope", true);
    put(ready.join(name(10, "json")), b"{", true);
    put(ready.join(name(11, "json")), b"unreadable, alone", true);
    put(ready.join(name(12, "json")), &json(12), false); // S3
    put(ready.join(name(13, "eml")), b"wrong size", true);
    put(ready.join(name(13, "json")), &json(13), true);
    put(ready.join(name(14, "eml")), b"another's envelope", true);
    put(ready.join(name(14, "json")), &json(15), true);
    put(hold.join(name(16, "json")), &json(16), true); // H3
    put(hold.join(name(17, "eml")), b"", false); // H1
    put(ready.join(name(18, "eml")), b"in both", true);
    put(ready.join(name(18, "json")), &json(18), true);
    put(hold.join(name(18, "json")), &json(18), true);

    let (_spool, recovered) = open(&disk).unwrap();
    let mut left: Vec<PathBuf> = disk.files().into_keys().collect();
    kept.sort();
    left.sort();
    assert_eq!(left, kept);
    let told: Vec<String> = recovered.findings.iter().map(|f| f.one_line()).collect();
    for expected in [
        "README: not a file of gatepost's",
        &format!("{}: cannot read the envelope", name(10, "json")),
        &format!("{}: cannot read the envelope", name(11, "json")),
        &format!("{}: an envelope without its message", name(12, "json")),
        &format!(
            "{}: the message has 10 octets, its envelope says 0",
            name(13, "eml")
        ),
        &format!(
            "{}: cannot read the envelope: it is the envelope of another message",
            name(14, "json")
        ),
        &format!(
            "{}: an envelope in hold whose message is gone",
            name(16, "json")
        ),
        &format!("files of the message {} are in ready and in hold", id(18)),
    ] {
        let found = told.iter().filter(|line| line.contains(expected)).count();
        assert_eq!(found, 1, "{expected} in {told:#?}");
    }
    assert_eq!(told.len(), 8, "{told:#?}");
    assert_eq!(recovered.removed, 2);
}

#[test]
fn a_pair_torn_apart_by_hand_ends_in_hold() {
    let disk = furnished();
    let eml = Path::new(ROOT).join("ready").join(format!("{}.eml", id(1)));
    let content = disk.files()[&eml].clone();
    disk.take(&eml);
    disk.put(
        &Path::new(ROOT).join("hold").join(format!("{}.eml", id(1))),
        &content,
    );
    let (_spool, recovered) = open(&disk).unwrap();
    assert_eq!((recovered.moved, recovered.findings.len()), (1, 1));
    assert_eq!(whole_queue(&disk, "")[&id(1)], (Place::Hold, 500));
}

#[test]
fn one_daemon_per_directory() {
    let disk = ModelDisk::default();
    let first = open(&disk).unwrap();
    let error = open(&disk).unwrap_err();
    assert!(
        matches!(
            error,
            QueueError::Locked {
                process: Some(4711),
                ..
            }
        ),
        "{error}"
    );
    drop(first);
    open(&disk).unwrap();
}

fn real_settings(parent: &tempfile::TempDir) -> SpoolSettings {
    SpoolSettings {
        minimum_free: 0,
        ..SpoolSettings::new(parent.path().join("queue"))
    }
}

#[test]
fn the_real_disk_locks_too_and_says_who_has_it() {
    let parent = tempfile::tempdir().unwrap();
    let settings = real_settings(&parent);
    let first = Spool::open(&settings).unwrap();
    let error = Spool::open(&settings).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the queue directory {} is in use by process {}",
            settings.directory.display(),
            std::process::id()
        )
    );
    drop(first);
    Spool::open(&settings).unwrap();
}

#[test]
fn only_the_owner_can_look_into_the_queue() {
    use std::os::unix::fs::PermissionsExt as _;

    let parent = tempfile::tempdir().unwrap();
    let settings = real_settings(&parent);
    let (spool, _) = Spool::open(&settings).unwrap();
    runtime().block_on(send(&spool, &id(1), 10)).unwrap();
    let root = &settings.directory;
    for (path, mode) in [
        (root.clone(), 0o700),
        (root.join("ready"), 0o700),
        (root.join("hold"), 0o700),
        (root.join("drafts"), 0o700),
        (root.join("ready").join(format!("{}.eml", id(1))), 0o600),
        (root.join("ready").join(format!("{}.json", id(1))), 0o600),
    ] {
        let found = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{}", path.display());
    }
}

#[test]
fn many_messages_at_once_on_the_real_disk() {
    const MESSAGES: usize = 40;
    let parent = tempfile::tempdir().unwrap();
    let settings = real_settings(&parent);
    let (spool, _) = Spool::open(&settings).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let sizes: BTreeMap<MessageId, usize> = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..MESSAGES {
            let spool = spool.clone();
            let size = if number % 4 == 0 { 300_000 } else { 2_000 };
            tasks.spawn(async move {
                let id = spool.next_id(Now::read());
                let receipt = send(&spool, &id, size).await.unwrap();
                assert_eq!((&receipt.id, receipt.size), (&id, size as u64));
                // Half of them also begin one that they give up.
                if number % 2 == 0 {
                    let other = spool.next_id(Now::read());
                    let mut draft = spool.begin(envelope(&other)).await.unwrap();
                    draft.append(&content(&other, size)).await.unwrap();
                }
                (id, size)
            });
        }
        tasks.join_all().await.into_iter().collect()
    });
    drop(runtime);
    assert_eq!(sizes.len(), MESSAGES);

    // Beside the spool, which is still open.
    let directory = QueueDirectory::open(&settings.directory).unwrap();
    let entries = directory.list().unwrap();
    assert!(entries.iter().map(|entry| &entry.id).eq(sizes.keys()));
    for entry in entries {
        let size = sizes[&entry.id];
        assert_eq!(entry.envelope.unwrap().size, size as u64);
        let mut message = Vec::new();
        directory.export(&entry.id, &mut message).unwrap();
        assert!(message == content(&entry.id, size));
        directory.hold(&entry.id).unwrap();
        directory.hold(&entry.id).unwrap();
        assert_eq!(directory.find(&entry.id).unwrap().place, Place::Hold);
        directory.release(&entry.id).unwrap();
        directory.release(&entry.id).unwrap();
        assert_eq!(directory.find(&entry.id).unwrap().place, Place::Ready);
        directory.remove(&entry.id).unwrap();
        let error = directory.remove(&entry.id).unwrap_err();
        assert!(matches!(error, QueueError::Missing { .. }), "{error}");
    }
    drop(spool);
    let (_spool, recovered) = Spool::open(&settings).unwrap();
    assert_eq!(recovered, Recovered::default());
}

#[test]
fn a_header_section_is_what_stands_before_the_empty_line() {
    let parent = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(&real_settings(&parent)).unwrap();
    let directory = QueueDirectory::open(&real_settings(&parent).directory).unwrap();
    let runtime = runtime();
    for (number, (message, header)) in [
        (
            "Subject: x\r\nTo: y\r\n\r\nbody\r\n\r\nmore",
            "Subject: x\r\nTo: y\r\n",
        ),
        ("\r\nbody", ""),
        ("Subject: no body\r\n", "Subject: no body\r\n"),
        ("", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let id = id(number as u128);
        runtime.block_on(async {
            let mut draft = spool.begin(envelope(&id)).await.unwrap();
            draft.append(message.as_bytes()).await.unwrap();
            draft.commit().await.unwrap();
        });
        let found = directory.header_section(&id).unwrap();
        assert_eq!(String::from_utf8(found).unwrap(), header);
    }
}

#[test]
fn ids_only_ever_grow() {
    let (spool, _) = open(&ModelDisk::default()).unwrap();
    let now = Now::read();
    let later = now.after(Duration::from_millis(1));
    let mut last = spool.next_id(now);
    for moment in [now, now, later, later, now, later]
        .into_iter()
        .cycle()
        .take(10_000)
    {
        let next = spool.next_id(moment);
        assert!(next > last, "{next} after {last}");
        last = next;
    }
}
