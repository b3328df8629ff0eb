//! Who gets how much of the CPUs: what domains have had in a stretch of time, and what they are entitled to.

use bulkhead_runtime::{
    DomId, Failure,
    control::{self, DomainTimes, Schedule},
    report::Checks,
    time::{Duration, Instant, Timer},
};

use crate::HOGS;

/// How long a measurement takes.
const WINDOW: Duration = Duration::from_millis(400);

/// How far a share may be off, in thousandths.
const SHARE_TOLERANCE: u64 = 30;

/// How much of a stretch may be on nobody's account, in thousandths.
const ACCOUNT_TOLERANCE: u64 = 50;

/// Why shares are not what they should be.
#[derive(Debug)]
#[expect(dead_code, reason = "the fields are for the report, which prints them")]
enum Wrong {
    Refused(Failure),
    /// What both had, in nanoseconds, and what of 1000 parts the second should have had.
    Shares([u64; 2], u64),
    /// What they had, and how long it was.
    Sum(u64, u64),
    /// A hog that computes in its kernel, and did not.
    Accounts(DomainTimes),
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// What the first two hogs had in a stretch of time.
struct Measured {
    hogs: [DomainTimes; 2],
    length_ns: u64,
}

/// Changes what `domain` is entitled to.
pub(super) fn change(domain: DomId, change: impl FnOnce(&mut Schedule)) -> Result<(), Failure> {
    let mut share = control::schedule(domain)?;
    change(&mut share);
    control::set_schedule(&share)
}

/// Checks how hogs 1 and 2, which run on the CPU of this domain with weights 256 and 512, share it; then with equal weights;
/// and if `cpus` is more than one, with a CPU for each.
pub(super) async fn check(checks: &mut Checks, cpus: u32) {
    let by_weight = Measured::over(WINDOW).await;
    let judged =
        |judge: fn(&Measured) -> Result<(), Wrong>| judge(by_weight.as_ref().map_err(|error| *error)?);
    checks.report("shares-follow-weights", judged(|hogs| hogs.are_shared(667)));
    checks.report("all-time-is-accounted-for", judged(|hogs| hogs.add_up(1)));
    checks.report("a-hog's-time-is-its-kernel's", judged(Measured::are_kernels));

    let [_, second, ..] = HOGS;
    checks.report(
        "a-weight-changes-live",
        change(second, |share| share.weight = 256),
    );
    let equal = Measured::over(WINDOW).await;
    checks.report(
        "shares-follow-a-change",
        equal.map_err(Wrong::from).and_then(|hogs| hogs.are_shared(500)),
    );

    if cpus > 1 {
        checks.report(
            "an-affinity-changes-live",
            change(second, |share| share.cpus = 0b10),
        );
        let apart = Measured::over(WINDOW).await;
        checks.report(
            "two-hogs-have-a-cpu-each",
            apart.map_err(Wrong::from).and_then(|hogs| hogs.add_up(2)),
        );
    }
}

impl Measured {
    /// Watches for `length`.
    async fn over(length: Duration) -> Result<Self, Failure> {
        // What goes before, a change of weights for instance, has its effect.
        Timer::after_millis(20).await;
        let (start, before) = (Instant::now(), sample()?);
        Timer::after(length).await;
        let (length, after) = (start.elapsed(), sample()?);
        let [first_before, second_before] = before;
        let [first_after, second_after] = after;
        Ok(Self {
            hogs: [
                growth(&first_before, &first_after),
                growth(&second_before, &second_after),
            ],
            length_ns: length.as_nanos(),
        })
    }

    fn totals(&self) -> [u64; 2] {
        let total = |times: &DomainTimes| {
            times
                .user_ns
                .saturating_add(times.kernel_ns)
                .saturating_add(times.hypervisor_ns)
        };
        self.hogs.each_ref().map(total)
    }

    /// Whether the second had so many parts of 1000 of what both had.
    fn are_shared(&self, expected: u64) -> Result<(), Wrong> {
        let [first, second] = self.totals();
        let parts = second
            .saturating_mul(1000)
            .checked_div(first.saturating_add(second))
            .unwrap_or(0);
        // In proportion to what is expected, for the smaller share as well.
        let least = expected.min(1000_u64.saturating_sub(expected));
        if parts.abs_diff(expected).saturating_mul(1000) <= least.saturating_mul(SHARE_TOLERANCE) {
            Ok(())
        } else {
            Err(Wrong::Shares([first, second], expected))
        }
    }

    /// Whether both together had the whole time of `cpus` CPUs.
    fn add_up(&self, cpus: u64) -> Result<(), Wrong> {
        let sum = self.totals().iter().sum::<u64>();
        let length = self.length_ns.saturating_mul(cpus);
        if sum.abs_diff(length).saturating_mul(1000) <= length.saturating_mul(ACCOUNT_TOLERANCE) {
            Ok(())
        } else {
            Err(Wrong::Sum(sum, length))
        }
    }

    /// Whether the hogs spent their time in their kernels: they have no programs, and want nothing of the hypervisor.
    fn are_kernels(&self) -> Result<(), Wrong> {
        let is_good = |times: &DomainTimes| {
            times.user_ns == 0 && times.hypervisor_ns.saturating_mul(10) < times.kernel_ns
        };
        match self.hogs.iter().find(|times| !is_good(times)) {
            None => Ok(()),
            Some(times) => Err(Wrong::Accounts(*times)),
        }
    }
}

/// What the first two hogs have had so far.
fn sample() -> Result<[DomainTimes; 2], Failure> {
    let [first, second, ..] = HOGS;
    Ok([control::domain_times(first)?, control::domain_times(second)?])
}

fn growth(before: &DomainTimes, after: &DomainTimes) -> DomainTimes {
    DomainTimes {
        domain: after.domain,
        user_ns: after.user_ns.saturating_sub(before.user_ns),
        kernel_ns: after.kernel_ns.saturating_sub(before.kernel_ns),
        hypervisor_ns: after.hypervisor_ns.saturating_sub(before.hypervisor_ns),
    }
}
