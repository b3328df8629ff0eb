//! Xen 4.17, from its package, with Debian's kernel as its control domain. That makes one guest of the same kernel, with Xen's toolstack and Linux' own back-ends,
//! shows what the guest's console had when it has ended, and ends the machine.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};

use super::initramfs::Archive;
use super::modules::Role;
use super::programs::{self, Programs};
use super::{Flavour, system};
use crate::loader::{Medium, Module};
use crate::project::Project;
use crate::qemu::Machine;

/// The machine.
pub(crate) const MACHINE: Machine<'static> = Machine {
    memory: "1536M",
    ..Machine::DEFAULT
};

/// The guest.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// As Xen's toolstack is told of it, but for its kernel and its ramdisk.
    pub(crate) config: String,
    pub(crate) ramdisk: Vec<u8>,
}

/// What is the same for all guests.
const FILES: &str = r#"
kernel = "/guest/vmlinuz"
ramdisk = "/guest/ramdisk"
"#;

/// Programs of Xen's control domain.
const PROGRAMS: &[&str] = &[
    "usr/bin/xenstore-write",
    "usr/lib/xen-4.17/bin/xen-init-dom0",
    "usr/lib/xen-4.17/bin/xenconsoled",
    "usr/lib/xen-4.17/bin/xenstored",
    "usr/lib/xen-4.17/bin/xl",
];

/// What the machine starts from.
///
/// # Errors
///
/// [`Unavailable`](super::Unavailable) if Xen or the kernel cannot be had here.
pub(crate) fn medium(project: &Project, guest: &Guest) -> Result<Medium> {
    let directory = project.target("linux")?;
    let xen = Programs::get(project, programs::XEN)?;
    let hypervisor = directory.join("xen.elf");
    let packed = directory.join("xen.gz");
    fs::write(&packed, xen.file("boot/xen-4.17-amd64.gz")?)?;
    let unpacked = Command::new("gzip")
        .args(["--decompress", "--stdout"])
        .arg(&packed)
        .output()?;
    ensure!(
        unpacked.status.success(),
        "gzip cannot unpack {}",
        packed.display()
    );
    fs::write(&hypervisor, unpacked.stdout)?;
    let kernel = super::kernel(project, Flavour::Stock)?;
    let ramdisk = directory.join("xen-control.cpio");
    fs::write(
        &ramdisk,
        control(project, &xen, &fs::read(&kernel.packed)?, guest)?,
    )?;
    let kernel = Module {
        path: kernel.packed,
        words: "console=hvc0 quiet work=xen",
    };
    Ok(Medium::Files {
        hypervisor,
        modules: vec![kernel, Module::new(ramdisk)],
        line: "console=com1 com1=115200 dom0_mem=640M,max:640M loglvl=warning".into(),
    })
}

/// The ramdisk of the control domain.
fn control(project: &Project, xen: &Programs, kernel: &[u8], guest: &Guest) -> Result<Vec<u8>> {
    let mut archive: Archive = system::archive(project, Flavour::Stock, Role::XensControl)?;
    for (place, content) in xen.with_libraries(PROGRAMS)? {
        archive.program(&place, &content);
    }
    // It is loaded by name when a thread ends.
    let by_name = "lib/x86_64-linux-gnu/libgcc_s.so.1";
    archive.program(by_name, &xen.file(by_name)?);
    archive.plain("guest/vmlinuz", kernel);
    archive.plain("guest/ramdisk", &guest.ramdisk);
    archive.plain("guest/config", [FILES, &guest.config].concat().as_bytes());
    Ok(archive.finish())
}
