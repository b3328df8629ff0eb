//! Pins: a domain lets its devices reach frames of its own.
//!
//! A frame is pinned once, to be read or to be written too, and stays held until it is unpinned: its owner can neither give it away nor make a table of it.

use super::tree::{TABLE_WORTH, target};
use crate::domains::Domain;
use crate::frames::Mfn;
use crate::grants::Rights;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::paging::{PagingError, Work};
use bulkhead_abi::Errno;

/// How many counts are looked at for what one entry is worth.
const COUNTS: usize = 16;
/// What taking a pin off is worth, in entries looked at.
const PIN_WORTH: u32 = 2;

impl<M: Machine> Memory<M> {
    /// Lets `domain`'s devices reach a frame of its own, until it is unpinned.
    ///
    /// # Errors
    ///
    /// [`Errno::Exist`] if it is pinned; [`Errno::Inval`] if it is not the domain's, or is to be written and is in use as something that nobody may write;
    /// [`Errno::NoMem`] if there is no memory for the hypervisor's own records; [`Errno::Restart`].
    pub(crate) fn pin_for_devices(
        &self,
        domain: &Domain,
        frame: Mfn,
        rights: Rights,
        work: &mut Work,
    ) -> Result<(), Errno> {
        let held = if mutant!(DmaPinHoldsNoUse) {
            Rights::ReadOnly
        } else {
            rights
        };
        let owner = if mutant!(DmaPinOfAnyones) {
            self.frames.refs(frame).map_or(domain.id, |word| word.owner())
        } else {
            domain.id
        };
        self.hold(frame, owner, held, work)
            .map_err(PagingError::of_operand)?;
        let pinned = {
            let mut space = domain.dma.lock();
            let leaf = self.make_leaf(&mut space, frame, work).map_err(|_| Errno::NoMem);
            leaf.and_then(|leaf| {
                let pinned = self.change(leaf, frame, |counts| Some((counts.with_pin(rights)?, ())));
                pinned.ok_or(Errno::Exist)
            })
        };
        match pinned {
            Ok(((), is_stale)) => {
                self.tell_of_more(domain, is_stale, work);
                Ok(())
            }
            Err(error) => {
                self.let_go(frame, held, work);
                Err(error)
            }
        }
    }

    /// Takes a pin off. The frame stays held, with the rights that are returned: [let go](Memory::let_go) of it when devices have been made to forget it, if
    /// they may remember, which is returned besides.
    ///
    /// # Errors
    ///
    /// [`Errno::NoEnt`] if it is not pinned.
    pub(crate) fn begin_unpin(&self, domain: &Domain, frame: Mfn) -> Result<(Rights, bool), Errno> {
        let mut space = domain.dma.lock();
        let leaf = self.find_leaf(&mut space, frame).ok_or(Errno::NoEnt)?;
        let unpinned = self.change(leaf, frame, super::Counts::without_pin);
        unpinned.ok_or(Errno::NoEnt)
    }

    /// Forgets what the devices of a domain that has ended could reach, as far as there is work left to be done in one go: lets go of what it has
    /// pinned, and frees the tree. What mappings hold is theirs to let go of. Begins at count `from` of some leaf; returns at which to go on, or `None` if
    /// it is done.
    ///
    /// The domain has no functions any more, and what the hardware remembered of the tree is forgotten.
    pub(crate) fn end_reach(&self, domain: &Domain, from: usize, work: &mut Work) -> Option<usize> {
        let mut at = from;
        loop {
            let leaf = {
                let mut space = domain.dma.lock();
                debug_assert!(
                    space.functions.is_empty(),
                    "a device walks the tree of {}",
                    domain.id
                );
                (space.is_closed, space.root, space.recent) = (true, None, None);
                space.leaves.first()
            };
            let Some(leaf) = leaf else { break };
            if let Some(next) = self.end_pins(leaf, at, work) {
                return Some(next);
            }
            at = 0;
            domain.dma.lock().leaves.remove(&self.frames, leaf);
            if !mutant!(LeavesLeaked) {
                self.give_own(leaf, 1);
            }
        }
        let is_more = self.free_inner(&mut domain.dma.lock(), work);
        is_more.then_some(0)
    }

    /// Lets go of what is pinned by a leaf, from one of its entries on. Returns with which to go on, or `None` if none is left.
    fn end_pins(&self, leaf: Mfn, from: usize, work: &mut Work) -> Option<usize> {
        for index in from..512 {
            if work.is_over() {
                return Some(index);
            }
            if index.is_multiple_of(COUNTS) {
                work.spend(1);
            }
            let pin = self.counts(leaf, index).without_pin();
            let frame = target(self.leaf_entry(leaf, index));
            if let (Some((after, rights)), Some(frame)) = (pin, frame)
                && !mutant!(DmaPinsKept)
            {
                work.spend(PIN_WORTH);
                self.set_counts(leaf, index, after);
                self.let_go(frame, rights, work);
            }
        }
        work.spend(2 * TABLE_WORTH);
        None
    }
}
