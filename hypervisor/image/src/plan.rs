//! Where everything lies in a new domain: a pure function of the kernel image and the sizes.
//!
//! Source: the guest ABI's section 2.1, with the two domains measured there as tests.

use crate::{Image, span};
use bulkhead_abi::layout::{PAGE_SHIFT, PAGE_SIZE};
use core::fmt;
use core::ops::Range;

/// A domain's first layout, in pages of its own numbering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The address of the first instruction.
    pub entry: u64,
    /// Address of page 0 in the initial mapping.
    pub virt_base: u64,
    /// All pages of the domain.
    pub pages: u64,
    /// Where the ramdisk lies, and whether the initial mapping covers it.
    pub ramdisk: Option<Range<u64>>,
    /// Whether the ramdisk is told by page number instead of by address.
    pub ramdisk_by_pfn: bool,
    /// Where the page list lies.
    pub p2m: Range<u64>,
    /// A mapping of its own for the page list: the address, and the pages of its tables.
    pub p2m_mapping: Option<Mapping>,
    /// The start-info page.
    pub start_info: u64,
    /// The xenstore ring's page.
    pub store: u64,
    /// The console ring's page.
    pub console: u64,
    /// The initial mapping, from page 0 on.
    pub region: Mapping,
    /// The boot stack's page.
    pub stack: u64,
}

/// A linear mapping, with the pages that its tables lie in: level 4 if it has its own, then 3, 2, 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first address.
    pub va: u64,
    /// What is mapped there.
    pub target: Range<u64>,
    /// The pages of all its tables.
    pub tables: Range<u64>,
    /// The level 3 tables among them.
    pub l3: Range<u64>,
    /// The level 2 tables among them.
    pub l2: Range<u64>,
    /// The level 1 tables among them.
    pub l1: Range<u64>,
}

/// Why a domain cannot be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// It needs this many pages to start.
    TooSmall(u64),
    /// The initial mapping would run into the hypervisor or around the end.
    TooLarge,
    /// The page list is wanted where the kernel is mapped.
    P2mOverlaps,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall(pages) => {
                let mib = pages.saturating_add(255) >> 8;
                write!(f, "its kernel and ramdisk need at least {mib}M of memory")
            }
            Self::TooLarge => f.write_str("kernel and ramdisk do not fit into the initial mapping"),
            Self::P2mOverlaps => f.write_str("its note INIT_P2M points where the kernel is mapped"),
        }
    }
}

impl core::error::Error for PlanError {}

/// Free mapped memory that a kernel finds behind its boot stack, in pages: 512 KiB.
const SPARE: u64 = 128;

/// The initial mapping ends at a multiple of this many pages: 4 MiB.
const REGION_ALIGN: u64 = 1024;

impl Plan {
    /// Lays out a domain of `pages` pages with `image` and a ramdisk of `ramdisk` bytes.
    ///
    /// # Errors
    ///
    /// See [`PlanError`].
    pub fn new(image: &Image<'_>, pages: u64, ramdisk: Option<u64>) -> Result<Self, PlanError> {
        let mut cursor = Cursor(to_pages(image.span.end.saturating_sub(image.virt_base)));
        let ramdisk_pages = ramdisk.map(to_pages);
        let ramdisk_by_pfn = image.takes_ramdisk_by_pfn;
        let p2m_pages = to_pages(pages.saturating_mul(8));

        let mapped_ramdisk = ramdisk_pages.filter(|_| !ramdisk_by_pfn).map(|n| cursor.take(n));
        let mapped_p2m = image.init_p2m.is_none().then(|| cursor.take(p2m_pages));
        let start_info = cursor.take(1).start;
        let store = cursor.take(1).start;
        let console = cursor.take(1).start;
        let region = Self::region(image.virt_base, &mut cursor)?;
        let stack = cursor.take(1).start;
        cursor.0 = region.target.end;

        let ramdisk = mapped_ramdisk.or_else(|| ramdisk_pages.map(|n| cursor.take(n)));
        let p2m = mapped_p2m.unwrap_or_else(|| cursor.take(p2m_pages));
        let p2m_mapping = match image.init_p2m {
            Some(va) => Some(Self::p2m_mapping(va, p2m.clone(), &region, &mut cursor)?),
            None => None,
        };
        if cursor.0 > pages {
            return Err(PlanError::TooSmall(cursor.0));
        }
        Ok(Self {
            entry: image.entry,
            virt_base: image.virt_base,
            pages,
            ramdisk,
            ramdisk_by_pfn,
            p2m,
            p2m_mapping,
            start_info,
            store,
            console,
            region,
            stack,
        })
    }

    /// Sizes the initial mapping so that it covers its own tables, the boot stack and the spare room.
    fn region(virt_base: u64, cursor: &mut Cursor) -> Result<Mapping, PlanError> {
        let first = cursor.0;
        // More tables may need a longer mapping, which may need more tables; it settles in a step or two.
        let mut tables = 4_u64;
        loop {
            let end = first
                .saturating_add(tables)
                .saturating_add(1 + SPARE)
                .next_multiple_of(REGION_ALIGN);
            let bytes = end.checked_mul(PAGE_SIZE as u64).ok_or(PlanError::TooLarge)?;
            if !span::is_guests(virt_base, bytes) {
                return Err(PlanError::TooLarge);
            }
            let [l3, l2, l1] = table_counts(virt_base, bytes);
            let needed = l3.saturating_add(l2).saturating_add(l1).saturating_add(1);
            if needed > tables {
                tables = needed;
                continue;
            }
            let start = cursor.0;
            cursor.take(1);
            let (l3, l2, l1) = (cursor.take(l3), cursor.take(l2), cursor.take(l1));
            return Ok(Mapping {
                va: virt_base,
                target: 0..end,
                tables: start..cursor.0,
                l3,
                l2,
                l1,
            });
        }
    }

    fn p2m_mapping(
        va: u64,
        p2m: Range<u64>,
        region: &Mapping,
        cursor: &mut Cursor,
    ) -> Result<Mapping, PlanError> {
        let bytes = (p2m.end.saturating_sub(p2m.start)).saturating_mul(PAGE_SIZE as u64);
        let region_bytes = region.target.end.saturating_mul(PAGE_SIZE as u64);
        // It has level 3 tables of its own, so no level 4 slot may serve both.
        let slots = |va: u64, bytes: u64| (va >> 39, va.saturating_add(bytes.saturating_sub(1)) >> 39);
        let (own, other) = (slots(va, bytes), slots(region.va, region_bytes));
        if !span::is_guests(va, bytes) || own.0 <= other.1 && other.0 <= own.1 {
            return Err(PlanError::P2mOverlaps);
        }
        let [l3, l2, l1] = table_counts(va, bytes);
        let start = cursor.0;
        let (l3, l2, l1) = (cursor.take(l3), cursor.take(l2), cursor.take(l1));
        Ok(Mapping {
            va,
            target: p2m,
            tables: start..cursor.0,
            l3,
            l2,
            l1,
        })
    }

    /// The address of `pfn` in the initial mapping.
    #[must_use]
    pub const fn va(&self, pfn: u64) -> u64 {
        self.virt_base.wrapping_add(pfn << PAGE_SHIFT)
    }

    /// Where the kernel finds its page list.
    #[must_use]
    pub fn p2m_va(&self) -> u64 {
        self.p2m_mapping
            .as_ref()
            .map_or(self.va(self.p2m.start), |mapping| mapping.va)
    }

    /// Whether `pfn` is a page table.
    #[must_use]
    pub fn is_table(&self, pfn: u64) -> bool {
        self.region.tables.contains(&pfn)
            || self
                .p2m_mapping
                .as_ref()
                .is_some_and(|mapping| mapping.tables.contains(&pfn))
    }
}

/// Hands out pages from low to high.
struct Cursor(u64);

impl Cursor {
    fn take(&mut self, pages: u64) -> Range<u64> {
        let start = self.0;
        self.0 = start.saturating_add(pages);
        start..self.0
    }
}

const fn to_pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_SIZE as u64)
}

/// How many tables of level 3, 2 and 1 it takes to map `bytes` (not zero) from `va` on.
fn table_counts(va: u64, bytes: u64) -> [u64; 3] {
    let last = va.saturating_add(bytes.saturating_sub(1));
    [39, 30, 21].map(|shift| (last >> shift).saturating_sub(va >> shift).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::arithmetic_side_effects, reason = "the tests choose the operands")]
    fn image(virt_base: u64, end: u64, init_p2m: Option<u64>, takes_ramdisk_by_pfn: bool) -> Image<'static> {
        Image {
            segments: heapless::Vec::new(),
            span: virt_base + 0x10_0000..end,
            entry: virt_base + 0x10_0000,
            virt_base,
            init_p2m,
            takes_ramdisk_by_pfn,
            hypercall_page: None,
            supported: 0,
        }
    }

    /// Linux with 256 MiB, as measured on Xen 4.17 (spec 2.1, i).
    #[test]
    fn a_linux_domain_is_laid_out_as_xen_does() {
        let linux = image(
            0xffff_ffff_8000_0000,
            0xffff_ffff_84a0_0000,
            Some(0x80_0000_0000),
            true,
        );
        let plan = Plan::new(&linux, 0x1_0000, Some(3_076_096)).unwrap();
        assert_eq!(
            (plan.start_info, plan.store, plan.console),
            (0x4a00, 0x4a01, 0x4a02)
        );
        assert_eq!(plan.region.tables, 0x4a03..0x4a2c);
        assert_eq!(
            (
                plan.region.l3.clone(),
                plan.region.l2.clone(),
                plan.region.l1.clone()
            ),
            (0x4a04..0x4a05, 0x4a05..0x4a06, 0x4a06..0x4a2c)
        );
        assert_eq!((plan.stack, plan.region.target.end), (0x4a2c, 0x4c00));
        assert_eq!(plan.ramdisk, Some(0x4c00..0x4eef));
        assert_eq!(plan.p2m, 0x4eef..0x4f6f);
        let p2m = plan.p2m_mapping.clone().unwrap();
        assert_eq!(
            (p2m.tables.end - plan.p2m.start, p2m.l1.clone().count()),
            (131, 1)
        );
        assert_eq!(plan.p2m_va(), 0x80_0000_0000);
    }

    /// A guest at address 0 with 32 MiB, as measured on Xen 4.17 (spec 2.1, ii).
    #[test]
    fn a_guest_without_a_p2m_note_finds_its_list_behind_the_kernel() {
        let plan = Plan::new(&image(0, 0x11_3000, None, false), 0x2000, None).unwrap();
        assert_eq!(plan.p2m, 0x113..0x123);
        assert_eq!((plan.start_info, plan.store, plan.console), (0x123, 0x124, 0x125));
        assert_eq!(plan.region.tables, 0x126..0x12b);
        assert_eq!((plan.stack, plan.region.target.end), (0x12b, 0x400));
        assert_eq!((plan.p2m_mapping.clone(), plan.p2m_va()), (None, 0x11_3000));
    }

    /// GRUB for PV guests: mapped from address 0 on, which is the kernel's too, its second segment in the middle of a page.
    #[test]
    fn a_kernel_at_address_zero_has_page_zero() {
        let grub = Image {
            span: 0..0x61_3dc8,
            entry: 0,
            ..image(0, 0x61_3dc8, None, false)
        };
        let plan = Plan::new(&grub, 0x4000, Some(1)).unwrap();
        assert_eq!(plan.ramdisk, Some(0x614..0x615));
        assert_eq!((plan.p2m.clone(), plan.start_info), (0x615..0x635, 0x635));
        assert_eq!((plan.region.tables.clone(), plan.stack), (0x638..0x63f, 0x63f));
        assert_eq!(plan.region.target, 0..0x800);
    }

    #[test]
    fn a_domain_that_is_too_small_is_told_how_much_it_needs() {
        assert_eq!(
            Plan::new(&image(0, 0x11_3000, None, false), 0x3ff, None),
            Err(PlanError::TooSmall(0x400))
        );
        assert!(Plan::new(&image(0, 0x11_3000, None, false), 0x400, None).is_ok());
        assert_eq!(
            Plan::new(&image(0, 0x11_3000, None, false), 0x400, Some(u64::MAX)),
            Err(PlanError::TooLarge),
            "a ramdisk without end"
        );
    }

    #[test]
    fn the_p2m_list_may_not_share_a_top_slot_with_the_kernel() {
        let guest = image(
            0xffff_ffff_8000_0000,
            0xffff_ffff_8020_0000,
            Some(0xffff_ff80_0000_0000),
            false,
        );
        assert_eq!(Plan::new(&guest, 0x2000, None), Err(PlanError::P2mOverlaps));
        let guest = image(
            0xffff_ffff_8000_0000,
            0xffff_ffff_8020_0000,
            Some(0xffff_8000_0000_0000),
            false,
        );
        assert_eq!(Plan::new(&guest, 0x2000, None), Err(PlanError::P2mOverlaps));
    }

    #[test]
    fn a_region_that_would_wrap_around_is_refused() {
        let guest = image(0xffff_ffff_ff80_0000, 0xffff_ffff_ffa0_0000, None, false);
        assert_eq!(Plan::new(&guest, 0x10_0000, None), Err(PlanError::TooLarge));
    }
}
