//! The simulated PCI bus: a bridge, and five functions that keep their configuration space and do as it says.
//!
//! | function | has |
//! |---|---|
//! | 00:00.0 | a bridge to another bus |
//! | 00:03.0 | two frames of registers with a table of four messages in the second, ports, a function-level reset |
//! | 00:04.0 | a frame of registers behind an address of 64 bits, one message that can be masked |
//! | 00:04.1 | registers that share a frame with those of 00:04.2 |
//! | 00:04.2 | likewise |
//! | 00:05.0 | nothing but a command register |

use crate::frames::Mfn;
use crate::pci::FunctionId;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// A function with all there is to have.
pub const RICH: FunctionId = FunctionId::new(0x18);
/// One with the least.
pub const PLAIN: FunctionId = FunctionId::new(0x20);
/// A bridge.
pub const BRIDGE: FunctionId = FunctionId::new(0);
/// One that has a frame in common with another.
pub const CROWDED: FunctionId = FunctionId::new(0x21);
/// One that has no registers, ports or messages.
pub const BARE: FunctionId = FunctionId::new(0x28);
/// Where capabilities are.
const MSI_X: u8 = 0x40;
const EXPRESS: u8 = 0x60;
const MSI: u8 = 0x50;
/// How long a reset takes.
const RESET_NS: u64 = 100_000_000;
/// The first of the ports of [`RICH`].
pub const PORTS: u16 = 0xc000;

/// A function's configuration space.
#[derive(Clone, Debug)]
struct SimFunction {
    words: [u32; 64],
    /// Which bits of each word can be written.
    writable: [u32; 64],
    /// What it is after a reset.
    initial: [u32; 64],
    /// How often it has been reset.
    resets: u32,
    /// Until when it is being reset, and not to be written to.
    ready_at: u64,
    /// Whether it waits for answers.
    is_pending: bool,
}

impl SimFunction {
    fn new(header: u8) -> Self {
        let mut function = Self {
            words: [0; 64],
            writable: [0; 64],
            initial: [0; 64],
            resets: 0,
            ready_at: 0,
            is_pending: false,
        };
        function.put(0, 0x1234_1af4, 0);
        // It has capabilities; and firmware has let it do everything.
        function.put(4, 0x0010_0007, 0x0000_ffff);
        function.put(12, u32::from(header) << 16, 0xff);
        function
    }

    fn put(&mut self, offset: u8, value: u32, writable: u32) {
        let at = usize::from(offset / 4);
        self.words[at] = value;
        self.writable[at] = writable;
    }

    /// A base address register.
    fn bar(&mut self, index: u8, value: u32, mask: u32) {
        self.put(
            0x10 + 4 * index,
            value,
            mask & if value & 1 == 0 { !0xf } else { !3 },
        );
    }

    fn finish(mut self, is_first: bool) -> Self {
        if is_first {
            self.words[3] |= 1 << 23;
        }
        self.initial = self.words;
        self.initial[1] &= !7;
        for bar in 4..10 {
            self.initial[bar] &= 0xf;
        }
        self
    }
}

/// All functions, and the tables of messages.
#[derive(Clone, Debug)]
pub(super) struct Bus {
    functions: BTreeMap<FunctionId, SimFunction>,
    /// What was written to each word of a table.
    tables: BTreeMap<u64, u32>,
}

impl Bus {
    /// A bus whose functions have their registers in these frames of devices.
    pub(super) fn new(frames: &[Mfn]) -> Self {
        let address = |n: usize| u32::try_from(frames[n].maddr()).unwrap();
        // The last eight are in one piece, and two that begin at an even number are wanted.
        let is_even = |at: &usize| frames[*at].raw().is_multiple_of(2);
        let at = (frames.len() - 6..).find(is_even).unwrap();
        let mut rich = SimFunction::new(0x80);
        rich.bar(0, address(at), 0xffff_e000);
        rich.bar(1, u32::from(PORTS) | 1, 0xffff_ffe1);
        rich.put(0x34, MSI_X.into(), 0);
        rich.put(MSI_X, 0x0003_0011 | u32::from(EXPRESS) << 8, 0xc000_0000);
        rich.put(MSI_X + 4, 0x1000, 0);
        rich.put(EXPRESS, 0x10, 0);
        rich.put(EXPRESS + 4, 1 << 28, 0);
        rich.put(EXPRESS + 8, 0, 0xffff);
        let mut plain = SimFunction::new(0x80);
        plain.bar(2, address(at + 2) | 4, 0xffff_f004);
        plain.put(0x1c, 0, u32::MAX);
        plain.put(0x34, MSI.into(), 0);
        plain.put(MSI, 0x0180_0005, 0x0071_0000);
        for offset in [4, 8, 12, 16] {
            plain.put(MSI + offset, 0, u32::MAX);
        }
        let mut crowded = SimFunction::new(0x80);
        crowded.bar(0, address(at + 3), 0xffff_ff00);
        let mut other = SimFunction::new(0x80);
        other.bar(0, address(at + 3) + 0x100, 0xffff_ff00);
        let all = [
            (BRIDGE, SimFunction::new(0x01).finish(false)),
            (RICH, rich.finish(false)),
            (PLAIN, plain.finish(true)),
            (CROWDED, crowded.finish(false)),
            (FunctionId::new(0x22), other.finish(false)),
            (BARE, SimFunction::new(0).finish(false)),
        ];
        Self {
            functions: all.into(),
            tables: BTreeMap::new(),
        }
    }

    pub(super) fn read(&self, id: FunctionId, offset: u8) -> u32 {
        assert!(offset.is_multiple_of(4));
        let Some(function) = self.functions.get(&id) else {
            return u32::MAX;
        };
        let word = function.words[usize::from(offset / 4)];
        let is_status = id == RICH && offset == EXPRESS + 8;
        word | if is_status && function.is_pending {
            1 << 21
        } else {
            0
        }
    }

    pub(super) fn write(&mut self, id: FunctionId, offset: u8, value: u32, now: u64) {
        assert!(offset.is_multiple_of(4));
        let Some(function) = self.functions.get_mut(&id) else {
            return;
        };
        assert!(
            now >= function.ready_at,
            "{id} is written to while it is being reset"
        );
        let at = usize::from(offset / 4);
        let writable = function.writable[at];
        function.words[at] = function.words[at] & !writable | value & writable;
        if id == RICH && offset == EXPRESS + 8 && value & 1 << 15 != 0 {
            function.words = function.initial;
            function.resets += 1;
            function.ready_at = now + RESET_NS;
            self.tables.clear();
        }
    }

    /// A word of a table: an entry is masked at first.
    pub(super) fn register(&self, address: u64) -> u32 {
        let initial = u32::from(address & 0xf == 0xc);
        self.tables.get(&address).copied().unwrap_or(initial)
    }

    pub(super) fn set_register(&mut self, address: u64, value: u32) {
        self.tables.insert(address, value);
    }

    /// Whether a function is there, and may not read and write memory.
    pub(super) fn is_kept(&self, id: FunctionId) -> bool {
        self.functions.contains_key(&id) && !self.is_master(id)
    }

    /// Whether a function may read and write memory.
    pub(super) fn is_master(&self, id: FunctionId) -> bool {
        self.read(id, 4) & 4 != 0
    }

    pub(super) fn resets(&self, id: FunctionId) -> u32 {
        self.functions[&id].resets
    }

    pub(super) fn set_pending(&mut self, is_pending: bool) {
        self.functions.get_mut(&RICH).unwrap().is_pending = is_pending;
    }

    pub(super) fn ids(&self) -> Vec<FunctionId> {
        self.functions.keys().copied().collect()
    }
}
