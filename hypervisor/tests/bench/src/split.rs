//! Crossings, measured whole and by parts: what the hypervisor executes, the guest's kernel, the guest's program.
//!
//! The guest's parts are known: the code between two crossings is a few instructions of assembly, which are counted where they
//! stand ([`Parts`]). The rest of the whole is the hypervisor's. That is measured apart too, by stamps: the same code, but it reads the
//! time-stamp counter before it leaves and after it is entered, and adds up what lies between. Both must agree: whoever reads the figures
//! checks it, where the counter advances with instructions. On a clock that runs with the host's there is only the time between
//! stamps, some instructions of the guest's included.

use bulkhead_runtime::println;

use crate::measure::{Cost, RUNS};

/// What a crossing takes of the guest, in instructions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    /// Of its kernel.
    pub(super) kernel: u64,
    /// Of its program.
    pub(super) program: u64,
    /// With stamps: how many lie between those.
    pub(super) between: u64,
}

/// Reports what one crossing takes, of which `run` makes as many as it is told: the best of several runs.
///
/// What a run costs besides its crossings falls out: one of `count` is taken from one of twice as many. `each` is how often a crossing
/// does what the figure is about.
pub(super) fn whole(name: &str, count: u64, each: u64, mut run: impl FnMut(u64)) {
    let mut best = |crossings: u64| {
        (0..=RUNS).fold(Cost::MAX, |best, number| {
            best.or_better(number, Cost::of(|| run(crossings)))
        })
    };
    let once = best(count);
    let twice = best(count.saturating_mul(2));
    twice.less(&once).report(name, count.saturating_mul(each));
}

/// Reports how much of a crossing is the hypervisor's: `run` makes as many as it is told, with stamps, and returns what it added up.
pub(super) fn parts(name: &str, count: u64, each: u64, parts: Parts, mut run: impl FnMut(u64) -> u64) {
    let best = (0..=RUNS).map(|_| run(count)).min().unwrap_or(0);
    let one = best.checked_div(count.saturating_mul(each)).unwrap_or(0);
    println!("BENCH {name}-in-hypervisor {one} cycles");
    let Parts {
        kernel,
        program,
        between,
    } = parts;
    println!("SPLIT {name} kernel={kernel} program={program} between={between}");
}
