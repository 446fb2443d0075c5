//! How many messages per second, how long each takes, and what they cost in CPU time.
//!
//! Clients send without a pause from the start of the warm-up to the end of the window, and only what was answered
//! within the window counts: no start or end of a run dilutes the figures.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::client::{Client, Endpoint, Failure};
use crate::message::Message;
use crate::server::Server;

/// How long clients may take after the window for what they had begun.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// A server that refuses is not asked again at once.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Clients at once
    #[arg(long)]
    clients: usize,
    /// A new connection after so many messages
    #[arg(long, default_value_t = 1)]
    messages_per_connection: u64,
    /// Octets of a message
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// MAIL, RCPT and DATA in one write
    #[arg(long)]
    pipelining: bool,
    /// Seconds before the window
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Seconds of the window
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

pub(crate) async fn measure(
    args: &Args,
    endpoint: &Arc<Endpoint>,
    server: &Server,
) -> Result<Value, Box<dyn std::error::Error>> {
    let message = Arc::new(Message::new(&endpoint.user, args.size));
    let begin = Instant::now() + Duration::from_secs_f64(args.warm_up);
    let window = begin..begin + Duration::from_secs_f64(args.seconds);
    let mut clients = JoinSet::new();
    for number in 0..args.clients {
        let worker = Worker {
            number,
            endpoint: endpoint.clone(),
            message: message.clone(),
            messages_per_connection: args.messages_per_connection,
            pipelining: args.pipelining,
            window: window.clone(),
            delay: Duration::from_secs_f64(
                args.warm_up / 2.0 * number as f64 / args.clients as f64,
            ),
            tally: Tally::default(),
        };
        clients.spawn(worker.run());
    }

    sleep_until(window.start).await;
    let (before, from) = (server.cpu()?, Instant::now());
    sleep_until(window.end).await;
    let (after, seconds) = (server.cpu()?, from.elapsed().as_secs_f64());

    let mut all = Tally::default();
    let patience = window.end + END_TIMEOUT;
    while let Ok(Some(tally)) = timeout_at(patience, clients.join_next()).await {
        all.add(tally?);
    }
    for _ in 0..clients.len() {
        all.fail(&Failure("end:timeout".to_owned()));
    }

    let accepted = all.message_us.len() as f64;
    let [server, generator, machine] = [
        after.server - before.server,
        after.generator - before.generator,
        after.machine - before.machine,
    ];
    let per_message_ms = |cpu_s: f64| (accepted > 0.0).then(|| rounded(cpu_s * 1000.0 / accepted));
    Ok(json!({
        "accepted": all.message_us.len(),
        "accepted_in_all": all.accepted,
        "failed": all.errors.values().sum::<u64>(),
        "errors": all.errors,
        "messages_per_s": rounded(accepted / args.seconds),
        "mb_per_s": rounded(accepted * args.size as f64 / 1e6 / args.seconds),
        "message_ms": quantiles(all.message_us),
        "setup_ms": quantiles(all.setup_us),
        "server_cpu_ms_per_message": per_message_ms(server),
        "generator_cpu_ms_per_message": per_message_ms(generator),
        "server_cores": rounded(server / seconds),
        "generator_cores": rounded(generator / seconds),
        "other_cores": rounded((machine - server - generator).max(0.0) / seconds),
    }))
}

struct Worker {
    number: usize,
    endpoint: Arc<Endpoint>,
    message: Arc<Message>,
    messages_per_connection: u64,
    pipelining: bool,
    window: Range<Instant>,
    /// Clients come one by one during the first half of the warm-up, not all in one instant.
    delay: Duration,
    tally: Tally,
}

impl Worker {
    async fn run(mut self) -> Tally {
        sleep(self.delay).await;
        let mut number = 0;
        while Instant::now() < self.window.end {
            if let Err(failure) = self.connection(&mut number).await {
                self.tally.fail(&failure);
                sleep(FAILURE_PAUSE).await;
            }
        }
        self.tally
    }

    /// One connection, until it has carried its messages or the window is over.
    async fn connection(&mut self, number: &mut u64) -> Result<(), Failure> {
        let begin = Instant::now();
        let mut client = Client::open(&self.endpoint).await?;
        if self.window.contains(&Instant::now()) {
            self.tally.setup_us.push(begin.elapsed().as_micros() as u64);
        }
        for _ in 0..self.messages_per_connection {
            *number += 1;
            let wire = self.message.wire(self.number, *number);
            let begin = Instant::now();
            client.submit(&wire, self.pipelining).await?;
            let now = Instant::now();
            self.tally.accepted += 1;
            if self.window.contains(&now) {
                self.tally.message_us.push((now - begin).as_micros() as u64);
            }
            if now >= self.window.end {
                break;
            }
        }
        client.quit().await
    }
}

#[derive(Debug, Default)]
struct Tally {
    /// Within the window, and in all.
    message_us: Vec<u64>,
    accepted: u64,
    setup_us: Vec<u64>,
    /// In all, by `stage:code`.
    errors: BTreeMap<String, u64>,
}

impl Tally {
    fn fail(&mut self, failure: &Failure) {
        *self.errors.entry(failure.0.clone()).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        self.message_us.extend(other.message_us);
        self.accepted += other.accepted;
        self.setup_us.extend(other.setup_us);
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }
}

pub(crate) fn quantiles(mut times_us: Vec<u64>) -> Value {
    times_us.sort_unstable();
    let Some(last) = times_us.len().checked_sub(1) else {
        return Value::Null;
    };
    let at = |quantile: f64| {
        rounded(times_us[(last as f64 * quantile).round() as usize] as f64 / 1000.0)
    };
    json!({"p50": at(0.5), "p99": at(0.99), "max": at(1.0)})
}

/// To a thousandth: what is beyond is noise.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_times() {
        let times = (1..=101).rev().map(|time| time * 1000).collect();
        assert_eq!(
            quantiles(times),
            json!({"p50": 51.0, "p99": 100.0, "max": 101.0})
        );
        assert_eq!(quantiles(vec![]), Value::Null);
    }
}
