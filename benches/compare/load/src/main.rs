//! A load generator for mail submission servers on this machine: `run` beside it says what to measure, and this does one
//! measurement of one server and prints it as a JSON object.
//!
//! - A message is accepted when 250 answered its final dot. Everything else is a failure, counted as `stage:code`.
//! - Closed loop: each client waits for its answer before it goes on. (The honest client of a flood keeps to its times.)
//! - Every connection is a full TLS handshake with a verified certificate; there are no session tickets.

mod client;
mod flood;
mod growth;
mod idle;
mod message;
mod server;
mod throughput;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::Value;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, client::Resumption};

/// Measures one mail submission server on loopback and prints a JSON object
#[derive(Debug, Parser)]
struct Args {
    /// The target.json that a server's `up` wrote
    #[arg(long)]
    target: PathBuf,
    /// How TLS begins
    #[arg(long, value_enum, default_value = "starttls")]
    tls: Tls,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tls {
    Starttls,
    Implicit,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Messages per second from several clients
    Throughput(throughput::Args),
    /// Memory for connections that do nothing after their login
    Idle(idle::Args),
    /// Time and memory for one large message
    Growth(growth::Args),
    /// What an honest client notices of those who attack
    Flood(flood::Args),
}

/// What `up` says of its server.
#[derive(Debug, Deserialize)]
struct Target {
    pid: u32,
    starttls: SocketAddr,
    implicit: SocketAddr,
    /// PEM file with the authority that its certificate is by.
    authority: PathBuf,
    user: String,
    password: String,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(result) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<Value, Box<dyn std::error::Error>> {
    let target: Target = serde_json::from_slice(&std::fs::read(&args.target)?)?;
    let server = server::Server::new(target.pid)?;
    let endpoint = Arc::new(client::Endpoint {
        address: match args.tls {
            Tls::Starttls => target.starttls,
            Tls::Implicit => target.implicit,
        },
        starttls: args.tls == Tls::Starttls,
        server_name: ServerName::try_from("localhost")?,
        config: Arc::new(tls_config(&target.authority)?),
        user: target.user,
        password: target.password,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        match &args.what {
            What::Throughput(args) => throughput::measure(args, &endpoint, &server).await,
            What::Idle(args) => idle::measure(args, &endpoint, &server).await,
            What::Growth(args) => growth::measure(args, &endpoint, &server).await,
            What::Flood(args) => flood::measure(args, &endpoint, &server).await,
        }
    });
    runtime.shutdown_background();
    result
}

fn tls_config(authority: &Path) -> Result<ClientConfig, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority)? {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}
