//! A channel between two domains that know each other's number and nothing else.
//!
//! One listens, the other connects to whatever port of the listener's waits for it. With xenstore a domain is
//! told its peer's port; this is for domains that run without it, tests above all.

use core::fmt;

use bulkhead_abi::{DomId, Errno, errno::Failure};
use embassy_time::{Duration, Instant, Timer};

use super::Port;

/// One end of a channel that is used in turns: notify, wait, notify, wait.
#[derive(Debug)]
pub struct Link {
    port: Port,
}

/// Why two domains did not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// A hypercall failed, other than because the peer is not ready.
    Refused(Failure),
    /// The peer did not listen in time.
    NobodyListens,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::NobodyListens => f.write_str("the peer does not listen"),
        }
    }
}

impl core::error::Error for LinkError {}

impl Link {
    /// Ports at which a connecting end looks for its peer's: a listener that binds early gets a low number.
    const PORTS: core::ops::RangeInclusive<u32> = 1..=32;
    /// How long a connecting end goes on looking.
    const PATIENCE: Duration = Duration::from_secs(30);
    /// How long it pauses in between; nothing tells it when the peer begins to listen.
    const PAUSE: Duration = Duration::from_millis(1);

    /// Waits for `peer` to connect, which its first notification shows.
    ///
    /// # Errors
    ///
    /// [`LinkError::Refused`] if no port can be had.
    pub fn listen(peer: DomId) -> Result<Self, LinkError> {
        let port = Port::alloc_unbound(peer).map_err(LinkError::Refused)?;
        Ok(Self { port })
    }

    /// Connects to the first port of `peer` that waits for this domain, as soon as there is one.
    ///
    /// # Errors
    ///
    /// [`LinkError::NobodyListens`] if there is none for half a minute, [`LinkError::Refused`] if it cannot
    /// be bound.
    pub async fn connect(peer: DomId) -> Result<Self, LinkError> {
        let deadline = Instant::now().saturating_add(Self::PATIENCE);
        loop {
            for port in Self::PORTS {
                match Port::bind_interdomain(peer, port) {
                    Ok(port) => {
                        // Binding raises the new end; that is not the peer's notification.
                        port.wait().await;
                        return Ok(Self { port });
                    }
                    Err(Failure::Errno(Errno::Inval | Errno::Srch)) => {}
                    Err(error) => return Err(LinkError::Refused(error)),
                }
            }
            if Instant::now() > deadline {
                return Err(LinkError::NobodyListens);
            }
            Timer::after(Self::PAUSE).await;
        }
    }

    /// Notifies the other end.
    ///
    /// # Errors
    ///
    /// None that the ABI knows of.
    pub fn notify(&self) -> Result<(), LinkError> {
        self.port.notify().map_err(LinkError::Refused)
    }

    /// Waits for the other end's notification.
    pub async fn wait(&self) {
        self.port.wait().await;
    }
}
