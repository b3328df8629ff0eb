//! Which vCPU runs, on which CPU, and for how long: borrowed virtual time.
//!
//! The rule is that of Duda and Cheriton, "Borrowed-Virtual-Time (BVT) scheduling: supporting latency-sensitive
//! threads in a general-purpose scheduler", SOSP 1999, whose names are used here:
//!
//! - **Actual virtual time** (AVT): what a vCPU has run, divided by its weight. All runnable vCPUs of a CPU advance
//!   together, so that time is shared by weight.
//! - **Warp**: a vCPU that needs to run soon after it wakes borrows from its future. Its **effective virtual time** (EVT)
//!   is its AVT less its warp, and the runnable vCPU with the least EVT runs. What it borrowed stays on its account:
//!   warp buys latency, not share. The *warp time limit* ends it for one that does not go back to sleep, for at
//!   least the *unwarp time requirement*.
//! - **Context-switch allowance** (C): how long the running vCPU may run on when another is as entitled to the CPU.
//! - **Scheduler virtual time** (SVT): the least AVT of the runnable vCPUs. A vCPU that wakes starts at the later of its own
//!   AVT and this, so that nobody saves up time by sleeping.
//! - The *minimum charging unit* is one nanosecond.
//!
//! [`RunQueue`] is that rule for one CPU. Each CPU has its own, behind its own lock; there is no lock for all. Time is
//! passed in, never read. After [`RunQueue::insert`] nothing allocates.
//!
//! # Several CPUs
//!
//! One queue shares one CPU fairly; three equal vCPUs on two CPUs also want to be. So the virtual times of all queues
//! are kept comparable, and a CPU whose vCPUs are ahead **pulls** one that waits on a CPU behind ([`RunQueue::steal`]). A
//! vCPU that moves is re-based to its new queue's SVT, and takes along what its old queue was behind or ahead of the
//! new one, up to a limit: without this a vCPU of a crowded CPU would never be made good, without the limit it could hold
//! its new CPU for long.
//!
//! A weight that asks for more than one CPU is **clamped** to one CPU's worth: a vCPU that has a CPU to itself, and still
//! falls behind, is moved up to within that same limit of the others ([`RunQueue::observe`]).
//!
//! [`Board`] is what CPUs know of each other without taking locks, and decides where a vCPU is woken and
//! from which CPU one is pulled.
//!
//! # What a CPU does when it schedules
//!
//! With its own queue locked: [`RunQueue::account`], [`RunQueue::observe`] the board's [`Board::system_time`], and
//! [`Board::publish`] its [`RunQueue::load`]. If [`Board::victim`] names a CPU: drop the lock, lock that CPU's queue,
//! [`RunQueue::steal`], drop it, lock the own again, [`RunQueue::arrive`]. Then [`RunQueue::pick`], and set the timer.
//! Who leaves vCPUs waiting in a queue, by whatever operation, asks [`Board::idle`] for an idle CPU of
//! [`RunQueue::waiting_affinity`], and tells that one to schedule. No two queues are ever locked at once, so there is no order among them.
//!
//! A vCPU that waits in a queue may be stolen at once: its registers must be saved before the lock is dropped under which
//! `pick` chose another.

mod entities;
mod entity;
mod heap;
mod migrate;
mod placement;
mod queue;
#[cfg(test)]
mod tests;
mod vtime;

pub use entity::{Share, State, Warp};
pub use migrate::Migrant;
pub use placement::{Board, CpuSet, Load, MAX_CPUS};
pub use queue::{Reschedule, RunQueue, SchedError, Turn};
pub use vtime::{VirtualTime, Weight};
