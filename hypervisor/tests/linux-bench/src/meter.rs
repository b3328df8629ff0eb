//! The clock and the account by which all is measured, and how figures are told.

use std::fs::File;
use std::io::Write as _;

use crate::costs::Costs;
use crate::system;

/// How often each figure is measured; the median counts. Odd.
const REPEATS: usize = 5;

/// How long one measurement takes at least: some ticks of the kernel's.
const LEAST_NS: u64 = 20_000_000;

/// Writes a line to the kernel's log, as urgent as it can be without being for everybody's terminal: it is on the console.
pub(crate) fn say(text: &str) {
    let mut log = File::options().write(true).open("/dev/kmsg").unwrap();
    log.write_all(format!("<1>{text}\n").as_bytes()).unwrap();
}

/// What measures, and tells of it.
#[derive(Debug)]
pub(crate) struct Meter {
    costs: Option<Costs>,
}

/// What something has taken.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    ns: u64,
    /// The programs', the kernel's, the hypervisor's.
    parts: [u64; 3],
}

/// Adds up what is measured.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    meter: &'a Meter,
    taken: Taken,
}

impl Watch<'_> {
    /// Measures this.
    pub(crate) fn time(&mut self, work: impl FnOnce()) {
        let costs = || {
            self.meter
                .costs
                .as_ref()
                .and_then(Costs::read)
                .unwrap_or_default()
        };
        let before = costs();
        let begun = system::now();
        work();
        self.taken.ns += system::now() - begun;
        let after = costs();
        for ((part, after), before) in self.taken.parts.iter_mut().zip(after).zip(before) {
            *part += after - before;
        }
    }
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { costs: Costs::new() }
    }

    fn watch(&self) -> Watch<'_> {
        Watch {
            meter: self,
            taken: Taken::default(),
        }
    }

    /// Measures laps of `each` operations, which each are timed by the watch that they are given.
    pub(crate) fn laps(&self, name: &str, each: u64, mut lap: impl FnMut(&mut Watch<'_>)) {
        let mut values = [0.0; REPEATS];
        let (mut all, mut parts) = (0, [0; 3]);
        for value in &mut values {
            let mut watch = self.watch();
            let mut count = 0;
            while watch.taken.ns < LEAST_NS {
                lap(&mut watch);
                count += each;
            }
            *value = watch.taken.ns as f64 / count as f64;
            all += count;
            for (sum, part) in parts.iter_mut().zip(watch.taken.parts) {
                *sum += part;
            }
        }
        values.sort_unstable_by(f64::total_cmp);
        self.tell(name, values[REPEATS / 2], parts, all);
    }

    /// Measures an operation by laps of `each`.
    pub(crate) fn each(&self, name: &str, each: u64, mut work: impl FnMut()) {
        self.laps(name, each, |watch| {
            watch.time(|| {
                for _ in 0..each {
                    work();
                }
            });
        });
    }

    /// Measures something once that does as many operations as it says. How many.
    pub(crate) fn once(&self, name: &str, work: impl FnOnce() -> u64) -> u64 {
        let mut watch = self.watch();
        let mut count = 0;
        watch.time(|| count = work());
        let Taken { ns, parts } = watch.taken;
        self.tell(name, ns as f64 / count as f64, parts, count);
        count
    }

    /// Tells a figure in nanoseconds, and the parts of all operations.
    fn tell(&self, name: &str, ns: f64, parts: [u64; 3], count: u64) {
        say(&format!("BENCH linux-{name} {ns:.3} ns"));
        if self.costs.is_some() {
            let [program, kernel, hypervisor] = parts.map(|ns| ns as f64 / count as f64);
            say(&format!(
                "COSTS linux-{name} program={program:.3} kernel={kernel:.3} hypervisor={hypervisor:.3}"
            ));
        }
    }
}
