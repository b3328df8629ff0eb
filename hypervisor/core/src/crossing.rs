//! Crossings between a guest's kernel and its programs.
//!
//! Both run in ring 3. What keeps them apart is their page tables, of which each has its own, and which of the two bases of
//! GS is in force: they change places at every crossing. A guest enters its kernel by a trap, an event or a system call,
//! always on the kernel's stack; it leaves by `iret`.
//!
//! The machine's entry code makes the plain ones of these crossings by itself, from the state at [`offsets`](crate::vcpu::offsets). What is here,
//! [`bounce`](crate::vcpu::bounce) and [`Regs::return_by`] is the model that it is tested against, and what it leaves alone.

use crate::hypervisor::{Cpu, Current, Hypervisor};
use crate::machine::Machine;
use crate::traps::{Exception, Fatal};
use crate::vcpu::{Callback, Mode, Regs};
use bulkhead_abi::trap::Vector;

/// Bytes of a SYSCALL instruction.
const SYSCALL_LEN: u64 = 2;

/// The guest wants to run a program, and has given no page tables for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoUserTables;

impl<M: Machine> Hypervisor<M> {
    /// Lets the guest's kernel go on in place of its program. Returns which of them it was that ran.
    pub(crate) fn cross_to_kernel(&self, current: &mut Current) -> Mode {
        let context = &mut *current.context;
        let before = core::mem::replace(&mut context.mode, Mode::Kernel);
        if before == Mode::User {
            if !mutant!(BasesNotSwapped) {
                self.machine().swap_gs();
            }
            if !mutant!(ProgramsTables) {
                self.machine().load_root(context.roots.kernel());
            }
        }
        before
    }

    /// Lets a program of the guest's go on in place of its kernel.
    ///
    /// # Errors
    ///
    /// [`NoUserTables`]; nothing has changed then.
    pub(crate) fn cross_to_user(&self, current: &mut Current) -> Result<(), NoUserTables> {
        let context = &mut *current.context;
        let root = context.roots.user().ok_or(NoUserTables)?;
        if context.mode == Mode::Kernel {
            context.mode = Mode::User;
            self.machine().swap_gs();
            self.machine().load_root(root);
        }
        Ok(())
    }

    /// A program executed SYSCALL: hands it to the guest's kernel.
    pub(crate) fn system_call(&self, current: &mut Current, regs: &mut Regs) {
        let handler = current.context.syscall_callback;
        self.call_kernel(current, regs, handler);
    }

    /// A program of the running guest executed SYSCALL in 32-bit code, on a processor that has that (AMD's). `regs` have the flat 32-bit code
    /// segment for cs: which one it was, nobody knows.
    #[cold]
    pub fn compat_call(&self, cpu: &mut Cpu, regs: &mut Regs) {
        if let Some(current) = cpu.current.as_mut() {
            let handler = current.context.syscall32_callback;
            self.call_kernel(current, regs, handler);
        }
    }

    /// The running guest executed SYSENTER while that [was open](crate::vcpu::Sysenter). Of `regs`, the processor has lost rip, cs and rsp:
    /// they are what the guest ABI's section 6.2 has in their place.
    #[cold]
    pub fn sysenter(&self, cpu: &mut Cpu, regs: &mut Regs) {
        let Some(current) = cpu.current.as_mut() else {
            return;
        };
        let handler = current.context.sysenter_callback;
        match current.context.mode {
            Mode::User if handler.address != 0 => self.enter(current, regs, handler, None),
            // Its stack is lost, and where it was.
            Mode::User | Mode::Kernel => self.crash(current, regs, Fatal::LostBySysenter),
        }
    }

    /// Hands a program's system call to the guest's kernel at `handler`; without one, it has no such instruction.
    fn call_kernel(&self, current: &mut Current, regs: &mut Regs, handler: Callback) {
        if handler.address == 0 {
            regs.rip = regs.rip.wrapping_sub(SYSCALL_LEN);
            self.reflect(current, regs, Exception::of(Vector::InvalidOpcode.raw()));
        } else {
            self.enter(current, regs, handler, None);
        }
    }
}
