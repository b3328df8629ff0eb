//! Virtual CPUs: what a guest processor is, whether it runs or rests on a shelf.
//!
//! - [`Vcpu`] is what others may see of it at any time: where its `vcpu_info` lies.
//! - [`Context`] is everything that is needed to run it. It belongs to whoever runs the vCPU: it lies in the
//!   [`Vcpu`] while nobody does, and a CPU takes it out for as long as it does. There is no lock to take while a guest runs, and no
//!   way to change a running vCPU's state from elsewhere.
//! - [`bounce`] works out what a guest kernel finds on its stack when a trap or an event is handed to it.
//!
//! The law: nothing that a guest registers can raise its privilege. Addresses and selectors are checked when they are
//! given, so that what stands in a [`Context`] can be used as it is.

pub mod bounce;
mod context;
mod regs;

pub use context::{Callback, Context, Mode, Segments, Traps, is_entry_point};
pub use regs::Regs;

use crate::frames::Mfn;
use crate::ids::{CpuId, VcpuId};
use crate::try_box::TryBox;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::mutex::TicketMutex;

/// One virtual CPU, as the rest of the hypervisor sees it.
#[derive(Debug)]
pub struct Vcpu {
    /// Its number in its domain.
    pub id: VcpuId,
    /// The physical CPU whose run queue it is on.
    home: AtomicU64,
    /// Where its `vcpu_info` lies: frame number, and index of the first word in the frame.
    info: AtomicU64,
    /// What the scheduler knows of it; changed only under the lock of its home's run queue.
    run: AtomicU64,
    /// Whether it waits for a port to become pending, masked or not.
    polling: AtomicBool,
    /// Its state, while no CPU runs it.
    parked: TicketMutex<Option<TryBox<Context>>>,
}

/// What the scheduler does with a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Nothing: it has not been started, or its domain has ended.
    Offline = 0,
    /// It waits for an event.
    Blocked = 1,
    /// It waits for its turn.
    Runnable = 2,
    /// A CPU runs it.
    Running = 3,
}

/// Where a vCPU's `vcpu_info` record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoPlace {
    /// The frame.
    pub frame: Mfn,
    /// The record's first word in the frame; a multiple of eight words is not required.
    pub word: u16,
}

impl Vcpu {
    /// A vCPU that has never run. Its state is still to come: [`Vcpu::park`].
    #[must_use]
    pub const fn new(id: VcpuId, home: CpuId, info: InfoPlace) -> Self {
        Self {
            id,
            home: AtomicU64::new(home.raw() as u64),
            info: AtomicU64::new(pack_info(info)),
            run: AtomicU64::new(Run::Offline as u64),
            polling: AtomicBool::new(false),
            parked: TicketMutex::new(None),
        }
    }

    /// What the scheduler does with it at this moment.
    #[must_use]
    pub fn run(&self) -> Run {
        match self.run.load(Ordering::SeqCst) {
            1 => Run::Blocked,
            2 => Run::Runnable,
            3 => Run::Running,
            _ => Run::Offline,
        }
    }

    /// Changes what the scheduler does with it. Only under the lock of its home's run queue.
    ///
    /// Sequentially consistent: who blocks asks for pending events afterwards, and who raises an event looks here
    /// afterwards; one of them sees the other.
    pub(crate) fn set_run(&self, run: Run) {
        self.run.store(run as u64, Ordering::SeqCst);
    }

    /// Whether it waits for a port to become pending. Sequentially consistent, as [`Vcpu::set_run`].
    pub(crate) fn is_polling(&self) -> bool {
        self.polling.load(Ordering::SeqCst)
    }

    /// Says whether it waits for a port to become pending.
    pub(crate) fn set_polling(&self, polling: bool) {
        self.polling.store(polling, Ordering::SeqCst);
    }

    /// Where its `vcpu_info` lies now.
    #[must_use]
    pub fn info(&self) -> InfoPlace {
        let word = self.info.load(Ordering::Acquire);
        InfoPlace {
            frame: Mfn::from_maddr(word >> 9 << 12),
            word: u16::try_from(word & 0x1ff).unwrap_or(0),
        }
    }

    /// The CPU whose run queue it is on.
    #[must_use]
    pub fn home(&self) -> CpuId {
        CpuId::new(u32::try_from(self.home.load(Ordering::Acquire)).unwrap_or(0))
    }

    /// Takes the state out, to run it. `None` if another CPU has it, or it has none yet.
    pub fn unpark(&self) -> Option<TryBox<Context>> {
        self.parked.lock().take()
    }

    /// Puts the state back.
    pub fn park(&self, context: TryBox<Context>) {
        *self.parked.lock() = Some(context);
    }
}

const fn pack_info(info: InfoPlace) -> u64 {
    info.frame.raw() << 9 | (info.word & 0x1ff) as u64
}
