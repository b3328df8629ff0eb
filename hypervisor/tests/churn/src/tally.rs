//! What came up, and how often: rounds that do not meet each state say little.

use alloc::collections::BTreeMap;

use crate::{program::Program, tables::Progress};

/// What came up, and how often.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<&'static str, u32>);

pub(crate) const CHOSEN: &str = "number chosen";
pub(crate) const EXTENTS: &str = "extents";
pub(crate) const FULL: &str = "as much memory as it may have";
pub(crate) const BOUND: &str = "channels bound";
pub(crate) const WAITING: &str = "channels waiting";
pub(crate) const GRANTED: &str = "pages granted to it";
pub(crate) const MAPPED: &str = "pages of its mapped";
pub(crate) const HELD: &str = "pages of its held for a device";
pub(crate) const SEVERAL: &str = "several vCPUs up";

/// What is neither a program nor a state of page tables.
const OTHERS: [&str; 9] = [
    CHOSEN, EXTENTS, FULL, BOUND, WAITING, GRANTED, MAPPED, HELD, SEVERAL,
];

impl Tally {
    /// It was like this once more.
    pub(crate) fn add(&mut self, name: &'static str) {
        let count = self.0.entry(name).or_default();
        *count = count.saturating_add(1);
    }

    /// Something that should have come up and has not.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let programs = Program::ALL.map(Program::name);
        let progress = Progress::ALL.map(Progress::name);
        let mut names = OTHERS.into_iter().chain(programs).chain(progress);
        names.find(|name| !self.0.contains_key(name))
    }
}
