//! Clients that speak SMTP, and never come to an end with it.

use std::io::{self, Write};

use gatepost::server::TlsStart;

use super::super::harness::DOORS;
use super::{
    Target, TlsStream, ask, besieged, besieged_to_the_end, reply, until_closed, was_bounded, world,
};

/// Says the same again and again until it is cut off, and reads nothing.
fn pour(stream: &mut impl Write, octets: &[u8]) -> io::Result<()> {
    loop {
        stream.write_all(octets)?;
        stream.flush()?;
    }
}

/// Bound: `limits.idle_timeout` for a reply to be read; until then nothing more is read either.
#[test]
fn clients_that_never_read() {
    let world = world("idle_timeout = \"1s\"", "");
    let daemon = besieged(&world, 4, 4, |target| {
        let commands = b"HELP\r\n".repeat(1000);
        match target.door() {
            TlsStart::StartTls => pour(&mut target.connect(TlsStart::StartTls)?, &commands),
            TlsStart::Implicit => pour(&mut target.secured(TlsStart::Implicit)?, &commands),
        }
    });
    was_bounded(&daemon, "closed", "client does not read");
}

/// Bound: the longest command line of RFC 5321 and its extensions, and `limits.login_timeout` for all of them.
#[test]
fn lines_without_an_end() {
    const STARTS: [&[u8]; 5] = [
        b"",
        b"MAIL FROM:<",
        b"AUTH PLAIN ",
        b"AUTH LOGIN\r\n",
        b"EHLO [IPv6:",
    ];
    let world = world("login_timeout = \"1s\"", "");
    let daemon = besieged(&world, 5, 5, |target| {
        let mut stream = target.secured(target.door())?;
        let number = usize::from(target.source.octets()[3]);
        stream.write_all(STARTS[number % STARTS.len()])?;
        pour(&mut stream, &[b'a'; 64 << 10])
    });
    was_bounded(&daemon, "closed", "the client's time is up");
}

/// Bound: what is read is answered before more is read, and replies are written 16 KiB at a time.
#[test]
fn ten_thousand_commands_in_one_batch() {
    const COMMANDS: usize = 10_000;
    let world = world("", "");
    besieged_to_the_end(&world, 4, 4, |target| {
        for door in DOORS {
            let mut stream = target.secured(door)?;
            stream.write_all(&b"NOOP\r\n".repeat(COMMANDS))?;
            for _ in 0..COMMANDS {
                let answer = reply(&mut stream)?;
                assert_eq!(answer, "250 2.0.0 ok");
            }
        }
        Ok(())
    });
}

/// Writes all that, and reads meanwhile; gives the replies.
fn exchange(mut stream: TlsStream, octets: &[u8]) -> Vec<String> {
    let mut replies = Vec::new();
    for piece in octets.chunks(16 << 10) {
        if stream.write_all(piece).is_err() {
            break;
        }
        for _ in 0..piece.iter().filter(|octet| **octet == b'\n').count() {
            match reply(&mut stream) {
                Ok(answer) => replies.push(answer),
                Err(_) => return replies,
            }
        }
    }
    replies
}

fn recipients() -> Vec<u8> {
    const RECIPIENTS: usize = 100_000;
    let lines = (0..RECIPIENTS).map(|number| format!("RCPT TO:<r{number}@example.net>\r\n"));
    lines.collect::<String>().into_bytes()
}

/// Bounds: `limits.recipients_per_message`, and how many 4xx one connection may hear.
#[test]
fn a_hundred_thousand_recipients() {
    let world = world("", "");
    let recipients = recipients();
    let daemon = besieged(&world, 2, 2, move |target| {
        let mut stream = target.logged_in(TlsStart::Implicit)?;
        ask(&mut stream, b"MAIL FROM:<mallory@example.org>\r\n")?;
        let replies = exchange(stream, &recipients);
        let accepted = replies.iter().filter(|one| one.starts_with("250 2.1.5 "));
        assert_eq!(accepted.count(), 100);
        let refused = replies.iter().filter(|one| one.starts_with("452 4.5.3 "));
        assert_eq!(refused.count(), 1001);
        let (last, before) = (replies.last().unwrap(), replies.len() - 1);
        assert!(last.starts_with("421 4.7.0 too many errors"), "{last}");
        assert_eq!(before, 1101);
        Ok(())
    });
    was_bounded(&daemon, "closed", "too many errors");
}

/// Bound: `limits.errors_per_connection`.
#[test]
fn a_hundred_thousand_recipients_of_a_stranger() {
    let world = world("", "");
    let recipients = recipients();
    let daemon = besieged(&world, 4, 4, move |target| {
        let replies = exchange(target.secured(TlsStart::StartTls)?, &recipients);
        let refused = replies.iter().filter(|one| one.starts_with("530 5.7.0 "));
        assert_eq!(refused.count(), 21);
        assert_eq!(replies.len(), 22);
        Ok(())
    });
    was_bounded(&daemon, "closed", "too many errors");
}

/// As far as the answer to DATA.
fn in_data(target: &Target) -> io::Result<TlsStream> {
    let mut stream = target.logged_in(TlsStart::Implicit)?;
    ask(&mut stream, b"MAIL FROM:<mallory@example.org>\r\n")?;
    ask(&mut stream, b"RCPT TO:<bob@example.net>\r\n")?;
    ask(&mut stream, b"DATA\r\n")?;
    Ok(stream)
}

/// Bound: `limits.header_size`. What is in a header section costs no more than its octets: MIME is not looked at, and of
/// the addresses only those of From and Sender.
#[test]
fn header_sections_that_are_all_structure() {
    let world = world("", "");
    besieged_to_the_end(&world, 4, 4, |target| {
        let from = "From: mallory@example.org\r\n".to_owned();
        let part = "Content-Type: multipart/mixed; boundary=\"x\"\r\n\r\n--x\r\n";
        for (text, expected) in [
            // Fields, continuations, addresses, groups, comments: each of them tens of thousands of times.
            (from.clone() + &"a:\r\n".repeat(1_900), "250 "),
            (from.clone() + &"a:\r\n".repeat(60_000), "554 5.6.0 "),
            (from.clone() + "x: y\r\n" + &" z\r\n".repeat(60_000), "250 "),
            (
                from.clone() + "To: " + &"a@b.c,\r\n ".repeat(25_000) + "\r\n",
                "250 ",
            ),
            (
                "From: ".to_owned() + &"a@b.c,\r\n ".repeat(25_000) + "\r\n",
                "5",
            ),
            ("From: ".to_owned() + &"(".repeat(900) + "\r\n", "5"),
            ("From: ".to_owned() + &"g:;,".repeat(200) + "\r\n", "5"),
            (from.clone() + &part.repeat(5_000), "250 "),
            // And one that has no end.
            (from + &"b: c\r\n".repeat(200_000), "552 5.3.4 "),
        ] {
            let mut stream = in_data(target)?;
            let answer = ask(
                &mut stream,
                format!("{text}\r\nthe body\r\n.\r\n").as_bytes(),
            )?;
            let start = &text[..text.len().min(60)];
            assert!(answer.starts_with(expected), "{start:?}: {answer}");
        }
        Ok(())
    });
}

/// Bound: `limits.message_size`; what comes beyond it is read and forgotten.
#[test]
fn messages_without_an_end() {
    let world = world("message_size = \"1MiB\"\ndata_timeout = \"1s\"", "");
    let daemon = besieged(&world, 4, 4, |target| {
        if target.door() == TlsStart::StartTls {
            let lines = [&[b'x'; 70][..], b"\r\n"].concat().repeat(500);
            let mut stream = in_data(target)?;
            stream.write_all(b"From: <mallory@example.org>\r\n\r\n")?;
            for _ in 0..40 {
                stream.write_all(&lines)?;
            }
            // In time, or not.
            let answer = ask(&mut stream, b".\r\n")?;
            let mut refused = ["552 5.3.4 ", "421 "].iter();
            let is_refused = refused.any(|start| answer.starts_with(start));
            assert!(is_refused, "{answer}");
            let mut stream = in_data(target)?;
            stream.write_all(b"From: <mallory@example.org>\r\n\r\n")?;
            return pour(&mut stream, &lines);
        }
        let mut stream = target.logged_in(TlsStart::Implicit)?;
        ask(&mut stream, b"MAIL FROM:<mallory@example.org>\r\n")?;
        ask(&mut stream, b"RCPT TO:<bob@example.net>\r\n")?;
        stream.write_all(b"BDAT 9999999999 LAST\r\n")?;
        pour(&mut stream, &[0; 16 << 10])
    });
    was_bounded(&daemon, "closed", "the client's time is up");
}

/// Bound: `limits.errors_per_connection`. Who cannot do base64 spoils nobody else's login (CVE-2025-59028).
#[test]
fn responses_that_are_not_base64() {
    let world = world("", "");
    let daemon = besieged(&world, 4, 4, |target| {
        let mut stream = target.secured(TlsStart::StartTls)?;
        for line in [
            "AUTH PLAIN !!!!\r\n",
            "AUTH PLAIN AGFs\0aWNl\r\n",
            "AUTH PLAIN ====\r\n",
            "AUTH PLAIN A\r\n",
            "AUTH LOGIN ////=\r\n",
        ]
        .iter()
        .cycle()
        .take(100)
        {
            let answer = ask(&mut stream, line.as_bytes())?;
            let refused = ["500 5.5.2 ", "501 5.5.2 ", "421 4.7.0 "];
            let is_refused = refused.iter().any(|start| answer.starts_with(start));
            assert!(is_refused, "{line:?}: {answer}");
        }
        until_closed(&mut stream)
    });
    was_bounded(&daemon, "closed", "too many errors");
}
