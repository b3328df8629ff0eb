//! Nobody starves, whatever happens.

use bulkhead_core::ids::CpuId;
use bulkhead_core::sched::{CpuSet, Share, Warp, Weight};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::sim::{ALLOWANCE, Habit, Name, Sim, weight};

const TASKS: Name = 9;

#[derive(Clone, Debug)]
enum Step {
    Wake(Name),
    Block(Name),
    SetShare(Name, Share),
    Migrate(Name, usize),
    Yield(usize),
    Run(u64),
}

fn share() -> impl Strategy<Value = Share> {
    let limit = prop::option::of(1_u32..10_000_000);
    (
        64_u16..1024,
        0_u32..10_000_000,
        limit,
        0_u32..20_000_000,
        1_u64..16,
    )
        .prop_map(|(raw, by_ns, limit_ns, unwarp_ns, cpus)| Share {
            weight: Weight::new(raw).unwrap(),
            warp: Warp {
                by_ns,
                limit_ns,
                unwarp_ns,
            },
            // CPU 0 is in every set: one of the others might not exist.
            affinity: CpuSet::from_bits(cpus).with(CpuId::BOOT),
        })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..TASKS).prop_map(Step::Wake),
        2 => (0..TASKS).prop_map(Step::Block),
        1 => (0..TASKS, share()).prop_map(|(name, share)| Step::SetShare(name, share)),
        2 => (0..TASKS, 0_usize..4).prop_map(|(name, cpu)| Step::Migrate(name, cpu)),
        1 => (0_usize..4).prop_map(Step::Yield),
        6 => (1..10 * ALLOWANCE).prop_map(Step::Run),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, rng_seed: RngSeed::Fixed(0xb7), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_starves_under_random_sleeping_waking_migrating_and_reweighting(
        cpus in 1_usize..=4,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut sim = Sim::new(cpus);
        for name in 0..TASKS {
            let habit = if name % 3 == 0 { Habit::Sleeper { run: 2 * ALLOWANCE, sleep: ALLOWANCE } } else { Habit::Hog };
            sim.add(name, weight(256), habit);
        }
        for step in steps {
            match step {
                Step::Wake(name) => sim.wake(name),
                Step::Block(name) if !sim.tasks[&name].blocked => sim.block(name),
                Step::Block(_) => {}
                Step::SetShare(name, share) => sim.set_share(name, share),
                Step::Migrate(name, cpu) => sim.migrate(name, cpu % cpus),
                Step::Yield(cpu) => sim.yield_now(cpu % cpus),
                Step::Run(ns) => sim.run_for(ns),
            }
        }
        // Then everyone wants to run, and everyone does. The worst that can stand before a vCPU of the least weight are eight of
        // the greatest, sixteen times its own, for what it may have been debited on a move, 32 allowances, and
        // ten more for their warp.
        for name in 0..TASKS {
            sim.wake(name);
        }
        let before: Vec<u64> = sim.tasks.values().map(|task| task.served).collect();
        sim.run_for(8 * 16 * (32 + 10) * ALLOWANCE);
        for ((name, task), before) in sim.tasks.iter().zip(before) {
            prop_assert!(task.served > before, "{name} starves: {task:?}");
        }
    }
}
