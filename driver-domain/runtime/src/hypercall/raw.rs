//! The `syscall` instruction: the one way out of the guest, with one function for each number of
//! arguments.
//!
//! Nothing here knows what a call means; the sibling modules give each call its types and pay its
//! safety contract. Arguments travel in rdi, rsi, rdx, r10, the result in rax.

use core::arch::asm;

use bulkhead_abi::{Errno, Hypercall, errno::Failure};

/// What a hypercall answers: the value of rax, or the error that it stands for.
pub(crate) type Answer = Result<u64, Failure>;

/// The address that a hypercall argument carries for memory that the hypervisor reads.
pub(super) fn input<T: ?Sized>(record: &T) -> u64 {
    address(core::ptr::from_ref(record))
}

/// The address that a hypercall argument carries for memory that the hypervisor reads and writes.
pub(super) fn in_out<T: ?Sized>(record: &mut T) -> u64 {
    address(core::ptr::from_mut(record))
}

fn address<T: ?Sized>(pointer: *const T) -> u64 {
    // Exposed: the hypervisor accesses the memory through the bare number.
    pointer.cast::<u8>().expose_provenance() as u64
}

macro_rules! arity {
    ($(#[$meta:meta])* $name:ident($($argument:ident in $register:tt),+)) => {
        $(#[$meta])*
        ///
        /// # Safety
        ///
        /// The caller answers for what the hypervisor does on the call's behalf: memory that the
        /// arguments point to is live and not otherwise borrowed for the length of the call (shared
        /// if the call only reads it, exclusively if it writes), and no mapping that Rust relies on
        /// loses its frame or its rights.
        #[inline]
        pub(super) unsafe fn $name(call: Hypercall, $($argument: u64),+) -> Answer {
            let rax: u64;
            // SAFETY: SYSCALL destroys rcx and r11, both declared. The ABI keeps all other registers,
            // but debug builds of Xen scribble on the arguments, so these count as lost too. The stack
            // is not touched and flags come back as they were. Memory is the caller's promise.
            unsafe {
                asm!(
                    "syscall",
                    inlateout("rax") call.raw() => rax,
                    $(inlateout($register) $argument => _,)+
                    lateout("rcx") _,
                    lateout("r11") _,
                    options(nostack, preserves_flags),
                );
            }
            Errno::from_register(rax)
        }
    };
}

arity! {
    /// Makes a hypercall with one argument.
    call1(a in "rdi")
}
arity! {
    /// Makes a hypercall with two arguments.
    call2(a in "rdi", b in "rsi")
}
arity! {
    /// Makes a hypercall with three arguments.
    call3(a in "rdi", b in "rsi", c in "rdx")
}
arity! {
    /// Makes a hypercall with four arguments.
    call4(a in "rdi", b in "rsi", c in "rdx", d in "r10")
}
