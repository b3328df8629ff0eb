//! What the guest tries because the table of hypercalls has it: each row, and each error that is listed for it, by the arguments
//! that bring it about. Left to chance, some would hardly ever happen.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a row without a recipe of its own is found by the test that wants all of them reached"
)]

use super::calls::{self, bind_virq, call, call_with, event};
use super::memory::reservation;
use super::programs::canonical;
use super::tables::Mind;
use crate::hypercalls::table::{Row, TABLE};
use crate::testing::{Act, Choices, World};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use bulkhead_abi::callback::CallbackOp;
use bulkhead_abi::console::ConsoleIoOp;
use bulkhead_abi::control::{ControlOp, Schedule};
use bulkhead_abi::event::{EventChannelOp, Virq};
use bulkhead_abi::memory::{MemoryExchange, MemoryOp};
use bulkhead_abi::mmu::{MmuExt, MmuExtOp};
use bulkhead_abi::physdev::PhysdevOp;
use bulkhead_abi::sched::{MAX_POLL_PORTS, SchedOp};
use bulkhead_abi::vcpu::{SINGLESHOT_FUTURE, VcpuOp};
use bulkhead_abi::version::VersionOp;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall, layout};

/// A domain that does not exist.
const NOBODY: u16 = 777;

/// The caller.
const OWN: u16 = DomId::SELF.raw();

/// A vCPU that no guest has.
const NO_VCPU: u32 = 99;

/// An address that no CPU takes.
const NOWHERE: u64 = 1 << 47;

/// A number that no call or sub-operation has, and that is too large for most else.
const TOO_LARGE: u32 = 100_000;

/// An address at which no guest can read or write.
fn unreachable(choices: &mut Choices) -> u64 {
    choices.one_of(&[layout::HYPERVISOR.start, 0x7000_0000_0000, NOWHERE, u64::MAX - 3])
}

fn bytes<T: Buffered>(record: &T) -> Vec<u8> {
    record.to_bytes().as_ref().to_vec()
}

fn halves(value: u64) -> [u32; 2] {
    [value & 0xffff_ffff, value >> 32].map(|half| u32::try_from(half).unwrap())
}

impl Mind<'_> {
    /// Chooses a row of the table and how it should end, and does what leads there.
    pub(super) fn goal(&self, choices: &mut Choices) -> VecDeque<Act> {
        // The control domain alone can do what others are refused.
        let is_control = self.guest.id == 0 && choices.chance(50);
        let rows = TABLE
            .iter()
            .filter(|row| !is_control || row.errors.contains(&Errno::Perm));
        let row = choices.one_of(&rows.collect::<Vec<_>>());
        let error = row
            .errors
            .get(usize::try_from(choices.below(row.errors.len() as u64 + 1)).unwrap());
        self.pursue(row, error.copied(), choices)
    }

    fn pursue(&self, row: &Row, error: Option<Errno>, choices: &mut Choices) -> VecDeque<Act> {
        let op = row.op.map_or(0, |(_, number)| number);
        // What most calls read or write lies there; what cannot be read is the commonest error.
        let at = if error == Some(Errno::Fault) {
            unreachable(choices)
        } else {
            World::SCRATCH
        };
        let one = match row.call {
            Hypercall::EventChannelOp => return self.event_goal(op, error, at, choices),
            Hypercall::MemoryOp => self.memory_goal(row, error, at, choices),
            Hypercall::MmuextOp | Hypercall::MmuUpdate => self.paging_goal(row, error, at, choices),
            Hypercall::UpdateVaMapping => self.update_va(choices),
            Hypercall::Sysctl => control_goal(row, error, at, choices),
            Hypercall::VcpuOp => self.vcpu_goal(op, error, at, choices),
            Hypercall::SchedOp => self.sched_goal(op, error, at, choices),
            Hypercall::CallbackOp => callback_goal(op, error, at),
            _ => self.processor_goal(row.call, op, error, at, choices),
        };
        VecDeque::from([one])
    }

    /// Calls about the calling vCPU, and those that only tell something.
    fn processor_goal(
        &self,
        number: Hypercall,
        op: u32,
        error: Option<Errno>,
        at: u64,
        choices: &mut Choices,
    ) -> Act {
        let op = u64::from(op);
        let is_bad = error.is_some();
        let invalid = error == Some(Errno::Inval);
        match number {
            Hypercall::SetTrapTable if invalid => call(number, &[at], &[3, 0, 0, 1 << 15, 0, 0, 0, 0]),
            Hypercall::SetTrapTable if is_bad => call(number, &[at], &[]),
            Hypercall::SetTrapTable => calls::handle_faults(),
            Hypercall::StackSwitch => calls::stack_switch(if invalid { NOWHERE } else { World::STACK }),
            Hypercall::SetCallbacks if invalid => call(number, &[World::EVENT_CALLBACK, NOWHERE, 0], &[]),
            Hypercall::SetCallbacks => calls::set_callbacks(),
            Hypercall::SetDebugreg => {
                let args = match error {
                    Some(Errno::Inval) => [6, 1 << 32],
                    Some(Errno::NoDev) => [8, 0],
                    Some(_) => choices.one_of(&[[7, 1 << 13], [0, layout::HYPERVISOR.start]]),
                    None => [choices.below(8), choices.one_of(&[0, 0x400])],
                };
                call(number, &args, &[])
            }
            Hypercall::GetDebugreg => call(number, &[if is_bad { 8 } else { choices.below(8) }], &[]),
            Hypercall::FpuTaskswitch => call(number, &[choices.below(2)], &[]),
            Hypercall::SetTimerOp => call(number, &[self.now + choices.below(1 << 22)], &[]),
            Hypercall::SetGdt => call(
                number,
                &[
                    at,
                    if invalid {
                        u64::from(TOO_LARGE)
                    } else {
                        u64::from(is_bad)
                    },
                ],
                &[],
            ),
            Hypercall::UpdateDescriptor => {
                let place = self.play(choices).1.maddr();
                call(number, &[if invalid { place | 1 } else { place }, 0], &[])
            }
            Hypercall::SetSegmentBase => {
                let which = if invalid { 9 } else { choices.below(4) };
                call(number, &[which, canonical(choices)], &[])
            }
            Hypercall::Multicall if is_bad => call(number, &[at, 1], &[]),
            Hypercall::Multicall => self.several(choices),
            Hypercall::VmAssist => {
                let args = match error {
                    Some(Errno::Inval) => [0, 31],
                    Some(_) => [9, 0],
                    None => [choices.below(2), choices.one_of(&[2, 4, 5, 5])],
                };
                call(number, &args, &[])
            }
            Hypercall::XenVersion => {
                let is_page_size = op == u64::from(VersionOp::Pagesize.raw());
                let argument = if is_page_size { u64::from(invalid) } else { at };
                call(number, &[op, argument], &[u32::from(invalid), 0])
            }
            Hypercall::ConsoleIo => {
                let count = if op == u64::from(ConsoleIoOp::Read.raw()) {
                    1
                } else {
                    choices.below(40) + 1
                };
                call_with(number, &[op, count, at], b"a line of text\nand more".to_vec())
            }
            Hypercall::PhysdevOp if op == u64::from(PhysdevOp::SetIopl.raw()) => {
                let level = if invalid {
                    4
                } else {
                    u32::try_from(choices.below(4)).unwrap()
                };
                call(number, &[op, at], &[level])
            }
            Hypercall::PhysdevOp => call(number, &[op, at], &[0, 0, if invalid { TOO_LARGE } else { 100 }]),
            _ => Act::Forget { masked: false },
        }
    }

    fn vcpu_goal(&self, op: u32, error: Option<Errno>, at: u64, choices: &mut Choices) -> Act {
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

    fn sched_goal(&self, op: u32, error: Option<Errno>, at: u64, choices: &mut Choices) -> Act {
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

    fn victim(&self, choices: &mut Choices) -> u16 {
        if self.others.is_empty() {
            NOBODY
        } else {
            choices.one_of(self.others).id
        }
    }

    /// Whom a call is about that ends with `error`.
    fn whom(&self, error: Option<Errno>, choices: &mut Choices) -> u16 {
        match error {
            Some(Errno::Perm) => self.victim(choices),
            Some(Errno::Srch) => NOBODY,
            _ => OWN,
        }
    }

    fn memory_goal(&self, row: &Row, error: Option<Errno>, at: u64, choices: &mut Choices) -> Act {
        let whom = self.whom(error, choices);
        let default = MemoryOp::CurrentReservation;
        let op = row
            .op
            .and_then(|(_, number)| MemoryOp::from_raw(number))
            .unwrap_or(default);
        let record = match (op, error) {
            (MemoryOp::Exchange, error) => {
                let (pages, order) = if error == Some(Errno::NoMem) {
                    (16, 4)
                } else {
                    (1, 0)
                };
                let mut input = reservation(pages, 0, 0);
                input.domid = DomId::new(whom);
                let extents = if error == Some(Errno::Inval) { 2 } else { 1 };
                let output = reservation(extents, order, 0);
                bytes(&MemoryExchange {
                    input,
                    output,
                    nr_exchanged: 0,
                })
            }
            (MemoryOp::MemoryMap, _) => {
                let [low, high] = halves(World::LIST);
                [choices.one_of(&[0, 1]), 0, low, high]
                    .into_iter()
                    .flat_map(u32::to_le_bytes)
                    .collect()
            }
            (
                MemoryOp::IncreaseReservation | MemoryOp::DecreaseReservation | MemoryOp::PopulatePhysmap,
                _,
            ) => bytes(&reservation(1, 0, 0)),
            _ => whom.to_le_bytes().to_vec(),
        };
        call_with(Hypercall::MemoryOp, &[u64::from(op.raw()), at], record)
    }

    fn paging_goal(&self, row: &Row, error: Option<Errno>, at: u64, choices: &mut Choices) -> Act {
        let whom = self.whom(error, choices);
        if at != World::SCRATCH || whom != OWN {
            return call(row.call, &[at, 1, 0, u64::from(whom)], &[]);
        }
        let Some((_, op)) = row.op else {
            return match (row.call, error) {
                (Hypercall::MmuextOp, Some(Errno::NoSys)) => Act::Ext(vec![MmuExt {
                    cmd: TOO_LARGE,
                    ..MmuExt::default()
                }]),
                (Hypercall::MmuextOp, _) => self.extended(choices),
                _ => self.mmu_update(choices),
            };
        };
        let page = self.play(choices).1.raw();
        let (arg1, arg2) = match (MmuExtOp::from_raw(op), error) {
            (Some(MmuExtOp::SetLdt), None) => (0, 0),
            (Some(MmuExtOp::SetLdt), Some(Errno::Inval)) => (8, 1),
            (Some(MmuExtOp::SetLdt), Some(_)) => (World::LIST & !0xfff, 1),
            (_, Some(Errno::Inval)) => (
                choices.one_of(&[u64::MAX, self.guest.shared_info.raw(), page]),
                page,
            ),
            (Some(MmuExtOp::NewBaseptr | MmuExtOp::NewUserBaseptr), _) => (self.root(choices).raw(), 0),
            (Some(MmuExtOp::InvlpgLocal | MmuExtOp::InvlpgAll | MmuExtOp::InvlpgMulti), _) => {
                (self.address(choices), World::LIST)
            }
            _ => (page, self.play(choices).1.raw()),
        };
        Act::Ext(vec![MmuExt { cmd: op, arg1, arg2 }])
    }

    fn event_goal(&self, op: u32, error: Option<Errno>, at: u64, choices: &mut Choices) -> VecDeque<Act> {
        let Some(op) = EventChannelOp::from_raw(op) else {
            return VecDeque::new();
        };
        let whom = u32::from(self.whom(error, choices));
        let own = u32::from(OWN);
        let port = u32::try_from(1 + choices.below(5)).unwrap();
        let record = match (op, error) {
            (_, Some(Errno::NoSpc)) => return self.fill_ports(choices),
            (_, None) => return VecDeque::from([calls::event_op(self.others, choices)]),
            (EventChannelOp::BindVirq, Some(Errno::Exist)) => {
                return VecDeque::from([bind_virq(Virq::Debug), bind_virq(Virq::Debug)]);
            }
            (EventChannelOp::BindVirq, Some(Errno::Inval)) => [TOO_LARGE, 0],
            (EventChannelOp::BindVirq, Some(Errno::NoEnt)) => [Virq::Timer.raw(), NO_VCPU],
            (EventChannelOp::BindVirq, _) => [Virq::DomExc.raw(), 0],
            (EventChannelOp::BindIpi, _) => [NO_VCPU, 0],
            (EventChannelOp::BindVcpu, Some(Errno::NoEnt)) => {
                let open = event(EventChannelOp::AllocUnbound, &[own | own << 16]);
                let bind = event(EventChannelOp::BindVcpu, &[port, NO_VCPU]);
                return VecDeque::from([open, bind]);
            }
            (
                EventChannelOp::BindInterdomain | EventChannelOp::Status | EventChannelOp::Reset,
                Some(Errno::Inval),
            ) => [own, 0],
            (EventChannelOp::AllocUnbound, _) => [whom | own << 16, 0],
            (EventChannelOp::BindInterdomain | EventChannelOp::Reset, _) => [whom, 1],
            (EventChannelOp::Status, _) => [whom, 1],
            _ => [0, 0],
        };
        VecDeque::from([call(
            Hypercall::EventChannelOp,
            &[u64::from(op.raw()), at],
            &record,
        )])
    }

    /// Opens every port that there is, tries to open more, and closes all.
    fn fill_ports(&self, choices: &mut Choices) -> VecDeque<Act> {
        let own = u32::from(OWN);
        let open = event(EventChannelOp::AllocUnbound, &[own | own << 16]);
        // Rarely, for it is much work.
        if choices.chance(75) {
            return VecDeque::from([open]);
        }
        VecDeque::from([
            Act::Repeat(Box::new(open), 5000),
            bind_virq(Virq::Xenoprof),
            event(EventChannelOp::BindIpi, &[0]),
            event(EventChannelOp::BindInterdomain, &[own, 2000]),
            event(EventChannelOp::Reset, &[own]),
        ])
    }
}

fn callback_goal(op: u32, error: Option<Errno>, at: u64) -> Act {
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

/// What only the control domain may ask: everybody else is refused.
fn control_goal(row: &Row, error: Option<Errno>, at: u64, choices: &mut Choices) -> Act {
    let whom = if error == Some(Errno::Srch) {
        NOBODY
    } else {
        u16::try_from(choices.below(3)).unwrap()
    };
    let whom = DomId::new(whom);
    let default = if error == Some(Errno::NoSys) {
        TOO_LARGE
    } else {
        ControlOp::Version.raw()
    };
    let op = row.op.map_or(default, |(_, number)| number);
    let record = match ControlOp::from_raw(op) {
        Some(ControlOp::ReadTrace) if error == Some(Errno::NoEnt) => TOO_LARGE.to_le_bytes().to_vec(),
        Some(ControlOp::SetSchedule) => bytes(&Schedule {
            domain: whom,
            weight: if error == Some(Errno::Inval) { 0 } else { 256 },
            cpus: choices.one_of(&[1, 3, u64::MAX]),
            ..Schedule::default()
        }),
        _ => {
            let mut record = whom.raw().to_le_bytes().to_vec();
            record.resize(64, 0);
            record
        }
    };
    call_with(Hypercall::Sysctl, &[u64::from(op), at], record)
}
