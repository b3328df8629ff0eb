//! Connections: [`Tcp`].

use alloc::vec;
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Duration;
use smoltcp::wire::IpEndpoint;

use crate::error::Trouble;
use crate::stack::{Place, Stack, within};

/// A connection. Dropping it breaks it off; [`finish`](Self::finish) ends it.
pub struct Tcp<'s, P: Place> {
    stack: &'s Stack<P>,
    handle: SocketHandle,
}

/// Bytes of either buffer: as many as a window has without being scaled.
const BUFFER: usize = 65535;
/// How long the other end may say nothing to what it should answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it has to agree that a connection is over.
const PARTING: Duration = Duration::from_secs(5);

impl<'s, P: Place> Tcp<'s, P> {
    fn new(stack: &'s Stack<P>) -> Self {
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_timeout(Some(PATIENCE));
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(CongestionControl::Reno);
        let handle = stack.add(socket);
        Self { stack, handle }
    }

    /// Waits for somebody who connects to this port, of any address.
    ///
    /// # Errors
    ///
    /// [`Trouble::Unaddressable`] if the port is 0.
    pub async fn accept(stack: &'s Stack<P>, port: u16) -> Result<Self, Trouble> {
        let new = Self::new(stack);
        poll_fn(|context| {
            new.with(|socket, _| {
                // Who was about to connect may have thought better of it.
                if !socket.is_open() && socket.listen(port).is_err() {
                    return Poll::Ready(Err(Trouble::Unaddressable));
                }
                register(socket, context);
                if socket.may_send() || socket.may_recv() {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                }
            })
        })
        .await?;
        Ok(new)
    }

    /// Connects to somebody.
    ///
    /// # Errors
    ///
    /// [`Trouble::Unaddressable`], [`Trouble::Closed`] if nobody listens, [`Trouble::TimedOut`].
    pub async fn connect(stack: &'s Stack<P>, to: IpEndpoint) -> Result<Self, Trouble> {
        stack.source(to.addr).ok_or(Trouble::Unaddressable)?;
        let new = Self::new(stack);
        let port = stack.port();
        let begun = new.with(|socket, context| socket.connect(context, to, port));
        begun.map_err(|_| Trouble::Unaddressable)?;
        let connected = poll_fn(|context| {
            new.with(|socket, _| {
                register(socket, context);
                match socket.state() {
                    State::SynSent | State::SynReceived => Poll::Pending,
                    State::Closed => Poll::Ready(Err(Trouble::Closed)),
                    State::Listen
                    | State::Established
                    | State::FinWait1
                    | State::FinWait2
                    | State::CloseWait
                    | State::Closing
                    | State::LastAck
                    | State::TimeWait => Poll::Ready(Ok(())),
                }
            })
        });
        within(stack, PATIENCE, connected).await?;
        Ok(new)
    }

    fn with<R>(&self, work: impl FnOnce(&mut Socket<'static>, &mut smoltcp::iface::Context) -> R) -> R {
        self.stack.with(self.handle, work)
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> Option<IpEndpoint> {
        self.with(|socket, _| socket.remote_endpoint())
    }

    /// Reads what there is, once there is some, and says how much; 0 is the end.
    ///
    /// # Errors
    ///
    /// [`Trouble::Closed`] if the connection is broken.
    pub async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Trouble> {
        poll_fn(|context| {
            self.with(|socket, _| match socket.recv_slice(bytes) {
                Ok(0) if !bytes.is_empty() => {
                    register(socket, context);
                    Poll::Pending
                }
                Ok(count) => Poll::Ready(Ok(count)),
                Err(smoltcp::socket::tcp::RecvError::Finished) => Poll::Ready(Ok(0)),
                Err(smoltcp::socket::tcp::RecvError::InvalidState) => Poll::Ready(Err(Trouble::Closed)),
            })
        })
        .await
    }

    /// Sends all of these, as far as there is room for the last of them.
    ///
    /// # Errors
    ///
    /// [`Trouble::Closed`] if the connection is broken.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = poll_fn(|context| {
                self.with(|socket, _| match socket.send_slice(rest) {
                    Ok(0) => {
                        register(socket, context);
                        Poll::Pending
                    }
                    Ok(count) => Poll::Ready(Ok(count)),
                    Err(_) => Poll::Ready(Err(Trouble::Closed)),
                })
            })
            .await?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Says that nothing more will be sent. What the other sends can still be read.
    pub fn shut(&mut self) {
        self.with(|socket, _| socket.close());
    }

    /// Ends the connection, when the other has all that was sent. What it sends meanwhile is not read.
    ///
    /// # Errors
    ///
    /// [`Trouble::TimedOut`] if it does not end it, too; [`Trouble::Closed`] if it breaks it off before it has everything.
    pub async fn finish(mut self) -> Result<(), Trouble> {
        self.shut();
        let over = poll_fn(|context| {
            self.with(|socket, _| {
                while let Ok(count) = socket.recv(|bytes| (bytes.len(), bytes.len()))
                    && count > 0
                {}
                register(socket, context);
                let has_all = socket.send_queue() == 0;
                match socket.state() {
                    State::Closed | State::TimeWait if has_all => Poll::Ready(Ok(())),
                    State::Closed => Poll::Ready(Err(Trouble::Closed)),
                    State::Listen
                    | State::SynSent
                    | State::SynReceived
                    | State::Established
                    | State::FinWait1
                    | State::FinWait2
                    | State::CloseWait
                    | State::Closing
                    | State::LastAck
                    | State::TimeWait => Poll::Pending,
                }
            })
        });
        within(self.stack, PARTING, over).await
    }
}

/// Is woken when anything changes.
fn register(socket: &mut Socket<'_>, context: &Context<'_>) {
    socket.register_recv_waker(context.waker());
    socket.register_send_waker(context.waker());
}

impl<P: Place> Drop for Tcp<'_, P> {
    fn drop(&mut self) {
        let is_active = self.with(|socket, _| {
            let is_active = socket.is_active();
            socket.abort();
            is_active
        });
        if is_active {
            // The other end is told.
            self.stack.flush();
        }
        self.stack.remove(self.handle);
    }
}

impl<P: Place> fmt::Debug for Tcp<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tcp")
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}
