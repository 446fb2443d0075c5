//! Messages that are held until some time: wherever the power goes or the disk fails, each is in `hold/` until then and
//! in `ready/` afterwards, whole and once; and what the operator says about it counts.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use gatepost::clock::Timestamp;
use gatepost::envelope::{Envelope, Hold, HoldReason, MessageId, Receipt};
use gatepost::queue::disk::Disk as _;
use gatepost::queue::{Place, QueueDirectory, QueueError, Released, Spool, SpoolEvent};

use crate::model_disk::{Fault, ModelDisk};
use crate::queue_crash::{
    Queue, ROOT, SIZES, at_every_operation, content, drive, each_crash, envelope, id,
    no_envelope_is_alone_in_ready, open, operator, runtime, send, whole_queue,
};

const EIO: i32 = nix::errno::Errno::EIO as i32;

/// When the messages of these tests are to be released.
fn due() -> Timestamp {
    "2026-11-22T08:00:00Z".parse().unwrap()
}

fn before() -> Timestamp {
    due() - Duration::from_millis(1)
}

/// Past every attempt after the first.
fn later() -> Timestamp {
    due() + Duration::from_secs(3600)
}

pub(crate) fn held_until(id: &MessageId, until: Timestamp) -> Envelope {
    Envelope {
        hold: Some(Hold::new(HoldReason::FutureRelease, Some(until))),
        ..envelope(id)
    }
}

/// Hands in a message with this envelope, as large as this.
pub(crate) async fn send_under(
    spool: &Spool,
    envelope: Envelope,
    size: usize,
) -> Result<Receipt, QueueError> {
    let content = content(&envelope.id, size);
    let mut draft = spool.begin(envelope).await?;
    for piece in content.chunks(3_000) {
        draft.append(piece).await?;
    }
    drive(spool, draft.commit()).await
}

fn send_held(spool: &Spool, number: u128, size: usize) -> Result<(), QueueError> {
    let runtime = runtime();
    let envelope = held_until(&id(number), due());
    let result = runtime.block_on(send_under(spool, envelope, size));
    result.map(drop)
}

fn ids(released: &[Released]) -> Vec<MessageId> {
    released.iter().map(|one| one.id.clone()).collect()
}

/// Releases until nothing more is due.
fn release_all(spool: &Spool, now: Timestamp) -> Vec<MessageId> {
    let mut released = Vec::new();
    for _ in 0..10 {
        if !spool.is_release_due(now) {
            return released;
        }
        released.extend(ids(&spool.release_due(now)));
    }
    panic!("there is no end to it");
}

/// Whether the released ones are these, in whatever order, each once.
fn are(released: &[MessageId], numbers: &[u128]) -> bool {
    let mut released = released.to_vec();
    released.sort();
    released.into_iter().eq(numbers.iter().map(|n| id(*n)))
}

/// A disk with message 1 (small) and 2 (large) held until [`due`], 3 until later, 4 by the operator, and 5 in ready.
/// If it is not covered, the journal is all that is sure to have the small ones.
fn furnished(covered: bool) -> (ModelDisk, Spool) {
    let disk = ModelDisk::default();
    let (spool, _) = open(&disk).unwrap();
    let runtime = runtime();
    for number in [4, 5] {
        runtime.block_on(send(&spool, &id(number), 500)).unwrap();
    }
    operator(&disk).hold(&id(4)).unwrap();
    let next_day = held_until(&id(3), due() + Duration::from_secs(86_400));
    runtime.block_on(send_under(&spool, next_day, 500)).unwrap();
    spool.cover().unwrap();
    send_held(&spool, 2, SIZES[1]).unwrap();
    send_held(&spool, 1, SIZES[0]).unwrap();
    if covered {
        spool.cover().unwrap();
    }
    (disk, spool)
}

fn furniture(first: Place, second: Place) -> Queue {
    Queue::from([
        (id(1), (first, SIZES[0])),
        (id(2), (second, SIZES[1])),
        (id(3), (Place::Hold, 500)),
        (id(4), (Place::Hold, 500)),
        (id(5), (Place::Ready, 500)),
    ])
}

#[test]
fn a_message_is_released_at_its_time_and_once() {
    for covered in [false, true] {
        let (disk, spool) = furnished(covered);
        let held = furniture(Place::Hold, Place::Hold);
        assert_eq!(whole_queue(&disk, ""), held);
        assert!(!spool.is_release_due(before()));
        assert_eq!(spool.release_due(before()), []);
        assert_eq!(whole_queue(&disk, ""), held);

        assert!(spool.is_release_due(due()));
        let released = spool.release_due(due());
        let first = Released {
            id: id(1),
            account: "alice@example.org".to_owned(),
            from: "alice@example.org".to_owned(),
            reason: HoldReason::FutureRelease,
            until: Some(due()),
        };
        assert_eq!(released.first(), Some(&first));
        assert!(are(&ids(&released), &[1, 2]), "{released:?}");
        let free = furniture(Place::Ready, Place::Ready);
        assert_eq!(whole_queue(&disk, ""), free);

        assert!(!spool.is_release_due(later()));
        assert_eq!(spool.release_due(later()), []);
        assert_eq!(spool.take_events(), []);
        // The next process has nothing to add.
        drop(spool);
        let (spool, recovered) = open(&disk).unwrap();
        assert_eq!((recovered.queued, recovered.held), (3, 2));
        assert!(!spool.is_release_due(later()));
        assert_eq!(whole_queue(&disk, ""), free);
    }
}

#[test]
fn what_came_due_while_nobody_was_there_is_released_late() {
    let (disk, spool) = furnished(true);
    drop(spool);
    let (spool, _) = open(&disk).unwrap();
    let year = due() + Duration::from_secs(400 * 86_400);
    assert!(are(&release_all(&spool, year), &[1, 2, 3]));
    // The clock is set back: what is released stays so.
    assert!(!spool.is_release_due(before()));
    assert_eq!(whole_queue(&disk, "")[&id(3)], (Place::Ready, 500));
    assert_eq!(whole_queue(&disk, "")[&id(4)], (Place::Hold, 500));
}

#[test]
fn a_crash_anywhere_in_the_commit_of_a_held_message() {
    for size in SIZES {
        let operations = at_every_operation(Fault::CrashAt, |fault| {
            let disk = ModelDisk::default();
            let (spool, _) = open(&disk).unwrap();
            disk.set_fault(fault);
            let result = send_held(&spool, 1, size);
            drop(spool);
            let operations = disk.operations();
            each_crash(&disk, |disk, context| {
                let context = format!("{size} octets, {fault:?}, {context}");
                let (spool, _) = open(&disk).unwrap();
                let queue = whole_queue(&disk, &context);
                assert_eq!(release_all(&spool, before()), [], "{context}");
                match queue.get(&id(1)) {
                    Some(found) => assert_eq!(*found, (Place::Hold, size), "{context}"),
                    None => assert!(result.is_err(), "{context}: acknowledged and lost"),
                }
                let released = release_all(&spool, due());
                assert!(released.iter().eq(queue.keys()), "{context}: {released:?}");
                let place = whole_queue(&disk, &context).get(&id(1)).copied();
                let expected = queue.get(&id(1)).map(|_| (Place::Ready, size));
                assert_eq!(place, expected, "{context}");
            });
            operations
        });
        assert!(operations >= 10, "the crashes did not reach the commit");
    }
}

#[test]
fn an_error_anywhere_in_the_commit_of_a_held_message() {
    for size in SIZES {
        at_every_operation(
            |at| Fault::ErrorAt(at, EIO),
            |fault| {
                let context = format!("{size} octets, {fault:?}");
                let disk = ModelDisk::default();
                let (spool, _) = open(&disk).unwrap();
                disk.set_fault(fault);
                let result = send_held(&spool, 1, size);
                let operations = disk.operations();
                disk.set_fault(Fault::None);
                spool.turn();
                let queue = whole_queue(&disk, &context);
                let expected = result.is_ok().then_some((Place::Hold, size));
                assert_eq!(queue.get(&id(1)).copied(), expected, "{context}");
                each_crash(&disk, |disk, crash| {
                    let context = format!("{context}, {crash}");
                    let (spool, _) = open(&disk).unwrap();
                    assert_eq!(whole_queue(&disk, &context), queue, "{context}");
                    assert!(
                        release_all(&spool, due()).iter().eq(queue.keys()),
                        "{context}"
                    );
                });
                assert!(
                    release_all(&spool, due()).iter().eq(queue.keys()),
                    "{context}"
                );
                operations
            },
        );
    }
}

#[test]
fn a_crash_anywhere_in_a_release() {
    for covered in [false, true] {
        let operations = at_every_operation(Fault::CrashAt, |fault| {
            let (disk, spool) = furnished(covered);
            disk.set_fault(fault);
            let released = ids(&spool.release_due(due()));
            let failed = !spool.take_events().is_empty();
            no_envelope_is_alone_in_ready(&disk, &format!("{fault:?}"));
            let operations = disk.operations();
            drop(spool);
            each_crash(&disk, |disk, context| {
                let context = format!("covered {covered}, {fault:?}, {context}");
                let (spool, recovered) = open(&disk).unwrap();
                assert_eq!(recovered.findings, [], "{context}");
                let queue = whole_queue(&disk, &context);
                let [first, second] = [1, 2].map(|number| queue[&id(number)].0);
                assert_eq!(queue, furniture(first, second), "{context}");
                if !failed {
                    assert!(are(&released, &[1, 2]), "{context}: {released:?}");
                    assert_eq!([first, second], [Place::Ready; 2], "{context}");
                }
                // Nothing happens but by its time, and then it happens.
                assert_eq!(release_all(&spool, before()), [], "{context}");
                assert_eq!(whole_queue(&disk, &context), queue, "{context}");
                release_all(&spool, due());
                let free = furniture(Place::Ready, Place::Ready);
                assert_eq!(whole_queue(&disk, &context), free, "{context}");
            });
            operations
        });
        assert!(operations >= 10, "the crashes did not reach the release");
    }
}

#[test]
fn an_error_anywhere_in_a_release_delays_it() {
    at_every_operation(
        |at| Fault::ErrorAt(at, EIO),
        |fault| {
            let (disk, spool) = furnished(true);
            disk.set_fault(fault);
            let mut released = ids(&spool.release_due(due()));
            let operations = disk.operations();
            disk.set_fault(Fault::None);
            no_envelope_is_alone_in_ready(&disk, &format!("{fault:?}"));
            let failed = spool.take_events();
            released.extend(ids(&spool.release_due(later())));
            assert!(are(&released, &[1, 2]), "{fault:?}: {released:?}");
            let free = furniture(Place::Ready, Place::Ready);
            assert_eq!(whole_queue(&disk, &format!("{fault:?}")), free);
            if let Fault::ErrorAt(at, _) = fault
                && at < operations
            {
                let trouble = |event: &SpoolEvent| {
                    matches!(
                        event,
                        SpoolEvent::Trouble {
                            part: "release",
                            ..
                        }
                    )
                };
                assert!(matches!(&*failed, [event] if trouble(event)), "{failed:?}");
                let part = "release";
                assert_eq!(spool.take_events(), [SpoolEvent::Recovered { part }]);
            }
            operations
        },
    );
}

/// A command of the operator's for message 1, and what may become of that: its place now, and after its time.
type Command = (
    fn(&QueueDirectory, &MessageId) -> Result<(), QueueError>,
    Option<Place>,
    Option<Place>,
);

const COMMANDS: [Command; 3] = [
    (QueueDirectory::hold, Some(Place::Hold), Some(Place::Hold)),
    (
        QueueDirectory::release,
        Some(Place::Ready),
        Some(Place::Ready),
    ),
    (QueueDirectory::remove, None, None),
];

#[test]
fn a_crash_anywhere_in_a_command_about_a_held_message() {
    for (covered, (command, now, then)) in [false, true]
        .into_iter()
        .flat_map(|covered| COMMANDS.map(|command| (covered, command)))
    {
        at_every_operation(Fault::CrashAt, |fault| {
            let (disk, spool) = furnished(covered);
            let directory = operator(&disk);
            disk.set_fault(fault);
            let result = command(&directory, &id(1));
            let operations = disk.operations();
            drop(spool);
            each_crash(&disk, |disk, context| {
                let context = format!("covered {covered}, to {now:?}, {fault:?}, {context}");
                let (spool, recovered) = open(&disk).unwrap();
                assert_eq!(recovered.findings, [], "{context}");
                let place = |disk| whole_queue(disk, &context).get(&id(1)).map(|one| one.0);
                let found = place(&disk);
                let as_before = result.is_err() && found == Some(Place::Hold);
                assert!(found == now || as_before, "{context}: {found:?}");
                let released = release_all(&spool, due());
                assert!(released.contains(&id(2)), "{context}: {released:?}");
                let found = place(&disk);
                let as_before = result.is_err() && found == Some(Place::Ready);
                assert!(found == then || as_before, "{context}: {found:?}");
            });
            operations
        });
    }
}

#[test]
fn what_the_operator_holds_is_not_released_by_time() {
    let (disk, spool) = furnished(false);
    let directory = operator(&disk);
    directory.hold(&id(1)).unwrap();
    // A command that failed half-way can be given again.
    disk.put(
        &Path::new(ROOT).join(format!("drafts/{}.hold", id(2))),
        b"{",
    );
    directory.hold(&id(2)).unwrap();
    directory.hold(&id(2)).unwrap();
    for number in [1, 2] {
        let envelope = directory.find(&id(number)).unwrap().envelope.unwrap();
        let hold = Hold::new(HoldReason::Operator, None);
        assert_eq!(envelope.hold, Some(hold));
    }
    assert_eq!(release_all(&spool, later()), []);
    drop(spool);
    let (spool, _) = open(&disk).unwrap();
    assert_eq!(release_all(&spool, later()), []);
    assert_eq!(whole_queue(&disk, ""), furniture(Place::Hold, Place::Hold));

    // It goes when the operator lets it, and what was released once does not go by its old time again.
    directory.release(&id(1)).unwrap();
    assert_eq!(whole_queue(&disk, ""), furniture(Place::Ready, Place::Hold));
    let (disk, spool) = furnished(false);
    let directory = operator(&disk);
    assert!(are(&release_all(&spool, due()), &[1, 2]));
    directory.hold(&id(1)).unwrap();
    drop(spool);
    let (spool, _) = open(&disk).unwrap();
    assert_eq!(release_all(&spool, later()), []);
    assert_eq!(whole_queue(&disk, ""), furniture(Place::Hold, Place::Ready));
}

#[test]
fn fields_that_nobody_knows_stay_in_an_envelope_that_is_changed() {
    let (disk, _spool) = furnished(true);
    let path = Path::new(ROOT).join(format!("hold/{}.json", id(1)));
    let text = String::from_utf8(disk.files()[&path].clone()).unwrap();
    disk.put(
        &path,
        text.replacen('{', r#"{"some_day":[3],"#, 1).as_bytes(),
    );
    operator(&disk).hold(&id(1)).unwrap();
    let changed: serde_json::Value = serde_json::from_slice(&disk.files()[&path]).unwrap();
    let mut expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    expected["some_day"] = serde_json::json!([3]);
    expected["hold"] = serde_json::json!({"reason": "operator"});
    assert_eq!(changed, expected);
}

#[test]
fn what_was_released_and_taken_does_not_come_back_after_a_kill() {
    let (disk, spool) = furnished(false);
    assert!(are(&release_all(&spool, due()), &[1, 2]));
    for number in [1, 2] {
        for extension in ["json", "eml"] {
            let name = format!("ready/{}.{extension}", id(number));
            disk.remove_file(&Path::new(ROOT).join(name)).unwrap();
        }
    }
    // Whatever a spool does when it is dropped, a killed one does not.
    let killed = disk.copy();
    disk.set_fault(Fault::CrashAt(0));
    drop(spool);
    let (spool, _) = open(&killed).unwrap();
    assert_eq!(release_all(&spool, later()), []);
    let left: BTreeSet<MessageId> = whole_queue(&killed, "").into_keys().collect();
    assert_eq!(left, [3, 4, 5].map(id).into());
}

#[test]
fn one_that_cannot_be_released_does_not_keep_the_others() {
    let (disk, spool) = furnished(true);
    let hold = Path::new(ROOT).join("hold");
    disk.put(&hold.join(format!("{}.json", id(1))), b"{");
    assert!(are(&ids(&spool.release_due(due())), &[2]));
    let events = spool.take_events();
    let [
        SpoolEvent::Trouble {
            part: "release",
            reason,
        },
    ] = &*events
    else {
        panic!("{events:?}")
    };
    assert!(reason.contains(&format!("{}.json", id(1))), "{reason}");
    // It is tried again, and not all the time.
    assert!(!spool.is_release_due(due()));
    assert!(spool.is_release_due(later()));
    assert_eq!(spool.release_due(later()), []);
    assert_eq!(spool.take_events(), []);
    // An envelope alone does not go to ready either.
    disk.put(
        &hold.join(format!("{}.json", id(1))),
        &serde_json::to_vec(&held_until(&id(1), due())).unwrap(),
    );
    disk.take(&hold.join(format!("{}.eml", id(1))));
    let latest = later() + Duration::from_secs(3600);
    assert_eq!(spool.release_due(latest), []);
    assert!(
        disk.files()
            .contains_key(&hold.join(format!("{}.json", id(1))))
    );
}

#[test]
fn the_envelope_decides_when() {
    let (disk, spool) = furnished(true);
    let path = Path::new(ROOT).join(format!("hold/{}.json", id(1)));
    let mut envelope: serde_json::Value = serde_json::from_slice(&disk.files()[&path]).unwrap();
    envelope["hold"]["until"] = "2026-11-22T09:00:00Z".into();
    disk.put(&path, envelope.to_string().as_bytes());
    assert!(are(&release_all(&spool, due()), &[2]));
    assert_eq!(release_all(&spool, later() - Duration::from_secs(1)), []);
    assert!(are(&release_all(&spool, later()), &[1]));
}

/// What is written anew after a sync of the file system that failed is the message as the journal has it; what the
/// operator said since is not in there.
#[test]
fn a_checkpoint_that_failed_takes_nothing_back() {
    at_every_operation(
        |at| Fault::ErrorAt(at, EIO),
        |fault| {
            let (disk, spool) = furnished(false);
            operator(&disk).hold(&id(1)).unwrap();
            disk.set_fault(fault);
            let _ = spool.cover();
            let operations = disk.operations();
            disk.set_fault(Fault::None);
            spool.cover().unwrap();
            each_crash(&disk, |disk, context| {
                let context = format!("{fault:?}, {context}");
                let (spool, _) = open(&disk).unwrap();
                assert!(are(&release_all(&spool, due()), &[2]), "{context}");
                let expected = furniture(Place::Hold, Place::Ready);
                assert_eq!(whole_queue(&disk, &context), expected, "{context}");
            });
            operations
        },
    );
}
