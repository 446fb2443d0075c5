//! The header in which a proxy says whose connection it is.

use std::net::SocketAddr;

use gatepost::server::proxy::{HEADER_BYTES_MAX, Progress, Source, parse};

/// The input is what a connection begins with.
///
/// Nothing is said too early, nothing is taken back when more octets come, no header is longer than it may be, and the
/// client's address is the same in a header that says it again in other words.
pub fn check_proxy(data: &[u8]) {
    let said = parse(data);
    let first = (0..=data.len())
        .map(|end| (end, parse(&data[..end])))
        .find(|(_, now)| *now != Ok(Progress::Part));
    let (end, at_first) = first.unwrap_or((0, Ok(Progress::Part)));
    assert_eq!(at_first, said, "first said after {end} octets");
    assert!(data.len() < HEADER_BYTES_MAX || said != Ok(Progress::Part));
    if let Ok(Progress::Whole { source, length }) = said {
        assert!(length == end && length <= HEADER_BYTES_MAX);
        let Source::Client(client) = source else {
            return;
        };
        assert_eq!(client.ip(), client.ip().to_canonical());
        for again in [version_1(client), version_2(client)] {
            let length = again.len();
            assert_eq!(parse(&again), Ok(Progress::Whole { source, length }));
        }
    }
}

fn version_1(client: SocketAddr) -> Vec<u8> {
    let (address, port) = (client.ip(), client.port());
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {address} {address} {port} 587\r\n").into_bytes()
}

fn version_2(client: SocketAddr) -> Vec<u8> {
    let (family, address) = match client {
        SocketAddr::V4(v4) => (0x11, v4.ip().octets().to_vec()),
        SocketAddr::V6(v6) => (0x21, v6.ip().octets().to_vec()),
    };
    let port = client.port().to_be_bytes();
    let rest = [&address[..], &address, &port, &port].concat();
    let length = u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family][..], &length, &rest].concat()
}
