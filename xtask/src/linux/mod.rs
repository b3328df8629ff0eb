//! The distribution's stock Linux as a guest: fetches the kernel's package and takes the kernel out of it.
//!
//! Nothing is installed: the package is downloaded by `apt-get download` and unpacked below `target/linux/`, once for
//! each version. What boots is the distributor's `vmlinuz`, or the `vmlinux` inside of
//! it, byte for byte. Its [`modules`] come from the same package, or from one beside it, and the [`programs`] of a guest from others; [`system`] makes a ramdisk of
//! them, and [`debian`] a disk with all of the distribution.
//!
//! [`kallsyms`] reads the names of the kernel's functions, of which the package has no other list.

pub(crate) mod bench;
pub(crate) mod debian;
pub(crate) mod initramfs;
mod kallsyms;
mod modules;
mod programs;
pub(crate) mod reference;
pub(crate) mod system;
pub(crate) mod xen;

use std::error::Error;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use bulkhead_builder::kernel::load;

use crate::build::Built;
use crate::project::{Project, output_of, spelled};
use modules::Modules;

/// What a domain has for its kernel if that is to be Debian's.
pub(crate) const LINUX: &str = "linux";

/// The same as the package has it, compressed.
pub(crate) const VMLINUZ: &str = "vmlinuz";

/// The kernel for clouds, compressed.
pub(crate) const VMLINUZ_CLOUD: &str = "vmlinuz-cloud";

/// Which of the distribution's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Flavour {
    /// For every machine.
    Stock,
    /// For virtual machines of clouds: smaller, and more of it is no module.
    Cloud,
}

impl Flavour {
    /// The packages of which one, if the distribution has it, depends on the kernel of the day: Debian's, Ubuntu's.
    const fn meta_packages(self) -> &'static [&'static str] {
        match self {
            Self::Stock => &["linux-image-amd64", "linux-image-generic"],
            Self::Cloud => &["linux-image-cloud-amd64"],
        }
    }

    /// The package that has the kernel of the day, such as `linux-image-6.1.0-56-amd64`.
    fn package(self) -> Result<String> {
        let names = self.meta_packages();
        let known = names.iter().filter_map(|name| depends(name).ok());
        let mut packages = known.filter_map(|depends| first_dependency(&depends).map(str::to_owned));
        packages
            .next()
            .with_context(|| format!("no package {} is known", names.join(" or ")))
    }
}

/// The kernel cannot be had here: no Debian, or no network.
#[derive(Debug)]
pub(crate) struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Debian's kernel cannot be had here: {}", self.0)
    }
}

impl Error for Unavailable {}

/// Whether an image of this name is one of the distribution's kernels.
pub(crate) fn is_kernel(name: &str) -> bool {
    [LINUX, VMLINUZ, VMLINUZ_CLOUD].contains(&name)
}

/// The kernel that is called `name` among images; `None` if [none is](is_kernel).
///
/// # Errors
///
/// As for [`kernel`].
pub(crate) fn image(project: &Project, name: &str) -> Result<Option<Built>> {
    Ok(Some(match name {
        LINUX => kernel(project, Flavour::Stock)?.unpacked(name),
        VMLINUZ => kernel(project, Flavour::Stock)?.packaged(name),
        VMLINUZ_CLOUD => kernel(project, Flavour::Cloud)?.packaged(name),
        _ => return Ok(None),
    }))
}

/// Gets the kernel, from the last time if it is still the current one.
///
/// # Errors
///
/// [`Unavailable`] if it cannot be had here; others if what was had cannot be used.
fn kernel(project: &Project, flavour: Flavour) -> Result<Kernel> {
    let directory = project.target("linux")?;
    let unavailable = |error: anyhow::Error| Unavailable(format!("{error:#}"));
    let package = flavour.package().map_err(unavailable)?;
    let file = |suffix: &str| directory.join(format!("{package}.{suffix}"));
    let built = |modules| Kernel {
        packed: file("vmlinuz"),
        elf: file("elf"),
        symbols: file("sym"),
        modules,
    };
    // Written last: where it is, all is.
    let is_there = file("sym").is_file() && file("vmlinuz").is_file();
    if let Some(modules) = Modules::at(file("modules")).filter(|_| is_there) {
        return Ok(built(modules));
    }
    let tree = directory.join(&package);
    println!("set-up: downloads {package} (machines boot its kernel)");
    let depends = depends(&package).map_err(unavailable)?;
    let packages: Vec<&str> = [package.as_str()]
        .into_iter()
        .chain(of_modules(&depends))
        .collect();
    unpacked_packages(project, &directory, &packages, &tree).map_err(unavailable)?;
    let told = || format!("in package {package}");
    Modules::take(&tree, &file("modules")).with_context(told)?;
    let modules = Modules::at(file("modules")).with_context(told)?;
    let built = built(modules);
    unpack(&tree, &built).with_context(told)?;
    fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    Ok(built)
}

/// The files of the kernel.
#[derive(Clone, Debug)]
struct Kernel {
    /// As the package has it.
    packed: PathBuf,
    /// The ELF file in it.
    elf: PathBuf,
    symbols: PathBuf,
    modules: Modules,
}

impl Kernel {
    /// The ELF file, as the image `name`.
    fn unpacked(self, name: &str) -> Built {
        Built {
            name: name.into(),
            elf: self.elf.clone(),
            stripped: self.elf,
            symbols: self.symbols,
        }
    }

    /// The boot image, as the image `name`.
    fn packaged(self, name: &str) -> Built {
        Built {
            name: name.into(),
            elf: self.elf,
            stripped: self.packed,
            symbols: self.symbols,
        }
    }
}

/// What `apt-cache` says of what a package depends on.
fn depends(package: &str) -> Result<String> {
    output_of(Command::new("apt-cache").args(["depends", package]))
}

/// The packages after `Depends:` in what `apt-cache depends` prints.
fn dependencies(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines();
    lines.filter_map(|line| Some(line.trim().strip_prefix("Depends: ")?.trim()))
}

/// The first of them.
fn first_dependency(text: &str) -> Option<&str> {
    dependencies(text).next()
}

/// Those of a kernel's that have its modules. Ubuntu's has such a package; Debian's kernel has its modules with it.
fn of_modules(text: &str) -> impl Iterator<Item = &str> {
    dependencies(text).filter(|package| package.starts_with("linux-modules-"))
}

/// The `vmlinux` in a `vmlinuz`.
///
/// # Errors
///
/// If the file is no kernel, or is compressed in a way that the control domain does not know either.
pub(crate) fn vmlinux(file: &[u8]) -> Result<Vec<u8>> {
    /// More than any kernel has.
    const LIMIT: usize = 512 << 20;
    let elf = embassy_futures::block_on(load(file, LIMIT, async || ()))?;
    Ok(elf.into_owned())
}

/// Downloads `packages` and unpacks them into `tree`, which is made anew.
fn unpacked_packages(project: &Project, directory: &Path, packages: &[&str], tree: &Path) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    quietly(
        project
            .tool("apt-get")
            .args(["--quiet", "download"])
            .args(packages)
            .current_dir(directory),
    )?;
    for package in packages {
        let archive = only_file(directory, |name| {
            name.starts_with(&format!("{package}_")) && name.ends_with(".deb")
        })?;
        quietly(project.tool("dpkg-deb").arg("--extract").arg(&archive).arg(tree))?;
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    }
    Ok(())
}

/// Takes the kernel and its functions' names out of the unpacked package `tree`.
fn unpack(tree: &Path, built: &Kernel) -> Result<()> {
    let path = only_file(&tree.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    let file = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let vmlinux = vmlinux(&file).with_context(|| format!("in {}", path.display()))?;
    // Without them, as in kernels from 6.4 on, backtraces are bare addresses.
    let functions = kallsyms::functions(&vmlinux).unwrap_or_default();
    fs::write(&built.elf, &vmlinux).with_context(|| format!("cannot write {}", built.elf.display()))?;
    fs::write(&built.symbols, functions.encode()?)
        .with_context(|| format!("cannot write {}", built.symbols.display()))?;
    fs::write(&built.packed, &file).with_context(|| format!("cannot write {}", built.packed.display()))
}

/// The one file in `directory` whose name `is_it`.
fn only_file(directory: &Path, is_it: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&is_it) {
            found.push(entry.path());
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        several => Err(anyhow!(
            "there should be one such file in {}, not {}",
            directory.display(),
            several.len()
        )),
    }
}

/// Runs a command whose output matters only if it fails.
fn quietly(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", spelled(command)))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("`{}`: {}", spelled(command), words.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_of_the_day_is_what_the_package_of_that_name_depends_on() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n  Suggests: grub\n";
        assert_eq!(first_dependency(text), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(first_dependency("linux-image-amd64\n"), None);
    }

    #[test]
    fn modules_come_with_the_kernel_or_in_a_package_of_their_own() {
        let ubuntu = "linux-image-6.8.0-151-generic\n  Depends: kmod\n  Depends: linux-base\n  Depends: linux-modules-6.8.0-151-generic\n  \
                      Recommends: grub-pc\n";
        assert_eq!(
            Vec::from_iter(of_modules(ubuntu)),
            ["linux-modules-6.8.0-151-generic"]
        );
        let debian = "linux-image-6.1.0-56-amd64\n  Depends: kmod\n |Depends: initramfs-tools\n";
        assert_eq!(of_modules(debian).count(), 0);
    }

    #[test]
    fn what_is_no_kernel_is_refused_and_an_elf_file_taken_as_it_is() {
        assert_eq!(vmlinux(b"\x7fELF...").unwrap(), b"\x7fELF...");
        assert!(vmlinux(b"MZ").is_err());
    }

    #[test]
    fn a_kernel_that_cannot_be_had_is_told_from_one_that_cannot_be_used() {
        let error = anyhow::Error::from(Unavailable("no network".into()));
        assert!(error.downcast_ref::<Unavailable>().is_some());
        assert_eq!(
            error.to_string(),
            "Debian's kernel cannot be had here: no network"
        );
    }
}
