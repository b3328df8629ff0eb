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
pub(super) fn measure(name: &str, mut operation: impl FnMut()) {
    let mut best = Cost::MAX;
    for run in 0..=RUNS {
        let start = Start::now();
        (0..ITERATIONS).for_each(|_| operation());
        best = best.or_better(run, start.cost());
    }
    best.report(name);
}

/// The same for something that the task waits for.
pub(super) async fn measure_waiting(name: &str, mut operation: impl AsyncFnMut()) {
    let mut best = Cost::MAX;
    for run in 0..=RUNS {
        let start = Start::now();
        for _ in 0..ITERATIONS {
            operation().await;
        }
        best = best.or_better(run, start.cost());
    }
    best.report(name);
}

/// When a run began.
struct Start {
    time: Instant,
    tsc: u64,
}

impl Start {
    fn now() -> Self {
        Self {
            time: Instant::now(),
            tsc: read_tsc(),
        }
    }

    /// What the run took.
    fn cost(&self) -> Cost {
        let cycles = read_tsc().wrapping_sub(self.tsc);
        Cost {
            ns: self.time.elapsed().as_nanos(),
            cycles,
        }
    }
}

/// What a run took.
struct Cost {
    ns: u64,
    cycles: u64,
}

impl Cost {
    const MAX: Self = Self {
        ns: u64::MAX,
        cycles: u64::MAX,
    };

    /// The better of both. The first run does not count.
    fn or_better(self, run: u64, other: Self) -> Self {
        if run == 0 {
            return self;
        }
        Self {
            ns: self.ns.min(other.ns),
            cycles: self.cycles.min(other.cycles),
        }
    }

    fn report(&self, name: &str) {
        println!("BENCH {name} {} ns", self.ns / ITERATIONS);
        println!("BENCH {name}-cycles {} cycles", self.cycles / ITERATIONS);
    }
}
