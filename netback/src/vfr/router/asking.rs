//! What the rules say of a packet, and what its sender is told.

use core::net::IpAddr;

use super::{Frame, Notes, Vfr, Way, kept};
use crate::vfr::classify::{Decision, Facts, NetworkId, Side};
use crate::vfr::made;
use crate::vfr::packet::{About, Ip, TCP, Transport};
use crate::vfr::reason::Reason;
use crate::vfr::rules::{State, Verdict};

/// How many errors and resets a port is sent in a second.
const ERRORS: u32 = 100;

impl Vfr {
    /// Asks the rules of the networks at both ends; whoever does not accept decides. Who reaches a forwarded port from inside, by the
    /// uplink's address `asked`, is asked about as if he went out and came in again. Without a time it is about what was decided before.
    pub(super) fn decide(
        &mut self,
        facts: &Facts,
        asked: IpAddr,
        frame: &Frame<'_>,
        now: Option<u64>,
        notes: &mut Notes,
    ) -> Result<Decision, Reason> {
        let legs = legs(facts, asked);
        let mut sum = Decision::default();
        notes.decided = [None; 2];
        for ((id, facts), decided) in legs.into_iter().flatten().zip(&mut notes.decided) {
            let Some(Some(net)) = self.nets.get_mut(usize::from(id.0)) else {
                continue;
            };
            if !kept::has_way(net, &facts) {
                return Err(Reason::NoRoute);
            }
            let decision = match now {
                Some(now) if frame.is_dry => net.rules.peek(&facts, now),
                _ => net.rules.decide(&facts, frame.length, now),
            };
            notes.log |= decision.log && now.is_some();
            notes.mirror |= decision.mirror && now.is_some();
            sum.mirror |= decision.mirror;
            if decision.by.is_some() || facts.state == State::New {
                *decided = Some((id, decision.by));
            }
            match decision.by {
                Some((_, Verdict::Accept)) => {}
                Some((_, Verdict::Drop)) => return Err(Reason::Rule),
                Some((_, Verdict::Reject)) => return Err(Reason::Rejected),
                // Of a packet of a flow the other network's rules may say something still.
                None if facts.state != State::New => {}
                None => return Err(Reason::NoRule),
            }
            sum.nat |= decision.nat || (net.network.uplink == Way::Nat && facts.to == Side::Uplink);
        }
        if is_hairpin(facts) {
            // The answers come this way anyhow, but for one's own.
            sum.nat = facts.from == facts.to;
        }
        Ok(sum)
    }

    /// Tells the sender, if the rules want that.
    pub(super) fn refuse<T>(&mut self, reason: Reason, frame: &Frame<'_>, ip: &Ip) -> Result<T, Reason> {
        if reason == Reason::Rejected {
            if ip.protocol == TCP {
                let macs = self.own_mac(frame.from).map(|own| (own, frame.packet.source_mac));
                if self.may_tell(frame) {
                    let reset = macs.and_then(|macs| made::reset(macs, frame.header, ip));
                    self.make(frame.from, reset);
                }
            } else {
                // Communication administratively prohibited, in both versions.
                self.tell(frame, ip, (3, 13), (1, 1));
            }
        }
        Err(reason)
    }

    pub(super) fn may_tell(&mut self, frame: &Frame<'_>) -> bool {
        if frame.is_dry {
            return false;
        }
        self.port_mut(frame.from)
            .is_some_and(|port| port.errors.take(frame.now, ERRORS, ERRORS))
    }

    /// Sends the sender an ICMP error, of the type and code for IPv4 or for IPv6; never about an error.
    pub(super) fn tell(&mut self, frame: &Frame<'_>, ip: &Ip, v4: (u8, u8), v6: (u8, u8)) {
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
        let error = own.and_then(|(mac, address)| {
            let macs = (mac, frame.packet.source_mac);
            made::error(macs, address, frame.header, ip, kind, code)
        });
        self.make(frame.from, error);
    }
}

/// Whether a packet reaches a forwarded port from inside.
fn is_hairpin(facts: &Facts) -> bool {
    facts.forwarded.is_some() && facts.from != Side::Uplink
}

/// Whose rules are asked about a packet, and what they see of it.
fn legs(facts: &Facts, asked: IpAddr) -> [Option<(NetworkId, Facts)>; 2] {
    let network = |side| match side {
        Side::Vif(_, network) => Some(network),
        Side::Uplink => None,
    };
    let (first, second) = (network(facts.from), network(facts.to));
    let (mut out, mut into) = (*facts, *facts);
    let mut second = second.filter(|second| Some(*second) != first);
    if is_hairpin(facts) {
        out.to = Side::Uplink;
        out.destination = asked;
        out.transport = reach(facts.transport, facts.forwarded.unwrap_or_default());
        out.forwarded = None;
        into.from = Side::Uplink;
        second = network(facts.to);
    }
    [first.map(|id| (id, out)), second.map(|id| (id, into))]
}

/// The transport header as it will be with another destination port.
pub(super) const fn reach(transport: Transport, destination: u16) -> Transport {
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
