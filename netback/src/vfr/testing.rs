//! Frames for tests, and random numbers.

use core::net::IpAddr;
use std::vec::Vec;

use super::checksum;
use super::packet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP6, Mac, TCP, UDP};

/// A guest's MAC.
pub(crate) const WEB_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Another's.
pub(crate) const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xfe]);

/// An address from its text.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A frame of any type.
pub(crate) fn ethernet(source: Mac, destination: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&destination.0[..], &source.0, &ethertype.to_be_bytes(), payload].concat()
}

/// An IP packet with right lengths and checksums, that of the transport included.
pub(crate) fn packet(source: IpAddr, destination: IpAddr, protocol: u8, transport: &[u8]) -> Vec<u8> {
    let (from, to) = (octets(source), octets(destination));
    let length = u16::try_from(transport.len()).unwrap();
    let mut transport = transport.to_vec();
    let field = match protocol {
        TCP => Some(16),
        UDP => Some(6),
        1 | ICMP6 => Some(2),
        _ => None,
    };
    if let Some(at) = field {
        let pseudo = [&from[..], &to, &[0, protocol], &length.to_be_bytes()].concat();
        let pseudo = if protocol == 1 { &[][..] } else { &pseudo };
        transport[at..at + 2].fill(0);
        let sum = checksum::of(&[pseudo, &transport]);
        transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    if source.is_ipv4() {
        let total = (length + 20).to_be_bytes();
        let mut header = [
            &[0x45, 0],
            &total[..],
            &[0, 1, 0, 0, 64, protocol, 0, 0],
            &from,
            &to,
        ]
        .concat();
        let sum = checksum::of(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [header, transport].concat()
    } else {
        let length = length.to_be_bytes();
        [
            &[0x60, 0, 0, 0],
            &length[..],
            &[protocol, 64],
            &from,
            &to,
            &transport,
        ]
        .concat()
    }
}

/// A frame with an IP packet, from the guest to its gateway.
pub(crate) fn frame(source: &str, destination: &str, protocol: u8, transport: &[u8]) -> Vec<u8> {
    let (source, destination) = (ip(source), ip(destination));
    let ethertype = if source.is_ipv4() {
        ETHERTYPE_IPV4
    } else {
        ETHERTYPE_IPV6
    };
    let packet = packet(source, destination, protocol, transport);
    ethernet(WEB_MAC, GATEWAY_MAC, ethertype, &packet)
}

/// A TCP segment.
pub(crate) fn tcp(source: u16, destination: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    [
        &ports[..],
        &[0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0],
        data,
    ]
    .concat()
}

/// A UDP datagram.
pub(crate) fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len() + 8).unwrap();
    let words = [source, destination, length, 0].map(u16::to_be_bytes);
    [&words.concat()[..], data].concat()
}

/// An ICMP message with an identifier, which errors have as zero.
pub(crate) fn icmp(kind: u8, code: u8, identifier: u16, data: &[u8]) -> Vec<u8> {
    let [high, low] = identifier.to_be_bytes();
    [&[kind, code, 0, 0, high, low, 0, 0], data].concat()
}

/// An ARP packet.
pub(crate) fn arp(operation: u8, sender_mac: Mac, sender: &str, target: &str, to: Mac) -> Vec<u8> {
    let payload = [
        &[0, 1, 8, 0, 6, 4, 0, operation][..],
        &sender_mac.0,
        &octets(ip(sender)),
        &[0; 6],
        &octets(ip(target)),
    ]
    .concat();
    ethernet(sender_mac, to, ETHERTYPE_ARP, &payload)
}
/// Random numbers that are the same each time (`SplitMix64`).
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..below`.
    pub(crate) fn below(&mut self, below: usize) -> usize {
        usize::try_from(self.next() % below as u64).unwrap()
    }

    /// One of them.
    pub(crate) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Once in so many times.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}
