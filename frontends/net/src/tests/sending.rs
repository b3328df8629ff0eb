//! Frames that are sent.

use bulkhead_abi::netif::Status;

use super::*;

#[test]
fn a_frame_arrives_as_it_was_sent_whatever_its_length() {
    let mut bench = bench(Mode::Copy);
    let before = bench.memory.grants();
    for length in [14, 60, 1514, 4096, 4097, 9000, 65535] {
        bench
            .transmit
            .send(bench.filled(3, length), Offload::default())
            .unwrap();
        bench.step();
        assert_eq!(
            bench.server.taken.pop(),
            Some((pattern(3, length), Offload::default()))
        );
        let _ = bench.server.answer(|_| {});
        bench.step();
    }
    assert_eq!(bench.transmit.sent().frames, 7);
    let posted = bench.receive.posted();
    assert_eq!(
        bench.memory.grants() - posted,
        before,
        "pages are taken back when they are answered"
    );
}

#[test]
fn what_is_left_to_the_back_end_is_told_beside_the_frame() {
    let mut bench = bench(Mode::Copy);
    let v4 = Segments {
        size: 1448,
        ip: Ip::V4,
    };
    let v6 = Segments {
        size: 1428,
        ip: Ip::V6,
    };
    let all = [
        (Checksum::Validated, None),
        (Checksum::Blank, None),
        (Checksum::Blank, Some(v4)),
        (Checksum::Blank, Some(v6)),
        (Checksum::Whole, Some(v4)),
    ];
    for (checksum, segments) in all {
        let offload = Offload { checksum, segments };
        for length in [100, 30_000] {
            bench.transmit.send(bench.filled(1, length), offload).unwrap();
            bench.step();
            assert_eq!(bench.server.taken.pop(), Some((pattern(1, length), offload)));
            let _ = bench.server.answer(|_| {});
            bench.step();
        }
    }
    assert_eq!(bench.transmit.sent().frames, 10);
}

#[test]
fn a_frame_that_the_back_end_does_not_take_is_refused_with_the_reason() {
    let refusal = |features: Features, frame: &[u8], offload| {
        let memory = Memory::new();
        let pool = Pool::new(memory.clone());
        let mut transmit = Transmit::new(pool.clone(), ring(&memory).0, features);
        let mut sent = pool.frame(frame.len()).unwrap();
        sent.write(0, frame).unwrap();
        let refused = transmit.send(sent, offload).err();
        assert_eq!(
            refused.as_ref().map(|refused| refused.frame.to_vec()),
            refused.as_ref().map(|_| frame.to_vec())
        );
        assert_eq!(memory.grants(), 1 + usize::from(refused.is_none()));
        refused.map(|refused| refused.error)
    };
    let none = Features::default();
    let plain = Offload::default();
    let mut v6 = vec![0; 60];
    v6[12..14].copy_from_slice(&[0x86, 0xdd]);
    let v4 = vec![0; 60];
    assert_eq!(refusal(none, &v4, plain), None);
    assert_eq!(refusal(none, &[0; 4097], plain), Some(SendError::Scattered));
    let blank = Offload {
        checksum: Checksum::Blank,
        ..plain
    };
    let only = |features: Features, frame: &[u8]| refusal(features, frame, blank);
    let checksum_v4 = Features {
        checksum_v4: true,
        ..none
    };
    let checksum_v6 = Features {
        checksum_v6: true,
        ..none
    };
    assert_eq!(only(checksum_v4, &v4), None);
    assert_eq!(only(checksum_v6, &v6), None);
    assert_eq!(only(checksum_v4, &v6), Some(SendError::Unsupported));
    assert_eq!(only(checksum_v6, &v4), Some(SendError::Unsupported));
    let segments = |ip, size| Offload {
        segments: Some(Segments { size, ip }),
        ..plain
    };
    let segments_v4 = Features {
        segments_v4: true,
        ..none
    };
    assert_eq!(refusal(segments_v4, &v4, segments(Ip::V4, 1000)), None);
    assert_eq!(
        refusal(segments_v4, &v4, segments(Ip::V4, 0)),
        Some(SendError::Unsupported)
    );
    assert_eq!(
        refusal(segments_v4, &v4, segments(Ip::V6, 1000)),
        Some(SendError::Unsupported)
    );
}

#[test]
fn the_ring_takes_what_it_has_room_for() {
    let mut bench = bench(Mode::Copy);
    for _ in 0..256 {
        bench
            .transmit
            .send(bench.filled(0, 14), Offload::default())
            .unwrap();
    }
    assert!(!bench.transmit.has_room());
    let full = |bench: &mut Bench| {
        let refused = bench
            .transmit
            .send(bench.filled(0, 14), Offload::default())
            .unwrap_err();
        assert_eq!(refused.error, SendError::Full);
    };
    full(&mut bench);
    bench.step();
    full(&mut bench);
    let _ = bench.server.answer(|_| {});
    bench.step();
    assert!(bench.transmit.has_room());
    assert_eq!(bench.transmit.sent().frames, 256);
}

#[test]
fn no_grant_no_frame_and_nothing_of_it_stays_granted() {
    let mut bench = bench(Mode::Copy);
    let frame = bench.filled(5, 10_000);
    bench.memory.limit(None, Some(2));
    let before = bench.memory.grants();
    let refused = bench.transmit.send(frame, Offload::default()).unwrap_err();
    assert_eq!(refused.error, SendError::NoMemory);
    assert_eq!(refused.frame.to_vec(), pattern(5, 10_000));
    assert_eq!(bench.memory.grants(), before);
    bench.memory.limit(None, None);
    bench.transmit.send(refused.frame, Offload::default()).unwrap();
    bench.step();
    assert_eq!(bench.server.taken[0].0, pattern(5, 10_000));
}

#[test]
fn answers_come_in_any_order_and_say_what_became_of_frames() {
    let mut bench = bench(Mode::Copy);
    for seed in 0..4 {
        bench
            .transmit
            .send(bench.filled(seed, 5000), Offload::default())
            .unwrap();
    }
    bench.step();
    let _ = bench.server.answer(|responses| {
        for response in &mut responses[2..4] {
            response.status = Status::Dropped.raw();
        }
        responses[4].status = Status::Error.raw();
        responses.reverse();
    });
    bench.step();
    let expected = Sent {
        frames: 2,
        dropped: 1,
        errors: 1,
    };
    assert_eq!(bench.transmit.sent(), expected);
}

#[test]
fn a_back_end_made_anew_goes_on_with_what_was_sent() {
    let mut bench = bench(Mode::Copy);
    for seed in 0..3 {
        bench
            .transmit
            .send(bench.filled(seed, 9000), Offload::default())
            .unwrap();
    }
    bench.step();
    assert_eq!(bench.server.taken.len(), 3);
    bench.succeed();
    assert_eq!(bench.server.taken.len(), 3, "none was answered");
    let _ = bench.server.answer(|_| {});
    bench.step();
    assert_eq!(bench.transmit.sent().frames, 3);
}
