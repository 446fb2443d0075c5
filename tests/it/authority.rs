//! Authorities that issue certificates for clients, and what they issue: for tests, on the spot.
//!
//! Included by the unit tests of TLS as well, so it knows nothing of the rest.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

/// The first and the last year of what lasts as long as any test.
pub(crate) const YEARS: (i32, i32) = (2020, 2099);

/// An authority with its key.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a certificate is to say. Its subject is `client`, and it begins and ends with a year.
#[derive(Clone, Copy)]
pub(crate) struct Order<'a> {
    pub(crate) emails: &'a [&'a str],
    pub(crate) serial: u64,
    pub(crate) years: (i32, i32),
    pub(crate) for_clients: bool,
}

/// A certificate with its key, in PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl<'a> Order<'a> {
    pub(crate) fn of(emails: &'a [&'a str]) -> Self {
        Self {
            emails,
            serial: 7,
            years: YEARS,
            for_clients: true,
        }
    }

    fn parameters(&self) -> CertificateParams {
        let mut parameters = CertificateParams::default();
        let emails = self.emails.iter();
        parameters.subject_alt_names = emails
            .map(|email| SanType::Rfc822Name((*email).try_into().unwrap()))
            .collect();
        parameters.distinguished_name = named("client");
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.serial_number = Some(SerialNumber::from(self.serial));
        parameters.extended_key_usages = vec![match self.for_clients {
            true => ExtendedKeyUsagePurpose::ClientAuth,
            false => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        last(&mut parameters, self.years);
        parameters
    }

    /// A certificate that its owner has issued.
    pub(crate) fn self_signed(&self) -> Issued {
        let key = KeyPair::generate().unwrap();
        Issued {
            certificate: self.parameters().self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Authority {
    pub(crate) fn new(name: &str, years: (i32, i32)) -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(authority(name, years), key).unwrap())
    }

    /// An authority that this one vouches for.
    pub(crate) fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::signed_by(authority(name, YEARS), key, &self.0).unwrap())
    }

    /// Its certificate.
    pub(crate) fn pem(&self) -> String {
        self.0.as_ref().pem()
    }

    pub(crate) fn issue(&self, order: &Order<'_>) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = order.parameters().signed_by(&key, &self.0).unwrap();
        Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Its list of revoked certificates, with these serial numbers, good until that year.
    pub(crate) fn revoke(&self, serials: &[u64], until: i32) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

fn authority(name: &str, years: (i32, i32)) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = named(name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    last(&mut parameters, years);
    parameters
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

fn last(parameters: &mut CertificateParams, (first, last): (i32, i32)) {
    parameters.not_before = date_time_ymd(first, 1, 1);
    parameters.not_after = date_time_ymd(last, 12, 31);
}
