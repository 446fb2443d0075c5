//! Claims and their answers, against real accounts files.

use std::path::Path;

use super::password::make;
use super::token::TokenCheck;
use super::token::tests::settings as token_settings;
use super::token::tests::signers::{SIGNERS, claims, set as token_keys};
use super::*;
use crate::containment::{By, Cause, Login};
use crate::decision::Standing;
use crate::sasl::external::Fingerprint;
use crate::sasl::scram::Verifier;

fn hash_of(password: &str) -> String {
    let cheap = Parameters {
        memory_kib: 16,
        passes: 1,
        lanes: 1,
    };
    make(&Secret::from(password), cheap).unwrap()
}

fn entry(name: &str, hash: &str) -> String {
    format!("[[account]]\nname = \"{name}\"\npassword = \"{hash}\"\n")
}

fn settings(file: &Path) -> AccountSettings {
    AccountSettings {
        file: file.to_owned(),
        hash_memory: 64 << 10,
        hash_queue: 8,
        cache_for: None,
        upgrade_hashes: false,
        named_by_certificates: false,
        issuers: Vec::new(),
    }
}

fn open(source: &str) -> (Accounts, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("accounts.toml");
    std::fs::write(&file, source).unwrap();
    let (accounts, _) = Accounts::open(&settings(&file)).unwrap();
    (accounts, directory)
}

fn claim(authorization_identity: &str, name: &str, password: &[u8]) -> Claim {
    Claim::Password {
        authorization_identity: authorization_identity.to_owned(),
        authentication_identity: name.to_owned(),
        password: Secret::new(password.to_vec()),
    }
}

/// The account as it stands.
fn named(accounts: &Accounts, name: &str) -> Option<Arc<Account>> {
    let state = accounts.state.load();
    let record = state.directory.find(name)?;
    accounts.account(&record.account)
}

fn from(address: &str) -> Caller {
    Caller {
        address: address.parse().unwrap(),
        standing: Standing::New,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

/// The answer in one line: the account's name, or the reason and the name for the log.
fn answer(accounts: &Accounts, claim: &Claim, client: &str) -> String {
    let check = accounts.check(claim, from(client));
    match runtime().block_on(check).unwrap() {
        Authentication::Accept(account) => format!("accept {}", account.name),
        Authentication::Refuse { reason, name, .. } => {
            format!("{reason:?} {}", name.as_deref().unwrap_or("-"))
        }
    }
}

#[test]
fn claims_and_their_answers() {
    let hash = hash_of("secret");
    let (accounts, _directory) = open(&format!(
        "{}{}disabled = true\n{}allow_from = [\"192.0.2.0/24\", \"2001:db8::/64\"]\n{}",
        entry("alice@example.org", &hash),
        entry("off@example.org", &hash),
        entry("near@example.org", &hash),
        "[[account]]\nname = \"empty@example.org\"\n",
    ));
    let (alice, off, near, empty) = (
        "alice@example.org",
        "off@example.org",
        "near@example.org",
        "empty@example.org",
    );
    for (name, password, expected) in [
        (alice, "secret", "accept alice@example.org"),
        ("alice@EXAMPLE.org", "secret", "accept alice@example.org"),
        (alice, "Secret", "WrongPassword alice@example.org"),
        (
            "ALICE@example.org",
            "secret",
            "UnknownAccount ALICE@example.org",
        ),
        ("hunter2hunter2", "secret", "UnknownAccount -"),
        ("", "secret", "Unusable -"),
        ("al\u{7}ice@example.org", "secret", "Unusable -"),
        (alice, "", "Unusable alice@example.org"),
        (alice, "se\0cret", "Unusable alice@example.org"),
        (off, "secret", "Disabled off@example.org"),
        (off, "wrong", "WrongPassword off@example.org"),
        (near, "secret", "AddressNotAllowed near@example.org"),
        (near, "wrong", "WrongPassword near@example.org"),
        (empty, "secret", "WrongPassword empty@example.org"),
        (empty, "unusable", "WrongPassword empty@example.org"),
    ] {
        let claim = claim("", name, password.as_bytes());
        let answer = answer(&accounts, &claim, "203.0.113.7");
        assert_eq!(answer, expected, "{name:?} {password:?}");
    }
    for (client, expected) in [
        ("192.0.2.9", "accept near@example.org"),
        ("::ffff:192.0.2.9", "accept near@example.org"),
        ("2001:db8::5", "accept near@example.org"),
        ("2001:db8:0:1::5", "AddressNotAllowed near@example.org"),
        ("192.0.3.9", "AddressNotAllowed near@example.org"),
    ] {
        let answer = answer(&accounts, &claim("", near, b"secret"), client);
        assert_eq!(answer, expected, "{client}");
    }
    for (authorization_identity, password, expected) in [
        (alice, "secret", "accept alice@example.org"),
        ("alice@Example.org", "secret", "accept alice@example.org"),
        (off, "secret", "AuthorizationIdentity alice@example.org"),
        ("\0", "secret", "AuthorizationIdentity alice@example.org"),
        (off, "wrong", "WrongPassword alice@example.org"),
    ] {
        let claim = claim(authorization_identity, alice, password.as_bytes());
        let answer = answer(&accounts, &claim, "203.0.113.7");
        assert_eq!(answer, expected, "{authorization_identity:?}");
    }
    for (password, expected) in [
        (b"\x85\xff".as_slice(), "Unusable alice@example.org"),
        (b"\xff", "WrongPassword alice@example.org"),
        (&[b'x'; 2000], "Unusable alice@example.org"),
    ] {
        let answer = answer(&accounts, &claim("", alice, password), "203.0.113.7");
        assert_eq!(answer, expected);
    }
}

#[test]
fn a_remembered_login_needs_no_hash_and_bends_no_rule() {
    let alice = entry("alice@example.org", &hash_of("secret"));
    let (accounts, directory) = open(&alice);
    let file = directory.path().join("accounts.toml");
    let remembering = AccountSettings {
        cache_for: Some(Duration::from_secs(600)),
        ..settings(&file)
    };
    accounts.reconfigure(&remembering).unwrap();
    let login = |password: &str| {
        let claim = claim("", "alice@example.org", password.as_bytes());
        let check = accounts.check(&claim, from("192.0.2.1"));
        match runtime().block_on(check) {
            Ok(Authentication::Accept(_)) => "accepted",
            Ok(Authentication::Refuse { .. }) => "refused",
            Err(Unavailable(_)) => "needs a hash",
        }
    };
    assert_eq!(login("wrong"), "refused");
    assert_eq!(login("secret"), "accepted");
    accounts.state.load().hasher.close();
    assert_eq!(login("secret"), "accepted");
    // A guess is never answered from memory.
    assert_eq!(login("wrong"), "needs a hash");
    // What else is in the file counts at once, and a reload by itself forgets nothing.
    std::fs::write(&file, format!("{alice}disabled = true\n")).unwrap();
    accounts.reload().unwrap();
    // A refusal is paid for, whatever is known: else its time would tell that the password is right.
    assert_eq!(login("secret"), "needs a hash");
    std::fs::write(&file, &alice).unwrap();
    accounts.reload().unwrap();
    assert_eq!(login("secret"), "accepted");
    // The same password, stored anew, is another one.
    std::fs::write(&file, entry("alice@example.org", &hash_of("secret"))).unwrap();
    accounts.reload().unwrap();
    assert_eq!(login("secret"), "needs a hash");
    // "off" forgets.
    std::fs::write(&file, &alice).unwrap();
    accounts.reconfigure(&settings(&file)).unwrap();
    assert_eq!(login("secret"), "needs a hash");
}

/// What a stranger could measure is the work that is done for an answer.
#[test]
fn every_refusal_costs_one_hash() {
    let (scanner, kept) = credential::generate().unwrap();
    let (expired, kept_expired) = credential::generate().unwrap();
    let hash = hash_of("secret");
    let near = "allow_from = [\"192.0.2.0/24\"]\n";
    let of_near = format!(
        "[[account.credential]]\nname = \"scanner\"\nsecret = \"{}\"\n\
         [[account.credential]]\nname = \"old\"\nsecret = \"{}\"\nexpires = 2020-01-01\n",
        kept.to_text(),
        kept_expired.to_text(),
    );
    let (phone, kept_phone) = credential::generate().unwrap();
    let of_taken = format!(
        "[[account.credential]]\nname = \"phone\"\nsecret = \"{}\"\n",
        kept_phone.to_text(),
    );
    let (accounts, directory) = open(&format!(
        "{}{}disabled = true\n{}{near}{of_near}{}{of_taken}[[account]]\nname = \"empty@example.org\"\n",
        entry("alice@example.org", &hash),
        entry("off@example.org", &hash),
        entry("near@example.org", &hash),
        entry("taken@example.org", &hash),
    ));
    let containment = Arc::new(Containment::default());
    let accounts = accounts.with_containment(Arc::clone(&containment));
    let remembering = AccountSettings {
        cache_for: Some(Duration::from_secs(600)),
        ..settings(&directory.path().join("accounts.toml"))
    };
    accounts.reconfigure(&remembering).unwrap();
    let cost = |name: &str, password: &[u8], client: &str| {
        let state = accounts.state.load();
        let before = state.hasher.checks();
        let said = answer(&accounts, &claim("", name, password), client);
        (said, state.hasher.checks() - before)
    };
    // So that it is remembered.
    let (inside, outside) = ("192.0.2.1", "203.0.113.7");
    let accepted = "accept near@example.org".to_owned();
    assert_eq!(
        cost("near@example.org", b"secret", inside),
        (accepted.clone(), 1)
    );
    assert_eq!(cost("near@example.org", b"secret", inside), (accepted, 0));
    let accepted = "accept taken@example.org".to_owned();
    for hashes in [1, 0] {
        let cost = cost("taken@example.org", b"secret", inside);
        assert_eq!(cost, (accepted.clone(), hashes));
    }
    assert_eq!(cost("taken@example.org", phone.expose(), inside).1, 0);
    let cause = Cause::new(By::Operator, "stolen", Now::read());
    containment.add(&Login::new("taken@example.org", None), cause);
    for (name, password, client, reason) in [
        (
            "nobody@example.org",
            b"secret".as_slice(),
            inside,
            "UnknownAccount",
        ),
        ("hunter2hunter2", b"secret", inside, "UnknownAccount"),
        ("a\u{7}", b"secret", inside, "Unusable"),
        ("alice@example.org", b"", inside, "Unusable"),
        ("alice@example.org", b"wrong", inside, "WrongPassword"),
        ("empty@example.org", b"secret", inside, "WrongPassword"),
        ("off@example.org", b"wrong", inside, "WrongPassword"),
        ("off@example.org", b"secret", inside, "Disabled"),
        ("near@example.org", b"wrong", inside, "WrongPassword"),
        ("near@example.org", b"wrong", outside, "WrongPassword"),
        ("near@example.org", b"secret", outside, "AddressNotAllowed"),
        (
            "near@example.org",
            scanner.expose(),
            outside,
            "AddressNotAllowed",
        ),
        ("taken@example.org", b"wrong", inside, "WrongPassword"),
        ("taken@example.org", b"secret", inside, "Contained"),
        ("taken@example.org", phone.expose(), inside, "Contained"),
        ("near@example.org", expired.expose(), inside, "Expired"),
    ] {
        let (said, cost) = cost(name, password, client);
        assert!(said.starts_with(reason), "{name:?} {client}: {said}");
        assert_eq!(cost, 1, "{name:?} {client}: {said}");
    }
    let claim = claim("off@example.org", "near@example.org", b"secret");
    let before = accounts.state.load().hasher.checks();
    let said = answer(&accounts, &claim, inside);
    assert_eq!(said, "AuthorizationIdentity near@example.org");
    assert_eq!(accounts.state.load().hasher.checks() - before, 1);
}

#[test]
fn passwords_as_clients_send_them() {
    let longest = "x".repeat(255);
    for password in [
        "x",
        &longest,
        "a:b",
        "100%",
        "%s%n",
        " ",
        "gr\u{fc}\u{df}",
        "\u{4f60}",
    ] {
        let (accounts, _directory) = open(&entry("a@b.example", &hash_of(password)));
        let answer =
            |octets: &[u8]| answer(&accounts, &claim("", "a@b.example", octets), "192.0.2.1");
        assert_eq!(
            answer(password.as_bytes()),
            "accept a@b.example",
            "{password}"
        );
        let latin: Option<Vec<u8>> = password.chars().map(|c| u8::try_from(c).ok()).collect();
        if let Some(latin) = latin {
            assert_eq!(
                answer(&latin),
                "accept a@b.example",
                "{password} in Latin-1"
            );
        }
        let nul = [password.as_bytes(), b"\0"].concat();
        assert_eq!(answer(&nul), "Unusable a@b.example", "{password}");
    }
}

#[test]
fn hashes_of_other_programs_log_in_and_are_upgraded() {
    // Of "gr\u{fc}\u{df} \u{2168}", as typed: SASLprep would make it another.
    let foreign = "{SSHA256}";
    let typed = "gr\u{fc}\u{df} \u{2168}";
    let salted = [typed.as_bytes(), b"salt"].concat();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &salted);
    let octets = [digest.as_ref(), b"salt"].concat();
    let text = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, octets);
    let source = format!(
        "# kept\n{}note = \"also kept\" # and this\n",
        entry("alice@example.org", &format!("{foreign}{text}"))
    );
    let (accounts, directory) = open(&source);
    let file = directory.path().join("accounts.toml");
    let upgrading = AccountSettings {
        hash_memory: 32 << 20,
        upgrade_hashes: true,
        ..settings(&file)
    };
    assert_eq!(
        accounts.weak(),
        [("alice@example.org".to_owned(), "a single digest")]
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let login = |password: &str| {
        let claim = claim("", "alice@example.org", password.as_bytes());
        let check = accounts.check(&claim, from("192.0.2.1"));
        matches!(runtime.block_on(check).unwrap(), Authentication::Accept(_))
    };
    assert!(!login("wrong") && login(typed));
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        source,
        "it is off by default"
    );
    accounts.reconfigure(&upgrading).unwrap();
    assert!(!login("wrong"));
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        source,
        "a guess upgrades nothing"
    );
    assert!(login(typed));
    // The login has not waited for the file; its thread ends by itself.
    while accounts.upgrading.load(Ordering::Acquire) {
        std::thread::yield_now();
    }
    let upgraded = std::fs::read_to_string(&file).unwrap();
    assert!(
        upgraded.starts_with("# kept\n") && upgraded.contains("also kept\" # and this"),
        "{upgraded}"
    );
    assert!(
        upgraded.contains("password = \"$argon2id$v=19$m=19456,t=2,p=1$"),
        "{upgraded}"
    );
    accounts.reload().unwrap();
    assert_eq!(accounts.weak(), []);
    let claim = claim("", "alice@example.org", typed.as_bytes());
    assert_eq!(
        answer(&accounts, &claim, "192.0.2.1"),
        "accept alice@example.org"
    );
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        upgraded,
        "once is enough"
    );
}

#[test]
fn credentials_and_their_answers() {
    let secrets = [(); 4].map(|()| credential::generate().unwrap());
    let entry_of = |name: &str, index: usize, more: &str| {
        let kept = secrets[index].1.to_text();
        format!("[[account.credential]]\nname = \"{name}\"\nsecret = \"{kept}\"\n{more}\n")
    };
    let source = entry("alice@example.org", &hash_of("secret"))
        + "allow_from = [\"192.0.2.0/24\", \"198.51.100.0/24\"]\n"
        + &entry_of(
            "scanner",
            0,
            "allow_from = [\"198.51.100.7\", \"203.0.113.0/24\"]",
        )
        + &entry_of("old", 1, "expires = 2020-01-01")
        + "[[account]]\nname = \"off@example.org\"\ndisabled = true\n"
        + &entry_of("scanner", 2, "")
        + "[[account]]\nname = \"none@example.org\"\n"
        + &entry_of("scanner", 3, "");
    let (accounts, _directory) = open(&source);
    let alice = "alice@example.org";
    let secret = |index: usize| secrets[index].0.expose();
    let said = |name: &str, password: &[u8], client: &str| {
        let check = claim("", name, password);
        let check = accounts.check(&check, from(client));
        match runtime().block_on(check).unwrap() {
            Authentication::Accept(account) => {
                format!("accept {}", account.credential_name().unwrap_or("-"))
            }
            Authentication::Refuse {
                reason, credential, ..
            } => {
                format!("{reason:?} {}", credential.as_deref().unwrap_or("-"))
            }
        }
    };
    // From where both may, and from nowhere else.
    assert_eq!(said(alice, secret(0), "198.51.100.7"), "accept scanner");
    assert_eq!(
        said(alice, secret(0), "192.0.2.1"),
        "AddressNotAllowed scanner"
    );
    assert_eq!(
        said(alice, secret(0), "203.0.113.1"),
        "AddressNotAllowed scanner"
    );
    assert_eq!(said(alice, b"secret", "192.0.2.1"), "accept -");
    assert_eq!(said(alice, secret(1), "192.0.2.1"), "Expired old");
    assert_eq!(
        said("off@example.org", secret(2), "192.0.2.1"),
        "Disabled scanner"
    );
    // The secret of another account, or none of the account's.
    assert_eq!(said(alice, secret(2), "192.0.2.1"), "WrongPassword -");
    assert_eq!(
        said("nobody@example.org", secret(0), "192.0.2.1"),
        "UnknownAccount -"
    );
    assert_eq!(
        said("none@example.org", b"secret", "192.0.2.1"),
        "WrongPassword -"
    );
    assert_eq!(
        said("none@example.org", secret(3), "192.0.2.1"),
        "accept scanner"
    );
    assert_eq!(accounts.summary().without_password, 0);
    let expired = accounts.expired(Now::read());
    assert_eq!(expired, [(alice.to_owned(), "old".to_owned())]);
    for (credential, used) in [("scanner", true), ("", true), ("old", false)] {
        let last = accounts.memory.last_used(alice, credential);
        assert_eq!(last.is_some(), used, "{credential:?}");
    }
    // No password hash is computed for a credential, and one for whatever else is tried.
    accounts.state.load().hasher.close();
    assert_eq!(said(alice, secret(0), "198.51.100.7"), "accept scanner");
    let wrong = claim("", alice, b"wrong");
    let check = accounts.check(&wrong, from("192.0.2.1"));
    assert!(runtime().block_on(check).is_err());
}

#[test]
fn a_login_ends_with_its_credential() {
    let (secret, kept) = credential::generate().unwrap();
    let alone = entry("alice@example.org", &hash_of("secret"));
    let with = |more: &str| {
        let kept = kept.to_text();
        format!("{alone}[[account.credential]]\nname = \"scanner\"\nsecret = \"{kept}\"\n{more}\n")
    };
    let (accounts, directory) = open(&with(""));
    let file = directory.path().join("accounts.toml");
    let claim = Claim::Password {
        authorization_identity: String::new(),
        authentication_identity: "alice@example.org".to_owned(),
        password: secret,
    };
    let check = accounts.check(&claim, from("192.0.2.1"));
    let Ok(Authentication::Accept(login)) = runtime().block_on(check) else {
        panic!("it is accepted");
    };
    let now = |source: String| {
        std::fs::write(&file, source).unwrap();
        accounts.reload().unwrap();
        accounts.account(&login)
    };
    let narrowed = now(with("rcpt_allow = [\"*@example.org\"]")).unwrap();
    assert_eq!(narrowed.credential.as_ref().unwrap().rcpt_allow.len(), 1);
    assert!(now(with("expires = 2020-01-01")).is_none());
    assert!(now(with("expires = 2999-01-01")).is_some());
    assert!(
        now(alone.clone()).is_none(),
        "the account is there, the credential is not"
    );
    assert!(now(with("disabled = true").replace("disabled = true", "")).is_some());
}

#[test]
fn what_cannot_be_prepared_is_not_what_stands_in_for_it() {
    let (accounts, _directory) = open(&entry("a@b.example", &hash_of("unusable")));
    let answer = answer(&accounts, &claim("", "a@b.example", b""), "192.0.2.1");
    assert!(answer.starts_with("Unusable"), "{answer}");
}

#[test]
fn a_broken_file_keeps_the_old_accounts() {
    let alice = entry("alice@example.org", &hash_of("secret"));
    let (accounts, directory) = open(&alice);
    let file = directory.path().join("accounts.toml");
    for broken in [
        &alice[..alice.len() - 5],
        "",
        "  \n",
        "[[account]]\nnam = 1\n",
    ] {
        std::fs::write(&file, broken).unwrap();
        let findings = accounts.reload().unwrap_err();
        assert!(findings.iter().any(Finding::is_error));
        assert!(named(&accounts, "alice@example.org").is_some(), "{broken}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(accounts.reload().is_err());
    assert!(named(&accounts, "alice@example.org").is_some());

    std::fs::write(&file, alice.replace("alice", "bob") + "disabled = true\n").unwrap();
    let (summary, _) = accounts.reload().unwrap();
    assert_eq!((summary.accounts, summary.disabled), (1, 1));
    assert!(named(&accounts, "alice@example.org").is_none());
    assert!(!named(&accounts, "bob@example.org").unwrap().enabled);

    std::fs::write(&file, "# nobody any more\n").unwrap();
    assert_eq!(accounts.reload().unwrap().0.accounts, 0);
    assert!(named(&accounts, "bob@example.org").is_none());
}

#[test]
fn settings_change_as_a_whole_or_not_at_all() {
    let (accounts, directory) = open(&entry("alice@example.org", &hash_of("secret")));
    let file = directory.path().join("accounts.toml");
    let with_memory = |kib: u64| AccountSettings {
        hash_memory: kib << 10,
        ..settings(&file)
    };
    let login = || {
        let claim = claim("", "alice@example.org", b"secret");
        answer(&accounts, &claim, "192.0.2.1")
    };
    let findings = accounts.reconfigure(&with_memory(8)).unwrap_err();
    assert!(
        findings[0].message.contains("more than the 8 KiB allowed"),
        "{findings:?}"
    );
    assert_eq!(login(), "accept alice@example.org");
    accounts.reconfigure(&with_memory(16)).unwrap();
    assert_eq!(login(), "accept alice@example.org");
}

#[test]
fn an_old_password_does_not_outlive_its_check() {
    let (accounts, directory) = open(&entry("alice@example.org", &hash_of("secret")));
    let claim = claim("", "alice@example.org", b"secret");
    runtime().block_on(async {
        // So that the check is still under way when the file changes, however fast the hash is.
        let held = accounts.state.load().hasher.hold_all();
        let mut check = accounts.check(&claim, from("192.0.2.1"));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let begun = check.as_mut().poll(&mut context);
        assert!(begun.is_pending());
        let file = directory.path().join("accounts.toml");
        std::fs::write(&file, entry("alice@example.org", &hash_of("changed"))).unwrap();
        accounts.reload().unwrap();
        drop(held);
        assert!(check.await.is_err());
    });
}

#[test]
fn scram_proofs_and_their_answers() {
    let keys = |password: &str| {
        let iterations = std::num::NonZeroU32::new(4096).unwrap();
        crate::sasl::scram::Keys::derive(password.as_bytes(), b"salt of 16 bytes", iterations)
    };
    let with_keys = |name: &str, password: &str| {
        format!(
            "[[account]]\nname = \"{name}\"\nscram = \"{}\"\n",
            keys(password).to_text()
        )
    };
    let source = with_keys("alice@example.org", "secret")
        + "allow_from = [\"192.0.2.0/24\"]\n"
        + &entry("hashed@example.org", &hash_of("secret"));
    let (accounts, directory) = open(&source);
    let offer = |name: &str| runtime().block_on(accounts.scram_offer(name)).unwrap();
    let answer_to = |name: &str, verifier: &Arc<Verifier>, matched: Option<usize>, client: &str| {
        let claim = Claim::Scram {
            authorization_identity: String::new(),
            authentication_identity: name.to_owned(),
            proof: Proof {
                verifier: Arc::clone(verifier),
                matched,
            },
        };
        let check = accounts.check(&claim, from(client));
        match runtime().block_on(check) {
            Ok(Authentication::Accept(account)) => format!("accept {}", account.name),
            Ok(Authentication::Refuse { reason, .. }) => format!("{reason:?}"),
            Err(Unavailable(reason)) => reason,
        }
    };
    let alice = offer("alice@EXAMPLE.org");
    let again = offer("alice@example.org");
    assert_ne!(alice.nonce, again.nonce);
    let (alice, near) = (alice.verifier, "192.0.2.1");
    let name = "alice@EXAMPLE.org";
    assert_eq!(
        answer_to(name, &alice, Some(0), near),
        "accept alice@example.org"
    );
    assert_eq!(answer_to(name, &alice, None, near), "WrongPassword");
    assert_eq!(answer_to(name, &alice, Some(1), near), "WrongPassword");
    assert_eq!(
        answer_to(name, &alice, Some(0), "203.0.113.1"),
        "AddressNotAllowed"
    );
    // However a proof comes about, it is good for the keys that the name has, and for no others.
    let nobodys = offer("nobody@example.org").verifier;
    for matched in [None, Some(0)] {
        assert_eq!(
            answer_to("nobody@example.org", &nobodys, matched, near),
            "UnknownAccount"
        );
        let hashed = offer("hashed@example.org").verifier;
        assert_eq!(
            answer_to("hashed@example.org", &hashed, matched, near),
            "NoScramKeys"
        );
        assert_eq!(answer_to("a\u{7}", &nobodys, matched, near), "Unusable");
        let changed = "the account was changed during its password check";
        assert_eq!(answer_to(name, &nobodys, matched, near), changed);
    }
    // Another password, set between the question and the proof.
    let file = directory.path().join("accounts.toml");
    std::fs::write(&file, with_keys("alice@example.org", "changed")).unwrap();
    accounts.reload().unwrap();
    let answer = answer_to(name, &alice, Some(0), near);
    assert_eq!(answer, "the account was changed during its password check");
}

fn certificate(key: &[u8], addresses: &[&str]) -> Certificate {
    Certificate {
        fingerprint: Fingerprint::of(key),
        addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
        not_before: "2020-01-01T00:00:00Z".parse().unwrap(),
        not_after: "2099-12-31T23:59:59Z".parse().unwrap(),
    }
}

#[test]
fn certificates_and_their_answers() {
    let credential = |name: &str, key: &[u8], more: &str| {
        let fingerprint = Fingerprint::of(key);
        format!(
            "[[account.credential]]\nname = \"{name}\"\ncertificate = \"{fingerprint}\"\n{more}\n"
        )
    };
    let source = entry("alice@example.org", &hash_of("secret"))
        + &credential("laptop", b"laptop", "")
        + &credential("scanner", b"scanner", "allow_from = [\"192.0.2.0/24\"]")
        + &credential("old", b"old", "expires = 2020-01-01")
        + "[[account]]\nname = \"bob@example.org\"\n"
        + "[[account]]\nname = \"off@example.org\"\ndisabled = true\n"
        + &credential("laptop", b"off", "");
    let (accounts, _directory) = open(&source);
    let said = |authorization: &str, certificate: Certificate, client: &str| {
        let claim = Claim::Certificate {
            authorization_identity: authorization.to_owned(),
            certificate: Arc::new(certificate),
        };
        let check = accounts.check(&claim, from(client));
        match runtime().block_on(check).unwrap() {
            Authentication::Accept(account) => {
                let credential = account.credential_name().unwrap_or("-");
                format!("accept {} {credential}", account.name)
            }
            Authentication::Refuse {
                reason,
                name,
                credential,
                ..
            } => {
                let (name, credential) = (name.as_deref(), credential.as_deref());
                format!(
                    "{reason:?} {} {}",
                    name.unwrap_or("-"),
                    credential.unwrap_or("-")
                )
            }
        }
    };
    let (alice, bob) = ("alice@example.org", "bob@example.org");
    for (authorization, key, addresses, client, expected) in [
        (
            "",
            &b"laptop"[..],
            &[][..],
            "192.0.2.1",
            "accept alice@example.org laptop",
        ),
        (
            alice,
            b"laptop",
            &[],
            "192.0.2.1",
            "accept alice@example.org laptop",
        ),
        (
            "alice@EXAMPLE.org",
            b"laptop",
            &[],
            "192.0.2.1",
            "accept alice@example.org laptop",
        ),
        (
            bob,
            b"laptop",
            &[],
            "192.0.2.1",
            "AuthorizationIdentity alice@example.org laptop",
        ),
        (
            "\u{7}",
            b"laptop",
            &[],
            "192.0.2.1",
            "AuthorizationIdentity alice@example.org laptop",
        ),
        (
            "",
            b"scanner",
            &[],
            "192.0.2.1",
            "accept alice@example.org scanner",
        ),
        (
            "",
            b"scanner",
            &[],
            "203.0.113.1",
            "AddressNotAllowed alice@example.org scanner",
        ),
        (
            "",
            b"old",
            &[],
            "192.0.2.1",
            "Expired alice@example.org old",
        ),
        (
            "",
            b"off",
            &[],
            "192.0.2.1",
            "Disabled off@example.org laptop",
        ),
        ("", b"other", &[], "192.0.2.1", "UnknownCertificate - -"),
        (alice, b"other", &[], "192.0.2.1", "UnknownCertificate - -"),
        (
            "",
            b"other",
            &["nobody@example.org"],
            "192.0.2.1",
            "UnknownCertificate - -",
        ),
        (
            "",
            b"other",
            &["ALICE@example.org"],
            "192.0.2.1",
            "UnknownCertificate - -",
        ),
        (
            "",
            b"other",
            &["bob@EXAMPLE.ORG"],
            "192.0.2.1",
            "accept bob@example.org -",
        ),
        (
            "",
            b"other",
            &["nobody@example.org", bob, bob],
            "192.0.2.1",
            "accept bob@example.org -",
        ),
        (
            "",
            b"other",
            &["off@example.org"],
            "192.0.2.1",
            "Disabled off@example.org -",
        ),
        (
            "",
            b"other",
            &[alice, bob],
            "192.0.2.1",
            "SeveralAccounts - -",
        ),
        (
            bob,
            b"other",
            &[alice, bob],
            "192.0.2.1",
            "accept bob@example.org -",
        ),
        (
            "off@example.org",
            b"other",
            &[alice, bob],
            "192.0.2.1",
            "AuthorizationIdentity - -",
        ),
        // A credential narrows, and what its certificate says besides must not widen it again.
        (
            "",
            b"scanner",
            &[bob],
            "203.0.113.1",
            "AddressNotAllowed alice@example.org scanner",
        ),
        (
            bob,
            b"old",
            &[bob],
            "192.0.2.1",
            "Expired alice@example.org old",
        ),
        (
            "",
            b"old",
            &[alice],
            "192.0.2.1",
            "Expired alice@example.org old",
        ),
    ] {
        let shown = certificate(key, addresses);
        assert_eq!(
            said(authorization, shown, client),
            expected,
            "{addresses:?}"
        );
    }
    for (not_before, not_after) in [("2020-01-01", "2021-01-01"), ("2098-01-01", "2099-01-01")] {
        let shown = Certificate {
            not_before: format!("{not_before}T00:00:00Z").parse().unwrap(),
            not_after: format!("{not_after}T00:00:00Z").parse().unwrap(),
            ..certificate(b"laptop", &[])
        };
        assert_eq!(
            said("", shown, "192.0.2.1"),
            "CertificateNotValid alice@example.org laptop"
        );
    }
    let last = |credential| accounts.memory.last_used(alice, credential).is_some();
    assert!(last("laptop") && last("scanner") && !last("old"));
    assert!(accounts.has_certificates());
}

#[test]
fn a_certificate_follows_the_file() {
    let source = |fingerprint: Fingerprint| {
        entry("alice@example.org", &hash_of("secret"))
            + &format!(
                "[[account.credential]]\nname = \"laptop\"\ncertificate = \"{fingerprint}\"\n"
            )
    };
    let shown = certificate(b"laptop", &[]);
    let (accounts, directory) = open(&source(shown.fingerprint));
    assert_eq!(accounts.logins_of(&shown).len(), 1);
    let file = directory.path().join("accounts.toml");
    std::fs::write(&file, source(Fingerprint::of(b"the next laptop"))).unwrap();
    accounts.reload().unwrap();
    assert_eq!(accounts.logins_of(&shown), []);
    let next = certificate(b"the next laptop", &[]);
    assert_eq!(accounts.logins_of(&next).len(), 1);
}

#[test]
fn an_account_may_have_nothing_but_a_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("accounts.toml");
    std::fs::write(&file, "[[account]]\nname = \"alice@example.org\"\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for (named_by_certificates, warned) in [(false, true), (true, false)] {
        let settings = AccountSettings {
            named_by_certificates,
            ..settings(&file)
        };
        let (_, warnings) = Accounts::open(&settings).unwrap();
        assert_eq!(warnings.len(), usize::from(warned), "{warnings:?}");
    }
}

// ------------------------------------------------------------------------------------------------- tokens

/// Accounts, and somebody whose tokens log in to them.
fn open_with_issuer(source: &str) -> (Accounts, AccountSettings, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("accounts.toml"), source).unwrap();
    std::fs::write(path("keys.json"), SIGNERS.set()).unwrap();
    let issuer = IssuerSettings {
        check: TokenCheck::KeyFile(path("keys.json")),
        ..token_settings()
    };
    let settings = AccountSettings {
        issuers: vec![issuer],
        ..settings(&path("accounts.toml"))
    };
    let (accounts, warnings) = Accounts::open(&settings).unwrap();
    assert_eq!(
        cannot_log_in(&warnings),
        0,
        "an account without a password is no mistake"
    );
    (accounts, settings, directory)
}

fn cannot_log_in(warnings: &[Finding]) -> usize {
    let about = warnings
        .iter()
        .filter(|warning| warning.message.ends_with(file::CANNOT_LOG_IN));
    about.count()
}

fn token_claim(authorization_identity: &str, token: &str) -> Claim {
    Claim::Token {
        authorization_identity: authorization_identity.to_owned(),
        token: Secret::from(token),
    }
}

fn token_of(name: &str) -> String {
    let mut said = claims();
    said["email"] = name.into();
    let header = serde_json::json!({ "alg": "ES256", "kid": "p256" });
    SIGNERS.p256.token_with(&header, &said.to_string())
}

#[test]
fn tokens_and_their_accounts() {
    let hash = hash_of("secret");
    let account = |name: &str, more: &str| format!("[[account]]\nname = \"{name}\"\n{more}");
    let (accounts, settings, directory) = open_with_issuer(&format!(
        "{}{}{}{}",
        account("alice@example.org", ""),
        account("off@example.org", "disabled = true\n"),
        account("near@example.org", "allow_from = [\"192.0.2.0/24\"]\n"),
        entry("both@example.org", &hash),
    ));
    let refused = |reason: &str| format!("{reason} -");
    for (authorization_identity, token, expected) in [
        (
            "",
            token_of("alice@example.org"),
            "accept alice@example.org".to_owned(),
        ),
        (
            "alice@example.org",
            token_of("alice@EXAMPLE.ORG"),
            "accept alice@example.org".to_owned(),
        ),
        (
            "",
            token_of("both@example.org"),
            "accept both@example.org".to_owned(),
        ),
        (
            "both@example.org",
            token_of("alice@example.org"),
            "AuthorizationIdentity alice@example.org".to_owned(),
        ),
        (
            "",
            token_of("off@example.org"),
            "Disabled off@example.org".to_owned(),
        ),
        (
            "",
            token_of("near@example.org"),
            "AddressNotAllowed near@example.org".to_owned(),
        ),
        // What a provider says is fit for the log: nobody has typed it.
        (
            "",
            token_of("new@example.net"),
            "UnknownAccount new@example.net".to_owned(),
        ),
        ("", token_of("\u{7}@example.org"), refused("Token(Account)")),
        ("", token_of(&"x".repeat(2000)), refused("Token(Account)")),
        (
            "",
            "alice@example.org".to_owned(),
            refused("Token(Malformed)"),
        ),
    ] {
        let claim = token_claim(authorization_identity, &token);
        assert_eq!(answer(&accounts, &claim, "198.51.100.1"), expected);
    }
    let claim = token_claim("", &token_of("near@example.org"));
    assert_eq!(
        answer(&accounts, &claim, "192.0.2.7"),
        "accept near@example.org"
    );

    // The session knows who has vouched for it, until when, and whether they still count.
    let check = accounts.check(&claim, from("192.0.2.7"));
    let Ok(Authentication::Accept(login)) = runtime().block_on(check) else {
        panic!("it is accepted")
    };
    let grant = login.grant.clone().unwrap();
    assert_eq!(&*grant.issuer, settings.issuers[0].issuer);
    let expires = grant.expires.unwrap();
    assert!(!grant.has_expired(Now::read().wall) && grant.has_expired(expires));
    assert!(accounts.account(&login).is_some());
    let nobody_else = AccountSettings {
        issuers: Vec::new(),
        ..settings.clone()
    };
    let (_, warnings) = accounts.reconfigure(&nobody_else).unwrap();
    assert_eq!(cannot_log_in(&warnings), 3);
    assert!(accounts.account(&login).is_none());
    let fault = "Token(Issuer) -";
    assert_eq!(answer(&accounts, &claim, "192.0.2.7"), fault);

    // Other keys in the same file count from the next look at it, and no keys are no reason to forget the old ones.
    accounts.reconfigure(&settings).unwrap();
    let keys = directory.path().join("keys.json");
    std::fs::write(&keys, "{}").unwrap();
    let findings = accounts.reload().unwrap_err();
    let error = findings.iter().find(|finding| finding.is_error()).unwrap();
    assert!(error.message.contains("no set of keys"), "{findings:?}");
    assert_eq!(cannot_log_in(&findings), 0);
    assert_eq!(
        answer(&accounts, &claim, "192.0.2.7"),
        "accept near@example.org"
    );
    let other = SIGNERS
        .p384
        .published(&serde_json::json!({ "kid": "p256" }));
    std::fs::write(&keys, token_keys(&[other])).unwrap();
    accounts.reload().unwrap();
    assert_eq!(answer(&accounts, &claim, "192.0.2.7"), "Token(Algorithm) -");
}
