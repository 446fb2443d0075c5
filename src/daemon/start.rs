//! The first half of the start, in which the process has one thread and the rights that it was started with.
//!
//! In this order, and for these reasons: everything is *read*, keys with root's rights if we have them; addresses are
//! *bound*, also those below 1024; the queue directory is *made* and given to the user that the rest is done as; then
//! the process *becomes* this user; then it *closes the sandbox* around itself. Only afterwards are there other threads,
//! which inherit both: what the queue finds on the disk, and what comes over sockets, is looked at from inside.

use std::fs::File;
use std::num::NonZero;
use std::path::Path;

use super::{bind, raise_descriptor_limit};
use crate::account::Accounts;
use crate::audit::{self, LogControl};
use crate::clock::Now;
use crate::config::Config;
use crate::config::survey::{Survey, survey};
use crate::diagnostic::Finding;
use crate::queue::Spool;
use crate::sandbox::identity::{Identity, current};
use crate::sandbox::{Prepared, Sandbox};
use crate::server::Bound;
use crate::server::alert::Alerts;
use crate::tls::Tls;

/// What the second half, with the runtime and its threads, goes on with.
pub(super) struct Confined {
    pub(super) now: Now,
    pub(super) config: Config,
    pub(super) tls: Tls,
    pub(super) accounts: Accounts,
    pub(super) log: LogControl,
    pub(super) bound: Vec<Bound>,
    pub(super) sandbox: Sandbox,
    /// Its helper is outside of the sandbox.
    pub(super) alerts: Alerts,
    /// Who the process is.
    pub(super) user: String,
    /// Processors that are ours to use: the sandbox keeps us from asking later.
    pub(super) processors: usize,
    pub(super) warnings: Vec<Finding>,
}

/// Does all that, up to the closed sandbox.
pub(super) fn confine(path: &Path) -> Result<Confined, Vec<Finding>> {
    let now = Now::read();
    let Survey {
        config,
        identity,
        tls,
        accounts,
        findings: mut warnings,
    } = survey(path, now);
    let (Some(config), Some(tls), Some(accounts)) = (config, tls, accounts) else {
        return Err(warnings);
    };
    if warnings.iter().any(Finding::is_error) {
        return Err(warnings);
    }
    let log = audit::to_standard_error(config.log);
    warnings.extend(raise_descriptor_limit(config.server.connections));
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let bound = bind(&config, &[])?;
    make_queue(&config.queue.directory, identity.as_ref()).map_err(|finding| vec![finding])?;

    let needs = config.needs();
    let prepared = Prepared::new(config.process.sandbox, &needs);
    if let Some(identity) = &identity {
        let failed = |error: crate::sandbox::identity::IdentityError| {
            let finding = Finding::error(error.to_string()).hint(error.hint());
            vec![finding.in_file(&config.path)]
        };
        identity.assume().map_err(failed)?;
    }
    let user = current();
    let alerts = Alerts::start(&config.alert).map_err(|error| {
        let finding = Finding::error(format!("cannot start the helper for alerts: {error}"));
        vec![
            finding
                .in_file(&config.path)
                .hint("leave out alert.command, or let it be started"),
        ]
    })?;
    let sandbox = prepared.enter().map_err(|finding| vec![finding])?;
    let files = needs.read.iter();
    warnings.extend(files.filter_map(|file| unreadable(file, &user)));
    Ok(Confined {
        now,
        config,
        tls,
        accounts,
        log,
        bound,
        sandbox,
        alerts,
        user,
        processors,
        warnings,
    })
}

/// Makes the queue directory, if it has to be made, for the user that will use it.
fn make_queue(directory: &Path, identity: Option<&Identity>) -> Result<(), Finding> {
    let is_new = Spool::make_directory(directory).map_err(|error| Finding::from(&error))?;
    match identity {
        Some(identity) if is_new => identity.give(directory).map_err(|error| {
            let name = identity.name();
            Finding::error(format!("cannot give it to user {name}: {error}"))
                .in_file(directory)
                .hint(format!(
                    "chown {} {}",
                    identity.with_group(),
                    directory.display()
                ))
        }),
        _ => Ok(()),
    }
}

/// A file that could be read with the rights of the start, and cannot be any more.
fn unreadable(file: &Path, user: &str) -> Option<Finding> {
    let error = File::open(file).err()?;
    let shown = file.display();
    Some(
        Finding::warning(format!(
            "user {user} cannot read it ({error}): a change of it is not taken up, and a reload fails"
        ))
        .in_file(file)
        .hint(format!(
            "chgrp {user} {shown} && chmod g+r {shown}, and let the group enter the directories above it"
        )),
    )
}
