//! What the reader says about files, line by line.

use std::num::NonZeroU64;

use ipnet::IpNet;

use super::*;
use crate::decision::{Limit, Origin, OverLimit, TripwireMode};

const HASH: &str =
    "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

fn parse(source: &str) -> Result<(Directory, Vec<Finding>), Vec<Finding>> {
    Directory::parse(Path::new("accounts.toml"), source, 1024)
}

/// All that is said about `source`, one finding per line and without its text.
fn said(source: &str) -> String {
    let findings = match parse(source) {
        Ok((_, findings)) | Err(findings) => findings,
    };
    let lines: Vec<String> = findings.iter().map(Finding::one_line).collect();
    lines.join("\n")
}

#[test]
fn a_whole_file() {
    let source = format!(
        r#"# Accounts of example.org
[[account]]
name = "Alice@Example.ORG"
password = "{HASH}"

[[account]]
name = "scanner"
password = "{HASH}"
send_as = [
  "scanner@example.org",
  "*@lists.example.org", "<>", "*",
]
disabled = true
messages_per_hour = 50
recipients_per_day = "unlimited"
allow_from = ["192.0.2.0/24", "2001:db8::1"]
note = "2nd floor"
"#
    );
    let (directory, warnings) = parse(&source).unwrap();
    assert_eq!(warnings, []);
    let alice = &directory.find("Alice@example.org").unwrap().account;
    assert_eq!(alice.origin.to_string(), "accounts.toml:2");
    assert_eq!(alice.send_as.len(), 1);
    assert_eq!(alice.send_as[0].0.to_string(), "Alice@example.org");
    assert_eq!(alice.send_as[0].1.line, 2);
    assert_eq!(alice.messages_per_hour, None);
    assert!(alice.enabled && alice.allow_from.is_empty());
    let scanner = &directory.find("scanner").unwrap().account;
    assert!(!scanner.enabled);
    let patterns: Vec<String> = scanner
        .send_as
        .iter()
        .map(|(pattern, origin)| format!("{}:{pattern}", origin.line))
        .collect();
    assert_eq!(
        patterns,
        [
            "10:scanner@example.org",
            "11:*@lists.example.org",
            "11:<>",
            "11:*"
        ]
    );
    let limit = |own: &Option<(Limit, Origin)>| {
        let (limit, origin) = own.as_ref().unwrap();
        (*limit, origin.line)
    };
    let fifty = Limit::AtMost(NonZeroU64::new(50).unwrap());
    assert_eq!(limit(&scanner.messages_per_hour), (fifty, 14));
    assert_eq!(limit(&scanner.recipients_per_day), (Limit::Unlimited, 15));
    let networks: Vec<String> = scanner.allow_from.iter().map(IpNet::to_string).collect();
    assert_eq!(networks, ["192.0.2.0/24", "2001:db8::1/128"]);
    assert_eq!(scanner.note.as_deref(), Some("2nd floor"));
    assert!(directory.find("alice@example.org").is_none());
}

#[test]
fn what_becomes_of_messages_over_the_limits() {
    let account = |over_limit: &str| {
        format!(
            "[[account]]\nname = \"alice\"\npassword = \"{HASH}\"\nsend_as = [\"*\"]\n{over_limit}\n"
        )
    };
    for (line, expected) in [
        ("", None),
        ("over_limit = \"refuse\"", Some((OverLimit::Refuse, 5))),
        ("over_limit = \"hold\"", Some((OverLimit::Hold, 5))),
    ] {
        let (directory, warnings) = parse(&account(line)).unwrap();
        assert_eq!(warnings, []);
        let over_limit = directory.find("alice").unwrap().account.over_limit.clone();
        let over_limit = over_limit.map(|(over_limit, origin)| (over_limit, origin.line));
        assert_eq!(over_limit, expected);
    }
    for wrong in ["over_limit = \"queue\"", "over_limit = true"] {
        assert_eq!(
            said(&account(wrong)),
            "accounts.toml:5:14: account `alice`: over_limit is not \"refuse\" or \"hold\" (hint: over_limit = \"hold\")"
        );
    }
    // A credential has no say in it.
    let credential = format!(
        "{}[[account.credential]]\nname = \"a\"\nsecret = \"sha256:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ\"\nover_limit = \"hold\"\n",
        account("")
    );
    let text = said(&credential);
    assert!(text.contains("unknown key `over_limit`"), "{text}");
}

#[test]
fn every_mistake_is_found_at_once() {
    let source = r#"[[account]]
name = "alice@example.org"
sendas = ["a@example.org"]
send_as = ["nobody", 7]
disabled = "yes"
messages_per_hour = 0
recipients_per_day = "none"
allow_from = ["192.0.2.1/33", "192.0.2.9/24"]
note = 3

[[account]]
note = "no name"

[[account]]
name = "alice@EXAMPLE.org"
send_as = []
allow_from = []

[[acount]]
name = "x"
"#;
    assert_eq!(
        said(source),
        r#"accounts.toml:1:1: account `alice@example.org` has no password and cannot log in (hint: gatepost account password alice@example.org)
accounts.toml:3:1: account `alice@example.org`: unknown key `sendas` (hint: did you mean `send_as`?)
accounts.toml:4:12: account `alice@example.org`: `nobody` is not an address, `*@domain`, `*` or `<>` (hint: send_as = ["alice@example.org", "*@lists.example.org"])
accounts.toml:4:22: account `alice@example.org`: send_as is not a list of texts (hint: send_as = ["alice@example.org", "*@lists.example.org"])
accounts.toml:5:12: account `alice@example.org`: disabled is not true or false (hint: disabled = true)
accounts.toml:6:21: account `alice@example.org`: messages_per_hour is not a positive integer or "unlimited" (hint: messages_per_hour = 50; to stop the account, say disabled = true)
accounts.toml:7:22: account `alice@example.org`: recipients_per_day is not a positive integer or "unlimited" (hint: recipients_per_day = 50; to stop the account, say disabled = true)
accounts.toml:8:15: account `alice@example.org`: `192.0.2.1/33` is neither a network nor an address (hint: allow_from = ["192.0.2.0/24", "2001:db8::1"])
accounts.toml:8:31: account `alice@example.org`: `192.0.2.9/24` means the network 192.0.2.0/24
accounts.toml:9:8: account `alice@example.org`: note is not a text (hint: note = "2nd floor")
accounts.toml:11:1: account number 2 has no name (hint: name = "alice@example.org")
accounts.toml:11:1: account number 2 has no password and cannot log in (hint: gatepost account password NAME)
accounts.toml:14:1: account `alice@EXAMPLE.org` has no password and cannot log in (hint: gatepost account password alice@EXAMPLE.org)
accounts.toml:15:8: account `alice@EXAMPLE.org` is there twice, first on line 2 (hint: names are compared without regard to the case of the domain)
accounts.toml:16:11: account `alice@EXAMPLE.org`: send_as is empty (hint: leave it out for the account's own name, or say disabled = true)
accounts.toml:17:14: account `alice@EXAMPLE.org`: allow_from is empty (hint: leave it out to allow every address, or say disabled = true)
accounts.toml:19:3: unknown key `acount` (hint: did you mean `account`?)"#
    );
}

#[test]
fn shapes_of_the_whole_file() {
    for (source, expected) in [
        ("", "there is no account: nobody can log in"),
        ("# nothing\n", "there is no account: nobody can log in"),
        (
            "[account]\nname = \"a@example.org\"\n",
            "accounts.toml:1:2: `account` is not a list of accounts (hint: begin each account with [[account]], in two brackets)",
        ),
        (
            "account = [1]",
            "accounts.toml:1:12: an account is a table of keys",
        ),
        (
            "[[account]\nname = 1",
            "accounts.toml:1:11: not valid TOML: ",
        ),
        (
            "[[account]]\nname = \"a\"\nname = \"b\"",
            "accounts.toml:3:1: not valid TOML: duplicate key",
        ),
        (
            "[[account]]\nname = \"scanner\"\n",
            "account `scanner` may send as nobody: its name is no address and it has no send_as",
        ),
    ] {
        let said = said(source);
        assert!(said.contains(expected), "{source:?}: {said}");
    }
}

#[test]
fn no_finding_shows_a_password() {
    let secret = "Tr0ub4dor";
    for (shape, quote) in [
        ("password = @", '"'),
        ("password = @", '\''),
        ("password = \"$argon2id$@", '"'),
        ("pasword = @", '"'),
        ("hash = @", '"'),
        ("scram = @", '"'),
        ("scram = \"SCRAM-SHA-256$4096:@", '"'),
        ("scam = @", '"'),
        ("scram @", '"'),
        ("password = @", ' '),
        ("password = \"@", ' '),
        ("password = [@]", '"'),
        ("password @", '"'),
        ("password: @", '"'),
        ("password = \"\"\"\n@\n\"\"\" x", ' '),
        ("password = \"x\"\npassword = @", '"'),
        ("@", '"'),
        ("@ = 1", ' '),
    ] {
        let line = shape.replace('@', &format!("{quote}{secret}{quote}"));
        no_secret(
            &format!("[[account]]\nname = \"a@b.example\"\n{line}"),
            secret,
        );
    }
    for source in [
        "account = [{ name = 7, password = \"Tr0ub4dor\" }]",
        "account = [{ name = \"a@b.example\", pwd = \"Tr0ub4dor\", disabled = 1 }]",
        "[account]\nname = \"a@b.example\"\npassword = \"Tr0ub4dor\"",
        "account = { password = \"Tr0ub4dor\" }",
        "[alice]\npassword = \"Tr0ub4dor\"",
        "alice = \"Tr0ub4dor\"",
    ] {
        no_secret(source, secret);
    }
}

fn no_secret(source: &str, secret: &str) {
    let findings = parse(source).unwrap_err();
    assert!(!findings.is_empty(), "{source}");
    for finding in findings {
        let shown = format!("{finding}\n{finding:?}");
        // A bare word in the place of a key is what the finding is about, and is named as such.
        let named = shown.contains(&format!("unknown key `{secret}`"));
        assert!(named || !shown.contains(secret), "{source}\n{shown}");
    }
}

#[test]
fn other_lines_are_shown() {
    let findings = parse("[[account]]\nname = \"a@b.example\"\nsendas = []\n").unwrap_err();
    assert!(
        findings
            .iter()
            .any(|finding| finding.to_string().contains("3 | sendas = []")),
        "{findings:?}"
    );
}

#[test]
fn hashes_past_their_ceilings_name_the_entry() {
    let source = format!(
        "[[account]]\nname = \"a@b.example\"\npassword = \"{}\"\n",
        HASH.replace("m=256", "m=1025")
    );
    let said = said(&source);
    assert!(
        said.starts_with("accounts.toml:3:12: account `a@b.example`: the password takes 1025 KiB"),
        "{said}"
    );
}

#[test]
fn a_flood_of_findings_ends() {
    let source = "[[account]]\nname = 1\n".repeat(500);
    let findings = parse(&source).unwrap_err();
    assert_eq!(findings.len(), notes::FINDINGS_MAX + 1);
    assert!(findings[0].is_error());
    assert!(
        findings[notes::FINDINGS_MAX]
            .message
            .starts_with("and 900 more")
    );
}

#[test]
fn files_that_are_none() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.toml");
    let findings = Directory::read(&missing, 1024).unwrap_err();
    assert!(findings[0].message.contains("cannot read"), "{findings:?}");
    let findings = Directory::read(directory.path(), 1024).unwrap_err();
    assert!(findings[0].message.contains("regular file"), "{findings:?}");
    let latin = directory.path().join("latin1.toml");
    std::fs::write(&latin, b"# a\n# \xe9\n").unwrap();
    let findings = Directory::read(&latin, 1024).unwrap_err();
    assert!(
        findings[0].message.contains("line 2 is not UTF-8"),
        "{findings:?}"
    );
}

#[test]
fn an_open_file_is_warned_about() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("accounts.toml");
    std::fs::write(&path, "# empty\n").unwrap();
    for (mode, warned) in [(0o644, true), (0o640, false), (0o600, false), (0o602, true)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let (_, warnings) = Directory::read(&path, 1024).unwrap();
        let said = warnings.iter().any(|finding| {
            finding
                .hint
                .as_deref()
                .is_some_and(|hint| hint.starts_with("chmod 0640"))
        });
        assert_eq!(said, warned, "{mode:o}");
    }
}

#[test]
fn scram_keys() {
    const KEYS: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    let entry = |more: &str| format!("[[account]]\nname = \"a@b.example\"\n{more}\n");
    let both = entry(&format!("password = \"{HASH}\"\nscram = \"{KEYS}\""));
    let (directory, warnings) = parse(&both).unwrap();
    assert_eq!(warnings, []);
    let record = directory.find("a@b.example").unwrap();
    assert!(record.scram.is_some() && !record.password_is_scram());
    let alone = entry(&format!("scram = \"{KEYS}\""));
    let (directory, warnings) = parse(&alone).unwrap();
    assert_eq!(warnings, []);
    let record = directory.find("a@b.example").unwrap();
    assert!(record.scram.is_some() && record.password_is_scram());
    for (broken, expected) in [
        (
            KEYS.replace("4096", "1000"),
            "accounts.toml:3:9: account `a@b.example`: the keys take 1000 iterations: 4096 to 1000000 are allowed",
        ),
        (
            KEYS.replace("256", "1"),
            "accounts.toml:3:9: account `a@b.example`: the keys are not SCRAM keys",
        ),
    ] {
        let said = said(&alone.replace(KEYS, &broken));
        assert!(said.starts_with(expected), "{said}");
    }
    let said = said(&entry("scram = 7"));
    assert!(
        said.starts_with("accounts.toml:3:9: account `a@b.example`: scram is not a text"),
        "{said}"
    );
}

const SECRET: &str = "sha256:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";

#[test]
fn credentials() {
    let source = format!(
        r#"[[account]]
name = "alice@example.org"
messages_per_hour = 100

[[account.credential]]
name = "scanner"
secret = "{SECRET}"
expires = 2027-01-31
allow_from = ["192.0.2.0/24"]
send_as = ["alice@example.org"]
rcpt_allow = ["*@example.org", "bob@example.net"]
messages_per_hour = 50
note = "2nd floor"

[[account.credential]]
name = "phone"
secret = "{SECRET}"
expires = 2027-01-31T18:00:00+01:00

[[account]]
name = "bob@example.org"
password = "{HASH}"
"#
    );
    let (directory, warnings) = parse(&source).unwrap();
    assert_eq!(warnings, [], "a credential is something to log in with");
    let alice = directory.find("alice@example.org").unwrap();
    assert!(alice.password.is_none() && alice.has_secret() && alice.account.credential.is_none());
    let scanner = alice.login(Some("scanner")).unwrap();
    let credential = scanner.credential.as_deref().unwrap();
    assert_eq!(scanner.name, "alice@example.org");
    assert_eq!(credential.origin.line, 5);
    assert_eq!(
        credential.expires.unwrap().to_string(),
        "2027-01-31T00:00:00Z"
    );
    let patterns = credential.rcpt_allow.iter();
    let patterns: Vec<String> = patterns
        .map(|(pattern, origin)| format!("{}:{pattern}", origin.line))
        .collect();
    assert_eq!(patterns, ["11:*@example.org", "11:bob@example.net"]);
    assert_eq!(credential.messages_per_hour.as_ref().unwrap().1.line, 12);
    assert_eq!(credential.note.as_deref(), Some("2nd floor"));
    let phone = alice
        .login(Some("phone"))
        .unwrap()
        .credential
        .clone()
        .unwrap();
    assert_eq!(phone.expires.unwrap().to_string(), "2027-01-31T17:00:00Z");
    assert!(alice.login(Some("other")).is_none());
    assert!(
        directory
            .find("bob@example.org")
            .unwrap()
            .credentials
            .is_empty()
    );
}

#[test]
fn every_mistake_in_credentials() {
    let source = format!(
        r#"[[account]]
name = "a@b.example"

[[account.credential]]
name = "a b"
secret = "hunter2"
expires = "soon"
rcpt_allow = ["<>"]
send_as = []

[[account.credential]]
nam = "x"

[[account.credential]]
name = "one"
secret = "{SECRET}"
expires = 2027-01-31T18:00:00

[[account.credential]]
name = "one"
secret = "{SECRET}"

[[account]]
name = "c@b.example"
credential = "hunter2"
"#
    );
    assert_eq!(
        said(&source),
        r#"accounts.toml:5:8: account `a@b.example`, credential number 1: the name is not 1 to 64 letters, digits, `-`, `.`, `_` (hint: name = "scanner")
accounts.toml:6:10: account `a@b.example`, credential number 1: the secret is not that of a generated secret (`sha256:...`) (hint: make another: gatepost account credential add ACCOUNT --name NAME)
accounts.toml:7:11: account `a@b.example`, credential number 1: expires is not a date, or a date and time with its offset (hint: expires = 2027-01-31, or expires = 2027-01-31T18:00:00Z)
accounts.toml:8:15: account `a@b.example`, credential number 1: `<>` is not an address, `*@domain` or `*` (hint: rcpt_allow = ["*@example.org", "bob@example.net"])
accounts.toml:9:11: account `a@b.example`, credential number 1: send_as is empty (hint: leave it out for all that the account may send as)
accounts.toml:11:1: account `a@b.example`, credential number 2 has no name (hint: name = "scanner")
accounts.toml:11:1: account `a@b.example`, credential number 2 has no secret (hint: make another: gatepost account credential add ACCOUNT --name NAME)
accounts.toml:12:1: account `a@b.example`, credential number 2: unknown key `nam` (hint: did you mean `name`?)
accounts.toml:17:11: account `a@b.example`, credential `one`: expires is not a date, or a date and time with its offset (hint: expires = 2027-01-31, or expires = 2027-01-31T18:00:00Z)
accounts.toml:19:1: account `a@b.example` has two credentials `one` (hint: give one of them another name)
accounts.toml:25:14: account `c@b.example`: credential is no list of credentials (hint: begin each one with [[account.credential]])"#
    );
}

#[test]
fn no_finding_shows_a_credential() {
    let secret = "Tr0ub4dor";
    for line in [
        "secret = @",
        "secrt = @",
        "scram = @",
        "password = @",
        "secret = [@]",
        "secret @",
    ] {
        let line = line.replace('@', &format!("\"{secret}\""));
        let head = "[[account]]\nname = \"a@b.example\"\n";
        let shapes = [
            format!("{head}[[account.credential]]\nname = \"x\"\n{line}\n"),
            format!("{head}[[account.credental]]\n{line}\n"),
            format!("{head}[account.credential]\n{line}\n"),
            format!("{head}credential = [{{ nmae = \"x\", {line} }}]\n"),
            format!("{head}credential = [\"{secret}\"]\n"),
        ];
        for source in &shapes {
            no_secret(source, secret);
        }
    }
}

#[test]
fn one_account_has_one_salt() {
    let keys = |salt: &[u8; 8]| {
        let iterations = std::num::NonZeroU32::new(4096).unwrap();
        crate::sasl::scram::Keys::derive(b"x", salt, iterations).to_text()
    };
    let source = |own: &[u8; 8], other: &[u8; 8]| {
        format!(
            "[[account]]\nname = \"a@b.example\"\nscram = \"{}\"\n[[account.credential]]\nname = \"x\"\n\
             secret = \"{SECRET}\"\nscram = \"{}\"\n",
            keys(own),
            keys(other)
        )
    };
    let (directory, _) = parse(&source(b"12345678", b"12345678")).unwrap();
    let scram = directory
        .find("a@b.example")
        .unwrap()
        .scram
        .clone()
        .unwrap();
    assert_eq!(scram.owners, [None, Some(0)]);
    let said = said(&source(b"12345678", b"87654321"));
    assert!(
        said.starts_with(
            "accounts.toml:7:9: account `a@b.example`: the keys of credential `x` have another salt"
        ),
        "{said}"
    );
}

#[test]
fn certificates() {
    let fingerprint = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let credential =
        |name: &str, more: &str| format!("[[account.credential]]\nname = \"{name}\"\n{more}\n");
    let alice = "[[account]]\nname = \"alice@example.org\"\n".to_owned();
    let certificate = format!("certificate = \"SHA256:{}\"", fingerprint.to_uppercase());
    let (directory, warnings) =
        parse(&(alice.clone() + &credential("laptop", &certificate))).unwrap();
    assert_eq!(warnings, []);
    assert!(directory.has_certificates());
    let record = directory.find("alice@example.org").unwrap();
    assert!(record.has_secret());
    let read = record.credentials[0].evidence.certificate().unwrap();
    assert_eq!(read.to_string(), format!("sha256:{fingerprint}"));

    let scram = crate::sasl::scram::Keys::derive(
        b"x",
        b"12345678",
        std::num::NonZeroU32::new(4096).unwrap(),
    );
    let source = alice
        + &credential("one", &format!("certificate = \"{fingerprint}\""))
        + &credential("two", &format!("certificate = \"{}\"", &fingerprint[1..]))
        + &credential("three", "certificate = 7")
        + &credential("four", &format!("secret = \"{SECRET}\"\n{certificate}"))
        + &credential(
            "five",
            &format!(
                "certificate = \"{}\"\nscram = \"{}\"",
                fingerprint.replace("e3", "f3"),
                scram.to_text()
            ),
        )
        + "[[account]]\nname = \"bob@example.org\"\n"
        + &credential("six", &certificate);
    let hint = "(hint: openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE shows it; gatepost account credential \
                add ACCOUNT --name NAME --certificate FILE writes it)";
    let label = "account `alice@example.org`, credential";
    let expected = [
        format!("accounts.toml:8:15: {label} `two`: certificate is not the SHA-256 fingerprint of a certificate: 64 hexadecimal digits {hint}"),
        format!("accounts.toml:11:15: {label} `three`: certificate is not a text {hint}"),
        format!("accounts.toml:15:15: {label} `four` has both a secret and a certificate (hint: give each a credential of its own)"),
        format!("accounts.toml:19:9: {label} `five` has SCRAM keys, which a certificate cannot use (hint: give what they belong to a credential of its own)"),
        "accounts.toml:24:15: account `bob@example.org`, credential `six`: the certificate is there twice, first on line 5 (hint: a certificate belongs to one credential of one account)".to_owned(),
    ];
    assert_eq!(said(&source), expected.join("\n"));
}

#[test]
fn an_account_can_have_trip_wires_of_its_own() {
    for written in [
        "tripwires = { mode = \"dry-run\", networks_per_hour = 40, messages_per_10_minutes = \"unlimited\" }\n",
        "tripwires.mode = \"dry-run\"\ntripwires.networks_per_hour = 40\ntripwires.messages_per_10_minutes = \"unlimited\"\n",
        "[account.tripwires]\nmode = \"dry-run\"\nnetworks_per_hour = 40\nmessages_per_10_minutes = \"unlimited\"\n",
    ] {
        let source = format!(
            "[[account]]\nname = \"a@example.org\"\npassword = \"{HASH}\"\n{written}\
             [[account.credential]]\nname = \"phone\"\nsecret = \"sha256:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ\"\n\
             [[account]]\nname = \"b@example.org\"\npassword = \"{HASH}\"\n"
        );
        let (directory, warnings) = parse(&source).unwrap();
        assert_eq!(warnings, []);
        let record = directory.find("a@example.org").unwrap();
        for login in [None, Some("phone")] {
            let own = record.login(login).unwrap().tripwires.clone().unwrap();
            let (mode, origin) = own.mode.clone().unwrap();
            assert_eq!(mode, TripwireMode::DryRun);
            assert!(
                source
                    .lines()
                    .nth(origin.line - 1)
                    .unwrap()
                    .contains("dry-run")
            );
            let (networks, origin) = own.networks_per_hour.clone().unwrap();
            assert_eq!(networks, Limit::AtMost(NonZeroU64::new(40).unwrap()));
            assert!(source.lines().nth(origin.line - 1).unwrap().contains("40"));
            let messages = own.messages_per_10_minutes.clone();
            assert_eq!(messages.unwrap().0, Limit::Unlimited);
            assert_eq!(own.new_recipients_per_hour, None);
        }
        assert_eq!(
            directory.find("b@example.org").unwrap().account.tripwires,
            None
        );
    }
}

#[test]
fn mistakes_in_trip_wires_are_found_and_no_password_is_shown() {
    let source = format!(
        r#"[[account]]
name = "a"
send_as = ["*"]
tripwires = "off"

[[account]]
name = "b"
send_as = ["*"]
[account.tripwires]
mode = "maybe"
networks_per_hour = 0
new_recipients_per_hour = "off"
network_per_hour = 5
exempt = true
password = "{HASH}"
pasword = "{HASH}"
"#
    );
    let (Ok((_, findings)) | Err(findings)) = parse(&source);
    let text: String = findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect();
    assert!(!text.contains("argon2"), "{text}");
    let said = said(&source);
    let said: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("tripwires"))
        .collect();
    assert_eq!(
        said,
        [
            "accounts.toml:4:13: account `a`: tripwires is not a table of keys (hint: tripwires.mode = \"dry-run\", or tripwires.networks_per_hour = 50)",
            "accounts.toml:10:8: account `b`, tripwires: mode is none of \"on\", \"dry-run\", \"off\" (hint: leave it out for what tripwires.mode says in the configuration)",
            "accounts.toml:11:21: account `b`, tripwires: networks_per_hour is not a positive integer or \"unlimited\" (hint: networks_per_hour = 50; \"unlimited\" leaves this wire out, mode = \"off\" all of them)",
            "accounts.toml:12:27: account `b`, tripwires: new_recipients_per_hour is not a positive integer or \"unlimited\" (hint: new_recipients_per_hour = 50; \"unlimited\" leaves this wire out, mode = \"off\" all of them)",
            "accounts.toml:13:1: account `b`, tripwires: unknown key `network_per_hour` (hint: did you mean `networks_per_hour`?)",
            "accounts.toml:14:1: account `b`, tripwires: unknown key `exempt` (hint: the keys are: messages_per_10_minutes, mode, networks_per_hour, new_recipients_per_hour, refused_recipients_per_hour)",
            "accounts.toml:15:1: account `b`, tripwires: `password` is a key of the account itself (hint: write it above [account.tripwires]: a table goes on until the next header)",
            "accounts.toml:16:1: account `b`, tripwires: unknown key `pasword` (hint: the keys are: messages_per_10_minutes, mode, networks_per_hour, new_recipients_per_hour, refused_recipients_per_hour)",
        ]
    );
}
