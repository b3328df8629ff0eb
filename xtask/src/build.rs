//! `cargo xtask build`: images and their symbol files, into `target/bulkhead/`.
//!
//! Each image has a Cargo invocation of its own: built together, the images would share the union of the
//! features that any of them asks for. [`Built`] is what the archive and QEMU work from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use cargo_metadata::Message;

use crate::archive;
use crate::bootlist::Ramdisk;
use crate::images::{HYPERVISOR, Image, Images, Platform};
use crate::linux::{self, VMLINUZ, initramfs};
use crate::project::{self, BARE_METAL, Project, run_to_end, spelled};
use crate::scenario::{self, Scenario};
use crate::setup::{self, Need};
use crate::symbols::Functions;

/// How images are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As they are used and measured.
    Release,
    /// As fast, but with assertions: lock ranks, arithmetic, what "cannot happen". Machine tests run these.
    Checked,
}

impl Profile {
    /// Its name in the workspace's `Cargo.toml`.
    const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Checked => "checked",
        }
    }

    /// The directory below `target/` that its artefacts go to.
    const fn directory(self) -> &'static str {
        match self {
            Self::Release => "bulkhead",
            Self::Checked => "bulkhead-checked",
        }
    }
}

/// What a build needs.
pub(crate) const NEEDS: &[Need] = &[Need::BareMetalTarget, Need::LlvmTools];

/// The arguments of `cargo xtask build`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// Images to build, such as `bulkhead` or `hello`; all of them, and the boot archive of the example
    /// machine, if none is named.
    images: Vec<String>,
}

/// The files of a built image.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    /// The image's name.
    pub(crate) name: String,
    /// The ELF file with all of its symbols, for debuggers.
    pub(crate) elf: PathBuf,
    /// The same without symbols and debugging data, for the boot archive.
    pub(crate) stripped: PathBuf,
    /// The symbol file, for backtraces.
    pub(crate) symbols: PathBuf,
}

/// Builds what the arguments name and says where it lies.
///
/// # Errors
///
/// If a tool is missing, an image is unknown or does not build.
pub(crate) fn build(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    setup::provide(project, NEEDS)?;
    let images = Images::of(&project.metadata(None)?);
    let mut workshop = Workshop::new(project, &images, Profile::Release);
    if arguments.images.is_empty() {
        // Programs for Linux guests need a C library of the host's, and are for tests alone.
        let for_all = |image: &&Image| image.platform == Platform::BareMetal;
        for image in images.all().iter().filter(for_all) {
            println!("{}", workshop.image(&image.name)?.elf.display());
        }
        println!("{}", workshop.boot_files(&scenario::EXAMPLE)?.archive.display());
    } else {
        for name in &arguments.images {
            println!("{}", workshop.image(name)?.elf.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a machine is booted with.
#[derive(Clone, Debug)]
pub(crate) struct BootFiles {
    /// The hypervisor.
    pub(crate) hypervisor: PathBuf,
    /// The same without symbols and debugging data, for discs.
    pub(crate) stripped_hypervisor: PathBuf,
    /// The boot archive.
    pub(crate) archive: PathBuf,
    /// The hypervisor's symbol file: it names a crash.
    pub(crate) hypervisor_symbols: PathBuf,
    /// The symbol files of the domains, domain 0 first.
    pub(crate) domain_symbols: Vec<PathBuf>,
}

/// Builds images, each once however many scenarios use it.
#[derive(Debug)]
pub(crate) struct Workshop<'a> {
    project: &'a Project,
    images: &'a Images,
    profile: Profile,
    /// By name; what did not build is not tried again.
    built: BTreeMap<String, Option<Built>>,
    /// Ramdisks that are not ours to make, by name.
    ramdisks: BTreeMap<String, PathBuf>,
}

impl<'a> Workshop<'a> {
    /// A workshop for these images; nothing is built yet.
    pub(crate) fn new(project: &'a Project, images: &'a Images, profile: Profile) -> Self {
        Self {
            project,
            images,
            profile,
            built: BTreeMap::new(),
            ramdisks: BTreeMap::new(),
        }
    }

    /// The files of an image; Debian's kernel counts as one.
    ///
    /// # Errors
    ///
    /// If it is unknown, does not build, or cannot be had: [`linux::Unavailable`].
    pub(crate) fn image(&mut self, name: &str) -> Result<Built> {
        if let Some(known) = self.built.get(name) {
            return known
                .clone()
                .with_context(|| format!("image `{name}` does not build, as told above"));
        }
        if let Some(kernel) = linux::image(self.project, name)? {
            self.built.insert(name.to_owned(), Some(kernel.clone()));
            return Ok(kernel);
        }
        let built = build_image(self.project, self.images.named(name)?, self.profile);
        self.built.insert(name.to_owned(), built.as_ref().ok().cloned());
        built
    }

    /// Counts `kernel`, which somebody else has built, among the images.
    pub(crate) fn bring_kernel(&mut self, kernel: Built) {
        self.built.insert(kernel.name.clone(), Some(kernel));
    }

    /// Counts the file at `path` among the ramdisks, as `name`.
    pub(crate) fn bring_ramdisk(&mut self, name: &str, path: &Path) {
        self.ramdisks.insert(name.to_owned(), path.to_owned());
    }

    /// The name and the content of a ramdisk in the boot archive, if it is one.
    fn ramdisk(&mut self, ramdisk: Ramdisk<'_>) -> Result<Option<(String, Vec<u8>)>> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        Ok(match ramdisk {
            Ramdisk::None => None,
            Ramdisk::Init(program) => {
                let program = self.image(program)?;
                let content = initramfs::with_init(&read(&program.stripped)?);
                Some((format!("{}.cpio", program.name), content))
            }
            Ramdisk::LinuxSystem(flavour) => {
                let content = linux::system::ramdisk(self.project, flavour)?;
                Some((linux::system::name(flavour).to_owned(), content))
            }
            Ramdisk::LinuxStress => {
                let content = linux::system::stress_ramdisk(self.project)?;
                Some((linux::system::STRESS.to_owned(), content))
            }
            Ramdisk::LinuxBench => {
                let program = self.image(linux::bench::PROGRAM)?;
                let content = linux::bench::ramdisk(self.project, &read(&program.stripped)?)?;
                Some((linux::bench::NAME.to_owned(), content))
            }
            Ramdisk::File(name) => {
                let path = self.ramdisks.get(name);
                let path = path.with_context(|| format!("there is no ramdisk `{name}`"))?;
                Some((name.to_owned(), read(path)?))
            }
        })
    }

    /// Debian's kernel as it is packaged, and a file with a ramdisk for it, to start without a hypervisor.
    ///
    /// # Errors
    ///
    /// As for [`Self::image`], and if there is no such ramdisk or it cannot be written.
    pub(crate) fn linux_files(&mut self, ramdisk: Ramdisk<'_>) -> Result<[PathBuf; 2]> {
        let kernel = self.image(VMLINUZ)?.stripped;
        let (name, content) = self.ramdisk(ramdisk)?.context("there is no ramdisk")?;
        let path = self.project.target(self.profile.directory())?.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok([kernel, path])
    }

    /// The hypervisor, and the boot archive of a scenario with the images of its domains.
    ///
    /// # Errors
    ///
    /// If an image is unknown or does not build, what disks are to have cannot be had, or the archive cannot be written.
    pub(crate) fn boot_files(&mut self, scenario: &Scenario<'_>) -> Result<BootFiles> {
        let hypervisor = self.image(HYPERVISOR)?;
        let kernels = scenario.domains.iter().map(|domain| domain.kernel);
        let kernels: BTreeSet<&str> = kernels.chain(scenario.offer.images.iter().copied()).collect();
        let built = kernels
            .into_iter()
            .map(|kernel| self.image(kernel))
            .collect::<Result<Vec<_>>>()?;
        let ramdisks = scenario.domains.iter().map(|domain| domain.ramdisk);
        let ramdisks: BTreeSet<Ramdisk<'_>> =
            ramdisks.chain(scenario.offer.ramdisks.iter().copied()).collect();
        let ramdisks = ramdisks
            .into_iter()
            .filter_map(|ramdisk| self.ramdisk(ramdisk).transpose())
            .collect::<Result<Vec<_>>>()?;
        // What disks are to have is looked for here, where it can be told that it cannot be had.
        for disk in scenario.disks {
            disk.source.map(|source| source(self.project)).transpose()?;
        }
        let path = self
            .project
            .target(self.profile.directory())?
            .join(format!("{}.tar", scenario.name));
        archive::write(&path, scenario, &hypervisor, &built, &ramdisks)
            .with_context(|| format!("cannot pack the boot archive {}", path.display()))?;
        let domain_symbols = scenario
            .domains
            .iter()
            .map(|domain| Ok(self.image(domain.kernel)?.symbols));
        Ok(BootFiles {
            hypervisor: hypervisor.elf,
            stripped_hypervisor: hypervisor.stripped,
            archive: path,
            hypervisor_symbols: hypervisor.symbols,
            domain_symbols: domain_symbols.collect::<Result<_>>()?,
        })
    }
}

/// Builds one image and leaves its files in the profile's directory.
fn build_image(project: &Project, image: &Image, profile: Profile) -> Result<Built> {
    let executable = compile(project, image, profile)?;
    let directory = project.target(profile.directory())?;
    let built = Built {
        name: image.name.clone(),
        elf: directory.join(&image.name),
        stripped: directory.join(format!("{}.stripped", image.name)),
        symbols: directory.join(format!("{}.sym", image.name)),
    };
    fs::copy(&executable, &built.elf).with_context(|| format!("cannot write {}", built.elf.display()))?;
    let elf = fs::read(&built.elf).with_context(|| format!("cannot read {}", built.elf.display()))?;
    let table = Functions::of_elf(&elf).and_then(|functions| functions.encode());
    let table = table.with_context(|| format!("in {}", built.elf.display()))?;
    fs::write(&built.symbols, table).with_context(|| format!("cannot write {}", built.symbols.display()))?;
    let objcopy = setup::llvm_tool(project, "llvm-objcopy")?;
    run_to_end(
        project
            .tool(objcopy)
            .arg("--strip-all")
            .arg(&built.elf)
            .arg(&built.stripped),
    )?;
    Ok(built)
}

/// Where Cargo looks for the flags of programs for Linux guests.
const LINUX_FLAGS: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS";

/// Has Cargo compile the image; returns the program's path as Cargo reports it.
fn compile(project: &Project, image: &Image, profile: Profile) -> Result<PathBuf> {
    let mut cargo = project.cargo();
    let target = match image.platform {
        Platform::BareMetal => BARE_METAL,
        Platform::Linux => {
            // There is no loader and no library where it runs, and many are started: none needs to be relocated.
            cargo.env(
                LINUX_FLAGS,
                "-Ctarget-feature=+crt-static -Crelocation-model=static",
            );
            project::LINUX
        }
    };
    cargo
        .args([
            "build",
            "--package",
            &image.package,
            "--target",
            target,
            "--profile",
            profile.name(),
        ])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped());
    let mut child = cargo
        .spawn()
        .with_context(|| format!("cannot start `{}`", spelled(&cargo)))?;
    let mut executable = None;
    if let Some(output) = child.stdout.take() {
        for message in Message::parse_stream(BufReader::new(output)) {
            if let Message::CompilerArtifact(artifact) = message.context("cannot read Cargo's messages")? {
                // Libraries and build scripts have none, or are not the last.
                executable = artifact.executable.or(executable);
            }
        }
    }
    let status = child.wait().context("cannot await Cargo")?;
    if !status.success() {
        bail!(
            "image `{}` (package {}) does not build",
            image.name,
            image.package
        );
    }
    let executable = executable.with_context(|| format!("package {} has no program", image.package))?;
    Ok(executable.into_std_path_buf())
}
