//! The memory that connections take which logged in and then do nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::client::{Client, Endpoint};
use crate::message::Message;
use crate::server::Server;
use crate::throughput::rounded;

/// How many connect at once.
const OPENERS: usize = 16;
/// After so long no more are opened: who hashes at every login takes its time.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);
/// What a server gives back, it has given back by then.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Connections
    #[arg(long)]
    connections: usize,
}

pub(crate) async fn measure(
    args: &Args,
    endpoint: &Arc<Endpoint>,
    server: &Server,
) -> Result<Value, Box<dyn std::error::Error>> {
    // What the first connection and message make a server allocate is not theirs.
    let mut first = Client::open(endpoint).await?;
    let message = Message::new(&endpoint.user, 4096);
    first.submit(&message.wire(0, 0), false).await?;
    first.quit().await?;
    sleep(SETTLE).await;
    let before_kib = server.memory_kib();

    let begin = Instant::now();
    let wanted = Arc::new(AtomicUsize::new(args.connections));
    let mut openers = JoinSet::new();
    for _ in 0..OPENERS {
        let (wanted, endpoint) = (wanted.clone(), endpoint.clone());
        openers.spawn(async move {
            let mut held = Vec::new();
            let mut errors = Vec::new();
            let take = || {
                wanted.try_update(Ordering::Relaxed, Ordering::Relaxed, |wanted| {
                    wanted.checked_sub(1)
                })
            };
            while begin.elapsed() < OPEN_TIMEOUT && take().is_ok() {
                match Client::open(&endpoint).await {
                    Ok(client) => held.push(client),
                    Err(failure) => errors.push(failure),
                }
            }
            (held, errors)
        });
    }
    let (mut held, mut errors) = (Vec::new(), BTreeMap::<String, u64>::new());
    while let Some(opener) = openers.join_next().await {
        let (clients, failures) = opener?;
        held.extend(clients);
        for failure in failures {
            *errors.entry(failure.0).or_default() += 1;
        }
    }
    let open_s = begin.elapsed().as_secs_f64();

    sleep(SETTLE).await;
    let held_kib = server.memory_kib();
    // Only what still answers was held.
    let mut alive = 0;
    for client in &mut held {
        match client.noop().await {
            Ok(()) => alive += 1,
            Err(failure) => *errors.entry(failure.0).or_default() += 1,
        }
    }
    let per_connection =
        (alive > 0).then(|| rounded((held_kib as f64 - before_kib as f64) / f64::from(alive)));
    Ok(json!({
        "wanted": args.connections,
        "alive": alive,
        "errors": errors,
        "open_s": rounded(open_s),
        "before_kib": before_kib,
        "held_kib": held_kib,
        "kib_per_connection": per_connection,
    }))
}
