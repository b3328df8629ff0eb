//! `cargo xtask fuzz`: the fuzz targets, built and run as libFuzzer wants them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;

use crate::project::{Project, run_to_end};

/// The targets: each with its name, the folder of its package, and whether it is of use to see what is compared. That takes half the time, and
/// is where the input itself is what is compared: instructions, names, formats.
const TARGETS: &[(&str, &str, bool)] = &[
    ("acts", "hypervisor/core/fuzz", false),
    ("decoders", "hypervisor/core/fuzz", true),
    ("store", "driver-domain/xenstore/fuzz", false),
    ("store-wire", "driver-domain/xenstore/fuzz", true),
    ("config", "driver-domain/config/fuzz", true),
    ("images", "driver-domain/builder/fuzz", true),
    ("unpacking", "driver-domain/builder/fuzz", true),
    ("blkfront", "frontends/block/fuzz", false),
    ("netfront", "frontends/net/fuzz", false),
    ("blkback", "blkback/fuzz", false),
    ("rules", "netback/fuzz", true),
    ("packets", "netback/fuzz", true),
    ("vfr", "netback/fuzz", false),
    ("netback", "netback/fuzz", false),
];

/// The platform that they run on.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// What libFuzzer needs to see which code an input reaches.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table";

/// What it needs to see what is compared, too.
const COMPARES: &str = "-Cllvm-args=-sanitizer-coverage-trace-compares";

/// The arguments of `cargo xtask fuzz`.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// What to fuzz: `acts` leads hostile guests, `decoders` gives any bytes to the emulator, `store` leads hostile guests of
    /// xenstore, `store-wire` gives any bytes to its protocol, `config` to the configuration, `images` to the parser of kernels, `unpacking`
    /// to what unpacks them, `blkfront` leads a hostile back-end of a disk, `netfront` one of an interface, `blkback` and `netback`
    /// hostile front-ends, `rules` reads any text as rules of a network, `packets` any bytes as frames and messages, `vfr` leads a firewall-router.
    #[arg(value_parser = PossibleValuesParser::new(TARGETS.iter().map(|(name, ..)| *name)))]
    target: String,
    /// For how long.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    seconds: u64,
    /// Until guests have made so many hypercalls, however long that takes (for `acts`).
    #[arg(long, value_name = "COUNT")]
    calls: Option<u64>,
}

/// Builds a target with a nightly compiler and runs it. What it found interesting stays in `corpus/`, what broke a law in `artifacts/`.
///
/// # Errors
///
/// If there is no nightly compiler, or the target does not build.
pub(crate) fn fuzz(project: &Project, arguments: &Arguments) -> Result<ExitCode> {
    let target = arguments.target.as_str();
    let Some((_, folder, sees_compares)) = TARGETS.iter().find(|(name, ..)| *name == target) else {
        bail!("there is no target `{target}`");
    };
    let folder = project.folder(folder);
    let nightly = |program: &str| {
        let mut command = project.tool("rustup");
        command.args(["run", "nightly", program]).current_dir(&folder);
        command
    };
    if !is_there(nightly("rustc").arg("--version")) {
        bail!("fuzzing needs a nightly compiler: `rustup toolchain install nightly --profile minimal`");
    }
    let flags = if *sees_compares {
        format!("{FLAGS} {COMPARES}")
    } else {
        FLAGS.to_owned()
    };
    run_to_end(nightly("cargo").env("RUSTFLAGS", flags).args([
        "build",
        "--quiet",
        "--release",
        "--target",
        PLATFORM,
        "--bin",
        target,
    ]))?;
    let [corpus, artifacts] = ["corpus", "artifacts"].map(|name| folder.join(name).join(target));
    for made in [&corpus, &artifacts] {
        fs::create_dir_all(made).with_context(|| format!("cannot make {}", made.display()))?;
    }
    let program: PathBuf = ["target", PLATFORM, "release", target].iter().collect();
    let mut run = project.tool(folder.join(program));
    run.current_dir(&folder)
        .arg(&corpus)
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-max_len=8192");
    match arguments.calls {
        // Long inputs from the start: a world is dear to make.
        Some(calls) => run.env("BULKHEAD_CALLS", calls.to_string()).arg("-len_control=0"),
        None => run.arg(format!("-max_total_time={}", arguments.seconds)),
    };
    let status = run.status().context("cannot start the target")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        println!("it failed: the input is in {}", artifacts.display());
        ExitCode::FAILURE
    })
}

/// Whether a command is there and succeeds; what it says is of no interest.
fn is_there(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
