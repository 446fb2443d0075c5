//! The sandbox: what somebody who has taken over a thread cannot do, and that everything which gatepost does still can
//! be done.
//!
//! It is for good and for the whole process, so it happens in a process of its own: this test program again, as
//! [`probe`], which enters it as the daemon does, tries what an intruder would, and says how each attempt ended. Walls
//! that a kernel lacks are played by a filter that denies that they exist.
//!
//! Nothing here fails for a kernel without Landlock or seccomp, or for want of root: [`what_this_kernel_has`] prints what
//! there is, and what cannot be shown is left out, loudly. The daemon itself is in `confined.rs`.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use gatepost::sandbox::identity::Identity;
use gatepost::sandbox::{Needs, Prepared, ProcessSettings, SandboxMode};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::ptrace;
use nix::sys::signal::kill;
use nix::unistd::{Uid, chroot, geteuid, getppid, setfsuid, syncfs};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// What the probe is told, in its environment.
const TOLD: &str = "GATEPOST_SANDBOX_PROBE";
/// Somebody who is on every system and owns nothing.
pub(super) const NOBODY: &str = "nobody";

// ------------------------------------------------------------------------------------------------ the probe

/// What the probe is to do, and where.
struct Told {
    root: PathBuf,
    words: Vec<String>,
}

impl Told {
    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|one| one == word)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

/// The intruder. It does nothing but in the process that [`Scene::probe`] starts.
#[test]
#[ignore = "the other half of the tests here, which start it"]
fn probe() {
    let Ok(told) = std::env::var(TOLD) else {
        return;
    };
    let mut words = told.split(' ').map(str::to_owned);
    let told = Told {
        root: words.next().unwrap().into(),
        words: words.collect(),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for (word, calls) in [
        (
            "without-landlock",
            &[
                libc::SYS_landlock_create_ruleset,
                libc::SYS_landlock_add_rule,
                libc::SYS_landlock_restrict_self,
            ][..],
        ),
        ("without-seccomp", &[libc::SYS_seccomp]),
    ] {
        if told.has(word) {
            pretend_there_are_no(calls);
        }
    }
    let mode = match (told.has("off"), told.has("required")) {
        (true, _) => SandboxMode::Off,
        (_, true) => SandboxMode::Required,
        _ => SandboxMode::On,
    };
    let needs = Needs {
        read: vec![told.path("etc/gatepost.toml")],
        replace: Vec::new(),
        own: vec![told.path("queue")],
        network_client: told.has("network-client"),
    };
    let prepared = Prepared::new(mode, &needs);
    if told.has("nobody") {
        let settings = ProcessSettings {
            user: Some(NOBODY.to_owned()),
            ..ProcessSettings::default()
        };
        let identity = Identity::find(&settings).unwrap().unwrap();
        identity.assume().unwrap();
    }
    let sandbox = match prepared.enter() {
        Ok(sandbox) => sandbox,
        Err(finding) => {
            say("refused", &finding.one_line());
            return;
        }
    };
    say("sandbox", &sandbox.in_words());
    // The thread that is taken over is not the one that closed the sandbox.
    let intruder = std::thread::spawn(move || {
        if told.has("exec") {
            let error = Command::new("/bin/sh").args(["-c", "exit 0"]).exec();
            say("exec", &in_words(Err(error)));
        } else {
            try_everything(&told, &listener);
            if sandbox.in_words().ends_with(", seccomp") {
                try_the_worst(&told);
            }
        }
    });
    intruder.join().unwrap();
    say("end", "reached");
}

/// A line for the test that started us; what the test harness prints has no tab.
fn say(name: &str, what: &str) {
    println!("\n{name}\t{what}");
}

fn in_words(result: io::Result<()>) -> String {
    match result {
        Ok(()) => "done".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(number) => format!("{:?}", Errno::from_raw(number)),
            None => error.to_string(),
        },
    }
}

fn pretend_there_are_no(calls: &[libc::c_long]) {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(Errno::ENOSYS as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program = BpfProgram::try_from(filter.unwrap()).unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[expect(
    clippy::disallowed_methods,
    reason = "what an intruder does, not what the queue does"
)]
fn try_everything(told: &Told, listener: &TcpListener) {
    let queue = |name: &str| told.path("queue").join(name);
    let attempt = |name: &str, result: io::Result<()>| say(name, &in_words(result));

    // What gatepost does itself.
    attempt(
        "read the configuration",
        std::fs::read(told.path("etc/gatepost.toml")).map(drop),
    );
    attempt(
        "read a file beside it",
        std::fs::read(told.path("etc/key.pem")).map(drop),
    );
    let in_queue = || -> io::Result<()> {
        std::fs::create_dir(queue("ready"))?;
        std::fs::create_dir(queue("drafts"))?;
        std::fs::write(queue("drafts/1"), "a message")?;
        std::fs::File::options()
            .write(true)
            .open(queue("drafts/1"))?
            .set_len(3)?;
        std::fs::rename(queue("drafts/1"), queue("ready/1"))?;
        let directory = std::fs::File::open(told.path("queue"))?;
        syncfs(&directory)?;
        nix::sys::statvfs::statvfs(&queue(""))?;
        UnixListener::bind(queue("control"))?;
        std::fs::remove_file(queue("control"))?;
        std::fs::remove_file(queue("ready/1"))
    };
    attempt("work in the queue", in_queue());
    attempt(
        "start a thread",
        std::thread::Builder::new().spawn(|| ()).map(drop),
    );
    attempt(
        "bind a port",
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map(drop),
    );
    attempt(
        "have randomness",
        getrandom::fill(&mut [0; 8]).map_err(io::Error::other),
    );

    // Files.
    for path in [
        "/etc/shadow",
        "/etc/passwd",
        "/etc/hosts",
        "/proc/self/environ",
        "/bin/sh",
    ] {
        attempt(&format!("read {path}"), std::fs::read(path).map(drop));
    }
    attempt("list /etc", std::fs::read_dir("/etc").map(drop));
    attempt("list /", std::fs::read_dir("/").map(drop));
    let outside = told.path("outside");
    attempt(
        "read outside",
        std::fs::read(outside.join("secret")).map(drop),
    );
    attempt("write outside", std::fs::write(outside.join("new"), ""));
    attempt(
        "overwrite outside",
        std::fs::write(outside.join("secret"), ""),
    );
    attempt(
        "remove outside",
        std::fs::remove_file(outside.join("secret")),
    );
    attempt(
        "link into the queue",
        std::fs::hard_link(outside.join("secret"), queue("secret")),
    );
    attempt(
        "link from the queue",
        symlink("/etc/passwd", queue("passwd")),
    );
    attempt("move out of the queue", {
        std::fs::write(queue("moved"), "")
            .and_then(|()| std::fs::rename(queue("moved"), outside.join("moved")))
    });
    attempt(
        "change the configuration",
        std::fs::write(told.path("etc/gatepost.toml"), ""),
    );
    attempt(
        "add to the configuration",
        std::fs::write(told.path("etc/new.toml"), ""),
    );
    attempt("execute from the queue", {
        std::fs::copy("/bin/true", queue("true")).map(drop)
    });

    // Programs, and other processes.
    let shell = Command::new("/bin/sh").args(["-c", "exit 0"]).spawn();
    attempt(
        "start a shell",
        shell.and_then(|mut shell| shell.wait()).map(drop),
    );
    attempt(
        "signal another process",
        kill(getppid(), None).map_err(io::Error::from),
    );

    // The network.
    attempt(
        "connect",
        TcpStream::connect(listener.local_addr().unwrap()).map(drop),
    );
    let packets = socket2::Socket::new(libc::AF_PACKET.into(), socket2::Type::RAW, None);
    attempt("see packets", packets.map(drop));

    // The one call of its kind that concerns this thread alone. It says who was before, and has no other answer.
    let [other, nobody] = [1, u32::MAX].map(Uid::from_raw);
    setfsuid(other);
    let became = match setfsuid(nobody) == other {
        true => Ok(()),
        false => Err(Errno::EPERM.into()),
    };
    attempt("become another user", became);
}

/// What would leave its traces on the machine, if it succeeded.
fn try_the_worst(told: &Told) {
    let attempt = |name: &str, result: nix::Result<()>| {
        say(name, &in_words(result.map_err(io::Error::from)));
    };
    let place = told.path("outside");
    let none: Option<&str> = None;
    let mounted = mount(Some("tmpfs"), &place, Some("tmpfs"), MsFlags::empty(), none);
    attempt("mount", mounted);
    attempt("trace another process", ptrace::attach(getppid()));
    attempt("make a namespace", unshare(CloneFlags::CLONE_NEWUSER));
    attempt("change the root", chroot(&place));
}

// ------------------------------------------------------------------------------------------------ asking it

/// A directory in which a probe looks around.
struct Scene {
    root: tempfile::TempDir,
}

/// What became of a probe.
struct Seen {
    status: ExitStatus,
    lines: BTreeMap<String, String>,
}

impl Scene {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for (directory, mode) in [
            ("", 0o755),
            ("etc", 0o755),
            ("queue", 0o777),
            ("outside", 0o777),
        ] {
            let path = root.path().join(directory);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        for name in ["etc/gatepost.toml", "etc/key.pem", "outside/secret"] {
            let path = root.path().join(name);
            std::fs::write(&path, "a secret").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        }
        Self { root }
    }

    fn probe(&self, words: &str) -> Seen {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "live::sandbox::probe",
                "--ignored",
                "--nocapture",
            ])
            .env(TOLD, format!("{} {words}", self.root.path().display()))
            // Reading the program's own file for names of functions would be one more thing that is refused.
            .env("RUST_BACKTRACE", "0")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: BTreeMap<_, _> = text
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(name, what)| (name.to_owned(), what.to_owned()))
            .collect();
        assert!(!lines.is_empty(), "{output:?}");
        Seen {
            status: output.status,
            lines,
        }
    }

    /// What an intruder did change outside.
    fn is_untouched(&self) -> bool {
        let outside = self.root.path().join("outside");
        let names = std::fs::read_dir(&outside).unwrap().count();
        names == 1 && std::fs::read(outside.join("secret")).unwrap() == b"a secret"
    }
}

impl Seen {
    fn of(&self, name: &str) -> &str {
        let found = self.lines.get(name);
        found.unwrap_or_else(|| panic!("no {name} in {:#?}", self.lines))
    }

    /// Which Landlock it has; `None`: none.
    fn landlock(&self) -> Option<u32> {
        let (_, rest) = self.of("sandbox").split_once("landlock abi ")?;
        let number = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        number.parse().ok()
    }

    fn has_seccomp(&self) -> bool {
        self.of("sandbox").split(", ").any(|wall| wall == "seccomp")
    }

    fn check(&self, expected: &str, names: &[&str]) {
        for name in names {
            assert_eq!(self.of(name), expected, "{name}: {:#?}", self.lines);
        }
    }

    /// Everything that Landlock is there for.
    fn check_files(&self, abi: u32) {
        self.check(
            "EACCES",
            &[
                "read /etc/passwd",
                "read /etc/shadow",
                "read /proc/self/environ",
                "read /bin/sh",
                "list /etc",
                "list /",
                "read outside",
                "write outside",
                "overwrite outside",
                "remove outside",
                "link from the queue",
                "change the configuration",
                "add to the configuration",
                "execute from the queue",
            ],
        );
        // A link or a move between two directories is refused as if they were on two disks, where it would give rights.
        for name in ["link into the queue", "move out of the queue"] {
            assert!(
                ["EACCES", "EXDEV"].contains(&self.of(name)),
                "{name}: {}",
                self.of(name)
            );
        }
        if abi >= 4 {
            self.check("EACCES", &["connect"]);
        }
        if abi >= 6 {
            self.check("EPERM", &["signal another process"]);
        }
    }

    /// Everything that seccomp is there for.
    fn check_calls(&self) {
        self.check(
            "EPERM",
            &[
                "start a shell",
                "trace another process",
                "make a namespace",
                "mount",
                "change the root",
                "become another user",
            ],
        );
        self.check("EAFNOSUPPORT", &["see packets"]);
    }

    /// Everything that gatepost does itself.
    fn check_ours(&self) {
        self.check(
            "done",
            &[
                "read the configuration",
                "read a file beside it",
                "work in the queue",
                "start a thread",
                "bind a port",
                "have randomness",
            ],
        );
        self.check("reached", &["end"]);
        assert!(self.status.success());
    }
}

/// Says what a test could not show here.
pub(super) fn left_out(what: &str) {
    println!("LEFT OUT: {what}");
}

/// For whoever reads the log of a test run: which of the tests below could prove something.
#[test]
fn what_this_kernel_has() {
    let seen = Scene::new().probe("");
    println!("the sandbox on this machine: {}", seen.of("sandbox"));
    if seen.landlock().is_none() {
        left_out("Landlock: this kernel has none");
    }
    if !seen.has_seccomp() {
        left_out("seccomp: this kernel has none, or not for this architecture");
    }
    if !geteuid().is_root() {
        left_out("becoming another user: it takes root");
    }
}

#[test]
fn an_intruder_gets_nowhere() {
    for words in ["", "required", "nobody"] {
        if words == "nobody" && !geteuid().is_root() {
            left_out("becoming another user: it takes root");
            continue;
        }
        let scene = Scene::new();
        let seen = scene.probe(words);
        let (landlock, seccomp) = (seen.landlock(), seen.has_seccomp());
        if words == "required" && (landlock.is_none() || !seccomp) {
            assert!(seen.of("refused").contains("the sandbox is required"));
            continue;
        }
        seen.check_ours();
        match landlock {
            Some(abi) => {
                seen.check_files(abi);
                assert!(scene.is_untouched());
            }
            None => left_out("files: no Landlock"),
        }
        match seccomp {
            true => seen.check_calls(),
            false => left_out("system calls: no seccomp"),
        }
    }
}

/// The attempts are ones that succeed when nothing is in their way: without a sandbox they do.
#[test]
fn without_a_sandbox_much_is_possible() {
    let scene = Scene::new();
    let seen = scene.probe("off");
    assert_eq!(seen.of("sandbox"), "off");
    seen.check_ours();
    seen.check(
        "done",
        &[
            "read /etc/passwd",
            "read /proc/self/environ",
            "read /bin/sh",
            "list /etc",
            "list /",
            "read outside",
            "write outside",
            "overwrite outside",
            "link from the queue",
            "move out of the queue",
            "execute from the queue",
            "start a shell",
            "signal another process",
            "connect",
        ],
    );
    assert!(!scene.is_untouched());
    if geteuid().is_root() {
        seen.check("done", &["read /etc/shadow", "become another user"]);
    }
}

/// Each of the two walls keeps a shell from starting, if the other is not there.
#[test]
fn nothing_is_executed() {
    let scene = Scene::new();
    let both = scene.probe("exec");
    let calls = scene.probe("exec without-landlock");
    let files = scene.probe("exec without-seccomp");
    assert_eq!(calls.landlock(), None, "{}", calls.of("sandbox"));
    assert!(!files.has_seccomp(), "{}", files.of("sandbox"));
    if both.has_seccomp() {
        for seen in [&both, &calls] {
            assert_eq!(seen.status.signal(), Some(libc::SIGSYS), "{:?}", seen.lines);
            assert!(!seen.lines.contains_key("exec"));
        }
    } else {
        left_out("the end of who executes something: no seccomp");
    }
    if both.landlock().is_some() {
        files.check("EACCES", &["exec"]);
    } else {
        left_out("files that cannot be executed: no Landlock");
    }
    // And with none of the two a shell starts in our place, and says nothing more.
    let none = scene.probe("exec off");
    assert!(none.status.success());
    assert!(!none.lines.contains_key("exec") && !none.lines.contains_key("end"));
}

#[test]
fn what_the_kernel_lacks_is_named() {
    let probe = |words: &str| Scene::new().probe(words);
    let full = probe("");
    let files = probe("without-seccomp");
    let calls = probe("without-landlock");
    let none = probe("without-landlock without-seccomp");
    let no_landlock = "no landlock in this kernel";
    let no_seccomp = "no seccomp (Function not implemented (os error 38))";
    assert_eq!(
        none.of("sandbox"),
        format!("off: {no_landlock}, {no_seccomp}")
    );
    none.check_ours();
    if let Some(abi) = full.landlock() {
        assert_eq!(
            files.of("sandbox"),
            format!("landlock abi {abi}, {no_seccomp}")
        );
        files.check_ours();
        files.check_files(abi);
    }
    if full.has_seccomp() {
        assert_eq!(calls.of("sandbox"), format!("{no_landlock}, seccomp"));
        calls.check_ours();
        calls.check_calls();
    }
    for words in ["without-landlock", "without-landlock without-seccomp"] {
        let refused = probe(&format!("required {words}"));
        let said = refused.of("refused");
        assert!(
            said.starts_with("the sandbox is required, and no landlock in this kernel"),
            "{said}"
        );
    }
}

#[test]
fn who_connects_may_look_names_up() {
    let seen = Scene::new().probe("network-client");
    seen.check_ours();
    seen.check("done", &["connect", "read /etc/hosts"]);
    if seen.landlock().is_some() {
        seen.check(
            "EACCES",
            &[
                "read /etc/shadow",
                "read /etc/passwd",
                "list /etc",
                "read outside",
            ],
        );
    }
}
