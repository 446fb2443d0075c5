//! The integration tests, one program: it builds and links once.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod config;
mod dialogs;
mod model_disk;
mod queue_crash;
mod support;
