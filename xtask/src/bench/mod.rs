//! `cargo xtask bench`: boots the benchmarks, prints what they measured, and keeps it as JSON.
//!
//! With `--icount` the machine's clock counts instructions: one run is as good as many, and figures that are told by parts say how
//! many are whose. Without it every figure
//! is the median of three runs, and its spread is told beside it.

mod figures;
mod results;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::archive;
use crate::bench::figures::Figure;
use crate::bench::results::Results;
use crate::benches::{BENCHES, Bench};
use crate::build::{self, BootFiles, Profile, Workshop};
use crate::console::Script;
use crate::disks;
use crate::images::Images;
use crate::loader;
use crate::machine_tests::ALWAYS_FORBIDDEN;
use crate::project::{Project, output_of, spelled};
use crate::qemu::{self, Cable, Clock, Console, Ending, Machine};
use crate::scenario::Scenario;
use crate::setup::{self, Need};
use crate::trial::{self, Expectation};

/// The arguments of `cargo xtask bench`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Only this benchmark; if there is none, those whose names begin with this and `-`.
    name: Option<String>,
    /// Deterministic time: the machine's clock advances with its instructions, 2 ns each.
    #[arg(long)]
    icount: bool,
}

/// Runs without deterministic time, of which the median counts; odd.
const RUNS: usize = 3;

/// Measures what the arguments name.
///
/// # Errors
///
/// If there is no such benchmark, or one could not be built or its results not be written.
pub(crate) fn bench(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    let benches = select(arguments.name.as_deref())?;
    setup::provide(project, &[build::NEEDS, &[Need::Qemu]].concat())?;
    let images = Images::of(&project.metadata(None)?);
    let mut workshop = Workshop::new(project, &images, Profile::Release);
    let mut has_failed = false;
    for bench in benches {
        let name = bench.scenario.name;
        if arguments.icount && bench.peer.is_some() {
            println!("{name}: left out: the peer outside of the machine has another clock");
            continue;
        }
        let files = workshop.boot_files(&bench.scenario)?;
        println!("{name}: {}", bench.about);
        match measure(project, bench, &files, arguments.icount)? {
            Some((results, command)) => {
                print!("{}", results.table());
                // The two kinds of time are two histories: neither overwrites the other.
                let kind = if arguments.icount { "-icount" } else { "" };
                let path = project.target("bench")?.join(format!("{name}{kind}.json"));
                let record = json!({
                    "bench": name,
                    "about": bench.about,
                    "revision": revision(project)?,
                    "date": output_of(project.tool("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]))?,
                    "deterministic": arguments.icount,
                    "command": command,
                    "figures": results.json(),
                });
                let text = serde_json::to_string_pretty(&record).context("cannot write JSON")?;
                fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
                println!("written to {}", path.display());
            }
            None => has_failed = true,
        }
    }
    Ok(if has_failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn select(name: Option<&str>) -> Result<Vec<&'static Bench>> {
    let Some(name) = name else {
        return Ok(BENCHES.iter().collect());
    };
    if let Some(bench) = BENCHES.iter().find(|bench| bench.scenario.name == name) {
        return Ok(vec![bench]);
    }
    let is_part = |bench: &&Bench| {
        let rest = bench.scenario.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('-'))
    };
    let parts: Vec<&Bench> = BENCHES.iter().filter(is_part).collect();
    if parts.is_empty() {
        let names: Vec<&str> = BENCHES.iter().map(|bench| bench.scenario.name).collect();
        bail!("there is no benchmark `{name}`; there are {}", names.join(", "));
    }
    Ok(parts)
}

/// Runs a benchmark as often as it takes; its results and the command that was run, or `None` after telling why
/// it failed.
fn measure(
    project: &Project,
    bench: &Bench,
    files: &BootFiles,
    is_deterministic: bool,
) -> Result<Option<(Results, String)>> {
    let (clock, runs) = if is_deterministic {
        (Clock::InstructionsOnly, 1)
    } else {
        (Clock::Real, RUNS)
    };
    let Scenario {
        loader,
        words,
        grub_script,
        disks: wanted,
        ..
    } = bench.scenario;
    let medium = loader::medium(project, loader, files, words, grub_script)?;
    let machine = Machine {
        clock,
        ..bench.scenario.machine
    };
    let expected = Expectation {
        script: Script {
            steps: bench.steps,
            forbidden: ALWAYS_FORBIDDEN,
            checks: 0,
        },
        covers_hypercalls: false,
        ending: Ending::Clean,
        may_crash: false,
        limit: bench.limit,
    };
    let mut results = Results::default();
    let mut command_line = String::new();
    for run in 1..=runs {
        let log = project
            .target("bench")?
            .join(format!("{}-{run}.log", bench.scenario.name));
        let drives = disks::provide(&project.target("bench")?, bench.scenario.name, wanted)?;
        let command = |cable: &Cable| {
            let command = qemu::command(&machine, &drives, cable, &medium, Console::Plain);
            command_line = spelled(&command);
            command
        };
        let name = bench.scenario.name;
        match trial::run_with_peer(name, bench.peer, command, &expected, &log) {
            Ok(transcript) => {
                let mut figures = figures::of_console(transcript.lines())?;
                if bench.weighs {
                    figures.extend(figures::of_images(&archive::images(files)?));
                }
                if is_deterministic {
                    figures.iter_mut().for_each(Figure::count_instructions);
                    figures::split(transcript.lines(), &mut figures)?;
                }
                results.add(figures)?;
            }
            Err(failure) => {
                println!("  FAIL  run {run} of {runs}");
                failure.print(&log, files);
                return Ok(None);
            }
        }
    }
    Ok(Some((results, command_line)))
}

/// The commit that is measured, with a mark if the tree differs from it.
fn revision(project: &Project) -> Result<String> {
    let commit = output_of(project.tool("git").args(["rev-parse", "HEAD"]))?;
    let changes = output_of(project.tool("git").args(["status", "--porcelain"]))?;
    Ok(if changes.is_empty() {
        commit
    } else {
        format!("{commit}, modified")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_benchmark_is_found_by_its_name_and_without_one_all_are() {
        for bench in BENCHES.iter() {
            assert_eq!(select(Some(bench.scenario.name)).unwrap().len(), 1);
        }
        assert_eq!(select(None).unwrap().len(), BENCHES.len());
    }

    #[test]
    fn several_are_found_by_what_their_names_begin_with() {
        let names = |name| -> Vec<_> {
            let found = select(Some(name)).unwrap().into_iter();
            found.map(|bench| bench.scenario.name).collect()
        };
        assert_eq!(names("disk"), ["disk-throughput", "disk-throughput-nvme"]);
        assert_eq!(names("disk-throughput"), ["disk-throughput"]);
        assert!(names("net").contains(&"net-wire"));
    }

    #[test]
    fn an_unknown_benchmark_is_refused_with_the_list_of_known_ones() {
        let message = select(Some("no-such")).unwrap_err().to_string();
        assert!(message.contains(BENCHES[0].scenario.name), "{message}");
    }
}
