//! The core against a store that these tests play.

use std::string::{String, ToString};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Wake, Waker};

use bulkhead_abi::xenstore::{MessageHeader, MessageType, StoreError};

use super::*;
use crate::wire::{Decoder, Message, encode, encode_error, encode_event};

#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the client asked since the last look.
fn asked(core: &mut Core) -> Vec<Message> {
    let mut found = Vec::new();
    let mut decoder = Decoder::new();
    while !core.output().is_empty() {
        let (used, message) = decoder.feed(core.output()).unwrap();
        core.sent(used);
        found.extend(message);
    }
    found
}

fn kinds(messages: &[Message]) -> Vec<MessageType> {
    messages
        .iter()
        .map(|message| MessageType::from_raw(message.header.message_type).unwrap())
        .collect()
}

fn answer(to: &Message, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(to.header, &[payload], &mut bytes).unwrap();
    bytes
}

fn event(path: &str, token: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_event(path, token.as_bytes(), &mut bytes).unwrap();
    bytes
}

fn reply(core: &mut Core, id: u32) -> Poll<Result<Vec<u8>, Error>> {
    core.poll_reply(id, Waker::noop())
}

fn next(core: &mut Core, watch: u32) -> Poll<Result<String, Error>> {
    core.poll_event(watch, Waker::noop())
}

#[test]
fn replies_find_their_requests_in_any_order() {
    let mut core = Core::new();
    let first = core.request(MessageType::Read, 0, &[b"a\0"]).unwrap();
    let second = core.request(MessageType::Read, 5, &[b"b", b"\0"]).unwrap();
    let messages = asked(&mut core);
    assert_eq!(messages[1].payload, b"b\0");
    assert_eq!(messages[1].header.tx_id, 5);
    assert_eq!(reply(&mut core, first), Poll::Pending);
    core.input(&answer(&messages[1], b"two")).unwrap();
    let mut refused = Vec::new();
    encode_error(messages[0].header, StoreError::Acces, &mut refused);
    for byte in refused {
        core.input(&[byte]).unwrap();
    }
    assert_eq!(reply(&mut core, second), Poll::Ready(Ok(b"two".to_vec())));
    assert_eq!(
        reply(&mut core, first),
        Poll::Ready(Err(Error::Refused(StoreError::Acces)))
    );
}

#[test]
fn who_waits_is_woken_once_by_the_reply() {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    let mut core = Core::new();
    let id = core.request(MessageType::Read, 0, &[b"a\0"]).unwrap();
    assert!(core.poll_reply(id, &waker).is_pending());
    assert!(core.poll_reply(id, &waker).is_pending());
    let messages = asked(&mut core);
    core.input(&answer(&messages[0], b"")).unwrap();
    assert_eq!(bell.0.load(Ordering::Relaxed), 1);
}

#[test]
fn a_reply_to_no_request_breaks_the_connection_for_all() {
    let bell = Arc::new(Bell::default());
    let mut core = Core::new();
    let id = core.request(MessageType::Read, 0, &[b"a\0"]).unwrap();
    let (watch, _) = core.watch("a").unwrap();
    let waker = Waker::from(bell.clone());
    assert!(core.poll_reply(id, &waker).is_pending() && core.poll_event(watch, &waker).is_pending());
    let header = MessageHeader {
        message_type: 2,
        req_id: 77,
        tx_id: 0,
        len: 0,
    };
    let mut bytes = Vec::new();
    encode(header, &[], &mut bytes).unwrap();
    let broken = Broken::Unasked(77);
    assert_eq!(core.input(&bytes), Err(broken));
    assert_eq!(bell.0.load(Ordering::Relaxed), 2, "both who wait are told");
    assert_eq!(reply(&mut core, id), Poll::Ready(Err(Error::Broken(broken))));
    assert_eq!(next(&mut core, watch), Poll::Ready(Err(Error::Broken(broken))));
    assert_eq!(
        core.request(MessageType::Read, 0, &[]),
        Err(Error::Broken(broken))
    );
    assert!(core.output().is_empty());
}

#[test]
fn an_answer_of_another_type_or_an_unknown_error_is_told_as_such() {
    let mut core = Core::new();
    let first = core.request(MessageType::Read, 0, &[b"a\0"]).unwrap();
    let second = core.request(MessageType::Read, 0, &[b"a\0"]).unwrap();
    let mut messages = asked(&mut core);
    messages[0].header.message_type = MessageType::Rm.raw();
    core.input(&answer(&messages[0], b"OK\0")).unwrap();
    messages[1].header.message_type = MessageType::Error.raw();
    core.input(&answer(&messages[1], b"EODD\0")).unwrap();
    assert_eq!(reply(&mut core, first), Poll::Ready(Err(Error::Answer)));
    assert_eq!(
        reply(&mut core, second),
        Poll::Ready(Err(Error::Refused(StoreError::Io)))
    );
}

#[test]
fn events_go_to_their_watch_and_equal_ones_that_wait_are_one() {
    let mut core = Core::new();
    let (first, _) = core.watch("a").unwrap();
    let (second, _) = core.watch("b").unwrap();
    let [one, two] = [first, second].map(|watch| watch.to_string());
    for (path, token) in [("a", &one), ("b", &two), ("a/x", &one), ("a", &one)] {
        core.input(&event(path, token)).unwrap();
    }
    core.input(&event("c", "999")).unwrap();
    core.input(&event("c", "no number")).unwrap();
    assert_eq!(next(&mut core, first), Poll::Ready(Ok("a".to_string())));
    assert_eq!(next(&mut core, first), Poll::Ready(Ok("a/x".to_string())));
    assert_eq!(next(&mut core, first), Poll::Pending);
    assert_eq!(next(&mut core, second), Poll::Ready(Ok("b".to_string())));
}

#[test]
fn too_many_events_become_one_for_the_watched_path() {
    let mut core = Core::new();
    let (watch, _) = core.watch("a").unwrap();
    for name in 0..=EVENTS_MAX {
        core.input(&event(&format!("a/{name}"), &watch.to_string()))
            .unwrap();
    }
    assert_eq!(next(&mut core, watch), Poll::Ready(Ok("a".to_string())));
    assert_eq!(next(&mut core, watch), Poll::Pending);
}

#[test]
fn what_was_forgotten_is_undone() {
    let mut core = Core::new();
    // A reply that nobody wants is dropped; one that is there already, too.
    let read = core.request(MessageType::Read, 0, &[b"a\0"]).unwrap();
    let start = core.request(MessageType::TransactionStart, 0, &[b"\0"]).unwrap();
    let late = core.request(MessageType::TransactionStart, 0, &[b"\0"]).unwrap();
    let messages = asked(&mut core);
    core.forget(read);
    core.forget(start);
    core.input(&answer(&messages[0], b"5\0")).unwrap();
    assert!(core.output().is_empty(), "a value is no transaction");
    core.input(&answer(&messages[1], b"12\0")).unwrap();
    let ended = asked(&mut core);
    assert_eq!(kinds(&ended), [MessageType::TransactionEnd]);
    assert_eq!((ended[0].header.tx_id, &*ended[0].payload), (12, &b"F\0"[..]));
    core.input(&answer(&messages[2], b"13\0")).unwrap();
    core.forget(late);
    assert_eq!(asked(&mut core)[0].header.tx_id, 13);
    // A watch ends at the store.
    let (watch, _) = core.watch("a").unwrap();
    core.unwatch(watch);
    let messages = asked(&mut core);
    assert_eq!(kinds(&messages), [MessageType::Watch, MessageType::Unwatch]);
    assert_eq!(messages[0].payload, messages[1].payload);
    for message in messages.iter().chain(&ended) {
        core.input(&answer(message, b"OK\0")).unwrap();
    }
}

#[test]
fn a_request_that_is_too_long_is_refused_here() {
    let mut core = Core::new();
    let refused = core.request(MessageType::Write, 0, &[b"a\0", &[0; 4095]]);
    assert_eq!(refused, Err(Error::Refused(StoreError::TooBig)));
    assert!(core.output().is_empty());
}
