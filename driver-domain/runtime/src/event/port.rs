//! Ports: this domain's ends of event channels.

use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::{AtomicBool, Ordering};

use bulkhead_abi::{DomId, errno::Failure, event::Virq};
use spin::Mutex;

use super::table::{Handler, HandlerTable};
use crate::{hypercall, shared_info::SharedInfo};

static HANDLERS: Mutex<HandlerTable> = Mutex::new(HandlerTable::new());

/// An event channel's local end, and the right to use it: dropping it closes the channel.
///
/// Its handler runs in [`wait`](super::wait) whenever the port fires: once for any number of notifications
/// since it last ran, which is all that event channels promise.
#[derive(Debug)]
pub struct Port {
    number: u32,
}

impl Port {
    /// Allocates a port for `remote` to bind to.
    ///
    /// # Errors
    ///
    /// `EINVAL`/`ESRCH` for a domain that cannot be, `ENOSPC` if no port is free.
    pub fn alloc_unbound(remote: DomId, handler: impl FnMut() + Send + 'static) -> Result<Self, Failure> {
        hypercall::event::alloc_unbound(remote).map(|number| Self::open(number, Box::new(handler)))
    }

    /// Binds a new port to port `remote_port` of domain `remote`, which must wait for this domain.
    ///
    /// The new port fires once at once, so that a notification sent before the binding is not lost.
    ///
    /// # Errors
    ///
    /// `ESRCH` if there is no such domain, `EINVAL` if its port does not wait for this one, `ENOSPC` if no
    /// port is free.
    pub fn bind_interdomain(
        remote: DomId,
        remote_port: u32,
        handler: impl FnMut() + Send + 'static,
    ) -> Result<Self, Failure> {
        hypercall::event::bind_interdomain(remote, remote_port)
            .map(|number| Self::open(number, Box::new(handler)))
    }

    /// Binds a new port to a virtual interrupt of this vCPU.
    ///
    /// # Errors
    ///
    /// `EEXIST` if it is bound already, `ENOSPC` if no port is free.
    pub fn bind_virq(virq: Virq, handler: impl FnMut() + Send + 'static) -> Result<Self, Failure> {
        hypercall::event::bind_virq(virq).map(|number| Self::open(number, Box::new(handler)))
    }

    /// Binds a new port to this vCPU: notifying it fires it here.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if no port is free.
    pub fn bind_ipi(handler: impl FnMut() + Send + 'static) -> Result<Self, Failure> {
        hypercall::event::bind_ipi().map(|number| Self::open(number, Box::new(handler)))
    }

    /// The port's number, which a peer needs to bind to it.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Raises the other end. To a peer that is gone this does nothing.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the port is a virtual interrupt's, which has no other end.
    pub fn notify(&self) -> Result<(), Failure> {
        hypercall::event::send(self.number)
    }

    /// Takes over a port that was just bound, and opens it.
    fn open(number: u32, handler: Handler) -> Self {
        HANDLERS.lock().insert(number as usize, handler);
        // All ports start masked, so nothing has fired into the void; unmasking raises what came meanwhile.
        if let Err(error) = hypercall::event::unmask(number) {
            log::error!("port {number} stays masked: {error}");
        }
        Self { number }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let bits = SharedInfo::get().event_bits();
        bits.mask(self.number);
        if let Err(error) = hypercall::event::close(self.number) {
            log::error!("port {} cannot be closed: {error}", self.number);
        }
        // What the old channel raised is no business of the port's next user.
        bits.clear(self.number);
        let handler = HANDLERS.lock().remove(self.number as usize);
        // Outside the lock: a handler may own ports itself.
        drop(handler);
    }
}

/// Runs the handler of the port with this number.
pub(super) fn fire(number: u32) {
    let index = number as usize;
    let started = HANDLERS.lock().start(index);
    if let Some(mut handler) = started {
        handler();
        let orphan = HANDLERS.lock().finish(index, handler);
        drop(orphan);
    }
}

/// A flag that a handler sets and somebody waits for.
///
/// ```text
/// let answered = Signal::new();
/// let port = Port::bind_interdomain(peer, remote_port, answered.handler())?;
/// port.notify()?;
/// answered.wait();
/// ```
#[derive(Clone, Debug, Default)]
pub struct Signal(Arc<AtomicBool>);

impl Signal {
    /// A signal that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the signal.
    pub fn set(&self) {
        // Release pairs with the Acquire in `take`.
        self.0.store(true, Ordering::Release);
    }

    /// Whether the signal was set since it was last taken.
    #[must_use]
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Acquire)
    }

    /// Waits for the signal and takes it.
    ///
    /// # Panics
    ///
    /// If called by a handler, as [`wait`](super::wait).
    pub fn wait(&self) {
        super::wait_for(|| self.take());
    }

    /// A port handler that sets the signal.
    pub fn handler(&self) -> impl FnMut() + Send + 'static {
        let signal = self.clone();
        move || signal.set()
    }
}
