//! Taking a frame as a page table, and dropping it again.

use super::PagingError;
use super::entry::{self, Level, is_present, is_writable};
use crate::frames::{Kind, Mfn, TypePut};
use crate::machine::{Flush, Machine};
use crate::memory::Memory;
use bulkhead_abi::DomId;
use bulkhead_abi::layout;
use core::sync::atomic::Ordering;

impl<M: Machine> Memory<M> {
    /// Takes a reference to `mfn`, a frame of `owner`'s, and a use of it as `kind`; validates it if it must.
    ///
    /// # Errors
    ///
    /// See [`PagingError`]; nothing is held then.
    pub(crate) fn get_as(&self, mfn: Mfn, owner: DomId, kind: Kind) -> Result<(), PagingError> {
        self.get(mfn, owner)?;
        self.get_type(mfn, owner, kind).inspect_err(|_| self.put(mfn))
    }

    /// Gives back what [`Memory::get_as`] took.
    pub(crate) fn put_as(&self, mfn: Mfn) {
        self.put_type(mfn);
        self.put(mfn);
    }

    /// Takes a use of a frame that the caller holds a reference to.
    ///
    /// # Errors
    ///
    /// See [`PagingError`]; no use is held then.
    pub(crate) fn get_type(&self, mfn: Mfn, owner: DomId, kind: Kind) -> Result<(), PagingError> {
        let got = self.frames.get_type(mfn, kind)?;
        if got.retyped_from.is_some() {
            // Only now that the new type is visible: an entry that another CPU's TLB still holds from the frame's earlier
            // life must not outlive it (XSA-401).
            self.machine.flush(Flush::All);
        }
        if !got.must_validate {
            return Ok(());
        }
        let validated = match Level::of(kind) {
            Some(level) => self.validate(mfn, owner, level),
            // Descriptor pages are not taken yet: nothing registers them.
            None => Err(PagingError::NoFrame),
        };
        match validated {
            Ok(()) => self.frames.finish_validation(mfn),
            Err(_) => self.frames.release_type(mfn),
        }
        validated
    }

    /// Gives a use back; a table that nobody uses any more lets go of all that it refers to.
    pub(crate) fn put_type(&self, mfn: Mfn) {
        match self.frames.put_type(mfn) {
            TypePut::Done => {}
            TypePut::Unpick => {
                let kind = self.frames.typing(mfn).map_or(Kind::None, |word| word.kind);
                if let Some(level) = Level::of(kind) {
                    self.unpick(mfn, level, 512);
                }
                self.frames.release_type(mfn);
            }
        }
    }

    /// Checks every entry of a frame that this CPU holds for validation, and takes what the entries refer to.
    fn validate(&self, mfn: Mfn, owner: DomId, level: Level) -> Result<(), PagingError> {
        let table = self.machine.frame(mfn);
        for (index, word) in table.iter().enumerate() {
            if level == Level::L4 && layout::HYPERVISOR_L4_SLOTS.contains(&index) {
                word.store(self.machine.hypervisor_slot(index), Ordering::Relaxed);
                continue;
            }
            let taken = entry::adjust(level, word.load(Ordering::Relaxed))
                .and_then(|adjusted| self.get_target(adjusted, owner, level).map(|()| adjusted));
            match taken {
                // Nobody else writes here: the frame is typed as a table, and only validated ones are live.
                Ok(adjusted) => word.store(adjusted, Ordering::Relaxed),
                Err(error) => {
                    self.unpick(mfn, level, index);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Drops what the first `count` entries of a table refer to. Entries stay as they are.
    fn unpick(&self, mfn: Mfn, level: Level, count: usize) {
        let table = self.machine.frame(mfn);
        for (index, word) in table.iter().enumerate().take(count) {
            if level == Level::L4 && layout::HYPERVISOR_L4_SLOTS.contains(&index) {
                continue;
            }
            self.put_target(word.load(Ordering::Relaxed), level);
        }
    }

    /// Takes what `entry` (adjusted) in a table of `level` refers to.
    pub(super) fn get_target(&self, entry: u64, owner: DomId, level: Level) -> Result<(), PagingError> {
        if !is_present(entry) {
            return Ok(());
        }
        let mfn = entry::frame(entry);
        match level.child() {
            Some(kind) => self.get_as(mfn, owner, kind),
            None if is_writable(entry) => self.get_as(mfn, owner, Kind::Writable),
            None => Ok(self.get(mfn, owner)?),
        }
    }

    /// Gives back what `entry` in a validated table of `level` refers to.
    pub(super) fn put_target(&self, entry: u64, level: Level) {
        if !is_present(entry) {
            return;
        }
        let mfn = entry::frame(entry);
        if level != Level::L1 || is_writable(entry) {
            self.put_as(mfn);
        } else {
            self.put(mfn);
        }
    }
}
