//! Password checks off the runtime's threads, within a budget of memory, processors and waiting logins.
//!
//! A check takes its permits before it begins and its closure owns them until it ends: a client that goes away frees
//! nothing early, so no number of dropped connections can make more checks run than the budget allows. The memory of a
//! finished check is kept for the next one of the same size, which halves its cost; what is kept counts towards the
//! budget too.
//!
//! Whoever waits is served by standing first and by arrival second ([`Line`]): those who are known go before those who
//! have never been seen, and those come before suspects. A line that is full makes room for somebody better at the
//! expense of the last of the worst, one address cannot fill it, and suspects leave a processor to the others.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argon2::Block;
use tokio::sync::oneshot;

use super::password::HashingFailed;
use super::stored::Stored;
use crate::decision::{Caller, Standing, Unavailable};
use crate::event::limit_key;
use crate::secret::Secret;

/// How long a login waits for its turn at the most. Clients wait minutes for the reply to a command, people do not.
const PATIENCE: Duration = Duration::from_secs(30);
/// The part of the line that strangers at one address may take: a sixteenth.
const SHARE_OF_ADDRESS: usize = 16;
/// The least that one address may take, however short the line is.
const PLACES_OF_ADDRESS_MIN: usize = 4;

/// The budget, and the checks that run within it.
pub(super) struct Hasher {
    memory_kib_max: u32,
    line: Arc<Mutex<Line>>,
    pool: Arc<Mutex<Pool>>,
    /// How many checks there have been.
    #[cfg(test)]
    checks: std::sync::atomic::AtomicUsize,
}

impl Hasher {
    /// A budget of `memory_kib_max` KiB, one check for each processor at a time, and `waiting_max` that wait.
    pub(super) fn new(memory_kib_max: u32, waiting_max: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::on(processors, memory_kib_max, waiting_max)
    }

    fn on(processors: usize, memory_kib_max: u32, waiting_max: usize) -> Self {
        Self {
            memory_kib_max,
            line: Arc::new(Mutex::new(Line {
                memory_kib: memory_kib_max,
                processors,
                suspects: processors.saturating_sub(1).max(1),
                waiting_max,
                ..Line::default()
            })),
            pool: Arc::new(Mutex::new(Pool {
                kib_max: memory_kib_max as usize,
                ..Pool::default()
            })),
            #[cfg(test)]
            checks: Default::default(),
        }
    }

    /// Compares `password`, prepared, with `stored`, then calls `then` on the same thread with the answer.
    pub(super) async fn check<T: Send + 'static>(
        &self,
        caller: Caller,
        stored: Arc<Stored>,
        password: Secret,
        then: impl FnOnce(bool) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        #[cfg(test)]
        self.checks
            .fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        let (memory_kib, block_count) = (stored.memory_kib(), stored.block_count());
        self.run(caller, memory_kib, block_count, move |memory| {
            let matches = stored.matches(password.expose(), memory);
            matches
                .map(then)
                .map_err(|HashingFailed| Unavailable(HashingFailed.to_string()))
        })
        .await
    }

    /// Does work that keeps a processor busy and takes `memory_kib` of memory, of which it is given `block_count`
    /// blocks.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        caller: Caller,
        memory_kib: u32,
        block_count: usize,
        work: impl FnOnce(&mut [Block]) -> Result<T, Unavailable> + Send + 'static,
    ) -> Result<T, Unavailable> {
        if memory_kib > self.memory_kib_max {
            // Waiting for more permits than there are would never end.
            return Err(Unavailable(format!(
                "a password hash takes {memory_kib} KiB, more than hash_memory"
            )));
        }
        let needs = Needs {
            memory_kib,
            is_suspect: caller.standing == Standing::Suspect,
        };
        let permits = self.turn(caller, needs).await?;
        let pool = Arc::clone(&self.pool);
        let checked = tokio::task::spawn_blocking(move || {
            // The permits live exactly as long as this closure does, whoever still waits for it.
            let _permits = permits;
            let mut memory = Lent::new(pool, memory_kib as usize, block_count)?;
            work(&mut memory.blocks)
        });
        match checked.await {
            Ok(answer) => answer,
            Err(_) => Err(Unavailable("a password check was cut short".to_owned())),
        }
    }

    /// Waits for the permits.
    async fn turn(&self, caller: Caller, needs: Needs) -> Result<Permits, Unavailable> {
        let (turn, _place) = {
            let mut line = lock(&self.line);
            if line.closed {
                return Err(Unavailable("password checks have ended".to_owned()));
            }
            if line.nobody_before(caller.standing) && line.take(needs) {
                return Ok(Permits::new(&self.line, needs));
            }
            let (number, turn) = line.join(caller, needs)?;
            let place = Place {
                line: Arc::clone(&self.line),
                standing: caller.standing,
                number,
            };
            (turn, place)
        };
        match tokio::time::timeout(PATIENCE, turn).await {
            Ok(Ok(permits)) => Ok(permits),
            Ok(Err(_)) => Err(Unavailable(
                "too many logins wait for their password check, and better known ones go first"
                    .to_owned(),
            )),
            Err(_) => Err(Unavailable(
                "the password check did not come to its turn".to_owned(),
            )),
        }
    }

    /// Takes all the memory: until it is given back, every check waits.
    #[cfg(test)]
    pub(super) fn hold_all(&self) -> impl Drop + use<> {
        let needs = Needs {
            memory_kib: self.memory_kib_max,
            is_suspect: false,
        };
        assert!(lock(&self.line).take(needs));
        Permits::new(&self.line, needs)
    }

    /// From now on no check can be made, so that a test sees who needs one.
    #[cfg(test)]
    pub(super) fn close(&self) {
        lock(&self.line).closed = true;
    }

    /// How many checks were asked for so far.
    #[cfg(test)]
    pub(super) fn checks(&self) -> usize {
        self.checks.load(std::sync::atomic::Ordering::Acquire)
    }
}

/// What is free, and who waits for it.
#[derive(Default)]
struct Line {
    /// Free memory.
    memory_kib: u32,
    /// Free processors.
    processors: usize,
    /// How many of the free processors suspects may take.
    suspects: usize,
    /// Those who wait, by standing, each in the order of arrival.
    waiting: [VecDeque<Waiting>; Standing::ALL.len()],
    waiting_max: usize,
    /// How many of them have come from each address, without those who are known.
    from_address: HashMap<IpAddr, usize>,
    /// The number of the last one who came.
    last: u64,
    /// Nobody is served any more.
    closed: bool,
}

/// What a check takes.
#[derive(Clone, Copy)]
struct Needs {
    memory_kib: u32,
    is_suspect: bool,
}

struct Waiting {
    number: u64,
    /// Whose bound it counts towards.
    address: Option<IpAddr>,
    needs: Needs,
    turn: oneshot::Sender<Permits>,
}

impl Line {
    fn nobody_before(&self, standing: Standing) -> bool {
        self.waiting[..=standing as usize]
            .iter()
            .all(VecDeque::is_empty)
    }

    /// Takes what is needed, if all of it is there.
    fn take(&mut self, needs: Needs) -> bool {
        let there = self.processors > 0
            && self.memory_kib >= needs.memory_kib
            && (!needs.is_suspect || self.suspects > 0);
        if there {
            self.processors -= 1;
            self.memory_kib -= needs.memory_kib;
            self.suspects -= usize::from(needs.is_suspect);
        }
        there
    }

    fn give_back(&mut self, needs: Needs) {
        self.processors += 1;
        self.memory_kib += needs.memory_kib;
        self.suspects += usize::from(needs.is_suspect);
    }

    /// Takes a place in the line, at the expense of somebody else if there is no other way.
    fn join(
        &mut self,
        caller: Caller,
        needs: Needs,
    ) -> Result<(u64, oneshot::Receiver<Permits>), Unavailable> {
        let address = (caller.standing != Standing::Known).then(|| limit_key(caller.address));
        let share = (self.waiting_max / SHARE_OF_ADDRESS).max(PLACES_OF_ADDRESS_MIN);
        let of_address = address.and_then(|address| self.from_address.get(&address));
        if of_address.is_some_and(|places| *places >= share) {
            return Err(Unavailable(format!(
                "{share} logins from this address wait for their password check already"
            )));
        }
        if self.waiting.iter().map(VecDeque::len).sum::<usize>() >= self.waiting_max {
            let worse = &mut self.waiting[caller.standing as usize + 1..];
            let last = worse.iter_mut().rev().find_map(VecDeque::pop_back);
            let Some(last) = last else {
                return Err(Unavailable(format!(
                    "{} logins wait for their password check already",
                    self.waiting_max
                )));
            };
            self.has_left(&last);
        }
        self.last += 1;
        let (turn, waits) = oneshot::channel();
        self.waiting[caller.standing as usize].push_back(Waiting {
            number: self.last,
            address,
            needs,
            turn,
        });
        if let Some(address) = address {
            *self.from_address.entry(address).or_default() += 1;
        }
        Ok((self.last, waits))
    }

    /// Whoever had this place does not wait any more.
    fn has_left(&mut self, waiting: &Waiting) {
        if let Some(address) = waiting.address
            && let Entry::Occupied(mut places) = self.from_address.entry(address)
        {
            *places.get_mut() -= 1;
            if *places.get() == 0 {
                places.remove();
            }
        }
    }

    /// Gives what is free to those whose turn it is.
    fn serve(&mut self, this: &Arc<Mutex<Self>>) {
        for standing in Standing::ALL {
            while let Some(first) = self.waiting[standing as usize].front() {
                // Whoever comes first and does not fit is waited for: else something large would wait for ever.
                if !self.take(first.needs) {
                    return;
                }
                let Some(first) = self.waiting[standing as usize].pop_front() else {
                    return;
                };
                self.has_left(&first);
                if let Err(mut permits) = first.turn.send(Permits::new(this, first.needs)) {
                    // Gone meanwhile. The lock is ours, so they must not give anything back themselves.
                    self.give_back(permits.needs);
                    permits.line = None;
                }
            }
        }
    }
}

/// The right to run one check.
struct Permits {
    /// Where they go when they are dropped.
    line: Option<Arc<Mutex<Line>>>,
    needs: Needs,
}

impl Permits {
    fn new(line: &Arc<Mutex<Line>>, needs: Needs) -> Self {
        Self {
            line: Some(Arc::clone(line)),
            needs,
        }
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        if let Some(shared) = &self.line {
            let mut line = lock(shared);
            line.give_back(self.needs);
            line.serve(shared);
        }
    }
}

/// One login's place among those that wait; given back when the login is served, or gives up.
struct Place {
    line: Arc<Mutex<Line>>,
    standing: Standing,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut line = lock(&self.line);
        let waiting = &mut line.waiting[self.standing as usize];
        if let Ok(index) = waiting.binary_search_by_key(&self.number, |waiting| waiting.number)
            && let Some(left) = waiting.remove(index)
        {
            line.has_left(&left);
            // It may have been the one for whom the others waited.
            line.serve(&self.line);
        }
    }
}

/// Blocks of memory for reuse, kept by exact size. One block is 1 KiB, so `m` in KiB is also a number of blocks.
///
/// **Invariant:** lent and idle blocks together are never more than `kib_max`. The lent ones alone stay within it by
/// their permits; idle ones make room whenever a new size is needed.
#[derive(Default)]
struct Pool {
    kib_max: usize,
    lent: usize,
    idle_kib: usize,
    idle: Vec<Vec<Block>>,
}

impl Pool {
    /// An idle buffer of exactly `count` blocks, or `None` after making room for `kib` of memory.
    fn lend(&mut self, kib: usize, count: usize) -> Option<Vec<Block>> {
        self.lent += kib;
        if let Some(index) = self.idle.iter().position(|blocks| blocks.len() == count) {
            self.idle_kib -= count;
            return Some(self.idle.swap_remove(index));
        }
        while self.lent + self.idle_kib > self.kib_max {
            let Some(evicted) = self.idle.pop() else {
                break;
            };
            self.idle_kib -= evicted.len();
        }
        None
    }
}

/// A buffer out of the pool, and back into it when dropped; or, with no blocks, room for memory that somebody else
/// allocates.
struct Lent {
    pool: Arc<Mutex<Pool>>,
    kib: usize,
    count: usize,
    blocks: Vec<Block>,
}

impl Lent {
    /// `kib` is what the work takes, `count` how many of them are blocks of ours.
    fn new(pool: Arc<Mutex<Pool>>, kib: usize, count: usize) -> Result<Self, Unavailable> {
        let idle = lock(&pool).lend(kib, count);
        let mut lent = Self {
            pool,
            kib,
            count,
            blocks: idle.unwrap_or_default(),
        };
        if lent.blocks.is_empty() {
            lent.blocks
                .try_reserve_exact(count)
                .map_err(|_| Unavailable("out of memory for a password check".to_owned()))?;
            lent.blocks.resize(count, Block::new());
        }
        Ok(lent)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut pool = lock(&self.pool);
        pool.lent -= self.kib;
        if self.count > 0 && self.blocks.len() == self.count {
            pool.idle_kib += self.count;
            pool.idle.push(std::mem::take(&mut self.blocks));
        }
    }
}

/// A panic in another check leaves the pool and the line as they were before or after one of their steps, which are all
/// sound.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::{Context, Poll, Waker};

    use super::super::password::{Parameters, PasswordHash, make};
    use super::*;

    fn hash(memory_kib: u32) -> Arc<Stored> {
        let parameters = Parameters {
            memory_kib,
            passes: 1,
            lanes: 1,
        };
        let text = make(&Secret::from("secret"), parameters).unwrap();
        let hash = PasswordHash::parse(&text, memory_kib).unwrap();
        Arc::new(Stored::Argon2(hash))
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap()
    }

    fn caller(address: &str, standing: Standing) -> Caller {
        Caller {
            address: address.parse().unwrap(),
            standing,
        }
    }

    fn stranger() -> Caller {
        caller("192.0.2.1", Standing::New)
    }

    #[test]
    fn right_and_wrong() {
        let hasher = Hasher::new(64, 4);
        runtime().block_on(async {
            let check = |password: &'static str| {
                hasher.check(stranger(), hash(8), Secret::from(password), |matches| {
                    matches
                })
            };
            assert_eq!(check("secret").await, Ok(true));
            assert_eq!(check("Secret").await, Ok(false));
        });
    }

    #[test]
    fn a_check_that_never_fits_is_not_waited_for() {
        let hasher = Hasher::new(8, 4);
        let answer =
            runtime().block_on(hasher.check(stranger(), hash(16), Secret::from("x"), |_| ()));
        assert!(answer.is_err());
    }

    #[test]
    fn a_client_that_leaves_frees_nothing_early() {
        // Memory for one check only, and one place to wait.
        let hasher = Hasher::new(8, 1);
        let hash = hash(8);
        let (release, held) = mpsc::channel::<()>();
        let (started, begun) = mpsc::channel::<()>();
        runtime().block_on(async {
            let mut context = Context::from_waker(Waker::noop());
            {
                let mut running = pin!(hasher.check(
                    stranger(),
                    Arc::clone(&hash),
                    Secret::from("secret"),
                    move |_| {
                        started.send(()).unwrap();
                        held.recv().unwrap();
                    }
                ));
                assert!(running.as_mut().poll(&mut context).is_pending());
                begun.recv().unwrap();
                // The client of the first check leaves here.
            }
            let check = || {
                hasher.check(
                    stranger(),
                    Arc::clone(&hash),
                    Secret::from("secret"),
                    |ok| ok,
                )
            };
            let mut second = pin!(check());
            assert!(second.as_mut().poll(&mut context).is_pending());
            // One waits; the next one is turned away at once.
            let Poll::Ready(Err(Unavailable(reason))) = pin!(check()).poll(&mut context) else {
                panic!("the third check waits");
            };
            assert_eq!(reason, "1 logins wait for their password check already");
            release.send(()).unwrap();
            assert_eq!(second.await, Ok(true));
            assert_eq!(waiting(&hasher), 0);
        });
    }

    #[test]
    fn giving_up_the_wait_frees_the_place() {
        let hasher = Hasher::new(8, 1);
        let all = hasher.hold_all();
        let hash = hash(8);
        runtime().block_on(async {
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..3 {
                let mut waiting = pin!(hasher.check(
                    stranger(),
                    Arc::clone(&hash),
                    Secret::from("secret"),
                    |ok| ok
                ));
                assert!(waiting.as_mut().poll(&mut context).is_pending());
            }
            drop(all);
            assert_eq!(waiting(&hasher), 0);
            let answer = hasher
                .check(stranger(), hash, Secret::from("secret"), |ok| ok)
                .await;
            assert_eq!(answer, Ok(true));
        });
    }

    fn waiting(hasher: &Hasher) -> usize {
        let line = lock(&hasher.line);
        let waiting = line.waiting.iter().map(VecDeque::len).sum();
        assert_eq!(waiting == 0, line.from_address.is_empty());
        waiting
    }

    /// What waits for its turn, in a box that a test can poll.
    type Turn<'h> = std::pin::Pin<Box<dyn Future<Output = Result<Permits, Unavailable>> + 'h>>;

    fn turn(hasher: &Hasher, caller: Caller) -> Turn<'_> {
        let needs = Needs {
            memory_kib: 8,
            is_suspect: caller.standing == Standing::Suspect,
        };
        let mut turn: Turn<'_> = Box::pin(hasher.turn(caller, needs));
        assert!(poll(&mut turn).is_none(), "it waits");
        turn
    }

    fn poll(turn: &mut Turn<'_>) -> Option<Result<Permits, Unavailable>> {
        let mut context = Context::from_waker(Waker::noop());
        match turn.as_mut().poll(&mut context) {
            Poll::Ready(permits) => Some(permits),
            Poll::Pending => None,
        }
    }

    #[test]
    fn those_who_are_known_go_first_and_suspects_last() {
        let runtime = runtime();
        let _entered = runtime.enter();
        let hasher = Hasher::on(4, 8, 64);
        let all = hasher.hold_all();
        let mut line = [
            (2, turn(&hasher, caller("192.0.2.1", Standing::New))),
            (4, turn(&hasher, caller("192.0.2.2", Standing::Suspect))),
            (0, turn(&hasher, caller("192.0.2.3", Standing::Known))),
            (3, turn(&hasher, caller("192.0.2.4", Standing::New))),
            (1, turn(&hasher, caller("192.0.2.3", Standing::Known))),
        ];
        line.sort_by_key(|(place, _)| *place);
        drop(all);
        for index in 0..line.len() {
            let permits = poll(&mut line[index].1).expect("its turn has come");
            let later = &mut line[index + 1..];
            assert!(later.iter_mut().all(|(_, turn)| poll(turn).is_none()));
            drop(permits);
        }
        assert_eq!(waiting(&hasher), 0);
    }

    #[test]
    fn a_full_line_makes_room_for_somebody_better_only() {
        let runtime = runtime();
        let _entered = runtime.enter();
        let hasher = Hasher::on(4, 8, 3);
        let all = hasher.hold_all();
        let refused = |standing| {
            let needs = Needs {
                memory_kib: 8,
                is_suspect: false,
            };
            let mut turn: Turn<'_> = Box::pin(hasher.turn(caller("198.51.100.1", standing), needs));
            poll(&mut turn).is_some_and(|answer| answer.is_err())
        };
        let mut first = turn(&hasher, caller("192.0.2.1", Standing::Suspect));
        let mut second = turn(&hasher, caller("192.0.2.2", Standing::Suspect));
        let mut third = turn(&hasher, caller("192.0.2.3", Standing::New));
        assert!(refused(Standing::Suspect));
        let mut known = turn(&hasher, caller("192.0.2.4", Standing::Known));
        assert!(poll(&mut second).is_some_and(|answer| answer.is_err()));
        let mut new = turn(&hasher, caller("192.0.2.5", Standing::New));
        assert!(poll(&mut first).is_some_and(|answer| answer.is_err()));
        assert!(refused(Standing::New));
        let mut also_known = turn(&hasher, caller("192.0.2.4", Standing::Known));
        assert!(poll(&mut new).is_some_and(|answer| answer.is_err()));
        drop(all);
        for turn in [&mut known, &mut also_known, &mut third] {
            assert!(poll(turn).is_some_and(|answer| answer.is_ok()));
        }
    }

    #[test]
    fn one_address_cannot_fill_the_line() {
        let runtime = runtime();
        let _entered = runtime.enter();
        let hasher = Hasher::on(4, 8, 128);
        let all = hasher.hold_all();
        let host = |number: usize| format!("2001:db8::{number:x}");
        let mut line: Vec<_> = (0..128 / SHARE_OF_ADDRESS)
            .map(|number| turn(&hasher, caller(&host(number), Standing::New)))
            .collect();
        let needs = Needs {
            memory_kib: 8,
            is_suspect: false,
        };
        for standing in [Standing::New, Standing::Suspect] {
            let mut more: Turn<'_> =
                Box::pin(hasher.turn(caller("2001:db8::ffff", standing), needs));
            assert!(poll(&mut more).is_some_and(|answer| answer.is_err()));
        }
        // An office behind one address, whose people are known, is another matter.
        line.push(turn(&hasher, caller("2001:db8::ffff", Standing::Known)));
        line.push(turn(&hasher, caller("2001:db8:0:1::1", Standing::New)));
        drop(line.remove(0));
        line.push(turn(&hasher, caller("2001:db8::1", Standing::New)));
        line.clear();
        assert_eq!(waiting(&hasher), 0);
        drop(all);
    }

    #[test]
    fn suspects_leave_a_processor_to_the_others() {
        let runtime = runtime();
        let _entered = runtime.enter();
        let hasher = Hasher::on(2, 64, 64);
        let suspect = caller("192.0.2.1", Standing::Suspect);
        let needs = Needs {
            memory_kib: 8,
            is_suspect: true,
        };
        let running = poll(&mut (Box::pin(hasher.turn(suspect, needs)) as Turn<'_>));
        assert!(running.as_ref().is_some_and(|permits| permits.is_ok()));
        let mut waits = turn(&hasher, suspect);
        let needs = Needs {
            is_suspect: false,
            ..needs
        };
        let other = poll(&mut (Box::pin(hasher.turn(stranger(), needs)) as Turn<'_>));
        assert!(other.is_some_and(|permits| permits.is_ok()));
        assert!(poll(&mut waits).is_none());
        drop(running);
        assert!(poll(&mut waits).is_some_and(|permits| permits.is_ok()));
        // On a machine with one processor they would wait for ever.
        let hasher = Hasher::on(1, 64, 64);
        let needs = Needs {
            is_suspect: true,
            ..needs
        };
        let alone = poll(&mut (Box::pin(hasher.turn(suspect, needs)) as Turn<'_>));
        assert!(alone.is_some_and(|permits| permits.is_ok()));
    }

    #[test]
    fn memory_is_reused_and_stays_within_the_budget() {
        let pool = Arc::new(Mutex::new(Pool {
            kib_max: 40,
            ..Pool::default()
        }));
        let state = |pool: &Mutex<Pool>| {
            let pool = lock(pool);
            (pool.lent, pool.idle_kib, pool.idle.len())
        };
        let lend = |kib| Lent::new(Arc::clone(&pool), kib, kib).unwrap();
        let first = lend(16);
        let second = lend(16);
        assert_eq!(state(&pool), (32, 0, 0));
        drop((first, second));
        assert_eq!(state(&pool), (0, 32, 2));
        let again = lend(16);
        assert_eq!(state(&pool), (16, 16, 1));
        let other = lend(24);
        assert_eq!(state(&pool), (40, 0, 0));
        drop((again, other));
        assert_eq!(state(&pool), (0, 40, 2));
        // Memory of somebody else's counts, too, and leaves no buffer behind.
        let foreign = Lent::new(Arc::clone(&pool), 20, 0).unwrap();
        assert_eq!(state(&pool), (20, 16, 1));
        drop(foreign);
        assert_eq!(state(&pool), (0, 16, 1));
    }
}
