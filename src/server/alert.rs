//! Tells the operator of an incident: by a command of the operator's, by mail through our own queue, or by both.
//!
//! The command is run by its arguments, never by a shell; it hears the incident as one line of JSON on its standard
//! input, and the main parts of it in its environment. It runs beside everything else, one at a time, and for a bounded
//! time: mail never waits for it. Text from a peer is nowhere among the facts. The mail, and how much of it there is at
//! most, is in [`mail`].
//!
//! The daemon cannot start programs: the sandbox sees to that. So a helper is started before the sandbox is closed, the
//! same program as another process ([`help`]). It knows the command from its own start, and takes nothing but incidents:
//! whoever takes the daemon over can raise alarms with it, and run nothing else.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use self::mail::{MailSettings, Ration};
use super::Services;
use crate::clock::Now;
use crate::containment::By;
use crate::control::{AlertReport, CommandAlert, ContainReport};
use crate::policy::tripwire::Trip;

pub mod mail;

/// How often it is looked whether one has ended.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// `[alert]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertSettings {
    /// The program and its arguments; empty: none is run.
    pub command: Vec<String>,
    /// How long it may take; then it is killed.
    pub timeout: Duration,
    /// Who gets mail, and from whom; `None`: nobody.
    pub mail: Option<MailSettings>,
}

impl Default for AlertSettings {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            timeout: Duration::from_secs(30),
            mail: None,
        }
    }
}

/// What there is to tell.
#[derive(Clone, Debug)]
pub(super) enum Incident {
    /// A trip wire has contained an account.
    Contained {
        trip: Trip,
        /// The credential of the login that tripped it.
        credential: Option<String>,
        reason: String,
        /// What was found, or why it is not complete.
        report: Result<Box<ContainReport>, String>,
    },
    /// In a dry run: it would have been.
    Tripped {
        trip: Trip,
        credential: Option<String>,
        reason: String,
    },
    /// Nothing: the operator wants to see that it works.
    Test,
}

impl Incident {
    /// Who it is about; nobody is "".
    fn account(&self) -> &str {
        match self {
            Self::Contained { trip, .. } | Self::Tripped { trip, .. } => &trip.account,
            Self::Test => "",
        }
    }

    /// What the command hears. Fields are only ever added.
    fn to_json(&self) -> Value {
        let facts = |event: &str, trip: &Trip, credential: &Option<String>, reason: &str| {
            json!({
                "event": event,
                "by": By::Tripwire.as_str(),
                "mode": trip.mode.name(),
                "account": trip.account,
                "credential": credential,
                "wire": trip.wire.name(),
                "count": trip.count,
                "allowed": trip.allowed,
                "reason": reason,
            })
        };
        match self {
            Self::Contained {
                trip,
                credential,
                reason,
                report,
            } => {
                let mut incident = facts("contained", trip, credential, reason);
                // Without a report the log has what went wrong.
                if let Ok(report) = report {
                    incident["since"] = report.login.since.as_str().into();
                    incident["sessions"] = report.sessions.into();
                    incident["accepted"] = report.accepted.into();
                    incident["held"] = report.held.len().into();
                    incident["left"] = report.left.len().into();
                    incident["left_recipients"] = report.left_recipients.into();
                }
                incident
            }
            Self::Tripped {
                trip,
                credential,
                reason,
            } => facts("tripwire", trip, credential, reason),
            Self::Test => json!({"event": "test", "reason": "gatepost alert test"}),
        }
    }
}

/// What tells the operator. The helper ends with this.
#[derive(Debug)]
pub struct Alerts {
    helper: Option<Mutex<Helper>>,
    /// Incidents wait here, and not on a thread.
    turn: Semaphore,
    /// How much mail there was lately.
    ration: Mutex<Ration>,
}

impl Default for Alerts {
    /// No command is run.
    fn default() -> Self {
        Self {
            helper: None,
            turn: Semaphore::new(1),
            ration: Mutex::default(),
        }
    }
}

#[derive(Debug)]
struct Helper {
    incidents: ChildStdin,
    results: BufReader<ChildStdout>,
}

/// What the helper says of an incident; no error: it was told.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    error: Option<String>,
}

impl Services {
    /// Tells the operator of an incident, in every way that is configured, and says in the log what became of it.
    pub(super) async fn alert(&self, incident: Incident) {
        let told = Arc::clone(&self.alerts).tell(incident.to_json());
        // Neither waits for the other: a program can hang, and so can a disk.
        tokio::join!(told, self.mail_alert(&incident));
    }

    /// The same for a test, and what became of it.
    pub async fn test_alert(&self) -> AlertReport {
        let incident = Incident::Test;
        let told = Arc::clone(&self.alerts).tell(incident.to_json());
        let (command, mail) = tokio::join!(told, self.mail_alert(&incident));
        AlertReport {
            command: command.map(|told| CommandAlert { error: told.err() }),
            mail,
        }
    }
}

impl Alerts {
    /// Starts the helper, if there is a command. This is the only place of the daemon that starts another program, and
    /// comes before the sandbox.
    pub fn start(settings: &AlertSettings) -> io::Result<Self> {
        if settings.command.is_empty() {
            return Ok(Self::default());
        }
        let mut helper = Command::new(std::env::current_exe()?)
            .args(["alert-helper", "--timeout-ms"])
            .arg(settings.timeout.as_millis().to_string())
            .arg("--")
            .args(&settings.command)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(incidents), Some(results)) = (helper.stdin.take(), helper.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let helper = Helper {
            incidents,
            results: BufReader::new(results),
        };
        Ok(Self {
            helper: Some(Mutex::new(helper)),
            ..Self::default()
        })
    }

    /// Runs the command, if there is one, to its end, and says in the log what became of it. `None`: there is none.
    async fn tell(self: Arc<Self>, incident: Value) -> Option<Result<(), String>> {
        self.helper.as_ref()?;
        let alerts = Arc::clone(&self);
        // Nobody closes it.
        let _turn = self.turn.acquire().await.ok()?;
        let work = move || {
            let account = incident["account"].as_str();
            let told = alerts.ask(&incident);
            match &told {
                Ok(()) => tracing::info!(event = "alert.sent", account),
                Err(error) => tracing::error!(event = "alert.failed", account, error),
            }
            told
        };
        let told = tokio::task::spawn_blocking(work).await;
        // A panic has been reported by the runtime.
        Some(told.unwrap_or_else(|error| Err(error.to_string())))
    }

    /// Blocks until the helper has answered.
    fn ask(&self, incident: &Value) -> Result<(), String> {
        let Some(helper) = &self.helper else {
            return Ok(());
        };
        let mut helper = helper.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |error: io::Error| format!("the helper is gone, restart gatepost: {error}");
        writeln!(helper.incidents, "{incident}").map_err(gone)?;
        let mut line = String::new();
        helper.results.read_line(&mut line).map_err(gone)?;
        let told: Told = serde_json::from_str(&line).map_err(|error| gone(error.into()))?;
        told.error.map_or(Ok(()), Err)
    }
}

/// The helper: tells of each incident that it reads from its standard input, until that ends.
pub fn help(settings: &AlertSettings) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let told = Told {
            error: run(settings, &serde_json::from_str(&line?)?).err(),
        };
        let mut answer = serde_json::to_vec(&told)?;
        answer.push(b'\n');
        let mut output = io::stdout().lock();
        output.write_all(&answer)?;
        output.flush()?;
    }
    Ok(())
}

fn run(settings: &AlertSettings, incident: &Value) -> Result<(), String> {
    let mut child = spawn(&settings.command, incident)
        .map_err(|error| format!("cannot run {:?}: {error}", settings.command[0]))?;
    if let Some(mut input) = child.stdin.take() {
        // Shorter than what a pipe takes without a reader. One that does not read it is told by its environment.
        let _ = writeln!(input, "{incident}");
    }
    let begun = Now::read().instant;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("{:?}: {status}", settings.command[0])),
            Ok(None) => {}
            Err(error) => return Err(error.to_string()),
        }
        if Now::read().instant.saturating_duration_since(begun) >= settings.timeout {
            // It may have ended in this moment.
            let _ = child.kill();
            let _ = child.wait();
            let seconds = settings.timeout.as_secs();
            return Err(format!(
                "{:?}: killed after {seconds} s",
                settings.command[0]
            ));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn spawn(command: &[String], incident: &Value) -> io::Result<Child> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let fact = |name: &str| incident[name].as_str().unwrap_or_default().to_owned();
    Command::new(program)
        .args(arguments)
        .env("GATEPOST_EVENT", fact("event"))
        .env("GATEPOST_ACCOUNT", fact("account"))
        .env("GATEPOST_REASON", fact("reason"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}
