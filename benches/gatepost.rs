//! What one message costs: the framing of its octets, the whole dialogue in memory, and its way to the disk. And whether
//! the time of a refused login tells why it was refused.
//!
//! ```sh
//! cargo bench -- framing      # or: session, commit, refused
//! ```
//!
//! Figures of one machine say little; compare two versions on the same one. `commit` writes below `$TMPDIR`: set it to
//! the disk that is meant, and not to one that lives in memory.

#![allow(missing_docs, reason = "criterion makes public functions without any")]
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark stops at the first surprise"
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gatepost::account::password::{Parameters, make};
use gatepost::account::{AccountSettings, Accounts, CredentialStore as _};
use gatepost::clock::Now;
use gatepost::containment::{By, Cause, Containment, Login};
use gatepost::decision::{
    Account, Authentication, Caller, Claim, Origin, Rule, SenderPattern, Standing, Verdict,
};
use gatepost::envelope::{Client, Envelope, MessageId, Receipt, Recipient};
use gatepost::queue::{Spool, SpoolSettings};
use gatepost::secret::Secret;
use gatepost::session::{Link, Profile, Session, Step, TlsFacts};
use gatepost::smtp::framing::{Frame, Framer, Mode};

/// How many octets a server reads at once.
const READ_BYTES: usize = 16 << 10;

fn framing(criterion: &mut Criterion) {
    let line = format!("{}\r\n", "x".repeat(74));
    let plain = line.repeat((1 << 20) / line.len());
    let dotted = format!("..{line}").repeat((1 << 20) / (line.len() + 2));
    let mut group = criterion.benchmark_group("framing");
    for (name, body) in [
        ("plain", plain),
        ("every line begins with a period", dotted),
    ] {
        let wire = format!("{body}.\r\n").into_bytes();
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut framer = Framer::default();
                framer.begin_data();
                let mut octets = 0;
                for piece in wire.chunks(READ_BYTES) {
                    framer.push(piece);
                    while let Ok(Some(frame)) = framer.next(Mode::Data) {
                        match frame {
                            Frame::Body(bytes) => octets += bytes.len(),
                            Frame::End | Frame::Line(_) => break,
                        }
                    }
                }
                black_box(octets)
            });
        });
    }
    group.finish();
}

/// A session with everything around it that always says yes, up to the next wait.
fn pump(session: &mut Session, account: &Arc<Account>) -> usize {
    let allow = || {
        Verdict::Allow(Rule {
            name: "bench",
            origin: None,
        })
    };
    let mut messages = 0;
    loop {
        match session.next_step() {
            Step::Append(ask) => ask.answer(Ok(())),
            Step::Begin(ask) => {
                black_box(ask.envelope(MessageId::from_bits(1)));
                ask.answer(Ok(MessageId::from_bits(1)));
            }
            Step::Check(ask) => ask.answer(Ok(Authentication::Accept(Arc::clone(account)))),
            Step::Commit(ask) => {
                messages += 1;
                ask.answer(Ok(Receipt::new(MessageId::from_bits(1), 0)));
            }
            Step::Decide(ask) => ask.answer(allow()),
            Step::LookUp(_) => unreachable!("no client here uses SCRAM"),
            Step::Send(reply) => {
                let mut out = Vec::new();
                reply.write_to(&mut out);
                black_box(out);
            }
            Step::Report(event) => {
                black_box(event);
            }
            Step::Abort | Step::StartTls(_) => {}
            Step::Close | Step::Wait { .. } => return messages,
        }
    }
}

fn account() -> Arc<Account> {
    let origin = Origin {
        file: Path::new("accounts.toml").into(),
        line: 1,
    };
    Arc::new(Account {
        name: "alice@example.org".to_owned(),
        enabled: true,
        allow_from: Vec::new(),
        send_as: vec![(SenderPattern::Any, origin.clone())],
        messages_per_hour: None,
        recipients_per_day: None,
        tripwires: None,
        over_limit: None,
        note: None,
        origin,
        credential: None,
        grant: None,
    })
}

fn session(criterion: &mut Criterion) {
    let account = account();
    let body = "x".repeat(74) + "\r\n";
    let message = format!(
        "From: alice@example.org\r\nSubject: x\r\n\r\n{}.\r\n",
        body.repeat(53)
    );
    let transaction =
        format!("MAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\n{message}");
    let facts = TlsFacts {
        version: "TLSv1.3".to_owned(),
        cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
        ..TlsFacts::default()
    };
    let link = Link {
        client: "203.0.113.7:50123".parse().unwrap(),
        tls: Some(facts),
    };
    let mut session = Session::new(Arc::new(Profile::default()), link, Now::read());
    session.receive(b"EHLO x\r\nAUTH PLAIN AGEAYg==\r\n", Now::read());
    pump(&mut session, &account);

    let mut group = criterion.benchmark_group("session");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one message of 4 KiB", |bencher| {
        bencher.iter(|| {
            session.receive(transaction.as_bytes(), Now::read());
            assert_eq!(pump(&mut session, &account), 1);
        });
    });
    group.finish();
}

fn envelope(id: MessageId) -> Envelope {
    let client = Client {
        address: "203.0.113.7".parse().unwrap(),
        port: 50123,
        name: "laptop.lan".to_owned(),
        mechanism: "PLAIN".to_owned(),
        tls: "TLSv1.3".to_owned(),
        cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
    };
    Envelope {
        account: "alice@example.org".to_owned(),
        reverse_path: "alice@example.org".to_owned(),
        recipients: vec![Recipient::new("bob@example.net")],
        ..Envelope::new(id, Now::read().wall, client)
    }
}

/// Messages made durable per second, against the number of clients that wait at once.
fn commit(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let content = Arc::new(vec![b'x'; 4096]);
    let mut group = criterion.benchmark_group("commit");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    for waiters in [1_u64, 4, 16, 64] {
        let directory = tempfile::tempdir().unwrap();
        let settings = SpoolSettings {
            minimum_free: 0,
            ..SpoolSettings::new(directory.path().join("queue"))
        };
        let (spool, _) = Spool::open(&settings).unwrap();
        group.throughput(Throughput::Elements(waiters));
        group.bench_function(BenchmarkId::new("4 KiB, waiters", waiters), |bencher| {
            bencher.to_async(&runtime).iter(|| {
                let (spool, content) = (spool.clone(), Arc::clone(&content));
                async move {
                    let mut waiting = tokio::task::JoinSet::new();
                    for _ in 0..waiters {
                        let (spool, content) = (spool.clone(), Arc::clone(&content));
                        waiting.spawn(async move {
                            let mut draft = spool
                                .begin(envelope(spool.next_id(Now::read())))
                                .await
                                .unwrap();
                            draft.append(&content).await.unwrap();
                            draft.commit().await.unwrap()
                        });
                    }
                    while let Some(receipt) = waiting.join_next().await {
                        black_box(receipt.unwrap());
                    }
                }
            });
        });
    }
    group.finish();
}

/// A refused login takes the same time whatever the reason, and whatever is remembered. The comparison of a benchmark:
/// that each takes one hash is a test (`every_refusal_costs_one_hash`).
fn refused(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("accounts.toml");
    let entry = |name: &str, more: &str| {
        let hash = make(&Secret::from("correct horse"), Parameters::default()).unwrap();
        format!("[[account]]\nname = \"{name}\"\npassword = \"{hash}\"\n{more}\n")
    };
    let source = entry("alice@example.org", "allow_from = [\"192.0.2.0/24\"]")
        + &entry("off@example.org", "disabled = true")
        + &entry("taken@example.org", "");
    std::fs::write(&file, source).unwrap();
    let settings = AccountSettings {
        file,
        hash_memory: 128 << 20,
        hash_queue: 16,
        cache_for: Some(Duration::from_secs(3600)),
        upgrade_hashes: false,
        named_by_certificates: false,
        issuers: Vec::new(),
    };
    let (accounts, _) = Accounts::open(&settings).unwrap();
    let containment = Arc::new(Containment::default());
    let accounts = accounts.with_containment(Arc::clone(&containment));
    let login = |name: &str, password: &str, address: &str| {
        let claim = Claim::Password {
            authorization_identity: String::new(),
            authentication_identity: name.to_owned(),
            password: Secret::from(password),
        };
        let caller = Caller {
            address: address.parse().unwrap(),
            standing: Standing::New,
        };
        runtime.block_on(accounts.check(&claim, caller)).unwrap()
    };
    let (inside, outside) = ("192.0.2.1", "203.0.113.7");
    let accepted = login("alice@example.org", "correct horse", inside);
    assert!(matches!(accepted, Authentication::Accept(_)), "remembered");
    let accepted = login("taken@example.org", "correct horse", inside);
    assert!(matches!(accepted, Authentication::Accept(_)), "remembered");
    let cause = Cause::new(By::Operator, "stolen", Now::read());
    containment.add(&Login::new("taken@example.org", None), cause);
    let mut group = criterion.benchmark_group("refused");
    group.sample_size(50);
    for (reason, name, password, address) in [
        (
            "no such account",
            "carol@example.org",
            "correct horse",
            inside,
        ),
        ("wrong password", "alice@example.org", "wrong", inside),
        (
            "disabled, wrong password",
            "off@example.org",
            "wrong",
            inside,
        ),
        (
            "disabled, right password",
            "off@example.org",
            "correct horse",
            inside,
        ),
        (
            "wrong network, wrong password",
            "alice@example.org",
            "wrong",
            outside,
        ),
        (
            "wrong network, right password, remembered",
            "alice@example.org",
            "correct horse",
            outside,
        ),
        (
            "contained, wrong password",
            "taken@example.org",
            "wrong",
            inside,
        ),
        (
            "contained, right password, remembered",
            "taken@example.org",
            "correct horse",
            inside,
        ),
    ] {
        group.bench_function(reason, |bencher| {
            bencher.iter(|| {
                let answer = login(name, password, address);
                assert!(matches!(answer, Authentication::Refuse { .. }));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, framing, session, commit, refused);
criterion_main!(benches);
