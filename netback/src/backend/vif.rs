//! A front-end that is connected, and its rings.

use alloc::vec::Vec;

use bulkhead_abi::DomId;
use bulkhead_abi::netif::{RxRequest, RxSlot, TxResponse, TxSlot};
use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::{Back, Notify, ProducerError, Protocol};

use super::share::Rate;
use super::transmit::Assembly;
use super::{Channel, ConnectError, Connection, Rings};
use crate::counters::Counters;
use crate::negotiation::{Features, MAX_QUEUES, Mode};
use crate::vfr::classify::PortId;

/// The ring of frames that a front-end sends.
#[derive(Debug)]
pub(super) struct Tx;

impl Protocol for Tx {
    type Request = TxSlot;
    type Response = TxResponse;
}

/// The ring of frames that it receives.
#[derive(Debug)]
pub(super) struct Rx;

impl Protocol for Rx {
    type Request = RxRequest;
    type Response = RxSlot;
}

/// A pair of rings.
#[derive(Debug)]
pub(super) struct Queue<P> {
    pub(super) transmit: Back<P, Tx>,
    pub(super) receive: Back<P, Rx>,
    is_split: bool,
    /// What there is of a frame that has not ended.
    pub(super) assembly: Assembly,
    /// It has answers that are not published; how many of the receiving ring.
    pub(super) is_touched: bool,
    unpublished: u32,
    /// The front-end is to be notified, by the ring.
    notify: (bool, bool),
}

/// A front-end that is connected.
#[derive(Debug)]
pub(super) struct Vif<P> {
    pub(super) domain: DomId,
    pub(super) port: PortId,
    pub(super) queues: Vec<Queue<P>>,
    /// The queue that the next frame is taken from, if it has one.
    next: usize,
    pub(super) mode: Mode,
    pub(super) features: Features,
    pub(super) rate: Rate,
    pub(super) counters: Counters,
    /// What it may still send in this turn; what it owes, if that is less than nothing.
    pub(super) deficit: i64,
    /// It waits for its turn.
    pub(super) is_listed: bool,
    /// It waits for one of its frames to come to its end, and has its turn then.
    pub(super) is_blocked: bool,
    /// It waits until its rate allows it to go on.
    pub(super) is_held: bool,
    /// Its frames that have not come to their end: how many, and what they cost.
    pub(super) jobs: usize,
    pub(super) under_way: usize,
    /// Its rings are not looked at any more.
    pub(super) is_deaf: bool,
    /// It ends when nothing of it is under way.
    pub(super) is_leaving: bool,
    /// One of its queues has answers that are not published.
    pub(super) is_touched: bool,
}

impl<P: SharedPage> Queue<P> {
    fn adopt(rings: Rings<P>) -> Result<Self, ConnectError> {
        let Rings {
            transmit,
            receive,
            is_split,
        } = rings;
        Ok(Self {
            transmit: Back::adopt([transmit].into()).map_err(ConnectError::Transmit)?,
            receive: Back::adopt([receive].into()).map_err(ConnectError::Receive)?,
            is_split,
            assembly: Assembly::default(),
            // The predecessor may have died before its own notifications.
            is_touched: true,
            unpublished: 0,
            notify: (true, true),
        })
    }

    /// Makes sure that so many answers of the receiving ring, a frame's, are published together.
    pub(super) fn make_room(&mut self, answers: u32) {
        if self.unpublished.saturating_add(answers) > self.receive.together() {
            self.publish_received();
        }
        self.unpublished = self.unpublished.saturating_add(answers);
    }

    fn publish_received(&mut self) {
        self.notify.1 |= self.receive.publish() == Notify::Yes;
        self.unpublished = 0;
    }

    /// Publishes the answers. Which channels are to be notified, of the queue with this number.
    pub(super) fn publish(&mut self, number: usize) -> [Option<Channel>; 2] {
        if !core::mem::take(&mut self.is_touched) {
            return [None, None];
        }
        self.notify.0 |= self.transmit.publish() == Notify::Yes;
        self.publish_received();
        match core::mem::take(&mut self.notify) {
            (false, false) => [None, None],
            _ if !self.is_split => [Some(Channel::Both(number)), None],
            (transmit, receive) => [
                transmit.then_some(Channel::Transmit(number)),
                receive.then_some(Channel::Receive(number)),
            ],
        }
    }
}

impl<P: SharedPage> Vif<P> {
    pub(super) fn adopt(connection: Connection<P>) -> Result<Self, ConnectError> {
        let Connection {
            domain,
            port,
            queues,
            mode,
            features,
            rate,
        } = connection;
        if !(1..=MAX_QUEUES as usize).contains(&queues.len()) {
            return Err(ConnectError::Queues(queues.len()));
        }
        let queues: Result<_, _> = queues.into_iter().map(Queue::adopt).collect();
        Ok(Self {
            domain,
            port,
            queues: queues?,
            next: 0,
            mode,
            features,
            rate: Rate::new(rate),
            counters: Counters::default(),
            deficit: 0,
            is_listed: false,
            is_blocked: false,
            is_held: false,
            jobs: 0,
            under_way: 0,
            is_deaf: false,
            is_leaving: false,
            is_touched: false,
        })
    }

    /// Whether it wants something, or waits for something.
    pub(super) const fn is_busy(&self) -> bool {
        self.is_listed || self.is_blocked || self.jobs > 0
    }

    /// The queue that a frame goes to whose connection has this number.
    pub(super) fn queue_of(&self, flow: u32) -> usize {
        (flow as usize).checked_rem(self.queues.len()).unwrap_or(0)
    }

    /// Takes slots until a frame has ended, which is in the queue's assembly. The queues take turns, by the frame; none has the end of one, if
    /// this is `None`.
    ///
    /// # Errors
    ///
    /// [`ProducerError`]: a ring has an index that cannot be.
    pub(super) fn take_frame(&mut self) -> Result<Option<usize>, ProducerError> {
        for _ in 0..self.queues.len() {
            let number = self.next;
            self.next = if number.saturating_add(1) < self.queues.len() {
                number.saturating_add(1)
            } else {
                0
            };
            let Some(queue) = self.queues.get_mut(number) else {
                continue;
            };
            while let Some((ticket, slot)) = queue.transmit.take()? {
                if queue.assembly.take(ticket, &slot) {
                    return Ok(Some(number));
                }
            }
        }
        Ok(None)
    }

    /// Asks to be told of the next frame. Whether there is none now.
    ///
    /// # Errors
    ///
    /// [`ProducerError`]: a ring has an index that cannot be.
    pub(super) fn may_sleep(&mut self) -> Result<bool, ProducerError> {
        let mut may_sleep = true;
        for queue in &mut self.queues {
            may_sleep &= queue.transmit.may_sleep()?;
        }
        Ok(may_sleep)
    }
}

/// Whether an end with these features takes blank checksums over this version of IP.
pub(super) const fn takes(features: &Features, is_v6: bool) -> bool {
    if is_v6 {
        features.checksum_v6
    } else {
        features.checksum_v4
    }
}
