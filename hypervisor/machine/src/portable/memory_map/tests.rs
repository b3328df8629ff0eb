//! Maps as firmware writes them, and worse.
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use core::iter::once;

use super::*;

extern crate std;
use std::vec::Vec;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const MIB: u64 = 1 << 20;

fn ram(start: u64, len: u64) -> Entry {
    Entry {
        start,
        len,
        kind: Kind::Ram,
    }
}

fn other(start: u64, len: u64) -> Entry {
    Entry {
        start,
        len,
        kind: Kind::Other,
    }
}

fn map(entries: &[Entry]) -> MemoryMap {
    let mut survey = Survey::default();
    entries.iter().for_each(|entry| survey.note(entry));
    MemoryMap::of(&survey)
}

#[test]
fn ram_shrinks_to_whole_frames() {
    assert!(map(&[ram(0x800, 0x2000)]).ram().cloned().eq(once(1..2)));
}

#[test]
fn pieces_that_meet_inside_a_frame_lose_nothing() {
    let map = map(&[ram(0x1800, 0x1800), ram(0, 0x1800)]);
    assert!(map.ram().cloned().eq(once(0..3)));
}

#[test]
fn what_any_entry_reserves_is_not_ram() {
    let map = map(&[other(MIB, 0x1001), ram(0, 2 * MIB)]);
    assert!(map.ram().cloned().eq([0..256, 258..512]));
    assert_eq!(map.frames(), 510);
}

#[test]
fn the_map_that_is_told_has_each_byte_once() {
    let mut survey = Survey::default();
    for entry in [other(MIB, 0x1001), ram(0, 2 * MIB)] {
        survey.note(&entry);
    }
    let told: Vec<Entry> = survey.entries().collect();
    assert_eq!(
        told,
        [ram(0, MIB), ram(MIB + 0x1001, MIB - 0x1001), other(MIB, 0x1001)]
    );
}

#[test]
fn a_reserved_range_far_above_does_not_raise_the_limit() {
    let map = map(&[ram(0, MIB), other(0xfd_0000_0000, 12 << 30)]);
    assert_eq!(map.frame_limit(), 256);
}

#[test]
fn ram_beyond_the_direct_map_is_counted_and_left_out() {
    let map = map(&[ram(DIRECT_MAP_SIZE - MIB, 3 * MIB)]);
    assert_eq!(map.frames(), 256);
    assert_eq!(map.unreachable_frames(), 512);
    assert_eq!(map.scattered_frames(), 0);
}

#[test]
fn an_entry_that_wraps_is_cut_at_the_end_of_the_address_space() {
    let wrapping = map(&[ram(0, MIB), other(u64::MAX - 10, 100)]);
    assert_eq!(wrapping.frames(), 256);
    let endless = map(&[ram(0, u64::MAX), other(0x1800, u64::MAX)]);
    assert!(endless.ram().cloned().eq(once(0..1)));
}

#[test]
fn a_machine_without_ram_has_an_empty_map() {
    for empty in [map(&[]), map(&[ram(5, 0)]), map(&[ram(0x1001, 0xffe)])] {
        assert_eq!((empty.frames(), empty.frame_limit()), (0, 0));
    }
}

/// UEFI splits RAM by its former use and lists it in any order; what fits together again counts as one.
#[test]
fn hundreds_of_adjacent_entries_are_one_range() {
    let entries: Vec<Entry> = (0..1000).rev().map(|page| ram(page * 0x1000, 0x1000)).collect();
    assert!(map(&entries).ram().cloned().eq(once(0..1000)));
}

/// Islands of RAM, each of a frame more than the one before.
fn islands(count: u64) -> Vec<Entry> {
    (0..count).map(|n| ram(n * MIB, (n + 1) * 0x1000)).collect()
}

#[test]
fn of_too_many_pieces_the_smallest_are_left_out_and_counted() {
    let many = MAX_PIECES as u64 + 20;
    let scattered = map(&islands(many));
    assert_eq!(scattered.ram().count(), MAX_PIECES);
    assert_eq!(scattered.ram().next(), Some(&(20 * 256..20 * 256 + 21)));
    assert_eq!(scattered.scattered_frames(), (1..=20).sum());

    let mut too_many = islands(2 * MAX_RANGES as u64);
    too_many.reverse();
    let scattered = map(&too_many);
    assert_eq!(
        scattered.frame_limit(),
        (2 * MAX_RANGES as u64 - 1) * 256 + 2 * MAX_RANGES as u64
    );
}

#[test]
fn too_many_reservations_cost_memory_and_reserve_no_less() {
    // Every other frame of 4 MiB is reserved, and then one far above.
    let mut entries: Vec<Entry> = (0..512).map(|n| other(n * 0x2000, 0x1000)).collect();
    entries.push(ram(0, 16 * MIB));
    entries.push(other(8 * MIB, MIB));
    let map = map(&entries);
    for frame in (0..1024).step_by(2).chain(2048..2304) {
        assert!(map.ram().all(|range| !range.contains(&frame)), "frame {frame}");
    }
    // What is not among them is not lost.
    assert!(map.to_ranges().contains(&(1024..2048)) && map.to_ranges().contains(&(2304..4096)));
}

#[test]
fn what_is_taken_is_not_free_wherever_it_lies() {
    let map = map(&[ram(0, 0x9_fc00), ram(MIB, 255 * MIB)]);
    let stub = 0x100..0x109;
    let text = 0x200..0x280;
    for archive in [
        // Between the segments, up against both.
        0x109..0x200,
        // In low memory, at the top of RAM, across the end of RAM, beyond it.
        0x50..0x60,
        0xff00..0x1_0000,
        0xff80..0x1_0080,
        0x2_0000..0x2_0010,
        // All of RAM between the image and the end.
        0x280..0x1_0000,
    ] {
        let free = map
            .free_beside(&[stub.clone(), text.clone(), archive.clone()])
            .unwrap();
        for frame in free.iter().cloned().flatten() {
            assert!(frame >= 0x100 && map.to_ranges().contains(&(frame..frame + 1)));
            assert!(
                ![&stub, &text, &archive]
                    .into_iter()
                    .any(|taken| taken.contains(&frame))
            );
        }
        let taken_of_ram =
            |taken: &Range<u64>| taken.clone().filter(|f| (0x100..0x1_0000).contains(f)).count();
        let taken: usize = [&stub, &text, &archive].into_iter().map(taken_of_ram).sum();
        assert_eq!(free.len(), 0xff00 - taken as u64);
    }
}

/// Frames that the model knows, from 0 on; entries lie among them, cut to kilobytes.
const MODEL_FRAMES: u64 = 48;
const KIB_PER_FRAME: u64 = 4;

fn entry() -> impl Strategy<Value = Entry> {
    let kib = MODEL_FRAMES * KIB_PER_FRAME;
    // Most are short, as holes are; some reach past all that the model knows.
    let len = prop_oneof![4 => 0..3 * KIB_PER_FRAME, 2 => 0..kib, 1 => Just(u64::MAX >> 10)];
    (0..kib, len, any::<bool>()).prop_map(|(start, len, is_ram)| Entry {
        start: start << 10,
        len: len << 10,
        kind: if is_ram { Kind::Ram } else { Kind::Other },
    })
}

/// Whether each kilobyte of the frame is RAM by some entry and nothing else by any.
fn is_ram(entries: &[Entry], frame: u64) -> bool {
    let covers = |kind, byte| {
        let mut of_kind = entries.iter().filter(|entry| entry.kind == kind);
        of_kind.any(|entry| (entry.start..entry.start.saturating_add(entry.len)).contains(&byte))
    };
    (0..KIB_PER_FRAME).all(|kib| {
        let byte = (frame * KIB_PER_FRAME + kib) << 10;
        covers(Kind::Ram, byte) && !covers(Kind::Other, byte)
    })
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(0x0b00_7a17),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(500))]

    /// The set is the one that the model says, as long as there is room for its pieces, which there is here.
    #[test]
    fn exactly_the_frames_that_are_ram_all_over_are_in_the_map(entries in prop::collection::vec(entry(), 0..40)) {
        let found = map(&entries).to_ranges();
        for frame in 0..MODEL_FRAMES {
            prop_assert_eq!(found.contains(&(frame..frame + 1)), is_ram(&entries, frame), "frame {}", frame);
        }
    }

    #[test]
    fn the_order_of_the_entries_does_not_matter(
        (entries, shuffled) in prop::collection::vec(entry(), 0..40)
            .prop_flat_map(|entries| (Just(entries.clone()), Just(entries).prop_shuffle()))
    ) {
        prop_assert_eq!(map(&entries), map(&shuffled));
    }
}

proptest! {
    #![proptest_config(config(40))]

    /// With far more islands and holes than there is room for, memory may be lost, and nothing else.
    #[test]
    fn a_map_without_room_for_its_pieces_invents_no_ram(
        entries in prop::collection::vec((0_u64..2000, 1_u64..8, any::<bool>()), 400..600)
    ) {
        let mut entries: Vec<Entry> = entries
            .into_iter()
            .map(|(start, len, is_ram)| if is_ram { ram(start << 11, len << 10) } else { other(start << 11, len << 8) })
            .collect();
        entries.push(ram(1 << 30, 1 << 30));
        let found = map(&entries);
        prop_assert!(found.ram().count() <= MAX_PIECES);
        for range in found.ram() {
            for frame in [range.start, range.end - 1] {
                if frame < 1 << 18 {
                    prop_assert!(is_ram(&entries, frame), "frame {}", frame);
                }
            }
            prop_assert!(range.end <= 1 << 18 || range == &(1 << 18..2 << 18));
        }
        // The one range that is worth having is still there.
        prop_assert!(found.to_ranges().contains(&(1 << 18..2 << 18)));
        // Whoever takes image, archive and low memory out of it finds room.
        prop_assert!(found.free_beside(&[3..5, 100..101, 200..300]).is_ok());
    }
}
