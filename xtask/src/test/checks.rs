//! The group `check`: what can be said about the code without running it.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use cargo_metadata::Metadata;

use crate::images::{Images, Platform};
use crate::licences;
use crate::project::{BARE_METAL, Project, run_to_end};
use crate::test::filter::{Filter, Group};
use crate::test::host;
use crate::test::tally::Tally;

/// Runs the checks that `filter` selects; one that cannot be run has failed.
pub(super) fn run(
    project: &Project,
    metadata: &Metadata,
    images: &Images,
    filter: &Filter,
    tally: &mut Tally,
) {
    for (name, mut command) in commands(project, metadata, images) {
        if !filter.selects(Group::Check, name) {
            continue;
        }
        tally.stage(&format!("check {name}"));
        record(tally, name, || run_to_end(&mut command));
    }
    if filter.selects(Group::Check, LICENCES) {
        tally.stage(&format!("check {LICENCES}"));
        record(tally, LICENCES, || {
            licences::check(&project.metadata(Some(BARE_METAL))?, images)
        });
    }
}

/// The check that is no command.
const LICENCES: &str = "licences";

/// Runs one check and counts it.
fn record(tally: &mut Tally, name: &str, check: impl FnOnce() -> Result<()>) {
    let started = Instant::now();
    let outcome = check();
    let name = format!("{}/{name}", Group::Check.name());
    match outcome {
        Ok(()) => tally.pass(&name, started.elapsed(), ""),
        Err(error) => tally.fail(&name, started.elapsed(), &format!("{error:#}")),
    }
}

/// The checks that are commands.
fn commands(project: &Project, metadata: &Metadata, images: &Images) -> Vec<(&'static str, Command)> {
    let mut format = project.cargo();
    format.args(["fmt", "--all", "--check"]);

    let mut clippy_host = project.cargo();
    clippy_host.args(["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]);

    // The tests of image packages that run on the host are seen by neither of the two others.
    let mut clippy_libraries = project.cargo();
    let libraries = host::tested_libraries(metadata);
    let packages = libraries.iter().flat_map(|package| ["--package", package]);
    clippy_libraries
        .args(["clippy", "--quiet", "--lib", "--tests"])
        .args(packages);
    clippy_libraries.args(["--", "-D", "warnings"]);

    let mut clippy_images = project.cargo();
    clippy_images
        .args(["clippy", "--quiet"])
        .args(for_images(images))
        .args(["--", "-D", "warnings"]);

    let mut docs_host = project.cargo();
    docs_host
        .args(["doc", "--quiet", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings");

    let mut docs_images = project.cargo();
    docs_images
        .args(["doc", "--quiet", "--no-deps", "--document-private-items"])
        .args(for_images(images));
    docs_images.env("RUSTDOCFLAGS", "-D warnings");

    let mut commands = vec![("format", format), ("clippy-host", clippy_host)];
    // Without packages it would look at the default members again.
    if !libraries.is_empty() {
        commands.push(("clippy-libraries", clippy_libraries));
    }
    commands.extend([
        ("clippy-images", clippy_images),
        ("docs-host", docs_host),
        ("docs-images", docs_images),
    ]);
    commands
}

/// Arguments that select the package of every image for bare metal; the others are looked at with what runs on the host. That their features are united does not matter for looking.
fn for_images(images: &Images) -> Vec<String> {
    let packages = images
        .all()
        .iter()
        .filter(|image| image.platform == Platform::BareMetal)
        .flat_map(|image| ["--package".to_owned(), image.package.clone()]);
    ["--target".to_owned(), BARE_METAL.to_owned()]
        .into_iter()
        .chain(packages)
        .collect()
}
