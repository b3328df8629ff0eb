//! Bytes in, bytes out.

use alloc::vec::Vec;

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::MessageHeader;
use bulkhead_bus::wire::{Message, Request, TooLong, encode, encode_error, encode_event};

use crate::store::Store;

impl Store {
    /// Takes bytes of a domain's requests, and does what they ask, but one request at a time: the next when the reply
    /// to the last has been taken. Ask [`wants_input`](Self::wants_input) before; the bytes are kept until then, however many they are.
    /// Bytes of a domain that is not connected, or whose connection is broken, are dropped.
    ///
    /// A request for a node of depth d costs O(d log n), n being the most children that a node on its way has, and:
    /// a change O(n) for each of the d nodes if a transaction has a snapshot that shares them, and one step for each watch at the node
    /// or an ancestor; RM, one for each node and each watch below; a list of children, their number; the end of a
    /// transaction, as much as all that it did; RESET_WATCHES, one for each of the caller's watches. Quotas bound what guests add to each.
    pub fn feed(&mut self, domain: DomId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&domain) else {
            return;
        };
        if connection.broken.is_none() {
            connection.input.extend_from_slice(bytes);
            self.work(domain);
        }
    }

    /// Whether the store would look at more bytes of a domain now. It does not while there are replies to take.
    #[must_use]
    pub fn wants_input(&self, domain: DomId) -> bool {
        self.connections.get(&domain).is_some_and(|connection| {
            connection.output.is_empty() && connection.input.is_empty() && connection.broken.is_none()
        })
    }

    /// Why no more of a domain's bytes are looked at, if that is so: they were not the protocol. Its ring is to be marked
    /// broken. It stays so until [`reconnect`](Self::reconnect).
    #[must_use]
    pub fn broken(&self, domain: DomId) -> Option<TooLong> {
        self.connections.get(&domain)?.broken
    }

    /// Whether there is output for a domain.
    #[must_use]
    pub fn has_output(&self, domain: DomId) -> bool {
        let connection = self.connections.get(&domain);
        connection.is_some_and(|connection| !connection.output.is_empty() || !connection.events.is_empty())
    }

    /// Takes bytes for a domain, replies and watch events, as many as there are and `buffer` has room for; tells how many.
    pub fn take_output(&mut self, domain: DomId, buffer: &mut [u8]) -> usize {
        let mut taken = 0_usize;
        while let Some(room) = buffer.get_mut(taken..).filter(|room| !room.is_empty()) {
            self.work(domain);
            let Some(connection) = self.connections.get_mut(&domain) else {
                break;
            };
            let count = room.len().min(connection.output.len());
            if count == 0 {
                break;
            }
            for (to, from) in room.iter_mut().zip(connection.output.drain(..count)) {
                *to = from;
            }
            taken = taken.saturating_add(count);
        }
        // What room was made for is done now, not when somebody looks again.
        self.work(domain);
        taken
    }

    /// A domain for which there may be output because of what others did. Take what it has room for; if it has none,
    /// its event channel will tell when it has. Domain 0 is named too, when it has events.
    pub fn next_ready(&mut self) -> Option<DomId> {
        self.ready.pop_first()
    }

    /// Makes output, if there is none and something to say: does the next request, or tells the next event.
    fn work(&mut self, domain: DomId) {
        while let Some(connection) = self.connections.get_mut(&domain)
            && connection.output.is_empty()
            && connection.broken.is_none()
            && !connection.input.is_empty()
        {
            match connection.decoder.feed(&connection.input) {
                Ok((used, message)) => {
                    connection.input.drain(..used.min(connection.input.len()));
                    if let Some(message) = message {
                        self.serve(domain, &message);
                    }
                }
                Err(why) => {
                    connection.broken = Some(why);
                    connection.input = Vec::new();
                }
            }
        }
        self.tell_next(domain);
    }

    /// Does a request and answers it. An event follows at once if one waits, so that requests without end do not
    /// keep a domain from its events.
    fn serve(&mut self, domain: DomId, message: &Message) {
        let header = message.header;
        let result = Request::parse(header.message_type, &message.payload, domain)
            .and_then(|request| self.request(domain, header.tx_id, request));
        // Who asked may be gone by its own request.
        let Some(connection) = self.connections.get_mut(&domain) else {
            return;
        };
        let answered = result.and_then(|payload| {
            let header = MessageHeader { len: 0, ..header };
            encode(header, &[&payload], &mut connection.output)
        });
        if let Err(error) = answered {
            encode_error(header, error, &mut connection.output);
        }
        self.next_event_out(domain);
    }

    fn tell_next(&mut self, domain: DomId) {
        let connection = self.connections.get(&domain);
        if connection.is_some_and(|connection| connection.output.is_empty()) {
            self.next_event_out(domain);
        }
    }

    fn next_event_out(&mut self, domain: DomId) {
        let Some(connection) = self.connections.get_mut(&domain) else {
            return;
        };
        if let Some(event) = connection.events.pop() {
            let path = event.path(domain);
            let fits = encode_event(&path, &event.watch.token, &mut connection.output);
            debug_assert_eq!(fits, Ok(()), "tokens are short enough for any path");
        }
    }
}
