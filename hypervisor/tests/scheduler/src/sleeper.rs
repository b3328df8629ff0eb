//! A domain that sleeps most of its time, and wants to be on time when it wakes.

use bulkhead_runtime::{
    event::{Link, LinkError},
    println,
    report::Checks,
    time::{Duration, Instant, Timer},
};

use crate::{OBSERVER, refusals, virtual_time::Reading};

/// How often it sleeps in a series.
const SLEEPS: usize = 60;

/// The shortest sleep; each is a little longer than the one before, so that they fall on all parts of the hogs' turns.
const SHORTEST: Duration = Duration::from_micros(3000);
const LONGER: Duration = Duration::from_micros(37);

/// How late one of equals may be. The hypervisor lets the running vCPU be ahead by 1 ms before it switches; so may the one be
/// that waited before the sleeper woke.
const AMONG_EQUALS_NS: u64 = 2_500_000;

/// How late a warped sleeper may be: an interrupt and a switch, many times over.
const ON_TIME_NS: u64 = 250_000;

pub(super) async fn run(checks: &mut Checks, slack: Duration) -> Result<(), LinkError> {
    refusals::check_outsider(checks);
    let link = Link::listen(OBSERVER)?;

    // As equal among equals.
    link.wait().await;
    let unwarped = series().await;
    link.notify()?;

    // Warped.
    link.wait().await;
    let first = Reading::now();
    let warped = series().await;
    let last = Reading::now();
    link.notify()?;

    println!("median lateness {unwarped} ns among equals, {warped} ns warped");
    let with_slack = |ns: u64| ns.saturating_add(slack.as_nanos());
    checks.report(
        "an-unwarped-sleeper-waits-its-turn",
        at_most(unwarped, with_slack(AMONG_EQUALS_NS)),
    );
    checks.report(
        "a-warped-sleeper-is-on-time",
        at_most(warped, with_slack(ON_TIME_NS)),
    );
    checks.report(
        "warp-buys-latency",
        at_most(
            warped.saturating_sub(slack.as_nanos()).saturating_mul(2),
            unwarped,
        ),
    );
    checks.report("virtual-time-adds-up", last.adds_up_since(&first));
    let growth = last.growth_since(&first);
    let [_running, _runnable, blocked, _offline] = growth;
    let all = growth.iter().fold(0, |all: u64, one| all.saturating_add(*one));
    checks.report(
        "a-sleeper-sleeps",
        at_most(all.saturating_mul(2), blocked.saturating_mul(3)),
    );
    Ok(())
}

/// Sleeps again and again; the median of how late it woke, in nanoseconds.
async fn series() -> u64 {
    let mut lateness = [0; SLEEPS];
    let mut length = SHORTEST;
    for late_ns in &mut lateness {
        let deadline = Instant::now().saturating_add(length);
        Timer::at(deadline).await;
        *late_ns = deadline.elapsed().as_nanos();
        length = length.checked_add(LONGER).unwrap_or(length);
    }
    lateness.sort_unstable();
    lateness.get(SLEEPS / 2).copied().unwrap_or(u64::MAX)
}

fn at_most(value: u64, limit: u64) -> Result<(), (u64, u64)> {
    if value <= limit {
        Ok(())
    } else {
        Err((value, limit))
    }
}
