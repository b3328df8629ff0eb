//! Virtual block devices: which sectors of a disk a guest may use, and how.
//!
//! A [`Vbd`] is checked once, when it is made. Afterwards [`Vbd::translate`] answers for any range, from whomever, with places inside its
//! extents or with nothing.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// The most extents that a VBD has.
pub const MAX_EXTENTS: usize = 1024;

/// Sectors of 512 bytes, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first.
    pub first: u64,
    /// How many.
    pub sectors: u64,
}

impl Extent {
    /// The sector behind the last one, if there is such a number.
    fn end(self) -> Option<u64> {
        self.first.checked_add(self.sectors)
    }

    /// Whether a sector is in both. Extents that end nowhere overlap with all.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        match (self.end(), other.end()) {
            (Some(end), Some(other_end)) => self.first < other_end && other.first < end,
            _ => true,
        }
    }
}

/// What may be done with a VBD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    ReadOnly,
    /// Reading, writing, discarding.
    ReadWrite,
}

/// Why extents make no VBD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VbdError {
    /// There are none, or more than [`MAX_EXTENTS`].
    Count(usize),
    /// This one has no sectors, or does not begin and end with a logical block.
    Shape(Extent),
    /// This one ends behind the disk, which has so many sectors.
    Outside(Extent, u64),
    /// These two have sectors in common.
    Overlap(Extent, Extent),
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, sectors } = self;
        write!(f, "{sectors} sectors from {first} on")
    }
}

impl fmt::Display for VbdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count} extents make no disk; 1 to {MAX_EXTENTS} do"),
            Self::Shape(extent) => write!(f, "an extent of {extent} is not made of the disk's blocks"),
            Self::Outside(extent, sectors) => write!(
                f,
                "an extent of {extent} does not fit on a disk of {sectors} sectors"
            ),
            Self::Overlap(one, other) => {
                write!(f, "two extents have sectors in common: {one}, and {other}")
            }
        }
    }
}

impl core::error::Error for VbdError {}

/// A virtual block device: extents of a disk, and what may be done with them.
///
/// It begins and ends, and each of its extents does, with a logical block of the disk; no two extents have a sector in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vbd {
    /// Each extent with the VBD's sector that it begins with, ascending and without gaps.
    extents: Box<[(u64, Extent)]>,
    sectors: u64,
    access: Access,
}

impl Vbd {
    /// Makes a VBD of extents of a disk that has `sectors` sectors and logical blocks of `block` bytes.
    ///
    /// # Errors
    ///
    /// [`VbdError`] says which extent cannot be.
    pub fn new(extents: &[Extent], access: Access, sectors: u64, block: u32) -> Result<Self, VbdError> {
        if extents.is_empty() || extents.len() > MAX_EXTENTS {
            return Err(VbdError::Count(extents.len()));
        }
        let block = u64::from(block / bulkhead_devices::disk::SECTOR).max(1);
        let mut placed = Vec::with_capacity(extents.len());
        let mut total = 0_u64;
        for extent in extents {
            if extent.sectors == 0
                || !extent.first.is_multiple_of(block)
                || !extent.sectors.is_multiple_of(block)
            {
                return Err(VbdError::Shape(*extent));
            }
            if extent.end().is_none_or(|end| end > sectors) {
                return Err(VbdError::Outside(*extent, sectors));
            }
            placed.push((total, *extent));
            // Extents that are on a disk and apart from each other are no more than the disk; those that are not, are refused below.
            total = total.saturating_add(extent.sectors);
        }
        let mut by_place: Vec<&Extent> = extents.iter().collect();
        by_place.sort_unstable_by_key(|extent| extent.first);
        for pair in by_place.windows(2) {
            if let [one, other] = pair
                && one.overlaps(**other)
            {
                return Err(VbdError::Overlap(**one, **other));
            }
        }
        Ok(Self {
            extents: placed.into(),
            sectors: total,
            access,
        })
    }

    /// How many sectors it has.
    #[must_use]
    pub const fn sectors(&self) -> u64 {
        self.sectors
    }

    /// What may be done with it.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// Whether the two have a sector in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.extents
            .iter()
            .any(|(_, one)| other.extents.iter().any(|(_, two)| one.overlaps(*two)))
    }

    /// Where on the disk `sectors` sectors of the VBD lie, from `first` on, in their order; `None` if one of them is not the VBD's, or if there are
    /// none.
    #[must_use]
    pub fn translate(&self, first: u64, sectors: u64) -> Option<Pieces<'_>> {
        let end = first.checked_add(sectors)?;
        if sectors == 0 || end > self.sectors {
            return None;
        }
        let at = self
            .extents
            .partition_point(|(start, _)| *start <= first)
            .checked_sub(1)?;
        Some(Pieces {
            extents: self.extents.get(at..)?,
            first,
            end,
        })
    }
}

/// The places on a disk of a range of a VBD.
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    /// Those that are left; the first has `first` in it.
    extents: &'a [(u64, Extent)],
    first: u64,
    end: u64,
}

impl Iterator for Pieces<'_> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        if self.first >= self.end {
            return None;
        }
        let ((start, extent), rest) = self.extents.split_first()?;
        let skipped = self.first.checked_sub(*start)?;
        let sectors = extent
            .sectors
            .checked_sub(skipped)?
            .min(self.end.checked_sub(self.first)?);
        self.extents = rest;
        self.first = self.first.checked_add(sectors)?;
        Some(Extent {
            first: extent.first.checked_add(skipped)?,
            sectors,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "a test fails by panicking"
    )]

    use proptest::prelude::*;

    use super::*;

    const DISK: u64 = 4096;

    fn extent(first: u64, sectors: u64) -> Extent {
        Extent { first, sectors }
    }

    fn vbd(extents: &[Extent]) -> Vbd {
        Vbd::new(extents, Access::ReadWrite, DISK, 512).unwrap()
    }

    fn pieces(vbd: &Vbd, first: u64, sectors: u64) -> Option<Vec<Extent>> {
        Some(vbd.translate(first, sectors)?.collect())
    }

    #[test]
    fn a_range_is_found_where_its_extents_lie_and_nowhere_else() {
        let vbd = vbd(&[extent(100, 10), extent(50, 1), extent(4090, 6)]);
        assert_eq!(vbd.sectors(), 17);
        assert_eq!(pieces(&vbd, 0, 10), Some(vec![extent(100, 10)]));
        assert_eq!(
            pieces(&vbd, 9, 3),
            Some(vec![extent(109, 1), extent(50, 1), extent(4090, 1)])
        );
        assert_eq!(pieces(&vbd, 16, 1), Some(vec![extent(4095, 1)]));
        assert_eq!(pieces(&vbd, 16, 2), None);
        assert_eq!(pieces(&vbd, 17, 1), None);
        assert_eq!(pieces(&vbd, 3, 0), None);
        assert_eq!(pieces(&vbd, u64::MAX, 1), None);
        assert_eq!(pieces(&vbd, u64::MAX, u64::MAX), None);
        assert_eq!(pieces(&vbd, 1, u64::MAX), None);
    }

    #[test]
    fn extents_that_cannot_be_are_refused_with_the_one_that_is_at_fault() {
        let refused =
            |extents: &[Extent], block| Vbd::new(extents, Access::ReadOnly, DISK, block).unwrap_err();
        assert_eq!(refused(&[], 512), VbdError::Count(0));
        assert_eq!(refused(&[extent(0, 1); 1025], 512), VbdError::Count(1025));
        assert_eq!(refused(&[extent(1, 0)], 512), VbdError::Shape(extent(1, 0)));
        assert_eq!(refused(&[extent(8, 4)], 4096), VbdError::Shape(extent(8, 4)));
        assert_eq!(refused(&[extent(4, 8)], 4096), VbdError::Shape(extent(4, 8)));
        assert_eq!(
            refused(&[extent(4090, 7)], 512),
            VbdError::Outside(extent(4090, 7), DISK)
        );
        assert_eq!(
            refused(&[extent(u64::MAX, 2)], 512),
            VbdError::Outside(extent(u64::MAX, 2), DISK)
        );
        assert_eq!(
            refused(&[extent(20, 10), extent(0, 5), extent(11, 10)], 512),
            VbdError::Overlap(extent(11, 10), extent(20, 10))
        );
    }

    #[test]
    fn vbds_overlap_if_they_share_a_sector() {
        let one = vbd(&[extent(0, 10), extent(100, 10)]);
        assert!(one.overlaps(&vbd(&[extent(109, 1)])));
        assert!(!one.overlaps(&vbd(&[extent(110, 1), extent(10, 90)])));
    }

    /// Extents apart from each other, in any order.
    fn any_extents() -> impl Strategy<Value = Vec<Extent>> {
        prop::collection::vec((0..40_u64, 1..40_u64), 1..30)
            .prop_map(|gaps| {
                let mut end = 0;
                gaps.iter()
                    .map(|(gap, sectors)| {
                        let extent = extent(end + gap, *sectors);
                        end = extent.first + extent.sectors;
                        extent
                    })
                    .collect::<Vec<_>>()
            })
            .prop_shuffle()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_range_is_translated_as_sector_by_sector(
            extents in any_extents(),
            first in 0..1300_u64,
            sectors in 0..200_u64,
        ) {
            let naive: Vec<u64> = extents.iter().flat_map(|e| e.first..e.first + e.sectors).collect();
            let expected = naive
                .get(first as usize..(first + sectors) as usize)
                .filter(|sectors| !sectors.is_empty());
            let vbd = vbd(&extents);
            let found: Option<Vec<u64>> =
                vbd.translate(first, sectors).map(|pieces| pieces.flat_map(|e| e.first..e.first + e.sectors).collect());
            prop_assert_eq!(found.as_deref(), expected);
        }

        #[test]
        fn no_numbers_lead_outside(extents in any_extents(), first: u64, sectors: u64) {
            if let Some(pieces) = vbd(&extents).translate(first, sectors) {
                for piece in pieces {
                    let inside = |e: &Extent| e.first <= piece.first && piece.end().unwrap() <= e.end().unwrap();
                    prop_assert!(extents.iter().any(inside));
                }
            }
        }
    }
}
