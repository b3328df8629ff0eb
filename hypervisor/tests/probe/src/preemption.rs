//! Long work lets events through: a pin that takes long is interrupted between two of its goes.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::{
    calls::Answer,
    frames::{Frame, READ_ONLY, TABLE},
    pins::{pin, unpin},
    probe::Probe,
    sched::{now, set_timer},
    shared::Shared,
    window::Window,
};

/// How many events have been delivered to [the callback](crate::traps).
pub(crate) static UPCALLS: AtomicU64 = AtomicU64::new(0);
/// How many of them between two goes of one hypercall on a list.
pub(crate) static BETWEEN_GOES: AtomicU64 = AtomicU64::new(0);

/// Level-1 tables in the tree, each full.
const TABLES: usize = 64;
/// How often it is pinned, with the timer set later and later.
const ROUNDS: u64 = 16;

/// How long a running guest waits for its timer.
const PATIENCE_NS: u64 = 1_000_000_000;

pub(crate) fn check(probe: &mut Probe, window: &mut Window, shared: Shared) {
    running(probe, shared);
    pinning(probe, window, shared);
}

/// A guest that does not rest is interrupted too.
fn running(probe: &mut Probe, shared: Shared) {
    let before = counted(&UPCALLS);
    let set = set_timer(0, now().wrapping_add(1_000_000), 0);
    shared.with_events(|| await_upcall(before));
    let came = counted(&UPCALLS).wrapping_sub(before);
    let result = if set == Ok(0) && came == 1 {
        Ok(())
    } else {
        Err((set, came))
    };
    probe.law("a-running-guest-is-interrupted-by-its-timer", result);
}

/// Runs until more than `before` events have been delivered, or for too long.
fn await_upcall(before: u64) {
    let start = now();
    while counted(&UPCALLS) == before && now().wrapping_sub(start) < PATIENCE_NS {
        core::hint::spin_loop();
    }
}

fn pinning(probe: &mut Probe, window: &mut Window, shared: Shared) {
    let tables = tree(window);
    let Some(root) = tables.last() else { return };
    let first = [pin(3, root.mfn()), unpin(root.mfn())];
    // The first time all the frames change their types, which takes longer than later on.
    let start = now();
    let alone = [pin(3, root.mfn()), unpin(root.mfn())];
    let took = now().wrapping_sub(start);
    let is_good = [first, alone] == [[Ok(0); 2]; 2];
    probe.law(
        "a-large-tree-can-be-pinned",
        if is_good { Ok(()) } else { Err([first, alone]) },
    );

    let (all_before, between_before) = (counted(&UPCALLS), counted(&BETWEEN_GOES));
    let mut answers: [Answer; 2] = [Ok(0); 2];
    for round in 1..=ROUNDS {
        let delay = took.wrapping_mul(round) / ROUNDS;
        let before = counted(&UPCALLS);
        let made = shared.with_events(|| {
            let set = set_timer(0, now().wrapping_add(delay), 0);
            let made = [set.and_then(|_| pin(3, root.mfn())), unpin(root.mfn())];
            await_upcall(before);
            made
        });
        if made != [Ok(0); 2] {
            answers = made;
        }
    }
    let upcalls = counted(&UPCALLS).wrapping_sub(all_before);
    let between = counted(&BETWEEN_GOES).wrapping_sub(between_before);
    let result = if answers == [Ok(0); 2] && between != 0 {
        Ok(())
    } else {
        Err((answers, upcalls, between, took))
    };
    probe.law("a-pin-lets-the-timer-through", result);
    let every = if upcalls == ROUNDS { Ok(()) } else { Err(upcalls) };
    probe.law("no-timer-is-lost-while-tables-are-pinned", every);
}

fn counted(counter: &AtomicU64) -> u64 {
    // The callback runs on this vCPU, in between.
    counter.load(Ordering::Relaxed)
}

/// A level-3 table, last, and all the tables under it.
fn tree(window: &Window) -> alloc::vec::Vec<Frame> {
    let mut tables: alloc::vec::Vec<Frame> = (0..TABLES)
        .map(|_| Frame::table(&[window.level1.entry(READ_ONLY); 512]))
        .collect();
    let mut entries = [0; TABLES];
    for (entry, table) in entries.iter_mut().zip(&tables) {
        *entry = table.entry(TABLE);
    }
    let level2 = Frame::table(&entries);
    let level3 = Frame::table(&[level2.entry(TABLE)]);
    tables.push(level2);
    tables.push(level3);
    tables
}
