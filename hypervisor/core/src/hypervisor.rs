//! The hypervisor whole: all modules tied together, and the doors through which the machine layer comes in.

use crate::domains::boot_list::{Entry, MAX_VCPUS};
use crate::domains::builder::{self, BuildError};
use crate::domains::{Claim, Domain, DomainTable, Shell};
use crate::events::GlobalVirqs;
use crate::events::bits::{self, SharedInfoView, VcpuInfoView, Wake};
use crate::events::{Raise, Target};
use crate::ids::{CpuId, VcpuId};
use crate::irq::Lines;
use crate::lock::{Lock, Rank};
use crate::machine::{Machine, Outcome, Trace};
use crate::memory::Memory;
use crate::pci::Functions;
use crate::sched::{Board, CpuSet};
use crate::schedule::{Queue, Rest};
use crate::stretch::{Longest, Stretch};
use crate::try_box::TryBox;
use crate::vcpu::{Context, InfoPlace, Mode, Vcpu};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bulkhead_abi::DomId;
use bulkhead_abi::event::Virq;
use bulkhead_abi::sched::ShutdownReason;
use core::sync::atomic::{AtomicBool, Ordering};

/// When the machine stops by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndPolicy {
    /// When the control domain leaves, or no domain is left: if the control domain crashes, the others run on.
    ControlDomain,
    /// When no domain is left.
    LastDomain,
}

/// All of it.
#[derive(Debug)]
pub struct Hypervisor<M> {
    pub(crate) memory: Memory<M>,
    pub(crate) domains: DomainTable,
    pub(crate) cpus: Box<[Shared]>,
    pub(crate) board: Board,
    pub(crate) global_virqs: Lock<GlobalVirqs, { Rank::GlobalVirqs as u32 }>,
    /// The functions on PCI buses.
    pub(crate) functions: Lock<Functions, { Rank::Functions as u32 }>,
    /// The interrupts of devices.
    pub(crate) lines: Lock<Lines, { Rank::Lines as u32 }>,
    end_policy: EndPolicy,
    has_crashed: AtomicBool,
}

/// What other CPUs may touch of a physical CPU's state.
#[derive(Debug, Default)]
pub struct Shared {
    /// Who waits to run there, and what is due.
    pub(crate) queue: Lock<Queue, { Rank::RunQueue as u32 }>,
    /// Whether it should look at its queue again before it goes on with its guest.
    pub(crate) must_schedule: AtomicBool,
    /// The longest that it was away from guests without looking up.
    pub(crate) longest: Longest,
}

/// What a physical CPU alone touches: which vCPU it runs.
#[derive(Debug, Default)]
pub struct Cpu {
    id: CpuId,
    pub(crate) current: Option<Current>,
    /// Since when the hypervisor works without looking up.
    pub(crate) stretch: Stretch,
}

/// The vCPU that a CPU runs, with its state.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) domain: Arc<Domain>,
    pub(crate) vcpu: VcpuId,
    pub(crate) context: TryBox<Context>,
    /// What it wants to do instead of running on.
    pub(crate) rest: Option<Rest>,
}

impl Cpu {
    /// A CPU that has run nothing yet.
    #[must_use]
    pub const fn new(id: CpuId) -> Self {
        Self {
            id,
            current: None,
            stretch: Stretch::new(),
        }
    }

    /// Its number.
    #[must_use]
    pub const fn id(&self) -> CpuId {
        self.id
    }

    /// The state of the vCPU that it runs, for the entry code. `None` if there is none, or if its next return from a handler concerns the
    /// hypervisor, so that the entry code must not see to it.
    #[inline]
    pub fn context(&mut self) -> Option<*mut Context> {
        let context = &mut self.current.as_mut()?.context;
        (!context.is_in_nmi).then_some(&raw mut **context)
    }

    /// Whether the hypervisor has taken over from a guest, and not yet let one go on.
    #[must_use]
    pub const fn is_at_work(&self) -> bool {
        self.stretch.runs()
    }

    /// Which half of its guest it runs.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        self.current.as_ref().map(|current| current.context.mode)
    }

    /// The domain and vCPU that it runs.
    #[must_use]
    pub fn running(&self) -> Option<(DomId, VcpuId)> {
        self.current
            .as_ref()
            .map(|current| (current.domain.id, current.vcpu))
    }
}

impl Current {
    pub(crate) fn vcpu(&self) -> Option<&Vcpu> {
        self.domain.vcpu(self.vcpu)
    }
}

impl<M: Machine> Hypervisor<M> {
    /// A hypervisor with no domains, for `cpus` physical CPUs; `None` if there is no memory for its tables.
    #[must_use]
    pub fn new(memory: Memory<M>, cpus: usize, end_policy: EndPolicy) -> Option<Self> {
        let mut shared = Vec::new();
        shared.try_reserve_exact(cpus).ok()?;
        shared.resize_with(cpus, Shared::default);
        Some(Self {
            memory,
            domains: DomainTable::new()?,
            cpus: shared.into_boxed_slice(),
            board: Board::new(),
            global_virqs: Lock::new(GlobalVirqs::new(DomId::new(0))),
            functions: Lock::new(Functions::new()),
            lines: Lock::new(Lines::new()),
            end_policy,
            has_crashed: AtomicBool::new(false),
        })
    }

    /// The hardware.
    pub fn machine(&self) -> &M {
        self.memory.machine()
    }

    /// The machine's memory.
    pub fn memory(&self) -> &Memory<M> {
        &self.memory
    }

    /// The domain with this number.
    #[must_use]
    pub fn domain(&self, id: DomId) -> Option<Arc<Domain>> {
        self.domains.get(id)
    }

    /// Makes a domain with the number `id`. It does not run before it is [unpaused](Self::unpause).
    ///
    /// # Errors
    ///
    /// See [`BuildError`]; nothing is left behind then.
    pub fn create_domain(
        &self,
        id: DomId,
        entry: &Entry<'_>,
        kernel: &[u8],
        ramdisk: Option<&[u8]>,
    ) -> Result<(), BuildError> {
        let claim = self.domains.claim(id).ok_or(BuildError::NumberTaken)?;
        let domain = self.enter_domain(claim, (entry.vcpus, entry.affinity), |memory| {
            builder::build(memory, id, entry, kernel, ramdisk)
        })?;
        self.reserve_ports(id, &domain.ports);
        if let Some(vcpu) = domain.vcpus.first() {
            // Its state came with it, so it can be started.
            let _ = self.bring_up(&domain, vcpu);
        }
        Ok(())
    }

    /// Whether there is a domain with this number.
    pub fn has_domain(&self, id: DomId) -> bool {
        self.domains.get(id).is_some()
    }

    /// Makes a domain that has no memory, and does not run.
    ///
    /// # Errors
    ///
    /// As [`Shell::make`], and [`BuildError::NoCpu`]; nothing is left behind then.
    pub(crate) fn make_domain(&self, claim: Claim<'_>, shell: &Shell<'_>) -> Result<(), BuildError> {
        let id = claim.id();
        self.enter_domain(claim, (shell.vcpus, shell.share.affinity), |memory| {
            shell.make(memory, id)
        })?;
        Ok(())
    }

    /// Lets a domain of so many vCPUs, which may run there, into the table, paused.
    fn enter_domain(
        &self,
        claim: Claim<'_>,
        (vcpus, affinity): (u32, CpuSet),
        make: impl FnOnce(&Memory<M>) -> Result<Domain, BuildError>,
    ) -> Result<Arc<Domain>, BuildError> {
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            return Err(BuildError::Vcpus(vcpus));
        }
        self.board.choose(affinity, None).ok_or(BuildError::NoCpu)?;
        self.reserve(vcpus as usize)?;
        let domain = Arc::new(make(&self.memory).inspect_err(|_| self.unreserve(vcpus as usize))?);
        self.pause(&domain);
        // There is room: it has been reserved.
        let enrolled = self.enrol(&domain);
        debug_assert!(enrolled.is_ok(), "{enrolled:?}");
        claim.fill(Arc::clone(&domain));
        Ok(domain)
    }

    /// Makes room for `vcpus` more vCPUs on every CPU: any of them may come there, and set its timers there.
    fn reserve(&self, vcpus: usize) -> Result<(), BuildError> {
        let has_room = |shared: &Shared| shared.queue.lock().reserve(vcpus);
        let Some(full) = self.cpus.iter().position(|shared| !has_room(shared)) else {
            return Ok(());
        };
        for shared in self.cpus.iter().take(full) {
            shared.queue.lock().unreserve(vcpus);
        }
        Err(BuildError::NoHeap)
    }

    /// Takes back what [`Hypervisor::reserve`] made, for vCPUs that there will not be.
    pub(crate) fn unreserve(&self, vcpus: usize) {
        for shared in &self.cpus {
            shared.queue.lock().unreserve(vcpus);
        }
    }

    /// Raises a port. The lock of the event table that gave `raise` is still held.
    pub(crate) fn deliver(&self, domain: &Domain, raise: Raise) {
        let Some(vcpu) = domain.vcpu(raise.vcpu) else {
            return;
        };
        self.memory.machine().trace(
            Trace::Send,
            u64::from(domain.id.raw()),
            u64::from(raise.port.raw()),
        );
        let shared = self.memory.machine().frame(domain.shared_info);
        let wake = self.with_info(vcpu, |info| {
            bits::raise(SharedInfoView::new(&shared), info, raise.port)
        });
        self.wake(domain, vcpu, wake.unwrap_or(Wake::Nobody));
    }

    /// Passes on what the event bits ask for.
    pub(crate) fn wake(&self, domain: &Domain, vcpu: &Vcpu, wake: Wake) {
        match wake {
            Wake::Nobody => return,
            Wake::Pollers => {}
            Wake::Vcpu => self.wake_vcpu(domain, vcpu),
        }
        for poller in domain.vcpus.iter().filter(|vcpu| vcpu.is_polling()) {
            self.wake_vcpu(domain, poller);
        }
    }

    /// Shows `vcpu`'s `vcpu_info` to `look`.
    pub(crate) fn with_info<T>(&self, vcpu: &Vcpu, look: impl FnOnce(VcpuInfoView<'_>) -> T) -> Option<T> {
        self.with_info_at(vcpu.info(), look)
    }

    /// Shows the `vcpu_info` of the vCPU that this CPU runs to `look`.
    #[inline]
    pub(crate) fn with_own_info<T>(
        &self,
        current: &Current,
        look: impl FnOnce(VcpuInfoView<'_>) -> T,
    ) -> Option<T> {
        self.with_info_at(InfoPlace::at(current.context.info), look)
    }

    #[inline]
    fn with_info_at<T>(&self, place: InfoPlace, look: impl FnOnce(VcpuInfoView<'_>) -> T) -> Option<T> {
        let frame = self.memory.machine().frame(place.frame);
        VcpuInfoView::new(&frame, usize::from(place.word).saturating_mul(8)).map(look)
    }

    /// Raises a virtual interrupt of a vCPU, if its domain listens.
    pub(crate) fn raise_virq(&self, domain: &Domain, vcpu: VcpuId, virq: Virq) {
        let events = domain.events.read();
        if let Some(raise) = events.virq(virq, vcpu) {
            self.deliver(domain, raise);
        }
    }

    /// Delivers what a send on a port of `domain` brings about.
    pub(crate) fn send(
        &self,
        domain: &Domain,
        port: crate::events::Port,
    ) -> Result<(), crate::events::EventError> {
        let events = domain.events.read();
        match events.send(port)? {
            Target::Own(raise) => self.deliver(domain, raise),
            Target::Nobody => {}
            Target::Peer {
                domain: peer,
                delivery,
            } => {
                // One lock at a time: the peer's table says whether it is still connected to us.
                drop(events);
                if let Some(peer) = self.domains.get(peer) {
                    let events = peer.events.read();
                    if let Some(raise) = events.receive(delivery) {
                        self.deliver(&peer, raise);
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends a domain. Its vCPUs stop; its memory stays as it is.
    pub(crate) fn shut_down(&self, domain: &Domain, reason: ShutdownReason) {
        if !domain.lifecycle.lock().shut_down(reason) {
            return;
        }
        self.memory.machine().trace(
            Trace::Shutdown,
            u64::from(domain.id.raw()),
            u64::from(reason.raw()),
        );
        self.end_watchdogs(domain);
        for vcpu in &domain.vcpus {
            self.stop_vcpu(domain, vcpu);
        }
        match reason {
            ShutdownReason::Crash | ShutdownReason::Watchdog => {
                self.has_crashed.store(true, Ordering::Relaxed);
                log::error!("domain {} ({}) is gone: {reason}", domain.id.raw(), domain.name);
                if domain.is_control() && self.domains.iter().any(|other| other.can_run()) {
                    log::error!("nobody is in control; the other domains run on until the machine is reset");
                }
            }
            ShutdownReason::Poweroff
            | ShutdownReason::Reboot
            | ShutdownReason::Suspend
            | ShutdownReason::SoftReset => {
                log::info!("domain {} ({}): {reason}", domain.id.raw(), domain.name)
            }
        }
        self.raise_global(Virq::DomExc);
        self.stop_if_over();
    }

    pub(crate) fn stop_if_over(&self) {
        let life_of = |domain: &Domain| *domain.lifecycle.lock();
        // Without a control domain nobody lets those run that do not.
        let nothing_runs = || self.domains.iter().all(|domain| !domain.can_run());
        let is_over = match self.end_policy {
            EndPolicy::ControlDomain => self.domains.get(DomId::new(0)).is_some_and(|control| {
                let life = life_of(&control);
                life.has_left() || life.has_ended() && nothing_runs()
            }),
            EndPolicy::LastDomain => self.domains.iter().all(|domain| life_of(&domain).has_ended()),
        };
        if is_over {
            let crashed = self.has_crashed.load(Ordering::Relaxed);
            self.memory.machine().stop(if crashed {
                Outcome::DomainCrashed
            } else {
                Outcome::Clean
            });
        }
    }

    /// The operator has typed something: tells the domain that reads it.
    pub fn console_input(&self) {
        self.raise_global(Virq::Console);
    }

    /// Raises a virtual interrupt that tells about the whole machine, at whoever handles it.
    pub(crate) fn raise_global(&self, virq: Virq) {
        let handler = self.global_virqs.lock().handler(virq);
        if let Some(domain) = handler.and_then(|id| self.domains.get(id)) {
            self.raise_virq(&domain, VcpuId::BOOT, virq);
        }
    }
}
