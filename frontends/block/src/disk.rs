//! A disk for tasks: futures around [`Queue`].

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::future::{pending, poll_fn};
use core::task::{Context, Poll};

use bulkhead_abi::blkif::key;
use bulkhead_abi::xenstore::XenbusState;
use bulkhead_bus::client::{self, Client};
use bulkhead_frontend::directory::{close, number, state_of};
use bulkhead_frontend::{Domain, Port};
use bulkhead_ring::descriptor::Notify;
use embassy_futures::select::{Either, select};
use embassy_futures::yield_now;
use embassy_sync::blocking_mutex::raw::{NoopRawMutex, RawMutex};
use embassy_sync::signal::Signal;

use crate::buffer::{Buffer, Pool};
use crate::connect::{Agreement, Link};
use crate::error::{Broken, Error};
use crate::properties::Properties;
use crate::queue::{Order, Outcome, Queue, Ticket};

/// A disk that a back-end serves, for any number of tasks of one executor.
pub struct Disk<D: Domain> {
    channels: Vec<Channel<D>>,
    properties: RefCell<Properties>,
    pool: Pool<D>,
    /// The front-end's and the back-end's directory.
    frontend: String,
    backend: String,
}

/// A ring and its port.
struct Channel<D: Domain> {
    queue: RefCell<Queue<D>>,
    port: D::Port,
    /// Raised when there is an order to post.
    ordered: Signal<NoopRawMutex, ()>,
}

impl<D: Domain> fmt::Debug for Disk<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("backend", &self.backend)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

impl<D: Domain> Channel<D> {
    /// Moves requests and answers until the disk is broken.
    async fn run(&self) -> Broken {
        loop {
            match self.turn() {
                Err(broken) => return broken,
                // Others are let pass: there may be no end of answers.
                Ok(false) => yield_now().await,
                Ok(true) => {
                    select(self.port.notified(), self.ordered.wait()).await;
                }
            }
        }
    }

    /// Takes and posts once; tells whether to wait.
    fn turn(&self) -> Result<bool, Broken> {
        let mut queue = self.queue.borrow_mut();
        if queue.step()? == Notify::Yes {
            self.port.notify();
        }
        queue.may_sleep()
    }

    /// Gives an order and waits for its outcome. Dropped, it forgets it.
    async fn order(&self, order: Order<D>) -> Outcome<D> {
        let mut waiting = Waiting {
            channel: self,
            ticket: Some(self.queue.borrow_mut().order(order)),
        };
        self.ordered.signal(());
        poll_fn(move |context| waiting.poll(context)).await
    }
}

/// An order whose outcome is waited for. Dropped, it is forgotten.
struct Waiting<'a, D: Domain> {
    channel: &'a Channel<D>,
    /// `None` when the outcome was given.
    ticket: Option<Ticket>,
}

impl<D: Domain> Waiting<'_, D> {
    fn poll(&mut self, context: &Context<'_>) -> Poll<Outcome<D>> {
        let Some(ticket) = self.ticket.take() else {
            return Poll::Pending;
        };
        let outcome = self.channel.queue.borrow_mut().poll(ticket, context.waker());
        match outcome {
            Ok(outcome) => Poll::Ready(outcome),
            Err(ticket) => {
                self.ticket = Some(ticket);
                Poll::Pending
            }
        }
    }
}

impl<D: Domain> Drop for Waiting<'_, D> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.channel.queue.borrow_mut().forget(ticket);
        }
    }
}

impl<D: Domain> Disk<D> {
    /// A disk that both ends agreed on.
    #[must_use]
    pub fn new(agreement: Agreement<D>) -> Self {
        let Agreement {
            properties,
            handle,
            links,
            domain,
            frontend,
            backend,
        } = agreement;
        let channels = links.into_iter().map(|Link { ring, port }| {
            let queue = Queue::new(domain.clone(), ring, properties.clone(), handle);
            Channel {
                queue: RefCell::new(queue),
                port,
                ordered: Signal::new(),
            }
        });
        Self {
            channels: channels.collect(),
            pool: Pool::new(domain.clone(), properties.is_persistent),
            properties: RefCell::new(properties),
            frontend,
            backend,
        }
    }

    /// What the disk is like now: its size may change.
    #[must_use]
    pub fn properties(&self) -> Properties {
        self.properties.borrow().clone()
    }

    /// How many rings it has.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.channels.len()
    }

    /// A buffer of so many bytes, as [`Pool::buffer`] gives it.
    #[must_use]
    pub fn buffer(&self, bytes: usize) -> Option<Buffer<D>> {
        self.pool.buffer(bytes)
    }

    /// Serves orders until the disk is broken, and tells why it is. To be run by one task, all the time; nothing is done without it.
    pub async fn run<M: RawMutex>(&self, client: &Client<M>) -> Broken {
        let mut rings: Vec<_> = self
            .channels
            .iter()
            .map(|channel| Box::pin(channel.run()))
            .collect();
        let any_ring = poll_fn(|context| {
            let ended = rings
                .iter_mut()
                .find_map(|ring| match ring.as_mut().poll(context) {
                    Poll::Ready(broken) => Some(broken),
                    Poll::Pending => None,
                });
            ended.map_or(Poll::Pending, Poll::Ready)
        });
        let (Either::First(broken) | Either::Second(broken)) = select(any_ring, self.follow(client)).await;
        self.fail(broken);
        broken
    }

    /// Watches what the back-end says, until it closes. Of a store that does not answer nothing more is heard; the rings go on.
    async fn follow<M: RawMutex>(&self, client: &Client<M>) -> Broken {
        let state = format!("{}/{}", self.backend, key::STATE);
        let Ok(mut changes) = client.watch(&state).await else {
            return pending().await;
        };
        while changes.next().await.is_ok() {
            // A back-end that is made anew goes through the states from the beginning, and its directory may be missing: that is no affair of ours.
            match state_of(client, &self.backend).await {
                Ok(XenbusState::Closing | XenbusState::Closed) => return Broken::Closed,
                Ok(XenbusState::Connected) => self.read_size(client).await,
                Ok(_) | Err(_) => {}
            }
        }
        pending().await
    }

    async fn read_size<M: RawMutex>(&self, client: &Client<M>) {
        let Ok(Some(sectors)) = number(client, &self.backend, key::SECTORS).await else {
            return;
        };
        self.properties.borrow_mut().sectors = sectors;
        for channel in &self.channels {
            channel.queue.borrow_mut().set_sectors(sectors);
        }
    }

    /// Reads as many sectors as the buffer holds, from this one on. (A sector has 512 bytes; both place and length are multiples of the disk's
    /// own.) The buffer is away until it is done, and stays away if the future is dropped, or if the disk breaks meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was not done. What the buffer holds then is anything.
    pub async fn read(&self, sector: u64, buffer: &mut Buffer<D>) -> Result<(), Error> {
        let order = Order::Read(sector, core::mem::take(buffer));
        let (result, back) = self.order(order).await;
        *buffer = back.unwrap_or_default();
        result
    }

    /// Writes as many sectors, likewise. It lasts when a [`flush`](Self::flush) that was ordered afterwards is done.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was not done. What the sectors hold then is anything.
    pub async fn write(&self, sector: u64, buffer: &mut Buffer<D>) -> Result<(), Error> {
        let order = Order::Write(sector, core::mem::take(buffer));
        let (result, back) = self.order(order).await;
        *buffer = back.unwrap_or_default();
        result
    }

    /// Makes all writes last that were done before.
    ///
    /// # Errors
    ///
    /// [`Error`] says why it was not done.
    pub async fn flush(&self) -> Result<(), Error> {
        self.order(Order::Flush).await.0
    }

    /// Lets the disk forget what is in sectors; what is read there afterwards is anything. If `secure`, it is gone for good.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the disk does not do it, or not for good; [`Error`] says why else it was not done.
    pub async fn discard(&self, sector: u64, sectors: u64, secure: bool) -> Result<(), Error> {
        let order = Order::Discard {
            sector,
            sectors,
            secure,
        };
        self.order(order).await.0
    }

    /// Closes the connection and waits until the back-end has done so. Orders that are not done fail.
    ///
    /// # Errors
    ///
    /// If xenstore does not answer as it should.
    pub async fn close<M: RawMutex>(&self, client: &Client<M>) -> Result<(), client::Error> {
        self.fail(Broken::Closed);
        close(client, &self.frontend, &self.backend).await
    }

    fn fail(&self, broken: Broken) {
        for channel in &self.channels {
            channel.queue.borrow_mut().fail(broken);
            channel.ordered.signal(());
        }
    }

    /// Gives an order to the ring with the least to do.
    async fn order(&self, order: Order<D>) -> Outcome<D> {
        let least = self
            .channels
            .iter()
            .min_by_key(|channel| channel.queue.borrow().pending());
        match least {
            Some(channel) => channel.order(order).await,
            None => (Err(Broken::Closed.into()), None),
        }
    }
}
