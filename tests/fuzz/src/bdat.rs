//! Messages by BDAT: what comes of one does not depend on its chunks.

use std::sync::Arc;

use gatepost::decision::{Authentication, Question, Refusal, Rule, Verdict};
use gatepost::envelope::{MessageId, Receipt};
use gatepost::session::{Link, Profile, Session, Step};
use gatepost::smtp::reply::Reply;

use super::session::{ALICE, BEGINNING, tls_facts};
use super::{Script, check_reply_lines, pieces};

/// Octets of the largest message here.
const MESSAGE_BYTES_MAX: u64 = 300;

/// The input: whether the body is binary, three lengths of chunks, three lengths of pieces, the message.
///
/// In one chunk, in many, and octet by octet, the same is stored or nothing; a text is stored as DATA stores it; nothing
/// is stored of a text with a bare CR, a bare LF or a NUL, or of a header section with one; and behind it, whatever
/// it was, comes a command.
pub fn check_bdat(data: &[u8]) {
    let mut script = Script(data);
    let binary = script.octet() & 1 == 1;
    let chunk_lengths = script.take(3);
    let piece_lengths = script.take(3);
    let message = script.0;
    let body = if binary { "BINARYMIME" } else { "8BITMIME" };
    let expected = stored(body, &in_chunks(message, &[255, 255]), &[]);
    for lengths in [&[][..], &[1], chunk_lengths] {
        for cut in [&[][..], &[1], piece_lengths] {
            let found = stored(body, &in_chunks(message, lengths), cut);
            assert_eq!(found, expected, "chunks of {lengths:?}, pieces of {cut:?}");
        }
    }
    if let Some(text) = &expected {
        assert!(text.starts_with(b"Received: by mail.example.org (gatepost)\r\n"));
        assert!(message.len() as u64 <= MESSAGE_BYTES_MAX);
        let header_end = text.windows(4).position(|four| four == b"\r\n\r\n");
        let header = &text[..header_end.expect("there is an empty line") + 2];
        assert!(is_text(header));
        assert!(binary || is_text(text));
    }
    // What DATA can say at all, it says with the same end.
    let ended = match message.ends_with(b"\r\n") || message.is_empty() {
        true => message.to_vec(),
        false => [message, b"\r\n"].concat(),
    };
    if !binary && is_text(&ended) && ended.len() as u64 <= MESSAGE_BYTES_MAX {
        let mut dotted = b"DATA\r\n".to_vec();
        for line in ended.split_inclusive(|&byte| byte == b'\n') {
            if line.starts_with(b".") {
                dotted.push(b'.');
            }
            dotted.extend_from_slice(line);
        }
        dotted.extend_from_slice(b".\r\n");
        assert_eq!(stored(body, &dotted, piece_lengths), expected, "as DATA");
    } else {
        assert!(binary || expected.is_none() || message.len() as u64 + 2 > MESSAGE_BYTES_MAX);
    }
}

/// Lines that end with CRLF, and nothing that no line may hold.
fn is_text(octets: &[u8]) -> bool {
    octets
        .split_inclusive(|&byte| byte == b'\n')
        .all(|line| match line.strip_suffix(b"\r\n") {
            Some(line) => !line.iter().any(|byte| matches!(byte, 0 | b'\r')),
            None => false,
        })
}

/// The BDAT commands of a message, and their octets; the last one has none where the lengths say so.
fn in_chunks(message: &[u8], lengths: &[u8]) -> Vec<u8> {
    let mut chunks: Vec<&[u8]> = match lengths {
        [] => vec![message],
        lengths => pieces(message, lengths),
    };
    if chunks.is_empty() || lengths.first().is_some_and(|length| length % 2 == 0) {
        chunks.push(b"");
    }
    let mut wire = Vec::new();
    let last = chunks.len() - 1;
    for (index, chunk) in chunks.iter().enumerate() {
        let marker = if index == last { " LAST" } else { "" };
        wire.extend_from_slice(format!("BDAT {}{marker}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
    }
    wire
}

/// What is stored of a message that goes over the wire like this, in such pieces.
fn stored(body: &str, wire: &[u8], lengths: &[u8]) -> Option<Vec<u8>> {
    let profile = Profile {
        hostname: "mail.example.org".to_owned(),
        message_bytes_max: MESSAGE_BYTES_MAX,
        header_bytes_max: 200,
        ..Profile::default()
    };
    let link = Link {
        client: "203.0.113.7:50123".parse().expect("an address"),
        tls: Some(tls_facts()),
    };
    let mut world = World {
        session: Session::new(Arc::new(profile), link, *BEGINNING),
        replies: Vec::new(),
        draft: None,
        committed: None,
    };
    let start = format!(
        "EHLO x\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\nMAIL FROM:<alice@example.org> BODY={body}\r\n\
         RCPT TO:<bob@example.net>\r\n"
    );
    world.hear(start.as_bytes());
    let before = world.replies.len();
    for piece in pieces(wire, lengths) {
        world.hear(piece);
    }
    let last = world.replies.last().cloned();
    let positive = world.replies[before..].iter().all(Reply::is_positive);
    assert_eq!(world.committed.is_some(), positive, "{last:?}");
    world.hear(b"RSET\r\nNOOP\r\n");
    assert_eq!(world.replies.last(), Some(&Reply::ok()), "out of step");
    assert_eq!(world.draft, None);
    world.committed
}

struct World {
    session: Session,
    replies: Vec<Reply>,
    draft: Option<Vec<u8>>,
    committed: Option<Vec<u8>>,
}

impl World {
    /// The client says something; everything that comes of it is done. Alice may write as herself only.
    fn hear(&mut self, octets: &[u8]) {
        self.session.receive(octets, *BEGINNING);
        loop {
            match self.session.next_step() {
                Step::Abort => self.draft = None,
                Step::Append(ask) => {
                    let draft = self.draft.as_mut().expect("there is a draft");
                    draft.extend_from_slice(ask.bytes());
                    ask.answer(Ok(()));
                }
                Step::Begin(ask) => {
                    self.draft = Some(Vec::new());
                    ask.answer(Ok(MessageId::from_bits(7)));
                }
                Step::Check(ask) => ask.answer(Ok(Authentication::Accept(Arc::clone(&ALICE)))),
                Step::Close => return,
                Step::Commit(ask) => {
                    self.committed = self.draft.take();
                    let id = MessageId::from_bits(7);
                    ask.answer(Ok(Receipt::new(id, 1)));
                }
                Step::Decide(ask) => {
                    let own = |mailbox: &_| {
                        let mailbox: &gatepost::smtp::address::Mailbox = mailbox;
                        mailbox.to_string() == "alice@example.org"
                    };
                    let allow = match ask.question() {
                        Question::Author { from, sender } => {
                            from.iter().all(own) && sender.is_none_or(own)
                        }
                        _ => true,
                    };
                    ask.answer(match allow {
                        true => Verdict::Allow(Rule {
                            name: "any",
                            origin: None,
                        }),
                        false => {
                            let reply = Reply::author_not_owned("a", "From", "b");
                            Verdict::Refuse(Refusal::new(reply, "refused"))
                        }
                    });
                }
                Step::LookUp(_) => unreachable!("nobody logs in by SCRAM"),
                Step::Report(_) => {}
                Step::Send(reply) => {
                    check_reply_lines(&reply);
                    self.replies.push(reply);
                }
                Step::StartTls(_) => unreachable!("it is under TLS"),
                Step::Wait { .. } => return,
            }
        }
    }
}
