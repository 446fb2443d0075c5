//! Password checks off the runtime's threads, within a budget of memory, processors and waiting logins.
//!
//! A check takes its permits before it begins and its closure owns them until it ends: a client that goes away frees
//! nothing early, so no number of dropped connections can make more checks run than the budget allows. Whoever waits
//! is served in the order of arrival. The memory of a finished check is kept for the next one of the same size, which
//! halves its cost; what is kept counts towards the budget too.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use argon2::Block;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::password::HashingFailed;
use super::stored::Stored;
use crate::decision::Unavailable;
use crate::secret::Secret;

/// The budget, and the checks that run within it.
pub(super) struct Hasher {
    memory_kib_max: u32,
    /// Counted in KiB.
    memory: Arc<Semaphore>,
    processors: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    waiting_max: usize,
    pool: Arc<Mutex<Pool>>,
}

impl Hasher {
    /// A budget of `memory_kib_max` KiB, one check for each processor at a time, and `waiting_max` that wait.
    pub(super) fn new(memory_kib_max: u32, waiting_max: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            memory_kib_max,
            memory: Arc::new(Semaphore::new(memory_kib_max as usize)),
            processors: Arc::new(Semaphore::new(processors)),
            waiting: Arc::default(),
            waiting_max,
            pool: Arc::new(Mutex::new(Pool {
                kib_max: memory_kib_max as usize,
                ..Pool::default()
            })),
        }
    }

    /// Compares `password`, prepared, with `stored`, then calls `then` on the same thread with the answer.
    pub(super) async fn check<T: Send + 'static>(
        &self,
        stored: Arc<Stored>,
        password: Secret,
        then: impl FnOnce(bool) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (memory_kib, block_count) = (stored.memory_kib(), stored.block_count());
        self.run(memory_kib, block_count, move |memory| {
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
        let permits = match self.take_at_once(memory_kib) {
            Some(permits) => permits,
            None => self.wait_for(memory_kib).await?,
        };
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

    /// Takes all the memory: until it is given back, every check waits.
    #[cfg(test)]
    pub(super) fn hold_all(&self) -> OwnedSemaphorePermit {
        let memory = Arc::clone(&self.memory);
        memory.try_acquire_many_owned(self.memory_kib_max).unwrap()
    }

    /// From now on no check can be made, so that a test sees who needs one.
    #[cfg(test)]
    pub(super) fn close(&self) {
        self.memory.close();
    }

    fn take_at_once(&self, memory_kib: u32) -> Option<Permits> {
        let processor = Arc::clone(&self.processors).try_acquire_owned().ok()?;
        let memory = Arc::clone(&self.memory)
            .try_acquire_many_owned(memory_kib)
            .ok()?;
        Some(Permits {
            _memory: memory,
            _processor: processor,
        })
    }

    async fn wait_for(&self, memory_kib: u32) -> Result<Permits, Unavailable> {
        let _place = Place::take(&self.waiting, self.waiting_max).ok_or_else(|| {
            Unavailable(format!(
                "{} logins wait for their password check already",
                self.waiting_max
            ))
        })?;
        let closed = |_| Unavailable("password checks have ended".to_owned());
        // Whoever has a processor waits for memory, which those that run give back: no circle can close.
        let processor = Arc::clone(&self.processors)
            .acquire_owned()
            .await
            .map_err(closed)?;
        let memory = Arc::clone(&self.memory)
            .acquire_many_owned(memory_kib)
            .await
            .map_err(closed)?;
        Ok(Permits {
            _memory: memory,
            _processor: processor,
        })
    }
}

/// The right to run one check.
struct Permits {
    _memory: OwnedSemaphorePermit,
    _processor: OwnedSemaphorePermit,
}

/// One login's place among those that wait; given back when the login is served, or gives up.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(waiting: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                (count < max).then_some(count + 1)
            })
            .ok()
            .map(|_| Self(Arc::clone(waiting)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
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

/// A panic in another check leaves the pool as it was before or after one of its steps, both of which are sound.
fn lock(pool: &Mutex<Pool>) -> std::sync::MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
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
            .build()
            .unwrap()
    }

    #[test]
    fn right_and_wrong() {
        let hasher = Hasher::new(64, 4);
        runtime().block_on(async {
            let check = |password: &'static str| {
                hasher.check(hash(8), Secret::from(password), |matches| matches)
            };
            assert_eq!(check("secret").await, Ok(true));
            assert_eq!(check("Secret").await, Ok(false));
        });
    }

    #[test]
    fn a_check_that_never_fits_is_not_waited_for() {
        let hasher = Hasher::new(8, 4);
        let answer =
            runtime().block_on(async { hasher.check(hash(16), Secret::from("x"), |_| ()).await });
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
                let mut running =
                    pin!(
                        hasher.check(Arc::clone(&hash), Secret::from("secret"), move |_| {
                            started.send(()).unwrap();
                            held.recv().unwrap();
                        })
                    );
                assert!(running.as_mut().poll(&mut context).is_pending());
                begun.recv().unwrap();
                // The client of the first check leaves here.
            }
            let check = || hasher.check(Arc::clone(&hash), Secret::from("secret"), |ok| ok);
            let mut second = pin!(check());
            assert!(second.as_mut().poll(&mut context).is_pending());
            // One waits; the next one is turned away at once.
            let Poll::Ready(Err(Unavailable(reason))) = pin!(check()).poll(&mut context) else {
                panic!("the third check waits");
            };
            assert_eq!(reason, "1 logins wait for their password check already");
            release.send(()).unwrap();
            assert_eq!(second.await, Ok(true));
            assert_eq!(hasher.waiting.load(Ordering::Acquire), 0);
        });
    }

    #[test]
    fn giving_up_the_wait_frees_the_place() {
        let hasher = Hasher::new(8, 1);
        let all = Arc::clone(&hasher.memory)
            .try_acquire_many_owned(8)
            .unwrap();
        let hash = hash(8);
        runtime().block_on(async {
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..3 {
                let mut waiting =
                    pin!(hasher.check(Arc::clone(&hash), Secret::from("secret"), |ok| ok));
                assert!(waiting.as_mut().poll(&mut context).is_pending());
            }
            drop(all);
            let answer = hasher.check(hash, Secret::from("secret"), |ok| ok).await;
            assert_eq!(answer, Ok(true));
        });
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
