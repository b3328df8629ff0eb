//! An experiment at boot: does this CPU enter ring 3 from ring 3 with the rights of ring 3 only?
//!
//! A direct gate ([`Gate`]) is safe if what the CPU pushes on its way through it, it pushes as the guest itself could. That is what the
//! manual says (Intel SDM volume 3A, section 6.14.2), but QEMU's TCG before version 9.1 pushes with the rights of ring 0: a guest
//! could write the hypervisor's memory by having its stack pointer there. So it is tried, on the boot CPU, before there are
//! guests: a page of ring 3 executes `int n` through such a gate, with the stack pointer in a page of ring 0. A sound CPU faults.

use core::arch::naked_asm;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_abi::extension::DIRECT_GATE_VECTORS;
use bulkhead_abi::selectors::{FLAT_RING3_CS64, FLAT_RING3_SS};
use bulkhead_core::frames::{Buddy, Mfn};
use bulkhead_core::vcpu::Gates;
use bulkhead_core::vcpu::gates::Gate;
use bulkhead_machine::layout::{FIRST_SLOT, LAST_SLOT, PAGE_SIZE};
use bulkhead_machine::portable::command_line::Choice;
use x86_64::structures::paging::PageTableFlags as Flags;

use super::tables;
use crate::cpu::control::load_page_tables;
use crate::hw::frame_words;
use crate::memory::direct;
use crate::memory::page_table::leaf;

/// Whether guests may have direct gates on this machine. The boot CPU runs this once, when it has its tables, with interrupts off.
/// `None` if there is no memory for the experiment.
pub(crate) fn judge(buddy: &mut Buddy, l4: u64, choice: Choice) -> Option<bool> {
    let is_wanted = match choice {
        Choice::Off => return Some(false),
        Choice::On => true,
        Choice::Auto => false,
    };
    let verdict = experiment(buddy, l4)?;
    let is_safe = verdict == Verdict::Faults;
    if is_safe {
        log::info!("direct gates: offered");
    } else if is_wanted {
        log::warn!("direct gates: offered, as the command line wants, but {verdict}");
    } else {
        log::info!("direct gates: not offered, {verdict}");
    }
    Some(is_safe || is_wanted)
}

/// What came of the experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The instruction faulted, and nothing was written.
    Faults,
    /// The frame was written.
    Writes,
    /// Something else happened.
    Strange,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Faults => "the CPU writes their frames with the rights of ring 3",
            Self::Writes => {
                "the CPU writes their frames with the rights of ring 0: a guest could write all memory"
            }
            Self::Strange => "the CPU neither writes their frames nor faults on them",
        })
    }
}

/// Where ring 3's page is: anywhere in the lower half.
const CODE: u64 = 0x40_0000;
const VECTOR: u8 = *DIRECT_GATE_VECTORS.start();
/// What is there: `int VECTOR`, and an invalid instruction, to which the gate leads.
const INSTRUCTIONS: u64 = u64::from_le_bytes([0xcd, VECTOR, 0x0f, 0x0b, 0, 0, 0, 0]);
const HANDLER: u64 = CODE + 2;

/// Makes the experiment, in an address space of its own.
fn experiment(buddy: &mut Buddy, l4: u64) -> Option<Verdict> {
    let mut frames = [const { None }; 6];
    for place in &mut frames {
        *place = buddy.alloc(0);
    }
    let verdict = if let [Some(root), Some(l3), Some(l2), Some(l1), Some(code), Some(stack)] = frames {
        Some(
            Space {
                root,
                l3,
                l2,
                l1,
                code,
                stack,
            }
            .run(l4),
        )
    } else {
        None
    };
    for frame in frames.into_iter().flatten() {
        buddy.free(frame, 0);
    }
    verdict
}

/// The address space: four tables, the page of ring 3, and a page of ring 0.
struct Space {
    root: Mfn,
    l3: Mfn,
    l2: Mfn,
    l1: Mfn,
    code: Mfn,
    stack: Mfn,
}

impl Space {
    /// `l4` is the hypervisor's own table.
    fn run(&self, l4: u64) -> Verdict {
        self.fill(l4);
        let gate = Gate::new(HANDLER).ok();
        let mut gates = Gates::NONE;
        let stack = direct(self.stack.maddr()).addr().wrapping_add(PAGE_SIZE / 2) as u64;
        if gates.set(VECTOR, gate).is_err() {
            return Verdict::Strange;
        }
        tables::load_gates(0, &gates);
        let faults = tables::divert(
            0,
            landing as *const () as u64,
            landing_with_error as *const () as u64,
        );
        // SAFETY: the new table has the hypervisor in its upper slots, and goes out of force before its frames are used for anything else.
        unsafe { load_page_tables(self.root.raw()) };
        // SAFETY: ring 3 has one page, which raises an exception at its first or its second instruction; each that can be leads to a
        // landing, which comes back here. Interrupts stay off.
        let Trap { rip, has_error_code } = unsafe { enter_ring_3(CODE, stack) };
        // SAFETY: the hypervisor's own table.
        unsafe { load_page_tables(l4) };
        drop(faults);
        tables::load_gates(0, &Gates::NONE);
        let is_written = frame_words(self.stack.raw())
            .iter()
            .any(|word| word.load(Ordering::Relaxed) != 0);
        match (is_written, rip, has_error_code) {
            (true, _, _) => Verdict::Writes,
            (false, CODE, 1) => Verdict::Faults,
            (false, _, _) => Verdict::Strange,
        }
    }

    fn fill(&self, l4: u64) {
        for frame in [self.root, self.l3, self.l2, self.l1, self.code, self.stack] {
            for word in frame_words(frame.raw()) {
                word.store(0, Ordering::Relaxed);
            }
        }
        let own = frame_words(l4).iter().zip(frame_words(self.root.raw()));
        for (from, to) in own.take(LAST_SLOT.saturating_add(1)).skip(FIRST_SLOT) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let ring3 = Flags::PRESENT | Flags::USER_ACCESSIBLE | Flags::ACCESSED;
        let set = |table: Mfn, index: usize, to: Mfn| {
            if let Some(entry) = frame_words(table.raw()).get(index) {
                entry.store(leaf(to.raw(), ring3), Ordering::Relaxed);
            }
        };
        set(self.root, 0, self.l3);
        set(self.l3, 0, self.l2);
        set(self.l2, (CODE >> 21) as usize, self.l1);
        set(self.l1, 0, self.code);
        if let Some(word) = frame_words(self.code.raw()).first() {
            word.store(INSTRUCTIONS, Ordering::Relaxed);
        }
    }
}

/// The exception with which ring 3 ended.
#[repr(C)]
struct Trap {
    /// Where.
    rip: u64,
    /// 1 if the CPU pushed an error code, as page faults have one, and invalid instructions none; else 0.
    has_error_code: u64,
}

/// Where the hypervisor's stack is while ring 3 runs.
static STACK: AtomicU64 = AtomicU64::new(0);

/// Runs ring 3 at `rip` (rdi) with stack pointer `rsp` (rsi) until it comes to a landing, which returns from here.
///
/// # Safety
///
/// Only the boot CPU, with interrupts off; every exception that ring 3 can raise must lead to a landing.
#[unsafe(naked)]
unsafe extern "C" fn enter_ring_3(rip: u64, rsp: u64) -> Trap {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rip + {stack}], rsp",
        "push {ss}",
        "push rsi",
        "push 2", // Flags: none but the one that is always set.
        "push {cs}",
        "push rdi",
        "iretq",
        stack = sym STACK,
        ss = const FLAT_RING3_SS,
        cs = const FLAT_RING3_CS64,
    )
}

/// Entered by an exception without error code, with rip on top of the stack.
#[unsafe(naked)]
unsafe extern "C" fn landing() -> ! {
    naked_asm!("xor edx, edx", "pop rax", "jmp {back}", back = sym back)
}

/// Entered by an exception with an error code.
#[unsafe(naked)]
unsafe extern "C" fn landing_with_error() -> ! {
    naked_asm!(
        "mov edx, 1",
        "pop rax",
        "pop rax",
        "jmp {back}",
        back = sym back
    )
}

/// Returns from [`enter_ring_3`] with what is in rax and rdx.
#[unsafe(naked)]
unsafe extern "C" fn back() -> ! {
    naked_asm!(
        "mov rsp, [rip + {stack}]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        stack = sym STACK,
    )
}
