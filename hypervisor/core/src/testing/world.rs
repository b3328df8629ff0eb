//! A hypervisor on a simulated machine, and the part of its guests: whoever calls plays them.

use super::{Sim, SimConfig, TestKernel};
use crate::domains::boot_list::{self, Entry};
use crate::domains::builder::BuildError;
use crate::hypervisor::{Cpu, EndPolicy, Hypervisor};
use crate::ids::{CpuId, VcpuId};
use crate::machine::Machine;
use crate::sched::CpuSet;
use crate::traps::Exception;
use crate::vcpu::Regs;
use alloc::vec::Vec;
use bulkhead_abi::errno::Failure;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall};

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
    /// Its command line.
    pub cmdline: &'a str,
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

/// A machine, its hypervisor, its guests.
#[derive(Debug)]
pub struct World {
    hv: Hypervisor<Sim>,
    seats: Vec<Seat>,
}

impl World {
    /// A world without domains.
    #[must_use]
    pub fn new(config: SimConfig, end_policy: EndPolicy) -> Self {
        let memory = Sim::new(config);
        let seats = (0..config.cpus)
            .map(|n| Seat {
                cpu: Cpu::new(CpuId::new(n)),
                regs: Regs::default(),
            })
            .collect();
        let hv = Hypervisor::new(memory, config.cpus as usize, end_policy).unwrap();
        for n in 0..config.cpus {
            hv.cpu_online(CpuId::new(n));
        }
        Self { hv, seats }
    }

    /// The hypervisor.
    #[must_use]
    pub fn hv(&self) -> &Hypervisor<Sim> {
        &self.hv
    }

    /// The machine.
    #[must_use]
    pub fn sim(&self) -> &Sim {
        self.hv.machine()
    }

    /// Checks every law of the hypervisor on the whole world.
    ///
    /// # Panics
    ///
    /// If one is broken.
    pub fn invariants(&self) {
        self.hv.invariants(self.seats.iter().map(|seat| &seat.cpu));
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
            cmdline: guest.cmdline.try_into().unwrap(),
        };
        let ramdisk = guest.ramdisk.as_deref();
        self.hv
            .create_domain(DomId::new(id), &entry, &guest.kernel, ramdisk)
    }

    /// Whom `cpu` runs: domain and vCPU, as plain numbers.
    #[must_use]
    pub fn running(&self, cpu: usize) -> Option<(u16, u32)> {
        let running = self.seats[cpu].cpu.running();
        running.map(|(domain, vcpu)| (domain.raw(), VcpuId::raw(vcpu)))
    }

    /// The registers of the guest that `cpu` runs.
    #[must_use]
    pub fn regs(&self, cpu: usize) -> &Regs {
        &self.seats[cpu].regs
    }

    /// The same, to be changed.
    pub fn regs_mut(&mut self, cpu: usize) -> &mut Regs {
        &mut self.seats[cpu].regs
    }

    pub(super) fn cpu_id(&self, cpu: usize) -> CpuId {
        self.seats[cpu].cpu.id()
    }

    /// `cpu` acts: what comes next on this machine happens there.
    fn act_as(&self, cpu: usize) {
        self.sim().act_as(self.seats[cpu].cpu.id());
    }

    /// The hypervisor takes the interrupts that are due on `cpu`, and enters whom it chooses. Returns whom.
    pub fn enter(&mut self, cpu: usize) -> Option<(u16, u32)> {
        self.act_as(cpu);
        let (_, timer_is_due) = self.sim().take_interrupts();
        let Seat { cpu: state, regs } = &mut self.seats[cpu];
        if timer_is_due {
            self.hv.timer_interrupt(state);
        }
        self.hv.leave(state, regs);
        self.running(cpu)
    }

    /// The guest on `cpu` computes for `ns` nanoseconds, as far as interrupts let it; so does who comes after it.
    pub fn spin(&mut self, cpu: usize, ns: u64) {
        let end = self.sim().now() + ns;
        let id = self.seats[cpu].cpu.id();
        loop {
            let now = self.sim().now();
            let next = self.sim().timer(id).unwrap_or(end).clamp(now, end);
            self.sim().advance(next - now);
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
    pub fn call(&mut self, cpu: usize, number: Hypercall, args: &[u64]) -> Result<u64, Errno> {
        self.raw_call(cpu, number.raw(), args)
    }

    /// As [`World::call`], with any number.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn raw_call(&mut self, cpu: usize, number: u64, args: &[u64]) -> Result<u64, Errno> {
        self.act_as(cpu);
        let Seat { cpu: state, regs } = &mut self.seats[cpu];
        let mut args = args.iter().copied().chain(core::iter::repeat(0));
        regs.rax = number;
        for arg in [
            &mut regs.rdi,
            &mut regs.rsi,
            &mut regs.rdx,
            &mut regs.r10,
            &mut regs.r8,
        ] {
            *arg = args.next().unwrap();
        }
        // The guest stands behind its SYSCALL instruction.
        let after = regs.rip;
        loop {
            self.hv.hypercall(state, regs);
            if regs.rip != after.wrapping_sub(2) {
                break;
            }
            regs.rip = after;
        }
        let answer = regs.rax;
        self.hv.leave(state, regs);
        match Errno::from_register(answer) {
            Ok(value) => Ok(value),
            Err(Failure::Errno(error)) => Err(error),
            Err(failure) => panic!("hypercall {number} answers {failure:?}"),
        }
    }

    /// The guest on `cpu` returns from a handler by the frame that its stack pointer shows.
    pub fn iret(&mut self, cpu: usize) {
        self.act_as(cpu);
        let Seat { cpu: state, regs } = &mut self.seats[cpu];
        regs.rax = Hypercall::Iret.raw();
        self.hv.hypercall(state, regs);
        self.hv.leave(state, regs);
    }

    /// As [`World::call`], for calls that do not give the CPU away: writes a record to `at` in the guest first, and reads it
    /// back afterwards.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn call_with<T: Buffered>(
        &mut self,
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
    pub fn raise(&mut self, cpu: usize, exception: Exception) {
        self.act_as(cpu);
        let Seat { cpu: state, regs } = &mut self.seats[cpu];
        self.hv.exception(state, regs, exception);
        self.hv.leave(state, regs);
    }
}
