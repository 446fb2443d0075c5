//! TLS: certificate files to a rustls configuration, the choice of a certificate by server name (SNI), and reload.
//!
//! Owns the certificates and keys in force, those of the authorities that vouch for clients (see [`client`]), and the
//! words about what is wrong with them. Does not touch sockets: the
//! server runs handshakes with what [`Tls::server_config`] gives. PEM files are read in `tls/pem.rs` alone, names and
//! validity come from `tls/facts.rs`, a certificate for trying things out from [`fresh`].
//!
//! The cryptography is rustls on aws-lc-rs, handed over explicitly: the process-wide default of rustls is never set.
//! TLS 1.2 (RFC 5246) and 1.3 (RFC 8446); recommendations of RFC 9325 hold by what rustls leaves out.
//!
//! Loading fails with one [`Finding`] for each file that is wrong. A reload is all or nothing: while anything is wrong
//! with the new files, the old certificates stay in force.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::tz::TimeZone;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{
    ClientHello, ProducesTickets, ResolvesServerCert, ServerConfig, ServerConnection,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, ProtocolVersion, SignatureScheme, SupportedProtocolVersion};

use self::client::{ClientCertificates, Shown, Trust};
use self::facts::Facts;
use crate::clock::{Now, Timestamp};
use crate::diagnostic::Finding;
use crate::sasl::ChannelBindings;
use crate::sasl::external::Fingerprint;

pub mod client;
mod facts;
pub mod fresh;
mod pem;

/// The oldest TLS version that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinimumVersion {
    /// RFC 5246.
    #[default]
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// One `[[certificate]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The PEM file with the certificate and its intermediates.
    pub chain: PathBuf,
    /// The PEM file with its private key.
    pub key: PathBuf,
}

/// What the operator can set about TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificates; the first serves clients without SNI, or with a name nobody has.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version.
    pub minimum_version: MinimumVersion,
    /// Whether clients may show certificates, too.
    pub clients: ClientCertificates,
}

/// The certificates in force, and the rustls configuration that uses them. Clones share both.
#[derive(Clone, Debug)]
pub struct Tls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    provider: Arc<CryptoProvider>,
    resolver: Arc<Resolver>,
    config: ArcSwap<Built>,
}

/// A configuration with what it was built for.
#[derive(Debug)]
struct Built {
    minimum_version: MinimumVersion,
    trust: Trust,
    /// Kept over reloads, so that sessions from before can be resumed after; but not where clients are asked for other
    /// certificates: a session from before would come without the one that its client has now.
    ticketer: Arc<dyn ProducesTickets>,
    config: Arc<ServerConfig>,
}

/// What a reload did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How many certificates are in force now.
    pub certificates: usize,
    /// Whether they, the oldest version or what clients are asked for are others than before.
    pub changed: bool,
}

impl Tls {
    /// Reads all files and puts them in force.
    pub fn load(settings: &TlsSettings) -> Result<Self, Vec<Finding>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let (set, trust) = read(settings, &provider)?;
        let resolver = Arc::new(Resolver(ArcSwap::from_pointee(set)));
        let version = settings.minimum_version;
        let built = Built::new(version, &provider, new_ticketer()?, &resolver, trust)?;
        Ok(Self {
            shared: Arc::new(Shared {
                provider,
                resolver,
                config: ArcSwap::from_pointee(built),
            }),
        })
    }

    /// The configuration for the next handshake.
    ///
    /// A reload of certificates reaches those who keep it, too; another oldest version, or another question to clients,
    /// reaches only those who ask again.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.shared.config.load().config)
    }

    /// Reads all files anew and puts them in force for every handshake from now on; connections that are past theirs
    /// notice nothing. On failure everything stays as it was.
    pub fn reload(&self, settings: &TlsSettings) -> Result<Summary, Vec<Finding>> {
        let shared = &self.shared;
        let (set, trust) = read(settings, &shared.provider)?;
        let old = shared.config.load();
        let version = settings.minimum_version;
        let new_trust = !old.trust.same_as(&trust);
        let built = if new_trust || old.minimum_version != version {
            let ticketer = match new_trust {
                true => new_ticketer()?,
                false => Arc::clone(&old.ticketer),
            };
            let resolver = &shared.resolver;
            Some(Built::new(
                version,
                &shared.provider,
                ticketer,
                resolver,
                trust,
            )?)
        } else {
            None
        };
        // Nothing can fail from here on.
        let summary = Summary {
            certificates: set.certificates.len(),
            changed: built.is_some() || !set.same_as(&shared.resolver.0.load()),
        };
        shared.resolver.0.store(Arc::new(set));
        if let Some(built) = built {
            shared.config.store(Arc::new(built));
        }
        Ok(summary)
    }

    /// What a login on this connection, whose handshake is over, can be bound to.
    ///
    /// `tls-exporter` (RFC 9266) on TLS 1.3 only: on TLS 1.2 it would need the extended master secret (RFC 9266
    /// section 4.2), which rustls does not tell of. `tls-server-end-point` (RFC 5929) only where there is a single
    /// certificate, since rustls does not tell which one it has shown. One that was renewed since a resumed session
    /// began does not match, which fails a login and lets nobody in.
    pub fn channel_bindings(&self, connection: &ServerConnection) -> ChannelBindings {
        let exporter = || {
            connection
                .export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""))
                .ok()
        };
        let certificates = &self.shared.resolver.0.load().certificates;
        ChannelBindings {
            exporter: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => exporter(),
                _ => None,
            },
            server_end_point: match certificates.as_slice() {
                [only] => only.facts.end_point.clone(),
                _ => None,
            },
        }
    }

    /// What the certificate is worth now that the client has shown on this connection, whose handshake is over, or
    /// once before the session that it has resumed; `None` if it has not shown one, or is not to be asked (any more).
    pub fn shown_by_client(&self, connection: &ServerConnection, now: Now) -> Option<Shown> {
        let chain = connection.peer_certificates()?;
        self.shared.config.load().trust.judge(chain, now)
    }

    /// How many certificates are in force.
    pub fn certificates(&self) -> usize {
        self.shared.resolver.0.load().certificates.len()
    }

    /// What is odd about the certificates in force, as warnings: `hostname` is what clients expect to find in one,
    /// `listen` where they come to.
    pub fn findings(&self, hostname: &str, listen: &[SocketAddr], now: Now) -> Vec<Finding> {
        let set = self.shared.resolver.0.load();
        let public = listen.iter().find(|address| !address.ip().is_loopback());
        let mut findings = Vec::new();
        for certificate in &set.certificates {
            let chain = &certificate.files.chain;
            let renew = "renew it; the renewed files are taken up without a restart";
            let odd = validity_finding(
                &certificate.facts,
                "the certificate",
                ": clients refuse it",
                renew,
                now,
            );
            findings.extend(odd.map(|finding| finding.in_file(chain)));
            if let (true, Some(address)) = (certificate.facts.example, public) {
                findings.push(
                    Finding::warning(format!(
                        "this is the example certificate, whose key everybody has, and {address} can be reached \
                         from elsewhere"
                    ))
                    .in_file(chain)
                    .hint("get a certificate of your own, or listen on 127.0.0.1 and [::1] only"),
                );
            }
            // Nobody expects the key of the example to be a secret.
            if certificate.key_open_to_all && !certificate.facts.example {
                let key = &certificate.files.key;
                findings.push(
                    Finding::warning("every user of this machine can read the private key")
                        .in_file(key)
                        .hint(format!("chmod o= {}", key.display())),
                );
            }
        }
        if !set.certificates.iter().any(|one| one.facts.names(hostname))
            && let Some(first) = set.certificates.first()
        {
            findings.push(
                Finding::warning(format!(
                    "no certificate is for the host name `{hostname}`; clients that connect to it will warn their \
                     users, or refuse"
                ))
                .in_file(&first.files.chain)
                .hint(match first.facts.list_names().as_str() {
                    "" => "it names no host at all in its subjectAltName, which is what clients go by".to_owned(),
                    names => format!("set `hostname` to a name that it has ({names}), or get one for `{hostname}`"),
                }),
            );
        }
        findings.extend(self.shared.config.load().trust.findings(now));
        findings
    }
}

/// The fingerprint of the client's certificate in the PEM file `path`, and what is odd about it.
pub fn client_fingerprint(
    path: &Path,
    now: Now,
) -> Result<(Fingerprint, Option<Finding>), Finding> {
    let certificate = pem::read_clients(path).map_err(|finding| *finding)?;
    let facts = Facts::read(&certificate).map_err(|problem| not_a_certificate(path, &problem))?;
    let renew = "its owner needs another one";
    let odd = validity_finding(
        &facts,
        "the certificate",
        ": nobody can log in with it",
        renew,
        now,
    );
    Ok((
        Fingerprint::of(&certificate),
        odd.map(|finding| finding.in_file(path)),
    ))
}

/// Reads all files.
fn read(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
) -> Result<(CertificateSet, Trust), Vec<Finding>> {
    let set = CertificateSet::read(&settings.certificates, provider);
    let trust = Trust::read(&settings.clients, provider);
    match (set, trust) {
        (Ok(set), Ok(trust)) => Ok((set, trust)),
        (set, trust) => {
            let found = [set.err(), trust.err()];
            Err(found.into_iter().flatten().flatten().collect())
        }
    }
}

fn new_ticketer() -> Result<Arc<dyn ProducesTickets>, Vec<Finding>> {
    aws_lc_rs::Ticketer::new().map_err(|error| {
        vec![Finding::error(format!(
            "cannot make keys for TLS session tickets: {error}"
        ))]
    })
}

/// What is odd about the validity of `what`: what comes of it when it has `expired`, and what to do about it.
fn validity_finding(
    facts: &Facts,
    what: &str,
    expired: &str,
    renew: &str,
    now: Now,
) -> Option<Finding> {
    let day = |time: Timestamp| time.to_zoned(TimeZone::UTC).date();
    if now.wall < facts.not_before {
        let message = format!("{what} is valid only from {} on", day(facts.not_before));
        return Some(
            Finding::warning(message)
                .hint("check the clock of this machine, and which file the certificate is in"),
        );
    }
    let days = facts.not_after.duration_since(now.wall).as_hours() / 24;
    let date = day(facts.not_after);
    let message = if now.wall > facts.not_after {
        format!("{what} expired on {date}{expired}")
    } else if days == 0 {
        format!("{what} expires within a day, on {date}")
    } else if days <= EXPIRY_WARNING_DAYS {
        let plural = if days == 1 { "" } else { "s" };
        format!("{what} expires in {days} day{plural}, on {date}")
    } else {
        return None;
    };
    Some(Finding::warning(message).hint(renew))
}

impl Built {
    fn new(
        minimum_version: MinimumVersion,
        provider: &Arc<CryptoProvider>,
        ticketer: Arc<dyn ProducesTickets>,
        resolver: &Arc<Resolver>,
        trust: Trust,
    ) -> Result<Self, Vec<Finding>> {
        let versions: &[&SupportedProtocolVersion] = match minimum_version {
            MinimumVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            MinimumVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(versions)
            .map_err(|error| vec![Finding::error(format!("cannot set up TLS: {error}"))])?
            .with_client_cert_verifier(match trust.asked_for {
                true => trust.request(provider),
                false => WebPkiClientVerifier::no_client_auth(),
            })
            .with_cert_resolver(Arc::clone(resolver) as Arc<dyn ResolvesServerCert>);
        config.ticketer = Arc::clone(&ticketer);
        Ok(Self {
            minimum_version,
            trust,
            ticketer,
            config: Arc::new(config),
        })
    }
}

/// Chooses a certificate for each handshake from the set in force.
#[derive(Debug)]
struct Resolver(ArcSwap<CertificateSet>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0
            .load()
            .choose(hello.server_name(), hello.signature_schemes())
    }
}

/// Certificates, and which of them is for which name.
#[derive(Debug, Default)]
struct CertificateSet {
    certificates: Vec<Certificate>,
    /// Names in lower case, wildcards with their `*.`; indices into `certificates`, in their order.
    by_name: HashMap<String, Vec<usize>>,
}

impl CertificateSet {
    fn read(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Self, Vec<Finding>> {
        let mut set = Self::default();
        let mut findings = Vec::new();
        for files in files {
            match Certificate::read(files, provider) {
                Ok(certificate) => set.add(certificate),
                Err(found) => findings.extend(found),
            }
        }
        if findings.is_empty() {
            Ok(set)
        } else {
            Err(findings)
        }
    }

    fn add(&mut self, certificate: Certificate) {
        let index = self.certificates.len();
        for name in &certificate.facts.dns_names {
            self.by_name.entry(name.clone()).or_default().push(index);
        }
        self.certificates.push(certificate);
    }

    /// The certificate for a client that asks for `name` and can check signatures of `schemes`: one that has the name
    /// itself, else one that has a wildcard for it, else the first.
    ///
    /// Where several have the name, the first whose key the client can use; where it can use none, the handshake has
    /// to fail, and rustls says it best.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fits = |index: &usize| {
            self.certificates[*index]
                .certified
                .key
                .choose_scheme(schemes)
                .is_some()
        };
        let named = name.and_then(|name| self.named(name));
        let chosen = match named {
            Some(indices) => indices
                .iter()
                .copied()
                .find(fits)
                .or(indices.first().copied()),
            None => (0..self.certificates.len()).find(fits).or(Some(0)),
        };
        let certificate = self.certificates.get(chosen?)?;
        Some(Arc::clone(&certificate.certified))
    }

    fn named(&self, name: &str) -> Option<&Vec<usize>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        self.by_name.get(&name).or_else(|| {
            // RFC 9525 section 6.3: the wildcard stands for one whole label, the leftmost.
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }

    fn same_as(&self, other: &Self) -> bool {
        let chains = |set: &Self| -> Vec<_> {
            set.certificates
                .iter()
                .map(|one| one.certified.cert.clone())
                .collect()
        };
        chains(self) == chains(other)
    }
}

/// One certificate with its key.
struct Certificate {
    files: CertificateFiles,
    certified: Arc<CertifiedKey>,
    facts: Facts,
    key_open_to_all: bool,
}

/// The files are enough to tell which one it is; the key must not be shown.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificate").field(&self.files).finish()
    }
}

impl Certificate {
    fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Self, Vec<Finding>> {
        // Both files are looked at even if the first is wrong: two mistakes are told at once.
        let chain = pem::read_chain(&files.chain);
        let key = pem::read_key(&files.key);
        let (chain, key) = match (chain, key) {
            (Ok(chain), Ok(key)) => (chain, key),
            (chain, key) => {
                let findings = [chain.err(), key.err()];
                return Err(findings.into_iter().flatten().map(|f| *f).collect());
            }
        };
        let facts = chain
            .first()
            .ok_or_else(|| "there is no certificate in it".to_owned())
            .and_then(|certificate| Facts::read(certificate))
            .map_err(|problem| vec![not_a_certificate(&files.chain, &problem)])?;
        let signing_key = provider
            .key_provider
            .load_private_key(key.der)
            .map_err(|error| {
                vec![
                    Finding::error(format!("the private key cannot be used: {error}"))
                        .in_file(&files.key)
                        .hint("use an ECDSA key (P-256, P-384), an RSA key of 2048 bits or more, or Ed25519"),
                ]
            })?;
        let certified = CertifiedKey::new(chain, signing_key);
        match certified.keys_match() {
            // Unknown: a key that does not tell its public half. Every client would notice.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                return Err(vec![
                    Finding::error(format!(
                        "the private key is not the one of the certificate in {}",
                        files.chain.display()
                    ))
                    .in_file(&files.key)
                    .hint(
                        "name the two files of one certificate; the certificate itself must come first in its file, \
                         its intermediates after it",
                    ),
                ]);
            }
            Err(error) => return Err(vec![not_a_certificate(&files.chain, &error.to_string())]),
        }
        Ok(Self {
            files: files.clone(),
            certified: Arc::new(certified),
            facts,
            key_open_to_all: key.open_to_all,
        })
    }
}

fn not_a_certificate(file: &Path, problem: &str) -> Finding {
    Finding::error(format!("the certificate cannot be used: {problem}"))
        .in_file(file)
        .hint(format!(
            "see what is in it: openssl x509 -noout -text -in {}",
            file.display()
        ))
}

impl Facts {
    /// Whether a client that connects to `hostname` (a name, or an address in brackets) would accept it by its name.
    fn names(&self, hostname: &str) -> bool {
        if let Some(literal) = hostname
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            let literal = literal.strip_prefix("IPv6:").unwrap_or(literal);
            return literal
                .parse::<IpAddr>()
                .is_ok_and(|address| self.addresses.contains(&address));
        }
        let hostname = hostname.to_ascii_lowercase();
        let wildcard = hostname
            .split_once('.')
            .map(|(_, parent)| format!("*.{parent}"));
        self.dns_names
            .iter()
            .any(|name| *name == hostname || Some(name) == wildcard.as_ref())
    }

    /// Its first few names, for people.
    fn list_names(&self) -> String {
        let mut names: Vec<&str> = self.dns_names.iter().map(String::as_str).collect();
        if names.len() > NAMES_SHOWN_MAX {
            names.truncate(NAMES_SHOWN_MAX);
            names.push("...");
        }
        names.join(", ")
    }
}

/// From how many days before its end on a certificate is spoken of. Those of 90 days are renewed 30 days before, so
/// this is when the renewal has failed for more than a week.
const EXPIRY_WARNING_DAYS: i64 = 21;

/// How many names of a certificate a hint shows.
const NAMES_SHOWN_MAX: usize = 5;

#[cfg(test)]
mod tests;
