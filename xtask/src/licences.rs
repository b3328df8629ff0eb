//! Checks that every image may be given away: the licences of all that is linked into it.
//!
//! For each image the closure of its dependencies is judged against the image's policy. Build scripts and tests
//! are not part of an image and are not looked at. Cargo resolves the features of the whole workspace together,
//! so a closure may have a crate too many here, never one too few.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, PackageId};
use spdx::{Expression, LicenseReq, ParseMode};

use crate::images::Images;

/// Which licences an image may have in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Those that ask for no more than their notice.
    Permissive,
    /// Also MPL-2.0, whose demands end with its own files.
    AlsoMpl,
    /// Also GPL-2.0, which then decides for the whole image: no crate beside it may be under Apache-2.0
    /// only, which GPL-2.0 does not go with.
    AlsoGpl,
}

/// Licences that every image may have in it.
const PERMISSIVE: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unicode-3.0",
    "CC0-1.0",
    "Unlicense",
];

/// One crate of an image.
#[derive(Clone, Debug)]
struct Crate {
    name: String,
    /// What its manifest says: an SPDX expression, or `/` for `OR` as was usual before.
    licence: Option<String>,
}

/// Judges every image.
///
/// # Errors
///
/// If an image has a crate that its policy does not allow; the message names all of them.
pub(crate) fn check(metadata: &Metadata, images: &Images) -> Result<()> {
    let mut complaints = Vec::new();
    for image in images.all() {
        let crates = closure(metadata, &image.package)?;
        let complain = |complaint| format!("image `{}`: {complaint}", image.name);
        complaints.extend(judge(image.licences, &crates).into_iter().map(complain));
    }
    if !complaints.is_empty() {
        bail!("{}", complaints.join("; "));
    }
    Ok(())
}

/// The package and everything that is linked into it.
fn closure(metadata: &Metadata, package: &str) -> Result<Vec<Crate>> {
    let resolve = metadata
        .resolve
        .as_ref()
        .context("cargo has not resolved the dependencies")?;
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let root = metadata
        .workspace_packages()
        .into_iter()
        .find(|member| member.name.as_str() == package);
    let mut waiting = vec![&root.with_context(|| format!("there is no package {package}"))?.id];
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = nodes
            .get(id)
            .with_context(|| format!("cargo has not resolved {id}"))?;
        let is_linked = |dependency: &&cargo_metadata::NodeDep| {
            dependency
                .dep_kinds
                .iter()
                .any(|kind| kind.kind == DependencyKind::Normal)
        };
        waiting.extend(
            node.deps
                .iter()
                .filter(is_linked)
                .map(|dependency| &dependency.pkg),
        );
    }
    let packages = metadata
        .packages
        .iter()
        .filter(|package| seen.contains(&package.id));
    Ok(packages
        .map(|package| Crate {
            name: package.name.to_string(),
            licence: package.license.clone(),
        })
        .collect())
}

/// What is wrong with these crates in an image of this policy, in one sentence each.
fn judge(policy: Policy, crates: &[Crate]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut readable = Vec::new();
    for Crate { name, licence } in crates {
        let Some(licence) = licence else {
            complaints.push(format!("{name} does not say its licence"));
            continue;
        };
        match Expression::parse_mode(licence, ParseMode::LAX) {
            Ok(expression) => readable.push((name, licence, expression)),
            Err(error) => complaints.push(format!(
                "{name} has a licence that is not SPDX: {licence} ({})",
                error.reason
            )),
        }
    }
    // The choices are made once for the whole image: with any crate that is under the GPL whatever one
    // chooses, the others must be free of what does not go with it.
    let is_gpl_image = policy == Policy::AlsoGpl
        && readable
            .iter()
            .any(|(_, _, licence)| !licence.evaluate(is_permissive));
    for (name, licence, expression) in readable {
        let is_allowed = expression.evaluate(|one| match policy {
            Policy::Permissive => is_permissive(one),
            Policy::AlsoMpl => is_permissive(one) || is_called(one, "MPL-2.0"),
            Policy::AlsoGpl if is_gpl_image => {
                is_gpl2(one) || (is_permissive(one) && !is_called(one, "Apache-2.0"))
            }
            Policy::AlsoGpl => is_permissive(one),
        });
        if !is_allowed {
            let beside = if is_gpl_image { " beside GPL-2.0" } else { "" };
            complaints.push(format!("{name} may not be in it{beside} under {licence}"));
        }
    }
    complaints
}

fn is_permissive(one: &LicenseReq) -> bool {
    PERMISSIVE.iter().any(|name| is_called(one, name))
}

fn is_gpl2(one: &LicenseReq) -> bool {
    one.license.id().is_some_and(|id| id.name.starts_with("GPL-2.0"))
}

/// Whether this is the licence called `name`. An exception (`WITH`) only adds permissions.
fn is_called(one: &LicenseReq, name: &str) -> bool {
    one.license.id().is_some_and(|id| id.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crates(licences: &[&str]) -> Vec<Crate> {
        let named = |licence: &&str| Crate {
            name: format!("<{licence}>"),
            licence: Some((*licence).into()),
        };
        licences.iter().map(named).collect()
    }

    fn is_fine(policy: Policy, licences: &[&str]) -> bool {
        judge(policy, &crates(licences)).is_empty()
    }

    #[test]
    fn permissive_licences_are_fine_everywhere() {
        for policy in [Policy::Permissive, Policy::AlsoMpl, Policy::AlsoGpl] {
            assert!(is_fine(
                policy,
                &["MIT", "BSD-3-Clause", "Zlib OR Apache-2.0", "0BSD"]
            ));
        }
    }

    #[test]
    fn one_choice_is_enough_of_an_or_but_an_and_needs_all() {
        assert!(is_fine(
            Policy::Permissive,
            &["MIT OR GPL-3.0-only", "MIT/Apache-2.0", "GPL-2.0-only / ISC"]
        ));
        assert!(is_fine(
            Policy::Permissive,
            &["(MIT OR Apache-2.0) AND Unicode-3.0"]
        ));
        assert!(!is_fine(Policy::Permissive, &["MIT AND GPL-3.0-only"]));
        assert!(!is_fine(Policy::Permissive, &["(MIT OR Apache-2.0) AND OpenSSL"]));
    }

    #[test]
    fn an_exception_takes_nothing_away() {
        assert!(is_fine(Policy::Permissive, &["Apache-2.0 WITH LLVM-exception"]));
        assert!(!is_fine(
            Policy::Permissive,
            &["GPL-2.0-only WITH Classpath-exception-2.0"]
        ));
    }

    #[test]
    fn mpl_is_for_images_that_say_so() {
        assert!(is_fine(Policy::AlsoMpl, &["MPL-2.0", "Apache-2.0"]));
        assert!(!is_fine(Policy::Permissive, &["MPL-2.0"]));
        assert!(!is_fine(Policy::AlsoGpl, &["MPL-1.1"]));
    }

    #[test]
    fn gpl_is_for_images_that_say_so() {
        for gpl in ["GPL-2.0", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-2.0+"] {
            assert!(
                is_fine(Policy::AlsoGpl, &[gpl, "MIT", "MIT OR Apache-2.0"]),
                "{gpl}"
            );
            assert!(!is_fine(Policy::Permissive, &[gpl]), "{gpl}");
            assert!(!is_fine(Policy::AlsoMpl, &[gpl]), "{gpl}");
        }
        assert!(!is_fine(Policy::AlsoGpl, &["GPL-3.0-only"]));
    }

    #[test]
    fn beside_gpl_code_apache_alone_is_refused() {
        let complaints = judge(
            Policy::AlsoGpl,
            &crates(&["GPL-2.0-only", "Apache-2.0", "MIT AND Apache-2.0"]),
        );
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(
            complaints[0].contains("<Apache-2.0> may not be in it beside GPL-2.0"),
            "{complaints:?}"
        );
        assert!(is_fine(Policy::AlsoGpl, &["MIT OR GPL-2.0-only", "Apache-2.0"]));
    }

    #[test]
    fn a_crate_that_says_nothing_or_nonsense_is_refused() {
        let silent = [Crate {
            name: "silent".into(),
            licence: None,
        }];
        assert_eq!(
            judge(Policy::Permissive, &silent),
            ["silent does not say its licence"]
        );
        assert!(!is_fine(Policy::Permissive, &["do what you like"]));
        assert!(!is_fine(Policy::Permissive, &["LicenseRef-ours"]));
    }
}
