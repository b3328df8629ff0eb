//! The end of channels: one port, all ports of a domain that starts over, all ports of a domain that dies.
//!
//! The other end of a channel that closes waits for the same domain again. So it is with a dead driver domain: its
//! guests' ports wait for its successor, which has the same id, and bind again without the guests' doing anything.
//!
//! Closing a connected port changes two tables. The caller finds out which is the second from the answer
//! [`Closing::Needs`] or [`Sweep::Needs`], locks both in the order of their ids, and asks again; meanwhile the
//! port may have changed, and the answer may be another. A dying domain's table stays reachable for this until its own
//! sweep is done: only then does nobody name it any more.

use bulkhead_abi::DomId;

use super::{Channel, EventError, EventTable, Port};
use crate::ids::VcpuId;
use crate::irq::Pirq;

/// The table of the other end, if it is not the same.
#[derive(Debug)]
pub enum Peer<'a> {
    /// Both ends are in one table, or there is only one end, or it is not known yet whose table is needed.
    Own,
    /// The table of another domain. Its lock is held beside this one's.
    Other(&'a mut EventTable),
}

impl Peer<'_> {
    /// The table in which the other end is, given the one in which this end is.
    pub(super) fn table<'t>(&'t mut self, own: &'t mut EventTable) -> &'t mut EventTable {
        match self {
            Self::Own => own,
            Self::Other(table) => table,
        }
    }

    /// Whether this is the table of `domain`, given the domain of this end.
    fn is(&self, domain: DomId, own: DomId) -> bool {
        match self {
            Self::Own => domain == own,
            Self::Other(table) => domain == table.domain || domain == own,
        }
    }
}

/// A port that is closed now, and whose pending bit must go with it, and its pirq, if it had one.
///
/// Call [`SharedInfoView::clear_pending`](super::bits::SharedInfoView::clear_pending), and unbind the pirq, before the lock of its table is
/// dropped: the port's next user must not find a notification that was not for it.
#[must_use = "the next user of the port would find a notification that was not for it"]
#[derive(Debug, PartialEq, Eq)]
pub struct Closed {
    /// The port.
    pub port: Port,
    /// The pirq that raised it.
    pub pirq: Option<Pirq>,
}

/// How far the closing of one port has come.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Closing {
    /// The port is closed.
    Done(Closed),
    /// Nothing has changed: the other end is in this domain's table, which is needed.
    Needs(DomId),
}

/// How far the closing of all ports has come.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Sweep {
    /// No port is open.
    Done,
    /// The allotted number of ports has been closed: go on from `at`.
    Paused {
        /// The lowest port that may still be open.
        at: Port,
    },
    /// The other end of `at` is in the table of `domain`: go on from `at` with that table.
    Needs {
        /// Whose table is needed.
        domain: DomId,
        /// The lowest port that may still be open.
        at: Port,
    },
}

impl EventTable {
    /// Closes `port`. A connected other end waits for this domain again.
    ///
    /// # Errors
    ///
    /// [`EventError::NotOpen`].
    pub fn close(&mut self, port: Port, mut peer: Peer<'_>) -> Result<Closing, EventError> {
        let status = self.status(port);
        let mut pirq = None;
        match status.channel {
            Channel::Closed => return Err(EventError::NotOpen),
            Channel::Interdomain { domain, port: other } => {
                if !peer.is(domain, self.domain) {
                    return Ok(Closing::Needs(domain));
                }
                let own_domain = self.domain;
                let table = if domain == own_domain {
                    &mut *self
                } else {
                    peer.table(self)
                };
                if let Some(entry) = table.ports.get_mut(other).filter(|_| !mutant!(PeerNotTold)) {
                    entry.channel = entry.channel.peer_closed(own_domain, port);
                }
            }
            Channel::Virq(virq) => {
                let bound_on = if virq.is_global() {
                    VcpuId::BOOT
                } else {
                    status.vcpu
                };
                if let Some(place) = self
                    .virqs
                    .get_mut(bound_on, virq)
                    .filter(|_| !mutant!(VirqOfClosedPort))
                {
                    *place = None;
                }
            }
            Channel::Pirq(its) => pirq = Some(its),
            Channel::Unbound { .. } | Channel::Ipi => {}
        }
        self.ports.close(port);
        Ok(Closing::Done(Closed { port, pirq }))
    }

    /// Closes the open ports from `from` on, `budget` of them at most, and gives each to `closed`.
    ///
    /// Start with [`Port::FIRST`] and [`Peer::Own`]; then go on as the answer says. This serves a domain that resets its
    /// channels, and one that is destroyed, after [`EventTable::begin_destroy`]. A living domain may meanwhile open
    /// ports behind the sweep; they are of its new life, and stay.
    pub fn sweep(
        &mut self,
        from: Port,
        mut peer: Peer<'_>,
        budget: u32,
        mut closed: impl FnMut(Closed),
    ) -> Sweep {
        let mut at = from;
        for _ in 0..budget {
            let Some(port) = self.ports.next_open(at) else {
                return Sweep::Done;
            };
            at = port;
            let reborrowed = match &mut peer {
                Peer::Own => Peer::Own,
                Peer::Other(table) => Peer::Other(table),
            };
            match self.close(port, reborrowed) {
                Ok(Closing::Done(done)) => closed(done),
                Ok(Closing::Needs(domain)) => return Sweep::Needs { domain, at },
                // The bitmap said that it is open; were it not, there would be nothing to do for it.
                Err(_) => {}
            }
        }
        match self.ports.next_open(at) {
            Some(at) => Sweep::Paused { at },
            None => Sweep::Done,
        }
    }
}
