//! The kernel's modules that guests need, and those that these need, in the order in which they can be loaded.
//!
//! What a module needs stands in its section `.modinfo`, after `depends=`. The package has no list of it: `depmod` would make one where the package is
//! installed, for all of its four thousand modules.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use elf::ElfBytes;
use elf::endian::LittleEndian;

/// What a kernel is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A guest.
    Guest,
    /// The control domain of a Xen.
    XensControl,
}

impl Role {
    const ALL: [Self; 2] = [Self::Guest, Self::XensControl];

    /// The modules for it.
    const fn modules(self) -> &'static [&'static str] {
        match self {
            // Disks, networks, and a file system. ext4 asks for `crc32c` by that name, which nothing says that could be followed.
            Self::Guest => &["crc32c_generic", "ext4", "xen_blkfront", "xen_netfront"],
            Self::XensControl => &[
                "loop",
                "xen_blkback",
                "xen_evtchn",
                "xen_gntalloc",
                "xen_gntdev",
                "xen_netback",
                "xen_privcmd",
                "xenfs",
            ],
        }
    }

    /// The file beside the modules that has the names of these, each after those that it needs.
    const fn list(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::XensControl => "control",
        }
    }
}

/// Modules as they lie on the host.
#[derive(Clone, Debug)]
pub(super) struct Modules {
    directory: PathBuf,
}

impl Modules {
    /// Those in `directory`, if all are there.
    pub(super) fn at(directory: PathBuf) -> Option<Self> {
        let modules = Self { directory };
        let is_there = |role: Role| {
            let names = modules.names(role).unwrap_or_default();
            let mut wanted = role.modules().iter();
            wanted.all(|wanted| names.iter().any(|name| name == wanted))
        };
        Role::ALL.into_iter().all(is_there).then_some(modules)
    }

    /// Copies those that are needed from the `tree` of an unpacked package to `directory`.
    ///
    /// # Errors
    ///
    /// If one is missing, or is not what a module is.
    pub(super) fn take(tree: &Path, directory: &Path) -> Result<()> {
        let mut all = BTreeMap::new();
        find(&tree.join("lib/modules"), &mut all)?;
        let read = |name: &str| {
            let path = all
                .get(name)
                .with_context(|| format!("there is no module {name}"))?;
            fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        fs::create_dir_all(directory)?;
        for role in Role::ALL {
            let order = in_order(role.modules(), |name| needs(&read(name)?))?;
            for name in &order {
                fs::write(directory.join(format!("{name}.ko")), read(name)?)?;
            }
            // Written last: where it is, all is.
            fs::write(directory.join(role.list()), order.join("\n"))?;
        }
        Ok(())
    }

    /// The names of those for `role`, each after those that it needs.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub(super) fn names(&self, role: Role) -> Result<Vec<String>> {
        let order = fs::read_to_string(self.directory.join(role.list()));
        let order = order.with_context(|| format!("cannot read modules in {}", self.directory.display()))?;
        Ok(order.lines().map(str::to_owned).collect())
    }

    /// A module's file.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(super) fn content(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.directory.join(format!("{name}.ko"));
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// A module's name as the kernel has it, by its file's.
fn name_of(file: &str) -> Option<String> {
    Some(file.strip_suffix(".ko")?.replace('-', "_"))
}

/// Finds all modules below `directory`.
fn find(directory: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), found)?;
        } else if let Some(name) = entry.file_name().to_str().and_then(name_of) {
            found.insert(name, entry.path());
        }
    }
    Ok(())
}

/// The names of the modules that a module needs.
fn needs(module: &[u8]) -> Result<Vec<String>> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(module).context("a module is no ELF file")?;
    let section = elf.section_header_by_name(".modinfo")?;
    let (info, _) = elf.section_data(&section.context("a module says nothing of itself")?)?;
    Ok(listed(info))
}

/// The names after `depends=` in what a module says of itself.
fn listed(info: &[u8]) -> Vec<String> {
    let mut lines = info
        .split(|byte| *byte == 0)
        .filter_map(|line| std::str::from_utf8(line).ok());
    let names = lines.find_map(|line| line.strip_prefix("depends=")).unwrap_or("");
    let names = names.split(',').filter(|name| !name.is_empty());
    names.map(|name| name.replace('-', "_")).collect()
}

/// These and what they need, each after what it needs.
fn in_order(wanted: &[&str], mut needs: impl FnMut(&str) -> Result<Vec<String>>) -> Result<Vec<String>> {
    fn add(
        name: &str,
        depth: usize,
        needs: &mut dyn FnMut(&str) -> Result<Vec<String>>,
        order: &mut Vec<String>,
    ) -> Result<()> {
        /// The kernel's own build refuses circles.
        const DEEPEST: usize = 32;
        ensure!(depth < DEEPEST, "module {name} needs itself");
        if order.iter().any(|known| known == name) {
            return Ok(());
        }
        for needed in needs(name)? {
            add(&needed, depth.saturating_add(1), needs, order)?;
        }
        order.push(name.to_owned());
        Ok(())
    }
    let mut order = Vec::new();
    for name in wanted {
        add(name, 0, &mut needs, &mut order)?;
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let needs = |name: &str| {
            let needed: &[&str] = match name {
                "ext4" => &["jbd2", "crc16"],
                "other" => &["crc16"],
                _ => &[],
            };
            Ok(needed.iter().map(|name| (*name).to_owned()).collect())
        };
        assert_eq!(
            in_order(&["ext4", "other"], needs).unwrap(),
            ["jbd2", "crc16", "ext4", "other"]
        );
        assert!(in_order(&["circle"], |_| Ok(vec!["circle".into()])).is_err());
    }

    #[test]
    fn a_module_says_what_it_needs_by_the_names_of_files() {
        let info = b"license=GPL\0depends=mbcache,crc32c-intel\0name=x\0";
        assert_eq!(listed(info), ["mbcache", "crc32c_intel"]);
        assert_eq!(listed(b"depends=\0"), [""; 0]);
        assert_eq!(name_of("xen-blkfront.ko").as_deref(), Some("xen_blkfront"));
        assert_eq!(name_of("modules.order"), None);
    }
}
