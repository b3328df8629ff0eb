//! Frames that change hands, by the bare hypercalls: transferred, and flipped for others, singly and 32 at a time.
//!
//! The other side is a domain that is made for the purpose and does not run: its entries are written anew for each turn, outside of what
//! is measured. The frames are mapped nowhere.

use alloc::{vec, vec::Vec};

use bulkhead_abi::{
    Buffered, DomId, Hypercall, Record,
    control::CreateDomain,
    grant::{Flip, GTF_ACCEPT_TRANSFER, GTF_FLIP, GrantEntry, GrantStatus, GrantTableOp},
    memory::{MemoryOp, MemoryReservation},
};
use bulkhead_runtime::{Failure, domains, hypervisor::raw_call};

use super::{BATCH, FIRST};
use crate::measure::{Cost, RUNS};

/// How often so many frames change hands in a run.
const TURNS: u64 = 10;
/// This domain.
const OWN: DomId = DomId::new(0);

/// Measures transfers and flips.
pub(super) fn measure_all() {
    let own = must(domains::info(OWN));
    must(domains::set_limit(OWN, own.limit.saturating_add(BATCH as u64)));
    let mut receiver = Receiver::new();
    flip("flip", 1, &mut receiver);
    flip("flip-of-32", BATCH, &mut receiver);
    transfer("transfer", 1, &receiver);
    transfer("transfer-of-32", BATCH, &receiver);
    must(domains::destroy(receiver.domain));
}

/// Who gets frames.
struct Receiver {
    domain: DomId,
    /// The first frame of its grant table.
    table: u64,
    /// What it offers.
    frames: Vec<u64>,
}

impl Receiver {
    fn new() -> Self {
        let domain = must(domains::create(&CreateDomain {
            domain: DomId::INVALID,
            weight: 256,
            vcpus: 1,
            limit: BATCH.saturating_mul(2) as u64,
            cpus: u64::MAX,
            ..CreateDomain::ZERO
        }));
        let mut table = [0];
        must(domains::grant_table(domain, &mut table));
        let [table] = table;
        let mut frames: Vec<u64> = (0..BATCH as u64).collect();
        assert_eq!(
            must(domains::populate(domain, &mut frames, 0)),
            BATCH as u64,
            "there is memory"
        );
        Self {
            domain,
            table,
            frames,
        }
    }

    /// Accepts frames from this domain, by entries with these flags.
    fn accept(&self, flags: u16) {
        let entries = self.frames.iter().flat_map(|&frame| {
            let frame = u32::try_from(frame).unwrap_or(u32::MAX);
            GrantEntry {
                flags,
                domid: OWN,
                frame,
            }
            .to_bytes()
        });
        let bytes: Vec<u8> = entries.collect();
        must(domains::write(
            self.domain,
            self.table,
            FIRST.wrapping_mul(8),
            &bytes,
        ));
    }

    /// What gives it `frames`.
    fn gifts(&self, frames: &[u64]) -> Vec<Flip> {
        let gift = |(gref, &mfn): (u32, &u64)| Flip {
            mfn,
            domid: self.domain,
            gref,
            ..Flip::ZERO
        };
        (FIRST..).zip(frames).map(gift).collect()
    }
}

/// Flips frames of this domain's for the receiver's, and back.
fn flip(name: &str, batch: usize, receiver: &mut Receiver) {
    let mut ours = vec![0; BATCH];
    reserve(MemoryOp::IncreaseReservation, OWN, &mut ours);
    measure(name, || {
        receiver.accept(GTF_ACCEPT_TRANSFER | GTF_FLIP);
        let mut gifts = receiver.gifts(&ours);
        let cost = give(GrantTableOp::Flip, &mut gifts, batch);
        // Each has what the other had.
        core::mem::swap(&mut ours, &mut receiver.frames);
        assert!(
            gifts.iter().map(|gift| &gift.mfn).eq(&ours),
            "a frame came that was not offered"
        );
        cost
    });
    reserve(MemoryOp::DecreaseReservation, OWN, &mut ours);
}

/// Transfers new frames of this domain's to the receiver, which gives them back to the machine.
fn transfer(name: &str, batch: usize, receiver: &Receiver) {
    measure(name, || {
        let mut frames = vec![0; BATCH];
        reserve(MemoryOp::IncreaseReservation, OWN, &mut frames);
        receiver.accept(GTF_ACCEPT_TRANSFER);
        let cost = give(GrantTableOp::Transfer, &mut receiver.gifts(&frames), batch);
        reserve(MemoryOp::DecreaseReservation, receiver.domain, &mut frames);
        cost
    });
}

/// Measures what `turn` says that it cost to give [`BATCH`] frames: the best of several runs.
fn measure(name: &str, mut turn: impl FnMut() -> Cost) {
    let mut best = Cost::MAX;
    for run in 0..=RUNS {
        let mut cost = Cost::NONE;
        (0..TURNS).for_each(|_| cost.add(&turn()));
        best = best.or_better(run, cost);
    }
    best.report(name, TURNS.saturating_mul(BATCH as u64));
}

/// Gives frames, so many by one hypercall. The records of both operations are alike.
fn give(op: GrantTableOp, gifts: &mut [Flip], batch: usize) -> Cost {
    let cost = Cost::of(|| {
        for list in gifts.chunks_mut(batch) {
            let arguments = [op.raw().into(), address(list), list.len() as u64, 0, 0];
            // SAFETY: the hypervisor reads and writes the list, which is borrowed for the call. The frames are mapped nowhere.
            let answer = unsafe { raw_call(Hypercall::GrantTableOp.raw(), arguments) };
            assert_eq!(answer, 0, "a list was refused");
        }
    });
    let is_given = |gift: &Flip| gift.status == GrantStatus::Okay.raw();
    assert!(gifts.iter().all(is_given), "a frame was refused: {gifts:?}");
    cost
}

/// Takes frames for a domain, or gives them back.
fn reserve(op: MemoryOp, domain: DomId, frames: &mut [u64]) {
    let reservation = MemoryReservation {
        extent_start: address(frames),
        nr_extents: frames.len() as u64,
        domid: domain,
        ..MemoryReservation::ZERO
    };
    let arguments = [
        op.raw().into(),
        core::ptr::from_ref(&reservation).expose_provenance() as u64,
        0,
        0,
        0,
    ];
    // SAFETY: the hypervisor reads the reservation, and reads or writes the list; both are borrowed for the call. The frames are new, or
    // mapped nowhere.
    let done = unsafe { raw_call(Hypercall::MemoryOp.raw(), arguments) };
    assert_eq!(
        done,
        frames.len() as u64,
        "not all frames were taken, or given back"
    );
}

fn address<T>(list: &mut [T]) -> u64 {
    list.as_mut_ptr().expose_provenance() as u64
}

#[track_caller]
fn must<T>(result: Result<T, Failure>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("refused: {error}"),
    }
}
