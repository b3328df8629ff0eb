//! Repeating something until its cost shows.

use bulkhead_runtime::{
    println,
    time::{Instant, read_tsc},
};

/// Calls in one run.
const ITERATIONS: u64 = 2000;
/// Runs that count; one more goes before to warm up.
pub(super) const RUNS: u64 = 5;

/// How often [`measure`] calls what it measures.
pub(super) const CALLS: u64 = ITERATIONS * (RUNS + 1);

/// Measures the cost of one call of `operation` and reports it as `name`, in nanoseconds by the hypervisor's
/// clock, and as `name-cycles`, by the TSC: the best of several runs, because whatever disturbs a run makes it
/// longer.
pub(super) fn measure(name: &str, mut operation: impl FnMut()) {
    measure_batch(name, ITERATIONS, 1, &mut operation);
}

/// The same, of `calls` calls of `operation` in a run, each of which does `each` times what the figure is about.
pub(super) fn measure_batch(name: &str, calls: u64, each: u64, mut operation: impl FnMut()) {
    let mut best = Cost::MAX;
    for run in 0..=RUNS {
        let start = Start::now();
        (0..calls).for_each(|_| operation());
        best = best.or_better(run, start.cost());
    }
    best.report(name, calls.saturating_mul(each));
}

/// Something to be measured that does a thing so many times.
pub(super) struct Half<'a, F> {
    /// The figure's name.
    pub(super) name: &'a str,
    /// What is done.
    pub(super) operation: F,
}

/// The same, of two operations that undo each other: they are called by turns, and timed apart. `each` is as above.
///
/// The clock is read between them: the figures have that cost on top.
pub(super) fn measure_turns<A: FnMut(), B: FnMut()>(
    turns: u64,
    each: u64,
    mut first: Half<'_, A>,
    mut second: Half<'_, B>,
) {
    let mut best = [Cost::MAX, Cost::MAX];
    for run in 0..=RUNS {
        let mut costs = [Cost::NONE, Cost::NONE];
        for _ in 0..turns {
            let [one, other] = &mut costs;
            let start = Start::now();
            (first.operation)();
            one.add(&start.cost());
            let start = Start::now();
            (second.operation)();
            other.add(&start.cost());
        }
        let [one, other] = best;
        let [one_now, other_now] = costs;
        best = [one.or_better(run, one_now), other.or_better(run, other_now)];
    }
    let count = turns.saturating_mul(each);
    let [one, other] = best;
    one.report(first.name, count);
    other.report(second.name, count);
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
    best.report(name, ITERATIONS);
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
pub(super) struct Cost {
    ns: u64,
    cycles: u64,
}

impl Cost {
    /// More than any.
    pub(super) const MAX: Self = Self {
        ns: u64::MAX,
        cycles: u64::MAX,
    };

    /// Nothing.
    pub(super) const NONE: Self = Self { ns: 0, cycles: 0 };

    /// What `run` takes.
    pub(super) fn of(run: impl FnOnce()) -> Self {
        let start = Start::now();
        run();
        start.cost()
    }

    /// What is left of it without `other`.
    pub(super) fn less(self, other: &Self) -> Self {
        Self {
            ns: self.ns.saturating_sub(other.ns),
            cycles: self.cycles.saturating_sub(other.cycles),
        }
    }

    /// Counts another run in.
    pub(super) fn add(&mut self, other: &Self) {
        self.ns = self.ns.saturating_add(other.ns);
        self.cycles = self.cycles.saturating_add(other.cycles);
    }

    /// The better of both. The first run does not count.
    pub(super) fn or_better(self, run: u64, other: Self) -> Self {
        if run == 0 {
            return self;
        }
        Self {
            ns: self.ns.min(other.ns),
            cycles: self.cycles.min(other.cycles),
        }
    }

    /// Reports what one of `count` operations took.
    pub(super) fn report(&self, name: &str, count: u64) {
        let one = |all: u64| all.checked_div(count).unwrap_or(0);
        println!("BENCH {name} {} ns", one(self.ns));
        println!("BENCH {name}-cycles {} cycles", one(self.cycles));
    }
}
