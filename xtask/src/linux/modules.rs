//! The kernel's modules that guests need, and those that these need, in the order in which they can be loaded.
//!
//! What a module needs stands in its section `.modinfo`, after `depends=`. The package has no list of it: `depmod` would make one where the package is
//! installed, for all of its four thousand modules. What is no module in one kernel is one in another; Ubuntu compresses them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use elf::ElfBytes;
use elf::endian::LittleEndian;
use ruzstd::decoding::StreamingDecoder;

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

    /// The modules for it, some of which a kernel may have in itself.
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
    /// Those in `directory`, if all are there that a guest needs.
    pub(super) fn at(directory: PathBuf) -> Option<Self> {
        let wanted = fs::read_to_string(directory.join(WANTED)).ok()?;
        (wanted == wanted_by_all()).then_some(Self { directory })
    }

    /// Copies those that are needed from the `tree` of unpacked packages to `directory`, without compression. What is for others than guests may be
    /// missing there.
    ///
    /// # Errors
    ///
    /// If one is missing that a guest needs, or is not what a module is.
    pub(super) fn take(tree: &Path, directory: &Path) -> Result<()> {
        let mut all = Found::default();
        all.look(&tree.join("lib/modules"))?;
        fs::create_dir_all(directory)?;
        for role in Role::ALL {
            let order = in_order(role.modules(), |name| {
                if all.built_in.contains(name) {
                    return Ok(None);
                }
                Ok(Some(needs(&all.read(name)?)?))
            });
            let order = match order {
                Err(_) if role != Role::Guest => continue,
                order => order?,
            };
            for name in &order {
                fs::write(directory.join(format!("{name}.ko")), all.read(name)?)?;
            }
            fs::write(directory.join(role.list()), order.join("\n"))?;
        }
        // Written last: where it is, all is.
        fs::write(directory.join(WANTED), wanted_by_all())?;
        Ok(())
    }

    /// The names of those for `role`, each after those that it needs.
    ///
    /// # Errors
    ///
    /// If they cannot be read, or the kernel's package has not all of them.
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

/// The file beside the modules that says what was looked for.
const WANTED: &str = "wanted";

/// What [`WANTED`] has.
fn wanted_by_all() -> String {
    Role::ALL.map(|role| role.modules().join("\n")).join("\n\n")
}

/// The modules of a kernel.
#[derive(Default)]
struct Found {
    /// Their files by their names.
    files: BTreeMap<String, PathBuf>,
    /// The names of what is in the kernel itself.
    built_in: BTreeSet<String>,
}

impl Found {
    /// Finds all modules below `directory`.
    fn look(&mut self, directory: &Path) -> Result<()> {
        let told = || format!("cannot read {}", directory.display());
        for entry in fs::read_dir(directory).with_context(told)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.look(&entry.path())?;
            } else if entry.file_name() == "modules.builtin" {
                let list = fs::read_to_string(entry.path()).with_context(told)?;
                let names = list.lines().filter_map(|line| name_of(line.rsplit_once('/')?.1));
                self.built_in.extend(names);
            } else if let Some(name) = entry.file_name().to_str().and_then(name_of) {
                self.files.insert(name, entry.path());
            }
        }
        Ok(())
    }

    /// A module as the kernel wants it, without compression.
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.files.get(name);
        let path = path.with_context(|| format!("there is no module {name}"))?;
        let told = || format!("cannot read {}", path.display());
        let file = fs::read(path).with_context(told)?;
        unpacked(&file).with_context(told).map(Cow::into_owned)
    }
}

/// A module's name as the kernel has it, by its file's.
fn name_of(file: &str) -> Option<String> {
    let file = file.strip_suffix(".zst").unwrap_or(file);
    Some(file.strip_suffix(".ko")?.replace('-', "_"))
}

/// What is in a file that may be compressed by Zstandard.
fn unpacked(file: &[u8]) -> Result<Cow<'_, [u8]>> {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    if !file.starts_with(&ZSTD) {
        return Ok(Cow::Borrowed(file));
    }
    let mut content = Vec::new();
    StreamingDecoder::new(file)?.read_to_end(&mut content)?;
    Ok(Cow::Owned(content))
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

/// These and what they need, each after what it needs, which is nothing if the kernel has it in itself.
fn in_order(
    wanted: &[&str],
    mut needs: impl FnMut(&str) -> Result<Option<Vec<String>>>,
) -> Result<Vec<String>> {
    fn add(
        name: &str,
        depth: usize,
        needs: &mut dyn FnMut(&str) -> Result<Option<Vec<String>>>,
        order: &mut Vec<String>,
    ) -> Result<()> {
        /// The kernel's own build refuses circles.
        const DEEPEST: usize = 32;
        ensure!(depth < DEEPEST, "module {name} needs itself");
        if order.iter().any(|known| known == name) {
            return Ok(());
        }
        let Some(needed) = needs(name)? else {
            return Ok(());
        };
        for needed in needed {
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
                "built_in" => return Ok(None),
                "ext4" => &["jbd2", "crc16"],
                "other" => &["crc16", "built_in"],
                _ => &[],
            };
            Ok(Some(needed.iter().map(|name| (*name).to_owned()).collect()))
        };
        assert_eq!(
            in_order(&["ext4", "built_in", "other"], needs).unwrap(),
            ["jbd2", "crc16", "ext4", "other"]
        );
        assert!(in_order(&["circle"], |_| Ok(Some(vec!["circle".into()]))).is_err());
    }

    #[test]
    fn modules_are_found_with_those_in_the_kernel_itself_and_taken_without_compression() {
        // `module` by `zstd`.
        const PACKED: &[u8] = b"\x28\xb5\x2f\xfd\x04\x58\x31\x00\x00\x6d\x6f\x64\x75\x6c\x65\x5d\x89\xa9\x8d";
        let tree = std::env::temp_dir().join(format!("xtask-modules-{}", std::process::id()));
        let kernel = tree.join("6.8.0/kernel");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(
            tree.join("6.8.0/modules.builtin"),
            "kernel/fs/ext4/ext4.ko\nkernel/x/a-b.ko\n",
        )
        .unwrap();
        fs::write(kernel.join("xen-evtchn.ko.zst"), PACKED).unwrap();
        fs::write(kernel.join("loop.ko"), "plain").unwrap();
        let mut all = Found::default();
        let looked = all.look(&tree);
        let read = ["xen_evtchn", "loop", "ext4"].map(|name| all.read(name).ok());
        fs::remove_dir_all(&tree).unwrap();
        looked.unwrap();
        assert_eq!(Vec::from_iter(&all.built_in), ["a_b", "ext4"]);
        assert_eq!(read, [Some(b"module".to_vec()), Some(b"plain".to_vec()), None]);
    }

    #[test]
    fn a_module_says_what_it_needs_by_the_names_of_files() {
        let info = b"license=GPL\0depends=mbcache,crc32c-intel\0name=x\0";
        assert_eq!(listed(info), ["mbcache", "crc32c_intel"]);
        assert_eq!(listed(b"depends=\0"), [""; 0]);
        assert_eq!(name_of("xen-blkfront.ko").as_deref(), Some("xen_blkfront"));
        assert_eq!(name_of("autofs4.ko.zst").as_deref(), Some("autofs4"));
        assert_eq!(name_of("modules.order"), None);
    }
}
