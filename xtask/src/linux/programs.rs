//! Programs of the distribution for Linux guests, with the libraries that they need, from their packages.
//!
//! Nothing is installed: packages are downloaded and unpacked below `target/linux/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use elf::ElfBytes;
use elf::abi::DT_NEEDED;
use elf::endian::LittleEndian;

use super::{Unavailable, unpacked_packages};
use crate::project::Project;

/// Some packages: programs, and libraries of theirs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packages {
    /// What they are called together.
    pub(super) name: &'static str,
    pub(super) packages: &'static [&'static str],
    /// What for.
    pub(super) purpose: &'static str,
}

/// Those of guests.
pub(super) const GUEST: Packages = Packages {
    name: "programs",
    packages: &[
        "busybox-static",
        "e2fsprogs",
        "libblkid1",
        "libbsd0",
        "libc6",
        "libcom-err2",
        "libext2fs2",
        "libmd0",
        "libss2",
        "libuuid1",
        "rdate",
    ],
    purpose: "Linux guests run them",
};

/// Those that burden a guest.
pub(super) const STRESS: Packages = Packages {
    name: "stress",
    packages: &[
        "iperf3",
        "libapparmor1",
        "libbsd0",
        "libc6",
        "libcrypt1",
        "libdrm2",
        "libegl1",
        "libexpat1",
        "libffi8",
        "libgbm1",
        "libgles2",
        "libglvnd0",
        "libiperf0",
        "libipsec-mb1",
        "libjpeg62-turbo",
        "libjudydebian1",
        "libkmod2",
        "liblzma5",
        "libmd0",
        "libsctp1",
        "libssl3",
        "libwayland-server0",
        "libxxhash0",
        "libzstd1",
        "stress-ng",
        "zlib1g",
    ],
    purpose: "they burden Linux guests",
};

/// Xen, and what its control domain runs beside what guests have.
pub(super) const XEN: Packages = Packages {
    name: "xen",
    packages: &[
        "libc6",
        "libgcc-s1",
        "liblzma5",
        "libuuid1",
        "libxencall1",
        "libxendevicemodel1",
        "libxenevtchn1",
        "libxenforeignmemory1",
        "libxengnttab1",
        "libxenhypfs1",
        "libxenmisc4.17",
        "libxenstore4",
        "libxentoolcore1",
        "libxentoollog1",
        "libyajl2",
        "libzstd1",
        "zlib1g",
        "xen-hypervisor-4.17-amd64",
        "xen-utils-4.17",
        "xenstore-utils",
    ],
    purpose: "the log of a Linux guest of Xen is compared with ours",
};

/// Where guests have libraries; packages have them there, or in the same below `usr`.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";

/// Who loads programs, in a package and as programs name it.
const LOADER: (&str, &str) = (
    "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "lib64/ld-linux-x86-64.so.2",
);

/// The packages' files.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    tree: PathBuf,
}

impl Programs {
    /// Gets them, from the last time if they are there.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if they cannot be had here.
    pub(super) fn get(project: &Project, packages: Packages) -> Result<Self> {
        let Packages {
            name,
            packages,
            purpose,
        } = packages;
        let directory = project.target("linux")?;
        let tree = directory.join(name);
        let list = directory.join(format!("{name}.list"));
        let wanted = packages.join("\n");
        if fs::read_to_string(&list).is_ok_and(|found| found == wanted) {
            return Ok(Self { tree });
        }
        println!("set-up: downloads {} ({purpose})", packages.join(", "));
        unpacked_packages(project, &directory, packages, &tree)
            .map_err(|error| Unavailable(format!("{error:#}")))?;
        // Written last: where it is, all is.
        fs::write(&list, wanted).with_context(|| format!("cannot write {}", list.display()))?;
        Ok(Self { tree })
    }

    /// A file of theirs.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(super) fn file(&self, path: &str) -> Result<Vec<u8>> {
        let path = self.tree.join(path);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// These programs, the libraries that they need, and who loads them, each at its place in a guest.
    ///
    /// # Errors
    ///
    /// If something is missing.
    pub(super) fn with_libraries(&self, paths: &[&str]) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut all = BTreeMap::new();
        let mut missing = Vec::new();
        for &path in paths {
            let content = self.file(path)?;
            missing.extend(needs(&content)?);
            all.insert(path.to_owned(), content);
        }
        let (loader, place) = LOADER;
        all.insert(place.to_owned(), self.file(loader)?);
        while let Some(name) = missing.pop() {
            let place = format!("{LIBRARIES}/{name}");
            if all.contains_key(&place) {
                continue;
            }
            let mut found = ["", "usr"].iter().map(|above| self.tree.join(above).join(&place));
            let path = found.find(|path| path.is_file());
            let path = path.with_context(|| format!("no package has the library {name}"))?;
            let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            missing.extend(needs(&content)?);
            all.insert(place, content);
        }
        Ok(all)
    }
}

/// The names of the libraries that a program or a library needs.
fn needs(file: &[u8]) -> Result<Vec<String>> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).context("a program is no ELF file")?;
    let tables = elf.find_common_data()?;
    let (Some(dynamic), Some(names)) = (tables.dynamic, tables.dynsyms_strs) else {
        return Ok(Vec::new());
    };
    dynamic
        .iter()
        .filter(|entry| entry.d_tag == DT_NEEDED)
        .map(|entry| Ok(names.get(usize::try_from(entry.d_val())?)?.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_needs_the_library_of_c() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let needed = needs(&own).unwrap();
        assert!(
            needed.iter().any(|name| name.starts_with("libc.so")),
            "{needed:?}"
        );
        assert!(needs(b"text").is_err());
    }
}
