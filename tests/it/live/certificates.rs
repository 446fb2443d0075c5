//! EXTERNAL, over real TLS: certificates of clients that a CA vouches for, and those that are known by their
//! fingerprints; how both come and go while connections are open.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gatepost::sasl::external::Fingerprint;
use gatepost::server::TlsStart;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use super::harness::{
    ALICE, Client, DOORS, Daemon, PASSWORD, Settings, World, account, eventually,
};
use super::logins::account_command;
use crate::authority::{Authority, Issued, Order, YEARS};

const BOB: &str = "bob@example.org";
const ACCEPTED: &str = "235 2.7.0 authentication succeeded";
const FAILED: &str = "535 5.7.8 authentication failed";
const WITHDRAWN: &str = "421 4.7.0 the account's rights have changed, log in again";
const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// A world that asks for certificates, and trusts this authority if there is one. Alice has a password, bob has none.
fn world(authority: Option<&Authority>) -> World {
    let world = World::new(Settings {
        auth: match authority {
            Some(_) => "[[client_ca]]\nfile = \"ca.pem\"",
            None => "mechanisms = [\"PLAIN\", \"EXTERNAL\"]",
        },
        ..Settings::default()
    });
    if let Some(authority) = authority {
        world.replace("ca.pem", &authority.pem());
    }
    let accounts = account(ALICE, PASSWORD, "") + &format!("[[account]]\nname = \"{BOB}\"\n");
    world.replace("accounts.toml", &accounts);
    world
}

/// A client's settings with a certificate. Clients that share them resume each other's sessions.
fn showing(
    world: &World,
    issued: &Issued,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let server = world.certificate();
    roots
        .add(CertificateDer::from_pem_slice(server.as_bytes()).unwrap())
        .unwrap();
    let own = CertificateDer::pem_slice_iter(issued.certificate.as_bytes());
    let own = own.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(own, key)
        .unwrap();
    Arc::new(config)
}

fn fingerprint(issued: &Issued) -> String {
    let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
    Fingerprint::of(&der).to_string()
}

/// As far as EHLO, whose AUTH line is the result too.
fn introduced(daemon: &Daemon, door: TlsStart) -> (Client, String) {
    let mut client = Client::secured(daemon, door);
    client.say("EHLO client.example.org");
    let mut offered = String::new();
    loop {
        let line = client.line();
        if let Some(mechanisms) = line[4..].strip_prefix("AUTH ") {
            offered = mechanisms.to_owned();
        }
        if line.starts_with("250 ") {
            return (client, offered);
        }
    }
}

fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

#[test]
fn a_ca_vouches_for_the_address() {
    let ca = Authority::new("the CA", YEARS);
    let world = world(Some(&ca));
    let middle = ca.below("one in the middle");
    let mut issued = middle.issue(&Order::of(&[BOB]));
    issued.certificate += &middle.pem();
    let mut daemon = world.start();
    let trusted = Arc::clone(&daemon.trusted);
    // The account has nothing but its certificate, and that is nothing to warn about.
    let warnings = daemon
        .events()
        .into_iter()
        .filter(|event| event["event"] == "warning");
    let about_bob = |event: &serde_json::Value| event["finding"].to_string().contains(BOB);
    assert_eq!(warnings.filter(about_bob).count(), 0);
    for version in VERSIONS {
        for door in DOORS {
            daemon.trusted = showing(&world, &issued, version);
            let (mut client, offered) = introduced(&daemon, door);
            assert_eq!(offered, "PLAIN LOGIN EXTERNAL");
            assert_eq!(
                client.ask(&format!("AUTH EXTERNAL {}", base64(ALICE))),
                FAILED
            );
            let refused = daemon.event("auth.refused", client.is_me());
            assert_eq!(refused["reason"], "authorization identity is not the login");
            assert_eq!(refused["certificate"], fingerprint(&issued));
            assert_eq!(client.ask("AUTH EXTERNAL ="), ACCEPTED);
            let accepted = daemon.event("auth.accepted", client.is_me());
            assert_eq!(accepted["account"], BOB);
            assert_eq!(accepted["mechanism"], "EXTERNAL");
            assert_eq!(accepted["certificate"], fingerprint(&issued));
            client.expect(&format!("MAIL FROM:<{ALICE}>"), "550 5.7.1 ");
            client.expect(&format!("MAIL FROM:<{BOB}>"), "250 2.1.0 ");
            client.expect("RCPT TO:<carol@example.net>", "250 2.1.5 ");
            client.expect("DATA", "354 ");
            client.expect(&format!("From: {BOB}\r\n\r\nhello\r\n."), "250 2.0.0 ");
        }
    }
    for (envelope, _) in world.queued() {
        assert_eq!(envelope["account"], BOB);
        assert_eq!(envelope["client"]["mechanism"], "EXTERNAL");
    }
    assert_eq!(world.queued().len(), 4);

    // With another certificate, and with none, everybody goes on as ever.
    let stranger = Authority::new("somebody else's CA", YEARS).issue(&Order::of(&[BOB]));
    for version in VERSIONS {
        daemon.trusted = showing(&world, &stranger, version);
        let (mut client, offered) = introduced(&daemon, TlsStart::Implicit);
        assert_eq!(offered, "PLAIN LOGIN");
        let shown = daemon.event("tls.certificate", client.is_me());
        assert_eq!(shown["fingerprint"], fingerprint(&stranger));
        assert_eq!(shown["reason"], "no [[client_ca]] has issued it");
        assert_eq!(client.ask("AUTH EXTERNAL ="), FAILED);
        assert_eq!(client.login(ALICE, PASSWORD), ACCEPTED);
        let accepted = daemon.event("auth.accepted", client.is_me());
        assert!(accepted["certificate"].is_null());
    }
    daemon.trusted = trusted;
    let (mut client, offered) = introduced(&daemon, TlsStart::StartTls);
    assert_eq!(offered, "PLAIN LOGIN");
    client.expect("AUTH EXTERNAL =", "504 5.5.4 ");
    daemon.event("auth.refused", |event| {
        event["reason"] == "the client has shown no certificate"
    });
    assert_eq!(client.login(ALICE, PASSWORD), ACCEPTED);
    daemon.stop();
}

#[test]
fn nobody_is_asked_unless_it_is_configured() {
    let world = World::with_limits("");
    let mut daemon = world.start();
    let issued = Order::of(&[ALICE]).self_signed();
    for version in VERSIONS {
        daemon.trusted = showing(&world, &issued, version);
        let (mut client, offered) = introduced(&daemon, TlsStart::Implicit);
        assert_eq!(offered, "PLAIN LOGIN");
        client.expect("AUTH EXTERNAL =", "504 5.5.4 ");
        assert_eq!(client.login(ALICE, PASSWORD), ACCEPTED);
    }
    let events = daemon.events();
    assert!(
        events
            .iter()
            .all(|event| event["event"] != "tls.certificate")
    );
    daemon.stop();
}

/// A printer with a certificate that it has made itself, from its making to its end.
#[test]
fn a_fingerprint_lives_and_dies() {
    let world = world(None);
    let mut daemon = world.start();
    daemon.event("warning", |event| {
        event["finding"]
            .to_string()
            .contains("nobody can log in with one")
    });
    let printer = Order::of(&[]).self_signed();
    world.replace("printer.pem", &printer.certificate);
    daemon.trusted = showing(&world, &printer, &rustls::version::TLS13);
    let (mut client, offered) = introduced(&daemon, TlsStart::Implicit);
    assert_eq!(offered, "PLAIN");
    let shown = daemon.event("tls.certificate", client.is_me());
    assert_eq!(shown["reason"], "no account has it");
    assert_eq!(client.ask("AUTH EXTERNAL ="), FAILED);
    let refused = daemon.event("auth.refused", client.is_me());
    assert_eq!(refused["reason"], "no account has this certificate");

    let printed = account_command(
        &world,
        &[
            "credential",
            "add",
            ALICE,
            "--name",
            "printer",
            "--certificate",
            &world.shown("printer.pem"),
            "--rcpt-allow",
            "*@example.org",
        ],
    );
    assert_eq!(printed, "", "there is no secret to show");
    daemon.event("reload", |event| event["what"] == "accounts");
    // Who was refused a moment ago needs no new connection.
    assert_eq!(client.ask("AUTH EXTERNAL ="), ACCEPTED);
    let shown = account_command(&world, &["show", ALICE, "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        shown["credentials"][0]["certificate"],
        fingerprint(&printer)
    );
    let shown = account_command(&world, &["show", ALICE]);
    assert!(shown.contains(&fingerprint(&printer)), "{shown}");

    let (mut resumed, offered) = introduced(&daemon, TlsStart::Implicit);
    assert!(resumed.is_resumed());
    assert_eq!(offered, "PLAIN EXTERNAL");
    assert_eq!(resumed.ask("AUTH EXTERNAL ="), ACCEPTED);
    let accepted = daemon.event("auth.accepted", resumed.is_me());
    assert_eq!(accepted["credential"], "printer");
    resumed.expect(&format!("MAIL FROM:<{ALICE}>"), "250 2.1.0 ");
    resumed.expect("RCPT TO:<bob@example.net>", "550 5.7.1 ");
    resumed.expect("RCPT TO:<bob@example.org>", "250 2.1.5 ");
    resumed.expect("DATA", "354 ");

    account_command(
        &world,
        &["credential", "remove", ALICE, "--name", "printer"],
    );
    daemon.event_number(2, "reload");
    // In the middle of a message, between two, and on a new connection that resumes the session.
    let end = format!("From: {ALICE}\r\n\r\ntoo late\r\n.");
    assert_eq!(resumed.ask(&end), WITHDRAWN);
    assert_eq!(client.ask(&format!("MAIL FROM:<{ALICE}>")), WITHDRAWN);
    let (mut client, offered) = introduced(&daemon, TlsStart::Implicit);
    assert!(client.is_resumed());
    assert_eq!(offered, "PLAIN");
    assert_eq!(client.ask("AUTH EXTERNAL ="), FAILED);
    assert_eq!(world.queued().len(), 0);
    daemon.stop();
}

/// The other certificate of a credential that keeps its name.
#[test]
fn a_login_ends_with_its_certificate() {
    let world = world(None);
    let (old, new) = (Order::of(&[]).self_signed(), Order::of(&[]).self_signed());
    let with = |issued: &Issued| {
        let credential = format!(
            "[[account.credential]]\nname = \"laptop\"\ncertificate = \"{}\"\n",
            fingerprint(issued)
        );
        world.replace("accounts.toml", &account(ALICE, PASSWORD, &credential));
    };
    with(&old);
    let mut daemon = world.start();
    daemon.trusted = showing(&world, &old, &rustls::version::TLS13);
    let (mut client, _) = introduced(&daemon, TlsStart::StartTls);
    assert_eq!(client.ask("AUTH EXTERNAL ="), ACCEPTED);
    assert!(client.message("the old one").starts_with("250 "));
    with(&new);
    daemon.event("reload", |event| event["what"] == "accounts");
    assert_eq!(client.ask(&format!("MAIL FROM:<{ALICE}>")), WITHDRAWN);
    daemon.event("mail.refused", |event| {
        event["reason"] == "the certificate is not good for the account any more"
    });
    daemon.trusted = showing(&world, &new, &rustls::version::TLS13);
    let (mut client, _) = introduced(&daemon, TlsStart::StartTls);
    assert_eq!(client.ask("AUTH EXTERNAL ="), ACCEPTED);
    daemon.stop();
}

/// An authority that is replaced, that revokes, and that is taken out of the configuration, with clients that are
/// connected and clients that resume their sessions.
#[test]
fn authorities_come_and_go() {
    let (ca, other) = (
        Authority::new("the CA", YEARS),
        Authority::new("another CA", YEARS),
    );
    let mut world = world(Some(&ca));
    world.settings.auth = "mechanisms = [\"PLAIN\", \"EXTERNAL\"]\n[[client_ca]]\nfile = \"ca.pem\"\ncrl = \"crl.pem\"";
    world.replace("crl.pem", &ca.revoke(&[], 2099));
    world.write_configuration();
    let mut daemon = world.start();
    let issued = ca.issue(&Order {
        serial: 8,
        ..Order::of(&[ALICE])
    });
    let trusted = showing(&world, &issued, &rustls::version::TLS13);
    daemon.trusted = Arc::clone(&trusted);
    let logged_in = |daemon: &Daemon| {
        let (mut client, offered) = introduced(daemon, TlsStart::Implicit);
        assert_eq!(offered, "PLAIN EXTERNAL");
        assert_eq!(client.ask("AUTH EXTERNAL ="), ACCEPTED);
        assert!(client.message("hello").starts_with("250 "));
        client
    };
    let turned_away = |daemon: &Daemon, reason: &str| {
        let (mut client, offered) = introduced(daemon, TlsStart::Implicit);
        assert_eq!(offered, "PLAIN");
        assert_eq!(client.ask("AUTH EXTERNAL ="), FAILED);
        let shown = daemon.event("tls.certificate", client.is_me());
        assert_eq!(shown["reason"], reason);
        assert_eq!(client.login(ALICE, PASSWORD), ACCEPTED);
    };

    logged_in(&daemon);
    let mut client = logged_in(&daemon);
    assert!(client.is_resumed());
    world.replace("crl.pem", &ca.revoke(&[8], 2099));
    daemon.event_number(1, "reload");
    assert_eq!(client.ask(&format!("MAIL FROM:<{ALICE}>")), WITHDRAWN);
    turned_away(&daemon, "it is revoked");

    world.replace("crl.pem", &ca.revoke(&[], 2099));
    daemon.event_number(2, "reload");
    let mut client = logged_in(&daemon);
    world.replace("ca.pem", "half a file");
    let failed = daemon.event("reload.failed", |event| event["what"] == "certificates");
    assert!(failed["error"].to_string().contains("ca.pem"), "{failed}");
    assert!(client.message("still here").starts_with("250 "));
    world.replace("ca.pem", &other.pem());
    world.replace("crl.pem", &other.revoke(&[], 2099));
    daemon.event_number(3, "reload");
    let gone = eventually(|| {
        let reply = client.ask("RSET");
        assert!(reply.starts_with("250 "));
        match client.ask(&format!("MAIL FROM:<{ALICE}>")) {
            reply if reply == WITHDRAWN => Some(()),
            _ => None,
        }
    });
    assert!(gone.is_some());
    turned_away(&daemon, "no [[client_ca]] has issued it");

    // SIGHUP: the authority is there again, and then no authority at all, and at last no question.
    world.replace("ca.pem", &ca.pem());
    world.replace("crl.pem", &ca.revoke(&[], 2099));
    assert_eq!(daemon.reload()["event"], "reload");
    let mut client = logged_in(&daemon);
    world.settings.auth = "mechanisms = [\"PLAIN\", \"EXTERNAL\"]";
    world.write_configuration();
    assert_eq!(daemon.reload()["event"], "reload");
    assert_eq!(client.ask(&format!("MAIL FROM:<{ALICE}>")), WITHDRAWN);
    turned_away(&daemon, "no account has it");
    world.settings.auth = "mechanisms = [\"PLAIN\"]";
    world.write_configuration();
    assert_eq!(daemon.reload()["event"], "reload");
    let (mut client, offered) = introduced(&daemon, TlsStart::Implicit);
    assert_eq!(offered, "PLAIN");
    client.expect("AUTH EXTERNAL =", "504 5.5.4 ");
    daemon.stop();
}

/// A certificate outside its validity is worth nothing, whoever vouches for it.
#[test]
fn an_expired_certificate() {
    let ca = Authority::new("the CA", YEARS);
    let world = world(Some(&ca));
    let expired = ca.issue(&Order {
        years: (2020, 2021),
        ..Order::of(&[ALICE])
    });
    let mut daemon = world.start();
    daemon.trusted = showing(&world, &expired, &rustls::version::TLS13);
    let (mut client, offered) = introduced(&daemon, TlsStart::Implicit);
    assert_eq!(offered, "PLAIN LOGIN");
    let shown = daemon.event("tls.certificate", client.is_me());
    assert_eq!(shown["reason"], "it expired on 2021-12-31");
    assert_eq!(client.ask("AUTH EXTERNAL ="), FAILED);
    assert_eq!(client.login(ALICE, PASSWORD), ACCEPTED);

    // The same, known by its fingerprint: its validity counts all the same.
    let credential = format!(
        "[[account.credential]]\nname = \"laptop\"\ncertificate = \"{}\"\n",
        fingerprint(&expired)
    );
    world.replace("accounts.toml", &account(ALICE, PASSWORD, &credential));
    daemon.event("reload", |event| event["what"] == "accounts");
    let (mut client, offered) = introduced(&daemon, TlsStart::Implicit);
    assert_eq!(offered, "PLAIN LOGIN");
    assert_eq!(client.ask("AUTH EXTERNAL ="), FAILED);
    let refused = daemon.event("auth.refused", client.is_me());
    assert_eq!(refused["reason"], "certificate is not valid now");
    daemon.stop();
}

#[test]
fn a_broken_authority_keeps_it_from_starting() {
    let ca = Authority::new("the CA", YEARS);
    let world = world(Some(&ca));
    world.replace("ca.pem", "no certificate");
    let (status, said) = world.refused_start();
    assert_eq!(status, Some(1));
    assert!(
        said.contains("DIR/ca.pem: there is no certificate in it (named at DIR/gatepost.toml:"),
        "{said}"
    );
}
