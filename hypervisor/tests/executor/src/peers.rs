//! Tasks of two domains, several pairs at a time, each pair on an event channel of its own.

use alloc::rc::Rc;

use bulkhead_runtime::{
    DomId, Spawner,
    event::{Link, LinkError},
    time::{Duration, TimeoutError, Timer, with_timeout},
};
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, channel::Channel};

use crate::random::Random;

/// Channels between the two.
const LINKS: u64 = 8;
/// Round trips on each.
const ROUNDS: usize = 300;
/// Longer than it takes if no event is lost.
const PATIENCE: Duration = Duration::from_secs(40);

/// The end of each pair's task.
type Ends = Channel<NoopRawMutex, Result<(), LinkError>, 1>;

/// What went wrong.
#[derive(Debug)]
#[expect(dead_code, reason = "the field is for the report, which prints it")]
pub(super) enum Failed {
    Link(LinkError),
    /// A task waits for an event that does not come.
    EventLost,
}

impl From<LinkError> for Failed {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<TimeoutError> for Failed {
    fn from(_: TimeoutError) -> Self {
        Self::EventLost
    }
}

/// Answers on every link.
pub(super) async fn serve(peer: DomId, spawner: Spawner) -> Result<(), Failed> {
    let ends = Rc::new(Ends::new());
    for seed in 0..LINKS {
        let (link, ends) = (Link::listen(peer)?, Rc::clone(&ends));
        spawner.spawn(async move { ends.send(answer(link, seed).await).await });
    }
    all_ended(&ends).await
}

/// Calls on every link.
pub(super) async fn call(peer: DomId, spawner: Spawner) -> Result<(), Failed> {
    let ends = Rc::new(Ends::new());
    for _ in 0..LINKS {
        let (link, ends) = (Link::connect(peer).await?, Rc::clone(&ends));
        spawner.spawn(async move { ends.send(ask(link).await).await });
    }
    all_ended(&ends).await
}

async fn all_ended(ends: &Ends) -> Result<(), Failed> {
    for _ in 0..LINKS {
        with_timeout(PATIENCE, ends.receive()).await??;
    }
    Ok(())
}

/// Answers at once, or now and then a little later, so that the tasks of both sides fall out of step.
async fn answer(link: Link, seed: u64) -> Result<(), LinkError> {
    let mut random = Random::new(seed);
    for _ in 0..ROUNDS {
        link.wait().await;
        if random.below(16) == 0 {
            Timer::after_micros(random.below(300)).await;
        }
        link.notify()?;
    }
    Ok(())
}

async fn ask(link: Link) -> Result<(), LinkError> {
    for _ in 0..ROUNDS {
        link.notify()?;
        link.wait().await;
    }
    Ok(())
}
