//! What the guest tries with programs: tables for them, returns to them by good frames and bad ones, and what they do until their
//! kernel has the CPU again.

use super::calls::stack_switch;
use super::tables::{Mind, ext};
use super::{World, instructions};
use crate::testing::{Act, Choices};
use crate::traps::Exception;
use crate::vcpu::Segments;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use bulkhead_abi::mmu::MmuExtOp;
use bulkhead_abi::trap::{IretFrame, VGCF_IN_SYSCALL};
use bulkhead_abi::{Hypercall, layout, selectors};

/// An address that a CPU takes, high or low.
pub(super) fn canonical(choices: &mut Choices) -> u64 {
    let any = choices.any() >> choices.below(64);
    ((any << 16).cast_signed() >> 16).cast_unsigned()
}

/// A frame that leads to a program, or to the kernel itself; now and then one that leads nowhere.
fn frame(choices: &mut Choices) -> IretFrame {
    let kernel = u64::from(selectors::INTERRUPTED_KERNEL_CS);
    let is_strange = choices.chance(10);
    let [anywhere, any_flags, any_stack] = [canonical(choices), choices.any(), choices.any()];
    let mut frame = IretFrame {
        rax: choices.below(1000),
        r11: choices.any(),
        rcx: choices.any(),
        flags: choices.one_of(&[0, VGCF_IN_SYSCALL]),
        rip: choices.one_of(&[World::CODE, World::CODE, anywhere]),
        cs: u64::from(choices.one_of(&[selectors::FLAT_RING3_CS64, selectors::FLAT_RING3_CS32])),
        rflags: choices.one_of(&[0x200, 0x202, any_flags]),
        rsp: choices.one_of(&[World::STACK, any_stack]),
        ss: u64::from(selectors::FLAT_RING3_SS),
    };
    if is_strange {
        match choices.below(5) {
            0 => frame.rip = choices.any(),
            1 => frame.cs = choices.any(),
            2 => frame.ss = choices.any(),
            3 => (frame.cs, frame.rip) = (kernel, 1 << 47),
            _ => (frame.cs, frame.rsp) = (kernel, World::STACK),
        }
    }
    frame
}

/// The segments that a guest may load by itself: the flat ones, those of its own tables that are there, and bases as far as its CPU gives it
/// the instructions.
pub(super) fn load(choices: &mut Choices) -> Act {
    let [fs_base, gs_base] = [canonical(choices), canonical(choices)];
    let selector =
        |choices: &mut Choices| choices.one_of(&[0, selectors::FLAT_RING3_SS, 3, 7, 0xb, 0xf, 0x13, 0x17]);
    Act::Load(Segments {
        ds: selector(choices),
        es: selector(choices),
        fs: selector(choices),
        gs: selector(choices),
        fs_base,
        gs_base,
        // No guest reaches this one but by asking for it.
        gs_base_other: 0,
    })
}

/// An exception, in a program or in the kernel.
pub(super) fn exception(choices: &mut Choices) -> Act {
    Act::Raise(Exception {
        vector: choices.one_of(&[0, 1, 3, 4, 6, 7, 7, 13, 14, 14, 16, 17, 19]),
        error_code: u32::try_from(choices.below(64)).unwrap(),
        address: choices.any(),
    })
}

/// What a 32-bit program has for system calls.
fn call_of_32_bit_code(choices: &mut Choices) -> Act {
    if choices.chance(50) {
        Act::CompatCall
    } else {
        Act::Sysenter
    }
}

/// What a program does.
pub(super) fn act(choices: &mut Choices) -> Act {
    let any = canonical(choices);
    match choices.below(20) {
        0..=6 => {
            let number = choices.one_of(&[0, 1, Hypercall::MmuUpdate.raw(), Hypercall::Iret.raw(), any]);
            let args = core::array::from_fn(|_| choices.any() >> choices.below(64));
            Act::Call {
                number,
                args,
                record: Vec::new(),
            }
        }
        7..=10 => exception(choices),
        11..=13 => instructions::forbidden(choices),
        14 => Act::Read(choices.one_of(&[World::SCRATCH, World::STACK - 8, any])),
        15 if choices.chance(50) => call_of_32_bit_code(choices),
        15 => Act::Write(choices.one_of(&[World::LIST, World::STACK - 8]), choices.any()),
        16 | 17 => load(choices),
        _ => Act::Compute(choices.below(2_000_000)),
    }
}

impl Mind<'_> {
    /// Runs a program, which will do a thing or two before it calls or faults.
    pub(super) fn run_program(&self, choices: &mut Choices) -> VecDeque<Act> {
        let mut plan = VecDeque::new();
        // Without tables for it, a program is the end of the guest.
        if choices.chance(98) {
            let op = ext(MmuExtOp::NewUserBaseptr, self.root(choices).raw());
            plan.push_back(Act::Ext(vec![op]));
        }
        if choices.chance(30) {
            let strange = choices.one_of(&[0, 8, layout::HYPERVISOR.start + 64, World::STACK + 0x10_0000]);
            let is_strange = choices.chance(5);
            plan.push_back(stack_switch(if is_strange { strange } else { World::STACK }));
        }
        plan.push_back(match choices.below(200) {
            0 => Act::ReturnFrom(choices.one_of(&[0, layout::HYPERVISOR.start, 0x7000_0000_0000])),
            _ => Act::Return(frame(choices)),
        });
        plan
    }
}
