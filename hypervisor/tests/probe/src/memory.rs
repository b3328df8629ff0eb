//! `memory_op`: what there is, giving back, taking more, exchanging.

use bulkhead_abi::{
    DomId, Errno, Hypercall, Record, layout,
    memory::{E820Entry, E820Type, MachphysMapping, MemoryExchange, MemoryMap, MemoryOp, MemoryReservation},
};

use crate::{
    calls::{Answer, call, in_out, input, refusal},
    frames::{Frame, WRITABLE, show},
    mmu::read,
    probe::{Direction, Probe},
    window::Window,
};

pub(crate) fn check(probe: &mut Probe, window: &mut Window) {
    holdings(probe);
    maps(probe);
    balloon(probe);
    exchange(probe);
    together(probe, window);
}

pub(crate) fn memory_op(op: MemoryOp, at: u64) -> Answer {
    call(Hypercall::MemoryOp, [u64::from(op.raw()), at])
}

fn about(op: MemoryOp, domain: DomId) -> Answer {
    memory_op(op, input(&domain.raw()))
}

/// How much the domain has, as the hypervisor says.
fn held() -> u64 {
    about(MemoryOp::CurrentReservation, DomId::SELF).unwrap_or(0)
}

fn holdings(probe: &mut Probe) {
    let other = DomId::new(if probe.is_control() { 77 } else { 0 });
    for (name, op, at_least) in [
        (
            "memory_op.current_reservation",
            MemoryOp::CurrentReservation,
            4096,
        ),
        (
            "memory_op.maximum_reservation",
            MemoryOp::MaximumReservation,
            4096,
        ),
        ("memory_op.maximum_gpfn", MemoryOp::MaximumGpfn, 0),
    ] {
        let answer = about(op, DomId::SELF);
        let is_plausible = answer.is_ok_and(|pages| pages >= at_least && pages < 1 << 20);
        probe.good(name, if is_plausible { Ok(()) } else { Err(answer) });
        probe.faults(name, Direction::In, |at| memory_op(op, at));
        let errno = if probe.is_control() {
            Errno::Srch
        } else {
            Errno::Perm
        };
        probe.refused(name, errno, about(op, other));
        if op == MemoryOp::CurrentReservation {
            probe.refused("memory_op", errno, about(op, other));
        }
    }
    let last = memory_op(MemoryOp::MaximumRamPage, 0);
    let is_plausible = last.is_ok_and(|last| last >= held());
    probe.good(
        "memory_op.maximum_ram_page",
        if is_plausible { Ok(()) } else { Err(last) },
    );
}

fn maps(probe: &mut Probe) {
    let mut range = E820Entry::ZERO;
    let mut map = MemoryMap {
        nr_entries: 1,
        buffer: in_out(&mut range),
    };
    let made = memory_op(MemoryOp::MemoryMap, in_out(&mut map));
    let (kind, size) = (range.range_type, range.size);
    let is_ram = kind == E820Type::Ram.raw() && size >= held().wrapping_mul(4096);
    let result = if made == Ok(0) && is_ram && map.nr_entries == 1 {
        Ok(())
    } else {
        Err((made, map.nr_entries, kind, size))
    };
    probe.good("memory_op.memory_map", result);
    probe.faults("memory_op.memory_map", Direction::InOut, |at| {
        memory_op(MemoryOp::MemoryMap, at)
    });
    probe.faults("memory_op.memory_map", Direction::InOut, |buffer| {
        let mut map = MemoryMap {
            nr_entries: 1,
            buffer,
        };
        memory_op(MemoryOp::MemoryMap, in_out(&mut map))
    });

    let mut window = MachphysMapping::ZERO;
    let made = memory_op(MemoryOp::MachphysMapping, in_out(&mut window));
    let range = window.v_start..window.v_end;
    let is_right = range == layout::M2P && window.max_mfn <= layout::M2P_MAX_MFN;
    probe.good(
        "memory_op.machphys_mapping",
        if made == Ok(0) && is_right {
            Ok(())
        } else {
            Err((made, window))
        },
    );
    probe.faults("memory_op.machphys_mapping", Direction::InOut, |at| {
        memory_op(MemoryOp::MachphysMapping, at)
    });
}

/// A list of frame numbers as the ABI gives it over.
fn reservation(list: &mut [u64], extents: u64, order: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: in_out(list),
        nr_extents: extents,
        extent_order: order,
        mem_flags: 0,
        domid: DomId::SELF,
    }
}

pub(crate) fn reserve(op: MemoryOp, list: &mut [u64], order: u32) -> Answer {
    let record = reservation(list, list.len() as u64, order);
    memory_op(op, input(&record))
}

/// Down and up again.
fn balloon(probe: &mut Probe) {
    let decrease = |mfn: u64| reserve(MemoryOp::DecreaseReservation, &mut [mfn], 0);
    let before = held();
    let frame = Frame::new();
    frame.set(0, 0x5ec2e7);
    let mapped = decrease(frame.mfn());
    let hidden = show(frame.address(), 0);
    let given = decrease(frame.mfn());
    let again = decrease(frame.mfn());
    let less = held();
    let all = [mapped, hidden, given, again, Ok(before.wrapping_sub(less))];
    probe.good(
        "memory_op.decrease_reservation",
        if all == [Ok(0), Ok(0), Ok(1), Ok(0), Ok(1)] {
            Ok(())
        } else {
            Err(all)
        },
    );
    let lost = [
        show(frame.address(), frame.entry(WRITABLE)),
        crate::pins::pin(1, frame.mfn()),
    ];
    probe.law(
        "a-frame-that-was-given-back-is-out-of-reach",
        if lost.iter().all(Result::is_err) {
            Ok(())
        } else {
            Err(lost)
        },
    );

    let mut list = [frame.pfn()];
    let taken = reserve(MemoryOp::PopulatePhysmap, &mut list, 0);
    let [mfn] = list;
    let shown = show(frame.address(), mfn << 12 | WRITABLE);
    let number = read(layout::M2P.start.wrapping_add(mfn.wrapping_mul(8)));
    let word = read(frame.address());
    let found = (taken, shown, number, word, held());
    let expected = (Ok(1), Ok(0), Some(frame.pfn()), Some(0), before);
    probe.good(
        "memory_op.populate_physmap",
        if found == expected { Ok(()) } else { Err(found) },
    );

    // The domain has all that it may have: as many extents as it gets is none.
    let mut list = [0];
    let more = reserve(MemoryOp::IncreaseReservation, &mut list, 0);
    let gone = Frame::new();
    let room = show(gone.address(), 0).and_then(|_| decrease(gone.mfn()));
    let taken = reserve(MemoryOp::IncreaseReservation, &mut list, 0);
    let [mfn] = list;
    let shown = show(gone.address(), mfn << 12 | WRITABLE);
    let all = [more, room, taken, shown];
    probe.good(
        "memory_op.increase_reservation",
        if all == [Ok(0), Ok(1), Ok(1), Ok(0)] {
            Ok(())
        } else {
            Err(all)
        },
    );
    for (name, op) in [
        ("memory_op.increase_reservation", MemoryOp::IncreaseReservation),
        ("memory_op.decrease_reservation", MemoryOp::DecreaseReservation),
        ("memory_op.populate_physmap", MemoryOp::PopulatePhysmap),
    ] {
        probe.faults(name, Direction::In, |at| memory_op(op, at));
    }
}

fn exchanged(input: MemoryReservation, output: MemoryReservation, done: u64) -> (Answer, u64) {
    let mut record = MemoryExchange {
        input,
        output,
        nr_exchanged: done,
    };
    let answer = memory_op(MemoryOp::Exchange, in_out(&mut record));
    (answer, record.nr_exchanged)
}

/// Scattered frames for as many in a row: as many as may be.
fn exchange(probe: &mut Probe) {
    let frames = [(); 16].map(|()| Frame::new());
    let mut given = frames.each_ref().map(Frame::mfn);
    let mut taken = [frames.first().map_or(0, Frame::pfn)];
    let before = held();
    let hidden = frames
        .iter()
        .try_for_each(|frame| show(frame.address(), 0).map(|_| ()));
    let (made, done) = exchanged(reservation(&mut given, 16, 0), reservation(&mut taken, 1, 4), 0);
    let [mfn] = taken;
    let shown = (mfn..)
        .zip(&frames)
        .try_for_each(|(mfn, frame)| show(frame.address(), mfn << 12 | WRITABLE).map(|_| ()));
    let is_right = made == Ok(0) && done == 16 && mfn.is_multiple_of(16) && held() == before;
    let result = if is_right && hidden.is_ok() && shown.is_ok() {
        Ok(())
    } else {
        Err((made, done, mfn, hidden, shown))
    };
    probe.good("memory_op.exchange", result);

    let (mut from, mut to) = ([Frame::new().mfn(); 2], [0; 2]);
    let foreign = |record: MemoryReservation| MemoryReservation {
        domid: DomId::new(77),
        ..record
    };
    let (one, two) = (reservation(&mut from, 1, 0), reservation(&mut to, 1, 0));
    let denied = [
        exchanged(foreign(one), two, 0),
        exchanged(one, foreign(two), 0),
        exchanged(one, reservation(&mut to, 1, 30), 0),
    ]
    .map(|(answer, _)| answer);
    probe.all_refused("memory_op.exchange", Errno::Perm, &denied);
    let wrong = [
        // More for fewer; more done than there is; a frame in use; no frame.
        exchanged(one, reservation(&mut to, 2, 0), 0),
        exchanged(one, two, 2),
        exchanged(one, two, 0),
        exchanged(reservation(&mut [u64::MAX], 1, 0), two, 0),
    ]
    .map(|(answer, _)| answer);
    probe.all_refused("memory_op.exchange", Errno::Inval, &wrong);
    probe.faults("memory_op.exchange", Direction::In, |at| {
        memory_op(MemoryOp::Exchange, at)
    });
    let listed = |extent_start: u64| MemoryReservation { extent_start, ..one };
    probe.faults("memory_op.exchange", Direction::In, |list| {
        exchanged(listed(list), two, 0).0
    });
    probe.faults("memory_op.exchange", Direction::In, |list| {
        exchanged(one, listed(list), 0).0
    });
    // Of nothing for nothing, and still the record is written.
    let own = u64::from(DomId::SELF.raw());
    let read_only = Frame::table(&[0, 0, 0, own, 0, 0, 0, own]);
    let made = memory_op(MemoryOp::Exchange, read_only.address());
    let is_refused = made == refusal(Errno::Fault);
    probe.law(
        "an-exchange-that-cannot-be-told-is-EFAULT",
        if is_refused { Ok(()) } else { Err(made) },
    );
}

/// The errors of the call as a whole are those of its operations.
fn together(probe: &mut Probe, window: &mut Window) {
    probe.good("memory_op", memory_op(MemoryOp::MaximumRamPage, 0));
    probe.faults("memory_op", Direction::In, |at| {
        memory_op(MemoryOp::CurrentReservation, at)
    });
    let table = window.level1.mfn();
    let mut list = [table];
    let (wrong, _) = exchanged(reservation(&mut list, 1, 0), reservation(&mut [0], 1, 0), 0);
    probe.refused("memory_op", Errno::Inval, wrong);
}
