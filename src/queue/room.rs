//! How much room there is on the file system of the queue: [`Room`].

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Instant, Now};

use super::disk::Disk;
use super::{QueueError, fault};

/// How long an answer of the file system is good for where there is plenty of room.
const FRESH: Duration = Duration::from_secs(1);
/// What is plenty: so much more than what is asked for cannot go in that time.
const PLENTY_BYTES: u64 = 1024 * 1024 * 1024;

/// Watches over `minimum_free`.
pub(super) struct Room {
    directory: PathBuf,
    minimum_free: AtomicU64,
    last: Mutex<Option<(Instant, u64)>>,
}

impl Room {
    pub(super) fn new(directory: &Path, minimum_free: u64) -> Self {
        Self {
            directory: directory.to_owned(),
            minimum_free: AtomicU64::new(minimum_free),
            last: Mutex::new(None),
        }
    }

    pub(super) fn set_minimum_free(&self, bytes: u64) {
        self.minimum_free.store(bytes, Ordering::Relaxed);
    }

    /// Whether there is so much room that the file system need not be asked.
    pub(super) fn is_plenty(&self, bytes: u64) -> bool {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = self
            .minimum_free
            .load(Ordering::Relaxed)
            .saturating_add(bytes)
            .saturating_add(PLENTY_BYTES);
        last.is_some_and(|(asked, free)| {
            free >= needed && Now::read().instant.saturating_duration_since(asked) < FRESH
        })
    }

    /// Whether `bytes` more would leave `minimum_free`. Blocks.
    pub(super) fn check(&self, disk: &dyn Disk, bytes: u64) -> Result<(), QueueError> {
        let directory = &self.directory;
        let free = disk
            .free_bytes(directory)
            .map_err(fault("ask for the free space of", directory))?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Now::read().instant, free));
        let minimum_free = self.minimum_free.load(Ordering::Relaxed);
        if free.saturating_sub(bytes) < minimum_free {
            return Err(QueueError::Full {
                directory: directory.clone(),
                free,
                needed: bytes,
                minimum_free,
            });
        }
        Ok(())
    }
}
