//! The server: sockets, and the sessions that live on them.
//!
//! It accepts connections within bounds, carries out the steps that each session asks for, and takes part in an
//! orderly stop. It decides nothing about mail and parses nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::account::CredentialStore;
use crate::audit::Audit;
use crate::event::limit_key;
use crate::guard::Guard;
use crate::policy::Policy;
use crate::queue::Spool;
use crate::session::Profile;
use crate::tls::Tls;

mod connection;
mod control;
mod listener;
mod login;
pub mod proxy;
mod shut;

pub use control::{Asked, ControlSocket};
pub use listener::{BindError, Bound, Listener};

/// How TLS begins on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsStart {
    /// At once (RFC 8314 section 3.3): port 465.
    Implicit,
    /// After STARTTLS (RFC 3207): port 587.
    StartTls,
}

impl TlsStart {
    /// The word of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Implicit => "implicit",
            Self::StartTls => "starttls",
        }
    }
}

/// One address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Listen {
    /// Where.
    pub address: SocketAddr,
    /// How TLS begins there.
    pub tls: TlsStart,
    /// Whether each connection begins with a PROXY header, and comes from one of the [`Proxies`].
    pub proxy_protocol: bool,
}

/// For each listener with `proxy_protocol`, the networks of those whose PROXY header is believed. A listener that has
/// none here believes nobody.
pub type Proxies = HashMap<Listen, Vec<IpNet>>;

/// The bounds of the server as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections at a time, in all.
    pub connections: usize,
    /// Connections at a time from one address (IPv6: one /64).
    pub connections_per_address: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a stop waits for transactions in flight.
    pub shutdown_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 5000,
            connections_per_address: 100,
            handshake_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

/// Everything that a reload can replace. A connection keeps the generation that it began with, except for the rights
/// of its account, which are looked up anew for each message.
pub struct Generation {
    /// Settings of sessions.
    pub profile: Arc<Profile>,
    /// Bounds of the server.
    pub limits: ServerLimits,
    /// Whose PROXY header is believed.
    pub proxies: Proxies,
    /// Certificates.
    pub tls: Arc<Tls>,
    /// Who may log in.
    pub accounts: Arc<dyn CredentialStore>,
    /// What they may do.
    pub policy: Arc<Policy>,
}

/// What all connections share.
pub struct Services {
    /// The generation that new connections begin with.
    pub generation: ArcSwap<Generation>,
    /// Where messages go.
    pub spool: Spool,
    /// Who hears what happens.
    pub audit: Audit,
    /// Who may try to log in.
    pub guard: Arc<Guard>,
    doors: Doors,
    /// Connections that are held although they are shut out.
    shut_out: Arc<Semaphore>,
    /// Failed logins that wait for their answer.
    delayed: Semaphore,
    tasks: TaskTracker,
    stopping: CancellationToken,
    out_of_time: CancellationToken,
}

impl Services {
    /// A server that does not listen yet.
    pub fn new(generation: Generation, spool: Spool, audit: Audit, guard: Arc<Guard>) -> Arc<Self> {
        Arc::new(Self {
            doors: Doors::default(),
            guard,
            shut_out: Arc::new(Semaphore::new(shut::HELD_MAX)),
            delayed: Semaphore::new(DELAYED_MAX),
            generation: ArcSwap::from_pointee(generation),
            spool,
            audit,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            out_of_time: CancellationToken::new(),
        })
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.doors.count()
    }

    /// Lets a failed login wait for its answer; false if too many wait already. A stop ends the wait.
    async fn delay(&self, wait: Duration) -> bool {
        if wait.is_zero() {
            return true;
        }
        let Ok(_place) = self.delayed.try_acquire() else {
            return false;
        };
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
        true
    }

    /// Stops: idle clients hear 421, transactions in flight may end within the configured time, then they are cut
    /// off. Returns when the last connection is gone; the listeners must be closed before.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        let limit = self.generation.load().limits.shutdown_timeout;
        if tokio::time::timeout(limit, self.tasks.wait())
            .await
            .is_err()
        {
            self.out_of_time.cancel();
            // What is left now is a commit in its last moment or a client that does not read its 421.
            let _ = tokio::time::timeout(LAST_WORDS_TIMEOUT, self.tasks.wait()).await;
        }
    }
}

/// Failed logins that wait for their answer at a time: each is a connection that is of no use to anybody else.
const DELAYED_MAX: usize = 1024;

/// How long connections that were cut off may take to say so.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(5);

/// How many clients at a time are told that there are too many; any more are dropped without a word.
const REFUSALS_MAX: usize = 64;

/// Counts who is inside.
struct Doors {
    inside: Arc<Mutex<Inside>>,
    refusals: Arc<Semaphore>,
}

#[derive(Default)]
struct Inside {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
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
struct NoRoom {
    /// Which bound was reached.
    reason: &'static str,
    /// Whether it may be told so; `None` where too many are being told already.
    refusal: Option<OwnedSemaphorePermit>,
}

impl Doors {
    /// Lets a connection in; its place is free again when it is dropped. Without an address, as long as a proxy has not
    /// said whose it is, it counts in the total alone.
    fn admit(&self, address: Option<IpAddr>, limits: &ServerLimits) -> Result<Place, NoRoom> {
        let key = address.map(limit_key);
        let mut inside = lock(&self.inside);
        let full = if inside.total >= limits.connections {
            Err("limits.connections")
        } else {
            key.map_or(Ok(()), |key| inside.count_for(key, limits))
        };
        full.map_err(|reason| self.no_room(reason))?;
        inside.total += 1;
        Ok(Place {
            inside: Arc::clone(&self.inside),
            key,
        })
    }

    /// Counts a place for its client, too. If there is no room for one more of this client, the place stays as it is.
    fn name(
        &self,
        place: &mut Place,
        address: IpAddr,
        limits: &ServerLimits,
    ) -> Result<(), NoRoom> {
        let key = limit_key(address);
        lock(&self.inside)
            .count_for(key, limits)
            .map_err(|reason| self.no_room(reason))?;
        place.key = Some(key);
        Ok(())
    }

    fn no_room(&self, reason: &'static str) -> NoRoom {
        NoRoom {
            reason,
            refusal: Arc::clone(&self.refusals).try_acquire_owned().ok(),
        }
    }

    fn count(&self) -> usize {
        lock(&self.inside).total
    }
}

impl Inside {
    fn count_for(&mut self, key: IpAddr, limits: &ServerLimits) -> Result<(), &'static str> {
        let from_address = self.by_address.get(&key).copied().unwrap_or(0);
        if from_address >= limits.connections_per_address {
            return Err("limits.connections_per_address");
        }
        self.by_address.insert(key, from_address + 1);
        Ok(())
    }
}

fn lock(inside: &Mutex<Inside>) -> MutexGuard<'_, Inside> {
    inside.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection's place inside.
struct Place {
    inside: Arc<Mutex<Inside>>,
    /// The address that it counts for, if any.
    key: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = lock(&self.inside);
        inside.total -= 1;
        if let Some(key) = self.key
            && let Entry::Occupied(mut entry) = inside.by_address.entry(key)
        {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(doors: &Doors, address: &str, limits: &ServerLimits) -> Result<Place, &'static str> {
        doors
            .admit(Some(address.parse().unwrap()), limits)
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
        let unnamed = || doors.admit(None, &limits).map_err(|_| ()).unwrap();
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
            doors.admit(None, &limits).err().map(|full| full.reason),
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
                .admit("192.0.2.1".parse().ok(), &limits)
                .err()
                .and_then(|no_room| no_room.refusal)
        };
        let mut refused: Vec<_> = (0..REFUSALS_MAX).map(|_| refusal()).collect();
        assert!(refused.iter().all(Option::is_some));
        assert!(refusal().is_none());
        refused.pop();
        assert!(refusal().is_some());
    }
}
