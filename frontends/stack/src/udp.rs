//! Datagrams: [`Udp`].

use alloc::vec;
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, SendError, Socket, UdpMetadata};
use smoltcp::wire::IpEndpoint;

use crate::error::Trouble;
use crate::stack::{Place, Stack};

/// A port that sends and receives datagrams.
pub struct Udp<'s, P: Place> {
    stack: &'s Stack<P>,
    handle: SocketHandle,
}

/// How many datagrams, and bytes, either buffer holds.
const DATAGRAMS: usize = 64;
const BYTES: usize = 1 << 16;

impl<'s, P: Place> Udp<'s, P> {
    /// Takes this port of all addresses, or any if it is 0.
    ///
    /// # Errors
    ///
    /// [`Trouble::Unaddressable`] if it cannot be had.
    pub fn bind(stack: &'s Stack<P>, port: u16) -> Result<Self, Trouble> {
        let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; DATAGRAMS], vec![0; BYTES]);
        let handle = stack.add(Socket::new(buffer(), buffer()));
        let new = Self { stack, handle };
        let port = if port == 0 { stack.port() } else { port };
        let bound = stack.with(handle, |socket: &mut Socket<'_>, _| socket.bind(port));
        bound.map_err(|_| Trouble::Unaddressable)?;
        Ok(new)
    }

    /// Waits for a datagram; says how long it is and what is known of it. Those that are longer than `bytes` are dropped.
    pub async fn receive(&self, bytes: &mut [u8]) -> (usize, UdpMetadata) {
        poll_fn(|context| {
            self.stack.with(self.handle, |socket: &mut Socket<'_>, _| {
                while socket.can_recv() {
                    if let Ok(received) = socket.recv_slice(bytes) {
                        return Poll::Ready(received);
                    }
                }
                socket.register_recv_waker(context.waker());
                Poll::Pending
            })
        })
        .await
    }

    /// Sends a datagram, when there is room.
    ///
    /// # Errors
    ///
    /// [`Trouble::Unaddressable`], [`Trouble::TooLong`].
    pub async fn send(&self, bytes: &[u8], to: impl Into<UdpMetadata>) -> Result<(), Trouble> {
        let to = to.into();
        if bytes.len() > BYTES {
            return Err(Trouble::TooLong);
        }
        self.stack
            .source(to.endpoint.addr)
            .ok_or(Trouble::Unaddressable)?;
        poll_fn(|context| {
            self.stack.with(self.handle, |socket: &mut Socket<'_>, _| {
                match socket.send_slice(bytes, to) {
                    Ok(()) => Poll::Ready(Ok(())),
                    Err(SendError::Unaddressable) => Poll::Ready(Err(Trouble::Unaddressable)),
                    Err(SendError::BufferFull) => {
                        socket.register_send_waker(context.waker());
                        Poll::Pending
                    }
                }
            })
        })
        .await
    }
}

/// Where a datagram is to be answered to, from the address that it came to.
pub(crate) fn answer(to: UdpMetadata) -> UdpMetadata {
    let mut answer: UdpMetadata = IpEndpoint::new(to.endpoint.addr, to.endpoint.port).into();
    answer.local_address = to.local_address;
    answer
}

impl<P: Place> Drop for Udp<'_, P> {
    fn drop(&mut self) {
        self.stack.flush();
        self.stack.remove(self.handle);
    }
}

impl<P: Place> fmt::Debug for Udp<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Udp").finish_non_exhaustive()
    }
}
