//! The real program as a process: where it is, and what it writes, line by line.
//!
//! What a test waits for it waits for in these lines, with a bounded patience; nothing here sleeps.

use std::fmt::Debug;
use std::io::{BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How long anything is waited for. It bounds a failing test, nothing else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test: `$GATEPOST_BIN`, so that CI can drive a release build, or the one built with this test.
pub(crate) fn program() -> PathBuf {
    match std::env::var_os("GATEPOST_BIN") {
        // Tests run its commands in folders of their own.
        Some(path) => std::fs::canonicalize(&path)
            .unwrap_or_else(|error| panic!("GATEPOST_BIN={}: {error}", path.display())),
        None => env!("CARGO_BIN_EXE_gatepost").into(),
    }
}

/// The lines that a process wrote so far, on one or more of its streams.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<(Mutex<Written>, Condvar)>);

#[derive(Default)]
struct Written {
    lines: Vec<String>,
    /// Streams that may still bring lines.
    open: usize,
}

impl Lines {
    /// The lines of one stream.
    pub(crate) fn of(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        lines.collect(stream);
        lines
    }

    /// Takes in the lines of another stream, too.
    pub(crate) fn collect(&self, stream: impl Read + Send + 'static) {
        let writer = self.clone();
        self.change(|written| written.open += 1);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                writer.change(|written| written.lines.push(line));
            }
            writer.change(|written| written.open -= 1);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Written)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    /// How many lines there are now: where a later wait begins to look.
    pub(crate) fn mark(&self) -> usize {
        self.0.0.lock().unwrap().lines.len()
    }

    /// All lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.since(0)
    }

    /// All lines from `mark` on.
    pub(crate) fn since(&self, mark: usize) -> Vec<String> {
        self.0.0.lock().unwrap().lines[mark..].to_vec()
    }

    /// All lines there will ever be: waits until the process has ended, or at least closed its streams.
    pub(crate) fn to_the_end(&self) -> Vec<String> {
        let (state, changed) = &*self.0;
        let (written, _) = changed
            .wait_timeout_while(state.lock().unwrap(), PATIENCE, |written| written.open > 0)
            .unwrap();
        let (open, lines) = (written.open, written.lines.clone());
        drop(written);
        assert_eq!(open, 0, "more may follow {lines:#?}");
        lines
    }

    /// Waits for the first line that `is_it`.
    pub(crate) fn wait_for(&self, is_it: impl Fn(&str) -> bool) -> String {
        self.find(0, is_it, &"such a line")
    }

    /// Waits for the first line from `mark` on that has all of `words`.
    pub(crate) fn wait(&self, mark: usize, words: &[&str]) -> String {
        let is_it = |line: &str| words.iter().all(|word| line.contains(word));
        self.find(mark, is_it, &words)
    }

    fn find(&self, mark: usize, is_it: impl Fn(&str) -> bool, what: &dyn Debug) -> String {
        let found = |written: &Written| {
            let mut lines = written.lines[mark..].iter();
            lines.find(|line| is_it(line)).cloned()
        };
        let (state, changed) = &*self.0;
        let (written, _) = changed
            .wait_timeout_while(state.lock().unwrap(), PATIENCE, |written| {
                found(written).is_none() && written.open > 0
            })
            .unwrap();
        let (found, seen) = (found(&written), written.lines[mark..].to_vec());
        // A panic must not take the lock with it: who shows the log needs it.
        drop(written);
        found.unwrap_or_else(|| panic!("no line with {what:?} in {seen:#?}"))
    }
}
