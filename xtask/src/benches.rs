//! The benchmarks: what boots to measure itself.
//!
//! To add one, add an entry to [`BENCHES`]. Its guests report each figure as a line
//! `BENCH name value unit` and power off.

use std::sync::LazyLock;
use std::time::Duration;

use crate::bootlist::{Domain, Ramdisk};
use crate::console::{Pattern, Step};
use crate::disks::{Controller, Disk};
use crate::linux_benches;
use crate::machine_tests::{Outside, UNTIL_ALL_ENDED, WITH_DIRECT_GATES};
use crate::net_benches;
use crate::qemu::Nic;
use crate::scenario::Scenario;

/// One benchmark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bench {
    /// What it measures.
    pub(crate) about: &'static str,
    /// The machine and its domains.
    pub(crate) scenario: Scenario<'static>,
    /// What is awaited and typed on its console.
    pub(crate) steps: &'static [Step],
    /// Who is at the other end of its NIC's wire.
    pub(crate) peer: Option<Outside>,
    /// What is measured beside it without Bulkhead.
    pub(crate) elsewhere: Option<Elsewhere>,
    /// Who serves its guest, if the guest marks what is to be measured of that; empty if nobody does. What that costs is the same by whatever clock.
    pub(crate) served_by: &'static str,
    /// Whether the sizes of its images are among its figures.
    pub(crate) weighs: bool,
    /// How long one run may take.
    pub(crate) limit: Duration,
}

/// Debian's kernel on the bare machine, and as a guest of Xen: the same, with as much memory as the guest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elsewhere {
    pub(crate) ramdisk: Ramdisk<'static>,
    pub(crate) memory_mib: u32,
    /// Without its console.
    pub(crate) command_line: &'static str,
}

/// A benchmark of these domains on the default machine.
pub(crate) const fn bench(
    name: &'static str,
    about: &'static str,
    domains: &'static [Domain<'static>],
) -> Bench {
    Bench {
        about,
        scenario: Scenario {
            words: UNTIL_ALL_ENDED,
            ..Scenario::new(name, domains)
        },
        steps: &[],
        peer: None,
        elsewhere: None,
        served_by: "",
        weighs: false,
        limit: Duration::from_secs(120),
    }
}

impl Bench {
    /// On another CPU model than the default.
    const fn cpu(mut self, cpu: &'static str) -> Self {
        self.scenario.machine.cpu = cpu;
        self
    }
}

/// On a machine that need not be safe with direct gates: it is only measured.
const GATES: Bench = bench(
    "gates",
    "a guest's software interrupt to its own handler and back, through the hypervisor and without it",
    &[Domain::new("gates", "bench").command_line("role=gates")],
);

/// A processor with AVX.
const WITH_AVX: &str = "max,la57=off";

const SWITCH: Bench = bench(
    "switch",
    "a switch from one domain to another, with the FPU (FXSAVE) of neither, one or both",
    &[
        Domain::new("switch", "bench").command_line("role=switch peer=1"),
        Domain::new("switched", "bench").command_line("role=switched peer=0"),
    ],
);

const SWITCH_AVX: Bench = bench(
    "switch-avx",
    "a switch from one domain to another, with the FPU (XSAVE, AVX) of neither, one or both",
    &[
        Domain::new("switch", "bench").command_line("role=switch peer=1 fpu=avx"),
        Domain::new("switched", "bench").command_line("role=switched peer=0 fpu=avx"),
    ],
);

const SWITCH_VCPUS: Bench = bench(
    "switch-vcpus",
    "a switch from one vCPU to another of the same domain, with the FPU (FXSAVE) of neither, one or both",
    &[Domain::new("switch", "bench")
        .vcpus(2)
        .command_line("role=switch-vcpus")],
);

const SWITCH_VCPUS_AVX: Bench = bench(
    "switch-vcpus-avx",
    "a switch from one vCPU to another of the same domain, with the FPU (XSAVE, AVX) of neither, one or both",
    &[Domain::new("switch", "bench")
        .vcpus(2)
        .command_line("role=switch-vcpus fpu=avx")],
);

/// Every benchmark.
pub(crate) static BENCHES: LazyLock<Vec<Bench>> = LazyLock::new(|| {
    let made = [service_domains(), create(), DISK, DISK_NVME];
    TABLE
        .iter()
        .copied()
        .chain(made)
        .chain(net_benches::all())
        .chain(linux_benches::all())
        .collect()
});

/// The control domain, which says what happens to domains.
pub(crate) const CONTROL: &[Domain<'static>] = &[Domain::new("control", "control")
    .memory("32M")
    .command_line("events")];

/// Both service domains, with as little memory as they work with, and their devices.
fn service_domains() -> Bench {
    const DOMAINS: &[Domain<'static>] = &[Domain::new("control", "control")
        .memory("16M")
        .command_line("events")];
    const CONFIG: &str = r#"
[[driver]]
name = "io"
devices = ["00:03.0", "00:04.0"]
memory = "8M"
command-line = "timed"
console = "print"
"#;
    let mut made = bench(
        "service-domains",
        "from the machine's reset to a driver of 8 MiB, beside a control domain of 16 MiB, that is ready to serve disks and networks; the size of all images",
        DOMAINS,
    );
    made.scenario.words = &["loglevel=warn"];
    made.scenario.machine.nic = Nic::Virtio;
    made.scenario.offer.config = CONFIG;
    made.scenario.offer.images = &["driver"];
    made.scenario.disks = const { &[Disk::new(Controller::Virtio, &[("web-data", 64)])] };
    Bench {
        steps: &[
            Step::ExpectAll(&[
                Pattern("BENCH clock-to-driver-ready"),
                Pattern("\"event\":\"control-ready\""),
            ]),
            Step::Type("poweroff --force\n"),
        ],
        weighs: true,
        ..made
    }
}

/// How many guests [`create`] makes.
const GUESTS: u32 = 100;

/// A hundred guests of 4 MiB, each made when the one before has printed its first line.
fn create() -> Bench {
    let mut steps = vec![Step::Expect(Pattern("\"event\":\"control-ready\""))];
    for guest in 1..=GUESTS {
        let name = format!("d{guest:03}");
        let command = format!("create {name} kernel=resident memory=4M console=print command-line=bench\n");
        steps.push(Step::Type(command.leak()));
        steps.push(Step::Expect(Pattern(format!("BENCH create.{name}").leak())));
    }
    steps.push(Step::Type("poweroff --force\n"));
    let mut made = bench(
        "create",
        "from the command that makes a guest of 4 MiB to its first line, for the first to the hundredth",
        CONTROL,
    );
    made.scenario.words = &["loglevel=warn"];
    made.scenario.machine.memory = "2G";
    made.scenario.offer.images = &["resident"];
    Bench {
        steps: steps.leak(),
        limit: Duration::from_secs(600),
        ..made
    }
}

/// A driver that measures its disk, and a guest that does so with a part of it.
const DISK: Bench = disk(
    "disk-throughput",
    "what a virtio disk does for its driver alone (raw), and for a guest through a ring",
    &[Disk::new(Controller::Virtio, &[("web-data", 64)])],
);
const DISK_NVME: Bench = disk(
    "disk-throughput-nvme",
    "what an NVMe disk does for its driver alone (raw), and for a guest through a ring",
    &[Disk::new(Controller::Nvme, &[("web-data", 64)])],
);

const DISK_CONFIG: &str = r#"
[[driver]]
name = "io"
devices = ["00:04.0"]
command-line = "measure"
console = "print"

[[guest]]
name = "web"
kernel = "disk"
memory = "16M"
disk = ["web-data:rw"]
command-line = "do=bench mib=63 seconds=2"
console = "print"
"#;

const fn disk(name: &'static str, about: &'static str, disks: &'static [Disk<'static>]) -> Bench {
    let mut made = bench(name, about, CONTROL);
    made.scenario.words = &["loglevel=warn"];
    made.scenario.offer.config = DISK_CONFIG;
    made.scenario.offer.images = &["driver", "disk"];
    made.scenario.disks = disks;
    made.steps = &[
        Step::Expect(Pattern("(web) CHECK disk-closes ok")),
        Step::Type("poweroff --force\n"),
    ];
    made
}

/// Those that stand in a table.
const TABLE: &[Bench] = &[
    bench(
        "boot-time",
        "from the machine's reset, and from the start of the hypervisor's clock, to domain 0",
        &[Domain::new("boot", "bench")
            .memory("64M")
            .command_line("role=boot")],
    ),
    bench(
        "crossings",
        "what one guest pays to cross into the hypervisor and back, and how late its timers are",
        &[Domain::new("bench", "bench")],
    ),
    Bench {
        scenario: Scenario {
            words: WITH_DIRECT_GATES,
            ..GATES.scenario
        },
        ..GATES
    },
    bench(
        "memory",
        "what a guest pays to change its page tables, its address space, and how much memory it has",
        &[Domain::new("memory", "bench")
            .memory("64M")
            .command_line("role=memory")],
    ),
    bench(
        "pair",
        "an event from one domain to another and back, or to the task that waits for it; a switch and back",
        &[
            Domain::new("bench", "bench").command_line("role=bench peer=1"),
            Domain::new("peer", "bench").command_line("role=peer peer=0"),
        ],
    ),
    bench(
        "grants",
        "what a domain pays to use another's pages: mapped, held for a device, copied; to give frames; singly and 32 at a time",
        &[
            Domain::new("grants", "bench").command_line("role=grants peer=1"),
            Domain::new("granted", "bench").command_line("role=granted peer=0"),
        ],
    ),
    bench(
        "domains",
        "what the control domain pays to make a domain, without memory and with 1026 frames, and to destroy it",
        &[Domain::new("control", "bench")
            .memory("32M")
            .command_line("role=domains")],
    ),
    SWITCH,
    SWITCH_AVX.cpu(WITH_AVX),
    SWITCH_VCPUS,
    SWITCH_VCPUS_AVX.cpu(WITH_AVX),
    bench(
        "contention",
        "how late the timers of the control domain are while another has the CPU",
        &[
            Domain::new("bench", "bench").command_line("role=beside-hog peer=1"),
            Domain::new("hog", "bench").command_line("role=hog peer=0"),
        ],
    ),
];
