//! `cargo xtask`: the only entrance to building, running, testing and measuring Bulkhead.
//!
//! One module per verb ([`build`], [`image`], [`run`], [`mod@test`], [`mod@bench`], [`fuzz`]), and below them what they share:
//! [`project`] knows where things lie and how to call Cargo, [`setup`] provides the tools, [`archive`] and [`disc`] pack
//! what is built, [`disks`] makes what the machine has to
//! store on, [`loader`] and [`qemu`] boot it, [`peer`] is at the other end of its network, [`trial`] judges what it did. What grows with the project stands in tables: [`images`],
//! [`machine_tests`], [`boot_tests`], [`control_tests`], [`disk_tests`], [`net_tests`], [`benches`].
//!
//! Exit statuses: 0 done, 1 to 3 as the verb says, 64 a command line that makes no sense, 70 a failure
//! of the tool itself (something to install, to build or to read was not there), always told in a sentence.

mod archive;
mod bench;
mod benches;
mod boot_tests;
mod bootlist;
mod build;
mod console;
mod control_tests;
mod coverage;
mod disc;
mod disk_tests;
mod disks;
mod foreign;
mod fuzz;
mod image;
mod images;
mod iommu_tests;
mod licences;
mod linux;
mod linux_benches;
mod linux_tests;
mod loader;
mod machine_tests;
mod names;
mod net_benches;
mod net_tests;
mod peer;
mod project;
mod qemu;
mod run;
mod scenario;
mod setup;
mod symbols;
mod test;
mod trial;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::project::Project;

/// Build, run, test and measure the Bulkhead hypervisor.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the images and their symbol files into target/bulkhead/.
    Build(build::Arguments),
    /// Write a bootable disc for BIOS and UEFI to target/bulkhead/bulkhead.iso.
    Image(image::Arguments),
    /// Boot a machine in QEMU with an interactive console, setting up what is missing first.
    Run(Box<run::Arguments>),
    /// Check and test everything; what continuous integration runs.
    Test(test::Arguments),
    /// Measure: print a table, and write JSON to target/bench/.
    Bench(bench::Arguments),
    /// Boot Debian's kernel as a guest of Xen 4.17, and keep its log to compare ours with.
    XenLog,
    /// Fuzz the hypervisor's core, with a nightly compiler.
    Fuzz(fuzz::Arguments),
}

/// The command line makes no sense (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;
/// The tool could not do its work (`EX_SOFTWARE` of sysexits.h).
const FAILURE: u8 = 70;

fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(problem) => {
            // Clap's own exit status for a bad command line is 2, which `run` gives to a timeout.
            let status = if problem.use_stderr() { USAGE } else { 0 };
            // Nothing is left to tell anybody if the terminal is gone.
            let _ = problem.print();
            return ExitCode::from(status);
        }
    };
    let project = Project::of_this_tool();
    let outcome = match line.verb {
        Verb::Build(arguments) => build::build(&project, &arguments),
        Verb::Image(arguments) => image::image(&project, &arguments),
        Verb::Run(arguments) => run::run(&project, &arguments),
        Verb::Test(arguments) => test::test(&project, &arguments),
        Verb::Bench(arguments) => bench::bench(&project, &arguments),
        Verb::XenLog => linux::reference::make(&project),
        Verb::Fuzz(arguments) => fuzz::fuzz(&project, &arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::from(FAILURE)
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        CommandLine::command().debug_assert();
    }
}
