//! What outlives a driver domain: its flows and the counters of its rules, in memory that somebody else lends.
//!
//! A [`Ledger`] is slots of [`SIZE`] bytes. Each holds one record with a format version and a checksum of its own; zeros are none. A flow's record is
//! written when it begins, changes its state or ends, and now and then while it lasts, never for each packet. It is written to a free slot
//! before the old one is cleared, so that at every moment one of them is whole. What a successor reads is as untrusted as a packet:
//! a record says what could be so, and the VFR holds it against what it knows itself.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::hash::Hasher;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use siphasher::sip::SipHasher13;

use super::classify::Count;
use super::flow::{Direction, Flow, Key, Progress};
use super::packet::{ICMP, ICMP6, Mac, TCP, UDP};

/// How long a record is, in bytes: a page of 4096 has 42.
pub const SIZE: usize = 96;
/// How many rules' counters are in one record.
pub const COUNTS: usize = 4;
/// The version of the format.
const VERSION: u8 = 1;
const SECOND: u64 = 1_000_000_000;

/// The kind of a flow's record, and of one of counters.
const FLOW: u8 = 1;
const RULES: u8 = 2;
/// Bits of a flow's record beside its progress: both addresses are IPv6; the first packet came from the uplink; it went there.
const IPV6: u8 = 0x10;
const FROM_UPLINK: u8 = 0x20;
const TO_UPLINK: u8 = 0x40;

/// Slots that survive who writes them.
pub trait Ledger: fmt::Debug {
    /// How many slots there are; always the same.
    fn slots(&self) -> usize;
    /// Copies a slot that there is.
    fn read(&self, slot: usize, record: &mut [u8; SIZE]);
    /// Writes a slot that there is. Who ends in the middle leaves a slot that is neither the old nor the new.
    fn write(&mut self, slot: usize, record: &[u8; SIZE]);
}

/// What a slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A flow.
    Flow(Kept),
    /// Counters.
    Counts(Counts),
}

/// What a record says of a flow; nothing of it has been held against anything but itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How packets of the first one's direction arrive: see [`Flow`].
    pub original: Key,
    /// How answers arrive.
    pub reply: Key,
    /// Whether the first packet came from the uplink.
    pub is_from_uplink: bool,
    /// Whether it went there.
    pub is_to_uplink: bool,
    /// The first packet's source MAC.
    pub mac: Mac,
    /// The first packet's TCP flags, or its ICMP code.
    pub first: u8,
    /// How far it has come.
    pub progress: Progress,
    /// When it ends unless there is a packet, in nanoseconds rounded up to a second.
    pub until: u64,
    /// Whose it is: what its ends are made of, shortened.
    pub who: u32,
    /// Which of two records of the same flow is the newer: one more, around.
    pub sequence: u8,
}

/// What a record says of some rules of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// The network and its rules, by [`digest`].
    pub rules: u64,
    /// The number of the first of them.
    pub first: u16,
    /// Those from there on; zeros where there is none.
    pub counts: [Count; COUNTS],
}

/// A number for what is given: not a secret, and no proof against somebody who wants two to be alike.
#[must_use]
pub fn digest(parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher13::new();
    for part in parts {
        hasher.write_u64(part.len() as u64);
        hasher.write(part);
    }
    hasher.finish()
}

fn checksum(rest: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = digest(&[rest]).to_le_bytes();
    [a, b, c, d]
}

/// Writes parts one after the other.
struct Writer {
    record: [u8; SIZE],
    at: usize,
}

impl Writer {
    /// Behind the checksum, the version and the kind.
    fn new(kind: u8) -> Self {
        let mut writer = Self {
            record: [0; SIZE],
            at: 4,
        };
        writer.put(&[VERSION, kind]);
        writer
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.at.saturating_add(bytes.len());
        if let Some(place) = self.record.get_mut(self.at..end) {
            place.copy_from_slice(bytes);
        }
        self.at = end;
    }

    fn put_address(&mut self, address: IpAddr) {
        let bits = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        self.put(&bits.to_le_bytes());
    }

    fn end(mut self) -> [u8; SIZE] {
        let [_, _, _, _, rest @ ..] = &self.record;
        let sum = checksum(rest);
        self.at = 0;
        self.put(&sum);
        self.record
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn get<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn half(&mut self) -> Option<u16> {
        self.get().map(u16::from_le_bytes)
    }

    fn address(&mut self, is_ipv6: bool) -> Option<IpAddr> {
        let bits = u128::from_le_bytes(self.get()?);
        if is_ipv6 {
            Some(Ipv6Addr::from_bits(bits).into())
        } else {
            Some(Ipv4Addr::from_bits(u32::try_from(bits).ok()?).into())
        }
    }
}

/// The states by their numbers in records.
const STATES: [Progress; 9] = [
    Progress::SynSent,
    Progress::SynReceived,
    Progress::Established,
    Progress::Closing(Direction::Original),
    Progress::Closing(Direction::Reply),
    Progress::Closed,
    Progress::Reset,
    Progress::Unanswered,
    Progress::Answered,
];

impl Record {
    /// The slot that says this.
    #[must_use]
    pub fn encode(&self) -> [u8; SIZE] {
        match self {
            Self::Flow(kept) => kept.encode(),
            Self::Counts(counts) => {
                let mut writer = Writer::new(RULES);
                writer.put(&counts.first.to_le_bytes());
                writer.put(&counts.rules.to_le_bytes());
                for count in counts.counts {
                    writer.put(&count.packets.to_le_bytes());
                    writer.put(&count.bytes.to_le_bytes());
                }
                writer.end()
            }
        }
    }

    /// What a slot says, if it is whole and of this version.
    #[must_use]
    pub fn decode(record: &[u8; SIZE]) -> Option<Self> {
        let (sum, rest) = record.split_first_chunk::<4>()?;
        if *sum != checksum(rest) {
            return None;
        }
        let mut reader = Reader(rest);
        let [version, kind] = reader.get()?;
        match kind {
            _ if version != VERSION => None,
            FLOW => Kept::decode(&mut reader).map(Self::Flow),
            RULES => {
                let first = reader.half()?;
                let rules = u64::from_le_bytes(reader.get()?);
                let mut counts = [Count::default(); COUNTS];
                for count in &mut counts {
                    count.packets = u64::from_le_bytes(reader.get()?);
                    count.bytes = u64::from_le_bytes(reader.get()?);
                }
                Some(Self::Counts(Counts { rules, first, counts }))
            }
            _ => None,
        }
    }
}

impl Kept {
    fn encode(&self) -> [u8; SIZE] {
        let state = STATES.iter().zip(0..).find(|(state, _)| **state == self.progress);
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flag(self.original.source.is_ipv6(), IPV6)
            | flag(self.is_from_uplink, FROM_UPLINK)
            | flag(self.is_to_uplink, TO_UPLINK);
        let mut writer = Writer::new(FLOW);
        let (original, reply) = (&self.original, &self.reply);
        writer.put(&[
            original.protocol,
            flags | state.map_or(0, |(_, number): (_, u8)| number),
            self.first,
            self.sequence,
        ]);
        for port in [
            original.source_port,
            original.destination_port,
            reply.source_port,
            reply.destination_port,
        ] {
            writer.put(&port.to_le_bytes());
        }
        writer.put(&self.mac.0);
        // For more than a hundred years; who runs longer has short memory.
        let seconds = self.until.div_ceil(SECOND);
        writer.put(&u32::try_from(seconds).unwrap_or(u32::MAX).to_le_bytes());
        writer.put(&self.who.to_le_bytes());
        for address in [
            original.source,
            original.destination,
            reply.source,
            reply.destination,
        ] {
            writer.put_address(address);
        }
        writer.end()
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let [protocol, state, first, sequence] = reader.get()?;
        let [a, b, c, d] = [reader.half()?, reader.half()?, reader.half()?, reader.half()?];
        let mac = Mac(reader.get()?);
        let until = u64::from(u32::from_le_bytes(reader.get()?)).saturating_mul(SECOND);
        let who = u32::from_le_bytes(reader.get()?);
        let is_ipv6 = state & IPV6 != 0;
        let mut key = |source_port, destination_port| {
            Some(Key {
                protocol,
                source: reader.address(is_ipv6)?,
                source_port,
                destination: reader.address(is_ipv6)?,
                destination_port,
            })
        };
        let kept = Self {
            original: key(a, b)?,
            reply: key(c, d)?,
            is_from_uplink: state & FROM_UPLINK != 0,
            is_to_uplink: state & TO_UPLINK != 0,
            mac,
            first,
            progress: *STATES.get(usize::from(state & 0xf))?,
            until,
            who,
            sequence,
        };
        kept.is_sound().then_some(kept)
    }

    /// Whether ports and state are those that the protocol can have.
    fn is_sound(&self) -> bool {
        let (original, reply) = (&self.original, &self.reply);
        let ports = [
            original.source_port,
            original.destination_port,
            reply.source_port,
            reply.destination_port,
        ];
        let is_tcp = original.protocol == TCP;
        let is_over_tcp = !matches!(self.progress, Progress::Unanswered | Progress::Answered);
        let has_ports = match original.protocol {
            TCP | UDP => !ports.contains(&0),
            // An echo request's identifier, and its answer's.
            ICMP | ICMP6 => {
                original.source.is_ipv6() == (original.protocol == ICMP6)
                    && (original.destination_port, reply.source_port) == (0, 0)
            }
            _ => ports == [0; 4],
        };
        has_ports && is_tcp == is_over_tcp
    }

    /// What is kept of a flow.
    #[must_use]
    pub const fn of(flow: &Flow, is_from_uplink: bool, is_to_uplink: bool) -> Self {
        Self {
            original: flow.original,
            reply: flow.reply,
            is_from_uplink,
            is_to_uplink,
            mac: flow.facts.mac,
            first: flow.first,
            progress: flow.progress,
            until: flow.until,
            who: flow.who,
            sequence: flow.written.sequence,
        }
    }

    /// Whether this one is newer than another of the same flow.
    #[must_use]
    pub const fn is_newer(&self, than: &Self) -> bool {
        self.sequence.wrapping_sub(than.sequence) < 0x80
    }
}

/// Where a flow is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The slot, if it is.
    pub slot: Option<usize>,
    /// Until when it said that the flow lasts, in nanoseconds.
    pub until: u64,
    /// The record's sequence number.
    pub sequence: u8,
}

/// A ledger in use: which slots are free.
#[derive(Debug)]
pub struct Book {
    ledger: Box<dyn Ledger>,
    free: Vec<usize>,
    slots: usize,
}

impl Book {
    /// Reads what a predecessor left. Slots that say nothing are free; the others stay as they are until they are [cleared](Self::clear).
    #[must_use]
    pub fn open(ledger: Box<dyn Ledger>) -> (Self, Vec<(usize, Record)>) {
        let slots = ledger.slots();
        let (mut free, mut found) = (Vec::new(), Vec::new());
        let mut record = [0; SIZE];
        for slot in (0..slots).rev() {
            ledger.read(slot, &mut record);
            match Record::decode(&record) {
                Some(record) => found.push((slot, record)),
                None => free.push(slot),
            }
        }
        (Self { ledger, free, slots }, found)
    }

    /// A free slot, of which it leaves `reserve` others.
    fn take(&mut self, reserve: usize) -> Option<usize> {
        if self.free.len() <= reserve {
            return None;
        }
        self.free.pop()
    }

    /// Writes a flow down, whether it has a slot or not. What nobody has answered, as a flood is, gets none of the last half of the slots, and the
    /// last one is for those that are written anew.
    pub fn keep(&mut self, mut kept: Kept, written: Written) -> Written {
        let is_answered = !matches!(kept.progress, Progress::SynSent | Progress::Unanswered);
        let reserve = match (written.slot, is_answered) {
            (Some(_), _) => 0,
            (None, true) => 1,
            (None, false) => self.slots.div_ceil(2),
        };
        let fresh = self.take(reserve);
        let Some(slot) = fresh.or(written.slot) else {
            return written;
        };
        kept.sequence = written.sequence.wrapping_add(1);
        self.ledger.write(slot, &kept.encode());
        if fresh.is_some()
            && let Some(old) = written.slot
        {
            self.clear(old);
        }
        Written {
            slot: Some(slot),
            until: kept.until,
            sequence: kept.sequence,
        }
    }

    /// Writes counters down, into a slot that they have or one of the first quarter that is still free.
    pub fn keep_counts(&mut self, counts: &Counts, slot: Option<usize>) -> Option<usize> {
        let reserve = self.slots.saturating_sub(self.slots / 4);
        let slot = slot.or_else(|| self.take(reserve))?;
        self.ledger.write(slot, &Record::Counts(*counts).encode());
        Some(slot)
    }

    /// Makes a slot free.
    pub fn clear(&mut self, slot: usize) {
        self.ledger.write(slot, &[0; SIZE]);
        self.free.push(slot);
    }
}

/// A ledger in plain memory, for tests: whoever has a copy of it sees what is written.
#[cfg(any(test, feature = "testing"))]
pub mod memory {
    use super::{Ledger, SIZE};
    use alloc::rc::Rc;
    use alloc::vec::Vec;
    use core::cell::RefCell;

    /// Makes a record of this version of any bytes.
    pub fn seal(record: &mut [u8; SIZE]) {
        let [a, b, c, d, version, rest @ ..] = record;
        *version = super::VERSION;
        let sum = super::checksum(&[&[*version], &rest[..]].concat());
        [*a, *b, *c, *d] = sum;
    }

    /// Slots that are shared.
    #[derive(Clone, Debug, Default)]
    pub struct Memory {
        /// The bytes.
        pub slots: Rc<RefCell<Vec<[u8; SIZE]>>>,
        /// How many bytes may still be written before everything stops, if it is to stop.
        pub left: Rc<RefCell<Option<usize>>>,
    }

    impl Memory {
        /// So many slots, all empty.
        #[must_use]
        pub fn new(slots: usize) -> Self {
            Self {
                slots: Rc::new(RefCell::new(alloc::vec![[0; SIZE]; slots])),
                left: Rc::default(),
            }
        }

        /// The same bytes, apart.
        #[must_use]
        pub fn copy(&self) -> Self {
            Self {
                slots: Rc::new(RefCell::new(self.slots.borrow().clone())),
                left: Rc::default(),
            }
        }
    }

    impl Ledger for Memory {
        fn slots(&self) -> usize {
            self.slots.borrow().len()
        }

        fn read(&self, slot: usize, record: &mut [u8; SIZE]) {
            if let Some(place) = self.slots.borrow().get(slot) {
                *record = *place;
            }
        }

        fn write(&mut self, slot: usize, record: &[u8; SIZE]) {
            let mut left = self.left.borrow_mut();
            let count = left.map_or(SIZE, |left| left.min(SIZE));
            if let Some(left) = &mut *left {
                *left = left.saturating_sub(count);
            }
            if let Some(place) = self.slots.borrow_mut().get_mut(slot) {
                for (place, byte) in place.iter_mut().zip(record).take(count) {
                    *place = *byte;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfr::testing::{Random, WEB_MAC, ip};

    fn kept() -> Kept {
        let original = Key {
            protocol: TCP,
            source: ip("10.0.0.2"),
            source_port: 1025,
            destination: ip("192.0.2.1"),
            destination_port: 80,
        };
        Kept {
            original,
            reply: original.reversed(),
            is_from_uplink: false,
            is_to_uplink: true,
            mac: WEB_MAC,
            first: 2,
            progress: Progress::Closing(Direction::Reply),
            until: 77 * SECOND,
            who: 0x1234_5678,
            sequence: 255,
        }
    }

    #[test]
    fn a_record_says_what_was_written() {
        let (IpAddr::V6(a), IpAddr::V6(b)) = (ip("fd00::2"), ip("2001:db8::1")) else {
            panic!()
        };
        let six = Key {
            protocol: UDP,
            source: a.into(),
            destination: b.into(),
            ..kept().original
        };
        let udp = Kept {
            original: six,
            reply: six.reversed(),
            progress: Progress::Answered,
            is_from_uplink: true,
            is_to_uplink: false,
            ..kept()
        };
        let counts = Counts {
            rules: 7,
            first: 8,
            counts: [Count {
                packets: u64::MAX,
                bytes: 3,
            }; COUNTS],
        };
        for record in [Record::Flow(kept()), Record::Flow(udp), Record::Counts(counts)] {
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
        assert_eq!(Record::decode(&[0; SIZE]), None);
    }

    #[test]
    fn a_changed_byte_makes_it_none() {
        let record = Record::Flow(kept()).encode();
        for place in 0..SIZE {
            let mut changed = record;
            changed[place] ^= 0x40;
            assert_eq!(Record::decode(&changed), None, "{place}");
        }
    }

    #[test]
    fn what_no_protocol_has_is_none_even_with_its_checksum_right() {
        let resealed = |mut kept: Kept, change: &dyn Fn(&mut Kept)| {
            change(&mut kept);
            Record::decode(&Record::Flow(kept).encode())
        };
        assert!(resealed(kept(), &|_| ()).is_some());
        assert_eq!(resealed(kept(), &|kept| kept.progress = Progress::Answered), None);
        assert_eq!(resealed(kept(), &|kept| kept.reply.source_port = 0), None);
        assert_eq!(resealed(kept(), &|kept| kept.original.protocol = ICMP), None);
        let mut random = Random(3);
        for _ in 0..20_000 {
            let mut record = [0; SIZE];
            record.fill_with(|| u8::try_from(random.below(256)).unwrap());
            record[5] = u8::try_from(random.below(3)).unwrap();
            memory::seal(&mut record);
            if let Some(Record::Flow(kept)) = Record::decode(&record) {
                assert!(kept.is_sound());
            }
        }
    }
}
