//! A provider on loopback that does what it is told, be it what no provider should.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::signers::set;
use crate::account::token::WebAddress;

/// How a provider answers.
#[derive(Clone)]
pub(super) enum Answer {
    /// These octets, and the end.
    Octets(Vec<u8>),
    /// Nothing, ever.
    Silence,
    /// These octets, then one more each now and then.
    Drip(Vec<u8>),
    /// These octets, then this again and again.
    Flood(Vec<u8>, Vec<u8>),
}

pub(super) fn http(status: &str, more: &str, body: &[u8]) -> Answer {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}\r\n");
    Answer::Octets([head.as_bytes(), body].concat())
}

pub(super) fn ok(body: impl AsRef<[u8]>) -> Answer {
    http(
        "200 OK",
        "Content-Type: application/json\r\n",
        body.as_ref(),
    )
}

/// A provider in threads of its own. It ends with the test.
pub(super) struct Provider {
    pub(super) address: SocketAddr,
    pub(super) shared: Arc<Shared>,
    pub(super) listener: Option<JoinHandle<()>>,
}

#[derive(Default)]
pub(super) struct Shared {
    /// By path.
    pub(super) answers: Mutex<BTreeMap<String, Answer>>,
    pub(super) requests: Mutex<Vec<String>>,
    /// Connections that were made so far, and octets that went out.
    pub(super) connections: AtomicUsize,
    pub(super) sent: AtomicUsize,
    pub(super) over: AtomicBool,
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
}

impl Provider {
    pub(super) fn start() -> Self {
        Self::serve(Shared::default())
    }

    pub(super) fn serve(shared: Shared) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(shared);
        let serving = Arc::clone(&shared);
        let listener = std::thread::spawn(move || {
            let mut threads = Vec::new();
            for stream in listener.incoming() {
                if serving.over.load(Ordering::Acquire) {
                    break;
                }
                serving.connections.fetch_add(1, Ordering::AcqRel);
                let serving = Arc::clone(&serving);
                threads.push(std::thread::spawn(move || {
                    serving.converse(stream.unwrap())
                }));
            }
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
        });
        Self {
            address,
            shared,
            listener: Some(listener),
        }
    }

    pub(super) fn at(&self, path: &str) -> WebAddress {
        let scheme = if self.shared.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let port = self.address.port();
        WebAddress::parse(&format!("{scheme}://localhost:{port}{path}")).unwrap()
    }

    pub(super) fn says(&self, path: &str, answer: Answer) {
        self.shared
            .answers
            .lock()
            .unwrap()
            .insert(path.to_owned(), answer);
    }

    pub(super) fn publishes(&self, keys: &[Value]) {
        self.says("/keys", ok(set(keys)));
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address));
        if let Some(listener) = self.listener.take() {
            listener.join().unwrap();
        }
    }
}

impl Shared {
    pub(super) fn converse(&self, stream: TcpStream) {
        let pause = Some(Duration::from_millis(20));
        stream.set_read_timeout(pause).unwrap();
        stream.set_write_timeout(pause).unwrap();
        match &self.tls {
            None => drop(self.answer(stream)),
            Some(tls) => {
                let connection = rustls::ServerConnection::new(Arc::clone(tls)).unwrap();
                drop(self.answer(rustls::StreamOwned::new(connection, stream)));
            }
        }
    }

    /// What the client does wrong, as far as we see it, is its own affair: the test looks at what it says.
    pub(super) fn answer(&self, mut stream: impl io::Read + io::Write) -> io::Result<()> {
        let mut request = Vec::new();
        let complete = |request: &[u8]| {
            let text = String::from_utf8_lossy(request).into_owned();
            let (head, body) = text.split_once("\r\n\r\n")?;
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.parse::<usize>().unwrap())
            });
            (body.len() >= length.unwrap_or(0)).then(|| text.clone())
        };
        let request = loop {
            if let Some(request) = complete(&request) {
                break request;
            }
            let mut space = [0; 4096];
            match stream.read(&mut space) {
                Ok(0) => return Ok(()),
                Ok(count) => request.extend_from_slice(&space[..count]),
                Err(error) if self.goes_on(&error) => {}
                Err(error) => return Err(error),
            }
        };
        let path = request.split(' ').nth(1).unwrap().to_owned();
        self.requests.lock().unwrap().push(request);
        let answer = self.answers.lock().unwrap().get(&path).cloned();
        match answer.unwrap_or_else(|| http("404 Not Found", "", b"")) {
            Answer::Octets(octets) => self.send(&mut stream, &octets)?,
            Answer::Silence => while self.is_heard(&mut stream)? {},
            Answer::Drip(octets) => {
                self.send(&mut stream, &octets)?;
                while self.is_heard(&mut stream)? {
                    self.send(&mut stream, b" ")?;
                }
            }
            Answer::Flood(octets, again) => {
                self.send(&mut stream, &octets)?;
                loop {
                    self.send(&mut stream, &again)?;
                }
            }
        }
        stream.flush()
    }

    /// Whether the client is still there, after a while.
    pub(super) fn is_heard(&self, stream: &mut impl io::Read) -> io::Result<bool> {
        match stream.read(&mut [0; 64]) {
            Ok(count) => Ok(count > 0),
            Err(error) if self.goes_on(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    pub(super) fn send(&self, stream: &mut impl io::Write, mut octets: &[u8]) -> io::Result<()> {
        while !octets.is_empty() {
            match stream.write(octets) {
                Ok(count) => {
                    self.sent.fetch_add(count, Ordering::AcqRel);
                    octets = &octets[count..];
                }
                Err(error) if self.goes_on(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn goes_on(&self, error: &io::Error) -> bool {
        let is_pause = matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        );
        is_pause && !self.over.load(Ordering::Acquire)
    }
}
