//! A small submission client: connection, TLS, AUTH PLAIN, messages, QUIT.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// A server that takes longer for one answer has failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// No server's reply is longer.
const REPLY_BYTES_MAX: usize = 64 << 10;

pub(crate) const RECIPIENT: &str = "bob@example.net";

/// Where it failed and how: `auth:535`, `connect:timeout`, `final:closed`.
#[derive(Debug, Clone)]
pub(crate) struct Failure(pub(crate) String);

impl Failure {
    fn new(stage: &str, what: impl Display) -> Self {
        Self(format!("{stage}:{what}"))
    }
}

impl Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// The server, and who logs in there.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) starttls: bool,
    pub(crate) server_name: ServerName<'static>,
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) user: String,
    pub(crate) password: String,
}

/// A connection under TLS, logged in or not.
#[derive(Debug)]
pub(crate) struct Client {
    dialogue: Dialogue<TlsStream<TcpStream>>,
    user: String,
    /// Whether the server offers it.
    pipelining: bool,
}

impl Client {
    /// TCP, TLS, EHLO, AUTH.
    pub(crate) async fn open(endpoint: &Endpoint) -> Result<Self, Failure> {
        let mut client = Self::connect(endpoint, None).await?;
        client.login(&endpoint.password).await?;
        Ok(client)
    }

    /// TCP, TLS, EHLO; from this address of the machine, if one is given.
    pub(crate) async fn connect(
        endpoint: &Endpoint,
        source: Option<IpAddr>,
    ) -> Result<Self, Failure> {
        let mut dialogue = Dialogue::new(secure(endpoint, source).await?);
        if !endpoint.starttls {
            dialogue.expect("greeting", 220).await?;
        }
        let extensions = dialogue.command("ehlo", EHLO, 250).await?;
        Ok(Self {
            dialogue,
            user: endpoint.user.clone(),
            pipelining: extensions.to_ascii_uppercase().contains("PIPELINING"),
        })
    }

    /// TCP and TLS, and nothing else.
    pub(crate) async fn shake_hands(endpoint: &Endpoint, source: IpAddr) -> Result<(), Failure> {
        secure(endpoint, Some(source)).await?;
        Ok(())
    }

    /// Sends this, and reads nothing.
    pub(crate) async fn say(&mut self, commands: &[u8]) -> Result<(), Failure> {
        self.dialogue.send("say", commands).await
    }

    /// AUTH PLAIN as the endpoint's user.
    pub(crate) async fn login(&mut self, password: &str) -> Result<(), Failure> {
        let response = BASE64.encode(format!("\0{}\0{password}", self.user));
        let auth = format!("AUTH PLAIN {response}\r\n");
        self.dialogue.command("auth", auth.as_bytes(), 235).await?;
        Ok(())
    }

    /// One message, `wire` with its final dot. Pipelining puts MAIL, RCPT and DATA into one write,
    /// where the server offers it.
    pub(crate) async fn submit(&mut self, wire: &[u8], pipelining: bool) -> Result<(), Failure> {
        let mail = format!("MAIL FROM:<{}>\r\n", self.user);
        let rcpt = format!("RCPT TO:<{RECIPIENT}>\r\n");
        let commands = [
            ("mail", mail.as_str(), 250),
            ("rcpt", &rcpt, 250),
            ("data", "DATA\r\n", 354),
        ];
        if pipelining && self.pipelining {
            let all = commands.map(|(_, command, _)| command).concat();
            self.dialogue.send("mail", all.as_bytes()).await?;
            for (stage, _, code) in commands {
                self.dialogue.expect(stage, code).await?;
            }
        } else {
            for (stage, command, code) in commands {
                self.dialogue
                    .command(stage, command.as_bytes(), code)
                    .await?;
            }
        }
        self.dialogue.send("body", wire).await?;
        self.dialogue.expect("final", 250).await?;
        Ok(())
    }

    pub(crate) async fn noop(&mut self) -> Result<(), Failure> {
        self.dialogue.command("noop", b"NOOP\r\n", 250).await?;
        Ok(())
    }

    pub(crate) async fn quit(mut self) -> Result<(), Failure> {
        self.dialogue.command("quit", b"QUIT\r\n", 221).await?;
        Ok(())
    }
}

const EHLO: &[u8] = b"EHLO load.example.test\r\n";

/// TCP alone.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    source: Option<IpAddr>,
) -> Result<TcpStream, Failure> {
    let connect = async {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let tcp = socket.connect(endpoint.address).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    };
    within("connect", connect).await
}

/// TCP, broken off by a reset.
pub(crate) async fn reset(endpoint: &Endpoint, source: IpAddr) -> Result<(), Failure> {
    let tcp = connect(endpoint, Some(source)).await?;
    tcp.set_zero_linger()
        .map_err(|error| Failure::new("reset", error.kind()))
}

/// TCP and TLS.
async fn secure(
    endpoint: &Endpoint,
    source: Option<IpAddr>,
) -> Result<TlsStream<TcpStream>, Failure> {
    let tcp = connect(endpoint, source).await?;
    let tcp = match endpoint.starttls {
        true => starttls(tcp).await?,
        false => tcp,
    };
    let connector = TlsConnector::from(endpoint.config.clone());
    within("tls", connector.connect(endpoint.server_name.clone(), tcp)).await
}

/// The plain part of a connection that goes on with TLS.
async fn starttls(tcp: TcpStream) -> Result<TcpStream, Failure> {
    let mut dialogue = Dialogue::new(tcp);
    dialogue.expect("greeting", 220).await?;
    dialogue.command("ehlo", EHLO, 250).await?;
    dialogue.command("starttls", b"STARTTLS\r\n", 220).await?;
    match dialogue.received.is_empty() {
        true => Ok(dialogue.io),
        false => Err(Failure::new("starttls", "octets behind the reply")),
    }
}

/// Commands one way, replies the other.
#[derive(Debug)]
struct Dialogue<T> {
    io: T,
    received: Vec<u8>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Dialogue<T> {
    fn new(io: T) -> Self {
        Self {
            io,
            received: Vec::new(),
        }
    }

    async fn command(&mut self, stage: &str, command: &[u8], code: u16) -> Result<String, Failure> {
        self.send(stage, command).await?;
        self.expect(stage, code).await
    }

    async fn send(&mut self, stage: &str, bytes: &[u8]) -> Result<(), Failure> {
        within(stage, async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        })
        .await
    }

    /// Reads one reply, all its lines.
    async fn expect(&mut self, stage: &str, code: u16) -> Result<String, Failure> {
        loop {
            if let Some((length, found)) = whole_reply(&self.received) {
                let reply = self.received.drain(..length).collect();
                return match found == code {
                    true => Ok(String::from_utf8(reply).unwrap_or_default()),
                    false => Err(Failure::new(stage, found)),
                };
            }
            if self.received.len() > REPLY_BYTES_MAX {
                return Err(Failure::new(stage, "endless reply"));
            }
            if within(stage, self.io.read_buf(&mut self.received)).await? == 0 {
                return Err(Failure::new(stage, "closed"));
            }
        }
    }
}

/// The length of the first whole reply and its code; a code that is none is 0.
fn whole_reply(received: &[u8]) -> Option<(usize, u16)> {
    let mut length = 0;
    loop {
        let line = &received[length..];
        let end = line.iter().position(|&byte| byte == b'\n')? + 1;
        length += end;
        if line.get(3) != Some(&b'-') {
            let code = line.get(..3).and_then(|code| str::from_utf8(code).ok());
            return Some((length, code.and_then(|code| code.parse().ok()).unwrap_or(0)));
        }
    }
}

async fn within<T>(
    stage: &str,
    io: impl Future<Output = std::io::Result<T>>,
) -> Result<T, Failure> {
    match timeout(ANSWER_TIMEOUT, io).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Failure::new(stage, error.kind())),
        Err(_) => Err(Failure::new(stage, "timeout")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_end_with_their_last_line() {
        for (received, expected) in [
            ("", None),
            ("250-a\r\n", None),
            ("250 a", None),
            ("250 a\r\n", Some((7, 250))),
            ("250-a\r\n250 b\r\n354", Some((14, 250))),
            ("354\r\n250 b\r\n", Some((5, 354))),
            ("what?\r\n", Some((7, 0))),
        ] {
            assert_eq!(whole_reply(received.as_bytes()), expected, "{received:?}");
        }
    }
}
