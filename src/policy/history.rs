//! What each account sent lately: which messages, with which credential, to how many recipients.
//!
//! For the report about an account that is contained: what is not in the queue any more has left. Memory is bounded, by
//! account and in all; the oldest is forgotten first. Kept in a small file, which is saved now and then: a crash forgets
//! the last seconds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Now, Timestamp};
use crate::diagnostic::Finding;
use crate::envelope::MessageId;
use crate::kept::{Held, Kept};

/// The name of the file, in the queue directory.
pub const HISTORY_FILE: &str = "sent.json";
/// The version of the file that this program writes.
const STATE_VERSION: u32 = 1;
/// How long a message is remembered.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Messages of one account that are remembered.
pub const MESSAGES_MAX: usize = 1_000;
/// Messages of all accounts that are remembered; some 100 octets each.
const MESSAGES_IN_ALL_MAX: usize = 100_000;

/// What was accepted lately. Shared by all threads.
#[derive(Debug, Default)]
pub struct History {
    kept: Kept<Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    accounts: HashMap<String, VecDeque<Message>>,
    count: usize,
}

/// A message that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its name in the queue.
    pub id: MessageId,
    /// With which credential it was sent; `None`: the account's own password.
    pub credential: Option<Arc<str>>,
    /// How many recipients it has.
    pub recipients: u64,
}

impl History {
    /// Takes up the file at `path`, if there is one. One that cannot be read is put aside, with a warning. Blocks on
    /// the disk.
    pub fn open(path: &Path, now: Now) -> (Self, Option<Finding>) {
        let (history, finding) = Self::look_into(path, now);
        let finding = finding.map(|finding| history.kept.put_aside(finding));
        (history, finding)
    }

    /// The same for whoever only looks.
    pub fn look_into(path: &Path, now: Now) -> (Self, Option<Finding>) {
        let loss = "cannot read what was sent lately, what has left cannot be told";
        let restore = |file: File| Ok(restore(file, now));
        let (kept, finding) = Kept::look_into(path, STATE_VERSION, loss, Sent::default, restore);
        (Self { kept }, finding)
    }

    /// Writes it to its file, if anything changed. Blocks on the disk.
    pub fn save(&self, now: Now) -> io::Result<bool> {
        self.kept.save(|sent| {
            sent.forget_older_than(oldest(now));
            content(sent)
        })
    }

    /// A message was accepted.
    pub fn accepted(
        &self,
        account: &str,
        credential: Option<&str>,
        id: &MessageId,
        recipients: u64,
    ) {
        let mut sent = self.lock();
        sent.add(
            account,
            Message {
                id: id.clone(),
                credential: credential.map(Arc::from),
                recipients,
            },
        );
        sent.changed();
    }

    /// What an account has sent in the time that is remembered, the oldest first.
    pub fn sent(&self, account: &str, now: Now) -> Vec<Message> {
        let oldest = oldest(now);
        let sent = self.lock();
        let messages = sent.accounts.get(account).into_iter().flatten();
        messages
            .filter(|message| message.id.milliseconds() >= oldest)
            .cloned()
            .collect()
    }

    fn lock(&self) -> Held<'_, Sent> {
        self.kept.lock()
    }
}

/// From when on messages are remembered, in milliseconds.
fn oldest(now: Now) -> i64 {
    let oldest = now.wall.checked_sub(REMEMBERED_FOR);
    oldest.unwrap_or(Timestamp::MIN).as_millisecond()
}

impl Sent {
    fn add(&mut self, account: &str, message: Message) {
        if !self.accounts.contains_key(account) {
            self.accounts.insert(account.to_owned(), VecDeque::new());
        }
        if let Some(messages) = self.accounts.get_mut(account) {
            messages.push_back(message);
            self.count += 1;
            if messages.len() > MESSAGES_MAX {
                messages.pop_front();
                self.count -= 1;
            }
        }
        if self.count > MESSAGES_IN_ALL_MAX {
            // Whoever sent most keeps enough.
            let most = self
                .accounts
                .values_mut()
                .max_by_key(|messages| messages.len());
            if most.and_then(VecDeque::pop_front).is_some() {
                self.count -= 1;
            }
        }
    }

    fn forget_older_than(&mut self, oldest: i64) {
        self.accounts.retain(|_, messages| {
            let before = messages.len();
            messages.retain(|message| message.id.milliseconds() >= oldest);
            self.count -= before - messages.len();
            !messages.is_empty()
        });
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    /// By account: id, recipients and perhaps credential of each message.
    accounts: BTreeMap<String, Vec<Line>>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    id: String,
    recipients: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
}

fn restore(file: File, now: Now) -> Sent {
    let mut sent = Sent::default();
    for (account, lines) in file.accounts {
        for line in lines {
            if let Ok(id) = line.id.parse() {
                let message = Message {
                    id,
                    credential: line.credential.map(Arc::from),
                    recipients: line.recipients,
                };
                sent.add(&account, message);
            }
        }
    }
    sent.forget_older_than(oldest(now));
    sent
}

fn content(sent: &Sent) -> File {
    let line = |message: &Message| Line {
        id: message.id.to_string(),
        recipients: message.recipients,
        credential: message.credential.as_deref().map(str::to_owned),
    };
    File {
        version: STATE_VERSION,
        accounts: sent
            .accounts
            .iter()
            .map(|(account, messages)| (account.clone(), messages.iter().map(line).collect()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(now: Now, number: u128) -> MessageId {
        MessageId::from_bits(((now.wall.as_millisecond() as u128) << 80) | number)
    }

    #[test]
    fn what_was_sent_is_remembered_for_a_day_and_across_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(HISTORY_FILE);
        let now = Now::read();
        let (history, _) = History::open(&path, now);
        history.accepted("a", None, &id(now, 1), 3);
        let later = now.after(Duration::from_secs(3600));
        history.accepted("a", Some("phone"), &id(later, 2), 1);
        history.accepted("b", None, &id(later, 3), 1);
        assert!(history.save(later).unwrap());
        let (again, finding) = History::open(&path, later);
        assert_eq!(finding, None);
        assert_eq!(again.sent("a", later), history.sent("a", later));
        assert_eq!(again.sent("a", later).len(), 2);
        assert_eq!(
            &*again.sent("a", later)[1].credential.clone().unwrap(),
            "phone"
        );
        let next_day = now.after(REMEMBERED_FOR + Duration::from_secs(1));
        let left: Vec<_> = again.sent("a", next_day).into_iter().collect();
        assert_eq!(
            left.iter().map(|one| one.recipients).collect::<Vec<_>>(),
            [1]
        );
        let (late, _) = History::open(&path, next_day.after(REMEMBERED_FOR));
        assert_eq!(late.lock().count, 0);
    }

    #[test]
    fn memory_is_bounded() {
        let (history, now) = (History::default(), Now::read());
        for number in 0..=MESSAGES_MAX as u128 {
            history.accepted("a", None, &id(now, number), 1);
        }
        let sent = history.sent("a", now);
        assert_eq!(sent.len(), MESSAGES_MAX);
        assert_eq!(sent[0].id, id(now, 1), "the oldest is forgotten");
        for account in 0..=MESSAGES_IN_ALL_MAX / 500 {
            for number in 0..500 {
                history.accepted(&account.to_string(), None, &id(now, number), 1);
            }
        }
        assert_eq!(history.lock().count, MESSAGES_IN_ALL_MAX);
        let counted = history
            .lock()
            .accounts
            .values()
            .map(VecDeque::len)
            .sum::<usize>();
        assert_eq!(counted, MESSAGES_IN_ALL_MAX);
        assert!(!history.sent("0", now).is_empty());
    }
}
