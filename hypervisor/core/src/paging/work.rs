//! How much a CPU does before it looks up: page tables can be as large as memory, and a hypercall about them must not be long.

use crate::frames::Mfn;

/// What is left of the work that may be done in one go, in entries looked at; and what it left undone.
#[derive(Debug)]
pub(crate) struct Work {
    left: u32,
    remains: Option<Mfn>,
}

/// A CPU is away from guests for 100 microseconds at most, if an instruction takes 2 nanoseconds: so many entries that allow writes
/// are validated in 30 to 50 of them. A list of calls may have lasted a little less already when the one with this portion begins.
const PORTION: u32 = 192;

impl Work {
    /// A portion.
    pub(crate) const fn portion() -> Self {
        Self {
            left: PORTION,
            remains: None,
        }
    }

    /// More than there can be: while a domain is made, and nobody waits.
    pub(crate) const fn unlimited() -> Self {
        Self {
            left: u32::MAX,
            remains: None,
        }
    }

    /// Notes that `entries` entries' worth of work has been done.
    pub(crate) fn spend(&mut self, entries: u32) {
        self.left = self.left.saturating_sub(entries);
    }

    /// Notes that a table was let go of, and is left half taken down. If it is below another, that one is noted after it.
    pub(crate) const fn leave(&mut self, table: Mfn) {
        self.remains = Some(table);
    }

    /// The root of what was let go of and is not all taken down, if anything is. It is not held: whoever wants it, or all that is
    /// below it, may be at it.
    pub(crate) const fn remains(&self) -> Option<Mfn> {
        self.remains
    }

    /// Whether the portion is done, so that what remains must be done in another go.
    pub(crate) const fn is_over(&self) -> bool {
        self.left == 0
    }
}
