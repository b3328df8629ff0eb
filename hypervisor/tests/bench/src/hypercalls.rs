//! Hypercalls in a loop of six instructions: what a call costs, and how much of that is the hypervisor's.

use core::arch::asm;

use bulkhead_abi::{Hypercall, multicall::MulticallEntry};

use crate::split::{self, Parts};

/// Calls in one run.
const CALLS: u64 = 1000;
/// Lists of calls in one run.
const LISTS: u64 = 100;

/// Six instructions make a turn of the loop; those to the call, and two of the stamp, lie between stamps.
pub(super) const LOOP: Parts = Parts {
    kernel: 6,
    program: 0,
    between: 2 + 4,
};

/// A hypercall, with its first two arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    number: u64,
    arguments: [u64; 2],
}

macro_rules! repetition {
    ($(#[$meta:meta])* $name:ident, before: [$($before:literal),*], after: [$($after:literal),*]) => {
        $(#[$meta])*
        pub(super) fn $name(self, count: u64) -> u64 {
            let [first, second] = self.arguments;
            let sum: u64;
            // SAFETY: the call itself is the promise of `new`. It changes rax, rcx and r11; arguments count as lost too, in the
            // debug builds of other hypervisors, and are loaded anew. Stamps change rax, rdx, r12 and r14.
            unsafe {
                asm!(
                    "2:",
                    $($before,)*
                    "mov eax, {number:e}",
                    "mov rdi, {first}",
                    "mov rsi, {second}",
                    "syscall",
                    $($after,)*
                    "dec {left:e}",
                    "jnz 2b",
                    number = in(reg) self.number,
                    first = in(reg) first,
                    second = in(reg) second,
                    left = inout(reg) count => _,
                    inout("r14") 0_u64 => sum,
                    out("r12") _,
                    out("rax") _,
                    out("rcx") _,
                    out("rdx") _,
                    out("rdi") _,
                    out("rsi") _,
                    out("r11") _,
                );
            }
            sum
        }
    };
}

impl Call {
    /// A call that may be made any number of times.
    ///
    /// # Safety
    ///
    /// As [`raw_call`](bulkhead_runtime::hypervisor::raw_call), for as long as this is used.
    pub(super) const unsafe fn new(call: Hypercall, arguments: [u64; 2]) -> Self {
        Self {
            number: call.raw(),
            arguments,
        }
    }

    repetition! {
        /// Makes it so many times.
        repeat, before: [], after: []
    }

    repetition! {
        /// The same with stamps. Returns what lay between these.
        repeat_with_stamps,
        before: ["rdtsc", "mov r12d, eax"],
        after: ["rdtsc", "sub eax, r12d", "add r14, rax"]
    }

    fn measure(self, name: &str) {
        split::whole(name, CALLS, 1, |count| _ = self.repeat(count));
        split::parts(name, CALLS, 1, LOOP, |count| self.repeat_with_stamps(count));
    }
}

/// Hypercalls that are made one after the other, again and again: such as undo each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calls<const N: usize>([Listed; N]);

/// A hypercall as the loop reads it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Listed {
    number: u64,
    arguments: [u64; 3],
}

macro_rules! listed_repetition {
    ($(#[$meta:meta])* $name:ident, before: [$($before:literal),*], after: [$($after:literal),*]) => {
        $(#[$meta])*
        fn $name(&self, count: u64) -> u64 {
            let sum: u64;
            // SAFETY: the calls are the promise of `new`. They change rax, rcx, r11 and the arguments' registers, which are loaded anew from
            // the list; stamps change rax, rdx, r12 and r14.
            unsafe {
                asm!(
                    "2: mov r13, {list}",
                    "mov r15d, {calls}",
                    "3:",
                    $($before,)*
                    "mov rax, [r13]",
                    "mov rdi, [r13 + 8]",
                    "mov rsi, [r13 + 16]",
                    "mov rdx, [r13 + 24]",
                    "syscall",
                    $($after,)*
                    "add r13, {size}",
                    "dec r15d",
                    "jnz 3b",
                    "dec {left:e}",
                    "jnz 2b",
                    list = in(reg) self.0.as_ptr(),
                    calls = const N,
                    size = const size_of::<Listed>(),
                    left = inout(reg) count => _,
                    inout("r14") 0_u64 => sum,
                    out("r12") _,
                    out("r13") _,
                    out("r15") _,
                    out("rax") _,
                    out("rcx") _,
                    out("rdx") _,
                    out("rdi") _,
                    out("rsi") _,
                    out("r11") _,
                );
            }
            sum
        }
    };
}

impl<const N: usize> Calls<N> {
    /// Each call takes eight instructions of the guest's, and the list four; between stamps are two of the stamp and five of the call.
    const PARTS: Parts = Parts {
        kernel: 8 * N as u64 + 4,
        program: 0,
        between: (2 + 5) * N as u64,
    };

    /// Calls that may be made any number of times in this order, with three arguments each.
    ///
    /// # Safety
    ///
    /// As [`raw_call`](bulkhead_runtime::hypervisor::raw_call), for as long as this is used.
    pub(super) unsafe fn new(calls: [(Hypercall, [u64; 3]); N]) -> Self {
        Self(calls.map(|(call, arguments)| Listed {
            number: call.raw(),
            arguments,
        }))
    }

    /// Reports what all of them take together.
    pub(super) fn measure(&self, name: &str) {
        split::whole(name, LISTS, 1, |count| _ = self.repeat(count));
        split::parts(name, LISTS, 1, Self::PARTS, |count| {
            self.repeat_with_stamps(count)
        });
    }

    listed_repetition! {
        /// Makes them so many times.
        repeat, before: [], after: []
    }

    listed_repetition! {
        /// The same with stamps. Returns what lay between these.
        repeat_with_stamps,
        before: ["rdtsc", "mov r12d, eax"],
        after: ["rdtsc", "sub eax, r12d", "add r14, rax"]
    }
}

/// Measures a call that does nothing, and eight in one.
pub(super) fn measure_all() {
    // SAFETY: tells a number.
    let null = unsafe { Call::new(Hypercall::XenVersion, [0; 2]) };
    null.measure("null-hypercall");

    let element = MulticallEntry {
        op: Hypercall::XenVersion.raw(),
        result: -1,
        args: [0; 6],
    };
    let mut list = [element; 8];
    let at = core::ptr::from_mut(&mut list).expose_provenance() as u64;
    // SAFETY: the calls of the list are as above. The hypervisor writes their results into it, which nobody else uses until the
    // last of them.
    let multicall = unsafe { Call::new(Hypercall::Multicall, [at, list.len() as u64]) };
    multicall.measure("multicall-8");
    assert!(
        list.iter().all(|element| element.result > 0),
        "an element was refused"
    );
}
