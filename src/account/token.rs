//! Tokens that somebody else has issued (OAuth 2.0): from whom they are taken, and whether one is good for a login.
//!
//! An issuer's tokens are signed (`keys`), and its keys lie in a file or are fetched from it (`keyring`); or it is
//! asked about each (`introspection`). Either way the same rules say whether what is said of a token is enough
//! (`claims`). Which account that is, and whether it may log in, is for [`Accounts`](super::Accounts).
//!
//! A provider is a peer like any other: what it can make us hold, do or wait for is bounded in `web`. While it is
//! down nobody is let in or called a liar: the answer is "could not tell". A token is shown to no other issuer than the
//! one that it names, and is never in a log or an error.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio_util::task::TaskTracker;

use crate::clock::{Now, Timestamp};
use crate::decision::{TokenFault, Unavailable};
use crate::diagnostic::Finding;
use crate::secret::Secret;

mod claims;
mod introspection;
mod keyring;
mod keys;
mod trouble;
mod web;

pub use jsonwebtoken::Algorithm;
pub use web::{WebAddress, WebAddressError};

use claims::{Claims, Said, Verified};
use introspection::Introspection;
use keyring::{Keyring, Source};
use keys::{Jwt, KeySet};
use web::Client;

/// All algorithms that can be allowed, with their names (RFC 7518 section 3.1, RFC 8037 section 3.1). Those with a
/// shared secret are not among them: whoever can check such a token can make one.
pub const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// What is allowed if nothing is said: what providers use.
pub const USUAL_ALGORITHMS: [Algorithm; 4] = [
    Algorithm::RS256,
    Algorithm::PS256,
    Algorithm::ES256,
    Algorithm::EdDSA,
];

/// Where a provider says where everything is (OpenID Connect Discovery 1.0 section 4), behind its name.
const CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";
/// Octets in a file of keys: as many as in an answer.
const KEY_FILE_BYTES_MAX: u64 = web::ANSWER_BYTES_MAX as u64;
/// Octets in the file of a client's secret.
const SECRET_FILE_BYTES_MAX: u64 = 4096;

/// Somebody whose tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    /// Its name, as `iss` has it, to the letter.
    pub issuer: String,
    /// For whom a token must be, one of these; empty only where the issuer is asked, and then for anybody.
    pub audience: Vec<String>,
    /// How its tokens are checked.
    pub check: TokenCheck,
    /// The claim that names the account.
    pub account_claim: String,
    /// The scopes that a token must have, all of them.
    pub scope: Vec<String>,
    /// How its tokens may be signed.
    pub algorithms: Vec<Algorithm>,
    /// How much the clocks may differ.
    pub leeway: Duration,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// What its certificate is checked against; `None`: what this machine trusts.
    pub ca: Option<PathBuf>,
}

/// How an issuer's tokens are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenCheck {
    /// By its keys, which it publishes.
    FetchedKeys {
        /// Where; `None`: where its configuration says.
        address: Option<WebAddress>,
        /// How old they may be before they are fetched anew.
        refresh: Duration,
        /// How old they may be when it cannot be asked.
        stale: Duration,
    },
    /// By asking it (RFC 7662).
    Introspection {
        /// Where.
        address: WebAddress,
        /// What we are called there.
        client_id: String,
        /// The file with our secret there.
        client_secret_file: PathBuf,
        /// How long a good token is remembered; `None`: it is asked each time.
        cache_for: Option<Duration>,
    },
    /// By its keys, which are in this file.
    KeyFile(PathBuf),
}

impl IssuerSettings {
    /// Where its configuration is.
    pub fn configuration(&self) -> Result<WebAddress, WebAddressError> {
        let issuer = self.issuer.trim_end_matches('/');
        WebAddress::parse(&format!("{issuer}{CONFIGURATION_PATH}"))
    }

    /// The file of keys that it reads.
    pub fn key_file(&self) -> Option<&Path> {
        match &self.check {
            TokenCheck::KeyFile(path) => Some(path),
            TokenCheck::FetchedKeys { .. } | TokenCheck::Introspection { .. } => None,
        }
    }

    /// The other files that it reads: what is trusted there, and our secret.
    pub fn other_files(&self) -> Vec<PathBuf> {
        let secret = match &self.check {
            TokenCheck::Introspection {
                client_secret_file, ..
            } => Some(client_secret_file),
            TokenCheck::FetchedKeys { .. } | TokenCheck::KeyFile(_) => None,
        };
        self.ca.iter().chain(secret).cloned().collect()
    }

    /// Whether something is asked over the network.
    pub fn is_asked(&self) -> bool {
        match &self.check {
            TokenCheck::FetchedKeys { .. } | TokenCheck::Introspection { .. } => true,
            TokenCheck::KeyFile(_) => false,
        }
    }

    /// The address that it asks, where one is named.
    pub fn address(&self) -> Option<&WebAddress> {
        match &self.check {
            TokenCheck::FetchedKeys { address, .. } => address.as_ref(),
            TokenCheck::Introspection { address, .. } => Some(address),
            TokenCheck::KeyFile(_) => None,
        }
    }
}

/// All issuers of one configuration.
#[derive(Default)]
pub(super) struct Issuers {
    issuers: Vec<Arc<Issuer>>,
    /// Fetches that run. Nothing waits for them at the end: they hold nothing.
    tasks: TaskTracker,
}

/// What became of a token.
pub(super) struct Judged {
    /// Whose it is, where that is somebody whom we know.
    pub(super) issuer: Option<Arc<str>>,
    /// Whether it is good.
    pub(super) answer: Result<Verified, TokenFault>,
}

struct Issuer {
    name: Arc<str>,
    settings: IssuerSettings,
    material: Material,
    check: Check,
}

/// What its files hold.
#[derive(Default)]
struct Material {
    secret: Secret,
    trusted: Vec<CertificateDer<'static>>,
}

enum Check {
    Fetched(Arc<Keyring>),
    Introspection(Box<Introspection>),
    Keys(KeySet),
}

impl Issuers {
    /// Reads the files that `settings` name. An issuer that has not changed goes on with what it knows. Blocks on the
    /// disk; the network is left alone.
    pub(super) fn open(
        settings: &[IssuerSettings],
        old: &Self,
    ) -> Result<(Self, Vec<Finding>), Vec<Finding>> {
        let (mut issuers, mut findings) = (Vec::new(), Vec::new());
        let mut system_roots = None;
        for one in settings {
            match Issuer::open(one, old, &mut system_roots) {
                Ok((issuer, warnings)) => {
                    issuers.push(issuer);
                    findings.extend(warnings);
                }
                Err(finding) => findings.push(*finding),
            }
        }
        // The same is said of several for the same reason.
        findings.dedup();
        if findings.iter().any(Finding::is_error) {
            return Err(findings);
        }
        let tasks = old.tasks.clone();
        Ok((Self { issuers, tasks }, findings))
    }

    /// Whether tokens of this one are taken.
    pub(super) fn has(&self, issuer: &str) -> bool {
        self.issuers.iter().any(|one| *one.name == *issuer)
    }

    /// Fetches the keys that are not there or have become old. Returns at once; it is to be called every few seconds,
    /// within the runtime.
    pub(super) fn refresh(&self, now: Now) {
        for issuer in &self.issuers {
            if let Check::Fetched(keyring) = &issuer.check {
                keyring.refresh(&self.tasks, now);
            }
        }
    }

    /// Whether a token is good for a login. `Err` means that its issuer could not be asked.
    pub(super) async fn check(&self, token: &Secret, now: Now) -> Result<Judged, Unavailable> {
        let unknown = |fault| {
            Ok(Judged {
                issuer: None,
                answer: Err(fault),
            })
        };
        let Ok(text) = std::str::from_utf8(token.expose()) else {
            return unknown(TokenFault::Malformed);
        };
        let jwt = match Jwt::peek(text).transpose() {
            Ok(jwt) => jwt,
            Err(fault) => return unknown(fault),
        };
        let named = jwt.as_ref().and_then(|jwt| jwt.issuer.as_deref());
        let issuer = match named {
            Some(named) => self.issuers.iter().find(|one| *one.name == *named),
            // It does not say from whom it is. There is at most one who could be asked, so it is shown to nobody else.
            None => self
                .issuers
                .iter()
                .find(|one| matches!(one.check, Check::Introspection(_))),
        };
        let Some(issuer) = issuer.filter(|_| !token.is_empty()) else {
            return unknown(match jwt {
                Some(_) => TokenFault::Issuer,
                None => TokenFault::Malformed,
            });
        };
        let settings = &issuer.settings;
        let judge = |claims: claims::Claims| claims.judge(settings, Said::ByToken, now.wall);
        let answer = match (&issuer.check, &jwt) {
            (Check::Introspection(introspection), _) => {
                introspection.check(token, settings, now).await
            }
            (Check::Keys(keys), Some(jwt)) => {
                Ok(keys.verify(jwt, &settings.algorithms).and_then(judge))
            }
            (Check::Fetched(keyring), Some(jwt)) => {
                let verified = keyring.verify(jwt, &settings.algorithms, &self.tasks, now);
                verified.await.map(|claims| claims.and_then(judge))
            }
            // Only a JWT names its issuer.
            (Check::Keys(_) | Check::Fetched(_), None) => Ok(Err(TokenFault::Malformed)),
        };
        match answer {
            Ok(answer) => Ok(Judged {
                issuer: Some(Arc::clone(&issuer.name)),
                answer,
            }),
            Err(Unavailable(reason)) => {
                Err(Unavailable(format!("issuer {}: {reason}", issuer.name)))
            }
        }
    }
}

impl Issuer {
    fn open(
        settings: &IssuerSettings,
        old: &Issuers,
        system_roots: &mut Option<Vec<CertificateDer<'static>>>,
    ) -> Result<(Arc<Self>, Vec<Finding>), Box<Finding>> {
        let mut warnings = Vec::new();
        let material = Material::read(settings, system_roots, &mut warnings)?;
        let same = |one: &&Arc<Self>| one.settings == *settings && one.material.is_same(&material);
        let unchanged = old.issuers.iter().find(same);
        // A file may have changed under its name, and what it holds costs nothing to read again.
        if let Some(unchanged) = unchanged.filter(|_| settings.key_file().is_none()) {
            return Ok((Arc::clone(unchanged), warnings));
        }
        let name: Arc<str> = settings.issuer.as_str().into();
        let check = material.check(&name, settings)?;
        let issuer = Self {
            name,
            settings: settings.clone(),
            material,
            check,
        };
        Ok((Arc::new(issuer), warnings))
    }
}

impl Material {
    fn read(
        settings: &IssuerSettings,
        system_roots: &mut Option<Vec<CertificateDer<'static>>>,
        warnings: &mut Vec<Finding>,
    ) -> Result<Self, Box<Finding>> {
        let mut material = Self::default();
        if let TokenCheck::Introspection {
            client_secret_file, ..
        } = &settings.check
        {
            material.secret = read_secret(client_secret_file, warnings)?;
        }
        let is_plain = settings.address().is_some_and(WebAddress::is_plain);
        if settings.key_file().is_some() || (is_plain && settings.ca.is_none()) {
            return Ok(material);
        }
        material.trusted = match (&settings.ca, system_roots) {
            (Some(path), _) => web::read_ca(path)?,
            (None, Some(known)) => known.clone(),
            (None, unknown) => unknown.insert(web::system_roots()?).clone(),
        };
        Ok(material)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.secret.expose() == other.secret.expose() && self.trusted == other.trusted
    }

    fn check(&self, name: &Arc<str>, settings: &IssuerSettings) -> Result<Check, Box<Finding>> {
        let client = || Client::new(&self.trusted, settings.timeout);
        match &settings.check {
            TokenCheck::KeyFile(path) => read_keys(path).map(Check::Keys),
            TokenCheck::FetchedKeys {
                address,
                refresh,
                stale,
            } => {
                let source = match address {
                    Some(address) => Source::Keys(address.clone()),
                    None => Source::Discovery(settings.configuration().map_err(|error| {
                        Finding::error(format!("token_issuer.issuer {error}: {name}"))
                    })?),
                };
                let keyring = Keyring::new(name, source, client(), *refresh, *stale);
                Ok(Check::Fetched(Arc::new(keyring)))
            }
            TokenCheck::Introspection {
                address,
                client_id,
                client_secret_file,
                cache_for,
            } => {
                let login = web::basic_login(client_id, &self.secret).map_err(|_| {
                    Finding::error("it cannot be written into a request")
                        .in_file(client_secret_file)
                })?;
                let introspection =
                    Introspection::new(name, address.clone(), login, client(), *cache_for);
                Ok(Check::Introspection(Box::new(introspection)))
            }
        }
    }
}

/// The account that claims are good for, by what is asked of their issuer: those of a token, or, `by_issuer`, those of the
/// issuer's answer about one (RFC 7662 section 2.2). Whether anybody has signed them is not looked at.
pub fn account_in(
    claims: &[u8],
    settings: &IssuerSettings,
    by_issuer: bool,
    now: Timestamp,
) -> Result<String, TokenFault> {
    let said = match by_issuer {
        true => Said::ByIssuer,
        false => Said::ByToken,
    };
    let claims = Claims::parse(claims).ok_or(TokenFault::Malformed)?;
    let verified = claims.judge(settings, said, now)?;
    Ok(verified.name)
}

/// Whether `token` is a JWT that one of `keys`, a set of keys as an issuer publishes it, has signed by one of these
/// algorithms. Neither who it is for is looked at, nor how long it is good.
pub fn signed_by(keys: &[u8], token: &Secret, algorithms: &[Algorithm]) -> Result<(), TokenFault> {
    let malformed = TokenFault::Malformed;
    let token = std::str::from_utf8(token.expose()).map_err(|_| malformed)?;
    let jwt = Jwt::peek(token).ok_or(malformed)??;
    let keys = KeySet::parse(keys).map_err(|_| TokenFault::Key)?;
    keys.verify(&jwt, algorithms).map(drop)
}

/// The name of an algorithm, as tokens write it.
fn name_of(algorithm: Algorithm) -> &'static str {
    ALGORITHMS
        .iter()
        .find(|(_, one)| *one == algorithm)
        .map_or("", |(name, _)| name)
}

fn read_keys(path: &Path) -> Result<KeySet, Box<Finding>> {
    let hint = "write what the provider has at its jwks_uri into it";
    let refused = |message: String| Box::new(Finding::error(message).in_file(path).hint(hint));
    let octets = read_bounded(path, KEY_FILE_BYTES_MAX)
        .map_err(|error| refused(format!("cannot read the keys of an issuer: {error}")))?;
    KeySet::parse(&octets).map_err(|error| refused(error.to_string()))
}

/// What the file holds, without the end of its line.
fn read_secret(path: &Path, warnings: &mut Vec<Finding>) -> Result<Secret, Box<Finding>> {
    let refused = |message: String| {
        let finding = Finding::error(message).in_file(path);
        Box::new(finding.hint("write the client's secret into it, and nothing else"))
    };
    let octets = read_bounded(path, SECRET_FILE_BYTES_MAX)
        .map(Secret::new)
        .map_err(|error| refused(format!("cannot read the secret of an issuer: {error}")))?;
    let secret = octets.expose().trim_ascii_end();
    if secret.is_empty() {
        return Err(refused("there is no secret in it".to_owned()));
    }
    let is_open = std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o007 != 0);
    if is_open {
        warnings.push(
            Finding::warning("the secret is open to every user of this machine")
                .in_file(path)
                .hint(format!("chmod 0640 {}", path.display())),
        );
    }
    Ok(Secret::new(secret.to_vec()))
}

fn read_bounded(path: &Path, octets_max: u64) -> io::Result<Vec<u8>> {
    // Asked before it is opened: opening a named pipe would wait for somebody to write to it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut octets = Vec::new();
    File::open(path)?
        .take(octets_max + 1)
        .read_to_end(&mut octets)?;
    match octets.len() as u64 > octets_max {
        true => Err(io::Error::other(format!("larger than {octets_max} octets"))),
        false => Ok(octets),
    }
}

#[cfg(test)]
pub(super) mod tests;
