//! Any bytes as a stream of messages, cut anywhere: the same messages come out however it is cut, each is a request or
//! refused, and what is accepted has the form that it promises.
#![no_main]

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::PAYLOAD_MAX;
use bulkhead_bus::client::Core;
use bulkhead_bus::wire::{Decoder, Message, Path, Perms, Place, Request, TooLong, WatchPath, error_of};
use libfuzzer_sys::fuzz_target;

const GUEST: DomId = DomId::new(7);

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, stream)) = bytes.split_first() else {
        return;
    };
    let whole = decode(stream, usize::MAX);
    assert_eq!(
        whole,
        decode(stream, usize::from(*cut).max(1)),
        "a cut changes nothing"
    );
    for message in &whole.0 {
        assert!(message.payload.len() <= PAYLOAD_MAX);
        assert_eq!(message.payload.len(), message.header.len as usize);
        let kind = message.header.message_type;
        if let Ok(request) = Request::parse(kind, &message.payload, GUEST) {
            check(&request);
        }
        let _ = error_of(&message.payload);
    }
    // A client takes them for a store's.
    let mut client = Core::new();
    let watch = client.watch("a").expect("nothing is broken yet");
    let broken = client.input(stream);
    assert_eq!(client.input(&[]), broken, "what is broken stays so");
    client.unwatch(watch.0);
});

fn decode(stream: &[u8], cut: usize) -> (Vec<Message>, Option<TooLong>) {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for chunk in stream.chunks(cut) {
        let mut rest = chunk;
        while !rest.is_empty() {
            match decoder.feed(rest) {
                Ok((used, message)) => {
                    messages.extend(message);
                    rest = &rest[used..];
                }
                Err(why) => return (messages, Some(why)),
            }
        }
    }
    (messages, None)
}

fn check(request: &Request<'_>) {
    match request {
        Request::Directory(path)
        | Request::DirectoryPart(path, _)
        | Request::Read(path)
        | Request::Write(path, _)
        | Request::Mkdir(path)
        | Request::Rm(path) => check_path(path),
        Request::GetPerms(place) => check_place(place),
        Request::SetPerms(place, perms) => {
            check_place(place);
            assert_eq!(Perms::parse(perms.to_text().as_bytes()).as_ref(), Ok(perms));
        }
        Request::Watch(WatchPath { place, .. }, _) | Request::Unwatch(WatchPath { place, .. }, _) => {
            check_place(place)
        }
        _ => {}
    }
}

fn check_place(place: &Place) {
    if let Place::Node(path) = place {
        check_path(path);
    }
}

fn check_path(path: &Path) {
    assert_eq!(Path::parse(path.as_str().as_bytes(), GUEST).as_ref(), Ok(path));
    assert!(path.parts().all(|part| !part.is_empty()));
    assert_eq!(path.lineage().count(), path.parts().count() + 1);
}
