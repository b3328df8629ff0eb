//! Numbers that look random.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "whoever asks for what cannot be fails the test"
)]

use alloc::vec::Vec;

/// Numbers that look random (xorshift), the same for the same seed; or a fuzzer's bytes, and then zeros.
#[derive(Clone, Debug)]
pub enum Dice {
    /// The state, not zero.
    Seed(u64),
    /// What is left.
    Bytes(Vec<u8>),
}

impl Dice {
    /// Dice for a test's seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::Seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        let number = match self {
            Self::Seed(state) => {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                *state >> 11
            }
            Self::Bytes(bytes) => {
                let mut next = || u64::from(bytes.pop().unwrap_or(0));
                if limit > 256 { next() << 8 | next() } else { next() }
            }
        };
        number % limit.max(1)
    }

    /// Whether one of so many times.
    pub fn one_of(&mut self, times: u64) -> bool {
        self.below(times) == times - 1
    }
}
