//! The log of Debian's kernel as a guest of Xen 4.17, with which that on Bulkhead is compared.
//!
//! [`make`] boots Xen in QEMU with the same kernel as its control domain, which makes a guest as the machine test `linux-log` does: the same kernel,
//! ramdisk, command line, and amounts. What its console had is kept in the tree.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::modules::Role;
use super::programs::{self, Programs};
use super::{initramfs::Archive, system};
use crate::console::{Pattern, Script, Step, Transcript, session};
use crate::project::Project;
use crate::setup::{self, Need};

/// The log, as it is kept in the tree.
pub(crate) const LOG: &str = include_str!("xen-4.17.log");

/// What may differ from it: lines with patterns, after `-` for what may be missing here, after `+` for what may be here alone, after both for what
/// has other values; `#` begins a comment, which says why.
const ALLOWED: &str = include_str!("xen-4.17.allowed");

/// Where the log is.
const PLACE: &str = "xtask/src/linux/xen-4.17.log";

/// The guest's command line, here as there.
pub(crate) const COMMAND_LINE: &str = "console=hvc0 work=both cpus=2 brief=1";

/// The guest, as Xen's toolstack is told of it.
const GUEST: &str = r#"
name = "web"
kernel = "/guest/vmlinuz"
ramdisk = "/guest/ramdisk"
memory = 256
vcpus = 2
extra = "COMMAND-LINE"
disk = ["format=raw, vdev=xvda, access=w, backendtype=phy, script=/work/hotplug, target=/dev/loop0"]
vif = ["script=/work/hotplug"]
on_crash = "destroy"
"#;

/// What stands before its lines.
const GUESTS: &str = "(guest) ";

/// Programs of Xen's control domain.
const PROGRAMS: &[&str] = &[
    "usr/bin/xenstore-write",
    "usr/lib/xen-4.17/bin/xen-init-dom0",
    "usr/lib/xen-4.17/bin/xenconsoled",
    "usr/lib/xen-4.17/bin/xenstored",
    "usr/lib/xen-4.17/bin/xl",
];

/// Makes the log anew.
///
/// # Errors
///
/// If Xen or the kernel cannot be had here, or the guest does not come to its end.
pub(crate) fn make(project: &Project) -> Result<ExitCode> {
    setup::provide(project, &[Need::Qemu])?;
    let directory = project.target("linux")?;
    let xen = Programs::get(project, programs::XEN)?;
    let hypervisor = directory.join("xen.elf");
    let packed = directory.join("xen.gz");
    fs::write(&packed, xen.file("boot/xen-4.17-amd64.gz")?)?;
    let unpacked = Command::new("gzip")
        .args(["--decompress", "--stdout"])
        .arg(&packed)
        .output()?;
    ensure!(
        unpacked.status.success(),
        "gzip cannot unpack {}",
        packed.display()
    );
    fs::write(&hypervisor, unpacked.stdout)?;
    let kernel = super::kernel(project)?;
    let ramdisk = directory.join("xen-control.cpio");
    fs::write(&ramdisk, control(project, &xen, &fs::read(&kernel.packed)?)?)?;
    let log = project.target("machine-tests")?.join("xen-log.log");
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-machine", "q35", "-accel", "tcg", "-cpu", "qemu64", "-m", "1536M", "-smp", "2",
        ])
        .args([
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
            "-monitor",
            "none",
        ])
        .arg("-kernel")
        .arg(&hypervisor)
        .args([
            "-append",
            "console=com1 com1=115200 dom0_mem=640M,max:640M loglvl=warning",
        ])
        .arg("-initrd")
        .arg(format!(
            "{} console=hvc0 quiet work=xen,{}",
            kernel.packed.display(),
            ramdisk.display()
        ));
    const SCRIPT: Script = Script {
        steps: &[
            Step::Expect(Pattern("(guest) both: is here")),
            Step::Expect(Pattern("work-is-done")),
        ],
        forbidden: &[Pattern("libxl: error")],
        checks: 0,
    };
    let mut transcript = Transcript::new(SCRIPT);
    session::run(
        &mut command,
        &mut transcript,
        &log,
        Duration::from_secs(300),
        |_| (),
    )?;
    let complaints = transcript.complaints();
    ensure!(
        complaints.is_empty(),
        "{}; see {}",
        complaints.join("; "),
        log.display()
    );
    let lines = transcript.lines().iter();
    let of_the_guest: Vec<String> = lines.filter(|line| line.starts_with(GUESTS)).cloned().collect();
    let lines = of_guest(&of_the_guest);
    fs::write(project.folder(PLACE), lines.join("\n") + "\n")
        .with_context(|| format!("cannot write {PLACE}"))?;
    println!("{PLACE}: {} lines", lines.len());
    Ok(ExitCode::SUCCESS)
}

/// The ramdisk of Xen's control domain.
fn control(project: &Project, xen: &Programs, kernel: &[u8]) -> Result<Vec<u8>> {
    let mut archive: Archive = system::archive(project, Role::XensControl)?;
    for (place, content) in xen.with_libraries(PROGRAMS)? {
        archive.program(&place, &content);
    }
    // It is loaded by name when a thread ends.
    let by_name = "lib/x86_64-linux-gnu/libgcc_s.so.1";
    archive.program(by_name, &xen.file(by_name)?);
    archive.plain("guest/vmlinuz", kernel);
    archive.plain("guest/ramdisk", &system::ramdisk(project)?);
    archive.plain(
        "guest/config",
        GUEST.replace("COMMAND-LINE", COMMAND_LINE).as_bytes(),
    );
    Ok(archive.finish())
}

/// What a guest's kernel has logged, without times: what stands on its console, alone or after its name, without what its programs said.
pub(crate) fn of_guest(lines: &[String]) -> Vec<String> {
    let of_kernel = |line: &String| {
        let line = line.strip_prefix(GUESTS).unwrap_or(line);
        let (time, text) = line.strip_prefix('[')?.split_once("] ")?;
        let is_time = time.trim().chars().all(|c| c.is_ascii_digit() || c == '.');
        is_time.then(|| text.trim_end().to_owned())
    };
    lines.iter().filter_map(of_kernel).collect()
}

/// How the log `ours` differs from [that on Xen](LOG), but for what [may differ](ALLOWED): lines that are only here after `+`, those that are only there after `-`.
///
/// A kernel that has come since has other dates and sizes: then numbers may be others.
pub(crate) fn differences(ours: &[String]) -> Vec<String> {
    let theirs: Vec<String> = LOG.lines().map(str::to_owned).collect();
    differ(ours, &theirs, ALLOWED)
}

fn differ(ours: &[String], theirs: &[String], allowed: &'static str) -> Vec<String> {
    let lines = allowed.lines().filter(|line| !line.starts_with('#'));
    let allowed: Vec<(&str, Pattern)> = lines
        .filter_map(|line| {
            let (side, pattern) = line.split_once(' ')?;
            Some((side, Pattern(pattern)))
        })
        .collect();
    let may_be = |side: &str, line: &str| {
        let mut of_side = allowed.iter().filter(|(allowed, _)| allowed.contains(side));
        of_side.any(|(_, pattern)| pattern.find(line).is_some())
    };
    // The first line has the kernel's version.
    let is_same_kernel = ours.first() == theirs.first();
    let compared = |line: &String| {
        if is_same_kernel {
            line.clone()
        } else {
            line.replace(|c: char| c.is_ascii_digit(), "")
        }
    };
    let only = |side: &'static str, these: &[String], those: &[String]| {
        let those: BTreeSet<String> = those.iter().map(compared).collect();
        let is_only = |line: &&String| !those.contains(&compared(line)) && !may_be(side, line);
        let only = these.iter().filter(is_only);
        only.map(|line| format!("{side} {line}")).collect::<Vec<_>>()
    };
    [only("-", theirs, ours), only("+", ours, theirs)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_told_from_others_and_have_no_times() {
        let lines = [
            "[    0.1] one ",
            "(guest) [   12.5] two",
            "CHECK x ok",
            "[not] three",
        ]
        .map(str::to_owned);
        assert_eq!(of_guest(&lines), ["one", "two"]);
    }

    #[test]
    fn logs_differ_by_what_is_not_allowed() {
        let ours = ["same", "cpu 1 irq 13", "new"].map(str::to_owned);
        let theirs = ["same", "cpu 1 irq 11", "old"].map(str::to_owned);
        assert_eq!(
            differ(&ours, &theirs, "# numbers\n+- cpu * irq\n- new\n"),
            ["- old", "+ new"]
        );
    }

    #[test]
    fn of_another_kernel_numbers_may_differ_and_nothing_else() {
        let theirs = ["version 6.1.1", "4096 pages", "old"].map(str::to_owned);
        let ours = ["version 6.1.22", "500 pages", "new"].map(str::to_owned);
        assert_eq!(differ(&ours, &theirs, ""), ["- old", "+ new"]);
        let [_, pages, new] = ours;
        let ours = ["version 6.1.1".into(), pages, new];
        assert_eq!(
            differ(&ours, &theirs, ""),
            ["- 4096 pages", "- old", "+ 500 pages", "+ new"]
        );
    }

    #[test]
    fn the_log_is_of_a_kernel_that_came_to_its_end_and_the_list_has_patterns_for_both_sides() {
        assert!(LOG.starts_with("Linux version 6.") && LOG.ends_with("reboot: System halted\n"));
        let is_right = |line: &str| {
            line.is_empty()
                || ["# ", "+ ", "- ", "+- "]
                    .iter()
                    .any(|start| line.starts_with(start))
        };
        assert!(ALLOWED.lines().all(is_right));
    }
}
