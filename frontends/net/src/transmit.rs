//! The sending ring: the front-end without futures.
//!
//! A request's number has two parts: in the low byte, its place among the outstanding ones; above, how many were posted before it. So an answer that
//! comes twice is found, but for one time in 256, when the place has been used again. Answers may come in any order.

use alloc::vec::Vec;
use core::fmt;

use bulkhead_abi::netif::{
    ExtraType, Gso, MAX_FRAME, MAX_SLOTS, MIN_FIRST, RING_SLOTS, Status, TX_CSUM_BLANK, TX_DATA_VALIDATED,
    TX_EXTRA_INFO, TX_MORE_DATA, TxRequest, TxResponse, TxSlot,
};
use bulkhead_frontend::{Access, Domain};
use bulkhead_ring::descriptor::{Front, Notify, Protocol};

use crate::error::{Broken, Refused, SendError};
use crate::frame::{Frame, Part, Pool};
use crate::offload::{Checksum, Features, Offload};

/// The ring of frames that are sent.
#[derive(Debug)]
pub struct Tx;

impl Protocol for Tx {
    type Request = TxSlot;
    type Response = TxResponse;
}

/// What became of frames that were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// How many the back-end took.
    pub frames: u64,
    /// How many it dropped, for want of room for example.
    pub dropped: u64,
    /// How many it found wrong.
    pub errors: u64,
}

/// Frames to be sent, and the ring by which they are.
pub struct Transmit<D: Domain> {
    pool: Pool<D>,
    front: Front<D::Grant, Tx>,
    features: Features,
    /// By place.
    flights: Vec<Option<Flight<D>>>,
    free: Vec<u8>,
    /// How many extras were not answered.
    extras: u32,
    /// How many requests were posted, as far as a byte counts.
    posted: u8,
    /// Something was posted that the back-end was not shown.
    is_unpushed: bool,
    sent: Sent,
    broken: Option<Broken>,
}

/// A request that was posted and not answered.
#[derive(Debug)]
struct Flight<D: Domain> {
    id: u16,
    grant: D::Grant,
    /// The frame is counted by it.
    is_first: bool,
}

impl<D: Domain> Transmit<D> {
    /// For a back-end that takes this.
    pub fn new(pool: Pool<D>, front: Front<D::Grant, Tx>, features: Features) -> Self {
        Self {
            pool,
            front,
            features,
            flights: (0..RING_SLOTS).map(|_| None).collect(),
            // Places are taken from the end.
            free: (0..=u8::MAX).rev().collect(),
            extras: 0,
            posted: 0,
            is_unpushed: false,
            sent: Sent::default(),
            broken: None,
        }
    }

    /// What became of frames, until now.
    #[must_use]
    pub const fn sent(&self) -> Sent {
        self.sent
    }

    /// Why nothing works any more, if that is so.
    #[must_use]
    pub const fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Whether there is room for the largest frame.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.room() > MAX_SLOTS
    }

    /// How many slots are free.
    fn room(&self) -> usize {
        self.front.size().saturating_sub(self.front.outstanding()) as usize
    }

    /// Posts a frame. The back-end sees it with the next [`step`](Self::step); its pages come back to the pool when they are answered.
    ///
    /// # Errors
    ///
    /// [`Refused`] has the frame, and says why it is not sent.
    pub fn send(&mut self, mut frame: Frame<D>, offload: Offload) -> Result<(), Refused<D>> {
        if let Err(error) = self.check(&frame, offload) {
            return Err(Refused { frame, error });
        }
        let total = frame.len();
        let mut lent = Vec::with_capacity(frame.parts().len());
        let mut parts = frame.take_parts().into_iter();
        while let Some(Part { page, offset, length }) = parts.next() {
            match self.pool.domain().grant(page, Access::ReadOnly) {
                Ok(grant) => lent.push((grant, offset, length)),
                Err(page) => {
                    self.take_back(&mut frame, lent);
                    frame.push(Part { page, offset, length });
                    parts.for_each(|part| frame.push(part));
                    let error = SendError::NoMemory;
                    return Err(Refused { frame, error });
                }
            }
        }
        self.post(lent, total, offload);
        Ok(())
    }

    /// Whether a frame can be posted.
    fn check(&self, frame: &Frame<D>, offload: Offload) -> Result<(), SendError> {
        if let Some(broken) = self.broken {
            return Err(broken.into());
        }
        let parts = frame.parts();
        let first = parts.first().map_or(0, |part| part.length);
        if first < MIN_FIRST || frame.len() > MAX_FRAME || parts.len() > MAX_SLOTS {
            return Err(SendError::Length(frame.len()));
        }
        if parts.len() > 1 && !self.features.several_slots {
            return Err(SendError::Scattered);
        }
        if !self.features.take(offload, is_v6(frame)) {
            return Err(SendError::Unsupported);
        }
        let extras = usize::from(offload.segments.is_some());
        if parts.len().saturating_add(extras) > self.room() {
            return Err(SendError::Full);
        }
        Ok(())
    }

    /// Gives a frame parts back that the back-end was not told of.
    fn take_back(&self, frame: &mut Frame<D>, lent: Vec<(D::Grant, usize, usize)>) {
        for (grant, offset, length) in lent {
            // One that guessed the number may use it: the page is lost then, and with it the frame's wholeness, which nobody asks for.
            if let Ok(page) = self.pool.domain().revoke(grant) {
                frame.push(Part { page, offset, length });
            }
        }
    }

    /// Posts a frame's parts. There is room.
    fn post(&mut self, lent: Vec<(D::Grant, usize, usize)>, total: usize, offload: Offload) {
        let last = lent.len().saturating_sub(1);
        for (index, (grant, offset, length)) in lent.into_iter().enumerate() {
            let Some(place) = self.free.pop() else { return };
            let id = u16::from_le_bytes([place, self.posted]);
            self.posted = self.posted.wrapping_add(1);
            let is_first = index == 0;
            let mut flags = if index == last { 0 } else { TX_MORE_DATA };
            if is_first {
                flags |= match offload.checksum {
                    Checksum::Whole => 0,
                    Checksum::Blank => TX_CSUM_BLANK | TX_DATA_VALIDATED,
                    Checksum::Validated => TX_DATA_VALIDATED,
                };
                flags |= offload.segments.map_or(0, |_| TX_EXTRA_INFO);
            }
            let request = TxRequest {
                gref: self.pool.domain().reference(&grant),
                offset: low(offset),
                flags,
                id,
                size: low(if is_first { total } else { length }),
            };
            if let Some(flight) = self.flights.get_mut(usize::from(place)) {
                *flight = Some(Flight { id, grant, is_first });
            }
            // There is room: that was asked before.
            let _ = self.front.post(&TxSlot::holding(&request));
            if let Some(segments) = offload.segments.filter(|_| is_first) {
                let extra = Gso {
                    extra_type: ExtraType::Gso.raw(),
                    size: segments.size,
                    gso_type: segments.ip.gso_type().raw(),
                    ..Gso::default()
                };
                let _ = self.front.post(&TxSlot::holding(&extra));
                self.extras = self.extras.saturating_add(1);
            }
        }
        self.is_unpushed = true;
    }

    /// Takes the answers that there are, and shows the back-end what was posted. It is to be notified if it says so.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the interface is.
    pub fn step(&mut self) -> Result<Notify, Broken> {
        self.broken.map_or(Ok(()), Err)?;
        while let Some(response) = self.front.take().map_err(|error| self.fail(error.into()))? {
            self.answer(response).map_err(|broken| self.fail(broken))?;
        }
        Ok(if core::mem::take(&mut self.is_unpushed) {
            self.front.push()
        } else {
            Notify::No
        })
    }

    /// Whether to wait for the back-end's notification, or for a frame. [`step`](Self::step) first.
    ///
    /// # Errors
    ///
    /// [`Broken`] if the interface is.
    pub fn may_sleep(&mut self) -> Result<bool, Broken> {
        self.broken.map_or(Ok(()), Err)?;
        self.front.may_sleep().map_err(|error| self.fail(error.into()))
    }

    /// Gives the ring up. Pages that the back-end uses now are lost. Returns why.
    pub fn fail(&mut self, broken: Broken) -> Broken {
        self.broken.get_or_insert(broken);
        self.flights.clear();
        broken
    }

    /// Takes an answer for what it claims to be.
    fn answer(&mut self, response: TxResponse) -> Result<(), Broken> {
        let TxResponse { id, status } = response;
        let status = Status::from_raw(status).ok_or(Broken::Status(status))?;
        if status == Status::Null {
            self.extras = self.extras.checked_sub(1).ok_or(Broken::NoExtra)?;
            return Ok(());
        }
        let [place, _] = id.to_le_bytes();
        let flight = self.flights.get_mut(usize::from(place));
        let flight = flight.and_then(|flight| flight.take_if(|flight| flight.id == id));
        let Flight { grant, is_first, .. } = flight.ok_or(Broken::NotAsked(id))?;
        self.free.push(place);
        let domain = self.pool.domain();
        let page = domain
            .revoke(grant)
            .map_err(|grant| Broken::KeepsPage(domain.reference(&grant)))?;
        self.pool.keep(page);
        if is_first {
            let count = match status {
                Status::Okay | Status::Null => &mut self.sent.frames,
                Status::Dropped => &mut self.sent.dropped,
                Status::Error => &mut self.sent.errors,
            };
            *count = count.saturating_add(1);
        }
        Ok(())
    }
}

impl<D: Domain> fmt::Debug for Transmit<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transmit")
            .field("outstanding", &self.front.outstanding())
            .field("sent", &self.sent)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// Whether the frame says that it is one of IPv6.
fn is_v6<D: Domain>(frame: &Frame<D>) -> bool {
    /// Where a frame says what it carries.
    const TYPE: usize = 12;
    const IPV6: [u8; 2] = [0x86, 0xdd];
    let mut carried = [0; 2];
    frame.read(TYPE, &mut carried).is_some() && carried == IPV6
}

/// A length or a place, which a request has 16 bits for.
fn low(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}
