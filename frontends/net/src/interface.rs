//! An interface for tasks: futures around [`Transmit`] and [`Receive`].

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::future::{pending, poll_fn};
use core::task::{Context, Poll, Waker};

use bulkhead_abi::netif::key;
use bulkhead_abi::xenstore::XenbusState;
use bulkhead_bus::client::{self, Client};
use bulkhead_frontend::directory::{close, state_of};
use bulkhead_frontend::{Flips, Port};
use bulkhead_ring::descriptor::Notify;
use embassy_futures::select::{Either, select};
use embassy_futures::yield_now;
use embassy_sync::blocking_mutex::raw::{NoopRawMutex, RawMutex};
use embassy_sync::signal::Signal;

use crate::connect::{Agreement, Properties};
use crate::error::{Broken, Refused, SendError};
use crate::frame::{Frame, Pool};
use crate::offload::Offload;
use crate::receive::{Counts, Receive, Received};
use crate::transmit::{Sent, Transmit};

/// A network interface that a back-end serves, for any number of tasks of one executor.
pub struct Interface<D: Flips> {
    transmit: RefCell<Transmit<D>>,
    receive: RefCell<Receive<D>>,
    port: D::Port,
    /// Raised when a frame was posted or taken.
    used: Signal<NoopRawMutex, ()>,
    /// Who waits for room, or for a frame.
    waiting: RefCell<Vec<Waker>>,
    pool: Pool<D>,
    properties: Properties,
    frontend: String,
    backend: String,
}

impl<D: Flips> fmt::Debug for Interface<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interface")
            .field("backend", &self.backend)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

impl<D: Flips> Interface<D> {
    /// An interface that both ends agreed on.
    #[must_use]
    pub fn new(agreement: Agreement<D>) -> Self {
        let Agreement {
            properties,
            transmit,
            receive,
            port,
            domain,
            frontend,
            backend,
        } = agreement;
        let pool = Pool::new(domain);
        Self {
            transmit: RefCell::new(Transmit::new(pool.clone(), transmit, properties.features)),
            receive: RefCell::new(Receive::new(pool.clone(), receive, properties.mode)),
            port,
            used: Signal::new(),
            waiting: RefCell::default(),
            pool,
            properties,
            frontend,
            backend,
        }
    }

    /// What the interface is like.
    #[must_use]
    pub const fn properties(&self) -> &Properties {
        &self.properties
    }

    /// What became of frames that were sent.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.transmit.borrow().sent()
    }

    /// What was received.
    #[must_use]
    pub fn received(&self) -> Counts {
        self.receive.borrow().counts()
    }

    /// A frame of so many bytes, as [`Pool::frame`] gives it.
    #[must_use]
    pub fn frame(&self, bytes: usize) -> Option<Frame<D>> {
        self.pool.frame(bytes)
    }

    /// Moves frames until the interface is broken, and tells why it is. To be run by one task, all the time; nothing moves without it.
    pub async fn run<M: RawMutex>(&self, client: &Client<M>) -> Broken {
        let (Either::First(broken) | Either::Second(broken)) =
            select(self.serve(), self.follow(client)).await;
        self.fail(broken);
        broken
    }

    async fn serve(&self) -> Broken {
        loop {
            match self.turn() {
                Err(broken) => return broken,
                // Others are let pass: there may be no end of frames.
                Ok(false) => yield_now().await,
                Ok(true) => {
                    select(self.port.notified(), self.used.wait()).await;
                }
            }
        }
    }

    /// Looks at both rings once; tells whether to wait.
    pub(crate) fn turn(&self) -> Result<bool, Broken> {
        let mut transmit = self.transmit.borrow_mut();
        let mut receive = self.receive.borrow_mut();
        let shown = [transmit.step()?, receive.step()?];
        if shown.contains(&Notify::Yes) {
            self.port.notify();
        }
        if transmit.has_room() || receive.has_frames() {
            self.wake();
        }
        // Both rings are to be asked, so that both notify.
        let may_sleep = [transmit.may_sleep()?, receive.may_sleep()?];
        Ok(may_sleep == [true, true])
    }

    /// Watches what the back-end says, until it closes. Of a store that does not answer nothing more is heard; the rings go on.
    async fn follow<M: RawMutex>(&self, client: &Client<M>) -> Broken {
        let state = format!("{}/{}", self.backend, key::STATE);
        let Ok(mut changes) = client.watch(&state).await else {
            return pending().await;
        };
        while changes.next().await.is_ok() {
            // A back-end that is made anew goes through the states from the beginning, and its directory may be missing: that is no affair of ours.
            let state = state_of(client, &self.backend).await;
            if let Ok(XenbusState::Closing | XenbusState::Closed) = state {
                return Broken::Closed;
            }
        }
        pending().await
    }

    fn fail(&self, broken: Broken) {
        self.transmit.borrow_mut().fail(broken);
        self.receive.borrow_mut().fail(broken);
        self.used.signal(());
        self.wake();
    }

    /// Wakes all who wait.
    fn wake(&self) {
        self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Is woken when there is room, or a frame.
    fn register(&self, context: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
    }

    /// Whether [`try_send`](Self::try_send) has room for the largest frame.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.transmit.borrow().has_room()
    }

    /// Sends a frame if there is room now.
    ///
    /// # Errors
    ///
    /// [`Refused`] has the frame, and says why it is not sent.
    pub fn try_send(&self, frame: Frame<D>, offload: Offload) -> Result<(), Refused<D>> {
        self.transmit.borrow_mut().send(frame, offload)?;
        self.used.signal(());
        Ok(())
    }

    /// Sends a frame when there is room. What becomes of it, [`sent`](Self::sent) counts.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why it is not sent; it is no [`SendError::Full`].
    pub async fn send(&self, frame: Frame<D>, offload: Offload) -> Result<(), SendError> {
        let mut frame = Some(frame);
        poll_fn(|context| {
            let Some(unsent) = frame.take() else {
                return Poll::Ready(Ok(()));
            };
            match self.try_send(unsent, offload) {
                Err(Refused {
                    frame: unsent,
                    error: SendError::Full,
                }) => {
                    frame = Some(unsent);
                    self.register(context);
                    Poll::Pending
                }
                Err(Refused { error, .. }) => Poll::Ready(Err(error)),
                Ok(()) => Poll::Ready(Ok(())),
            }
        })
        .await
    }

    /// The next frame that was received, if there is one.
    ///
    /// # Errors
    ///
    /// [`Broken`] if there is none, and the interface is broken.
    pub fn try_receive(&self) -> Result<Option<Received<D>>, Broken> {
        let mut receive = self.receive.borrow_mut();
        let taken = receive.take();
        match (&taken, receive.broken()) {
            (None, Some(broken)) => Err(broken),
            (None, None) => Ok(taken),
            (Some(_), _) => {
                self.used.signal(());
                Ok(taken)
            }
        }
    }

    /// Waits for the next frame.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the interface is, and all frames were received that came before.
    pub async fn receive(&self) -> Result<Received<D>, Broken> {
        poll_fn(|context| match self.try_receive() {
            Ok(Some(received)) => Poll::Ready(Ok(received)),
            Ok(None) => {
                self.register(context);
                Poll::Pending
            }
            Err(broken) => Poll::Ready(Err(broken)),
        })
        .await
    }

    /// Waits until there is a frame to be received, and takes none.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the interface is.
    pub async fn readable(&self) -> Result<(), Broken> {
        poll_fn(|context| {
            let receive = self.receive.borrow();
            match receive.broken() {
                _ if receive.has_frames() => Poll::Ready(Ok(())),
                Some(broken) => Poll::Ready(Err(broken)),
                None => {
                    self.register(context);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Waits until there is [room](Self::has_room).
    ///
    /// # Errors
    ///
    /// [`Broken`] if the interface is.
    pub async fn writable(&self) -> Result<(), Broken> {
        poll_fn(|context| {
            let transmit = self.transmit.borrow();
            match transmit.broken() {
                Some(broken) => Poll::Ready(Err(broken)),
                None if transmit.has_room() => Poll::Ready(Ok(())),
                None => {
                    self.register(context);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Closes the connection and waits until the back-end has done so.
    ///
    /// # Errors
    ///
    /// If xenstore does not answer as it should.
    pub async fn close<M: RawMutex>(&self, client: &Client<M>) -> Result<(), client::Error> {
        self.fail(Broken::Closed);
        close(client, &self.frontend, &self.backend).await
    }
}
