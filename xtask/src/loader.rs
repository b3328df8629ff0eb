//! The boot loaders: what can bring the hypervisor into a machine's memory, and what each needs for it.
//!
//! [`Loader`] is the choice, [`Medium`] what the machine then starts from, [`medium`] makes the one from the other.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::build::BootFiles;
use crate::disc;
use crate::project::Project;
use crate::setup::{self, Need};

/// Who loads the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Loader {
    /// QEMU itself, by the PVH protocol.
    Pvh,
    /// GRUB on a disc that the BIOS starts, by the Multiboot2 protocol.
    Bios,
    /// GRUB on the same disc, started by UEFI.
    Uefi,
}

impl Loader {
    /// What must be installed for it.
    fn needs(self) -> &'static [Need] {
        match self {
            Self::Pvh => &[],
            Self::Bios => disc::NEEDS,
            Self::Uefi => &[Need::Grub, Need::Xorriso, Need::Mtools, Need::Ovmf],
        }
    }
}

/// What a machine starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// Files that QEMU loads.
    Files {
        /// The hypervisor.
        hypervisor: PathBuf,
        /// What it is given: the boot archive, or what another kernel wants.
        modules: Vec<Module>,
        /// The hypervisor's command line.
        line: String,
    },
    /// A disc that firmware starts.
    Disc {
        /// The disc.
        iso: PathBuf,
        /// Firmware to use instead of the board's own.
        firmware: Option<PathBuf>,
    },
}

/// A file that is loaded beside a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) path: PathBuf,
    /// What the kernel is told of it.
    pub(crate) words: &'static str,
}

impl Module {
    /// A file of which nothing needs to be told.
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path, words: "" }
    }
}

/// Prepares what `loader` starts from: `files` with `words` for the hypervisor's command line, and the word that makes
/// it tell QEMU how it ended. A disc is written beside the archive; its GRUB first follows `script`.
///
/// # Errors
///
/// If something that the loader needs cannot be installed, or the disc cannot be written.
pub(crate) fn medium(
    project: &Project,
    loader: Loader,
    files: &BootFiles,
    words: &[&str],
    script: &str,
) -> Result<Medium> {
    setup::provide(project, loader.needs())?;
    let words = [&["debug-exit"], words].concat();
    let firmware = match loader {
        Loader::Pvh => {
            return Ok(Medium::Files {
                hypervisor: files.hypervisor.clone(),
                modules: vec![Module::new(files.archive.clone())],
                line: words.join(" "),
            });
        }
        Loader::Bios => None,
        // Without it the board's BIOS would start the disc.
        Loader::Uefi => Some(setup::ovmf().context("OVMF.fd is gone")?.to_path_buf()),
    };
    let iso = files.archive.with_extension("iso");
    let menu = disc::Menu {
        seconds: 0,
        script,
        words: &words,
    };
    disc::write(project, &iso, files, &menu)?;
    Ok(Medium::Disc { iso, firmware })
}
