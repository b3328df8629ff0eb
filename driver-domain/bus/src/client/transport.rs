//! How bytes get to the store and back.

use core::future::Future;

use bulkhead_ring::{End, SharedPage};

use super::Broken;

/// A connection to the store.
pub trait Transport {
    /// Sends of `bytes` what there is room for, at once; tells how many bytes that were.
    ///
    /// # Errors
    ///
    /// If the connection does not work any more.
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Broken>;

    /// Receives into `buffer` what there is, at once; tells how many bytes that were.
    ///
    /// # Errors
    ///
    /// If the connection does not work any more.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Broken>;

    /// Waits until the store may have read or written something since the last wait ended. A notification that came
    /// before the call counts; one too many does no harm. Dropping the future loses none.
    fn notified(&mut self) -> impl Future<Output = ()>;
}

/// An event channel to the store.
pub trait Port {
    /// Notifies the store.
    fn notify(&mut self);

    /// Waits for a notification as [`Transport::notified`] says.
    fn notified(&mut self) -> impl Future<Output = ()>;
}

/// A connection over a ring page and an event channel.
#[derive(Debug)]
pub struct RingTransport<P, N> {
    end: End<P>,
    port: N,
}

impl<P: SharedPage, N: Port> RingTransport<P, N> {
    /// Uses the guest's end of a store ring.
    pub const fn new(end: End<P>, port: N) -> Self {
        Self { end, port }
    }
}

impl<P: SharedPage, N: Port> Transport for RingTransport<P, N> {
    fn send(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let sent = self.end.send(bytes)?;
        if sent > 0 {
            self.port.notify();
        }
        Ok(sent)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Broken> {
        let received = self.end.receive(buffer)?;
        if received > 0 {
            self.port.notify();
        }
        Ok(received)
    }

    fn notified(&mut self) -> impl Future<Output = ()> {
        self.port.notified()
    }
}
