//! `gatepost explain`: what serve would decide, by which rule, and what the client would hear.
//!
//! It asks the same policy in the same order as a session does, with what the limits have used as of the last saved
//! state, and who was banned then. Nothing is sent, written or used up. Each question is answered on its own, as if those before it had been
//! allowed, so that one run shows everything that is wrong.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::account::printable;
use super::{Failure, print, say};
use crate::account::directory::{Directory, Record};
use crate::account::identity::prepare_name;
use crate::clock::{Now, rfc3339_milliseconds};
use crate::containment::{CONTAINED_FILE, Containment};
use crate::decision::{Account, Limit, Origin, Question, RefusedLogin, Rule, Verdict};
use crate::diagnostic::{Finding, nearest};
use crate::guard::{BanView, GUESSING_FILE, Guard};
use crate::policy::limit::LIMITS_FILE;
use crate::policy::tripwire::{TRIPWIRES_FILE, Tripwires};
use crate::policy::{Limiter, Policy, Usage};
use crate::queue::QueueDirectory;
use crate::server::over_limit::take_up;
use crate::session::Profile;
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};
use crate::smtp::command::Parameter;
use crate::smtp::extension::{Extension, MailParameters};
use crate::smtp::reply::Reply;

mod tripwires;

use tripwires::Wires;

/// Show the decision that serve would take, the rule that takes it, and the exact reply; nothing is sent
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The account that sends
    #[arg(long, value_name = "NAME")]
    account: String,
    /// The credential that it has logged in with, instead of its password
    #[arg(long, value_name = "NAME")]
    credential: Option<String>,
    /// The envelope sender; "" or "<>" is the null reverse-path
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true)]
    from: String,
    /// A recipient, any number of times
    #[arg(long, value_name = "ADDRESS")]
    to: Vec<String>,
    /// An address of the header From, any number of times
    #[arg(long, value_name = "ADDRESS")]
    header_from: Vec<String>,
    /// Send it so many seconds later, as HOLDFOR in MAIL
    #[arg(long, value_name = "SECONDS", conflicts_with = "hold_until")]
    hold_for: Option<String>,
    /// Send it at this time, as HOLDUNTIL in MAIL: 2026-11-21T09:30:00Z
    #[arg(long, value_name = "TIME")]
    hold_until: Option<String>,
    /// The client's address, for allow_from
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Exit status: 0 if all of it is allowed, 1 if anything would be refused.

JSON, whose fields are only ever added to:
  account   text
  allowed   boolean: whether all steps are
  steps     array of:
    step      text: AUTH, MAIL, HOLD, RCPT, FROM or DATA
    about     text: the address or number in question
    decision  \"allow\", \"hold\" (allowed, and held until a limit has room for it) or \"refuse\"
    rule      null, or an object of name, file and line (null for what is built in or default)
    reply     text on the wire without line end, or null where there is none of its own
    reason    text for the operator, or null
  limits    array of: name, limit (number or \"unlimited\"), used, frees_at (time or null), file, line
  tripwires object of: mode, rule (as above), alert (to and command, arrays) and
    wires    array of: name, allowed (number or \"unlimited\"), counted, file, line,
             raised_by (null, or file and line of the account's own limit)
  waiting   number: messages of the account that are held until a limit has room for them";

pub(crate) fn run(config: &Path, args: Args) -> Result<ExitCode, Failure> {
    let config = crate::config::load(config)?.config;
    let now = Now::read();
    let memory_kib_max = config.accounts.hash_memory_kib();
    let (directory, _) = Directory::read(&config.accounts.file, memory_kib_max)?;
    let (limiter, warning) = Limiter::look_into(&config.queue.directory.join(LIMITS_FILE), now);
    warning.iter().for_each(say);
    let policy = Policy::new(config.policy, Arc::new(limiter));
    // Without a queue there is nothing in it.
    if let Ok(queue) = QueueDirectory::open(&config.queue.directory)
        && let Err(error) = take_up(&policy, &queue)
    {
        let text = format!("cannot see what waits for room: {error}");
        say(Finding::warning(text));
    }
    let guessing = config.queue.directory.join(GUESSING_FILE);
    let (guard, warning) = Guard::look_into(&guessing, config.guessing, now);
    warning.iter().for_each(say);
    let containment = Containment::open(&config.queue.directory.join(CONTAINED_FILE))?;
    let wires = config.queue.directory.join(TRIPWIRES_FILE);
    let (tripwires, warning) = Tripwires::look_into(&wires, now);
    warning.iter().for_each(say);
    let json = args.json;
    let mut explanation = explain(
        &directory,
        &config.accounts.file,
        (&policy, &guard, &containment),
        &config.profile,
        args,
        now,
    )?;
    explanation.wires = directory.find(&explanation.account).map(|record| {
        let (settings, alert) = (&config.tripwires, &config.alert);
        Wires::of(&record.account, settings, alert, &tripwires, now)
    });
    if json {
        print(format_args!("{:#}", explanation.to_json()));
    } else {
        for line in explanation.lines() {
            print(line);
        }
    }
    Ok(match explanation.allowed() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// All steps of one message's way through the policy.
struct Explanation {
    account: String,
    steps: Vec<Step>,
    limits: Vec<Usage>,
    /// Messages that are held for them.
    waiting: u64,
    /// Of an account that there is.
    wires: Option<Wires>,
    notes: Vec<String>,
}

/// One question and its answer.
struct Step {
    /// The command or field that it belongs to.
    step: &'static str,
    about: String,
    allowed: bool,
    /// Allowed, and held for a limit.
    held: bool,
    rule: Option<Rule>,
    reply: Option<Reply>,
    reason: Option<String>,
}

impl Step {
    fn new(
        step: &'static str,
        about: impl Into<String>,
        verdict: Verdict,
        yes: Option<Reply>,
    ) -> Self {
        let about = about.into();
        match verdict {
            Verdict::Allow(rule) => Self {
                step,
                about,
                allowed: true,
                held: false,
                rule: Some(rule),
                reply: yes,
                reason: None,
            },
            Verdict::Hold(postponement) => Self {
                step,
                about,
                allowed: true,
                held: true,
                rule: Some(postponement.rule),
                reply: Some(Reply::queued_over_limit(
                    "ID",
                    &format!("{:.0}", postponement.leaves_about),
                )),
                reason: Some(postponement.reason),
            },
            Verdict::Refuse(refusal) => Self {
                step,
                about,
                allowed: false,
                held: false,
                rule: refusal.rule,
                reply: Some(refusal.reply),
                reason: Some(refusal.reason),
            },
        }
    }

    /// A refusal that comes before any rule.
    fn refused(
        step: &'static str,
        about: impl Into<String>,
        reply: Reply,
        reason: impl Into<String>,
        rule: Option<Rule>,
    ) -> Self {
        Self {
            step,
            about: about.into(),
            allowed: false,
            held: false,
            rule,
            reply: Some(reply),
            reason: Some(reason.into()),
        }
    }
}

fn explain(
    directory: &Directory,
    file: &Path,
    (policy, guard, containment): (&Policy, &Guard, &Containment),
    profile: &Profile,
    args: Args,
    now: Now,
) -> Result<Explanation, Failure> {
    let mut explanation = Explanation {
        account: args.account.clone(),
        steps: Vec::new(),
        limits: Vec::new(),
        waiting: 0,
        wires: None,
        notes: Vec::new(),
    };
    let record = prepare_name(&args.account)
        .ok()
        .and_then(|name| directory.find(&name));
    let Some(record) = record else {
        let names = directory.records().iter();
        if let Some(name) = nearest(&args.account, names.map(|record| &*record.account.name)) {
            explanation.notes.push(format!("did you mean `{name}`?"));
        }
        let rule = Rule {
            name: "file",
            origin: None,
        };
        explanation.steps.push(Step::refused(
            "AUTH",
            &args.account,
            Reply::authentication_failed(),
            format!("{}: {}", file.display(), RefusedLogin::UnknownAccount),
            Some(rule),
        ));
        return Ok(explanation);
    };
    explanation.account.clone_from(&record.account.name);
    let Some(account) = record.login(args.credential.as_deref()) else {
        let name = args.credential.unwrap_or_default();
        let message = format!(
            "account `{}` has no credential `{name}`",
            record.account.name
        );
        let hint = format!("gatepost account credential list {}", record.account.name);
        return Err(Finding::error(message).in_file(file).hint(hint).into());
    };
    let mut mechanisms = profile.mechanisms.iter();
    let token_will_do = mechanisms.any(|mechanism| mechanism.takes_token());
    explanation
        .steps
        .push(match containment.holds_login(account) {
            true => contained(account),
            false => login(record, account, token_will_do, args.client, now),
        });
    let ban = args
        .client
        .and_then(|client| guard.foresee(client, &account.name, now));
    if let Some(ban) = ban {
        explanation.steps.push(banned(&account.name, &ban));
    }
    let narrowed = account.credential.as_deref();
    let has_allow_from = !account.allow_from.is_empty()
        || narrowed.is_some_and(|credential| !credential.allow_from.is_empty());
    if args.client.is_none() && has_allow_from {
        explanation
            .notes
            .push("the account has allow_from: with --client it is decided too".to_owned());
    }

    let international = profile.extensions.contains(&Extension::SmtpUtf8);
    let addresses = args.to.iter().chain(&args.header_from).chain([&args.from]);
    if international && addresses.into_iter().any(|address| !address.is_ascii()) {
        let note = "not all is ASCII: the client has to say SMTPUTF8 in MAIL";
        explanation.notes.push(note.to_owned());
    }
    explanation
        .steps
        .push(match ReversePath::parse(&bracketed(&args.from)) {
            Ok(path) if !path.is_ascii() && !international => {
                not_ascii("MAIL", &args.from, Reply::non_ascii_sender())
            }
            Ok(reverse_path) => {
                let question = Question::Sender {
                    reverse_path: &reverse_path,
                };
                let verdict = policy.foresee(account, question, now);
                let about = format!("<{reverse_path}>");
                Step::new("MAIL", about, verdict, Some(Reply::sender_ok()))
            }
            Err(error) => Step::refused(
                "MAIL",
                &args.from,
                Reply::bad_sender_address(error.to_string()),
                error.to_string(),
                None,
            ),
        });

    let holds = [("HOLDFOR", args.hold_for), ("HOLDUNTIL", args.hold_until)];
    for (keyword, value) in holds {
        if let Some(value) = value {
            let (step, note) = hold(keyword, value, profile, now);
            explanation.steps.push(step);
            explanation.notes.extend(note);
        }
    }

    let mut accepted = 0_usize;
    for to in &args.to {
        let step = match ForwardPath::parse(&bracketed(to)) {
            Err(error) => Step::refused(
                "RCPT",
                to,
                Reply::bad_recipient_address(error.to_string()),
                error.to_string(),
                None,
            ),
            Ok(path) if !path.is_ascii() && !international => {
                not_ascii("RCPT", to, Reply::non_ascii_address())
            }
            Ok(_) if accepted >= profile.recipients_max => Step::refused(
                "RCPT",
                to,
                Reply::too_many_recipients(profile.recipients_max),
                format!("the message has {accepted} recipients already"),
                Some(Rule {
                    name: "recipients_per_message",
                    origin: None,
                }),
            ),
            Ok(forward_path) => {
                let question = Question::Recipient {
                    forward_path: &forward_path,
                    accepted: accepted as u64,
                };
                let verdict = policy.foresee(account, question, now);
                let about = format!("<{forward_path}>");
                Step::new("RCPT", about, verdict, Some(Reply::recipient_ok()))
            }
        };
        accepted += usize::from(step.allowed);
        explanation.steps.push(step);
    }

    if !args.header_from.is_empty() {
        let from = mailboxes(&args.header_from)?;
        let question = Question::Author {
            from: &from,
            sender: None,
        };
        let about = args.header_from.join(", ");
        explanation
            .steps
            .push(if international || from.iter().all(Mailbox::is_ascii) {
                let verdict = policy.foresee(account, question, now);
                // Nothing is said to the client about a good header: its answer is the one to the whole message.
                Step::new("FROM", about, verdict, None)
            } else {
                not_ascii("FROM", &about, Reply::non_ascii_author())
            });
    }
    if accepted > 0 {
        let recipients = accepted as u64;
        let verdict = policy.foresee(account, Question::Message { recipients }, now);
        let about = match accepted {
            1 => "1 recipient".to_owned(),
            _ => format!("{accepted} recipients"),
        };
        let yes = Some(Reply::queued("ID"));
        explanation
            .steps
            .push(Step::new("DATA", about, verdict, yes));
    }
    explanation.limits = policy.usage(account, now);
    explanation.waiting = policy.waiting(account).messages;
    if explanation.waiting > 0 {
        let (over_limit, origin) = policy.over_limit(account);
        let place = origin.map_or("by default".to_owned(), |origin| format!("at {origin}"));
        explanation.notes.push(format!(
            "messages of the account that wait in hold/ for room under its limits: {}; over_limit = \"{}\" ({place})",
            explanation.waiting,
            over_limit.name(),
        ));
    }
    Ok(explanation)
}

/// Nobody can log in, and sessions that there were are closed.
fn contained(account: &Account) -> Step {
    let rule = Rule {
        name: CONTAINED_FILE,
        origin: None,
    };
    let reason = format!("{}: `gatepost contain --list`", RefusedLogin::Contained);
    let reply = Reply::authentication_failed();
    Step::refused("AUTH", &account.name, reply, reason, Some(rule))
}

/// Whether somebody could log in so, given the right secret.
fn login(
    record: &Record,
    account: &Account,
    token_will_do: bool,
    client: Option<IpAddr>,
    now: Now,
) -> Step {
    let credential = account.credential.as_deref();
    let origin = credential.map_or(&account.origin, |credential| &credential.origin);
    let rule = |name| Rule {
        name,
        origin: Some(origin.clone()),
    };
    let refused = |name, reason: String| {
        Step::refused(
            "AUTH",
            &account.name,
            Reply::authentication_failed(),
            reason,
            Some(rule(name)),
        )
    };
    let outside = client
        .map(|client| client.to_canonical())
        .filter(|client| !account.allows_from(*client));
    let expired = credential
        .and_then(|credential| credential.expires)
        .is_some_and(|expires| now.wall >= expires);
    if credential.is_none() && record.password.is_none() && !token_will_do {
        refused("password", "account has no password".to_owned())
    } else if !account.enabled {
        refused("disabled", RefusedLogin::Disabled.to_string())
    } else if expired {
        refused("expires", RefusedLogin::Expired.to_string())
    } else if let Some(client) = outside {
        let reason = format!("{}: {client}", RefusedLogin::AddressNotAllowed);
        refused("allow_from", reason)
    } else {
        let yes = Some(Reply::authenticated());
        Step::new("AUTH", &account.name, Verdict::Allow(rule("name")), yes)
    }
}

/// Whether a message may be sent later, and how it goes on then.
fn hold(keyword: &str, value: String, profile: &Profile, now: Now) -> (Step, Option<String>) {
    let about = format!("{keyword}={value}");
    let rule = |name| Rule { name, origin: None };
    let parameter = Parameter {
        keyword: keyword.to_owned(),
        value: Some(value),
    };
    let offered = profile.extensions.contains(&Extension::FutureRelease);
    let asked = match MailParameters::parse(&[parameter], &profile.extensions) {
        Ok(parameters) => parameters.hold,
        Err(reply) => {
            let (reason, rule) = match offered {
                true => ("cannot be read", None),
                false => (
                    "FUTURERELEASE is withheld",
                    Some(rule("extensions.withhold")),
                ),
            };
            return (Step::refused("HOLD", about, reply, reason, rule), None);
        }
    };
    let longest = profile.future_release_max;
    let rule = rule("extensions.future_release_max");
    match asked.and_then(|hold| hold.release_at(now.wall, longest)) {
        Some(at) => {
            let at = rfc3339_milliseconds(at);
            let note = format!("the message would be in hold/ until {at}, then in ready/");
            let step = Step::new("HOLD", about, Verdict::Allow(rule), None);
            (step, Some(note))
        }
        None => {
            let reply = Reply::cannot_hold(longest.as_secs());
            let reason = "not in the future, or too far in it";
            (
                Step::refused("HOLD", about, reply, reason, Some(rule)),
                None,
            )
        }
    }
}

/// Somebody who is not listened to, whatever the secret is.
fn banned(account: &str, ban: &BanView) -> Step {
    let whom = match ban.kind {
        "login" => format!("{account} at {}", ban.network),
        _ => ban.network.clone(),
    };
    let rule = Rule {
        name: "guessing",
        origin: None,
    };
    let reason = format!(
        "{whom} is banned until {}, after {} failed logins (`gatepost ban lift {}`)",
        ban.until, ban.failures, ban.network
    );
    Step::refused("AUTH", account, Reply::banned(), reason, Some(rule))
}

/// A path that only SMTPUTF8 could carry, where that is withheld.
fn not_ascii(step: &'static str, address: &str, reply: Reply) -> Step {
    let rule = Rule {
        name: "extensions.withhold",
        origin: None,
    };
    let reason = "not ASCII, and SMTPUTF8 is withheld";
    Step::refused(step, address, reply, reason, Some(rule))
}

/// The address as MAIL and RCPT write it; brackets that are there already are left alone.
fn bracketed(address: &str) -> Vec<u8> {
    match address.starts_with('<') {
        true => address.as_bytes().to_vec(),
        false => format!("<{address}>").into_bytes(),
    }
}

fn mailboxes(addresses: &[String]) -> Result<Vec<Mailbox>, Failure> {
    let parse = |address: &String| {
        Mailbox::parse(address.as_bytes()).map_err(|error| {
            let finding = Finding::error(format!("--header-from `{address}`: {error}"));
            Failure::from(finding.hint("give the bare address, without name and brackets"))
        })
    };
    addresses.iter().map(parse).collect()
}

impl Explanation {
    fn allowed(&self) -> bool {
        self.steps.iter().all(|step| step.allowed)
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for step in &self.steps {
            let decision = match (step.allowed, step.held) {
                (true, false) => "allowed",
                (true, true) => "allowed, and held",
                (false, _) => "refused",
            };
            lines.push(format!(
                "{} {}: {decision}",
                step.step,
                printable(&step.about)
            ));
            if let Some(rule) = &step.rule {
                let place = match &rule.origin {
                    Some(origin) => format!(" at {origin}"),
                    None => String::new(),
                };
                lines.push(format!("  rule    {}{place}", rule.name));
            }
            if let Some(reason) = &step.reason {
                lines.push(format!("  reason  {}", printable(reason)));
            }
            if let Some(reply) = &step.reply {
                lines.push(format!("  reply   {}", wire(reply)));
            }
        }
        for usage in &self.limits {
            let frees = match usage.frees_at {
                Some(at) => format!(", frees at {at:.0}"),
                None => String::new(),
            };
            let place = match &usage.origin {
                Some(origin) => format!("at {origin}"),
                None => "by default".to_owned(),
            };
            let limit = match usage.limit {
                Limit::AtMost(number) => number.to_string(),
                Limit::Unlimited => "unlimited".to_owned(),
            };
            lines.push(format!(
                "limit {} = {limit} ({place}): {} used{frees}",
                usage.name, usage.used
            ));
        }
        lines.extend(self.wires.iter().flat_map(Wires::lines));
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines
    }

    fn to_json(&self) -> Value {
        let steps = self.steps.iter().map(|step| {
            let rule = step.rule.as_ref().map(|rule| {
                let (file, line) = place(&rule.origin);
                json!({ "name": rule.name, "file": file, "line": line })
            });
            json!({
                "step": step.step,
                "about": step.about,
                "decision": match (step.allowed, step.held) {
                    (true, false) => "allow",
                    (true, true) => "hold",
                    (false, _) => "refuse",
                },
                "rule": rule,
                "reply": step.reply.as_ref().map(wire),
                "reason": step.reason,
            })
        });
        let limits = self.limits.iter().map(|usage| {
            let (file, line) = place(&usage.origin);
            let limit = match usage.limit {
                Limit::AtMost(number) => Value::from(number.get()),
                Limit::Unlimited => "unlimited".into(),
            };
            json!({
                "name": usage.name,
                "limit": limit,
                "used": usage.used,
                "frees_at": usage.frees_at.map(|at| format!("{at:.0}")),
                "file": file,
                "line": line,
            })
        });
        let mut explanation = json!({
            "account": self.account,
            "allowed": self.allowed(),
            "steps": steps.collect::<Vec<_>>(),
            "limits": limits.collect::<Vec<_>>(),
            "waiting": self.waiting,
        });
        if let Some(wires) = &self.wires {
            explanation["tripwires"] = wires.to_json();
        }
        explanation
    }
}

/// File and line for `--json`; null for what is built in or default.
fn place(origin: &Option<Origin>) -> (Value, Value) {
    match origin {
        Some(origin) => (
            Value::from(origin.file.display().to_string()),
            Value::from(origin.line),
        ),
        None => (Value::Null, Value::Null),
    }
}

/// The reply as it goes over the wire, without its line end.
fn wire(reply: &Reply) -> String {
    let mut octets = Vec::new();
    reply.write_to(&mut octets);
    String::from_utf8_lossy(&octets).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use clap::Parser as _;

    use super::*;
    use crate::decision::OverLimit;
    use crate::guard::GuessingSettings;
    use crate::policy::PolicySettings;

    const SOURCE: &str = r#"[[account]]
name = "alice@example.org"
password = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
send_as = [
  "alice@example.org",
  "*@lists.example.org",
]
allow_from = ["192.0.2.0/24"]
recipients_per_day = 3

[[account.credential]]
name = "scanner"
secret = "sha256:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ"
rcpt_allow = ["*@example.org"]
messages_per_hour = 5

[[account.credential]]
name = "old"
secret = "sha256:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ"
expires = 2020-01-01

[[account]]
name = "off@example.org"
disabled = true
password = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"

[[account]]
name = "empty@example.org"
"#;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn explained(arguments: &str) -> Explanation {
        explained_with(arguments, Extension::ALL.to_vec())
    }

    fn explained_with(arguments: &str, extensions: Vec<Extension>) -> Explanation {
        let file = Path::new("accounts.toml");
        let (directory, _) = Directory::parse(file, SOURCE, 1024).unwrap();
        let six_hundred = Limit::AtMost(NonZeroU64::new(600).unwrap());
        let settings = PolicySettings {
            messages_per_hour: (six_hundred, None),
            recipients_per_day: (Limit::Unlimited, None),
            over_limit: (OverLimit::Refuse, None),
            held_messages: (10_000, None),
        };
        let policy = Policy::new(settings, Arc::new(Limiter::default()));
        let words = std::iter::once("explain").chain(arguments.split_whitespace());
        let args = Cli::parse_from(words).args;
        let profile = Profile {
            recipients_max: 4,
            extensions,
            ..Profile::default()
        };
        let now = Now::read();
        let guard = Guard::in_memory(GuessingSettings::default(), now);
        explain(
            &directory,
            file,
            (&policy, &guard, &Containment::default()),
            &profile,
            args,
            now,
        )
        .unwrap()
    }

    #[test]
    fn a_login_with_a_credential() {
        let said = |credential: &str| {
            let arguments = format!(
                "--account alice@example.org --credential {credential} --from alice@example.org \
                 --to bob@example.org --to bob@example.net --client 192.0.2.7"
            );
            explained(&arguments).lines().join("\n")
        };
        let scanner = said("scanner");
        for line in [
            "  rule    name at accounts.toml:11",
            "RCPT <bob@example.org>: allowed",
            "RCPT <bob@example.net>: refused",
            "  rule    rcpt_allow at accounts.toml:14",
            "limit messages_per_hour = 600 (by default): 0 used",
            "limit messages_per_hour = 5 (at accounts.toml:15): 0 used",
        ] {
            assert!(
                scanner.lines().any(|said| said == line),
                "{line}: {scanner}"
            );
        }
        let old = said("old");
        assert!(
            old.contains("AUTH alice@example.org: refused\n  rule    expires at accounts.toml:17"),
            "{old}"
        );
    }

    #[test]
    fn sending_later() {
        let said = |hold: &str| {
            let arguments = format!("--account alice@example.org --from alice@example.org {hold}");
            let explanation = explained(&arguments);
            (explanation.allowed(), explanation.lines().join("\n"))
        };
        let (allowed, text) = said("--hold-for 3600 --client 192.0.2.7");
        assert!(allowed, "{text}");
        let expected = "HOLD HOLDFOR=3600: allowed\n  rule    extensions.future_release_max\n";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("would be in hold/ until 20"), "{text}");
        let (allowed, text) = said("--hold-until 2020-01-01T00:00:00Z");
        assert!(!allowed);
        let expected = "  reply   501 5.5.4 a message can be held for 1 to 2592000 seconds";
        assert!(text.contains(expected), "{text}");
        let (_, text) = said("--hold-until tomorrow");
        assert!(text.contains("501 5.5.4 parameter HOLDUNTIL has"), "{text}");
        let explanation = explained_with(
            "--account alice@example.org --from alice@example.org --hold-for 60",
            Vec::new(),
        );
        let text = explanation.lines().join("\n");
        assert!(
            text.contains("555 5.5.4 parameter HOLDFOR not recognized"),
            "{text}"
        );
        assert!(text.contains("extensions.withhold"), "{text}");
    }

    #[test]
    fn all_allowed() {
        let explanation = explained(
            "--account alice@EXAMPLE.org --from x@lists.example.org --to bob@example.net --to <postmaster> \
             --header-from alice@example.org --client 192.0.2.7",
        );
        assert!(explanation.allowed());
        assert_eq!(
            explanation.lines().join("\n"),
            "\
AUTH alice@example.org: allowed
  rule    name at accounts.toml:1
  reply   235 2.7.0 authentication succeeded
MAIL <x@lists.example.org>: allowed
  rule    send_as at accounts.toml:6
  reply   250 2.1.0 sender ok
RCPT <bob@example.net>: allowed
  rule    recipients_per_day at accounts.toml:9
  reply   250 2.1.5 recipient ok
RCPT <postmaster>: allowed
  rule    recipients_per_day at accounts.toml:9
  reply   250 2.1.5 recipient ok
FROM alice@example.org: allowed
  rule    send_as at accounts.toml:5
DATA 2 recipients: allowed
  rule    recipients_per_day at accounts.toml:9
  reply   250 2.0.0 queued as ID
limit messages_per_hour = 600 (by default): 0 used
limit recipients_per_day = 3 (at accounts.toml:9): 0 used"
        );
    }

    #[test]
    fn every_refusal_is_shown_with_its_reply() {
        let explanation = explained(
            "--account alice@example.org --from <> --to bob --to a@b.example --to c@b.example --to d@b.example \
             --to e@b.example --header-from bob@example.org --client 203.0.113.7",
        );
        assert!(!explanation.allowed());
        let refused: Vec<String> = explanation
            .steps
            .iter()
            .filter(|step| !step.allowed)
            .map(|step| format!("{} {}", step.step, wire(step.reply.as_ref().unwrap())))
            .collect();
        assert_eq!(
            refused,
            [
                "AUTH 535 5.7.8 authentication failed",
                "MAIL 550 5.7.1 account alice@example.org may not send as <>",
                "RCPT 501 5.1.3 the address has no domain",
                "RCPT 450 4.7.28 limit recipients_per_day = 3 reached, try again with fewer recipients",
                "FROM 550 5.7.1 account alice@example.org may not send with header From: bob@example.org",
            ]
        );
    }

    #[test]
    fn addresses_that_need_smtputf8() {
        let arguments = "--account alice@example.org --from b\u{f6}b@lists.example.org --to b\u{f6}b@b.example \
            --header-from b\u{f6}b@lists.example.org --client 192.0.2.7";
        let explanation = explained(arguments);
        assert!(explanation.allowed());
        let note = "note: not all is ASCII: the client has to say SMTPUTF8 in MAIL";
        assert_eq!(explanation.lines().last().unwrap(), note);
        let explanation = explained_with(arguments, Vec::new());
        let refused: Vec<String> = explanation
            .steps
            .iter()
            .filter(|step| !step.allowed)
            .map(|step| format!("{} {}", step.step, wire(step.reply.as_ref().unwrap())))
            .collect();
        assert_eq!(
            refused,
            [
                "MAIL 550 5.6.7 a non-ASCII sender address needs SMTPUTF8",
                "RCPT 553 5.6.7 a non-ASCII address needs SMTPUTF8",
                "FROM 550 5.6.7 message refused: a non-ASCII address in From or Sender needs SMTPUTF8",
            ]
        );
        assert_eq!(explanation.notes, [""; 0]);
    }

    #[test]
    fn logins_that_fail() {
        for (account, rule, reason) in [
            ("off@example.org", "disabled@22", "account is disabled"),
            (
                "empty@example.org",
                "password@27",
                "account has no password",
            ),
            (
                "nobody@example.org",
                "file@-",
                "accounts.toml: no such account",
            ),
        ] {
            let explanation = explained(&format!("--account {account} --from {account}"));
            let step = &explanation.steps[0];
            assert!(!step.allowed);
            assert_eq!(step.reason.as_deref(), Some(reason));
            let shown = step.rule.as_ref().map(|rule| {
                let line = rule.origin.as_ref().map(|origin| origin.line.to_string());
                format!("{}@{}", rule.name, line.as_deref().unwrap_or("-"))
            });
            assert_eq!(shown.as_deref(), Some(rule));
            assert_eq!(
                wire(step.reply.as_ref().unwrap()),
                "535 5.7.8 authentication failed"
            );
        }
        let explanation = explained("--account alcie@example.org --from a@b.example");
        assert_eq!(explanation.notes, ["did you mean `alice@example.org`?"]);
    }

    #[test]
    fn json() {
        let explanation = explained("--account alice@example.org --from bad --client 192.0.2.7");
        assert_eq!(
            explanation.to_json(),
            json!({
                "account": "alice@example.org",
                "allowed": false,
                "steps": [
                    {
                        "step": "AUTH", "about": "alice@example.org", "decision": "allow",
                        "rule": {"name": "name", "file": "accounts.toml", "line": 1},
                        "reply": "235 2.7.0 authentication succeeded", "reason": null,
                    },
                    {
                        "step": "MAIL", "about": "bad", "decision": "refuse", "rule": null,
                        "reply": "501 5.1.7 the address has no domain", "reason": "the address has no domain",
                    },
                ],
                "limits": [
                    {"name": "messages_per_hour", "limit": 600, "used": 0, "frees_at": null, "file": null, "line": null},
                    {"name": "recipients_per_day", "limit": 3, "used": 0, "frees_at": null, "file": "accounts.toml", "line": 9},
                ],
                "waiting": 0,
            })
        );
    }

    #[test]
    fn recipients_of_one_message_have_a_bound() {
        let explanation = explained(
            "--account off@example.org --from off@example.org --to a@b.example --to b@b.example --to c@b.example \
             --to d@b.example --to e@b.example",
        );
        let last = explanation
            .steps
            .iter()
            .rfind(|step| step.step == "RCPT")
            .unwrap();
        assert_eq!(
            wire(last.reply.as_ref().unwrap()),
            "452 4.5.3 too many recipients: at most 4 in one message"
        );
    }
}
