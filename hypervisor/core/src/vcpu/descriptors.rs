//! Segment descriptors that guests may have in their tables.
//!
//! Source: the guest ABI's section 6.9; Intel SDM volume 3A, section 3.4.5.

use crate::frames::Mfn;
use bulkhead_abi::selectors::GUEST_GDT_FRAMES;
use heapless::Vec;

/// A vCPU's own part of its descriptor table. Each frame is held, and used as a page of descriptors.
pub type GdtFrames = Vec<Mfn, GUEST_GDT_FRAMES>;

/// A descriptor that no guest may have: gates and other system descriptors, through which a CPU could be led to ring 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadDescriptor(pub u64);

const PRESENT: u64 = 1 << 47;
const DPL: u64 = 3 << 45;
/// Clear in system descriptors.
const CODE_OR_DATA: u64 = 1 << 44;
const TYPE: u64 = 0xf << 40;
const ACCESSED: u64 = 1 << 40;

/// What stands in the table when a guest writes `descriptor`.
///
/// Whatever is present is for ring 3. Code and data are marked as accessed, so that the CPU never writes to the table.
///
/// # Errors
///
/// [`BadDescriptor`] for a system descriptor, but for the second half of a wide one (type 0), which does nothing.
pub const fn check(descriptor: u64) -> Result<u64, BadDescriptor> {
    if descriptor & PRESENT == 0 {
        return Ok(descriptor);
    }
    if descriptor & CODE_OR_DATA != 0 {
        return Ok(descriptor | DPL | ACCESSED);
    }
    if descriptor & TYPE == 0 {
        return Ok(descriptor | DPL);
    }
    Err(BadDescriptor(descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_code_segment_is_forced_to_ring_3() {
        assert_eq!(check(0x00af_9a00_0000_ffff), Ok(0x00af_fb00_0000_ffff));
    }

    #[test]
    fn what_is_not_present_is_not_looked_at() {
        assert_eq!(check(0x0000_0c00_dead_beef), Ok(0x0000_0c00_dead_beef));
        assert_eq!(check(0), Ok(0));
    }

    #[test]
    fn no_gate_and_no_task_is_accepted() {
        for kind in 1..16_u64 {
            let descriptor = PRESENT | kind << 40;
            assert_eq!(check(descriptor), Err(BadDescriptor(descriptor)), "type {kind}");
        }
        assert_eq!(check(PRESENT), Ok(PRESENT | DPL));
    }
}
