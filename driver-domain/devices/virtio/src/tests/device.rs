//! A simulated virtio device, which does as it is told: by the driver, and by the test. What kind of device it is, is added to it.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::rc::Rc;

use bulkhead_devices::BusAddress;
use bulkhead_devices::disk::Segment;
use bulkhead_devices::function::Interrupt;
use bulkhead_devices::testing::{Bus, Device, FakeFunction};
use bulkhead_pci::testing::FakeConfig;
use bulkhead_pci::{command, offset};

pub(super) const INDIRECT: u64 = 1 << 28;
pub(super) const EVENT_INDEX: u64 = 1 << 29;
pub(super) const VERSION_1: u64 = 1 << 32;

/// Where the parts are in BAR 4.
const COMMON: u64 = 0;
const CONFIG: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const MULTIPLIER: u64 = 4;

/// A request that the device has taken and not answered.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) queue: usize,
    pub(super) head: u16,
    pub(super) buffers: Vec<(BusAddress, usize, bool)>,
}

/// A queue, as the device knows it.
#[derive(Debug)]
struct Ring {
    size: u16,
    vector: u16,
    is_enabled: bool,
    addresses: [u64; 3],
    fetched: u16,
    used: u16,
}

impl Ring {
    const fn new(size: u16) -> Self {
        Self {
            size,
            vector: 0xffff,
            is_enabled: false,
            addresses: [0; 3],
            fetched: 0,
            used: 0,
        }
    }
}

/// What a device is beside a virtio device.
pub(super) trait Kind: fmt::Debug {
    /// Its number among virtio devices.
    const NUMBER: u16;
    /// What it is by PCI: revision, interface, subclass, class as configuration space has them.
    const CLASS: [u8; 3];
    const QUEUES: usize;

    /// What it offers, its configuration, and the rest of it.
    fn new() -> (u64, Vec<u8>, Self);
}

#[derive(Debug)]
pub(super) struct Virtio<K> {
    pub(super) bus: Bus,
    pub(super) status: u8,
    pub(super) offered: u64,
    pub(super) agreed: u64,
    pub(super) refuses_features: bool,
    pub(super) never_resets: bool,
    pub(super) refuses_vector: bool,
    pub(super) generation_runs: bool,
    pub(super) max_size: u16,
    pub(super) notify_place: u16,
    selected: [u32; 2],
    generation: u8,
    config_vector: u16,
    selected_ring: usize,
    rings: Vec<Ring>,
    pub(super) config: Vec<u8>,
    pub(super) pending: Vec<Chain>,
    pub(super) doorbells: usize,
    pub(super) interrupts: usize,
    /// Does not look at the queue when its doorbell rings.
    pub(super) is_asleep: bool,
    /// Has said what is not so.
    pub(super) is_hostile: bool,
    pub(super) kind: K,
}

impl<K: Kind> Virtio<K> {
    fn new(bus: &Bus) -> Self {
        let (offered, config, kind) = K::new();
        Self {
            bus: bus.clone(),
            status: 0x0f,
            offered,
            agreed: 0,
            refuses_features: false,
            never_resets: false,
            refuses_vector: false,
            generation_runs: false,
            max_size: 256,
            notify_place: 3,
            selected: [0; 2],
            generation: 0,
            config_vector: 0xffff,
            selected_ring: 0,
            rings: (0..K::QUEUES).map(|_| Ring::new(0)).collect(),
            config,
            pending: Vec::new(),
            doorbells: 0,
            interrupts: 0,
            is_asleep: false,
            is_hostile: false,
            kind,
        }
    }

    fn reset(&mut self) {
        for ring in &mut self.rings {
            // One that is hostile remembers where it was.
            *ring = Ring {
                addresses: ring.addresses,
                ..Ring::new(self.max_size)
            };
        }
        self.config_vector = 0xffff;
        self.agreed = 0;
        self.pending.clear();
    }

    fn load16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.bus.read(BusAddress(address)))
    }

    fn store16(&self, address: u64, value: u16) {
        self.bus.write(BusAddress(address), &value.to_le_bytes());
    }

    pub(super) fn used_ring(&self, queue: usize) -> u64 {
        self.rings[queue].addresses[2]
    }

    fn offers(&self, queue: usize) -> u64 {
        self.rings[queue].addresses[1]
    }

    /// Takes what is in a queue, and says from when on it wants to be told again.
    pub(super) fn fetch(&mut self, queue: usize) {
        assert_eq!(self.status, 0x0f, "nothing is taken before the driver is ready");
        let available = self.load16(self.offers(queue) + 2);
        let size = self.rings[queue].size;
        assert!(
            available.wrapping_sub(self.rings[queue].fetched) <= size,
            "more is offered than there is room for"
        );
        while self.rings[queue].fetched != available {
            let at = u64::from(self.rings[queue].fetched % size) * 2;
            let head = self.load16(self.offers(queue) + 4 + at);
            // What the device says to have done and has not, may well be offered again.
            let is_same = |chain: &Chain| (chain.queue, chain.head) == (queue, head);
            let is_new = !self.pending.iter().any(is_same);
            assert!(is_new || self.is_hostile, "what is offered is offered again");
            self.pending.retain(|chain| !is_same(chain));
            self.foresee(queue, head);
            self.rings[queue].fetched = self.rings[queue].fetched.wrapping_add(1);
        }
        if self.agreed & EVENT_INDEX != 0 {
            self.store16(
                self.used_ring(queue) + 4 + u64::from(size) * 8,
                self.rings[queue].fetched,
            );
        }
    }

    /// Takes a request of which it was not told yet.
    pub(super) fn foresee(&mut self, queue: usize, head: u16) {
        let chain = self.chain(queue, head);
        self.pending.push(chain);
    }

    fn chain(&self, queue: usize, head: u16) -> Chain {
        let mut buffers = Vec::new();
        let first_table = self.rings[queue].addresses[0];
        let (mut table, mut len, mut id) = (first_table, u64::from(self.rings[queue].size), u64::from(head));
        loop {
            assert!(id < len, "a descriptor leads out of its table");
            let bytes: [u8; 16] = self.bus.read(BusAddress(table + id * 16));
            let word = u128::from_le_bytes(bytes);
            let [address, size, flags, next] = [word, word >> 64, word >> 96, word >> 112];
            let (address, size) = (low64(address), low64(size & 0xffff_ffff));
            if flags & 4 != 0 {
                assert!(self.agreed & INDIRECT != 0 && table == first_table && flags & 3 == 0);
                (table, len, id) = (address, size / 16, 0);
                continue;
            }
            let is_written = flags & 2 != 0;
            let goes_back = buffers
                .last()
                .is_some_and(|&(_, _, before)| before && !is_written);
            assert!(!goes_back, "what is written comes last");
            buffers.push((BusAddress(address), usize::try_from(size).unwrap(), is_written));
            assert!(buffers.len() <= 256, "a chain leads in circles");
            if flags & 1 == 0 {
                return Chain { queue, head, buffers };
            }
            id = low64(next & 0xffff);
        }
    }

    /// Puts something into the ring of what is used.
    pub(super) fn push(&mut self, queue: usize, head: u32, bytes: u32) {
        let (size, before) = (self.rings[queue].size, self.rings[queue].used);
        let at = self.used_ring(queue) + 4 + u64::from(before % size) * 8;
        self.bus.write(BusAddress(at), &head.to_le_bytes());
        self.bus.write(BusAddress(at + 4), &bytes.to_le_bytes());
        self.rings[queue].used = before.wrapping_add(1);
        self.store16(self.used_ring(queue) + 2, before.wrapping_add(1));
        let is_wanted = if self.agreed & EVENT_INDEX != 0 {
            self.load16(self.offers(queue) + 4 + u64::from(size) * 2) == before
        } else {
            self.load16(self.offers(queue)) & 1 == 0
        };
        self.interrupts += usize::from(is_wanted && self.rings[queue].vector == 0);
    }
}

impl<K: Kind> Device for Virtio<K> {
    fn read(&mut self, bar: u8, offset: u64, bytes: usize) -> u64 {
        assert_eq!(bar, 4);
        if let Some(at) = offset.checked_sub(CONFIG) {
            let at = usize::try_from(at).unwrap();
            let mut value = [0; 8];
            value[..bytes].copy_from_slice(&self.config[at..at + bytes]);
            return u64::from_le_bytes(value);
        }
        let ring = self.rings.get(self.selected_ring);
        match (offset - COMMON, bytes) {
            (4, 4) => self.offered >> (32 * self.selected[0]) & 0xffff_ffff,
            (16, 2) => self.config_vector.into(),
            (20, 1) => self.status.into(),
            (21, 1) => {
                self.generation = self.generation.wrapping_add(self.generation_runs.into());
                self.generation.into()
            }
            (24, 2) => ring.map_or(0, |ring| ring.size.into()),
            (26, 2) => ring.map_or(0, |ring| ring.vector.into()),
            (28, 2) => ring.map_or(0, |ring| ring.is_enabled.into()),
            (30, 2) => self.notify_place.into(),
            (other, _) => panic!("no driver reads {bytes} bytes at {other:#x}"),
        }
    }

    fn write(&mut self, bar: u8, offset: u64, bytes: usize, value: u64) {
        assert_eq!(bar, 4);
        if offset >= NOTIFY {
            assert_eq!(
                (offset - NOTIFY, bytes),
                (u64::from(self.notify_place) * MULTIPLIER, 2)
            );
            self.doorbells += 1;
            if !self.is_asleep {
                self.fetch(usize::try_from(value).unwrap());
            }
            return;
        }
        let narrow = u32::try_from(value).unwrap();
        let half = |old: u64, n: u64| old & !(0xffff_ffff << (n * 32)) | value << (n * 32);
        let ring = self.rings.get_mut(self.selected_ring);
        match (offset - COMMON, bytes) {
            (0, 4) => self.selected[0] = narrow,
            (8, 4) => self.selected[1] = narrow,
            (12, 4) => self.agreed = half(self.agreed, self.selected[1].into()),
            (16, 2) => self.config_vector = u16::try_from(value).unwrap(),
            (20, 1) if value == 0 && self.never_resets => {}
            (20, 1) => {
                self.status = u8::try_from(value).unwrap();
                if value == 0 {
                    self.reset();
                }
                let is_known = self.agreed & !self.offered == 0;
                assert!(is_known, "the driver agrees to what was not offered");
                if self.refuses_features {
                    self.status &= !8;
                }
            }
            (22, 2) => {
                self.selected_ring = usize::try_from(value).unwrap();
                assert!(self.selected_ring < K::QUEUES);
            }
            (24, 2) => ring.unwrap().size = u16::try_from(value).unwrap(),
            (26, 2) => {
                let value = u16::try_from(value).unwrap();
                ring.unwrap().vector = if self.refuses_vector { 0xffff } else { value };
            }
            (28, 2) => {
                assert_eq!(value, 1);
                ring.unwrap().is_enabled = true;
            }
            (at @ 32..56, 4) => {
                let at = usize::try_from(at - 32).unwrap();
                let address = &mut ring.unwrap().addresses[at / 8];
                *address = half(*address, u64::try_from(at % 8 / 4).unwrap());
            }
            (other, _) => panic!("no driver writes {bytes} bytes at {other:#x}"),
        }
    }
}

pub(super) fn low64(value: u128) -> u64 {
    u64::try_from(value & u128::from(u64::MAX)).unwrap()
}

/// A function as QEMU has it.
fn config<K: Kind>(bytes: usize) -> FakeConfig {
    let mut config = FakeConfig::new(0x1af4, 0x1040 + K::NUMBER, K::CLASS)
        .with_small_memory(1, 0xfeb0_0000, 0x1000)
        .with_memory(4, 0xfe00_0000, 0x4000)
        .with_msix(2, 1, 0);
    let mut part = |kind: u16, bytes: u32, at: u64, rest: &[u32]| {
        let mut words = vec![4, u32::try_from(at).unwrap(), bytes];
        words.extend(rest);
        config.add_capability(9, kind << 8 | u16::try_from(4 * words.len() + 4).unwrap(), &words);
    };
    // One that nobody can use, of a kind that is there twice.
    part(1, 8, 0x3800, &[]);
    part(1, 56, COMMON, &[]);
    part(4, u32::try_from(bytes).unwrap(), CONFIG, &[]);
    part(2, 0x100, NOTIFY, &[u32::try_from(MULTIPLIER).unwrap()]);
    config
}

/// A device, and all that a driver is given for it.
#[derive(Debug)]
pub(super) struct Machine<K> {
    pub(super) bus: Bus,
    config: Rc<RefCell<FakeConfig>>,
    device: Rc<RefCell<Virtio<K>>>,
}

impl<K: Kind> Machine<K> {
    pub(super) fn new() -> Self {
        let bus = Bus::new();
        let device = Virtio::new(&bus);
        let config = Rc::new(RefCell::new(config::<K>(device.config.len())));
        Self {
            bus,
            config,
            device: Rc::new(RefCell::new(device)),
        }
    }

    pub(super) fn function(&self) -> FakeFunction<Virtio<K>> {
        FakeFunction::new(&self.config, &self.device, &self.bus, Interrupt::Entry(0))
    }

    pub(super) fn device(&self) -> RefMut<'_, Virtio<K>> {
        self.device.borrow_mut()
    }

    /// Pages, all apart.
    pub(super) fn pages(&self, count: usize) -> Vec<Segment> {
        (0..count)
            .map(|_| Segment {
                address: self.bus.add(4096),
                bytes: 4096,
            })
            .collect()
    }

    pub(super) fn is_master(&self) -> bool {
        self.config.borrow().read(offset::COMMAND) & command::BUS_MASTER != 0
    }
}
