//! Virtual CPUs: what a guest processor is, whether it runs or rests on a shelf.
//!
//! - [`Vcpu`] is what others may see of it at any time: where its `vcpu_info` lies.
//! - [`Context`] is everything that is needed to run it. It belongs to whoever runs the vCPU: it lies in the
//!   [`Vcpu`] while nobody does, and a CPU takes it out for as long as it does. There is no lock to take while a guest runs, and no
//!   way to change a running vCPU's state from elsewhere.
//! - [`History`] is its virtual time: when it ran, waited and slept.
//! - [`bounce`] works out what a guest kernel finds on its stack when a trap or an event is handed to it.
//!
//! The law: nothing that a guest registers can raise its privilege. Addresses and selectors are checked when they are
//! given, so that what stands in a [`Context`] can be used as it is.

pub mod area;
pub mod bounce;
mod context;
pub(crate) mod debug;
pub mod descriptors;
pub(crate) mod fpu;
pub mod gates;
pub mod initial;
pub mod meter;
pub mod offsets;
mod regs;
mod report;
mod roots;
mod runstate;

pub use area::Area;
pub use context::{Base, Callback, Context, Mode, Segments, Sysenter, Traps, is_entry_point};
pub use debug::{Breakpoints, DebugRegisters};
pub use fpu::{Fpu, FpuState};
pub use gates::Gates;
pub use meter::{Meter, Spent};
pub use regs::{Regs, flags};
pub use roots::Roots;
pub use runstate::History;

use crate::frames::Mfn;
use crate::ids::{CpuId, VcpuId};
use crate::lock::{Lock, Rank};
use crate::sched::{CpuSet, Share};
use crate::time::Purpose;
use crate::try_box::TryBox;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Whether a vCPU may run.
///
/// ```text
/// Blank ──initialise──> Down <──up, down──> Up
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// It has no state yet: its guest must give it one.
    Blank,
    /// It has a state, and no time.
    Down,
    /// It runs when it has something to do.
    Up,
}

/// One virtual CPU, as the rest of the hypervisor sees it.
#[derive(Debug)]
pub struct Vcpu {
    /// Its number in its domain.
    pub id: VcpuId,
    /// The physical CPU whose run queue it is on.
    home: AtomicU64,
    /// Where its `vcpu_info` lies: frame number, and index of the first word in the frame.
    info: AtomicU64,
    /// The CPU that has its page tables loaded: the number plus one, or zero.
    loaded_on: AtomicU32,
    /// Whether it may run: a [`Standing`].
    standing: AtomicU8,
    /// Whether its domain is paused.
    held: AtomicBool,
    /// Whether it is to run when its domain is paused no longer: it could have run on, or was woken meanwhile.
    resumes: AtomicBool,
    /// Whether it was woken since it last decided to block.
    woken: AtomicBool,
    /// For each purpose, on which CPU's list its deadline is: the number plus one, or zero.
    deadline_cpus: [AtomicU32; Purpose::ALL.len()],
    /// Where its time went, up to when its CPU last chose whom to run.
    spent: [AtomicU64; 3],
    /// The only CPU that it may run on: the number plus one; or zero, if its domain's share says where.
    pin: AtomicU32,
    /// Whether a non-maskable interrupt is pending.
    nmi: AtomicBool,
    /// Whether it waits for a port to become pending, masked or not.
    polling: AtomicBool,
    /// Its state, while no CPU runs it.
    parked: Lock<Option<TryBox<Context>>, { Rank::Parked as u32 }>,
    /// Where its domain wants to read how it spends its time.
    pub(crate) runstate_area: Lock<Option<RunstateArea>, { Rank::RunstateArea as u32 }>,
    /// Where its clock is shown, beside its `vcpu_info`.
    pub(crate) clock: Lock<ShownClock, { Rank::ClockArea as u32 }>,
    /// What it does, and since when.
    pub(crate) history: Lock<History, { Rank::Runstate as u32 }>,
}

/// Where a [`RunstateInfo`](bulkhead_abi::vcpu::RunstateInfo) is kept up to date.
pub type RunstateArea = Area<6>;

/// Where a copy of a [`VcpuTimeInfo`](bulkhead_abi::shared_info::VcpuTimeInfo) is kept up to date.
pub type ClockArea = Area<4>;

/// How a vCPU's clock is shown.
#[derive(Debug)]
pub(crate) struct ShownClock {
    /// The version that was shown last. It is ours alone, whatever the guest writes over it.
    pub(crate) version: u32,
    /// Where the domain wants a copy.
    pub(crate) area: Option<ClockArea>,
}

/// Where a vCPU's `vcpu_info` record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoPlace {
    /// The frame.
    pub frame: Mfn,
    /// The record's first word in the frame; a multiple of eight words is not required.
    pub word: u16,
}

impl InfoPlace {
    /// The place at machine address `maddr`, a multiple of eight.
    #[must_use]
    pub fn at(maddr: u64) -> Self {
        Self {
            frame: Mfn::from_maddr(maddr),
            word: u16::try_from(maddr >> 3 & 0x1ff).unwrap_or(0),
        }
    }

    /// The machine address of the record.
    #[must_use]
    pub const fn maddr(self) -> u64 {
        self.frame.maddr() | (self.word as u64) << 3
    }
}

impl Vcpu {
    /// A vCPU that is made `now` and has never run. Its state is still to come: [`Vcpu::park`].
    #[must_use]
    pub const fn new(id: VcpuId, info: InfoPlace, now: u64) -> Self {
        Self {
            id,
            home: AtomicU64::new(0),
            info: AtomicU64::new(pack_info(info)),
            loaded_on: AtomicU32::new(0),
            standing: AtomicU8::new(Standing::Blank as u8),
            held: AtomicBool::new(false),
            resumes: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            deadline_cpus: [const { AtomicU32::new(0) }; Purpose::ALL.len()],
            spent: [const { AtomicU64::new(0) }; 3],
            pin: AtomicU32::new(0),
            nmi: AtomicBool::new(false),
            polling: AtomicBool::new(false),
            parked: Lock::new(None),
            runstate_area: Lock::new(None),
            clock: Lock::new(ShownClock {
                version: 0,
                area: None,
            }),
            history: Lock::new(History::new(now)),
        }
    }

    /// Whether it may run.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.standing.load(Ordering::SeqCst) {
            up if up == Standing::Up as u8 => Standing::Up,
            down if down == Standing::Down as u8 => Standing::Down,
            _ => Standing::Blank,
        }
    }

    /// Says whether it may run. Under its domain's lifecycle lock, or when that has ended.
    pub(crate) fn set_standing(&self, standing: Standing) {
        self.standing.store(standing as u8, Ordering::SeqCst);
    }

    /// Whether it has been started and not stopped.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.standing() == Standing::Up
    }

    /// Whether it may have a CPU: it is up, and its domain is not paused.
    pub(crate) fn may_run(&self) -> bool {
        self.is_up() && !self.is_held()
    }

    /// Whether its domain is paused.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// Says whether its domain is paused. Under its domain's lifecycle lock.
    pub(crate) fn set_held(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    /// Notes that it could run if its domain were not paused. Under the lock of its queue.
    pub(crate) fn resume_later(&self) {
        if self.is_held() {
            self.resumes.store(true, Ordering::SeqCst);
        }
    }

    /// Whether it could have run since its domain was paused; asked once.
    pub(crate) fn take_resumes(&self) -> bool {
        self.resumes.swap(false, Ordering::SeqCst)
    }

    /// Whether some CPU has its state: it runs, or has not left its CPU yet.
    pub(crate) fn is_away(&self) -> bool {
        self.standing() != Standing::Blank && self.parked.lock().is_none()
    }

    /// Whether it was woken since it last decided to block. Sequentially consistent: who raises an event sets its bits,
    /// then this; who blocks clears this, then looks at the bits, and at this again at the switch.
    pub(crate) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }

    /// Says whether it was woken.
    pub(crate) fn set_woken(&self, woken: bool) {
        self.woken.store(woken, Ordering::SeqCst);
    }

    /// The CPU that it has asked to stay on.
    pub(crate) fn pin(&self) -> Option<CpuId> {
        self.pin.load(Ordering::Relaxed).checked_sub(1).map(CpuId::new)
    }

    /// Notes that. Under the lock of its domain's share.
    pub(crate) fn set_pin(&self, cpu: Option<CpuId>) {
        let cpu = cpu.map_or(0, |cpu| cpu.raw().saturating_add(1));
        self.pin.store(cpu, Ordering::Relaxed);
    }

    /// Its part of its domain's share.
    pub(crate) fn part_of(&self, share: Share) -> Share {
        Share {
            affinity: self
                .pin()
                .filter(|_| !mutant!(PinIgnored))
                .map_or(share.affinity, CpuSet::only),
            ..share
        }
    }

    /// Whether a non-maskable interrupt is pending. Sequentially consistent, as [`Vcpu::is_woken`], and for the same reason.
    pub(crate) fn has_nmi(&self) -> bool {
        self.nmi.load(Ordering::SeqCst)
    }

    /// Says whether a non-maskable interrupt is pending, and whether one was.
    pub(crate) fn swap_nmi(&self, pending: bool) -> bool {
        self.nmi.swap(pending, Ordering::SeqCst)
    }

    /// On which CPU's list its deadline for `purpose` is.
    pub(crate) fn deadline_cpu(&self, purpose: Purpose) -> Option<CpuId> {
        let cpu = self.deadline_cpus.get(purpose as usize)?.load(Ordering::Relaxed);
        cpu.checked_sub(1).map(CpuId::new)
    }

    /// Notes on which CPU's list its deadline for `purpose` is. The CPU that runs it sets deadlines, and, under its domain's lifecycle lock, whoever
    /// sets its periodic timer, or a watchdog of the domain's.
    pub(crate) fn set_deadline_cpu(&self, purpose: Purpose, cpu: Option<CpuId>) {
        if let Some(place) = self.deadline_cpus.get(purpose as usize) {
            place.store(
                cpu.map_or(0, |cpu| cpu.raw().saturating_add(1)),
                Ordering::Relaxed,
            );
        }
    }

    /// Where its time went, in ticks of the time-stamp counter, up to when its CPU last chose whom to run.
    #[must_use]
    pub fn spent(&self) -> Spent {
        [&self.spent[0], &self.spent[1], &self.spent[2]].map(|ticks| ticks.load(Ordering::Relaxed))
    }

    /// Makes its times known.
    pub(crate) fn publish_meter(&self, meter: &Meter) {
        for (place, ticks) in self.spent.iter().zip(meter.spent()) {
            place.store(ticks, Ordering::Relaxed);
        }
    }

    /// Whether it waits for a port to become pending. Sequentially consistent, as [`Vcpu::is_woken`].
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

    /// Moves its `vcpu_info`. Under the write lock of its domain's events, so that none is raised at the old place.
    pub(crate) fn set_info(&self, info: InfoPlace) {
        // Release pairs with the Acquire in `info`: who finds the new place finds what was copied to it.
        self.info.store(pack_info(info), Ordering::Release);
    }

    /// The CPU that has its page tables loaded, and may remember translations by them.
    #[must_use]
    pub fn loaded_on(&self) -> Option<CpuId> {
        // SeqCst: whoever asks for a flush has changed tables before; who loads them says so before it reads them.
        let cpu = self.loaded_on.load(Ordering::SeqCst);
        cpu.checked_sub(1).map(CpuId::new)
    }

    /// Notes which CPU has its page tables loaded: before it does, and after it has loaded others.
    pub(crate) fn set_loaded_on(&self, cpu: Option<CpuId>) {
        let cpu = cpu.map_or(0, |cpu| cpu.raw().saturating_add(1));
        self.loaded_on.store(cpu, Ordering::SeqCst);
    }

    /// The CPU whose run queue it is on.
    #[must_use]
    pub fn home(&self) -> CpuId {
        CpuId::new(u32::try_from(self.home.load(Ordering::Acquire)).unwrap_or(0))
    }

    /// Notes that it is on the run queue of `cpu` now. Only under that queue's lock.
    pub(crate) fn set_home(&self, cpu: CpuId) {
        self.home.store(u64::from(cpu.raw()), Ordering::Release);
    }

    /// Takes the state out, to run it. `None` if another CPU has it, or it has none yet.
    pub fn unpark(&self) -> Option<TryBox<Context>> {
        self.parked.lock().take()
    }

    /// Shows the state to `look`, while no CPU has it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Context) -> T) -> Option<T> {
        self.parked.lock().as_deref().map(look)
    }

    /// Puts the state back.
    pub fn park(&self, context: TryBox<Context>) {
        *self.parked.lock() = Some(context);
    }
}

const fn pack_info(info: InfoPlace) -> u64 {
    info.frame.raw() << 9 | (info.word & 0x1ff) as u64
}
