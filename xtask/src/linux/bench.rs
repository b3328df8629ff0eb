//! The ramdisk of a Linux that is measured: the small system, a program that measures, and the module by which that asks Bulkhead what it costs.

use anyhow::Result;

use super::modules::Role;
use super::{Flavour, system};
use crate::project::Project;

/// The ramdisk's name in the boot archive.
pub(crate) const NAME: &str = "linux-bench.cpio";

/// The image that measures.
pub(crate) const PROGRAM: &str = "linux-bench";

/// The ramdisk with `program` as `/bench`, to be the first process (`rdinit=/bench`) or to be run by the system's (`work=devices`).
///
/// # Errors
///
/// [`Unavailable`](super::Unavailable) if kernel or programs cannot be had here.
pub(crate) fn ramdisk(project: &Project, program: &[u8]) -> Result<Vec<u8>> {
    let modules = super::kernel(project, Flavour::Stock)?.modules;
    let mut archive = system::archive(project, Flavour::Stock, Role::Guest)?;
    archive.program("bench", program);
    archive.plain("lib/modules/xen_privcmd.ko", &modules.content("xen_privcmd")?);
    Ok(archive.finish())
}
