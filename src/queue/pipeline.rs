//! The way of small messages into the queue: [`Pipeline`].
//!
//! Three threads of its own, so that nothing blocks the runtime's: the *writer* takes all messages that wait and makes
//! them durable together, in the journal; the *placer* gives them their names in `ready/` and answers; the *coverer*
//! syncs the file system now and then, so that the journal's segments can be used again. While one batch is being
//! placed the next is being synced, and whoever comes meanwhile is in the one after that.
//!
//! What the threads do is in [`Pipeline::write`], [`Pipeline::place`] and [`Pipeline::cover`], which tests call
//! themselves, in the order that they like.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::{Instant, Now};
use crate::envelope::Receipt;

use super::disk::{Disk, FileSystem};
use super::journal::{Journal, Record, Sizes};
use super::layout::{Layout, Part, destination};
use super::placing::{Batch, Placer};
use super::room::Room;
use super::{QueueError, SpoolEvent, fault};

/// Batches that are durable and not placed yet, at most: one that is being placed, one that waits. Whatever comes on
/// top of them waits unwritten, in one larger batch.
const UNPLACED_MAX: usize = 2;
/// How long messages stay in the journal alone. A crash of the machine brings back what was seen onward in this time.
const COVER_INTERVAL: Duration = Duration::from_secs(5);
/// The pause between two attempts after a fault.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A write to the journal that takes longer than this is a reason to turn messages away before they come.
const SLOW: Duration = Duration::from_secs(10);
/// Events that wait for somebody to fetch them. The first ones matter.
const EVENTS_MAX: usize = 32;

/// Everything between a message that is ready to be committed and its pair in `ready/`.
pub(super) struct Pipeline {
    disk: Arc<dyn Disk>,
    layout: Layout,
    room: Arc<Room>,
    sizes: Mutex<Sizes>,
    // If more than one of them is held, they were locked in this order.
    /// Held for a sync of the file system.
    coverage: Mutex<Box<dyn FileSystem>>,
    journal: Mutex<Journal>,
    placer: Mutex<Placer>,
    line: Mutex<Line>,
    /// Something for the writer: messages, room behind it, the end.
    to_write: Condvar,
    /// Something for the placer: a batch, the end.
    to_place: Condvar,
    /// Something for the coverer.
    to_cover: Condvar,
}

#[derive(Default)]
struct Line {
    next_ticket: u64,
    /// In the order of their tickets.
    jobs: VecDeque<Job>,
    unplaced: VecDeque<Placing>,
    /// The last batch whose placing has begun: what somebody may have seen.
    begun: u64,
    /// The last batch that is placed.
    placed: u64,
    /// When the first batch that is not covered was written.
    uncovered_since: Option<Instant>,
    /// Since when the writer has been at a write.
    writing_since: Option<Instant>,
    /// The journal takes nothing more until something is covered.
    full: bool,
    /// It will not for long.
    half_full: bool,
    stopping: bool,
    /// The writer has stopped: no batch will come.
    written_out: bool,
    troubles: [bool; 4],
    events: VecDeque<SpoolEvent>,
}

/// A message that waits to be written.
struct Job {
    ticket: u64,
    waiting: Waiting,
    record: Record,
}

/// Somebody who waits for a receipt.
struct Waiting {
    answer: Answer,
    receipt: Receipt,
}

type Answer = oneshot::Sender<Result<Receipt, QueueError>>;

/// A durable batch on its way into `ready/`.
struct Placing {
    batch: Batch,
    waiting: Vec<Waiting>,
}

/// What can be out of order for a while.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Journal,
    Ready,
    Coverage,
    Release,
}

impl Trouble {
    fn part(self) -> &'static str {
        match self {
            Self::Coverage => "checkpoint",
            Self::Journal => "journal",
            Self::Ready => "ready",
            Self::Release => "release",
        }
    }
}

impl Pipeline {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        layout: Layout,
        room: Arc<Room>,
        sizes: Sizes,
        file_system: Box<dyn FileSystem>,
        journal: Journal,
        placer: Placer,
    ) -> Self {
        let line = Line {
            placed: journal.last(),
            uncovered_since: (!journal.uncovered().is_empty()).then(|| Now::read().instant),
            ..Line::default()
        };
        Self {
            disk,
            layout,
            room,
            sizes: Mutex::new(sizes),
            coverage: Mutex::new(file_system),
            journal: Mutex::new(journal),
            placer: Mutex::new(placer),
            line: Mutex::new(line),
            to_write: Condvar::new(),
            to_place: Condvar::new(),
            to_cover: Condvar::new(),
        }
    }

    /// Waits until the message is durable and in `ready/`; for at most `turn` until it is being written.
    ///
    /// If the future is dropped before that, nothing of the message stays.
    pub(super) async fn commit(
        &self,
        record: Record,
        turn: Duration,
    ) -> Result<Receipt, QueueError> {
        let (answer, mut answered) = oneshot::channel();
        let place = PlaceInLine {
            pipeline: self,
            ticket: self.enter(record, answer)?,
        };
        let outcome = match tokio::time::timeout(turn, &mut answered).await {
            Ok(outcome) => outcome,
            Err(_) if self.leave(place.ticket) => return Err(self.slow()),
            // How that ends has to be known.
            Err(_) => answered.await,
        };
        outcome.unwrap_or_else(|_| Err(stopping()))
    }

    /// Whether messages are taken at the moment.
    pub(super) fn is_ready(&self) -> Result<(), QueueError> {
        self.check(&self.line())
    }

    fn check(&self, line: &Line) -> Result<(), QueueError> {
        if line.stopping {
            return Err(stopping());
        }
        if line
            .writing_since
            .is_some_and(|since| elapsed(since) > SLOW)
        {
            return Err(self.slow());
        }
        Ok(())
    }

    /// What has happened since the last call.
    pub(super) fn take_events(&self) -> Vec<SpoolEvent> {
        self.line().events.drain(..).collect()
    }

    /// Whether messages whose time had come could be released.
    pub(super) fn note_release(&self, result: Result<(), QueueError>) {
        match result {
            Ok(()) => self.line().end(Trouble::Release),
            Err(error) => self.line().begin(Trouble::Release, &error),
        }
    }

    /// The journal hears of it when it is written to next.
    pub(super) fn resize_journal(&self, sizes: Sizes) {
        *lock(&self.sizes) = sizes;
    }

    /// Octets of a record that goes through the journal.
    pub(super) fn record_bytes_max(&self) -> usize {
        lock(&self.sizes).record_bytes_max()
    }

    fn slow(&self) -> QueueError {
        QueueError::Slow {
            directory: self.layout.root.clone(),
        }
    }

    fn enter(&self, record: Record, answer: Answer) -> Result<u64, QueueError> {
        let receipt = Receipt::new(record.id.clone(), record.message.len() as u64);
        let mut line = self.line();
        self.check(&line)?;
        let ticket = line.next_ticket;
        line.next_ticket += 1;
        line.jobs.push_back(Job {
            ticket,
            waiting: Waiting { answer, receipt },
            record,
        });
        drop(line);
        self.to_write.notify_one();
        Ok(ticket)
    }

    /// Takes a message out of the line; `false` if it is not there any more.
    fn leave(&self, ticket: u64) -> bool {
        let mut line = self.line();
        let place = line.jobs.binary_search_by_key(&ticket, |job| job.ticket);
        place.is_ok_and(|place| line.jobs.remove(place).is_some())
    }

    /// Makes the messages that wait durable: as many as one batch takes.
    pub(super) fn write(&self) -> Written {
        let mut jobs = self.next_jobs();
        if jobs.is_empty() {
            return Written::Nothing;
        }
        if let Err(error) = self.has_room_for(&jobs) {
            refuse(jobs, error);
            return Written::Batch;
        }
        jobs = self.without_duplicates(jobs);
        let (mut records, mut waiting) = (Vec::new(), Vec::new());
        for job in jobs {
            records.push(job.record);
            waiting.push((job.ticket, job.waiting));
        }
        if records.is_empty() {
            return Written::Batch;
        }
        self.line().writing_since = Some(Now::read().instant);
        // Held until the batch is in the line: one that is taken back takes all behind it along.
        let mut journal = self.journal();
        journal.resize(*lock(&self.sizes));
        let result = journal.append(&records);
        let half_full = journal.is_half_full();
        let mut line = self.line();
        drop(journal);
        line.writing_since = None;
        let jobs = |records: Vec<Record>, waiting: Vec<(u64, Waiting)>| {
            let both = records.into_iter().zip(waiting);
            both.map(|(record, (ticket, waiting))| Job {
                ticket,
                waiting,
                record,
            })
        };
        match result {
            Ok(number) => {
                line.end(Trouble::Journal);
                line.half_full |= half_full;
                if line.uncovered_since.is_none() || half_full {
                    line.note_uncovered();
                    self.to_cover.notify_one();
                }
                line.unplaced.push_back(Placing {
                    batch: Batch::new(number, records),
                    waiting: waiting.into_iter().map(|(_, waiting)| waiting).collect(),
                });
                drop(line);
                self.to_place.notify_one();
                Written::Batch
            }
            Err(QueueError::JournalFull { .. }) => {
                line.full = true;
                for job in jobs(records, waiting).rev() {
                    line.jobs.push_front(job);
                }
                drop(line);
                self.to_cover.notify_one();
                Written::Full
            }
            Err(error) => {
                line.begin(Trouble::Journal, &error);
                drop(line);
                refuse(jobs(records, waiting).collect(), error);
                Written::Batch
            }
        }
    }

    fn next_jobs(&self) -> Vec<Job> {
        let bytes_max = lock(&self.sizes).batch_bytes_max();
        let mut line = self.line();
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        while let Some(job) = line.jobs.front() {
            bytes += job.record.encoded_bytes();
            if bytes > bytes_max && !jobs.is_empty() {
                break;
            }
            jobs.extend(line.jobs.pop_front());
        }
        jobs
    }

    fn has_room_for(&self, jobs: &[Job]) -> Result<(), QueueError> {
        let bytes: usize = jobs.iter().map(|job| job.record.encoded_bytes()).sum();
        self.room.check(&*self.disk, bytes as u64)
    }

    /// Ids do not repeat; if one does all the same, what is queued under it must not be replaced.
    fn without_duplicates(&self, jobs: Vec<Job>) -> Vec<Job> {
        let mut admitted = Vec::with_capacity(jobs.len());
        for job in jobs {
            let (place, _) = destination(&job.record.envelope);
            let path = self.layout.file(place, &job.record.id, Part::Message);
            match self.disk.length(&path).map_err(fault("look at", &path)) {
                Ok(None) => admitted.push(job),
                Ok(Some(_)) => job.waiting.answer(Err(QueueError::Exists { path })),
                Err(error) => job.waiting.answer(Err(error)),
            }
        }
        admitted
    }

    /// Places the oldest batch, and answers for it. `false`: there is none.
    ///
    /// Messages that cannot be placed are taken back.
    pub(super) fn place(&self) -> bool {
        let Some(mut placing) = self.next_unplaced() else {
            return false;
        };
        let result = self.placer().place(&mut placing.batch);
        match result {
            Ok(()) => {
                let mut line = self.line();
                line.placed = placing.batch.number;
                line.end(Trouble::Ready);
                let wake_coverer = line.full;
                drop(line);
                for waiting in placing.waiting {
                    waiting.confirm();
                }
                if wake_coverer {
                    self.to_cover.notify_one();
                }
            }
            Err(error) => self.take_back(placing, error),
        }
        self.to_write.notify_one();
        true
    }

    /// Refuses the messages of a batch that cannot be placed, and those of all that were written behind it. Those that
    /// have been placed stay.
    fn take_back(&self, placing: Placing, error: QueueError) {
        let number = placing.batch.number;
        let placed = self.placer().abandon(placing.batch);
        let mut waiting = placing.waiting;
        let stays = {
            // Nothing is written behind them while this is held.
            let mut journal = self.journal();
            let mut line = self.line();
            line.begin(Trouble::Ready, &error);
            let behind = line.unplaced.drain(..);
            waiting.extend(behind.flat_map(|placing| placing.waiting));
            drop(line);
            let stays = journal.withdraw(number, &placed);
            let mut line = self.line();
            if let Ok(number) = stays {
                line.placed = number;
                line.note_uncovered();
            }
            line.begun = line.placed;
            stays
        };
        match stays {
            // If this fails, a process that is killed is followed by one that places them again.
            Ok(number) => drop(self.placer().announce(number)),
            // They are not durable. Whoever is quick may have seen them; nobody else shall.
            Err(_) => {
                for record in &placed {
                    let _ = self.placer().remove(&record.id);
                }
            }
        }
        let error = Arc::new(error);
        for waiting in waiting {
            let is_placed = placed.iter().any(|record| record.id == waiting.receipt.id);
            if is_placed && stays.is_ok() {
                waiting.confirm();
            } else {
                waiting.answer(Err(QueueError::Batch(Arc::clone(&error))));
            }
        }
    }

    fn next_unplaced(&self) -> Option<Placing> {
        let mut line = self.line();
        let placing = line.unplaced.pop_front()?;
        line.begun = placing.batch.number;
        Some(placing)
    }

    /// Syncs the file system, and writes down in the journal how much it need not keep any more.
    pub(super) fn cover(&self) -> Result<(), QueueError> {
        let mut coverage = self.coverage();
        // In this order: whoever removed a message saw it placed, or being placed.
        let gone = self.gone()?;
        let (visible, placed) = {
            let mut line = self.line();
            line.uncovered_since = None;
            (line.begun, line.placed)
        };
        let result = self.sync(&mut **coverage, placed);
        let mut line = self.line();
        match &result {
            Ok(()) => {
                (line.full, line.half_full) = (false, false);
                line.end(Trouble::Coverage);
            }
            Err(error) => line.begin(Trouble::Coverage, error),
        }
        if result.is_err() || !line.unplaced.is_empty() || line.begun > placed {
            line.note_uncovered();
        }
        drop(line);
        self.to_write.notify_one();
        result?;
        if visible <= placed {
            for path in gone {
                // One that stays is looked at again.
                let _ = self.disk.remove_file(&path);
            }
        }
        Ok(())
    }

    fn sync(&self, file_system: &mut dyn FileSystem, placed: u64) -> Result<(), QueueError> {
        let uncovered = self.journal().uncovered();
        let batches = uncovered.into_iter().filter(|number| *number <= placed);
        let batches: Vec<u64> = batches.collect();
        let lost = self.placer().is_lost();
        if lost {
            for number in &batches {
                let records = self.journal().read(*number)?;
                let placer = self.placer();
                for record in &records {
                    placer.rewrite(record)?;
                }
            }
        }
        if let Err(error) = file_system.sync() {
            // If this fails too, a process that is killed now is followed by one that does not know.
            let _ = self.placer().note_lost(true);
            return Err(fault("sync the file system of", &self.layout.root)(error));
        }
        if !batches.is_empty() {
            let mut journal = self.journal();
            journal.cover(placed)?;
            journal.clear_away();
        }
        if lost {
            self.placer().note_lost(false)?;
        }
        Ok(())
    }

    /// The notes of what the operator removed.
    fn gone(&self) -> Result<Vec<PathBuf>, QueueError> {
        let directory = &self.layout.gone;
        match self.disk.list_directory(directory) {
            Ok(entries) => Ok(entries
                .into_iter()
                .map(|entry| directory.join(entry.name))
                .collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(fault("list", directory)(error)),
        }
    }

    /// The writer's thread.
    fn keep_writing(&self) {
        loop {
            let mut line = self.line();
            while !line.may_write() && !line.is_written_out() {
                line = wait(&self.to_write, line, None);
            }
            if line.is_written_out() {
                line.written_out = true;
                let jobs = std::mem::take(&mut line.jobs);
                drop(line);
                self.to_place.notify_one();
                for job in jobs {
                    job.waiting.answer(Err(stopping()));
                }
                return;
            }
            drop(line);
            self.write();
        }
    }

    /// The placer's thread.
    fn keep_placing(&self) {
        loop {
            let mut line = self.line();
            while line.unplaced.is_empty() && !line.written_out {
                line = wait(&self.to_place, line, None);
            }
            if line.unplaced.is_empty() {
                return;
            }
            drop(line);
            self.place();
        }
    }

    /// The coverer's thread.
    fn keep_covering(&self) {
        loop {
            let mut line = self.line();
            loop {
                if line.stopping {
                    return;
                }
                let pause = match line.uncovered_since {
                    _ if line.full && line.unplaced.is_empty() || line.half_full => break,
                    Some(since) if elapsed(since) >= COVER_INTERVAL => break,
                    Some(since) => Some(COVER_INTERVAL.saturating_sub(elapsed(since))),
                    None => None,
                };
                line = wait(&self.to_cover, line, pause);
            }
            drop(line);
            if self.cover().is_err() {
                let line = self.line();
                if !line.stopping {
                    drop(wait(&self.to_cover, line, Some(RETRY_INTERVAL)));
                }
            }
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        lock(&self.line)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }

    fn placer(&self) -> MutexGuard<'_, Placer> {
        lock(&self.placer)
    }

    fn coverage(&self) -> MutexGuard<'_, Box<dyn FileSystem>> {
        lock(&self.coverage)
    }
}

/// What became of an attempt to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Whoever was taken is on the way, or has been refused.
    Batch,
    /// The journal is full; all are in the line again.
    Full,
    /// Nobody waits.
    Nothing,
}

impl Line {
    fn may_write(&self) -> bool {
        !self.jobs.is_empty() && !self.full && self.unplaced.len() < UNPLACED_MAX
    }

    /// Whether it is time to stop, and there is nothing to write or nothing can be written.
    fn is_written_out(&self) -> bool {
        self.stopping && (self.jobs.is_empty() || self.full)
    }

    fn note_uncovered(&mut self) {
        self.uncovered_since
            .get_or_insert_with(|| Now::read().instant);
    }

    fn begin(&mut self, trouble: Trouble, error: &QueueError) {
        if !std::mem::replace(&mut self.troubles[trouble as usize], true) {
            self.tell(SpoolEvent::Trouble {
                part: trouble.part(),
                reason: error.to_string(),
            });
        }
    }

    fn end(&mut self, trouble: Trouble) {
        if std::mem::replace(&mut self.troubles[trouble as usize], false) {
            self.tell(SpoolEvent::Recovered {
                part: trouble.part(),
            });
        }
    }

    fn tell(&mut self, event: SpoolEvent) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }
}

impl Waiting {
    fn confirm(self) {
        let receipt = self.receipt.clone();
        self.answer(Ok(receipt));
    }

    fn answer(self, result: Result<Receipt, QueueError>) {
        // Whoever does not wait any more need not know.
        let _ = self.answer.send(result);
    }
}

fn refuse(jobs: Vec<Job>, error: QueueError) {
    let error = Arc::new(error);
    for job in jobs {
        let error = QueueError::Batch(Arc::clone(&error));
        job.waiting.answer(Err(error));
    }
}

/// Keeps a message in the line for as long as somebody waits for it.
struct PlaceInLine<'a> {
    pipeline: &'a Pipeline,
    ticket: u64,
}

impl Drop for PlaceInLine<'_> {
    fn drop(&mut self) {
        self.pipeline.leave(self.ticket);
    }
}

/// The threads of a pipeline. Dropping it stops them: what waits is written, placed and covered first.
pub(super) struct Workers {
    pipeline: Arc<Pipeline>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn start(pipeline: &Arc<Pipeline>) -> Result<Self, QueueError> {
        let mut workers = Self {
            pipeline: Arc::clone(pipeline),
            threads: Vec::new(),
        };
        type Work = fn(&Pipeline);
        let works = [
            ("queue-writer", Pipeline::keep_writing as Work),
            ("queue-placer", Pipeline::keep_placing),
            ("queue-coverer", Pipeline::keep_covering),
        ];
        for (name, work) in works {
            let pipeline = Arc::clone(pipeline);
            let thread = Builder::new()
                .name(name.to_owned())
                .spawn(move || work(&pipeline))
                .map_err(|error| {
                    QueueError::Interrupted(format!("cannot start a thread: {error}"))
                })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.pipeline.line().stopping = true;
        for waiting in [
            &self.pipeline.to_write,
            &self.pipeline.to_place,
            &self.pipeline.to_cover,
        ] {
            waiting.notify_all();
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing more to say.
            let _ = thread.join();
        }
        // If this fails, the next start replays what the journal has.
        let _ = self.pipeline.cover();
    }
}

fn stopping() -> QueueError {
    QueueError::Interrupted("the queue is stopping".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    at_most: Option<Duration>,
) -> MutexGuard<'a, T> {
    match at_most {
        None => condition
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner),
        Some(pause) => {
            condition
                .wait_timeout(guard, pause)
                .unwrap_or_else(PoisonError::into_inner)
                .0
        }
    }
}

fn elapsed(since: Instant) -> Duration {
    Now::read().instant.saturating_duration_since(since)
}
