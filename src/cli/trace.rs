//! `gatepost trace`: who sent a message.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::{Failure, print};
use crate::clock::{Timestamp, rfc3339_milliseconds};
use crate::diagnostic::Finding;
use crate::envelope::MessageId;
use crate::message::token::{Sender, TokenError, TraceKey};
use crate::queue::QueueDirectory;
use crate::trace::{TRACE_FILE, read};

/// Octets of a message in which its Received fields are looked for.
const HEADER_BYTES_MAX: u64 = 1 << 20;
/// Tokens in one message that are looked at.
const TOKENS_MAX: usize = 100;

/// Show who sent a message: the account, its address and the time
///
/// Messages do not tell where they were written. In place of that, their Received field has a token, `(trace ...)`,
/// that only this gatepost can read. Give the token, or a file with the message or its header section (- for standard
/// input), or the ID of a message that is still in the queue. A token that was not made here is refused.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A token, a message's ID, or a file
    #[arg(value_name = "TOKEN|ID|FILE")]
    what: String,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(config: &Path, args: &Args) -> Result<ExitCode, Failure> {
    let config = crate::config::load(config)?.config;
    let directory = &config.queue.directory;
    let (id, sender) = match args.what.parse::<MessageId>() {
        Ok(id) => queued(directory, id)?,
        Err(_) => {
            let key = read(&directory.join(TRACE_FILE))?;
            find(&key, &args.what)?
        }
    };
    let time = Timestamp::from_millisecond(id.milliseconds()).unwrap_or_default();
    let time = rfc3339_milliseconds(time);
    let Sender {
        address,
        port,
        account,
        credential,
    } = sender;
    if args.json {
        let object = json!({
            "id": id.as_str(),
            "time": time,
            "account": account,
            "credential": credential,
            "address": address,
            "port": port,
        });
        print(format_args!("{object:#}"));
    } else {
        print(format_args!("id          {id}"));
        print(format_args!("time        {time}"));
        print(format_args!("account     {account}"));
        if let Some(credential) = credential {
            print(format_args!("credential  {credential}"));
        }
        print(format_args!("address     {address} port {port}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Who sent a message that is in the queue.
fn queued(directory: &Path, id: MessageId) -> Result<(MessageId, Sender), Failure> {
    let entry = QueueDirectory::open(directory)
        .and_then(|queue| queue.find(&id))
        .map_err(|error| {
            Finding::from(&error).hint(format!(
                "for a message that has left, give its token, from its Received field, or look for id={id} in the log"
            ))
        })?;
    let envelope = entry.envelope.map_err(Finding::error)?;
    if envelope.is_own() {
        return Err(
            Finding::error("gatepost itself has written this message: nobody sent it").into(),
        );
    }
    let client = envelope.client;
    let sender = Sender {
        address: client.address,
        port: client.port,
        account: envelope.account,
        credential: envelope.credential,
    };
    Ok((id, sender))
}

/// Who is in a token, or in one of a message's.
fn find(key: &TraceKey, what: &str) -> Result<(MessageId, Sender), Failure> {
    match key.open(what) {
        Ok(found) => return Ok(found),
        Err(TokenError::Forged) => {
            return Err(Finding::error(TokenError::Forged.to_string()).into());
        }
        Err(TokenError::Malformed) => {}
    }
    let tokens = match what {
        "-" => trace_tokens(io::stdin().lock()),
        path => File::open(path).and_then(trace_tokens),
    };
    let tokens = tokens.map_err(|error| {
        Finding::error(format!("neither a token, nor an ID, nor a file: {error}"))
            .in_file(Path::new(what))
    })?;
    if tokens.is_empty() {
        return Err(Finding::error("no Received field in this message has a trace token")
            .in_file(Path::new(what))
            .hint("gatepost puts it there unless message.trace_token is false or message.reveal_client is true")
            .into());
    }
    let found = tokens.iter().find_map(|(id, token)| {
        let (sealed_id, sender) = key.open(token).ok()?;
        (id.as_deref() == Some(sealed_id.as_str())).then_some((sealed_id, sender))
    });
    found.ok_or_else(|| {
        Finding::error("no trace token in this message was made here, for this message")
            .in_file(Path::new(what))
            .into()
    })
}

/// The trace tokens in the Received fields of a message, each with the id that stands in front of it.
pub fn trace_tokens(message: impl Read) -> io::Result<Vec<(Option<String>, String)>> {
    let mut octets = Vec::new();
    message.take(HEADER_BYTES_MAX).read_to_end(&mut octets)?;
    let text = String::from_utf8_lossy(&octets).replace("\r\n", "\n");
    let header = text.split("\n\n").next().unwrap_or_default();
    let unfolded = header.replace("\n\t", " ").replace("\n ", " ");
    let received = unfolded.lines().filter(|line| {
        line.get(..9)
            .is_some_and(|name| name.eq_ignore_ascii_case("received:"))
    });
    let tokens = received.filter_map(|field| {
        let (before, after) = field.split_once("(trace ")?;
        let (token, _) = after.split_once(')')?;
        let id = before.split_ascii_whitespace().next_back();
        Some((id.map(str::to_owned), token.trim().to_owned()))
    });
    Ok(tokens.take(TOKENS_MAX).collect())
}
