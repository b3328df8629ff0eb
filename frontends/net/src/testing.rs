//! A back-end in private memory, for tests.
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test that goes wrong fails"
)]

extern crate std;

use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

use bulkhead_abi::netif::{
    EXTRA_MORE, Extra, Gso, RX_CSUM_BLANK, RX_DATA_VALIDATED, RX_EXTRA_INFO, RX_MORE_DATA, RxRequest,
    RxResponse, RxSlot, Status, TX_CSUM_BLANK, TX_DATA_VALIDATED, TX_EXTRA_INFO, TX_MORE_DATA, TxRequest,
    TxResponse, TxSlot,
};
use bulkhead_frontend::Access;
pub use bulkhead_frontend::testing::{Bell, Grant, Memory, Page};
use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::{Back, Notify, Ticket};

use crate::offload::{Checksum, Ip, Offload, Segments};
use crate::receive::{Mode, Rx};
use crate::transmit::Tx;

/// A back-end that does as it should, and tests that change its answers.
#[derive(Debug)]
pub struct Server {
    memory: Memory,
    transmit: Back<Page, Tx>,
    receive: Back<Page, Rx>,
    mode: Mode,
    /// Frames that it took from the front-end, whole.
    pub taken: Vec<(Vec<u8>, Offload)>,
    /// Answers to them that it has not given.
    waiting: Vec<(Ticket, TxResponse)>,
    /// Pages that the front-end posted.
    posted: VecDeque<(Ticket, RxRequest)>,
}

impl Server {
    /// A back-end that adopts the two rings in these pages of `memory`.
    ///
    /// # Panics
    ///
    /// If they are not granted for writing, or are no rings.
    #[must_use]
    pub fn adopt(memory: &Memory, [transmit, receive]: [u32; 2], mode: Mode) -> Self {
        let page = |reference| vec![memory.page_for(reference, Access::ReadWrite).unwrap()];
        Self {
            memory: memory.clone(),
            transmit: Back::adopt(page(transmit)).unwrap(),
            receive: Back::adopt(page(receive)).unwrap(),
            mode,
            taken: Vec::new(),
            waiting: Vec::new(),
            posted: VecDeque::new(),
        }
    }

    /// Takes the requests of both rings, and asks to be told of the next.
    ///
    /// # Panics
    ///
    /// If the front-end breaks the protocol.
    pub fn take(&mut self) {
        loop {
            while let Some((ticket, slot)) = self.transmit.take().unwrap() {
                self.frame(ticket, slot);
            }
            while let Some(posted) = self.receive.take().unwrap() {
                self.posted.push_back(posted);
            }
            if self.transmit.may_sleep().unwrap() && self.receive.may_sleep().unwrap() {
                return;
            }
        }
    }

    /// Takes a frame, whose first request is this.
    fn frame(&mut self, ticket: Ticket, slot: TxSlot) {
        let first: TxRequest = slot.read();
        self.respond(ticket, first.id, Status::Okay);
        let mut offload = Offload {
            checksum: match first.flags {
                flags if flags & TX_CSUM_BLANK != 0 => Checksum::Blank,
                flags if flags & TX_DATA_VALIDATED != 0 => Checksum::Validated,
                _ => Checksum::Whole,
            },
            segments: None,
        };
        let mut has_extra = first.flags & TX_EXTRA_INFO != 0;
        while has_extra {
            let (ticket, slot) = self.transmit.take().unwrap().unwrap();
            self.respond(ticket, 0, Status::Null);
            let gso: Gso = slot.read();
            let ip = if gso.gso_type == 1 { Ip::V4 } else { Ip::V6 };
            offload.segments = Some(Segments { size: gso.size, ip });
            has_extra = gso.flags & EXTRA_MORE != 0;
        }
        let mut parts = vec![first];
        while parts.last().unwrap().flags & TX_MORE_DATA != 0 {
            let (ticket, slot) = self.transmit.take().unwrap().unwrap();
            let next: TxRequest = slot.read();
            self.respond(ticket, next.id, Status::Okay);
            parts.push(next);
        }
        let others: u16 = parts.iter().skip(1).map(|part| part.size).sum();
        let mut bytes = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let size = part.size - if index == 0 { others } else { 0 };
            let page = self.memory.page_for(part.gref, Access::ReadOnly).unwrap();
            let at = bytes.len();
            bytes.resize(at + usize::from(size), 0);
            page.read(part.offset.into(), bytes.get_mut(at..).unwrap());
        }
        self.taken.push((bytes, offload));
    }

    fn respond(&mut self, ticket: Ticket, id: u16, status: Status) {
        let status = status.raw();
        self.waiting.push((ticket, TxResponse { id, status }));
    }

    /// Answers all frames that were taken, having changed the answers, or exchanged them for each other.
    pub fn answer(&mut self, change: impl FnOnce(&mut [TxResponse])) -> Notify {
        let (tickets, mut responses): (Vec<_>, Vec<_>) = self.waiting.drain(..).unzip();
        change(&mut responses);
        for (ticket, response) in tickets.into_iter().zip(responses) {
            self.transmit.complete(ticket, response);
        }
        self.transmit.publish()
    }

    /// How many pages the front-end has posted, that were taken and not used.
    #[must_use]
    pub fn posted(&self) -> usize {
        self.posted.len()
    }

    /// Fills a posted page, by copying or by giving another for it; what answers that.
    ///
    /// # Panics
    ///
    /// If there is none, or the bytes leave the page.
    pub fn fill(&mut self, offset: u16, bytes: &[u8]) -> (Ticket, RxResponse) {
        let (ticket, RxRequest { id, gref }) = self.posted.pop_front().unwrap();
        match self.mode {
            Mode::Copy => {
                let page = self.memory.page_for(gref, Access::ReadWrite).unwrap();
                page.write(offset.into(), bytes);
            }
            Mode::Flip => {
                let page = Page::new();
                page.write(offset.into(), bytes);
                self.memory.flip(gref, page).unwrap();
            }
        }
        let response = RxResponse {
            id,
            offset,
            flags: 0,
            status: bytes.len().try_into().unwrap(),
        };
        (ticket, response)
    }

    /// A posted page that is not touched; what answers that with this status.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn leave(&mut self, status: i16) -> (Ticket, RxResponse) {
        let (ticket, RxRequest { id, .. }) = self.posted.pop_front().unwrap();
        let response = RxResponse {
            id,
            status,
            ..RxResponse::default()
        };
        (ticket, response)
    }

    /// Answers a request of the receiving ring.
    pub fn give(&mut self, ticket: Ticket, slot: RxSlot) {
        self.receive.complete(ticket, slot);
    }

    /// Shows the front-end the answers of the receiving ring.
    pub fn publish(&mut self) -> Notify {
        self.receive.publish()
    }

    /// Sends the front-end a frame in parts of so many bytes; nothing if it has not posted as many pages as that takes.
    ///
    /// # Panics
    ///
    /// If a part does not fit a page.
    pub fn send(&mut self, bytes: &[u8], part: usize, offload: Offload) -> Option<Notify> {
        let parts = bytes.chunks(part).count();
        if self.posted.len() < parts + usize::from(offload.segments.is_some()) {
            return None;
        }
        for (index, chunk) in bytes.chunks(part).enumerate() {
            let (ticket, mut response) = self.fill(0, chunk);
            if index + 1 < parts {
                response.flags |= RX_MORE_DATA;
            }
            if index == 0 {
                response.flags |= match offload.checksum {
                    Checksum::Whole => 0,
                    Checksum::Blank => RX_CSUM_BLANK | RX_DATA_VALIDATED,
                    Checksum::Validated => RX_DATA_VALIDATED,
                };
            }
            let segments = offload.segments.filter(|_| index == 0);
            if segments.is_some() {
                response.flags |= RX_EXTRA_INFO;
            }
            self.give(ticket, RxSlot::holding(&response));
            if let Some(Segments { size, ip }) = segments {
                let (ticket, _) = self.leave(0);
                let gso = Gso {
                    extra_type: 1,
                    size,
                    gso_type: ip.gso_type().raw(),
                    ..Gso::default()
                };
                self.give(ticket, RxSlot::holding(&gso));
            }
        }
        Some(self.publish())
    }
}

/// An extra of this type, with nothing in it.
#[must_use]
pub const fn extra(extra_type: u8, flags: u8) -> Extra {
    Extra {
        extra_type,
        flags,
        data: [0; 3],
    }
}
