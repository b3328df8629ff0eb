//! Bytes that are not the protocol.

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::MessageType;
use bulkhead_bus::wire::TooLong;
use proptest::prelude::*;

use super::Net;
use crate::Quotas;

#[test]
fn a_message_that_is_too_long_breaks_its_connection_and_no_other() {
    let mut net = Net::new(&[1, 2]);
    let guest = DomId::new(1);
    net.watch(1, "data", "t");
    net.store
        .feed(guest, &[2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 16, 0, 0]);
    assert_eq!(net.store.broken(guest), Some(TooLong { claimed: 4097 }));
    assert!(!net.store.wants_input(guest));
    net.store.feed(guest, &[0; 1000]);
    net.write(2, "data/x", "").unwrap();
    net.write(0, "/local/domain/1/data/x", "").unwrap();
    assert_eq!(net.events(1), ["data/x t"], "it can still be told things");
    net.store.reconnect(guest);
    assert_eq!(net.store.broken(guest), None);
    net.write(1, "data/x", "").unwrap();
}

#[test]
fn domains_that_are_not_there_are_not_served() {
    let mut net = Net::new(&[]);
    let nobody = DomId::new(9);
    net.store.feed(nobody, &[0; 100]);
    assert!(!net.store.wants_input(nobody) && !net.store.has_output(nobody));
    assert_eq!(net.store.take_output(nobody, &mut [0; 10]), 0);
    net.store.reconnect(nobody);
    assert_eq!(net.store.broken(nobody), None);
}

#[test]
fn a_guest_that_goes_with_requests_waiting_is_not_answered() {
    let mut net = Net::new(&[1]);
    let guest = DomId::new(1);
    net.store
        .feed(guest, &[6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].repeat(3));
    net.store.release(guest);
    assert_eq!(net.store.take_output(guest, &mut [0; 100]), 0);
    net.store.invariants();
}

/// Names that make requests meet.
fn word() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::sample::select(vec![
            &b"data"[..],
            b"data/a",
            b"data/a/b",
            b"/local/domain/1/data",
            b"/local/domain/2/data/a",
            b"/",
            b"@releaseDomain",
            b"T",
            b"F",
            b"1",
            b"n1",
            b"r2",
            b"b2",
            b"token",
            b"",
        ])
        .prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 0..10),
    ]
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(word(), 0..4).prop_map(|words| {
        words
            .into_iter()
            .flat_map(|word| word.into_iter().chain([0]))
            .collect::<Vec<u8>>()
    });
    (0..24_u32, 0..4_u32, payload).prop_map(|(kind, tx, payload)| {
        let len = u32::try_from(payload.len()).unwrap();
        let header = [kind, 7, tx, len].map(u32::to_le_bytes).concat();
        [header, payload].concat()
    })
}

proptest! {
    #[test]
    fn no_bytes_panic_and_no_output_is_without_bound(
        chunks in prop::collection::vec((1..3_u16, prop_oneof![
            8 => message(),
            1 => prop::collection::vec(any::<u8>(), 0..40),
        ], 0..200_usize), 1..80),
    ) {
        let quotas = Quotas { nodes: 20, watches: 5, transactions: 3, events: 6, transaction_bytes: 2000, history_bytes: 5000, ..Quotas::DEFAULT };
        let mut net = Net::with(quotas, &[1, 2]);
        net.ok(0, MessageType::SetPerms, "/local/domain/1/data\0b1\0");
        for (domain, bytes, room) in chunks {
            let domain = DomId::new(domain);
            if net.store.wants_input(domain) {
                net.store.feed(domain, &bytes);
            }
            net.store.invariants();
            let mut buffer = vec![0; room];
            prop_assert!(net.store.take_output(domain, &mut buffer) <= room);
            net.store.invariants();
            prop_assert!(net.store.nodes_of(domain) <= 20);
        }
        // Whatever happened, the store serves domain 0, and a new connection.
        net.store.reconnect(DomId::new(1));
        prop_assert!(net.write(0, "/x", "1").is_ok());
        prop_assert_eq!(net.ok(1, MessageType::GetDomainPath, "1\0"), "/local/domain/1\0");
    }
}
