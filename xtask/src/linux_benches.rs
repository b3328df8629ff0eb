//! The benchmarks of Linux: Debian's kernel as a guest, beside the same elsewhere.

use std::time::Duration;

use crate::benches::{Bench, CONTROL, Elsewhere, bench};
use crate::bootlist::{Domain, Ramdisk};
use crate::console::{Pattern, Step};
use crate::disks::{Controller, Disk};
use crate::linux::{LINUX, VMLINUZ};
use crate::net_benches::FAR_END;
use crate::net_tests::{DRIVER, kept, network};
use crate::qemu::Nic;

/// What concerns the processor alone. The guest's console is the hypervisor's.
const PROGRAMS: Bench = Bench {
    elsewhere: Some(Elsewhere {
        ramdisk: Ramdisk::LinuxBench,
        memory_mib: 256,
        command_line: "rdinit=/bench quiet printk.time=0 printk.devkmsg=on",
    }),
    limit: Duration::from_secs(1200),
    ..bench(
        "linux-cpu",
        "what Debian's kernel takes for what programs ask of it, on the bare machine, as a guest, and as a guest of Xen",
        &[
            Domain::new("hello", "hello"),
            Domain::new("linux", LINUX)
                .linux_bench()
                .memory("256M")
                .command_line(
                    "earlyprintk=xen,keep console=hvc0 rdinit=/bench quiet printk.time=0 printk.devkmsg=on",
                ),
        ],
    )
};

/// What is measured of devices.
const OF_DEVICES: [&str; 3] = ["packet-out", "packet-in", "read-4k"];

/// A guest with a disk and a network behind a driver domain, which measures one after the other while the control domain looks at what the driver has cost.
fn devices() -> Bench {
    const GUEST: &str = r#"
[[guest]]
name = "linux"
kernel = "vmlinuz"
ramdisk = "linux-bench.cpio"
memory = "256M"
disk = ["web-data:rw"]
network = ["red"]
console = "print"
command-line = "console=hvc0 quiet printk.time=0 printk.devkmsg=on work=devices peer=192.0.2.1:5000"
"#;
    let look = [
        Step::Type("info io --json\n"),
        Step::Expect(Pattern("\"name\":\"io\"*\"hypervisor_ns\"")),
    ];
    let mut steps = vec![Step::Expect(Pattern("\"event\":\"control-ready\""))];
    for name in OF_DEVICES {
        for mark in ["begins", "ends"] {
            let mark = format!("(linux) MARK linux-{name} {mark}");
            steps.push(Step::Expect(Pattern(mark.leak())));
            steps.extend(look);
        }
    }
    steps.push(Step::Expect(Pattern("(linux) CHECK devices-measures ok")));
    steps.push(Step::Type("poweroff --force\n"));
    let mut made = bench(
        "linux-devices",
        "what a packet of 1500 bytes, out to the wire and in, and a read of 4 KiB take a Linux guest, and its driver",
        CONTROL,
    );
    made.scenario.words = &["loglevel=warn"];
    made.scenario.machine.memory = "1G";
    made.scenario.machine.nic = Nic::Virtio;
    made.scenario.disks = const { &[Disk::new(Controller::Virtio, &[("web-data", 64)])] };
    made.scenario.offer.config = kept(&[
        &DRIVER.replace("\"net\"", "\"net\", \"block\""),
        &network("red", 1, "nat", "accept nat from red to uplink"),
        GUEST,
    ]);
    made.scenario.offer.images = &[VMLINUZ, "driver"];
    made.scenario.offer.ramdisks = &[Ramdisk::LinuxBench];
    Bench {
        steps: steps.leak(),
        peer: Some(FAR_END),
        served_by: "io",
        limit: Duration::from_secs(600),
        ..made
    }
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = Bench> {
    [PROGRAMS, devices()].into_iter()
}
