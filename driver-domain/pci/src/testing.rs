//! Configuration spaces in memory, for tests.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "whoever leaves configuration space fails the test"
)]

use alloc::collections::BTreeMap;
use core::cell::RefCell;

use crate::{Address, ConfigSpace};

/// One function's configuration space, as a program would see it.
#[derive(Clone, Debug)]
pub struct FakeConfig {
    words: [u32; 64],
    /// Which bits can be written.
    writable: [u32; 64],
    /// The last capability, in whose second byte the next is named.
    last: Option<u8>,
    free: u8,
}

impl FakeConfig {
    /// A function of this vendor and kind, without registers and capabilities.
    #[must_use]
    pub fn new(vendor: u16, device: u16, class: [u8; 3]) -> Self {
        let mut config = Self {
            words: [0; 64],
            writable: [0; 64],
            last: None,
            free: 0x40,
        };
        config.set(0, u32::from(device) << 16 | u32::from(vendor));
        config.set(
            8,
            u32::from(class[0]) << 24 | u32::from(class[1]) << 16 | u32::from(class[2]) << 8,
        );
        config.writable[1] = 0x0407;
        config
    }

    /// A bridge to another bus.
    #[must_use]
    pub fn bridge(secondary: u8) -> Self {
        let mut config = Self::new(0x8086, 0x2448, [6, 4, 0]);
        config.set(0xc, 1 << 16);
        config.set(0x18, u32::from(secondary) << 16 | u32::from(secondary) << 8);
        config
    }

    /// The four bytes at an offset.
    #[must_use]
    pub fn get(&self, offset: u8) -> u32 {
        self.words[usize::from(offset / 4)]
    }

    /// Puts four bytes at an offset, whatever can be written there.
    pub fn set(&mut self, offset: u8, value: u32) {
        self.words[usize::from(offset / 4)] = value;
    }

    /// Says that there are other functions of the device.
    #[must_use]
    pub fn with_siblings(mut self) -> Self {
        self.words[3] |= 1 << 23;
        self
    }

    /// Adds a memory BAR with 64 bits.
    #[must_use]
    pub fn with_memory(mut self, bar: u8, address: u64, bytes: u64) -> Self {
        let n = 4 + usize::from(bar);
        let mask = bytes.wrapping_neg();
        (self.words[n], self.words[n + 1]) = (low(address) | 4, low(address >> 32));
        (self.writable[n], self.writable[n + 1]) = (low(mask), low(mask >> 32));
        self
    }

    /// Adds a memory BAR with 32 bits.
    #[must_use]
    pub fn with_small_memory(mut self, bar: u8, address: u32, bytes: u32) -> Self {
        let n = 4 + usize::from(bar);
        (self.words[n], self.writable[n]) = (address, bytes.wrapping_neg());
        self
    }

    /// Adds a BAR of ports.
    #[must_use]
    pub fn with_ports(mut self, bar: u8, first: u16, count: u16) -> Self {
        let n = 4 + usize::from(bar);
        let mask = u32::from(count).wrapping_neg();
        (self.words[n], self.writable[n]) = (u32::from(first) | 1, mask & 0xffff);
        self
    }

    /// Adds a capability: the upper half of its first four bytes, and what follows. Returns where it is.
    pub fn add_capability(&mut self, id: u8, control: u16, rest: &[u32]) -> u8 {
        let at = self.free;
        match self.last.replace(at) {
            None => {
                self.words[1] |= 1 << 20;
                self.set(0x34, at.into());
            }
            Some(last) => {
                let word = self.get(last);
                self.set(last, word | u32::from(at) << 8);
            }
        }
        self.set(at, u32::from(control) << 16 | u32::from(id));
        for (word, offset) in rest.iter().zip((at + 4..).step_by(4)) {
            self.set(offset, *word);
        }
        self.free = at + 4 + 4 * u8::try_from(rest.len()).unwrap();
        at
    }

    /// Adds an MSI-X capability.
    #[must_use]
    pub fn with_msix(mut self, entries: u16, table_bar: u8, table_offset: u32) -> Self {
        let table = table_offset | u32::from(table_bar);
        self.add_capability(0x11, entries - 1, &[table, table + 0x800]);
        self
    }

    /// What a program reads.
    #[must_use]
    pub fn read(&self, offset: u8) -> u32 {
        assert_eq!(offset % 4, 0, "configuration space is read in words");
        self.get(offset)
    }

    /// A program writes.
    pub fn write(&mut self, offset: u8, value: u32) {
        assert_eq!(offset % 4, 0, "configuration space is written in words");
        let n = usize::from(offset / 4);
        self.words[n] = self.words[n] & !self.writable[n] | value & self.writable[n];
    }
}

const fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// A machine's configuration space.
#[derive(Debug, Default)]
pub struct FakeSpace(RefCell<BTreeMap<Address, FakeConfig>>);

impl FakeSpace {
    /// No function.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a function there.
    pub fn put(&self, address: Address, config: FakeConfig) {
        self.0.borrow_mut().insert(address, config);
    }

    /// What is there now.
    #[must_use]
    pub fn get(&self, address: Address) -> Option<FakeConfig> {
        self.0.borrow().get(&address).cloned()
    }
}

impl ConfigSpace for FakeSpace {
    fn read(&self, function: Address, offset: u8) -> u32 {
        self.0
            .borrow()
            .get(&function)
            .map_or(u32::MAX, |config| config.read(offset))
    }

    fn write(&self, function: Address, offset: u8, value: u32) {
        if let Some(config) = self.0.borrow_mut().get_mut(&function) {
            config.write(offset, value);
        }
    }
}
