//! The page that the domain shares with the hypervisor, mapped a second time: here events can be let in.
//!
//! The runtime keeps them out while its program runs; a check that is about their coming opens the door for as long.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use bulkhead_abi::shared_info::offset;
use bulkhead_runtime::{Environment, event};

use crate::{
    frames::{WRITABLE, show},
    window::Window,
};

/// The last page of the window is this mapping's.
pub(crate) const PAGE: usize = 511;

/// The mapping, which stays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared(());

impl Shared {
    /// Maps the page. The window must be open.
    pub(crate) fn map(environment: &Environment, _window: &Window) -> Option<Self> {
        let maddr = environment.shared_info()?.maddr();
        show(Window::address(PAGE), maddr | WRITABLE).ok()?;
        Some(Self(()))
    }

    /// Lets events in, runs `act`, and keeps them out again; then has the runtime take note of what came.
    pub(crate) fn with_events<T>(self, act: impl FnOnce() -> T) -> T {
        self.upcall_mask().store(0, Ordering::SeqCst);
        let result = act();
        self.upcall_mask().store(1, Ordering::SeqCst);
        event::dispatch();
        result
    }

    /// Whether a port is pending, which is then not so any more.
    pub(crate) fn take_pending(self, port: u32) -> bool {
        let (word, bit) = (port as usize >> 6 & 63, 1 << (port & 63));
        let place = offset::EVTCHN_PENDING.wrapping_add(word << 3);
        let address = Window::address(PAGE).wrapping_add(place as u64);
        let word = core::ptr::with_exposed_provenance_mut::<u64>(usize::try_from(address).unwrap_or(0));
        // SAFETY: `map` has mapped the page for good (that is what `self` says), the word is one of its 64 for pending ports, and everybody
        // accesses these atomically, the hypervisor too.
        let word = unsafe { AtomicU64::from_ptr(word) };
        word.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    fn upcall_mask(self) -> &'static AtomicU8 {
        let address = Window::address(PAGE).wrapping_add((offset::VCPU_INFO + offset::UPCALL_MASK) as u64);
        let byte = core::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(address).unwrap_or(0));
        // SAFETY: `map` has mapped the page for good (that is what `self` says), and everybody accesses this byte
        // atomically, the hypervisor too.
        unsafe { AtomicU8::from_ptr(byte) }
    }
}
