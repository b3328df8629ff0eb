//! Debian's stock Linux as a guest: fetches the kernel's package and takes the kernel out of it.
//!
//! Nothing is installed: the package is downloaded by `apt-get download` and unpacked below `target/linux/`, once for
//! each version. What boots is the distributor's `vmlinuz`, or the `vmlinux` inside of
//! it, byte for byte. Its [`modules`] come from the same package, and the [`programs`] of a guest from others; [`system`] makes a ramdisk of them.
//!
//! [`boot_image`] is pure and finds that `vmlinux`; [`kallsyms`] reads the names of its functions, of which the package has no
//! other list.

pub(crate) mod boot_image;
pub(crate) mod initramfs;
mod kallsyms;
mod modules;
mod programs;
pub(crate) mod reference;
pub(crate) mod system;

use std::error::Error;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::build::Built;
use crate::project::{Project, output_of, spelled};
use modules::Modules;

/// What a domain has for its kernel if that is to be Debian's.
pub(crate) const LINUX: &str = "linux";

/// The same as the package has it, compressed.
pub(crate) const VMLINUZ: &str = "vmlinuz";

/// The package that depends on the kernel of the day.
const META_PACKAGE: &str = "linux-image-amd64";

/// The kernel cannot be had here: no Debian, or no network.
#[derive(Debug)]
pub(crate) struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Debian's kernel cannot be had here: {}", self.0)
    }
}

impl Error for Unavailable {}

/// Gets the kernel, from the last time if it is still the current one.
///
/// # Errors
///
/// [`Unavailable`] if it cannot be had here; others if what was had cannot be used.
pub(crate) fn kernel(project: &Project) -> Result<Kernel> {
    let directory = project.target("linux")?;
    let package = current_package().map_err(|error| Unavailable(format!("{error:#}")))?;
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
    unpacked_packages(project, &directory, &[&package], &tree)
        .map_err(|error| Unavailable(format!("{error:#}")))?;
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
pub(crate) struct Kernel {
    /// As the package has it.
    packed: PathBuf,
    /// The ELF file in it.
    elf: PathBuf,
    symbols: PathBuf,
    modules: Modules,
}

impl Kernel {
    /// The ELF file, as [`LINUX`].
    pub(crate) fn unpacked(self) -> Built {
        Built {
            name: LINUX.into(),
            elf: self.elf.clone(),
            stripped: self.elf,
            symbols: self.symbols,
        }
    }

    /// The boot image, as [`VMLINUZ`].
    pub(crate) fn packaged(self) -> Built {
        Built {
            name: VMLINUZ.into(),
            elf: self.elf,
            stripped: self.packed,
            symbols: self.symbols,
        }
    }
}

/// The package that has the kernel of the day, such as `linux-image-6.1.0-56-amd64`.
fn current_package() -> Result<String> {
    let depends = output_of(Command::new("apt-cache").args(["depends", META_PACKAGE]))?;
    first_dependency(&depends)
        .map(str::to_owned)
        .with_context(|| format!("no package {META_PACKAGE} is known"))
}

/// The first `Depends:` of what `apt-cache depends` prints.
fn first_dependency(text: &str) -> Option<&str> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .map(str::trim)
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
    let vmlinux = boot_image::vmlinux(&file).with_context(|| format!("in {}", path.display()))?;
    let functions = kallsyms::functions(&vmlinux).context("no names in the kernel")?;
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
    fn a_kernel_that_cannot_be_had_is_told_from_one_that_cannot_be_used() {
        let error = anyhow::Error::from(Unavailable("no network".into()));
        assert!(error.downcast_ref::<Unavailable>().is_some());
        assert_eq!(
            error.to_string(),
            "Debian's kernel cannot be had here: no network"
        );
    }
}
