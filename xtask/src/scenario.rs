//! A scenario: the machine that QEMU is to be, and the domains that boot on it.
//!
//! Tests and benchmarks each have one; [`EXAMPLE`] is what `cargo xtask run` boots unless it is given another.

use anyhow::{Result, anyhow};

use crate::benches::BENCHES;
use crate::bootlist::{Domain, Ramdisk};
use crate::disks::Disk;
use crate::loader::Loader;
use crate::machine_tests;
use crate::qemu::{Machine, Nic};

/// A machine and what boots on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario<'a> {
    /// Names the scenario and its boot archive; unique among all scenarios.
    pub(crate) name: &'a str,
    /// The machine.
    pub(crate) machine: Machine<'a>,
    /// Who loads the hypervisor.
    pub(crate) loader: Loader,
    /// Commands for GRUB to follow before it loads anything, one a line; they can take memory away.
    pub(crate) grub_script: &'a str,
    /// Words for the hypervisor's command line.
    pub(crate) words: &'a [&'a str],
    /// The domains, domain 0 first.
    pub(crate) domains: &'a [Domain<'a>],
    /// What the control domain finds in the boot archive.
    pub(crate) offer: Offer<'a>,
    /// The machine's disks.
    pub(crate) disks: &'a [Disk<'a>],
    /// Bytes of a file in the boot archive that nobody uses: it makes the archive big.
    pub(crate) ballast: usize,
}

/// What the control domain finds in the boot archive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer<'a> {
    /// Its configuration, `bulkhead.toml`; none if empty.
    pub(crate) config: &'a str,
    /// Images for its guests; Debian's kernel counts as one.
    pub(crate) images: &'a [&'a str],
    /// Ramdisks for its guests.
    pub(crate) ramdisks: &'a [Ramdisk<'a>],
}

impl Offer<'_> {
    /// It finds nothing.
    pub(crate) const NOTHING: Self = Self {
        config: "",
        images: &[],
        ramdisks: &[],
    };
}

impl<'a> Scenario<'a> {
    /// These domains on the default machine.
    pub(crate) const fn new(name: &'a str, domains: &'a [Domain<'a>]) -> Self {
        Self {
            name,
            machine: Machine::DEFAULT,
            loader: Loader::Pvh,
            grub_script: "",
            words: &[],
            domains,
            offer: Offer::NOTHING,
            disks: &[],
            ballast: 0,
        }
    }
}

/// The machine that `cargo xtask run` boots.
pub(crate) const EXAMPLE: Scenario<'static> = Scenario {
    machine: Machine {
        nic: Nic::Virtio,
        ..Machine::DEFAULT
    },
    offer: Offer {
        config: include_str!("../../driver-domain/control/bulkhead.toml"),
        images: &["resident", "driver", "httpd"],
        ramdisks: &[],
    },
    ..Scenario::new("example", &[Domain::new("control", "control").memory("32M")])
};

/// The guest that the example machine has besides where Debian's kernel can be had. It is started by its name: it takes longer than all others together.
pub(crate) const LINUX_EXAMPLE: &str = r#"
# Debian's kernel with a small system: `create linux`, and then `console linux`.
[[guest]]
name = "linux"
kernel = "vmlinuz"
ramdisk = "linux-system.cpio"
command-line = "console=hvc0 quiet"
memory = "256M"
vcpus = 2
network = ["red"]
autostart = false
"#;

/// Every scenario.
fn all() -> impl Iterator<Item = Scenario<'static>> {
    let tests = machine_tests::all().map(|test| test.scenario);
    let benches = BENCHES.iter().map(|bench| bench.scenario);
    [EXAMPLE].into_iter().chain(tests).chain(benches)
}

/// The scenario called `name`.
///
/// # Errors
///
/// If there is none; the message lists those that there are.
pub(crate) fn named(name: &str) -> Result<Scenario<'static>> {
    all().find(|scenario| scenario.name == name).ok_or_else(|| {
        let names: Vec<&str> = all().map(|scenario| scenario.name).collect();
        anyhow!("there is no scenario `{name}`; there are {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bulkhead_core::domains::boot_list;

    use super::*;
    use crate::bootlist;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_a_boot_list_that_the_hypervisor_reads() {
        let mut names = BTreeSet::new();
        for scenario in all() {
            assert!(names.insert(scenario.name), "{} is there twice", scenario.name);
            let list = bootlist::text(scenario.domains).unwrap();
            let entries: Vec<_> = boot_list::parse(&list).map(Result::unwrap).collect();
            assert_eq!(entries.len(), scenario.domains.len());
        }
    }

    #[test]
    fn the_example_with_linux_is_right() {
        let config = [EXAMPLE.offer.config, LINUX_EXAMPLE].concat();
        let config = bulkhead_config::parse(config.as_bytes()).unwrap();
        assert!(config.guests().iter().any(|guest| guest.name.as_str() == "linux"));
    }

    #[test]
    fn an_unknown_scenario_is_refused_with_the_list_of_known_ones() {
        assert_eq!(named("example").unwrap().domains.len(), EXAMPLE.domains.len());
        let message = named("no-such").unwrap_err().to_string();
        assert!(message.contains("example, "), "{message}");
    }
}
