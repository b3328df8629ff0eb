//! A port keeps its event until somebody asks for it.

use bulkhead_runtime::{
    event::{self, Port},
    report::Checks,
    time::{Duration, Timer, with_timeout},
};
use embassy_futures::join::join;

use crate::tasks::PATIENCE;

pub(super) async fn check(checks: &mut Checks) {
    checks.report("an-event-is-kept", an_event_is_kept().await);
    checks.report(
        "an-event-after-a-given-up-wait-is-kept",
        an_event_after_a_given_up_wait_is_kept().await,
    );
    checks.report(
        "many-notifications-are-one-event",
        many_notifications_are_one_event().await,
    );
    checks.report(
        "a-waiting-task-is-woken-by-each-event",
        a_waiting_task_is_woken_by_each_event().await,
    );
}

/// Notified and looked at long before anybody waits.
async fn an_event_is_kept() -> Result<(), &'static str> {
    let port = Port::bind_ipi().map_err(|_| "no port")?;
    port.notify().map_err(|_| "not notified")?;
    Timer::after_millis(2).await;
    if event::dispatch() != 0 {
        return Err("the event was not looked at while the task slept");
    }
    with_timeout(PATIENCE, port.wait())
        .await
        .map_err(|_| "the event is lost")
}

async fn an_event_after_a_given_up_wait_is_kept() -> Result<(), &'static str> {
    let port = Port::bind_ipi().map_err(|_| "no port")?;
    if with_timeout(Duration::from_millis(1), port.wait()).await.is_ok() {
        return Err("there was an event before any was sent");
    }
    port.notify().map_err(|_| "not notified")?;
    Timer::after_millis(2).await;
    with_timeout(PATIENCE, port.wait())
        .await
        .map_err(|_| "the event is lost")
}

async fn many_notifications_are_one_event() -> Result<(), &'static str> {
    let port = Port::bind_ipi().map_err(|_| "no port")?;
    for _ in 0..10 {
        port.notify().map_err(|_| "not notified")?;
    }
    port.wait().await;
    match with_timeout(Duration::from_millis(2), port.wait()).await {
        Ok(()) => Err("there was a second event"),
        Err(_) => Ok(()),
    }
}

/// Two tasks on two ports, each waiting whenever the other notifies.
async fn a_waiting_task_is_woken_by_each_event() -> Result<(), &'static str> {
    const ROUNDS: usize = 1000;
    let (here, there) = (
        Port::bind_ipi().map_err(|_| "no port")?,
        Port::bind_ipi().map_err(|_| "no port")?,
    );
    let back = async {
        for _ in 0..ROUNDS {
            there.wait().await;
            here.notify().map_err(|_| "not notified")?;
        }
        Ok(())
    };
    let forth = async {
        for _ in 0..ROUNDS {
            there.notify().map_err(|_| "not notified")?;
            here.wait().await;
        }
        Ok(())
    };
    match with_timeout(PATIENCE, join(back, forth)).await {
        Ok((Ok(()), Ok(()))) => Ok(()),
        Ok((Err(why), _) | (_, Err(why))) => Err(why),
        Err(_) => Err("an event is lost"),
    }
}
