//! How much a CPU does before it looks up: page tables can be as large as memory, and a hypercall about them must not be long.

/// What is left of the work that may be done in one go, in entries looked at.
#[derive(Debug)]
pub(crate) struct Work {
    left: u32,
}

/// A full level 1 table is one portion: it is never left in the middle.
const PORTION: u32 = 512;

impl Work {
    /// A portion.
    pub(crate) const fn portion() -> Self {
        Self { left: PORTION }
    }

    /// As much as it takes: while a domain is made, and nobody waits.
    pub(crate) const fn unlimited() -> Self {
        Self { left: u32::MAX }
    }

    /// Notes that `entries` entries' worth of work has been done.
    pub(crate) fn spend(&mut self, entries: u32) {
        if self.left != u32::MAX {
            self.left = self.left.saturating_sub(entries);
        }
    }

    /// Whether the portion is done, so that what remains must be done in another go.
    pub(crate) const fn is_over(&self) -> bool {
        self.left == 0
    }
}
