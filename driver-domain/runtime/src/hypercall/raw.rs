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

/// Makes the hypercall `number`, whether there is one or not, and returns `rax` as it comes back.
///
/// The whole of `number` goes into `rax`. Arguments that a call does not have are ignored. For programs that are about
/// hypercalls themselves; all others have the typed functions of this crate.
///
/// # Safety
///
/// The caller answers for all that the hypervisor does on the call's behalf: memory that the arguments point to may be
/// read, or written, as that call does; no mapping that Rust relies on loses its frame or its rights, no second one of
/// a frame appears where Rust counts on one; and what is registered as an entry point is one.
#[inline]
pub unsafe fn raw_call(number: u64, arguments: [u64; 5]) -> u64 {
    let [a, b, c, d, e] = arguments;
    let rax: u64;
    // SAFETY: as in the functions above; r8 is the fifth argument's register. The rest is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => rax,
            inlateout("rdi") a => _,
            inlateout("rsi") b => _,
            inlateout("rdx") c => _,
            inlateout("r10") d => _,
            inlateout("r8") e => _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack, preserves_flags),
        );
    }
    rax
}
