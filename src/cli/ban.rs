//! `gatepost ban`: who is shut out for guessing passwords.

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::control::ask;
use super::{Failure, print, say};
use crate::clock::Now;
use crate::config::Config;
use crate::control::Request;
use crate::diagnostic::Finding;
use crate::guard::{GUESSING_FILE, Guard, Lift};

/// Show or lift the bans of those who guess passwords
///
/// A ban begins and ends by itself (`[guessing]` in the configuration), and outlasts a restart. Both commands ask the
/// running gatepost, and look into its queue directory when none runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the bans in force, those that end last first
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Lift bans and forget what led to them
    ///
    /// Status 1 if there was none.
    Lift {
        /// An address, a network (with all that is banned within it), or `all`
        #[arg(value_name = "ADDRESS|NETWORK|all")]
        of: String,
        /// Print the bans that were lifted, as a JSON array
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(config: &Path, args: Args) -> Result<ExitCode, Failure> {
    let config = crate::config::load(config)?.config;
    match args.command {
        Command::List { json } => {
            let bans = match ask(&config.queue.directory, &Request::Bans)? {
                Some(bans) => bans,
                None => {
                    let (guard, finding) = look_into(&config);
                    finding.iter().for_each(say);
                    to_json(guard.bans(Now::read()))?
                }
            };
            show(&bans, json);
            Ok(ExitCode::SUCCESS)
        }
        Command::Lift { of, json } => {
            let wanted: Lift = of.parse().map_err(|error| {
                Finding::error(format!("\"{}\" is {error}", of.escape_debug()))
                    .hint("as in 192.0.2.7, 192.0.2.0/24, 2001:db8::/48")
            })?;
            let request = Request::LiftBans { of: of.clone() };
            let lifted = match ask(&config.queue.directory, &request)? {
                Some(lifted) => lifted,
                None => lift(&config, &wanted)?,
            };
            let count = lifted.as_array().map_or(0, Vec::len);
            if json {
                print(format_args!("{lifted:#}"));
            } else {
                show(&lifted, false);
                let plural = if count == 1 { "" } else { "s" };
                say(format_args!("lifted {count} ban{plural}"));
            }
            Ok(match count > 0 || wanted == Lift::All {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            })
        }
    }
}

fn look_into(config: &Config) -> (Guard, Option<Finding>) {
    let file = config.queue.directory.join(GUESSING_FILE);
    Guard::look_into(&file, config.guessing.clone(), Now::read())
}

/// In the file, where nobody runs who would write it.
fn lift(config: &Config, wanted: &Lift) -> Result<Value, Failure> {
    let (guard, finding) = look_into(config);
    if let Some(finding) = finding {
        return Err(finding.into());
    }
    let lifted = guard.lift(wanted, Now::read());
    if !lifted.is_empty() {
        guard.save(Now::read()).map_err(|error| {
            let file = config.queue.directory.join(GUESSING_FILE);
            Finding::error(format!("cannot lift the bans: {error}")).in_file(&file)
        })?;
    }
    to_json(lifted)
}

fn to_json(bans: Vec<crate::guard::BanView>) -> Result<Value, Failure> {
    serde_json::to_value(bans)
        .map_err(|error| Finding::error(format!("cannot show the bans: {error}")).into())
}

fn show(bans: &Value, json: bool) {
    if json {
        print(format_args!("{bans:#}"));
        return;
    }
    for ban in bans.as_array().into_iter().flatten() {
        let text = |name: &str| ban[name].as_str().unwrap_or("-");
        let whom = match text("kind") {
            "login" => format!(" as {}", ban["account"].as_str().unwrap_or("one account")),
            _ => String::new(),
        };
        let not = match ban["enforced"].as_bool() {
            Some(false) => ", not carried out",
            _ => "",
        };
        print(format_args!(
            "{}{whom}: until {}, after {} failures{not}; {} connections turned away",
            text("network"),
            text("until"),
            ban["failures"],
            ban["refused"],
        ));
    }
}
