//! The connections that were accepted: their packets need one lookup, whatever the number of rules.
//!
//! A [`Flow`] stands in the table under two keys, of its packets as they arrive from either side; with address translation these are not each
//! other's reverse. Packets that leave towards one side are what that side's key says, reversed. How many flows there are is bounded for
//! each VIF, for those that it begins apart from those that others begin with it, so that nobody outside can keep a guest from
//! talking. The table's hash is keyed: nobody can choose what falls together.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hash, Hasher};
use core::net::IpAddr;

use hashbrown::HashMap;
use siphasher::sip::SipHasher13;

use super::classify::{Facts, PortId, Side};
use super::ledger::{Book, Kept, Written};
use super::nat::Ports;
use super::packet::{About, Inner, Ip, Transport, tcp_flags};
use super::reason::Reason;

/// A second in nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// How many slots are looked at for flows whose time has come whenever one is begun.
const SWEPT: usize = 4;
/// How many where there is no room.
const SWEPT_IN_NEED: usize = 256;
/// Into how many parts a flow's patience is divided: by one of them a record's time may lag behind.
const GRACE: u64 = 4;

/// What tells the packets of a flow in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The transport protocol's number.
    pub protocol: u8,
    /// The source.
    pub source: IpAddr,
    /// The source port; of an echo request its identifier; of an echo reply, and where there are no ports, zero.
    pub source_port: u16,
    /// The destination.
    pub destination: IpAddr,
    /// The destination port; of an echo reply its identifier; of an echo request, and where there are no ports, zero.
    pub destination_port: u16,
}

/// In as few words as it has: two for IPv4, five for IPv6. Every packet's key is hashed.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ports = u64::from(self.source_port) << 16 | u64::from(self.destination_port);
        state.write_u64(u64::from(self.protocol) << 32 | ports);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                state.write_u64(u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits()));
            }
            (source, destination) => {
                for address in [source, destination] {
                    let bits = match address {
                        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
                        IpAddr::V6(address) => address.to_bits(),
                    };
                    state.write(&bits.to_le_bytes());
                }
            }
        }
    }
}

impl Key {
    /// That of a packet, if packets of its kind belong to flows.
    #[must_use]
    pub const fn of(ip: &Ip) -> Option<Self> {
        let (source_port, destination_port) = match ip.transport {
            Transport::Tcp {
                source, destination, ..
            }
            | Transport::Udp { source, destination } => (source, destination),
            Transport::Icmp {
                about: About::EchoRequest(identifier),
                ..
            } => (identifier, 0),
            Transport::Icmp {
                about: About::EchoReply(identifier),
                ..
            } => (0, identifier),
            Transport::Other => (0, 0),
            Transport::Icmp {
                about: About::Error(_) | About::Other,
                ..
            }
            | Transport::Fragment => return None,
        };
        Some(Self {
            protocol: ip.protocol,
            source: ip.source,
            source_port,
            destination: ip.destination,
            destination_port,
        })
    }

    /// That of a packet that an ICMP error is about.
    #[must_use]
    pub fn of_inner(inner: &Inner) -> Self {
        let (source_port, destination_port) = inner.ports.unwrap_or_default();
        Self {
            protocol: inner.protocol,
            source: inner.source,
            source_port,
            destination: inner.destination,
            destination_port,
        }
    }

    /// That of a packet the other way.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            protocol: self.protocol,
            source: self.destination,
            source_port: self.destination_port,
            destination: self.source,
            destination_port: self.source_port,
        }
    }
}

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As the first one did.
    Original,
    /// Against it.
    Reply,
}

impl Direction {
    /// The other.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// TCP: one side wants to begin.
    SynSent,
    /// TCP: the other side does too.
    SynReceived,
    /// TCP: data may flow.
    Established,
    /// TCP: the side that sends this way is done.
    Closing(Direction),
    /// TCP: both are done.
    Closed,
    /// TCP: a side broke it off.
    Reset,
    /// Not TCP: nobody has answered.
    Unanswered,
    /// Not TCP: there was an answer.
    Answered,
}

impl Progress {
    /// Where a flow begins, by its first packet.
    ///
    /// # Errors
    ///
    /// [`Reason::TcpState`]: TCP begins with a SYN alone.
    pub const fn first(transport: &Transport) -> Result<Self, Reason> {
        match transport {
            Transport::Tcp { flags, .. } if *flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN => {
                Ok(Self::SynSent)
            }
            Transport::Tcp { .. } => Err(Reason::TcpState),
            Transport::Icmp {
                about: About::EchoReply(_),
                ..
            } => Err(Reason::EchoReply),
            Transport::Udp { .. } | Transport::Icmp { .. } | Transport::Other | Transport::Fragment => {
                Ok(Self::Unanswered)
            }
        }
    }

    /// Where a later packet leads.
    ///
    /// # Errors
    ///
    /// [`Reason::TcpState`]: a packet that this state has no use for.
    pub const fn next(self, direction: Direction, transport: &Transport) -> Result<Self, Reason> {
        let Transport::Tcp { flags, .. } = transport else {
            return Ok(match (self, direction) {
                (Self::Unanswered, Direction::Original) => Self::Unanswered,
                _ => Self::Answered,
            });
        };
        if *flags & tcp_flags::RST != 0 {
            return Ok(Self::Reset);
        }
        let (is_syn, is_fin) = (*flags & tcp_flags::SYN != 0, *flags & tcp_flags::FIN != 0);
        Ok(match (self, direction) {
            (Self::SynSent, Direction::Original) if !is_syn => return Err(Reason::TcpState),
            (Self::SynSent, Direction::Reply) if is_syn => Self::SynReceived,
            (Self::SynReceived, Direction::Original) if !is_syn && !is_fin => Self::Established,
            (Self::SynReceived | Self::Established, _) if is_fin => Self::Closing(direction),
            (Self::Closing(done), _) if is_fin && done as u8 != direction as u8 => Self::Closed,
            (state, _) => state,
        })
    }

    /// How much later than a record says a flow in this state may end: so much younger may its last packet be.
    #[must_use]
    pub const fn grace(self) -> u64 {
        self.patience() / GRACE
    }

    /// Whether [`Self::next`] of a packet is the same again, of TCP of one without SYN, FIN and RST: most are like that.
    const fn stays(self, direction: Direction, is_tcp: bool) -> bool {
        match (self, is_tcp) {
            (Self::Established | Self::Closing(_), true) | (Self::Answered, false) => true,
            (Self::Unanswered, false) => matches!(direction, Direction::Original),
            _ => false,
        }
    }

    /// Whether a first packet may begin a flow anew in this one's place.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Closed | Self::Reset)
    }

    /// How long a flow is kept without a packet, in nanoseconds. RFC 5382 wants more than two hours for TCP and RFC 4787 two
    /// minutes for UDP; what nobody has answered is kept for less.
    #[must_use]
    pub const fn patience(self) -> u64 {
        let seconds = match self {
            Self::Established => 7440,
            Self::Closing(_) => 240,
            Self::Answered => 180,
            Self::SynReceived => 60,
            Self::Closed => 60,
            Self::SynSent | Self::Unanswered => 30,
            Self::Reset => 10,
        };
        SECOND.saturating_mul(seconds)
    }
}

/// A connection that was accepted.
#[derive(Clone, Debug)]
pub struct Flow {
    /// What the packets are like that arrive in the direction of the first one.
    pub original: Key,
    /// What those are like that answer.
    pub reply: Key,
    /// Where the first packet came from.
    pub from: PortId,
    /// Where it went.
    pub to: PortId,
    /// What the rules saw in the first packet.
    pub facts: Facts,
    /// The rules that accepted it, by the number of their change.
    pub generation: u64,
    /// Whether its packets are told to a capture.
    pub mirror: bool,
    /// The uplink's port that it holds.
    pub nat: Option<u16>,
    /// The VIF whose share it is of, and whether that one began it.
    pub owner: (PortId, bool),
    /// How far it has come.
    pub progress: Progress,
    /// When it ends unless there is a packet, in nanoseconds.
    pub until: u64,
    /// The first packet's TCP flags, or its ICMP code.
    pub first: u8,
    /// What its ends are made of, shortened: who has the same addresses later is told from those who began it.
    pub who: u32,
    /// Where it is written down.
    pub written: Written,
}

impl Flow {
    /// What packets are like that arrive in a direction.
    #[must_use]
    pub const fn arriving(&self, direction: Direction) -> Key {
        match direction {
            Direction::Original => self.original,
            Direction::Reply => self.reply,
        }
    }

    /// What packets are like that leave in a direction.
    #[must_use]
    pub const fn leaving(&self, direction: Direction) -> Key {
        self.arriving(direction.other()).reversed()
    }

    /// Where packets of a direction come from, and where they go to.
    #[must_use]
    pub const fn way(&self, direction: Direction) -> (PortId, PortId) {
        match direction {
            Direction::Original => (self.from, self.to),
            Direction::Reply => (self.to, self.from),
        }
    }
}

/// A flow's place in the table. It means no other flow when that one has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowId {
    place: u32,
    /// How many were in this place before.
    turn: u32,
}

/// A place for a flow.
#[derive(Debug, Default)]
struct Slot {
    turn: u32,
    flow: Option<Flow>,
}

#[derive(Clone, Debug)]
struct Keyed([u64; 2]);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        let [a, b] = self.0;
        SipHasher13::new_with_keys(a, b)
    }
}

/// The flow table, with the uplink's ports that its flows hold.
#[derive(Debug)]
pub struct Flows {
    slots: Vec<Slot>,
    free: Vec<u32>,
    places: HashMap<Key, (FlowId, Direction), Keyed>,
    shares: BTreeMap<(PortId, bool), u32>,
    ports: Ports,
    share: u32,
    most: usize,
    book: Option<Book>,
    /// The slot that is swept next.
    hand: usize,
}

impl Flows {
    /// None, of at most `most`, and `share` for each VIF and way to begin; `ports` are those of the uplink, and `secret` is what
    /// nobody else knows.
    #[must_use]
    pub fn new(most: usize, share: u32, ports: Ports, secret: [u64; 2]) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            places: HashMap::with_hasher(Keyed(secret)),
            shares: BTreeMap::new(),
            ports,
            share,
            most,
            book: None,
            hand: 0,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All flows.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.slots.iter().filter_map(|slot| slot.flow.as_ref())
    }

    /// The uplink's ports.
    pub const fn ports(&mut self) -> &mut Ports {
        &mut self.ports
    }

    /// The flow that packets of `key` belong to at `now` (ns), and which way they go.
    pub fn find(&mut self, key: &Key, now: u64) -> Option<(FlowId, Direction)> {
        let &(id, direction) = self.places.get(key)?;
        if self.get(id)?.until <= now {
            self.end(id);
            return None;
        }
        Some((id, direction))
    }

    /// As [`Self::find`], with nothing changed.
    #[must_use]
    pub fn peek(&self, key: &Key, now: u64) -> Option<(FlowId, Direction)> {
        let &(id, direction) = self.places.get(key)?;
        (self.get(id)?.until > now).then_some((id, direction))
    }

    /// A flow, if it is there.
    #[must_use]
    pub fn get(&self, id: FlowId) -> Option<&Flow> {
        let slot = self.slots.get(id.place as usize)?;
        slot.flow.as_ref().filter(|_| slot.turn == id.turn)
    }

    /// A flow, to be changed in what is no key.
    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        let slot = self.slots.get_mut(id.place as usize)?;
        slot.flow.as_mut().filter(|_| slot.turn == id.turn)
    }

    /// Counts a packet of a flow at `now` (ns).
    ///
    /// # Errors
    ///
    /// [`Reason::TcpState`].
    pub fn step(
        &mut self,
        id: FlowId,
        direction: Direction,
        transport: &Transport,
        now: u64,
    ) -> Result<(), Reason> {
        let Some(flow) = self.get_mut(id) else {
            return Ok(());
        };
        let progress = flow.progress.next(direction, transport)?;
        let patience = progress.patience();
        flow.until = now.saturating_add(patience);
        // A record may be so much older than the flow's last packet: see `grace`.
        let is_old = flow.until.saturating_sub(flow.written.until) > patience / GRACE;
        if flow.progress != progress || is_old {
            flow.progress = progress;
            self.keep(id);
        }
        Ok(())
    }

    /// Counts a packet of a flow at `now` (ns), as [`Self::find`] and [`Self::step`] would, if nothing comes of it but that the flow is kept for longer; of TCP
    /// it has neither SYN, FIN nor RST. Otherwise nothing has changed.
    pub(super) fn go_on(&mut self, id: FlowId, direction: Direction, is_tcp: bool, now: u64) -> bool {
        let has_book = self.book.is_some();
        let flow = self.get_mut(id);
        let Some(flow) = flow.filter(|flow| flow.until > now && flow.progress.stays(direction, is_tcp))
        else {
            return false;
        };
        let patience = flow.progress.patience();
        let until = now.saturating_add(patience);
        if has_book && until.saturating_sub(flow.written.until) > patience / GRACE {
            return false;
        }
        flow.until = until;
        true
    }

    /// Writes a flow down, if there is something to write to.
    fn keep(&mut self, id: FlowId) {
        let slot = self.slots.get_mut(id.place as usize);
        if let (Some(flow), Some(book)) = (slot.and_then(|slot| slot.flow.as_mut()), &mut self.book) {
            let is_uplink = |side| side == Side::Uplink;
            let kept = Kept::of(flow, is_uplink(flow.facts.from), is_uplink(flow.facts.to));
            flow.written = book.keep(kept, flow.written);
            // Without a slot it is tried again as if it had one, not with each packet.
            flow.written.until = flow.until;
        }
    }

    /// What flows are written down in.
    pub(super) const fn book(&mut self) -> &mut Option<Book> {
        &mut self.book
    }

    /// Begins a flow at `now` (ns). If it cannot, the uplink's port that the flow holds is given back.
    ///
    /// # Errors
    ///
    /// [`Reason::FlowQuota`], [`Reason::FlowTable`], [`Reason::FlowTaken`].
    pub fn begin(&mut self, flow: Flow, now: u64) -> Result<FlowId, Reason> {
        self.sweep(SWEPT, now);
        // What is over does not stand in the way.
        self.find(&flow.original, now);
        self.find(&flow.reply, now);
        if self.refuses(&flow).is_some() {
            self.sweep(SWEPT_IN_NEED, now);
        }
        if let Some(reason) = self.refuses(&flow) {
            self.release(&flow);
            return Err(reason);
        }
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                let Ok(place) = u32::try_from(self.slots.len()) else {
                    self.release(&flow);
                    return Err(Reason::FlowTable);
                };
                self.slots.push(Slot::default());
                place
            }
        };
        let turn = self.slots.get(place as usize).map_or(0, |slot| slot.turn);
        let id = FlowId { place, turn };
        self.places.insert(flow.original, (id, Direction::Original));
        self.places.insert(flow.reply, (id, Direction::Reply));
        let used = self.shares.entry(flow.owner).or_default();
        *used = used.saturating_add(1);
        let is_written = flow.written.slot.is_some();
        if let Some(slot) = self.slots.get_mut(place as usize) {
            slot.flow = Some(flow);
        }
        if !is_written {
            self.keep(id);
        }
        Ok(id)
    }

    /// Whether a flow may begin that no other one stands in the way of.
    pub(super) fn has_room(&self, flow: &Flow) -> Result<(), Reason> {
        match self.refuses(flow) {
            Some(reason @ (Reason::FlowQuota | Reason::FlowTable)) => Err(reason),
            _ => Ok(()),
        }
    }

    fn refuses(&self, flow: &Flow) -> Option<Reason> {
        if self
            .shares
            .get(&flow.owner)
            .is_some_and(|used| *used >= self.share)
        {
            Some(Reason::FlowQuota)
        } else if self.len() >= self.most {
            Some(Reason::FlowTable)
        } else if flow.original == flow.reply
            || self.places.contains_key(&flow.original)
            || self.places.contains_key(&flow.reply)
        {
            Some(Reason::FlowTaken)
        } else {
            None
        }
    }

    fn release(&mut self, flow: &Flow) {
        if let Some(port) = flow.nat {
            self.ports.give_back(flow.original.protocol, port, flow.from);
        }
    }

    /// Ends a flow.
    pub fn end(&mut self, id: FlowId) {
        let slot = self.slots.get_mut(id.place as usize);
        let Some(slot) = slot.filter(|slot| slot.turn == id.turn) else {
            return;
        };
        let Some(flow) = slot.flow.take() else { return };
        slot.turn = slot.turn.wrapping_add(1);
        self.places.remove(&flow.original);
        self.places.remove(&flow.reply);
        if let Some(used) = self.shares.get_mut(&flow.owner) {
            *used = used.saturating_sub(1);
            if *used == 0 {
                self.shares.remove(&flow.owner);
            }
        }
        self.release(&flow);
        if let (Some(slot), Some(book)) = (flow.written.slot, &mut self.book) {
            book.clear(slot);
        }
        self.free.push(id.place);
    }

    /// Ends those flows of which `ends` holds.
    pub fn end_where(&mut self, ends: impl Fn(&Flow) -> bool) {
        for place in 0..self.slots.len() {
            if let Some(id) = self.at(place).filter(|id| self.get(*id).is_some_and(&ends)) {
                self.end(id);
            }
        }
    }

    /// The flow in a place, if there is one.
    fn at(&self, place: usize) -> Option<FlowId> {
        let slot = self.slots.get(place).filter(|slot| slot.flow.is_some())?;
        let place = u32::try_from(place).ok()?;
        Some(FlowId {
            place,
            turn: slot.turn,
        })
    }

    /// Ends flows whose time has come at `now` (ns), among the next `count` slots.
    pub fn sweep(&mut self, count: usize, now: u64) {
        for _ in 0..count.min(self.slots.len()) {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let id = self.at(self.hand);
            if let Some(id) = id.filter(|id| self.get(*id).is_some_and(|flow| flow.until <= now)) {
                self.end(id);
            }
            self.hand = self.hand.saturating_add(1);
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl Flows {
    /// How many of the uplink's ports a VIF holds.
    #[must_use]
    pub fn held(&self, vif: PortId) -> usize {
        self.ports.held(vif) as usize
    }

    /// Looks whether the tables agree with each other.
    ///
    /// # Panics
    ///
    /// If they do not.
    pub fn check(&self) {
        let mut held: BTreeMap<PortId, u32> = BTreeMap::new();
        let mut shares: BTreeMap<(PortId, bool), u32> = BTreeMap::new();
        let plus = |count: &mut u32| *count = count.saturating_add(1);
        for place in 0..self.slots.len() {
            let Some((id, flow)) = self.at(place).and_then(|id| Some((id, self.get(id)?))) else {
                continue;
            };
            assert_eq!(self.places.get(&flow.original), Some(&(id, Direction::Original)));
            assert_eq!(self.places.get(&flow.reply), Some(&(id, Direction::Reply)));
            plus(shares.entry(flow.owner).or_default());
            if flow.nat.is_some() {
                plus(held.entry(flow.from).or_default());
            }
        }
        assert_eq!(self.places.len(), self.len().saturating_mul(2));
        assert_eq!(shares, self.shares);
        assert!(self.len() <= self.most && shares.values().all(|used| *used <= self.share));
        for (owner, count) in held {
            assert!(self.ports.held(owner) >= count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfr::classify::{NetworkId, Side};
    use crate::vfr::packet::{TCP, UDP};
    use crate::vfr::rules::State;
    use crate::vfr::testing::{Random, WEB_MAC, ip};
    use tcp_flags::{ACK, FIN, RST, SYN};

    const WEB: PortId = PortId(1);
    const UPLINK: PortId = PortId(0);

    fn flow(protocol: u8, source_port: u16, nat: Option<u16>) -> Flow {
        let original = Key {
            protocol,
            source: ip("10.0.0.2"),
            source_port,
            destination: ip("192.0.2.1"),
            destination_port: 80,
        };
        let mut reply = original.reversed();
        if let Some(port) = nat {
            reply.destination = ip("198.51.100.7");
            reply.destination_port = port;
        }
        let transport = Transport::Udp {
            source: source_port,
            destination: 80,
        };
        Flow {
            original,
            reply,
            from: WEB,
            to: UPLINK,
            facts: Facts {
                from: Side::Vif(WEB, NetworkId(0)),
                to: Side::Uplink,
                mac: WEB_MAC,
                source: original.source,
                destination: original.destination,
                protocol,
                transport,
                state: State::New,
                forwarded: None,
            },
            generation: 0,
            mirror: false,
            nat,
            owner: (WEB, true),
            progress: Progress::Unanswered,
            until: 30 * SECOND,
            first: 0,
            who: 0,
            written: Written::default(),
        }
    }

    fn flows(most: usize, share: u32) -> Flows {
        Flows::new(most, share, Ports::new(100), [1, 2])
    }

    #[test]
    fn a_flow_is_found_from_both_sides_and_translated_both_ways() {
        let mut flows = flows(10, 10);
        let port = flows.ports().take(UDP, 1025, WEB).unwrap();
        let flow = flow(UDP, 1025, Some(port));
        let (original, reply) = (flow.original, flow.reply);
        let id = flows.begin(flow, 0).unwrap();
        assert_eq!(flows.find(&original, 1), Some((id, Direction::Original)));
        assert_eq!(flows.find(&reply, 1), Some((id, Direction::Reply)));
        assert_eq!(flows.find(&original.reversed(), 1), None);
        let flow = flows.get(id).unwrap();
        let out = flow.leaving(Direction::Original);
        assert_eq!(
            (out.source, out.source_port, out.destination),
            (reply.destination, port, original.destination)
        );
        assert_eq!(flow.leaving(Direction::Reply), original.reversed());
        flows.end(id);
        assert_eq!((flows.len(), flows.ports().held(WEB)), (0, 0));
        assert_eq!(flows.find(&reply, 1), None);
    }

    #[test]
    fn tcp_goes_from_state_to_state() {
        use Direction::{Original, Reply};
        let tcp = |flags| Transport::Tcp {
            source: 1,
            destination: 2,
            flags,
        };
        let play = |steps: &[(Direction, u8)]| {
            let first = Progress::first(&tcp(SYN)).unwrap();
            steps.iter().try_fold(first, |state, (direction, flags)| {
                state.next(*direction, &tcp(*flags))
            })
        };
        let open = [(Reply, SYN | ACK), (Original, ACK)];
        assert_eq!(play(&[]), Ok(Progress::SynSent));
        assert_eq!(play(&[(Original, SYN)]), Ok(Progress::SynSent));
        assert_eq!(play(&open[..1]), Ok(Progress::SynReceived));
        assert_eq!(play(&open), Ok(Progress::Established));
        let closing = [open.as_slice(), &[(Reply, FIN | ACK)]].concat();
        assert_eq!(play(&closing), Ok(Progress::Closing(Reply)));
        assert_eq!(
            play(&[&closing[..], &[(Reply, FIN | ACK)]].concat()),
            Ok(Progress::Closing(Reply))
        );
        assert_eq!(
            play(&[&closing[..], &[(Original, FIN | ACK)]].concat()),
            Ok(Progress::Closed)
        );
        assert_eq!(play(&[&open[..], &[(Reply, RST)]].concat()), Ok(Progress::Reset));
        assert_eq!(play(&[(Original, ACK)]), Err(Reason::TcpState));
        for flags in [ACK, SYN | ACK, FIN | ACK, RST] {
            assert_eq!(Progress::first(&tcp(flags)), Err(Reason::TcpState));
        }
        let reply = Transport::Icmp {
            kind: 0,
            code: 0,
            about: About::EchoReply(1),
        };
        assert_eq!(Progress::first(&reply), Err(Reason::EchoReply));
    }

    #[test]
    fn an_answer_makes_a_flow_last_and_silence_ends_it() {
        let mut flows = flows(10, 10);
        let flow = flow(UDP, 1025, None);
        let (original, transport) = (flow.original, flow.facts.transport);
        let id = flows.begin(flow, 0).unwrap();
        flows.step(id, Direction::Original, &transport, SECOND).unwrap();
        assert_eq!(flows.get(id).unwrap().until, 31 * SECOND);
        flows.step(id, Direction::Reply, &transport, 2 * SECOND).unwrap();
        assert_eq!(flows.get(id).unwrap().until, 182 * SECOND);
        assert!(flows.find(&original, 182 * SECOND - 1).is_some());
        assert_eq!(flows.find(&original, 182 * SECOND), None);
        assert!(flows.is_empty());
    }

    #[test]
    fn a_vif_has_its_share_and_time_gives_it_back() {
        let mut flows = flows(5, 3);
        for port in 1..=3 {
            flows.begin(flow(UDP, port, None), 0).unwrap();
        }
        let port = flows.ports().take(UDP, 4, WEB).unwrap();
        assert_eq!(
            flows.begin(flow(UDP, 4, Some(port)), 0).unwrap_err(),
            Reason::FlowQuota
        );
        assert_eq!(flows.ports().held(WEB), 0);
        for port in 5..=6 {
            let incoming = Flow {
                owner: (WEB, false),
                ..flow(UDP, port, None)
            };
            flows.begin(incoming, 0).unwrap();
        }
        let other = Flow {
            owner: (PortId(2), true),
            ..flow(UDP, 7, None)
        };
        assert_eq!(flows.begin(other.clone(), 0).unwrap_err(), Reason::FlowTable);
        assert!(flows.begin(other, 30 * SECOND).is_ok());
        // The four that were looked at have gone, and one has come.
        assert_eq!(flows.len(), 2);
    }

    #[test]
    fn what_has_a_key_of_another_flow_is_refused() {
        let mut flows = flows(2000, 2000);
        for port in 1..1000 {
            flows.begin(flow(TCP, port, None), 0).unwrap();
        }
        assert_eq!(
            flows.begin(flow(TCP, 990, None), 0).unwrap_err(),
            Reason::FlowTaken
        );
        assert!(flows.begin(flow(TCP, 990, None), 30 * SECOND).is_ok());
        assert!(flows.begin(flow(UDP, 1, None), 0).is_ok());
    }

    #[test]
    fn after_any_history_the_table_and_its_counts_agree() {
        let mut random = Random(7);
        let mut flows = flows(64, 40);
        let mut now = 0;
        for _ in 0..20_000 {
            now += random.next() % SECOND;
            let source = u16::try_from(1 + random.below(200)).unwrap();
            let key = flow(UDP, source, None).original;
            match flows.find(&key, now) {
                Some((id, _)) if random.once_in(4) => flows.end(id),
                Some((id, direction)) => {
                    let transport = Transport::Udp {
                        source,
                        destination: 80,
                    };
                    flows.step(id, direction, &transport, now).unwrap();
                }
                None => {
                    let nat = if random.once_in(2) {
                        flows.ports().take(UDP, source, WEB).ok()
                    } else {
                        None
                    };
                    let owner = (WEB, random.once_in(2));
                    let _ = flows.begin(
                        Flow {
                            until: now + 30 * SECOND,
                            owner,
                            ..flow(UDP, source, nat)
                        },
                        now,
                    );
                }
            }
            let held = flows.iter().filter(|flow| flow.nat.is_some()).count();
            assert_eq!(flows.ports.held(WEB) as usize, held);
            assert_eq!(flows.places.len(), 2 * flows.len());
            let shares: u32 = flows.shares.values().sum();
            assert_eq!(
                (shares as usize, flows.iter().count()),
                (flows.len(), flows.len())
            );
            assert!(flows.len() <= 64 && flows.shares.values().all(|used| *used <= 40));
        }
    }
}
