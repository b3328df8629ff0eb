//! `memory_op`: giving memory back, taking more, exchanging it. What a balloon driver does.
//!
//! A call works on *extents* of 2^order frames and answers how many it completed; that is an answer, not an error, also when it
//! is none. How far a long call has come stands in the upper bits of its number, in frames.

use super::{Answer, Call};
use crate::domains::{Domain, Visit};
use crate::frames::{Mfn, Pfn};
use crate::machine::Machine;
use crate::paging::Work;
use bulkhead_abi::memory::{COMMAND_BITS, MemoryExchange, MemoryOp, MemoryReservation};
use bulkhead_abi::{Errno, Record};

/// The largest extent that a domain without devices may ask for, as a power of two: larger ones would be long to clear.
const MAX_ORDER: u32 = 4;

/// What clearing or giving back a frame is worth, in entries looked at.
const FRAME_WORTH: u32 = 16;

/// Where a reservation call stands.
struct Progress {
    /// Whose memory it is about, if not the caller's.
    visit: Option<Visit>,
    reservation: MemoryReservation,
    /// Frames that are done.
    done: u64,
    /// Frames in all.
    total: u64,
}

impl Progress {
    fn order(&self) -> u32 {
        self.reservation.extent_order
    }

    /// The guest's list has one word for each extent: where that of the next frame's extent is.
    fn word(&self) -> u64 {
        let extent = self.done >> self.order();
        self.reservation.extent_start.wrapping_add(extent.wrapping_mul(8))
    }

    /// Which frame of its extent the next one is.
    fn offset(&self) -> u64 {
        self.done & (1_u64 << self.order()).wrapping_sub(1)
    }

    fn extents(&self) -> u64 {
        self.done >> self.order()
    }
}

/// Reads the record of a reservation call that has come to frame `done`. `None` if it asks for what nobody gets: then no
/// extent is completed.
fn begin<M: Machine>(call: &Call<'_, M>, done: u64) -> Result<Option<Progress>, Errno> {
    let reservation: MemoryReservation = call.read(call.arg::<1>())?;
    let visit = match call.visit(reservation.domid) {
        Ok(visit) if reservation.extent_order <= MAX_ORDER => visit,
        Ok(_) | Err(_) => return Ok(None),
    };
    let total = reservation.nr_extents.checked_shl(reservation.extent_order);
    let fits = |total: &u64| *total >> reservation.extent_order == reservation.nr_extents && *total < 1 << 40;
    Ok(total.filter(fits).map(|total| Progress {
        visit,
        reservation,
        done: done.min(total),
        total,
    }))
}

/// Ends a go: with the number of extents, or by asking for another go.
fn end<M: Machine>(call: &mut Call<'_, M>, op: MemoryOp, progress: &Progress, is_over: bool) -> Answer {
    if progress.done == progress.total || !is_over {
        return Ok(progress.extents());
    }
    call.regs.rdi = u64::from(op.raw()) | progress.done << COMMAND_BITS;
    Call::<M>::restart()
}

/// Gives frames back to the machine.
pub(super) fn decrease<M: Machine>(call: &mut Call<'_, M>, done: u64) -> Answer {
    let Some(mut progress) = begin(call, done)? else {
        return Ok(0);
    };
    let mut work = Work::portion();
    let mut is_over = false;
    while progress.done < progress.total {
        is_over = work.is_over();
        if is_over {
            break;
        }
        let Ok(first) = call.read::<u64>(progress.word()) else {
            break;
        };
        let Some(mfn) = Mfn::new(first).and_then(|mfn| mfn.offset(progress.offset())) else {
            break;
        };
        let domain = call.host(progress.visit.as_ref());
        match call.hv.memory.surrender(domain, mfn, &mut work) {
            Ok(()) => progress.done = progress.done.saturating_add(1),
            Err(Errno::Restart) => {
                is_over = true;
                break;
            }
            Err(_) => break,
        }
        work.spend(FRAME_WORTH);
    }
    end(call, MemoryOp::DecreaseReservation, &progress, is_over)
}

/// Whether frames come with page numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbered {
    /// The guest gives the page number of each extent.
    Yes,
    /// The guest only wants to know the frames.
    No,
}

/// Takes frames from the machine.
pub(super) fn increase<M: Machine>(call: &mut Call<'_, M>, numbered: Numbered, done: u64) -> Answer {
    let op = match numbered {
        Numbered::Yes => MemoryOp::PopulatePhysmap,
        Numbered::No => MemoryOp::IncreaseReservation,
    };
    let Some(mut progress) = begin(call, done)? else {
        return Ok(0);
    };
    let mut work = Work::portion();
    let mut is_over = false;
    while progress.done < progress.total {
        is_over = work.is_over();
        if is_over {
            break;
        }
        let pfn = match numbered {
            Numbered::Yes => match call.read::<u64>(progress.word()) {
                Ok(pfn) => Some(Pfn::new(pfn)),
                Err(_) => break,
            },
            Numbered::No => None,
        };
        let order = progress.order();
        let domain = call.host(progress.visit.as_ref());
        let Some(first) = call.hv.memory.grow(domain, order, pfn) else {
            break;
        };
        let is_told = progress.reservation.extent_start == 0 && numbered == Numbered::No
            || call.write(progress.word(), &first.raw()).is_ok();
        if !is_told {
            // The guest would never learn which frames it has: they are taken back.
            for mfn in (0..1_u64 << order).filter_map(|n| first.offset(n)) {
                let _ = call.hv.memory.surrender(domain, mfn, &mut work);
            }
            break;
        }
        work.spend(FRAME_WORTH << order);
        progress.done = progress.done.saturating_add(1 << order);
    }
    end(call, op, &progress, is_over)
}

/// Gives frames back for as many others: machine-contiguous ones for scattered ones, or the other way round.
pub(super) fn exchange<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut exchange: MemoryExchange = call.read(at)?;
    let MemoryExchange {
        input,
        output,
        nr_exchanged,
    } = exchange;
    let (given, taken) = (input.extent_order, output.extent_order);
    // Nobody exchanges for another.
    if [input.domid, output.domid]
        .into_iter()
        .any(|id| call.resolve(id) != Ok(call.domain().id))
    {
        return Err(Errno::Perm);
    }
    if given > MAX_ORDER || taken > MAX_ORDER {
        return Err(Errno::Perm);
    }
    let frames = |reservation: &MemoryReservation| {
        Some(reservation.nr_extents)
            .filter(|&n| n < 1 << 36)?
            .checked_shl(reservation.extent_order)
    };
    let total = frames(&input)
        .filter(|_| frames(&input) == frames(&output))
        .ok_or(Errno::Inval)?;
    // As many frames at a time as both sides have whole extents of.
    let chunk = 1_u64 << given.max(taken);
    let first = nr_exchanged
        .checked_shl(given)
        .filter(|&done| done <= total)
        .ok_or(Errno::Inval)?;
    if !total.is_multiple_of(chunk) || !first.is_multiple_of(chunk) {
        return Err(Errno::Inval);
    }
    let mut work = Work::portion();
    let (mut done, mut result) = (first, Ok(()));
    while done < total && (done == first || !work.is_over()) {
        result = exchange_chunk(call, &exchange, done, chunk, &mut work);
        if result.is_err() {
            break;
        }
        work.spend(FRAME_WORTH.saturating_mul(u32::try_from(chunk).unwrap_or(u32::MAX)));
        done = done.saturating_add(chunk);
    }
    exchange.nr_exchanged = done >> given;
    call.write(at, &exchange)?;
    match result {
        Ok(()) if done == total => Ok(0),
        Ok(()) => Call::<M>::restart(),
        Err(error) => Err(error),
    }
}

/// Exchanges the `chunk` frames from frame `done` on: all of them, or none.
fn exchange_chunk<M: Machine>(
    call: &Call<'_, M>,
    exchange: &MemoryExchange,
    done: u64,
    chunk: u64,
    work: &mut Work,
) -> Result<(), Errno> {
    let MemoryExchange { input, output, .. } = exchange;
    let word = |reservation: &MemoryReservation, frame: u64| {
        let extent = frame >> reservation.extent_order;
        reservation
            .extent_start
            .wrapping_add(extent.wrapping_mul(u64::SIZE as u64))
    };
    let mut given = heapless::Vec::<Mfn, { 1 << MAX_ORDER }>::new();
    let mut numbers = heapless::Vec::<u64, { 1 << MAX_ORDER }>::new();
    for frame in done..done.saturating_add(chunk) {
        let offset = frame & (1_u64 << input.extent_order).wrapping_sub(1);
        let raw = call.read::<u64>(word(input, frame))?;
        let mfn = Mfn::new(raw)
            .and_then(|mfn| mfn.offset(offset))
            .ok_or(Errno::Inval)?;
        // There is room for a chunk.
        let _ = given.push(mfn);
    }
    let extents = (done..done.saturating_add(chunk)).step_by(1 << output.extent_order);
    for frame in extents.clone() {
        let _ = numbers.push(call.read::<u64>(word(output, frame))?);
    }
    let taken = call
        .hv
        .memory
        .exchange(call.domain(), &given, output.extent_order, work)?;
    for ((frame, &first), &pfn) in extents.zip(&taken).zip(&numbers) {
        for n in 0..1_u64 << output.extent_order {
            if let Some(mfn) = first.offset(n) {
                call.hv.memory.set_pfn(mfn, Pfn::new(pfn.wrapping_add(n)));
            }
        }
        call.write(word(output, frame), &first.raw())?;
    }
    Ok(())
}

/// How much a domain has, and may have.
pub(super) fn holdings<M: Machine>(call: &Call<'_, M>, choose: impl FnOnce(&Domain) -> u64) -> Answer {
    let id = call.read(call.arg::<1>())?;
    let domain = call.hv.domains.get(call.resolve(id)?).ok_or(Errno::Srch)?;
    Ok(choose(&domain))
}
