//! What a configuration has to fit: the machine, the boot archive, the domains that are there.

use crate::fields::At;
use crate::nearest::nearest;
use crate::problems::Problems;
use crate::settings::{DeviceClass, FileName, PciAddress};
use crate::value::{excerpt, quoted};
use core::fmt;

/// What is known of the machine when a configuration is to be put into effect.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// The names of the boot archive's files.
    pub files: &'a [&'a str],
    /// How many physical CPUs there are; they are numbered from 0.
    pub cpus: u32,
    /// The memory in bytes that domains to be made can have, all together.
    pub memory: u64,
    /// The names of the domains that exist.
    pub domains: &'a [&'a str],
    /// The devices that drivers can have: functions on PCI, no bridges among them, and of which class each is.
    pub functions: &'a [(PciAddress, Option<DeviceClass>)],
    /// The names of the drivers that there are already: these have their domains and their memory.
    pub drivers: &'a [&'a str],
}

impl World<'_> {
    /// Tells if the `file` that `key` names is none of the boot archive.
    pub(crate) fn want_file(&self, key: &str, file: &At<FileName>, problems: &mut Problems) {
        let name = file.as_str();
        if !self.files.contains(&name) {
            let sentence = format_args!(
                "{key} = {} should name a file of the boot archive{}",
                quoted(name),
                self.instead_of(name)
            );
            problems.add(file.line(), sentence);
        }
    }

    /// What to say after "should be a file of the boot archive" when `missing` is none.
    fn instead_of(&self, missing: &str) -> impl fmt::Display {
        const SHOWN: usize = 8;
        fmt::from_fn(move |f| {
            if let Some(near) = nearest(missing, self.files.iter().copied()) {
                return write!(f, "; did you mean \"{}\"?", excerpt(near));
            }
            let mut before = "; it has ";
            for file in self.files.iter().take(SHOWN) {
                write!(f, "{before}\"{}\"", excerpt(file))?;
                before = ", ";
            }
            match self.files.len().saturating_sub(SHOWN) {
                0 => Ok(()),
                more => write!(f, " and {more} more"),
            }
        })
    }
}
