//! The server: sockets, and the sessions that live on them.
//!
//! It accepts connections within bounds, carries out the steps that each session asks for, and takes part in an
//! orderly stop. It decides nothing about mail and parses nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::account::CredentialStore;
use crate::audit::Audit;
use crate::containment::Containment;
use crate::guard::Guard;
use crate::policy::Policy;
use crate::policy::history::History;
use crate::policy::tripwire::{TripwireSettings, Tripwires};
use crate::queue::Spool;
use crate::session::Profile;
use crate::tls::Tls;

pub mod alert;
mod commits;
mod connection;
pub mod containment;
mod control;
mod doors;
mod listener;
mod login;
pub mod over_limit;
pub mod proxy;
mod sessions;
mod shut;

use alert::Alerts;
use alert::mail::MailSettings;

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
    /// What is watched of them.
    pub tripwires: TripwireSettings,
    /// Who gets mail when one of them trips.
    pub alert_mail: Option<MailSettings>,
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
    /// Who is contained.
    pub containment: Arc<Containment>,
    /// What was accepted lately.
    pub history: Arc<History>,
    /// What the accounts did, as far as that is watched.
    pub tripwires: Arc<Tripwires>,
    /// What tells the operator when one of them trips.
    alerts: Arc<Alerts>,
    /// Told when somebody is contained, so that each connection looks whether that concerns it.
    contained: watch::Sender<()>,
    /// Who is logged in, and how often.
    sessions: sessions::Sessions,
    /// Commits that are under way.
    commits: commits::Commits,
    /// Whether something of somebody who is contained could not be put away.
    untidy: AtomicBool,
    doors: doors::Doors,
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
    pub fn new(
        generation: Generation,
        spool: Spool,
        audit: Audit,
        guard: Arc<Guard>,
        containment: Arc<Containment>,
        (history, tripwires, alerts): (History, Tripwires, Alerts),
    ) -> Arc<Self> {
        Arc::new(Self {
            doors: doors::Doors::default(),
            guard,
            shut_out: Arc::new(Semaphore::new(shut::HELD_MAX)),
            delayed: Semaphore::new(DELAYED_MAX),
            containment,
            history: Arc::new(history),
            tripwires: Arc::new(tripwires),
            alerts: Arc::new(alerts),
            contained: watch::Sender::new(()),
            sessions: sessions::Sessions::default(),
            commits: commits::Commits::default(),
            untidy: AtomicBool::new(false),
            generation: ArcSwap::from_pointee(generation),
            spool,
            audit,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            out_of_time: CancellationToken::new(),
        })
    }

    /// Does something beside everything else; a stop waits for it.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
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
