//! Many messages, one sync; and what those who wait hear when the disk does not do its part.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gatepost::decision::Refusal;
use gatepost::envelope::{MessageId, Receipt};
use gatepost::queue::{QueueError, Spool, SpoolEvent, SpoolSettings};
use gatepost::smtp::reply::Reply;
use tokio::runtime::Runtime;

use crate::model_disk::{Fault, ModelDisk};
use crate::queue_crash::{ROOT, content, envelope, id, runtime, send, settings, whole_queue};

const EIO: i32 = nix::errno::Errno::EIO as i32;
const ENOSPC: i32 = nix::errno::Errno::ENOSPC as i32;

fn stepped(disk: &ModelDisk) -> Spool {
    let disk = Arc::new(disk.clone());
    Spool::open_stepped(&settings(), disk).unwrap().0
}

async fn submit(spool: Spool, id: MessageId, size: usize) -> Result<Receipt, QueueError> {
    let mut draft = spool.begin(envelope(&id)).await?;
    draft.append(&content(&id, size)).await?;
    draft.commit().await
}

type Commit = Pin<Box<dyn Future<Output = Result<Receipt, QueueError>> + Send>>;

/// Commits that have come as far as they come without the spool being turned.
fn waiting(runtime: &Runtime, spool: &Spool, numbers: std::ops::Range<u128>) -> Vec<Commit> {
    let _inside = runtime.enter();
    numbers
        .map(|number| {
            let mut commit: Commit = Box::pin(submit(spool.clone(), id(number), 200));
            let mut context = Context::from_waker(Waker::noop());
            assert!(commit.as_mut().poll(&mut context).is_pending());
            commit
        })
        .collect()
}

fn outcome(commit: &mut Commit) -> Result<Receipt, QueueError> {
    let mut context = Context::from_waker(Waker::noop());
    match commit.as_mut().poll(&mut context) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("nobody has answered"),
    }
}

#[test]
fn one_sync_answers_everybody_who_waits() {
    let disk = ModelDisk::default();
    let (spool, runtime) = (stepped(&disk), runtime());
    // The first makes the segment.
    runtime.block_on(send(&spool, &id(1), 200)).unwrap();
    let before = disk.syncs();
    let mut commits = waiting(&runtime, &spool, 2..12);
    assert!(spool.turn());
    assert_eq!(disk.syncs() - before, 1);
    for commit in &mut commits {
        outcome(commit).unwrap();
    }
    assert_eq!(whole_queue(&disk, "").len(), 11);
    // One message, one sync, too.
    let before = disk.syncs();
    runtime.block_on(send(&spool, &id(12), 200)).unwrap();
    assert_eq!(disk.syncs() - before, 1);
}

#[test]
fn a_checkpoint_costs_two_syncs() {
    let disk = ModelDisk::default();
    let (spool, runtime) = (stepped(&disk), runtime());
    for number in 1..=5 {
        runtime.block_on(send(&spool, &id(number), 200)).unwrap();
    }
    let before = disk.syncs();
    spool.cover().unwrap();
    assert_eq!(disk.syncs() - before, 2, "the file system, and the journal");
}

/// What goes wrong is said once, and so is its end.
#[test]
fn troubles_are_told() {
    for (errno, reply) in [
        (EIO, Reply::storage_failed()),
        (ENOSPC, Reply::storage_full()),
    ] {
        let disk = ModelDisk::default();
        let (spool, runtime) = (stepped(&disk), runtime());
        runtime.block_on(send(&spool, &id(1), 200)).unwrap();
        assert_eq!(spool.take_events(), []);
        for number in 2..5 {
            let mut commits = waiting(&runtime, &spool, number..number + 1);
            // The room is asked for, the name looked at, and then it is written.
            disk.set_fault(Fault::ErrorFrom(2, errno));
            assert!(spool.turn());
            let error = outcome(&mut commits[0]).unwrap_err();
            assert_eq!(Refusal::from(&error).reply, reply);
        }
        disk.set_fault(Fault::None);
        runtime.block_on(send(&spool, &id(9), 200)).unwrap();
        let events = spool.take_events();
        let [
            SpoolEvent::Trouble {
                part: "journal",
                reason,
            },
            SpoolEvent::Recovered { part: "journal" },
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        assert!(reason.contains("/queue/journal/"), "{reason}");
        let queue = whole_queue(&disk, "");
        assert_eq!(queue.into_keys().collect::<Vec<_>>(), [id(1), id(9)]);
    }
}

/// After an error the kernel's memory of a file and the disk may differ, and no later sync would say so.
#[test]
fn a_segment_whose_sync_failed_is_not_written_to_again() {
    let disk = ModelDisk::default();
    let (spool, runtime) = (stepped(&disk), runtime());
    runtime.block_on(send(&spool, &id(1), 200)).unwrap();
    let first = Path::new(ROOT).join("journal/0000000001.segment");
    let second = Path::new(ROOT).join("journal/0000000002.segment");
    let mut commits = waiting(&runtime, &spool, 2..3);
    // The room is asked for, the name looked at, the batch written; then the sync.
    disk.set_fault(Fault::ErrorAt(3, EIO));
    assert!(spool.turn());
    disk.set_fault(Fault::None);
    outcome(&mut commits[0]).unwrap_err();
    let failed = disk.all_files()[&first].clone();
    for number in 3..9 {
        runtime.block_on(send(&spool, &id(number), 200)).unwrap();
    }
    let files = disk.all_files();
    assert!(files[&first] == failed, "it was written to");
    assert!(files.contains_key(&second));
    // Once what it had is covered, it goes.
    spool.cover().unwrap();
    assert!(!disk.all_files().contains_key(&first));
    assert_eq!(whole_queue(&disk, "").len(), 7);
}

/// Of several messages in a batch, those that were placed before the fault are acknowledged, the others refused, and
/// both stay what they are.
#[test]
fn a_fault_in_the_middle_of_placing_divides_the_batch() {
    let mut divided = 0;
    for at in 0..60 {
        let disk = ModelDisk::default();
        let (spool, runtime) = (stepped(&disk), runtime());
        runtime.block_on(send(&spool, &id(1), 200)).unwrap();
        let mut commits = waiting(&runtime, &spool, 2..6);
        disk.set_fault(Fault::ErrorAt(at, EIO));
        while spool.turn() {}
        disk.set_fault(Fault::None);
        let accepted: Vec<MessageId> = (2..6)
            .zip(&mut commits)
            .filter_map(|(number, commit)| outcome(commit).is_ok().then(|| id(number)))
            .collect();
        divided += usize::from(!accepted.is_empty() && accepted.len() < 4);
        let expected: Vec<MessageId> = std::iter::once(id(1)).chain(accepted).collect();
        for disk in [
            disk.copy(),
            disk.crashed_by_chance(0),
            disk.crashed_by_chance(1),
        ] {
            let _spool = stepped(&disk);
            let found: Vec<MessageId> = whole_queue(&disk, "").into_keys().collect();
            assert_eq!(found, expected, "fault at {at}");
        }
    }
    assert!(divided >= 3, "no batch was divided");
}

/// The disk stands still: who is not being written yet is told so after a while, and nothing of it stays.
#[test]
fn nobody_waits_for_ever_for_their_turn() {
    let disk = ModelDisk::default();
    let settings = SpoolSettings {
        commit_timeout: Duration::from_millis(20),
        ..settings()
    };
    let (spool, _) = Spool::open_on(&settings, Arc::new(disk.clone())).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    // Each is a batch of its own, so that the second cannot be on its way with the first.
    let size = 15_000;
    let (first, second) = {
        let _stopped = disk.stop();
        let first = runtime.spawn(submit(spool.clone(), id(1), size));
        let second = runtime.spawn(submit(spool.clone(), id(2), size));
        let (slow, other) = runtime.block_on(async {
            let (mut first, mut second) = (first, second);
            tokio::select! {
                outcome = &mut first => (outcome.unwrap(), second),
                outcome = &mut second => (outcome.unwrap(), first),
            }
        });
        (slow, other)
    };
    let error = first.unwrap_err();
    assert!(matches!(error, QueueError::Slow { .. }), "{error}");
    assert_eq!(Refusal::from(&error).reply, Reply::storage_failed());
    // The one that was being written, if any was by then, comes to its end.
    let second = runtime.block_on(second).unwrap();
    drop((spool, runtime));
    let queued = whole_queue(&disk, "").len();
    assert_eq!(queued, usize::from(second.is_ok()));
}

/// A spool that is closed has nothing left to replay, and takes nothing more.
#[test]
fn closing_covers_everything() {
    let disk = ModelDisk::default();
    let (spool, _) = Spool::open_on(&settings(), Arc::new(disk.clone())).unwrap();
    let runtime = runtime();
    for number in 1..=3 {
        runtime
            .block_on(submit(spool.clone(), id(number), 200))
            .unwrap();
    }
    spool.close();
    let error = runtime
        .block_on(submit(spool.clone(), id(4), 200))
        .unwrap_err();
    assert_eq!(Refusal::from(&error).reply, Reply::storage_failed());
    drop(spool);
    assert_eq!(disk.pending(), 0);
    let disk = disk.crashed_by_chance(0);
    let (_spool, recovered) = Spool::open_stepped(&settings(), Arc::new(disk.clone())).unwrap();
    assert_eq!((recovered.queued, recovered.replayed), (3, 0));
}
