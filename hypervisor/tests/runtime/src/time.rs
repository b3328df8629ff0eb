//! Time passes, forwards, and sleepers wake after their time.

use core::future;

use bulkhead_runtime::{
    block_on,
    report::Checks,
    time::{self, Duration, Instant, TimeoutError, Timer, with_deadline},
};

pub(super) fn check(checks: &mut Checks) {
    checks.report("time-never-goes-back", time_never_goes_back());
    checks.report("a-sleep-is-long-enough", a_sleep_is_long_enough());
    checks.report("a-past-deadline-is-now", a_past_deadline_is_now());
    checks.report("a-wait-ends-at-its-deadline", a_wait_ends_at_its_deadline());
    // The host of any test is set to a year after 2020.
    let seconds = time::wall_clock().as_secs();
    checks.report(
        "the-wall-clock-is-set",
        if seconds > 1_577_836_800 {
            Ok(())
        } else {
            Err(seconds)
        },
    );
}

fn time_never_goes_back() -> Result<(), (Instant, Instant)> {
    let mut before = Instant::now();
    for _ in 0..10_000 {
        let now = Instant::now();
        if now < before {
            return Err((before, now));
        }
        before = now;
    }
    Ok(())
}

fn a_sleep_is_long_enough() -> Result<(), Duration> {
    for ms in [1, 5, 20, 3] {
        let start = Instant::now();
        block_on(Timer::after_millis(ms));
        let slept = start.elapsed();
        // A generous end: emulators are slow, but a lost timer sleeps for ever.
        if slept < Duration::from_millis(ms) || slept > Duration::from_secs(2) {
            return Err(slept);
        }
    }
    Ok(())
}

fn a_past_deadline_is_now() -> Result<(), Duration> {
    let start = Instant::now();
    block_on(Timer::at(Instant::from_nanos(1)));
    let slept = start.elapsed();
    if slept < Duration::from_secs(1) {
        Ok(())
    } else {
        Err(slept)
    }
}

fn a_wait_ends_at_its_deadline() -> Result<(), &'static str> {
    let deadline = Instant::now().saturating_add(Duration::from_millis(5));
    match block_on(with_deadline(deadline, future::pending::<()>())) {
        Ok(()) => Err("it says that what never happens has happened"),
        Err(TimeoutError) if Instant::now() < deadline => Err("it ended early"),
        Err(TimeoutError) => Ok(()),
    }
}
