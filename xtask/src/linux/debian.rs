//! A root file system for Linux guests: the distribution as its own tools install it, on ext4.
//!
//! `mmdebstrap` installs packages in a directory, and `mke2fs` makes a file system of that: neither mounts anything, so that root in a container can do it.
//! What it has of ours is configuration, in `system/debian.sh`. The kernel's package is among the others for its modules; what boots is still the
//! kernel of the boot archive.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Flavour, Unavailable, quietly};
use crate::project::Project;
use crate::setup::{self, Need};

/// The size of the file system, in MiB.
pub(crate) const MIB: u64 = 1024;

/// What is installed besides the smallest system that has apt, and the kernel.
const PACKAGES: &[&str] = &[
    "dbus",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "kmod",
    "login",
    "netbase",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "util-linux",
];

/// What is not installed of packages, and what is after all: the modules for hardware, which no guest has, are most of a kernel's.
const PATHS: &[&str] = &[
    "path-exclude=/lib/modules/*/kernel/sound/*",
    "path-exclude=/lib/modules/*/kernel/drivers/*",
    "path-include=/lib/modules/*/kernel/drivers/block/*",
    "path-include=/lib/modules/*/kernel/drivers/md/*",
    "path-include=/lib/modules/*/kernel/drivers/net/*",
    "path-exclude=/lib/modules/*/kernel/drivers/net/ethernet/*",
    "path-exclude=/lib/modules/*/kernel/drivers/net/wireless/*",
];

/// What makes a file system of the installed packages.
const SCRIPT: &str = include_str!("system/debian.sh");

/// Gets the file system, from the last time if it would be made the same way again.
///
/// # Errors
///
/// [`Unavailable`] if it cannot be had here.
pub(crate) fn root(project: &Project) -> Result<PathBuf> {
    let directory = project.target("linux")?;
    let file = |suffix: &str| directory.join(format!("debian.{suffix}"));
    let (image, list) = (file("ext4"), file("list"));
    let recipe = recipe().map_err(unavailable)?;
    let wanted = format!("{}\n{SCRIPT}", recipe.join("\n"));
    if fs::read_to_string(&list).is_ok_and(|found| found == wanted) {
        return Ok(image);
    }
    println!(
        "set-up: mmdebstrap installs {} in a file (a Linux guest has it as its root file system)",
        PACKAGES.join(", ")
    );
    make(project, &recipe, &image).map_err(unavailable)?;
    // Written last: where it is, the image is.
    fs::write(&list, wanted).with_context(|| format!("cannot write {}", list.display()))?;
    Ok(image)
}

fn unavailable(error: anyhow::Error) -> Unavailable {
    Unavailable(format!("{error:#}"))
}

/// The arguments of mmdebstrap.
fn recipe() -> Result<Vec<String>> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let codename = codename(&release).context("/etc/os-release has no VERSION_CODENAME")?;
    let packages = [PACKAGES, &[Flavour::Stock.package()?.as_str()]]
        .concat()
        .join(",");
    let mut recipe = vec![
        "--quiet".into(),
        "--variant=minbase".into(),
        // What it is to make is made by the script.
        "--format=null".into(),
        // The script would find in the directory what is mounted there.
        "--skip=chroot/mount".into(),
        format!("--include={packages}"),
    ];
    recipe.extend(PATHS.iter().map(|path| format!("--dpkgopt={path}")));
    recipe.push("--customize-hook=sh \"$SCRIPT\" \"$1\"".into());
    recipe.extend([codename.to_owned(), "/dev/null".to_owned()]);
    Ok(recipe)
}

/// The name of the release in what `/etc/os-release` says.
fn codename(release: &str) -> Option<&str> {
    let mut lines = release.lines();
    let name = lines.find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(name.trim_matches('"')).filter(|name| !name.is_empty())
}

fn make(project: &Project, recipe: &[String], image: &Path) -> Result<()> {
    setup::provide(project, &[Need::Mmdebstrap, Need::Ext4])?;
    // What is there of an earlier time may be root's.
    if image.exists() {
        fs::remove_file(image).with_context(|| format!("cannot remove {}", image.display()))?;
    }
    let script = image.with_extension("sh");
    fs::write(&script, SCRIPT).with_context(|| format!("cannot write {}", script.display()))?;
    quietly(
        setup::as_root()
            .arg(format!("SCRIPT={}", script.display()))
            .arg(format!("IMAGE={}", image.display()))
            .arg(format!("SIZE={MIB}M"))
            // The kernel gets another ramdisk.
            .arg("INITRD=No")
            .arg("mmdebstrap")
            .args(recipe),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_that_of_this_host() {
        let debian = "VERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(codename(debian), Some("bookworm"));
        assert_eq!(codename("VERSION_CODENAME=\"noble\"\n"), Some("noble"));
        assert_eq!(codename("ID=arch\nVERSION_CODENAME=\n"), None);
    }
}
