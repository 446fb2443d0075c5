//! SIGHUP, and files that are noticed by themselves: what is new holds, what is broken changes nothing, and nobody is
//! thrown out for it.

use gatepost::server::TlsStart;
use nix::sys::signal::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::harness::{
    ALICE, Client, DOORS, Daemon, PASSWORD, Settings, World, account, another_loopback, eventually,
    is_closed, listeners_of, trusting,
};

const BOB: &str = "bob@example.org";
const ACCEPTED: &str = "235 2.7.0 authentication succeeded";
const FAILED: &str = "535 5.7.8 authentication failed";

fn login(daemon: &Daemon, name: &str) -> String {
    Client::secured(daemon, TlsStart::Implicit).login(name, PASSWORD)
}

#[test]
fn a_change_of_accounts() {
    let world = World::with_limits("");
    let daemon = world.start();
    let mut live = Client::logged_in(&daemon, TlsStart::StartTls);
    let mut in_data = Client::in_data(&daemon, TlsStart::Implicit);
    assert_eq!(login(&daemon, BOB), FAILED);

    let both = account(ALICE, PASSWORD, "") + &account(BOB, PASSWORD, "");
    world.replace("accounts.toml", &both);
    let reload = daemon.event_number(1, "reload");
    assert_eq!(
        (reload["what"].as_str(), &reload["accounts"]),
        (Some("accounts"), &2.into())
    );
    assert_eq!(login(&daemon, BOB), ACCEPTED);
    assert!(live.message("still here").starts_with("250 "));

    let disabled = account(ALICE, PASSWORD, "disabled = true") + &account(BOB, PASSWORD, "");
    world.replace("accounts.toml", &disabled);
    daemon.event_number(2, "reload");
    assert_eq!(login(&daemon, ALICE), FAILED);
    assert_eq!(login(&daemon, BOB), ACCEPTED);
    live.expect("NOOP", "250 ");
    assert_eq!(
        live.ask("MAIL FROM:<alice@example.org>"),
        "421 4.7.0 the account's rights have changed, log in again"
    );
    assert_eq!(live.rest(), "");
    daemon.event("mail.refused", |event| {
        event["account"] == ALICE && event["reason"] == "the account was removed or disabled"
    });
    // A message on its way when the account went is not let in either.
    let reply = in_data.ask("From: <alice@example.org>\r\n\r\ntoo late\r\n.");
    assert!(reply.starts_with("421 4.7.0 "), "{reply}");
    assert_eq!(world.queued().len(), 1);
}

#[test]
fn broken_accounts_change_nothing() {
    let world = World::with_limits("");
    let daemon = world.start();
    let good = account(ALICE, PASSWORD, "");
    let broken = [
        good.replace("password", "pasword"),
        // Half of it, as an editor without atomic saving leaves it for a moment.
        good[..good.len() / 2].to_owned(),
        format!("{good}{good}"),
    ];
    for (index, text) in broken.iter().enumerate() {
        world.replace("accounts.toml", text);
        let failed = daemon.event_number(index + 1, "reload.failed");
        assert_eq!(failed["what"], "accounts");
        assert_eq!(failed["in_force"], "the old state");
        let error = failed["error"].as_str().unwrap();
        assert!(error.starts_with(&world.shown("accounts.toml")), "{error}");
        assert!(
            !error.contains("$argon2id$v=19$m=64"),
            "no hash in the log: {error}"
        );
        assert_eq!(login(&daemon, ALICE), ACCEPTED);
    }
    world.replace("accounts.toml", &(good + &account(BOB, PASSWORD, "")));
    daemon.event_number(1, "reload");
    assert_eq!(login(&daemon, BOB), ACCEPTED);
}

#[test]
fn a_new_certificate() {
    let world = World::with_limits("");
    let mut daemon = world.start();
    let der = |pem: &str| {
        CertificateDer::from_pem_slice(pem.as_bytes())
            .unwrap()
            .to_vec()
    };
    let first = world.certificate();
    let mut old = Client::logged_in(&daemon, TlsStart::StartTls);
    // STARTTLS after the change, on a connection that is older than it.
    let (mut late, _) = Client::greeted(&daemon, TlsStart::StartTls);
    late.expect("EHLO late.example.org", "250 ");

    let second = world.renew_certificate();
    daemon.event("reload", |event| event["what"] == "certificates");
    daemon.trusted = trusting(&second);
    for door in DOORS {
        assert_eq!(Client::secured(&daemon, door).certificate(), der(&second));
    }
    assert_eq!(old.certificate(), der(&first));
    assert!(old.message("over the old connection").starts_with("250 "));
    late.start_tls();
    assert_eq!(
        late.certificate(),
        der(&first),
        "a connection keeps its generation"
    );

    // The chain of a third certificate arrives, its key not yet: not the half of it is used.
    let key = std::fs::read_to_string(world.path("key.pem")).unwrap();
    let third = world.renew_certificate();
    let third_key = std::fs::read_to_string(world.path("key.pem")).unwrap();
    world.replace("key.pem", &key);
    let failed = daemon.event("reload.failed", |event| event["what"] == "certificates");
    assert!(
        failed["error"]
            .as_str()
            .unwrap()
            .starts_with(&world.shown("key.pem"))
    );
    assert_eq!(
        Client::secured(&daemon, TlsStart::Implicit).certificate(),
        der(&second)
    );
    world.replace("key.pem", &third_key[..third_key.len() / 2]);
    daemon.event_number(2, "reload.failed");
    assert_eq!(
        Client::secured(&daemon, TlsStart::Implicit).certificate(),
        der(&second)
    );
    world.replace("key.pem", &third_key);
    daemon.event_number(2, "reload");
    daemon.trusted = trusting(&third);
    assert_eq!(
        Client::secured(&daemon, TlsStart::Implicit).certificate(),
        der(&third)
    );
}

#[test]
fn a_broken_configuration_changes_nothing() {
    let mut world = World::with_limits("");
    let daemon = world.start();
    let mut live = Client::logged_in(&daemon, TlsStart::StartTls);
    let addresses = DOORS.map(|door| daemon.address(door));

    world.replace("gatepost.toml", "hostname = \n");
    let failed = daemon.reload();
    assert_eq!(failed["event"], "reload.failed");
    assert!(
        failed["error"]
            .as_str()
            .unwrap()
            .starts_with(&world.shown("gatepost.toml:1:"))
    );

    // Right in itself, but one of what it names is not: nothing of the rest is taken over.
    world.settings.hostname = "new.example.org";
    world
        .settings
        .listen
        .push((format!("{}:0", another_loopback()), "starttls"));
    world.write_configuration();
    let certificate = world.certificate();
    world.replace("certificate.pem", "no certificate");
    assert_eq!(daemon.reload()["event"], "reload.failed");
    world.replace("certificate.pem", &certificate);
    let accounts = account(ALICE, PASSWORD, "");
    world.replace("accounts.toml", "[[account]]\n");
    assert_eq!(daemon.reload()["event"], "reload.failed");
    world.replace("accounts.toml", &accounts);

    assert!(live.message("still here").starts_with("250 "));
    let (_, greeting) = Client::greeted(&daemon, TlsStart::Implicit);
    assert_eq!(greeting, "220 mail.example.org ESMTP gatepost ready");
    assert_eq!(DOORS.map(|door| daemon.address(door)), addresses);

    // And put right it is taken up.
    let reload = daemon.reload();
    assert_eq!(reload["event"], "reload");
    assert_eq!(listeners_of(&reload).len(), 3);
}

#[test]
fn another_queue_directory_needs_a_restart() {
    let world = World::with_limits("");
    let daemon = world.start();
    let text = std::fs::read_to_string(world.path("gatepost.toml")).unwrap();
    world.replace("gatepost.toml", &text.replace("\"queue\"", "\"elsewhere\""));
    let failed = daemon.reload();
    assert_eq!(failed["event"], "reload.failed");
    assert_eq!(
        failed["error"].as_str().unwrap(),
        format!(
            "{}: queue.directory cannot change while gatepost runs \
             (hint: restart gatepost to use another queue directory)",
            world.shown("gatepost.toml")
        )
    );
    assert!(!world.path("elsewhere").exists());
    assert!(
        Client::logged_in(&daemon, TlsStart::Implicit)
            .message("here")
            .starts_with("250 ")
    );
    assert_eq!(world.queued().len(), 1);
}

fn rest_of_reply(client: &mut Client) -> Vec<String> {
    let mut lines = Vec::new();
    while lines
        .last()
        .is_none_or(|line: &String| line.starts_with("250-"))
    {
        lines.push(client.line());
    }
    lines
}

#[test]
fn new_settings_are_for_new_connections() {
    let mut world = World::with_limits("");
    let daemon = world.start();
    let mut old = Client::logged_in(&daemon, TlsStart::StartTls);
    world.settings.hostname = "new.example.org";
    world.settings.limits = "message_size = \"64KiB\"\nconnections_per_address = 3";
    world.settings.account_limits = "messages_per_hour = 1";
    world.write_configuration();
    assert_eq!(daemon.reload()["event"], "reload");

    old.say("EHLO client.example.org");
    assert_eq!(old.line(), "250-mail.example.org");
    old.reply();
    let (mut new, greeting) = Client::greeted(&daemon, TlsStart::Implicit);
    assert_eq!(greeting, "220 new.example.org ESMTP gatepost ready");
    new.say("EHLO client.example.org");
    let lines = rest_of_reply(&mut new);
    assert_eq!(lines[0], "250-new.example.org");
    assert!(
        lines.iter().any(|line| line[4..] == *"SIZE 65536"),
        "{lines:?}"
    );
    let _third = Client::greeted(&daemon, TlsStart::Implicit);
    let (_, greeting) = Client::greeted(&daemon, TlsStart::Implicit);
    assert!(greeting.starts_with("421 "), "{greeting}");
    // What an account may do is asked for each message, on old connections too.
    assert!(old.message("the one").starts_with("250 "));
    old.expect(
        "MAIL FROM:<alice@example.org>",
        "450 4.7.28 limit messages_per_hour = 1 reached",
    );
    drop((old, new));

    world.settings.log = "format = \"text\"\nlevel = \"warn\"";
    world.settings.limits = "";
    world.write_configuration();
    daemon.signal(Signal::SIGHUP);
    // No line says that it is done, since none below a warning is written any more: a new connection does.
    eventually(|| {
        let (mut client, greeting) = Client::greeted(&daemon, TlsStart::Implicit);
        if !greeting.starts_with("220 ") {
            return None;
        }
        client.say("EHLO client.example.org");
        let lines = rest_of_reply(&mut client);
        let is_lifted = lines.iter().all(|line| line[4..] != *"SIZE 65536");
        is_lifted.then_some(())
    })
    .unwrap();
    let in_text = eventually(|| {
        Client::secured(&daemon, TlsStart::Implicit).login(BOB, "unknown");
        world.replace("gatepost.toml", "broken");
        daemon.signal(Signal::SIGHUP);
        let is_it = |line: &String| line.contains(" ERROR event=reload.failed ");
        daemon.log.lines().iter().position(is_it)
    });
    let lines = daemon.log.lines();
    let rest = &lines[in_text.unwrap()..];
    assert!(
        rest.iter()
            .all(|line| line.contains(" ERROR event=reload.failed ")),
        "{rest:?}"
    );
}

#[test]
fn listeners_come_and_go() {
    let mut world = World::new(Settings::default());
    let mut daemon = world.start();
    let mut live = Client::logged_in(&daemon, TlsStart::Implicit);
    let removed = daemon.address(TlsStart::Implicit);
    // The one that goes and the one that comes are told apart by their address: both are on free ports.
    world.settings.listen.pop();
    let added = format!("{}:0", another_loopback());
    world.settings.listen.push((added, "implicit"));
    world.write_configuration();
    let reload = daemon.reload();
    assert_eq!(reload["event"], "reload");

    assert!(eventually(|| is_closed(removed).then_some(())).is_some());
    assert!(
        live.message("over the listener that is gone")
            .starts_with("250 ")
    );
    daemon.listeners = listeners_of(&reload);
    let added = daemon.address(TlsStart::Implicit);
    assert_eq!(added.ip(), another_loopback());
    assert!(
        Client::logged_in(&daemon, TlsStart::Implicit)
            .message("new")
            .starts_with("250 ")
    );
    assert!(
        Client::logged_in(&daemon, TlsStart::StartTls)
            .message("kept")
            .starts_with("250 ")
    );
}

/// The listener that is to go still holds the port when the one that is to come wants it. That another program listens
/// there would be the wrong thing to say.
#[test]
fn another_kind_of_tls_on_the_same_port_needs_a_restart() {
    let mut world = World::new(Settings::default());
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    world.settings.listen = vec![(format!("127.0.0.1:{port}"), "implicit")];
    world.write_configuration();
    let daemon = world.start();
    world.settings.listen[0].1 = "starttls";
    world.write_configuration();
    let failed = daemon.reload();
    assert_eq!(failed["event"], "reload.failed");
    let error = failed["error"].as_str().unwrap();
    assert!(
        error.contains("gatepost itself listens on this port"),
        "{error}"
    );
    Client::logged_in(&daemon, TlsStart::Implicit);
}
