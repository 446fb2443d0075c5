//! A certificate made on the spot, for `gatepost try` and for tests: nobody but its maker has reason to trust it.
//!
//! ECDSA on P-256, signed by itself, valid for [`VALID_DAYS`] days.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256,
};

use super::CertificateFiles;
use crate::clock::{Now, Timestamp};
use crate::secret::Secret;

/// How long it is valid. Long enough for trying things out, too short for getting used to it.
pub const VALID_DAYS: u64 = 30;

/// A certificate with its key, both in PEM.
#[derive(Clone, Debug)]
pub struct SelfSigned {
    /// The certificate, which is its own chain: what a client is told to trust.
    pub chain: String,
    /// Its private key (PKCS #8).
    pub key: Secret,
}

/// It could not be made: a name that no certificate can have, or no randomness.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate: {0}")]
pub struct FreshError(String);

/// Makes a certificate for `names`: host names, which may begin with `*.`, and addresses.
pub fn self_signed(names: &[&str], now: Now) -> Result<SelfSigned, FreshError> {
    let failed = |error: rcgen::Error| FreshError(error.to_string());
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).map_err(failed)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CommonName, "gatepost, made on the spot");
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Whole days, the first of them over: the client's clock may be behind ours.
    let date = |time: Timestamp| {
        let date = time.to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(
            date.year().into(),
            date.month().unsigned_abs(),
            date.day().unsigned_abs(),
        )
    };
    let yesterday = now.wall.checked_sub(jiff::SignedDuration::from_hours(24));
    parameters.not_before = date(yesterday.unwrap_or(now.wall));
    parameters.not_after = date(now.after(Duration::from_secs(VALID_DAYS * 86_400)).wall);

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let certificate = parameters.self_signed(&key).map_err(failed)?;
    Ok(SelfSigned {
        chain: certificate.pem(),
        key: Secret::new(key.serialize_pem().into_bytes()),
    })
}

impl SelfSigned {
    /// Writes both into `directory`, as `certificate.pem` and `key.pem`; the key for the owner's eyes only.
    pub fn write(&self, directory: &Path) -> io::Result<CertificateFiles> {
        let files = CertificateFiles {
            chain: directory.join("certificate.pem"),
            key: directory.join("key.pem"),
        };
        for (path, mode, octets) in [
            (&files.chain, 0o644, self.chain.as_bytes()),
            (&files.key, 0o600, self.key.expose()),
        ] {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(mode)
                .open(path)?;
            // The mode above is for a new file only.
            file.set_permissions(Permissions::from_mode(mode))?;
            file.write_all(octets)?;
        }
        Ok(files)
    }
}
