//! Segment descriptors that guests may have in their tables.
//!
//! Source: the guest ABI's section 6.9; Intel SDM volume 3A, section 3.4.5.

use crate::frames::Mfn;
use bulkhead_abi::selectors::{
    DESCRIPTORS_PER_PAGE, FLAT_RING3_CS32, FLAT_RING3_CS32_DESCRIPTOR, FLAT_RING3_CS64,
    FLAT_RING3_CS64_DESCRIPTOR, GUEST_GDT_FRAMES, MAX_LDT_ENTRIES,
};
use heapless::Vec;

/// The most frames that a table of local descriptors has.
pub const LDT_FRAMES: usize = MAX_LDT_ENTRIES as usize / DESCRIPTORS_PER_PAGE;

/// A vCPU's table of local descriptors. Each frame is held, and used as a page of descriptors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ldt {
    /// Its frames, as many as its entries need.
    pub frames: Vec<Mfn, LDT_FRAMES>,
    /// How many entries it has.
    pub entries: u16,
}

impl Ldt {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

/// A vCPU's own part of its descriptor table. Each frame is held, and used as a page of descriptors.
pub type GdtFrames = Vec<Mfn, GUEST_GDT_FRAMES>;

/// In a selector: it names a descriptor of the local table.
const LOCAL: u16 = 4;

/// Where the descriptor behind a selector stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is one that every guest has.
    Fixed(u64),
    /// This word of this frame.
    Word(Mfn, usize),
}

/// Finds the descriptor that `selector` names, for a vCPU with these tables.
#[must_use]
pub fn find(selector: u16, gdt: &GdtFrames, ldt: &Ldt) -> Option<Place> {
    match selector {
        FLAT_RING3_CS64 => return Some(Place::Fixed(FLAT_RING3_CS64_DESCRIPTOR)),
        FLAT_RING3_CS32 => return Some(Place::Fixed(FLAT_RING3_CS32_DESCRIPTOR)),
        _ => {}
    }
    let entry = selector >> 3;
    let frames = match selector & LOCAL {
        0 => &gdt[..],
        _ if entry < ldt.entries => &ldt.frames[..],
        _ => return None,
    };
    let entry = usize::from(entry);
    let frame = frames.get(entry / DESCRIPTORS_PER_PAGE)?;
    Some(Place::Word(*frame, entry % DESCRIPTORS_PER_PAGE))
}

/// Whether a code segment with this descriptor is 64-bit code.
#[must_use]
pub const fn is_64_bit(descriptor: u64) -> bool {
    descriptor >> 53 & 1 != 0
}

/// Where the segment with this descriptor begins.
#[must_use]
pub const fn base(descriptor: u64) -> u32 {
    let [_, _, low, middle, high, _, _, top] = descriptor.to_le_bytes();
    u32::from_le_bytes([low, middle, high, top])
}

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
    fn a_selector_is_looked_up_where_a_cpu_would() {
        let [global, local] = [0x7000, 0x9000].map(Mfn::from_maddr);
        let gdt = GdtFrames::from_slice(&[global]).unwrap();
        let ldt = Ldt {
            frames: Vec::from_slice(&[local]).unwrap(),
            entries: 3,
        };
        assert_eq!(find(0x33, &gdt, &ldt), Some(Place::Word(global, 6)));
        assert_eq!(find(0x17, &gdt, &ldt), Some(Place::Word(local, 2)));
        assert_eq!(find(0x1f, &gdt, &ldt), None, "it has three entries");
        assert_eq!(find(0x1003, &gdt, &ldt), None, "the second page is not there");
        assert_eq!(
            find(0xe033, &gdt, &ldt),
            Some(Place::Fixed(FLAT_RING3_CS64_DESCRIPTOR))
        );
    }

    #[test]
    fn the_parts_of_a_descriptor_are_where_the_manual_has_them() {
        assert_eq!(base(0x12cf_fb34_5678_ffff), 0x1234_5678);
        assert!(is_64_bit(FLAT_RING3_CS64_DESCRIPTOR) && !is_64_bit(FLAT_RING3_CS32_DESCRIPTOR));
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
