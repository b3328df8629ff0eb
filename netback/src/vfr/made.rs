//! Frames that the VFR makes itself: answers about neighbours, ICMP errors, resets.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum;
use super::packet::{
    ETHERNET, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMP6, Ip, Mac, TCP, UDP, tcp_flags,
};

/// The hops that a packet of the VFR's own may make.
const HOPS: u8 = 64;

fn ethernet(source: Mac, destination: Mac, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128);
    frame.extend(destination.0);
    frame.extend(source.0);
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// An ARP packet: a request if `target_mac` is broadcast.
#[must_use]
pub fn arp(mac: Mac, address: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let is_request = target_mac == Mac::BROADCAST;
    let mut frame = ethernet(mac, target_mac, ETHERTYPE_ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, if is_request { 1 } else { 2 }]);
    frame.extend(mac.0);
    frame.extend(address.octets());
    frame.extend(if is_request { [0; 6] } else { target_mac.0 });
    frame.extend(target.octets());
    frame
}

/// A frame of one IP packet, without options, from address to address; `message` is one of `protocol`, with
/// zeros where its checksum belongs.
pub(crate) fn packet(
    macs: (Mac, Mac),
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hops: u8,
    message: &mut [u8],
) -> Option<Vec<u8>> {
    let length = u16::try_from(message.len()).ok()?;
    let field = match protocol {
        TCP => 16,
        UDP => 6,
        _ => 2_usize,
    };
    let sum = match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) if protocol == ICMP => checksum::of(&[message]),
        (IpAddr::V4(source), IpAddr::V4(destination)) => checksum::of(&[
            &source.octets(),
            &destination.octets(),
            &[0, protocol],
            &length.to_be_bytes(),
            message,
        ]),
        (IpAddr::V6(source), IpAddr::V6(destination)) => checksum::of(&[
            &source.octets(),
            &destination.octets(),
            &[0, protocol],
            &length.to_be_bytes(),
            message,
        ]),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    // Of UDP zero says that there is none.
    let sum = if protocol == UDP && sum == 0 { 0xffff } else { sum };
    let place = message.get_mut(field..field.saturating_add(2))?;
    place.copy_from_slice(&sum.to_be_bytes());
    let mut frame = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [high, low] = length.checked_add(20)?.to_be_bytes();
            // Not to be fragmented, so that its identification need not differ from others'.
            let head = [0x45, 0, high, low, 0, 0, 0x40, 0, hops, protocol];
            let (source, destination) = (source.octets(), destination.octets());
            let sum = checksum::of(&[&head, &source, &destination]).to_be_bytes();
            let mut frame = ethernet(macs.0, macs.1, ETHERTYPE_IPV4);
            frame.extend([&head[..], &sum, &source, &destination].concat());
            frame
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let [high, low] = length.to_be_bytes();
            let mut frame = ethernet(macs.0, macs.1, ETHERTYPE_IPV6);
            frame.extend([0x60, 0, 0, 0, high, low, protocol, hops]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            frame
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    frame.extend_from_slice(message);
    Some(frame)
}

/// A UDP datagram from address and port to address and port.
#[must_use]
pub fn udp(macs: (Mac, Mac), from: (IpAddr, u16), to: (IpAddr, u16), data: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(data.len()).ok()?.checked_add(8)?;
    let mut message = Vec::with_capacity(length.into());
    for word in [from.1, to.1, length, 0] {
        message.extend(word.to_be_bytes());
    }
    message.extend_from_slice(data);
    packet(macs, from.0, to.0, UDP, HOPS, &mut message)
}

/// The group that a neighbour solicitation for an address goes to (RFC 4291, 2.7.1), and its MAC.
fn solicited(target: Ipv6Addr) -> (Ipv6Addr, Mac) {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    (group, Mac([0x33, 0x33, 0xff, a, b, c]))
}

fn neighbour(kind: u8, flags: u8, target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut message = Vec::from([kind, 0, 0, 0, flags, 0, 0, 0]);
    message.extend(target.octets());
    // The link-layer address: the source's in a question, the target's in an answer.
    message.extend([if kind == 135 { 1 } else { 2 }, 1]);
    message.extend(mac.0);
    message
}

/// A neighbour solicitation (RFC 4861, 4.3): who has `target`?
#[must_use]
pub fn solicitation(mac: Mac, address: Ipv6Addr, target: Ipv6Addr) -> Option<Vec<u8>> {
    let (group, group_mac) = solicited(target);
    let mut message = neighbour(135, 0, target, mac);
    packet(
        (mac, group_mac),
        address.into(),
        group.into(),
        ICMP6,
        255,
        &mut message,
    )
}

/// A neighbour advertisement (RFC 4861, 4.4): `mac` has `target`, and the one at `to` asked; who has no address
/// yet is told by way of all.
#[must_use]
pub fn advertisement(
    from: Mac,
    mac: Mac,
    target: Ipv6Addr,
    to: (Mac, Ipv6Addr),
    is_router: bool,
) -> Option<Vec<u8>> {
    let all = (
        Mac([0x33, 0x33, 0, 0, 0, 1]),
        Ipv6Addr::from_bits(0xff02 << 112 | 1),
    );
    let is_asked = !to.1.is_unspecified();
    let (to_mac, to) = if is_asked { to } else { all };
    let flags = 0x20 | u8::from(is_asked) << 6 | u8::from(is_router) << 7;
    let mut message = neighbour(136, flags, target, mac);
    packet((from, to_mac), target.into(), to.into(), ICMP6, 255, &mut message)
}

/// An ICMP error about the packet of a frame, of which `header` is the beginning and `ip` what was read.
#[must_use]
pub fn error(
    macs: (Mac, Mac),
    source: IpAddr,
    header: &[u8],
    ip: &Ip,
    kind: u8,
    code: u8,
) -> Option<Vec<u8>> {
    let end = ip.transport_at.saturating_add(8).min(ip.end).min(header.len());
    let mut message = Vec::from([kind, code, 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(header.get(ETHERNET..end)?);
    let protocol = if ip.source.is_ipv4() { ICMP } else { ICMP6 };
    packet(macs, source, ip.source, protocol, HOPS, &mut message)
}

/// A reset that answers the TCP segment of a frame (RFC 9293, 3.5.2); none answers a reset.
#[must_use]
pub fn reset(macs: (Mac, Mac), header: &[u8], ip: &Ip) -> Option<Vec<u8>> {
    let at = ip.transport_at;
    let tcp: [u8; 14] = header.get(at..at.saturating_add(14))?.try_into().ok()?;
    let [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, offset, flags] = tcp;
    if flags & tcp_flags::RST != 0 {
        return None;
    }
    let header_length = usize::from(offset >> 4).saturating_mul(4);
    let data = ip.end.saturating_sub(at.saturating_add(header_length));
    let sequence = u32::from_be_bytes([q0, q1, q2, q3]);
    // A SYN counts as a byte.
    let after = sequence
        .wrapping_add(u32::try_from(data).ok()?)
        .wrapping_add(u32::from(flags & tcp_flags::SYN != 0));
    let (sequence, acknowledged, flags) = if flags & tcp_flags::ACK != 0 {
        ([a0, a1, a2, a3], [0; 4], tcp_flags::RST)
    } else {
        ([0; 4], after.to_be_bytes(), tcp_flags::RST | tcp_flags::ACK)
    };
    let mut message = Vec::from([d0, d1, s0, s1]);
    message.extend(sequence);
    message.extend(acknowledged);
    message.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    packet(macs, ip.destination, ip.source, TCP, HOPS, &mut message)
}

/// A message of neighbour or router discovery, if it is whole, in the copy and not damaged.
#[must_use]
pub fn neighbours<'a>(header: &'a [u8], ip: &Ip) -> Option<&'a [u8]> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (ip.source, ip.destination) else {
        return None;
    };
    let message = header.get(ip.transport_at..ip.end)?;
    let length = u32::try_from(message.len()).ok()?.to_be_bytes();
    let sum = checksum::of(&[
        &source.octets(),
        &destination.octets(),
        &length,
        &[0, ICMP6],
        message,
    ]);
    // RFC 4861, 6.1 and 7.1: code 0, and from no farther than the next host.
    let [_, 0, ..] = message else {
        return None;
    };
    (sum == 0 && ip.hops == 255).then_some(message)
}

/// The target in a neighbour solicitation or advertisement.
#[must_use]
pub fn target(message: &[u8]) -> Option<Ipv6Addr> {
    let target: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    Some(target.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfr::packet::{About, Transport, What, parse};
    use crate::vfr::testing::{self, GATEWAY_MAC, WEB_MAC, frame, ip, tcp, udp};

    fn read(frame: &[u8]) -> Ip {
        match parse(frame, frame.len()).unwrap().what {
            What::Ip(ip) => ip,
            What::Arp(arp) => panic!("{arp:?}"),
        }
    }

    #[test]
    fn questions_and_answers_about_neighbours_are_read_again() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut request = testing::arp(1, GATEWAY_MAC, "10.0.0.1", "10.0.0.2", Mac::BROADCAST);
        assert_eq!(arp(GATEWAY_MAC, a, Mac::BROADCAST, b), request);
        request.splice(0..6, WEB_MAC.0);
        request[21] = 2;
        request.splice(32..38, WEB_MAC.0);
        assert_eq!(arp(GATEWAY_MAC, a, WEB_MAC, b), request);

        let (IpAddr::V6(gateway), IpAddr::V6(web)) = (ip("fd00::1"), ip("fd00::2")) else {
            panic!()
        };
        for frame in [
            solicitation(GATEWAY_MAC, gateway, web).unwrap(),
            advertisement(GATEWAY_MAC, GATEWAY_MAC, web, (WEB_MAC, gateway), true).unwrap(),
        ] {
            let message = neighbours(&frame, &read(&frame)).unwrap();
            assert_eq!(target(message), Some(web));
            assert_eq!(target(&message[..20]), None);
            let mut damaged = frame.clone();
            damaged[70] ^= 1;
            assert_eq!(neighbours(&damaged, &read(&damaged)), None);
            assert_eq!(neighbours(&frame[..60], &read(&frame)), None);
        }
    }

    #[test]
    fn an_error_carries_the_beginning_of_what_it_is_about() {
        for (from, to, gateway, kind) in [
            ("10.0.0.2", "192.0.2.1", "10.0.0.1", 3),
            ("fd00::2", "fd00::3", "fd00::1", 1),
        ] {
            let about = frame(from, to, UDP, &udp(1025, 53, &[0; 50]));
            let made = error(
                (GATEWAY_MAC, WEB_MAC),
                ip(gateway),
                &about,
                &read(&about),
                kind,
                1,
            )
            .unwrap();
            let Transport::Icmp {
                about: About::Error(inner),
                ..
            } = read(&made).transport
            else {
                panic!()
            };
            assert_eq!((inner.source, inner.ports), (ip(from), Some((1025, 53))));
            assert_eq!(inner.transport_at + 8, made.len());
        }
    }

    #[test]
    fn a_reset_answers_as_the_closed_port_would() {
        let syn = frame("10.0.0.2", "192.0.2.1", TCP, &tcp(1025, 80, tcp_flags::SYN, b""));
        let answer = reset((GATEWAY_MAC, WEB_MAC), &syn, &read(&syn)).unwrap();
        let read_answer = read(&answer);
        let flags = tcp_flags::RST | tcp_flags::ACK;
        assert_eq!(
            read_answer.transport,
            Transport::Tcp {
                source: 80,
                destination: 1025,
                flags
            }
        );
        assert_eq!(
            (read_answer.source, read_answer.destination),
            (ip("192.0.2.1"), ip("10.0.0.2"))
        );
        // The test's segments have sequence number 1 and acknowledge 2.
        assert_eq!(answer[38..46], [0, 0, 0, 0, 0, 0, 0, 2]);
        let data = frame(
            "10.0.0.2",
            "192.0.2.1",
            TCP,
            &tcp(1025, 80, tcp_flags::ACK, b"data"),
        );
        let answer = reset((GATEWAY_MAC, WEB_MAC), &data, &read(&data)).unwrap();
        assert_eq!(answer[38..46], [0, 0, 0, 2, 0, 0, 0, 0]);
        let rst = frame("10.0.0.2", "192.0.2.1", TCP, &tcp(1025, 80, tcp_flags::RST, b""));
        assert_eq!(reset((GATEWAY_MAC, WEB_MAC), &rst, &read(&rst)), None);
    }
}
