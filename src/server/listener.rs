//! Listening: binding addresses, and accepting within bounds.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::doors::NoRoom;
use super::shut::shut_out;
use super::{Listen, Proxies, Services};
use crate::clock::Now;
use crate::event::{Scope, ServerEvent};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;
/// The first and the longest pause after a failed accept: when descriptors run out, trying again at once only burns
/// the processor that the others need to finish.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// An address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}: {error}", listen.address)]
pub struct BindError {
    /// Which one.
    pub listen: Listen,
    /// What the kernel said.
    pub error: io::Error,
}

impl BindError {
    /// What an operator can do about it.
    pub fn hint(&self) -> &'static str {
        match self.error.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there: `ss -ltnp` shows which; stop it or choose another port"
            }
            io::ErrorKind::AddrNotAvailable => {
                "this machine has no such address: `ip address` shows which it has"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or CAP_NET_BIND_SERVICE: see AmbientCapabilities in config/gatepost.service"
            }
            _ => "check the address in [[listen]]",
        }
    }
}

/// A bound address. It is ours, and nobody is heard there yet. Takes no runtime, so that it can be had before there is
/// one, with rights that are given up then.
#[derive(Debug)]
pub struct Bound {
    listen: Listen,
    socket: Socket,
}

impl Bound {
    /// Binds.
    pub fn new(listen: Listen) -> Result<Self, BindError> {
        let socket = bind_socket(listen.address).map_err(|error| BindError { listen, error })?;
        Ok(Self { listen, socket })
    }

    /// Listens: from now on clients can connect.
    pub fn listen(self) -> Result<Listener, BindError> {
        let Self { listen, socket } = self;
        let fail = |error| BindError { listen, error };
        socket.listen(BACKLOG).map_err(fail)?;
        let socket = TcpListener::from_std(socket.into()).map_err(fail)?;
        let local = socket.local_addr().map_err(fail)?;
        Ok(Listener {
            listen,
            local,
            socket: Arc::new(socket),
            closing: CancellationToken::new(),
        })
    }
}

/// An address where clients can connect. They are accepted once it is started.
#[derive(Debug)]
pub struct Listener {
    listen: Listen,
    local: SocketAddr,
    socket: Arc<TcpListener>,
    closing: CancellationToken,
}

impl Listener {
    /// What was asked for.
    pub fn listen(&self) -> Listen {
        self.listen
    }

    /// Where it really listens: differs from what was asked for where that was port 0.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Accepts connections from now on, until the listener is dropped.
    pub fn start(&self, services: &Arc<Services>) {
        let (socket, closing) = (Arc::clone(&self.socket), self.closing.clone());
        let (listen, local) = (self.listen, self.local);
        let for_tasks = Arc::clone(services);
        services.tasks.spawn(async move {
            closing
                .run_until_cancelled(accept_loop(&socket, listen, local, &for_tasks))
                .await;
        });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

fn bind_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // So that "0.0.0.0:587" and "[::]:587" can stand side by side and mean what they say.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn accept_loop(
    socket: &TcpListener,
    listen: Listen,
    local: SocketAddr,
    services: &Arc<Services>,
) {
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        match socket.accept().await {
            Ok((stream, client)) => {
                pause = ACCEPT_PAUSE_MIN;
                admit(stream, client, listen, local, services);
            }
            // The client gave up before we came to it; that says nothing about the next one.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                let (listener, pause_ms) = (local.to_string(), pause.as_millis() as u64);
                tracing::warn!(
                    event = "accept.failed",
                    listener,
                    error = error.to_string(),
                    pause_ms
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    listen: Listen,
    local: SocketAddr,
    services: &Arc<Services>,
) {
    let generation = services.generation.load_full();
    let scope = Scope {
        session: session_name(),
        client: peer,
        proxy: None,
        logged_in: false,
    };
    if listen.proxy_protocol && !believes(&generation.proxies, listen, peer.ip()) {
        let refused = ServerEvent::ProxyRefused {
            listener: local,
            reason: "address not in proxies".to_owned(),
            silent: false,
        };
        return services.audit.server(&scope, &refused);
    }
    if !listen.proxy_protocol
        && let Err(shut) = services.guard.admit(peer.ip(), Now::read())
    {
        return shut_out(stream, &scope, listen.tls, shut, services);
    }
    let known = (!listen.proxy_protocol).then_some(peer.ip());
    let admission = services
        .doors
        .admit(known, &generation.limits, Now::read().instant);
    let is_heard = !matches!(admission, Err(NoRoom { refusal: None, .. }));
    let listen = Listen {
        address: local,
        ..listen
    };
    let for_task = Arc::clone(services);
    let connection = Connection::new(stream, scope, listen, admission, for_task, generation);
    // Behind a proxy it is announced under its own name, once that is known.
    if known.is_some() || !is_heard {
        connection.announce();
    }
    if is_heard {
        services.tasks.spawn(connection.run());
    }
}

/// Whether it is for `peer` to say whose connection it is.
fn believes(proxies: &Proxies, listen: Listen, peer: IpAddr) -> bool {
    let peer = peer.to_canonical();
    let mut networks = proxies.get(&listen).into_iter().flatten();
    networks.any(|network| network.contains(&peer))
}

/// A short name for a connection: random, so that it means nothing, and long enough to be found again in a log.
fn session_name() -> String {
    let mut bytes = [0; 6];
    // Without randomness the name is just not unique; nothing else hangs on it.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
