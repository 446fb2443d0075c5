//! Handshakes in memory with clients that show certificates, and what those are worth.

use std::fs;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ServerConnection, SupportedProtocolVersion,
};
use tempfile::TempDir;

use self::authority::{Issued, Order, YEARS};
use super::*;
use crate::tls::fresh::self_signed;
use crate::tls::{MinimumVersion, Tls, TlsSettings};

#[path = "../../../tests/it/authority.rs"]
mod authority;

use authority::Authority as Ca;

const ALICE: &str = "alice@example.org";
const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// A server's files, and a directory for them.
struct World {
    directory: TempDir,
    settings: TlsSettings,
    roots: RootCertStore,
}

impl World {
    /// A server that asks clients for certificates of these authorities.
    fn new(authorities: &[&Ca]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fresh = self_signed(&["localhost"], Now::read()).unwrap();
        let certificate = fresh.write(directory.path()).unwrap();
        let mut roots = RootCertStore::empty();
        let own = CertificateDer::from_pem_slice(fresh.chain.as_bytes()).unwrap();
        roots.add(own).unwrap();
        let mut world = Self {
            settings: TlsSettings {
                certificates: vec![certificate],
                minimum_version: MinimumVersion::Tls12,
                clients: ClientCertificates {
                    asked_for: true,
                    authorities: Vec::new(),
                },
            },
            directory,
            roots,
        };
        for authority in authorities {
            world.trust(&authority.pem(), None);
        }
        world
    }

    /// Adds a `[[client_ca]]`.
    fn trust(&mut self, pem: &str, crl: Option<&str>) {
        let number = self.settings.clients.authorities.len();
        let write = |kind: &str, text: &str| {
            let path = self.directory.path().join(format!("{kind}-{number}.pem"));
            fs::write(&path, text).unwrap();
            path
        };
        let files = ClientAuthorityFiles {
            file: write("ca", pem),
            crl: crl.map(|text| write("crl", text)),
        };
        self.settings.clients.authorities.push(files);
    }

    fn tls(&self) -> Tls {
        Tls::load(&self.settings).unwrap()
    }

    /// A client that shows these certificates. It resumes its sessions where it can.
    fn client(
        &self,
        version: &'static SupportedProtocolVersion,
        shown: Option<&str>,
        key: &str,
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(chain) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                let key = provider.key_provider.load_private_key(key).unwrap();
                // Without a look at whether the two belong together.
                let shown = CertifiedKey::new(chain.map(Result::unwrap).collect(), key);
                builder.with_client_cert_resolver(Arc::new(Always(Arc::new(shown))))
            }
        };
        config.resumption = Resumption::in_memory_sessions(8);
        Arc::new(config)
    }

    /// A client with this certificate and its key.
    fn with(&self, issued: &Issued) -> Arc<ClientConfig> {
        self.client(
            &rustls::version::TLS13,
            Some(&issued.certificate),
            &issued.key,
        )
    }

    /// What a server of these settings makes of such a client: the addresses, and what speaks against it.
    fn judged(&self, issued: &Issued) -> (Vec<String>, Option<String>) {
        let tls = self.tls();
        let (server, _) = handshake(&tls, &self.with(issued)).unwrap();
        let shown = tls.shown_by_client(&server, Now::read()).unwrap();
        let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        assert_eq!(shown.fingerprint, Fingerprint::of(&der));
        let certificate = shown.certificate.unwrap();
        assert_eq!(certificate.fingerprint, shown.fingerprint);
        (certificate.addresses, shown.problem)
    }
}

/// Shows its certificate to whoever asks, whatever issuers they name.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn handshake(
    tls: &Tls,
    client: &Arc<ClientConfig>,
) -> Result<(ServerConnection, HandshakeKind), Error> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(tls.server_config()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut unread = &wire[..];
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets()?;
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut unread = &wire[..];
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets()?;
        }
    }
    let kind = client.handshake_kind().unwrap();
    Ok((server, kind))
}

#[test]
fn a_client_is_asked_and_not_obliged() {
    let ca = Ca::new("the CA", YEARS);
    let issued = ca.issue(&Order::of(&[ALICE]));
    let mut world = World::new(&[&ca]);
    for version in VERSIONS {
        let tls = world.tls();
        let without = world.client(version, None, "");
        let (server, _) = handshake(&tls, &without).unwrap();
        assert_eq!(tls.shown_by_client(&server, Now::read()), None);
        let with = world.client(version, Some(&issued.certificate), &issued.key);
        let (server, _) = handshake(&tls, &with).unwrap();
        let shown = tls.shown_by_client(&server, Now::read()).unwrap();
        assert_eq!(shown.certificate.unwrap().addresses, [ALICE]);
        assert_eq!(shown.problem, None);
    }
    world.settings.clients.asked_for = false;
    for version in VERSIONS {
        let tls = world.tls();
        let with = world.client(version, Some(&issued.certificate), &issued.key);
        let (server, _) = handshake(&tls, &with).unwrap();
        assert_eq!(server.peer_certificates(), None, "it was not asked");
    }
}

/// The one thing that the handshake proves.
#[test]
fn a_certificate_without_its_key_fails() {
    let ca = Ca::new("the CA", YEARS);
    let (issued, other) = (
        ca.issue(&Order::of(&[ALICE])),
        ca.issue(&Order::of(&["mallory@example.org"])),
    );
    let world = World::new(&[&ca]);
    for version in VERSIONS {
        let tls = world.tls();
        let thief = world.client(version, Some(&issued.certificate), &other.key);
        let error = handshake(&tls, &thief).unwrap_err();
        let expected = Error::InvalidCertificate(CertificateError::BadSignature);
        assert_eq!(error, expected);
    }
}

#[test]
fn what_a_certificate_is_worth() {
    let year = |years| Order {
        years,
        ..Order::of(&[ALICE])
    };
    let (ca, other) = (Ca::new("the CA", YEARS), Ca::new("another CA", YEARS));
    let impostor = Ca::new("the CA", YEARS);
    let middle = ca.below("one in the middle");
    let outdated = Ca::new("an outdated CA", (2020, 2021));
    let mut world = World::new(&[&ca, &outdated]);
    let judged = |issued: &Issued| world.judged(issued);
    let vouched = |emails: &[&str]| {
        let emails: Vec<String> = emails.iter().map(|email| (*email).to_owned()).collect();
        (emails, None)
    };
    let worthless = |problem: &str| (Vec::new(), Some(problem.to_owned()));

    assert_eq!(judged(&ca.issue(&Order::of(&[ALICE]))), vouched(&[ALICE]));
    let both = [ALICE, "Bob@Example.ORG"];
    assert_eq!(judged(&ca.issue(&Order::of(&both))), vouched(&both));
    let mut chain = middle.issue(&Order::of(&[ALICE]));
    let unknown = worthless("no [[client_ca]] has issued it");
    assert_eq!(judged(&chain), unknown, "the one in the middle is missing");
    chain.certificate += &middle.pem();
    assert_eq!(judged(&chain), vouched(&[ALICE]));

    assert_eq!(judged(&other.issue(&Order::of(&[ALICE]))), unknown);
    assert_eq!(
        judged(&impostor.issue(&Order::of(&[ALICE]))),
        worthless("its signature is not that of its issuer")
    );
    assert_eq!(judged(&Order::of(&[ALICE]).self_signed()), unknown);
    assert_eq!(
        judged(&outdated.issue(&Order::of(&[ALICE]))),
        unknown,
        "a CA vouches for nobody when it has expired"
    );
    assert_eq!(
        judged(&ca.issue(&year((2020, 2021)))),
        worthless("it expired on 2021-12-31")
    );
    assert_eq!(
        judged(&ca.issue(&year((2098, 2099)))),
        worthless("it is valid only from 2098-01-01 on")
    );
    assert_eq!(
        judged(&ca.issue(&Order::of(&[]))),
        worthless("it names no e-mail address")
    );
    let of_a_server = Order {
        for_clients: false,
        ..Order::of(&[ALICE])
    };
    assert_eq!(
        judged(&ca.issue(&of_a_server)),
        worthless("its extended key usage is not that of a client")
    );

    // Where fingerprints are all that counts, there is nothing to say about issuers.
    world.settings.clients.authorities.clear();
    let own = Order::of(&[ALICE]).self_signed();
    assert_eq!(world.judged(&own), (Vec::new(), None));
    let (addresses, problem) = world.judged(&year((2020, 2021)).self_signed());
    assert_eq!(addresses, [""; 0]);
    assert_eq!(problem.as_deref(), Some("it expired on 2021-12-31"));
}

#[test]
fn revoked_certificates() {
    let (ca, other) = (Ca::new("the CA", YEARS), Ca::new("another CA", YEARS));
    let with_serial = |serial| Order {
        serial,
        ..Order::of(&[ALICE])
    };
    let (good, revoked) = (ca.issue(&with_serial(7)), ca.issue(&with_serial(8)));
    for (crl, of_good, of_revoked) in [
        (ca.revoke(&[8, 9], 2099), None, Some("it is revoked")),
        (
            ca.revoke(&[8], 2021),
            Some("the crl of who issued it has not been renewed in time"),
            Some("the crl of who issued it has not been renewed in time"),
        ),
        (
            other.revoke(&[8], 2099),
            Some("the crl says nothing about who issued it"),
            Some("the crl says nothing about who issued it"),
        ),
        (
            other.revoke(&[], 2099) + &ca.revoke(&[8], 2099),
            None,
            Some("it is revoked"),
        ),
    ] {
        let mut world = World::new(&[]);
        world.trust(&ca.pem(), Some(&crl));
        let (_, problem) = world.judged(&good);
        assert_eq!(problem.as_deref(), of_good);
        let (_, problem) = world.judged(&revoked);
        assert_eq!(problem.as_deref(), of_revoked);
    }
}

/// A ticket brings the certificate of the first handshake along; what that is worth is judged by what holds now.
#[test]
fn a_resumed_session_is_judged_anew() {
    let ca = Ca::new("the CA", YEARS);
    let issued = ca.issue(&Order {
        years: (2020, 2060),
        ..Order::of(&[ALICE])
    });
    for version in VERSIONS {
        let world = World::new(&[&ca]);
        let tls = world.tls();
        let client = world.client(version, Some(&issued.certificate), &issued.key);
        let (_, kind) = handshake(&tls, &client).unwrap();
        assert_eq!(kind, HandshakeKind::Full);
        let (server, kind) = handshake(&tls, &client).unwrap();
        assert_eq!(kind, HandshakeKind::Resumed);
        let worth = |wall: Timestamp| {
            let now = Now {
                wall,
                ..Now::read()
            };
            let shown = tls.shown_by_client(&server, now)?;
            Some((shown.certificate.unwrap(), shown.problem))
        };
        let today = Now::read().wall;
        let (certificate, problem) = worth(today).unwrap();
        assert_eq!(
            (&certificate.addresses[..], problem),
            (&[ALICE.to_owned()][..], None)
        );

        let later: Timestamp = "2061-01-01T00:00:00Z".parse().unwrap();
        let (certificate, problem) = worth(later).unwrap();
        assert!(!certificate.is_valid_at(later));
        assert_eq!(problem.as_deref(), Some("it expired on 2060-12-31"));

        let other = Ca::new("another CA", YEARS);
        let file = &world.settings.clients.authorities[0].file;
        fs::write(file, other.pem()).unwrap();
        assert!(tls.reload(&world.settings).unwrap().changed);
        let (certificate, problem) = worth(today).unwrap();
        assert_eq!(certificate.addresses, [""; 0]);
        assert_eq!(problem.as_deref(), Some("no [[client_ca]] has issued it"));

        // Nobody resumes a session in which other certificates were asked for.
        let (_, kind) = handshake(&tls, &client).unwrap();
        assert_eq!(kind, HandshakeKind::Full);

        let mut silent = world.settings.clone();
        silent.clients.asked_for = false;
        tls.reload(&silent).unwrap();
        assert!(worth(today).is_none(), "whoever does not ask takes none");
    }
}

#[test]
fn an_authority_ends_while_the_server_runs() {
    let mut world = World::new(&[]);
    let (short, long) = (Ca::new("short", (2020, 2060)), Ca::new("long", YEARS));
    world.trust(&(short.pem() + &long.pem()), None);
    let tls = world.tls();
    let served = |ca: &Ca, wall: &str| {
        let issued = ca.issue(&Order::of(&[ALICE]));
        let (server, _) = handshake(&tls, &world.with(&issued)).unwrap();
        let now = Now {
            wall: wall.parse().unwrap(),
            ..Now::read()
        };
        let shown = tls.shown_by_client(&server, now).unwrap();
        shown.certificate.unwrap().addresses == [ALICE]
    };
    for _ in 0..2 {
        assert!(served(&short, "2050-01-01T00:00:00Z"));
        assert!(served(&long, "2050-01-01T00:00:00Z"));
        assert!(!served(&short, "2061-01-01T00:00:00Z"));
        assert!(served(&long, "2061-01-01T00:00:00Z"));
        assert!(!served(&long, "2019-01-01T00:00:00Z"));
    }
}

#[test]
fn no_client_makes_us_keep_much() {
    let ca = Ca::new("the CA", YEARS);
    let mut issued = ca.issue(&Order::of(&[ALICE]));
    let world = World::new(&[&ca]);
    let tls = world.tls();
    issued.certificate += &ca.pem().repeat(CHAIN_BYTES_MAX / 300);
    let error = handshake(&tls, &world.with(&issued)).unwrap_err();
    assert!(error.to_string().contains("16384 are taken"), "{error}");
}

#[test]
fn clients_hear_by_whom_their_certificate_should_be() {
    let hints = |authorities: &[&Ca]| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let world = World::new(authorities);
        let trust = Trust::read(&world.settings.clients, &provider).unwrap();
        trust.request(&provider).root_hint_subjects().len()
    };
    let (one, other) = (Ca::new("one", YEARS), Ca::new("other", YEARS));
    assert_eq!(hints(&[]), 0);
    assert_eq!(hints(&[&one, &other]), 2);
    let wordy = Ca::new(&"x".repeat(HINTS_BYTES_MAX), YEARS);
    assert_eq!(hints(&[&one, &wordy]), 0);
}

#[test]
fn files_that_are_wrong_are_named_with_a_remedy() {
    let ca = Ca::new("the CA", YEARS);
    let issued = ca.issue(&Order::of(&[ALICE]));
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let no_list = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    for (pem, crl, wrong, said) in [
        ("", None, "ca-0.pem", "there is no certificate in it"),
        (
            issued.key.as_str(),
            None,
            "ca-0.pem",
            "keep its key elsewhere",
        ),
        (nonsense, None, "ca-0.pem", "the certificate cannot be used"),
        (
            &ca.pem(),
            Some(""),
            "crl-0.pem",
            "there is no list of revoked certificates in it",
        ),
        (
            &ca.pem(),
            Some(&*ca.pem()),
            "crl-0.pem",
            "begins with -----BEGIN X509 CRL-----",
        ),
        (
            &ca.pem(),
            Some("0\u{1}"),
            "crl-0.pem",
            "openssl crl -inform der",
        ),
        (&ca.pem(), Some(no_list), "crl-0.pem", "it cannot be used"),
    ] {
        let mut world = World::new(&[]);
        world.trust(pem, crl);
        let findings = Tls::load(&world.settings).unwrap_err();
        let [finding] = &findings[..] else {
            panic!("{said}: {findings:?}");
        };
        assert!(finding.is_error());
        assert!(finding.one_line().contains(said), "{}", finding.one_line());
        assert!(finding.place.as_ref().unwrap().file.ends_with(wrong));
    }
    // Both files, and those of the server's own certificate, are looked at.
    let mut world = World::new(&[]);
    world.trust("", Some(""));
    fs::write(&world.settings.certificates[0].chain, "").unwrap();
    assert_eq!(Tls::load(&world.settings).unwrap_err().len(), 3);
    // A reload with a broken file changes nothing.
    let world = World::new(&[&ca]);
    let tls = world.tls();
    let (server, _) = handshake(&tls, &world.with(&issued)).unwrap();
    fs::write(&world.settings.clients.authorities[0].file, "half").unwrap();
    tls.reload(&world.settings).unwrap_err();
    let shown = tls.shown_by_client(&server, Now::read()).unwrap();
    assert_eq!(shown.certificate.unwrap().addresses, [ALICE]);
}

#[test]
fn what_is_odd_is_spoken_of() {
    let ca = Ca::new("the CA", (2020, 2060));
    let issued = ca.issue(&Order::of(&[ALICE]));
    let said = |pem: &str, crl: Option<&str>, wall: &str| {
        let mut world = World::new(&[]);
        world.trust(pem, crl);
        let now = Now {
            wall: wall.parse().unwrap(),
            ..Now::read()
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let trust = Trust::read(&world.settings.clients, &provider).unwrap();
        let findings = trust.findings(now);
        assert!(
            findings
                .iter()
                .all(|one| !one.is_error() && one.hint.is_some())
        );
        findings
            .into_iter()
            .map(|one| one.message)
            .collect::<Vec<_>>()
            .join("; ")
    };
    let today = "2026-11-21T09:30:00Z";
    assert_eq!(said(&ca.pem(), Some(&ca.revoke(&[], 2030)), today), "");
    assert_eq!(
        said(&ca.pem(), None, "2060-12-30T12:00:00Z"),
        "the CA certificate expires within a day, on 2060-12-31"
    );
    assert_eq!(
        said(&ca.pem(), None, "2061-06-01T00:00:00Z"),
        "the CA certificate expired on 2060-12-31"
    );
    assert_eq!(
        said(&ca.pem(), None, "2019-06-01T00:00:00Z"),
        "the CA certificate is valid only from 2020-01-01 on"
    );
    assert_eq!(
        said(&issued.certificate, None, today),
        "this is the certificate of no CA (basicConstraints)"
    );
    assert_eq!(
        said(&ca.pem(), Some(&ca.revoke(&[], 2025)), today),
        "the list of revoked certificates should have been renewed by 2025-01-01: certificates that depend on it are \
         refused"
    );
}
