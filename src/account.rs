//! Who may log in: accounts, and the check of a claim against them.
//!
//! [`CredentialStore`] is what the server asks; [`Accounts`], the accounts file, answers. A check runs off the
//! runtime's threads and within a budget of memory ([`AccountSettings::hash_memory`]). A refusal costs one hash, no more
//! and no less, whether the account exists, is disabled or has no password, and whether the secret was right and only
//! the address was not: neither the answer nor its time tells a stranger which accounts there are, or that a guess was
//! right. (Accounts whose hashes were made by another program, or with parameters other than most in the
//! file, can be told by the time that they take.)
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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::Now;
use crate::containment::Containment;
use crate::decision::{
    Account, Authentication, Caller, Claim, Credential, Grant, RefusedLogin, TokenFault,
    Unavailable,
};
use crate::diagnostic::Finding;
use crate::sasl::external::Certificate;
use crate::sasl::scram::{Offer, Proof};
use crate::secret::Secret;

pub mod credential;
pub mod directory;
pub mod edit;
pub mod file;
pub mod foreign;
mod hashing;
pub mod identity;
pub mod password;
mod remembered;
pub mod scram;
pub mod state;
pub mod stored;
pub mod token;

use directory::{CredentialRecord, Directory};
use edit::Edit;
use hashing::Hasher;
use identity::{Prepared, prepare_name, prepare_typed};
use password::{MEMORY_KIB_MAX, Parameters};
use remembered::Remembered;
use state::LoginState;
use stored::Stored;
use token::{IssuerSettings, Issuers, Judged};

/// A future that can be sent to another thread, in a box: what an asynchronous method of a trait object gives.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something that knows who may log in.
pub trait CredentialStore: Send + Sync {
    /// Checks a claim that `caller` makes.
    ///
    /// `Err` means "could not tell", by overload or a fault of ours. Dropping the future abandons the answer, not
    /// necessarily the work.
    fn check<'a>(
        &'a self,
        claim: &'a Claim,
        caller: Caller,
    ) -> BoxFuture<'a, Result<Authentication, Unavailable>>;

    /// The SCRAM keys of a name as a client writes it, and randomness for one exchange. A name that has no keys gets
    /// some all the same, in the same time, that no proof fits.
    fn scram_offer<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Offer, Unavailable>>;

    /// As whom this certificate lets its owner log in, as things stand now, disabled accounts among them. Several are
    /// possible where it names several.
    fn logins_of(&self, certificate: &Certificate) -> Vec<Arc<Account>>;

    /// The same login as it stands now; `None` if its account, its credential or the issuer of its token was removed,
    /// or the credential has expired. For sessions that outlive a reload.
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
    /// Whether a hash that is not argon2id, or weak, is replaced by one that is when its password is known: at a login.
    pub upgrade_hashes: bool,
    /// Whether a certificate can name an account, which then needs nothing else to log in with.
    pub named_by_certificates: bool,
    /// Whose tokens are taken. At most one of them is asked about tokens that do not say whose they are.
    pub issuers: Vec<IssuerSettings>,
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
    /// Who may not log in for now.
    containment: Arc<Containment>,
    /// Whether a hash is being upgraded: one at a time, the next login is soon enough for another.
    upgrading: Arc<AtomicBool>,
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
    issuers: Issuers,
}

impl Accounts {
    /// Reads the accounts file. Warnings come with the accounts; any error comes without. Blocks on the disk.
    pub fn open(settings: &AccountSettings) -> Result<(Self, Vec<Finding>), Vec<Finding>> {
        let (directory, issuers, warnings) = read(settings, &Issuers::default())?;
        let state = State {
            settings: settings.clone(),
            directory,
            hasher: Arc::new(Hasher::new(settings.hash_memory_kib(), settings.hash_queue)),
            remembered: settings.cache_for.and_then(Remembered::new).map(Arc::new),
            issuers,
        };
        let accounts = Self {
            state: ArcSwap::from_pointee(state),
            memory: LoginState::in_memory(),
            containment: Arc::default(),
            upgrading: Arc::default(),
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

    /// The same accounts, of which those that are contained cannot log in.
    #[must_use]
    pub fn with_containment(mut self, containment: Arc<Containment>) -> Self {
        self.containment = containment;
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
        let (directory, issuers, warnings) = read(settings, &old.issuers)?;
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
            issuers,
        }));
        Ok((self.summary(), warnings))
    }

    /// Fetches the keys of issuers that are not there or have become old. Returns at once; to be called every few
    /// seconds, within the runtime.
    pub fn refresh_keys(&self, now: Now) {
        self.state.load().issuers.refresh(now);
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

    /// The account of this name, in its compared form, as it stands now.
    pub fn named(&self, name: &str) -> Option<Arc<Account>> {
        let state = self.state.load();
        let record = state.directory.find(name)?;
        Some(Arc::clone(&record.account))
    }

    /// Whether any credential is a certificate.
    pub fn has_certificates(&self) -> bool {
        self.state.load().directory.has_certificates()
    }

    /// The accounts whose password could be guessed cheaply by whoever steals the file, each with the reason.
    pub fn weak(&self) -> Vec<(String, &'static str)> {
        let state = self.state.load();
        let records = state.directory.records().iter();
        records
            .filter_map(|record| {
                let weakness = record.password.as_ref()?.weakness()?;
                Some((record.account.name.clone(), weakness))
            })
            .collect()
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
        caller: Caller,
    ) -> Result<Authentication, Unavailable> {
        let client = caller.address;
        let state = self.state.load_full();
        let name = prepare_name(identities.authentication);
        let prepared = prepare_typed(password);
        let usable = name.is_ok() && prepared.is_ok();
        let record = name
            .as_ref()
            .ok()
            .and_then(|name| state.directory.find(name));
        let verified = record.and_then(|record| record.password.clone());
        // Every refusal costs one hash; what cannot be hashed is replaced by something that can.
        let stored = verified
            .clone()
            .unwrap_or_else(|| Arc::clone(state.directory.dummy()));
        let prepared = prepared.unwrap_or_else(|_| Prepared {
            prepared: Secret::from("unusable"),
            typed: Secret::from("unusable"),
        });
        let candidate = stored.candidate(&prepared).clone();
        // The credentials first: they cost next to nothing, and for a name that has none the same.
        let secret_hash = credential::hash(&prepared.prepared);
        let credential = record
            .filter(|_| usable)
            .and_then(|record| record.credential_with(&secret_hash))
            .map(|credential| Arc::clone(&credential.account));
        let now = Now::read();
        let may = |account: &Account| self.objection(account, identities, client, now).is_none();
        if let Some(account) = &credential
            && may(account)
        {
            return self.admit(account, identities, client);
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
            .is_some_and(|(remembered, code)| remembered.knows(code, now.instant));
        let may_itself = record.is_some_and(|record| may(&record.account));
        // That a right secret is refused must take its time, too: else the time would tell that it is right.
        let (matches, log_name) = if usable && known && may_itself && credential.is_none() {
            (true, None)
        } else {
            let (for_log, tried) = (Arc::clone(&state), name.clone().ok());
            let then = move |matches| {
                let name = match matches && may_itself {
                    true => None,
                    false => tried.and_then(|tried| for_log.directory.name_for_log(&tried)),
                };
                (matches, name)
            };
            state.hasher.check(caller, stored, candidate, then).await?
        };
        if let Some(account) = credential {
            return self.admit(&account, identities, client);
        }
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
        let answer = self.admit(&record.account, identities, client)?;
        let account = Arc::clone(&record.account);
        drop(state);
        if let (Authentication::Accept(_), Some(verified)) = (&answer, verified) {
            self.upgrade(&account, verified, prepared.prepared, caller)
                .await;
        }
        Ok(answer)
    }

    /// Replaces the stored hash by one of our own, if it should be, now that the password is known. That it cannot be
    /// done is no reason to refuse a login.
    async fn upgrade(
        &self,
        account: &Account,
        stored: Arc<Stored>,
        password: Secret,
        caller: Caller,
    ) {
        let state = self.state.load_full();
        if !state.settings.upgrade_hashes || !stored.is_outdated() {
            return;
        }
        let Some(turn) = Turn::take(&self.upgrading) else {
            return;
        };
        let parameters = Parameters::default();
        let memory_kib = parameters.memory_kib;
        let make = move |memory: &mut [argon2::Block]| {
            password::make_in(memory, &password, parameters)
                .map_err(|error| Unavailable(error.to_string()))
        };
        let blocks = memory_kib as usize;
        let made = state.hasher.run(caller, memory_kib, blocks, make);
        let Ok(hash) = made.await else {
            return;
        };
        let name = account.name.clone();
        // An edit waits for other edits and for the disk, and the login for neither.
        drop(tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let settings = &state.settings;
            let edit = Edit::UpgradePassword { from: stored, hash };
            match edit::apply(&settings.file, &name, &edit, settings.hash_memory_kib()) {
                Ok(edited) if edited.changed => {
                    tracing::info!(event = "account.upgraded", account = name);
                }
                // Somebody else was faster, with an upgrade or with another password.
                Ok(_) => {}
                Err(findings) => {
                    let errors: Vec<String> = findings.iter().map(Finding::one_line).collect();
                    let error = errors.join("; ");
                    tracing::warn!(event = "account.not_upgraded", account = name, error);
                }
            }
        }));
    }

    async fn check_scram(
        &self,
        identities: Identities<'_>,
        proof: &Proof,
        caller: Caller,
    ) -> Result<Authentication, Unavailable> {
        let client = caller.address;
        let state = self.state.load_full();
        let name = prepare_name(identities.authentication);
        let record = name
            .as_ref()
            .ok()
            .and_then(|name| state.directory.find(name));
        let (reason, login) = match (record, record.and_then(|record| record.scram.as_ref())) {
            (Some(record), Some(scram)) if scram.verifier.same_as(&proof.verifier) => {
                let owner = proof.matched.and_then(|index| scram.owners.get(index));
                let login = owner.and_then(|owner| match owner {
                    None => Some(&record.account),
                    Some(index) => Some(&record.credentials.get(*index)?.account),
                });
                (RefusedLogin::WrongPassword, login)
            }
            // Other keys than those that the client was asked about.
            (Some(_), Some(_)) => return Err(changed_meanwhile()),
            (Some(_), None) => (RefusedLogin::NoScramKeys, None),
            (None, _) if name.is_err() => (RefusedLogin::Unusable, None),
            (None, _) => (RefusedLogin::UnknownAccount, None),
        };
        let now = Now::read();
        if let Some(account) = login
            && self.objection(account, identities, client, now).is_none()
        {
            return self.admit(account, identities, client);
        }
        // The search is paid for like a hash, by whoever guesses, and by whoever is right and refused all the same.
        let for_log = Arc::clone(&state);
        let tried = name.clone().ok();
        let search = move |_: &mut [argon2::Block]| {
            Ok(tried.and_then(|tried| for_log.directory.name_for_log(&tried)))
        };
        let name = state.hasher.run(caller, 0, 0, search).await?;
        match login {
            Some(account) => self.admit(account, identities, client),
            None => refuse(reason, name),
        }
    }

    /// That the client has the key of the certificate was proven in the TLS handshake.
    fn check_certificate(
        &self,
        authorization: &str,
        certificate: &Certificate,
        client: IpAddr,
    ) -> Result<Authentication, Unavailable> {
        let state = self.state.load();
        let logins = state.directory.logins_of(certificate);
        let wanted = prepare_name(authorization);
        let named = |login: &&Arc<Account>| wanted.as_ref().is_ok_and(|name| *name == login.name);
        let login = match logins.as_slice() {
            [] => return refuse(RefusedLogin::UnknownCertificate, None),
            // Whether it may act for whom it wants to is looked at with the rest.
            [only] => *only,
            several => match several.iter().copied().find(named) {
                Some(login) => login,
                None if authorization.is_empty() => {
                    return refuse(RefusedLogin::SeveralAccounts, None);
                }
                None => return refuse(RefusedLogin::AuthorizationIdentity, None),
            },
        };
        if !certificate.is_valid_at(Now::read().wall) {
            return Ok(Authentication::Refuse {
                reason: RefusedLogin::CertificateNotValid,
                name: Some(login.name.clone()),
                credential: login.credential_name().map(str::to_owned),
                issuer: None,
            });
        }
        let identities = Identities {
            authorization,
            authentication: &login.name,
        };
        self.admit(login, identities, client)
    }

    async fn check_token(
        &self,
        authorization_identity: &str,
        token: &Secret,
        client: IpAddr,
    ) -> Result<Authentication, Unavailable> {
        let state = self.state.load_full();
        let Judged { issuer, answer } = state.issuers.check(token, Now::read()).await?;
        let refuse = |reason, name| {
            Ok(Authentication::Refuse {
                reason,
                name,
                credential: None,
                issuer: issuer.clone(),
            })
        };
        let verified = match answer {
            Ok(verified) => verified,
            Err(fault) => return refuse(RefusedLogin::Token(fault), None),
        };
        let Ok(name) = prepare_name(&verified.name) else {
            return refuse(RefusedLogin::Token(TokenFault::Account), None);
        };
        // The accounts as they stand now, which a reload may have changed while the issuer was asked.
        let state = self.state.load();
        let Some(record) = state.directory.find(&name) else {
            // Nobody has typed it: it is what the issuer says, so it is fit for the log.
            return refuse(RefusedLogin::UnknownAccount, Some(name));
        };
        let grant = issuer.clone().map(|issuer| Grant {
            issuer,
            expires: verified.expires,
        });
        let login = Account {
            grant,
            ..(*record.account).clone()
        };
        let identities = Identities {
            authorization: authorization_identity,
            authentication: &name,
        };
        self.admit(&Arc::new(login), identities, client)
    }

    /// Why a login whose secret is right may not come in now and from there.
    fn objection(
        &self,
        account: &Account,
        identities: Identities<'_>,
        client: IpAddr,
        now: Now,
    ) -> Option<RefusedLogin> {
        let credential = account.credential.as_deref();
        let for_itself = identities.authorization.is_empty()
            || prepare_name(identities.authorization)
                .is_ok_and(|identity| identity == account.name);
        if self.containment.holds_login(account) {
            Some(RefusedLogin::Contained)
        } else if !account.enabled {
            Some(RefusedLogin::Disabled)
        } else if credential.is_some_and(|credential| has_expired(credential, now)) {
            Some(RefusedLogin::Expired)
        } else if !account.allows_from(client) {
            Some(RefusedLogin::AddressNotAllowed)
        } else if !for_itself {
            Some(RefusedLogin::AuthorizationIdentity)
        } else {
            None
        }
    }

    /// Whether a login whose secret was right may come in now and from there.
    fn admit(
        &self,
        account: &Arc<Account>,
        identities: Identities<'_>,
        client: IpAddr,
    ) -> Result<Authentication, Unavailable> {
        let now = Now::read();
        let Some(reason) = self.objection(account, identities, client, now) else {
            let credential = account.credential_name().unwrap_or_default();
            self.memory.used(&account.name, credential, now.wall);
            return Ok(Authentication::Accept(Arc::clone(account)));
        };
        Ok(Authentication::Refuse {
            reason,
            name: Some(account.name.clone()),
            credential: account.credential_name().map(str::to_owned),
            issuer: account
                .grant
                .as_ref()
                .map(|grant| Arc::clone(&grant.issuer)),
        })
    }
}

/// Reads all files that `settings` name; `old` is what was known of issuers.
fn read(
    settings: &AccountSettings,
    old: &Issuers,
) -> Result<(Directory, Issuers, Vec<Finding>), Vec<Finding>> {
    let mut findings = Vec::new();
    let directory = match Directory::read(&settings.file, settings.hash_memory_kib()) {
        Ok((directory, warnings)) => {
            findings.extend(warnings);
            Some(directory)
        }
        Err(errors) => {
            findings.extend(errors);
            None
        }
    };
    let without_password = settings.named_by_certificates || !settings.issuers.is_empty();
    let mut findings = file::relevant(findings, without_password);
    match (directory, Issuers::open(&settings.issuers, old)) {
        (Some(directory), Ok((issuers, warnings))) => {
            findings.extend(warnings);
            Ok((directory, issuers, findings))
        }
        (None, Ok(_)) => Err(findings),
        (_, Err(errors)) => {
            findings.extend(errors);
            Err(findings)
        }
    }
}

fn has_expired(credential: &Credential, now: Now) -> bool {
    credential
        .expires
        .is_some_and(|expires| now.wall >= expires)
}

/// The right to upgrade a hash; given back when it is dropped.
struct Turn(Arc<AtomicBool>);

impl Turn {
    fn take(busy: &Arc<AtomicBool>) -> Option<Self> {
        (!busy.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(busy)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
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
        issuer: None,
    })
}

fn changed_meanwhile() -> Unavailable {
    Unavailable("the account was changed during its password check".to_owned())
}

impl CredentialStore for Accounts {
    fn check<'a>(
        &'a self,
        claim: &'a Claim,
        caller: Caller,
    ) -> BoxFuture<'a, Result<Authentication, Unavailable>> {
        let client = caller.address;
        Box::pin(async move {
            match claim {
                Claim::Certificate {
                    authorization_identity,
                    certificate,
                } => self.check_certificate(authorization_identity, certificate, client),
                Claim::Password {
                    authorization_identity,
                    authentication_identity,
                    password,
                } => {
                    let identities = Identities {
                        authorization: authorization_identity,
                        authentication: authentication_identity,
                    };
                    self.check_password(identities, password, caller).await
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
                    self.check_scram(identities, proof, caller).await
                }
                Claim::Token {
                    authorization_identity,
                    token,
                } => {
                    self.check_token(authorization_identity, token, client)
                        .await
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

    fn logins_of(&self, certificate: &Certificate) -> Vec<Arc<Account>> {
        let state = self.state.load();
        let logins = state.directory.logins_of(certificate).into_iter();
        logins.map(Arc::clone).collect()
    }

    fn account(&self, login: &Account) -> Option<Arc<Account>> {
        let state = self.state.load();
        let vouched = login.grant.as_ref();
        if vouched.is_some_and(|grant| !state.issuers.has(&grant.issuer)) {
            return None;
        }
        let record = state.directory.find(&login.name)?;
        let account = record.login(login.credential_name())?;
        match account.credential.as_deref() {
            Some(credential) if has_expired(credential, Now::read()) => None,
            _ => Some(Arc::clone(account)),
        }
    }
}

#[cfg(test)]
mod tests;
