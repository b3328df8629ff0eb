//! The machine tests of the control domain: guests that it makes of what lies in the boot archive, its shell, xenstore, and consoles.
//!
//! The shell is typed to as an operator would. Lines of guests stand after `(NAME) ` where their console is printed; without an operator
//! (`headless=NAME`) that guest's console stands by whole lines.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::bootlist::{Domain, Ramdisk};
use crate::console::{Pattern, Step};
use crate::disks::{Controller, Disk, DiskImage};
use crate::linux::VMLINUZ;
use crate::machine_tests::{InFull, MachineTest, expect, test};
use crate::qemu::{Ending, IOMMU};
use crate::scenario::{EXAMPLE, Offer};

pub(crate) const fn typed(line: &'static str) -> Step {
    Step::Type(line)
}

/// The control domain as the example has it, which says besides what happens to domains.
pub(crate) const CONTROL: &[Domain<'static>] = &[Domain::new("control", "control")
    .memory("32M")
    .command_line("events")];

/// The same without an operator, for the guest `guest`.
pub(crate) const HEADLESS: &[Domain<'static>] = &[Domain::new("control", "control")
    .memory("32M")
    .command_line("headless=guest")];

/// The image of guests that do what they are told.
const RESIDENT: &[&str] = &["resident"];

/// A test of what the control domain makes of `config`. The machine ends when the control domain leaves.
pub(crate) const fn control(name: &'static str, config: &'static str, steps: &'static [Step]) -> MachineTest {
    let mut made = test(name, CONTROL).steps(steps).words(&[]);
    made.scenario.offer = Offer {
        config,
        images: RESIDENT,
        ramdisks: &[],
    };
    made.in_full(InFull::Once)
}

pub(crate) const READY: Step = expect("@bulkhead {\"event\":\"control-ready\"");
pub(crate) const OFF: Step = typed("poweroff --force\n");

/// Two guests that end in ways of their own, and one that does nothing.
const LIVES: &str = r#"
[[guest]]
name = "short"
kernel = "resident"
memory = "4M"
command-line = "off-after=200"

[[guest]]
name = "hasty"
kernel = "resident"
memory = "4M"
command-line = "crash-after=20"
on-crash = "restart"

[[guest]]
name = "deaf"
kernel = "resident"
memory = "4M"
command-line = "deaf"

[[guest]]
name = "obedient"
kernel = "resident"
memory = "8M"
console = "print"

[[guest]]
name = "later"
kernel = "resident"
memory = "4M"
autostart = false
"#;

const LIVES_STEPS: &[Step] = &[
    Step::ExpectAll(&[
        Pattern("\"event\":\"control-ready\""),
        Pattern("\"event\":\"shutdown\",\"domain\":\"short\",\"id\":1,\"reason\":\"poweroff\""),
        Pattern("\"event\":\"destroyed\",\"domain\":\"short\""),
        Pattern("\"event\":\"crashed\",\"domain\":\"hasty\""),
        Pattern("\"event\":\"restarting\",\"domain\":\"hasty\",\"id\":2,\"attempt\":1"),
        Pattern("\"event\":\"restarting\",\"domain\":\"hasty\"*\"attempt\":2"),
        Pattern("\"event\":\"restarting\",\"domain\":\"hasty\"*\"attempt\":3"),
    ]),
    typed("destroy hasty\n"),
    // One that does not listen is destroyed by force, one that listens is not.
    typed("shutdown obedient --wait\n"),
    expect("(obedient) resident: is asked to end: poweroff"),
    expect("\"event\":\"shutdown\",\"domain\":\"obedient\""),
    typed("reboot deaf\n"),
    typed("shutdown deaf --force\n"),
    expect("\"event\":\"destroyed\",\"domain\":\"deaf\""),
    typed("info deaf\n"),
    expect("there is no domain deaf"),
    // What is configured is started by its name; settings can be others.
    typed("create later memory=8M weight=300\n"),
    expect("later is domain"),
    typed("list\n"),
    expect("later*8M*1*running*300"),
    typed("reboot later\n"),
    expect("\"event\":\"shutdown\",\"domain\":\"later\"*\"reason\":\"reboot\""),
    expect("\"event\":\"started\",\"domain\":\"later\""),
    typed("pause later\n"),
    typed("info later\n"),
    expect("state*paused"),
    typed("unpause later\n"),
    typed("sched later weight=77\n"),
    typed("sched later\n"),
    expect("later*77"),
    typed("log short\n"),
    expect("resident: ends by itself: poweroff"),
    typed("config show\n"),
    expect("name = \"later\""),
    expect("memory = \"8M\""),
    expect("weight = 77"),
    OFF,
];

/// One that prints what it is asked, one that is asked for memory.
const PAIR: &str = r#"
[[guest]]
name = "echo"
kernel = "resident"
memory = "8M"
console = "print"

[[guest]]
name = "balloon"
kernel = "resident"
memory = "16M"
max-memory = "16M"
console = "print"
"#;

const CONSOLE_STEPS: &[Step] = &[
    Step::ExpectAll(&[
        Pattern("\"event\":\"control-ready\""),
        // What it says by itself would stand in the middle of what it repeats.
        Pattern("(echo) resident: has 8192 KiB"),
    ]),
    expect("bulkhead> "),
    typed("console echo\n"),
    expect("attached to echo"),
    typed("hello there\r"),
    expect("hello there"),
    // Ctrl-] detaches.
    typed("\x1d"),
    expect("bulkhead> "),
    typed("log echo\n"),
    expect("resident: echo is here"),
    expect("hello there"),
    typed("memory balloon 8M\n"),
    expect("(balloon) resident: has 8192 KiB"),
    typed("memory\n"),
    expect("balloon*8M*8M*8M"),
    typed("memory balloon 16M\n"),
    expect("(balloon) resident: has 16384 KiB"),
    typed("memory balloon 32M\n"),
    expect("balloon may have 16M at most"),
    typed("store read /local/domain/2/name\n"),
    expect("/local/domain/2/name = balloon"),
    typed("store write /local/domain/2/data/x hello\n"),
    typed("store ls /local/domain/2/data\n"),
    expect("/local/domain/2/data/x = hello"),
    typed("store watch /local/domain/2/memory\n"),
    expect("/local/domain/2/memory = "),
    // Ctrl-C ends it.
    typed("\x03"),
    expect("bulkhead> "),
    typed("top\n"),
    expect("CPU%"),
    typed("q"),
    expect("bulkhead> "),
    typed("dmesg\n"),
    expect("(bh) INFO  boot: Bulkhead"),
    typed("list --json\n"),
    expect("[{\"id\":0,\"name\":\"control\",\"state\":\"running\""),
    typed("version\n"),
    expect("hypervisor*4.17-bulkhead"),
    OFF,
];

/// What operators get wrong, and damaged kernels: one sentence each, and nothing has changed.
const MISTAKES: &str = r#"
[[guest]]
name = "fine"
kernel = "resident"
memory = "4M"

[[guest]]
name = "wrong"
kernel = "residnet"
memory = "4M"
"#;

const MISTAKES_STEPS: &[Step] = &[
    Step::ExpectAll(&[
        Pattern("\"event\":\"control-ready\""),
        Pattern(
            "bulkhead.toml:9: kernel = \"residnet\" should name a file of the boot archive; did you mean \"resident\"?",
        ),
    ]),
    typed("list\n"),
    expect("control*0*32M"),
    typed("info --json\n"),
    Step::Same(Pattern("\"free\":")),
    typed("lst\n"),
    expect("did you mean `list`"),
    typed("info nobody\n"),
    expect("there is no domain nobody"),
    typed("create x kernel=resident memory=lots\n"),
    expect("memory = \"lots\" should be a size such as \"32M\""),
    typed("create x kernel=boot.list memory=4M\n"),
    expect("x: kernel boot.list: "),
    typed("create x kernel=resident memory=1M\n"),
    expect("x: its kernel and ramdisk need at least"),
    typed("create x kernel=resident memory=64G\n"),
    expect("memory = \"64G\" should be at most"),
    typed("create x kernel=resident memory=4M vcpus=33\n"),
    expect("vcpus = 33 should be a number from 1 to 32"),
    typed("destroy 0\n"),
    expect("domain 0 is the control domain and is not destroyed"),
    typed("info --json\n"),
    Step::Same(Pattern("\"free\":")),
    typed("create x kernel=resident memory=4M\n"),
    expect("x is domain"),
    typed("create x kernel=resident memory=4M\n"),
    expect("name = \"x\" should be another name: a domain has it"),
    typed("destroy x\n"),
    expect("\"event\":\"destroyed\",\"domain\":\"x\""),
    typed("info --json\n"),
    Step::Same(Pattern("\"free\":")),
    OFF,
];

/// Four that print without end.
const PRINTERS: &str = r#"
[[guest]]
name = "one"
kernel = "resident"
memory = "4M"
command-line = "prints"
console = "print"

[[guest]]
name = "two"
kernel = "resident"
memory = "4M"
command-line = "prints"
console = "print"

[[guest]]
name = "three"
kernel = "resident"
memory = "4M"
command-line = "prints"
console = "print"

[[guest]]
name = "four"
kernel = "resident"
memory = "4M"
command-line = "prints"
console = "print"
"#;

const PRINTERS_STEPS: &[Step] = &[
    READY,
    Step::ExpectAll(&[
        Pattern("(one) resident: line"),
        Pattern("(two) resident: line"),
        Pattern("(three) resident: line"),
        Pattern("(four) resident: line"),
    ]),
    Step::Echo(
        "version --json and much more that is typed while guests print",
        100,
    ),
    // Ctrl-U takes it back.
    typed("\x15version\n"),
    expect("hypervisor*4.17-bulkhead"),
    OFF,
];

/// One that prints much at once, and waits for nobody.
const SPOOLER: &str = r#"
[[guest]]
name = "spooler"
kernel = "resident"
memory = "8M"
command-line = "spools"
console = "print"
"#;

const SPOOLER_STEPS: &[Step] = &[
    expect("(spooler) resident: spooled line 0,"),
    expect("(spooler) resident: spooled line 12,"),
    expect("(spooler) CHECK spooled-lines-wait-for-nobody ok"),
    OFF,
];

/// A guest that checks xenstore from its side.
const SUITE: &str = r#"
[[guest]]
name = "guest"
kernel = "resident"
memory = "8M"
command-line = "suite"
"#;

/// Debian's kernel as packaged, with a first process of ours.
const LINUX: &str = r#"
[[guest]]
name = "guest"
kernel = "vmlinuz"
ramdisk = "linux-init.cpio"
memory = "256M"
vcpus = 2
command-line = "console=hvc0 xen.fifo_events=0 printk.devkmsg=on"
"#;

const LINUX_STEPS: &[Step] = &[
    expect("Linux version 6.1."),
    expect("Hypervisor detected: Xen PV"),
    expect("[hvc0] enabled"),
    expect("smp: Brought up 1 node, 2 CPUs"),
    expect("Run /init as init process"),
    expect("init: hello from user space"),
    expect("init: slept"),
    expect("@bulkhead {\"event\":\"shutdown\",\"domain\":\"guest\",\"id\":1,\"reason\":\"poweroff\"}"),
    expect("@bulkhead {\"event\":\"result\",\"outcome\":\"passed\""),
];

/// The same kernel without a first process: it waits for a disk, and does what the shell asks of it.
const WAITING_LINUX: &str = r#"
[[guest]]
name = "guest"
kernel = "vmlinuz"
memory = "256M"
command-line = "console=hvc0 root=/dev/xvda rootwait"
console = "print"
"#;

const WAITING_LINUX_STEPS: &[Step] = &[
    expect("(guest) *Waiting for root device /dev/xvda"),
    typed("store read /local/domain/1/control/feature-poweroff\n"),
    expect("/control/feature-poweroff = 1"),
    typed("store read /local/domain/1/control/feature-reboot\n"),
    expect("/control/feature-reboot = 1"),
    // The balloon is slower than the shell; `top` shows it each second.
    typed("memory guest 128M\n"),
    typed("top\n"),
    expect("guest*1*128M"),
    typed("q"),
    typed("memory\n"),
    expect("guest*1*128M*128M*128M"),
    typed("memory guest 256M\n"),
    typed("top\n"),
    expect("guest*1*256M"),
    typed("q"),
    typed("reboot guest\n"),
    expect("\"event\":\"shutdown\",\"domain\":\"guest\"*\"reason\":\"reboot\""),
    expect("\"event\":\"started\",\"domain\":\"guest\""),
    expect("(guest) *Waiting for root device /dev/xvda"),
    typed("shutdown guest --wait\n"),
    expect("\"event\":\"shutdown\",\"domain\":\"guest\"*\"reason\":\"poweroff\""),
    OFF,
];

/// A control domain that crashes, beside one that runs on.
const WITHOUT_CONTROL: &[Domain<'static>] = &[
    Domain::new("control", "crash").command_line("null"),
    Domain::new("server", "events").command_line("role=server peer=2"),
    Domain::new("client", "events").command_line("role=client peer=1"),
];

const fn headless(name: &'static str, config: &'static str) -> MachineTest {
    let mut made = control(name, config, &[]);
    made.scenario.domains = HEADLESS;
    made
}

const fn linux() -> MachineTest {
    let mut made = headless("control-linux", LINUX).steps(LINUX_STEPS);
    made.scenario.offer = Offer {
        config: LINUX,
        images: &[VMLINUZ],
        ramdisks: &[Ramdisk::Init("linux-init")],
    };
    made.memory("1G").limit(Duration::from_secs(180))
}

const fn waiting_linux() -> MachineTest {
    let mut made = control("control-linux-asked", WAITING_LINUX, WAITING_LINUX_STEPS);
    made.scenario.offer = Offer {
        config: WAITING_LINUX,
        images: &[VMLINUZ],
        ramdisks: &[],
    };
    made.memory("1G").limit(Duration::from_secs(180))
}

/// The bytes of the first sectors of a partition that nobody is to write to.
const KEPT: &[u8; 2048] = &[0xb1; 2048];

fn write_kept(image: &mut DiskImage) -> Result<()> {
    let (first, _) = image.partition("kept")?;
    image.write(first, KEPT)
}

/// Disks that no driver has: they are as they were.
fn untouched() -> MachineTest {
    const DISK: Disk<'static> =
        Disk::new(Controller::Virtio, &[("other", 1), ("kept", 2)]).filled(write_kept);
    let mut made = control("control-disks-untouched", "", &[READY, OFF]);
    made.scenario.disks = &[
        DISK,
        Disk {
            controller: Controller::Nvme,
            ..DISK
        },
    ];
    made.holds = Some(|remains| {
        for image in &mut remains.images {
            let (first, sectors) = image.partition("kept")?;
            ensure!(sectors == 4096, "the partition has {sectors} sectors");
            ensure!(image.read(first, 4)? == KEPT, "the first sectors have changed");
        }
        Ok(())
    });
    made
}

/// A driver whose devices this machine has not, and a guest that wants a disk of it.
const NO_DEVICES: &str = r#"
[[driver]]
name = "io"
kernel = "resident"
devices = ["net"]

[[guest]]
name = "web"
kernel = "resident"
memory = "4M"
disk = ["web-data:rw"]
"#;

const NO_DEVICES_STEPS: &[Step] = &[
    Step::ExpectAll(&[
        Pattern("\"event\":\"control-ready\""),
        Pattern(
            "bulkhead.toml:5: devices = [\"net\"] should be some that this machine has, and no other driver",
        ),
    ]),
    typed("list\n"),
    expect("control*0*32M"),
    typed("driver list\n"),
    expect("DMA is*confined"),
    typed("driver list --json\n"),
    expect("\"drivers\":[]}"),
    typed("driver restart io\n"),
    expect("there is no driver io; `driver list` shows those that there are"),
    typed("disk list --json\n"),
    expect("[]"),
    typed("pci\n"),
    expect("Address*Class*ID*Interrupt*Driver"),
    typed("create web kernel=resident memory=4M disk=web-data\n"),
    expect("disk = \"web-data\" should have :rw or :ro at the end of \"web-data\""),
    typed("create web kernel=resident memory=4M disk=web-data:rw\n"),
    expect("disk = [\"web-data:rw\"] should have a [[driver]] to serve it"),
    typed("create web kernel=resident memory=4M\n"),
    expect("web is domain 1"),
    typed("disk attach web web-data:rw\n"),
    expect("web: no disk has a partition web-data; there are no disks"),
    typed("disk detach web xvda\n"),
    expect("web has no disk xvda; `disk list` shows who has which"),
    OFF,
];

/// Those that stand in a table.
const TABLE: &[MachineTest] = &[
    control("control-lives", LIVES, LIVES_STEPS).ends(Ending::DomainCrashed),
    control("control-consoles", PAIR, CONSOLE_STEPS),
    // What is typed comes by interrupts that are remapped.
    control("control-iommu", PAIR, CONSOLE_STEPS).iommu(IOMMU),
    control("control-mistakes", MISTAKES, MISTAKES_STEPS),
    control("control-no-devices", NO_DEVICES, NO_DEVICES_STEPS),
    control("control-printers", PRINTERS, PRINTERS_STEPS),
    control("control-spooler", SPOOLER, SPOOLER_STEPS),
    headless("control-store", SUITE).checks(9),
    linux(),
    waiting_linux(),
    test("control-gone", WITHOUT_CONTROL)
        .words(&[])
        .steps(&[
            expect("domain 0 (control) is gone: crash"),
            expect("nobody is in control; the other domains run on"),
        ])
        .checks(2)
        .ends(Ending::DomainCrashed)
        .in_full(InFull::Once),
];

/// Those whose scripts are made.
static MADE: LazyLock<Vec<MachineTest>> = LazyLock::new(|| {
    vec![
        tour(),
        untouched(),
        crowd("control-crowd", 20, 2).limit(Duration::from_secs(120)),
        crowd("control-hundred", 100, 10)
            .memory("2G")
            .limit(Duration::from_secs(1800))
            .in_full(InFull::OnlyThere),
    ]
});

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static MachineTest> {
    TABLE.iter().chain(MADE.iter())
}

/// Guests of 4 MiB made, seen running, destroyed, again and again: free memory is as before each time.
fn crowd(name: &'static str, guests: u32, rounds: u32) -> MachineTest {
    let leak = |text: String| -> &'static str { text.leak() };
    let mut steps = vec![READY];
    for _ in 0..rounds {
        steps.push(typed("info --json\n"));
        steps.push(Step::Same(Pattern("\"free\":")));
        for guest in 1..=guests {
            steps.push(typed(leak(format!(
                "create g{guest} kernel=resident memory=4M console=print\n"
            ))));
            steps.push(expect(leak(format!("(g{guest}) resident: g{guest} is here"))));
        }
        for guest in 1..=guests {
            steps.push(typed(leak(format!("destroy g{guest}\n"))));
            steps.push(expect(leak(format!(
                "\"event\":\"destroyed\",\"domain\":\"g{guest}\""
            ))));
        }
    }
    steps.extend([typed("info --json\n"), Step::Same(Pattern("\"free\":")), OFF]);
    control(name, "", steps.leak())
}

/// The README's tour of the shell, as it is printed there: what stands after the prompt is typed, and what follows must come. Numbers may
/// be others, and columns as wide as they like.
fn tour() -> MachineTest {
    const README: &str = include_str!("../../README.md");
    const PROMPT: &str = "bulkhead> ";
    let printed = README
        .split("```console\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .flat_map(str::lines)
        .filter(|line| !line.trim().is_empty());
    // What is printed before the first command, in any order; and a reader types no faster than guests are made.
    let mut first = vec![Pattern("\"event\":\"control-ready\"")];
    let mut steps = Vec::new();
    for line in printed {
        match line.strip_prefix(PROMPT) {
            Some(command) => steps.push(typed(format!("{command}\n").leak())),
            None if steps.is_empty() => first.push(Pattern(shape(line).leak())),
            None => steps.push(expect(shape(line).leak())),
        }
    }
    steps.insert(0, Step::ExpectAll(first.leak()));
    let mut made = test("control-tour", CONTROL).words(&[]).steps(steps.leak());
    made.scenario.offer = EXAMPLE.offer;
    made.scenario.machine.nic = EXAMPLE.machine.nic;
    made.in_full(InFull::Once)
}

/// A line with `*` for each number and each gap.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for c in line.chars() {
        let is_open = c.is_ascii_digit() || c == ' ' || c == '.';
        match is_open {
            true if shape.ends_with('*') => {}
            true => shape.push('*'),
            false => shape.push(c),
        }
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_gaps_of_a_printed_line_may_be_others() {
        assert_eq!(shape("red   1  16M      0.3"), "red*M*");
        assert!(
            Pattern(shape("red   1  16M  0.3").leak())
                .find("red 12 8M   11.0")
                .is_some()
        );
    }

    #[test]
    fn the_readme_has_a_tour_that_ends() {
        let steps = tour().expected.script.steps;
        assert!(steps.len() > 10, "{}", steps.len());
        assert!(
            steps
                .iter()
                .any(|step| matches!(step, Step::Type(line) if line.starts_with("poweroff")))
        );
    }
}
