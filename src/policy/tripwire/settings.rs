//! How much an account may do before it trips: what holds for all, and what it says itself.

use super::{Mode, NETWORKS_MAX, Wire};
use crate::decision::{Account, Limit, Origin, Rule};

/// `[tripwires]`, and where each of it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TripwireSettings {
    /// Whether accounts are watched.
    pub mode: (Mode, Option<Origin>),
    /// Accounts that are not, in their compared form.
    pub exempt: Vec<(String, Option<Origin>)>,
    /// Messages in ten minutes.
    pub messages_per_10_minutes: (Limit, Option<Origin>),
    /// Recipients in an hour that the account never wrote to.
    pub new_recipients_per_hour: (Limit, Option<Origin>),
    /// Networks in an hour: /24 of IPv4, /48 of IPv6.
    pub networks_per_hour: (Limit, Option<Origin>),
    /// Recipients refused for good in an hour.
    pub refused_recipients_per_hour: (Limit, Option<Origin>),
    /// What [`crate::policy::PolicySettings`] has for all: an account that may do more has wires that are as much higher.
    pub messages_per_hour: Limit,
    /// Likewise.
    pub recipients_per_day: Limit,
}

/// How much of something an account may do, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// How much; `None`: as much as it likes.
    pub allowed: Option<u64>,
    /// Where the number is written; `None`: it is the default.
    pub origin: Option<Origin>,
    /// Where the account's own limit is written, if that has raised the number.
    pub raised_by: Option<Origin>,
}

impl TripwireSettings {
    /// How much of it an account may do: what it says itself, else what holds for all, which is as much more for an
    /// account as its own limits are higher.
    pub fn allowance(&self, account: &Account, wire: Wire) -> Allowance {
        let own = account.tripwires.as_deref().and_then(|own| wire.own(own));
        let (limit, origin) = match own {
            Some((limit, origin)) => (*limit, Some(origin.clone())),
            None => self.general(wire).clone(),
        };
        let mut allowance = Allowance {
            allowed: amount(limit),
            origin,
            raised_by: None,
        };
        let raise = match wire {
            _ if own.is_some() => None,
            Wire::Messages => Some((&account.messages_per_hour, self.messages_per_hour)),
            Wire::NewRecipients => Some((&account.recipients_per_day, self.recipients_per_day)),
            Wire::Networks | Wire::RefusedRecipients => None,
        };
        if let (Some(configured), Some((Some((higher, origin)), general))) =
            (allowance.allowed, raise)
            && let Some(raised) = raised(configured, *higher, general)
        {
            allowance.allowed = raised;
            allowance.raised_by = Some(origin.clone());
        }
        if wire == Wire::Networks {
            let countable = NETWORKS_MAX as u64 - 1;
            allowance.allowed = allowance.allowed.map(|allowed| allowed.min(countable));
        }
        allowance
    }

    /// Whether an account is watched, and what says so: of itself, `exempt` and the mode for all, the weakest counts.
    pub fn mode_for(&self, account: &Account) -> (Mode, Rule) {
        let rule = |name, origin: &Option<Origin>| Rule {
            name,
            origin: origin.clone(),
        };
        let (general, origin) = &self.mode;
        let general = (*general, rule("tripwires.mode", origin));
        let mut exempt = self.exempt.iter();
        if let Some((_, origin)) = exempt.find(|(name, _)| *name == account.name)
            && general.0 != Mode::Off
        {
            return (Mode::Off, rule("tripwires.exempt", origin));
        }
        match account
            .tripwires
            .as_deref()
            .and_then(|own| own.mode.as_ref())
        {
            Some((own, origin)) if *own <= general.0 => {
                (*own, rule("tripwires.mode", &Some(origin.clone())))
            }
            _ => general,
        }
    }

    fn general(&self, wire: Wire) -> &(Limit, Option<Origin>) {
        match wire {
            Wire::Messages => &self.messages_per_10_minutes,
            Wire::Networks => &self.networks_per_hour,
            Wire::NewRecipients => &self.new_recipients_per_hour,
            Wire::RefusedRecipients => &self.refused_recipients_per_hour,
        }
    }
}

fn amount(limit: Limit) -> Option<u64> {
    match limit {
        Limit::AtMost(limit) => Some(limit.get()),
        Limit::Unlimited => None,
    }
}

/// What is configured, for an account whose own limit is so much higher than that of all; `None`: as it is.
fn raised(configured: u64, own: Limit, general: Limit) -> Option<Option<u64>> {
    match (own, general) {
        (Limit::Unlimited, _) => Some(None),
        (Limit::AtMost(own), Limit::AtMost(general)) if own > general => {
            let raised = u128::from(configured) * u128::from(own.get()) / u128::from(general.get());
            Some(Some(u64::try_from(raised).unwrap_or(u64::MAX)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::{account, at_most, now, origin, people, settings};
    use super::super::{Deed, Tripwires};
    use super::*;
    use crate::decision::OwnTripwires;

    #[test]
    fn what_an_account_says_of_its_own_wires_counts() {
        let mut settings = settings(Mode::On);
        settings.networks_per_hour.1 = Some(origin());
        let at = |line| Origin { line, ..origin() };
        let own = OwnTripwires {
            messages_per_10_minutes: Some((at_most(3), at(7))),
            networks_per_hour: Some((at_most(5000), at(8))),
            refused_recipients_per_hour: Some((Limit::Unlimited, at(9))),
            ..OwnTripwires::default()
        };
        let account = Account {
            messages_per_hour: Some((at_most(500), at(5))),
            recipients_per_day: Some((at_most(400), at(6))),
            tripwires: Some(Arc::new(own)),
            ..account("a")
        };
        let shown = |wire| {
            let Allowance {
                allowed,
                origin,
                raised_by,
            } = settings.allowance(&account, wire);
            let line = |origin: Option<Origin>| origin.map(|origin| origin.line);
            (allowed, line(origin), line(raised_by))
        };
        // Its own number is not raised, also where its limits are higher.
        assert_eq!(shown(Wire::Messages), (Some(3), Some(7), None));
        assert_eq!(shown(Wire::NewRecipients), (Some(40), None, Some(6)));
        assert_eq!(shown(Wire::Networks), (Some(999), Some(8), None));
        assert_eq!(shown(Wire::RefusedRecipients), (None, Some(9), None));

        let (wires, now) = (Tripwires::default(), now());
        let note = |settings: &TripwireSettings, deed| wires.note(settings, &account, deed, now);
        for _ in 0..50 {
            assert_eq!(note(&settings, Deed::RefusedRecipient), None);
        }
        let recipients = &people(0..1);
        for _ in 0..3 {
            assert_eq!(note(&settings, Deed::Message { recipients }), None);
        }
        let trip = note(&settings, Deed::Message { recipients }).unwrap();
        assert_eq!(
            (trip.wire, trip.count, trip.allowed),
            (Wire::Messages, 4, 3)
        );
    }

    #[test]
    fn the_weakest_mode_counts() {
        let own = |mode| {
            let own = OwnTripwires {
                mode: Some((
                    mode,
                    Origin {
                        line: 7,
                        ..origin()
                    },
                )),
                ..OwnTripwires::default()
            };
            Some(Arc::new(own))
        };
        let general = Some(Origin {
            line: 3,
            ..origin()
        });
        for (name, of_all, of_account, mode, by, line) in [
            ("a", Mode::On, None, Mode::On, "tripwires.mode", 3),
            ("a", Mode::On, own(Mode::On), Mode::On, "tripwires.mode", 7),
            (
                "a",
                Mode::On,
                own(Mode::DryRun),
                Mode::DryRun,
                "tripwires.mode",
                7,
            ),
            (
                "a",
                Mode::On,
                own(Mode::Off),
                Mode::Off,
                "tripwires.mode",
                7,
            ),
            (
                "a",
                Mode::DryRun,
                own(Mode::On),
                Mode::DryRun,
                "tripwires.mode",
                3,
            ),
            (
                "a",
                Mode::Off,
                own(Mode::On),
                Mode::Off,
                "tripwires.mode",
                3,
            ),
            (
                "exempt@example.org",
                Mode::On,
                own(Mode::On),
                Mode::Off,
                "tripwires.exempt",
                1,
            ),
            (
                "exempt@example.org",
                Mode::Off,
                None,
                Mode::Off,
                "tripwires.mode",
                3,
            ),
        ] {
            let mut settings = settings(of_all);
            settings.mode.1.clone_from(&general);
            settings.exempt[0].1 = Some(origin());
            let account = Account {
                tripwires: of_account,
                ..account(name)
            };
            let (is, rule) = settings.mode_for(&account);
            let said = (is, rule.name, rule.origin.map(|origin| origin.line));
            assert_eq!(said, (mode, by, Some(line)));
            let many = people(0..100);
            let deed = Deed::Message { recipients: &many };
            let trip = Tripwires::default().note(&settings, &account, deed, now());
            let expected = Some(mode).filter(|mode| *mode != Mode::Off);
            assert_eq!(trip.map(|trip| trip.mode), expected);
        }
    }
}
