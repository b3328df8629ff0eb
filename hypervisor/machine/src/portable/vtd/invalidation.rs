//! What a unit is told to forget: descriptors of the invalidation queue.
//!
//! Source: the specification, section 6.5.2.

use bulkhead_core::pci::FunctionId;

/// A descriptor, low word first.
pub type Descriptor = [u64; 2];

/// How many descriptors the queue has: a frame of them.
pub const QUEUE_LEN: usize = 256;

/// Forget the entry of a function, which let it walk the tree `tag`.
#[must_use]
pub const fn context(function: FunctionId, tag: u16) -> Descriptor {
    const TYPE: u64 = 1;
    const OF_FUNCTION: u64 = 3 << 4;
    [
        TYPE | OF_FUNCTION | (tag as u64) << 16 | (function.raw() as u64) << 32,
        0,
    ]
}

/// Forget all entries of functions.
#[must_use]
pub const fn all_contexts() -> Descriptor {
    const TYPE: u64 = 1;
    const ALL: u64 = 1 << 4;
    [TYPE | ALL, 0]
}

/// Forget every translation by the tree `tag`, and wait for what is on its way, writes and reads as `drains` says the unit can.
#[must_use]
pub const fn space(tag: u16, drains: (bool, bool)) -> Descriptor {
    const OF_SPACE: u64 = 2 << 4;
    [translations(OF_SPACE, drains) | (tag as u64) << 16, 0]
}

/// Forget every translation, likewise.
#[must_use]
pub const fn all_spaces(drains: (bool, bool)) -> Descriptor {
    const ALL: u64 = 1 << 4;
    [translations(ALL, drains), 0]
}

const fn translations(which: u64, (writes, reads): (bool, bool)) -> u64 {
    const TYPE: u64 = 2;
    TYPE | which | (writes as u64) << 6 | (reads as u64) << 7
}

/// Forget an entry of the table of interrupts.
#[must_use]
pub const fn interrupt(index: u8) -> Descriptor {
    const TYPE: u64 = 4;
    const ONE: u64 = 1 << 4;
    [TYPE | ONE | (index as u64) << 32, 0]
}

/// Forget all entries of the table of interrupts.
#[must_use]
pub const fn all_interrupts() -> Descriptor {
    const TYPE: u64 = 4;
    [TYPE, 0]
}

/// When all that stands before this is done, write `value` to the physical address `to`, a multiple of 4.
#[must_use]
pub const fn report(value: u32, to: u64) -> Descriptor {
    const TYPE: u64 = 5;
    const WRITE: u64 = 1 << 5;
    [TYPE | WRITE | (value as u64) << 32, to]
}

/// The place in the queue after `place`.
#[must_use]
pub const fn next(place: usize) -> usize {
    place.wrapping_add(1) & (QUEUE_LEN - 1)
}

/// A place in the queue as the head and tail registers have it.
#[must_use]
pub const fn offset(place: usize) -> u64 {
    (place as u64) << 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_the_bits_of_the_specification() {
        let function = FunctionId::at(1, 2, 3);
        assert_eq!(context(function, 0xbeef), [0x0113_beef_0031, 0]);
        assert_eq!(all_contexts(), [0x11, 0]);
        assert_eq!(space(0xbeef, (true, true)), [0xbeef_00e2, 0]);
        assert_eq!(space(1, (true, false)), [0x1_0062, 0]);
        assert_eq!(all_spaces((false, true)), [0x92, 0]);
        assert_eq!(interrupt(0x93), [0x93_0000_0014, 0]);
        assert_eq!(all_interrupts(), [4, 0]);
        assert_eq!(report(7, 0x1000), [0x7_0000_0025, 0x1000]);
    }

    #[test]
    fn the_queue_is_a_ring() {
        assert_eq!(next(0), 1);
        assert_eq!(next(QUEUE_LEN - 1), 0);
        assert_eq!(offset(QUEUE_LEN - 1), 0xff0);
    }
}
