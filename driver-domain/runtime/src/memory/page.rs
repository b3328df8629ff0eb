//! Whole pages, to be shared with other domains.

use core::mem::ManuallyDrop;
use core::sync::atomic::AtomicU32;

use bulkhead_abi::errno::Failure;
use bulkhead_abi::layout::PAGE_SIZE;
use bulkhead_ring::SharedPage;

use super::{
    View,
    frame::{Mfn, Pfn},
    frames, own, p2m,
    rights::Rights,
};
use crate::hypercall;

/// A page of this domain, owned: a ring, a buffer, anything whose frame somebody else must name.
///
/// Because others may write it at any time, no Rust reference to its bytes exists; they are copied in and
/// out, and indices are atomics. Dropping the page gives the frame back, so whatever lets others reach it
/// must have ended by then.
#[derive(Debug)]
pub struct Page {
    pfn: Pfn,
}

impl Page {
    /// Takes a page and fills it with zeros, or returns `None` if memory is used up.
    #[must_use]
    pub fn zeroed() -> Option<Self> {
        let page = Self {
            pfn: frames::take(1)?,
        };
        // SAFETY: the frame was free and is mapped writable; it is this page's now.
        unsafe { page.pointer().write_bytes(0, PAGE_SIZE) };
        Some(page)
    }

    /// The page's pseudo-physical frame.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The machine frame behind the page now, which is what grants and page tables name.
    #[must_use]
    pub fn mfn(&self) -> Option<Mfn> {
        p2m::machine_frame(self.pfn)
    }

    /// The page's address.
    #[must_use]
    pub const fn address(&self) -> usize {
        self.pfn.address()
    }

    /// The word at `offset`, or `None` if it is not aligned or not in the page.
    #[must_use]
    pub fn word(&self, offset: usize) -> Option<&AtomicU32> {
        self.view().word(offset)
    }

    /// Copies the bytes from `offset` on into `bytes`; `None`, and nothing copied, if they leave the page.
    #[must_use = "nothing is copied if the range leaves the page"]
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Option<()> {
        self.view().read(offset, bytes)
    }

    /// Copies `bytes` into the page from `offset` on; `None`, and nothing copied, if they do not fit.
    #[must_use = "nothing is copied if the range leaves the page"]
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Option<()> {
        self.view().write(offset, bytes)
    }

    /// Unmaps the page, so that its frame can be given away.
    ///
    /// # Errors
    ///
    /// The page, if the hypervisor refuses that.
    pub(crate) fn hide(self) -> Result<Hidden, (Self, Failure)> {
        // SAFETY: the page is this value's, and nobody has a reference to its bytes; it is not used until it is mapped again.
        match unsafe { hypercall::update_va_mapping(self.address(), Rights::None.entry(0)) } {
            Ok(()) => Ok(Hidden {
                page: ManuallyDrop::new(self),
            }),
            Err(failure) => Err((self, failure)),
        }
    }

    const fn view(&self) -> View {
        // SAFETY: the page is mapped writable while `self` lives, and is this value's: nobody has a reference to its bytes.
        unsafe { View::at(self.address()) }
    }

    fn pointer(&self) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(self.address())
    }
}

/// A page that is not mapped. It is lost if it is dropped.
#[derive(Debug)]
pub(crate) struct Hidden {
    page: ManuallyDrop<Page>,
}

impl Hidden {
    /// Maps the page again, with this frame: its own, or the one that the domain has instead.
    ///
    /// # Errors
    ///
    /// What it was, if the hypervisor refuses that.
    pub(crate) fn show(self, mfn: Mfn) -> Result<Page, (Self, Failure)> {
        // SAFETY: nothing is mapped there, and the frame is the domain's own and no page's but this one's.
        match unsafe { hypercall::update_va_mapping(self.page.address(), Rights::Data.entry(mfn.maddr())) } {
            Ok(()) => {
                p2m::set(self.page.pfn, Some(mfn));
                Ok(ManuallyDrop::into_inner(self.page))
            }
            Err(failure) => Err((self, failure)),
        }
    }
}

impl SharedPage for Page {
    fn load(&self, offset: usize) -> u32 {
        own::load(self.view(), offset)
    }

    fn store(&self, offset: usize, value: u32) {
        own::store(self.view(), offset, value);
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        own::read(self.view(), offset, to);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        // What does not fit is not written, as the trait says.
        let _ = self.view().write(offset, from);
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        frames::release(self.pfn);
    }
}
