//! Tokens, over real TLS: keys that change while people are logged in, an issuer that is not trusted any more, and one
//! that hangs.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use gatepost::clock::Now;
use gatepost::server::TlsStart;
use serde_json::json;

use super::harness::{ALICE, Client, DOORS, PASSWORD, Settings, World};

const ISSUER: &str = "https://id.example.org";
const ACCEPTED: &str = "235 2.7.0 authentication succeeded";
const FAILED: &str = "535 5.7.8 authentication failed";
const UNAVAILABLE: &str = "454 4.7.0 credentials cannot be checked now, try again later";

/// Somebody who signs tokens, and the keys that tell so.
struct Issuer {
    key: EcdsaKeyPair,
    id: &'static str,
}

impl Issuer {
    fn new(id: &'static str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { key, id }
    }

    fn keys(&self) -> String {
        let point = &self.key.public_key().as_ref()[1..];
        let [x, y] = [&point[..32], &point[32..]].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        let key = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": self.id });
        json!({ "keys": [key] }).to_string()
    }

    /// A token of alice's that is good for an hour, with so many octets of something else in it.
    fn token(&self, filler: usize) -> String {
        let part = |value: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!(
            "{}.{}",
            part(json!({ "alg": "ES256", "kid": self.id })),
            part(json!({
                "iss": ISSUER, "aud": "smtp", "email": ALICE, "groups": "x".repeat(filler),
                "exp": Now::read().wall.as_second() + 3600,
            }))
        );
        let random = SystemRandom::new();
        let signature = self.key.sign(&random, message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

/// What is in `[auth]`, and the issuer behind it.
fn taking_tokens(jwks: &str) -> String {
    format!(
        "mechanisms = [\"OAUTHBEARER\", \"XOAUTH2\", \"PLAIN\"]\n\
         [[token_issuer]]\nissuer = \"{ISSUER}\"\naudience = \"smtp\"\njwks = \"{jwks}\"\n"
    )
}

/// The answer to a token, after the JSON that comes before a refusal.
fn login(client: &mut Client, mechanism: &str, token: &str) -> String {
    let message = match mechanism {
        "XOAUTH2" => format!("user={ALICE}\x01auth=Bearer {token}\x01\x01"),
        _ => format!("n,a={ALICE},\x01auth=Bearer {token}\x01\x01"),
    };
    let response = BASE64_STANDARD.encode(message);
    let reply = client.ask(&format!("AUTH {mechanism} {response}"));
    match reply.starts_with("334 ey") {
        true => client.ask("AQ=="),
        false => reply,
    }
}

#[test]
fn a_file_of_keys() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let mut world = World::new(Settings {
        auth: taking_tokens("keys.json").leak(),
        ..Settings::default()
    });
    world.replace("keys.json", &old.keys());
    world.replace(
        "accounts.toml",
        &format!("[[account]]\nname = \"{ALICE}\"\n"),
    );
    let daemon = world.start();
    let tokens = [old.token(0), old.token(6000)];
    for door in DOORS {
        for token in &tokens {
            for mechanism in ["OAUTHBEARER", "XOAUTH2"] {
                let mut client = Client::secured(&daemon, door);
                assert_eq!(login(&mut client, mechanism, token), ACCEPTED);
                let event = daemon.event("auth.accepted", client.is_me());
                assert_eq!(event["mechanism"], mechanism);
                assert_eq!(event["issuer"], ISSUER);
                assert!(client.message("by a token").starts_with("250 "));
            }
        }
    }
    let mut client = Client::secured(&daemon, TlsStart::Implicit);
    assert_eq!(login(&mut client, "XOAUTH2", &old.token(0)), ACCEPTED);

    // A file without keys changes nothing, and one with others is in force by itself.
    let mut other = Client::secured(&daemon, TlsStart::StartTls);
    world.replace("keys.json", "{}");
    let failed = daemon.event("reload.failed", |event| event["what"] == "accounts");
    assert!(
        failed["error"].as_str().unwrap().contains("no set of keys"),
        "{failed}"
    );
    assert_eq!(login(&mut other, "OAUTHBEARER", &old.token(0)), ACCEPTED);
    world.replace("keys.json", &new.keys());
    daemon.event("reload", |event| event["what"] == "accounts");
    let mut other = Client::secured(&daemon, TlsStart::StartTls);
    assert_eq!(login(&mut other, "OAUTHBEARER", &old.token(0)), FAILED);
    let event = daemon.event("auth.refused", other.is_me());
    assert_eq!(event["reason"], "token is signed with an unknown key");
    assert_eq!(event["issuer"], ISSUER);
    assert_eq!(login(&mut other, "OAUTHBEARER", &new.token(0)), ACCEPTED);

    // Who is in stays in, until the issuer is not trusted any more.
    assert!(client.message("under other keys").starts_with("250 "));
    world.settings.auth = "mechanisms = [\"PLAIN\"]";
    world.write_configuration();
    assert_eq!(daemon.reload()["event"], "reload");
    for client in [&mut client, &mut other] {
        assert_eq!(
            client.ask(&format!("MAIL FROM:<{ALICE}>")),
            "421 4.7.0 the account's rights have changed, log in again"
        );
    }
    let signatures = [&tokens[0], &tokens[1]].map(|token| token.rsplit('.').next().unwrap());
    for line in daemon.log.lines() {
        assert!(
            !signatures.iter().any(|signature| line.contains(signature)),
            "{line}"
        );
    }
    daemon.stop();
}

/// The keys are fetched when the daemon starts, and a login needs nobody then.
#[test]
fn keys_come_before_anybody_needs_them() {
    let issuer = Issuer::new("a");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let world = World::new(Settings {
        auth: taking_tokens(&format!("http://{address}/keys")).leak(),
        ..Settings::default()
    });
    let daemon = world.start();
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        stream.read_exact(&mut octet).unwrap();
        request.extend(octet);
    }
    assert!(request.starts_with(b"GET /keys HTTP/1.1\r\n"));
    // A login that comes meanwhile waits for the same answer.
    let mut client = Client::secured(&daemon, TlsStart::Implicit);
    let token = issuer.token(0);
    let waiting = std::thread::spawn(move || login(&mut client, "OAUTHBEARER", &token));
    let keys = issuer.keys();
    let length = keys.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{keys}"
    )
    .unwrap();
    assert_eq!(waiting.join().unwrap(), ACCEPTED);
    drop((listener, stream));
    // A reload does not forget them.
    assert_eq!(daemon.reload()["event"], "reload");
    let mut client = Client::secured(&daemon, TlsStart::Implicit);
    assert_eq!(login(&mut client, "XOAUTH2", &issuer.token(0)), ACCEPTED);
    daemon.stop();
}

/// It takes connections and says nothing: its own tokens hear 454, and nobody else notices.
#[test]
fn an_issuer_that_hangs() {
    let issuer = Issuer::new("a");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let auth = taking_tokens(&format!("http://{address}/keys")) + "timeout = \"1s\"\n";
    let world = World::new(Settings {
        auth: auth.leak(),
        ..Settings::default()
    });
    let daemon = world.start();
    let mut waiting = Client::secured(&daemon, TlsStart::Implicit);
    let token = issuer.token(0);
    let waiting = std::thread::spawn(move || login(&mut waiting, "OAUTHBEARER", &token));
    let mut other = Client::secured(&daemon, TlsStart::StartTls);
    assert_eq!(other.login(ALICE, PASSWORD), ACCEPTED);
    assert!(other.message("meanwhile").starts_with("250 "));
    assert_eq!(waiting.join().unwrap(), UNAVAILABLE);
    let event = daemon.event("issuer.unavailable", |event| event["issuer"] == ISSUER);
    assert_eq!(event["level"], "error");
    let error = event["error"].as_str().unwrap();
    assert!(error.ends_with("there is no answer within 1s"), "{error}");
    let refused = daemon.event("auth.refused", |event| event["mechanism"] == "OAUTHBEARER");
    let reason = refused["reason"].as_str().unwrap();
    assert!(
        reason.starts_with(&format!("issuer {ISSUER}: ")),
        "{reason}"
    );
    daemon.stop();
    drop(listener);
}

/// A stale token that comes again and again is no guess, many different ones are; and no ban for guessed passwords is
/// held against whoever has a good one.
#[test]
fn wrong_tokens_are_counted_like_passwords() {
    let (issuer, stranger) = (Issuer::new("one"), Issuer::new("one"));
    let world = World::new(Settings {
        auth: taking_tokens("keys.json").leak(),
        guessing: "failures_per_address = 3\nfailures_per_login = 3\ndelay_max = \"off\"",
        ..Settings::default()
    });
    world.replace("keys.json", &issuer.keys());
    let daemon = world.start();
    let try_token = |source: &str, token: &str| {
        let mut client = Client::secured_from(source, &daemon, TlsStart::Implicit);
        login(&mut client, "XOAUTH2", token)
    };
    let (office, phone, attacker) = ("127.0.0.2", "127.0.0.3", "127.0.0.4");
    let good = issuer.token(0);
    assert_eq!(try_token(office, &good), ACCEPTED);
    for number in 0..3 {
        let mut client = Client::secured_from(office, &daemon, TlsStart::Implicit);
        let reply = client.login("bob@example.org", &format!("guess {number}"));
        assert_eq!(reply, FAILED);
    }
    daemon.event("banned", |event| event["network"] == office);
    // Without a name beside it: the token says whose it is.
    let mut client = Client::secured_from(office, &daemon, TlsStart::Implicit);
    let nameless = BASE64_STANDARD.encode(format!("n,,\x01auth=Bearer {good}\x01\x01"));
    client.expect(&format!("AUTH OAUTHBEARER {nameless}"), ACCEPTED);

    let stale = stranger.token(0);
    for _ in 0..10 {
        assert_eq!(try_token(phone, &stale), FAILED);
    }
    assert_eq!(try_token(phone, &good), ACCEPTED);
    for filler in 0..3 {
        assert_eq!(try_token(attacker, &stranger.token(filler)), FAILED);
    }
    let banned = daemon.event("banned", |event| {
        event["scope"] == "network" && event["network"] != office
    });
    assert_eq!(banned["network"], attacker);
}
