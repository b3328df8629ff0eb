//! Address translation: the uplink's ports that guests hold, and the change of headers.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use core::net::IpAddr;

use super::checksum;
use super::classify::PortId;
use super::flow::Key;
use super::packet::{ETHERNET, ICMP, ICMP6, Inner, Ip, TCP, UDP};
use super::reason::Reason;

/// The lowest port or identifier of the uplink's address that connections from inside are given; all above are too.
pub const FIRST: u16 = 0x8000;
/// How many words of 64 bits tell which of them are taken.
const WORDS: usize = 512;

/// Which of the uplink's ports are taken, for TCP, UDP, and the identifiers of echo requests, and how many each VIF has.
#[derive(Debug)]
pub struct Ports {
    taken: Box<[[u64; WORDS]; 3]>,
    held: BTreeMap<PortId, u32>,
    quota: u32,
}

impl Ports {
    /// All free; no VIF gets more than `quota`.
    #[must_use]
    pub fn new(quota: u32) -> Self {
        Self {
            taken: Box::new([[0; WORDS]; 3]),
            held: BTreeMap::new(),
            quota,
        }
    }

    fn table(&mut self, protocol: u8) -> Option<&mut [u64; WORDS]> {
        let [tcp, udp, echo] = &mut *self.taken;
        match protocol {
            TCP => Some(tcp),
            UDP => Some(udp),
            ICMP | ICMP6 => Some(echo),
            _ => None,
        }
    }

    /// Takes a port for a connection of `owner` that has `wanted` inside: the one with the same low bits, or the next that is free.
    ///
    /// # Errors
    ///
    /// [`Reason::NatProtocol`], [`Reason::NatQuota`], [`Reason::NatPorts`].
    pub fn take(&mut self, protocol: u8, wanted: u16, owner: PortId) -> Result<u16, Reason> {
        let held = self.held.get(&owner).copied().unwrap_or_default();
        if held >= self.quota {
            return Err(Reason::NatQuota);
        }
        let table = self.table(protocol).ok_or(Reason::NatProtocol)?;
        let place = wanted & !FIRST;
        let (start, bit) = (usize::from(place >> 6), place & 63);
        // The first word is looked at twice: from the wanted bit on, and at the end from its beginning.
        let above = u64::MAX.checked_shl(bit.into()).unwrap_or(0);
        let masks = core::iter::once(above).chain(core::iter::repeat(u64::MAX));
        let order = (start..WORDS).chain(0..=start);
        for (number, mask) in order.zip(masks) {
            let Some(word) = table.get_mut(number) else {
                continue;
            };
            let free = !*word & mask;
            if free != 0 {
                let bit = free.trailing_zeros();
                *word |= 1_u64.checked_shl(bit).unwrap_or(0);
                self.held.insert(owner, held.saturating_add(1));
                let place = (number << 6) | bit as usize;
                return u16::try_from(place)
                    .map(|place| FIRST | place)
                    .map_err(|_| Reason::NatPorts);
            }
        }
        Err(Reason::NatPorts)
    }

    /// Takes one port alone for `owner`.
    ///
    /// # Errors
    ///
    /// As of [`Self::take`], the last if it is not free or none of those that are given.
    pub fn take_this(&mut self, protocol: u8, port: u16, owner: PortId) -> Result<(), Reason> {
        let held = self.held(owner);
        if held >= self.quota {
            return Err(Reason::NatQuota);
        }
        let table = self.table(protocol).ok_or(Reason::NatProtocol)?;
        let place = port & !FIRST;
        let bit = 1_u64.checked_shl((place & 63).into()).unwrap_or(0);
        let word = table.get_mut(usize::from(place >> 6)).filter(|_| port >= FIRST);
        let word = word.filter(|word| **word & bit == 0).ok_or(Reason::NatPorts)?;
        *word |= bit;
        self.held.insert(owner, held.saturating_add(1));
        Ok(())
    }

    /// Gives back a port that `owner` took.
    pub fn give_back(&mut self, protocol: u8, port: u16, owner: PortId) {
        let place = port & !FIRST;
        let bit = 1_u64.checked_shl((place & 63).into()).unwrap_or(0);
        if let Some(word) = self
            .table(protocol)
            .and_then(|table| table.get_mut(usize::from(place >> 6)))
        {
            *word &= !bit;
        }
        if let Some(held) = self.held.get_mut(&owner) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.held.remove(&owner);
            }
        }
    }

    /// How many ports a VIF holds.
    #[must_use]
    pub fn held(&self, owner: PortId) -> u32 {
        self.held.get(&owner).copied().unwrap_or_default()
    }
}

/// What the checksum of a frame's TCP or UDP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// That of the whole.
    Whole,
    /// That of the pseudo-header alone, not complemented: the NIC or the receiver is to complete it.
    ToComplete,
}

/// A checksum that covers what is changed.
#[derive(Clone, Copy)]
enum Sum {
    Plain(usize),
    /// As [`Checksum::ToComplete`] has it.
    Pseudo(usize),
    /// Zero means that there is none.
    Udp(usize),
}

const fn plus(at: usize, by: usize) -> usize {
    at.saturating_add(by)
}

fn get<const N: usize>(header: &[u8], at: usize) -> Option<[u8; N]> {
    header.get(at..plus(at, N))?.try_into().ok()
}

/// Puts `new` at `at`, and has the checksums follow. What lies beyond the header is left alone.
fn change<const N: usize>(header: &mut [u8], at: usize, new: [u8; N], sums: &[Sum]) {
    let Some(place) = header.get_mut(at..plus(at, N)) else {
        return;
    };
    let mut old = new;
    place.swap_with_slice(&mut old);
    if old == new {
        return;
    }
    for sum in sums {
        let (Sum::Plain(at) | Sum::Pseudo(at) | Sum::Udp(at)) = *sum;
        let Some(before) = get(header, at).map(u16::from_be_bytes) else {
            continue;
        };
        let after = match sum {
            Sum::Plain(_) => checksum::update(before, &old, &new),
            Sum::Pseudo(_) => !checksum::update(!before, &old, &new),
            Sum::Udp(_) if before == 0 => 0,
            Sum::Udp(_) => match checksum::update(before, &old, &new) {
                0 => 0xffff,
                sum => sum,
            },
        };
        if let Some(place) = header.get_mut(at..plus(at, 2)) {
            place.copy_from_slice(&after.to_be_bytes());
        }
    }
}

/// Changes the addresses of the IP header at `at`. Of two versions nothing is changed.
fn addresses(header: &mut [u8], at: usize, source: IpAddr, destination: IpAddr, sums: &[Sum]) {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let both = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
            change(header, plus(at, 12), both.to_be_bytes(), sums);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let (mut both, old) = ([0; 32], [source.octets(), destination.octets()]);
            for (place, byte) in both.iter_mut().zip(old.as_flattened()) {
                *place = *byte;
            }
            change(header, plus(at, 8), both, sums);
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
    }
}

/// Changes the ports, or the identifier, of the transport header at `at`.
fn ports(header: &mut [u8], at: usize, new: &Key, sums: &[Sum]) {
    match new.protocol {
        TCP | UDP => {
            let both = u32::from(new.source_port) << 16 | u32::from(new.destination_port);
            change(header, at, both.to_be_bytes(), sums);
        }
        // One of them is zero.
        ICMP | ICMP6 => {
            let identifier = new.source_port | new.destination_port;
            change(header, plus(at, 4), identifier.to_be_bytes(), sums);
        }
        _ => {}
    }
}

/// Makes the packet in `header`, which is `ip`, one of `new`: addresses, ports or identifier, and checksums.
pub fn translate(header: &mut [u8], ip: &Ip, new: &Key, state: Checksum) {
    let at = ip.transport_at;
    let header_sum = Sum::Plain(plus(ETHERNET, 10));
    let is_whole = state == Checksum::Whole;
    // What covers the addresses, and what covers the ports.
    let (pseudo, own) = match ip.protocol {
        TCP if is_whole => (Some(Sum::Plain(plus(at, 16))), Some(Sum::Plain(plus(at, 16)))),
        TCP => (Some(Sum::Pseudo(plus(at, 16))), None),
        UDP if is_whole => (Some(Sum::Udp(plus(at, 6))), Some(Sum::Udp(plus(at, 6)))),
        UDP => (Some(Sum::Pseudo(plus(at, 6))), None),
        ICMP => (None, Some(Sum::Plain(plus(at, 2)))),
        ICMP6 => (Some(Sum::Plain(plus(at, 2))), Some(Sum::Plain(plus(at, 2)))),
        _ => (None, None),
    };
    let mut sums = [header_sum; 2];
    let mut count = usize::from(ip.source.is_ipv4());
    if let (Some(place), Some(sum)) = (sums.get_mut(count), pseudo) {
        *place = sum;
        count = count.saturating_add(1);
    }
    let sums = sums.get(..count).unwrap_or_default();
    addresses(header, ETHERNET, new.source, new.destination, sums);
    ports(header, at, new, own.as_slice());
}

/// Makes the ICMP error in `header`, which is `ip` about `inner`, one from `source` to `destination` about a packet of `new`.
///
/// Of what it is about, the checksum of TCP is left as it was: it lies beyond the 8 bytes that every error carries.
pub fn translate_error(
    header: &mut [u8],
    ip: &Ip,
    inner: &Inner,
    source: IpAddr,
    destination: IpAddr,
    new: &Key,
) {
    let error = Sum::Plain(plus(ip.transport_at, 2));
    let is_ipv4 = ip.source.is_ipv4();
    // What the error's own checksum covers: first the other checksums inside it, as they will be.
    let inside = match inner.protocol {
        UDP => Some(Sum::Udp(plus(inner.transport_at, 6))),
        ICMP | ICMP6 => Some(Sum::Plain(plus(inner.transport_at, 2))),
        _ => None,
    };
    let inner_header = is_ipv4.then_some(Sum::Plain(plus(inner.at, 10)));
    let before = (sum_at(header, inside), sum_at(header, inner_header));
    let mut inner_sums = [error; 3];
    let mut fill = |parts: &[Option<Sum>]| {
        let mut count = 1_usize;
        for sum in parts.iter().flatten() {
            if let Some(place) = inner_sums.get_mut(count) {
                *place = *sum;
                count = count.saturating_add(1);
            }
        }
        (inner_sums, count)
    };
    let covers_addresses = inside.filter(|_| inner.protocol != ICMP);
    let (sums, count) = fill(&[inner_header, covers_addresses]);
    addresses(
        header,
        inner.at,
        new.source,
        new.destination,
        sums.get(..count).unwrap_or_default(),
    );
    let (sums, count) = fill(&[inside]);
    ports(
        header,
        inner.transport_at,
        new,
        sums.get(..count).unwrap_or_default(),
    );
    for (sum, before) in [(inside, before.0), (inner_header, before.1)] {
        follow(header, sum, before, error);
    }
    let outer = if is_ipv4 {
        Sum::Plain(plus(ETHERNET, 10))
    } else {
        error
    };
    addresses(header, ETHERNET, source, destination, &[outer]);
}

fn sum_at(header: &[u8], sum: Option<Sum>) -> Option<[u8; 2]> {
    let (Sum::Plain(at) | Sum::Pseudo(at) | Sum::Udp(at)) = sum?;
    get(header, at)
}

/// Has the checksum `over` follow that `sum`, which it covers and which was `before`, has changed.
fn follow(header: &mut [u8], sum: Option<Sum>, before: Option<[u8; 2]>, over: Sum) {
    if let (Some(Sum::Plain(at) | Sum::Pseudo(at) | Sum::Udp(at)), Some(old)) = (sum, before)
        && let Some(now) = get::<2>(header, at)
    {
        if let Some(place) = header.get_mut(at..plus(at, 2)) {
            place.copy_from_slice(&old);
        }
        change(header, at, now, &[over]);
    }
}

/// Makes the ICMP message in `header`, which is `ip`, one of another type.
pub fn retype(header: &mut [u8], ip: &Ip, kind: u8) {
    let at = ip.transport_at;
    if let Some([_, code]) = get::<2>(header, at) {
        change(header, at, [kind, code], &[Sum::Plain(plus(at, 2))]);
    }
}

/// Takes one hop from the TTL or hop limit, which is not zero.
pub fn hop(header: &mut [u8], ip: &Ip) {
    let hops = ip.hops.saturating_sub(1);
    if ip.source.is_ipv4() {
        change(
            header,
            plus(ETHERNET, 8),
            [hops, ip.protocol],
            &[Sum::Plain(plus(ETHERNET, 10))],
        );
    } else {
        change(header, plus(ETHERNET, 7), [hops], &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfr::packet::{About, Transport, What, parse};
    use crate::vfr::testing::{self, frame, icmp, ip, packet, tcp, udp};

    fn read(frame: &[u8]) -> Ip {
        match parse(frame, frame.len()).unwrap().what {
            What::Ip(ip) => ip,
            What::Arp(arp) => panic!("{arp:?}"),
        }
    }

    fn key(protocol: u8, source: &str, source_port: u16, destination: &str, destination_port: u16) -> Key {
        Key {
            protocol,
            source: ip(source),
            source_port,
            destination: ip(destination),
            destination_port,
        }
    }

    #[test]
    fn a_translated_packet_is_the_one_that_would_have_been_made() {
        for (from, to, new_from, new_to) in [
            ("10.0.0.2", "192.0.2.1", "198.51.100.7", "192.0.2.9"),
            ("fd00::2", "2001:db8::1", "2001:db8:ffff::7", "fd00::9"),
        ] {
            let echo = if ip(from).is_ipv4() {
                (ICMP, 8)
            } else {
                (ICMP6, 128)
            };
            for (protocol, old, new, ports) in [
                (
                    TCP,
                    tcp(1025, 80, 2, b"data"),
                    tcp(40000, 8080, 2, b"data"),
                    (40000, 8080),
                ),
                (
                    UDP,
                    udp(1025, 53, b"odd"),
                    udp(40000, 5353, b"odd"),
                    (40000, 5353),
                ),
                (
                    echo.0,
                    icmp(echo.1, 0, 7, b"ping"),
                    icmp(echo.1, 0, 40000, b"ping"),
                    (40000, 0),
                ),
            ] {
                let mut changed = frame(from, to, protocol, &old);
                let read = read(&changed);
                let new_key = key(protocol, new_from, ports.0, new_to, ports.1);
                translate(&mut changed, &read, &new_key, Checksum::Whole);
                assert_eq!(
                    changed,
                    frame(new_from, new_to, protocol, &new),
                    "{protocol} {from}"
                );
            }
        }
    }

    #[test]
    fn a_checksum_that_is_to_be_completed_stays_the_pseudo_headers() {
        let pseudo = |from: &str, to: &str, length: u16| {
            let (IpAddr::V4(from), IpAddr::V4(to)) = (ip(from), ip(to)) else {
                panic!()
            };
            !checksum::of(&[&from.octets(), &to.octets(), &[0, TCP], &length.to_be_bytes()])
        };
        let mut changed = frame("10.0.0.2", "192.0.2.1", TCP, &tcp(1025, 80, 2, b""));
        changed[50..52].copy_from_slice(&pseudo("10.0.0.2", "192.0.2.1", 20).to_be_bytes());
        let read = read(&changed);
        let new = key(TCP, "198.51.100.7", 40000, "192.0.2.1", 80);
        translate(&mut changed, &read, &new, Checksum::ToComplete);
        let sum = u16::from_be_bytes([changed[50], changed[51]]);
        assert_eq!(sum, pseudo("198.51.100.7", "192.0.2.1", 20));
        assert_eq!(changed[34..36], 40000_u16.to_be_bytes());
    }

    #[test]
    fn a_datagram_without_a_checksum_stays_without() {
        let mut changed = frame("10.0.0.2", "192.0.2.1", UDP, &udp(1025, 53, b""));
        changed[40..42].fill(0);
        let read = read(&changed);
        translate(
            &mut changed,
            &read,
            &key(UDP, "10.0.0.9", 1, "192.0.2.1", 53),
            Checksum::Whole,
        );
        assert_eq!(changed[40..42], [0, 0]);
    }

    #[test]
    fn an_error_is_translated_with_what_it_is_about() {
        for (guest, remote, router, uplink, kind, error) in [
            ("10.0.0.2", "192.0.2.1", "192.0.2.254", "198.51.100.7", ICMP, 3),
            (
                "fd00::2",
                "2001:db8::1",
                "2001:db8::fe",
                "2001:db8:1::7",
                ICMP6,
                1,
            ),
        ] {
            let echo = if kind == ICMP { 8 } else { 128 };
            for (protocol, outside, inside, ports) in [
                (UDP, udp(40000, 53, b""), udp(1025, 53, b""), (1025, 53)),
                (kind, icmp(echo, 0, 40000, b""), icmp(echo, 0, 7, b""), (7, 0)),
            ] {
                let about = |source, transport: &[u8]| packet(ip(source), ip(remote), protocol, transport);
                let mut changed = frame(router, uplink, kind, &icmp(error, 1, 0, &about(uplink, &outside)));
                let read = read(&changed);
                let Transport::Icmp {
                    about: About::Error(inner),
                    ..
                } = read.transport
                else {
                    panic!()
                };
                let new = key(protocol, guest, ports.0, remote, ports.1);
                translate_error(&mut changed, &read, &inner, ip(router), ip(guest), &new);
                let expected =
                    testing::frame(router, guest, kind, &icmp(error, 1, 0, &about(guest, &inside)));
                assert_eq!(changed, expected, "{protocol} {guest}");
            }
        }
    }

    #[test]
    fn an_echo_request_becomes_its_reply() {
        let mut changed = frame("10.0.0.2", "10.0.0.1", ICMP, &icmp(8, 0, 7, b"ping"));
        let before = read(&changed);
        retype(&mut changed, &before, 0);
        assert_eq!(
            changed,
            frame("10.0.0.2", "10.0.0.1", ICMP, &icmp(0, 0, 7, b"ping"))
        );
    }

    #[test]
    fn a_hop_is_taken_with_the_checksum_right() {
        for (from, to, at) in [("10.0.0.2", "192.0.2.1", 22), ("fd00::2", "fd00::3", 21)] {
            let mut changed = frame(from, to, UDP, &udp(1025, 53, b""));
            let before = read(&changed);
            hop(&mut changed, &before);
            assert_eq!((changed[at], read(&changed).hops), (63, 63));
        }
    }

    #[test]
    fn ports_keep_their_low_bits_until_these_are_taken() {
        let mut ports = Ports::new(u32::MAX);
        let owner = PortId(1);
        assert_eq!(ports.take(TCP, 40000, owner), Ok(40000));
        assert_eq!(ports.take(TCP, 40000, owner), Ok(40001));
        assert_eq!(ports.take(UDP, 40000, owner), Ok(40000));
        assert_eq!(ports.take(TCP, 1025, owner), Ok(0x8000 + 1025));
        assert_eq!(ports.take(TCP, 65535, owner), Ok(65535));
        assert_eq!(ports.take(TCP, 65535, owner), Ok(0x8000));
        ports.give_back(TCP, 40000, owner);
        assert_eq!(ports.take(TCP, 40000, owner), Ok(40000));
        assert_eq!(ports.take(47, 1, owner), Err(Reason::NatProtocol));
    }

    #[test]
    fn no_vif_gets_more_ports_than_its_quota_and_all_can_be_had() {
        let mut ports = Ports::new(0x8000);
        let taken: std::collections::BTreeSet<_> = (0..0x8000)
            .map(|_| ports.take(TCP, 50000, PortId(1)).unwrap())
            .collect();
        assert_eq!(taken.len(), 0x8000);
        assert_eq!(ports.take(UDP, 50000, PortId(1)), Err(Reason::NatQuota));
        assert_eq!(ports.take(TCP, 50000, PortId(2)), Err(Reason::NatPorts));
        for port in taken {
            ports.give_back(TCP, port, PortId(1));
        }
        assert_eq!(ports.held(PortId(1)), 0);
        assert_eq!(ports.take(TCP, 50000, PortId(2)), Ok(50000));
    }
}
