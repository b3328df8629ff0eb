//! What the guest tries with devices: its own, which it tells to reach whatever it likes, and those of others.

use super::calls::call_with;
use super::grants::{GREFS, operation};
use super::tables::Mind;
use crate::frames::Mfn;
use crate::pci::FunctionId;
use crate::testing::{Access, Act, Choices, World};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bulkhead_abi::extension::{DMA_READ_ONLY, DmaRange, ExtensionOp};
use bulkhead_abi::grant::{GNTMAP_DEVICE_MAP, GTF_PERMIT_ACCESS, GrantEntry, GrantTableOp, MapGrantRef};
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall, Record};

/// How many functions there are.
const FUNCTIONS: u64 = 3;

/// A sub-operation that pins or unpins.
pub(super) fn is_about_pins(op: u32) -> Option<ExtensionOp> {
    ExtensionOp::from_raw(op).filter(|op| matches!(op, ExtensionOp::DmaPin | ExtensionOp::DmaUnpin))
}

fn pins(op: ExtensionOp, range: &DmaRange, at: u64) -> Act {
    let args = [u64::from(op.raw()), at];
    call_with(Hypercall::ExtensionOp, &args, range.to_bytes().as_ref().to_vec())
}

/// One of the functions.
fn function(choices: &mut Choices) -> FunctionId {
    FunctionId::new(0x100 + u16::try_from(choices.below(FUNCTIONS)).unwrap())
}

fn pin(frame: Mfn, choices: &mut Choices) -> Act {
    let range = DmaRange {
        first: frame.raw(),
        count: choices.below(3),
        flags: choices.one_of(&[0, 0, DMA_READ_ONLY]),
        reserved: 0,
    };
    pins(ExtensionOp::DmaPin, &range, World::SCRATCH)
}

fn unpin(frame: Mfn, choices: &mut Choices) -> Act {
    let range = DmaRange {
        first: frame.raw(),
        count: choices.below(4),
        ..DmaRange::default()
    };
    pins(ExtensionOp::DmaUnpin, &range, World::SCRATCH)
}

/// A call with a frame before it, and after it, touched by a device.
fn around(touches: [Act; 2], call: Act) -> VecDeque<Act> {
    let [before, after] = touches;
    VecDeque::from([before, call, after])
}

impl Mind<'_> {
    /// Something about devices.
    pub(super) fn dma(&self, choices: &mut Choices) -> VecDeque<Act> {
        let frame = self.for_device(choices);
        let touches = [0; 2].map(|_| self.touch_by_device(frame, choices));
        match choices.below(10) {
            0 => VecDeque::from([Act::Attach(function(choices), self.partner(choices))]),
            // A device remembers what it may do, and then that changes.
            1..=3 => around(touches, pin(frame, choices)),
            4..=6 => around(touches, unpin(frame, choices)),
            7 => self.reach_more(frame, choices),
            _ => VecDeque::from(touches),
        }
    }

    /// Lets a device read a frame, and then write it.
    fn reach_more(&self, frame: Mfn, choices: &mut Choices) -> VecDeque<Act> {
        let gref = choices.one_of(&GREFS.collect::<Vec<_>>());
        let entry = GrantEntry {
            flags: GTF_PERMIT_ACCESS,
            domid: DomId::new(self.guest.id),
            frame: u32::try_from(frame.raw() & 0xffff_ffff).unwrap(),
        };
        let to_read = DmaRange {
            first: frame.raw(),
            count: 1,
            flags: DMA_READ_ONLY,
            reserved: 0,
        };
        let to_write = MapGrantRef {
            flags: GNTMAP_DEVICE_MAP,
            gref,
            dom: DomId::SELF,
            ..MapGrantRef::ZERO
        };
        VecDeque::from([
            Act::Grant(self.guest.grant_table, gref, entry),
            pins(ExtensionOp::DmaPin, &to_read, World::SCRATCH),
            self.touch_by_device(frame, choices),
            operation(GrantTableOp::MapGrantRef, &[to_write]),
            self.touch_by_device(frame, choices),
        ])
    }

    /// A frame that a device might reach.
    fn for_device(&self, choices: &mut Choices) -> Mfn {
        match choices.below(20) {
            0 => self.forbidden(choices),
            1 | 2 => self.table(choices),
            3..=8 if !self.mapped.is_empty() => choices.one_of(&self.mapped).frame,
            // The same few again and again.
            9..=14 => self.guest.play[usize::try_from(choices.below(3)).unwrap()].1,
            _ => self.play(choices).1,
        }
    }

    /// A device reads or writes the frame: mostly one of its own.
    pub(super) fn touch_by_device(&self, frame: Mfn, choices: &mut Choices) -> Act {
        let access = choices.one_of(&[Access::Read, Access::Write]);
        let domain = self.domains.get(DomId::new(self.guest.id));
        let own = domain.map(|domain| domain.dma.lock().functions().to_vec());
        let function = match own {
            Some(own) if !own.is_empty() && choices.chance(80) => choices.one_of(&own),
            _ => function(choices),
        };
        Act::Dma(function, frame, access)
    }

    /// A call about pins that ends with `error`, if the frame is what it seems.
    pub(super) fn pin_goal(
        &self,
        op: ExtensionOp,
        error: Option<Errno>,
        at: u64,
        choices: &mut Choices,
    ) -> Act {
        let invalid = error == Some(Errno::Inval);
        let range = DmaRange {
            first: if invalid && choices.chance(50) {
                self.forbidden(choices).raw()
            } else {
                self.for_device(choices).raw()
            },
            count: 1 + choices.below(2),
            flags: if invalid && choices.chance(50) { 4 } else { 0 },
            reserved: 0,
        };
        pins(op, &range, at)
    }
}
