//! Frames that are received.

use bulkhead_abi::netif::{EXTRA_MORE, RX_EXTRA_INFO, RX_MORE_DATA, RxSlot};
use proptest::prelude::*;

use super::*;
use crate::testing::extra;

const MODES: [Mode; 2] = [Mode::Copy, Mode::Flip];

#[test]
fn a_frame_is_received_as_it_was_sent_however_it_lies_in_pages() {
    for mode in MODES {
        let mut bench = bench(mode);
        for (length, part) in [(14, 4096), (1514, 4096), (1514, 100), (9014, 4096), (65535, 4096)] {
            bench.step();
            let sent = bench.server.send(&pattern(9, length), part, Offload::default());
            assert_eq!(sent, Some(Notify::Yes), "the front-end asked to be told");
            assert_eq!(bench.received(), Some((pattern(9, length), Offload::default())));
            assert!(bench.receive.may_sleep().unwrap());
        }
        assert_eq!(bench.receive.counts().frames, 5);
    }
}

#[test]
fn what_is_known_of_a_frame_is_told() {
    for mode in MODES {
        let mut bench = bench(mode);
        bench.step();
        for checksum in [Checksum::Whole, Checksum::Blank, Checksum::Validated] {
            let v6 = Segments {
                size: 1400,
                ip: Ip::V6,
            };
            let v4 = Segments { ip: Ip::V4, ..v6 };
            for segments in [None, Some(v4), Some(v6)] {
                let offload = Offload { checksum, segments };
                for length in [60, 20_000] {
                    bench.sends(&pattern(1, length), 4096, offload);
                    assert_eq!(bench.received(), Some((pattern(1, length), offload)));
                }
            }
        }
    }
}

#[test]
fn data_may_lie_anywhere_in_a_page() {
    for mode in MODES {
        let mut bench = bench(mode);
        bench.step();
        let (ticket, response) = bench.server.fill(4096 - 60, &pattern(2, 60));
        bench.server.give(ticket, RxSlot::holding(&response));
        let _ = bench.server.publish();
        assert_eq!(bench.received().unwrap().0, pattern(2, 60));
    }
}

#[test]
fn the_front_end_posts_as_many_pages_as_the_ring_has_slots_and_no_more_than_are_taken() {
    for mode in MODES {
        let mut bench = bench(mode);
        bench.step();
        assert_eq!((bench.receive.posted(), bench.server.posted()), (256, 256));
        let mut frames = 0;
        for _ in 0..1000 {
            frames += u32::from(bench.server.send(&[1; 5000], 4096, Offload::default()).is_some());
            bench.step();
        }
        assert_eq!(frames, 128, "nobody takes them");
        assert_eq!(bench.receive.posted(), 0);
        drop(bench.receive.take());
        bench.step();
        assert_eq!(bench.receive.posted(), 2);
    }
}

#[test]
fn a_frame_with_an_error_is_dropped_and_the_next_is_not() {
    for mode in MODES {
        let mut bench = bench(mode);
        bench.step();
        for status in [-1, -2, -7] {
            let (ticket, mut response) = bench.server.fill(0, &[1; 100]);
            response.flags = RX_MORE_DATA;
            bench.server.give(ticket, RxSlot::holding(&response));
            let (ticket, response) = bench.server.leave(status);
            bench.server.give(ticket, RxSlot::holding(&response));
        }
        // One that is shorter than a header, too.
        bench.sends(&[1; 13], 4096, Offload::default());
        bench.sends(&pattern(4, 60), 4096, Offload::default());
        assert_eq!(bench.received().unwrap().0, pattern(4, 60));
        assert_eq!(bench.receive.counts().errors, 4);
    }
}

#[test]
fn an_extra_that_says_nothing_here_is_passed_over() {
    let mut bench = bench(Mode::Copy);
    bench.step();
    let (ticket, mut response) = bench.server.fill(0, &pattern(4, 60));
    response.flags = RX_EXTRA_INFO;
    bench.server.give(ticket, RxSlot::holding(&response));
    for flags in [EXTRA_MORE, 0] {
        let (ticket, _) = bench.server.leave(0);
        bench.server.give(ticket, RxSlot::holding(&extra(4, flags)));
    }
    let _ = bench.server.publish();
    assert_eq!(bench.received(), Some((pattern(4, 60), Offload::default())));
}

#[test]
fn pages_that_were_received_are_used_again() {
    for mode in MODES {
        let mut bench = bench(mode);
        // As many pages as the ring has slots, and one besides.
        bench.memory.limit(Some(257), None);
        for _ in 0..1000 {
            bench.step();
            bench.sends(&pattern(7, 60), 4096, Offload::default());
            assert_eq!(bench.received().unwrap().0, pattern(7, 60));
        }
    }
}

#[test]
fn without_memory_or_grants_less_is_posted_until_there_is_more() {
    for mode in MODES {
        for (pages, grants) in [(Some(10), None), (None, Some(10))] {
            let mut bench = bench(mode);
            bench.memory.limit(pages, grants);
            bench.step();
            assert_eq!(bench.receive.posted(), 10);
            bench.memory.limit(None, None);
            bench.step();
            assert_eq!(bench.receive.posted(), 256);
        }
    }
}

#[test]
fn a_frame_that_a_new_back_end_does_not_end_is_dropped_or_ended_by_an_error() {
    for mode in MODES {
        for flags in [RX_EXTRA_INFO, RX_EXTRA_INFO | RX_MORE_DATA, RX_MORE_DATA] {
            let mut bench = bench(mode);
            bench.step();
            let (ticket, mut response) = bench.server.fill(0, &[1; 100]);
            response.flags = flags;
            bench.server.give(ticket, RxSlot::holding(&response));
            let _ = bench.server.publish();
            bench.step();
            bench.succeed();
            let (ticket, response) = bench.server.leave(-1);
            bench.server.give(ticket, RxSlot::holding(&response));
            bench.sends(&pattern(4, 60), 4096, Offload::default());
            assert_eq!(bench.received().unwrap().0, pattern(4, 60));
            let cut = u64::from(flags & RX_EXTRA_INFO != 0);
            let expected = Counts {
                frames: 1,
                errors: 1,
                cut,
            };
            assert_eq!(bench.receive.counts(), expected);
        }
    }
}

proptest! {
    #[test]
    fn frames_come_in_order_and_whole_whatever_their_shapes(
        frames in prop::collection::vec((14..20_000_usize, 1000..=4096_usize, any::<bool>(), any::<bool>()), 1..60),
        flips: bool,
    ) {
        let mut bench = bench(if flips { Mode::Flip } else { Mode::Copy });
        bench.step();
        let mut expected = std::collections::VecDeque::new();
        for (seed, (length, part, has_segments, is_taken)) in (0..).zip(frames) {
            let part = part.max(length.div_ceil(18));
            let segments = has_segments.then_some(Segments { size: 1448, ip: Ip::V4 });
            let offload = Offload { segments, ..Offload::default() };
            if bench.server.send(&pattern(seed, length), part, offload).is_some() {
                expected.push_back((pattern(seed, length), offload));
            }
            bench.step();
            if is_taken {
                let got = bench.received();
                prop_assert_eq!(got, expected.pop_front());
            }
        }
        while let Some(frame) = expected.pop_front() {
            let got = bench.received();
            prop_assert_eq!(got, Some(frame));
        }
        prop_assert_eq!(bench.received(), None);
    }
}
