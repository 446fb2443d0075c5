//! What an honest client notices while others attack as fast as they are let.
//!
//! Attackers come from addresses in 127.1.0.0/16, another one for each connection. The honest client begins a submission at appointed times, late or not, on a new connection each, and what counts is the
//! time from the appointment to the 250: a slow answer makes nobody else late.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::client::{self, Client, Endpoint, Failure};
use crate::message::Message;
use crate::server::Server;
use crate::throughput::{quantiles, rounded};

/// How long the attackers are alone at first.
const BUILD_UP: Duration = Duration::from_secs(1);
/// How often memory is read.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// How long submissions may take after the last was begun.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// An attacker whose connection fails does not come again at once.
const FAILURE_PAUSE: Duration = Duration::from_millis(5);

/// Commands in one write of [`Kind::Commands`].
const COMMANDS_AT_ONCE: usize = 1000;

/// What the attackers do, on one connection after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Passwords are tried under TLS
    Guess,
    /// TLS handshakes are finished, and nothing follows
    Handshake,
    /// Connections are broken off as soon as they are there
    Reset,
    /// Nothing is said until the server closes
    Silence,
    /// Commands are sent without end, and no answer is read
    Commands,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the attackers do
    #[arg(long, value_enum, default_value = "guess")]
    kind: Kind,
    /// Attackers at once
    #[arg(long)]
    attackers: u64,
    /// Addresses that they come from
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    sources: u16,
    /// Passwords on one connection
    #[arg(long, default_value_t = 3)]
    tries: u64,
    /// Milliseconds between honest submissions
    #[arg(long, default_value_t = 100)]
    interval_ms: u64,
    /// The honest client comes from another address each time, where nobody has seen it yet; else it submits once before
    /// the attack begins
    #[arg(long)]
    never_seen: bool,
    /// Seconds of honest submissions
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

pub(crate) async fn measure(
    args: &Args,
    endpoint: &Arc<Endpoint>,
    server: &Server,
) -> Result<Value, Box<dyn std::error::Error>> {
    let message = Arc::new(Message::new(&endpoint.user, 4096));
    let before_kib = server.memory_kib();
    if !args.never_seen {
        submit(endpoint, None, &message.wire(0, u64::MAX)).await?;
    }
    let attack = Arc::new(Attack {
        endpoint: endpoint.clone(),
        kind: args.kind,
        sources: args.sources,
        tries: args.tries,
        connections: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    });
    let mut attackers = JoinSet::new();
    for _ in 0..args.attackers {
        attackers.spawn(attack.clone().go_on());
    }
    let over = Arc::new(AtomicBool::new(false));
    let sampler = std::thread::spawn({
        let (server, over) = (server.clone(), over.clone());
        move || {
            let mut peak_kib = 0;
            while !over.load(Ordering::Relaxed) {
                peak_kib = peak_kib.max(server.memory_kib());
                std::thread::sleep(SAMPLE_EVERY);
            }
            peak_kib
        }
    });
    sleep(BUILD_UP).await;

    let (begin, cpu) = (Instant::now(), server.cpu()?);
    let interval = Duration::from_millis(args.interval_ms.max(1));
    let count = (args.seconds / interval.as_secs_f64()) as u32;
    let mut submissions = JoinSet::new();
    for number in 0..count {
        let (endpoint, message) = (endpoint.clone(), message.clone());
        let due = begin + interval * number;
        let source = args.never_seen.then(|| address(2, number as u16));
        submissions.spawn(async move {
            sleep_until(due).await;
            submit(&endpoint, source, &message.wire(0, number.into())).await?;
            Ok::<_, Failure>(due.elapsed())
        });
    }
    let (mut times_us, mut errors) = (Vec::new(), BTreeMap::<String, u64>::new());
    let patience = begin + Duration::from_secs_f64(args.seconds) + END_TIMEOUT;
    while let Ok(Some(submitted)) = timeout_at(patience, submissions.join_next()).await {
        match submitted? {
            Ok(time) => times_us.push(time.as_micros() as u64),
            Err(failure) => *errors.entry(failure.0).or_default() += 1,
        }
    }
    if !submissions.is_empty() {
        errors.insert("end:timeout".to_owned(), submissions.len() as u64);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let server_cores = (server.cpu()?.server - cpu.server) / seconds;
    over.store(true, Ordering::Relaxed);
    let peak_kib = sampler.join().map_err(|_| "the sampler panicked")?;

    attack.is_over.store(true, Ordering::Relaxed);
    let mut answers = BTreeMap::<String, u64>::new();
    let patience = Instant::now() + END_TIMEOUT;
    while let Ok(Some(heard)) = timeout_at(patience, attackers.join_next()).await {
        for (answer, count) in heard? {
            *answers.entry(answer).or_default() += count;
        }
    }
    Ok(json!({
        "accepted": times_us.len(),
        "accepted_of_100": rounded(times_us.len() as f64 * 100.0 / f64::from(count.max(1))),
        "errors": errors,
        "submission_ms": quantiles(times_us),
        "attacks": answers,
        "before_kib": before_kib,
        "peak_kib": peak_kib,
        "growth_mib": rounded(peak_kib.saturating_sub(before_kib) as f64 / 1024.0),
        "server_cores": rounded(server_cores),
    }))
}

async fn submit(endpoint: &Endpoint, source: Option<IpAddr>, wire: &[u8]) -> Result<(), Failure> {
    let mut client = Client::connect(endpoint, source).await?;
    client.login(&endpoint.password).await?;
    client.submit(wire, false).await
}

/// One of the 65,536 addresses of 127.N.0.0/16.
fn address(network: u8, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, network, high, low).into()
}

/// What all attackers share.
#[derive(Debug)]
struct Attack {
    endpoint: Arc<Endpoint>,
    kind: Kind,
    sources: u16,
    tries: u64,
    connections: AtomicU64,
    is_over: AtomicBool,
}

impl Attack {
    /// Attacks to the end; how its connections ended and what they heard, by `stage:what`.
    async fn go_on(self: Arc<Self>) -> BTreeMap<String, u64> {
        let mut answers = BTreeMap::<String, u64>::new();
        while !self.is_over() {
            let number = self.connections.fetch_add(1, Ordering::Relaxed);
            let source = address(1, (number % u64::from(self.sources)) as u16);
            let ended = match self.kind {
                Kind::Guess => self.guess(source, number, &mut answers).await,
                Kind::Handshake => Client::shake_hands(&self.endpoint, source).await,
                Kind::Reset => client::reset(&self.endpoint, source).await,
                Kind::Silence => self.say_nothing(source).await,
                Kind::Commands => self.command(source).await,
            };
            let end = match ended {
                Ok(()) => "done".to_owned(),
                Err(failure) => {
                    sleep(FAILURE_PAUSE).await;
                    failure.0
                }
            };
            *answers.entry(end).or_default() += 1;
        }
        answers
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    async fn guess(
        &self,
        source: IpAddr,
        number: u64,
        answers: &mut BTreeMap<String, u64>,
    ) -> Result<(), Failure> {
        let mut client = Client::connect(&self.endpoint, Some(source)).await?;
        for guess in 0..self.tries {
            if self.is_over() {
                break;
            }
            match client.login(&format!("guess {number} {guess}")).await {
                Ok(()) => return Err(Failure("auth:accepted".to_owned())),
                Err(failure) if matches!(&*failure.0, "auth:535" | "auth:454") => {
                    *answers.entry(failure.0).or_default() += 1;
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    async fn say_nothing(&self, source: IpAddr) -> Result<(), Failure> {
        let mut connection = client::connect(&self.endpoint, Some(source)).await?;
        let mut heard = [0; 512];
        while !self.is_over() {
            match timeout(SAMPLE_EVERY, connection.read(&mut heard)).await {
                Ok(Ok(1..)) | Err(_) => {}
                Ok(Ok(0) | Err(_)) => break,
            }
        }
        Ok(())
    }

    async fn command(&self, source: IpAddr) -> Result<(), Failure> {
        let mut client = Client::connect(&self.endpoint, Some(source)).await?;
        let commands = "NOOP\r\n".repeat(COMMANDS_AT_ONCE);
        while !self.is_over() {
            client.say(commands.as_bytes()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_different() {
        assert_eq!(address(1, 1).to_string(), "127.1.0.1");
        assert_eq!(address(1, 60_000).to_string(), "127.1.234.96");
        assert_eq!(address(2, u16::MAX).to_string(), "127.2.255.255");
    }
}
