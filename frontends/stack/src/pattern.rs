//! Bytes that look like any, and are always the same.

/// An endless row of bytes, from wherever one likes: the same on every machine.
///
/// Each eight of them are what SplitMix64 makes of their number (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    position: u64,
}

impl Pattern {
    /// The row from its beginning.
    #[must_use]
    pub const fn new() -> Self {
        Self { position: 0 }
    }

    /// Fills `bytes` with those that come next.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let word = word(self.position / 8).to_le_bytes();
            let skipped = usize::try_from(self.position % 8).unwrap_or(0);
            let next = word.get(skipped..).unwrap_or_default();
            let count = next.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(next.get(..count).unwrap_or_default());
            self.position = self.position.wrapping_add(count as u64);
            rest = later;
        }
    }

    /// The CRC-32 of the first so many bytes. Others are let pass while it is made.
    pub async fn checksum(bytes: u64) -> u32 {
        let mut pattern = Self::new();
        let mut sum = crc32fast::Hasher::new();
        let mut buffer = alloc::vec![0; 1 << 14];
        let mut left = bytes;
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..count).unwrap_or_default();
            pattern.fill(part);
            sum.update(part);
            left = left.saturating_sub(count as u64);
            embassy_futures::yield_now().await;
        }
        sum.finalize()
    }
}

const fn word(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_is_the_same_in_pieces_of_any_size() {
        let mut whole = [0; 1000];
        Pattern::new().fill(&mut whole);
        let mut pieces = Vec::new();
        let mut pattern = Pattern::new();
        for size in [0, 1, 7, 8, 9, 100, 3].into_iter().cycle() {
            let mut piece = vec![0; size];
            pattern.fill(&mut piece);
            pieces.extend(piece);
            if pieces.len() >= whole.len() {
                break;
            }
        }
        assert_eq!(pieces[..1000], whole);
        // The first that SplitMix64 gives for the seed 0.
        assert_eq!(whole[..8], 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
    }

    #[test]
    fn the_checksum_is_that_of_the_bytes() {
        let mut bytes = vec![0; 100_000];
        Pattern::new().fill(&mut bytes);
        let sum = embassy_futures::block_on(Pattern::checksum(100_000));
        assert_eq!(sum, crc32fast::hash(&bytes));
    }
}
