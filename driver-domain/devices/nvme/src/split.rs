//! Requests as commands.
//!
//! A command names memory by pages (section B 4.1.1): the first piece may begin anywhere in its page, and all but the last end with it; the others
//! begin where pages do. A request whose segments are not so becomes several commands.

use core::iter::from_fn;

use bulkhead_devices::disk::{SECTOR, Segment};

const PAGE: u64 = 4096;

/// Cuts segments into those of a command each, and says at which sector of the request it begins.
pub(crate) fn split(segments: &[Segment]) -> impl Iterator<Item = (u64, &[Segment])> {
    let mut rest = segments;
    let mut sector = 0_u64;
    from_fn(move || {
        let count = segments_of_one(rest);
        let (command, after) = rest
            .split_at_checked(count)
            .filter(|(command, _)| !command.is_empty())?;
        rest = after;
        let first = sector;
        sector = sector.saturating_add(sectors(command).into());
        Some((first, command))
    })
}

/// How many sectors segments have together.
pub(crate) fn sectors(segments: &[Segment]) -> u32 {
    let sectors = segments.iter().map(|segment| segment.bytes / SECTOR);
    sectors.fold(0, u32::saturating_add)
}

/// How many segments from the first on one command names.
fn segments_of_one(segments: &[Segment]) -> usize {
    let ends_with_page = |segment: &Segment| end(segment).is_multiple_of(PAGE);
    let begins_with_page = |segment: &Segment| segment.address.0.is_multiple_of(PAGE);
    let joints = segments.iter().zip(segments.iter().skip(1));
    let joined = joints.take_while(|(one, next)| ends_with_page(one) && begins_with_page(next));
    joined.count().saturating_add(1).min(segments.len())
}

fn end(segment: &Segment) -> u64 {
    segment.address.0.wrapping_add(segment.bytes.into())
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use bulkhead_devices::BusAddress;
    use proptest::prelude::*;

    use super::*;

    fn segment(address: u64, bytes: u32) -> Segment {
        Segment {
            address: BusAddress(address),
            bytes,
        }
    }

    fn lengths(segments: &[Segment]) -> Vec<(u64, usize)> {
        split(segments)
            .map(|(first, command)| (first, command.len()))
            .collect()
    }

    #[test]
    fn whole_pages_are_one_command() {
        let pages: Vec<_> = (0..64).map(|n| segment(n * 0x3000, 4096)).collect();
        assert_eq!(lengths(&pages), [(0, 64)]);
        assert_eq!(lengths(&pages[..1]), [(0, 1)]);
        assert_eq!(lengths(&[]), []);
    }

    #[test]
    fn the_first_may_begin_and_the_last_end_within_a_page() {
        let segments = [segment(0x1e00, 512), segment(0x3000, 4096), segment(0x9000, 1024)];
        assert_eq!(lengths(&segments), [(0, 3)]);
    }

    #[test]
    fn what_has_gaps_is_several_commands() {
        let segments = [
            segment(0x1000, 512),
            segment(0x2000, 4096),
            segment(0x3200, 3584),
            segment(0x4000, 2048),
            segment(0x4800, 2048),
        ];
        assert_eq!(lengths(&segments), [(0, 1), (1, 1), (9, 2), (20, 1)]);
    }

    proptest! {
        #[test]
        fn commands_have_all_segments_in_order_and_no_gaps(
            segments in prop::collection::vec((0_u64..50, 0_u64..8, 1_u32..=8), 0..20)
        ) {
            let segments: Vec<_> = segments
                .into_iter()
                .map(|(page, first, count)| {
                    let bytes = (u64::from(count) * 512).min(PAGE - first * 512);
                    segment(page * PAGE + first * 512, u32::try_from(bytes).unwrap())
                })
                .collect();
            let mut at = 0;
            let mut sector = 0;
            for (first, command) in split(&segments) {
                prop_assert_eq!(first, sector);
                prop_assert_eq!(command, &segments[at..at + command.len()]);
                for pair in command.windows(2) {
                    prop_assert!(end(&pair[0]).is_multiple_of(PAGE));
                    prop_assert!(pair[1].address.0.is_multiple_of(PAGE));
                }
                at += command.len();
                sector += u64::from(sectors(command));
                // As few as can be.
                if let Some(next) = segments.get(at) {
                    let last = end(&segments[at - 1]);
                    prop_assert!(!(last.is_multiple_of(PAGE) && next.address.0.is_multiple_of(PAGE)));
                }
            }
            prop_assert_eq!(at, segments.len());
        }
    }
}
