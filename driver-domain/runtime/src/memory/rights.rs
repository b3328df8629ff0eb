//! What may be done with a page: no page is both writable and executable.

use core::{arch::x86_64::__cpuid, ops::Range};

use bulkhead_abi::pte;
use spin::Once;

use super::{frame::Pfn, image::Image};

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Reading and writing.
    Data,
    /// Reading.
    ReadOnly,
    /// Reading and executing.
    Code,
    /// Reading and writing, nothing of which is cached or put off: registers of a device.
    Registers,
    /// Nothing: there is no mapping.
    None,
}

impl Rights {
    /// The level-1 entry that gives these rights on the frame at machine address `maddr`.
    pub(crate) fn entry(self, maddr: u64) -> u64 {
        // The hypervisor adds what a guest kernel's page needs to be reached from ring 3.
        let mapped = maddr | pte::PRESENT | pte::ACCESSED;
        match self {
            Self::Data => mapped | pte::WRITABLE | pte::DIRTY | no_execute(),
            Self::ReadOnly => mapped | no_execute(),
            Self::Registers => {
                let uncached = pte::CACHE_DISABLE | pte::WRITE_THROUGH;
                mapped | pte::WRITABLE | pte::DIRTY | uncached | no_execute()
            }
            Self::Code => mapped,
            Self::None => 0,
        }
    }
}

/// The bit that forbids execution, or 0 if the processor has none.
fn no_execute() -> u64 {
    /// Extended features; EDX bit 20 is NX (AMD APM vol. 3, appendix E.4.2).
    const LEAF: u32 = 0x8000_0001;
    static BIT: Once<u64> = Once::new();
    *BIT.call_once(|| {
        let has_leaf = __cpuid(0x8000_0000).eax >= LEAF;
        if has_leaf && __cpuid(LEAF).edx & 1 << 20 != 0 {
            pte::NO_EXECUTE
        } else {
            0
        }
    })
}

/// Who uses which frame of the initial mapping.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) image: Image,
    /// The frames of the builder's page tables.
    pub(super) tables: Range<Pfn>,
}

impl Layout {
    /// The rights on a frame's page, or `None` to leave its mapping as it is.
    pub(super) fn rights(&self, pfn: Pfn) -> Option<Rights> {
        let Image {
            constants,
            code,
            stack_guard,
            shared_info,
            ..
        } = &self.image;
        if pfn == *shared_info {
            None
        } else if pfn == *stack_guard {
            Some(Rights::None)
        } else if code.contains(&pfn) {
            Some(Rights::Code)
        } else if constants.contains(&pfn) || self.tables.contains(&pfn) {
            Some(Rights::ReadOnly)
        } else {
            Some(Rights::Data)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let pfn = |raw| Pfn::new(raw).unwrap();
        Layout {
            image: Image {
                whole: pfn(0x100)..pfn(0x140),
                constants: pfn(0x100)..pfn(0x104),
                code: pfn(0x104)..pfn(0x110),
                stack_guard: pfn(0x120),
                shared_info: pfn(0x11f),
            },
            tables: pfn(0x150)..pfn(0x155),
        }
    }

    #[test]
    fn every_frame_has_the_rights_of_its_use() {
        let rights = |raw| layout().rights(Pfn::new(raw).unwrap());
        assert_eq!(rights(0), Some(Rights::Data));
        assert_eq!(rights(0x100), Some(Rights::ReadOnly));
        assert_eq!(rights(0x104), Some(Rights::Code));
        assert_eq!(rights(0x10f), Some(Rights::Code));
        assert_eq!(rights(0x110), Some(Rights::Data));
        assert_eq!(rights(0x11f), None);
        assert_eq!(rights(0x120), Some(Rights::None));
        assert_eq!(rights(0x121), Some(Rights::Data));
        assert_eq!(rights(0x154), Some(Rights::ReadOnly));
        assert_eq!(rights(0x155), Some(Rights::Data));
    }

    #[test]
    fn no_rights_allow_both_writing_and_execution() {
        for rights in [
            Rights::Data,
            Rights::ReadOnly,
            Rights::Code,
            Rights::Registers,
            Rights::None,
        ] {
            let entry = rights.entry(0x1234_5000);
            let can_write = entry & pte::WRITABLE != 0;
            let can_execute = entry & pte::PRESENT != 0 && entry & pte::NO_EXECUTE == 0;
            // Every processor that runs the tests has NX.
            assert!(!(can_write && can_execute), "{rights:?}");
        }
    }

    #[test]
    fn no_rights_means_no_mapping() {
        assert_eq!(Rights::None.entry(0x1234_5000), 0);
    }
}
