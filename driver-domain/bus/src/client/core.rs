//! The client without futures: request numbers, replies, and queues of watch events.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::task::{Poll, Waker};

use bulkhead_abi::xenstore::{MessageHeader, MessageType, StoreError};

use super::{Broken, Error};
use crate::wire::{Decoder, Message, encode, error_of};

/// How many different paths may wait in a watch's queue. One more, and the queue is replaced by one event that names the
/// watched path itself: something at or below it changed.
pub const EVENTS_MAX: usize = 64;

/// A client's state. Bytes for the store come out of [`output`](Self::output), the store's go to
/// [`input`](Self::input).
#[derive(Debug, Default)]
pub struct Core {
    last_id: u32,
    last_watch: u32,
    decoder: Decoder,
    output: VecDeque<u8>,
    calls: BTreeMap<u32, Call>,
    watches: BTreeMap<u32, Queue>,
    broken: Option<Broken>,
}

/// A request that was made.
#[derive(Debug)]
enum Call {
    /// Its reply is to come.
    Waiting(MessageType, Option<Waker>),
    /// Its reply is there.
    Done(MessageType, Result<Vec<u8>, Error>),
    /// Its reply is to come, and nobody wants it.
    Forgotten(MessageType),
}

#[derive(Debug)]
struct Queue {
    path: String,
    events: VecDeque<String>,
    waker: Option<Waker>,
}

impl Queue {
    fn push(&mut self, path: String) {
        if self.events.contains(&path) {
            return;
        }
        if self.events.len() >= EVENTS_MAX {
            self.events.clear();
            self.events.push_back(self.path.clone());
        } else {
            self.events.push_back(path);
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Core {
    /// A client that has asked nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            last_id: 0,
            last_watch: 0,
            decoder: Decoder::new(),
            output: VecDeque::new(),
            calls: BTreeMap::new(),
            watches: BTreeMap::new(),
            broken: None,
        }
    }

    /// Makes a request with `parts` as its payload; gives its number.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooBig`] if the parts are too long for a message; [`Error::Broken`].
    pub fn request(&mut self, kind: MessageType, transaction: u32, parts: &[&[u8]]) -> Result<u32, Error> {
        if let Some(broken) = self.broken {
            return Err(broken.into());
        }
        let id = unused(self.last_id, &self.calls);
        let header = MessageHeader {
            message_type: kind.raw(),
            req_id: id,
            tx_id: transaction,
            len: 0,
        };
        encode(header, parts, &mut self.output)?;
        self.last_id = id;
        self.calls.insert(id, Call::Waiting(kind, None));
        Ok(id)
    }

    /// The payload of the reply to request `id`, once it is there; until then `waker` is kept, to be woken then. A
    /// result is given once.
    pub fn poll_reply(&mut self, id: u32, waker: &Waker) -> Poll<Result<Vec<u8>, Error>> {
        if let Some(Call::Waiting(_, kept)) = self.calls.get_mut(&id) {
            keep(kept, waker);
            return Poll::Pending;
        }
        Poll::Ready(match self.calls.remove(&id) {
            Some(Call::Done(_, result)) => result,
            Some(Call::Waiting(..) | Call::Forgotten(_)) | None => Err(Error::Answer),
        })
    }

    /// Forgets request `id`: its reply will be dropped. A transaction that it starts is ended.
    pub fn forget(&mut self, id: u32) {
        match self.calls.remove(&id) {
            Some(Call::Waiting(kind, _) | Call::Forgotten(kind)) => {
                self.calls.insert(id, Call::Forgotten(kind));
            }
            Some(Call::Done(MessageType::TransactionStart, Ok(payload))) => self.end_transaction(&payload),
            Some(Call::Done(..)) | None => {}
        }
    }

    /// Starts to watch `path`; gives the number of the watch and of the request.
    ///
    /// # Errors
    ///
    /// As for [`request`](Self::request).
    pub fn watch(&mut self, path: &str) -> Result<(u32, u32), Error> {
        let watch = unused(self.last_watch, &self.watches);
        let token = token(watch);
        let parts = [path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
        let id = self.request(MessageType::Watch, 0, &parts)?;
        self.last_watch = watch;
        let queue = Queue {
            path: String::from(path),
            events: VecDeque::new(),
            waker: None,
        };
        self.watches.insert(watch, queue);
        Ok((watch, id))
    }

    /// The next event of a watch: the path that changed. Until there is one `waker` is kept, to be woken then.
    pub fn poll_event(&mut self, watch: u32, waker: &Waker) -> Poll<Result<String, Error>> {
        let Some(queue) = self.watches.get_mut(&watch) else {
            return Poll::Ready(Err(Error::Answer));
        };
        if let Some(path) = queue.events.pop_front() {
            return Poll::Ready(Ok(path));
        }
        if let Some(broken) = self.broken {
            return Poll::Ready(Err(broken.into()));
        }
        keep(&mut queue.waker, waker);
        Poll::Pending
    }

    /// Ends a watch. Events that are still on their way are dropped.
    pub fn unwatch(&mut self, watch: u32) {
        if let Some(queue) = self.watches.remove(&watch) {
            let token = token(watch);
            let parts = [queue.path.as_bytes(), b"\0", token.as_bytes(), b"\0"];
            self.tell(MessageType::Unwatch, 0, &parts);
        }
    }

    /// Makes a request whose reply nobody wants.
    pub fn tell(&mut self, kind: MessageType, transaction: u32, parts: &[&[u8]]) {
        // It can fail only when there is no connection, and then there is nothing to tell.
        if let Ok(id) = self.request(kind, transaction, parts) {
            self.forget(id);
        }
    }

    /// Bytes for the store. Report with [`sent`](Self::sent) how many went.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        let (first, second) = self.output.as_slices();
        if first.is_empty() { second } else { first }
    }

    /// The first `count` bytes of the output went to the store.
    pub fn sent(&mut self, count: usize) {
        self.output.drain(..count.min(self.output.len()));
    }

    /// Takes bytes from the store.
    ///
    /// # Errors
    ///
    /// [`Broken`] if they are not the protocol; the connection is then [`fail`](Self::fail)ed.
    pub fn input(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let mut rest = bytes;
        while self.broken.is_none() && !rest.is_empty() {
            let taken = match self.decoder.feed(rest) {
                Ok((taken, message)) => {
                    if let Some(message) = message {
                        self.message(message);
                    }
                    taken
                }
                Err(too_long) => {
                    self.fail(Broken::TooLong(too_long));
                    0
                }
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        self.broken.map_or(Ok(()), Err)
    }

    /// Gives up the connection: requests without a reply fail, and so does all that follows.
    pub fn fail(&mut self, broken: Broken) {
        if self.broken.is_some() {
            return;
        }
        self.broken = Some(broken);
        self.output.clear();
        for call in self.calls.values_mut() {
            if let Call::Waiting(kind, waker) = call {
                let waker = waker.take();
                *call = Call::Done(*kind, Err(broken.into()));
                waker.inspect(Waker::wake_by_ref);
            }
        }
        for queue in self.watches.values_mut() {
            queue.waker.take().inspect(Waker::wake_by_ref);
        }
    }

    fn message(&mut self, message: Message) {
        let Message { header, payload } = message;
        if header.message_type == MessageType::WatchEvent.raw() {
            self.event(&payload);
            return;
        }
        let (kind, waker) = match self.calls.remove(&header.req_id) {
            Some(Call::Waiting(kind, waker)) => (kind, waker),
            Some(Call::Forgotten(MessageType::TransactionStart)) => {
                self.end_transaction(&payload);
                return;
            }
            Some(Call::Forgotten(_)) => return,
            Some(Call::Done(..)) | None => {
                self.fail(Broken::Unasked(header.req_id));
                return;
            }
        };
        let result = if header.message_type == MessageType::Error.raw() {
            Err(Error::Refused(error_of(&payload).unwrap_or(StoreError::Io)))
        } else if header.message_type == kind.raw() {
            Ok(payload)
        } else {
            Err(Error::Answer)
        };
        self.calls.insert(header.req_id, Call::Done(kind, result));
        waker.inspect(Waker::wake_by_ref);
    }

    /// Queues a watch event. One for a watch that has ended meanwhile is nobody's, and dropped.
    fn event(&mut self, payload: &[u8]) {
        let mut strings = payload.split(|byte| *byte == 0).map(core::str::from_utf8);
        let (Some(Ok(path)), Some(Ok(token))) = (strings.next(), strings.next()) else {
            return;
        };
        if let Some(queue) = token
            .parse()
            .ok()
            .and_then(|watch: u32| self.watches.get_mut(&watch))
        {
            queue.push(String::from(path));
        }
    }

    /// Ends a transaction that was started for somebody who has gone.
    fn end_transaction(&mut self, started: &[u8]) {
        if let Some(transaction) = transaction_of(started) {
            self.tell(MessageType::TransactionEnd, transaction, &[b"F\0"]);
        }
    }
}

/// The transaction that a reply to TRANSACTION_START names.
pub(super) fn transaction_of(payload: &[u8]) -> Option<u32> {
    let digits = payload.strip_suffix(b"\0").unwrap_or(payload);
    let number = core::str::from_utf8(digits).ok()?.parse().ok()?;
    (number != 0).then_some(number)
}

/// The token of a watch.
fn token(watch: u32) -> String {
    format!("{watch}")
}

/// The number after `last` that is not 0 and that no entry has.
fn unused<T>(last: u32, taken: &BTreeMap<u32, T>) -> u32 {
    let mut number = last.wrapping_add(1);
    // Ends: memory holds fewer entries than there are numbers.
    while number == 0 || taken.contains_key(&number) {
        number = number.wrapping_add(1);
    }
    number
}

/// Keeps the waker of who polled last.
pub(super) fn keep(kept: &mut Option<Waker>, waker: &Waker) {
    match kept {
        Some(kept) => kept.clone_from(waker),
        None => *kept = Some(waker.clone()),
    }
}
