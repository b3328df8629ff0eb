//! The images: what is built, from which package, under which name it lies in `target/bulkhead/`.
//!
//! The hypervisor and the service domains stand in a table. Guests are found: every package below `hypervisor/tests/` or
//! `frontends/guests/` is one, so that adding a guest is adding a directory.

use anyhow::{Result, anyhow};
use cargo_metadata::Metadata;

use crate::licences::Policy;

/// What an image runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Platform {
    /// Nothing but the hypervisor, or not even that.
    BareMetal,
    /// A Linux guest's kernel, without any other file of a Linux system.
    Linux,
}

/// One program for a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Its name in `target/bulkhead/` and in the boot archive.
    pub(crate) name: String,
    /// The Cargo package that it is the only program of.
    pub(crate) package: String,
    /// What it runs on.
    pub(crate) platform: Platform,
    /// Which licences its crates may have.
    pub(crate) licences: Policy,
}

/// The name of the hypervisor's image.
pub(crate) const HYPERVISOR: &str = "bulkhead";

/// Images that every machine may use: name, package, licences.
const SERVICES: &[(&str, &str, Policy)] = &[
    (HYPERVISOR, "bulkhead-machine", Policy::Permissive),
    ("control", "bulkhead-control", Policy::AlsoMpl),
    ("driver", "bulkhead-driver", Policy::Permissive),
];

/// Where guests live, relative to the root of the source tree, and with what their packages' names begin.
const GUESTS: &[(&str, &str)] = &[("hypervisor/tests/", "test-"), ("frontends/guests/", "guest-")];

/// Every image of the project.
#[derive(Debug)]
pub(crate) struct Images(Vec<Image>);

impl Images {
    /// Lists the images of the workspace that `metadata` describes.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let services = SERVICES.iter().map(|&(name, package, licences)| Image {
            name: name.into(),
            package: package.into(),
            platform: Platform::BareMetal,
            licences,
        });
        let mut guests: Vec<Image> = metadata
            .workspace_packages()
            .into_iter()
            .filter_map(|package| {
                let place = package
                    .manifest_path
                    .strip_prefix(&metadata.workspace_root)
                    .ok()?;
                let (_, prefix) = GUESTS
                    .iter()
                    .find(|(folder, _)| place.as_str().starts_with(folder))?;
                Some(guest(package.name.as_str(), prefix, platform(&package.metadata)))
            })
            .collect();
        guests.sort_by(|left, right| left.name.cmp(&right.name));
        Self(services.chain(guests).collect())
    }

    /// All of them, the hypervisor first.
    pub(crate) fn all(&self) -> &[Image] {
        &self.0
    }

    /// The image called `name`.
    ///
    /// # Errors
    ///
    /// If there is none; the message lists those that there are.
    pub(crate) fn named(&self, name: &str) -> Result<&Image> {
        self.0.iter().find(|image| image.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|image| image.name.as_str()).collect();
            anyhow!("there is no image `{name}`; there are {}", names.join(", "))
        })
    }
}

/// What a package's `[package.metadata.bulkhead]` says of its platform.
fn platform(metadata: &serde_json::Value) -> Platform {
    match metadata.pointer("/bulkhead/platform") {
        Some(name) if name == "linux" => Platform::Linux,
        _ => Platform::BareMetal,
    }
}

/// The image of a guest: package `test-hello` gives image `hello`.
fn guest(package: &str, prefix: &str, platform: Platform) -> Image {
    let name = package.strip_prefix(prefix).unwrap_or(package);
    Image {
        name: name.into(),
        package: package.into(),
        platform,
        licences: Policy::Permissive,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_named_without_its_packages_prefix() {
        assert_eq!(guest("test-hello", "test-", Platform::BareMetal).name, "hello");
        assert_eq!(
            guest("test-hello", "test-", Platform::BareMetal).package,
            "test-hello"
        );
        assert_eq!(guest("guest-disk", "guest-", Platform::BareMetal).name, "disk");
        assert_eq!(guest("odd", "test-", Platform::BareMetal).name, "odd");
    }

    #[test]
    fn a_package_says_if_it_is_for_linux() {
        let metadata = serde_json::json!({"bulkhead": {"platform": "linux"}});
        assert_eq!(platform(&metadata), Platform::Linux);
        assert_eq!(platform(&serde_json::Value::Null), Platform::BareMetal);
    }

    #[test]
    fn an_unknown_image_is_refused_with_the_list_of_known_ones() {
        let images = Images(vec![
            guest("test-hello", "test-", Platform::BareMetal),
            guest("test-events", "test-", Platform::BareMetal),
        ]);
        assert_eq!(images.named("events").unwrap().package, "test-events");
        let message = images.named("even").unwrap_err().to_string();
        assert!(message.contains("hello, events"), "{message}");
    }
}
