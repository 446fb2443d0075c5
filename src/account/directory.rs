//! The accounts of one file as they are looked up: by name, for a check that has to cost something, for the log.
//!
//! A directory is whole and does not change; another state of the file makes another one. How it is read from the file
//! is for [`file`](super::file).

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use super::credential::{Evidence, SecretHash};
use super::identity::prepare_name;
use super::password::Parameters;
use super::scram::Shape;
use super::stored::{Cost, Stored};
use crate::decision::{Account, Credential};
use crate::sasl::external::{Certificate, Fingerprint};
use crate::sasl::scram::Verifier;
use crate::smtp::address::Mailbox;

/// Accounts up to which a mistyped name is compared with all of them.
const COMPARED_ACCOUNTS_MAX: usize = 1000;
/// Octets in a name up to which it is compared with others: the bound of RFC 5321 section 4.5.3.1.3, without brackets.
const COMPARED_BYTES_MAX: usize = 254;
/// Slips in a name that is still plainly meant to be another one.
const SLIPS_MAX: usize = 2;
/// Characters in a name below which two slips say nothing any more.
const COMPARED_CHARACTERS_MIN: usize = 4;

/// All accounts of one file, as they stood at one moment.
#[derive(Debug)]
pub struct Directory {
    records: Vec<Record>,
    by_name: HashMap<String, usize>,
    /// Of the credentials that are certificates: whose each is, and which of its credentials.
    by_certificate: HashMap<Fingerprint, (usize, usize)>,
    domains: HashSet<String>,
    dummy: Arc<Stored>,
    /// How SCRAM keys mostly look.
    scram_shape: Shape,
    blank: bool,
}

/// One account and its secrets.
#[derive(Clone, Debug)]
pub struct Record {
    /// What everybody may know of it.
    pub account: Arc<Account>,
    /// What its password is compared with: a hash, else its SCRAM keys. Without either nobody can log in.
    pub password: Option<Arc<Stored>>,
    /// What SCRAM proofs are checked against.
    pub scram: Option<ScramSecrets>,
    /// Its further secrets, in the order of the file.
    pub credentials: Vec<CredentialRecord>,
}

/// The SCRAM keys of an account and its credentials, which share one salt.
#[derive(Clone, Debug)]
pub struct ScramSecrets {
    /// All of them.
    pub verifier: Arc<Verifier>,
    /// Whose each of them is: the account's own, or that of the credential with this index.
    pub owners: Vec<Option<usize>>,
}

/// One credential and its secret.
#[derive(Clone, Debug)]
pub struct CredentialRecord {
    /// The account as whoever logs in with it has it.
    pub account: Arc<Account>,
    /// What it says itself.
    pub credential: Arc<Credential>,
    /// What it is recognised by.
    pub evidence: Evidence,
    /// Whether it has SCRAM keys.
    pub has_scram: bool,
}

impl Record {
    /// Whether its password is compared with SCRAM keys, since there is no hash.
    pub fn password_is_scram(&self) -> bool {
        matches!(self.password.as_deref(), Some(Stored::Scram(_)))
    }

    /// Whether its own password has SCRAM keys.
    pub fn has_scram(&self) -> bool {
        self.scram
            .as_ref()
            .is_some_and(|scram| scram.owners.contains(&None))
    }

    /// Whether anybody could log in to it, disabled or not.
    pub fn has_secret(&self) -> bool {
        self.password.is_some() || !self.credentials.is_empty()
    }

    /// The credential of this name.
    pub fn credential(&self, name: &str) -> Option<&CredentialRecord> {
        self.credentials
            .iter()
            .find(|record| record.credential.name == name)
    }

    /// The credential whose secret this is.
    pub(super) fn credential_with(&self, secret: &SecretHash) -> Option<&CredentialRecord> {
        self.credentials
            .iter()
            .find(|record| record.evidence.is_secret(secret))
    }

    /// The account as whoever is logged in with that credential, or with its own password, has it.
    pub fn login(&self, credential: Option<&str>) -> Option<&Arc<Account>> {
        match credential {
            None => Some(&self.account),
            Some(name) => self.credential(name).map(|record| &record.account),
        }
    }
}

impl Directory {
    /// The directory of these accounts; `blank` says that there was nothing at all in the file, not even a comment.
    pub(super) fn new(records: Vec<Record>, blank: bool, memory_kib_max: u32) -> Self {
        let by_name = records
            .iter()
            .enumerate()
            .map(|(index, record)| (record.account.name.clone(), index))
            .collect();
        let mut by_certificate = HashMap::new();
        for (index, record) in records.iter().enumerate() {
            for (at, credential) in record.credentials.iter().enumerate() {
                if let Some(fingerprint) = credential.evidence.certificate() {
                    by_certificate.insert(fingerprint, (index, at));
                }
            }
        }
        let domains = records
            .iter()
            .filter_map(|record| domain_of(&record.account.name))
            .collect();
        let stored = records.iter().filter_map(|record| record.password.as_ref());
        let usual = most_common(stored.filter_map(|stored| stored.cost()));
        let default = Cost::Argon2(Parameters {
            memory_kib: Parameters::default()
                .memory_kib
                .clamp(8, memory_kib_max.max(8)),
            ..Parameters::default()
        });
        let dummy = Stored::dummy(usual.unwrap_or(default))
            .expect("parameters from a file are checked, and the default is within all ceilings");
        let scram = records.iter().filter_map(|record| record.scram.as_ref());
        let scram_shape = most_common(scram.map(|scram| Shape::of(&scram.verifier)));
        Self {
            records,
            by_name,
            by_certificate,
            domains,
            dummy: Arc::new(dummy),
            scram_shape: scram_shape.unwrap_or_default(),
            blank,
        }
    }

    /// Whether there was nothing at all in the file, not even a comment.
    pub fn is_blank(&self) -> bool {
        self.blank
    }

    /// All accounts, in the order of the file.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The account of this name, which is prepared.
    pub fn find(&self, name: &str) -> Option<&Record> {
        self.by_name
            .get(name)
            .and_then(|&index| self.records.get(index))
    }

    /// As whom its owner may log in with a certificate: with the credential that it is, which may narrow much; where it
    /// is none, as the accounts whose names are among its addresses, in their order and each once.
    pub(super) fn logins_of(&self, certificate: &Certificate) -> Vec<&Arc<Account>> {
        if let Some(&(index, at)) = self.by_certificate.get(&certificate.fingerprint) {
            let record = self.records.get(index);
            let credential = record.and_then(|record| record.credentials.get(at));
            return credential.map(|one| &one.account).into_iter().collect();
        }
        let mut logins: Vec<&Arc<Account>> = Vec::new();
        for address in &certificate.addresses {
            let name = prepare_name(address).ok();
            if let Some(record) = name.and_then(|name| self.find(&name))
                && !logins.iter().any(|known| known.name == record.account.name)
            {
                logins.push(&record.account);
            }
        }
        logins
    }

    /// Whether any credential is a certificate.
    pub fn has_certificates(&self) -> bool {
        !self.by_certificate.is_empty()
    }

    /// What an unknown name's password is compared with: it costs what most others do.
    pub(super) fn dummy(&self) -> &Arc<Stored> {
        &self.dummy
    }

    /// How the keys look that a name without any is given.
    pub(super) fn scram_shape(&self) -> Shape {
        self.scram_shape
    }

    /// `tried`, if it may be written into a log: the name of an account, or plainly a slip of the pen for one.
    ///
    /// The work depends on what was tried and not on whether there is such an account, so its time tells nothing.
    pub fn name_for_log(&self, tried: &str) -> Option<String> {
        let exists = self.by_name.contains_key(tried);
        let near_one = self.is_near_one(tried);
        let neighbour = domain_of(tried).is_some_and(|domain| self.domains.contains(&domain));
        (exists || near_one || neighbour).then(|| tried.to_owned())
    }

    fn is_near_one(&self, tried: &str) -> bool {
        if self.records.len() > COMPARED_ACCOUNTS_MAX
            || tried.len() > COMPARED_BYTES_MAX
            || tried.chars().count() < COMPARED_CHARACTERS_MIN
        {
            return false;
        }
        self.records
            .iter()
            .map(|record| &record.account.name)
            .filter(|name| name.len() <= COMPARED_BYTES_MAX)
            .filter(|name| strsim::osa_distance(tried, name) <= SLIPS_MAX)
            // Counted to the end, not found and left: see above.
            .count()
            > 0
    }
}

/// What most of them are; of several, the greatest.
fn most_common<T: Copy + Eq + Hash + Ord>(items: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: HashMap<T, usize> = HashMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    let most = counts
        .into_iter()
        .max_by_key(|&(item, count)| (count, item));
    most.map(|(item, _)| item)
}

/// The domain of a name that is a mailbox, in lower case.
fn domain_of(name: &str) -> Option<String> {
    Mailbox::parse_international(name)
        .ok()
        .map(|mailbox| mailbox.domain().to_string().to_lowercase())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const HASH: &str =
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    fn parse(source: &str) -> Directory {
        Directory::parse(Path::new("accounts.toml"), source, 1024)
            .unwrap()
            .0
    }

    #[test]
    fn names_for_the_log() {
        let source = format!(
            "[[account]]\nname = \"alice@example.org\"\npassword = \"{HASH}\"\n
             [[account]]\nname = \"scanner\"\npassword = \"{HASH}\"\nsend_as = [\"*\"]\n
             [[account]]\nname = \"bob\"\npassword = \"{HASH}\"\nsend_as = [\"*\"]\n"
        );
        let directory = parse(&source);
        for (tried, shown) in [
            ("alice@example.org", true),
            ("bob", true),
            // A mailbox of a domain that has accounts.
            ("carol@example.org", true),
            ("carol@Example.org", true),
            ("carol@elsewhere.example", false),
            // Two slips, not three.
            ("alcie@example.ogr", true),
            ("Scaner", true),
            ("scnaenr", true),
            ("scan", false),
            // Too short to say anything.
            ("bo", false),
            ("bobb", true),
            ("rob", false),
            // What people type into the wrong field.
            ("correct horse battery staple", false),
            ("Tr0ub4dor&3", false),
            ("p@ssw0rd", false),
            ("", false),
            (&format!("{}@example.org", "a".repeat(300)), false),
        ] {
            assert_eq!(directory.name_for_log(tried).is_some(), shown, "{tried}");
        }
    }

    #[test]
    fn many_accounts_are_not_compared_one_by_one() {
        let account = |number: usize| {
            format!("[[account]]\nname = \"scanner-{number}\"\nsend_as = [\"*\"]\n")
        };
        let few: String = (0..COMPARED_ACCOUNTS_MAX).map(account).collect();
        let directory = parse(&few);
        assert!(directory.name_for_log("scaner-5").is_some());
        let directory = parse(&(few + &account(COMPARED_ACCOUNTS_MAX)));
        assert!(directory.name_for_log("scaner-5").is_none());
        assert!(directory.name_for_log("scanner-5").is_some());
    }

    #[test]
    fn the_dummy_costs_what_most_accounts_do() {
        let account = |name: &str, m: u32| {
            let hash = HASH.replace("m=256", &format!("m={m}"));
            format!("[[account]]\nname = \"{name}@b.example\"\npassword = \"{hash}\"\n")
        };
        let source = account("a", 64) + &account("b", 32) + &account("c", 32);
        let directory = parse(&source);
        assert_eq!(directory.dummy().memory_kib(), 32);
        let (empty, _) = Directory::parse(Path::new("x"), "", 1 << 20).unwrap();
        assert_eq!(
            empty.dummy().cost(),
            Some(Cost::Argon2(Parameters::default()))
        );
        // Even a budget that is too small for anything real leaves a dummy that fits.
        let tight = parse("");
        assert_eq!(tight.dummy().memory_kib(), 1024);
    }
}
