//! What a logged-in account may do: as whom it sends, and how much.
//!
//! A [`Question`] becomes a [`Verdict`] that names the rule that took it. Nothing here speaks SMTP beyond choosing a
//! reply, reads a clock, or touches a file except through the limiter's own state. Limits are counted when a message is
//! about to be committed and only looked at before, so that a refused or abandoned message costs nothing.

use std::sync::Arc;

use crate::clock::{Now, Timestamp};
use crate::decision::{Account, Limit, Origin, Question, Refusal, Rule, SenderPattern, Verdict};
use crate::smtp::address::{Mailbox, ReversePath};
use crate::smtp::reply::Reply;

pub mod limit;
mod window;

pub use limit::Limiter;
use limit::{Kind, Room};

/// `[limits.account]`: what holds for every account that says nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySettings {
    /// Messages that one account may send in any hour, and where that is configured.
    pub messages_per_hour: (Limit, Option<Origin>),
    /// Recipients that one account may send to in any day, and where that is configured.
    pub recipients_per_day: (Limit, Option<Origin>),
}

/// The rules of one generation of settings. The limiter is shared by all generations.
#[derive(Debug)]
pub struct Policy {
    settings: PolicySettings,
    limiter: Arc<Limiter>,
}

/// How far a limit is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The limit's configuration key.
    pub name: &'static str,
    /// What it allows.
    pub limit: Limit,
    /// Where that is configured; `None` for the default.
    pub origin: Option<Origin>,
    /// What counts against it now.
    pub used: u64,
    /// When one more fits again, where none does now.
    pub frees_at: Option<Timestamp>,
}

impl Policy {
    /// The rules for all accounts, with the limiter that remembers what they have used.
    pub fn new(settings: PolicySettings, limiter: Arc<Limiter>) -> Self {
        Self { settings, limiter }
    }

    /// Answers a question. To [`Question::Message`], and only to that, `Allow` uses the account's limits up, of both or
    /// of none; whoever then fails to commit the message gives them back with [`refund`](Self::refund).
    pub fn decide(&self, account: &Account, question: Question<'_>, now: Now) -> Verdict {
        let Question::Message { recipients } = question else {
            return self.foresee(account, question, now);
        };
        let [messages, to_recipients] = self.limits(account);
        let taken = self.limiter.take(
            &account.name,
            [(messages.limit, 1), (to_recipients.limit, recipients)],
            now,
        );
        match taken {
            Ok(()) => Verdict::Allow(messages.rule()),
            Err((Kind::Messages, room)) => messages.refuse(account, 1, room),
            Err((Kind::Recipients, room)) => to_recipients.refuse(account, recipients, room),
        }
    }

    /// What [`decide`](Self::decide) would answer, without using anything up.
    pub fn foresee(&self, account: &Account, question: Question<'_>, now: Now) -> Verdict {
        match question {
            Question::Author { from, sender } => author(account, from, sender),
            Question::Message { recipients } => {
                let [messages, to_recipients] = self.limits(account);
                match self.look(account, &messages, 1, now) {
                    Verdict::Allow(_) => self.look(account, &to_recipients, recipients, now),
                    refused => refused,
                }
            }
            Question::Recipient { accepted, .. } => {
                let [_, to_recipients] = self.limits(account);
                self.look(account, &to_recipients, accepted.saturating_add(1), now)
            }
            Question::Sender { reverse_path } => match sender(account, reverse_path) {
                Verdict::Allow(rule) => {
                    let [messages, _] = self.limits(account);
                    match self.look(account, &messages, 1, now) {
                        Verdict::Allow(_) => Verdict::Allow(rule),
                        refused => refused,
                    }
                }
                refused => refused,
            },
        }
    }

    /// Gives back what `Allow` to a [`Question::Message`] with so many recipients used up, because its commit failed.
    pub fn refund(&self, account: &Account, recipients: u64, now: Now) {
        self.limiter.give_back(&account.name, [1, recipients], now);
    }

    /// How far the account's limits are used up: messages per hour, recipients per day.
    pub fn usage(&self, account: &Account, now: Now) -> [Usage; 2] {
        self.limits(account).map(|limit| {
            let room = self
                .limiter
                .room(&account.name, limit.kind, limit.limit, 1, now);
            Usage {
                name: limit.kind.name(),
                limit: limit.limit,
                origin: limit.origin,
                used: self.limiter.used(&account.name, limit.kind, now),
                frees_at: match room {
                    Room::Frees(at) => Some(at),
                    Room::Enough | Room::Never => None,
                },
            }
        })
    }

    fn look(&self, account: &Account, limit: &AccountLimit, more: u64, now: Now) -> Verdict {
        match self
            .limiter
            .room(&account.name, limit.kind, limit.limit, more, now)
        {
            Room::Enough => Verdict::Allow(limit.rule()),
            room => limit.refuse(account, more, room),
        }
    }

    /// The account's limits: its own where it has one, else those for all.
    fn limits(&self, account: &Account) -> [AccountLimit; 2] {
        let choose =
            |kind, own: &Option<(Limit, Origin)>, general: &(Limit, Option<Origin>)| match own {
                Some((limit, origin)) => AccountLimit {
                    kind,
                    limit: *limit,
                    origin: Some(origin.clone()),
                },
                None => AccountLimit {
                    kind,
                    limit: general.0,
                    origin: general.1.clone(),
                },
            };
        [
            choose(
                Kind::Messages,
                &account.messages_per_hour,
                &self.settings.messages_per_hour,
            ),
            choose(
                Kind::Recipients,
                &account.recipients_per_day,
                &self.settings.recipients_per_day,
            ),
        ]
    }
}

/// A limit as it holds for one account.
struct AccountLimit {
    kind: Kind,
    limit: Limit,
    origin: Option<Origin>,
}

impl AccountLimit {
    fn rule(&self) -> Rule {
        Rule {
            name: self.kind.name(),
            origin: self.origin.clone(),
        }
    }

    fn refuse(&self, account: &Account, more: u64, room: Room) -> Verdict {
        let name = self.kind.name();
        let allowed = match self.limit {
            Limit::AtMost(allowed) => allowed.get(),
            // Nothing is refused without a limit; were it, this would be the truth about it.
            Limit::Unlimited => u64::MAX,
        };
        let frees = match room {
            Room::Frees(at) => format!("at {at:.0}"),
            Room::Enough | Room::Never => "with fewer recipients".to_owned(),
        };
        let reason = format!(
            "{name} = {allowed} of account {} leaves no room for {more} more, {frees}",
            account.name
        );
        Verdict::Refuse(Refusal {
            reply: Reply::account_limit(name, allowed, &frees),
            reason,
            rule: Some(self.rule()),
        })
    }
}

/// Whether the account may use the reverse-path.
fn sender(account: &Account, reverse_path: &ReversePath) -> Verdict {
    match pattern_for(account, |pattern| pattern.allows_reverse_path(reverse_path)) {
        Some(origin) => Verdict::Allow(send_as(origin)),
        None => {
            let shown = match reverse_path {
                ReversePath::Mailbox(mailbox) => mailbox.to_string(),
                ReversePath::Null => "<>".to_owned(),
            };
            Verdict::Refuse(Refusal {
                reply: Reply::sender_not_owned(&account.name, &shown),
                reason: format!("send_as of account {} does not allow {shown}", account.name),
                rule: Some(send_as(first_origin(account))),
            })
        }
    }
}

/// Whether the account may use all of these addresses as author and sender.
fn author(account: &Account, from: &[Mailbox], sender: Option<&Mailbox>) -> Verdict {
    let mut rule = None;
    let fields = from
        .iter()
        .map(|mailbox| ("From", mailbox))
        .chain(sender.map(|mailbox| ("Sender", mailbox)));
    for (field, mailbox) in fields {
        match pattern_for(account, |pattern| pattern.allows(mailbox)) {
            Some(origin) => rule = rule.or(Some(send_as(origin))),
            None => {
                let address = mailbox.to_string();
                return Verdict::Refuse(Refusal {
                    reply: Reply::author_not_owned(&account.name, field, &address),
                    reason: format!(
                        "send_as of account {} does not allow {address} in {field}",
                        account.name
                    ),
                    rule: Some(send_as(first_origin(account))),
                });
            }
        }
    }
    Verdict::Allow(rule.unwrap_or_else(|| send_as(first_origin(account))))
}

/// Where the first pattern that allows it is written.
fn pattern_for(account: &Account, allows: impl Fn(&SenderPattern) -> bool) -> Option<&Origin> {
    account
        .send_as
        .iter()
        .find(|(pattern, _)| allows(pattern))
        .map(|(_, origin)| origin)
}

/// Where `send_as` begins, or the account where it has none.
fn first_origin(account: &Account) -> &Origin {
    account
        .send_as
        .first()
        .map_or(&account.origin, |(_, origin)| origin)
}

fn send_as(origin: &Origin) -> Rule {
    Rule {
        name: "send_as",
        origin: Some(origin.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::smtp::address::ForwardPath;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(60 * 60);

    fn at_most(number: u64) -> Limit {
        Limit::AtMost(NonZeroU64::new(number).unwrap())
    }

    fn origin(line: usize) -> Origin {
        Origin {
            file: Path::new("accounts.toml").into(),
            line,
        }
    }

    fn account(patterns: &[&str]) -> Account {
        let send_as = patterns.iter().enumerate();
        Account {
            name: "alice@example.org".to_owned(),
            enabled: true,
            allow_from: Vec::new(),
            send_as: send_as
                .map(|(index, text)| (SenderPattern::parse(text).unwrap(), origin(10 + index)))
                .collect(),
            messages_per_hour: None,
            recipients_per_day: None,
            note: None,
            origin: origin(1),
        }
    }

    fn policy(messages_per_hour: Limit, recipients_per_day: Limit) -> Policy {
        let settings = PolicySettings {
            messages_per_hour: (messages_per_hour, Some(origin(77))),
            recipients_per_day: (recipients_per_day, None),
        };
        Policy::new(settings, Arc::new(Limiter::default()))
    }

    /// A moment whose minutes and seconds are zero.
    fn ten_o_clock() -> Now {
        Now {
            wall: "2026-11-21T10:00:00Z".parse().unwrap(),
            ..Now::read()
        }
    }

    fn mailbox(text: &str) -> Mailbox {
        Mailbox::parse(text.as_bytes()).unwrap()
    }

    /// A verdict as `allow RULE@LINE` or `RULE@LINE: REPLY`.
    fn text(verdict: Verdict) -> String {
        let place = |rule: &Rule| match &rule.origin {
            Some(origin) => format!("{}@{}", rule.name, origin.line),
            None => rule.name.to_owned(),
        };
        match verdict {
            Verdict::Allow(rule) => format!("allow {}", place(&rule)),
            Verdict::Refuse(refusal) => {
                format!("{}: {}", place(&refusal.rule.unwrap()), refusal.reply)
            }
        }
    }

    #[test]
    fn senders() {
        let policy = policy(Limit::Unlimited, Limit::Unlimited);
        let own = account(&["alice@example.org", "*@lists.example.org"]);
        let anybody = account(&["*"]);
        let bounces = account(&["alice@example.org", "<>"]);
        let nobody = account(&[]);
        for (account, path, expected) in [
            (&own, "<alice@example.org>", "allow send_as@10"),
            (&own, "<alice+tag@example.org>", "allow send_as@10"),
            (&own, "<x@lists.example.org>", "allow send_as@11"),
            (
                &own,
                "<bob@example.org>",
                "send_as@10: 550 5.7.1 account alice@example.org may not send as bob@example.org",
            ),
            (
                &own,
                "<>",
                "send_as@10: 550 5.7.1 account alice@example.org may not send as <>",
            ),
            (&anybody, "<bob@example.net>", "allow send_as@10"),
            (
                &anybody,
                "<>",
                "send_as@10: 550 5.7.1 account alice@example.org may not send as <>",
            ),
            (&bounces, "<>", "allow send_as@11"),
            (
                &nobody,
                "<alice@example.org>",
                "send_as@1: 550 5.7.1 account alice@example.org may not send as alice@example.org",
            ),
        ] {
            let reverse_path = ReversePath::parse(path.as_bytes()).unwrap();
            let question = Question::Sender {
                reverse_path: &reverse_path,
            };
            let verdict = policy.decide(account, question, ten_o_clock());
            assert_eq!(text(verdict), expected, "{path}");
        }
    }

    #[test]
    fn authors() {
        let policy = policy(at_most(1), at_most(1));
        let own = account(&["<>", "alice@example.org", "*@lists.example.org"]);
        for (from, sender, expected) in [
            (&["alice@example.org"][..], None, "allow send_as@11"),
            (
                &["x@lists.example.org"],
                Some("Alice@example.org"),
                "allow send_as@12",
            ),
            (
                &["alice@example.org", "bob@example.org"],
                Some("alice@example.org"),
                "send_as@10: 550 5.7.1 account alice@example.org may not send with header From: bob@example.org",
            ),
            (
                &["alice@example.org"],
                Some("bob@example.org"),
                "send_as@10: 550 5.7.1 account alice@example.org may not send with header Sender: bob@example.org",
            ),
        ] {
            let from: Vec<Mailbox> = from.iter().map(|text| mailbox(text)).collect();
            let sender = sender.map(mailbox);
            let question = Question::Author {
                from: &from,
                sender: sender.as_ref(),
            };
            let verdict = policy.decide(&own, question, ten_o_clock());
            assert_eq!(text(verdict), expected);
        }
    }

    #[test]
    fn messages_per_hour() {
        let policy = policy(at_most(2), Limit::Unlimited);
        let alice = account(&["alice@example.org"]);
        let start = ten_o_clock();
        let send = |minutes: u32| {
            let question = Question::Message { recipients: 1 };
            text(policy.decide(&alice, question, start.after(MINUTE * minutes)))
        };
        let full = "messages_per_hour@77: 450 4.7.28 limit messages_per_hour = 2 reached, try again at 2026-11-21T11:01:00Z";
        assert_eq!(send(0), "allow messages_per_hour@77");
        assert_eq!(send(30), "allow messages_per_hour@77");
        assert_eq!(send(30), full);
        assert_eq!(send(60), full);
        assert_eq!(send(61), "allow messages_per_hour@77");
        assert!(send(62).contains("try again at 2026-11-21T11:31:00Z"));
        // MAIL hears of it too, before anything is sent for nothing.
        let reverse_path = ReversePath::parse(b"<alice@example.org>").unwrap();
        let question = Question::Sender {
            reverse_path: &reverse_path,
        };
        let mail = |minutes| text(policy.decide(&alice, question, start.after(MINUTE * minutes)));
        assert!(mail(62).contains("450 4.7.28"), "{}", mail(62));
        assert_eq!(mail(91), "allow send_as@10");
        // Another account has limits of its own.
        let bob = Account {
            name: "bob@example.org".to_owned(),
            messages_per_hour: Some((at_most(1), origin(9))),
            ..account(&["bob@example.org"])
        };
        let send = || text(policy.decide(&bob, Question::Message { recipients: 1 }, start));
        assert_eq!(send(), "allow messages_per_hour@9");
        assert!(send().starts_with("messages_per_hour@9: 450 4.7.28"));
    }

    #[test]
    fn recipients_per_day() {
        let policy = policy(Limit::Unlimited, at_most(5));
        let alice = account(&["alice@example.org"]);
        let start = ten_o_clock();
        let path = ForwardPath::parse(b"<bob@example.net>").unwrap();
        let rcpt = |accepted, now| {
            let question = Question::Recipient {
                forward_path: &path,
                accepted,
            };
            text(policy.decide(&alice, question, now))
        };
        let send =
            |recipients, now| text(policy.decide(&alice, Question::Message { recipients }, now));
        assert_eq!(rcpt(4, start), "allow recipients_per_day");
        assert_eq!(
            rcpt(5, start),
            "recipients_per_day: 450 4.7.28 limit recipients_per_day = 5 reached, try again with fewer recipients"
        );
        assert_eq!(send(3, start), "allow messages_per_hour@77");
        assert_eq!(rcpt(1, start), "allow recipients_per_day");
        assert!(rcpt(2, start).contains("at 2026-11-22T10:15:00Z"));
        // A message that does not fit uses up nothing of either limit.
        assert!(send(3, start).starts_with("recipients_per_day: 450"));
        assert_eq!(policy.usage(&alice, start)[0].used, 1);
        assert_eq!(send(2, start.after(HOUR)), "allow messages_per_hour@77");
        assert!(rcpt(0, start.after(HOUR * 24)).contains("at 2026-11-22T10:15:00Z"));
        assert_eq!(
            rcpt(2, start.after(HOUR * 24 + MINUTE * 15)),
            "allow recipients_per_day"
        );
    }

    #[test]
    fn a_failed_commit_gives_back() {
        let policy = policy(at_most(1), at_most(3));
        let alice = account(&["alice@example.org"]);
        let now = ten_o_clock();
        let send = || policy.decide(&alice, Question::Message { recipients: 3 }, now);
        for _ in 0..3 {
            assert!(matches!(send(), Verdict::Allow(_)));
            assert!(matches!(send(), Verdict::Refuse(_)));
            policy.refund(&alice, 3, now.after(MINUTE * 2));
        }
        assert_eq!(policy.usage(&alice, now).map(|usage| usage.used), [0, 0]);
    }

    #[test]
    fn foreseeing_uses_nothing_up() {
        let policy = policy(at_most(1), at_most(3));
        let alice = account(&["alice@example.org"]);
        let now = ten_o_clock();
        for _ in 0..3 {
            let question = Question::Message { recipients: 3 };
            assert!(matches!(
                policy.foresee(&alice, question, now),
                Verdict::Allow(_)
            ));
        }
        let question = Question::Message { recipients: 4 };
        assert!(text(policy.foresee(&alice, question, now)).contains("with fewer recipients"));
        let [messages, recipients] = policy.usage(&alice, now);
        assert_eq!((messages.used, recipients.used), (0, 0));
        assert_eq!((messages.frees_at, recipients.frees_at), (None, None));
    }

    #[test]
    fn of_two_at_once_one_gets_the_last_unit() {
        for _ in 0..50 {
            let policy = policy(at_most(1), Limit::Unlimited);
            let alice = account(&["alice@example.org"]);
            let now = ten_o_clock();
            let send = || {
                let verdict = policy.decide(&alice, Question::Message { recipients: 1 }, now);
                matches!(verdict, Verdict::Allow(_))
            };
            let allowed = std::thread::scope(|scope| {
                let both = [scope.spawn(send), scope.spawn(send)];
                both.map(|thread| thread.join().unwrap())
            });
            assert_ne!(allowed[0], allowed[1]);
        }
    }
}
