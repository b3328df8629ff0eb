//! DHCP's messages (RFC 2131 and 2132), read and written by smoltcp's views of them.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::wire::{
    ArpHardware, DhcpFlags, DhcpMessageType, DhcpOpCode, DhcpOption, DhcpPacket, EthernetAddress,
};

use crate::vfr::packet::Mac;

/// "DHCP follows" in what was BOOTP's vendor area.
const MAGIC: u32 = 0x6382_5363;
/// How long a message is at least: relays and old clients want BOOTP's length.
const SHORTEST: usize = 300;
/// Room for a message.
const ROOM: usize = 576;

pub(super) const MASK: u8 = 1;
pub(super) const ROUTER: u8 = 3;
pub(super) const RESOLVERS: u8 = 6;
pub(super) const MTU: u8 = 26;
pub(super) const REQUESTED: u8 = 50;
pub(super) const LEASE: u8 = 51;
const TYPE: u8 = 53;
pub(super) const SERVER: u8 = 54;
pub(super) const WANTED: u8 = 55;
pub(super) const CLIENT: u8 = 61;

/// A message that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) is_answer: bool,
    pub(super) kind: DhcpMessageType,
    pub(super) transaction: u32,
    pub(super) is_broadcast: bool,
    pub(super) mac: Mac,
    /// The client's address, as it says; unspecified if it has none.
    pub(super) client: Ipv4Addr,
    /// The address that a client gets.
    pub(super) yours: Ipv4Addr,
    pub(super) is_relayed: bool,
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads a message of Ethernet; none if it is something else.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let packet = DhcpPacket::new_checked(bytes).ok()?;
        let is_ethernet = packet.hardware_type() == ArpHardware::Ethernet && packet.hardware_len() == 6;
        if !is_ethernet || packet.magic_number() != MAGIC {
            return None;
        }
        let message = Self {
            is_answer: match packet.opcode() {
                DhcpOpCode::Request => false,
                DhcpOpCode::Reply => true,
                DhcpOpCode::Unknown(_) => return None,
            },
            kind: DhcpMessageType::Discover,
            transaction: packet.transaction_id(),
            is_broadcast: packet.flags().contains(DhcpFlags::BROADCAST),
            mac: Mac(packet.client_hardware_address().0),
            client: packet.client_ip(),
            yours: packet.your_ip(),
            is_relayed: !packet.relay_agent_ip().is_unspecified(),
            bytes,
        };
        let [kind] = message.option(TYPE)?;
        Some(Self {
            kind: kind.into(),
            ..message
        })
    }

    /// An option's value, as long as it is.
    pub(super) fn bytes(&self, kind: u8) -> Option<Vec<u8>> {
        let packet = DhcpPacket::new_checked(self.bytes).ok()?;
        let found = packet.options().find(|option| option.kind == kind)?;
        Some(found.data.to_vec())
    }

    /// An option's value, if it has this length.
    pub(super) fn option<const N: usize>(&self, kind: u8) -> Option<[u8; N]> {
        self.bytes(kind)?.try_into().ok()
    }

    pub(super) fn address(&self, kind: u8) -> Option<Ipv4Addr> {
        self.option::<4>(kind).map(Ipv4Addr::from)
    }
}

/// A message to be written.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) is_answer: bool,
    pub(super) kind: DhcpMessageType,
    pub(super) transaction: u32,
    pub(super) is_broadcast: bool,
    pub(super) mac: Mac,
    pub(super) client: Ipv4Addr,
    pub(super) yours: Ipv4Addr,
    pub(super) options: &'a [(u8, &'a [u8])],
}

impl Draft<'_> {
    /// The message's bytes; none if the options have no room.
    pub(super) fn write(&self) -> Option<Vec<u8>> {
        let mut bytes = alloc::vec![0; ROOM];
        let mut packet = DhcpPacket::new_unchecked(&mut bytes);
        packet.set_opcode(if self.is_answer {
            DhcpOpCode::Reply
        } else {
            DhcpOpCode::Request
        });
        packet.set_hardware_type(ArpHardware::Ethernet);
        packet.set_hardware_len(6);
        packet.set_transaction_id(self.transaction);
        packet.set_magic_number(MAGIC);
        packet.set_flags(if self.is_broadcast {
            DhcpFlags::BROADCAST
        } else {
            DhcpFlags::empty()
        });
        packet.set_client_hardware_address(EthernetAddress(self.mac.0));
        packet.set_client_ip(self.client);
        packet.set_your_ip(self.yours);
        let mut writer = packet.options_mut();
        let kind = [u8::from(self.kind)];
        for (kind, data) in core::iter::once((TYPE, &kind[..])).chain(self.options.iter().copied()) {
            writer.emit(DhcpOption { kind, data }).ok()?;
        }
        writer.end().ok()?;
        let used = bytes.iter().rposition(|byte| *byte != 0)?;
        bytes.truncate(used.saturating_add(1).max(SHORTEST));
        Some(bytes)
    }
}
