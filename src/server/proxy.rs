//! The PROXY protocol, versions 1 and 2: the header in which a proxy says whose connection it passes on.
//!
//! Follows haproxy's `proxy-protocol.txt` ("the specification" below). Only reads, and touches no socket:
//! `server/connection.rs` brings the octets and takes no more of them from the socket than the header has. Whether the
//! sender may be believed at all (`proxies`) is settled before the first octet is looked at.
//!
//! What a version 2 header has behind the addresses (TLVs) is left alone, except for the checksum. What it says about
//! TLS above all: login and mail hang on the TLS that we speak ourselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The largest header that is taken, in octets. Version 1 ends at 107 by itself. Version 2 could have 64 KiB; the
/// largest that are sent have a client's certificate in a TLV, which takes some 2 KiB.
pub const HEADER_BYTES_MAX: usize = 4096;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Of the client with this address (an IPv4-mapped one comes out as IPv4).
    Client(SocketAddr),
    /// Of the proxy itself (LOCAL: it looks whether we are well), or of somebody whose address it cannot say (UNKNOWN,
    /// UNSPEC, a Unix socket). The specification wants the address of the connection itself to count then.
    Proxy,
}

/// As much as can be said of the octets so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All of them belong to a header that is not over.
    Part,
    /// The header is over; whatever follows its `length` octets is the client's.
    Whole {
        /// Whose connection it is.
        source: Source,
        /// How many octets the header has, at most [`HEADER_BYTES_MAX`].
        length: usize,
    },
}

/// Why the octets are no header. More of them would not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// They begin like neither version.
    #[error("no PROXY header")]
    Absent,
    /// The checksum TLV does not fit.
    #[error("PROXY header with a wrong checksum")]
    Checksum,
    /// They begin like one, and then break the rules.
    #[error("malformed PROXY header")]
    Malformed,
    /// It would be longer than its version allows, or than [`HEADER_BYTES_MAX`].
    #[error("PROXY header too large")]
    TooLarge,
}

/// Reads the header that `octets`, the first of a connection, begin with.
///
/// Says the same of more octets, once it has said anything but [`Progress::Part`].
pub fn parse(octets: &[u8]) -> Result<Progress, HeaderError> {
    if begins_like(octets, V2_SIGNATURE) {
        parse_v2(octets)
    } else if begins_like(octets, V1_SIGNATURE) {
        parse_v1(octets)
    } else {
        Err(HeaderError::Absent)
    }
}

/// Whether `octets` are `signature` and more, or a part of it.
fn begins_like(octets: &[u8], signature: &[u8]) -> bool {
    let common = octets.len().min(signature.len());
    octets[..common] == signature[..common]
}

/// Version 1: `PROXY TCP4 192.0.2.7 198.51.100.1 50123 587 CRLF`, or `PROXY UNKNOWN ... CRLF`.
fn parse_v1(octets: &[u8]) -> Result<Progress, HeaderError> {
    // The CR has to leave room for its LF.
    let within = &octets[..octets.len().min(V1_BYTES_MAX - 1)];
    let Some(end) = within.iter().position(|octet| b"\r\n".contains(octet)) else {
        return match within.len() < V1_BYTES_MAX - 1 {
            true => Ok(Progress::Part),
            false => Err(HeaderError::TooLarge),
        };
    };
    match (octets[end], octets.get(end + 1)) {
        (b'\r', None) => return Ok(Progress::Part),
        (b'\r', Some(b'\n')) => {}
        _ => return Err(HeaderError::Malformed),
    }
    let line = std::str::from_utf8(&octets[..end]).map_err(|_| HeaderError::Malformed)?;
    let words: Vec<&str> = line.split(' ').collect();
    let source = match words[..] {
        // "the receiver must ignore anything presented before the CRLF is found"
        ["PROXY", "UNKNOWN", ..] => Some(Source::Proxy),
        ["PROXY", "TCP4", from, to, from_port, to_port] => {
            v1_client::<Ipv4Addr>((from, from_port), (to, to_port))
        }
        ["PROXY", "TCP6", from, to, from_port, to_port] => {
            v1_client::<Ipv6Addr>((from, from_port), (to, to_port))
        }
        _ => None,
    };
    Ok(Progress::Whole {
        source: source.ok_or(HeaderError::Malformed)?,
        length: end + 2,
    })
}

/// `to` is not needed, and has to be right all the same.
fn v1_client<A: FromStr + Into<IpAddr>>(from: (&str, &str), to: (&str, &str)) -> Option<Source> {
    let endpoint = |(address, port): (&str, &str)| -> Option<(A, u16)> {
        Some((address.parse().ok()?, v1_port(port)?))
    };
    endpoint(to)?;
    let (address, port) = endpoint(from)?;
    Some(client(address.into(), port))
}

/// "Heading zeroes are not permitted", and neither is a sign.
fn v1_port(text: &str) -> Option<u16> {
    let canonical = text == "0" || text.starts_with(|first: char| matches!(first, '1'..='9'));
    text.parse().ok().filter(|_| canonical)
}

/// Version 2: the signature, version and command, family and transport, the length of the rest, then addresses and
/// TLVs.
fn parse_v2(octets: &[u8]) -> Result<Progress, HeaderError> {
    const COMMAND: usize = V2_SIGNATURE.len();
    let local = match octets.get(COMMAND) {
        None => return Ok(Progress::Part),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(HeaderError::Malformed),
    };
    let Some(&[family, high, low]) = octets.get(COMMAND + 1..V2_FIXED_BYTES) else {
        return Ok(Progress::Part);
    };
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    // "the receiver must accept this connection as valid and must use the real connection endpoints and discard the
    // protocol block including the family which is ignored"
    let address_bytes = match family {
        _ if local => 0,
        V2_UNSPECIFIED => 0,
        V2_TCP4 => 12,
        V2_TCP6 => 36,
        V2_UNIX_STREAM => 216,
        // Datagrams cannot be passed on by a TCP connection; and "other values are unspecified and must be rejected".
        _ => return Err(HeaderError::Malformed),
    };
    if length > HEADER_BYTES_MAX {
        return Err(HeaderError::TooLarge);
    }
    if length < V2_FIXED_BYTES + address_bytes {
        return Err(HeaderError::Malformed);
    }
    let Some(header) = octets.get(..length) else {
        return Ok(Progress::Part);
    };
    let (addresses, fields) = header[V2_FIXED_BYTES..].split_at(address_bytes);
    let source = match family {
        _ if local => Some(Source::Proxy),
        V2_TCP4 => v2_client::<Ipv4Addr, 4>(addresses),
        V2_TCP6 => v2_client::<Ipv6Addr, 16>(addresses),
        _ => Some(Source::Proxy),
    };
    if !local && !checksum_fits(header, fields) {
        return Err(HeaderError::Checksum);
    }
    Ok(Progress::Whole {
        source: source.ok_or(HeaderError::Malformed)?,
        length,
    })
}

/// The addresses of both ends, then both ports; ours is not needed.
fn v2_client<A, const N: usize>(addresses: &[u8]) -> Option<Source>
where
    A: From<[u8; N]> + Into<IpAddr>,
{
    let address = addresses.first_chunk::<N>()?;
    let port = addresses.get(2 * N..)?.first_chunk()?;
    Some(client(A::from(*address).into(), u16::from_be_bytes(*port)))
}

fn client(address: IpAddr, port: u16) -> Source {
    Source::Client(SocketAddr::new(address.to_canonical(), port))
}

/// Whether the checksum among the `fields`, the last octets of the `header`, is right, or there is none. A field that is
/// cut off ends the search: some senders fill their headers up with whatever.
fn checksum_fits(header: &[u8], mut fields: &[u8]) -> bool {
    while let Some((&[kind, high, low], rest)) = fields.split_first_chunk::<3>() {
        let Some((value, behind)) =
            rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))
        else {
            return true;
        };
        if kind == V2_TYPE_CRC32C {
            // "replace the 32 bits of the checksum field in the received PROXY header with all '0's"
            let before = &header[..header.len() - rest.len()];
            let zeros = [0; 4];
            return <[u8; 4]>::try_from(value).is_ok_and(|sum| {
                crc32c(&[before, &zeros, behind].concat()) == u32::from_be_bytes(sum)
            });
        }
        fields = behind;
    }
    true
}

/// CRC32c (Castagnoli), bit by bit: a header is short, and few have a checksum.
fn crc32c(octets: &[u8]) -> u32 {
    const POLYNOMIAL_REVERSED: u32 = 0x82f6_3b78;
    let sum = octets.iter().fold(u32::MAX, |sum, octet| {
        (0..8).fold(sum ^ u32::from(*octet), |sum, _| match sum & 1 {
            0 => sum >> 1,
            _ => (sum >> 1) ^ POLYNOMIAL_REVERSED,
        })
    });
    !sum
}

const V1_SIGNATURE: &[u8] = b"PROXY ";
/// With the CRLF: the longest that two IPv6 addresses can make it.
const V1_BYTES_MAX: usize = 107;

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family, length.
const V2_FIXED_BYTES: usize = 16;
const V2_UNSPECIFIED: u8 = 0x00;
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;
const V2_UNIX_STREAM: u8 = 0x31;
const V2_TYPE_CRC32C: u8 = 0x03;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(source: Source, length: usize) -> Result<Progress, HeaderError> {
        Ok(Progress::Whole { source, length })
    }

    fn from(address: &str) -> Source {
        Source::Client(address.parse().unwrap())
    }

    /// A version 2 header with these after its length, which fits.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, rest].concat()
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).unwrap().to_be_bytes();
        [&[kind], &length[..], value].concat()
    }

    /// 192.0.2.7:50123 to 198.51.100.1:587
    const TCP4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0xcb, 0x02, 0x4b];

    fn tcp6(source: &str) -> Vec<u8> {
        let [source, destination] =
            [source, "2001:db8::1"].map(|text| text.parse::<Ipv6Addr>().unwrap().octets());
        [&source[..], &destination, &[0xc3, 0xcb, 0x02, 0x4b]].concat()
    }

    /// A TCP4 header whose checksum stands between two other fields.
    fn summed() -> Vec<u8> {
        let without = [
            TCP4,
            &tlv(0x02, b"mail.example.org"),
            &tlv(V2_TYPE_CRC32C, &[0; 4]),
            &tlv(0x04, b"filling"),
        ];
        let mut header = v2(0x21, V2_TCP4, &without.concat());
        let sum = crc32c(&header).to_be_bytes();
        let place = header.len() - tlv(0x04, b"filling").len() - sum.len();
        header[place..][..sum.len()].copy_from_slice(&sum);
        header
    }

    #[test]
    fn version_1() {
        let known = from("192.0.2.7:50123");
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.7 198.51.100.1 50123 587", Ok(known)),
            (
                "PROXY TCP4 192.0.2.7 198.51.100.1 0 65535",
                Ok(from("192.0.2.7:0")),
            ),
            (
                "PROXY TCP6 2001:db8::7 2001:db8::1 50123 465",
                Ok(from("[2001:db8::7]:50123")),
            ),
            (
                "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 50123 465",
                Ok(known),
            ),
            // The longest that its maker can write.
            (
                "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535",
                Ok(from("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")),
            ),
            ("PROXY UNKNOWN", Ok(Source::Proxy)),
            (
                "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535",
                Ok(Source::Proxy),
            ),
            ("PROXY UNKNOWNS", Err(HeaderError::Malformed)),
            ("PROXY", Err(HeaderError::Absent)),
            ("PROXY ", Err(HeaderError::Malformed)),
            ("PROXY TCP4", Err(HeaderError::Malformed)),
            (
                "proxy TCP4 192.0.2.7 198.51.100.1 1 2",
                Err(HeaderError::Absent),
            ),
            (
                "PROXY tcp4 192.0.2.7 198.51.100.1 1 2",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY UDP4 192.0.2.7 198.51.100.1 1 2",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP4 192.0.2.7 198.51.100.1 1",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 ",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP4  192.0.2.7 198.51.100.1 1 2",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP4\t192.0.2.7 198.51.100.1 1 2",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP4 192.0.2.7 198.51.100.1 01 2",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP4 192.0.2.7 198.51.100.1 1 +2",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP4 192.0.2.7 198.51.100.1 65536 2",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP4 192.0.2.7 198.51.100.1 1 -2",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP4 192.0.2.07 198.51.100.1 1 2",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP4 192.0.2 198.51.100.1 1 2",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP4 192.0.2.7 2001:db8::1 1 2",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP6 192.0.2.7 198.51.100.1 1 2",
                Err(HeaderError::Malformed),
            ),
            (
                "PROXY TCP6 [2001:db8::7] ::1 1 2",
                Err(HeaderError::Malformed),
            ),
            ("PROXY TCP6 fe80::1%lo ::1 1 2", Err(HeaderError::Malformed)),
            (
                "PROXY TCP4 192.0.2.7\0 198.51.100.1 1 2",
                Err(HeaderError::Malformed),
            ),
        ] {
            let octets = format!("{line}\r\nEHLO laptop\r\n");
            let expected = expected.map(|source| Progress::Whole {
                source,
                length: line.len() + 2,
            });
            assert_eq!(parse(octets.as_bytes()), expected, "{line}");
        }
        assert_eq!(parse(b"PROXY \xff\r\n"), Err(HeaderError::Malformed));
    }

    #[test]
    fn version_1_ends_with_crlf_within_107_octets() {
        let line = |length: usize| format!("{:x<length$}", "PROXY UNKNOWN ");
        let longest = line(105);
        assert_eq!(
            parse(format!("{longest}\r\n").as_bytes()),
            whole(Source::Proxy, 107)
        );
        assert_eq!(parse(longest.as_bytes()), Ok(Progress::Part));
        assert_eq!(parse(format!("{longest}\r").as_bytes()), Ok(Progress::Part));
        for octets in [line(106), line(106) + "\r\n", line(4096)] {
            assert_eq!(parse(octets.as_bytes()), Err(HeaderError::TooLarge));
        }
        for end in ["\n", "\r\r\n", "\rx", "\n\r\n"] {
            let octets = format!("PROXY UNKNOWN{end}");
            assert_eq!(parse(octets.as_bytes()), Err(HeaderError::Malformed));
        }
    }

    #[test]
    fn version_2() {
        let known = from("192.0.2.7:50123");
        let unix = [0; 216];
        let tls = tlv(0x20, &[&[7, 0, 0, 0, 0][..], &tlv(0x22, b"alice")].concat());
        for (header, expected) in [
            (v2(0x21, V2_TCP4, TCP4), Ok(known)),
            (
                v2(0x21, V2_TCP6, &tcp6("2001:db8::7")),
                Ok(from("[2001:db8::7]:50123")),
            ),
            (v2(0x21, V2_TCP6, &tcp6("::ffff:192.0.2.7")), Ok(known)),
            // TLVs: some, one that is cut off, filling that is none.
            (v2(0x21, V2_TCP4, &[TCP4, &tls].concat()), Ok(known)),
            (v2(0x21, V2_TCP4, &[TCP4, &tls[..9]].concat()), Ok(known)),
            (v2(0x21, V2_TCP4, &[TCP4, &[0; 2]].concat()), Ok(known)),
            (summed(), Ok(known)),
            // Who is not a client with an address.
            (v2(0x20, V2_UNSPECIFIED, b""), Ok(Source::Proxy)),
            (v2(0x20, V2_TCP4, TCP4), Ok(Source::Proxy)),
            (v2(0x20, V2_TCP4, b"short"), Ok(Source::Proxy)),
            (v2(0x20, 0xff, b"whatever"), Ok(Source::Proxy)),
            (v2(0x21, V2_UNSPECIFIED, b""), Ok(Source::Proxy)),
            (v2(0x21, V2_UNSPECIFIED, &tls), Ok(Source::Proxy)),
            (v2(0x21, V2_UNIX_STREAM, &unix), Ok(Source::Proxy)),
            // Mistakes.
            (v2(0x21, V2_TCP4, &TCP4[..11]), Err(HeaderError::Malformed)),
            (
                v2(0x21, V2_TCP6, &tcp6("::1")[..35]),
                Err(HeaderError::Malformed),
            ),
            (
                v2(0x21, V2_UNIX_STREAM, &unix[..215]),
                Err(HeaderError::Malformed),
            ),
            (v2(0x21, 0x12, TCP4), Err(HeaderError::Malformed)),
            (v2(0x21, 0x22, &tcp6("::1")), Err(HeaderError::Malformed)),
            (v2(0x21, 0x32, &unix), Err(HeaderError::Malformed)),
            (v2(0x21, 0x10, TCP4), Err(HeaderError::Malformed)),
            (v2(0x21, 0x41, TCP4), Err(HeaderError::Malformed)),
            (v2(0x22, V2_TCP4, TCP4), Err(HeaderError::Malformed)),
            (v2(0x11, V2_TCP4, TCP4), Err(HeaderError::Malformed)),
            (v2(0x31, V2_TCP4, TCP4), Err(HeaderError::Malformed)),
            (
                v2(
                    0x21,
                    V2_TCP4,
                    &[TCP4, &tlv(V2_TYPE_CRC32C, &[0; 4])].concat(),
                ),
                Err(HeaderError::Checksum),
            ),
            (
                v2(
                    0x21,
                    V2_TCP4,
                    &[TCP4, &tlv(V2_TYPE_CRC32C, &[0; 3])].concat(),
                ),
                Err(HeaderError::Checksum),
            ),
        ] {
            let expected = expected.map(|source| Progress::Whole {
                source,
                length: header.len(),
            });
            let octets = [&header[..], b"\x16\x03\x01"].concat();
            assert_eq!(parse(&octets), expected, "{header:?}");
        }
    }

    #[test]
    fn version_2_has_a_bound_of_its_own() {
        let filling = |bytes: usize| v2(0x21, V2_TCP4, &[TCP4, &vec![0xea; bytes]].concat());
        let most = HEADER_BYTES_MAX - V2_FIXED_BYTES - TCP4.len();
        assert_eq!(
            parse(&filling(most)),
            whole(from("192.0.2.7:50123"), HEADER_BYTES_MAX)
        );
        for bytes in [most + 1, usize::from(u16::MAX) - TCP4.len()] {
            // Nothing of it is waited for.
            let begun = &filling(bytes)[..V2_FIXED_BYTES];
            assert_eq!(parse(begun), Err(HeaderError::TooLarge));
        }
    }

    /// The check value of CRC-32/ISCSI.
    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_summed_header_cannot_change() {
        let header = summed();
        let addresses = V2_FIXED_BYTES..V2_FIXED_BYTES + TCP4.len();
        let name = addresses.end + 3..addresses.end + 3 + "mail.example.org".len();
        let sum = name.end + 3..name.end + 7;
        for place in addresses.chain(name).chain(sum) {
            let mut changed = header.clone();
            changed[place] ^= 0x01;
            assert_eq!(parse(&changed), Err(HeaderError::Checksum), "{place}");
        }
    }

    #[test]
    fn what_is_no_header() {
        assert_eq!(parse(b""), Ok(Progress::Part));
        for octets in [
            &b"EHLO laptop\r\n"[..],
            b"\x16\x03\x01\x02\0\x01",
            b"\r\nEHLO",
            b"\r\n\r\n\0\r\nQUIT\r\n",
            b"P\0",
            b"PROXY\r\n",
            b"\n",
        ] {
            assert_eq!(parse(octets), Err(HeaderError::Absent), "{octets:?}");
        }
    }

    fn headers() -> impl Strategy<Value = Vec<u8>> {
        let v1 = (any::<bool>(), any::<[u8; 16]>(), any::<[u16; 2]>()).prop_map(
            |(six, octets, [from, to])| {
                let line = match six {
                    true => {
                        let address = Ipv6Addr::from(octets);
                        format!("PROXY TCP6 {address} {address} {from} {to}\r\n")
                    }
                    false => {
                        let address = Ipv4Addr::from([octets[0], octets[1], octets[2], octets[3]]);
                        format!("PROXY TCP4 {address} {address} {from} {to}\r\n")
                    }
                };
                line.into_bytes()
            },
        );
        let rest = prop::collection::vec(any::<u8>(), 216..1000);
        let family = prop::sample::select(vec![V2_UNSPECIFIED, V2_TCP4, V2_TCP6, V2_UNIX_STREAM]);
        let v2 = (0x20..=0x21_u8, family, rest)
            .prop_map(|(command, family, rest)| v2(command, family, &rest));
        prop_oneof![v1, v2, Just(summed())]
    }

    proptest! {
        /// Wherever it is cut, and whatever follows it.
        #[test]
        fn a_header_is_over_when_it_is_over(
            header in headers(),
            behind in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let said = parse(&header);
            // Random fields can be a checksum that does not fit.
            prop_assume!(said != Err(HeaderError::Checksum));
            let Ok(Progress::Whole { length, .. }) = said else {
                panic!("{said:?}");
            };
            prop_assert_eq!(length, header.len());
            for end in 0..length {
                prop_assert_eq!(parse(&header[..end]), Ok(Progress::Part));
            }
            prop_assert_eq!(parse(&[header, behind].concat()), said);
        }

        /// Whatever it is, more octets change nothing once something is said.
        #[test]
        fn what_is_said_is_said(
            signature in prop::sample::select(vec![b"", V1_SIGNATURE, V2_SIGNATURE]),
            octets in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let octets = [signature, &octets].concat();
            let mut said = Ok(Progress::Part);
            for end in 0..=octets.len() {
                let now = parse(&octets[..end]);
                if said != Ok(Progress::Part) {
                    prop_assert_eq!(now, said);
                }
                if let Ok(Progress::Whole { length, .. }) = now {
                    prop_assert!(length <= end && length <= HEADER_BYTES_MAX);
                }
                said = now;
            }
        }
    }
}
