//! `cargo xtask image`: a bootable disc, `target/bulkhead/bulkhead.iso`, for BIOS and for UEFI.

use std::process::ExitCode;

use anyhow::Result;

use crate::build::{self, Profile, Workshop};
use crate::disc;
use crate::images::Images;
use crate::project::Project;
use crate::scenario;
use crate::setup;

/// The arguments of `cargo xtask image`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Boot what the machine test or benchmark of this name boots.
    #[arg(long, value_name = "NAME", default_value = scenario::EXAMPLE.name)]
    scenario: String,
    /// How much the hypervisor logs.
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    log: Option<String>,
}

/// How long the disc's menu waits for a key before it boots, in seconds.
const MENU_SECONDS: u32 = 3;

/// Sets up, builds, writes the disc, and says where it lies.
///
/// # Errors
///
/// If a tool is missing, an image does not build, or the disc cannot be written.
pub(crate) fn image(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    setup::provide(project, &[build::NEEDS, disc::NEEDS].concat())?;
    let images = Images::of(&project.metadata(None)?);
    let scenario = scenario::named(&arguments.scenario)?;
    let files = Workshop::new(project, &images, Profile::Release).boot_files(&scenario)?;
    let level = arguments.log.as_ref().map(|level| format!("loglevel={level}"));
    // Without `debug-exit`: on a real machine that port may be anything.
    let words: Vec<&str> = scenario.words.iter().copied().chain(level.as_deref()).collect();
    let menu = disc::Menu {
        seconds: MENU_SECONDS,
        script: scenario.grub_script,
        words: &words,
    };
    let iso = files.archive.with_file_name("bulkhead.iso");
    disc::write(project, &iso, &files, &menu)?;
    println!("{}", iso.display());
    Ok(ExitCode::SUCCESS)
}
