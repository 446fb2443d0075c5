//! `gatepost account`: looks after the accounts file.
//!
//! Finds the file through the configuration, or takes it from `--file`. Passwords come from the terminal, twice, or from
//! one line of standard input; they are never taken from the command line, where every user of the machine could read
//! them, and never shown. A running gatepost notices the change by itself.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{Failure, print, say};

mod credential;
mod import;

pub use import::import_line;

use crate::account::directory::{Directory, Record, ScramSecrets};
use crate::account::edit::{self, Edit, Edited, NewAccount, NewPassword};
use crate::account::file::relevant;
use crate::account::identity::{PASSWORD_BYTES_MAX, prepare_name, prepare_password};
use crate::account::password::{self, HashingFailed, MEMORY_KIB_MAX, Parameters};
use crate::account::scram;
use crate::account::state::{LoginState, STATE_FILE};
use crate::clock::rfc3339_milliseconds;
use crate::containment::{CONTAINED_FILE, Containment};
use crate::decision::{Limit, Origin, OwnTripwires, SenderPattern};
use crate::diagnostic::{Finding, nearest};
use crate::policy::tripwire::Wire;
use crate::sandbox::identity::Identity;
use crate::sasl::scram::Verifier;
use crate::secret::Secret;

/// Look after the accounts file: who may log in, and as whom they may send
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The accounts file itself, instead of the one that the configuration names
    #[arg(long, global = true, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add an account; asks for its password twice
    #[command(after_help = PATTERNS_HELP)]
    Add {
        /// What the client logs in as, mostly an address
        name: String,
        /// Read the password from one line of standard input
        #[arg(long)]
        password_stdin: bool,
        /// Without a password: for whoever logs in with a client certificate, or with credentials only
        #[arg(long, conflicts_with_all = ["password_stdin", "store"])]
        no_password: bool,
        /// What is kept of the password
        #[arg(long, value_enum, default_value_t = Store::Argon2id)]
        store: Store,
        /// What it may send as, any number of times; without it, its own name
        #[arg(long, value_name = "PATTERN")]
        send_as: Vec<String>,
        /// A remark of your own
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Give an account another password; asks for it twice
    #[command(after_help = STORE_HELP)]
    Password {
        /// The account
        name: String,
        /// Read the password from one line of standard input
        #[arg(long)]
        password_stdin: bool,
        /// What is kept of the password; without it, the same as before
        #[arg(long, value_enum)]
        store: Option<Store>,
    },
    /// Remove an account, and the comment right above it
    Remove {
        /// The account
        name: String,
    },
    /// Keep an account from logging in
    Disable {
        /// The account
        name: String,
    },
    /// Let a disabled account log in again
    Enable {
        /// The account
        name: String,
    },
    /// Look after an account's further secrets: one for each device or program
    Credential {
        #[command(subcommand)]
        command: credential::Command,
    },
    /// Take over accounts from a Dovecot passwd-file or an htpasswd-style file
    #[command(after_help = import::HELP)]
    Import(import::Import),
    /// List all accounts
    #[command(after_help = JSON_HELP)]
    List {
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show one account
    #[command(after_help = JSON_HELP)]
    Show {
        /// The account
        name: String,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
}

/// What is kept of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Store {
    /// A hash for PLAIN and LOGIN, the hardest to guess against
    Argon2id,
    /// Keys for SCRAM-SHA-256, against which PLAIN and LOGIN are checked too
    Scram,
    /// The hash, and the keys beside it
    Both,
}

impl Store {
    /// What there is of a password now.
    fn of(record: &Record) -> Self {
        let hash = record.password.is_some() && !record.password_is_scram();
        match (hash, record.has_scram()) {
            (true, true) => Self::Both,
            (false, true) => Self::Scram,
            (_, false) => Self::Argon2id,
        }
    }

    /// `beside`: the keys of the account's credentials, whose salt the new ones have to share.
    fn make(
        self,
        prepared: &Secret,
        beside: Option<&Verifier>,
    ) -> Result<NewPassword, HashingFailed> {
        let hash = || password::make(prepared, Parameters::default());
        let keys = || scram::make(prepared, beside).map(|keys| keys.to_text());
        Ok(NewPassword {
            hash: (self != Self::Scram).then(hash).transpose()?,
            scram: (self != Self::Argon2id).then(keys).transpose()?,
        })
    }
}

const STORE_HELP: &str = "\
SCRAM keys let an account log in with SCRAM-SHA-256, where auth.mechanisms offers it: the password is never sent.
Whoever steals the accounts file can guess against them more cheaply than against argon2id, so they are made only on
request.";

const PATTERNS_HELP: &str = "\
A PATTERN is one of:
  alice@example.org  this address, and alice+anything@example.org
  *@example.org      every address of exactly this domain
  *                  every address
  <>                 the null reverse-path, for programs that send bounces";

const JSON_HELP: &str = "\
JSON: `list` gives an array of objects, `show` one of them. Fields, which are only ever added to:
  name                text    as it is compared
  enabled             boolean
  has_password        boolean
  has_scram           boolean: whether SCRAM-SHA-256 can be used with the password
  last_login          time, or null: with the password, as far as it is remembered
  send_as             array of patterns
  allow_from          array of networks; empty: from everywhere
  messages_per_hour   number, \"unlimited\", or null: what [limits.account] says
  recipients_per_day  the same
  over_limit          \"refuse\", \"hold\", or null: what [limits.account] says
  tripwires           object of what it says itself, as in the file, or null: what [tripwires] says
  note                text or null
  credentials         array of what `credential list` gives
  file, line          where it is written";

pub(crate) fn run(config: &Path, args: Args) -> Result<ExitCode, Failure> {
    let place = Place::find(config, args.file)?;
    match args.command {
        Command::Add {
            name,
            password_stdin,
            no_password,
            store,
            send_as,
            note,
        } => {
            // What can be known to be wrong is said before anybody types a password.
            check_patterns(&send_as)?;
            place.refuse_existing(&name)?;
            let password = match no_password {
                true => NewPassword::default(),
                false => new_password(&name, password_stdin, store, None)?,
            };
            let new = NewAccount {
                password,
                send_as,
                allow_from: Vec::new(),
                note,
            };
            let edited = place.edit(&name, &Edit::Add(new))?;
            if edited.created {
                place.say_created();
            }
            print(done("added", &edited));
        }
        Command::Password {
            name,
            password_stdin,
            store,
        } => {
            let record = place.record(&name)?;
            let store = store.unwrap_or(Store::of(&record));
            let of_credentials = |scram: &&ScramSecrets| scram.owners.iter().any(Option::is_some);
            let beside = record.scram.as_ref().filter(of_credentials);
            let beside = beside.map(|scram| &*scram.verifier);
            let password = new_password(&name, password_stdin, store, beside)?;
            let edited = place.edit(&name, &Edit::SetPassword(password))?;
            print(done("set the password of", &edited));
        }
        Command::Remove { name } => print(done("removed", &place.edit(&name, &Edit::Remove)?)),
        Command::Disable { name } => print(done("disabled", &place.edit(&name, &Edit::Disable)?)),
        Command::Enable { name } => print(done("enabled", &place.edit(&name, &Edit::Enable)?)),
        Command::Credential { command } => credential::run(&place, command)?,
        Command::Import(arguments) => {
            return Ok(match import::run(&place, &arguments)? {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            });
        }
        Command::List { json } => {
            let directory = place.read()?;
            if json {
                let records = directory.records().iter();
                let all: Vec<Value> = records
                    .map(|record| to_json(record, &place.memory))
                    .collect();
                print(format_args!("{:#}", Value::from(all)));
            } else {
                for line in table(directory.records()) {
                    print(line);
                }
            }
        }
        Command::Show { name, json } => {
            let record = place.record(&name)?;
            let contained = place.contained(&record.account.name);
            if json {
                let mut shown = to_json(&record, &place.memory);
                shown["contained"] = contained.into();
                print(format_args!("{shown:#}"));
            } else {
                for line in description(&record, &place.memory) {
                    print(line);
                }
                for who in contained {
                    print(format_args!("contained           {who}"));
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Which file, and what one password check may take of memory.
struct Place {
    file: PathBuf,
    memory_kib_max: u32,
    /// What a daemon on this configuration remembers; nothing, with `--file`.
    memory: LoginState,
    /// Whom it has contained; likewise.
    containment: Containment,
    /// Whether it asks clients for certificates; with `--file` it is taken to.
    offers_external: bool,
    /// Whether a certificate can name an account, which then needs no password.
    named_by_certificates: bool,
    /// Who has to be able to read the file, where the configuration says it.
    reader: Option<Identity>,
}

impl Place {
    fn find(config: &Path, file: Option<PathBuf>) -> Result<Self, Failure> {
        if let Some(file) = file {
            return Ok(Self {
                file,
                memory_kib_max: MEMORY_KIB_MAX,
                memory: LoginState::in_memory(),
                containment: Containment::default(),
                offers_external: true,
                named_by_certificates: false,
                reader: None,
            });
        }
        let config = crate::config::load(config)?.config;
        let settings = config.accounts;
        // Unreadable by whoever runs this, it is as good as not there.
        let (memory, _) = LoginState::look_into(&config.queue.directory.join(STATE_FILE));
        let contained = config.queue.directory.join(CONTAINED_FILE);
        Ok(Self {
            memory,
            containment: Containment::open(&contained).unwrap_or_default(),
            memory_kib_max: settings.hash_memory_kib(),
            offers_external: config.tls.clients.asked_for,
            named_by_certificates: settings.named_by_certificates,
            file: settings.file,
            // `check` says what is wrong with it.
            reader: Identity::find(&config.process).ok().flatten(),
        })
    }

    /// Lets the daemon read a file that was just made, and says who can.
    fn say_created(&self) {
        let file = self.file.display();
        match &self.reader {
            Some(reader) if reader.let_read(&self.file).is_ok() => say(format_args!(
                "created {file}: its owner and the group of user {} can read it",
                reader.name()
            )),
            _ => say(format_args!(
                "created {file}: only its owner can read it, so that has to be who runs gatepost"
            )),
        }
    }

    fn read(&self) -> Result<Directory, Failure> {
        let (directory, warnings) = Directory::read(&self.file, self.memory_kib_max)?;
        self.say_all(warnings);
        Ok(directory)
    }

    fn say_all(&self, warnings: Vec<Finding>) {
        let warnings = relevant(warnings, self.named_by_certificates);
        warnings.iter().for_each(say);
    }

    /// What of an account is contained: the account itself, or which of its credentials, and since when.
    fn contained(&self, account: &str) -> Vec<String> {
        let contained = self.containment.list().into_iter();
        let of_account = contained.filter(|(login, _)| login.account == account);
        let shown = of_account.map(|(login, cause)| {
            let what = login.credential.unwrap_or_else(|| "all of it".to_owned());
            let since = rfc3339_milliseconds(cause.since());
            printable(&format!("{what}, since {since}: {}", cause.reason))
        });
        shown.collect()
    }

    fn record(&self, name: &str) -> Result<Record, Failure> {
        let (directory, _) = Directory::read(&self.file, self.memory_kib_max)?;
        find(&directory, &self.file, name).map_err(Failure::from)
    }

    fn refuse_existing(&self, name: &str) -> Result<(), Failure> {
        let prepared = prepare_name(name)
            .map_err(|unusable| Finding::error(format!("the name {unusable}")))?;
        if !self.file.exists() {
            return Ok(());
        }
        let (directory, _) = Directory::read(&self.file, self.memory_kib_max)?;
        match directory.find(&prepared) {
            None => Ok(()),
            Some(record) => {
                let origin = &record.account.origin;
                let message = format!("the account `{name}` exists already, at {origin}");
                let hint = format!("for another password: gatepost account password {name}");
                Err(Finding::error(message).hint(hint).into())
            }
        }
    }

    fn edit(&self, name: &str, edit: &Edit) -> Result<Edited, Failure> {
        let mut edited = edit::apply(&self.file, name, edit, self.memory_kib_max)?;
        self.say_all(std::mem::take(&mut edited.warnings));
        Ok(edited)
    }
}

/// The account of this name, however it is written.
pub(super) fn find(directory: &Directory, file: &Path, name: &str) -> Result<Record, Vec<Finding>> {
    let prepared = prepare_name(name)
        .map_err(|unusable| vec![Finding::error(format!("the name {unusable}"))])?;
    directory.find(&prepared).cloned().ok_or_else(|| {
        let names = directory.records().iter();
        let hint = match nearest(name, names.map(|record| record.account.name.as_str())) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "gatepost account list shows all of them".to_owned(),
        };
        let message = format!("there is no account `{name}`");
        vec![Finding::error(message).in_file(file).hint(hint)]
    })
}

fn check_patterns(patterns: &[String]) -> Result<(), Failure> {
    let wrong = patterns
        .iter()
        .filter_map(|pattern| SenderPattern::parse(pattern).err());
    let findings: Vec<Finding> = wrong
        .map(|error| {
            Finding::error(format!("--send-as {error}"))
                .hint("--send-as alice@example.org, or '*@lists.example.org' in quotes")
        })
        .collect();
    match findings.is_empty() {
        true => Ok(()),
        false => Err(findings.into()),
    }
}

fn done(what: &str, edited: &Edited) -> String {
    let name = &edited.name;
    match edited.changed {
        true => format!("{what} {name}; a running gatepost notices within seconds"),
        false => format!("{what} {name}; it was so before"),
    }
}

/// Asks for a password and gives what is kept of it.
fn new_password(
    name: &str,
    from_stdin: bool,
    store: Store,
    beside: Option<&Verifier>,
) -> Result<NewPassword, Failure> {
    let password = match from_stdin {
        true => read_line(std::io::stdin())?,
        false => ask_twice(name)?,
    };
    let prepared = prepare_password(&password)
        .map_err(|unusable| Finding::error(format!("the password {unusable}")))?;
    store
        .make(&prepared, beside)
        .map_err(|error| Finding::error(error.to_string()).into())
}

fn ask_twice(name: &str) -> Result<Secret, Failure> {
    let ask = |prompt: String| {
        rpassword::prompt_password(prompt)
            .map(|text| Secret::new(text.into_bytes()))
            .map_err(|error| {
                let finding = Finding::error(format!("cannot ask for a password: {error}"));
                Failure::from(finding.hint("without a terminal, use --password-stdin"))
            })
    };
    let first = ask(format!("Password for {name}: "))?;
    let second = ask("The same again: ".to_owned())?;
    match first.expose() == second.expose() {
        true => Ok(first),
        false => Err(Finding::error("the two passwords differ; nothing was changed").into()),
    }
}

/// The first line of `input` without its end; what follows it is left alone.
fn read_line(input: impl std::io::Read) -> Result<Secret, Failure> {
    let bound = PASSWORD_BYTES_MAX as u64 + 2;
    // Reserved at once, so that no shorter copy is left behind in freed memory.
    let mut line = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX + 2));
    BufReader::new(input.take(bound))
        .read_until(b'\n', &mut line)
        .map_err(|error| Finding::error(format!("cannot read the password: {error}")))?;
    let text = line.strip_suffix(b"\n").unwrap_or(&line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    Ok(Secret::new(text.to_vec()))
}

fn to_json(record: &Record, memory: &LoginState) -> Value {
    let account = &record.account;
    let texts = |texts: Vec<String>| Value::from(texts);
    json!({
        "name": account.name,
        "enabled": account.enabled,
        "has_password": record.password.is_some(),
        "has_scram": record.has_scram(),
        "last_login": memory.last_used(&account.name, "").map(rfc3339_milliseconds),
        "send_as": texts(account.send_as.iter().map(|(pattern, _)| pattern.to_string()).collect()),
        "allow_from": texts(account.allow_from.iter().map(ToString::to_string).collect()),
        "messages_per_hour": limit_json(&account.messages_per_hour),
        "recipients_per_day": limit_json(&account.recipients_per_day),
        "over_limit": account.over_limit.as_ref().map(|(over_limit, _)| over_limit.name()),
        "tripwires": account.tripwires.as_deref().map(tripwires_json),
        "note": account.note,
        "credentials": credential::to_json(record, memory),
        "file": account.origin.file.display().to_string(),
        "line": account.origin.line,
    })
}

/// Text for a terminal: what could move its cursor or change its colours is escaped.
pub(super) fn printable(text: &str) -> String {
    let escape = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escape).collect()
}

/// `enabled`, or why nobody can log in.
fn state(record: &Record) -> &'static str {
    match (record.account.enabled, record.has_secret()) {
        (false, _) => "disabled",
        (true, false) => "no password",
        (true, true) => "enabled",
    }
}

/// The mechanisms that what is kept of its password is good for.
fn mechanisms(record: &Record) -> &'static str {
    match (&record.password, record.has_scram()) {
        (None, _) => "no password of its own",
        (Some(_), false) => "PLAIN, LOGIN",
        (Some(_), true) => "PLAIN, LOGIN, SCRAM-SHA-256",
    }
}

fn last_used(memory: &LoginState, account: &str, credential: &str) -> String {
    match memory.last_used(account, credential) {
        Some(time) => rfc3339_milliseconds(time),
        None => "none that is remembered".to_owned(),
    }
}

fn patterns(record: &Record) -> String {
    let patterns = record.account.send_as.iter();
    let texts: Vec<String> = patterns.map(|(pattern, _)| pattern.to_string()).collect();
    match texts.is_empty() {
        true => "nobody".to_owned(),
        false => texts.join(", "),
    }
}

fn table(records: &[Record]) -> Vec<String> {
    let widths = records
        .iter()
        .map(|record| record.account.name.chars().count());
    let width = widths.max().unwrap_or(0);
    records
        .iter()
        .map(|record| {
            let name = &record.account.name;
            let note = match &record.account.note {
                Some(note) => format!("  # {}", printable(note)),
                None => String::new(),
            };
            format!(
                "{name:width$}  {:11}  sends as {}{note}",
                state(record),
                patterns(record)
            )
        })
        .collect()
}

/// What an account says of its own trip wires.
fn tripwires_json(own: &OwnTripwires) -> Value {
    let mut said = Map::new();
    if let Some((mode, _)) = &own.mode {
        said.insert("mode".to_owned(), mode.name().into());
    }
    for wire in Wire::ALL {
        let limit = wire.own(own).cloned();
        if limit.is_some() {
            said.insert(wire.name().to_owned(), limit_json(&limit));
        }
    }
    said.into()
}

fn limit_json(own: &Option<(Limit, Origin)>) -> Value {
    match own {
        None => Value::Null,
        Some((Limit::Unlimited, _)) => "unlimited".into(),
        Some((Limit::AtMost(number), _)) => number.get().into(),
    }
}

fn description(record: &Record, memory: &LoginState) -> Vec<String> {
    let account = &record.account;
    let limit = |own: &Option<(Limit, Origin)>| match own {
        None => "as in [limits.account]".to_owned(),
        Some((Limit::Unlimited, _)) => "unlimited".to_owned(),
        Some((Limit::AtMost(number), _)) => number.to_string(),
    };
    let networks: Vec<String> = account.allow_from.iter().map(ToString::to_string).collect();
    let networks = match networks.is_empty() {
        true => "everywhere".to_owned(),
        false => networks.join(", "),
    };
    let mut lines = vec![
        format!("name                {}", account.name),
        format!("state               {}", state(record)),
        format!("logs in with        {}", mechanisms(record)),
        format!(
            "last login          {}",
            last_used(memory, &account.name, "")
        ),
        format!("send_as             {}", patterns(record)),
        format!("allow_from          {networks}"),
        format!("messages_per_hour   {}", limit(&account.messages_per_hour)),
        format!("recipients_per_day  {}", limit(&account.recipients_per_day)),
    ];
    if let Some((over_limit, _)) = &account.over_limit {
        lines.push(format!("over_limit          {}", over_limit.name()));
    }
    if let Value::Object(said) = account
        .tripwires
        .as_deref()
        .map_or(Value::Null, tripwires_json)
    {
        let said = said.iter();
        lines.extend(said.map(|(key, value)| format!("tripwires           {key} = {value}")));
    }
    lines.extend(
        credential::lines(record, memory).map(|line| format!("credential          {line}")),
    );
    if let Some(note) = &account.note {
        lines.push(format!("note                {}", printable(note)));
    }
    lines.push(format!("written at          {}", account.origin));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"[[account]]
name = "alice@example.org"
password = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
note = "2nd floor"
messages_per_hour = 50
recipients_per_day = "unlimited"
over_limit = "hold"
tripwires = { mode = "dry-run", networks_per_hour = 40, refused_recipients_per_hour = "unlimited" }

[[account]]
name = "scanner"
send_as = ["*@example.org", "<>"]
allow_from = ["192.0.2.0/24"]
disabled = true
"#;

    fn directory() -> Directory {
        Directory::parse(Path::new("accounts.toml"), SOURCE, 1024)
            .unwrap()
            .0
    }

    #[test]
    fn one_line_of_standard_input() {
        for (input, password) in [
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("secret", "secret"),
            (" secret \nmore\n", " secret "),
            ("\n", ""),
            ("", ""),
        ] {
            let line = read_line(input.as_bytes()).unwrap();
            assert_eq!(line.expose(), password.as_bytes(), "{input:?}");
        }
        let endless = read_line(std::io::repeat(b'x')).unwrap();
        assert!(prepare_password(&endless).is_err());
    }

    #[test]
    fn no_output_shows_a_hash() {
        let directory = directory();
        let mut shown = table(directory.records()).join("\n");
        for record in directory.records() {
            let memory = LoginState::in_memory();
            shown.push_str(&description(record, &memory).join("\n"));
            shown.push_str(&to_json(record, &memory).to_string());
        }
        assert!(!shown.contains("argon2"), "{shown}");
        assert!(!shown.contains("c29tZXNhbHQ"), "{shown}");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("o'neil \u{1b}[2J"), "o'neil \\u{1b}[2J");
    }

    #[test]
    fn lines_and_json() {
        let directory = directory();
        assert_eq!(
            table(directory.records()),
            [
                "alice@example.org  enabled      sends as alice@example.org  # 2nd floor",
                "scanner            disabled     sends as *@example.org, <>",
            ]
        );
        assert_eq!(
            to_json(&directory.records()[0], &LoginState::in_memory()),
            json!({
                "name": "alice@example.org", "enabled": true, "has_password": true,
                "has_scram": false, "last_login": null,
                "send_as": ["alice@example.org"], "allow_from": [], "messages_per_hour": 50,
                "recipients_per_day": "unlimited", "over_limit": "hold",
                "tripwires": {"mode": "dry-run", "networks_per_hour": 40, "refused_recipients_per_hour": "unlimited"},
                "note": "2nd floor", "credentials": [], "file": "accounts.toml", "line": 1,
            })
        );
        let shown = description(&directory.records()[0], &LoginState::in_memory());
        for line in [
            "tripwires           mode = \"dry-run\"",
            "tripwires           networks_per_hour = 40",
            "tripwires           refused_recipients_per_hour = \"unlimited\"",
        ] {
            assert!(shown.iter().any(|shown| shown == line), "{line}: {shown:?}");
        }
        assert_eq!(
            to_json(&directory.records()[1], &LoginState::in_memory()),
            json!({
                "name": "scanner", "enabled": false, "has_password": false,
                "has_scram": false, "last_login": null,
                "send_as": ["*@example.org", "<>"], "allow_from": ["192.0.2.0/24"], "messages_per_hour": null,
                "recipients_per_day": null, "over_limit": null, "tripwires": null, "note": null, "credentials": [], "file": "accounts.toml", "line": 10,
            })
        );
    }

    #[test]
    fn unknown_names_and_patterns_come_with_a_hint() {
        let file = Path::new("accounts.toml");
        let findings = find(&directory(), file, "alcie@example.org").unwrap_err();
        assert_eq!(
            findings[0].one_line(),
            "accounts.toml: there is no account `alcie@example.org` (hint: did you mean `alice@example.org`?)"
        );
        let Failure(findings) =
            check_patterns(&["*@example.org".to_owned(), "nonsense".to_owned()]).unwrap_err();
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("`nonsense`"));
    }
}
