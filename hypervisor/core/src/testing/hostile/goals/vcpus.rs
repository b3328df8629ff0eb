//! Goals about vCPUs: their state, their sleep, where they are entered.

use super::{NO_VCPU, NOWHERE, TOO_LARGE, halves};
use crate::testing::hostile::calls::call;
use crate::testing::hostile::tables::Mind;
use crate::testing::{Act, Choices, World};
use alloc::vec;
use alloc::vec::Vec;
use bulkhead_abi::callback::CallbackOp;
use bulkhead_abi::sched::{MAX_POLL_PORTS, SchedOp};
use bulkhead_abi::vcpu::{SINGLESHOT_FUTURE, VcpuOp};
use bulkhead_abi::{Errno, Hypercall};

impl Mind<'_> {
    pub(super) fn vcpu_goal(&self, op: u32, error: Option<Errno>, at: u64, choices: &mut Choices) -> Act {
        let is_timer = [VcpuOp::SetSingleshotTimer, VcpuOp::StopSingleshotTimer]
            .iter()
            .any(|timer| timer.raw() == op);
        let vcpu = match error {
            Some(Errno::NoEnt) => NO_VCPU,
            Some(Errno::Inval) if is_timer => 1,
            Some(Errno::Busy) => 1,
            _ => 0,
        };
        let invalid = error == Some(Errno::Inval);
        let (va, mfn) = self.play(choices);
        let record: Vec<u32> = match VcpuOp::from_raw(op) {
            Some(VcpuOp::SetSingleshotTimer) => {
                let is_late = error == Some(Errno::Time);
                let [low, high] = halves(if is_late {
                    1
                } else {
                    self.now + choices.below(1 << 20)
                });
                vec![low, high, if is_late { SINGLESHOT_FUTURE } else { 0 }]
            }
            Some(VcpuOp::RegisterRunstateMemoryArea) => halves(if invalid { va | 3 } else { va }).to_vec(),
            Some(VcpuOp::RegisterVcpuInfo) => {
                let [low, high] = halves(mfn.raw());
                vec![low, high, if invalid { 4 } else { 64 }, 0]
            }
            _ => Vec::new(),
        };
        call(Hypercall::VcpuOp, &[u64::from(op), u64::from(vcpu), at], &record)
    }

    pub(super) fn sched_goal(&self, op: u32, error: Option<Errno>, at: u64, choices: &mut Choices) -> Act {
        let record = match SchedOp::from_raw(op) {
            Some(SchedOp::Poll) => {
                let list = World::SCRATCH + 24;
                // The record itself can be read, perhaps, and the ports not.
                let [low, high] = halves(list);
                let [soon, late] = halves(self.now + choices.below(1 << 22));
                let ports = if error == Some(Errno::Inval) {
                    MAX_POLL_PORTS + 1
                } else {
                    1
                };
                vec![low, high, ports, 0, soon, late, 1]
            }
            Some(SchedOp::Shutdown | SchedOp::ShutdownCode) if error.is_some() => vec![TOO_LARGE],
            Some(SchedOp::ShutdownCode) => vec![u32::try_from(choices.below(4)).unwrap()],
            // To end is to try nothing more: not too often.
            Some(SchedOp::Shutdown) if choices.chance(80) => vec![TOO_LARGE],
            _ => vec![0],
        };
        call(Hypercall::SchedOp, &[u64::from(op), at], &record)
    }
}

pub(super) fn callback_goal(op: u32, error: Option<Errno>, at: u64) -> Act {
    let kind = if error == Some(Errno::NoSys) { 77 } else { 0 };
    let address = if error == Some(Errno::Inval) {
        NOWHERE
    } else {
        World::EVENT_CALLBACK
    };
    let [low, high] = halves(address);
    let record = if op == CallbackOp::Register.raw() {
        vec![kind, 0, low, high]
    } else {
        vec![kind]
    };
    call(Hypercall::CallbackOp, &[u64::from(op), at], &record)
}
