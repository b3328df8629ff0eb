//! Goals about event channels.

use super::{NO_VCPU, OWN, TOO_LARGE};
use crate::hypercalls::table::{Row, TABLE};
use crate::testing::hostile::calls::{self, bind_virq, call, call_with, event};
use crate::testing::hostile::tables::Mind;
use crate::testing::{Act, Choices, Sim, World};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bulkhead_abi::event::{EventChannelOp, Virq};
use bulkhead_abi::physdev::{MapPirqType, PhysdevOp};
use bulkhead_abi::{DomId, Errno, Hypercall};

/// The number of the event channel operation that binds a pirq, where those of `physdev_op` stand: none of those is the same.
const BIND: u32 = EventChannelOp::BindPirq.raw();

impl Mind<'_> {
    pub(super) fn event_goal(
        &self,
        op: u32,
        error: Option<Errno>,
        at: u64,
        choices: &mut Choices,
    ) -> VecDeque<Act> {
        let Some(op) = EventChannelOp::from_raw(op) else {
            return VecDeque::new();
        };
        let whom = u32::from(self.whom(error, choices));
        let own = u32::from(OWN);
        let port = u32::try_from(1 + choices.below(5)).unwrap();
        let record = match (op, error) {
            (_, Some(Errno::NoSpc)) => return self.fill_ports(choices),
            (EventChannelOp::BindPirq, _) => return self.line_goal(BIND, error, at, choices),
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

    /// Something with an interrupt line that ends with `error`; `op` is of `physdev_op`, or [`BIND`].
    pub(super) fn line_goal(
        &self,
        op: u32,
        error: Option<Errno>,
        at: u64,
        choices: &mut Choices,
    ) -> VecDeque<Act> {
        let line = if choices.chance(50) {
            self.own_line()
        } else {
            calls::line(choices).raw()
        };
        let raw = match error {
            Some(Errno::Inval) if choices.chance(50) => TOO_LARGE,
            Some(Errno::Perm) => 40,
            _ => line,
        };
        let whom = match error {
            Some(Errno::Perm) if choices.chance(50) => DomId::new(self.victim(choices)),
            _ => DomId::SELF,
        };
        let map = calls::map_pirq(DomId::SELF, MapPirqType::Gsi, raw, World::SCRATCH);
        let bind = call(
            Hypercall::EventChannelOp,
            &[u64::from(BIND), at],
            &[raw, if raw == TOO_LARGE { 2 } else { 0 }],
        );
        let act = match PhysdevOp::from_raw(op) {
            _ if op == BIND => bind.clone(),
            Some(PhysdevOp::MapPirq) => {
                let kind = if error == Some(Errno::Inval) {
                    MapPirqType::Msi
                } else {
                    MapPirqType::Gsi
                };
                calls::map_pirq(whom, kind, raw, at)
            }
            Some(PhysdevOp::UnmapPirq) => calls::unmap_pirq(whom, raw, at),
            Some(PhysdevOp::SetupGsi) => {
                let raw = if error == Some(Errno::Inval) { raw } else { line };
                let wiring = choices.one_of(&[0, 1, 0x101]);
                let args = [u64::from(op), at];
                return VecDeque::from([call(Hypercall::PhysdevOp, &args, &[raw, wiring])]);
            }
            Some(PhysdevOp::GetFreePirq) => {
                let kind = if error == Some(Errno::Inval) {
                    MapPirqType::Msi
                } else {
                    MapPirqType::Gsi
                };
                let args = [u64::from(op), at];
                return VecDeque::from([call(Hypercall::PhysdevOp, &args, &[kind.raw(), 0])]);
            }
            _ => call(Hypercall::PhysdevOp, &[u64::from(op), at], &[raw]),
        };
        let mut acts = VecDeque::from([map, act]);
        if error == Some(Errno::Exist) || error == Some(Errno::Busy) || op == PhysdevOp::Eoi.raw() {
            acts.insert(1, bind);
        }
        acts
    }

    /// The old form of one of the operations that may end so.
    pub(super) fn event_compat_goal(
        &self,
        error: Option<Errno>,
        at: u64,
        choices: &mut Choices,
    ) -> VecDeque<Act> {
        let may_end_so = |row: &&Row| {
            row.call == Hypercall::EventChannelOp
                && row.op.is_some_and(|(_, op)| op <= EventChannelOp::Unmask.raw())
                && error.is_none_or(|error| row.errors.contains(&error))
        };
        let ops: Vec<u32> = TABLE
            .iter()
            .filter(may_end_so)
            .filter_map(|row| row.op.map(|(_, op)| op))
            .collect();
        let plan = self.event_goal(choices.one_of(&ops), error, at, choices);
        plan.into_iter().map(|act| in_old_form(act, 4)).collect()
    }

    /// The line that domain 0 assigns to this guest first, if it assigns it one.
    fn own_line(&self) -> u32 {
        u32::try_from(Sim::LINES.start).unwrap() + u32::from(self.guest.id.saturating_sub(1) % 2)
    }

    /// Opens every port that there is, tries to open more, and closes all.
    fn fill_ports(&self, choices: &mut Choices) -> VecDeque<Act> {
        let own = u32::from(OWN);
        let open = event(EventChannelOp::AllocUnbound, &[own | own << 16]);
        // Rarely, for it is much work.
        if choices.chance(75) {
            return VecDeque::from([open]);
        }
        let line = self.own_line();
        VecDeque::from([
            calls::map_pirq(DomId::SELF, MapPirqType::Gsi, line, World::SCRATCH),
            Act::Repeat(Box::new(open), 5000),
            bind_virq(Virq::Xenoprof),
            event(EventChannelOp::BindIpi, &[0]),
            event(EventChannelOp::BindPirq, &[line, 0]),
            event(EventChannelOp::BindInterdomain, &[own, 2000]),
            event(EventChannelOp::Reset, &[own]),
        ])
    }
}

/// A call of the same in the old form, where the sub-operation stands so many bytes before its record; what is none stays as it is.
fn in_old_form(act: Act, len: usize) -> Act {
    let Act::Call {
        number,
        args,
        record: rest,
    } = &act
    else {
        return act;
    };
    let old = match Hypercall::from_raw(*number) {
        Some(Hypercall::EventChannelOp) => Hypercall::EventChannelOpCompat,
        Some(Hypercall::PhysdevOp) => Hypercall::PhysdevOpCompat,
        _ => return act,
    };
    let [op, at, ..] = *args;
    let mut record = op.to_le_bytes().to_vec();
    record.truncate(len);
    record.extend(rest);
    call_with(old, &[at], record)
}

/// The old form of one of the few operations that it has.
pub(super) fn physdev_compat_goal(error: Option<Errno>, at: u64, choices: &mut Choices) -> Act {
    let op = choices.one_of(&[
        PhysdevOp::SetIopl,
        PhysdevOp::IrqStatusQuery,
        PhysdevOp::SetIobitmap,
    ]);
    let argument = if error == Some(Errno::Inval) { TOO_LARGE } else { 1 };
    let args = [u64::from(op.raw()), at];
    in_old_form(call(Hypercall::PhysdevOp, &args, &[argument, 0, 100]), 8)
}
