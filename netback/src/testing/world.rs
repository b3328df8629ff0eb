//! A machine, its back-end, and guests.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bulkhead_abi::DomId;
use bulkhead_frontend::testing::{Grant, Memory};
use bulkhead_frontend::{Access, Domain};
use bulkhead_netfront as front;
use bulkhead_ring::descriptor::{Front, Notify, Protocol};
use front::{Offload, Pool, Receive, Transmit};

use super::frames::{self, Host};
use super::{Machine, NicInfo, Page};
use crate::backend::{BackEnd, Channel, Connection, Event, Rest, Rings, VifId};
use crate::negotiation::{Features, Mode};
use crate::vfr::classify::PortId;
use crate::vfr::packet::Mac;
use crate::vfr::router::{Limits, Network, Uplink, Vfr, Vif, Way};
use crate::vfr::rules::{self, Name};

/// The VFR's MAC in the guests' network.
pub const VFR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// That of the only host on the wire, 192.0.2.1.
pub const WIRE_MAC: [u8; 6] = [2, 0, 0, 0, 0xfe, 1];

/// A VFR with a network 10.0.0.0/24 whose gateway is 10.0.0.254, where everything is accepted, and an uplink 192.0.2.9/24.
#[must_use]
pub fn vfr() -> Vfr {
    let limits = Limits {
        flows: 10_000,
        flows_of_vif: 10_000,
        nat_of_vif: 1000,
    };
    let mut vfr = Vfr::new(limits, [1, 2]);
    let address = |text: &str| text.parse().unwrap();
    let network = Network {
        name: Name::new("red").unwrap(),
        mac: Mac(VFR_MAC),
        gateways: [(address("10.0.0.254"), 24)].into(),
        uplink: Way::Routed,
        dhcp: false,
    };
    let network = vfr.add_network(network).unwrap();
    let uplink = Uplink {
        mac: Mac(super::NIC.mac),
        addresses: [(address("192.0.2.9"), 24)].into(),
        routers: [address("192.0.2.1")].into(),
        resolvers: Vec::new(),
    };
    vfr.set_uplink(Some(uplink)).unwrap();
    vfr.set_rules(network, rules::parse("accept").unwrap()).unwrap();
    vfr
}

/// A guest that makes no mistakes.
#[derive(Debug)]
pub struct Guest {
    /// Its domain.
    pub domain: u16,
    /// Its memory.
    pub memory: Memory,
    /// Where its pages come from.
    pub pool: Pool<Memory>,
    /// Its queues.
    pub queues: Vec<Queue>,
    /// Who it is on its network.
    pub host: Host,
    /// How it receives.
    pub mode: Mode,
    /// What it takes.
    pub features: Features,
    /// How many bytes a second it may send.
    pub rate: u64,
    /// From whom frames are right, if others' may not be.
    pub checks: Option<[u8; 6]>,
    /// It has notified the back-end.
    pub has_told: bool,
    /// Numbers of data that it was sent, in the order of their arrival.
    pub numbers: Vec<u32>,
    /// What it was sent, whole.
    pub frames: VecDeque<(Vec<u8>, Offload)>,
}

/// A guest's halves of a pair of rings.
#[derive(Debug)]
pub struct Queue {
    /// Of the frames that it sends.
    pub transmit: Transmit<Memory>,
    /// Of those that it receives.
    pub receive: Receive<Memory>,
    /// The pages of both, for back-ends.
    pub rings: [Page; 2],
    /// The guest has been notified.
    pub is_told: bool,
    /// How many frames it has received.
    pub received: u64,
}

/// A ring and the page that it is in.
fn ring<K: Protocol>(memory: &Memory) -> (Front<Grant, K>, Page) {
    let page = memory.page().unwrap();
    let grant = memory.grant(page.clone(), Access::ReadWrite).unwrap();
    (Front::new([grant].into()).unwrap(), page)
}

impl Guest {
    /// A guest with the last byte of its address, which is its domain's number, too.
    #[must_use]
    pub fn new(machine: &Machine, domain: u8, mode: Mode, features: Features) -> Self {
        Self::with_queues(machine, domain, mode, features, 1)
    }

    /// The same, with so many queues.
    #[must_use]
    pub fn with_queues(machine: &Machine, domain: u8, mode: Mode, features: Features, queues: usize) -> Self {
        let memory = Memory::new();
        machine.add_domain(domain.into(), &memory);
        let pool = Pool::new(memory.clone());
        let all = front::Features {
            several_slots: true,
            segments_v4: true,
            segments_v6: true,
            checksum_v4: true,
            checksum_v6: true,
        };
        let front_mode = match mode {
            Mode::Copy => front::Mode::Copy,
            Mode::Flip => front::Mode::Flip,
        };
        let queue = |_| {
            let (transmit, tx) = ring(&memory);
            let (receive, rx) = ring(&memory);
            Queue {
                transmit: Transmit::new(pool.clone(), transmit, all),
                receive: Receive::new(pool.clone(), receive, front_mode),
                rings: [tx, rx],
                is_told: true,
                received: 0,
            }
        };
        let mut guest = Self {
            domain: domain.into(),
            queues: (0..queues).map(queue).collect(),
            memory,
            pool,
            host: Host {
                mac: [2, 0, 0, 0, 0, domain],
                address: [10, 0, 0, domain],
                port: 1000 + u16::from(domain),
            },
            mode,
            features,
            rate: 0,
            checks: None,
            has_told: false,
            numbers: Vec::new(),
            frames: VecDeque::new(),
        };
        guest.step();
        guest
    }

    /// What it is connected with.
    #[must_use]
    pub fn connection<P>(&self, port: PortId, wrap: impl Fn(Page) -> P) -> Connection<P> {
        let rings = |(number, queue): (usize, &Queue)| {
            let [transmit, receive] = queue.rings.clone().map(&wrap);
            Rings {
                transmit,
                receive,
                is_split: number % 2 == 1,
            }
        };
        Connection {
            domain: DomId::new(self.domain),
            port,
            queues: self.queues.iter().enumerate().map(rings).collect(),
            mode: self.mode,
            features: self.features,
            rate: self.rate,
        }
    }

    /// Posts a frame, in as few pages as it takes, to the queue for its address and port. Whether there was room.
    pub fn post(&mut self, bytes: &[u8], offload: Offload) -> bool {
        let connection = [33, 37].map(|at| usize::from(bytes.get(at).copied().unwrap_or(0)));
        let number = connection.iter().sum::<usize>() % self.queues.len();
        let queue = &mut self.queues[number];
        if !queue.transmit.has_room() {
            return false;
        }
        let mut frame = self.pool.frame(bytes.len()).unwrap();
        frame.write(0, bytes).unwrap();
        queue.transmit.send(frame, offload).unwrap();
        true
    }

    /// What has become of the frames that it sent.
    #[must_use]
    pub fn sent(&self) -> front::Sent {
        let each = self.queues.iter().map(|queue| queue.transmit.sent());
        each.fold(front::Sent::default(), |all, sent| front::Sent {
            frames: all.frames + sent.frames,
            dropped: all.dropped + sent.dropped,
            errors: all.errors + sent.errors,
        })
    }

    /// Posts a datagram with numbered data for somebody, by way of a MAC, its checksum blank or not.
    pub fn post_data(&mut self, to: &Host, number: u32, length: usize, is_blank: bool) -> bool {
        let frame = frames::udp(&self.host, to, &frames::data(number, length), is_blank);
        let checksum = if is_blank {
            front::Checksum::Blank
        } else {
            front::Checksum::Whole
        };
        self.post(
            &frame,
            Offload {
                checksum,
                segments: None,
            },
        )
    }

    /// Shows the back-end what was posted, and takes what there is. Frames with numbered data are checked.
    pub fn step(&mut self) {
        (0..self.queues.len()).for_each(|queue| self.step_queue(queue));
    }

    fn step_queue(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        let notify = [queue.transmit.step().unwrap(), queue.receive.step().unwrap()];
        self.has_told |= notify.contains(&Notify::Yes);
        while let Some(received) = queue.receive.take() {
            queue.received += 1;
            let frame = received.frame.to_vec();
            if self.checks.is_some_and(|mac| frame[6..12] != mac) {
                continue;
            }
            if frame[12..14] == [8, 0] && frame[23] == crate::vfr::packet::UDP {
                let is_blank = received.offload.checksum == front::Checksum::Blank;
                assert!(frames::is_right(&frame, is_blank), "its checksums are right");
                self.numbers.push(frames::number(&frame[frames::UDP_HEADERS..]));
            } else {
                self.frames.push_back((frame, received.offload));
            }
        }
        // The pages of what was taken.
        self.has_told |= queue.receive.step().unwrap() == Notify::Yes;
    }

    /// Does so with the queues that it was notified of, until it may sleep.
    pub fn collect(&mut self) {
        for number in 0..self.queues.len() {
            while core::mem::take(&mut self.queues[number].is_told) {
                self.step_queue(number);
                let queue = &mut self.queues[number];
                let may_sleep = [
                    queue.transmit.may_sleep().unwrap(),
                    queue.receive.may_sleep().unwrap(),
                ];
                queue.is_told = may_sleep != [true, true];
            }
        }
    }

    /// It is notified by this channel.
    pub fn tell(&mut self, channel: Channel) {
        let (Channel::Both(queue) | Channel::Transmit(queue) | Channel::Receive(queue)) = channel;
        self.queues[queue].is_told = true;
    }

    /// Whether it has been notified and has not looked.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.queues.iter().any(|queue| queue.is_told)
    }
}

/// A machine, its back-end, and guests.
#[derive(Debug)]
pub struct World {
    /// The machine.
    pub machine: Machine,
    /// The back-end.
    pub back: BackEnd<Machine, Machine, Page>,
    /// The guests, their ports, and what the back-end knows them by.
    pub guests: Vec<(Guest, PortId, VifId)>,
    /// What the back-end said, but for notifications.
    pub events: Vec<Event>,
    /// How often guests were notified.
    pub notified: u64,
    /// Time, in nanoseconds.
    pub now: u64,
    /// When the back-end wants to be woken.
    pub deadline: Option<u64>,
    /// Data that came to the wire, by number.
    pub numbers: Vec<u32>,
}

/// Everything that can be taken.
pub const ALL: Features = Features {
    several_slots: true,
    segments_v4: true,
    segments_v6: true,
    checksum_v4: true,
    checksum_v6: true,
};

impl World {
    /// A world without guests.
    #[must_use]
    pub fn new(info: NicInfo) -> Self {
        Self::with(Machine::new(info, 128, 96))
    }

    /// A world of this machine.
    #[must_use]
    pub fn with(machine: Machine) -> Self {
        Self {
            back: BackEnd::new(machine.clone(), machine.clone(), vfr()),
            machine,
            guests: Vec::new(),
            events: Vec::new(),
            notified: 0,
            now: 1_000_000_000,
            deadline: None,
            numbers: Vec::new(),
        }
    }

    /// Connects a guest that takes everything. They have the domains and addresses 1, 2 and so on.
    pub fn add(&mut self, mode: Mode) -> usize {
        self.add_with(mode, ALL, 0)
    }

    /// Connects a guest.
    pub fn add_with(&mut self, mode: Mode, features: Features, rate: u64) -> usize {
        let mut guest = Guest::new(&self.machine, self.next_domain(), mode, features);
        guest.rate = rate;
        self.connect(guest)
    }

    /// Connects a guest by so many queues.
    pub fn add_with_queues(&mut self, mode: Mode, features: Features, queues: usize) -> usize {
        let domain = self.next_domain();
        self.connect(Guest::with_queues(&self.machine, domain, mode, features, queues))
    }

    fn next_domain(&self) -> u8 {
        u8::try_from(self.guests.len() + 1).unwrap()
    }

    fn connect(&mut self, guest: Guest) -> usize {
        let port = add_port(self.back.vfr_mut(), &guest);
        let id = self.back.connect(guest.connection(port, |page| page)).unwrap();
        self.guests.push((guest, port, id));
        self.guests.len() - 1
    }

    /// A guest.
    pub fn guest(&mut self, number: usize) -> &mut Guest {
        &mut self.guests[number].0
    }

    /// A guest, as others of its network see it.
    #[must_use]
    pub fn host(&self, number: usize) -> Host {
        self.guests[number].0.host
    }

    /// The host on the wire, as guests see it: by way of their gateway.
    #[must_use]
    pub fn outside(&self) -> Host {
        Host {
            mac: VFR_MAC,
            address: [192, 0, 2, 1],
            port: 7,
        }
    }

    /// A datagram with numbered data that comes by the wire for a guest. Whether the NIC had a page.
    pub fn arrive(&mut self, to: usize, number: u32, length: usize) -> bool {
        let from = Host {
            mac: WIRE_MAC,
            ..self.outside()
        };
        let to = Host {
            mac: super::NIC.mac,
            ..self.host(to)
        };
        let frame = frames::udp(&from, &to, &frames::data(number, length), false);
        self.machine.arrive(&frame, 4096, Default::default())
    }

    /// The back-end runs until it may sleep, having been kicked by whoever has notified it.
    pub fn serve(&mut self) {
        for (guest, _, id) in &mut self.guests {
            if core::mem::take(&mut guest.has_told) {
                self.back.kick(*id, Channel::Both(0));
            }
        }
        for _ in 0..10_000 {
            let rest = self.back.round(self.now);
            let mut told = Vec::new();
            for event in self.back.events() {
                match event {
                    Event::Notify(id, channel) => {
                        assert!(!told.contains(&(id, channel)), "told once in a round");
                        told.push((id, channel));
                        self.notified += 1;
                        for (guest, ..) in self.guests.iter_mut().filter(|(_, _, known)| *known == id) {
                            guest.tell(channel);
                        }
                    }
                    Event::Fault(..)
                    | Event::Closed(..)
                    | Event::Flaw(_)
                    | Event::Log(_)
                    | Event::NotLogged(_) => self.events.push(event),
                }
            }
            if let Rest::Sleep(until) = rest {
                self.deadline = until;
                return;
            }
        }
        panic!("the back-end never sleeps");
    }

    /// The guests that were notified look what there is, and the host on the wire answers who asks for it.
    pub fn collect(&mut self) {
        for (guest, ..) in &mut self.guests {
            guest.collect();
        }
        let wire = core::mem::take(&mut self.machine.state_mut().wire);
        for (frame, offload) in wire {
            self.outside_takes(&frame, offload.segmentation.is_some());
        }
    }

    fn outside_takes(&mut self, frame: &[u8], is_cut: bool) {
        if frame[12..14] == [8, 6] {
            // The only question is for it.
            let mut answer = frame.to_vec();
            answer[..6].copy_from_slice(&frame[6..12]);
            answer[6..12].copy_from_slice(&WIRE_MAC);
            answer[21] = 2;
            answer[22..28].copy_from_slice(&WIRE_MAC);
            answer[28..32].copy_from_slice(&frame[38..42]);
            answer[32..42].copy_from_slice(&frame[22..32]);
            self.machine.arrive(&answer, 4096, Default::default());
            return;
        }
        assert_eq!(frame[..6], WIRE_MAC);
        if frame[23] == crate::vfr::packet::UDP {
            assert!(frames::is_right(frame, is_cut), "its checksums are right");
            self.numbers.push(frames::number(&frame[frames::UDP_HEADERS..]));
        }
    }

    /// Everything goes on until nothing does; time does not pass.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            self.serve();
            self.machine.transmit_all();
            self.serve();
            self.collect();
            let told = self
                .guests
                .iter()
                .any(|(guest, ..)| guest.has_told || guest.is_told());
            if !told && self.machine.state().events.is_empty() && self.machine.state().sending.is_empty() {
                return;
            }
        }
        panic!("it never ends");
    }

    /// Has the VFR learn the MAC of the host on the wire.
    pub fn meet(&mut self, guest: usize) {
        let outside = self.outside();
        self.guest(guest).post_data(&outside, u32::MAX, 100, false);
        self.guest(guest).step();
        self.settle();
    }

    /// Fails if something is still in use: pages of guests', or pages of the pool that nobody has.
    pub fn check_rest(&self) {
        assert_eq!(self.machine.pinned(), 0, "all pages of guests' are given back");
        let idle = self.back.idle();
        assert_eq!(idle.jobs.0, idle.jobs.1, "all frames have come to their end");
        assert_eq!(idle.buffers + idle.jobs.1 / 8, self.machine.state().buffers.len());
        assert_eq!(idle.posted, self.machine.posted());
        assert_eq!(
            idle.posted + idle.pages,
            self.machine.state().pool.len(),
            "no page is lost"
        );
    }
}

/// Gives a guest a port of the VFR.
pub fn add_port(vfr: &mut Vfr, guest: &Guest) -> PortId {
    let vif = Vif {
        name: Name::new(&alloc::format!("guest{}", guest.domain)).unwrap(),
        network: crate::vfr::classify::NetworkId(0),
        mac: Mac(guest.host.mac),
        addresses: [core::net::Ipv4Addr::from(guest.host.address).into()].into(),
        mtu: 0,
    };
    vfr.add_vif(vif).unwrap()
}
