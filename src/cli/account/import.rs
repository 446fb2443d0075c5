//! `gatepost account import`: accounts from a Dovecot passwd-file or an htpasswd-style file.
//!
//! Every line is judged by itself: what is wrong with one is said with its number, and the rest comes in. Nothing is
//! written before all lines are read, and then all of it at once. No message shows what stands in the field of the
//! password.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ipnet::IpNet;
use zeroize::Zeroizing;

use super::{Place, print, say};
use crate::account::edit::{self, NewAccount, NewPassword};
use crate::account::foreign::ForeignError;
use crate::account::identity::{prepare_name, prepare_password};
use crate::account::password::{Parameters, make};
use crate::account::stored::{Stored, StoredError};
use crate::cli::Failure;
use crate::decision::SenderPattern;
use crate::diagnostic::Finding;
use crate::sasl::scram::Keys;
use crate::secret::Secret;

/// Octets in a file that is read at all: as many as an accounts file may have.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Octets in a line.
const LINE_BYTES_MAX: usize = 4096;

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The file: name:hash, and whatever stands behind a second colon
    path: PathBuf,
    /// The domain of names that have none
    #[arg(long)]
    domain: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(super) const HELP: &str = "\
Each line is NAME:HASH, as htpasswd writes it, or a line of a Dovecot passwd-file: NAME:HASH:uid:gid:gecos:home:shell:extra.
Of what stands behind the hash, allow_nets of the extra fields is taken over as allow_from.
A HASH is what `password` may have in the accounts file: argon2, bcrypt, SHA-crypt ($5$, $6$), yescrypt, scrypt, PBKDF2,
and Dovecot's {SCHEME} forms of them, of {SSHA} and its like, and of {SCRAM-SHA-256}. {PLAIN} is hashed at once.
Names that exist already are left as they are.

Exit status: 0 if every line was imported, 1 if any was not. Lines that are empty or begin with # do not count.";

/// What one line gives.
struct Entry {
    name: String,
    new: NewAccount,
    weak: bool,
}

/// Imports; whether every line was.
pub(super) fn run(place: &Place, import: &Import) -> Result<bool, Failure> {
    let octets = read(&import.path)?;
    // The line on which each name was found, or where it is in the accounts file.
    let mut known: HashMap<String, String> = HashMap::new();
    if place.file.exists() {
        for record in place.read()?.records() {
            known.insert(
                record.account.name.clone(),
                record.account.origin.to_string(),
            );
        }
    }
    let (mut entries, mut refused) = (Vec::new(), 0_usize);
    for (index, line) in octets.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() || line.starts_with(b"#") {
            continue;
        }
        let here = format!("{}:{}", import.path.display(), index + 1);
        match entry(line, import.domain.as_deref(), place.memory_kib_max) {
            Ok(entry) => match known.get(&entry.name) {
                Some(there) => {
                    say(format_args!(
                        "{here}: `{}` is there already, at {there}",
                        entry.name
                    ));
                    refused += 1;
                }
                None => {
                    known.insert(entry.name.clone(), here);
                    entries.push(entry);
                }
            },
            Err(problem) => {
                say(format_args!("{here}: {problem}"));
                refused += 1;
            }
        }
    }
    let weak = entries.iter().filter(|entry| entry.weak).count();
    let count = entries.len();
    let accounts: Vec<(String, NewAccount)> = entries
        .into_iter()
        .map(|entry| (entry.name, entry.new))
        .collect();
    if !import.dry_run && count > 0 {
        let warnings = edit::append(&place.file, &accounts, place.memory_kib_max)?;
        warnings.iter().for_each(say);
    }
    let verb = if import.dry_run {
        "would import"
    } else {
        "imported"
    };
    print(format_args!(
        "{verb} {count} of {} accounts; {weak} with a weak hash (`gatepost check` lists them)",
        count + refused
    ));
    Ok(refused == 0)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |text: String| Failure::from(Finding::error(text).in_file(path));
    let mut octets = Zeroizing::new(Vec::new());
    let file = File::open(path).map_err(|error| failed(format!("cannot read it: {error}")))?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut octets)
        .map_err(|error| failed(format!("cannot read it: {error}")))?;
    match octets.len() as u64 > FILE_BYTES_MAX {
        true => Err(failed(format!(
            "it is larger than {} MiB",
            FILE_BYTES_MAX >> 20
        ))),
        false => Ok(octets),
    }
}

/// Whose account a line of an imported file gives, or why it gives none, as the command says it. For whoever wants to try
/// lines without a file.
pub fn import_line(
    line: &[u8],
    domain: Option<&str>,
    memory_kib_max: u32,
) -> Result<String, String> {
    entry(line, domain, memory_kib_max).map(|entry| entry.name)
}

/// What one line gives, or why it gives nothing.
fn entry(line: &[u8], domain: Option<&str>, memory_kib_max: u32) -> Result<Entry, String> {
    if line.len() > LINE_BYTES_MAX {
        return Err(format!("the line is longer than {LINE_BYTES_MAX} octets"));
    }
    let line = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8".to_owned())?;
    // The extra fields are the rest of the line, colons and all: IPv6.
    let mut fields = line.splitn(8, ':');
    let (Some(name), Some(hash)) = (fields.next(), fields.next()) else {
        return Err("there is no colon behind a name".to_owned());
    };
    let name = match domain {
        Some(domain) if !name.contains('@') && !name.is_empty() => format!("{name}@{domain}"),
        _ => name.to_owned(),
    };
    let name = prepare_name(&name).map_err(|unusable| format!("the name {unusable}"))?;
    if !matches!(SenderPattern::parse(&name), Ok(SenderPattern::Address(_))) {
        return Err("the name is no address: --domain adds a domain".to_owned());
    }
    let (password, weak) = password(hash, memory_kib_max)?;
    let extra = fields.nth(5).unwrap_or_default();
    Ok(Entry {
        name,
        new: NewAccount {
            password,
            send_as: Vec::new(),
            allow_from: allowed_networks(extra)?,
            note: None,
        },
        weak,
    })
}

/// What is kept of the password, and whether it is weak.
fn password(text: &str, memory_kib_max: u32) -> Result<(NewPassword, bool), String> {
    if text.is_empty() {
        return Err("there is no password".to_owned());
    }
    let hash = |hash: String| NewPassword {
        hash: Some(hash),
        scram: None,
    };
    match text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        Some((scheme, plain)) if is_plain(scheme) => {
            let prepared = prepare_password(&Secret::from(plain))
                .map_err(|unusable| format!("the password {unusable}"))?;
            let made = make(&prepared, Parameters::default()).map_err(|error| error.to_string())?;
            return Ok((hash(made), false));
        }
        Some((scheme, keys)) if scheme.eq_ignore_ascii_case("SCRAM-SHA-256") => {
            let keys = dovecot_scram(keys).ok_or("the password is damaged SCRAM-SHA-256 keys")?;
            let scram = Some(keys.to_text());
            return Ok((NewPassword { hash: None, scram }, false));
        }
        _ => {}
    }
    match Stored::parse(text, memory_kib_max) {
        Ok(stored) => Ok((hash(text.to_owned()), stored.weakness().is_some())),
        Err(StoredError::Foreign(ForeignError::Unknown)) if !text.starts_with(['$', '{']) => Err(
            "the password is neither a known hash nor has a {SCHEME} in front; {PLAIN} would be hashed".to_owned(),
        ),
        Err(error) => Err(format!("the password {error}")),
    }
}

fn is_plain(scheme: &str) -> bool {
    ["PLAIN", "CLEARTEXT", "CLEAR"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known))
}

/// `iterations,salt,StoredKey,ServerKey`
fn dovecot_scram(text: &str) -> Option<Keys> {
    let parts: Vec<&str> = text.split(',').collect();
    let [iterations, salt, stored_key, server_key] = parts.as_slice() else {
        return None;
    };
    BASE64_STANDARD.decode(salt).ok()?;
    Keys::parse(&format!(
        "SCRAM-SHA-256${iterations}:{salt}${stored_key}:{server_key}"
    ))
    .ok()
}

/// `allow_nets=192.0.2.0/24,2001:db8::/32` of the extra fields, which have blanks between.
fn allowed_networks(extra: &str) -> Result<Vec<String>, String> {
    let Some(networks) = extra
        .split_ascii_whitespace()
        .find_map(|field| field.strip_prefix("allow_nets="))
    else {
        return Ok(Vec::new());
    };
    let networks: Vec<String> = networks.split(',').map(str::to_owned).collect();
    let is_one =
        |text: &String| text.parse::<IpNet>().is_ok() || text.parse::<std::net::IpAddr>().is_ok();
    match networks.iter().all(is_one) {
        true => Ok(networks),
        // Whoever was kept to some networks is not let in from everywhere.
        false => Err("allow_nets is no list of networks".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &[u8], domain: Option<&str>) -> String {
        match entry(line, domain, 1 << 15) {
            Ok(Entry { name, new, weak }) => {
                let kept = match (&new.password.hash, &new.password.scram) {
                    (Some(hash), None) => hash.split('$').take(2).collect::<Vec<_>>().join("$"),
                    (None, Some(_)) => "scram".to_owned(),
                    other => panic!("{other:?}"),
                };
                let weak = if weak { " weak" } else { "" };
                format!("{name} {kept}{weak} {}", new.allow_from.join(","))
            }
            Err(problem) => problem,
        }
    }

    #[test]
    fn lines() {
        const BCRYPT: &str = "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2";
        let long = format!("a@b.example:{}", "x".repeat(LINE_BYTES_MAX));
        for (line, expected) in [
            (format!("Alice@Example.org:{BCRYPT}"), "Alice@example.org $2y weak "),
            (format!("alice:{BCRYPT}"), "alice@example.net $2y weak "),
            (
                format!("bob@example.org:{{BLF-CRYPT}}{BCRYPT}:1000:1000::/home/bob::userdb_mail=x allow_nets=192.0.2.0/24,2001:db8::1"),
                "bob@example.org {BLF-CRYPT}$2y weak 192.0.2.0/24,2001:db8::1",
            ),
            (
                format!("bob@example.org:{BCRYPT}::::::allow_nets=local"),
                "allow_nets is no list of networks",
            ),
            ("a@b.example:{PLAIN}hunter2".to_owned(), "a@b.example $argon2id "),
            ("a@b.example:{plain}".to_owned(), "the password is empty"),
            (
                "a@b.example:{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=".to_owned(),
                "a@b.example scram ",
            ),
            ("a@b.example:{SCRAM-SHA-256}4096,W22Z".to_owned(), "the password is damaged SCRAM-SHA-256 keys"),
            ("a@b.example".to_owned(), "there is no colon behind a name"),
            ("a@b.example:".to_owned(), "there is no password"),
            (format!(":{BCRYPT}"), "the name is empty"),
            (
                "a@b.example:hunter2".to_owned(),
                "the password is neither a known hash nor has a {SCHEME} in front; {PLAIN} would be hashed",
            ),
            (
                "a@b.example:$apr1$saltsalt$qjXMvbEw8oaL.CzflDtaK/".to_owned(),
                "the password is a hash of MD5, which protects nothing any more",
            ),
            ("a@b.example:$2y$05$half".to_owned(), "the password is a damaged bcrypt hash"),
            (long, "the line is longer than 4096 octets"),
        ] {
            assert_eq!(said(line.as_bytes(), Some("example.net")), expected, "{line}");
        }
        assert_eq!(said(b"alice\xe9:x", None), "the line is not UTF-8");
        let without = said(format!("alice:{BCRYPT}").as_bytes(), None);
        assert_eq!(without, "the name is no address: --domain adds a domain");
    }

    #[test]
    fn all_that_can_come_in_does() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place {
            file: directory.path().join("accounts.toml"),
            memory_kib_max: 1 << 15,
            memory: crate::account::state::LoginState::in_memory(),
            containment: crate::containment::Containment::default(),
            offers_external: true,
            named_by_certificates: false,
            reader: None,
        };
        let path = directory.path().join("users");
        let hash = "{SHA256}QQTTb42iwlQ0n4WDZ5Pr4CngyVcGOjTJHC6SAxh7VjE=";
        let import = |text: String, dry_run: bool| {
            std::fs::write(&path, text).unwrap();
            let import = Import {
                path: path.clone(),
                domain: None,
                dry_run,
            };
            run(&place, &import).unwrap_or_else(|Failure(findings)| panic!("{findings:?}"))
        };
        let names = || -> Vec<String> {
            let directory = place
                .read()
                .unwrap_or_else(|Failure(findings)| panic!("{findings:?}"));
            directory
                .records()
                .iter()
                .map(|record| record.account.name.clone())
                .collect()
        };
        let good = format!("# ours\n\na@b.example:{hash}\r\nb@b.example:{hash}:::::\n");
        assert!(import(good.clone(), true) && !place.file.exists());
        assert!(import(good.clone(), false));
        assert_eq!(names(), ["a@b.example", "b@b.example"]);
        let text = std::fs::read_to_string(&place.file).unwrap();
        let broken =
            format!("{good}broken\nc@b.example:{hash}\nC@b.example:x\nc@B.example:{hash}\n");
        assert!(!import(broken, false), "some lines were refused");
        assert_eq!(names(), ["a@b.example", "b@b.example", "c@b.example"]);
        let grown = std::fs::read_to_string(&place.file).unwrap();
        assert!(grown.starts_with(&text), "what was there stays as it is");
    }
}
