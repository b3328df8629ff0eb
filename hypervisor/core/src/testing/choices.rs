//! Where a random test gets its decisions from: a seed, or a fuzzer's bytes.

use alloc::collections::VecDeque;

/// A stream of decisions.
#[derive(Clone, Debug)]
pub enum Choices {
    /// Drawn from a generator (SplitMix64: Steele, Lea, Flood, OOPSLA 2014), which never ends.
    Seeded(u64),
    /// Taken from bytes; all zero once they have run out.
    Bytes(VecDeque<u8>),
}

impl Choices {
    /// Whether there is nothing more to decide by.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        match self {
            Self::Seeded(_) => false,
            Self::Bytes(bytes) => bytes.is_empty(),
        }
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.take(8)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        // What a fuzzer decides should cost it few bytes.
        let bytes = if end <= 1 << 8 { 1 } else { 8 };
        let drawn = match self {
            Self::Seeded(_) => self.take(8),
            Self::Bytes(_) => self.take(bytes),
        };
        drawn % end
    }

    /// One of `items`, of which there is at least one.
    pub fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[usize::try_from(self.below(items.len() as u64)).unwrap()]
    }

    /// True in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn take(&mut self, len: usize) -> u64 {
        match self {
            Self::Seeded(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            }
            Self::Bytes(bytes) => {
                let mut word = [0; 8];
                for (to, from) in word
                    .iter_mut()
                    .take(len)
                    .zip(core::iter::from_fn(|| bytes.pop_front()))
                {
                    *to = from;
                }
                u64::from_le_bytes(word)
            }
        }
    }
}
