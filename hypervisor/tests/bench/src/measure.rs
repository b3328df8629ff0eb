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

/// Measures the cost of one call of `operation` and reports it as `name`, in nanoseconds by the hypervisor's
/// clock, and as `name-cycles`, by the TSC: the best of several runs, because whatever disturbs a run makes it
/// longer.
pub(super) async fn measure(name: &str, mut operation: impl AsyncFnMut()) {
    let (mut ns, mut cycles) = (u64::MAX, u64::MAX);
    for run in 0..=RUNS {
        let (start, start_tsc) = (Instant::now(), read_tsc());
        for _ in 0..ITERATIONS {
            operation().await;
        }
        let (end_tsc, time) = (read_tsc(), start.elapsed());
        if run > 0 {
            ns = ns.min(time.as_nanos());
            cycles = cycles.min(end_tsc.wrapping_sub(start_tsc));
        }
    }
    println!("BENCH {name} {} ns", ns / ITERATIONS);
    println!("BENCH {name}-cycles {} cycles", cycles / ITERATIONS);
}
