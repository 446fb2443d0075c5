//! Where one command, one AUTH response, or the data ends in a stream of octets.
//!
//! Finding the borders comes first and knows nothing of meaning; parsing comes second and sees whole frames. Only
//! `CRLF` ends a line and only `CRLF "." CRLF` ends the data (RFC 5321 section 2.3.8 and 4.1.1.4): a bare LF or a bare
//! CR never does, which is what makes SMTP smuggling impossible here. A chunk of BDAT (RFC 3030) ends after as many octets
//! as were announced, whatever they are. A line past its bound, or with octets that no
//! line may hold, is answered at once and then skipped to its true end, so that exactly one error belongs to it and
//! the peer stays in step.
//!
//! Memory: a line's octets are kept only up to the bound of its mode, data is handed out as it comes; what is kept
//! between two calls is less than one line.

use memchr::{memchr, memchr3, memchr3_iter};

/// What the next octets are to be read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A part of the message that is so many octets long, taken as it is.
    Chunk {
        /// How many octets of it are still to come.
        left: u64,
    },
    /// The message, dot-stuffed.
    Data,
    /// A line of at most so many octets, CRLF included.
    Line {
        /// The bound; a longer line is an error.
        bytes_max: usize,
    },
}

/// One piece of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Some octets of the message, without the dot-stuffing of DATA. Never empty.
    Body(&'a [u8]),
    /// The end of the message; [`Framer::is_clean`] tells of what went by.
    End,
    /// A line without its CRLF. It holds no CR, LF or NUL.
    Line(&'a [u8]),
}

/// A line that cannot be one. The stream goes on behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A NUL, a bare CR or a bare LF.
    #[error("NUL, bare CR or bare LF in a line")]
    Forbidden,
    /// More octets than the mode allows.
    #[error("line too long")]
    TooLong,
}

/// Cuts a stream of octets into frames.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Everything before is used up.
    start: usize,
    /// A line was refused before its end: skip to that end.
    skipping: bool,
    data: DataState,
}

/// Where in the message we are.
#[derive(Debug)]
struct DataState {
    /// The octet before was the LF of a CRLF, or nothing: the CRLF of the DATA command itself counts.
    at_line_start: bool,
    /// No NUL, bare CR or bare LF so far.
    clean: bool,
    /// The octet of the chunks before; LF before the first.
    last: u8,
}

impl Default for DataState {
    fn default() -> Self {
        Self {
            at_line_start: true,
            clean: true,
            last: b'\n',
        }
    }
}

impl Framer {
    /// Takes in what the peer sent.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, if there is a whole one.
    pub fn next(&mut self, mode: Mode) -> Result<Option<Frame<'_>>, FramingError> {
        if self.start == self.buffer.len() {
            // An idle connection holds no buffer.
            self.buffer = Vec::new();
            self.start = 0;
            return Ok(None);
        }
        match mode {
            Mode::Chunk { left } => Ok(self.next_chunk(left)),
            Mode::Data => Ok(self.next_data()),
            Mode::Line { bytes_max } => self.next_line(bytes_max),
        }
    }

    /// Starts reading a new message: call it when DATA, or the first BDAT, is accepted.
    pub fn begin_data(&mut self) {
        self.data = DataState::default();
    }

    /// Whether the message that is being read has held no NUL, bare CR or bare LF so far.
    pub fn is_clean(&self) -> bool {
        self.data.clean
    }

    /// The last chunk has been read: whether the message ends in the middle of a line. A CR that nothing follows is a
    /// bare one.
    pub fn end_chunks(&mut self) -> bool {
        self.data.clean &= self.data.last != b'\r';
        self.data.last != b'\n'
    }

    /// How many octets have not been handed out.
    pub fn unread_bytes(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Forgets everything unread and tells how much that was: STARTTLS must not carry plaintext over.
    pub fn discard(&mut self) -> usize {
        let unread = self.unread_bytes();
        *self = Self::default();
        unread
    }

    fn next_line(&mut self, bytes_max: usize) -> Result<Option<Frame<'_>>, FramingError> {
        if self.skipping && !self.skip_to_line_end() {
            return Ok(None);
        }
        let unread = &self.buffer[self.start..];
        let Some(feed) = memchr(b'\n', unread) else {
            if unread.len() > bytes_max {
                self.skipping = true;
                return Err(FramingError::TooLong);
            }
            return Ok(None);
        };
        if feed + 1 > bytes_max {
            self.skipping = true;
            return Err(FramingError::TooLong);
        }
        if feed == 0 || unread[feed - 1] != b'\r' {
            self.skipping = true;
            return Err(FramingError::Forbidden);
        }
        let line = self.start..self.start + feed - 1;
        self.start += feed + 1;
        if memchr3(0, b'\r', b'\n', &self.buffer[line.clone()]).is_some() {
            return Err(FramingError::Forbidden);
        }
        Ok(Some(Frame::Line(&self.buffer[line])))
    }

    /// Drops octets up to and including the next CRLF; whether it was found.
    fn skip_to_line_end(&mut self) -> bool {
        let unread = &self.buffer[self.start..];
        let mut from = 0;
        while let Some(feed) = memchr(b'\n', &unread[from..]).map(|index| from + index) {
            if feed > 0 && unread[feed - 1] == b'\r' {
                self.start += feed + 1;
                self.skipping = false;
                return true;
            }
            from = feed + 1;
        }
        // A CR at the very end may be half of the CRLF.
        let kept = usize::from(unread.last() == Some(&b'\r'));
        self.start = self.buffer.len() - kept;
        false
    }

    fn next_chunk(&mut self, left: u64) -> Option<Frame<'_>> {
        let unread = &self.buffer[self.start..];
        let count = usize::try_from(left).map_or(unread.len(), |left| left.min(unread.len()));
        let chunk = self.start..self.start + count;
        self.start = chunk.end;
        let octets = &self.buffer[chunk];
        self.data.look_at(octets);
        (count > 0).then_some(Frame::Body(octets))
    }

    fn next_data(&mut self) -> Option<Frame<'_>> {
        let mut from = self.start;
        if self.data.at_line_start {
            let unread = &self.buffer[from..];
            if unread.starts_with(b".\r\n") {
                self.start += 3;
                return Some(Frame::End);
            }
            if b".\r\n".starts_with(unread) {
                return None;
            }
            if unread[0] == b'.' {
                // RFC 5321 section 4.5.2: the first character of a longer line is deleted if it is a period.
                from += 1;
            }
            self.data.at_line_start = false;
        }
        let mut to = from;
        loop {
            let Some(index) = memchr3(0, b'\r', b'\n', &self.buffer[to..]).map(|index| to + index)
            else {
                to = self.buffer.len();
                break;
            };
            match (self.buffer[index], self.buffer.get(index + 1)) {
                (b'\r', None) => {
                    to = index;
                    break;
                }
                (b'\r', Some(b'\n')) => {
                    to = index + 2;
                    // Unless a period follows, the next line is just more of the same.
                    if self.buffer.get(to).is_none_or(|&next| next == b'.') {
                        self.data.at_line_start = true;
                        break;
                    }
                }
                _ => {
                    self.data.clean = false;
                    to = index + 1;
                }
            }
        }
        self.start = to;
        if from == to {
            // Only a removed period, or a CR whose LF has not come: ask again with what follows.
            return if to < self.buffer.len() && self.data.at_line_start {
                self.next_data()
            } else {
                None
            };
        }
        Some(Frame::Body(&self.buffer[from..to]))
    }
}

impl DataState {
    /// Notes whether the next octets of the chunks are clean: a CR at their end may still get its LF.
    fn look_at(&mut self, octets: &[u8]) {
        let (Some(&first), Some(&last)) = (octets.first(), octets.last()) else {
            return;
        };
        let before = std::mem::replace(&mut self.last, last);
        let clean = (before != b'\r' || first == b'\n')
            && memchr3_iter(0, b'\r', b'\n', octets).all(|index| match octets[index] {
                b'\r' => octets.get(index + 1).is_none_or(|&next| next == b'\n'),
                b'\n' => index.checked_sub(1).map_or(before, |index| octets[index]) == b'\r',
                _ => false,
            });
        self.clean &= clean;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: Mode = Mode::Line { bytes_max: 16 };

    fn lines(framer: &mut Framer) -> Vec<Result<String, FramingError>> {
        let mut found = Vec::new();
        loop {
            match framer.next(LINE) {
                Ok(None) => return found,
                Ok(Some(Frame::Line(line))) => {
                    found.push(Ok(String::from_utf8_lossy(line).into_owned()))
                }
                Ok(Some(frame)) => panic!("{frame:?}"),
                Err(error) => found.push(Err(error)),
            }
        }
    }

    fn lines_of(pieces: &[&[u8]]) -> Vec<Result<String, FramingError>> {
        let mut framer = Framer::default();
        let mut found = Vec::new();
        for piece in pieces {
            framer.push(piece);
            found.extend(lines(&mut framer));
        }
        found
    }

    /// The message and whether it was clean, and what is left for the next command.
    fn data_of(pieces: &[&[u8]]) -> (Vec<u8>, Option<bool>, Vec<u8>) {
        let mut framer = Framer::default();
        framer.begin_data();
        let (mut body, mut end) = (Vec::new(), None);
        for piece in pieces {
            framer.push(piece);
            while end.is_none() {
                match framer.next(Mode::Data).unwrap() {
                    Some(Frame::Body(bytes)) => {
                        assert!(!bytes.is_empty());
                        body.extend_from_slice(bytes);
                    }
                    Some(Frame::End) => end = Some(framer.is_clean()),
                    Some(frame) => panic!("{frame:?}"),
                    None => break,
                }
            }
        }
        (body, end, framer.buffer[framer.start..].to_vec())
    }

    #[test]
    fn only_crlf_ends_a_line() {
        let ok = |text: &str| Ok(text.to_owned());
        let (forbidden, too_long) = (Err(FramingError::Forbidden), Err(FramingError::TooLong));
        assert_eq!(lines_of(&[b"NOOP\r\nQUIT\r\n"]), [ok("NOOP"), ok("QUIT")]);
        assert_eq!(lines_of(&[b"NO", b"OP\r", b"\n"]), [ok("NOOP")]);
        assert_eq!(lines_of(&[b"\r\n"]), [ok("")]);
        assert_eq!(lines_of(&[b"a\nb\r\nc\r\n"]), [forbidden.clone(), ok("c")]);
        assert_eq!(
            lines_of(&[b"a\n", b"b", b"\r\nc\r\n"]),
            [forbidden.clone(), ok("c")]
        );
        assert_eq!(lines_of(&[b"a\rb\r\nc\r\n"]), [forbidden.clone(), ok("c")]);
        assert_eq!(lines_of(&[b"a\0b\r\nc\r\n"]), [forbidden.clone(), ok("c")]);
        assert_eq!(lines_of(&[b"a\r\r\nc\r\n"]), [forbidden, ok("c")]);
        assert_eq!(lines_of(&[b"12345678901234\r\n"]), [ok("12345678901234")]);
        assert_eq!(
            lines_of(&[b"123456789012345\r\nc\r\n"]),
            [too_long.clone(), ok("c")]
        );
        assert_eq!(
            lines_of(&[&[b'x'; 1000], &[b'x'; 1000], b"\r", b"\nc\r\n"]),
            [too_long, ok("c")]
        );
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut framer = Framer::default();
        let mut errors = 0;
        for _ in 0..1000 {
            framer.push(&[b'x'; 4096]);
            errors += lines(&mut framer).len();
            assert!(
                framer.buffer.capacity() <= 3 * 4096,
                "{}",
                framer.buffer.capacity()
            );
        }
        assert_eq!(errors, 1);
    }

    #[test]
    fn only_crlf_dot_crlf_ends_the_data() {
        for (input, body, clean) in [
            ("hello\r\n.\r\n", "hello\r\n", true),
            (".\r\n", "", true),
            ("..\r\n.\r\n", ".\r\n", true),
            (".a\r\n.\r\n", "a\r\n", true),
            ("...\r\n..b\r\n.\r\n", "..\r\n.b\r\n", true),
            ("a\r\n..\r\n.\r\n", "a\r\n.\r\n", true),
            ("\r\n.\r\n", "\r\n", true),
            ("a.\r\nb.c\r\n.\r\n", "a.\r\nb.c\r\n", true),
            ("a\n.\nb\r\n.\r\n", "a\n.\nb\r\n", false),
            ("a\n.\r\nb\r\n.\r\n", "a\n.\r\nb\r\n", false),
            ("a\r.\rb\r\n.\r\n", "a\r.\rb\r\n", false),
            ("a\r\n.\nb\r\n.\r\n", "a\r\n\nb\r\n", false),
            ("a\r\n.\rb\r\n.\r\n", "a\r\n\rb\r\n", false),
            ("a\r\n.\r\rb\r\n.\r\n", "a\r\n\r\rb\r\n", false),
            ("a\r\r\n.\r\n", "a\r\r\n", false),
            ("a\r.\r\nb\r\n.\r\n", "a\r.\r\nb\r\n", false),
            ("a\0b\r\n.\r\n", "a\0b\r\n", false),
            ("a\r\n.\0\r\n.\r\n", "a\r\n\0\r\n", false),
        ] {
            let with_rest = [input.as_bytes(), b"QUIT\r\n"].concat();
            assert_eq!(
                data_of(&[&with_rest]),
                (body.into(), Some(clean), b"QUIT\r\n".to_vec()),
                "{input:?}"
            );
        }
        for unfinished in [
            "a",
            "a\r\n.",
            "a\r\n.\r",
            "a\n.\n",
            "a\r\n.\n",
            "a\r.\r\n",
            "a\n.\r\n",
            "a\r\n.\r\r\n",
        ] {
            assert_eq!(data_of(&[unfinished.as_bytes()]).1, None, "{unfinished:?}");
        }
    }

    /// Every way to put CR and LF around a period, as in SMTP smuggling: one of them ends the data.
    #[test]
    fn all_line_ends_around_a_period() {
        let ends = [
            "", "\r", "\n", "\r\n", "\n\r", "\r\r\n", "\0\r\n", "\r\n\r\n",
        ];
        for before in ends {
            for after in ends {
                let input = format!("a{before}.{after}b");
                let ends_here = before.ends_with("\r\n") && after.starts_with("\r\n");
                assert_eq!(
                    data_of(&[input.as_bytes()]).1.is_some(),
                    ends_here,
                    "{input:?}"
                );
            }
        }
    }

    fn stuffed(message: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        for line in message.split_inclusive(|&byte| byte == b'\n') {
            if line.first() == Some(&b'.') {
                wire.push(b'.');
            }
            wire.extend_from_slice(line);
        }
        wire
    }

    proptest! {
        /// What a client stuffs, the framer gives back, however the network cuts it.
        #[test]
        fn unstuffing_is_the_inverse_of_stuffing(
            lines in prop::collection::vec("[.a\u{e9}]{0,5}", 0..20), cuts in prop::collection::vec(1_usize..7, 1..60),
        ) {
            let message: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
            let mut wire = stuffed(&message);
            wire.extend_from_slice(b".\r\nNEXT\r\n");
            let mut pieces = Vec::new();
            let (mut rest, mut cuts) = (&wire[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            let (body, end, _) = data_of(&pieces);
            prop_assert_eq!(body, message);
            prop_assert_eq!(end, Some(true));
        }

        /// The frames do not depend on how the octets arrive.
        #[test]
        fn cutting_changes_nothing(
            wire in prop::collection::vec(prop::sample::select(b".\r\n\0a".to_vec()), 0..60), cut in 0_usize..60,
        ) {
            let cut = cut.min(wire.len());
            let single: Vec<&[u8]> = wire.chunks(1).collect();
            let halves = [&wire[..cut], &wire[cut..]];
            let (body, end, _) = data_of(&[&wire]);
            for pieces in [&single[..], &halves[..]] {
                let (other_body, other_end, _) = data_of(pieces);
                prop_assert_eq!(&other_end, &end);
                if end.is_some() {
                    prop_assert_eq!(other_body, body.clone());
                }
                prop_assert_eq!(lines_of(pieces), lines_of(&[&wire]));
            }
        }
    }

    /// A message in chunks of these sizes, as it arrives in these pieces; whether it was clean, whether its last line
    /// has no end, and what is left for the next command.
    fn chunks_of(sizes: &[u64], pieces: &[&[u8]]) -> (Vec<u8>, bool, bool, Vec<u8>) {
        let mut framer = Framer::default();
        framer.begin_data();
        let mut pieces = pieces.iter();
        let mut message = Vec::new();
        for &size in sizes {
            let mut left = size;
            while left > 0 {
                match framer.next(Mode::Chunk { left }).unwrap() {
                    Some(Frame::Body(octets)) => {
                        assert!(!octets.is_empty());
                        left -= octets.len() as u64;
                        message.extend_from_slice(octets);
                    }
                    Some(frame) => panic!("{frame:?}"),
                    None => framer.push(pieces.next().unwrap()),
                }
            }
        }
        let unended = framer.end_chunks();
        for piece in pieces {
            framer.push(piece);
        }
        let unread = framer.buffer[framer.start..].to_vec();
        (message, framer.is_clean(), unended, unread)
    }

    #[test]
    fn a_chunk_is_as_long_as_announced() {
        let stream = &b".\r\n..a\r\n.\r\nQUIT\r\n"[..];
        for sizes in [&[11][..], &[1, 1, 9], &[0, 11, 0], &[10, 1]] {
            for pieces in [
                vec![stream],
                stream.chunks(1).collect(),
                stream.chunks(5).collect(),
            ] {
                let (message, clean, unended, unread) = chunks_of(sizes, &pieces);
                assert_eq!(message, b".\r\n..a\r\n.\r\n", "dots are just dots");
                assert!(clean && !unended);
                assert_eq!(unread, b"QUIT\r\n");
            }
        }
        assert_eq!(chunks_of(&[], &[]), (Vec::new(), true, false, Vec::new()));
    }

    proptest! {
        /// Whether a message in chunks is clean does not depend on the chunks or on the pieces that they come in.
        #[test]
        fn chunks_are_clean_by_their_octets_alone(
            octets in prop::collection::vec(prop::sample::select(b"a\r\n\0.".to_vec()), 0..12),
            cut in 0..12_usize,
            length in 1..5_usize,
        ) {
            let cut = cut.min(octets.len());
            let text = octets.escape_ascii().to_string().replace("\\r\\n", "");
            let expected = !text.contains('\\');
            let sizes = [cut as u64, (octets.len() - cut) as u64];
            let pieces: Vec<&[u8]> = octets.chunks(length).collect();
            let (message, clean, unended, _) = chunks_of(&sizes, &pieces);
            prop_assert_eq!(&message, &octets);
            prop_assert_eq!(clean, expected);
            prop_assert_eq!(unended, !octets.is_empty() && !octets.ends_with(b"\n"));
        }
    }
}
