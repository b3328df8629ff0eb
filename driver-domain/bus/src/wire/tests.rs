//! What the protocol accepts, refuses and writes.

use std::string::ToString;

use bulkhead_abi::xenstore::{MessageHeader, MessageType, PAYLOAD_MAX, StoreError};
use bulkhead_abi::{Buffered, DomId};
use proptest::prelude::*;

use super::*;

const GUEST: DomId = DomId::new(7);

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

fn parse(kind: MessageType, payload: &[u8]) -> Result<Request<'_>, StoreError> {
    Request::parse(kind.raw(), payload, GUEST)
}

fn message(kind: MessageType, payload: &[u8]) -> Vec<u8> {
    let header = MessageHeader {
        message_type: kind.raw(),
        req_id: 3,
        tx_id: 4,
        len: 0,
    };
    let mut bytes = Vec::new();
    encode(header, &[payload], &mut bytes).unwrap();
    bytes
}

#[test]
fn paths_are_absolute_or_start_at_the_callers_home() {
    assert_eq!(Path::parse(b"/a/b-c_d@1", GUEST).unwrap().as_str(), "/a/b-c_d@1");
    assert_eq!(
        Path::parse(b"device", GUEST).unwrap().as_str(),
        "/local/domain/7/device"
    );
    assert!(Path::parse(b"/", GUEST).unwrap().is_root());
}

#[test]
fn what_is_no_path_is_refused_with_the_reason() {
    for (bytes, why) in [
        (&b""[..], PathError::Empty),
        (b"/a//b", PathError::EmptyPart),
        (b"//", PathError::EmptyPart),
        (b"/a/", PathError::EmptyPart),
        (b"a/", PathError::EmptyPart),
        (b"/a b", PathError::Character(b' ')),
        (b"/a\0", PathError::Character(0)),
        (b"/\xc3\xa4", PathError::Character(0xc3)),
        (b"@introduceDomain", PathError::Special),
        (b"@else", PathError::Special),
    ] {
        assert_eq!(Path::parse(bytes, GUEST), Err(why), "{}", bytes.escape_ascii());
    }
    assert_eq!(StoreError::from(PathError::Empty), StoreError::Inval);
    assert!(PathError::Character(b' ').to_string().contains("letters, digits"));
}

#[test]
fn a_path_may_have_3072_bytes_and_2048_if_it_is_relative() {
    let text = |first: &str, len: usize| first.to_string() + &"x".repeat(len - first.len());
    assert!(Path::parse(text("/", 3072).as_bytes(), GUEST).is_ok());
    assert_eq!(
        Path::parse(text("/", 3073).as_bytes(), GUEST),
        Err(PathError::TooLong(3073))
    );
    assert!(Path::parse(text("x", 2048).as_bytes(), GUEST).is_ok());
    assert_eq!(
        Path::parse(text("x", 2049).as_bytes(), GUEST),
        Err(PathError::TooLong(2049))
    );
}

#[test]
fn a_path_knows_its_family() {
    let long = path("/a/bc/d");
    assert_eq!(long.parts().collect::<Vec<_>>(), ["a", "bc", "d"]);
    assert_eq!(
        long.lineage().collect::<Vec<_>>(),
        ["/", "/a", "/a/bc", "/a/bc/d"]
    );
    assert_eq!(Path::root().lineage().collect::<Vec<_>>(), ["/"]);
    assert_eq!(Path::root().parts().count(), 0);
    assert_eq!(long.split(), Some((path("/a/bc"), "d")));
    assert_eq!(path("/a").split(), Some((Path::root(), "a")));
    assert_eq!(Path::root().split(), None);
    assert_eq!(long.truncated(0), Path::root());
    assert_eq!(long.truncated(2), path("/a/bc"));
    assert_eq!(long.truncated(9), long);
    assert!(long.is_below(&path("/a")) && long.is_below(&Path::root()));
    assert!(!path("/ab").is_below(&path("/a")) && !path("/a").is_below(&path("/a")));
    assert_eq!(path("/a").join("b/c"), Ok(path("/a/b/c")));
    assert_eq!(Path::root().join("b"), Ok(path("/b")));
    assert_eq!(Path::root().join(""), Err(PathError::Empty));
}

#[test]
fn special_names_can_be_watched_and_nothing_else_that_starts_so() {
    let special = WatchPath::parse(b"@releaseDomain", GUEST).unwrap();
    assert_eq!(special.place, Place::Special(Special::ReleaseDomain));
    assert!(!special.is_relative);
    assert_eq!(WatchPath::parse(b"@other", GUEST), Err(PathError::Special));
    assert!(WatchPath::parse(b"device", GUEST).unwrap().is_relative);
    assert!(!WatchPath::parse(b"/device", GUEST).unwrap().is_relative);
}

#[test]
fn permissions_read_as_they_are_written() {
    for text in ["n5\0", "n5\0r0\0", "b0\0w65535\0n1\0"] {
        assert_eq!(Perms::parse(text.as_bytes()).unwrap().to_text(), text);
    }
    for text in [
        "", "\0", "n5", "x5\0", "n\0", "n-1\0", "n+1\0", "n65536\0", "n5\0\0", "n5\0r\0", "n 5\0",
    ] {
        assert_eq!(Perms::parse(text.as_bytes()), Err(StoreError::Inval), "{text:?}");
    }
}

#[test]
fn the_first_entry_is_the_owners_and_holds_for_those_without_one() {
    let perms = Perms::parse(b"r5\0n6\0b7\0w7\0").unwrap();
    let access = |domain| perms.access(DomId::new(domain));
    assert_eq!(access(5), Access::Both);
    assert_eq!(access(6), Access::None);
    assert_eq!(access(7), Access::Both, "the first entry that names it decides");
    assert_eq!(access(8), Access::Read);
    assert!(Access::Both.allows(Access::Write) && !Access::Read.allows(Access::Write));
    assert!(!Access::Write.allows(Access::Read) && !Access::None.allows(Access::Read));
}

#[test]
fn each_type_of_request_is_understood() {
    let home = path("/local/domain/7/x");
    let watched = WatchPath::parse(b"x", GUEST).unwrap();
    for (kind, payload, request) in [
        (MessageType::Control, &b"help\0"[..], Request::Control(b"help\0")),
        (MessageType::Directory, b"x\0", Request::Directory(home.clone())),
        (
            MessageType::DirectoryPart,
            b"x\x0012\0",
            Request::DirectoryPart(home.clone(), 12),
        ),
        (MessageType::Read, b"x\0", Request::Read(home.clone())),
        (
            MessageType::GetPerms,
            b"x\0",
            Request::GetPerms(Place::Node(home.clone())),
        ),
        (
            MessageType::Watch,
            b"x\0t\0",
            Request::Watch(watched.clone(), b"t"),
        ),
        (MessageType::Watch, b"x\0\0", Request::Watch(watched.clone(), b"")),
        (MessageType::Unwatch, b"x\0t\0", Request::Unwatch(watched, b"t")),
        (MessageType::TransactionStart, b"\0", Request::TransactionStart),
        (MessageType::TransactionStart, b"", Request::TransactionStart),
        (
            MessageType::TransactionEnd,
            b"T\0",
            Request::TransactionEnd(End::Commit),
        ),
        (
            MessageType::TransactionEnd,
            b"F\0",
            Request::TransactionEnd(End::Abandon),
        ),
        (
            MessageType::Introduce,
            b"9\x00123\x004\0",
            Request::Introduce {
                domain: DomId::new(9),
                mfn: 123,
                port: 4,
            },
        ),
        (MessageType::Release, b"9\0", Request::Release(DomId::new(9))),
        (
            MessageType::GetDomainPath,
            b"9\0",
            Request::GetDomainPath(DomId::new(9)),
        ),
        (
            MessageType::Write,
            b"x\0v\0w",
            Request::Write(home.clone(), b"v\0w"),
        ),
        (MessageType::Write, b"x\0", Request::Write(home.clone(), b"")),
        (MessageType::Mkdir, b"x\0", Request::Mkdir(home.clone())),
        (MessageType::Rm, b"x\0", Request::Rm(home.clone())),
        (
            MessageType::SetPerms,
            b"x\0n7\0r0\0",
            Request::SetPerms(
                Place::Node(home),
                Perms::private(GUEST).with(Access::Read, DomId::new(0)),
            ),
        ),
        (
            MessageType::IsDomainIntroduced,
            b"9\0",
            Request::IsDomainIntroduced(DomId::new(9)),
        ),
        (MessageType::Resume, b"9\0", Request::Resume(DomId::new(9))),
        (
            MessageType::SetTarget,
            b"9\x008\0",
            Request::SetTarget(DomId::new(9), DomId::new(8)),
        ),
        (MessageType::ResetWatches, b"\0", Request::ResetWatches),
    ] {
        assert_eq!(parse(kind, payload), Ok(request), "{kind}");
    }
}

#[test]
fn payloads_that_do_not_fit_their_type_are_invalid() {
    for (kind, payload) in [
        (MessageType::Read, &b""[..]),
        (MessageType::Read, b"x"),
        (MessageType::Read, b"\0"),
        (MessageType::Read, b"x\0y\0"),
        (MessageType::Read, b"x\0y"),
        (MessageType::DirectoryPart, b"x\0"),
        (MessageType::DirectoryPart, b"x\0-1\0"),
        (MessageType::DirectoryPart, b"x\099999999999999999999\0"),
        (MessageType::Watch, b"x\0t"),
        (MessageType::Watch, b"x\0"),
        (MessageType::TransactionEnd, b"T"),
        (MessageType::TransactionEnd, b"X\0"),
        (MessageType::Write, b"x"),
        (MessageType::Write, b""),
        (MessageType::SetPerms, b"x\0"),
        (MessageType::Release, b"65536\0"),
        (MessageType::Release, b"\0"),
        (MessageType::Introduce, b"9\x001\x004294967296\0"),
        (MessageType::Introduce, b"9\x001\0"),
    ] {
        let refused = parse(kind, payload);
        assert_eq!(
            refused,
            Err(StoreError::Inval),
            "{kind} {}",
            payload.escape_ascii()
        );
    }
}

#[test]
fn types_that_ask_nothing_are_not_known() {
    for kind in [15, 16, 20, 23, 0xffff_ffff] {
        assert_eq!(Request::parse(kind, b"", GUEST), Err(StoreError::NoSys));
    }
}

#[test]
fn a_token_leaves_room_for_the_longest_path_in_its_events() {
    let longest = "/".to_string() + &"x".repeat(3071);
    let payload = |len: usize| [b"x\0", "t".repeat(len).as_bytes(), b"\0"].concat();
    assert!(parse(MessageType::Watch, &payload(TOKEN_MAX)).is_ok());
    assert_eq!(
        parse(MessageType::Watch, &payload(TOKEN_MAX + 1)),
        Err(StoreError::TooBig)
    );
    let mut event = Vec::new();
    encode_event(&longest, "t".repeat(TOKEN_MAX).as_bytes(), &mut event).unwrap();
    assert_eq!(event.len(), 16 + PAYLOAD_MAX);
}

#[test]
fn messages_are_what_the_abi_says_byte_by_byte() {
    assert_eq!(
        message(MessageType::Read, b"x\0"),
        [2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0, b'x', 0]
    );
    let mut out = Vec::new();
    let request = MessageHeader {
        message_type: 2,
        req_id: 1,
        tx_id: 0,
        len: 99,
    };
    encode_error(request, StoreError::NoEnt, &mut out);
    assert_eq!(
        out,
        [
            &[16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0],
            &b"ENOENT\0"[..]
        ]
        .concat()
    );
    let mut out = Vec::new();
    encode_event("/a", b"t", &mut out).unwrap();
    assert_eq!(
        out,
        [
            &[15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0],
            &b"/a\0t\0"[..]
        ]
        .concat()
    );
    assert_eq!(error_of(b"EAGAIN\0"), Some(StoreError::Again));
    assert_eq!(error_of(b"EWHAT\0"), None);
}

#[test]
fn a_message_that_is_too_long_is_not_begun() {
    let header = MessageHeader::read(MessageType::Read);
    let mut out = Vec::new();
    assert_eq!(
        encode(header, &[&[0; 4000], &[0; 97]], &mut out),
        Err(StoreError::TooBig)
    );
    assert!(out.is_empty());
    assert_eq!(encode(header, &[&[0; 4000], &[0; 96]], &mut out), Ok(()));
}

trait Read {
    fn read(kind: MessageType) -> MessageHeader;
}

impl Read for MessageHeader {
    fn read(kind: MessageType) -> MessageHeader {
        MessageHeader {
            message_type: kind.raw(),
            req_id: 0,
            tx_id: 0,
            len: 0,
        }
    }
}

#[test]
fn a_claim_of_too_much_payload_breaks_the_stream_for_good() {
    let mut decoder = Decoder::new();
    let header = MessageHeader {
        len: 4097,
        ..MessageHeader::read(MessageType::Read)
    };
    let why = TooLong { claimed: 4097 };
    assert_eq!(decoder.feed(&header.to_bytes()[..15]), Ok((15, None)));
    assert_eq!(decoder.feed(&header.to_bytes()[15..]), Err(why));
    assert_eq!(decoder.feed(&message(MessageType::Read, b"x\0")), Err(why));
}

#[test]
fn a_message_without_payload_ends_with_its_header() {
    let bytes = message(MessageType::TransactionStart, b"");
    let (used, message) = Decoder::new().feed(&bytes).unwrap();
    assert_eq!((used, message.unwrap().payload.len()), (16, 0));
}

proptest! {
    #[test]
    fn messages_come_out_as_they_went_in_however_the_stream_is_cut(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
        cuts in prop::collection::vec(1..40_usize, 1..20),
    ) {
        let stream: Vec<u8> = payloads.iter().flat_map(|bytes| message(MessageType::Write, bytes)).collect();
        let mut decoder = Decoder::new();
        let mut found = Vec::new();
        let mut rest = &stream[..];
        let mut cut = cuts.iter().cycle();
        while !rest.is_empty() {
            let chunk = &rest[..rest.len().min(*cut.next().unwrap())];
            let (used, message) = decoder.feed(chunk).unwrap();
            prop_assert!(used == chunk.len() || message.is_some());
            found.extend(message.map(|message| message.payload));
            rest = &rest[used..];
        }
        prop_assert_eq!(found, payloads);
    }

    #[test]
    fn any_payload_is_a_request_or_refused(kind in 0..24_u32, payload in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = Request::parse(kind, &payload, GUEST);
    }

    #[test]
    fn what_is_accepted_as_a_path_has_the_form_of_one(bytes in "[/ab@ ]{0,8}") {
        if let Ok(path) = Path::parse(bytes.as_bytes(), GUEST) {
            let rebuilt: String = path.parts().flat_map(|part| ["/", part]).collect();
            prop_assert_eq!(if path.is_root() { "/" } else { &rebuilt }, path.as_str());
        }
    }
}
