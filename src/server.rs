//! stub
use std::net::SocketAddr;
use std::time::Duration;

/// How TLS begins on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsStart {
    /// At once (RFC 8314 section 3.3): port 465.
    Implicit,
    /// After STARTTLS (RFC 3207): port 587.
    StartTls,
}

/// One address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: SocketAddr,
    /// How TLS begins there.
    pub tls: TlsStart,
}

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
