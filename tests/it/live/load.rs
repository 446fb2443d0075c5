//! Load with books kept: [`Sender`]s that submit marked messages as fast as they can, a [`Consumer`] that takes them
//! from `ready/` as docs/queue.md tells it to, and the [`Ledger`] of what was sent, answered and found.
//!
//! A message's content follows from its marker, so whoever finds one knows to the octet what it should be. A marker is
//! sent once: nobody repeats a message whose reply was lost.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use gatepost::server::TlsStart;
use rustls::ClientConfig;
use serde_json::Value;

use super::harness::{ALICE, Client, DOORS, Daemon, PASSWORD, PATIENCE, World};
use crate::clients::without_added;
use crate::support::Chance;

/// How long the consumer waits for an acknowledgement before it looks again all the same.
const CONSUMER_PAUSE: Duration = Duration::from_millis(10);
/// How many senders send how many messages after a fault.
const SENDERS_AFTERWARDS: u64 = 4;
const MESSAGES_AFTERWARDS: u64 = 40;
/// The most messages on one connection of a sender.
const MESSAGES_PER_CONNECTION_MAX: u64 = 25;
/// Lines of a large message, 64 octets each: 300 KiB.
pub(super) const LARGE_LINES: u64 = 4800;
/// How many messages of a sender there are to a large one.
const LARGE_ONE_IN: u64 = 10;
/// The most lines of a small one.
const SMALL_LINES_MAX: u64 = 64;

/// `GATEPOST_SEED`, or a new one. It is shown where the test fails. It fixes what is sent, and which event the blow
/// follows; what the threads do meanwhile is up to the machine.
pub(super) fn seed() -> u64 {
    let seed = match std::env::var("GATEPOST_SEED") {
        Ok(seed) => seed.parse().expect("GATEPOST_SEED is a number"),
        Err(_) => getrandom::u64().unwrap(),
    };
    println!("GATEPOST_SEED={seed}");
    seed
}

/// A message without the end of its data; no line begins with a dot.
fn text(marker: &str) -> String {
    let (_, lines) = marker.rsplit_once('-').unwrap();
    let lines: u64 = lines.parse().unwrap();
    let mut text = format!(
        "From: <{ALICE}>\r\nDate: Sat, 21 Nov 2026 09:30:00 +0000\r\nMessage-ID: <{marker}@example.org>\r\n\
         Subject: {marker}\r\n\r\n"
    );
    for line in 0..lines {
        // Of its own message and place: parts that are exchanged, repeated or left out are seen.
        writeln!(text, "{marker:24} {line:8} ...........................\r").unwrap();
    }
    text
}

/// What became of a message, as far as its sender knows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// 250, with its id.
    Acknowledged(String),
    /// Its text was begun, and no reply came.
    Open,
    Refused(String),
}

/// How much of what there has been.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Messages whose text was sent, or begun.
    pub(super) begun: u64,
    pub(super) acknowledged: u64,
    pub(super) acknowledged_large: u64,
    /// Refusals by their reply.
    pub(super) refused: BTreeMap<String, u64>,
    /// Messages that were found in `ready/` and removed.
    pub(super) taken: u64,
}

impl Counts {
    pub(super) fn refused(&self) -> u64 {
        self.refused.values().sum()
    }
}

#[derive(Default)]
struct Books {
    fates: HashMap<String, Fate>,
    /// Markers by the id that they were found under, and the other way round.
    markers: HashMap<String, String>,
    ids: HashMap<String, String>,
    counts: Counts,
    /// A thread has panicked, and said why.
    failed: bool,
}

/// What was sent, what was said to it, and what was found. Panics at once where these do not fit together.
pub(super) struct Ledger {
    ready: PathBuf,
    books: Mutex<Books>,
    changed: Condvar,
}

impl Ledger {
    /// For the queue of this world.
    pub(super) fn of(world: &World) -> Arc<Self> {
        Arc::new(Self {
            ready: world.queue().join("ready"),
            books: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // A panic in one thread is enough to read.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counts(&self) -> Counts {
        self.books().counts.clone()
    }

    /// Senders at work on this daemon.
    pub(super) fn senders(
        self: &Arc<Self>,
        name: &str,
        number: u64,
        daemon: &Daemon,
        chance: &mut Chance,
    ) -> Senders {
        let orders = Arc::new(Orders::default());
        let threads = (0..number)
            .map(|number| {
                Sender::new(format!("{name}-{number}"), chance.next(), self)
                    .run(Target::of(daemon), Arc::clone(&orders))
            })
            .collect();
        Senders { orders, threads }
    }

    /// Waits until the counts are as wanted.
    pub(super) fn wait(&self, what: &str, are_right: impl Fn(&Counts) -> bool) {
        let (books, _) = self
            .changed
            .wait_timeout_while(self.books(), PATIENCE, |books| {
                !are_right(&books.counts) && !books.failed
            })
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!books.failed, "a sender or the consumer has failed");
        assert!(are_right(&books.counts), "no {what}: {:?}", books.counts);
    }

    /// Sees that a daemon finds back by itself, and then works as if nothing had been.
    pub(super) fn works_again(self: &Arc<Self>, name: &str, daemon: &Daemon, chance: &mut Chance) {
        let before = self.counts();
        let senders = self.senders(name, SENDERS_AFTERWARDS, daemon, chance);
        self.wait("acknowledgements", |counts| {
            counts.acknowledged > before.acknowledged
        });
        let before = self.counts();
        self.wait("acknowledgements", |counts| {
            counts.acknowledged > before.acknowledged + MESSAGES_AFTERWARDS
        });
        senders.stop();
        let counts = self.counts();
        assert_eq!(counts.refused(), before.refused(), "{counts:?}");
    }

    fn begun(&self, marker: &str) {
        let mut books = self.books();
        let before = books.fates.insert(marker.to_owned(), Fate::Open);
        assert_eq!(before, None, "{marker} is sent once");
        books.counts.begun += 1;
        drop(books);
        self.changed.notify_all();
    }

    fn acknowledged(&self, marker: &str, id: &str, is_large: bool) {
        // In this order: it is in the books before it is removed.
        let is_there = self.path(id, "json").exists() && self.path(id, "eml").exists();
        let mut books = self.books();
        match books.ids.get(marker) {
            Some(found) => assert_eq!(found, id, "the id of {marker}"),
            None => assert!(is_there, "{marker} was acknowledged and is not in ready/"),
        }
        let fate = Fate::Acknowledged(id.to_owned());
        books.fates.insert(marker.to_owned(), fate);
        books.counts.acknowledged += 1;
        books.counts.acknowledged_large += u64::from(is_large);
        drop(books);
        self.changed.notify_all();
    }

    fn refused(&self, marker: &str, reply: &str) {
        let mut books = self.books();
        let found = books.ids.get(marker);
        assert_eq!(found, None, "{marker} heard {reply}, and was queued");
        let fate = Fate::Refused(reply.to_owned());
        books.fates.insert(marker.to_owned(), fate);
        *books.counts.refused.entry(reply.to_owned()).or_default() += 1;
        drop(books);
        self.changed.notify_all();
    }

    fn found(&self, id: &str, marker: &str) {
        let mut books = self.books();
        match books.fates.get(marker) {
            None => panic!("{marker} was never sent"),
            Some(Fate::Refused(reply)) => panic!("{marker} heard {reply}, and is queued as {id}"),
            Some(Fate::Acknowledged(known)) => assert_eq!(known, id, "the id of {marker}"),
            Some(Fate::Open) => {}
        }
        let before = books.markers.insert(id.to_owned(), marker.to_owned());
        assert_eq!(before, None, "{id} is taken a second time");
        let before = books.ids.insert(marker.to_owned(), id.to_owned());
        assert_eq!(before, None, "{marker} is taken a second time, now as {id}");
        books.counts.taken += 1;
        drop(books);
        self.changed.notify_all();
    }

    fn path(&self, id: &str, extension: &str) -> PathBuf {
        self.ready.join(format!("{id}.{extension}"))
    }

    /// The ids that are queued, the oldest first.
    fn queued(&self) -> Vec<String> {
        let entries = match std::fs::read_dir(&self.ready) {
            Ok(entries) => entries,
            // Before the first start.
            Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
            Err(error) => panic!("{}: {error}", self.ready.display()),
        };
        let mut ids: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| Some(name.strip_suffix(".json")?.to_owned()))
            .collect();
        ids.sort();
        ids
    }

    /// Takes one message as docs/queue.md says, having compared it with what was sent.
    fn take(&self, id: &str) {
        let envelope = std::fs::read(self.path(id, "json")).unwrap();
        let envelope: Value = serde_json::from_slice(&envelope).unwrap();
        assert_eq!(envelope["version"], 1);
        assert_eq!(envelope["id"], id);
        assert_eq!(envelope["reverse_path"], ALICE);
        let recipients = serde_json::json!([{"forward_path": "bob@example.net"}]);
        assert_eq!(envelope["recipients"], recipients);
        let message = std::fs::read(self.path(id, "eml")).unwrap();
        assert_eq!(envelope["size"], message.len());
        let shown = String::from_utf8_lossy(&message);
        let (_, rest) = shown.split_once("\r\nSubject: ").unwrap();
        let (marker, _) = rest.split_once("\r\n").unwrap();
        let sent = text(marker);
        let stored = without_added(&message, sent.as_bytes(), id, "mail.example.org", marker);
        // Not by assert_eq: nobody reads two times 300 KiB.
        assert!(stored == sent.as_bytes(), "{marker} is not what was sent");
        self.found(id, marker);
        std::fs::remove_file(self.path(id, "json")).unwrap();
        match std::fs::remove_file(self.path(id, "eml")) {
            // The daemon that starts in this moment took it for litter.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result.unwrap(),
        }
    }

    /// Takes all that is there now.
    pub(super) fn take_all(&self) {
        for id in self.queued() {
            self.take(&id);
        }
    }

    /// Takes what is left, and compares all that was acknowledged with all that was found. For a daemon that has put
    /// its queue in order, and senders that have ended.
    pub(super) fn settle(&self) -> Counts {
        self.take_all();
        let left = std::fs::read_dir(&self.ready).unwrap().count();
        assert_eq!(left, 0, "files in ready/ that are no message");
        let books = self.books();
        let lost: Vec<_> = books
            .fates
            .iter()
            .filter(|(marker, fate)| {
                matches!(fate, Fate::Acknowledged(_)) && !books.ids.contains_key(*marker)
            })
            .collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:#?}");
        println!("{:?}", books.counts);
        books.counts.clone()
    }

    /// Messages whose reply never came.
    pub(super) fn unanswered(&self) -> Vec<String> {
        let books = self.books();
        let open = books.fates.iter().filter(|(_, fate)| **fate == Fate::Open);
        open.map(|(marker, _)| marker.clone()).collect()
    }
}

/// Tells who waits for progress that there will be none, if its thread panics.
struct Watch<'l>(&'l Ledger);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.books().failed = true;
            self.0.changed.notify_all();
        }
    }
}

/// Where a daemon is, for clients that outlive it.
struct Target {
    addresses: [SocketAddr; 2],
    trusted: Arc<ClientConfig>,
}

impl Target {
    fn of(daemon: &Daemon) -> Self {
        Self {
            addresses: DOORS.map(|door| daemon.address(door)),
            trusted: Arc::clone(&daemon.trusted),
        }
    }

    /// As far as the login; `None` if the daemon stops or has stopped.
    fn log_in(&self, door: usize) -> Option<Client> {
        /// 421 is what a daemon says that stops.
        fn agreed(reply: Option<String>, start: &str) -> Option<()> {
            let reply = reply?;
            assert!(
                reply.starts_with(start) || reply.starts_with("421 4.3.2 "),
                "{reply}, not {start}"
            );
            reply.starts_with(start).then_some(())
        }
        let mut client =
            Client::try_connect(self.addresses[door], Arc::clone(&self.trusted)).ok()?;
        let starts_plain = DOORS[door] == TlsStart::StartTls;
        if !starts_plain {
            client.try_handshake().ok()?;
        }
        agreed(client.try_reply(), "220 ")?;
        if starts_plain {
            agreed(client.try_ask("EHLO client.example.org"), "250 ")?;
            agreed(client.try_ask("STARTTLS"), "220 ")?;
            client.try_handshake().ok()?;
        }
        agreed(client.try_ask("EHLO client.example.org"), "250 ")?;
        agreed(client.try_login(ALICE, PASSWORD), "235 ")?;
        Some(client)
    }
}

/// Several senders, each in a thread of its own.
pub(super) struct Senders {
    orders: Arc<Orders>,
    threads: Vec<JoinHandle<()>>,
}

/// What senders have to know of the world.
#[derive(Default)]
struct Orders {
    /// That the daemon ends is no fault.
    daemon_may_end: AtomicBool,
    /// No more messages are begun.
    stop: AtomicBool,
}

impl Senders {
    /// They go on for as long as the daemon lets them.
    pub(super) fn daemon_may_end(&self) {
        self.orders.daemon_may_end.store(true, Ordering::SeqCst);
    }

    /// Waits until the daemon's end has ended them all.
    pub(super) fn ended(self) {
        for thread in self.threads {
            thread.join().unwrap();
        }
    }

    /// Lets each end its message, and no more.
    pub(super) fn stop(self) {
        self.orders.stop.store(true, Ordering::SeqCst);
        self.ended();
    }
}

/// A mail program that sends one marked message after the other, on one connection after the other.
pub(super) struct Sender {
    name: String,
    serial: u64,
    chance: Chance,
    ledger: Arc<Ledger>,
}

impl Sender {
    /// `name` makes its markers its own.
    pub(super) fn new(name: String, seed: u64, ledger: &Arc<Ledger>) -> Self {
        Self {
            name,
            serial: 0,
            chance: Chance::from_seed(seed),
            ledger: Arc::clone(ledger),
        }
    }

    /// One message on this connection. `false`: there is no connection any more.
    fn deliver(&mut self, client: &mut Client) -> bool {
        let lines = if self.chance.one_in(LARGE_ONE_IN) {
            LARGE_LINES
        } else {
            self.chance.below(SMALL_LINES_MAX)
        };
        self.deliver_lines(client, lines)
    }

    /// The same, with a message of this size.
    pub(super) fn deliver_lines(&mut self, client: &mut Client, lines: u64) -> bool {
        self.serial += 1;
        let marker = format!("{}-{}-{lines}", self.name, self.serial);
        let mail = format!("MAIL FROM:<{ALICE}>");
        for (line, start) in [
            (mail.as_str(), "250 "),
            ("RCPT TO:<bob@example.net>", "250 "),
            ("DATA", "354 "),
        ] {
            match client.try_ask(line) {
                None => return false,
                Some(reply) if reply.starts_with(start) => {}
                Some(reply) => return self.refused(client, &marker, &reply),
            }
        }
        self.ledger.begun(&marker);
        match client.try_ask(&format!("{}.", text(&marker))) {
            None => {
                assert_eq!(client.unread(), "", "half an answer to {marker}");
                false
            }
            Some(reply) => match reply.strip_prefix("250 2.0.0 queued as ") {
                Some(id) => {
                    self.ledger.acknowledged(&marker, id, lines == LARGE_LINES);
                    true
                }
                None => self.refused(client, &marker, &reply),
            },
        }
    }

    fn refused(&self, client: &mut Client, marker: &str, reply: &str) -> bool {
        assert!(reply.starts_with('4'), "{marker}: {reply}");
        if reply.starts_with("421 ") {
            // Not of this message, which was not begun: the end of the connection.
            assert_eq!(client.rest(), "", "nothing follows {reply}");
            return false;
        }
        self.ledger.refused(marker, reply);
        client
            .try_ask("RSET")
            .is_some_and(|reply| reply.starts_with("250 "))
    }

    /// Sends until it is told to stop or the daemon ends.
    fn run(mut self, target: Target, orders: Arc<Orders>) -> JoinHandle<()> {
        std::thread::spawn(move || {
            let ledger = Arc::clone(&self.ledger);
            let _watch = Watch(&ledger);
            let stop = || orders.stop.load(Ordering::SeqCst);
            while !stop() {
                let door = self.chance.below(DOORS.len() as u64) as usize;
                let messages = 1 + self.chance.below(MESSAGES_PER_CONNECTION_MAX);
                let goes_on = target.log_in(door).is_some_and(|mut client| {
                    (0..messages).all(|_| stop() || self.deliver(&mut client)) && self.leave(client)
                });
                if !goes_on {
                    let may_end = orders.daemon_may_end.load(Ordering::SeqCst);
                    assert!(may_end, "the daemon has ended");
                    return;
                }
            }
        })
    }

    /// In good order or not.
    fn leave(&mut self, mut client: Client) -> bool {
        if self.chance.one_in(3) {
            return true;
        }
        client.try_ask("QUIT").is_some()
    }
}

/// Whoever sees messages onward, while all the rest goes on.
pub(super) struct Consumer {
    thread: JoinHandle<()>,
    over: Arc<AtomicBool>,
}

impl Consumer {
    /// Takes messages at an irregular pace, so that there are always some left and some just taken.
    pub(super) fn start(ledger: &Arc<Ledger>, seed: u64) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (ledger, until) = (Arc::clone(ledger), Arc::clone(&over));
        let mut chance = Chance::from_seed(seed);
        let thread = std::thread::spawn(move || {
            let _watch = Watch(&ledger);
            while !until.load(Ordering::SeqCst) {
                let ids = ledger.queued();
                let count = chance.below(ids.len() as u64 + 1) as usize;
                for id in &ids[..count] {
                    ledger.take(id);
                }
                let known = ledger.counts().acknowledged;
                let _ = ledger
                    .changed
                    .wait_timeout_while(ledger.books(), CONSUMER_PAUSE, |books| {
                        books.counts.acknowledged == known
                    })
                    .unwrap_or_else(PoisonError::into_inner);
            }
        });
        Self { thread, over }
    }

    pub(super) fn stop(self) {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}
