//! Pages that this domain lets another use: [`Grant`].

use core::mem::ManuallyDrop;
use core::sync::atomic::AtomicU64;

use bulkhead_abi::DomId;
use bulkhead_ring::SharedPage;

use super::{Access, GrantError, GrantRef, entry, table};
use crate::memory::Page;

/// A page of this domain that another may use.
///
/// The page is its own, and comes back when the grant is [revoked](Self::revoke). If a grant is dropped that is in use, its page is lost
/// for good: what else could be done with memory that somebody writes.
#[derive(Debug)]
pub struct Grant {
    page: ManuallyDrop<Page>,
    reference: GrantRef,
    entry: &'static AtomicU64,
}

impl Grant {
    /// Lets `domain` use the page. Nobody has to be told but that domain, which needs the [reference](Self::reference).
    ///
    /// # Errors
    ///
    /// [`GrantError::TableFull`], [`GrantError::NoFrame`], and what keeps the table from growing; with the page.
    pub fn new(page: Page, domain: DomId, access: Access) -> Result<Self, (Page, GrantError)> {
        let Some(frame) = page.mfn().and_then(|mfn| u32::try_from(mfn.raw()).ok()) else {
            return Err((page, GrantError::NoFrame));
        };
        let (reference, entry) = match table::take() {
            Ok(taken) => taken,
            Err(error) => return Err((page, error)),
        };
        entry::permit(entry, domain, frame, access);
        Ok(Self {
            page: ManuallyDrop::new(page),
            reference,
            entry,
        })
    }

    /// The number that the other domain needs.
    #[must_use]
    pub const fn reference(&self) -> GrantRef {
        self.reference
    }

    /// The page, which the other domain may be writing.
    #[must_use]
    pub fn page(&self) -> &Page {
        &self.page
    }

    /// Whether the other domain uses it now. It may begin to as soon as this has been asked.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        entry::is_in_use(self.entry)
    }

    /// Ends the grant. The page is this domain's alone again: no other can reach it, and what was written there is seen.
    ///
    /// # Errors
    ///
    /// The grant, while the other domain uses it. It goes on as it was: nothing forces another domain to let go.
    pub fn revoke(self) -> Result<Page, Self> {
        if !entry::revoke(self.entry) {
            return Err(self);
        }
        table::release(self.reference);
        let mut ended = ManuallyDrop::new(self);
        // SAFETY: the grant is not used any more, and not dropped: the page is taken from it once.
        Ok(unsafe { ManuallyDrop::take(&mut ended.page) })
    }
}

/// The page, as both domains see it.
impl SharedPage for Grant {
    fn load(&self, offset: usize) -> u32 {
        SharedPage::load(&*self.page, offset)
    }

    fn store(&self, offset: usize, value: u32) {
        SharedPage::store(&*self.page, offset, value);
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        SharedPage::read(&*self.page, offset, to);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        SharedPage::write(&*self.page, offset, from);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if entry::revoke(self.entry) {
            table::release(self.reference);
            // SAFETY: nobody uses the page any more, and it is dropped once: the field is not used after this.
            unsafe { ManuallyDrop::drop(&mut self.page) };
        } else {
            log::error!(
                "grant {} is in use for ever, and its page lost",
                self.reference.raw()
            );
        }
    }
}
