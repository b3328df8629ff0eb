//! A bounded set of numbers, kept as sorted, disjoint, non-adjacent ranges.
//!
//! The boot code keeps bytes of physical memory and, after that, frame numbers in it. It never allocates.

use core::ops::Range;

use heapless::Vec;

/// There is no room for one more range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A set of `u64`, as at most `N` ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges<const N: usize> {
    sorted: Vec<Range<u64>, N>,
}

impl<const N: usize> Ranges<N> {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { sorted: Vec::new() }
    }

    /// The ranges, lowest first.
    pub fn iter(&self) -> core::slice::Iter<'_, Range<u64>> {
        self.sorted.iter()
    }

    /// How many numbers are in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.iter()
            .map(|range| range.end.saturating_sub(range.start))
            .sum()
    }

    /// Whether the set has no number.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// One past the largest number, or 0 if there is none.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.sorted.last().map_or(0, |range| range.end)
    }

    /// Whether all of `range` is in the set.
    #[must_use]
    pub fn contains(&self, range: &Range<u64>) -> bool {
        range.is_empty()
            || self
                .iter()
                .any(|held| held.start <= range.start && range.end <= held.end)
    }

    /// Adds every number of `range`.
    ///
    /// # Errors
    ///
    /// [`Full`] if the set would need more than `N` ranges; it is then unchanged.
    pub fn insert(&mut self, range: Range<u64>) -> Result<(), Full> {
        if range.is_empty() {
            return Ok(());
        }
        let mut merged = range;
        let mut next = Self::new();
        let mut after = Vec::<Range<u64>, N>::new();
        for held in self.iter() {
            if held.end < merged.start {
                next.push(held.clone())?;
            } else if merged.end < held.start {
                after.push(held.clone()).map_err(|_| Full)?;
            } else {
                merged = merged.start.min(held.start)..merged.end.max(held.end);
            }
        }
        next.push(merged)?;
        for held in after {
            next.push(held)?;
        }
        *self = next;
        Ok(())
    }

    /// Takes every number of `range` out.
    ///
    /// # Errors
    ///
    /// [`Full`] if the set would need more than `N` ranges; it is then unchanged.
    pub fn remove(&mut self, range: &Range<u64>) -> Result<(), Full> {
        if range.is_empty() {
            return Ok(());
        }
        let mut next = Self::new();
        for held in self.iter() {
            let below = held.start..held.end.min(range.start);
            let above = held.start.max(range.end)..held.end;
            if below.is_empty() && above.is_empty() {
                continue;
            }
            if !below.is_empty() {
                next.push(below)?;
            }
            if !above.is_empty() {
                next.push(above)?;
            }
        }
        *self = next;
        Ok(())
    }

    /// Takes out `count` adjacent numbers, the first a multiple of `align` (a power of two) and all below
    /// `limit`, and returns the first. The highest that fit are taken: what is low is scarce (devices with short
    /// addresses want it).
    pub fn take_highest(&mut self, count: u64, align: u64, limit: u64) -> Option<u64> {
        let found = self.iter().rev().find_map(|held| {
            let end = held.end.min(limit);
            let start = end.checked_sub(count)? & !align.checked_sub(1)?;
            (start >= held.start).then_some(start)
        })?;
        self.remove(&(found..found.checked_add(count)?)).ok()?;
        Some(found)
    }

    /// The range with the fewest numbers; of several, the lowest.
    #[must_use]
    pub fn smallest(&self) -> Option<Range<u64>> {
        self.iter()
            .min_by_key(|range| range.end.saturating_sub(range.start))
            .cloned()
    }

    /// Adds the numbers between the two ranges that are nearest to each other, so that they become one.
    pub fn close_smallest_gap(&mut self) {
        let gaps = self.iter().zip(self.iter().skip(1));
        let gaps = gaps.map(|(low, high)| low.end..high.start);
        if let Some(gap) = gaps.min_by_key(|gap| gap.end.saturating_sub(gap.start)) {
            // What joins two ranges needs no room.
            let _ = self.insert(gap);
        }
    }

    fn push(&mut self, range: Range<u64>) -> Result<(), Full> {
        self.sorted.push(range).map_err(|_| Full)
    }
}

impl<const N: usize> IntoIterator for Ranges<N> {
    type Item = Range<u64>;
    type IntoIter = <Vec<Range<u64>, N> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        self.sorted.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u64, u64)]) -> Ranges<4> {
        let mut set = Ranges::new();
        for &(start, end) in ranges {
            set.insert(start..end).unwrap();
        }
        set
    }

    #[test]
    fn overlapping_and_adjacent_ranges_become_one() {
        assert_eq!(set(&[(10, 20), (20, 30), (5, 11)]), set(&[(5, 30)]));
        assert_eq!(set(&[(0, 1), (2, 3), (4, 5), (1, 4)]), set(&[(0, 5)]));
    }

    #[test]
    fn ranges_are_sorted_whatever_the_order_of_insertion() {
        let set = set(&[(40, 50), (0, 10), (20, 30)]);
        assert!(set.iter().cloned().eq([0..10, 20..30, 40..50]));
    }

    #[test]
    fn removing_the_middle_leaves_both_sides() {
        let mut set = set(&[(0, 100)]);
        set.remove(&(40..60)).unwrap();
        assert!(set.iter().cloned().eq([0..40, 60..100]));
        assert_eq!(set.len(), 80);
        assert!(!set.contains(&(39..41)));
        assert!(set.contains(&(60..100)));
    }

    #[test]
    fn a_set_that_cannot_hold_the_result_stays_as_it_was() {
        let mut set = set(&[(0, 10), (20, 30), (40, 50), (60, 70)]);
        let before = set.clone();
        assert_eq!(set.insert(80..90), Err(Full));
        assert_eq!(set.remove(&(3..4)), Err(Full));
        assert_eq!(set, before);
        assert_eq!(set.insert(5..65), Ok(()));
    }

    #[test]
    fn taking_gives_the_highest_aligned_place_below_the_limit() {
        let mut set = set(&[(0, 100), (200, 300)]);
        assert_eq!(set.take_highest(10, 1, u64::MAX), Some(290));
        assert_eq!(set.take_highest(10, 1, 250), Some(240));
        assert_eq!(set.take_highest(16, 16, 200), Some(80));
        assert_eq!(set.take_highest(200, 1, u64::MAX), None);
    }

    #[test]
    fn what_was_taken_is_no_longer_in_the_set() {
        let mut set = set(&[(0, 100)]);
        let start = set.take_highest(10, 1, u64::MAX).unwrap();
        assert_eq!(set.len(), 90);
        assert!(!set.contains(&(start..start + 1)));
    }

    #[test]
    fn the_smallest_range_and_the_smallest_gap_are_found() {
        let mut set = set(&[(0, 10), (20, 25), (28, 40), (100, 105)]);
        assert_eq!(set.smallest(), Some(20..25));
        set.close_smallest_gap();
        assert!(set.iter().cloned().eq([0..10, 20..40, 100..105]));
        let mut empty = Ranges::<4>::new();
        assert_eq!(empty.smallest(), None);
        empty.close_smallest_gap();
        assert!(empty.is_empty());
    }

    /// Compares with the obvious model, a bit for each number, over histories from a fixed seed.
    #[test]
    fn a_random_history_agrees_with_a_bitmap() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        for _ in 0..200 {
            let mut set = Ranges::<8>::new();
            let mut model = 0_u64;
            for _ in 0..50 {
                let start = random(64);
                let range = start..start + random(64 - start) + 1;
                let mask = range.clone().fold(0, |mask, bit| mask | 1 << bit);
                if random(2) == 0 {
                    if set.insert(range).is_ok() {
                        model |= mask;
                    }
                } else if set.remove(&range).is_ok() {
                    model &= !mask;
                }
                let seen = set.iter().cloned().flatten().fold(0, |seen, bit| seen | 1 << bit);
                assert_eq!(seen, model);
                assert_eq!(set.len(), u64::from(model.count_ones()));
                assert!(
                    set.iter()
                        .zip(set.iter().skip(1))
                        .all(|(low, high)| low.end < high.start)
                );
            }
        }
    }
}
