//! Non-maskable interrupts, which vCPUs send each other.
//!
//! One that was sent is *pending* until its vCPU is next entered, and *in progress* from then until the guest's next `iret` hypercall:
//! in between there is no other. Masked events do not keep it out. Its handler is that of vector 2, and one that nobody handles is gone.
//!
//! Nothing on the ways out of the hypervisor looks for one, but where the CPU was called to look whom it runs: whoever sends one calls it.
//! Source: the guest ABI's section 6.7.

use crate::domains::Domain;
use crate::hypervisor::{Current, Hypervisor};
use crate::machine::{Machine, Trace};
use crate::vcpu::{Regs, Vcpu};
use bulkhead_abi::trap::Vector;

impl<M: Machine> Hypervisor<M> {
    /// Sends a vCPU a non-maskable interrupt. One that rests is woken; one that is down finds it when it comes up.
    pub(crate) fn send_nmi(&self, domain: &Domain, vcpu: &Vcpu) {
        // Before it is woken: see `block_unless`. Before its CPU is called, which looks after that; and if it moves meanwhile, the CPU
        // that it comes to looks for it anyway.
        if vcpu.swap_nmi(true) {
            // Its CPU knows, or will look when it comes: to call again and again would take time from whoever runs there.
            return;
        }
        self.wake_vcpu(domain, vcpu);
        if !mutant!(NmiUntold) {
            self.call_if_running(domain, vcpu);
        }
    }

    /// Hands the running guest a non-maskable interrupt, if one is pending and none in progress. Says whether it did, or ended the guest
    /// trying.
    pub(crate) fn deliver_nmi(&self, current: &mut Current, regs: &mut Regs) -> bool {
        if !current.has_nmi() {
            return false;
        }
        if let Some(vcpu) = current.vcpu() {
            vcpu.swap_nmi(false);
        }
        let handler = current.context.traps.get(Vector::Nmi.raw());
        if handler.address == 0 {
            return false;
        }
        current.context.is_in_nmi = true;
        self.machine()
            .trace(Trace::Bounce, Vector::Nmi.raw().into(), regs.rip);
        self.enter(current, regs, handler, None);
        true
    }

    /// The running guest returns from a handler: the next non-maskable interrupt may come.
    pub(crate) fn end_nmi(&self, current: &mut Current, regs: &mut Regs) {
        if current.context.is_in_nmi {
            current.context.is_in_nmi = false;
            self.deliver_nmi(current, regs);
        }
    }
}

impl Current {
    /// Whether a non-maskable interrupt is to be handed to it.
    pub(crate) fn has_nmi(&self) -> bool {
        let is_kept_out = self.context.is_in_nmi && !mutant!(NestedNmi);
        !is_kept_out && self.vcpu().is_some_and(Vcpu::has_nmi)
    }
}
