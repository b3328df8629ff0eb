//! Random histories of hostile guests. After every act, every law is checked on the whole machine.
//!
//! `BULKHEAD_ACTS` says how many acts there are in all, `BULKHEAD_SEED` which. What breaks a law is printed as the shortest
//! history that still breaks it.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_core::EndPolicy;
use bulkhead_core::ids::CpuId;
use bulkhead_core::testing::{Act, Choices, Effect, GuestSpec, Hostile, SimConfig, World};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many guests there are: two share the last CPU.
const GUESTS: u16 = 3;
const CPUS: u32 = 2;

/// How many acts a world lasts.
const EPISODE: usize = 400;

/// How often guests succeeded, and how often they tried.
#[derive(Clone, Copy, Debug, Default)]
struct Score {
    paging: (u64, u64),
    other: (u64, u64),
}

fn new_world() -> (World, Vec<Hostile>) {
    let config = SimConfig {
        free_frames: u64::from(GUESTS) * 1025,
        cpus: CPUS,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    let mut guests = Vec::new();
    world.sim().let_waiting_pass_time(false);
    for n in 0..GUESTS {
        let home = u32::from(n).min(CPUS - 1);
        let spec = GuestSpec {
            home: Some(CpuId::new(home)),
            ..GuestSpec::default()
        };
        world.create(n + 1, &spec).unwrap();
    }
    for n in 0..GUESTS {
        let cpu = usize::from(n).min(CPUS as usize - 1);
        world.enter(cpu);
        guests.push(Hostile::new(&world, cpu));
        world.yield_now(cpu);
    }
    world.invariants();
    (world, guests)
}

/// Lets the guest on `cpu` act, and the hypervisor answer. Says how it went, or `None` if nobody runs there.
fn step(world: &World, cpu: usize, act: &Act) -> Option<Effect> {
    world.enter(cpu)?;
    let effect = world.act(cpu, act);
    world.invariants();
    Some(effect)
}

/// One world from its beginning to its end. Returns the history, and what broke a law if something did.
fn episode(choices: &mut Choices, acts: usize, score: &mut Score) -> (Vec<(usize, Act)>, bool) {
    let (world, mut guests) = new_world();
    let mut history = Vec::new();
    let mut idle = 0;
    while history.len() < acts && idle < 100 {
        let cpu = usize::try_from(choices.below(u64::from(CPUS))).unwrap();
        let Some((id, _)) = world.enter(cpu) else {
            // Everybody sleeps there: time passes.
            idle += 1;
            world.sim().advance(200_000);
            continue;
        };
        idle = 0;
        let place = guests.iter().position(|guest| guest.id == id).unwrap();
        let mut guest = guests.swap_remove(place);
        let others: Vec<&Hostile> = guests.iter().collect();
        let act = if Hostile::is_able(&world) {
            guest.next(&world, &others, choices)
        } else {
            helpless()
        };
        guests.push(guest);
        history.push((cpu, act.clone()));
        let done = catch_unwind(AssertUnwindSafe(|| step(&world, cpu, &act)));
        let tally = match done {
            Ok(Some(Effect::Paging(answer))) => Some((&mut score.paging, answer)),
            Ok(Some(Effect::Other(answer))) => Some((&mut score.other, answer)),
            Ok(_) => None,
            Err(_) => return (history, true),
        };
        if let Some(((good, all), answer)) = tally {
            *good += u64::from(answer.is_ok());
            *all += 1;
        }
    }
    (history, false)
}

/// A guest that cannot reach its own memory any more gives up.
fn helpless() -> Act {
    Act::Raise(bulkhead_core::Exception {
        vector: 14,
        error_code: 0,
        address: 0,
    })
}

/// Whether a history breaks a law.
fn breaks(history: &[(usize, Act)]) -> bool {
    let run = || {
        let (world, _) = new_world();
        for (cpu, act) in history {
            step(&world, *cpu, act);
        }
    };
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

/// Leaves out all that is not needed to break the law, in ever smaller parts.
fn shorten(mut history: Vec<(usize, Act)>) -> Vec<(usize, Act)> {
    let mut part = history.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < history.len() {
            let end = (at + part).min(history.len());
            let without = [&history[..at], &history[end..]].concat();
            if breaks(&without) {
                history = without;
            } else {
                at = end;
            }
        }
        part /= 2;
    }
    history
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().unwrap())
}

#[test]
fn hostile_guests_break_no_law() {
    let acts = usize::try_from(number("BULKHEAD_ACTS", 3000)).unwrap();
    let seed = number("BULKHEAD_SEED", 0x5eed);
    let mut score = Score::default();
    let mut choices = Choices::Seeded(seed);
    let mut done = 0;
    while done < acts {
        let (history, is_broken) = episode(&mut choices, EPISODE.min(acts - done), &mut score);
        done += history.len().max(1);
        if is_broken {
            println!("BULKHEAD_SEED={seed}, act {done}; the shortest history that breaks a law:");
            let short = shorten(history);
            for (cpu, act) in &short {
                println!("  cpu {cpu}: {act:x?}");
            }
            assert!(!breaks(&short), "the law, as above, is broken");
            panic!("the history breaks the law only once");
        }
    }
    println!("{score:?}");
    // What is always refused tests nothing.
    for (good, all) in [score.paging, score.other] {
        assert!(all > done as u64 / 10 && good * 100 >= all * 30, "{score:?}");
    }
}
