//! The machine tests of what confines devices, with domains that own some.
//!
//! Virtio devices go through QEMU's IOMMU only if they are told to: [`crate::disks`] does so on a machine that has one.

use crate::bootlist::Domain;
use crate::console::{Pattern, Step};
use crate::disks::{Controller, Disk};
use crate::machine_tests::{ALWAYS_FORBIDDEN, InFull, MachineTest, expect, test};
use crate::qemu::IOMMU;
use crate::scenario::Offer;

/// The control domain as the example has it, which says besides what happens to domains.
const CONTROL: &[Domain<'static>] = &[Domain::new("control", "control")
    .memory("32M")
    .command_line("events")];

const READY: Step = expect("@bulkhead {\"event\":\"control-ready\"");
const OFF: Step = Step::Type("poweroff --force\n");

/// A driver domain, and a guest for each of its disks.
const DISKS: &str = r#"
[[driver]]
name = "io"
devices = ["block"]

[[guest]]
name = "one"
kernel = "disk"
memory = "16M"
disk = ["first:rw"]
command-line = "do=write-verify mib=16"
console = "print"

[[guest]]
name = "two"
kernel = "disk"
memory = "16M"
disk = ["second:rw"]
command-line = "do=write-verify mib=16"
console = "print"
"#;

const DISKS_STEPS: &[Step] = &[
    expect("(bh) INFO*interrupts of devices are confined"),
    expect("(bh) INFO*DMA is confined: "),
    Step::ExpectAll(&[
        Pattern("\"event\":\"control-ready\""),
        Pattern("(one) CHECK disk-write-verify ok"),
        Pattern("(two) CHECK disk-write-verify ok"),
        Pattern("\"event\":\"shutdown\",\"domain\":\"one\"*\"reason\":\"poweroff\""),
        Pattern("\"event\":\"shutdown\",\"domain\":\"two\"*\"reason\":\"poweroff\""),
    ]),
    Step::Type("driver list --json\n"),
    expect("\"dma_confined\":true,\"interrupts_confined\":true"),
    Step::Type("driver list\n"),
    expect("io*ready*00:04.0*virtio-blk* 0"),
    expect("00:05.0*nvme* 0"),
    expect("DMA is confined by the IOMMU; interrupts are confined."),
    // A successor has the disks as its predecessor had them.
    Step::Type("driver restart io\n"),
    expect("io*is"),
    Step::Type("driver list\n"),
    expect("00:05.0* 0"),
    OFF,
];

/// A test of what the control domain makes of `config` on a machine with this IOMMU.
const fn confined(
    name: &'static str,
    iommu: &'static str,
    config: &'static str,
    images: &'static [&'static str],
    steps: &'static [Step],
) -> MachineTest {
    let mut made = test(name, CONTROL).iommu(iommu).steps(steps).words(&[]);
    made.scenario.offer = Offer {
        config,
        images,
        ramdisks: &[],
    };
    made.in_full(InFull::Once)
}

const TWO_DISKS: &[Disk<'static>] = &[
    Disk::new(Controller::Virtio, &[("first", 16)]),
    Disk::new(Controller::Nvme, &[("second", 16)]),
];

/// What no console may show where every device does what it should.
const NOTHING_BLOCKED: &[Pattern] = &[ALWAYS_FORBIDDEN[0], Pattern("is blocked")];

/// Disks behind the IOMMU are served as without, and nothing is blocked.
const fn disks(name: &'static str, iommu: &'static str) -> MachineTest {
    let mut made = confined(name, iommu, DISKS, &["driver", "disk"], DISKS_STEPS);
    made.scenario.disks = TWO_DISKS;
    made.expected.script.forbidden = NOTHING_BLOCKED;
    made
}

/// All of them.
pub(crate) const IOMMU_TESTS: &[MachineTest] = &[
    disks("iommu-disk", IOMMU),
    // The unit remembers what is not there.
    disks("iommu-disk-caching", "intel-iommu,caching-mode=on,aw-bits=48"),
];
