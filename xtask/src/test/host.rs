//! The groups `host` and `loom`: tests that run on this machine, by `cargo test`.
//!
//! Cargo's output is read as it comes: [`Suites`] finds each suite and its counts in it. What passes is told in
//! one line a suite; what a failing suite printed is shown whole.

use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, Package};

use crate::project::{Project, spelled};
use crate::test::filter::{Filter, Group};
use crate::test::tally::Tally;

/// Runs the tests of the workspace's default members, and of the libraries that image packages keep for the host.
///
/// # Errors
///
/// If Cargo cannot be started.
pub(super) fn run(project: &Project, metadata: &Metadata, filter: &Filter, tally: &mut Tally) -> Result<()> {
    tally.stage("host tests");
    let whole: Vec<&str> = metadata
        .workspace_default_packages()
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    for arguments in selection(&whole, &tested_libraries(metadata), filter.text()) {
        let mut cargo = project.cargo();
        cargo.args(["test", "--no-fail-fast"]).args(arguments);
        run_suites(&mut cargo, Group::Host, tally)?;
    }
    Ok(())
}

/// Tests that are run again for long in the full matrix: the package, the test, and the variable that says how long.
const LONG: &[(&str, &str, (&str, &str))] = &[(
    "bulkhead-netback",
    "the_classifier_says_what_the_interpreter_says",
    ("BULKHEAD_PACKETS", "100000000"),
)];

/// Runs the long tests.
///
/// # Errors
///
/// If Cargo cannot be started.
pub(super) fn run_long(project: &Project, filter: &Filter, tally: &mut Tally) -> Result<()> {
    let is_chosen = |name: &str| filter.selects(Group::Host, name);
    for (package, test, (variable, value)) in LONG {
        if is_chosen(package) || is_chosen(test) {
            tally.stage(&format!("long host test: {test}, {variable}={value}"));
            let mut cargo = project.cargo();
            cargo
                .args(["test", "--release", "--package", package, "--lib", test])
                .env(variable, value);
            run_suites(&mut cargo, Group::Host, tally)?;
        }
    }
    Ok(())
}

/// Packages of images that have a library with tests: the parts of them that need no machine.
pub(super) fn tested_libraries(metadata: &Metadata) -> Vec<&str> {
    let members = metadata.workspace_packages();
    let defaults = metadata.workspace_default_packages();
    let others = members
        .into_iter()
        .filter(|member| !defaults.iter().any(|default| default.id == member.id));
    let has_tests = |package: &&Package| {
        package
            .targets
            .iter()
            .any(|target| target.is_lib() && target.test)
    };
    others
        .filter(has_tests)
        .map(|package| package.name.as_str())
        .collect()
}

/// Cargo's arguments for the tests with `text` in their names, or all of a package that has it in its own.
///
/// Of `whole` packages everything is tested; of `libraries`, whose programs only link for a machine, the library.
fn selection(whole: &[&str], libraries: &[&str], text: &str) -> Vec<Vec<String>> {
    let is_named = |package: &&&str| !text.is_empty() && package.contains(text);
    let is_any_named = whole.iter().chain(libraries).any(|package| is_named(&package));
    let mut invocations = Vec::new();
    for (packages, only) in [(whole, None), (libraries, Some("--lib"))] {
        let chosen = packages
            .iter()
            .filter(|package| !is_any_named || is_named(package));
        let mut arguments: Vec<String> = chosen
            .flat_map(|package| ["--package".to_owned(), (*package).to_owned()])
            .collect();
        if arguments.is_empty() {
            continue;
        }
        arguments.extend(only.map(str::to_owned));
        if !is_any_named {
            arguments.extend(["--".to_owned(), text.to_owned()]);
        }
        invocations.push(arguments);
    }
    invocations
}

/// Runs every test target that has `loom` in its name, compiled so that loom explores all interleavings.
///
/// # Errors
///
/// If Cargo cannot be started.
pub(super) fn run_loom(
    project: &Project,
    metadata: &Metadata,
    filter: &Filter,
    tally: &mut Tally,
) -> Result<()> {
    for package in metadata.workspace_default_packages() {
        let targets = package
            .targets
            .iter()
            .filter(|target| target.is_test() && target.name.contains("loom"));
        for target in targets {
            tally.stage(&format!("loom tests: {} {}", package.name, target.name));
            let mut cargo = project.cargo();
            cargo
                .args([
                    "test",
                    "--no-fail-fast",
                    "--release",
                    "--package",
                    package.name.as_str(),
                ])
                .args(["--test", &target.name, "--", filter.text()])
                // The flag recompiles every dependency: kept apart, it does not undo the other builds.
                .env("CARGO_TARGET_DIR", project.target("loom")?)
                .env("RUSTFLAGS", "--cfg loom")
                // Exploring is what must be quick, not the last percent of the code.
                .env("CARGO_PROFILE_RELEASE_LTO", "off")
                .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
            run_suites(&mut cargo, Group::Loom, tally)?;
        }
    }
    Ok(())
}

/// Runs one `cargo test` and counts what it reports.
fn run_suites(cargo: &mut Command, group: Group, tally: &mut Tally) -> Result<()> {
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    cargo
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("cannot share a pipe")?)
        .stderr(writer);
    let started = Instant::now();
    let mut child = cargo
        .spawn()
        .with_context(|| format!("cannot start `{}`", spelled(cargo)))?;
    // Or the pipe would never end: the command holds its writing end too.
    cargo.stdout(Stdio::null()).stderr(Stdio::null());
    let mut suites = Suites::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("cannot read Cargo's output")?;
        let line = String::from_utf8_lossy(&line);
        if line.trim_start().starts_with("Compiling ") {
            println!("{line}");
        }
        if let Some(suite) = suites.line(&line) {
            suite.count(group, tally);
        }
    }
    let status = child.wait().context("cannot await Cargo")?;
    if let Some(cut_off) = suites.close(status.success()) {
        cut_off.count(group, tally);
    }
    if !status.success() && suites.failed == 0 {
        println!("{}", suites.prelude.join("\n"));
        let detail = format!("`{}` failed", spelled(cargo));
        tally.fail(&format!("{}/build", group.name()), started.elapsed(), &detail);
    }
    Ok(())
}

/// A suite that has ended: one test program, or the documentation tests of one crate.
#[derive(Debug, PartialEq)]
struct Suite {
    name: String,
    passed: usize,
    failed: usize,
    time: Duration,
    /// Everything that it printed.
    output: Vec<String>,
}

impl Suite {
    fn count(&self, group: Group, tally: &mut Tally) {
        if self.failed > 0 {
            println!("{}", self.output.join("\n"));
        }
        // A suite without tests, or without any that the filter selects, says nothing.
        if self.passed > 0 || self.failed > 0 {
            let name = format!("{}/{}", group.name(), self.name);
            let detail = format!("{} passed, {} failed", self.passed, self.failed);
            tally.suite(&name, self.time, self.passed, self.failed, &detail);
        }
    }
}

/// Finds suites in what `cargo test` prints.
#[derive(Debug, Default)]
struct Suites {
    current: Option<Suite>,
    /// What came before the first suite: compiler messages, if it does not compile.
    prelude: Vec<String>,
    failed: usize,
}

impl Suites {
    /// Takes a line; gives back the suite that ends with it.
    fn line(&mut self, line: &str) -> Option<Suite> {
        if let Some(name) = suite_name(line) {
            // The suite before it ended without a result: it crashed.
            let crashed = self.close(false);
            self.current = Some(Suite {
                name,
                passed: 0,
                failed: 0,
                time: Duration::ZERO,
                output: vec![line.to_owned()],
            });
            return crashed;
        }
        let Some(suite) = &mut self.current else {
            self.prelude.push(line.to_owned());
            return None;
        };
        suite.output.push(line.to_owned());
        let result = line.strip_prefix("test result: ")?;
        suite.passed = number_before(result, " passed").unwrap_or(0);
        // A result that cannot be read is no pass.
        suite.failed = number_before(result, " failed").unwrap_or(1);
        suite.time = seconds(result).unwrap_or_default();
        self.failed = self.failed.saturating_add(suite.failed);
        self.current.take()
    }

    /// Ends the output; gives back a suite that never told its result, as failed unless Cargo succeeded.
    fn close(&mut self, is_success: bool) -> Option<Suite> {
        let mut suite = self.current.take()?;
        if is_success {
            return None;
        }
        suite.failed = 1;
        self.failed = self.failed.saturating_add(1);
        Some(suite)
    }
}

/// The name of the suite that a line announces.
///
/// `Running tests/events.rs (target/debug/deps/events-0123)` and `Doc-tests bulkhead_core`.
fn suite_name(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(krate) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{krate} (docs)"));
    }
    let (source, program) = line
        .strip_prefix("Running ")?
        .strip_suffix(')')?
        .rsplit_once(" (")?;
    let program = program.rsplit('/').next()?;
    let program = program.rsplit_once('-').map_or(program, |(name, _hash)| name);
    let kind = if source.starts_with("unittests") {
        "unit"
    } else {
        "integration"
    };
    Some(format!("{program} ({kind})"))
}

/// The number that stands before `word`: 12 in `ok. 12 passed; 0 failed`.
fn number_before(text: &str, word: &str) -> Option<usize> {
    let (before, _) = text.split_once(word)?;
    before.rsplit(' ').next()?.parse().ok()
}

/// The time of a suite: 0.25 s in `...; finished in 0.25s`.
fn seconds(result: &str) -> Option<Duration> {
    let (_, time) = result.rsplit_once("finished in ")?;
    Duration::try_from_secs_f64(time.strip_suffix('s')?.parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "   Compiling bulkhead-core v0.1.0
     Running unittests src/lib.rs (target/debug/deps/bulkhead_core-0f3a)

running 2 tests
test events::tests::a_port_is_free ... ok

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.25s

     Running tests/events.rs (target/debug/deps/events-77ab)
test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s

   Doc-tests bulkhead_core
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    fn suites(output: &str, is_success: bool) -> (Vec<(String, usize, usize)>, Suites) {
        let mut suites = Suites::default();
        let mut found: Vec<Suite> = output.lines().filter_map(|line| suites.line(line)).collect();
        found.extend(suites.close(is_success));
        (
            found
                .into_iter()
                .map(|suite| (suite.name, suite.passed, suite.failed))
                .collect(),
            suites,
        )
    }

    #[test]
    fn every_suite_is_found_with_its_counts() {
        let (found, _) = suites(GOOD, false);
        let expected = [
            ("bulkhead_core (unit)", 2, 0),
            ("events (integration)", 5, 2),
            ("bulkhead_core (docs)", 1, 0),
        ];
        assert_eq!(
            found,
            expected.map(|(name, passed, failed)| (name.to_owned(), passed, failed))
        );
    }

    #[test]
    fn the_time_of_a_suite_is_read() {
        assert_eq!(
            seconds("ok. 2 passed; finished in 0.25s"),
            Some(Duration::from_millis(250))
        );
        assert_eq!(seconds("ok. 2 passed"), None);
    }

    #[test]
    fn a_suite_that_dies_without_a_result_has_failed() {
        let output = "     Running unittests src/lib.rs (target/debug/deps/a-1)\nrunning 9 tests\n";
        assert_eq!(suites(output, false).0, [("a (unit)".to_owned(), 0, 1)]);
        let followed = format!("{output}   Doc-tests b\ntest result: ok. 1 passed; 0 failed;\n");
        let (found, suites) = suites(&followed, false);
        assert_eq!(
            found,
            [("a (unit)".to_owned(), 0, 1), ("b (docs)".to_owned(), 1, 0)]
        );
        assert_eq!(suites.failed, 1);
    }

    #[test]
    fn a_result_that_cannot_be_read_is_no_pass() {
        let output = "     Running unittests src/lib.rs (target/debug/deps/a-1)\ntest result: splendid\n";
        assert_eq!(suites(output, true).0, [("a (unit)".to_owned(), 0, 1)]);
    }

    #[test]
    fn a_filter_selects_whole_packages_or_else_single_tests() {
        let selected = |text| {
            let invocations = selection(&["bulkhead-core", "xtask"], &["bulkhead-machine"], text);
            invocations
                .iter()
                .map(|arguments| arguments.join(" "))
                .collect::<Vec<_>>()
        };
        let everywhere = [
            "--package bulkhead-core --package xtask -- ",
            "--package bulkhead-machine --lib -- ",
        ];
        assert_eq!(selected(""), everywhere);
        assert_eq!(
            selected("a_port"),
            everywhere.map(|arguments| format!("{arguments}a_port"))
        );
        assert_eq!(selected("core"), ["--package bulkhead-core"]);
        assert_eq!(selected("machine"), ["--package bulkhead-machine --lib"]);
    }

    #[test]
    fn what_does_not_compile_is_counted_as_one_failure() {
        let mut tally = Tally::start();
        let mut fake = Command::new("sh");
        fake.args(["-c", "echo 'error: expected expression' >&2; exit 101"]);
        run_suites(&mut fake, Group::Host, &mut tally).unwrap();
        assert!(!tally.is_empty());
        assert_eq!(tally.close(), std::process::ExitCode::FAILURE);
    }
}
