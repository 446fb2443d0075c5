//! A second reading of a dialogue, from what the client said and what it heard: simpler than the session's own, and
//! without its states. It says which reply belongs to which command, and what a good one needs.

use std::collections::VecDeque;

use gatepost::smtp::reply::Reply;

use super::super::check_reply_lines;

/// Something that was asked, and how it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The claim was right, and is of this account.
    Admitted(&'static str),
    Author(bool),
    Began(bool),
    /// The message is there under this name, as these octets.
    Committed(Option<(String, Vec<u8>)>),
    LookedUp(bool),
    Message(bool),
    NotAdmitted,
    Recipient(bool),
    Sender(bool),
}

/// What a reply belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A command, or a response of AUTH.
    Line,
    /// The end of the data, or a BDAT with its octets.
    Message,
    StartTls,
    /// None: the greeting, and the last word of a server that closes.
    Unasked,
}

/// A reply, and what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) kind: Kind,
    pub(super) reply: Reply,
    /// It says that a message is queued that was not before.
    pub(super) stored: bool,
}

/// What the client says next, as it must be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expecting {
    /// Nothing yet: the server speaks first.
    Greeting,
    Line,
    Response,
    /// The rest of a line that was answered before its end.
    RestOfLine,
    Text,
}

/// A message that is being agreed on.
#[derive(Debug, Default)]
struct Transaction {
    recipients: usize,
    /// The octets of its chunks, once there was one.
    chunks: Option<Vec<u8>>,
}

/// The reading so far.
#[derive(Debug)]
pub(super) struct Reading {
    expecting: Expecting,
    /// What was said and is not answered.
    octets: Vec<u8>,
    /// No line ends before.
    searched: usize,
    /// What was heard and belongs to nothing yet, with what was asked before it.
    heard: VecDeque<(Reply, Vec<Answer>)>,
    under_tls: bool,
    /// The longest command line.
    line_bytes_max: usize,
    /// By EHLO?
    greeted: Option<bool>,
    pub(super) login: Option<&'static str>,
    /// Admitted, but the exchange has a last word.
    admitted: Option<&'static str>,
    transaction: Option<Transaction>,
    /// A BDAT that was not the last of its message was refused.
    chunks_failed: bool,
    /// The server has said its last word.
    pub(super) over: bool,
    pub(super) said: Vec<Said>,
}

impl Reading {
    pub(super) fn new(under_tls: bool, line_bytes_max: usize) -> Self {
        Self {
            line_bytes_max,
            expecting: Expecting::Greeting,
            octets: Vec::new(),
            searched: 0,
            heard: VecDeque::new(),
            under_tls,
            greeted: None,
            login: None,
            admitted: None,
            transaction: None,
            chunks_failed: false,
            over: false,
            said: Vec::new(),
        }
    }

    /// The client said this.
    pub(super) fn says(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
    }

    /// The server said this, behind these answers.
    pub(super) fn hears(&mut self, reply: Reply, answers: Vec<Answer>) {
        self.heard.push_back((reply, answers));
    }

    /// Gives each reply to what it belongs to. Everything that is whole has its reply, unless the client is gone, and no
    /// reply is left over.
    pub(super) fn settle(&mut self, gone: bool) {
        while !self.over {
            let is_late = self.expecting == Expecting::RestOfLine && !self.skip_line();
            let unit = if is_late { None } else { self.unit() };
            let Some((reply, answers)) = self.heard.pop_front() else {
                let waiting = unit.map(|end| self.octets[..end].escape_ascii().to_string());
                assert!(gone || waiting.is_none(), "no reply to {waiting:?}");
                return;
            };
            let committed = answers.iter().find_map(|answer| match answer {
                Answer::Committed(Some((id, _))) => Some(id.clone()),
                _ => None,
            });
            if let Some(id) = committed {
                assert_eq!(reply, Reply::queued(&id), "a commit leads to 250");
            }
            self.take(unit, reply, answers);
        }
        // What closes the connection may have been one error too many, too.
        let closes = self
            .said
            .last()
            .is_some_and(|said| said.reply.code() / 100 == 5);
        if closes
            && self
                .heard
                .front()
                .is_some_and(|(reply, _)| reply.code() == 421)
        {
            self.heard.pop_front();
        }
        let left: Vec<_> = self.heard.iter().map(|(reply, _)| reply).collect();
        let last = self.said.last();
        assert!(
            left.is_empty(),
            "{left:?} behind {last:?} belong to nothing"
        );
    }

    /// How long the next thing is that has a reply, once it is all there.
    fn unit(&mut self) -> Option<usize> {
        match self.expecting {
            Expecting::Greeting | Expecting::RestOfLine => None,
            Expecting::Text => {
                if self.octets.starts_with(b".\r\n") {
                    return Some(3);
                }
                let from = self.searched.saturating_sub(4);
                self.searched = self.octets.len();
                find(&self.octets[from..], b"\r\n.\r\n").map(|start| from + start + 5)
            }
            Expecting::Response => self.line(),
            Expecting::Line => {
                let end = self.line()?;
                let line = &self.octets[..end - 2];
                let size = match end > self.line_bytes_max || is_forbidden(line) {
                    true => None,
                    false => chunk_size(line).and_then(Result::ok),
                };
                let follow = usize::try_from(size.unwrap_or(0)).unwrap_or(usize::MAX);
                // It is looked at again when more has come.
                self.searched = end - 2;
                let whole = end.checked_add(follow)?;
                (self.octets.len() >= whole).then_some(whole)
            }
        }
    }

    /// How long the next line is, its CRLF included.
    fn line(&mut self) -> Option<usize> {
        let from = self.searched.saturating_sub(1);
        self.searched = self.octets.len();
        find(&self.octets[from..], b"\r\n").map(|start| from + start + 2)
    }

    fn forget(&mut self, count: usize) {
        self.octets.drain(..count);
        self.searched = 0;
    }

    fn skip_line(&mut self) -> bool {
        let Some(end) = self.line() else {
            return false;
        };
        self.forget(end);
        self.expecting = Expecting::Line;
        true
    }

    /// A reply, and what it belongs to if that is all there.
    fn take(&mut self, unit: Option<usize>, reply: Reply, answers: Vec<Answer>) {
        let lines = check_reply_lines(&reply);
        let expecting = self.expecting;
        let message = expecting == Expecting::Text
            || chunk_size(&self.octets).is_some() && expecting == Expecting::Line;
        let stored = lines[0].contains(" queued as ")
            && matches!(&answers[..], [.., Answer::Committed(Some((_, stored)))] if !stored.is_empty());
        let is_start_tls = expecting == Expecting::Line && self.verb() == b"STARTTLS";
        self.said.push(Said {
            kind: match (unit, message) {
                (_, true) => Kind::Message,
                (None, _) => Kind::Unasked,
                _ if is_start_tls => Kind::StartTls,
                _ => Kind::Line,
            },
            reply: reply.clone(),
            stored,
        });
        if reply.code() == 421 {
            self.over = true;
            assert!(
                !answers
                    .iter()
                    .any(|answer| matches!(answer, Answer::Committed(Some(_))))
            );
            return;
        }
        let Some(end) = unit else {
            return self.take_unasked(&reply, &lines);
        };
        let octets = self.octets[..end].to_vec();
        self.forget(end);
        match expecting {
            Expecting::Line => self.take_command(&octets, &reply, &lines, &answers),
            Expecting::Response => self.take_response(&octets, &reply, &answers),
            _ => {
                self.expecting = Expecting::Line;
                let text = unstuff(&octets[..octets.len() - 3]);
                self.end_message(&text, &reply, &answers);
            }
        }
    }

    /// The greeting; or a line that is wrong before it ends.
    fn take_unasked(&mut self, reply: &Reply, lines: &[String]) {
        if self.expecting == Expecting::Greeting {
            assert!(lines[0].starts_with("220 mail.example.org "), "{lines:?}");
            self.expecting = Expecting::Line;
            return;
        }
        let may_be_wrong = self.octets.len() > 512 || self.octets.contains(&b'\n');
        let is_line = matches!(self.expecting, Expecting::Line | Expecting::Response);
        assert!(may_be_wrong && is_line, "{lines:?} belongs to nothing");
        self.check_refusal_of_octets(reply);
        self.admitted = None;
        self.expecting = Expecting::RestOfLine;
    }

    fn check_refusal_of_octets(&self, reply: &Reply) {
        let codes: &[u16] = match self.expecting {
            Expecting::Response => &[500, 501, 535],
            _ => &[500],
        };
        assert!(codes.contains(&reply.code()), "{reply}");
    }

    fn verb(&self) -> Vec<u8> {
        verb(&self.octets)
    }

    fn take_command(&mut self, octets: &[u8], reply: &Reply, lines: &[String], answers: &[Answer]) {
        let end = find(octets, b"\r\n").expect("it is a line");
        let (line, chunk) = (&octets[..end], &octets[end + 2..]);
        if is_forbidden(line) {
            return self.check_refusal_of_octets(reply);
        }
        let code = reply.code();
        let verb = verb(line);
        let said = || {
            let start = &line[..line.len().min(200)];
            format!("{}: {lines:?}, {answers:?}", start.escape_ascii())
        };
        // AUTH may be longer, where it may be at all.
        if line.len() + 2 > self.line_bytes_max && (code == 500 || verb != b"AUTH") {
            return assert!(code == 500 && answers.is_empty(), "{}", said());
        }
        // What each command can hear; where it is open, what refuses is looked at below.
        let codes: &[u16] = match &verb[..] {
            b"AUTH" => &[235, 334, 454, 501, 503, 504, 535, 538],
            b"DATA" => &[354, 451, 452, 501, 503, 530, 554],
            b"EHLO" | b"HELO" => &[250, 501],
            b"EXPN" => &[502, 530],
            b"HELP" => &[214],
            b"NOOP" => &[250],
            b"QUIT" => &[221, 501],
            b"RSET" => &[250, 501],
            b"STARTTLS" => &[220, 501, 503],
            b"VRFY" => &[252, 501, 530, 553],
            b"BDAT" | b"MAIL" | b"RCPT" => &[],
            _ => &[500],
        };
        let is_open = codes.is_empty() || !answers.is_empty();
        assert!(is_open || codes.contains(&code), "{}", said());
        let positive = reply.is_positive();
        match &verb[..] {
            b"AUTH" => {
                if code == 334 || answers.contains(&Answer::NotAdmitted) {
                    assert!(self.under_tls && self.greeted == Some(true), "{}", said());
                    assert!(self.login.is_none(), "{}", said());
                }
                self.take_turn(reply, answers);
            }
            b"BDAT" => self.take_chunk(line, chunk, reply, answers),
            b"DATA" => {
                let began = matches!(answers, [Answer::Began(true)]);
                assert_eq!(code == 354, began, "{}", said());
                if began {
                    let transaction = self.transaction.as_ref().expect("behind MAIL");
                    assert!(transaction.recipients > 0 && transaction.chunks.is_none());
                    self.expecting = Expecting::Text;
                } else {
                    assert!(!positive, "{}", said());
                }
            }
            b"EHLO" | b"HELO" if positive => {
                self.reset();
                let extended = verb == b"EHLO";
                self.greeted = Some(extended);
                let offers = |word: &str| {
                    lines
                        .iter()
                        .any(|line| line[4..].split(' ').next() == Some(word))
                };
                assert_eq!(offers("STARTTLS"), extended && !self.under_tls);
                assert!(!offers("AUTH") || (extended && self.under_tls));
            }
            b"MAIL" => {
                let allowed = matches!(answers, [Answer::Sender(true)]);
                assert_eq!(positive, allowed, "{}", said());
                assert!(allowed || answers.is_empty() || answers == [Answer::Sender(false)]);
                if allowed {
                    assert!(code == 250 && self.login.is_some() && self.under_tls);
                    assert!(self.transaction.is_none(), "MAIL in a transaction");
                    self.transaction = Some(Transaction::default());
                    self.chunks_failed = false;
                }
            }
            b"QUIT" => self.over = positive,
            b"RCPT" => match answers {
                [Answer::Recipient(true)] => {
                    assert!(code == 250, "{}", said());
                    let transaction = self.transaction.as_mut().expect("behind MAIL");
                    assert!(transaction.chunks.is_none());
                    transaction.recipients += 1;
                }
                [Answer::Recipient(false)] => assert!(!positive, "{}", said()),
                // Named before.
                [] if positive => {
                    let transaction = self.transaction.as_ref().expect("behind MAIL");
                    assert!(code == 250 && transaction.recipients > 0, "{}", said());
                }
                _ => assert!(answers.is_empty(), "{}", said()),
            },
            b"RSET" if positive => self.reset(),
            b"STARTTLS" => match code {
                220 => {
                    assert!(!self.under_tls && self.login.is_none());
                    assert_eq!(self.octets, b"", "they came with STARTTLS");
                    self.under_tls = true;
                    self.greeted = None;
                }
                // With something behind it.
                501 => {
                    let has_arguments = line.trim_ascii_end().len() > verb.len();
                    assert!(has_arguments || !self.octets.is_empty(), "{}", said());
                    self.over = !has_arguments;
                }
                _ => assert!(self.under_tls, "{}", said()),
            },
            b"VRFY" => assert!(!positive || self.login.is_some()),
            _ => {}
        }
    }

    fn take_response(&mut self, octets: &[u8], reply: &Reply, answers: &[Answer]) {
        let line = &octets[..octets.len() - 2];
        if is_forbidden(line) {
            self.check_refusal_of_octets(reply);
        }
        if line == b"*" {
            assert!(matches!(reply.code(), 501 | 535), "{reply}");
        }
        self.take_turn(reply, answers);
    }

    /// What comes of AUTH, or of one of its responses.
    fn take_turn(&mut self, reply: &Reply, answers: &[Answer]) {
        let admitted = answers.iter().rev().find_map(|answer| match answer {
            Answer::Admitted(name) => Some(*name),
            _ => None,
        });
        match reply.code() {
            // SCRAM proves itself before the client is in.
            334 => {
                assert!(self.under_tls && self.greeted == Some(true));
                self.admitted = admitted;
                self.expecting = Expecting::Response;
            }
            235 => {
                assert!(self.under_tls && self.login.is_none());
                self.login = admitted.or(self.admitted.take());
                assert!(self.login.is_some(), "nobody is logged in without a claim");
                self.expecting = Expecting::Line;
            }
            _ => {
                assert!(admitted.is_none() && !reply.is_positive(), "{reply}");
                self.admitted = None;
                self.expecting = Expecting::Line;
            }
        }
    }

    fn reset(&mut self) {
        self.transaction = None;
        self.chunks_failed = false;
    }

    fn take_chunk(&mut self, line: &[u8], chunk: &[u8], reply: &Reply, answers: &[Answer]) {
        let said = || format!("{}: {reply}, {answers:?}", line.escape_ascii());
        if chunk_size(line).is_some_and(|size| size.is_err()) {
            assert!(!reply.is_positive() && answers.is_empty(), "{}", said());
            self.over = true;
            return;
        }
        let (well_formed, last) = chunk_marker(line);
        if !well_formed {
            return assert!(!reply.is_positive() && answers.is_empty(), "{}", said());
        }
        let Some(transaction) = &mut self.transaction else {
            assert!(!reply.is_positive() && answers.is_empty(), "{}", said());
            if self.login.is_some() {
                self.chunks_failed = !last;
            }
            return;
        };
        if self.chunks_failed || transaction.recipients == 0 {
            assert!(!reply.is_positive() && answers.is_empty(), "{}", said());
            self.chunks_failed = !last;
            return;
        }
        let began = answers.contains(&Answer::Began(true));
        assert!(!began || transaction.chunks.is_none(), "{}", said());
        let mut text = transaction.chunks.take().unwrap_or_default();
        text.extend_from_slice(chunk);
        if !last {
            if reply.is_positive() {
                assert_eq!(reply.text(), format!("{} octets received", chunk.len()));
                transaction.chunks = Some(text);
            } else {
                // Of what is not offered nothing comes, and nothing else is touched.
                self.chunks_failed = reply.code() != 502;
                if reply.code() != 502 {
                    self.transaction = None;
                }
            }
            return;
        }
        if reply.code() == 502 {
            return;
        }
        self.end_message(&text, reply, answers);
    }

    /// The message has ended, and the client hears what has become of it.
    fn end_message(&mut self, sent: &[u8], reply: &Reply, answers: &[Answer]) {
        self.transaction = None;
        let committed = answers.iter().find_map(|answer| match answer {
            Answer::Committed(Some((_, stored))) => Some(stored),
            _ => None,
        });
        assert_eq!(reply.is_positive(), committed.is_some(), "{reply}");
        let Some(stored) = committed else {
            return;
        };
        assert!(self.login.is_some() && self.under_tls);
        assert!(matches!(
            answers,
            [.., Answer::Message(true), Answer::Committed(_)]
        ));
        check_stored(sent, stored);
    }
}

/// What is stored is what was sent, but for the header section (see `check_header`).
fn check_stored(sent: &[u8], stored: &[u8]) {
    // It was queued before, and nothing is now.
    if stored.is_empty() {
        return;
    }
    assert!(stored.starts_with(b"Received: "));
    let end = find(stored, b"\r\n\r\n").expect("a header section ends");
    let body = &stored[end + 4..];
    let mut sent = sent.to_vec();
    if !sent.ends_with(body) {
        // The last line of a text in chunks gets its end.
        sent.extend_from_slice(b"\r\n");
    }
    assert!(sent.ends_with(body), "{}", body.escape_ascii());
    let own_end = match sent.starts_with(b"\r\n") {
        true => Some(2),
        false => find(&sent, b"\r\n\r\n").map(|end| end + 4),
    };
    assert!(own_end.is_none_or(|end| body.len() + end >= sent.len()));
}

/// The text of DATA without its dots (RFC 5321 section 4.5.2).
fn unstuff(text: &[u8]) -> Vec<u8> {
    let mut unstuffed = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = find(rest, b"\r\n").map_or(rest.len(), |end| end + 2);
        let (line, tail) = rest.split_at(end);
        unstuffed.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        rest = tail;
    }
    unstuffed
}

/// Whether it holds what no line may.
fn is_forbidden(line: &[u8]) -> bool {
    line.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
}

fn find(octets: &[u8], what: &[u8]) -> Option<usize> {
    let last = *what.last()?;
    let ends = octets
        .iter()
        .enumerate()
        .filter(|(_, octet)| **octet == last);
    let mut ends = ends.map(|(index, _)| index + 1);
    ends.find(|end| octets[..*end].ends_with(what))
        .map(|end| end - what.len())
}

/// The word that a line begins with, in upper case.
fn verb(line: &[u8]) -> Vec<u8> {
    let end = line.iter().position(u8::is_ascii_whitespace);
    line[..end.unwrap_or(line.len())].to_ascii_uppercase()
}

/// What is behind BDAT, word for word.
fn chunk_words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let line = line.trim_ascii_end();
    let arguments = line.get(4..).unwrap_or_default().trim_ascii_start();
    arguments
        .split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty())
}

/// Of a BDAT: how many octets follow, or that nobody knows.
fn chunk_size(line: &[u8]) -> Option<Result<u64, ()>> {
    let line = line.split(|&byte| byte == b'\r').next().unwrap_or_default();
    (verb(line) == b"BDAT").then(|| {
        let digits = chunk_words(line).next().unwrap_or_default();
        let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(digits).map_err(|_| ())?;
        text.parse().ok().filter(|_| all).ok_or(())
    })
}

/// Of a BDAT: whether what follows the size is as it must be, and whether it is the last one.
fn chunk_marker(line: &[u8]) -> (bool, bool) {
    let words: Vec<_> = chunk_words(line).skip(1).collect();
    match words[..] {
        [] => (true, false),
        [word] => (word.eq_ignore_ascii_case(b"LAST"), true),
        _ => (false, false),
    }
}
