//! What the guest tries with memory as such: giving it back and taking more, pages of descriptors, stores that the hypervisor
//! makes in its place, and other domains' memory.

use super::calls::call_with;
use super::tables::Mind;
use super::{Hostile, PLAY};
use crate::frames::{Kind, Mfn};
use crate::sync::Ordering;
use crate::testing::{Act, Choices, World};
use crate::traps::Exception;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bulkhead_abi::memory::{MemoryExchange, MemoryOp, MemoryReservation};
use bulkhead_abi::mmu::{MmuExtOp, MmuUpdate};
use bulkhead_abi::trap::{PF_PRESENT, PF_USER, PF_WRITE};
use bulkhead_abi::vcpu::VcpuOp;
use bulkhead_abi::{Buffered, DomId, Hypercall, pte};

/// How many words of [`World::LIST`] the guest may find new frames in.
const LIST_WORDS: u64 = 8;

/// Stores of RAX or by RSI to where RDI points, as kernels write page-table entries.
const STORES: &[&[u8]] = &[
    &[0x48, 0x89, 0x07],                   // mov [rdi], rax
    &[0x48, 0x87, 0x07],                   // xchg [rdi], rax
    &[0x89, 0x07],                         // mov [rdi], eax
    &[0xf0, 0x48, 0x0f, 0xb1, 0x0f],       // lock cmpxchg [rdi], rcx
    &[0x48, 0x09, 0x07],                   // or [rdi], rax
    &[0x48, 0x21, 0x07],                   // and [rdi], rax
    &[0xf0, 0x48, 0x0f, 0xba, 0x37, 0x01], // lock btr qword [rdi], 1
    &[0xf0, 0x48, 0x0f, 0xba, 0x2f, 0x01], // lock bts qword [rdi], 1
    &[0x48, 0x0f, 0xc1, 0x07],             // xadd [rdi], rax
    &[0x48, 0xab],                         // stosq
    &[0x48, 0xa5],                         // movsq
    &[0x88, 0x07],                         // mov [rdi], al
];

/// What ring 3 may not execute, and the vector of the fault that it gives.
const PRIVILEGED: &[(u8, &[u8])] = &[
    (6, &[0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2]), // the hypervisor's CPUID
    (13, &[0x0f, 0x20, 0xc0]),                        // mov rax, cr0
    (13, &[0x0f, 0x22, 0xc0]),                        // mov cr0, rax
    (13, &[0x0f, 0x20, 0xd8]),                        // mov rax, cr3
    (13, &[0x0f, 0x22, 0xd8]),                        // mov cr3, rax
    (13, &[0x0f, 0x22, 0xe0]),                        // mov cr4, rax
    (13, &[0x0f, 0x32]),                              // rdmsr
    (13, &[0x0f, 0x30]),                              // wrmsr
    (13, &[0xe4, 0x60]),                              // in al, 0x60
    (13, &[0xfa]),                                    // cli
    (13, &[0x0f, 0x01, 0x3f]),                        // invlpg [rdi]
];

fn memory_op(op: MemoryOp, record: &impl Buffered) -> Act {
    let args = [u64::from(op.raw()), World::SCRATCH];
    call_with(Hypercall::MemoryOp, &args, record.to_bytes().as_ref().to_vec())
}

fn reservation(nr_extents: u64, extent_order: u32, at_word: u64) -> MemoryReservation {
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

/// Something that only the hypervisor may do.
pub(super) fn privileged(choices: &mut Choices) -> Act {
    let (vector, code) = choices.one_of(PRIVILEGED);
    Act::Instruction {
        code: code.to_vec(),
        value: choices.any() >> choices.below(64),
        pointers: [choices.any(), choices.any()],
        raises: Exception {
            vector,
            error_code: 0,
            address: 0,
        },
    }
}

impl Hostile {
    /// Finds out which frames it was given in place of those that it gave back, and maps one.
    pub(super) fn learn(&mut self, world: &World) -> Option<Act> {
        let frames = world.hv().memory().frames();
        let is_own = |mfn: Mfn| {
            frames
                .refs(mfn)
                .is_some_and(|word| word.count != 0 && word.owner.raw() == self.id)
        };
        let first = usize::try_from(World::LIST % 4096 / 8).unwrap();
        let words = world.sim().ram().frame(self.scratch);
        let listed = &words[first..first + usize::try_from(LIST_WORDS).unwrap()];
        let known = |mfn: Mfn| self.play.iter().any(|&(_, known)| known == mfn);
        let found = listed
            .iter()
            .filter_map(|word| Mfn::new(word.load(Ordering::Relaxed)))
            .find(|&mfn| is_own(mfn) && !known(mfn) && mfn != self.scratch && mfn != self.shared_info)?;
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
        refs.is_some_and(|word| word.count != 0 && word.owner.raw() == self.guest.id)
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
        match choices.below(6) {
            0 => choices.any(),
            1 => 0x0000_8900_0000_0067,
            2 => 0x0000_ee00_0008_0000,
            _ => choices.one_of(&[0x00af_9a00_0000_ffff, 0x00cf_9200_0000_ffff, 0]),
        }
    }

    /// Writes a page of descriptors, and asks the CPU to use it; or leaves it again; or changes a descriptor.
    pub(super) fn segments(&self, choices: &mut Choices) -> VecDeque<Act> {
        let gdt = |entries: u64| call_with(Hypercall::SetGdt, &[World::LIST, entries], Vec::new());
        let update = |choices: &mut Choices| {
            let found = self.with_kind(Kind::Segments, choices);
            let mfn = found.unwrap_or_else(|| self.table(choices));
            let place = mfn.maddr() | choices.below(4) << 3;
            let args = [place, Self::descriptor(choices)];
            call_with(Hypercall::UpdateDescriptor, &args, Vec::new())
        };
        match choices.below(10) {
            0 => VecDeque::from([gdt(0)]),
            1..=4 => VecDeque::from([update(choices)]),
            _ => {
                let mut plan = VecDeque::new();
                let pages = 1 + choices.below(2);
                for n in 0..pages {
                    let (va, mfn) = self.play(choices);
                    for index in 0..4 {
                        plan.push_back(Act::Write(va + index * 8, Self::descriptor(choices)));
                    }
                    if choices.chance(85) {
                        plan.push_back(Act::UpdateVa(va, mfn.maddr() | pte::PRESENT, 2));
                    }
                    plan.push_back(Act::Write(World::LIST + n * 8, mfn.raw()));
                }
                plan.push_back(gdt(pages * 512));
                plan.push_back(update(choices));
                if choices.chance(40) {
                    plan.push_back(gdt(0));
                }
                plan
            }
        }
    }

    /// Stores into a table that is mapped read-only, and takes the fault for it.
    pub(super) fn store(&self, choices: &mut Choices) -> Act {
        let all = self.guest.play.iter().chain(&self.guest.tables);
        let level1: Vec<_> = all
            .copied()
            .filter(|&(_, mfn)| self.kind(mfn) == Kind::L1)
            .collect();
        let (va, table) = if level1.is_empty() || choices.chance(5) {
            self.play(choices)
        } else {
            choices.one_of(&level1)
        };
        let place = va + (self.slot(table, choices) << 3);
        let user = if choices.chance(50) { PF_USER } else { 0 };
        Act::Instruction {
            code: choices.one_of(STORES).to_vec(),
            value: self.entry(Kind::L1, choices),
            pointers: [place, self.play(choices).0],
            raises: Exception {
                vector: 14,
                error_code: PF_PRESENT | PF_WRITE | user,
                address: place,
            },
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
        let update = MmuUpdate {
            ptr: self.table(choices).maddr(),
            val: self.entry(Kind::L1, choices),
        };
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
