//! Frames, good ones and others, byte for byte: what tests send where they must be sure that it is dropped, and that what is right still passes.

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol,
    Ipv4Address, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

/// Who is at both ends of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// This end's hardware address.
    pub mac: [u8; 6],
    /// Its address.
    pub own: Ipv4Address,
    /// The other's hardware address; [`EVERYBODY`] while it is not known.
    pub to: [u8; 6],
    /// Its address: the gateway's, for a guest.
    pub gateway: Ipv4Address,
}

/// Bytes of headers.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
/// Bytes of the shortest frame on a wire.
const SHORTEST: usize = 60;

/// The hardware address of everybody.
pub const EVERYBODY: [u8; 6] = [0xff; 6];
/// Somebody else.
pub const OTHER: [u8; 6] = [2, 0, 0, 0xbd, 0xbd, 0xbd];

impl Ends {
    /// Asks everybody who has the gateway's address.
    #[must_use]
    pub fn question(&self) -> Vec<u8> {
        self.arp(ArpOperation::Request, self.mac, self.mac, self.own)
    }

    /// The hardware address that a frame answers that with.
    #[must_use]
    pub fn answer(&self, frame: &[u8]) -> Option<[u8; 6]> {
        let parts = EthernetFrame::new_checked(frame).ok().and_then(|frame| {
            let is_arp = frame.ethertype() == EthernetProtocol::Arp && frame.dst_addr().0 == self.mac;
            let packet = ArpPacket::new_checked(frame.payload().to_vec()).ok()?;
            ArpRepr::parse(&packet).ok().filter(|_| is_arp)
        });
        let Some(ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        }) = parts
        else {
            return None;
        };
        let is_right = (source_protocol_addr, target_protocol_addr) == (self.gateway, self.own);
        is_right.then_some(source_hardware_addr.0)
    }

    /// A frame of ARP to everybody, about the gateway, from this hardware address, with that one inside.
    fn arp(&self, operation: ArpOperation, mac: [u8; 6], inside: [u8; 6], address: Ipv4Address) -> Vec<u8> {
        let repr = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(inside),
            source_protocol_addr: address,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: self.gateway,
        };
        let mut frame = vec![0; SHORTEST];
        let mut ethernet = header(&mut frame, mac, EVERYBODY, EthernetProtocol::Arp);
        repr.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
        frame
    }

    /// A datagram to the gateway's port 9, from this hardware address and that address.
    #[must_use]
    pub fn datagram(&self, mac: [u8; 6], from: Ipv4Address, size: usize) -> Vec<u8> {
        let all = ChecksumCapabilities::default();
        let payload = UDP.saturating_add(size);
        let length = ETHERNET.saturating_add(IPV4).saturating_add(payload);
        let mut frame = vec![0; length.max(SHORTEST)];
        let mut ethernet = header(&mut frame, mac, self.to, EthernetProtocol::Ipv4);
        let repr = Ipv4Repr {
            src_addr: from,
            dst_addr: self.gateway,
            next_header: IpProtocol::Udp,
            payload_len: payload,
            hop_limit: 64,
        };
        let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
        repr.emit(&mut packet, &all);
        let ports = UdpRepr {
            src_port: 9,
            dst_port: 9,
        };
        let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
        let fill = |data: &mut [u8]| data.fill(0x5a);
        ports.emit(
            &mut datagram,
            &from.into(),
            &self.gateway.into(),
            size,
            fill,
            &all,
        );
        frame
    }

    /// Frames that claim to be from others.
    #[must_use]
    pub fn spoofed(&self) -> Vec<(&'static str, Vec<u8>)> {
        let others = Ipv4Address::new(192, 0, 2, 77);
        let request = ArpOperation::Request;
        let mut ipv6 = self.datagram(self.mac, self.own, 40);
        // A packet of IPv6 from an address that is nobody's, with no payload.
        let packet = [&[0x60, 0, 0, 0, 0, 0, 59, 64][..], &[0xfd; 16], &[0xfe; 16]].concat();
        splice(&mut ipv6, 12, &[0x86, 0xdd]);
        splice(&mut ipv6, ETHERNET, &packet);
        vec![
            ("mac", self.datagram(OTHER, self.own, 10)),
            ("mac-of-a-group", self.datagram([0xff; 6], self.own, 10)),
            ("address", self.datagram(self.mac, others, 10)),
            ("gateways-address", self.datagram(self.mac, self.gateway, 10)),
            (
                "address-of-a-group",
                self.datagram(self.mac, Ipv4Address::new(224, 0, 0, 1), 10),
            ),
            (
                "loopback",
                self.datagram(self.mac, Ipv4Address::new(127, 0, 0, 1), 10),
            ),
            ("arp-outside", self.arp(request, OTHER, self.mac, self.own)),
            ("arp-inside", self.arp(request, self.mac, OTHER, self.own)),
            ("arp-address", self.arp(request, self.mac, self.mac, others)),
            (
                "arp-gateway",
                self.arp(ArpOperation::Reply, self.mac, self.mac, self.gateway),
            ),
            ("ipv6", ipv6),
        ]
    }

    /// Fragments: whole rows of them, single ones, some that overlap.
    #[must_use]
    pub fn fragments(&self) -> Vec<(&'static str, Vec<u8>)> {
        let fragment = |offset: u16, has_more: bool| {
            let mut frame = self.datagram(self.mac, self.own, 64);
            if let Some(bytes) = frame.get_mut(ETHERNET..) {
                let mut packet = Ipv4Packet::new_unchecked(bytes);
                packet.set_ident(7);
                packet.set_frag_offset(offset);
                packet.set_more_frags(has_more);
                packet.fill_checksum();
            }
            frame
        };
        vec![
            ("first", fragment(0, true)),
            ("middle", fragment(72, true)),
            ("last", fragment(144, false)),
            ("overlapping", fragment(8, true)),
            ("past-the-end", fragment(65528, false)),
        ]
    }

    /// Frames with fields that make no sense.
    #[must_use]
    pub fn damaged(&self) -> Vec<(&'static str, Vec<u8>)> {
        let whole = self.datagram(self.mac, self.own, 64);
        let with = |at: usize, bytes: &[u8]| {
            let mut frame = whole.clone();
            splice(&mut frame, at, bytes);
            // The header's own checksum is right, so that it is not what they are dropped for.
            if at < ETHERNET.saturating_add(IPV4)
                && at >= ETHERNET
                && at != 24
                && let Some(bytes) = frame.get_mut(ETHERNET..)
            {
                Ipv4Packet::new_unchecked(bytes).fill_checksum();
            }
            frame
        };
        vec![
            ("header-alone", cut(&whole, ETHERNET)),
            ("header-and-a-byte", cut(&whole, 15)),
            ("half-an-ip-header", cut(&whole, 24)),
            ("ip-header-alone", cut(&whole, 34)),
            ("half-a-udp-header", cut(&whole, 38)),
            ("unknown-type", with(12, &[0x12, 0x34])),
            ("length-for-a-type", with(12, &[0, 46])),
            ("vlan", with(12, &[0x81, 0])),
            ("ip-version", with(14, &[0x55])),
            ("ip-header-too-short", with(14, &[0x41])),
            ("ip-length-0", with(16, &[0, 0])),
            ("ip-length-too-long", with(16, &[0xff, 0xff])),
            ("ttl-0", with(22, &[0])),
            ("ip-checksum", with(24, &[0xde, 0xad])),
            ("udp-length-0", with(38, &[0, 0])),
            ("udp-length-too-long", with(38, &[0xff, 0xff])),
            ("udp-port-0", with(36, &[0, 0])),
            ("zeros", vec![0; SHORTEST]),
            ("ones", vec![0xff; SHORTEST]),
        ]
    }
}

fn header(frame: &mut [u8], mac: [u8; 6], to: [u8; 6], kind: EthernetProtocol) -> EthernetFrame<&mut [u8]> {
    let mut ethernet = EthernetFrame::new_unchecked(frame);
    ethernet.set_dst_addr(EthernetAddress(to));
    ethernet.set_src_addr(EthernetAddress(mac));
    ethernet.set_ethertype(kind);
    ethernet
}

fn splice(frame: &mut [u8], at: usize, bytes: &[u8]) {
    let end = at.saturating_add(bytes.len());
    if let Some(place) = frame.get_mut(at..end) {
        place.copy_from_slice(bytes);
    }
}

fn cut(frame: &[u8], length: usize) -> Vec<u8> {
    frame.get(..length).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: Ends = Ends {
        mac: [2, 1, 2, 3, 4, 5],
        own: Ipv4Address::new(10, 10, 1, 2),
        to: [2, 0, 0, 0, 0, 9],
        gateway: Ipv4Address::new(10, 10, 1, 1),
    };

    #[test]
    fn the_gateways_answer_is_known_and_nothing_else() {
        let mut answer = ENDS.question();
        assert_eq!(ENDS.answer(&answer), None);
        answer[..6].copy_from_slice(&ENDS.mac);
        answer[21] = 2;
        answer[28..32].copy_from_slice(&ENDS.gateway.octets());
        answer[38..42].copy_from_slice(&ENDS.own.octets());
        answer[22..28].copy_from_slice(&ENDS.to);
        assert_eq!(ENDS.answer(&answer), Some(ENDS.to));
        assert_eq!(ENDS.answer(&answer[..30]), None);
        answer[31] ^= 1;
        assert_eq!(ENDS.answer(&answer), None);
    }

    #[test]
    fn a_datagram_is_right_but_for_what_is_made_wrong() {
        let frame = ENDS.datagram(ENDS.mac, ENDS.own, 10);
        let packet = Ipv4Packet::new_checked(&frame[ETHERNET..]).unwrap();
        assert!(packet.verify_checksum());
        let udp = UdpPacket::new_checked(packet.payload()).unwrap();
        assert!(udp.verify_checksum(&ENDS.own.into(), &ENDS.gateway.into()));
        assert_eq!(udp.payload(), [0x5a; 10]);
        let (name, ttl) = &ENDS.damaged()[12];
        let packet = Ipv4Packet::new_checked(&ttl[ETHERNET..]).unwrap();
        assert_eq!(
            (*name, packet.hop_limit(), packet.verify_checksum()),
            ("ttl-0", 0, true)
        );
    }

    #[test]
    fn no_two_bad_frames_are_the_same_and_each_has_a_header() {
        let all = [ENDS.spoofed(), ENDS.fragments(), ENDS.damaged()].concat();
        for (index, (name, frame)) in all.iter().enumerate() {
            assert!(frame.len() >= ETHERNET, "{name}");
            assert!(all[..index].iter().all(|(_, other)| other != frame), "{name}");
        }
    }
}
