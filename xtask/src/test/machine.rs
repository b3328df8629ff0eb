//! The group `machine`: guests in QEMU, as many machines at a time as this one has CPUs.

use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::build::{BootFiles, Profile, Workshop};
use crate::console::Transcript;
use crate::images::Images;
use crate::machine_tests::{MACHINE_TESTS, MachineTest, OTHER_CPUS};
use crate::project::Project;
use crate::qemu::{self, Console, Machine};
use crate::test::filter::{Filter, Group};
use crate::test::tally::Tally;
use crate::trial::{self, Failure};

/// One run of a machine test.
struct Case {
    name: String,
    test: &'static MachineTest,
    cpu: &'static str,
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
    let mut ready = Vec::new();
    for case in cases {
        match workshop.boot_files(&case.test.scenario) {
            Ok(files) => ready.push((case, files)),
            Err(error) => tally.fail(&full_name(&case.name), Duration::ZERO, &format!("{error:#}")),
        }
    }
    tally.stage("machine tests");
    let logs = project.target("machine-tests")?;
    let log = |case: &Case| logs.join(format!("{}.log", case.name));
    in_parallel(
        &ready,
        |(case, files)| boot(case, files, &log(case)),
        |(case, files), outcome, time| report(tally, &case.name, &outcome, time, &log(case), files),
    );
    Ok(())
}

/// Every test once; in the full matrix also on every other CPU model, unless the test has chosen its own.
fn cases(is_full: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for test in MACHINE_TESTS {
        let Machine { cpu, .. } = test.scenario.machine;
        cases.push(Case {
            name: test.scenario.name.to_owned(),
            test,
            cpu,
        });
        if is_full && cpu == Machine::DEFAULT.cpu {
            cases.extend(OTHER_CPUS.iter().map(|(model, cpu)| Case {
                name: format!("{}@{model}", test.scenario.name),
                test,
                cpu,
            }));
        }
    }
    cases
}

fn boot(case: &Case, files: &BootFiles, log: &Path) -> Result<Transcript, Failure> {
    let scenario = &case.test.scenario;
    let machine = Machine {
        cpu: case.cpu,
        ..scenario.machine
    };
    let mut command = qemu::command(&machine, files, scenario.words, Console::Plain);
    trial::run(&mut command, &case.test.expected, log)
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
    use super::*;

    #[test]
    fn a_failed_machine_is_counted_as_one_failure() {
        let failure = Failure {
            complaints: vec!["it burns".into(), "it sinks".into()],
            last_lines: Vec::new(),
        };
        let files = BootFiles {
            hypervisor: "hv".into(),
            archive: "a.tar".into(),
            kernels: Vec::new(),
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
                .any(|case| case.name == "hello@skylake" && case.cpu == "Skylake-Server")
        );
        assert_eq!(cases(false).len(), MACHINE_TESTS.len());
    }
}
