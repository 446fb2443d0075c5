//! The operator's socket: takes one request per connection from whoever may write to the queue directory, hands it to
//! the daemon, and writes the answer.
//!
//! Only the daemon's own user and root may connect. It holds a few connections at a time, reads a bounded line within
//! a bounded time, and whatever comes over it that is no request is answered with an error.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Services;
use crate::control::{Answer, Request};

/// Commands that are answered at a time; any more wait to be accepted.
const CONNECTIONS_MAX: usize = 8;
/// Octets in a request.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// How long a command may take to send its request, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes; dropped without one, the command hears that the daemon is stopping.
    pub answer: oneshot::Sender<Answer>,
}

/// The socket. It is there from the moment that it is bound, and goes when it is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    socket: Option<UnixListener>,
    closing: CancellationToken,
}

impl ControlSocket {
    /// Binds. Whoever does has the queue's lock, so a socket that is there is nobody's any more.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            path: path.to_owned(),
            socket: Some(socket),
            closing: CancellationToken::new(),
        })
    }

    /// Takes requests from now on, and gives them to whoever reads from what this gives.
    pub fn start(&mut self, services: &Services) -> mpsc::Receiver<Asked> {
        let (ask, asked) = mpsc::channel(CONNECTIONS_MAX);
        if let Some(socket) = self.socket.take() {
            let closing = self.closing.clone();
            let tasks = services.tasks.clone();
            services.tasks.spawn(async move {
                let accept = async {
                    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
                    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                        match socket.accept().await {
                            Ok((stream, _)) => {
                                let ask = ask.clone();
                                let closing = closing.clone();
                                tasks.spawn(async move {
                                    // Whoever gave up waiting, or was too slow, does not read errors either.
                                    let _ = closing.run_until_cancelled(serve(stream, &ask)).await;
                                    drop(place);
                                });
                            }
                            Err(error) => {
                                let error = error.to_string();
                                tracing::warn!(
                                    event = "accept.failed",
                                    listener = "control",
                                    error
                                );
                                tokio::time::sleep(ACCEPT_PAUSE).await;
                            }
                        }
                    }
                };
                closing.run_until_cancelled(accept).await;
            });
        }
        asked
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.closing.cancel();
        // The next one who binds removes what is left.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(mut stream: UnixStream, ask: &mpsc::Sender<Asked>) -> io::Result<()> {
    let mut line = Vec::new();
    let mut reader = BufReader::new((&mut stream).take(REQUEST_BYTES_MAX));
    timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
    let answer = match serde_json::from_slice(&line) {
        Ok(request) => {
            let (answer, answered) = oneshot::channel();
            let asked = ask.send(Asked { request, answer }).await;
            let stopping = || Answer::Failed("gatepost is stopping".to_owned());
            match asked {
                Ok(()) => answered.await.unwrap_or_else(|_| stopping()),
                Err(_) => stopping(),
            }
        }
        Err(error) => Answer::Failed(format!(
            "the daemon does not understand the request ({error}); is it of another version?"
        )),
    };
    let mut octets = serde_json::to_vec(&answer)?;
    octets.push(b'\n');
    timeout(PATIENCE, stream.write_all(&octets)).await?
}
