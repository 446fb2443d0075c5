//! The guard: who tries to guess passwords, and what is done about it.
//!
//! It knows addresses, names of accounts, fingerprints of secrets and the clock that it is given; whether a login is
//! right it is told. The server asks it at the door ([`Guard::admit`]) and before a login is checked
//! ([`Guard::before`]), and tells it how that ended ([`Guard::accepted`], [`Guard::refused`]).
//!
//! # What counts
//!
//! Failures are counted for each *address* (of IPv6: each /64), each *account*, and each *login*, which is the pair of
//! both; and for the network around an address (/24, /48). A secret that was tried before for the same login counts
//! once: that is a phone with an old password, and no guess. Names of accounts that do not exist count like others, so
//! that no answer tells which do.
//!
//! # What follows
//!
//! - Each further failure waits longer for its answer.
//! - Too many failures of a login, or of an address, and it is banned for a while, for twice as long each time that this
//!   comes again. So is a /48 whose many /64 together go too far.
//! - Too many failures of an account, from wherever: strangers may try it a few times each from then on. It is never
//!   closed to somebody who has not tried yet: else whoever guesses could lock its owner out.
//! - While not all logins can be checked at once, those who failed wait for the others ([`Standing`]).
//!
//! # Whom it spares
//!
//! An account that has logged in from an address is *known* there. What others did at that address, or to that account
//! from elsewhere, is not held against it: only its own failures are. Where most of what is known comes from one address,
//! that is a proxy or a translation of addresses, and a ban would shut out everybody: none is carried out there, and the
//! operator is told.
//!
//! # Bounds
//!
//! Every table has one (constants below), and what would be missed least makes room. All of them together take some
//! 12 MiB when they are full. Bans and what is known outlast a restart; counts do not.

use std::net::IpAddr;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::clock::{Instant, Now, Timestamp};
use crate::decision::Standing;
use crate::event::{ServerEvent, limit_key};
use crate::kept::{Held, Kept};

mod bans;
mod counts;
mod file;
mod known;
mod network;
mod table;

pub use bans::{BanView, Lift, NotLiftable};
pub use file::GUESSING_FILE;

use bans::{Ban, Subject};
use counts::{Count, Tries};
use known::Known;
use network::{around, own, shown};
use table::Table;

/// Addresses, networks around them, and logins whose failures are counted, each.
const PLACES_MAX: usize = 7 << 12;
/// Accounts whose failures are counted, whether they exist or not.
const ACCOUNTS_MAX: usize = 7 << 11;
/// Bans, those that are over and not yet forgiven included.
const BANS_MAX: usize = 7 << 12;
/// The wait for the answer to a second failure. It doubles with each further one.
const DELAY_FIRST: Duration = Duration::from_millis(250);
/// How often a stranger may try an account that many try: what people need who do not know which password it was.
const STRANGERS_TRIES: u32 = 3;
/// How many times the failures of an address a /48 may have.
const AROUND_FACTOR: u32 = 10;
/// From how many failures in the network around it on an address that has none itself is no longer above suspicion.
const SUSPICIOUS_NEIGHBOURS: u32 = 3;
/// An address is shared by most clients if it has this part of all that is known, in percent...
const SHARED_PERCENT: usize = 80;
/// ...and at least so many accounts; fewer, if it is of a kind that is shared by design.
const SHARED_ACCOUNTS_MIN: usize = 5;
const SHARED_ACCOUNTS_MIN_PRIVATE: usize = 2;
/// How often the log says that somebody who is banned comes again and again.
const REPORT_EVERY_SECONDS: u32 = 60;

/// What an operator can set about the guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuessingSettings {
    /// Whether it does anything.
    pub mode: Mode,
    /// Networks that are never delayed or banned.
    pub exempt: Vec<IpNet>,
    /// Failures of one address before it is banned.
    pub failures_per_address: u32,
    /// Failures of one account from one address before that pair is banned.
    pub failures_per_login: u32,
    /// Failures of one account, from wherever, from which on strangers may not try it often.
    pub failures_per_account: u32,
    /// The time within which they are counted.
    pub window: Duration,
    /// The longest wait for the answer to a failed login; `None`: no wait at all.
    pub delay_max: Option<Duration>,
    /// The first ban.
    pub ban_for: Duration,
    /// The longest.
    pub ban_max: Duration,
    /// How long a login that succeeded is known.
    pub known_for: Duration,
}

impl Default for GuessingSettings {
    fn default() -> Self {
        Self {
            mode: Mode::On,
            exempt: Vec::new(),
            failures_per_address: 20,
            failures_per_login: 10,
            failures_per_account: 100,
            window: Duration::from_secs(60 * 60),
            delay_max: Some(Duration::from_secs(5)),
            ban_for: Duration::from_secs(10 * 60),
            ban_max: Duration::from_secs(24 * 60 * 60),
            known_for: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}

impl GuessingSettings {
    fn exempts(&self, client: IpAddr) -> bool {
        self.exempt.iter().any(|network| network.contains(&client))
    }
}

/// Whether the guard does anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It delays and bans.
    #[default]
    On,
    /// It says whom it would ban, and does nothing.
    LogOnly,
    /// It counts nothing. It still learns what is known, for when it is turned on.
    Off,
}

impl Mode {
    /// The word of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::LogOnly => "log-only",
            Self::Off => "off",
        }
    }
}

/// What stands for the name of an account: its HMAC-SHA-256 under a key of ours, the first half.
type AccountKey = [u8; 16];

/// An account at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Login {
    /// A [`limit_key`].
    source: IpAddr,
    account: AccountKey,
}

/// Somebody who wants to log in.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    client: IpAddr,
    login: Login,
    /// What stands for the secret that was tried, where there is one that can be compared.
    secret: Option<u32>,
}

/// Somebody at the door is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shut {
    /// How many were turned away there since the log last said so, this one included; `None` while that was not long
    /// ago.
    pub report: Option<u64>,
}

/// A login is not checked, whatever the secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// For the log.
    pub reason: &'static str,
    /// What came of it.
    pub events: Vec<ServerEvent>,
}

/// What follows from a failed login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consequence {
    /// How long its answer waits.
    pub delay: Duration,
    /// What came of it.
    pub events: Vec<ServerEvent>,
}

/// The guard in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Whether it does anything.
    pub mode: Mode,
    /// Bans in force.
    pub bans: usize,
    /// Logins that are known.
    pub known: usize,
    /// The address that most clients share, where no ban is carried out.
    pub shared: Option<String>,
}

/// Who tries to guess passwords. Shared by all threads; every question is answered under one lock, which is held for
/// microseconds, and for milliseconds when a table makes room.
pub struct Guard {
    settings: ArcSwap<GuessingSettings>,
    kept: Kept<State>,
    /// Makes [`AccountKey`]s, the same after a restart.
    account_key: hmac::Key,
    /// Makes fingerprints of secrets, of no use to anybody after this process.
    secret_key: hmac::Key,
    began: Instant,
}

struct State {
    key: Zeroizing<[u8; file::KEY_BYTES]>,
    addresses: Table<IpAddr, Count>,
    around: Table<IpNet, Count>,
    accounts: Table<AccountKey, Count>,
    logins: Table<Login, Tries>,
    bans: Table<Subject, Ban>,
    known: Known,
    /// The shared address that the operator was told of.
    shared_told: Option<IpAddr>,
}

/// One moment as the tables count.
#[derive(Clone, Copy)]
struct Moment {
    /// Seconds of this process, for counts.
    running: u32,
    /// Seconds since 1970, for what outlasts it.
    wall: i64,
}

impl State {
    fn new(key: Zeroizing<[u8; file::KEY_BYTES]>) -> Self {
        Self {
            key,
            addresses: Table::new(PLACES_MAX),
            around: Table::new(PLACES_MAX),
            accounts: Table::new(ACCOUNTS_MAX),
            logins: Table::new(PLACES_MAX),
            bans: Table::new(BANS_MAX),
            known: Known::default(),
            shared_told: None,
        }
    }

    /// How many accounts share this address, if most clients come from it.
    fn shared_by(&self, source: IpAddr) -> Option<usize> {
        let accounts = self.known.at(source);
        let least = match network::is_private(source) {
            true => SHARED_ACCOUNTS_MIN_PRIVATE,
            false => SHARED_ACCOUNTS_MIN,
        };
        let most = accounts * 100 >= self.known.len() * SHARED_PERCENT;
        (accounts >= least && most).then_some(accounts)
    }

    /// The ban of an address that is in force.
    fn ban_of(&mut self, source: IpAddr, now: Moment) -> Option<&mut Ban> {
        let subject = [own(source), around(source)]
            .map(Subject::Network)
            .into_iter()
            .find(|subject| self.is_banned(subject, now))?;
        self.bans.get_mut(&subject)
    }

    fn is_banned(&self, subject: &Subject, now: Moment) -> bool {
        let ban = self.bans.get(subject);
        ban.is_some_and(|ban| ban.is_in_force(now.wall))
    }

    /// Counts a guess where it came from.
    fn count_place(&mut self, source: IpAddr, window: u32, now: Moment) -> (u32, u32) {
        let fresh = || Count::new(now.running);
        let address = self.addresses.entry(source, now.running, fresh, |_, _| {});
        let of_address = address.add(window, now.running);
        let around = around(source);
        let around = self.around.entry(around, now.running, fresh, |_, _| {});
        (of_address, around.add(window, now.running))
    }

    /// Bans a place if its guesses are too many.
    fn judge_place(
        &mut self,
        source: IpAddr,
        (of_address, of_around): (u32, u32),
        settings: &GuessingSettings,
        now: Moment,
    ) -> Vec<ServerEvent> {
        let mut events = Vec::new();
        if of_address >= settings.failures_per_address {
            let subject = Subject::Network(own(source));
            events.extend(self.ban(subject, of_address, None, source, settings, now));
            self.addresses.remove(&source);
        }
        let around_max = settings.failures_per_address.saturating_mul(AROUND_FACTOR);
        if source.is_ipv6() && of_around >= around_max {
            let subject = Subject::Network(around(source));
            events.extend(self.ban(subject, of_around, None, source, settings, now));
            self.around.remove(&around(source));
        }
        events
    }

    /// Bans, unless it is banned already. `source` is where the last straw came from.
    fn ban(
        &mut self,
        subject: Subject,
        failures: u32,
        account: Option<&str>,
        source: IpAddr,
        settings: &GuessingSettings,
        now: Moment,
    ) -> Vec<ServerEvent> {
        let fresh = || Ban::default();
        let wall = u32::try_from(now.wall).unwrap_or(0);
        let ban = self.bans.entry(subject, wall, fresh, |_, _| {});
        if ban.is_in_force(now.wall) {
            return Vec::new();
        }
        ban.begin(failures, account, settings, now.wall);
        let seconds = ban.seconds();
        let shared = self.shared_by(source);
        let mut events = vec![ServerEvent::Banned {
            network: shown(&subject.network()),
            account: account.map(str::to_owned),
            is_login: matches!(subject, Subject::Login(_)),
            known: self.known.within(&subject.network()),
            failures,
            seconds,
            enforced: settings.mode == Mode::On && shared.is_none(),
        }];
        if let Some(accounts) = shared
            && self.shared_told.replace(source) != Some(source)
        {
            events.push(ServerEvent::SharedAddress {
                network: shown(&own(source)),
                accounts,
            });
        }
        events
    }
}

impl Guard {
    /// A guard that forgets everything with the process.
    pub fn in_memory(settings: GuessingSettings, now: Now) -> Self {
        Self::new(
            Kept::in_memory(State::new(file::fresh_key())),
            settings,
            now,
        )
    }

    fn new(kept: Kept<State>, settings: GuessingSettings, now: Now) -> Self {
        let account_key = hmac::Key::new(hmac::HMAC_SHA256, kept.lock().key.as_slice());
        let secret_key = hmac::Key::new(hmac::HMAC_SHA256, file::fresh_key().as_slice());
        Self {
            settings: ArcSwap::from_pointee(settings),
            kept,
            account_key,
            secret_key,
            began: now.instant,
        }
    }

    /// From now on these settings hold. Bans that are in force stay.
    pub fn apply(&self, settings: GuessingSettings) {
        self.settings.store(settings.into());
    }

    /// Whether a client may come in. To be asked as soon as its address is known, before anything is spent on it.
    ///
    /// Where an account is known nobody is stopped at the door: who it is shows at its login.
    pub fn admit(&self, client: IpAddr, now: Now) -> Result<(), Shut> {
        let settings = self.settings.load();
        let client = client.to_canonical();
        if settings.mode != Mode::On || settings.exempts(client) {
            return Ok(());
        }
        let (source, moment) = (limit_key(client), self.moment(now));
        let mut state = self.kept.lock();
        if state.known.at(source) > 0 {
            return Ok(());
        }
        match state.ban_of(source, moment) {
            None => Ok(()),
            Some(ban) => Err(Shut {
                report: ban.turn_away(moment.running),
            }),
        }
    }

    /// Whether somebody has logged in from there not long ago.
    pub fn knows(&self, client: IpAddr) -> bool {
        self.kept.lock().known.at(limit_key(client)) > 0
    }

    /// Somebody at `client` wants to log in as `name`, prepared. `secret` is what is tried; `None` where no two tries
    /// look the same, as with SCRAM.
    pub fn attempt(&self, client: IpAddr, name: &str, secret: Option<&[u8]>) -> Attempt {
        let login = self.login(client, name);
        let fingerprint =
            |secret: &[u8]| u32::from_le_bytes(first_octets(&hmac::sign(&self.secret_key, secret)));
        Attempt {
            client: client.to_canonical(),
            login,
            secret: secret.map(fingerprint),
        }
    }

    fn login(&self, client: IpAddr, name: &str) -> Login {
        Login {
            source: limit_key(client),
            account: first_octets(&hmac::sign(&self.account_key, name.as_bytes())),
        }
    }

    /// Whether the login may be checked, and who goes before whom. An error says nothing about the secret, which was
    /// not looked at.
    pub fn before(&self, attempt: &Attempt, now: Now) -> Result<Standing, TurnedAway> {
        let settings = self.settings.load();
        let Attempt { login, .. } = *attempt;
        let moment = self.moment(now);
        let window = whole_seconds(settings.window);
        let mut state = self.kept.lock();
        let is_known = state.known.has(&login, known_since(&settings, moment));
        let is_exempt = settings.exempts(attempt.client);
        if settings.mode == Mode::On && !is_exempt && state.shared_by(login.source).is_none() {
            let of_login = state.is_banned(&Subject::Login(login), moment);
            let of_place = !is_known && state.ban_of(login.source, moment).is_some();
            if of_login || of_place {
                let events = go_on(&mut state, attempt, &settings, moment);
                let reason = match of_login {
                    true => "this account is banned from this address",
                    false => "this address is banned",
                };
                return Err(TurnedAway { reason, events });
            }
        }
        let own_failures = state
            .logins
            .get(&login)
            .map_or(0, |tries| tries.guesses(window, moment.running));
        let count =
            |count: Option<&Count>| count.map_or(0, |count| count.current(window, moment.running));
        let suspicious = count(state.addresses.get(&login.source)) > 0
            || count(state.around.get(&around(login.source))) >= SUSPICIOUS_NEIGHBOURS
            || state
                .bans
                .get(&Subject::Network(own(login.source)))
                .is_some_and(|ban| !ban.is_forgiven(moment.wall));
        Ok(match (is_known, own_failures) {
            (true, 0) => Standing::Known,
            (true, 1..STRANGERS_TRIES) => Standing::New,
            (false, 0) if !suspicious || is_exempt => Standing::New,
            _ => Standing::Suspect,
        })
    }

    /// A login has succeeded, as the account of this name.
    pub fn accepted(&self, client: IpAddr, account: &str, now: Now) {
        let login = self.login(client, account);
        let moment = self.moment(now);
        let mut state = self.kept.lock();
        if state.known.add(login, moment.wall) {
            state.changed();
        }
        // Its failures go on to count: whoever shares the address may guess while the owner logs in.
        if let Some(tries) = state.logins.get_mut(&login) {
            tries.tries = 0;
        }
    }

    /// A login has failed, for whatever reason. `name` is the account, where it is fit for a log.
    pub fn refused(&self, attempt: &Attempt, name: Option<&str>, now: Now) -> Consequence {
        let settings = self.settings.load();
        if settings.mode == Mode::Off || settings.exempts(attempt.client) {
            return Consequence::default();
        }
        let Login { source, account } = attempt.login;
        let moment = self.moment(now);
        let window = whole_seconds(settings.window);
        let mut held = self.kept.lock();
        let state = &mut *held;
        let is_known = state
            .known
            .has(&attempt.login, known_since(&settings, moment));
        let fresh = || Tries::new(moment.running);
        let tries = state
            .logins
            .entry(attempt.login, moment.running, fresh, |_, _| {});
        let is_guess = tries.add(attempt.secret, window, moment.running);
        let (tried, guesses) = (tries.tries, tries.guesses(window, moment.running));
        let current =
            |count: Option<&Count>| count.map_or(0, |count| count.current(window, moment.running));
        let mut events = Vec::new();
        let of_address = if is_guess {
            let place = state.count_place(source, window, moment);
            let of_account = match is_known {
                true => current(state.accounts.get(&account)),
                false => {
                    let fresh = || Count::new(moment.running);
                    let count = state
                        .accounts
                        .entry(account, moment.running, fresh, |_, _| {});
                    count.add(window, moment.running)
                }
            };
            let is_hunted = !is_known && of_account >= settings.failures_per_account;
            let allowed = match is_hunted {
                true => settings.failures_per_login.min(STRANGERS_TRIES),
                false => settings.failures_per_login,
            };
            if guesses >= allowed {
                let subject = Subject::Login(attempt.login);
                events = state.ban(subject, guesses, name, source, &settings, moment);
                if let Some(tries) = state.logins.get_mut(&attempt.login) {
                    tries.begin_anew();
                }
            }
            events.extend(state.judge_place(source, place, &settings, moment));
            place.0
        } else {
            current(state.addresses.get(&source))
        };
        if !events.is_empty() {
            held.changed();
        }
        let failures = match is_known {
            true => tried,
            false => tried.max(of_address),
        };
        let delay = match settings.mode {
            Mode::On => delay(failures, settings.delay_max.unwrap_or_default()),
            Mode::LogOnly | Mode::Off => Duration::ZERO,
        };
        Consequence { delay, events }
    }

    /// The guard in numbers.
    pub fn summary(&self, now: Now) -> Summary {
        let moment = self.moment(now);
        let state = self.kept.lock();
        let in_force = |(_, ban): &(&Subject, &Ban)| ban.is_in_force(moment.wall);
        Summary {
            mode: self.settings.load().mode,
            bans: state.bans.iter().filter(in_force).count(),
            known: state.known.len(),
            shared: state
                .shared_told
                .filter(|source| state.shared_by(*source).is_some())
                .map(|source| shown(&own(source))),
        }
    }

    fn moment(&self, now: Now) -> Moment {
        let running = now.instant.saturating_duration_since(self.began);
        Moment {
            running: whole_seconds(running),
            wall: now.wall.as_second(),
        }
    }
}

/// Somebody who is banned goes on: what would have been a guess brings the place nearer to a ban of its own.
fn go_on(
    state: &mut Held<'_, State>,
    attempt: &Attempt,
    settings: &GuessingSettings,
    now: Moment,
) -> Vec<ServerEvent> {
    let window = whole_seconds(settings.window);
    let fresh = || Tries::new(now.running);
    let tries = state
        .logins
        .entry(attempt.login, now.running, fresh, |_, _| {});
    if !tries.add(attempt.secret, window, now.running) {
        return Vec::new();
    }
    tries.begin_anew();
    let place = state.count_place(attempt.login.source, window, now);
    let events = state.judge_place(attempt.login.source, place, settings, now);
    if !events.is_empty() {
        state.changed();
    }
    events
}

/// From when on a login that succeeded counts as known.
fn known_since(settings: &GuessingSettings, now: Moment) -> i64 {
    now.wall - i64::from(whole_seconds(settings.known_for))
}

/// How long the answer to this failure in a row waits.
fn delay(failures: u32, longest: Duration) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        _ => {
            // Beyond this it is longer than the longest in any case.
            let doublings = (failures - 2).min(16);
            (DELAY_FIRST * (1 << doublings)).min(longest)
        }
    }
}

fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

fn first_octets<const N: usize>(tag: &hmac::Tag) -> [u8; N] {
    let mut octets = [0; N];
    octets.copy_from_slice(&tag.as_ref()[..N]);
    octets
}

fn timestamp(wall: i64) -> Timestamp {
    Timestamp::from_second(wall).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
