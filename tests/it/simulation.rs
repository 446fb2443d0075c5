//! Whole sessions under random clients and random faults, in memory: the session, the real policy, a model queue.
//!
//! A seed is a world: some clients, one after the other or interleaved, that say what clients say, right and wrong, cut
//! anywhere; a disk that fails now and then; logins that cannot be checked; connections that vanish; a server that
//! stops; time that passes. Whatever happens, this must hold at its end:
//!
//! * acknowledged messages are exactly those committed, each once;
//! * what is stored is our fields and then what the client sent, to the octet, without dot-stuffing and Bcc;
//! * nothing is stored for a client without a login, nor from a sender who is not the account's own;
//! * limits hold, and a message that was not committed has used nothing of them; where what is over them is accepted to be
//!   held, it waits, each message once, and one that was not committed does not;
//! * every session ends, and leaves nothing behind.
//!
//! A failing test prints its seed; `GATEPOST_SEED=123 cargo test --test it simulation` runs that one alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gatepost::clock::{Now, Timestamp};
use gatepost::decision::{Authentication, Limit, OverLimit, Question, Refusal};
use gatepost::envelope::{Envelope, MessageId, Receipt};
use gatepost::event::Event;
use gatepost::policy::{Limiter, Policy, PolicySettings};
use gatepost::session::{Link, Profile, Session, Step, TlsFacts};
use gatepost::smtp::reply::Reply;

use crate::support::{Chance, FixedAccounts};

/// How many worlds a test run looks at.
const SEEDS: u64 = 5000;
/// Messages that one account may send in an hour in these worlds: few, so that some run into it.
const MESSAGES_PER_HOUR: u64 = 2;

#[test]
fn worlds_hold_together() {
    let mut sum = Summary::default();
    let seeds = match std::env::var("GATEPOST_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("GATEPOST_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..SEEDS,
    };
    let many = seeds.end - seeds.start > 1;
    // Limits count in minutes of the calendar: a seed must mean the same at any time of day.
    let start = Now {
        wall: "2026-11-21T09:30:30Z".parse().unwrap(),
        ..Now::read()
    };
    for seed in seeds {
        // Shown by the harness where the test fails: the last one is it.
        println!("seed {seed}");
        World::new(seed, start).run(&mut sum);
    }
    println!("{sum:?}");
    // A simulation in which nothing happens proves nothing.
    if many {
        let Summary {
            abandoned,
            acknowledged,
            acknowledged_chunks,
            faults,
            limited,
            postponed,
            refused_logins,
            refused_messages,
            shut_down,
            timed_out,
        } = sum;
        let all = [
            abandoned,
            acknowledged,
            acknowledged_chunks,
            faults,
            limited,
            postponed,
            refused_logins,
            refused_messages,
            shut_down,
            timed_out,
        ];
        assert!(all.iter().all(|&count| count > SEEDS / 50), "{sum:?}");
    }
}

/// What happened, over all worlds.
#[derive(Clone, Copy, Debug, Default)]
struct Summary {
    abandoned: u64,
    acknowledged: u64,
    acknowledged_chunks: u64,
    faults: u64,
    limited: u64,
    postponed: u64,
    refused_logins: u64,
    refused_messages: u64,
    shut_down: u64,
    timed_out: u64,
}

/// The queue as far as a session can tell: drafts, and what was committed.
#[derive(Default)]
struct ModelQueue {
    next: u128,
    drafts: HashMap<MessageId, (Envelope, Vec<u8>)>,
    committed: Vec<Committed>,
}

struct Committed {
    envelope: Envelope,
    /// For the limits of its account.
    postponed: bool,
    text: Vec<u8>,
    time: Timestamp,
}

struct World {
    chance: Chance,
    now: Now,
    accounts: FixedAccounts,
    policy: Policy,
    queue: ModelQueue,
    clients: Vec<Client>,
    /// 0: the disk never fails; else one operation in so many does.
    disk_fails: u64,
    stopping: bool,
}

/// One connection, with both of its ends.
struct Client {
    session: Session,
    plan: Plan,
    /// What it still has to say.
    outgoing: Vec<u8>,
    /// What it has heard and not looked at.
    incoming: Vec<u8>,
    draft: Option<MessageId>,
    /// Messages that it began to send, in order, and what became of each.
    sent: Vec<Sent>,
    /// Ids that it heard of in a 250.
    acknowledged: Vec<String>,
    under_tls: bool,
    logged_in_as: Option<&'static str>,
    closed: bool,
    vanished: bool,
}

/// What a client has in mind next. It waits for the answer to each line unless it pipelines.
struct Plan {
    account: &'static str,
    password: &'static str,
    pipelines: bool,
    stage: Stage,
    transactions: u64,
    /// What the present transaction sends behind DATA.
    message: Message,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Hello,
    StartTls,
    Login,
    Mail,
    Rcpt,
    Data,
    Text,
    Quit,
    Over,
}

/// A message, and what it must be stored as behind our own fields, if it may be stored at all.
#[derive(Clone, Debug, Default)]
struct Message {
    wire: Vec<u8>,
    stored: Option<Stored>,
    recipients: usize,
    /// The same in chunks, if that is how it goes: what stands in place of DATA and of `wire`.
    chunks: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
struct Stored {
    /// The client's own header fields, without Bcc.
    header: Vec<u8>,
    body: Vec<u8>,
}

struct Sent {
    message: Message,
    /// The id of the 250, if it came.
    id: Option<String>,
}

impl World {
    fn new(seed: u64, start: Now) -> Self {
        let mut chance = Chance::from_seed(seed);
        let over_limit = match seed % 2 {
            0 => OverLimit::Refuse,
            _ => OverLimit::Hold,
        };
        let settings = PolicySettings {
            messages_per_hour: (Limit::AtMost(MESSAGES_PER_HOUR.try_into().unwrap()), None),
            recipients_per_day: (Limit::Unlimited, None),
            over_limit: (over_limit, None),
            held_messages: (10_000, None),
        };
        let disk_fails = chance.pick(&[0, 0, 4, 20]);
        let mut world = Self {
            chance,
            now: start,
            accounts: FixedAccounts::new(),
            policy: Policy::new(settings, Arc::new(Limiter::default())),
            queue: ModelQueue::default(),
            clients: Vec::new(),
            disk_fails,
            stopping: false,
        };
        for _ in 0..1 + world.chance.below(4) {
            let client = world.new_client();
            world.clients.push(client);
        }
        world
    }

    fn new_client(&mut self) -> Client {
        let chance = &mut self.chance;
        let under_tls = !chance.one_in(3);
        let profile = Profile {
            hostname: "mail.example.org".to_owned(),
            message_bytes_max: chance.pick(&[2000, 100_000]),
            header_bytes_max: 1500,
            recipients_max: 3,
            errors_max: 5,
            ..Profile::default()
        };
        let link = Link {
            client: "203.0.113.7:50123".parse().unwrap(),
            tls: under_tls.then(tls_facts),
        };
        // Mostly right; bob is disabled, busy cannot be checked.
        let (account, password) = chance.pick(&[
            ("alice@example.org", "secret"),
            ("alice@example.org", "secret"),
            ("carol@example.org", "secret"),
            ("carol@example.org", "secret"),
            ("alice@example.org", "wrong"),
            ("bob@example.org", "hunter2"),
            ("nobody", "x"),
            ("busy", "x"),
        ]);
        let plan = Plan {
            account,
            password,
            pipelines: chance.one_in(2),
            stage: Stage::Greeting,
            transactions: chance.below(8),
            message: Message::default(),
        };
        Client {
            session: Session::new(Arc::new(profile), link, self.now),
            plan,
            outgoing: Vec::new(),
            incoming: Vec::new(),
            draft: None,
            sent: Vec::new(),
            acknowledged: Vec::new(),
            under_tls,
            logged_in_as: None,
            closed: false,
            vanished: false,
        }
    }

    fn run(mut self, sum: &mut Summary) {
        let clients = self.clients.len() as u64;
        // Enough for everything that a client plans; then the server stops, which ends them all.
        for turn in 0..2000 {
            if self.clients.iter().all(|client| client.closed) {
                break;
            }
            let index = self.chance.below(clients) as usize;
            self.turn(index, sum);
            if !self.stopping && (turn == 1500 || self.chance.one_in(1500)) {
                self.stopping = true;
                sum.shut_down += 1;
                for index in 0..self.clients.len() {
                    self.clients[index].session.begin_shutdown();
                    self.pump(index, sum);
                }
            }
        }
        for index in 0..self.clients.len() {
            if !self.clients[index].closed {
                self.clients[index].session.stop_now();
                self.pump(index, sum);
            }
            assert!(self.clients[index].closed, "every session ends");
        }
        self.look_back(sum);
    }

    /// One thing happens to one client.
    fn turn(&mut self, index: usize, sum: &mut Summary) {
        if self.clients[index].closed {
            return;
        }
        match self.chance.below(600) {
            0..=3 => {
                let client = &mut self.clients[index];
                client.vanished = true;
                client.session.disconnected();
                self.pump(index, sum);
            }
            4..=6 => {
                let seconds = self.chance.pick(&[1, 30, 100, 299, 301, 3600]);
                self.now = self.now.after(Duration::from_secs(seconds));
                // Each session hears of time when its wait is over, as from the connection's timer.
                for index in 0..self.clients.len() {
                    self.clients[index].session.tick(self.now);
                    self.pump(index, sum);
                }
            }
            _ => {
                self.pump(index, sum);
                self.think(index);
                self.say(index, sum);
            }
        }
    }

    /// The client reads what it heard and plans what to say.
    fn think(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let mut last = None;
        while let Some(end) = client.incoming.windows(2).position(|two| two == b"\r\n") {
            let line = String::from_utf8(client.incoming.drain(..end + 2).collect()).unwrap();
            let line = line.trim_end().to_owned();
            if let Some(id) = line.strip_prefix("250 2.0.0 queued as ") {
                client.acknowledged.push(id[..26].to_owned());
            }
            if line.as_bytes().get(3) == Some(&b' ') {
                client.hear(&line);
                last = Some(line);
            }
        }
        if !client.outgoing.is_empty() {
            return;
        }
        let Some(last) = last else {
            return;
        };
        client.plan_next(&last, &mut self.chance);
    }

    /// Some of what the client has to say arrives.
    fn say(&mut self, index: usize, sum: &mut Summary) {
        let client = &mut self.clients[index];
        if client.closed || client.outgoing.is_empty() {
            return;
        }
        let most = self.chance.pick(&[1, 7, 100, 16_384]);
        let length = (1 + self.chance.below(most)).min(client.outgoing.len() as u64) as usize;
        let piece: Vec<u8> = client.outgoing.drain(..length).collect();
        client.session.receive(&piece, self.now);
        self.pump(index, sum);
    }

    /// Carries out a session's steps until it waits or closes.
    fn pump(&mut self, index: usize, sum: &mut Summary) {
        let (disk_fails, chance) = (self.disk_fails, &mut self.chance);
        let mut disk = |sum: &mut Summary| {
            let fails = disk_fails > 0 && chance.one_in(disk_fails);
            sum.faults += u64::from(fails);
            match fails {
                true => Err(Refusal::new(Reply::storage_failed(), "disk error")),
                false => Ok(()),
            }
        };
        let (queue, client) = (&mut self.queue, &mut self.clients[index]);
        loop {
            match client.session.next_step() {
                Step::Abort => {
                    let id = client.draft.take().expect("there is a draft to drop");
                    queue.drafts.remove(&id).expect("it is in the queue");
                }
                Step::Append(ask) => {
                    let id = client.draft.as_ref().expect("there is a draft");
                    let stored = disk(sum);
                    if stored.is_ok() {
                        let (_, text) = queue.drafts.get_mut(id).expect("it is in the queue");
                        text.extend_from_slice(ask.bytes());
                    }
                    ask.answer(stored);
                }
                Step::Begin(ask) => match disk(sum) {
                    Ok(()) => {
                        queue.next += 1;
                        let id = MessageId::from_bits(queue.next);
                        let envelope = ask.envelope(id.clone());
                        assert_eq!(Some(envelope.account.as_str()), client.logged_in_as);
                        queue.drafts.insert(id.clone(), (envelope, Vec::new()));
                        assert_eq!(client.draft.replace(id.clone()), None);
                        ask.answer(Ok(id));
                    }
                    Err(refusal) => ask.answer(Err(refusal)),
                },
                Step::LookUp(ask) => {
                    assert!(client.under_tls);
                    let offer = self.accounts.offer(ask.name());
                    ask.answer(offer);
                }
                Step::Check(ask) => {
                    assert!(client.under_tls);
                    let answer = self.accounts.answer(ask.claim());
                    if let Ok(Authentication::Accept(account)) = &answer {
                        assert_eq!(account.name, client.plan.account);
                        client.logged_in_as = Some(client.plan.account);
                    }
                    ask.answer(answer);
                }
                Step::Close => {
                    assert_eq!(client.draft, None, "a closed session leaves no draft");
                    client.closed = true;
                    return;
                }
                Step::Commit(ask) => {
                    let id = client.draft.take().expect("there is a draft");
                    let (envelope, text) = queue.drafts.remove(&id).expect("it is in the queue");
                    match disk(sum) {
                        Ok(()) => {
                            let size = text.len() as u64;
                            let (postponed, recipients) = (ask.is_postponed(), ask.recipients());
                            if postponed {
                                self.policy.settle(ask.account(), &id, recipients);
                                sum.postponed += 1;
                            }
                            queue.committed.push(Committed {
                                envelope,
                                postponed,
                                text,
                                time: self.now.wall,
                            });
                            ask.answer(Ok(Receipt::new(id, size)));
                        }
                        Err(refusal) => {
                            let (account, recipients) = (ask.account(), ask.recipients());
                            match ask.is_postponed() {
                                true => self.policy.withdraw(account, recipients, self.now),
                                false => self.policy.refund(account, recipients, self.now),
                            }
                            ask.answer(Err(refusal));
                        }
                    }
                }
                Step::Decide(ask) => {
                    if let Question::Message { recipients } = ask.question() {
                        let (envelope, _) = &queue.drafts[client.draft.as_ref().unwrap()];
                        assert_eq!(envelope.recipients.len() as u64, recipients);
                    }
                    let verdict = self.policy.decide(ask.account(), ask.question(), self.now);
                    ask.answer(verdict);
                }
                Step::Report(event) => match event {
                    Event::AuthRefused { .. } => sum.refused_logins += 1,
                    Event::MessageAbandoned { .. } => {
                        assert!(client.vanished);
                        sum.abandoned += 1;
                    }
                    Event::MessageRefused { .. } => sum.refused_messages += 1,
                    Event::MailRefused { reply, .. } => {
                        sum.limited += u64::from(reply.code() == 450);
                    }
                    _ => {}
                },
                Step::Send(reply) => {
                    sum.timed_out += u64::from(reply == Reply::timed_out());
                    reply.write_to(&mut client.incoming);
                }
                Step::StartTls(ask) => {
                    client.under_tls = true;
                    ask.answer(tls_facts());
                }
                Step::Wait { .. } => return,
            }
        }
    }

    /// Everything is over: does it hold together?
    fn look_back(mut self, sum: &mut Summary) {
        assert!(self.queue.drafts.is_empty(), "no draft is left");
        for index in 0..self.clients.len() {
            self.think(index);
        }
        let mut acknowledged: Vec<&str> = Vec::new();
        for client in &self.clients {
            acknowledged.extend(client.acknowledged.iter().map(String::as_str));
            assert_eq!(client.acknowledged.len() as u64, client.session.messages());
            assert!(client.logged_in_as.is_some() || client.acknowledged.is_empty());
            let sent: Vec<&String> = client
                .sent
                .iter()
                .filter_map(|sent| sent.id.as_ref())
                .collect();
            let heard: Vec<&String> = client.acknowledged.iter().collect();
            assert_eq!(heard, sent, "each 250 belongs to a message that was sent");
            for sent in &client.sent {
                let Some(id) = &sent.id else {
                    continue;
                };
                let mut committed = self.queue.committed.iter();
                let Committed { envelope, text, .. } = committed
                    .find(|committed| committed.envelope.id.as_str() == id)
                    .unwrap_or_else(|| panic!("{id} was acknowledged and is not stored"));
                assert_eq!(Some(envelope.account.as_str()), client.logged_in_as);
                let Some(stored) = &sent.message.stored else {
                    panic!("{id} is stored: {}", text.escape_ascii());
                };
                check_text(text, stored, envelope);
                sum.acknowledged_chunks += u64::from(sent.message.chunks.is_some());
                assert_eq!(envelope.recipients.len(), sent.message.recipients);
            }
        }
        let mut committed: Vec<&str> = self
            .queue
            .committed
            .iter()
            .map(|committed| committed.envelope.id.as_str())
            .collect();
        acknowledged.sort_unstable();
        committed.sort_unstable();
        assert_eq!(acknowledged, committed, "acknowledged, and committed");
        sum.acknowledged += acknowledged.len() as u64;

        // No stretch of an hour has more than the limit, and what is used of it is what was committed: a minute more
        // or less, since the policy counts in minutes.
        for name in ["alice@example.org", "carol@example.org"] {
            let times: Vec<Timestamp> = self
                .queue
                .committed
                .iter()
                .filter(|committed| committed.envelope.account == name && !committed.postponed)
                .map(|committed| committed.time)
                .collect();
            let within = |end: Timestamp, seconds: i64| {
                let age = |time: &&Timestamp| end.duration_since(**time).as_secs();
                let young = |time: &&Timestamp| (0..seconds).contains(&age(time));
                times.iter().filter(young).count() as u64
            };
            for time in &times {
                assert!(within(*time, 3600) <= MESSAGES_PER_HOUR, "{name}");
            }
            let account = self.accounts.named(name).unwrap();
            let postponed = self
                .queue
                .committed
                .iter()
                .filter(|committed| committed.envelope.account == name && committed.postponed);
            let waiting = self.policy.waiting(&account);
            assert_eq!(waiting.messages, postponed.count() as u64, "{name}");
            let usage = self.policy.usage(&account, self.now);
            let messages = &usage[0];
            let now = self.now.wall;
            let bounds = within(now, 3600)..=within(now, 3660);
            assert!(
                bounds.contains(&messages.used),
                "{name}: {messages:?}, {bounds:?}"
            );
        }
    }
}

/// `text` is our prefix, the client's fields, an empty line and the client's body.
fn check_text(text: &[u8], stored: &Stored, envelope: &Envelope) {
    let tail = [&stored.header[..], b"\r\n", &stored.body].concat();
    let prefix = text
        .strip_suffix(&tail[..])
        .unwrap_or_else(|| panic!("{} ends otherwise", text.escape_ascii()));
    let prefix = std::str::from_utf8(prefix).unwrap();
    let id = envelope.id.as_str();
    assert!(
        prefix.starts_with("Received: by mail.example.org (gatepost)\r\n\twith ESMTPSA id "),
        "{prefix}"
    );
    assert!(prefix.contains(id), "{prefix}");
    let names: Vec<&str> = prefix
        .split("\r\n")
        .filter(|line| !line.starts_with('\t') && !line.is_empty())
        .map(|line| line.split(':').next().unwrap())
        .collect();
    for name in &names {
        assert!(
            matches!(*name, "Received" | "From" | "Date" | "Message-ID"),
            "{prefix}"
        );
    }
    let header = String::from_utf8_lossy(&stored.header).to_lowercase();
    assert_eq!(
        names.contains(&"From"),
        !header.lines().any(|line| line.starts_with("from:")),
        "{prefix}"
    );
}

fn tls_facts() -> TlsFacts {
    TlsFacts {
        version: "TLSv1.3".to_owned(),
        cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
        ..TlsFacts::default()
    }
}

impl Client {
    /// One complete reply.
    fn hear(&mut self, line: &str) {
        // In the order of the messages: each end of data has one answer.
        if self.plan.stage == Stage::Text
            && let Some(sent) = self.sent.last_mut()
            && sent.id.is_none()
        {
            let said = line.strip_prefix("250 2.0.0 queued as ");
            sent.id = said.map(|said| said[..26].to_owned());
        }
    }

    /// The answer to what it said last is `last`, and everything is said.
    fn plan_next(&mut self, last: &str, chance: &mut Chance) {
        let positive = last.starts_with(['2', '3']);
        if chance.one_in(40) {
            // Something out of order, or nothing that anybody understands. Its stage stays as it is.
            if matches!(
                self.plan.stage,
                Stage::Mail | Stage::Rcpt | Stage::Login | Stage::Quit
            ) {
                self.outgoing = chance
                    .pick(&[
                        "NOOP\r\n",
                        "DATA now\r\n",
                        "MAIL FROM:<\r\n",
                        "RCPT TO:<a@b.example> X=Y\r\n",
                        "VRFY x\r\n",
                        "GARBAGE \u{e9}\r\n",
                        "AUTH\r\n",
                    ])
                    .into();
                return;
            }
        }
        match self.plan.stage {
            Stage::Greeting => self.go(Stage::Hello, "EHLO laptop.lan\r\n"),
            Stage::Hello if !self.under_tls && !chance.one_in(6) => {
                self.go(Stage::StartTls, "STARTTLS\r\n");
            }
            Stage::StartTls => self.go(Stage::Hello, "EHLO laptop.lan\r\n"),
            // Some forget the login, some try without TLS; for both everything is refused.
            Stage::Hello if chance.one_in(12) => self.begin_transaction(chance),
            Stage::Hello => {
                let response = base64(&format!("\0{}\0{}", self.plan.account, self.plan.password));
                self.go(Stage::Login, &format!("AUTH PLAIN {response}\r\n"));
            }
            Stage::Login | Stage::Text if self.plan.transactions == 0 => {
                self.go(Stage::Quit, "QUIT\r\n");
            }
            Stage::Login | Stage::Text => {
                self.plan.transactions -= 1;
                self.begin_transaction(chance);
            }
            Stage::Mail if positive => {
                let mut lines = String::new();
                for recipient in 0..self.plan.message.recipients {
                    lines.push_str(&format!("RCPT TO:<r{recipient}@example.net>\r\n"));
                }
                self.go(Stage::Rcpt, &lines);
            }
            // All of them have to be heard; a pipelined batch has said DATA too.
            Stage::Rcpt if self.plan.message.chunks.is_some() => self.send_chunks(Vec::new()),
            Stage::Rcpt => self.go(Stage::Data, "DATA\r\n"),
            Stage::Data if last.starts_with("354") => {
                self.plan.stage = Stage::Text;
                self.outgoing = self.plan.message.wire.clone();
                self.sent.push(Sent {
                    message: self.plan.message.clone(),
                    id: None,
                });
            }
            Stage::Mail | Stage::Data => {
                self.plan.transactions = self.plan.transactions.min(1);
                self.go(Stage::Login, "RSET\r\n");
            }
            Stage::Quit | Stage::Over => self.plan.stage = Stage::Over,
        }
    }

    fn go(&mut self, stage: Stage, text: &str) {
        self.plan.stage = stage;
        self.outgoing = text.into();
    }

    fn begin_transaction(&mut self, chance: &mut Chance) {
        self.plan.message = message(self.plan.account, chance);
        let sender = match chance.below(12) {
            0 => "boss@example.org",
            _ => self.plan.account,
        };
        if sender != self.plan.account {
            self.plan.message.stored = None;
        }
        let mail = format!("MAIL FROM:<{sender}>\r\n");
        if !self.plan.pipelines {
            return self.go(Stage::Mail, &mail);
        }
        let mut batch = mail;
        for recipient in 0..self.plan.message.recipients {
            batch.push_str(&format!("RCPT TO:<r{recipient}@example.net>\r\n"));
        }
        if self.plan.message.chunks.is_some() {
            return self.send_chunks(batch.into_bytes());
        }
        batch.push_str("DATA\r\n");
        self.go(Stage::Data, &batch);
    }

    /// Sends the message by BDAT, behind what comes before it.
    fn send_chunks(&mut self, mut batch: Vec<u8>) {
        batch.extend(self.plan.message.chunks.iter().flatten());
        self.plan.stage = Stage::Text;
        self.outgoing = batch;
        self.sent.push(Sent {
            message: self.plan.message.clone(),
            id: None,
        });
    }
}

/// A random message of `account`, as it goes over the wire and as it must be stored.
fn message(account: &str, chance: &mut Chance) -> Message {
    let mut header = Vec::new();
    let mut kept = Vec::new();
    let mut allowed = true;
    for _ in 0..chance.below(5) {
        let (field, keep) = match chance.below(6) {
            0 => (
                "Bcc: x@example.net,\r\n y@example.net\r\n".to_owned(),
                false,
            ),
            1 => ("Subject: a\r\n\tb\r\n".to_owned(), true),
            2 => ("X-Dots: .\r\n .\r\n".to_owned(), true),
            3 => ("bcc : z@example.net\r\n".to_owned(), false),
            4 => ("Message-Id: <1@laptop.lan>\r\n".to_owned(), true),
            _ => (
                format!("X-Long: {}\r\n", "x".repeat(chance.below(200) as usize)),
                true,
            ),
        };
        header.extend_from_slice(field.as_bytes());
        if keep {
            kept.extend_from_slice(field.as_bytes());
        }
    }
    let author = match chance.below(10) {
        0 => None,
        1 => Some("From: boss@example.org\r\n".to_owned()),
        2 => Some(format!("From: {account},\r\n boss@example.org\r\n")),
        3 => Some(format!("From: {account}\r\nfrom: {account}\r\n")),
        _ => Some(format!("From: \"A\" <{account}>\r\n")),
    };
    if let Some(author) = author {
        allowed = !author.contains("boss") && !author.contains("from:");
        header.extend_from_slice(author.as_bytes());
        kept.extend_from_slice(author.as_bytes());
    }
    let mut body = Vec::new();
    for _ in 0..chance.below(8) {
        let line = chance.pick(&[
            "",
            ".",
            "..",
            ".x",
            "text",
            "From: boss@example.org",
            "\u{e9}",
            "Bcc: q",
            "MAIL FROM:<>",
        ]);
        body.extend_from_slice(line.as_bytes());
        body.extend_from_slice(b"\r\n");
    }
    let mut text = [&header[..], b"\r\n", &body].concat();
    if chance.one_in(15) {
        // Too large for some.
        text.extend_from_slice("z".repeat(3000).as_bytes());
        text.extend_from_slice(b"\r\n");
        body.extend_from_slice("z".repeat(3000).as_bytes());
        body.extend_from_slice(b"\r\n");
    }
    // What smugglers send: at the start of some line, and never stored.
    let smuggled: Option<&[u8]> = chance
        .one_in(15)
        .then(|| chance.pick(&[&b"\n.\n"[..], b"\r.\r", b"\0", b"\n.\r\n", b"\r\n.\n"]));
    allowed &= smuggled.is_none();
    let lines = text.iter().filter(|&&byte| byte == b'\n').count() as u64;
    let smuggled_at = chance.below(lines) as usize;
    let (mut wire, mut unstuffed) = (Vec::new(), Vec::new());
    for (index, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        if let Some(octets) = smuggled
            && index == smuggled_at
        {
            wire.extend_from_slice(octets);
            unstuffed.extend_from_slice(octets);
        }
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
        unstuffed.extend_from_slice(line);
    }
    let chunks = chance.one_in(3).then(|| {
        let (first, rest) = unstuffed.split_at(chance.below(unstuffed.len() as u64 + 1) as usize);
        let mut chunks = Vec::new();
        if chance.one_in(2) {
            chunks.extend(format!("BDAT {} LAST\r\n", unstuffed.len()).bytes());
            chunks.extend_from_slice(&unstuffed);
        } else {
            for (chunk, last) in [(first, ""), (&[], ""), (rest, " LAST")] {
                chunks.extend(format!("BDAT {}{last}\r\n", chunk.len()).bytes());
                chunks.extend_from_slice(chunk);
            }
        }
        chunks
    });
    wire.extend_from_slice(b".\r\n");
    Message {
        wire,
        stored: allowed.then_some(Stored { header: kept, body }),
        recipients: 1 + chance.below(3) as usize,
        chunks,
    }
}

/// RFC 4648 section 4.
fn base64(text: &str) -> String {
    gatepost::sasl::encode_challenge(text.as_bytes())
}
