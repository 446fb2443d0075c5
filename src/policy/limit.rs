//! The limiter: what each account has used of its limits, across restarts.
//!
//! It counts; what is allowed comes with each question, so a changed limit holds at once. The state is a small JSON
//! file that is replaced every few seconds and at the stop: after a crash the last seconds are forgotten, which costs a
//! client nothing and a spammer's next message little.
//!
//! Memory is bounded by the number of accounts that sent anything in the last day.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::backlog::Backlog;
use super::window::{Span, Window};
use crate::clock::{Now, Timestamp};
use crate::decision::Limit;
use crate::diagnostic::Finding;
use crate::kept::{Held, Kept};

/// The name of the file, in the queue directory.
pub const LIMITS_FILE: &str = "limits.json";
/// The version of the state file that this program writes.
const STATE_VERSION: u32 = 1;
/// Octets in a name in the state file; SASLprep can lengthen one somewhat.
const KEY_BYTES_MAX: usize = 16 << 10;

/// What the accounts have used of their limits. Shared by all threads; every question is answered under one lock, which
/// is held for microseconds.
#[derive(Debug, Default)]
pub struct Limiter {
    kept: Kept<Accounts>,
    backlog: Backlog,
}

type Accounts = HashMap<String, Windows>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Windows {
    messages: Window,
    recipients: Window,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Messages, in an hour.
    Messages,
    /// Recipients, in a day.
    Recipients,
}

/// Whether more fits under a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// It fits now.
    Enough,
    /// It fits from this moment on, if nothing else is counted.
    Frees(Timestamp),
    /// It is more than the limit itself.
    Never,
}

/// Something does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom {
    /// Whose limit it is: an index into what was asked for.
    pub(super) holder: usize,
    pub(super) kind: Kind,
    pub(super) room: Room,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Messages, Self::Recipients];

    /// The configuration key.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages_per_hour",
            Self::Recipients => "recipients_per_day",
        }
    }

    /// How much of it a message with so many recipients is.
    pub(super) fn units(self, recipients: u64) -> u64 {
        match self {
            Self::Messages => 1,
            Self::Recipients => recipients,
        }
    }

    fn span(self) -> Span {
        match self {
            Self::Messages => Span::HOUR,
            Self::Recipients => Span::DAY,
        }
    }
}

impl Windows {
    fn of(&mut self, kind: Kind) -> &mut Window {
        match kind {
            Kind::Messages => &mut self.messages,
            Kind::Recipients => &mut self.recipients,
        }
    }

    fn slide(&mut self, now: Now) {
        for kind in Kind::ALL {
            self.of(kind).slide(kind.span(), now.wall);
        }
    }

    fn room(&mut self, kind: Kind, limit: Limit, more: u64) -> Room {
        let Limit::AtMost(allowed) = limit else {
            return Room::Enough;
        };
        match allowed.get().checked_sub(more) {
            None => Room::Never,
            Some(left) => match self.of(kind).falls_to(kind.span(), left) {
                None => Room::Enough,
                Some(at) => Room::Frees(at),
            },
        }
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.recipients.is_empty()
    }
}

impl Limiter {
    /// Takes up the state in the file at `path`, if there is one. A file that cannot be read is put aside as
    /// `limits.json.broken` (after its own name) and reported in a warning. Blocks on the disk.
    pub fn open(path: &Path, now: Now) -> (Self, Vec<Finding>) {
        let (limiter, finding) = Self::look_into(path, now);
        let finding = finding.map(|finding| limiter.kept.put_aside(finding));
        (limiter, finding.into_iter().collect())
    }

    /// The same for whoever only looks: nothing on the disk is touched.
    pub fn look_into(path: &Path, now: Now) -> (Self, Option<Finding>) {
        let loss = "cannot read the state of the limits, counting begins anew";
        let restore = |file| Ok(restore(file, now));
        let (kept, finding) =
            Kept::look_into(path, STATE_VERSION, loss, Accounts::default, restore);
        let limiter = Self {
            kept,
            backlog: Backlog::default(),
        };
        (limiter, finding)
    }

    /// Who waits for room.
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// Writes the state to its file, if anything changed since the last time, and says whether it did. After an error
    /// the next call tries again. Blocks on the disk.
    pub fn save(&self) -> io::Result<bool> {
        self.kept.save(|accounts| content(accounts))
    }

    /// Forgets accounts of which nothing counts any more. Called now and then by whoever saves.
    pub fn forget_expired(&self, now: Now) {
        let mut accounts = self.lock();
        let before = accounts.len();
        accounts.retain(|_, windows| {
            windows.slide(now);
            !windows.is_empty()
        });
        if accounts.len() != before {
            accounts.changed();
        }
    }

    /// Counts a message and its recipients for each of these holders if both fit under all limits, or nothing; says
    /// which does not fit.
    pub(super) fn take(
        &self,
        wanted: &[(&str, [(Limit, u64); 2])],
        now: Now,
    ) -> Result<(), NoRoom> {
        let mut accounts = self.lock();
        for (holder, (key, wanted)) in wanted.iter().enumerate() {
            // One that is not known yet costs one entry, and only a logged-in one comes this far.
            let windows = accounts.entry((*key).to_owned()).or_default();
            windows.slide(now);
            for (kind, &(limit, more)) in Kind::ALL.into_iter().zip(wanted) {
                match windows.room(kind, limit, more) {
                    Room::Enough => {}
                    room => return Err(NoRoom { holder, kind, room }),
                }
            }
        }
        for (key, wanted) in wanted {
            let windows = accounts.entry((*key).to_owned()).or_default();
            for (kind, &(_, more)) in Kind::ALL.into_iter().zip(wanted) {
                windows.of(kind).add(kind.span(), now.wall, more);
            }
        }
        accounts.changed();
        Ok(())
    }

    /// Undoes a [`take`](Self::take).
    pub(super) fn give_back(&self, account: &str, taken: [u64; 2], now: Now) {
        let mut accounts = self.lock();
        if let Some(windows) = accounts.get_mut(account) {
            windows.slide(now);
            for (kind, count) in Kind::ALL.into_iter().zip(taken) {
                windows.of(kind).take_back(count);
            }
            accounts.changed();
        }
    }

    /// Whether `more` would fit now.
    pub(super) fn room(
        &self,
        account: &str,
        kind: Kind,
        limit: Limit,
        more: u64,
        now: Now,
    ) -> Room {
        self.with(account, now, |windows| windows.room(kind, limit, more))
    }

    /// When `more` will have fitted, if they come as early as there is room for each, and nothing else does. A guess: what
    /// comes in between delays it.
    pub(super) fn done_about(
        &self,
        account: &str,
        kind: Kind,
        limit: Limit,
        more: u64,
        now: Now,
    ) -> Timestamp {
        let Limit::AtMost(allowed) = limit else {
            return now.wall;
        };
        let before = more.saturating_sub(1);
        let (rounds, last) = (before / allowed, before % allowed + 1);
        let first = match self.room(account, kind, limit, last, now) {
            Room::Frees(at) => at,
            Room::Enough | Room::Never => now.wall,
        };
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        let later = kind.span().longest().saturating_mul(rounds);
        first.checked_add(later).unwrap_or(Timestamp::MAX)
    }

    /// What counts now.
    pub(super) fn used(&self, account: &str, kind: Kind, now: Now) -> u64 {
        self.with(account, now, |windows| windows.of(kind).used())
    }

    /// Looks at an account without leaving a trace of one that has sent nothing.
    fn with<T>(&self, account: &str, now: Now, look: impl FnOnce(&mut Windows) -> T) -> T {
        match self.lock().get_mut(account) {
            Some(windows) => {
                windows.slide(now);
                look(windows)
            }
            None => look(&mut Windows::default()),
        }
    }

    fn lock(&self) -> Held<'_, Accounts> {
        self.kept.lock()
    }
}

/// The state file.
#[derive(Serialize, Deserialize)]
struct StateFile {
    version: u32,
    accounts: BTreeMap<String, AccountState>,
}

/// One account's buckets: index since the epoch, and count.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct AccountState {
    messages: Vec<(i64, u64)>,
    recipients: Vec<(i64, u64)>,
}

/// The accounts in a state file. Windows that no limiter could have written are dropped: they come from damage, and one
/// of them must not stop an account for years.
fn restore(file: StateFile, now: Now) -> Accounts {
    let mut accounts = HashMap::with_capacity(file.accounts.len());
    for (name, state) in file.accounts {
        let mut windows = Windows {
            messages: Window::restore(state.messages, Kind::Messages.span()).unwrap_or_default(),
            recipients: Window::restore(state.recipients, Kind::Recipients.span())
                .unwrap_or_default(),
        };
        windows.slide(now);
        if name.len() <= KEY_BYTES_MAX && !windows.is_empty() {
            accounts.insert(name, windows);
        }
    }
    accounts
}

fn content(accounts: &Accounts) -> StateFile {
    let state = |windows: &Windows| AccountState {
        messages: windows.messages.buckets().collect(),
        recipients: windows.recipients.buckets().collect(),
    };
    StateFile {
        version: STATE_VERSION,
        accounts: accounts
            .iter()
            .map(|(name, windows)| (name.clone(), state(windows)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn now() -> Now {
        Now {
            wall: "2026-11-21T10:00:00Z".parse().unwrap(),
            ..Now::read()
        }
    }

    fn send(limiter: &Limiter, account: &str, recipients: u64, now: Now) {
        let wanted = [(Limit::Unlimited, 1), (Limit::Unlimited, recipients)];
        limiter.take(&[(account, wanted)], now).unwrap();
    }

    fn used(limiter: &Limiter, account: &str, now: Now) -> [u64; 2] {
        Kind::ALL.map(|kind| limiter.used(account, kind, now))
    }

    #[test]
    fn a_restart_forgets_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits.json");
        let (limiter, findings) = Limiter::open(&path, now());
        assert_eq!(findings, []);
        assert!(!limiter.save().unwrap(), "nothing has changed yet");
        send(&limiter, "alice@example.org", 3, now());
        send(&limiter, "alice@example.org", 4, now().after(MINUTE * 30));
        assert!(limiter.save().unwrap());
        assert!(!limiter.save().unwrap(), "nothing has changed since");
        let later = now().after(MINUTE * 50);
        let (again, findings) = Limiter::open(&path, later);
        assert_eq!(findings, []);
        assert_eq!(used(&again, "alice@example.org", later), [2, 7]);
        let (much_later, _) = Limiter::open(&path, now().after(MINUTE * 70));
        assert_eq!(
            used(&much_later, "alice@example.org", now().after(MINUTE * 70)),
            [1, 7]
        );
    }

    #[test]
    fn absurd_values_are_dropped_one_by_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits.json");
        let bucket = Span::HOUR.bucket(now().wall);
        let day = Span::DAY.bucket(now().wall);
        let text = format!(
            r#"{{"version": 1, "later": true, "accounts": {{
                "good": {{"messages": [[{bucket}, 2]], "recipients": [[{day}, 5]], "later": 1}},
                "half": {{"messages": [[5, 0]], "recipients": [[{day}, 5]]}},
                "old": {{"messages": [[5, 1]], "recipients": []}},
                "future": {{"messages": [[9000000000, 7]]}},
                "unsorted": {{"messages": [[{bucket}, 1], [3, 1]]}}
            }}}}"#
        );
        std::fs::write(&path, text).unwrap();
        let (limiter, findings) = Limiter::open(&path, now());
        assert_eq!(findings, []);
        assert_eq!(used(&limiter, "good", now()), [2, 5]);
        assert_eq!(used(&limiter, "half", now()), [0, 5]);
        assert_eq!(used(&limiter, "future", now()), [7, 0]);
        assert_eq!(used(&limiter, "future", now().after(MINUTE * 61)), [0, 0]);
        assert_eq!(limiter.lock().len(), 3);
    }

    #[test]
    fn what_has_expired_is_forgotten() {
        let limiter = Limiter::default();
        send(&limiter, "alice@example.org", 1, now());
        send(&limiter, "bob@example.org", 1, now().after(MINUTE * 60));
        limiter.forget_expired(now().after(MINUTE * (24 * 60 + 14)));
        assert_eq!(limiter.lock().len(), 2);
        limiter.forget_expired(now().after(MINUTE * (24 * 60 + 15)));
        assert_eq!(limiter.lock().len(), 1);
    }

    #[test]
    fn looking_leaves_no_trace() {
        let limiter = Limiter::default();
        assert_eq!(used(&limiter, "nobody", now()), [0, 0]);
        assert!(limiter.lock().is_empty());
    }
}
