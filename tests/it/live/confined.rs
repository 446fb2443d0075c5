//! The daemon inside its sandbox, and as another user: it serves and reloads as always, what it cannot do it says, and
//! none of its threads is outside.
//!
//! What it takes root for, or Landlock, is left out where that is missing, and said.

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use gatepost::server::TlsStart;
use nix::unistd::{User, geteuid};
use serde_json::Value;

use super::harness::{
    ALICE, Client, DOORS, Daemon, PASSWORD, Settings, World, account, move_file, trusting,
};
use super::sandbox::{NOBODY, left_out};

const BOB: &str = "bob@example.org";
const ACCEPTED: &str = "235 2.7.0 authentication succeeded";
/// What a file that the sandbox does not let in is answered with.
const CLOSED: &str = "the sandbox was closed without it";
const AS_NOBODY: &str = "user = \"nobody\"\n";

fn ready(daemon: &Daemon) -> Value {
    daemon.event("ready", |_| true)
}

/// Whether the daemon has Landlock, and if not, that this is said.
fn has_landlock(daemon: &Daemon) -> bool {
    let ready = ready(daemon);
    let has = ready["sandbox"]
        .as_str()
        .unwrap()
        .starts_with("landlock abi ");
    if !has {
        left_out("what Landlock keeps the daemon from: this kernel has none");
    }
    has
}

/// A field of /proc/PID/task/TID/status, of every thread.
fn of_every_thread(process: u32, name: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let field = |task: std::io::Result<std::fs::DirEntry>| {
        // A thread may end meanwhile.
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let words = line.split_whitespace().skip(1);
        Some(words.collect::<Vec<_>>().join(" "))
    };
    tasks.filter_map(field).collect()
}

fn all_are(found: &[String], expected: &str) {
    // The first one, the runtime's, and the queue's.
    assert!(found.len() > 4, "{found:?}");
    assert!(found.iter().all(|one| one == expected), "{found:?}");
}

/// Lets everybody read what the daemon reads, its key included.
fn open_up(world: &World) {
    for name in [
        "",
        "gatepost.toml",
        "accounts.toml",
        "certificate.pem",
        "key.pem",
    ] {
        let mode = if name.is_empty() { 0o755 } else { 0o644 };
        std::fs::set_permissions(world.path(name), Permissions::from_mode(mode)).unwrap();
    }
}

fn exchange(daemon: &Daemon, subject: &str) {
    for door in DOORS {
        let reply = Client::logged_in(daemon, door).message(subject);
        assert!(reply.starts_with("250 "), "{reply}");
    }
}

#[test]
fn every_thread_is_inside() {
    let world = World::new(Settings::default());
    let daemon = world.start();
    exchange(&daemon, "from inside");
    let state = ready(&daemon)["sandbox"].clone();
    assert_eq!(world.ask(&["status"])["sandbox"], state);
    let state = state.as_str().unwrap();
    println!("the sandbox of the daemon: {state}");
    if state.starts_with("off: ") {
        return left_out("threads inside: this kernel has neither Landlock nor seccomp");
    }
    all_are(&of_every_thread(daemon.process(), "NoNewPrivs:"), "1");
    match state.ends_with(", seccomp") {
        true => all_are(&of_every_thread(daemon.process(), "Seccomp:"), "2"),
        false => left_out("threads with a filter: this kernel has no seccomp"),
    }
}

#[test]
fn it_can_be_off() {
    let world = World::new(Settings {
        process: "sandbox = \"off\"\n",
        ..Settings::default()
    });
    let daemon = world.start();
    exchange(&daemon, "without");
    assert_eq!(ready(&daemon)["sandbox"], "off");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ours = status
        .lines()
        .find(|line| line.starts_with("Seccomp:"))
        .unwrap();
    let ours = ours.split_whitespace().last().unwrap();
    all_are(&of_every_thread(daemon.process(), "Seccomp:"), ours);
}

/// Whoever tries gatepost out has one thread more, which shows what arrives.
#[test]
fn every_thread_is_inside_when_it_is_tried_out() {
    let tried = crate::daemon::Daemon::try_out();
    let ready = tried.log.wait(0, &["event=ready"]);
    match ready.contains(", seccomp\"") {
        true => all_are(&of_every_thread(tried.process(), "Seccomp:"), "2"),
        false => left_out("threads with a filter: this kernel has no seccomp"),
    }
}

/// The intruder's next best: names that the daemon opens itself, changed into links to what it must not open. The
/// accounts and the certificate are read by threads of the runtime.
#[test]
fn a_link_does_not_lead_outside() {
    let outside = tempfile::tempdir().unwrap();
    let stolen = outside.path().join("accounts.toml");
    std::fs::write(&stolen, account(BOB, PASSWORD, "")).unwrap();
    let link_accounts = |world: &World, to: &Path| {
        symlink(to, world.path("link")).unwrap();
        move_file(&world.path("link"), &world.path("accounts.toml"));
    };
    for process in ["", "sandbox = \"off\"\n"] {
        let world = World::new(Settings {
            process,
            ..Settings::default()
        });
        let daemon = world.start();
        if !process.is_empty() {
            // With no sandbox in the way that is an ordinary change.
            link_accounts(&world, &stolen);
            daemon.event_number(1, "reload");
            continue;
        }
        if !has_landlock(&daemon) {
            continue;
        }
        for (number, path) in [Path::new("/etc/shadow"), &stolen].into_iter().enumerate() {
            link_accounts(&world, path);
            // What reading said, and what the sandbox has to say about it.
            let first = daemon.event_number(number * 2 + 1, "reload.failed");
            let error = first["error"].as_str().unwrap();
            assert!(error.contains("Permission denied"), "{error}");
            let second = daemon.event_number(number * 2 + 2, "reload.failed");
            let error = second["error"].as_str().unwrap();
            assert!(error.contains(CLOSED), "{error}");
        }
        assert_eq!(
            Client::secured(&daemon, TlsStart::Implicit).login(ALICE, PASSWORD),
            ACCEPTED
        );
    }
}

/// The queue's threads, too.
#[test]
fn the_queue_does_not_lead_outside() {
    let world = World::new(Settings::default());
    let daemon = world.start();
    if !has_landlock(&daemon) {
        return;
    }
    exchange(&daemon, "before");
    let outside = tempfile::tempdir().unwrap();
    let ready = world.path("queue/ready");
    move_file(&ready, &world.path("queue/aside"));
    symlink(outside.path(), &ready).unwrap();
    let mut client = Client::logged_in(&daemon, TlsStart::Implicit);
    let reply = client.message("into the trap");
    assert_eq!(
        reply,
        "451 4.3.0 cannot store the message now, try again later"
    );
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// As certbot does it: the names that are configured are links, and a renewal makes them lead to other files.
#[test]
fn a_renewed_certificate_behind_a_link() {
    let world = World::new(Settings::default());
    let certbot = tempfile::tempdir().unwrap();
    for directory in ["live", "archive"] {
        std::fs::create_dir(certbot.path().join(directory)).unwrap();
    }
    let names = ["certificate.pem", "key.pem"];
    let link = |number: u32| {
        for name in names {
            let archived = format!("archive/{number}-{name}");
            std::fs::copy(world.path(name), certbot.path().join(&archived)).unwrap();
            let link = certbot.path().join("link");
            symlink(format!("../{archived}"), &link).unwrap();
            move_file(&link, &certbot.path().join("live").join(name));
        }
    };
    link(1);
    let text = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
    let text = names.iter().fold(text, |text, name| {
        let live = certbot.path().join("live").join(name);
        text.replace(&format!("\"{name}\""), &format!("\"{}\"", live.display()))
    });
    world.replace("gatepost.toml", &text);
    let mut daemon = world.start();
    exchange(&daemon, "before the renewal");
    daemon.trusted = trusting(&world.renew_certificate());
    link(2);
    daemon.event("reload", |event| event["what"] == "certificates");
    exchange(&daemon, "after the renewal");
}

#[test]
fn what_needs_a_restart_is_said() {
    let world = World::new(Settings::default());
    let daemon = world.start();
    let text = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
    let refused = |text: &str| {
        world.replace("gatepost.toml", text);
        let failed = daemon.reload();
        assert_eq!(failed["event"], "reload.failed");
        failed["error"].as_str().unwrap().to_owned()
    };

    let error = refused(&format!("sandbox = \"off\"\n{text}"));
    assert!(
        error.contains("user, group and sandbox cannot change while gatepost runs"),
        "{error}"
    );

    if has_landlock(&daemon) {
        // A good file in another place, and writing where only reading was needed.
        let elsewhere = tempfile::tempdir().unwrap();
        let path = elsewhere.path().join("accounts.toml");
        std::fs::write(&path, account(BOB, PASSWORD, "")).unwrap();
        let path = path.display().to_string();
        let error = refused(&text.replace("\"accounts.toml\"", &format!("\"{path}\"")));
        assert!(error.starts_with(&path), "{error}");
        assert!(
            error.contains(CLOSED) && error.contains("restart gatepost"),
            "{error}"
        );
        let error = refused(&text.replace("[auth]", "[auth]\nupgrade_hashes = true"));
        assert!(error.starts_with(&world.shown("accounts.toml")), "{error}");
        assert!(error.contains("cannot be written from inside"), "{error}");
        let issuer = "[[token_issuer]]\nissuer = \"https://id.example.org\"\naudience = \"smtp\"\n";
        let error = refused(&format!("{text}{issuer}"));
        assert!(error.contains("nobody can be asked from inside"), "{error}");
    }
    world.replace("gatepost.toml", &text);
    assert_eq!(daemon.reload()["event"], "reload");
    exchange(&daemon, "as before");
}

/// Everything that there is, as an ordinary user.
#[test]
fn root_is_given_up() {
    if !geteuid().is_root() {
        return left_out("giving up root: it takes root");
    }
    let nobody = User::from_name(NOBODY).unwrap().unwrap();
    let mut world = World::new(Settings {
        process: AS_NOBODY,
        ..Settings::default()
    });
    // A port for root alone, where there is a difference and one is free.
    let privileged = (600..1024)
        .rev()
        .map(|port| format!("127.0.0.1:{port}"))
        .find(|address| TcpListener::bind(address).is_ok());
    let address = privileged.unwrap();
    world.settings.listen.push((address.clone(), "starttls"));
    world.write_configuration();
    open_up(&world);
    let daemon = world.start();
    assert_eq!(ready(&daemon)["user"], NOBODY);
    assert_eq!(world.ask(&["status"])["user"], NOBODY);
    assert!(
        daemon
            .listeners
            .iter()
            .any(|(listens, _)| listens.to_string() == address)
    );
    for event in daemon.events() {
        let finding = event["finding"].as_str().unwrap_or_default();
        assert!(
            !finding.contains("cannot read it") && !finding.contains("runs as root"),
            "{finding}"
        );
    }

    // No way back, for any thread.
    exchange(&daemon, "as nobody");
    let four = |number: u32| vec![number.to_string(); 4].join(" ");
    all_are(
        &of_every_thread(daemon.process(), "Uid:"),
        &four(nobody.uid.as_raw()),
    );
    all_are(
        &of_every_thread(daemon.process(), "Gid:"),
        &four(nobody.gid.as_raw()),
    );
    let groups = of_every_thread(daemon.process(), "Groups:");
    assert!(
        groups
            .iter()
            .all(|groups| !groups.split(' ').any(|group| group == "0")),
        "{groups:?}"
    );
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
        all_are(&of_every_thread(daemon.process(), set), "0000000000000000");
    }

    // The queue is this user's, down to the last file.
    let mut directories = vec![world.path("queue")];
    let mut seen = 0;
    while let Some(directory) = directories.pop() {
        assert_eq!(directory.metadata().unwrap().uid(), nobody.uid.as_raw());
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            seen += 1;
            assert_eq!(
                path.symlink_metadata().unwrap().uid(),
                nobody.uid.as_raw(),
                "{path:?}"
            );
            if path.is_dir() {
                directories.push(path);
            }
        }
    }
    assert!(seen > 8, "{seen} files");

    // Changes are taken up.
    // Readable from the first moment on: the daemon looks once at what has changed.
    std::fs::write(world.path("new"), account(BOB, PASSWORD, "")).unwrap();
    std::fs::set_permissions(world.path("new"), Permissions::from_mode(0o644)).unwrap();
    move_file(&world.path("new"), &world.path("accounts.toml"));
    daemon.event_number(1, "reload");
    assert_eq!(
        Client::secured(&daemon, TlsStart::Implicit).login(BOB, PASSWORD),
        ACCEPTED
    );
    world.settings.hostname = "new.example.org";
    world.write_configuration();
    open_up(&world);
    assert_eq!(daemon.reload()["event"], "reload");
    let (_, greeting) = Client::greeted(&daemon, TlsStart::StartTls);
    assert!(greeting.starts_with("220 new.example.org "), "{greeting}");

    // A port for root is not to be had any more.
    let first = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    let first: u16 = std::fs::read_to_string(first)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    if first >= 1024 {
        world
            .settings
            .listen
            .push(("127.0.0.1:1".to_owned(), "starttls"));
        world.write_configuration();
        open_up(&world);
        let failed = daemon.reload();
        assert_eq!(failed["event"], "reload.failed");
        let error = failed["error"].as_str().unwrap();
        assert!(
            error.contains("bound by root at the start, or never"),
            "{error}"
        );
        world.settings.listen.pop();
        world.write_configuration();
        open_up(&world);
    } else {
        left_out("ports for root alone: there are none here");
    }
    daemon.stop();

    // And the next start finds all of it as it should be.
    let daemon = world.start();
    assert_eq!(ready(&daemon)["queued"], 2);
    daemon.stop();
}

#[test]
fn files_that_only_root_can_read_are_named() {
    if !geteuid().is_root() {
        return left_out("files for root alone: it takes root");
    }
    let world = World::new(Settings {
        process: AS_NOBODY,
        ..Settings::default()
    });
    open_up(&world);
    let key = world.path("key.pem");
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let daemon = world.start();
    let warning = daemon.event("warning", |event| {
        event["finding"]
            .as_str()
            .unwrap()
            .contains("user nobody cannot read it")
    });
    let finding = warning["finding"].as_str().unwrap();
    assert!(finding.starts_with(&key.display().to_string()), "{finding}");
    exchange(&daemon, "with the key from before");
    assert_eq!(daemon.reload()["event"], "reload.failed");
    exchange(&daemon, "and still");
}

#[test]
fn users_that_cannot_be() {
    let refused = |process: &'static str| {
        let world = World::new(Settings {
            process,
            ..Settings::default()
        });
        let (status, text) = world.refused_start();
        assert_eq!(status, Some(1), "{text}");
        assert!(!world.path("queue").exists(), "nothing was begun");
        text
    };
    assert_eq!(
        refused("user = \"no-such-user\"\n").trim_end(),
        "error: DIR/gatepost.toml: there is no user \"no-such-user\" (user, named at DIR/gatepost.toml:2)\n\
         hint: useradd --system --user-group --home-dir /nonexistent --shell /usr/sbin/nologin no-such-user"
    );
    assert_eq!(
        refused("user = \"nobody\"\ngroup = \"no-such-group\"\n").trim_end(),
        "error: DIR/gatepost.toml: there is no group \"no-such-group\" (user, named at DIR/gatepost.toml:2)\n\
         hint: groupadd --system no-such-group"
    );
    assert_eq!(
        refused("user = \"3141592653\"\n").trim_end(),
        "error: DIR/gatepost.toml: user 3141592653 is a number that no user has, so its group is unknown \
         (user, named at DIR/gatepost.toml:2)\nhint: name a group as well"
    );
    if !geteuid().is_root() {
        let text = refused("user = \"root\"\n");
        assert!(text.contains("only root can become user root"), "{text}");
        return left_out("a queue of somebody else: it takes root");
    }
    // The queue was root's until now.
    let mut world = World::new(Settings::default());
    world.start().stop();
    world.settings.process = AS_NOBODY;
    world.write_configuration();
    let (status, text) = world.refused_start();
    assert_eq!(status, Some(1));
    assert!(
        text.starts_with(
            "error: DIR/queue: the queue directory belongs to root, and gatepost is to run as nobody\n\
             hint: stop gatepost, then chown -R nobody:"
        ),
        "{text}"
    );
}

#[test]
fn root_without_a_user_is_told_so() {
    let warned = |process| {
        let world = World::new(Settings {
            process,
            ..Settings::default()
        });
        let output = world.run(&["check"], "");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.contains("warning: gatepost runs as root, and stays root")
    };
    assert_eq!(warned(""), geteuid().is_root());
    if geteuid().is_root() {
        assert!(!warned("user = \"root\"\n"), "who says so wants it");
    }
}

/// What root does in the daemon's place belongs to the daemon's user: it can read it afterwards.
#[test]
fn commands_of_root_leave_nothing_that_the_daemon_cannot_read() {
    if !geteuid().is_root() {
        return left_out("commands of root: this takes root");
    }
    let world = World::new(Settings {
        process: AS_NOBODY,
        ..Settings::default()
    });
    open_up(&world);
    let daemon = world.start();
    exchange(&daemon, "to be contained");
    exchange(&daemon, "to be held");
    let listed = world.ask(&["queue", "list"]);
    let ids: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["id"].as_str().unwrap())
        .collect();
    daemon.stop();
    let output = world.run(&["queue", "hold", ids[0]], "");
    assert!(output.status.success(), "{output:?}");
    let report = world.ask(&["contain", ALICE]);
    assert_eq!(report["held"].as_array().unwrap().len(), ids.len());
    let nobody = User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    let mut directories = vec![world.queue()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            assert_eq!(metadata.uid(), nobody, "{:?}", entry.path());
            if metadata.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    let daemon = world.start();
    assert_eq!(ready(&daemon)["contained"], 1);
    let report = world.ask(&["uncontain", ALICE]);
    assert_eq!(report["messages"].as_array().unwrap().len(), ids.len() - 1);
    exchange(&daemon, "afterwards");
    daemon.stop();
    world.ask(&["contain", ALICE]);
    world.ask(&["uncontain", ALICE]);
    let daemon = world.start();
    exchange(&daemon, "afterwards");
    daemon.stop();
}
