//! What happened, in words that stay: the events that the log writes and that later readers count.
//!
//! Names and fields are part of the contract. No event can hold a secret: none has a field for one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::envelope::{HoldReason, MessageId};
use crate::smtp::reply::Reply;

/// Which connection an event belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// A short random name, one per connection.
    pub session: String,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The proxy that brought it and said so, with the port there. The same as `client` where the proxy came on its own
    /// account, or could not say for whom.
    pub proxy: Option<SocketAddr>,
    /// Whether the client has logged in.
    pub logged_in: bool,
}

impl Scope {
    /// Whether a proxy is all that we know to be at the other end.
    pub fn is_proxys_own(&self) -> bool {
        self.proxy == Some(self.client)
    }
}

/// One thing that happened in a session. Text in it may come from a peer: whoever shows it escapes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `auth.accepted`
    AuthAccepted {
        /// Who logged in.
        account: String,
        /// With which credential; `None` for the account's own password.
        credential: Option<String>,
        /// With which mechanism.
        mechanism: &'static str,
        /// The fingerprint of the certificate, where that was the proof.
        certificate: Option<String>,
        /// Who issued the token, where it was one.
        issuer: Option<Arc<str>>,
    },
    /// `auth.refused`
    AuthRefused {
        /// Who tried, where it is fit for a log (see [`crate::decision::Authentication`]).
        account: Option<String>,
        /// With which credential, where it was one's secret.
        credential: Option<String>,
        /// With which mechanism, where one was begun.
        mechanism: Option<&'static str>,
        /// The fingerprint of the certificate, where that was to be the proof.
        certificate: Option<String>,
        /// Who issued the token, where there was one of a known issuer.
        issuer: Option<Arc<str>>,
        /// What the client heard.
        reply: Reply,
        /// Why.
        reason: String,
    },
    /// `command.refused`: a command that is malformed, unknown or at the wrong time. The command itself is not kept:
    /// it may be half an AUTH.
    CommandRefused {
        /// What the client heard.
        reply: Reply,
    },
    /// `mail.refused`
    MailRefused {
        /// Whose session it is; `None` before AUTH.
        account: Option<String>,
        /// The reverse-path, as far as it was understood.
        from: Option<String>,
        /// What the client heard.
        reply: Reply,
        /// Why.
        reason: String,
    },
    /// `message.accepted`: it is on stable storage and the client is told so.
    MessageAccepted {
        /// Who sent it.
        account: String,
        /// With which credential; `None` for the account's own password.
        credential: Option<String>,
        /// Its name in the queue.
        id: MessageId,
        /// Octets stored.
        size: u64,
        /// How many recipients it has.
        recipients: usize,
        /// The reverse-path; empty for the null one.
        from: String,
        /// The Message-ID field's value, with its angle brackets, where it is a well-formed one.
        message_id: Option<String>,
    },
    /// `message.held`: a message that was accepted is withheld for now.
    MessageHeld {
        /// Who sent it.
        account: String,
        /// Its name in the queue.
        id: MessageId,
        /// Why, as its envelope says.
        hold: HoldReason,
        /// Why, for the operator.
        reason: String,
        /// When it is likely to leave.
        leaves_about: Timestamp,
    },
    /// `message.refused`: DATA or BDAT was refused, at once or at its end.
    MessageRefused {
        /// Who sent it.
        account: String,
        /// The name that it would have had, if it got that far.
        id: Option<MessageId>,
        /// The reverse-path; empty for the null one.
        from: String,
        /// What the client heard.
        reply: Reply,
        /// Why.
        reason: String,
    },
    /// `message.abandoned`: the client left in the middle of it, or took it back between two BDAT; nothing was kept.
    MessageAbandoned {
        /// Who sent it.
        account: String,
        /// The name that it would have had.
        id: MessageId,
        /// The reverse-path; empty for the null one.
        from: String,
    },
    /// `message.repeated`: the client sent a message again, because it had not heard that it was queued. Now it was told
    /// so, and nothing more was queued.
    MessageRepeated {
        /// Who sent it.
        account: String,
        /// With which credential; `None` for the account's own password.
        credential: Option<String>,
        /// The name under which it was queued the first time.
        id: MessageId,
        /// The reverse-path; empty for the null one.
        from: String,
        /// The Message-ID field's value.
        message_id: Option<String>,
    },
    /// `rcpt.refused`
    RcptRefused {
        /// Whose session it is; `None` before AUTH.
        account: Option<String>,
        /// The forward-path, as far as it was understood.
        to: Option<String>,
        /// What the client heard.
        reply: Reply,
        /// Why.
        reason: String,
    },
}

impl Event {
    /// Whether anybody can make it happen as often as they like. A password that was looked at is no such thing: it has
    /// cost a hash, and whose it was is worth knowing.
    pub fn is_cheap(&self) -> bool {
        match self {
            Self::CommandRefused { .. } | Self::MailRefused { .. } | Self::RcptRefused { .. } => {
                true
            }
            Self::AuthRefused { account, reply, .. } => account.is_none() || reply.code() == 421,
            Self::AuthAccepted { .. }
            | Self::MessageAccepted { .. }
            | Self::MessageHeld { .. }
            | Self::MessageRefused { .. }
            | Self::MessageAbandoned { .. }
            | Self::MessageRepeated { .. } => false,
        }
    }
}

/// One thing that happened outside any session's dialogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// `connected`
    Connected {
        /// Which of our addresses it came to.
        listener: SocketAddr,
    },
    /// `banned`
    Banned {
        /// Where: an address or a network.
        network: String,
        /// Whether only one account is banned there.
        is_login: bool,
        /// Which, where that is fit for a log.
        account: Option<String>,
        /// How many accounts are known there, which it does not keep out.
        known: usize,
        /// How many failures led to it.
        failures: u32,
        /// How long it is.
        seconds: u64,
        /// Whether it is carried out.
        enforced: bool,
    },
    /// `refused`: not even greeted.
    ConnectionRefused {
        /// Which bound was reached, or that it is banned.
        reason: &'static str,
        /// How many there were since the last line, where not each has its own.
        count: Option<u64>,
    },
    /// `guessing.shared_address`
    SharedAddress {
        /// Which.
        network: String,
        /// How many accounts log in from there.
        accounts: usize,
    },
    /// `proxy.refused`: closed without a word, since nobody knows who would hear it.
    ProxyRefused {
        /// Which of our addresses it came to.
        listener: SocketAddr,
        /// Why.
        reason: String,
        /// Whether nobody needs to hear of it, as when it left without an octet: some look whether the port is open.
        silent: bool,
    },
    /// `tls.accepted`
    TlsAccepted {
        /// `TLSv1.3`
        version: String,
        /// The cipher suite.
        cipher: String,
        /// The server name that the client asked for.
        server_name: Option<String>,
    },
    /// `tls.certificate`: the client has shown a certificate that nobody can log in with.
    TlsCertificate {
        /// Which one.
        fingerprint: String,
        /// Why not.
        reason: String,
    },
    /// `tls.failed`
    TlsFailed {
        /// What rustls, or the time limit, said.
        reason: String,
    },
    /// `closed`
    Closed {
        /// Who ended it and why.
        reason: &'static str,
        /// How many messages were accepted on it.
        messages: u64,
        /// Seconds that it lived.
        seconds: u64,
    },
}

impl ServerEvent {
    /// Whether anybody can make it happen as often as they like.
    pub fn is_cheap(&self) -> bool {
        match self {
            Self::Connected { .. }
            | Self::ProxyRefused { silent: false, .. }
            | Self::TlsCertificate { .. }
            | Self::TlsFailed { .. }
            | Self::Closed { .. } => true,
            // Where not each has a line, it is bounded already.
            Self::ConnectionRefused { count, .. } => count.is_none(),
            // Those that are few, and those for debugging.
            Self::Banned { .. }
            | Self::SharedAddress { .. }
            | Self::ProxyRefused { silent: true, .. }
            | Self::TlsAccepted { .. } => false,
        }
    }
}

/// The address that counts for limits: IPv4 whole, IPv6 by its /64, since that is what one customer gets.
pub fn limit_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
    }
}
