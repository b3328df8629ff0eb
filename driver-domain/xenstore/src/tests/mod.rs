//! The store as domains and their rings see it.
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

mod client;
mod hostile;
mod model;
mod operations;
mod permissions;
mod quotas;
mod transactions;
mod watches;

use std::collections::BTreeMap;

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::{MessageHeader, MessageType, StoreError};
use bulkhead_bus::wire::{Decoder, encode, error_of};

use crate::{Path, Quotas, Store};

/// A store and guests that read all that it says.
struct Net {
    store: Store,
    requests: u32,
    /// Events by domain, as `path token`, that were not looked at yet.
    events: BTreeMap<u16, Vec<String>>,
}

impl Net {
    /// A store with these guests, each with a home of its own: `/local/domain/N` is (n0,rN), `data` below it (nN).
    fn new(guests: &[u16]) -> Self {
        Self::with(Quotas::DEFAULT, guests)
    }

    fn with(quotas: Quotas, guests: &[u16]) -> Self {
        let mut net = Self {
            store: Store::with_quotas(quotas),
            requests: 0,
            events: BTreeMap::new(),
        };
        for guest in guests {
            net.store.introduce(DomId::new(*guest)).unwrap();
            let home = format!("/local/domain/{guest}");
            net.ok(0, MessageType::Mkdir, &format!("{home}/data\0"));
            net.ok(0, MessageType::SetPerms, &format!("{home}\0n0\0r{guest}\0"));
            net.ok(0, MessageType::SetPerms, &format!("{home}/data\0n{guest}\0"));
        }
        net
    }

    /// Makes a request outside transactions.
    fn ask(&mut self, domain: u16, kind: MessageType, payload: &str) -> Result<String, StoreError> {
        self.ask_in(domain, 0, kind, payload)
    }

    fn ask_in(
        &mut self,
        domain: u16,
        tx: u32,
        kind: MessageType,
        payload: &str,
    ) -> Result<String, StoreError> {
        self.ask_raw(domain, tx, kind.raw(), payload.as_bytes())
            .map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn ask_raw(&mut self, domain: u16, tx: u32, kind: u32, payload: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.requests += 1;
        let header = MessageHeader {
            message_type: kind,
            req_id: self.requests,
            tx_id: tx,
            len: 0,
        };
        let mut bytes = Vec::new();
        encode(header, &[payload], &mut bytes).unwrap();
        assert!(self.store.wants_input(DomId::new(domain)));
        self.store.feed(DomId::new(domain), &bytes);
        self.store.invariants();
        let reply = self.read_output(domain).expect("each request has a reply");
        assert_eq!((reply.0.req_id, reply.0.tx_id), (self.requests, tx));
        if reply.0.message_type == MessageType::Error.raw() {
            return Err(error_of(&reply.1).expect("a known error"));
        }
        assert_eq!(reply.0.message_type, kind);
        Ok(reply.1)
    }

    /// Reads all output of a domain: keeps events, gives the reply if there is one.
    fn read_output(&mut self, domain: u16) -> Option<(MessageHeader, Vec<u8>)> {
        let mut reply = None;
        let mut decoder = Decoder::new();
        let mut buffer = [0; 100];
        loop {
            let count = self.store.take_output(DomId::new(domain), &mut buffer);
            if count == 0 {
                break;
            }
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                let (used, message) = decoder.feed(rest).unwrap();
                rest = &rest[used..];
                let Some(message) = message else { continue };
                if message.header.message_type == MessageType::WatchEvent.raw() {
                    let text = String::from_utf8(message.payload).unwrap();
                    let event = text.strip_suffix('\0').unwrap().replacen('\0', " ", 1);
                    self.events.entry(domain).or_default().push(event);
                } else {
                    assert!(reply.is_none(), "one reply to one request");
                    reply = Some((message.header, message.payload));
                }
            }
        }
        reply
    }

    /// A request that is done.
    #[track_caller]
    fn ok(&mut self, domain: u16, kind: MessageType, payload: &str) -> String {
        self.ask(domain, kind, payload).unwrap()
    }

    fn write(&mut self, domain: u16, path: &str, value: &str) -> Result<String, StoreError> {
        self.ask(domain, MessageType::Write, &format!("{path}\0{value}"))
    }

    fn read(&mut self, domain: u16, path: &str) -> Result<String, StoreError> {
        self.ask(domain, MessageType::Read, &format!("{path}\0"))
    }

    fn rm(&mut self, domain: u16, path: &str) -> Result<String, StoreError> {
        self.ask(domain, MessageType::Rm, &format!("{path}\0"))
    }

    fn start(&mut self, domain: u16) -> u32 {
        let id = self.ok(domain, MessageType::TransactionStart, "\0");
        id.strip_suffix('\0').unwrap().parse().unwrap()
    }

    fn commit(&mut self, domain: u16, tx: u32) -> Result<String, StoreError> {
        self.ask_in(domain, tx, MessageType::TransactionEnd, "T\0")
    }

    #[track_caller]
    fn watch(&mut self, domain: u16, path: &str, token: &str) {
        assert_eq!(
            self.ok(domain, MessageType::Watch, &format!("{path}\0{token}\0")),
            "OK\0"
        );
        assert_eq!(
            self.events(domain),
            [format!("{path} {token}")],
            "one event at once"
        );
    }

    /// The events of a domain since the last look.
    fn events(&mut self, domain: u16) -> Vec<String> {
        assert!(self.read_output(domain).is_none());
        self.events.remove(&domain).unwrap_or_default()
    }
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}
