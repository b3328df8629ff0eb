//! A scenario: the machine that QEMU is to be, and the domains that boot on it.
//!
//! Tests and benchmarks each have one; [`EXAMPLE`] is what `cargo xtask run` boots.

use crate::bootlist::Domain;
use crate::qemu::Machine;

/// A machine and what boots on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// Names the scenario and its boot archive; unique among all scenarios.
    pub(crate) name: &'static str,
    /// The machine.
    pub(crate) machine: Machine<'static>,
    /// Words for the hypervisor's command line.
    pub(crate) words: &'static [&'static str],
    /// The domains, domain 0 first.
    pub(crate) domains: &'static [Domain],
}

/// The machine that `cargo xtask run` boots.
pub(crate) const EXAMPLE: Scenario = Scenario {
    name: "example",
    machine: Machine::DEFAULT,
    words: &[],
    domains: &[Domain::new("control", "control").memory("64M")],
};
