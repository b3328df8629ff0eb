//! What a VFR is told: its uplink, networks, VIFs and rules, which come, change and go while packets pass.

use alloc::vec::Vec;
use core::net::IpAddr;

use super::kept::{self, Places};
use super::{MAX_ADDRESSES, Net, Network, Port, Refused, UPLINK, Uplink, Vfr, Vif, any_has, is_hosts};
use crate::vfr::classify::{Named, NetworkId, PortId, Rules, Unfit};
use crate::vfr::packet::Mac;
use crate::vfr::rules::{Name, Prefix, Rule};

/// Whether an address is of both.
fn overlap(some: &[(IpAddr, u8)], others: &[(IpAddr, u8)]) -> bool {
    some.iter().any(|(base, _)| any_has(others, *base)) || others.iter().any(|(base, _)| any_has(some, *base))
}

/// Whether a host can have the MAC.
const fn is_one_hosts(mac: Mac) -> bool {
    !mac.is_group() && !matches!(mac.0, [0, 0, 0, 0, 0, 0])
}

/// The first free place among those from `first` on, if there are not too many.
fn place<T>(all: &mut Vec<Option<T>>, first: usize) -> Result<u16, Refused> {
    let free = all.iter().skip(first).position(Option::is_none);
    let place = free.map_or(all.len(), |free| free.saturating_add(first));
    let id = u16::try_from(place).map_err(|_| Refused::TooMany)?;
    if free.is_none() {
        all.push(None);
    }
    Ok(id)
}

impl Vfr {
    /// Sets the uplink, or takes it away; DHCP does not do so any more. If it has another MAC or other addresses than before, its
    /// neighbours are forgotten, and the flows that it carried end.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing has changed then.
    pub fn set_uplink(&mut self, uplink: Option<Uplink>) -> Result<(), Refused> {
        self.put_uplink(uplink)?;
        self.changed();
        self.client = None;
        self.uplink_refused = None;
        Ok(())
    }

    /// As [`Self::set_uplink`], whoever told it.
    pub(super) fn put_uplink(&mut self, uplink: Option<Uplink>) -> Result<(), Refused> {
        if let Some(uplink) = &uplink {
            self.check_uplink(uplink)?;
        }
        if self.uplink == uplink {
            return Ok(());
        }
        self.changed();
        let carries = |uplink: &Option<Uplink>| uplink.as_ref().map(|own| (own.mac, own.addresses.clone()));
        if carries(&self.uplink) != carries(&uplink) {
            self.neighbours.clear();
            self.forget_questions(None);
            self.flows
                .end_where(|flow| flow.from == UPLINK || flow.to == UPLINK || flow.facts.forwarded.is_some());
        }
        self.uplink = uplink;
        self.uplink_changes = self.uplink_changes.wrapping_add(1);
        self.claim();
        Ok(())
    }

    fn check_uplink(&self, uplink: &Uplink) -> Result<(), Refused> {
        if uplink.addresses.len() > MAX_ADDRESSES
            || uplink.routers.len() > 2
            || uplink.resolvers.len() > MAX_ADDRESSES
        {
            return Err(Refused::TooMany);
        }
        let others = uplink.routers.iter().chain(&uplink.resolvers);
        let others = others.map(|other| (*other, 0));
        for (address, length) in uplink.addresses.iter().copied().chain(others) {
            let is_good = is_hosts(address) && Prefix::new(address, length).is_some();
            if !is_good || self.is_inside(address) {
                return Err(Refused::Address(address));
            }
        }
        let mut inside = self.nets.iter().flatten().flat_map(|net| &net.network.gateways);
        if let Some((gateway, _)) = inside.find(|(gateway, _)| any_has(&uplink.addresses, *gateway)) {
            return Err(Refused::Address(*gateway));
        }
        if !is_one_hosts(uplink.mac) {
            return Err(Refused::Mac);
        }
        Ok(())
    }

    /// Adds a network, without rules: nothing is accepted.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing has changed then.
    pub fn add_network(&mut self, network: Network) -> Result<NetworkId, Refused> {
        self.check_network(&network, None)?;
        let id = place(&mut self.nets, 0)?;
        if let Some(place) = self.nets.get_mut(usize::from(id)) {
            *place = Some(Net {
                network,
                rules: Rules::default(),
                places: Places::default(),
            });
        }
        self.end_strangers();
        self.find_names();
        Ok(NetworkId(id))
    }

    /// Changes a network: gateways, MAC, the way to the uplink, services. Its VIFs and rules stay; connections that it would not have
    /// any more, or in another way, end with their next packet.
    ///
    /// # Errors
    ///
    /// [`Refused`], also if a VIF has an address that would not be the network's; nothing has changed then.
    pub fn change_network(&mut self, id: NetworkId, network: Network) -> Result<(), Refused> {
        self.check_network(&network, Some(id))?;
        for (_, vif) in self.vifs().filter(|(_, vif)| vif.network == id) {
            let stays = |address: &&IpAddr| {
                any_has(&network.gateways, **address)
                    && network.gateways.iter().all(|(gateway, _)| gateway != *address)
            };
            if let Some(address) = vif.addresses.iter().find(|address| !stays(address)) {
                return Err(Refused::Address(*address));
            }
        }
        let net = self.nets.get_mut(usize::from(id.0)).and_then(Option::as_mut);
        let net = net.ok_or(Refused::NoNetwork)?;
        net.network = network;
        self.generation = self.generation.wrapping_add(1);
        self.end_strangers();
        self.find_names();
        Ok(())
    }

    /// Ends the flows of whom was outside, and has an address of the inside now.
    fn end_strangers(&mut self) {
        let nets = &self.nets;
        let is_inside = |address| nets.iter().flatten().any(|net| net.has(address));
        self.flows.end_where(|flow| {
            (flow.from == UPLINK && is_inside(flow.original.source))
                || (flow.to == UPLINK && is_inside(flow.reply.source))
        });
    }

    /// What is wrong with a network that is to be there beside all others but `id`.
    fn check_network(&self, network: &Network, id: Option<NetworkId>) -> Result<(), Refused> {
        let is_taken = |named| id.is_none_or(|id| named != Named::Network(id));
        if self.named(&network.name).is_some_and(is_taken) {
            return Err(Refused::NameTaken);
        }
        if network.gateways.len() > 2 {
            return Err(Refused::TooMany);
        }
        for &(address, length) in &network.gateways {
            let overlaps = |others: &[(IpAddr, u8)]| overlap(&[(address, length)], others);
            let uplink = self.uplink.as_ref();
            let outside = uplink.is_some_and(|uplink| overlaps(&uplink.addresses));
            let mut others = self.networks().filter(|(other, _)| Some(*other) != id);
            let is_good = is_hosts(address) && Prefix::new(address, length).is_some();
            if !is_good || outside || others.any(|(_, other)| overlaps(&other.gateways)) {
                return Err(Refused::Address(address));
            }
        }
        let mut vifs = self.vifs().filter(|(_, vif)| Some(vif.network) == id);
        if !is_one_hosts(network.mac) || vifs.any(|(_, vif)| vif.mac == network.mac) {
            return Err(Refused::Mac);
        }
        Ok(())
    }

    /// Takes a network away, with its rules and VIFs and their flows; whether there was one. Its number may be another's later.
    pub fn remove_network(&mut self, id: NetworkId) -> bool {
        let vifs: Vec<_> = self.vifs().filter(|(_, vif)| vif.network == id).collect();
        let vifs: Vec<_> = vifs.into_iter().map(|(port, _)| port).collect();
        for vif in vifs {
            self.remove_vif(vif);
        }
        let Some(mut net) = self.nets.get_mut(usize::from(id.0)).and_then(Option::take) else {
            return false;
        };
        kept::forget_counts(&mut net, self.flows.book());
        self.find_names();
        true
    }

    /// Adds a VIF. Rules that name it mean it from now on.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing has changed then.
    pub fn add_vif(&mut self, vif: Vif) -> Result<PortId, Refused> {
        let net = self.net(vif.network).ok_or(Refused::NoNetwork)?;
        if vif.addresses.len() > MAX_ADDRESSES {
            return Err(Refused::TooMany);
        }
        let is_gateways = net.network.mac == vif.mac;
        if !is_one_hosts(vif.mac) || is_gateways || self.vifs().any(|(_, other)| other.mac == vif.mac) {
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
        let id = PortId(place(&mut self.ports, 1)?);
        for &address in &vif.addresses {
            self.homes.insert(address, id);
        }
        if let Some(place) = self.ports.get_mut(usize::from(id.0)) {
            self.vifs_added = self.vifs_added.saturating_add(1);
            *place = Some(Port::new(self.vifs_added, Some(vif)));
        }
        self.find_names();
        self.claim();
        Ok(id)
    }

    /// Takes a VIF away, and ends its flows; whether there was one. Its number may be another's later.
    pub fn remove_vif(&mut self, id: PortId) -> bool {
        if self.vif(id).is_none() {
            return false;
        }
        if let Some(port) = self.ports.get_mut(usize::from(id.0)) {
            *port = None;
        }
        self.homes.retain(|_, home| *home != id);
        self.flows.end_where(|flow| flow.from == id || flow.to == id);
        self.made.retain(|(to, _)| *to != id);
        self.forget_questions(Some(id));
        self.find_names();
        true
    }

    /// Gives a network other rules, whose counters begin at zero. Connections that the new rules would accept go on; the others end with
    /// their next packet. A name that nothing has means nobody, until something has it.
    ///
    /// # Errors
    ///
    /// A name that does not fit; the old rules stay then.
    pub fn set_rules(&mut self, network: NetworkId, rules: Vec<Rule>) -> Result<(), Unfit> {
        let rules = Rules::new(rules, |name| self.named(name))?;
        if let Some(Some(net)) = self.nets.get_mut(usize::from(network.0)) {
            net.rules = rules;
            kept::forget_counts(net, self.flows.book());
            kept::claim_counts(net, &mut self.left, self.flows.book());
            self.generation = self.generation.wrapping_add(1);
            self.find_names();
        }
        Ok(())
    }

    /// Something was changed that packets are decided by, or that is done in time.
    pub(super) const fn changed(&mut self) {
        self.paths.forget();
        self.quiet = None;
    }

    /// Finds out anew whom the names in rules mean, after any change of networks, VIFs or rules. Flows are not asked again: that somebody comes or goes means nothing to others' flows.
    fn find_names(&mut self) {
        self.changed();
        let mut nets = core::mem::take(&mut self.nets);
        let names: alloc::collections::BTreeMap<Name, Named> = nets
            .iter()
            .zip(0..)
            .filter_map(|(net, id)| Some((net.as_ref()?.network.name.clone(), Named::Network(NetworkId(id)))))
            .chain(self.vifs().map(|(id, vif)| (vif.name.clone(), Named::Vif(id))))
            .collect();
        for net in nets.iter_mut().flatten() {
            net.rules.find_names(|name| names.get(name).copied());
        }
        self.asks_later = nets.iter().flatten().any(|net| net.rules.asks_later());
        self.nets = nets;
    }

    /// Who has a name.
    pub(super) fn named(&self, name: &Name) -> Option<Named> {
        let mut vifs = self.vifs();
        let vif = vifs.find_map(|(id, vif)| (vif.name == *name).then_some(Named::Vif(id)));
        vif.or_else(|| {
            let mut nets = self.networks();
            nets.find_map(|(id, network)| (network.name == *name).then_some(Named::Network(id)))
        })
    }
}
