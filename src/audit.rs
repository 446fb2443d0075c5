//! The log: one line per event, with names that stay.
//!
//! Sessions and the server report typed events ([`crate::event`]); this is where they become lines, and where later
//! readers of the stream (counters, `gatepost try`) listen. Lines go to standard error, as text (`key=value`) or as
//! JSON. Text that came from a peer is escaped in both, so that a line is always one line and one event.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;

use crate::clock::{Now, rfc3339_milliseconds};
use crate::decision::Limit;
use crate::event::{Event, Scope, ServerEvent};

mod strangers;

use strangers::{Line, Strangers};

/// [`LogSettings::strangers_per_minute`] as shipped: some 1.3 GB a day at the worst.
const STRANGERS_PER_MINUTE: NonZeroU64 = NonZeroU64::new(6000).expect("not zero");

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// `key=value` pairs.
    #[default]
    Text,
}

/// What the operator can set about the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// How its lines look.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: Level,
    /// Lines in a minute about those who have not logged in; more are counted.
    pub strangers_per_minute: Limit,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: Level::INFO,
            strangers_per_minute: Limit::AtMost(STRANGERS_PER_MINUTE),
        }
    }
}

/// Reads the stream of session events.
pub type Observer = Box<dyn Fn(&Scope, &Event) + Send + Sync>;

/// Where events are reported to. As it begins, nothing bounds the lines about strangers: see [`apply`](Self::apply).
#[derive(Default)]
pub struct Audit {
    observers: Vec<Observer>,
    strangers: Strangers,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit")
            .field("observers", &self.observers.len())
            .field("strangers", &self.strangers)
            .finish()
    }
}

/// Writes a line at the level that fits the reply: what was our own fault, or will pass, is a warning.
macro_rules! refused {
    ($reply:expr, $($fields:tt)*) => {
        if $reply.code() / 100 == 4 {
            tracing::warn!($($fields)*)
        } else {
            tracing::info!($($fields)*)
        }
    };
}

/// Writes a line that nobody wants to see for each of a proxy's looks at us.
macro_rules! quiet_if {
    ($quiet:expr, $($fields:tt)*) => {
        if $quiet {
            tracing::debug!($($fields)*)
        } else {
            tracing::info!($($fields)*)
        }
    };
}

impl Audit {
    /// Reports to the log and to these.
    pub fn new(observers: Vec<Observer>) -> Self {
        Self {
            observers,
            strangers: Strangers::default(),
        }
    }

    /// From now on the lines about strangers keep to these settings.
    pub fn apply(&self, settings: LogSettings) {
        self.strangers.apply(settings.strangers_per_minute);
    }

    /// Says how many lines about strangers were left out, when a minute is over, or at the end of all. Called now and
    /// then.
    pub fn sum_up(&self, now: Now, is_end: bool) {
        if let Some(count) = self.strangers.end_minute(now.instant, is_end) {
            tracing::warn!(event = "log.left_out", count);
        }
    }

    /// Whether a line about somebody who has not logged in is written.
    fn has_room_for_strangers(&self) -> bool {
        let now = Now::read();
        self.sum_up(now, false);
        let line = self.strangers.count(now.instant);
        if line == Line::FirstLeftOut {
            let strangers_per_minute = self.strangers.bound();
            tracing::warn!(event = "log.left_out", strangers_per_minute);
        }
        line == Line::Written
    }

    /// Something happened in a session.
    pub fn session(&self, scope: &Scope, event: &Event) {
        if matches!(event, Event::AuthAccepted { .. }) {
            self.strangers.give_back();
        }
        if scope.logged_in || !event.is_cheap() || self.has_room_for_strangers() {
            self.write(scope, event);
        }
        for observer in &self.observers {
            observer(scope, event);
        }
    }

    fn write(&self, scope: &Scope, event: &Event) {
        let session = scope.session.as_str();
        let (client, port) = (
            scope.client.ip().to_canonical().to_string(),
            scope.client.port(),
        );
        let client = client.as_str();
        match event {
            Event::AuthAccepted {
                account,
                credential,
                mechanism,
                certificate,
                issuer,
            } => {
                let (credential, certificate) = (credential.as_deref(), certificate.as_deref());
                let issuer = issuer.as_deref();
                tracing::info!(
                    event = "auth.accepted",
                    session,
                    client,
                    port,
                    account,
                    credential,
                    mechanism,
                    certificate,
                    issuer
                );
            }
            Event::AuthRefused {
                account,
                credential,
                mechanism,
                certificate,
                issuer,
                reply,
                reason,
            } => {
                let (account, credential) = (account.as_deref(), credential.as_deref());
                let certificate = certificate.as_deref();
                let issuer = issuer.as_deref();
                let reply = (reply, reply.to_string());
                refused!(
                    reply.0,
                    event = "auth.refused",
                    session,
                    client,
                    port,
                    account,
                    credential,
                    mechanism,
                    certificate,
                    issuer,
                    reply = reply.1,
                    reason
                );
            }
            Event::CommandRefused { reply } => {
                refused!(
                    reply,
                    event = "command.refused",
                    session,
                    client,
                    port,
                    reply = reply.to_string()
                );
            }
            Event::MailRefused {
                account,
                from,
                reply,
                reason,
            } => {
                let (account, from, text) =
                    (account.as_deref(), from.as_deref(), reply.to_string());
                refused!(
                    reply,
                    event = "mail.refused",
                    session,
                    client,
                    port,
                    account,
                    from,
                    reply = text,
                    reason
                );
            }
            Event::MessageAbandoned { account, id, from } => {
                let id = id.as_str();
                tracing::info!(
                    event = "message.abandoned",
                    session,
                    client,
                    port,
                    account,
                    id,
                    from
                );
            }
            Event::MessageAccepted {
                account,
                credential,
                id,
                size,
                recipients,
                from,
                message_id,
            } => {
                let (id, message_id) = (id.as_str(), message_id.as_deref());
                let credential = credential.as_deref();
                tracing::info!(
                    event = "message.accepted",
                    session,
                    client,
                    port,
                    account,
                    credential,
                    id,
                    size,
                    recipients,
                    from,
                    message_id
                );
            }
            Event::MessageHeld {
                account,
                id,
                hold,
                reason,
                leaves_about,
            } => {
                let leaves_about = rfc3339_milliseconds(*leaves_about);
                tracing::info!(
                    event = "message.held",
                    session,
                    client,
                    port,
                    account,
                    id = id.as_str(),
                    hold = hold.as_str(),
                    leaves_about,
                    reason
                );
            }
            Event::MessageRepeated {
                account,
                credential,
                id,
                from,
                message_id,
            } => {
                let (id, message_id) = (id.as_str(), message_id.as_deref());
                let credential = credential.as_deref();
                tracing::info!(
                    event = "message.repeated",
                    session,
                    client,
                    port,
                    account,
                    credential,
                    id,
                    from,
                    message_id
                );
            }
            Event::MessageRefused {
                account,
                id,
                from,
                reply,
                reason,
            } => {
                let (id, text) = (id.as_ref().map(|id| id.as_str()), reply.to_string());
                refused!(
                    reply,
                    event = "message.refused",
                    session,
                    client,
                    port,
                    account,
                    id,
                    from,
                    reply = text,
                    reason
                );
            }
            Event::RcptRefused {
                account,
                to,
                reply,
                reason,
            } => {
                let (account, to, text) = (account.as_deref(), to.as_deref(), reply.to_string());
                refused!(
                    reply,
                    event = "rcpt.refused",
                    session,
                    client,
                    port,
                    account,
                    to,
                    reply = text,
                    reason
                );
            }
        }
    }

    /// Something happened on a connection, outside the dialogue.
    pub fn server(&self, scope: &Scope, event: &ServerEvent) {
        if !scope.logged_in && event.is_cheap() && !self.has_room_for_strangers() {
            return;
        }
        let session = scope.session.as_str();
        let (client, port) = (
            scope.client.ip().to_canonical().to_string(),
            scope.client.port(),
        );
        let client = client.as_str();
        let proxy = scope.proxy.map(|proxy| proxy.to_string());
        match event {
            ServerEvent::Connected { listener } => {
                let listener = listener.to_string();
                quiet_if!(
                    scope.is_proxys_own(),
                    event = "connected",
                    session,
                    client,
                    port,
                    listener,
                    proxy
                );
            }
            ServerEvent::Banned {
                network,
                is_login,
                account,
                known,
                failures,
                seconds,
                enforced,
            } => {
                let account = account.as_deref();
                let scope = if *is_login { "login" } else { "network" };
                tracing::warn!(
                    event = "banned",
                    session,
                    client,
                    port,
                    scope,
                    network,
                    account,
                    known = *known as u64,
                    failures = u64::from(*failures),
                    seconds,
                    enforced
                );
            }
            ServerEvent::ConnectionRefused { reason, count } => {
                tracing::warn!(
                    event = "refused",
                    session,
                    client,
                    port,
                    proxy,
                    reason,
                    count
                );
            }
            ServerEvent::ProxyRefused {
                listener,
                reason,
                silent,
            } => {
                let listener = listener.to_string();
                if *silent {
                    tracing::debug!(
                        event = "proxy.refused",
                        session,
                        client,
                        port,
                        listener,
                        reason
                    );
                } else {
                    tracing::warn!(
                        event = "proxy.refused",
                        session,
                        client,
                        port,
                        listener,
                        reason
                    );
                }
            }
            ServerEvent::SharedAddress { network, accounts } => {
                let accounts = *accounts as u64;
                tracing::warn!(
                    event = "guessing.shared_address",
                    session,
                    client,
                    port,
                    network,
                    accounts
                );
            }
            ServerEvent::TlsAccepted {
                version,
                cipher,
                server_name,
            } => {
                let server_name = server_name.as_deref();
                tracing::debug!(
                    event = "tls.accepted",
                    session,
                    client,
                    port,
                    version,
                    cipher,
                    server_name
                );
            }
            ServerEvent::TlsCertificate {
                fingerprint,
                reason,
            } => {
                tracing::info!(
                    event = "tls.certificate",
                    session,
                    client,
                    port,
                    fingerprint,
                    reason
                );
            }
            ServerEvent::TlsFailed { reason } => {
                quiet_if!(
                    scope.is_proxys_own(),
                    event = "tls.failed",
                    session,
                    client,
                    port,
                    reason
                );
            }
            ServerEvent::Closed {
                reason,
                messages,
                seconds,
            } => {
                quiet_if!(
                    scope.is_proxys_own() && *messages == 0,
                    event = "closed",
                    session,
                    client,
                    port,
                    reason,
                    messages,
                    seconds
                );
            }
        }
    }
}

/// Changes the log's settings while it runs.
#[derive(Clone, Debug)]
pub struct LogControl {
    json: Arc<AtomicBool>,
    level: Arc<AtomicUsize>,
}

impl LogControl {
    /// A control that begins with these settings.
    pub fn new(settings: LogSettings) -> Self {
        let control = Self {
            json: Arc::default(),
            level: Arc::default(),
        };
        control.apply(settings);
        control
    }

    /// From the next line on, the log follows these settings.
    pub fn apply(&self, settings: LogSettings) {
        self.json
            .store(settings.format == LogFormat::Json, Ordering::Relaxed);
        self.level
            .store(severity(&settings.level), Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
    }

    fn allows(&self, level: &Level) -> bool {
        severity(level) <= self.level.load(Ordering::Relaxed)
    }
}

fn severity(level: &Level) -> usize {
    [
        Level::ERROR,
        Level::WARN,
        Level::INFO,
        Level::DEBUG,
        Level::TRACE,
    ]
    .iter()
    .position(|candidate| candidate == level)
    .unwrap_or(0)
}

/// Sends the log to standard error, for the whole process. A second call changes nothing but the settings of its own
/// control.
pub fn to_standard_error(settings: LogSettings) -> LogControl {
    let control = LogControl::new(settings);
    // An error means that a log is set up already, as in a test with several servers in one process.
    let _ = tracing::subscriber::set_global_default(subscriber(control.clone(), std::io::stderr));
    control
}

/// A subscriber that writes the log's lines; only events of this program are lines of it.
pub fn subscriber<W>(control: LogControl, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let format = LineFormat {
        json: Arc::clone(&control.json),
    };
    let lines = tracing_subscriber::fmt::layer()
        .event_format(format)
        .with_writer(writer);
    let ours = tracing_subscriber::filter::dynamic_filter_fn(move |metadata, _| {
        metadata.target().starts_with(env!("CARGO_CRATE_NAME")) && control.allows(metadata.level())
    })
    .with_max_level_hint(LevelFilter::TRACE);
    tracing_subscriber::registry().with(lines.with_filter(ours))
}

/// Writes one event as one line.
struct LineFormat {
    json: Arc<AtomicBool>,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let time = rfc3339_milliseconds(Now::read().wall);
        let level = event.metadata().level().as_str();
        let mut fields = Fields(Vec::new());
        event.record(&mut fields);
        if self.json.load(Ordering::Relaxed) {
            let mut object = serde_json::Map::new();
            object.insert("time".to_owned(), time.into());
            object.insert("level".to_owned(), level.to_lowercase().into());
            object.extend(
                fields
                    .0
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.into())),
            );
            writeln!(writer, "{}", serde_json::Value::Object(object))
        } else {
            write!(writer, "{time} {level}")?;
            for (name, value) in fields.0 {
                write!(writer, " {name}=")?;
                match value {
                    Value::Number(number) => write!(writer, "{number}")?,
                    Value::Truth(truth) => write!(writer, "{truth}")?,
                    Value::Text(text) => write_text(&mut writer, &text)?,
                }
            }
            writeln!(writer)
        }
    }
}

/// A word as it is; anything else in quotes, with everything escaped that could be taken for the end of it.
fn write_text(writer: &mut Writer<'_>, text: &str) -> fmt::Result {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '=');
    if !text.is_empty() && text.chars().all(plain) {
        return writer.write_str(text);
    }
    writer.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(writer, "\\{c}")?,
            ' '..='~' => writer.write_char(c)?,
            c if c.is_alphanumeric() => writer.write_char(c)?,
            c => write!(writer, "{}", c.escape_unicode())?,
        }
    }
    writer.write_char('"')
}

enum Value {
    Number(u64),
    Text(String),
    Truth(bool),
}

impl From<Value> for serde_json::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Number(number) => number.into(),
            Value::Text(text) => text.into(),
            Value::Truth(truth) => truth.into(),
        }
    }
}

struct Fields(Vec<(&'static str, Value)>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0
            .push((field.name(), Value::Text(format!("{value:?}"))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.push((field.name(), Value::Text(value.to_owned())));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.push((field.name(), Value::Number(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.push((field.name(), Value::Truth(value)));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;
    use crate::smtp::reply::Reply;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log's lines of what `report` reports, without their time.
    ///
    /// One at a time: whether an event is wanted at all is kept once for all threads, and is worked out anew when a
    /// subscriber comes or goes.
    fn log(settings: LogSettings, report: impl FnOnce(&Audit, &Scope)) -> String {
        static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _turn = TURN
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(LogControl::new(settings), move || writer.clone());
        let scope = Scope {
            session: "s1".to_owned(),
            client: "[::ffff:203.0.113.7]:50123".parse().unwrap(),
            proxy: None,
            logged_in: false,
        };
        tracing::subscriber::with_default(subscriber, || report(&Audit::default(), &scope));
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    fn refusal(reason: &str) -> Event {
        Event::AuthRefused {
            account: None,
            credential: None,
            mechanism: Some("PLAIN"),
            certificate: None,
            issuer: None,
            reply: Reply::authentication_failed(),
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn text_lines() {
        let line = log(LogSettings::default(), |audit, scope| {
            audit.session(scope, &refusal("wrong password"))
        });
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.len() == 24, "{time}");
        assert_eq!(
            rest,
            "INFO event=auth.refused session=s1 client=203.0.113.7 port=50123 mechanism=PLAIN \
             reply=\"535 5.7.8 authentication failed\" reason=\"wrong password\"\n"
        );
    }

    #[test]
    fn json_lines() {
        let settings = LogSettings {
            format: LogFormat::Json,
            ..LogSettings::default()
        };
        let line = log(settings, |audit, scope| {
            audit.session(scope, &refusal("a\"b\nc"))
        });
        let object: serde_json::Value = serde_json::from_str(line.trim_end()).unwrap();
        assert_eq!(object["event"], "auth.refused");
        assert_eq!(object["level"], "info");
        assert_eq!(object["port"], 50123);
        assert_eq!(object["reason"], "a\"b\nc");
        assert_eq!(object.get("account"), None);
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn a_peer_cannot_forge_a_line_or_a_field() {
        let forged = "x\r\n2026 INFO event=auth.accepted account=root \u{202e}\u{1b}[2J\u{7f}\" event=closed";
        let line = log(LogSettings::default(), |audit, scope| {
            audit.session(scope, &refusal(forged))
        });
        assert_eq!(line.matches('\n').count(), 1);
        assert!(
            line.contains(r"\u{d}\u{a}") && line.contains(r"\u{202e}\u{1b}[2J\u{7f}\"),
            "{line}"
        );
    }

    #[test]
    fn quieter_levels_drop_lines() {
        let settings = LogSettings {
            level: Level::WARN,
            ..LogSettings::default()
        };
        assert_eq!(
            log(settings, |audit, scope| audit.session(scope, &refusal("x"))),
            ""
        );
        let unavailable = Event::AuthRefused {
            account: None,
            credential: None,
            mechanism: None,
            certificate: None,
            issuer: None,
            reply: Reply::authentication_unavailable(),
            reason: "x".to_owned(),
        };
        assert!(log(settings, |audit, scope| audit.session(scope, &unavailable)).contains("WARN"));
    }
}
