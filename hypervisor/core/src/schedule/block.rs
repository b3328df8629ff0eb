//! Resting: a vCPU that waits for an event, a port or a moment.

use super::Rest;
use crate::domains::Domain;
use crate::events::Port;
use crate::events::bits::SharedInfoView;
use crate::hypervisor::{Current, Hypervisor};
use crate::machine::Machine;
use crate::time::Purpose;
use crate::vcpu::Vcpu;

impl<M: Machine> Hypervisor<M> {
    /// Blocks the running vCPU until an event can be delivered to it, which may be at once.
    pub(crate) fn block(&self, current: &mut Current) {
        self.block_unless(current, |_| false);
    }

    /// Blocks the running vCPU until one of `ports` is pending, an event can be delivered, or `timeout` (ns) is over.
    pub(crate) fn poll(&self, current: &mut Current, ports: &[Port], timeout: Option<u64>) {
        if let Some(vcpu) = current.domain.vcpu(current.vcpu) {
            vcpu.set_polling(true);
            if let Some(at) = timeout {
                self.set_deadline(&current.domain, vcpu, Purpose::Poll, at);
            }
        }
        self.block_unless(current, |shared| {
            ports.iter().any(|&port| shared.is_pending(port))
        });
        if current.rest.is_none()
            && let Some(vcpu) = current.vcpu()
        {
            self.end_poll(&current.domain, vcpu);
        }
    }

    /// The vCPU goes on: it waits for no port and no moment any longer.
    pub(super) fn end_poll(&self, domain: &Domain, vcpu: &Vcpu) {
        if vcpu.is_polling() {
            vcpu.set_polling(false);
            if mutant!(PollDeadlineLeft) {
                return;
            }
            self.cancel_deadline(domain, vcpu, Purpose::Poll);
        }
    }

    /// Says that the running vCPU wants to rest, unless it has a reason not to.
    fn block_unless(&self, current: &mut Current, has_reason: impl FnOnce(SharedInfoView<'_>) -> bool) {
        // Due already, it would wait until the vCPU runs again, and might be what that waits for.
        self.ring_alarm(current);
        let Some(vcpu) = current.domain.vcpu(current.vcpu) else {
            return;
        };
        // Who raises an event sets its bits, and then the mark. We take the mark off, then look at the bits, and at the switch
        // look at the mark again: whatever comes in between is seen there.
        vcpu.set_woken(false);
        let frame = self.machine().frame(current.domain.shared_info);
        let is_wanted = self.with_info(vcpu, |info| info.upcall_wanted()) == Some(true);
        if is_wanted || current.has_nmi() || has_reason(SharedInfoView::new(&frame)) {
            return;
        }
        current.rest = Some(Rest::Block);
    }
}
