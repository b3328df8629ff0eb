//! The log of Debian's kernel as a guest of Xen 4.17, with which that on Bulkhead is compared.
//!
//! [`make`] has [Xen](xen) make a guest as the machine test `linux-log` does: the same kernel, ramdisk, command line, and amounts. What its console had is kept in the
//! tree.

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::xen::{self, Guest};
use super::{Flavour, system};
use crate::console::{Pattern, Script, Step, Transcript, session};
use crate::project::Project;
use crate::qemu::{self, Cable, Console, Machine};
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
memory = 256
vcpus = 2
extra = "COMMAND-LINE"
disk = ["format=raw, vdev=xvda, access=w, backendtype=phy, script=/work/hotplug, target=/dev/loop0"]
vif = ["script=/work/hotplug"]
on_crash = "destroy"
"#;

/// What stands before its lines.
const GUESTS: &str = "(guest) ";

/// Makes the log anew.
///
/// # Errors
///
/// If Xen or the kernel cannot be had here, or the guest does not come to its end.
pub(crate) fn make(project: &Project) -> Result<ExitCode> {
    setup::provide(project, &[Need::Qemu])?;
    let guest = Guest {
        config: GUEST.replace("COMMAND-LINE", COMMAND_LINE),
        ramdisk: system::ramdisk(project, Flavour::Stock)?,
    };
    let machine = Machine {
        cpus: 2,
        ..xen::MACHINE
    };
    let medium = xen::medium(project, &guest)?;
    let mut command = qemu::command(&machine, &[], &Cable::QUIET, &medium, Console::Plain);
    let log = project.target("machine-tests")?.join("xen-log.log");
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
/// Another kernel has other dates and sizes, and says some things in other words: then numbers may be others, and what a line says after its
/// first colon.
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
    let (mut missing, mut new) = (only("-", theirs, ours), only("+", ours, theirs));
    if !is_same_kernel {
        missing.retain(|line| {
            let reworded = speaker(line).and_then(|speaker| {
                let mut new = new.iter();
                new.position(|line| self::speaker(line) == Some(speaker))
            });
            reworded.map(|index| new.remove(index)).is_none()
        });
    }
    [missing, new].concat()
}

/// The part of the kernel that a difference is of: what stands before the first colon.
fn speaker(difference: &str) -> Option<&str> {
    let (_, line) = difference.split_once(' ')?;
    line.split_once(": ").map(|(speaker, _)| speaker)
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
    fn of_another_kernel_numbers_may_differ_and_words_and_nothing_else() {
        let theirs = ["version 6.1.1", "4096 pages", "old"].map(str::to_owned);
        let ours = ["version 6.1.22", "500 pages", "new"].map(str::to_owned);
        assert_eq!(differ(&ours, &theirs, ""), ["- old", "+ new"]);
        let [_, pages, new] = ours;
        let ours = ["version 6.1.1".into(), pages, new];
        assert_eq!(
            differ(&ours, &theirs, ""),
            ["- 4096 pages", "- old", "+ 500 pages", "+ new"]
        );
        let theirs = ["version 6.1.1", "rcu: 1 cpus=1", "rcu: done", "gone: y"].map(str::to_owned);
        let ours = ["version 6.1.2", "rcu: 2", "new: y"].map(str::to_owned);
        assert_eq!(
            differ(&ours, &theirs, ""),
            ["- rcu: done", "- gone: y", "+ new: y"]
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
