//! Pages that another domain may exchange for its own: [`Offer`]. Source: `hypervisor/docs/extensions.md`.

use core::sync::atomic::AtomicU64;

use bulkhead_abi::DomId;

use super::{
    GrantError, GrantRef,
    entry::{self, Offered},
    table,
};
use crate::memory::{Hidden, Mfn, Page};

/// A page of this domain that another may have, for one of its own. It is not mapped meanwhile.
///
/// It is for who finds [`GRANT_FLIP`](crate::extension::GRANT_FLIP). What the page holds, the other domain gets to see. An offer that is dropped is
/// withdrawn, and its page freed, whichever that is.
#[derive(Debug)]
pub struct Offer {
    /// `None` once the page was given back.
    page: Option<Hidden>,
    /// The frame that it had.
    own: Mfn,
    reference: GrantRef,
    entry: &'static AtomicU64,
}

/// What became of an offer.
#[derive(Debug)]
pub enum Withdrawn {
    /// Nobody took it: here is the page.
    Same(Page),
    /// This page came for it, with what its giver left there.
    Other(Page),
}

impl Offer {
    /// Offers the page to `domain`, which needs the [reference](Self::reference).
    ///
    /// # Errors
    ///
    /// [`GrantError::TableFull`], [`GrantError::NoFrame`], and what keeps the table from growing or the page from being unmapped; with the
    /// page.
    pub fn new(page: Page, domain: DomId) -> Result<Self, (Page, GrantError)> {
        let frame = page
            .mfn()
            .and_then(|mfn| Some((mfn, u32::try_from(mfn.raw()).ok()?)));
        let Some((own, frame)) = frame else {
            return Err((page, GrantError::NoFrame));
        };
        let (reference, entry) = match table::take() {
            Ok(taken) => taken,
            Err(error) => return Err((page, error)),
        };
        let page = match page.hide() {
            Ok(hidden) => hidden,
            Err((page, failure)) => {
                table::release(reference);
                return Err((page, failure.into()));
            }
        };
        entry::offer(entry, domain, frame);
        Ok(Self {
            page: Some(page),
            own,
            reference,
            entry,
        })
    }

    /// The number that the other domain needs.
    #[must_use]
    pub const fn reference(&self) -> GrantRef {
        self.reference
    }

    /// Ends the offer, and tells what became of it.
    ///
    /// # Errors
    ///
    /// The offer, while an exchange is under way.
    pub fn withdraw(mut self) -> Result<Withdrawn, Self> {
        self.end().ok_or(self)
    }

    fn end(&mut self) -> Option<Withdrawn> {
        let came = match entry::withdraw(self.entry) {
            Offered::UnderWay => return None,
            Offered::Exchanged(frame) => Some(Mfn::new(frame.into())?),
            Offered::Untouched => None,
        };
        let shown = match self.page.take()?.show(came.unwrap_or(self.own)) {
            Ok(page) => page,
            Err((hidden, failure)) => {
                log::error!("a page that was offered cannot be mapped: {failure}");
                self.page = Some(hidden);
                return None;
            }
        };
        entry::clear(self.entry);
        table::release(self.reference);
        Some(match came {
            Some(_) => Withdrawn::Other(shown),
            None => Withdrawn::Same(shown),
        })
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if self.page.is_some() && self.end().is_none() {
            log::error!(
                "offer {} cannot be withdrawn, and its page is lost",
                self.reference.raw()
            );
        }
    }
}
