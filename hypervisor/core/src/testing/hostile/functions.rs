//! What the guest tries with PCI functions: its own, those of others, and those that are nobody's.

use super::calls::{call, call_with, event};
use super::instructions::out;
use super::tables::Mind;
use crate::events::Channel;
use crate::irq::{Gsi, Pirq};
use crate::pci::FunctionId;
use crate::testing::functions::{BARE, BRIDGE, CROWDED, PLAIN, RICH};
use crate::testing::{Act, Choices, World};
use alloc::collections::VecDeque;
use bulkhead_abi::event::EventChannelOp;
use bulkhead_abi::physdev::{MapPirq, MapPirqType, PhysdevOp, UnmapPirq};
use bulkhead_abi::{Buffered, DomId, Hypercall};

/// The command register, with mastering and without; some of what is read only; base addresses.
const WRITES: &[(u8, u32)] = &[
    (0x04, 0x0000_0007),
    (0x04, 0x0000_0007),
    (0x04, 0x0000_0007),
    (0x04, 0x0000_0003),
    (0x04, 0xffff_ffff),
    (0x10, 0xffff_ffff),
    (0x10, 0x1000_0000),
    (0x18, 0x1000_0000),
    (0x34, 0x0000_0000),
    (0x40, 0xc000_0000),
    (0x50, 0x0001_0000),
];

/// One of the functions, or one that is not there.
pub(super) fn any(choices: &mut Choices) -> FunctionId {
    choices.one_of(&[
        BARE,
        BARE,
        RICH,
        RICH,
        RICH,
        PLAIN,
        PLAIN,
        PLAIN,
        BRIDGE,
        CROWDED,
        FunctionId::new(0x33),
    ])
}

/// A message that may be somebody's.
fn message(choices: &mut Choices) -> Pirq {
    let raw = u64::from(Gsi::LIMIT) + choices.below(4);
    Pirq::new(u32::try_from(raw).unwrap()).unwrap()
}

fn physdev(op: PhysdevOp, record: &impl Buffered) -> Act {
    let args = [u64::from(op.raw()), World::SCRATCH];
    call_with(Hypercall::PhysdevOp, &args, record.to_bytes().as_ref().to_vec())
}

/// Makes a pirq of a message.
fn map(function: FunctionId, choices: &mut Choices) -> Act {
    let in_table = choices.chance(if function == RICH { 90 } else { 10 });
    let record = MapPirq {
        domid: DomId::SELF,
        map_type: choices.one_of(&[MapPirqType::Msi, MapPirqType::MsiSeg]).raw(),
        index: -1,
        pirq: -1,
        bus: function.bus().into(),
        devfn: function.devfn().into(),
        entry_nr: i32::try_from(choices.below(3)).unwrap(),
        table_base: u64::from(in_table),
    };
    physdev(PhysdevOp::MapPirq, &record)
}

fn bind(pirq: Pirq) -> Act {
    event(EventChannelOp::BindPirq, &[pirq.raw(), 0])
}

impl Mind<'_> {
    /// A function of its own, if it has one.
    pub(super) fn own_function(&self) -> Option<FunctionId> {
        let domain = self.domains.get(DomId::new(self.guest.id))?;
        let space = domain.dma.lock();
        let has = |id: &FunctionId| space.functions().contains(id);
        [RICH, PLAIN].into_iter().find(has)
    }

    /// Something about functions.
    pub(super) fn functions(&self, choices: &mut Choices) -> VecDeque<Act> {
        let own = self.own_function();
        let function = own.filter(|_| choices.chance(80)).unwrap_or_else(|| any(choices));
        let pirq = message(choices);
        match choices.below(10) {
            0..=3 => {
                let (offset, value) = choices.one_of(WRITES);
                let address = 1 << 31 | u32::from(function.raw()) << 8 | u32::from(offset);
                // Without that, ports are not for everybody.
                let level = call(
                    Hypercall::PhysdevOp,
                    &[u64::from(PhysdevOp::SetIopl.raw()), World::SCRATCH],
                    &[1],
                );
                let mut plan = VecDeque::from([out(0xcf8, address), out(0xcfc, value)]);
                if choices.chance(50) {
                    plan.push_front(level);
                }
                plan
            }
            4 => VecDeque::from([map(function, choices)]),
            5 | 6 => VecDeque::from([map(function, choices), bind(pirq)]),
            7 => {
                let domid = DomId::SELF;
                let pirq = pirq.raw();
                VecDeque::from([physdev(PhysdevOp::UnmapPirq, &UnmapPirq { domid, pirq })])
            }
            8 => self.close_message(choices),
            _ => VecDeque::from([Act::Message(pirq)]),
        }
    }

    /// Closes a port that a message raises, if there is one.
    fn close_message(&self, choices: &mut Choices) -> VecDeque<Act> {
        let port = self.domains.get(DomId::new(self.guest.id)).and_then(|domain| {
            let events = domain.events.read();
            let is_message =
                |channel| matches!(channel, Channel::Pirq(pirq) if pirq.raw() >= Gsi::LIMIT.into());
            let mut ports = events.open_ports().take(32);
            let found = ports.find(|(_, status)| is_message(status.channel));
            found.map(|(port, _)| port.raw())
        });
        let message = Act::Message(message(choices));
        match port {
            Some(port) => VecDeque::from([message.clone(), event(EventChannelOp::Close, &[port]), message]),
            None => VecDeque::from([message]),
        }
    }
}
