//! What the guest tries with its memory and its descriptors: giving frames back and taking others, descriptor tables in pages
//! that it then wants for something else, and many calls in one.

use super::calls::{call, call_with};
use super::tables::Mind;
use super::{Hostile, PLAY};
use crate::frames::{Kind, Mfn};
use crate::testing::{Act, Choices, World};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bulkhead_abi::memory::MemoryOp;
use bulkhead_abi::multicall::MulticallEntry;
use bulkhead_abi::{Buffered, DomId, Hypercall, pte};

/// Where the lists stand that a record points to.
const LIST: u64 = World::SCRATCH + 0x100;

impl Hostile {
    /// Looks up the frames of its pages that it has given away and got others for: the array that all guests read says which.
    pub(super) fn look_up(&mut self, world: &World) {
        let frames = world.hv().memory().frames();
        let owner = DomId::new(self.id);
        let is_own = |mfn: Mfn| {
            frames
                .refs(mfn)
                .is_some_and(|refs| refs.count != 0 && refs.owner == owner)
        };
        for (va, mfn) in &mut self.play {
            if !is_own(*mfn) {
                let pfn = *va >> 12;
                let all = (0..frames.limit()).filter_map(Mfn::new);
                let mut found = all.filter(|&mfn| is_own(mfn) && world.sim().m2p_entry(mfn) == pfn);
                *mfn = found.next().unwrap_or(*mfn);
            }
        }
    }
}

/// The words of a reservation: a list, extents, their order.
fn reservation(list: u64, extents: u32, order: u32, domain: u32) -> [u32; 8] {
    [u32::try_from(list).unwrap(), 0, extents, 0, order, 0, domain, 0]
}

/// A call with a record and, at [`LIST`], words that it points to.
fn with_list(number: Hypercall, args: &[u64], record: &[u32], list: &[u64]) -> Act {
    let mut bytes: Vec<u8> = record.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.resize(usize::try_from(LIST - World::SCRATCH).unwrap(), 0);
    bytes.extend(list.iter().flat_map(|word| word.to_le_bytes()));
    call_with(number, args, bytes)
}

impl Mind<'_> {
    /// Gives frames back, takes others, or exchanges them.
    pub(super) fn reserve(&self, choices: &mut Choices) -> VecDeque<Act> {
        let own = u32::from(DomId::SELF.raw());
        let domain = if choices.chance(5) {
            u32::from(self.guest.id ^ 3)
        } else {
            own
        };
        let op = |op: MemoryOp| [u64::from(op.raw()), World::SCRATCH];
        let (va, mfn) = self.play(choices);
        let other = if choices.chance(10) {
            self.forbidden(choices)
        } else {
            self.play(choices).1
        };
        let unmap = Act::UpdateVa(va, 0, choices.one_of(&[0, 2]));
        let decrease = with_list(
            Hypercall::MemoryOp,
            &op(MemoryOp::DecreaseReservation),
            &reservation(LIST, 1, 0, domain),
            &[if choices.chance(10) { other } else { mfn }.raw()],
        );
        let populate = with_list(
            Hypercall::MemoryOp,
            &op(MemoryOp::PopulatePhysmap),
            &reservation(LIST, 1, u32::from(choices.chance(10)), domain),
            &[va >> 12],
        );
        match choices.below(4) {
            0 => VecDeque::from([unmap, decrease]),
            1 => VecDeque::from([unmap, decrease, populate]),
            2 => VecDeque::from([populate]),
            _ => {
                let (count, order) = choices.one_of(&[(1, 0), (2, 1), (2, 0)]);
                let mut record = reservation(LIST, count, 0, domain).to_vec();
                record.extend(reservation(LIST + 0x40, count >> order, order, own));
                record.extend([0, 0]);
                let mut list = [0; 10];
                list[0] = mfn.raw();
                list[1] = other.raw();
                list[8] = va >> 12;
                list[9] = PLAY;
                let args = op(MemoryOp::Exchange);
                VecDeque::from([unmap, with_list(Hypercall::MemoryOp, &args, &record, &list)])
            }
        }
    }

    /// Makes pages a descriptor table, writes descriptors, and takes the table away.
    pub(super) fn describe(&self, choices: &mut Choices) -> VecDeque<Act> {
        let (va, mfn) = self.play(choices);
        let kind = choices.one_of(&[Kind::Segments, Kind::Segments, Kind::Writable]);
        let second = self.with_kind(kind, choices).unwrap_or(mfn);
        let descriptor = match choices.below(4) {
            0 => choices.any(),
            1 => 0x00af_9a00_0000_ffff,
            2 => 0x0000_8b00_0000_0067,
            _ => 0,
        };
        let target = choices.one_of(&[mfn, second, self.guest.tables[4].1]);
        let maddr = target.maddr() | choices.below(512) << 3;
        let update = call(Hypercall::UpdateDescriptor, &[maddr, descriptor], &[]);
        let entries = choices.one_of(&[0, 16, 512, 513, 600]);
        let list = [mfn.raw(), second.raw()];
        let set = with_list(Hypercall::SetGdt, &[LIST, entries], &[], &list);
        let read_only = Act::UpdateVa(va, mfn.maddr() | pte::PRESENT, choices.one_of(&[0, 2]));
        let write = Act::Write(va, descriptor);
        match choices.below(4) {
            0 => VecDeque::from([update]),
            1 => VecDeque::from([set]),
            _ => VecDeque::from([write.clone(), read_only, set, write, update]),
        }
    }

    /// Several calls in one.
    pub(super) fn multicall(&self, choices: &mut Choices) -> Act {
        let count = 1 + choices.below(4);
        let mut entries = Vec::new();
        for _ in 0..count {
            let (op, args) = match choices.below(8) {
                0 => (Hypercall::Multicall, [World::SCRATCH, 1, 0, 0, 0, 0]),
                1 => (Hypercall::XenVersion, [0; 6]),
                2 => (Hypercall::SchedOp, [choices.below(2), 0, 0, 0, 0, 0]),
                _ => {
                    let (va, entry, flags) = self.va_update(choices);
                    (Hypercall::UpdateVaMapping, [va, entry, flags, 0, 0, 0])
                }
            };
            entries.push(MulticallEntry {
                op: op.raw(),
                result: 0,
                args,
            });
        }
        let record = entries.iter().flat_map(|entry| entry.to_bytes()).collect();
        call_with(Hypercall::Multicall, &[World::SCRATCH, count], record)
    }

    /// Writes an entry of a table as if it could, which the hypervisor does for it.
    pub(super) fn store(&self, choices: &mut Choices) -> Act {
        let (va, _) = if choices.chance(50) {
            choices.one_of(&self.guest.tables[3..])
        } else {
            self.play(choices)
        };
        let slot = if va == self.guest.tables[4].0 {
            PLAY % 512 + choices.below(24)
        } else {
            choices.one_of(&[0, 1, 2, 3, 511])
        };
        let odd = if choices.chance(5) { 4 } else { 0 };
        Act::Store(va + slot * 8 + odd, self.entry(Kind::L1, choices))
    }
}
