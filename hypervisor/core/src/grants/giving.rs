//! Frames that change hands: transfers, and flips.
//!
//! A *transfer* gives a frame of the caller's to a domain that accepts one. A *flip* exchanges it for one that the other domain offers:
//! both have as many as before, and each frame comes with the page number of the one that it replaces. Either way the entry in the
//! receiver's table says how far it has come: it is committed first, and nobody else can use it from then on; when the frame is the
//! receiver's, its number is written there, and the entry is completed.
//!
//! A frame changes hands only if nothing refers to it, and after every TLB has forgotten it: [`Memory::begin_transfer`] and
//! [`Memory::begin_flip`] come before the flush, [`Memory::finish_giving`] after it, each for as many frames as one flush shall serve. Between,
//! a frame is nobody's, and room is kept for it where it will be.

use super::GrantError;
use crate::domains::Domain;
use crate::frames::Mfn;
use crate::machine::{Flush, Machine};
use crate::memory::{M2P_INVALID, Memory};
use crate::paging::Work;
use alloc::sync::Arc;
use bulkhead_abi::Errno;

/// A frame on its way from one domain to another, and perhaps one that comes back for it. TLBs may still know both: flush them, then call
/// [`Memory::finish_giving`].
#[derive(Debug)]
#[must_use = "the frames are nobody's until the exchange is finished"]
pub(crate) struct Giving {
    receiver: Arc<Domain>,
    /// The receiver's entry, which is committed.
    gref: u32,
    /// What the receiver gets.
    given: Mfn,
    /// What the giver gets for it.
    taken: Option<Mfn>,
}

impl Giving {
    /// What the giver gets.
    pub(crate) const fn taken(&self) -> Option<Mfn> {
        self.taken
    }
}

/// How a frame is refused that its domain would give.
fn refusal(error: Errno) -> GrantError {
    if error == Errno::Restart {
        GrantError::Again
    } else {
        GrantError::BadFrame
    }
}

impl<M: Machine> Memory<M> {
    /// Takes a frame from `caller`, for the domain whose entry `gref` accepts one.
    ///
    /// # Errors
    ///
    /// [`GrantError::BadFrame`] or [`GrantError::Again`], and the frame is still the caller's. [`GrantError::NoRoom`], [`GrantError::NoEntry`],
    /// [`GrantError::NotOffered`], [`GrantError::Contended`], and it is lost: the ABI wants it so, and givers expect it.
    pub(crate) fn begin_transfer(
        &self,
        caller: &Domain,
        receiver: &Arc<Domain>,
        (mfn, gref): (Mfn, u32),
        work: &mut Work,
    ) -> Result<Giving, GrantError> {
        self.may_give(mfn)?;
        self.detach(caller, mfn, work).map_err(refusal)?;
        let committed = self.keep_room(receiver).and_then(|()| {
            let mut table = receiver.grants.lock();
            let committed = table.commit_transfer(&self.machine, gref, caller.id);
            drop(table);
            committed.inspect_err(|_| self.give_room_up(receiver))
        });
        match committed {
            Ok(()) => Ok(Giving {
                receiver: Arc::clone(receiver),
                gref,
                given: mfn,
                taken: None,
            }),
            Err(error) => {
                self.free(mfn);
                Err(error)
            }
        }
    }

    /// Takes a frame from `caller`, and from `receiver` the one that its entry `gref` offers.
    ///
    /// # Errors
    ///
    /// [`GrantError::BadFrame`] if the caller's frame is not its own, or something refers to it; [`GrantError::NotOffered`] if the entry offers none
    /// that can be had; [`GrantError::NoEntry`], [`GrantError::Contended`], [`GrantError::Again`]. Nothing has changed then.
    pub(crate) fn begin_flip(
        &self,
        caller: &Domain,
        receiver: &Arc<Domain>,
        (mfn, gref): (Mfn, u32),
        work: &mut Work,
    ) -> Result<Giving, GrantError> {
        let offered = {
            let mut table = receiver.grants.lock();
            table.commit_flip(&self.machine, gref, caller.id)?
        };
        let exchanged = self.detach_both(caller, mfn, receiver, offered, work);
        if let Err(error) = exchanged {
            receiver.grants.lock().uncommit(&self.machine, gref);
            return Err(error);
        }
        Ok(Giving {
            receiver: Arc::clone(receiver),
            gref,
            given: mfn,
            taken: Some(offered),
        })
    }

    /// Both frames, or neither.
    fn detach_both(
        &self,
        caller: &Domain,
        mfn: Mfn,
        receiver: &Domain,
        offered: Mfn,
        work: &mut Work,
    ) -> Result<(), GrantError> {
        self.may_give(mfn)?;
        // What is kept stays, and nothing is exchanged for itself.
        if self.is_kept(offered) || mfn == offered {
            return Err(GrantError::NotOffered);
        }
        // Room is kept before a frame goes: nobody else can have it in between. The other domain's goes first: to spoil what it
        // offers is easy, and costs the caller nothing then.
        self.detach_idle_and_keep_room(receiver, offered)
            .map_err(|_| GrantError::NotOffered)?;
        self.detach_and_keep_room(caller, mfn, work).map_err(|error| {
            // It was the receiver's a moment ago, and nobody else has seen it; but to be assigned makes a frame forget what TLBs may still know it as.
            self.machine.flush(Flush::All);
            if !mutant!(LostOnRefusedFlip) {
                self.take_room(receiver, offered);
            }
            refusal(error)
        })
    }

    /// Whether a frame may be given away at all: one that is kept for domains to come stays with them.
    fn may_give(&self, mfn: Mfn) -> Result<(), GrantError> {
        if self.is_kept(mfn) {
            return Err(GrantError::BadFrame);
        }
        Ok(())
    }

    /// Gives frames to whom they were committed. No TLB knows them any more.
    pub(crate) fn finish_giving(&self, caller: &Domain, giving: Giving) {
        let Giving {
            receiver,
            gref,
            given,
            taken,
        } = giving;
        match taken {
            Some(taken) => {
                let (its, ours) = (self.machine.m2p(taken), self.machine.m2p(given));
                self.machine.set_m2p(given, its);
                self.machine.set_m2p(taken, ours);
                self.take_room(caller, taken);
            }
            None => self.machine.set_m2p(given, M2P_INVALID),
        }
        if self.take_room(&receiver, given) {
            receiver.grants.lock().complete(&self.machine, gref, given);
        }
    }

    /// Keeps room for a frame that `domain` will have.
    fn keep_room(&self, domain: &Domain) -> Result<(), GrantError> {
        let mut holdings = domain.memory.lock();
        if !holdings.has_room(1) {
            return Err(GrantError::NoRoom);
        }
        holdings.awaited = holdings.awaited.saturating_add(1);
        Ok(())
    }

    fn give_room_up(&self, domain: &Domain) {
        let mut holdings = domain.memory.lock();
        holdings.awaited = holdings.awaited.saturating_sub(1);
    }

    /// Gives `domain` a frame for which room was kept, and says whether it is still there to have it: one that has been destroyed
    /// meanwhile has let all go that it held, and the frame goes back to the machine.
    fn take_room(&self, domain: &Domain, mfn: Mfn) -> bool {
        let mut holdings = domain.memory.lock();
        if !mutant!(FlippedWithoutRoom) {
            holdings.awaited = holdings.awaited.saturating_sub(1);
        }
        if holdings.is_closed {
            drop(holdings);
            self.free(mfn);
            return false;
        }
        let assigned = self.frames.assign(mfn, domain.id);
        debug_assert_eq!(assigned, Ok(()), "{mfn:?} is nobody's");
        holdings.frames.push(&self.frames, mfn);
        true
    }
}

#[cfg(test)]
#[cfg(not(loom))]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::frames::Kind;
    use crate::hypervisor::EndPolicy;
    use crate::ids::CpuId;
    use crate::testing::{GuestSpec, SimConfig, World};
    use bulkhead_abi::grant::{GTF_ACCEPT_TRANSFER, GTF_FLIP, GrantEntry};
    use bulkhead_abi::{DomId, Hypercall, pte};
    use core::sync::atomic::Ordering;

    const PAGE: u64 = 700;
    const GREF: u32 = 8;

    /// Two guests, the second of which is about to give a frame to the first, and for each of them one to which nothing refers.
    fn two() -> (World, [Mfn; 2]) {
        let config = SimConfig {
            free_frames: 2 * GuestSpec::FRAMES + 70,
            cpus: 2,
        };
        let world = World::new(config, EndPolicy::LastDomain);
        let frames = [0, 1].map(|cpu| {
            let guest = GuestSpec {
                home: Some(CpuId::new(u32::try_from(cpu).unwrap())),
                ..GuestSpec::default()
            };
            world.create(u16::try_from(cpu + 1).unwrap(), &guest).unwrap();
            world.enter(cpu).unwrap();
            let info = world.boot(cpu);
            world.map_grant_table(cpu);
            let frame = Mfn::new(world.read(cpu, info.mfn_list + PAGE * 8)).unwrap();
            let bared = world.call(cpu, Hypercall::UpdateVaMapping, &[PAGE << 12, 0, 2]);
            assert_eq!(bared, Ok(0));
            frame
        });
        (world, frames)
    }

    #[test]
    fn a_frame_whose_receiver_is_destroyed_on_the_way_goes_back_to_the_machine() {
        let (world, [offered, given]) = two();
        let entry = GrantEntry {
            flags: GTF_ACCEPT_TRANSFER | GTF_FLIP,
            domid: DomId::new(2),
            frame: u32::try_from(offered.raw()).unwrap(),
        };
        world.set_grant(0, GREF, entry);
        let hv = world.hv();
        let [receiver, giver] = [1, 2].map(|id| hv.domains.get(DomId::new(id)).unwrap());
        let flip = hv
            .memory
            .begin_flip(&giver, &receiver, (given, GREF), &mut Work::portion());
        let giving = flip.unwrap();
        while hv.destroy_domain(receiver.id).is_err() {
            assert_eq!(world.enter(0), None);
        }
        hv.machine().flush(Flush::All);
        let free = hv.memory.free_frames();
        hv.memory.finish_giving(&giver, giving);
        assert_eq!(hv.memory.free_frames(), free + 1);
        assert_eq!(hv.memory.frames().refs(offered).unwrap().owner(), giver.id);
        world.invariants();
    }

    #[test]
    fn what_is_kept_for_domains_to_come_is_not_given_away() {
        let (world, [offered, _]) = two();
        let hv = world.hv();
        let [receiver, giver] = [1, 2].map(|id| hv.domains.get(DomId::new(id)).unwrap());
        hv.memory.keep_extent(3, 0, u64::MAX).unwrap().unwrap();
        // As if it had been made with the extent.
        let kept = hv.memory.extents.lock().take(3, 0).unwrap();
        hv.memory.frames().assign(kept, giver.id).unwrap();
        let mut holdings = giver.memory.lock();
        holdings.frames.push(hv.memory.frames(), kept);
        holdings.limit += 1;
        drop(holdings);
        let entry = |flags: u16| GrantEntry {
            flags,
            domid: giver.id,
            frame: u32::try_from(offered.raw()).unwrap(),
        };
        let work = &mut Work::portion();
        world.set_grant(0, GREF, entry(GTF_ACCEPT_TRANSFER | GTF_FLIP));
        let flip = hv.memory.begin_flip(&giver, &receiver, (kept, GREF), work);
        assert_eq!(flip.unwrap_err(), GrantError::BadFrame);
        world.set_grant(0, GREF, entry(GTF_ACCEPT_TRANSFER));
        let transfer = hv.memory.begin_transfer(&giver, &receiver, (kept, GREF), work);
        assert_eq!(transfer.unwrap_err(), GrantError::BadFrame);
        assert_eq!(hv.memory.frames().refs(kept).unwrap().owner(), giver.id);
        world.invariants();
    }

    #[test]
    fn nobody_takes_down_for_others_what_they_left_half_done() {
        let (world, [_, given]) = two();
        let hv = world.hv();
        let [receiver, giver] = [1, 2].map(|id| hv.domains.get(DomId::new(id)).unwrap());
        let table = hv
            .memory
            .allocate(0, receiver.id, &mut receiver.memory.lock().frames)
            .unwrap();
        receiver.memory.lock().limit += 1;
        // Half validated: the portion is over after the first entry. What is empty would be passed over at once.
        for word in hv.machine().frame(table).iter() {
            word.store(pte::WRITABLE, Ordering::Relaxed);
        }
        let mut work = Work::portion();
        work.spend(u32::MAX);
        assert!(hv.memory.get_as(table, receiver.id, Kind::L2, &mut work).is_err());
        assert!(hv.memory.is_partial(table));
        let entry = GrantEntry {
            flags: GTF_ACCEPT_TRANSFER | GTF_FLIP,
            domid: giver.id,
            frame: u32::try_from(table.raw()).unwrap(),
        };
        world.set_grant(0, GREF, entry);
        let flip = hv
            .memory
            .begin_flip(&giver, &receiver, (given, GREF), &mut Work::portion());
        assert_eq!(flip.unwrap_err(), GrantError::NotOffered);
        assert!(hv.memory.is_partial(table), "it is the receiver's to finish");
    }
}
