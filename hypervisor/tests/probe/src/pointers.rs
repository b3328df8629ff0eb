//! Pointers that no hypercall may follow, each for a reason of its own.

use bulkhead_abi::layout;

use crate::{
    probe::Direction,
    window::{READ_ONLY, WRITABLE, Window},
};

/// The bad pointers of this domain.
#[derive(Debug)]
pub(crate) struct Pointers {
    /// A page that can be read and not written.
    read_only: u64,
    /// The last byte of a page that has nothing behind it.
    edge: u64,
}

impl Pointers {
    /// Maps the pages that some of the pointers are about.
    pub(crate) fn new(window: &mut Window) -> Self {
        let read_only = window.show_new(READ_ONLY);
        let last = window.show_new(WRITABLE);
        // The next slot stays empty.
        window.skip();
        Self {
            read_only,
            edge: last.wrapping_add(layout::PAGE_OFFSET_MASK),
        }
    }

    /// All of them, with what they are. A read-only page is none for a record that is only read.
    pub(crate) fn bad(&self, direction: Direction) -> impl Iterator<Item = (&'static str, u64)> {
        let read_only = (direction == Direction::InOut).then_some(("read-only", self.read_only));
        [
            ("unmapped", 0x1000),
            ("half mapped", self.edge),
            ("the hypervisor's table of frames", layout::M2P.start),
            ("the hypervisor's", 0xffff_8300_0000_0000),
            (
                "the hypervisor's last byte",
                layout::HYPERVISOR.end.wrapping_sub(1),
            ),
            ("half the hypervisor's", layout::HYPERVISOR.start.wrapping_sub(1)),
            ("not canonical", 1 << 47),
            ("wrapping", u64::MAX),
        ]
        .into_iter()
        .chain(read_only)
    }
}
