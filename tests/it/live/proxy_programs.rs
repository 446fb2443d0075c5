//! Real proxies with the configurations that we ship: haproxy (which says version 2) and nginx (version 1) bring a
//! client, and haproxy looks after us.
//!
//! They have to be installed: the tests are ignored by default, and `.ci/run` installs both and runs them.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use gatepost::server::TlsStart;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::harness::{
    ALICE, Client, DOORS, Daemon, PASSWORD, Settings, World, another_loopback, eventually,
};
use crate::process::Lines;

const HAPROXY: &str = include_str!("../../../config/haproxy.cfg");
const NGINX: &str = include_str!("../../../config/nginx.conf");
/// Health checks that are waited for. haproxy gives a server up after three that fail.
const CHECKS: usize = 5;

/// A running proxy, which ends with the test.
struct Proxy {
    process: Child,
    log: Lines,
    /// Where it listens for 587, and for 465.
    addresses: [SocketAddr; 2],
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // In good order: nginx has a second process, which goes with the first one then.
        let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
        if eventually(|| self.process.try_wait().unwrap()).is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        println!("the proxy said {:#?}", self.log.to_the_end());
    }
}

impl Proxy {
    /// Runs `command`, the words of a shell, which finds its two listening sockets as descriptors 3 and 4. So the kernel
    /// chooses the ports, and nobody else can take them.
    fn start(command: &str, listening: [TcpListener; 2]) -> Self {
        let addresses = listening.each_ref().map(|one| one.local_addr().unwrap());
        let [submission, submissions] = listening.map(OwnedFd::from);
        let mut process = Command::new("sh")
            .args(["-c", &format!("exec {command} 3<&0 4<&1 </dev/null >&2")])
            // Where Debian has them is not in everybody's path.
            .env(
                "PATH",
                "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin",
            )
            .stdin(Stdio::from(submission))
            .stdout(Stdio::from(submissions))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Lines::of(process.stderr.take().unwrap());
        Self {
            process,
            log,
            addresses,
        }
    }

    fn address(&self, door: TlsStart) -> SocketAddr {
        match door {
            TlsStart::StartTls => self.addresses[0],
            TlsStart::Implicit => self.addresses[1],
        }
    }
}

fn listening() -> [TcpListener; 2] {
    [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap())
}

fn world() -> World {
    World::new(Settings {
        listeners: "proxy_protocol = true\nproxies = [\"127.0.0.1\"]\n",
        ..Settings::default()
    })
}

/// The shipped text with these words in place of those, each of which is there once.
fn adapted(shipped: &str, words: &[(&str, String)]) -> String {
    // What is commented out is for people.
    let lines = shipped.lines().filter(|line| !line.starts_with('#'));
    let mut text: String = lines.map(|line| format!("{line}\n")).collect();
    for (from, to) in words {
        assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
        text = text.replace(from, to);
    }
    text
}

/// Clients from an address that is not the proxy's come in by both ways, and are known by theirs.
fn brings_clients(world: &World, daemon: &Daemon, proxy: &Proxy) {
    let home: IpAddr = another_loopback();
    for door in DOORS {
        let mut client = Client::connect_from(daemon, home, proxy.address(door));
        client.secure(door);
        assert_eq!(
            client.login(ALICE, PASSWORD),
            "235 2.7.0 authentication succeeded"
        );
        assert!(client.message("by a proxy").starts_with("250 "));
        let connected = daemon.event("connected", client.is_me());
        assert_eq!(connected["client"], home.to_string());
        assert!(
            connected["proxy"]
                .as_str()
                .unwrap()
                .starts_with("127.0.0.1:"),
            "{connected}"
        );
        let (envelope, _) = world.queued().pop().unwrap();
        assert_eq!(envelope["client"]["address"], home.to_string());
        assert_eq!(envelope["client"]["port"], client.port());
    }
    // Commands that come at once, perhaps in one segment with the header.
    let mut client = Client::connect_from(daemon, home, proxy.address(TlsStart::StartTls));
    client.send(b"EHLO client.example.org\r\nNOOP\r\nQUIT\r\n");
    for start in ["220 ", "250 ", "250 ", "221 "] {
        assert!(client.reply().starts_with(start));
    }
}

#[test]
#[ignore = "needs haproxy: .ci/run installs it"]
fn haproxy_brings_clients_and_looks_after_us() {
    let world = world();
    let daemon = world.start();
    let server = |door| daemon.address(door).to_string();
    let text = adapted(
        HAPROXY,
        &[
            ("[::]:587 v4v6", "fd@3".to_owned()),
            ("[::]:465 v4v6", "fd@4".to_owned()),
            ("192.0.2.10:587", server(TlsStart::StartTls)),
            ("192.0.2.10:465", server(TlsStart::Implicit)),
            ("check inter 10s", "check inter 100ms".to_owned()),
            (
                "verify none inter 10s",
                "verify none inter 100ms".to_owned(),
            ),
        ],
    );
    world.replace("haproxy.cfg", &text);
    let command = format!("haproxy -db -f {}", world.shown("haproxy.cfg"));
    let proxy = Proxy::start(&command, listening());
    brings_clients(&world, &daemon, &proxy);

    let checks = |listener: &str| {
        let of_check = |event: &&Value| {
            event["event"] == "connected"
                && event["listener"] == listener
                && event["client"] == "127.0.0.1"
        };
        daemon.events().iter().filter(of_check).count()
    };
    for door in DOORS {
        let listener = server(door);
        let checked = eventually(|| (checks(&listener) > CHECKS).then_some(()));
        assert!(checked.is_some(), "{listener} is looked at");
    }
    // It still thinks well of us, and has left no line in an ordinary log.
    brings_clients(&world, &daemon, &proxy);
    let lines = proxy.log.lines();
    assert!(
        !lines.iter().any(|line| line.contains("is DOWN")),
        "{lines:#?}"
    );
    drop(proxy);
    daemon.all_closed();
    for event in daemon.events() {
        assert!(
            event["client"] != "127.0.0.1" || event["level"] == "debug",
            "{event}"
        );
    }
}

#[test]
#[ignore = "needs nginx with its stream module: .ci/run installs it"]
fn nginx_brings_clients() {
    let world = world();
    let daemon = world.start();
    let server = |door| daemon.address(door).to_string();
    let listening = listening();
    let [submission, submissions] = listening.each_ref().map(|one| one.local_addr().unwrap());
    let text = adapted(
        NGINX,
        &[
            ("listen 587;", format!("listen {submission};")),
            ("listen [::]:587;", String::new()),
            ("listen 465;", format!("listen {submissions};")),
            ("listen [::]:465;", String::new()),
            ("192.0.2.10:587", server(TlsStart::StartTls)),
            ("192.0.2.10:465", server(TlsStart::Implicit)),
        ],
    );
    // What Debian's nginx.conf has around it, in a directory of ours.
    let text = format!(
        "user www-data;\ndaemon off;\npid {};\nerror_log stderr;\n\
         load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nevents {{}}\n{text}",
        world.shown("nginx.pid"),
    );
    world.replace("nginx.conf", &text);
    // It takes sockets over as it does from an nginx that it replaces.
    let configuration = world.shown("nginx.conf");
    let command = format!("env NGINX='3;4;' nginx -e stderr -c {configuration}");
    let proxy = Proxy::start(&command, listening);
    brings_clients(&world, &daemon, &proxy);
}
