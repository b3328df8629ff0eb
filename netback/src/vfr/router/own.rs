//! What the VFR answers and asks itself: DHCP on both sides, names, router advertisements.

use alloc::vec::Vec;
use core::hash::Hasher;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use siphasher::sip::SipHasher13;

use super::ip::set_macs;
use super::{Fate, Frame, Refused, UPLINK, Uplink, Vfr, Vif, Way, link_local};
use crate::services::dhcp::{self, CLIENT_PORT, LEASE_TIME, Lease, Offer, SERVER_PORT};
use crate::services::dhcp_client::{Change, Client};
use crate::services::dns::{self, Asker, Failure};
use crate::services::ra::{self, Advertisement};
use crate::vfr::checksum;
use crate::vfr::classify::PortId;
use crate::vfr::flow::Key;
use crate::vfr::made;
use crate::vfr::nat::{self, Checksum};
use crate::vfr::packet::{About, ETHERNET, Ip, Mac, TCP, Transport, UDP};
use crate::vfr::reason::Reason;

/// The longest frame that a service reads.
const LONGEST: usize = ETHERNET + 1500;
const SECOND: u64 = 1_000_000_000;

/// The data of a datagram for a service.
enum Data<'a> {
    Whole(&'a [u8]),
    /// The copy has to be this long.
    More(usize),
}

/// The data of a UDP datagram.
fn data<'a>(frame: &'a Frame<'_>, ip: &Ip) -> Result<Data<'a>, Reason> {
    if ip.end > LONGEST {
        return Err(Reason::Service);
    }
    let Some(datagram) = frame.header.get(ip.transport_at..ip.end) else {
        return Ok(Data::More(ip.end));
    };
    let (head, data) = datagram.split_first_chunk::<8>().ok_or(Reason::Service)?;
    if frame.checksum == Checksum::Whole && !head.ends_with(&[0, 0]) {
        let length = u32::try_from(datagram.len()).unwrap_or(0).to_be_bytes();
        let sum = match (ip.source, ip.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                checksum::of(&[&from.octets(), &to.octets(), &length, &[0, UDP], datagram])
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                checksum::of(&[&from.octets(), &to.octets(), &length, &[0, UDP], datagram])
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 1,
        };
        if sum != 0 {
            return Err(Reason::Service);
        }
    }
    Ok(Data::Whole(data))
}

/// The ports of a datagram.
pub(super) const fn ports(ip: &Ip) -> Option<(u16, u16)> {
    match ip.transport {
        Transport::Udp { source, destination } => Some((source, destination)),
        Transport::Tcp { .. } | Transport::Icmp { .. } | Transport::Other | Transport::Fragment => None,
    }
}

impl Vfr {
    /// Has the uplink with this MAC get its address by DHCP; `resolvers` are asked for names, and if there are none, those that DHCP tells.
    /// It begins with the next [`Self::tick`], or goes on if it was told the same before.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing has changed then.
    pub fn lease_uplink(&mut self, mac: Mac, resolvers: Vec<IpAddr>) -> Result<(), Refused> {
        let is_same = |(client, told): &(Client, Vec<IpAddr>)| client.mac() == mac && *told == resolvers;
        if self.client.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        self.put_uplink(Some(Uplink {
            mac,
            addresses: Vec::new(),
            routers: Vec::new(),
            resolvers: resolvers.clone(),
        }))?;
        let transaction = u32::try_from(self.random() >> 32).unwrap_or_default();
        self.changed();
        self.client = Some((Client::new(mac, transaction), resolvers));
        Ok(())
    }

    /// Why the address that DHCP told cannot be the uplink's, if that is so.
    #[must_use]
    pub const fn uplink_refused(&self) -> Option<Refused> {
        self.uplink_refused
    }

    /// Until when (ns) a VIF has its address by DHCP, if it has asked.
    #[must_use]
    pub fn lease(&self, vif: PortId) -> Option<u64> {
        self.port(vif)?.lease
    }

    /// A number that nobody else knows.
    fn random(&mut self) -> u64 {
        let [a, b] = self.secret;
        let mut hasher = SipHasher13::new_with_keys(a, b);
        // The flow table's hash has the same key: what it hashes is never so short.
        self.drawn = self.drawn.wrapping_add(1);
        hasher.write_u64(self.drawn);
        hasher.finish()
    }

    /// What is to be done for the services at `now` (ns), and when next.
    pub(super) fn serve(&mut self, now: u64) -> Option<u64> {
        self.ask_for_uplink(now);
        let (again, over) = self.questions.tick(now);
        for port in again {
            self.send_question(port, now);
        }
        self.close(over);
        let has_ipv6 = |net: &super::Net| net.network.gateways.iter().any(|(gateway, _)| gateway.is_ipv6());
        let advertises = self.nets.iter().flatten().any(has_ipv6);
        if advertises && now >= self.next_advertisement {
            self.next_advertisement = now.saturating_add(ra::INTERVAL);
            let all: Vec<_> = self.vifs().map(|(port, _)| port).collect();
            for port in all {
                self.advertise(port, None);
            }
        }
        let client = self.client.as_ref().map(|(client, _)| client.next());
        let advertisement = advertises.then_some(self.next_advertisement);
        [client, self.questions.next(), advertisement]
            .into_iter()
            .flatten()
            .min()
    }

    /// DHCP, if it is that: who asks has no address yet, so that it comes before the questions who may have sent what.
    pub(super) fn dhcp(&mut self, frame: &Frame<'_>, ip: &Ip) -> Result<Option<Fate>, Reason> {
        let port = match (frame.from, ports(ip)) {
            (UPLINK, Some((SERVER_PORT, CLIENT_PORT))) if self.client.is_some() => UPLINK,
            (UPLINK, _) => return Ok(None),
            (port, Some((CLIENT_PORT, SERVER_PORT))) => port,
            _ => return Ok(None),
        };
        if port != UPLINK {
            return self.serve_dhcp(frame, ip);
        }
        let data = match data(frame, ip)? {
            Data::Whole(data) => data,
            Data::More(length) => return Ok(Some(Fate::More(length))),
        };
        let change = self
            .client
            .as_mut()
            .and_then(|(client, _)| client.take(data, frame.packet.source_mac, frame.now));
        self.change_uplink(change);
        self.ask_for_uplink(frame.now);
        Ok(Some(Fate::Taken))
    }

    fn serve_dhcp(&mut self, frame: &Frame<'_>, ip: &Ip) -> Result<Option<Fate>, Reason> {
        let Some((offer, vif)) = self.offer(frame.from) else {
            return Ok(None);
        };
        let (IpAddr::V4(from), IpAddr::V4(to)) = (ip.source, ip.destination) else {
            return Ok(None);
        };
        let is_right = (from.is_unspecified() || from == offer.address)
            && (to == Ipv4Addr::BROADCAST || to == offer.gateway);
        if !is_right {
            return Ok(None);
        }
        let own = self.own_mac(frame.from).ok_or(Reason::Port)?;
        let (vif, data) = match data(frame, ip)? {
            Data::Whole(data) => (vif.mac, data),
            Data::More(length) => return Ok(Some(Fate::More(length))),
        };
        let answer = dhcp::answer(data, &offer).ok_or(Reason::Service)?;
        let until = frame
            .now
            .saturating_add(u64::from(LEASE_TIME).saturating_mul(SECOND));
        if let Some(port) = self.port_mut(frame.from) {
            match answer.lease {
                Lease::Same => {}
                Lease::Begins => port.lease = Some(until),
                Lease::Ends => port.lease = None,
            }
        }
        let mac = if answer.to.is_broadcast() {
            Mac::BROADCAST
        } else {
            vif
        };
        let sent = answer.message.and_then(|message| {
            let from = (offer.gateway.into(), SERVER_PORT);
            made::udp((own, mac), from, (answer.to.into(), CLIENT_PORT), &message)
        });
        self.make(frame.from, sent);
        Ok(Some(Fate::Taken))
    }

    /// What a VIF is told by DHCP, if its network does so.
    fn offer(&self, port: PortId) -> Option<(Offer, &Vif)> {
        let vif = self.vif(port)?;
        let network = &self.net(vif.network)?.network;
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        };
        let mut gateways = network.gateways.iter();
        let (gateway, length) = gateways.find_map(|(gateway, length)| Some((v4(gateway)?, *length)))?;
        let offer = Offer {
            mac: vif.mac,
            address: vif.addresses.iter().find_map(v4)?,
            length,
            gateway,
            has_names: network.uplink != Way::None,
            mtu: vif.mtu,
        };
        network.dhcp.then_some((offer, vif))
    }

    /// Has the uplink's client do what is to be done.
    fn ask_for_uplink(&mut self, now: u64) {
        let Some((client, _)) = &mut self.client else {
            return;
        };
        let (sent, change) = client.tick(now);
        self.change_uplink(change);
        let mac = self.uplink.as_ref().map(|uplink| uplink.mac);
        let frame = sent.zip(mac).and_then(|(sent, mac)| {
            let (to, to_mac) = sent.destination;
            let from = (sent.source.into(), CLIENT_PORT);
            made::udp((mac, to_mac), from, (to.into(), SERVER_PORT), &sent.message)
        });
        self.make(UPLINK, frame);
    }

    fn change_uplink(&mut self, change: Option<Change>) {
        let (Some(change), Some((_, resolvers)), Some(uplink)) = (change, &self.client, &self.uplink) else {
            return;
        };
        let mut uplink = Uplink {
            mac: uplink.mac,
            addresses: Vec::new(),
            routers: Vec::new(),
            resolvers: resolvers.clone(),
        };
        if let Change::Bound(lease) = change {
            uplink.addresses.push((lease.address.into(), lease.length));
            uplink.routers.extend(lease.router.map(IpAddr::V4));
            if uplink.resolvers.is_empty() {
                uplink
                    .resolvers
                    .extend(lease.resolvers.into_iter().map(IpAddr::V4));
            }
        }
        self.uplink_refused = self.put_uplink(Some(uplink)).err();
    }

    /// A packet of a guest for its gateway itself, that is no question about neighbours.
    pub(super) fn for_gateway(&mut self, frame: &mut Frame<'_>, ip: &Ip) -> Result<Fate, Reason> {
        let own = self.own_mac(frame.from).ok_or(Reason::Port)?;
        if frame.packet.destination_mac != own {
            return Err(Reason::NotForUs);
        }
        match ip.transport {
            Transport::Udp {
                source,
                destination: dns::PORT,
            } => self.ask(frame, ip, (own, source)),
            Transport::Tcp {
                destination: dns::PORT,
                ..
            } if ip.protocol == TCP => {
                // Questions come by UDP alone; who tries TCP need not wait to learn it.
                if self.may_tell(frame) {
                    let reset = made::reset((own, frame.packet.source_mac), frame.header, ip);
                    self.make(frame.from, reset);
                }
                Err(Reason::Gateway)
            }
            Transport::Tcp { .. }
            | Transport::Udp { .. }
            | Transport::Icmp { .. }
            | Transport::Other
            | Transport::Fragment => Self::ping(own, frame, ip),
        }
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

    /// A guest's question for a name.
    fn ask(&mut self, frame: &Frame<'_>, ip: &Ip, (own, source): (Mac, u16)) -> Result<Fate, Reason> {
        let message = match data(frame, ip)? {
            Data::Whole(data) => data,
            Data::More(length) => return Ok(Fate::More(length)),
        };
        let (id, end) = dns::read(message)?;
        let vif = self.vif(frame.from).ok_or(Reason::Port)?;
        let network = self.net(vif.network).ok_or(Reason::Port)?;
        let failure = match network.network.uplink {
            Way::None => Some(Failure::Refused),
            Way::Nat | Way::Routed if self.resolvers().is_empty() => Some(Failure::Server),
            Way::Nat | Way::Routed => None,
        };
        let asker = Asker {
            vif: frame.from,
            from: (ip.source, source),
            gateway: ip.destination,
        };
        if let Some(failure) = failure {
            if self.may_tell(frame) {
                let answer = dns::failure(message, end, failure);
                let macs = (own, frame.packet.source_mac);
                let answer = made::udp(macs, (asker.gateway, dns::PORT), asker.from, &answer);
                self.make(frame.from, answer);
            }
            return Ok(Fate::Taken);
        }
        self.questions.may_ask(&asker, id)?;
        let random = self.random().to_le_bytes();
        let [a, b, c, d, ..] = random;
        let wanted = u16::from_le_bytes([a, b]);
        let port = self.flows.ports().take(UDP, wanted, frame.from)?;
        let new = u16::from_le_bytes([c, d]);
        self.questions
            .open(port, new, asker, (id, end), message, frame.now);
        self.send_question(port, frame.now);
        Ok(Fate::Taken)
    }

    /// Those who can be asked for names.
    fn resolvers(&self) -> Vec<IpAddr> {
        let all = self.uplink.iter().flat_map(|uplink| &uplink.resolvers);
        all.copied()
            .filter(|resolver| self.own_address(UPLINK, *resolver).is_some())
            .collect()
    }

    /// Sends a question to whose turn it is, if his MAC or the router's is known; it is asked for otherwise.
    fn send_question(&mut self, port: u16, now: u64) {
        let resolvers = self.resolvers();
        let turn = self.questions.turn(port, resolvers.len());
        let Some(resolver) = resolvers.get(turn).copied() else {
            return;
        };
        let own = self.own_mac(UPLINK).zip(self.own_address(UPLINK, resolver));
        let (Some((mac, address)), Ok(next)) = (own, self.resolve(resolver, now)) else {
            return;
        };
        let Some(open) = self.questions.get(port) else {
            return;
        };
        let frame = made::udp((mac, next), (address, port), (resolver, dns::PORT), &open.message);
        self.questions.sent(port, resolver);
        self.make(UPLINK, frame);
    }

    /// Sends what has waited for a neighbour.
    pub(super) fn send_unsent(&mut self, now: u64) {
        for port in self.questions.unsent() {
            self.send_question(port, now);
        }
    }

    /// An answer to a question for a name, if it is one.
    pub(super) fn named_answer(&mut self, frame: &Frame<'_>, ip: &Ip) -> Result<Option<Fate>, Reason> {
        let Some((source, port)) = ports(ip) else {
            return Ok(None);
        };
        if !self.questions.is_asked((ip.source, source), port) || !self.is_own(UPLINK, ip.destination) {
            return Ok(None);
        }
        let message = match data(frame, ip)? {
            Data::Whole(data) => data,
            Data::More(length) => return Ok(Some(Fate::More(length))),
        };
        let (asker, answer) = self.questions.answer(port, message)?;
        self.close(Vec::from([(port, asker)]));
        let macs = self
            .own_mac(asker.vif)
            .zip(self.vif(asker.vif).map(|vif| vif.mac));
        let answer = macs.and_then(|macs| made::udp(macs, (asker.gateway, dns::PORT), asker.from, &answer));
        self.make(asker.vif, answer);
        Ok(Some(Fate::Taken))
    }

    /// Gives back the ports of questions that are not open any more.
    fn close(&mut self, questions: Vec<(u16, Asker)>) {
        for (port, asker) in questions {
            self.flows.ports().give_back(UDP, port, asker.vif);
        }
    }

    /// Gives up the questions of a VIF, or all.
    pub(super) fn forget_questions(&mut self, vif: Option<PortId>) {
        let gone = self.questions.forget(vif);
        self.close(gone);
    }

    /// Tells a VIF of IPv6: to the one who asked, or to all.
    pub(super) fn advertise(&mut self, port: PortId, to: Option<(Mac, Ipv6Addr)>) {
        let told = self.vif(port).and_then(|vif| {
            let network = &self.net(vif.network)?.network;
            let mut gateways = network.gateways.iter();
            let (gateway, length) = gateways.find_map(|(gateway, length)| match gateway {
                IpAddr::V6(gateway) => Some((*gateway, *length)),
                IpAddr::V4(_) => None,
            })?;
            let told = Advertisement {
                mac: network.mac,
                link_local: link_local(network.mac),
                gateway,
                length,
                has_names: network.uplink != Way::None,
                mtu: vif.mtu,
            };
            told.frame(to)
        });
        self.make(port, told);
    }
}
