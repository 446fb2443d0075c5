//! stub
use std::path::PathBuf;

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
}
