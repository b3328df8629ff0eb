//! A small system for Linux guests, as a ramdisk: the distribution's busybox and programs for ext4, the kernel's modules, and scripts of ours.
//!
//! Its `/init` loads the modules and runs what the kernel's command line says: `work=NAME` means [`WORK`]'s script of that name, `root=DEVICE` the system on a disk, and without
//! either there is a shell. Words for a
//! module stand there as for a kernel that has it built in, such as `xen_blkfront.max_queues=2`.

use anyhow::Result;

use super::Flavour;
use super::initramfs::Archive;
use super::modules::Role;
use super::programs::{self, Programs};
use crate::project::Project;

/// The ramdisk's name in the boot archive, by the kernel that it is for.
pub(crate) const fn name(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Stock => "linux-system.cpio",
        Flavour::Cloud => "linux-system-cloud.cpio",
    }
}

/// The same with what burdens a guest, which is large.
pub(crate) const STRESS: &str = "linux-stress.cpio";

/// The first process.
const INIT: &str = include_str!("system/init.sh");

/// What the first process can be told to run, and what that uses.
const WORK: &[(&str, &str)] = &[
    ("both", include_str!("system/both.sh")),
    ("clock", include_str!("system/clock.sh")),
    ("devices", include_str!("system/devices.sh")),
    ("dhcp", include_str!("system/dhcp.sh")),
    ("hotplug", include_str!("system/hotplug.sh")),
    ("iperf", include_str!("system/iperf.sh")),
    ("lib", include_str!("system/lib.sh")),
    ("neighbour", include_str!("system/neighbour.sh")),
    ("shell", include_str!("system/shell.sh")),
    ("stress", include_str!("system/stress.sh")),
    ("vbd", include_str!("system/vbd.sh")),
    ("vif", include_str!("system/vif.sh")),
    ("xen", include_str!("system/xen.sh")),
];

/// Programs besides busybox.
const PROGRAMS: &[&str] = &["sbin/mke2fs", "sbin/e2fsck", "usr/sbin/rdate"];

/// Programs that burden a guest.
const BURDENS: &[&str] = &["usr/bin/iperf3", "usr/bin/stress-ng"];

/// The ramdisk.
///
/// # Errors
///
/// [`Unavailable`](super::Unavailable) if kernel or programs cannot be had here.
pub(crate) fn ramdisk(project: &Project, flavour: Flavour) -> Result<Vec<u8>> {
    Ok(archive(project, flavour, Role::Guest)?.finish())
}

/// The same with programs that burden a guest, as [`STRESS`].
///
/// # Errors
///
/// As for [`ramdisk`].
pub(crate) fn stress_ramdisk(project: &Project) -> Result<Vec<u8>> {
    let mut archive = archive(project, Flavour::Stock, Role::Guest)?;
    for (place, content) in Programs::get(project, programs::STRESS)?.with_libraries(BURDENS)? {
        archive.program(&place, &content);
    }
    Ok(archive.finish())
}

/// A ramdisk while it is being made, with the kernel's modules for `role`.
pub(super) fn archive(project: &Project, flavour: Flavour, role: Role) -> Result<Archive> {
    let modules = super::kernel(project, flavour)?.modules;
    let programs = Programs::get(project, programs::GUEST)?;
    let mut archive = Archive::default();
    archive.program("init", INIT.as_bytes());
    archive.program("bin/busybox", &programs.file("bin/busybox")?);
    for (place, content) in programs.with_libraries(PROGRAMS)? {
        archive.program(&place, &content);
    }
    // Without it, file systems would have no journal.
    archive.plain("etc/mke2fs.conf", &programs.file("etc/mke2fs.conf")?);
    for (name, script) in WORK {
        archive.program(&format!("work/{name}"), script.as_bytes());
    }
    let names = modules.names(role)?;
    for name in &names {
        archive.plain(&format!("lib/modules/{name}.ko"), &modules.content(name)?);
    }
    archive.plain("lib/modules/order", names.join("\n").as_bytes());
    Ok(archive)
}
