//! One question to a web server, and its answer: as small as asking a provider of tokens can be.
//!
//! Each question has a connection of its own, HTTP/1.1, under TLS unless it goes to this machine. A redirect is not
//! followed, an answer is read up to [`ANSWER_BYTES_MAX`], and all of it takes no longer than the client's time: a
//! provider that hangs, lies or floods costs that much and no more. What is sent is never in an error.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, InvalidHeaderValue, USER_AGENT,
};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::diagnostic::Finding;
use crate::secret::Secret;

/// Octets of an answer. The largest sets of keys, with certificates in them, have some ten thousand.
pub(super) const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Octets of an answer's header.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Octets of an address.
const ADDRESS_BYTES_MAX: usize = 2048;
/// Look-ups of a provider's address at a time. The system's resolver may hang far longer than anybody waits for it, and
/// meanwhile it holds one of the threads that files and passwords need, too.
const LOOKUPS_MAX: usize = 4;
/// Addresses of a provider that are tried, each for its share of the time.
const ADDRESSES_MAX: usize = 3;
/// Octets of a file with certificates: a whole store of a system has some 300,000.
const CA_BYTES_MAX: u64 = 4 << 20;

/// Where a question goes: `https://...`, or `http://...` on this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct WebAddress {
    text: String,
    under_tls: bool,
    host: String,
    port: u16,
    /// With the port where it is not the usual one: what goes into Host.
    authority: String,
    path_and_query: String,
}

/// Why a text is not a [`WebAddress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebAddressError {
    /// It is no address at all, or one with a name and a password in it.
    #[error("is not a web address")]
    Malformed,
    /// `http` to another machine: whoever is in between could say which tokens are good.
    #[error("is not under TLS")]
    NotSecure,
}

impl WebAddress {
    /// Parses an address.
    pub fn parse(text: &str) -> Result<Self, WebAddressError> {
        let malformed = WebAddressError::Malformed;
        if text.len() > ADDRESS_BYTES_MAX || text.contains('#') {
            return Err(malformed);
        }
        let uri: Uri = text.parse().map_err(|_| malformed)?;
        let under_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(malformed),
        };
        let authority = uri.authority().ok_or(malformed)?;
        let host = authority.host();
        if authority.as_str().contains('@') || host.is_empty() {
            return Err(malformed);
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = bare.parse::<IpAddr>();
        let is_here = match address {
            Ok(address) => address.is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        };
        if !under_tls && !is_here {
            return Err(WebAddressError::NotSecure);
        }
        if under_tls && ServerName::try_from(bare).is_err() {
            return Err(malformed);
        }
        let usual = if under_tls { 443 } else { 80 };
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if authority.as_str() == host => usual,
            None => return Err(malformed),
        };
        Ok(Self {
            text: text.to_owned(),
            under_tls,
            host: bare.to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            path_and_query: uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
        })
    }

    /// Whether what is said there can be read by others; then it does not leave this machine.
    pub fn is_plain(&self) -> bool {
        !self.under_tls
    }
}

impl fmt::Display for WebAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for WebAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebError {
    #[error("cannot be reached: {0}")]
    Connect(io::Error),
    #[error("its address cannot be found: {0}")]
    Lookup(io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("says no HTTP: {0}")]
    Http(hyper::Error),
    #[error("answers {}{}", .0.as_u16(), meaning(*.0))]
    Status(StatusCode),
    #[error("the answer is larger than {} KiB", ANSWER_BYTES_MAX >> 10)]
    TooLarge,
    #[error("there is no answer within {0:?}")]
    Timeout(Duration),
    #[error("the address or the login cannot be written into a request")]
    Unspeakable,
}

fn meaning(status: StatusCode) -> &'static str {
    match status.as_u16() {
        300..=399 => ", a redirect, which is not followed",
        401 | 403 => ", so our login there is not good",
        404 => ", so there is nothing at that address",
        _ => "",
    }
}

/// Asks questions.
#[derive(Clone)]
pub(super) struct Client {
    tls: Arc<ClientConfig>,
    lookups: Arc<Semaphore>,
    /// For one question, from the name's look-up to the end of the answer.
    pub(super) timeout: Duration,
}

impl Client {
    /// A client that trusts these certificates.
    pub(super) fn new(trusted: &[CertificateDer<'static>], timeout: Duration) -> Self {
        let mut roots = RootCertStore::empty();
        // What cannot be used, of the hundreds that a system has, nobody will miss.
        roots.add_parsable_certificates(trusted.iter().cloned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            tls: Arc::new(tls),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            timeout,
        }
    }

    /// Asks for what is at `address`.
    pub(super) async fn get(&self, address: &WebAddress) -> Result<Vec<u8>, WebError> {
        let request = request(Method::GET, address).body(Full::default());
        let request = request.map_err(|_| WebError::Unspeakable)?;
        self.ask(address, request).await
    }

    /// Sends a form, with a login.
    pub(super) async fn post_form(
        &self,
        address: &WebAddress,
        login: &HeaderValue,
        form: &Secret,
    ) -> Result<Vec<u8>, WebError> {
        let request = request(Method::POST, address)
            .header(AUTHORIZATION, login.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::copy_from_slice(form.expose())));
        let request = request.map_err(|_| WebError::Unspeakable)?;
        self.ask(address, request).await
    }

    async fn ask(
        &self,
        address: &WebAddress,
        request: Request<Full<Bytes>>,
    ) -> Result<Vec<u8>, WebError> {
        let asked = async {
            let stream = self.connect(address).await?;
            // It is one small request and its answer.
            let _ = stream.set_nodelay(true);
            if !address.under_tls {
                return exchange(stream, request).await;
            }
            let name =
                ServerName::try_from(address.host.clone()).map_err(|_| WebError::Unspeakable)?;
            let stream = TlsConnector::from(Arc::clone(&self.tls))
                .connect(name, stream)
                .await
                .map_err(WebError::Tls)?;
            exchange(stream, request).await
        };
        timeout(self.timeout, asked)
            .await
            .unwrap_or(Err(WebError::Timeout(self.timeout)))
    }

    async fn connect(&self, address: &WebAddress) -> Result<TcpStream, WebError> {
        let mut found = self.look_up(address).await?;
        found.truncate(ADDRESSES_MAX);
        let share = self.timeout / u32::try_from(found.len().max(1)).unwrap_or(1);
        let mut error = io::Error::from(io::ErrorKind::NotFound);
        for one in found {
            match timeout(share, TcpStream::connect(one)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(refused)) => error = refused,
                Err(_) => error = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(WebError::Connect(error))
    }

    async fn look_up(&self, address: &WebAddress) -> Result<Vec<SocketAddr>, WebError> {
        let (host, port) = (address.host.clone(), address.port);
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        // The semaphore is never closed.
        let place = Arc::clone(&self.lookups).acquire_owned().await;
        let looked_up = tokio::task::spawn_blocking(move || {
            // It is kept as long as the thread is, whoever still waits for the answer.
            let _place = place;
            (host, port).to_socket_addrs().map(Iterator::collect)
        });
        let answer = looked_up.await.map_err(io::Error::other);
        answer.and_then(|found| found).map_err(WebError::Lookup)
    }
}

/// The value of Authorization for a client with this name and secret (RFC 6749 section 2.3.1).
pub(super) fn basic_login(name: &str, secret: &Secret) -> Result<HeaderValue, InvalidHeaderValue> {
    let (name, secret) = (encoded(name.as_bytes()), encoded(secret.expose()));
    let both = Secret::new([name.expose(), b":", secret.expose()].concat());
    let both = Zeroizing::new(BASE64_STANDARD.encode(both.expose()));
    let value = Zeroizing::new(format!("Basic {}", *both));
    let mut value = HeaderValue::from_str(&value)?;
    // It is not shown by Debug.
    value.set_sensitive(true);
    Ok(value)
}

/// As a form carries it.
pub(super) fn encoded(octets: &[u8]) -> Secret {
    let mut text = Vec::with_capacity(3 * octets.len());
    for part in form_urlencoded::byte_serialize(octets) {
        text.extend_from_slice(part.as_bytes());
    }
    Secret::new(text)
}

fn request(method: Method, address: &WebAddress) -> hyper::http::request::Builder {
    Request::builder()
        .method(method)
        .uri(&address.path_and_query)
        .header(HOST, &address.authority)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "gatepost")
}

/// One request and its answer. The connection lives as long as that takes.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> Result<Vec<u8>, WebError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEADER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(WebError::Http)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(WebError::Http)?;
        if response.status() != StatusCode::OK {
            return Err(WebError::Status(response.status()));
        }
        let mut body = response.into_body();
        let mut octets = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame.map_err(WebError::Http)?.data_ref() {
                if octets.len() + data.len() > ANSWER_BYTES_MAX {
                    return Err(WebError::TooLarge);
                }
                octets.extend_from_slice(data);
            }
        }
        Ok(octets)
    };
    // The connection makes the answer come. It may end before the answer is read, and says in the answer how it ended.
    let (mut answer, mut connection) = (std::pin::pin!(answer), std::pin::pin!(connection));
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        _ = &mut connection => {}
    }
    answer.await
}

/// The certificates in the PEM file `path`, which are to be trusted.
pub(super) fn read_ca(path: &Path) -> Result<Vec<CertificateDer<'static>>, Finding> {
    let refused = |message: String| Finding::error(message).in_file(path);
    let octets = super::read_bounded(path, CA_BYTES_MAX)
        .map_err(|error| refused(format!("cannot read the certificates to trust: {error}")))?;
    let certificates = CertificateDer::pem_slice_iter(&octets).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(refused("there is no certificate in it".to_owned())
            .hint("a certificate begins with -----BEGIN CERTIFICATE-----")),
    }
}

/// The certificates that this machine trusts.
pub(super) fn system_roots() -> Result<Vec<CertificateDer<'static>>, Finding> {
    let found = rustls_native_certs::load_native_certs();
    match found.certs.is_empty() {
        false => Ok(found.certs),
        true => Err(Finding::error(
            "this machine trusts no certificates, and so no https address of a [[token_issuer]]",
        )
        .hint("apt install ca-certificates, or name a file of certificates with token_issuer.ca")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, to) in [
            (
                "https://id.example.org",
                Ok("id.example.org 443 id.example.org /"),
            ),
            (
                "https://id.example.org:8443/a?b=c",
                Ok("id.example.org 8443 id.example.org:8443 /a?b=c"),
            ),
            (
                "HTTPS://id.example.org/",
                Ok("id.example.org 443 id.example.org /"),
            ),
            ("https://192.0.2.1/x", Ok("192.0.2.1 443 192.0.2.1 /x")),
            (
                "http://127.0.0.1:8080/x",
                Ok("127.0.0.1 8080 127.0.0.1:8080 /x"),
            ),
            ("http://127.1.2.3/x", Ok("127.1.2.3 80 127.1.2.3 /x")),
            ("http://[::1]:8080/x", Ok("::1 8080 [::1]:8080 /x")),
            ("http://localhost/x", Ok("localhost 80 localhost /x")),
            ("http://id.example.org/", Err(WebAddressError::NotSecure)),
            (
                "http://localhost.example.org/",
                Err(WebAddressError::NotSecure),
            ),
            ("http://192.0.2.1/", Err(WebAddressError::NotSecure)),
            (
                "http://127.0.0.1@id.example.org/",
                Err(WebAddressError::Malformed),
            ),
            (
                "https://user:secret@id.example.org/",
                Err(WebAddressError::Malformed),
            ),
            (
                "https://id.example.org/#there",
                Err(WebAddressError::Malformed),
            ),
            ("ftp://id.example.org/", Err(WebAddressError::Malformed)),
            ("file:///etc/passwd", Err(WebAddressError::Malformed)),
            ("id.example.org/keys", Err(WebAddressError::Malformed)),
            ("/keys", Err(WebAddressError::Malformed)),
            ("https:///keys", Err(WebAddressError::Malformed)),
            ("https://id example.org/", Err(WebAddressError::Malformed)),
            (
                "https://id.example.org:99999/",
                Err(WebAddressError::Malformed),
            ),
            (
                "https://id.example.org/\r\nX: y",
                Err(WebAddressError::Malformed),
            ),
            ("", Err(WebAddressError::Malformed)),
        ] {
            let parsed = WebAddress::parse(text).map(|address| {
                let WebAddress {
                    host,
                    port,
                    authority,
                    path_and_query,
                    ..
                } = address;
                format!("{host} {port} {authority} {path_and_query}")
            });
            assert_eq!(parsed, to.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn a_login_is_not_shown() {
        let login = basic_login("mail server", &Secret::from("p:a+s%s")).unwrap();
        assert_eq!(
            login.to_str().unwrap(),
            "Basic bWFpbCtzZXJ2ZXI6cCUzQWElMkJzJTI1cw=="
        );
        assert!(!format!("{login:?}").contains("bWFp"));
    }

    /// A resolver that hangs takes few threads, however long it does and however many ask.
    #[tokio::test]
    async fn look_ups_are_bounded() {
        let client = Client::new(&[], Duration::from_millis(50));
        let all = Arc::clone(&client.lookups);
        let hanging = all.acquire_many_owned(LOOKUPS_MAX as u32).await.unwrap();
        let address = WebAddress::parse("http://localhost:1/").unwrap();
        let said = client.get(&address).await.unwrap_err().to_string();
        assert_eq!(said, "there is no answer within 50ms");
        // What needs none is not held up.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = closed.local_addr().unwrap().port();
        drop(closed);
        let address = WebAddress::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
        let said = client.get(&address).await.unwrap_err().to_string();
        assert!(said.starts_with("cannot be reached: "), "{said}");
        drop(hanging);
    }
}
