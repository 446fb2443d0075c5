//! One connection: the only loop that reads and writes a client's socket. It carries out the session's steps and
//! decides nothing. Where a proxy brings the client, its PROXY header is read first.
//!
//! Replies are collected and written at once when the session waits, so a pipelined batch costs one write
//! (RFC 2920 section 3.2). Octets are read onto the stack and handed to the session, so an idle connection holds no
//! buffer of ours; and what is awaited only now and then is boxed, so that the task of an idle connection is small.

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::doors::{NoRoom, Place};
use super::proxy::{self, HEADER_BYTES_MAX, HeaderError, Progress, Source};
use super::sessions::LoggedIn;
use super::shut::shut_out;
use super::{Generation, Listen, Services, TlsStart, login};
use crate::clock::Now;
use crate::decision::{Account, Question, Refusal, Verdict};
use crate::event::{Event, Scope, ServerEvent};
use crate::message::Fingerprint;
use crate::policy::tripwire::Deed;
use crate::queue::Draft;
use crate::sasl::external::Certificate;
use crate::session::{Link, PolicyAsk, Session, Step, TlsFacts};
use crate::smtp::reply::Reply;

/// How much is read at once.
const READ_BYTES: usize = 16 << 10;
/// How many octets of replies are collected before they are written even in the middle of a batch.
const UNSENT_BYTES_MAX: usize = 16 << 10;
/// How long, and how many octets, we go on reading after our last word: closing with unread octets would reset the
/// connection, and the client might never read that word.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 256 << 10;

/// How long a stranger who is turned out may take to hear so.
const TURNED_OUT_TIMEOUT: Duration = Duration::from_millis(100);
/// Why they were, for the log.
const TURNED_OUT: &str = "limits.connections: not logged in, and somebody else needed the place";

/// How long a proxy may take to say whose connection it is. It does so at once; the time is for segments that are lost
/// and sent again, for which the specification wants 3 seconds at least.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// One client's connection.
pub(super) struct Connection {
    transport: Transport,
    scope: Scope,
    /// Where it came in, with the real port.
    listen: Listen,
    /// Who has no place is turned away with 421.
    admission: Result<Place, NoRoom>,
    /// Cancelled when somebody else was given the place.
    turned_out: CancellationToken,
    services: Arc<Services>,
    generation: Arc<Generation>,
    /// Replies that are not yet written.
    unsent: Vec<u8>,
    draft: Option<Draft>,
    /// The message that was queued last, if its client may not know so.
    undelivered: Option<Fingerprint>,
    /// Tells when somebody is contained.
    contained: watch::Receiver<()>,
    /// That its client is logged in.
    logged_in: Option<LoggedIn>,
}

/// What waiting for the client ended with.
enum Heard {
    /// Somebody is contained.
    Contained,
    Nothing,
    Octets,
    Stop,
    StopNow,
}

/// Why nobody knows whose connection it is.
struct Stranger {
    reason: String,
    /// Whether nobody needs to hear of it.
    silent: bool,
}

impl Stranger {
    fn because(reason: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            silent: false,
        }
    }
}

impl From<HeaderError> for Stranger {
    fn from(error: HeaderError) -> Self {
        Self::because(&error.to_string())
    }
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        scope: Scope,
        listen: Listen,
        admission: Result<Place, NoRoom>,
        services: Arc<Services>,
        generation: Arc<Generation>,
    ) -> Self {
        let transport = Transport::Plain(stream);
        let turned_out = match &admission {
            Ok(place) => place.leave().clone(),
            Err(_) => CancellationToken::new(),
        };
        Self {
            contained: services.contained.subscribe(),
            transport,
            scope,
            listen,
            admission,
            turned_out,
            services,
            generation,
            unsent: Vec::new(),
            draft: None,
            undelivered: None,
            logged_in: None,
        }
    }

    /// Says in the log that the client is in, or why not.
    pub(super) fn announce(&self) {
        let listener = self.listen.address;
        let event = match &self.admission {
            Ok(_) => ServerEvent::Connected { listener },
            Err(NoRoom { reason, .. }) => ServerEvent::ConnectionRefused {
                reason,
                count: None,
            },
        };
        self.services.audit.server(&self.scope, &event);
    }

    /// Serves the client to the end.
    pub(super) async fn run(mut self) {
        let begun = Now::read();
        if let Transport::Plain(stream) = &self.transport {
            // Without it each STARTTLS session loses 40 ms to a delayed acknowledgement.
            let _ = stream.set_nodelay(true);
        }
        if self.listen.proxy_protocol && !Box::pin(self.introduce()).await {
            return;
        }
        let mut link = Link {
            client: self.scope.client,
            tls: None,
        };
        if self.listen.tls == TlsStart::Implicit {
            match Box::pin(self.handshake()).await {
                Some(facts) => link.tls = Some(facts),
                None => return self.closed("TLS handshake failed", 0, begun),
            }
        }
        let profile = Arc::clone(&self.generation.profile);
        let mut session = match self.admission {
            Ok(_) => Session::new(profile, link, begun),
            Err(_) => Session::turn_away(profile, link, Reply::too_many_connections(), begun),
        };
        let turned_out = self.turned_out.clone();
        let served = tokio::select! {
            biased;
            // Who is turned out has not logged in, so nothing of theirs can be lost here.
            () = turned_out.cancelled() => Ok(TURNED_OUT),
            served = self.serve(&mut session) => served,
        };
        let reason = match served {
            Ok(reason) => reason,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => "client does not read",
            Err(_) => "connection lost",
        };
        // What was begun and not committed goes with its draft.
        self.draft = None;
        self.logged_in = None;
        session.disconnected();
        while let Step::Report(event) = session.next_step() {
            self.services.audit.session(&self.scope, &event);
        }
        let (messages, has_quit) = (session.messages(), session.has_quit());
        drop(session);
        if turned_out.is_cancelled() {
            Box::pin(self.turn_out()).await;
        } else if Box::pin(self.linger()).await
            && has_quit
            // One that sent its QUIT along with the end of the data has heard the answer if it stays to say goodbye.
            && let Some(fingerprint) = self.undelivered.take()
        {
            self.services.spool.delivered(&fingerprint);
        }
        self.closed(reason, messages, begun);
    }

    /// The place is free before the log says that the connection is closed: whoever reads it there can come in.
    fn closed(self, reason: &'static str, messages: u64, begun: Now) {
        if let Ok(place) = self.admission {
            drop(place);
            let seconds = Now::read()
                .instant
                .saturating_duration_since(begun.instant)
                .as_secs();
            self.services.audit.server(
                &self.scope,
                &ServerEvent::Closed {
                    reason,
                    messages,
                    seconds,
                },
            );
        }
    }

    /// Learns from the proxy whose connection it is, and lets that client in or turns it away. False if the connection
    /// ends here, which is reported.
    async fn introduce(&mut self) -> bool {
        let source = match self.read_header().await {
            Ok(source) => source,
            Err(Stranger { reason, silent }) => {
                let refused = ServerEvent::ProxyRefused {
                    listener: self.listen.address,
                    reason,
                    silent,
                };
                self.services.audit.server(&self.scope, &refused);
                return false;
            }
        };
        self.scope.proxy = Some(self.scope.client);
        if let Source::Client(client) = source {
            self.scope.client = client;
        }
        if let Err(shut) = self
            .services
            .guard
            .admit(self.scope.client.ip(), Now::read())
        {
            if let Transport::Plain(stream) = mem::replace(&mut self.transport, Transport::Gone) {
                shut_out(stream, &self.scope, self.listen.tls, shut, &self.services);
            }
            return false;
        }
        if let Source::Client(client) = source {
            let limits = &self.generation.limits;
            if let Ok(place) = &mut self.admission
                && let Err(full) = self.services.doors.name(place, client.ip(), limits)
            {
                self.admission = Err(full);
            }
        }
        self.announce();
        !matches!(self.admission, Err(NoRoom { refusal: None, .. }))
    }

    /// Takes the PROXY header from the socket, and not one octet more: what follows is for TLS or for the session.
    async fn read_header(&mut self) -> Result<Source, Stranger> {
        let Transport::Plain(stream) = &mut self.transport else {
            return Err(Stranger::because("connection lost"));
        };
        let mut octets = [0; HEADER_BYTES_MAX];
        let mut taken = 0;
        let read = async {
            loop {
                let seen = match stream.peek(&mut octets[taken..]).await {
                    Ok(seen) if seen > 0 => seen,
                    Ok(_) | Err(_) => {
                        return Err(Stranger {
                            silent: taken == 0,
                            ..Stranger::because("connection ended before its PROXY header")
                        });
                    }
                };
                let (more, source) = match proxy::parse(&octets[..taken + seen])? {
                    Progress::Part => (seen, None),
                    Progress::Whole { source, length } => (length - taken, Some(source)),
                };
                // They are there already.
                let taking = stream.read_exact(&mut octets[taken..taken + more]);
                taking.await.map_err(|_| Stranger {
                    silent: taken == 0,
                    ..Stranger::because("connection lost")
                })?;
                taken += more;
                if let Some(source) = source {
                    return Ok(source);
                }
            }
        };
        tokio::select! {
            biased;
            () = self.services.stopping.cancelled() => Err(Stranger {
                silent: true,
                ..Stranger::because("the server stops")
            }),
            () = self.turned_out.cancelled() => Err(Stranger::because(TURNED_OUT)),
            source = timeout(HEADER_TIMEOUT, read) => {
                source.unwrap_or_else(|_| Err(Stranger::because("PROXY header took too long")))
            }
        }
    }

    /// Carries out steps until the session closes, and says how it ended.
    async fn serve(&mut self, session: &mut Session) -> io::Result<&'static str> {
        let mut told_to_stop = false;
        loop {
            match session.next_step() {
                Step::Abort => self.draft = None,
                Step::Append(ask) => {
                    let stored = match &mut self.draft {
                        Some(draft) => Box::pin(draft.append(ask.bytes()))
                            .await
                            .map_err(|error| Refusal::from(&error)),
                        None => Err(no_draft()),
                    };
                    ask.answer(stored);
                }
                Step::Begin(ask) => {
                    let id = self.services.spool.next_id(Now::read());
                    match Box::pin(self.services.spool.begin(ask.envelope(id.clone()))).await {
                        Ok(draft) => {
                            self.draft = Some(draft);
                            ask.answer(Ok(id));
                        }
                        Err(error) => ask.answer(Err(Refusal::from(&error))),
                    }
                }
                Step::Check(ask) => {
                    let check = login::check(&self.services, &self.generation, &self.scope, ask);
                    Box::pin(check).await;
                }
                Step::Close => {
                    self.flush().await?;
                    return Ok(session.ending());
                }
                Step::Commit(ask) => {
                    let fingerprint = ask.fingerprint();
                    let (services, login) = (&self.services, ask.account());
                    let _under_way = services.commits.begin(&login.name);
                    let is_stopped = services.containment.holds_login(login)
                        || services.watch(
                            login,
                            Deed::Message {
                                recipients: &ask.forward_paths(),
                            },
                            Now::read(),
                        );
                    let receipt = match self.draft.take() {
                        _ if is_stopped => Err(contained()),
                        Some(mut draft) => {
                            if let Some(fingerprint) = fingerprint {
                                draft.identify(fingerprint);
                            }
                            if ask.is_postponed() {
                                draft.postpone();
                            }
                            Box::pin(draft.commit())
                                .await
                                .map_err(|error| Refusal::from(&error))
                        }
                        None => Err(no_draft()),
                    };
                    if let Ok(receipt) = &receipt
                        && !receipt.repeated
                    {
                        let recipients = ask.recipients();
                        if ask.is_postponed() {
                            let policy = &self.services.generation.load().policy;
                            policy.settle(ask.account(), &receipt.id, recipients);
                        }
                        Box::pin(self.services.queued(ask.account(), &receipt.id, recipients))
                            .await;
                    }
                    self.undelivered = fingerprint.filter(|_| receipt.is_ok());
                    if receipt.as_ref().map_or(true, |receipt| receipt.repeated) {
                        if !is_stopped {
                            services.tripwires.take_back(&login.name);
                        }
                        let policy = &self.services.generation.load().policy;
                        let (account, recipients) = (ask.account(), ask.recipients());
                        match ask.is_postponed() {
                            true => policy.withdraw(account, recipients, Now::read()),
                            false => policy.refund(account, recipients, Now::read()),
                        }
                    }
                    ask.answer(receipt);
                }
                Step::Decide(ask) => {
                    let verdict = match self.certificate_stands(&ask) {
                        true => Box::pin(decide(&self.services, &ask)).await,
                        false => Verdict::Refuse(Refusal::new(
                            Reply::account_withdrawn(),
                            "the certificate is not good for the account any more",
                        )),
                    };
                    ask.answer(verdict);
                }
                Step::LookUp(ask) => {
                    let look_up =
                        login::look_up(&self.services, &self.generation, &self.scope, ask);
                    Box::pin(look_up).await;
                }
                Step::Report(event) => {
                    self.services.audit.session(&self.scope, &event);
                    if matches!(event, Event::AuthAccepted { .. }) {
                        self.scope.logged_in = true;
                        if let Ok(place) = &self.admission
                            && !place.keep()
                        {
                            return Ok(TURNED_OUT);
                        }
                    }
                    if let (Event::AuthAccepted { .. }, Some(login)) = (&event, session.login()) {
                        self.logged_in = Some(self.services.sessions.enter(login));
                    }
                    let deed = match &event {
                        Event::AuthAccepted { .. } => Some(Deed::Login {
                            client: self.scope.client.ip(),
                        }),
                        Event::RcptRefused { reply, .. }
                            if matches!(reply.code(), 501 | 550 | 553) =>
                        {
                            Some(Deed::RefusedRecipient)
                        }
                        _ => None,
                    };
                    if let (Some(deed), Some(login)) = (deed, session.login()) {
                        // Whoever is contained by it hears so at the next wait.
                        self.services.watch(login, deed, Now::read());
                    }
                }
                Step::Send(reply) => {
                    reply.write_to(&mut self.unsent);
                    if self.unsent.len() >= UNSENT_BYTES_MAX {
                        self.flush().await?;
                    }
                }
                Step::StartTls(ask) => {
                    self.flush().await?;
                    match Box::pin(self.handshake()).await {
                        Some(facts) => ask.answer(facts),
                        None => return Ok("TLS handshake failed"),
                    }
                }
                Step::Wait { until } => {
                    self.flush().await?;
                    let services = Arc::clone(&self.services);
                    let heard = tokio::select! {
                        biased;
                        () = services.out_of_time.cancelled() => Heard::StopNow,
                        () = services.stopping.cancelled(), if !told_to_stop => Heard::Stop,
                        Ok(()) = self.contained.changed() => Heard::Contained,
                        heard = timeout_at(until.into(), self.transport.read_into(session)) => match heard {
                            Ok(Ok(0)) => return Ok(session.ending()),
                            Ok(Ok(_)) => Heard::Octets,
                            Ok(Err(error)) => return Err(error),
                            Err(_) => Heard::Nothing,
                        },
                    };
                    match heard {
                        Heard::Octets => {
                            // It goes on, so it has read what was written before.
                            if let Some(fingerprint) = self.undelivered.take() {
                                self.services.spool.delivered(&fingerprint);
                            }
                        }
                        Heard::Contained => {
                            let containment = &services.containment;
                            if session
                                .login()
                                .is_some_and(|login| containment.holds_login(login))
                            {
                                self.logged_in = None;
                                session.withdraw("the account is contained");
                            }
                        }
                        Heard::Nothing => session.tick(Now::read()),
                        Heard::Stop => {
                            told_to_stop = true;
                            session.begin_shutdown();
                        }
                        Heard::StopNow => session.stop_now(),
                    }
                }
            }
        }
    }

    /// Does the TLS handshake; `None` if it failed, which is reported here.
    async fn handshake(&mut self) -> Option<TlsFacts> {
        let Transport::Plain(stream) = mem::replace(&mut self.transport, Transport::Gone) else {
            return None;
        };
        let acceptor = TlsAcceptor::from(self.generation.tls.server_config());
        let limit = self.generation.limits.handshake_timeout;
        let services = Arc::clone(&self.services);
        let result = tokio::select! {
            biased;
            () = services.stopping.cancelled() => Err("the server stops".to_owned()),
            () = self.turned_out.cancelled() => Err(TURNED_OUT.to_owned()),
            result = timeout(limit, acceptor.accept(stream)) => match result {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("tls.handshake_timeout".to_owned()),
            },
        };
        let stream = match result {
            Ok(stream) => stream,
            Err(reason) => {
                self.services
                    .audit
                    .server(&self.scope, &ServerEvent::TlsFailed { reason });
                return None;
            }
        };
        let (_, tls) = stream.get_ref();
        let version = match tls.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2".to_owned(),
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3".to_owned(),
            other => format!("{other:?}"),
        };
        let cipher = tls
            .negotiated_cipher_suite()
            .map_or(String::new(), |suite| format!("{:?}", suite.suite()));
        let (certificate, certificate_known) = self.shown_certificate(tls);
        let facts = TlsFacts {
            version,
            cipher,
            bindings: self.generation.tls.channel_bindings(tls),
            certificate,
            certificate_known,
        };
        let server_name = tls.server_name().map(str::to_owned);
        let (version, cipher) = (facts.version.clone(), facts.cipher.clone());
        self.services.audit.server(
            &self.scope,
            &ServerEvent::TlsAccepted {
                version,
                cipher,
                server_name,
            },
        );
        self.transport = Transport::Tls(Box::new(stream));
        Some(facts)
    }

    /// The certificate that the client has shown, and whether somebody can log in with it. It is reported if not: the
    /// client may log in with something else.
    fn shown_certificate(&self, tls: &ServerConnection) -> (Option<Arc<Certificate>>, bool) {
        let (generation, now) = (self.services.generation.load(), Now::read());
        let Some(shown) = generation.tls.shown_by_client(tls, now) else {
            return (None, false);
        };
        let is_good = |certificate: &Certificate| {
            certificate.is_valid_at(now.wall)
                && !generation.accounts.logins_of(certificate).is_empty()
        };
        let known = shown.certificate.as_ref().is_some_and(is_good);
        if !known {
            let event = ServerEvent::TlsCertificate {
                fingerprint: shown.fingerprint.to_string(),
                reason: shown
                    .problem
                    .unwrap_or_else(|| "no account has it".to_owned()),
            };
            self.services.audit.server(&self.scope, &event);
        }
        (shown.certificate.map(Arc::new), known)
    }

    /// Whether a login by certificate still stands: valid, vouched for, and of the same account. A login by anything else
    /// does. It is asked for each message, and not again for each of its recipients.
    fn certificate_stands(&self, ask: &PolicyAsk<'_>) -> bool {
        if !ask.stands_on_certificate() || matches!(ask.question(), Question::Recipient { .. }) {
            return true;
        }
        let Transport::Tls(stream) = &self.transport else {
            return false;
        };
        let (generation, now) = (self.services.generation.load(), Now::read());
        let shown = generation.tls.shown_by_client(stream.get_ref().1, now);
        let Some(certificate) = shown.and_then(|shown| shown.certificate) else {
            return false;
        };
        let login = ask.account();
        let same = |account: &Arc<Account>| {
            account.name == login.name && account.credential_name() == login.credential_name()
        };
        certificate.is_valid_at(now.wall)
            && generation.accounts.logins_of(&certificate).iter().any(same)
    }

    /// Writes the replies that were collected. A client that does not read is gone after the idle time.
    async fn flush(&mut self) -> io::Result<()> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        let unsent = mem::take(&mut self.unsent);
        let write = async {
            self.transport.write_all(&unsent).await?;
            self.transport.flush().await
        };
        tokio::select! {
            biased;
            result = timeout(self.generation.profile.idle_timeout, write) => {
                result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
            () = self.services.out_of_time.cancelled() => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Tells a stranger that there are too many, if they listen. Their place has been taken already, so nobody waits for
    /// them.
    async fn turn_out(&mut self) {
        Reply::too_many_connections().write_to(&mut self.unsent);
        let _ = timeout(TURNED_OUT_TIMEOUT, self.flush()).await;
    }

    /// Says goodbye on TLS and TCP, then reads what the client still sends, for a bounded while. Whether the client has
    /// said goodbye, too.
    async fn linger(&mut self) -> bool {
        let mut transport = mem::replace(&mut self.transport, Transport::Gone);
        let drain = async {
            transport.shutdown().await?;
            let mut space = [0; 4096];
            let mut left = LINGER_BYTES_MAX;
            while left > 0 {
                match transport.read(&mut space).await? {
                    0 => return Ok(true),
                    count => left = left.saturating_sub(count),
                }
            }
            io::Result::Ok(false)
        };
        matches!(timeout(LINGER_TIMEOUT, drain).await, Ok(Ok(true)))
    }
}

/// Whoever sends it is contained.
fn contained() -> Refusal {
    Refusal::new(Reply::account_withdrawn(), "the account is contained")
}

/// A draft was asked for and is not there: a mistake in this file, answered like any fault of ours.
fn no_draft() -> Refusal {
    Refusal::new(Reply::internal_error(), "internal error: no draft")
}

/// Puts the session's question to the policy, under the rules and the rights that hold now: both may have changed since
/// the connection began.
async fn decide(services: &Services, ask: &PolicyAsk<'_>) -> Verdict {
    let generation = services.generation.load_full();
    let account = generation.accounts.account(ask.account());
    let Some(account) = account.filter(|account| account.enabled) else {
        let reason = match ask.account().credential {
            None if ask.account().grant.is_some() => {
                "the account or the issuer of its token was removed, or the account disabled"
            }
            None => "the account was removed or disabled",
            Some(_) => "the account or its credential was removed or disabled, or has expired",
        };
        return Verdict::Refuse(Refusal::new(Reply::account_withdrawn(), reason));
    };
    if services.containment.holds_login(&account) {
        return Verdict::Refuse(contained());
    }
    let verdict = generation
        .policy
        .decide(&account, ask.question(), Now::read());
    if let (Question::Sender { .. }, Verdict::Allow(_)) = (ask.question(), &verdict)
        && let Err(error) = services.spool.room_for(ask.declared_size()).await
    {
        return Verdict::Refuse(Refusal::from(&error));
    }
    verdict
}

/// The octet stream under the session.
enum Transport {
    /// In the middle of a handshake, or closed.
    Gone,
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Reads what is there and hands it to the session; how many octets it was, 0 at the end.
    async fn read_into(&mut self, session: &mut Session) -> io::Result<usize> {
        std::future::poll_fn(|context| {
            let mut space = [0; READ_BYTES];
            let mut buffer = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut *self).poll_read(context, &mut buffer))?;
            session.receive(buffer.filled(), Now::read());
            Poll::Ready(Ok(buffer.filled().len()))
        })
        .await
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Gone => Poll::Ready(Ok(())),
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => match ready!(Pin::new(stream).poll_read(context, buffer)) {
                // A client that closes TCP without a close_notify: what it had to say ended with a line or with the
                // end of the data, so nothing was cut off unnoticed.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                other => Poll::Ready(other),
            },
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Gone => Poll::Ready(Ok(())),
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Gone => Poll::Ready(Ok(())),
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
