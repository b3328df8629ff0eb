//! Single transitions of a queue, to the nanosecond. What comes of many of them is in `tests/sched`.

use super::vtime::VirtualTime;
use super::*;
use crate::ids::CpuId;

const MS: u64 = 1_000_000;
/// The allowance of these queues.
const C: u64 = MS;

fn share(weight: u16) -> Share {
    Share {
        weight: Weight::new(weight).unwrap(),
        warp: Warp::NONE,
        affinity: CpuSet::ALL,
    }
}

/// A share with a warp of 100 ms, for so long, and then not for twice that time.
fn warped(limit_ms: Option<u32>) -> Share {
    let limit_ns = limit_ms.and_then(|ms| ms.checked_mul(1_000_000));
    let unwarp_ns = limit_ns.map_or(0, |limit| limit.saturating_mul(2));
    Share {
        warp: Warp {
            by_ns: 100_000_000,
            limit_ns,
            unwarp_ns,
        },
        ..share(256)
    }
}

/// A queue in which these vCPUs, named 0, 1, 2 ..., have been woken at time 0.
fn queue(shares: &[Share]) -> RunQueue<u8> {
    let mut queue = RunQueue::new(C);
    for (id, &share) in (0..).zip(shares) {
        queue.insert(id, share).unwrap();
        let _first = queue.wake(id, 0).unwrap();
    }
    queue.invariants();
    queue
}

/// Picks, and says who runs and for how long.
fn pick(queue: &mut RunQueue<u8>, now: u64) -> Option<(u8, Option<u64>)> {
    let turn = queue.pick(now);
    queue.invariants();
    turn.map(|turn| (turn.id, turn.until.map(|until| until.saturating_sub(now))))
}

/// The virtual time at which a vCPU of the default weight is that has run for so long.
fn ran(ns: u64) -> VirtualTime {
    VirtualTime::ORIGIN.after(Weight::DEFAULT.pace().span(ns))
}

#[test]
fn an_empty_queue_gives_nobody_and_needs_no_timer() {
    assert_eq!(pick(&mut queue(&[]), 5), None);
}

#[test]
fn a_vcpu_alone_needs_no_timer_unless_other_cpus_may_have_work_for_this_one() {
    let mut queue = queue(&[share(256)]);
    assert_eq!(pick(&mut queue, 5), Some((0, None)));
    queue.observe(VirtualTime::MIN);
    assert_eq!(pick(&mut queue, 5), Some((0, Some(4 * C))));
}

#[test]
fn a_turn_lasts_until_the_vcpu_is_one_allowance_past_the_next() {
    let mut queue = queue(&[share(256), share(256)]);
    assert_eq!(pick(&mut queue, 0), Some((0, Some(C))));
    assert_eq!(pick(&mut queue, C), Some((1, Some(2 * C))));
    assert_eq!(
        pick(&mut queue, 2 * C),
        Some((1, Some(C))),
        "an early look changes nothing"
    );
    assert_eq!(pick(&mut queue, 3 * C), Some((0, Some(2 * C))));
}

#[test]
fn time_that_runs_backwards_is_taken_as_standing_still() {
    let mut queue = queue(&[share(256), share(256)]);
    assert_eq!(pick(&mut queue, 10 * C), Some((0, Some(C))));
    assert_eq!(pick(&mut queue, 9 * C), Some((0, Some(C))));
    assert_eq!(queue.load().oldest_runnable, Some(ran(0)));
}

#[test]
fn who_slept_long_starts_where_the_others_are() {
    let mut queue = queue(&[share(256), share(256)]);
    let _picks_soon = queue.block(1, 0).unwrap();
    assert_eq!(pick(&mut queue, 0), Some((0, None)));
    let _at_once = queue.wake(1, 1000 * MS).unwrap();
    assert_eq!(queue.load().oldest_runnable, Some(ran(1000 * MS)));
    assert_eq!(pick(&mut queue, 1000 * MS), Some((0, Some(C))));
}

/// Found by random histories: the clock was behind until the next look.
#[test]
fn the_clock_follows_who_ran_ahead_and_is_alone_when_it_wakes() {
    let mut queue = queue(&[share(256), share(256)]);
    assert_eq!(pick(&mut queue, 0), Some((0, Some(C))));
    assert_eq!(queue.block(0, 900), Ok(Reschedule::Yes));
    assert_eq!(queue.block(1, 900), Ok(Reschedule::No));
    assert_eq!(queue.wake(0, 1000), Ok(Reschedule::Yes));
    queue.invariants();
}

#[test]
fn who_blocks_early_keeps_what_is_on_its_account() {
    let mut queue = queue(&[share(256), share(256)]);
    assert_eq!(pick(&mut queue, 0), Some((0, Some(C))));
    assert_eq!(queue.block(0, 900), Ok(Reschedule::Yes));
    assert_eq!(pick(&mut queue, 900), Some((1, None)));
    // It has run for 900 ns, the other for 100.
    assert_eq!(queue.wake(0, 1000), Ok(Reschedule::Yes));
    assert_eq!(pick(&mut queue, 1000), Some((1, Some(800 + C))));
}

#[test]
fn waking_twice_or_blocking_twice_changes_nothing() {
    let mut queue = queue(&[share(256), share(256)]);
    assert_eq!(queue.wake(1, 0), Ok(Reschedule::No));
    assert_eq!(queue.block(1, 0), Ok(Reschedule::No));
    assert_eq!(queue.block(1, 0), Ok(Reschedule::No));
    queue.invariants();
    assert_eq!(queue.load().runnable, 1);
}

#[test]
fn an_unknown_vcpu_is_refused_and_a_known_one_is_not_added_again() {
    let mut queue = queue(&[share(256)]);
    assert_eq!(queue.wake(7, 0), Err(SchedError::Unknown));
    assert_eq!(queue.remove(7, 0), Err(SchedError::Unknown));
    assert_eq!(queue.insert(0, share(1)), Err(SchedError::Present));
    queue.invariants();
}

#[test]
fn a_running_vcpu_that_is_removed_leaves_the_cpu_to_the_next() {
    let mut queue = queue(&[share(256), share(512)]);
    assert_eq!(pick(&mut queue, 0).map(|(id, _)| id), Some(0));
    assert_eq!(queue.remove(0, 100), Ok(Reschedule::Yes));
    assert_eq!((queue.running(), queue.load().weight), (None, 512));
    assert_eq!(pick(&mut queue, 100), Some((1, None)));
}

#[test]
fn a_warped_vcpu_takes_the_cpu_when_it_wakes_and_its_warp_ends_at_its_limit() {
    let mut queue = queue(&[share(256), warped(Some(10))]);
    let _picks_soon = queue.block(1, 0).unwrap();
    assert_eq!(pick(&mut queue, 0), Some((0, None)));
    assert_eq!(queue.wake(1, C), Ok(Reschedule::Yes));
    assert_eq!(pick(&mut queue, C), Some((1, Some(10 * MS))));
    assert_eq!(pick(&mut queue, C + 10 * MS).map(|(id, _)| id), Some(0));
}

#[test]
fn a_vcpu_rests_after_the_limit_of_its_warp_and_then_warps_again() {
    let mut queue = queue(&[share(256), warped(Some(10))]);
    assert_eq!(pick(&mut queue, 0), Some((1, Some(10 * MS))));
    let _picks_soon = queue.block(1, 10 * MS).unwrap();
    assert_eq!(pick(&mut queue, 10 * MS), Some((0, None)));

    // Too early: it wakes unwarped, with 10 ms on its account where the other has 9.
    let _waits = queue.wake(1, 19 * MS).unwrap();
    assert_eq!(pick(&mut queue, 19 * MS), Some((0, Some(MS + C))));
    let _picks_soon = queue.block(1, 19 * MS).unwrap();

    let _at_once = queue.wake(1, 30 * MS).unwrap();
    assert_eq!(pick(&mut queue, 30 * MS), Some((1, Some(10 * MS))));
}

#[test]
fn a_vcpu_that_sleeps_most_of_the_time_never_reaches_the_limit_of_its_warp() {
    let mut queue = queue(&[share(256), warped(Some(10))]);
    // A third of the time running recovers what it uses: 10 ms of warp in 20 ms of rest.
    for start in (0..300).map(|n| n * 3 * MS) {
        let _at_once = queue.wake(1, start).unwrap();
        assert_eq!(pick(&mut queue, start).map(|(id, _)| id), Some(1), "at {start}");
        let _picks_soon = queue.block(1, start + MS).unwrap();
        assert_eq!(pick(&mut queue, start + MS).map(|(id, _)| id), Some(0));
    }
}

#[test]
fn a_yield_gives_up_even_what_warp_was_ahead() {
    let mut queue = queue(&[share(256), warped(None)]);
    assert_eq!(pick(&mut queue, 0), Some((1, Some(101 * MS))));
    assert_eq!(queue.yield_now(MS), Reschedule::Yes);
    assert_eq!(pick(&mut queue, MS), Some((0, Some(C))));
}

#[test]
fn who_wakes_on_an_idle_cpu_starts_where_the_other_cpus_are() {
    let mut queue = queue(&[share(256)]);
    let _idle = queue.block(0, 0).unwrap();
    queue.observe(ran(500 * MS));
    let _at_once = queue.wake(0, 600 * MS).unwrap();
    assert_eq!(queue.load().oldest_runnable, Some(ran(500 * MS)));
}

#[test]
fn a_vcpu_with_a_cpu_to_itself_is_clamped_to_32_allowances_behind_the_others() {
    let mut queue = queue(&[share(256)]);
    assert_eq!(pick(&mut queue, 0), Some((0, None)));
    queue.observe(ran(500 * MS));
    queue.account(1);
    assert_eq!(queue.load().oldest_runnable, Some(ran(500 * MS - 32 * C)));
}

#[test]
fn a_vcpu_that_moves_keeps_its_virtual_time_as_far_as_32_allowances_pay() {
    for (there, expected) in [(0, 10 * MS), (20 * MS, 10 * MS), (100 * MS, 68 * MS)] {
        let mut from = queue(&[share(256), share(256)]);
        // One runs for 10 ms, and leaves when the other has, too.
        assert!(pick(&mut from, 0).is_some_and(|(id, _)| id == 0));
        assert!(pick(&mut from, 10 * MS).is_some_and(|(id, _)| id == 1));
        from.account(20 * MS);
        let (migrant, _) = from.leave(0, 20 * MS).unwrap();
        from.invariants();

        let mut to = RunQueue::new(C);
        to.insert(9, share(256)).unwrap();
        let _first = to.wake(9, 0).unwrap();
        assert_eq!(pick(&mut to, 0), Some((9, None)));
        let _next = to.arrive(migrant, there).unwrap();
        to.invariants();
        let waiting = to.waiting().map(|(_, entity)| entity.avt).next();
        assert_eq!(
            waiting,
            Some(ran(expected)),
            "to a queue that has come to {there}"
        );
    }
}

#[test]
fn a_vcpu_that_moves_to_a_queue_far_behind_is_not_made_to_wait_for_all_of_it() {
    let mut from = queue(&[share(256)]);
    assert_eq!(pick(&mut from, 0), Some((0, None)));
    let (migrant, _) = from.leave(0, 1000 * MS).unwrap();
    let mut to = RunQueue::new(C);
    to.insert(9, share(256)).unwrap();
    let _first = to.wake(9, 0).unwrap();
    let _waits = to.arrive(migrant, 0).unwrap();
    let account = |id| {
        to.waiting()
            .find(|(_, entity)| entity.id == id)
            .map(|(_, entity)| entity.avt)
    };
    assert_eq!((account(9), account(0)), (Some(ran(0)), Some(ran(32 * C))));
}

#[test]
fn a_waiting_vcpu_is_stolen_when_it_is_two_allowances_behind_and_may_go_there() {
    let cpu = CpuId::new;
    let mut victim = queue(&[share(256), share(256)]);
    assert_eq!(pick(&mut victim, 0).map(|(id, _)| id), Some(0));
    assert!(victim.steal(cpu(1), Some(ran(2 * C - 1)), 0).is_none());
    let elsewhere = Share {
        affinity: CpuSet::only(cpu(0)),
        ..share(256)
    };
    let _looks = victim.set_share(1, elsewhere, 0).unwrap();
    assert!(victim.steal(cpu(1), None, 0).is_none());
    assert_eq!(victim.waiting_affinity(), CpuSet::only(cpu(0)));
    let _looks = victim.set_share(1, share(256), 0).unwrap();
    assert_eq!(victim.load().pull_at, Some(ran(2 * C)));
    assert_eq!(
        victim
            .steal(cpu(1), Some(ran(2 * C)), 0)
            .map(|migrant| migrant.id()),
        Some(1)
    );
    assert!(victim.steal(cpu(1), None, 0).is_none(), "who runs is not stolen");
    victim.invariants();
}

#[test]
fn a_vcpu_that_cannot_arrive_is_given_back() {
    let (mut from, mut to) = (queue(&[share(256)]), queue(&[share(256)]));
    let (migrant, _) = from.leave(0, 0).unwrap();
    let (error, back) = to.arrive(migrant, 0).unwrap_err();
    assert_eq!((error, back.id()), (SchedError::Present, 0));
    assert_eq!(from.arrive(back, 0).unwrap(), Reschedule::Yes);
}
