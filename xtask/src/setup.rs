//! Provides the tools that a verb needs: QEMU, what writes and starts discs, and the parts of the Rust toolchain.
//!
//! On Debian and its descendants what is missing is installed, with one line that says what and why; elsewhere
//! it is named. What to do is decided by [`plan`], a pure function; [`provide`] looks and acts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::project::{BARE_METAL, Project, output_of, run_to_end};

/// Something that a verb cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The standard library for the images' target.
    BareMetalTarget,
    /// `llvm-objcopy`, which takes debugging data out of images before they are packed.
    LlvmTools,
    /// `cargo fmt`.
    Rustfmt,
    /// `cargo clippy`.
    Clippy,
    /// The emulator that machines are booted in.
    Qemu,
    /// `grub-mkrescue`, with GRUB for BIOS and for UEFI.
    Grub,
    /// What writes the disc for `grub-mkrescue`.
    Xorriso,
    /// What makes the file system that UEFI reads for `grub-mkrescue`.
    Mtools,
    /// UEFI for machines in QEMU.
    Ovmf,
    /// What makes, checks and reads ext4 file systems from outside of a machine.
    Ext4,
    /// What installs the root file system of a Linux guest.
    Mmdebstrap,
    /// The C headers of the guest ABI, which ours is compared with.
    XenHeaders,
}

impl Need {
    /// What is missing and what it is for, as part of a sentence.
    fn purpose(self) -> &'static str {
        match self {
            Self::BareMetalTarget => "the Rust target x86_64-unknown-none (images are built for it)",
            Self::LlvmTools => "the Rust component llvm-tools (it strips images)",
            Self::Rustfmt => "the Rust component rustfmt (it checks the format)",
            Self::Clippy => "the Rust component clippy (it checks the code)",
            Self::Qemu => "qemu-system-x86_64, package qemu-system-x86 (machines are booted in it)",
            Self::Grub => {
                "grub-mkrescue, packages grub-common, grub-pc-bin and grub-efi-amd64-bin (discs are started by GRUB)"
            }
            Self::Xorriso => "xorriso, package xorriso (it writes discs)",
            Self::Mtools => "mtools, package mtools (it writes what UEFI reads of discs)",
            Self::Ovmf => "OVMF.fd, package ovmf (it is UEFI for QEMU)",
            Self::Ext4 => "e2fsck and debugfs, package e2fsprogs (disks of Linux guests are looked at)",
            Self::Mmdebstrap => {
                "mmdebstrap, package mmdebstrap (it installs what a Linux guest has on its disk)"
            }
            Self::XenHeaders => "xen/xen.h, package libxen-dev (the guest ABI is compared with it)",
        }
    }

    /// The Debian packages that have it; none for a part of the Rust toolchain.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Qemu => &["qemu-system-x86"],
            Self::Grub => &["grub-common", "grub-pc-bin", "grub-efi-amd64-bin"],
            Self::Xorriso => &["xorriso"],
            Self::Mtools => &["mtools"],
            Self::Ovmf => &["ovmf"],
            Self::Ext4 => &["e2fsprogs"],
            Self::Mmdebstrap => &["mmdebstrap"],
            Self::XenHeaders => &["libxen-dev"],
            Self::BareMetalTarget | Self::LlvmTools | Self::Rustfmt | Self::Clippy => &[],
        }
    }

    fn is_met(self, project: &Project) -> bool {
        match self {
            Self::BareMetalTarget => sysroot(project)
                .is_ok_and(|root| root.join("lib/rustlib").join(BARE_METAL).join("lib").is_dir()),
            Self::LlvmTools => llvm_tool(project, "llvm-objcopy").is_ok(),
            Self::Rustfmt => answers(project.cargo().args(["fmt", "--version"])),
            Self::Clippy => answers(project.cargo().args(["clippy", "--version"])),
            Self::Qemu => answers(Command::new("qemu-system-x86_64").arg("--version")),
            Self::Grub => {
                let has = |platform| Path::new("/usr/lib/grub").join(platform).is_dir();
                answers(Command::new("grub-mkrescue").arg("--version")) && has("i386-pc") && has("x86_64-efi")
            }
            Self::Xorriso => answers(Command::new("xorriso").arg("-version")),
            Self::Mtools => answers(Command::new("mtools").arg("--version")),
            Self::Ovmf => ovmf().is_some(),
            Self::Ext4 => ["/usr/sbin", "/sbin"]
                .iter()
                .any(|place| Path::new(place).join("debugfs").is_file()),
            Self::Mmdebstrap => answers(Command::new("mmdebstrap").arg("--version")),
            Self::XenHeaders => Path::new("/usr/include/xen/xen.h").is_file(),
        }
    }
}

/// The path of one of LLVM's tools that rustup's component `llvm-tools` brings.
///
/// # Errors
///
/// If the component is not installed.
pub(crate) fn llvm_tool(project: &Project, name: &str) -> Result<PathBuf> {
    let hosts = sysroot(project)?.join("lib/rustlib");
    for entry in hosts
        .read_dir()
        .with_context(|| format!("cannot read {}", hosts.display()))?
    {
        let tool = entry?.path().join("bin").join(name);
        if tool.is_file() {
            return Ok(tool);
        }
    }
    bail!("the Rust component llvm-tools, which has {name}, is not installed")
}

/// UEFI as one file for QEMU's `-bios`, with its variables inside; what a machine writes to them is forgotten.
pub(crate) fn ovmf() -> Option<&'static Path> {
    // Where Debian's package has it, and where Debian's QEMU looks.
    let places = ["/usr/share/ovmf/OVMF.fd", "/usr/share/qemu/OVMF.fd"];
    places.into_iter().map(Path::new).find(|path| path.is_file())
}

/// Makes sure that everything in `needs` is there, installing what is missing where that is possible.
///
/// # Errors
///
/// If something is missing and cannot be installed here; the message names it.
pub(crate) fn provide(project: &Project, needs: &[Need]) -> Result<()> {
    let missing: Vec<Need> = needs
        .iter()
        .copied()
        .filter(|need| !need.is_met(project))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    for step in plan(&missing, &Host::look())? {
        println!("set-up: {}", step.announcement());
        step.perform(project)?;
    }
    match missing.iter().find(|need| !need.is_met(project)) {
        Some(need) => bail!("{} is still missing after the set-up", need.purpose()),
        None => Ok(()),
    }
}

/// How a package can be installed as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Privilege {
    Root,
    Sudo,
    Nothing,
}

/// What the set-up may use on this machine.
#[derive(Debug)]
struct Host {
    has_apt: bool,
    has_rustup: bool,
    privilege: Privilege,
}

impl Host {
    fn look() -> Self {
        let is_root = output_of(Command::new("id").arg("-u")).is_ok_and(|id| id == "0");
        let has_sudo = answers(Command::new("sudo").arg("--version"));
        Self {
            has_apt: answers(Command::new("apt-get").arg("--version")),
            has_rustup: answers(Command::new("rustup").arg("--version")),
            privilege: match (is_root, has_sudo) {
                (true, _) => Privilege::Root,
                (false, true) => Privilege::Sudo,
                (false, false) => Privilege::Nothing,
            },
        }
    }
}

/// One thing that the set-up does.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Let rustup install what `rust-toolchain.toml` lists, for the sake of these.
    Toolchain(Vec<Need>),
    /// Install the packages of these with apt-get.
    Packages(Vec<Need>, Privilege),
}

/// Decides how `missing` is to be installed on `host`.
///
/// # Errors
///
/// If something cannot be installed: one sentence that names all of it.
fn plan(missing: &[Need], host: &Host) -> Result<Vec<Step>> {
    let (packaged, rust): (Vec<Need>, Vec<Need>) =
        missing.iter().partition(|need| !need.packages().is_empty());
    let can_install_packages = host.has_apt && host.privilege != Privilege::Nothing;
    let mut out_of_reach: Vec<&str> = Vec::new();
    if !host.has_rustup {
        out_of_reach.extend(rust.iter().map(|need| need.purpose()));
    }
    if !can_install_packages {
        out_of_reach.extend(packaged.iter().map(|need| need.purpose()));
    }
    if !out_of_reach.is_empty() {
        bail!("please install {}", out_of_reach.join(" and "));
    }
    let mut steps = Vec::new();
    if !rust.is_empty() {
        steps.push(Step::Toolchain(rust));
    }
    if !packaged.is_empty() {
        steps.push(Step::Packages(packaged, host.privilege));
    }
    Ok(steps)
}

impl Step {
    fn announcement(&self) -> String {
        let (verb, needs) = match self {
            Self::Toolchain(needs) => ("rustup installs", needs),
            Self::Packages(needs, _) => ("apt-get installs", needs),
        };
        let purposes: Vec<&str> = needs.iter().map(|need| need.purpose()).collect();
        format!("{verb} {}", purposes.join(" and "))
    }

    fn perform(&self, project: &Project) -> Result<()> {
        match self {
            // Without RUSTUP_TOOLCHAIN, which rustup's own proxy has set for this process, rustup reads
            // rust-toolchain.toml again, with the targets and components that stand there.
            Self::Toolchain(_) => run_to_end(
                project
                    .tool("rustup")
                    .args(["toolchain", "install"])
                    .env_remove("RUSTUP_TOOLCHAIN"),
            ),
            Self::Packages(needs, privilege) => {
                let packages: Vec<&str> = needs.iter().flat_map(|need| need.packages()).copied().collect();
                let update = || run_to_end(apt_get(*privilege).arg("update"));
                let install = || {
                    let options = ["install", "-y", "--no-install-recommends"];
                    run_to_end(apt_get(*privilege).args(options).args(&packages))
                };
                // A fresh container has no package lists; one that has them may have them from last year.
                if !has_package_lists() {
                    update()?;
                    return install();
                }
                install().or_else(|_| update().and_then(|()| install()))
            }
        }
    }
}

/// `apt-get` as root, asking nothing.
fn apt_get(privilege: Privilege) -> Command {
    let mut command = env(privilege);
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]);
    command
}

/// `env`, as root where that is possible: what follows are variables, and a command with its arguments. Sudo alone would drop variables.
pub(crate) fn as_root() -> Command {
    env(Host::look().privilege)
}

fn env(privilege: Privilege) -> Command {
    match privilege {
        Privilege::Root | Privilege::Nothing => Command::new("env"),
        Privilege::Sudo => {
            let mut command = Command::new("sudo");
            command.arg("env");
            command
        }
    }
}

fn has_package_lists() -> bool {
    let is_list = |path: &Path| path.to_string_lossy().contains("_Packages");
    Path::new("/var/lib/apt/lists")
        .read_dir()
        .is_ok_and(|lists| lists.filter_map(Result::ok).any(|list| is_list(&list.path())))
}

fn sysroot(project: &Project) -> Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    output_of(project.tool(rustc).args(["--print", "sysroot"])).map(PathBuf::from)
}

/// Whether a command can be started and succeeds.
fn answers(command: &mut Command) -> bool {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: Host = Host {
        has_apt: true,
        has_rustup: true,
        privilege: Privilege::Root,
    };

    #[test]
    fn on_debian_each_kind_of_need_becomes_one_step() {
        let steps = plan(&[Need::Qemu, Need::Clippy, Need::BareMetalTarget], &DEBIAN).unwrap();
        let expected = [
            Step::Toolchain(vec![Need::Clippy, Need::BareMetalTarget]),
            Step::Packages(vec![Need::Qemu], Privilege::Root),
        ];
        assert_eq!(steps, expected);
        assert!(
            steps[1]
                .announcement()
                .starts_with("apt-get installs qemu-system-x86_64")
        );
    }

    #[test]
    fn one_call_installs_all_packages_that_discs_need() {
        let steps = plan(&[Need::Grub, Need::Xorriso, Need::Mtools, Need::Ovmf], &DEBIAN).unwrap();
        assert_eq!(steps.len(), 1);
        let announced = steps[0].announcement();
        for need in [Need::Grub, Need::Xorriso, Need::Mtools, Need::Ovmf] {
            // Who installs by hand learns every package's name.
            assert!(need.packages().iter().all(|package| announced.contains(package)));
        }
    }

    #[test]
    fn elsewhere_the_missing_things_are_named_in_one_sentence() {
        let host = Host {
            has_apt: false,
            has_rustup: false,
            privilege: Privilege::Root,
        };
        let message = plan(&[Need::Qemu, Need::Rustfmt], &host).unwrap_err().to_string();
        assert!(
            message.contains("qemu-system-x86") && message.contains("rustfmt"),
            "{message}"
        );
        assert_eq!(message.lines().count(), 1);
    }

    #[test]
    fn without_root_and_sudo_no_package_is_promised() {
        let host = Host {
            privilege: Privilege::Nothing,
            ..DEBIAN
        };
        assert!(plan(&[Need::Qemu], &host).is_err());
        assert!(plan(&[Need::Clippy], &host).is_ok());
    }

    #[test]
    fn sudo_keeps_the_frontend_setting_that_it_would_drop_from_the_environment() {
        let command = apt_get(Privilege::Sudo);
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        assert_eq!(words, ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]);
    }
}
