//! Goals about vCPUs: their state, their sleep, where they are entered.

use super::{FRESH, NO_VCPU, NOBODY, NOWHERE, TOO_LARGE, control, halves};
use crate::testing::hostile::calls::call;
use crate::testing::hostile::tables::Mind;
use crate::testing::{Act, Choices, FirstState, World};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use bulkhead_abi::callback::{CallbackOp, CallbackType};
use bulkhead_abi::sched::{MAX_POLL_PORTS, SchedOp};
use bulkhead_abi::vcpu::{SINGLESHOT_FUTURE, VGCF_IN_KERNEL, VGCF_ONLINE, VcpuOp};
use bulkhead_abi::{DomId, Errno, Hypercall};

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
        match VcpuOp::from_raw(op) {
            Some(VcpuOp::Initialise) => return self.first_state(error, at, choices),
            // Without a state it is invalid. Never the first, or hardly: to take the last one down is to try nothing more.
            Some(VcpuOp::Up | VcpuOp::Down) => {
                let vcpu = match error {
                    Some(Errno::NoEnt) => NO_VCPU,
                    _ => u32::from(!choices.chance(5)),
                };
                return call(Hypercall::VcpuOp, &[u64::from(op), vcpu.into(), 0], &[]);
            }
            _ => {}
        }
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
            Some(VcpuOp::RegisterRunstateMemoryArea | VcpuOp::RegisterVcpuTimeMemoryArea) => {
                halves(if invalid { va | 3 } else { va }).to_vec()
            }
            Some(VcpuOp::RegisterVcpuInfo) => {
                let [low, high] = halves(mfn.raw());
                vec![low, high, if invalid { 4 } else { 64 }, 0]
            }
            Some(VcpuOp::SetPeriodicTimer) => halves(if invalid {
                999_999
            } else {
                1_000_000 + choices.below(1 << 22)
            })
            .to_vec(),
            _ => Vec::new(),
        };
        call(Hypercall::VcpuOp, &[u64::from(op), u64::from(vcpu), at], &record)
    }

    /// A first state for the second vCPU, which can have one only once.
    pub(in crate::testing::hostile) fn first_state(
        &self,
        error: Option<Errno>,
        at: u64,
        choices: &mut Choices,
    ) -> Act {
        if error == Some(Errno::Fault) {
            let op = u64::from(VcpuOp::Initialise.raw());
            return call(Hypercall::VcpuOp, &[op, 1, at], &[]);
        }
        let (at, page) = self.play(choices);
        let invalid = error == Some(Errno::Inval);
        let [bad_gdt, bad_rip, bad_user] = [(); 3].map(|()| invalid && choices.chance(40));
        let has_user = choices.chance(50);
        Act::Initialise(FirstState {
            vcpu: match error {
                Some(Errno::NoEnt) => NO_VCPU,
                Some(Errno::Exist) => 0,
                _ => 1,
            },
            kernel_root: self.root(choices),
            user_root: if bad_user {
                Some(page)
            } else {
                has_user.then(|| self.root(choices))
            },
            ldt: choices.chance(30).then_some(at),
            gdt: (bad_gdt || choices.chance(30)).then_some(page),
            rip: if bad_rip { NOWHERE } else { World::SECOND_ENTRY },
            flags: choices.one_of(&[VGCF_IN_KERNEL, VGCF_IN_KERNEL | VGCF_ONLINE]),
        })
    }

    pub(super) fn sched_goal(
        &self,
        op: u32,
        error: Option<Errno>,
        at: u64,
        choices: &mut Choices,
    ) -> VecDeque<Act> {
        let record = match SchedOp::from_raw(op) {
            Some(SchedOp::RemoteShutdown) => {
                let domain = match error {
                    Some(Errno::Srch) => NOBODY,
                    Some(Errno::Inval) if choices.chance(50) => 0,
                    // The guests are to live on.
                    _ => FRESH,
                };
                let reason = if error == Some(Errno::Inval) { 9 } else { 1 };
                let end = call(
                    Hypercall::SchedOp,
                    &[u64::from(op), at],
                    &[u32::from(domain), reason],
                );
                return VecDeque::from([control::create(DomId::new(FRESH)), end]);
            }
            Some(SchedOp::Watchdog) => {
                // To be ended is to try nothing more: not too often.
                let seconds = if choices.chance(2) { 1 } else { 10_000 };
                let record = match error {
                    Some(Errno::Inval) => choices.one_of(&[[9, 1], [0, 0]]),
                    Some(_) => [0, 10_000],
                    None => choices.one_of(&[[0, seconds], [1, seconds], [1, 0], [2, 0]]),
                };
                let set = call(Hypercall::SchedOp, &[u64::from(op), at], &record);
                let times = if error == Some(Errno::NoSpc) { 3 } else { 1 };
                return core::iter::repeat_n(set, times).collect();
            }
            Some(SchedOp::PinOverride) => {
                let cpu = match error {
                    Some(Errno::Inval) => 99,
                    Some(Errno::Busy) => 1,
                    _ => choices.one_of(&[0, 1, u32::MAX, u32::MAX]),
                };
                let pin = call(Hypercall::SchedOp, &[u64::from(op), at], &[cpu]);
                let times = if error == Some(Errno::Busy) { 2 } else { 1 };
                return core::iter::repeat_n(pin, times).collect();
            }
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
        VecDeque::from([call(Hypercall::SchedOp, &[u64::from(op), at], &record)])
    }
}

/// The old form, in which the argument is the reason.
pub(super) fn sched_compat_goal(op: u32, error: Option<Errno>, choices: &mut Choices) -> Act {
    // As above.
    let reason = if error.is_some() || choices.chance(80) {
        TOO_LARGE
    } else {
        0
    };
    call(Hypercall::SchedOpCompat, &[u64::from(op), reason.into()], &[])
}

pub(super) fn nmi_goal(op: u32, error: Option<Errno>, at: u64) -> Act {
    let address = if error == Some(Errno::Inval) {
        NOWHERE
    } else {
        World::NMI_CALLBACK
    };
    call(Hypercall::NmiOp, &[u64::from(op), at], &halves(address))
}

pub(super) fn callback_goal(op: u32, error: Option<Errno>, at: u64, choices: &mut Choices) -> Act {
    let is_register = op == CallbackOp::Register.raw();
    // Some may go, and the others not.
    let optional = [CallbackType::Nmi, CallbackType::Sysenter, CallbackType::Syscall32];
    let kind = match error {
        Some(Errno::NoSys) => 77,
        Some(Errno::Inval) if !is_register => CallbackType::Event.raw(),
        _ => choices.one_of(&optional).raw(),
    };
    let address = match error {
        Some(Errno::Inval) => NOWHERE,
        _ if kind == CallbackType::Nmi.raw() => World::NMI_CALLBACK,
        _ => World::EVENT_CALLBACK,
    };
    let [low, high] = halves(address);
    let record = if is_register {
        vec![kind.into(), 0, low, high]
    } else {
        vec![kind.into()]
    };
    call(Hypercall::CallbackOp, &[u64::from(op), at], &record)
}
