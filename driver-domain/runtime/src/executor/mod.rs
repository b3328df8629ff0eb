//! Running async code: tasks that wait for events and for time, and the vCPU asleep when all of them do.
//!
//! A program that is written as `async fn main` is the first task of the executor and starts others with its
//! [`Spawner`]. They share the vCPU by turns: a task runs until it waits, and nothing interrupts it. So tasks
//! share data with `Rc` and `RefCell`, and a task that computes for long holds up all others; it may let them
//! pass with `yield_now` of embassy-futures. A small program can do without tasks: [`block_on`] takes a single
//! future to its end.
//!
//! The task queue and the wakers are embassy-executor's; channels, signals and locks between tasks come from
//! embassy-sync, `join` and `select` from embassy-futures. What is our own is the loop around them ([`idle`]),
//! the storage of tasks ([`tasks`]), and where wake-ups come from: ports ([`event`]) and the timer
//! ([`time`]).
//!
//! There is one executor, on the one vCPU. More vCPUs would have one each, a flag `READY` each, and a port by
//! which the others say that they have set it.

mod idle;
mod tasks;

use alloc::{rc::Rc, sync::Arc, task::Wake};
use core::{
    cell::Cell,
    pin::pin,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    task::{Context, Poll, Waker},
};

use bulkhead_abi::sched::ShutdownReason;

pub use self::tasks::Spawner;
use self::tasks::Tasks;
use crate::{event, time};

/// Whether a task was woken and has not run since.
static READY: AtomicBool = AtomicBool::new(false);

/// Whether there is an executor already.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// How often the vCPU has slept.
static SLEEPS: AtomicU64 = AtomicU64::new(0);

/// What the executor does when the first task of several is woken.
///
/// `context` would tell executors apart, if there were several.
#[cfg_attr(target_os = "none", unsafe(export_name = "__pender"))]
fn pender(_context: *mut ()) {
    // Release pairs with the Acquire in `idle::run`.
    READY.store(true, Ordering::Release);
}

/// Runs the task that `main` makes, and those that it starts, until it ends; returns its result.
///
/// # Panics
///
/// If called twice.
pub fn run<F>(main: impl FnOnce(Spawner) -> F) -> ShutdownReason
where
    F: Future<Output = ShutdownReason> + 'static,
{
    assert!(
        !RUNNING.swap(true, Ordering::Relaxed),
        "there is an executor already"
    );
    let tasks = Tasks::new();
    let spawner = Spawner::new(tasks);
    let result = Rc::new(Cell::new(None));
    let main = main(spawner);
    spawner.spawn({
        let result = Rc::clone(&result);
        async move { result.set(Some(main.await)) }
    });
    idle::run(&ThisVcpu, &READY, || {
        // SAFETY: tasks cannot get here: that would be a second call of `run`, which panics.
        unsafe { tasks.step() };
        result.get()
    })
}

/// Waits for `future`, and for nothing else: tasks stand still meanwhile.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    idle::run(&ThisVcpu, &woken.0, || match future.as_mut().poll(&mut context) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    })
}

/// How often the vCPU has had nothing to do and slept. Of use to those who measure.
#[must_use]
pub fn sleeps() -> u64 {
    SLEEPS.load(Ordering::Relaxed)
}

/// The flag that a waker of [`block_on`] sets.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Release pairs with the Acquire in `idle::run`.
        self.0.store(true, Ordering::Release);
    }
}

/// The vCPU that the code runs on.
struct ThisVcpu;

impl idle::Vcpu for ThisVcpu {
    fn look(&self) {
        event::dispatch();
        time::wake_sleepers();
    }

    fn sleep(&self) {
        time::arm_timer();
        SLEEPS.fetch_add(1, Ordering::Relaxed);
        event::block();
    }
}
