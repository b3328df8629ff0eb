//! A hypervisor on a simulated machine, and the part of its guests: whoever calls plays them.

use super::asked::Asked;
use super::bases::{self, Bases, Known};
use super::paths::{Fate, fate, fault_name};
use super::tally::{Ending, Tally};
use super::{Sim, SimConfig, TestKernel};
use crate::domains::boot_list::{self, Entry};
use crate::domains::builder::BuildError;
use crate::domains::{Domain, Visit};
use crate::hypervisor::{Cpu, Current, EndPolicy, Hypervisor};
use crate::ids::{CpuId, VcpuId};
use crate::invariants::registers;
use crate::irq::{Gsi, Pirq};
use crate::machine::Machine;
use crate::pci::FunctionId;
use crate::ports::PortSet;
use crate::sched::CpuSet;
use crate::traps::Exception;
use crate::vcpu::{Mode, Regs, Segments, Sysenter, Vcpu};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bulkhead_abi::errno::Failure;
use bulkhead_abi::start_info::StartInfo;
use bulkhead_abi::trap::Vector;
use bulkhead_abi::vcpu::VcpuOp;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall, selectors};
use core::ops::{Deref, DerefMut};
use spin::{Mutex, MutexGuard};

/// What a domain is made from.
#[derive(Clone, Debug)]
pub struct GuestSpec<'a> {
    /// Its kernel, an ELF file.
    pub kernel: Vec<u8>,
    /// Its ramdisk.
    pub ramdisk: Option<Vec<u8>>,
    /// Its memory in pages.
    pub pages: u64,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// The CPU that it runs on, if it is bound to one.
    pub home: Option<CpuId>,
    /// The I/O ports that it owns.
    pub ports: PortSet,
    /// Its command line.
    pub cmdline: &'a str,
}

impl GuestSpec<'_> {
    /// How many frames the smallest domain takes: its own, shared info, and its grant table.
    pub const FRAMES: u64 = 1024 + 2;
}

impl Default for GuestSpec<'_> {
    /// The smallest domain with one vCPU.
    fn default() -> Self {
        Self {
            kernel: TestKernel::default().build(),
            ramdisk: None,
            pages: 1024,
            vcpus: 1,
            home: None,
            ports: PortSet::new(),
            cmdline: "",
        }
    }
}

/// A CPU with the registers of whoever it runs.
#[derive(Debug)]
struct Seat {
    cpu: Cpu,
    regs: Regs,
}

/// A machine, its hypervisor, its guests. A clone is the same world.
#[derive(Clone, Debug)]
pub struct World(Arc<Globe>);

#[derive(Debug)]
struct Globe {
    hv: Hypervisor<Sim>,
    /// A seat is locked while its CPU is in the hypervisor.
    seats: Box<[Mutex<Seat>]>,
    tally: Mutex<Tally>,
    known: Mutex<Known>,
    /// Who handles a non-maskable interrupt, as far as guests can tell: domain and vCPU.
    in_nmi: Mutex<BTreeSet<(u64, u64)>>,
}

/// A world that ends when nobody else keeps it.
#[derive(Clone, Debug)]
pub struct WeakWorld(Weak<Globe>);

impl WeakWorld {
    /// The world, if it is still there.
    #[must_use]
    pub fn upgrade(&self) -> Option<World> {
        self.0.upgrade().map(World)
    }
}

/// The registers of the guest on some CPU.
#[derive(Debug)]
pub struct GuestRegs<'a>(MutexGuard<'a, Seat>);

impl Deref for GuestRegs<'_> {
    type Target = Regs;

    fn deref(&self) -> &Regs {
        &self.0.regs
    }
}

impl DerefMut for GuestRegs<'_> {
    fn deref_mut(&mut self) -> &mut Regs {
        &mut self.0.regs
    }
}

impl World {
    /// A world without domains.
    #[must_use]
    pub fn new(config: SimConfig, end_policy: EndPolicy) -> Self {
        let memory = Sim::new(config);
        let seats = (0..config.cpus)
            .map(|n| {
                Mutex::new(Seat {
                    cpu: Cpu::new(CpuId::new(n)),
                    regs: Regs::default(),
                })
            })
            .collect();
        let hv = Hypervisor::new(memory, config.cpus as usize, end_policy).unwrap();
        assert_eq!(hv.discover_functions(), (6, 0));
        for n in 0..config.cpus {
            hv.cpu_online(CpuId::new(n));
        }
        Self(Arc::new(Globe {
            hv,
            seats,
            tally: Mutex::default(),
            known: Mutex::default(),
            in_nmi: Mutex::default(),
        }))
    }

    /// What guests tried so far, and what came of it.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.0.tally.lock().clone()
    }

    /// One CPU with the smallest domains 1 to `guests`, all of which have booted. Domain 1 is about to run.
    ///
    /// # Panics
    ///
    /// If that is not so.
    #[must_use]
    pub fn booted(guests: u16) -> Self {
        let config = SimConfig {
            free_frames: GuestSpec::FRAMES * u64::from(guests),
            cpus: 1,
        };
        let world = Self::new(config, EndPolicy::LastDomain);
        for id in 1..=guests {
            world.create(id, &GuestSpec::default()).unwrap();
        }
        for _ in 0..guests {
            world.enter(0);
            world.boot(0);
            world.yield_now(0);
        }
        assert_eq!(world.running(0), Some((1, 0)));
        world
    }

    /// One CPU with the control domain, domain 0, which runs, and the smallest domains 1 to `guests`; all have booted. So many frames are nobody's.
    /// Returns what each was told at its start, too.
    ///
    /// # Panics
    ///
    /// If that is not so.
    #[must_use]
    pub fn controlled(guests: u16, free: u64) -> (Self, Vec<StartInfo>) {
        let config = SimConfig {
            free_frames: GuestSpec::FRAMES * u64::from(guests + 1) + free,
            cpus: 1,
        };
        let world = Self::new(config, EndPolicy::ControlDomain);
        for id in 0..=guests {
            world.create(id, &GuestSpec::default()).unwrap();
        }
        let boot = |id| {
            world.turn(id);
            world.boot(0)
        };
        let infos = (0..=guests).map(boot).collect();
        world.turn(0);
        (world, infos)
    }

    /// Lets time pass until the first vCPU of domain `id` runs on the first CPU.
    ///
    /// # Panics
    ///
    /// If it never does.
    pub fn turn(&self, id: u16) {
        for tries in 0..1000 {
            if self.enter(0) == Some((id, 0)) {
                return;
            }
            // Who has run for long waits until others have, too; and one may sleep.
            if tries > 10 {
                self.spin(0, 200_000);
            }
            self.yield_now(0);
        }
        panic!("domain {id} never runs");
    }

    /// A domain of two vCPUs on `cpus` CPUs, on the first of which it has booted, and runs. Its second vCPU has been started, and runs when a CPU
    /// has time for it.
    ///
    /// # Panics
    ///
    /// If that is not so.
    #[must_use]
    pub fn started(cpus: u32) -> Self {
        let config = SimConfig {
            free_frames: GuestSpec::FRAMES,
            cpus,
        };
        let world = Self::new(config, EndPolicy::LastDomain);
        world.sim().let_waiting_pass_time(false);
        let guest = GuestSpec {
            vcpus: 2,
            ..GuestSpec::default()
        };
        world.create(1, &guest).unwrap();
        assert_eq!(world.enter(0), Some((1, 0)));
        world.boot(0);
        let state = world.first_state(0);
        world.initialise(0, 1, &state).unwrap();
        world.vcpu_op(0, VcpuOp::Up, 1, 0).unwrap();
        world
    }

    /// A hold on it that does not keep it.
    #[must_use]
    pub fn downgrade(&self) -> WeakWorld {
        WeakWorld(Arc::downgrade(&self.0))
    }

    /// The hypervisor.
    #[must_use]
    pub fn hv(&self) -> &Hypervisor<Sim> {
        &self.0.hv
    }

    /// The machine.
    #[must_use]
    pub fn sim(&self) -> &Sim {
        self.hv().machine()
    }

    /// Checks every law of the hypervisor on the whole world, in which no CPU is in the hypervisor.
    ///
    /// # Panics
    ///
    /// If one is broken.
    pub fn invariants(&self) {
        let seats: Vec<_> = self.0.seats.iter().map(Mutex::lock).collect();
        self.hv().invariants(seats.iter().map(|seat| &seat.cpu));
        let goes_on = |cpu: &Cpu| {
            cpu.current
                .as_ref()
                .and_then(Current::vcpu)
                .is_some_and(Vcpu::is_up)
        };
        for seat in seats.iter().filter(|seat| goes_on(&seat.cpu)) {
            registers::check(&seat.regs);
        }
    }

    /// Makes a domain and lets it run, as the boot list would.
    ///
    /// # Errors
    ///
    /// See [`BuildError`].
    pub fn create(&self, id: u16, guest: &GuestSpec<'_>) -> Result<(), BuildError> {
        let entry = Entry {
            name: "guest",
            kernel: "kernel",
            ramdisk: guest.ramdisk.as_ref().map(|_| "ramdisk"),
            pages: guest.pages,
            vcpus: guest.vcpus,
            weight: boot_list::DEFAULT_WEIGHT,
            affinity: guest.home.map_or(CpuSet::ALL, CpuSet::only),
            ports: guest.ports.clone(),
            cmdline: guest.cmdline.try_into().unwrap(),
        };
        let ramdisk = guest.ramdisk.as_deref();
        let hv = self.hv();
        hv.create_domain(DomId::new(id), &entry, &guest.kernel, ramdisk)?;
        hv.unpause(&hv.domain(DomId::new(id)).unwrap());
        Ok(())
    }

    fn seat(&self, cpu: usize) -> MutexGuard<'_, Seat> {
        self.0.seats[cpu].lock()
    }

    /// Whether `cpu` is in a guest, or idles.
    #[must_use]
    pub fn is_at_rest(&self, cpu: usize) -> bool {
        self.0.seats[cpu].try_lock().is_some()
    }

    /// Whom `cpu` runs: domain and vCPU, as plain numbers.
    #[must_use]
    pub fn running(&self, cpu: usize) -> Option<(u16, u32)> {
        let running = self.seat(cpu).cpu.running();
        running.map(|(domain, vcpu)| (domain.raw(), VcpuId::raw(vcpu)))
    }

    /// The registers of the guest that `cpu` runs.
    #[must_use]
    pub fn regs(&self, cpu: usize) -> Regs {
        self.seat(cpu).regs
    }

    /// The same, to be changed.
    pub fn regs_mut(&self, cpu: usize) -> GuestRegs<'_> {
        GuestRegs(self.seat(cpu))
    }

    /// `cpu` acts: what comes next on this machine happens there.
    pub(super) fn act_as(&self, cpu: usize) {
        self.sim().act_as(CpuId::new(u32::try_from(cpu).unwrap()));
    }

    /// Which half of its guest `cpu` runs.
    #[must_use]
    pub fn mode(&self, cpu: usize) -> Option<Mode> {
        let seat = self.seat(cpu);
        seat.cpu.current.as_ref().map(|current| current.context.mode)
    }

    /// The CPU leaves its guest for the hypervisor, which does something and enters a guest. Returns what came of it.
    fn visit<T>(
        &self,
        cpu: usize,
        bases: Bases,
        act: impl FnOnce(&Hypervisor<Sim>, &mut Cpu, &mut Regs) -> T,
    ) -> T {
        self.act_as(cpu);
        let mut seat = self.seat(cpu);
        let Seat { cpu: state, regs } = &mut *seat;
        self.0.known.lock().leave_guest(self.sim(), state, bases);
        self.hv().enter_hypervisor(state);
        let result = act(self.hv(), state, regs);
        self.hv().leave(state, regs);
        self.0.known.lock().enter_guest(self.sim(), state);
        bases::check_failed_load(self.sim(), state, regs);
        for who in self.sim().take_nmis() {
            let is_alone = self.0.in_nmi.lock().insert(who);
            assert!(
                is_alone,
                "{who:?} handles a non-maskable interrupt, and gets another"
            );
        }
        result
    }

    fn note_path(&self, name: &'static str, fate: Fate) {
        self.0.tally.lock().path(name, fate);
    }

    /// The hypervisor takes the interrupts that are due on `cpu`, and enters whom it chooses. Returns whom.
    pub fn enter(&self, cpu: usize) -> Option<(u16, u32)> {
        self.visit(cpu, Bases::Kept, |hv, state, _| {
            let (_, timer_is_due) = hv.machine().take_interrupts();
            if timer_is_due {
                hv.timer_interrupt(state);
            }
        });
        self.running(cpu)
    }

    /// A device interrupts `cpu` by a line, unless that is masked; then the hypervisor enters whom it chooses.
    pub fn interrupt(&self, cpu: usize, gsi: Gsi) {
        self.visit(cpu, Bases::Kept, |hv, _, _| {
            if hv.machine().fire_line(gsi) {
                hv.pirq_interrupt(gsi.into());
            }
        });
    }

    /// A message interrupts `cpu`, whether or not it is masked: one may be on its way.
    pub fn message(&self, cpu: usize, pirq: Pirq) {
        self.visit(cpu, Bases::Kept, |hv, _, _| hv.pirq_interrupt(pirq));
    }

    /// Lets a function reach what the devices of this domain may, and of no other. Does nothing if there is none, or it or the one that has the
    /// function is being destroyed.
    pub fn attach(&self, function: FunctionId, domain: u16) {
        let memory = self.hv().memory();
        let has_it = |other: &Arc<Domain>| other.dma.lock().functions().contains(&function);
        let owner = self.hv().domains.iter().find(has_it);
        let visit = |domain: Option<Arc<Domain>>| domain.and_then(Visit::new);
        let is_owned = owner.is_some();
        let (from, to) = (visit(owner), visit(self.hv().domain(DomId::new(domain))));
        let Some(to) = to.filter(|_| !is_owned || from.is_some()) else {
            return;
        };
        if let Some(from) = from {
            memory.detach_function(from.domain(), function);
        }
        // Memory may be short.
        let _ = memory.attach_function(to.domain(), function);
    }

    /// The guest on `cpu` computes for `ns` nanoseconds, as far as interrupts let it; so does who comes after it.
    pub fn spin(&self, cpu: usize, ns: u64) {
        let end = self.sim().now() + ns;
        let id = CpuId::new(u32::try_from(cpu).unwrap());
        loop {
            let now = self.sim().now();
            let next = self.sim().timer(id).unwrap_or(end).min(end);
            self.sim().advance(next.saturating_sub(now));
            self.enter(cpu);
            if next == end {
                return;
            }
        }
    }

    /// The guest on `cpu` makes a hypercall, again and again if it is asked to. Then the hypervisor enters whom it
    /// chooses, which may be another.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn call(&self, cpu: usize, number: Hypercall, args: &[u64]) -> Result<u64, Errno> {
        self.raw_call(cpu, number.raw(), args)
    }

    /// As [`World::call`], with any number.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn raw_call(&self, cpu: usize, number: u64, args: &[u64]) -> Result<u64, Errno> {
        self.call_within(cpu, number, args, usize::MAX).unwrap()
    }

    /// As [`World::raw_call`], but the guest loses patience after `goes` goes, or when it is put to sleep: then it does something else, and `None` is
    /// returned.
    pub fn call_within(
        &self,
        cpu: usize,
        number: u64,
        args: &[u64],
        goes: usize,
    ) -> Option<Result<u64, Errno>> {
        let mut all = [0; 5];
        for (to, &from) in all.iter_mut().zip(args) {
            *to = from;
        }
        let answer = self.visit(cpu, Bases::of_call(number), |hv, state, regs| {
            let asked = Asked::read(hv.machine(), number, &all);
            set_arguments(regs, number, all);
            // The guest stands behind its SYSCALL instruction.
            let after = regs.rip;
            let mut answer = None;
            for _ in 0..goes {
                hv.hypercall(state, regs);
                if regs.rip != after.wrapping_sub(2) {
                    answer = Some(regs.rax);
                    break;
                }
                regs.rip = after;
                if state
                    .current
                    .as_ref()
                    .is_some_and(|current| current.rest.is_some())
                {
                    break;
                }
            }
            let ending = answer.map_or(Ending::GivenUp, |rax| match Errno::from_register(rax) {
                Err(Failure::Errno(error)) => Ending::Refused(error),
                Ok(_) | Err(Failure::Unknown(_)) => Ending::Done,
            });
            asked.note(hv.machine(), &mut self.0.tally.lock(), ending);
            answer
        });
        Some(match Errno::from_register(answer?) {
            Ok(value) => Ok(value),
            Err(Failure::Errno(error)) => Err(error),
            Err(failure) => panic!("hypercall {number} answers {failure:?}"),
        })
    }

    /// The guest on `cpu` returns from a handler by the frame that its stack pointer shows.
    pub fn iret(&self, cpu: usize) {
        if let Some((domain, vcpu)) = self.running(cpu) {
            self.0.in_nmi.lock().remove(&(domain.into(), vcpu.into()));
        }
        let fate = self.visit(cpu, Bases::Kept, |hv, state, regs| {
            let from = *regs;
            regs.rax = Hypercall::Iret.raw();
            hv.hypercall(state, regs);
            fate(state, &from, regs)
        });
        let ending = if fate == Fate::Ended {
            Ending::GivenUp
        } else {
            Ending::Done
        };
        self.0.tally.lock().call(Hypercall::Iret.raw(), None, ending);
        self.note_path("return from a handler", fate);
    }

    /// The CPU refuses to return to where the guest on `cpu` wants to go: its selectors name no segments of its.
    pub fn refuse_return(&self, cpu: usize) {
        let fate = self.visit(cpu, Bases::Kept, |hv, state, regs| {
            let from = *regs;
            hv.failed_return(state, regs);
            fate(state, &from, regs)
        });
        self.note_path("return that the CPU refuses", fate);
    }

    /// A program of the guest on `cpu` executes SYSCALL with these registers.
    pub fn system_call(&self, cpu: usize, number: u64, args: [u64; 5]) {
        let fate = self.visit(cpu, Bases::Kept, |hv, state, regs| {
            let from = *regs;
            set_arguments(regs, number, args);
            hv.hypercall(state, regs);
            fate(state, &from, regs)
        });
        self.note_path("system call", fate);
    }

    /// A program of the guest on `cpu` executes SYSCALL in 32-bit code.
    pub fn compat_call(&self, cpu: usize) {
        let fate = self.visit(cpu, Bases::Kept, |hv, state, regs| {
            regs.cs = selectors::FLAT_RING3_CS32.into();
            regs.rip &= u64::from(u32::MAX);
            let from = *regs;
            hv.compat_call(state, regs);
            fate(state, &from, regs)
        });
        self.note_path("32-bit system call", fate);
    }

    /// The guest on `cpu` executes SYSENTER.
    pub fn sysenter(&self, cpu: usize) {
        if self.sim().sysenter(CpuId::new(u32::try_from(cpu).unwrap())) == Sysenter::Closed {
            return self.raise(cpu, Exception::of(Vector::GeneralProtection.raw()));
        }
        let fate = self.visit(cpu, Bases::Kept, |hv, state, regs| {
            (regs.rip, regs.cs, regs.rsp) = (0, 3, 0);
            regs.ss = selectors::FLAT_RING3_SS.into();
            let from = *regs;
            hv.sysenter(state, regs);
            fate(state, &from, regs)
        });
        self.note_path("SYSENTER", fate);
    }

    /// As [`World::call`], for calls that do not give the CPU away: writes a record to `at` in the guest first, and reads it
    /// back afterwards.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn call_with<T: Buffered>(
        &self,
        cpu: usize,
        number: Hypercall,
        args: &[u64],
        (at, record): (u64, &mut T),
    ) -> Result<u64, Errno> {
        self.write(cpu, at, record);
        let caller = self.running(cpu);
        let answer = self.call(cpu, number, args)?;
        assert_eq!(self.running(cpu), caller, "the record is the caller's");
        *record = self.read(cpu, at);
        Ok(answer)
    }

    /// The guest on `cpu` writes a record to its memory.
    pub fn write<T: Buffered>(&self, cpu: usize, at: u64, record: &T) {
        self.act_as(cpu);
        self.sim().guest_write(at, record.to_bytes().as_ref()).unwrap();
    }

    /// The guest on `cpu` reads a record from its memory.
    #[must_use]
    pub fn read<T: Buffered>(&self, cpu: usize, at: u64) -> T {
        self.act_as(cpu);
        let mut buffer = T::EMPTY;
        self.sim().guest_read(at, buffer.as_mut()).unwrap();
        T::read_from(buffer.as_ref()).unwrap()
    }

    /// The guest on `cpu` causes an exception.
    pub fn raise(&self, cpu: usize, exception: Exception) {
        let is_from_program = self.mode(cpu) == Some(Mode::User);
        let name = fault_name(exception.vector, is_from_program);
        self.raise_as(cpu, exception, name);
    }

    /// As [`World::raise`]; it is counted under this name.
    pub(super) fn raise_as(&self, cpu: usize, exception: Exception, name: &'static str) {
        // Only a kernel's WRMSR changes bases.
        let is_protection = exception.vector == Vector::GeneralProtection.raw();
        let bases = if is_protection && self.mode(cpu) == Some(Mode::Kernel) {
            Bases::MayChange
        } else {
            Bases::Kept
        };
        let fate = self.visit(cpu, bases, |hv, state, regs| {
            let from = *regs;
            hv.exception(state, regs, exception);
            fate(state, &from, regs)
        });
        self.note_path(name, fate);
    }

    /// The guest on `cpu` is interrupted with the flags of a mode that no CPU lets it into.
    pub fn enter_impossible_mode(&self, cpu: usize, rflags: u64) {
        self.visit(cpu, Bases::Kept, |hv, state, regs| {
            regs.rflags |= rflags;
            assert!(regs.is_impossible());
            hv.impossible(state, regs);
        });
    }

    /// The guest on `cpu` has two debug exceptions at once.
    pub fn lose_frame(&self, cpu: usize) {
        self.visit(cpu, Bases::Kept, |hv, state, regs| {
            assert!(state.is_at_work());
            hv.lost_frame(state, regs);
        });
        assert!(!self.seat(cpu).cpu.is_at_work());
    }

    /// The guest on `cpu` loads segments behind the hypervisor's back, as guests can: all but the base of GS in its other half. Selectors
    /// that it cannot load become null.
    pub(super) fn load_segments(&self, cpu: usize, segments: Segments) {
        self.act_as(cpu);
        let gs_base_other = self.sim().segments().gs_base_other;
        let load = |selector: u16| {
            if self.sim().can_load(selector) {
                selector
            } else {
                0
            }
        };
        self.sim().set_segments(Segments {
            ds: load(segments.ds),
            es: load(segments.es),
            fs: load(segments.fs),
            gs: load(segments.gs),
            gs_base_other,
            ..segments
        });
    }
}

fn set_arguments(regs: &mut Regs, number: u64, args: [u64; 5]) {
    regs.rax = number;
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8] = args;
}
