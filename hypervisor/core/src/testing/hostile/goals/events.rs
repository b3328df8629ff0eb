//! Goals about event channels.

use super::{NO_VCPU, OWN, TOO_LARGE};
use crate::testing::hostile::calls::{self, bind_virq, call, event};
use crate::testing::hostile::tables::Mind;
use crate::testing::{Act, Choices};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use bulkhead_abi::event::{EventChannelOp, Virq};
use bulkhead_abi::{Errno, Hypercall};

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
