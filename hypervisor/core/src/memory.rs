//! Machine memory: the frame table, the allocator, and what happens to a frame when its last reference goes.

use crate::devices::Assignments;
use crate::domains::{Domain, Holdings};
use crate::frames::table::Put;
use crate::frames::words::TypeWord;
use crate::frames::{Buddy, ExtentError, Extents, FrameList, FrameTable, Mfn, Pfn, RefError, all_at_home};
use crate::lock::{Lock, Rank, SharedLock};
use crate::machine::{Flush, Machine};
use crate::paging::{PagingError, Work};
use bulkhead_abi::{DomId, Errno};

/// All the machine's frames, with the hardware that holds them.
#[derive(Debug)]
pub struct Memory<M> {
    pub(crate) machine: M,
    pub(crate) frames: FrameTable,
    buddy: Lock<Buddy, { Rank::Buddy as u32 }>,
    /// What is kept for domains to come. A frame of these never gets to the allocator.
    pub(crate) extents: Lock<Extents, { Rank::Extents as u32 }>,
    /// What domains own of devices.
    pub(crate) devices: SharedLock<Assignments, { Rank::Devices as u32 }>,
}

/// The machine-to-pseudo-physical entry of a frame that has no page number in its owner's numbering.
pub const M2P_INVALID: u64 = u64::MAX;

/// How many frames go back to the machine with one flush.
const RECLAIMED: usize = 16;

/// What giving back a frame is worth, in entries looked at.
const RECLAIM_WORTH: u32 = 32;

impl<M: Machine> Memory<M> {
    /// Ties the machine to its frame table; `buddy` has the frames that are free.
    pub fn new(machine: M, frames: FrameTable, buddy: Buddy) -> Self {
        Self {
            machine,
            frames,
            buddy: Lock::new(buddy),
            extents: Lock::new(Extents::new()),
            devices: SharedLock::new(Assignments::new()),
        }
    }

    /// The hardware.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The frame table.
    pub fn frames(&self) -> &FrameTable {
        &self.frames
    }

    /// How many frames are free.
    pub fn free_frames(&self) -> u64 {
        self.buddy.lock().free_frames()
    }

    /// How many frames are kept for domains to come, and no domain has them.
    pub fn kept_frames(&self) -> u64 {
        self.extents.lock().at_home()
    }

    /// Checks the allocator's own books: see [`Buddy::invariants`].
    ///
    /// # Panics
    ///
    /// If they are wrong. For tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn check_allocator(&self) {
        self.buddy.lock().invariants();
    }

    /// Takes 2^`order` frames for `owner`, puts them on `list`, zeroed and with no page number.
    ///
    /// Returns the first frame, or `None` if there is no free block that large.
    pub fn allocate(&self, order: u8, owner: DomId, list: &mut FrameList) -> Option<Mfn> {
        self.allocate_claimed(order, owner, (list, &mut 0))
    }

    /// The same for one that may have a claim on frames.
    fn allocate_claimed(
        &self,
        order: u8,
        owner: DomId,
        (list, claim): (&mut FrameList, &mut u64),
    ) -> Option<Mfn> {
        let first = self.buddy.lock().alloc_claimed(order, claim)?;
        self.give_all(first, order, owner, list);
        Some(first)
    }

    /// Lets a domain have a claim on as many free frames as it lacks to have `pages`. With 0, its claim ends.
    ///
    /// # Errors
    ///
    /// [`Errno::Inval`] if it has a claim, or so many frames already, or may not have so many; [`Errno::NoMem`] if there are not so many that
    /// are free and not claimed.
    pub(crate) fn claim(&self, domain: &Domain, pages: u64) -> Result<(), Errno> {
        let mut holdings = domain.memory.lock();
        if pages == 0 {
            self.end_claim(&mut holdings);
            return Ok(());
        }
        let has = holdings.frames.len().saturating_add(holdings.awaited);
        let lacks = pages.checked_sub(has).filter(|&lacks| lacks != 0);
        let lacks = lacks.filter(|_| pages <= holdings.limit && !holdings.is_closed && holdings.claim == 0);
        let lacks = lacks.ok_or(Errno::Inval)?;
        if self.buddy.lock().claim(&mut holdings.claim, lacks) {
            Ok(())
        } else {
            Err(Errno::NoMem)
        }
    }

    /// Nobody has a claim on frames for this domain any more.
    pub(crate) fn end_claim(&self, holdings: &mut Holdings) {
        if !(mutant!(ClaimKept) && holdings.is_closed) {
            self.buddy.lock().unclaim(&mut holdings.claim, u64::MAX);
        }
    }

    /// How many frames are claimed.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn claimed(&self) -> u64 {
        self.buddy.lock().claimed()
    }

    /// Gives 2^`order` frames, which are nobody's, to `owner`.
    fn give_all(&self, first: Mfn, order: u8, owner: DomId, list: &mut FrameList) {
        for n in 0..1_u64 << order {
            let Some(mfn) = first.offset(n) else { break };
            self.prepare(mfn, owner);
            list.push(&self.frames, mfn);
        }
    }

    /// Takes a frame that the hypervisor shares with `owner`, who may map it for writing, and never make a page table of it: zeroed, and not
    /// counted as the domain's memory.
    pub fn share(&self, owner: DomId) -> Option<Mfn> {
        let mfn = self.buddy.lock().alloc(0)?;
        self.clean(mfn);
        // Its first use comes with it: another vCPU of the owner's may guess the number, and would be quicker to pin it.
        let assigned = self.frames.assign_shared(mfn, owner);
        debug_assert_eq!(assigned, Ok(()), "{mfn:?} came from the allocator");
        Some(mfn)
    }

    /// Gives back what [`Memory::share`] took. If another domain has the frame mapped, it is nobody's until that lets it go.
    pub fn unshare(&self, mfn: Mfn) {
        if mutant!(SharedStaysOwned) {
            self.put(mfn);
        } else {
            // First: from here on its owner cannot make anything of it. Its use holds it still.
            let held = self.frames.disown(mfn);
            debug_assert_eq!(held, Put::Held, "{mfn:?} is not shared");
        }
        self.put_as(mfn, &mut Work::unlimited());
    }

    /// Takes 2^`order` frames for the hypervisor itself, zeroed. `None` if there is no free block that large.
    pub(crate) fn take_own(&self, order: u8) -> Option<Mfn> {
        let first = self.buddy.lock().alloc(order)?;
        for mfn in (0..1_u64 << order).filter_map(|n| first.offset(n)) {
            self.machine.zero_frame(mfn);
            let kept = self.frames.keep_own(mfn);
            debug_assert_eq!(kept, Ok(()), "{mfn:?} came from the allocator");
        }
        Some(first)
    }

    /// Gives back what [`Memory::take_own`] took. No TLB has ever known it.
    pub(crate) fn give_own(&self, first: Mfn, order: u8) {
        for mfn in (0..1_u64 << order).filter_map(|n| first.offset(n)) {
            let put = self.frames.put(mfn);
            debug_assert_eq!(put, Put::Last, "{mfn:?} is the hypervisor's own");
            self.machine.zero_frame(mfn);
        }
        self.buddy.lock().free(first, order);
    }

    fn prepare(&self, mfn: Mfn, owner: DomId) {
        self.clean(mfn);
        let assigned = self.frames.assign(mfn, owner);
        debug_assert_eq!(assigned, Ok(()), "{mfn:?} came from the allocator");
    }

    /// Makes a frame that is nobody's fit to be somebody's: nothing in it, and no page number.
    fn clean(&self, mfn: Mfn) {
        self.machine.zero_frame(mfn);
        self.machine.set_m2p(mfn, M2P_INVALID);
    }

    /// Records that `mfn` is page `pfn` of its owner.
    pub fn set_pfn(&self, mfn: Mfn, pfn: Pfn) {
        self.machine.set_m2p(mfn, pfn.raw());
    }

    /// Takes a reference to a frame of `owner`'s.
    ///
    /// # Errors
    ///
    /// As [`FrameTable::get`].
    #[inline]
    pub(crate) fn get(&self, mfn: Mfn, owner: DomId) -> Result<(), RefError> {
        self.frames.get(mfn, owner)
    }

    /// Gives a reference back, and frees the frame if it was the last.
    #[inline]
    pub(crate) fn put(&self, mfn: Mfn) {
        match self.frames.put(mfn) {
            Put::Held => {}
            Put::Last => self.free(mfn),
        }
    }

    /// The same, as a part of `work`: a frame that is freed takes longer than one that is held by others.
    #[inline]
    pub(crate) fn put_within(&self, mfn: Mfn, work: &mut Work) {
        match self.frames.put(mfn) {
            Put::Held => {}
            Put::Last => {
                work.spend(RECLAIM_WORTH);
                self.free(mfn);
            }
        }
    }

    /// Makes a frame that nobody refers to any more allocatable.
    #[inline(never)]
    pub(crate) fn free(&self, mfn: Mfn) {
        self.free_all(&[mfn]);
    }

    /// Makes frames that nobody refers to any more allocatable.
    fn free_all(&self, frames: &[Mfn]) {
        if frames.is_empty() {
            return;
        }
        // A TLB may still know them: they are forgotten everywhere before they can be anyone else's. They are scrubbed as they are
        // freed, so that free memory never holds a secret.
        self.machine.flush(Flush::All);
        for &mfn in frames {
            self.clean(mfn);
            if mutant!(KeptFrameFreed) || !self.extents.lock().bring_home(mfn) {
                self.buddy.lock().free(mfn, 0);
            }
        }
    }

    /// Keeps 2^`order` free frames, all below frame `limit`, under `number`. Returns the first, or `None` if there are none.
    ///
    /// # Errors
    ///
    /// [`ExtentError::Taken`], [`ExtentError::NoHeap`].
    pub(crate) fn keep_extent(&self, number: u32, order: u8, limit: u64) -> Result<Option<Mfn>, ExtentError> {
        let home = all_at_home(order)?;
        let Some(first) = self.buddy.lock().alloc_below(order, limit) else {
            let is_taken = self.extents.lock().has(number);
            return if is_taken {
                Err(ExtentError::Taken)
            } else {
                Ok(None)
            };
        };
        let kept = self.extents.lock().keep(number, first, order, home);
        if let Err(error) = kept {
            // As it was: nobody has touched it.
            self.buddy.lock().put_back(first, order);
            return Err(error);
        }
        Ok(Some(first))
    }

    /// Gives a block of the extent with this number to the machine. Says whether there is no more of it.
    ///
    /// # Errors
    ///
    /// As [`Extents::give_up`].
    pub(crate) fn release_block(&self, number: u32) -> Result<bool, ExtentError> {
        let block = self.extents.lock().give_up(number)?;
        if let Some((first, order)) = block {
            self.buddy.lock().free(first, order);
        }
        Ok(block.is_none())
    }

    /// Lets a frame of `owner`'s be no page table any more, for all that the owner itself has done: takes its pin off, and goes on with what was
    /// left half done. Says whether there was anything to do. The owner is no more, so that nothing can undo this.
    ///
    /// # Errors
    ///
    /// [`Errno::Restart`] if there is more to do.
    pub(crate) fn let_idle(&self, owner: DomId, mfn: Mfn, work: &mut Work) -> Result<bool, Errno> {
        work.spend(1);
        let is_pinned = self.frames.typing(mfn).is_some_and(TypeWord::is_pinned);
        let is_table = is_pinned || self.is_partial(mfn);
        if is_pinned {
            self.unpin(owner, mfn, work).map_err(PagingError::of_operand)?;
        }
        self.take_down(mfn, owner, None, work)
            .map_err(PagingError::of_operand)?;
        Ok(is_table)
    }

    /// Gives frames of a domain that is no more back to the machine, off `list`; those that others refer to are nobody's until these let go.
    /// Says whether there are more.
    pub(crate) fn reclaim(&self, list: &mut FrameList, work: &mut Work) -> bool {
        let mut freed = heapless::Vec::<Mfn, RECLAIMED>::new();
        while !freed.is_full()
            && let Some(mfn) = list.pop(&self.frames)
        {
            work.spend(RECLAIM_WORTH);
            match self.frames.disown(mfn) {
                Put::Held => {}
                // There is room: it was not full.
                Put::Last => drop(freed.push(mfn)),
            }
            if work.is_over() {
                break;
            }
        }
        self.free_all(&freed);
        !list.is_empty()
    }

    /// Gives a frame of `domain`'s back to the machine. It must be the domain's own, and referred to by nothing.
    ///
    /// # Errors
    ///
    /// [`Errno::Inval`] if it is not, or if anything refers to it; [`Errno::Restart`] if it is a page table that is still being taken
    /// down.
    pub(crate) fn surrender(&self, domain: &Domain, mfn: Mfn, work: &mut Work) -> Result<(), Errno> {
        self.detach(domain, mfn, work)?;
        self.free(mfn);
        Ok(())
    }

    /// Takes a frame from its domain: it is nobody's then, and may still be in some TLB.
    ///
    /// # Errors
    ///
    /// As [`Memory::surrender`].
    pub(crate) fn detach(&self, domain: &Domain, mfn: Mfn, work: &mut Work) -> Result<(), Errno> {
        self.finish_partial(domain, mfn, work)?;
        self.detach_idle(domain, mfn, |_| {})
    }

    /// As [`Memory::detach`], and keeps room for another that will take its place.
    ///
    /// # Errors
    ///
    /// As [`Memory::surrender`].
    pub(crate) fn detach_and_keep_room(
        &self,
        domain: &Domain,
        mfn: Mfn,
        work: &mut Work,
    ) -> Result<(), Errno> {
        self.finish_partial(domain, mfn, work)?;
        self.detach_idle_and_keep_room(domain, mfn)
    }

    /// The same on another domain's account, which has to have let the frame be nothing by itself: what it left half done as a page table
    /// is refused, or it could have others work for it without end.
    ///
    /// # Errors
    ///
    /// [`Errno::Inval`].
    pub(crate) fn detach_idle_and_keep_room(&self, domain: &Domain, mfn: Mfn) -> Result<(), Errno> {
        self.detach_idle(domain, mfn, |holdings| {
            holdings.awaited = holdings.awaited.saturating_add(1);
        })
    }

    /// Takes down what a domain has left half done of a page table.
    fn finish_partial(&self, domain: &Domain, mfn: Mfn, work: &mut Work) -> Result<(), Errno> {
        if !self.is_partial(mfn) {
            return Ok(());
        }
        self.get(mfn, domain.id).map_err(|_| Errno::Inval)?;
        let unpicked = self.unpick_partial(mfn, None, work);
        self.put(mfn);
        Ok(unpicked?)
    }

    fn detach_idle(&self, domain: &Domain, mfn: Mfn, note: impl FnOnce(&mut Holdings)) -> Result<(), Errno> {
        let mut holdings = domain.memory.lock();
        if holdings.is_closed {
            return Err(Errno::Inval);
        }
        self.frames.take_idle(mfn, domain.id).map_err(|_| Errno::Inval)?;
        if !mutant!(StillListed) {
            holdings.frames.remove(&self.frames, mfn);
        }
        note(&mut holdings);
        Ok(())
    }

    /// Whether a frame is of an extent that is kept for domains to come: it is not to be given away.
    pub(crate) fn is_kept(&self, mfn: Mfn) -> bool {
        self.extents.lock().contains(mfn)
    }

    /// Gives `domain` 2^`order` frames more, zeroed, numbered from `pfn` on if that is given. Returns the first, or `None` if it may not
    /// have so many, or there are none.
    pub(crate) fn grow(&self, domain: &Domain, order: u32, pfn: Option<Pfn>) -> Option<Mfn> {
        let mut holdings = domain.memory.lock();
        if !holdings.has_room(1_u64.checked_shl(order)?) {
            return None;
        }
        let size = u8::try_from(order).ok()?;
        let Holdings { frames, claim, .. } = &mut *holdings;
        let first = match domain.extent {
            None => self.allocate_claimed(size, domain.id, (frames, claim))?,
            Some(number) => {
                let kept = self.extents.lock().take(number, size);
                if let Some(first) = kept {
                    self.give_all(first, size, domain.id, frames);
                }
                // What it wants beyond its extent is memory like any other's: such as it may give away.
                kept.or_else(|| self.allocate_claimed(size, domain.id, (frames, claim)))?
            }
        };
        if let Some(pfn) = pfn {
            for n in 0..1_u64 << order {
                self.set_pfn(first.offset(n)?, Pfn::new(pfn.raw().wrapping_add(n)));
            }
        }
        Some(first)
    }

    /// Takes the frames `given` from `domain`, and gives it as many others in extents of 2^`order`. All or nothing.
    ///
    /// # Errors
    ///
    /// [`Errno::NoMem`] if there are no such extents, and as [`Memory::surrender`].
    pub(crate) fn exchange<const N: usize>(
        &self,
        domain: &Domain,
        given: &heapless::Vec<Mfn, N>,
        order: u32,
        work: &mut Work,
    ) -> Result<heapless::Vec<Mfn, N>, Errno> {
        let size = u8::try_from(order).unwrap_or(u8::MAX);
        let mut taken = heapless::Vec::<Mfn, N>::new();
        let extents = given.len() >> order;
        // What the domain will get is nobody's until it has given all: it cannot give that.
        for _ in 0..extents {
            let Some(first) = self.buddy.lock().alloc(size) else {
                break;
            };
            // There is room: an extent is at least one frame.
            let _ = taken.push(first);
        }
        let mut detached = 0_usize;
        let mut result = if taken.len() == extents {
            Ok(())
        } else {
            Err(Errno::NoMem)
        };
        for &mfn in given.iter().take_while(|_| taken.len() == extents) {
            result = self.detach_and_keep_room(domain, mfn, work);
            if result.is_err() {
                break;
            }
            detached = detached.saturating_add(1);
        }
        if let Err(error) = result {
            for &first in &taken {
                self.buddy.lock().free(first, size);
            }
            if detached != 0 {
                // To be assigned makes a frame forget what TLBs may still know it as.
                self.machine.flush(Flush::All);
            }
            let mut holdings = domain.memory.lock();
            for &mfn in given
                .iter()
                .take(detached)
                .filter(|_| !mutant!(LostOnFailedExchange))
            {
                // It was the domain's a moment ago, and nobody else has seen it.
                let _ = self.frames.assign(mfn, domain.id);
                holdings.frames.push(&self.frames, mfn);
            }
            holdings.awaited = holdings.awaited.saturating_sub(detached as u64);
            return Err(error);
        }
        let mut holdings = domain.memory.lock();
        for &first in &taken {
            for mfn in (0..1_u64 << order).filter_map(|n| first.offset(n)) {
                self.prepare(mfn, domain.id);
                holdings.frames.push(&self.frames, mfn);
            }
        }
        holdings.awaited = holdings.awaited.saturating_sub(given.len() as u64);
        drop(holdings);
        for &mfn in given {
            self.free(mfn);
        }
        Ok(taken)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
