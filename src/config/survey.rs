//! All that `serve` reads before it listens, read together, with everything that is wrong or odd about it.
//!
//! `check` shows the findings; `serve` starts with the parts, or says the same findings and does not. Nothing is
//! written, locked or bound here, so a survey beside a running daemon disturbs nobody: the lock of the queue
//! directory and the listening sockets are for `serve` itself to try.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::quantity::Size;
use super::{Config, Loaded, load};
use crate::account::Accounts;
use crate::clock::Now;
use crate::containment::{CONTAINED_FILE, Containment};
use crate::diagnostic::Finding;
use crate::queue::SpoolSettings;
use crate::sandbox::Prepared;
use crate::sandbox::identity::{self, Identity, IdentityError};
use crate::tls::Tls;

/// Weak passwords that are told one by one.
const WEAK_FINDINGS_MAX: usize = 20;
/// Expired credentials that are told one by one.
const EXPIRED_FINDINGS_MAX: usize = 20;
/// Contained logins that are told one by one.
const CONTAINED_FINDINGS_MAX: usize = 20;
/// Accounts that one finding names.
const SHOWN_NAMES_MAX: usize = 5;

/// What was read. A part that could not be read is `None`, and an error among the findings says why.
pub struct Survey {
    /// The configuration. Without it nothing else was looked at.
    pub config: Option<Config>,
    /// Whom to become, if the configuration says so.
    pub identity: Option<Identity>,
    /// The certificates and keys.
    pub tls: Option<Tls>,
    /// The accounts.
    pub accounts: Option<Accounts>,
    /// All that was found, configuration first.
    pub findings: Vec<Finding>,
}

impl Survey {
    /// Whether `serve` would refuse to start.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(Finding::is_error)
    }
}

/// Reads the configuration `path` and all that it names. Blocks on the disk.
pub fn survey(path: &Path, now: Now) -> Survey {
    let mut survey = Survey {
        config: None,
        identity: None,
        tls: None,
        accounts: None,
        findings: Vec::new(),
    };
    let config = match load(path) {
        Ok(Loaded { config, warnings }) => {
            survey.findings = warnings;
            config
        }
        Err(findings) => {
            survey.findings = findings;
            return survey;
        }
    };
    let findings = &mut survey.findings;

    match Identity::find(&config.process) {
        Ok(identity) => survey.identity = identity,
        Err(error) => findings.push(identity_finding(&error, &config)),
    }
    findings.extend(identity::root_finding(&config.process));
    findings.extend(Prepared::new(config.process.sandbox, &config.needs()).findings());
    match Tls::load(&config.tls) {
        Ok(tls) => {
            let listen: Vec<_> = config.listen.iter().map(|listen| listen.address).collect();
            findings.extend(tls.findings(&config.profile.hostname, &listen, now));
            survey.tls = Some(tls);
        }
        Err(found) => findings.extend(found.into_iter().map(|one| named_at(one, &config))),
    }
    match Accounts::open(&config.accounts) {
        Ok((accounts, warnings)) => {
            findings.extend(warnings);
            findings.extend(scram_finding(&config, &accounts));
            findings.extend(weak_findings(&config, &accounts));
            findings.extend(expired_findings(&config, &accounts, now));
            findings.extend(external_finding(&config, &accounts));
            survey.accounts = Some(accounts);
        }
        Err(found) => findings.extend(found),
    }
    let of_queue = queue_finding(&config.queue, survey.identity.as_ref());
    if !of_queue.as_ref().is_some_and(Finding::is_error) {
        findings.extend(contained_findings(&config));
    }
    findings.extend(of_queue);
    survey.config = Some(config);
    survey
}

/// A user that cannot be, with the line that names it.
fn identity_finding(error: &IdentityError, config: &Config) -> Finding {
    let named = match &config.origins.user {
        Some(origin) => format!(" (user, named at {origin})"),
        None => String::new(),
    };
    Finding::error(format!("{error}{named}"))
        .in_file(&config.path)
        .hint(error.hint())
}

/// A finding about a certificate's file, with the line of the configuration that names the file.
fn named_at(mut finding: Finding, config: &Config) -> Finding {
    let (tls, origins) = (&config.tls, &config.origins);
    let named = finding.place.as_ref().and_then(|place| {
        let mut certificates = tls.certificates.iter().zip(&origins.certificates);
        let own = certificates
            .find(|(files, _)| files.chain == place.file || files.key == place.file)
            .map(|(_, origin)| origin);
        let authorities = tls.clients.authorities.iter();
        let mut authorities = authorities.zip(&origins.client_authorities);
        let of_clients = authorities
            .find(|(files, _)| files.file == place.file || files.crl.as_ref() == Some(&place.file))
            .map(|(_, origin)| origin);
        own.or(of_clients)
    });
    if let Some(origin) = named {
        finding.message = format!("{} (named at {origin})", finding.message);
    }
    finding
}

/// EXTERNAL is offered to nobody.
fn external_finding(config: &Config, accounts: &Accounts) -> Option<Finding> {
    let clients = &config.tls.clients;
    let in_vain =
        clients.asked_for && clients.authorities.is_empty() && !accounts.has_certificates();
    in_vain.then(|| {
        Finding::warning(
            "auth.mechanisms names EXTERNAL, so clients are asked for a certificate, and nobody can log in with one",
        )
        .in_file(&config.path)
        .hint(
            "gatepost account credential add ACCOUNT --name NAME --certificate FILE, or a [[client_ca]]; or leave \
             EXTERNAL out",
        )
    })
}

/// SCRAM is offered to everybody, and a client that prefers it tries nothing else.
fn scram_finding(config: &Config, accounts: &Accounts) -> Option<Finding> {
    let mut mechanisms = config.profile.mechanisms.iter();
    mechanisms.find(|mechanism| mechanism.is_scram())?;
    let without = accounts.without_scram();
    let shown = without
        .iter()
        .take(SHOWN_NAMES_MAX)
        .cloned()
        .collect::<Vec<_>>();
    let more = match without.len().saturating_sub(shown.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!without.is_empty()).then(|| {
        Finding::warning(format!(
            "auth.mechanisms offers SCRAM, and these accounts have a password and no SCRAM keys: {}{more}; mail \
             programs that prefer SCRAM cannot log in to them",
            shown.join(", ")
        ))
        .in_file(&config.accounts.file)
        .hint("gatepost account password NAME --store both, or leave SCRAM out of auth.mechanisms")
    })
}

/// Hashes that would give their passwords away if the accounts file were stolen.
fn weak_findings(config: &Config, accounts: &Accounts) -> Vec<Finding> {
    let weak = accounts.weak();
    let mut findings: Vec<Finding> = weak
        .iter()
        .take(WEAK_FINDINGS_MAX)
        .map(|(account, weakness)| {
            let message = format!("the password of account `{account}` is kept as {weakness}");
            Finding::warning(message)
                .in_file(&config.accounts.file)
                .hint(match config.accounts.upgrade_hashes {
                    true => "the next login with it makes an argon2id hash of it".to_owned(),
                    false => format!(
                        "auth.upgrade_hashes = true, or gatepost account password {account}"
                    ),
                })
        })
        .collect();
    if let Some(more) = weak
        .len()
        .checked_sub(WEAK_FINDINGS_MAX)
        .filter(|more| *more > 0)
    {
        let message = format!("and {more} more passwords are kept in a weak form");
        findings.push(Finding::warning(message).in_file(&config.accounts.file));
    }
    findings
}

/// Credentials that could be removed.
fn expired_findings(config: &Config, accounts: &Accounts, now: Now) -> Vec<Finding> {
    let expired = accounts.expired(now);
    let findings = expired.iter().map(|(account, name)| {
        Finding::warning(format!(
            "the credential `{name}` of account `{account}` has expired"
        ))
        .in_file(&config.accounts.file)
        .hint(format!(
            "gatepost account credential remove {account} --name {name}"
        ))
    });
    findings.take(EXPIRED_FINDINGS_MAX).collect()
}

/// Who is contained, so that nobody is forgotten there.
fn contained_findings(config: &Config) -> Vec<Finding> {
    let path = config.queue.directory.join(CONTAINED_FILE);
    let contained = match Containment::open(&path) {
        Ok(containment) => containment.list(),
        Err(finding) => return vec![finding],
    };
    let findings = contained.into_iter().map(|(login, cause)| {
        let account = &login.account;
        let (who, option) = match &login.credential {
            None => (format!("account `{account}`"), String::new()),
            Some(credential) => (
                format!("credential `{credential}` of account `{account}`"),
                format!(" --credential {credential}"),
            ),
        };
        let (since, by, reason) = (cause.since(), cause.by.as_str(), &cause.reason);
        Finding::warning(format!(
            "{who} is contained since {since:.0}, by {by}: {reason}"
        ))
        .in_file(&path)
        .hint(format!("gatepost uncontain {account}{option}"))
    });
    findings.take(CONTAINED_FINDINGS_MAX).collect()
}

/// What would keep the queue from working for this user, or for who we are. Its directory is made at the start, but not
/// those above it.
fn queue_finding(settings: &SpoolSettings, identity: Option<&Identity>) -> Option<Finding> {
    let directory = &settings.directory;
    let error =
        |message: String, hint: String| Some(Finding::error(message).in_file(directory).hint(hint));
    let shown = directory.display();
    let present = match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => {
            if let Some(identity) = identity.filter(|one| !one.owns(&metadata)) {
                let owner = identity::name_of(metadata.uid());
                let name = identity.name();
                return error(
                    format!(
                        "the queue directory belongs to {owner}, and gatepost is to run as {name}"
                    ),
                    format!(
                        "stop gatepost, then chown -R {} {shown}",
                        identity.with_group()
                    ),
                );
            }
            directory.as_path()
        }
        Ok(_) => {
            return error(
                "the queue directory is not a directory".to_owned(),
                "name another in queue.directory".to_owned(),
            );
        }
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => {
            let above = match directory.parent() {
                Some(above) if !above.as_os_str().is_empty() => above,
                _ => Path::new("."),
            };
            if !above.is_dir() {
                return error(
                    format!(
                        "the queue directory cannot be made: there is no {}",
                        above.display()
                    ),
                    format!("install -d -o gatepost -g gatepost -m 750 {shown}"),
                );
            }
            above
        }
        Err(fault) => {
            return error(
                format!("cannot look at the queue directory: {fault}"),
                "let the user that gatepost runs as enter the directories above it".to_owned(),
            );
        }
    };
    if let Err(fault) = access(
        present,
        AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK,
    ) {
        return error(
            format!("cannot write to {}: {}", present.display(), fault.desc()),
            match fault {
                Errno::EROFS => {
                    format!(
                        "mount its file system for writing (`findmnt -T {shown}` names it), or name another directory in queue.directory"
                    )
                }
                _ => format!("install -d -o gatepost -g gatepost -m 750 {shown}"),
            },
        );
    }
    let free = match statvfs(present) {
        Ok(status) => status
            .blocks_available()
            .saturating_mul(status.fragment_size()),
        Err(fault) => {
            return error(
                format!(
                    "cannot ask how much is free on its file system: {}",
                    fault.desc()
                ),
                "the queue belongs on a local file system".to_owned(),
            );
        }
    };
    (free < settings.minimum_free).then(|| {
        Finding::warning(format!(
            "{}MiB are free on its file system, less than queue.minimum_free ({}): every MAIL will hear 452",
            free >> 20,
            Size(settings.minimum_free)
        ))
        .in_file(directory)
        .hint("make room, or lower queue.minimum_free")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_directory_is_looked_at() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), "").unwrap();
        for (name, minimum_free, said) in [
            ("", 1, None),
            ("to-be-made", 1, None),
            ("", u64::MAX, Some("less than queue.minimum_free")),
            ("to-be-made", u64::MAX, Some("less than queue.minimum_free")),
            ("missing/queue", 1, Some("there is no ")),
            ("file", 1, Some("is not a directory")),
            ("file/queue", 1, Some("cannot look at")),
        ] {
            let settings = SpoolSettings {
                minimum_free,
                ..SpoolSettings::new(root.path().join(name))
            };
            let found = queue_finding(&settings, None);
            match (&found, said) {
                (None, None) => {}
                (Some(finding), Some(said)) if finding.message.contains(said) => {}
                _ => panic!("{name}: {found:?}, not {said:?}"),
            }
        }
    }
}
