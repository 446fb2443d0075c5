//! The octets of the journal: batches of records, and the first page of a segment.
//!
//! All numbers are little-endian. Whatever does not decode is no batch: the bytes may be anything.
//!
//! ```text
//! segment   page 0     "gatepost journal", version u32, crc32 u32 of what follows, journal id (16), octets of the
//!                      machine's name u16, the name
//!           then       batches, each from the start of a page
//!
//! batch     0   "gpbatch" and the version, 1 octet; "gperased" once it does not count any more
//!           8   crc32 u32 of everything from 12 to its end
//!           12  octets u32, this header included, the padding to the page's end not
//!           16  journal id
//!           32  its number u64
//!           40  the number of the batch before it that counts, u64; 0: none
//!           48  covered u64: batches up to this one are on stable storage outside the journal
//!           56  records u32
//!           60  0 u32
//!           64  the records
//!
//! record    id (26 characters), octets of the envelope u32, octets of the message u32, the envelope's JSON, the message
//! ```
//!
//! The checksum is there for torn writes and failing disks, not against people: whoever can write to the queue
//! directory has the queue. The journal id, which is random and never shown, keeps a message whose content looks like
//! a batch from being one.

use crate::envelope::MessageId;

/// Writes begin and end at multiples of this many octets, so that no write touches what an earlier one made durable.
pub(super) const PAGE: usize = 4096;

/// The version of the format that this program reads and writes.
pub(super) const VERSION: u32 = 1;

const SEGMENT_MAGIC: &[u8; 16] = b"gatepost journal";
const BATCH_MAGIC: &[u8; 8] = b"gpbatch\x01";
/// What is written over the start of a batch that does not count any more.
pub(super) const ERASED_MAGIC: &[u8; 8] = b"gperased";
const HEADER_BYTES: usize = 64;
const ID_BYTES: usize = 26;
const RECORD_HEADER_BYTES: usize = ID_BYTES + 8;
/// Of the machine's name that is kept: what a name may have (RFC 1035 section 2.3.4).
const HOST_BYTES_MAX: usize = 255;

/// Which journal a segment and a batch belong to.
pub(super) type JournalId = [u8; 16];

/// A message as the journal holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its name in the queue.
    pub(crate) id: MessageId,
    /// The content of its `.json`.
    pub(crate) envelope: Vec<u8>,
    /// The content of its `.eml`.
    pub(crate) message: Vec<u8>,
}

impl Record {
    /// Octets that it takes within a batch.
    pub(crate) fn encoded_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.envelope.len() + self.message.len()
    }
}

/// What a batch says beside its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) journal: JournalId,
    pub(super) number: u64,
    pub(super) previous: u64,
    pub(super) covered: u64,
    /// How many records it has.
    pub(super) records: u32,
    /// Octets, without the padding.
    pub(super) bytes: usize,
}

impl Header {
    /// Octets on the disk, with the padding.
    pub(super) fn padded_bytes(&self) -> usize {
        self.bytes.next_multiple_of(PAGE)
    }
}

/// Writes a batch to `out`, which becomes whole pages of it and nothing else.
pub(super) fn encode(
    out: &mut Vec<u8>,
    journal: &JournalId,
    [number, previous, covered]: [u64; 3],
    records: &[Record],
) {
    out.clear();
    out.extend_from_slice(BATCH_MAGIC);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(journal);
    for value in [number, previous, covered] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    // Both lengths are far below 4 GiB: a batch has at most `BATCH_BYTES_MAX`.
    out.extend_from_slice(&(records.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for record in records {
        out.extend_from_slice(record.id.as_str().as_bytes());
        out.extend_from_slice(&(record.envelope.len() as u32).to_le_bytes());
        out.extend_from_slice(&(record.message.len() as u32).to_le_bytes());
        out.extend_from_slice(&record.envelope);
        out.extend_from_slice(&record.message);
    }
    let bytes = out.len() as u32;
    out[12..16].copy_from_slice(&bytes.to_le_bytes());
    let checksum = crc32fast::hash(&out[12..]);
    out[8..12].copy_from_slice(&checksum.to_le_bytes());
    out.resize(out.len().next_multiple_of(PAGE), 0);
}

/// The header of the batch that begins at the start of `bytes`; `None` if there is no whole one.
pub(super) fn decode_header(bytes: &[u8]) -> Option<Header> {
    let header = claimed_header(bytes)?;
    let whole = bytes.get(12..header.bytes)?;
    (crc32fast::hash(whole) == u32_at(bytes, 8)?).then_some(header)
}

/// The same without looking whether the content is whole: what was to stand here.
pub(super) fn claimed_header(bytes: &[u8]) -> Option<Header> {
    bytes
        .starts_with(BATCH_MAGIC)
        .then(|| header_fields(bytes))
        .flatten()
}

/// The number of the batch that was erased here.
pub(super) fn erased_number(bytes: &[u8]) -> Option<u64> {
    let header = bytes
        .starts_with(ERASED_MAGIC)
        .then(|| header_fields(bytes))??;
    Some(header.number)
}

fn header_fields(bytes: &[u8]) -> Option<Header> {
    let header = Header {
        journal: bytes.get(16..32)?.try_into().ok()?,
        number: u64_at(bytes, 32)?,
        previous: u64_at(bytes, 40)?,
        covered: u64_at(bytes, 48)?,
        records: u32_at(bytes, 56)?,
        bytes: u32_at(bytes, 12)? as usize,
    };
    (header.bytes >= HEADER_BYTES).then_some(header)
}

/// The records of the batch that begins at the start of `bytes`; `None` if there is no whole one.
pub(super) fn decode(bytes: &[u8]) -> Option<(Header, Vec<Record>)> {
    let header = decode_header(bytes)?;
    let mut rest = bytes.get(HEADER_BYTES..header.bytes)?;
    let mut records = Vec::new();
    for _ in 0..header.records {
        let (fixed, content) = rest.split_at_checked(RECORD_HEADER_BYTES)?;
        let id = std::str::from_utf8(&fixed[..ID_BYTES]).ok()?.parse().ok()?;
        let (envelope, content) = content.split_at_checked(u32_at(fixed, ID_BYTES)? as usize)?;
        let (message, content) = content.split_at_checked(u32_at(fixed, ID_BYTES + 4)? as usize)?;
        records.push(Record {
            id,
            envelope: envelope.to_vec(),
            message: message.to_vec(),
        });
        rest = content;
    }
    rest.is_empty().then_some((header, records))
}

/// The first page of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) journal: JournalId,
    /// The name of the machine that made the segment.
    pub(super) host: String,
}

/// Why the first page of a segment cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentFault {
    /// It is none, or damaged.
    Damaged,
    /// Another version of gatepost made it.
    Version(u32),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let end = self.host.floor_char_boundary(HOST_BYTES_MAX);
        let host = &self.host.as_bytes()[..end];
        let mut page = Vec::with_capacity(PAGE);
        page.extend_from_slice(SEGMENT_MAGIC);
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&[0; 4]);
        page.extend_from_slice(&self.journal);
        page.extend_from_slice(&(host.len() as u16).to_le_bytes());
        page.extend_from_slice(host);
        page.resize(PAGE, 0);
        let checksum = crc32fast::hash(&page[24..]);
        page[20..24].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    pub(super) fn decode(page: &[u8]) -> Result<Self, SegmentFault> {
        let damaged = SegmentFault::Damaged;
        let page = page.get(..PAGE).ok_or(damaged)?;
        if !page.starts_with(SEGMENT_MAGIC) {
            return Err(damaged);
        }
        // The version comes first: what the checksum covers may change with it.
        match u32_at(page, 16) {
            Some(VERSION) => {}
            Some(other) => return Err(SegmentFault::Version(other)),
            None => return Err(damaged),
        }
        if u32_at(page, 20) != Some(crc32fast::hash(&page[24..])) {
            return Err(damaged);
        }
        let length = usize::from(u16::from_le_bytes([page[40], page[41]]));
        let host = page.get(42..42 + length).ok_or(damaged)?;
        Ok(Self {
            journal: page[24..40].try_into().map_err(|_| damaged)?,
            host: String::from_utf8_lossy(host).into_owned(),
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(number: u128, envelope: &[u8], message: &[u8]) -> Record {
        Record {
            id: MessageId::from_bits(number),
            envelope: envelope.to_vec(),
            message: message.to_vec(),
        }
    }

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let records = [
            record(1, b"{}", b"Subject: x\r\n\r\n"),
            record(u128::MAX, b"", b""),
            record(3, &[0; 5000], &[255; 70_000]),
        ];
        let mut bytes = Vec::new();
        encode(&mut bytes, &[7; 16], [9, 8, 4], &records);
        assert_eq!(bytes.len() % PAGE, 0);
        let (header, found) = decode(&bytes).unwrap();
        assert_eq!(found, records);
        assert_eq!((header.number, header.previous, header.covered), (9, 8, 4));
        assert_eq!(
            (header.journal, header.padded_bytes()),
            ([7; 16], bytes.len())
        );
        let held: usize = records.iter().map(Record::encoded_bytes).sum();
        assert_eq!(header.bytes, HEADER_BYTES + held);

        encode(&mut bytes, &[7; 16], [10, 9, 4], &[]);
        assert_eq!(bytes.len(), PAGE);
        assert_eq!(decode(&bytes).unwrap().1, []);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_seen() {
        let mut bytes = Vec::new();
        encode(&mut bytes, &[7; 16], [9, 8, 4], &[record(1, b"{}", b"abc")]);
        let length = decode_header(&bytes).unwrap().bytes;
        for bit in 0..length * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged), None, "bit {bit}");
        }
        for cut in 0..length {
            assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_segment_header_comes_back_and_says_what_is_wrong() {
        let header = SegmentHeader {
            journal: [3; 16],
            host: "mail.example.org".to_owned(),
        };
        let page = header.encode();
        assert_eq!(SegmentHeader::decode(&page), Ok(header));
        let mut other = page.clone();
        other[16] = 2;
        assert_eq!(SegmentHeader::decode(&other), Err(SegmentFault::Version(2)));
        for at in [0, 20, 30, 45, 4095] {
            let mut damaged = page.clone();
            damaged[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&damaged), Err(SegmentFault::Damaged));
        }
        assert_eq!(
            SegmentHeader::decode(&page[..100]),
            Err(SegmentFault::Damaged)
        );
        let long = SegmentHeader {
            journal: [3; 16],
            host: "ä".repeat(300),
        };
        let read = SegmentHeader::decode(&long.encode()).unwrap();
        assert_eq!(read.host, "ä".repeat(127));
    }

    proptest! {
        #[test]
        fn no_octets_upset_it(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), good in any::<bool>()) {
            if good && bytes.len() > 16 {
                bytes[..8].copy_from_slice(BATCH_MAGIC);
                let length = (bytes.len() as u32).to_le_bytes();
                bytes[12..16].copy_from_slice(&length);
                let checksum = crc32fast::hash(&bytes[12..]);
                bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
            }
            let _ = decode(&bytes);
            let _ = SegmentHeader::decode(&bytes);
        }
    }
}
