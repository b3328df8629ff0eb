//! The state of one port, and every arrow between states: [`Channel`].

use bulkhead_abi::DomId;
use bulkhead_abi::event::Virq;

use super::{EventError, Port};
use crate::irq::Pirq;

/// What a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Not in use.
    Closed,
    /// Waits for domain `remote` to bind to it.
    ///
    /// A connected end falls back to this when its peer closes, so that a new incarnation of that domain may bind to
    /// it again.
    Unbound {
        /// The only domain that may bind.
        remote: DomId,
    },
    /// Connected: a send here raises `port` of `domain`, whose channel names this port in return.
    Interdomain {
        /// The peer's domain; possibly the port's own.
        domain: DomId,
        /// The peer's port.
        port: Port,
    },
    /// Raised by the hypervisor as a virtual interrupt.
    Virq(Virq),
    /// Raised by an interrupt of the domain's.
    Pirq(Pirq),
    /// Raised by the domain itself, to interrupt the vCPU that the port notifies.
    Ipi,
}

impl Channel {
    /// Whether `binder` may connect to this end.
    ///
    /// # Errors
    ///
    /// [`EventError::ReservedForAnother`] if it waits for another domain, [`EventError::NotUnbound`] if it does not
    /// wait.
    pub fn check_waits_for(self, binder: DomId) -> Result<(), EventError> {
        match self {
            Self::Unbound { remote } if remote == binder => Ok(()),
            Self::Unbound { remote } => Err(EventError::ReservedForAnother { remote }),
            Self::Closed | Self::Interdomain { .. } | Self::Virq(_) | Self::Pirq(_) | Self::Ipi => {
                Err(EventError::NotUnbound)
            }
        }
    }

    /// Connects an end that waits for `binder` to `port` of `binder`.
    ///
    /// # Errors
    ///
    /// Those of [`Channel::check_waits_for`].
    pub fn bind(self, binder: DomId, port: Port) -> Result<Self, EventError> {
        self.check_waits_for(binder)?;
        Ok(Self::Interdomain { domain: binder, port })
    }

    /// What is left of this end when its peer, `port` of `domain`, closes: it waits for that domain again.
    ///
    /// An end that is not connected to that very port stays as it is.
    #[must_use]
    pub fn peer_closed(self, domain: DomId, port: Port) -> Self {
        match self {
            Self::Interdomain { .. } if self.names(domain, port) => Self::Unbound { remote: domain },
            Self::Closed
            | Self::Unbound { .. }
            | Self::Interdomain { .. }
            | Self::Virq(_)
            | Self::Pirq(_)
            | Self::Ipi => self,
        }
    }

    /// Whether this end is connected to `port` of `domain`: that is, whether it agreed to be notified by it.
    #[must_use]
    pub fn names(self, domain: DomId, port: Port) -> bool {
        self == Self::Interdomain { domain, port }
    }

    /// Whether the port may be told to notify another vCPU.
    ///
    /// # Errors
    ///
    /// [`EventError::NotOpen`], or [`EventError::TiedToVcpu`] for what belongs to one vCPU by its nature.
    pub fn check_movable(self) -> Result<(), EventError> {
        match self {
            Self::Unbound { .. } | Self::Interdomain { .. } | Self::Pirq(_) => Ok(()),
            Self::Virq(virq) if virq.is_global() => Ok(()),
            Self::Virq(_) | Self::Ipi => Err(EventError::TiedToVcpu),
            Self::Closed => Err(EventError::NotOpen),
        }
    }

    /// Whether the port is in use.
    #[must_use]
    pub fn is_open(self) -> bool {
        match self {
            Self::Closed => false,
            Self::Unbound { .. } | Self::Interdomain { .. } | Self::Virq(_) | Self::Pirq(_) | Self::Ipi => {
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: DomId = DomId::new(1);
    const BOB: DomId = DomId::new(2);

    fn port(raw: u32) -> Port {
        Port::new(raw).unwrap()
    }

    #[test]
    fn only_the_domain_that_is_waited_for_may_bind() {
        let waiting = Channel::Unbound { remote: BOB };
        assert_eq!(
            waiting.bind(ALICE, port(7)),
            Err(EventError::ReservedForAnother { remote: BOB })
        );
        assert_eq!(
            waiting.bind(BOB, port(7)),
            Ok(Channel::Interdomain {
                domain: BOB,
                port: port(7)
            })
        );
    }

    #[test]
    fn only_a_waiting_end_can_be_bound_to() {
        let connected = Channel::Interdomain {
            domain: BOB,
            port: port(1),
        };
        for other in [
            Channel::Closed,
            connected,
            Channel::Virq(Virq::Timer),
            Channel::Ipi,
        ] {
            assert_eq!(other.bind(BOB, port(7)), Err(EventError::NotUnbound));
        }
    }

    #[test]
    fn an_end_whose_peer_closes_waits_for_that_domain_again() {
        let connected = Channel::Interdomain {
            domain: BOB,
            port: port(3),
        };
        assert_eq!(
            connected.peer_closed(BOB, port(3)),
            Channel::Unbound { remote: BOB }
        );
    }

    #[test]
    fn an_end_ignores_the_closing_of_a_port_that_it_is_not_connected_to() {
        let connected = Channel::Interdomain {
            domain: BOB,
            port: port(3),
        };
        assert_eq!(connected.peer_closed(BOB, port(4)), connected);
        assert_eq!(connected.peer_closed(ALICE, port(3)), connected);
        assert_eq!(Channel::Ipi.peer_closed(BOB, port(3)), Channel::Ipi);
    }

    #[test]
    fn timers_and_ipis_stay_on_their_vcpu() {
        assert_eq!(
            Channel::Virq(Virq::Timer).check_movable(),
            Err(EventError::TiedToVcpu)
        );
        assert_eq!(Channel::Ipi.check_movable(), Err(EventError::TiedToVcpu));
        assert_eq!(Channel::Virq(Virq::Console).check_movable(), Ok(()));
        assert_eq!(Channel::Unbound { remote: BOB }.check_movable(), Ok(()));
        assert_eq!(Channel::Closed.check_movable(), Err(EventError::NotOpen));
    }
}
