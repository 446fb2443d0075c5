//! `gatepost alert`: tries out what tells the operator.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

use super::account::printable;
use super::control::ask;
use super::{Failure, print};
use crate::control::{AlertReport, Request};
use crate::diagnostic::Finding;

/// Try out what tells you of an incident
///
/// An alert goes out by itself when a trip wire contains an account (`[alert]` in the configuration).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Have the running gatepost tell you, as of an incident, that there is none
    ///
    /// `alert.command` is run, and a mail to `alert.to` is put into the queue. Status 1 if one of them fails, or if
    /// neither is configured.
    Test {
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(config: &Path, args: Args) -> Result<ExitCode, Failure> {
    let Command::Test { json } = args.command;
    let config = crate::config::load(config)?.config;
    let answer = ask(&config.queue.directory, &Request::TestAlert)?;
    let Some(answer) = answer else {
        return Err(Finding::error("gatepost is not running")
            .hint("it is the daemon that tells of incidents: start it first")
            .into());
    };
    let report: AlertReport = serde_json::from_value(answer.clone()).map_err(|error| {
        Finding::error(format!("the daemon's answer cannot be understood: {error}"))
            .hint("is it of another version?")
    })?;
    if json {
        print(format_args!("{answer:#}"));
    } else {
        for line in lines(&report) {
            print(line);
        }
    }
    let AlertReport { command, mail } = report;
    let errors = [
        command.as_ref().map(|command| &command.error),
        mail.as_ref().map(|mail| &mail.error),
    ];
    let mut errors = errors.into_iter().flatten().peekable();
    let is_anybody_told = errors.peek().is_some();
    Ok(match is_anybody_told && errors.all(Option::is_none) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn lines(AlertReport { command, mail }: &AlertReport) -> Vec<String> {
    let command = match command.as_ref().map(|command| &command.error) {
        None => "none".to_owned(),
        Some(None) => "was run".to_owned(),
        Some(Some(error)) => format!("failed: {}", printable(error)),
    };
    let mail = match mail {
        None => "to nobody".to_owned(),
        Some(mail) => {
            let to = printable(&mail.to.join(", "));
            match (&mail.id, &mail.error) {
                (_, Some(error)) => format!("to {to} failed: {}", printable(error)),
                (id, None) => format!(
                    "to {to} queued as {}",
                    printable(id.as_deref().unwrap_or_default())
                ),
            }
        }
    };
    vec![format!("command  {command}"), format!("mail     {mail}")]
}
