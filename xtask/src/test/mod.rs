//! `cargo xtask test`: everything that must hold before a commit is good, as one command.
//!
//! Four groups, from quick to slow: `check` (format, lints, docs, licences), `host` (tests of the crates that run
//! here), `loom` (interleavings), `machine` (guests in QEMU). A failure stops nothing: all that is wrong is told
//! in one run. Exit status 1 if anything failed.

mod checks;
mod filter;
mod host;
mod machine;
mod tally;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::images::Images;
use crate::project::Project;
use crate::setup::{self, Need};
use crate::test::filter::{Filter, Group};
use crate::test::tally::Tally;

/// The arguments of `cargo xtask test`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Only what has this in its name; `GROUP/TEXT` looks in one group only: check, host, loom or machine.
    ///
    /// The name of a host test is its own or that of its package.
    #[arg(value_parser = |text: &str| Ok::<_, std::convert::Infallible>(Filter::new(text)))]
    filter: Option<Filter>,
    /// The long matrix besides: every machine test on every CPU model, and host tests that can go on for long.
    #[arg(long)]
    full: bool,
}

/// What the tests need.
const NEEDS: &[Need] = &[
    Need::BareMetalTarget,
    Need::LlvmTools,
    Need::Rustfmt,
    Need::Clippy,
    Need::Qemu,
    Need::Ext4,
];

/// Runs the tests that the arguments select.
///
/// # Errors
///
/// If tests could not be run at all, or the filter selects none.
pub(crate) fn test(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    setup::provide(project, NEEDS)?;
    let filter = arguments.filter.clone().unwrap_or_default();
    let metadata = project.metadata(None)?;
    let mut tally = Tally::start();
    if filter.allows(Group::Check) {
        checks::run(project, &metadata, &Images::of(&metadata), &filter, &mut tally);
    }
    if filter.allows(Group::Host) {
        setup::provide(project, &[Need::XenHeaders])?;
        host::run(project, &metadata, &filter, &mut tally)?;
        if arguments.full {
            host::run_long(project, &filter, &mut tally)?;
        }
    }
    if filter.allows(Group::Loom) {
        host::run_loom(project, &metadata, &filter, &mut tally)?;
    }
    if filter.allows(Group::Machine) {
        machine::run(
            project,
            &Images::of(&metadata),
            &filter,
            arguments.full,
            &mut tally,
        )?;
    }
    if tally.is_empty() {
        bail!("no test has that in its name");
    }
    Ok(tally.close())
}
