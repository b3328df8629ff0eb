//! The group `machine`: guests in QEMU, as many machines at a time as this one has CPUs.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::boot_tests::{BOARDS, MEMORY};
use crate::build::{BootFiles, Profile, Workshop};
use crate::console::Transcript;
use crate::disks::{self, DiskImage, Drive};
use crate::images::Images;
use crate::linux::Unavailable;
use crate::loader::{self, Loader, Medium};
use crate::machine_tests::{self, InFull, MachineTest, OTHER_CPUS, Remains};
use crate::project::Project;
use crate::qemu::{self, Cable, Console, MICROVM, Machine};
use crate::scenario::Scenario;
use crate::test::filter::{Filter, Group};
use crate::test::tally::Tally;
use crate::trial::{self, Failure};

/// One run of a machine test.
struct Case {
    name: String,
    test: &'static MachineTest,
    machine: Machine<'static>,
}

/// What the cases of one scenario are booted with.
#[derive(Clone)]
struct Boot {
    files: BootFiles,
    medium: Medium,
}

/// Runs the machine tests that `filter` selects.
///
/// # Errors
///
/// If logs cannot be written. A test that cannot be built or booted has failed.
pub(super) fn run(
    project: &Project,
    images: &Images,
    filter: &Filter,
    is_full: bool,
    tally: &mut Tally,
) -> Result<()> {
    let cases: Vec<Case> = cases(is_full)
        .into_iter()
        .filter(|case| filter.selects(Group::Machine, &case.name))
        .collect();
    if cases.is_empty() {
        return Ok(());
    }
    tally.stage("building images");
    let mut workshop = Workshop::new(project, images, Profile::Checked);
    let mut made: BTreeMap<&str, Boot> = BTreeMap::new();
    let mut ready = Vec::new();
    for case in cases {
        let scenario = &case.test.scenario;
        let boot = match made.get(scenario.name) {
            Some(boot) => Ok(boot.clone()),
            None => boot_of(project, &mut workshop, scenario),
        };
        match boot {
            Ok(boot) => {
                made.insert(scenario.name, boot.clone());
                ready.push((case, boot));
            }
            Err(error) => match error.downcast_ref::<Unavailable>() {
                Some(why) => tally.skip(&full_name(&case.name), &why.to_string()),
                None => tally.fail(&full_name(&case.name), Duration::ZERO, &format!("{error:#}")),
            },
        }
    }
    tally.stage("machine tests");
    let logs = project.target("machine-tests")?;
    let log = |case: &Case| logs.join(format!("{}.log", case.name));
    in_parallel(
        &ready,
        |(case, boot)| start(case, &boot.medium, &logs, &log(case)),
        |(case, boot), outcome, time| report(tally, &case.name, &outcome, time, &log(case), &boot.files),
    );
    Ok(())
}

/// Builds what a scenario boots, and installs what its loader needs.
fn boot_of(project: &Project, workshop: &mut Workshop<'_>, scenario: &Scenario<'_>) -> Result<Boot> {
    let files = workshop.boot_files(scenario)?;
    let medium = loader::medium(
        project,
        scenario.loader,
        &files,
        scenario.words,
        scenario.grub_script,
    )?;
    Ok(Boot { files, medium })
}

/// Every test once; in the full matrix also what each test says.
fn cases(is_full: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for test in machine_tests::all() {
        let Scenario { name, machine, .. } = test.scenario;
        let mut add = |name: String, machine| cases.push(Case { name, test, machine });
        if is_full || test.in_full != InFull::OnlyThere {
            add(name.to_owned(), machine);
        }
        if !is_full {
            continue;
        }
        match test.in_full {
            InFull::Once => {}
            InFull::OnEveryCpu | InFull::OnlyThere => {
                for &(model, cpu) in OTHER_CPUS {
                    add(format!("{name}@{model}"), Machine { cpu, ..machine });
                }
            }
            InFull::OnEveryMachine => {
                for other in every_machine(machine) {
                    // No disc starts a microvm.
                    if test.scenario.loader == Loader::Pvh || other.1.board != MICROVM {
                        add(format!("{name}@{}", other.0), other.1);
                    }
                }
            }
        }
    }
    cases
}

/// `machine` with every other combination of board, memory and CPU model, and a name for each.
fn every_machine(machine: Machine<'static>) -> Vec<(String, Machine<'static>)> {
    let cpus = [&[("default", machine.cpu)], OTHER_CPUS].concat();
    let mut machines = Vec::new();
    for &board in BOARDS {
        for &memory in MEMORY {
            for &(model, cpu) in &cpus {
                let other = Machine {
                    board,
                    memory,
                    cpu,
                    ..machine
                };
                if (board, memory, cpu) != (machine.board, machine.memory, machine.cpu) {
                    machines.push((format!("{board}-{memory}-{model}"), other));
                }
            }
        }
    }
    machines
}

/// Boots a case, with disks of its own in `directory`, which are left there for somebody to look at if it fails.
fn start(case: &Case, medium: &Medium, directory: &Path, log: &Path) -> Result<Transcript, Failure> {
    let drives = disks::provide(directory, &case.name, case.test.scenario.disks)
        .map_err(|error| Failure::of(&error))?;
    let command = |cable: &Cable| qemu::command(&case.machine, &drives, cable, medium, Console::Plain);
    let transcript = trial::run_with_peer(&case.name, case.test.peer, command, &case.test.expected, log)?;
    let judge = || {
        let images = drives.iter().map(|drive| DiskImage::open(&drive.image));
        let mut remains = Remains {
            lines: transcript.lines(),
            drives: &drives,
            images: images.collect::<Result<_>>()?,
        };
        if let Some(holds) = case.test.holds {
            holds(&mut remains)?;
        }
        drives.iter().try_for_each(Drive::remove)
    };
    judge().map_err(|error| Failure::of(&error))?;
    Ok(transcript)
}

fn report(
    tally: &mut Tally,
    name: &str,
    outcome: &Result<Transcript, Failure>,
    time: Duration,
    log: &Path,
    files: &BootFiles,
) {
    let full_name = full_name(name);
    match outcome.as_ref().map(Transcript::checks_passed) {
        Ok(0) => tally.pass(&full_name, time, ""),
        Ok(checks) => tally.pass(&full_name, time, &format!("{checks} checks")),
        Err(failure) => {
            tally.fail(&full_name, time, "");
            failure.print(log, files);
        }
    }
}

fn full_name(name: &str) -> String {
    format!("{}/{name}", Group::Machine.name())
}

/// Does `work` on every item, on as many threads as there are CPUs, and `done` here as each ends.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
    mut done: impl FnMut(&T, R, Duration),
) {
    let workers = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(items.len());
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..workers {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                // Relaxed: the counter only hands out indices; the items were there before the threads.
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    let result = work(item);
                    // The receiver lives as long as this scope.
                    drop(sender.send((item, result, started.elapsed())));
                }
            });
        }
        drop(sender);
        for (item, result, time) in results {
            done(item, result, time);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::iter;

    use super::*;

    #[test]
    fn a_failed_machine_is_counted_as_one_failure() {
        let failure = Failure {
            complaints: vec!["it burns".into(), "it sinks".into()],
            last_lines: Vec::new(),
        };
        let files = BootFiles {
            hypervisor: "hv".into(),
            stripped_hypervisor: "hv.stripped".into(),
            archive: "a.tar".into(),
            hypervisor_symbols: "hv.sym".into(),
            domain_symbols: Vec::new(),
        };
        let mut tally = Tally::start();
        report(
            &mut tally,
            "hello",
            &Err(failure),
            Duration::ZERO,
            Path::new("hello.log"),
            &files,
        );
        assert_eq!(tally.last_line(), "0 passed, 1 failed");
    }

    #[test]
    fn work_in_parallel_is_done_once_for_each_item() {
        let items: Vec<u32> = (0..100).collect();
        let mut done = Vec::new();
        in_parallel(
            &items,
            |item| item * 2,
            |item, result, _| done.push((*item, result)),
        );
        done.sort_unstable();
        assert_eq!(
            done,
            items.iter().map(|item| (*item, item * 2)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn the_full_matrix_has_each_test_on_each_cpu_under_a_name_of_its_own() {
        let full = cases(true);
        let mut names: Vec<&str> = full.iter().map(|case| case.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), full.len());
        assert!(
            full.iter()
                .any(|case| case.name == "hello@skylake" && case.machine.cpu.starts_with("Skylake-Server"))
        );
        let short = machine_tests::all().filter(|test| test.in_full != InFull::OnlyThere);
        assert_eq!(cases(false).len(), short.count());
    }

    #[test]
    fn the_full_matrix_boots_every_machine_by_every_loader_that_it_has() {
        let full = cases(true);
        for loader in [Loader::Pvh, Loader::Bios, Loader::Uefi] {
            let of_loader = full.iter().filter(|case| case.test.scenario.loader == loader);
            let machines: BTreeSet<_> = of_loader
                .map(|case| (case.machine.board, case.machine.memory, case.machine.cpu))
                .collect();
            for &board in BOARDS {
                for &memory in MEMORY {
                    for cpu in iter::once("qemu64").chain(OTHER_CPUS.iter().map(|&(_, cpu)| cpu)) {
                        let is_there = machines.contains(&(board, memory, cpu));
                        assert_eq!(is_there, loader == Loader::Pvh || board != MICROVM);
                    }
                }
            }
        }
    }
}
