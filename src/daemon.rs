//! The daemon: puts the rooms together, minds the signals, and knows the order in which things start, change and stop.
//!
//! A *generation* is everything that a reload replaces: it is built whole before anything of it is put into force, so
//! a broken file changes nothing. SIGHUP reads all files anew; a change of the accounts file or of a certificate is
//! noticed without it. SIGTERM (and SIGINT) stop.
//!
//! Order of the start: settings, certificates, accounts, addresses; then the process gives up what rights it can and
//! closes the sandbox (`daemon/start.rs`); the queue (with its recovery), the listeners; only then `ready`.
//! Order of the stop: first nobody new comes in, then those inside end, then what the limits know is saved. Last the
//! queue's lock falls, when everything that could write to it is gone.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::account::Accounts;
use crate::account::state::{LoginState, STATE_FILE};
use crate::audit::{Audit, LogControl, Observer};
use crate::clock::{Instant, Now, Timestamp, rfc3339_milliseconds};
use crate::config::{self, Config, Loaded};
use crate::containment::{By, CONTAINED_FILE, Cause, Containment, Login};
use crate::control::{Answer, ContainedLogin, Request, SOCKET};
use crate::diagnostic::{Finding, Severity};
use crate::guard::{GUESSING_FILE, Guard, Lift};
use crate::message::token::TraceKey;
use crate::policy::history::{HISTORY_FILE, History};
use crate::policy::limit::LIMITS_FILE;
use crate::policy::tripwire::{TRIPWIRES_FILE, Tripwires};
use crate::policy::{Limiter, Policy};
use crate::queue::{Recovered, Released, Spool, SpoolEvent};
use crate::sandbox::Sandbox;
use crate::server::containment::{Trouble, contained_login, put_away};
use crate::server::over_limit::{Release, take_up};
use crate::server::{
    Asked, BindError, Bound, ControlSocket, Generation, Listen, Listener, Services,
};
use crate::session::Profile;
use crate::tls::Tls;
use crate::trace::{self, TRACE_FILE};

mod start;

use self::start::Confined;

/// How often the files are looked at. A change counts when two looks in a row saw the same, so that a file is not read
/// while somebody still writes it.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How often the warnings about certificates are repeated.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// How often the limits' state is saved; what a crash can forget.
const SAVE_EVERY_TICKS: u64 = 2;
/// Likewise for who is banned and who is known: under an attack that is much, and changes all the time.
const SAVE_GUESSING_EVERY_TICKS: u64 = 10;
/// Likewise for what was sent lately, which is more and changes with every message.
const SAVE_HISTORY_EVERY_TICKS: u64 = 10;
/// Threads for file operations and password checks. Both have bounds of their own below this.
const BLOCKING_THREADS_MAX: usize = 128;
/// Descriptors beside those of connections: listeners, files of messages in flight, clients that are turned away, the log.
const DESCRIPTORS_BESIDE: u64 = 320;

/// Told where the listeners really listen.
pub type OnReady = Box<dyn FnOnce(&[Listen])>;

/// Listens to a daemon that runs in this process.
#[derive(Default)]
pub struct Hooks {
    /// Hears every session event.
    pub observers: Vec<Observer>,
    /// Called once, when clients can connect, with where the listeners really listen.
    pub ready: Option<OnReady>,
}

/// Runs the daemon until it is told to stop. Findings mean that it did not start.
///
/// The calling process becomes the configured user and is in the sandbox from then on, for good. It must have no other
/// threads: those would stay outside.
pub fn run(path: &Path, hooks: Hooks) -> Result<(), Vec<Finding>> {
    let confined = start::confine(path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(confined.processors)
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()
        .map_err(|error| vec![Finding::error(format!("cannot start the runtime: {error}"))])?;
    let served = runtime.block_on(serve(confined, hooks));
    // What may still run is a question to somebody else, as for the address of a host, that nobody waits for any more.
    runtime.shutdown_background();
    served
}

async fn serve(confined: Confined, hooks: Hooks) -> Result<(), Vec<Finding>> {
    // From here on the signals are ours: one that comes during the rest of the start is answered right after it.
    let signals = |kind| {
        signal(kind).map_err(|error| vec![Finding::error(format!("cannot watch signals: {error}"))])
    };
    let mut terminate = signals(SignalKind::terminate())?;
    let mut interrupt = signals(SignalKind::interrupt())?;
    let mut hang_up = signals(SignalKind::hangup())?;

    let (mut daemon, mut control) = Daemon::start(confined, hooks)?;
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => daemon.reload().await,
            _ = ticks.tick() => daemon.tick().await,
            Some(asked) = control.recv() => daemon.answer(asked),
        }
    }
    daemon.stop().await;
    Ok(())
}

struct Daemon {
    config: Config,
    services: Arc<Services>,
    listeners: Vec<Listener>,
    accounts: Arc<Accounts>,
    tls: Arc<Tls>,
    limiter: Arc<Limiter>,
    log: LogControl,
    /// Once it was needed.
    trace_key: Option<Arc<TraceKey>>,
    sandbox: Sandbox,
    /// Who the process is.
    user: String,
    watch: Watch,
    ticks: u64,
    certificates_checked: Instant,
    started: Timestamp,
    /// Takes the operator's requests for as long as it is there.
    control: Option<ControlSocket>,
    /// Messages that are being released.
    releasing: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(
        confined: Confined,
        hooks: Hooks,
    ) -> Result<(Self, mpsc::Receiver<Asked>), Vec<Finding>> {
        let Confined {
            now,
            config,
            tls,
            accounts,
            log,
            bound,
            sandbox,
            alerts,
            user,
            processors: _,
            mut warnings,
        } = confined;
        let (spool, recovered) =
            Spool::open(&config.queue).map_err(|error| vec![Finding::from(&error)])?;
        let (limiter, limiter_warnings) =
            Limiter::open(&config.queue.directory.join(LIMITS_FILE), now);
        let limiter = Arc::new(limiter);
        warnings.extend(limiter_warnings);
        let (memory, memory_warnings) = LoginState::open(&config.queue.directory.join(STATE_FILE));
        warnings.extend(memory_warnings);
        let guessing = config.queue.directory.join(GUESSING_FILE);
        let (guard, guard_warnings) = Guard::open(&guessing, config.guessing.clone(), now);
        warnings.extend(guard_warnings);
        let containment = Containment::open(&config.queue.directory.join(CONTAINED_FILE))
            .map_err(|finding| vec![finding])?;
        let containment = Arc::new(containment);
        // Nobody is served before.
        let is_tidy = put_away(&containment, &spool.directory());
        let (history, history_warning) =
            History::open(&config.queue.directory.join(HISTORY_FILE), now);
        warnings.extend(history_warning);
        let accounts = accounts
            .with_memory(memory)
            .with_containment(Arc::clone(&containment));
        let (tls, accounts) = (Arc::new(tls), Arc::new(accounts));
        let listeners = listen(&config, bound, &[])?;

        let (trace_key, trace_warnings) = trace_key(&config, None);
        warnings.extend(trace_warnings);
        let generation = generation(&config, &accounts, &tls, &limiter, trace_key.as_ref());
        let audit = Audit::new(hooks.observers);
        audit.apply(config.log);
        let tripwires = config.queue.directory.join(TRIPWIRES_FILE);
        let (tripwires, tripwires_warning) = Tripwires::open(&tripwires, now);
        warnings.extend(tripwires_warning);
        let seen = (history, tripwires, alerts);
        let services = Services::new(generation, spool, audit, Arc::new(guard), containment, seen);
        services.note_untidy(!is_tidy);
        let waiting = take_up(
            &services.generation.load().policy,
            &services.spool.directory(),
        );
        waiting.map_err(|error| vec![Finding::from(&error)])?;
        for listener in &listeners {
            listener.start(&services);
        }
        let watch = Watch::new(config.files());
        let socket = config.queue.directory.join(SOCKET);
        let mut control = ControlSocket::bind(&socket)
            .map_err(|error| warnings.push(no_control(&socket, &error)))
            .ok();
        let asked = match &mut control {
            Some(control) => control.start(&services),
            None => mpsc::channel(1).1,
        };
        let daemon = Self {
            config,
            services,
            listeners,
            accounts,
            tls,
            limiter,
            log,
            trace_key,
            sandbox,
            user,
            watch,
            ticks: 0,
            certificates_checked: now.instant,
            started: now.wall,
            control,
            releasing: None,
        };
        warn_all(&warnings);
        report_recovery(&recovered);
        daemon.report_ready(&recovered);
        notify(&[NotifyState::Ready]);
        if let Some(ready) = hooks.ready {
            ready(&daemon.listening());
        }
        Ok((daemon, asked))
    }

    fn listening(&self) -> Vec<Listen> {
        let real = |listener: &Listener| Listen {
            address: listener.local_address(),
            ..listener.listen()
        };
        self.listeners.iter().map(real).collect()
    }

    /// Where it listens, for the log.
    fn listening_words(&self) -> String {
        let words = |listen: &Listen| {
            let proxy = if listen.proxy_protocol { "/proxy" } else { "" };
            format!("{}/{}{proxy}", listen.address, listen.tls.name())
        };
        let listening: Vec<_> = self.listening().iter().map(words).collect();
        listening.join(",")
    }

    fn report_ready(&self, recovered: &Recovered) {
        tracing::info!(
            event = "ready",
            version = env!("CARGO_PKG_VERSION"),
            hostname = self.config.profile.hostname,
            listeners = self.listening_words(),
            accounts = self.accounts.summary().accounts as u64,
            certificates = self.config.tls.certificates.len() as u64,
            queue = self.config.queue.directory.display().to_string(),
            queued = recovered.queued,
            replayed = recovered.replayed,
            held = recovered.held,
            contained = self.services.containment.list().len() as u64,
            user = self.user,
            sandbox = self.sandbox.in_words(),
        );
    }

    fn warn_about_certificates(&self, now: Now) {
        let addresses: Vec<_> = self
            .config
            .listen
            .iter()
            .map(|listen| listen.address)
            .collect();
        warn_all(
            &self
                .tls
                .findings(&self.config.profile.hostname, &addresses, now),
        );
    }

    /// SIGHUP: everything is read anew.
    async fn reload(&mut self) {
        notify(&[NotifyState::Reloading]);
        if let Err(findings) = self.try_reload() {
            self.reload_failed("configuration", findings);
        }
        notify(&[NotifyState::Ready]);
    }

    fn try_reload(&mut self) -> Result<(), Vec<Finding>> {
        let Loaded {
            config,
            mut warnings,
        } = config::load(&self.config.path)?;
        if config.queue.directory != self.config.queue.directory {
            let finding = Finding::error("queue.directory cannot change while gatepost runs");
            return Err(vec![
                finding
                    .in_file(&config.path)
                    .hint("restart gatepost to use another queue directory"),
            ]);
        }
        if config.process != self.config.process {
            let finding =
                Finding::error("user, group and sandbox cannot change while gatepost runs");
            return Err(vec![
                finding
                    .in_file(&config.path)
                    .hint("restart gatepost for this change"),
            ]);
        }
        let outside = self.sandbox.outside(&config.needs());
        if !outside.is_empty() {
            return Err(outside);
        }
        let tls = Arc::new(Tls::load(&config.tls)?);
        let added = bind(&config, &self.listeners)?;
        let added = listen(&config, added, &self.listeners)?;
        // The store goes on: sessions look their accounts up there, and its memory budget is one. It comes last of what
        // can fail, since it takes the new accounts at once.
        let (_, account_warnings) = self.accounts.reconfigure(&config.accounts)?;
        warnings.extend(account_warnings);

        if (&config.alert.command, config.alert.timeout)
            != (&self.config.alert.command, self.config.alert.timeout)
        {
            let text = "alert.command or alert.timeout has changed: it stays as it was until gatepost is restarted";
            warnings.push(Finding::warning(text).in_file(&config.path));
        }

        // Nothing below can fail.
        let (trace_key, trace_warnings) = trace_key(&config, self.trace_key.take());
        warnings.extend(trace_warnings);
        self.trace_key = trace_key;
        self.services.generation.store(Arc::new(generation(
            &config,
            &self.accounts,
            &tls,
            &self.limiter,
            self.trace_key.as_ref(),
        )));
        self.services.spool.apply(&config.queue);
        self.limiter.backlog().wake_all();
        self.services.guard.apply(config.guessing.clone());
        self.log.apply(config.log);
        self.services.audit.apply(config.log);
        self.listeners
            .retain(|listener| config.listen.contains(&listener.listen()));
        for listener in added {
            listener.start(&self.services);
            self.listeners.push(listener);
        }
        self.watch = Watch::new(config.files());
        (self.config, self.tls) = (config, tls);
        warn_all(&warnings);
        self.warn_about_certificates(Now::read());
        tracing::info!(
            event = "reload",
            what = "configuration",
            accounts = self.accounts.summary().accounts as u64,
            listeners = self.listening_words(),
        );
        Ok(())
    }

    /// Once a second: looks whether files have changed and whether the time of held messages has come, and now and then
    /// saves the limits and looks at certificates.
    async fn tick(&mut self) {
        self.ticks += 1;
        report_queue(&self.services.spool);
        self.services.audit.sum_up(Now::read(), false);
        self.release_due();
        if self.services.is_untold_due() {
            let services = Arc::clone(&self.services);
            self.services
                .spawn(async move { services.mail_untold(false).await });
        }
        self.accounts.refresh_keys(Now::read());
        let changed = self.watch.changed().await;
        let of_accounts = self.config.files_of_accounts();
        if changed.iter().any(|path| of_accounts.contains(path)) {
            self.reload_accounts().await;
        }
        let of_certificate = |path: &PathBuf| !of_accounts.contains(path);
        if changed.iter().any(of_certificate) {
            self.reload_certificates().await;
        }
        if self.ticks.is_multiple_of(SAVE_EVERY_TICKS) {
            self.save().await;
        }
        if self.ticks.is_multiple_of(SAVE_GUESSING_EVERY_TICKS) {
            let guard = Arc::clone(&self.services.guard);
            blocking(move || save_guard(&guard)).await;
        }
        if self.ticks.is_multiple_of(SAVE_HISTORY_EVERY_TICKS) {
            let services = Arc::clone(&self.services);
            blocking(move || save_services(&services)).await;
        }
        let now = Now::read();
        if now
            .instant
            .saturating_duration_since(self.certificates_checked)
            >= CERTIFICATE_INTERVAL
        {
            self.certificates_checked = now.instant;
            self.warn_about_certificates(now);
        }
    }

    /// Begins to release messages whose time or turn has come; one round at a time, beside everything else.
    fn release_due(&mut self) {
        let is_busy = self
            .releasing
            .as_ref()
            .is_some_and(|round| !round.is_finished());
        let now = Now::read();
        let (services, accounts) = (Arc::clone(&self.services), Arc::clone(&self.accounts));
        let is_time = services.spool.is_release_due(now.wall);
        let is_turn = self.limiter.backlog().is_due(now.wall);
        if is_busy || !(is_time || is_turn) {
            return;
        }
        let round = move || {
            if is_time {
                let released = services.spool.release_due(now.wall);
                released.iter().for_each(report_released);
            }
            if is_turn {
                let release = Release {
                    spool: &services.spool,
                    policy: &services.generation.load().policy,
                    containment: &services.containment,
                    account: &|name| accounts.named(name),
                };
                release.run(now).iter().for_each(report_released);
            }
        };
        self.releasing = Some(tokio::task::spawn_blocking(round));
    }

    async fn save(&self) {
        let (limiter, accounts) = (Arc::clone(&self.limiter), Arc::clone(&self.accounts));
        blocking(move || save(&limiter, &accounts)).await;
    }

    async fn reload_accounts(&self) {
        let accounts = Arc::clone(&self.accounts);
        match blocking(move || accounts.reload()).await {
            Some(Ok((_, warnings))) => {
                self.limiter.backlog().wake_all();
                warn_all(&warnings);
                tracing::info!(
                    event = "reload",
                    what = "accounts",
                    accounts = self.accounts.summary().accounts as u64
                );
            }
            Some(Err(findings)) => self.reload_failed("accounts", findings),
            None => {}
        }
    }

    async fn reload_certificates(&self) {
        let (tls, settings) = (Arc::clone(&self.tls), self.config.tls.clone());
        match blocking(move || tls.reload(&settings)).await {
            Some(Ok(_)) => {
                self.warn_about_certificates(Now::read());
                let certificates = self.config.tls.certificates.len() as u64;
                tracing::info!(event = "reload", what = "certificates", certificates);
            }
            Some(Err(findings)) => self.reload_failed("certificates", findings),
            None => {}
        }
    }

    fn reload_failed(&self, what: &str, mut findings: Vec<Finding>) {
        // A link that leads to another place by now looks like a file without the right to read it.
        for outside in self.sandbox.outside(&self.config.needs()) {
            if !findings.contains(&outside) {
                findings.push(outside);
            }
        }
        for finding in findings {
            tracing::error!(
                event = "reload.failed",
                what,
                error = finding.one_line(),
                in_force = "the old state"
            );
        }
    }

    /// Answers an operator's command: at once, or when what it wants is done, beside everything else.
    fn answer(&self, Asked { request, answer }: Asked) {
        // Who asked may have gone.
        match request {
            Request::Bans => {
                let _ = answer.send(done(Ok(self.services.guard.bans(Now::read()))));
            }
            Request::LiftBans { of } => {
                let _ = answer.send(self.lift_bans(&of));
            }
            Request::Contain {
                account,
                credential,
            } => {
                let login = Login::new(account, credential);
                let cause = Cause::new(By::Operator, "by command", Now::read());
                let services = Arc::clone(&self.services);
                self.services.spawn(async move {
                    let _ = answer.send(done(services.contain(login, cause).await));
                });
            }
            Request::Contained => {
                let _ = answer.send(done(Ok(self.contained())));
            }
            Request::Status => {
                let _ = answer.send(Answer::Done(self.status()));
            }
            Request::TestAlert => {
                let services = Arc::clone(&self.services);
                self.services.spawn(async move {
                    let _ = answer.send(done(Ok(services.test_alert().await)));
                });
            }
            Request::Uncontain {
                account,
                credential,
                held,
            } => {
                let login = Login::new(account, credential);
                let services = Arc::clone(&self.services);
                self.services.spawn(async move {
                    let _ = answer.send(done(services.uncontain(login, held).await));
                });
            }
        }
    }

    fn contained(&self) -> Vec<ContainedLogin> {
        let contained = self.services.containment.list();
        let shown = contained.iter();
        shown
            .map(|(login, cause)| contained_login(login, cause))
            .collect()
    }

    fn status(&self) -> Value {
        let guessing = self.services.guard.summary(Now::read());
        let over_limit = self.limiter.backlog().summary(Now::read().wall);
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "process": std::process::id(),
            "started": rfc3339_milliseconds(self.started),
            "hostname": self.config.profile.hostname,
            "listeners": self.listening_words(),
            "connections": self.services.connections(),
            "contained": self.services.containment.list().len(),
            "tripwires": self.config.tripwires.mode.0.name(),
            "accounts": self.accounts.summary().accounts,
            "queue": self.config.queue.directory.display().to_string(),
            "over_limit": over_limit.messages,
            "over_limit_accounts": over_limit.accounts,
            "over_limit_next": over_limit.next.map(rfc3339_milliseconds),
            "guessing": guessing.mode.name(),
            "bans": guessing.bans,
            "known_logins": guessing.known,
            "shared_address": guessing.shared,
            "user": self.user,
            "sandbox": self.sandbox.in_words(),
        })
    }

    fn lift_bans(&self, of: &str) -> Answer {
        let wanted: Lift = match of.parse() {
            Ok(wanted) => wanted,
            Err(error) => return Answer::Failed(format!("\"{}\" is {error}", of.escape_debug())),
        };
        let lifted = self.services.guard.lift(&wanted, Now::read());
        for ban in &lifted {
            let (network, account) = (ban.network.as_str(), ban.account.as_deref());
            tracing::info!(event = "ban.lifted", scope = ban.kind, network, account);
        }
        Answer::Done(serde_json::to_value(lifted).unwrap_or_default())
    }

    async fn stop(self) {
        let begun = Now::read();
        notify(&[NotifyState::Stopping]);
        let connections = self.services.connections() as u64;
        tracing::info!(event = "stopping", connections);
        drop(self.listeners);
        drop(self.control);
        self.services.stop().await;
        self.services.mail_untold(true).await;
        if let Some(round) = self.releasing {
            // A panic has been reported by the runtime.
            let _ = round.await;
        }
        let services = Arc::clone(&self.services);
        blocking(move || services.spool.close()).await;
        report_queue(&self.services.spool);
        self.services.audit.sum_up(Now::read(), true);
        let (limiter, accounts, services) = (self.limiter, self.accounts, self.services);
        blocking(move || {
            save(&limiter, &accounts);
            save_guard(&services.guard);
            save_services(&services);
        })
        .await;
        let seconds = Now::read()
            .instant
            .saturating_duration_since(begun.instant)
            .as_secs();
        tracing::info!(event = "stopped", seconds);
    }
}

/// Runs what may block on a thread of its own; `None` if it panicked, which the runtime has reported.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn save(limiter: &Limiter, accounts: &Accounts) {
    if let Err(error) = limiter.save() {
        tracing::warn!(event = "limits.unsaved", error = error.to_string());
    }
    if let Err(error) = accounts.save_memory() {
        tracing::warn!(event = "logins.unsaved", error = error.to_string());
    }
}

fn save_guard(guard: &Guard) {
    if let Err(error) = guard.save(Now::read()) {
        tracing::warn!(event = "guessing.unsaved", error = error.to_string());
    }
}

fn save_services(services: &Services) {
    if let Err(error) = services.history.save(Now::read()) {
        tracing::warn!(event = "history.unsaved", error = error.to_string());
    }
    if let Err(error) = services.tripwires.save(Now::read()) {
        tracing::warn!(event = "tripwires.unsaved", error = error.to_string());
    }
    // Saved at once, always; this is for what could not be.
    if let Err(error) = services.containment.save() {
        tracing::error!(event = "containment.trouble", error = error.to_string());
    }
    services.put_away_again();
}

/// What a command hears of its work.
fn done(result: Result<impl Serialize, Trouble>) -> Answer {
    match result.map(serde_json::to_value) {
        Ok(Ok(value)) => Answer::Done(value),
        Ok(Err(error)) => Answer::Failed(error.to_string()),
        Err(trouble) => Answer::Failed(trouble.to_string()),
    }
}

fn generation(
    config: &Config,
    accounts: &Arc<Accounts>,
    tls: &Arc<Tls>,
    limiter: &Arc<Limiter>,
    trace_key: Option<&Arc<TraceKey>>,
) -> Generation {
    Generation {
        profile: Arc::new(Profile {
            trace_key: trace_key.filter(|_| config.trace_token).cloned(),
            ..config.profile.clone()
        }),
        limits: config.server,
        proxies: config.proxies.clone(),
        tls: Arc::clone(tls),
        accounts: Arc::clone(accounts) as _,
        policy: Arc::new(Policy::new(config.policy.clone(), Arc::clone(limiter))),
        tripwires: config.tripwires.clone(),
        alert_mail: config.alert.mail.clone(),
    }
}

/// The key of trace tokens, where there are any: the one that is known, or that of the queue directory.
fn trace_key(
    config: &Config,
    known: Option<Arc<TraceKey>>,
) -> (Option<Arc<TraceKey>>, Vec<Finding>) {
    if known.is_some() || !config.trace_token || config.profile.reveal_client {
        return (known, Vec::new());
    }
    let (key, warnings) = trace::open(&config.queue.directory.join(TRACE_FILE));
    (key.map(Arc::new), warnings)
}

/// Binds what the configuration names and `listeners` do not have yet. All or nothing.
fn bind(config: &Config, listeners: &[Listener]) -> Result<Vec<Bound>, Vec<Finding>> {
    let is_new = |listen: &&Listen| !listeners.iter().any(|one| one.listen() == **listen);
    let new = config.listen.iter().filter(is_new);
    all_bound(config, new.map(|listen| Bound::new(*listen)), listeners)
}

/// Listens where that is bound. All or nothing.
fn listen(
    config: &Config,
    bound: Vec<Bound>,
    listeners: &[Listener],
) -> Result<Vec<Listener>, Vec<Finding>> {
    all_bound(config, bound.into_iter().map(Bound::listen), listeners)
}

fn all_bound<T>(
    config: &Config,
    attempts: impl Iterator<Item = Result<T, BindError>>,
    listeners: &[Listener],
) -> Result<Vec<T>, Vec<Finding>> {
    let (mut bound, mut findings) = (Vec::new(), Vec::new());
    for attempt in attempts {
        match attempt {
            Ok(one) => bound.push(one),
            Err(error) => findings.push(bind_finding(config, &error, listeners)),
        }
    }
    if findings.is_empty() {
        Ok(bound)
    } else {
        Err(findings)
    }
}

fn bind_finding(config: &Config, error: &BindError, bound: &[Listener]) -> Finding {
    let mut listen = config.listen.iter().zip(&config.origins.listen);
    let named = match listen.find(|(listen, _)| **listen == error.listen) {
        Some((_, origin)) => format!(", named at {origin}"),
        None => String::new(),
    };
    // A reload that changes how TLS begins on a port, whether PROXY headers do, or from one address to all: the old
    // listener, which lives until the new one does, is in the way.
    let in_our_own_way = error.error.kind() == io::ErrorKind::AddrInUse
        && bound
            .iter()
            .any(|listener| listener.local_address().port() == error.listen.address.port());
    let hint = match error.error.kind() {
        _ if in_our_own_way => {
            "gatepost itself listens on this port, as it did before: restart it for this change"
        }
        io::ErrorKind::PermissionDenied if config.process.user.is_some() => {
            "ports below 1024 are bound by root at the start, or never: start gatepost as root, or restart it"
        }
        _ => error.hint(),
    };
    Finding::error(format!("{error} (listen.address{named})"))
        .in_file(&config.path)
        .hint(hint)
}

fn warn_all(findings: &[Finding]) {
    for finding in findings {
        tracing::warn!(event = "warning", finding = finding.one_line());
    }
}

fn report_recovery(recovered: &Recovered) {
    for finding in &recovered.findings {
        match finding.severity {
            Severity::Warning => tracing::warn!(event = "recovered", finding = finding.one_line()),
            Severity::Error => tracing::error!(event = "recovered", finding = finding.one_line()),
        }
    }
}

/// What the queue has to say of itself.
fn report_queue(spool: &Spool) {
    for event in spool.take_events() {
        match event {
            SpoolEvent::Trouble { part, reason } => {
                tracing::error!(event = "queue.trouble", part, reason);
            }
            SpoolEvent::Recovered { part } => tracing::warn!(event = "queue.recovered", part),
        }
    }
}

fn report_released(released: &Released) {
    tracing::info!(
        event = "message.released",
        account = released.account,
        id = released.id.as_str(),
        from = released.from,
        reason = released.reason.as_str(),
        until = released.until.map(rfc3339_milliseconds),
    );
}

fn no_control(path: &Path, error: &io::Error) -> Finding {
    let finding = Finding::warning(format!("cannot take the operator's commands: {error}"));
    finding
        .in_file(path)
        .hint("everything else works; the path of a socket may have 107 octets")
}

/// Tells systemd, if it is there.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(
            event = "warning",
            finding = format!("cannot notify systemd: {error}")
        );
    }
}

/// Raises the soft limit of descriptors to the hard one, and says so if even that is too low.
fn raise_descriptor_limit(connections: usize) -> Option<Finding> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let needed = connections as u64 + DESCRIPTORS_BESIDE;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() && soft < needed {
        return Some(too_few_descriptors(soft, needed));
    }
    (hard < needed).then(|| too_few_descriptors(hard, needed))
}

fn too_few_descriptors(allowed: u64, needed: u64) -> Finding {
    Finding::warning(format!(
        "only {allowed} file descriptors allowed, limits.connections needs {needed}"
    ))
    .hint("raise LimitNOFILE in the systemd unit (or ulimit -n), or lower limits.connections")
}

/// What tells one state of a file from another.
type Fingerprint = Option<(u64, u64, i64, i64)>;

/// Notices changes of files.
struct Watch {
    files: Vec<PathBuf>,
    /// What each file was when it was last read.
    known: HashMap<PathBuf, Fingerprint>,
    /// What each file was at the last look.
    seen: HashMap<PathBuf, Fingerprint>,
}

impl Watch {
    fn new(files: Vec<PathBuf>) -> Self {
        let known = fingerprints(&files);
        Self {
            files,
            seen: known.clone(),
            known,
        }
    }

    /// The files that have changed and been left alone since the last look.
    async fn changed(&mut self) -> Vec<PathBuf> {
        let files = self.files.clone();
        let Some(current) = blocking(move || fingerprints(&files)).await else {
            return Vec::new();
        };
        let settled = |path: &&PathBuf| {
            current[*path] != self.known[*path] && current[*path] == self.seen[*path]
        };
        let changed: Vec<PathBuf> = self.files.iter().filter(settled).cloned().collect();
        for path in &changed {
            self.known.insert(path.clone(), current[path]);
        }
        self.seen = current;
        changed
    }
}

fn fingerprints(files: &[PathBuf]) -> HashMap<PathBuf, Fingerprint> {
    let of = |path: &PathBuf| -> io::Result<_> {
        let metadata = fs::metadata(path)?;
        Ok((
            metadata.ino(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        ))
    };
    files
        .iter()
        .map(|path| (path.clone(), of(path).ok()))
        .collect()
}
