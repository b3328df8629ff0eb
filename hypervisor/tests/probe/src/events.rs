//! `event_channel_op`. The last subject: its last check closes every port, the runtime's own too.

use alloc::vec::Vec;

use bulkhead_abi::{
    DomId, Errno, Hypercall,
    event::{
        AllocUnbound, BindInterdomain, BindIpi, BindVcpu, BindVirq, ChannelStatus, Close, EventChannelOp,
        MAX_PORTS_2LEVEL, Reset, Send, Status, Unmask, Virq,
    },
};

use crate::{
    calls::{Answer, call, in_out, input, refusal, tidy},
    frames::Frame,
    probe::{Direction, Probe},
};

/// A domain that there is not.
const NOBODY: DomId = DomId::new(77);
/// Numbers that no port has.
const NO_PORTS: [u32; 3] = [0, MAX_PORTS_2LEVEL, u32::MAX];

pub(crate) fn check(probe: &mut Probe) {
    unbound(probe);
    interdomain(probe);
    virqs(probe);
    ipis(probe);
    sending(probe);
    status(probe);
    full(probe);
    pointers(probe);
    reset(probe);
}

fn op(op: EventChannelOp, at: u64) -> Answer {
    call(Hypercall::EventChannelOp, [u64::from(op.raw()), at])
}

pub(crate) fn alloc_unbound(dom: DomId, remote_dom: DomId) -> Answer {
    let mut record = AllocUnbound {
        dom,
        remote_dom,
        port: 0,
    };
    op(EventChannelOp::AllocUnbound, in_out(&mut record)).map(|_| u64::from(record.port))
}

pub(crate) fn bind_interdomain(remote_dom: DomId, remote_port: u32) -> Answer {
    let mut record = BindInterdomain {
        remote_dom,
        remote_port,
        local_port: 0,
    };
    op(EventChannelOp::BindInterdomain, in_out(&mut record)).map(|_| u64::from(record.local_port))
}

pub(crate) fn bind_virq(virq: u32, vcpu: u32) -> Answer {
    let mut record = BindVirq { virq, vcpu, port: 0 };
    op(EventChannelOp::BindVirq, in_out(&mut record)).map(|_| u64::from(record.port))
}

pub(crate) fn bind_ipi(vcpu: u32) -> Answer {
    let mut record = BindIpi { vcpu, port: 0 };
    op(EventChannelOp::BindIpi, in_out(&mut record)).map(|_| u64::from(record.port))
}

pub(crate) fn close(port: u32) -> Answer {
    op(EventChannelOp::Close, input(&Close { port }))
}

pub(crate) fn send(port: u32) -> Answer {
    op(EventChannelOp::Send, input(&Send { port }))
}

pub(crate) fn unmask(port: u32) -> Answer {
    op(EventChannelOp::Unmask, input(&Unmask { port }))
}

fn bind_vcpu(port: u32, vcpu: u32) -> Answer {
    op(EventChannelOp::BindVcpu, input(&BindVcpu { port, vcpu }))
}

pub(crate) fn status_of(dom: DomId, port: u32) -> Result<Status, Answer> {
    let mut record = Status {
        dom,
        port,
        ..Status::default()
    };
    match op(EventChannelOp::Status, in_out(&mut record)) {
        Ok(0) => Ok(record),
        other => Err(other),
    }
}

/// The port that a binding answered; none if it failed, which later checks of it show.
pub(crate) fn port(answer: Answer) -> u32 {
    answer.ok().and_then(|port| u32::try_from(port).ok()).unwrap_or(0)
}

/// A port that is surely closed.
const CLOSED: u32 = MAX_PORTS_2LEVEL - 1;

fn unbound(probe: &mut Probe) {
    let new = alloc_unbound(DomId::SELF, NOBODY);
    let found = status_of(DomId::SELF, port(new));
    let is_right = found.is_ok_and(|found| {
        found.status == ChannelStatus::Unbound.raw() && found.bound_to == u32::from(NOBODY.raw())
    });
    probe.good(
        "event_channel_op.alloc_unbound",
        if is_right { Ok(()) } else { Err((new, found)) },
    );
    if probe.is_control() {
        let for_nobody = alloc_unbound(NOBODY, DomId::SELF);
        probe.refused("event_channel_op.alloc_unbound", Errno::Srch, for_nobody);
    } else {
        let for_other = alloc_unbound(DomId::new(0), DomId::SELF);
        probe.refused("event_channel_op.alloc_unbound", Errno::Perm, for_other);
    }

    let closed = close(port(new));
    let again = close(port(new));
    probe.answers("event_channel_op.close", closed, 0);
    let mut bad = NO_PORTS.map(close).to_vec();
    bad.extend([again, close(CLOSED)]);
    probe.all_refused("event_channel_op.close", Errno::Inval, &bad);
}

fn interdomain(probe: &mut Probe) {
    let waiting = port(alloc_unbound(DomId::SELF, DomId::SELF));
    let other = port(alloc_unbound(DomId::SELF, NOBODY));
    let bound = bind_interdomain(DomId::SELF, waiting);
    let found = status_of(DomId::SELF, waiting);
    let is_right = found.is_ok_and(|found| {
        found.status == ChannelStatus::Interdomain.raw() && found.remote_port == port(bound)
    });
    probe.good(
        "event_channel_op.bind_interdomain",
        if is_right && bound.is_ok() {
            Ok(())
        } else {
            Err((bound, found))
        },
    );
    let mut bad = NO_PORTS.map(|port| bind_interdomain(DomId::SELF, port)).to_vec();
    // Taken already; for another; closed.
    bad.extend([waiting, other, CLOSED].map(|port| bind_interdomain(DomId::SELF, port)));
    probe.all_refused("event_channel_op.bind_interdomain", Errno::Inval, &bad);
    let nowhere = bind_interdomain(NOBODY, 1);
    probe.refused("event_channel_op.bind_interdomain", Errno::Srch, nowhere);

    // One end goes: the other waits again for the same domain.
    let closed = close(port(bound));
    let found = status_of(DomId::SELF, waiting);
    let waits = found.is_ok_and(|found| found.status == ChannelStatus::Unbound.raw());
    let result = if closed == Ok(0) && waits {
        Ok(())
    } else {
        Err((closed, found))
    };
    probe.law("the-end-that-is-left-waits-again", result);
    tidy([close(waiting), close(other)]);
}

fn virqs(probe: &mut Probe) {
    let new = bind_virq(Virq::Debug.raw(), 0);
    let found = status_of(DomId::SELF, port(new));
    let is_right = found.is_ok_and(|found| found.status == ChannelStatus::Virq.raw());
    probe.good(
        "event_channel_op.bind_virq",
        if is_right && new.is_ok() {
            Ok(())
        } else {
            Err((new, found))
        },
    );
    let again = bind_virq(Virq::Debug.raw(), 0);
    probe.refused("event_channel_op.bind_virq", Errno::Exist, again);
    let bad = [
        bind_virq(5, 0),
        bind_virq(24, 0),
        bind_virq(u32::MAX, 0),
        bind_virq(Virq::Console.raw(), 1),
    ];
    probe.all_refused("event_channel_op.bind_virq", Errno::Inval, &bad);
    let absent = [2, u32::MAX].map(|vcpu| bind_virq(Virq::Debug.raw(), vcpu));
    probe.all_refused("event_channel_op.bind_virq", Errno::NoEnt, &absent);
    let console = bind_virq(Virq::Console.raw(), 0);
    if probe.is_control() {
        probe.law("the-machines-interrupts-are-domain-0s", console);
        tidy([close(port(console))]);
    } else {
        probe.refused("event_channel_op.bind_virq", Errno::Busy, console);
    }
    let tied = [bind_vcpu(port(new), 1), send(port(new))];
    let result = if tied == [refusal(Errno::Inval); 2] {
        Ok(())
    } else {
        Err(tied)
    };
    probe.law("a-virtual-interrupt-of-a-vcpu-is-neither-moved-nor-sent", result);
    tidy([close(port(new))]);
}

fn ipis(probe: &mut Probe) {
    let new = bind_ipi(0);
    let found = status_of(DomId::SELF, port(new));
    let is_right = found.is_ok_and(|found| found.status == ChannelStatus::Ipi.raw());
    probe.good(
        "event_channel_op.bind_ipi",
        if is_right && new.is_ok() {
            Ok(())
        } else {
            Err((new, found))
        },
    );
    let absent = [2, u32::MAX].map(bind_ipi);
    probe.all_refused("event_channel_op.bind_ipi", Errno::NoEnt, &absent);

    let movable = port(alloc_unbound(DomId::SELF, NOBODY));
    let moved = bind_vcpu(movable, 1);
    let found = status_of(DomId::SELF, movable);
    let is_right = moved == Ok(0) && found.is_ok_and(|found| found.vcpu == 1);
    probe.good(
        "event_channel_op.bind_vcpu",
        if is_right { Ok(()) } else { Err((moved, found)) },
    );
    let mut bad = NO_PORTS.map(|port| bind_vcpu(port, 0)).to_vec();
    bad.extend([bind_vcpu(port(new), 1), bind_vcpu(CLOSED, 0)]);
    probe.all_refused("event_channel_op.bind_vcpu", Errno::Inval, &bad);
    let absent = [2, u32::MAX].map(|vcpu| bind_vcpu(movable, vcpu));
    probe.all_refused("event_channel_op.bind_vcpu", Errno::NoEnt, &absent);
    tidy([close(port(new)), close(movable)]);
}

fn sending(probe: &mut Probe) {
    let ipi = port(bind_ipi(0));
    let waiting = port(alloc_unbound(DomId::SELF, NOBODY));
    // To nobody is no error.
    let sent = [send(ipi), send(waiting)];
    probe.good(
        "event_channel_op.send",
        if sent == [Ok(0); 2] { Ok(()) } else { Err(sent) },
    );
    let mut bad = NO_PORTS.map(send).to_vec();
    bad.push(send(CLOSED));
    probe.all_refused("event_channel_op.send", Errno::Inval, &bad);
    probe.answers("event_channel_op.unmask", unmask(ipi), 0);
    let mut bad = NO_PORTS.map(unmask).to_vec();
    bad.push(unmask(CLOSED));
    probe.all_refused("event_channel_op.unmask", Errno::Inval, &bad);
    tidy([close(ipi), close(waiting)]);
}

fn status(probe: &mut Probe) {
    let found = status_of(DomId::SELF, CLOSED);
    let is_closed = found.is_ok_and(|found| found.status == ChannelStatus::Closed.raw());
    probe.good(
        "event_channel_op.status",
        if is_closed { Ok(()) } else { Err(found) },
    );
    let of = |dom: DomId, port: u32| status_of(dom, port).map_or_else(|answer| answer, |_| Ok(0));
    let bad = NO_PORTS.map(|port| of(DomId::SELF, port));
    probe.all_refused("event_channel_op.status", Errno::Inval, &bad);
    if probe.is_control() {
        probe.refused("event_channel_op.status", Errno::Srch, of(NOBODY, 1));
    } else {
        probe.refused("event_channel_op.status", Errno::Perm, of(DomId::new(0), 1));
    }
}

/// When all ports are open, no more are to be had; when they are closed, they are.
fn full(probe: &mut Probe) {
    let waiting = port(alloc_unbound(DomId::SELF, DomId::SELF));
    let opened: Vec<u32> = (0..MAX_PORTS_2LEVEL)
        .map_while(|_| alloc_unbound(DomId::SELF, NOBODY).ok())
        .filter_map(|port| u32::try_from(port).ok())
        .collect();
    let full = Errno::NoSpc;
    probe.refused(
        "event_channel_op.alloc_unbound",
        full,
        alloc_unbound(DomId::SELF, NOBODY),
    );
    probe.refused(
        "event_channel_op.bind_interdomain",
        full,
        bind_interdomain(DomId::SELF, waiting),
    );
    probe.refused("event_channel_op.bind_ipi", full, bind_ipi(0));
    probe.refused(
        "event_channel_op.bind_virq",
        full,
        bind_virq(Virq::Debug.raw(), 0),
    );
    let closed = opened.iter().filter(|port| close(**port) == Ok(0)).count();
    let result = if closed == opened.len() && opened.len() > 4000 {
        Ok(())
    } else {
        Err((opened.len(), closed))
    };
    probe.law("every-port-can-be-opened-and-closed", result);
    tidy([close(waiting)]);
}

/// The order matters where a call is made although its result cannot be told: then a port stays open, until the reset.
fn pointers(probe: &mut Probe) {
    for (name, operation, direction) in [
        (
            "event_channel_op.alloc_unbound",
            EventChannelOp::AllocUnbound,
            Direction::In,
        ),
        (
            "event_channel_op.bind_interdomain",
            EventChannelOp::BindInterdomain,
            Direction::In,
        ),
        (
            "event_channel_op.bind_virq",
            EventChannelOp::BindVirq,
            Direction::In,
        ),
        (
            "event_channel_op.bind_ipi",
            EventChannelOp::BindIpi,
            Direction::InOut,
        ),
        (
            "event_channel_op.bind_vcpu",
            EventChannelOp::BindVcpu,
            Direction::In,
        ),
        ("event_channel_op.close", EventChannelOp::Close, Direction::In),
        ("event_channel_op.send", EventChannelOp::Send, Direction::In),
        ("event_channel_op.unmask", EventChannelOp::Unmask, Direction::In),
        ("event_channel_op.status", EventChannelOp::Status, Direction::In),
        ("event_channel_op.reset", EventChannelOp::Reset, Direction::In),
    ] {
        probe.faults(name, direction, |at| op(operation, at));
    }
    let own = u64::from(DomId::SELF.raw());
    let read_only = Frame::table(&[own | own << 16]);
    let made = op(EventChannelOp::AllocUnbound, read_only.address());
    let is_refused = made == refusal(Errno::Fault);
    probe.law(
        "a-port-that-cannot-be-told-is-EFAULT",
        if is_refused { Ok(()) } else { Err(made) },
    );
}

fn reset(probe: &mut Probe) {
    let reset = |dom: DomId| op(EventChannelOp::Reset, input(&Reset { dom }));
    if probe.is_control() {
        probe.refused("event_channel_op.reset", Errno::Srch, reset(NOBODY));
    } else {
        probe.refused("event_channel_op.reset", Errno::Perm, reset(DomId::new(0)));
    }
    let made = reset(DomId::SELF);
    let open = (1..MAX_PORTS_2LEVEL)
        .filter(|port| {
            status_of(DomId::SELF, *port).is_ok_and(|found| found.status != ChannelStatus::Closed.raw())
        })
        .count();
    probe.good(
        "event_channel_op.reset",
        if made == Ok(0) && open == 0 {
            Ok(())
        } else {
            Err((made, open))
        },
    );
}
