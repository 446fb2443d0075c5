//! Attacks that go on while somebody else sends mail.
//!
//! A [`Siege`] repeats one attack in several threads, each from addresses of its own, until it is told to end. Meanwhile
//! an honest client logs in and sends messages through both doors, and is served every time; the daemon's memory stays
//! where it was, but for what an open connection may cost; and when the siege is over, nothing of it is left. The bound
//! that held it back is named in each test, and looked for in the log.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gatepost::server::TlsStart;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::Value;

use super::harness::{
    ALICE, Client, DOORS, Daemon, PASSWORD, Settings, World, account, eventually,
};

mod dialogue;
mod flood;
mod incidents;
mod tls;

/// Who attacks after a login.
const MALLORY: &str = "mallory@example.org";
/// What the attacks together may add to the daemon's memory, beside what each open connection costs: what the allocator
/// keeps, and what is cached once (TLS sessions, thread stacks).
const SIEGE_KIB_MAX: u64 = 12 << 10;
/// What one open connection may cost at most: a TLS connection in the middle of its handshake, a line and a header section
/// that are not yet complete, replies that are not yet written.
const CONNECTION_KIB_MAX: u64 = 512;
/// How often the honest client comes through each door while the siege lasts.
const VISITS: usize = 2;
/// How long an attacker waits for anything: the end of a siege has to wait for it, too.
const ATTACKER_PATIENCE: Duration = Duration::from_secs(5);

/// A world whose log is small enough to be read whole, with an account for those who attack from within.
fn world(limits: &'static str, tls: &'static str) -> World {
    let world = World::new(Settings {
        limits,
        tls,
        // The visits are many messages, and those of the attackers are to fail for other reasons.
        account_limits: "messages_per_hour = \"unlimited\"\nrecipients_per_day = \"unlimited\"",
        log: "format = \"json\"\nlevel = \"debug\"\nstrangers_per_minute = \"unlimited\"",
        ..Settings::default()
    });
    let accounts = [account(ALICE, PASSWORD, ""), account(MALLORY, PASSWORD, "")];
    world.replace("accounts.toml", &accounts.concat());
    world
}

/// Where to attack, from where, and what it takes.
#[derive(Clone)]
struct Target {
    doors: [(TlsStart, SocketAddr); 2],
    source: Ipv4Addr,
    certificate: String,
    client: Arc<ClientConfig>,
}

type TlsStream = StreamOwned<ClientConnection, TcpStream>;

impl Target {
    /// The attacker of this number has an address of its own; nobody else has it.
    fn of(world: &World, daemon: &Daemon, number: u8) -> Self {
        // Each handshake is a whole one.
        let mut client = (*daemon.trusted).clone();
        client.resumption = Resumption::disabled();
        Self {
            doors: DOORS.map(|door| (door, daemon.address(door))),
            source: Ipv4Addr::new(127, 0, 1, 1 + number),
            certificate: world.certificate(),
            client: Arc::new(client),
        }
    }

    /// Only the connection.
    fn connect(&self, door: TlsStart) -> io::Result<TcpStream> {
        let (_, address) = self.doors[usize::from(door == TlsStart::Implicit)];
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(self.source.into(), 0).into())?;
        // Left with a reset, it gives its port back at once: there would soon be none left.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.connect(&address.into())?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ATTACKER_PATIENCE))?;
        stream.set_write_timeout(Some(ATTACKER_PATIENCE))?;
        Ok(stream)
    }

    /// As far as the greeting of the plain connection.
    fn greeted(&self) -> io::Result<TcpStream> {
        let mut stream = self.connect(TlsStart::StartTls)?;
        let greeting = reply(&mut stream)?;
        match greeting.starts_with("220 ") {
            true => Ok(stream),
            false => Err(io::Error::other(greeting)),
        }
    }

    /// As far as where TLS begins.
    fn before_tls(&self, door: TlsStart) -> io::Result<TcpStream> {
        if door == TlsStart::Implicit {
            return self.connect(door);
        }
        let mut stream = self.greeted()?;
        ask(&mut stream, b"EHLO attacker.example.org\r\n")?;
        ask(&mut stream, b"STARTTLS\r\n")?;
        Ok(stream)
    }

    /// As far as the end of the handshake.
    fn under_tls(&self, door: TlsStart) -> io::Result<TlsStream> {
        let mut stream = self.before_tls(door)?;
        let mut connection = self.connection();
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(connection, stream))
    }

    /// Which door is this attacker's, where one is enough.
    fn door(&self) -> TlsStart {
        DOORS[usize::from(self.source.octets()[3]) % 2]
    }

    fn connection(&self) -> ClientConnection {
        let name = ServerName::try_from("localhost").unwrap();
        ClientConnection::new(Arc::clone(&self.client), name).unwrap()
    }

    /// As far as EHLO under TLS.
    fn secured(&self, door: TlsStart) -> io::Result<TlsStream> {
        let mut stream = self.under_tls(door)?;
        if door == TlsStart::Implicit {
            reply(&mut stream)?;
        }
        ask(&mut stream, b"EHLO attacker.example.org\r\n")?;
        Ok(stream)
    }

    /// As far as a login.
    fn logged_in(&self, door: TlsStart) -> io::Result<TlsStream> {
        let mut stream = self.secured(door)?;
        let response = BASE64_STANDARD.encode(format!("\0{MALLORY}\0{PASSWORD}"));
        let answer = ask(&mut stream, format!("AUTH PLAIN {response}\r\n").as_bytes())?;
        match answer.starts_with("235 ") {
            true => Ok(stream),
            false => Err(io::Error::other(answer)),
        }
    }

    /// What a TLS client would say first.
    fn hello(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        self.connection().write_tls(&mut octets).unwrap();
        octets
    }
}

/// The last line of a reply.
fn reply(stream: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    let mut octet = [0];
    loop {
        line.clear();
        while !line.ends_with(b"\r\n") {
            stream.read_exact(&mut octet)?;
            line.push(octet[0]);
        }
        if line.get(3) != Some(&b'-') {
            line.truncate(line.len() - 2);
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
    }
}

fn ask<S: Read + Write>(stream: &mut S, octets: &[u8]) -> io::Result<String> {
    stream.write_all(octets)?;
    stream.flush()?;
    reply(stream)
}

/// Reads until there is no more.
fn until_closed(stream: &mut impl Read) -> io::Result<()> {
    let mut space = [0; 4096];
    while stream.read(&mut space)? > 0 {}
    Ok(())
}

/// An attack that goes on.
struct Siege {
    over: Arc<AtomicBool>,
    blows: Arc<AtomicU64>,
    /// Those of them that nothing cut short.
    whole: Arc<AtomicU64>,
    attackers: Vec<JoinHandle<()>>,
}

impl Siege {
    /// So many attackers do the same again and again. One blow is one time; that the daemon cuts it short is how most of
    /// them end.
    fn lay(
        world: &World,
        daemon: &Daemon,
        attackers: u8,
        attack: impl Fn(&Target) -> io::Result<()> + Clone + Send + 'static,
    ) -> Self {
        let (over, blows) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let whole = Arc::<AtomicU64>::default();
        let attackers = (0..attackers)
            .map(|number| {
                let (target, attack) = (Target::of(world, daemon, number), attack.clone());
                let (over, blows) = (Arc::clone(&over), Arc::clone(&blows));
                let whole = Arc::clone(&whole);
                std::thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        if attack(&target).is_ok() {
                            whole.fetch_add(1, Ordering::Relaxed);
                        }
                        blows.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        Self {
            over,
            blows,
            whole,
            attackers,
        }
    }

    /// Waits until so many more blows have fallen.
    fn wait_for(&self, blows: u64) {
        let until = self.blows.load(Ordering::Relaxed) + blows;
        let fallen = eventually(|| {
            // One that panicked has seen what must not be.
            let lost = self.attackers.iter().any(JoinHandle::is_finished);
            assert!(!lost, "see above");
            (self.blows.load(Ordering::Relaxed) >= until).then_some(())
        });
        assert!(fallen.is_some(), "the attack goes on");
    }

    /// How many blows nothing cut short.
    fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        for attacker in self.attackers {
            attacker.join().unwrap();
        }
        self.whole.load(Ordering::Relaxed)
    }
}

/// Attacks the daemon while an honest client is served, and looks at what is left afterwards. `open_max`: how many
/// connections the attackers have at a time.
fn besieged(
    world: &World,
    attackers: u8,
    open_max: u64,
    attack: impl Fn(&Target) -> io::Result<()> + Clone + Send + 'static,
) -> Daemon {
    lay_siege(world, attackers, open_max, attack).0
}

/// The same with an attack that comes to its own end: that it does is looked for, else it would show nothing.
fn besieged_to_the_end(
    world: &World,
    attackers: u8,
    open_max: u64,
    attack: impl Fn(&Target) -> io::Result<()> + Clone + Send + 'static,
) -> Daemon {
    let (daemon, whole) = lay_siege(world, attackers, open_max, attack);
    assert!(whole > 0, "each attack was cut short");
    daemon
}

fn lay_siege(
    world: &World,
    attackers: u8,
    open_max: u64,
    attack: impl Fn(&Target) -> io::Result<()> + Clone + Send + 'static,
) -> (Daemon, u64) {
    let daemon = world.start();
    for door in DOORS {
        visit(&daemon, door);
    }
    daemon.all_closed();
    let quiet_kib = daemon.memory_kib("VmHWM:");

    let siege = Siege::lay(world, &daemon, attackers, attack);
    siege.wait_for(1);
    for _ in 0..VISITS {
        for door in DOORS {
            visit(&daemon, door);
            // It goes on.
            siege.wait_for(1);
        }
    }
    let peak_kib = daemon.memory_kib("VmHWM:");
    let whole = siege.end();
    daemon.all_closed();
    let allowed_kib = quiet_kib + SIEGE_KIB_MAX + open_max * CONNECTION_KIB_MAX;
    assert!(
        peak_kib <= allowed_kib,
        "{quiet_kib} KiB when quiet, {peak_kib} KiB under attack, {allowed_kib} KiB allowed"
    );
    let of_alice = |(envelope, _): &(Value, String)| envelope["account"] == ALICE;
    let honest = world.queued().iter().filter(|one| of_alice(one)).count();
    assert_eq!(honest, (VISITS + 1) * DOORS.len());
    assert_eq!(world.files("drafts"), [""; 0]);
    (daemon, whole)
}

/// An honest client logs in and sends a message.
fn visit(daemon: &Daemon, door: TlsStart) {
    let mut client = Client::logged_in(daemon, door);
    let answer = client.message("an honest message");
    assert!(answer.starts_with("250 2.0.0 queued as "), "{answer}");
    client.expect("QUIT", "221 ");
}

/// How many events of that name have that reason.
fn times(daemon: &Daemon, name: &str, reason: &str) -> usize {
    let events = daemon.events();
    let is_it = |event: &&Value| event["event"] == name && event["reason"] == reason;
    events.iter().filter(is_it).count()
}

/// That a bound held the attackers back, and how often.
fn was_bounded(daemon: &Daemon, name: &str, reason: &str) {
    let count = times(daemon, name, reason);
    println!("{name} reason={reason:?}: {count} times");
    assert!(count > 0, "no {name} with {reason:?}");
}
