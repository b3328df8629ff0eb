//! What is left to do with a domain that has ended, and when it is gone: frames for the dying, events for the dead.

use bulkhead_abi::{
    Buffered, DomId, Record,
    grant::{
        CopyEnd, Flip, GNTCOPY_SOURCE_GREF, GNTMAP_DEVICE_MAP, GTF_ACCEPT_TRANSFER, GTF_PERMIT_ACCESS,
        GrantCopy, GrantEntry, GrantStatus, GrantTableOp, MapGrantRef,
    },
    memory::MemoryOp,
};
use bulkhead_runtime::{
    Failure, domains,
    event::{self, Port},
};

use crate::{
    frames::Frame,
    giving::bare,
    grants::{OKAY, Outcome, ends, one},
    memory::reserve,
    probe::Probe,
};

/// The entry of the other's table by which it accepts a frame.
const ACCEPTS: u32 = 30;
/// The one by which it grants a frame.
const GRANTS: u32 = 31;

/// A domain that has shut down, and what this one has to do with it.
pub(crate) struct Dying {
    domain: DomId,
    port: Port,
}

impl Dying {
    /// Connects to a domain that is not gone yet, and lets it accept a frame and grant one of its own, `frame`.
    pub(crate) fn meet(domain: DomId, frame: u64) -> Result<Self, Failure> {
        let mut table = [0];
        domains::grant_table(domain, &mut table)?;
        let [table] = table;
        domains::set_limit(domain, 64)?;
        for (gref, flags, frame) in [
            (ACCEPTS, GTF_ACCEPT_TRANSFER, 0),
            (GRANTS, GTF_PERMIT_ACCESS, frame),
        ] {
            let entry = GrantEntry {
                flags,
                domid: DomId::new(0),
                frame: u32::try_from(frame).unwrap_or(u32::MAX),
            };
            domains::write(domain, table, gref.wrapping_mul(8), &entry.to_bytes())?;
        }
        let port = domains::alloc_unbound(domain, DomId::new(0))?;
        Ok(Self {
            domain,
            port: Port::bind_interdomain(domain, port)?,
        })
    }

    /// Gives it a frame, which is lost, and takes another in its place.
    fn give(&self) -> Outcome {
        let frame = bare(0);
        let mut transfer = Flip {
            mfn: frame.mfn(),
            domid: self.domain,
            gref: ACCEPTS,
            ..Flip::ZERO
        };
        let answer = one(GrantTableOp::Transfer, &mut transfer);
        if transfer.status == GrantStatus::Okay.raw() {
            let taken = reserve(MemoryOp::PopulatePhysmap, &mut [frame.pfn()], 0);
            return (answer.and(taken).map(|_| 0), transfer.status);
        }
        (answer, transfer.status)
    }

    fn map(&self) -> (Outcome, MapGrantRef) {
        let mut map = MapGrantRef {
            flags: GNTMAP_DEVICE_MAP,
            gref: GRANTS,
            dom: self.domain,
            ..MapGrantRef::ZERO
        };
        let answer = one(GrantTableOp::MapGrantRef, &mut map);
        ((answer, map.status), map)
    }

    fn copy(&self, to: &Frame) -> Outcome {
        let mut copy = GrantCopy {
            source: CopyEnd {
                frame: u64::from(GRANTS),
                domid: self.domain,
                offset: 0,
            },
            dest: CopyEnd {
                frame: to.mfn(),
                domid: DomId::SELF,
                offset: 0,
            },
            len: 8,
            flags: GNTCOPY_SOURCE_GREF,
            ..GrantCopy::ZERO
        };
        let answer = one(GrantTableOp::Copy, &mut copy);
        (answer, copy.status)
    }

    /// It has ended, and all that it has is still there: frames can be given to it and taken from it. Answers a mapping that outlives it.
    pub(crate) fn has_ended(&self, probe: &mut Probe) -> MapGrantRef {
        let to = Frame::new();
        let (mapped, map) = self.map();
        let done = [self.give(), mapped, self.copy(&to)];
        let sent = self.port.notify();
        let is_right = done == [OKAY; 3] && sent == Ok(());
        let result = if is_right { Ok(()) } else { Err((done, sent)) };
        probe.law("a-domain-that-has-ended-is-still-there", result);
        map
    }

    /// It is gone: nothing can be asked of it, events to it go nowhere, and what is left is let go.
    pub(crate) fn bury(self, probe: &mut Probe, map: &MapGrantRef) {
        let to = Frame::new();
        for (name, outcome) in [
            ("grant_table_op.transfer", self.give()),
            ("grant_table_op.map_grant_ref", self.map().0),
            ("grant_table_op.copy", self.copy(&to)),
        ] {
            ends(probe, name, GrantStatus::BadDomain, &[outcome]);
        }
        let unmapped = crate::grants::unmap(map.handle, 0, map.dev_bus_addr);
        let left = (unmapped, self.port.notify(), self.port.waits_for());
        let is_right = left == (OKAY, Ok(()), Ok(Some(self.domain)));
        probe.law(
            "events-to-the-dead-go-nowhere",
            if is_right { Ok(()) } else { Err(left) },
        );
        // Nothing is left pending that would wake whoever sleeps next.
        drop(self);
        event::dispatch();
    }
}
