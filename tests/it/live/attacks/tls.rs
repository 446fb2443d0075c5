//! Clients that know TLS well, and use it against us: records that no TLS library would send, sealed by hand.
//!
//! The bounds are those of rustls; here they are looked for in the daemon, so that none of them goes with an update.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use gatepost::server::TlsStart;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, ConnectionTrafficSecrets, HandshakeKind,
    RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use super::super::harness::{DOORS, trusting};
use super::{ATTACKER_PATIENCE, Target, ask, besieged_to_the_end, reply, until_closed, world};

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// A TLS connection whose handshake is over, on which we can send any record at all.
struct Records {
    stream: TcpStream,
    version: &'static SupportedProtocolVersion,
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Records {
    /// As far as EHLO.
    fn begin(target: &Target, version: &'static SupportedProtocolVersion) -> io::Result<Self> {
        let target = Target {
            client: speaking(target, version),
            ..target.clone()
        };
        let stream = target.secured(TlsStart::Implicit)?;
        let (sequence, secrets) = stream.conn.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else {
            panic!("another cipher was asked for");
        };
        let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap();
        Ok(Self {
            stream: stream.sock,
            version,
            key: LessSafeKey::new(key),
            iv: iv.as_ref().try_into().unwrap(),
            sequence,
        })
    }

    /// One record, as RFC 8446 section 5.2 or RFC 5246 section 6.2.3.3 with RFC 5288 has it.
    fn send(&mut self, kind: u8, content: &[u8]) -> io::Result<()> {
        let mut nonce = self.iv;
        for (octet, counted) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *octet ^= counted;
        }
        let length = |octets: usize| u16::try_from(octets).unwrap().to_be_bytes();
        let tag = AES_256_GCM.tag_len();
        let mut sealed = content.to_vec();
        let (header, authenticated, explicit) = if self.version == &TLS13 {
            sealed.push(kind);
            let header = [&[APPLICATION_DATA, 3, 3][..], &length(sealed.len() + tag)].concat();
            (header.clone(), header, &[][..])
        } else {
            let sequence = self.sequence.to_be_bytes();
            let authenticated = [&sequence[..], &[kind, 3, 3], &length(content.len())].concat();
            let header = [&[kind, 3, 3][..], &length(8 + content.len() + tag)].concat();
            (header, authenticated, &nonce[4..])
        };
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(authenticated),
                &mut sealed,
            )
            .unwrap();
        self.sequence += 1;
        self.stream
            .write_all(&[&header, explicit, &sealed].concat())
    }

    /// The same record so often, and whether the daemon closes because of it.
    fn repeat(&mut self, kind: u8, content: &[u8], times: usize) -> io::Result<bool> {
        for _ in 0..times {
            if self.send(kind, content).is_err() {
                return Ok(true);
            }
        }
        // An answer in between is an alert, or a key update of its own.
        self.stream.set_read_timeout(Some(ATTACKER_PATIENCE))?;
        match until_closed(&mut self.stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            _ => Ok(true),
        }
    }
}

/// What clients speak that let their keys be seen: this version, and one cipher.
fn speaking(target: &Target, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let suites = [
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ];
    let mut only = provider::default_provider();
    only.cipher_suites
        .retain(|suite| suites.contains(&suite.suite()));
    let provider: Arc<CryptoProvider> = Arc::new(only);
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(target.certificate.as_bytes()).unwrap();
    roots.add(certificate).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

/// Sends the same record again and again, in many connections; each of them has to come to an end.
fn besieged_by(version: &'static SupportedProtocolVersion, kind: u8, content: &'static [u8]) {
    /// More than any honest client has a reason for.
    const TIMES: usize = 200;
    let world = world("", "");
    besieged_to_the_end(&world, 2, 2, move |target| {
        let mut records = Records::begin(target, version)?;
        assert!(
            records.repeat(kind, content, TIMES)?,
            "{TIMES} records of kind {kind} change nothing"
        );
        Ok(())
    });
}

/// What is sealed here is what rustls would send: an answer comes to a command.
#[test]
fn records_by_hand_are_understood() {
    let world = world("", "");
    besieged_to_the_end(&world, 1, 1, |target| {
        for version in [&TLS12, &TLS13] {
            let mut records = Records::begin(target, version)?;
            records.send(APPLICATION_DATA, b"QU")?;
            assert!(records.repeat(APPLICATION_DATA, b"IT\r\n", 1)?);
        }
        Ok(())
    });
}

/// RFC 5746; CVE-2009-3555, and CVE-2011-1473 (a handshake is dearer for us than for those who ask for it).
#[test]
fn renegotiation_without_end() {
    // A ClientHello as short as one can be, and a HelloRequest, which is not for clients to send.
    const HELLO: &[u8] = &[
        1, 0, 0, 43, 3, 3, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
        20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 0, 0, 2, 0xc0, 0x2c, 1, 0, 0, 0,
    ];
    besieged_by(&TLS12, HANDSHAKE, HELLO);
    besieged_by(&TLS12, HANDSHAKE, &[0, 0, 0, 0]);
    besieged_by(&TLS13, HANDSHAKE, HELLO);
}

/// RFC 8446 section 4.6.3: each one that asks for an answer costs us a derivation of keys, and an answer.
#[test]
fn key_updates_without_end() {
    besieged_by(&TLS12, HANDSHAKE, &[24, 0, 0, 1, 1]);
    let world = world("", "");
    besieged_to_the_end(&world, 2, 2, move |target| {
        let mut stream = target.secured(TlsStart::Implicit)?;
        // As many as there is nothing else between are too many; with commands between them they are a client's right.
        for _ in 0..100 {
            stream.conn.refresh_traffic_keys().unwrap();
            assert!(ask(&mut stream, b"NOOP\r\n")?.starts_with("250 "));
        }
        for _ in 0..200 {
            stream.conn.refresh_traffic_keys().unwrap();
            if stream.flush().is_err() {
                return Ok(());
            }
        }
        let answer = ask(&mut stream, b"NOOP\r\n");
        assert!(answer.is_err(), "200 key updates, and then {answer:?}");
        Ok(())
    });
}

/// Records that bring nothing, and alerts that mean nothing.
#[test]
fn records_without_content() {
    besieged_by(&TLS13, APPLICATION_DATA, b"");
    besieged_by(&TLS12, APPLICATION_DATA, b"");
    // user_canceled, as a warning.
    besieged_by(&TLS12, ALERT, &[1, 90]);
    besieged_by(&TLS13, ALERT, &[1, 90]);
    besieged_by(&TLS12, CHANGE_CIPHER_SPEC, &[1]);
    besieged_by(&TLS13, CHANGE_CIPHER_SPEC, &[1]);
}

/// RFC 8446 section 8: what comes before the handshake can be sent again by anybody who has seen it, so it is not taken.
#[test]
fn early_data_is_not_taken() {
    let world = world("", "");
    let daemon = world.start();
    for door in DOORS {
        let mut config = (*trusting(&world.certificate())).clone();
        config.enable_early_data = true;
        let target = Target {
            client: Arc::new(config),
            ..Target::of(&world, &daemon, 0)
        };
        // Session tickets come behind the handshake, and are for the connections that follow.
        for visit in 0..3 {
            let mut stream = target.before_tls(door).unwrap();
            let mut connection: ClientConnection = target.connection();
            assert!(connection.early_data().is_none());
            while connection.is_handshaking() {
                connection.complete_io(&mut stream).unwrap();
            }
            let kind = connection.handshake_kind();
            assert_eq!(kind == Some(HandshakeKind::Resumed), visit > 0, "{kind:?}");
            let mut stream = StreamOwned::new(connection, stream);
            if door == TlsStart::Implicit {
                reply(&mut stream).unwrap();
            }
            ask(&mut stream, b"EHLO x\r\n").unwrap();
        }
    }
}
