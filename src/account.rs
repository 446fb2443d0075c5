//! Who may log in: accounts, and the check of a claim against them.
//!
//! [`CredentialStore`] is what the server asks; [`Accounts`], the accounts file, answers. A check runs off the
//! runtime's threads and within a budget of memory ([`AccountSettings::hash_memory`]), and costs the same whether the
//! account exists, is disabled or has no password, so that neither the answer nor its time tells a stranger which
//! accounts there are. (Accounts whose hashes were made with parameters other than most in the file can be told by the
//! time that they take.)
//!
//! SCRAM (see [`scram`]) asks for keys before there is a claim; whoever has none gets some that were made up, so there,
//! too, no answer tells who exists.
//!
//! A file that is broken never replaces accounts that are in force. Nothing here speaks SMTP, and nothing here decides
//! what a logged-in account may do: that is [`policy`](crate::policy).

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Now;
use crate::decision::{Account, Authentication, Claim, Credential, RefusedLogin, Unavailable};
use crate::diagnostic::Finding;
use crate::sasl::scram::{Offer, Proof};
use crate::secret::Secret;

pub mod credential;
pub mod directory;
pub mod edit;
pub mod file;
mod hashing;
pub mod identity;
pub mod password;
mod remembered;
pub mod scram;
pub mod state;
pub mod stored;

use directory::{CredentialRecord, Directory};
use hashing::Hasher;
use identity::{prepare_name, prepare_password};
use password::MEMORY_KIB_MAX;
use remembered::Remembered;
use state::LoginState;
use stored::Stored;

/// A future that can be sent to another thread, in a box: what an asynchronous method of a trait object gives.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something that knows who may log in.
pub trait CredentialStore: Send + Sync {
    /// Checks a claim that a client at the address `client` makes.
    ///
    /// `Err` means "could not tell", by overload or a fault of ours. Dropping the future abandons the answer, not
    /// necessarily the work.
    fn check<'a>(
        &'a self,
        claim: &'a Claim,
        client: IpAddr,
    ) -> BoxFuture<'a, Result<Authentication, Unavailable>>;

    /// The SCRAM keys of a name as a client writes it, and randomness for one exchange. A name that has no keys gets
    /// some all the same, in the same time, that no proof fits.
    fn scram_offer<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Offer, Unavailable>>;

    /// The same login as it stands now; `None` if its account or its credential was removed, or the credential has
    /// expired. For sessions that outlive a reload.
    fn account(&self, login: &Account) -> Option<Arc<Account>>;
}

/// What the operator can set about logins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSettings {
    /// The accounts file.
    pub file: PathBuf,
    /// The most memory that password checks may hold at once, in octets.
    pub hash_memory: u64,
    /// How many logins may wait for a check at once; one more hears 454.
    pub hash_queue: usize,
    /// How long a successful password check is remembered; `None`: not at all.
    pub cache_for: Option<Duration>,
}

impl AccountSettings {
    /// `hash_memory` in the unit of argon2's `m`.
    pub fn hash_memory_kib(&self) -> u32 {
        u32::try_from(self.hash_memory >> 10).map_or(MEMORY_KIB_MAX, |kib| kib.min(MEMORY_KIB_MAX))
    }
}

/// What was read from an accounts file, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// All accounts.
    pub accounts: usize,
    /// Those of them that are disabled.
    pub disabled: usize,
    /// Those of them that have no password.
    pub without_password: usize,
}

/// The accounts of an accounts file.
///
/// A check uses one state from its beginning to its end, except for one thing: an account whose password was changed
/// meanwhile is not let in by the old one.
pub struct Accounts {
    state: ArcSwap<State>,
    /// What outlives the process, and every state.
    memory: LoginState,
    /// Taken by reloads, so that of two at once the later one wins as a whole.
    reloading: Mutex<()>,
}

/// One generation of settings and accounts.
struct State {
    settings: AccountSettings,
    directory: Directory,
    hasher: Arc<Hasher>,
    /// Stays through reloads: what is remembered is bound to the stored hash, not to the file.
    remembered: Option<Arc<Remembered>>,
}

impl Accounts {
    /// Reads the accounts file. Warnings come with the accounts; any error comes without. Blocks on the disk.
    pub fn open(settings: &AccountSettings) -> Result<(Self, Vec<Finding>), Vec<Finding>> {
        let (directory, warnings) = Directory::read(&settings.file, settings.hash_memory_kib())?;
        let state = State {
            settings: settings.clone(),
            directory,
            hasher: Arc::new(Hasher::new(settings.hash_memory_kib(), settings.hash_queue)),
            remembered: settings.cache_for.and_then(Remembered::new).map(Arc::new),
        };
        let accounts = Self {
            state: ArcSwap::from_pointee(state),
            memory: LoginState::in_memory(),
            reloading: Mutex::new(()),
        };
        Ok((accounts, warnings))
    }

    /// The same accounts, with what an earlier process remembered of their logins.
    #[must_use]
    pub fn with_memory(mut self, memory: LoginState) -> Self {
        self.memory = memory;
        self
    }

    /// Writes what is remembered of logins to its file, if anything changed. Blocks on the disk.
    pub fn save_memory(&self) -> std::io::Result<bool> {
        let state = self.state.load_full();
        self.memory.save(|account, credential| {
            let record = state.directory.find(account);
            let credential = Some(credential).filter(|name| !name.is_empty());
            record.is_some_and(|record| record.login(credential).is_some())
        })
    }

    /// Reads the same file again. After an error everything stays as it was. Blocks on the disk.
    pub fn reload(&self) -> Result<(Summary, Vec<Finding>), Vec<Finding>> {
        let _one_at_a_time = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let settings = self.state.load().settings.clone();
        self.replace(&settings)
    }

    /// Takes new settings, another file among them, and reads that. After an error everything stays as it was. Checks
    /// that have begun end within the old budget. Blocks on the disk.
    pub fn reconfigure(
        &self,
        settings: &AccountSettings,
    ) -> Result<(Summary, Vec<Finding>), Vec<Finding>> {
        let _one_at_a_time = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.replace(settings)
    }

    fn replace(&self, settings: &AccountSettings) -> Result<(Summary, Vec<Finding>), Vec<Finding>> {
        let old = self.state.load_full();
        let (directory, warnings) = Directory::read(&settings.file, settings.hash_memory_kib())?;
        let same_file = old.settings.file == settings.file;
        if same_file && directory.is_blank() && !old.directory.is_blank() {
            // What an editor that truncates before it writes leaves for a moment. Whoever means to have no account
            // at all can say so in a comment.
            return Err(vec![
                Finding::error(
                    "the accounts file is empty; the accounts that it had stay in force",
                )
                .in_file(&settings.file)
                .hint("if no account is meant to be left, write a comment into it"),
            ]);
        }
        let same_budget = old.settings.hash_memory_kib() == settings.hash_memory_kib()
            && old.settings.hash_queue == settings.hash_queue;
        let hasher = if same_budget {
            Arc::clone(&old.hasher)
        } else {
            Arc::new(Hasher::new(settings.hash_memory_kib(), settings.hash_queue))
        };
        let remembered = match old.settings.cache_for == settings.cache_for {
            true => old.remembered.clone(),
            false => settings.cache_for.and_then(Remembered::new).map(Arc::new),
        };
        self.state.store(Arc::new(State {
            settings: settings.clone(),
            directory,
            hasher,
            remembered,
        }));
        Ok((self.summary(), warnings))
    }

    /// What is in force now, in numbers.
    pub fn summary(&self) -> Summary {
        let state = self.state.load();
        let records = state.directory.records();
        Summary {
            accounts: records.len(),
            disabled: records
                .iter()
                .filter(|record| !record.account.enabled)
                .count(),
            without_password: records.iter().filter(|record| !record.has_secret()).count(),
        }
    }

    /// The secrets that have no SCRAM keys, in the order of the file: the names of accounts, and of credentials.
    pub fn without_scram(&self) -> Vec<String> {
        let state = self.state.load();
        let mut names = Vec::new();
        for record in state.directory.records() {
            let account = &record.account.name;
            if record.password.is_some() && !record.has_scram() {
                names.push(account.clone());
            }
            let without = record
                .credentials
                .iter()
                .filter(|credential| !credential.has_scram);
            names.extend(without.map(|one| format!("{account} ({})", one.credential.name)));
        }
        names
    }

    /// The credentials that are good for nothing any more, each as account and name.
    pub fn expired(&self, now: Now) -> Vec<(String, String)> {
        let state = self.state.load();
        let mut expired = Vec::new();
        for record in state.directory.records() {
            for CredentialRecord { credential, .. } in &record.credentials {
                if has_expired(credential, now) {
                    expired.push((record.account.name.clone(), credential.name.clone()));
                }
            }
        }
        expired
    }

    async fn check_password(
        &self,
        identities: Identities<'_>,
        password: &Secret,
        client: IpAddr,
    ) -> Result<Authentication, Unavailable> {
        let state = self.state.load_full();
        let name = prepare_name(identities.authentication);
        let prepared = prepare_password(password);
        let usable = name.is_ok() && prepared.is_ok();
        let verified = name
            .as_ref()
            .ok()
            .and_then(|name| state.directory.find(name))
            .and_then(|record| record.password.clone());
        // Every refusal costs one hash; what cannot be hashed is replaced by something that can.
        let stored = verified
            .clone()
            .unwrap_or_else(|| Arc::clone(state.directory.dummy()));
        let candidate = prepared.unwrap_or_else(|_| Secret::from("unusable"));
        // The credentials first: they cost next to nothing, and for a name that has none the same.
        let secret_hash = credential::hash(&candidate);
        if let Some(name) = name.as_deref().ok().filter(|_| usable)
            && let Some(record) = state.directory.find(name)
            && let Some(credential) = record.credential_with(&secret_hash)
        {
            return self.admit(&credential.account, identities, client);
        }
        // Bound to what is stored: what was remembered under an earlier password is of no use to anybody.
        let code = state
            .remembered
            .as_ref()
            .zip(verified.as_ref())
            .map(|(remembered, stored)| {
                (
                    remembered,
                    remembered.code(name.as_deref().unwrap_or_default(), stored, &candidate),
                )
            });
        let known = code
            .as_ref()
            .is_some_and(|(remembered, code)| remembered.knows(code, Now::read().instant));
        let (matches, log_name) = if usable && known {
            (true, None)
        } else {
            let (for_log, tried) = (Arc::clone(&state), name.clone().ok());
            let then = move |matches| {
                let name = match matches {
                    true => None,
                    false => tried.and_then(|tried| for_log.directory.name_for_log(&tried)),
                };
                (matches, name)
            };
            state.hasher.check(stored, candidate, then).await?
        };
        if let (true, true, false, Some((remembered, code))) = (matches, usable, known, code) {
            remembered.remember(code, Now::read().instant);
        }

        let Some(name) = name.ok().filter(|_| usable) else {
            return refuse(RefusedLogin::Unusable, log_name);
        };
        // The accounts as they stand now, which a reload may have changed while the hash was computed.
        let state = self.state.load();
        let Some(record) = state.directory.find(&name) else {
            return refuse(RefusedLogin::UnknownAccount, log_name);
        };
        let unchanged = match (&record.password, &verified) {
            (Some(now), Some(then)) => Stored::same_as(now, then),
            (None, None) => true,
            _ => false,
        };
        if !unchanged {
            return Err(changed_meanwhile());
        }
        // Without a password the comparison was with the dummy, which matches nothing, but no chance is taken.
        if !matches || verified.is_none() {
            return refuse(RefusedLogin::WrongPassword, Some(name));
        }
        self.admit(&record.account, identities, client)
    }

    async fn check_scram(
        &self,
        identities: Identities<'_>,
        proof: &Proof,
        client: IpAddr,
    ) -> Result<Authentication, Unavailable> {
        let state = self.state.load_full();
        let name = prepare_name(identities.authentication);
        let record = name
            .as_ref()
            .ok()
            .and_then(|name| state.directory.find(name));
        let reason = match (record, record.and_then(|record| record.scram.as_ref())) {
            (Some(record), Some(scram)) if scram.verifier.same_as(&proof.verifier) => {
                let owner = proof.matched.and_then(|index| scram.owners.get(index));
                let login = owner.and_then(|owner| match owner {
                    None => Some(&record.account),
                    Some(index) => Some(&record.credentials.get(*index)?.account),
                });
                match login {
                    Some(account) => return self.admit(account, identities, client),
                    None => RefusedLogin::WrongPassword,
                }
            }
            // Other keys than those that the client was asked about.
            (Some(_), Some(_)) => return Err(changed_meanwhile()),
            (Some(_), None) => RefusedLogin::NoScramKeys,
            (None, _) if name.is_err() => RefusedLogin::Unusable,
            (None, _) => RefusedLogin::UnknownAccount,
        };
        // The search is paid for like a hash, by whoever guesses.
        let for_log = Arc::clone(&state);
        let search = move |_: &mut [argon2::Block]| {
            let tried = name.ok();
            Ok(tried.and_then(|tried| for_log.directory.name_for_log(&tried)))
        };
        let name = state.hasher.run(0, 0, search).await?;
        refuse(reason, name)
    }

    /// Whether a login whose secret was right may come in now and from there.
    fn admit(
        &self,
        account: &Arc<Account>,
        identities: Identities<'_>,
        client: IpAddr,
    ) -> Result<Authentication, Unavailable> {
        let now = Now::read();
        let credential = account.credential.as_deref();
        let for_itself = identities.authorization.is_empty()
            || prepare_name(identities.authorization)
                .is_ok_and(|identity| identity == account.name);
        let reason = if !account.enabled {
            RefusedLogin::Disabled
        } else if credential.is_some_and(|credential| has_expired(credential, now)) {
            RefusedLogin::Expired
        } else if !account.allows_from(client) {
            RefusedLogin::AddressNotAllowed
        } else if !for_itself {
            RefusedLogin::AuthorizationIdentity
        } else {
            let credential = account.credential_name().unwrap_or_default();
            self.memory.used(&account.name, credential, now.wall);
            return Ok(Authentication::Accept(Arc::clone(account)));
        };
        Ok(Authentication::Refuse {
            reason,
            name: Some(account.name.clone()),
            credential: account.credential_name().map(str::to_owned),
        })
    }
}

fn has_expired(credential: &Credential, now: Now) -> bool {
    credential
        .expires
        .is_some_and(|expires| now.wall >= expires)
}

/// Whom a claim names, as the client wrote it.
#[derive(Clone, Copy)]
struct Identities<'c> {
    authorization: &'c str,
    authentication: &'c str,
}

fn refuse(reason: RefusedLogin, name: Option<String>) -> Result<Authentication, Unavailable> {
    Ok(Authentication::Refuse {
        reason,
        name,
        credential: None,
    })
}

fn changed_meanwhile() -> Unavailable {
    Unavailable("the account was changed during its password check".to_owned())
}

impl CredentialStore for Accounts {
    fn check<'a>(
        &'a self,
        claim: &'a Claim,
        client: IpAddr,
    ) -> BoxFuture<'a, Result<Authentication, Unavailable>> {
        Box::pin(async move {
            match claim {
                Claim::Password {
                    authorization_identity,
                    authentication_identity,
                    password,
                } => {
                    let identities = Identities {
                        authorization: authorization_identity,
                        authentication: authentication_identity,
                    };
                    self.check_password(identities, password, client).await
                }
                Claim::Scram {
                    authorization_identity,
                    authentication_identity,
                    proof,
                } => {
                    let identities = Identities {
                        authorization: authorization_identity,
                        authentication: authentication_identity,
                    };
                    self.check_scram(identities, proof, client).await
                }
            }
        })
    }

    fn scram_offer<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Offer, Unavailable>> {
        let offer = || {
            let state = self.state.load();
            let name = prepare_name(name);
            // Made up for everybody, so that nobody's answer comes sooner.
            let made_up = state
                .directory
                .scram_shape()
                .nobodys(&self.memory.salt_key(), name.as_deref().unwrap_or_default());
            let verifier = name
                .ok()
                .and_then(|name| state.directory.find(&name))
                .and_then(|record| record.scram.as_ref())
                .map(|scram| Arc::clone(&scram.verifier));
            let nonce = scram::nonce()
                .ok_or_else(|| Unavailable("the system has no randomness".to_owned()))?;
            Ok(Offer {
                verifier: verifier.unwrap_or_else(|| Arc::new(made_up)),
                nonce,
            })
        };
        Box::pin(std::future::ready(offer()))
    }

    fn account(&self, login: &Account) -> Option<Arc<Account>> {
        let state = self.state.load();
        let record = state.directory.find(&login.name)?;
        let account = record.login(login.credential_name())?;
        match account.credential.as_deref() {
            Some(credential) if has_expired(credential, Now::read()) => None,
            _ => Some(Arc::clone(account)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::password::{Parameters, make};
    use super::*;

    fn hash_of(password: &str) -> String {
        let cheap = Parameters {
            memory_kib: 16,
            passes: 1,
            lanes: 1,
        };
        make(&Secret::from(password), cheap).unwrap()
    }

    fn entry(name: &str, hash: &str) -> String {
        format!("[[account]]\nname = \"{name}\"\npassword = \"{hash}\"\n")
    }

    fn settings(file: &Path) -> AccountSettings {
        AccountSettings {
            file: file.to_owned(),
            hash_memory: 64 << 10,
            hash_queue: 8,
            cache_for: None,
        }
    }

    fn open(source: &str) -> (Accounts, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("accounts.toml");
        std::fs::write(&file, source).unwrap();
        let (accounts, _) = Accounts::open(&settings(&file)).unwrap();
        (accounts, directory)
    }

    fn claim(authorization_identity: &str, name: &str, password: &[u8]) -> Claim {
        Claim::Password {
            authorization_identity: authorization_identity.to_owned(),
            authentication_identity: name.to_owned(),
            password: Secret::new(password.to_vec()),
        }
    }

    /// The account as it stands.
    fn named(accounts: &Accounts, name: &str) -> Option<Arc<Account>> {
        let state = accounts.state.load();
        let record = state.directory.find(name)?;
        accounts.account(&record.account)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
    }

    /// The answer in one line: the account's name, or the reason and the name for the log.
    fn answer(accounts: &Accounts, claim: &Claim, client: &str) -> String {
        let check = accounts.check(claim, client.parse().unwrap());
        match runtime().block_on(check).unwrap() {
            Authentication::Accept(account) => format!("accept {}", account.name),
            Authentication::Refuse { reason, name, .. } => {
                format!("{reason:?} {}", name.as_deref().unwrap_or("-"))
            }
        }
    }

    #[test]
    fn claims_and_their_answers() {
        let hash = hash_of("secret");
        let (accounts, _directory) = open(&format!(
            "{}{}disabled = true\n{}allow_from = [\"192.0.2.0/24\", \"2001:db8::/64\"]\n{}",
            entry("alice@example.org", &hash),
            entry("off@example.org", &hash),
            entry("near@example.org", &hash),
            "[[account]]\nname = \"empty@example.org\"\n",
        ));
        let (alice, off, near, empty) = (
            "alice@example.org",
            "off@example.org",
            "near@example.org",
            "empty@example.org",
        );
        for (name, password, expected) in [
            (alice, "secret", "accept alice@example.org"),
            ("alice@EXAMPLE.org", "secret", "accept alice@example.org"),
            (alice, "Secret", "WrongPassword alice@example.org"),
            (
                "ALICE@example.org",
                "secret",
                "UnknownAccount ALICE@example.org",
            ),
            ("hunter2hunter2", "secret", "UnknownAccount -"),
            ("", "secret", "Unusable -"),
            ("al\u{7}ice@example.org", "secret", "Unusable -"),
            (alice, "", "Unusable alice@example.org"),
            (alice, "se\0cret", "Unusable alice@example.org"),
            (off, "secret", "Disabled off@example.org"),
            (off, "wrong", "WrongPassword off@example.org"),
            (near, "secret", "AddressNotAllowed near@example.org"),
            (near, "wrong", "WrongPassword near@example.org"),
            (empty, "secret", "WrongPassword empty@example.org"),
            (empty, "unusable", "WrongPassword empty@example.org"),
        ] {
            let claim = claim("", name, password.as_bytes());
            let answer = answer(&accounts, &claim, "203.0.113.7");
            assert_eq!(answer, expected, "{name:?} {password:?}");
        }
        for (client, expected) in [
            ("192.0.2.9", "accept near@example.org"),
            ("::ffff:192.0.2.9", "accept near@example.org"),
            ("2001:db8::5", "accept near@example.org"),
            ("2001:db8:0:1::5", "AddressNotAllowed near@example.org"),
            ("192.0.3.9", "AddressNotAllowed near@example.org"),
        ] {
            let answer = answer(&accounts, &claim("", near, b"secret"), client);
            assert_eq!(answer, expected, "{client}");
        }
        for (authorization_identity, password, expected) in [
            (alice, "secret", "accept alice@example.org"),
            ("alice@Example.org", "secret", "accept alice@example.org"),
            (off, "secret", "AuthorizationIdentity alice@example.org"),
            ("\0", "secret", "AuthorizationIdentity alice@example.org"),
            (off, "wrong", "WrongPassword alice@example.org"),
        ] {
            let claim = claim(authorization_identity, alice, password.as_bytes());
            let answer = answer(&accounts, &claim, "203.0.113.7");
            assert_eq!(answer, expected, "{authorization_identity:?}");
        }
        for password in [b"\xff".as_slice(), &[b'x'; 2000]] {
            let answer = answer(&accounts, &claim("", alice, password), "203.0.113.7");
            assert_eq!(answer, "Unusable alice@example.org");
        }
    }

    #[test]
    fn a_remembered_login_needs_no_hash_and_bends_no_rule() {
        let alice = entry("alice@example.org", &hash_of("secret"));
        let (accounts, directory) = open(&alice);
        let file = directory.path().join("accounts.toml");
        let remembering = AccountSettings {
            cache_for: Some(Duration::from_secs(600)),
            ..settings(&file)
        };
        accounts.reconfigure(&remembering).unwrap();
        let login = |password: &str| {
            let claim = claim("", "alice@example.org", password.as_bytes());
            let check = accounts.check(&claim, "192.0.2.1".parse().unwrap());
            match runtime().block_on(check) {
                Ok(Authentication::Accept(_)) => "accepted",
                Ok(Authentication::Refuse {
                    reason: RefusedLogin::Disabled,
                    ..
                }) => "disabled",
                Ok(Authentication::Refuse { .. }) => "refused",
                Err(Unavailable(_)) => "needs a hash",
            }
        };
        assert_eq!(login("wrong"), "refused");
        assert_eq!(login("secret"), "accepted");
        accounts.state.load().hasher.close();
        assert_eq!(login("secret"), "accepted");
        // A guess is never answered from memory.
        assert_eq!(login("wrong"), "needs a hash");
        // What else is in the file counts at once, and a reload by itself forgets nothing.
        std::fs::write(&file, format!("{alice}disabled = true\n")).unwrap();
        accounts.reload().unwrap();
        assert_eq!(login("secret"), "disabled");
        std::fs::write(&file, &alice).unwrap();
        accounts.reload().unwrap();
        assert_eq!(login("secret"), "accepted");
        // The same password, stored anew, is another one.
        std::fs::write(&file, entry("alice@example.org", &hash_of("secret"))).unwrap();
        accounts.reload().unwrap();
        assert_eq!(login("secret"), "needs a hash");
        // "off" forgets.
        std::fs::write(&file, &alice).unwrap();
        accounts.reconfigure(&settings(&file)).unwrap();
        assert_eq!(login("secret"), "needs a hash");
    }

    #[test]
    fn credentials_and_their_answers() {
        let secrets = [(); 4].map(|()| credential::generate().unwrap());
        let entry_of = |name: &str, index: usize, more: &str| {
            let kept = secrets[index].1.to_text();
            format!("[[account.credential]]\nname = \"{name}\"\nsecret = \"{kept}\"\n{more}\n")
        };
        let source = entry("alice@example.org", &hash_of("secret"))
            + "allow_from = [\"192.0.2.0/24\", \"198.51.100.0/24\"]\n"
            + &entry_of(
                "scanner",
                0,
                "allow_from = [\"198.51.100.7\", \"203.0.113.0/24\"]",
            )
            + &entry_of("old", 1, "expires = 2020-01-01")
            + "[[account]]\nname = \"off@example.org\"\ndisabled = true\n"
            + &entry_of("scanner", 2, "")
            + "[[account]]\nname = \"none@example.org\"\n"
            + &entry_of("scanner", 3, "");
        let (accounts, _directory) = open(&source);
        let alice = "alice@example.org";
        let secret = |index: usize| secrets[index].0.expose();
        let said = |name: &str, password: &[u8], client: &str| {
            let check = claim("", name, password);
            let check = accounts.check(&check, client.parse().unwrap());
            match runtime().block_on(check).unwrap() {
                Authentication::Accept(account) => {
                    format!("accept {}", account.credential_name().unwrap_or("-"))
                }
                Authentication::Refuse {
                    reason, credential, ..
                } => {
                    format!("{reason:?} {}", credential.as_deref().unwrap_or("-"))
                }
            }
        };
        // From where both may, and from nowhere else.
        assert_eq!(said(alice, secret(0), "198.51.100.7"), "accept scanner");
        assert_eq!(
            said(alice, secret(0), "192.0.2.1"),
            "AddressNotAllowed scanner"
        );
        assert_eq!(
            said(alice, secret(0), "203.0.113.1"),
            "AddressNotAllowed scanner"
        );
        assert_eq!(said(alice, b"secret", "192.0.2.1"), "accept -");
        assert_eq!(said(alice, secret(1), "192.0.2.1"), "Expired old");
        assert_eq!(
            said("off@example.org", secret(2), "192.0.2.1"),
            "Disabled scanner"
        );
        // The secret of another account, or none of the account's.
        assert_eq!(said(alice, secret(2), "192.0.2.1"), "WrongPassword -");
        assert_eq!(
            said("nobody@example.org", secret(0), "192.0.2.1"),
            "UnknownAccount -"
        );
        assert_eq!(
            said("none@example.org", b"secret", "192.0.2.1"),
            "WrongPassword -"
        );
        assert_eq!(
            said("none@example.org", secret(3), "192.0.2.1"),
            "accept scanner"
        );
        assert_eq!(accounts.summary().without_password, 0);
        let expired = accounts.expired(Now::read());
        assert_eq!(expired, [(alice.to_owned(), "old".to_owned())]);
        for (credential, used) in [("scanner", true), ("", true), ("old", false)] {
            let last = accounts.memory.last_used(alice, credential);
            assert_eq!(last.is_some(), used, "{credential:?}");
        }
        // No password hash is computed for a credential, and one for whatever else is tried.
        accounts.state.load().hasher.close();
        assert_eq!(said(alice, secret(0), "198.51.100.7"), "accept scanner");
        let wrong = claim("", alice, b"wrong");
        let check = accounts.check(&wrong, "192.0.2.1".parse().unwrap());
        assert!(runtime().block_on(check).is_err());
    }

    #[test]
    fn a_login_ends_with_its_credential() {
        let (secret, kept) = credential::generate().unwrap();
        let alone = entry("alice@example.org", &hash_of("secret"));
        let with = |more: &str| {
            let kept = kept.to_text();
            format!(
                "{alone}[[account.credential]]\nname = \"scanner\"\nsecret = \"{kept}\"\n{more}\n"
            )
        };
        let (accounts, directory) = open(&with(""));
        let file = directory.path().join("accounts.toml");
        let claim = Claim::Password {
            authorization_identity: String::new(),
            authentication_identity: "alice@example.org".to_owned(),
            password: secret,
        };
        let check = accounts.check(&claim, "192.0.2.1".parse().unwrap());
        let Ok(Authentication::Accept(login)) = runtime().block_on(check) else {
            panic!("it is accepted");
        };
        let now = |source: String| {
            std::fs::write(&file, source).unwrap();
            accounts.reload().unwrap();
            accounts.account(&login)
        };
        let narrowed = now(with("rcpt_allow = [\"*@example.org\"]")).unwrap();
        assert_eq!(narrowed.credential.as_ref().unwrap().rcpt_allow.len(), 1);
        assert!(now(with("expires = 2020-01-01")).is_none());
        assert!(now(with("expires = 2999-01-01")).is_some());
        assert!(
            now(alone.clone()).is_none(),
            "the account is there, the credential is not"
        );
        assert!(now(with("disabled = true").replace("disabled = true", "")).is_some());
    }

    #[test]
    fn what_cannot_be_prepared_is_not_what_stands_in_for_it() {
        let (accounts, _directory) = open(&entry("a@b.example", &hash_of("unusable")));
        let answer = answer(&accounts, &claim("", "a@b.example", b""), "192.0.2.1");
        assert!(answer.starts_with("Unusable"), "{answer}");
    }

    #[test]
    fn a_broken_file_keeps_the_old_accounts() {
        let alice = entry("alice@example.org", &hash_of("secret"));
        let (accounts, directory) = open(&alice);
        let file = directory.path().join("accounts.toml");
        for broken in [
            &alice[..alice.len() - 5],
            "",
            "  \n",
            "[[account]]\nnam = 1\n",
        ] {
            std::fs::write(&file, broken).unwrap();
            let findings = accounts.reload().unwrap_err();
            assert!(findings.iter().any(Finding::is_error));
            assert!(named(&accounts, "alice@example.org").is_some(), "{broken}");
        }
        std::fs::remove_file(&file).unwrap();
        assert!(accounts.reload().is_err());
        assert!(named(&accounts, "alice@example.org").is_some());

        std::fs::write(&file, alice.replace("alice", "bob") + "disabled = true\n").unwrap();
        let (summary, _) = accounts.reload().unwrap();
        assert_eq!((summary.accounts, summary.disabled), (1, 1));
        assert!(named(&accounts, "alice@example.org").is_none());
        assert!(!named(&accounts, "bob@example.org").unwrap().enabled);

        std::fs::write(&file, "# nobody any more\n").unwrap();
        assert_eq!(accounts.reload().unwrap().0.accounts, 0);
        assert!(named(&accounts, "bob@example.org").is_none());
    }

    #[test]
    fn settings_change_as_a_whole_or_not_at_all() {
        let (accounts, directory) = open(&entry("alice@example.org", &hash_of("secret")));
        let file = directory.path().join("accounts.toml");
        let with_memory = |kib: u64| AccountSettings {
            hash_memory: kib << 10,
            ..settings(&file)
        };
        let login = || {
            let claim = claim("", "alice@example.org", b"secret");
            answer(&accounts, &claim, "192.0.2.1")
        };
        let findings = accounts.reconfigure(&with_memory(8)).unwrap_err();
        assert!(
            findings[0].message.contains("more than the 8 KiB allowed"),
            "{findings:?}"
        );
        assert_eq!(login(), "accept alice@example.org");
        accounts.reconfigure(&with_memory(16)).unwrap();
        assert_eq!(login(), "accept alice@example.org");
    }

    #[test]
    fn an_old_password_does_not_outlive_its_check() {
        let (accounts, directory) = open(&entry("alice@example.org", &hash_of("secret")));
        let claim = claim("", "alice@example.org", b"secret");
        runtime().block_on(async {
            // So that the check is still under way when the file changes, however fast the hash is.
            let held = accounts.state.load().hasher.hold_all();
            let mut check = accounts.check(&claim, "192.0.2.1".parse().unwrap());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let begun = check.as_mut().poll(&mut context);
            assert!(begun.is_pending());
            let file = directory.path().join("accounts.toml");
            std::fs::write(&file, entry("alice@example.org", &hash_of("changed"))).unwrap();
            accounts.reload().unwrap();
            drop(held);
            assert!(check.await.is_err());
        });
    }
}
