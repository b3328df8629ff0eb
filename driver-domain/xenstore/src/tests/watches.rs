//! Who is told of what, and when.

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::{MessageType, StoreError};

use super::Net;

#[test]
fn a_watch_fires_once_for_a_write_at_or_below_it() {
    let mut net = Net::new(&[]);
    net.watch(0, "/a", "t");
    for path in ["/a", "/a/b", "/a/b/c/d"] {
        net.write(0, path, "").unwrap();
        assert_eq!(net.events(0), [format!("{path} t")]);
    }
    net.write(0, "/ab", "").unwrap();
    net.write(0, "/", "").unwrap();
    assert_eq!(net.events(0), [""; 0]);
}

#[test]
fn each_kind_of_change_is_told() {
    let mut net = Net::new(&[]);
    net.watch(0, "/", "t");
    for (kind, payload, path) in [
        (MessageType::Mkdir, "/a\0", Some("/a")),
        (MessageType::Mkdir, "/a\0", None),
        (MessageType::Write, "/a\0x", Some("/a")),
        (MessageType::Write, "/a\0x", Some("/a")),
        (MessageType::SetPerms, "/a\0n3\0", Some("/a")),
        (MessageType::Rm, "/a\0", Some("/a")),
        (MessageType::Rm, "/a\0", None),
    ] {
        net.ok(0, kind, payload);
        let expected: Vec<String> = path.iter().map(|path| format!("{path} t")).collect();
        assert_eq!(net.events(0), expected, "{kind} {payload:?}");
    }
}

#[test]
fn who_watches_what_an_ancestor_takes_along_is_told() {
    let mut net = Net::new(&[]);
    net.write(0, "/a/b/c", "").unwrap();
    net.write(0, "/a/b-c", "").unwrap();
    for (path, token) in [
        ("/a/b/c", "c"),
        ("/a/b", "b"),
        ("/a/b/none", "none"),
        ("/a/b-c", "other"),
    ] {
        net.watch(0, path, token);
    }
    net.rm(0, "/a/b").unwrap();
    assert_eq!(net.events(0), ["/a/b b", "/a/b/c c"]);
    net.rm(0, "/a").unwrap();
    assert_eq!(net.events(0), ["/a/b-c other"]);
}

#[test]
fn a_relative_watch_has_relative_events() {
    let mut net = Net::new(&[1]);
    net.watch(1, "data", "t");
    net.watch(1, "/local/domain/1/data", "u");
    net.write(0, "/local/domain/1/data/x", "").unwrap();
    assert_eq!(net.events(1), ["data/x t", "/local/domain/1/data/x u"]);
    net.ok(1, MessageType::Unwatch, "/local/domain/1/data\0t\0");
    net.write(1, "data/x", "").unwrap();
    assert_eq!(
        net.events(1),
        ["/local/domain/1/data/x u"],
        "the place is the same either way"
    );
}

#[test]
fn a_watch_has_one_path_and_token_and_ends_by_them() {
    let mut net = Net::new(&[1]);
    net.watch(1, "data", "t");
    assert_eq!(
        net.ask(1, MessageType::Watch, "data\0t\0"),
        Err(StoreError::Exist)
    );
    net.watch(1, "data", "u");
    assert_eq!(
        net.ask(1, MessageType::Unwatch, "data\0v\0"),
        Err(StoreError::NoEnt)
    );
    assert_eq!(
        net.ask(1, MessageType::Unwatch, "other\0t\0"),
        Err(StoreError::NoEnt)
    );
    net.ok(1, MessageType::Unwatch, "data\0t\0");
    net.write(1, "data/x", "").unwrap();
    assert_eq!(net.events(1), ["data/x u"]);
    net.ok(1, MessageType::ResetWatches, "\0");
    net.write(1, "data/x", "").unwrap();
    assert_eq!(net.events(1), [""; 0]);
}

#[test]
fn only_who_may_read_a_node_is_told_of_it() {
    let mut net = Net::new(&[1, 2]);
    net.watch(2, "/local/domain/1", "t");
    net.write(1, "data/secret", "").unwrap();
    net.rm(1, "data/secret").unwrap();
    assert_eq!(net.events(2), [""; 0]);
    net.ok(1, MessageType::SetPerms, "data\0n1\0r2\0");
    net.write(1, "data/open", "").unwrap();
    assert_eq!(
        net.events(2),
        ["/local/domain/1/data t", "/local/domain/1/data/open t"]
    );
    net.ok(1, MessageType::SetPerms, "data/open\0n1\0");
    assert_eq!(
        net.events(2),
        ["/local/domain/1/data/open t"],
        "that it is hidden now"
    );
    net.write(1, "data/open", "").unwrap();
    net.rm(1, "data/open").unwrap();
    assert_eq!(net.events(2), [""; 0]);
}

#[test]
fn a_transaction_tells_at_its_end_in_the_order_of_the_last_changes() {
    let mut net = Net::new(&[]);
    net.write(0, "/gone/x", "").unwrap();
    net.watch(0, "/", "t");
    net.watch(0, "/gone/x", "x");
    let tx = net.start(0);
    for (kind, payload) in [
        (MessageType::Write, "/b/deep\x001"),
        (MessageType::Write, "/c\x001"),
        (MessageType::Write, "/a\x001"),
        (MessageType::Write, "/c\x002"),
        (MessageType::Rm, "/gone\0"),
        (MessageType::Write, "/never\0"),
        (MessageType::Rm, "/never\0"),
    ] {
        net.ask_in(0, tx, kind, payload).unwrap();
    }
    assert_eq!(net.events(0), [""; 0]);
    net.commit(0, tx).unwrap();
    assert_eq!(
        net.events(0),
        ["/b/deep t", "/a t", "/c t", "/gone t", "/gone/x x"]
    );
    let tx = net.start(0);
    net.ask_in(0, tx, MessageType::Write, "/a\x002").unwrap();
    net.ask_in(0, tx, MessageType::TransactionEnd, "F\0").unwrap();
    assert_eq!(net.events(0), [""; 0]);
}

#[test]
fn domains_that_come_and_go_are_told_to_those_who_may_know() {
    let mut net = Net::new(&[1, 2]);
    net.ok(0, MessageType::SetPerms, "@releaseDomain\0n0\0r1\0");
    net.watch(1, "@releaseDomain", "gone");
    net.watch(1, "@introduceDomain", "new");
    net.watch(0, "@introduceDomain", "new");
    net.watch(0, "@releaseDomain", "gone");
    net.store.introduce(DomId::new(5)).unwrap();
    assert_eq!(net.events(0), ["@introduceDomain new"]);
    net.store.release(DomId::new(5));
    assert_eq!(net.events(0), ["@releaseDomain gone"]);
    assert_eq!(net.events(1), ["@releaseDomain gone"]);
    net.store.release(DomId::new(1));
    net.store.release(DomId::new(2));
    assert_eq!(
        net.events(0),
        ["@releaseDomain gone"],
        "equal events that wait are one"
    );
}

#[test]
fn the_reply_comes_before_the_first_event() {
    let mut net = Net::new(&[1]);
    let guest = DomId::new(1);
    net.store
        .feed(guest, &[4, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0]);
    net.store.feed(guest, b"data\0t\0");
    let mut bytes = [0; 200];
    let count = net.store.take_output(guest, &mut bytes);
    assert_eq!(bytes[0], 4);
    assert_eq!(&bytes[16..19], b"OK\0");
    assert_eq!(bytes[19], 15);
    assert_eq!(&bytes[35..count], b"data\0t\0");
}

#[test]
fn domains_with_something_to_be_told_are_named() {
    let mut net = Net::new(&[1, 2]);
    net.watch(1, "data", "t");
    while net.store.next_ready().is_some() {}
    net.write(2, "data/x", "").unwrap();
    assert_eq!(net.store.next_ready(), None);
    net.write(0, "/local/domain/1/data/x", "").unwrap();
    net.write(0, "/local/domain/1/data/y", "").unwrap();
    assert_eq!(net.store.next_ready(), Some(DomId::new(1)));
    assert_eq!(net.store.next_ready(), None);
    assert!(net.store.has_output(DomId::new(1)) && !net.store.has_output(DomId::new(2)));
    assert_eq!(net.events(1), ["data/x t", "data/y t"]);
    assert!(!net.store.has_output(DomId::new(1)));
}
