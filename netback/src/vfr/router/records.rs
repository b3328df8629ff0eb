//! What a VFR is told of, and what it says of a frame.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use crate::vfr::classify::{NetworkId, PortId};
use crate::vfr::packet::{Layout, Mac, Packet};
use crate::vfr::reason::Reason;
use crate::vfr::rules::Name;

/// What a VFR is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most flows.
    pub flows: usize,
    /// The most flows of a VIF that it began, and of those that others began with it.
    pub flows_of_vif: u32,
    /// The most ports of the uplink that a VIF holds.
    pub nat_of_vif: u32,
}

/// A guest network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The name that rules know it by.
    pub name: Name,
    /// The gateway's MAC.
    pub mac: Mac,
    /// The gateway's addresses, each with how many bits of it are the network's.
    pub gateways: Vec<(IpAddr, u8)>,
    /// How its guests reach the world.
    pub uplink: Way,
    /// Whether its guests are told their addresses by DHCP.
    pub dhcp: bool,
}

/// How a network's guests reach the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// All connections to the uplink get the uplink's address.
    #[default]
    Nat,
    /// Packets leave with their own addresses, but where a rule says `nat`: somebody outside knows the way back.
    Routed,
    /// Not at all: nothing goes to the uplink or comes from there, whatever the rules say, and no name is looked up.
    None,
}

/// A guest's interface.
#[derive(Clone, Debug)]
pub struct Vif {
    /// The name that rules know it by.
    pub name: Name,
    /// Its network.
    pub network: NetworkId,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses, at most [`MAX_ADDRESSES`](super::MAX_ADDRESSES); besides, it has the link-local address of its MAC,
    /// for neighbour discovery alone.
    pub addresses: Vec<IpAddr>,
    /// The longest packet that it is told to send, in bytes without the Ethernet header; 0 if it is told nothing.
    pub mtu: u16,
}

/// The way to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses, at most [`MAX_ADDRESSES`](super::MAX_ADDRESSES), each with how many bits of it are the neighbourhood's.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Whom packets are sent to that are not for the neighbourhood, at most one for each version of IP.
    pub routers: Vec<IpAddr>,
    /// Who is asked for names, the first one first, at most [`MAX_ADDRESSES`](super::MAX_ADDRESSES).
    pub resolvers: Vec<IpAddr>,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes to this port, with its header as it is now; that may be the port that it came from.
    Forward(PortId),
    /// It was for the VFR, which has understood it.
    Taken,
    /// It is for the VFR, which has to see this many bytes of it, from its beginning: nothing has been counted or changed yet, and it
    /// is to be handled again with a copy that is so long.
    More(usize),
    /// It is gone.
    Drop(Reason),
}

/// What came of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What becomes of it.
    pub fate: Fate,
    /// Where its parts lie, if it makes sense.
    pub layout: Option<Layout>,
    /// What to tell in the log, if a rule wants that.
    pub log: Option<Box<Telling>>,
    /// Whether a rule wants it told to a capture.
    pub mirror: bool,
}

/// What is told in the log of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Telling {
    /// What it says, before anything was changed.
    pub packet: Packet,
    /// The network whose rules decided, and the rule, counted from 0, if rules were asked and one did.
    pub rule: Option<(NetworkId, usize)>,
}

/// Why something cannot be added to a VFR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A VIF or network has the name.
    NameTaken,
    /// A VIF, a gateway or the uplink has one of the addresses, or it is of another's network, or none that a host can have.
    Address(IpAddr),
    /// Another has the MAC, or it is a group's or zero.
    Mac,
    /// There is no such network.
    NoNetwork,
    /// There are as many as there can be.
    TooMany,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameTaken => f.write_str("the name should be one that no guest and no network has"),
            Self::Address(address) => write!(
                f,
                "{address} should be a host's address of its own network, which nobody else has"
            ),
            Self::Mac => f.write_str("the MAC should be one host's, which nobody else has"),
            Self::NoNetwork => f.write_str("the network should be one that there is"),
            Self::TooMany => f.write_str("there should be fewer"),
        }
    }
}

impl core::error::Error for Refused {}

impl Uplink {
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(own, _)| *own == address)
    }
}
