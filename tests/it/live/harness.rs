//! A [`World`] (a directory with a certificate, accounts and a configuration), the [`Daemon`] that runs in it as its own
//! process, and a [`Client`] that speaks to it.
//!
//! Nothing waits longer than [`PATIENCE`], and a daemon ends with the test that started it.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gatepost::account::password::{Parameters, make};
use gatepost::clock::Now;
use gatepost::secret::Secret;
use gatepost::server::TlsStart;
use gatepost::tls::fresh::self_signed;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use serde_json::Value;

use super::mounts::Mounts;
pub(super) use crate::process::PATIENCE;
use crate::process::{Lines, program};

/// Both ways in.
pub(super) const DOORS: [TlsStart; 2] = [TlsStart::StartTls, TlsStart::Implicit];

pub(super) const ALICE: &str = "alice@example.org";
pub(super) const PASSWORD: &str = "correct horse";

/// Everything the daemon reads, in a directory of its own.
pub(super) struct World {
    /// Where there are other file systems than ours.
    mounts: Option<Mounts>,
    root: tempfile::TempDir,
    pub(super) settings: Settings,
}

/// What differs from test to test: lines of each section of the configuration.
pub(super) struct Settings {
    pub(super) hostname: &'static str,
    /// Lines before the first section: `user` and the like.
    pub(super) process: &'static str,
    pub(super) listen: Vec<(String, &'static str)>,
    /// More lines for every listener, each with its end.
    pub(super) listeners: &'static str,
    pub(super) tls: &'static str,
    pub(super) auth: &'static str,
    pub(super) guessing: &'static str,
    pub(super) queue: &'static str,
    pub(super) limits: &'static str,
    pub(super) account_limits: &'static str,
    pub(super) log: &'static str,
    /// How many descriptors the process may have; `None`: as many as this one.
    pub(super) descriptors: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hostname: "mail.example.org",
            process: "",
            listen: vec![
                ("127.0.0.1:0".to_owned(), "starttls"),
                ("127.0.0.1:0".to_owned(), "implicit"),
            ],
            listeners: "",
            tls: "",
            auth: "",
            guessing: "",
            queue: "minimum_free = \"1MiB\"",
            limits: "",
            account_limits: "",
            log: "format = \"json\"\nlevel = \"trace\"",
            descriptors: None,
        }
    }
}

impl World {
    /// With a certificate for localhost and the account of [`ALICE`].
    pub(super) fn new(settings: Settings) -> Self {
        let world = Self {
            mounts: None,
            root: tempfile::tempdir().unwrap(),
            settings,
        };
        world.renew_certificate();
        world.replace("accounts.toml", &account(ALICE, PASSWORD, ""));
        world.write_configuration();
        world
    }

    /// With other `[limits]`.
    pub(super) fn with_limits(limits: &'static str) -> Self {
        Self::new(Settings {
            limits,
            ..Settings::default()
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The path as text, for comparing.
    pub(super) fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(super) fn write_configuration(&self) {
        let Settings {
            hostname,
            process,
            listen,
            listeners,
            tls,
            auth,
            guessing,
            queue,
            limits,
            account_limits,
            log,
            descriptors: _,
        } = &self.settings;
        let mut text = format!("hostname = \"{hostname}\"\n{process}");
        for (address, start) in listen {
            write!(
                text,
                "[[listen]]\naddress = \"{address}\"\ntls = \"{start}\"\n{listeners}"
            )
            .unwrap();
        }
        write!(
            text,
            "[[certificate]]\nchain = \"certificate.pem\"\nkey = \"key.pem\"\n\
             [tls]\n{tls}\n\
             [accounts]\nfile = \"accounts.toml\"\n\
             [queue]\ndirectory = \"queue\"\n{queue}\n\
             [limits]\n{limits}\n\
             [limits.account]\n{account_limits}\n\
             [log]\n{log}\n\
             [auth]\n{auth}\n\
             [guessing]\n{guessing}\n"
        )
        .unwrap();
        self.replace("gatepost.toml", &text);
    }

    /// Puts a file in its place, whole from one moment to the next.
    pub(super) fn replace(&self, name: &str, text: &str) {
        let mut file = tempfile::NamedTempFile::new_in(self.root.path()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.persist(self.path(name)).unwrap();
    }

    /// A new certificate with its key; gives the certificate.
    pub(super) fn renew_certificate(&self) -> String {
        let fresh = self_signed(&["localhost", "mail.example.org"], Now::read()).unwrap();
        fresh.write(self.root.path()).unwrap();
        fresh.chain
    }

    /// The certificate that stands in the file now.
    pub(super) fn certificate(&self) -> String {
        std::fs::read_to_string(self.path("certificate.pem")).unwrap()
    }

    /// Gives the daemon mounts of its own. What is mounted there we see by [`World::seen`].
    pub(super) fn isolate(&mut self) -> &Mounts {
        self.mounts.insert(Mounts::new())
    }

    /// Those of an isolated world.
    pub(super) fn mounts(&self) -> &Mounts {
        self.mounts.as_ref().unwrap()
    }

    /// A path as the daemon sees it, for us.
    pub(super) fn seen(&self, name: &str) -> PathBuf {
        match &self.mounts {
            None => self.path(name),
            Some(mounts) => mounts.seen(&self.path(name)),
        }
    }

    /// The queue directory.
    pub(super) fn queue(&self) -> PathBuf {
        self.seen("queue")
    }

    /// The names in a directory of the queue.
    pub(super) fn files(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.queue().join(directory)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The queued messages, the oldest first, each with its envelope.
    pub(super) fn queued(&self) -> Vec<(Value, String)> {
        let envelopes = self.files("ready");
        envelopes
            .iter()
            .filter_map(|name| name.strip_suffix(".json"))
            .map(|id| {
                let file = |extension: &str| {
                    let name = format!("ready/{id}.{extension}");
                    std::fs::read_to_string(self.queue().join(name)).unwrap()
                };
                (serde_json::from_str(&file("json")).unwrap(), file("eml"))
            })
            .collect()
    }

    fn command(&self) -> Command {
        let mut command = match (&self.mounts, self.settings.descriptors) {
            (None, None) => Command::new(program()),
            (Some(mounts), _) => mounts.command(program()),
            (None, Some(descriptors)) => {
                let mut shell = Command::new("sh");
                let limited = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
                shell.args(["-c", &limited]).arg(program());
                shell
            }
        };
        command
            .args(["serve", "-c"])
            .arg(self.path("gatepost.toml"))
            .stdin(Stdio::null())
            .env_remove("NOTIFY_SOCKET");
        command
    }

    /// `serve` that is expected to refuse: its exit status, and what it wrote to standard error. The directory's name
    /// is shown as DIR.
    pub(super) fn refused_start(&self) -> (Option<i32>, String) {
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that starts after all must not hang the test: it is told to stop, and its log is in the message.
        let ended = eventually(|| child.try_wait().unwrap());
        if ended.is_none() {
            let _ = child.kill();
        }
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        let root = self.root.path().display().to_string();
        let text = String::from_utf8(stderr).unwrap().replace(&root, "DIR");
        (status.code(), without_usual_warnings(&text))
    }

    /// A command on this world's configuration, with something on its standard input.
    pub(super) fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(program())
            .arg("-c")
            .arg(self.path("gatepost.toml"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that does not read it is no failure of ours.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// A command that succeeds: the JSON that it prints.
    pub(super) fn ask(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat(), "");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts the daemon and waits until it is ready.
    pub(super) fn start(&self) -> Daemon {
        let mut daemon = self.begin_start();
        let ready = daemon.log.wait_for(|line| {
            line.contains("\"event\":\"ready\"") || line.contains(" event=ready ")
        });
        daemon.listeners = listeners_in(&ready);
        daemon
    }

    /// Starts the daemon and waits for nothing.
    pub(super) fn begin_start(&self) -> Daemon {
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Lines::default();
        log.collect(child.stderr.take().unwrap());
        log.collect(child.stdout.take().unwrap());
        Daemon {
            child,
            log,
            listeners: Vec::new(),
            trusted: trusting(&self.certificate()),
        }
    }
}

/// What was said, but for the warnings about the cheap hashes that the tests have, and about root, if that is who runs
/// them.
fn without_usual_warnings(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.ends_with("is kept as argon2 with less than 7 MiB")
            || line.starts_with("warning: gatepost runs as root")
        {
            // Its hint.
            lines.next();
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// One entry of an accounts file, with a hash that costs next to nothing.
pub(super) fn account(name: &str, password: &str, more: &str) -> String {
    let cheap = Parameters {
        memory_kib: 64,
        passes: 1,
        lanes: 1,
    };
    let hash = make(&Secret::from(password), cheap).unwrap();
    format!("[[account]]\nname = \"{name}\"\npassword = \"{hash}\"\n{more}\n")
}

/// `listeners=` of a `ready` line in either format.
fn listeners_in(line: &str) -> Vec<(SocketAddr, TlsStart)> {
    match serde_json::from_str::<Value>(line) {
        Ok(event) => listeners_of(&event),
        Err(_) => {
            let (_, rest) = line.split_once(" listeners=").unwrap();
            parse_listeners(rest.split(' ').next().unwrap())
        }
    }
}

/// `listeners` of an event.
pub(super) fn listeners_of(event: &Value) -> Vec<(SocketAddr, TlsStart)> {
    parse_listeners(event["listeners"].as_str().unwrap())
}

fn parse_listeners(list: &str) -> Vec<(SocketAddr, TlsStart)> {
    list.split(',')
        .map(|listener| {
            let (address, name) = listener.split_once('/').unwrap();
            let name = name.trim_end_matches("/proxy");
            let start = DOORS.into_iter().find(|door| door.name() == name).unwrap();
            (address.parse().unwrap(), start)
        })
        .collect()
}

/// Tries until there is something, within bounds.
pub(super) fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
        if let Some(found) = attempt() {
            return Some(found);
        }
        std::thread::sleep(PAUSE);
    }
    None
}

/// A running daemon. Dropping it kills it.
pub(super) struct Daemon {
    child: Child,
    pub(super) log: Lines,
    pub(super) listeners: Vec<(SocketAddr, TlsStart)>,
    /// What its clients trust.
    pub(super) trusted: Arc<ClientConfig>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Daemon {
    /// Where that kind of listener is.
    pub(super) fn address(&self, door: TlsStart) -> SocketAddr {
        let of_kind = |(_, start): &&(SocketAddr, TlsStart)| *start == door;
        self.listeners.iter().find(of_kind).unwrap().0
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// The end, without any warning.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended by itself.
    pub(super) fn ended(&mut self) -> ExitStatus {
        eventually(|| self.child.try_wait().unwrap()).expect("the daemon ends by itself")
    }

    /// Stops it in the orderly way.
    pub(super) fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        assert_eq!(self.ended().code(), Some(0));
    }

    /// The events of a JSON log so far.
    pub(super) fn events(&self) -> Vec<Value> {
        let lines = self.log.lines();
        lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits for an event of that name that `is_it`.
    pub(super) fn event(&self, name: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let line = self.log.wait_for(|line| {
            serde_json::from_str(line)
                .is_ok_and(|event: Value| event["event"] == name && is_it(&event))
        });
        serde_json::from_str(&line).unwrap()
    }

    /// Waits until there have been so many events of that name.
    pub(super) fn event_number(&self, number: usize, name: &str) -> Value {
        let found = eventually(|| {
            let mut events = self.events().into_iter();
            events
                .by_ref()
                .filter(|event| event["event"] == name)
                .nth(number - 1)
        });
        found.unwrap_or_else(|| panic!("no {number} times {name}: {:#?}", self.events()))
    }

    /// Tells it to reload and waits until it has, or says that it cannot.
    pub(super) fn reload(&self) -> Value {
        let is_over = |event: &Value| {
            (event["event"] == "reload" || event["event"] == "reload.failed")
                && event["what"] == "configuration"
        };
        let before = self.events().iter().filter(|event| is_over(event)).count();
        self.signal(Signal::SIGHUP);
        eventually(|| self.events().into_iter().filter(is_over).nth(before)).expect("a reload ends")
    }

    /// A figure of /proc/PID/status, in KiB.
    pub(super) fn memory_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Waits until there is no connection left of those that were logged.
    pub(super) fn all_closed(&self) {
        let alone = eventually(|| {
            let events = self.events();
            let count = |name: &str| events.iter().filter(|event| event["event"] == name).count();
            (count("connected") == count("closed")).then_some(())
        });
        assert!(alone.is_some(), "all connections end");
    }
}

/// A client's TLS settings that trust this certificate and no other.
pub(super) fn trusting(certificate: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// What the client's octets travel over.
enum Stream {
    /// In the middle of a handshake.
    Between,
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A mail client. It panics at whatever it did not expect.
pub(super) struct Client {
    stream: Stream,
    unread: Vec<u8>,
    trusted: Arc<ClientConfig>,
    local: SocketAddr,
}

impl Client {
    /// Only the connection.
    pub(super) fn connect(daemon: &Daemon, door: TlsStart) -> Self {
        Self::connect_to(daemon, daemon.address(door))
    }

    pub(super) fn connect_to(daemon: &Daemon, address: SocketAddr) -> Self {
        Self::try_connect(address, Arc::clone(&daemon.trusted)).unwrap()
    }

    /// From another address of this machine.
    pub(super) fn connect_from(daemon: &Daemon, from: IpAddr, to: SocketAddr) -> Self {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(to),
            socket2::Type::STREAM,
            None,
        )
        .unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect(&to.into()).unwrap();
        Self::over(socket.into(), Arc::clone(&daemon.trusted)).unwrap()
    }

    pub(super) fn try_connect(
        address: SocketAddr,
        trusted: Arc<ClientConfig>,
    ) -> std::io::Result<Self> {
        Self::over(TcpStream::connect(address)?, trusted)
    }

    /// The same, to the listener of that kind.
    pub(super) fn come_from(source: &str, daemon: &Daemon, door: TlsStart) -> Self {
        Self::connect_from(daemon, source.parse().unwrap(), daemon.address(door))
    }

    fn over(stream: TcpStream, trusted: Arc<ClientConfig>) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            local: stream.local_addr()?,
            stream: Stream::Plain(stream),
            unread: Vec::new(),
            trusted,
        })
    }

    /// As far as the first greeting, which is the result too.
    pub(super) fn greeted(daemon: &Daemon, door: TlsStart) -> (Self, String) {
        let mut client = Self::connect(daemon, door);
        let greeting = client.greeting(door);
        (client, greeting)
    }

    /// Waits for the greeting.
    pub(super) fn greeting(&mut self, door: TlsStart) -> String {
        if door == TlsStart::Implicit {
            self.handshake();
        }
        self.reply()
    }

    /// As far as EHLO under TLS.
    pub(super) fn secured(daemon: &Daemon, door: TlsStart) -> Self {
        let mut client = Self::connect(daemon, door);
        client.secure(door);
        client
    }

    /// The same, from another of this machine's addresses.
    pub(super) fn secured_from(source: &str, daemon: &Daemon, door: TlsStart) -> Self {
        let mut client = Self::come_from(source, daemon, door);
        client.secure(door);
        client
    }

    /// From the connection on as far as EHLO under TLS.
    pub(super) fn secure(&mut self, door: TlsStart) {
        let greeting = self.greeting(door);
        assert!(greeting.starts_with("220 "), "{greeting}");
        if door == TlsStart::StartTls {
            self.expect("EHLO client.example.org", "250 ");
            self.start_tls();
        }
        self.expect("EHLO client.example.org", "250 ");
    }

    /// As far as the login of [`ALICE`].
    pub(super) fn logged_in(daemon: &Daemon, door: TlsStart) -> Self {
        let mut client = Self::secured(daemon, door);
        let reply = client.login(ALICE, PASSWORD);
        assert_eq!(reply, "235 2.7.0 authentication succeeded");
        client
    }

    /// As far as the answer to DATA.
    pub(super) fn in_data(daemon: &Daemon, door: TlsStart) -> Self {
        let mut client = Self::logged_in(daemon, door);
        client.begin_message();
        client
    }

    /// Our end of the connection, by which the log knows us.
    pub(super) fn port(&self) -> u16 {
        self.local.port()
    }

    /// Our end of the connection, as the log writes addresses.
    pub(super) fn local(&self) -> String {
        self.local.to_string()
    }

    /// Whether an event is about this client.
    pub(super) fn is_me(&self) -> impl Fn(&Value) -> bool + use<> {
        let port = self.port();
        move |event| event["port"] == port
    }

    pub(super) fn start_tls(&mut self) {
        self.expect("STARTTLS", "220 2.0.0 ");
        self.handshake();
    }

    pub(super) fn handshake(&mut self) {
        self.try_handshake().unwrap();
    }

    pub(super) fn try_handshake(&mut self) -> std::io::Result<()> {
        let Stream::Plain(mut tcp) = std::mem::replace(&mut self.stream, Stream::Between) else {
            panic!("TLS begins once");
        };
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection = ClientConnection::new(Arc::clone(&self.trusted), name).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut tcp)?;
        }
        self.stream = Stream::Tls(Box::new(StreamOwned::new(connection, tcp)));
        Ok(())
    }

    /// Sends octets. An error is left for the reading that follows: the server may have closed with a last word.
    pub(super) fn send(&mut self, octets: &[u8]) -> bool {
        let sent = match &mut self.stream {
            Stream::Between => panic!("no stream"),
            Stream::Plain(stream) => stream.write_all(octets),
            Stream::Tls(stream) => stream.write_all(octets).and_then(|()| stream.flush()),
        };
        sent.is_ok()
    }

    /// Sends the same octets again and again until the server has closed.
    pub(super) fn flood(&mut self, octets: &[u8]) {
        let until = Now::read().instant + PATIENCE;
        while self.send(octets) {
            assert!(
                Now::read().instant < until,
                "the server takes it without end"
            );
        }
    }

    pub(super) fn say(&mut self, line: &str) {
        self.send(format!("{line}\r\n").as_bytes());
    }

    fn read_some(&mut self) -> std::io::Result<usize> {
        let mut space = [0; 16 << 10];
        let count = match &mut self.stream {
            Stream::Between => panic!("no stream"),
            Stream::Plain(stream) => stream.read(&mut space),
            Stream::Tls(stream) => stream.read(&mut space),
        }?;
        self.unread.extend_from_slice(&space[..count]);
        Ok(count)
    }

    /// So many octets.
    pub(super) fn octets(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            assert!(self.read_some().unwrap() > 0, "closed");
        }
        self.unread.drain(..count).collect()
    }

    /// One line, without its end.
    pub(super) fn line(&mut self) -> String {
        self.try_line()
            .unwrap_or_else(|| panic!("closed after {:?}", self.unread()))
    }

    /// One line; `None` if the connection ended before there was a whole one. A server that is merely silent is a
    /// failure in any case.
    fn try_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8(self.unread[..end].to_vec()).unwrap();
                self.unread.drain(..end + 2);
                return Some(line);
            }
            match self.read_some() {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no line: {error}"),
                Err(_) => return None,
            }
        }
    }

    /// The last line of a reply.
    pub(super) fn reply(&mut self) -> String {
        self.try_reply()
            .unwrap_or_else(|| panic!("closed after {:?}", self.unread()))
    }

    /// The last line of a reply; `None` if the connection ended before it.
    pub(super) fn try_reply(&mut self) -> Option<String> {
        loop {
            let line = self.try_line()?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(line);
            }
        }
    }

    /// What came that is no whole line.
    pub(super) fn unread(&self) -> String {
        String::from_utf8_lossy(&self.unread).into_owned()
    }

    pub(super) fn try_ask(&mut self, line: &str) -> Option<String> {
        self.say(line);
        self.try_reply()
    }

    pub(super) fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.reply()
    }

    pub(super) fn expect(&mut self, line: &str, start: &str) -> String {
        let reply = self.ask(line);
        assert!(reply.starts_with(start), "{line}: {reply}, not {start}");
        reply
    }

    /// What is left until the server closes.
    pub(super) fn rest(&mut self) -> String {
        loop {
            match self.read_some() {
                Ok(0) => break,
                Ok(_) => {}
                // A TLS connection that ends without close_notify, or is reset, is closed too.
                Err(error) if error.kind() != ErrorKind::WouldBlock => break,
                Err(error) => panic!("it should have closed: {error}"),
            }
        }
        String::from_utf8_lossy(&std::mem::take(&mut self.unread)).into_owned()
    }

    pub(super) fn login(&mut self, name: &str, password: &str) -> String {
        self.try_login(name, password)
            .unwrap_or_else(|| panic!("closed after {:?}", self.unread()))
    }

    pub(super) fn try_login(&mut self, name: &str, password: &str) -> Option<String> {
        let response = BASE64_STANDARD.encode(format!("\0{name}\0{password}"));
        self.try_ask(&format!("AUTH PLAIN {response}"))
    }

    /// MAIL, RCPT and DATA.
    pub(super) fn begin_message(&mut self) {
        self.expect(&format!("MAIL FROM:<{ALICE}>"), "250 2.1.0 ");
        self.expect("RCPT TO:<bob@example.net>", "250 2.1.5 ");
        self.expect("DATA", "354 ");
    }

    /// A whole short message; the answer to its end.
    pub(super) fn message(&mut self, subject: &str) -> String {
        self.begin_message();
        self.ask(&text(subject))
    }

    /// What the server showed us.
    pub(super) fn certificate(&self) -> Vec<u8> {
        match &self.stream {
            Stream::Tls(stream) => stream.conn.peer_certificates().unwrap()[0].to_vec(),
            Stream::Between | Stream::Plain(_) => panic!("no TLS"),
        }
    }

    /// Whether this TLS connection goes on with the session of an earlier one.
    pub(super) fn is_resumed(&self) -> bool {
        match &self.stream {
            Stream::Tls(stream) => stream.conn.handshake_kind() == Some(HandshakeKind::Resumed),
            Stream::Between | Stream::Plain(_) => panic!("no TLS"),
        }
    }

    /// What both ends of this TLS connection know, and nobody else (RFC 9266).
    pub(super) fn exporter(&self) -> Vec<u8> {
        let Stream::Tls(stream) = &self.stream else {
            panic!("no TLS");
        };
        let label = b"EXPORTER-Channel-Binding";
        let exported = stream
            .conn
            .export_keying_material([0; 32], label, Some(b""));
        exported.unwrap().to_vec()
    }

    /// Leaves without a word: with the end of the stream, or with a reset.
    pub(super) fn vanish(self, reset: bool) {
        if reset {
            socket2::SockRef::from(self.socket())
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
    }

    /// Says that it will say no more.
    pub(super) fn end(&self) {
        self.socket().shutdown(Shutdown::Write).unwrap();
    }

    fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Between => panic!("no stream"),
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        }
    }

    /// What a TLS client would say first.
    pub(super) fn client_hello(&self) -> Vec<u8> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection = ClientConnection::new(Arc::clone(&self.trusted), name).unwrap();
        let mut octets = Vec::new();
        connection.write_tls(&mut octets).unwrap();
        octets
    }
}

/// A short message and the end of the data, but for its last CRLF.
pub(super) fn text(subject: &str) -> String {
    format!("From: <{ALICE}>\r\nSubject: {subject}\r\n\r\nThis is {subject}.\r\n.")
}

/// Whether the port refuses, or at least serves nobody.
pub(super) fn is_closed(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

/// An address of this machine beside 127.0.0.1.
pub(super) fn another_loopback() -> IpAddr {
    "127.0.0.2".parse().unwrap()
}

/// Moves a file or directory aside, or back.
#[expect(
    clippy::disallowed_methods,
    reason = "what an operator does, not what the queue does"
)]
pub(super) fn move_file(from: &Path, to: &Path) {
    std::fs::rename(from, to).unwrap();
}
