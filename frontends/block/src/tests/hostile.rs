//! Back-ends that break the protocol.

use bulkhead_abi::blkif::{Request, Response};
use bulkhead_ring::SharedPage;

use super::*;

/// Where the back-end's index is in the ring's first page.
const RSP_PROD: usize = 8;

/// Two orders are outstanding, and the back-end answers as `answer` says; why the disk is broken then.
fn broken_by(answer: impl FnOnce(&mut Bench)) -> Broken {
    let mut bench = bench(PROPERTIES, 1);
    let tickets = [0, 8].map(|sector| bench.queue.order(Order::Write(sector, bench.filled(1, 4096))));
    bench.step();
    bench.server.take();
    answer(&mut bench);
    let broken = bench.queue.step().unwrap_err();
    let outcomes = tickets.map(|ticket| bench.outcome(ticket));
    assert!(outcomes.iter().any(|(result, _)| *result == Err(broken.into())));
    // It stays so, for all that comes.
    let late = bench.queue.order(Order::Flush);
    assert_eq!(bench.outcome(late).0, Err(broken.into()));
    assert_eq!(bench.queue.step(), Err(broken));
    assert_eq!(bench.queue.may_sleep(), Err(broken));
    assert_eq!(bench.queue.pending(), 0);
    broken
}

#[test]
fn an_answer_to_no_request_breaks_the_disk() {
    for id in [2, 0xffff, 1 << 16, u64::MAX] {
        let broken = broken_by(|bench| {
            bench.answer(|responses| responses[1].id = id);
        });
        assert_eq!(broken, Broken::NotAsked(id));
    }
}

#[test]
fn a_second_answer_to_a_request_breaks_the_disk() {
    let broken = broken_by(|bench| {
        bench.answer(|responses| responses[1] = responses[0]);
    });
    assert_eq!(broken, Broken::NotAsked(0));
}

#[test]
fn an_answer_from_before_breaks_the_disk_though_the_place_is_used_again() {
    let mut bench = bench(PROPERTIES, 1);
    let mut old = Response::default();
    let first = bench.queue.order(Order::Flush);
    bench.step();
    bench.server.take();
    bench.answer(|responses| old = responses[0]);
    bench.step();
    bench.outcome(first).0.unwrap();
    let second = bench.queue.order(Order::Flush);
    bench.step();
    bench.server.take();
    bench.answer(|responses| responses[0] = old);
    assert_eq!(bench.queue.step(), Err(Broken::NotAsked(old.id)));
    assert!(bench.outcome(second).0.is_err());
}

#[test]
fn an_answer_about_another_operation_breaks_the_disk() {
    for answered in [0, 3, 6, 255] {
        let broken = broken_by(|bench| {
            bench.answer(|responses| responses[0].operation = answered);
        });
        let expected = Broken::Operation { asked: 1, answered };
        assert_eq!(broken, expected);
    }
}

#[test]
fn a_producer_that_runs_away_or_back_breaks_the_disk() {
    for index in [3, 33, 1 << 31, u32::MAX] {
        let broken = broken_by(|bench| {
            let page = bench.memory.page_for(bench.ring[0], Access::ReadWrite).unwrap();
            page.store(RSP_PROD, index);
        });
        assert!(
            matches!(broken, Broken::Ring(error) if error.theirs == index),
            "{broken}"
        );
    }
}

#[test]
fn a_page_that_is_kept_breaks_the_disk_and_stays_granted() {
    let mut kept = 0;
    let broken = broken_by(|bench| {
        kept = bench.server.taken[0].read::<Request>().seg[0].gref;
        bench.memory.set_in_use(kept, true);
        bench.answer(|_| {});
    });
    assert_eq!(broken, Broken::KeepsPage(kept));
}

#[test]
fn pages_that_a_broken_back_end_uses_do_not_come_back_and_the_others_are_not_granted_any_more() {
    let mut bench = bench(PROPERTIES, 1);
    let ticket = bench.queue.order(Order::Write(0, bench.filled(1, 3 * 4096)));
    bench.step();
    bench.server.take();
    let used = bench.server.taken[0].read::<Request>().seg[1].gref;
    bench.memory.set_in_use(used, true);
    bench.queue.fail(Broken::Closed);
    let (result, buffer) = bench.outcome(ticket);
    assert_eq!(result, Err(Error::Broken(Broken::Closed)));
    assert!(buffer.is_none());
    assert!(bench.memory.page_for(used, Access::ReadOnly).is_some());
    assert_eq!(bench.memory.grants(), 2, "the ring and the page in use");
}

#[test]
fn orders_that_were_not_posted_come_back_from_a_broken_disk() {
    let mut bench = bench(PROPERTIES, 1);
    let ticket = bench.queue.order(Order::Write(0, bench.filled(7, 4096)));
    bench.queue.fail(Broken::Closed);
    let (result, buffer) = bench.outcome(ticket);
    assert_eq!(result, Err(Error::Broken(Broken::Closed)));
    assert_eq!(contents(&buffer.unwrap()), pattern(7, 4096));
}

#[test]
fn a_status_that_the_protocol_lacks_is_a_failure() {
    let mut bench = bench(PROPERTIES, 1);
    let ticket = bench.queue.order(Order::Flush);
    bench.step();
    bench.server.take();
    bench.answer(|responses| responses[0].status = 77);
    bench.step();
    assert_eq!(bench.outcome(ticket).0, Err(Error::Failed));
}

#[test]
fn both_ways_to_answer_an_indirect_request_are_taken() {
    for operation in [1, 6] {
        let properties = Properties {
            segments: 32,
            ..PROPERTIES
        };
        let mut bench = bench(properties, 1);
        let ticket = bench.queue.order(Order::Write(0, bench.filled(1, 20 * 4096)));
        bench.step();
        bench.server.take();
        bench.answer(|responses| responses[0].operation = operation);
        bench.step();
        bench.outcome(ticket).0.unwrap();
    }
}
