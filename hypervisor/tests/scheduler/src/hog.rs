//! A domain that wants all the time that it can get.

use bulkhead_runtime::{
    event::{Link, LinkError},
    report::Checks,
};
use embassy_futures::{select::select, yield_now};

use crate::{OBSERVER, refusals, virtual_time::Reading};

pub(super) async fn run(checks: &mut Checks) -> Result<(), LinkError> {
    refusals::check_outsider(checks);
    let link = Link::listen(OBSERVER)?;
    link.wait().await;
    let first = Reading::now();
    select(link.wait(), spin()).await;
    let last = Reading::now();
    checks.report("virtual-time-adds-up", last.adds_up_since(&first));
    let [_running, _runnable, blocked, offline] = last.growth_since(&first);
    checks.equal("a-hog-never-sleeps", [blocked, offline], [0, 0]);
    Ok(())
}

/// Goes round in the executor, which looks for events and finds that somebody is ready.
async fn spin() {
    loop {
        yield_now().await;
    }
}
