//! Edits of real files: what changes, and that nothing else does.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;
use crate::account::credential::{Evidence, GeneratedSecret};
use crate::sasl::external::Fingerprint;

const HASH: &str =
    "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
const OTHER: &str =
    "$argon2id$v=19$m=128,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

fn hashed(hash: &str) -> NewPassword {
    NewPassword {
        hash: Some(hash.to_owned()),
        scram: None,
    }
}

fn add(send_as: &[&str], note: Option<&str>) -> Edit {
    Edit::Add(NewAccount {
        password: hashed(HASH),
        send_as: send_as.iter().map(|&text| text.to_owned()).collect(),
        allow_from: Vec::new(),
        note: note.map(str::to_owned),
    })
}

/// Applies the edits to a file that holds `source`, or to none, and gives what is in it then.
fn edited(source: Option<&str>, edits: &[(&str, Edit)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("accounts.toml");
    if let Some(source) = source {
        std::fs::write(&path, source).unwrap();
    }
    for (name, edit) in edits {
        apply(&path, name, edit, 1024).unwrap();
    }
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing is left beside the file: {left:?}");
    std::fs::read_to_string(&path).unwrap()
}

fn sample() -> String {
    format!(
        r#"# Accounts of example.org,
# kept by hand.

# Alice, 1st floor
[[account]]
name = "alice@example.org"   # since 2020
password = "{HASH}" # changed in May
send_as = [
  "alice@example.org", # own
]

# --- machines ---

# the scanner
[[account]]
# it has no other
name = "scanner@example.org"
password = '{HASH}'
disabled = true # broken

# end of file
"#
    )
}

#[test]
fn a_new_file() {
    let text = edited(
        None,
        &[
            ("alice@example.org", add(&[], None)),
            (
                "Bob@Example.org",
                add(
                    &["bob@example.org", "*@lists.example.org"],
                    Some("a \"note\""),
                ),
            ),
        ],
    );
    assert_eq!(
        text,
        format!(
            r#"{TOP_COMMENT}
[[account]]
name = "alice@example.org"
password = "{HASH}"

[[account]]
name = "Bob@Example.org"
password = "{HASH}"
send_as = ["bob@example.org", "*@lists.example.org"]
note = 'a "note"'
"#
        )
    );
}

#[test]
fn adding_keeps_everything() {
    let text = edited(Some(&sample()), &[("carol@example.org", add(&[], None))]);
    assert_eq!(
        text,
        format!(
            "{}\n[[account]]\nname = \"carol@example.org\"\npassword = \"{HASH}\"\n",
            sample()
        )
    );
}

#[test]
fn values_change_and_comments_stay() {
    let set = Edit::SetPassword(hashed(OTHER));
    assert_eq!(
        edited(Some(&sample()), &[("alice@EXAMPLE.org", set)]),
        sample().replacen(HASH, OTHER, 1)
    );
    assert_eq!(
        edited(Some(&sample()), &[("scanner@example.org", Edit::Enable)]),
        sample().replace("disabled = true # broken", "disabled = false # broken")
    );
    assert_eq!(
        edited(Some(&sample()), &[("alice@example.org", Edit::Disable)]),
        sample().replace("# own\n]\n", "# own\n]\ndisabled = true\n")
    );
    for unchanged in [
        ("alice@example.org", Edit::Enable),
        ("scanner@example.org", Edit::Disable),
    ] {
        assert_eq!(edited(Some(&sample()), &[unchanged]), sample());
    }
}

#[test]
fn a_new_password_leaves_nothing_of_the_old_one() {
    let keys = |octet: u8| {
        let iterations = std::num::NonZeroU32::new(4096).unwrap();
        crate::sasl::scram::Keys::derive(&[octet], &[octet; 16], iterations).to_text()
    };
    let set = |hash: Option<&str>, scram: Option<u8>| {
        let password = NewPassword {
            hash: hash.map(str::to_owned),
            scram: scram.map(keys),
        };
        ("alice@example.org", Edit::SetPassword(password))
    };
    let text = edited(Some(&sample()), &[set(Some(OTHER), Some(1))]);
    assert!(text.contains(OTHER) && text.contains(&format!("scram = \"{}\"\n", keys(1))));
    let text = edited(Some(&text), &[set(None, Some(2))]);
    assert!(!text.contains(OTHER) && !text.contains(&keys(1)) && text.contains(&keys(2)));
    let text = edited(Some(&text), &[set(Some(HASH), None)]);
    assert!(text.contains(HASH) && !text.contains("SCRAM"));
}

fn credential(name: &str) -> Edit {
    Edit::AddCredential(NewCredential {
        name: name.to_owned(),
        evidence: Evidence::Secret(GeneratedSecret::parse(SECRET).unwrap()),
        scram: None,
        expires: None,
        allow_from: Vec::new(),
        send_as: Vec::new(),
        rcpt_allow: Vec::new(),
        messages_per_hour: None,
        recipients_per_day: None,
        note: None,
    })
}

const SECRET: &str = "sha256:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";

#[test]
fn credentials_come_and_go() {
    let alice = "alice@example.org";
    let Edit::AddCredential(scanner) = credential("scanner") else {
        unreachable!();
    };
    let narrow = Edit::AddCredential(NewCredential {
        expires: Some("2027-01-31T00:00:00Z".parse().unwrap()),
        allow_from: vec!["192.0.2.0/24".to_owned()],
        send_as: vec![alice.to_owned()],
        rcpt_allow: vec!["*@example.org".to_owned()],
        messages_per_hour: Some(50),
        note: Some("2nd floor".to_owned()),
        ..scanner
    });
    let text = edited(
        Some(&sample()),
        &[(alice, narrow), (alice, credential("phone"))],
    );
    let added = format!(
        r#"
[[account.credential]]
name = "scanner"
secret = "{SECRET}"
expires = 2027-01-31T00:00:00Z
allow_from = ["192.0.2.0/24"]
send_as = ["alice@example.org"]
rcpt_allow = ["*@example.org"]
messages_per_hour = 50
note = "2nd floor"

[[account.credential]]
name = "phone"
secret = "{SECRET}"
"#
    );
    let expected = sample().replace("# own\n]\n", &format!("# own\n]\n{added}"));
    assert_eq!(text, expected);
    let Edit::AddCredential(blank) = credential("printer") else {
        unreachable!();
    };
    let printer = Edit::AddCredential(NewCredential {
        evidence: Evidence::Certificate(Fingerprint::of(b"")),
        ..blank
    });
    let with_certificate = edited(Some(&text), &[(alice, printer)]);
    let fingerprint = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let added_too =
        format!("\n[[account.credential]]\nname = \"printer\"\ncertificate = \"{fingerprint}\"\n");
    let phone = format!("name = \"phone\"\nsecret = \"{SECRET}\"\n");
    let with_both = text.replace(&phone, &format!("{phone}{added_too}"));
    assert_eq!(with_certificate, with_both);
    let remove = |name: &str| (alice, Edit::RemoveCredential(name.to_owned()));
    // One goes, the other stays; without any, the file is as it was.
    let (without_scanner, _) = added
        .split_once("\n[[account.credential]]\nname = \"phone\"")
        .unwrap();
    let without_scanner = expected.replace(without_scanner, "");
    assert_eq!(edited(Some(&text), &[remove("scanner")]), without_scanner);
    assert_eq!(
        edited(Some(&text), &[remove("phone"), remove("scanner")]),
        sample()
    );
    // Another password, and a new account behind, leave them alone.
    let other = [
        (alice, Edit::SetPassword(hashed(OTHER))),
        ("new@example.org", add(&[], None)),
    ];
    let changed = edited(Some(&text), &other);
    assert!(changed.contains(&added) && changed.ends_with(&format!("password = \"{HASH}\"\n")));
    let comments = text.replace(
        "\n[[account.credential]]\nname = \"phone\"",
        "\n# --- small things ---\n\n# in her pocket\n[[account.credential]]\nname = \"phone\"",
    );
    let removed = edited(Some(&comments), &[remove("phone")]);
    assert!(
        removed.contains("small things") && !removed.contains("pocket"),
        "{removed}"
    );
}

#[test]
fn removing_takes_the_entry_and_its_own_comment() {
    assert_eq!(
        edited(Some(&sample()), &[("scanner@example.org", Edit::Remove)]),
        format!(
            r#"# Accounts of example.org,
# kept by hand.

# Alice, 1st floor
[[account]]
name = "alice@example.org"   # since 2020
password = "{HASH}" # changed in May
send_as = [
  "alice@example.org", # own
]

# --- machines ---

# end of file
"#
        )
    );
    let first_removed = edited(Some(&sample()), &[("alice@example.org", Edit::Remove)]);
    assert!(first_removed.starts_with("# Accounts of example.org,\n# kept by hand.\n"));
    assert!(first_removed.contains("# --- machines ---\n\n# the scanner\n[[account]]\n"));
    assert!(!first_removed.contains("alice@"));
}

#[test]
fn the_last_account_leaves_a_file_that_is_not_empty() {
    let source = format!("[[account]]\nname = \"a@b.example\"\npassword = \"{HASH}\"\n");
    let text = edited(Some(&source), &[("a@b.example", Edit::Remove)]);
    assert_eq!(text, TOP_COMMENT);
}

#[test]
fn what_cannot_be_done_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("accounts.toml");
    let fails = |name: &str, edit: &Edit| -> String {
        let findings = apply(&path, name, edit, 1024).unwrap_err();
        findings.iter().map(Finding::one_line).collect()
    };
    assert!(fails("alice@example.org", &Edit::Remove).contains("no accounts file"));
    assert!(!path.exists());
    for (source, name, edit, expected) in [
        (
            sample(),
            "alcie@example.org",
            Edit::Remove,
            "did you mean `alice@example.org`?",
        ),
        (
            sample(),
            "alice@Example.org",
            add(&[], None),
            "exists already",
        ),
        (sample(), "", add(&[], None), "the name is empty"),
        (
            sample(),
            "new@example.org",
            add(&["nonsense"], None),
            "`nonsense` is not an address",
        ),
        (
            sample(),
            "alice@example.org",
            Edit::SetPassword(hashed("plain")),
            "is not a password hash that can be checked",
        ),
        (
            sample(),
            "alice@example.org",
            Edit::RemoveCredential("scanner".to_owned()),
            "has no credential `scanner` (hint: it has none at all)",
        ),
        (
            sample() + "surprise = 1\n",
            "alice@example.org",
            Edit::Disable,
            "unknown key `surprise`",
        ),
        (
            format!("account = [{{ name = \"a@b.example\", password = \"{HASH}\" }}]\n"),
            "a@b.example",
            Edit::Disable,
            "below its own [[account]]",
        ),
    ] {
        std::fs::write(&path, &source).unwrap();
        let said = fails(name, &edit);
        assert!(said.contains(expected), "{said}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), source);
    }
}

#[test]
fn modes_and_links() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("accounts.toml");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    let made = apply(&path, "alice@example.org", &add(&[], None), 1024).unwrap();
    assert!(made.created && made.changed);
    assert_eq!(mode(&path), 0o600);
    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let link = directory.path().join("link.toml");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    // What a crash left behind is no obstacle.
    std::fs::write(directory.path().join(".accounts.toml.new"), "half").unwrap();
    apply(&link, "alice@example.org", &Edit::Disable, 1024).unwrap();
    assert_eq!(mode(&path), 0o640);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .contains("disabled = true")
    );
}

#[test]
fn concurrent_edits_all_take_effect() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("accounts.toml");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let path = &path;
            scope.spawn(move || {
                let name = format!("user{number}@example.org");
                apply(path, &name, &add(&[], None), 1024).unwrap();
            });
        }
    });
    let (accounts, _) = Directory::read(&path, 1024).unwrap();
    assert_eq!(accounts.records().len(), 8);
}

#[test]
fn only_new_warnings_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("accounts.toml");
    std::fs::write(&path, "[[account]]\nname = \"a@b.example\"\n").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let edited = apply(&path, "scanner", &add(&[], None), 1024).unwrap();
    let said: Vec<_> = edited.warnings.iter().map(|w| w.message.as_str()).collect();
    assert_eq!(
        said,
        ["account `scanner` may send as nobody: its name is no address and it has no send_as"]
    );
}

#[test]
fn an_upgrade_does_not_undo_another_password() {
    let alice = "alice@example.org";
    let upgrade = || {
        let from = Arc::new(Stored::parse(HASH, 1024).unwrap());
        let hash = OTHER.to_owned();
        (alice, Edit::UpgradePassword { from, hash })
    };
    assert_eq!(
        edited(Some(&sample()), &[upgrade()]),
        sample().replacen(HASH, OTHER, 1)
    );
    // Somebody has set another password while the hash was computed.
    let newer = HASH.replace("m=256", "m=512");
    let set = (alice, Edit::SetPassword(hashed(&newer)));
    assert_eq!(
        edited(Some(&sample()), &[set, upgrade()]),
        sample().replacen(HASH, &newer, 1)
    );
}

#[test]
fn trip_wires_stay_where_they_are() {
    let alice = "alice@example.org";
    let with =
        |wires: &str| format!("[[account]]\nname = \"{alice}\"\npassword = \"{HASH}\"\n{wires}");
    let dotted = with("tripwires.networks_per_hour = 40 # trains\n");
    let table = with("\n# by train\n[account.tripwires]\nnetworks_per_hour = 40 # trains\n");
    for source in [dotted, table] {
        let edits = [
            (alice, Edit::Disable),
            (alice, credential("phone")),
            (alice, Edit::SetPassword(NewPassword::default())),
            (alice, Edit::RemoveCredential("phone".to_owned())),
        ];
        for count in 1..=edits.len() {
            let text = edited(Some(&source), &edits[..count]);
            assert!(text.contains("networks_per_hour = 40 # trains\n"), "{text}");
            assert_eq!(
                text.contains("# by train"),
                source.contains("# by train"),
                "{text}"
            );
            let path = Path::new("accounts.toml");
            let (directory, _) = Directory::parse(path, &text, u32::MAX).unwrap();
            let account = &directory.find(alice).unwrap().account;
            let own = account.tripwires.as_ref().unwrap();
            assert!(
                own.networks_per_hour.is_some() && !account.enabled,
                "{text}"
            );
        }
    }
}
