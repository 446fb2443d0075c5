//! stub
use std::path::Path;
use std::process::ExitCode;

use super::Failure;

/// stub
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_config: &Path, _args: Args) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
