//! Timers fire once, in order, not early; those that are given up cost nothing.

use alloc::{rc::Rc, vec::Vec};
use core::cell::RefCell;

use bulkhead_runtime::{
    Spawner, executor,
    report::Checks,
    time::{Duration, Instant, TimeoutError, Timer, with_timeout},
};
use embassy_futures::yield_now;
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, signal::Signal};

use crate::{random::Random, tasks::PATIENCE};

/// Tasks that sleep at one time.
const SLEEPERS: usize = 1000;

pub(super) async fn check(checks: &mut Checks, spawner: Spawner) {
    let fired = sleepers(spawner).await;
    checks.equal("every-timer-fires-once", fired.len(), SLEEPERS);
    let early = fired.iter().find(|fired| fired.at < fired.deadline);
    checks.equal("no-timer-fires-early", early, None);
    let unordered = fired
        .iter()
        .zip(fired.iter().skip(1))
        .find(|(first, second)| first.deadline > second.deadline);
    checks.equal("timers-fire-in-order", unordered, None);

    checks.report("a-timeout-comes-in-time", a_timeout_comes_in_time().await);
    checks.report("an-idle-domain-sleeps", an_idle_domain_sleeps().await);
    checks.report(
        "timers-that-are-given-up-cost-nothing",
        timers_that_are_given_up_cost_nothing().await,
    );
}

/// A timer that has fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fired {
    deadline: Instant,
    at: Instant,
}

/// Lets many tasks sleep for random times, and tells in which order they woke up.
async fn sleepers(spawner: Spawner) -> Vec<Fired> {
    let mut random = Random::new(1);
    let fired = Rc::new(RefCell::new(Vec::new()));
    let all = Rc::new(Signal::<NoopRawMutex, ()>::new());
    let start = Instant::now();
    for _ in 0..SLEEPERS {
        let (fired, all) = (Rc::clone(&fired), Rc::clone(&all));
        let length = Duration::from_nanos(random.below(100_000_000));
        let deadline = start.saturating_add(length);
        spawner.spawn(async move {
            Timer::at(deadline).await;
            let mut fired = fired.borrow_mut();
            let at = Instant::now();
            fired.push(Fired { deadline, at });
            if fired.len() == SLEEPERS {
                all.signal(());
            }
        });
    }
    // If one is missing, the number tells. One too many would come now.
    let _: Result<(), TimeoutError> = with_timeout(PATIENCE, all.wait()).await;
    Timer::after_millis(20).await;
    fired.take()
}

async fn a_timeout_comes_in_time() -> Result<(), &'static str> {
    let start = Instant::now();
    let limit = Duration::from_millis(10);
    let ended = with_timeout(limit, core::future::pending::<()>()).await.is_ok();
    if ended {
        Err("what never ends has ended")
    } else if start.elapsed() < limit {
        Err("too early")
    } else if start.elapsed() > Duration::from_secs(2) {
        Err("too late")
    } else {
        Ok(())
    }
}

/// The sleeps of the vCPU while nothing happens for a tenth of a second: one to the timer, and one more if
/// that comes a moment early.
async fn an_idle_domain_sleeps() -> Result<(), u64> {
    match sleeps_during(Duration::from_millis(100)).await {
        1..=2 => Ok(()),
        sleeps => Err(sleeps),
    }
}

/// A thousand limits that were not needed, all of which end while the vCPU could sleep.
async fn timers_that_are_given_up_cost_nothing() -> Result<(), &'static str> {
    for n in 0..1000 {
        let limit = Duration::from_micros(50_000_u64.saturating_add(n));
        with_timeout(limit, yield_now())
            .await
            .map_err(|TimeoutError| "a short task took long")?;
    }
    // The task is woken for the first of them, and then asks for the end of its own sleep.
    match sleeps_during(Duration::from_millis(150)).await {
        1..=4 => Ok(()),
        _ => Err("the vCPU woke up for timers that nobody waits for"),
    }
}

/// How often the vCPU sleeps while this task waits for `length`.
async fn sleeps_during(length: Duration) -> u64 {
    let before = executor::sleeps();
    Timer::after(length).await;
    executor::sleeps().saturating_sub(before)
}
