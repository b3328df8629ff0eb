//! Whose turn it is: frames from the rings of front-ends, and whether there is more to do.

use bulkhead_devices::nic::Nic;
use bulkhead_ring::SharedPage;

use super::job::{Origin, Segments};
use super::share::{QUANTUM, UNDER_WAY, cost};
use super::{BackEnd, Health, Rest, vif_in, wire};
use crate::counters::{Fault, add};
use crate::machine::{Machine, PAGE};

/// The most frames that are taken from rings in a round, and bytes of them.
const FRAMES: usize = 128;
const BYTES: usize = 512 << 10;
/// Jobs that frames from rings leave for others.
const RESERVED: usize = wire::FRAMES + 16;

/// What a round has room for yet.
#[derive(Clone, Copy, Debug)]
struct Room {
    frames: usize,
    bytes: usize,
    /// For frames that a NIC leaves something to be done for.
    buffers: usize,
}

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
        let mut room = self.room_of_a_round();
        while self.has_room(&room)
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

    /// Whether there is a job for a piece of a frame: as long as half of them are left, so that others do not wait for what is cut.
    pub(super) fn has_jobs_for_pieces(&self) -> bool {
        self.jobs.left() > self.jobs.count() / 2
    }

    /// What a round has room for when it begins.
    const fn room_of_a_round(&self) -> Room {
        Room {
            frames: FRAMES,
            bytes: BYTES,
            buffers: self.pool.buffers_left(),
        }
    }

    /// Whether there is room for another frame from a ring, whatever its length.
    fn has_room(&self, room: &Room) -> bool {
        let has_buffers = self.nic.info().offloads.are_all() || self.pool.is_ample(room.buffers);
        room.frames > 0 && room.bytes > 0 && has_buffers && self.has_jobs()
    }

    /// A VIF's turn. It has no more than so many jobs and bytes under way.
    fn turn(&mut self, place: u32, most: (usize, usize), room: &mut Room) {
        loop {
            let has_room = self.has_room(room);
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
            if vif.deficit <= 0 || !has_room {
                return self.list(place);
            }
            let queue = match vif.take_frame() {
                Ok(Some(queue)) => queue,
                Ok(None) => {
                    vif.deficit = 0;
                    self.looked.push(place);
                    return;
                }
                Err(error) => return self.fault(place, Fault::Producer(error)),
            };
            let Some((index, job)) = self.jobs.open(Origin::Vif(place)) else {
                return;
            };
            job.queue = queue;
            let Some(assembly) = vif.queues.get_mut(queue).map(|queue| &mut queue.assembly) else {
                return;
            };
            let finished = assembly.finish(job, vif.domain);
            job.cost = cost(
                job.length,
                job.slots.len(),
                job.segments.map(|segments| segments.size),
            );
            let offloads = self.nic.info().offloads;
            let is_left = |segments: Segments| !offloads.cuts(segments.ip);
            if !offloads.checksum || job.segments.is_some_and(is_left) {
                room.buffers = room.buffers.saturating_sub(job.length.div_ceil(PAGE));
            }
            vif.jobs = vif.jobs.saturating_add(1);
            vif.under_way = vif.under_way.saturating_add(job.cost);
            vif.deficit = vif.deficit.saturating_sub_unsigned(job.cost as u64);
            vif.rate.pay(job.length, self.now);
            room.frames = room.frames.saturating_sub(1);
            room.bytes = room.bytes.saturating_sub(job.cost);
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
            match vif.may_sleep() {
                Ok(true) => {}
                Ok(false) => self.list(place),
                Err(error) => self.fault(place, Fault::Producer(error)),
            }
        }
        self.looked = looked;
        // When there is no job or buffer left for frames from rings, the NIC has them.
        let can_take = self.has_room(&self.room_of_a_round());
        let can_cut = !self.cutting.is_empty() && self.has_jobs_for_pieces();
        let due = self.vfr.tick(self.now);
        self.take_made();
        let is_more = !self.made.is_empty() || can_cut || can_take && !self.turns.is_empty();
        if is_more || self.health == Health::Well && !self.nic.may_sleep() {
            return Rest::Again;
        }
        let held = self.held.iter().map(|(at, _)| *at);
        Rest::Sleep(held.chain(due).chain(self.log.due()).min())
    }
}
