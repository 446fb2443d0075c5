//! stub
use std::path::PathBuf;

/// What the operator can set about the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolSettings {
    /// The queue directory.
    pub directory: PathBuf,
    /// Octets that stay free on its file system.
    pub minimum_free: u64,
}
