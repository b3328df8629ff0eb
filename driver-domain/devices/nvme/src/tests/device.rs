//! A simulated controller with one namespace, which does as it is told: by the driver, and by the test.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::LazyLock;

use bulkhead_devices::BusAddress;
use bulkhead_devices::function::Interrupt;
use bulkhead_devices::testing::{Bus, Device, FakeFunction};
use bulkhead_pci::testing::FakeConfig;

pub(super) const SECTORS: u64 = 8192;

/// What is on a new disk, all of it.
static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| (0..SECTORS * 512).map(pattern).collect());

/// Bytes between doorbells: not the least.
const STRIDE: u64 = 16;

/// A command as the controller fetched it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetched {
    pub(super) id: u16,
    pub(super) opcode: u8,
    namespace: u32,
    memory: [u64; 2],
    words: [u32; 3],
}

#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    address: u64,
    size: u16,
    head: u16,
    tail: u16,
}

#[derive(Debug)]
pub(super) struct Controller {
    pub(super) bus: Bus,
    pub(super) capabilities: u64,
    pub(super) config: u32,
    pub(super) status: u32,
    /// Questions about its status that are answered by what it was before.
    pub(super) delay: u32,
    admin: [u64; 3],
    /// Commands and answers, of the controller's pair and the other.
    queues: [[Queue; 2]; 2],
    phases: [bool; 2],
    has_interrupts: bool,
    pub(super) identity: Vec<u8>,
    pub(super) namespace: Vec<u8>,
    pub(super) active: [u32; 2],
    /// Statuses to answer commands to the controller with, by opcode.
    pub(super) refuses: Vec<(u8, u16)>,
    /// Does not answer this command to the controller.
    pub(super) ignores: Option<u8>,
    /// Answers by another number.
    pub(super) lies: bool,
    pub(super) content: Vec<u8>,
    pub(super) pending: Vec<Fetched>,
    pub(super) told: usize,
    pub(super) given_back: usize,
    pub(super) interrupts: usize,
    pub(super) flushes: usize,
    pub(super) discarded: Vec<(u64, u32)>,
    /// Transfers that were asked for, in bytes.
    pub(super) transfers: Vec<usize>,
    pub(super) is_hostile: bool,
}

impl Controller {
    pub(super) fn new(bus: &Bus) -> Self {
        let mut identity = vec![0; 4096];
        identity[77] = 6;
        (identity[512], identity[513]) = (0x66, 0x44);
        identity[516] = 1;
        identity[520] = 1 << 2;
        identity[525] = 7;
        let mut namespace = vec![0; 4096];
        namespace[..8].copy_from_slice(&SECTORS.to_le_bytes());
        namespace[24] = 1 << 4;
        (namespace[25], namespace[26]) = (1, 0);
        (namespace[64], namespace[68]) = (7, 15);
        (namespace[130], namespace[134]) = (9, 12);
        Self {
            bus: bus.clone(),
            // 1024 places, a second to get ready, doorbells 16 bytes apart, disks.
            capabilities: 1023 | 1 << 16 | 2 << 24 | 2 << 32 | 1 << 37,
            config: 1,
            status: 1,
            delay: 0,
            admin: [0; 3],
            queues: [[Queue::default(); 2]; 2],
            phases: [true; 2],
            has_interrupts: false,
            identity,
            namespace,
            active: [1, 7],
            refuses: Vec::new(),
            ignores: None,
            lies: false,
            content: CONTENT.clone(),
            pending: Vec::new(),
            told: 0,
            given_back: 0,
            interrupts: 0,
            flushes: 0,
            discarded: Vec::new(),
            transfers: Vec::new(),
            is_hostile: false,
        }
    }

    /// Says that its blocks have 4096 bytes.
    pub(super) fn use_large_blocks(&mut self) {
        self.namespace[26] = 1;
        self.namespace[..8].copy_from_slice(&(SECTORS / 8).to_le_bytes());
        (self.namespace[64], self.namespace[68]) = (0, 0);
    }

    fn block(&self) -> usize {
        if self.namespace[26] == 1 { 4096 } else { 512 }
    }

    pub(super) fn answers(&self) -> u64 {
        self.queues[1][1].address
    }

    pub(super) fn size(&self) -> u16 {
        self.queues[1][0].size
    }

    fn configure(&mut self, value: u32) {
        let was_on = self.config & 1 != 0;
        self.config = value;
        if value & 1 == 0 {
            self.status &= !1;
            self.pending.clear();
            (self.queues, self.phases) = ([[Queue::default(); 2]; 2], [true; 2]);
        } else if !was_on {
            assert_eq!(value, 6 << 16 | 4 << 20 | 1);
            self.status |= 1;
            let [sizes, commands, answers] = self.admin;
            for (queue, (address, shift)) in [(commands, 0), (answers, 16)].into_iter().enumerate() {
                assert!(address.is_multiple_of(4096));
                self.queues[0][queue] = Queue {
                    address,
                    size: u16::try_from(sizes >> shift & 0xfff).unwrap() + 1,
                    ..Queue::default()
                };
            }
        }
    }

    /// Takes what the driver has put into a queue.
    fn fetch(&mut self, pair: usize) -> Vec<Fetched> {
        let mut fetched = Vec::new();
        let mut queue = self.queues[pair][0];
        while queue.head != queue.tail {
            let bytes: [u8; 64] = self
                .bus
                .read(BusAddress(queue.address + u64::from(queue.head) * 64));
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let wide = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            let [opcode, flags, id_low, id_high] = word(0).to_le_bytes();
            assert_eq!((flags, wide(8), wide(16), word(52), wide(56)), (0, 0, 0, 0, 0));
            fetched.push(Fetched {
                id: u16::from_le_bytes([id_low, id_high]),
                opcode,
                namespace: word(4),
                memory: [wide(24), wide(32)],
                words: [word(40), word(44), word(48)],
            });
            queue.head = (queue.head + 1) % queue.size;
        }
        self.queues[pair][0] = queue;
        fetched
    }

    /// Puts an answer into a queue.
    pub(super) fn answer(&mut self, pair: usize, id: u16, status: u16, result: u32) {
        let commands_head = self.queues[pair][0].head;
        let queue = &mut self.queues[pair][1];
        let next = (queue.tail + 1) % queue.size;
        assert!(
            next != queue.head || self.is_hostile,
            "the driver leaves no room for answers"
        );
        let at = BusAddress(queue.address + u64::from(queue.tail) * 16);
        queue.tail = next;
        let phase = self.phases[pair];
        self.phases[pair] ^= next == 0;
        self.bus.write(at, &result.to_le_bytes());
        let middle = u32::from(commands_head) | u32::try_from(pair).unwrap() << 16;
        self.bus.write(BusAddress(at.0 + 8), &middle.to_le_bytes());
        let last = u32::from(id) | u32::from(status << 1 | u16::from(phase)) << 16;
        self.bus.write(BusAddress(at.0 + 12), &last.to_le_bytes());
        self.interrupts += usize::from(pair == 1 && self.has_interrupts);
    }

    /// Does a command to the controller itself.
    fn administer(&mut self, command: Fetched) {
        if self.ignores == Some(command.opcode) {
            return;
        }
        let refused = self.refuses.iter().find(|(opcode, _)| *opcode == command.opcode);
        let mut status = refused.map_or(0, |(_, status)| *status);
        let [first, second, _] = command.words;
        let page = BusAddress(command.memory[0]);
        if status == 0 {
            match (command.opcode, first) {
                (6, 0) if command.namespace == self.active[0] => self.bus.write(page, &self.namespace),
                (6, 1) => self.bus.write(page, &self.identity),
                (6, 2) => {
                    for (n, namespace) in (0..).zip(self.active) {
                        self.bus
                            .write(BusAddress(page.0 + n * 4), &namespace.to_le_bytes());
                    }
                }
                (9, 7) => assert_eq!(second, 0),
                (5, shape) | (1, shape) => {
                    let queue = usize::from(command.opcode == 5);
                    assert_eq!(shape & 0xffff, 1);
                    assert_eq!(second & 1, 1, "memory is in one piece");
                    if queue == 1 {
                        self.has_interrupts = second & 2 != 0;
                        assert_eq!(second >> 16, 0);
                    } else {
                        assert_eq!((second >> 16, self.queues[1][1].size != 0), (1, true));
                    }
                    assert!(page.0.is_multiple_of(4096));
                    self.queues[1][queue] = Queue {
                        address: page.0,
                        size: u16::try_from(shape >> 16).unwrap() + 1,
                        ..Queue::default()
                    };
                    assert!(u64::from(shape >> 16) <= self.capabilities & 0xffff);
                }
                _ => status = 0x0b,
            }
        }
        let id = if self.lies { command.id ^ 1 } else { command.id };
        self.answer(0, id, status, 0);
    }

    /// The memory of a transfer, as the pieces that the command names.
    fn memory(&self, command: &Fetched, bytes: usize) -> Vec<(BusAddress, usize)> {
        let [first, second] = command.memory;
        assert!(first.is_multiple_of(4));
        let room = 4096 - usize::try_from(first % 4096).unwrap();
        let mut pieces = vec![(BusAddress(first), bytes.min(room))];
        let mut rest = bytes - bytes.min(room);
        if rest > 4096 {
            assert!(second.is_multiple_of(8));
            let mut at = second;
            while rest > 0 {
                assert_eq!(at / 4096, second / 4096, "a list stays in its page");
                let page = u64::from_le_bytes(self.bus.read(BusAddress(at)));
                pieces.push((BusAddress(page), rest.min(4096)));
                rest -= rest.min(4096);
                at += 8;
            }
        } else if rest > 0 {
            pieces.push((BusAddress(second), rest));
        }
        let aligned = pieces
            .iter()
            .skip(1)
            .all(|(address, _)| address.0.is_multiple_of(4096));
        assert!(aligned, "only the first begins within a page");
        pieces
    }

    /// Does a command to the disk, as a good one does.
    pub(super) fn perform(&mut self, command: &Fetched) {
        assert_eq!(command.namespace, self.active[0]);
        let [low, high, count] = command.words;
        match command.opcode {
            0 => self.flushes += 1,
            9 => {
                assert_eq!((low, high), (0, 4));
                let range: [u8; 16] = self.bus.read(BusAddress(command.memory[0]));
                let count = u32::from_le_bytes(range[4..8].try_into().unwrap());
                let first = u64::from_le_bytes(range[8..].try_into().unwrap());
                self.discarded.push((first, count));
            }
            opcode @ (1 | 2) => {
                let first = usize::try_from(u64::from(low) | u64::from(high) << 32).unwrap();
                let bytes = (usize::try_from(count).unwrap() + 1) * self.block();
                self.transfers.push(bytes);
                if self.identity[77] != 0 {
                    assert!(
                        bytes <= 4096 << self.identity[77],
                        "the controller takes no {bytes} bytes"
                    );
                }
                let mut at = first * self.block();
                for (address, bytes) in self.memory(command, bytes) {
                    let place = at..at + bytes;
                    at += bytes;
                    if opcode == 2 {
                        self.bus.write(address, &self.content[place]);
                    } else {
                        self.bus.copy_out(address, &mut self.content[place]);
                    }
                }
            }
            other => panic!("no driver asks for {other}"),
        }
    }

    /// Does and answers the pending command with this number.
    pub(super) fn complete(&mut self, n: usize) {
        let command = self.pending.remove(n);
        self.perform(&command);
        self.answer(1, command.id, 0, 0);
    }

    pub(super) fn work(&mut self) {
        while !self.pending.is_empty() {
            self.complete(0);
        }
    }
}

impl Device for Controller {
    fn read(&mut self, bar: u8, offset: u64, bytes: usize) -> u64 {
        match (bar, offset, bytes) {
            (0, 0, 8) => self.capabilities,
            (0, 0x1c, 4) => {
                if let Some(left) = self.delay.checked_sub(1) {
                    self.delay = left;
                    return u64::from(self.status ^ 1);
                }
                self.status.into()
            }
            other => panic!("no driver reads {other:x?}"),
        }
    }

    fn write(&mut self, bar: u8, offset: u64, bytes: usize, value: u64) {
        assert_eq!(bar, 0);
        let narrow = |value: u64| u16::try_from(value).unwrap();
        if let Some(at) = offset.checked_sub(0x1000) {
            assert_eq!((at % STRIDE, bytes), (0, 4));
            let n = usize::try_from(at / STRIDE).unwrap();
            let queue = &mut self.queues[n / 2][n % 2];
            assert!(value < u64::from(queue.size), "there is no place {value}");
            match n % 2 {
                0 => queue.tail = narrow(value),
                _ => queue.head = narrow(value),
            }
            match n {
                0 => {
                    for command in self.fetch(0) {
                        self.administer(command);
                    }
                }
                2 => {
                    self.told += 1;
                    for command in self.fetch(1) {
                        let is_new = self.pending.iter().all(|other| other.id != command.id);
                        assert!(is_new || self.is_hostile, "a number is used again");
                        self.pending.retain(|other| other.id != command.id);
                        self.pending.push(command);
                    }
                }
                3 => self.given_back += 1,
                _ => {}
            }
            return;
        }
        match (offset, bytes) {
            (0x14, 4) => self.configure(u32::try_from(value).unwrap()),
            (0x24, 4) => self.admin[0] = value,
            (0x28, 8) => self.admin[1] = value,
            (0x30, 8) => self.admin[2] = value,
            other => panic!("no driver writes {other:x?}"),
        }
    }
}

/// What is on a new disk, at this byte.
pub(super) fn pattern(at: u64) -> u8 {
    (at / 512).wrapping_mul(29).wrapping_add(at).to_le_bytes()[0]
}

/// A controller, and all that a driver is given for it.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) bus: Bus,
    pub(super) config: Rc<RefCell<FakeConfig>>,
    pub(super) controller: Rc<RefCell<Controller>>,
}

impl Machine {
    pub(super) fn new() -> Self {
        let bus = Bus::new();
        // As QEMU has it, with the table in the same BAR.
        let config = FakeConfig::new(0x1b36, 0x0010, [1, 8, 2])
            .with_memory(0, 0xfeb0_0000, 0x4000)
            .with_msix(65, 0, 0x2000);
        Self {
            controller: Rc::new(RefCell::new(Controller::new(&bus))),
            config: Rc::new(RefCell::new(config)),
            bus,
        }
    }

    pub(super) fn function(&self, interrupt: Interrupt) -> FakeFunction<Controller> {
        FakeFunction::new(&self.config, &self.controller, &self.bus, interrupt)
    }
}
