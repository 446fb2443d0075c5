//! What an operator can set about a session.

use std::sync::Arc;
use std::time::Duration;

use crate::decision::{Limit, OverLimit};
use crate::message::token::TraceKey;
use crate::sasl::Mechanism;
use crate::sasl::bearer::Hint;
use crate::smtp::extension::Extension;

/// The settings of a session. A reload makes a new one; a connection keeps the one that it began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Our own name: greeting, EHLO, Received.
    pub hostname: String,
    /// What AUTH offers, in this order.
    pub mechanisms: Vec<Mechanism>,
    /// What clients are told whose token was refused.
    pub token_hint: Hint,
    /// What EHLO offers of the extensions that can be withheld, in the order of [`Extension::ALL`].
    pub extensions: Vec<Extension>,
    /// How long a message may be held before it is released, where FUTURERELEASE is offered.
    pub future_release_max: Duration,
    /// The shortest time after which a message may be asked to be returned (RFC 2852 section 4); `None`: any.
    pub deliver_by_min: Option<Duration>,
    /// The highest priority that is granted (RFC 6710); a higher one is lowered to it.
    pub priority_max: i8,
    /// Octets in one message, as SIZE counts them (RFC 1870 section 3).
    pub message_bytes_max: u64,
    /// Octets in a message's header section; it is the part that is held in memory.
    pub header_bytes_max: u64,
    /// Received fields in a message before it counts as a loop (RFC 5321 section 6.3).
    pub received_fields_max: usize,
    /// Recipients of one message. RFC 5321 section 4.5.3.1.8 wants at least 100.
    pub recipients_max: usize,
    /// How often MAIL may be said on one connection, refused ones included (RFC 9422 section 4.1, MAILMAX).
    pub messages_max: u32,
    /// What accounts without limits of their own may send in an hour. The policy judges by it; LIMITS tells it.
    pub messages_per_hour: Limit,
    /// Likewise, how many recipients in a day.
    pub recipients_per_day: Limit,
    /// Likewise, what becomes of messages over these limits.
    pub over_limit: OverLimit,
    /// Errors (any 5xx reply to a command) on one connection before it is closed.
    pub errors_max: u32,
    /// Failed AUTH on one connection before it is closed.
    pub failed_logins_max: u32,
    /// How long a client may be silent (RFC 5321 section 4.5.3.2 wants 5 minutes).
    pub idle_timeout: Duration,
    /// How long a client may take from the connection to its successful AUTH, TLS handshake included.
    pub login_timeout: Duration,
    /// How long a client may take from DATA to the end of the message.
    pub data_timeout: Duration,
    /// Whether Received tells the client's address, its name and its login.
    pub reveal_client: bool,
    /// The key of the tokens by which the operator can tell who sent a message; `None`: there are none. Where the client
    /// is revealed, there is no token either.
    pub trace_key: Option<Arc<TraceKey>>,
    /// Whether messages get a fingerprint, by which the queue knows those that come again.
    pub fingerprints: bool,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            mechanisms: vec![Mechanism::Plain, Mechanism::Login],
            token_hint: Hint::default(),
            extensions: Extension::ALL.to_vec(),
            future_release_max: Duration::from_secs(30 * 24 * 60 * 60),
            deliver_by_min: Some(Duration::from_secs(60)),
            priority_max: 4,
            message_bytes_max: 35 << 20,
            header_bytes_max: 256 << 10,
            received_fields_max: 100,
            recipients_max: 100,
            messages_max: 1000,
            messages_per_hour: Limit::Unlimited,
            recipients_per_day: Limit::Unlimited,
            over_limit: OverLimit::Refuse,
            errors_max: 20,
            failed_logins_max: 3,
            idle_timeout: Duration::from_secs(5 * 60),
            login_timeout: Duration::from_secs(2 * 60),
            data_timeout: Duration::from_secs(60 * 60),
            reveal_client: false,
            trace_key: None,
            fingerprints: true,
        }
    }
}
