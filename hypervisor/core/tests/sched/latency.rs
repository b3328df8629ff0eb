//! Warp buys latency, and no share.

use bulkhead_core::sched::{Share, Warp};

use crate::sim::{ALLOWANCE, Habit, Sim, weight};

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// What a driver domain has: a warp of 5 ms, for 10 ms at a time.
fn warped(raw: u16) -> Share {
    let warp = Warp {
        by_ns: 5_000_000,
        limit_ns: Some(10_000_000),
        unwarp_ns: 20_000_000,
    };
    Share { warp, ..weight(raw) }
}

#[test]
fn a_warped_sleeper_runs_within_one_allowance_of_its_wake_up_against_eight_hogs() {
    for weights in [[256; 8], [16, 32, 64, 128, 256, 512, 1024, 2048]] {
        let mut sim = Sim::new(1);
        for (name, raw) in (0..).zip(weights) {
            sim.add(name, weight(raw), Habit::Hog);
        }
        sim.run_for(SECOND);
        sim.add(
            99,
            warped(256),
            Habit::Sleeper {
                run: 100_000,
                sleep: 7 * MS,
            },
        );
        sim.run_for(10 * SECOND);
        let sleeper = &sim.tasks[&99];
        assert!(
            sleeper.longest_wait <= ALLOWANCE,
            "{weights:?}: {} ns",
            sleeper.longest_wait
        );
        assert!(sleeper.served > SECOND / 100, "it woke often");
    }
}

#[test]
fn without_warp_the_same_sleeper_waits_longer() {
    let mut sim = Sim::new(1);
    for name in 0..8 {
        sim.add(name, weight(256), Habit::Hog);
    }
    sim.add(
        99,
        weight(256),
        Habit::Sleeper {
            run: 100_000,
            sleep: 7 * MS,
        },
    );
    sim.run_for(10 * SECOND);
    assert!(sim.tasks[&99].longest_wait > ALLOWANCE);
}

#[test]
fn a_sleeper_s_share_of_any_second_is_its_weight_s_and_no_more() {
    let habits = [
        (100_000, 50_000),
        (3 * MS, MS / 10),
        (30 * MS, 5 * MS),
        (MS, 20 * MS),
        (9 * MS, 21 * MS),
    ];
    for (run, sleep) in habits {
        for share in [weight(256), warped(256), warped(512)] {
            let mut sim = Sim::new(1);
            for name in 0..4 {
                sim.add(name, weight(256), Habit::Hog);
            }
            sim.add(99, share, Habit::Sleeper { run, sleep });
            sim.run_for(10 * SECOND);
            let raw = u64::from(share.weight.raw());
            let limit = SECOND * raw / (4 * 256 + raw) + SECOND / 100;
            for window in sim.tasks[&99].history.windows(11) {
                let served = window[10] - window[0];
                assert!(
                    served <= limit,
                    "run {run}, sleep {sleep}, {share:?}: {served} ns of a second, over {limit}"
                );
            }
        }
    }
}

#[test]
fn a_sleeper_s_share_is_no_more_on_several_cpus() {
    let mut sim = Sim::new(2);
    for name in 0..5 {
        sim.add(name, weight(256), Habit::Hog);
    }
    sim.add(
        99,
        warped(256),
        Habit::Sleeper {
            run: 20 * MS,
            sleep: 2 * MS,
        },
    );
    sim.run_for(20 * SECOND);
    for window in sim.tasks[&99].history.windows(11) {
        let served = window[10] - window[0];
        assert!(served <= SECOND * 2 / 6 + 2 * SECOND / 100, "{served}");
    }
}

#[test]
fn a_hog_that_is_warped_is_unwarped_at_its_limit_and_does_not_gain() {
    let mut sim = Sim::new(1);
    sim.add(0, warped(256), Habit::Hog);
    sim.add(1, weight(256), Habit::Hog);
    sim.run_for(10 * SECOND);
    assert!(
        sim.tasks[&1].longest_wait <= 12 * MS,
        "{}",
        sim.tasks[&1].longest_wait
    );
    assert!(
        sim.tasks[&0].served.abs_diff(5 * SECOND) <= SECOND / 20,
        "{}",
        sim.tasks[&0].served
    );
}

#[test]
fn who_yields_lets_the_next_one_run() {
    let mut sim = Sim::new(1);
    sim.add(0, weight(256), Habit::Hog);
    sim.add(1, weight(256), Habit::Hog);
    sim.run_for(ALLOWANCE / 10);
    assert_eq!((sim.tasks[&0].served, sim.tasks[&1].served), (ALLOWANCE / 10, 0));
    sim.yield_now(0);
    sim.run_for(ALLOWANCE / 10);
    assert_eq!(
        (sim.tasks[&0].served, sim.tasks[&1].served),
        (ALLOWANCE / 10, ALLOWANCE / 10)
    );
}

#[test]
fn who_yields_alone_runs_on() {
    let mut sim = Sim::new(1);
    sim.add(0, weight(256), Habit::Hog);
    sim.run_for(ALLOWANCE);
    sim.yield_now(0);
    sim.run_for(ALLOWANCE);
    assert_eq!(sim.tasks[&0].served, 2 * ALLOWANCE);
}

#[test]
fn idle_costs_nothing() {
    let mut sim = Sim::new(4);
    assert!(sim.is_idle());
    sim.add(0, weight(256), Habit::Hog);
    sim.run_for(10 * ALLOWANCE);
    assert!(!sim.is_idle());
    sim.block(0);
    assert!(sim.is_idle());
}
