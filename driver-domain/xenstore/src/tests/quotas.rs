//! What a guest cannot have, and what it cannot make others pay.

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::{MessageType, StoreError};

use super::Net;
use crate::Quotas;

#[test]
fn the_numbers_are_xens() {
    let quotas = Quotas::default();
    assert_eq!((quotas.nodes, quotas.node_bytes), (1000, 2048));
    assert_eq!((quotas.watches, quotas.transactions, quotas.perms), (128, 10, 5));
}

#[test]
fn a_guest_owns_so_many_nodes() {
    let quotas = Quotas {
        nodes: 5,
        ..Quotas::DEFAULT
    };
    let mut net = Net::with(quotas, &[1]);
    net.write(1, "data/a/b", "").unwrap();
    assert_eq!(net.store.nodes_of(DomId::new(1)), 3);
    assert_eq!(net.write(1, "data/c/d/e", ""), Err(StoreError::NoSpc));
    assert_eq!(
        net.read(0, "/local/domain/1/data/c"),
        Err(StoreError::NoEnt),
        "all or nothing"
    );
    net.write(1, "data/c/d", "").unwrap();
    assert_eq!(net.ask(1, MessageType::Mkdir, "data/x\0"), Err(StoreError::NoSpc));
    net.write(1, "data/c/d", "changed").unwrap();
    net.rm(1, "data/a").unwrap();
    net.write(1, "data/e", "").unwrap();
    net.write(0, "/local/domain/1/data/f/g/h", "").unwrap();
    assert_eq!(net.store.nodes_of(DomId::new(1)), 7, "domain 0 may give more");
}

#[test]
fn a_domain_that_serves_others_may_own_more_and_so_may_its_successor() {
    let mut net = Net::new(&[1, 2]);
    net.store.set_service(DomId::new(2));
    let mut fill = |domain: u16| {
        let refused = (0..1500).find(|n| net.write(domain, &format!("data/{n}"), "").is_err());
        assert_eq!(refused.is_some(), domain == 1);
    };
    fill(1);
    fill(2);
    net.store.release(DomId::new(2));
    net.store.introduce(DomId::new(2)).unwrap();
    assert!(net.write(2, "data/one-more", "").is_ok());
}

#[test]
fn transactions_that_fit_alone_do_not_exceed_the_quota_together() {
    let quotas = Quotas {
        nodes: 4,
        ..Quotas::DEFAULT
    };
    let mut net = Net::with(quotas, &[1]);
    let (one, two) = (net.start(1), net.start(1));
    for (tx, name) in [(one, "a"), (two, "b")] {
        let payload = format!("data/{name}/x\0");
        net.ask_in(1, tx, MessageType::Write, &payload).unwrap();
    }
    assert!(net.commit(1, one).is_ok());
    assert_eq!(net.commit(1, two), Err(StoreError::NoSpc));
    assert_eq!(net.store.nodes_of(DomId::new(1)), 3);
}

#[test]
fn a_node_has_so_many_bytes_and_permissions() {
    let mut net = Net::new(&[1]);
    // Name and one entry take 5 bytes.
    assert!(net.write(1, "data/x", &"v".repeat(2043)).is_ok());
    assert_eq!(net.write(1, "data/x", &"v".repeat(2044)), Err(StoreError::NoSpc));
    assert_eq!(
        net.ask(1, MessageType::SetPerms, "data/x\0n1\0r0\0"),
        Err(StoreError::NoSpc)
    );
    assert_eq!(
        net.write(1, &format!("data/{}/y", "n".repeat(2042)), ""),
        Err(StoreError::Inval),
        "too long"
    );
    assert!(net.write(0, "/big", &"v".repeat(4000)).is_ok());
    assert!(
        net.ask(1, MessageType::SetPerms, "data\0n1\0r2\0r3\0r4\0r5\0")
            .is_ok()
    );
    assert_eq!(
        net.ask(1, MessageType::SetPerms, "data\0n1\0r2\0r3\0r4\0r5\0r6\0"),
        Err(StoreError::NoSpc)
    );
    net.ok(
        0,
        MessageType::SetPerms,
        "/local/domain/1/data/x\0n1\0r2\0r3\0r4\0r5\0r6\0",
    );
    net.write(1, "data/x", "v").unwrap();
    let many: String = (0..900).map(|_| "r2\0").collect();
    assert!(
        net.ask(0, MessageType::SetPerms, &format!("/big\0n0\0{many}"))
            .is_ok()
    );
}

#[test]
fn a_guest_has_so_many_watches() {
    let mut net = Net::new(&[1]);
    for number in 0..128 {
        net.watch(1, "data", &number.to_string());
    }
    assert_eq!(
        net.ask(1, MessageType::Watch, "data\0more\0"),
        Err(StoreError::NoSpc)
    );
    net.ok(1, MessageType::Unwatch, "data\x0017\0");
    net.watch(1, "data", "more");
    for number in 0..200 {
        net.watch(0, "/", &number.to_string());
    }
}

#[test]
fn a_guest_has_so_many_transactions_open() {
    let mut net = Net::new(&[1]);
    let open: Vec<u32> = (0..10).map(|_| net.start(1)).collect();
    assert_eq!(
        net.ask(1, MessageType::TransactionStart, "\0"),
        Err(StoreError::NoSpc)
    );
    net.commit(1, open[3]).unwrap();
    net.start(1);
}

#[test]
fn a_transaction_touches_so_much() {
    let mut net = Net::new(&[1]);
    let tx = net.start(1);
    let mut refused = None;
    for number in 0..2000 {
        let asked = net.ask_in(1, tx, MessageType::Read, &format!("data/{number}\0"));
        if asked == Err(StoreError::NoSpc) {
            refused = Some(number);
            break;
        }
    }
    assert!(refused.is_some_and(|at| at > 500), "{refused:?}");
    net.commit(1, tx).unwrap();
    let tx = net.start(1);
    let value = "v".repeat(2000);
    let written = (0..100).take_while(|_| {
        net.ask_in(1, tx, MessageType::Write, &format!("data/x\0{value}"))
            .is_ok()
    });
    assert_eq!(written.count(), 32);
}

#[test]
fn who_does_not_read_replies_is_not_asked_for_more() {
    let mut net = Net::new(&[1]);
    let guest = DomId::new(1);
    net.write(1, "data/x", &"v".repeat(2000)).unwrap();
    let mut request = vec![2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0];
    request.extend(b"data/x\0");
    net.store.feed(guest, &request.repeat(10));
    assert!(!net.store.wants_input(guest));
    net.store.invariants();
    let (mut total, mut buffer) = (0, [0; 64]);
    while net.store.has_output(guest) {
        assert!(!net.store.wants_input(guest));
        total += net.store.take_output(guest, &mut buffer);
        net.store.invariants();
    }
    assert_eq!(total, 10 * 2016, "all ten in the end");
    assert!(net.store.wants_input(guest));
}

#[test]
fn events_that_are_not_read_become_one_and_are_not_lost() {
    let mut net = Net::new(&[1, 2]);
    net.ok(0, MessageType::SetPerms, "/local/domain/2/data\0n2\0r1\0");
    net.watch(1, "/local/domain/2/data", "t");
    net.watch(1, "data", "u");
    for round in 0..3 {
        for number in 0..900 {
            net.write(2, &format!("data/{number}"), "").unwrap();
            net.store.invariants();
        }
        let events = net.events(1);
        assert!(events.len() <= 256, "{round}: {}", events.len());
        assert_eq!(
            events[0], "/local/domain/2/data t",
            "it stands for all before it is read"
        );
        net.write(2, "data/after", "").unwrap();
        assert_eq!(
            net.events(1),
            ["/local/domain/2/data/after t"],
            "each is told again"
        );
    }
    // Others' events do not take a watch's own.
    for number in 0..256 {
        net.write(2, &format!("data/{number}"), "").unwrap();
    }
    net.write(0, "/local/domain/1/data/x", "").unwrap();
    assert!(net.events(1).contains(&"data u".into()));
}

#[test]
fn requests_without_end_do_not_keep_a_guest_from_its_events() {
    let mut net = Net::new(&[1]);
    let guest = DomId::new(1);
    net.watch(1, "data", "t");
    net.write(0, "/local/domain/1/data/x", "").unwrap();
    let mut request = vec![10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
    request.extend(b"1\0");
    net.store.feed(guest, &request.repeat(3));
    let mut buffer = [0; 4096];
    let count = net.store.take_output(guest, &mut buffer);
    let text = String::from_utf8_lossy(&buffer[..count]);
    let event = text.find("data/x").unwrap();
    assert!(
        event < text.rfind("/local/domain/1\0").unwrap(),
        "before the last reply"
    );
}
