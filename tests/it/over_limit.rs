//! Messages that are held because of `over_limit`: they leave in their order, no faster than the limits allow and as soon
//! as they do, and whatever happens meanwhile each is in the queue once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gatepost::clock::Now;
use gatepost::containment::{By, Cause, Containment, Login};
use gatepost::decision::{Account, Limit, OverLimit, Question, SenderPattern, Verdict};
use gatepost::envelope::{Envelope, Hold, HoldReason, MessageId};
use gatepost::policy::{Limiter, Policy, PolicySettings};
use gatepost::queue::{Afterwards, Place, Released, Spool, SpoolEvent};
use gatepost::server::over_limit::{Release, expect, take_up};

use crate::model_disk::{Fault, ModelDisk};
use crate::queue_crash::{
    Queue, SIZES, at_every_operation, content, drive, each_crash, envelope, id,
    no_envelope_is_alone_in_ready, open, operator, runtime, whole_queue,
};
use crate::queue_release::held_until;

const EIO: i32 = nix::errno::Errno::EIO as i32;
const MINUTE: Duration = Duration::from_secs(60);
const ALICE: &str = "alice@example.org";

/// A queue and its limits, at some time.
struct World {
    disk: ModelDisk,
    spool: Spool,
    limiter: Arc<Limiter>,
    policy: Policy,
    containment: Containment,
    account: Option<Arc<Account>>,
    now: Now,
    /// How often anybody had to be looked after.
    looks: usize,
    /// The state of the limits, across restarts.
    limits: tempfile::TempDir,
}

impl World {
    /// So many messages per hour, and recipients per day.
    fn new(messages_per_hour: u64, recipients_per_day: u64) -> Self {
        let disk = ModelDisk::default();
        let (spool, _) = open(&disk).unwrap();
        let now = Now {
            wall: "2026-11-22T08:00:00Z".parse().unwrap(),
            ..Now::read()
        };
        let limits = tempfile::tempdir().unwrap();
        let (limiter, _) = Limiter::open(&limits_file(&limits), now);
        let limiter = Arc::new(limiter);
        let settings = settings(messages_per_hour, recipients_per_day);
        Self {
            disk,
            spool,
            policy: Policy::new(settings, Arc::clone(&limiter)),
            limiter,
            containment: Containment::default(),
            account: Some(Arc::new(alice())),
            now,
            looks: 0,
            limits,
        }
    }

    /// Hands a message in, as a connection does. Whether it is held.
    fn hand_in(&self, envelope: Envelope, size: usize) -> bool {
        let recipients = envelope.recipients.len() as u64;
        let account = self.account.as_ref().unwrap();
        let question = Question::Message { recipients };
        let is_held = match self.policy.decide(account, question, self.now) {
            Verdict::Allow(_) => false,
            Verdict::Hold(_) => true,
            Verdict::Refuse(refusal) => panic!("{refusal:?}"),
        };
        let committed = runtime().block_on(async {
            let content = content(&envelope.id, size);
            let mut draft = self.spool.begin(envelope).await?;
            for piece in content.chunks(60_000) {
                draft.append(piece).await?;
            }
            if is_held {
                draft.postpone();
            }
            drive(&self.spool, draft.commit()).await
        });
        let receipt = committed.unwrap();
        if is_held {
            self.policy.settle(account, &receipt.id, recipients);
        }
        is_held
    }

    fn send(&self, number: u128) -> bool {
        self.hand_in(envelope(&id(number)), 100)
    }

    /// What the daemon does once a second.
    fn tick(&mut self) -> Vec<MessageId> {
        if !self.policy.backlog().is_due(self.now.wall) {
            return Vec::new();
        }
        self.looks += 1;
        ids(&self.release())
    }

    fn release(&self) -> Vec<Released> {
        let release = Release {
            spool: &self.spool,
            policy: &self.policy,
            containment: &self.containment,
            account: &|name| self.account.clone().filter(|account| account.name == name),
        };
        release.run(self.now)
    }

    /// Ticks, minute by minute, and gives what left in each.
    fn pass(&mut self, minutes: u32) -> Vec<Vec<MessageId>> {
        (0..minutes)
            .map(|_| {
                self.now = self.now.after(MINUTE);
                self.tick()
            })
            .collect()
    }

    /// What a reload does that changes the limits.
    fn reload(&mut self, settings: PolicySettings) {
        self.policy = Policy::new(settings, Arc::clone(&self.limiter));
        self.limiter.backlog().wake_all();
    }

    /// The next process, on this disk, with the limits as they were saved last.
    fn restart_on(self, disk: ModelDisk, settings: PolicySettings) -> Self {
        let Self {
            spool,
            limiter,
            policy,
            limits,
            ..
        } = self;
        drop((spool, limiter, policy));
        let (limiter, findings) = Limiter::open(&limits_file(&limits), self.now);
        assert_eq!(findings, []);
        let limiter = Arc::new(limiter);
        let (spool, _) = open(&disk).unwrap();
        let policy = Policy::new(settings, Arc::clone(&limiter));
        take_up(&policy, &spool.directory()).unwrap();
        Self {
            disk,
            spool,
            limiter,
            policy,
            limits,
            ..self
        }
    }

    fn place(&self, number: u128) -> Option<Place> {
        whole_queue(&self.disk, "")
            .get(&id(number))
            .map(|one| one.0)
    }

    fn hold_of(&self, number: u128) -> Option<Hold> {
        let entry = operator(&self.disk).find(&id(number)).unwrap();
        entry.hold().copied()
    }
}

fn limits_file(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("limits.json")
}

fn settings(messages_per_hour: u64, recipients_per_day: u64) -> PolicySettings {
    let at_most = |number: u64| Limit::AtMost(number.try_into().unwrap());
    PolicySettings {
        messages_per_hour: (at_most(messages_per_hour), None),
        recipients_per_day: (at_most(recipients_per_day), None),
        over_limit: (OverLimit::Hold, None),
        held_messages: (10_000, None),
    }
}

fn alice() -> Account {
    let origin = gatepost::decision::Origin {
        file: PathBuf::from("accounts.toml").as_path().into(),
        line: 1,
    };
    Account {
        name: ALICE.to_owned(),
        enabled: true,
        allow_from: Vec::new(),
        send_as: vec![(SenderPattern::Any, origin.clone())],
        messages_per_hour: None,
        recipients_per_day: None,
        over_limit: None,
        tripwires: None,
        note: None,
        origin,
        credential: None,
        grant: None,
    }
}

fn ids(released: &[Released]) -> Vec<MessageId> {
    released.iter().map(|one| one.id.clone()).collect()
}

/// With 600 an hour, 1800 at once are accepted and gone in three hours: in their order, never more than 600 in an hour,
/// through a restart and a crash, and with nobody looking all the time.
#[test]
fn eighteen_hundred_at_six_hundred_an_hour() {
    let mut world = World::new(600, 2_000);
    let held = (1..=1800).filter(|number| world.send(*number)).count();
    assert_eq!(held, 1200);
    let of = |range: std::ops::RangeInclusive<u128>| range.map(id).collect::<Vec<_>>();
    let in_ready = |world: &World| -> Vec<MessageId> {
        let queue = whole_queue(&world.disk, "");
        assert_eq!(queue.len(), 1800, "none is lost");
        let ready = queue
            .into_iter()
            .filter(|(_, (place, _))| *place == Place::Ready);
        ready.map(|(id, _)| id).collect()
    };
    assert_eq!(in_ready(&world), of(1..=600));
    // Nothing leaves at once, and whoever comes now goes behind.
    assert_eq!(world.tick(), []);

    let mut left = vec![of(1..=600)];
    left.extend(world.pass(40));
    // The process ends in the orderly way, and the next one goes on.
    world.limiter.save().unwrap();
    let disk = world.disk.clone();
    world = world.restart_on(disk, settings(600, 2_000));
    left.extend(world.pass(39));
    assert_eq!(in_ready(&world), of(1..=1200));
    // The power goes.
    world.limiter.save().unwrap();
    let disk = world.disk.crashed_by_chance(7);
    world = world.restart_on(disk, settings(600, 2_000));
    assert_eq!(in_ready(&world), of(1..=1200));
    left.extend(world.pass(101));
    let gone: Vec<MessageId> = left.iter().flatten().cloned().collect();
    assert_eq!(gone, of(1..=1800), "in their order");
    assert_eq!(in_ready(&world), of(1..=1800));
    let counts: Vec<usize> = left.iter().map(Vec::len).collect();
    for (start, hour) in counts.windows(60).enumerate() {
        assert!(hour.iter().sum::<usize>() <= 600, "from minute {start}");
    }
    // Each hour's messages leave as soon as the hour before has gone.
    let minutes: Vec<usize> = (0..counts.len()).filter(|at| counts[*at] > 0).collect();
    assert_eq!(minutes, [0, 61, 122]);
    assert!(world.looks <= 5, "{} looks", world.looks);
    assert_eq!(world.policy.backlog().sum(ALICE).messages, 0);
}

/// Two messages have left, and in an hour two more can: 3 and 4 (which is large); 5 waits for a time as well, 6 for room
/// alone.
fn furnished() -> World {
    let mut world = World::new(2, 1_000);
    let until = world.now.wall + MINUTE * 180;
    assert!(!world.send(1) && !world.send(2) && world.send(3));
    assert!(world.hand_in(envelope(&id(4)), SIZES[1]));
    assert!(world.hand_in(held_until(&id(5), until), 100));
    assert!(world.send(6));
    world.spool.cover().unwrap();
    assert_eq!(world.tick(), []);
    world.now = world.now.after(MINUTE * 61);
    world
}

fn furniture(third: Place, fourth: Place) -> Queue {
    Queue::from([
        (id(1), (Place::Ready, 100)),
        (id(2), (Place::Ready, 100)),
        (id(3), (third, 100)),
        (id(4), (fourth, SIZES[1])),
        (id(5), (Place::Hold, 100)),
        (id(6), (Place::Hold, 100)),
    ])
}

#[test]
fn in_the_order_of_their_acceptance_and_no_sooner() {
    let mut world = furnished();
    assert_eq!(
        whole_queue(&world.disk, ""),
        furniture(Place::Hold, Place::Hold)
    );
    let at_first = Hold::new(HoldReason::OverLimit, None);
    assert_eq!(world.hold_of(3), Some(at_first));
    let released = world.release();
    let first = Released {
        id: id(3),
        account: ALICE.to_owned(),
        from: ALICE.to_owned(),
        reason: HoldReason::OverLimit,
        until: None,
    };
    assert_eq!(released[0], first);
    assert_eq!(ids(&released), [id(3), id(4)]);
    assert_eq!(
        whole_queue(&world.disk, ""),
        furniture(Place::Ready, Place::Ready)
    );
    // The next two have to wait for these. Then one of them has paid, and waits for its time alone.
    let until = world.now.wall + MINUTE * 119;
    assert_eq!(
        world.hold_of(5),
        Some(Hold::new(HoldReason::OverLimit, Some(until)))
    );
    assert_eq!(world.pass(60).concat(), []);
    assert_eq!(world.pass(1).concat(), [id(6)]);
    assert_eq!(
        world.hold_of(5),
        Some(Hold::new(HoldReason::FutureRelease, Some(until)))
    );
    assert!(!world.spool.is_release_due(world.now.wall));
    world.now = world.now.after(MINUTE * 58);
    assert_eq!(ids(&world.spool.release_due(world.now.wall)), [id(5)]);
    assert_eq!(world.tick(), []);
    let used = world.policy.usage(&alice(), world.now);
    assert_eq!(used[0].used, 2, "each has paid once");
}

#[test]
fn a_crash_anywhere_in_a_release() {
    let operations = at_every_operation(Fault::CrashAt, |fault| {
        let world = furnished();
        world.disk.set_fault(fault);
        let released = ids(&world.release());
        let failed = !world.spool.take_events().is_empty();
        no_envelope_is_alone_in_ready(&world.disk, &format!("{fault:?}"));
        let operations = world.disk.operations();
        let World { disk, spool, .. } = world;
        drop(spool);
        each_crash(&disk, |disk, context| {
            let context = format!("{fault:?}, {context}");
            let (spool, recovered) = open(&disk).unwrap();
            assert_eq!(recovered.findings, [], "{context}");
            let queue = whole_queue(&disk, &context);
            let [third, fourth] = [3, 4].map(|number| queue[&id(number)].0);
            assert_eq!(queue, furniture(third, fourth), "{context}");
            if !failed {
                assert_eq!(released, [id(3), id(4)], "{context}");
                assert_eq!([third, fourth], [Place::Ready; 2], "{context}");
            }
            drop(spool);
            // Those that are left still wait, and leave in the same order.
            let fresh = World::new(2, 1_000);
            let mut world = World {
                now: fresh.now.after(MINUTE * 61),
                ..fresh
            }
            .restart_on(disk, settings(2, 1_000));
            let mut left = ids(&world.release());
            left.extend(world.pass(61).concat());
            let waited = queue.iter().filter(|(_, (place, _))| *place == Place::Hold);
            let waited: Vec<MessageId> = waited.map(|(id, _)| id.clone()).collect();
            let without_the_timed = |ids: &[MessageId]| {
                let ids = ids.iter().filter(|one| **one != id(5));
                ids.cloned().collect::<Vec<_>>()
            };
            assert_eq!(left, without_the_timed(&waited), "{context}");
        });
        operations
    });
    assert!(operations >= 10, "the crashes did not reach the release");
}

#[test]
fn an_error_anywhere_in_a_release_delays_it_and_costs_nothing() {
    at_every_operation(
        |at| Fault::ErrorAt(at, EIO),
        |fault| {
            let mut world = furnished();
            world.disk.set_fault(fault);
            let mut released = ids(&world.release());
            let operations = world.disk.operations();
            world.disk.set_fault(Fault::None);
            no_envelope_is_alone_in_ready(&world.disk, &format!("{fault:?}"));
            let events = world.spool.take_events();
            // Not at once.
            assert_eq!(world.tick(), [], "{fault:?}");
            world.now = world.now.after(Duration::from_secs(10));
            released.extend(world.tick());
            assert_eq!(released, [id(3), id(4)], "{fault:?}");
            let free = furniture(Place::Ready, Place::Ready);
            assert_eq!(whole_queue(&world.disk, &format!("{fault:?}")), free);
            let used = world.policy.usage(&alice(), world.now);
            assert_eq!((used[0].used, used[1].used), (2, 4), "{fault:?}");
            if let Fault::ErrorAt(at, _) = fault
                && at < operations
            {
                let is_trouble = matches!(
                    &*events,
                    [SpoolEvent::Trouble {
                        part: "release",
                        ..
                    }]
                );
                assert!(is_trouble, "{events:?}");
            }
            operations
        },
    );
}

#[test]
fn limits_that_were_raised_or_lifted_let_go_at_once() {
    let mut world = World::new(2, 1_000);
    let held = (1..=8).filter(|number| world.send(*number)).count();
    assert_eq!((held, world.tick().len()), (6, 0));
    world.reload(settings(4, 1_000));
    assert_eq!(world.tick(), [id(3), id(4)]);
    // No more are held, and those that are go on.
    world.reload(PolicySettings {
        over_limit: (OverLimit::Refuse, None),
        ..settings(5, 1_000)
    });
    assert_eq!(world.tick(), [id(5)]);
    assert_eq!(world.tick(), []);
    world.reload(PolicySettings {
        messages_per_hour: (Limit::Unlimited, None),
        ..settings(1, 1_000)
    });
    assert_eq!(world.tick(), [id(6), id(7), id(8)]);
    assert!(!world.send(9));
}

/// A limit that was lowered below what one message needs: it leaves when nothing else counts.
#[test]
fn a_message_that_would_not_be_accepted_any_more_leaves_all_the_same() {
    let mut world = World::new(1, 1_000);
    let mut large = envelope(&id(2));
    large.recipients = vec![large.recipients[0].clone(); 50];
    assert!(!world.send(1) && world.hand_in(large, 100) && world.send(3));
    world.reload(settings(1, 10));
    let left = world.pass(26 * 60);
    let minutes: Vec<usize> = (0..left.len()).filter(|at| !left[*at].is_empty()).collect();
    assert_eq!(left.concat(), [id(2)]);
    assert_eq!(
        minutes,
        [24 * 60 + 14],
        "when the first recipient counts no more"
    );
    assert_eq!(world.pass(24 * 60).concat(), [id(3)]);
}

#[test]
fn what_was_accepted_outlives_its_account() {
    let mut world = World::new(1, 1_000);
    assert!(!world.send(1) && world.send(2) && world.send(3));
    let account = world.account.take();
    assert_eq!(world.pass(120).concat(), []);
    let disabled = Account {
        enabled: false,
        ..alice()
    };
    world.account = Some(Arc::new(disabled));
    world.policy.backlog().wake_all();
    assert_eq!(world.pass(120).concat(), []);
    assert!(world.looks <= 4, "{} looks", world.looks);
    assert_eq!([world.place(2), world.place(3)], [Some(Place::Hold); 2]);
    world.account = account;
    world.policy.backlog().wake_all();
    assert_eq!(world.pass(62).concat(), [id(2), id(3)]);
}

#[test]
fn a_contained_account_keeps_what_it_has_and_waits_again_afterwards() {
    let mut world = World::new(1, 1_000);
    let far = world.now.wall + MINUTE * 1_000;
    assert!(!world.send(1) && world.send(2));
    assert!(world.hand_in(held_until(&id(3), far), 100));
    // It is contained from one moment to the next, and its messages are marked a little later.
    let login = Login::new(ALICE.to_owned(), None);
    let cause = Cause::new(By::Operator, "by command", world.now);
    assert!(world.containment.add(&login, cause));
    assert_eq!(world.pass(90).concat(), []);
    let is_theirs = |envelope: &Envelope| envelope.account == ALICE;
    world.spool.directory().contain(is_theirs, true).unwrap();
    for (number, until) in [(2, None), (3, Some(far))] {
        let hold = Hold {
            before: Some(HoldReason::OverLimit),
            ..Hold::new(HoldReason::Contained, until)
        };
        assert_eq!(world.hold_of(number), Some(hold));
    }
    assert_eq!(world.pass(90).concat(), []);
    assert_eq!(world.policy.backlog().sum(ALICE).messages, 0);

    world.containment.remove(&login);
    let directory = world.spool.directory();
    let freed = directory
        .uncontain(is_theirs, Afterwards::Release, world.now.wall)
        .unwrap();
    // What had been queued is queued again; what was held for its limits waits for them.
    assert_eq!(freed.ids, [1, 2, 3].map(id));
    assert_eq!(world.place(1), Some(Place::Ready));
    assert_eq!(
        world.hold_of(2),
        Some(Hold::new(HoldReason::OverLimit, None))
    );
    expect(&world.policy, &freed.over_limit);
    assert_eq!(world.pass(61 + 1).concat(), [id(2)]);
    assert_eq!(
        world.hold_of(3),
        Some(Hold::new(HoldReason::FutureRelease, Some(far)))
    );
}

#[test]
fn the_operator_has_the_last_word() {
    let mut world = World::new(1, 1_000);
    let held = (1..=6).filter(|number| world.send(*number)).count();
    assert_eq!(held, 5);
    let operator = operator(&world.disk);
    operator.hold(&id(2)).unwrap();
    operator.release(&id(3)).unwrap();
    operator.remove(&id(4)).unwrap();
    assert_eq!(world.place(3), Some(Place::Ready));
    // Nobody waits for those.
    assert_eq!(world.pass(61).concat(), [id(5)]);
    assert_eq!(
        world.hold_of(2),
        Some(Hold::new(HoldReason::Operator, None))
    );
    assert_eq!(world.place(4), None);
    operator.release(&id(2)).unwrap();
    assert_eq!(world.pass(61).concat(), [id(6)]);
    assert_eq!(world.policy.backlog().sum(ALICE).messages, 0);
}

/// An envelope that cannot be read, or has lost its message, waits for the operator, and keeps nobody else.
#[test]
fn damage_keeps_nobody_else() {
    let mut world = World::new(1, 1_000);
    let held = (1..=4).filter(|number| world.send(*number)).count();
    assert_eq!(held, 3);
    world.spool.cover().unwrap();
    let file = |number: u128, extension: &str| {
        PathBuf::from(crate::queue_crash::ROOT).join(format!("hold/{}.{extension}", id(number)))
    };
    world.disk.put(&file(2, "json"), b"{");
    world.disk.take(&file(3, "eml"));
    assert_eq!(world.pass(61).concat(), [id(4)]);
    assert!(world.disk.files().contains_key(&file(2, "eml")));
    assert!(world.disk.files().contains_key(&file(3, "json")));
    assert_eq!(world.spool.take_events(), []);
}

/// A clock that is set back does not stop anybody for longer than the limits do.
#[test]
fn the_clock_is_set_back() {
    let mut world = World::new(1, 1_000);
    assert!(!world.send(1) && world.send(2));
    assert_eq!(world.tick(), []);
    let year = Duration::from_secs(365 * 86_400);
    world.now.wall = world.now.wall.checked_sub(year).unwrap();
    assert_eq!(world.pass(62).concat(), [id(2)]);
    assert!(world.looks <= 4, "{} looks", world.looks);
}
