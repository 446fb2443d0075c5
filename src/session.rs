//! stub
mod profile;
pub use profile::Profile;
