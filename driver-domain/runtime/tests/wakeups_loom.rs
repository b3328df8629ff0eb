//! No wake-up is lost between the last look and the sleep, under every interleaving that the memory model
//! permits.
//!
//! What runs here is the runtime's own code: the loop of a waiting vCPU (`executor/idle.rs`), the scan of the
//! event bits (`event/bits.rs`), the lock of critical sections. Around it stands a model of the hypervisor, as
//! the ABI has it: raising a port, and blocking a vCPU. A wake-up that is lost leaves the vCPU blocked for
//! ever, which the model checker reports as a deadlock.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p bulkhead-runtime --test wakeups_loom --release`.
#![cfg(loom)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

#[expect(dead_code, reason = "the model masks no ports")]
#[path = "../src/event/bits.rs"]
mod bits;
#[path = "../src/critical_section.rs"]
mod critical_section;
#[path = "../src/executor/idle.rs"]
mod idle;

/// What the files above call `crate::sync`.
mod sync {
    pub(crate) use loom::{
        hint::spin_loop,
        sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    };
}

use bits::EventBits;
use loom::{
    sync::{Arc, Condvar, Mutex, atomic::fence},
    thread,
};
use sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// A domain with one vCPU: what it shares with the hypervisor, what the hypervisor knows of it, and what its
/// tasks know.
struct Domain {
    upcall_pending: AtomicU8,
    selector: AtomicU64,
    pending: [AtomicU64; 64],
    mask: [AtomicU64; 64],
    /// Whether the hypervisor has blocked the vCPU.
    is_blocked: Mutex<bool>,
    woken: Condvar,
    /// Whether a task was woken.
    ready: AtomicBool,
    /// Which ports have fired that no task has asked for.
    fired: AtomicU64,
    /// What a peer has put where the domain looks when it is notified.
    requests: AtomicU32,
}

impl Domain {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            upcall_pending: AtomicU8::new(0),
            selector: AtomicU64::new(0),
            pending: core::array::from_fn(|_| AtomicU64::new(0)),
            mask: core::array::from_fn(|_| AtomicU64::new(0)),
            is_blocked: Mutex::new(false),
            woken: Condvar::new(),
            ready: AtomicBool::new(false),
            fired: AtomicU64::new(0),
            requests: AtomicU32::new(0),
        })
    }

    /// The hypervisor, on behalf of somebody who notifies the domain: pending bit, selector, upcall-pending;
    /// then it wakes the vCPU, if upcall-pending is news to a vCPU that is blocked.
    fn raise(&self, port: u32) {
        let (word, bit) = (usize::try_from(port / 64).unwrap(), 1 << (port % 64));
        if self.pending[word].fetch_or(bit, Ordering::SeqCst) & bit != 0 {
            return;
        }
        fence(Ordering::SeqCst);
        if self.selector.fetch_or(1 << word, Ordering::SeqCst) & (1 << word) != 0 {
            return;
        }
        if self.upcall_pending.fetch_or(1, Ordering::SeqCst) == 0 {
            fence(Ordering::SeqCst);
            self.wake_vcpu();
        }
    }

    fn wake_vcpu(&self) {
        let mut is_blocked = self.is_blocked.lock().unwrap();
        if core::mem::replace(&mut *is_blocked, false) {
            self.woken.notify_one();
        }
    }

    /// The domain's vCPU goes about its work until `step` has a result.
    fn run<T>(&self, step: impl FnMut() -> Option<T>) -> T {
        idle::run(self, &self.ready, step)
    }

    /// A task that waits for ports: takes note of those that have fired.
    fn take_fired(&self) -> u64 {
        self.fired.swap(0, Ordering::Relaxed)
    }
}

impl idle::Vcpu for Domain {
    fn look(&self) {
        let bits = EventBits {
            upcall_pending: &self.upcall_pending,
            selector: &self.selector,
            pending: &self.pending,
            mask: &self.mask,
        };
        bits.scan(|port| {
            self.fired.fetch_or(1 << (port / 64), Ordering::Relaxed);
            self.ready.store(true, Ordering::Release);
        });
    }

    /// The hypervisor, on behalf of this vCPU: it is blocked first; then a look whether it has to go on.
    fn sleep(&self) {
        *self.is_blocked.lock().unwrap() = true;
        fence(Ordering::SeqCst);
        if self.upcall_pending.load(Ordering::SeqCst) != 0 {
            self.wake_vcpu();
        }
        let mut is_blocked = self.is_blocked.lock().unwrap();
        while *is_blocked {
            is_blocked = self.woken.wait(is_blocked).unwrap();
        }
    }
}

#[test]
fn a_port_raised_at_any_moment_wakes_the_task_that_waits_for_it() {
    loom::model(|| {
        let domain = Domain::new();
        let peer = {
            let domain = domain.clone();
            thread::spawn(move || domain.raise(3))
        };
        assert_eq!(
            domain.run(|| Some(domain.take_fired()).filter(|fired| *fired != 0)),
            1
        );
        peer.join().unwrap();
    });
}

#[test]
fn two_ports_raised_by_two_peers_are_both_seen() {
    // Three threads have too many interleavings. Few mistakes need more than three changes of mind to show.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let domain = Domain::new();
        let peers = [0, 64].map(|port| {
            let domain = domain.clone();
            thread::spawn(move || domain.raise(port))
        });
        let mut seen = 0;
        domain.run(|| {
            seen |= domain.take_fired();
            (seen == 0b11).then_some(())
        });
        for peer in peers {
            peer.join().unwrap();
        }
    });
}

/// Notifications may fall together; what they are about may not be left lying.
#[test]
fn a_request_made_before_a_notification_is_found_after_it() {
    loom::model(|| {
        let domain = Domain::new();
        let peer = {
            let domain = domain.clone();
            thread::spawn(move || {
                for request in 1..=2 {
                    domain.requests.store(request, Ordering::Relaxed);
                    domain.raise(3);
                }
            })
        };
        domain.run(|| {
            let is_told = domain.take_fired() != 0;
            (is_told && domain.requests.load(Ordering::Relaxed) == 2).then_some(())
        });
        peer.join().unwrap();
    });
}

#[test]
fn a_task_that_wakes_itself_runs_again() {
    loom::model(|| {
        let domain = Domain::new();
        let peer = {
            let domain = domain.clone();
            thread::spawn(move || domain.raise(3))
        };
        let mut turns = 0;
        domain.run(|| {
            // Turns from the event on, each of which asks for the next.
            if domain.take_fired() != 0 || turns > 0 {
                turns += 1;
                domain.ready.store(true, Ordering::Release);
            }
            (turns == 3).then_some(())
        });
        peer.join().unwrap();
    });
}

/// How a second vCPU wakes a task of this one: it says so, and then raises a port of this vCPU.
#[test]
fn a_wake_up_from_another_vcpu_is_seen() {
    loom::model(|| {
        let domain = Domain::new();
        let other = {
            let domain = domain.clone();
            thread::spawn(move || {
                domain.requests.store(1, Ordering::Relaxed);
                domain.ready.store(true, Ordering::Release);
                domain.raise(3);
            })
        };
        domain.run(|| (domain.requests.load(Ordering::Relaxed) == 1).then_some(()));
        other.join().unwrap();
    });
}

#[test]
fn critical_sections_of_two_vcpus_exclude_each_other_even_nested() {
    use critical_section::{FREE, enter, leave};

    loom::model(|| {
        let (holder, count) = (Arc::new(AtomicU32::new(FREE)), Arc::new(AtomicU32::new(0)));
        let count_once = {
            let (holder, count) = (holder.clone(), count.clone());
            move |vcpu| {
                let outer = enter(&holder, vcpu);
                let inner = enter(&holder, vcpu);
                assert!(!outer && inner);
                let before = count.load(Ordering::Relaxed);
                leave(&holder, inner);
                // Still inside: nobody else may have counted meanwhile.
                count.store(before + 1, Ordering::Relaxed);
                leave(&holder, outer);
            }
        };
        let other = {
            let count_once = count_once.clone();
            thread::spawn(move || count_once(2))
        };
        count_once(1);
        other.join().unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 2);
    });
}
