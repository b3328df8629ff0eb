//! The end of frames and of front-ends: what they held is given back, and who waits for it is told.

use bulkhead_abi::netif::{Status, TxResponse};
use bulkhead_devices::nic::Nic;
use bulkhead_ring::SharedPage;

use super::job::Origin;
use super::{BackEnd, Event, Flaw, Health, Place, VifId, vif_in};
use crate::counters::{Fault, Loss, add};
use crate::machine::Machine;

impl<N: Nic, M: Machine, P: SharedPage> BackEnd<N, M, P> {
    /// A frame is lost: by the fault of this receiver, or else by its own.
    pub(super) fn lose(&mut self, index: u32, loss: Loss, receiver: Option<u32>) {
        let origin = self.jobs.get(index).map(|job| job.origin);
        if let Some(vif) = receiver.and_then(|place| vif_in(&mut self.places, place)) {
            vif.counters.lose_received(loss);
        } else {
            match origin {
                Some(Origin::Vif(place)) if loss.is_fault() => self.fault(place, Fault::Frame(loss)),
                Some(Origin::Vif(place)) => {
                    if let Some(vif) = vif_in(&mut self.places, place) {
                        vif.counters.lose_sent(loss);
                    }
                }
                Some(Origin::Wire | Origin::Made) | None => self.totals.lose(loss),
            }
        }
        let is_fault = loss.is_fault() && receiver.is_none();
        self.end(index, if is_fault { Status::Error } else { Status::Dropped });
    }

    /// A job has come to its end.
    pub(super) fn end(&mut self, index: u32, answer: Status) {
        if let Some(job) = self.jobs.get_mut(index) {
            job.answer = answer;
            self.done.push(index);
            if let Some(whole) = job.whole.take() {
                self.piece_ended(whole);
            }
        }
    }

    /// A piece of a frame has come to its end, or there are no more to be made: the frame ends with the last.
    pub(super) fn piece_ended(&mut self, whole: u32) {
        if let Some(job) = self.jobs.get_mut(whole) {
            job.pieces = job.pieces.saturating_sub(1);
            if job.pieces == 0 {
                self.end(whole, Status::Okay);
            }
        }
    }

    /// Counts a fault, and tells of it if it is the first of its kind.
    pub(super) fn fault(&mut self, place: u32, why: Fault) {
        let Some(Place {
            generation,
            vif: Some(vif),
        }) = self.places.get_mut(place as usize)
        else {
            return;
        };
        vif.is_deaf |= matches!(why, Fault::Producer(_));
        if vif.counters.fault(&why) {
            let generation = *generation;
            self.events.push(Event::Fault(VifId { place, generation }, why));
        }
    }

    /// Counts a flaw, and tells of it if it is the first of its kind.
    pub(super) fn flaw(&mut self, flaw: Flaw) {
        let kind = match flaw {
            Flaw::Broken => {
                self.health = Health::Broken;
                0
            }
            Flaw::Unasked(_) => 1,
            Flaw::Unmap(_) => 2,
            Flaw::Page(_) => 3,
        };
        if let Some(count) = self.flaws.get_mut::<usize>(kind) {
            add(count, 1);
            if *count == 1 {
                self.events.push(Event::Flaw(flaw));
            }
        }
    }

    /// Takes what jobs hold that have come to their end.
    pub(super) fn release(&mut self) {
        for index in &self.done {
            if let Some(job) = self.jobs.get_mut(*index) {
                // Most jobs hold one kind of these, or none.
                if !job.pins.is_empty() {
                    self.pins.append(&mut job.pins);
                }
                if !job.pages.is_empty() {
                    self.pool.ready.append(&mut job.pages);
                }
                if !job.buffers.is_empty() {
                    self.pool.give_buffers(&mut job.buffers);
                }
            }
        }
    }

    /// Gives back what jobs hold that have come to their end, then answers, and tells those who are to be told.
    pub(super) fn finish(&mut self) {
        self.release();
        if !self.pins.is_empty() {
            add(&mut self.totals.unmaps.0, 1);
            add(&mut self.totals.unmaps.1, self.pins.len() as u64);
            let refused = self.machine.unmap(&self.pins);
            self.pins.clear();
            if refused > 0 {
                self.flaw(Flaw::Unmap(refused));
            }
        }
        if !self.done.is_empty() {
            add(&mut self.totals.rounds, 1);
        }
        // The lists are kept for their memory: nothing is put to them meanwhile.
        let mut done = core::mem::take(&mut self.done);
        done.drain(..).for_each(|index| self.answer(index));
        self.done = done;
        let mut touched = core::mem::take(&mut self.touched);
        touched.drain(..).for_each(|place| self.publish(place));
        self.touched = touched;
        self.close();
    }

    /// Answers the slots of a job that has come to its end.
    fn answer(&mut self, index: u32) {
        let Some(job) = self.jobs.get_mut(index) else {
            return;
        };
        let (origin, number, cost, status) = (job.origin, job.queue, job.cost, job.answer);
        if let Origin::Vif(place) = origin
            && let Some(vif) = vif_in(&mut self.places, place)
            && let Some(queue) = vif.queues.get_mut(number)
        {
            for slot in job.slots.drain(..) {
                let status = if slot.is_extra { Status::Null } else { status };
                let response = TxResponse {
                    id: slot.id,
                    status: status.raw(),
                };
                queue.transmit.complete(slot.ticket, response);
            }
            vif.jobs = vif.jobs.saturating_sub(1);
            vif.under_way = vif.under_way.saturating_sub(cost);
            let is_blocked = vif.is_blocked;
            self.touch(place, number);
            if is_blocked {
                self.list(place);
            }
        }
        self.jobs.close(index);
    }

    /// Publishes a VIF's answers, and has it notified.
    fn publish(&mut self, place: u32) {
        let Some(Place {
            generation,
            vif: Some(vif),
        }) = self.places.get_mut(place as usize)
        else {
            return;
        };
        vif.is_touched = false;
        let generation = *generation;
        let id = VifId { place, generation };
        for (number, queue) in vif.queues.iter_mut().enumerate() {
            for channel in queue.publish(number).into_iter().flatten() {
                add(&mut self.totals.notifications, 1);
                self.events.push(Event::Notify(id, channel));
            }
        }
    }

    /// Ends front-ends that go and have nothing under way.
    fn close(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let mut leaving = core::mem::take(&mut self.leaving);
        leaving.retain(|index| {
            let Some(place) = self.places.get_mut(*index as usize) else {
                return false;
            };
            let Some(vif) = place.vif.take_if(|vif| vif.jobs == 0) else {
                return true;
            };
            let id = VifId {
                place: *index,
                generation: place.generation,
            };
            place.generation = place.generation.wrapping_add(1);
            self.turns.retain(|other| other != index);
            self.looked.retain(|other| other != index);
            self.held.retain(|(_, other)| other != index);
            self.events.push(Event::Closed(id, vif.counters));
            false
        });
        self.leaving = leaving;
    }
}
