//! Interrupt lines of devices: domain 0 assigns two serial lines, which the machine has for this, to the other domain, and that one has them
//! interrupt it.

use bulkhead_abi::{
    DomId, Errno, Hypercall,
    control::{ASSIGN_LINES, ASSIGN_PORTS},
    event::{BindPirq, ChannelStatus, EventChannelOp, MAX_PORTS_2LEVEL},
    physdev::{
        Eoi, GetFreePirq, IRQ_STATUS_NEEDS_EOI, IrqStatusQuery, MapPirq, MapPirqType, PhysdevOp, SetIopl,
        SetupGsi, UnmapPirq,
    },
    sched::{Poll, SchedOp},
};
use bulkhead_runtime::time::Instant;

use crate::{
    calls::{Answer, call, in_out, input, refusal, tidy},
    domains::assign,
    events::{alloc_unbound, close, port, status_of},
    privileged::{inb, outb},
    probe::{Direction, Probe},
    shared::Shared,
};

/// Whose the serial lines are to be.
const OWNER: DomId = DomId::new(1);

/// A serial line: its first port, and the line by which it interrupts.
#[derive(Clone, Copy, Debug)]
struct Serial {
    base: u16,
    gsi: u32,
}

/// Interrupts by edge, as ISA lines do.
const SECOND: Serial = Serial { base: 0x2f8, gsi: 3 };
/// Interrupts by level: firmware's tables say so of this line.
const THIRD: Serial = Serial { base: 0x3e8, gsi: 5 };

/// The line of the hypervisor's own serial line.
const TAKEN: u32 = 4;

/// How long an interrupt may take, or domain 0, until it has assigned what it is to assign.
const PATIENCE_NS: u64 = 30_000_000_000;
/// How long no interrupt must come.
const QUIET_NS: u64 = 20_000_000;

/// Domain 0 gives its devices to the other.
pub(crate) fn give(probe: &mut Probe) {
    let given = [SECOND, THIRD].map(|Serial { base, gsi }| {
        assign(OWNER, ASSIGN_PORTS, base.into(), 8).and(assign(OWNER, ASSIGN_LINES, gsi.into(), 1))
    });
    probe.law(
        "lines-are-assigned",
        if given == [Ok(0); 2] { Ok(()) } else { Err(given) },
    );
}

pub(crate) fn check(probe: &mut Probe, shared: Shared) {
    refusals(probe);
    wiring(probe);
    if !probe.is_control() {
        interrupts(probe, shared);
    }
}

fn op(op: PhysdevOp, at: u64) -> Answer {
    call(Hypercall::PhysdevOp, [u64::from(op.raw()), at])
}

fn map(domid: DomId, kind: MapPirqType, index: i32, pirq: i32) -> Answer {
    let mut record = MapPirq {
        domid,
        map_type: kind.raw(),
        index,
        pirq,
        ..MapPirq::default()
    };
    op(PhysdevOp::MapPirq, in_out(&mut record)).map(|_| u64::from(record.pirq.cast_unsigned()))
}

/// Maps a message of the first function of bus 0, as one of a capability.
fn map_message(devfn: i32, entry_nr: i32) -> Answer {
    let mut record = MapPirq {
        domid: DomId::SELF,
        map_type: MapPirqType::Msi.raw(),
        index: -1,
        pirq: -1,
        devfn,
        entry_nr,
        ..MapPirq::default()
    };
    op(PhysdevOp::MapPirq, in_out(&mut record)).map(|_| u64::from(record.pirq.cast_unsigned()))
}

fn map_own(gsi: u32) -> Answer {
    map(DomId::SELF, MapPirqType::Gsi, gsi.cast_signed(), -1)
}

fn unmap(domid: DomId, pirq: u32) -> Answer {
    op(PhysdevOp::UnmapPirq, input(&UnmapPirq { domid, pirq }))
}

fn eoi(irq: u32) -> Answer {
    op(PhysdevOp::Eoi, input(&Eoi { irq }))
}

fn query(irq: u32) -> Answer {
    let mut record = IrqStatusQuery { irq, flags: 0x5a };
    op(PhysdevOp::IrqStatusQuery, in_out(&mut record)).map(|_| u64::from(record.flags))
}

fn free_pirq(kind: MapPirqType) -> Answer {
    let mut record = GetFreePirq {
        map_type: kind.raw(),
        pirq: 0,
    };
    op(PhysdevOp::GetFreePirq, in_out(&mut record)).map(|_| u64::from(record.pirq))
}

fn wire(gsi: u32, triggering: u8, polarity: u8) -> Answer {
    let record = SetupGsi {
        gsi,
        triggering,
        polarity,
    };
    op(PhysdevOp::SetupGsi, input(&record))
}

/// Domain 0 says how a line is wired that nobody has: as firmware's tables do.
fn wiring(probe: &mut Probe) {
    let name = "physdev_op.setup_gsi";
    if !probe.is_control() {
        probe.all_refused(name, Errno::Perm, &[wire(15, 0, 0), wire(u32::MAX, 0, 0)]);
        return;
    }
    // It has no lines itself.
    let none = free_pirq(MapPirqType::Gsi);
    probe.refused("physdev_op.get_free_pirq", Errno::NoSpc, none);
    probe.good(name, wire(15, 0, 0));
    let bad = [
        wire(15, 2, 0),
        wire(15, 0, 2),
        // The hypervisor's, one that there is not, and none.
        wire(TAKEN, 0, 0),
        wire(95, 0, 0),
        wire(u32::MAX, 0, 0),
    ];
    probe.all_refused(name, Errno::Inval, &bad);
    probe.faults(name, Direction::In, |at| op(PhysdevOp::SetupGsi, at));
    // The other domain binds its lines when it comes to that. As it is wired, until then; and a moment before, it is a pirq of another's.
    let deadline = Instant::now().as_nanos().saturating_add(PATIENCE_NS);
    let mut answer = wire(SECOND.gsi, 0, 0);
    while (answer == Ok(0) || answer == Err(Errno::Perm.into())) && Instant::now().as_nanos() < deadline {
        tidy([call(Hypercall::SchedOp, [u64::from(SchedOp::Yield.raw())])]);
        answer = wire(SECOND.gsi, 0, 0);
    }
    probe.refused(name, Errno::Exist, answer);
}

fn bind_at(at: u64) -> Answer {
    call(
        Hypercall::EventChannelOp,
        [u64::from(EventChannelOp::BindPirq.raw()), at],
    )
}

fn bind(pirq: u32, flags: u32) -> Answer {
    let mut record = BindPirq { pirq, flags, port: 0 };
    bind_at(in_out(&mut record)).map(|_| u64::from(record.port))
}

/// What is refused whoever asks.
fn refusals(probe: &mut Probe) {
    let other = DomId::new(if probe.is_control() { 1 } else { 0 });
    let gsi = MapPirqType::Gsi;
    let not_ours = [
        map(other, gsi, 3, -1),
        // The hypervisor's, nobody's, and one that there is not.
        map_own(TAKEN),
        map_own(7),
        map_own(90),
        // A message of a function that is somebody else's.
        map_message(0, 1),
    ];
    probe.all_refused("physdev_op.map_pirq", Errno::Perm, &not_ours);
    let bad = [
        map_message(256, 1),
        map_message(0, -1),
        map(DomId::SELF, MapPirqType::MultiMsi, -1, -1),
        map(DomId::SELF, MapPirqType::Unknown, 3, -1),
        map(DomId::SELF, gsi, -1, -1),
        map(DomId::SELF, gsi, 3, 4),
        map(DomId::SELF, gsi, i32::MAX, -1),
    ];
    probe.all_refused("physdev_op.map_pirq", Errno::Inval, &bad);
    probe.refused("physdev_op.unmap_pirq", Errno::Perm, unmap(other, 3));
    let numbers = [TAKEN, 96, 160, u32::MAX];
    let bad = numbers.map(|pirq| unmap(DomId::SELF, pirq));
    probe.all_refused("physdev_op.unmap_pirq", Errno::Inval, &bad);
    probe.all_refused("physdev_op.eoi", Errno::Inval, &numbers.map(eoi));
    probe.all_refused("physdev_op.irq_status_query", Errno::Inval, &numbers.map(query));
    let not_ours = [bind(TAKEN, 0), bind(7, 0), bind(96, 0)];
    probe.all_refused("event_channel_op.bind_pirq", Errno::Perm, &not_ours);
    let bad = [bind(160, 0), bind(u32::MAX, 0), bind(3, 2)];
    probe.all_refused("event_channel_op.bind_pirq", Errno::Inval, &bad);

    for (name, operation) in [
        ("physdev_op.map_pirq", PhysdevOp::MapPirq),
        ("physdev_op.unmap_pirq", PhysdevOp::UnmapPirq),
        ("physdev_op.eoi", PhysdevOp::Eoi),
        ("physdev_op.get_free_pirq", PhysdevOp::GetFreePirq),
        ("physdev_op.irq_status_query", PhysdevOp::IrqStatusQuery),
    ] {
        probe.faults(name, Direction::In, |at| op(operation, at));
    }
    probe.faults("event_channel_op.bind_pirq", Direction::In, bind_at);
    let bad = [MapPirqType::Msi, MapPirqType::Unknown].map(free_pirq);
    probe.all_refused("physdev_op.get_free_pirq", Errno::Inval, &bad);
}

impl Serial {
    fn write(self, register: u16, value: u8) {
        let _ = outb(self.base.wrapping_add(register), value);
    }

    /// Sets it up, with no interrupts.
    fn start(self) {
        // No interrupts, eight bits a character, no buffers, and the pin that lets it interrupt.
        for (register, value) in [(1, 0), (3, 3), (2, 0), (4, 0x0b)] {
            self.write(register, value);
        }
    }

    /// Asks for an interrupt when it can take a character: at once.
    fn ask(self) {
        self.write(1, 2);
    }

    /// Gives it a character. It interrupts when it has sent that.
    fn send(self) {
        self.write(0, b'x');
    }

    /// Asks why it interrupts, by which it is served. Says whether it is because it can take a character.
    fn is_served(self) -> bool {
        let (reason, fault) = inb(self.base.wrapping_add(2));
        fault.is_none() && reason & 0xf == 2
    }

    /// Asks for no more interrupts.
    fn stop(self) {
        self.write(1, 0);
    }
}

/// Waits until a port is pending, so long at most. Says whether it was, and takes note of it.
fn is_told(shared: Shared, port: u32, patience_ns: u64) -> bool {
    let ports = [port];
    let poll = Poll {
        ports: input(&ports),
        nr_ports: 1,
        timeout_abs_ns: Instant::now().as_nanos().saturating_add(patience_ns),
    };
    tidy([call(
        Hypercall::SchedOp,
        [u64::from(SchedOp::Poll.raw()), input(&poll)],
    )]);
    shared.take_pending(port)
}

/// Opens every port, until `act` has been done.
pub(crate) fn with_all_ports_open(act: impl FnOnce() -> Answer) -> Answer {
    let opened: alloc::vec::Vec<u32> = (0..MAX_PORTS_2LEVEL)
        .map_while(|_| alloc_unbound(DomId::SELF, DomId::new(77)).ok())
        .map(|opened| port(Ok(opened)))
        .collect();
    let answer = act();
    for port in opened {
        tidy([close(port)]);
    }
    answer
}

fn interrupts(probe: &mut Probe, shared: Shared) {
    tidy([op(PhysdevOp::SetIopl, input(&SetIopl { iopl: 1 }))]);
    // The other domain assigns them when it comes to that.
    let deadline = Instant::now().as_nanos().saturating_add(PATIENCE_NS);
    let mut mapped = map_own(THIRD.gsi);
    while mapped == refusal(Errno::Perm) && Instant::now().as_nanos() < deadline {
        tidy([call(Hypercall::SchedOp, [u64::from(SchedOp::Yield.raw())])]);
        mapped = map_own(THIRD.gsi);
    }
    let mapped = [map_own(SECOND.gsi), mapped, map_own(THIRD.gsi)];
    let expected = [SECOND.gsi, THIRD.gsi, THIRD.gsi].map(|gsi| Ok(u64::from(gsi)));
    probe.good(
        "physdev_op.map_pirq",
        if mapped == expected { Ok(()) } else { Err(mapped) },
    );
    let asked = [query(SECOND.gsi), query(THIRD.gsi)];
    probe.good(
        "physdev_op.irq_status_query",
        if asked == [Ok(0), Ok(u64::from(IRQ_STATUS_NEEDS_EOI))] {
            Ok(())
        } else {
            Err(asked)
        },
    );
    let full = with_all_ports_open(|| bind(SECOND.gsi, 0));
    probe.refused("event_channel_op.bind_pirq", Errno::NoSpc, full);
    let early = eoi(SECOND.gsi);
    let bound = [bind(SECOND.gsi, 0), bind(THIRD.gsi, 1)];
    let [second, third] = bound.map(port);
    let found = status_of(DomId::SELF, second);
    let is_right = found
        .is_ok_and(|found| (found.status, found.bound_to) == (ChannelStatus::Pirq.raw(), SECOND.gsi))
        && bound.iter().all(Result::is_ok)
        && early == refusal(Errno::Inval);
    probe.good(
        "event_channel_op.bind_pirq",
        if is_right {
            Ok(())
        } else {
            Err((bound, found, early))
        },
    );
    let again = [bind(SECOND.gsi, 0), bind(THIRD.gsi, 0)];
    probe.all_refused("event_channel_op.bind_pirq", Errno::Exist, &again);
    let in_use = unmap(DomId::SELF, SECOND.gsi);
    probe.refused("physdev_op.unmap_pirq", Errno::Busy, in_use);

    edges(probe, shared, second);
    levels(probe, shared, third);

    // Nobody listens any more.
    SECOND.ask();
    tidy([close(second), close(third)]);
    SECOND.send();
    let is_quiet = !is_told(shared, second, QUIET_NS);
    SECOND.stop();
    probe.law(
        "a-line-of-a-closed-port-is-quiet",
        if is_quiet { Ok(()) } else { Err(second) },
    );
    let unmapped = [SECOND.gsi, THIRD.gsi].map(|pirq| unmap(DomId::SELF, pirq));
    let free = free_pirq(MapPirqType::Gsi);
    probe.answers("physdev_op.get_free_pirq", free, SECOND.gsi.into());
    let after = [bind(SECOND.gsi, 0), bind(THIRD.gsi, 0)];
    let is_right = unmapped == [Ok(0); 2] && after == [refusal(Errno::Perm); 2];
    probe.good(
        "physdev_op.unmap_pirq",
        if is_right { Ok(()) } else { Err((unmapped, after)) },
    );
}

/// How often a device is asked for an interrupt.
const TIMES: usize = 5;

/// A device that interrupts by edge: an event each time that it is asked for, and no other.
fn edges(probe: &mut Probe, shared: Shared, port: u32) {
    SECOND.start();
    let before = is_told(shared, port, QUIET_NS);
    SECOND.ask();
    let told = [(); TIMES].map(|()| {
        let is_told = (is_told(shared, port, PATIENCE_NS), SECOND.is_served());
        let again = self::is_told(shared, port, QUIET_NS);
        SECOND.send();
        (is_told, again)
    });
    // That of the last character.
    let last = (is_told(shared, port, PATIENCE_NS), SECOND.is_served());
    SECOND.stop();
    let is_right = !before && told == [((true, true), false); TIMES] && last == (true, true);
    probe.law(
        "a-device-interrupts-each-time-that-it-is-asked-to",
        if is_right {
            Ok(())
        } else {
            Err((before, told, last))
        },
    );
}

/// A device that interrupts by level: an event, and none until it has been served and its owner has said so.
fn levels(probe: &mut Probe, shared: Shared, port: u32) {
    THIRD.start();
    let before = is_told(shared, port, QUIET_NS);
    THIRD.ask();
    let told = [(); TIMES].map(|()| {
        let first = is_told(shared, port, PATIENCE_NS);
        // It still wants something, and is not heard.
        let unheard = !is_told(shared, port, QUIET_NS);
        // It is heard again when its owner says that it is served, though it is not.
        let ended = eoi(THIRD.gsi);
        let again = is_told(shared, port, PATIENCE_NS);
        let is_served = THIRD.is_served();
        let ended = (ended, eoi(THIRD.gsi));
        let is_quiet = !is_told(shared, port, QUIET_NS);
        THIRD.send();
        ([first, unheard, again, is_served, is_quiet], ended)
    });
    THIRD.stop();
    // The last character's.
    let last = is_told(shared, port, PATIENCE_NS);
    let is_right = !before && told == [([true; 5], (Ok(0), Ok(0))); TIMES] && last;
    probe.good(
        "physdev_op.eoi",
        if is_right {
            Ok(())
        } else {
            Err((before, told, last))
        },
    );
}
