//! Random histories of hostile guests. After every act, every law is checked on the whole machine.
//!
//! `BULKHEAD_ACTS` says how many acts there are in each way of playing, `BULKHEAD_SEED` which, and `BULKHEAD_LOOK` after how
//! many acts the laws that hold at rest are checked: 1 if it is not set. A long run is a soak: it tells how far it is, prints at its
//! end what was tried and what came of it, and fails if anything in the table of hypercalls came up less often than once in 50,000
//! acts. A soak of 50 million acts, on both CPUs of the machine that runs it:
//!
//! ```text
//! BULKHEAD_ACTS=25000000 BULKHEAD_LOOK=100 cargo test --release -p bulkhead-core --test hypercalls_hostile hostile -- --nocapture
//! ```
//!
//! In a release nothing is interleaved, for nobody knows which locks are held; `--profile checked` does. What breaks a law is printed: if CPUs took
//! turns, as the shortest history that still breaks it.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

mod reached;

use bulkhead_core::lock;
use bulkhead_core::testing::{Choices, Deed, Score, Stage, StageConfig, Tally, World, check_locks};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many acts a world lasts.
const EPISODE: usize = 1000;

/// A run that is longer is a soak: it should reach each row and each error once in so many acts.
const SOAK: u64 = 50_000;

/// After how many acts a soak tells how far it is.
const PROGRESS: usize = 1_000_000;

/// Three guests share two CPUs, which act one after the other.
const IN_TURNS: StageConfig = StageConfig {
    guests: 3,
    cpus: 2,
    interleaving: 0,
};

/// Four guests share three CPUs, which interrupt each other.
const INTERLEAVED: StageConfig = StageConfig {
    guests: 4,
    cpus: 3,
    interleaving: 4,
};

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().unwrap())
}

/// After how many acts the laws that hold at rest are checked.
fn look() -> u64 {
    number("BULKHEAD_LOOK", 1).max(1)
}

/// Plays worlds one after the other until `acts` acts are done or a law is broken.
fn play(config: StageConfig, acts: usize, seed: u64, look: u64) -> Result<(Score, Tally), (u64, Vec<Deed>)> {
    check_locks();
    let mut total = Score::default();
    let mut tally = Tally::default();
    let mut done = 0;
    let mut seed = seed;
    while done < acts {
        let stage = Stage::new(config, Choices::Seeded(seed));
        let mut idle = 0;
        while stage.acts() < EPISODE && idle < 100 {
            let step = catch_unwind(AssertUnwindSafe(|| {
                let mut acted = false;
                for _ in 0..look {
                    acted |= stage.step();
                }
                stage.invariants();
                acted
            }));
            match step {
                Ok(true) => idle = 0,
                Ok(false) => idle += 1,
                Err(_) => return Err((seed, stage.history())),
            }
        }
        let score = stage.score();
        total.paging = (total.paging.0 + score.paging.0, total.paging.1 + score.paging.1);
        total.other = (total.other.0 + score.other.0, total.other.1 + score.other.1);
        total.inner += score.inner;
        tally.add(&stage.tally());
        let before = done / PROGRESS;
        done += stage.acts().max(1);
        if done / PROGRESS != before {
            println!("{} million acts of {acts}, up to seed {seed}", done / PROGRESS);
        }
        seed = seed.wrapping_add(1);
    }
    Ok((total, tally))
}

/// What is always refused tests nothing.
fn assert_success(score: Score, acts: usize) {
    println!("{score:?}");
    for (good, all) in [score.paging, score.other] {
        assert!(all > acts as u64 / 10 && good * 100 >= all * 30, "{score:?}");
    }
}

/// Each row of the table of hypercalls, and each error in it, came up `wanted` times.
fn assert_reached(tally: &Tally, wanted: u64) {
    if wanted != 0 {
        println!("{tally}");
    }
    let shortcomings = reached::shortcomings(tally, wanted);
    assert!(shortcomings.is_empty(), "wanted {wanted} times:\n{shortcomings}");
}

fn print(history: &[Deed]) {
    for Deed { cpu, is_inner, act } in history {
        let indent = if *is_inner { "      " } else { "  " };
        println!("{indent}cpu {cpu}: {act:x?}");
    }
}

/// Whether a history, played in turns, breaks a law.
fn breaks(config: StageConfig, history: &[Deed]) -> bool {
    let run = || {
        let (world, _): (World, _) = Stage::new_world(config);
        for Deed { cpu, act, .. } in history {
            if world.enter(*cpu).is_some() {
                world.act(*cpu, act);
            }
            world.invariants();
        }
    };
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

/// Leaves out all that is not needed to break the law, in ever smaller parts.
fn shorten(config: StageConfig, mut history: Vec<Deed>) -> Vec<Deed> {
    let mut part = history.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < history.len() {
            let end = (at + part).min(history.len());
            let without = [&history[..at], &history[end..]].concat();
            if breaks(config, &without) {
                history = without;
            } else {
                at = end;
            }
        }
        part /= 2;
    }
    history
}

/// Plays worlds. If a law is broken, prints the history; the shortest one that still breaks it, if CPUs took turns.
fn play_all(config: StageConfig, acts: usize, seed: u64, look: u64) -> (Score, Tally) {
    let (seed, history) = match play(config, acts, seed, look) {
        Ok(result) => return result,
        Err(broken) => broken,
    };
    if history.iter().any(|deed| deed.is_inner) {
        println!(
            "BULKHEAD_SEED={seed}; the history that breaks a law, inner acts after those that they interrupt:"
        );
        print(&history);
        panic!("the law, as above, is broken");
    }
    println!("BULKHEAD_SEED={seed}; the shortest history that breaks a law:");
    let short = shorten(config, history);
    print(&short);
    assert!(!breaks(config, &short), "the law, as above, is broken");
    panic!("the history breaks the law only once");
}

#[test]
fn hostile_guests_break_no_law() {
    let acts = usize::try_from(number("BULKHEAD_ACTS", 2000)).unwrap();
    let (score, tally) = play_all(IN_TURNS, acts, number("BULKHEAD_SEED", 0x5eed), look());
    assert_success(score, acts);
    assert_reached(&tally, acts as u64 / SOAK);
}

#[test]
fn hostile_guests_that_interrupt_each_other_break_no_law() {
    let acts = usize::try_from(number("BULKHEAD_ACTS", 2000)).unwrap();
    let (score, tally) = play_all(INTERLEAVED, acts, number("BULKHEAD_SEED", 0x5eed), look());
    assert_reached(&tally, acts as u64 / SOAK);
    assert_success(score, acts);
    let is_interleaved = lock::is_any_held().is_some();
    assert_eq!(score.inner > acts as u64 / 10, is_interleaved, "{score:?}");
}

#[test]
fn hostile_guests_reach_every_row_of_the_table_and_every_error_in_it() {
    let mut total = Tally::default();
    // Seldom more than three; each world has a seed of its own.
    for part in 0..16 {
        let (_, tally) = play_all(IN_TURNS, 10_000, part << 32, 100);
        total.add(&tally);
        if reached::shortcomings(&total, 1).is_empty() {
            break;
        }
    }
    assert_reached(&total, 1);
}

/// A fuzzer leads the same guests by its bytes, until it has no more.
#[test]
fn bytes_lead_the_guests_as_well_as_a_seed() {
    check_locks();
    let mut source = Choices::Seeded(3);
    for len in [1, 100, 2000] {
        let bytes = (0..len).map(|_| source.any().to_le_bytes()[0]).collect();
        let stage = Stage::new(INTERLEAVED, Choices::Bytes(bytes));
        while !stage.is_over() {
            stage.step();
            stage.invariants();
        }
        assert!(
            stage.history().len() * 40 > len,
            "{} acts of {len} bytes",
            stage.history().len()
        );
    }
}
