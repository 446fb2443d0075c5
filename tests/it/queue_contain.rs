//! Messages of somebody who is contained: wherever the power goes or the disk fails, none of them stays in `ready/`, and
//! when it is over each is where it was; what the operator held stays held.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gatepost::clock::{Now, Timestamp};
use gatepost::containment::{By, CONTAINED_FILE, Cause, Containment, Login};
use gatepost::control::HeldMail;
use gatepost::envelope::{Envelope, Hold, HoldReason, MessageId};
use gatepost::queue::{Afterwards, Freed, Place, QueueDirectory, QueueError, Spool};
use gatepost::server::containment::Parts;

use crate::model_disk::{Fault, ModelDisk};
use crate::queue_crash::{
    Queue, ROOT, SIZES, at_every_operation, each_crash, id, no_envelope_is_alone_in_ready, open,
    operator, runtime, send, whole_queue,
};
use crate::queue_release::{held_until, send_under};

const EIO: i32 = nix::errno::Errno::EIO as i32;
const ENOSPC: i32 = nix::errno::Errno::ENOSPC as i32;

/// The one that is somebody else's.
const OTHER: u128 = 6;

fn due() -> Timestamp {
    "2026-11-22T08:00:00Z".parse().unwrap()
}

fn before() -> Timestamp {
    due() - Duration::from_secs(1)
}

fn theirs(envelope: &Envelope) -> bool {
    envelope.id != id(OTHER)
}

/// A disk with messages 1 (small) and 2 (large) in ready, 3 held until [`due`], 4 by the operator, 5 held and released by
/// the operator, and somebody else's.
fn furnished(covered: bool) -> (ModelDisk, Spool) {
    let disk = ModelDisk::default();
    let (spool, _) = open(&disk).unwrap();
    let runtime = runtime();
    for number in [4, 5, OTHER] {
        runtime.block_on(send(&spool, &id(number), 500)).unwrap();
    }
    let operator = operator(&disk);
    operator.hold(&id(4)).unwrap();
    operator.hold(&id(5)).unwrap();
    operator.release(&id(5)).unwrap();
    spool.cover().unwrap();
    let later = held_until(&id(3), due());
    runtime.block_on(send_under(&spool, later, 500)).unwrap();
    for (number, size) in [(1, SIZES[0]), (2, SIZES[1])] {
        runtime.block_on(send(&spool, &id(number), size)).unwrap();
    }
    if covered {
        spool.cover().unwrap();
    }
    (disk, spool)
}

/// Where they are: 1, 2 and 5; the others do not move.
fn furniture(places: [Place; 3]) -> Queue {
    let [first, second, fifth] = places;
    Queue::from([
        (id(1), (first, SIZES[0])),
        (id(2), (second, SIZES[1])),
        (id(3), (Place::Hold, 500)),
        (id(4), (Place::Hold, 500)),
        (id(5), (fifth, 500)),
        (id(OTHER), (Place::Ready, 500)),
    ])
}

const FREE: [Place; 3] = [Place::Ready; 3];
const WITHHELD: [Place; 3] = [Place::Hold; 3];

fn hold_of(disk: &ModelDisk, number: u128) -> Option<Hold> {
    let entry = operator(disk).find(&id(number)).unwrap();
    entry.envelope.unwrap().hold
}

/// All of theirs are held, each for the reason that is the right one.
fn are_withheld(disk: &ModelDisk, context: &str) {
    assert_eq!(whole_queue(disk, context), furniture(WITHHELD), "{context}");
    for number in [1, 2, 5] {
        let expected = Hold::new(HoldReason::Contained, None);
        assert_eq!(hold_of(disk, number), Some(expected), "{number}, {context}");
    }
    let waiting = Hold {
        before: Some(HoldReason::FutureRelease),
        ..Hold::new(HoldReason::Contained, Some(due()))
    };
    assert_eq!(hold_of(disk, 3), Some(waiting), "{context}");
    let operators = Hold::new(HoldReason::Operator, None);
    assert_eq!(hold_of(disk, 4), Some(operators), "{context}");
}

/// All is as it was.
fn are_free(disk: &ModelDisk, context: &str) {
    assert_eq!(whole_queue(disk, context), furniture(FREE), "{context}");
    let waiting = Hold::new(HoldReason::FutureRelease, Some(due()));
    assert_eq!(hold_of(disk, 3), Some(waiting), "{context}");
    let operators = Hold::new(HoldReason::Operator, None);
    assert_eq!(hold_of(disk, 4), Some(operators), "{context}");
}

fn let_go(directory: &QueueDirectory) -> Result<Freed, QueueError> {
    directory.uncontain(theirs, Afterwards::Release, before())
}

#[test]
fn what_is_withheld_comes_back_and_nothing_else_does() {
    for covered in [false, true] {
        let (disk, _spool) = furnished(covered);
        are_free(&disk, "before");
        let held = operator(&disk).contain(theirs, true).unwrap();
        assert_eq!(held, [1, 2, 3, 4, 5].map(id));
        are_withheld(&disk, "contained");
        assert_eq!(operator(&disk).contain(theirs, false).unwrap(), held);
        are_withheld(&disk, "again");
        let freed = let_go(&operator(&disk)).unwrap();
        assert_eq!(freed.ids, [1, 2, 3, 5].map(id));
        assert_eq!(freed.waiting, [(due(), id(3))]);
        are_free(&disk, "free");
        assert_eq!(let_go(&operator(&disk)).unwrap(), Freed::default());
    }
}

#[test]
fn a_crash_anywhere_while_messages_are_withheld() {
    for covered in [false, true] {
        let operations = at_every_operation(Fault::CrashAt, |fault| {
            let (disk, spool) = furnished(covered);
            let directory = operator(&disk);
            disk.set_fault(fault);
            let result = directory.contain(theirs, true);
            let operations = disk.operations();
            no_envelope_is_alone_in_ready(&disk, &format!("{fault:?}"));
            drop(spool);
            each_crash(&disk, |disk, context| {
                let context = format!("covered {covered}, {fault:?}, {context}");
                let (spool, recovered) = open(&disk).unwrap();
                assert_eq!(recovered.findings, [], "{context}");
                if result.is_ok() {
                    are_withheld(&disk, &context);
                }
                // What a start does, for those who are contained.
                operator(&disk).contain(theirs, false).unwrap();
                are_withheld(&disk, &context);
                let freed = let_go(&operator(&disk)).unwrap();
                spool.expect_release(&freed);
                are_free(&disk, &context);
                assert!(!spool.is_release_due(before()) && spool.is_release_due(due()));
            });
            operations
        });
        assert!(operations >= 30, "the crashes did not reach the work");
    }
}

#[test]
fn a_crash_anywhere_while_messages_are_let_go() {
    let operations = at_every_operation(Fault::CrashAt, |fault| {
        let (disk, spool) = furnished(true);
        let directory = operator(&disk);
        directory.contain(theirs, true).unwrap();
        disk.set_fault(fault);
        let result = let_go(&directory);
        let operations = disk.operations();
        no_envelope_is_alone_in_ready(&disk, &format!("{fault:?}"));
        drop(spool);
        each_crash(&disk, |disk, context| {
            let context = format!("{fault:?}, {context}");
            let (_spool, recovered) = open(&disk).unwrap();
            assert_eq!(recovered.findings, [], "{context}");
            if result.is_ok() {
                are_free(&disk, &context);
            }
            // The command is given again.
            let_go(&operator(&disk)).unwrap();
            are_free(&disk, &context);
        });
        operations
    });
    assert!(operations >= 20, "the crashes did not reach the work");
}

#[test]
fn an_error_anywhere_is_made_good_by_the_same_again() {
    for error in [EIO, ENOSPC] {
        at_every_operation(
            |at| Fault::ErrorAt(at, error),
            |fault| {
                let context = format!("{fault:?}");
                let (disk, _spool) = furnished(true);
                let directory = operator(&disk);
                disk.set_fault(fault);
                let result = directory.contain(theirs, true);
                let operations = disk.operations();
                disk.set_fault(Fault::None);
                no_envelope_is_alone_in_ready(&disk, &context);
                if result.is_ok() {
                    are_withheld(&disk, &context);
                }
                operator(&disk).contain(theirs, false).unwrap();
                are_withheld(&disk, &context);
                disk.set_fault(fault);
                let _ = let_go(&directory);
                let operations = operations.max(disk.operations());
                disk.set_fault(Fault::None);
                no_envelope_is_alone_in_ready(&disk, &context);
                let_go(&operator(&disk)).unwrap();
                are_free(&disk, &context);
                operations
            },
        );
    }
}

/// What somebody has moved to hold by hand has no mark; it was there before.
#[test]
fn what_was_held_by_hand_is_not_let_go() {
    let (disk, _spool) = furnished(true);
    for extension in ["json", "eml"] {
        let name = format!("{}.{extension}", id(1));
        let (ready, hold) = (
            Path::new(ROOT).join("ready").join(&name),
            Path::new(ROOT).join("hold").join(&name),
        );
        let content = disk.files()[&ready].clone();
        disk.put(&hold, &content);
        disk.take(&ready);
    }
    operator(&disk).contain(theirs, true).unwrap();
    operator(&disk).contain(theirs, false).unwrap();
    let freed = let_go(&operator(&disk)).unwrap();
    assert_eq!(freed.ids, [2, 3, 5].map(id));
    assert_eq!(whole_queue(&disk, "")[&id(1)].0, Place::Hold);
}

/// One message that cannot be moved is no reason to let the others go.
#[test]
fn what_is_in_the_way_of_one_is_in_nobody_elses_way() {
    let (disk, _spool) = furnished(true);
    let in_the_way = Path::new(ROOT).join(format!("hold/{}.json", id(1)));
    disk.put(&in_the_way, b"something else");
    let result = operator(&disk).contain(theirs, true);
    assert!(
        matches!(result, Err(QueueError::Exists { .. })),
        "{result:?}"
    );
    let place = |number| operator(&disk).find(&id(number)).unwrap().place;
    assert_eq!([2, 5].map(place), [Place::Hold; 2]);
    disk.take(&in_the_way);
    operator(&disk).contain(theirs, false).unwrap();
    are_withheld(&disk, "the way is free");

    // And back.
    let in_the_way = Path::new(ROOT).join(format!("ready/{}.json", id(1)));
    disk.put(&in_the_way, b"something else");
    let result = let_go(&operator(&disk));
    assert!(
        matches!(result, Err(QueueError::Exists { .. })),
        "{result:?}"
    );
    disk.take(&in_the_way);
    let place = |number| operator(&disk).find(&id(number)).unwrap().place;
    assert_eq!([2, 5].map(place), [Place::Ready; 2]);
    let_go(&operator(&disk)).unwrap();
    are_free(&disk, "the way is free again");
}

/// The time of a message comes between our look into ready and our look into hold.
#[test]
fn what_is_released_meanwhile_is_withheld_all_the_same() {
    let (disk, spool) = furnished(true);
    let theirs_and_late = |envelope: &Envelope| {
        if envelope.id == id(1) {
            spool.release_due(due());
        }
        theirs(envelope)
    };
    let held = operator(&disk).contain(theirs_and_late, true).unwrap();
    assert_eq!(held, [1, 2, 3, 4, 5].map(id));
    assert_eq!(whole_queue(&disk, ""), furniture(WITHHELD));
    assert!(!spool.is_release_due(due() + Duration::from_secs(3600)));
    let freed = operator(&disk).uncontain(theirs, Afterwards::Release, due());
    assert_eq!(freed.unwrap().ids, [1, 2, 3, 5].map(id));
    assert_eq!(whole_queue(&disk, "")[&id(3)].0, Place::Ready);
}

/// What the operator says while messages are let go counts.
#[test]
fn what_the_operator_holds_or_removes_meanwhile_is_not_let_go() {
    type Command = fn(&QueueDirectory, &MessageId) -> Result<(), QueueError>;
    let commands: [(Command, Option<Place>); 3] = [
        (QueueDirectory::hold, Some(Place::Hold)),
        (QueueDirectory::remove, None),
        (QueueDirectory::release, Some(Place::Ready)),
    ];
    for (command, place) in commands {
        for afterwards in [Afterwards::Release, Afterwards::Remove] {
            let (disk, _spool) = furnished(true);
            operator(&disk).contain(theirs, true).unwrap();
            let theirs_and_then = |envelope: &Envelope| {
                if envelope.id == id(2) {
                    command(&operator(&disk), &id(1)).unwrap();
                }
                theirs(envelope)
            };
            let freed = operator(&disk).uncontain(theirs_and_then, afterwards, before());
            assert!(freed.unwrap().ids.contains(&id(1)));
            if afterwards == Afterwards::Release {
                let queue = whole_queue(&disk, "");
                assert_eq!(queue.get(&id(1)).map(|one| one.0), place);
                assert_eq!(queue[&id(2)].0, Place::Ready);
            }
        }
    }
}

#[test]
fn they_can_be_kept_or_removed() {
    let (disk, _spool) = furnished(true);
    operator(&disk).contain(theirs, true).unwrap();
    let keep = operator(&disk).uncontain(theirs, Afterwards::Keep, before());
    assert_eq!(keep.unwrap().ids, [1, 2, 3, 5].map(id));
    assert_eq!(whole_queue(&disk, ""), furniture(WITHHELD));
    assert_eq!(let_go(&operator(&disk)).unwrap(), Freed::default());

    let (disk, _spool) = furnished(true);
    operator(&disk).contain(theirs, true).unwrap();
    let removed = operator(&disk).uncontain(theirs, Afterwards::Remove, before());
    assert_eq!(removed.unwrap().ids, [1, 2, 3, 5].map(id));
    let left: Vec<MessageId> = whole_queue(&disk, "").into_keys().collect();
    assert_eq!(left, [4, OTHER].map(id));
}

/// The message that was being committed when its sender was contained.
#[test]
fn one_message_alone() {
    let operations = at_every_operation(Fault::CrashAt, |fault| {
        let (disk, spool) = furnished(true);
        operator(&disk)
            .contain(|envelope| theirs(envelope) && envelope.id != id(2), true)
            .unwrap();
        let directory = operator(&disk);
        disk.set_fault(fault);
        let result = directory.contain_one(&id(2));
        let operations = disk.operations();
        drop(spool);
        each_crash(&disk, |disk, context| {
            let context = format!("{fault:?}, {context}");
            let _spool = open(&disk).unwrap();
            if result.is_ok() {
                are_withheld(&disk, &context);
            }
            operator(&disk).contain(theirs, false).unwrap();
            are_withheld(&disk, &context);
        });
        operations
    });
    assert!(operations >= 6, "the crashes did not reach the work");
}

/// Who is contained is in one file, and what is held in many: that one cannot be written keeps nobody from the others.
#[test]
fn a_file_that_cannot_be_written_lets_nothing_go() {
    let (disk, _spool) = furnished(true);
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("not there yet");
    let containment = Containment::open(&directory.join(CONTAINED_FILE)).unwrap();
    let parts = Parts {
        containment: Arc::new(containment),
        history: Arc::default(),
        queue: operator(&disk),
    };
    let (login, now) = (Login::new("alice@example.org", None), Now::read());
    let cause = || Cause::new(By::Operator, "by hand", now);
    let trouble = parts.contain(&login, cause(), now).unwrap_err();
    assert!(
        trouble.to_string().contains("cannot be written"),
        "{trouble}"
    );
    let places = |disk: &ModelDisk| whole_queue(disk, "").into_values().map(|one| one.0);
    assert!(places(&disk).all(|place| place == Place::Hold));
    std::fs::create_dir(&directory).unwrap();
    let report = parts.contain(&login, cause(), now).unwrap();
    assert!(report.already && directory.join(CONTAINED_FILE).exists());

    // What could not be let go at once is let go by the same command, and then there is nothing left.
    disk.set_fault(Fault::ErrorAt(20, EIO));
    parts.uncontain(&login, HeldMail::Release, now).unwrap_err();
    disk.set_fault(Fault::None);
    let (report, _) = parts.uncontain(&login, HeldMail::Release, now).unwrap();
    assert_eq!(report.ended, []);
    let in_ready = places(&disk).filter(|place| *place == Place::Ready);
    assert_eq!(in_ready.count(), 4);
    let trouble = parts.uncontain(&login, HeldMail::Release, now).unwrap_err();
    assert!(
        trouble.to_string().ends_with("is not contained"),
        "{trouble}"
    );
}
