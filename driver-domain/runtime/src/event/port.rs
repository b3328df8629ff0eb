//! Ports: this domain's ends of event channels.

use alloc::{boxed::Box, vec::Vec};
use core::fmt;

use bulkhead_abi::{DomId, errno::Failure, event::Virq};
use embassy_sync::{blocking_mutex::raw::CriticalSectionRawMutex, signal::Signal};
use spin::Mutex;

use crate::{
    hypercall::{self, physdev::Message},
    shared_info::SharedInfo,
};

/// That a port has fired, and who waits for it.
type Fired = Signal<CriticalSectionRawMutex, ()>;

/// One for each port number so far, used again with the number. The hypervisor gives out low numbers first.
static FIRED: Mutex<Vec<&'static Fired>> = Mutex::new(Vec::new());

/// An event channel's local end, and the right to use it: dropping it closes the channel.
///
/// A port that is notified has fired, until that is taken note of by [`wait`](Self::wait) or
/// [`has_fired`](Self::has_fired): once for any number of notifications meanwhile, which is all that event
/// channels promise. So whoever is woken by a port looks at what the peer has to say until there is no more.
pub struct Port {
    number: u32,
    fired: &'static Fired,
    /// The device's interrupt that it is bound to, for nobody else's use.
    pirq: Option<u32>,
}

impl Port {
    /// Allocates a port for `remote` to bind to.
    ///
    /// # Errors
    ///
    /// `EINVAL`/`ESRCH` for a domain that cannot be, `ENOSPC` if no port is free.
    pub fn alloc_unbound(remote: DomId) -> Result<Self, Failure> {
        hypercall::event::alloc_unbound(remote).map(Self::open)
    }

    /// Binds a new port to port `remote_port` of domain `remote`, which must wait for this domain.
    ///
    /// The new port has fired once it is bound, so that a notification sent before is not lost.
    ///
    /// # Errors
    ///
    /// `ESRCH` if there is no such domain, `EINVAL` if its port does not wait for this one, `ENOSPC` if no
    /// port is free.
    pub fn bind_interdomain(remote: DomId, remote_port: u32) -> Result<Self, Failure> {
        hypercall::event::bind_interdomain(remote, remote_port).map(Self::open)
    }

    /// Binds a new port to a virtual interrupt of this vCPU.
    ///
    /// # Errors
    ///
    /// `EEXIST` if it is bound already, `ENOSPC` if no port is free.
    pub fn bind_virq(virq: Virq) -> Result<Self, Failure> {
        hypercall::event::bind_virq(virq).map(Self::open)
    }

    /// Binds a new port to this vCPU: notifying it fires it here.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if no port is free.
    pub fn bind_ipi() -> Result<Self, Failure> {
        hypercall::event::bind_ipi().map(Self::open)
    }

    /// Binds a new port to a message that a function of this domain's sends, as long as the port is there.
    ///
    /// # Errors
    ///
    /// `EPERM` for a function that is not this domain's, `EINVAL` for an entry that there is not, `ENOSPC` if no port is free.
    pub(crate) fn bind_message(message: Message) -> Result<Self, Failure> {
        let pirq = hypercall::physdev::map_message(message)?;
        match hypercall::event::bind_pirq(pirq) {
            Ok(number) => {
                let mut port = Self::open(number);
                port.pirq = Some(pirq);
                Ok(port)
            }
            Err(error) => {
                unmap(pirq);
                Err(error)
            }
        }
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

    /// The domain that the port waits for, if it has no other end: nobody has bound to it yet, or who had is gone.
    ///
    /// # Errors
    ///
    /// None that this call can meet.
    pub fn waits_for(&self) -> Result<Option<DomId>, Failure> {
        hypercall::event::waits_for(self.number)
    }

    /// Waits until the port has fired, and takes note of it.
    ///
    /// Can be given up at any time, and no event is lost. A port is one task's to wait for: two would take
    /// turns at waking each other until it fires.
    pub async fn wait(&self) {
        self.fired.wait().await;
    }

    /// Whether the port has fired, as far as anybody has looked ([`dispatch`](super::dispatch)); takes note
    /// of it.
    #[must_use]
    pub fn has_fired(&self) -> bool {
        self.fired.try_take().is_some()
    }

    /// Takes over a port that was bound, and opens it.
    pub(crate) fn open(number: u32) -> Self {
        let fired = fired(number);
        fired.reset();
        // All ports start masked, so nothing has fired into the void; unmasking raises what came meanwhile.
        if let Err(error) = hypercall::event::unmask(number) {
            log::error!("port {number} stays masked: {error}");
        }
        Self {
            number,
            fired,
            pirq: None,
        }
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Port").field(&self.number).finish()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let bits = SharedInfo::get().event_bits(0);
        bits.mask(self.number);
        if let Err(error) = hypercall::event::close(self.number) {
            log::error!("port {} cannot be closed: {error}", self.number);
        }
        // What the old channel raised is no business of the port's next user.
        bits.clear(self.number);
        if let Some(pirq) = self.pirq {
            unmap(pirq);
        }
    }
}

/// Gives a pirq back.
fn unmap(pirq: u32) {
    if let Err(error) = hypercall::physdev::unmap(pirq) {
        log::error!("pirq {pirq} stays mapped: {error}");
    }
}

/// The state of the port with this number; made if there was none.
fn fired(number: u32) -> &'static Fired {
    let index = number as usize;
    let mut all = FIRED.lock();
    while all.len() <= index {
        all.push(Box::leak(Box::default()));
    }
    match all.get(index) {
        Some(fired) => fired,
        None => unreachable!("the list was just made long enough"),
    }
}

/// Tells the port with this number that it has fired.
pub(super) fn fire(number: u32) {
    let fired = FIRED.lock().get(number as usize).copied();
    // Outside the lock: waking may run code that is not ours.
    if let Some(fired) = fired {
        fired.signal(());
    }
}
