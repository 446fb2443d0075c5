//! The rules of the repository, as tests: who may import whom, what each file says of itself, where clocks and files
//! are touched, that every event is documented and every reply is heard in a dialogue.
//!
//! They read the source as text, with comments, strings and test modules blanked out ([`production_code`]).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gatepost::audit::{self, Audit, LogControl, LogFormat, LogSettings};
use gatepost::event::{Event, Scope};
use gatepost::smtp::reply::Reply;

/// The floors of src/lib.rs: a room imports from lower ones only, and never sideways within floor 2.
const FLOORS: [(u8, &[&str]); 6] = [
    (
        0,
        &[
            "clock",
            "control",
            "decision",
            "diagnostic",
            "envelope",
            "event",
            "message",
            "sasl",
            "secret",
            "smtp",
        ],
    ),
    (1, &["containment", "kept", "session"]),
    (
        2,
        &[
            "account", "audit", "guard", "policy", "queue", "sandbox", "tls", "trace",
        ],
    ),
    (3, &["server"]),
    (4, &["config", "daemon"]),
    (5, &["cli", "main"]),
];

/// Longer than any file should be, except for these, with the reason.
const LINES_MAX: usize = 1000;
const LONG_FILES: [(&str, &str); 0] = [];

/// Replies that no dialogue can show, with the reason.
const UNHEARD_REPLIES: [(&str, &str); 2] = [
    (
        "internal_error",
        "a mistake of our own leads there, and none is known",
    ),
    (
        "too_many_connections",
        "takes many connections; a dialogue has one",
    ),
];

#[test]
fn imports_go_down() {
    let mut found = Vec::new();
    for file in sources() {
        if file.name == "src/lib.rs" {
            continue;
        }
        found.extend(
            wrong_imports(&file.room(), &file.code())
                .into_iter()
                .map(|wrong| format!("{}: {wrong}", file.name)),
        );
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_room_has_a_floor() {
    let rooms: BTreeSet<String> = sources()
        .iter()
        .map(Source::room)
        .filter(|room| room != "lib")
        .collect();
    let on_floors: BTreeSet<String> = FLOORS
        .iter()
        .flat_map(|(_, rooms)| rooms.iter().map(|room| (*room).to_owned()))
        .collect();
    assert_eq!(rooms, on_floors);
}

/// The checker is code too: this is what it must find, and what it must leave alone.
#[test]
fn the_import_check_finds_what_it_should() {
    let check = |room: &str, text: &str| wrong_imports(room, &production_code(text)).join(", ");
    for (room, text, expected) in [
        ("session", "use crate::queue::Spool;", "crate::queue"),
        ("session", "use crate::{clock, tls::Tls};", "crate::tls"),
        ("queue", "use crate::policy::Policy;", "crate::policy"),
        (
            "smtp",
            "fn f() -> crate::session::Profile { todo!() }",
            "crate::session",
        ),
        (
            "server",
            "use crate::cli;\nuse crate::daemon;",
            "crate::cli, crate::daemon",
        ),
        ("queue", "use crate::nowhere::X;", "crate::nowhere"),
        ("queue", "use crate::queue::X; use crate::clock::Now;", ""),
        ("smtp", "use crate::sasl::Mechanism;", ""),
        ("daemon", "use crate::config::Config;", ""),
        ("session", "// use crate::queue::Spool;", ""),
        (
            "session",
            "/* crate::queue */ const A: &str = \"crate::queue\";",
            "",
        ),
        (
            "session",
            "const A: &str = r#\"\" crate::queue\"#; const B: char = '\"';",
            "",
        ),
        (
            "session",
            "fn a<'a>(b: &'a str) {}\n#[cfg(test)]\nmod tests {\n fn b() { crate::queue::x(\"}\"); }\n}",
            "",
        ),
        (
            "session",
            "#[cfg(test)]\nmod tests { fn b() {} }\nuse crate::queue::Spool;",
            "crate::queue",
        ),
    ] {
        assert_eq!(check(room, text), expected, "{room}: {text}");
    }
}

#[test]
fn every_file_says_what_it_owns() {
    for file in sources().iter().chain(&tests()) {
        assert!(
            file.text.starts_with("//! "),
            "{}: begins with `//!`",
            file.name
        );
    }
}

#[test]
fn no_file_is_too_long() {
    for file in sources().iter().chain(&tests()) {
        let lines = file.text.lines().count();
        let excused = LONG_FILES.iter().any(|(name, _)| *name == file.name);
        assert!(
            excused || lines <= LINES_MAX,
            "{} has {lines} lines: split it, or say why not",
            file.name
        );
        assert!(
            !excused || lines > LINES_MAX,
            "{} needs no excuse any more",
            file.name
        );
    }
}

#[test]
fn doors_are_where_they_belong() {
    let only = |words: &[&str], within: &str, allowed: &[&str]| {
        let found: Vec<String> = sources()
            .iter()
            .filter(|file| file.name.starts_with(within))
            .filter(|file| !allowed.contains(&file.name.as_str()))
            .flat_map(|file| {
                let code = file.code();
                let found = words.iter().filter(|word| mentions(&code, word));
                found
                    .map(|word| format!("{}: {word}", file.name))
                    .collect::<Vec<_>>()
            })
            .collect();
        assert!(found.is_empty(), "only {allowed:?} may: {found:#?}");
    };
    only(&["rustls_pemfile"], "src/", &["src/tls/pem.rs"]);
    only(
        &["std::fs", "tokio::fs", "File"],
        "src/queue",
        &["src/queue/disk.rs"],
    );
    only(
        &[
            "Instant::now",
            "SystemTime::now",
            "Timestamp::now",
            "Zoned::now",
        ],
        "src/",
        &["src/clock.rs"],
    );
    // What makes the core a value: it can be replayed, fuzzed and simulated.
    for core in ["src/session", "src/smtp", "src/sasl", "src/message"] {
        only(
            &[
                "tokio",
                "std::fs",
                "std::io",
                "TcpStream",
                "rustls",
                "Now::read",
                "getrandom",
                "tracing",
            ],
            core,
            &[],
        );
    }
}

#[test]
fn mentions_are_whole_words() {
    assert!(mentions("use std::fs::File;", "std::fs"));
    assert!(mentions("tokio::spawn(x)", "tokio"));
    assert!(!mentions("use tokio_rustls::X;", "rustls"));
    assert!(!mentions("std::fsx", "std::fs"));
}

#[test]
fn every_event_is_documented() {
    let document = read("docs/log.md");
    let documented: BTreeSet<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect();
    let mut used = BTreeSet::new();
    for file in sources() {
        let text = without_test_modules(&file.text, &file.code());
        for (place, _) in text.match_indices("event = \"") {
            let name = &text[place + "event = \"".len()..];
            used.insert(name[..name.find('"').unwrap()].to_owned());
        }
    }
    assert!(used.len() > 15, "events are found: {used:?}");
    assert_eq!(
        used, documented,
        "src/ on the left, docs/log.md on the right"
    );
}

/// What docs/log.md shows is what the log writes, but for the time.
#[test]
fn the_log_looks_as_documented() {
    let scope = |session: &str, client: &str| Scope {
        session: session.to_owned(),
        client: client.parse().unwrap(),
        proxy: None,
        logged_in: false,
    };
    let laptop = scope("7f3a9c0d51e2", "203.0.113.7:50123");
    let alice = || "alice@example.org".to_owned();
    let accepted = Event::AuthAccepted {
        account: alice(),
        credential: Some("laptop".to_owned()),
        mechanism: "PLAIN",
        certificate: None,
        issuer: None,
    };
    let message = Event::MessageAccepted {
        account: alice(),
        credential: Some("laptop".to_owned()),
        id: "01jdc1v5k8e9w8r0m2n4p6q8s0".parse().unwrap(),
        size: 1834,
        recipients: 2,
        from: alice(),
        message_id: Some("<1@laptop.lan>".to_owned()),
    };
    let refused = Event::MailRefused {
        account: Some(alice()),
        from: Some("boss@example.org".to_owned()),
        reply: Reply::sender_not_owned("alice@example.org", "boss@example.org"),
        reason: "send_as of account alice@example.org does not allow boss@example.org".to_owned(),
    };
    let audit = Audit::default();
    let text = written(LogFormat::Text, || {
        audit.session(&laptop, &accepted);
        audit.session(&laptop, &message);
        audit.session(&scope("81c022b4f90a", "198.51.100.9:40022"), &refused);
    });
    let json = written(LogFormat::Json, || audit.session(&laptop, &accepted));

    let document = read("docs/log.md");
    let time_bytes = "2026-11-21T09:30:00.123Z".len();
    let shown = |start: &str| {
        let lines = document.lines().filter_map(|line| line.strip_prefix(start));
        lines
            .filter_map(|line| line.get(time_bytes..).map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let without_time = |text: &str, start: &str| {
        let lines = text.lines().map(|line| line.strip_prefix(start).unwrap());
        lines
            .map(|line| line[time_bytes..].to_owned())
            .collect::<Vec<_>>()
    };
    let text_shown: Vec<String> = shown("")
        .into_iter()
        .filter(|line| line.contains(" event="))
        .collect();
    assert_eq!(without_time(&text, ""), text_shown);
    assert_eq!(without_time(&json, "{\"time\":\""), shown("{\"time\":\""));
}

/// The log's lines of what `report` reports.
fn written(format: LogFormat, report: impl FnOnce()) -> String {
    let settings = LogSettings {
        format,
        ..LogSettings::default()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let writer = std::sync::Mutex::new(file.reopen().unwrap());
    let subscriber = audit::subscriber(LogControl::new(settings), writer);
    tracing::subscriber::with_default(subscriber, report);
    std::fs::read_to_string(file.path()).unwrap()
}

#[test]
fn every_reply_is_heard() {
    let heard: Vec<String> = files("tests/dialogs", "txt")
        .iter()
        .flat_map(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            let lines = text.lines().filter_map(|line| line.strip_prefix("S: "));
            lines.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let replies = replies(&read("src/smtp/reply.rs"));
    assert!(replies.len() > 40, "the constructors are found");
    for reply in &replies {
        let is_heard = heard.iter().any(|line| reply.matches(line));
        match UNHEARD_REPLIES.iter().find(|(name, _)| *name == reply.name) {
            Some(_) => assert!(!is_heard, "{} is heard after all", reply.name),
            None => assert!(is_heard, "no dialogue has {reply:?}"),
        }
    }
}

/// What SECURITY.md and docs/incidents.md name as a defence is there: each test by its whole name, each file by its path.
#[test]
fn every_defence_exists() {
    for (document, least) in [("SECURITY.md", 60), ("docs/incidents.md", 40)] {
        let text = read(document);
        let named: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
        let missing: Vec<&&str> = named
            .iter()
            .filter(|name| match name.contains("::") {
                true => !is_test(name),
                false => name.starts_with("tests/") && !root().join(name).exists(),
            })
            .collect();
        assert!(missing.is_empty(), "{document} names {missing:#?}");
        let tests = named.iter().filter(|name| name.contains("::")).count();
        assert!(tests >= least, "{document} names {tests} tests");
    }
}

#[test]
fn tests_are_found_by_their_names() {
    assert!(is_test("tidy::tests_are_found_by_their_names"));
    assert!(is_test("live::bounds::guessing_has_an_end"));
    assert!(is_test("account::tests::claims_and_their_answers"));
    assert!(is_test("smtp::framing::tests::cutting_changes_nothing"));
    assert!(!is_test("tidy::is_test"));
    assert!(!is_test("live::guessing_has_an_end"));
    assert!(!is_test("live::bounds::guessing_has"));
    assert!(!is_test("smtp::framing::cutting_changes_nothing"));
    assert!(!is_test("framing::tests::cutting_changes_nothing"));
}

/// Whether there is a test of that name, as `cargo test` shows it.
fn is_test(name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let Some((function, modules)) = parts.split_last() else {
        return false;
    };
    // Tests of a room are in files of their own, or in a module at the end of what they test.
    let in_file = |base: &str, modules: &[&str]| {
        let path = root().join(format!("{base}/{}.rs", modules.join("/")));
        std::fs::read_to_string(path).ok()
    };
    let text = in_file("tests/it", modules)
        .or_else(|| in_file("src", modules).filter(|_| modules.contains(&"tests")))
        .or_else(|| match modules {
            [room @ .., "tests"] => {
                in_file("src", room).filter(|text| text.contains("mod tests {"))
            }
            _ => None,
        });
    let begin = format!("fn {function}(");
    text.is_some_and(|text| {
        let mut attributed = false;
        text.lines().map(str::trim).any(|line| {
            let line = line.strip_prefix("async ").unwrap_or(line);
            let found = attributed && line.starts_with(&begin);
            let is_attribute = line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            attributed = is_attribute || (attributed && line.starts_with("#["));
            found
        })
    })
}

// ------------------------------------------------------------------------------------------------ reading source

struct Source {
    /// From the root of the repository.
    name: String,
    text: String,
}

impl Source {
    fn room(&self) -> String {
        let path = self.name.strip_prefix("src/").unwrap_or(&self.name);
        let first = path.split('/').next().unwrap_or(path);
        first.trim_end_matches(".rs").to_owned()
    }

    fn code(&self) -> String {
        production_code(&self.text)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All of src/ but modules that are for tests only.
fn sources() -> Vec<Source> {
    load("src")
        .into_iter()
        .filter(|file| !file.name.ends_with("/tests.rs"))
        .collect()
}

fn tests() -> Vec<Source> {
    let mut tests = load("tests/it");
    tests.extend(load("tests/fuzz/src"));
    tests.extend(load("tests/fuzz/targets"));
    tests.extend(load("benches/compare/load/src"));
    tests
}

fn load(directory: &str) -> Vec<Source> {
    let found: Vec<Source> = files(directory, "rs")
        .into_iter()
        .map(|path| Source {
            name: path
                .strip_prefix(root())
                .unwrap()
                .to_string_lossy()
                .into_owned(),
            text: std::fs::read_to_string(&path).unwrap(),
        })
        .collect();
    assert!(!found.is_empty(), "{directory} has source files");
    found
}

/// All files with this extension below a directory, in order.
fn files(directory: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// `text` with comments, the insides of strings, and test modules blanked out. Every octet keeps its place.
fn production_code(text: &str) -> String {
    let code = without_comments_and_strings(text);
    without_test_modules(&code, &code)
}

fn without_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let find = |needle: &[u8], from: usize| {
            let found = rest[from..]
                .windows(needle.len())
                .position(|window| window == needle);
            found.map_or(rest.len(), |place| from + place + needle.len())
        };
        let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let length = match rest {
            [b'/', b'/', ..] => find(b"\n", 0),
            [b'/', b'*', ..] => find(b"*/", 2),
            [b'"', ..] => string_length(rest),
            [b'r', b'"' | b'#', ..] if !after_word || bytes[at - 1] == b'b' => {
                let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
                if rest.get(1 + hashes) != Some(&b'"') {
                    // A raw identifier.
                    at += 1;
                    continue;
                }
                let end = [&b"\""[..], &vec![b'#'; hashes]].concat();
                find(&end, hashes + 2)
            }
            // A character, and no lifetime.
            [b'\'', b'\\', ..] => find(b"'", 3),
            [b'\'', character @ ..] if is_character(character) => find(b"'", 1),
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut code[at..at + length] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += length;
    }
    String::from_utf8(code).unwrap()
}

/// Octets of the string literal that `rest` begins with, quotes included.
fn string_length(rest: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&byte) = rest.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Whether one character and a `'` come here.
fn is_character(rest: &[u8]) -> bool {
    let length = match rest.first() {
        Some(0..=0x7f) => 1,
        Some(0xc0..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        _ => 4,
    };
    rest.get(length) == Some(&b'\'')
}

/// `text` without its test modules, which are looked for in `code`: the same without comments and strings.
fn without_test_modules(text: &str, code: &str) -> String {
    let mut kept = text.as_bytes().to_vec();
    let attribute = "#[cfg(test)]";
    for (start, _) in code.match_indices(attribute) {
        let mut depth = 0;
        let mut end = code.len();
        for (place, byte) in code.bytes().enumerate().skip(start + attribute.len()) {
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                b';' if depth == 0 => {}
                _ => continue,
            }
            if depth == 0 {
                end = place + 1;
                break;
            }
        }
        for byte in &mut kept[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8(kept).unwrap()
}

/// Whether `word` stands there as a whole, not as a part of a longer name.
fn mentions(code: &str, word: &str) -> bool {
    let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(start, _)| {
        !part_of_name(code[..start].chars().next_back())
            && !part_of_name(code[start + word.len()..].chars().next())
    })
}

fn floor(room: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(_, rooms)| rooms.contains(&room))
        .map(|(floor, _)| *floor)
}

/// What a room imports and may not.
fn wrong_imports(room: &str, code: &str) -> Vec<String> {
    let own = floor(room).unwrap_or_else(|| panic!("{room} has no floor"));
    let mut wrong = Vec::new();
    for (place, path) in code.match_indices("crate::") {
        for imported in heads(&code[place + path.len()..]) {
            let allowed = imported == room
                || floor(&imported).is_some_and(|floor| floor < own || (floor == own && own != 2));
            if !allowed {
                wrong.push(format!("crate::{imported}"));
            }
        }
    }
    wrong
}

/// The first names of a path, or of each path in braces.
fn heads(rest: &str) -> Vec<String> {
    let name = |text: &str| {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let Some(list) = rest.strip_prefix('{') else {
        return vec![name(rest)];
    };
    let mut heads = vec![name(list)];
    let mut depth = 0;
    for (place, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(name(&list[place + 1..])),
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

/// A constructor of smtp/reply.rs, and what its source tells of the line that it makes.
#[derive(Debug)]
struct ReplyWords {
    name: String,
    /// `250 2.0.0`, or the code alone.
    start: String,
    /// The longest piece of text that is always there.
    text: String,
}

impl ReplyWords {
    fn matches(&self, line: &str) -> bool {
        let line = line.replacen('-', " ", usize::from(line.get(3..4) == Some("-")));
        line.starts_with(&self.start) && line.contains(&self.text)
    }
}

fn replies(source: &str) -> Vec<ReplyWords> {
    let code = without_test_modules(source, &without_comments_and_strings(source));
    let mut replies = Vec::new();
    for part in code.split("\n    pub fn ").skip(1) {
        let name = &part[..part.find('(').unwrap()];
        let body = part.find("Self::").map_or("", |start| &part[start..]);
        let (enhanced, arguments) = match (
            body.strip_prefix("Self::new("),
            body.strip_prefix("Self::bare("),
        ) {
            (Some(arguments), _) => (true, arguments),
            (_, Some(arguments)) => (false, arguments),
            _ => continue,
        };
        let words: Vec<&str> = arguments.splitn(4, ',').map(str::trim).collect();
        if words[0].parse::<u16>().is_err() {
            continue;
        }
        let start = match enhanced {
            true => format!("{} {}.{}.{}", words[0], &words[0][..1], words[1], words[2]),
            false => words[0].to_owned(),
        };
        let end = arguments.find("\n    }").unwrap_or(arguments.len());
        let literal = arguments[..end].split('"').nth(1).unwrap_or_default();
        let text = literal
            .split('{')
            .map(|piece| piece.split_once('}').map_or(piece, |(_, text)| text))
            .max_by_key(|piece| piece.len())
            .unwrap_or_default();
        replies.push(ReplyWords {
            name: name.to_owned(),
            start,
            text: text.to_owned(),
        });
    }
    replies
}

#[test]
fn replies_are_read_from_their_source() {
    let replies = replies(&read("src/smtp/reply.rs"));
    let find = |name: &str| replies.iter().find(|reply| reply.name == name).unwrap();
    let limit = find("account_limit");
    assert_eq!(
        (limit.start.as_str(), limit.text.as_str()),
        ("450 4.7.28", " reached, try again ")
    );
    assert!(find("queued").matches("250 2.0.0 queued as <id>"));
    assert!(!find("queued").matches("250 2.0.0 ok"));
    assert!(find("extended_hello").matches("250-mail.example.org"));
    assert!(find("shutting_down").matches("421 4.3.2 shutting down, try again later"));
}
