//! Hostile guests, led by the fuzzer's bytes: no law of the hypervisor may break, and nothing may panic.
//!
//! `BULKHEAD_CALLS` says after how many hypercalls the target is content, and ends.
#![no_main]

use bulkhead_core::testing::{Choices, Stage, StageConfig};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// As in the random histories of the tests, but that CPUs take turns: each byte then leads to an act of its own.
const STAGE: StageConfig = StageConfig {
    guests: 2,
    cpus: 2,
    interleaving: 0,
};

/// How many acts pass between two looks at all laws: what breaks one leaves a trace that lasts, and looks take most of the time.
const LOOK: usize = 128;

/// How many hypercalls make a line.
const LEG: u64 = 1_000_000;

unsafe extern "C" {
    /// Ends the process at once. The fuzzer takes an end that runs exit handlers for a crash.
    fn _exit(status: i32) -> !;
}

/// How many acts there were, and how many of them were hypercalls.
static ACTS: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

/// How many hypercalls are enough.
static ENOUGH: LazyLock<u64> = LazyLock::new(|| {
    let wanted = std::env::var("BULKHEAD_CALLS").ok();
    wanted.map_or(u64::MAX, |calls| calls.parse().expect("BULKHEAD_CALLS is a number"))
});

fuzz_target!(|bytes: &[u8]| {
    let stage = Stage::new(STAGE, Choices::Bytes(bytes.iter().copied().collect()));
    while !stage.is_over() {
        let mut left = LOOK;
        // What comes after the last byte is no history of the fuzzer's.
        while left > 0 && !stage.is_over() {
            stage.step();
            left -= 1;
        }
        stage.invariants();
    }
    count(&stage);
});

/// Counts what the guests did, says so now and then, and ends the target when it is enough.
fn count(stage: &Stage) {
    let acts = ACTS.fetch_add(stage.acts() as u64, Ordering::Relaxed) + stage.acts() as u64;
    let score = stage.score();
    let calls = score.paging.1 + score.other.1;
    let before = CALLS.fetch_add(calls, Ordering::Relaxed);
    let calls = before + calls;
    if before / LEG != calls / LEG {
        eprintln!("{calls} hypercalls in {acts} acts");
    }
    if calls >= *ENOUGH {
        eprintln!("enough: {calls} hypercalls in {acts} acts, and no law was broken");
        // SAFETY: it ends the process, and returns to nobody.
        unsafe { _exit(0) };
    }
}
