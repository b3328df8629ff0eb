//! A simulated virtio disk, which does as it is told: by the driver, and by the test.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::LazyLock;

use bulkhead_devices::BusAddress;
use bulkhead_devices::function::Interrupt;
use bulkhead_devices::testing::{Bus, Device, FakeFunction};
use bulkhead_pci::testing::FakeConfig;

pub(super) const SECTORS: u64 = 4096;

pub(super) const INDIRECT: u64 = 1 << 28;
pub(super) const EVENT_INDEX: u64 = 1 << 29;
/// What QEMU's disks have: limits, block size, flush, topology, discard, both kinds of saving, virtio 1.
pub(super) const FEATURES: u64 =
    1 << 2 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 13 | INDIRECT | EVENT_INDEX | 1 << 32;

/// What is on a new disk, all of it.
static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| (0..SECTORS * 512).map(pattern).collect());

/// Where the parts are in BAR 4.
const COMMON: u64 = 0;
const CONFIG: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const MULTIPLIER: u64 = 4;

/// A request that the device has taken and not answered.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) head: u16,
    pub(super) buffers: Vec<(BusAddress, usize, bool)>,
}

#[derive(Debug)]
pub(super) struct Disk {
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
    size: u16,
    vector: u16,
    config_vector: u16,
    is_enabled: bool,
    addresses: [u64; 3],
    fetched: u16,
    pub(super) used: u16,
    pub(super) config: Vec<u8>,
    pub(super) content: Vec<u8>,
    pub(super) pending: Vec<Chain>,
    pub(super) doorbells: usize,
    pub(super) interrupts: usize,
    pub(super) flushes: usize,
    pub(super) discarded: Vec<(u64, u32, u32)>,
    /// Does not look at the queue when its doorbell rings.
    pub(super) is_asleep: bool,
    /// Has said what is not so.
    pub(super) is_hostile: bool,
}

impl Disk {
    pub(super) fn new(bus: &Bus) -> Self {
        let mut config = vec![0; 60];
        let mut put = |at: usize, value: u32| config[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(0, u32::try_from(SECTORS).unwrap());
        put(12, 254);
        put(20, 512);
        put(24, 3);
        put(36, 2048);
        put(40, 1);
        put(44, 8);
        Self {
            bus: bus.clone(),
            status: 0x0f,
            offered: FEATURES,
            agreed: 0,
            refuses_features: false,
            never_resets: false,
            refuses_vector: false,
            generation_runs: false,
            max_size: 256,
            notify_place: 3,
            selected: [0; 2],
            generation: 0,
            size: 0,
            vector: 0xffff,
            config_vector: 0xffff,
            is_enabled: false,
            addresses: [0; 3],
            fetched: 0,
            used: 0,
            config,
            content: CONTENT.clone(),
            pending: Vec::new(),
            doorbells: 0,
            interrupts: 0,
            flushes: 0,
            discarded: Vec::new(),
            is_asleep: false,
            is_hostile: false,
        }
    }

    fn reset(&mut self) {
        self.size = self.max_size;
        self.is_enabled = false;
        (self.vector, self.config_vector) = (0xffff, 0xffff);
        (self.fetched, self.used, self.agreed) = (0, 0, 0);
        self.pending.clear();
    }

    fn load16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.bus.read(BusAddress(address)))
    }

    fn store16(&self, address: u64, value: u16) {
        self.bus.write(BusAddress(address), &value.to_le_bytes());
    }

    pub(super) fn used_ring(&self) -> u64 {
        self.addresses[2]
    }

    fn offers(&self) -> u64 {
        self.addresses[1]
    }

    /// Takes what is in the queue, and says from when on it wants to be told again.
    pub(super) fn fetch(&mut self) {
        assert_eq!(self.status, 0x0f, "nothing is taken before the driver is ready");
        let available = self.load16(self.offers() + 2);
        assert!(
            available.wrapping_sub(self.fetched) <= self.size,
            "more is offered than there is room for"
        );
        while self.fetched != available {
            let at = u64::from(self.fetched % self.size) * 2;
            let head = self.load16(self.offers() + 4 + at);
            // What the device says to have done and has not, may well be offered again.
            let is_new = self.pending.iter().all(|chain| chain.head != head);
            assert!(is_new || self.is_hostile, "what is offered is offered again");
            self.pending.retain(|chain| chain.head != head);
            let chain = self.chain(head);
            self.pending.push(chain);
            self.fetched = self.fetched.wrapping_add(1);
        }
        if self.agreed & EVENT_INDEX != 0 {
            self.store16(self.used_ring() + 4 + u64::from(self.size) * 8, self.fetched);
        }
    }

    /// Takes a request of which it was not told yet.
    pub(super) fn foresee(&mut self, head: u16) {
        let chain = self.chain(head);
        self.pending.push(chain);
    }

    fn chain(&self, head: u16) -> Chain {
        let mut buffers = Vec::new();
        let (mut table, mut len, mut id) = (self.addresses[0], u64::from(self.size), u64::from(head));
        loop {
            assert!(id < len, "a descriptor leads out of its table");
            let bytes: [u8; 16] = self.bus.read(BusAddress(table + id * 16));
            let word = u128::from_le_bytes(bytes);
            let [address, size, flags, next] = [word, word >> 64, word >> 96, word >> 112];
            let (address, size) = (low64(address), low64(size & 0xffff_ffff));
            if flags & 4 != 0 {
                assert!(self.agreed & INDIRECT != 0 && table == self.addresses[0] && flags & 3 == 0);
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
                return Chain { head, buffers };
            }
            id = low64(next & 0xffff);
        }
    }

    /// Does a request, as a good device does; returns how many bytes it has written.
    pub(super) fn perform(&mut self, chain: &Chain) -> u32 {
        let [(header, 16, false), data @ .., (status, 1, true)] = &chain.buffers[..] else {
            panic!("no request is like {chain:?}");
        };
        let header: [u8; 16] = self.bus.read(*header);
        let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
        let sector = u64::from_le_bytes(header[8..].try_into().unwrap());
        assert_eq!(header[4..8], [0; 4]);
        let mut written = 1;
        let mut at = usize::try_from(sector * 512).unwrap();
        for &(address, bytes, is_written) in data {
            let place = at..at + bytes;
            at += bytes;
            match kind {
                0 => {
                    assert!(is_written);
                    self.bus.write(address, &self.content[place]);
                    written += u32::try_from(bytes).unwrap();
                }
                1 => {
                    assert!(!is_written);
                    self.bus.copy_out(address, &mut self.content[place]);
                }
                11 => {
                    assert!(!is_written && bytes == 16);
                    let range: [u8; 16] = self.bus.read(address);
                    let range = u128::from_le_bytes(range);
                    let [count, flags] =
                        [64, 96].map(|shift| u32::try_from(range >> shift & 0xffff_ffff).unwrap());
                    self.discarded.push((low64(range), count, flags));
                }
                _ => panic!("{kind} has no data"),
            }
        }
        self.flushes += usize::from(kind == 4);
        self.bus.write(*status, &[0]);
        written
    }

    /// Completes the pending request with this number.
    pub(super) fn complete(&mut self, n: usize) {
        let chain = self.pending.remove(n);
        let written = self.perform(&chain);
        self.push(chain.head.into(), written);
    }

    /// Puts something into the ring of what is used.
    pub(super) fn push(&mut self, head: u32, bytes: u32) {
        let at = self.used_ring() + 4 + u64::from(self.used % self.size) * 8;
        self.bus.write(BusAddress(at), &head.to_le_bytes());
        self.bus.write(BusAddress(at + 4), &bytes.to_le_bytes());
        let before = self.used;
        self.used = before.wrapping_add(1);
        self.store16(self.used_ring() + 2, self.used);
        let is_wanted = if self.agreed & EVENT_INDEX != 0 {
            self.load16(self.offers() + 4 + u64::from(self.size) * 2) == before
        } else {
            self.load16(self.offers()) & 1 == 0
        };
        self.interrupts += usize::from(is_wanted && self.vector == 0);
    }

    /// Takes and completes everything.
    pub(super) fn work(&mut self) {
        self.fetch();
        while !self.pending.is_empty() {
            self.complete(0);
        }
    }
}

impl Device for Disk {
    fn read(&mut self, bar: u8, offset: u64, bytes: usize) -> u64 {
        assert_eq!(bar, 4);
        if let Some(at) = offset.checked_sub(CONFIG) {
            let at = usize::try_from(at).unwrap();
            let mut value = [0; 8];
            value[..bytes].copy_from_slice(&self.config[at..at + bytes]);
            return u64::from_le_bytes(value);
        }
        match (offset - COMMON, bytes) {
            (4, 4) => self.offered >> (32 * self.selected[0]) & 0xffff_ffff,
            (16, 2) => self.config_vector.into(),
            (20, 1) => self.status.into(),
            (21, 1) => {
                self.generation = self.generation.wrapping_add(self.generation_runs.into());
                self.generation.into()
            }
            (24, 2) => self.size.into(),
            (26, 2) => self.vector.into(),
            (28, 2) => self.is_enabled.into(),
            (30, 2) => self.notify_place.into(),
            (other, _) => panic!("no driver reads {bytes} bytes at {other:#x}"),
        }
    }

    fn write(&mut self, bar: u8, offset: u64, bytes: usize, value: u64) {
        assert_eq!(bar, 4);
        if offset >= NOTIFY {
            assert_eq!(
                (offset - NOTIFY, bytes, value),
                (u64::from(self.notify_place) * MULTIPLIER, 2, 0)
            );
            self.doorbells += 1;
            if !self.is_asleep {
                self.fetch();
            }
            return;
        }
        let narrow = u32::try_from(value).unwrap();
        let half = |old: u64, n: u64| old & !(0xffff_ffff << (n * 32)) | value << (n * 32);
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
            (22, 2) => assert_eq!(value, 0),
            (24, 2) => self.size = u16::try_from(value).unwrap(),
            (26, 2) => {
                let value = u16::try_from(value).unwrap();
                self.vector = if self.refuses_vector { 0xffff } else { value };
            }
            (28, 2) => {
                assert_eq!(value, 1);
                self.is_enabled = true;
            }
            (at @ 32..56, 4) => {
                let at = usize::try_from(at - 32).unwrap();
                let address = &mut self.addresses[at / 8];
                *address = half(*address, u64::try_from(at % 8 / 4).unwrap());
            }
            (other, _) => panic!("no driver writes {bytes} bytes at {other:#x}"),
        }
    }
}

/// What is on a new disk, at this byte.
pub(super) fn pattern(at: u64) -> u8 {
    (at / 512).wrapping_mul(31).wrapping_add(at).to_le_bytes()[0]
}

fn low64(value: u128) -> u64 {
    u64::try_from(value & u128::from(u64::MAX)).unwrap()
}

/// A disk's function, as QEMU has it.
pub(super) fn config() -> FakeConfig {
    let mut config = FakeConfig::new(0x1af4, 0x1042, [1, 0, 0])
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
    part(4, 60, CONFIG, &[]);
    part(2, 0x100, NOTIFY, &[u32::try_from(MULTIPLIER).unwrap()]);
    config
}

/// A device, and all that a driver is given for it.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) bus: Bus,
    pub(super) config: Rc<RefCell<FakeConfig>>,
    pub(super) disk: Rc<RefCell<Disk>>,
}

impl Machine {
    pub(super) fn new() -> Self {
        let bus = Bus::new();
        let disk = Rc::new(RefCell::new(Disk::new(&bus)));
        let config = Rc::new(RefCell::new(config()));
        Self { bus, config, disk }
    }

    pub(super) fn function(&self) -> FakeFunction<Disk> {
        FakeFunction::new(&self.config, &self.disk, &self.bus, Interrupt::Entry(0))
    }
}
