//! Counts of failures within a time.

use super::table::Entry;

/// The secrets of one login that are told apart from new ones.
const SECRETS_MAX: usize = 8;
/// How long nobody misses a count, in seconds: longer than any window.
pub(super) const LONGEST_SECONDS: u32 = 24 * 60 * 60;

/// Failures since the first of them. Times are in seconds of this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    count: u32,
    since: u32,
}

impl Count {
    pub(super) fn new(now: u32) -> Self {
        Self {
            count: 0,
            since: now,
        }
    }

    /// How many there are within `window`.
    pub(super) fn current(&self, window: u32, now: u32) -> u32 {
        match now.saturating_sub(self.since) < window {
            true => self.count,
            false => 0,
        }
    }

    /// One more; how many there are then.
    pub(super) fn add(&mut self, window: u32, now: u32) -> u32 {
        let count = self.current(window, now);
        if count == 0 {
            self.since = now;
        }
        self.count = count.saturating_add(1);
        self.count
    }
}

impl Entry for Count {
    fn is_over(&self, now: u32) -> bool {
        now.saturating_sub(self.since) >= LONGEST_SECONDS
    }

    fn weight(&self) -> u64 {
        u64::from(self.count) << 32 | u64::from(self.since)
    }
}

/// What one account at one address has tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tries {
    /// Failures of any kind, since the last success.
    pub(super) tries: u32,
    /// Different secrets.
    guesses: Count,
    /// The last of them. A fingerprint that stands here by chance makes one guess in 500 million free.
    secrets: [u32; SECRETS_MAX],
}

impl Tries {
    pub(super) fn new(now: u32) -> Self {
        Self {
            tries: 0,
            guesses: Count::new(now),
            secrets: [0; SECRETS_MAX],
        }
    }

    /// One more; whether it is a guess, and not a secret again that was wrong before. One that cannot be told from
    /// others is a guess.
    pub(super) fn add(&mut self, secret: Option<u32>, window: u32, now: u32) -> bool {
        let begins = self.guesses(window, now) == 0;
        if begins && now.saturating_sub(self.guesses.since) >= window {
            self.tries = 0;
        }
        self.tries = self.tries.saturating_add(1);
        if let Some(secret) = secret {
            // Zero stands for none.
            let secret = secret.max(1);
            if self.secrets.contains(&secret) {
                return false;
            }
            self.secrets.rotate_right(1);
            self.secrets[0] = secret;
        }
        self.guesses.add(window, now);
        true
    }

    /// How many guesses there are within `window`.
    pub(super) fn guesses(&self, window: u32, now: u32) -> u32 {
        self.guesses.current(window, now)
    }

    /// The guesses so far have had their consequence.
    pub(super) fn begin_anew(&mut self) {
        self.guesses.count = 0;
    }
}

impl Entry for Tries {
    fn is_over(&self, now: u32) -> bool {
        self.guesses.is_over(now)
    }

    fn weight(&self) -> u64 {
        self.guesses.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_end_with_their_window() {
        let mut count = Count::new(0);
        assert_eq!((count.add(60, 0), count.add(60, 59)), (1, 2));
        assert_eq!((count.current(60, 59), count.current(60, 60)), (2, 0));
        assert_eq!(count.add(60, 60), 1);
        assert_eq!(count.add(60, 119), 2);
        assert!(!count.is_over(LONGEST_SECONDS));
        assert!(count.is_over(LONGEST_SECONDS + 60));
    }

    #[test]
    fn a_secret_again_is_no_guess() {
        let mut tries = Tries::new(0);
        assert!(tries.add(Some(7), 60, 0));
        for _ in 0..100 {
            assert!(!tries.add(Some(7), 60, 1));
        }
        assert_eq!((tries.guesses(60, 1), tries.tries), (1, 101));
        assert!(tries.add(None, 60, 1) && tries.add(None, 60, 1));
        assert!(tries.add(Some(0), 60, 1) && !tries.add(Some(0), 60, 1));
        for secret in 100..100 + SECRETS_MAX as u32 {
            assert!(tries.add(Some(secret), 60, 1));
        }
        // Pushed out by as many others.
        assert!(tries.add(Some(7), 60, 1));
        // It stays the same secret when its count is over.
        assert!(!tries.add(Some(7), 60, 5000));
        assert_eq!((tries.guesses(60, 5000), tries.tries), (0, 1));
    }
}
