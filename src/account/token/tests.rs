//! Issuers whose keys are in a file or fetched, and issuers that are asked, on loopback: what becomes of tokens.

use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::*;
use provider::{Answer, Provider, Shared, http, ok};
use signers::{SIGNERS, Signer, claims, set};

mod provider;
mod signatures;
pub(in crate::account) mod signers;

pub(super) const ISSUER: &str = "https://id.example.org";
/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// An issuer whose keys are nowhere yet.
pub(in crate::account) fn settings() -> IssuerSettings {
    IssuerSettings {
        issuer: ISSUER.to_owned(),
        audience: vec!["smtp".to_owned()],
        check: TokenCheck::KeyFile(PathBuf::new()),
        account_claim: "email".to_owned(),
        scope: Vec::new(),
        algorithms: ALGORITHMS.map(|(_, algorithm)| algorithm).to_vec(),
        leeway: Duration::ZERO,
        timeout: Duration::from_millis(500),
        ca: None,
    }
}

fn fetched_from(address: WebAddress) -> IssuerSettings {
    IssuerSettings {
        check: TokenCheck::FetchedKeys {
            address: Some(address),
            refresh: Duration::from_secs(3600),
            stale: Duration::from_secs(86_400),
        },
        ..settings()
    }
}

fn open(settings: IssuerSettings) -> Issuers {
    Issuers::open(&[settings], &Issuers::default()).unwrap().0
}

/// What becomes of a token, in a few words. It always becomes something.
async fn judged(issuers: &Issuers, token: &str, now: Now) -> String {
    let token = Secret::from(token);
    let check = issuers.check(&token, now);
    match tokio::time::timeout(PATIENCE, check)
        .await
        .expect("it ends by itself")
    {
        Ok(judged) => match judged.answer {
            Ok(verified) => format!("accept {}", verified.name),
            Err(fault) => format!("refuse: {fault}"),
        },
        Err(Unavailable(reason)) => format!("unavailable: {reason}"),
    }
}

const ACCEPTED: &str = "accept alice@example.org";

#[tokio::test]
async fn keys_are_fetched_once() {
    let provider = Provider::start();
    let signer = &SIGNERS.p256;
    provider.publishes(&[signer.published(&json!({ "kid": "a" }))]);
    let issuers = open(fetched_from(provider.at("/keys")));
    let start = Now::read();
    let after = |seconds| start.after(Duration::from_secs(seconds));
    let token = signer.token("ES256", "a");
    // All at once wait for the one fetch.
    let checks = (0..20).map(|_| judged(&issuers, &token, start));
    for answer in futures_of(checks).await {
        assert_eq!(answer, ACCEPTED);
    }
    assert_eq!(provider.connections(), 1);
    // A made-up key has them fetched again, but not for each who makes one up.
    let made_up = |id: &str| signer.token("ES256", id);
    let unknown = "refuse: token is signed with an unknown key";
    for number in 0..5 {
        let token = made_up(&format!("made-up-{number}"));
        assert_eq!(judged(&issuers, &token, after(9)).await, unknown);
    }
    assert_eq!(provider.connections(), 1);
    let tokens: Vec<String> = (0..20).map(|number| made_up(&number.to_string())).collect();
    let checks = tokens
        .iter()
        .map(|token| judged(&issuers, token, after(10)));
    for answer in futures_of(checks).await {
        assert_eq!(answer, unknown);
    }
    assert_eq!(provider.connections(), 2);
    // A key that the provider has begun to use is found at once.
    let new = Signer::ecdsa("P-256");
    let keys = [signer, &new].map(|one| one.jwk.clone());
    let [mut old_key, mut new_key] = keys;
    (old_key["kid"], new_key["kid"]) = ("a".into(), "b".into());
    provider.publishes(&[old_key, new_key]);
    let by_new = new.token("ES256", "b");
    assert_eq!(judged(&issuers, &by_new, after(19)).await, unknown);
    assert_eq!(judged(&issuers, &by_new, after(20)).await, ACCEPTED);
    assert_eq!(judged(&issuers, &token, after(20)).await, ACCEPTED);
    assert_eq!(provider.connections(), 3);
    for request in provider.requests() {
        assert!(request.starts_with("GET /keys HTTP/1.1\r\n"), "{request}");
        let host = format!("host: localhost:{}\r\n", provider.address.port());
        assert!(request.to_ascii_lowercase().contains(&host), "{request}");
    }
}

/// All of them at the same time, on this thread.
async fn futures_of<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = all.map(|one| (Some(Box::pin(one)), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in &mut waiting {
            if let Some(running) = future
                && let std::task::Poll::Ready(value) = running.as_mut().poll(context)
            {
                (*future, *done) = (None, Some(value));
            }
        }
        match waiting.iter().all(|(future, _)| future.is_none()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    waiting.into_iter().filter_map(|(_, done)| done).collect()
}

#[tokio::test]
async fn a_provider_that_is_down_is_bridged() {
    let provider = Provider::start();
    let signer = &SIGNERS.p256;
    provider.publishes(&[signer.published(&json!({ "kid": "a" }))]);
    let issuers = open(fetched_from(provider.at("/keys")));
    let start = Now::read();
    let after = |seconds| start.after(Duration::from_secs(seconds));
    let mut claims = claims();
    claims["exp"] = (start.wall.as_second() + 1_000_000).into();
    let header = |id: &str| json!({ "alg": "ES256", "kid": id });
    let token = signer.token_with(&header("a"), &claims.to_string());
    let unknown_key = signer.token_with(&header("b"), &claims.to_string());
    // The keys are there before anybody needs them, and again when they are old.
    refresh(&issuers, start).await;
    refresh(&issuers, after(3599)).await;
    assert_eq!(provider.connections(), 1);
    refresh(&issuers, after(3600)).await;
    assert_eq!(provider.connections(), 2);
    assert_eq!(judged(&issuers, &token, after(3601)).await, ACCEPTED);
    assert_eq!(provider.connections(), 2);

    provider.says("/keys", http("503 Service Unavailable", "", b""));
    refresh(&issuers, after(7200)).await;
    assert_eq!(provider.connections(), 3);
    let bridged = 3600 + 86_400;
    assert_eq!(judged(&issuers, &token, after(bridged - 1)).await, ACCEPTED);
    // Whether it has a key of this name nobody can tell.
    let down = format!(
        "unavailable: issuer {ISSUER}: {}: answers 503",
        provider.at("/keys")
    );
    assert_eq!(
        judged(&issuers, &unknown_key, after(bridged - 1)).await,
        down
    );
    assert_eq!(judged(&issuers, &token, after(bridged)).await, down);
    // It is not asked by each who would like to come in.
    let asked = provider.connections();
    for _ in 0..5 {
        assert_eq!(judged(&issuers, &token, after(bridged + 8)).await, down);
    }
    assert_eq!(provider.connections(), asked);
    provider.publishes(&[signer.published(&json!({ "kid": "a" }))]);
    assert_eq!(
        judged(&issuers, &token, after(bridged + 20)).await,
        ACCEPTED
    );
    let unknown = "refuse: token is signed with an unknown key";
    assert_eq!(
        judged(&issuers, &unknown_key, after(bridged + 20)).await,
        unknown
    );
}

/// Has keys fetched, if that is due, and waits for what has begun.
async fn refresh(issuers: &Issuers, now: Now) {
    issuers.refresh(now);
    let idle = async {
        while !issuers.tasks.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, idle).await.unwrap();
}

/// What a provider must never do, in keys and in introspection: it costs one login its answer, and no more.
#[tokio::test]
async fn providers_that_misbehave() {
    let provider = Provider::start();
    let directory = tempfile::tempdir().unwrap();
    let head = b"HTTP/1.1 200 OK\r\n".to_vec();
    let with = |more: &str| [&head, more.as_bytes()].concat();
    let zeros = vec![b' '; 64 << 10];
    let chunk = [format!("{:x}\r\n", zeros.len()).as_bytes(), &zeros, b"\r\n"].concat();
    let large = set(&vec![SIGNERS.p256.jwk.clone(); 20_000]);
    assert!(large.len() > web::ANSWER_BYTES_MAX);
    let elsewhere = format!("Location: {}\r\n", provider.at("/good"));
    provider.says("/good", ok(SIGNERS.set()));
    for (what, answer, reason) in [
        (
            "nothing there",
            http("404 Not Found", "", b""),
            "answers 404, so there is nothing at that address",
        ),
        (
            "fault",
            http("500 Internal Server Error", "", &SIGNERS.set()),
            "answers 500",
        ),
        ("no content", http("204 No Content", "", b""), "answers 204"),
        (
            "redirect",
            http("302 Found", &elsewhere, b""),
            "answers 302, a redirect, which is not followed",
        ),
        (
            "other redirect",
            http("308 Permanent Redirect", &elsewhere, b""),
            "answers 308, a redirect, which is not followed",
        ),
        (
            "silence",
            Answer::Silence,
            "there is no answer within 500ms",
        ),
        (
            "drip in header",
            Answer::Drip(with("X: ")),
            "there is no answer within 500ms",
        ),
        (
            "drip in body",
            Answer::Drip(with("Content-Length: 9999\r\n\r\n")),
            "there is no answer within 500ms",
        ),
        (
            "announced 10 MB",
            Answer::Flood(with("Content-Length: 10000000\r\n\r\n"), zeros.clone()),
            "the answer is larger than 1024 KiB",
        ),
        (
            "chunks without end",
            Answer::Flood(with("Transfer-Encoding: chunked\r\n\r\n"), chunk),
            "the answer is larger than 1024 KiB",
        ),
        (
            "octets without end",
            Answer::Flood(with("\r\n"), zeros.clone()),
            "the answer is larger than 1024 KiB",
        ),
        (
            "header without end",
            Answer::Flood(with("X: "), b"x".repeat(4096)),
            "says no HTTP: ",
        ),
        (
            "headers without end",
            Answer::Flood(with(""), b"X: y\r\n".repeat(64)),
            "says no HTTP: ",
        ),
        ("large", ok(large), "the answer is larger than 1024 KiB"),
        (
            "cut",
            Answer::Octets(with("Content-Length: 9999\r\n\r\n{\"keys\":")),
            "says no HTTP: ",
        ),
        ("closed", Answer::Octets(Vec::new()), "says no HTTP: "),
        (
            "no HTTP",
            Answer::Octets(b"220 mail.example.org ESMTP\r\n".to_vec()),
            "says no HTTP: ",
        ),
        ("no JSON", ok("<html>"), "there is no "),
        ("other JSON", ok("{\"error\":\"x\"}"), "there is no "),
        ("nothing", ok(""), "there is no "),
    ] {
        provider.says("/keys", answer.clone());
        let before = provider.shared.sent.load(Ordering::Acquire);
        let issuers = open(fetched_from(provider.at("/keys")));
        let said = judged(&issuers, &SIGNERS.p256.token("ES256", "p256"), Now::read()).await;
        let start = format!(
            "unavailable: issuer {ISSUER}: {}: {reason}",
            provider.at("/keys")
        );
        assert!(said.starts_with(&start), "{what}: {said}, not {start}");
        // It is not read to its end: what went out beyond the bound lies in the buffers of sockets.
        let sent = provider.shared.sent.load(Ordering::Acquire) - before;
        assert!(sent < 16 << 20, "{what}: {sent} octets were taken");

        provider.says("/introspect", answer);
        let issuers = open(asked_at(&provider, directory.path(), None));
        let said = judged(&issuers, "opaque", Now::read()).await;
        let start = format!(
            "unavailable: issuer {ISSUER}: {}: {reason}",
            provider.at("/introspect")
        );
        assert!(said.starts_with(&start), "{what}: {said}, not {start}");
    }
    assert!(
        !provider
            .requests()
            .iter()
            .any(|request| request.contains("/good"))
    );
    // Nobody there at all.
    let address = provider.at("/keys");
    drop(provider);
    let issuers = open(fetched_from(address.clone()));
    let said = judged(&issuers, &SIGNERS.p256.token("ES256", "p256"), Now::read()).await;
    let start = format!("unavailable: issuer {ISSUER}: {address}: cannot be reached: ");
    assert!(said.starts_with(&start), "{said}");
}

#[tokio::test]
async fn configurations_of_providers() {
    let provider = Provider::start();
    provider.publishes(&[SIGNERS.p256.published(&json!({ "kid": "a" }))]);
    let issuer = provider.at("").to_string();
    let configuration = "/.well-known/openid-configuration";
    let keys = provider.at("/keys").to_string();
    let mut claims = claims();
    claims["iss"] = issuer.as_str().into();
    let token = SIGNERS
        .p256
        .token_with(&json!({ "alg": "ES256", "kid": "a" }), &claims.to_string());
    for (said, expected) in [
        (
            json!({ "issuer": issuer, "jwks_uri": keys, "more": [1] }),
            None,
        ),
        (
            json!({ "issuer": format!("{issuer}/"), "jwks_uri": keys }),
            Some("it is the configuration of another issuer"),
        ),
        (
            json!({ "jwks_uri": keys }),
            Some("it is the configuration of another issuer"),
        ),
        (json!({ "issuer": issuer }), Some("there is no jwks_uri")),
        (
            json!({ "issuer": issuer, "jwks_uri": [keys] }),
            Some("there is no jwks_uri"),
        ),
        (
            json!({ "issuer": issuer, "jwks_uri": "http://id.example.org/keys" }),
            Some("jwks_uri is not under TLS"),
        ),
        (
            json!({ "issuer": issuer, "jwks_uri": "file:///etc/passwd" }),
            Some("jwks_uri is not a web address"),
        ),
        (json!([]), Some("there is no JSON object")),
    ] {
        provider.says(configuration, ok(said.to_string()));
        let mut settings = fetched_from(provider.at("/keys"));
        settings.issuer.clone_from(&issuer);
        let TokenCheck::FetchedKeys { address, .. } = &mut settings.check else {
            unreachable!()
        };
        *address = None;
        let answer = judged(&open(settings), &token, Now::read()).await;
        let expected = match expected {
            None => ACCEPTED.to_owned(),
            Some(reason) => {
                format!("unavailable: issuer {issuer}: {issuer}{configuration}: {reason}")
            }
        };
        assert_eq!(answer, expected, "{said}");
    }
}

// ------------------------------------------------------------------------------------------ introspection

fn asked_at(provider: &Provider, directory: &Path, cache_for: Option<Duration>) -> IssuerSettings {
    let client_secret_file = directory.join("secret");
    std::fs::write(&client_secret_file, "p:ss w+rd\n").unwrap();
    IssuerSettings {
        check: TokenCheck::Introspection {
            address: provider.at("/introspect"),
            client_id: "mail server".to_owned(),
            client_secret_file,
            cache_for,
        },
        account_claim: "username".to_owned(),
        audience: Vec::new(),
        ..settings()
    }
}

fn active(more: Value) -> Answer {
    let mut said = json!({ "active": true, "username": "alice@example.org" });
    for (name, value) in more.as_object().unwrap() {
        said[name] = value.clone();
    }
    ok(said.to_string())
}

#[tokio::test]
async fn issuers_that_are_asked() {
    let (provider, directory) = (Provider::start(), tempfile::tempdir().unwrap());
    let issuers = open(asked_at(&provider, directory.path(), None));
    let now = Now::read();
    let past = now.wall.as_second() - 1;
    for (answer, expected) in [
        (active(json!({})), ACCEPTED),
        (
            active(json!({ "active": false })),
            "refuse: token is not active",
        ),
        (active(json!({ "exp": past })), "refuse: token has expired"),
        (
            active(json!({ "iss": "https://elsewhere.example" })),
            "refuse: token is from an unknown issuer",
        ),
        (
            active(json!({ "username": "" })),
            "refuse: token names no account",
        ),
    ] {
        provider.says("/introspect", answer);
        assert_eq!(judged(&issuers, "a+b/c==", now).await, expected);
    }
    // What is neither yes nor no is no answer, and neither is a refusal to talk to us.
    for (answer, expected) in [
        (
            active(json!({ "active": "true" })),
            "there is no answer to the question (RFC 7662 section 2.2)",
        ),
        (
            ok("{}"),
            "there is no answer to the question (RFC 7662 section 2.2)",
        ),
        (
            ok(r#"{"active":false,"active":true}"#),
            "there is no answer to the question (RFC 7662 section 2.2)",
        ),
        (
            http("401 Unauthorized", "", b""),
            "answers 401, so our login there is not good",
        ),
    ] {
        provider.says("/introspect", answer);
        let said = judged(&issuers, "opaque", now).await;
        let address = provider.at("/introspect");
        assert_eq!(
            said,
            format!("unavailable: issuer {ISSUER}: {address}: {expected}")
        );
    }
    let request = provider.requests()[0].clone();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /introspect HTTP/1.1\r\n"), "{head}");
    let head = head.to_ascii_lowercase();
    let login = BASE64_STANDARD
        .encode("mail+server:p%3Ass+w%2Brd")
        .to_ascii_lowercase();
    for field in [
        format!("authorization: basic {login}"),
        "content-type: application/x-www-form-urlencoded".to_owned(),
        "accept: application/json".to_owned(),
    ] {
        assert!(head.lines().any(|line| line == field), "{head}");
    }
    assert_eq!(body, "token=a%2Bb%2Fc%3D%3D&token_type_hint=access_token");
}

#[tokio::test]
async fn good_tokens_are_remembered() {
    let (provider, directory) = (Provider::start(), tempfile::tempdir().unwrap());
    let settings = asked_at(&provider, directory.path(), Some(Duration::from_secs(60)));
    let issuers = open(settings.clone());
    let start = Now::read();
    let after = |seconds| start.after(Duration::from_secs(seconds));
    provider.says(
        "/introspect",
        active(json!({ "exp": start.wall.as_second() + 90 })),
    );
    let mut asked = 0;
    for (seconds, question) in [(0, true), (30, false), (59, false), (60, true), (89, false)] {
        assert_eq!(
            judged(&issuers, "opaque", after(seconds)).await,
            ACCEPTED,
            "{seconds}"
        );
        asked += usize::from(question);
        assert_eq!(provider.connections(), asked, "{seconds}");
    }
    // Not longer than it is good, and what is not good is not remembered.
    for _ in 0..2 {
        let said = judged(&issuers, "opaque", after(91)).await;
        assert_eq!(said, "refuse: token has expired");
        asked += 1;
        assert_eq!(provider.connections(), asked);
    }
    // A reload that changes nothing forgets nothing, and any change forgets all.
    provider.says("/introspect", active(json!({})));
    assert_eq!(judged(&issuers, "opaque", after(100)).await, ACCEPTED);
    let same = Issuers::open(std::slice::from_ref(&settings), &issuers)
        .unwrap()
        .0;
    provider.says("/introspect", active(json!({ "active": false })));
    assert_eq!(judged(&same, "opaque", after(100)).await, ACCEPTED);
    std::fs::write(directory.path().join("secret"), "another").unwrap();
    let other = Issuers::open(&[settings], &same).unwrap().0;
    assert_eq!(
        judged(&other, "opaque", after(100)).await,
        "refuse: token is not active"
    );
}

/// Hundreds of logins at once ask a provider that hangs by few connections, and wait no longer than one does.
#[tokio::test]
async fn questions_are_bounded() {
    let (provider, directory) = (Provider::start(), tempfile::tempdir().unwrap());
    provider.says("/introspect", Answer::Silence);
    let mut settings = asked_at(&provider, directory.path(), None);
    let tokens: Vec<String> = (0..100).map(|number| format!("opaque-{number}")).collect();
    let now = Now::read();
    let issuers = open(settings.clone());
    let checks = tokens.iter().map(|token| judged(&issuers, token, now));
    for said in futures_of(checks).await {
        assert!(
            said.ends_with(": there is no answer within 500ms"),
            "{said}"
        );
    }

    settings.timeout = 2 * PATIENCE;
    let issuers = open(settings);
    let Check::Introspection(introspection) = &issuers.issuers[0].check else {
        unreachable!()
    };
    let before = provider.requests().len();
    let checks = tokens.iter().map(|token| judged(&issuers, token, now));
    let mut checks = std::pin::pin!(futures_of(checks));
    let all_busy = async {
        while provider.requests().len() < before + 32 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = &mut checks => panic!("nobody has answered"),
        () = all_busy => {}
    }
    assert_eq!(introspection.free_questions(), 0);
    assert_eq!(provider.requests().len(), before + 32);
}

// -------------------------------------------------------------------------------------------- all together

#[tokio::test]
async fn a_token_is_shown_to_nobody_else() {
    let (provider, directory) = (Provider::start(), tempfile::tempdir().unwrap());
    provider.says("/introspect", active(json!({})));
    let keys = directory.path().join("keys.json");
    std::fs::write(&keys, SIGNERS.set()).unwrap();
    let by_keys = IssuerSettings {
        issuer: "https://keys.example".to_owned(),
        check: TokenCheck::KeyFile(keys),
        ..settings()
    };
    let asked = asked_at(&provider, directory.path(), None);
    let issuers = Issuers::open(&[by_keys, asked], &Issuers::default())
        .unwrap()
        .0;
    let now = Now::read();
    let token = |issuer: Option<&str>, signer: &Signer| {
        let mut claims = claims();
        match issuer {
            Some(issuer) => claims["iss"] = issuer.into(),
            None => drop(claims.as_object_mut().unwrap().remove("iss")),
        }
        let header = json!({ "alg": "ES256", "kid": "p256" });
        signer.token_with(&header, &claims.to_string())
    };
    let stranger = Signer::ecdsa("P-256");
    let ours = &SIGNERS.p256;
    for (token, expected, asked) in [
        (token(Some("https://keys.example"), ours), ACCEPTED, false),
        (
            token(Some("https://keys.example"), &stranger),
            "refuse: token has a wrong signature",
            false,
        ),
        (
            token(Some("https://elsewhere.example"), &stranger),
            "refuse: token is from an unknown issuer",
            false,
        ),
        // Whose signature this is only they can tell.
        (token(Some(ISSUER), &stranger), ACCEPTED, true),
        (token(None, &stranger), ACCEPTED, true),
        ("opaque".to_owned(), ACCEPTED, true),
        (String::new(), "refuse: token is malformed", false),
    ] {
        let before = provider.connections();
        assert_eq!(judged(&issuers, &token, now).await, expected);
        assert_eq!(provider.connections() > before, asked, "{expected}");
    }
    assert!(issuers.has(ISSUER) && !issuers.has("https://elsewhere.example"));
}

/// TLS to the provider is checked like any other: by the name, and against what is trusted.
#[tokio::test]
async fn providers_under_tls() {
    let fresh = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
        (certificate.pem(), Arc::new(config))
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let ((right, config), (other, other_config)) = (fresh("localhost"), fresh("id.example.org"));
    for (config, trusted, expected) in [
        (&config, &right, None),
        (&config, &other, Some("TLS: ")),
        (&other_config, &other, Some("TLS: ")),
    ] {
        let provider = Provider::serve(Shared {
            tls: Some(Arc::clone(config)),
            ..Shared::default()
        });
        provider.publishes(&[SIGNERS.p256.published(&json!({ "kid": "a" }))]);
        std::fs::write(&path, trusted).unwrap();
        let issuers = open(IssuerSettings {
            ca: Some(path.clone()),
            timeout: Duration::from_secs(5),
            ..fetched_from(provider.at("/keys"))
        });
        let said = judged(&issuers, &SIGNERS.p256.token("ES256", "a"), Now::read()).await;
        match expected {
            None => assert_eq!(said, ACCEPTED),
            Some(reason) => {
                let start = format!(
                    "unavailable: issuer {ISSUER}: {}: {reason}",
                    provider.at("/keys")
                );
                assert!(said.starts_with(&start), "{said}");
            }
        }
    }
}

#[test]
fn files_that_cannot_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let provider = Provider::start();
    let path = |name: &str| directory.path().join(name);
    for (name, octets) in [
        ("good.json", SIGNERS.set()),
        ("empty.json", b"{}".to_vec()),
        ("large.json", vec![b' '; web::ANSWER_BYTES_MAX + 1]),
        ("blank", b" \n".to_vec()),
        ("control", b"secret\r\nX: y\r\n".to_vec()),
        ("no.pem", b"-----BEGIN NOTHING-----".to_vec()),
    ] {
        std::fs::write(path(name), octets).unwrap();
    }
    let keys = |name: &str| IssuerSettings {
        check: TokenCheck::KeyFile(path(name)),
        ..settings()
    };
    let secret = |name: &str| {
        let mut asked = asked_at(&provider, directory.path(), None);
        if let TokenCheck::Introspection {
            client_secret_file, ..
        } = &mut asked.check
        {
            *client_secret_file = path(name);
        }
        asked
    };
    let ca = |name: &str| IssuerSettings {
        ca: Some(path(name)),
        ..fetched_from(provider.at("/keys"))
    };
    for (settings, expected) in [
        (keys("good.json"), None),
        (keys("empty.json"), Some("there is no set of keys")),
        (keys("large.json"), Some("larger than 1048576 octets")),
        (keys("missing.json"), Some("No such file")),
        (keys("."), Some("not a regular file")),
        (secret("missing"), Some("No such file")),
        (secret("blank"), Some("there is no secret in it")),
        // Encoded, it is harmless.
        (secret("control"), None),
        (ca("no.pem"), Some("there is no certificate in it")),
        (ca("missing.pem"), Some("No such file")),
    ] {
        let findings = Issuers::open(&[settings], &Issuers::default()).err();
        match (&findings, expected) {
            (None, None) => {}
            (Some(findings), Some(expected)) => {
                let [finding] = &findings[..] else {
                    panic!("{findings:?}");
                };
                assert!(
                    finding.is_error() && finding.message.contains(expected),
                    "{finding}"
                );
            }
            _ => panic!("{findings:?}, not {expected:?}"),
        }
    }
    assert_eq!(provider.connections(), 0);
}
