//! What the guest tries with grants: its own, and those that others gave it.
//!
//! It keeps to one rule, for the laws want to see what the hypervisor does with an entry: it leaves entries alone that are in use.

use super::calls::call_with;
use super::tables::Mind;
use crate::frames::{Kind, Mfn};
use crate::grants::Rights;
use crate::paging::entry::{self, is_present, is_writable};
use crate::sync::Ordering;
use crate::testing::{Act, Choices, World};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bulkhead_abi::grant::{
    CopyEnd, Flip, GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTMAP_APPLICATION_MAP, GNTMAP_CONTAINS_PTE,
    GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GNTMAP_READONLY, GTF_ACCEPT_TRANSFER, GTF_FLIP, GTF_INVALID,
    GTF_PERMIT_ACCESS, GTF_READONLY, GTF_TYPE_MASK, GrantCopy, GrantEntry, GrantTableOp, MapGrantRef,
    QuerySize, SetupTable, SwapGrantRef, UnmapAndReplace, UnmapGrantRef,
};
use bulkhead_abi::layout::PAGE_SIZE;
use bulkhead_abi::{Buffered, DomId, Hypercall, Record};

/// The entries that guests grant by.
pub(super) const GREFS: core::ops::Range<u32> = 8..12;

/// One of this guest's mappings, as it keeps books of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapped {
    pub(super) handle: u32,
    pub(super) grantor: DomId,
    pub(super) gref: u32,
    pub(super) frame: Mfn,
    pub(super) rights: Rights,
    pub(super) by_entry: bool,
}

pub(super) fn operation<T: Buffered>(op: GrantTableOp, list: &[T]) -> Act {
    let bytes = list.iter().flat_map(|record| record.to_bytes().as_ref().to_vec());
    let args = [u64::from(op.raw()), World::SCRATCH, list.len() as u64];
    call_with(Hypercall::GrantTableOp, &args, bytes.collect())
}

impl Mind<'_> {
    /// Something about grants.
    pub(super) fn grants(&self, choices: &mut Choices) -> VecDeque<Act> {
        match choices.below(20) {
            0..=3 => VecDeque::from([self.offer_grant(choices)]),
            4 => self.offer_frame(choices),
            5..=16 if self.mapped.len() < 2 => self.map(choices),
            5..=8 => self.map(choices),
            9..=16 => self.unmap(choices),
            17 => self.give(choices),
            18 if choices.chance(30) => VecDeque::from([Self::swap(choices)]),
            18 => VecDeque::from([self.copy(choices)]),
            _ => VecDeque::from([self.ask(choices)]),
        }
    }

    /// Another guest, or this one.
    pub(super) fn partner(&self, choices: &mut Choices) -> u16 {
        match choices.below(20) {
            0 | 1 => self.guest.id,
            2 => u16::try_from(choices.below(0x1_0000)).unwrap(),
            _ if self.others.is_empty() => self.guest.id,
            _ => choices.one_of(self.others).id,
        }
    }

    /// Writes an entry of its table.
    fn offer_grant(&self, choices: &mut Choices) -> Act {
        let frame = match choices.below(20) {
            0..=2 => self.forbidden(choices),
            3 => self.guest.shared_info,
            4 | 5 => self.table(choices),
            _ => self.play(choices).1,
        };
        let flags = choices.one_of(&[
            GTF_PERMIT_ACCESS,
            GTF_PERMIT_ACCESS,
            GTF_PERMIT_ACCESS,
            GTF_PERMIT_ACCESS | GTF_READONLY,
            GTF_ACCEPT_TRANSFER,
            GTF_INVALID,
        ]);
        // Others are not let to forge events, for who sleeps on one seems to have lost it.
        let flags = if frame == self.guest.shared_info && flags == GTF_PERMIT_ACCESS {
            flags | GTF_READONLY
        } else {
            flags
        };
        let entry = GrantEntry {
            flags,
            domid: DomId::new(self.partner(choices)),
            frame: u32::try_from(frame.raw() & 0xffff_ffff).unwrap(),
        };
        let gref = choices.one_of(&GREFS.collect::<Vec<_>>());
        Act::Grant(self.guest.grant_table, gref, entry)
    }

    /// Offers a page, which nothing should refer to any more, for another.
    fn offer_frame(&self, choices: &mut Choices) -> VecDeque<Act> {
        let (va, play) = self.play(choices);
        let frame = if choices.chance(5) {
            self.forbidden(choices)
        } else {
            play
        };
        let entry = GrantEntry {
            flags: choices.one_of(&[
                GTF_ACCEPT_TRANSFER | GTF_FLIP,
                GTF_ACCEPT_TRANSFER | GTF_FLIP,
                GTF_ACCEPT_TRANSFER,
            ]),
            domid: DomId::new(self.partner(choices)),
            frame: u32::try_from(frame.raw() & 0xffff_ffff).unwrap(),
        };
        let gref = choices.one_of(&GREFS.collect::<Vec<_>>());
        let offer = Act::Grant(self.guest.grant_table, gref, entry);
        if choices.chance(30) {
            return VecDeque::from([offer]);
        }
        let mut plan = VecDeque::from(Self::strip(va, choices));
        plan.push_back(offer);
        plan
    }

    /// Lets a page go that it has just used, mostly without a flush: a TLB may know it still.
    fn strip(va: u64, choices: &mut Choices) -> [Act; 2] {
        [Act::Read(va), Act::UpdateVa(va, 0, choices.one_of(&[0, 0, 2]))]
    }

    /// Gives pages away, mostly for others.
    fn give(&self, choices: &mut Choices) -> VecDeque<Act> {
        let mut plan = VecDeque::new();
        let list: Vec<Flip> = (0..=choices.below(2))
            .map(|_| {
                let (va, play) = self.play(choices);
                // One that is still in use is refused when the other has been taken.
                if choices.chance(60) {
                    plan.extend(Self::strip(va, choices));
                }
                let mfn = if choices.chance(5) {
                    self.forbidden(choices)
                } else {
                    play
                };
                let (domid, gref) = self.gref_of(GTF_ACCEPT_TRANSFER, choices);
                Flip {
                    mfn: mfn.raw(),
                    domid,
                    gref,
                    ..Flip::ZERO
                }
            })
            .collect();
        let op = choices.one_of(&[GrantTableOp::Flip, GrantTableOp::Flip, GrantTableOp::Transfer]);
        // The records are alike.
        plan.push_back(operation(op, &list));
        plan
    }

    /// Exchanges entries of its table.
    fn swap(choices: &mut Choices) -> Act {
        let mut gref = || {
            if choices.chance(10) {
                choices.one_of(&[511, 512, u32::MAX])
            } else {
                choices.one_of(&GREFS.collect::<Vec<_>>())
            }
        };
        let swap = SwapGrantRef {
            ref_a: gref(),
            ref_b: gref(),
            ..SwapGrantRef::ZERO
        };
        operation(GrantTableOp::SwapGrantRef, &[swap])
    }

    /// A grant of somebody's: mostly one that names this guest, often one that it uses already.
    fn gref(&self, choices: &mut Choices) -> (DomId, u32) {
        if !self.mapped.is_empty() && choices.chance(40) {
            let Mapped { grantor, gref, .. } = choices.one_of(&self.mapped);
            return (grantor, gref);
        }
        self.gref_of(GTF_PERMIT_ACCESS, choices)
    }

    /// An entry of somebody's table: mostly one of this type that names this guest.
    fn gref_of(&self, wanted: u16, choices: &mut Choices) -> (DomId, u32) {
        let grantor = self.partner(choices);
        let all = self.others.iter().copied().chain([self.guest]);
        let table = all
            .filter(|guest| guest.id == grantor)
            .map(|guest| self.ram.frame(guest.grant_table));
        let names_us = |word: u64| {
            let entry = GrantEntry::read_from(&word.to_le_bytes()).unwrap();
            entry.flags & GTF_TYPE_MASK == wanted && entry.domid.raw() == self.guest.id
        };
        let fit: Vec<u32> = table
            .flat_map(|words| GREFS.map(move |gref| (gref, &words[gref as usize])))
            .filter(|(_, word)| names_us(word.load(Ordering::Relaxed)))
            .map(|(gref, _)| gref)
            .collect();
        let gref = if fit.is_empty() || choices.chance(5) {
            choices.one_of(&[7, 8, 9, 511, 512, u32::MAX])
        } else {
            choices.one_of(&fit)
        };
        (DomId::new(grantor), gref)
    }

    /// Maps a grant, and uses it.
    fn map(&self, choices: &mut Choices) -> VecDeque<Act> {
        let mut touched = Vec::new();
        let mut list: Vec<MapGrantRef> = (0..=choices.below(2))
            .map(|_| {
                let (dom, gref) = self.gref(choices);
                let mut flags = choices.one_of(&[
                    GNTMAP_HOST_MAP,
                    GNTMAP_HOST_MAP,
                    GNTMAP_DEVICE_MAP,
                    GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP,
                    0,
                ]);
                for flag in [GNTMAP_READONLY, GNTMAP_APPLICATION_MAP, GNTMAP_CONTAINS_PTE] {
                    if choices.chance(30) {
                        flags |= flag;
                    }
                }
                let (va, _) = self.play(choices);
                touched.push(va);
                let host_addr = if choices.chance(10) {
                    self.address(choices)
                } else if flags & GNTMAP_CONTAINS_PTE == 0 {
                    va
                } else {
                    self.slot_of(va, choices)
                };
                MapGrantRef {
                    host_addr,
                    flags,
                    gref,
                    dom,
                    ..MapGrantRef::ZERO
                }
            })
            .collect();
        if choices.chance(50) {
            // The same once more, with other rights, somewhere else.
            let mut twin = list[0];
            twin.flags ^= GNTMAP_READONLY;
            twin.host_addr ^= if twin.flags & GNTMAP_CONTAINS_PTE == 0 {
                1 << 12
            } else {
                8
            };
            list.push(twin);
        }
        let mut plan = VecDeque::new();
        if !self.mapped.is_empty() && choices.chance(40) {
            let frame = choices.one_of(&self.mapped).frame;
            plan.push_back(self.touch_by_device(frame, choices));
        }
        plan.push_back(operation(GrantTableOp::MapGrantRef, &list));
        for va in touched {
            plan.push_back(if choices.chance(50) {
                Act::Read(va)
            } else {
                Act::Write(va, self.entry(Kind::L1, choices))
            });
        }
        plan
    }

    /// The machine address of the first entry for `va`, or of some entry of some table.
    fn slot_of(&self, va: u64, choices: &mut Choices) -> u64 {
        let table = self.guest.tables[4].1;
        let first = table.maddr() | (va >> 12 & 0x1ff) << 3;
        match choices.below(10) {
            0 => first + choices.below(8),
            1 => self.table(choices).maddr() | choices.below(4) << 3,
            2 => self
                .with_kind(Kind::L1, choices)
                .map_or(first, |mfn| mfn.maddr() | choices.below(4) << 3),
            _ => first,
        }
    }

    /// The page that one of its mappings shows, if it stands where it was put at first.
    fn shown_at(&self, mapped: Mapped, choices: &mut Choices) -> Option<u64> {
        let table = self.ram.frame(self.guest.tables[4].1);
        // Now and then it takes an entry for its own that allows something else.
        let any_rights = choices.chance(40);
        let leads_there = |&&(va, _): &&(u64, Mfn)| {
            let word = table[usize::try_from(va >> 12 & 0x1ff).unwrap()].load(Ordering::Relaxed);
            is_present(word)
                && entry::frame(word) == mapped.frame
                && (is_writable(word) == (mapped.rights == Rights::ReadWrite) || any_rights)
        };
        self.guest.play.iter().find(leads_there).map(|&(va, _)| va)
    }

    /// Where one of its mappings stands, which may show the page at `va`.
    fn place(&self, mapped: Mapped, va: Option<u64>, choices: &mut Choices) -> u64 {
        match va {
            Some(va) if choices.chance(90) => {
                if mapped.by_entry {
                    self.guest.tables[4].1.maddr() | (va >> 12 & 0x1ff) << 3
                } else {
                    va
                }
            }
            _ if choices.chance(30) => 0,
            _ => self.play(choices).0,
        }
    }

    /// Ends mappings, mostly of pages that it has just used.
    fn unmap(&self, choices: &mut Choices) -> VecDeque<Act> {
        let handle = |choices: &mut Choices| {
            let any = Mapped {
                handle: u32::try_from(choices.below(200)).unwrap(),
                grantor: DomId::SELF,
                gref: 0,
                frame: self.play(choices).1,
                rights: Rights::ReadOnly,
                by_entry: false,
            };
            if self.mapped.is_empty() || choices.chance(5) {
                any
            } else {
                choices.one_of(&self.mapped)
            }
        };
        if choices.chance(10) {
            let mapped = handle(choices);
            let new_addr = match choices.below(3) {
                0 => 0,
                1 => self.play(choices).0,
                _ => self.address(choices),
            };
            let va = self.shown_at(mapped, choices);
            let unmap = UnmapAndReplace {
                host_addr: self.place(mapped, va, choices),
                new_addr,
                handle: mapped.handle,
                ..UnmapAndReplace::ZERO
            };
            let used = va.map(Act::Read);
            let ended = operation(GrantTableOp::UnmapAndReplace, &[unmap]);
            return used.into_iter().chain([ended]).collect();
        }
        let mut plan = VecDeque::new();
        let list: Vec<UnmapGrantRef> = (0..=choices.below(3))
            .map(|_| {
                let mapped = handle(choices);
                let va = self.shown_at(mapped, choices);
                plan.extend(va.map(Act::Read));
                if choices.chance(30) {
                    plan.push_back(self.touch_by_device(mapped.frame, choices));
                }
                UnmapGrantRef {
                    host_addr: self.place(mapped, va, choices),
                    dev_bus_addr: match choices.below(10) {
                        0..=5 => mapped.frame.maddr(),
                        6..=8 => 0,
                        _ => choices.any(),
                    },
                    handle: mapped.handle,
                    ..UnmapGrantRef::ZERO
                }
            })
            .collect();
        plan.push_back(operation(GrantTableOp::UnmapGrantRef, &list));
        plan
    }

    fn copy_end(&self, is_gref: bool, choices: &mut Choices) -> CopyEnd {
        let offset = choices.one_of(&[0, 8, 4088, 4090, 4095, 4096, 0xffff]);
        let (domid, frame) = if is_gref {
            let (dom, gref) = self.gref(choices);
            (dom, u64::from(gref))
        } else {
            let frame = match choices.below(20) {
                0 => self.forbidden(choices),
                1..=4 => self.table(choices),
                _ => self.play(choices).1,
            };
            (DomId::SELF, frame.raw())
        };
        CopyEnd { frame, domid, offset }
    }

    fn copy(&self, choices: &mut Choices) -> Act {
        let list: Vec<GrantCopy> = (0..=choices.below(2))
            .map(|_| {
                let flags = choices.one_of(&[
                    GNTCOPY_SOURCE_GREF,
                    GNTCOPY_DEST_GREF,
                    GNTCOPY_SOURCE_GREF | GNTCOPY_DEST_GREF,
                    0,
                ]);
                GrantCopy {
                    source: self.copy_end(flags & GNTCOPY_SOURCE_GREF != 0, choices),
                    dest: self.copy_end(flags & GNTCOPY_DEST_GREF != 0, choices),
                    len: choices.one_of(&[1, 6, 8, 64, 4096, 0xffff]),
                    flags,
                    ..GrantCopy::ZERO
                }
            })
            .collect();
        operation(GrantTableOp::Copy, &list)
    }

    /// Asks about tables, and now and then for a larger one.
    fn ask(&self, choices: &mut Choices) -> Act {
        let other = self.partner(choices);
        let dom = choices.one_of(&[DomId::SELF, DomId::new(other)]);
        if choices.chance(50) {
            let query = QuerySize {
                dom,
                ..QuerySize::ZERO
            };
            return operation(GrantTableOp::QuerySize, &[query]);
        }
        let setup = SetupTable {
            dom,
            nr_frames: choices.one_of(&[0, 1, 2, 65]),
            frame_list: World::LIST + PAGE_SIZE as u64 / 8,
            ..SetupTable::ZERO
        };
        operation(GrantTableOp::SetupTable, &[setup])
    }
}
