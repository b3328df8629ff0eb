//! Snapshots, conflicts, and what is no conflict.

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::{MessageType, StoreError};

use super::Net;
use crate::Quotas;

fn put(net: &mut Net, domain: u16, tx: u32, path: &str, value: &str) {
    net.ask_in(domain, tx, MessageType::Write, &format!("{path}\0{value}"))
        .unwrap();
}

fn get(net: &mut Net, domain: u16, tx: u32, path: &str) -> Result<String, StoreError> {
    net.ask_in(domain, tx, MessageType::Read, &format!("{path}\0"))
}

#[test]
fn a_transaction_sees_its_start_and_itself() {
    let mut net = Net::new(&[1]);
    put(&mut net, 0, 0, "/a", "before");
    let tx = net.start(0);
    put(&mut net, 0, 0, "/a", "after");
    assert_eq!(get(&mut net, 0, tx, "/a"), Ok("before".into()));
    put(&mut net, 0, tx, "/b", "mine");
    assert_eq!(get(&mut net, 0, tx, "/b"), Ok("mine".into()));
    assert_eq!(get(&mut net, 0, 0, "/b"), Err(StoreError::NoEnt));
    assert_eq!(net.commit(0, tx), Err(StoreError::Again));
    assert_eq!(
        get(&mut net, 0, 0, "/b"),
        Err(StoreError::NoEnt),
        "nothing of it took effect"
    );
}

#[test]
fn a_transaction_takes_effect_at_its_end_or_never() {
    let mut net = Net::new(&[]);
    let tx = net.start(0);
    put(&mut net, 0, tx, "/a/b", "1");
    put(&mut net, 0, tx, "/a/c", "2");
    assert_eq!(net.commit(0, tx), Ok("OK\0".into()));
    assert_eq!(get(&mut net, 0, 0, "/a/c"), Ok("2".into()));
    let tx = net.start(0);
    put(&mut net, 0, tx, "/a/c", "3");
    assert_eq!(
        net.ask_in(0, tx, MessageType::TransactionEnd, "F\0"),
        Ok("OK\0".into())
    );
    assert_eq!(get(&mut net, 0, 0, "/a/c"), Ok("2".into()));
    assert_eq!(net.commit(0, tx), Err(StoreError::NoEnt), "it has ended");
}

/// One transaction of domain 0 does `inside`, and meanwhile `outside` happens.
fn conflicts(inside: &[(MessageType, &str)], outside: &[(MessageType, &str)]) -> bool {
    let mut net = Net::new(&[]);
    for node in ["/dir/a", "/dir/b", "/dir/sub/x"] {
        put(&mut net, 0, 0, node, "old");
    }
    let tx = net.start(0);
    for (kind, payload) in inside {
        let _ = net.ask_in(0, tx, *kind, payload);
    }
    for (kind, payload) in outside {
        net.ok(0, *kind, payload);
    }
    match net.commit(0, tx) {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error, StoreError::Again);
            true
        }
    }
}

#[test]
fn a_conflict_is_what_was_looked_at_and_has_changed() {
    use MessageType::{Directory, GetPerms, Mkdir, Read, Rm, SetPerms, Write};
    for (inside, outside) in [
        ((Read, "/dir/a\0"), (Write, "/dir/a\0new")),
        ((Read, "/dir/a\0"), (Write, "/dir/a\0old")),
        ((Read, "/dir/a\0"), (SetPerms, "/dir/a\0n3\0")),
        ((Read, "/dir/a\0"), (Rm, "/dir\0")),
        ((GetPerms, "/dir/a\0"), (SetPerms, "/dir/a\0n3\0")),
        ((Write, "/dir/a\0mine"), (Write, "/dir/a\0new")),
        ((Write, "/dir/a\0mine"), (Rm, "/dir/a\0")),
        ((Write, "/dir/c\0mine"), (Write, "/dir/c\0new")),
        ((Write, "/dir/c/d\0mine"), (Write, "/dir/c\0new")),
        ((Write, "/dir/c\0mine"), (SetPerms, "/dir\0n3\0")),
        ((Write, "/dir/c\0mine"), (Rm, "/dir\0")),
        ((Mkdir, "/dir/c\0"), (Mkdir, "/dir/c\0")),
        ((Read, "/dir/c/d/e\0"), (Write, "/dir/c/d/e\0new")),
        ((Directory, "/dir\0"), (Mkdir, "/dir/c\0")),
        ((Directory, "/dir\0"), (Rm, "/dir/a\0")),
        ((Rm, "/dir/a\0"), (Write, "/dir/a\0new")),
        ((Rm, "/dir/c\0"), (Mkdir, "/dir/c\0")),
        ((SetPerms, "/dir/a\0n3\0"), (Write, "/dir/a\0new")),
    ] {
        assert!(conflicts(&[inside], &[outside]), "{inside:?} {outside:?}");
    }
}

#[test]
fn what_else_happens_is_no_conflict() {
    use MessageType::{Directory, Mkdir, Read, Rm, SetPerms, Write};
    for (inside, outside) in [
        ((Read, "/dir/a\0"), (Write, "/dir/b\0new")),
        ((Read, "/dir/a\0"), (Mkdir, "/dir/c\0")),
        ((Read, "/dir/a\0"), (SetPerms, "/dir\0n3\0")),
        ((Read, "/dir/c\0"), (Mkdir, "/dir/d\0")),
        ((Read, "/dir\0"), (Mkdir, "/dir/d\0")),
        ((Directory, "/dir\0"), (Write, "/dir/a\0new")),
        ((Directory, "/dir\0"), (Mkdir, "/dir/sub/y\0")),
        ((Write, "/dir/a\0mine"), (Write, "/dir/b\0new")),
        ((Write, "/dir/c\0mine"), (Write, "/dir/d\0new")),
        ((Write, "/dir/c/x\0mine"), (Write, "/dir/d/x\0new")),
        ((Rm, "/dir/a\0"), (Rm, "/dir/b\0")),
        ((Rm, "/dir/sub\0"), (Write, "/dir/a\0new")),
    ] {
        assert!(!conflicts(&[inside], &[outside]), "{inside:?} {outside:?}");
    }
}

#[test]
fn two_guests_that_write_different_nodes_do_not_abort_each_other() {
    let mut net = Net::new(&[1, 2]);
    let (one, two) = (net.start(1), net.start(2));
    for (domain, tx) in [(1, one), (2, two)] {
        put(&mut net, domain, tx, "data/state", "4");
        put(&mut net, domain, tx, "data/ring-ref", "8");
    }
    assert!(net.commit(1, one).is_ok());
    assert!(net.commit(2, two).is_ok());
    assert_eq!(net.read(0, "/local/domain/1/data/state"), Ok("4".into()));
    assert_eq!(net.read(0, "/local/domain/2/data/state"), Ok("4".into()));
}

#[test]
fn what_a_transaction_removes_and_makes_again_is_new() {
    let mut net = Net::new(&[]);
    put(&mut net, 0, 0, "/a/old", "1");
    let tx = net.start(0);
    net.ask_in(0, tx, MessageType::Rm, "/a\0").unwrap();
    put(&mut net, 0, tx, "/a/new", "2");
    put(&mut net, 0, 0, "/a/late", "3");
    net.commit(0, tx).unwrap();
    assert_eq!(net.ok(0, MessageType::Directory, "/a\0"), "new\0");
    // Made and removed: it never was.
    let tx = net.start(0);
    put(&mut net, 0, tx, "/b/c", "1");
    net.ask_in(0, tx, MessageType::Rm, "/b\0").unwrap();
    net.commit(0, tx).unwrap();
    assert_eq!(net.read(0, "/b"), Err(StoreError::NoEnt));
}

#[test]
fn transactions_are_their_domains_own_and_are_not_nested() {
    let mut net = Net::new(&[1, 2]);
    let tx = net.start(1);
    assert_eq!(get(&mut net, 2, tx, "/a"), Err(StoreError::NoEnt));
    assert_eq!(
        net.ask_in(1, tx, MessageType::TransactionStart, "\0"),
        Err(StoreError::Busy)
    );
    assert_eq!(net.commit(1, 0), Err(StoreError::NoEnt));
    net.ok(1, MessageType::ResetWatches, "\0");
    assert_eq!(net.commit(1, tx), Err(StoreError::NoEnt));
    assert_ne!(net.start(1), tx, "numbers are not used again at once");
}

#[test]
fn a_transaction_that_keeps_too_much_alive_can_only_be_tried_again() {
    let quotas = Quotas {
        history_bytes: 100_000,
        ..Quotas::DEFAULT
    };
    let mut net = Net::with(quotas, &[1, 2]);
    put(&mut net, 1, 0, "data/x", "before");
    let tx = net.start(1);
    assert_eq!(get(&mut net, 1, tx, "data/x"), Ok("before".into()));
    let mut rounds = 0;
    while get(&mut net, 1, tx, "data/y") == Err(StoreError::NoEnt) {
        // A snapshot of its own each time makes each write copy what it replaces.
        let other = net.start(2);
        put(&mut net, 2, 0, "data/x", &"x".repeat(2000));
        put(&mut net, 2, other, "data/x", "");
        let _ = net.commit(2, other);
        put(&mut net, 1, 0, "data/y", "after");
        rounds += 1;
        assert!(rounds < 1000, "old nodes are kept for ever");
    }
    assert!(rounds > 10, "a short transaction is left in peace");
    assert_eq!(
        get(&mut net, 1, tx, "data/y"),
        Ok("after".into()),
        "it works with the nodes of now"
    );
    assert_eq!(net.commit(1, tx), Err(StoreError::Again));
    assert_eq!(net.store.nodes_of(DomId::new(1)), 3);
}
