//! The configuration: one TOML file, read into each room's own settings.
//!
//! Owns the names, types, bounds and defaults of all keys; [`KEYS`] has them all, `config/gatepost.toml` explains them.
//! Does not open what the configuration names: certificates and accounts are read by their rooms, and [`survey`]
//! puts all of it together for `check` and `serve`.
//!
//! It fails with [`Finding`]s that name file, line, column and remedy: all of them at once, except that a syntax error
//! comes alone.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use self::quantity::{Bounds, Problem, Size, Wait};
use self::reader::{Document, Located, Section};
use crate::account::AccountSettings;
use crate::account::token::IssuerSettings;
use crate::audit::{LogFormat, LogSettings};
use crate::decision::{Limit, Origin, OverLimit};
use crate::diagnostic::{Finding, nearest};
use crate::guard::GuessingSettings;
use crate::policy::PolicySettings;
use crate::policy::tripwire::TripwireSettings;
use crate::queue::SpoolSettings;
use crate::sandbox::{Needs, ProcessSettings, SandboxMode};
use crate::sasl::Mechanism;
use crate::server::alert::AlertSettings;
use crate::server::{Listen, Proxies, ServerLimits, TlsStart};
use crate::session::Profile;
use crate::smtp::address::Domain;
use crate::smtp::extension::Extension;
use crate::tls::client::{ClientAuthorityFiles, ClientCertificates};
use crate::tls::{CertificateFiles, MinimumVersion, TlsSettings};

mod guessing;
mod issuers;
mod keys;
mod quantity;
mod reader;
pub mod survey;
mod tripwires;

pub use keys::KEYS;

/// A configuration that holds together, in the words of those who use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file that it was read from.
    pub path: PathBuf,
    /// Who it runs as, and how confined.
    pub process: ProcessSettings,
    /// Where to listen, in the order of the file. Never empty, never twice the same.
    pub listen: Vec<Listen>,
    /// Whose PROXY header is believed, for each listener with `proxy_protocol`. Never an empty list.
    pub proxies: Proxies,
    /// What holds for every session.
    pub profile: Profile,
    /// What holds for the server as a whole.
    pub server: ServerLimits,
    /// Certificates and TLS versions.
    pub tls: TlsSettings,
    /// The accounts file and the cost of password checks.
    pub accounts: AccountSettings,
    /// What is done about those who try passwords.
    pub guessing: GuessingSettings,
    /// The limits of every account that says nothing else.
    pub policy: PolicySettings,
    /// The queue directory.
    pub queue: SpoolSettings,
    /// What is watched of the accounts.
    pub tripwires: TripwireSettings,
    /// Who is told when one of them was contained.
    pub alert: AlertSettings,
    /// The log.
    pub log: LogSettings,
    /// Whether Received gets a token that tells the operator who sent a message.
    pub trace_token: bool,
    /// Where some of it is written.
    pub origins: Origins,
}

/// Where the things that can fail later are written, for the findings about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// Of [`ProcessSettings::user`].
    pub user: Option<Origin>,
    /// Of each of [`Config::listen`].
    pub listen: Vec<Origin>,
    /// Of each of [`TlsSettings::certificates`].
    pub certificates: Vec<Origin>,
    /// Of each of the authorities that vouch for clients.
    pub client_authorities: Vec<Origin>,
}

impl Config {
    /// The files that it names and that are read again when they change.
    pub fn files(&self) -> Vec<PathBuf> {
        let certificates = self.tls.certificates.iter();
        let certificates = certificates.flat_map(|files| [files.chain.clone(), files.key.clone()]);
        let authorities = self.tls.clients.authorities.iter();
        let authorities =
            authorities.flat_map(|files| [Some(files.file.clone()), files.crl.clone()]);
        certificates
            .chain(authorities.flatten())
            .chain(self.files_of_accounts())
            .collect()
    }

    /// Those of them that say who may log in: the accounts file, and keys of issuers.
    pub fn files_of_accounts(&self) -> Vec<PathBuf> {
        let keys = self.accounts.issuers.iter();
        let keys = keys.filter_map(|issuer| issuer.key_file().map(Path::to_owned));
        std::iter::once(self.accounts.file.clone())
            .chain(keys)
            .collect()
    }

    /// What of the machine the daemon needs as long as it runs. Whatever reads another file, or connects to somebody,
    /// says so here: the sandbox keeps everything else away.
    pub fn needs(&self) -> Needs {
        let issuers = &self.accounts.issuers;
        let mut read = self.files();
        read.push(self.path.clone());
        read.extend(issuers.iter().flat_map(IssuerSettings::other_files));
        let replace = match self.accounts.upgrade_hashes {
            true => vec![self.accounts.file.clone()],
            false => Vec::new(),
        };
        Needs {
            read,
            replace,
            own: vec![self.queue.directory.clone()],
            network_client: issuers.iter().any(IssuerSettings::is_asked),
        }
    }
}

/// A configuration, and what is odd about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What `serve` starts in spite of.
    pub warnings: Vec<Finding>,
}

/// Reads the file `path`.
///
/// On failure the findings hold at least one error; they may hold warnings besides.
pub fn load(path: &Path) -> Result<Loaded, Vec<Finding>> {
    let source = read_file(path)?;
    parse(path, &source)
}

/// Reads `source`, which is the text of the file `path`. No file is touched, and of the machine only its name is
/// asked.
pub fn parse(path: &Path, source: &str) -> Result<Loaded, Vec<Finding>> {
    let document = Document::parse(path, source)?;
    let config = read(path, &document);
    document.report_unknown();
    let findings = document.into_findings();
    if findings.iter().any(Finding::is_error) {
        Err(findings)
    } else {
        Ok(Loaded {
            config,
            warnings: findings,
        })
    }
}

fn read_file(path: &Path) -> Result<String, Vec<Finding>> {
    let refuse = |message: String, hint: Option<&str>| {
        let mut finding = Finding::error(message).in_file(path);
        finding.hint = hint.map(str::to_owned);
        vec![finding]
    };
    let unreadable = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => Some(
                "name another file with `-c FILE` or $GATEPOST_CONFIG; `gatepost try` needs none",
            ),
            io::ErrorKind::PermissionDenied => Some(
                "let the user that gatepost runs as read it, and enter the directories above it",
            ),
            _ => None,
        };
        refuse(format!("cannot read the configuration: {error}"), hint)
    };
    let mut octets = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut octets))
        .map_err(unreadable)?;
    if octets.len() as u64 > FILE_BYTES_MAX {
        return Err(refuse(
            format!("the configuration is larger than {}", Size(FILE_BYTES_MAX)),
            Some("this is hardly the file that was meant"),
        ));
    }
    String::from_utf8(octets).map_err(|error| {
        let octet = error.utf8_error().valid_up_to();
        refuse(
            format!("the configuration is not UTF-8 from octet {octet} on"),
            Some("save it as UTF-8, which TOML requires"),
        )
    })
}

/// Reads every section. What cannot be used is reported, and stands here as its default.
fn read(path: &Path, document: &Document<'_>) -> Config {
    let profile = Profile::default();
    let server = ServerLimits::default();
    let mut origins = Origins::default();

    let hostname = hostname(document);
    let process = process(document, &mut origins.user);
    let mut proxies = Proxies::new();
    let listen = listeners(document, &mut origins.listen, &mut proxies);
    let certificates = certificates(document, &mut origins.certificates);
    let authorities = client_authorities(document, &mut origins.client_authorities);

    let section = document.section("tls");
    let minimum_version = section.choice(
        "minimum_version",
        MinimumVersion::default(),
        &[
            ("1.2", MinimumVersion::Tls12),
            ("1.3", MinimumVersion::Tls13),
        ],
    );
    let handshake_timeout =
        section.duration("handshake_timeout", server.handshake_timeout, TIMEOUT);

    let section = document.section("auth");
    let issuers = issuers::issuers(document);
    let by_certificate = (!authorities.is_empty()).then_some(Mechanism::External);
    let by_token: &[Mechanism] = match document.lacks("token_issuer") {
        true => &[],
        false => &[Mechanism::OauthBearer, Mechanism::Xoauth2],
    };
    let mechanisms = mechanisms(&section).unwrap_or_else(|| {
        let by_certificate = by_certificate.into_iter().collect();
        [profile.mechanisms, by_certificate, by_token.to_vec()].concat()
    });
    let external = mechanisms.contains(&Mechanism::External);
    if let (Some(origin), false) = (origins.client_authorities.first(), external) {
        let finding = Finding::warning(format!(
            "no client is asked for a certificate: there is a [[client_ca]], in line {}, and auth.mechanisms does \
             not name EXTERNAL",
            origin.line
        ));
        document.report_whole(finding.hint("add \"EXTERNAL\" to auth.mechanisms"));
    }
    let hash_memory = section.size("hash_memory", HASH_MEMORY, HASH_MEMORY_BOUNDS);
    let hash_queue = section.count("hash_queue", HASH_QUEUE, HASH_QUEUE_BOUNDS);
    let cache_for = section.duration_or_off("cache_for", Some(CACHE_FOR), CACHE_FOR_BOUNDS);
    let upgrade_hashes = section.flag("upgrade_hashes", false);
    issuers::report_mismatch(document, &section, &mechanisms);

    let section = document.section("extensions");
    let mut extensions = extensions(&section);
    let future_release_max = section.duration_or_off(
        "future_release_max",
        Some(profile.future_release_max),
        FUTURE_RELEASE,
    );
    if future_release_max.is_none() {
        extensions.retain(|extension| *extension != Extension::FutureRelease);
    }
    let deliver_by_min =
        section.duration_or_off("deliver_by_minimum", Some(DELIVER_BY_MINIMUM), TIMEOUT);
    let priority_max = section.count("priority_max", profile.priority_max, PRIORITY);

    let section = document.section("accounts");
    let accounts_file = section.path("file", ACCOUNTS_FILE_HINT);
    if accounts_file.is_none() && !section.has("file") {
        section.report_missing("file", ACCOUNTS_FILE_HINT);
    }

    let section = document.section("queue");
    let directory = section
        .path("directory", "name a directory that is gatepost's alone")
        .unwrap_or_else(|| PathBuf::from(QUEUE_DIRECTORY));
    let SpoolSettings {
        directory,
        minimum_free,
        journal_size,
        segment_size,
        commit_timeout,
        duplicate_window,
    } = SpoolSettings::new(directory);
    let minimum_free = section.size("minimum_free", minimum_free, MINIMUM_FREE_BOUNDS);
    let journal_size = section.size("journal_size", journal_size, JOURNAL_SIZE);
    let commit_timeout = section.duration("commit_timeout", commit_timeout, TIMEOUT);

    let duplicate_window = section.duration_or_off(
        "duplicate_window",
        duplicate_window,
        DUPLICATE_WINDOW_BOUNDS,
    );

    let section = document.section("limits");
    let message_bytes_max = section.size("message_size", profile.message_bytes_max, MESSAGE_SIZE);
    let header_bytes_max = header_size(&section, message_bytes_max, profile.header_bytes_max);
    let recipients_max =
        section.count("recipients_per_message", profile.recipients_max, RECIPIENTS);
    let messages_max = section.count(
        "messages_per_connection",
        profile.messages_max,
        MESSAGES_PER_CONNECTION,
    );
    let received_fields_max = section.count(
        "received_fields",
        profile.received_fields_max,
        RECEIVED_FIELDS,
    );
    let connections = section.count("connections", server.connections, CONNECTIONS);
    let connections_per_address = section.count(
        "connections_per_address",
        server.connections_per_address,
        CONNECTIONS,
    );
    let idle_timeout = section.duration("idle_timeout", profile.idle_timeout, TIMEOUT);
    let login_timeout = section.duration("login_timeout", profile.login_timeout, TIMEOUT);
    let data_timeout = section.duration("data_timeout", profile.data_timeout, TIMEOUT);
    let shutdown_timeout = section.duration("shutdown_timeout", server.shutdown_timeout, TIMEOUT);
    let errors_max = section.count("errors_per_connection", profile.errors_max, ERRORS);
    let failed_logins_max = section.count(
        "failed_logins_per_connection",
        profile.failed_logins_max,
        FAILED_LOGINS,
    );

    let section = document.section("limits.account");
    let messages_per_hour = section.limit("messages_per_hour", MESSAGES_PER_HOUR);
    let recipients_per_day = section.limit("recipients_per_day", RECIPIENTS_PER_DAY);
    let over_limit = section.choice_at("over_limit", OverLimit::default(), &OverLimit::WORDS);
    let held_messages = (
        section.count("held_messages", HELD_MESSAGES, HELD_MESSAGES_BOUNDS),
        section
            .span_of("held_messages")
            .map(|span| document.origin(span)),
    );

    let tripwires = tripwires::tripwires(document, messages_per_hour.0, recipients_per_day.0);
    let alert = tripwires::alert(document, path, &hostname);

    let section = document.section("message");
    let reveal_client = section.flag("reveal_client", profile.reveal_client);
    let trace_token = section.flag("trace_token", true);

    let log_default = LogSettings::default();
    let section = document.section("log");
    let format = section.choice(
        "format",
        log_default.format,
        &[("text", LogFormat::Text), ("json", LogFormat::Json)],
    );
    let level = section.choice(
        "level",
        log_default.level,
        &[
            ("error", tracing::Level::ERROR),
            ("warn", tracing::Level::WARN),
            ("info", tracing::Level::INFO),
            ("debug", tracing::Level::DEBUG),
            ("trace", tracing::Level::TRACE),
        ],
    );
    let (strangers_per_minute, _) =
        section.limit("strangers_per_minute", log_default.strangers_per_minute);

    Config {
        path: path.to_owned(),
        process,
        listen,
        proxies,
        profile: Profile {
            hostname,
            mechanisms,
            token_hint: issuers::hint(&issuers),
            extensions,
            future_release_max: future_release_max.unwrap_or(profile.future_release_max),
            deliver_by_min,
            priority_max,
            message_bytes_max,
            header_bytes_max,
            received_fields_max,
            recipients_max,
            messages_max,
            messages_per_hour: messages_per_hour.0,
            recipients_per_day: recipients_per_day.0,
            over_limit: over_limit.0,
            errors_max,
            failed_logins_max,
            idle_timeout,
            login_timeout,
            data_timeout,
            reveal_client,
            // The key is for whoever has the queue directory to put in.
            trace_key: None,
            fingerprints: duplicate_window.is_some(),
        },
        server: ServerLimits {
            connections,
            connections_per_address,
            handshake_timeout,
            shutdown_timeout,
        },
        tls: TlsSettings {
            certificates,
            minimum_version,
            clients: ClientCertificates {
                asked_for: external,
                authorities,
            },
        },
        accounts: AccountSettings {
            file: accounts_file.unwrap_or_default(),
            hash_memory,
            hash_queue,
            cache_for,
            upgrade_hashes,
            named_by_certificates: external && by_certificate.is_some(),
            issuers,
        },
        guessing: guessing::guessing(document),
        policy: PolicySettings {
            messages_per_hour,
            recipients_per_day,
            over_limit,
            held_messages,
        },
        queue: SpoolSettings {
            directory,
            minimum_free,
            journal_size,
            segment_size,
            commit_timeout,
            duplicate_window,
        },
        tripwires,
        alert,
        log: LogSettings {
            format,
            level,
            strangers_per_minute,
        },
        trace_token,
        origins,
    }
}

/// `hostname`, else the machine's name. International names come out as A-labels, which is what goes on the wire.
fn hostname(document: &Document<'_>) -> String {
    let section = document.section("");
    let example = "write the name that clients connect to: hostname = \"mail.example.org\"";
    if section.has("hostname") {
        let Some(text) = section.text("hostname", example) else {
            return String::new();
        };
        match Domain::parse_international(text.value) {
            Ok(domain) => return domain.to_string(),
            Err(_) => {
                let problem = Problem::new("is not the name of a host", example);
                section.report("hostname", text.span, problem);
                return String::new();
            }
        }
    }
    let machine = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default();
    match Domain::parse_international(&machine) {
        Ok(domain) => {
            if !machine.contains('.') {
                document.report_whole(
                    Finding::warning(format!(
                        "there is no `hostname`, and the machine's own name, `{machine}`, has no domain"
                    ))
                    .hint(example),
                );
            }
            domain.to_string()
        }
        Err(_) => {
            document.report_whole(
                Finding::error(format!(
                    "there is no `hostname`, and the machine's own name cannot serve as one: \"{}\"",
                    machine.escape_debug()
                ))
                .hint(example),
            );
            String::new()
        }
    }
}

/// `user`, `group` and `sandbox`. Whether there are such a user and group is looked at later.
fn process(document: &Document<'_>, origin: &mut Option<Origin>) -> ProcessSettings {
    let section = document.section("");
    let name = |key, example| {
        let text = section.text(key, example)?;
        if text.value.is_empty() || text.value.contains('\0') {
            section.report(key, text.span, Problem::new("is not a name", example));
            return None;
        }
        Some(text)
    };
    let user = name("user", "write the name of a user: user = \"gatepost\"");
    let group = name("group", "write the name of a group: group = \"gatepost\"");
    if let Some(group) = &group
        && !section.has("user")
    {
        let hint = "name the user, too: user = \"gatepost\"";
        let problem = Problem::new("stands without `user`", hint);
        section.report("group", group.span.clone(), problem);
    }
    *origin = user.as_ref().map(|user| document.origin(user.span.clone()));
    let words = [
        ("on", SandboxMode::On),
        ("off", SandboxMode::Off),
        ("required", SandboxMode::Required),
    ];
    ProcessSettings {
        user: user.map(|user| user.value.to_owned()),
        group: group.map(|group| group.value.to_owned()),
        sandbox: section.choice("sandbox", SandboxMode::default(), &words),
    }
}

/// All `[[listen]]`, one [`Listen`] for each address.
fn listeners(
    document: &Document<'_>,
    origins: &mut Vec<Origin>,
    proxies: &mut Proxies,
) -> Vec<Listen> {
    if document.lacks("listen") {
        document.report_whole(Finding::error("there is no [[listen]]").hint(
            "say where to listen: [[listen]] with address = [\"0.0.0.0:587\", \"[::]:587\"] and tls = \"starttls\"",
        ));
    }
    let example = "write an IP address and a port: \"0.0.0.0:587\", \"[::]:587\"";
    let mut listen: Vec<Listen> = Vec::new();
    for section in document.sections("listen") {
        let tls = section.choice(
            "tls",
            TlsStart::StartTls,
            &[
                ("starttls", TlsStart::StartTls),
                ("implicit", TlsStart::Implicit),
            ],
        );
        let believed = believed(document, &section);
        if !section.has("address") {
            section.report_missing("address", example);
        }
        for Located { value, span } in section.texts("address", example) {
            let address = match parse_address(value) {
                Ok(address) => address,
                Err(problem) => {
                    section.report("address", span, problem);
                    continue;
                }
            };
            if let Some(index) = listen
                .iter()
                .position(|other| overlap(other.address, address))
            {
                let other = &listen[index];
                let problem = overlap_problem(other, address, tls, origins[index].line);
                section.report("address", span, problem);
                continue;
            }
            let new = Listen {
                address,
                tls,
                proxy_protocol: believed.is_some(),
            };
            if let Some(networks) = &believed
                && let Some(others) = proxies.insert(new, networks.clone())
                && others != *networks
            {
                // Only port 0 can be there twice.
                let text = format!("is there twice, with other `proxies`: \"{address}\"");
                let problem = Problem::new(text, "write the same `proxies` for both");
                section.report("address", span, problem);
                continue;
            }
            warn_of_unusual_start(document, address, tls, span.clone());
            origins.push(document.origin(span));
            listen.push(new);
        }
    }
    listen
}

/// Whose PROXY header a listener believes; `None` where there is none to believe.
fn believed(document: &Document<'_>, section: &Section<'_>) -> Option<Vec<IpNet>> {
    let example =
        "name the proxies that connect here: proxies = [\"192.0.2.1\", \"2001:db8::/64\"]";
    let proxy_protocol = section.flag("proxy_protocol", false);
    let texts = match proxy_protocol {
        true => section.texts("proxies", example),
        false => section.texts_if_any("proxies", example),
    };
    let mut networks = Vec::new();
    for Located { value, span } in texts {
        let shown = value.escape_debug();
        let network = match (value.parse::<IpNet>(), value.parse::<IpAddr>()) {
            (Ok(network), _) => network.trunc(),
            (_, Ok(address)) => address.to_canonical().into(),
            _ => {
                let text = format!("is neither a network nor an address: \"{shown}\"");
                section.report("proxies", span, Problem::new(text, example));
                continue;
            }
        };
        if network.prefix_len() == 0 {
            let text =
                format!("`listen.proxies` lets everybody say where they come from: \"{shown}\"");
            let hint = "name the proxies alone: an address that anybody can make up is no use to limits, `allow_from` and the log";
            document.report(span, Finding::warning(text).hint(hint));
        } else if value
            .parse::<IpNet>()
            .is_ok_and(|written| written != network)
        {
            let text =
                format!("`listen.proxies` has \"{shown}\", which means the network {network}");
            let hint = "write it so, or the one address without the slash";
            document.report(span, Finding::warning(text).hint(hint));
        }
        networks.push(network);
    }
    if proxy_protocol && !section.has("proxies") {
        section.report_missing("proxies", example);
    }
    if !proxy_protocol && !networks.is_empty() {
        let hint = "add proxy_protocol = true, or remove `proxies`";
        let finding = Finding::error("`listen.proxies` is of no use without `proxy_protocol`");
        document.report(section.span(), finding.hint(hint));
    }
    proxy_protocol.then_some(networks)
}

fn parse_address(text: &str) -> Result<SocketAddr, Problem> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let host_and_port = text
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok());
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let hint = match (host_and_port, bare.parse::<IpAddr>()) {
        // `::1:587` is an address as it stands, but hardly meant so.
        (Some((host, port)), _) if host.parse::<Ipv6Addr>().is_ok() => {
            format!("put brackets around the address: \"[{host}]:{port}\"")
        }
        (_, Ok(address)) => format!("add the port: \"{}\"", SocketAddr::new(address, 587)),
        (Some(("" | "*", port)), _) => {
            format!("for all addresses, write [\"0.0.0.0:{port}\", \"[::]:{port}\"]")
        }
        (Some(_), _) => "write an IP address of this machine, not a name".to_owned(),
        (None, _) => {
            "write an IP address and a port from 0 to 65535: \"0.0.0.0:587\", \"[::]:587\""
                .to_owned()
        }
    };
    let shown = text.escape_debug();
    Err(Problem::new(
        format!("is not an address and a port: \"{shown}\""),
        hint,
    ))
}

/// Whether the system would refuse to bind both. IPv4 and IPv6 never meet: IPv6 listeners are for IPv6 alone.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // Port 0 is a free port, another one each time.
    one.port() == other.port()
        && one.port() != 0
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

fn overlap_problem(other: &Listen, address: SocketAddr, tls: TlsStart, line: usize) -> Problem {
    if other.tls != tls {
        Problem::new(
            format!("is taken in line {line} with the other kind of TLS: \"{address}\""),
            "one port speaks one kind of TLS; 587 is usual for \"starttls\", 465 for \"implicit\"",
        )
    } else if other.address == address {
        Problem::new(
            format!("has this address already, in line {line}: \"{address}\""),
            "remove one of the two",
        )
    } else {
        Problem::new(
            format!(
                "has this address already, in line {line}: \"{}\" and \"{address}\" overlap",
                other.address
            ),
            "keep the one for all addresses, or name the single addresses only",
        )
    }
}

/// RFC 8314 section 3.3 gives 465 to implicit TLS, RFC 6409 section 3.1 gives 587 to STARTTLS; clients go by that.
fn warn_of_unusual_start(
    document: &Document<'_>,
    address: SocketAddr,
    tls: TlsStart,
    span: Range<usize>,
) {
    let expected = match (address.port(), tls) {
        (465, TlsStart::StartTls) => "implicit",
        (587, TlsStart::Implicit) => "starttls",
        _ => return,
    };
    let port = address.port();
    document.report(
        span,
        Finding::warning(format!(
            "clients expect tls = \"{expected}\" on port {port}"
        ))
        .hint(format!("write tls = \"{expected}\" below this [[listen]]")),
    );
}

/// All `[[certificate]]`.
fn certificates(document: &Document<'_>, origins: &mut Vec<Origin>) -> Vec<CertificateFiles> {
    let chain_hint =
        "name the PEM file with the certificate and its intermediates: chain = \"fullchain.pem\"";
    let key_hint = "name the PEM file with the private key: key = \"privkey.pem\"";
    if document.lacks("certificate") {
        document.report_whole(Finding::error("there is no [[certificate]]").hint(
            "without TLS nobody can log in: [[certificate]] with chain = \"fullchain.pem\" and key = \"privkey.pem\"",
        ));
    }
    let mut certificates = Vec::new();
    for section in document.sections("certificate") {
        for (key, hint) in [("chain", chain_hint), ("key", key_hint)] {
            if !section.has(key) {
                section.report_missing(key, hint);
            }
        }
        if let (Some(chain), Some(key)) = (
            section.path("chain", chain_hint),
            section.path("key", key_hint),
        ) {
            certificates.push(CertificateFiles { chain, key });
            origins.push(document.origin(section.span()));
        }
    }
    certificates
}

/// All `[[client_ca]]`.
fn client_authorities(
    document: &Document<'_>,
    origins: &mut Vec<Origin>,
) -> Vec<ClientAuthorityFiles> {
    let file_hint = "name the PEM file with the certificate of the CA that issues those of clients: file = \"ca.pem\"";
    let crl_hint = "name the PEM file with its list of revoked certificates: crl = \"crl.pem\"";
    let mut authorities = Vec::new();
    for section in document.sections("client_ca") {
        if !section.has("file") {
            section.report_missing("file", file_hint);
        }
        let crl = section.path("crl", crl_hint);
        if let Some(file) = section.path("file", file_hint) {
            authorities.push(ClientAuthorityFiles { file, crl });
            origins.push(document.origin(section.span()));
        }
    }
    authorities
}

/// `auth.mechanisms`; `None` if it is not there.
fn mechanisms(section: &Section<'_>) -> Option<Vec<Mechanism>> {
    if !section.has("mechanisms") {
        return None;
    }
    let names = || Mechanism::ALL.iter().map(|mechanism| mechanism.name());
    let example = format!("one or more of: {}", names().collect::<Vec<_>>().join(", "));
    let mut mechanisms = Vec::new();
    for Located { value, span } in section.texts("mechanisms", &example) {
        match Mechanism::from_name(value) {
            Some(mechanism) if mechanisms.contains(&mechanism) => {
                let text = format!("names {} twice", mechanism.name());
                section.report("mechanisms", span, Problem::new(text, "remove one"));
            }
            Some(mechanism) => mechanisms.push(mechanism),
            None => {
                let upper = value.to_ascii_uppercase();
                let hint = match nearest(&upper, names()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => example.clone(),
                };
                let text = format!("has an unknown mechanism: \"{}\"", value.escape_debug());
                section.report("mechanisms", span, Problem::new(text, hint));
            }
        }
    }
    if !mechanisms.is_empty() && mechanisms.iter().all(|mechanism| mechanism.binds_channel()) {
        let text = "offers nothing to clients that cannot bind a login to the TLS channel";
        let hint = "name \"SCRAM-SHA-256\" beside it, which those on TLS 1.2 are offered";
        section.report("mechanisms", section.span(), Problem::new(text, hint));
    }
    Some(mechanisms)
}

/// What is left to offer without `extensions.withhold`.
fn extensions(section: &Section<'_>) -> Vec<Extension> {
    let names = || Extension::ALL.iter().map(|extension| extension.keyword());
    let example = format!("one or more of: {}", names().collect::<Vec<_>>().join(", "));
    let mut offered = Extension::ALL.to_vec();
    for Located { value, span } in section.texts_if_any("withhold", &example) {
        match Extension::from_keyword(value) {
            Some(extension) => offered.retain(|offered| {
                // RFC 3030 section 3: BINARYMIME is nothing without CHUNKING.
                let goes_too =
                    extension == Extension::Chunking && *offered == Extension::BinaryMime;
                *offered != extension && !goes_too
            }),
            None => {
                let hint = match nearest(&value.to_ascii_uppercase(), names()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => example.clone(),
                };
                let text = format!("has an unknown extension: \"{}\"", value.escape_debug());
                section.report("withhold", span, Problem::new(text, hint));
            }
        }
    }
    offered
}

/// `limits.header_size`. Its default shrinks with `message_size`, so that one key is enough to make messages small.
fn header_size(section: &Section<'_>, message_bytes_max: u64, default: u64) -> u64 {
    let Some(Located { value, span }) = section.size_if_any("header_size", HEADER_SIZE) else {
        return default.min(message_bytes_max);
    };
    if value > message_bytes_max {
        let text = format!(
            "cannot be larger than `limits.message_size`, which is {}",
            Size(message_bytes_max)
        );
        let hint = "the header section is a part of the message: lower this, or raise message_size";
        section.report("header_size", span, Problem::new(text, hint));
    }
    value
}

/// A configuration of this size is none.
const FILE_BYTES_MAX: u64 = 1 << 20;

// Defaults that no settings struct has of its own.
const HASH_MEMORY: u64 = 128 << 20;
const HASH_QUEUE: usize = 256;
const CACHE_FOR: Duration = Duration::from_secs(10 * 60);
const DELIVER_BY_MINIMUM: Duration = Duration::from_secs(60);
const QUEUE_DIRECTORY: &str = "/var/spool/gatepost";
const MESSAGES_PER_HOUR: Limit = at_most(600);
const RECIPIENTS_PER_DAY: Limit = at_most(2000);

/// A large mailing, and little beside what the disk has.
const HELD_MESSAGES: u64 = 10_000;

const fn at_most(count: u64) -> Limit {
    Limit::AtMost(NonZeroU64::new(count).expect("the defaults are not zero"))
}

// Bounds: outside them a value is a slip of the pen, or would break the promise that its comment names.

/// Below a second no client is fast enough; above a day a dead connection is as good as kept for ever.
const TIMEOUT: Bounds<Wait> = Bounds::new(
    Wait(Duration::from_secs(1)),
    Wait(Duration::from_secs(86_400)),
);
/// RFC 1047 is about minutes; a client that comes later has been told to try again, or shows the user what it did.
const DUPLICATE_WINDOW_BOUNDS: Bounds<Wait> = Bounds::new(
    Wait(Duration::from_secs(1)),
    Wait(Duration::from_secs(86_400)),
);
/// RFC 4865 section 3 has nine digits for the seconds; nobody plans for longer than this.
const FUTURE_RELEASE: Bounds<Wait> = Bounds::new(
    Wait(Duration::from_secs(1)),
    Wait(Duration::from_secs(3650 * 86_400)),
);
const MESSAGE_SIZE: Bounds<Size> = Bounds::new(Size(64 << 10), Size(1 << 40))
    .because("RFC 5321 section 4.5.3.1.7 wants room for 64 KiB at least");
/// It is held in memory, once for every connection in the middle of a message.
const HEADER_SIZE: Bounds<Size> = Bounds::new(Size(16 << 10), Size(16 << 20));
const RECIPIENTS: Bounds<usize> = Bounds::new(100, 100_000)
    .because("RFC 5321 section 4.5.3.1.8 wants room for 100 at least; limits.account is the place to restrain senders");
/// All of them are files in one directory.
const HELD_MESSAGES_BOUNDS: Bounds<u64> = Bounds::new(1, 100_000);
/// RFC 9422 section 4: a limit has six digits.
const MESSAGES_PER_CONNECTION: Bounds<u32> = Bounds::new(1, 999_999);
const PRIORITY: Bounds<i8> = Bounds::new(0, 9).because(
    "RFC 6710 has priorities from -9 to 9, and everybody may ask for less than the usual 0",
);
const RECEIVED_FIELDS: Bounds<usize> = Bounds::new(1, 10_000);
const CONNECTIONS: Bounds<usize> = Bounds::new(1, 1_000_000);
const ERRORS: Bounds<u32> = Bounds::new(1, 1000);
const FAILED_LOGINS: Bounds<u32> = Bounds::new(1, 100);
/// One check with the parameters of our own hashes takes 19 MiB; less memory than that could check nobody.
const HASH_MEMORY_BOUNDS: Bounds<Size> = Bounds::new(Size(19 << 20), Size(1 << 40))
    .because("one password check takes 19MiB, and nobody could log in with less");
const HASH_QUEUE_BOUNDS: Bounds<usize> = Bounds::new(1, 65_536);
const CACHE_FOR_BOUNDS: Bounds<Wait> = TIMEOUT;
const MINIMUM_FREE_BOUNDS: Bounds<Size> = Bounds::new(Size(1 << 20), Size(1 << 50))
    .because("a file system filled to the last octet cannot keep what was accepted");

/// Two segments at least, one to write and one to wait; each is a descriptor.
const JOURNAL_SIZE: Bounds<Size> = Bounds::new(Size(8 << 20), Size(1 << 30)).because(
    "it is kept in files of 4MiB, two at least, that are all open and all read at the start",
);

const ACCOUNTS_FILE_HINT: &str = "name the file of the accounts: [accounts] with file = \"accounts.toml\"; `gatepost account add` fills it";
