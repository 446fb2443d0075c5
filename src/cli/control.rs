//! Asks a running daemon, for the commands that need one.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::Failure;
use crate::control::{Answer, Request, SOCKET};
use crate::diagnostic::Finding;

/// How long an answer may take: a daemon that reloads, or whose disk is slow, comes to it later.
const PATIENCE: Duration = Duration::from_secs(60);
/// Octets in an answer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Puts a request to the daemon that has the queue in `directory`. `None`: none is running.
pub(super) fn ask(directory: &Path, request: &Request) -> Result<Option<Value>, Failure> {
    let path = directory.join(SOCKET);
    let failed = |error: io::Error| {
        let finding = Finding::error(format!("cannot ask the running gatepost: {error}"));
        Failure::from(match error.kind() {
            io::ErrorKind::PermissionDenied => finding
                .in_file(&path)
                .hint("be the user that gatepost runs as, or root"),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let seconds = PATIENCE.as_secs();
                Finding::error(format!(
                    "gatepost has not answered within {seconds} seconds"
                ))
                .in_file(&path)
                .hint("what it was asked for goes on: give the command again to hear how it ended")
            }
            _ => finding.in_file(&path),
        })
    };
    let stream = match UnixStream::connect(&path) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        stream => stream.map_err(failed)?,
    };
    match exchange(stream, request).map_err(failed)? {
        Answer::Done(value) => Ok(Some(value)),
        Answer::Failed(reason) => Err(Finding::error(reason).into()),
    }
}

fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut octets = serde_json::to_vec(request)?;
    octets.push(b'\n');
    stream.write_all(&octets)?;
    let mut line = Vec::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}
