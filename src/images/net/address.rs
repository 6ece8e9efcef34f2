//! Which IP addresses may be asked: public ones, and those that the pipeline opens by name.
//!
//! An address that carries another within itself (IPv4-mapped, 6to4, NAT64) is what it carries. No
//! names here: they are resolved by `client`, and every address that comes of it is held against
//! this.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whether an address is globally routable unicast, by IANA's registries of special purposes.
pub fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_global_v4(ip),
        IpAddr::V6(ip) => is_global_v6(ip),
    }
}

fn is_global_v4(ip: Ipv4Addr) -> bool {
    !matches!(
        ip.octets(),
        // This network, private, loopback.
        [0 | 10 | 127, ..]
            // Shared by carriers.
            | [100, 64..=127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            // Protocols, documentation, relays of 6to4.
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [192, 168, ..]
            // Benchmarks.
            | [198, 18 | 19, ..]
            // Documentation.
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            // Multicast, reserved, broadcast.
            | [224..=255, ..]
    )
}

fn is_global_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => is_global_v4(v4(high, low)),
        // NAT64, as networks without IPv4 reach the rest.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_global_v4(v4(high, low)),
        // 6to4.
        [0x2002, high, low, ..] => is_global_v4(v4(high, low)),
        // Protocols: Teredo, benchmarks, ORCHID.
        [0x2001, 0..=0x1ff, ..] => false,
        // Documentation.
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // All that is assigned as global unicast. Loopback, IPv4-compatible, link-local, site-local,
        // unique local and multicast are elsewhere.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Addresses that are open although they are not public, on one port or on all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    ip: IpAddr,
    /// Leading bits that count.
    bits: u32,
    pub port: Option<u16>,
}

impl Opened {
    /// One address, on all ports.
    pub const fn one(ip: IpAddr) -> Self {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        Self { ip, bits, port: None }
    }

    /// From `127.0.0.1:8080`, `127.0.0.1` or `10.0.0.0/8`, or the same of IPv6. None if it is none of
    /// them.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Self { port: Some(address.port()), ..Self::one(address.ip()) });
        }
        let (ip, bits) = match text.split_once('/') {
            None => (text, None),
            Some((ip, bits)) => (ip, Some(bits.parse().ok()?)),
        };
        let one = Self::one(ip.parse().ok()?);
        let bits = bits.unwrap_or(one.bits);
        (bits <= one.bits).then_some(Self { bits, ..one })
    }

    /// Whether it opens an address, on the ports that it opens.
    pub fn covers(&self, ip: IpAddr) -> bool {
        match (self.ip, ip.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(ip)) => {
                let differ = u32::from(ours) ^ u32::from(ip);
                differ.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(ip)) => {
                let differ = u128::from(ours) ^ u128::from(ip);
                differ.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_known_in_every_notation() {
        // As a URL's host; the `url` crate reads the odd ones as inet_aton does.
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.1.",
            "１２７.0.0.1",
            "127。0。0。1",
            "%31%32%37.0.0.1",
            "0.0.0.0",
            "0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "169.254.169.254",
            "0xa9fea9fe",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[::127.0.0.1]",
            "[::8.8.8.8]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::127.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::8.8.8.8]",
            "[2002:7f00:1::]",
            "[2002:a9fe:a9fe::1]",
            "[2001::1]",
            "[2001:2::1]",
            "[2001:20::1]",
            "[2001:db8::1]",
            "[3fff::1]",
            "[fc00::1]",
            "[fd00:ec2::254]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[100::1]",
            "[5f00::1]",
        ] {
            let url = url::Url::parse(&format!("http://{host}/x")).expect(host);
            let ip = match url.host() {
                Some(url::Host::Ipv4(ip)) => IpAddr::V4(ip),
                Some(url::Host::Ipv6(ip)) => IpAddr::V6(ip),
                other => unreachable!("{host}: {other:?}"),
            };
            assert!(!is_global(ip), "{host} is {ip}");
        }
    }

    #[test]
    fn public_addresses_are() {
        for ip in [
            "8.8.8.8",
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:200::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(is_global(ip.parse().expect(ip)), "{ip}");
        }
    }

    #[test]
    fn an_opened_range_covers_its_addresses_and_no_others() {
        let covers = |range: &str, ip: &str| {
            Opened::parse(range).expect(range).covers(ip.parse().expect(ip))
        };
        assert!(covers("127.0.0.1:8080", "127.0.0.1") && !covers("127.0.0.1:8080", "127.0.0.2"));
        assert!(covers("127.0.0.1", "::ffff:127.0.0.1"));
        assert!(covers("10.1.0.0/16", "10.1.255.1") && !covers("10.1.0.0/16", "10.2.0.1"));
        assert!(covers("0.0.0.0/0", "10.2.0.1") && !covers("0.0.0.0/0", "::1"));
        assert!(covers("fd00::/8", "fd12::1") && !covers("fd00::/8", "fe80::1"));
        assert!(covers("[::1]:80", "::1") && covers("::/0", "fe80::1"));
        assert_eq!(Opened::parse("[::1]:80").expect("an address").port, Some(80));
        for wrong in ["", "localhost", "localhost:80", "10.0.0.0/33", "10.0.0.0/x", "10.0/8", "*"] {
            assert_eq!(Opened::parse(wrong), None, "{wrong}");
        }
    }
}
