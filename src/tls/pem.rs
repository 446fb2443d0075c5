//! PEM files (RFC 7468) with certificates, private keys and lists of revoked certificates: the one place that reads
//! them.
//!
//! It knows PKCS #8, PKCS #1 and SEC 1 keys. It fails with a finding that names the file and the remedy, and never
//! shows what is in a key's file.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::diagnostic::Finding;

/// A private key and how its file lies there.
pub(super) struct Key {
    /// The key.
    pub(super) der: PrivateKeyDer<'static>,
    /// Whether every user of the machine can read it.
    pub(super) open_to_all: bool,
}

/// The certificate of the server in the file `path`, and its intermediates, in their order.
pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Box<Finding>> {
    let of_key = "it holds a private key: are `chain` and `key` exchanged?";
    read_certificates(path, "[[certificate]]", of_key)
}

/// The certificates of authorities in the file `path`.
pub(super) fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, Box<Finding>> {
    let of_key =
        "it holds a private key: name the certificate of the CA, and keep its key elsewhere";
    read_certificates(path, "[[client_ca]]", of_key)
}

/// The certificate of a client in the file `path`: its first.
pub(super) fn read_clients(path: &Path) -> Result<CertificateDer<'static>, Box<Finding>> {
    let of_key = "it holds a private key: name the certificate, and leave the key with its owner";
    read_certificates(path, "--certificate", of_key).map(|mut all| all.swap_remove(0))
}

/// The lists of revoked certificates in the file `path`; at least one.
pub(super) fn read_revocation_lists(
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, Box<Finding>> {
    let (octets, _) = read(path, "[[client_ca]]")?;
    let lists = rustls_pemfile::crls(&mut &octets[..])
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| garbled(path, &error))?;
    if !lists.is_empty() {
        return Ok(lists);
    }
    let hint = if looks_like_der(&octets) {
        let path = path.display();
        format!(
            "it looks like DER; make it PEM: openssl crl -inform der -in {path} -out {path}.pem"
        )
    } else {
        "a list of revoked certificates begins with -----BEGIN X509 CRL-----".to_owned()
    };
    Err(finding(
        path,
        "there is no list of revoked certificates in it",
        hint,
    ))
}

/// The certificates in the file `path`, in their order; at least one. `named_in` is where the file is named, `of_key`
/// the hint if it holds a private key instead.
fn read_certificates(
    path: &Path,
    named_in: &str,
    of_key: &str,
) -> Result<Vec<CertificateDer<'static>>, Box<Finding>> {
    let (octets, _) = read(path, named_in)?;
    let chain = rustls_pemfile::certs(&mut &octets[..])
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| garbled(path, &error))?;
    if !chain.is_empty() {
        return Ok(chain);
    }
    let hint = if looks_like_der(&octets) {
        let path = path.display();
        format!(
            "it looks like DER; make it PEM: openssl x509 -inform der -in {path} -out {path}.pem"
        )
    } else if holds(&octets, "PRIVATE KEY-----") {
        of_key.to_owned()
    } else {
        "a certificate begins with -----BEGIN CERTIFICATE-----".to_owned()
    };
    Err(finding(path, "there is no certificate in it", hint))
}

/// The first private key in the file `path`.
pub(super) fn read_key(path: &Path) -> Result<Key, Box<Finding>> {
    let (octets, open_to_all) = read(path, "[[certificate]]")?;
    // Asked first, because the old form has header lines inside, which no PEM reader of today accepts.
    if ENCRYPTED.iter().any(|mark| holds(&octets, mark)) {
        let shown = path.display();
        let hint = format!(
            "nobody is there to type its passphrase when gatepost starts; decrypt it with: \
             openssl pkey -in {shown} -out {shown}.plain"
        );
        return Err(finding(path, "the private key is encrypted", hint));
    }
    match rustls_pemfile::private_key(&mut &octets[..]) {
        Ok(Some(der)) => Ok(Key { der, open_to_all }),
        Ok(None) => {
            let hint = if looks_like_der(&octets) {
                let path = path.display();
                format!(
                    "it looks like DER; make it PEM: openssl pkey -inform der -in {path} -out {path}.pem"
                )
            } else if holds(&octets, "-----BEGIN CERTIFICATE-----") {
                "it holds a certificate: are `chain` and `key` exchanged?".to_owned()
            } else {
                "a private key begins with -----BEGIN PRIVATE KEY-----".to_owned()
            };
            Err(finding(path, "there is no private key in it", hint))
        }
        Err(error) => Err(garbled(path, &error)),
    }
}

/// The octets of a file that is named in `named_in`, and whether others than its owner and group may read them.
fn read(path: &Path, named_in: &str) -> Result<(Zeroizing<Vec<u8>>, bool), Box<Finding>> {
    let unreadable = |error: io::Error| {
        let mut finding = Finding::error(format!("cannot read it: {error}")).in_file(path);
        finding.hint = match error.kind() {
            io::ErrorKind::NotFound => {
                Some(format!(
                    "correct its name in {named_in}, or put the file there"
                ))
            }
            io::ErrorKind::PermissionDenied => Some(
                "let the user that gatepost runs as read it, and enter the directories above it (those of certbot \
                 are closed to all but root: copy the files in its deploy hook)"
                    .to_owned(),
            ),
            _ => None,
        };
        Box::new(finding)
    };
    // Looked at before it is opened: opening a FIFO would wait for a writer that never comes.
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(finding(path, "this is not a file", "name a PEM file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(finding(
            path,
            "it is larger than 1MiB, which no certificate or key is",
            "name a PEM file",
        ));
    }
    // With room for all, so that growing leaves no copies of a key behind in memory.
    let mut octets = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize));
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut octets))
        .map_err(unreadable)?;
    let open_to_all = metadata.permissions().mode() & 0o004 != 0;
    Ok((octets, open_to_all))
}

fn garbled(path: &Path, error: &io::Error) -> Box<Finding> {
    finding(
        path,
        &format!("it is not well-formed PEM: {error}"),
        "perhaps it was cut off or edited; get it anew from where it came from",
    )
}

fn finding(path: &Path, message: &str, hint: impl Into<String>) -> Box<Finding> {
    Box::new(Finding::error(message).in_file(path).hint(hint))
}

fn holds(octets: &[u8], text: &str) -> bool {
    memchr::memmem::find(octets, text.as_bytes()).is_some()
}

/// Every certificate and key in DER is a SEQUENCE.
fn looks_like_der(octets: &[u8]) -> bool {
    octets.first() == Some(&0x30)
}

/// No chain comes near to this.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How encrypted keys are marked: RFC 7468 section 11, and the older way of RFC 1421 section 4.6.1.1.
const ENCRYPTED: [&str; 2] = [
    "-----BEGIN ENCRYPTED PRIVATE KEY-----",
    "Proc-Type: 4,ENCRYPTED",
];
