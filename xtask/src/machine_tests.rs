//! The machine tests: what boots, what its console must show, how it must end.
//!
//! To add one, add an entry to [`MACHINE_TESTS`]; a new guest is a directory below `hypervisor/tests/`. Lines of
//! domain 0 stand on the console as they are, those of domain N after `(dN) `, the hypervisor's own after
//! `(bh) LEVEL module: `.

use std::time::Duration;

use crate::bootlist::Domain;
use crate::console::{Pattern, Script, Step};
use crate::qemu::{Ending, Machine};
use crate::scenario::Scenario;
use crate::trial::Expectation;

/// One machine test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineTest {
    /// The machine and its domains.
    pub(crate) scenario: Scenario,
    /// What it must do.
    pub(crate) expected: Expectation,
}

/// What no console may show: the hypervisor in trouble, or a Rust guest that did not mean to be.
pub(crate) const ALWAYS_FORBIDDEN: &[Pattern] = &[Pattern("panicked")];

/// A test of these domains on the default machine: no script yet, a clean end within a minute.
const fn test(name: &'static str, domains: &'static [Domain]) -> MachineTest {
    MachineTest {
        scenario: Scenario {
            name,
            machine: Machine::DEFAULT,
            words: &[],
            domains,
        },
        expected: Expectation {
            script: Script {
                steps: &[],
                forbidden: ALWAYS_FORBIDDEN,
                checks: 0,
            },
            ending: Ending::Clean,
            limit: Duration::from_secs(60),
        },
    }
}

impl MachineTest {
    /// With these steps awaited on the console.
    const fn steps(mut self, steps: &'static [Step]) -> Self {
        self.expected.script.steps = steps;
        self
    }

    /// With at least this many checks reported by its guests.
    const fn checks(mut self, count: usize) -> Self {
        self.expected.script.checks = count;
        self
    }

    /// With another way to end than a clean one.
    const fn ends(mut self, ending: Ending) -> Self {
        self.expected.ending = ending;
        self
    }

    /// With this many CPUs.
    const fn cpus(mut self, count: u32) -> Self {
        self.scenario.machine.cpus = count;
        self
    }
}

const fn expect(text: &'static str) -> Step {
    Step::Expect(Pattern(text))
}

/// Domain 0 of tests in which another domain dies: it must live to say so.
const WITNESS: Domain = Domain::new("witness", "hello").command_line("witness");

/// What the hypervisor prints when domain 1 crashes.
const REPORT: &[Step] = &[Step::ExpectAll(&[
    Pattern("witness"),
    Pattern("(bh)*rip*"),
    Pattern("(bh)*backtrace"),
])];

/// Every machine test.
pub(crate) const MACHINE_TESTS: &[MachineTest] = &[
    // The control domain comes up, says what it is, and goes when told to.
    test(
        "boot",
        &[Domain::new("control", "control")
            .memory("64M")
            .command_line("once")],
    )
    .steps(&[expect("Bulkhead control domain")]),
    // One guest prints one line, which has its command line, and powers off.
    test(
        "hello",
        &[Domain::new("hello", "hello").command_line("greeting=ahoy")],
    )
    .steps(&[expect("greeting=ahoy")]),
    // Two domains bind an interdomain channel and send events back and forth.
    test(
        "events",
        &[
            Domain::new("server", "events").command_line("role=server peer=1"),
            Domain::new("client", "events").command_line("role=client peer=0"),
        ],
    )
    .checks(2),
    // The same with a vCPU of each domain on a CPU of its own.
    test(
        "events-2cpu",
        &[
            Domain::new("server", "events").command_line("role=server peer=1"),
            Domain::new("client", "events").command_line("role=client peer=0"),
        ],
    )
    .cpus(2)
    .checks(2),
    // A domain that reads address 0 dies with a report; domain 0 does not notice.
    test(
        "crash-null",
        &[WITNESS, Domain::new("victim", "crash").command_line("null")],
    )
    .steps(REPORT)
    .ends(Ending::DomainCrashed),
    // A privileged instruction is reflected, not executed; the guest has no handler that could go on.
    test(
        "crash-privileged",
        &[WITNESS, Domain::new("victim", "crash").command_line("privileged")],
    )
    .steps(REPORT)
    .ends(Ending::DomainCrashed),
    // With its stack gone, no exception can be delivered to a guest: the hypervisor must end it.
    test(
        "crash-stack-overflow",
        &[
            WITNESS,
            Domain::new("victim", "crash").command_line("stack-overflow"),
        ],
    )
    .steps(REPORT)
    .ends(Ending::DomainCrashed),
];

/// CPU models that `test --full` runs every test on besides: name for the test, QEMU's words.
///
/// `max` has nearly everything that QEMU emulates, Skylake is an Intel, EPYC an AMD with 1 GiB pages.
pub(crate) const OTHER_CPUS: &[(&str, &str)] = &[
    ("max", "max,la57=off"),
    ("skylake", "Skylake-Server"),
    ("epyc", "EPYC"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_test_is_content_with_nothing() {
        for test in MACHINE_TESTS {
            let script = test.expected.script;
            assert!(
                !script.steps.is_empty() || script.checks > 0,
                "{} expects nothing",
                test.scenario.name
            );
        }
    }
}
