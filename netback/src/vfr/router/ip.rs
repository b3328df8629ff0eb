//! The way of an IP packet: who may have sent it, the flow that it belongs to or begins, and where it leaves.

use core::net::IpAddr;

use super::asking::reach;
use super::path;
use super::{Exit, Fate, Frame, Notes, UPLINK, Vfr, Way, is_hosts, kept};
use crate::vfr::classify::{Facts, PortId};
use crate::vfr::flow::{Direction, Flow, FlowId, Key, Progress};
use crate::vfr::ledger::Written;
use crate::vfr::nat;
use crate::vfr::packet::{self, About, ETHERNET, ICMP6, Ip, Mac, Transport};
use crate::vfr::reason::Reason;
use crate::vfr::rules::{Family, State};

impl Vfr {
    pub(super) fn ip(&mut self, frame: &mut Frame<'_>, ip: &Ip, notes: &mut Notes) -> Result<Fate, Reason> {
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
            None if !is_hosts(ip.source)
                || is_of_link(ip.source)
                || self.is_inside(ip.source)
                || self.is_own(UPLINK, ip.source) =>
            {
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
        if !is_hosts(ip.destination) || is_of_link(ip.destination) {
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

pub(super) fn set_macs(header: &mut [u8], (source, destination): (Mac, Mac)) {
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

/// Whether an address means somebody on its own link alone (RFC 4291, 2.5.6): no router hands on what is from it or for it.
const fn is_of_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
