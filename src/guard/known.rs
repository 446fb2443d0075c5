//! Who has logged in from where: what others do there, or to the same account, is not held against them.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Login;

/// How many logins are remembered, some 64 octets each: this bounds the memory to 4 MiB.
pub(super) const KNOWN_MAX: usize = 7 << 12;
/// How exactly the last time is remembered, in seconds. A program that logs in for every message makes few writes of
/// it.
const PRECISION_SECONDS: i64 = 6 * 60 * 60;

/// The logins that succeeded, each with the last time in seconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Known {
    last: HashMap<Login, i64>,
    /// How many of them each address has.
    at: HashMap<IpAddr, usize>,
}

impl Known {
    /// A login has succeeded; whether that is worth a write.
    pub(super) fn add(&mut self, login: Login, now: i64) -> bool {
        match self.last.get_mut(&login) {
            Some(last) if now >= *last && now - *last < PRECISION_SECONDS => false,
            Some(last) => {
                *last = now;
                true
            }
            None => {
                if self.last.len() >= KNOWN_MAX {
                    self.make_room();
                }
                self.last.insert(login, now);
                *self.at.entry(login.source).or_default() += 1;
                true
            }
        }
    }

    /// Whether it has succeeded since `since`.
    pub(super) fn has(&self, login: &Login, since: i64) -> bool {
        self.last.get(login).is_some_and(|last| *last >= since)
    }

    /// How many accounts have logged in from there.
    pub(super) fn at(&self, source: IpAddr) -> usize {
        self.at.get(&source).copied().unwrap_or(0)
    }

    /// How many accounts have logged in from anywhere in a network, each counted for each address.
    pub(super) fn within(&self, network: &IpNet) -> usize {
        let inside = |(source, _): &(&IpAddr, &usize)| network.contains(*source);
        self.at.iter().filter(inside).map(|(_, count)| count).sum()
    }

    /// How many logins there are.
    pub(super) fn len(&self) -> usize {
        self.last.len()
    }

    /// All of them, each with its last time.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Login, i64)> {
        self.last.iter().map(|(login, last)| (login, *last))
    }

    /// Forgets what is older than `since`; whether there was any.
    pub(super) fn forget_before(&mut self, since: i64) -> bool {
        let before = self.last.len();
        self.last.retain(|_, last| *last >= since);
        let forgotten = self.last.len() != before;
        if forgotten {
            self.count_anew();
        }
        forgotten
    }

    /// Forgets the eighth that has not been seen for longest.
    fn make_room(&mut self) {
        let mut logins: Vec<(i64, Login)> = self
            .last
            .iter()
            .map(|(login, last)| (*last, *login))
            .collect();
        let (older, ..) = logins.select_nth_unstable_by_key(KNOWN_MAX / 8, |(last, _)| *last);
        for (_, login) in older {
            self.last.remove(login);
        }
        self.count_anew();
    }

    fn count_anew(&mut self) {
        self.at.clear();
        for login in self.last.keys() {
            *self.at.entry(login.source).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(number: usize) -> Login {
        let mut account = [0; 16];
        account[..8].copy_from_slice(&number.to_le_bytes());
        Login {
            source: IpAddr::from([10, 0, (number >> 8) as u8, number as u8]),
            account,
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut known = Known::default();
        for number in 0..KNOWN_MAX {
            assert!(known.add(login(number), number as i64));
        }
        assert_eq!(known.len(), KNOWN_MAX);
        known.add(login(KNOWN_MAX), KNOWN_MAX as i64);
        assert!(known.len() <= KNOWN_MAX - KNOWN_MAX / 8 + 1);
        assert!(!known.has(&login(0), 0));
        assert!(known.has(&login(KNOWN_MAX / 2), 0));
        let counted: usize = known.at.values().sum();
        assert_eq!(counted, known.len());
        assert!(known.forget_before(KNOWN_MAX as i64));
        assert_eq!((known.len(), known.at.len()), (1, 1));
        assert!(!known.forget_before(KNOWN_MAX as i64));
    }

    #[test]
    fn the_same_again_is_no_news() {
        let mut known = Known::default();
        assert!(known.add(login(1), 1000));
        assert!(!known.add(login(1), 1001));
        assert!(known.add(login(1), 1000 + PRECISION_SECONDS));
        // A clock that was set back.
        assert!(known.add(login(1), 500));
        assert!(known.has(&login(1), 500) && !known.has(&login(1), 501));
        assert_eq!(known.at(login(1).source), 1);
    }
}
