//! Trip wires: what an account does that its owner would hardly do, and a thief of its password would.
//!
//! Four things are counted for each account: messages, recipients that it never wrote to before, networks that it comes
//! from, and recipients that were refused for good. More of one than is configured is a [`Trip`]; what follows from it is
//! for the caller. Nothing here says anything about limits: those refuse what is too much, and stay.
//!
//! Whom an account wrote to before is known by short keyed digests, so that the file tells nobody's correspondence to
//! whoever reads it without the key that is in it. All memory is bounded, by account and in all. The file is saved now and
//! then: a crash forgets the last seconds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::window::{Span, Window};
use crate::clock::Now;
pub use crate::decision::TripwireMode as Mode;
use crate::decision::{Account, Limit, Origin, OwnTripwires};
use crate::diagnostic::Finding;
use crate::kept::{Held, Kept, damaged};

mod settings;

pub use settings::{Allowance, TripwireSettings};

/// The name of the file, in the queue directory.
pub const TRIPWIRES_FILE: &str = "tripwires.json";
/// The version of the file that this program writes.
const STATE_VERSION: u32 = 1;
/// Recipients that are known of one account, and as many again until the older half of them is forgotten.
const KNOWN_HALF_MAX: usize = 10_000;
/// Recipients that are known in all; 8 octets each, and what a set needs besides.
const KNOWN_IN_ALL_MAX: usize = 1_000_000;
/// Networks of one account that are told from each other: no configured number above this is ever reached.
pub const NETWORKS_MAX: usize = 1_000;
/// Accounts that did nothing for so long are forgotten.
const FORGET_AFTER_SECONDS: i64 = 180 * 24 * 60 * 60;
/// In a dry run an account is told once in this time.
const QUIET_SECONDS: i64 = 60 * 60;
/// What counts as one place that somebody comes from.
const NETWORK_BITS: (u8, u8) = (24, 48);

const TEN_MINUTES: Span = Span {
    bucket_seconds: 30,
    buckets: 20,
};

/// What an account has done, or is about to.
#[derive(Clone, Copy, Debug)]
pub enum Deed<'a> {
    /// It logs in from there.
    Login {
        /// The client's address.
        client: IpAddr,
    },
    /// It hands in a message.
    Message {
        /// All recipients, as they were written.
        recipients: &'a [String],
    },
    /// A recipient was refused for good.
    RefusedRecipient,
}

/// An account did more of something than is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trip {
    /// Who it is.
    pub account: String,
    /// Which wire, by its configuration key.
    pub wire: Wire,
    /// How much it was.
    pub count: u64,
    /// How much might have been.
    pub allowed: u64,
    /// What follows: never [`Mode::Off`].
    pub mode: Mode,
}

/// One of the trip wires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Too many messages.
    Messages,
    /// From too many networks.
    Networks,
    /// To too many whom it did not know.
    NewRecipients,
    /// Too many recipients refused.
    RefusedRecipients,
}

impl Wire {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Messages,
        Self::NewRecipients,
        Self::Networks,
        Self::RefusedRecipients,
    ];

    /// The configuration key.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages_per_10_minutes",
            Self::Networks => "networks_per_hour",
            Self::NewRecipients => "new_recipients_per_hour",
            Self::RefusedRecipients => "refused_recipients_per_hour",
        }
    }

    /// What an account says of it.
    pub fn own(self, tripwires: &OwnTripwires) -> Option<&(Limit, Origin)> {
        match self {
            Self::Messages => tripwires.messages_per_10_minutes.as_ref(),
            Self::Networks => tripwires.networks_per_hour.as_ref(),
            Self::NewRecipients => tripwires.new_recipients_per_hour.as_ref(),
            Self::RefusedRecipients => tripwires.refused_recipients_per_hour.as_ref(),
        }
    }
}

/// What the accounts did lately. Shared by all threads.
#[derive(Debug)]
pub struct Tripwires {
    kept: Kept<Watched>,
}

#[derive(Debug)]
struct Watched {
    /// `None` where there is no randomness: then nobody's recipients are new.
    key: Option<Vec<u8>>,
    accounts: HashMap<String, Doings>,
    /// Recipients that are known, in all.
    known: usize,
}

/// What one account did.
#[derive(Debug, Default)]
struct Doings {
    messages: Window,
    new_recipients: Window,
    refused_recipients: Window,
    /// Where it came from, and when it was seen there last, in seconds.
    networks: HashMap<IpNet, i64>,
    known: HashSet<u64>,
    /// Those that were known before the set above was full and begun anew.
    known_before: HashSet<u64>,
    /// When it did anything, in seconds.
    last: i64,
    /// In a dry run: until when it is not told again.
    quiet_until: i64,
}

impl Default for Tripwires {
    fn default() -> Self {
        Self {
            kept: Kept::in_memory(fresh()),
        }
    }
}

fn fresh() -> Watched {
    let mut key = vec![0; 32];
    Watched {
        key: getrandom::fill(&mut key).ok().map(|()| key),
        accounts: HashMap::new(),
        known: 0,
    }
}

impl Tripwires {
    /// Takes up the file at `path`, if there is one. One that cannot be read is put aside, with a warning. Blocks on the
    /// disk.
    pub fn open(path: &Path, now: Now) -> (Self, Option<Finding>) {
        let (tripwires, finding) = Self::look_into(path, now);
        let finding = finding.map(|finding| tripwires.kept.put_aside(finding));
        (tripwires, finding)
    }

    /// The same for whoever only looks.
    pub fn look_into(path: &Path, now: Now) -> (Self, Option<Finding>) {
        let loss = "cannot read what the trip wires have seen, watching begins anew";
        let restore = |file| restore(file, now);
        let (kept, finding) = Kept::look_into(path, STATE_VERSION, loss, fresh, restore);
        (Self { kept }, finding)
    }

    /// Writes it to its file, if anything changed. Blocks on the disk.
    pub fn save(&self, now: Now) -> io::Result<bool> {
        self.kept.save(|watched| {
            watched.forget_idle(now);
            content(watched)
        })
    }

    /// Counts what an account does, and says if that is too much: in a dry run once in an hour, else again and again, until
    /// it has passed or the account is [forgiven](Self::forgive).
    pub fn note(
        &self,
        settings: &TripwireSettings,
        account: &Account,
        deed: Deed<'_>,
        now: Now,
    ) -> Option<Trip> {
        let (mode, _) = settings.mode_for(account);
        if mode == Mode::Off {
            return None;
        }
        let mut watched = self.lock();
        let counted = watched.count(&account.name, deed, now);
        watched.changed();
        let over = counted.into_iter().find_map(|(wire, count)| {
            let allowed = settings.allowance(account, wire).allowed?;
            (count > allowed).then(|| Trip {
                account: account.name.clone(),
                wire,
                count,
                allowed,
                mode,
            })
        })?;
        let doings = watched.accounts.get_mut(&account.name)?;
        let second = now.wall.as_second();
        if mode == Mode::DryRun {
            if second < doings.quiet_until {
                return None;
            }
            doings.quiet_until = second + QUIET_SECONDS;
        }
        Some(over)
    }

    /// The last message of the account was not accepted after all, by no fault of its own: the same again is no other one.
    pub fn take_back(&self, account: &str) {
        let mut watched = self.lock();
        if let Some(doings) = watched.accounts.get_mut(account) {
            doings.messages.take_back(1);
            watched.changed();
        }
    }

    /// What counts now is not held against the account any more; whom it knows it still knows.
    pub fn forgive(&self, account: &str) {
        let mut watched = self.lock();
        if let Some(doings) = watched.accounts.get_mut(account) {
            doings.messages = Window::default();
            doings.new_recipients = Window::default();
            doings.refused_recipients = Window::default();
            doings.networks.clear();
            doings.quiet_until = 0;
            watched.changed();
        }
    }

    /// How much of each an account has done that counts now.
    pub fn counts(&self, account: &str, now: Now) -> [(Wire, u64); 4] {
        let mut watched = self.lock();
        let mut none = Doings::default();
        let doings = watched.accounts.get_mut(account).unwrap_or(&mut none);
        Wire::ALL.map(|wire| (wire, doings.used(wire, now)))
    }

    fn lock(&self) -> Held<'_, Watched> {
        self.kept.lock()
    }
}

impl Watched {
    /// Counts it; gives what counts now of that which changed.
    fn count(&mut self, account: &str, deed: Deed<'_>, now: Now) -> Vec<(Wire, u64)> {
        let digests = match deed {
            Deed::Message { recipients } => self.digests(account, recipients),
            Deed::Login { .. } | Deed::RefusedRecipient => Vec::new(),
        };
        if !self.accounts.contains_key(account) {
            self.accounts.insert(account.to_owned(), Doings::default());
        }
        let Some(doings) = self.accounts.get_mut(account) else {
            return Vec::new();
        };
        let before = doings.known_count();
        doings.last = now.wall.as_second();
        let changed: &[Wire] = match deed {
            Deed::Login { client } => {
                doings.come_from(network(client), now);
                &[Wire::Networks]
            }
            Deed::Message { .. } => {
                let new = doings.learn(&digests);
                doings.add(Wire::NewRecipients, new, now);
                doings.add(Wire::Messages, 1, now);
                &[Wire::Messages, Wire::NewRecipients]
            }
            Deed::RefusedRecipient => {
                doings.add(Wire::RefusedRecipients, 1, now);
                &[Wire::RefusedRecipients]
            }
        };
        let counts = changed
            .iter()
            .map(|wire| (*wire, doings.used(*wire, now)))
            .collect();
        self.known = self.known + doings.known_count() - before;
        if self.known > KNOWN_IN_ALL_MAX {
            // Whoever knows most forgets the older half.
            let most = self
                .accounts
                .values_mut()
                .max_by_key(|doings| doings.known_count());
            if let Some(most) = most {
                self.known -= most.forget_half();
            }
        }
        counts
    }

    /// By what recipients are known: keyed digests, the same however the case of letters is. None without a key.
    fn digests(&self, account: &str, recipients: &[String]) -> Vec<u64> {
        let Some(key) = &self.key else {
            return Vec::new();
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let digest = |recipient: &String| {
            let text = format!("{account}\0{}", recipient.to_lowercase());
            let tag = hmac::sign(&key, text.as_bytes());
            let (first, _) = tag.as_ref().split_first_chunk().unwrap_or((&[0; 8], &[]));
            u64::from_le_bytes(*first)
        };
        recipients.iter().map(digest).collect()
    }

    fn forget_idle(&mut self, now: Now) {
        let oldest = now.wall.as_second() - FORGET_AFTER_SECONDS;
        self.accounts.retain(|_, doings| doings.last >= oldest);
        self.known = self.accounts.values().map(Doings::known_count).sum();
    }
}

impl Doings {
    fn window(&mut self, wire: Wire) -> Option<(&mut Window, Span)> {
        match wire {
            Wire::Messages => Some((&mut self.messages, TEN_MINUTES)),
            Wire::NewRecipients => Some((&mut self.new_recipients, Span::HOUR)),
            Wire::RefusedRecipients => Some((&mut self.refused_recipients, Span::HOUR)),
            Wire::Networks => None,
        }
    }

    fn add(&mut self, wire: Wire, count: u64, now: Now) {
        if let Some((window, span)) = self.window(wire) {
            window.slide(span, now.wall);
            window.add(span, now.wall, count);
        }
    }

    fn used(&mut self, wire: Wire, now: Now) -> u64 {
        match self.window(wire) {
            Some((window, span)) => {
                window.slide(span, now.wall);
                window.used()
            }
            None => {
                let hour_ago = now.wall.as_second() - 3600;
                self.networks.retain(|_, seen| *seen > hour_ago);
                self.networks.len() as u64
            }
        }
    }

    fn come_from(&mut self, network: IpNet, now: Now) {
        let second = now.wall.as_second();
        if self.networks.len() < NETWORKS_MAX || self.networks.contains_key(&network) {
            self.networks.insert(network, second);
        }
    }

    /// Knows these from now on; how many of them are new.
    fn learn(&mut self, digests: &[u64]) -> u64 {
        let mut new = 0;
        for digest in digests {
            if self.known.contains(digest) {
                continue;
            }
            // Whoever is written to again stays.
            if !self.known_before.remove(digest) {
                new += 1;
            }
            if self.known.len() >= KNOWN_HALF_MAX {
                self.known_before = std::mem::take(&mut self.known);
            }
            self.known.insert(*digest);
        }
        new
    }

    fn known_count(&self) -> usize {
        self.known.len() + self.known_before.len()
    }

    /// Forgets the older half, or all if there is none; how many that are.
    fn forget_half(&mut self) -> usize {
        let forgotten = match self.known_before.is_empty() {
            true => std::mem::take(&mut self.known),
            false => std::mem::take(&mut self.known_before),
        };
        forgotten.len()
    }
}

/// The network that an address counts for.
fn network(client: IpAddr) -> IpNet {
    let (v4, v6) = NETWORK_BITS;
    match client.to_canonical() {
        IpAddr::V4(address) => Ipv4Net::new_assert(address, v4).trunc().into(),
        IpAddr::V6(address) => Ipv6Net::new_assert(address, v6).trunc().into(),
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    /// Base 64.
    key: Option<String>,
    accounts: BTreeMap<String, Lines>,
}

#[derive(Serialize, Deserialize)]
struct Lines {
    last: i64,
    /// Digests of recipients, 8 octets each, in base 64.
    #[serde(default)]
    known: String,
    #[serde(default)]
    messages: Vec<(i64, u64)>,
    #[serde(default)]
    new_recipients: Vec<(i64, u64)>,
    #[serde(default)]
    refused_recipients: Vec<(i64, u64)>,
    #[serde(default)]
    networks: Vec<(IpNet, i64)>,
}

fn restore(file: File, now: Now) -> io::Result<Watched> {
    let decode = |text: &String| {
        let octets = BASE64_STANDARD.decode(text);
        octets.map_err(|_| damaged("holds what is no base 64"))
    };
    let key = file.key.as_ref().map(decode).transpose()?;
    let mut watched = Watched {
        key: key.or_else(|| fresh().key),
        accounts: HashMap::new(),
        known: 0,
    };
    for (account, lines) in file.accounts {
        let known = decode(&lines.known)?;
        let (digests, _) = known.as_chunks();
        let window = |buckets, span| Window::restore(buckets, span).unwrap_or_default();
        let mut doings = Doings {
            messages: window(lines.messages, TEN_MINUTES),
            new_recipients: window(lines.new_recipients, Span::HOUR),
            refused_recipients: window(lines.refused_recipients, Span::HOUR),
            networks: lines.networks.into_iter().take(NETWORKS_MAX).collect(),
            last: lines.last,
            ..Doings::default()
        };
        let digests: Vec<u64> = digests
            .iter()
            .map(|octets| u64::from_le_bytes(*octets))
            .collect();
        doings.learn(&digests);
        watched.accounts.insert(account, doings);
    }
    watched.forget_idle(now);
    Ok(watched)
}

fn content(watched: &Watched) -> File {
    let lines = |doings: &Doings| {
        // The older ones first: that is how they are learnt again.
        let digests = doings.known_before.iter().chain(&doings.known);
        let octets: Vec<u8> = digests.flat_map(|digest| digest.to_le_bytes()).collect();
        Lines {
            last: doings.last,
            known: BASE64_STANDARD.encode(octets),
            messages: doings.messages.buckets().collect(),
            new_recipients: doings.new_recipients.buckets().collect(),
            refused_recipients: doings.refused_recipients.buckets().collect(),
            networks: doings
                .networks
                .iter()
                .map(|(one, seen)| (*one, *seen))
                .collect(),
        }
    };
    File {
        version: STATE_VERSION,
        key: watched.key.as_ref().map(|key| BASE64_STANDARD.encode(key)),
        accounts: watched
            .accounts
            .iter()
            .map(|(account, doings)| (account.clone(), lines(doings)))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::time::Duration;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    pub(super) fn at_most(count: u64) -> Limit {
        Limit::AtMost(NonZeroU64::new(count).unwrap())
    }

    pub(super) fn settings(mode: Mode) -> TripwireSettings {
        TripwireSettings {
            mode: (mode, None),
            exempt: vec![("exempt@example.org".to_owned(), None)],
            messages_per_10_minutes: (at_most(10), None),
            new_recipients_per_hour: (at_most(20), None),
            networks_per_hour: (at_most(3), None),
            refused_recipients_per_hour: (at_most(5), None),
            messages_per_hour: at_most(100),
            recipients_per_day: at_most(200),
        }
    }

    pub(super) fn account(name: &str) -> Account {
        Account {
            name: name.to_owned(),
            enabled: true,
            allow_from: Vec::new(),
            send_as: Vec::new(),
            messages_per_hour: None,
            recipients_per_day: None,
            tripwires: None,
            over_limit: None,
            note: None,
            origin: origin(),
            credential: None,
            grant: None,
        }
    }

    pub(super) fn origin() -> Origin {
        Origin {
            file: Path::new("accounts.toml").into(),
            line: 1,
        }
    }

    pub(super) fn now() -> Now {
        Now {
            wall: "2026-11-21T10:00:00Z".parse().unwrap(),
            ..Now::read()
        }
    }

    /// Hands in a message to these; the wire that it trips.
    fn send(wires: &Tripwires, name: &str, recipients: &[String], now: Now) -> Option<Trip> {
        let deed = Deed::Message { recipients };
        wires.note(&settings(Mode::On), &account(name), deed, now)
    }

    pub(super) fn people(numbers: std::ops::Range<u32>) -> Vec<String> {
        numbers
            .map(|number| format!("p{number}@example.net"))
            .collect()
    }

    #[test]
    fn those_one_wrote_to_before_are_not_new() {
        let (wires, now) = (Tripwires::default(), now());
        assert_eq!(send(&wires, "a", &people(0..20), now), None);
        let shouted: Vec<String> = people(0..20).iter().map(|to| to.to_uppercase()).collect();
        assert_eq!(send(&wires, "a", &shouted, now), None);
        let trip = send(&wires, "a", &people(20..21), now).unwrap();
        assert_eq!(
            (trip.wire, trip.count, trip.allowed),
            (Wire::NewRecipients, 21, 20)
        );
        assert_eq!(
            send(&wires, "b", &people(0..20), now),
            None,
            "everybody for himself"
        );
        let later = now.after(62 * MINUTE);
        assert_eq!(
            send(&wires, "a", &people(0..40), later),
            None,
            "19 of them are new"
        );
    }

    #[test]
    fn messages_networks_and_refusals_are_counted() {
        let (wires, now) = (Tripwires::default(), now());
        for _ in 0..10 {
            assert_eq!(send(&wires, "a", &people(0..1), now), None);
        }
        assert_eq!(
            send(&wires, "a", &people(0..1), now).unwrap().wire,
            Wire::Messages
        );
        // Two of them could not be stored: they are handed in again.
        wires.take_back("a");
        wires.take_back("a");
        assert_eq!(send(&wires, "a", &people(0..1), now), None);
        assert!(send(&wires, "a", &people(0..1), now).is_some());
        wires.take_back("nobody");
        let later = now.after(11 * MINUTE);
        assert_eq!(send(&wires, "a", &people(0..1), later), None);

        let login = |wires: &Tripwires, client: &str, now| {
            let client = client.parse().unwrap();
            wires.note(
                &settings(Mode::On),
                &account("a"),
                Deed::Login { client },
                now,
            )
        };
        for client in [
            "192.0.2.1",
            "192.0.2.200",
            "::ffff:192.0.2.7",
            "198.51.100.1",
            "2001:db8:1::1",
            "2001:db8:1:2::1",
        ] {
            assert_eq!(login(&wires, client, now), None, "{client}");
        }
        let trip = login(&wires, "2001:db8:2::1", now).unwrap();
        assert_eq!((trip.wire, trip.count), (Wire::Networks, 4));
        assert_eq!(login(&wires, "2001:db8:2::1", now.after(61 * MINUTE)), None);

        let refused = |wires: &Tripwires| {
            wires.note(
                &settings(Mode::On),
                &account("a"),
                Deed::RefusedRecipient,
                now,
            )
        };
        for _ in 0..5 {
            assert_eq!(refused(&wires), None);
        }
        assert_eq!(refused(&wires).unwrap().wire, Wire::RefusedRecipients);
        wires.forgive("a");
        assert_eq!(refused(&wires), None);
        assert_eq!(login(&wires, "203.0.113.1", now), None);
    }

    #[test]
    fn who_may_do_more_trips_later() {
        let (settings, mut account) = (settings(Mode::On), account("a"));
        let allowed =
            |account: &Account| Wire::ALL.map(|wire| settings.allowance(account, wire).allowed);
        assert_eq!(allowed(&account), [Some(10), Some(20), Some(3), Some(5)]);
        account.messages_per_hour = Some((at_most(500), origin()));
        account.recipients_per_day = Some((at_most(50), origin()));
        assert_eq!(allowed(&account), [Some(50), Some(20), Some(3), Some(5)]);
        account.messages_per_hour = Some((at_most(u64::MAX), origin()));
        account.recipients_per_day = Some((Limit::Unlimited, origin()));
        assert_eq!(allowed(&account)[1], None);
    }

    #[test]
    fn exempt_is_exempt_and_off_is_off_and_a_dry_run_is_told_once_in_an_hour() {
        let (wires, now) = (Tripwires::default(), now());
        let many = people(0..100);
        let note = |mode, name: &str, recipients: &[String], now| {
            wires.note(
                &settings(mode),
                &account(name),
                Deed::Message { recipients },
                now,
            )
        };
        assert_eq!(note(Mode::On, "exempt@example.org", &many, now), None);
        assert_eq!(note(Mode::Off, "a", &many, now), None);
        assert!(wires.counts("a", now).iter().all(|(_, count)| *count == 0));
        assert!(note(Mode::DryRun, "a", &many, now).is_some());
        assert_eq!(note(Mode::DryRun, "a", &people(100..300), now), None);
        let later = now.after(61 * MINUTE);
        assert!(note(Mode::DryRun, "a", &people(300..400), later).is_some());
    }

    #[test]
    fn a_restart_forgets_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(TRIPWIRES_FILE);
        let now = now();
        let (wires, _) = Tripwires::open(&path, now);
        assert_eq!(send(&wires, "a", &people(0..20), now), None);
        let client = "192.0.2.1".parse().unwrap();
        wires.note(
            &settings(Mode::On),
            &account("a"),
            Deed::Login { client },
            now,
        );
        assert!(wires.save(now).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("example.net"), "{text}");
        let (again, finding) = Tripwires::open(&path, now);
        assert_eq!(finding, None);
        assert_eq!(again.counts("a", now), wires.counts("a", now));
        assert_eq!(send(&again, "a", &people(0..20), now), None);
        assert_eq!(send(&again, "a", &people(20..21), now).unwrap().count, 21);
        let half_a_year = now.after(Duration::from_secs(181 * 24 * 60 * 60));
        let (late, _) = Tripwires::open(&path, half_a_year);
        let late = late.lock();
        assert_eq!((late.accounts.len(), late.known), (0, 0));
        std::fs::write(&path, "{").unwrap();
        assert!(Tripwires::open(&path, now).1.is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let mut doings = Doings::default();
        let most = 2 * KNOWN_HALF_MAX;
        let digests: Vec<u64> = (0..most as u64 + 1).collect();
        doings.learn(&digests);
        assert!(doings.known_count() <= most);
        assert_eq!(doings.learn(&digests[most - 5..]), 0, "the last are known");
        assert_eq!(doings.learn(&digests[..1]), 1, "the first is not any more");
        for number in 0..2 * NETWORKS_MAX as u32 {
            let client = IpAddr::from((number << 8).to_be_bytes());
            doings.come_from(network(client), now());
        }
        assert_eq!(doings.networks.len(), NETWORKS_MAX);

        let wires = Tripwires::default();
        let mut watched = wires.lock();
        for number in 0..3 {
            let doings = watched.accounts.entry(number.to_string()).or_default();
            doings.learn(&digests[..KNOWN_HALF_MAX]);
        }
        watched.known = KNOWN_IN_ALL_MAX;
        let recipients = &people(0..1);
        watched.count("0", Deed::Message { recipients }, now());
        assert_eq!(watched.known, KNOWN_IN_ALL_MAX + 1 - KNOWN_HALF_MAX);
    }
}
