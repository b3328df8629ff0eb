//! Router advertisements (RFC 4861, 6.2): how a guest is told its IPv6 network, its gateway, and whom to ask for names (RFC 8106).

use alloc::vec::Vec;
use core::net::Ipv6Addr;

use crate::vfr::made;
use crate::vfr::packet::{ICMP6, Mac};

/// How often all are told, in nanoseconds.
pub const INTERVAL: u64 = 200_000_000_000;
/// How long the gateway and its names are believed in, in seconds: of a few advertisements some may be lost.
const LIFETIME: u16 = 1800;
/// How long addresses are valid, and how long they are used for what is new, in seconds.
const VALID: u32 = 86_400;
const PREFERRED: u32 = 14_400;
/// Everybody on the link, and his MAC.
const ALL: (Mac, Ipv6Addr) = (
    Mac([0x33, 0x33, 0, 0, 0, 1]),
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
);

/// What guests of a network are told.
#[derive(Clone, Copy, Debug)]
pub struct Advertisement {
    /// The gateway's MAC.
    pub mac: Mac,
    /// Its link-local address, by which it is the router.
    pub link_local: Ipv6Addr,
    /// Its address in the network.
    pub gateway: Ipv6Addr,
    /// How many bits of it are the network's; guests make addresses of their own only of 64.
    pub length: u8,
    /// Whether it answers questions for names.
    pub has_names: bool,
    /// The longest packet, in bytes; 0 if nothing is said.
    pub mtu: u16,
}

impl Advertisement {
    /// The frame, to one who asked, or to all.
    #[must_use]
    pub fn frame(&self, to: Option<(Mac, Ipv6Addr)>) -> Option<Vec<u8>> {
        let (to_mac, to) = to.unwrap_or(ALL);
        // The hop limit that guests are to use; addresses are not managed by anybody else.
        let mut message = Vec::from([134, 0, 0, 0, 64, 0]);
        message.extend(LIFETIME.to_be_bytes());
        message.extend([0; 8]);
        message.extend([1, 1]);
        message.extend(self.mac.0);
        // On the link, and to make addresses of.
        let flags = if self.length == 64 { 0xc0 } else { 0x80 };
        message.extend([3, 4, self.length, flags]);
        message.extend(VALID.to_be_bytes());
        message.extend(PREFERRED.to_be_bytes());
        message.extend([0; 4]);
        let shift = 128_u32.saturating_sub(self.length.into());
        let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
        message.extend((self.gateway.to_bits() & mask).to_be_bytes());
        if self.mtu >= 1280 {
            message.extend([5, 1, 0, 0]);
            message.extend(u32::from(self.mtu).to_be_bytes());
        }
        if self.has_names {
            message.extend([25, 3, 0, 0]);
            message.extend(u32::from(LIFETIME).to_be_bytes());
            message.extend(self.gateway.octets());
        }
        made::packet(
            (self.mac, to_mac),
            self.link_local.into(),
            to.into(),
            ICMP6,
            255,
            &mut message,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfr::packet::{Transport, What, parse};
    use crate::vfr::testing::{GATEWAY_MAC, WEB_MAC};

    #[test]
    fn an_advertisement_has_prefix_mtu_and_names() {
        let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
        let gateway: Ipv6Addr = "fd00:1::1".parse().unwrap();
        let told = Advertisement {
            mac: GATEWAY_MAC,
            link_local,
            gateway,
            length: 64,
            has_names: true,
            mtu: 1400,
        };
        let frame = told.frame(None).unwrap();
        let What::Ip(ip) = parse(&frame, frame.len()).unwrap().what else {
            panic!()
        };
        assert_eq!(
            (ip.source, ip.destination, ip.hops),
            (link_local.into(), ALL.1.into(), 255)
        );
        assert!(matches!(ip.transport, Transport::Icmp { kind: 134, .. }));
        let message = &frame[ip.transport_at..ip.end];
        assert_eq!(message[6..8], 1800_u16.to_be_bytes());
        // The options, one after the other: each says how many eights of bytes it has.
        let mut kinds = Vec::new();
        let mut at = 16;
        while at < message.len() {
            kinds.push(message[at]);
            at += usize::from(message[at + 1]) * 8;
        }
        assert_eq!((kinds, at), (vec![1, 3, 5, 25], message.len()));
        assert_eq!(message[24..28], [3, 4, 64, 0xc0]);
        assert_eq!(message[40..56], "fd00:1::".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(message[60..64], 1400_u32.to_be_bytes());
        assert_eq!(message[72..88], gateway.octets());
        let to = (WEB_MAC, "fe80::2".parse().unwrap());
        let bare = Advertisement {
            has_names: false,
            mtu: 500,
            ..told
        };
        let frame = bare.frame(Some(to)).unwrap();
        assert_eq!(
            (&frame[..6], frame.len()),
            (&WEB_MAC.0[..], 14 + 40 + 16 + 8 + 32)
        );
    }
}
