//! Hypercalls: from registers to a handler and back.
//!
//! [`table`] says which calls there are; the other modules have the handlers, by subject. A handler copies its input
//! once ([`Call::read`]), checks the copy, acts, and copies its output ([`Call::write`]).
//!
//! A long call does a bounded part, writes the rest of the work into its argument registers, and asks to be started
//! again ([`Call::restart`]): the guest executes the same instruction once more, after its interrupts.

mod areas;
mod compat;
mod console;
mod control;
mod devices;
mod dma;
mod domains;
mod event;
mod extension;
mod extents;
mod flush;
mod grant;
mod initialise;
mod machine;
mod memory;
mod mmu;
mod modes;
mod multicall;
mod physdev;
mod registers;
mod reservation;
mod sched;
mod segments;
pub mod table;
mod traps;
mod vcpu;
mod version;

use crate::domains::{Domain, Visit};
use crate::hypervisor::{Cpu, Current, Hypervisor};
use crate::machine::{Machine, Trace};
use crate::vcpu::{Mode, Regs, Vcpu};
use bulkhead_abi::{Buffered, DomId, Errno, layout};

/// What a handler answers: the value for `rax`, or an error. [`Errno::Restart`] asks for the call to be started again.
pub(crate) type Answer = Result<u64, Errno>;

/// How many elements of a list one call works off before it is started again.
const BUDGET: u64 = 128;

/// A hypercall that is being served.
pub(crate) struct Call<'a, M: Machine> {
    pub(crate) hv: &'a Hypervisor<M>,
    pub(crate) current: &'a mut Current,
    pub(crate) regs: &'a mut Regs,
}

impl<M: Machine> Hypervisor<M> {
    /// Serves a hypercall of the running guest; or hands it a system call, if it comes from a program.
    #[inline]
    pub fn hypercall(&self, cpu: &mut Cpu, regs: &mut Regs) {
        let Some(current) = cpu.current.as_mut() else {
            return;
        };
        if current.context.mode == Mode::User {
            return self.system_call(current, regs);
        }
        let number = regs.rax;
        self.machine().trace(Trace::Hypercall, number, regs.rdi);
        let mut call = Call {
            hv: self,
            current,
            regs,
        };
        match table::dispatch(&mut call, number) {
            Ok(value) => regs.rax = value,
            // Back onto the two-byte SYSCALL, with the number still in place and the arguments as the handler left them.
            Err(Errno::Restart) => regs.rip = regs.rip.wrapping_sub(2),
            Err(error) => regs.rax = error.to_register(),
        }
    }
}

impl<M: Machine> Call<'_, M> {
    /// The calling domain.
    pub(crate) fn domain(&self) -> &Domain {
        &self.current.domain
    }

    /// The calling vCPU.
    pub(crate) fn vcpu(&self) -> Result<&Vcpu, Errno> {
        self.current.vcpu().ok_or(Errno::NoEnt)
    }

    /// Argument `N`, counted from zero.
    pub(crate) fn arg<const N: usize>(&self) -> u64 {
        let Regs {
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            ..
        } = *self.regs;
        const { assert!(N < 5, "a hypercall has five arguments") };
        match N {
            0 => rdi,
            1 => rsi,
            2 => rdx,
            3 => r10,
            _ => r8,
        }
    }

    /// The low half of argument `N`: what the ABI declares as 32 bits wide.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the upper half of such an argument is undefined"
    )]
    pub(crate) fn arg32<const N: usize>(&self) -> u32 {
        self.arg::<N>() as u32
    }

    /// Copies a record from the guest.
    ///
    /// # Errors
    ///
    /// [`Errno::Fault`] if it cannot be read.
    pub(crate) fn read<T: Buffered>(&self, from: u64) -> Result<T, Errno> {
        let mut buffer = T::EMPTY;
        self.read_bytes(from, buffer.as_mut())?;
        T::read_from(buffer.as_ref()).ok_or(Errno::Fault)
    }

    /// Copies bytes from the guest.
    ///
    /// # Errors
    ///
    /// [`Errno::Fault`] if they cannot be read.
    pub(crate) fn read_bytes(&self, from: u64, into: &mut [u8]) -> Result<(), Errno> {
        if !layout::is_guest_range(from, into.len() as u64) {
            return Err(Errno::Fault);
        }
        self.hv
            .machine()
            .copy_from_guest(from, into)
            .map_err(|_| Errno::Fault)
    }

    /// Copies a record to the guest.
    ///
    /// # Errors
    ///
    /// [`Errno::Fault`] if it cannot be written.
    pub(crate) fn write<T: Buffered>(&self, to: u64, record: &T) -> Result<(), Errno> {
        self.write_bytes(to, record.to_bytes().as_ref())
    }

    /// Copies bytes to the guest.
    ///
    /// # Errors
    ///
    /// [`Errno::Fault`] if they cannot be written.
    pub(crate) fn write_bytes(&self, to: u64, from: &[u8]) -> Result<(), Errno> {
        if !layout::is_guest_range(to, from.len() as u64) {
            return Err(Errno::Fault);
        }
        self.hv
            .machine()
            .copy_to_guest(to, from)
            .map_err(|_| Errno::Fault)
    }

    /// The domain that an operation is about: the caller, by either name, or another that it has power over.
    ///
    /// # Errors
    ///
    /// [`Errno::Perm`] if it is another, and the caller is not the control domain.
    pub(crate) fn resolve(&self, id: DomId) -> Result<DomId, Errno> {
        let own = self.domain().id;
        if id == DomId::SELF || id == own {
            Ok(own)
        } else if self.domain().is_control() {
            Ok(id)
        } else {
            Err(Errno::Perm)
        }
    }

    /// As [`Call::resolve`], for work on the domain's memory: `None` if it is the caller's own.
    ///
    /// # Errors
    ///
    /// [`Errno::Perm`] if it is another domain and the caller is not the control domain, [`Errno::Srch`] if there is none, or it is
    /// being destroyed.
    pub(crate) fn visit(&self, id: DomId) -> Result<Option<Visit>, Errno> {
        let id = self.resolve(id)?;
        if id == self.domain().id {
            return Ok(None);
        }
        let domain = self.hv.domains.get(id);
        domain.and_then(Visit::new).map(Some).ok_or(Errno::Srch)
    }

    /// The domain that is visited, or the caller.
    pub(crate) fn host<'b>(&'b self, visit: Option<&'b Visit>) -> &'b Domain {
        visit.map_or(self.domain(), Visit::domain)
    }

    /// Asks for the call to be started again when there is more to do: at `moment` (ns), until which the vCPU sleeps, but for its events.
    pub(crate) fn restart_at(&mut self, moment: u64) -> Answer {
        self.hv.poll(self.current, &[], Some(moment));
        Self::restart()
    }

    /// Asks for the call to be started again, with what now stands in the argument registers.
    pub(crate) const fn restart() -> Answer {
        Err(Errno::Restart)
    }
}
