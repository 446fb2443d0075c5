//! Ways to log in, over real TLS: SCRAM bound to the channel and unbound, what strangers learn from it, and credentials
//! from their making to their end.

use std::num::NonZeroU32;
use std::process::{Command, Stdio};
use std::sync::Arc;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gatepost::sasl::scram::Keys;
use gatepost::server::TlsStart;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use serde_json::Value;

use super::harness::{
    ALICE, Client, DOORS, Daemon, PASSWORD, Settings, World, account, eventually, text,
};
use crate::daemon::succeeded;
use crate::process::program;

const SCRAM_ONLY: &str = "scram@example.org";
const ACCEPTED: &str = "235 2.7.0 authentication succeeded";
const FAILED: &str = "535 5.7.8 authentication failed";

fn keys(password: &str) -> String {
    let iterations = NonZeroU32::new(4096).unwrap();
    Keys::derive(password.as_bytes(), b"salt of 16 bytes", iterations).to_text()
}

/// Alice has a hash and SCRAM keys, the other one keys alone.
fn world() -> World {
    let world = World::new(Settings {
        auth: "mechanisms = [\"SCRAM-SHA-256-PLUS\", \"SCRAM-SHA-256\", \"PLAIN\"]",
        ..Settings::default()
    });
    let accounts = account(ALICE, PASSWORD, &format!("scram = \"{}\"", keys(PASSWORD)))
        + &format!(
            "[[account]]\nname = \"{SCRAM_ONLY}\"\nscram = \"{}\"\n",
            keys(PASSWORD)
        );
    world.replace("accounts.toml", &accounts);
    world
}

fn base64(text: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(text)
}

fn challenge(reply: &str) -> String {
    let challenge = reply
        .strip_prefix("334 ")
        .unwrap_or_else(|| panic!("no challenge: {reply}"));
    String::from_utf8(BASE64_STANDARD.decode(challenge).unwrap()).unwrap()
}

/// The salt that the server asks `name` to use.
fn salt(client: &mut Client, name: &str) -> String {
    let first = base64(format!("n,,n={name},r=abc"));
    let asked = challenge(&client.ask(&format!("AUTH SCRAM-SHA-256 {first}")));
    client.expect("*", "501 5.7.0 ");
    let (_, salt) = asked.split_once(",s=").unwrap();
    salt.to_owned()
}

/// A whole exchange of a client that is written after RFC 5802 alone. It checks the server's signature.
fn scram(client: &mut Client, header: &str, binding: &[u8], name: &str, password: &str) -> String {
    let mechanism = match header.starts_with("p=") {
        true => "SCRAM-SHA-256-PLUS",
        false => "SCRAM-SHA-256",
    };
    let bare = format!("n={name},r=fyko+d2lbbFgONRv9qkxdawL");
    let asked = client.ask(&format!(
        "AUTH {mechanism} {}",
        base64(format!("{header}{bare}"))
    ));
    if !asked.starts_with("334 ") {
        return asked;
    }
    let server_first = challenge(&asked);
    let part = |key: &str| {
        let mut parts = server_first.split(',');
        parts.find_map(|part| part.strip_prefix(key)).unwrap()
    };
    let hmac = |key: &[u8], text: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::sign(&key, text).as_ref().to_vec()
    };
    let mut salted = [0; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        part("i=").parse().unwrap(),
        &BASE64_STANDARD.decode(part("s=")).unwrap(),
        password.as_bytes(),
        &mut salted,
    );
    let client_key = hmac(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, &client_key);
    let bound = base64([header.as_bytes(), binding].concat());
    let without_proof = format!("c={bound},r={}", part("r="));
    let auth_message = format!("{bare},{server_first},{without_proof}");
    let signature = hmac(stored_key.as_ref(), auth_message.as_bytes());
    let proof: Vec<u8> = client_key
        .iter()
        .zip(signature)
        .map(|(one, other)| one ^ other)
        .collect();
    let reply = client.ask(&base64(format!("{without_proof},p={}", base64(proof))));
    if !reply.starts_with("334 ") {
        return reply;
    }
    let server_signature = hmac(&hmac(&salted, b"Server Key"), auth_message.as_bytes());
    assert_eq!(challenge(&reply), format!("v={}", base64(server_signature)));
    client.ask("")
}

/// A client's settings for one version of TLS.
fn speaking(certificate: &str, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

#[test]
fn scram_without_binding() {
    let world = world();
    let daemon = world.start();
    for door in DOORS {
        for name in [ALICE, SCRAM_ONLY] {
            let mut client = Client::secured(&daemon, door);
            assert_eq!(scram(&mut client, "n,,", b"", name, "guess"), FAILED);
            // A password in the form that SASLprep gives it; the server keeps no other.
            assert_eq!(scram(&mut client, "n,,", b"", name, PASSWORD), ACCEPTED);
            daemon.event("auth.accepted", |event| {
                event["account"] == name && event["mechanism"] == "SCRAM-SHA-256"
            });
        }
    }
    // What is kept for SCRAM will do for PLAIN, too.
    for (password, reply) in [("guess", FAILED), (PASSWORD, ACCEPTED)] {
        let mut client = Client::secured(&daemon, TlsStart::Implicit);
        assert_eq!(client.login(SCRAM_ONLY, password), reply);
    }
    daemon.stop();
}

#[test]
fn scram_bound_to_the_channel() {
    let world = world();
    let mut daemon = world.start();
    let end_point = |client: &Client| {
        digest::digest(&digest::SHA256, &client.certificate())
            .as_ref()
            .to_vec()
    };
    let (exporter, end_point_header) = ("p=tls-exporter,,", "p=tls-server-end-point,,");

    daemon.trusted = speaking(&world.certificate(), &rustls::version::TLS13);
    for door in DOORS {
        let mut client = Client::secured(&daemon, door);
        let binding = client.exporter();
        assert_eq!(
            scram(&mut client, exporter, &binding, ALICE, PASSWORD),
            ACCEPTED
        );
        daemon.event("auth.accepted", |event| {
            event["mechanism"] == "SCRAM-SHA-256-PLUS"
        });
        let mut client = Client::secured(&daemon, door);
        let binding = end_point(&client);
        assert_eq!(
            scram(&mut client, end_point_header, &binding, ALICE, PASSWORD),
            ACCEPTED
        );
        // Somebody in the middle has another channel to us than the client has to them.
        let binding = Client::secured(&daemon, door).exporter();
        let mut client = Client::secured(&daemon, door);
        assert_eq!(
            scram(&mut client, exporter, &binding, ALICE, PASSWORD),
            FAILED
        );
        // Or they take the offer away.
        assert_eq!(scram(&mut client, "y,,", b"", ALICE, PASSWORD), FAILED);
    }

    // No binding that suits every client: it is not offered, and whoever has one that suits us can use it.
    daemon.trusted = speaking(&world.certificate(), &rustls::version::TLS12);
    let mut client = Client::secured(&daemon, TlsStart::Implicit);
    client.say("EHLO again");
    while !client.line().starts_with("250 AUTH SCRAM-SHA-256 PLAIN") {}
    let binding = client.exporter();
    assert_eq!(
        scram(&mut client, exporter, &binding, ALICE, PASSWORD),
        FAILED
    );
    let binding = end_point(&client);
    assert_eq!(
        scram(&mut client, end_point_header, &binding, ALICE, PASSWORD),
        ACCEPTED
    );
    let mut client = Client::secured(&daemon, TlsStart::Implicit);
    assert_eq!(scram(&mut client, "y,,", b"", ALICE, PASSWORD), ACCEPTED);
    daemon.stop();
}

/// A salt says nothing about whether there is such an account: not by itself, not when it is asked for again, and not
/// after a restart.
#[test]
fn salts_of_nobody() {
    let world = world();
    let hashed = account("hashed@example.org", PASSWORD, "");
    let accounts = std::fs::read_to_string(world.path("accounts.toml")).unwrap();
    world.replace("accounts.toml", &(accounts + &hashed));
    let names = [
        ALICE,
        "nobody@example.org",
        "hashed@example.org",
        "other@example.org",
    ];
    let ask = |daemon: &Daemon| {
        let mut client = Client::secured(daemon, TlsStart::Implicit);
        names.map(|name| salt(&mut client, name))
    };
    let daemon = world.start();
    let first = ask(&daemon);
    assert_eq!(ask(&daemon), first);
    let shapes: std::collections::BTreeSet<usize> = first.iter().map(String::len).collect();
    assert_eq!(shapes.len(), 1, "{first:?}");
    assert!(
        first.iter().all(|salt| salt.ends_with(",i=4096")),
        "{first:?}"
    );
    let different: std::collections::BTreeSet<&String> = first.iter().collect();
    assert_eq!(different.len(), names.len());
    let mut client = Client::secured(&daemon, TlsStart::Implicit);
    assert_eq!(
        scram(&mut client, "n,,", b"", "hashed@example.org", PASSWORD),
        FAILED
    );
    daemon.event("auth.refused", |event| {
        event["reason"] == "account has no SCRAM keys"
    });
    assert_eq!(
        scram(&mut client, "n,,", b"", "nobody@example.org", PASSWORD),
        FAILED
    );
    daemon.event("auth.refused", |event| event["reason"] == "no such account");
    daemon.stop();
    let daemon = world.start();
    assert_eq!(ask(&daemon), first, "a restart changes nobody's salt");
    daemon.stop();
}

/// Runs `gatepost account ...` on the world's configuration; what it prints.
pub(super) fn account_command(world: &World, arguments: &[&str]) -> String {
    let configuration = world.path("gatepost.toml");
    let output = Command::new(program())
        .arg("-c")
        .arg(configuration)
        .arg("account")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(succeeded(arguments, output)).unwrap()
}

/// One credential from its making to its end, on connections that are open all the while.
#[test]
fn a_credential_lives_and_dies() {
    let world = world();
    let daemon = world.start();
    let add = |name: &str, more: &[&str]| {
        let arguments = [&["credential", "add", ALICE, "--name", name], more].concat();
        account_command(&world, &arguments).trim_end().to_owned()
    };
    let narrow = ["--rcpt-allow", "*@example.org", "--messages-per-hour", "1"];
    let (scanner, phone) = (add("scanner", &narrow), add("phone", &[]));
    assert_ne!(scanner, phone);
    let everything = std::fs::read_to_string(world.path("accounts.toml")).unwrap();
    assert!(!everything.contains(&scanner) && !everything.contains(&phone));
    daemon.event("reload", |event| event["what"] == "accounts");
    // Both may have come in one reload or in two.
    let login = |secret: &str| {
        eventually(|| {
            let mut client = Client::secured(&daemon, TlsStart::Implicit);
            (client.login(ALICE, secret) == ACCEPTED).then_some(client)
        })
        .expect("the secret is good")
    };
    let mut on_phone = login(&phone);
    let mut on_scanner = login(&scanner);
    daemon.event("auth.accepted", |event| {
        event["account"] == ALICE && event["credential"] == "scanner"
    });
    // The keys of the account's password have brought keys of the same salt.
    let mut by_scram = Client::secured(&daemon, TlsStart::StartTls);
    assert_eq!(scram(&mut by_scram, "n,,", b"", ALICE, &scanner), ACCEPTED);
    daemon.event("auth.accepted", |event| {
        event["credential"] == "scanner" && event["mechanism"] == "SCRAM-SHA-256"
    });
    let mut own = Client::secured(&daemon, TlsStart::Implicit);
    assert_eq!(own.login(ALICE, PASSWORD), ACCEPTED);

    on_scanner.expect(&format!("MAIL FROM:<{ALICE}>"), "250 2.1.0 ");
    on_scanner.expect("RCPT TO:<bob@example.net>", "550 5.7.1 ");
    on_scanner.expect("RCPT TO:<bob@example.org>", "250 2.1.5 ");
    on_scanner.expect("DATA", "354 ");
    on_scanner.expect(&text("scanned"), "250 2.0.0 ");
    daemon.event("message.accepted", |event| event["credential"] == "scanner");
    on_scanner.expect(&format!("MAIL FROM:<{ALICE}>"), "450 4.7.28 ");
    on_phone.expect(&format!("MAIL FROM:<{ALICE}>"), "250 2.1.0 ");
    on_phone.expect("RSET", "250 ");

    let shown = eventually(|| {
        let shown = account_command(&world, &["credential", "list", ALICE, "--json"]);
        let credentials: Value = serde_json::from_str(&shown).unwrap();
        credentials[0]["last_login"]
            .is_string()
            .then_some(credentials)
    });
    let shown = shown.expect("the login is remembered");
    assert_eq!(shown[0]["name"], "scanner");
    assert_eq!(shown[0]["has_scram"], true);
    assert_eq!(shown[0]["rcpt_allow"][0], "*@example.org");

    account_command(
        &world,
        &["credential", "remove", ALICE, "--name", "scanner"],
    );
    let gone = eventually(|| {
        let mut client = Client::secured(&daemon, TlsStart::Implicit);
        (client.login(ALICE, &scanner) == FAILED).then_some(())
    });
    assert!(gone.is_some(), "it can be used no more");
    // Who was in with it is out at the next message; the others notice nothing.
    assert_eq!(
        on_scanner.ask(&format!("MAIL FROM:<{ALICE}>")),
        "421 4.7.0 the account's rights have changed, log in again"
    );
    assert!(on_phone.message("from the phone").starts_with("250 "));
    assert!(own.message("from the desk").starts_with("250 "));
    login(&phone);
    for line in daemon.log.lines() {
        for secret in [&scanner, &phone] {
            assert!(!line.contains(secret), "{line}");
        }
    }
    daemon.stop();
}

/// Somebody moves in with the hash of another server, and logs in as ever.
#[test]
fn an_imported_hash_is_upgraded() {
    let world = World::new(Settings {
        auth: "upgrade_hashes = true",
        ..Settings::default()
    });
    // Of "correct horse", by crypt(3).
    let hash = "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2";
    let users = format!("moved@example.org:{{BLF-CRYPT}}{hash}:::::\n");
    world.replace("users", &users);
    let path = world.shown("users");
    let report = account_command(&world, &["import", &path]);
    assert_eq!(
        report,
        "imported 1 of 1 accounts; 1 with a weak hash (`gatepost check` lists them)\n"
    );
    let daemon = world.start();
    daemon.event("warning", |event| {
        let finding = event["finding"].as_str().unwrap();
        finding.contains("moved@example.org") && finding.contains("bcrypt with a cost below 10")
    });
    let login = |password: &str| {
        let mut client = Client::secured(&daemon, TlsStart::Implicit);
        client.login("moved@example.org", password)
    };
    assert_eq!(login("wrong"), FAILED);
    assert_eq!(login(PASSWORD), ACCEPTED);
    daemon.event("account.upgraded", |event| {
        event["account"] == "moved@example.org"
    });
    daemon.event("reload", |event| event["what"] == "accounts");
    let accounts = std::fs::read_to_string(world.path("accounts.toml")).unwrap();
    assert!(!accounts.contains(hash) && accounts.contains("$argon2id$v=19$m=19456,t=2,p=1$"));
    assert_eq!(login("wrong"), FAILED);
    assert_eq!(login(PASSWORD), ACCEPTED);
    daemon.stop();
}

/// LOGIN and PLAIN from clients of every age, over the wire: what is in the password, and how it is encoded.
#[test]
fn passwords_of_every_kind() {
    let world = World::with_limits("");
    let longest = "x".repeat(255);
    let passwords = [
        "x",
        &longest,
        "a:b%c%s",
        "gr\u{fc}\u{df} \u{e9}",
        "\u{4f60}\u{597d}",
    ];
    let name = |index: usize| format!("user{index}@example.org");
    let entries = passwords.iter().enumerate();
    let accounts: String = entries
        .map(|(index, password)| account(&name(index), password, ""))
        .collect();
    world.replace("accounts.toml", &accounts);
    let daemon = world.start();
    let login = |name: &str, password: &[u8]| {
        let mut client = Client::secured(&daemon, TlsStart::Implicit);
        client.expect(&format!("auth Login {}", base64(name)), "334 UGFzc3dvcmQ6");
        client.ask(&base64(password))
    };
    for (index, password) in passwords.iter().enumerate() {
        let name = name(index);
        assert_eq!(login(&name, password.as_bytes()), ACCEPTED, "{password}");
        let mut client = Client::secured(&daemon, TlsStart::StartTls);
        assert_eq!(client.login(&name, password), ACCEPTED, "{password}");
        // As a client sends it that knows no UTF-8.
        let latin: Option<Vec<u8>> = password.chars().map(|c| u8::try_from(c).ok()).collect();
        if let Some(latin) = latin {
            assert_eq!(login(&name, &latin), ACCEPTED, "{password} in Latin-1");
        }
        for wrong in [&b"\0"[..], b"y"] {
            let wrong = [password.as_bytes(), wrong].concat();
            assert_eq!(login(&name, &wrong), FAILED, "{password}");
        }
    }
    daemon.event("auth.refused", |event| {
        event["reason"] == "name or password is empty or holds forbidden characters"
    });
    daemon.stop();
}
