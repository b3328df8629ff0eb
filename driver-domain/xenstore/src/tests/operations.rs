//! Each request, and each way to refuse it.

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::{MessageType, StoreError};

use super::{Net, path};
use crate::{Access, Action, End, IntroduceError, Perms, Place, Special, Store, Tx};

#[test]
fn what_was_written_is_read() {
    let mut net = Net::new(&[1]);
    assert_eq!(net.write(0, "/a/b", "value"), Ok("OK\0".into()));
    assert_eq!(net.read(0, "/a/b"), Ok("value".into()));
    assert_eq!(net.read(0, "/a"), Ok(String::new()), "a parent is made");
    net.write(0, "/a/b", "other").unwrap();
    assert_eq!(net.read(0, "/a/b"), Ok("other".into()));
    let bytes = net.ask_raw(0, 0, MessageType::Write.raw(), b"/a/b\0x\0\xff");
    assert_eq!(bytes, Ok(b"OK\0".to_vec()));
    assert_eq!(
        net.ask_raw(0, 0, MessageType::Read.raw(), b"/a/b\0"),
        Ok(b"x\0\xff".to_vec())
    );
    assert_eq!(net.read(0, "/a/c"), Err(StoreError::NoEnt));
    assert_eq!(net.read(0, "/a/b/c/d"), Err(StoreError::NoEnt));
}

#[test]
fn a_relative_path_starts_at_the_callers_home() {
    let mut net = Net::new(&[7]);
    net.write(7, "data/x", "1").unwrap();
    assert_eq!(net.read(0, "/local/domain/7/data/x"), Ok("1".into()));
    assert_eq!(net.ok(7, MessageType::GetDomainPath, "7\0"), "/local/domain/7\0");
    assert_eq!(
        net.ok(7, MessageType::GetDomainPath, "99\0"),
        "/local/domain/99\0"
    );
}

#[test]
fn mkdir_makes_a_node_and_leaves_one_that_is_there() {
    let mut net = Net::new(&[]);
    net.ok(0, MessageType::Mkdir, "/a/b\0");
    net.write(0, "/a/b", "kept").unwrap();
    assert_eq!(net.ok(0, MessageType::Mkdir, "/a/b\0"), "OK\0");
    assert_eq!(net.read(0, "/a/b"), Ok("kept".into()));
}

#[test]
fn rm_takes_all_below_and_a_missing_leaf_is_no_error() {
    let mut net = Net::new(&[]);
    net.write(0, "/a/b/c", "1").unwrap();
    net.write(0, "/a/b-c", "2").unwrap();
    assert_eq!(net.rm(0, "/a/b"), Ok("OK\0".into()));
    assert_eq!(net.read(0, "/a/b/c"), Err(StoreError::NoEnt));
    assert_eq!(net.read(0, "/a/b-c"), Ok("2".into()));
    assert_eq!(net.rm(0, "/a/b"), Ok("OK\0".into()), "its parent is there");
    assert_eq!(net.rm(0, "/a/b/c"), Err(StoreError::NoEnt));
    assert_eq!(net.rm(0, "/"), Err(StoreError::Inval));
}

#[test]
fn a_directory_lists_names_in_order() {
    let mut net = Net::new(&[]);
    for name in ["b", "a", "c-d", "c"] {
        net.write(0, &format!("/dir/{name}"), "").unwrap();
    }
    assert_eq!(net.ok(0, MessageType::Directory, "/dir\0"), "a\0b\0c\0c-d\0");
    assert_eq!(net.ok(0, MessageType::Directory, "/dir/a\0"), "");
    assert_eq!(
        net.ask(0, MessageType::Directory, "/none\0"),
        Err(StoreError::NoEnt)
    );
    assert_eq!(net.ok(0, MessageType::Directory, "/\0"), "dir\0");
}

#[test]
fn a_long_directory_is_read_in_parts() {
    let mut net = Net::new(&[]);
    let names: Vec<String> = (0..1000).map(|number| format!("name-{number:04}")).collect();
    for name in &names {
        net.write(0, &format!("/dir/{name}"), "").unwrap();
    }
    assert_eq!(
        net.ask(0, MessageType::Directory, "/dir\0"),
        Err(StoreError::TooBig)
    );
    let (mut found, mut offset, mut generations) = (Vec::new(), 0, Vec::new());
    loop {
        let part = net.ok(0, MessageType::DirectoryPart, &format!("/dir\0{offset}\0"));
        assert!(part.len() <= 4096);
        let (generation, list) = part.split_once('\0').unwrap();
        generations.push(generation.to_string());
        let is_last = list.ends_with("\0\0");
        let list = if is_last { &list[..list.len() - 1] } else { list };
        offset += list.len();
        found.extend(list.split_terminator('\0').map(String::from));
        if is_last {
            break;
        }
    }
    assert_eq!(found, names);
    assert!(generations.len() > 2 && generations.windows(2).all(|pair| pair[0] == pair[1]));
    // A value changes no list; a name more does.
    let generation = |net: &mut Net| {
        let part = net.ok(0, MessageType::DirectoryPart, &format!("/dir\0{offset}\0"));
        part.strip_suffix("\0\0")
            .map(String::from)
            .expect("past the end is an empty name")
    };
    net.write(0, "/dir/name-0000", "new").unwrap();
    assert_eq!(generation(&mut net), generations[0]);
    net.rm(0, "/dir/name-0000").unwrap();
    assert_ne!(generation(&mut net), generations[0]);
    let middle = net.ok(0, MessageType::DirectoryPart, "/dir\x001\0");
    assert!(middle.contains("\0name-0002\0"), "goes on at the next whole name");
}

#[test]
fn unknown_and_malformed_requests_are_refused() {
    let mut net = Net::new(&[1]);
    for kind in [15, 16, 20, 23, 99, u32::MAX] {
        assert_eq!(net.ask_raw(1, 0, kind, b"x\0"), Err(StoreError::NoSys));
    }
    for (kind, payload) in [
        (MessageType::Read, "data"),
        (MessageType::Read, "/a//b\0"),
        (MessageType::Read, "/a/\0"),
        (MessageType::Read, "/ä\0"),
        (MessageType::Write, "data"),
        (MessageType::SetPerms, "data\0"),
        (MessageType::Watch, "data\0"),
        (MessageType::TransactionEnd, "\0"),
        (MessageType::GetDomainPath, "x\0"),
    ] {
        assert_eq!(
            net.ask(1, kind, payload),
            Err(StoreError::Inval),
            "{kind} {payload:?}"
        );
    }
}

#[test]
fn domains_are_introduced_and_released_by_domain_0_alone() {
    let mut net = Net::new(&[1]);
    for (kind, payload) in [
        (MessageType::Introduce, "5\x00100\x003\0"),
        (MessageType::Release, "1\0"),
        (MessageType::Resume, "1\0"),
        (MessageType::SetTarget, "1\x000\0"),
        (MessageType::Control, "help\0"),
    ] {
        assert_eq!(net.ask(1, kind, payload), Err(StoreError::Acces), "{kind}");
    }
    assert_eq!(net.store.next_action(), None);
    assert_eq!(net.ok(1, MessageType::IsDomainIntroduced, "5\0"), "F\0");
    net.ok(0, MessageType::Introduce, "5\x00100\x003\0");
    assert_eq!(net.ok(1, MessageType::IsDomainIntroduced, "5\0"), "T\0");
    assert_eq!(net.ok(1, MessageType::IsDomainIntroduced, "0\0"), "T\0");
    let introduced = Action::Introduce {
        domain: DomId::new(5),
        mfn: 100,
        port: 3,
    };
    assert_eq!(net.store.next_action(), Some(introduced));
    net.ok(0, MessageType::Resume, "5\0");
    assert_eq!(net.store.next_action(), Some(Action::Resume(DomId::new(5))));
    net.ok(0, MessageType::Release, "5\0");
    assert_eq!(net.store.next_action(), Some(Action::Release(DomId::new(5))));
    assert_eq!(net.store.next_action(), None);
    assert_eq!(net.ask(0, MessageType::Release, "5\0"), Err(StoreError::NoEnt));
    assert_eq!(net.ask(0, MessageType::Resume, "5\0"), Err(StoreError::NoEnt));
    assert_eq!(net.ask(0, MessageType::Release, "0\0"), Err(StoreError::Inval));
    for nobody in ["0", "32752"] {
        let asked = net.ask(0, MessageType::Introduce, &format!("{nobody}\x001\x001\0"));
        assert_eq!(asked, Err(StoreError::Inval));
    }
    assert_eq!(net.ok(0, MessageType::Control, "help\0"), "commands: help\0");
    assert_eq!(net.ask(0, MessageType::Control, "what\0"), Err(StoreError::Inval));
}

#[test]
fn a_domain_that_is_introduced_again_starts_anew() {
    let mut net = Net::new(&[1]);
    net.watch(1, "data", "t");
    let tx = net.start(1);
    net.store.feed(DomId::new(1), &[1, 2, 3]);
    net.ok(0, MessageType::Introduce, "1\x00100\x003\0");
    assert!(net.store.next_action().is_some());
    net.write(0, "/local/domain/1/data/x", "").unwrap();
    assert_eq!(net.events(1), [""; 0]);
    assert_eq!(net.commit(1, tx), Err(StoreError::NoEnt));
}

#[test]
fn nodes_and_permissions_outlive_their_domain() {
    let mut net = Net::new(&[1, 2]);
    net.write(1, "data/x", "kept").unwrap();
    net.ok(1, MessageType::SetPerms, "data/x\0n1\0r2\0");
    let owned = net.store.nodes_of(DomId::new(1));
    assert!(net.store.release(DomId::new(1)));
    assert!(!net.store.release(DomId::new(1)));
    assert_eq!(net.read(2, "/local/domain/1/data/x"), Ok("kept".into()));
    assert_eq!(net.store.nodes_of(DomId::new(1)), owned);
    net.store.introduce(DomId::new(1)).unwrap();
    assert_eq!(net.read(1, "data/x"), Ok("kept".into()), "the successor owns it");
    assert_eq!(
        net.store.introduce(DomId::new(1)),
        Err(IntroduceError::Introduced)
    );
    assert_eq!(net.store.introduce(DomId::new(0)), Err(IntroduceError::NoGuest));
    assert_eq!(net.store.introduce(DomId::SELF), Err(IntroduceError::NoGuest));
}

#[test]
fn domain_0_has_methods_for_what_messages_do() {
    let mut store = Store::new();
    let node = path("/a/b");
    store.write(Tx::NONE, &node, b"1").unwrap();
    store.mkdir(Tx::NONE, &path("/a/c")).unwrap();
    assert_eq!(&*store.read(Tx::NONE, &node).unwrap(), b"1");
    let names = store.directory(Tx::NONE, &path("/a")).unwrap();
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["b", "c"]);
    let perms = Perms::private(DomId::new(3)).with(Access::Read, DomId::new(4));
    store
        .set_perms(Tx::NONE, &Place::Node(node.clone()), perms.clone())
        .unwrap();
    assert_eq!(store.perms(Tx::NONE, &Place::Node(node.clone())), Ok(perms));
    store.watch(Place::Node(path("/a")), b"token").unwrap();
    store
        .watch(Place::Special(Special::IntroduceDomain), b"come")
        .unwrap();
    assert_eq!(
        store.watch(Place::Node(path("/a")), b"token"),
        Err(StoreError::Exist)
    );
    let tx = store.start();
    store.write(tx, &node, b"2").unwrap();
    assert_eq!(&*store.read(Tx::NONE, &node).unwrap(), b"1");
    store.end(tx, End::Commit).unwrap();
    assert_eq!(store.end(tx, End::Commit), Err(StoreError::NoEnt));
    store.introduce(DomId::new(9)).unwrap();
    let mut events = Vec::new();
    while let Some(event) = store.next_event() {
        events.push((event.path, String::from_utf8(event.token).unwrap()));
    }
    let expected = [("/a", "token"), ("@introduceDomain", "come"), ("/a/b", "token")];
    // The special watch's first event, and that of the domain, are equal, and one waited when the other came.
    assert_eq!(events, expected.map(|(path, token)| (path.into(), token.into())));
    store.unwatch(&Place::Node(path("/a")), b"token").unwrap();
    assert_eq!(
        store.unwatch(&Place::Node(path("/a")), b"token"),
        Err(StoreError::NoEnt)
    );
    store.rm(Tx::NONE, &path("/a")).unwrap();
    assert_eq!(store.read(Tx::NONE, &node), Err(StoreError::NoEnt));
    assert_eq!(store.next_event(), None);
}

#[test]
fn a_tree_as_deep_as_a_path_is_long_is_made_copied_and_dropped() {
    let mut store = Store::new();
    let deep = path(&"/x".repeat(1536));
    // On a thread whose stack would not hold a recursion.
    let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
        store.write(Tx::NONE, &deep, b"bottom").unwrap();
        let tx = store.start();
        store.write(tx, &deep, b"changed").unwrap();
        store.end(tx, End::Commit).unwrap();
        assert_eq!(&*store.read(Tx::NONE, &deep).unwrap(), b"changed");
        store.rm(Tx::NONE, &path("/x")).unwrap();
        assert_eq!(store.nodes_of(DomId::new(0)), 1);
        store.write(Tx::NONE, &deep, b"again").unwrap();
        drop(store);
    });
    thread.unwrap().join().unwrap();
}
