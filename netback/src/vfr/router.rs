//! The VFR itself: from a frame at one of its ports to what becomes of it.
//!
//! A [`Vfr`] has networks, each with its rules and VIFs, and one uplink. A guest reaches others of its network directly, if a rule accepts it, having been
//! told their MACs, and everybody else by way of its gateway. Between networks a packet must be accepted by the rules of both, the sender's first.
//! Of all that is asked, this order holds: what the headers say; who may have sent it; what the VFR answers itself; the flow it belongs
//! to; the way; the rules. A packet of a flow is asked nothing between.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use self::kept::{Left, NOW_AND_THEN, Places};
use self::path::Paths;
pub use self::records::{Fate, Limits, Network, Outcome, Refused, Telling, Uplink, Vif, Way};
pub(super) use self::why::{Ends, state};
use super::bucket::Bucket;
use super::classify::{Count, NetworkId, PortId, Rules, Side};
use super::flow::{Direction, FlowId, Flows};
use super::nat::{Checksum, Ports};
use super::packet::{self, Mac, Packet, What};
use super::reason::{Drops, Reason};
use super::rules::{Prefix, Rule, Verdict};
use crate::services::dhcp_client::Client;
use crate::services::dns::Questions;

/// The most frames of the VFR's own that wait to be taken.
const MAX_MADE: usize = 4096;
/// The uplink's number among the ports.
pub const UPLINK: PortId = PortId(0);
/// The most addresses of a VIF, and of the uplink.
pub const MAX_ADDRESSES: usize = 8;
/// How many slots for flows are looked at now and then, for those that have ended.
const SWEPT: usize = 4096;

#[derive(Debug)]
struct Net {
    network: Network,
    rules: Rules,
    places: Places,
}

impl Net {
    fn gateway(&self, of: IpAddr) -> Option<IpAddr> {
        let mut all = self.network.gateways.iter().map(|(address, _)| *address);
        all.find(|address| address.is_ipv4() == of.is_ipv4())
    }

    fn has(&self, address: IpAddr) -> bool {
        any_has(&self.network.gateways, address)
    }
}

#[derive(Debug)]
struct Port {
    /// Tells it from all that had its number before.
    serial: u64,
    /// Until when it has its address by DHCP.
    lease: Option<u64>,
    drops: Drops,
    errors: Bucket,
    vif: Option<Vif>,
}

#[derive(Clone, Copy, Debug)]
enum Neighbour {
    /// Since when.
    Asked(u64),
    /// His MAC, when he told it, and when he was last asked.
    Known(Mac, u64, u64),
}

/// A virtual firewall-router.
#[derive(Debug)]
pub struct Vfr {
    nets: Vec<Option<Net>>,
    /// The uplink first.
    ports: Vec<Option<Port>>,
    /// How many VIFs there have been.
    vifs_added: u64,
    uplink: Option<Uplink>,
    /// How often the uplink was changed.
    uplink_changes: u64,
    /// Frames of its own that nobody has taken yet.
    made: VecDeque<(PortId, Vec<u8>)>,
    homes: BTreeMap<IpAddr, PortId>,
    neighbours: BTreeMap<IpAddr, Neighbour>,
    flows: Flows,
    paths: Paths,
    /// How often rules were changed.
    generation: u64,
    /// Whether rules of any network want to see packets of flows.
    asks_later: bool,
    /// Who asks for the uplink's address, and whom to ask for names whatever it learns.
    client: Option<(Client, Vec<IpAddr>)>,
    uplink_refused: Option<Refused>,
    /// Questions for names.
    questions: Questions,
    next_advertisement: u64,
    secret: [u64; 2],
    /// How many numbers were made of it.
    drawn: u64,
    /// What a predecessor left.
    left: Left,
    /// The time that was told last.
    now: u64,
    /// When counters are written next.
    next_keep: u64,
    /// What [`Vfr::tick`] said last, if nothing has happened since but packets whose paths were known.
    quiet: Option<Option<u64>>,
}

fn any_has(prefixes: &[(IpAddr, u8)], address: IpAddr) -> bool {
    let has =
        |(base, length): &(IpAddr, u8)| Prefix::new(*base, *length).is_some_and(|prefix| prefix.has(address));
    prefixes.iter().any(has)
}

/// Whether a host can have the address.
const fn is_hosts(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(address) => {
            !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
                // Nor is it IPv4's in other clothes.
                && address.to_bits() >> 32 != 0xffff
        }
    }
}

/// The link-local address that is made of a MAC (RFC 4291, appendix A).
const fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from_octets([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// A frame on its way.
struct Frame<'a> {
    from: PortId,
    header: &'a mut [u8],
    length: usize,
    checksum: Checksum,
    now: u64,
    packet: Packet,
    /// Whether it is only asked what would become of it: nothing but the header changes.
    is_dry: bool,
}

/// A network, and which of its rules decided, if one did.
type Decided = (NetworkId, Option<(usize, Verdict)>);

/// What is gathered of a frame beside its fate.
#[derive(Default)]
struct Notes {
    /// Whose rules were asked, and which rule decided.
    decided: [Option<Decided>; 2],
    flow: Option<(FlowId, Direction)>,
    log: bool,
    mirror: bool,
}

impl Notes {
    const fn has_decided(&self) -> bool {
        matches!(self.decided, [Some(_), _])
    }

    /// The network whose rules were the last that were asked, and the rule.
    fn rule(&self) -> Option<(NetworkId, usize)> {
        let (network, by) = self.decided.iter().flatten().last()?;
        by.map(|(rule, _)| (*network, rule))
    }
}

/// Where a packet is to leave, and how.
struct Exit {
    to: PortId,
    macs: (Mac, Mac),
    is_routed: bool,
}

impl Vfr {
    /// Without networks and uplink. `secret` is random, and known to nobody else.
    #[must_use]
    pub fn new(limits: Limits, secret: [u64; 2]) -> Self {
        let ports = Ports::new(limits.nat_of_vif);
        Self {
            nets: Vec::new(),
            ports: Vec::from([Some(Port::new(0, None))]),
            vifs_added: 0,
            uplink: None,
            uplink_changes: 0,
            made: VecDeque::new(),
            homes: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            flows: Flows::new(limits.flows, limits.flows_of_vif, ports, secret),
            paths: Paths::new(secret),
            generation: 0,
            asks_later: false,
            client: None,
            uplink_refused: None,
            questions: Questions::default(),
            next_advertisement: 0,
            secret,
            drawn: 0,
            left: Left::default(),
            now: 0,
            next_keep: 0,
            quiet: None,
        }
    }

    /// A network's rules with their counters.
    pub fn rules(&self, network: NetworkId) -> impl Iterator<Item = (&Rule, Count)> {
        self.net(network).into_iter().flat_map(|net| net.rules.iter())
    }

    /// What was dropped that came from a port.
    #[must_use]
    pub fn drops(&self, port: PortId) -> Option<&Drops> {
        Some(&self.port(port)?.drops)
    }

    /// The flows.
    #[must_use]
    pub const fn flows(&self) -> &Flows {
        &self.flows
    }

    /// The next frame that the VFR has made itself, whole, and the port that it goes to. To be asked until there is none, after each
    /// [`Self::handle`] and each [`Self::tick`].
    pub fn next_made(&mut self) -> Option<(PortId, Vec<u8>)> {
        self.made.pop_front()
    }

    /// Does what is to be done at `now` (ns), and tells when to come again at the latest; never, if there is nothing to wait for.
    /// Whenever anything of the VFR has been changed, it is to be asked again.
    pub fn tick(&mut self, now: u64) -> Option<u64> {
        self.now = now;
        if let Some(next) = self.quiet
            && next.is_none_or(|next| now < next)
        {
            return next;
        }
        if now >= self.next_keep {
            self.next_keep = now.saturating_add(NOW_AND_THEN);
            self.flows.sweep(SWEPT, now);
            self.keep_counts(now);
        }
        let served = self.serve(now);
        let keeps = !self.flows.is_empty() || self.flows.book().is_some();
        let kept = keeps.then_some(self.next_keep);
        let next = served.into_iter().chain(kept).min();
        self.quiet = Some(next);
        next
    }

    /// The way to the world, as it is.
    #[must_use]
    pub const fn uplink(&self) -> Option<&Uplink> {
        self.uplink.as_ref()
    }

    /// How often the uplink was changed, be it by DHCP: who shows it looks at this.
    #[must_use]
    pub const fn uplink_changes(&self) -> u64 {
        self.uplink_changes
    }

    /// A network.
    #[must_use]
    pub fn network(&self, id: NetworkId) -> Option<&Network> {
        Some(&self.net(id)?.network)
    }

    /// All networks.
    pub fn networks(&self) -> impl Iterator<Item = (NetworkId, &Network)> {
        (0..)
            .zip(&self.nets)
            .filter_map(|(id, net)| Some((NetworkId(id), &net.as_ref()?.network)))
    }

    /// A number that tells a port's VIF from all others that had, or will have, the same [`PortId`]; the uplink's is zero.
    #[must_use]
    pub fn serial(&self, port: PortId) -> Option<u64> {
        Some(self.port(port)?.serial)
    }

    /// All VIFs.
    pub fn vifs(&self) -> impl Iterator<Item = (PortId, &Vif)> {
        (0..)
            .zip(&self.ports)
            .filter_map(|(id, port)| Some((PortId(id), port.as_ref()?.vif.as_ref()?)))
    }

    /// Says what becomes of a frame of `length` bytes from a port, of which `header` is a private copy of the beginning, at `now` (ns).
    /// The header is changed to what is sent on.
    pub fn handle(
        &mut self,
        from: PortId,
        header: &mut [u8],
        length: usize,
        checksum: Checksum,
        now: u64,
    ) -> Outcome {
        self.pass(from, header, length, checksum, now)
            .unwrap_or_else(|| self.handle_any(from, header, length, checksum, now))
    }

    /// Does so whatever the frame is.
    fn handle_any(
        &mut self,
        from: PortId,
        header: &mut [u8],
        length: usize,
        checksum: Checksum,
        now: u64,
    ) -> Outcome {
        self.now = now;
        self.quiet = None;
        let mut notes = Notes::default();
        let parsed = packet::parse(header, length);
        let packet = parsed.ok();
        let fate = parsed.and_then(|packet| {
            let mut frame = Frame {
                from,
                header,
                length,
                checksum,
                now,
                packet,
                is_dry: false,
            };
            self.take(&mut frame, &mut notes)
        });
        let fate = fate.unwrap_or_else(|reason| {
            if let Some(port) = self.port_mut(from) {
                port.drops.count(reason);
            }
            Fate::Drop(reason)
        });
        Outcome {
            fate,
            layout: packet.as_ref().map(Packet::layout),
            log: packet.filter(|_| notes.log).map(|packet| {
                let rule = notes.rule();
                Box::new(Telling { packet, rule })
            }),
            mirror: notes.mirror,
        }
    }

    fn net(&self, id: NetworkId) -> Option<&Net> {
        self.nets.get(usize::from(id.0))?.as_ref()
    }

    fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(usize::from(id.0))?.as_ref()
    }

    fn port_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.ports.get_mut(usize::from(id.0))?.as_mut()
    }

    fn vif(&self, id: PortId) -> Option<&Vif> {
        self.port(id)?.vif.as_ref()
    }

    /// Has a frame sent that the VFR has made; where nobody takes them, those that are too many are lost.
    fn make(&mut self, to: PortId, frame: Option<Vec<u8>>) {
        if let Some(frame) = frame
            && self.made.len() < MAX_MADE
        {
            self.made.push_back((to, frame));
        }
    }

    fn side(&self, port: PortId) -> Side {
        self.vif(port)
            .map_or(Side::Uplink, |vif| Side::Vif(port, vif.network))
    }

    /// The VFR's own MAC as a port knows it.
    fn own_mac(&self, port: PortId) -> Option<Mac> {
        match &self.port(port)?.vif {
            Some(vif) => Some(self.net(vif.network)?.network.mac),
            None => Some(self.uplink.as_ref()?.mac),
        }
    }

    /// The VFR's own address, as a port knows it, of the version of `of`.
    fn own_address(&self, port: PortId, of: IpAddr) -> Option<IpAddr> {
        match &self.port(port)?.vif {
            Some(vif) => self.net(vif.network)?.gateway(of),
            None => {
                let mut all = self
                    .uplink
                    .as_ref()?
                    .addresses
                    .iter()
                    .map(|(address, _)| *address);
                all.find(|address| address.is_ipv4() == of.is_ipv4())
            }
        }
    }

    fn is_own(&self, port: PortId, address: IpAddr) -> bool {
        match self.vif(port) {
            Some(vif) => self.net(vif.network).and_then(|net| net.gateway(address)) == Some(address),
            None => self.uplink.as_ref().is_some_and(|uplink| uplink.has(address)),
        }
    }

    fn take(&mut self, frame: &mut Frame<'_>, notes: &mut Notes) -> Result<Fate, Reason> {
        let packet = frame.packet;
        if self.drops(frame.from).is_none() {
            return Err(Reason::Port);
        }
        let own = self.own_mac(frame.from).ok_or(Reason::Port)?;
        match self.vif(frame.from) {
            Some(vif) if packet.source_mac != vif.mac => return Err(Reason::SpoofedMac),
            None if packet.destination_mac != own && !packet.destination_mac.is_group() => {
                return Err(Reason::NotForUs);
            }
            Some(_) | None => {}
        }
        match packet.what {
            What::Arp(arp) => self.arp(frame, &arp),
            What::Ip(ip) => self.ip(frame, &ip, notes),
        }
    }

    fn is_inside(&self, address: IpAddr) -> bool {
        self.nets.iter().flatten().any(|net| net.has(address))
    }
}

impl Port {
    const fn new(serial: u64, vif: Option<Vif>) -> Self {
        Self {
            serial,
            lease: None,
            drops: Drops::NONE,
            errors: Bucket::FULL,
            vif,
        }
    }
}

mod asking;
mod ip;
mod kept;
mod near;
mod own;
mod path;
mod records;
mod setup;
#[cfg(any(test, feature = "testing"))]
mod sound;
#[cfg(test)]
mod tests;
mod why;
