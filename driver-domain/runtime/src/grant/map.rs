//! Pages of other domains that are mapped here, or held for a device.

use core::sync::atomic::AtomicU32;

use bulkhead_abi::{
    DomId, Record,
    grant::{GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GNTMAP_READONLY, MapGrantRef, UnmapGrantRef},
};
use bulkhead_ring::SharedPage;
use heapless::Vec;

use super::{Access, BATCH, GrantError, GrantRef};
use crate::{
    hypercall,
    memory::{View, own, window::WindowPage},
};

/// What is to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// Who granted it.
    pub domain: DomId,
    /// The entry of its table.
    pub reference: GrantRef,
    /// How it will be used.
    pub access: Access,
}

impl MapRequest {
    fn record(self, flags: u32, host_addr: u64) -> MapGrantRef {
        let access = match self.access {
            Access::ReadOnly => GNTMAP_READONLY,
            Access::ReadWrite => 0,
        };
        MapGrantRef {
            host_addr,
            flags: flags | access,
            gref: self.reference.raw(),
            dom: self.domain,
            ..MapGrantRef::ZERO
        }
    }
}

/// A page of another domain's, mapped. Dropping it ends that.
#[derive(Debug)]
pub struct Mapping {
    /// `None` when it has been unmapped.
    page: Option<WindowPage>,
    handle: u32,
    access: Access,
}

impl Mapping {
    /// Maps one grant.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoAddress`], [`GrantError::Refused`], [`GrantError::Call`].
    pub fn new(request: MapRequest) -> Result<Self, GrantError> {
        let mut mapping = Err(GrantError::NoAddress);
        Self::map_each([request], |made| mapping = made);
        mapping
    }

    /// Maps grants, by few hypercalls. Calls `take` with each mapping, or why there is none, in the order of the requests.
    pub fn map_each(
        requests: impl IntoIterator<Item = MapRequest>,
        mut take: impl FnMut(Result<Self, GrantError>),
    ) {
        let mut requests = requests.into_iter();
        loop {
            let mut records = Vec::<MapGrantRef, BATCH>::new();
            let mut pages = Vec::<(WindowPage, Access), BATCH>::new();
            let mut has_address = true;
            for request in requests.by_ref().take(BATCH) {
                let Some(page) = WindowPage::take() else {
                    has_address = false;
                    break;
                };
                // There is room: no more are taken.
                let _ = records.push(request.record(GNTMAP_HOST_MAP, page.address() as u64));
                let _ = pages.push((page, request.access));
            }
            let is_last = records.is_empty() && has_address;
            // SAFETY: at the pages of the window, which are ours, nothing is mapped.
            let called = unsafe { hypercall::grant::map(&mut records) }.map_err(GrantError::from);
            for ((page, access), record) in pages.into_iter().zip(&records) {
                take(match called.and_then(|()| GrantError::check(record.status)) {
                    Ok(()) => Ok(Self {
                        page: Some(page),
                        handle: record.handle,
                        access,
                    }),
                    Err(error) => {
                        // If the call failed, it may have mapped some: those pages stay taken.
                        if called.is_ok() {
                            page.release();
                        }
                        Err(error)
                    }
                });
            }
            if !has_address {
                take(Err(GrantError::NoAddress));
            } else if is_last {
                return;
            }
        }
    }

    /// Ends mappings, by few hypercalls.
    pub fn unmap_each(mappings: impl IntoIterator<Item = Self>) {
        let mut mappings = mappings.into_iter();
        loop {
            let mut pages = Vec::<WindowPage, BATCH>::new();
            let mut records = Vec::<UnmapGrantRef, BATCH>::new();
            for mut mapping in mappings.by_ref().take(BATCH) {
                if let Some(page) = mapping.page.take() {
                    // There is room: no more are taken.
                    let _ = records.push(UnmapGrantRef {
                        host_addr: page.address() as u64,
                        handle: mapping.handle,
                        ..UnmapGrantRef::ZERO
                    });
                    let _ = pages.push(page);
                }
            }
            if records.is_empty() {
                return;
            }
            // SAFETY: the mappings are not used any more: nothing that they lent outlives them.
            let called = unsafe { hypercall::grant::unmap(&mut records) }.map_err(GrantError::from);
            for (page, record) in pages.into_iter().zip(&records) {
                match called.and_then(|()| GrantError::check(record.status)) {
                    Ok(()) => page.release(),
                    // The page stays taken.
                    Err(error) => log::error!("mapping {} of a grant stays: {error}", record.handle),
                }
            }
        }
    }

    /// The word at `offset`, or `None` if it is not aligned or not in the page, or the page may only be read.
    #[must_use]
    pub fn word(&self, offset: usize) -> Option<&AtomicU32> {
        self.writable()?.word(offset)
    }

    /// Copies the bytes from `offset` on into `bytes`; `None`, and nothing copied, if they leave the page.
    #[must_use = "nothing is copied if the range leaves the page"]
    pub fn read(&self, offset: usize, bytes: &mut [u8]) -> Option<()> {
        self.view()?.read(offset, bytes)
    }

    /// Copies `bytes` into the page from `offset` on; `None`, and nothing copied, if they do not fit, or the page may only be read.
    #[must_use = "nothing is copied if the range leaves the page"]
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Option<()> {
        self.writable()?.write(offset, bytes)
    }

    fn writable(&self) -> Option<View> {
        self.view().filter(|_| self.access == Access::ReadWrite)
    }

    fn view(&self) -> Option<View> {
        // SAFETY: the page is mapped while `self` lives, writable if it is used so, and only seen through views.
        self.page.as_ref().map(|page| unsafe { View::at(page.address()) })
    }
}

/// A page that may only be read is not written.
impl SharedPage for Mapping {
    fn load(&self, offset: usize) -> u32 {
        self.view().map_or(0, |view| own::load(view, offset))
    }

    fn store(&self, offset: usize, value: u32) {
        if let Some(view) = self.writable() {
            own::store(view, offset, value);
        }
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        match self.view() {
            Some(view) => own::read(view, offset, to),
            None => to.fill(0),
        }
    }

    fn write(&self, offset: usize, from: &[u8]) {
        // What does not fit is not written, as the trait says.
        let _ = Mapping::write(self, offset, from);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let page = self.page.take();
        if page.is_some() {
            Self::unmap_each([Self {
                page,
                handle: self.handle,
                access: self.access,
            }]);
        }
    }
}

/// A page of another domain's that is held for a device. Dropping it ends that: the device must be done with it.
#[derive(Debug)]
pub struct DeviceMapping {
    /// Zero when it has been given up.
    maddr: u64,
    handle: u32,
}

impl DeviceMapping {
    /// Holds one grant.
    ///
    /// # Errors
    ///
    /// [`GrantError::Refused`], [`GrantError::Call`].
    pub fn new(request: MapRequest) -> Result<Self, GrantError> {
        let mut mapping = Err(GrantError::NoAddress);
        Self::map_each([request], |made| mapping = made);
        mapping
    }

    /// Holds grants, as [`Mapping::map_each`] maps them.
    pub fn map_each(
        requests: impl IntoIterator<Item = MapRequest>,
        mut take: impl FnMut(Result<Self, GrantError>),
    ) {
        let mut requests = requests.into_iter();
        loop {
            let part = requests.by_ref().take(BATCH);
            // Filled where it is, not moved there.
            let mut records = Vec::<_, BATCH>::new();
            records.extend(part.map(|request| request.record(GNTMAP_DEVICE_MAP, 0)));
            if records.is_empty() {
                return;
            }
            // SAFETY: no page table is changed.
            let called = unsafe { hypercall::grant::map(&mut records) }.map_err(GrantError::from);
            for record in &records {
                let held = called.and_then(|()| GrantError::check(record.status));
                take(held.map(|()| Self {
                    maddr: record.dev_bus_addr,
                    handle: record.handle,
                }));
            }
        }
    }

    /// The page's machine address, for the device.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.maddr
    }

    /// The mapping as two numbers, by which it can be had again: its handle, and its machine address. Nobody gives it up by itself any more.
    #[must_use = "nobody else gives the mapping up"]
    pub fn into_parts(self) -> (u32, u64) {
        let parts = (self.handle, self.maddr);
        core::mem::forget(self);
        parts
    }

    /// The mapping that these numbers were of, once.
    #[must_use]
    pub const fn from_parts(handle: u32, maddr: u64) -> Self {
        Self { maddr, handle }
    }

    /// Gives mappings up, by few hypercalls. Returns how many were refused: they stay.
    pub fn unmap_each(mappings: impl IntoIterator<Item = Self>) -> usize {
        let mut mappings = mappings.into_iter();
        let mut refused = 0_usize;
        loop {
            let part = mappings.by_ref().take(BATCH).map(|mut mapping| UnmapGrantRef {
                dev_bus_addr: core::mem::take(&mut mapping.maddr),
                handle: mapping.handle,
                ..UnmapGrantRef::ZERO
            });
            let mut records = Vec::<_, BATCH>::new();
            records.extend(part);
            if records.is_empty() {
                return refused;
            }
            // SAFETY: no page table is changed.
            let called = unsafe { hypercall::grant::unmap(&mut records) }.map_err(GrantError::from);
            for record in &records {
                if let Err(error) = called.and_then(|()| GrantError::check(record.status)) {
                    log::error!("a device keeps mapping {} of a grant: {error}", record.handle);
                    refused = refused.saturating_add(1);
                }
            }
        }
    }

    /// The machine address of the page's first byte, by which a device reaches it.
    #[must_use]
    pub const fn maddr(&self) -> u64 {
        self.maddr
    }
}

impl Drop for DeviceMapping {
    fn drop(&mut self) {
        let maddr = core::mem::take(&mut self.maddr);
        if maddr != 0 {
            // That it was refused has been said.
            let _ = Self::unmap_each([Self {
                maddr,
                handle: self.handle,
            }]);
        }
    }
}
