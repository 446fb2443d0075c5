//! gatepost: an authenticated mail submission server (RFC 6409, RFC 8314).
//!
//! It listens for mail clients on 587 (STARTTLS) and 465 (implicit TLS), demands AUTH before MAIL, and writes every
//! message that it accepts durably to a queue directory, from where somebody else sees it onward. Two promises stand
//! above the rest: after its 250 a message is never lost; before its 235 nobody gets anything in.
//!
//! The rooms stand on floors, and a file imports only from lower ones:
//!
//! ```text
//! 5  cli            arguments, exit codes, the commands
//! 4  daemon config  assembly, signals, reload; TOML to settings
//! 3  server         sockets: accepts, reads, writes, carries out the session's steps
//! 2  account guard policy queue tls trace audit sandbox
//! 1  session kept containment   the dialogue as a value: bytes in, steps out, no I/O; what rooms remember in small
//!                   files; who is contained
//! 0  smtp sasl message envelope decision event control diagnostic clock secret      the words of the field
//! ```
//!
//! ARCHITECTURE.md has the map and the invariants.

pub mod account;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod containment;
pub mod control;
pub mod daemon;
pub mod decision;
pub mod diagnostic;
pub mod envelope;
pub mod event;
pub mod guard;
pub mod kept;
pub mod message;
pub mod policy;
pub mod queue;
pub mod sandbox;
pub mod sasl;
pub mod secret;
pub mod server;
pub mod session;
pub mod smtp;
pub mod tls;
pub mod trace;
