//! Where the project's things lie, and how its tools are called.
//!
//! [`Project`] is the only place that knows directories and that starts Cargo: what the developer has in the
//! environment must not reach an image, so that two people who build one commit get one image.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand};

/// The target that images are built for.
pub(crate) const BARE_METAL: &str = "x86_64-unknown-none";

/// The target of programs for Linux guests, which is also this tool's own.
pub(crate) const LINUX: &str = "x86_64-unknown-linux-gnu";

/// The source tree that this tool was built from.
#[derive(Debug)]
pub(crate) struct Project {
    root: PathBuf,
}

impl Project {
    /// The project whose `xtask` is running.
    pub(crate) fn of_this_tool() -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self {
            root: package.parent().unwrap_or(package).to_path_buf(),
        }
    }

    /// A folder of the source tree.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The directory `target/NAME`, made if it is not there.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub(crate) fn target(&self, name: &str) -> Result<PathBuf> {
        let directory = self.root.join("target").join(name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(directory)
    }

    /// Cargo in the project's root, with an environment in which only the project decides.
    ///
    /// `RUSTFLAGS` would replace the flags of `.cargo/config.toml`, without which no image links; the
    /// `CARGO_PKG_*` of this tool would make build scripts that look at them run again.
    pub(crate) fn cargo(&self) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = self.tool(cargo);
        for (name, _) in std::env::vars_os() {
            if is_for_us_alone(&name) {
                command.env_remove(name);
            }
        }
        command
    }

    /// Another tool, in the project's root.
    pub(crate) fn tool(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    /// What Cargo knows of the workspace, with dependencies resolved for `target` if one is given.
    ///
    /// # Errors
    ///
    /// If Cargo cannot read the workspace.
    pub(crate) fn metadata(&self, target: Option<&str>) -> Result<Metadata> {
        let mut command = MetadataCommand::new();
        command.current_dir(&self.root);
        match target {
            Some(target) => command.other_options(vec!["--filter-platform".into(), target.into()]),
            None => command.no_deps(),
        };
        command.exec().context("cargo cannot read the workspace")
    }
}

/// Whether an environment variable that this process has must not reach a Cargo below it.
fn is_for_us_alone(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    matches!(
        name,
        "RUSTFLAGS" | "RUSTDOCFLAGS" | "CARGO_ENCODED_RUSTFLAGS" | "CARGO_BUILD_RUSTFLAGS"
    ) || matches!(
        name,
        "CARGO_BUILD_TARGET" | "CARGO_TARGET_DIR" | "CARGO_BUILD_TARGET_DIR"
    ) || (name.starts_with("CARGO_TARGET_") && name.ends_with("_RUSTFLAGS"))
        || name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
}

/// The command as one would type it, for messages.
pub(crate) fn spelled(command: &Command) -> String {
    // Where a program lies is of no interest, and for Cargo very long.
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words
        .map(|word| match word.to_string_lossy() {
            word if word.is_empty() || word.contains([' ', '"', '*', ';']) => format!("'{word}'"),
            word => word.into_owned(),
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command to its end.
///
/// # Errors
///
/// If it cannot be started or does not succeed; the message names it.
pub(crate) fn run_to_end(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", spelled(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", spelled(command));
    }
    Ok(())
}

/// Runs a command to its end and gives back what it wrote to its standard output.
///
/// # Errors
///
/// If it cannot be started or does not succeed; the message names it and holds what it said on standard error.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start `{}`", spelled(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({}): {}",
            spelled(command),
            output.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_from_the_environment_stay_out_of_images() {
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_X86_64_UNKNOWN_NONE_RUSTFLAGS",
        ] {
            assert!(is_for_us_alone(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "CARGO_HOME", "RUSTUP_TOOLCHAIN", "CARGO_NET_OFFLINE"] {
            assert!(!is_for_us_alone(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_failed_command_is_named_with_its_last_words() {
        let error = output_of(Command::new("sh").args(["-c", "echo out of paper >&2; exit 3"])).unwrap_err();
        let message = format!("{error:#}");
        assert!(
            message.contains("out of paper") && message.contains("exit status: 3"),
            "{message}"
        );
    }

    #[test]
    fn a_spelled_command_can_be_typed_again() {
        let mut command = Command::new("/usr/bin/qemu");
        command.args(["-append", "debug-exit loglevel=info", "-smp", "2"]);
        assert_eq!(
            spelled(&command),
            "qemu -append 'debug-exit loglevel=info' -smp 2"
        );
    }
}
