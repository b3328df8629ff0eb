//! QEMU: the machine that it is asked to be, its command line, and what its exit status says.
//!
//! The hypervisor ends a machine by writing its verdict to QEMU's debug-exit device, which makes the odd exit
//! status `verdict * 2 + 1`; [`Ending`] is that status understood.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::disks::Drive;
use crate::loader::{Medium, Module};

/// How the guest's clock runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// With the host's.
    Real,
    /// With the instructions executed, [`NS_PER_INSTRUCTION`] each; while all CPUs are idle, with the host's.
    Instructions,
    /// With the instructions executed, skipping idle time: repeats exactly, for benchmarks that are CPU-bound.
    InstructionsOnly,
}

/// What an instruction takes by a clock that counts them: `shift=1` on the command line.
pub(crate) const NS_PER_INSTRUCTION: f64 = 2.0;

/// The machine that QEMU is to be. All strings are QEMU's own names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine<'a> {
    /// The board.
    pub(crate) board: &'a str,
    /// The accelerator.
    pub(crate) accelerator: &'a str,
    /// The CPU model, with its features.
    pub(crate) cpu: &'a str,
    /// How many CPUs.
    pub(crate) cpus: u32,
    /// Its memory, such as `512M`.
    pub(crate) memory: &'a str,
    /// How its clock runs.
    pub(crate) clock: Clock,
    /// Its IOMMU: a device with its properties, such as [`IOMMU`]; none if empty. Only q35 can have one.
    pub(crate) iommu: &'a str,
    /// Its NIC, on the [`Cable`] that the command gets.
    pub(crate) nic: Nic,
    /// More devices, as QEMU's `-device` wants them. One may be a NIC on [`NETWORK`].
    pub(crate) devices: &'a [&'a str],
}

/// The model of a machine's NIC, which is at [`NIC_PLACE`] on PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Nic {
    /// It has none.
    None,
    /// virtio, by MSI-X.
    Virtio,
}

/// Where the NIC is on the first bus: before the disks.
const NIC_PLACE: &str = "3.0";

/// The NIC's hardware address: so it is always the same.
const NIC_MAC: &str = "52:54:00:00:00:03";

/// What a machine's NIC is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cable {
    /// QEMU's user network: the host does what the machine asks for, in the host's name. What comes to these ports of the host goes to those of the machine.
    User(Vec<Forward>),
    /// Whoever listens at this socket.
    Peer(PathBuf),
}

/// A port of the host's own address that leads to one of the machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Forward {
    pub(crate) protocol: Protocol,
    pub(crate) host: u16,
    pub(crate) machine: u16,
}

/// What has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Cable {
    /// The user network, by which nobody comes in.
    pub(crate) const QUIET: Self = Self::User(Vec::new());

    /// QEMU's name and properties of what is at the other end.
    fn netdev(&self) -> String {
        match self {
            Self::User(forwards) => {
                let mut user = "user,id=uplink".to_owned();
                for Forward {
                    protocol,
                    host,
                    machine,
                } in forwards
                {
                    let protocol = match protocol {
                        Protocol::Tcp => "tcp",
                        Protocol::Udp => "udp",
                    };
                    user += &format!(",hostfwd={protocol}:127.0.0.1:{host}-:{machine}");
                }
                user
            }
            Self::Peer(path) => {
                let path = in_option(path);
                format!("stream,id=uplink,server=off,addr.type=unix,addr.path={path}")
            }
        }
    }
}

/// QEMU's VT-d.
pub(crate) const IOMMU: &str = "intel-iommu";

/// What a NIC's properties have that is on QEMU's user network. There are QEMU itself, 10.0.2.2, and nobody else.
pub(crate) const NETWORK: &str = "netdev=net";

/// QEMU's smallest board: no PCI, no drives, no HPET; its firmware boots by PVH and nothing else.
pub(crate) const MICROVM: &str = "microvm";

/// Serial lines that lead nowhere, for domains to own. The line by which the second interrupts is triggered by edge, that of the third by
/// level.
const SPARE_SERIAL_LINES: [&str; 8] = [
    "-chardev",
    "null,id=second",
    "-device",
    "isa-serial,chardev=second,iobase=0x2f8,irq=3",
    "-chardev",
    "null,id=third",
    "-device",
    "isa-serial,chardev=third,iobase=0x3e8,irq=5",
];

impl Machine<'_> {
    /// The machine that everything runs on unless it says otherwise.
    pub(crate) const DEFAULT: Self = Machine {
        board: "q35",
        accelerator: "tcg",
        cpu: "qemu64",
        cpus: 1,
        memory: "512M",
        clock: Clock::Real,
        iommu: "",
        nic: Nic::None,
        devices: &[],
    };
}

/// What the guest's serial line is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Console {
    /// The terminal, with QEMU's own keys: Ctrl-a x ends the machine, Ctrl-a h lists the others.
    Interactive,
    /// Standard output; standard input is whatever the caller makes it.
    Plain,
}

/// The command that starts `machine` from `medium`, with these disks, and its NIC on this cable.
pub(crate) fn command(
    machine: &Machine<'_>,
    drives: &[Drive],
    cable: &Cable,
    medium: &Medium,
    console: Console,
) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    // When a driver domain comes or goes, bus mastering changes QEMU's map of memory. QEMU 7.2 does not survive it if another CPU's thread reaches a
    // register at that moment (it crashes in `memory_region_dispatch_write`): all CPUs have one thread.
    let has_devices = !drives.is_empty() || !machine.devices.is_empty() || machine.nic != Nic::None;
    let accelerator = match machine.accelerator {
        "tcg" if has_devices && machine.cpus > 1 => "tcg,thread=single",
        other => other,
    };
    command.args([
        "-machine",
        machine.board,
        "-accel",
        accelerator,
        "-cpu",
        machine.cpu,
    ]);
    command.args(["-m", machine.memory, "-smp", &machine.cpus.to_string()]);
    match machine.clock {
        Clock::Real => {}
        Clock::Instructions => drop(command.args(["-icount", "shift=1"])),
        Clock::InstructionsOnly => drop(command.args(["-icount", "shift=1,sleep=off"])),
    }
    command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
    match console {
        Console::Interactive => drop(command.args(["-serial", "mon:stdio"])),
        Console::Plain => drop(command.args(["-serial", "stdio", "-monitor", "none"])),
    }
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    if !machine.iommu.is_empty() {
        command.args(["-device", machine.iommu]);
    }
    if machine.board != MICROVM {
        command.args(SPARE_SERIAL_LINES);
    }
    for device in machine.devices {
        if device.contains(NETWORK) {
            command.args(["-netdev", "user,id=net,restrict=on"]);
        }
        command.args(["-device", device]);
    }
    match machine.nic {
        Nic::None => {}
        Nic::Virtio => {
            // As for disks: without the word for it, it goes around the IOMMU.
            let iommu = if machine.iommu.is_empty() {
                ""
            } else {
                ",iommu_platform=on"
            };
            let bus = if machine.board == "pc" { "pci.0" } else { "pcie.0" };
            command.args(["-netdev", &cable.netdev()]);
            command.args([
                "-device",
                &format!(
                    "virtio-net-pci,netdev=uplink,mac={NIC_MAC},bus={bus},addr={NIC_PLACE},disable-legacy=on{iommu}"
                ),
            ]);
        }
    }
    for (number, drive) in drives.iter().enumerate() {
        command.args(drive.arguments(number, !machine.iommu.is_empty()));
    }
    match medium {
        Medium::Files {
            hypervisor,
            modules,
            line,
        } => {
            let module = |Module { path, words }: &Module| match *words {
                "" => in_option(path),
                words => format!("{} {words}", in_option(path)),
            };
            let modules: Vec<String> = modules.iter().map(module).collect();
            command.arg("-kernel").arg(hypervisor);
            command.args(["-initrd", &modules.join(",")]);
            command.arg("-append").arg(line);
        }
        Medium::Disc { iso, firmware } => {
            if let Some(firmware) = firmware {
                command.arg("-bios").arg(firmware);
            }
            command.arg("-cdrom").arg(iso);
        }
    }
    if console == Console::Plain {
        command.stdin(Stdio::null());
    }
    command
}

/// A path as an element of one of QEMU's comma-separated lists.
fn in_option(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All domains powered off cleanly.
    Clean,
    /// Some domain crashed.
    DomainCrashed,
    /// The hypervisor panicked.
    HypervisorPanicked,
    /// QEMU ended without a verdict: told to by its user, or because the machine reset itself.
    NoVerdict,
    /// QEMU failed by itself with this status.
    EmulatorFailed(i32),
    /// A signal ended QEMU.
    Killed,
}

impl Ending {
    /// What QEMU's exit status says.
    pub(crate) fn of(status: ExitStatus) -> Self {
        match status.code() {
            // (verdict << 1) | 1, for the verdicts 0x10, 0x11, 0x12.
            Some(33) => Self::Clean,
            Some(35) => Self::DomainCrashed,
            Some(37) => Self::HypervisorPanicked,
            Some(0) => Self::NoVerdict,
            Some(other) => Self::EmulatorFailed(other),
            None => Self::Killed,
        }
    }

    /// The same in a sentence.
    pub(crate) fn sentence(self) -> String {
        match self {
            Self::Clean => "All domains powered off cleanly.".into(),
            Self::DomainCrashed => "A domain crashed.".into(),
            Self::HypervisorPanicked => "The hypervisor panicked.".into(),
            Self::NoVerdict => "The machine ended without a verdict.".into(),
            Self::EmulatorFailed(status) => format!("QEMU failed with status {status}."),
            Self::Killed => "QEMU was killed.".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::{Controller, Through};

    fn words(machine: &Machine<'_>, console: Console) -> String {
        let medium = Medium::Files {
            hypervisor: "hv".into(),
            modules: vec![Module::new("a,b.tar".into())],
            line: "debug-exit loglevel=debug".into(),
        };
        crate::project::spelled(&command(machine, &[], &Cable::QUIET, &medium, console))
    }

    fn ending(status: u8) -> Ending {
        Ending::of(
            Command::new("sh")
                .args(["-c", &format!("exit {status}")])
                .status()
                .unwrap(),
        )
    }

    #[test]
    fn verdicts_are_read_from_the_exit_status() {
        assert_eq!(ending(33), Ending::Clean);
        assert_eq!(ending(35), Ending::DomainCrashed);
        assert_eq!(ending(37), Ending::HypervisorPanicked);
        assert_eq!(ending(0), Ending::NoVerdict);
        assert_eq!(ending(1), Ending::EmulatorFailed(1));
        let killed = Command::new("sh").args(["-c", "kill -9 $$"]).status().unwrap();
        assert_eq!(Ending::of(killed), Ending::Killed);
    }

    #[test]
    fn the_machine_and_the_command_line_reach_qemu() {
        let machine = Machine {
            cpus: 2,
            cpu: "max,la57=off",
            clock: Clock::InstructionsOnly,
            iommu: IOMMU,
            ..Machine::DEFAULT
        };
        let line = words(&machine, Console::Plain);
        for part in [
            "-machine q35 -accel tcg -cpu max,la57=off -m 512M -smp 2",
            "-icount shift=1,sleep=off",
            "-serial stdio -monitor none",
            "-device intel-iommu",
            "-initrd a,,b.tar",
            "-append 'debug-exit loglevel=debug'",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }

    #[test]
    fn a_kernel_that_has_several_modules_is_told_of_each() {
        let medium = Medium::Files {
            hypervisor: "hv".into(),
            modules: vec![
                Module {
                    path: "a,b".into(),
                    words: "quiet x=y",
                },
                Module::new("c".into()),
            ],
            line: String::new(),
        };
        let command = command(&Machine::DEFAULT, &[], &Cable::QUIET, &medium, Console::Plain);
        assert!(crate::project::spelled(&command).contains("-initrd 'a,,b quiet x=y,c'"));
    }

    #[test]
    fn a_disc_is_started_by_the_boards_firmware_or_by_another() {
        let disc = |firmware: Option<&str>| {
            let medium = Medium::Disc {
                iso: "a.iso".into(),
                firmware: firmware.map(Into::into),
            };
            crate::project::spelled(&command(
                &Machine::DEFAULT,
                &[],
                &Cable::QUIET,
                &medium,
                Console::Plain,
            ))
        };
        assert!(disc(None).ends_with("-cdrom a.iso") && !disc(None).contains("-bios"));
        assert!(disc(Some("ovmf.fd")).ends_with("-bios ovmf.fd -cdrom a.iso"));
        assert!(!disc(None).contains("-kernel"));
    }

    #[test]
    fn the_cpus_of_a_machine_with_disks_run_by_turns() {
        let with_disk = |cpus| {
            let machine = Machine {
                cpus,
                ..Machine::DEFAULT
            };
            let medium = Medium::Disc {
                iso: "a.iso".into(),
                firmware: None,
            };
            let drive = Drive {
                controller: Controller::Nvme,
                image: "a.img".into(),
                through: Through::Image,
            };
            crate::project::spelled(&command(
                &machine,
                &[drive],
                &Cable::QUIET,
                &medium,
                Console::Plain,
            ))
        };
        assert!(with_disk(2).contains("-accel tcg,thread=single "));
        assert!(with_disk(1).contains("-accel tcg "));
    }

    #[test]
    fn a_nic_is_on_the_cable_and_behind_the_iommu_if_there_is_one() {
        let with = |iommu, cable: &Cable| {
            let machine = Machine {
                nic: Nic::Virtio,
                iommu,
                ..Machine::DEFAULT
            };
            let medium = Medium::Disc {
                iso: "a.iso".into(),
                firmware: None,
            };
            crate::project::spelled(&command(&machine, &[], cable, &medium, Console::Plain))
        };
        let forward = Forward {
            protocol: Protocol::Tcp,
            host: 8080,
            machine: 80,
        };
        let user = with("", &Cable::User(vec![forward]));
        assert!(
            user.contains("-netdev user,id=uplink,hostfwd=tcp:127.0.0.1:8080-:80"),
            "{user}"
        );
        assert!(user.contains("bus=pcie.0,addr=3.0") && !user.contains("iommu_platform"));
        let peer = with(IOMMU, &Cable::Peer("/tmp/a,b".into()));
        assert!(
            peer.contains("addr.path=/tmp/a,,b") && peer.contains("iommu_platform=on"),
            "{peer}"
        );
        assert!(!words(&Machine::DEFAULT, Console::Plain).contains("-netdev"));
    }

    #[test]
    fn only_an_interactive_machine_has_qemus_keys() {
        assert!(words(&Machine::DEFAULT, Console::Interactive).contains("-serial mon:stdio"));
        assert!(!words(&Machine::DEFAULT, Console::Plain).contains("mon:"));
        assert!(!words(&Machine::DEFAULT, Console::Plain).contains("-icount"));
        assert!(!words(&Machine::DEFAULT, Console::Plain).contains("iommu"));
    }
}
