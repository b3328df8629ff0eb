//! An interface as smoltcp wants it: [`Device`].
//!
//! smoltcp completes the checksums of what it sends. Of what it receives it checks those of IP and ICMPv6 itself, and leaves those of TCP, UDP and ICMPv4 to
//! the device, because only that knows which frames come without: they are checked here, unless the back-end said that there is no need.
//! Segments that were put together are received as one.

use alloc::vec::Vec;

use bulkhead_abi::netif::MIN_FIRST;
use bulkhead_frontend::Flips;
use smoltcp::phy::{self, Checksum as Does, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Packet, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket,
    UdpPacket,
};

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
        capabilities.checksum.tcp = Does::Tx;
        capabilities.checksum.udp = Does::Tx;
        capabilities.checksum.icmpv4 = Does::Tx;
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
        // A frame that cannot be sent is lost, as others are on the way.
        if let Some(mut frame) = self.interface.frame(len)
            && frame.write(0, bytes).is_some()
        {
            let _ = self.interface.try_send(frame, Offload::default());
        }
        result
    }
}

/// Whether a frame's checksum of TCP, UDP or ICMPv4 is right. What has none, or is not whole, is for smoltcp to judge.
pub(crate) fn is_right(bytes: &[u8]) -> bool {
    let Ok(frame) = EthernetFrame::new_checked(bytes) else {
        return true;
    };
    let (from, to, protocol, payload) = match frame.ethertype() {
        EthernetProtocol::Ipv4 => {
            let Ok(packet) = Ipv4Packet::new_checked(frame.payload()) else {
                return true;
            };
            // Of a fragment the checksum covers more than is here. smoltcp puts none together.
            if packet.more_frags() || packet.frag_offset() != 0 {
                return true;
            }
            let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
            (from, to, packet.next_header(), packet.payload())
        }
        EthernetProtocol::Ipv6 => {
            let Ok(packet) = Ipv6Packet::new_checked(frame.payload()) else {
                return true;
            };
            // Behind headers that stand between smoltcp finds neither TCP nor UDP, as it is built here.
            let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
            (from, to, packet.next_header(), packet.payload())
        }
        EthernetProtocol::Arp | EthernetProtocol::Unknown(_) => return true,
    };
    let (from, to): (IpAddress, IpAddress) = (from, to);
    if protocol == IpProtocol::Tcp {
        TcpPacket::new_checked(payload).is_ok_and(|tcp| tcp.verify_checksum(&from, &to))
    } else if protocol == IpProtocol::Udp {
        UdpPacket::new_checked(payload).is_ok_and(|udp| udp.verify_checksum(&from, &to))
    } else if protocol == IpProtocol::Icmp {
        Icmpv4Packet::new_checked(payload).is_ok_and(|icmp| icmp.verify_checksum())
    } else {
        true
    }
}
