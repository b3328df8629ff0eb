//! The machine tests: what boots, what its console must show, how it must end.
//!
//! To add one, add an entry to [`MACHINE_TESTS`] (or, if it is about how machines boot, to
//! [`BOOT_TESTS`]); a new guest is a directory below `hypervisor/tests/`. A test has
//! two CPUs unless its name says otherwise; what two would hide is tested with one besides.
//!
//! Lines of domain 0 stand on the console as they are, those of domain N after `(dN) `, the hypervisor's own after
//! `(bh) LEVEL module: `.

use std::time::Duration;

use anyhow::Result;

use crate::boot_tests::BOOT_TESTS;
use crate::bootlist::Domain;
use crate::console::{Pattern, Script, Step};
use crate::control_tests;
use crate::disk_tests;
use crate::disks::{DiskImage, Drive};
use crate::iommu_tests::IOMMU_TESTS;
use crate::linux::LINUX;
use crate::linux_tests;
use crate::loader::Loader;
use crate::net_tests;
use crate::peer::{Host, Peer};
use crate::qemu::{Clock, Ending, IOMMU, Machine};
use crate::scenario::Scenario;
use crate::trial::Expectation;

/// One machine test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MachineTest {
    /// The machine and its domains.
    pub(crate) scenario: Scenario<'static>,
    /// What it must do.
    pub(crate) expected: Expectation,
    /// Who is at the other end of the machine's NIC, if not QEMU's user network.
    pub(crate) peer: Option<Outside>,
    /// What must be true of what is left of the machine.
    pub(crate) holds: Option<Holds>,
    /// What the full matrix makes of it.
    pub(crate) in_full: InFull,
}

/// What is left of a machine that has ended as it should.
#[derive(Debug)]
pub(crate) struct Remains<'a> {
    /// The lines of its console.
    pub(crate) lines: &'a [String],
    /// Its disks.
    pub(crate) drives: &'a [Drive],
    /// What is on them.
    pub(crate) images: Vec<DiskImage>,
}

/// Says whether that is what it should be.
pub(crate) type Holds = fn(&mut Remains<'_>) -> Result<()>;

/// A host outside of the machine, and what it does: until the machine ends if it is not done before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outside {
    /// What it is to others.
    pub(crate) host: fn() -> Host,
    /// What it does.
    pub(crate) work: fn(&Peer) -> Result<()>,
}

/// What the full matrix makes of a test, beside the test itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InFull {
    /// Nothing more.
    Once,
    /// The test on every other CPU model.
    OnEveryCpu,
    /// The same, and nothing outside the full matrix: the test takes long.
    OnlyThere,
    /// The test on every combination of board, memory and CPU model.
    OnEveryMachine,
}

/// What no console may show: the hypervisor in trouble, or a Rust guest that did not mean to be.
pub(crate) const ALWAYS_FORBIDDEN: &[Pattern] = &[Pattern("panicked")];

/// Keeps the machine on after domain 0 has ended, until no domain is left to report anything.
pub(crate) const UNTIL_ALL_ENDED: &[&str] = &["end=last"];

/// The same, and guests may have direct gates, whether or not the machine is safe with them.
pub(crate) const WITH_DIRECT_GATES: &[&str] = &["end=last", "direct-gates=on"];

/// The same, and they may not.
const WITHOUT_DIRECT_GATES: &[&str] = &["end=last", "direct-gates=off"];

/// A test of these domains on the default machine with two CPUs: no script yet, a clean end within a minute.
pub(crate) const fn test(name: &'static str, domains: &'static [Domain<'static>]) -> MachineTest {
    MachineTest {
        scenario: Scenario {
            machine: Machine {
                cpus: 2,
                ..Machine::DEFAULT
            },
            words: UNTIL_ALL_ENDED,
            ..Scenario::new(name, domains)
        },
        expected: Expectation {
            script: Script {
                steps: &[],
                forbidden: ALWAYS_FORBIDDEN,
                checks: 0,
            },
            covers_hypercalls: false,
            ending: Ending::Clean,
            may_crash: false,
            limit: Duration::from_secs(60),
        },
        peer: None,
        holds: None,
        in_full: InFull::OnEveryCpu,
    }
}

impl MachineTest {
    /// With these steps awaited on the console.
    pub(crate) const fn steps(mut self, steps: &'static [Step]) -> Self {
        self.expected.script.steps = steps;
        self
    }

    /// With at least this many checks reported by its guests.
    pub(crate) const fn checks(mut self, count: usize) -> Self {
        self.expected.script.checks = count;
        self
    }

    /// With a check of every hypercall and of each of its errors, by the names of the hypervisor's table.
    const fn covers_hypercalls(mut self) -> Self {
        self.expected.covers_hypercalls = true;
        self
    }

    /// With another way to end than a clean one.
    pub(crate) const fn ends(mut self, ending: Ending) -> Self {
        self.expected.ending = ending;
        self
    }

    /// With another limit than a minute.
    pub(crate) const fn limit(mut self, limit: Duration) -> Self {
        self.expected.limit = limit;
        self
    }

    /// With domains that may crash or not.
    const fn may_crash(mut self) -> Self {
        self.expected.may_crash = true;
        self
    }

    /// With a guest that panics on purpose; the hypervisor must not, which its exit status would tell.
    const fn may_panic(mut self) -> Self {
        self.expected.script.forbidden = &[];
        self
    }

    /// With another number of CPUs than two.
    pub(crate) const fn cpus(mut self, count: u32) -> Self {
        self.scenario.machine.cpus = count;
        self
    }

    /// With a clock that counts instructions: for fractions of time, which a busy host would spoil.
    const fn counted_time(mut self) -> Self {
        self.scenario.machine.clock = Clock::Instructions;
        self
    }
}

impl MachineTest {
    /// On another board.
    pub(crate) const fn board(mut self, name: &'static str) -> Self {
        self.scenario.machine.board = name;
        self
    }

    /// With time that advances with the machine's instructions, and leaps to the next timer when it rests.
    pub(crate) const fn leaping_time(mut self) -> Self {
        self.scenario.machine.clock = Clock::InstructionsOnly;
        self
    }

    /// With an IOMMU, as QEMU's `-device` wants it.
    pub(crate) const fn iommu(mut self, device: &'static str) -> Self {
        self.scenario.machine.iommu = device;
        self
    }

    /// With another CPU model.
    pub(crate) const fn cpu(mut self, model: &'static str) -> Self {
        self.scenario.machine.cpu = model;
        self
    }

    /// With another amount of memory.
    pub(crate) const fn memory(mut self, size: &'static str) -> Self {
        self.scenario.machine.memory = size;
        self
    }

    /// Loaded by somebody else than QEMU.
    pub(crate) const fn loader(mut self, loader: Loader) -> Self {
        self.scenario.loader = loader;
        self
    }

    /// With these commands for GRUB.
    pub(crate) const fn grub_script(mut self, script: &'static str) -> Self {
        self.scenario.grub_script = script;
        self
    }

    /// With other words for the hypervisor than [`UNTIL_ALL_ENDED`].
    pub(crate) const fn words(mut self, words: &'static [&'static str]) -> Self {
        self.scenario.words = words;
        self
    }

    /// With a boot archive that has so many bytes more.
    pub(crate) const fn ballast(mut self, bytes: usize) -> Self {
        self.scenario.ballast = bytes;
        self
    }

    /// With another place in the full matrix.
    pub(crate) const fn in_full(mut self, what: InFull) -> Self {
        self.in_full = what;
        self
    }
}

/// Every machine test.
pub(crate) fn all() -> impl Iterator<Item = &'static MachineTest> {
    MACHINE_TESTS
        .iter()
        .chain(BOOT_TESTS)
        .chain(IOMMU_TESTS)
        .chain(control_tests::all())
        .chain(disk_tests::all())
        .chain(net_tests::all())
        .chain(linux_tests::all())
}

pub(crate) const fn expect(text: &'static str) -> Step {
    Step::Expect(Pattern(text))
}

const fn all_of(patterns: &'static [Pattern]) -> Step {
    Step::ExpectAll(patterns)
}

/// What the hypervisor's records of a domain with one vCPU may take, with the frame that it shares with the domain: its memory
/// is for guests, and there are to be many.
const fn small(domain: &'static str) -> Step {
    Step::AtMost(Pattern(domain), 32 << 10)
}

/// No CPU is away from guests for longer, by a clock that counts instructions.
const SHORT_STRETCHES: Step = Step::AtMost(Pattern("longest stretch in the hypervisor: "), 100_000);

/// One domain that checks the runtime.
const RUNTIME: &[Domain<'static>] = &[Domain::new("runtime", "runtime").memory("32M")];

/// Two domains that send each other events; both report a check.
const SERVER: Domain<'static> = Domain::new("server", "events").command_line("role=server peer=1");
const CLIENT: Domain<'static> = Domain::new("client", "events").command_line("role=client peer=0");

/// Two domains of which one shares its pages with the other.
const GRANTS: &[Domain<'static>] = &[
    Domain::new("grantee", "grants").command_line("role=grantee peer=1"),
    Domain::new("grantor", "grants").command_line("role=grantor peer=0"),
];

/// Two domains of which one takes pages of the other's for its own.
const FLIPS: &[Domain<'static>] = &[
    Domain::new("taker", "grants").command_line("role=taker peer=1"),
    Domain::new("offerer", "grants").command_line("role=offerer peer=0"),
];

/// Two domains that try every hypercall: one that may do all, and one that is refused what only that one may.
const PROBES: &[Domain<'static>] = &[
    Domain::new("control", "probe")
        .memory("32M")
        .vcpus(2)
        .ports(CLOCK_PORTS),
    Domain::new("guest", "probe").memory("32M").vcpus(2),
];

/// The ports of the battery-backed clock, which the probe's first domain owns.
const CLOCK_PORTS: &str = "70-71";

/// Six pairs of domains that send each other events, one that checks the runtime, and one that dies.
const CROWD: &[Domain<'static>] = &[
    Domain::new("server0", "events").command_line("role=server peer=1"),
    Domain::new("client0", "events").command_line("role=client peer=0"),
    Domain::new("server1", "events").command_line("role=server peer=3"),
    Domain::new("client1", "events").command_line("role=client peer=2"),
    Domain::new("server2", "events").command_line("role=server peer=5"),
    Domain::new("client2", "events").command_line("role=client peer=4"),
    Domain::new("server3", "events").command_line("role=server peer=7"),
    Domain::new("client3", "events").command_line("role=client peer=6"),
    Domain::new("server4", "events").command_line("role=server peer=9"),
    Domain::new("client4", "events").command_line("role=client peer=8"),
    Domain::new("server5", "events").command_line("role=server peer=11"),
    Domain::new("client5", "events").command_line("role=client peer=10"),
    Domain::new("runtime", "runtime").memory("32M"),
    Domain::new("victim", "crash").command_line("null"),
];

/// One domain of many tasks.
const TASKS: &[Domain<'static>] = &[Domain::new("executor", "executor")];

/// Two that exchange events, with several tasks in each.
const TASKS_SERVER: Domain<'static> = Domain::new("server", "executor").command_line("role=server peer=1");
const TASKS_CLIENT: Domain<'static> = Domain::new("client", "executor").command_line("role=client peer=0");

/// The control domain, which makes domains and destroys them.
const CHURN: &[Domain<'static>] = &[Domain::new("churn", "churn").command_line("rounds=1000")];

/// The control domain, which watches others compete for the CPUs, and changes who gets what.
const OBSERVER: Domain<'static> = Domain::new("observer", "scheduler")
    .command_line("role=observer")
    .cpus("0");
/// It wants all that it can get.
const HOG: Domain<'static> = Domain::new("hog", "scheduler").command_line("role=hog");
/// Two that begin on the same CPU.
const LIGHT_HOG: Domain<'static> = HOG.cpus("0");
const HEAVY_HOG: Domain<'static> = HOG.cpus("0").weight(512);
/// It wants to be on time when it wakes.
const SLEEPER: Domain<'static> = Domain::new("sleeper", "scheduler").command_line("role=sleeper");
/// QEMU runs CPUs by turns where it counts instructions: an interrupt waits for its CPU's.
const SLEEPER_BY_TURNS: Domain<'static> = SLEEPER.command_line("role=sleeper slack-us=3000");

/// A test in which domain 1 dies between two others that send each other events and must not notice.
const fn crash(
    name: &'static str,
    domains: &'static [Domain<'static>],
    steps: &'static [Step],
) -> MachineTest {
    test(name, domains)
        .steps(steps)
        .checks(2)
        .ends(Ending::DomainCrashed)
}

/// The two that must not notice.
const FIRST_WITNESS: Domain<'static> = Domain::new("server", "events").command_line("role=server peer=2");
const SECOND_WITNESS: Domain<'static> = Domain::new("client", "events").command_line("role=client peer=0");

/// Domain 1, which dies in the way that its command line names.
const fn victim(way: &'static str) -> Domain<'static> {
    Domain::new("victim", "crash").command_line(way)
}

const IS_GONE: Pattern = Pattern("(bh) ERROR*domain 1 (victim) is gone");

/// The report of a guest that takes an exception which it does not handle.
const GUESTS_REPORT: &[Step] = &[
    expect("(d1) dying by"),
    expect("(d1) unhandled"),
    expect("(d1)*rip"),
    expect("(d1) backtrace:"),
    Step::Expect(IS_GONE),
];

/// The report of a guest that panics.
const GUESTS_PANIC: &[Step] = &[
    expect("(d1) panicked at"),
    expect("(d1) backtrace:"),
    Step::Expect(IS_GONE),
];

/// The hypervisor's own report of a guest that it had to end.
const HYPERVISORS_REPORT: &[Step] = &[
    expect("(bh) ERROR*domain 1 (victim) vCPU 0:"),
    expect("(bh) ERROR*rip"),
    expect("(bh) ERROR*backtrace:"),
    Step::Expect(IS_GONE),
];

/// The report of a guest that made a return from a handler which cannot be made.
const BAD_RETURN: &[Step] = &[
    expect("(bh) ERROR*domain 1 (victim) vCPU 0: it returned from a handler with an unusable frame"),
    expect("(bh) ERROR*rip"),
    Step::Expect(IS_GONE),
];

/// Domain 0 runs random instructions as its programs, others in their kernels, beside two that must not notice.
const FUZZ: &[Domain<'static>] = &[
    Domain::new("programs", "fuzz").command_line("mode=user seed=1 streams=100000"),
    Domain::new("server", "events").command_line("role=server peer=2"),
    Domain::new("client", "events").command_line("role=client peer=1"),
    fuzz_kernel("mode=kernel seed=2 streams=20000"),
    fuzz_kernel("mode=kernel seed=3 streams=20000"),
    fuzz_kernel("mode=kernel seed=4 streams=20000"),
    fuzz_kernel("mode=kernel seed=5 streams=20000"),
];

/// The programs among these, for long. (Kernels do not last: a stream ends them.)
const FUZZ_MILLION: &[Domain<'static>] = &[
    Domain::new("programs", "fuzz").command_line("mode=user seed=1 streams=1000000"),
    Domain::new("server", "events").command_line("role=server peer=2"),
    Domain::new("client", "events").command_line("role=client peer=1"),
];

/// One that runs instructions whose ends are known.
const TRAPS: &[Domain<'static>] = &[Domain::new("traps", "fuzz").command_line("mode=known")];

/// The same with two debug exceptions at once, between two that must not notice.
const TRAPS_AT_ONCE: &[Domain<'static>] = &[
    FIRST_WITNESS,
    Domain::new("step", "fuzz").command_line("mode=step"),
    SECOND_WITNESS,
];

/// One that runs random instructions in its kernel.
const fn fuzz_kernel(words: &'static str) -> Domain<'static> {
    Domain::new("kernel", "fuzz").memory("8M").command_line(words)
}

/// Debian's kernel as domain 1. Its early console is the hypervisor's.
const LINUX_BESIDE_HELLO: &[Domain<'static>] = &[
    Domain::new("hello", "hello"),
    Domain::new("linux", LINUX)
        .memory("256M")
        .command_line("earlyprintk=xen console=hvc0 xen.fifo_events=0 printk.devkmsg=on"),
];

/// The same with a first process.
const LINUX_WITH_INIT: &[Domain<'static>] = &[
    Domain::new("hello", "hello"),
    Domain::new("linux", LINUX)
        .init("linux-init")
        .memory("256M")
        .command_line("earlyprintk=xen console=hvc0 xen.fifo_events=0 printk.devkmsg=on"),
];

/// The same with two vCPUs.
const LINUX_SMP: &[Domain<'_>] = &[
    Domain::new("hello", "hello"),
    Domain::new("linux", LINUX)
        .init("linux-init")
        .memory("256M")
        .vcpus(2)
        .command_line("earlyprintk=xen console=hvc0 xen.fifo_events=0 printk.devkmsg=on"),
];

/// What that says besides.
const LINUX_SMP_INIT: &[Step] = &[
    expect("(d1)*smpboot: Allowing 2 CPUs, 0 hotplug CPUs"),
    expect("(d1)*installing Xen timer for CPU 1"),
    expect("(d1)*smp: Brought up 1 node, 2 CPUs"),
    expect("(d1)*init: hello from user space"),
    expect("(d1)*init: processes-have-memory-and-registers-of-their-own ok"),
    all_of(&[
        Pattern("(d1)*init: process on CPU 0"),
        Pattern("(d1)*init: process on CPU 1"),
    ]),
    expect("(d1)*init: every-cpu-runs-processes ok"),
    expect("(d1)*init: a-fault-ends-its-process-alone ok"),
    expect("(d1)*init: processes-have-local-segments-of-their-own ok"),
    expect("(d1)*init: slept"),
    Step::Expect(Pattern("domain 1 (linux): poweroff")),
];

/// What it says.
const LINUX_INIT: &[Step] = &[
    expect("(d1)*Grant tables using version 1 layout"),
    expect("(d1)*Run /init as init process"),
    expect("(d1)*init: hello from user space"),
    expect("(d1)*init: processes-have-memory-and-registers-of-their-own ok"),
    expect("(d1)*init: process on CPU 0"),
    expect("(d1)*init: every-cpu-runs-processes ok"),
    expect("(d1)*segfault at 8"),
    expect("(d1)*init: a-fault-ends-its-process-alone ok"),
    expect("(d1)*init: processes-have-local-segments-of-their-own ok"),
    expect("(d1)*init: slept"),
    Step::Expect(Pattern("domain 1 (linux): poweroff")),
];

/// What Linux says on its way through its start.
const LINUX_CONTACT: &[Step] = &[
    expect("(d1) mapping kernel into physical memory"),
    expect("(d1) about to get started..."),
    expect("(d1)*Linux version 6.1."),
    expect("(d1)*Released 0 page(s)"),
    expect("(d1)*Xen: [mem 0x0000000000000000-0x000000000009ffff] usable"),
    expect("(d1)*NX (Execute Disable) protection: active"),
    expect("(d1)*Hypervisor detected: Xen PV"),
    expect("(d1)*tsc: Detected*MHz processor"),
    expect("(d1)*last_pfn = 0x10000"),
    expect("(d1)*x86/PAT: Configuration [0-7]: WB  WT  UC- UC  WC  WP  UC  UC"),
    expect("(d1)*p2m virtual area at"),
    expect("(d1)*Remapped 0 page(s)"),
    expect("(d1)*smpboot: Allowing 1 CPUs, 0 hotplug CPUs"),
    expect("(d1)*Xen version: 4.17-bulkhead (preserve-AD)"),
    expect("(d1)*xen:events: Using 2-level ABI"),
    expect("(d1)*installing Xen timer for CPU 0"),
    expect("(d1)*x86/fpu: x87 FPU will use FXSAVE"),
    expect("(d1)*Freeing SMP alternatives memory"),
    expect("(d1)*smp: Brought up 1 node, 1 CPU"),
    expect("(d1)*Grant tables using version 1 layout"),
    expect("(d1)*clocksource: Switched to clocksource xen"),
    expect("(d1)*Kernel panic - not syncing: VFS: Unable to mount root fs"),
];

/// The machine tests of what the hypervisor does when it has booted.
const MACHINE_TESTS: &[MachineTest] = &[
    // The control domain comes up, says what it is, and goes when told to.
    test(
        "boot",
        &[Domain::new("control", "control")
            .memory("64M")
            .command_line("once")],
    )
    .steps(&[expect("Bulkhead control domain"), expect("hypervisor    4.17")]),
    // One guest prints one line, which has its command line, and powers off.
    test(
        "hello",
        &[Domain::new("hello", "hello").command_line("greeting=ahoy")],
    )
    .steps(&[expect("hello from a guest"), expect("greeting=ahoy")]),
    // Without an IOMMU nobody is left to believe that there is one.
    test("iommu-missing", &[Domain::new("hello", "hello")]).steps(&[
        expect("(bh) WARN*DMA is not confined: firmware's tables tell of no IOMMU"),
        expect("(bh) WARN*who has a device reaches all memory by it, and can forge any interrupt vector"),
        expect("hello from a guest"),
    ]),
    test("iommu-unwanted", &[Domain::new("hello", "hello")])
        .iommu(IOMMU)
        .words(&["iommu=off", "end=last"])
        .steps(&[
            expect("(bh) WARN*DMA is not confined: the command line says iommu=off"),
            expect("hello from a guest"),
        ]),
    // With one everything is as it was, and the interrupts of lines that domains own find their way through it.
    test("iommu", PROBES)
        .iommu(IOMMU)
        .steps(&[
            expect("(bh) INFO*interrupts of devices are confined"),
            expect("(bh) INFO*DMA is confined: *(IOMMUs: 1, of 39 bits)"),
        ])
        .checks(840),
    // So it is where the unit remembers what is not there, and does nothing for interrupts.
    test("iommu-caching", RUNTIME)
        .iommu("intel-iommu,caching-mode=on,aw-bits=48,intremap=off")
        .steps(&[
            expect("(bh) WARN*interrupts of devices are not confined, and each can forge any vector: firmware's tables"),
            expect("(bh) INFO*DMA is confined: *(IOMMUs: 1, of 39 bits)"),
        ])
        .checks(10),
    // Every domain's lines are its own, in whatever order they come.
    test(
        "hello-four",
        &[
            Domain::new("zero", "hello").command_line("I am 0"),
            Domain::new("one", "hello").command_line("I am 1"),
            Domain::new("two", "hello").command_line("I am 2"),
            Domain::new("three", "hello").command_line("I am 3"),
        ],
    )
    .steps(&[all_of(&[
        Pattern("hello*I am 0"),
        Pattern("(d1) hello*I am 1"),
        Pattern("(d2) hello*I am 2"),
        Pattern("(d3) hello*I am 3"),
    ])]),
    // What the hypervisor keeps of a domain is little, whichever it is.
    test(
        "domain-memory",
        &[
            Domain::new("zero", "hello"),
            Domain::new("one", "hello").memory("64M"),
            Domain::new("two", "hello"),
        ],
    )
    .cpus(1)
    .words(&["end=last", "loglevel=debug"])
    .steps(&[
        small("(bh) DEBUG*domain 0: "),
        small("(bh) DEBUG*domain 1: "),
        small("(bh) DEBUG*domain 2: "),
    ]),
    // The guest runtime checks itself, and the hypervisor's promises with it: memory, traps, events, time.
    test("runtime", RUNTIME).checks(10),
    test("runtime-1cpu", RUNTIME).cpus(1).checks(10),
    // Pages that one domain shares with another, by the runtime: mapped, held for a device, copied, taken back.
    test("granting", GRANTS).checks(21),
    test("flipping", FLIPS).checks(17),
    // A processor of the maker whose 32-bit programs have SYSENTER, and not SYSCALL.
    test("runtime-intel", RUNTIME)
        .cpus(1)
        .cpu("qemu64,vendor=GenuineIntel")
        .checks(40),
    // Every hypercall, well and badly, and the laws of page types; in domain 0 and in one that may do less.
    test("probe", PROBES)
        .words(WITH_DIRECT_GATES)
        .steps(&[expect("(bh)*direct gates: offered")])
        .checks(840)
        .covers_hypercalls(),
    test("probe-1cpu", PROBES)
        .words(WITHOUT_DIRECT_GATES)
        .cpus(1)
        .counted_time()
        .steps(&[SHORT_STRETCHES])
        .checks(840)
        .covers_hypercalls(),
    // The same where the processor has XSAVE and AVX, which the others have not.
    test("probe-avx", PROBES)
        .cpus(1)
        .cpu("max,la57=off")
        .checks(850)
        .covers_hypercalls(),
    // Each trap by its name, from kernels and programs, with all that its frame says.
    test("traps", TRAPS).checks(120),
    test("traps-1cpu", TRAPS).cpus(1).checks(120),
    // A debug exception at the entry of another: the CPU must not be lost to it.
    test("traps-at-once", TRAPS_AT_ONCE).may_crash().checks(4),
    // Random instructions, in kernels and programs. Domain 0 ends the machine; its streams cannot crash it.
    test("fuzz", FUZZ)
        .words(&[])
        .may_crash()
        .steps(&[
            expect("fuzz: 100000 streams"),
            expect("CHECK entries-make-sense ok"),
        ])
        .checks(13),
    // Whether the CPU is safe with direct gates is tried at boot, which every machine survives.
    test("direct-gates", PROBES)
        .steps(&[expect("(bh)*direct gates: ")])
        .checks(840),
    // A million of them.
    test("fuzz-million", FUZZ_MILLION)
        .words(&[])
        .steps(&[
            expect("fuzz: 1000000 streams"),
            expect("CHECK entries-make-sense ok"),
        ])
        .checks(103)
        .limit(Duration::from_secs(600))
        .in_full(InFull::OnlyThere),
    // A thousand domains in random states are made and destroyed, and nothing is left of them. They may crash; domain 0 ends the machine.
    test("churn", CHURN).words(&[]).may_crash().checks(2),
    test("churn-1cpu", CHURN)
        .words(&[])
        .may_crash()
        .cpus(1)
        .counted_time()
        .steps(&[SHORT_STRETCHES])
        .checks(2),
    // Two domains bind an interdomain channel and send events back and forth.
    test("events", &[SERVER, CLIENT]).checks(2),
    // The same where each runs only while the other does not.
    test("events-1cpu", &[SERVER, CLIENT]).cpus(1).checks(2),
    // With CPUs that idle and pull: a vCPU that blocks must not be taken before its registers are in their place.
    test("events-4cpu", &[SERVER, CLIENT]).cpus(4).checks(2),
    // More vCPUs than CPUs, all waking each other, and one that dies among them.
    test("crowd-4cpu", CROWD)
        .cpus(4)
        .checks(30)
        .steps(&[Step::Expect(Pattern("domain 13 (victim) is gone"))])
        .ends(Ending::DomainCrashed),
    // Tasks wait for each other, for time and for events: none is forgotten, and idling costs nothing.
    test("executor", TASKS).checks(14),
    test("executor-1cpu", TASKS).cpus(1).checks(14),
    // Tasks of two domains wait for each other's events.
    test("executor-peers", &[TASKS_SERVER, TASKS_CLIENT]).checks(2),
    test("executor-peers-1cpu", &[TASKS_SERVER, TASKS_CLIENT])
        .cpus(1)
        .checks(2),
    // CPU time is shared by weight, moves with weight and affinity, is accounted for; warp buys latency.
    test(
        "scheduler",
        &[OBSERVER, LIGHT_HOG, HEAVY_HOG, HOG, HOG, SLEEPER_BY_TURNS],
    )
    .counted_time()
    .checks(46),
    test(
        "scheduler-1cpu",
        &[OBSERVER, LIGHT_HOG, HEAVY_HOG, HOG, HOG, SLEEPER],
    )
    .cpus(1)
    .counted_time()
    .steps(&[SHORT_STRETCHES])
    .checks(44),
    // Reading address 0.
    crash(
        "crash-null",
        &[FIRST_WITNESS, victim("null"), SECOND_WITNESS],
        GUESTS_REPORT,
    ),
    crash(
        "crash-null-1cpu",
        &[FIRST_WITNESS, victim("null"), SECOND_WITNESS],
        GUESTS_REPORT,
    )
    .cpus(1),
    // A privileged instruction is reflected to the guest, not executed.
    crash(
        "crash-privileged",
        &[FIRST_WITNESS, victim("privileged"), SECOND_WITNESS],
        GUESTS_REPORT,
    ),
    // Code is not writable, data not executable: the guest's own page tables are obeyed.
    crash(
        "crash-write-code",
        &[FIRST_WITNESS, victim("write-code"), SECOND_WITNESS],
        GUESTS_REPORT,
    ),
    crash(
        "crash-execute-data",
        &[FIRST_WITNESS, victim("execute-data"), SECOND_WITNESS],
        GUESTS_REPORT,
    ),
    // With its stack gone, no exception can be delivered to a guest: the hypervisor must end it.
    crash(
        "crash-stack-overflow",
        &[FIRST_WITNESS, victim("stack-overflow"), SECOND_WITNESS],
        HYPERVISORS_REPORT,
    ),
    // Returns from a handler by frames that cannot be read, or that no processor would take.
    crash(
        "crash-no-frame",
        &[FIRST_WITNESS, victim("no-frame"), SECOND_WITNESS],
        BAD_RETURN,
    ),
    crash(
        "crash-frame-of-the-hypervisor",
        &[FIRST_WITNESS, victim("frame-of-the-hypervisor"), SECOND_WITNESS],
        BAD_RETURN,
    ),
    crash(
        "crash-return-to-nowhere",
        &[FIRST_WITNESS, victim("return-to-nowhere"), SECOND_WITNESS],
        BAD_RETURN,
    ),
    crash(
        "crash-return-to-no-program",
        &[FIRST_WITNESS, victim("return-to-no-program"), SECOND_WITNESS],
        BAD_RETURN,
    ),
    // What cannot be written to its kernel's stack is left by the entry code as it was.
    crash(
        "crash-fault-of-a-program",
        &[FIRST_WITNESS, victim("fault-of-a-program"), SECOND_WITNESS],
        &[
            expect("(bh) ERROR*domain 1 (victim) vCPU 0: its kernel stack at 0xfc0 cannot take a frame"),
            expect("(bh) ERROR*rip*0000000000000008"),
            Step::Expect(IS_GONE),
        ],
    ),
    // Debian's kernel, unmodified, comes up beside a domain of ours; without a disk to go on from, it ends by panicking.
    test("linux-contact", LINUX_BESIDE_HELLO)
        .steps(LINUX_CONTACT)
        .may_panic()
        .ends(Ending::DomainCrashed)
        .in_full(InFull::Once),
    // Its programs run: they fork, fault, compute, sleep, and power the domain off.
    test("linux-init", LINUX_WITH_INIT).steps(LINUX_INIT),
    // With two vCPUs, both of which run processes: each on a CPU of its own, and both on one.
    test("linux-smp", LINUX_SMP).steps(LINUX_SMP_INIT),
    test("linux-smp-one-cpu", LINUX_SMP).cpus(1).steps(LINUX_SMP_INIT),
    // A guest that ends itself as crashed.
    crash(
        "crash-panic",
        &[FIRST_WITNESS, victim("panic"), SECOND_WITNESS],
        GUESTS_PANIC,
    )
    .may_panic(),
    crash(
        "crash-out-of-memory",
        &[FIRST_WITNESS, victim("out-of-memory"), SECOND_WITNESS],
        GUESTS_PANIC,
    )
    .may_panic(),
];

/// CPU models that `test --full` runs every test on besides: name for the test, QEMU's words.
///
/// `max` has nearly everything that QEMU emulates, Skylake is an Intel, EPYC an AMD with 1 GiB pages. The Skylake has the number of a client's: by that
/// of a server's, programs that GCC made in several versions choose AVX-512 without asking whether it is there, and QEMU does not emulate it.
pub(crate) const OTHER_CPUS: &[(&str, &str)] = &[
    ("max", "max,la57=off"),
    ("skylake", "Skylake-Server,model=94"),
    ("epyc", "EPYC"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_test_is_content_with_nothing() {
        for test in all() {
            let script = test.expected.script;
            assert!(
                !script.steps.is_empty() || script.checks > 0,
                "{} expects nothing",
                test.scenario.name
            );
        }
    }
}
