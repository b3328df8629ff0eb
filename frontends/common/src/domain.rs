//! What the front-end needs of the domain that it runs in.

use core::fmt;

use bulkhead_ring::SharedPage;

use crate::error::ConnectError;

/// What a back-end may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it: the page is written to the disk.
    ReadOnly,
    /// Read and write it.
    ReadWrite,
}

/// The domain that the front-end runs in, as far as one back-end is concerned. Clones are the same domain.
pub trait Domain: Clone + fmt::Debug {
    /// A page that nobody else may use.
    type Page: SharedPage + fmt::Debug;
    /// A page that the back-end may use. If it is dropped while the back-end does, the page is lost.
    type Grant: SharedPage + fmt::Debug;
    /// A port that the back-end can bind to.
    type Port: Port + fmt::Debug;

    /// Takes a page of zeros, or `None` if memory is used up.
    fn page(&self) -> Option<Self::Page>;

    /// Lets the back-end use a page.
    ///
    /// # Errors
    ///
    /// The page, if no grant can be had.
    fn grant(&self, page: Self::Page, access: Access) -> Result<Self::Grant, Self::Page>;

    /// The number by which the back-end knows a grant.
    fn reference(&self, grant: &Self::Grant) -> u32;

    /// Ends a grant: the back-end cannot reach the page any more.
    ///
    /// # Errors
    ///
    /// The grant, if the back-end uses it now.
    fn revoke(&self, grant: Self::Grant) -> Result<Self::Page, Self::Grant>;

    /// Opens a port, or `None` if there are no more.
    fn port(&self) -> Option<Self::Port>;
}

/// A page of a ring: the back-end may read and write it.
///
/// # Errors
///
/// [`ConnectError::NoMemory`].
pub fn ring_page<D: Domain>(domain: &D) -> Result<D::Grant, ConnectError> {
    let page = domain.page().ok_or(ConnectError::NoMemory)?;
    domain
        .grant(page, Access::ReadWrite)
        .map_err(|_| ConnectError::NoMemory)
}

/// A domain whose pages the back-end can have in exchange for its own.
pub trait Flips: Domain {
    /// A page that the back-end may have. If it is dropped while that is being done, the page is lost.
    type Offer: fmt::Debug;

    /// Whether the machine does that.
    fn can_flip(&self) -> bool;

    /// Lets the back-end have a page, with what is in it, for one of its own.
    ///
    /// # Errors
    ///
    /// The page, if it cannot be offered.
    fn offer(&self, page: Self::Page) -> Result<Self::Offer, Self::Page>;

    /// The number by which the back-end knows an offer.
    fn offered(&self, offer: &Self::Offer) -> u32;

    /// Ends an offer, and tells what became of it.
    ///
    /// # Errors
    ///
    /// The offer, if the page is being exchanged now.
    fn withdraw(&self, offer: Self::Offer) -> Result<Withdrawn<Self::Page>, Self::Offer>;
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn<P> {
    /// The back-end did not take it: here is the page.
    Same(P),
    /// The back-end gave this page for it.
    Other(P),
}

/// An event channel to the back-end.
pub trait Port {
    /// Its number, which the back-end binds to.
    fn number(&self) -> u32;

    /// Notifies the back-end, if there is one.
    fn notify(&self);

    /// Waits for a notification. One that came before the call counts; one too many does no harm. Dropping the future loses none.
    fn notified(&self) -> impl Future<Output = ()>;
}
