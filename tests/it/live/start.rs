//! Starts that fail: what the operator reads, to the letter, and the exit status.

use std::net::TcpListener;

use gatepost::server::TlsStart;

use super::harness::{ALICE, Client, PASSWORD, Settings, World, account, eventually};

fn refused(world: &World) -> String {
    let (status, text) = world.refused_start();
    assert_eq!(status, Some(1), "{text}");
    text
}

fn check(spoil: impl FnOnce(&mut World), expected: &str) {
    let mut world = World::new(Settings::default());
    spoil(&mut world);
    assert_eq!(refused(&world).trim_end(), expected);
    assert!(!world.path("queue").exists(), "nothing was begun");
}

#[test]
fn an_unknown_key() {
    check(
        |world| {
            let text = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
            let (first, rest) = text.split_once('\n').unwrap();
            world.replace(
                "gatepost.toml",
                &format!("{first}\nhostnam = \"x\"\n{rest}"),
            );
        },
        "error: DIR/gatepost.toml:2:1: unknown key `hostnam`\n  2 | hostnam = \"x\"\n    | ^^^^^^^\n\
         hint: did you mean `hostname`?",
    );
}

#[test]
fn a_value_of_the_wrong_type() {
    check(
        |world| {
            world.settings.limits = "connections = \"many\"";
            world.write_configuration();
        },
        "error: DIR/gatepost.toml:19:15: `limits.connections` is a text, not a whole number\n  \
         19 | connections = \"many\"\n     |               ^^^^^^\n\
         hint: write it without quotes: connections = 5000",
    );
}

#[test]
fn no_configuration() {
    check(
        |world| std::fs::remove_file(world.path("gatepost.toml")).unwrap(),
        "error: DIR/gatepost.toml: cannot read the configuration: No such file or directory (os error 2)\n\
         hint: name another file with `-c FILE` or $GATEPOST_CONFIG; `gatepost try` needs none",
    );
}

#[test]
fn no_certificate() {
    check(
        |world| std::fs::remove_file(world.path("certificate.pem")).unwrap(),
        "error: DIR/certificate.pem: cannot read it: No such file or directory (os error 2) \
         (named at DIR/gatepost.toml:8)\n\
         hint: correct its name in [[certificate]], or put the file there",
    );
}

#[test]
fn a_key_of_another_certificate() {
    check(
        |world| {
            let chain = world.certificate();
            world.renew_certificate();
            world.replace("certificate.pem", &chain);
        },
        "error: DIR/key.pem: the private key is not the one of the certificate in DIR/certificate.pem \
         (named at DIR/gatepost.toml:8)\n\
         hint: name the two files of one certificate; the certificate itself must come first in its file, \
         its intermediates after it",
    );
}

#[test]
fn no_accounts_file() {
    check(
        |world| std::fs::remove_file(world.path("accounts.toml")).unwrap(),
        "error: DIR/accounts.toml: cannot read the accounts file: No such file or directory (os error 2)\n\
         hint: `gatepost account add NAME` makes it; its name is accounts.file in the configuration",
    );
}

#[test]
fn a_broken_entry_among_the_accounts() {
    check(
        |world| {
            let good = account(ALICE, PASSWORD, "");
            let bad = "[[account]]\nname = \"bob@example.org\"\npassword = \"in clear\"\n";
            world.replace("accounts.toml", &format!("{good}{bad}"));
        },
        "error: DIR/accounts.toml:7:12: account `bob@example.org`: \
         the password is not a password hash that can be checked (argon2, bcrypt, SHA-crypt, yescrypt, scrypt, PBKDF2, {SSHA})\n\
         hint: set it anew: gatepost account password NAME",
    );
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut world = World::new(Settings::default());
    world
        .settings
        .listen
        .push((address.to_string(), "starttls"));
    world.write_configuration();
    assert_eq!(
        refused(&world)
            .replace(&address.to_string(), "ADDRESS")
            .trim_end(),
        "error: DIR/gatepost.toml: cannot listen on ADDRESS: Address already in use (os error 98) \
         (listen.address, named at DIR/gatepost.toml:9)\n\
         hint: another program listens there: `ss -ltnp` shows which; stop it or choose another port"
    );
}

#[test]
fn a_queue_that_another_daemon_uses() {
    let world = World::new(Settings::default());
    let first = world.start();
    let mut busy = Client::in_data(&first, TlsStart::Implicit);
    busy.say("From: <alice@example.org>\r\n\r\nthe first half,");
    busy.send(&[b"x".repeat(900), b"\r\n".to_vec()].concat().repeat(200));
    let drafts = || (!world.files("drafts").is_empty()).then_some(());
    assert!(eventually(drafts).is_some());
    let text = refused(&world);
    assert_eq!(
        text.replace(&first.process().to_string(), "PID").trim_end(),
        "error: the queue directory DIR/queue is in use by process PID\n\
         hint: one gatepost per queue directory: stop the other one, or give this one its own"
    );
    // The first one has noticed nothing, in the middle of a message.
    let reply = busy.ask("the second half\r\n.");
    assert!(reply.starts_with("250 "), "{reply}");
    assert!(busy.message("the next").starts_with("250 "));
    assert_eq!(world.queued().len(), 2);
    first.stop();
    // The lock goes with its holder.
    world.start().stop();
}

/// Not by permissions, which do not stop root: a file is where the directory should be.
#[test]
fn a_queue_directory_that_cannot_be() {
    let world = World::new(Settings::default());
    world.replace("queue", "");
    assert_eq!(
        refused(&world).trim_end(),
        "error: DIR/queue: the queue directory is not a directory\nhint: name another in queue.directory"
    );
    std::fs::remove_file(world.path("queue")).unwrap();
    std::fs::create_dir(world.path("queue")).unwrap();
    world.replace("queue/drafts", "");
    assert_eq!(
        refused(&world).trim_end(),
        "error: cannot make the directory DIR/queue/drafts: File exists (os error 17)"
    );
}
