use super::tcp_flags::{ACK, FIN, RST, SYN};
use super::{
    About, Arp, ArpOperation, ETHERNET, ETHERTYPE_IPV4, ICMP, ICMP6, Ip, MAX_FRAME, Mac, Packet, TCP,
    Transport, UDP, What, parse,
};
use crate::vfr::checksum;
use crate::vfr::reason::Reason;
use crate::vfr::testing::{self, *};
use core::net::Ipv4Addr;
use proptest::prelude::*;

fn whole(frame: &[u8]) -> Result<Packet, Reason> {
    parse(frame, frame.len())
}

fn read(frame: &[u8]) -> Ip {
    match whole(frame).unwrap().what {
        What::Ip(ip) => ip,
        What::Arp(arp) => panic!("{arp:?}"),
    }
}

/// The frame with a byte changed, and the checksum of its IPv4 header made right.
fn with(frame: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at] = byte;
    right(frame)
}

fn right(mut frame: Vec<u8>) -> Vec<u8> {
    let end = (ETHERNET + usize::from(frame[14] & 0xf) * 4).min(frame.len());
    frame[24..26].fill(0);
    let sum = checksum::of(&[&frame[14..end]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// An IPv6 frame with these extension headers before a UDP header.
fn extended(kinds: &[u8], headers: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (header, next) in headers.iter().zip(kinds[1..].iter().chain(&[UDP])) {
        let start = bytes.len();
        bytes.extend_from_slice(header);
        bytes[start] = *next;
    }
    bytes.extend(udp(1, 2, b""));
    frame("fd00::2", "fd00::3", kinds[0], &bytes)
}

#[test]
fn tcp_over_both_ips_tells_ports_flags_and_where_it_lies() {
    for (source, destination, header) in [("10.0.0.2", "192.0.2.1", 20), ("fd00::2", "2001:db8::1", 40)] {
        let frame = frame(source, destination, TCP, &tcp(1025, 80, SYN, b"payload"));
        let packet = whole(&frame).unwrap();
        assert_eq!(
            (packet.source_mac, packet.destination_mac),
            (WEB_MAC, GATEWAY_MAC)
        );
        assert_eq!(packet.headers, 14 + header + 20);
        let read = read(&frame);
        assert_eq!((read.source, read.destination), (ip(source), ip(destination)));
        assert_eq!(
            (read.hops, read.protocol, read.transport_at),
            (64, TCP, 14 + header)
        );
        assert_eq!(read.end, frame.len());
        let expected = Transport::Tcp {
            source: 1025,
            destination: 80,
            flags: SYN,
        };
        assert_eq!(read.transport, expected);
    }
}

#[test]
fn payload_need_not_be_in_the_copy_and_headers_must() {
    let frame = frame("10.0.0.2", "192.0.2.1", TCP, &tcp(1025, 80, ACK, &[7; 1000]));
    let expected = whole(&frame);
    assert!(expected.is_ok());
    for copied in 0..frame.len() {
        let answer = parse(&frame[..copied], frame.len());
        let expected = if copied < 54 {
            Err(Reason::HeaderTooLong)
        } else {
            expected
        };
        assert_eq!(answer, expected, "{copied}");
    }
}

#[test]
fn a_frame_that_ends_early_is_dropped_wherever_it_ends() {
    for frame in [
        frame("10.0.0.2", "192.0.2.1", UDP, &udp(5, 6, b"abc")),
        frame("fd00::2", "fd00::3", ICMP6, &icmp(128, 0, 9, b"abc")),
        arp(1, WEB_MAC, "10.0.0.2", "10.0.0.1", Mac::BROADCAST),
    ] {
        assert!(whole(&frame).is_ok());
        for length in 0..frame.len() {
            assert!(whole(&frame[..length]).is_err(), "{length}");
        }
    }
}

#[test]
fn padding_behind_the_packet_is_none_of_it() {
    let mut frame = frame("10.0.0.2", "192.0.2.1", UDP, &udp(5, 6, b"abc"));
    let end = frame.len();
    frame.resize(60, 0);
    assert_eq!(read(&frame).end, end);
}

#[test]
fn what_is_not_arp_or_ip_is_dropped_and_a_tag_says_so() {
    for (ethertype, reason) in [
        (0x8100, Reason::Vlan),
        (0x88a8, Reason::Vlan),
        (0x88cc, Reason::EtherType),
        (46, Reason::EtherType),
    ] {
        let frame = ethernet(WEB_MAC, GATEWAY_MAC, ethertype, &[0; 46]);
        assert_eq!(whole(&frame), Err(reason));
    }
    for mac in [Mac([0; 6]), Mac::BROADCAST, Mac([1, 0, 0, 0, 0, 0])] {
        let frame = ethernet(mac, GATEWAY_MAC, ETHERTYPE_IPV4, &[0; 46]);
        assert_eq!(whole(&frame), Err(Reason::SourceMac));
    }
    assert_eq!(parse(&[0; 60], MAX_FRAME + 1), Err(Reason::FrameTooLong));
}

#[test]
fn arp_is_of_ethernet_and_ipv4_alone() {
    let good = arp(1, WEB_MAC, "10.0.0.2", "10.0.0.1", Mac::BROADCAST);
    let expected = Arp {
        operation: ArpOperation::Request,
        sender_mac: WEB_MAC,
        sender: Ipv4Addr::new(10, 0, 0, 2),
        target: Ipv4Addr::new(10, 0, 0, 1),
    };
    assert_eq!(whole(&good).unwrap().what, What::Arp(expected));
    for at in 14..22 {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert_eq!(whole(&bad), Err(Reason::ArpFormat), "{at}");
    }
}

#[test]
fn every_bogus_length_in_ipv4_has_its_reason() {
    let good = frame("10.0.0.2", "192.0.2.1", UDP, &udp(5, 6, b"abc"));
    for (at, byte, reason) in [
        (14, 0x65, Reason::IpVersion),
        (14, 0x44, Reason::Ipv4HeaderLength),
        (14, 0x4f, Reason::Ipv4HeaderLength),
        (17, 19, Reason::Ipv4HeaderLength),
        (17, 20, Reason::Truncated),
        (17, 32, Reason::Ipv4Length),
        (16, 0xff, Reason::Ipv4Length),
        (39, 7, Reason::UdpLength),
        (39, 10, Reason::UdpLength),
        (39, 12, Reason::UdpLength),
    ] {
        assert_eq!(whole(&with(&good, at, byte)), Err(reason), "{at} {byte}");
    }
    let mut wrong = good;
    wrong[25] ^= 1;
    assert_eq!(whole(&wrong), Err(Reason::Ipv4Checksum));
}

#[test]
fn options_of_ipv4_are_walked_and_source_routes_refused() {
    let plain = frame("10.0.0.2", "192.0.2.1", UDP, &udp(5, 6, b"abc"));
    let optioned = |options: &[u8]| {
        let mut frame = [&plain[..34], options, &plain[34..]].concat();
        frame[14] = 0x45 + u8::try_from(options.len() / 4).unwrap();
        frame[17] += u8::try_from(options.len()).unwrap();
        right(frame)
    };
    for good in [
        [1, 1, 1, 0],
        [0, 2, 2, 2],
        [7, 3, 4, 0],
        [7, 4, 4, 4],
        [148, 4, 0, 0],
    ] {
        let frame = optioned(&good);
        assert_eq!(whole(&frame).unwrap().headers, 14 + 24 + 8);
        assert_eq!(read(&frame).transport_at, 38);
    }
    for (bad, reason) in [
        ([7, 0, 0, 0], Reason::Ipv4Options),
        ([7, 1, 0, 0], Reason::Ipv4Options),
        ([7, 5, 0, 0], Reason::Ipv4Options),
        ([1, 1, 1, 7], Reason::Ipv4Options),
        ([131, 3, 4, 0], Reason::SourceRoute),
        ([1, 137, 3, 4], Reason::SourceRoute),
    ] {
        assert_eq!(whole(&optioned(&bad)), Err(reason), "{bad:?}");
    }
}

#[test]
fn fragments_are_told_whichever_part_they_are() {
    let good = frame("10.0.0.2", "192.0.2.1", UDP, &udp(5, 6, b"abc"));
    for (at, byte) in [(20, 0x20), (21, 1), (20, 0x1f)] {
        assert_eq!(read(&with(&good, at, byte)).transport, Transport::Fragment);
    }
    // "Do not fragment" is none.
    assert_ne!(read(&with(&good, 20, 0x40)).transport, Transport::Fragment);
    let six = read(&extended(&[44], &[&[0; 8]]));
    assert_eq!((six.transport, six.protocol), (Transport::Fragment, UDP));
}

#[test]
fn extension_headers_are_walked_to_the_transport() {
    let hop: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
    let long: &[u8] = &[0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let authentication: &[u8] = &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let frame = extended(
        &[0, 60, 43, 51],
        &[hop, long, hop_without_segments(), authentication],
    );
    let read = read(&frame);
    assert_eq!(
        read.transport,
        Transport::Udp {
            source: 1,
            destination: 2
        }
    );
    assert_eq!(read.transport_at, 54 + 8 + 16 + 8 + 12);
    assert_eq!(whole(&frame).unwrap().headers, frame.len());

    assert_eq!(
        whole(&extended(&[43], &[&[0, 0, 0, 1, 0, 0, 0, 0]])),
        Err(Reason::SourceRoute)
    );
    assert_eq!(
        whole(&extended(&[60, 0], &[hop, hop])),
        Err(Reason::Ipv6Extensions)
    );
    assert_eq!(
        whole(&extended(&[60], &[&[0, 9, 0, 0, 0, 0, 0, 0]])),
        Err(Reason::Ipv6Extensions)
    );
    assert!(whole(&extended(&[60; 8], &[hop; 8])).is_ok());
    assert_eq!(whole(&extended(&[60; 9], &[hop; 9])), Err(Reason::Ipv6Extensions));
}

fn hop_without_segments() -> &'static [u8] {
    &[0, 0, 2, 0, 0, 0, 0, 0]
}

#[test]
fn an_ipv6_length_that_is_zero_or_too_long_is_dropped() {
    let mut frame = frame("fd00::2", "fd00::3", UDP, &udp(5, 6, b"abc"));
    for length in [0, 12, 0xffff_u16] {
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        assert_eq!(whole(&frame), Err(Reason::Ipv6Length), "{length}");
    }
}

#[test]
fn tcp_flags_that_contradict_each_other_are_dropped() {
    for flags in 0..64_u8 {
        let answer = whole(&frame("10.0.0.2", "192.0.2.1", TCP, &tcp(1025, 80, flags, b"")));
        let ends = [SYN, FIN, RST].iter().filter(|end| flags & **end != 0).count();
        let is_good = match flags & ACK {
            0 => ends == 1 && flags & FIN == 0,
            _ => ends <= 1,
        };
        assert_eq!(answer.is_ok(), is_good, "{flags:#x} {answer:?}");
    }
}

#[test]
fn a_tcp_header_must_fit_its_packet_and_ports_are_not_zero() {
    let good = frame("10.0.0.2", "192.0.2.1", TCP, &tcp(1025, 80, SYN, b"1234"));
    assert_eq!(whole(&with(&good, 46, 0x60)).unwrap().headers, 58);
    for offset in [0x00, 0x40, 0x70, 0xf0] {
        assert_eq!(whole(&with(&good, 46, offset)), Err(Reason::TcpHeaderLength));
    }
    for bytes in [tcp(0, 80, SYN, b""), tcp(80, 0, SYN, b"")] {
        assert_eq!(
            whole(&frame("10.0.0.2", "192.0.2.1", TCP, &bytes)),
            Err(Reason::PortZero)
        );
    }
    assert_eq!(
        whole(&frame("10.0.0.2", "192.0.2.1", UDP, &udp(0, 1, b""))),
        Err(Reason::PortZero)
    );
}

#[test]
fn icmp_errors_tell_which_packet_they_are_about() {
    let about = packet(ip("192.0.2.1"), ip("10.0.0.2"), UDP, &udp(53, 1025, &[0; 100]));
    let frame = frame("10.0.0.2", "192.0.2.1", ICMP, &icmp(3, 3, 0, &about[..28]));
    let Transport::Icmp {
        kind: 3,
        code: 3,
        about: About::Error(inner),
    } = read(&frame).transport
    else {
        panic!("{frame:?}");
    };
    assert_eq!((inner.at, inner.transport_at), (42, 62));
    assert_eq!(
        (inner.source, inner.destination),
        (ip("192.0.2.1"), ip("10.0.0.2"))
    );
    assert_eq!((inner.protocol, inner.ports), (UDP, Some((53, 1025))));
    for length in 0..28 {
        let frame = testing::frame("10.0.0.2", "192.0.2.1", ICMP, &icmp(3, 3, 0, &about[..length]));
        assert_eq!(whole(&frame), Err(Reason::IcmpInner), "{length}");
    }

    let about = packet(ip("fd00::3"), ip("fd00::2"), ICMP6, &icmp(128, 0, 77, b""));
    let frame = testing::frame("fd00::2", "fd00::3", ICMP6, &icmp(1, 4, 0, &about));
    let Transport::Icmp {
        about: About::Error(inner),
        ..
    } = read(&frame).transport
    else {
        panic!("{frame:?}");
    };
    assert_eq!((inner.protocol, inner.ports), (ICMP6, Some((77, 0))));
}

#[test]
fn icmp_belongs_to_its_own_version_of_ip() {
    for (kind, about) in [
        (8, About::EchoRequest(5)),
        (0, About::EchoReply(5)),
        (13, About::Other),
    ] {
        let expected = Transport::Icmp { kind, code: 0, about };
        assert_eq!(
            read(&frame("10.0.0.2", "10.0.0.1", ICMP, &icmp(kind, 0, 5, b""))).transport,
            expected
        );
    }
    let message = icmp(8, 0, 5, b"");
    assert_eq!(
        whole(&frame("10.0.0.2", "10.0.0.1", ICMP6, &message)),
        Err(Reason::IcmpVersion)
    );
    assert_eq!(
        whole(&frame("fd00::2", "fd00::3", ICMP, &message)),
        Err(Reason::IcmpVersion)
    );
    assert_eq!(
        whole(&frame("10.0.0.2", "10.0.0.1", ICMP, &[8, 0, 0, 0])),
        Err(Reason::IcmpLength)
    );
}

#[test]
fn macs_are_read_as_they_are_shown() {
    assert_eq!(Mac::parse(&WEB_MAC.to_string()), Some(WEB_MAC));
    for none in [
        "",
        "02:00:00:00:00",
        "02:00:00:00:00:01:02",
        "2:0:0:0:0:1",
        "+2:00:00:00:00:01",
        "0g:00:00:00:00:01",
    ] {
        assert_eq!(Mac::parse(none), None, "{none}");
    }
}

/// Frames that are good, or nearly.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let about = packet(ip("192.0.2.1"), ip("10.0.0.2"), UDP, &udp(53, 1025, &[0; 8]));
    let frames = vec![
        frame("10.0.0.2", "192.0.2.1", TCP, &tcp(1025, 80, SYN, b"data")),
        frame("10.0.0.2", "192.0.2.1", UDP, &udp(5, 6, b"abc")),
        frame("10.0.0.2", "192.0.2.1", ICMP, &icmp(3, 3, 0, &about)),
        frame("fd00::2", "fd00::3", TCP, &tcp(1025, 80, SYN, b"data")),
        extended(&[0, 60, 43], &[hop_without_segments(); 3]),
        arp(1, WEB_MAC, "10.0.0.2", "10.0.0.1", Mac::BROADCAST),
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (prop::sample::select(frames), changes, any::<bool>()).prop_map(|(mut frame, changes, is_right)| {
        for (at, byte) in changes {
            let at = at.index(frame.len());
            frame[at] = byte;
        }
        if is_right { right(frame) } else { frame }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn places_lie_in_the_copy_whatever_the_bytes(
        frame in prop_oneof![nearly(), prop::collection::vec(any::<u8>(), 0..200)],
        copied in any::<prop::sample::Index>(),
        longer in 0_usize..3000,
    ) {
        let copy = &frame[..copied.index(frame.len() + 1)];
        if let Ok(packet) = parse(copy, frame.len() + longer) {
            prop_assert!(packet.headers <= copy.len());
            if let What::Ip(ip) = packet.what {
                prop_assert!(ip.transport_at <= packet.headers && packet.headers <= ip.end);
                prop_assert!(ip.end <= frame.len() + longer);
                prop_assert_eq!(ip.source.is_ipv4(), ip.destination.is_ipv4());
                if let Transport::Icmp { about: About::Error(inner), .. } = ip.transport {
                    let ports = if inner.ports.is_some() { 8 } else { 0 };
                    prop_assert!(inner.transport_at + ports <= packet.headers);
                }
            }
            // What lies behind the headers changes nothing.
            prop_assert_eq!(parse(&copy[..packet.headers], frame.len() + longer), Ok(packet));
        }
    }
}
