//! Messages: no two alike, each of the size that was asked for, with lines that need dot-stuffing in them.

use crate::client::RECIPIENT;

/// A text line without its CRLF.
const LINE_BYTES: usize = 76;
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The body is made once and shared; the header section tells messages apart.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    from: String,
    /// As it goes over the wire, final dot included.
    body: Vec<u8>,
}

impl Message {
    /// Messages of `size` octets, or of the header section's size if that is more.
    pub(crate) fn new(from: &str, size: usize) -> Self {
        let room = size.saturating_sub(header(from, 0, 0).len());
        let mut body = Vec::with_capacity(room + room / 1000 + 8);
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut written = 0;
        for line in 1.. {
            let length = LINE_BYTES.min((room - written).saturating_sub(2));
            if length == 0 {
                break;
            }
            for place in 0..length {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                match place == 0 && line % 50 == 0 {
                    true => body.extend_from_slice(b".."),
                    false => body.push(LETTERS[(random & 63) as usize]),
                }
            }
            body.extend_from_slice(b"\r\n");
            written += length + 2;
        }
        body.extend_from_slice(b".\r\n");
        Self {
            from: from.to_owned(),
            body,
        }
    }

    /// One message as it goes over the wire, final dot included.
    pub(crate) fn wire(&self, client: usize, number: u64) -> Vec<u8> {
        let mut wire = header(&self.from, client, number).into_bytes();
        wire.extend_from_slice(&self.body);
        wire
    }
}

fn header(from: &str, client: usize, number: u64) -> String {
    format!(
        "From: <{from}>\r\nTo: <{RECIPIENT}>\r\nSubject: load {client:08x}.{number:08x}\r\n\
         Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n\
         Message-ID: <{client:08x}.{number:08x}@load.example.test>\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_size_and_no_line_that_ends_it_early() {
        for size in [0, 400, 4096, 1 << 20] {
            let message = Message::new("alice@example.test", size);
            let wire = String::from_utf8(message.wire(3, 7)).expect("it is ASCII");
            let text = wire.strip_suffix("\r\n.\r\n").expect("it ends so");
            assert!(!text.contains("\r\n.\r\n"));
            let octets = format!("{text}\r\n").replace("\r\n..", "\r\n.").len();
            let header = header("alice@example.test", 3, 7).len();
            assert!(
                octets == size.max(header) || octets.abs_diff(size) <= 2,
                "{octets} for {size}"
            );
        }
        let message = Message::new("alice@example.test", 4096);
        assert_ne!(message.wire(0, 1), message.wire(0, 2));
    }
}
