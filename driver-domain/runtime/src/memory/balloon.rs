//! The balloon: memory that the domain gives back to the machine for a while, because it is asked to.
//!
//! Frames that nobody uses go first to last; when the balloon shrinks, their places in the domain's numbering get frames again. A domain gets no
//! larger than it began.

use alloc::vec::Vec;

use bulkhead_abi::DomId;
use spin::Mutex;

use super::{frame::Pfn, frames, p2m, rights::Rights};
use crate::hypercall::{self, memory::release};

/// How many frames a hypercall takes or gives.
const BATCH: usize = 64;

/// How many free frames the domain keeps for what it will need: the heap grows by as many at a time.
const RESERVE: usize = 128;

/// The places without a frame.
static GIVEN: Mutex<Vec<Pfn>> = Mutex::new(Vec::new());

/// Makes the domain's memory as near to `pages` pages as it can get, and returns how many it has then. It keeps what is in use, what the heap has
/// taken, and a little that is free.
pub fn balloon(pages: u64) -> u64 {
    let mut given = GIVEN.lock();
    let whole = p2m::frames();
    let wanted = usize::try_from(pages).unwrap_or(usize::MAX);
    let has = |given: &Vec<Pfn>| whole.saturating_sub(given.len());
    while has(&given) > wanted {
        let spare = frames::free().saturating_sub(RESERVE);
        let excess = has(&given).saturating_sub(wanted).min(BATCH).min(spare);
        if excess == 0 || !give(&mut given, excess) {
            break;
        }
    }
    while has(&given) < wanted && !given.is_empty() {
        let lack = wanted.saturating_sub(has(&given)).min(BATCH);
        if !take_back(&mut given, lack) {
            break;
        }
    }
    has(&given) as u64
}

/// Gives `count` frames that nobody uses to the machine. Says whether it took them all.
fn give(given: &mut Vec<Pfn>, count: usize) -> bool {
    // Before frames are taken: it may itself need some.
    if given.try_reserve(count).is_err() {
        return false;
    }
    let mut going = heapless::Vec::<(Pfn, u64), BATCH>::new();
    for _ in 0..count {
        let Some(pfn) = frames::take(1) else { break };
        let Some(mfn) = p2m::machine_frame(pfn) else {
            continue;
        };
        // SAFETY: the frame was free and is nobody's from now on.
        if unsafe { hypercall::update_va_mapping(pfn.address(), Rights::None.entry(0)) }.is_err() {
            frames::release(pfn);
            break;
        }
        p2m::set(pfn, None);
        // There is room: it is no more than `BATCH`.
        let _ = going.push((pfn, mfn.raw()));
    }
    let list: heapless::Vec<u64, BATCH> = going.iter().map(|&(_, mfn)| mfn).collect();
    // SAFETY: these were unmapped just now.
    let gone = unsafe { release(&list) };
    for (n, &(pfn, mfn)) in going.iter().enumerate() {
        if n < gone {
            given.push(pfn);
        } else {
            // One that somebody else still has mapped, for example, and those after it: they are here to stay.
            fill(pfn, mfn);
        }
    }
    gone == count
}

/// Gets frames for `count` of the places without. Says whether the machine had so many.
fn take_back(given: &mut Vec<Pfn>, count: usize) -> bool {
    let mut places = heapless::Vec::<Pfn, BATCH>::new();
    while places.len() < count.min(BATCH)
        && let Some(pfn) = given.pop()
    {
        // There is room.
        let _ = places.push(pfn);
    }
    let mut got: heapless::Vec<u64, BATCH> = places.iter().map(|pfn| pfn.raw()).collect();
    let filled = hypercall::domains::populate(DomId::SELF, &mut got, 0).unwrap_or(0);
    let filled = usize::try_from(filled).unwrap_or(0);
    for (n, &pfn) in places.iter().enumerate() {
        match got.get(n).filter(|_| n < filled) {
            Some(&mfn) => fill(pfn, mfn),
            // There is room: they stood there.
            None => given.push(pfn),
        }
    }
    filled == places.len()
}

/// Shows frame `mfn` at the place of `pfn`, for whoever wants a page.
fn fill(pfn: Pfn, mfn: u64) {
    let Some(mfn) = super::Mfn::new(mfn) else { return };
    // SAFETY: nothing is mapped there, and the frame is new.
    match unsafe { hypercall::update_va_mapping(pfn.address(), Rights::Data.entry(mfn.maddr())) } {
        Ok(()) => {
            p2m::set(pfn, Some(mfn));
            frames::release(pfn);
        }
        // It stays taken.
        Err(error) => log::error!("a page of the balloon cannot be mapped: {error}"),
    }
}
