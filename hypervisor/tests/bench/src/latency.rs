//! How late a task runs: after its timer was due, after another domain sent it an event.

use bulkhead_runtime::{
    event::{Link, LinkError},
    println,
    time::{Duration, Instant, Timer},
};

/// How many timers, and how many events, are measured.
const SAMPLES: usize = 100;

/// The shortest timer; each is a little longer than the one before.
const SHORTEST: Duration = Duration::from_micros(200);
const LONGER: Duration = Duration::from_micros(7);

/// Events are sent when system time is a multiple of this, so the receiver knows when.
const PERIOD_NS: u64 = 1_000_000;
/// The sender wakes up this long before, and watches the clock for the rest.
const WATCH_NS: u64 = 200_000;

/// Reports as `name` how long after their deadlines the tasks of one-shot timers run.
pub(super) async fn of_timers(name: &str) {
    let mut lateness = [0; SAMPLES];
    let mut length = SHORTEST;
    for late_ns in &mut lateness {
        let deadline = Instant::now().saturating_add(length);
        Timer::at(deadline).await;
        *late_ns = deadline.elapsed().as_nanos();
        length = length.checked_add(LONGER).unwrap_or(length);
    }
    report(name, &mut lateness);
}

/// Reports how long after a notification the task that waits for it runs. The other end
/// [sends](send_events).
pub(super) async fn of_events(link: &Link) -> Result<(), LinkError> {
    let mut lateness = [0; SAMPLES];
    for late_ns in &mut lateness {
        link.wait().await;
        *late_ns = Instant::now().as_nanos() % PERIOD_NS;
    }
    report("event-to-task", &mut lateness);
    Ok(())
}

/// Sends what [`of_events`] measures.
pub(super) async fn send_events(link: &Link) -> Result<(), LinkError> {
    for _ in 0..SAMPLES {
        let earliest = Instant::now().as_nanos().saturating_add(WATCH_NS);
        let due = earliest.next_multiple_of(PERIOD_NS);
        Timer::at(Instant::from_nanos(due.saturating_sub(WATCH_NS))).await;
        while Instant::now().as_nanos() < due {}
        link.notify()?;
    }
    Ok(())
}

fn report(name: &str, samples: &mut [u64; SAMPLES]) {
    samples.sort_unstable();
    let [.., worst] = *samples;
    println!(
        "BENCH {name}-median {} ns",
        samples.get(SAMPLES / 2).unwrap_or(&worst)
    );
    println!("BENCH {name}-worst {worst} ns");
}
