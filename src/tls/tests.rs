//! Certificates in temporary directories, handshakes in memory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, ServerConnection};
use tempfile::TempDir;

use super::fresh::{VALID_DAYS, self_signed};
use super::*;

#[test]
fn the_server_name_chooses() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(&[
        certificate(&directory, "first", &["first.example", "Mixed.Example"]),
        certificate(&directory, "wild", &["*.example.org", "example.org"]),
        certificate(&directory, "mail", &["mail.example.org"]),
        certificate(&directory, "again", &["mail.example.org"]),
    ]);
    let tls = Tls::load(&settings).unwrap();
    let set = tls.shared.resolver.0.load();
    for (name, expected) in [
        (None, 0),
        (Some("first.example"), 0),
        (Some("FIRST.example"), 0),
        (Some("mixed.example"), 0),
        (Some("unknown.example"), 0),
        (Some("example.org"), 1),
        (Some("www.example.org"), 1),
        (Some("WWW.Example.Org."), 1),
        // The exact name wins over the wildcard, and the first over the second.
        (Some("mail.example.org"), 2),
        // One label only, and a whole one.
        (Some("a.b.example.org"), 0),
        (Some("xexample.org"), 0),
        (Some("org"), 0),
        (Some(""), 0),
    ] {
        let chosen = set.choose(name, &[SignatureScheme::ECDSA_NISTP256_SHA256]);
        let expected = &set.certificates[expected].certified;
        assert!(Arc::ptr_eq(&chosen.unwrap(), expected), "{name:?}");
    }
}

#[test]
fn of_two_for_one_name_the_usable_one_is_chosen() {
    let directory = tempfile::tempdir().unwrap();
    let ecdsa = certificate(&directory, "ecdsa", &["mail.example.org"]);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ed25519 = rcgen::CertificateParams::new(["mail.example.org".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let ed25519 = files(
        &directory,
        "ed25519",
        &ed25519.pem(),
        key.serialize_pem().as_bytes(),
    );
    let tls = Tls::load(&settings(&[ecdsa, ed25519])).unwrap();
    let set = tls.shared.resolver.0.load();
    for (scheme, expected) in [
        (SignatureScheme::ECDSA_NISTP256_SHA256, 0),
        (SignatureScheme::ED25519, 1),
        // None fits: the first, and rustls says why it fails.
        (SignatureScheme::RSA_PSS_SHA256, 0),
    ] {
        let chosen = set.choose(Some("mail.example.org"), &[scheme]).unwrap();
        let expected = &set.certificates[expected].certified;
        assert!(Arc::ptr_eq(&chosen, expected), "{scheme:?}");
    }
}

#[test]
fn handshakes_keep_to_the_minimum_version() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = certificate(&directory, "one", &["localhost"]);
    for (minimum, client, agreed) in [
        (
            MinimumVersion::Tls12,
            &rustls::version::TLS12,
            Some(ProtocolVersion::TLSv1_2),
        ),
        (
            MinimumVersion::Tls12,
            &rustls::version::TLS13,
            Some(ProtocolVersion::TLSv1_3),
        ),
        (
            MinimumVersion::Tls13,
            &rustls::version::TLS13,
            Some(ProtocolVersion::TLSv1_3),
        ),
        (MinimumVersion::Tls13, &rustls::version::TLS12, None),
    ] {
        let settings = TlsSettings {
            minimum_version: minimum,
            ..settings(std::slice::from_ref(&certificate))
        };
        let tls = Tls::load(&settings).unwrap();
        let result = handshake(&tls, "localhost", &[client], &chain_of(&certificate));
        match agreed {
            Some(version) => assert_eq!(result.unwrap().version, version),
            None => assert!(result.is_err(), "TLS 1.2 got through"),
        }
    }
}

#[test]
fn a_reload_reaches_the_next_handshake() {
    let directory = tempfile::tempdir().unwrap();
    let files = certificate(&directory, "one", &["localhost"]);
    let old = chain_of(&files);
    let settings = settings(std::slice::from_ref(&files));
    let tls = Tls::load(&settings).unwrap();
    // A server that has kept the configuration from before must show the new certificate, too.
    let kept = tls.server_config();
    assert_eq!(
        tls.reload(&settings).unwrap(),
        Summary {
            certificates: 1,
            changed: false
        }
    );

    certificate(&directory, "one", &["localhost"]);
    let new = chain_of(&files);
    assert_ne!(old, new);
    assert!(tls.reload(&settings).unwrap().changed);
    assert!(Arc::ptr_eq(&kept, &tls.server_config()));
    let shown = handshake(&tls, "localhost", rustls::ALL_VERSIONS, &new).unwrap();
    assert_eq!(shown.certificate, new);
}

#[test]
fn a_reload_that_fails_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let one = certificate(&directory, "one", &["one.example"]);
    let two = certificate(&directory, "two", &["two.example"]);
    let settings = settings(&[one.clone(), two.clone()]);
    let tls = Tls::load(&settings).unwrap();
    let old = chain_of(&one);

    // The first is renewed, the second is half-written: neither must be taken up.
    certificate(&directory, "one", &["one.example"]);
    fs::write(&two.chain, "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    let stricter = TlsSettings {
        minimum_version: MinimumVersion::Tls13,
        ..settings.clone()
    };
    let findings = tls.reload(&stricter).unwrap_err();
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].place.as_ref().unwrap().file, two.chain);
    let shown = handshake(&tls, "one.example", &[&rustls::version::TLS12], &old).unwrap();
    assert_eq!(shown.certificate, old);

    certificate(&directory, "two", &["two.example"]);
    assert!(tls.reload(&stricter).unwrap().changed);
    let new = chain_of(&one);
    assert!(handshake(&tls, "one.example", &[&rustls::version::TLS12], &new).is_err());
    assert!(handshake(&tls, "one.example", &[&rustls::version::TLS13], &new).is_ok());
}

#[test]
fn files_that_are_wrong_are_named_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let good = certificate(&directory, "good", &["localhost"]);
    let other = certificate(&directory, "other", &["localhost"]);
    let write = |name: &str, octets: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, octets).unwrap();
        path
    };
    let der = write("der", &[0x30, 0x82, 1, 0]);
    let empty = write("empty", b"");
    let garbled = write(
        "garbled",
        b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
    );
    let nonsense = write(
        "nonsense",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let nonsense_key = write(
        "nonsense_key",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    );
    let garbled_key = write(
        "garbled_key",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END",
    );
    let large = write("large", &vec![b' '; (1 << 20) + 1]);
    let encrypted = write("encrypted", include_bytes!("testdata/encrypted_pkcs8.pem"));
    let encrypted_of_old = write(
        "encrypted_of_old",
        include_bytes!("testdata/encrypted_sec1.pem"),
    );
    let missing = directory.path().join("missing");
    let folder = directory.path().to_owned();

    // Which file, in place of the good one, and what is said about it.
    for (chain, key, said) in [
        (Some(&missing), None, "No such file"),
        (Some(&folder), None, "this is not a file"),
        (Some(&large), None, "larger than 1MiB"),
        (Some(&empty), None, "no certificate in it"),
        (Some(&der), None, "openssl x509 -inform der"),
        (Some(&good.key), None, "are `chain` and `key` exchanged?"),
        (Some(&garbled), None, "not well-formed PEM"),
        (Some(&nonsense), None, "the certificate cannot be used"),
        (None, Some(&missing), "No such file"),
        (None, Some(&empty), "no private key in it"),
        (None, Some(&der), "openssl pkey -inform der"),
        (None, Some(&good.chain), "are `chain` and `key` exchanged?"),
        (None, Some(&garbled_key), "not well-formed PEM"),
        (None, Some(&nonsense_key), "the private key cannot be used"),
        (None, Some(&encrypted), "the private key is encrypted"),
        (None, Some(&encrypted_of_old), "openssl pkey -in"),
        (None, Some(&other.key), "not the one of the certificate in"),
    ] {
        let files = CertificateFiles {
            chain: chain.unwrap_or(&good.chain).clone(),
            key: key.unwrap_or(&good.key).clone(),
        };
        let wrong = chain.or(key).unwrap();
        let findings = Tls::load(&settings(&[good.clone(), files])).unwrap_err();
        let [finding] = &findings[..] else {
            panic!("{wrong:?}: {findings:?}");
        };
        assert!(finding.is_error());
        assert!(finding.one_line().contains(said), "{}", finding.one_line());
        assert!(finding.hint.is_some(), "{}", finding.one_line());
        assert_eq!(&finding.place.as_ref().unwrap().file, wrong);
    }

    // Both files of both certificates are looked at.
    let files = CertificateFiles {
        chain: missing.clone(),
        key: missing,
    };
    let findings = Tls::load(&settings(&[files.clone(), files])).unwrap_err();
    assert_eq!(findings.len(), 4);
}

#[test]
fn keys_of_every_form_are_read() {
    let provider = aws_lc_rs::default_provider();
    let directory = tempfile::tempdir().unwrap();
    for (name, octets) in [
        ("pkcs1", &include_bytes!("testdata/pkcs1.pem")[..]),
        ("sec1", &include_bytes!("testdata/sec1.pem")[..]),
        (
            "pkcs8",
            &include_bytes!("../../certs-example/localhost.key")[..],
        ),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, octets).unwrap();
        let key = pem::read_key(&path).unwrap();
        assert!(
            provider.key_provider.load_private_key(key.der).is_ok(),
            "{name}"
        );
    }
}

#[test]
fn validity_is_spoken_of_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(&[certificate(&directory, "one", &["localhost"])]);
    let tls = Tls::load(&settings).unwrap();
    let set = tls.shared.resolver.0.load();
    let Facts {
        not_before,
        not_after,
        ..
    } = set.certificates[0].facts;
    let said = |wall: Timestamp| {
        let now = Now {
            wall,
            ..Now::read()
        };
        let findings = tls.findings("localhost", &[], now);
        assert!(findings.iter().all(|finding| !finding.is_error()));
        findings
            .first()
            .map_or_else(String::new, |finding| finding.message.clone())
    };
    let hours = jiff::SignedDuration::from_hours;
    assert!(said(not_before - hours(1)).contains("valid only from"));
    assert_eq!(said(not_before), "");
    assert_eq!(said(not_after - hours(22 * 24)), "");
    assert!(said(not_after - hours(21 * 24 + 23)).contains("expires in 21 days, on "));
    assert!(said(not_after - hours(24)).contains("expires in 1 day, on "));
    assert!(said(not_after - hours(23)).contains("expires within a day"));
    assert!(said(not_after + hours(1)).contains("expired on "));
}

#[test]
fn a_host_name_without_a_certificate_is_spoken_of() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(&[
        certificate(&directory, "one", &["localhost", "127.0.0.1", "::1"]),
        certificate(&directory, "two", &["*.example.org"]),
    ]);
    let tls = Tls::load(&settings).unwrap();
    for (hostname, covered) in [
        ("localhost", true),
        ("LOCALHOST", true),
        ("mail.example.org", true),
        ("[127.0.0.1]", true),
        ("[IPv6:::1]", true),
        ("example.org", false),
        ("a.mail.example.org", false),
        ("[192.0.2.1]", false),
        ("127.0.0.1", false),
    ] {
        let findings = tls.findings(hostname, &[], Now::read());
        assert_eq!(findings.is_empty(), covered, "{hostname}: {findings:?}");
    }
}

#[test]
fn the_example_is_for_this_machine_only() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs-example");
    let directory = tempfile::tempdir().unwrap();
    let files = CertificateFiles {
        chain: example.join("localhost.crt"),
        key: example.join("localhost.key"),
    };
    let own = certificate(&directory, "own", &["localhost"]);
    let now = Now::read();
    let findings = |files: &CertificateFiles, listen: &[&str]| {
        let listen: Vec<SocketAddr> = listen.iter().map(|text| text.parse().unwrap()).collect();
        let tls = Tls::load(&settings(std::slice::from_ref(files))).unwrap();
        tls.findings("localhost", &listen, now)
    };
    assert_eq!(findings(&files, &["127.0.0.1:587", "[::1]:587"]), []);
    let said = findings(&files, &["127.0.0.1:587", "0.0.0.0:587"]);
    assert_eq!(said.len(), 1);
    assert!(said[0].message.contains("0.0.0.0:587 can be reached"));
    assert_eq!(findings(&own, &["0.0.0.0:587"]), []);
}

#[test]
fn a_key_open_to_all_is_spoken_of() {
    let directory = tempfile::tempdir().unwrap();
    let files = certificate(&directory, "one", &["localhost"]);
    let mode = |mode| fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
    for (octal, open) in [(0o600, false), (0o640, false), (0o644, true)] {
        mode(octal);
        let tls = Tls::load(&settings(std::slice::from_ref(&files))).unwrap();
        let findings = tls.findings("localhost", &[], Now::read());
        assert_eq!(findings.len(), usize::from(open), "{octal:o}");
    }
}

#[test]
fn debug_shows_no_key() {
    let directory = tempfile::tempdir().unwrap();
    let fresh = self_signed(&["localhost"], Now::read()).unwrap();
    let files = fresh.write(directory.path()).unwrap();
    assert_eq!(
        fs::metadata(&files.key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let tls = Tls::load(&settings(&[files])).unwrap();
    let shown = format!("{fresh:?} {tls:#?}");
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
}

#[test]
fn a_fresh_certificate_is_short_lived() {
    let now = Now::read();
    let fresh = self_signed(&["localhost", "127.0.0.1"], now).unwrap();
    let der = rustls_pemfile::certs(&mut fresh.chain.as_bytes())
        .next()
        .unwrap()
        .unwrap();
    let facts = Facts::read(&der).unwrap();
    assert_eq!(facts.dns_names, ["localhost"]);
    assert_eq!(facts.addresses, [IpAddr::from([127, 0, 0, 1])]);
    assert!(!facts.example);
    assert!(facts.not_before < now.wall);
    let end = now.after(Duration::from_secs((VALID_DAYS + 1) * 86_400));
    assert!(facts.not_after > now.wall && facts.not_after < end.wall);
    assert!(self_signed(&["b\u{fc}cher.example"], now).is_err());
}

/// A fresh certificate, in files of this name.
fn certificate(directory: &TempDir, name: &str, names: &[&str]) -> CertificateFiles {
    let fresh = self_signed(names, Now::read()).unwrap();
    files(directory, name, &fresh.chain, fresh.key.expose())
}

fn files(directory: &TempDir, name: &str, chain: &str, key: &[u8]) -> CertificateFiles {
    let files = CertificateFiles {
        chain: directory.path().join(format!("{name}.crt")),
        key: directory.path().join(format!("{name}.key")),
    };
    fs::write(&files.chain, chain).unwrap();
    fs::write(&files.key, key).unwrap();
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
    files
}

fn chain_of(files: &CertificateFiles) -> CertificateDer<'static> {
    pem::read_chain(&files.chain).unwrap().remove(0)
}

fn settings(certificates: &[CertificateFiles]) -> TlsSettings {
    TlsSettings {
        certificates: certificates.to_vec(),
        minimum_version: MinimumVersion::Tls12,
        clients: ClientCertificates::default(),
    }
}

/// What a client saw.
struct Shown {
    version: ProtocolVersion,
    certificate: CertificateDer<'static>,
}

/// A handshake in memory, with a client that knows `versions`, trusts `trusted` and asks for `name`.
fn handshake(
    tls: &Tls,
    name: &'static str,
    versions: &[&'static SupportedProtocolVersion],
    trusted: &CertificateDer<'static>,
) -> Result<Shown, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut server = ServerConnection::new(tls.server_config()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets()?;
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets()?;
    }
    Ok(Shown {
        version: client.protocol_version().unwrap(),
        certificate: client.peer_certificates().unwrap()[0].clone().into_owned(),
    })
}
