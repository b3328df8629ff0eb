//! From slots of a sending ring to frames.

use alloc::vec::Vec;

use bulkhead_abi::netif::{
    EXTRA_MORE, Extra, ExtraType, Gso, GsoType, MAX_SLOTS, MIN_FIRST, TX_CSUM_BLANK, TX_EXTRA_INFO,
    TX_MORE_DATA, TxRequest, TxSlot,
};
use bulkhead_abi::{DomId, layout::PAGE_SIZE};
use bulkhead_devices::nic::Ip;
use bulkhead_ring::descriptor::Ticket;

use super::job::{Job, Part, Segments, Slot, Sum};
use crate::counters::Loss;
use crate::machine::End;

/// What the next slot holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    /// A frame's first request.
    #[default]
    First,
    /// An extra. Whether there are more requests was said before.
    Extra { has_more: bool },
    /// A later request.
    More,
}

/// Slots of a frame that has not ended.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    next: Next,
    slots: Vec<Slot>,
    parts: Vec<(u32, u16, u16)>,
    is_blank: bool,
    gso: Option<Gso>,
    wrong: Option<Loss>,
}

impl Assembly {
    /// Takes a slot for what it claims to hold. Whether the frame has ended.
    pub(super) fn take(&mut self, ticket: Ticket, slot: &TxSlot) -> bool {
        let has_more = if let Next::Extra { has_more } = self.next {
            self.slots.push(Slot {
                ticket,
                id: 0,
                is_extra: true,
            });
            if self.extra(slot) {
                return false;
            }
            has_more
        } else {
            let TxRequest {
                gref,
                offset,
                flags,
                id,
                size,
            } = slot.read();
            self.slots.push(Slot {
                ticket,
                id,
                is_extra: false,
            });
            if self.parts.len() < MAX_SLOTS {
                self.parts.push((gref, offset, size));
            } else {
                self.wrong.get_or_insert(Loss::Slots);
            }
            let has_more = flags & TX_MORE_DATA != 0;
            if self.next == Next::First {
                self.is_blank = flags & TX_CSUM_BLANK != 0;
                if flags & TX_EXTRA_INFO != 0 {
                    self.next = Next::Extra { has_more };
                    return false;
                }
            }
            has_more
        };
        self.next = if has_more { Next::More } else { Next::First };
        !has_more
    }

    /// Whether another extra follows this one.
    fn extra(&mut self, slot: &TxSlot) -> bool {
        let Extra {
            extra_type, flags, ..
        } = slot.read();
        if extra_type == ExtraType::Gso.raw() && self.gso.is_none() {
            self.gso = Some(slot.read());
        } else {
            self.wrong.get_or_insert(Loss::Extra);
        }
        flags & EXTRA_MORE != 0
    }

    /// Makes the frame that has ended a job's. Its slots are the job's in any case.
    pub(super) fn finish(&mut self, job: &mut Job, domain: DomId) -> Result<(), Loss> {
        core::mem::swap(&mut job.slots, &mut self.slots);
        let gso = self.gso.take();
        let mut result = self.wrong.take().map_or(Ok(()), Err);
        // Where the frame's own size stands, that of its first part is what the others leave.
        let others = self
            .parts
            .iter()
            .skip(1)
            .map(|(.., size)| usize::from(*size))
            .sum();
        let mut is_first = true;
        for (gref, offset, size) in self.parts.drain(..) {
            let mut bytes = usize::from(size);
            let least = if is_first { MIN_FIRST } else { 1 };
            if core::mem::take(&mut is_first) {
                job.length = bytes;
                bytes = bytes.saturating_sub(others);
            }
            if bytes < least || usize::from(offset).saturating_add(bytes) > PAGE_SIZE {
                result = result.and(Err(Loss::Sizes));
            }
            job.parts.push(Part {
                at: End::Guest { domain, gref, offset },
                bytes,
            });
        }
        if self.is_blank || gso.is_some() {
            job.sum = Sum::Blank;
        }
        if let Some(Gso { size, gso_type, .. }) = gso {
            let ip = match GsoType::from_raw(gso_type) {
                Some(GsoType::Tcpv4) => Some(Ip::V4),
                Some(GsoType::Tcpv6) => Some(Ip::V6),
                Some(GsoType::None) | None => None,
            };
            match ip {
                Some(ip) => job.segments = Some(Segments { ip, size }),
                None => result = result.and(Err(Loss::Extra)),
            }
        }
        result
    }
}
