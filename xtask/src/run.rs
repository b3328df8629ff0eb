//! `cargo xtask run`: builds, boots a machine in QEMU, and connects the terminal to its console.
//!
//! Exit statuses: 0 a clean end, 1 a domain crashed, 2 the time was over, 3 the hypervisor panicked or the
//! machine reset itself.

use std::collections::BTreeSet;
use std::fs;
use std::io::{IsTerminal, stderr, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use shared_child::SharedChild;
use shared_child::unix::SharedChildExt as _;

use crate::bootlist::{Ramdisk, is_size};
use crate::build::{self, Profile, Workshop};
use crate::disks::{self, Controller, DEFAULT_PARTITIONS, DiskImage, Drive, Through};
use crate::foreign::{self, Devices, Foreign};
use crate::images::Images;
use crate::linux::{self, Flavour, Unavailable, VMLINUZ};
use crate::loader::{self, Loader};
use crate::project::{Project, spelled};
use crate::qemu::{self, Cable, Clock, Console, Ending, Forward, MICROVM, Machine, Nic, Protocol};
use crate::scenario::{self, EXAMPLE, LINUX_EXAMPLE, Offer, Scenario};
use crate::setup::{self, Need};

/// The arguments of `cargo xtask run`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Number of CPUs.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// Memory of the machine, such as 512M or 4G.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<String>,
    /// Give up after this many seconds, with exit status 2.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Deterministic time: the machine's clock advances with its instructions.
    #[arg(long)]
    icount: bool,
    /// QEMU's accelerator.
    #[arg(long, value_name = "NAME", value_parser = ["tcg", "kvm"])]
    accel: Option<String>,
    /// QEMU's board.
    #[arg(long, value_name = "NAME", value_parser = ["q35", "pc", MICROVM])]
    machine: Option<String>,
    /// Give the machine an IOMMU, which only q35 can have.
    #[arg(long)]
    iommu: bool,
    /// Who loads the hypervisor: QEMU itself by PVH, or GRUB from a disc, started by BIOS or UEFI.
    #[arg(long, value_name = "LOADER")]
    boot: Option<Loader>,
    /// QEMU's CPU model with its features, such as Skylake-Server or max,la57=off.
    #[arg(long, value_name = "MODEL")]
    cpu: Option<String>,
    /// Give the machine a disk, reached by this controller, at 00:04.0 on PCI.
    #[arg(long, value_name = "CONTROLLER")]
    disk: Option<Controller>,
    /// The disk's image, which is kept as it is left; without it, target/bulkhead/disk.img with a few partitions.
    #[arg(long, value_name = "FILE")]
    disk_image: Option<PathBuf>,
    /// Give the machine a NIC on QEMU's user network, at 00:03.0 on PCI, or none. Without this it has one if its configuration has networks.
    #[arg(long, value_name = "MODEL")]
    nic: Option<Nic>,
    /// Have a port of this host's own address (127.0.0.1) lead to one of the machine's, such as 8080:80 or udp:53:53. Without it, those lead there that the
    /// configuration's rules open to the uplink.
    #[arg(long, value_name = "HOST:MACHINE", value_parser = forward)]
    forward: Vec<Forward>,
    /// Boot what the machine test or benchmark of this name boots.
    #[arg(long, value_name = "NAME", default_value = scenario::EXAMPLE.name)]
    scenario: String,
    /// Boot the guests of this bulkhead.toml. Kernels and ramdisks that are no images of the project are files beside it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenario", "kernel"])]
    config: Option<PathBuf>,
    #[command(flatten)]
    foreign: Foreign,
    /// No input: the console only goes to standard output.
    #[arg(long)]
    headless: bool,
    /// How much the hypervisor logs; `warn` if a kernel runs headless, `info` otherwise.
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    log: Option<String>,
}

impl Arguments {
    /// How much the hypervisor is to log, if not what it logs by itself.
    fn log_level(&self) -> Option<&str> {
        let by_default = (self.headless && self.foreign.is_given()).then_some("warn");
        self.log.as_deref().or(by_default)
    }

    /// Whether the arguments give the machine a disk.
    const fn has_disk(&self) -> bool {
        self.disk.is_some() || self.disk_image.is_some()
    }

    /// What the arguments give the machine of what a kernel of the operator's is to have.
    fn devices(&self) -> Devices {
        Devices {
            has_disk: self.has_disk(),
            has_nic: self.nic.is_some_and(|nic| nic != Nic::None),
        }
    }

    /// The machine's disks: that of the arguments, or those of the scenario, made anew.
    fn drives(&self, project: &Project, scenario: &Scenario<'_>) -> Result<Vec<Drive>> {
        let directory = project.target("bulkhead")?;
        if !self.has_disk() {
            return disks::provide(&directory, scenario.name, scenario.disks);
        }
        let image = match &self.disk_image {
            Some(image) => image.clone(),
            None => directory.join("disk.img"),
        };
        if self.disk_image.is_none() && !image.exists() {
            DiskImage::create(&image, DEFAULT_PARTITIONS)?;
        }
        // QEMU's own word on a file that is not there is less clear.
        DiskImage::open(&image)?;
        Ok(vec![Drive {
            controller: self.disk.unwrap_or(Controller::Virtio),
            image,
            through: Through::Image,
        }])
    }

    /// What the machine's NIC is on, if this is its configuration.
    fn cable(&self, config: &str) -> Cable {
        Cable::User(if self.forward.is_empty() {
            opened(config).into_iter().collect()
        } else {
            self.forward.clone()
        })
    }

    /// The machine with what the arguments change of it.
    fn on<'a>(&'a self, machine: &Machine<'a>) -> Machine<'a> {
        Machine {
            board: self.machine.as_deref().unwrap_or(machine.board),
            accelerator: self.accel.as_deref().unwrap_or(machine.accelerator),
            cpu: self.cpu.as_deref().unwrap_or(machine.cpu),
            cpus: self.cpus.unwrap_or(machine.cpus),
            memory: self.memory.as_deref().unwrap_or(machine.memory),
            clock: if self.icount {
                Clock::Instructions
            } else {
                machine.clock
            },
            iommu: if self.iommu { qemu::IOMMU } else { machine.iommu },
            nic: match self.nic {
                Some(nic) => nic,
                // It has no PCI.
                None if self.machine.as_deref() == Some(MICROVM) => Nic::None,
                None => machine.nic,
            },
            devices: machine.devices,
        }
    }
}

fn size(text: &str) -> Result<String> {
    if !is_size(text) {
        bail!("a size is a number with K, M or G, such as 512M");
    }
    Ok(text.to_owned())
}

fn forward(text: &str) -> Result<Forward> {
    let (protocol, ports) = match text.strip_prefix("udp:") {
        Some(ports) => (Protocol::Udp, ports),
        None => (Protocol::Tcp, text.strip_prefix("tcp:").unwrap_or(text)),
    };
    let ports = ports
        .split_once(':')
        .and_then(|(host, machine)| Some((host.parse().ok()?, machine.parse().ok()?)));
    let Some((host, machine)) = ports else {
        bail!("two ports are HOST:MACHINE, such as 8080:80, or udp:53:53");
    };
    Ok(Forward {
        protocol,
        host,
        machine,
    })
}

/// The ports that rules of a configuration open to the uplink, `from uplink port P`: each leads to itself. The first who listens on the host has it, so those that only
/// its administrator may listen on are moved up by 8000.
fn opened(config: &str) -> BTreeSet<Forward> {
    let rules = config
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let opened = rules.filter_map(|words| {
        if !words.first()?.starts_with("accept") {
            return None;
        }
        let at = words
            .windows(3)
            .position(|words| words == ["from", "uplink", "port"])?;
        let machine: u16 = words.get(at.checked_add(3)?)?.parse().ok()?;
        let protocol = if words.contains(&"udp") {
            Protocol::Udp
        } else {
            Protocol::Tcp
        };
        let host = if machine < 1024 {
            machine.saturating_add(8000)
        } else {
            machine
        };
        Some(Forward {
            protocol,
            host,
            machine,
        })
    });
    opened.collect()
}

/// Whether Debian's kernel and what its guest runs can be had; if not, says why.
fn has_linux(project: &Project) -> Result<bool> {
    match linux::system::ramdisk(project, Flavour::Stock) {
        Ok(_) => Ok(true),
        Err(error) => match error.downcast_ref::<Unavailable>() {
            Some(why) => {
                eprintln!("The machine has no Linux guest: {why}");
                Ok(false)
            }
            None => Err(error),
        },
    }
}

/// The exit status for a time that was over.
const TIMED_OUT: u8 = 2;

/// Sets up, builds, boots, and says how the machine ended.
///
/// # Errors
///
/// If the machine could not be booted at all.
pub(crate) fn run(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    setup::provide(project, &[build::NEEDS, &[Need::Qemu]].concat())?;
    let images = Images::of(&project.metadata(None)?);
    let mut workshop = Workshop::new(project, &images, Profile::Release);
    let (domains, memory, config);
    let (operators, archive_images, archive_files, with_linux);
    let scenario = if arguments.foreign.is_given() {
        let files = arguments.foreign.bring(project, &mut workshop)?;
        (domains, memory, config) = (
            arguments.foreign.domains(),
            arguments.foreign.machine_memory(files),
            arguments.foreign.config(arguments.devices()),
        );
        Scenario {
            machine: Machine {
                memory: &memory,
                ..Machine::DEFAULT
            },
            offer: arguments.foreign.offer(&config, arguments.devices()),
            ..Scenario::new("foreign", &domains)
        }
    } else if let Some(path) = &arguments.config {
        operators = Operators::read(path, &images, &mut workshop)?;
        (archive_images, archive_files) = (operators.images(), operators.files());
        // Without a NIC networks lead nowhere.
        let nic = if operators.text.contains("[[network]]") {
            Nic::Virtio
        } else {
            Nic::None
        };
        Scenario {
            machine: Machine {
                nic,
                ..Machine::DEFAULT
            },
            offer: Offer {
                config: &operators.text,
                images: &archive_images,
                ramdisks: &archive_files,
            },
            ..Scenario::new("config", EXAMPLE.domains)
        }
    } else if arguments.scenario == EXAMPLE.name && has_linux(project)? {
        with_linux = [EXAMPLE.offer.config, LINUX_EXAMPLE].concat();
        archive_images = [EXAMPLE.offer.images, &[VMLINUZ]].concat();
        Scenario {
            machine: Machine {
                memory: "1G",
                ..EXAMPLE.machine
            },
            offer: Offer {
                config: &with_linux,
                images: &archive_images,
                ramdisks: &[Ramdisk::LinuxSystem(Flavour::Stock)],
            },
            ..EXAMPLE
        }
    } else {
        scenario::named(&arguments.scenario)?
    };
    let machine = arguments.on(&scenario.machine);
    let loader = arguments.boot.unwrap_or(scenario.loader);
    if machine.board == MICROVM && loader != Loader::Pvh {
        bail!("a {MICROVM} has no drive to boot a disc from; it boots by pvh only");
    }
    let drives = arguments.drives(project, &scenario)?;
    if machine.board == MICROVM && machine.nic != Nic::None {
        bail!("a {MICROVM} has no PCI for a NIC; q35 has");
    }
    if machine.board == MICROVM && !drives.is_empty() {
        bail!("a {MICROVM} has no PCI for disks; q35 has");
    }
    let files = workshop.boot_files(&scenario)?;
    let level = arguments.log_level().map(|level| format!("loglevel={level}"));
    let words: Vec<&str> = scenario.words.iter().copied().chain(level.as_deref()).collect();
    // QEMU's keys would swallow a Ctrl-a of a script that drives the console through a pipe.
    let console = if !arguments.headless && stdin().is_terminal() {
        Console::Interactive
    } else {
        Console::Plain
    };
    let medium = loader::medium(project, loader, &files, &words, scenario.grub_script)?;
    let cable = arguments.cable(scenario.offer.config);
    let mut command = qemu::command(&machine, &drives, &cable, &medium, console);
    if !arguments.headless {
        command.stdin(Stdio::inherit());
    }
    eprintln!("{}", spelled(&command));
    if let (Nic::Virtio, Cable::User(forwards)) = (machine.nic, &cable) {
        for Forward { host, machine, .. } in forwards {
            eprintln!("Port {host} of 127.0.0.1 leads to port {machine} of the machine's uplink.");
        }
    }
    if console == Console::Interactive {
        eprintln!("The console follows. Ctrl-a x ends the machine, Ctrl-a h lists QEMU's other keys.");
    }
    let parts_console = arguments.headless && arguments.foreign.is_given();
    if parts_console {
        command.stdout(Stdio::piped());
    }
    let child = SharedChild::spawn(&mut command).context("cannot start qemu-system-x86_64")?;
    let copier = child
        .take_stdout()
        .filter(|_| parts_console)
        .map(|console| thread::spawn(move || foreign::part_console(console, stdout(), stderr())));
    let ending = await_end(child, arguments.timeout.map(Duration::from_secs))?;
    if let Some(copier) = copier {
        // All of it has come: QEMU, which had the other end, is gone.
        let copied = copier
            .join()
            .ok()
            .context("the thread that copies the console is gone")?;
        copied.context("cannot copy the console")?;
    }
    let Some(ending) = ending else {
        eprintln!("\nThe machine did not end in time.");
        return Ok(ExitCode::from(TIMED_OUT));
    };
    eprintln!("\n{}", ending.sentence());
    Ok(ExitCode::from(exit_status(ending, console)))
}

/// A configuration of the operator's, and what it takes.
struct Operators {
    text: String,
    /// Images of the project.
    images: BTreeSet<String>,
    /// Other files.
    files: BTreeSet<String>,
}

impl Operators {
    /// Reads the configuration at `path`, and puts the files that it names among what `workshop` has.
    fn read(path: &Path, images: &Images, workshop: &mut Workshop<'_>) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let config = bulkhead_config::parse(text.as_bytes())
            .map_err(|problems| anyhow!("{}", problems.of(&path.display().to_string())))?;
        let guests = config.guests().iter().flat_map(|guest| {
            let ramdisk = guest.ramdisk.as_ref().map(|name| name.as_str());
            [Some(guest.kernel.as_str()), ramdisk].into_iter().flatten()
        });
        let drivers = config.drivers().iter().map(|driver| driver.kernel.as_str());
        let named = guests.chain(drivers);
        let is_ours = |name: &str| linux::is_kernel(name) || images.named(name).is_ok();
        let (images, files): (BTreeSet<_>, BTreeSet<_>) =
            named.map(str::to_owned).partition(|name| is_ours(name));
        for name in &files {
            workshop.bring_ramdisk(name, &path.with_file_name(name));
        }
        Ok(Self { text, images, files })
    }

    fn images(&self) -> Vec<&str> {
        self.images.iter().map(String::as_str).collect()
    }

    fn files(&self) -> Vec<Ramdisk<'_>> {
        self.files.iter().map(|name| Ramdisk::File(name)).collect()
    }
}

/// Awaits the end of QEMU; `None` if it was not reached within `limit`, and QEMU was told to end.
fn await_end(child: SharedChild, limit: Option<Duration>) -> Result<Option<Ending>> {
    let child = Arc::new(child);
    let (report, ended) = mpsc::channel();
    let waiter = thread::spawn({
        let child = Arc::clone(&child);
        // The receiver is gone after a timeout only, when nobody asks any more.
        move || drop(report.send(child.wait()))
    });
    let status = match limit {
        None => ended.recv().context("the thread that awaits QEMU is gone")?,
        Some(limit) => match ended.recv_timeout(limit) {
            Ok(status) => status,
            Err(RecvTimeoutError::Disconnected) => bail!("the thread that awaits QEMU is gone"),
            Err(RecvTimeoutError::Timeout) => {
                // Asked to end, QEMU gives the terminal back as it found it; killed, it does not.
                child.send_signal(SIGTERM).context("cannot end QEMU")?;
                drop(waiter.join());
                return Ok(None);
            }
        },
    };
    Ok(Some(Ending::of(status.context("cannot await QEMU")?)))
}

/// The signal that asks a process to end (POSIX.1, the same number on every Linux).
const SIGTERM: i32 = 15;

fn exit_status(ending: Ending, console: Console) -> u8 {
    match ending {
        Ending::Clean => 0,
        Ending::DomainCrashed => 1,
        Ending::HypervisorPanicked => 3,
        // On a terminal it is Ctrl-a x; without one nobody was there to press it.
        Ending::NoVerdict if console == Console::Interactive => 0,
        Ending::NoVerdict | Ending::EmulatorFailed(_) | Ending::Killed => 3,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn fake(script: &str) -> SharedChild {
        SharedChild::spawn(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn an_ending_within_the_time_is_understood() {
        let ending = await_end(fake("exit 35"), Some(Duration::from_secs(60))).unwrap();
        assert_eq!(ending, Some(Ending::DomainCrashed));
        assert_eq!(await_end(fake("exit 33"), None).unwrap(), Some(Ending::Clean));
    }

    #[test]
    fn a_machine_that_does_not_end_is_told_to() {
        assert_eq!(
            await_end(fake("exec sleep 1000"), Some(Duration::from_millis(50))).unwrap(),
            None
        );
    }

    #[test]
    fn ports_are_read_and_found_in_rules() {
        let tcp = |host, machine| Forward {
            protocol: Protocol::Tcp,
            host,
            machine,
        };
        assert_eq!(forward("8080:80").unwrap(), tcp(8080, 80));
        assert_eq!(forward("udp:5353:53").unwrap().protocol, Protocol::Udp);
        for wrong in ["80", "a:b", "1:2:3", "1:70000"] {
            assert!(forward(wrong).is_err(), "{wrong}");
        }
        let config = "\
            accept from red to uplink\n\
            accept tcp from uplink port 8080 to web port 80\n\
            accept tcp from uplink port 443 to web\n\
            # accept tcp from uplink port 1 to web\n\
            drop tcp from uplink port 9 to web\n";
        assert_eq!(Vec::from_iter(opened(config)), [tcp(8080, 8080), tcp(8443, 443)]);
    }

    #[test]
    fn a_reset_without_an_operator_is_no_success() {
        assert_eq!(exit_status(Ending::NoVerdict, Console::Interactive), 0);
        assert_eq!(exit_status(Ending::NoVerdict, Console::Plain), 3);
    }
}
