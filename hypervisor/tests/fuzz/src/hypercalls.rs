//! Hypercalls with arguments of every kind, made as streams of two instructions.
//!
//! What would end the domain, take its memory, or put its entry points and tables where nothing is, is left out, or made with
//! pointers only that cannot be followed.

use bulkhead_abi::{
    Buffered, DomId, Hypercall, Record,
    event::EventChannelOp,
    memory::MemoryOp,
    mmu::{MmuExt, MmuExtOp, MmuUpdate},
    sched::SchedOp,
    vcpu::VcpuOp,
};

use bulkhead_runtime::random::Random;

use crate::{
    space::{CODE, Space},
    stream::Start,
    values,
};

/// The vector by which such a stream ends.
pub(crate) const DONE: u8 = 0x81;

/// The stream: SYSCALL, INT n.
pub(crate) const CODE_BYTES: [u8; 4] = [0x0f, 0x05, 0xcd, DONE];

/// Where records for calls are put: a page that streams see, too.
const RECORD: u64 = 8 << 12;

/// A call that is to be made.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// The registers to make it with.
    pub(crate) start: Start,
    /// What is to stand in the frame of the record, from its start.
    pub(crate) record: [u8; 24],
}

/// Chooses a call, to be made with the registers of `start`.
pub(crate) fn choose(random: &mut Random, space: &Space, mut start: Start) -> Chosen {
    let mut record = [0; 24];
    for word in record.as_chunks_mut().0 {
        *word = values::any(random, space).to_le_bytes();
    }
    let number = if random.one_in(16) {
        random.next()
    } else {
        random.below(64)
    };
    let registers = &mut start.registers;
    let own = u64::from(DomId::SELF.raw());
    registers.rax = number;
    match Hypercall::from_raw(number) {
        Some(Hypercall::MmuUpdate) => {
            let update = MmuUpdate {
                ptr: word(random, space) | random.below(8),
                val: values::entry(random, space),
            };
            // It is shorter than the record, so it fits.
            let _ = update.write_to(&mut record);
            [registers.rdi, registers.rsi, registers.r10] = [RECORD, 1, own];
        }
        Some(Hypercall::MmuextOp) => {
            let cmd = u32::try_from(random.below(24)).unwrap_or(0);
            let is_root = [MmuExtOp::NewBaseptr.raw(), MmuExtOp::SetLdt.raw()].contains(&cmd);
            let op = MmuExt {
                cmd,
                // Some frame of the machine's is a level-4 table: the domain's own.
                arg1: if is_root {
                    random.next()
                } else {
                    frame(random, space)
                },
                arg2: values::any(random, space),
            };
            record = op.to_bytes();
            [registers.rdi, registers.rsi, registers.r10] = [RECORD, 1, own];
        }
        Some(Hypercall::UpdateVaMapping) => {
            registers.rdi = Space::own_region(random.next());
            registers.rsi = values::entry(random, space);
            registers.rdx = random.below(8);
        }
        Some(Hypercall::UpdateDescriptor) => registers.rdi = space.descriptors.word(random.below(512)),
        Some(Hypercall::MemoryOp) => {
            let takes = [MemoryOp::DecreaseReservation.raw(), MemoryOp::Exchange.raw()];
            let cmd = u32::try_from(random.below(64)).unwrap_or(0);
            registers.rdi = if takes.contains(&cmd) { 63 } else { cmd.into() };
        }
        Some(Hypercall::VcpuOp) => {
            let moves = [VcpuOp::RegisterVcpuInfo.raw(), VcpuOp::Down.raw()];
            let cmd = u32::try_from(random.below(16)).unwrap_or(0);
            registers.rdi = if moves.contains(&cmd) { 15 } else { cmd.into() };
            registers.rsi = random.below(3);
        }
        Some(Hypercall::SchedOp) => {
            registers.rdi = if random.one_in(2) {
                SchedOp::Yield.raw().into()
            } else {
                SchedOp::Poll.raw().into()
            };
        }
        Some(Hypercall::ConsoleIo) => registers.rdi = random.below(8) | 1,
        Some(Hypercall::EventChannelOp) => {
            let closes = [EventChannelOp::Close.raw(), EventChannelOp::Reset.raw()];
            let cmd = u32::try_from(random.below(16)).unwrap_or(0);
            registers.rdi = if closes.contains(&cmd) { 15 } else { cmd.into() };
        }
        Some(Hypercall::PhysdevOp | Hypercall::XenVersion | Hypercall::VmAssist) => {
            registers.rdi = random.below(32);
        }
        Some(Hypercall::Iret) => registers.rax = !number,
        // Entry points, and lists of other calls.
        Some(
            Hypercall::SetTrapTable
            | Hypercall::SetCallbacks
            | Hypercall::CallbackOp
            | Hypercall::NmiOp
            | Hypercall::Multicall
            | Hypercall::SchedOpCompat
            | Hypercall::EventChannelOpCompat,
        ) => [registers.rdi, registers.rsi] = [1 << 47; 2],
        _ => {}
    }
    registers.rip = CODE;
    Chosen { start, record }
}

/// A frame number of the domain's, or any.
fn frame(random: &mut Random, space: &Space) -> u64 {
    match random.below(4) {
        0 => space.plain.mfn(),
        1 => space.table.mfn(),
        2 => random.below(1 << 18),
        _ => random.next(),
    }
}

/// The machine address of a word that may be changed, or any.
fn word(random: &mut Random, space: &Space) -> u64 {
    match random.below(4) {
        0 => random.next(),
        1 => space.descriptors.word(random.below(512)),
        _ => space.table.word(random.below(512)),
    }
}
