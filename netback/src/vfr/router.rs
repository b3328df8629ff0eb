//! The VFR itself: from a frame at one of its ports to what becomes of it.
//!
//! A [`Vfr`] has networks, each with its rules and VIFs, and one uplink. A guest reaches others of its network directly, if a rule accepts it, having been
//! told their MACs, and everybody else by way of its gateway. Between networks a packet must be accepted by the rules of both, the sender's first.
//! Of all that is asked, this order holds: what the headers say; who may have sent it; what the VFR answers itself; the flow it belongs
//! to; the way; the rules. A packet of a flow is asked nothing between.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv6Addr};

use self::asking::reach;
use self::kept::{Left, NOW_AND_THEN, Places};
use self::path::Paths;
pub(super) use self::why::{Ends, state};
use super::bucket::Bucket;
use super::classify::{Count, Facts, NetworkId, PortId, Rules, Side};
use super::flow::{Direction, Flow, FlowId, Flows, Key, Progress};
use super::ledger::Written;
use super::nat::{self, Checksum, Ports};
use super::packet::{self, About, ETHERNET, ICMP6, Ip, Layout, Mac, Packet, Transport, What};
use super::reason::{Drops, Reason};
use super::rules::{Family, Name, Prefix, Rule, State, Verdict};
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
    /// Its addresses, at most [`MAX_ADDRESSES`]; besides, it has the link-local address of its MAC,
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
    /// Its addresses, at most [`MAX_ADDRESSES`], each with how many bits of it are the neighbourhood's.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Whom packets are sent to that are not for the neighbourhood, at most one for each version of IP.
    pub routers: Vec<IpAddr>,
    /// Who is asked for names, the first one first, at most [`MAX_ADDRESSES`].
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

    fn ip(&mut self, frame: &mut Frame<'_>, ip: &Ip, notes: &mut Notes) -> Result<Fate, Reason> {
        if ip.transport == Transport::Fragment {
            return Err(Reason::Fragment);
        }
        if let Transport::Icmp {
            kind: kind @ 133..=137,
            ..
        } = ip.transport
            && ip.protocol == ICMP6
        {
            return self.neighbour(frame, ip, kind);
        }
        if let Some(fate) = self.dhcp(frame, ip)? {
            return Ok(fate);
        }
        match self.vif(frame.from) {
            Some(vif) if !vif.addresses.contains(&ip.source) => return Err(Reason::SpoofedAddress),
            None if !is_hosts(ip.source) || self.is_inside(ip.source) || self.is_own(UPLINK, ip.source) => {
                return Err(Reason::SpoofedInside);
            }
            Some(_) | None => {}
        }
        let is_group = match ip.destination {
            IpAddr::V4(address) => address.is_broadcast() || address.is_multicast(),
            IpAddr::V6(address) => address.is_multicast(),
        };
        if is_group || frame.packet.destination_mac.is_group() {
            return Err(Reason::Group);
        }
        let is_link_local = matches!(ip.destination, IpAddr::V6(address) if address.is_unicast_link_local());
        if !is_hosts(ip.destination) || is_link_local {
            return Err(Reason::Martian);
        }
        if frame.from != UPLINK && self.is_own(frame.from, ip.destination) {
            return self.for_gateway(frame, ip);
        }
        if frame.from == UPLINK
            && let Some(fate) = self.named_answer(frame, ip)?
        {
            return Ok(fate);
        }
        if let Transport::Icmp {
            about: About::Error(inner),
            ..
        } = ip.transport
        {
            return self.related(frame, ip, &inner, notes);
        }
        let key = Key::of(ip).ok_or(Reason::IcmpKind)?;
        if let Some((id, direction)) = self.find(frame, &key) {
            let begins_anew = direction == Direction::Original
                && Progress::first(&ip.transport).is_ok()
                && self.flows.get(id).is_some_and(|flow| flow.progress.is_over());
            if !begins_anew {
                notes.flow = Some((id, direction));
                return self.known(frame, ip, id, direction, notes);
            }
            if !frame.is_dry {
                self.flows.end(id);
            }
        }
        self.begin(frame, ip, key, notes)
    }

    /// The gateway answers who pings it: the frame goes back as the answer.
    fn ping(own: Mac, frame: &mut Frame<'_>, ip: &Ip) -> Result<Fate, Reason> {
        let Transport::Icmp {
            about: About::EchoRequest(identifier),
            ..
        } = ip.transport
        else {
            return Err(Reason::Gateway);
        };
        let answer = Key {
            protocol: ip.protocol,
            source: ip.destination,
            source_port: 0,
            destination: ip.source,
            destination_port: identifier,
        };
        nat::translate(frame.header, ip, &answer, frame.checksum);
        nat::retype(frame.header, ip, if ip.source.is_ipv4() { 0 } else { 129 });
        set_macs(frame.header, (own, frame.packet.source_mac));
        Ok(Fate::Forward(frame.from))
    }

    fn find(&mut self, frame: &Frame<'_>, key: &Key) -> Option<(FlowId, Direction)> {
        if frame.is_dry {
            self.flows.peek(key, frame.now)
        } else {
            self.flows.find(key, frame.now)
        }
    }

    /// A packet of a flow.
    fn known(
        &mut self,
        frame: &mut Frame<'_>,
        ip: &Ip,
        id: FlowId,
        direction: Direction,
        notes: &mut Notes,
    ) -> Result<Fate, Reason> {
        self.still_allowed(frame, ip, id, direction, State::Established, notes)?;
        let flow = self.flows.get(id).ok_or(Reason::WrongSide)?;
        let (_, to) = flow.way(direction);
        let leaving = flow.leaving(direction);
        let exit = self.exit(frame, ip, to, leaving.destination)?;
        if !frame.is_dry {
            self.flows.step(id, direction, &ip.transport, frame.now)?;
        } else if let Some(flow) = self.flows.get(id) {
            flow.progress.next(direction, &ip.transport)?;
        }
        let before = path::Look::of(frame, ip);
        nat::translate(frame.header, ip, &leaving, frame.checksum);
        let fate = send(frame, ip, &exit);
        if !frame.is_dry && !self.asks_later {
            self.remember(frame, ip, before, (id, direction), &exit);
        }
        Ok(fate)
    }

    /// An ICMP error, which belongs to the flow of what it is about.
    fn related(
        &mut self,
        frame: &mut Frame<'_>,
        ip: &Ip,
        inner: &packet::Inner,
        notes: &mut Notes,
    ) -> Result<Fate, Reason> {
        // The packet that it is about left the way that the error comes: its reverse is what arrives there.
        let key = Key::of_inner(inner).reversed();
        let (id, direction) = self.find(frame, &key).ok_or(Reason::Unrelated)?;
        self.still_allowed(frame, ip, id, direction, State::Related, notes)?;
        let flow = self.flows.get(id).ok_or(Reason::WrongSide)?;
        let (_, to) = flow.way(direction);
        let (arriving, leaving) = (flow.arriving(direction), flow.leaving(direction));
        let exit = self.exit(frame, ip, to, leaving.destination)?;
        // It is for the one who sent what it is about, and if it is from the other end, that one has the name it has there.
        let source = if ip.source == arriving.source {
            leaving.source
        } else {
            ip.source
        };
        nat::translate_error(
            frame.header,
            ip,
            inner,
            source,
            leaving.destination,
            &leaving.reversed(),
        );
        Ok(send(frame, ip, &exit))
    }

    /// Whether a flow's packet comes from the right side, and the rules still allow the flow, and it.
    fn still_allowed(
        &mut self,
        frame: &mut Frame<'_>,
        ip: &Ip,
        id: FlowId,
        direction: Direction,
        state: State,
        notes: &mut Notes,
    ) -> Result<(), Reason> {
        let flow = self.flows.get(id).ok_or(Reason::WrongSide)?;
        let (from, to) = flow.way(direction);
        if from != frame.from {
            return Err(Reason::WrongSide);
        }
        let (first, key, asked) = (flow.facts, flow.leaving(direction), flow.original.destination);
        let was_nat = flow.nat.is_some();
        let now = Some(frame.now);
        if flow.generation != self.generation {
            // With other addresses it would be another connection.
            let decision = self.decide(&first, asked, frame, None, notes);
            let decision = decision.and_then(|decision| {
                if decision.nat == was_nat {
                    Ok(decision)
                } else {
                    Err(Reason::Rule)
                }
            });
            match decision {
                Ok(_) if frame.is_dry => {}
                Err(reason) if frame.is_dry => return Err(reason),
                Ok(decision) => {
                    if let Some(flow) = self.flows.get_mut(id) {
                        flow.generation = self.generation;
                        flow.mirror = decision.mirror;
                    }
                }
                Err(reason) => {
                    self.flows.end(id);
                    return self.refuse(reason, frame, ip);
                }
            }
        }
        notes.mirror |= self.flows.get(id).is_some_and(|flow| flow.mirror);
        if self.asks_later {
            let facts = Facts {
                from: self.side(from),
                to: self.side(to),
                mac: frame.packet.source_mac,
                source: ip.source,
                destination: key.destination,
                protocol: ip.protocol,
                transport: ip.transport,
                state,
                forwarded: first.forwarded.filter(|_| direction == Direction::Original),
            };
            match self.decide(&facts, ip.destination, frame, now, notes) {
                // Of packets of a flow no rule need say anything.
                Ok(_) | Err(Reason::NoRule) => {}
                Err(reason) => return self.refuse(reason, frame, ip),
            }
        }
        Ok(())
    }

    /// A packet that belongs to no flow: where to, and may it?
    fn begin(&mut self, frame: &mut Frame<'_>, ip: &Ip, key: Key, notes: &mut Notes) -> Result<Fate, Reason> {
        let progress = Progress::first(&ip.transport)?;
        let mut reached = key;
        let mut forwarded = None;
        let to = if self.is_own(UPLINK, ip.destination) {
            let (to, port) = self.forward(frame.from, ip, &key)?;
            forwarded = Some(key.destination_port);
            let vif = self.vif(to).ok_or(Reason::NoHost)?;
            let mut addresses = vif.addresses.iter().copied();
            reached.destination = addresses
                .find(|address| address.is_ipv4() == ip.source.is_ipv4())
                .ok_or(Reason::NoHost)?;
            reached.destination_port = port;
            to
        } else {
            self.route(frame, ip)?
        };
        let facts = Facts {
            from: self.side(frame.from),
            to: self.side(to),
            mac: frame.packet.source_mac,
            source: ip.source,
            destination: reached.destination,
            protocol: ip.protocol,
            transport: reach(ip.transport, reached.destination_port),
            state: State::New,
            forwarded,
        };
        let asked = ip.destination;
        let decision = match self.decide(&facts, asked, frame, Some(frame.now), notes) {
            Ok(decision) => decision,
            Err(reason) => return self.refuse(reason, frame, ip),
        };
        let exit = self.exit(frame, ip, to, reached.destination)?;
        let mut reply = reached.reversed();
        let mut nat = None;
        if decision.nat {
            reply.destination = self.own_address(UPLINK, ip.source).ok_or(Reason::NoRoute)?;
            if !frame.is_dry {
                let inside = reply.destination_port;
                reply.destination_port = self.flows.ports().take(ip.protocol, inside, frame.from)?;
                nat = Some(reply.destination_port);
            }
        }
        let first = match ip.transport {
            Transport::Tcp { flags, .. } => flags,
            Transport::Icmp { code, .. } => code,
            Transport::Udp { .. } | Transport::Other | Transport::Fragment => 0,
        };
        let flow = Flow {
            original: key,
            reply,
            from: frame.from,
            to,
            facts,
            generation: self.generation,
            mirror: decision.mirror,
            nat,
            owner: kept::owner(frame.from, to),
            progress,
            until: frame.now.saturating_add(progress.patience()),
            first,
            who: self.who(frame.from, to),
            written: Written::default(),
        };
        if frame.is_dry {
            self.flows.has_room(&flow)?;
        } else {
            self.flows.begin(flow, frame.now)?;
        }
        nat::translate(frame.header, ip, &reply.reversed(), frame.checksum);
        Ok(send(frame, ip, &exit))
    }

    /// Where a packet goes that asks for the uplink's own address, from outside or from inside.
    fn forward(&self, from: PortId, ip: &Ip, key: &Key) -> Result<(PortId, u16), Reason> {
        let family = Family::of(ip.source);
        let nets = self.nets.iter().flatten();
        let mut nets = nets.filter(|net| net.network.uplink != Way::None);
        let forward = nets.find_map(|net| net.rules.forward(key.protocol, family, key.destination_port));
        match forward {
            Some(forward) => Ok((forward.to, forward.to_port)),
            None if from == UPLINK => Err(Reason::NoForward),
            None => Err(Reason::Gateway),
        }
    }

    /// Where a packet goes.
    fn route(&mut self, frame: &Frame<'_>, ip: &Ip) -> Result<PortId, Reason> {
        if let Some(home) = self.homes.get(&ip.destination) {
            // To oneself there is no way through a VFR.
            return if *home == frame.from {
                Err(Reason::NotForUs)
            } else {
                Ok(*home)
            };
        }
        let is_gateways = self
            .nets
            .iter()
            .flatten()
            .any(|net| net.gateway(ip.destination) == Some(ip.destination));
        if is_gateways || self.is_own(UPLINK, ip.destination) {
            return Err(Reason::Gateway);
        }
        // Host unreachable, address unreachable; network unreachable, no route.
        if self.is_inside(ip.destination) {
            self.tell(frame, ip, (3, 1), (1, 3));
            return Err(Reason::NoHost);
        }
        if frame.from == UPLINK || self.own_address(UPLINK, ip.destination).is_none() {
            self.tell(frame, ip, (3, 0), (1, 0));
            return Err(Reason::NoRoute);
        }
        Ok(UPLINK)
    }

    /// How a packet leaves by a port towards an address; where that needs a neighbour, he is asked for.
    fn exit(&mut self, frame: &Frame<'_>, ip: &Ip, to: PortId, destination: IpAddr) -> Result<Exit, Reason> {
        let own = self.own_mac(to).ok_or(Reason::NoRoute)?;
        let wanted = frame.packet.destination_mac;
        let is_for_gateway = self.own_mac(frame.from) == Some(wanted);
        if let (Some(from), Some(vif)) = (self.vif(frame.from), self.vif(to))
            && from.network == vif.network
            && !is_for_gateway
            && ip.destination == destination
        {
            // The address says who is meant, also where the sender knows the MAC of somebody who had it before.
            return Ok(Exit {
                to,
                macs: (from.mac, vif.mac),
                is_routed: false,
            });
        }
        if !is_for_gateway {
            return Err(Reason::NotForUs);
        }
        if ip.hops <= 1 {
            self.tell(frame, ip, (11, 0), (3, 0));
            return Err(Reason::Hops);
        }
        let mac = match self.vif(to) {
            Some(vif) => vif.mac,
            None if frame.is_dry => self.peek_neighbour(destination, frame.now)?,
            None => self.resolve(destination, frame.now)?,
        };
        Ok(Exit {
            to,
            macs: (own, mac),
            is_routed: true,
        })
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

impl Uplink {
    fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(own, _)| *own == address)
    }
}

fn set_macs(header: &mut [u8], (source, destination): (Mac, Mac)) {
    let addresses = destination.0.into_iter().chain(source.0);
    for (place, byte) in header.iter_mut().take(ETHERNET).zip(addresses) {
        *place = byte;
    }
}

fn send(frame: &mut Frame<'_>, ip: &Ip, exit: &Exit) -> Fate {
    if exit.is_routed {
        nat::hop(frame.header, ip);
    }
    set_macs(frame.header, exit.macs);
    Fate::Forward(exit.to)
}

mod asking;
mod kept;
mod near;
mod own;
mod path;
mod setup;
#[cfg(any(test, feature = "testing"))]
mod sound;
#[cfg(test)]
mod tests;
mod why;
