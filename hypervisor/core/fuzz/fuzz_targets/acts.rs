//! Hostile guests, led by the fuzzer's bytes: no law of the hypervisor may break, and nothing may panic.
#![no_main]

use bulkhead_core::testing::{Choices, Stage, StageConfig};
use libfuzzer_sys::fuzz_target;

/// As in the random histories of the tests, but that CPUs take turns: each byte then leads to an act of its own.
const STAGE: StageConfig = StageConfig {
    guests: 2,
    cpus: 2,
    interleaving: 0,
};

/// How many acts pass between two looks at all laws.
const LOOK: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let stage = Stage::new(STAGE, Choices::Bytes(bytes.iter().copied().collect()));
    while !stage.is_over() {
        for _ in 0..LOOK {
            stage.step();
        }
        stage.invariants();
    }
});
