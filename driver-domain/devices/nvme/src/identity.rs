//! What controller and namespace say of themselves (sections B 5.17.2.1 and C 4.1.5), and what of it can be driven.

use bulkhead_devices::disk::{Discard, Geometry, MAX_SECTORS, SECTOR};
use bulkhead_devices::function::DmaMemory;

use crate::command::{ANSWER_SHIFT, COMMAND_SHIFT};

/// What the controller says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Controller {
    /// The most bytes of a command, if there is a limit.
    pub(crate) max_bytes: Option<u64>,
    /// It has a cache that forgets.
    pub(crate) has_cache: bool,
    /// It knows the command that discards.
    pub(crate) can_manage: bool,
}

impl Controller {
    /// Takes it from a page; `None` if its commands and answers have other sizes than this driver's.
    pub(crate) fn read(page: &impl DmaMemory) -> Option<Self> {
        let limit = page.load8(77);
        // The least size in the lower half, the largest in the upper.
        let fits = |at, shift: u8| {
            let sizes: u8 = page.load8(at);
            (sizes & 0xf..=sizes >> 4).contains(&shift)
        };
        (fits(512, COMMAND_SHIFT) && fits(513, ANSWER_SHIFT)).then_some(())?;
        Some(Self {
            // In pages of the least size, which is ours. A limit that no number can say is none.
            max_bytes: (limit != 0)
                .then(|| 4096_u64.checked_mul(1_u64.checked_shl(limit.into())?))
                .flatten(),
            has_cache: page.load8(525) & 1 != 0,
            can_manage: page.load16(520) & 1 << 2 != 0,
        })
    }
}

/// The disk that a namespace is; `None` if it has no blocks that can be driven, or what it says makes no sense. What the queue can do is not in it.
pub(crate) fn geometry(page: &impl DmaMemory, controller: Controller) -> Option<Geometry> {
    let format = page.load8(26);
    let index = format & 0xf | (format >> 5 & 3) << 4;
    if index > page.load8(25) {
        return None;
    }
    let format = page.load32(usize::from(index).wrapping_mul(4).wrapping_add(128));
    let [metadata, metadata_high, shift, _] = format.to_le_bytes();
    // Blocks with metadata behind them are another matter.
    if (metadata, metadata_high) != (0, 0) || !(9..=12).contains(&shift) {
        return None;
    }
    let logical_block = 1_u32 << shift;
    let block_sectors = logical_block / SECTOR;
    let sectors = page.load64(0).checked_mul(block_sectors.into())?;
    if !(1..=MAX_SECTORS).contains(&sectors) {
        return None;
    }
    // Sizes that are counted from 0, in blocks, if it says any.
    let has_sizes = page.load8(24) & 1 << 4 != 0;
    let preferred = |at| {
        let blocks = if has_sizes {
            u32::from(page.load16(at)).saturating_add(1)
        } else {
            1
        };
        blocks.saturating_mul(block_sectors)
    };
    let written = preferred(64).saturating_mul(SECTOR);
    // What a request has room for: 64 segments, or fewer if the controller takes less.
    let max_bytes = controller
        .max_bytes
        .unwrap_or(u64::MAX)
        .min(u64::from(MAX_SEGMENTS).saturating_mul(4096));
    Some(Geometry {
        sectors,
        logical_block,
        physical_block: if written.is_power_of_two() {
            written
        } else {
            logical_block
        },
        // Write protected, for now or for good.
        read_only: page.load8(99) & 1 != 0,
        write_cache: controller.has_cache,
        discard: controller.can_manage.then_some(Discard {
            max_sectors: MAX_DISCARD,
            granularity: preferred(68),
        }),
        max_segments: MAX_SEGMENTS,
        max_sectors: u32::try_from(max_bytes).ok()? / SECTOR,
        depth: 0,
    })
}

/// The most segments of a request. What follows the first page of a command is in a list of so many places at most.
pub(crate) const MAX_SEGMENTS: u16 = 64;

/// The most sectors that are discarded at a time: 2 GiB, in whole blocks of any size.
const MAX_DISCARD: u32 = 1 << 22;
