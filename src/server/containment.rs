//! Containing somebody: no login, no session, nothing of theirs in `ready/`; and undoing it.
//!
//! The order is what counts. First it is true in memory, so that no login and no message passes any more; then live
//! sessions are told; then it is made durable; then the queue is put away. A message whose commit was under way
//! meanwhile is waited for, and put away by the connection that committed it: when the command has its answer, nothing
//! of theirs comes into `ready/` any more. What cannot be put away is tried again; and a crash in the middle leaves
//! somebody who is contained and has messages in `ready/`, which the next start puts away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::alert::Incident;
use super::{Services, over_limit};
use crate::clock::{Now, rfc3339_milliseconds};
use crate::containment::{By, Cause, Containment, Login};
use crate::control::{ContainReport, ContainedLogin, HeldMail, UncontainReport};
use crate::decision::Account;
use crate::envelope::{Envelope, MessageId};
use crate::policy::history::{History, Message};
use crate::policy::tripwire::{Deed, Mode};
use crate::queue::{Afterwards, Freed, QueueDirectory};

/// Messages are named in the log up to so many.
const LOGGED_IDS_MAX: usize = 100;
/// How long somebody who contains waits for commits that are under way.
const COMMITS_PATIENCE: Duration = Duration::from_secs(30);

/// What it takes to contain somebody, with or without a running server.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Who is contained.
    pub containment: Arc<Containment>,
    /// What was accepted lately.
    pub history: Arc<History>,
    /// Where messages are.
    pub queue: QueueDirectory,
}

/// Why it was not done, or not wholly; for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(String);

impl Parts {
    /// Contains somebody who is not logged in any more: durably, and with what is in the queue. Blocks on the disk.
    pub fn contain(&self, login: &Login, cause: Cause, now: Now) -> Result<ContainReport, Trouble> {
        let already = !self.containment.add(login, cause);
        self.make_durable(login, already, !already, now)
    }

    /// `begins`: nothing of it has been done yet.
    fn make_durable(
        &self,
        login: &Login,
        already: bool,
        begins: bool,
        now: Now,
    ) -> Result<ContainReport, Trouble> {
        let _turn = self.containment.turn();
        let shown = shown(login);
        let saved = self.containment.save();
        let mut contained = self.containment.list().into_iter();
        let cause = contained.find(|(one, _)| one == login);
        let Some((_, cause)) = cause else {
            return Err(Trouble(format!(
                "somebody has ended the containment of {shown}"
            )));
        };
        // That the file cannot be written is no reason to let messages go.
        let held = self
            .queue
            .contain(|envelope| is_theirs(login, envelope), begins);
        saved.map_err(|error| {
            Trouble(format!(
                "{shown} is contained for now, but that cannot be written, and a restart would forget it: {error}; \
                 it is tried again"
            ))
        })?;
        let held = held.map_err(|error| {
            Trouble(format!(
                "{shown} is contained, but not all of its messages could be held, and some may still be sent: \
                 {error}; it is tried again"
            ))
        })?;
        let sent = self.history.sent(&login.account, now).into_iter();
        let sent: Vec<Message> = sent
            .filter(|message| login.covers(&login.account, message.credential.as_deref()))
            .collect();
        let has_left = |message: &&Message| {
            !held.contains(&message.id) && self.queue.find(&message.id).is_err()
        };
        let left: Vec<&Message> = sent.iter().filter(has_left).collect();
        Ok(ContainReport {
            login: contained_login(login, &cause),
            already,
            sessions: 0,
            accepted: sent.len() as u64,
            recipients: sent.iter().map(|message| message.recipients).sum(),
            left: left.iter().map(|message| message.id.to_string()).collect(),
            left_recipients: left.iter().map(|message| message.recipients).sum(),
            held: held.iter().map(MessageId::to_string).collect(),
        })
    }

    /// Ends a containment. Blocks on the disk.
    pub fn uncontain(
        &self,
        login: &Login,
        held: HeldMail,
        now: Now,
    ) -> Result<(UncontainReport, Freed), Trouble> {
        let _turn = self.containment.turn();
        let shown = shown(login);
        let ended = self.containment.remove(login);
        self.containment.save().map_err(|error| {
            Trouble(format!(
                "{shown} is not contained any more, but that cannot be written, and a restart would forget it: {error}"
            ))
        })?;
        let afterwards = match held {
            HeldMail::Keep => Afterwards::Keep,
            HeldMail::Release => Afterwards::Release,
            HeldMail::Remove => Afterwards::Remove,
        };
        let is_free = |envelope: &Envelope| {
            is_theirs(login, envelope)
                && !self
                    .containment
                    .holds(&envelope.account, envelope.credential.as_deref())
        };
        let freed = self.queue.uncontain(is_free, afterwards, now.wall);
        let freed = freed.map_err(|error| {
            Trouble(format!(
                "{shown} is not contained any more, but some of its messages are still held: {error}; \
                 give the command again"
            ))
        })?;
        // Else an earlier attempt has left them.
        if ended.is_empty() && freed.ids.is_empty() {
            return Err(Trouble(format!("{shown} is not contained")));
        }
        let report = UncontainReport {
            ended: ended
                .iter()
                .map(|(login, cause)| contained_login(login, cause))
                .collect(),
            held,
            messages: freed.ids.iter().map(MessageId::to_string).collect(),
        };
        Ok((report, freed))
    }
}

impl Services {
    /// What it takes to contain somebody here.
    pub fn parts(&self) -> Parts {
        Parts {
            containment: Arc::clone(&self.containment),
            history: Arc::clone(&self.history),
            queue: self.spool.directory(),
        }
    }

    /// Contains somebody, and says so in the log.
    pub async fn contain(&self, login: Login, cause: Cause) -> Result<ContainReport, Trouble> {
        let already = !self.containment.add(&login, cause);
        let sessions = self.end_sessions(&login);
        self.complete(login, already, sessions).await
    }

    /// Tells the sessions of somebody who is contained now that they are over; how many there are. Who is in the middle of
    /// a login is not counted, and hears of it all the same.
    fn end_sessions(&self, login: &Login) -> u64 {
        let sessions = self.sessions.count(login);
        self.contained.send_replace(());
        sessions
    }

    /// What is left to do when it is true in memory.
    async fn complete(
        &self,
        login: Login,
        already: bool,
        sessions: u64,
    ) -> Result<ContainReport, Trouble> {
        let put_away = async |begins| {
            let (parts, login) = (self.parts(), login.clone());
            blocking(move || parts.make_durable(&login, already, begins, Now::read())).await
        };
        // Any that begins from now on is refused.
        let may_add = self.commits.has(&login.account);
        let mut result = put_away(!already).await;
        if may_add {
            let ended = self.commits.ended(&login.account);
            result = match tokio::time::timeout(COMMITS_PATIENCE, ended).await {
                Ok(()) => put_away(false).await,
                Err(_) => Err(Trouble(format!(
                    "{} is contained, but a message of it is still being written into the queue; it is held as soon \
                     as it is there",
                    shown(&login)
                ))),
            };
        }
        if result.is_err() {
            self.untidy.store(true, Ordering::Relaxed);
        }
        let result = result.map(|report| ContainReport { sessions, ..report });
        log(&login, &result);
        result
    }

    /// Puts away what could not be before. Blocks on the disk.
    pub fn put_away_again(&self) {
        if self.untidy.swap(false, Ordering::Relaxed) {
            self.note_untidy(!put_away(&self.containment, &self.spool.directory()));
        }
    }

    /// Whether there is something to put away yet.
    pub fn note_untidy(&self, untidy: bool) {
        self.untidy.fetch_or(untidy, Ordering::Relaxed);
    }

    /// Ends a containment, and says so in the log.
    pub async fn uncontain(
        &self,
        login: Login,
        held: HeldMail,
    ) -> Result<UncontainReport, Trouble> {
        let (parts, spool) = (self.parts(), self.spool.clone());
        let tripwires = Arc::clone(&self.tripwires);
        let policy = Arc::clone(&self.generation.load().policy);
        let work = move || {
            let (report, freed) = parts.uncontain(&login, held, Now::read())?;
            tripwires.forgive(&login.account);
            spool.expect_release(&freed);
            over_limit::expect(&policy, &freed.over_limit);
            for ended in &report.ended {
                tracing::info!(
                    event = "uncontained",
                    account = ended.account,
                    credential = ended.credential.as_deref(),
                    since = ended.since,
                    messages = report.messages.len() as u64,
                );
            }
            Ok(report)
        };
        blocking(work).await
    }

    /// Has the trip wires look at what a login does, and contains its account if it trips; whether it did.
    pub(super) fn watch(self: &Arc<Self>, login: &Account, deed: Deed<'_>, now: Now) -> bool {
        let generation = self.generation.load();
        // What the accounts file says now, also to those who came before it did.
        let account = generation.accounts.account(login);
        let account = account.as_deref().unwrap_or(login);
        let settings = &generation.tripwires;
        let Some(trip) = self.tripwires.note(settings, account, deed, now) else {
            return false;
        };
        let contains = trip.mode == Mode::On;
        let by = Login::new(trip.account.clone(), None);
        let (wire, count, allowed) = (trip.wire.name(), trip.count, trip.allowed);
        let reason = format!("tripwires.{wire} = {allowed}, and it was {count}");
        // One incident is told once, whoever trips meanwhile.
        let is_first = !contains
            || self
                .containment
                .add(&by, Cause::new(By::Tripwire, &*reason, now));
        if is_first {
            tracing::warn!(
                event = "tripwire",
                account = trip.account,
                credential = login.credential_name(),
                wire,
                count,
                allowed,
                mode = trip.mode.name(),
            );
        }
        if is_first {
            let sessions = if contains { self.end_sessions(&by) } else { 0 };
            let services = Arc::clone(self);
            let credential = login.credential_name().map(str::to_owned);
            self.spawn(async move {
                let incident = match contains {
                    true => Incident::Contained {
                        report: services
                            .complete(by, false, sessions)
                            .await
                            .map(Box::new)
                            .map_err(|error| error.to_string()),
                        trip,
                        credential,
                        reason,
                    },
                    false => Incident::Tripped {
                        trip,
                        credential,
                        reason,
                    },
                };
                services.alert(incident).await;
            });
        }
        contains
    }

    /// A message of this login was queued. One whose commit was under way when its sender was contained is held now.
    pub(super) async fn queued(&self, login: &Account, id: &MessageId, recipients: u64) {
        let credential = login.credential_name();
        self.history
            .accepted(&login.name, credential, id, recipients);
        if !self.containment.holds_login(login) {
            return;
        }
        let (queue, id) = (self.spool.directory(), id.clone());
        let account = login.name.clone();
        let containment = Arc::clone(&self.containment);
        let hold = move || {
            let _turn = containment.turn();
            let result = queue.contain_one(&id);
            if let Err(error) = &result {
                let (id, error) = (id.as_str(), error.to_string());
                tracing::error!(event = "containment.trouble", account, id, error);
            }
            result.is_ok()
        };
        // A panic has been reported by the runtime.
        let is_held = tokio::task::spawn_blocking(hold).await;
        self.note_untidy(!is_held.unwrap_or(false));
    }
}

/// Puts away what is in the queue of those who are contained, in case that a crash was faster, or the disk was in the
/// way; false if it still is, which is in the log. Blocks on the disk.
pub fn put_away(containment: &Containment, queue: &QueueDirectory) -> bool {
    let _turn = containment.turn();
    if containment.list().is_empty() {
        return true;
    }
    let is_contained =
        |envelope: &Envelope| containment.holds(&envelope.account, envelope.credential.as_deref());
    let result = queue.contain(is_contained, false);
    if let Err(error) = &result {
        tracing::error!(event = "containment.trouble", error = error.to_string());
    }
    result.is_ok()
}

fn log(login: &Login, result: &Result<ContainReport, Trouble>) {
    let (account, credential) = (login.account.as_str(), login.credential.as_deref());
    match result {
        Ok(report) => {
            let some = report.left.iter().take(LOGGED_IDS_MAX);
            let left_ids = some.map(String::as_str).collect::<Vec<_>>().join(",");
            tracing::warn!(
                event = "contained",
                account,
                credential,
                by = report.login.by,
                reason = report.login.reason,
                sessions = report.sessions,
                accepted = report.accepted,
                held = report.held.len() as u64,
                left = report.left.len() as u64,
                left_recipients = report.left_recipients,
                left_ids,
            );
        }
        Err(error) => {
            let error = error.to_string();
            tracing::error!(event = "containment.trouble", account, credential, error);
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Trouble> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(Trouble(format!("the work was cut off: {error}"))))
}

fn is_theirs(login: &Login, envelope: &Envelope) -> bool {
    login.covers(&envelope.account, envelope.credential.as_deref())
}

/// For the operator.
fn shown(login: &Login) -> String {
    match &login.credential {
        None => format!("account {}", login.account),
        Some(credential) => format!("credential {credential} of account {}", login.account),
    }
}

/// How the operator sees somebody who is contained.
pub fn contained_login(login: &Login, cause: &Cause) -> ContainedLogin {
    ContainedLogin {
        account: login.account.clone(),
        credential: login.credential.clone(),
        since: rfc3339_milliseconds(cause.since()),
        by: cause.by.as_str().to_owned(),
        reason: cause.reason.clone(),
    }
}
