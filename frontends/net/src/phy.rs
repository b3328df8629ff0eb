//! An interface as smoltcp wants it: [`Device`].
//!
//! smoltcp counts and checks the checksums of IP and ICMPv6 itself. Those of TCP, UDP and ICMPv4 are the device's: they are counted here, by eight bytes at a time, and
//! checked unless the back-end said that there is no need, which only the device knows.
//! Segments that were put together are received as one.

use alloc::vec::Vec;

use bulkhead_abi::netif::MIN_FIRST;
use bulkhead_checksum as checksum;
use bulkhead_frontend::Flips;
use smoltcp::phy::{self, Checksum as Does, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet};

use crate::interface::Interface;
use crate::offload::{Checksum, Offload};
use crate::receive::Received;

/// An interface for smoltcp. Somebody has to [run](Interface::run) it.
///
/// Poll the stack when a frame [is there](Interface::readable), when the stack wants it, and after its sockets were used.
#[derive(Debug)]
pub struct Device<'i, D: Flips> {
    interface: &'i Interface<D>,
    /// How many frames were received with a checksum that is wrong.
    wrong: u64,
    /// The frame that was received last, and the one that is being sent, kept for their memory.
    received: Vec<u8>,
    sent: Vec<u8>,
}

impl<'i, D: Flips> Device<'i, D> {
    /// A device that sends and receives by this interface.
    #[must_use]
    pub const fn new(interface: &'i Interface<D>) -> Self {
        Self {
            interface,
            wrong: 0,
            received: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// The interface.
    #[must_use]
    pub const fn interface(&self) -> &'i Interface<D> {
        self.interface
    }

    /// How many frames were received and dropped, because their checksum of TCP, UDP or ICMPv4 is wrong.
    #[must_use]
    pub const fn wrong(&self) -> u64 {
        self.wrong
    }
}

impl<D: Flips> phy::Device for Device<'_, D> {
    type RxToken<'a>
        = RxToken<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = TxToken<'a, D>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_, D>)> {
        // What is received may have to be answered: without room for that it waits.
        while self.interface.has_room()
            && let Ok(Some(Received { frame, offload })) = self.interface.try_receive()
        {
            let bytes = room(&mut self.received, frame.len());
            let _ = frame.read(0, bytes);
            if offload.checksum != Checksum::Whole || is_right(bytes) {
                let token = TxToken {
                    interface: self.interface,
                    sent: &mut self.sent,
                };
                return Some((RxToken(room(&mut self.received, frame.len())), token));
            }
            self.wrong = self.wrong.saturating_add(1);
        }
        None
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_, D>> {
        self.interface.has_room().then_some(TxToken {
            interface: self.interface,
            sent: &mut self.sent,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        let mtu = usize::from(self.interface.properties().mtu);
        capabilities.max_transmission_unit = mtu.saturating_add(MIN_FIRST);
        capabilities.checksum.tcp = Does::None;
        capabilities.checksum.udp = Does::None;
        capabilities.checksum.icmpv4 = Does::None;
        capabilities
    }
}

/// So many bytes of a buffer, which grows if it has to. They hold what they held.
fn room(buffer: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if buffer.len() < bytes {
        buffer.resize(bytes, 0);
    }
    buffer.get_mut(..bytes).unwrap_or_default()
}

/// A frame that was received.
#[derive(Debug)]
pub struct RxToken<'a>(&'a [u8]);

impl phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for a frame to be sent.
#[derive(Debug)]
pub struct TxToken<'i, D: Flips> {
    interface: &'i Interface<D>,
    sent: &'i mut Vec<u8>,
}

impl<D: Flips> phy::TxToken for TxToken<'_, D> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let bytes = room(self.sent, len);
        let result = f(bytes);
        complete(bytes);
        // A frame that cannot be sent is lost, as others are on the way.
        if let Some(mut frame) = self.interface.frame(len)
            && frame.write(0, bytes).is_some()
        {
            let _ = self.interface.try_send(frame, Offload::default());
        }
        result
    }
}

/// Where in a frame the transport is that has a checksum, where in that the checksum is, and what of it does not stand in the transport.
struct Summed {
    from: usize,
    to: usize,
    field: usize,
    pseudo: u16,
    is_udp: bool,
}

impl Summed {
    /// That of TCP, UDP or ICMPv4. What has none, or is not whole, is for smoltcp to judge.
    fn of(bytes: &[u8]) -> Option<Self> {
        let frame = EthernetFrame::new_checked(bytes).ok()?;
        let ip = EthernetFrame::<&[u8]>::header_len();
        let (from, to, protocol, addresses) = match frame.ethertype() {
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
                // Of a fragment the checksum covers more than is here. smoltcp puts none together.
                if packet.more_frags() || packet.frag_offset() != 0 {
                    return None;
                }
                let (header, whole) = (packet.header_len().into(), packet.total_len().into());
                (header, whole, packet.next_header(), 12..20)
            }
            EthernetProtocol::Ipv6 => {
                let packet = Ipv6Packet::new_checked(frame.payload()).ok()?;
                // Behind headers that stand between smoltcp finds neither TCP nor UDP, as it is built here.
                (
                    packet.header_len(),
                    packet.total_len(),
                    packet.next_header(),
                    8..40,
                )
            }
            EthernetProtocol::Arp | EthernetProtocol::Unknown(_) => return None,
        };
        let (from, to) = (ip.checked_add(from)?, ip.checked_add(to)?);
        let transport = bytes.get(from..to)?;
        let of_each = [
            (IpProtocol::Tcp, 16, 20),
            (IpProtocol::Udp, 6, 8),
            (IpProtocol::Icmp, 2, 4),
        ];
        let is_it =
            |(known, _, least): &(IpProtocol, usize, usize)| *known == protocol && transport.len() >= *least;
        let (_, field, _) = of_each.into_iter().find(is_it)?;
        let length = u32::try_from(transport.len()).ok()?.to_be_bytes();
        let pseudo = if protocol == IpProtocol::Icmp {
            0
        } else {
            let addresses = frame.payload().get(addresses)?;
            !checksum::of(&[addresses, &length, &[0, 0, 0, protocol.into()]])
        };
        Some(Self {
            from,
            to,
            field,
            pseudo,
            is_udp: protocol == IpProtocol::Udp,
        })
    }

    /// The checksum of what stands there.
    fn count(&self, bytes: &[u8]) -> u16 {
        let transport = bytes.get(self.from..self.to).unwrap_or_default();
        checksum::of(&[&self.pseudo.to_be_bytes(), transport])
    }

    /// The checksum as it stands there.
    fn field<'a>(&self, bytes: &'a mut [u8]) -> Option<&'a mut [u8; 2]> {
        let transport = bytes.get_mut(self.from..self.to)?;
        transport.get_mut(self.field..)?.first_chunk_mut()
    }
}

/// Whether a frame's checksum of TCP, UDP or ICMPv4 is right, or none of the device's affairs.
pub(crate) fn is_right(bytes: &[u8]) -> bool {
    Summed::of(bytes).is_none_or(|summed| {
        // A datagram over IPv4 may come without one.
        let at = summed.from.saturating_add(summed.field);
        let has_none = summed.is_udp
            && bytes.get(at..).and_then(<[u8]>::first_chunk) == Some(&[0, 0])
            && bytes.get(12..14) == Some(&[8, 0]);
        has_none || summed.count(bytes) == 0
    })
}

/// Completes that of a frame that smoltcp has written without.
fn complete(bytes: &mut [u8]) {
    let Some(summed) = Summed::of(bytes) else { return };
    if let Some(field) = summed.field(bytes) {
        *field = [0, 0];
    }
    let sum = match summed.count(bytes) {
        // UDP has another meaning for zero.
        0 if summed.is_udp => 0xffff,
        sum => sum,
    };
    if let Some(field) = summed.field(bytes) {
        *field = sum.to_be_bytes();
    }
}
