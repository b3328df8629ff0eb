//! The group `machine`: guests in QEMU, as many machines at a time as this one has CPUs.

use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::build::{BootFiles, Workshop};
use crate::console::Transcript;
use crate::console::session::{self, Finish};
use crate::images::Images;
use crate::machine_tests::{MACHINE_TESTS, MachineTest, OTHER_CPUS};
use crate::project::Project;
use crate::qemu::{self, Console, Ending, Machine};
use crate::test::filter::{Filter, Group};
use crate::test::tally::Tally;

/// How much of its console a failed test shows; the rest stands in its log.
const LINES_SHOWN: usize = 40;

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
    let mut workshop = Workshop::new(project, images);
    let mut ready = Vec::new();
    for case in cases {
        match workshop.boot_files(&case.test.scenario) {
            Ok(files) => ready.push((case, files)),
            Err(error) => tally.fail(&full_name(&case.name), Duration::ZERO, &format!("{error:#}")),
        }
    }
    tally.stage("machine tests");
    let logs = project.target("machine-tests")?;
    in_parallel(
        &ready,
        |(case, files)| boot(case, files, &logs),
        |(case, _), outcome, time| {
            report(tally, &case.name, &outcome, time, &logs);
        },
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

/// What one test came to: how many checks passed, or what was wrong and the end of its console.
type Outcome = Result<usize, Failure>;

/// What was wrong with a test.
#[derive(Debug)]
struct Failure {
    complaints: Vec<String>,
    last_lines: Vec<String>,
}

fn boot(case: &Case, files: &BootFiles, logs: &Path) -> Outcome {
    let scenario = &case.test.scenario;
    let machine = Machine {
        cpu: case.cpu,
        ..scenario.machine
    };
    let mut command = qemu::command(&machine, files, scenario.words, Console::Plain);
    attempt(&mut command, case.test, &logs.join(format!("{}.log", case.name)))
}

/// Runs the command, which is QEMU except in tests of this function, and judges what it did.
fn attempt(command: &mut Command, test: &MachineTest, log: &Path) -> Outcome {
    let mut transcript = Transcript::new(test.script);
    let finish = session::run(command, &mut transcript, log, test.limit);
    let has_failed = transcript.has_failed();
    let mut complaints = transcript.complaints();
    match finish {
        Ok(Finish::Ended(status)) => {
            let ending = Ending::of(status);
            if ending != test.ending {
                complaints.push(format!(
                    "{} Expected: {}",
                    ending.sentence(),
                    test.ending.sentence()
                ));
            }
        }
        Ok(Finish::Killed) if has_failed => complaints.push("it was stopped after this failure".into()),
        Ok(Finish::Killed) => {
            complaints.push(format!("it did not end within {} s", test.limit.as_secs_f64()))
        }
        Err(error) => complaints.push(format!("{error:#}")),
    }
    if complaints.is_empty() {
        return Ok(transcript.checks_passed());
    }
    let lines = transcript.lines();
    let last_lines = lines
        .get(lines.len().saturating_sub(LINES_SHOWN)..)
        .unwrap_or_default()
        .to_vec();
    Err(Failure {
        complaints,
        last_lines,
    })
}

fn report(tally: &mut Tally, name: &str, outcome: &Outcome, time: Duration, logs: &Path) {
    let full_name = full_name(name);
    match outcome {
        Ok(0) => tally.pass(&full_name, time, ""),
        Ok(checks) => tally.pass(&full_name, time, &format!("{checks} checks")),
        Err(failure) => {
            tally.fail(&full_name, time, "");
            for complaint in &failure.complaints {
                println!("        {complaint}");
            }
            println!(
                "        last lines of {}:",
                logs.join(format!("{name}.log")).display()
            );
            for line in &failure.last_lines {
                println!("        | {line}");
            }
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
    use crate::console::{Pattern, Script, Step};
    use crate::scenario;

    const HELLO: MachineTest = MachineTest {
        scenario: scenario::EXAMPLE,
        script: Script {
            steps: &[Step::Expect(Pattern("hello"))],
            forbidden: &[Pattern("panicked")],
            checks: 1,
        },
        ending: Ending::Clean,
        limit: Duration::from_secs(60),
    };

    /// What the harness says of a machine that is a shell script.
    fn judged(name: &str, shell: &str, test: &MachineTest) -> Outcome {
        let log = std::env::temp_dir().join(format!("xtask-machine-{}-{name}.log", std::process::id()));
        let outcome = attempt(Command::new("sh").args(["-c", shell]), test, &log);
        std::fs::remove_file(&log).unwrap();
        outcome
    }

    fn complaint(name: &str, shell: &str, test: &MachineTest) -> String {
        let failure = judged(name, shell, test).unwrap_err();
        assert_eq!(failure.complaints.len(), 1, "{:?}", failure.complaints);
        failure.complaints[0].clone()
    }

    #[test]
    fn a_machine_that_does_as_expected_passes_with_its_checks() {
        assert_eq!(
            judged("good", "echo hello; echo CHECK a ok; exit 33", &HELLO).unwrap(),
            1
        );
    }

    #[test]
    fn a_wrong_exit_status_fails() {
        let said = complaint("status", "echo hello; echo CHECK a ok; exit 35", &HELLO);
        assert_eq!(
            said,
            "A domain crashed. Expected: All domains powered off cleanly."
        );
        complaint("reset", "echo hello; echo CHECK a ok; exit 0", &HELLO);
    }

    #[test]
    fn a_missing_line_fails() {
        assert_eq!(
            complaint("missing", "echo CHECK a ok; exit 33", &HELLO),
            "`hello` did not appear"
        );
    }

    #[test]
    fn a_forbidden_line_fails_even_with_a_clean_end() {
        let said = complaint(
            "forbidden",
            "echo hello; echo CHECK a ok; echo panicked; exit 33",
            &HELLO,
        );
        assert!(said.contains("panicked"), "{said}");
    }

    #[test]
    fn a_failed_check_fails_the_test() {
        let said = complaint(
            "check",
            "echo hello; echo CHECK a ok; echo CHECK b FAILED: no; exit 33",
            &HELLO,
        );
        assert!(said.contains("CHECK b FAILED: no"), "{said}");
    }

    #[test]
    fn a_machine_that_hangs_fails_when_its_time_is_over() {
        let hasty = MachineTest {
            limit: Duration::from_millis(500),
            ..HELLO
        };
        let said = complaint("hang", "echo hello; echo CHECK a ok; exec sleep 1000", &hasty);
        assert_eq!(said, "it did not end within 0.5 s");
    }

    #[test]
    fn a_failure_shows_the_end_of_the_console() {
        let failure = judged("tail", "seq 100; exit 33", &HELLO).unwrap_err();
        assert_eq!(failure.last_lines.len(), LINES_SHOWN);
        assert_eq!(failure.last_lines.last().unwrap(), "100");
    }

    #[test]
    fn a_failed_machine_is_counted_as_one_failure() {
        let mut tally = Tally::start();
        report(
            &mut tally,
            "hello",
            &judged("count", "exit 33", &HELLO),
            Duration::ZERO,
            Path::new("logs"),
        );
        assert_eq!(tally.close(), std::process::ExitCode::FAILURE);
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
