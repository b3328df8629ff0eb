//! One function: what its configuration space said at the start, and whose it is.

use super::FunctionId;
use super::config::{Config, Offset};
use crate::frames::Mfn;
use crate::machine::Machine;
use bulkhead_abi::DomId;
use core::ops::RangeInclusive;
use heapless::Vec;

/// How many functions are known, at most. Further ones nobody sees.
pub const MAX_FUNCTIONS: usize = 64;

/// Base address registers of a function.
pub(super) const BARS: u8 = 6;

/// Bits of the command register.
pub(super) mod command {
    /// Ports are answered.
    pub(in crate::pci) const PORTS: u32 = 1 << 0;
    /// Memory is answered.
    pub(in crate::pci) const MEMORY: u32 = 1 << 1;
    /// The function may read and write memory, and send messages.
    pub(in crate::pci) const MASTER: u32 = 1 << 2;
    /// Errors of parity are told.
    pub(in crate::pci) const PARITY: u32 = 1 << 6;
    /// Other errors are.
    pub(in crate::pci) const SERR: u32 = 1 << 8;
    /// The interrupt line is not used.
    pub(in crate::pci) const NO_LINE: u32 = 1 << 10;
    /// What an owner may change.
    pub(in crate::pci) const OWNERS: u32 = PORTS | MEMORY | MASTER | PARITY | SERR | NO_LINE;
    /// Where the status register begins in the same word. Ones that are written to it clear bits.
    pub(in crate::pci) const ALL: u32 = 0xffff;
}

/// How a function was put into the state that it has after a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// It was not, because it cannot be: it was kept from memory, and its driver has to reset it before that ends.
    Not,
    /// By a function-level reset.
    FunctionLevel,
}

/// A base address register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bar {
    /// What it holds.
    pub(super) value: u32,
    /// What it reads as after ones have been written.
    pub(super) mask: u32,
}

/// What a base address register leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// Registers or memory: machine address and bytes.
    Memory(u64, u64),
    /// Ports: the first, and how many.
    Ports(u16, u16),
}

impl Region {
    /// The frames that it touches.
    #[must_use]
    pub fn frames(self) -> Option<RangeInclusive<u64>> {
        match self {
            Self::Memory(address, bytes) => {
                let last = address.checked_add(bytes)?.checked_sub(1)?;
                Some(Mfn::from_maddr(address).raw()..=Mfn::from_maddr(last).raw())
            }
            Self::Ports(..) => None,
        }
    }
}

/// How it says by messages what others say by a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Msi {
    /// Where its capability is.
    pub(super) at: u8,
    /// Whether its address has 64 bits.
    pub(super) is_wide: bool,
    /// Whether its message can be masked.
    pub(super) is_maskable: bool,
}

/// The same with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MsiX {
    /// Where its capability is.
    pub(super) at: u8,
    /// The table's machine address.
    pub(super) table: u64,
    /// How many entries it has.
    pub(super) entries: u16,
}

/// Whose a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody's.
    Free,
    /// Nobody's, and it is being reset for somebody, until this moment.
    Preparing { until: u64 },
    /// Nobody's, and fit to be somebody's.
    Ready,
    /// Nobody's, and about to be somebody's.
    Promised,
    /// This domain's.
    Owned { by: DomId },
    /// This domain's, which ends. What is under way is awaited, until this moment at the latest.
    Draining { by: DomId, until: u64 },
    /// This domain's, which ends. It is being reset, until this moment.
    Resetting { by: DomId, until: u64 },
    /// This domain's, which ends. It is quiet.
    Quiet { by: DomId },
}

/// A function.
#[derive(Clone, Debug)]
pub struct Function {
    pub(super) id: FunctionId,
    /// Whether it is a part of the way to others.
    pub(super) is_bridge: bool,
    pub(super) bars: [Bar; BARS as usize],
    pub(super) msi: Option<Msi>,
    pub(super) msix: Option<MsiX>,
    /// Where its PCI Express capability is.
    pub(super) express: Option<u8>,
    /// Whether it can be reset by itself.
    pub(super) has_flr: bool,
    pub(crate) standing: Standing,
}

/// Capabilities that matter here.
mod capability {
    pub(super) const MSI: u8 = 0x05;
    pub(super) const EXPRESS: u8 = 0x10;
    pub(super) const MSI_X: u8 = 0x11;
}

/// The most capabilities that are looked at: as many as there is room for.
const MAX_CAPABILITIES: usize = 48;

/// Where registers of the PCI Express capability are, from its beginning.
pub(super) mod express {
    /// What the function can do.
    pub(in crate::pci) const CAPABILITIES: u8 = 0x04;
    /// There: it can be reset by itself.
    pub(in crate::pci) const HAS_FLR: u32 = 1 << 28;
    /// Control in the lower half, status in the upper.
    pub(in crate::pci) const CONTROL: u8 = 0x08;
    /// There: reset it.
    pub(in crate::pci) const RESET: u32 = 1 << 15;
    /// There: it still waits for answers to what it has asked for.
    pub(in crate::pci) const PENDING: u32 = 1 << 21;
}

impl Function {
    /// Looks at a function that answers, and keeps it from memory.
    pub(super) fn read<M: Machine>(config: &Config<'_, M>) -> Self {
        const BRIDGE: u32 = 0x06;
        let header = config.read(Offset::HEADER) >> 16 & 0x7f;
        // Some lead to other buses, or are the way to this one, though they look like any other function.
        let is_bridge = header != 0 || config.read(Offset::CLASS) >> 24 == BRIDGE;
        let mut function = Self {
            id: config.id,
            is_bridge,
            bars: [Bar::default(); BARS as usize],
            msi: None,
            msix: None,
            express: None,
            has_flr: false,
            standing: Standing::Free,
        };
        if is_bridge {
            return function;
        }
        function.size(config);
        function.read_capabilities(config);
        function
    }

    /// Finds out where its base address registers lead to, and how far.
    fn size<M: Machine>(&mut self, config: &Config<'_, M>) {
        let old = config.read(Offset::COMMAND) & command::ALL & !command::MASTER;
        // What is being sized answers to nobody.
        config.write(Offset::COMMAND, old & !(command::PORTS | command::MEMORY));
        for (at, bar) in (0_u8..).zip(&mut self.bars) {
            let offset = Offset::bar(at);
            bar.value = config.read(offset);
            config.write(offset, u32::MAX);
            bar.mask = config.read(offset);
            config.write(offset, bar.value);
        }
        config.write(Offset::COMMAND, old);
    }

    fn read_capabilities<M: Machine>(&mut self, config: &Config<'_, M>) {
        const HAS_CAPABILITIES: u32 = 1 << 20;
        if config.read(Offset::COMMAND) & HAS_CAPABILITIES == 0 {
            return;
        }
        let mut at = config.read(Offset::CAPABILITIES).to_le_bytes()[0] & 0xfc;
        for _ in 0..MAX_CAPABILITIES {
            if at < 0x40 {
                return;
            }
            let word = config.read(Offset(at));
            let [id, next, ..] = word.to_le_bytes();
            match id {
                capability::MSI => {
                    self.msi = Some(Msi {
                        at,
                        is_wide: word & 1 << 23 != 0,
                        is_maskable: word & 1 << 24 != 0,
                    });
                }
                capability::MSI_X => {
                    let place = config.read(Offset(at).plus(4));
                    let region = self.region(place.to_le_bytes()[0] & 7);
                    let entries = u16::try_from((word >> 16 & 0x7ff).saturating_add(1)).unwrap_or(1);
                    let offset = u64::from(place & !7);
                    if let Some(Region::Memory(address, bytes)) = region
                        && offset.saturating_add(u64::from(entries) << 4) <= bytes
                    {
                        let table = address.saturating_add(offset);
                        self.msix = Some(MsiX { at, table, entries });
                    }
                }
                capability::EXPRESS => {
                    self.express = Some(at);
                    let can = config.read(Offset(at).plus(express::CAPABILITIES));
                    self.has_flr = can & express::HAS_FLR != 0;
                }
                _ => {}
            }
            at = next & 0xfc;
        }
    }

    /// What it is.
    #[must_use]
    pub fn id(&self) -> FunctionId {
        self.id
    }

    /// Whether it is a part of the way to others: it is nobody's.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        self.is_bridge
    }

    /// Whose it is.
    #[must_use]
    pub fn owner(&self) -> Option<DomId> {
        match self.standing {
            Standing::Free | Standing::Preparing { .. } | Standing::Ready | Standing::Promised => None,
            Standing::Owned { by }
            | Standing::Draining { by, .. }
            | Standing::Resetting { by, .. }
            | Standing::Quiet { by } => Some(by),
        }
    }

    /// What base address register `index` leads to, if it is one and leads anywhere.
    #[must_use]
    pub fn region(&self, index: u8) -> Option<Region> {
        const IS_PORTS: u32 = 1 << 0;
        const IS_WIDE: u32 = 2 << 1;
        let index = usize::from(index);
        let bar = self.bars.get(index)?;
        if bar.mask & IS_PORTS != 0 {
            let mask = bar.mask & 0xfffc;
            let first = u16::try_from(bar.value & mask).ok()?;
            let count = u16::try_from(mask).ok()?.wrapping_neg();
            return (first != 0 && mask != 0).then_some(Region::Ports(first, count));
        }
        // The upper half of one is none itself.
        let is_wide = |at: usize| {
            self.bars
                .get(at)
                .is_some_and(|bar| bar.mask & IS_PORTS == 0 && bar.mask & 6 == IS_WIDE)
        };
        let is_upper = (0..index).fold(false, |is_upper, at| !is_upper && is_wide(at));
        if is_upper || bar.mask == 0 {
            return None;
        }
        let upper = if is_wide(index) {
            self.bars.get(index.checked_add(1)?).copied()?
        } else {
            Bar {
                value: 0,
                mask: u32::MAX,
            }
        };
        let join = |low: u32, high: u32| u64::from(low & !0xf) | u64::from(high) << 32;
        let mask = join(bar.mask, upper.mask);
        let address = join(bar.value, upper.value) & mask;
        let bytes = mask.wrapping_neg();
        (address != 0 && mask & !0xf != 0 && bytes.is_power_of_two())
            .then_some(Region::Memory(address, bytes))
    }

    /// What its base address registers held at the start.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn base_addresses(&self) -> impl Iterator<Item = (u8, u32)> {
        let offsets = (0..BARS).map(|index| Offset::bar(index).0);
        offsets.zip(self.bars.iter().map(|bar| bar.value))
    }

    /// All that its base address registers lead to.
    pub fn regions(&self) -> impl Iterator<Item = Region> {
        (0..BARS).filter_map(|index| self.region(index))
    }

    /// The frames with its table of messages.
    pub(crate) fn table_frames(&self) -> Option<RangeInclusive<u64>> {
        let MsiX { table, entries, .. } = self.msix?;
        Region::Memory(table, u64::from(entries) << 4).frames()
    }

    /// The frames that its owner has: of its memory, but for those with its table of messages.
    pub(crate) fn owned_frames(&self) -> Vec<RangeInclusive<u64>, { 2 * BARS as usize }> {
        let mut all = Vec::new();
        let mut add = |start: u64, end: Option<u64>| {
            if let Some(end) = end.filter(|&end| start <= end) {
                // There is room: a table splits what is around it in two.
                let _ = all.push(start..=end);
            }
        };
        for frames in self.regions().filter_map(Region::frames) {
            let (start, end) = frames.into_inner();
            match self.table_frames() {
                Some(table) if !mutant!(TableMapped) && *table.start() <= end && start <= *table.end() => {
                    add(start, table.start().checked_sub(1));
                    add(table.end().saturating_add(1), Some(end));
                }
                _ => add(start, Some(end)),
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(bars: [(u32, u32); 6], table: Option<(u64, u16)>) -> Function {
        Function {
            id: FunctionId::new(0x18),
            is_bridge: false,
            bars: bars.map(|(value, mask)| Bar { value, mask }),
            msi: None,
            msix: table.map(|(table, entries)| MsiX {
                at: 0x40,
                table,
                entries,
            }),
            express: None,
            has_flr: false,
            standing: Standing::Free,
        }
    }

    #[test]
    fn base_addresses_lead_to_ports_and_memory_of_32_and_64_bits() {
        let bars = [
            (0xfebd_4004, 0xffff_c004),
            (0x1, 0xffff_ffff),
            (0xc001, 0xffff_ffe1),
            (0xfebd_5000, 0xffff_f000),
            (0, 0),
            (0, 0xffff_0000),
        ];
        let all: std::vec::Vec<_> = (0..7).map(|n| function(bars, None).region(n)).collect();
        assert_eq!(
            all,
            [
                Some(Region::Memory(0x1_febd_4000, 0x4000)),
                None,
                Some(Region::Ports(0xc000, 0x20)),
                Some(Region::Memory(0xfebd_5000, 0x1000)),
                None,
                None,
                None,
            ],
            "the last has no address"
        );
    }

    #[test]
    fn what_follows_the_upper_half_of_one_is_one_again() {
        let bars = [
            (0x4, 0xffff_f004),
            (0x2, 0xffff_ffff),
            (0xd000_0004, 0xffff_f004),
            (0, 0xffff_ffff),
            (0xe000_0000, 0xffff_fff0),
            (0, 0),
        ];
        let all: std::vec::Vec<_> = function(bars, None).regions().collect();
        assert_eq!(
            all,
            [
                Region::Memory(0x2_0000_0000, 0x1000),
                Region::Memory(0xd000_0000, 0x1000),
                Region::Memory(0xe000_0000, 0x10),
            ]
        );
    }

    #[test]
    fn an_owner_has_the_frames_around_the_table_of_messages() {
        let mut bars = [(0, 0); 6];
        bars[0] = (0xfe00_0000, 0xffff_c000);
        let frames = |table| function(bars, table).owned_frames().to_vec();
        assert_eq!(frames(None), [0xfe000..=0xfe003]);
        assert_eq!(
            frames(Some((0xfe00_1000, 4))),
            [0xfe000..=0xfe000, 0xfe002..=0xfe003]
        );
        assert_eq!(frames(Some((0xfe00_0800, 256))), [0xfe002..=0xfe003]);
        assert_eq!(frames(Some((0xfe00_3ff0, 1))), [0xfe000..=0xfe002]);
    }
}
