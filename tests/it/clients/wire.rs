//! A client that hides nothing: what it sends is written in the test, and what it hears is the reply as it was.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::daemon::Daemon;

/// How long one reply is waited for. It bounds a failing test, nothing else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the listener with implicit TLS.
pub(super) struct Wire(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Wire {
    /// Connects and greets.
    pub(super) fn connect(daemon: &Daemon) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(daemon.certificate()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let tcp = TcpStream::connect(daemon.implicit).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut wire = Self(BufReader::new(StreamOwned::new(tls, tcp)));
        let greeting = wire.reply();
        assert!(greeting.starts_with("220 "), "{greeting}");
        let extensions = wire.ask("EHLO laptop.example.org");
        assert!(extensions.starts_with("250-"), "{extensions}");
        wire
    }

    /// Sends a line, or several, and gives the reply.
    pub(super) fn ask(&mut self, lines: &str) -> String {
        let stream = self.0.get_mut();
        stream.write_all(lines.as_bytes()).unwrap();
        stream.write_all(b"\r\n").unwrap();
        stream.flush().unwrap();
        self.reply()
    }

    pub(super) fn log_in(&mut self, account: &str, password: &str) -> String {
        let response = STANDARD.encode(format!("\0{account}\0{password}"));
        self.ask(&format!("AUTH PLAIN {response}"))
    }

    /// One reply without its last line end.
    fn reply(&mut self) -> String {
        let mut text = String::new();
        loop {
            let start = text.len();
            let read = self.0.read_line(&mut text).unwrap();
            assert!(read > 0, "the server closed the connection after {text:?}");
            if text.as_bytes().get(start + 3) == Some(&b' ') {
                return text.trim_end().to_owned();
            }
        }
    }
}
