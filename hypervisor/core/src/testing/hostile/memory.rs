//! What the guest tries with memory as such: giving it back and taking more, pages of descriptors, records that the hypervisor
//! keeps there, and other domains' memory.

use super::calls::{call, call_with};
use super::goals::FRESH;
use super::tables::Mind;
use super::{Hostile, PLAY, PLAY_PAGES};
use crate::frames::{Kind, Mfn};
use crate::sync::Ordering;
use crate::testing::{Act, Choices, World};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bulkhead_abi::memory::{MemoryExchange, MemoryOp, MemoryReservation};
use bulkhead_abi::mmu::{MmuExt, MmuExtOp, MmuUpdate};
use bulkhead_abi::sched::SchedOp;
use bulkhead_abi::vcpu::VcpuOp;
use bulkhead_abi::{Buffered, DomId, Hypercall, pte};

/// How many words of [`World::LIST`] the guest may find new frames in.
const LIST_WORDS: u64 = 8;

pub(super) fn memory_op(op: MemoryOp, record: &impl Buffered) -> Act {
    let args = [u64::from(op.raw()), World::SCRATCH];
    call_with(Hypercall::MemoryOp, &args, record.to_bytes().as_ref().to_vec())
}

pub(super) fn reservation(nr_extents: u64, extent_order: u32, at_word: u64) -> MemoryReservation {
    MemoryReservation {
        extent_start: World::LIST + at_word * 8,
        nr_extents,
        extent_order,
        mem_flags: 0,
        domid: DomId::SELF,
    }
}

fn unmap(va: u64) -> Act {
    Act::UpdateVa(va, 0, 2)
}

impl Hostile {
    /// Finds out which frames it was given in place of those that it gave back, and maps one.
    pub(super) fn learn(&mut self, world: &World) -> Option<Act> {
        let frames = world.hv().memory().frames();
        let is_own = |mfn: Mfn| {
            frames
                .refs(mfn)
                .is_some_and(|word| word.count() != 0 && word.owner().raw() == self.id)
        };
        // What it shares with the hypervisor was not given to it: shared info, its grant table.
        let is_shared = |mfn: Mfn| frames.refs(mfn).is_some_and(|word| word.is_hypervisors());
        let first = usize::try_from(World::LIST % 4096 / 8).unwrap();
        let words = world.sim().ram().frame(self.scratch);
        let listed = &words[first..first + usize::try_from(LIST_WORDS).unwrap()];
        // Or for which it offered them, or gave them: in its grant table, and where the records of flips are.
        let flipped = world.sim().ram().frame(self.grant_table)[..16].iter();
        let flipped = flipped.map(|word| word.load(Ordering::Relaxed) >> 32);
        let first = usize::try_from(World::SCRATCH % 4096 / 8).unwrap();
        let given = [first, first + 3].map(|at| words[at].load(Ordering::Relaxed));
        let numbers = listed.iter().map(|word| word.load(Ordering::Relaxed));
        let known = |mfn: Mfn| self.play.iter().any(|&(_, known)| known == mfn);
        let found = numbers
            .chain(flipped)
            .chain(given)
            .filter_map(Mfn::new)
            .find(|&mfn| is_own(mfn) && !is_shared(mfn) && !known(mfn) && mfn != self.scratch)?;
        let is_table = self.tables.iter().any(|&(_, mfn)| mfn == found);
        let lost = self.play.iter().position(|&(_, mfn)| !is_own(mfn))?;
        if is_table {
            return None;
        }
        let (va, mfn) = &mut self.play[lost];
        *mfn = found;
        Some(Act::UpdateVa(
            *va,
            found.maddr() | pte::PRESENT | pte::WRITABLE,
            2,
        ))
    }
}

impl Mind<'_> {
    fn is_own(&self, mfn: Mfn) -> bool {
        let refs = self.frames.refs(mfn);
        refs.is_some_and(|word| word.count() != 0 && word.owner().raw() == self.guest.id)
    }

    /// Pages that it gave away.
    fn lost(&self) -> Vec<u64> {
        let lost = self.guest.play.iter().filter(|&&(_, mfn)| !self.is_own(mfn));
        lost.map(|&(va, _)| va).collect()
    }

    /// Gives a page back, or takes one.
    pub(super) fn balloon(&self, choices: &mut Choices) -> VecDeque<Act> {
        let lost = self.lost();
        if !lost.is_empty() && choices.chance(70) || choices.chance(10) {
            let pfn = lost.first().map_or(PLAY, |va| va >> 12);
            let extents = 1 + choices.below(2);
            let order = u32::from(choices.chance(10));
            let op = choices.one_of(&[
                MemoryOp::PopulatePhysmap,
                MemoryOp::PopulatePhysmap,
                MemoryOp::IncreaseReservation,
            ]);
            return VecDeque::from([
                Act::Write(World::LIST, pfn),
                Act::Write(World::LIST + 8, PLAY),
                memory_op(op, &reservation(extents, order, 0)),
            ]);
        }
        let count = 1 + choices.below(2);
        let mut plan = VecDeque::new();
        for n in 0..count {
            plan.append(&mut self.offer(n, choices));
        }
        plan.push_back(memory_op(
            MemoryOp::DecreaseReservation,
            &reservation(count, 0, 0),
        ));
        plan
    }

    /// Writes the frame of a page, mostly one that can be given back, as word `n` of the list.
    fn offer(&self, n: u64, choices: &mut Choices) -> VecDeque<Act> {
        let (va, mfn) = self.play(choices);
        let mut plan = VecDeque::new();
        if choices.chance(85) {
            plan.push_back(unmap(va));
        }
        let mfn = if choices.chance(10) {
            self.forbidden(choices)
        } else {
            mfn
        };
        plan.push_back(Act::Write(World::LIST + n * 8, mfn.raw()));
        plan
    }

    /// Gives pages for others.
    pub(super) fn exchange(&self, choices: &mut Choices) -> VecDeque<Act> {
        let order = u32::try_from(choices.one_of(&[0, 1, 1, 2])).unwrap();
        let mut plan = VecDeque::new();
        for n in 0..1 << order {
            plan.append(&mut self.offer(n, choices));
        }
        // Where frames are read from, or behind that.
        let output = choices.one_of(&[0, 4]);
        plan.push_back(Act::Write(World::LIST + 4 * 8, PLAY));
        let exchange = MemoryExchange {
            input: reservation(1 << order, 0, 0),
            output: reservation(1, order, output),
            nr_exchanged: 0,
        };
        plan.push_back(memory_op(MemoryOp::Exchange, &exchange));
        plan
    }

    fn descriptor(choices: &mut Choices) -> u64 {
        match choices.below(12) {
            0 => choices.any(),
            1 => 0x0000_8900_0000_0067,
            2 => 0x0000_ee00_0008_0000,
            _ => choices.one_of(&[0x00af_9a00_0000_ffff, 0x00cf_9200_0000_ffff, 0]),
        }
    }

    /// Writes a page of descriptors, and asks the CPU to use it; or leaves it again; or changes a descriptor.
    pub(super) fn segments(&self, choices: &mut Choices) -> VecDeque<Act> {
        let gdt = |entries: u64| call_with(Hypercall::SetGdt, &[World::LIST, entries], Vec::new());
        let update = |mfn: Mfn, choices: &mut Choices| {
            let place = mfn.maddr() | choices.below(4) << 3;
            let args = [place, Self::descriptor(choices)];
            call_with(Hypercall::UpdateDescriptor, &args, Vec::new())
        };
        let ldt = |va: u64, entries: u64| {
            let record = MmuExt {
                cmd: MmuExtOp::SetLdt.raw(),
                arg1: va,
                arg2: entries,
            };
            let args = [World::SCRATCH, 1, 0, 0x7ff0];
            call_with(Hypercall::MmuextOp, &args, record.to_bytes().as_ref().to_vec())
        };
        match choices.below(10) {
            0 => VecDeque::from([if choices.chance(50) { gdt(0) } else { ldt(0, 0) }]),
            1..=4 => {
                let found = self.with_kind(Kind::Segments, choices);
                VecDeque::from([update(found.unwrap_or_else(|| self.table(choices)), choices)])
            }
            _ => {
                let mut plan = VecDeque::new();
                let pages = 1 + choices.below(2);
                let mut last = self.play(choices);
                for n in 0..pages {
                    last = self.play(choices);
                    let (va, mfn) = last;
                    for index in 0..4 {
                        plan.push_back(Act::Write(va + index * 8, Self::descriptor(choices)));
                    }
                    if choices.chance(85) {
                        plan.push_back(Act::UpdateVa(va, mfn.maddr() | pte::PRESENT, 2));
                    }
                    plan.push_back(Act::Write(World::LIST + n * 8, mfn.raw()));
                }
                // The first page of the local table is the last of the other; a second one is whatever comes after it.
                plan.push_back(if choices.chance(40) {
                    ldt(last.0, choices.below(2 * 512))
                } else {
                    gdt(pages * 512)
                });
                // What is in use now need not be there when it is to be loaded again.
                plan.push_back(super::programs::load(choices));
                plan.push_back(update(last.1, choices));
                if choices.chance(40) {
                    plan.extend([gdt(0), ldt(0, 0)]);
                    plan.push_back(call(Hypercall::SchedOp, &[u64::from(SchedOp::Yield.raw())], &[]));
                }
                plan
            }
        }
    }

    /// Has the hypervisor keep a record in a page that the guest then wants for something else.
    pub(super) fn register(&self, choices: &mut Choices) -> Act {
        let vcpu = u64::from(choices.chance(5));
        if choices.chance(60) {
            let op = u64::from(VcpuOp::RegisterRunstateMemoryArea.raw());
            let offset = choices.one_of(&[0, 8, 4048, 4056, 4088, 3]);
            let va = (self.address(choices) & !0xfff).wrapping_add(offset);
            let record = va.to_le_bytes().to_vec();
            return call_with(Hypercall::VcpuOp, &[op, vcpu, World::SCRATCH], record);
        }
        let op = u64::from(VcpuOp::RegisterVcpuInfo.raw());
        let (_, play) = self.play(choices);
        let mfn = choices.one_of(&[play, play, self.guest.shared_info, self.guest.tables[0].1]);
        let mfn = if choices.chance(10) {
            self.forbidden(choices)
        } else {
            mfn
        };
        let offset = choices.one_of(&[0, 64, 72, 4032, 4040, 4]);
        let mut record = mfn.raw().to_le_bytes().to_vec();
        record.extend(u64::to_le_bytes(offset));
        call_with(Hypercall::VcpuOp, &[op, vcpu, World::SCRATCH], record)
    }

    /// Several calls in one.
    pub(super) fn several(&self, choices: &mut Choices) -> Act {
        let count = 1 + choices.below(6);
        let calls = (0..count).map(|_| match choices.below(10) {
            0..=5 => {
                let Act::UpdateVa(va, entry, flags) = self.update_va(choices) else {
                    return (0, [0; 6]);
                };
                (Hypercall::UpdateVaMapping.raw(), [va, entry, flags, 0, 0, 0])
            }
            6 => (
                Hypercall::UpdateDescriptor.raw(),
                [self.table(choices).maddr(), Self::descriptor(choices), 0, 0, 0, 0],
            ),
            7 => (
                Hypercall::SetTimerOp.raw(),
                [choices.below(1 << 30), 0, 0, 0, 0, 0],
            ),
            8 => (Hypercall::Multicall.raw(), [World::LIST, 1, 0, 0, 0, 0]),
            _ => (
                Hypercall::SetSegmentBase.raw(),
                [choices.below(5), choices.any(), 0, 0, 0, 0],
            ),
        });
        Act::Several(calls.collect())
    }

    /// A frame of another guest's, and whose: a page, a table, or what he shares with the hypervisor.
    pub(super) fn other_frame(&self, choices: &mut Choices) -> (u16, Mfn) {
        if self.others.is_empty() {
            return (self.guest.id, self.guest.shared_info);
        }
        let made = (FRESH..FRESH + 3).find_map(|id| self.domains.get(DomId::new(id)));
        if let Some(domain) = made
            && choices.chance(60)
        {
            let grants = domain.grants.lock().frames().next();
            let own = domain.memory.lock().frames.first();
            let frame = choices.one_of(&[Some(domain.shared_info), grants, own, own]);
            return (domain.id.raw(), frame.unwrap_or(domain.shared_info));
        }
        let other = choices.one_of(self.others);
        let (_, play) = choices.one_of(&other.play);
        let (_, table) = choices.one_of(&other.tables);
        let device = choices.one_of(&self.devices);
        let shared = choices.one_of(&[other.shared_info, other.grant_table]);
        let frame = choices.one_of(&[play, play, play, table, shared, device]);
        (other.id, frame)
    }

    /// An address at which the guest writes nothing, and the place of its entry. There it has what belongs to others: written, it could be
    /// an event that nobody told them of.
    pub(super) fn aside(&self, choices: &mut Choices) -> (u64, u64) {
        let page = PLAY + PLAY_PAGES + choices.below(4);
        (page << 12, self.guest.tables[4].1.maddr() | (page % 512) << 3)
    }

    /// An entry that leads to another's frame.
    pub(super) fn foreign_entry(&self, frame: Mfn, choices: &mut Choices) -> u64 {
        let writes = if choices.chance(50) { pte::WRITABLE } else { 0 };
        frame.maddr() | pte::PRESENT | writes
    }

    /// Changes page tables, or asks for memory, in the name of another domain.
    pub(super) fn for_another(&self, choices: &mut Choices) -> Act {
        let any = u16::try_from(choices.below(8)).unwrap();
        let other = if self.others.is_empty() || choices.chance(50) {
            any
        } else {
            choices.one_of(self.others).id
        };
        let victim = u64::from(other);
        if choices.chance(40) {
            let mut record = reservation(1, 0, 0);
            record.domid = DomId::new(other);
            let op = choices.one_of(&[
                MemoryOp::PopulatePhysmap,
                MemoryOp::DecreaseReservation,
                MemoryOp::CurrentReservation,
                MemoryOp::MaximumReservation,
            ]);
            return memory_op(op, &record);
        }
        let (owner, frame) = self.other_frame(choices);
        // The control domain is to succeed now and then, also with what nobody may have.
        let (ptr, victim, val) = if choices.chance(50) {
            let (_, place) = self.aside(choices);
            (place, u64::from(owner), self.foreign_entry(frame, choices))
        } else if !self.others.is_empty() && choices.chance(50) {
            let level = usize::try_from(choices.below(3)).unwrap();
            let (_, upper) = self.guest.tables[level];
            let place = upper.maddr() | self.slot(upper, choices) << 3;
            let victim = choices.one_of(self.others);
            let (_, below) = victim.tables[level + 1];
            (place, u64::from(victim.id), self.foreign_entry(below, choices))
        } else {
            let entry = self.entry(Kind::L1, choices) & !pte::WRITABLE;
            (self.table(choices).maddr(), victim, entry)
        };
        let update = MmuUpdate { ptr, val };
        let whom = choices.one_of(&[victim, (victim + 1) << 16 | 0x7ff0]);
        let (number, record) = choices.one_of(&[
            (Hypercall::MmuUpdate, update),
            (
                Hypercall::MmuextOp,
                MmuUpdate {
                    ptr: u64::from(MmuExtOp::TlbFlushLocal.raw()),
                    val: 0,
                },
            ),
        ]);
        call_with(
            number,
            &[World::SCRATCH, 1, 0, whom],
            record.to_bytes().as_ref().to_vec(),
        )
    }
}
