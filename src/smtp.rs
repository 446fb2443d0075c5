//! The words of SMTP as types: addresses, commands, extensions, replies, and the framing of a byte stream into them.
//!
//! Nothing here remembers anything about a session, and nothing does I/O.

pub mod address;
pub mod command;
pub mod extension;
pub mod framing;
pub mod reply;
