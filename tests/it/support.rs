//! What several tests share: chance, a small world of accounts, and a server in this process.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gatepost::account::{BoxFuture, CredentialStore};
use gatepost::audit::Audit;
use gatepost::clock::Now;
use gatepost::decision::{
    Account, Authentication, Caller, Claim, Credential, Grant, Limit, Origin, OverLimit,
    RecipientPattern, RefusedLogin, SenderPattern, TokenFault, Unavailable,
};
use gatepost::guard::{Guard, GuessingSettings, Mode as GuessingMode};
use gatepost::policy::history::History;
use gatepost::policy::tripwire::{Mode, TripwireSettings, Tripwires};
use gatepost::policy::{Limiter, Policy, PolicySettings};
use gatepost::queue::{Spool, SpoolSettings};
use gatepost::sasl::external::Certificate;
use gatepost::sasl::scram::{Keys, Offer, Verifier};
use gatepost::secret::Secret;
use gatepost::server::alert::Alerts;
use gatepost::server::{
    Bound, Generation, Listen, Listener, Proxies, ServerLimits, Services, TlsStart,
};
use gatepost::session::Profile;
use gatepost::tls::client::ClientCertificates;
use gatepost::tls::{MinimumVersion, Tls, TlsSettings};

/// Chance from a seed (SplitMix64), so that a seed means the same everywhere.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// The accounts that the dialogues know, with passwords in clear: what they are about is the dialogue.
#[derive(Debug)]
pub(crate) struct FixedAccounts(Vec<(Arc<Account>, &'static str)>);

impl FixedAccounts {
    pub(crate) fn new() -> Self {
        let account = |name: &str, enabled: bool, send_as: &[&str]| {
            let origin = Origin {
                file: Path::new("accounts.toml").into(),
                line: 1,
            };
            let patterns = send_as
                .iter()
                .map(|text| (SenderPattern::parse(text).unwrap(), origin.clone()));
            Arc::new(Account {
                name: name.to_owned(),
                enabled,
                allow_from: Vec::new(),
                send_as: patterns.collect(),
                messages_per_hour: None,
                recipients_per_day: None,
                tripwires: None,
                over_limit: None,
                note: None,
                origin: origin.clone(),
                credential: None,
                grant: None,
            })
        };
        let limited = |account: Arc<Account>| {
            let origin = account.origin.clone();
            Arc::new(Account {
                messages_per_hour: Some((at_most(50), origin.clone())),
                recipients_per_day: Some((at_most(20), origin)),
                ..(*account).clone()
            })
        };
        let alice = account(
            "alice@example.org",
            true,
            &["alice@example.org", "*@lists.example.org"],
        );
        let scanner = with_credential(&alice);
        Self(vec![
            (alice, "secret"),
            (scanner, "scan-secret"),
            (
                account("bob@example.org", false, &["bob@example.org"]),
                "hunter2",
            ),
            (
                account("carol@example.org", true, &["carol@example.org", "<>"]),
                "secret",
            ),
            (
                limited(account("dora", true, &["dora@example.org"])),
                "secret",
            ),
            (
                account(
                    "erika",
                    true,
                    &["r\u{e9}my@b\u{fc}cher.example", "*@xn--mller-kva.example"],
                ),
                "secret",
            ),
            (account("user", true, &["user@example.org"]), "pencil"),
        ])
    }

    pub(crate) fn answer(&self, claim: &Claim) -> Result<Authentication, Unavailable> {
        let (authorization_identity, authentication_identity) = match claim {
            Claim::Certificate {
                authorization_identity,
                certificate,
            } => {
                let logins = self.logins(certificate);
                let Some(login) = logins.first() else {
                    return Ok(refused(RefusedLogin::UnknownCertificate));
                };
                return Ok(match authorization_identity.as_str() {
                    _ if !login.enabled => refused(RefusedLogin::Disabled),
                    "" => Authentication::Accept(Arc::clone(login)),
                    name if name == login.name => Authentication::Accept(Arc::clone(login)),
                    _ => refused(RefusedLogin::AuthorizationIdentity),
                });
            }
            Claim::Password {
                authorization_identity,
                authentication_identity,
                ..
            }
            | Claim::Scram {
                authorization_identity,
                authentication_identity,
                ..
            } => (authorization_identity, authentication_identity),
            Claim::Token {
                authorization_identity,
                token,
            } => return self.answer_token(authorization_identity, token),
        };
        if authentication_identity == "busy" {
            return Err(Unavailable("overloaded".to_owned()));
        }
        let refuse = |reason| Ok(refused(reason));
        let matches = |right: &str| match claim {
            Claim::Password { password, .. } => password.expose() == right.as_bytes(),
            Claim::Scram { proof, .. } => proof.matched.is_some(),
            Claim::Certificate { .. } => false,
            Claim::Token { .. } => false,
        };
        let named = || {
            let all = self.0.iter();
            all.filter(|(account, _)| account.name == *authentication_identity)
        };
        if named().next().is_none() {
            return refuse(RefusedLogin::UnknownAccount);
        }
        let Some((account, _)) = named().find(|(_, right)| matches(right)) else {
            return refuse(RefusedLogin::WrongPassword);
        };
        if !account.enabled {
            refuse(RefusedLogin::Disabled)
        } else if !authorization_identity.is_empty() && *authorization_identity != account.name {
            refuse(RefusedLogin::AuthorizationIdentity)
        } else {
            Ok(Authentication::Accept(Arc::clone(account)))
        }
    }

    /// The accounts that a certificate names.
    pub(crate) fn logins(&self, certificate: &Certificate) -> Vec<Arc<Account>> {
        let names = certificate.addresses.iter();
        names.filter_map(|name| self.named(name)).collect()
    }

    fn answer_token(
        &self,
        acting_for: &str,
        token: &Secret,
    ) -> Result<Authentication, Unavailable> {
        let refuse = |reason| Ok(refused(reason));
        let (name, expires) = match token.expose() {
            b"alice.token" => ("alice@example.org", None),
            b"alice.short" => (
                "alice@example.org",
                Some("2026-11-21T09:35:00Z".parse().unwrap()),
            ),
            b"bob.token" => ("bob@example.org", None),
            b"busy.token" => return Err(Unavailable("issuer cannot be reached".to_owned())),
            b"nobody.token" => return refuse(RefusedLogin::UnknownAccount),
            b"old.token" => return refuse(RefusedLogin::Token(TokenFault::Expired)),
            long if long.len() > 8000 && long.ends_with(b".alice") => ("alice@example.org", None),
            _ => return refuse(RefusedLogin::Token(TokenFault::Malformed)),
        };
        let account = self.named(name).unwrap();
        if !account.enabled {
            refuse(RefusedLogin::Disabled)
        } else if !acting_for.is_empty() && acting_for != name {
            refuse(RefusedLogin::AuthorizationIdentity)
        } else {
            let grant = Some(Grant {
                issuer: "https://id.example.org".into(),
                expires,
            });
            Ok(Authentication::Accept(Arc::new(Account {
                grant,
                ..(*account).clone()
            })))
        }
    }

    /// The account of this name, as whoever has its own password has it.
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Account>> {
        let mut accounts = self.0.iter().map(|(account, _)| account);
        accounts.find(|account| account.name == name).cloned()
    }

    /// Everybody has the salt and the nonce of the example in RFC 7677 section 3.
    pub(crate) fn offer(&self, name: &str) -> Result<Offer, Unavailable> {
        if name == "busy" {
            return Err(Unavailable("overloaded".to_owned()));
        }
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let iterations = NonZeroU32::new(4096).unwrap();
        let verifier = match self.0.iter().find(|(account, _)| account.name == name) {
            Some((_, password)) => {
                let keys = Keys::derive(password.as_bytes(), &salt, iterations);
                Verifier::new(&[keys]).unwrap()
            }
            None => Verifier::nobodys(salt, iterations),
        };
        Ok(Offer {
            verifier: Arc::new(verifier),
            nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned(),
        })
    }
}

impl CredentialStore for FixedAccounts {
    fn check<'a>(
        &'a self,
        claim: &'a Claim,
        _: Caller,
    ) -> BoxFuture<'a, Result<Authentication, Unavailable>> {
        Box::pin(async move { self.answer(claim) })
    }

    fn scram_offer<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Offer, Unavailable>> {
        Box::pin(async move { self.offer(name) })
    }

    fn logins_of(&self, certificate: &Certificate) -> Vec<Arc<Account>> {
        self.logins(certificate)
    }

    fn account(&self, login: &Account) -> Option<Arc<Account>> {
        let same = |account: &Account| {
            account.name == login.name && account.credential_name() == login.credential_name()
        };
        self.0
            .iter()
            .find(|(account, _)| same(account))
            .map(|(account, _)| Arc::clone(account))
    }
}

fn refused(reason: RefusedLogin) -> Authentication {
    Authentication::Refuse {
        reason,
        name: None,
        credential: None,
        issuer: None,
    }
}

/// The login of alice's scanner: it sends as her alone, and within her domain.
fn with_credential(alice: &Account) -> Arc<Account> {
    let origin = alice.origin.clone();
    let credential = Credential {
        name: "scanner".to_owned(),
        expires: None,
        allow_from: Vec::new(),
        send_as: vec![(
            SenderPattern::parse("alice@example.org").unwrap(),
            origin.clone(),
        )],
        rcpt_allow: vec![(
            RecipientPattern::parse("*@example.org").unwrap(),
            origin.clone(),
        )],
        messages_per_hour: Some((at_most(50), origin.clone())),
        recipients_per_day: Some((at_most(20), origin.clone())),
        note: None,
        origin,
    };
    Arc::new(Account {
        credential: Some(Arc::new(credential)),
        ..alice.clone()
    })
}

fn at_most(number: u64) -> Limit {
    Limit::AtMost(number.try_into().unwrap())
}

/// A policy without limits.
pub(crate) fn policy(directory: &Path) -> Policy {
    let settings = PolicySettings {
        messages_per_hour: (Limit::Unlimited, None),
        recipients_per_day: (Limit::Unlimited, None),
        over_limit: (OverLimit::Refuse, None),
        held_messages: (10_000, None),
    };
    let (limiter, _) = Limiter::open(&directory.join("limits.json"), Now::read());
    Policy::new(settings, Arc::new(limiter))
}

/// A server in this process, on ports of the kernel's choice.
pub(crate) struct Server {
    pub(crate) services: Arc<Services>,
    pub(crate) starttls: SocketAddr,
    pub(crate) implicit: SocketAddr,
    pub(crate) certificate: Vec<u8>,
    pub(crate) directory: tempfile::TempDir,
    listeners: Vec<Listener>,
}

impl Server {
    pub(crate) fn start(profile: Profile, limits: ServerLimits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fresh = gatepost::tls::fresh::self_signed(&["localhost"], Now::read()).unwrap();
        let files = fresh.write(directory.path()).unwrap();
        let tls = Tls::load(&TlsSettings {
            certificates: vec![files],
            minimum_version: MinimumVersion::Tls12,
            clients: ClientCertificates::default(),
        })
        .unwrap();
        let queue = SpoolSettings {
            minimum_free: 0,
            ..SpoolSettings::new(directory.path().join("queue"))
        };
        let (spool, _) = Spool::open(&queue).unwrap();
        let generation = Generation {
            profile: Arc::new(profile),
            limits,
            proxies: Proxies::default(),
            tls: Arc::new(tls),
            accounts: Arc::new(FixedAccounts::new()),
            policy: Arc::new(policy(directory.path())),
            tripwires: TripwireSettings {
                mode: (Mode::Off, None),
                exempt: Vec::new(),
                messages_per_10_minutes: (Limit::Unlimited, None),
                new_recipients_per_hour: (Limit::Unlimited, None),
                networks_per_hour: (Limit::Unlimited, None),
                refused_recipients_per_hour: (Limit::Unlimited, None),
                messages_per_hour: Limit::Unlimited,
                recipients_per_day: Limit::Unlimited,
            },
            alert_mail: None,
        };
        // The dialogues fail more logins than anybody may.
        let guessing = GuessingSettings {
            mode: GuessingMode::Off,
            ..GuessingSettings::default()
        };
        let guard = Arc::new(Guard::in_memory(guessing, Now::read()));
        let services = Services::new(
            generation,
            spool,
            Audit::default(),
            guard,
            Arc::default(),
            (History::default(), Tripwires::default(), Alerts::default()),
        );
        let listen = |tls| {
            let bound = Bound::new(Listen {
                address: "127.0.0.1:0".parse().unwrap(),
                tls,
                proxy_protocol: false,
            });
            bound.unwrap().listen().unwrap()
        };
        let listeners = vec![listen(TlsStart::StartTls), listen(TlsStart::Implicit)];
        for listener in &listeners {
            listener.start(&services);
        }
        Self {
            services,
            starttls: listeners[0].local_address(),
            implicit: listeners[1].local_address(),
            certificate: fresh.chain.into(),
            directory,
            listeners,
        }
    }

    /// The messages in `ready/`, oldest first.
    pub(crate) fn stored(&self) -> Vec<Vec<u8>> {
        let mut names: Vec<_> = std::fs::read_dir(self.directory.path().join("queue/ready"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
            .collect();
        names.sort();
        names
            .iter()
            .map(|path| std::fs::read(path).unwrap())
            .collect()
    }

    pub(crate) async fn stop(self) {
        drop(self.listeners);
        self.services.stop().await;
    }
}
