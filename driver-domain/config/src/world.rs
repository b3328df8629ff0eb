//! What a configuration has to fit: the machine, the boot archive, the domains that are there.

use crate::nearest::nearest;
use crate::value::excerpt;
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
}

impl World<'_> {
    /// What to say after "should be a file of the boot archive" when `missing` is none.
    pub(crate) fn instead_of(&self, missing: &str) -> impl fmt::Display {
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
