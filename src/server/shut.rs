//! Connections of those who are banned: no greeting, no TLS, no place among the others.
//!
//! One that is held for a while keeps whoever is behind it from trying again at once, and costs a descriptor and a few
//! hundred octets; so a bounded number of them is held, and any more are closed without a word.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Services, TlsStart};
use crate::event::{Scope, ServerEvent};
use crate::guard::Shut;
use crate::smtp::reply::Reply;

/// How many are held at a time.
pub(super) const HELD_MAX: usize = 64;
/// How long.
const HELD_FOR: Duration = Duration::from_secs(5);
/// How long the last word may take.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);
/// What is read of somebody to whom nobody listens.
const OCTETS_MAX: usize = 16 << 10;

/// Turns a connection away. Where TLS does not come first its client hears why.
pub(super) fn shut_out(
    stream: TcpStream,
    scope: &Scope,
    tls: TlsStart,
    shut: Shut,
    services: &Arc<Services>,
) {
    if shut.report.is_some() {
        let refused = ServerEvent::ConnectionRefused {
            reason: "banned",
            count: shut.report,
        };
        services.audit.server(scope, &refused);
    }
    let Ok(held) = Arc::clone(&services.shut_out).try_acquire_owned() else {
        return;
    };
    let stopping = services.stopping.clone();
    services.tasks.spawn(async move {
        hold(stream, tls, stopping.cancelled()).await;
        drop(held);
    });
}

async fn hold(mut stream: TcpStream, tls: TlsStart, stopping: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = stopping => {}
        () = sleep(HELD_FOR) => {}
        () = gone(&mut stream) => return,
    }
    if tls == TlsStart::StartTls {
        let mut octets = Vec::new();
        Reply::banned().write_to(&mut octets);
        let last_word = async {
            stream.write_all(&octets).await?;
            stream.shutdown().await
        };
        // Whether it was heard is the client's own affair.
        let _ = timeout(LAST_WORD_TIMEOUT, last_word).await;
    }
}

/// Waits until the client has left, or has said more than anybody would.
async fn gone(stream: &mut TcpStream) {
    let mut space = [0; 512];
    let mut left = OCTETS_MAX;
    while left > 0 {
        match stream.read(&mut space).await {
            Ok(0) | Err(_) => return,
            Ok(count) => left = left.saturating_sub(count),
        }
    }
}
