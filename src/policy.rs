//! What a logged-in account may do: as whom it sends, and how much.
//!
//! A [`Question`] becomes a [`Verdict`] that names the rule that took it. Nothing here speaks SMTP beyond choosing a
//! reply, reads a clock, or touches a file except through the limiter's own state. Limits are counted when a message is
//! about to be committed and only looked at before, so that a refused or abandoned message costs nothing.
//!
//! A message over a limit of its account is refused, or held: then it waits in the account's line ([`backlog`]) and uses
//! the limits up when it [leaves](Policy::pay). Whoever comes while others wait goes behind them.

use std::sync::Arc;

use crate::clock::{Now, Timestamp};
use crate::decision::{Account, Limit, Origin, OverLimit, Question, Refusal, Rule, Verdict};
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};
use crate::smtp::reply::Reply;

pub mod backlog;
pub mod history;
mod hold;
pub mod limit;
pub mod tripwire;
mod window;

pub use limit::Limiter;
use limit::{Kind, NoRoom, Room};

/// `[limits.account]`: what holds for every account that says nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySettings {
    /// Messages that one account may send in any hour, and where that is configured.
    pub messages_per_hour: (Limit, Option<Origin>),
    /// Recipients that one account may send to in any day, and where that is configured.
    pub recipients_per_day: (Limit, Option<Origin>),
    /// What becomes of messages over these limits, and where that is configured.
    pub over_limit: (OverLimit, Option<Origin>),
    /// Messages of one account that may be held for that reason, and where that is configured; more are refused.
    pub held_messages: (u64, Option<Origin>),
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
    /// of none; whoever then fails to commit the message gives them back with [`refund`](Self::refund). `Hold` uses up
    /// those of the credential alone, and takes a place in the account's line: then the message is to be
    /// [settled](Self::settle) or [withdrawn](Self::withdraw).
    pub fn decide(&self, account: &Account, question: Question<'_>, now: Now) -> Verdict {
        let Question::Message { recipients } = question else {
            return self.foresee(account, question, now);
        };
        let holders = self.limits(account);
        let allow = || Verdict::Allow(holders[0].limits[0].rule());
        if self.over_limit(account).0 == OverLimit::Refuse {
            return match self.take(&holders, recipients, now) {
                Ok(()) => allow(),
                Err(no_room) => refuse(&holders, no_room, recipients),
            };
        }
        if let Verdict::Refuse(refusal) = self.look_at_message(account, recipients, now) {
            return Verdict::Refuse(refusal);
        }
        let nobody_waits = self.waiting(account).messages == 0;
        if nobody_waits && self.take(&holders, recipients, now).is_ok() {
            return allow();
        }
        let (own, narrower) = (&holders[0], &holders[1..]);
        if let Err(no_room) = self.take(narrower, recipients, now) {
            return refuse(narrower, no_room, recipients);
        }
        let postponement = self.postponement(account, own, recipients, now);
        let backlog = self.limiter.backlog();
        if backlog.enter(&account.name, recipients, self.settings.held_messages.0) {
            return Verdict::Hold(postponement);
        }
        self.give_back(narrower, recipients, now);
        self.too_many_held(account)
    }

    /// What [`decide`](Self::decide) would answer, without using anything up.
    pub fn foresee(&self, account: &Account, question: Question<'_>, now: Now) -> Verdict {
        match question {
            Question::Author { from, sender } => author(account, from, sender),
            Question::Message { recipients } => {
                match self.look_at_message(account, recipients, now) {
                    Verdict::Allow(rule) => self
                        .foresee_hold(account, recipients, now)
                        .map_or(Verdict::Allow(rule), Verdict::Hold),
                    refused => refused,
                }
            }
            Question::Recipient {
                forward_path,
                accepted,
            } => match recipient(account, forward_path) {
                Some(refused) => refused,
                None => self.look(account, Kind::Recipients, accepted.saturating_add(1), now),
            },
            Question::Sender { reverse_path } => match sender(account, reverse_path) {
                Verdict::Allow(rule) => match self.look(account, Kind::Messages, 1, now) {
                    Verdict::Allow(_) => Verdict::Allow(rule),
                    refused => refused,
                },
                refused => refused,
            },
        }
    }

    /// Gives back what `Allow` to a [`Question::Message`] with so many recipients used up, because its commit failed.
    pub fn refund(&self, account: &Account, recipients: u64, now: Now) {
        self.give_back(&self.limits(account), recipients, now);
        self.limiter.backlog().wake(&account.name);
    }

    /// How far the limits of a login are used up: messages per hour and recipients per day of the account, then of its
    /// credential, if that has limits of its own.
    pub fn usage(&self, account: &Account, now: Now) -> Vec<Usage> {
        let mut usage = Vec::new();
        for (index, holder) in self.limits(account).into_iter().enumerate() {
            for limit in holder.limits {
                // What a credential does not limit is no limit of it.
                if index > 0 && limit.origin.is_none() {
                    continue;
                }
                let room = self
                    .limiter
                    .room(&holder.key, limit.kind, limit.limit, 1, now);
                usage.push(Usage {
                    name: limit.kind.name(),
                    limit: limit.limit,
                    origin: limit.origin,
                    used: self.limiter.used(&holder.key, limit.kind, now),
                    frees_at: match room {
                        Room::Frees(at) => Some(at),
                        Room::Enough | Room::Never => None,
                    },
                });
            }
        }
        usage
    }

    /// Whether a message could be accepted now, be it to be held.
    fn look_at_message(&self, account: &Account, recipients: u64, now: Now) -> Verdict {
        match self.look(account, Kind::Messages, 1, now) {
            Verdict::Allow(_) => self.look(account, Kind::Recipients, recipients, now),
            refused => refused,
        }
    }

    fn look(&self, account: &Account, kind: Kind, more: u64, now: Now) -> Verdict {
        let holders = self.limits(account);
        let holds = self.over_limit(account).0 == OverLimit::Hold;
        for (index, holder) in holders.iter().enumerate() {
            let limit = holder.limit(kind);
            match self.limiter.room(&holder.key, kind, limit.limit, more, now) {
                Room::Enough => {}
                Room::Frees(_) if index == 0 && holds => {}
                room => return holder.refuse(kind, more, room),
            }
        }
        // It would have to wait behind the others.
        let most = self.settings.held_messages.0;
        if holds && self.limiter.backlog().is_full(&account.name, most) {
            return self.too_many_held(account);
        }
        Verdict::Allow(holders[0].limit(kind).rule())
    }

    /// Uses up what a message needs, of all these or of none.
    fn take(&self, holders: &[Holder], recipients: u64, now: Now) -> Result<(), NoRoom> {
        let wanted = holders.iter().map(|holder| {
            let wanted = holder
                .limits
                .each_ref()
                .map(|limit| (limit.limit, limit.kind.units(recipients)));
            (holder.key.as_str(), wanted)
        });
        self.limiter.take(&wanted.collect::<Vec<_>>(), now)
    }

    fn give_back(&self, holders: &[Holder], recipients: u64, now: Now) {
        for holder in holders {
            self.limiter.give_back(&holder.key, [1, recipients], now);
        }
    }

    /// Whose limits hold for a login: those of the account (its own, else those for all), and those of the credential
    /// beside them. Never empty.
    fn limits(&self, account: &Account) -> Vec<Holder> {
        let limit = |kind, own: &Option<(Limit, Origin)>, otherwise: (Limit, Option<Origin>)| {
            let (limit, origin) = match own {
                Some((limit, origin)) => (*limit, Some(origin.clone())),
                None => otherwise,
            };
            OneLimit {
                kind,
                limit,
                origin,
            }
        };
        let mut holders = vec![Holder {
            key: account.name.clone(),
            shown: format!("account {}", account.name),
            limits: [
                limit(
                    Kind::Messages,
                    &account.messages_per_hour,
                    self.settings.messages_per_hour.clone(),
                ),
                limit(
                    Kind::Recipients,
                    &account.recipients_per_day,
                    self.settings.recipients_per_day.clone(),
                ),
            ],
        }];
        let none = || (Limit::Unlimited, None);
        if let Some(credential) = &account.credential
            && (credential.messages_per_hour.is_some() || credential.recipients_per_day.is_some())
        {
            holders.push(Holder {
                // No name has a NUL in it.
                key: format!("{}\0{}", account.name, credential.name),
                shown: format!("credential {} of account {}", credential.name, account.name),
                limits: [
                    limit(Kind::Messages, &credential.messages_per_hour, none()),
                    limit(Kind::Recipients, &credential.recipients_per_day, none()),
                ],
            });
        }
        holders
    }
}

/// Who has limits, and which: messages, recipients.
struct Holder {
    /// Under what the limiter knows it.
    key: String,
    /// For the operator.
    shown: String,
    limits: [OneLimit; 2],
}

/// A limit as it holds for somebody.
struct OneLimit {
    kind: Kind,
    limit: Limit,
    origin: Option<Origin>,
}

impl OneLimit {
    fn rule(&self) -> Rule {
        Rule {
            name: self.kind.name(),
            origin: self.origin.clone(),
        }
    }
}

impl Holder {
    fn limit(&self, kind: Kind) -> &OneLimit {
        match kind {
            Kind::Messages => &self.limits[0],
            Kind::Recipients => &self.limits[1],
        }
    }

    fn allowed(&self, kind: Kind) -> u64 {
        match self.limit(kind).limit {
            Limit::AtMost(allowed) => allowed.get(),
            // Nothing is refused without a limit; were it, this would be the truth about it.
            Limit::Unlimited => u64::MAX,
        }
    }

    /// So many recipients, or as many as there can be room for at all.
    fn at_most(&self, recipients: u64) -> u64 {
        recipients.min(self.allowed(Kind::Recipients))
    }

    fn no_room(&self, kind: Kind, more: u64) -> String {
        let (name, allowed, shown) = (kind.name(), self.allowed(kind), &self.shown);
        format!("{name} = {allowed} of {shown} leaves no room for {more} more")
    }

    fn refuse(&self, kind: Kind, more: u64, room: Room) -> Verdict {
        let limit = self.limit(kind);
        let (name, allowed) = (kind.name(), self.allowed(kind));
        let frees = match room {
            Room::Frees(at) => format!("at {at:.0}"),
            Room::Enough | Room::Never => "with fewer recipients".to_owned(),
        };
        let reason = format!("{}, {frees}", self.no_room(kind, more));
        Verdict::Refuse(Refusal {
            reply: Reply::account_limit(name, allowed, &frees),
            reason,
            rule: Some(limit.rule()),
        })
    }
}

/// The refusal of a message with so many recipients by one of these.
fn refuse(holders: &[Holder], no_room: NoRoom, recipients: u64) -> Verdict {
    let NoRoom { holder, kind, room } = no_room;
    holders[holder].refuse(kind, kind.units(recipients), room)
}

/// Whether the login may use the reverse-path.
fn sender(account: &Account, reverse_path: &ReversePath) -> Verdict {
    match account.sender_origin(|pattern| pattern.allows_reverse_path(reverse_path)) {
        Ok(origin) => Verdict::Allow(send_as(origin)),
        Err(origin) => {
            let shown = match reverse_path {
                ReversePath::Mailbox(mailbox) => mailbox.to_string(),
                ReversePath::Null => "<>".to_owned(),
            };
            Verdict::Refuse(Refusal {
                reply: Reply::sender_not_owned(&account.name, &shown),
                reason: format!(
                    "send_as of {} does not allow {shown}",
                    login(account, origin)
                ),
                rule: Some(send_as(origin)),
            })
        }
    }
}

/// Whether the login may use all of these addresses as author and sender.
fn author(account: &Account, from: &[Mailbox], sender: Option<&Mailbox>) -> Verdict {
    let mut rule = None;
    let fields = from
        .iter()
        .map(|mailbox| ("From", mailbox))
        .chain(sender.map(|mailbox| ("Sender", mailbox)));
    for (field, mailbox) in fields {
        match account.sender_origin(|pattern| pattern.allows(mailbox)) {
            Ok(origin) => rule = rule.or(Some(send_as(origin))),
            Err(origin) => {
                let address = mailbox.to_string();
                return Verdict::Refuse(Refusal {
                    reply: Reply::author_not_owned(&account.name, field, &address),
                    reason: format!(
                        "send_as of {} does not allow {address} in {field}",
                        login(account, origin)
                    ),
                    rule: Some(send_as(origin)),
                });
            }
        }
    }
    Verdict::Allow(rule.unwrap_or_else(|| {
        send_as(
            account
                .send_as
                .first()
                .map_or(&account.origin, |(_, origin)| origin),
        )
    }))
}

/// Why the login may not send to `path`; `None` if it may.
fn recipient(account: &Account, path: &ForwardPath) -> Option<Verdict> {
    let origin = account.recipient_origin(path).err()?;
    Some(Verdict::Refuse(Refusal {
        reply: Reply::recipient_not_allowed(&account.name, &path.to_string()),
        reason: format!(
            "rcpt_allow of {} does not allow {path}",
            login(account, origin)
        ),
        rule: Some(Rule {
            name: "rcpt_allow",
            origin: Some(origin.clone()),
        }),
    }))
}

/// Whose rule it is, for the operator: the account's, or that of the credential which says something at `origin`.
fn login(account: &Account, origin: &Origin) -> String {
    let of_credential = account.credential.as_deref().filter(|credential| {
        let mut senders = credential.send_as.iter().map(|(_, origin)| origin);
        let mut recipients = credential.rcpt_allow.iter().map(|(_, origin)| origin);
        senders.any(|own| own == origin) || recipients.any(|own| own == origin)
    });
    match of_credential {
        Some(credential) => format!("credential {} of account {}", credential.name, account.name),
        None => format!("account {}", account.name),
    }
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
    use crate::decision::{Credential, RecipientPattern, SenderPattern};

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
            tripwires: None,
            over_limit: None,
            note: None,
            origin: origin(1),
            credential: None,
            grant: None,
        }
    }

    fn policy(messages_per_hour: Limit, recipients_per_day: Limit) -> Policy {
        let settings = PolicySettings {
            messages_per_hour: (messages_per_hour, Some(origin(77))),
            recipients_per_day: (recipients_per_day, None),
            over_limit: (OverLimit::Refuse, None),
            held_messages: (10, None),
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
            Verdict::Hold(postponement) => format!("hold {}", place(&postponement.rule)),
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
        let used: Vec<u64> = policy
            .usage(&alice, now)
            .iter()
            .map(|usage| usage.used)
            .collect();
        assert_eq!(used, [0, 0]);
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
        let usage = policy.usage(&alice, now);
        let [messages, recipients] = usage.as_slice() else {
            panic!("two limits: {usage:?}");
        };
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

    fn with_credential(account: Account, change: impl FnOnce(&mut Credential)) -> Account {
        let mut credential = Credential {
            name: "scanner".to_owned(),
            expires: None,
            allow_from: Vec::new(),
            send_as: Vec::new(),
            rcpt_allow: Vec::new(),
            messages_per_hour: None,
            recipients_per_day: None,
            note: None,
            origin: origin(40),
        };
        change(&mut credential);
        Account {
            credential: Some(Arc::new(credential)),
            ..account
        }
    }

    #[test]
    fn a_credential_narrows_and_never_widens() {
        let policy = policy(Limit::Unlimited, Limit::Unlimited);
        let of = |patterns: &[&str]| {
            patterns
                .iter()
                .map(|text| (SenderPattern::parse(text).unwrap(), origin(41)))
                .collect()
        };
        let account = account(&["alice@example.org", "*@lists.example.org"]);
        let silent = with_credential(account.clone(), |_| {});
        let narrow = with_credential(account.clone(), |one| {
            one.send_as = of(&["alice@example.org"])
        });
        let wide = with_credential(account, |one| one.send_as = of(&["*", "<>"]));
        for (login, path, expected) in [
            (&silent, "<x@lists.example.org>", "allow send_as@11"),
            (&narrow, "<alice@example.org>", "allow send_as@41"),
            (
                &narrow,
                "<x@lists.example.org>",
                "send_as@41: 550 5.7.1 account alice@example.org may not send as x@lists.example.org",
            ),
            (&wide, "<x@lists.example.org>", "allow send_as@41"),
            (
                &wide,
                "<bob@example.net>",
                "send_as@10: 550 5.7.1 account alice@example.org may not send as bob@example.net",
            ),
            (
                &wide,
                "<>",
                "send_as@10: 550 5.7.1 account alice@example.org may not send as <>",
            ),
        ] {
            let reverse_path = ReversePath::parse(path.as_bytes()).unwrap();
            let question = Question::Sender {
                reverse_path: &reverse_path,
            };
            let verdict = policy.decide(login, question, ten_o_clock());
            assert_eq!(text(verdict), expected, "{path}");
            if let ReversePath::Mailbox(mailbox) = &reverse_path {
                let question = Question::Author {
                    from: std::slice::from_ref(mailbox),
                    sender: None,
                };
                let allowed = matches!(
                    policy.decide(login, question, ten_o_clock()),
                    Verdict::Allow(_)
                );
                assert_eq!(allowed, expected.starts_with("allow"), "From: {path}");
            }
        }
        let rcpt_allow = ["bob@example.net", "*@example.org"];
        let narrow = with_credential(silent, |one| {
            let patterns =
                rcpt_allow.map(|text| (RecipientPattern::parse(text).unwrap(), origin(42)));
            one.rcpt_allow = patterns.to_vec();
        });
        for (path, allowed) in [
            ("<bob@example.net>", true),
            ("<bob+tag@example.net>", true),
            ("<anybody@EXAMPLE.org>", true),
            ("<carol@example.net>", false),
            ("<bob@sub.example.org>", false),
            ("<postmaster>", false),
        ] {
            let forward_path = ForwardPath::parse(path.as_bytes()).unwrap();
            let question = Question::Recipient {
                forward_path: &forward_path,
                accepted: 0,
            };
            let verdict = policy.decide(&narrow, question, ten_o_clock());
            assert_eq!(matches!(verdict, Verdict::Allow(_)), allowed, "{path}");
        }
        for bad in ["<>", "", "nobody", "*@"] {
            assert!(RecipientPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_credentials_limits_stand_beside_the_accounts() {
        let limited = |messages: u64| {
            with_credential(account(&["*"]), |one| {
                one.messages_per_hour = Some((at_most(messages), origin(43)));
            })
        };
        let policy = policy(at_most(3), at_most(100));
        let now = ten_o_clock();
        let message = || Question::Message { recipients: 2 };
        let scanner = limited(1);
        assert_eq!(
            text(policy.decide(&scanner, message(), now)),
            "allow messages_per_hour@77"
        );
        let refused = text(policy.decide(&scanner, message(), now));
        assert!(
            refused.starts_with("messages_per_hour@43: 450 4.7.28 limit messages_per_hour = 1"),
            "{refused}"
        );
        // It costs the account nothing to be refused, and the account's own password is not held back.
        let own = account(&["*"]);
        assert_eq!(
            text(policy.decide(&own, message(), now)),
            "allow messages_per_hour@77"
        );
        // However much the credential may, the account's limit holds for it.
        let wide = limited(1000);
        assert_eq!(
            text(policy.decide(&wide, message(), now)),
            "allow messages_per_hour@77"
        );
        let refused = text(policy.decide(&wide, message(), now));
        assert!(
            refused.starts_with("messages_per_hour@77: 450 4.7.28"),
            "{refused}"
        );
        let used = |login: &Account| -> Vec<u64> {
            policy
                .usage(login, now)
                .iter()
                .map(|usage| usage.used)
                .collect()
        };
        assert_eq!(used(&scanner), [3, 6, 2]);
        policy.refund(&wide, 2, now);
        assert_eq!(used(&scanner), [2, 4, 1]);
        assert_eq!(used(&own), [2, 4]);
    }
}
