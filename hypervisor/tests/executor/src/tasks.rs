//! Tasks run, take turns, end, and leave nothing behind.

use alloc::{rc::Rc, vec::Vec};
use core::cell::Cell;

use bulkhead_runtime::{
    Environment, Spawner,
    event::Port,
    report::Checks,
    time::{Duration, TimeoutError, Timer, with_timeout},
};
use embassy_futures::yield_now;
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, channel::Channel, signal::Signal};

/// A channel between two tasks of one vCPU.
type Pipe = Channel<NoopRawMutex, u32, 1>;

/// Longer than any check takes if nothing is lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn check(checks: &mut Checks, environment: &Environment, spawner: Spawner) {
    checks.report("a-task-can-wake-itself", a_task_can_wake_itself(spawner).await);
    checks.report(
        "a-busy-task-holds-up-no-one",
        a_busy_task_holds_up_no_one(spawner).await,
    );
    checks.report("tasks-play-ping-pong", tasks_play_ping_pong(spawner).await);
    checks.report(
        "ended-tasks-leave-nothing-behind",
        ended_tasks_leave_nothing_behind(environment, spawner).await,
    );
}

async fn a_task_can_wake_itself(spawner: Spawner) -> Result<(), TimeoutError> {
    let ended = Rc::new(Signal::<NoopRawMutex, ()>::new());
    spawner.spawn({
        let ended = Rc::clone(&ended);
        async move {
            for _ in 0..10_000 {
                yield_now().await;
            }
            ended.signal(());
        }
    });
    with_timeout(PATIENCE, ended.wait()).await
}

/// While a task is always ready, timers and events still reach the others.
async fn a_busy_task_holds_up_no_one(spawner: Spawner) -> Result<(), &'static str> {
    let (stop, turns) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0_u64)));
    spawner.spawn({
        let (stop, turns) = (Rc::clone(&stop), Rc::clone(&turns));
        async move {
            while !stop.get() {
                turns.set(turns.get().saturating_add(1));
                yield_now().await;
            }
        }
    });
    let port = Port::bind_ipi().map_err(|_| "no port")?;
    Timer::after_millis(5).await;
    port.notify().map_err(|_| "not notified")?;
    port.wait().await;
    stop.set(true);
    if turns.get() > 1 {
        Ok(())
    } else {
        Err("the busy task did not run meanwhile")
    }
}

/// A hundred pairs pass a number to and fro, and each adds one to it.
async fn tasks_play_ping_pong(spawner: Spawner) -> Result<(), (usize, Option<u32>)> {
    const ROUNDS: u32 = 100;
    let results: Vec<Rc<Signal<NoopRawMutex, u32>>> = (0..100).map(|_| Rc::default()).collect();
    for result in &results {
        let (ping, pong) = (Rc::new(Pipe::new()), Rc::new(Pipe::new()));
        spawner.spawn({
            let (ping, pong) = (Rc::clone(&ping), Rc::clone(&pong));
            async move {
                for _ in 0..ROUNDS {
                    let number = ping.receive().await;
                    pong.send(number.saturating_add(1)).await;
                }
            }
        });
        let result = Rc::clone(result);
        spawner.spawn(async move {
            let mut number = 0_u32;
            for _ in 0..ROUNDS {
                ping.send(number.saturating_add(1)).await;
                number = pong.receive().await;
            }
            result.signal(number);
        });
    }
    for (pair, result) in results.iter().enumerate() {
        match with_timeout(PATIENCE, result.wait()).await {
            Ok(number) if number == 2 * ROUNDS => {}
            wrong => return Err((pair, wrong.ok())),
        }
    }
    Ok(())
}

/// Ten thousand tasks, one after the other: what they hold is dropped, and their memory is used again.
async fn ended_tasks_leave_nothing_behind(
    environment: &Environment,
    spawner: Spawner,
) -> Result<(), &'static str> {
    let held = Rc::new([0_u8; 1000]);
    let before = environment.memory();
    for _ in 0..10_000 {
        let held = Rc::clone(&held);
        spawner.spawn(async move {
            yield_now().await;
            drop(held);
        });
        yield_now().await;
        yield_now().await;
    }
    if Rc::strong_count(&held) != 1 {
        Err("a task has not ended, or not dropped what it held")
    } else if environment.memory() != before {
        Err("tasks that have ended still take memory")
    } else {
        Ok(())
    }
}
