//! What a VFR takes over from a predecessor by a [`Ledger`], and writes down for a successor.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::vec::Vec;

use super::{Net, UPLINK, Vfr, Way, is_hosts};
use crate::vfr::classify::{Count, Facts, PortId, Side};
use crate::vfr::flow::{Flow, Key};
use crate::vfr::ledger::{self, Book, COUNTS, Counts, Kept, Ledger, Record, Written};
use crate::vfr::packet::{About, ICMP, ICMP6, TCP, Transport, UDP};
use crate::vfr::rules::State;

/// How often counters are written, and flows looked at that may have ended, in nanoseconds.
pub(super) const NOW_AND_THEN: u64 = 10_000_000_000;
/// How long what a predecessor left waits for VIFs, uplink and rules to come, in nanoseconds.
const WAIT: u64 = 300_000_000_000;

/// What a predecessor left whose ends are not all there yet.
#[derive(Debug, Default)]
pub(super) struct Left {
    flows: Vec<(usize, Kept)>,
    counts: Vec<(usize, Counts)>,
    /// When it is given up.
    until: u64,
}

impl Left {
    /// Whether there is none, or none any more.
    pub(super) const fn is_empty(&self) -> bool {
        self.flows.is_empty() && self.counts.is_empty()
    }
}

/// Where counters of a network's rules are written down.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The network and its rules.
    digest: u64,
    /// For each [`COUNTS`] rules the slot, and the sum of what it says.
    slots: Vec<(Option<usize>, u64)>,
}

impl Vfr {
    /// Takes over what a predecessor left at `now` (ns, by the predecessor's clock), and writes down there from now on; once, before
    /// packets come. A flow goes on when its VIFs and the uplink with the same address are there, whichever come first, and its next packet
    /// is held against the rules; counters go on when the same rules are set.
    pub fn adopt(&mut self, ledger: Box<dyn Ledger>, now: u64) {
        self.now = now;
        self.changed();
        let (mut book, found) = Book::open(ledger);
        let mut flows: BTreeMap<Key, (usize, Kept)> = BTreeMap::new();
        self.left.until = now.saturating_add(WAIT);
        for (slot, record) in found {
            match record {
                Record::Counts(counts) => self.left.counts.push((slot, counts)),
                Record::Flow(mut kept) => {
                    let latest = kept.until.saturating_add(kept.progress.grace());
                    kept.until = latest.min(now.saturating_add(kept.progress.patience()));
                    let older = match flows.get(&kept.original) {
                        _ if kept.until <= now => Some(slot),
                        Some((_, other)) if !kept.is_newer(other) => Some(slot),
                        Some(_) | None => flows.insert(kept.original, (slot, kept)).map(|(slot, _)| slot),
                    };
                    if let Some(slot) = older {
                        book.clear(slot);
                    }
                }
            }
        }
        self.left.flows = flows.into_values().collect();
        *self.flows.book() = Some(book);
        self.claim();
        let nets = self.networks().map(|(id, _)| id).collect::<Vec<_>>();
        for id in nets {
            if let Some(Some(net)) = self.nets.get_mut(usize::from(id.0)) {
                claim_counts(net, &mut self.left, self.flows.book());
            }
        }
    }

    /// Takes over what has all its ends by now.
    pub(super) fn claim(&mut self) {
        for (slot, kept) in core::mem::take(&mut self.left.flows) {
            let Some(flow) = self.believed(slot, &kept) else {
                self.left.flows.push((slot, kept));
                continue;
            };
            let holds_port = flow.nat.is_none_or(|port| {
                let ports = self.flows.ports();
                ports.take_this(flow.original.protocol, port, flow.from).is_ok()
            });
            let is_there = holds_port && self.flows.begin(flow, self.now).is_ok();
            if !is_there {
                self.clear_slot(slot);
            }
        }
    }

    pub(super) fn clear_slot(&mut self, slot: usize) {
        if let Some(book) = self.flows.book() {
            book.clear(slot);
        }
    }

    /// The flow that a record tells of, if it could have come about here. That the rules allow it is asked with its next packet.
    fn believed(&self, slot: usize, kept: &Kept) -> Option<Flow> {
        let (original, reply) = (kept.original, kept.reply);
        let port = |is_uplink, address| match is_uplink {
            true => (is_hosts(address) && !self.is_inside(address) && !self.is_own(UPLINK, address))
                .then_some(UPLINK),
            false => self.homes.get(&address).copied(),
        };
        let from = port(kept.is_from_uplink, original.source)?;
        let to = port(kept.is_to_uplink, reply.source)?;
        let is_forwarded = self.is_own(UPLINK, original.destination);
        let reached = (original.destination, original.destination_port);
        let source = (original.source, original.source_port);
        let nat = ((reply.destination, reply.destination_port) != source).then_some(reply.destination_port);
        let is_right = match nat {
            Some(_) => {
                self.own_address(UPLINK, original.source) == Some(reply.destination)
                    && from != UPLINK
                    && (to == UPLINK) != is_forwarded
            }
            None => from != to,
        };
        let is_right = is_right
            && (is_forwarded || (reply.source, reply.source_port) == reached)
            && (from, to) != (UPLINK, UPLINK)
            && !(is_forwarded && to == UPLINK)
            && self.who(from, to) == kept.who;
        let transport = match original.protocol {
            TCP => Transport::Tcp {
                source: original.source_port,
                destination: reply.source_port,
                flags: kept.first & 0x3f,
            },
            UDP => Transport::Udp {
                source: original.source_port,
                destination: reply.source_port,
            },
            ICMP | ICMP6 => Transport::Icmp {
                kind: if original.source.is_ipv6() { 128 } else { 8 },
                code: kept.first,
                about: About::EchoRequest(original.source_port),
            },
            _ => Transport::Other,
        };
        is_right.then_some(Flow {
            original,
            reply,
            from,
            to,
            facts: Facts {
                from: self.side(from),
                to: self.side(to),
                mac: kept.mac,
                source: original.source,
                destination: reply.source,
                protocol: original.protocol,
                transport,
                state: State::New,
                forwarded: is_forwarded.then_some(original.destination_port),
            },
            // Not that of the rules as they are, however often they change.
            generation: self.generation.wrapping_sub(1),
            mirror: false,
            nat,
            owner: owner(from, to),
            progress: kept.progress,
            until: kept.until,
            first: kept.first,
            who: kept.who,
            written: Written {
                slot: Some(slot),
                until: kept.until,
                sequence: kept.sequence,
            },
        })
    }

    /// What the ends of a flow are made of, shortened.
    pub(super) fn who(&self, from: PortId, to: PortId) -> u32 {
        let own = |port| match self.vif(port) {
            Some(vif) => (vif.mac.0, vif.name.as_str()),
            None => ([0; 6], ""),
        };
        let ((a, b), (c, d)) = (own(from), own(to));
        let [low @ .., _, _, _, _] = ledger::digest(&[&a, b.as_bytes(), &c, d.as_bytes()]).to_le_bytes();
        u32::from_le_bytes(low)
    }

    /// Writes counters that have changed, and gives up what nobody came for.
    pub(super) fn keep_counts(&mut self, now: u64) {
        if !self.left.is_empty() && now >= self.left.until {
            let left = core::mem::take(&mut self.left);
            let flows = left.flows.iter().map(|(slot, _)| *slot);
            for slot in flows.chain(left.counts.iter().map(|(slot, _)| *slot)) {
                self.clear_slot(slot);
            }
        }
        let Some(book) = self.flows.book() else {
            return;
        };
        for net in self.nets.iter_mut().flatten() {
            let all: Vec<Count> = net.rules.iter().map(|(_, count)| count).collect();
            net.places.slots.resize(all.len().div_ceil(COUNTS), (None, 0));
            for (number, (some, (slot, written))) in
                (0_u16..).zip(all.chunks(COUNTS).zip(&mut net.places.slots))
            {
                let sum = some
                    .iter()
                    .fold(0_u64, |sum, count| sum.wrapping_add(count.packets));
                if sum == *written {
                    continue;
                }
                let mut counts = Counts {
                    rules: net.places.digest,
                    first: number.saturating_mul(4),
                    counts: [Count::default(); COUNTS],
                };
                for (place, count) in counts.counts.iter_mut().zip(some) {
                    *place = *count;
                }
                *slot = book.keep_counts(&counts, *slot);
                *written = sum;
            }
        }
    }
}

/// The VIF of whose share a flow is, and whether that one began it.
pub(super) fn owner(from: PortId, to: PortId) -> (PortId, bool) {
    if from == UPLINK { (to, false) } else { (from, true) }
}

/// Gives back the slots of a network's counters.
pub(super) fn forget_counts(net: &mut Net, book: &mut Option<Book>) {
    let slots = core::mem::take(&mut net.places.slots);
    if let Some(book) = book {
        for slot in slots.into_iter().filter_map(|(slot, _)| slot) {
            book.clear(slot);
        }
    }
}

/// Gives a network's rules the counters that were left of them.
pub(super) fn claim_counts(net: &mut Net, left: &mut Left, book: &mut Option<Book>) {
    let mut text = net.network.name.as_str().to_string();
    for (rule, _) in net.rules.iter() {
        text.push('\n');
        text.push_str(&rule.to_string());
    }
    let digest = ledger::digest(&[text.as_bytes()]);
    let count = net.rules.iter().count();
    net.places.digest = digest;
    net.places.slots = alloc::vec![(None, 0); count.div_ceil(COUNTS)];
    left.counts.retain(|(slot, counts)| {
        if counts.rules != digest {
            return true;
        }
        let first = usize::from(counts.first);
        let place = net.places.slots.get_mut(first / COUNTS);
        match place.filter(|(taken, _)| taken.is_none() && first.is_multiple_of(COUNTS)) {
            Some(place) => {
                let sum = counts.counts.iter();
                let sum = sum.fold(0_u64, |sum, count| sum.wrapping_add(count.packets));
                *place = (Some(*slot), sum);
                for (rule, count) in (first..).zip(counts.counts) {
                    net.rules.set_count(rule, count);
                }
            }
            None => {
                if let Some(book) = book {
                    book.clear(*slot);
                }
            }
        }
        false
    });
}

/// Whether a network lets packets go to the uplink and come from there.
pub(super) fn has_way(net: &Net, facts: &Facts) -> bool {
    net.network.uplink != Way::None || (facts.from != Side::Uplink && facts.to != Side::Uplink)
}
