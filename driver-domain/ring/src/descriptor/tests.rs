//! The exact protocol, peers that lie, random histories, and back-ends that die between any two accesses.
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bulkhead_abi::{Buffered, Record, record};
use proptest::prelude::*;

use super::shared::{MARK, REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, Ring, SLOTS};
use super::*;
use crate::SharedPage;
use crate::testing::Page;

mod death;

record! {
    /// As large as blkif's: the response covers the first two words.
    pub struct Ask: 112 {
        0 => pub what: u64,
        8 => pub id: u64,
        16 => pub rest: [u64; 12],
    }
}

record! {
    pub struct Answer: 16 {
        0 => pub id: u64,
        8 => pub status: u64,
    }
}

/// Four slots a page.
const LARGE: usize = 976;

record! {
    pub struct LargeAsk: 976 {
        0 => pub what: u64,
        8 => pub id: u64,
        16 => pub rest: [u64; 120],
    }
}

/// 32 slots a page.
#[derive(Debug)]
pub(super) struct Block;

impl Protocol for Block {
    type Request = Ask;
    type Response = Answer;
}

/// Four slots a page, some of which cross into the next.
#[derive(Debug)]
pub(super) struct Few;

impl Protocol for Few {
    type Request = LargeAsk;
    type Response = Answer;
}

fn ask(id: u64) -> LargeAsk {
    LargeAsk {
        what: !id,
        id,
        rest: core::array::from_fn(|at| id.wrapping_mul(at as u64 + 3)),
    }
}

fn answer(id: u64) -> Answer {
    Answer {
        id,
        status: id ^ 0x5555,
    }
}

/// A ring whose indices have come to `start`: both halves, and its pages.
fn ring_at(start: u32, pages: usize) -> (Front<Page, Few>, Back<Page, Few>, Vec<Page>) {
    let pages: Vec<Page> = (0..pages).map(|_| Page::new()).collect();
    let mut front = Front::new(pages.clone()).unwrap();
    for (word, value) in [
        (REQ_PROD, start),
        (RSP_PROD, start),
        (MARK, start),
        (REQ_EVENT, start.wrapping_add(1)),
        (RSP_EVENT, start.wrapping_add(1)),
    ] {
        pages[0].store(word, value);
    }
    front.start_at(start);
    (front, Back::adopt(pages.clone()).unwrap(), pages)
}

const STARTS: [u32; 5] = [0, 1, u32::MAX - 5, u32::MAX - 1, u32::MAX];

#[test]
fn rings_have_as_many_slots_as_the_abi_says() {
    fn size<K: Protocol>(pages: usize) -> Result<u32, RingError> {
        Ring::<Page, K>::new(vec![Page::new(); pages]).map(|ring| ring.size())
    }
    struct Sizes<const REQUEST: usize, Q, R>(Q, R);
    impl<const REQUEST: usize, Q: Buffered, R: Buffered> Protocol for Sizes<REQUEST, Q, R> {
        type Request = Q;
        type Response = R;
    }
    record! { pub struct Transmit: 12 { 0 => pub bytes: [u32; 3], } }

    assert_eq!(size::<Block>(1), Ok(32));
    assert_eq!(size::<Block>(2), Ok(64));
    assert_eq!(size::<Block>(3), Ok(64));
    assert_eq!(size::<Block>(16), Ok(512));
    assert_eq!(size::<Few>(1), Ok(4));
    assert_eq!(size::<Sizes<12, Transmit, u32>>(1), Ok(256));
    assert_eq!(size::<Sizes<8, u64, u64>>(1), Ok(256));
    assert_eq!(size::<Sizes<4, u32, u64>>(1), Ok(256), "the larger record counts");
    assert_eq!(size::<Block>(0), Err(RingError::Pages(0)));
    assert_eq!(size::<Block>(17), Err(RingError::Pages(17)));
}

#[test]
fn a_new_ring_has_no_requests_and_wants_to_be_told_of_the_first() {
    let page = Page::new();
    page.write(0, &[0xaa; 4096]);
    Front::<_, Few>::new(vec![page.clone()]).unwrap();
    let mut header = [0; SLOTS];
    page.read(0, &mut header);
    let mut expected = [0; SLOTS];
    (expected[4], expected[12]) = (1, 1);
    assert_eq!(header, expected);
}

#[test]
fn requests_and_responses_lie_where_the_abi_says() {
    let page = Page::new();
    let mut front = Front::<_, Block>::new(vec![page.clone()]).unwrap();
    let mut back = Back::<_, Block>::adopt(vec![page.clone()]).unwrap();
    for id in 0..2 {
        let request = Ask {
            what: 7,
            id,
            rest: [id; 12],
        };
        front.post(&request).unwrap();
    }
    assert_eq!(page.load(REQ_PROD), 0, "nothing is shown before it is pushed");
    assert_eq!(front.push(), Notify::Yes);
    assert_eq!(page.load(REQ_PROD), 2);
    let mut bytes = [0; 112];
    page.read(64 + 112, &mut bytes);
    assert_eq!(Ask::read_from(&bytes).unwrap().rest, [1; 12]);

    let (ticket, _) = back.take().unwrap().unwrap();
    back.complete(ticket, answer(0));
    assert_eq!(page.load(RSP_PROD), 0);
    assert_eq!(back.publish(), Notify::Yes);
    assert_eq!(page.load(RSP_PROD), 1);
    page.read(64, &mut bytes);
    assert_eq!(Answer::read_from(&bytes), Some(answer(0)));
}

#[test]
fn a_slot_that_crosses_pages_holds_its_record() {
    let (mut front, mut back, _) = ring_at(u32::MAX - 2, 3);
    assert_eq!(front.size(), 8);
    for id in 0..8 {
        front.post(&ask(id)).unwrap();
    }
    let _ = front.push();
    for id in 0..8 {
        let (ticket, request) = back.take().unwrap().unwrap();
        assert_eq!(request, ask(id));
        back.complete(ticket, answer(id));
    }
    let _ = back.publish();
    for id in 0..8 {
        assert_eq!(front.take(), Ok(Some(answer(id))));
    }
}

#[test]
fn a_full_ring_takes_no_request_until_a_response_was_taken() {
    for start in STARTS {
        let (mut front, mut back, _) = ring_at(start, 1);
        for id in 0..4 {
            front.post(&ask(id)).unwrap();
        }
        assert_eq!(front.post(&ask(4)), Err(Full));
        let _ = front.push();
        let (ticket, _) = back.take().unwrap().unwrap();
        back.complete(ticket, answer(0));
        let _ = back.publish();
        assert_eq!(front.post(&ask(4)), Err(Full), "its response was not taken");
        assert_eq!(front.take(), Ok(Some(answer(0))));
        assert_eq!(front.outstanding(), 3);
        assert_eq!(front.post(&ask(4)), Ok(()));
        assert_eq!(front.post(&ask(5)), Err(Full));
    }
}

#[test]
fn a_response_waits_for_those_to_older_requests() {
    for start in STARTS {
        let (mut front, mut back, pages) = ring_at(start, 1);
        for id in 0..3 {
            front.post(&ask(id)).unwrap();
        }
        let _ = front.push();
        let tickets: [Ticket; 3] = core::array::from_fn(|_| back.take().unwrap().unwrap().0);
        let [first, second, third] = tickets;
        for (ticket, id) in [(third, 2), (second, 1)] {
            back.complete(ticket, answer(id));
            assert_eq!(back.publish(), Notify::No);
            assert_eq!(pages[0].load(RSP_PROD), start);
            assert_eq!(front.take(), Ok(None));
        }
        assert_eq!(back.outstanding(), 3);
        back.complete(first, answer(0));
        assert_eq!(back.publish(), Notify::Yes, "once for all three");
        assert_eq!(back.outstanding(), 0);
        for id in 0..3 {
            assert_eq!(front.take(), Ok(Some(answer(id))));
        }
        assert_eq!(front.take(), Ok(None));
    }
}

#[test]
fn who_is_notified_is_who_asked_for_it() {
    for start in STARTS {
        let (mut front, mut back, pages) = ring_at(start, 1);
        // The back-end asked for the first, as a new ring does for it, and not for the second.
        front.post(&ask(0)).unwrap();
        assert_eq!(front.push(), Notify::Yes);
        front.post(&ask(1)).unwrap();
        assert_eq!(front.push(), Notify::No);
        assert_eq!(front.push(), Notify::No, "there is nothing new");
        assert_eq!(back.may_sleep(), Ok(false));
        let (first, _) = back.take().unwrap().unwrap();
        let (second, _) = back.take().unwrap().unwrap();
        assert_eq!(back.may_sleep(), Ok(true));
        assert_eq!(pages[0].load(REQ_EVENT), start.wrapping_add(3));
        front.post(&ask(2)).unwrap();
        assert_eq!(front.push(), Notify::Yes);

        back.complete(first, answer(0));
        assert_eq!(back.publish(), Notify::Yes);
        back.complete(second, answer(1));
        assert_eq!(back.publish(), Notify::No);
        assert_eq!(front.may_sleep(), Ok(false));
        front.take().unwrap();
        front.take().unwrap();
        assert_eq!(front.may_sleep(), Ok(true));
        assert_eq!(pages[0].load(RSP_EVENT), start.wrapping_add(3));
        assert_eq!(back.publish(), Notify::No, "there is nothing new");
    }
}

#[test]
fn a_front_end_may_ask_to_be_told_of_a_later_response_only() {
    let (mut front, mut back, pages) = ring_at(u32::MAX - 1, 1);
    for id in 0..3 {
        front.post(&ask(id)).unwrap();
    }
    let _ = front.push();
    pages[0].store(RSP_EVENT, 1);
    for notify in [Notify::No, Notify::No, Notify::Yes] {
        let (ticket, request) = back.take().unwrap().unwrap();
        back.complete(ticket, answer(request.id));
        assert_eq!(back.publish(), notify);
    }
}

#[test]
fn a_front_end_that_claims_more_requests_than_there_is_room_for_is_refused() {
    for start in STARTS {
        let (mut front, mut back, pages) = ring_at(start, 1);
        front.post(&ask(0)).unwrap();
        let _ = front.push();
        let _unanswered = back.take().unwrap().unwrap();
        let error = ProducerError {
            theirs: start.wrapping_add(5),
            ours: start.wrapping_add(1),
            room: 3,
        };
        pages[0].store(REQ_PROD, error.theirs);
        assert_eq!(back.take().unwrap_err(), error);
        assert_eq!(back.waiting(), Err(error));
        assert_eq!(back.may_sleep(), Err(error));
        pages[0].store(REQ_PROD, start.wrapping_add(4));
        assert_eq!(back.waiting(), Ok(3), "this much there is room for");
    }
}

#[test]
fn a_producer_that_moves_backwards_is_refused() {
    for start in STARTS {
        let (mut front, mut back, pages) = ring_at(start, 1);
        for id in 0..2 {
            front.post(&ask(id)).unwrap();
        }
        let _ = front.push();
        let (first, _) = back.take().unwrap().unwrap();
        let _second = back.take().unwrap().unwrap();
        pages[0].store(REQ_PROD, start.wrapping_add(1));
        let error = back.take().unwrap_err();
        assert_eq!(
            (error.theirs, error.ours),
            (start.wrapping_add(1), start.wrapping_add(2))
        );

        back.complete(first, answer(0));
        let _ = back.publish();
        front.take().unwrap().unwrap();
        pages[0].store(RSP_PROD, start);
        let error = front.take().unwrap_err();
        assert_eq!((error.theirs, error.ours), (start, start.wrapping_add(1)));
    }
}

#[test]
fn a_back_end_that_claims_more_responses_than_it_was_shown_requests_is_refused() {
    for start in STARTS {
        let (mut front, _, pages) = ring_at(start, 1);
        front.post(&ask(0)).unwrap();
        let _ = front.push();
        front.post(&ask(1)).unwrap();
        let error = ProducerError {
            theirs: start.wrapping_add(2),
            ours: start,
            room: 1,
        };
        pages[0].store(RSP_PROD, error.theirs);
        assert_eq!(front.take(), Err(error), "the second was not pushed");
        assert_eq!(front.may_sleep(), Err(error));
    }
}

#[test]
fn a_request_that_is_changed_after_it_was_taken_is_done_as_it_was() {
    let (mut front, mut back, pages) = ring_at(0, 1);
    front.post(&ask(0)).unwrap();
    let _ = front.push();
    let (_ticket, request) = back.take().unwrap().unwrap();
    pages[0].write(SLOTS, &[0xff; LARGE]);
    assert_eq!(request, ask(0));
}

#[test]
fn what_a_front_end_makes_of_the_back_ends_indices_changes_nothing() {
    let (mut front, mut back, pages) = ring_at(7, 1);
    for id in 0..2 {
        front.post(&ask(id)).unwrap();
    }
    let _ = front.push();
    pages[0].store(RSP_PROD, 1000);
    pages[0].store(MARK, 1001);
    for id in 0..2 {
        let (ticket, request) = back.take().unwrap().unwrap();
        assert_eq!(request, ask(id));
        back.complete(ticket, answer(id));
    }
    let _ = back.publish();
    assert_eq!(pages[0].load(RSP_PROD), 9);
    assert_eq!(front.take(), Ok(Some(answer(0))));
}

/// A page that tells which numbers of responses were published.
#[derive(Clone, Debug)]
struct Watched(Page, Rc<RefCell<Vec<u32>>>);

impl SharedPage for Watched {
    fn load(&self, offset: usize) -> u32 {
        self.0.load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        self.0.store(offset, value);
        if offset == RSP_PROD {
            self.1.borrow_mut().push(value);
        }
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        self.0.read(offset, to);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        self.0.write(offset, from);
    }
}

#[test]
fn answers_that_are_ready_together_are_seen_together() {
    let (mut front, _, pages) = ring_at(u32::MAX - 1, 1);
    let seen = Rc::default();
    let mut back = Back::<_, Few>::adopt(vec![Watched(pages[0].clone(), Rc::clone(&seen))]).unwrap();
    for id in 0..4 {
        front.post(&ask(id)).unwrap();
    }
    let _ = front.push();
    let mut tickets: Vec<_> = core::iter::from_fn(|| back.take().unwrap()).collect();
    let (last, request) = tickets.pop().unwrap();
    for (ticket, request) in tickets {
        back.complete(ticket, answer(request.id));
    }
    assert!(back.together() >= 3);
    let _ = back.publish();
    assert_eq!(*seen.borrow(), [1]);
    back.complete(last, answer(request.id));
    let _ = back.publish();
    assert_eq!(*seen.borrow(), [1, 2]);
    for id in 0..4 {
        assert_eq!(front.take(), Ok(Some(answer(id))));
    }
}

#[test]
fn a_ring_with_more_requests_than_slots_is_not_adopted() {
    let (_, _, pages) = ring_at(u32::MAX, 1);
    let error = ProducerError {
        theirs: 4,
        ours: u32::MAX,
        room: 4,
    };
    pages[0].store(REQ_PROD, error.theirs);
    let refused = Back::<_, Few>::adopt(pages.clone()).map(|_| ());
    assert_eq!(refused, Err(RingError::Producer(error)));
    pages[0].store(REQ_PROD, 3);
    assert_eq!(Back::<_, Few>::adopt(pages).unwrap().waiting(), Ok(4));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic = "another ring's"]
fn a_ticket_of_another_ring_is_a_mistake_that_shows() {
    let (mut front, mut back, _) = ring_at(0, 1);
    front.post(&ask(0)).unwrap();
    let _ = front.push();
    let (ticket, _) = back.take().unwrap().unwrap();
    let (_, mut other, _) = ring_at(0, 1);
    other.complete(ticket, answer(0));
}

/// What happens next in a random history.
#[derive(Clone, Copy, Debug)]
enum Step {
    Post,
    Push,
    FrontTakes,
    FrontSleeps,
    BackTakes,
    Complete(usize),
    Publish,
    BackSleeps,
    BackDies,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Post),
        3 => Just(Step::Push),
        3 => Just(Step::FrontTakes),
        1 => Just(Step::FrontSleeps),
        4 => Just(Step::BackTakes),
        4 => any::<usize>().prop_map(Step::Complete),
        3 => Just(Step::Publish),
        1 => Just(Step::BackSleeps),
        1 => Just(Step::BackDies),
    ]
}

proptest! {
    /// The model: requests by number, four counters, and who sleeps.
    #[test]
    fn both_halves_do_what_a_queue_does(
        start in prop_oneof![any::<u32>(), u32::MAX - 60..=u32::MAX],
        pages in 1..4_usize,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let (mut front, mut back, shared) = ring_at(start, pages);
        let size = u64::from(front.size());
        let (mut posted, mut pushed, mut taken, mut published, mut seen) = (0_u64, 0_u64, 0_u64, 0_u64, 0_u64);
        let (mut front_sleeps, mut back_sleeps) = (false, false);
        let mut working: Vec<(Ticket, u64)> = Vec::new();
        let mut done: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Post => {
                    let expected = if posted - seen < size { Ok(()) } else { Err(Full) };
                    prop_assert_eq!(front.post(&ask(posted)), expected);
                    posted += u64::from(expected.is_ok());
                }
                Step::Push => {
                    let notify = front.push();
                    prop_assert!(!back_sleeps || posted == pushed || notify == Notify::Yes);
                    back_sleeps &= notify == Notify::No;
                    pushed = posted;
                }
                Step::FrontTakes => {
                    let expected = (seen < published).then(|| answer(seen));
                    prop_assert_eq!(front.take(), Ok(expected));
                    seen += u64::from(expected.is_some());
                }
                Step::FrontSleeps => {
                    front_sleeps = front.may_sleep().unwrap();
                    prop_assert_eq!(front_sleeps, seen == published);
                }
                Step::BackTakes => match back.take().unwrap() {
                    Some((ticket, request)) => {
                        prop_assert!(taken < pushed);
                        prop_assert_eq!(request, ask(taken));
                        working.push((ticket, taken));
                        taken += 1;
                    }
                    None => prop_assert_eq!(taken, pushed),
                },
                Step::Complete(which) => if !working.is_empty() {
                    let (ticket, id) = working.swap_remove(which % working.len());
                    back.complete(ticket, answer(id));
                    done.push(id);
                }
                Step::Publish => {
                    let old = published;
                    while done.contains(&published) {
                        published += 1;
                    }
                    let notify = back.publish();
                    prop_assert!(!front_sleeps || published == old || notify == Notify::Yes);
                    front_sleeps &= notify == Notify::No;
                }
                Step::BackSleeps => {
                    back_sleeps = back.may_sleep().unwrap();
                    prop_assert_eq!(back_sleeps, taken == pushed);
                }
                Step::BackDies => {
                    back = Back::adopt(shared.clone()).unwrap();
                    (taken, back_sleeps) = (published, false);
                    working.clear();
                    done.retain(|id| *id < published);
                }
            }
            prop_assert_eq!(u64::from(front.outstanding()), posted - seen);
            prop_assert_eq!(u64::from(back.outstanding()), taken - published);
            prop_assert_eq!(u64::from(back.waiting().unwrap()), pushed - taken);
        }
    }

    /// The pages panic if they are left.
    #[test]
    fn no_bytes_of_a_peer_make_a_half_panic_or_go_on_without_end(
        writes in prop::collection::vec((0..2_usize, 0..80_usize, any::<u32>(), any::<bool>()), 1..60),
    ) {
        let (mut front, mut back, pages) = ring_at(0, 2);
        let mut tickets = VecDeque::new();
        for (page, word, value, is_small) in writes {
            let value = if is_small { value % 9 } else { value };
            pages[page].store(word * 4, value);
            let _ = front.post(&ask(1));
            let _ = front.push();
            let mut taken = 0;
            while let Ok(Some((ticket, _))) = back.take() {
                tickets.push_back(ticket);
                taken += 1;
                prop_assert!(taken <= back.size());
            }
            let _ = back.may_sleep();
            if let Some(ticket) = if is_small { tickets.pop_back() } else { tickets.pop_front() } {
                back.complete(ticket, answer(1));
            }
            let _ = back.publish();
            prop_assert!(back.outstanding() <= back.size());
            let mut taken = 0;
            while let Ok(Some(_)) = front.take() {
                taken += 1;
                prop_assert!(taken <= front.size());
            }
            let _ = front.may_sleep();
            prop_assert!(front.outstanding() <= front.size());
            // Another back-end, which adopts whatever is there.
            if let Ok(mut other) = Back::<_, Few>::adopt(pages.clone()) {
                prop_assert!(other.waiting().is_ok_and(|waiting| waiting <= other.size()));
                let _ = other.take();
            }
        }
    }
}
