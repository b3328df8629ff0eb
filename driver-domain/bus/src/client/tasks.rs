//! The client for tasks: futures around [`Core`].

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::future::poll_fn;

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::{MessageType, StoreError};
use embassy_futures::select::select;
use embassy_futures::yield_now;
use embassy_sync::blocking_mutex::Mutex;
use embassy_sync::blocking_mutex::raw::RawMutex;
use embassy_sync::signal::Signal;

use super::core::transaction_of;
use super::turns::Turns;
use super::{Broken, Core, Error, Transport};
use crate::wire::{Perms, Place, WatchPath};

/// A client of the store that any number of tasks share. `M` says who they are: one executor
/// ([`NoopRawMutex`](embassy_sync::blocking_mutex::raw::NoopRawMutex)) or several.
///
/// A future that is dropped takes its request back as far as that is possible: its reply is dropped, a transaction is
/// abandoned, a watch ended. Paths may be relative to the caller's home.
pub struct Client<M: RawMutex> {
    core: Mutex<M, RefCell<Core>>,
    /// Raised when there may be output.
    output: Signal<M, ()>,
    /// Whose turn it is to have a transaction.
    turns: Mutex<M, RefCell<Turns>>,
}

/// How many transactions are open at a time: fewer than a store lets any domain have (ten).
const TRANSACTIONS: usize = 8;

impl<M: RawMutex> fmt::Debug for Client<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl<M: RawMutex> Default for Client<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: RawMutex> Client<M> {
    /// A client that has asked nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            core: Mutex::new(RefCell::new(Core::new())),
            output: Signal::new(),
            turns: Mutex::new(RefCell::new(Turns::new(TRANSACTIONS))),
        }
    }

    /// Moves bytes until the connection breaks, and tells why it did. To be run by one task, all the time; no
    /// request has a reply without it.
    pub async fn run<T: Transport>(&self, mut transport: T) -> Broken {
        loop {
            match self.pump(&mut transport) {
                Ok(true) => yield_now().await,
                Ok(false) => {
                    select(transport.notified(), self.output.wait()).await;
                }
                Err(broken) => {
                    self.core(|core| core.fail(broken));
                    return broken;
                }
            }
        }
    }

    /// Sends and receives once; tells whether anything moved.
    fn pump<T: Transport>(&self, transport: &mut T) -> Result<bool, Broken> {
        let sent = self.core(|core| -> Result<usize, Broken> {
            let sent = transport.send(core.output())?;
            core.sent(sent);
            Ok(sent)
        })?;
        let mut buffer = [0; 512];
        let received = transport.receive(&mut buffer)?;
        let bytes = buffer.get(..received).unwrap_or_default();
        self.core(|core| core.input(bytes))?;
        Ok(sent > 0 || received > 0)
    }

    fn core<R>(&self, work: impl FnOnce(&mut Core) -> R) -> R {
        self.core.lock(|core| work(&mut core.borrow_mut()))
    }

    /// Makes a request and waits for the payload of its reply.
    async fn call(&self, kind: MessageType, transaction: u32, parts: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let id = self.core(|core| core.request(kind, transaction, parts))?;
        self.reply(id).await
    }

    async fn reply(&self, id: u32) -> Result<Vec<u8>, Error> {
        self.output.signal(());
        let forget = OnDrop(Some(|| {
            self.core(|core| core.forget(id));
            self.output.signal(());
        }));
        let result = poll_fn(|context| self.core(|core| core.poll_reply(id, context.waker()))).await;
        forget.defuse();
        result
    }

    /// What there is outside transactions.
    const fn now(&self) -> Transaction<'_, M> {
        Transaction { client: self, id: 0 }
    }

    /// As [`Transaction::read`], outside any transaction.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.now().read(path).await
    }

    /// As [`Transaction::write`], outside any transaction.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn write(&self, path: &str, value: &[u8]) -> Result<(), Error> {
        self.now().write(path, value).await
    }

    /// As [`Transaction::mkdir`], outside any transaction.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn mkdir(&self, path: &str) -> Result<(), Error> {
        self.now().mkdir(path).await
    }

    /// As [`Transaction::rm`], outside any transaction.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn rm(&self, path: &str) -> Result<(), Error> {
        self.now().rm(path).await
    }

    /// As [`Transaction::directory`], outside any transaction.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn directory(&self, path: &str) -> Result<Vec<String>, Error> {
        self.now().directory(path).await
    }

    /// As [`Transaction::perms`], outside any transaction.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn perms(&self, path: &str) -> Result<Perms, Error> {
        self.now().perms(path).await
    }

    /// As [`Transaction::set_perms`], outside any transaction.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn set_perms(&self, path: &str, perms: &Perms) -> Result<(), Error> {
        self.now().set_perms(path, perms).await
    }

    /// Does `work` in a transaction: all that it writes takes effect at once, if nothing that it saw has changed meanwhile.
    /// If something has, the work is done again, as often as it takes. If it returns an error, nothing was written.
    ///
    /// Eight are under way at a time; the next one waits for its turn, so none may wait for another.
    ///
    /// # Errors
    ///
    /// What `work` returns, or why the transaction was refused.
    pub async fn transaction<R>(
        &self,
        mut work: impl AsyncFnMut(&Transaction<'_, M>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let _turn = self.turn().await;
        loop {
            let payload = self.call(MessageType::TransactionStart, 0, &[b"\0"]).await?;
            let id = transaction_of(&payload).ok_or(Error::Answer)?;
            let abandon = OnDrop(Some(|| {
                self.core(|core| core.tell(MessageType::TransactionEnd, id, &[b"F\0"]));
                self.output.signal(());
            }));
            let result = match work(&Transaction { client: self, id }).await {
                Ok(done) => {
                    abandon.defuse();
                    let ended = self.call(MessageType::TransactionEnd, id, &[b"T\0"]).await;
                    ended.map(|_| done)
                }
                Err(error) => Err(error),
            };
            if !matches!(result, Err(Error::Refused(StoreError::Again))) {
                return result;
            }
        }
    }

    /// Waits for a turn, which lasts until what is returned is dropped.
    async fn turn(&self) -> OnDrop<impl FnOnce()> {
        let turns = &self.turns;
        let ticket = turns.lock(|turns| turns.borrow_mut().queue());
        let leave = OnDrop(Some(|| turns.lock(|turns| turns.borrow_mut().leave(ticket))));
        poll_fn(|context| turns.lock(|turns| turns.borrow_mut().poll(ticket, context.waker()))).await;
        leave.defuse();
        OnDrop(Some(|| turns.lock(|turns| turns.borrow_mut().end())))
    }

    /// Watches a path, or a special name. The first event comes at once.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn watch(&self, path: &str) -> Result<Watch<'_, M>, Error> {
        WatchPath::parse(path.as_bytes(), DomId::new(0))?;
        let (number, id) = self.core(|core| core.watch(path))?;
        // Dropped, it ends the watch; if the store refused it, that is answered by an error that nobody wants.
        let watch = Watch { client: self, number };
        self.reply(id).await?;
        Ok(watch)
    }
}

/// A view of the store in which nobody else changes anything, and whose changes nobody sees before it ends.
pub struct Transaction<'a, M: RawMutex> {
    client: &'a Client<M>,
    id: u32,
}

impl<M: RawMutex> fmt::Debug for Transaction<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl<M: RawMutex> Transaction<'_, M> {
    /// A node's value.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.ask(MessageType::Read, path, &[]).await
    }

    /// Gives a node a value; it and its ancestors are made if they are missing.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn write(&self, path: &str, value: &[u8]) -> Result<(), Error> {
        self.ask(MessageType::Write, path, value).await.map(|_| ())
    }

    /// Makes a node, if it is missing, and its ancestors.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn mkdir(&self, path: &str) -> Result<(), Error> {
        self.ask(MessageType::Mkdir, path, &[]).await.map(|_| ())
    }

    /// Removes a node and all below it. It may be missing, its parent may not.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn rm(&self, path: &str) -> Result<(), Error> {
        self.ask(MessageType::Rm, path, &[]).await.map(|_| ())
    }

    /// The names of a node's children, however many there are.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused; [`StoreError::Again`] in a transaction whose work is to be done again.
    pub async fn directory(&self, path: &str) -> Result<Vec<String>, Error> {
        match self.ask(MessageType::Directory, path, &[]).await {
            Ok(list) => names(&list),
            Err(Error::Refused(StoreError::TooBig)) => self.long_directory(path).await,
            Err(error) => Err(error),
        }
    }

    /// A list that does not fit in a message, part by part; from the start again if it changed meanwhile.
    async fn long_directory(&self, path: &str) -> Result<Vec<String>, Error> {
        let mut list = Vec::new();
        let mut generation: Option<Vec<u8>> = None;
        loop {
            let offset = alloc::format!("{}\0", list.len());
            let part = self
                .ask(MessageType::DirectoryPart, path, offset.as_bytes())
                .await?;
            let end = part.iter().position(|byte| *byte == 0).ok_or(Error::Answer)?;
            let (now, rest) = part.split_at_checked(end).ok_or(Error::Answer)?;
            let rest = rest.get(1..).unwrap_or_default();
            if generation.as_deref().is_some_and(|before| before != now) {
                list.clear();
                generation = None;
                continue;
            }
            generation = Some(now.to_vec());
            // The last part has an empty name at its end.
            if let Some(last) = rest.strip_suffix(b"\0\0") {
                list.extend_from_slice(last);
                list.push(0);
                return names(&list);
            }
            if rest == b"\0" {
                return names(&list);
            }
            if rest.is_empty() {
                return Err(Error::Answer);
            }
            list.extend_from_slice(rest);
        }
    }

    /// A node's permissions.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn perms(&self, path: &str) -> Result<Perms, Error> {
        let text = self.ask(MessageType::GetPerms, path, &[]).await?;
        Perms::parse(&text).map_err(|_| Error::Answer)
    }

    /// Sets a node's permissions.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was refused.
    pub async fn set_perms(&self, path: &str, perms: &Perms) -> Result<(), Error> {
        let text = perms.to_text();
        self.ask(MessageType::SetPerms, path, text.as_bytes())
            .await
            .map(|_| ())
    }

    async fn ask(&self, kind: MessageType, path: &str, rest: &[u8]) -> Result<Vec<u8>, Error> {
        // Checked here, as a NUL in it would make something else of the request.
        Place::parse(path.as_bytes(), DomId::new(0))?;
        let parts = [path.as_bytes(), b"\0", rest];
        self.client.call(kind, self.id, &parts).await
    }
}

/// A watch: a stream of paths that changed. It ends when it is dropped.
pub struct Watch<'a, M: RawMutex> {
    client: &'a Client<M>,
    number: u32,
}

impl<M: RawMutex> fmt::Debug for Watch<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl<M: RawMutex> Watch<'_, M> {
    /// Waits for the next change, and gives the path that changed: the watched one or one below it, relative if
    /// the watched one is. After very many changes it is the watched one, and stands for all of them. Changes of
    /// the same path that were not waited for are told once.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`].
    pub async fn next(&mut self) -> Result<String, Error> {
        let number = self.number;
        poll_fn(|context| self.client.core(|core| core.poll_event(number, context.waker()))).await
    }
}

impl<M: RawMutex> Drop for Watch<'_, M> {
    fn drop(&mut self) {
        self.client.core(|core| core.unwatch(self.number));
        self.client.output.signal(());
    }
}

/// Strings, each with a NUL at its end.
fn names(list: &[u8]) -> Result<Vec<String>, Error> {
    let Some(list) = list.strip_suffix(b"\0") else {
        return if list.is_empty() {
            Ok(Vec::new())
        } else {
            Err(Error::Answer)
        };
    };
    list.split(|byte| *byte == 0)
        .map(|name| {
            core::str::from_utf8(name)
                .map(String::from)
                .map_err(|_| Error::Answer)
        })
        .collect()
}

/// Does something when it is dropped, unless it was defused.
struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> OnDrop<F> {
    fn defuse(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(act) = self.0.take() {
            act();
        }
    }
}
