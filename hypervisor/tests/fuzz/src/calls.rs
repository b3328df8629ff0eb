//! Hypercalls that the guest makes for itself, and the one `unsafe` block behind them.
//!
//! **Soundness.** The callers change mappings in the level-4 slots 0 to 255, where Rust keeps nothing, rights on frames that they
//! own, and entry points, to those of [`stream`](crate::stream).

use bulkhead_abi::{DomId, Errno, Hypercall, errno::Failure, mmu::MmuUpdate};
use bulkhead_runtime::hypervisor::raw_call;

/// What a hypercall answers.
pub(crate) type Answer = Result<u64, Failure>;

/// Makes a hypercall; arguments that are not given are zero.
pub(crate) fn call<const N: usize>(call: Hypercall, arguments: [u64; N]) -> Answer {
    const { assert!(N <= 5, "a hypercall has five arguments") };
    let mut all = [0; 5];
    for (place, argument) in all.iter_mut().zip(arguments) {
        *place = argument;
    }
    // SAFETY: the rule of the module, which all callers keep.
    Errno::from_register(unsafe { raw_call(call.raw(), all) })
}

/// The same for a call without which there is nothing to be done.
pub(crate) fn must<const N: usize>(which: Hypercall, arguments: [u64; N]) {
    if let Err(error) = call(which, arguments) {
        panic!("{} {arguments:x?}: {error}", which.name());
    }
}

/// The address that an argument carries for a record that the hypervisor reads.
pub(crate) fn input<T: ?Sized>(record: &T) -> u64 {
    core::ptr::from_ref(record).cast::<u8>().expose_provenance() as u64
}

/// Writes a page-table entry.
pub(crate) fn set_entry(maddr: u64, entry: u64) {
    let request = MmuUpdate {
        ptr: maddr,
        val: entry,
    };
    must(
        Hypercall::MmuUpdate,
        [input(&request), 1, 0, u64::from(DomId::SELF.raw())],
    );
}
