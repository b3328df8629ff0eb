//! What the devices of a domain may reach of memory.
//!
//! The law: **what a device can reach is held.** A frame that it may read cannot come free or change hands; one that it may write is in use as
//! [`Kind::Writable`](crate::frames::Kind::Writable) besides, so that it is no page table and no descriptors. Types and references thus see to DMA as they see to
//! page tables.
//!
//! A domain has one *space*, which all its devices share. A frame is in it for two reasons, each of which holds it:
//! - a grant is mapped for a device ([`crate::grants`]), any number of times;
//! - the domain has *pinned* a frame of its own ([`pins`]), once.
//!
//! A space is the tree that the hardware walks ([`tree`]). Devices use machine addresses: a frame stands at its own number. Beside each leaf of the tree
//! lies a frame of [`Counts`], which say why each entry is what it is. A tree is made as it is needed, of the hypervisor's own frames, and lasts as long as the domain. It
//! is there where no hardware walks it too: the counts are the record of pins.
//!
//! Who lets a device reach a frame holds it first, and then writes the entry. Who takes it back writes the entry, has the hardware forget
//! ([`Machine::flush_dma`]), and lets go of the frame only then. The hardware is also told when an entry allows more than before, as it may
//! remember what was there; unless that was nothing, which only some hardware remembers ([`Machine::remembers_no_dma`]).

mod counts;
mod pins;
mod tree;

pub(crate) use counts::Counts;
#[cfg(any(test, feature = "testing"))]
pub(crate) use tree::{READ, WRITE, entry};

use crate::domains::Domain;
use crate::frames::{FrameList, Mfn};
use crate::grants::Rights;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::paging::Work;
use crate::pci::FunctionId;
use bulkhead_abi::Errno;
use heapless::Vec;

/// How many functions a domain can have.
pub const MAX_FUNCTIONS: usize = 32;

/// What it is worth to have the hardware forget a space, in entries looked at.
pub(crate) const DMA_FLUSH_WORTH: u32 = 64;

/// What the devices of one domain may reach. See [`crate::dma`].
#[derive(Debug)]
pub struct Space {
    /// The tree, once there is one.
    root: Option<Mfn>,
    /// Its tables, but for the leaves.
    inner: FrameList,
    /// Its leaves. Each is followed by the frame of its counts.
    leaves: FrameList,
    /// How many of them there may be while no function walks it: they are memory that is not counted as the domain's.
    limit: u64,
    /// The leaf that was used last, and the frames that it is about, as `tree::region` numbers them.
    recent: Option<(u64, Mfn)>,
    /// The functions that walk it.
    functions: Vec<FunctionId, MAX_FUNCTIONS>,
    /// Whether it is being taken down.
    is_closed: bool,
}

/// There is no room for another frame in a space: no memory for a table, or a frame that its tree cannot name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

impl Space {
    /// Nothing can be reached. While it has no functions, there are `limit` leaves at most, of 8 KiB for 2 MiB that can be reached by each.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self {
            root: None,
            inner: FrameList::new(),
            leaves: FrameList::new(),
            limit,
            recent: None,
            functions: Vec::new(),
            is_closed: false,
        }
    }

    /// The functions that can reach what is in it.
    pub fn functions(&self) -> &[FunctionId] {
        &self.functions
    }

    /// The tree.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) const fn root(&self) -> Option<Mfn> {
        self.root
    }

    /// The tree's tables: those above the leaves, and the leaves.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) const fn tables(&self) -> [&FrameList; 2] {
        [&self.inner, &self.leaves]
    }

    /// Whether it is being taken down.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) const fn is_closed(&self) -> bool {
        self.is_closed
    }
}

impl<M: Machine> Memory<M> {
    /// The root of the tree that a domain's devices walk; it is made if there is none.
    ///
    /// # Errors
    ///
    /// [`Errno::NoMem`]; [`Errno::Srch`] if the domain is being destroyed.
    pub fn dma_root(&self, domain: &Domain) -> Result<Mfn, Errno> {
        let mut space = domain.dma.lock();
        if space.is_closed {
            return Err(Errno::Srch);
        }
        self.make_root(&mut space).map_err(|_| Errno::NoMem)
    }

    /// Lets a function, which no domain has, reach what is in `domain`'s space. The domain is not being destroyed, and cannot be while the caller looks at it.
    ///
    /// # Errors
    ///
    /// [`Errno::NoSpc`] if the domain has as many functions as it can have, [`Errno::Acces`] if this one cannot be confined though others are, and as
    /// [`Memory::dma_root`]. Nothing has changed then.
    pub fn attach_function(&self, domain: &Domain, function: FunctionId) -> Result<(), Errno> {
        let root = self.dma_root(domain)?;
        let entered = domain.dma.lock().functions.push(function);
        entered.map_err(|_| Errno::NoSpc)?;
        self.machine.attach_dma(function, domain.id, root).map_err(|_| {
            domain.dma.lock().functions.retain(|&other| other != function);
            Errno::Acces
        })
    }

    /// Lets a function reach nothing any more, if it is one of `domain`'s.
    pub fn detach_function(&self, domain: &Domain, function: FunctionId) {
        let found = {
            let mut space = domain.dma.lock();
            let found = space.functions.iter().position(|&other| other == function);
            found.map(|index| space.functions.swap_remove(index))
        };
        if found.is_some() {
            self.machine.detach_dma(function);
            self.machine.flush_dma(domain.id);
        }
    }

    /// Lets none of a domain's functions reach anything any more.
    pub(crate) fn detach_functions(&self, domain: &Domain) {
        let functions = core::mem::take(&mut domain.dma.lock().functions);
        for &function in &functions {
            self.machine.detach_dma(function);
        }
        if !functions.is_empty() && !mutant!(DetachedWithoutFlush) {
            self.machine.flush_dma(domain.id);
        }
    }

    /// Lets `domain`'s devices reach a frame that the caller holds for them, one time more. They can when this returns.
    pub(crate) fn let_reach(
        &self,
        domain: &Domain,
        frame: Mfn,
        rights: Rights,
        work: &mut Work,
    ) -> Result<(), NoRoom> {
        let is_stale = {
            let mut space = domain.dma.lock();
            let leaf = self.make_leaf(&mut space, frame, work)?;
            let added = self.change(leaf, frame, |counts| counts.add(rights).map(|after| (after, ())));
            let ((), is_stale) = added.ok_or(NoRoom)?;
            is_stale
        };
        self.tell_of_more(domain, is_stale, work);
        Ok(())
    }

    /// Takes back what [`Memory::let_reach`] did. Says whether devices may remember: then the frame stays held until they have been made to forget.
    #[must_use = "a device may remember the frame"]
    pub(crate) fn take_from_reach(&self, domain: &Domain, frame: Mfn, rights: Rights) -> bool {
        let mut space = domain.dma.lock();
        let leaf = self.find_leaf(&mut space, frame);
        let taken = leaf.and_then(|leaf| {
            self.change(leaf, frame, |counts| {
                counts.remove(rights).map(|after| (after, ()))
            })
        });
        debug_assert!(
            taken.is_some(),
            "{frame:?}: a device was let reach it, and is not"
        );
        taken.is_some_and(|((), is_stale)| is_stale)
    }

    /// Has the hardware see that an entry allows more than it may remember.
    fn tell_of_more(&self, domain: &Domain, is_stale: bool, work: &mut Work) {
        if is_stale && !mutant!(MoreUntold) {
            work.spend(DMA_FLUSH_WORTH);
            self.machine.flush_dma(domain.id);
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
