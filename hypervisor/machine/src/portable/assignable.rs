//! What of the machine's devices a domain may own: the interrupt lines that a controller has; and neither RAM, nor anything that firmware's memory map describes at all, nor registers that
//! the hypervisor works with, or that move memory, interrupts or power for the whole machine.
//!
//! What is known to be harmful is not given; what a board has of its own beyond that, it is for the operator to know. Devices on PCI have their
//! registers where the memory map has nothing. Without an IOMMU a device that moves data reaches all memory, whoever owns it.
//! Sources: Intel SDM vol. 3A, section 11.4.1 (the local APIC and the addresses of messages); the PC's ports of old.

use core::ops::{Range, RangeInclusive};

use bulkhead_core::devices::Resource;
use bulkhead_core::irq::Gsi;
use heapless::Vec;

use super::memory_map::{MAX_RANGES, Survey};
use super::ranges::Ranges;
use crate::layout::{PAGE_SHIFT, PAGE_SIZE};

/// Room for ports beside those that every PC has.
const MAX_PORTS: usize = 32;

/// Ports that nobody may have on any PC.
const PORTS: [RangeInclusive<u16>; 16] = [
    // DMA controllers, with their page registers.
    0x00..=0x1f,
    0x80..=0x8f,
    0xc0..=0xdf,
    // Interrupt controllers, with their edge and level registers.
    0x20..=0x21,
    0xa0..=0xa1,
    0x4d0..=0x4d1,
    // The interval timer, and the keyboard controller, which can reset the machine.
    0x40..=0x43,
    0x60..=0x64,
    // The clock, whose port masks NMI.
    0x70..=0x71,
    // System control: reset, address line 20.
    0x92..=0x92,
    // The emulator's way to end.
    0xf4..=0xf4,
    // System management: its interrupts, on Intel's boards and AMD's.
    0xb2..=0xb3,
    0xcd6..=0xcd7,
    // The emulator's channel to the firmware, which copies to and from any memory.
    0x510..=0x51b,
    // The hypervisor's serial line.
    0x3f8..=0x3ff,
    // PCI configuration space, of all devices at once, and reset.
    0xcf8..=0xcff,
];

/// Where interrupt controllers are, and messages become interrupts, whatever tables say.
const INTERRUPTS: [Range<u64>; 2] = [0xfec0_0000..0xfed0_0000, 0xfee0_0000..0xfef0_0000];

/// What may be assigned.
#[derive(Clone, Debug)]
pub struct Assignable {
    ports: Vec<RangeInclusive<u16>, MAX_PORTS>,
    /// Frames that may not.
    taken: Ranges<MAX_RANGES>,
    /// One past the last frame that an entry of a page table can name on this machine.
    limit: u64,
    /// The interrupt lines that may, a bit each.
    lines: u128,
}

const _: () = assert!(Gsi::LIMIT as u32 <= u128::BITS, "each line has a bit");

impl Assignable {
    /// What is left beside what `survey` describes, on a CPU with physical addresses of so many bits.
    #[must_use]
    pub fn new(survey: &Survey, physical_bits: u32) -> Self {
        let mut assignable = Self {
            ports: Vec::new(),
            taken: Ranges::new(),
            limit: 1_u64
                .checked_shl(physical_bits.saturating_sub(PAGE_SHIFT))
                .unwrap_or(0),
            lines: 0,
        };
        for bytes in survey.described() {
            assignable.take_bytes(bytes);
        }
        for bytes in INTERRUPTS {
            assignable.take_bytes(bytes);
        }
        assignable
    }

    /// Takes out the pages with these bytes.
    pub fn take_bytes(&mut self, bytes: Range<u64>) {
        let frames = bytes.start >> PAGE_SHIFT..bytes.end.div_ceil(PAGE_SIZE as u64);
        while self.taken.insert(frames.clone()).is_err() {
            // Rather too much than too little.
            self.taken.close_smallest_gap();
        }
    }

    /// Takes `count` ports out, from `first` on.
    pub fn take_ports(&mut self, first: u16, count: u16) {
        let last = first.saturating_add(count.saturating_sub(1));
        if self.ports.push(first..=last).is_err() {
            // No room: no port can be told from those that are taken.
            self.ports.clear();
            let _ = self.ports.push(0..=u16::MAX);
        }
    }

    /// Puts an interrupt line in: none may be owned at first.
    pub fn add_line(&mut self, gsi: Gsi) {
        self.lines |= 1 << gsi.raw();
    }

    /// Takes an interrupt line out, if it is one that there may be.
    pub fn take_line(&mut self, gsi: u32) {
        if let Some(gsi) = Gsi::new(gsi) {
            self.lines &= !(1 << gsi.raw());
        }
    }

    /// Whether a domain may own this.
    #[must_use]
    pub fn may_assign(&self, what: Resource, range: &RangeInclusive<u64>) -> bool {
        let (first, last) = (*range.start(), *range.end());
        match what {
            Resource::Ports => {
                let is_apart = |taken: &RangeInclusive<u16>| {
                    last < u64::from(*taken.start()) || u64::from(*taken.end()) < first
                };
                last <= u64::from(u16::MAX) && PORTS.iter().chain(&self.ports).all(is_apart)
            }
            Resource::Lines => {
                let is_left = |n: u64| n < Gsi::LIMIT.into() && self.lines >> n & 1 != 0;
                last < Gsi::LIMIT.into() && range.clone().all(is_left)
            }
            Resource::Frames => {
                let is_apart = |taken: &Range<u64>| last < taken.start || taken.end <= first;
                last < self.limit && self.taken.iter().all(is_apart)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory_map::{Entry, Kind};
    use super::*;

    fn assignable() -> Assignable {
        let mut survey = Survey::default();
        for (start, len, kind) in [
            (0, 0x9_fc00, Kind::Ram),
            (0xf_0000, 0x1_0000, Kind::Other),
            (0x10_0000, 0x7fe0_0000, Kind::Ram),
            (0xb000_0000, 0x1000_0000, Kind::Other),
            (0x1_0000_0000, 0x8000_0000, Kind::Ram),
        ] {
            survey.note(&Entry { start, len, kind });
        }
        Assignable::new(&survey, 40)
    }

    fn may_frames(assignable: &Assignable, bytes: Range<u64>) -> bool {
        let frames = bytes.start >> PAGE_SHIFT..=bytes.end.wrapping_sub(1) >> PAGE_SHIFT;
        assignable.may_assign(Resource::Frames, &frames)
    }

    #[test]
    fn only_what_the_memory_map_does_not_know_is_a_devices() {
        let all = assignable();
        for free in [
            0xa_0000..0xc_0000,
            0xc000_0000..0xc000_1000,
            0xfebf_0000..0xfec0_0000,
            0xfed0_0000..0xfed0_1000,
            0x1_8000_0000..0x2_0000_0000,
            0xff_ffff_f000..0x100_0000_0000,
        ] {
            assert!(may_frames(&all, free.clone()), "{free:#x?}");
        }
        for taken in [
            0..0x1000,
            // The page of a byte of RAM is RAM.
            0x9_f000..0xa_0000,
            0x9_f000..0xb_0000,
            0xc_0000..0xf_1000,
            0x7fef_f000..0x7ff0_0000,
            0xb000_0000..0xb000_1000,
            0xafff_f000..0xc000_1000,
            0xfec0_0000..0xfec0_1000,
            0xfee0_0000..0xfee0_1000,
            0xfeef_f000..0xfef0_0000,
            0x1_7fff_f000..0x1_8000_1000,
            // Beyond what the CPU can address.
            0x100_0000_0000..0x100_0000_1000,
            0..1 << 40,
        ] {
            assert!(!may_frames(&all, taken.clone()), "{taken:#x?}");
        }
    }

    #[test]
    fn what_is_taken_out_is_not_given() {
        let mut all = assignable();
        assert!(may_frames(&all, 0xfed0_0000..0xfed0_1000));
        all.take_bytes(0xfed0_0000..0xfed0_0400);
        assert!(!may_frames(&all, 0xfed0_0000..0xfed0_1000));
        let may = |all: &Assignable, range| all.may_assign(Resource::Ports, &range);
        assert!(may(&all, 0x608..=0x60b));
        all.take_ports(0x608, 4);
        assert!(may(&all, 0x604..=0x607) && may(&all, 0x60c..=0x60c));
        for taken in [0x608..=0x608, 0x60b..=0x60b, 0x600..=0x6ff] {
            assert!(!may(&all, taken.clone()), "{taken:#x?}");
        }
    }

    #[test]
    fn no_port_that_moves_memory_or_power_is_given() {
        let all = assignable();
        for taken in [
            0..=0,
            0x21..=0x22,
            0x3f8..=0x3f8,
            0xcf9..=0xcf9,
            0..=0xffff,
            0xffff..=0x1_0000,
        ] {
            assert!(!all.may_assign(Resource::Ports, &taken), "{taken:#x?}");
        }
        for free in [0x1f0..=0x1f7, 0x2f8..=0x2ff, 0xc000..=0xc0ff] {
            assert!(all.may_assign(Resource::Ports, &free), "{free:#x?}");
        }
    }

    #[test]
    fn only_lines_that_are_there_and_are_not_taken_are_given() {
        let mut all = assignable();
        (0..24).filter_map(Gsi::new).for_each(|gsi| all.add_line(gsi));
        all.take_line(4);
        all.take_line(u32::MAX);
        let may = |range| all.may_assign(Resource::Lines, &range);
        assert!(may(0..=3) && may(5..=23));
        for taken in [4..=4, 0..=23, 24..=24, 23..=24, 95..=96, 0..=u64::MAX] {
            assert!(!may(taken.clone()), "{taken:?}");
        }
    }

    #[test]
    fn too_many_ports_leave_none() {
        let mut all = assignable();
        for port in (0x1000..).take(MAX_PORTS + 1) {
            all.take_ports(port, 1);
        }
        assert!(!all.may_assign(Resource::Ports, &(0xc000..=0xc000)));
    }
}
