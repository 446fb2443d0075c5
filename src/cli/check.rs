//! `gatepost check`: reads all that `serve` would read and says what is wrong with it.
//!
//! Exit status 1 if `serve` would refuse to start; warnings alone are 0. Nothing is changed, and a running daemon is
//! not disturbed.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Failure, print};
use crate::clock::Now;
use crate::config::survey::{Survey, survey};
use crate::diagnostic::{Finding, Severity};

/// Read the configuration and all that it names, and say what is wrong
///
/// Certificates and keys, accounts, and the queue directory are looked at, too. Run it as the user that gatepost runs
/// as, since it tells what that user may read. Status 1 if `serve` would refuse to start.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the findings as a JSON array
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(config: &Path, args: Args) -> Result<ExitCode, Failure> {
    let survey = survey(config, Now::read());
    if args.json {
        let findings: Vec<Value> = survey.findings.iter().map(as_json).collect();
        print(format_args!("{:#}", Value::from(findings)));
    } else {
        for finding in &survey.findings {
            print(finding);
        }
        print(last_line(&survey));
    }
    Ok(if survey.has_errors() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// `ok: 2 listeners, 1 certificate, 12 accounts`, or how much is wrong.
fn last_line(survey: &Survey) -> String {
    let errors = survey.findings.iter().filter(|one| one.is_error()).count();
    let warnings = survey.findings.len() - errors;
    let (0, Some(config), Some(tls), Some(accounts)) =
        (errors, &survey.config, &survey.tls, &survey.accounts)
    else {
        return format!("{}, {}", count(errors, "error"), count(warnings, "warning"));
    };
    let mut line = format!(
        "ok: {}, {}, {}",
        count(config.listen.len(), "listener"),
        count(tls.certificates(), "certificate"),
        count(accounts.summary().accounts, "account")
    );
    if warnings > 0 {
        line.push_str(&format!("; {}", count(warnings, "warning")));
    }
    line
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// A finding for programs. What is not known is `null`.
fn as_json(finding: &Finding) -> Value {
    let place = finding.place.as_ref();
    let spot = place.and_then(|place| place.spot.as_ref());
    json!({
        "severity": match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        "message": finding.message,
        "file": place.map(|place| place.file.to_string_lossy()),
        "line": spot.map(|spot| spot.line),
        "column": spot.map(|spot| spot.column),
        "hint": finding.hint,
    })
}
