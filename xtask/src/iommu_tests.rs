//! The machine tests of what confines devices, with domains that own some.
//!
//! Virtio devices go through QEMU's IOMMU only if they are told to: [`crate::disks`] does so on a machine that has one.

use std::time::Duration;

use crate::bootlist::Domain;
use crate::console::{Pattern, Step};
use crate::disks::{Controller, Disk};
use crate::machine_tests::{InFull, MachineTest, expect, test};
use crate::qemu::IOMMU;
use crate::scenario::Offer;

/// The control domain as the example has it, which says besides what happens to domains.
const CONTROL: &[Domain<'static>] = &[Domain::new("control", "control")
    .memory("32M")
    .command_line("events")];

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
const NOTHING_BLOCKED: &[Pattern] = &[Pattern("panicked"), Pattern("is blocked")];

/// Disks behind the IOMMU are served as without, and nothing is blocked.
const fn disks(name: &'static str, iommu: &'static str) -> MachineTest {
    let mut made = confined(name, iommu, DISKS, &["driver", "disk"], DISKS_STEPS);
    made.scenario.disks = TWO_DISKS;
    made.expected.script.forbidden = NOTHING_BLOCKED;
    made
}

/// A driver domain whose device is QEMU's `edu`, which copies from and to wherever it is told, and a guest with half of the machine's memory.
const VILLAIN: &str = r#"
[[driver]]
name = "villain"
kernel = "dma"
devices = ["00:10.0"]
command-line = "shots=1000 ram=512"
console = "print"

[[guest]]
name = "neighbour"
kernel = "dma"
memory = "256M"
command-line = "role=neighbour fill=192 villain=1000"
console = "print"
"#;

/// The same, but the villain aims at one page of the neighbour's, which can only be in vain or harm that.
const VILLAIN_AT_ONE_PAGE: &str = r#"
[[driver]]
name = "villain"
kernel = "dma"
devices = ["00:10.0"]
command-line = "shots=20 ram=512 aim=lent unconfined"
console = "print"

[[guest]]
name = "neighbour"
kernel = "dma"
memory = "16M"
command-line = "role=neighbour fill=4 villain=1000 unconfined"
console = "print"
"#;

const VILLAIN_STEPS: &[Step] = &[
    expect("(bh) INFO*DMA is confined: "),
    Step::ExpectAll(&[
        Pattern("(villain) CHECK villain-reaches-its-own ok"),
        Pattern("(villain) CHECK villain-gives-frames-away ok"),
    ]),
    expect("(villain) villain: aims at 1000 places"),
    expect("(bh) WARN*d1000's 00:10.0: a write to 0x*is blocked: its domain may not write there"),
    expect("(bh) WARN*d1000's 00:10.0: a read from 0x*is blocked: its domain may not read there"),
    expect("(bh) WARN*d1000's 00:10.0: *; more are only counted"),
    Step::ExpectAll(&[
        Pattern("(villain) CHECK villain-has-read-nothing ok"),
        Pattern("(villain) villain: RESULT shots=1000"),
        Pattern("(neighbour) CHECK neighbour-saw-no-change ok"),
        Pattern("(neighbour) CHECK neighbour-memory-is-unchanged ok"),
        Pattern("(neighbour) CHECK neighbour-lent-page-was-written-while-lent ok"),
    ]),
    // Each of them, and nothing else, is the villain's.
    Step::Type("driver list --json\n"),
    expect("\"name\":\"villain\",\"id\":1000*\"faults\":1000,\"faults_silenced\":false"),
    Step::Type("driver list\n"),
    expect("villain*00:10.0* 1000"),
    OFF,
];

/// What the same shots do where nothing confines devices: the guest is harmed, and nobody knows by whom.
const UNCONFINED_STEPS: &[Step] = &[
    expect("(bh) WARN*DMA is not confined: the command line says iommu=off"),
    Step::ExpectAll(&[
        Pattern("(villain) CHECK villain-has-read-all-that-it-aimed-at ok"),
        Pattern("(neighbour) CHECK neighbour-lent-page-was-written-later ok"),
    ]),
    Step::Type("driver list\n"),
    expect("villain*00:10.0* 0"),
    expect("DMA is NOT confined: devices reach all memory; interrupts are NOT confined"),
    OFF,
];

/// A driver domain aims DMA where it should not.
const fn villain(name: &'static str, config: &'static str, steps: &'static [Step]) -> MachineTest {
    let mut made = confined(name, IOMMU, config, &["dma"], steps).leaping_time();
    made.scenario.machine.devices = &["edu,bus=pcie.0,addr=10.0,dma_mask=0xffffffff"];
    made.limit(Duration::from_secs(300))
}

/// A driver domain whose NIC is on QEMU's user network.
const NIC: &str = r#"
[[driver]]
name = "net"
kernel = "nic"
devices = ["00:10.0"]
command-line = "pings=1000"
console = "print"
"#;

const NIC_STEPS: &[Step] = &[
    expect("(bh) INFO*DMA is confined: "),
    expect("(net) nic: mtu 1500, 256 frames, 256 pages"),
    expect("(net) CHECK nic-has-a-link ok"),
    expect("(net) CHECK nic-page-holds-the-frame-alone ok"),
    expect("(net) CHECK nic-pings-come-back ok"),
    OFF,
];

/// A NIC behind the IOMMU, with pages of its own for headers, sends and receives, and nothing is blocked.
const fn nic(name: &'static str) -> MachineTest {
    let mut made = confined(name, IOMMU, NIC, &["nic"], NIC_STEPS);
    made.scenario.machine.devices =
        &["virtio-net-pci,netdev=net,bus=pcie.0,addr=10.0,disable-legacy=on,iommu_platform=on"];
    made.expected.script.forbidden = NOTHING_BLOCKED;
    made
}

/// All of them.
pub(crate) const IOMMU_TESTS: &[MachineTest] = &[
    disks("iommu-disk", IOMMU),
    // The unit remembers what is not there.
    disks("iommu-disk-caching", "intel-iommu,caching-mode=on,aw-bits=48"),
    nic("iommu-nic"),
    villain("iommu-villain", VILLAIN, VILLAIN_STEPS),
    villain("iommu-villain-unconfined", VILLAIN_AT_ONE_PAGE, UNCONFINED_STEPS).words(&["iommu=off"]),
];
