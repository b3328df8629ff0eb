//! Contents that tell where they belong.
//!
//! A sector of the pattern begins with its number and the seed, in little-endian words of 64 bits; the other words are made of both. So what
//! lies in the wrong place, or is of an earlier run, is told from what is damaged.

use bulkhead_abi::blkif::SECTOR_SIZE;

/// What is wrong with a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It holds what belongs into this sector, of this seed, whole.
    Stray {
        /// The sector.
        sector: u64,
        /// The seed.
        seed: u64,
    },
    /// It holds nothing but zeros.
    Zeros,
    /// It holds this byte at this place, where another belongs, and is no other sector's.
    Damaged {
        /// The place.
        at: usize,
        /// The byte.
        byte: u8,
    },
}

/// What belongs into a sector.
#[must_use]
pub fn sector(seed: u64, number: u64) -> [u8; SECTOR_SIZE] {
    let mut bytes = [0; SECTOR_SIZE];
    let mut state = mix(seed ^ mix(number));
    for (index, word) in bytes.as_chunks_mut().0.iter_mut().enumerate() {
        state = mix(state);
        let value = match index {
            0 => number,
            1 => seed,
            _ => state,
        };
        *word = value.to_le_bytes();
    }
    bytes
}

/// Fills whole sectors, from this number on.
pub fn fill(seed: u64, first: u64, bytes: &mut [u8]) {
    for (part, number) in bytes.chunks_exact_mut(SECTOR_SIZE).zip(first..) {
        part.copy_from_slice(&sector(seed, number));
    }
}

/// The first of these sectors that is wrong: its number, and how.
#[must_use]
pub fn check(seed: u64, first: u64, bytes: &[u8]) -> Option<(u64, Wrong)> {
    bytes
        .chunks_exact(SECTOR_SIZE)
        .zip(first..)
        .find_map(|(part, number)| Some((number, wrong(seed, number, part)?)))
}

fn wrong(seed: u64, number: u64, part: &[u8]) -> Option<Wrong> {
    let expected = sector(seed, number);
    let mut pairs = part.iter().zip(&expected).enumerate();
    let (at, (byte, _)) = pairs.find(|(_, (found, expected))| found != expected)?;
    if part.iter().all(|byte| *byte == 0) {
        return Some(Wrong::Zeros);
    }
    let (words, _) = part.as_chunks();
    if let [claimed, of, ..] = words {
        let (claimed, of) = (u64::from_le_bytes(*claimed), u64::from_le_bytes(*of));
        if sector(of, claimed) == part {
            return Some(Wrong::Stray {
                sector: claimed,
                seed: of,
            });
        }
    }
    Some(Wrong::Damaged { at, byte: *byte })
}

/// Numbers that are near each other give numbers that are not (the finalizer of splitmix64).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(seed: u64, first: u64) -> Vec<u8> {
        let mut bytes = vec![0; 8 * SECTOR_SIZE];
        fill(seed, first, &mut bytes);
        bytes
    }

    #[test]
    fn what_was_filled_is_right_and_says_where_it_belongs() {
        let bytes = filled(7, 100);
        assert_eq!(check(7, 100, &bytes), None);
        assert_eq!(
            bytes[512..528],
            [101_u64.to_le_bytes(), 7_u64.to_le_bytes()].concat()
        );
    }

    #[test]
    fn what_is_wrong_is_told_by_kind() {
        let mut stray = filled(7, 100);
        stray[1024..1536].copy_from_slice(&sector(7, 555));
        assert_eq!(
            check(7, 100, &stray),
            Some((102, Wrong::Stray { sector: 555, seed: 7 }))
        );
        assert_eq!(
            check(8, 100, &stray),
            Some((100, Wrong::Stray { sector: 100, seed: 7 }))
        );
        let mut damaged = filled(7, 100);
        damaged[512 + 300] ^= 0x40;
        let byte = damaged[812];
        assert_eq!(
            check(7, 100, &damaged),
            Some((101, Wrong::Damaged { at: 300, byte }))
        );
        damaged[..512].fill(0);
        assert_eq!(check(7, 100, &damaged), Some((100, Wrong::Zeros)));
    }

    #[test]
    fn no_two_sectors_are_alike_behind_their_names() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..8 {
            for number in 0..200 {
                assert!(seen.insert(sector(seed, number)[16..].to_vec()));
            }
        }
    }
}
