//! Repeating something until its cost shows.

use bulkhead_runtime::{
    println,
    time::{Instant, read_tsc},
};

/// Calls in one run.
const ITERATIONS: u64 = 2000;
/// Runs that count; one more goes before to warm up.
const RUNS: u64 = 5;

/// How often [`measure`] calls what it measures.
pub(super) const CALLS: u64 = ITERATIONS * (RUNS + 1);

/// Measures the cost of one call of `operation` and reports it as `name`, in time, and as `name-cycles`.
pub(super) fn measure(name: &str, mut operation: impl FnMut()) {
    let mut run = || {
        let (start, start_tsc) = (Instant::now(), read_tsc());
        (0..ITERATIONS).for_each(|_| operation());
        let (end_tsc, end) = (read_tsc(), Instant::now());
        (
            end.as_ns().saturating_sub(start.as_ns()),
            end_tsc.wrapping_sub(start_tsc),
        )
    };
    run();
    let best = (0..RUNS)
        .map(|_| run())
        .reduce(|a, b| (a.0.min(b.0), a.1.min(b.1)));
    if let Some((ns, cycles)) = best {
        println!("BENCH {name} {} ns", ns / ITERATIONS);
        println!("BENCH {name}-cycles {} cycles", cycles / ITERATIONS);
    }
}
