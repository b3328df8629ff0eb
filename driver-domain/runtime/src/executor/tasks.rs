//! The tasks of an executor: where they are kept, and the right to start more.
//!
//! A task is a boxed future in a slot. The executor links slots into its queue and wakers point to them, so a
//! slot is never freed; it is used again. A guest holds as many slots as it ever had tasks at one time.
//!
//! The macro that comes with the executor makes a pool of fixed size for each task function instead. It does
//! not fit a program whose peers come and go in numbers that are known at run time only.

use alloc::{boxed::Box, vec::Vec};
use core::{cell::RefCell, fmt, pin::Pin};

use embassy_executor::raw::{AvailableTask, Executor, TaskStorage};

/// What a task does.
type Body = Pin<Box<dyn Future<Output = ()>>>;
/// A task's place.
type Slot = TaskStorage<Body>;

/// An executor and its slots.
pub(super) struct Tasks {
    executor: Executor,
    /// Slots whose task has ended, or is in the last lines of its last step.
    vacant: RefCell<Vec<&'static Slot>>,
}

impl Tasks {
    /// No task yet. Lives as long as the guest.
    pub(super) fn new() -> &'static Self {
        Box::leak(Box::new(Self {
            executor: Executor::new(core::ptr::null_mut()),
            vacant: RefCell::new(Vec::new()),
        }))
    }

    /// Lets every task that was woken take a step. What is woken meanwhile waits for the next call.
    ///
    /// # Safety
    ///
    /// No task may call this.
    pub(super) unsafe fn step(&'static self) {
        // SAFETY: by the caller's word this is not a call from inside another.
        unsafe { self.executor.poll() };
    }

    /// A slot, with the right to put a task into it.
    fn claim(&self) -> (&'static Slot, AvailableTask<Body>) {
        let mut vacant = self.vacant.borrow_mut();
        // The last is nearly always free. It is not if its task was woken during its last step: then it is
        // queued once more, for nothing, and still taken.
        let free = vacant.iter().enumerate().rev().find_map(|(index, slot)| {
            let task = AvailableTask::claim(slot)?;
            Some((index, *slot, task))
        });
        if let Some((index, slot, task)) = free {
            vacant.swap_remove(index);
            return (slot, task);
        }
        let slot: &'static Slot = Box::leak(Box::new(Slot::new()));
        match AvailableTask::claim(slot) {
            Some(task) => (slot, task),
            None => unreachable!("a new slot has no task"),
        }
    }
}

/// The right to start tasks. It stays on the vCPU that it was given out on.
#[derive(Clone, Copy)]
pub struct Spawner(&'static Tasks);

impl Spawner {
    pub(super) const fn new(tasks: &'static Tasks) -> Self {
        Self(tasks)
    }

    /// Starts a task, which runs `future` to its end. Its first step comes after the caller's current one.
    ///
    /// There is no handle to stop it by: a task that is to end early waits for that, too.
    pub fn spawn(self, future: impl Future<Output = ()> + 'static) {
        let Self(tasks) = self;
        let (slot, task) = tasks.claim();
        let body = async move {
            future.await;
            // All that the task had is dropped. Nobody can claim the slot before this step is over.
            tasks.vacant.borrow_mut().push(slot);
        };
        tasks.executor.spawner().spawn(task.initialize(|| Box::pin(body)));
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spawner")
    }
}
