//! Makes domains, brings each into a random state, destroys it, and wants every frame of it back.
//!
//! Domain 0 runs this alone. What a domain is doing when it ends is drawn anew each time: it may have no memory, or page tables that were refused
//! halfway, or run one of several [programs](program) on several vCPUs, with channels and grants between it and domain 0.
//! When it is gone, the machine has as many free frames as before, but for those that the hypervisor [keeps](reach) as long as domain 0 is there; and
//! domain 0's ends say what the ABI wants them to say.
//!
//! `rounds=N` says how many domains there are, `seed=N` which.

#![no_std]
#![no_main]

extern crate alloc;

mod program;
mod reach;
mod tables;
mod tally;
mod ties;
mod victim;

use alloc::{format, string::String};

use bulkhead_runtime::{
    DomId, Environment, Errno, Failure, ShutdownReason, domains, println, random::Random, report::Checks,
    time::Instant,
};

use crate::{reach::Reach, tally::Tally, ties::Ties, victim::Victim};

bulkhead_runtime::entry!(main);

/// How many rounds a line on the console stands for.
const LEG: u64 = 100;

fn main(environment: &Environment) -> ShutdownReason {
    let mut checks = Checks::new();
    let words = environment.command_line();
    let rounds = words.parse("rounds").unwrap_or(LEG);
    let mut random = Random::new(words.parse("seed").unwrap_or(1));
    let mut tally = Tally::default();
    let mut reach = Reach::default();
    let result = (0..rounds).try_for_each(|round| {
        if round.checked_rem(LEG) == Some(0) {
            println!("{round} domains so far");
        }
        live_and_die(&mut random, &mut tally, &mut reach).map_err(|why| format!("round {round}: {why}"))
    });
    println!("{tally:?}");
    checks.report("every-frame-of-every-domain-comes-back", result);
    // Each kind came up, or the rounds would say little.
    checks.equal("every-state-came-up", tally.missing(), None);
    checks.verdict()
}

/// One domain's life and death.
fn live_and_die(random: &mut Random, tally: &mut Tally, reach: &mut Reach) -> Result<(), String> {
    let before = free_frames()?;
    let victim = Victim::make(random, tally).map_err(|error| format!("it is not made: {error}"))?;
    let mut ties = Ties::none(victim.domain());
    victim
        .raise(&mut ties, random, tally)
        .map_err(|error| format!("{victim:?} cannot be brought up: {error}"))?;
    linger(random);
    if random.one_in(5) {
        domains::pause(victim.domain()).map_err(|error| format!("{victim:?} is not paused: {error}"))?;
    }
    domains::destroy(victim.domain()).map_err(|error| format!("{victim:?} is not destroyed: {error}"))?;
    let gone = domains::destroy(victim.domain());
    if gone != Err(Failure::Errno(Errno::Srch)) {
        return Err(format!("{victim:?} is still there: {gone:?}"));
    }
    let kept: u64 = ties.reached().map(|address| reach.grow(address)).sum();
    ties.untie().map_err(|why| format!("{victim:?}: {why}"))?;
    let after = free_frames()?;
    if before.checked_sub(kept) == Some(after) {
        Ok(())
    } else {
        Err(format!(
            "{victim:?}: of {before} free frames {after} are left, and {kept} are kept"
        ))
    }
}

fn free_frames() -> Result<u64, String> {
    let own =
        domains::info(DomId::new(0)).map_err(|error| format!("domain 0 is not told of itself: {error}"))?;
    Ok(own.machine_free)
}

/// Lets the domain run for a while, on another CPU or in turn with this one.
fn linger(random: &mut Random) {
    let until = Instant::now().as_nanos().saturating_add(random.below(200_000));
    while Instant::now().as_nanos() < until {
        if random.one_in(4) {
            bulkhead_runtime::hypervisor::yield_cpu();
        }
    }
}
