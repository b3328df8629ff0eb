//! The frame allocator against a model that is a set of numbers, and frame lists against a deque.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::DomId;
use bulkhead_core::frames::table::Put;
use bulkhead_core::frames::{Buddy, FrameList, FrameRecord, FrameTable, Kind, MAX_ORDER, Mfn, RefError};
use bulkhead_core::testing::Choices;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

fn table(limit: u64) -> FrameTable {
    let records: Vec<_> = (0..limit).map(|_| FrameRecord::default()).collect();
    FrameTable::new(Vec::leak(records))
}

fn mfn(n: u64) -> Mfn {
    Mfn::new(n).unwrap()
}

/// The allocator, and what a model knows of it: which frames are free, and which blocks were handed out.
struct Pair {
    buddy: Buddy,
    free: BTreeSet<u64>,
    taken: Vec<(u64, u8)>,
}

impl Pair {
    fn new(limit: u64, ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut buddy = Buddy::new(table(limit));
        let mut free = BTreeSet::new();
        for range in ranges {
            buddy.add(range.clone());
            free.extend(range.filter(|&n| n < limit));
        }
        let pair = Self {
            buddy,
            free,
            taken: Vec::new(),
        };
        pair.check();
        pair
    }

    fn check(&self) {
        self.buddy.invariants();
        assert_eq!(self.buddy.free_frames(), self.free.len() as u64);
    }

    /// Whether there is an aligned block of free frames of this order.
    fn has(&self, order: u8) -> bool {
        let size = 1 << order;
        self.free
            .iter()
            .any(|&n| n % size == 0 && self.free.range(n..n + size).count() as u64 == size)
    }

    fn alloc(&mut self, order: u8) {
        let expected = self.has(order);
        let got = self.buddy.alloc(order);
        assert_eq!(got.is_some(), expected, "a block of order {order}");
        if let Some(first) = got {
            assert_eq!(
                first.raw() % (1 << order),
                0,
                "{first:?} is aligned to order {order}"
            );
            for n in first.raw()..first.raw() + (1 << order) {
                assert!(self.free.remove(&n), "frame {n:#x} is handed out twice");
            }
            self.taken.push((first.raw(), order));
        }
        self.check();
    }

    /// Gives back part `part` of 2^`split` of a block that was taken, and keeps the rest.
    fn free(&mut self, which: usize, split: u8) {
        let (first, order) = self.taken.swap_remove(which);
        let small = order.saturating_sub(split);
        for n in (first..first + (1 << order)).step_by(1 << small) {
            self.buddy.free(mfn(n), small);
            self.free.extend(n..n + (1 << small));
        }
        self.check();
    }
}

#[test]
fn blocks_are_handed_out_once_and_join_again_in_whatever_order_they_come_back() {
    for seed in 0..6 {
        let mut choices = Choices::Seeded(seed);
        // Odd edges, a hole, and a part that begins at 0.
        let mut pair = Pair::new(700, [0..77, 93..300, 301..302, 310..699]);
        for _ in 0..400 {
            if choices.chance(55) || pair.taken.is_empty() {
                // Small blocks mostly.
                let orders = if choices.chance(80) { 4 } else { 10 };
                pair.alloc(u8::try_from(choices.below(orders)).unwrap());
            } else {
                let which = usize::try_from(choices.below(pair.taken.len() as u64)).unwrap();
                pair.free(which, u8::try_from(choices.below(4)).unwrap());
            }
        }
        while !pair.taken.is_empty() {
            pair.free(0, 0);
        }
        // All is back as it was: the largest blocks that the ranges hold, in the same places.
        for order in [8, 7, 7, 6] {
            pair.alloc(order);
        }
    }
}

#[test]
fn an_allocator_that_gave_every_frame_away_has_none_and_gets_all_back() {
    let mut pair = Pair::new(256, Some(5..256));
    while !pair.free.is_empty() {
        pair.alloc(0);
    }
    assert_eq!(pair.buddy.alloc(0), None);
    while !pair.taken.is_empty() {
        pair.free(pair.taken.len() / 2, 0);
    }
    pair.alloc(7);
    assert_eq!(pair.taken, [(128, 7)]);
}

#[test]
fn a_range_beyond_the_frame_table_adds_what_has_records_only() {
    let pair = Pair::new(100, Some(64..4000));
    assert_eq!(pair.buddy.free_frames(), 36);
    let pair = Pair::new(100, Some(0..1 << 20));
    assert_eq!(pair.buddy.free_frames(), 100);
    let pair = Pair::new(100, [4000..5000, 10..10]);
    assert_eq!(pair.buddy.free_frames(), 0);
}

#[test]
fn the_largest_block_is_one_gibibyte() {
    let mut pair = Pair::new(0x9_0000, Some(0x4_0000..0x9_0000));
    assert_eq!(pair.buddy.alloc(MAX_ORDER + 1), None);
    assert_eq!(pair.buddy.alloc(MAX_ORDER), Some(mfn(0x4_0000)));
    assert_eq!(pair.buddy.alloc(MAX_ORDER), None);
    pair.buddy.free(mfn(0x4_0000), MAX_ORDER);
    assert_eq!(pair.buddy.alloc(MAX_ORDER), Some(mfn(0x4_0000)));
}

#[test]
fn lists_keep_their_order_whatever_is_taken_out_of_them() {
    let frames = table(64);
    let (mut list, mut model) = (FrameList::new(), VecDeque::new());
    let (mut other, mut spare) = (FrameList::new(), Vec::new());
    for n in 0..64 {
        other.push(&frames, mfn(n));
        spare.push(n);
    }
    let mut choices = Choices::Seeded(7);
    for _ in 0..2000 {
        let take = if spare.is_empty() {
            false
        } else {
            model.is_empty() || choices.chance(50)
        };
        if take {
            let n = spare.swap_remove(usize::try_from(choices.below(spare.len() as u64)).unwrap());
            other.remove(&frames, mfn(n));
            list.push(&frames, mfn(n));
            model.push_front(n);
        } else {
            let n = if choices.chance(30) {
                assert_eq!(list.pop(&frames), Some(mfn(model[0])));
                model.pop_front().unwrap()
            } else {
                let at = usize::try_from(choices.below(model.len() as u64)).unwrap();
                list.remove(&frames, mfn(model[at]));
                model.remove(at).unwrap()
            };
            other.push(&frames, mfn(n));
            spare.push(n);
        }
        let walk = std::iter::successors(list.first(), |&at| list.next(&frames, at));
        assert!(walk.map(Mfn::raw).eq(model.iter().copied()));
        assert_eq!(
            (list.len(), other.len()),
            (model.len() as u64, spare.len() as u64)
        );
        assert_eq!(list.is_empty(), model.is_empty());
    }
}

#[test]
fn references_and_uses_of_random_holders_are_counted_as_a_model_counts_them() {
    const FRAMES: u64 = 4;
    let frames = table(FRAMES);
    let domains = [DomId::new(0), DomId::new(1)];
    // Owner, references, uses by kind: what a person would write down.
    let mut model: Vec<(Option<DomId>, u32, Vec<Kind>)> = vec![(None, 0, Vec::new()); 4];
    let kinds = [Kind::Writable, Kind::L1, Kind::L4];
    let mut choices = Choices::Seeded(11);
    let mut retyped = 0;
    for _ in 0..20_000 {
        let n = choices.below(FRAMES);
        let (owner, refs, uses) = &mut model[usize::try_from(n).unwrap()];
        let domain = choices.one_of(&domains);
        match choices.below(5) {
            0 => {
                let assigned = frames.assign(mfn(n), domain);
                assert_eq!(assigned.is_ok(), *refs == 0);
                if *refs == 0 {
                    (*owner, *refs) = (Some(domain), 1);
                }
            }
            1 => {
                let got = frames.get(mfn(n), domain);
                let may = *refs > 0 && *owner == Some(domain);
                assert_eq!(got, if may { Ok(()) } else { Err(RefError::NotOwner) });
                *refs += u32::from(may);
            }
            // A use goes with a reference, so the last reference goes after the last use.
            2 if *refs > u32::try_from(uses.len()).unwrap() => {
                *refs -= 1;
                let put = frames.put(mfn(n));
                assert_eq!(put, if *refs == 0 { Put::Last } else { Put::Held });
            }
            3 if *refs > u32::try_from(uses.len()).unwrap() => {
                let kind = choices.one_of(&kinds);
                let may = uses.first().is_none_or(|&held| held == kind);
                let got = frames.get_type(mfn(n), kind);
                assert_eq!(got.is_ok(), may);
                if let Ok(got) = got {
                    assert_eq!(got.must_validate, kind.is_validated() && uses.is_empty());
                    retyped += u32::from(got.is_retyped);
                    if got.must_validate {
                        frames.finish_validation(mfn(n));
                    }
                    uses.push(kind);
                }
            }
            4 if !uses.is_empty() => {
                let kind = uses.pop().unwrap();
                let put = frames.put_type(mfn(n));
                if kind.is_validated() && uses.is_empty() {
                    assert_eq!(put, bulkhead_core::frames::TypePut::Unpick(kind));
                    frames.release_type(mfn(n));
                } else {
                    assert_eq!(put, bulkhead_core::frames::TypePut::Done);
                }
            }
            _ => {}
        }
        let (_, refs, uses) = &model[usize::try_from(n).unwrap()];
        assert_eq!(frames.refs(mfn(n)).unwrap().count(), *refs);
        let typing = frames.typing(mfn(n)).unwrap();
        assert_eq!(typing.count() as usize, uses.len());
        assert_eq!(typing.is_validated(), !uses.is_empty());
    }
    assert!(
        retyped > 100,
        "changes of type are what flushes depend on: {retyped}"
    );
}

#[test]
fn frames_that_do_not_exist_belong_to_nobody() {
    let frames = table(4);
    for n in [4, 5, Mfn::LIMIT - 1] {
        assert_eq!(frames.get(mfn(n), DomId::new(0)), Err(RefError::NoFrame));
        assert!(frames.refs(mfn(n)).is_none() && frames.typing(mfn(n)).is_none());
    }
    // A record of zeros is no RAM: it is not domain 0's, though its number is 0.
    assert_eq!(frames.get(mfn(1), DomId::new(0)), Err(RefError::NotOwner));
    assert_eq!(Mfn::new(Mfn::LIMIT), None);
}
