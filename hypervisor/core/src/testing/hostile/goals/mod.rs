//! What the guest tries because the table of hypercalls has it: each row, and each error that is listed for it, by the arguments
//! that bring it about. Left to chance, some would hardly ever happen.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a row without a recipe of its own is found by the test that wants all of them reached"
)]

mod control;
mod events;
mod memory;
mod vcpus;

pub(super) use control::{assign_frame, assign_function, assign_line};

use super::calls::{self, call, call_with};
use super::dma;
use super::programs::canonical;
use super::tables::Mind;
use crate::hypercalls::table::{Row, TABLE};
use crate::testing::{Act, Choices, Hostile, World};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bulkhead_abi::console::ConsoleIoOp;
use bulkhead_abi::memory::MemoryOp;
use bulkhead_abi::mmu::UVMF_INVLPG;
use bulkhead_abi::physdev::PhysdevOp;
use bulkhead_abi::version::VersionOp;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall, layout};

/// A domain that does not exist.
const NOBODY: u16 = 777;

/// The caller.
const OWN: u16 = DomId::SELF.raw();

/// The first number of the domains that domain 0 makes and takes away; guests have lower ones.
pub(super) const FRESH: u16 = 5;

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
            Hypercall::GrantTableOp => self.grant_goal(op, error, at, choices),
            Hypercall::MemoryOp if op == MemoryOp::ClaimPages.raw() => {
                return self.claim_goal(error, at, choices);
            }
            Hypercall::MemoryOp if op == MemoryOp::AcquireResource.raw() => {
                let create = control::create(DomId::new(FRESH));
                return VecDeque::from([create, self.memory_goal(row, error, at, choices)]);
            }
            Hypercall::MemoryOp => self.memory_goal(row, error, at, choices),
            Hypercall::EventChannelOpCompat => return self.event_compat_goal(error, at, choices),
            Hypercall::PhysdevOpCompat => events::physdev_compat_goal(error, at, choices),
            Hypercall::NmiOp => vcpus::nmi_goal(op, error, at),
            Hypercall::MmuextOp | Hypercall::MmuUpdate => self.paging_goal(row, error, at, choices),
            Hypercall::UpdateVaMapping if error == Some(Errno::Fault) => {
                Act::UpdateVa(self.play(choices).0, 0, at & !3 | UVMF_INVLPG)
            }
            Hypercall::UpdateVaMapping => self.update_va(choices),
            Hypercall::UpdateVaMappingOtherdomain => {
                return self.map_another_goal(error, at, choices);
            }
            Hypercall::Sysctl => {
                let frames = |guest: &&Hostile| Some((guest.id, guest.play.first()?.1));
                let others: Vec<_> = self.others.iter().filter_map(frames).collect();
                return control::control_goal(row, error, (&others, &self.devices), at, choices);
            }
            // Busy is one that runs.
            Hypercall::VcpuOp if error == Some(Errno::Busy) => {
                let start = [self.first_state(None, at, choices), calls::bring_up(1)];
                let busy = self.vcpu_goal(op, error, at, choices);
                return start.into_iter().chain([busy]).collect();
            }
            Hypercall::VcpuOp => self.vcpu_goal(op, error, at, choices),
            Hypercall::PhysdevOp if calls::is_of_lines(op) => return self.line_goal(op, error, at, choices),
            Hypercall::SchedOp => return self.sched_goal(op, error, at, choices),
            Hypercall::SchedOpCompat => vcpus::sched_compat_goal(op, error, choices),
            Hypercall::ExtensionOp if let Some(op) = dma::is_about_pins(op) => {
                self.pin_goal(op, error, at, choices)
            }
            Hypercall::CallbackOp => vcpus::callback_goal(op, error, at, choices),
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
                if op == u64::from(VersionOp::BuildId.raw()) {
                    let room = match error {
                        Some(Errno::Inval) => 0,
                        Some(Errno::NoBufs) => 1,
                        _ => 64,
                    };
                    let at = if choices.chance(20) { 0 } else { at };
                    return call(number, &[op, at], &[room]);
                }
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
            Hypercall::Iret => Act::Forget { masked: false },
            _ => call(number, &[op, if invalid { u64::from(TOO_LARGE) } else { 0 }], &[]),
        }
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
}
