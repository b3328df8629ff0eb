//! Hypercalls by number, and the one `unsafe` block behind all of them.
//!
//! **Soundness.** A probe's business is calls that a sane program does not make, so no type can say which are allowed. The rule that every
//! caller here keeps instead, and that a reader of any other module has to check: a call is one that the hypervisor must
//! refuse, or changes only
//!
//! - records and [frames](crate::frames) that the probe passes for the purpose, of which Rust holds no reference across the call;
//! - mappings of such frames, and of addresses in the [window](crate::window), where Rust keeps nothing;
//! - entry points, to functions that are ones.
//!
//! If the hypervisor fails to refuse a call, the check has failed and what the probe does next does not matter.

use bulkhead_abi::{Errno, Hypercall, errno::Failure};
use bulkhead_runtime::{hypervisor::raw_call, println};

/// What a hypercall answers.
pub(crate) type Answer = Result<u64, Failure>;

/// Makes a hypercall; arguments that are not given are zero.
pub(crate) fn call<const N: usize>(call: Hypercall, arguments: [u64; N]) -> Answer {
    call_number(call.raw(), arguments)
}

/// Makes the hypercall with this number, if there is one.
pub(crate) fn call_number<const N: usize>(number: u64, arguments: [u64; N]) -> Answer {
    const { assert!(N <= 5, "a hypercall has five arguments") };
    let mut all = [0; 5];
    for (place, argument) in all.iter_mut().zip(arguments) {
        *place = argument;
    }
    // SAFETY: the rule of the module, which all callers keep.
    Errno::from_register(unsafe { raw_call(number, all) })
}

/// The address that an argument carries for a record that the hypervisor reads.
pub(crate) fn input<T: ?Sized>(record: &T) -> u64 {
    core::ptr::from_ref(record).cast::<u8>().expose_provenance() as u64
}

/// The address that an argument carries for a record that the hypervisor writes.
pub(crate) fn in_out<T: ?Sized>(record: &mut T) -> u64 {
    core::ptr::from_mut(record).cast::<u8>().expose_provenance() as u64
}

/// The answer that `errno` is.
pub(crate) const fn refusal(errno: Errno) -> Answer {
    Err(Failure::Errno(errno))
}

/// Takes note of calls that make things as they were, for the checks that follow: they must succeed too.
pub(crate) fn tidy<const N: usize>(answers: [Answer; N]) {
    if !answers.iter().all(Result::is_ok) {
        println!("CHECK tidying-up FAILED: {answers:?}");
    }
}
