//! Mapping a grant, and ending a mapping.

use super::maptrack::{Mapping, Names};
use super::{GrantError, Rights};
use crate::dma::DMA_FLUSH_WORTH;
use crate::domains::Domain;
use crate::frames::Mfn;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::paging::{PagingError, Work};
use alloc::sync::Arc;
use bulkhead_abi::{DomId, pte};

/// Where a grant is to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At this address in the caller's current address space.
    Address(u64),
    /// By the entry that lies at this machine address.
    Entry(u64),
}

impl Place {
    const fn names(self) -> Names {
        match self {
            Self::Address(_) => Names::Address,
            Self::Entry(_) => Names::Entry,
        }
    }
}

/// The page-table entry that is to lead to a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostMap {
    /// Where it stands.
    pub(crate) place: Place,
    /// The flags that it has besides those that follow from the grant.
    pub(crate) flags: u64,
}

/// What is to be mapped, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapRequest {
    /// The grantor's entry.
    pub(crate) gref: u32,
    /// How it will be used.
    pub(crate) rights: Rights,
    /// The entry that is to lead to it, if one is.
    pub(crate) host: Option<HostMap>,
    /// Whether it is to be held for a device.
    pub(crate) device: bool,
}

/// A mapping that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// Names it from now on.
    pub(crate) handle: u32,
    /// The frame.
    pub(crate) frame: Mfn,
}

/// What is to be unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnmapRequest {
    /// The mapping.
    pub(crate) handle: u32,
    /// What names its page-table entry, if that is to go; else zero.
    pub(crate) host_addr: u64,
    /// Its device address, if the device's use is to end; else zero.
    pub(crate) device_addr: u64,
    /// What shall stand in place of the page-table entry: the entry at this address, which moves.
    pub(crate) replace_by: Option<u64>,
}

/// A mapping of which a part has gone from the page tables, or from what devices may reach. TLBs and devices may still know it: flush them,
/// then call [`Memory::finish_unmap`].
#[derive(Debug)]
#[must_use = "the grant stays in use until the unmapping is finished"]
pub(crate) struct Unmapping {
    handle: u32,
    /// What remains.
    mapping: Mapping,
    ended_host: bool,
    ended_device: bool,
    needs_dma_flush: bool,
}

impl Unmapping {
    /// Whether TLBs may still know it.
    pub(crate) fn needs_flush(&self) -> bool {
        self.ended_host && !mutant!(UnmappedWithoutFlush)
    }

    /// Whether devices may still know it.
    pub(crate) const fn needs_dma_flush(&self) -> bool {
        self.needs_dma_flush
    }
}

impl<M: Machine> Memory<M> {
    /// Takes a reference to a frame of `owner`'s for a use with `rights`.
    ///
    /// # Errors
    ///
    /// As [`Memory::get_as`].
    pub(crate) fn hold(
        &self,
        frame: Mfn,
        owner: DomId,
        rights: Rights,
        work: &mut Work,
    ) -> Result<(), PagingError> {
        match rights.kind() {
            Some(kind) => self.get_as(frame, owner, kind, work),
            None => Ok(self.get(frame, owner)?),
        }
    }

    /// Gives back what [`Memory::hold`] took.
    pub(crate) fn let_go(&self, frame: Mfn, rights: Rights, work: &mut Work) {
        match rights.kind() {
            Some(_) => self.put_as(frame, work),
            None => self.put_within(frame, work),
        }
    }

    /// Begins a use of a grant: see [`super::GrantTable::begin_use`]. What its grantor has left half done as a page table is not granted to be
    /// written: others could be kept at work for it without end.
    pub(super) fn use_grant(
        &self,
        grantor: &Domain,
        gref: u32,
        user: DomId,
        rights: Rights,
    ) -> Result<Mfn, GrantError> {
        let mut table = grantor.grants.lock();
        let frame = table.begin_use(&self.machine, gref, user, rights)?;
        if rights == Rights::ReadWrite && self.is_partial(frame) {
            table.end_use(&self.machine, gref, rights);
            return Err(GrantError::NotGranted);
        }
        Ok(frame)
    }

    /// Ends a use of a grant.
    pub(super) fn end_grant_use(&self, grantor: &Domain, gref: u32, rights: Rights) {
        grantor.grants.lock().end_use(&self.machine, gref, rights);
    }

    /// Maps a grant of `grantor`'s for `caller`, whose address space is that of `root`.
    ///
    /// # Errors
    ///
    /// See [`GrantError`]; nothing is mapped or in use then.
    pub(crate) fn map_grant(
        &self,
        caller: &Domain,
        root: Mfn,
        grantor: &Arc<Domain>,
        request: MapRequest,
        work: &mut Work,
    ) -> Result<Mapped, GrantError> {
        let handle = caller.maps.lock().reserve()?;
        match self.map_parts(caller, root, grantor, request, work) {
            Ok(frame) => {
                let mapping = Mapping {
                    grantor: Arc::clone(grantor),
                    gref: request.gref,
                    frame,
                    rights: request.rights,
                    host: request.host.map(|host| host.place.names()),
                    device: request.device,
                };
                caller.maps.lock().put(handle, mapping);
                Ok(Mapped { handle, frame })
            }
            Err(error) => {
                caller.maps.lock().free(handle);
                Err(error)
            }
        }
    }

    /// Both parts of a mapping, or neither.
    fn map_parts(
        &self,
        caller: &Domain,
        root: Mfn,
        grantor: &Domain,
        request: MapRequest,
        work: &mut Work,
    ) -> Result<Mfn, GrantError> {
        let MapRequest {
            gref, rights, host, ..
        } = request;
        let mut mapped = None;
        if request.device {
            mapped = Some(self.map_for_device(caller, grantor, gref, rights, work)?);
        }
        if let Some(host) = host {
            let frame = self.use_grant(grantor, gref, caller.id, rights);
            let made = frame.and_then(|frame| {
                self.map_for_host(caller, root, grantor, host, (frame, rights), work)
                    .inspect_err(|_| {
                        if !mutant!(LostUseOnRefusedMap) {
                            self.end_grant_use(grantor, gref, rights);
                        }
                    })?;
                Ok(frame)
            });
            if made.is_err()
                && let Some(frame) = mapped
            {
                self.refuse_for_device(caller, grantor, gref, (frame, rights), work);
            }
            mapped = Some(made?);
        }
        mapped.ok_or(GrantError::BadFlags)
    }

    fn map_for_device(
        &self,
        caller: &Domain,
        grantor: &Domain,
        gref: u32,
        rights: Rights,
        work: &mut Work,
    ) -> Result<Mfn, GrantError> {
        let frame = self.use_grant(grantor, gref, caller.id, rights)?;
        if !mutant!(DeviceHoldsNothing) {
            self.hold(frame, grantor.id, rights, work)
                .inspect_err(|_| self.end_grant_use(grantor, gref, rights))?;
        }
        self.let_reach(caller, frame, rights, work).map_err(|_| {
            if !mutant!(HeldOutOfReach) {
                self.unmap_for_device(grantor, gref, (frame, rights), work);
            }
            GrantError::NoDeviceSpace
        })?;
        Ok(frame)
    }

    /// Takes back what was mapped for a device, because the other part of the mapping is refused.
    fn refuse_for_device(
        &self,
        caller: &Domain,
        grantor: &Domain,
        gref: u32,
        (frame, rights): (Mfn, Rights),
        work: &mut Work,
    ) {
        if self.take_from_reach(caller, frame, rights) {
            work.spend(DMA_FLUSH_WORTH);
            self.machine.flush_dma(caller.id);
        }
        self.unmap_for_device(grantor, gref, (frame, rights), work);
    }

    fn unmap_for_device(&self, grantor: &Domain, gref: u32, (frame, rights): (Mfn, Rights), work: &mut Work) {
        if !mutant!(LostPutOnDeviceUnmap) {
            self.let_go(frame, rights, work);
        }
        self.end_grant_use(grantor, gref, rights);
    }

    /// Writes the entry that leads to a grant which is in use already. The entry holds the frame as any other does.
    fn map_for_host(
        &self,
        caller: &Domain,
        root: Mfn,
        grantor: &Domain,
        host: HostMap,
        (frame, rights): (Mfn, Rights),
        work: &mut Work,
    ) -> Result<(), GrantError> {
        let slot = self.slot_of(root, host.place)?;
        let lender = if mutant!(MappedWhoeverOwnsIt) {
            self.frames.refs(frame).map_or(grantor.id, |word| word.owner())
        } else {
            grantor.id
        };
        let entry = frame.maddr() | host.flags | flags(rights);
        Ok(self.lend(caller.id, slot, entry, lender, work)?)
    }

    /// Where the entry stands that is named: its table, and which of it.
    fn slot_of(&self, root: Mfn, place: Place) -> Result<(Mfn, usize), GrantError> {
        match place {
            Place::Address(va) => Ok(self.walk(root, va)?),
            Place::Entry(maddr) if maddr & 7 != 0 => Err(GrantError::BadAddress),
            Place::Entry(maddr) => {
                let index = usize::try_from(maddr >> 3 & 0x1ff).unwrap_or(0);
                Ok((Mfn::from_maddr(maddr), index))
            }
        }
    }

    /// Takes a mapping of `caller`'s out of its page tables, from its device, or both.
    ///
    /// # Errors
    ///
    /// See [`GrantError`]; the mapping stays as it was then.
    pub(crate) fn begin_unmap(
        &self,
        caller: &Domain,
        root: Mfn,
        request: UnmapRequest,
        work: &mut Work,
    ) -> Result<Unmapping, GrantError> {
        let UnmapRequest {
            handle,
            host_addr,
            device_addr,
            replace_by,
        } = request;
        let mut mapping = caller.maps.lock().take(handle)?;
        let ends_device = device_addr != 0 && mapping.device;
        let names = mapping.host.filter(|_| host_addr != 0);
        let unmapped = if ends_device && device_addr != mapping.frame.maddr() {
            Err(GrantError::BadDeviceAddress)
        } else {
            names.map_or(Ok(()), |names| {
                let place = match names {
                    Names::Address => Place::Address(host_addr),
                    Names::Entry => Place::Entry(host_addr),
                };
                let slot = self.slot_of(root, place)?;
                let moved = replace_by.map(|va| self.walk(root, va)).transpose()?;
                Ok(self.take_back(
                    caller.id,
                    slot,
                    (mapping.frame, flags(mapping.rights)),
                    moved,
                    work,
                )?)
            })
        };
        if let Err(error) = unmapped {
            caller.maps.lock().put(handle, mapping);
            return Err(error);
        }
        if names.is_some() {
            mapping.host = None;
        }
        mapping.device &= !ends_device;
        let needs_dma_flush = ends_device && self.take_from_reach(caller, mapping.frame, mapping.rights);
        Ok(Unmapping {
            handle,
            mapping,
            ended_host: names.is_some(),
            ended_device: ends_device,
            needs_dma_flush,
        })
    }

    /// Ends the uses that an unmapped grant stood for. Nothing knows the mapping any more.
    pub(crate) fn finish_unmap(&self, caller: &Domain, unmapping: Unmapping, work: &mut Work) {
        let Unmapping {
            handle,
            mapping,
            ended_host,
            ended_device,
            needs_dma_flush: _,
        } = unmapping;
        let Mapping {
            ref grantor,
            gref,
            frame,
            rights,
            ..
        } = mapping;
        if ended_host {
            self.end_grant_use(grantor, gref, rights);
        }
        if ended_device {
            self.unmap_for_device(grantor, gref, (frame, rights), work);
        }
        if mapping.is_over() {
            caller.maps.lock().free(handle);
            // Only here may the grantor go, if it has ended and this was the last that kept it: no lock is held.
            drop(mapping);
        } else {
            caller.maps.lock().put(handle, mapping);
        }
    }
}

/// What the end of a mapping is worth, in entries looked at.
const MAPPING_WORTH: u32 = 8;

impl<M: Machine> Hypervisor<M> {
    /// Ends mappings of a domain that has ended, as far as there is work left to be done in one go: those with handle `from` and up. Returns with
    /// which handle to go on, or `None` if there are no more.
    ///
    /// No CPU and no device may reach anything by them any more: the domain's vCPUs are stopped, its page tables let go of what
    /// they led to, TLBs flushed, its devices detached, and what they could reach is forgotten.
    pub(crate) fn end_mappings(&self, domain: &Domain, from: u32, work: &mut Work) -> Option<u32> {
        let end = domain.maps.lock().handles();
        for handle in from..end {
            if work.is_over() {
                return Some(handle);
            }
            work.spend(1);
            let taken = domain.maps.lock().take(handle);
            let Ok(mut mapping) = taken else { continue };
            work.spend(MAPPING_WORTH);
            let ended = Unmapping {
                handle,
                ended_host: mapping.host.take().is_some(),
                ended_device: core::mem::take(&mut mapping.device),
                needs_dma_flush: false,
                mapping,
            };
            self.memory.finish_unmap(domain, ended, work);
        }
        None
    }

    /// The same, a portion of it, of a domain that has no devices.
    #[cfg(any(test, feature = "testing"))]
    pub fn end_a_portion_of_mappings(&self, domain: &Domain, from: u32) -> Option<u32> {
        while self.memory.end_reach(domain, 0, &mut Work::unlimited()).is_some() {}
        self.end_mappings(domain, from, &mut Work::portion())
    }
}

/// The flags of an entry that leads to a grant.
const fn flags(rights: Rights) -> u64 {
    let common = pte::PRESENT | pte::ACCESSED | pte::DIRTY;
    match rights {
        Rights::ReadOnly => common,
        Rights::ReadWrite => common | pte::WRITABLE,
    }
}
