//! Who may do what.

use bulkhead_abi::xenstore::{MessageType, StoreError};

use super::Net;

/// Domain 1 owns `/node`; domain 2 has `access`, domain 3 is not named.
fn with_access(access: &str) -> Net {
    let mut net = Net::new(&[1, 2, 3]);
    net.write(0, "/node/below", "v").unwrap();
    for node in ["/node", "/node/below"] {
        net.ok(0, MessageType::SetPerms, &format!("{node}\0n1\0{access}2\0"));
    }
    net
}

#[test]
fn access_is_what_the_entry_says() {
    for (access, may_read, may_write) in [
        ("n", false, false),
        ("r", true, false),
        ("w", false, true),
        ("b", true, true),
    ] {
        let mut net = with_access(access);
        let expect = |allowed: bool| if allowed { Ok(()) } else { Err(StoreError::Acces) };
        let mut ask = |domain, kind, payload: &str| net.ask(domain, kind, payload).map(|_| ());
        for kind in [MessageType::Read, MessageType::Directory, MessageType::GetPerms] {
            assert_eq!(ask(2, kind, "/node\0"), expect(may_read), "{access} {kind}");
            assert_eq!(ask(1, kind, "/node\0"), Ok(()));
            assert_eq!(ask(3, kind, "/node\0"), Err(StoreError::Acces));
        }
        assert_eq!(
            ask(2, MessageType::DirectoryPart, "/node\x000\0"),
            expect(may_read)
        );
        for (kind, payload) in [
            (MessageType::Write, "/node/below\0new"),
            (MessageType::Mkdir, "/node/below\0"),
            (MessageType::Mkdir, "/node/new\0"),
            (MessageType::Rm, "/node/below\0"),
        ] {
            assert_eq!(ask(3, kind, payload), Err(StoreError::Acces));
            assert_eq!(ask(2, kind, payload), expect(may_write), "{access} {kind}");
        }
        assert_eq!(
            ask(2, MessageType::SetPerms, "/node\0n1\0"),
            Err(StoreError::Acces)
        );
        assert_eq!(ask(1, MessageType::SetPerms, "/node\0r1\0"), Ok(()));
        assert_eq!(
            ask(3, MessageType::Read, "/node\0"),
            Ok(()),
            "by the owner's entry"
        );
    }
}

#[test]
fn only_domain_0_gives_a_node_to_another() {
    let mut net = with_access("b");
    assert_eq!(
        net.ask(1, MessageType::SetPerms, "/node\0n2\0"),
        Err(StoreError::Perm)
    );
    net.ok(0, MessageType::SetPerms, "/node\0n2\0");
    assert_eq!(net.ask(1, MessageType::Read, "/node\0"), Err(StoreError::Acces));
    assert_eq!(net.ok(2, MessageType::GetPerms, "/node\0"), "n2\0");
}

#[test]
fn whether_a_node_is_missing_is_told_to_those_who_may_ask_its_parent() {
    let mut net = with_access("r");
    assert_eq!(net.read(2, "/node/none/deep"), Err(StoreError::NoEnt));
    assert_eq!(net.read(3, "/node/none/deep"), Err(StoreError::Acces));
    assert_eq!(
        net.read(2, "/none"),
        Err(StoreError::Acces),
        "the root is domain 0's"
    );
    assert_eq!(net.rm(2, "/node/none"), Err(StoreError::Acces));
    assert_eq!(net.rm(1, "/node/none"), Ok("OK\0".into()));
    assert_eq!(
        net.ask(1, MessageType::SetPerms, "/node/none\0n1\0"),
        Err(StoreError::NoEnt)
    );
}

#[test]
fn a_new_node_inherits_permissions_and_belongs_to_its_creator() {
    let mut net = with_access("b");
    net.write(2, "/node/x/y", "").unwrap();
    for node in ["/node/x", "/node/x/y"] {
        assert_eq!(net.ok(0, MessageType::GetPerms, &format!("{node}\0")), "n2\0b2\0");
    }
    net.write(1, "/node/mine", "").unwrap();
    assert_eq!(net.ok(0, MessageType::GetPerms, "/node/mine\0"), "n1\0b2\0");
    net.write(0, "/node/z", "").unwrap();
    assert_eq!(
        net.ok(0, MessageType::GetPerms, "/node/z\0"),
        "n1\0b2\0",
        "the list whole"
    );
}

#[test]
fn a_write_leaves_permissions_alone() {
    let mut net = with_access("b");
    net.write(2, "/node", "x").unwrap();
    net.write(0, "/node", "y").unwrap();
    assert_eq!(net.ok(0, MessageType::GetPerms, "/node\0"), "n1\0b2\0");
}

#[test]
fn a_domain_with_a_target_has_its_rights_until_the_target_goes() {
    let mut net = with_access("n");
    assert_eq!(net.read(3, "/node"), Err(StoreError::Acces));
    net.ok(0, MessageType::SetTarget, "3\x001\0");
    assert_eq!(net.read(3, "/node"), Ok(String::new()));
    net.ok(3, MessageType::SetPerms, "/node\0n1\0w2\0");
    net.ok(0, MessageType::Release, "1\0");
    assert_eq!(net.read(3, "/node"), Err(StoreError::Acces));
    assert_eq!(
        net.ask(0, MessageType::SetTarget, "3\x001\0"),
        Err(StoreError::NoEnt)
    );
}

#[test]
fn special_watches_have_permissions_of_their_own() {
    let mut net = Net::new(&[1]);
    assert_eq!(
        net.ask(1, MessageType::GetPerms, "@releaseDomain\0"),
        Err(StoreError::Acces)
    );
    assert_eq!(
        net.ask(1, MessageType::SetPerms, "@releaseDomain\0r1\0"),
        Err(StoreError::Acces)
    );
    assert_eq!(net.ok(0, MessageType::GetPerms, "@releaseDomain\0"), "n0\0");
    net.ok(0, MessageType::SetPerms, "@releaseDomain\0n0\0r1\0");
    assert_eq!(net.ok(0, MessageType::GetPerms, "@releaseDomain\0"), "n0\0r1\0");
    assert_eq!(
        net.ask(0, MessageType::Read, "@releaseDomain\0"),
        Err(StoreError::Inval)
    );
}
