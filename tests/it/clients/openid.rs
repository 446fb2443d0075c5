//! Tokens of a real OpenID provider (tests/openid, oidc-provider on loopback): real clients log in with them, checked
//! by its keys and by asking it, while it is there and when it is gone.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::programs::{Client, curl, lettre, msmtp};
use super::{ALICE, LISTENERS, PASSWORD, Submission, refuse, samples, submit};
use crate::daemon::{Daemon, field, succeeded};
use crate::process::Lines;

/// What is offered in one test, and the clients that use it.
struct Offer {
    mechanisms: &'static str,
    clients: &'static [(&'static str, Client, &'static str)],
}

/// curl never takes XOAUTH2 where it could have OAUTHBEARER.
const BOTH: Offer = Offer {
    mechanisms: "\"PLAIN\", \"OAUTHBEARER\", \"XOAUTH2\"",
    clients: &[
        ("curl", curl, "OAUTHBEARER"),
        ("msmtp", msmtp, "OAUTHBEARER"),
        ("msmtp", msmtp, "XOAUTH2"),
        ("lettre", lettre, "XOAUTH2"),
    ],
};
const XOAUTH2: Offer = Offer {
    mechanisms: "\"XOAUTH2\"",
    clients: &[
        ("curl", curl, "XOAUTH2"),
        ("msmtp", msmtp, "XOAUTH2"),
        ("lettre", lettre, "XOAUTH2"),
    ],
};
/// How the provider signs.
const ALGORITHMS: [&str; 4] = ["ES256", "EdDSA", "PS256", "RS256"];

/// A provider that runs, and ends with the test.
struct Provider {
    process: Child,
    issuer: String,
}

impl Provider {
    fn start() -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openid");
        assert!(
            directory.join("node_modules").is_dir(),
            "npm ci --prefix tests/openid"
        );
        let mut process = Command::new("node")
            .arg(directory.join("provider.mjs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Lines::of(process.stdout.take().unwrap());
        let issuer = said.wait(0, &["http://127.0.0.1:"]);
        Self { process, issuer }
    }

    /// A token for a client that the provider knows; for what it is good says the resource.
    fn token(&self, client: &str, resource: &str) -> String {
        let output = Command::new("curl")
            .args(["--disable", "--silent", "--show-error", "--fail-with-body"])
            .args(["--max-time", "60"])
            .args(["--user", &format!("{client}:the%20secret%20of%20{client}")])
            .args(["--data", "grant_type=client_credentials&scope=smtp"])
            .arg("--data-urlencode")
            .arg(format!("resource=https://mail.example.org/{resource}"))
            .arg(format!("{}/token", self.issuer))
            .output()
            .unwrap();
        let answer: Value = serde_json::from_slice(&succeeded(&["curl"], output)).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// From now on nobody is there.
    fn stop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A daemon that takes the provider's tokens.
struct Scene {
    daemon: Daemon,
    offer: Offer,
    issuer: String,
}

impl Scene {
    fn new(provider: &Provider, offer: Offer, more: &str) -> Self {
        let issuer = provider.issuer.clone();
        let settings = format!(
            "[auth]\nmechanisms = [{}]\n\
             [[token_issuer]]\nissuer = \"{issuer}\"\naudience = \"smtp\"\nscope = \"smtp\"\nleeway = \"0s\"\n{more}",
            offer.mechanisms
        );
        Self {
            daemon: Daemon::serve(&[(ALICE, PASSWORD, &[])], &settings),
            offer,
            issuer,
        }
    }

    /// Every client logs in as it can, and the log says by whose leave.
    fn lets_in(&self, token: &str) {
        let message = &samples()[0].message;
        for listener in LISTENERS {
            for &(name, client, mechanism) in self.offer.clients {
                let submission = Submission {
                    listener,
                    mechanism,
                    password: token,
                    ..Submission::new(&self.daemon, message)
                };
                let mark = self.daemon.log.mark();
                submit(name, client, &submission);
                let line = self.daemon.log.wait(mark, &["event=auth.accepted"]);
                assert_eq!(field(&line, "issuer"), Some(&*self.issuer), "{line}");
            }
        }
        self.keeps_quiet(token);
    }

    /// No client is let in. With XOAUTH2 curl and lettre leave when they are told why, and before they are told so; the
    /// log has it all the same.
    fn keeps_out(&self, token: &str, reply: &str, reason: &str) {
        let message = &samples()[0].message;
        let reason = format!("reason=\"{reason}");
        let words = ["event=auth.refused", &reason];
        for &(name, client, mechanism) in self.offer.clients {
            let submission = Submission {
                mechanism,
                password: token,
                ..Submission::new(&self.daemon, message)
            };
            if reply.starts_with("454") || name == "msmtp" || mechanism == "OAUTHBEARER" {
                refuse(name, client, &submission, reply, &words);
                continue;
            }
            let mark = self.daemon.log.mark();
            let outcome = client(&submission);
            assert!(!outcome.accepted, "{name}: {}", outcome.said);
            let line = self.daemon.log.wait(mark, &words);
            assert!(line.contains(reply), "{line}");
        }
        self.keeps_quiet(token);
    }

    /// Nothing of the token is in the log.
    fn keeps_quiet(&self, token: &str) {
        let signature = token.rsplit('.').next().unwrap();
        for line in self.daemon.log.since(0) {
            assert!(!line.contains(signature), "{line}");
        }
    }
}

#[test]
#[ignore = "needs node, the provider of tests/openid, curl, msmtp: .ci/run installs them"]
fn tokens_that_its_keys_have_signed() {
    let mut provider = Provider::start();
    let mut scene = Scene::new(&provider, BOTH, "");
    for algorithm in ALGORITHMS {
        let token = provider.token("alice", &format!("jwt/{algorithm}/600/smtp"));
        scene.lets_in(&token);
    }
    let failed = "535 5.7.8";
    let other = provider.token("mallory", "jwt/ES256/600/smtp");
    scene.keeps_out(&other, failed, "no such account");
    let other = provider.token("alice", "jwt/ES256/600/imap");
    scene.keeps_out(&other, failed, "token is for another audience");
    let opaque = provider.token("alice", "opaque/ES256/600/smtp");
    scene.keeps_out(&opaque, failed, "token is malformed");
    // It is good for a second, and may be so for the first clients.
    let short = provider.token("alice", "jwt/ES256/1/smtp");
    let message = &samples()[0].message;
    let submission = Submission {
        mechanism: "XOAUTH2",
        password: &short,
        ..Submission::new(&scene.daemon, message)
    };
    while lettre(&submission).accepted {}
    scene.keeps_out(&short, failed, "token has expired");

    // It is gone, and its keys are known.
    let token = provider.token("alice", "jwt/EdDSA/600/smtp");
    provider.stop();
    scene.lets_in(&token);
    // They are known no more.
    scene.daemon = scene.daemon.restart();
    let reason = format!("issuer {}: ", provider.issuer);
    scene.keeps_out(&token, "454 4.7.0", &reason);
    let words = ["event=issuer.unavailable", "cannot be reached"];
    scene.daemon.log.wait(0, &words);
    scene.daemon.stop();
}

#[test]
#[ignore = "needs node, the provider of tests/openid, curl, msmtp: .ci/run installs them"]
fn tokens_that_it_is_asked_about() {
    let mut provider = Provider::start();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "the secret of gatepost\n").unwrap();
    let introspection = format!(
        "introspection = \"{}/token/introspection\"\nclient_id = \"gatepost\"\n\
         client_secret_file = \"{}\"\ncache_for = \"off\"\n",
        provider.issuer,
        secret.display()
    );
    let scene = Scene::new(&provider, XOAUTH2, &introspection);
    let token = provider.token("alice", "opaque/ES256/600/smtp");
    scene.lets_in(&token);
    let failed = "535 5.7.8";
    let other = provider.token("mallory", "opaque/ES256/600/smtp");
    scene.keeps_out(&other, failed, "no such account");
    let other = provider.token("alice", "opaque/ES256/600/imap");
    scene.keeps_out(&other, failed, "token is for another audience");
    scene.keeps_out("made-up", failed, "token is not active");

    provider.stop();
    let reason = format!("issuer {}: ", provider.issuer);
    scene.keeps_out(&token, "454 4.7.0", &reason);
    let words = ["event=issuer.unavailable", "cannot be reached"];
    scene.daemon.log.wait(0, &words);
    scene.daemon.stop();
}
