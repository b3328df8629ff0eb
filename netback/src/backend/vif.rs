//! A front-end that is connected, and its rings.

use bulkhead_abi::DomId;
use bulkhead_abi::netif::{RxRequest, RxSlot, TxResponse, TxSlot};
use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::{Back, Notify, Protocol};

use super::share::Rate;
use super::transmit::Assembly;
use super::{ConnectError, Connection};
use crate::counters::Counters;
use crate::negotiation::{Features, Mode};
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

/// A front-end that is connected.
#[derive(Debug)]
pub(super) struct Vif<P> {
    pub(super) domain: DomId,
    pub(super) port: PortId,
    pub(super) transmit: Back<P, Tx>,
    pub(super) receive: Back<P, Rx>,
    pub(super) is_split: bool,
    pub(super) mode: Mode,
    pub(super) features: Features,
    pub(super) rate: Rate,
    pub(super) counters: Counters,
    /// What there is of a frame that has not ended.
    pub(super) assembly: Assembly,
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
    /// It has answers that are not published; how many of the receiving ring.
    pub(super) is_touched: bool,
    pub(super) unpublished: u32,
    /// It is to be notified, by the ring.
    pub(super) notify: (bool, bool),
}

impl<P: SharedPage> Vif<P> {
    pub(super) fn adopt(connection: Connection<P>) -> Result<Self, ConnectError> {
        let Connection {
            domain,
            port,
            transmit,
            receive,
            is_split,
            mode,
            features,
            rate,
        } = connection;
        Ok(Self {
            domain,
            port,
            transmit: Back::adopt([transmit].into()).map_err(ConnectError::Transmit)?,
            receive: Back::adopt([receive].into()).map_err(ConnectError::Receive)?,
            is_split,
            mode,
            features,
            rate: Rate::new(rate),
            counters: Counters::default(),
            assembly: Assembly::default(),
            deficit: 0,
            is_listed: false,
            is_blocked: false,
            is_held: false,
            jobs: 0,
            under_way: 0,
            is_deaf: false,
            is_leaving: false,
            is_touched: false,
            unpublished: 0,
            notify: (false, false),
        })
    }

    /// Whether it wants something, or waits for something.
    pub(super) const fn is_busy(&self) -> bool {
        self.is_listed || self.is_blocked || self.jobs > 0
    }

    /// Makes sure that so many answers of the receiving ring, a frame's, are published together.
    pub(super) fn make_room(&mut self, answers: u32) {
        if self.unpublished.saturating_add(answers) > self.receive.together() {
            self.publish_received();
        }
        self.unpublished = self.unpublished.saturating_add(answers);
    }

    pub(super) fn publish_received(&mut self) {
        self.notify.1 |= self.receive.publish() == Notify::Yes;
        self.unpublished = 0;
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
