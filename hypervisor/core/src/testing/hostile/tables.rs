//! What the guest tries with page tables.

use super::grants::Mapped;
use super::{Hostile, PLAY, PLAY_PAGES};
use crate::domains::DomainTable;
use crate::frames::words::TypeWord;
use crate::frames::{FrameTable, Kind, Mfn};
use crate::sync::Ordering;
use crate::testing::{Act, Choices, Ram, World};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use bulkhead_abi::mmu::{MmuExt, MmuExtOp, MmuUpdate};
use bulkhead_abi::{layout, pte};

/// A guest's thoughts: what it knows, and what it knows of its frames.
pub(super) struct Mind<'a> {
    pub(super) ram: &'a Ram,
    pub(super) frames: &'a FrameTable,
    pub(super) guest: &'a Hostile,
    pub(super) others: &'a [&'a Hostile],
    pub(super) domains: &'a DomainTable,
    /// The time.
    pub(super) now: u64,
    /// Its mappings of others' grants.
    pub(super) mapped: Vec<Mapped>,
    /// Frames of devices, whoever owns them.
    pub(super) devices: Vec<Mfn>,
}

impl Mind<'_> {
    /// What a frame is used as at this moment.
    pub(super) fn kind(&self, mfn: Mfn) -> Kind {
        self.frames.typing(mfn).map_or(Kind::None, TypeWord::in_use_as)
    }

    /// A page that it plays with. One that it gave back may have come to be of its grant table since, where it keeps to a rule.
    pub(super) fn play(&self, choices: &mut Choices) -> (u64, Mfn) {
        let is_shared = |&(_, mfn): &(u64, Mfn)| {
            let refs = self.frames.refs(mfn);
            refs.is_some_and(|word| word.is_hypervisors())
        };
        let chosen = choices.one_of(&self.guest.play);
        let mut others = self.guest.play.iter().copied();
        if is_shared(&chosen) {
            others.find(|page| !is_shared(page)).unwrap_or(chosen)
        } else {
            chosen
        }
    }

    /// A frame of the guest's that is `kind`, if there is one among those that it plays with or began with.
    pub(super) fn with_kind(&self, kind: Kind, choices: &mut Choices) -> Option<Mfn> {
        let all = self.guest.play.iter().chain(&self.guest.tables);
        let fit: Vec<Mfn> = all
            .map(|&(_, mfn)| mfn)
            .filter(|&mfn| self.kind(mfn) == kind)
            .collect();
        (!fit.is_empty()).then(|| choices.one_of(&fit))
    }

    /// A frame that the guest has no right to, or none at all. Not its own grant table, where it keeps to a rule.
    pub(super) fn forbidden(&self, choices: &mut Choices) -> Mfn {
        let mfn = self.some_frame(choices);
        if mfn == self.guest.grant_table {
            self.guest.shared_info
        } else {
            mfn
        }
    }

    fn some_frame(&self, choices: &mut Choices) -> Mfn {
        let limit = self.frames.limit();
        match choices.below(5) {
            0 | 1 if !self.others.is_empty() => {
                let other = choices.one_of(self.others);
                let (_, play) = choices.one_of(&other.play);
                let (_, table) = choices.one_of(&other.tables);
                choices.one_of(&[play, table, other.shared_info])
            }
            2 => choices.one_of(&self.devices),
            3 => Mfn::from_maddr(choices.any()),
            _ => Mfn::new(choices.below(limit)).unwrap(),
        }
    }

    /// An entry for a table that is or will be of `kind`: mostly one that may stand there.
    pub(super) fn entry(&self, kind: Kind, choices: &mut Choices) -> u64 {
        if choices.chance(12) {
            return choices.any() & !pte::PRESENT;
        }
        let child = match kind {
            Kind::L4 => Some(Kind::L3),
            Kind::L3 => Some(Kind::L2),
            Kind::L2 => Some(Kind::L1),
            Kind::L1 | Kind::None | Kind::Segments | Kind::Writable => None,
        };
        let target = match (choices.below(100), child) {
            (0..=3, _) => self.forbidden(choices),
            (4..=7, _) => self.guest.shared_info,
            (86..=89, None) => choices.one_of(&self.devices),
            (8..=20, None) => choices.one_of(&self.guest.tables).1,
            (21..=85, Some(child)) => self
                .with_kind(child, choices)
                .unwrap_or_else(|| self.play(choices).1),
            _ => self.play(choices).1,
        };
        let is_table = self.kind(target).is_table();
        let writes = match child {
            Some(_) => choices.chance(90),
            None if is_table => choices.chance(10),
            None => choices.chance(60),
        };
        let mut entry = target.maddr() | pte::PRESENT;
        if writes {
            entry |= pte::WRITABLE;
        }
        for harmless in [
            pte::USER,
            pte::ACCESSED,
            pte::DIRTY,
            pte::NO_EXECUTE,
            pte::GUEST_KERNEL,
            1 << 9,
        ] {
            if choices.chance(30) {
                entry |= harmless;
            }
        }
        if choices.chance(3) || self.devices.contains(&target) && choices.chance(50) {
            entry |= choices.one_of(&[
                pte::PAGE_SIZE_BIT,
                pte::GLOBAL,
                pte::CACHE_DISABLE,
                pte::WRITE_THROUGH,
            ]);
        }
        entry
    }

    /// An entry of a table that is worth writing.
    pub(super) fn slot(&self, table: Mfn, choices: &mut Choices) -> u64 {
        let first = |n: usize| self.guest.tables[n].1 == table;
        if choices.chance(2) {
            return choices.below(512);
        }
        // What the guest stands on is left alone, mostly: it would be helpless without.
        if first(0) {
            choices.one_of(&[2, 3, 4, 255, 256, 257, 271, 272, 511])
        } else if first(1) || first(2) {
            choices.one_of(&[2, 3, 4, 511])
        } else if first(3) {
            choices.one_of(&[100, 200, 511])
        } else if first(4) {
            PLAY % 512 + choices.below(PLAY_PAGES)
        } else if self.kind(table) == Kind::L4 {
            choices.one_of(&[1, 2, 255, 256, 271, 272, 511])
        } else {
            choices.below(4)
        }
    }

    /// An address that something is mapped at, or may come to be.
    pub(super) fn address(&self, choices: &mut Choices) -> u64 {
        let small = choices.below(4) << 12;
        match choices.below(20) {
            0..=9 => self.play(choices).0,
            10 => choices.one_of(&self.guest.tables).0,
            11 => World::SHARED_INFO,
            12..=15 => choices.one_of(&[0x40_0000, 0x60_0000, 0x80_0000]) + small,
            16 => choices.one_of(&[0x8000_0000, 0xc000_0000, 0x100_0000_0000, 0x180_0000_0000]) + small,
            17 => choices.one_of(&[0xffff_8800_0000_0000, 0xffff_ff80_0000_0000]) + small,
            18 => layout::M2P.start + choices.below(self.frames.limit()) * 8,
            _ => {
                let inside = layout::HYPERVISOR.start + (choices.below(16) << 39);
                choices.one_of(&[inside, layout::HYPERVISOR.end - 4, 1 << 47, u64::MAX - 3])
            }
        }
    }

    pub(super) fn update_va(&self, choices: &mut Choices) -> Act {
        let flags = choices.one_of(&[0, 0, 1, 2, 2, 2, 5, 6, 3]);
        let (va, mfn) = self.play(choices);
        if choices.chance(40) {
            // Its own page at its own place, writable or not.
            let writes = if choices.chance(50) { pte::WRITABLE } else { 0 };
            return Act::UpdateVa(va, mfn.maddr() | pte::PRESENT | writes, flags);
        }
        Act::UpdateVa(self.address(choices), self.entry(Kind::L1, choices), flags)
    }

    /// A frame that is a table, or one that is not.
    pub(super) fn table(&self, choices: &mut Choices) -> Mfn {
        let kind = choices.one_of(&[Kind::L1, Kind::L1, Kind::L2, Kind::L2, Kind::L3, Kind::L4]);
        match choices.below(20) {
            0 => self.forbidden(choices),
            1 => self.guest.shared_info,
            2 => self.play(choices).1,
            _ => self
                .with_kind(kind, choices)
                .unwrap_or_else(|| self.play(choices).1),
        }
    }

    pub(super) fn mmu_update(&self, choices: &mut Choices) -> Act {
        let count = 1 + choices.below(3);
        let list = (0..count).map(|_| {
            let table = self.table(choices);
            if choices.chance(5) {
                let any = choices.any();
                let val = choices.one_of(&[PLAY, u64::MAX, any]);
                return MmuUpdate {
                    ptr: table.maddr() | 1,
                    val,
                };
            }
            let kind = self.kind(table);
            MmuUpdate {
                ptr: table.maddr() | self.slot(table, choices) << 3 | choices.one_of(&[0, 0, 2, 3]),
                val: self.entry(kind, choices),
            }
        });
        Act::Mmu(list.collect())
    }

    pub(super) fn extended(&self, choices: &mut Choices) -> Act {
        let count = 1 + choices.below(2);
        let list = (0..count).map(|_| match choices.below(20) {
            0..=4 => {
                let kind = choices.one_of(&[Kind::L1, Kind::L2, Kind::L3, Kind::L4]);
                let found = self.with_kind(kind, choices);
                pin(kind, found.unwrap_or_else(|| self.play(choices).1))
            }
            5..=7 => ext(MmuExtOp::UnpinTable, self.table(choices).raw()),
            8..=11 => ext(MmuExtOp::NewBaseptr, self.root(choices).raw()),
            12 => {
                let root = self.root(choices).raw();
                ext(MmuExtOp::NewUserBaseptr, choices.one_of(&[root, root, 0]))
            }
            13 | 14 => ext(MmuExtOp::TlbFlushLocal, 0),
            15 => ext(MmuExtOp::InvlpgLocal, self.address(choices)),
            16 => ext(
                choices.one_of(&[MmuExtOp::TlbFlushAll, MmuExtOp::InvlpgAll]),
                self.address(choices),
            ),
            17 | 18 => MmuExt {
                cmd: choices.one_of(&[MmuExtOp::ClearPage, MmuExtOp::CopyPage]).raw(),
                arg1: self.play(choices).1.raw(),
                arg2: self.table(choices).raw(),
            },
            _ => MmuExt {
                cmd: u32::try_from(choices.below(24)).unwrap(),
                arg1: self.forbidden(choices).raw(),
                arg2: choices.any(),
            },
        });
        Act::Ext(list.collect())
    }

    /// A level 4 table to run on: mostly one in which the guest is not helpless.
    pub(super) fn root(&self, choices: &mut Choices) -> Mfn {
        if choices.chance(2) {
            return self.table(choices);
        }
        let first = |mfn: Mfn| self.ram.frame(mfn)[0].load(Ordering::Relaxed) & pte::FRAME_MASK;
        let home = self.guest.tables[0].1;
        let all = self.guest.play.iter().map(|&(_, mfn)| mfn);
        let mut fit: Vec<Mfn> = all
            .filter(|&mfn| self.kind(mfn) == Kind::L4 && first(mfn) == first(home))
            .collect();
        fit.push(home);
        choices.one_of(&fit)
    }

    pub(super) fn touch(&self, choices: &mut Choices) -> Act {
        let va = self.address(choices).wrapping_add(choices.below(4) * 8);
        if choices.chance(50) {
            return Act::Read(va);
        }
        // Events are not forged too often: the guest would never sleep.
        if va & !0xfff == World::SHARED_INFO && choices.chance(80) {
            return Act::Read(va);
        }
        let kind = choices.one_of(&[Kind::L1, Kind::L2, Kind::L3, Kind::L4]);
        Act::Write(va, self.entry(kind, choices))
    }

    /// Makes a page a table: writes entries, maps it read-only wherever it was mapped at first, pins it.
    pub(super) fn make_table(&self, choices: &mut Choices) -> VecDeque<Act> {
        let (va, mfn) = self.play(choices);
        let kind = choices.one_of(&[Kind::L1, Kind::L1, Kind::L2, Kind::L3, Kind::L4]);
        let mut plan = VecDeque::new();
        plan.push_back(Act::UpdateVa(va, mfn.maddr() | pte::PRESENT | pte::WRITABLE, 2));
        for index in 0..4 {
            plan.push_back(Act::Write(va + index * 8, self.entry(kind, choices)));
        }
        if kind == Kind::L4 {
            plan.push_back(Act::Write(va, self.guest.tables[1].1.maddr() | 0x67));
        }
        // Now and then it forgets to flush, or to take the right to write away.
        let writes = if choices.chance(5) { pte::WRITABLE } else { 0 };
        let flush = if choices.chance(50) { 2 } else { 0 };
        plan.push_back(Act::UpdateVa(va, mfn.maddr() | pte::PRESENT | writes, flush));
        if choices.chance(60) {
            plan.push_back(Act::Ext(vec![pin(kind, mfn)]));
        }
        plan.push_back(Act::Write(va + 8, self.entry(kind, choices)));
        plan
    }

    /// Makes a table of tables of nothing yet: there is too much in it to be looked at in one go.
    pub(super) fn make_tree(&self, choices: &mut Choices) -> VecDeque<Act> {
        let pages: [(u64, Mfn); 4] = core::array::from_fn(|_| self.play(choices));
        let [(_, first), (_, second), (va, parent), (top_va, top)] = pages;
        let (kind, above) = choices.one_of(&[(Kind::L2, Kind::L3), (Kind::L3, Kind::L4)]);
        let mut plan = VecDeque::new();
        for (va, mfn) in pages {
            plan.push_back(Act::UpdateVa(va, mfn.maddr() | pte::PRESENT | pte::WRITABLE, 2));
        }
        for (index, child) in (0..).zip([first, second, first]) {
            plan.push_back(Act::Write(va + index * 8, child.maddr() | 0x67));
        }
        plan.push_back(Act::Write(top_va + 8, parent.maddr() | 0x67));
        for (va, mfn) in pages {
            plan.push_back(Act::UpdateVa(va, mfn.maddr() | pte::PRESENT, 2));
        }
        let pinned = choices.one_of(&[pin(kind, parent), pin(above, top)]);
        let act = Act::Ext(vec![pinned]);
        plan.push_back(if choices.chance(50) {
            Act::OneGo(Box::new(act))
        } else {
            act
        });
        if choices.chance(50) {
            let unpin = Act::Ext(vec![ext(MmuExtOp::UnpinTable, pinned.arg1)]);
            plan.push_back(if choices.chance(50) {
                Act::OneGo(Box::new(unpin))
            } else {
                unpin
            });
        }
        plan
    }

    /// Makes a table a page again: unpins it, maps it writable, writes it.
    pub(super) fn unmake_table(&self, choices: &mut Choices) -> VecDeque<Act> {
        let tables: Vec<_> = self
            .guest
            .play
            .iter()
            .copied()
            .filter(|&(_, mfn)| self.kind(mfn).is_table())
            .collect();
        let (va, mfn) = if tables.is_empty() {
            self.play(choices)
        } else {
            choices.one_of(&tables)
        };
        let value = self.entry(Kind::L1, choices);
        VecDeque::from([
            Act::Read(va),
            Act::Ext(vec![ext(MmuExtOp::UnpinTable, mfn.raw())]),
            Act::UpdateVa(
                va,
                mfn.maddr() | pte::PRESENT | pte::WRITABLE,
                choices.one_of(&[0, 2]),
            ),
            Act::Write(va, value),
        ])
    }

    /// Hangs a table under one of the first ones, goes through it, takes it away and goes there again: what a CPU remembers of
    /// the way must be gone.
    pub(super) fn pass_through(&self, choices: &mut Choices) -> VecDeque<Act> {
        let (level, holder, kind, shift) = choices.one_of(&[
            (2, Kind::L2, Kind::L1, 21),
            (1, Kind::L3, Kind::L2, 30),
            (0, Kind::L4, Kind::L3, 39),
        ]);
        let table = self.guest.tables[level].1;
        let slot = 2 + choices.below(3);
        // Best a table that nothing but this entry makes one.
        let found = self.with_kind(choices.one_of(&[kind, Kind::None]), choices);
        let child = found.unwrap_or_else(|| self.play(choices).1);
        let place = table.maddr() | slot << 3;
        let (page, index) = (choices.below(4) << 12, choices.below(4) << 12);
        let write = |ptr, val| Act::Mmu(vec![MmuUpdate { ptr, val }]);
        VecDeque::from([
            write(place, child.maddr() | 0x67),
            Act::Read((slot << shift) + page),
            write(place, self.entry(holder, choices)),
            Act::Write((slot << shift) + page, 0),
            Act::Read((slot << shift) + index),
        ])
    }
}

pub(super) fn ext(op: MmuExtOp, arg1: u64) -> MmuExt {
    MmuExt {
        cmd: op.raw(),
        arg1,
        arg2: 0,
    }
}

fn pin(kind: Kind, mfn: Mfn) -> MmuExt {
    let op = match kind {
        Kind::L4 => MmuExtOp::PinL4Table,
        Kind::L3 => MmuExtOp::PinL3Table,
        Kind::L2 => MmuExtOp::PinL2Table,
        Kind::L1 | Kind::None | Kind::Segments | Kind::Writable => MmuExtOp::PinL1Table,
    };
    ext(op, mfn.raw())
}
