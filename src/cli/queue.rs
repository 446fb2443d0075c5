//! `gatepost queue`: looks after the messages in the queue directory.
//!
//! Everything shown of a message came from somebody's mail client; it is made visible first, so that no message can
//! move the cursor, change what stands above it, or write backwards on the operator's terminal.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Subcommand;
use serde::Serialize;

use crate::clock::rfc3339_milliseconds;
use crate::diagnostic::Finding;
use crate::envelope::{Envelope, HoldReason, MessageId, Recipient};
use crate::queue::{Entry, QueueDirectory, QueueError};

use super::{Failure, print, say};

/// Look after the messages in the queue
///
/// The queue holds every message that gatepost has accepted, until whoever sees mail onward has taken it. All of these
/// commands are safe to use while `gatepost serve` is running. Every message has an ID of 26 characters, which is in
/// the log and in the reply that the sender got; `gatepost queue list` shows them too.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// The queue directory, in place of the one that the configuration names
    #[arg(long, global = true, value_name = "DIR")]
    directory: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show all messages, the oldest first
    List {
        /// Print a JSON array of envelopes, each with its place, `ready` or `hold`
        #[arg(long)]
        json: bool,
    },
    /// Show one message: its envelope and its header fields
    Show {
        /// Which message
        #[arg(value_name = "ID")]
        id: MessageId,
        /// Print the envelope as JSON, with its `place` and the `header` section
        #[arg(long)]
        json: bool,
    },
    /// Withhold messages: they stay in the queue but are not sent on
    ///
    /// A message that its sender wants sent later is held until then anyway; after this it stays until you release it.
    Hold {
        /// Which messages
        #[arg(required = true, value_name = "ID")]
        ids: Vec<MessageId>,
    },
    /// Let held messages go again, also those that are held until some time
    Release {
        /// Which messages
        #[arg(required = true, value_name = "ID")]
        ids: Vec<MessageId>,
    },
    /// Delete messages for good; nobody is told, neither sender nor recipients
    Remove {
        /// Which messages
        #[arg(required = true, value_name = "ID")]
        ids: Vec<MessageId>,
    },
    /// Write one message to standard output, exactly as it is stored
    Export {
        /// Which message
        #[arg(value_name = "ID")]
        id: MessageId,
    },
}

pub(crate) fn run(config: &Path, args: Args) -> Result<ExitCode, Failure> {
    let path = match args.directory {
        Some(path) => path,
        None => crate::config::load(config)?.config.queue.directory,
    };
    let directory = QueueDirectory::open(&path).map_err(failure)?;
    match args.command {
        Command::List { json } => list(&directory, json),
        Command::Show { id, json } => show(&directory, &id, json),
        Command::Hold { ids } => for_each(&ids, "held", |id| directory.hold(id)),
        Command::Release { ids } => for_each(&ids, "released", |id| directory.release(id)),
        Command::Remove { ids } => for_each(&ids, "removed", |id| directory.remove(id)),
        Command::Export { id } => export(&directory, &id),
    }
}

fn failure(error: QueueError) -> Failure {
    Finding::from(&error).into()
}

fn list(directory: &QueueDirectory, json: bool) -> Result<ExitCode, Failure> {
    let entries = directory.list().map_err(failure)?;
    if json {
        print(json_text(
            &entries.iter().map(JsonEntry::new).collect::<Vec<_>>(),
        )?);
        return Ok(ExitCode::SUCCESS);
    }
    if entries.is_empty() {
        say("the queue is empty");
        return Ok(ExitCode::SUCCESS);
    }
    print(table(&entries));
    for entry in &entries {
        if let Err(reason) = &entry.envelope {
            say(unreadable(entry, reason));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(directory: &QueueDirectory, id: &MessageId, json: bool) -> Result<ExitCode, Failure> {
    let entry = directory.find(id).map_err(failure)?;
    // An envelope whose message is gone is shown all the same: that is when somebody looks.
    let message = match directory.message_path(&entry) {
        Ok(file) => Some((file, directory.header_section(id).map_err(failure)?)),
        Err(QueueError::Missing { .. }) => None,
        Err(error) => return Err(failure(error)),
    };
    let (file, header) = message.unzip();
    let header = String::from_utf8_lossy(header.as_deref().unwrap_or_default());
    if json {
        let shown = JsonEntry {
            header: Some(&header),
            ..JsonEntry::new(&entry)
        };
        print(json_text(&shown)?);
    } else {
        print(description(&entry, file.as_deref(), &header));
    }
    if file.is_none() {
        say(Finding::warning(format!(
            "the message of {id} is gone, only its envelope is there"
        ))
        .hint(format!("`gatepost queue remove {id}` removes the envelope")));
    }
    if let Err(reason) = &entry.envelope {
        say(unreadable(&entry, reason));
    }
    Ok(ExitCode::SUCCESS)
}

/// Does `work` for every message, whatever becomes of the others.
fn for_each(
    ids: &[MessageId],
    done: &str,
    work: impl Fn(&MessageId) -> Result<(), QueueError>,
) -> Result<ExitCode, Failure> {
    let mut findings = Vec::new();
    for id in ids {
        match work(id) {
            Ok(()) => print(format_args!("{done} {id}")),
            Err(error) => findings.push(Finding::from(&error)),
        }
    }
    if findings.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(findings.into())
    }
}

fn export(directory: &QueueDirectory, id: &MessageId) -> Result<ExitCode, Failure> {
    match directory.export(id, &mut io::stdout().lock()) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        // The reader went away, as in `gatepost queue export ID | head`: nothing to say about that.
        Err(QueueError::Disk { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(failure(error)),
    }
}

fn unreadable(entry: &Entry, reason: &str) -> Finding {
    Finding::warning(format!(
        "cannot read the envelope of {} in {}: {}",
        entry.id,
        entry.place,
        visible(reason)
    ))
    .hint(format!(
        "`gatepost queue export {}` still gives the message",
        entry.id
    ))
}

/// An entry as `--json` shows it: the fields of its envelope, then ours.
#[derive(Serialize)]
struct JsonEntry<'a> {
    #[serde(flatten)]
    envelope: JsonEnvelope<'a>,
    place: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum JsonEnvelope<'a> {
    Readable(&'a Envelope),
    Unreadable { id: &'a str, error: &'a str },
}

impl<'a> JsonEntry<'a> {
    fn new(entry: &'a Entry) -> Self {
        let envelope = match &entry.envelope {
            Ok(envelope) => JsonEnvelope::Readable(envelope),
            Err(error) => JsonEnvelope::Unreadable {
                id: entry.id.as_str(),
                error,
            },
        };
        Self {
            envelope,
            place: entry.place.as_str(),
            header: None,
        }
    }
}

/// JSON, indented, in which characters that a terminal would act on are written as escapes too. They can only stand
/// within strings, where `\uXXXX` means the same.
fn json_text(value: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(value)
        .map_err(|error| Finding::error(format!("cannot write JSON: {error}")))?;
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character != '\n' && is_mischievous(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        } else {
            text.push(character);
        }
    }
    Ok(text)
}

/// The table of `list`, for people.
fn table(entries: &[Entry]) -> String {
    const HEADINGS: [&str; 7] = ["ID", "RECEIVED", "SIZE", "ACCOUNT", "FROM", "TO", "PLACE"];
    const SIZE: usize = 2;
    let rows = entries.iter().map(|entry| {
        let id = entry.id.to_string();
        let place = place(entry);
        match &entry.envelope {
            Ok(envelope) => [
                id,
                rfc3339_milliseconds(envelope.received_at),
                ByteSize(envelope.size).to_string(),
                account(envelope),
                path(&envelope.reverse_path),
                recipients(envelope),
                place,
            ],
            Err(_) => {
                let unknown = || "?".to_owned();
                [
                    id,
                    unknown(),
                    unknown(),
                    unknown(),
                    unknown(),
                    unknown(),
                    place,
                ]
            }
        }
    });
    let rows: Vec<[String; 7]> = std::iter::once(HEADINGS.map(str::to_owned))
        .chain(rows)
        .collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = if column == SIZE {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

/// Where a message is, and when it leaves there by itself.
fn place(entry: &Entry) -> String {
    let Some(hold) = entry.hold() else {
        return entry.place.to_string();
    };
    match hold.releases_at() {
        Some(until) => format!("{} until {}", entry.place, rfc3339_milliseconds(until)),
        None if hold.reason == HoldReason::OverLimit => {
            format!("{} {}", entry.place, hold.reason.as_str())
        }
        None => entry.place.to_string(),
    }
}

/// Who handed it in.
fn account(envelope: &Envelope) -> String {
    match envelope.is_own() {
        true => "(gatepost)".to_owned(),
        false => visible(&envelope.account),
    }
}

/// A path in brackets; `<>` for the null reverse-path.
fn path(text: &str) -> String {
    format!("<{}>", visible(text))
}

/// The first recipient, and how many more there are.
fn recipients(envelope: &Envelope) -> String {
    match envelope.recipients.as_slice() {
        [] => "nobody".to_owned(),
        [only] => path(&only.forward_path),
        [first, rest @ ..] => format!("{} and {} more", path(&first.forward_path), rest.len()),
    }
}

/// What is said of a recipient beside its path, as RCPT says it but decoded; empty if it is nothing.
fn wishes(recipient: &Recipient) -> String {
    let mut text = String::new();
    if !recipient.notify.is_empty() {
        let words: Vec<&str> = recipient.notify.iter().map(|word| word.as_str()).collect();
        let _ = write!(text, " NOTIFY={}", words.join(","));
    }
    if let Some(orcpt) = &recipient.orcpt {
        let _ = write!(text, " ORCPT={}", visible(orcpt));
    }
    text
}

/// What `show` says of one message.
fn description(entry: &Entry, file: Option<&Path>, header: &str) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    line("id", entry.id.as_str());
    line("place", &place(entry));
    if let Some(hold) = entry.hold() {
        line("reason", hold.reason.as_str());
    }
    if let Ok(envelope) = &entry.envelope {
        let client = &envelope.client;
        line("received", &rfc3339_milliseconds(envelope.received_at));
        line("account", &account(envelope));
        if let Some(credential) = &envelope.credential {
            line("credential", &visible(credential));
        }
        line("from", &path(&envelope.reverse_path));
        for (index, recipient) in envelope.recipients.iter().enumerate() {
            line(
                if index == 0 { "to" } else { "" },
                &(path(&recipient.forward_path) + &wishes(recipient)),
            );
        }
        line("size", &format!("{} octets", envelope.size));
        if let Some(body) = envelope.body {
            line("body", body.as_str());
        }
        if let Some(ret) = envelope.ret {
            line("ret", ret.as_str());
        }
        if let Some(envid) = &envelope.envid {
            line("envid", &visible(envid));
        }
        if envelope.smtputf8 {
            line("smtputf8", "yes");
        }
        if let Some(auth) = &envelope.auth {
            line("auth", &visible(auth));
        }
        if let Some(at) = envelope.release_at {
            line("release at", &rfc3339_milliseconds(at));
        }
        if let Some(by) = envelope.deliver_by {
            let trace = if by.trace { "T" } else { "" };
            let at = rfc3339_milliseconds(by.at);
            line("deliver by", &format!("{at} {}{trace}", by.mode.as_str()));
        }
        if let Some(priority) = envelope.priority {
            line("priority", &priority.to_string());
        }
        if envelope.require_tls {
            line("requiretls", "yes");
        }
        if !envelope.is_own() {
            line(
                "client",
                &visible(&format!(
                    "{} port {}, called itself {}",
                    client.address, client.port, client.name
                )),
            );
            line(
                "session",
                &visible(&format!(
                    "{}, {}, {}",
                    client.mechanism, client.tls, client.cipher
                )),
            );
        }
    }
    if let Some(file) = file {
        line("file", &visible(&file.display().to_string()));
    }
    text.push('\n');
    for field_line in header.lines() {
        let _ = writeln!(text, "{}", visible(field_line));
    }
    text.truncate(text.trim_end().len());
    text
}

/// Text from a message, fit for a terminal: what would act instead of being seen is written as an escape. A tab is a
/// blank.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => shown.push(' '),
            _ if is_mischievous(character) => shown.extend(character.escape_unicode()),
            _ => shown.push(character),
        }
    }
    shown
}

/// Whether a terminal does something else with the character than to show it: control characters, line and paragraph
/// separators, invisible marks, and the ones that change the direction of writing.
fn is_mischievous(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::envelope::{
        Body, Client, DeliverBy, DeliverByMode, Hold, HoldReason, Notify, Return,
    };
    use crate::queue::Place;

    use super::*;

    #[derive(Debug, Parser)]
    struct Outer {
        #[command(flatten)]
        args: Args,
    }

    fn entry(bits: u128, reverse_path: &str, forward_paths: &[&str]) -> Entry {
        let id = MessageId::from_bits(bits);
        let client = Client {
            address: "203.0.113.7".parse().unwrap(),
            port: 50123,
            name: "laptop.lan".to_owned(),
            mechanism: "PLAIN".to_owned(),
            tls: "TLSv1.3".to_owned(),
            cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
        };
        let received_at = "2026-11-21T09:30:00.123Z".parse().unwrap();
        Entry {
            id: id.clone(),
            place: Place::Ready,
            envelope: Ok(Envelope {
                account: "alice@example.org".to_owned(),
                reverse_path: reverse_path.to_owned(),
                recipients: forward_paths.iter().copied().map(Recipient::new).collect(),
                size: 2048,
                body: Some(Body::EightBitMime),
                ..Envelope::new(id, received_at, client)
            }),
        }
    }

    fn damaged(bits: u128) -> Entry {
        Entry {
            id: MessageId::from_bits(bits),
            place: Place::Hold,
            envelope: Err("expected value at line 1 column 1".to_owned()),
        }
    }

    #[test]
    fn the_table_is_aligned() {
        let entries = [
            entry(1, "alice@example.org", &["bob@example.net"]),
            entry(2, "", &["b@example.net", "c@example.net", "d@example.net"]),
            damaged(3),
        ];
        let expected = "\
ID                          RECEIVED                     SIZE  ACCOUNT            FROM                 TO                          PLACE
00000000000000000000000001  2026-11-21T09:30:00.123Z  2.0 KiB  alice@example.org  <alice@example.org>  <bob@example.net>           ready
00000000000000000000000002  2026-11-21T09:30:00.123Z  2.0 KiB  alice@example.org  <>                   <b@example.net> and 2 more  ready
00000000000000000000000003  ?                               ?  ?                  ?                    ?                           hold";
        assert_eq!(table(&entries), expected);
    }

    #[test]
    fn a_description_shows_envelope_and_header() {
        let text = description(
            &entry(1, "", &["b@example.net", "c@example.net"]),
            Some(Path::new("/spool/ready/x.eml")),
            "Subject: hello\r\n\tworld\r\n",
        );
        let expected = "\
id         00000000000000000000000001
place      ready
received   2026-11-21T09:30:00.123Z
account    alice@example.org
from       <>
to         <b@example.net>
           <c@example.net>
size       2048 octets
body       8BITMIME
client     203.0.113.7 port 50123, called itself laptop.lan
session    PLAIN, TLSv1.3, TLS13_AES_256_GCM_SHA384
file       /spool/ready/x.eml

Subject: hello
 world";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_description_shows_what_was_asked_for() {
        let mut entry = entry(1, "alice@example.org", &["b@example.net", "c@example.net"]);
        let envelope = entry.envelope.as_mut().unwrap();
        envelope.ret = Some(Return::Headers);
        envelope.envid = Some("QQ 314159".to_owned());
        envelope.release_at = Some("2026-11-22T08:00:00Z".parse().unwrap());
        envelope.deliver_by = Some(DeliverBy {
            at: "2026-11-22T09:00:00Z".parse().unwrap(),
            mode: DeliverByMode::Return,
            trace: true,
        });
        envelope.priority = Some(-4);
        envelope.require_tls = true;
        envelope.recipients[0].notify = vec![Notify::Success, Notify::Delay];
        envelope.recipients[1].orcpt = Some("utf-8;c\u{202e}@example.net".to_owned());
        let text = description(&entry, None, "");
        let expected = "\
to         <b@example.net> NOTIFY=SUCCESS,DELAY
           <c@example.net> ORCPT=utf-8;c\\u{202e}@example.net
size       2048 octets
body       8BITMIME
ret        HDRS
envid      QQ 314159
release at 2026-11-22T08:00:00.000Z
deliver by 2026-11-22T09:00:00.000Z RT
priority   -4
requiretls yes
client";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_is_held_is_shown_with_its_time() {
        let mut entry = entry(1, "alice@example.org", &["b@example.net"]);
        let hold = |reason, until: Option<&str>| {
            let until = until.map(|until| until.parse().unwrap());
            Some(Hold::new(reason, until))
        };
        let timed = hold(HoldReason::FutureRelease, Some("2026-11-22T08:00:00Z"));
        for (place, hold, column, lines) in [
            (
                Place::Hold,
                timed,
                "hold until 2026-11-22T08:00:00.000Z",
                "place      hold until 2026-11-22T08:00:00.000Z\nreason     future-release\nreceived",
            ),
            (
                Place::Hold,
                hold(HoldReason::Operator, None),
                "hold",
                "place      hold\nreason     operator\nreceived",
            ),
            (
                Place::Hold,
                hold(HoldReason::OverLimit, None),
                "hold over-limit",
                "place      hold over-limit\nreason     over-limit\nreceived",
            ),
            (Place::Hold, None, "hold", "place      hold\nreceived"),
            // What it was held for is over.
            (Place::Ready, timed, "ready", "place      ready\nreceived"),
        ] {
            entry.place = place;
            entry.envelope.as_mut().unwrap().hold = hold;
            let table = table(std::slice::from_ref(&entry));
            assert!(
                table.ends_with(&format!("<b@example.net>  {column}")),
                "{table}"
            );
            let text = description(&entry, None, "");
            assert!(text.contains(lines), "{text}");
        }
    }

    #[test]
    fn a_message_cannot_write_on_the_terminal() {
        for (text, expected) in [
            ("plain, caf\u{e9}", "plain, caf\u{e9}"),
            ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"),
            ("a\rb\nc\0", "a\\u{d}b\\u{a}c\\u{0}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("gpj.\u{202e}exe", "gpj.\\u{202e}exe"),
        ] {
            assert_eq!(visible(text), expected);
        }
        let entry = entry(1, "\u{1b}]0;x\u{7}@example.org", &["\u{202e}@example.org"]);
        for text in [
            table(std::slice::from_ref(&entry)),
            description(
                &entry,
                Some(Path::new("/x\u{1b}")),
                "Subject: \u{1b}c\u{85}\r\n",
            ),
            json_text(&JsonEntry::new(&entry)).unwrap(),
        ] {
            let mischief = text.chars().find(|&c| c != '\n' && is_mischievous(c));
            assert_eq!(mischief, None, "{text}");
        }
    }

    #[test]
    fn json_is_the_envelope_and_its_place() {
        let entries = [
            entry(1, "\u{9b}\u{e0041}@x", &["b@example.net"]),
            damaged(2),
        ];
        let listed: Vec<_> = entries.iter().map(JsonEntry::new).collect();
        let text = json_text(&listed).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut expected = serde_json::to_value(entries[0].envelope.as_ref().unwrap()).unwrap();
        expected["place"] = "ready".into();
        assert_eq!(value[0], expected);
        assert_eq!(
            value[1],
            serde_json::json!({
                "id": "00000000000000000000000002",
                "error": "expected value at line 1 column 1",
                "place": "hold",
            })
        );
        let shown = JsonEntry {
            header: Some("Subject: x\r\n"),
            ..JsonEntry::new(&entries[0])
        };
        let text = json_text(&shown).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["header"], "Subject: x\r\n");
    }

    #[test]
    fn arguments() {
        let id = "00000000000000000000000001";
        for good in [
            &["x", "list", "--json"][..],
            &["x", "--directory", "/spool", "hold", id, id],
            &["x", "remove", id, "--directory", "/spool"],
        ] {
            Outer::try_parse_from(good).unwrap();
        }
        for bad in [
            &["x", "hold"][..],
            &["x", "show", "../../etc/passwd"],
            &["x"],
        ] {
            let error = Outer::try_parse_from(bad).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad:?}");
        }
    }

    #[test]
    fn a_missing_message_is_told_where_and_what_to_do() {
        let parent = tempfile::tempdir().unwrap();
        let settings = crate::queue::SpoolSettings {
            minimum_free: 0,
            ..crate::queue::SpoolSettings::new(parent.path().join("queue"))
        };
        let _spool = crate::queue::Spool::open(&settings).unwrap();
        let directory = QueueDirectory::open(&settings.directory).unwrap();
        let id = MessageId::from_bits(5);
        let Failure(findings) =
            for_each(std::slice::from_ref(&id), "held", |id| directory.hold(id)).unwrap_err();
        assert_eq!(
            findings[0].to_string(),
            format!(
                "error: there is no message {id} in {}\nhint: `gatepost queue list` shows what is there",
                settings.directory.display()
            )
        );
    }
}
