//! Who is near: neighbours on the uplink are asked for and believed, and whoever asks is answered.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::{Fate, Frame, Neighbour, UPLINK, Vfr, any_has, link_local};
use crate::vfr::classify::PortId;
use crate::vfr::made;
use crate::vfr::packet::{Arp, ArpOperation, Ip, Mac};
use crate::vfr::reason::Reason;

/// The most neighbours on the uplink that are remembered.
const MAX_NEIGHBOURS: usize = 1024;
/// How long a neighbour is believed to be where he was, in nanoseconds; for as long again he is believed and asked.
const NEIGHBOUR_AGE: u64 = 60_000_000_000;
/// How long to wait before a neighbour is asked for again, in nanoseconds.
const ASK_AGAIN: u64 = 1_000_000_000;

impl Vfr {
    pub(super) fn arp(&mut self, frame: &Frame<'_>, arp: &Arp) -> Result<Fate, Reason> {
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
        let answer = made::arp(mac, arp.target, arp.sender_mac, arp.sender);
        self.make(frame.from, Some(answer));
        Ok(Fate::Taken)
    }

    /// Who answers for an address where `port` asks, and whether it is the VFR itself.
    pub(super) fn who_has(&self, port: PortId, address: IpAddr) -> Option<(Mac, bool)> {
        if self.is_own(port, address) {
            return Some((self.own_mac(port)?, true));
        }
        let vif = self.vif(port)?;
        let own = self.own_mac(port)?;
        if address == IpAddr::V6(link_local(own)) {
            return Some((own, true));
        }
        let home = *self.homes.get(&address)?;
        let (asker, asked) = (vif, self.vif(home)?);
        (home != port && asker.network == asked.network).then_some((asked.mac, false))
    }

    /// Believes a neighbour on the uplink who was asked for.
    pub(super) fn learn(&mut self, address: IpAddr, mac: Mac, now: u64) {
        if let Some(neighbour) = self.neighbours.get_mut(&address)
            && !mac.is_group()
        {
            if !matches!(neighbour, Neighbour::Known(known, ..) if *known == mac) {
                self.paths.forget();
            }
            *neighbour = Neighbour::Known(mac, now, now);
            self.send_unsent(now);
        }
    }

    /// Neighbour and router discovery.
    pub(super) fn neighbour(&mut self, frame: &Frame<'_>, ip: &Ip, kind: u8) -> Result<Fate, Reason> {
        let message = made::neighbours(frame.header, ip).ok_or(Reason::Neighbour)?;
        let target = made::target(message);
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
            133 if frame.from != UPLINK => {
                // Who has no address yet is told with all the others, which is he alone.
                let to = (!source.is_unspecified()).then_some((mac, source));
                if self.may_tell(frame) {
                    self.advertise(frame.from, to);
                }
                Ok(Fate::Taken)
            }
            135 => {
                let target = target.ok_or(Reason::Neighbour)?;
                let (found, is_own) = self.who_has(frame.from, target.into()).ok_or(Reason::Neighbour)?;
                let own = self.own_mac(frame.from).ok_or(Reason::Port)?;
                let answer = made::advertisement(own, found, target, (mac, source), is_own);
                self.make(frame.from, answer);
                Ok(Fate::Taken)
            }
            136 if frame.from == UPLINK => {
                let target = target.filter(|target| !self.is_inside((*target).into()));
                let target = target.ok_or(Reason::Neighbour)?;
                self.learn(target.into(), mac, frame.now);
                Ok(Fate::Taken)
            }
            _ => Err(Reason::Neighbour),
        }
    }

    /// The MAC of the next host on the uplink towards an address.
    pub(super) fn resolve(&mut self, destination: IpAddr, now: u64) -> Result<Mac, Reason> {
        let next = self.next_host(destination)?;
        let known = self.neighbours.get(&next).copied();
        let age = |at| now.saturating_sub(at);
        let asked = match known {
            Some(Neighbour::Known(mac, at, _)) if age(at) < NEIGHBOUR_AGE => return Ok(mac),
            Some(Neighbour::Known(mac, at, asked)) if age(at) < NEIGHBOUR_AGE.saturating_mul(2) => {
                if age(asked) >= ASK_AGAIN {
                    self.neighbours.insert(next, Neighbour::Known(mac, at, now));
                    self.make(UPLINK, self.question(next));
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
                self.make(UPLINK, self.question(next));
            }
        }
        Err(Reason::Unresolved)
    }

    /// Until when [`Self::resolve`] says the same of an address again, and does nothing besides.
    pub(super) fn resolved_until(&self, destination: IpAddr) -> Option<u64> {
        match self.neighbours.get(&self.next_host(destination).ok()?)? {
            Neighbour::Known(_, at, _) => Some(at.saturating_add(NEIGHBOUR_AGE)),
            Neighbour::Asked(_) => None,
        }
    }

    /// Who is next on the uplink towards an address.
    pub(super) fn next_host(&self, destination: IpAddr) -> Result<IpAddr, Reason> {
        let uplink = self.uplink.as_ref().ok_or(Reason::NoRoute)?;
        if any_has(&uplink.addresses, destination) {
            return Ok(destination);
        }
        let mut routers = uplink.routers.iter();
        let router = routers.find(|router| router.is_ipv4() == destination.is_ipv4());
        router.copied().ok_or(Reason::NoRoute)
    }

    /// As [`Self::resolve`], without asking.
    pub(super) fn peek_neighbour(&self, destination: IpAddr, now: u64) -> Result<Mac, Reason> {
        match self.neighbours.get(&self.next_host(destination)?) {
            Some(Neighbour::Known(mac, at, _))
                if now.saturating_sub(*at) < NEIGHBOUR_AGE.saturating_mul(2) =>
            {
                Ok(*mac)
            }
            Some(_) | None => Err(Reason::Unresolved),
        }
    }

    /// Who is known on the uplink, with his MAC and since when (ns), and who is asked for.
    pub fn neighbours(&self) -> impl Iterator<Item = (IpAddr, Option<(Mac, u64)>)> {
        self.neighbours
            .iter()
            .map(|(address, neighbour)| match neighbour {
                Neighbour::Known(mac, at, _) => (*address, Some((*mac, *at))),
                Neighbour::Asked(_) => (*address, None),
            })
    }

    pub(super) fn question(&self, next: IpAddr) -> Option<Vec<u8>> {
        let mac = self.uplink.as_ref()?.mac;
        match (self.own_address(UPLINK, next)?, next) {
            (IpAddr::V4(own), IpAddr::V4(next)) => Some(made::arp(mac, own, Mac::BROADCAST, next)),
            (IpAddr::V6(own), IpAddr::V6(next)) => made::solicitation(mac, own, next),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }
}
