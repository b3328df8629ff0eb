//! The switch: one vCPU's state is put in its place, another's taken up. Or a CPU waits.

use super::{Key, Queue};
use crate::hypervisor::{Cpu, Current, Hypervisor, Shared};
use crate::ids::CpuId;
use crate::machine::{Clock, Machine, Trace};
use crate::vcpu::{Gates, Regs};
use bulkhead_abi::vcpu::Runstate;

impl<M: Machine> Hypervisor<M> {
    /// Waits for something to do. Says whether the machine goes on.
    pub(super) fn idle(&self, cpu: &mut Cpu, shared: &Shared) -> bool {
        self.machine().trace(Trace::Idle, 0, 0);
        // The page tables of the last guest, and its descriptors, may go while we idle.
        self.machine().load_gdt(&[]);
        self.machine().load_idle_root();
        self.end_stretch(cpu, self.machine().ticks());
        if !self.machine().wait_for_interrupt() {
            return false;
        }
        cpu.stretch.begin(self.machine().ticks());
        self.do_due(cpu.id(), shared, self.machine().now());
        true
    }

    /// Puts the state of a vCPU of `queue` into its place, under that queue's lock: when that is free, another CPU may take it. It
    /// is `rest` from now on.
    pub(super) fn put_away(
        &self,
        queue: &mut Queue,
        current: Current,
        regs: &Regs,
        (rest, now): (Runstate, Clock),
    ) {
        if self.has_other_cpus() {
            // Its tables are held by its state. Whoever takes that may let its guest take them down, and write them: while this
            // CPU went through them to its own memory. With one CPU nobody can, before the next tables are loaded.
            self.machine().load_idle_root();
        }
        let Current {
            domain,
            vcpu,
            mut context,
            ..
        } = current;
        let vcpu = domain.vcpu(vcpu);
        if let Some(vcpu) = vcpu {
            vcpu.set_loaded_on(None);
        }
        context.regs = *regs;
        self.machine().save_segments(&mut context.segments);
        self.save_fpu(&mut context.fpu);
        self.withdraw_breakpoints(&context.debug);
        self.withdraw_ldt(&context.ldt);
        if !context.gates.is_empty() && !mutant!(GatesLeft) {
            self.machine().load_gates(&Gates::NONE);
        }
        if !mutant!(AlarmLeft) {
            queue.alarm = None;
        }
        context.meter.stop(now.tsc);
        context.meter.alight(self.machine().full_flushes());
        if let Some(vcpu) = vcpu {
            vcpu.publish_meter(&context.meter);
            vcpu.history.lock().enter(rest, now.ns);
            self.show_runstate(&domain, vcpu);
            vcpu.park(context);
        }
    }

    /// Takes a vCPU's state, to run it. `None` if the vCPU was stopped.
    pub(super) fn take(&self, cpu: CpuId, (domain, vcpu): Key) -> Option<Current> {
        let domain = self.domains.get(domain)?;
        let state = domain.vcpu(vcpu).filter(|vcpu| vcpu.may_run())?;
        debug_assert_eq!(state.home(), cpu, "a CPU runs what is on its own queue");
        let context = state.unpark()?;
        Some(Current {
            domain,
            vcpu,
            context,
            rest: None,
        })
    }

    /// Takes up a vCPU's state: from `now` on it runs.
    pub(super) fn load(&self, cpu: &mut Cpu, mut current: Current, regs: &mut Regs, now: Clock) {
        self.machine().trace(
            Trace::Switch,
            u64::from(current.domain.id.raw()),
            u64::from(current.vcpu.raw()),
        );
        *regs = current.context.regs;
        self.machine().load_gdt(&current.context.gdt);
        if !current.context.ldt.is_empty() {
            self.machine().load_ldt(&current.context.ldt);
        }
        let vcpu = current.domain.vcpu(current.vcpu);
        if let Some(vcpu) = vcpu {
            vcpu.set_loaded_on(Some(cpu.id()));
        }
        current.context.meter.board(self.machine().full_flushes());
        self.machine().load_root(current.context.root());
        // The only place where selectors are loaded, and with them descriptors: those may have changed since.
        let has_all_segments = self.machine().load_segments(&current.context.segments);
        self.load_fpu(&current.context.fpu);
        self.load_breakpoints(&current.context.debug);
        if !current.context.gates.is_empty() {
            self.machine().load_gates(&current.context.gates);
        }
        if !mutant!(TscAuxLeft) {
            self.machine().set_tsc_aux(current.context.tsc_aux);
        }
        if !mutant!(SysenterLeft) {
            self.machine().set_sysenter(current.context.sysenter());
        }
        if let Some(vcpu) = vcpu {
            self.end_poll(&current.domain, vcpu);
            current.context.info = vcpu.info().maddr();
            if current.context.clock_written_for != Some(cpu.id()) {
                current.context.clock_written_for = Some(cpu.id());
                self.write_clock(vcpu);
            }
            vcpu.history.lock().enter(Runstate::Running, now.ns);
            self.show_runstate(&current.domain, vcpu);
            current.context.meter.start(now.tsc);
        }
        if current.context.alarm.is_some() {
            self.arm_alarm(&current);
        }
        if !has_all_segments && !mutant!(FailsafeNotCalled) {
            // When its record and its tables are in their places: the frame goes to its stack.
            let selectors = current.context.segments.selectors();
            self.fail_safe(&mut current, regs, selectors);
        }
        cpu.current = Some(current);
    }
}
