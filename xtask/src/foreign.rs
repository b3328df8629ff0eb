//! `cargo xtask run --kernel FILE`: a PV kernel that is not the project's, with its ramdisk and its arguments.
//!
//! The control domain makes a guest of it, or it is domain 0 with nothing else on the machine. Then a Linux boot image is unpacked here: what
//! the hypervisor itself builds is an ELF file.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bootlist::{Domain, Ramdisk, bytes_of, is_size};
use crate::build::{Built, Workshop};
use crate::disks;
use crate::linux;
use crate::project::Project;
use crate::scenario::Offer;
use crate::symbols::Functions;

/// What the kernel and the ramdisk are called in the boot archive.
const KERNEL: &str = "foreign-kernel";
const RAMDISK: &str = "foreign-ramdisk";

/// What the image of driver domains is called.
const DRIVER: &str = "driver";

/// The guest's name.
const GUEST: &str = "guest";

/// The control domain, which makes one guest and shows its console.
const CONTROL: Domain<'static> = Domain::new("control", "control")
    .memory("32M")
    .command_line("headless=guest");

/// The guest's network.
const NETWORK: &str = r#"
[[network]]
name = "net"
subnet = "10.10.1.0/24"
uplink = "nat"
rules = "accept nat from net to uplink"
"#;

/// What a machine has that a driver domain gives the guest a share of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Devices {
    pub(crate) has_disk: bool,
    pub(crate) has_nic: bool,
}

impl Devices {
    const fn are_there(self) -> bool {
        self.has_disk || self.has_nic
    }
}

/// What a machine holds besides the guest and the boot archive: hypervisor and control domain.
const HOUSEHOLD: u64 = 128 << 20;

/// The arguments of `cargo xtask run` that are about a kernel of the operator's.
#[derive(clap::Args, Debug)]
pub(crate) struct Foreign {
    /// Boot this PV kernel as a guest: an ELF file or a Linux boot image.
    #[arg(long, value_name = "FILE", conflicts_with = "scenario")]
    kernel: Option<PathBuf>,
    /// The kernel's ramdisk.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    ramdisk: Option<PathBuf>,
    /// The kernel's command line.
    #[arg(
        long,
        value_name = "ARGS",
        requires = "kernel",
        default_value = "",
        hide_default_value = true
    )]
    append: String,
    /// Its number of vCPUs.
    #[arg(long, value_name = "N", requires = "kernel", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    vcpus: u32,
    /// Its memory, such as 256M.
    #[arg(long, value_name = "SIZE", requires = "kernel", default_value = "256M", value_parser = guest_size)]
    guest_memory: String,
    /// The kernel is domain 0, with nothing else on the machine.
    #[arg(long, requires = "kernel")]
    pub(crate) privileged: bool,
}

fn guest_size(text: &str) -> Result<String> {
    anyhow::ensure!(is_size(text), "a size is a number with K, M or G, such as 256M");
    Ok(text.to_owned())
}

impl Foreign {
    /// Whether there is a kernel of the operator's.
    pub(crate) fn is_given(&self) -> bool {
        self.kernel.is_some()
    }

    /// Puts kernel and ramdisk among what `workshop` has. Returns how many bytes they have.
    ///
    /// # Errors
    ///
    /// If one cannot be read, or the kernel is neither an ELF file nor a boot image.
    pub(crate) fn bring(&self, project: &Project, workshop: &mut Workshop<'_>) -> Result<u64> {
        let mut size = 0;
        if let Some(path) = &self.kernel {
            let file =
                fs::read(path).with_context(|| format!("cannot read the kernel {}", path.display()))?;
            let kernel = if self.privileged {
                linux::vmlinux(&file).with_context(|| format!("kernel {}", path.display()))?
            } else {
                file
            };
            size = kernel.len() as u64;
            workshop.bring_kernel(write_kernel(project, &kernel)?);
        }
        if let Some(path) = &self.ramdisk {
            let found =
                fs::metadata(path).with_context(|| format!("cannot read the ramdisk {}", path.display()))?;
            size = size.saturating_add(found.len());
            workshop.bring_ramdisk(RAMDISK, path);
        }
        Ok(size)
    }

    /// The domains that the hypervisor makes, domain 0 first.
    pub(crate) fn domains(&self) -> Vec<Domain<'_>> {
        if !self.privileged {
            return vec![CONTROL];
        }
        let alone = Domain::new(GUEST, KERNEL)
            .memory(&self.guest_memory)
            .vcpus(self.vcpus)
            .command_line(&self.append);
        vec![match self.ramdisk {
            Some(_) => alone.ramdisk(RAMDISK),
            None => alone,
        }]
    }

    /// What the control domain is told of its guest, which has the whole of the machine's disk, and a network behind its NIC.
    pub(crate) fn config(&self, devices: Devices) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut config = format!(
            "[[guest]]\nname = \"{GUEST}\"\nkernel = \"{KERNEL}\"\nmemory = \"{}\"\nvcpus = {}\ncommand-line = {}\n",
            self.guest_memory,
            self.vcpus,
            quoted(&self.append)
        );
        if self.ramdisk.is_some() {
            config.push_str(&format!("ramdisk = \"{RAMDISK}\"\n"));
        }
        let mut classes = Vec::new();
        if devices.has_disk {
            config.push_str(&format!("disk = [\"@00:0{}:rw\"]\n", disks::address(0)));
            classes.push("block");
        }
        if devices.has_nic {
            config.push_str("network = [\"net\"]\n");
            classes.push("net");
        }
        if devices.are_there() {
            config.push_str(&format!("\n[[driver]]\nname = \"io\"\ndevices = {classes:?}\n"));
        }
        if devices.has_nic {
            config.push_str(NETWORK);
        }
        config
    }

    /// What the control domain finds in the boot archive, on a machine with these devices.
    pub(crate) fn offer<'a>(&'a self, config: &'a str, devices: Devices) -> Offer<'a> {
        if self.privileged {
            return Offer::NOTHING;
        }
        Offer {
            config,
            images: if devices.are_there() {
                &[KERNEL, DRIVER]
            } else {
                &[KERNEL]
            },
            ramdisks: if self.ramdisk.is_some() {
                &[Ramdisk::File(RAMDISK)]
            } else {
                &[]
            },
        }
    }

    /// How much memory the machine needs for all that, `files` being the bytes of kernel and ramdisk.
    pub(crate) fn machine_memory(&self, files: u64) -> String {
        let bytes = [bytes_of(&self.guest_memory).unwrap_or(0), files, HOUSEHOLD];
        let mib = bytes.into_iter().fold(0, u64::saturating_add).div_ceil(1 << 20);
        format!("{}M", mib.next_multiple_of(64).max(512))
    }
}

/// Copies a machine's console line by line: what the guest wrote to `guest`; what hypervisor and control domain said to `others`.
///
/// # Errors
///
/// If the console cannot be read, or `guest` or `others` cannot be written.
pub(crate) fn part_console(
    console: impl Read,
    mut guest: impl Write,
    mut others: impl Write,
) -> io::Result<()> {
    /// What their lines begin with.
    const MARKS: [&[u8]; 3] = [b"(bh) ", b"(control) ", b"@bulkhead "];
    let mut console = BufReader::new(console);
    let mut line = Vec::new();
    while console.read_until(b'\n', &mut line)? > 0 {
        if MARKS.iter().any(|mark| line.starts_with(mark)) {
            others.write_all(&line)?;
        } else {
            guest.write_all(&line).and_then(|()| guest.flush())?;
        }
        line.clear();
    }
    Ok(())
}

/// Leaves the kernel where images lie, with a list of its functions if it has one.
fn write_kernel(project: &Project, file: &[u8]) -> Result<Built> {
    let directory = project.target("foreign")?;
    let built = Built {
        name: KERNEL.into(),
        elf: directory.join("kernel"),
        stripped: directory.join("kernel"),
        symbols: directory.join("kernel.sym"),
    };
    let write = |path: &Path, content: &[u8]| {
        fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    write(&built.elf, file)?;
    // A stripped kernel has none; its backtraces are bare addresses then.
    write(
        &built.symbols,
        &Functions::of_elf(file).unwrap_or_default().encode()?,
    )?;
    Ok(built)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        /// What `--kernel` excludes.
        #[arg(long)]
        scenario: Option<String>,
        #[command(flatten)]
        foreign: Foreign,
    }

    fn arguments(words: &[&str]) -> Result<Foreign, clap::Error> {
        let line = Line::try_parse_from([&["run"], words].concat())?;
        assert_eq!(line.scenario, None);
        Ok(line.foreign)
    }

    #[test]
    fn the_control_domain_makes_a_guest_of_a_kernel_and_a_privileged_one_is_alone() {
        let guest = arguments(&[
            "--kernel",
            "vmlinuz",
            "--ramdisk",
            "initrd",
            "--vcpus",
            "2",
            "--append",
            "a \"b\"",
        ]);
        let guest = guest.unwrap();
        let list = crate::bootlist::text(&guest.domains()).unwrap();
        assert!(list.contains("domain control kernel=control"), "{list}");
        let config = bulkhead_config::parse(guest.config(Devices::default()).as_bytes()).unwrap();
        let [made] = config.guests() else {
            panic!("one guest");
        };
        assert_eq!((made.vcpus.get(), made.command_line.as_str()), (2, "a \"b\""));
        assert_eq!(made.ramdisk.as_ref().map(|name| name.as_str()), Some(RAMDISK));
        assert_eq!(guest.offer("", Devices::default()).ramdisks.len(), 1);
        let alone = arguments(&["--kernel", "tests.elf", "--privileged", "--append", "a \"b\""]).unwrap();
        assert_eq!(alone.domains().len(), 1);
        let has_disk = Devices {
            has_disk: true,
            has_nic: false,
        };
        assert!(alone.offer("", has_disk).images.is_empty());
    }

    #[test]
    fn the_guest_has_the_machines_disk_whole_and_a_network_from_a_driver() {
        let guest = arguments(&["--kernel", "vmlinuz"]).unwrap();
        for (has_disk, has_nic) in [(true, false), (false, true), (true, true)] {
            let devices = Devices { has_disk, has_nic };
            let config = bulkhead_config::parse(guest.config(devices).as_bytes()).unwrap();
            let [made] = config.guests() else {
                panic!("one guest");
            };
            let disks = if has_disk { "@00:04.0:rw" } else { "" };
            assert_eq!(made.disks.to_string(), disks);
            assert_eq!(
                (config.networks().len(), config.drivers().len()),
                (usize::from(has_nic), 1)
            );
            assert!(guest.offer("", devices).images.contains(&"driver"));
        }
        assert!(!guest.offer("", Devices::default()).images.contains(&"driver"));
    }

    #[test]
    fn what_is_about_a_kernel_wants_one_and_excludes_a_scenario() {
        assert!(!arguments(&[]).unwrap().is_given());
        for words in [
            &["--ramdisk", "initrd"][..],
            &["--append", "quiet"],
            &["--privileged"],
            &["--kernel", "vmlinuz", "--scenario", "boot"],
            &["--kernel", "vmlinuz", "--vcpus", "33"],
            &["--kernel", "vmlinuz", "--guest-memory", "much"],
        ] {
            assert!(arguments(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn the_guests_lines_are_told_from_the_others() {
        let console: &[u8] =
            b"one\r\n(bh) WARN  core: x\r\n\r\n(control) y\r\n--- \xff test\r\n@bulkhead {}\r\nend";
        let (mut guest, mut others) = (Vec::new(), Vec::new());
        part_console(console, &mut guest, &mut others).unwrap();
        assert_eq!(guest, b"one\r\n\r\n--- \xff test\r\nend");
        assert_eq!(others, b"(bh) WARN  core: x\r\n(control) y\r\n@bulkhead {}\r\n");
    }

    #[test]
    fn the_machine_has_room_for_guest_and_files() {
        let small = arguments(&["--kernel", "a", "--guest-memory", "16M"]).unwrap();
        assert_eq!(small.machine_memory(1 << 20), "512M");
        let big = arguments(&["--kernel", "a", "--guest-memory", "1G"]).unwrap();
        assert_eq!(big.machine_memory(66 << 20), "1280M");
    }
}
