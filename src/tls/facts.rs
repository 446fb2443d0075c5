//! What a certificate says about itself: for whom it is, and from when to when (RFC 5280).
//!
//! Names are those of subjectAltName; the common name counts for nothing (RFC 9525 section 2). Whether clients trust
//! the issuer is their business and is not looked at.

use std::net::IpAddr;

use aws_lc_rs::digest;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, SubjectAltName};
use x509_cert::time::Time;

use crate::clock::Timestamp;

/// The organization that the certificate in `certs-example/` names as its subject.
const EXAMPLE_ORGANIZATION: &str = "gatepost example, for localhost only";

/// What we want to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its host names in lower case, wildcards with their `*.`.
    pub(super) dns_names: Vec<String>,
    /// Its addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// Its e-mail addresses, as they are written.
    pub(super) emails: Vec<String>,
    /// Whether it may issue others.
    pub(super) is_ca: bool,
    /// From when on it is valid.
    pub(super) not_before: Timestamp,
    /// Until when it is valid.
    pub(super) not_after: Timestamp,
    /// Its hash as `tls-server-end-point` wants it (RFC 5929 section 4.1); `None` where its signature does not say with
    /// which hash function that would be.
    pub(super) end_point: Option<Vec<u8>>,
    /// Whether it is the one whose key is published in `certs-example/`.
    pub(super) example: bool,
}

impl Facts {
    /// Reads a certificate in DER. The error says what is wrong with it.
    pub(super) fn read(der: &[u8]) -> Result<Self, String> {
        let certificate =
            x509_cert::Certificate::from_der(der).map_err(|error| error.to_string())?;
        let body = certificate.tbs_certificate();
        let names = body
            .get_extension::<SubjectAltName>()
            .map_err(|error| format!("its subjectAltName cannot be read: {error}"))?
            .map_or_else(Vec::new, |(_, SubjectAltName(names))| names);
        let mut facts = Self {
            dns_names: Vec::new(),
            addresses: Vec::new(),
            emails: Vec::new(),
            is_ca: matches!(
                body.get_extension::<BasicConstraints>(),
                Ok(Some((_, constraints))) if constraints.ca
            ),
            not_before: timestamp(body.validity().not_before),
            not_after: timestamp(body.validity().not_after),
            end_point: end_point(der, &certificate.signature_algorithm().oid.to_string()),
            example: body
                .subject()
                .organization()
                .is_ok_and(|name| name.is_some_and(|name| name.value() == EXAMPLE_ORGANIZATION)),
        };
        for name in names {
            match name {
                GeneralName::DnsName(name) => {
                    facts.dns_names.push(name.as_str().to_ascii_lowercase());
                }
                GeneralName::IpAddress(octets) => {
                    facts.addresses.extend(address(octets.as_bytes()))
                }
                GeneralName::Rfc822Name(email) => facts.emails.push(email.as_str().to_owned()),
                _ => {}
            }
        }
        Ok(facts)
    }
}

/// The hash function is that of the signature, and SHA-256 in place of those that are too weak by now.
fn end_point(der: &[u8], signature_algorithm: &str) -> Option<Vec<u8>> {
    let function = match signature_algorithm {
        // MD5, SHA-1 and SHA-256, with RSA and ECDSA.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => &digest::SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => &digest::SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(function, der).as_ref().to_vec())
}

/// An iPAddress of RFC 5280 section 4.2.1.6: four octets or sixteen.
fn address(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

pub(super) fn timestamp(time: Time) -> Timestamp {
    i64::try_from(time.to_unix_duration().as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        // "99991231235959Z" is for ever (RFC 5280 section 4.1.2.5), and so is what lies beyond.
        .unwrap_or(Timestamp::MAX)
}
