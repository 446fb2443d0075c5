//! `gatepost status`: how a running daemon is.

use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use super::control::ask;
use super::{Failure, print};
use crate::control::Request;
use crate::diagnostic::Finding;

/// Ask the running gatepost how it is
///
/// Its version, since when it runs, where it listens, how many clients are connected. Status 1 if none is running on
/// the configured queue directory.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(config: &Path, args: &Args) -> Result<ExitCode, Failure> {
    let config = crate::config::load(config)?.config;
    let directory = &config.queue.directory;
    let Some(status) = ask(directory, &Request::Status)? else {
        return Err(Finding::error("gatepost is not running")
            .in_file(directory)
            .hint("`gatepost serve` starts it; `gatepost check` says whether it would")
            .into());
    };
    if args.json {
        print(format_args!("{status:#}"));
    } else if let Value::Object(fields) = status {
        let width = fields.keys().map(String::len).max().unwrap_or(0);
        for (name, value) in &fields {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            print(format_args!("{name:width$}  {value}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
