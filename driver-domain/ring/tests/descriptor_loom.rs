//! No half of a descriptor ring sleeps while the other has something for it, and each sees the records that it is told of, under every
//! interleaving that the memory model permits.
//!
//! A page is a few atomics that promise no order but for the index words, so that a barrier or an ordering that is missing shows: as an old
//! record, or as two halves that sleep, which the model checker reports as a deadlock.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p bulkhead-ring --test descriptor_loom --release`.
#![cfg(loom)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::record;
use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::{Back, Front, Notify, Protocol};
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

record! {
    /// Two slots a page.
    pub struct Request: 2000 {
        /// Which one.
        0 => pub id: u32,
        /// What makes it large.
        4 => pub rest: [u32; 499],
    }
}

#[derive(Debug)]
struct Small;

impl Protocol for Small {
    type Request = Request;
    type Response = u32;
}

const HEADER: usize = 64;

/// A page of which the header exists, the first word of each slot, and what is behind the slots.
#[derive(Clone)]
struct Page(Arc<Words>);

struct Words {
    header: [AtomicU32; HEADER / 4],
    slots: [AtomicU32; 2],
    behind: [AtomicU32; 2],
}

impl Page {
    fn new() -> Self {
        Self(Arc::new(Words {
            header: core::array::from_fn(|_| AtomicU32::new(0)),
            slots: core::array::from_fn(|_| AtomicU32::new(0)),
            behind: core::array::from_fn(|_| AtomicU32::new(0)),
        }))
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        match offset.checked_sub(HEADER) {
            None => &self.0.header[offset / 4],
            Some(slot) if slot < 4000 => &self.0.slots[slot / 2000],
            Some(slot) => &self.0.behind[(slot - 4000) / 4],
        }
    }
}

impl SharedPage for Page {
    fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Acquire)
    }

    fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        to[..4].copy_from_slice(&self.word(offset).load(Ordering::Relaxed).to_le_bytes());
    }

    fn write(&self, offset: usize, from: &[u8]) {
        // The front-end clears the header, which is clear, before anybody else is there.
        if from.len() != HEADER {
            let word = u32::from_le_bytes(from[..4].try_into().unwrap());
            self.word(offset).store(word, Ordering::Relaxed);
        }
    }
}

/// An event channel's end: what is raised before the wait ends it.
#[derive(Default)]
struct Event {
    is_raised: Mutex<bool>,
    raised: Condvar,
}

impl Event {
    /// The hypervisor orders nothing for the two domains but what its own lock does.
    fn raise_if(&self, notify: Notify) {
        if notify == Notify::Yes {
            *self.is_raised.lock().unwrap() = true;
            self.raised.notify_one();
        }
    }

    fn wait(&self) {
        let mut is_raised = self.is_raised.lock().unwrap();
        while !core::mem::replace(&mut *is_raised, false) {
            is_raised = self.raised.wait(is_raised).unwrap();
        }
    }
}

#[derive(Default)]
struct Events {
    front: Event,
    back: Event,
}

/// Posts so many requests, as there is room, and takes their responses. Sleeps when there are none.
fn ask(mut front: Front<Page, Small>, events: &Events, requests: u32) {
    let (mut asked, mut answered) = (0, 0);
    while answered < requests {
        while let Some(response) = front.take().unwrap() {
            assert_eq!(response, 100 + answered);
            answered += 1;
        }
        while asked < requests {
            let request = Request {
                id: 1 + asked,
                rest: [0; 499],
            };
            if front.post(&request).is_err() {
                break;
            }
            asked += 1;
        }
        events.back.raise_if(front.push());
        if answered < requests && front.may_sleep().unwrap() {
            events.front.wait();
        }
    }
}

/// Answers requests from this one up to that one, in each round the youngest first. Sleeps when there are none.
fn serve(mut back: Back<Page, Small>, events: &Events, mut taken: u32, requests: u32) {
    while taken < requests {
        let mut working = Vec::new();
        while let Some((ticket, request)) = back.take().unwrap() {
            assert_eq!(request.id, 1 + taken);
            working.push((ticket, 100 + taken));
            taken += 1;
        }
        for (ticket, response) in working.into_iter().rev() {
            back.complete(ticket, response);
        }
        events.front.raise_if(back.publish());
        if taken < requests && back.may_sleep().unwrap() {
            events.back.wait();
        }
    }
}

/// Answers one request, if there is one, and dies before it can notify or ask to be notified. Tells how many were answered.
fn die(mut back: Back<Page, Small>) -> u32 {
    let Some((ticket, _)) = back.take().unwrap() else {
        return 0;
    };
    back.complete(ticket, 100);
    let _ = back.publish();
    1
}

/// Both halves, each in a thread, explored whole or up to so many changes of mind. The first back-end may die.
fn explore(requests: u32, is_mortal: bool, preemptions: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || {
        let page = Page::new();
        let front = Front::new(vec![page.clone()]).unwrap();
        let events = Arc::new(Events::default());
        let server = {
            let events = events.clone();
            thread::spawn(move || {
                let mut answered = 0;
                if is_mortal {
                    answered = die(Back::adopt(vec![page.clone()]).unwrap());
                }
                let back = Back::adopt(vec![page]).unwrap();
                if is_mortal {
                    events.front.raise_if(Notify::Yes);
                }
                serve(back, &events, answered, requests);
            })
        };
        ask(front, &events, requests);
        server.join().unwrap();
    });
}

#[test]
fn one_request_and_its_response_wake_who_sleeps() {
    explore(1, false, None);
}

// More than a ring holds below: slots are used again. Few mistakes need more than three changes of mind to show.

#[test]
fn no_half_sleeps_while_there_is_work_for_it() {
    explore(3, false, Some(3));
}

#[test]
fn a_front_end_is_served_on_when_its_back_end_has_a_successor() {
    explore(3, true, Some(3));
}
