//! `gatepost contain` and `gatepost uncontain`: stop an account that somebody else seems to use, and let it go again.
//!
//! A running daemon does it, since it alone knows who is logged in. Without one the files are changed in its place, under
//! the lock that keeps one from starting meanwhile.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::account::printable;
use super::control::ask;
use super::{Failure, print, say};
use crate::account::directory::Directory;
use crate::account::identity::prepare_name;
use crate::clock::Now;
use crate::config::Config;
use crate::containment::{By, CONTAINED_FILE, Cause, Containment, Login};
use crate::control::{ContainReport, ContainedLogin, HeldMail, Request, UncontainReport};
use crate::diagnostic::{Finding, nearest};
use crate::policy::history::{HISTORY_FILE, History, MESSAGES_MAX};
use crate::policy::tripwire::{TRIPWIRES_FILE, Tripwires};
use crate::queue::{QueueDirectory, QueueError};
use crate::server::containment::{Parts, contained_login};

/// Stop an account at once, because somebody else seems to use it
///
/// Its connections are closed, nobody can log in to it, what it has in the queue is held, and you are told what has left
/// already. It stays so, whatever is restarted, until `gatepost uncontain`. With --credential all of this is about one of
/// its credentials. Works without a running gatepost, too.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The account
    #[arg(value_name = "ACCOUNT", required_unless_present = "list")]
    account: Option<String>,
    /// One of its credentials, instead of all of it
    #[arg(long, value_name = "NAME", conflicts_with = "list")]
    credential: Option<String>,
    /// Show who is contained
    #[arg(long, conflicts_with = "account")]
    list: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Let an account go that was contained
///
/// It can log in again, and the messages that were held for it go on their way: give it a new password first, and look at
/// them with `gatepost queue list`. Those that you have held yourself stay held. Without --credential this is about
/// the account with all its credentials.
#[derive(Debug, clap::Args)]
pub(crate) struct UndoArgs {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// One of its credentials, instead of all of it
    #[arg(long, value_name = "NAME")]
    credential: Option<String>,
    /// Leave the held messages in hold/, as if you had held them
    #[arg(long, conflicts_with = "remove_held")]
    keep_held: bool,
    /// Delete the held messages for good
    #[arg(long)]
    remove_held: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(config: &Path, args: Args) -> Result<ExitCode, Failure> {
    let config = crate::config::load(config)?.config;
    match args.account {
        Some(account) => contain(&config, &account, args.credential, args.json),
        None => list(&config, args.json),
    }
}

fn contain(
    config: &Config,
    account: &str,
    credential: Option<String>,
    json: bool,
) -> Result<ExitCode, Failure> {
    let login = existing(config, account, credential)?;
    let request = Request::Contain {
        account: login.account.clone(),
        credential: login.credential.clone(),
    };
    let report = match ask(&config.queue.directory, &request)? {
        Some(value) => value,
        None => alone(config, |parts, now| {
            let cause = Cause::new(By::Operator, "by command", now);
            parts.contain(&login, cause, now)
        })?,
    };
    if json {
        print(format_args!("{report:#}"));
        return Ok(ExitCode::SUCCESS);
    }
    let ContainReport {
        login,
        already,
        sessions,
        accepted,
        recipients,
        held,
        left,
        left_recipients,
    } = read(report)?;
    let since = match already {
        true => format!("contained already, since {}", login.since),
        false => "contained".to_owned(),
    };
    print(format_args!("{}: {since}", shown(&login)));
    print(format_args!("sessions ended        {sessions}"));
    let at_least = match accepted as usize {
        MESSAGES_MAX => "the last ",
        _ => "",
    };
    print(format_args!(
        "accepted in 24 hours  {at_least}{accepted} messages to {recipients} recipients"
    ));
    print(format_args!("held now              {}", held.len()));
    print(format_args!(
        "left already          {} to {left_recipients} recipients",
        left.len()
    ));
    for id in left {
        print(format_args!("  {id}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn list(config: &Config, json: bool) -> Result<ExitCode, Failure> {
    let contained = match ask(&config.queue.directory, &Request::Contained)? {
        Some(value) => value,
        None => {
            let containment = Containment::open(&config.queue.directory.join(CONTAINED_FILE))?;
            let list = containment.list();
            let list: Vec<_> = list
                .iter()
                .map(|(login, cause)| contained_login(login, cause))
                .collect();
            value(&list)?
        }
    };
    if json {
        print(format_args!("{contained:#}"));
        return Ok(ExitCode::SUCCESS);
    }
    let contained: Vec<ContainedLogin> = read(contained)?;
    if contained.is_empty() {
        say("nobody is contained");
    }
    for login in contained {
        let ContainedLogin {
            since, by, reason, ..
        } = &login;
        let who = shown(&login);
        print(format_args!("{since}  {who}  {by}: {}", printable(reason)));
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn undo(config: &Path, args: UndoArgs) -> Result<ExitCode, Failure> {
    let config = crate::config::load(config)?.config;
    let account = prepare_name(&args.account).unwrap_or(args.account);
    let login = Login::new(account, args.credential);
    let held = match (args.keep_held, args.remove_held) {
        (true, _) => HeldMail::Keep,
        (false, true) => HeldMail::Remove,
        (false, false) => HeldMail::Release,
    };
    let request = Request::Uncontain {
        account: login.account.clone(),
        credential: login.credential.clone(),
        held,
    };
    let path = config.queue.directory.join(TRIPWIRES_FILE);
    let report = match ask(&config.queue.directory, &request)? {
        Some(value) => value,
        None => alone(&config, |parts, now| {
            // Nobody needs to hear of what waits: the daemon looks at its start.
            let (report, _) = parts.uncontain(&login, held, now)?;
            let (tripwires, warning) = Tripwires::look_into(&path, now);
            warning.iter().for_each(say);
            tripwires.forgive(&login.account);
            if let Err(error) = tripwires.save(now) {
                say(
                    Finding::warning(format!("cannot reset its trip wires: {error}"))
                        .in_file(&path),
                );
            }
            Ok(report)
        })?,
    };
    if args.json {
        print(format_args!("{report:#}"));
        return Ok(ExitCode::SUCCESS);
    }
    let report: UncontainReport = read(report)?;
    for login in &report.ended {
        print(format_args!("{}: not contained any more", shown(login)));
    }
    let done = match report.held {
        HeldMail::Keep => "stay held",
        HeldMail::Release => "released",
        HeldMail::Remove => "removed",
    };
    print(format_args!("messages {done}  {}", report.messages.len()));
    Ok(ExitCode::SUCCESS)
}

/// The login as the daemon knows it, if there is such an account with such a credential.
fn existing(config: &Config, account: &str, credential: Option<String>) -> Result<Login, Failure> {
    let file = &config.accounts.file;
    let (directory, _) = Directory::read(file, config.accounts.hash_memory_kib())?;
    let name = prepare_name(account).ok();
    let Some(record) = name.and_then(|name| directory.find(&name)) else {
        let finding = Finding::error(format!("there is no account `{}`", printable(account)));
        let names = directory.records().iter();
        let near = nearest(account, names.map(|record| &*record.account.name));
        let hint = near.map_or("gatepost account list".to_owned(), |near| {
            format!("did you mean `{near}`?")
        });
        return Err(finding.in_file(file).hint(hint).into());
    };
    let account = &record.account.name;
    if record.login(credential.as_deref()).is_none() {
        let finding = Finding::error(format!("account `{account}` has no such credential"));
        let hint = format!("gatepost account credential list {account}");
        return Err(finding.in_file(file).hint(hint).into());
    }
    Ok(Login::new(account.clone(), credential))
}

/// Does it without a daemon, and keeps one from starting meanwhile.
fn alone<T: serde::Serialize>(
    config: &Config,
    work: impl FnOnce(&Parts, Now) -> Result<T, crate::server::containment::Trouble>,
) -> Result<Value, Failure> {
    let directory = &config.queue.directory;
    let queue = QueueDirectory::open(directory).map_err(|error| Finding::from(&error))?;
    let _lock = queue.lock_out_daemon().map_err(|error| match error {
        QueueError::Locked { .. } => Finding::error(format!("gatepost does not answer: {error}"))
            .hint("it is about to start or to stop: give the command again"),
        _ => Finding::from(&error),
    })?;
    let now = Now::read();
    let containment = Containment::open(&directory.join(CONTAINED_FILE))?;
    let (history, warning) = History::look_into(&directory.join(HISTORY_FILE), now);
    warning.iter().for_each(say);
    let parts = Parts {
        containment: Arc::new(containment),
        history: Arc::new(history),
        queue,
    };
    let done = work(&parts, now).map_err(|trouble| Finding::error(trouble.to_string()))?;
    value(&done)
}

fn value(of: &impl serde::Serialize) -> Result<Value, Failure> {
    let value = serde_json::to_value(of);
    value.map_err(|error| Finding::error(format!("cannot write JSON: {error}")).into())
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| {
        let message = format!("the daemon's answer cannot be understood: {error}");
        Finding::error(message)
            .hint("is it of another version?")
            .into()
    })
}

fn shown(login: &ContainedLogin) -> String {
    match &login.credential {
        None => printable(&login.account),
        Some(credential) => format!(
            "{} (credential {})",
            printable(&login.account),
            printable(credential)
        ),
    }
}
