//! Who is inside: connections are counted in all and by address, and there is always room for one more who may have a
//! login.
//!
//! Places run out when strangers take them and do nothing with them, from as many addresses as it takes. So a newcomer
//! gets the place of the stranger who has had theirs the longest without a login: to keep somebody honest out, all places
//! have to be taken anew within [`STRANGER_GRACE`], and not once in `limits.login_timeout`. Whoever has logged in keeps
//! their place.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::ServerLimits;
use crate::event::limit_key;

/// How many clients at a time are told that there are too many; any more are dropped without a word.
const REFUSALS_MAX: usize = 64;
/// How long a stranger has their place for certain: long enough for an honest login, a TLS handshake over a slow line
/// included, to come through more often than not.
const STRANGER_GRACE: Duration = Duration::from_secs(1);

/// Counts who is inside.
pub(super) struct Doors {
    inside: Arc<Mutex<Inside>>,
    refusals: Arc<Semaphore>,
}

#[derive(Default)]
struct Inside {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Those who have not logged in, in the order in which they came.
    strangers: BTreeMap<u64, Stranger>,
    /// How many came so far.
    arrivals: u64,
}

struct Stranger {
    since: Instant,
    key: Option<IpAddr>,
    leave: CancellationToken,
}

impl Default for Doors {
    fn default() -> Self {
        Self {
            inside: Arc::default(),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
        }
    }
}

/// There is no room for a connection.
pub(super) struct NoRoom {
    /// Which bound was reached.
    pub(super) reason: &'static str,
    /// Whether it may be told so; `None` where too many are being told already.
    pub(super) refusal: Option<OwnedSemaphorePermit>,
}

impl Doors {
    /// Lets a connection in; its place is free again when it is dropped. Without an address, as long as a proxy has not
    /// said whose it is, it counts in the total alone.
    pub(super) fn admit(
        &self,
        address: Option<IpAddr>,
        limits: &ServerLimits,
        now: Instant,
    ) -> Result<Place, NoRoom> {
        let key = address.map(limit_key);
        let mut inside = lock(&self.inside);
        let room = match key {
            Some(key) if inside.count_of(key) >= limits.connections_per_address => {
                Err("limits.connections_per_address")
            }
            _ if inside.total < limits.connections || inside.turn_out_a_stranger(now) => Ok(()),
            _ => Err("limits.connections"),
        };
        room.map_err(|reason| self.no_room(reason))?;
        inside.total += 1;
        if let Some(key) = key {
            inside.count_for(key);
        }
        let number = inside.arrivals;
        inside.arrivals += 1;
        let leave = CancellationToken::new();
        let stranger = Stranger {
            since: now,
            key,
            leave: leave.clone(),
        };
        inside.strangers.insert(number, stranger);
        Ok(Place {
            inside: Arc::clone(&self.inside),
            number,
            key,
            leave,
        })
    }

    /// Counts a place for its client, too. If there is no room for one more of this client, the place stays as it is.
    pub(super) fn name(
        &self,
        place: &mut Place,
        address: IpAddr,
        limits: &ServerLimits,
    ) -> Result<(), NoRoom> {
        let key = limit_key(address);
        let mut inside = lock(&self.inside);
        if inside.count_of(key) >= limits.connections_per_address {
            return Err(self.no_room("limits.connections_per_address"));
        }
        // Who has been turned out meanwhile counts for nobody.
        if let Some(stranger) = inside.strangers.get_mut(&place.number) {
            stranger.key = Some(key);
            place.key = Some(key);
            inside.count_for(key);
        }
        Ok(())
    }

    fn no_room(&self, reason: &'static str) -> NoRoom {
        NoRoom {
            reason,
            refusal: Arc::clone(&self.refusals).try_acquire_owned().ok(),
        }
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.inside).total
    }
}

impl Inside {
    fn count_of(&self, key: IpAddr) -> usize {
        self.by_address.get(&key).copied().unwrap_or(0)
    }

    fn count_for(&mut self, key: IpAddr) {
        *self.by_address.entry(key).or_default() += 1;
    }

    fn release(&mut self, key: Option<IpAddr>) {
        self.total -= 1;
        if let Some(key) = key
            && let Entry::Occupied(mut entry) = self.by_address.entry(key)
        {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    /// Takes its place from whoever has been a stranger for the longest time; false if nobody has been for long.
    fn turn_out_a_stranger(&mut self, now: Instant) -> bool {
        let Some(oldest) = self.strangers.first_entry() else {
            return false;
        };
        if now.saturating_duration_since(oldest.get().since) < STRANGER_GRACE {
            return false;
        }
        let stranger = oldest.remove();
        // The connection ends in its own time, which is soon; its place is free at once.
        stranger.leave.cancel();
        self.release(stranger.key);
        true
    }
}

fn lock(inside: &Mutex<Inside>) -> MutexGuard<'_, Inside> {
    inside.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection's place inside.
pub(super) struct Place {
    inside: Arc<Mutex<Inside>>,
    number: u64,
    /// The address that it counts for, if any.
    key: Option<IpAddr>,
    leave: CancellationToken,
}

impl Place {
    /// Cancelled when the place was given to somebody else.
    pub(super) fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    /// Its client has logged in, and keeps it; false if it was given to somebody else already.
    pub(super) fn keep(&self) -> bool {
        lock(&self.inside).strangers.remove(&self.number);
        !self.leave.is_cancelled()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = lock(&self.inside);
        inside.strangers.remove(&self.number);
        // It may have been taken away while we waited for the lock.
        if !self.leave.is_cancelled() {
            inside.release(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Now;

    /// The same in every test: nobody stays for long, unless a test says so.
    fn now() -> Instant {
        static NOW: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(|| Now::read().instant);
        *NOW
    }

    fn enter(doors: &Doors, address: &str, limits: &ServerLimits) -> Result<Place, &'static str> {
        doors
            .admit(Some(address.parse().unwrap()), limits, now())
            .map_err(|no_room| no_room.reason)
    }

    #[test]
    fn a_place_is_counted_for_its_client_when_it_has_a_name() {
        let doors = Doors::default();
        let limits = ServerLimits {
            connections: 4,
            connections_per_address: 1,
            ..ServerLimits::default()
        };
        let unnamed = || doors.admit(None, &limits, now()).map_err(|_| ()).unwrap();
        let name = |place: &mut Place, address: &str| {
            doors
                .name(place, address.parse().unwrap(), &limits)
                .map_err(|no_room| no_room.reason)
        };
        let mut places = [unnamed(), unnamed(), unnamed()];
        assert_eq!(name(&mut places[0], "192.0.2.1"), Ok(()));
        let full = Err("limits.connections_per_address");
        assert_eq!(name(&mut places[1], "::ffff:192.0.2.1"), full);
        // It counts for nobody, and its end is nobody's.
        let [first, second, _third] = places;
        drop(second);
        let mut second = unnamed();
        assert_eq!(name(&mut second, "192.0.2.1"), full);
        assert_eq!(
            enter(&doors, "192.0.2.1", &limits).err(),
            full.err(),
            "whatever the way in"
        );
        drop(first);
        assert_eq!(name(&mut second, "192.0.2.1"), Ok(()));
        let _others = [unnamed(), unnamed()];
        assert_eq!(
            doors
                .admit(None, &limits, now())
                .err()
                .map(|full| full.reason),
            Some("limits.connections")
        );
        assert_eq!(doors.count(), 4);
    }

    #[test]
    fn places_are_counted_by_address_and_network() {
        let doors = Doors::default();
        let limits = ServerLimits {
            connections: 4,
            connections_per_address: 2,
            ..ServerLimits::default()
        };
        let first = enter(&doors, "192.0.2.1", &limits).unwrap();
        let _second = enter(&doors, "::ffff:192.0.2.1", &limits).unwrap();
        assert_eq!(
            enter(&doors, "192.0.2.1", &limits).err(),
            Some("limits.connections_per_address")
        );
        drop(first);
        let _third = enter(&doors, "192.0.2.1", &limits).unwrap();
        let _v6 = enter(&doors, "2001:db8::1", &limits).unwrap();
        let _same_64 = enter(&doors, "2001:db8::ffff:1", &limits).unwrap();
        assert_eq!(
            enter(&doors, "198.51.100.1", &limits).err(),
            Some("limits.connections")
        );
        assert_eq!(doors.count(), 4);
    }

    #[test]
    fn refusals_are_bounded_too() {
        let doors = Doors::default();
        let limits = ServerLimits {
            connections: 0,
            ..ServerLimits::default()
        };
        let refusal = || {
            doors
                .admit("192.0.2.1".parse().ok(), &limits, now())
                .err()
                .and_then(|no_room| no_room.refusal)
        };
        let mut refused: Vec<_> = (0..REFUSALS_MAX).map(|_| refusal()).collect();
        assert!(refused.iter().all(Option::is_some));
        assert!(refusal().is_none());
        refused.pop();
        assert!(refusal().is_some());
    }

    #[test]
    fn strangers_make_room_for_newcomers() {
        let doors = Doors::default();
        let limits = ServerLimits {
            connections: 3,
            connections_per_address: 2,
            ..ServerLimits::default()
        };
        let enter = |address: &str, after: Duration| {
            let (address, now) = (address.parse().ok(), now() + after);
            let admitted = doors.admit(address, &limits, now);
            admitted.map_err(|no_room| no_room.reason)
        };
        let (at_once, just_before) = (Duration::ZERO, STRANGER_GRACE - Duration::from_millis(1));
        let known = enter("192.0.2.1", at_once).unwrap();
        assert!(known.keep());
        let oldest = enter("192.0.2.2", at_once).unwrap();
        let younger = enter("192.0.2.2", just_before).unwrap();
        let refused = |address, after| enter(address, after).err();
        assert_eq!(
            refused("192.0.2.3", just_before),
            Some("limits.connections")
        );
        // Who has too many already gets nobody's place.
        assert_eq!(
            refused("192.0.2.2", STRANGER_GRACE),
            Some("limits.connections_per_address")
        );
        let newcomer = enter("192.0.2.3", STRANGER_GRACE).unwrap();
        assert!(oldest.leave().is_cancelled() && !oldest.keep());
        assert!(!known.leave().is_cancelled() && !younger.leave().is_cancelled());
        // The place counts once, whoever leaves first.
        assert_eq!(doors.count(), 3);
        drop(oldest);
        assert_eq!(doors.count(), 3);
        assert_eq!(
            refused("192.0.2.4", STRANGER_GRACE),
            Some("limits.connections")
        );
        // The one that was turned out counts no more for its address, and those who are known stay for ever.
        let later = STRANGER_GRACE * 2;
        let again = enter("192.0.2.2", later).unwrap();
        assert!(younger.leave().is_cancelled());
        assert!(newcomer.keep() && again.keep());
        assert_eq!(refused("192.0.2.4", later * 9), Some("limits.connections"));
        drop((known, younger, newcomer, again));
        assert_eq!(doors.count(), 0);
        assert!(lock(&doors.inside).by_address.is_empty());
        assert!(lock(&doors.inside).strangers.is_empty());
    }
}
