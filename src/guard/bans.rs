//! Bans: of networks, and of an account at an address.

use std::cmp::Reverse;
use std::str::FromStr;

use ipnet::IpNet;
use serde::Serialize;

use super::network::{overlap, own, parse, shown};
use super::table::Entry;
use super::{
    Guard, GuessingSettings, Login, Mode, Moment, REPORT_EVERY_SECONDS, State, timestamp,
    whole_seconds,
};
use crate::clock::{Now, rfc3339_milliseconds};
use crate::event::limit_key;

/// No ban is longer, in seconds: one that seems to be comes from damage, or from a clock that was wrong.
pub(super) const SECONDS_MAX: i64 = 366 * 24 * 60 * 60;

/// Who is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// Everybody there who is not known.
    Network(IpNet),
    /// One account at one address.
    Login(Login),
}

impl Subject {
    pub(super) fn network(&self) -> IpNet {
        match self {
            Self::Network(network) => *network,
            Self::Login(login) => own(login.source),
        }
    }
}

/// A ban, in force or over and not forgiven. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ban {
    pub(super) since: i64,
    pub(super) until: i64,
    /// Until then another one is longer.
    pub(super) forgiven: i64,
    /// How many there were before it.
    pub(super) earlier: u32,
    /// The failures that led to it.
    pub(super) failures: u32,
    /// Whose login it is, where that may be shown.
    pub(super) account: Option<Box<str>>,
    /// How many connections it has turned away.
    pub(super) refused: u64,
    /// Those of them that the log does not have yet, and when it was last told, in seconds of this process.
    pub(super) unreported: u64,
    pub(super) reported: Option<u32>,
}

impl Ban {
    pub(super) fn is_in_force(&self, wall: i64) -> bool {
        wall < self.until && self.until - wall <= SECONDS_MAX
    }

    pub(super) fn is_forgiven(&self, wall: i64) -> bool {
        wall >= self.forgiven || self.forgiven - wall > 2 * SECONDS_MAX
    }

    /// How long it is.
    pub(super) fn seconds(&self) -> u64 {
        u64::try_from(self.until - self.since).unwrap_or(0)
    }

    /// It begins now, and is longer than those before that are not forgiven.
    pub(super) fn begin(
        &mut self,
        failures: u32,
        account: Option<&str>,
        settings: &GuessingSettings,
        wall: i64,
    ) {
        let earlier = match self.until > 0 && !self.is_forgiven(wall) {
            true => self.earlier.saturating_add(1),
            false => 0,
        };
        let longest = i64::from(whole_seconds(settings.ban_max));
        // Beyond this it is longer than the longest in any case.
        let doublings = earlier.min(30);
        let seconds = i64::from(whole_seconds(settings.ban_for)) << doublings;
        let until = wall + seconds.min(longest);
        *self = Self {
            since: wall,
            until,
            forgiven: until + longest,
            earlier,
            failures,
            account: account.map(Into::into),
            ..Self::default()
        };
    }

    /// Turns one away. The first, and from then on now and then one, is to be reported, with the number of those who
    /// were not.
    pub(super) fn turn_away(&mut self, running: u32) -> Option<u64> {
        self.refused += 1;
        self.unreported += 1;
        let is_due = self
            .reported
            .is_none_or(|last| running.saturating_sub(last) >= REPORT_EVERY_SECONDS);
        is_due.then(|| {
            self.reported = Some(running);
            std::mem::take(&mut self.unreported)
        })
    }
}

impl Entry for Ban {
    fn is_over(&self, now: u32) -> bool {
        self.is_forgiven(i64::from(now))
    }

    fn weight(&self) -> u64 {
        u64::try_from(self.until).unwrap_or(0)
    }
}

/// A ban as an operator sees it. Its JSON is that of `gatepost ban list --json`; fields are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BanView {
    /// An address or a network.
    pub network: String,
    /// `network`: everybody there who is not known; `login`: one account there.
    pub kind: &'static str,
    /// Whose login it is; `null` for networks, and for names that do not belong on a screen.
    pub account: Option<String>,
    /// When it began, as RFC 3339 has it.
    pub since: String,
    /// When it ends.
    pub until: String,
    /// How many bans there were before it that still make it longer.
    pub earlier: u32,
    /// The failures that led to it.
    pub failures: u32,
    /// The connections that it has turned away.
    pub refused: u64,
    /// Whether it is carried out.
    pub enforced: bool,
}

/// What an operator wants to lift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lift {
    /// Every ban.
    All,
    /// Those of a network, of what is within it, and of what it is within.
    Network(IpNet),
}

/// A text is neither an address nor a network nor `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither an address nor a network nor `all`")]
pub struct NotLiftable;

impl FromStr for Lift {
    type Err = NotLiftable;

    fn from_str(text: &str) -> Result<Self, NotLiftable> {
        match text {
            "all" => Ok(Self::All),
            text => parse(text).map(Self::Network).ok_or(NotLiftable),
        }
    }
}

impl Lift {
    fn covers(&self, network: &IpNet) -> bool {
        match self {
            Self::All => true,
            Self::Network(wanted) => overlap(wanted, network),
        }
    }
}

impl Guard {
    /// The bans in force, those that end last first.
    pub fn bans(&self, now: Now) -> Vec<BanView> {
        let (settings, moment) = (self.settings.load(), self.moment(now));
        let state = self.kept.lock();
        let mut bans: Vec<_> = state
            .bans
            .iter()
            .filter(|(_, ban)| ban.is_in_force(moment.wall))
            .collect();
        bans.sort_by_key(|(subject, ban)| {
            let kind = matches!(subject, Subject::Login(_));
            (Reverse(ban.until), subject.network(), kind, ban.failures)
        });
        let view = |(subject, ban): (&Subject, &Ban)| state.view(subject, ban, &settings);
        bans.into_iter().map(view).collect()
    }

    /// Lifts bans, forgives what was before, and gives those that were in force.
    pub fn lift(&self, wanted: &Lift, now: Now) -> Vec<BanView> {
        let lifted: Vec<_> = {
            let bans = self.bans(now).into_iter();
            let is_meant =
                |ban: &BanView| parse(&ban.network).is_some_and(|network| wanted.covers(&network));
            bans.filter(is_meant).collect()
        };
        let mut state = self.kept.lock();
        state
            .bans
            .retain(|subject, _| !wanted.covers(&subject.network()));
        state
            .addresses
            .retain(|source, _| !wanted.covers(&own(*source)));
        state.around.retain(|network, _| !wanted.covers(network));
        state
            .logins
            .retain(|login, _| !wanted.covers(&own(login.source)));
        state.changed();
        lifted
    }

    /// The ban that would keep this account from logging in from there now. Nothing is counted.
    pub fn foresee(&self, client: std::net::IpAddr, name: &str, now: Now) -> Option<BanView> {
        let (settings, moment) = (self.settings.load(), self.moment(now));
        let login = self.login(client, name);
        let state = self.kept.lock();
        let is_known = state
            .known
            .has(&login, super::known_since(&settings, moment));
        let networks = [own(login.source), super::around(login.source)].map(Subject::Network);
        let subjects = networks.iter().filter(|_| !is_known);
        let of_login = Subject::Login(login);
        let subject = [&of_login]
            .into_iter()
            .chain(subjects)
            .find(|subject| state.is_banned(subject, moment))?;
        let view = state.view(subject, state.bans.get(subject)?, &settings);
        let spared = settings.exempts(client.to_canonical()) || !view.enforced;
        (!spared).then_some(view)
    }

    /// How many bans are known, over or not.
    #[cfg(test)]
    pub(super) fn remembered_bans(&self) -> usize {
        self.kept.lock().bans.len()
    }
}

impl State {
    fn view(&self, subject: &Subject, ban: &Ban, settings: &GuessingSettings) -> BanView {
        let time = |wall| rfc3339_milliseconds(timestamp(wall));
        let (kind, source) = match subject {
            Subject::Network(network) => ("network", limit_key(network.addr())),
            Subject::Login(login) => ("login", login.source),
        };
        BanView {
            network: shown(&subject.network()),
            kind,
            account: ban.account.as_deref().map(str::to_owned),
            since: time(ban.since),
            until: time(ban.until),
            earlier: ban.earlier,
            failures: ban.failures,
            refused: ban.refused,
            enforced: settings.mode == Mode::On && self.shared_by(source).is_none(),
        }
    }

    /// Forgets what has no consequence any more.
    pub(super) fn forget(&mut self, settings: &GuessingSettings, now: Moment) {
        self.bans.retain(|_, ban| !ban.is_forgiven(now.wall));
        self.known.forget_before(super::known_since(settings, now));
    }
}
