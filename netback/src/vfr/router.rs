//! The VFR itself: from a frame at one of its ports to what becomes of it.
//!
//! A [`Vfr`] has networks, each with its rules and VIFs, and one uplink. A guest reaches others of its network directly, having been told their
//! MACs, and everybody else by way of its gateway. Between networks a packet must be accepted by the rules of both, the sender's first.
//! Of all that is asked, this order holds: what the headers say; who may have sent it; what the VFR answers itself; the flow it belongs
//! to; the way; the rules. A packet of a flow is asked nothing between.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv6Addr};

use super::bucket::Bucket;
use super::classify::{Count, Decision, Facts, Named, NetworkId, PortId, Rules, Side, Unfit};
use super::flow::{Direction, Flow, FlowId, Flows, Key, Progress};
use super::made;
use super::nat::{self, Checksum, Ports};
use super::packet::{self, About, Arp, ArpOperation, ETHERNET, ICMP6, Ip, Mac, Packet, TCP, Transport, What};
use super::reason::{Drops, Reason};
use super::rules::{Family, Name, Prefix, Rule, State, Verdict};

/// The uplink's number among the ports.
pub const UPLINK: PortId = PortId(0);
/// The most addresses of a VIF, and of the uplink.
pub const MAX_ADDRESSES: usize = 8;
/// The most neighbours on the uplink that are remembered.
const MAX_NEIGHBOURS: usize = 1024;
/// How long a neighbour is believed to be where he was, in nanoseconds; for as long again he is believed and asked.
const NEIGHBOUR_AGE: u64 = 60_000_000_000;
/// How long to wait before a neighbour is asked for again, in nanoseconds.
const ASK_AGAIN: u64 = 1_000_000_000;
/// How many errors and resets a port is sent in a second.
const ERRORS: u32 = 100;

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
#[derive(Clone, Debug)]
pub struct Network {
    /// The name that rules know it by.
    pub name: Name,
    /// The gateway's MAC.
    pub mac: Mac,
    /// The gateway's addresses, each with how many bits of it are the network's.
    pub gateways: Vec<(IpAddr, u8)>,
    /// Whether all its connections to the uplink get the uplink's address.
    pub nat: bool,
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
}

/// The way to the world.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses, at most [`MAX_ADDRESSES`], each with how many bits of it are the neighbourhood's.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Whom packets are sent to that are not for the neighbourhood, at most one for each version of IP.
    pub routers: Vec<IpAddr>,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes to this port, with its header as it is now; that may be the port that it came from.
    Forward(PortId),
    /// It was for the VFR, which has understood it.
    Taken,
    /// It is gone.
    Drop(Reason),
}

/// What came of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What becomes of it.
    pub fate: Fate,
    /// A frame that the VFR has made on its account, and the port that it goes to.
    pub made: Option<(PortId, Vec<u8>)>,
    /// What was read of it, before anything was changed; its places are still right.
    pub packet: Option<Packet>,
    /// The network whose rules decided, and the rule, counted from 0, if rules were asked and one did.
    pub rule: Option<(NetworkId, usize)>,
    /// Whether a rule wants it told in the log.
    pub log: bool,
    /// Whether a rule wants it told to a capture.
    pub mirror: bool,
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
    nets: Vec<Net>,
    /// The uplink first.
    ports: Vec<Port>,
    uplink: Option<Uplink>,
    homes: BTreeMap<IpAddr, PortId>,
    neighbours: BTreeMap<IpAddr, Neighbour>,
    flows: Flows,
    /// How often rules were changed.
    generation: u64,
    /// Whether rules of any network want to see packets of flows.
    asks_later: bool,
}

fn any_has(prefixes: &[(IpAddr, u8)], address: IpAddr) -> bool {
    let has =
        |(base, length): &(IpAddr, u8)| Prefix::new(*base, *length).is_some_and(|prefix| prefix.has(address));
    prefixes.iter().any(has)
}

/// Whether an address is of both.
fn overlap(some: &[(IpAddr, u8)], others: &[(IpAddr, u8)]) -> bool {
    some.iter().any(|(base, _)| any_has(others, *base)) || others.iter().any(|(base, _)| any_has(some, *base))
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
}

/// What is gathered of a frame beside its fate.
#[derive(Default)]
struct Notes {
    made: Option<(PortId, Vec<u8>)>,
    rule: Option<(NetworkId, usize)>,
    log: bool,
    mirror: bool,
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
            ports: Vec::from([Port::new(None)]),
            uplink: None,
            homes: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            flows: Flows::new(limits.flows, limits.flows_of_vif, ports, secret),
            generation: 0,
            asks_later: false,
        }
    }

    /// Sets the uplink; its neighbours are forgotten, and all flows with them.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing has changed then.
    pub fn set_uplink(&mut self, uplink: Uplink) -> Result<(), Refused> {
        if uplink.addresses.len() > MAX_ADDRESSES || uplink.routers.len() > 2 {
            return Err(Refused::TooMany);
        }
        let routers = uplink.routers.iter().map(|router| (*router, 0));
        for (address, length) in uplink.addresses.iter().copied().chain(routers) {
            let is_good = is_hosts(address) && Prefix::new(address, length).is_some();
            if !is_good || self.nets.iter().any(|net| net.has(address)) {
                return Err(Refused::Address(address));
            }
        }
        let inside = self.nets.iter().flat_map(|net| &net.network.gateways);
        if let Some((gateway, _)) = inside
            .copied()
            .find(|(gateway, _)| any_has(&uplink.addresses, *gateway))
        {
            return Err(Refused::Address(gateway));
        }
        if uplink.mac.is_group() || uplink.mac == Mac([0; 6]) {
            return Err(Refused::Mac);
        }
        self.neighbours.clear();
        self.flows.clear();
        self.uplink = Some(uplink);
        Ok(())
    }

    /// Adds a network, without rules: nothing is accepted.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing has changed then.
    pub fn add_network(&mut self, network: Network) -> Result<NetworkId, Refused> {
        let id = u16::try_from(self.nets.len()).map_err(|_| Refused::TooMany)?;
        if self.named(&network.name).is_some() {
            return Err(Refused::NameTaken);
        }
        if network.gateways.len() > 2 {
            return Err(Refused::TooMany);
        }
        for &(address, length) in &network.gateways {
            let overlaps = |others: &[(IpAddr, u8)]| overlap(&[(address, length)], others);
            let outside = self
                .uplink
                .as_ref()
                .is_some_and(|uplink| overlaps(&uplink.addresses));
            let is_good = is_hosts(address) && Prefix::new(address, length).is_some();
            if !is_good || outside || self.nets.iter().any(|net| overlaps(&net.network.gateways)) {
                return Err(Refused::Address(address));
            }
        }
        if network.mac.is_group() || network.mac == Mac([0; 6]) {
            return Err(Refused::Mac);
        }
        self.nets.push(Net {
            network,
            rules: Rules::default(),
        });
        Ok(NetworkId(id))
    }

    /// Adds a VIF.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing has changed then.
    pub fn add_vif(&mut self, vif: Vif) -> Result<PortId, Refused> {
        let id = PortId(u16::try_from(self.ports.len()).map_err(|_| Refused::TooMany)?);
        let net = self.net(vif.network).ok_or(Refused::NoNetwork)?;
        if vif.addresses.len() > MAX_ADDRESSES {
            return Err(Refused::TooMany);
        }
        let is_taken = |port: &Port| port.vif.as_ref().is_some_and(|other| other.mac == vif.mac);
        let is_gateways = net.network.mac == vif.mac;
        if vif.mac.is_group() || vif.mac == Mac([0; 6]) || is_gateways || self.ports.iter().any(is_taken) {
            return Err(Refused::Mac);
        }
        for &address in &vif.addresses {
            let is_gateways = net.gateway(address) == Some(address);
            if !is_hosts(address) || !net.has(address) || is_gateways || self.homes.contains_key(&address) {
                return Err(Refused::Address(address));
            }
        }
        if self.named(&vif.name).is_some() {
            return Err(Refused::NameTaken);
        }
        for &address in &vif.addresses {
            self.homes.insert(address, id);
        }
        self.ports.push(Port::new(Some(vif)));
        Ok(id)
    }

    /// Gives a network other rules, whose counters begin at zero. Connections that the new rules would accept go on; the others end with
    /// their next packet.
    ///
    /// # Errors
    ///
    /// A name that does not fit; the old rules stay then.
    pub fn set_rules(&mut self, network: NetworkId, rules: Vec<Rule>) -> Result<(), Unfit> {
        let rules = Rules::new(rules, |name| self.named(name))?;
        if let Some(net) = self.nets.get_mut(usize::from(network.0)) {
            net.rules = rules;
            self.generation = self.generation.wrapping_add(1);
            self.asks_later = self.nets.iter().any(|net| net.rules.asks_later());
        }
        Ok(())
    }

    /// A network's rules with their counters.
    pub fn rules(&self, network: NetworkId) -> impl Iterator<Item = (&Rule, Count)> {
        self.net(network).into_iter().flat_map(|net| net.rules.iter())
    }

    /// What was dropped that came from a port.
    #[must_use]
    pub fn drops(&self, port: PortId) -> Option<&Drops> {
        Some(&self.ports.get(usize::from(port.0))?.drops)
    }

    /// The flows.
    #[must_use]
    pub const fn flows(&self) -> &Flows {
        &self.flows
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
            };
            self.take(&mut frame, &mut notes)
        });
        let fate = fate.unwrap_or_else(|reason| {
            if let Some(port) = self.ports.get_mut(usize::from(from.0)) {
                port.drops.count(reason);
            }
            Fate::Drop(reason)
        });
        Outcome {
            fate,
            made: notes.made,
            packet,
            rule: notes.rule,
            log: notes.log,
            mirror: notes.mirror,
        }
    }

    fn net(&self, id: NetworkId) -> Option<&Net> {
        self.nets.get(usize::from(id.0))
    }

    fn vif(&self, id: PortId) -> Option<&Vif> {
        self.ports.get(usize::from(id.0))?.vif.as_ref()
    }

    fn named(&self, name: &Name) -> Option<Named> {
        let vif = (0..).zip(&self.ports).find_map(|(id, port)| {
            let is_it = port.vif.as_ref().is_some_and(|vif| vif.name == *name);
            is_it.then_some(Named::Vif(PortId(id)))
        });
        vif.or_else(|| {
            let mut nets = (0..).zip(&self.nets);
            let (id, _) = nets.find(|(_, net)| net.network.name == *name)?;
            Some(Named::Network(NetworkId(id)))
        })
    }

    fn side(&self, port: PortId) -> Side {
        self.vif(port)
            .map_or(Side::Uplink, |vif| Side::Vif(port, vif.network))
    }

    /// The VFR's own MAC as a port knows it.
    fn own_mac(&self, port: PortId) -> Option<Mac> {
        match self.vif(port) {
            Some(vif) => Some(self.net(vif.network)?.network.mac),
            None => Some(self.uplink.as_ref()?.mac),
        }
    }

    /// The VFR's own address, as a port knows it, of the version of `of`.
    fn own_address(&self, port: PortId, of: IpAddr) -> Option<IpAddr> {
        match self.vif(port) {
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
            What::Arp(arp) => self.arp(frame, &arp, notes),
            What::Ip(ip) => self.ip(frame, &ip, notes),
        }
    }

    fn arp(&mut self, frame: &Frame<'_>, arp: &Arp, notes: &mut Notes) -> Result<Fate, Reason> {
        let sender = IpAddr::V4(arp.sender);
        let is_probe = arp.sender.is_unspecified() && arp.operation == ArpOperation::Request;
        if arp.sender_mac != frame.packet.source_mac {
            return Err(Reason::SpoofedArp);
        }
        match self.vif(frame.from) {
            Some(vif) if !is_probe && !vif.addresses.contains(&sender) => return Err(Reason::SpoofedArp),
            Some(_) => {}
            None if self.is_inside(sender) || self.is_own(UPLINK, sender) => {
                return Err(Reason::SpoofedInside);
            }
            None => self.learn(sender, arp.sender_mac, frame.now),
        }
        if arp.operation == ArpOperation::Reply {
            return if frame.from == UPLINK {
                Ok(Fate::Taken)
            } else {
                Err(Reason::Neighbour)
            };
        }
        let (mac, _) = self
            .who_has(frame.from, arp.target.into())
            .ok_or(Reason::Neighbour)?;
        notes.made = Some((frame.from, made::arp(mac, arp.target, arp.sender_mac, arp.sender)));
        Ok(Fate::Taken)
    }

    /// Who answers for an address where `port` asks, and whether it is the VFR itself.
    fn who_has(&self, port: PortId, address: IpAddr) -> Option<(Mac, bool)> {
        if self.is_own(port, address) {
            return Some((self.own_mac(port)?, true));
        }
        let home = *self.homes.get(&address)?;
        let (asker, asked) = (self.vif(port)?, self.vif(home)?);
        (home != port && asker.network == asked.network).then_some((asked.mac, false))
    }

    fn is_inside(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net.has(address))
    }

    /// Believes a neighbour on the uplink who was asked for.
    fn learn(&mut self, address: IpAddr, mac: Mac, now: u64) {
        if let Some(neighbour) = self.neighbours.get_mut(&address)
            && !mac.is_group()
        {
            *neighbour = Neighbour::Known(mac, now, now);
        }
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
            return self.neighbour(frame, ip, kind, notes);
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
            return self.ping(frame, ip);
        }
        if let Transport::Icmp {
            about: About::Error(inner),
            ..
        } = ip.transport
        {
            return self.related(frame, ip, &inner, notes);
        }
        let key = Key::of(ip).ok_or(Reason::IcmpKind)?;
        if let Some((id, direction)) = self.flows.find(&key, frame.now) {
            let begins_anew = direction == Direction::Original
                && Progress::first(&ip.transport).is_ok()
                && self.flows.get(id).is_some_and(|flow| flow.progress.is_over());
            if !begins_anew {
                return self.known(frame, ip, id, direction, notes);
            }
            self.flows.end(id);
        }
        self.begin(frame, ip, key, notes)
    }

    /// Neighbour and router discovery.
    fn neighbour(&mut self, frame: &Frame<'_>, ip: &Ip, kind: u8, notes: &mut Notes) -> Result<Fate, Reason> {
        let target = made::neighbour_target(frame.header, ip).ok_or(Reason::Neighbour)?;
        let IpAddr::V6(source) = ip.source else {
            return Err(Reason::Neighbour);
        };
        let mac = frame.packet.source_mac;
        match self.vif(frame.from) {
            Some(vif)
                if !source.is_unspecified()
                    && source != link_local(vif.mac)
                    && !vif.addresses.contains(&ip.source) =>
            {
                return Err(Reason::SpoofedAddress);
            }
            None if self.is_inside(ip.source) || self.is_own(UPLINK, ip.source) => {
                return Err(Reason::SpoofedInside);
            }
            Some(_) | None => {}
        }
        match kind {
            135 => {
                let (found, is_own) = self.who_has(frame.from, target.into()).ok_or(Reason::Neighbour)?;
                let own = self.own_mac(frame.from).ok_or(Reason::Port)?;
                let answer = made::advertisement(own, found, target, (mac, source), is_own);
                notes.made = answer.map(|answer| (frame.from, answer));
                Ok(Fate::Taken)
            }
            136 if frame.from == UPLINK && !self.is_inside(target.into()) => {
                self.learn(target.into(), mac, frame.now);
                Ok(Fate::Taken)
            }
            _ => Err(Reason::Neighbour),
        }
    }

    /// The gateway answers who pings it: the frame goes back as the answer.
    fn ping(&self, frame: &mut Frame<'_>, ip: &Ip) -> Result<Fate, Reason> {
        let Transport::Icmp {
            about: About::EchoRequest(identifier),
            ..
        } = ip.transport
        else {
            return Err(Reason::Gateway);
        };
        let own = self.own_mac(frame.from).ok_or(Reason::Port)?;
        if frame.packet.destination_mac != own {
            return Err(Reason::NotForUs);
        }
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
        let exit = self.exit(frame, ip, to, leaving.destination, notes)?;
        self.flows.step(id, direction, &ip.transport, frame.now)?;
        nat::translate(frame.header, ip, &leaving, frame.checksum);
        Ok(send(frame, ip, &exit))
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
        let (id, direction) = self.flows.find(&key, frame.now).ok_or(Reason::Unrelated)?;
        self.still_allowed(frame, ip, id, direction, State::Related, notes)?;
        let flow = self.flows.get(id).ok_or(Reason::WrongSide)?;
        let (_, to) = flow.way(direction);
        let (arriving, leaving) = (flow.arriving(direction), flow.leaving(direction));
        let exit = self.exit(frame, ip, to, leaving.destination, notes)?;
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
        let (first, key) = (flow.facts, flow.leaving(direction));
        let was_nat = flow.nat.is_some();
        if flow.generation != self.generation {
            // With other addresses it would be another connection.
            let decision = self.decide(&first, frame, None, notes).and_then(|decision| {
                if decision.nat == was_nat {
                    Ok(decision)
                } else {
                    Err(Reason::Rule)
                }
            });
            match decision {
                Ok(decision) => {
                    if let Some(flow) = self.flows.get_mut(id) {
                        flow.generation = self.generation;
                        flow.mirror = decision.mirror;
                    }
                }
                Err(reason) => {
                    self.flows.end(id);
                    return self.refuse(reason, frame, ip, notes);
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
            match self.decide(&facts, frame, Some(frame.now), notes) {
                // Of packets of a flow no rule need say anything.
                Ok(_) | Err(Reason::NoRule) => {}
                Err(reason) => return self.refuse(reason, frame, ip, notes),
            }
        }
        Ok(())
    }

    /// A packet that belongs to no flow: where to, and may it?
    fn begin(&mut self, frame: &mut Frame<'_>, ip: &Ip, key: Key, notes: &mut Notes) -> Result<Fate, Reason> {
        let progress = Progress::first(&ip.transport)?;
        let mut reached = key;
        let mut forwarded = None;
        let to = if frame.from == UPLINK && self.is_own(UPLINK, ip.destination) {
            let (to, port) = self.forward(ip, &key)?;
            forwarded = Some(key.destination_port);
            let vif = self.vif(to).ok_or(Reason::NoHost)?;
            let mut addresses = vif.addresses.iter().copied();
            reached.destination = addresses
                .find(|address| address.is_ipv4() == ip.source.is_ipv4())
                .ok_or(Reason::NoHost)?;
            reached.destination_port = port;
            to
        } else {
            self.route(frame, ip, notes)?
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
        let decision = match self.decide(&facts, frame, Some(frame.now), notes) {
            Ok(decision) => decision,
            Err(reason) => return self.refuse(reason, frame, ip, notes),
        };
        let exit = self.exit(frame, ip, to, reached.destination, notes)?;
        let mut reply = reached.reversed();
        let mut nat = None;
        if decision.nat {
            reply.destination = self.own_address(UPLINK, ip.source).ok_or(Reason::NoRoute)?;
            let inside = reply.destination_port;
            reply.destination_port = self.flows.ports().take(ip.protocol, inside, frame.from)?;
            nat = Some(reply.destination_port);
        }
        let owner = if frame.from == UPLINK {
            (to, false)
        } else {
            (frame.from, true)
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
            owner,
            progress,
            until: frame.now.saturating_add(progress.patience()),
        };
        self.flows.begin(flow, frame.now)?;
        nat::translate(frame.header, ip, &reply.reversed(), frame.checksum);
        Ok(send(frame, ip, &exit))
    }

    /// Where a packet goes that asks for the uplink's own address.
    fn forward(&self, ip: &Ip, key: &Key) -> Result<(PortId, u16), Reason> {
        let family = Family::of(ip.source);
        let find = |net: &Net| net.rules.forward(key.protocol, family, key.destination_port);
        let forward = self.nets.iter().find_map(find).ok_or(Reason::NoForward)?;
        Ok((forward.to, forward.to_port))
    }

    /// Where a packet goes.
    fn route(&mut self, frame: &Frame<'_>, ip: &Ip, notes: &mut Notes) -> Result<PortId, Reason> {
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
            .any(|net| net.gateway(ip.destination) == Some(ip.destination));
        if is_gateways || self.is_own(UPLINK, ip.destination) {
            return Err(Reason::Gateway);
        }
        // Host unreachable, address unreachable; network unreachable, no route.
        if self.is_inside(ip.destination) {
            self.tell(frame, ip, (3, 1), (1, 3), notes);
            return Err(Reason::NoHost);
        }
        if frame.from == UPLINK || self.own_address(UPLINK, ip.destination).is_none() {
            self.tell(frame, ip, (3, 0), (1, 0), notes);
            return Err(Reason::NoRoute);
        }
        Ok(UPLINK)
    }

    /// Asks the rules of the networks at both ends; whoever does not accept decides. Without a time it is about what was decided before.
    fn decide(
        &mut self,
        facts: &Facts,
        frame: &Frame<'_>,
        now: Option<u64>,
        notes: &mut Notes,
    ) -> Result<Decision, Reason> {
        let network = |side| match side {
            Side::Vif(_, network) => Some(network),
            Side::Uplink => None,
        };
        let first = network(facts.from);
        let second = network(facts.to).filter(|second| Some(*second) != first);
        let mut sum = Decision::default();
        for id in [first, second].into_iter().flatten() {
            let Some(net) = self.nets.get_mut(usize::from(id.0)) else {
                continue;
            };
            let decision = net.rules.decide(facts, frame.length, now);
            notes.log |= decision.log && now.is_some();
            notes.mirror |= decision.mirror && now.is_some();
            sum.mirror |= decision.mirror;
            notes.rule = decision.by.map(|(rule, _)| (id, rule));
            match decision.by {
                Some((_, Verdict::Accept)) => {}
                Some((_, Verdict::Drop)) => return Err(Reason::Rule),
                Some((_, Verdict::Reject)) => return Err(Reason::Rejected),
                // Of a packet of a flow the other network's rules may say something still.
                None if facts.state != State::New => {}
                None => return Err(Reason::NoRule),
            }
            sum.nat |= decision.nat || (net.network.nat && facts.to == Side::Uplink);
        }
        Ok(sum)
    }

    /// Tells the sender, if the rules want that.
    fn refuse<T>(
        &mut self,
        reason: Reason,
        frame: &Frame<'_>,
        ip: &Ip,
        notes: &mut Notes,
    ) -> Result<T, Reason> {
        if reason == Reason::Rejected {
            if ip.protocol == TCP {
                let macs = self.own_mac(frame.from).map(|own| (own, frame.packet.source_mac));
                if self.may_tell(frame) {
                    let reset = macs.and_then(|macs| made::reset(macs, frame.header, ip));
                    notes.made = reset.map(|reset| (frame.from, reset));
                }
            } else {
                // Communication administratively prohibited, in both versions.
                self.tell(frame, ip, (3, 13), (1, 1), notes);
            }
        }
        Err(reason)
    }

    fn may_tell(&mut self, frame: &Frame<'_>) -> bool {
        let port = self.ports.get_mut(usize::from(frame.from.0));
        port.is_some_and(|port| port.errors.take(frame.now, ERRORS, ERRORS))
    }

    /// Sends the sender an ICMP error, of the type and code for IPv4 or for IPv6; never about an error.
    fn tell(&mut self, frame: &Frame<'_>, ip: &Ip, v4: (u8, u8), v6: (u8, u8), notes: &mut Notes) {
        let is_error = matches!(
            ip.transport,
            Transport::Icmp {
                about: About::Error(_),
                ..
            }
        );
        if is_error || !self.may_tell(frame) {
            return;
        }
        let (kind, code) = if ip.source.is_ipv4() { v4 } else { v6 };
        let own = self
            .own_mac(frame.from)
            .zip(self.own_address(frame.from, ip.source));
        notes.made = own.and_then(|(mac, address)| {
            let macs = (mac, frame.packet.source_mac);
            let error = made::error(macs, address, frame.header, ip, kind, code)?;
            Some((frame.from, error))
        });
    }

    /// How a packet leaves by a port towards an address; where that needs a neighbour, he is asked for.
    fn exit(
        &mut self,
        frame: &Frame<'_>,
        ip: &Ip,
        to: PortId,
        destination: IpAddr,
        notes: &mut Notes,
    ) -> Result<Exit, Reason> {
        let own = self.own_mac(to).ok_or(Reason::NoRoute)?;
        let wanted = frame.packet.destination_mac;
        let is_for_gateway = self.own_mac(frame.from) == Some(wanted);
        if let (Some(from), Some(vif)) = (self.vif(frame.from), self.vif(to))
            && from.network == vif.network
            && wanted == vif.mac
        {
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
            self.tell(frame, ip, (11, 0), (3, 0), notes);
            return Err(Reason::Hops);
        }
        let mac = match self.vif(to) {
            Some(vif) => vif.mac,
            None => self.resolve(destination, frame.now, notes)?,
        };
        Ok(Exit {
            to,
            macs: (own, mac),
            is_routed: true,
        })
    }

    /// The MAC of the next host on the uplink towards an address.
    fn resolve(&mut self, destination: IpAddr, now: u64, notes: &mut Notes) -> Result<Mac, Reason> {
        let uplink = self.uplink.as_ref().ok_or(Reason::NoRoute)?;
        let router = uplink
            .routers
            .iter()
            .find(|router| router.is_ipv4() == destination.is_ipv4());
        let next = match any_has(&uplink.addresses, destination) {
            true => destination,
            false => *router.ok_or(Reason::NoRoute)?,
        };
        let known = self.neighbours.get(&next).copied();
        let age = |at| now.saturating_sub(at);
        let asked = match known {
            Some(Neighbour::Known(mac, at, _)) if age(at) < NEIGHBOUR_AGE => return Ok(mac),
            Some(Neighbour::Known(mac, at, asked)) if age(at) < NEIGHBOUR_AGE.saturating_mul(2) => {
                if age(asked) >= ASK_AGAIN {
                    self.neighbours.insert(next, Neighbour::Known(mac, at, now));
                    notes.made = self.question(next).map(|question| (UPLINK, question));
                }
                return Ok(mac);
            }
            Some(Neighbour::Asked(at)) => Some(at),
            Some(Neighbour::Known(..)) | None => None,
        };
        if asked.is_none_or(|at| age(at) >= ASK_AGAIN) {
            if known.is_none() && self.neighbours.len() >= MAX_NEIGHBOURS {
                // Whoever did not answer, or not lately, makes room.
                self.neighbours.retain(|_, neighbour| match neighbour {
                    Neighbour::Known(_, at, _) => age(*at) < NEIGHBOUR_AGE,
                    Neighbour::Asked(at) => age(*at) < ASK_AGAIN,
                });
            }
            if known.is_some() || self.neighbours.len() < MAX_NEIGHBOURS {
                self.neighbours.insert(next, Neighbour::Asked(now));
                notes.made = self.question(next).map(|question| (UPLINK, question));
            }
        }
        Err(Reason::Unresolved)
    }

    fn question(&self, next: IpAddr) -> Option<Vec<u8>> {
        let mac = self.uplink.as_ref()?.mac;
        match (self.own_address(UPLINK, next)?, next) {
            (IpAddr::V4(own), IpAddr::V4(next)) => Some(made::arp(mac, own, Mac::BROADCAST, next)),
            (IpAddr::V6(own), IpAddr::V6(next)) => made::solicitation(mac, own, next),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }
}

impl Port {
    const fn new(vif: Option<Vif>) -> Self {
        Self {
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

/// The transport header as it will be with another destination port.
const fn reach(transport: Transport, destination: u16) -> Transport {
    match transport {
        Transport::Tcp { source, flags, .. } => Transport::Tcp {
            source,
            destination,
            flags,
        },
        Transport::Udp { source, .. } => Transport::Udp { source, destination },
        Transport::Icmp { .. } | Transport::Other | Transport::Fragment => transport,
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

#[cfg(test)]
mod tests;
