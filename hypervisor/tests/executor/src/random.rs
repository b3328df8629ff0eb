//! Random numbers that are the same in each run.

/// A linear congruential generator (Knuth's MMIX constants), of which the upper half is used.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`, which is not zero and fits in 32 bits.
    pub(super) const fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32).wrapping_mul(limit) >> 32
    }
}
