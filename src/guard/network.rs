//! What counts as one place: an address, and the network around it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::event::limit_key;

/// The network that a neighbourhood is, in bits: what one customer of a cheap host often has, or one company.
const AROUND_IPV4: u8 = 24;
const AROUND_IPV6: u8 = 48;
/// What one customer gets: one address, one /64.
const OWN_IPV6: u8 = 64;

/// The network that `source`, a [`limit_key`], stands for.
pub(super) fn own(source: IpAddr) -> IpNet {
    cut(source, 32, OWN_IPV6)
}

/// The network around an address.
pub(super) fn around(source: IpAddr) -> IpNet {
    cut(source, AROUND_IPV4, AROUND_IPV6)
}

fn cut(address: IpAddr, ipv4: u8, ipv6: u8) -> IpNet {
    let bits = match address {
        IpAddr::V4(_) => ipv4,
        IpAddr::V6(_) => ipv6,
    };
    // The prefixes are within their bounds; else it is the address alone.
    IpNet::new(address, bits).map_or_else(|_| address.into(), |network| network.trunc())
}

/// Whether two networks have addresses in common: then one of them is within the other.
pub(super) fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// Whether the address is of a kind that many clients share by design: behind a proxy or a translation of addresses.
pub(super) fn is_private(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(address) => {
            // RFC 6598: addresses that a provider shares out among its customers.
            let [first, second, ..] = address.octets();
            let shared = first == 100 && (64..128).contains(&second);
            address.is_private() || address.is_loopback() || address.is_link_local() || shared
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

/// What a network is called: an address without `/32`.
pub(super) fn shown(network: &IpNet) -> String {
    match network {
        IpNet::V4(network) if network.prefix_len() == 32 => network.addr().to_string(),
        network => network.to_string(),
    }
}

/// The network that an operator means: an address stands for what is counted with it.
pub(super) fn parse(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().map(|network| network.trunc());
    let address = text.parse::<IpAddr>();
    network.ok().or_else(|| Some(own(limit_key(address.ok()?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_addresses() {
        for (address, own_network, network_around) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ] {
            let source = limit_key(address.parse().unwrap());
            assert_eq!(shown(&own(source)), own_network, "{address}");
            assert_eq!(shown(&around(source)), network_around, "{address}");
            assert_eq!(parse(address), Some(own(source)), "{address}");
        }
        assert_eq!(parse("192.0.2.7/24"), parse("192.0.2.0/24"));
        for text in ["", "all", "192.0.2", "192.0.2.1/33", "mail.example.org"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_that_many_share() {
        for (address, private) in [
            ("10.1.2.3", true),
            ("172.17.0.1", true),
            ("127.0.0.1", true),
            ("100.64.0.1", true),
            ("100.128.0.1", false),
            ("192.0.2.1", false),
            ("fd00::", true),
            ("fe80::", true),
            ("2001:db8::", false),
        ] {
            assert_eq!(is_private(address.parse().unwrap()), private, "{address}");
        }
    }
}
