//! The benchmarks: what boots to measure itself.
//!
//! To add one, add an entry to [`BENCHES`]. Its guests report each figure as a line
//! `BENCH name value unit [instructions=N]` and power off.

use std::time::Duration;

use crate::bootlist::Domain;
use crate::qemu::Machine;
use crate::scenario::Scenario;

/// One benchmark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bench {
    /// What it measures.
    pub(crate) about: &'static str,
    /// The machine and its domains.
    pub(crate) scenario: Scenario,
    /// How long one run may take.
    pub(crate) limit: Duration,
}

/// Every benchmark.
pub(crate) const BENCHES: &[Bench] = &[Bench {
    about: "the crossings between guest and hypervisor",
    scenario: Scenario {
        name: "crossings",
        machine: Machine::DEFAULT,
        words: &[],
        domains: &[
            Domain::new("bench", "bench").command_line("role=bench peer=1"),
            Domain::new("peer", "bench").command_line("role=peer peer=0"),
        ],
    },
    limit: Duration::from_secs(120),
}];
