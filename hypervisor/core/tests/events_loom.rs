//! No wake-up is lost, under every interleaving that the memory model permits.
//!
//! The hypervisor raises; the guest, in another thread, does what the ABI tells it to do: the upcall's loop, or the
//! unmasking of a port. At the end a port that is pending and not masked must have an upcall pending for it,
//! or the guest would never look.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p bulkhead-core --test events_loom --release`.
#![cfg(loom)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use bulkhead_core::events::Port;
use bulkhead_core::events::bits::{self, FrameWords, SharedInfoView, VcpuInfoView, Wake};
use bulkhead_core::ids::VcpuId;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;

/// The words of `shared_info` that the guest of this test uses: those of vCPU 0 and of ports 0 to 63.
const FLAGS: usize = 0;
const SELECTOR: usize = 1;
const PENDING: usize = 2048 / 8;
const MASK: usize = 2560 / 8;

const UPCALL_PENDING: u64 = 0xff;

struct Guest {
    shared_info: Box<FrameWords>,
}

impl Guest {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            shared_info: Box::new(std::array::from_fn(|_| AtomicU64::new(0))),
        })
    }

    fn shared(&self) -> SharedInfoView<'_> {
        SharedInfoView::new(&self.shared_info)
    }

    fn vcpu_info(&self) -> VcpuInfoView<'_> {
        self.shared().vcpu_info(VcpuId::BOOT).unwrap()
    }

    fn raise(&self, port: u32) -> Wake {
        bits::raise(self.shared(), self.vcpu_info(), Port::new(port).unwrap())
    }

    /// A locked instruction of the guest: on x86 a full barrier, which the model checker has to be told.
    fn locked<T>(&self, word: usize, operation: impl FnOnce(&AtomicU64) -> T) -> T {
        let before = operation(&self.shared_info[word]);
        fence(Ordering::SeqCst);
        before
    }

    /// The upcall as the ABI describes it, once around its loop; returns the ports that it handled.
    fn upcall(&self) -> u64 {
        self.locked(FLAGS, |flags| flags.fetch_and(!UPCALL_PENDING, Ordering::SeqCst));
        if self.locked(SELECTOR, |selector| selector.swap(0, Ordering::SeqCst)) == 0 {
            return 0;
        }
        let shown =
            self.shared_info[PENDING].load(Ordering::SeqCst) & !self.shared_info[MASK].load(Ordering::SeqCst);
        self.locked(PENDING, |pending| pending.fetch_and(!shown, Ordering::SeqCst)) & shown
    }

    /// Unmasks a port as the ABI describes it for a port of the vCPU that runs.
    fn unmask(&self, port: u32) {
        self.locked(MASK, |mask| mask.fetch_and(!(1 << port), Ordering::SeqCst));
        if self.shared_info[PENDING].load(Ordering::SeqCst) & (1 << port) != 0 {
            self.locked(SELECTOR, |selector| selector.fetch_or(1, Ordering::SeqCst));
            self.locked(FLAGS, |flags| flags.fetch_or(1, Ordering::SeqCst));
        }
    }

    /// What would be lost: ports that are pending and not masked, while nothing makes the guest look.
    fn forgotten(&self) -> u64 {
        let word = |index: usize| self.shared_info[index].load(Ordering::SeqCst);
        let looks = word(FLAGS) & UPCALL_PENDING != 0 && word(SELECTOR) & 1 != 0;
        if looks { 0 } else { word(PENDING) & !word(MASK) }
    }
}

#[test]
fn a_raise_during_the_upcall_is_handled_or_makes_another_upcall() {
    loom::model(|| {
        let guest = Guest::new();
        let _first = guest.raise(1);
        let hypervisor = {
            let guest = guest.clone();
            thread::spawn(move || guest.raise(2))
        };
        let mut handled = guest.upcall();
        let wake = hypervisor.join().unwrap();
        assert_ne!(wake, Wake::Nobody, "port 2 was not pending before");
        assert_eq!(guest.forgotten(), 0);
        handled |= guest.upcall();
        assert_eq!(handled, 0b110);
    });
}

#[test]
fn a_raise_of_a_port_that_is_being_handled_is_handled_again_or_before() {
    loom::model(|| {
        let guest = Guest::new();
        let _first = guest.raise(1);
        let hypervisor = {
            let guest = guest.clone();
            thread::spawn(move || guest.raise(1))
        };
        assert_eq!(guest.upcall(), 0b10);
        let wake = hypervisor.join().unwrap();
        assert_eq!(guest.forgotten(), 0);
        // If the port had been handled before the second raise, the raise was a new edge, and is handled too.
        assert_eq!(guest.upcall(), if wake == Wake::Nobody { 0 } else { 0b10 });
    });
}

#[test]
fn a_raise_during_the_guest_s_own_unmask_is_not_forgotten() {
    loom::model(|| {
        let guest = Guest::new();
        guest.shared_info[MASK].store(1 << 3, Ordering::SeqCst);
        let hypervisor = {
            let guest = guest.clone();
            thread::spawn(move || guest.raise(3))
        };
        guest.unmask(3);
        let _wake = hypervisor.join().unwrap();
        assert_eq!(guest.forgotten(), 0);
        assert_eq!(guest.upcall(), 1 << 3);
    });
}

#[test]
fn a_raise_during_the_hypervisor_s_unmask_is_not_forgotten_and_wakes_the_vcpu_once() {
    loom::model(|| {
        let guest = Guest::new();
        guest.shared_info[MASK].store(1 << 3, Ordering::SeqCst);
        let raiser = {
            let guest = guest.clone();
            thread::spawn(move || guest.raise(3))
        };
        let unmasked = bits::unmask(guest.shared(), guest.vcpu_info(), Port::new(3).unwrap());
        let raised = raiser.join().unwrap();
        assert_eq!(guest.forgotten(), 0);
        let wakes = [unmasked, raised]
            .iter()
            .filter(|&&wake| wake == Wake::Vcpu)
            .count();
        assert_eq!(wakes, 1, "unmask: {unmasked:?}, raise: {raised:?}");
        assert_eq!(guest.upcall(), 1 << 3);
    });
}

#[test]
fn two_raisers_at_once_lose_nothing_and_wake_the_vcpu_once() {
    loom::model(|| {
        let guest = Guest::new();
        let other = {
            let guest = guest.clone();
            thread::spawn(move || guest.raise(1))
        };
        let wakes = [guest.raise(2), other.join().unwrap()];
        assert_eq!(
            wakes.iter().filter(|&&wake| wake == Wake::Vcpu).count(),
            1,
            "{wakes:?}"
        );
        assert_eq!(guest.forgotten(), 0);
        assert_eq!(guest.upcall(), 0b110);
    });
}

#[test]
fn a_vcpu_that_blocks_during_a_raise_is_awake_or_woken() {
    loom::model(|| {
        let guest = Guest::new();
        let blocked = Arc::new(AtomicU64::new(0));
        let raiser = {
            let (guest, blocked) = (guest.clone(), blocked.clone());
            thread::spawn(move || guest.raise(1) == Wake::Vcpu && blocked.load(Ordering::SeqCst) == 1)
        };
        // The one who blocks it, as `bits` asks: mark, then look.
        blocked.swap(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let stays_awake = guest.vcpu_info().upcall_wanted();
        let woken = raiser.join().unwrap();
        assert!(stays_awake || woken);
    });
}
