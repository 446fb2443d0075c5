//! The command line: what each command takes, what it prints, how it exits.
//!
//! Exit status: 0 done, 1 it failed or found errors, 2 wrong usage. One file per command.

use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::diagnostic::Finding;

mod account;
mod alert;
mod alert_helper;
mod ban;
mod check;
mod contain;
mod control;
mod explain;
mod queue;
mod serve;
mod status;
mod trace;
mod try_out;

pub use account::import_line;
pub use trace::trace_tokens;

/// An authenticated mail submission server: one safe door for outgoing mail.
#[derive(Debug, Parser)]
#[command(
    name = "gatepost",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "New here? `gatepost try` serves on loopback at once, with nothing to configure."
)]
struct Cli {
    /// The configuration file
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "GATEPOST_CONFIG",
        default_value = "/etc/gatepost/gatepost.toml"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Try(try_out::Args),
    Serve(serve::Args),
    Check(check::Args),
    Account(account::Args),
    Alert(alert::Args),
    Ban(ban::Args),
    Queue(queue::Args),
    Explain(explain::Args),
    Contain(contain::Args),
    Uncontain(contain::UndoArgs),
    Status(status::Args),
    Trace(trace::Args),
    #[command(hide = true)]
    AlertHelper(alert_helper::Args),
}

/// Why a command failed: findings to print, one or many.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Vec<Finding>);

impl From<Finding> for Failure {
    fn from(finding: Finding) -> Self {
        Self(vec![finding])
    }
}

impl From<Vec<Finding>> for Failure {
    fn from(findings: Vec<Finding>) -> Self {
        Self(findings)
    }
}

/// Parses the process's arguments, runs the command, and gives its exit status.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Try(args) => try_out::run(&args),
        Command::Serve(args) => serve::run(&cli.config, &args),
        Command::Check(args) => check::run(&cli.config, args),
        Command::Account(args) => account::run(&cli.config, args),
        Command::Alert(args) => alert::run(&cli.config, args),
        Command::Ban(args) => ban::run(&cli.config, args),
        Command::Queue(args) => queue::run(&cli.config, args),
        Command::Explain(args) => explain::run(&cli.config, args),
        Command::Contain(args) => contain::run(&cli.config, args),
        Command::Uncontain(args) => contain::undo(&cli.config, args),
        Command::Status(args) => status::run(&cli.config, &args),
        Command::AlertHelper(args) => alert_helper::run(args),
        Command::Trace(args) => trace::run(&cli.config, &args),
    };
    match result {
        Ok(code) => code,
        Err(Failure(findings)) => {
            for finding in findings {
                say(&finding);
            }
            ExitCode::FAILURE
        }
    }
}

/// Prints a line of a command's result to standard output. A reader that went away ends the process quietly, as it
/// does for every tool in a pipe.
pub(crate) fn print(line: impl Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}

/// Prints a line about the work itself (a finding, a prompt's context) to standard error.
pub(crate) fn say(line: impl Display) {
    // Nobody is left to hear that nobody listens.
    let _ = writeln!(std::io::stderr(), "{line}");
}
