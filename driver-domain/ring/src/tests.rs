//! Two ends of a page, and peers that lie.
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use bulkhead_abi::xenstore::{RingError, ring};
use proptest::prelude::*;

use super::*;
use crate::testing::Page;

const STREAMS: [Stream; 4] = [CONSOLE_IN, CONSOLE_OUT, STORE_REQUESTS, STORE_REPLIES];

const PAIRS: [(Role, Role); 2] = [
    (Role::StoreGuest, Role::StoreServer),
    (Role::ConsoleGuest, Role::ConsoleBackEnd),
];

#[test]
fn streams_of_one_page_are_apart() {
    for pair in STREAMS.chunks(2) {
        let mut uses = [0_u8; 4096];
        for stream in pair {
            let words = [stream.consumed, stream.produced].map(|at| at..at + 4);
            let buffer = stream.buffer..stream.buffer + stream.size as usize;
            for at in words.into_iter().chain([buffer]).flatten() {
                uses[at] += 1;
            }
        }
        assert!(uses.iter().all(|&uses| uses <= 1));
    }
}

#[test]
fn bytes_cross_in_both_directions() {
    for (guest, host) in PAIRS {
        let page = Page::new();
        let (mut guest, mut host) = (End::new(guest, &page), End::new(host, &page));
        assert_eq!(guest.send(b"ask"), Ok(3));
        assert_eq!(host.send(b"answer"), Ok(6));
        let mut buffer = [0; 16];
        assert_eq!(host.receive(&mut buffer), Ok(3));
        assert_eq!(&buffer[..3], b"ask");
        assert_eq!(guest.receive(&mut buffer[..2]), Ok(2));
        assert_eq!(guest.receive(&mut buffer[2..]), Ok(4));
        assert_eq!(&buffer[..6], b"answer");
        assert_eq!(guest.receive(&mut buffer), Ok(0));
    }
}

#[test]
fn a_full_ring_takes_no_more_until_something_was_received() {
    let page = Page::new();
    let (mut guest, mut server) = (
        End::new(Role::StoreGuest, &page),
        End::new(Role::StoreServer, &page),
    );
    assert_eq!(guest.send(&[7; 2000]), Ok(1024));
    assert_eq!(guest.send(&[8]), Ok(0));
    assert_eq!(guest.room(), Ok(0));
    assert_eq!(server.available(), Ok(1024));
    assert_eq!(server.receive(&mut [0; 10]), Ok(10));
    assert_eq!(guest.send(&[8; 20]), Ok(10));
}

#[test]
fn an_index_that_claims_more_than_the_ring_holds_is_refused() {
    let page = Page::new();
    let mut server = End::new(Role::StoreServer, &page);
    page.store(ring::REQ_PROD, 1025);
    let claimed = IndexError {
        claimed: 1025,
        size: 1024,
    };
    assert_eq!(server.receive(&mut [0; 4]), Err(claimed));
    assert_eq!(page.load(ring::REQ_CONS), 0, "nothing was consumed");
    page.store(ring::RSP_CONS, 1);
    let ahead = IndexError {
        claimed: u32::MAX,
        size: 1024,
    };
    assert_eq!(server.send(b"x"), Err(ahead), "more was consumed than produced");
    assert_eq!(page.load(ring::RSP_PROD), 0);
}

#[test]
fn a_producer_that_moves_backwards_is_refused() {
    let page = Page::new();
    let (mut guest, mut server) = (
        End::new(Role::StoreGuest, &page),
        End::new(Role::StoreServer, &page),
    );
    guest.send(b"abc").unwrap();
    server.receive(&mut [0; 3]).unwrap();
    page.store(ring::REQ_PROD, 2);
    assert!(server.available().is_err());
}

#[test]
fn nobody_is_led_astray_by_what_the_peer_writes_over_its_index() {
    let page = Page::new();
    let (mut guest, mut server) = (
        End::new(Role::StoreGuest, &page),
        End::new(Role::StoreServer, &page),
    );
    guest.send(b"abcdef").unwrap();
    server.receive(&mut [0; 3]).unwrap();
    page.store(ring::REQ_CONS, 999);
    let mut buffer = [0; 8];
    assert_eq!(server.receive(&mut buffer), Ok(3));
    assert_eq!(&buffer[..3], b"def");
    assert_eq!(page.load(ring::REQ_CONS), 6, "published again as it is");
}

#[test]
fn an_end_goes_on_where_its_predecessor_stood() {
    let page = Page::new();
    let (mut guest, mut server) = (
        End::new(Role::StoreGuest, &page),
        End::new(Role::StoreServer, &page),
    );
    guest.send(b"abc").unwrap();
    server.receive(&mut [0; 1]).unwrap();
    server.send(b"xyz").unwrap();
    let mut next = End::new(Role::StoreGuest, &page);
    let mut buffer = [0; 8];
    assert_eq!(next.receive(&mut buffer), Ok(3));
    assert_eq!(next.send(b"d"), Ok(1));
    assert_eq!(server.receive(&mut buffer), Ok(3));
    assert_eq!(&buffer[..3], b"bcd");
}

#[test]
fn a_server_says_in_the_page_why_it_stopped() {
    let page = Page::new();
    End::new(Role::StoreServer, &page).mark_broken(RingError::Proto);
    assert_eq!(page.load(ring::ERROR), 3);
}

proptest! {
    #[test]
    fn bytes_arrive_in_order_also_where_indices_wrap(
        start in any::<u32>(),
        steps in prop::collection::vec((any::<bool>(), 0..1500_usize), 1..60),
    ) {
        for (guest, host) in PAIRS {
            let page = Page::new();
            let (consumes, _) = host.streams();
            // Near the wrap, half of the time.
            let start = if start % 2 == 0 { u32::MAX - start % 1000 } else { start };
            page.store(consumes.consumed, start);
            page.store(consumes.produced, start);
            let (mut guest, mut host) = (End::new(guest, &page), End::new(host, &page));
            let (mut sent, mut received) = (0_usize, 0_usize);
            for (is_send, count) in &steps {
                if *is_send {
                    let bytes: Vec<u8> = (0..*count).map(|at| u8::try_from((sent + at) % 251).unwrap()).collect();
                    sent += guest.send(&bytes).unwrap();
                } else {
                    let mut buffer = vec![0; *count];
                    let got = host.receive(&mut buffer).unwrap();
                    for (at, byte) in buffer[..got].iter().enumerate() {
                        prop_assert_eq!(*byte, u8::try_from((received + at) % 251).unwrap());
                    }
                    received += got;
                }
                prop_assert_eq!(host.available().unwrap(), sent - received);
                prop_assert_eq!(guest.room().unwrap(), consumes.size as usize - (sent - received));
            }
        }
    }

    #[test]
    fn no_indices_of_a_peer_make_an_end_leave_its_ring(
        indices in prop::collection::vec((0..4_usize, any::<u32>()), 1..40),
        count in 0..3000_usize,
    ) {
        for (role, _) in PAIRS.into_iter().chain(PAIRS.map(|(guest, host)| (host, guest))) {
            let page = Page::new();
            let mut end = End::new(role, &page);
            let (input, output) = role.streams();
            for (which, value) in &indices {
                page.store([input.consumed, input.produced, output.consumed, output.produced][*which], *value);
                // The page panics if it is left.
                let mut buffer = vec![0; count];
                if let Ok(received) = end.receive(&mut buffer) {
                    prop_assert!(received <= input.size as usize);
                }
                if let Ok(sent) = end.send(&buffer) {
                    prop_assert!(sent <= output.size as usize);
                }
            }
        }
    }
}
