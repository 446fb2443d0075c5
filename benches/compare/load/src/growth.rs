//! One large message: how long it takes, and by how much the server grows meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::client::{Client, Endpoint};
use crate::message::Message;
use crate::server::Server;
use crate::throughput::rounded;

/// How often memory is read while the message is on its way.
const SAMPLE_EVERY: Duration = Duration::from_millis(5);
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Octets of the message
    #[arg(long)]
    size: usize,
}

pub(crate) async fn measure(
    args: &Args,
    endpoint: &Arc<Endpoint>,
    server: &Server,
) -> Result<Value, Box<dyn std::error::Error>> {
    let small = Message::new(&endpoint.user, 4096).wire(0, 0);
    let large = Message::new(&endpoint.user, args.size);
    // The connection and a first message are there before the comparison starts: the rest is the large one's.
    let mut client = Client::open(endpoint).await?;
    client.submit(&small, false).await?;
    sleep(SETTLE).await;

    let before_kib = server.memory_kib();
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
    let submitted = client.submit(&large.wire(0, 1), false).await;
    over.store(true, Ordering::Relaxed);
    let peak_kib = sampler.join().map_err(|_| "the sampler panicked")?;
    submitted?;

    // Once more for the time: reading another's memory holds that one up.
    sleep(SETTLE).await;
    let wire = large.wire(0, 2);
    let begin = Instant::now();
    client.submit(&wire, false).await?;
    let message_ms = begin.elapsed().as_secs_f64() * 1000.0;
    client.quit().await?;
    Ok(json!({
        "message_ms": rounded(message_ms),
        "before_kib": before_kib,
        "peak_kib": peak_kib,
        "growth_kib": peak_kib.saturating_sub(before_kib),
    }))
}
