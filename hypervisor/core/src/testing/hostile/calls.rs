//! What the guest tries with everything else: events, sleep, numbers at random.

use super::Hostile;
use super::tables::Mind;
use crate::events::Channel;
use crate::irq::Gsi;
use crate::machine::Machine;
use crate::testing::{Act, Choices, Sim, World};
use crate::traps::Exception;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bulkhead_abi::callback::{CallbackOp, CallbackType};
use bulkhead_abi::event::{EventChannelOp, Virq};
use bulkhead_abi::extension::{DIRECT_GATE_VECTORS, ExtensionOp};
use bulkhead_abi::physdev::{MapPirq, MapPirqType, PhysdevOp, UnmapPirq};
use bulkhead_abi::sched::SchedOp;
use bulkhead_abi::trap::{TI_DPL_MASK, TrapInfo, VECTOR_INT80};
use bulkhead_abi::vcpu::VcpuOp;
use bulkhead_abi::{Buffered, DomId, Hypercall, layout, selectors};

pub(super) fn call(number: Hypercall, args: &[u64], record: &[u32]) -> Act {
    call_with(
        number,
        args,
        record.iter().flat_map(|word| word.to_le_bytes()).collect(),
    )
}

/// A hypercall that names the record at [`World::SCRATCH`], whose bytes these are.
pub(super) fn call_with(number: Hypercall, args: &[u64], record: Vec<u8>) -> Act {
    let mut five = [0; 5];
    five[..args.len()].copy_from_slice(args);
    Act::Call {
        number: number.raw(),
        args: five,
        record,
    }
}

/// Sees to it that a fault is not the end.
pub(super) fn handle_faults() -> Act {
    let handler = |vector: u8| TrapInfo {
        vector,
        flags: 0,
        cs: 0,
        address: World::EVENT_CALLBACK + 0x20,
    };
    let mut record = Vec::new();
    for gate in World::HANDLED.map(handler) {
        record.extend_from_slice(gate.to_bytes().as_ref());
    }
    for vector in [3, VECTOR_INT80] {
        let gate = TrapInfo {
            flags: TI_DPL_MASK,
            ..handler(vector)
        };
        record.extend_from_slice(gate.to_bytes().as_ref());
    }
    record.extend_from_slice(TrapInfo::default().to_bytes().as_ref());
    call_with(Hypercall::SetTrapTable, &[World::SCRATCH], record)
}

/// Says where events, failures and system calls arrive.
pub(super) fn set_callbacks() -> Act {
    let syscall = World::EVENT_CALLBACK + 0x40;
    let callbacks = [World::EVENT_CALLBACK, World::FAILSAFE_CALLBACK, syscall];
    call(Hypercall::SetCallbacks, &callbacks, &[])
}

/// Says where the kernel's stack is for entries from programs.
pub(super) fn stack_switch(stack: u64) -> Act {
    let ss = u64::from(selectors::FLAT_RING3_SS);
    call(Hypercall::StackSwitch, &[ss, stack], &[])
}

pub(super) fn bring_up(vcpu: u32) -> Act {
    let up = u64::from(VcpuOp::Up.raw());
    call(Hypercall::VcpuOp, &[up, vcpu.into(), 0], &[])
}

/// Sends one of the guest's vCPUs a non-maskable interrupt.
pub(super) fn send_nmi(choices: &mut Choices) -> Act {
    let op = u64::from(VcpuOp::SendNmi.raw());
    call(Hypercall::VcpuOp, &[op, choices.below(2), 0], &[])
}

/// Says where a callback that need not be there is.
pub(super) fn register_callback(kind: CallbackType, address: u64) -> Act {
    let address = u32::try_from(address).unwrap();
    let record = [u32::from(kind.raw()), 0, address, 0];
    let op = u64::from(CallbackOp::Register.raw());
    call(Hypercall::CallbackOp, &[op, World::SCRATCH], &record)
}

pub(super) fn bind_virq(virq: Virq) -> Act {
    event(EventChannelOp::BindVirq, &[virq.raw(), 0])
}

pub(super) fn event(op: EventChannelOp, record: &[u32]) -> Act {
    call(
        Hypercall::EventChannelOp,
        &[u64::from(op.raw()), World::SCRATCH],
        record,
    )
}

/// Whether a sub-operation of `physdev_op` is about interrupt lines.
pub(super) fn is_of_lines(op: u32) -> bool {
    !matches!(
        PhysdevOp::from_raw(op),
        Some(PhysdevOp::SetIopl | PhysdevOp::SetIobitmap)
    )
}

/// Makes a pirq of a line.
pub(super) fn map_pirq(domid: DomId, kind: MapPirqType, gsi: u32, at: u64) -> Act {
    let record = MapPirq {
        domid,
        map_type: kind.raw(),
        index: i32::try_from(gsi).unwrap(),
        pirq: -1,
        ..MapPirq::default()
    };
    let args = [u64::from(PhysdevOp::MapPirq.raw()), at];
    call_with(Hypercall::PhysdevOp, &args, record.to_bytes().as_ref().to_vec())
}

/// Takes a pirq back.
pub(super) fn unmap_pirq(domid: DomId, pirq: u32, at: u64) -> Act {
    let record = UnmapPirq { domid, pirq };
    let args = [u64::from(PhysdevOp::UnmapPirq.raw()), at];
    call_with(Hypercall::PhysdevOp, &args, record.to_bytes().as_ref().to_vec())
}

/// A line that may be assigned; one of the few that are at first, more often than not.
pub(super) fn line(choices: &mut Choices) -> Gsi {
    let below = if choices.chance(70) { 2 } else { 8 };
    let raw = Sim::LINES.start + choices.below(below);
    Gsi::new(u32::try_from(raw).unwrap()).unwrap()
}

/// Does something with a line, or its device does.
pub(super) fn line_op(choices: &mut Choices) -> Act {
    let gsi = line(choices);
    let raw = gsi.raw();
    match choices.below(10) {
        0..=1 => map_pirq(DomId::SELF, MapPirqType::Gsi, raw, World::SCRATCH),
        2..=3 => event(EventChannelOp::BindPirq, &[raw, 0]),
        4 => unmap_pirq(DomId::SELF, raw, World::SCRATCH),
        5..=6 => {
            let eoi = u64::from(PhysdevOp::Eoi.raw());
            call(Hypercall::PhysdevOp, &[eoi, World::SCRATCH], &[raw])
        }
        _ => Act::Interrupt(gsi),
    }
}

/// Says how a line is wired, which nobody but the control domain may.
pub(super) fn setup_gsi(choices: &mut Choices) -> Act {
    let wiring = choices.one_of(&[0, 1, 0x101]);
    let args = [u64::from(PhysdevOp::SetupGsi.raw()), World::SCRATCH];
    call(Hypercall::PhysdevOp, &args, &[line(choices).raw(), wiring])
}

pub(super) fn event_op(others: &[&Hostile], choices: &mut Choices) -> Act {
    let port = u32::try_from(choices.below(6)).unwrap();
    let own = 0x7ff0_u32;
    let domain = match choices.below(10) {
        0 => own,
        1 => u32::try_from(choices.below(0x1_0000)).unwrap(),
        _ if others.is_empty() => own,
        _ => u32::from(choices.one_of(others).id),
    };
    match choices.below(16) {
        0..=2 => event(EventChannelOp::Send, &[port]),
        // Two 16-bit fields share the first word: on whose behalf, and for whom.
        3..=5 => event(EventChannelOp::AllocUnbound, &[own | domain << 16]),
        6..=8 => event(EventChannelOp::BindInterdomain, &[domain, port]),
        9 => event(EventChannelOp::BindIpi, &[u32::from(choices.chance(20))]),
        10 => bind_virq(choices.one_of(&[Virq::Timer, Virq::Debug, Virq::DomExc])),
        11 | 12 => event(EventChannelOp::Close, &[port]),
        13 => event(EventChannelOp::Unmask, &[port]),
        14 => event(EventChannelOp::Status, &[own, port]),
        _ if choices.chance(10) => event(EventChannelOp::Reset, &[own]),
        _ => event(EventChannelOp::BindVcpu, &[port, u32::from(choices.chance(20))]),
    }
}

impl Mind<'_> {
    /// Connects to a port that waits for it, if it has been told of one.
    pub(super) fn connect(&self, choices: &mut Choices) -> Act {
        let own = Channel::Unbound {
            remote: DomId::new(self.guest.id),
        };
        let found = self.others.iter().find_map(|other| {
            let domain = self.domains.get(DomId::new(other.id))?;
            let events = domain.events.read();
            // There may be very many.
            let mut ports = events.open_ports().take(32);
            let (port, _) = ports.find(|(_, status)| status.channel == own)?;
            Some([u32::from(other.id), port.raw()])
        });
        found.map_or_else(
            || event_op(self.others, choices),
            |record| event(EventChannelOp::BindInterdomain, &record),
        )
    }
}

/// Gives the CPU away, or lets time pass. It always sees to it that it will be woken.
pub(super) fn wait(world: &World, choices: &mut Choices) -> Act {
    let soon = world.sim().now() + choices.below(3_000_000);
    let [low, high] = [soon & 0xffff_ffff, soon >> 32].map(|half| u32::try_from(half).unwrap());
    match choices.below(14) {
        10 | 11 => send_nmi(choices),
        12 => {
            let (vcpu, period) = (choices.below(2), 1_000_000 + choices.below(2_000_000));
            let op = u64::from(VcpuOp::SetPeriodicTimer.raw());
            let args = [op, vcpu, World::SCRATCH];
            call(Hypercall::VcpuOp, &args, &[u32::try_from(period).unwrap(), 0])
        }
        0 | 1 => call(Hypercall::SchedOp, &[u64::from(SchedOp::Yield.raw())], &[]),
        2 | 3 => call(Hypercall::SchedOp, &[u64::from(SchedOp::Block.raw())], &[]),
        4 => {
            let ports = World::SCRATCH + 24;
            let list = u32::try_from(ports).unwrap();
            let port = u32::try_from(1 + choices.below(5)).unwrap();
            call(
                Hypercall::SchedOp,
                &[u64::from(SchedOp::Poll.raw()), World::SCRATCH],
                &[list, 0, 1, 0, low, high, port],
            )
        }
        5 => call(Hypercall::SetTimerOp, &[soon], &[]),
        6 => {
            let vcpu = u64::from(choices.chance(20));
            let op = u64::from(VcpuOp::GetRunstateInfo.raw());
            call(Hypercall::VcpuOp, &[op, vcpu, World::SCRATCH], &[])
        }
        7 => call(
            Hypercall::VcpuOp,
            &[u64::from(VcpuOp::SetSingleshotTimer.raw()), 0, World::SCRATCH],
            &[low, high, u32::from(choices.chance(30))],
        ),
        _ => Act::Compute(choices.below(5_000_000)),
    }
}

/// Sets a breakpoint, mostly where and on what it may; or takes it away again.
pub(super) fn breakpoint(choices: &mut Choices) -> VecDeque<Act> {
    let set = |number: u64, value: u64| call(Hypercall::SetDebugreg, &[number, value], &[]);
    let address = choices.one_of(&[World::SCRATCH, World::CODE, layout::HYPERVISOR.start, 1 << 47]);
    let control = choices.one_of(&[0, 0x401, 0xd_0404, 0x2_0001, 1 << 13]);
    VecDeque::from([set(choices.below(2), address), set(7, control)])
}

/// Software interrupts that the CPU delivers, and an alarm after some time on a CPU.
pub(super) fn extension(choices: &mut Choices) -> Act {
    let set = |op: ExtensionOp, args: [u64; 2]| {
        let [a, b] = args;
        call(Hypercall::ExtensionOp, &[u64::from(op.raw()), a, b], &[])
    };
    match choices.below(8) {
        0..=3 => {
            let vector = u64::from(*DIRECT_GATE_VECTORS.start()) + choices.below(4);
            let address = choices.one_of(&[0, World::EVENT_CALLBACK, layout::HYPERVISOR.start]);
            set(ExtensionOp::SetDirectGate, [vector, address])
        }
        4 => bind_virq(Virq::VirtualAlarm),
        5 => set(
            ExtensionOp::VcpuCosts,
            [choices.one_of(&[World::SCRATCH, World::CODE, 0]), 0],
        ),
        _ => set(ExtensionOp::SetVirtualAlarm, [choices.below(20_000_000), 0]),
    }
}

/// A hypercall by a guest that knows nothing, or a fault.
pub(super) fn anything(choices: &mut Choices) -> Act {
    if choices.chance(2) {
        return Act::Raise(Exception {
            vector: choices.one_of(&[0, 3, 6, 13, 14]),
            error_code: u32::try_from(choices.below(32)).unwrap(),
            address: choices.any(),
        });
    }
    let mut value = || match choices.below(6) {
        0 => choices.any(),
        1 => layout::HYPERVISOR.start + choices.below(1 << 20),
        2 => World::SCRATCH + choices.below(0x2000),
        3 => 0,
        _ => choices.below(40),
    };
    let args = core::array::from_fn(|_| value());
    let record = (0..8).flat_map(|_| value().to_le_bytes()).collect();
    let number = value();
    // A guest that ends itself, or takes its last vCPU down, tries nothing more.
    let may_end = [Hypercall::SchedOp, Hypercall::SchedOpCompat, Hypercall::VcpuOp].map(Hypercall::raw);
    let number = if may_end.contains(&number) {
        Hypercall::XenVersion.raw()
    } else {
        number
    };
    Act::Call { number, args, record }
}
