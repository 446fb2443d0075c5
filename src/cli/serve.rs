//! `gatepost serve`: the daemon.

use std::path::Path;
use std::process::ExitCode;

use super::Failure;
use crate::daemon::{self, Hooks};

/// Run the server in the foreground, logging to standard error
///
/// SIGTERM lets transactions in flight end and stops; SIGHUP reads the configuration, the accounts and the certificates
/// anew without dropping a connection. Changes of the accounts file and of certificates are noticed by themselves.
/// Under systemd it tells when it is ready (Type=notify).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(config: &Path, _: &Args) -> Result<ExitCode, Failure> {
    daemon::run(config, Hooks::default())?;
    Ok(ExitCode::SUCCESS)
}
