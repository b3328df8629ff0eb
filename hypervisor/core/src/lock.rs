//! Locks with a rank: a lock may be taken only while no lock of the same or an inner rank is held.
//!
//! In builds with debug assertions every lock checks that; elsewhere nothing is left of it. The ranks are the whole story of lock
//! order in the hypervisor: what is not in [`Rank`] is an atomic, or belongs to one CPU.
//!
//! No lock is held while another CPU is waited for (a TLB flush): [`assert_none_held`] checks it.

use core::ops::{Deref, DerefMut};
use spin::mutex::{TicketMutex, TicketMutexGuard};
use spin::rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The ranks, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Rank {
    /// A line that a domain prints.
    ConsoleLine,
    /// What a domain may do next.
    Lifecycle,
    /// How far the end of a domain has come.
    Teardown,
    /// What a domain's vCPUs are entitled to.
    Share,
    /// What a domain has mapped of others' grants.
    Maps,
    /// A domain's grant table.
    Grants,
    /// The frames of a domain.
    Holdings,
    /// Who handles the machine's virtual interrupts.
    GlobalVirqs,
    /// A domain's event channels. Two of these may be held: the lower domain's first.
    Events,
    /// A slot of the domain table.
    DomainSlot,
    /// A CPU's run queue and deadlines.
    RunQueue,
    /// A vCPU's state on the shelf.
    Parked,
    /// Where a vCPU's times are shown to its guest.
    RunstateArea,
    /// Where a vCPU's clock is shown to its guest.
    ClockArea,
    /// What a vCPU does, and since when.
    Runstate,
    /// The functions on PCI buses, and whose they are.
    Functions,
    /// What a domain's devices may reach.
    DmaSpace,
    /// Free frames.
    Buddy,
    /// Memory that is kept for domains to come.
    Extents,
    /// What domains own of devices.
    Devices,
    /// What devices' interrupts are, and which are let through.
    Lines,
}

/// A mutual-exclusion lock of rank `R`, fair: first come, first served.
#[derive(Debug, Default)]
pub struct Lock<T, const R: u32>(TicketMutex<T>);

/// A lock of rank `R` that many may hold for reading.
#[derive(Debug, Default)]
pub struct SharedLock<T, const R: u32>(RwLock<T>);

/// Gives a lock back when it goes out of scope.
#[derive(Debug)]
pub struct Guard<G> {
    guard: G,
    _held: held::Held,
}

impl<G: Deref> Deref for Guard<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for Guard<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

impl<T, const R: u32> Lock<T, R> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(TicketMutex::new(value))
    }

    /// Waits for the lock and takes it.
    pub fn lock(&self) -> Guard<TicketMutexGuard<'_, T>> {
        let held = held::Held::new(R);
        Guard {
            guard: self.0.lock(),
            _held: held,
        }
    }
}

impl<T, const R: u32> SharedLock<T, R> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(RwLock::new(value))
    }

    /// Waits until nobody writes, and takes the lock for reading.
    pub fn read(&self) -> Guard<RwLockReadGuard<'_, T>> {
        let held = held::Held::new(R);
        Guard {
            guard: self.0.read(),
            _held: held,
        }
    }

    /// Waits until nobody reads or writes, and takes the lock for writing.
    pub fn write(&self) -> Guard<RwLockWriteGuard<'_, T>> {
        let held = held::Held::new(R);
        Guard {
            guard: self.0.write(),
            _held: held,
        }
    }

    /// As [`SharedLock::write`], while another lock of the same rank is held; the caller has an order among them.
    pub fn write_second(&self) -> Guard<RwLockWriteGuard<'_, T>> {
        let held = held::Held::second(R);
        Guard {
            guard: self.0.write(),
            _held: held,
        }
    }
}

/// Checks, where checks are on, that this CPU holds no lock.
pub fn assert_none_held() {
    held::assert_none();
}

/// Whether this CPU holds a lock; `None` where that is not checked.
#[cfg(any(test, feature = "testing"))]
#[must_use]
pub fn is_any_held() -> Option<bool> {
    held::is_any()
}

/// How to find out which CPU runs, for the checks: [`held::use_cpu_number`].
pub use held::use_cpu_number;

/// The books on which locks a CPU holds, where checks are on.
#[cfg(debug_assertions)]
mod held {
    use core::sync::atomic::{AtomicU32, Ordering};
    use spin::Once;

    const MAX_CPUS: usize = 64;

    /// For each CPU, the ranks that it holds, a bit each; a second one of the same rank is not counted. Only the CPU itself writes
    /// its word.
    static HELD: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

    static CPU_NUMBER: Once<fn() -> usize> = Once::new();

    /// From now on locks are checked; `number` gives the running CPU's number. Without this (as in tests on a host, where threads
    /// come and go) they are not.
    pub fn use_cpu_number(number: fn() -> usize) {
        CPU_NUMBER.call_once(|| number);
    }

    fn word() -> Option<&'static AtomicU32> {
        HELD.get(CPU_NUMBER.get()?())
    }

    /// A lock that is held, or about to be.
    #[derive(Debug)]
    pub(super) struct Held(Option<u32>);

    impl Held {
        pub(super) fn new(rank: u32) -> Self {
            let Some(word) = word() else { return Self(None) };
            let held = word.load(Ordering::Relaxed);
            assert!(
                held >> rank == 0,
                "a lock of rank {rank} is taken while {held:#b} are held"
            );
            word.store(held | 1 << rank, Ordering::Relaxed);
            Self(Some(rank))
        }

        pub(super) fn second(rank: u32) -> Self {
            if let Some(word) = word() {
                let held = word.load(Ordering::Relaxed);
                assert!(
                    held >> rank == 1,
                    "a second lock of rank {rank} is taken while {held:#b} are held"
                );
            }
            Self(None)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            if let (Some(rank), Some(word)) = (self.0, word()) {
                word.fetch_and(!(1 << rank), Ordering::Relaxed);
            }
        }
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn is_any() -> Option<bool> {
        Some(word()?.load(Ordering::Relaxed) != 0)
    }

    pub(super) fn assert_none() {
        if let Some(word) = word() {
            let held = word.load(Ordering::Relaxed);
            assert!(
                held == 0,
                "another CPU is waited for while locks {held:#b} are held"
            );
        }
    }
}

/// Nothing, where checks are off.
#[cfg(not(debug_assertions))]
mod held {
    #[derive(Debug)]
    pub(super) struct Held;

    impl Held {
        pub(super) const fn new(_: u32) -> Self {
            Self
        }

        pub(super) const fn second(_: u32) -> Self {
            Self
        }
    }

    /// Does nothing: locks are not checked in this build.
    pub fn use_cpu_number(_: fn() -> usize) {}

    pub(super) fn assert_none() {}

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn is_any() -> Option<bool> {
        None
    }
}
