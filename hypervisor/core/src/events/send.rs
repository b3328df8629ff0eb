//! Sending a notification, one table at a time.
//!
//! Holding both tables for a send would make every notification of a driver domain wait for all its guests. So a
//! send has two steps, each under one lock:
//!
//! 1. [`EventTable::send`], on the sender's table: what is at the other end? The answer is a copy.
//! 2. [`EventTable::receive`], on the other end's table: does its port still name the sender's? Only then is it raised.
//!
//! Between the steps both ends may be closed, re-opened, bound elsewhere. The second step sees any of it: a port that no
//! longer names the sender's has not agreed to this notification, and the send has come to nothing, as one that
//! was made after the closing. And none is lost: as long as the ends stay connected, step 2 finds them so. If they
//! are parted and connected again to each other between the steps, the notification is delivered, which the new
//! connection permits.

use bulkhead_abi::DomId;

use super::{Channel, EventError, EventTable, Port, Raise};

/// Where a notification goes.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// To a port of the sender's own domain: raise it now.
    Own(Raise),
    /// To a port of `domain`: give `delivery` to its table, after this one's lock was dropped.
    Peer {
        /// The other end's domain.
        domain: DomId,
        /// What its table is to be asked.
        delivery: Delivery,
    },
    /// Nobody is at the other end: the send succeeds, and does nothing.
    Nobody,
}

/// A notification on its way between two tables.
#[must_use = "an undelivered notification is a lost wake-up"]
#[derive(Debug, PartialEq, Eq)]
pub struct Delivery {
    from: DomId,
    from_port: Port,
    to_port: Port,
}

impl EventTable {
    /// Finds out whom a send on `port` notifies.
    ///
    /// # Errors
    ///
    /// [`EventError::NotOpen`], or [`EventError::NotSendable`] if only the hypervisor raises the port.
    pub fn send(&self, port: Port) -> Result<Target, EventError> {
        let entry = self.ports.get(port);
        match entry.channel {
            Channel::Interdomain {
                domain,
                port: to_port,
            } => {
                let delivery = Delivery {
                    from: self.domain,
                    from_port: port,
                    to_port,
                };
                // The other end is in this very table: no second step is needed, nor could its lock be taken again.
                if domain == self.domain {
                    return Ok(self.receive(delivery).map_or(Target::Nobody, Target::Own));
                }
                Ok(Target::Peer { domain, delivery })
            }
            Channel::Ipi => Ok(Target::Own(Raise {
                port,
                vcpu: entry.notify,
            })),
            Channel::Unbound { .. } => Ok(Target::Nobody),
            Channel::Virq(_) | Channel::Pirq(_) => Err(EventError::NotSendable),
            Channel::Closed => Err(EventError::NotOpen),
        }
    }

    /// Takes a notification from another domain, if the port that it is for is still connected to the sender's.
    #[must_use = "an undelivered notification is a lost wake-up"]
    pub fn receive(&self, delivery: Delivery) -> Option<Raise> {
        let Delivery {
            from,
            from_port,
            to_port,
        } = delivery;
        let entry = self.ports.get(to_port);
        entry.channel.names(from, from_port).then_some(Raise {
            port: to_port,
            vcpu: entry.notify,
        })
    }
}
