//! Seeded bugs, one at a time: the histories of hostile guests that break no law break one with each of them.
//!
//! `BULKHEAD_MUTANT_ACTS` says how many acts may pass until a mutant is caught, in all its worlds together; a million is the
//! most that any may need. `BULKHEAD_MUTANT` names the only one to be made.
#![cfg(not(loom))]
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use bulkhead_abi::{DomId, Errno};
use bulkhead_core::testing::{Choices, Mutant, Stage, StageConfig, check_locks};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// How many acts a world lasts.
const EPISODE: usize = 400;

/// How many acts pass between two looks at all laws: fewer looks find as much, later.
const LOOK: usize = 8;

/// How many acts may pass until a mutant is caught: some have to wait for a rare coincidence.
const ACTS: usize = 1_000_000;

/// How many acts of the same histories are played without a mutant: as many as the most hidden one needs.
const UNHARMED: usize = 60_000;

/// Three guests share two CPUs, which interrupt each other.
const STAGE: StageConfig = StageConfig {
    guests: 3,
    cpus: 2,
    interleaving: 8,
};

/// Plays one world, which a seed determines. `Err` if it breaks a law; in any case how many acts there were.
fn play(seed: u64) -> (usize, Result<(), String>) {
    let stage = Stage::new(STAGE, Choices::Seeded(seed));
    let mut idle = 0;
    let played = catch_unwind(AssertUnwindSafe(|| {
        while stage.acts() < EPISODE && idle < 100 {
            for _ in 0..LOOK {
                idle = if stage.step() { 0 } else { idle + 1 };
            }
            stage.invariants();
        }
        take_down(&stage);
    }));
    let broken = played.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_default()
    });
    (stage.acts(), broken)
}

/// Takes the guests down that have devices, whatever they are doing.
fn take_down(stage: &Stage) {
    for id in [1, 2] {
        let destroy = || stage.world().hv().destroy_domain(DomId::new(id));
        // One that is never taken down is for other tests to find.
        for _ in 0..10_000 {
            if destroy() != Err(Errno::Restart) {
                break;
            }
            if stage.world().hv().functions_of(DomId::new(id)) != 0 {
                // They may be under reset.
                stage.world().spin(0, 10_000_000);
            }
            stage.step();
        }
        stage.invariants();
    }
}

/// Plays worlds with `mutant` until one breaks a law, or `limit` acts have passed: how many passed, and which law.
fn hunt(mutant: Mutant, limit: usize) -> (usize, Option<String>) {
    let _planted = mutant.plant();
    let mut acts = 0;
    for seed in 0.. {
        let (more, broken) = play(seed);
        acts += more.max(1);
        if let Err(law) = broken {
            return (acts, Some(law));
        }
        if acts >= limit {
            break;
        }
    }
    (acts, None)
}

/// The name of threads on which laws are expected to be broken.
const HUNTER: &str = "hunter";

/// What a hunter finds is told in one line by who sent it.
fn be_quiet_about_hunters() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if thread::current().name() != Some(HUNTER) {
            usual(panic);
        }
    }));
}

#[test]
fn every_seeded_bug_breaks_a_law() {
    let limit = std::env::var("BULKHEAD_MUTANT_ACTS").map_or(ACTS, |value| value.parse().unwrap());
    let only = std::env::var("BULKHEAD_MUTANT");
    let next = AtomicUsize::new(0);
    let escaped = Mutex::new(Vec::new());
    be_quiet_about_hunters();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let hunter = thread::Builder::new().name(HUNTER.into());
            let hunt_all = || {
                check_locks();
                while let Some(&mutant) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if only.as_ref().is_ok_and(|only| *only != mutant.to_string()) {
                        continue;
                    }
                    let (acts, law) = hunt(mutant, limit);
                    if law.is_none() {
                        escaped.lock().unwrap().push(mutant);
                    }
                    let law = law.unwrap_or_else(|| "ESCAPED".into());
                    println!(
                        "{mutant} after {acts} acts: {:.150}",
                        law.lines().next().unwrap_or_default()
                    );
                }
            };
            hunter.spawn_scoped(scope, hunt_all).unwrap();
        }
    });
    let escaped = escaped.into_inner().unwrap();
    assert!(
        Mutant::ALL.len() >= 20 && escaped.is_empty(),
        "not caught: {escaped:?}"
    );
}

#[test]
fn without_a_seeded_bug_the_same_histories_break_none() {
    check_locks();
    let (mut total, mut seed) = (0, 0);
    while total < UNHARMED {
        let (acts, broken) = play(seed);
        assert_eq!(broken, Ok(()), "seed {seed}");
        total += acts.max(1);
        seed += 1;
    }
}
