//! Lets messages go that were held for the limits of their account, as the budget returns.
//!
//! It stands between those who know the limits and those who have the messages: it looks after the accounts whose time
//! has come, and asks under the rights of now. Whose account is gone or disabled, or contained, does not lose what was
//! accepted: it stays in `hold/`, and goes on when that has changed.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Now, Timestamp};
use crate::containment::Containment;
use crate::decision::Account;
use crate::envelope::Envelope;
use crate::policy::Policy;
use crate::queue::{OverLimit, QueueDirectory, QueueError, Released, Spool};

/// Messages that are released at once; what a stop may have to wait for.
const TOGETHER_MAX: usize = 1_000;
/// When an account is looked after again whose messages could not leave for another reason than its limits.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// What it takes to let messages go.
#[derive(Clone, Copy)]
pub struct Release<'a> {
    /// Where they are.
    pub spool: &'a Spool,
    /// The limits that hold now.
    pub policy: &'a Policy,
    /// Who is contained.
    pub containment: &'a Containment,
    /// An account as it stands now.
    pub account: &'a dyn Fn(&str) -> Option<Arc<Account>>,
}

/// Takes up what waits in the queue, at the start.
pub fn take_up(policy: &Policy, queue: &QueueDirectory) -> Result<(), QueueError> {
    expect(policy, &queue.over_limit()?);
    Ok(())
}

/// Takes up what waits in the queue and is not known yet.
pub fn expect(policy: &Policy, waiting: &[OverLimit]) {
    for OverLimit {
        id,
        account,
        recipients,
    } in waiting
    {
        policy.backlog().add(account, id, *recipients);
    }
}

impl Release<'_> {
    /// Lets those go whose turn has come, up to a bound, and gives them in the order in which they left. To be called
    /// again while [there are any](crate::policy::backlog::Backlog::is_due). Blocks on the disk.
    pub fn run(self, now: Now) -> Vec<Released> {
        let mut released = Vec::new();
        for account in self.policy.backlog().due(now.wall) {
            if released.len() >= TOGETHER_MAX {
                break;
            }
            released.extend(self.look_after(&account, now));
        }
        released
    }

    fn look_after(self, name: &str, now: Now) -> Vec<Released> {
        let backlog = self.policy.backlog();
        let ids = backlog.first(name, TOGETHER_MAX);
        // Before it is asked whether there is room: what makes some in between is not overlooked.
        backlog.rest_until(name, Timestamp::MAX, now.wall);
        let account = (self.account)(name).filter(|account| account.enabled);
        // Until when nobody goes on.
        let mut rest_until = None;
        let mut may_leave = |envelope: &Envelope| {
            // One whose envelope names another account was tampered with.
            let Some(account) = account.as_ref().filter(|_| envelope.account == name) else {
                rest_until = Some(Timestamp::MAX);
                return false;
            };
            let (login, credential) = (&envelope.account, envelope.credential.as_deref());
            if self.containment.holds(login, credential) {
                // It is about to be marked, and does not wait for room then.
                rest_until = Some(later(now));
                return false;
            }
            let recipients = envelope.recipients.len() as u64;
            match self.policy.pay(account, recipients, now) {
                Ok(()) => true,
                Err(at) => {
                    rest_until = Some(at);
                    false
                }
            }
        };
        let departure = self
            .spool
            .release_over_limit(&ids, now.wall, &mut may_leave);
        for recipients in &departure.failed {
            if let Some(account) = &account {
                self.policy.pay_back(account, *recipients, now);
            }
        }
        backlog.remove(name, &departure.settled);
        let is_done = departure.settled.len() == ids.len();
        let rest_until = match rest_until {
            Some(at) if departure.failed.is_empty() => at,
            // There may be more of them.
            None if is_done => now.wall,
            // The disk has failed.
            _ => later(now),
        };
        backlog.rest_at_most_until(name, rest_until);
        departure.released
    }
}

fn later(now: Now) -> Timestamp {
    now.wall.checked_add(RETRY_AFTER).unwrap_or(Timestamp::MAX)
}
