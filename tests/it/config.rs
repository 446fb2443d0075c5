//! The configuration as an operator meets it: every mistake has its message in a file, and the shipped configuration
//! says what the code does.
//!
//! `tests/config/NAME.toml` is read, and what is said about it must be `NAME.expected` to the letter. After a wanted
//! change of the messages, `EXPECT=write cargo test config` writes them anew; read the difference.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use gatepost::config::{self, Config, KEYS, Loaded};
use gatepost::diagnostic::Finding;
use gatepost::sandbox::identity;

#[test]
fn every_mistake_has_its_message() {
    let write = std::env::var_os("EXPECT").is_some_and(|value| value == "write");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut names: Vec<String> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut wrong = Vec::new();
    let mut read = 0;
    for name in &names {
        let Some(stem) = name.strip_suffix(".toml") else {
            let toml = name.replace(".expected", ".toml");
            assert!(names.contains(&toml), "{name} belongs to no .toml");
            continue;
        };
        read += 1;
        let source = fs::read_to_string(directory.join(name)).unwrap();
        let said = said_about(name, &source);
        let expected_path = directory.join(format!("{stem}.expected"));
        if write {
            fs::write(&expected_path, &said).unwrap();
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if said != expected {
            wrong.push(format!("{name}: expected\n{expected}\nbut got\n{said}"));
        }
    }
    assert!(read > 0, "no case was found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn said_about(name: &str, source: &str) -> String {
    let (findings, end) = match config::parse(Path::new(name), source) {
        Ok(loaded) => (loaded.warnings, "accepted"),
        Err(findings) => (findings, "refused"),
    };
    let mut said: String = findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect();
    said.push_str(end);
    said.push('\n');
    said
}

/// Whoever adds a key and forgets to read it hears of it here: a date is of the wrong type everywhere.
#[test]
fn every_key_is_read() {
    for key in KEYS {
        let source = format!("{key} = 1979-05-27");
        // The repeated tables are written as what they are.
        let source = match key.split_once('.') {
            Some((table @ ("listen" | "certificate" | "client_ca" | "token_issuer"), key)) => {
                format!("[[{table}]]\n{key} = 1979-05-27")
            }
            _ => source,
        };
        let findings = config::parse(Path::new("gatepost.toml"), &source).unwrap_err();
        assert!(
            findings
                .iter()
                .any(|finding| finding.message.starts_with(&format!("`{key}` is a date"))),
            "{key}: {findings:?}"
        );
    }
}

#[test]
fn the_shipped_file_has_every_key() {
    let table: toml::Table = toml::from_str(&uncommented(SHIPPED)).unwrap();
    for key in KEYS {
        let mut value = Some(toml::Value::Table(table.clone()));
        for step in key.split('.') {
            value = value.and_then(|value| match value {
                toml::Value::Array(tables) => {
                    tables.iter().find_map(|table| table.get(step)).cloned()
                }
                value => value.get(step).cloned(),
            });
        }
        assert!(value.is_some(), "{key} is not in config/gatepost.toml");
    }
}

/// `#key = value` stands for a default, and says so truly.
#[test]
fn the_shipped_file_shows_the_defaults() {
    let hostname = "hostname = \"mail.example.org\"\n";
    let shipped = &shipped_defaults();
    assert!(uncommented(shipped).contains(&format!("\n{hostname}")));
    // The group is the user's own, which is of the same name on most systems.
    let group = "group = \"gatepost\"\n";
    assert!(uncommented(shipped).contains(&format!("\n{group}")));
    let commented = config(&format!("{hostname}{group}{shipped}"));
    let uncommented = config(&uncommented(shipped));
    assert_eq!(without_origins(commented), without_origins(uncommented));
}

/// What the examples of issuers have beside what each must have is the default, too.
#[test]
fn the_shipped_issuers_show_the_defaults() {
    let issuers = |source: &str| config(source).accounts.issuers;
    let shipped = issuers(&uncommented(SHIPPED));
    let least = issuers(&format!(
        "{LEAST}[[token_issuer]]\nissuer = \"https://id.example.org/realms/staff\"\naudience = \"smtp\"\n\
         jwks = \"https://id.example.org/realms/staff/protocol/openid-connect/certs\"\n\
         ca = \"/etc/gatepost/tls/ca.pem\"\n\
         [[token_issuer]]\nissuer = \"https://login.example.net\"\nclient_id = \"gatepost\"\n\
         introspection = \"https://login.example.net/oauth2/introspect\"\n\
         client_secret_file = \"/etc/gatepost/issuer.secret\"\n"
    ));
    assert_eq!(shipped, least);
}

#[test]
fn the_shipped_files_are_accepted_without_a_warning() {
    let named = format!("hostname = \"mail.example.org\"\n{SHIPPED}");
    let everything = uncommented(SHIPPED).replace(
        "\"PLAIN\", \"LOGIN\"]",
        "\"PLAIN\", \"EXTERNAL\", \"XOAUTH2\"]",
    );
    for source in [named, uncommented(&shipped_defaults()), everything] {
        let loaded = config::parse(Path::new("gatepost.toml"), &source).unwrap();
        assert_eq!(loaded.warnings, []);
    }
    // Every account of the example is commented out: nobody runs with a published password by accident.
    let accounts: toml::Table = toml::from_str(SHIPPED_ACCOUNTS).unwrap();
    assert!(accounts.is_empty());
    let accounts: toml::Table = toml::from_str(&uncommented(SHIPPED_ACCOUNTS)).unwrap();
    assert!(!accounts["account"].as_array().unwrap().is_empty());
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let Loaded { config, .. } = config::parse(
        Path::new("/srv/mail/gatepost.toml"),
        "hostname = \"mail.example.org\"\n\
         [[listen]]\naddress = \"127.0.0.1:0\"\n\
         [[certificate]]\nchain = \"tls/chain.pem\"\nkey = \"/etc/key.pem\"\n\
         [accounts]\nfile = \"../accounts.toml\"\n\
         [queue]\ndirectory = \"queue\"\n",
    )
    .unwrap();
    let certificate = &config.tls.certificates[0];
    assert_eq!(certificate.chain, Path::new("/srv/mail/tls/chain.pem"));
    assert_eq!(certificate.key, Path::new("/etc/key.pem"));
    assert_eq!(
        config.accounts.file,
        Path::new("/srv/mail/../accounts.toml")
    );
    assert_eq!(config.queue.directory, Path::new("/srv/mail/queue"));
    assert_eq!(config.origins.listen[0].line, 3);
    assert_eq!(config.origins.certificates[0].line, 4);
}

#[test]
fn one_key_makes_messages_small() {
    let config = config(&format!("{LEAST}[limits]\nmessage_size = \"64KiB\"\n"));
    assert_eq!(config.profile.message_bytes_max, 64 << 10);
    assert_eq!(config.profile.header_bytes_max, 64 << 10);
}

#[test]
fn what_is_withheld_is_not_offered() {
    let offered = |withhold: &str| {
        let source = format!("{LEAST}[extensions]\nwithhold = {withhold}\n");
        let extensions = config(&source).profile.extensions;
        let keywords = extensions.iter().map(|extension| extension.keyword());
        keywords.collect::<Vec<_>>().join(" ")
    };
    let all =
        "SMTPUTF8 DSN CHUNKING BINARYMIME DELIVERBY MT-PRIORITY REQUIRETLS LIMITS FUTURERELEASE";
    assert_eq!(offered("[]"), all);
    assert_eq!(offered("\"dsn\""), all.replace(" DSN", ""));
    // RFC 3030 section 3: BINARYMIME can be offered only with CHUNKING.
    let without = all.replace(" CHUNKING BINARYMIME", "");
    assert_eq!(offered("[\"CHUNKING\"]"), without);
    assert_eq!(offered("[\"BINARYMIME\"]"), all.replace(" BINARYMIME", ""));
    let without = all.replace(" FUTURERELEASE", "");
    assert_eq!(offered("[]\nfuture_release_max = \"off\""), without);
}

#[test]
fn how_long_a_message_may_be_held() {
    let longest = |line: &str| {
        let source = format!("{LEAST}[extensions]\n{line}\n");
        config(&source).profile.future_release_max.as_secs()
    };
    assert_eq!(longest(""), 30 * 86_400);
    assert_eq!(longest("future_release_max = \"1h\""), 3600);
}

/// Whoever names an issuer wants its tokens, and whoever names mechanisms wants these.
#[test]
fn an_issuer_brings_its_mechanisms() {
    let offered = |auth: &str| {
        let issuer = "[[token_issuer]]\nissuer = \"https://id.example.org\"\naudience = \"smtp\"\n";
        let mechanisms = config(&format!("{LEAST}{auth}{issuer}")).profile.mechanisms;
        let names = mechanisms.iter().map(|mechanism| mechanism.name());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(offered(""), "PLAIN LOGIN OAUTHBEARER XOAUTH2");
    let auth = "[auth]\nmechanisms = [\"OAUTHBEARER\"]\n";
    assert_eq!(offered(auth), "OAUTHBEARER");
}

#[test]
fn an_international_host_name_is_written_as_it_goes_on_the_wire() {
    let config = config(&LEAST.replace("mail.example.org", "b\u{fc}cher.example"));
    assert_eq!(config.profile.hostname, "xn--bcher-kva.example");
}

#[test]
fn a_free_port_is_never_the_same_twice() {
    let config = config(&LEAST.replace("\"127.0.0.1:0\"", "[\"127.0.0.1:0\", \"127.0.0.1:0\"]"));
    assert_eq!(config.listen.len(), 2);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gatepost.toml");
    let only = |result: Result<Loaded, Vec<Finding>>| {
        let mut findings = result.unwrap_err();
        assert_eq!(findings.len(), 1);
        let finding = findings.remove(0);
        assert_eq!(finding.place.as_ref().unwrap().file, path);
        finding.message
    };
    assert!(only(config::load(&path)).contains("No such file"));
    fs::write(&path, b"hostname = \"\xff\"").unwrap();
    assert!(only(config::load(&path)).contains("not UTF-8 from octet 12 on"));
    fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(only(config::load(&path)).contains("larger than 1MiB"));
}

#[test]
fn check_tells_what_serve_would_start_with() {
    let directory = ready_to_serve();
    let (status, said) = check(directory.path(), &[]);
    assert_eq!(said, "ok: 2 listeners, 1 certificate, 1 account\n");
    assert_eq!(status, Some(0));
    let (status, said) = check(directory.path(), &["--json"]);
    assert_eq!((said.as_str(), status), ("[]\n", Some(0)));
    // It has looked only.
    assert!(!directory.path().join("queue").exists());
}

#[test]
fn check_says_what_keeps_serve_from_starting() {
    let directory = ready_to_serve();
    let key = directory.path().join("localhost.key");
    fs::remove_file(&key).unwrap();
    fs::write(directory.path().join("queue"), "").unwrap();
    let (status, said) = check(directory.path(), &[]);
    assert_eq!(status, Some(1));
    assert!(said.contains("localhost.key: cannot read it"), "{said}");
    assert!(said.contains("gatepost.toml:5)"), "{said}");
    assert!(
        said.contains("the queue directory is not a directory"),
        "{said}"
    );
    assert!(said.ends_with("\n2 errors, 0 warnings\n"), "{said}");

    let (status, said) = check(directory.path(), &["--json"]);
    assert_eq!(status, Some(1));
    let findings: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(findings.as_array().unwrap().len(), 2);
    assert_eq!(findings[0]["severity"], "error");
    assert_eq!(findings[0]["file"], key.to_str().unwrap());
    assert!(findings[0]["line"].is_null());
    assert!(findings[0]["hint"].is_string());
}

#[test]
fn check_passes_with_warnings() {
    let directory = ready_to_serve();
    let path = directory.path().join("gatepost.toml");
    let source = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        source.replace(
            "hostname = \"localhost\"",
            "hostname = \"mail.example.org\"",
        ),
    )
    .unwrap();
    let (status, said) = check(directory.path(), &[]);
    assert!(said.contains("warning: "), "{said}");
    assert!(
        said.contains("no certificate is for the host name `mail.example.org`"),
        "{said}"
    );
    assert!(
        said.ends_with("\nok: 2 listeners, 1 certificate, 1 account; 1 warning\n"),
        "{said}"
    );
    assert_eq!(status, Some(0));
}

#[test]
fn check_names_the_line_that_is_wrong() {
    let directory = ready_to_serve();
    let path = directory.path().join("gatepost.toml");
    fs::write(&path, "hostnam = 1\n").unwrap();
    let (status, said) = check(directory.path(), &["--json"]);
    assert_eq!(status, Some(1));
    let findings: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(findings[0]["line"], 1);
    assert_eq!(findings[0]["column"], 1);
    assert_eq!(findings[0]["hint"], "did you mean `hostname`?");
}

/// A directory with all that `serve` needs.
fn ready_to_serve() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["localhost.crt", "localhost.key"] {
        let octets = fs::read(root.join("certs-example").join(name)).unwrap();
        fs::write(directory.path().join(name), octets).unwrap();
    }
    // Whoever runs the tests wants to be who he is, even if that is root.
    let user = identity::current();
    let source = format!(
        "hostname = \"localhost\"\n\
         user = \"{user}\"\n\
         [[listen]]\n\
         address = [\"127.0.0.1:587\", \"[::1]:587\"]\n\
         [[certificate]]\n\
         chain = \"localhost.crt\"\n\
         key = \"localhost.key\"\n\
         [accounts]\n\
         file = \"accounts.toml\"\n\
         [queue]\n\
         directory = \"queue\"\n\
         minimum_free = \"1MiB\"\n"
    );
    fs::write(directory.path().join("gatepost.toml"), source).unwrap();
    let accounts = directory.path().join("accounts.toml");
    fs::write(&accounts, uncommented(SHIPPED_ACCOUNTS)).unwrap();
    fs::set_permissions(&accounts, fs::Permissions::from_mode(0o600)).unwrap();
    directory
}

/// The exit status and standard output of `gatepost check`.
fn check(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_gatepost"))
        .arg("--config")
        .arg(directory.join("gatepost.toml"))
        .arg("check")
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

fn config(source: &str) -> Config {
    match config::parse(Path::new("gatepost.toml"), source) {
        Ok(loaded) => loaded.config,
        Err(findings) => {
            let findings: Vec<_> = findings.iter().map(Finding::to_string).collect();
            panic!("{}", findings.join("\n"))
        }
    }
}

fn without_origins(mut config: Config) -> Config {
    config.policy.messages_per_hour.1 = None;
    config.policy.recipients_per_day.1 = None;
    let wires = &mut config.tripwires;
    wires.mode.1 = None;
    for wire in [
        &mut wires.messages_per_10_minutes,
        &mut wires.new_recipients_per_hour,
        &mut wires.networks_per_hour,
        &mut wires.refused_recipients_per_hour,
    ] {
        wire.1 = None;
    }
    config.policy.over_limit.1 = None;
    config.policy.held_messages.1 = None;
    config.origins = config::Origins::default();
    config
}

/// The shipped file without what is an example and no default: a client_ca is there only if somebody has one, and so is
/// a token_issuer.
fn shipped_defaults() -> String {
    let authority = SHIPPED.find("#[[client_ca]]").unwrap();
    let end = authority + SHIPPED[authority..].find("\n\n").unwrap();
    let issuers = SHIPPED.find("#[[token_issuer]]").unwrap();
    let behind = issuers + SHIPPED[issuers..].find("\n[extensions]").unwrap();
    let parts = [
        &SHIPPED[..authority],
        &SHIPPED[end..issuers],
        &SHIPPED[behind..],
    ];
    parts.concat()
}

/// The text with every `#key = value` and `#[table]` in force. Prose has a blank after its `#`.
fn uncommented(text: &str) -> String {
    text.lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect()
}

const LEAST: &str = "hostname = \"mail.example.org\"\n\
    [[listen]]\naddress = \"127.0.0.1:0\"\n\
    [[certificate]]\nchain = \"chain.pem\"\nkey = \"key.pem\"\n\
    [accounts]\nfile = \"accounts.toml\"\n";

const SHIPPED: &str = include_str!("../../config/gatepost.toml");
const SHIPPED_ACCOUNTS: &str = include_str!("../../config/accounts.toml");
