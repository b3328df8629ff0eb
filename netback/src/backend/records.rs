//! What a back-end is told, and what it tells.

use alloc::vec::Vec;
use core::fmt;

use bulkhead_abi::DomId;
use bulkhead_ring::descriptor::RingError;

use crate::counters::{Counters, Fault};
use crate::machine::PageId;
use crate::negotiation::{Features, MAX_QUEUES, Mode};
use crate::vfr::classify::{NetworkId, PortId};
use crate::vfr::packet::Packet;
use crate::vfr::router::Fate;

/// A front-end that is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VifId {
    pub(super) place: u32,
    /// How many were in this place before.
    pub(super) generation: u32,
}

/// What a front-end is connected with.
#[derive(Debug)]
pub struct Connection<P> {
    /// Its domain.
    pub domain: DomId,
    /// The VFR's port that it is; not the uplink.
    pub port: PortId,
    /// Its queues, 1 to [`MAX_QUEUES`].
    pub queues: Vec<Rings<P>>,
    /// How it receives.
    pub mode: Mode,
    /// What it takes.
    pub features: Features,
    /// How many bytes a second it may send; 0 for as many as it can.
    pub rate: u64,
}

/// The pages of a queue's rings.
#[derive(Debug)]
pub struct Rings<P> {
    /// That of the ring of frames that the front-end sends.
    pub transmit: P,
    /// That of the ring of frames that it receives.
    pub receive: P,
    /// Each ring has an event channel of its own.
    pub is_split: bool,
}

/// Why a front-end is not connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// It has so many queues.
    Queues(usize),
    /// The ring of frames that it sends is none.
    Transmit(RingError),
    /// The ring of frames that it receives is none.
    Receive(RingError),
    /// The VFR has no such port for a VIF.
    Port(PortId),
    /// The port has a front-end already, of this domain.
    Taken(DomId),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queues(count) => write!(f, "{count} queues: there should be 1 to {MAX_QUEUES}"),
            Self::Transmit(error) => write!(f, "the sending ring: {error}"),
            Self::Receive(error) => write!(f, "the receiving ring: {error}"),
            Self::Port(PortId(port)) => write!(f, "port {port} should be one that the VFR has for a VIF"),
            Self::Taken(domain) => write!(f, "{domain} has the port already"),
        }
    }
}

impl core::error::Error for ConnectError {}

/// An event channel of a front-end, by the number of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// That of both rings, where they have one.
    Both(usize),
    /// That of the sending ring.
    Transmit(usize),
    /// That of the receiving ring.
    Receive(usize),
}

/// What others have to know after a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The front-end is to be notified. There is one of these at most for each of its channels in a round.
    Notify(VifId, Channel),
    /// The first fault of its kind. If it is [`Fault::Producer`], the front-end is not served any more.
    Fault(VifId, Fault),
    /// The front-end is gone, and nothing of it is in use any more. This is what was done for it.
    Closed(VifId, Counters),
    /// The first flaw of its kind.
    Flaw(Flaw),
    /// A rule wants the packet told in the log. There are 32 of these at once, and 32 a second.
    Log(Logged),
    /// So many packets more that rules want told in the log, which would be too many to tell. There is one of these a second at most.
    NotLogged(u64),
}

/// A packet that a rule wants told in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Where it came from.
    pub from: PortId,
    /// What it says, before anything was changed.
    pub packet: Packet,
    /// What became of it.
    pub fate: Fate,
    /// The network whose rules decided, and the rule, counted from 0.
    pub rule: Option<(NetworkId, usize)>,
}

/// What no guest can bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The NIC does not work any more: what was taken to be sent is not answered, and nothing is received by it.
    Broken,
    /// The driver says that something has happened to what it was not given.
    Unasked(u32),
    /// The hypervisor refused to take so many pins of guests' pages back.
    Unmap(usize),
    /// The hypervisor refused to pin this page of the pool, or to unpin it: it is not used any more.
    Page(PageId),
}

/// Whether another round is due at once.
#[must_use = "who sleeps when there is work is not woken"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// There is more to do.
    Again,
    /// Not before a port is raised, or the NIC's interrupt, or it is this time (ns), if one is told.
    Sleep(Option<u64>),
}

/// What is in nobody's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// How many more frames can be under way, and how many can be at most.
    pub jobs: (usize, usize),
    /// Buffers for what no device does.
    pub buffers: usize,
    /// Pages of the pool, but for those that the NIC has to receive into.
    pub pages: usize,
    /// Those.
    pub posted: usize,
}

/// What a capture listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tap {
    /// All frames from and to a port: those that come from it as they come, those that go to it as they go.
    Port(PortId),
    /// The packets that rules mirror, as they come.
    Mirror,
}

/// A capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaptureId(pub(super) u32);
