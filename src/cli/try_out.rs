//! `gatepost try`: the real server on loopback, with everything that it needs made up on the spot.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;

use super::{Failure, print, say};
use crate::account::password::{self, Parameters};
use crate::clock::Now;
use crate::daemon::{self, Hooks};
use crate::diagnostic::Finding;
use crate::envelope::MessageId;
use crate::event::Event;
use crate::queue::QueueDirectory;
use crate::sandbox::identity::current;
use crate::secret::Secret;
use crate::server::{Listen, TlsStart};
use crate::tls::fresh::self_signed;

/// The account that clients log in with.
const ACCOUNT: &str = "try@localhost";
/// How much of a message is shown.
const SHOWN_LINES_MAX: usize = 60;
const SHOWN_BYTES_MAX: usize = 16 << 10;

/// Try gatepost here and now: no configuration needed, loopback only
///
/// Makes a new folder under the current one with a fresh certificate for localhost, one account and a queue, serves on
/// 127.0.0.1 and ::1 (1587 with STARTTLS, 1465 with implicit TLS), prints commands to paste into another terminal,
/// and shows each message as it arrives. Ctrl-C stops; the folder stays.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The port for STARTTLS; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 1587)]
    starttls_port: u16,
    /// The port for implicit TLS; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 1465)]
    implicit_port: u16,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let password = random_word()?;
    let folder = set_up(args, &password)?;
    let config = folder.join("gatepost.toml");

    let (arrived, arrivals) = mpsc::channel::<MessageId>();
    let queue_folder = folder.join("queue");
    let show = move || {
        for id in arrivals {
            show_message(&queue_folder, &id);
        }
    };
    let (started, printers) = mpsc::channel();
    let observer = move |_: &_, event: &Event| {
        if let Event::MessageAccepted { id, .. } = event {
            // The printer is gone only when the process ends.
            let _ = arrived.send(id.clone());
        }
    };
    let shown_folder = folder.clone();
    let hooks = Hooks {
        observers: vec![Box::new(observer)],
        ready: Some(Box::new(move |listening| {
            // Not before: a thread from before would be outside of the sandbox.
            let _ = started.send(std::thread::spawn(show));
            introduce(&shown_folder, &password, listening)
        })),
    };
    daemon::run(&config, hooks)?;
    for printer in printers {
        let _ = printer.join();
    }
    print(format!(
        "stopped; {} is yours to look at or to remove",
        folder.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Makes the folder and everything in it.
fn set_up(args: &Args, password: &str) -> Result<PathBuf, Finding> {
    let folder = PathBuf::from(format!("gatepost-try-{}", &random_word()?[..6]));
    let fault = |error: io::Error| {
        Finding::error(format!("cannot set up {}: {error}", folder.display()))
            .hint("run it in a folder that you may write to")
    };
    let certificate = self_signed(&["localhost", "127.0.0.1", "::1"], Now::read())
        .map_err(|error| Finding::error(error.to_string()))?;
    let hash = password::make(&Secret::from(password), Parameters::default())
        .map_err(|_| Finding::error("cannot hash a password: no memory or no randomness"))?;
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .map_err(fault)?;
    let loopback = |port| {
        if has_ipv6() && port != 0 {
            format!("[\"127.0.0.1:{port}\", \"[::1]:{port}\"]")
        } else {
            format!("\"127.0.0.1:{port}\"")
        }
    };
    let config = format!(
        "# Made by `gatepost try`. `gatepost -c gatepost.toml serve` runs the same server again.\n\
         hostname = \"localhost\"\n\
         user = \"{}\"\n\n\
         [[listen]]\naddress = {}\ntls = \"starttls\"\n\n\
         [[listen]]\naddress = {}\ntls = \"implicit\"\n\n\
         [[certificate]]\nchain = \"certificate.pem\"\nkey = \"key.pem\"\n\n\
         [accounts]\nfile = \"accounts.toml\"\n\n\
         [queue]\ndirectory = \"queue\"\n",
        current(),
        loopback(args.starttls_port),
        loopback(args.implicit_port),
    );
    let accounts = format!(
        "# Made by `gatepost try`: this account may send as anybody.\n\
         [[account]]\nname = \"{ACCOUNT}\"\npassword = \"{hash}\"\nsend_as = [\"*\", \"<>\"]\n"
    );
    let write = |name: &str, content: &str| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.join(name))?;
        io::Write::write_all(&mut file, content.as_bytes())
    };
    write("gatepost.toml", &config).map_err(fault)?;
    write("accounts.toml", &accounts).map_err(fault)?;
    certificate.write(&folder).map_err(fault)?;
    Ok(folder)
}

/// Says what to do next. One line for each command, so that it can be pasted.
fn introduce(folder: &Path, password: &str, listening: &[Listen]) {
    let port = |tls| {
        listening
            .iter()
            .find(|listen| listen.tls == tls)
            .map_or(0, |listen| listen.address.port())
    };
    let (starttls, implicit) = (port(TlsStart::StartTls), port(TlsStart::Implicit));
    let ca = folder.join("certificate.pem");
    let ca = ca.display();
    let message = format!(
        "From: {ACCOUNT}\\r\\nTo: you@example.net\\r\\nSubject: hello\\r\\n\\r\\nIt works.\\r\\n"
    );
    print(format!(
        "gatepost is ready. Account {ACCOUNT}, password {password}\n"
    ));
    print("Send a message from another terminal in this folder:\n");
    for url in [
        format!("smtp://localhost:{starttls} --ssl-reqd"),
        format!("smtps://localhost:{implicit}"),
    ] {
        print(format!(
            "printf '{message}' | curl --url {url} --cacert {ca} --user {ACCOUNT}:{password} --mail-from {ACCOUNT} --mail-rcpt you@example.net --upload-file -\n"
        ));
    }
    for (port, how) in [(starttls, "--tls"), (implicit, "--tls-on-connect")] {
        print(format!(
            "swaks --server localhost --port {port} {how} --tls-verify --tls-ca-path {ca} --auth PLAIN --auth-user {ACCOUNT} --auth-password {password} --from {ACCOUNT} --to you@example.net\n"
        ));
    }
    print(format!(
        "Messages go to {}. Ctrl-C stops.\n",
        folder.join("queue/ready").display()
    ));
}

/// Shows a message that has just been accepted.
fn show_message(queue: &Path, id: &MessageId) {
    let found = QueueDirectory::open(queue).and_then(|queue| {
        let entry = queue.find(id)?;
        queue.message_path(&entry)
    });
    let path = match found {
        Ok(path) => path,
        Err(error) => return say(Finding::from(&error)),
    };
    let message = match fs::read(&path) {
        Ok(message) => message,
        Err(error) => return say(format!("cannot show {}: {error}", path.display())),
    };
    print(format!(
        "\n--- {} ({} octets)",
        path.display(),
        message.len()
    ));
    let shown = &message[..message.len().min(SHOWN_BYTES_MAX)];
    let text = String::from_utf8_lossy(shown);
    for line in text.lines().take(SHOWN_LINES_MAX) {
        // What a client sent must not reach the terminal as a command to it.
        print(
            line.chars()
                .map(|c| {
                    if c.is_control() && c != '\t' {
                        '\u{fffd}'
                    } else {
                        c
                    }
                })
                .collect::<String>(),
        );
    }
    print(
        if text.lines().count() > SHOWN_LINES_MAX || shown.len() < message.len() {
            "--- (shortened)\n"
        } else {
            "---\n"
        },
    );
}

fn has_ipv6() -> bool {
    let loopback: SocketAddr = (std::net::Ipv6Addr::LOCALHOST, 0).into();
    std::net::TcpListener::bind(loopback).is_ok()
}

/// 16 letters and digits that nobody mistakes for one another: 80 random bits.
fn random_word() -> Result<String, Finding> {
    let mut octets = [0; 16];
    getrandom::fill(&mut octets)
        .map_err(|error| Finding::error(format!("the system has no randomness: {error}")))?;
    Ok(MessageId::from_bits(u128::from_be_bytes(octets)).as_str()[10..].to_owned())
}
