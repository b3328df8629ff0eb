//! Whose turn it is: frames from the rings of front-ends, and whether there is more to do.

use bulkhead_devices::nic::Nic;
use bulkhead_ring::SharedPage;

use super::job::Origin;
use super::share::{QUANTUM, UNDER_WAY, cost};
use super::{BackEnd, Health, Rest, vif_in, wire};
use crate::counters::{Fault, add};
use crate::machine::Machine;

/// The most frames that are taken from rings in a round, and bytes of them.
const FRAMES: usize = 128;
const BYTES: usize = 512 << 10;
/// Jobs that frames from rings leave for others.
const RESERVED: usize = wire::FRAMES + 16;

impl<N: Nic, M: Machine, P: SharedPage> BackEnd<N, M, P> {
    /// A VIF may have something to send.
    pub(super) fn list(&mut self, place: u32) {
        let vif = vif_in(&mut self.places, place);
        if let Some(vif) = vif.filter(|vif| !vif.is_held)
            && !core::mem::replace(&mut vif.is_listed, true)
        {
            vif.is_blocked = false;
            self.turns.push_back(place);
        }
    }

    /// Takes frames from the rings of front-ends, in turns.
    pub(super) fn take(&mut self) {
        let now = self.now;
        let mut due = core::mem::take(&mut self.held);
        due.retain(|(at, place)| {
            let is_due = *at <= now;
            if is_due && let Some(vif) = vif_in(&mut self.places, *place) {
                vif.is_held = false;
                self.list(*place);
            }
            !is_due
        });
        self.held = due;
        if self.turns.is_empty() {
            return;
        }
        let busy = self.places.iter().filter_map(|place| place.vif.as_ref());
        let busy = busy.filter(|vif| vif.is_busy()).count().max(1);
        let most_bytes = UNDER_WAY.checked_div(busy).unwrap_or(0);
        let most_jobs = self
            .jobs
            .count()
            .saturating_sub(RESERVED)
            .checked_div(busy)
            .unwrap_or(0);
        let most = (most_jobs.max(1), most_bytes.max(1));
        // Each frame may need a buffer, if the NIC completes no checksums.
        let most_frames = match self.nic.info().offloads.checksum {
            true => FRAMES,
            false => FRAMES.min(self.pool.buffers_left()),
        };
        let mut room = (most_frames, BYTES);
        while room.0 > 0
            && room.1 > 0
            && self.has_jobs()
            && let Some(place) = self.turns.pop_front()
        {
            if let Some(vif) = vif_in(&mut self.places, place) {
                vif.is_listed = false;
                vif.deficit = vif.deficit.saturating_add(QUANTUM).min(QUANTUM);
            }
            self.turn(place, most, &mut room);
        }
    }

    /// Whether there is a job for a frame from a ring.
    fn has_jobs(&self) -> bool {
        self.jobs.left() > RESERVED.min(self.jobs.count() / 2)
    }

    /// A VIF's turn. It has no more than so many jobs and bytes under way.
    fn turn(&mut self, place: u32, most: (usize, usize), room: &mut (usize, usize)) {
        loop {
            let has_jobs = self.has_jobs();
            let Some(vif) = vif_in(&mut self.places, place).filter(|vif| !vif.is_deaf && !vif.is_leaving)
            else {
                return;
            };
            if vif.jobs >= most.0 || vif.under_way >= most.1 {
                vif.is_blocked = true;
                return;
            }
            if let Some(at) = vif.rate.wait(self.now) {
                add(&mut vif.counters.held, 1);
                vif.is_held = true;
                self.held.push((at, place));
                return;
            }
            let is_out = room.0 == 0 || room.1 == 0 || !has_jobs;
            if vif.deficit <= 0 || is_out {
                return self.list(place);
            }
            match vif.transmit.take() {
                Ok(Some((ticket, slot))) => {
                    if !vif.assembly.take(ticket, &slot) {
                        continue;
                    }
                }
                Ok(None) => {
                    vif.deficit = 0;
                    self.looked.push(place);
                    return;
                }
                Err(error) => return self.fault(place, Fault::Producer(error)),
            }
            let Some((index, job)) = self.jobs.open(Origin::Vif(place)) else {
                return;
            };
            let finished = vif.assembly.finish(job, vif.domain, &self.offered);
            job.cost = cost(job.length);
            vif.jobs = vif.jobs.saturating_add(1);
            vif.under_way = vif.under_way.saturating_add(job.cost);
            vif.deficit = vif.deficit.saturating_sub_unsigned(job.cost as u64);
            vif.rate.pay(job.length, self.now);
            *room = (room.0.saturating_sub(1), room.1.saturating_sub(job.cost));
            match finished {
                Ok(()) => {
                    add(&mut vif.counters.sent, 1);
                    add(&mut vif.counters.sent_bytes, job.length as u64);
                    self.fresh.push(index);
                }
                Err(loss) => self.lose(index, loss, None),
            }
        }
    }

    /// Whether everybody who has something for us will say so.
    pub(super) fn rest(&mut self) -> Rest {
        let mut looked = core::mem::take(&mut self.looked);
        for place in looked.drain(..) {
            let Some(vif) = vif_in(&mut self.places, place).filter(|vif| !vif.is_deaf && !vif.is_leaving)
            else {
                continue;
            };
            match vif.transmit.may_sleep() {
                Ok(true) => {}
                Ok(false) => self.list(place),
                Err(error) => self.fault(place, Fault::Producer(error)),
            }
        }
        self.looked = looked;
        // When there is no job or buffer left for frames from rings, the NIC has them.
        let can_take = self.has_jobs() && (self.nic.info().offloads.checksum || self.pool.buffers_left() > 0);
        let due = self.vfr.tick(self.now);
        self.take_made();
        let is_more = !self.made.is_empty() || can_take && !self.turns.is_empty();
        if is_more || self.health == Health::Well && !self.nic.may_sleep() {
            return Rest::Again;
        }
        let held = self.held.iter().map(|(at, _)| *at);
        Rest::Sleep(held.chain(due).chain(self.log.due()).min())
    }
}
