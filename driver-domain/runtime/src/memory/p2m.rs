//! From pseudo-physical to machine frames and back.

use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_abi::layout::M2P;
use spin::Once;

use super::frame::{Mfn, Pfn};
use crate::trap;

/// The domain's p2m list, in its own memory: element n is the machine frame of pfn n.
static P2M: Once<&'static [AtomicU64]> = Once::new();

/// Takes the builder's list at `address` into use.
///
/// # Safety
///
/// There must be a list of `frames` elements, mapped for the life of the guest, and nothing else may use that
/// memory.
pub(super) unsafe fn init(address: usize, frames: usize) {
    let list = core::ptr::with_exposed_provenance::<AtomicU64>(address);
    // SAFETY: the caller says that the elements are there, for ever, and that only this reference will be
    // used; the page that starts a list is aligned.
    P2M.call_once(|| unsafe { core::slice::from_raw_parts(list, frames) });
}

/// Number of frames that the list has room for.
pub(super) fn frames() -> usize {
    P2M.get().map_or(0, |list| list.len())
}

/// The machine frame of `pfn`, or `None` if the domain has none there.
#[must_use]
pub fn machine_frame(pfn: Pfn) -> Option<Mfn> {
    // The value for "none" is no frame number.
    P2M.get()?
        .get(pfn.index())
        .and_then(|entry| Mfn::new(entry.load(Ordering::Relaxed)))
}

/// Says which machine frame `pfn` has from now on. The page's mapping is the caller's business.
pub(super) fn set(pfn: Pfn, mfn: Option<Mfn>) {
    /// What the ABI writes where there is none.
    const NONE: u64 = u64::MAX;
    if let Some(entry) = P2M.get().and_then(|list| list.get(pfn.index())) {
        entry.store(mfn.map_or(NONE, Mfn::raw), Ordering::Relaxed);
    }
}

/// The pseudo-physical frame of `mfn`, or `None` if it is not one of the domain's.
///
/// The hypervisor's table may say anything about frames of others, so the answer counts only if the domain's
/// own list agrees.
#[must_use]
pub fn pseudo_physical_frame(mfn: Mfn) -> Option<Pfn> {
    let offset = mfn.raw().checked_mul(size_of::<u64>() as u64)?;
    let address = M2P
        .start
        .checked_add(offset)
        .filter(|address| M2P.contains(address))?;
    // The table has holes, so this is a probe.
    let pfn = Pfn::new(trap::probe_read(usize::try_from(address).ok()?).ok()?)?;
    (machine_frame(pfn) == Some(mfn)).then_some(pfn)
}
