//! `gatepost alert-helper`: runs the alert command for a daemon that cannot start programs. `serve` starts it.

use std::process::ExitCode;
use std::time::Duration;

use super::Failure;
use crate::diagnostic::Finding;
use crate::server::alert::{AlertSettings, help};

/// Run the alert command for each incident on standard input; `serve` starts this by itself
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long the command may take, in milliseconds
    #[arg(long)]
    timeout_ms: u64,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let settings = AlertSettings {
        command: args.command,
        timeout: Duration::from_millis(args.timeout_ms),
        mail: None,
    };
    help(&settings)
        .map_err(|error| Finding::error(format!("the helper for alerts ends: {error}")))?;
    Ok(ExitCode::SUCCESS)
}
