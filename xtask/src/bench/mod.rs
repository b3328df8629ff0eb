//! `cargo xtask bench`: boots the benchmarks, prints what they measured, and keeps it as JSON.
//!
//! With `--icount` the machine's clock counts instructions: one run is as good as many, and figures that are told by parts say how
//! many are whose. Without it every figure
//! is the median of three runs, and its spread is told beside it. What is measured elsewhere too, on the bare machine and as a guest of Xen, is compared with
//! that.

mod compare;
mod figures;
mod results;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::archive;
use crate::bench::figures::Figure;
use crate::bench::results::Results;
use crate::benches::{BENCHES, Bench, Elsewhere};
use crate::build::{self, BootFiles, Profile, Workshop};
use crate::console::{Script, Step};
use crate::disks;
use crate::images::Images;
use crate::linux::{Unavailable, xen};
use crate::loader::{self, Medium, Module};
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
        if arguments.icount && bench.peer.is_some() && bench.served_by.is_empty() {
            println!("{name}: left out: the peer outside of the machine has another clock");
            continue;
        }
        let files = match workshop.boot_files(&bench.scenario) {
            Err(error) if error.downcast_ref::<Unavailable>().is_some() => {
                println!("{name}: left out: {error}");
                continue;
            }
            files => files?,
        };
        println!("{name}: {}", bench.about);
        let mut measured = BTreeMap::new();
        for subject in subjects(project, &mut workshop, bench, &files)? {
            let Some(of_subject) = measure(project, bench, &files, &subject, arguments.icount)? else {
                has_failed = true;
                break;
            };
            measured.insert(subject.side, of_subject);
        }
        let Some((results, command)) = measured.get(&Side::Bulkhead) else {
            continue;
        };
        print!("{}", results.table());
        let results_of = |side| measured.get(&side).map(|(results, _)| results);
        if let Some(bare) = results_of(Side::Bare) {
            print!("{}", compare::table(results, bare, results_of(Side::Xen)));
        }
        let record_of = |side| {
            let (results, command) = measured.get(&side)?;
            Some(json!({ "command": command, "figures": results.json() }))
        };
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
            "bare": record_of(Side::Bare),
            "xen": record_of(Side::Xen),
        });
        let text = serde_json::to_string_pretty(&record).context("cannot write JSON")?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written to {}", path.display());
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

/// What there is between the machine and what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    /// Nothing.
    Bare,
    Xen,
    Bulkhead,
}

/// What is measured: a machine, and what it starts from.
struct Subject {
    side: Side,
    machine: Machine<'static>,
    medium: Medium,
    steps: &'static [Step],
    ending: Ending,
}

/// All that a benchmark measures.
fn subjects(
    project: &Project,
    workshop: &mut Workshop<'_>,
    bench: &Bench,
    files: &BootFiles,
) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    if let Some(elsewhere) = bench.elsewhere {
        let [kernel, ramdisk] = workshop.linux_files(elsewhere.ramdisk)?;
        let xen = Subject::xen(project, elsewhere, &ramdisk);
        subjects.push(Subject::bare(bench, elsewhere, kernel, ramdisk));
        match xen {
            Err(error) if error.downcast_ref::<Unavailable>().is_some() => {
                println!("{}: without Xen: {error}", bench.scenario.name);
            }
            xen => subjects.push(xen?),
        }
    }
    subjects.push(Subject::whole(project, bench, files)?);
    Ok(subjects)
}

impl Subject {
    /// The hypervisor with its domains.
    fn whole(project: &Project, bench: &Bench, files: &BootFiles) -> Result<Self> {
        let Scenario {
            machine,
            loader,
            words,
            grub_script,
            ..
        } = bench.scenario;
        Ok(Self {
            side: Side::Bulkhead,
            machine,
            medium: loader::medium(project, loader, files, words, grub_script)?,
            steps: bench.steps,
            ending: Ending::Clean,
        })
    }

    /// A kernel alone.
    fn bare(bench: &Bench, elsewhere: Elsewhere, kernel: PathBuf, ramdisk: PathBuf) -> Self {
        Self {
            side: Side::Bare,
            machine: Machine {
                memory: format!("{}M", elsewhere.memory_mib).leak(),
                ..bench.scenario.machine
            },
            medium: Medium::Files {
                hypervisor: kernel,
                modules: vec![Module::new(ramdisk)],
                line: format!("console=ttyS0 {}", elsewhere.command_line),
            },
            steps: &[],
            ending: Ending::NoVerdict,
        }
    }

    /// Xen with a control domain, which makes a guest of the same kernel.
    fn xen(project: &Project, elsewhere: Elsewhere, ramdisk: &Path) -> Result<Self> {
        let Elsewhere {
            memory_mib,
            command_line,
            ..
        } = elsewhere;
        let config = format!(
            "name = \"linux\"\nmemory = {memory_mib}\nvcpus = 1\ntsc_mode = \"native\"\nextra = \"console=hvc0 {command_line}\"\n"
        );
        let ramdisk = fs::read(ramdisk).with_context(|| format!("cannot read {}", ramdisk.display()))?;
        Ok(Self {
            side: Side::Xen,
            machine: xen::MACHINE,
            medium: xen::medium(project, &xen::Guest { config, ramdisk })?,
            steps: &[],
            ending: Ending::NoVerdict,
        })
    }
}

/// Runs a benchmark's subject as often as it takes; its results and the command that was run, or `None` after telling why
/// it failed.
fn measure(
    project: &Project,
    bench: &Bench,
    files: &BootFiles,
    subject: &Subject,
    is_deterministic: bool,
) -> Result<Option<(Results, String)>> {
    let (clock, runs) = match (is_deterministic, bench.peer) {
        (false, _) => (Clock::Real, RUNS),
        (true, None) => (Clock::InstructionsOnly, 1),
        // Who is outside of the machine takes time that is to pass in it too.
        (true, Some(_)) => (Clock::Instructions, 1),
    };
    let machine = Machine {
        clock,
        ..subject.machine
    };
    let expected = Expectation {
        script: Script {
            steps: subject.steps,
            forbidden: ALWAYS_FORBIDDEN,
            checks: 0,
        },
        covers_hypercalls: false,
        ending: subject.ending,
        may_crash: false,
        limit: bench.limit,
    };
    let mut results = Results::default();
    let mut command_line = String::new();
    let name = bench.scenario.name;
    for run in 1..=runs {
        let log = project
            .target("bench")?
            .join(format!("{name}-{:?}-{run}.log", subject.side).to_lowercase());
        let drives = disks::provide(&project.target("bench")?, name, bench.scenario.disks)?;
        let command = |cable: &Cable| {
            let command = qemu::command(&machine, &drives, cable, &subject.medium, Console::Plain);
            command_line = spelled(&command);
            command
        };
        match trial::run_with_peer(name, bench.peer, command, &expected, &log) {
            Ok(transcript) => {
                let mut figures = figures::of_console(transcript.lines())?;
                if bench.weighs {
                    figures.extend(figures::of_images(&archive::images(files)?));
                }
                if is_deterministic {
                    figures.iter_mut().for_each(Figure::count_instructions);
                    figures::split(transcript.lines(), &mut figures)?;
                    figures::costs(transcript.lines(), &mut figures)?;
                    figures.extend(figures::of_server(transcript.lines(), bench.served_by)?);
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
        assert_eq!(names("linux"), ["linux-cpu", "linux-devices"]);
        assert!(names("net").contains(&"net-wire"));
    }

    #[test]
    fn an_unknown_benchmark_is_refused_with_the_list_of_known_ones() {
        let message = select(Some("no-such")).unwrap_err().to_string();
        assert!(message.contains(BENCHES[0].scenario.name), "{message}");
    }
}
