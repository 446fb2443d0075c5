//! The integration tests, one program: it builds and links once.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first surprise, in its helpers too"
)]
#![allow(
    clippy::print_stdout,
    reason = "the harness shows it where a test fails: a seed, say"
)]

mod authority;
mod clients;
mod config;
mod corpus;
mod daemon;
mod dialogs;
mod group_commit;
mod journal_damage;
mod journal_simulation;
mod live;
mod model_disk;
mod over_limit;
mod process;
mod queue_contain;
mod queue_crash;
mod queue_release;
mod simulation;
mod support;
mod tidy;
