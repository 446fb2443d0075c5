//! stub
use std::path::PathBuf;

/// What the operator can set about logins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountSettings {
    /// The accounts file.
    pub file: PathBuf,
    /// The most memory that password checks may hold at once, in octets.
    pub hash_memory: u64,
    /// How many logins may wait for a check at once; one more hears 454.
    pub hash_queue: usize,
}
