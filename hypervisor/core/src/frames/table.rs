//! The records themselves: shared by all CPUs, changed only by compare-exchange.

use super::Mfn;
use super::words::{Kind, RefError, RefWord, TypeError, TypeGet, TypePut, TypeWord};
use crate::sync::{AtomicU64, Ordering};
use bulkhead_abi::DomId;

/// What the hypervisor knows about one frame: 32 bytes, of which an all-zero pattern means "no RAM".
#[derive(Debug, Default)]
#[repr(C)]
pub struct FrameRecord {
    refs: AtomicU64,
    typing: AtomicU64,
    /// Neighbours in whatever list the frame is on; see [`super::FrameList`]. Guarded by that list's lock.
    links: AtomicU64,
    /// Reserved for the TLB clock at which the last use ended.
    _stamp: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<FrameRecord>() == 32);

#[cfg(any(test, feature = "testing"))]
impl FrameRecord {
    /// The record of a frame that is no RAM, whatever it was.
    pub(crate) fn forget(&self) {
        for word in [&self.refs, &self.typing, &self.links, &self._stamp] {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// The record of every frame below the machine's limit.
#[derive(Clone, Copy, Debug)]
pub struct FrameTable {
    records: &'static [FrameRecord],
}

/// What became of a frame when a reference to it was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a frame whose last reference goes must be freed"]
pub enum Put {
    /// Others still hold it.
    Held,
    /// That was the last reference: the frame is now the caller's, to scrub and free.
    Last,
}

impl FrameTable {
    /// Takes `records` as the table; record `n` is frame `n`.
    #[must_use]
    pub const fn new(records: &'static [FrameRecord]) -> Self {
        Self { records }
    }

    /// One past the largest frame number that has a record.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.records.len() as u64
    }

    #[inline]
    fn record(&self, mfn: Mfn) -> Option<&'static FrameRecord> {
        self.records.get(usize::try_from(mfn.raw()).ok()?)
    }

    /// Runs `step` on the frame's reference word until it takes, and returns the word after.
    #[inline]
    fn update_refs(
        &self,
        mfn: Mfn,
        step: impl Fn(RefWord) -> Result<RefWord, RefError>,
    ) -> Result<RefWord, RefError> {
        let word = &self.record(mfn).ok_or(RefError::NoFrame)?.refs;
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let after = step(RefWord::from_bits(seen))?;
            // Acquire and Release: whoever sees the last reference go must also see all that its holder wrote.
            match word.compare_exchange_weak(seen, after.bits(), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(after),
                Err(now) => seen = now,
            }
        }
    }

    #[inline]
    fn update_type<T>(
        &self,
        mfn: Mfn,
        step: impl Fn(TypeWord) -> Result<(TypeWord, T), TypeError>,
    ) -> Result<T, TypeError> {
        let word = &self.record(mfn).ok_or(TypeError::NoFrame)?.typing;
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let (after, result) = step(TypeWord::from_bits(seen))?;
            // Acquire pairs with the Release of whoever dropped the last use: the new user of the frame
            // sees every write made under the old type. The write is a full barrier on x86, so that the new type is
            // visible before the TLB flush which must follow a change of type (XSA-401).
            match word.compare_exchange_weak(seen, after.bits(), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(result),
                Err(now) => seen = now,
            }
        }
    }

    /// The references and owner of `mfn` at this moment, or `None` if there is no such frame.
    #[must_use]
    pub fn refs(&self, mfn: Mfn) -> Option<RefWord> {
        Some(RefWord::from_bits(self.record(mfn)?.refs.load(Ordering::Acquire)))
    }

    /// The type of `mfn` at this moment, or `None` if there is no such frame.
    #[must_use]
    pub fn typing(&self, mfn: Mfn) -> Option<TypeWord> {
        Some(TypeWord::from_bits(
            self.record(mfn)?.typing.load(Ordering::Acquire),
        ))
    }

    /// Gives a free frame to `owner` with its base reference, unused.
    ///
    /// # Errors
    ///
    /// [`RefError::NotOwner`] if the frame is not free.
    pub fn assign(&self, mfn: Mfn, owner: DomId) -> Result<(), RefError> {
        self.publish(mfn, RefWord::allocated(owner, 1, false), TypeWord::UNUSED)
    }

    /// Gives a free frame to `owner` that the hypervisor keeps for it and shares with it: besides the base reference there is one use of it as
    /// memory that the owner may write, so that it never becomes anything else.
    ///
    /// # Errors
    ///
    /// As [`FrameTable::assign`].
    pub fn assign_shared(&self, mfn: Mfn, owner: DomId) -> Result<(), RefError> {
        let writable = TypeWord::UNUSED.get(Kind::Writable);
        let (typing, _) = writable.map_err(|_| RefError::NotOwner)?;
        self.publish(mfn, RefWord::allocated(owner, 2, true), typing)
    }

    /// Takes a free frame for the hypervisor itself: nobody can refer to it until it is [put](Self::put).
    ///
    /// # Errors
    ///
    /// As [`FrameTable::assign`].
    pub(crate) fn keep_own(&self, mfn: Mfn) -> Result<(), RefError> {
        self.publish(mfn, RefWord::OWN, TypeWord::UNUSED)
    }

    /// Makes a frame that is nobody's what these words say.
    fn publish(&self, mfn: Mfn, refs: RefWord, typing: TypeWord) -> Result<(), RefError> {
        let record = self.record(mfn).ok_or(RefError::NoFrame)?;
        if self.refs(mfn).is_none_or(|word| word.count() != 0) {
            return Err(RefError::NotOwner);
        }
        // Before it is anybody's: its owner's other vCPUs may take references and uses of it from the moment on at which it is, and
        // may know its number already. Relaxed: the Release of the next write publishes it, to whoever acquires a reference.
        record.typing.store(typing.bits(), Ordering::Relaxed);
        self.update_refs(mfn, |word| {
            if word.count() != 0 {
                return Err(RefError::NotOwner);
            }
            Ok(refs)
        })?;
        Ok(())
    }

    /// Takes a reference to a frame of `owner`'s.
    ///
    /// # Errors
    ///
    /// As [`RefWord::get`]; [`RefError::NoFrame`] if there is no such frame.
    #[inline]
    pub fn get(&self, mfn: Mfn, owner: DomId) -> Result<(), RefError> {
        self.update_refs(mfn, |word| word.get(owner)).map(|_| ())
    }

    /// Takes the reference of a frame that is left half done to itself; the caller holds another.
    pub(crate) fn keep(&self, mfn: Mfn) {
        // Ignoring the error is right: the frame exists, or nobody could hold it.
        let _ = self.update_refs(mfn, |word| Ok(word.keep()));
    }

    /// Takes a frame from `owner`, if nothing but its base reference keeps it: it is nobody's then.
    ///
    /// # Errors
    ///
    /// [`RefError::NotOwner`] if it is not `owner`'s to give, or in use.
    pub fn take_idle(&self, mfn: Mfn, owner: DomId) -> Result<(), RefError> {
        self.update_refs(mfn, |word| word.take_idle(owner)).map(|_| ())
    }

    /// Gives the base reference back: the frame's owner is no more. See [`RefWord::disown`].
    pub fn disown(&self, mfn: Mfn) -> Put {
        self.give_back(mfn, RefWord::disown)
    }

    /// Gives a reference back.
    #[inline]
    pub fn put(&self, mfn: Mfn) -> Put {
        self.give_back(mfn, RefWord::put)
    }

    #[inline]
    fn give_back(&self, mfn: Mfn, step: impl Fn(RefWord) -> Option<RefWord>) -> Put {
        match self.update_refs(mfn, |word| step(word).ok_or(RefError::NotOwner)) {
            Ok(after) if after.count() == 0 => Put::Last,
            Ok(_) => Put::Held,
            Err(_) => {
                // More puts than gets. Going on leaks a frame; a panic would hand a guest the machine.
                debug_assert!(false, "{mfn:?}: a reference was put that nobody held");
                Put::Held
            }
        }
    }

    /// Takes a use of `mfn` as `want`, if no more than that is to be done; says whether it did. The caller holds a reference to it
    /// already.
    #[inline]
    pub fn get_type_at_once(&self, mfn: Mfn, want: Kind) -> bool {
        self.update_type(mfn, |word| {
            Ok((word.get_at_once(want).ok_or(TypeError::Busy)?, ()))
        })
        .is_ok()
    }

    /// Takes a use of `mfn` as `want`; the caller holds a reference to it already.
    ///
    /// # Errors
    ///
    /// As [`TypeWord::get`].
    pub fn get_type(&self, mfn: Mfn, want: Kind) -> Result<TypeGet, TypeError> {
        self.update_type(mfn, |word| word.get(want))
    }

    /// Takes a use of `mfn` as the validated table that it is, and says of which kind.
    ///
    /// # Errors
    ///
    /// As [`TypeWord::get_table`].
    #[inline]
    pub fn get_table(&self, mfn: Mfn) -> Result<Kind, TypeError> {
        self.update_type(mfn, |word| Ok((word.get_table()?, word.kind())))
    }

    /// The contents of a frame that [`FrameTable::get_type`] left to be validated are good.
    pub fn finish_validation(&self, mfn: Mfn) {
        // Ignoring the error is right: the frame exists, or there would have been nothing to validate.
        let _ = self.update_type(mfn, |word| Ok((word.finish_validation(), ())));
    }

    /// A frame that the caller holds for validation or unpicking is left half done: its first `done` entries hold what they refer
    /// to, but for the last if what is below that is awaited.
    pub fn suspend(&self, mfn: Mfn, done: u16, awaits_last: bool) {
        let _ = self.update_type(mfn, |word| Ok((word.suspend(done, awaits_last), ())));
    }

    /// Takes hold of a frame that was left half done, to unpick it, and says how it was left. With `only`, it must be of that kind.
    ///
    /// # Errors
    ///
    /// [`TypeError::Busy`] if it is not left half done (any more), or something else.
    pub fn resume_unpicking(&self, mfn: Mfn, only: Option<Kind>) -> Result<TypeWord, TypeError> {
        self.update_type(mfn, |word| {
            if only.is_some_and(|kind| kind != word.kind()) {
                return Err(TypeError::Busy);
            }
            Ok((word.resume_unpicking()?, word))
        })
    }

    /// The contents of a frame were refused, or have been unpicked.
    pub fn release_type(&self, mfn: Mfn) {
        let _ = self.update_type(mfn, |word| Ok((word.release(), ())));
    }

    /// Gives a use back.
    #[inline]
    pub fn put_type(&self, mfn: Mfn) -> TypePut {
        let put = self.update_type(mfn, |word| word.put().ok_or(TypeError::Overflow));
        debug_assert!(put.is_ok(), "{mfn:?}: a use was put that nobody held");
        put.unwrap_or(TypePut::Done)
    }

    /// Marks a use that the caller holds as the owner's pin.
    ///
    /// # Errors
    ///
    /// [`TypeError::InUse`] if it is pinned already.
    pub fn pin(&self, mfn: Mfn) -> Result<(), TypeError> {
        self.update_type(mfn, |word| {
            let pinned = word.pin().ok_or(TypeError::InUse(word.kind()))?;
            Ok((pinned, ()))
        })
    }

    /// Takes the pin off, leaving the use behind it for the caller to put.
    ///
    /// # Errors
    ///
    /// [`TypeError::InUse`] if it is not pinned.
    pub fn unpin(&self, mfn: Mfn) -> Result<(), TypeError> {
        self.update_type(mfn, |word| {
            let unpinned = word.unpin().ok_or(TypeError::InUse(word.kind()))?;
            Ok((unpinned, ()))
        })
    }

    /// Marks `mfn` as RAM that nobody owns. Only the allocator and boot do this.
    pub(super) fn mark_free(&self, mfn: Mfn, order: u8) {
        if let Some(record) = self.record(mfn) {
            record.refs.store(RefWord::FREE.bits(), Ordering::Release);
            record
                .typing
                .store(FREE_BLOCK | u64::from(order), Ordering::Release);
        }
    }

    /// The order of the free block that starts at `mfn`, if one does.
    pub(super) fn free_block(&self, mfn: Mfn) -> Option<u8> {
        let word = self.record(mfn)?.typing.load(Ordering::Acquire);
        (word & FREE_BLOCK != 0).then(|| word.to_le_bytes()[0])
    }

    /// `mfn` starts no free block any more.
    pub(super) fn unmark_free(&self, mfn: Mfn) {
        if let Some(record) = self.record(mfn) {
            record.typing.store(TypeWord::UNUSED.bits(), Ordering::Release);
        }
    }

    pub(super) fn links(&self, mfn: Mfn) -> Option<&'static AtomicU64> {
        Some(&self.record(mfn)?.links)
    }
}

/// In the type word of the first frame of a free block: the low byte is then the block's order. No [`TypeWord`] has it.
const FREE_BLOCK: u64 = 1 << 63;
