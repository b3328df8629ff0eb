//! A list of rules, made ready to decide over packets.
//!
//! Names are numbers by now, and each of the ten kinds of packets (protocol and version of IP) has its own list of the rules that can match it.
//! That the answers are those of the rules as they are written is held by tests against an interpreter that reads those. How long it takes
//! matters only for the first packet of a connection: the flow table knows the others.

use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use super::bucket::Bucket;
use super::packet::{ICMP, ICMP6, Mac, TCP, Transport, UDP};
use super::rules::{Family, Message, Name, Place, Prefix, Protocol, Rule, State, Verdict};

/// A VFR's port by its number: a VIF or the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u16);

/// A network by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub u16);

/// Where a packet comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The world behind the uplink.
    Uplink,
    /// A VIF, and the network that it belongs to.
    Vif(PortId, NetworkId),
}

/// Whom a name of a rule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A VIF.
    Vif(PortId),
    /// All VIFs of a network.
    Network(NetworkId),
}

/// What rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Where the packet comes from.
    pub from: Side,
    /// Where it goes to.
    pub to: Side,
    /// Its source MAC.
    pub mac: Mac,
    /// Its source.
    pub source: IpAddr,
    /// Its destination, of the same version: whom it reaches, after a port forward.
    pub destination: IpAddr,
    /// Its transport protocol.
    pub protocol: u8,
    /// What its transport header says: the destination port that it reaches, after a port forward.
    pub transport: Transport,
    /// In which state it finds its connection.
    pub state: State,
    /// The uplink's port that it asked for, if it was forwarded.
    pub forwarded: Option<u16>,
}

/// What the rules say of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The rule that decided, counted from 0, and its verdict; without one, none did.
    pub by: Option<(usize, Verdict)>,
    /// Whether the connection gets the uplink's address.
    pub nat: bool,
    /// Whether the packet is told in the log.
    pub log: bool,
    /// Whether the packet is told to a capture.
    pub mirror: bool,
}

/// What is counted of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many packets it matched.
    pub packets: u64,
    /// How long their frames were, in bytes.
    pub bytes: u64,
}

/// Why a list of rules cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// A port is forwarded to a whole network.
    ForwardToNetwork {
        /// The rule, counted from 0.
        rule: usize,
        /// The network.
        name: Name,
    },
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForwardToNetwork { rule, name } => write!(
                f,
                "rule {}: \"{}\" should be a guest: a port is forwarded to one, not to a network",
                rule.saturating_add(1),
                name.as_str()
            ),
        }
    }
}

impl core::error::Error for Unfit {}

/// A port forward of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// TCP or UDP, by its number.
    pub protocol: u8,
    /// The version of IP, if it is only for one.
    pub family: Option<Family>,
    /// The uplink's port.
    pub port: u16,
    /// The VIF that gets it.
    pub to: PortId,
    /// The port there.
    pub to_port: u16,
}

/// Where a rule wants a side to be.
#[derive(Clone, Copy, Debug)]
enum Where {
    Anywhere,
    Uplink,
    Named(Named),
    /// A name that nothing has: nothing matches.
    Nobody,
}

impl Where {
    fn of(place: &Place, named: impl Fn(&Name) -> Option<Named>) -> Self {
        match place {
            Place::Any => Self::Anywhere,
            Place::Uplink => Self::Uplink,
            Place::Name(name) => named(name).map_or(Self::Nobody, Self::Named),
        }
    }

    fn has(self, side: Side) -> bool {
        match (self, side) {
            (Self::Anywhere, _) | (Self::Uplink, Side::Uplink) => true,
            (Self::Named(Named::Vif(wanted)), Side::Vif(port, _)) => wanted == port,
            (Self::Named(Named::Network(wanted)), Side::Vif(_, network)) => wanted == network,
            (Self::Uplink, Side::Vif(..)) | (Self::Named(_), Side::Uplink) | (Self::Nobody, _) => false,
        }
    }
}

/// Addresses of one version, as bits: the list that a rule stands in has no packets of the other.
#[derive(Clone, Copy, Debug)]
struct Masked {
    bits: u128,
    mask: u128,
}

impl Masked {
    fn new(prefix: Option<Prefix>) -> Self {
        let Some(prefix) = prefix else {
            return Self { bits: 0, mask: 0 };
        };
        let width = if prefix.address().is_ipv4() { 32_u32 } else { 128 };
        let shift = width.saturating_sub(prefix.length().into());
        Self {
            bits: bits(prefix.address()),
            // What is beyond the width of IPv4 is zero in the address and in the bits.
            mask: u128::MAX.checked_shl(shift).unwrap_or(0),
        }
    }

    const fn has(self, address: u128) -> bool {
        address & self.mask == self.bits
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// A rule, its places found out.
#[derive(Debug)]
struct Ready {
    rule: Rule,
    from: Where,
    to: Where,
    source: Masked,
    destination: Masked,
    bucket: Bucket,
    count: Count,
}

/// How many kinds of packets have their own lists: TCP, UDP, ICMP, `ICMPv6` and the others, of either version.
const KINDS: usize = 10;

/// A list of rules that is ready.
#[derive(Debug, Default)]
pub struct Rules {
    rules: Vec<Ready>,
    /// For each kind, the numbers of the rules that can match, in order.
    kinds: [Vec<u16>; KINDS],
    forwards: Vec<Forward>,
    asks_later: bool,
}

impl Rules {
    /// Makes a list ready; `named` tells whom a name means, and a name that nobody has matches nothing.
    ///
    /// # Errors
    ///
    /// The first name that does not fit.
    pub fn new(rules: Vec<Rule>, named: impl Fn(&Name) -> Option<Named>) -> Result<Self, Unfit> {
        let mut all = Self::default();
        for (number, rule) in rules.into_iter().enumerate() {
            if rule.forward.is_some()
                && let Place::Name(name) = &rule.to.place
                && let Some(Named::Network(_)) = named(name)
            {
                return Err(Unfit::ForwardToNetwork {
                    rule: number,
                    name: name.clone(),
                });
            }
            all.asks_later |= rule.states.has(State::Established) || rule.states.has(State::Related);
            for (kind, list) in all.kinds.iter_mut().enumerate() {
                if let Ok(number) = u16::try_from(number)
                    && can_be(&rule, kind)
                {
                    list.push(number);
                }
            }
            all.rules.push(Ready {
                from: Where::Nobody,
                to: Where::Nobody,
                source: Masked::new(rule.from.address),
                destination: Masked::new(rule.to.address),
                bucket: Bucket::FULL,
                count: Count::default(),
                rule,
            });
        }
        all.find_names(named);
        Ok(all)
    }

    /// Finds out anew whom the names mean; counters and rates go on.
    pub fn find_names(&mut self, named: impl Fn(&Name) -> Option<Named>) {
        self.forwards.clear();
        for ready in &mut self.rules {
            ready.from = Where::of(&ready.rule.from.place, &named);
            ready.to = Where::of(&ready.rule.to.place, &named);
            self.forwards.extend(forward(&ready.rule, ready.to));
        }
    }

    /// The rules with their counters.
    pub fn iter(&self) -> impl Iterator<Item = (&Rule, Count)> {
        self.rules.iter().map(|ready| (&ready.rule, ready.count))
    }

    /// Sets what is counted of a rule, if there is one of the number.
    pub fn set_count(&mut self, rule: usize, count: Count) {
        if let Some(ready) = self.rules.get_mut(rule) {
            ready.count = count;
        }
    }

    /// Whether packets of connections that were accepted are to be shown too.
    #[must_use]
    pub const fn asks_later(&self) -> bool {
        self.asks_later
    }

    /// Where a packet goes that asks for a port of the uplink's own address.
    #[must_use]
    pub fn forward(&self, protocol: u8, family: Family, port: u16) -> Option<Forward> {
        let is_it = |forward: &&Forward| {
            forward.protocol == protocol
                && forward.port == port
                && forward.family.is_none_or(|wanted| wanted == family)
        };
        self.forwards.iter().find(is_it).copied()
    }

    /// Decides over a packet of `length` bytes at `now` (ns), and counts it with every rule that it matches. Without a time it is one that
    /// was decided over before: rates are not asked, and nothing is counted.
    pub fn decide(&mut self, facts: &Facts, length: usize, now: Option<u64>) -> Decision {
        let (source, destination) = (bits(facts.source), bits(facts.destination));
        let mut decision = Decision::default();
        let Some(list) = self.kinds.get(kind_of(facts)) else {
            return decision;
        };
        for &number in list {
            let number = usize::from(number);
            let Some(ready) = self.rules.get_mut(number) else {
                continue;
            };
            if !ready.matches(source, destination, facts) {
                continue;
            }
            if let Some(now) = now {
                if let Some(rate) = ready.rule.rate
                    && !ready.bucket.take(now, rate.per_second, rate.burst)
                {
                    continue;
                }
                ready.count.packets = ready.count.packets.saturating_add(1);
                ready.count.bytes = ready.count.bytes.saturating_add(length as u64);
            }
            decision.log |= ready.rule.log;
            decision.mirror |= ready.rule.mirror;
            if let Some(verdict) = ready.rule.verdict {
                decision.by = Some((number, verdict));
                decision.nat = ready.rule.nat;
                break;
            }
        }
        decision
    }

    /// What [`Self::decide`] would say at `now` (ns) of a packet that comes first.
    #[must_use]
    pub fn peek(&self, facts: &Facts, now: u64) -> Decision {
        let (source, destination) = (bits(facts.source), bits(facts.destination));
        let list = self.kinds.get(kind_of(facts)).into_iter().flatten();
        let mut decision = Decision::default();
        for (number, ready) in
            list.filter_map(|number| Some((*number, self.rules.get(usize::from(*number))?)))
        {
            let has_token = |rate: super::rules::Rate| {
                let mut bucket = ready.bucket;
                bucket.take(now, rate.per_second, rate.burst)
            };
            if !ready.matches(source, destination, facts) || !ready.rule.rate.is_none_or(has_token) {
                continue;
            }
            if let Some(verdict) = ready.rule.verdict {
                decision.by = Some((number.into(), verdict));
                decision.nat = ready.rule.nat;
                break;
            }
        }
        decision
    }
}

impl Ready {
    /// Whether it matches a packet between these addresses.
    fn matches(&self, source: u128, destination: u128, facts: &Facts) -> bool {
        self.source.has(source)
            && self.destination.has(destination)
            && self.from.has(facts.from)
            && self.to.has(facts.to)
            && details(&self.rule, facts)
    }
}

fn forward(rule: &Rule, to: Where) -> Option<Forward> {
    let (Some(port), Where::Named(Named::Vif(to))) = (rule.forward, to) else {
        return None;
    };
    Some(Forward {
        protocol: if rule.protocol == Protocol::Udp { UDP } else { TCP },
        family: rule
            .family
            .or(rule.from.address.map(|prefix| Family::of(prefix.address()))),
        port,
        to,
        to_port: rule.to.ports.only().unwrap_or(port),
    })
}

/// The number of a packet's kind: IPv6 is odd.
const fn kind_of(facts: &Facts) -> usize {
    let is_ipv6 = facts.source.is_ipv6() as usize;
    match facts.protocol {
        TCP => is_ipv6,
        UDP => 2 | is_ipv6,
        ICMP => 4 | is_ipv6,
        ICMP6 => 6 | is_ipv6,
        _ => 8 | is_ipv6,
    }
}

/// Whether a rule can match packets of a kind.
fn can_be(rule: &Rule, kind: usize) -> bool {
    let family = if kind & 1 == 0 { Family::Ipv4 } else { Family::Ipv6 };
    let fits = |prefix: Option<Prefix>| prefix.is_none_or(|prefix| Family::of(prefix.address()) == family);
    let protocol = match rule.protocol {
        Protocol::Any => true,
        Protocol::Tcp(_) => kind >> 1 == 0,
        Protocol::Udp => kind >> 1 == 1,
        Protocol::Icmp(_) => kind == 4,
        Protocol::Icmp6(_) => kind == 7,
        Protocol::Number(_) => kind >> 1 == 4,
    };
    protocol
        && rule.family.is_none_or(|wanted| wanted == family)
        && fits(rule.from.address)
        && fits(rule.to.address)
}

/// Whether what the lists and the masks leave open is as the rule wants it.
fn details(rule: &Rule, facts: &Facts) -> bool {
    let state = match rule.states.is_empty() {
        true => facts.state == State::New,
        false => rule.states.has(facts.state),
    };
    let has = |ranges: &[(u16, u16)], port| {
        ranges.is_empty()
            || ranges
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&port))
    };
    let ports = |source, destination| {
        has(rule.from.ports.ranges(), source) && has(rule.to.ports.ranges(), destination)
    };
    let transport = match (rule.protocol, facts.transport) {
        (Protocol::Any, _) => true,
        (
            Protocol::Tcp(wanted),
            Transport::Tcp {
                source,
                destination,
                flags,
            },
        ) => flags & wanted.set == wanted.set && flags & wanted.clear == 0 && ports(source, destination),
        (Protocol::Udp, Transport::Udp { source, destination }) => ports(source, destination),
        (Protocol::Icmp(message) | Protocol::Icmp6(message), Transport::Icmp { kind, code, .. }) => {
            match message {
                Message::Any => true,
                Message::Type(wanted) => kind == wanted,
                Message::Code(wanted, wanted_code) => kind == wanted && code == wanted_code,
            }
        }
        (Protocol::Number(number), _) => facts.protocol == number,
        (Protocol::Tcp(_) | Protocol::Udp | Protocol::Icmp(_) | Protocol::Icmp6(_), _) => false,
    };
    state
        && transport
        && rule.from.mac.is_none_or(|mac| mac == facts.mac)
        && rule.forward.is_none_or(|port| facts.forwarded == Some(port))
}

#[cfg(test)]
mod tests;
