//! What the hypervisor keeps for domain 0's devices: the tree of what these may reach, which grows by what domain 0 holds for a device, whether it has
//! any or not, and lasts as long as the domain. `hypervisor/core/src/dma` has it.

use alloc::collections::BTreeSet;

/// The tree's levels, on a machine without an IOMMU.
const LEVELS: u32 = 4;

/// The tables of domain 0's tree: by their level, from 1 for the leaves, and which of the level's they are.
#[derive(Debug, Default)]
pub(crate) struct Reach(BTreeSet<(u32, u64)>);

impl Reach {
    /// An address has been in the tree. Returns how many frames the tree is larger since.
    pub(crate) fn grow(&mut self, address: u64) -> u64 {
        let mut frames = 0_u64;
        for level in 1..=LEVELS {
            let covered = level.saturating_mul(9).saturating_add(12);
            if self.0.insert((level, address.unbounded_shr(covered))) {
                // A leaf has its counts beside it.
                frames = frames.saturating_add(if level == 1 { 2 } else { 1 });
            }
        }
        frames
    }
}
