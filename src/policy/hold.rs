//! Messages over the limits of their account that are held: when, and what they use up when they leave.

use crate::clock::{Now, Timestamp};
use crate::decision::{Account, Origin, OverLimit, Postponement, Refusal, Rule, Verdict};
use crate::envelope::MessageId;
use crate::smtp::reply::Reply;

use super::backlog::{Backlog, Sum};
use super::limit::{Kind, NoRoom, Room};
use super::{Holder, OneLimit, Policy};

impl Policy {
    /// A message that was to be held is in `hold/`, and waits from now on.
    pub fn settle(&self, account: &Account, id: &MessageId, recipients: u64) {
        let backlog = self.limiter.backlog();
        backlog.settle(&account.name, id, recipients);
    }

    /// Undoes `Hold` to a [`Message`](crate::decision::Question::Message) with so many recipients, because its commit failed.
    pub fn withdraw(&self, account: &Account, recipients: u64, now: Now) {
        self.limiter.backlog().leave(&account.name, recipients);
        self.give_back(&self.limits(account)[1..], recipients, now);
    }

    /// Uses up the limits of the account for a held message that is about to leave, whatever its credential was: that has
    /// paid before. Otherwise says when there will be room.
    ///
    /// A message with more recipients than a limit that was lowered since leaves when nothing else counts.
    pub fn pay(&self, account: &Account, recipients: u64, now: Now) -> Result<(), Timestamp> {
        let own = &self.limits(account)[0];
        let paid = own.at_most(recipients);
        let taken = self.take(std::slice::from_ref(own), paid, now);
        taken.map_err(|NoRoom { room, .. }| match room {
            Room::Frees(at) => at,
            // It was made to fit.
            Room::Enough | Room::Never => now.wall,
        })
    }

    /// Gives that back, because the message could not leave.
    pub fn pay_back(&self, account: &Account, recipients: u64, now: Now) {
        let own = &self.limits(account)[0];
        let paid = own.at_most(recipients);
        self.give_back(std::slice::from_ref(own), paid, now);
    }

    /// Who waits for room.
    pub fn backlog(&self) -> &Backlog {
        self.limiter.backlog()
    }

    /// What waits of an account.
    pub fn waiting(&self, account: &Account) -> Sum {
        self.limiter.backlog().sum(&account.name)
    }

    /// What becomes of the account's messages over its limits, and where that is configured.
    pub fn over_limit(&self, account: &Account) -> (OverLimit, Option<Origin>) {
        match &account.over_limit {
            Some((over_limit, origin)) => (*over_limit, Some(origin.clone())),
            None => self.settings.over_limit.clone(),
        }
    }

    /// How a message that could be accepted would be held; `None` if it need not.
    pub(super) fn foresee_hold(
        &self,
        account: &Account,
        recipients: u64,
        now: Now,
    ) -> Option<Postponement> {
        let own = &self.limits(account)[0];
        let must_wait = self.over_limit(account).0 == OverLimit::Hold
            && (self.waiting(account).messages > 0 || self.full(own, recipients, now).is_some());
        must_wait.then(|| self.postponement(account, own, recipients, now))
    }

    /// A message of the account does not fit now, or others wait before it.
    pub(super) fn postponement(
        &self,
        account: &Account,
        own: &Holder,
        recipients: u64,
        now: Now,
    ) -> Postponement {
        let ahead = self.waiting(account);
        let reason = match ahead.messages {
            0 => {
                // Room that came this moment: the first will do.
                let kind = self.full(own, recipients, now).unwrap_or(Kind::Messages);
                own.no_room(kind, kind.units(recipients))
            }
            1 => format!("another message of {} waits before it", own.shown),
            more => format!("{more} messages of {} wait before it", own.shown),
        };
        let times = own.limits.iter().map(|limit| {
            let before = match limit.kind {
                Kind::Messages => ahead.messages,
                Kind::Recipients => ahead.recipients,
            };
            let more = before.saturating_add(limit.kind.units(recipients));
            self.limiter
                .done_about(&own.key, limit.kind, limit.limit, more, now)
        });
        Postponement {
            rule: Rule {
                name: "over_limit",
                origin: self.over_limit(account).1,
            },
            reason,
            leaves_about: times.max().unwrap_or(now.wall),
        }
    }

    pub(super) fn too_many_held(&self, account: &Account) -> Verdict {
        let waiting = self.waiting(account).messages;
        let (most, origin) = &self.settings.held_messages;
        Verdict::Refuse(Refusal {
            reply: Reply::too_many_held(),
            reason: format!(
                "{waiting} messages of account {} are held over its limits: held_messages = {most}, or too many in all",
                account.name
            ),
            rule: Some(Rule {
                name: "held_messages",
                origin: origin.clone(),
            }),
        })
    }

    /// Which limit leaves no room for a message with so many recipients.
    fn full(&self, own: &Holder, recipients: u64, now: Now) -> Option<Kind> {
        let is_full = |limit: &&OneLimit| {
            let more = limit.kind.units(recipients);
            let room = self
                .limiter
                .room(&own.key, limit.kind, limit.limit, more, now);
            room != Room::Enough
        };
        own.limits.iter().find(is_full).map(|limit| limit.kind)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::decision::{Credential, Limit, Question, SenderPattern};
    use crate::policy::{Limiter, PolicySettings};
    use crate::smtp::address::{ForwardPath, ReversePath};

    const MINUTE: Duration = Duration::from_secs(60);

    fn at_most(number: u64) -> Limit {
        Limit::AtMost(NonZeroU64::new(number).unwrap())
    }

    fn origin(line: usize) -> Origin {
        Origin {
            file: Path::new("accounts.toml").into(),
            line,
        }
    }

    fn alice() -> Account {
        let own = SenderPattern::parse("alice@example.org").unwrap();
        Account {
            name: "alice@example.org".to_owned(),
            enabled: true,
            allow_from: Vec::new(),
            send_as: vec![(own, origin(10))],
            messages_per_hour: None,
            recipients_per_day: None,
            over_limit: None,
            tripwires: None,
            note: None,
            origin: origin(1),
            credential: None,
            grant: None,
        }
    }

    fn settings(messages_per_hour: Limit, recipients_per_day: Limit) -> PolicySettings {
        PolicySettings {
            messages_per_hour: (messages_per_hour, Some(origin(77))),
            recipients_per_day: (recipients_per_day, None),
            over_limit: (OverLimit::Hold, Some(origin(78))),
            held_messages: (3, Some(origin(79))),
        }
    }

    fn policy(messages_per_hour: Limit, recipients_per_day: Limit) -> Policy {
        let settings = settings(messages_per_hour, recipients_per_day);
        Policy::new(settings, Arc::new(Limiter::default()))
    }

    fn start() -> Now {
        Now {
            wall: "2026-11-21T10:00:00Z".parse().unwrap(),
            ..Now::read()
        }
    }

    fn text(verdict: Verdict) -> String {
        let place = |rule: &Rule| match &rule.origin {
            Some(origin) => format!("{}@{}", rule.name, origin.line),
            None => rule.name.to_owned(),
        };
        match verdict {
            Verdict::Allow(rule) => format!("allow {}", place(&rule)),
            Verdict::Hold(Postponement {
                rule,
                reason,
                leaves_about,
            }) => format!("hold {} until {leaves_about:.0}: {reason}", place(&rule)),
            Verdict::Refuse(refusal) => {
                format!("{}: {}", place(&refusal.rule.unwrap()), refusal.reply)
            }
        }
    }

    fn mail(policy: &Policy, account: &Account, now: Now) -> String {
        let reverse_path = ReversePath::parse(b"<alice@example.org>").unwrap();
        let question = Question::Sender {
            reverse_path: &reverse_path,
        };
        text(policy.decide(account, question, now))
    }

    fn rcpt(policy: &Policy, account: &Account, accepted: u64, now: Now) -> String {
        let forward_path = ForwardPath::parse(b"<bob@example.net>").unwrap();
        let question = Question::Recipient {
            forward_path: &forward_path,
            accepted,
        };
        text(policy.decide(account, question, now))
    }

    /// Hands a message in; one that is held is `id` in hold.
    fn send(policy: &Policy, account: &Account, id: u128, recipients: u64, now: Now) -> String {
        let question = Question::Message { recipients };
        let foreseen = text(policy.foresee(account, question, now));
        let verdict = policy.decide(account, question, now);
        if let Verdict::Hold(_) = verdict {
            policy.settle(account, &MessageId::from_bits(id), recipients);
        }
        let said = text(verdict);
        // Of several limits that allow it, any may be named.
        let both_allow = foreseen.starts_with("allow ") && said.starts_with("allow ");
        assert!(
            both_allow || foreseen == said,
            "{foreseen}, and then {said}"
        );
        said
    }

    #[test]
    fn over_messages_per_hour() {
        let (policy, alice, now) = (policy(at_most(2), Limit::Unlimited), alice(), start());
        assert_eq!(
            send(&policy, &alice, 1, 1, now),
            "allow messages_per_hour@77"
        );
        assert_eq!(
            send(&policy, &alice, 2, 1, now),
            "allow messages_per_hour@77"
        );
        // MAIL and RCPT hear nothing of it.
        assert_eq!(mail(&policy, &alice, now), "allow send_as@10");
        assert_eq!(rcpt(&policy, &alice, 0, now), "allow recipients_per_day");
        let of = "account alice@example.org";
        for (id, expected) in [
            (
                3,
                format!(
                    "2026-11-21T11:01:00Z: messages_per_hour = 2 of {of} leaves no room for 1 more"
                ),
            ),
            (
                4,
                format!("2026-11-21T11:01:00Z: another message of {of} waits before it"),
            ),
            // Two leave in an hour, and then it is full again.
            (
                5,
                format!("2026-11-21T12:02:00Z: 2 messages of {of} wait before it"),
            ),
        ] {
            let expected = format!("hold over_limit@78 until {expected}");
            assert_eq!(send(&policy, &alice, id, 1, now), expected);
        }
        // So many, and no more: MAIL says it.
        let full = "held_messages@79: 450 4.7.28 too many messages are held over the account's limits, try again later";
        assert_eq!(mail(&policy, &alice, now), full);
        assert_eq!(send(&policy, &alice, 6, 1, now), full);
        // Those who wait go first, even where there is room.
        let later = now.after(MINUTE * 61);
        assert_eq!(mail(&policy, &alice, later), full);
        policy
            .backlog()
            .remove(&alice.name, &[MessageId::from_bits(3)]);
        let expected = format!(
            "hold over_limit@78 until 2026-11-21T12:02:00Z: 2 messages of {of} wait before it"
        );
        assert_eq!(send(&policy, &alice, 6, 1, later), expected);
    }

    #[test]
    fn over_recipients_per_day() {
        let (policy, alice, now) = (policy(Limit::Unlimited, at_most(5)), alice(), start());
        assert!(send(&policy, &alice, 1, 3, now).starts_with("allow"));
        assert_eq!(rcpt(&policy, &alice, 4, now), "allow recipients_per_day");
        // What no day has room for is refused.
        let never = "recipients_per_day: 450 4.7.28 limit recipients_per_day = 5 reached, try again with fewer recipients";
        assert_eq!(rcpt(&policy, &alice, 5, now), never);
        assert_eq!(send(&policy, &alice, 2, 6, now), never);
        assert_eq!(
            send(&policy, &alice, 2, 4, now),
            "hold over_limit@78 until 2026-11-22T10:15:00Z: recipients_per_day = 5 of account alice@example.org \
             leaves no room for 4 more"
        );
        // A smaller one would fit, and waits all the same.
        assert_eq!(
            send(&policy, &alice, 3, 1, now),
            "hold over_limit@78 until 2026-11-22T10:15:00Z: another message of account alice@example.org waits before it"
        );
        assert!(send(&policy, &alice, 4, 1, now).contains(" until 2026-11-22T10:15:00Z: "));
        let usage = policy.usage(&alice, now);
        assert_eq!((usage[0].used, usage[1].used), (1, 3));
    }

    #[test]
    fn what_leaves_uses_the_limits_up() {
        let (policy, alice, now) = (policy(at_most(2), at_most(10)), alice(), start());
        assert_eq!(policy.pay(&alice, 4, now), Ok(()));
        assert_eq!(policy.pay(&alice, 6, now), Ok(()));
        let frees = now.wall + MINUTE * 61;
        assert_eq!(policy.pay(&alice, 1, now), Err(frees));
        // One whose limit was lowered since.
        let limited = Account {
            recipients_per_day: Some((at_most(3), origin(5))),
            ..alice.clone()
        };
        let next_day = now.wall + MINUTE * (24 * 60 + 15);
        assert_eq!(policy.pay(&limited, 100, now), Err(frees));
        let later = now.after(MINUTE * 61);
        assert_eq!(policy.pay(&limited, 100, later), Err(next_day));
        let later = now.after(MINUTE * (24 * 60 + 15));
        assert_eq!(policy.pay(&limited, 100, later), Ok(()));
        assert_eq!(policy.usage(&limited, later)[1].used, 3);
        policy.pay_back(&limited, 100, later);
        let usage = policy.usage(&limited, later);
        assert_eq!((usage[0].used, usage[1].used), (0, 0));
    }

    #[test]
    fn a_message_that_was_not_committed_leaves_no_trace() {
        let (policy, alice, now) = (policy(at_most(1), Limit::Unlimited), alice(), start());
        let question = Question::Message { recipients: 2 };
        assert!(matches!(
            policy.decide(&alice, question, now),
            Verdict::Allow(_)
        ));
        for _ in 0..5 {
            let verdict = policy.decide(&alice, question, now);
            assert!(matches!(verdict, Verdict::Hold(_)));
            policy.withdraw(&alice, 2, now);
        }
        assert_eq!(policy.waiting(&alice), Sum::default());
        assert_eq!(policy.usage(&alice, now)[0].used, 1);
        policy.refund(&alice, 2, now);
        assert!(send(&policy, &alice, 1, 2, now).starts_with("allow"));
    }

    /// Whose limits are full says what to do about it; those of a credential refuse.
    #[test]
    fn a_credential_pays_when_it_hands_in() {
        let (policy, alice, now) = (policy(at_most(1), Limit::Unlimited), alice(), start());
        let scanner = Account {
            credential: Some(Arc::new(Credential {
                name: "scanner".to_owned(),
                expires: None,
                allow_from: Vec::new(),
                send_as: Vec::new(),
                rcpt_allow: Vec::new(),
                messages_per_hour: Some((at_most(2), origin(41))),
                recipients_per_day: None,
                note: None,
                origin: origin(40),
            })),
            ..alice.clone()
        };
        assert!(send(&policy, &scanner, 1, 1, now).starts_with("allow"));
        assert!(send(&policy, &scanner, 2, 1, now).starts_with("hold"));
        let refused = send(&policy, &scanner, 3, 1, now);
        assert!(
            refused.starts_with(
                "messages_per_hour@41: 450 4.7.28 limit messages_per_hour = 2 reached"
            ),
            "{refused}"
        );
        assert_eq!(mail(&policy, &scanner, now), refused);
        // The password of the account can go on.
        assert_eq!(mail(&policy, &alice, now), "allow send_as@10");
        let used = |now| {
            let usage = policy.usage(&scanner, now);
            (usage[0].used, usage[2].used)
        };
        assert_eq!(used(now), (1, 2));
        policy.withdraw(&scanner, 1, now);
        assert_eq!(used(now), (1, 1));
        // What leaves is the account's matter.
        let later = now.after(MINUTE * 61);
        assert_eq!(policy.pay(&alice, 1, later), Ok(()));
        assert_eq!(used(later), (1, 0));
    }

    #[test]
    fn an_account_may_want_it_otherwise() {
        let settings = PolicySettings {
            over_limit: (OverLimit::Refuse, None),
            ..settings(at_most(1), Limit::Unlimited)
        };
        let policy = Policy::new(settings, Arc::new(Limiter::default()));
        let (alice, now) = (alice(), start());
        let holding = Account {
            over_limit: Some((OverLimit::Hold, origin(7))),
            ..alice.clone()
        };
        assert!(send(&policy, &holding, 1, 1, now).starts_with("allow"));
        assert!(send(&policy, &holding, 2, 1, now).starts_with("hold over_limit@7 "));
        assert!(send(&policy, &alice, 3, 1, now).starts_with("messages_per_hour@77: 450"));
    }

    /// However many come at once, no more are held than may be.
    #[test]
    fn the_line_is_no_longer_than_it_may_be() {
        for _ in 0..50 {
            let (policy, alice, now) = (policy(at_most(1), Limit::Unlimited), alice(), start());
            let send = || {
                let verdict = policy.decide(&alice, Question::Message { recipients: 1 }, now);
                match verdict {
                    Verdict::Allow(_) => [1, 0, 0],
                    Verdict::Hold(_) => [0, 1, 0],
                    Verdict::Refuse(_) => [0, 0, 1],
                }
            };
            let all = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .fold([0; 3], |sum, one| {
                        [0, 1, 2].map(|index| sum[index] + one[index])
                    })
            });
            assert_eq!(all, [1, 3, 4]);
        }
    }
}
