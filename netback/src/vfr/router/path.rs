//! Paths: what became of a packet of a flow, remembered, so that the next one need only be compared, and is changed in the same way.
//!
//! Nearly all packets are TCP or UDP of a flow, and nothing but the flow's age and the checksums tells one from the next. A [`Path`] has what such a packet looks
//! like, byte for byte as far as any decision depends on it, and what it looks like when it leaves. It counts for as long as nothing was changed that the decision was
//! made by: networks, VIFs, rules, the uplink, its neighbours ([`Paths::forget`]), and the flow. What is not like the last one goes the whole way, which says the same.

use alloc::vec::Vec;

use super::{Exit, Fate, Frame, Outcome, UPLINK, Vfr};
use crate::services::dns;
use crate::vfr::checksum;
use crate::vfr::classify::PortId;
use crate::vfr::flow::{Direction, FlowId};
use crate::vfr::nat::Checksum;
use crate::vfr::packet::{ETHERNET, Ip, IpLayout, Layout, MAX_FRAME, TCP, Transport, UDP, tcp_flags};

/// How many paths are remembered: a power of two. Two that fall together take turns.
const COUNT: usize = 1024;
/// An odd number with bits everywhere (2^64 by the golden ratio).
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;
/// What decrementing the TTL adds to the sum of an IPv4 header, where it is a high byte: -0x100.
const HOP: u16 = 0xfeff;
/// Where addresses and ports lie in a frame, and how many bytes they are, if nothing is between them: an IPv4 header without options.
const V4: (usize, usize) = (26, 12);
/// The same of IPv6 without extension headers.
const V6: (usize, usize) = (22, 36);

/// A packet's bytes that its path depends on and that change on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    macs: [u8; 12],
    /// Addresses and ports; behind those of IPv4 zeros.
    ends: [u8; V6.1],
}

impl Look {
    /// That of a packet as it is now, if it is one of TCP or UDP and nothing is between its headers.
    pub(super) fn of(frame: &Frame<'_>, ip: &Ip) -> Option<Self> {
        let (at, length) = place(ip)?;
        let mut ends = [0; V6.1];
        let bytes = frame.header.get(at..at.saturating_add(length))?;
        ends.get_mut(..length)?.copy_from_slice(bytes);
        let macs = *frame.header.first_chunk()?;
        Some(Self { macs, ends })
    }
}

fn place(ip: &Ip) -> Option<(usize, usize)> {
    let is_known = matches!(ip.transport, Transport::Tcp { .. } | Transport::Udp { .. });
    let (at, length) = if ip.source.is_ipv4() { V4 } else { V6 };
    let is_plain = at.saturating_add(length) == ip.transport_at.saturating_add(4);
    (is_known && is_plain).then_some((at, length))
}

/// What becomes of packets that look like this.
#[derive(Clone, Debug)]
struct Path {
    epoch: u64,
    /// Until when the next host is believed to be where he is.
    until: u64,
    from: PortId,
    is_ipv6: bool,
    protocol: u8,
    arriving: Look,
    flow: FlowId,
    direction: Direction,
    to: PortId,
    is_routed: bool,
    mirror: bool,
    leaving: Look,
    /// What the change of addresses, and that of ports, adds to sums over them.
    addresses: u16,
    ports: u16,
}

/// The paths that are remembered.
#[derive(Debug)]
pub(super) struct Paths {
    /// None, until there is one.
    all: Vec<Option<Path>>,
    epoch: u64,
    /// It makes it hard to find out what falls together.
    secret: u64,
}

impl Paths {
    pub(super) fn new([secret, _]: [u64; 2]) -> Self {
        Self {
            all: Vec::new(),
            epoch: 0,
            secret,
        }
    }

    /// All that was remembered counts no more.
    pub(super) const fn forget(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
    }

    fn index(&self, ends: &[u8]) -> usize {
        let (words, _) = ends.as_chunks::<4>();
        let hash = words.iter().fold(self.secret, |hash, word| {
            (hash ^ u64::from(u32::from_ne_bytes(*word))).wrapping_mul(SCATTER)
        });
        // The high bits depend on all others.
        usize::try_from(hash >> 48).unwrap_or(0) % COUNT
    }
}

/// What the header of an IP packet says that no path knows.
#[derive(Clone, Copy)]
struct Seen {
    /// Where the packet ends in the frame.
    end: usize,
    hops: u8,
    protocol: u8,
}

impl Vfr {
    /// Says what [`Self::handle`] would, and does the same, if it is known already what becomes of packets that look so; otherwise nothing is changed. All headers have to be in `header`,
    /// and need not be more.
    pub fn pass(
        &mut self,
        from: PortId,
        header: &mut [u8],
        length: usize,
        state: Checksum,
        now: u64,
    ) -> Option<Outcome> {
        self.now = now;
        let bytes: &[u8; 20] = header.get(ETHERNET..)?.first_chunk()?;
        match (header.get(12..ETHERNET)?, bytes) {
            ([8, 0], [0x45, _, high, low, _, _, fragment, more, hops, protocol, ..]) => {
                let is_fragment = u16::from_be_bytes([*fragment, *more]) & 0x3fff != 0;
                if is_fragment || checksum::of_header(bytes) != 0 {
                    return None;
                }
                let seen = Seen {
                    end: ETHERNET.saturating_add(u16::from_be_bytes([*high, *low]).into()),
                    hops: *hops,
                    protocol: *protocol,
                };
                self.pass_as::<{ V4.0 }, { V4.1 }>(from, header, seen, length, state, now)
            }
            ([0x86, 0xdd], [0x60..=0x6f, _, _, _, high, low, protocol, hops, ..]) => {
                let payload = usize::from(u16::from_be_bytes([*high, *low]));
                let seen = Seen {
                    end: ETHERNET.saturating_add(40).saturating_add(payload),
                    hops: *hops,
                    protocol: *protocol,
                };
                self.pass_as::<{ V6.0 }, { V6.1 }>(from, header, seen, length, state, now)
            }
            _ => None,
        }
    }

    fn pass_as<const AT: usize, const LENGTH: usize>(
        &mut self,
        from: PortId,
        header: &mut [u8],
        seen: Seen,
        length: usize,
        state: Checksum,
        now: u64,
    ) -> Option<Outcome> {
        let transport_at = AT.saturating_add(LENGTH).saturating_sub(4);
        let is_tcp = seen.protocol == TCP;
        if length > MAX_FRAME || seen.end > length || !(is_tcp || seen.protocol == UDP) {
            return None;
        }
        let headers = if is_tcp {
            tcp_headers(header, transport_at, seen.end)
        } else {
            udp_headers(header, transport_at, seen.end)
        }?;
        let ends: [u8; LENGTH] = *header.get(AT..)?.first_chunk()?;
        let macs: [u8; 12] = *header.first_chunk()?;
        let path = self.paths.all.get(self.paths.index(&ends))?.as_ref()?;
        let is_like = path.arriving.ends.first_chunk() == Some(&ends)
            && path.arriving.macs == macs
            && path.from == from
            && path.protocol == seen.protocol
            && path.is_ipv6 == (AT == V6.0);
        let counts = path.epoch == self.paths.epoch && path.until > now;
        if !is_like || !counts || path.is_routed && seen.hops <= 1 {
            return None;
        }
        if !self.flows.go_on(path.flow, path.direction, is_tcp, now) {
            return None;
        }
        *header.first_chunk_mut()? = path.leaving.macs;
        let new: &[u8; LENGTH] = path.leaving.ends.first_chunk()?;
        *header.get_mut(AT..)?.first_chunk_mut()? = *new;
        if AT == V4.0 {
            let hop = if path.is_routed { HOP } else { 0 };
            let difference = checksum::plus(path.addresses, hop);
            change(header, ETHERNET.saturating_add(10), |sum| {
                checksum::add(sum, difference)
            });
        }
        if path.is_routed {
            let at = if AT == V4.0 { 22 } else { 21 };
            *header.get_mut(at)? = seen.hops.saturating_sub(1);
        }
        let both = checksum::plus(path.addresses, path.ports);
        let at = transport_at.saturating_add(if is_tcp { 16 } else { 6 });
        change(header, at, |sum| match state {
            Checksum::ToComplete => !checksum::add(!sum, path.addresses),
            Checksum::Whole if is_tcp => checksum::add(sum, both),
            // There is none.
            Checksum::Whole if sum == 0 => 0,
            Checksum::Whole => match checksum::add(sum, both) {
                0 if both != 0 => 0xffff,
                sum => sum,
            },
        });
        Some(Outcome {
            fate: Fate::Forward(path.to),
            layout: Some(Layout {
                headers,
                ip: Some(IpLayout {
                    is_ipv6: AT == V6.0,
                    protocol: seen.protocol,
                    transport_at,
                    end: seen.end,
                }),
            }),
            log: None,
            mirror: path.mirror,
        })
    }

    /// Remembers the path of a flow's packet, which looked as in `arriving` and is changed by now. No rule has to be asked for the next one.
    pub(super) fn remember(
        &mut self,
        frame: &Frame<'_>,
        ip: &Ip,
        arriving: Option<Look>,
        (flow, direction): (FlowId, Direction),
        exit: &Exit,
    ) {
        // An answer to a question for a name may look like it later.
        let is_name = frame.from == UPLINK
            && matches!(
                ip.transport,
                Transport::Udp {
                    source: dns::PORT,
                    ..
                }
            );
        let (Some(arriving), Some(leaving), Some(known), false) =
            (arriving, Look::of(frame, ip), self.flows.get(flow), is_name)
        else {
            return;
        };
        let until = match exit.to {
            UPLINK => self.resolved_until(known.leaving(direction).destination),
            _ => Some(u64::MAX),
        };
        let Some((until, (_, length))) = until.zip(place(ip)) else {
            return;
        };
        let split = length.saturating_sub(4);
        let (old, new) = (arriving.ends.split_at(split), leaving.ends.split_at(split));
        let index = self.paths.index(arriving.ends.get(..length).unwrap_or_default());
        let path = Path {
            epoch: self.paths.epoch,
            until,
            from: frame.from,
            is_ipv6: ip.source.is_ipv6(),
            protocol: ip.protocol,
            arriving,
            flow,
            direction,
            to: exit.to,
            is_routed: exit.is_routed,
            mirror: known.mirror,
            leaving,
            addresses: checksum::difference(old.0, new.0),
            ports: checksum::difference(old.1, new.1),
        };
        self.paths.all.resize(COUNT, None);
        if let Some(place) = self.paths.all.get_mut(index) {
            *place = Some(path);
        }
    }
}

/// Where the header of TCP at `at` ends in a packet that ends at `end`, if it is right and the packet neither begins nor ends anything.
fn tcp_headers(header: &[u8], at: usize, end: usize) -> Option<usize> {
    const ENDS: u8 = tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST;
    let [offset, flags]: [u8; 2] = *header.get(at.saturating_add(12)..)?.first_chunk()?;
    let length = usize::from(offset >> 4).saturating_mul(4);
    let headers = at.saturating_add(length);
    let is_right = length >= 20 && headers <= end && headers <= header.len();
    (is_right && flags & (ENDS | tcp_flags::ACK) == tcp_flags::ACK).then_some(headers)
}

/// The same of UDP.
fn udp_headers(header: &[u8], at: usize, end: usize) -> Option<usize> {
    let [high, low, ..]: [u8; 4] = *header.get(at.saturating_add(4)..)?.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let is_right = length >= 8 && at.saturating_add(length) == end;
    is_right.then_some(at.saturating_add(8))
}

/// Changes the checksum at `at`.
fn change(header: &mut [u8], at: usize, to: impl FnOnce(u16) -> u16) {
    let place: Option<&mut [u8; 2]> = header.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
    if let Some(place) = place {
        *place = to(u16::from_be_bytes(*place)).to_be_bytes();
    }
}
