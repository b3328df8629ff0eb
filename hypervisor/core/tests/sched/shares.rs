//! Shares converge to weights.

use bulkhead_core::ids::CpuId;
use bulkhead_core::sched::{CpuSet, Share};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::sim::{ALLOWANCE, Habit, Name, Sim, weight};

/// What each weight is due of so many CPUs, of which no vCPU can have more than one: in parts of a million CPUs.
fn due(weights: &[u16], cpus: usize) -> Vec<u64> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(weights[index]));
    let mut parts = vec![0; weights.len()];
    let mut left = cpus as u64 * 1_000_000;
    let mut sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    for index in order {
        let weight = u64::from(weights[index]);
        parts[index] = (left * weight / sum).min(1_000_000);
        left -= parts[index];
        sum -= weight;
    }
    parts
}

/// Runs hogs for 10 000 allowances, and checks that each is served what it is due, within 1 % of that.
fn shares_follow(cpus: usize, weights: &[u16]) {
    let mut sim = Sim::new(cpus);
    sim.check_every = 100;
    for (name, &raw) in (0..).zip(weights) {
        sim.add(name, weight(raw), Habit::Hog);
    }
    // However they were placed, the first hundred allowances sort them.
    sim.run_for(100 * ALLOWANCE);
    let before: Vec<u64> = sim.tasks.values().map(|task| task.served).collect();
    sim.run_for(10_000 * ALLOWANCE);
    for ((task, before), part) in sim.tasks.values().zip(before).zip(due(weights, cpus)) {
        let expected = part * (10_000 * ALLOWANCE / 1_000_000);
        let served = task.served - before;
        assert!(
            served.abs_diff(expected) <= expected / 100,
            "{cpus} CPUs, weights {weights:?}, weight {}: {served} ns, not {expected}",
            task.share.weight.raw()
        );
    }
}

#[test]
fn what_is_due_is_clamped_to_one_cpu() {
    assert_eq!(due(&[1, 3], 1), [250_000, 750_000]);
    assert_eq!(due(&[1, 1, 1000], 2), [500_000, 500_000, 1_000_000]);
    assert_eq!(due(&[1, 1], 4), [1_000_000, 1_000_000]);
}

#[test]
fn shares_are_within_one_percent_of_the_weights_on_one_cpu() {
    shares_follow(1, &[256, 256]);
    shares_follow(1, &[128, 256, 512, 1024]);
    shares_follow(1, &[100, 200, 300, 400, 500, 600, 700]);
    shares_follow(1, &[1, 1, 2]);
    shares_follow(1, &[65535, 65535, 32768]);
}

#[test]
fn shares_are_within_one_percent_of_the_weights_on_two_cpus() {
    shares_follow(2, &[256, 256, 256]);
    shares_follow(2, &[128, 256, 512, 512]);
    shares_follow(2, &[100, 200, 300, 400, 500, 600, 700]);
}

#[test]
fn shares_are_within_one_percent_of_the_weights_on_three_cpus() {
    shares_follow(3, &[256; 4]);
    shares_follow(3, &[256; 7]);
    shares_follow(3, &[100, 200, 300, 400, 500, 600, 700]);
}

#[test]
fn shares_are_within_one_percent_of_the_weights_on_four_cpus() {
    shares_follow(4, &[256; 5]);
    shares_follow(4, &[100, 200, 300, 400, 500, 600, 700]);
    shares_follow(4, &[256, 300, 512, 700, 256, 300, 512, 700, 1000, 128, 128]);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 10,
        rng_seed: RngSeed::Fixed(0x5a),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn shares_are_within_one_percent_of_random_weights_on_any_number_of_cpus(
        cpus in 1_usize..=4,
        weights in prop::collection::vec(64_u16..1024, 5..12),
    ) {
        shares_follow(cpus, &weights);
    }
}

#[test]
fn a_weight_that_no_cpu_could_satisfy_gets_one_cpu_and_the_others_share_the_rest() {
    shares_follow(2, &[60_000, 256, 256, 512]);
    shares_follow(3, &[60_000, 256, 256, 256]);
    shares_follow(4, &[60_000, 50_000, 256, 512, 768]);
    shares_follow(4, &[10, 10, 10]);
}

#[test]
fn a_changed_weight_counts_from_the_change_on() {
    let mut sim = Sim::new(1);
    sim.add(0, weight(256), Habit::Hog);
    sim.add(1, weight(256), Habit::Hog);
    sim.run_for(1000 * ALLOWANCE);
    sim.set_share(1, weight(768));
    let before = (sim.tasks[&0].served, sim.tasks[&1].served);
    sim.run_for(1000 * ALLOWANCE);
    let (first, second) = (sim.tasks[&0].served - before.0, sim.tasks[&1].served - before.1);
    assert!(first.abs_diff(250 * ALLOWANCE) <= 5 * ALLOWANCE, "{first}");
    assert!(second.abs_diff(750 * ALLOWANCE) <= 5 * ALLOWANCE, "{second}");
}

#[test]
fn a_vcpu_that_may_run_on_one_cpu_only_stays_there_and_the_others_make_room() {
    let mut sim = Sim::new(2);
    let pinned = Share {
        affinity: CpuSet::only(CpuId::new(1)),
        ..weight(256)
    };
    sim.add(0, pinned, Habit::Hog);
    for name in 1..4 {
        sim.add(name, weight(256), Habit::Hog);
    }
    sim.run_for(10_000 * ALLOWANCE);
    assert_eq!(sim.tasks[&0].cpu, 1);
    for (name, task) in &sim.tasks {
        assert!(
            task.served.abs_diff(5_000 * ALLOWANCE) <= 50 * ALLOWANCE,
            "{name}: {}",
            task.served
        );
    }
}

#[test]
fn a_cpu_that_runs_out_of_work_takes_some_from_another() {
    let mut sim = Sim::new(2);
    for name in 0..4 {
        sim.add(name, weight(256), Habit::Hog);
    }
    let on_cpu_1: Vec<Name> = sim
        .tasks
        .iter()
        .filter(|(_, task)| task.cpu == 1)
        .map(|(&name, _)| name)
        .collect();
    for name in on_cpu_1 {
        sim.block(name);
    }
    sim.invariants();
    assert!(sim.pulls > 0);
}

#[test]
fn switches_are_no_more_frequent_than_the_allowance() {
    let mut sim = Sim::new(1);
    for name in 0..5 {
        sim.add(name, weight(256), Habit::Hog);
    }
    sim.run_for(1000 * ALLOWANCE);
    assert!(sim.switches <= 1001, "{}", sim.switches);
}

#[test]
fn balanced_cpus_leave_each_other_alone() {
    let mut sim = Sim::new(2);
    for name in 0..4 {
        sim.add(name, weight(256), Habit::Hog);
    }
    sim.run_for(100 * ALLOWANCE);
    let pulls = sim.pulls;
    sim.run_for(1000 * ALLOWANCE);
    assert_eq!(sim.pulls, pulls);
}
