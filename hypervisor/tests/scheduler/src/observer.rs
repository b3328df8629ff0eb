//! The control domain: tells the others when to begin and to end, and watches them.

use alloc::vec::Vec;

use bulkhead_runtime::{
    control::TraceReader,
    event::{Link, LinkError},
    report::Checks,
};

use crate::{HOGS, SLEEPER, refusals, shares, trace};

/// The sleeper's warp: as far as it goes, for as long as a sleeper runs.
const WARP_NS: u32 = 20_000_000;

pub(super) async fn run(checks: &mut Checks) -> Result<(), LinkError> {
    refusals::check_control(checks);
    let mut hogs = Vec::new();
    for hog in HOGS {
        hogs.push(Link::connect(hog).await?);
    }
    let sleeper = Link::connect(SLEEPER).await?;

    let (pair, others) = hogs.split_at_checked(2).unwrap_or_default();
    notify(pair)?;
    shares::check(checks, cpus()).await;

    notify(others)?;
    sleeper.notify()?;
    sleeper.wait().await;
    checks.report(
        "a-warp-changes-live",
        shares::change(SLEEPER, |share| {
            share.warp_ns = WARP_NS;
        }),
    );
    sleeper.notify()?;
    sleeper.wait().await;

    trace::check(checks, 0);
    notify(&hogs)
}

fn notify(links: &[Link]) -> Result<(), LinkError> {
    links.iter().try_for_each(Link::notify)
}

/// How many CPUs there are: those that have a trace.
fn cpus() -> u32 {
    let cpus = (0..).take_while(|cpu| TraceReader::from_now(*cpu).is_ok());
    u32::try_from(cpus.count()).unwrap_or(u32::MAX)
}
