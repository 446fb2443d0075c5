//! Certificates of clients: who is asked for one, and what one that was shown is worth.
//!
//! A client is asked and never obliged. One without a certificate, and one whose certificate nobody vouches for, goes
//! on to log in as ever: such a certificate is simply worth nothing. So the handshake proves one thing only, that the
//! client has the key of its certificate, with the signatures that the cryptography of rustls checks. What the
//! certificate is worth is judged behind the handshake, by rustls' own check of chains against each `[[client_ca]]`, and
//! as often as somebody asks. A session that was resumed (RFC 8446 section 2.2) brings its certificate from long ago
//! along with it, and is judged by what holds now: an authority that was taken away vouches for nobody, nor one that has
//! expired, and a certificate that has expired or was revoked meanwhile is worth nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::tz::TimeZone;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use x509_cert::crl::CertificateList;
use x509_cert::der::Decode as _;

use super::facts::{Facts, timestamp};
use super::{not_a_certificate, pem, validity_finding};
use crate::clock::{Now, Timestamp};
use crate::diagnostic::Finding;
use crate::sasl::external::{Certificate, Fingerprint};

/// One `[[client_ca]]`: a file with certificates of authorities that vouch for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuthorityFiles {
    /// The PEM file with their certificates.
    pub file: PathBuf,
    /// The PEM file with their lists of revoked certificates, if those are to be looked at.
    pub crl: Option<PathBuf>,
}

/// What the operator can set about certificates of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificates {
    /// Whether clients are asked for one.
    pub asked_for: bool,
    /// Who vouches for them.
    pub authorities: Vec<ClientAuthorityFiles>,
}

/// A certificate that a client has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Which one.
    pub fingerprint: Fingerprint,
    /// What it is worth; `None` if it cannot be read.
    pub certificate: Option<Certificate>,
    /// Why it is worth nothing but its fingerprint, or not even that. For the operator.
    pub problem: Option<String>,
}

/// The settings with what is in their files.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) asked_for: bool,
    authorities: Vec<Authority>,
}

/// One `[[client_ca]]` with what is in its files.
#[derive(Debug)]
struct Authority {
    files: ClientAuthorityFiles,
    members: Vec<(CertificateDer<'static>, Facts)>,
    lists: Vec<CertificateRevocationListDer<'static>>,
    /// When the first of the lists ends.
    lists_end: Option<Timestamp>,
    provider: Arc<CryptoProvider>,
    /// The check of chains, with which of the members it knows: those that were valid when it was made.
    verifier: ArcSwapOption<(Vec<bool>, Arc<dyn ClientCertVerifier>)>,
}

impl Trust {
    /// Reads all files.
    pub(super) fn read(
        settings: &ClientCertificates,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Vec<Finding>> {
        let (mut authorities, mut findings) = (Vec::new(), Vec::new());
        for files in &settings.authorities {
            match Authority::read(files, provider) {
                Ok(authority) => authorities.push(authority),
                Err(found) => findings.extend(found),
            }
        }
        match findings.is_empty() {
            true => Ok(Self {
                asked_for: settings.asked_for,
                authorities,
            }),
            false => Err(findings),
        }
    }

    /// What asks clients for a certificate in the handshake.
    pub(super) fn request(&self, provider: &CryptoProvider) -> Arc<dyn ClientCertVerifier> {
        let mut roots = RootCertStore::empty();
        let members = self.authorities.iter().flat_map(|one| &one.members);
        roots.add_parsable_certificates(members.map(|(certificate, _)| certificate.clone()));
        let mut hints = roots.subjects();
        if hints.iter().map(|name| name.as_ref().len()).sum::<usize>() > HINTS_BYTES_MAX {
            hints.clear();
        }
        Arc::new(CertificateRequest {
            algorithms: provider.signature_verification_algorithms,
            hints,
        })
    }

    /// What a chain of certificates is worth now, the client's own first.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>], now: Now) -> Option<Shown> {
        let (own, intermediates) = chain.split_first().filter(|_| self.asked_for)?;
        let fingerprint = Fingerprint::of(own);
        let facts = match Facts::read(own) {
            Ok(facts) => facts,
            Err(problem) => {
                return Some(Shown {
                    fingerprint,
                    certificate: None,
                    problem: Some(format!("it cannot be read: {problem}")),
                });
            }
        };
        let vouched = if self.authorities.is_empty() {
            // Whoever trusts fingerprints alone need not hear of what there is not.
            Err(None)
        } else if facts.emails.is_empty() {
            Err(Some("it names no e-mail address".to_owned()))
        } else {
            self.vouch(own, intermediates, now).map_err(Some)
        };
        let certificate = Certificate {
            fingerprint,
            not_before: facts.not_before,
            not_after: facts.not_after,
            addresses: match vouched.is_ok() {
                true => facts.emails,
                false => Vec::new(),
            },
        };
        let problem = if now.wall < facts.not_before {
            Some(format!(
                "it is valid only from {} on",
                day(facts.not_before)
            ))
        } else if now.wall > facts.not_after {
            Some(format!("it expired on {}", day(facts.not_after)))
        } else {
            vouched.err().flatten()
        };
        Some(Shown {
            fingerprint,
            certificate: Some(certificate),
            problem,
        })
    }

    /// Whether any of the authorities vouches for it. Else what speaks against it: that it is not theirs says less than
    /// anything else.
    fn vouch(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: Now,
    ) -> Result<(), String> {
        let seconds = u64::try_from(now.wall.as_second()).unwrap_or(0);
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let mut against = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for authority in &self.authorities {
            let Some(verifier) = authority.verifier(now) else {
                continue;
            };
            match verifier.verify_client_cert(own, intermediates, time) {
                Ok(_) => return Ok(()),
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
                Err(error) => against = error,
            }
        }
        Err(words(&against))
    }

    /// What is odd about the files, as warnings.
    pub(super) fn findings(&self, now: Now) -> Vec<Finding> {
        let mut findings = Vec::new();
        for authority in &self.authorities {
            let file = &authority.files.file;
            for (_, facts) in &authority.members {
                let renew = "it vouches for nobody outside its validity; put its successor into the file beside it, which \
                     is taken up without a restart";
                let odd = validity_finding(facts, "the CA certificate", "", renew, now);
                findings.extend(odd.map(|finding| finding.in_file(file)));
                if !facts.is_ca {
                    findings.push(
                        Finding::warning("this is the certificate of no CA (basicConstraints)")
                            .in_file(file)
                            .hint(
                                "name the certificate of the CA that issues those of clients; a single one of a \
                                 client goes into the accounts file: gatepost account credential add ACCOUNT --name \
                                 NAME --certificate FILE",
                            ),
                    );
                }
            }
            if let (Some(end), Some(crl)) = (authority.lists_end, &authority.files.crl)
                && now.wall > end
            {
                findings.push(
                    Finding::warning(format!(
                        "the list of revoked certificates should have been renewed by {}: certificates that \
                         depend on it are refused",
                        day(end)
                    ))
                    .in_file(crl)
                    .hint("fetch it anew from the CA; it is taken up without a restart"),
                );
            }
        }
        findings
    }

    pub(super) fn same_as(&self, other: &Self) -> bool {
        let contents = |trust: &Self| -> Vec<_> {
            let authorities = trust.authorities.iter();
            authorities
                .map(|one| {
                    let members = one
                        .members
                        .iter()
                        .map(|(certificate, _)| certificate.clone());
                    (members.collect::<Vec<_>>(), one.lists.clone())
                })
                .collect()
        };
        self.asked_for == other.asked_for && contents(self) == contents(other)
    }
}

impl Authority {
    fn read(
        files: &ClientAuthorityFiles,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Vec<Finding>> {
        // Both files are looked at even if the first is wrong.
        let members = Self::read_members(files);
        let lists = match &files.crl {
            Some(crl) => pem::read_revocation_lists(crl).map_err(|finding| vec![*finding]),
            None => Ok(Vec::new()),
        };
        let (members, lists) = match (members, lists) {
            (Ok(members), Ok(lists)) => (members, lists),
            (members, lists) => {
                let found = [members.err(), lists.err()];
                return Err(found.into_iter().flatten().flatten().collect());
            }
        };
        let mut authority = Self {
            files: files.clone(),
            members,
            lists,
            lists_end: None,
            provider: Arc::clone(provider),
            verifier: ArcSwapOption::empty(),
        };
        let whole = vec![true; authority.members.len()];
        if let Err((file, problem)) = authority.make(&whole) {
            let finding = Finding::error(format!("it cannot be used: {problem}"));
            return Err(vec![finding.in_file(&file)]);
        }
        let ends = authority.lists.iter().filter_map(|list| {
            let list = CertificateList::<x509_cert::certificate::Rfc5280>::from_der(list).ok()?;
            list.tbs_cert_list.next_update.map(timestamp)
        });
        authority.lists_end = ends.min();
        Ok(authority)
    }

    fn read_members(
        files: &ClientAuthorityFiles,
    ) -> Result<Vec<(CertificateDer<'static>, Facts)>, Vec<Finding>> {
        let certificates = pem::read_authorities(&files.file).map_err(|finding| vec![*finding])?;
        let with_facts = |certificate: CertificateDer<'static>| {
            // Asked one by one, so that the answer is about one.
            let usable = RootCertStore::empty()
                .add(certificate.clone())
                .map_err(|error| error.to_string());
            let facts = usable.and_then(|()| Facts::read(&certificate));
            facts
                .map(|facts| (certificate, facts))
                .map_err(|problem| vec![not_a_certificate(&files.file, &problem)])
        };
        certificates.into_iter().map(with_facts).collect()
    }

    /// The check of chains that end in a member which is valid now; `None` if none is.
    fn verifier(&self, now: Now) -> Option<Arc<dyn ClientCertVerifier>> {
        let valid = |facts: &Facts| facts.not_before <= now.wall && now.wall <= facts.not_after;
        let valid: Vec<bool> = self.members.iter().map(|(_, facts)| valid(facts)).collect();
        if let Some(made) = &*self.verifier.load()
            && made.0 == valid
        {
            return Some(Arc::clone(&made.1));
        }
        if !valid.contains(&true) {
            return None;
        }
        // It could be made of all of them, so it can be made of some.
        let verifier = self.make(&valid).ok()?;
        self.verifier
            .store(Some(Arc::new((valid, Arc::clone(&verifier)))));
        Some(verifier)
    }

    /// The check of chains that end in one of these members; else which file is in the way, and why.
    fn make(&self, which: &[bool]) -> Result<Arc<dyn ClientCertVerifier>, (PathBuf, String)> {
        let mut roots = RootCertStore::empty();
        for ((certificate, _), wanted) in self.members.iter().zip(which) {
            if *wanted {
                let added = roots.add(certificate.clone());
                added.map_err(|error| (self.files.file.clone(), error.to_string()))?;
            }
        }
        // A list that has run out is as good as none, and without one a certificate may be revoked: both refuse it. The
        // intermediates are the CA's own to look after, and lists for them are rarely to be had.
        WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&self.provider))
            .with_crls(self.lists.iter().cloned())
            .only_check_end_entity_revocation()
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| {
                let file = self.files.crl.as_ref().unwrap_or(&self.files.file);
                (file.clone(), error.to_string())
            })
    }
}

/// Asks for a certificate, takes any, and has it proven that the client has its key.
#[derive(Debug)]
struct CertificateRequest {
    algorithms: WebPkiSupportedAlgorithms,
    /// By whom certificates should be issued. Clients with several choose by that, and some show none that does not fit.
    hints: Vec<DistinguishedName>,
}

impl ClientCertVerifier for CertificateRequest {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    /// Only its size counts here; [`Trust::judge`] looks at the rest.
    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bytes = intermediates
            .iter()
            .fold(own.len(), |sum, certificate| sum + certificate.len());
        match bytes <= CHAIN_BYTES_MAX {
            true => Ok(ClientCertVerified::assertion()),
            false => Err(Error::General(format!(
                "the client's certificates have {bytes} octets, and {CHAIN_BYTES_MAX} are taken"
            ))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What speaks against a chain, for the operator.
fn words(error: &Error) -> String {
    let Error::InvalidCertificate(error) = error else {
        return error.to_string();
    };
    match error {
        CertificateError::UnknownIssuer => "no [[client_ca]] has issued it",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "a certificate of its chain has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "a certificate of its chain is not valid yet"
        }
        CertificateError::Revoked => "it is revoked",
        CertificateError::UnknownRevocationStatus => "the crl says nothing about who issued it",
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "the crl of who issued it has not been renewed in time"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its extended key usage is not that of a client"
        }
        CertificateError::BadSignature => "its signature is not that of its issuer",
        other => return format!("its chain is not good: {other}"),
    }
    .to_owned()
}

fn day(time: Timestamp) -> jiff::civil::Date {
    time.to_zoned(TimeZone::UTC).date()
}

/// Octets of the certificates that a client may show, which are kept as long as its connection: several times what a
/// chain has.
const CHAIN_BYTES_MAX: usize = 16 << 10;

/// Octets of names of authorities that every client is told in the handshake. Who trusts more than fits tells none.
const HINTS_BYTES_MAX: usize = 8 << 10;

#[cfg(test)]
mod tests;
