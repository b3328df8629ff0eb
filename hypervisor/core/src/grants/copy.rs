//! Copying to and from granted frames, without mapping them.

use super::{GrantError, Rights};
use crate::domains::Domain;
use crate::frames::Mfn;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::paging::{PagingError, Work};
use bulkhead_abi::layout::PAGE_SIZE;

/// One side of a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End<'a> {
    /// A frame of the caller's own.
    Own(Mfn),
    /// What an entry of this domain's table grants.
    Granted(&'a Domain, u32),
}

/// A copy within one frame on each side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy<'a> {
    /// From where, and how many bytes into the frame.
    pub(crate) source: (End<'a>, u16),
    /// To where.
    pub(crate) dest: (End<'a>, u16),
    /// How many bytes.
    pub(crate) len: u16,
}

/// A side whose frame is held.
struct Held<'a> {
    end: End<'a>,
    frame: Mfn,
    rights: Rights,
    held_as: Rights,
}

impl<M: Machine> Memory<M> {
    /// Copies bytes for `caller`.
    ///
    /// # Errors
    ///
    /// See [`GrantError`]; nothing is copied then.
    pub(crate) fn copy_granted(
        &self,
        caller: &Domain,
        copy: Copy<'_>,
        work: &mut Work,
    ) -> Result<(), GrantError> {
        let Copy {
            source: (source, from),
            dest: (dest, to),
            len,
        } = copy;
        let (from, to, len) = (usize::from(from), usize::from(to), usize::from(len));
        if from.saturating_add(len) > PAGE_SIZE || to.saturating_add(len) > PAGE_SIZE {
            return Err(GrantError::BadRange);
        }
        let source = self.hold_end(caller, source, Rights::ReadOnly, work)?;
        let held = self.hold_end(caller, dest, Rights::ReadWrite, work);
        let copied = held.map(|dest| {
            self.machine
                .copy_between_frames((dest.frame, to), (source.frame, from), len);
            self.let_end_go(&dest, work);
        });
        self.let_end_go(&source, work);
        copied
    }

    fn hold_end<'a>(
        &self,
        caller: &Domain,
        end: End<'a>,
        rights: Rights,
        work: &mut Work,
    ) -> Result<Held<'a>, GrantError> {
        let (frame, owner) = match end {
            End::Own(frame) => (frame, caller),
            End::Granted(grantor, gref) => (self.use_grant(grantor, gref, caller.id, rights)?, grantor),
        };
        let held_as = if mutant!(CopiedToAnything) {
            Rights::ReadOnly
        } else {
            rights
        };
        match self.hold(frame, owner.id, held_as, work) {
            Ok(()) => Ok(Held {
                end,
                frame,
                rights,
                held_as,
            }),
            Err(error) => {
                if let End::Granted(grantor, gref) = end {
                    self.end_grant_use(grantor, gref, rights);
                    return Err(error.into());
                }
                let is_not_own = matches!(error, PagingError::NoFrame | PagingError::Foreign);
                Err(if is_not_own {
                    GrantError::BadFrame
                } else {
                    error.into()
                })
            }
        }
    }

    fn let_end_go(&self, held: &Held<'_>, work: &mut Work) {
        self.let_go(held.frame, held.held_as, work);
        if let End::Granted(grantor, gref) = held.end
            && !mutant!(LostUseOnCopy)
        {
            self.end_grant_use(grantor, gref, held.rights);
        }
    }
}
