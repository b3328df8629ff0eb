//! What whoever builds domains asks of `memory_op`, and whoever runs them of `sched_op`: maps, claims, others' grant tables, ends.

use bulkhead_abi::{
    DomId, Errno, Record,
    control::{ControlOp, CreateDomain, STATE_SHUT_DOWN},
    memory::{
        AcquireResource, E820Entry, E820Type, ForeignMemoryMap, MAX_MAP_ENTRIES, MachphysMfnList, MemoryMap,
        MemoryOp, MemoryReservation, RESOURCE_GRANT_TABLE,
    },
    sched::{RemoteShutdown, SchedOp, ShutdownReason},
};

use crate::{
    calls::{Answer, in_out, input, refusal},
    control::NOBODY,
    domains::{create_domain, info, tell, wanted},
    frames::Frame,
    memory::memory_op,
    probe::{Direction, Probe},
    sched::sched_op,
};

/// More frames than any machine has that is tested.
const TOO_MANY: u64 = 1 << 30;

pub(crate) fn check(probe: &mut Probe) {
    own_map(probe);
    array(probe);
    if !probe.is_control() {
        return denied(probe);
    }
    machine_map(probe);
    let made = create_domain(&CreateDomain {
        limit: TOO_MANY,
        ..wanted(DomId::INVALID)
    });
    let Ok(domain) = made else {
        return probe.law("a-domain-is-made-to-be-built", made);
    };
    others_map(probe, domain);
    resources(probe, domain);
    claims(probe, domain);
    ends(probe, domain);
    probe.law(
        "a-domain-that-has-a-map-and-a-claim-is-destroyed",
        tell(ControlOp::DestroyDomain, domain),
    );
}

fn set_map(domid: DomId, entries: &[E820Entry], nr_entries: u32) -> Answer {
    set_map_at(domid, input(entries), nr_entries)
}

fn set_map_at(domid: DomId, buffer: u64, nr_entries: u32) -> Answer {
    let map = MemoryMap { nr_entries, buffer };
    memory_op(MemoryOp::SetMemoryMap, input(&ForeignMemoryMap { domid, map }))
}

/// What one of the two calls tells, as far as there is room: how many entries.
fn map_of(op: MemoryOp, entries: &mut [E820Entry]) -> Answer {
    let mut map = MemoryMap {
        nr_entries: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        buffer: in_out(entries),
    };
    memory_op(op, in_out(&mut map)).map(|_| u64::from(map.nr_entries))
}

fn own_map(probe: &mut Probe) {
    let name = "memory_op.set_memory_map";
    let range = |addr: u64, kind: E820Type| E820Entry {
        addr,
        size: 0x1000,
        range_type: kind.raw(),
    };
    let given = [range(0, E820Type::Ram), range(0x5000, E820Type::Reserved)];
    let mut told = [E820Entry::ZERO; 3];
    let set = set_map(DomId::SELF, &given, 2);
    let seen = map_of(MemoryOp::MemoryMap, &mut told);
    let is_same = told.starts_with(&given);
    let gone = set_map(DomId::SELF, &[], 0);
    let after = map_of(MemoryOp::MemoryMap, &mut told);
    let all = [set, seen, gone, after];
    let is_right = is_same && all == [Ok(0), Ok(2), Ok(0), Ok(1)];
    probe.good(name, if is_right { Ok(()) } else { Err((all, told)) });
    let long = [range(0, E820Type::Ram); MAX_MAP_ENTRIES as usize + 1];
    let bad = [MAX_MAP_ENTRIES + 1, u32::MAX].map(|count| set_map(DomId::SELF, &long, count));
    probe.all_refused(name, Errno::Inval, &bad);
    probe.faults(name, Direction::In, |at| memory_op(MemoryOp::SetMemoryMap, at));
    probe.faults(name, Direction::In, |at| set_map_at(DomId::SELF, at, 1));
}

fn others_map(probe: &mut Probe, domain: DomId) {
    let name = "memory_op.set_memory_map";
    probe.law("a-map-is-set-for-another", set_map(domain, &[E820Entry::ZERO], 1));
    probe.refused(name, Errno::Srch, set_map(NOBODY, &[], 0));
}

fn frames_of_array(list: &mut [u64]) -> Answer {
    let mut record = MachphysMfnList {
        max_extents: u32::try_from(list.len()).unwrap_or(u32::MAX),
        extent_start: in_out(list),
        nr_extents: 0,
    };
    memory_op(MemoryOp::MachphysMfnList, in_out(&mut record)).map(|_| u64::from(record.nr_extents))
}

/// The frames of the array that all may read.
fn array(probe: &mut Probe) {
    let name = "memory_op.machphys_mfn_list";
    let mut list = [0; 4];
    let counts = [frames_of_array(&mut list), frames_of_array(&mut [])];
    let last = memory_op(MemoryOp::MaximumRamPage, 0).unwrap_or(0);
    let [first, ..] = list;
    let is_right = matches!(counts, [Ok(1..=4), Ok(0)]) && first != 0 && first <= last;
    probe.good(name, if is_right { Ok(()) } else { Err((counts, list)) });
    probe.faults(name, Direction::In, |at| memory_op(MemoryOp::MachphysMfnList, at));
    probe.faults(name, Direction::InOut, |extent_start| {
        let record = MachphysMfnList {
            max_extents: 1,
            extent_start,
            nr_extents: 0,
        };
        memory_op(MemoryOp::MachphysMfnList, input(&record))
    });
}

fn machine_map(probe: &mut Probe) {
    let name = "memory_op.machine_memory_map";
    let mut told = [E820Entry::ZERO; 64];
    let count = map_of(MemoryOp::MachineMemoryMap, &mut told);
    let mut asked = MemoryMap::ZERO;
    let counted = memory_op(MemoryOp::MachineMemoryMap, in_out(&mut asked));
    let entries = told
        .get(..usize::try_from(count.unwrap_or(0)).unwrap_or(0))
        .unwrap_or_default();
    let is_ram = |entry: &&E820Entry| entry.range_type == E820Type::Ram.raw();
    let ram: u64 = entries.iter().filter(is_ram).map(|entry| entry.size).sum();
    let is_sorted = entries.is_sorted_by_key(|entry| entry.addr);
    let is_right = counted == Ok(0) && count == Ok(u64::from(asked.nr_entries)) && ram > 64 << 20;
    probe.good(
        name,
        if is_right && is_sorted {
            Ok(())
        } else {
            Err((count, counted, asked.nr_entries, ram))
        },
    );
    let short = told.get_mut(..1).unwrap_or_default();
    probe.refused(name, Errno::Inval, map_of(MemoryOp::MachineMemoryMap, short));
    probe.faults(name, Direction::InOut, |at| {
        memory_op(MemoryOp::MachineMemoryMap, at)
    });
    probe.faults(name, Direction::InOut, |buffer| {
        let mut map = MemoryMap {
            nr_entries: 64,
            buffer,
        };
        memory_op(MemoryOp::MachineMemoryMap, in_out(&mut map))
    });
}

fn acquire(record: &mut AcquireResource) -> Answer {
    memory_op(MemoryOp::AcquireResource, in_out(record)).map(|_| u64::from(record.nr_frames))
}

fn resources(probe: &mut Probe, domain: DomId) {
    let name = "memory_op.acquire_resource";
    let mut list = [0_u64; 2];
    let wanted = AcquireResource {
        domid: domain,
        resource_type: RESOURCE_GRANT_TABLE,
        nr_frames: 2,
        frame_list: in_out(&mut list),
        ..AcquireResource::ZERO
    };
    let ask = |record: AcquireResource| acquire(&mut record.clone());
    let got = ask(wanted);
    let size = ask(AcquireResource {
        nr_frames: 0,
        frame_list: 0,
        ..wanted
    });
    let [first, second] = list;
    let is_right = got == Ok(2) && matches!(size, Ok(2..)) && first != 0 && second != 0 && first != second;
    probe.good(name, if is_right { Ok(()) } else { Err((got, size, list)) });
    let beyond = size.unwrap_or(0);
    let bad = [
        AcquireResource {
            reserved: 1,
            ..wanted
        },
        AcquireResource { id: 1, ..wanted },
        AcquireResource {
            nr_frames: 0,
            ..wanted
        },
        AcquireResource {
            frame: beyond,
            ..wanted
        },
        AcquireResource {
            frame: u64::MAX,
            ..wanted
        },
        AcquireResource {
            frame_list: 0,
            ..wanted
        },
    ];
    probe.all_refused(name, Errno::Inval, &bad.map(ask));
    let other = AcquireResource {
        resource_type: 0,
        ..wanted
    };
    probe.refused(name, Errno::OpNotSupp, ask(other));
    probe.refused("memory_op", Errno::OpNotSupp, ask(other));
    let nobodys = AcquireResource {
        domid: NOBODY,
        ..wanted
    };
    probe.refused(name, Errno::Srch, ask(nobodys));
    let own = AcquireResource {
        domid: DomId::SELF,
        ..wanted
    };
    probe.refused(name, Errno::Perm, ask(own));
    probe.faults(name, Direction::In, |at| memory_op(MemoryOp::AcquireResource, at));
    probe.faults(name, Direction::InOut, |frame_list| {
        ask(AcquireResource {
            nr_frames: 1,
            frame_list,
            ..wanted
        })
    });
}

fn claim(domid: DomId, nr_extents: u64) -> Answer {
    claim_by(&MemoryReservation {
        nr_extents,
        domid,
        ..MemoryReservation::ZERO
    })
}

fn claim_by(record: &MemoryReservation) -> Answer {
    memory_op(MemoryOp::ClaimPages, input(record))
}

fn claims(probe: &mut Probe, domain: DomId) {
    let name = "memory_op.claim_pages";
    let claimed = claim(domain, 16);
    let twice = claim(domain, 32);
    let mut list = [0_u64];
    let reservation = MemoryReservation {
        extent_start: in_out(&mut list),
        nr_extents: 1,
        domid: domain,
        ..MemoryReservation::ZERO
    };
    let taken = memory_op(MemoryOp::PopulatePhysmap, input(&reservation));
    let ended = claim(domain, 0);
    let all = [claimed, taken, ended];
    probe.good(
        name,
        if all == [Ok(0), Ok(1), Ok(0)] {
            Ok(())
        } else {
            Err(all)
        },
    );
    probe.refused(name, Errno::NoMem, claim(domain, TOO_MANY));
    probe.refused("memory_op", Errno::NoMem, claim(domain, TOO_MANY));
    let record = MemoryReservation {
        nr_extents: 16,
        domid: domain,
        ..MemoryReservation::ZERO
    };
    let bad = [
        twice,
        // It has so many; may not have so many; and is none.
        claim(domain, 1),
        claim(domain, TOO_MANY + 1),
        claim(NOBODY, 16),
        claim_by(&MemoryReservation {
            extent_start: 8,
            ..record
        }),
        claim_by(&MemoryReservation {
            extent_order: 1,
            ..record
        }),
        claim_by(&MemoryReservation {
            mem_flags: 1,
            ..record
        }),
    ];
    probe.all_refused(name, Errno::Inval, &bad);
    probe.faults(name, Direction::In, |at| memory_op(MemoryOp::ClaimPages, at));
    // What others have claimed is not theirs who come. For a short time, and not all: the other probe takes frames as well.
    let free = info(DomId::new(0)).1.machine_free;
    let greedy = claim(domain, free.saturating_sub(1024));
    let neighbour = create_domain(&CreateDomain {
        limit: TOO_MANY,
        ..wanted(DomId::INVALID)
    });
    let over = neighbour.map(|neighbour| {
        let claimed = claim(neighbour, 4096);
        (claimed, tell(ControlOp::DestroyDomain, neighbour))
    });
    let ended = claim(domain, 0);
    // It has one when it is destroyed.
    let last = claim(domain, 16);
    let all = (greedy, over, ended, last);
    let is_right = all == (Ok(0), Ok((refusal(Errno::NoMem), Ok(0))), Ok(0), Ok(0));
    probe.law(
        "what-one-domain-has-claimed-no-other-gets",
        if is_right { Ok(()) } else { Err(all) },
    );
}

fn end(domain: DomId, reason: u32) -> Answer {
    sched_op(SchedOp::RemoteShutdown, input(&RemoteShutdown { domain, reason }))
}

fn ends(probe: &mut Probe, domain: DomId) {
    let name = "sched_op.remote_shutdown";
    let reboot = ShutdownReason::Reboot.raw();
    let bad = [
        end(domain, 6),
        end(domain, u32::MAX),
        end(DomId::new(0), reboot),
        end(DomId::SELF, reboot),
    ];
    probe.all_refused(name, Errno::Inval, &bad);
    probe.refused(name, Errno::Srch, end(NOBODY, reboot));
    probe.faults(name, Direction::In, |at| sched_op(SchedOp::RemoteShutdown, at));
    let ended = end(domain, reboot);
    let seen = info(domain).1;
    let is_right = (ended, seen.state, seen.reason) == (Ok(0), STATE_SHUT_DOWN, reboot);
    probe.good(name, if is_right { Ok(()) } else { Err((ended, seen)) });
}

/// Nobody else does any of this.
fn denied(probe: &mut Probe) {
    let record = Frame::new().address();
    for (name, op) in [
        ("memory_op.machine_memory_map", MemoryOp::MachineMemoryMap),
        ("memory_op.acquire_resource", MemoryOp::AcquireResource),
        ("memory_op.claim_pages", MemoryOp::ClaimPages),
    ] {
        probe.refused(name, Errno::Perm, memory_op(op, record));
    }
    let others = set_map(DomId::new(0), &[], 0);
    probe.refused("memory_op.set_memory_map", Errno::Perm, others);
    let reboot = ShutdownReason::Reboot.raw();
    let ends = [DomId::new(0), DomId::new(1), NOBODY].map(|domain| end(domain, reboot));
    probe.all_refused("sched_op.remote_shutdown", Errno::Perm, &ends);
}
