//! Packets of a capture, one line each, for people.

use alloc::{format, string::String, vec::Vec};
use core::net::IpAddr;

use bulkhead_netback::vfr::packet::{
    About, Arp, ArpOperation, Inner, Ip, Mac, Transport, What, parse, tcp_flags,
};

use crate::pcap::Packet;

/// The flags of TCP, as rules call them.
const FLAGS: [(&str, u8); 6] = [
    ("fin", tcp_flags::FIN),
    ("syn", tcp_flags::SYN),
    ("rst", tcp_flags::RST),
    ("psh", tcp_flags::PSH),
    ("ack", tcp_flags::ACK),
    ("urg", tcp_flags::URG),
];

/// What a packet is: when, what, from whom to whom, and how long.
#[must_use]
pub fn line(packet: &Packet) -> String {
    let (seconds, rest) = (packet.at_ns / 1_000_000_000, packet.at_ns % 1_000_000_000);
    let length = usize::try_from(packet.length).unwrap_or(usize::MAX);
    let what = match parse(&packet.bytes, length) {
        Ok(parsed) => match parsed.what {
            What::Arp(found) => arp(&found),
            What::Ip(found) => ip(&found),
        },
        Err(reason) => format!("{} ({reason})", ethernet(&packet.bytes)),
    };
    format!("{seconds}.{:06} {what}, {length} bytes", rest / 1000)
}

fn arp(arp: &Arp) -> String {
    let Arp {
        operation,
        sender_mac,
        sender,
        target,
    } = arp;
    match operation {
        ArpOperation::Request => format!("arp {sender} asks who has {target}"),
        ArpOperation::Reply => format!("arp {sender} is at {sender_mac}"),
    }
}

fn ip(ip: &Ip) -> String {
    let (from, to) = (ip.source, ip.destination);
    match ip.transport {
        Transport::Tcp {
            source,
            destination,
            flags,
        } => {
            let set = FLAGS.iter().filter(|(_, bit)| flags & bit != 0);
            let set: Vec<&str> = set.map(|(name, _)| *name).collect();
            let ends = ends((from, source), (to, destination));
            format!("tcp {ends} {}", set.join(","))
        }
        Transport::Udp { source, destination } => {
            format!("udp {}", ends((from, source), (to, destination)))
        }
        Transport::Icmp { kind, code, about } => {
            let name = if from.is_ipv4() { "icmp" } else { "icmp6" };
            let about = match about {
                About::EchoRequest(id) => format!("echo request {id}"),
                About::EchoReply(id) => format!("echo reply {id}"),
                About::Error(inner) => format!("type {kind} code {code} about {}", original(&inner)),
                About::Other => format!("type {kind} code {code}"),
            };
            format!("{name} {from} > {to} {about}")
        }
        Transport::Fragment => format!("fragment {from} > {to} protocol {}", ip.protocol),
        Transport::Other => format!("ip {from} > {to} protocol {}", ip.protocol),
    }
}

fn original(inner: &Inner) -> String {
    match inner.ports {
        Some((source, destination)) => ends((inner.source, source), (inner.destination, destination)),
        None => format!("{} > {}", inner.source, inner.destination),
    }
}

fn ends(from: (IpAddr, u16), to: (IpAddr, u16)) -> String {
    let end = |(address, port)| format!("{}", core::net::SocketAddr::new(address, port));
    format!("{} > {}", end(from), end(to))
}

/// As much as can be said of a frame that makes no sense.
fn ethernet(bytes: &[u8]) -> String {
    let mac = |at: usize| {
        let found = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
        found.map_or("?".into(), |mac| format!("{}", Mac(*mac)))
    };
    let kind = bytes.get(12..).and_then(|bytes| bytes.first_chunk());
    let kind = kind.map_or("?".into(), |kind| format!("{:#06x}", u16::from_be_bytes(*kind)));
    format!("ethernet {} > {} type {kind}", mac(6), mac(0))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// A frame of these parts, and what is said of it.
    fn said(parts: &[&[u8]]) -> String {
        let mut bytes = vec![0x52, 0x54, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        line(&Packet {
            at_ns: 12_000_345_678,
            length: bytes.len().try_into().unwrap(),
            bytes,
        })
    }

    /// An IPv4 header for so many bytes of a protocol, with its checksum.
    fn ipv4(protocol: u8, length: usize) -> Vec<u8> {
        let length = u8::try_from(length + 20).unwrap();
        let mut header = vec![
            0x45, 0, 0, length, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 10, 1, 2, 10, 0, 2, 2,
        ];
        let words = header
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let sum = !u16::try_from(sum).unwrap();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    #[test]
    fn packets_are_said_in_the_words_of_rules() {
        let tcp = [
            0, 80, 0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x12, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(
            said(&[&[8, 0], &ipv4(6, 20), &tcp]),
            "12.000345 tcp 10.10.1.2:80 > 10.0.2.2:8080 syn,ack, 54 bytes"
        );
        let udp = [0, 68, 0, 67, 0, 8, 0, 0];
        assert_eq!(
            said(&[&[8, 0], &ipv4(17, 8), &udp]),
            "12.000345 udp 10.10.1.2:68 > 10.0.2.2:67, 42 bytes"
        );
        let echo = [8, 0, 0, 0, 1, 2, 0, 0];
        assert_eq!(
            said(&[&[8, 0], &ipv4(1, 8), &echo]),
            "12.000345 icmp 10.10.1.2 > 10.0.2.2 echo request 258, 42 bytes"
        );
        assert_eq!(
            said(&[&[8, 0], &ipv4(47, 8), &echo]),
            "12.000345 ip 10.10.1.2 > 10.0.2.2 protocol 47, 42 bytes"
        );
    }

    #[test]
    fn who_asks_for_a_neighbour_is_told() {
        let arp = [
            0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 10, 1, 2, 0, 0, 0, 0, 0, 0, 10, 10, 1, 1,
        ];
        assert_eq!(
            said(&[&[8, 6], &arp]),
            "12.000345 arp 10.10.1.2 asks who has 10.10.1.1, 42 bytes"
        );
    }

    #[test]
    fn what_makes_no_sense_is_said_to() {
        assert_eq!(
            said(&[&[0x88, 0xcc], &[1; 40]]),
            "12.000345 ethernet 02:00:00:00:00:02 > 52:54:00:00:00:01 type 0x88cc (ethertype), 54 bytes"
        );
        let short = Packet {
            at_ns: 0,
            length: 3,
            bytes: vec![1, 2, 3],
        };
        assert_eq!(
            line(&short),
            "0.000000 ethernet ? > ? type ? (truncated), 3 bytes"
        );
    }
}
