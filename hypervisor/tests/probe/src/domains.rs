//! `sysctl`: the lives of other domains. Domain 0 makes one out of nothing, fills it, lets it run, and takes it away again.

use alloc::{boxed::Box, vec::Vec};

use bulkhead_abi::{
    DomId, Errno, Hypercall, Record,
    control::{
        ASSIGN_FRAMES, ASSIGN_LINES, ASSIGN_PCI, ASSIGN_PORTS, AssignDevice, COPY_FROM, COPY_TO, COPY_ZEROS,
        ControlOp, CopyMemory, CreateDomain, DomainInfo, DomainRef, EXTENT_BELOW_4G, ExtentRef, KeepExtent,
        STATE_BUILDING, STATE_PAUSED, STATE_RUNNING, STATE_SHUT_DOWN, SetLimit, VcpuState,
    },
    event::{ChannelStatus, Virq},
    layout::PAGE_SIZE,
    memory::{MemoryOp, MemoryReservation},
    mmu::{ForeignDom, MmuExt, MmuExtOp, MmuUpdate, UVMF_INVLPG},
    pte,
    sched::{Poll, SchedOp},
    selectors,
    vcpu::{VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext},
};
use bulkhead_runtime::{time::Instant, trap::probe_write};

use crate::{
    calls::{Answer, call, in_out, input, refusal, tidy},
    control::{NOBODY, ask},
    dead::Dying,
    events::{self, port},
    giving, lines,
    mmu::read,
    probe::{Direction, Probe},
    window::Window,
};

/// The new domain's frames: its program, and tables of all levels that map it at [`PROGRAM`].
const FRAMES: usize = 5;
/// Where the program lies.
const PROGRAM: u64 = 0x40_0000;
/// What it does: `sched_op.shutdown` with the reason that stands at the end of its page, a reboot.
const CODE: &[u8] = &[
    0xb8, 29, 0, 0, 0, // mov eax, sched_op
    0xbf, 2, 0, 0, 0, // mov edi, shutdown
    0xbe, 0xfc, 0x0f, 0x40, 0, // mov esi, the record's address
    0x0f, 0x05, // syscall
    0xeb, 0xfe, // jmp to itself
];
/// The reason, at the end of the page.
const REBOOT: u32 = 1;
/// How long the new domain may take.
const PATIENCE_NS: u64 = 20_000_000_000;

pub(crate) fn check(probe: &mut Probe, window: &mut Window) {
    if !probe.is_control() {
        denied(probe, window);
        return;
    }
    lines::give(probe);
    create(probe);
    extents(probe);
    let made = create_domain(&wanted(DomId::INVALID));
    let Ok(domain) = made else {
        probe.good("sysctl.create_domain", made);
        return;
    };
    probe.good("sysctl.create_domain", made);
    infos(probe, domain);
    limits(probe, domain);
    let filled = fill(domain);
    probe.good("sysctl.copy_memory", filled);
    // Domain 0 is told when a domain ends, and prepares the channels of one before that runs.
    let told = port(events::bind_virq(Virq::DomExc.raw(), 0));
    let theirs = events::alloc_unbound(domain, DomId::new(0));
    let ours = port(events::bind_interdomain(domain, port(theirs)));
    let is_right = told != 0 && theirs == Ok(1) && ours != 0;
    probe.law(
        "a-port-is-opened-in-another-domains-name",
        if is_right {
            Ok(())
        } else {
            Err((told, theirs, ours))
        },
    );
    if let Ok(frames) = filled {
        giving::to_the_full(probe, domain);
        copies(probe, domain, &frames);
        foreign(probe, window, domain, &frames);
        devices(probe, window, domain, &frames);
        states(probe, domain, &frames);
        lives(probe, domain, frames, told);
    }
    let again = create_domain(&wanted(domain));
    let waits = events::status_of(DomId::SELF, ours).map(|found| (found.status, found.bound_to));
    // Nor does it own what its predecessor did.
    let given = assign(DomId::new(1), ASSIGN_FRAMES, DISPLAY.wrapping_add(1), 1).and(assign(
        DomId::new(1),
        ASSIGN_LINES,
        14,
        1,
    ));
    probe.law("what-a-dead-domain-owned-is-assigned-again", given);
    let is_right =
        again == Ok(domain) && waits == Ok((ChannelStatus::Unbound.raw(), u32::from(domain.raw())));
    probe.law(
        "a-channel-waits-for-the-successor-of-a-domain-that-is-no-more",
        if is_right { Ok(()) } else { Err((again, waits)) },
    );
    tidy([
        events::close(ours),
        events::close(told),
        tell(ControlOp::DestroyDomain, domain),
    ]);
}

/// Waits for a port to become pending. Says whether it was before the time was up.
fn is_told(port: u32) -> bool {
    let ports = [port];
    let poll = Poll {
        ports: input(&ports),
        nr_ports: 1,
        timeout_abs_ns: Instant::now().as_nanos().saturating_add(PATIENCE_NS),
    };
    let begun = Instant::now().as_nanos();
    let polled = call(Hypercall::SchedOp, [u64::from(SchedOp::Poll.raw()), input(&poll)]);
    polled == Ok(0) && Instant::now().as_nanos().saturating_sub(begun) < PATIENCE_NS
}

/// Maps `entry`, a frame of `owner`'s, at page `index` of the window.
fn map_foreign(index: usize, entry: u64, flags: u64, owner: DomId) -> Answer {
    let owner = u64::from(owner.raw());
    call(
        Hypercall::UpdateVaMappingOtherdomain,
        [Window::address(index), entry, flags, owner],
    )
}

/// Nobody else maps frames in another's name, nor in that of devices.
fn denied(probe: &mut Probe, window: &mut Window) {
    let index = window.skip();
    let answers = [DomId::new(0), NOBODY, DomId::IO].map(|owner| map_foreign(index, 0, UVMF_INVLPG, owner));
    probe.all_refused("update_va_mapping_otherdomain", Errno::Perm, &answers);
}

/// Domain 0 sees and writes the new domain's program in a page of its own, and not its tables.
fn foreign(probe: &mut Probe, window: &mut Window, domain: DomId, frames: &[u64; FRAMES]) {
    let [program, l1, l2, ..] = *frames;
    let index = window.skip();
    let address = Window::address(index);
    let page = |frame: u64| frame << 12 | pte::PRESENT;
    let shown = map_foreign(index, page(program) | pte::WRITABLE, UVMF_INVLPG, domain);
    let first = read(address);
    let expected = CODE.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let is_right = shown == Ok(0) && first.is_some() && first == expected;
    probe.good(
        "update_va_mapping_otherdomain",
        if is_right { Ok(()) } else { Err((shown, first)) },
    );
    let middle = usize::try_from(address.wrapping_add(2048)).unwrap_or(0);
    // SAFETY: the page shows a frame of another domain's, which does not run yet; nothing of this one lies there.
    let written = unsafe { probe_write(middle, 0x5a5a) }.is_ok();
    let mut bytes = [0; PAGE_SIZE];
    let copied = copy(domain, COPY_FROM, program, &mut bytes);
    let seen = bytes
        .get(2048..2056)
        .and_then(|bytes| bytes.first_chunk())
        .map(|bytes| u64::from_le_bytes(*bytes));
    let is_right = written && copied == Ok(0) && seen == Some(0x5a5a);
    probe.law(
        "what-is-written-where-another-domains-frame-is-mapped-is-there",
        if is_right {
            Ok(())
        } else {
            Err((written, copied, seen))
        },
    );
    let tables = [
        map_foreign(index, page(l1), UVMF_INVLPG, domain),
        by_list(window.level1.word_maddr(index), page(l1), domain),
    ];
    probe.law(
        "a-table-of-another-domain-is-mapped-to-be-read",
        if tables == [Ok(0); 2] { Ok(()) } else { Err(tables) },
    );
    let bad = [
        map_foreign(index, page(l1) | pte::WRITABLE, UVMF_INVLPG, domain),
        map_foreign(index, page(program) | pte::CACHE_DISABLE, UVMF_INVLPG, domain),
        map_foreign(index, 0, 3, domain),
        // Tables are not shared.
        by_list(window.level2.word_maddr(1), page(l1) | pte::USER, domain),
        by_list(window.level3.word_maddr(1), page(l2) | pte::USER, domain),
    ];
    probe.all_refused("update_va_mapping_otherdomain", Errno::Inval, &bad);
    let named_wrongly =
        [DomId::SELF, DomId::new(1)].map(|owner| map_foreign(index, page(program), UVMF_INVLPG, owner));
    probe.all_refused("update_va_mapping_otherdomain", Errno::Busy, &named_wrongly);
    probe.refused(
        "update_va_mapping_otherdomain",
        Errno::Srch,
        map_foreign(index, page(program), UVMF_INVLPG, NOBODY),
    );
    let hypervisors = bulkhead_abi::layout::HYPERVISOR.start;
    probe.refused(
        "update_va_mapping_otherdomain",
        Errno::Fault,
        map_foreign(index, page(program), UVMF_INVLPG | hypervisors, domain),
    );
    tidy([map_foreign(index, 0, UVMF_INVLPG, DomId::SELF)]);
}

fn keep(extent: u32, order: u32, flags: u64) -> Result<u64, Answer> {
    let mut record = KeepExtent {
        extent,
        order,
        flags,
        first: 0,
    };
    match ask(ControlOp::KeepExtent, in_out(&mut record)) {
        Ok(0) => Ok(record.first),
        other => Err(other),
    }
}

fn release(extent: u32) -> Answer {
    ask(
        ControlOp::ReleaseExtent,
        input(&ExtentRef { extent, reserved: 0 }),
    )
}

/// Memory is kept for a domain, which comes twice and finds it both times.
fn extents(probe: &mut Probe) {
    let from = |extent: u32| CreateDomain {
        extent,
        ..wanted(DomId::INVALID)
    };
    let kept = keep(1, 8, EXTENT_BELOW_4G);
    let free = || info(DomId::new(0)).1.machine_free;
    let before = free();
    let mut lives = Vec::new();
    for _ in 0..2 {
        let Ok(domain) = create_domain(&from(1)) else {
            break;
        };
        let mut frames = [0, 4];
        let reservation = MemoryReservation {
            extent_start: in_out(&mut frames),
            nr_extents: 2,
            extent_order: 1,
            domid: domain,
            ..MemoryReservation::ZERO
        };
        let op = u64::from(MemoryOp::PopulatePhysmap.raw());
        let got = call(Hypercall::MemoryOp, [op, input(&reservation)]);
        let is_busy = release(1) == refusal(Errno::Busy);
        lives.push((got, frames, is_busy, tell(ControlOp::DestroyDomain, domain)));
    }
    let first = kept.unwrap_or(0);
    let expected = (Ok(2), [first, first.wrapping_add(2)], true, Ok(0));
    // Other domains take and give back frames meanwhile, a few at a time.
    let is_kept = free().abs_diff(before) < 64;
    let is_right = first != 0 && first < 1 << 20 && lives == [expected; 2] && is_kept;
    // Both times a domain was there to have it.
    let was_busy = !lives.is_empty() && lives.iter().all(|(_, _, is_busy, _)| *is_busy);
    probe.good(
        "sysctl.keep_extent",
        if is_right { Ok(()) } else { Err((kept, lives)) },
    );
    let errors = |all: &[(u32, u32, u64)]| -> Vec<Answer> {
        let each = all
            .iter()
            .map(|&(extent, order, flags)| keep(extent, order, flags));
        each.map(|kept| kept.err().unwrap_or(Ok(0))).collect()
    };
    let bad = errors(&[(0, 1, 0), (17, 1, 0), (2, 15, 0), (2, u32::MAX, 0), (2, 1, 2)]);
    probe.all_refused("sysctl.keep_extent", Errno::Inval, &bad);
    probe.all_refused("sysctl.keep_extent", Errno::Exist, &errors(&[(1, 0, 0)]));
    // What can be read and not written is refused for what it says, if that is nothing.
    probe.faults("sysctl.keep_extent", Direction::In, |at| {
        ask(ControlOp::KeepExtent, at)
    });
    let busy = if was_busy { refusal(Errno::Busy) } else { Ok(0) };
    probe.refused("sysctl.release_extent", Errno::Busy, busy);
    let reserved = ExtentRef {
        extent: 1,
        reserved: 1,
    };
    let answer = ask(ControlOp::ReleaseExtent, input(&reserved));
    probe.refused("sysctl.release_extent", Errno::Inval, answer);
    let released = release(1);
    let is_right = released == Ok(0) && free() > before;
    probe.good(
        "sysctl.release_extent",
        if is_right { Ok(()) } else { Err((released, before)) },
    );
    let missing = [release(1), release(0), release(u32::MAX)];
    probe.all_refused("sysctl.release_extent", Errno::NoEnt, &missing);
    probe.faults("sysctl.release_extent", Direction::In, |at| {
        ask(ControlOp::ReleaseExtent, at)
    });
    let unknown = create_domain(&from(1)).err().unwrap_or(Ok(0));
    probe.refused("sysctl.create_domain", Errno::NoEnt, unknown);
}

/// A frame of a device that every PC has, and that lies below all others: the display of old.
const DISPLAY: u64 = 0xa0;

/// The PCI function of this machine that drives disks: the third of device 31.
const DISKS: u64 = 31 << 3 | 2;

pub(crate) fn assign(domain: DomId, kind: u16, first: u64, count: u64) -> Answer {
    ask(
        ControlOp::AssignDevice,
        input(&AssignDevice {
            domain,
            kind,
            first,
            count,
            ..AssignDevice::ZERO
        }),
    )
}

/// The new domain is given a part of a device, and has it in its tables.
fn devices(probe: &mut Probe, window: &mut Window, domain: DomId, frames: &[u64; FRAMES]) {
    let [program, l1, ..] = *frames;
    let entry = |frame: u64| frame << 12 | pte::PRESENT | pte::WRITABLE | pte::CACHE_DISABLE;
    // In its own table, by which it would reach it.
    let place = |entry: u64| {
        let request = MmuUpdate {
            ptr: l1 << 12 | 8,
            val: entry,
        };
        let its_own = ForeignDom {
            page_owner: domain,
            table_owner: Some(domain),
        };
        call(
            Hypercall::MmuUpdate,
            [input(&request), 1, 0, u64::from(its_own.raw())],
        )
    };
    let before = place(entry(DISPLAY));
    let assigned = assign(domain, ASSIGN_FRAMES, DISPLAY, 2);
    let after = [place(entry(DISPLAY)), place(entry(DISPLAY.wrapping_add(1)))];
    let is_right = before.is_err() && assigned == Ok(0) && after == [Ok(0); 2];
    probe.good(
        "sysctl.assign_device",
        if is_right {
            Ok(())
        } else {
            Err((before, assigned, after))
        },
    );
    let index = window.skip();
    let refused = [
        // Neither for whoever assigns it, nor by another's name, nor is RAM cached so.
        map_foreign(index, entry(DISPLAY), UVMF_INVLPG, DomId::SELF),
        map_foreign(index, entry(DISPLAY), UVMF_INVLPG, domain),
        place(entry(program)),
        place(entry(DISPLAY.wrapping_add(2))),
    ];
    probe.law(
        "a-device-is-its-owners-alone",
        if refused.iter().all(Result::is_err) {
            Ok(())
        } else {
            Err(refused)
        },
    );
    probe.law("ports-are-assigned", assign(domain, ASSIGN_PORTS, 0x2e8, 8));
    // The first is a disk's of old.
    probe.law("a-line-is-assigned", assign(domain, ASSIGN_LINES, 14, 1));
    probe.law("a-function-is-assigned", assign(domain, ASSIGN_PCI, DISKS, 1));
    let taken = [
        assign(DomId::new(1), ASSIGN_LINES, 14, 1),
        assign(DomId::new(1), ASSIGN_PCI, DISKS, 1),
        assign(domain, ASSIGN_FRAMES, DISPLAY, 1),
        assign(DomId::new(1), ASSIGN_FRAMES, DISPLAY.wrapping_add(1), 4),
        assign(DomId::new(1), ASSIGN_PORTS, 0x2e0, 9),
    ];
    probe.all_refused("sysctl.assign_device", Errno::Exist, &taken);
    let nobodys = [
        // RAM, and what holds the hypervisor: interrupt controllers, its serial line, the ways to other devices.
        assign(domain, ASSIGN_FRAMES, program, 1),
        assign(domain, ASSIGN_FRAMES, 0, 1),
        assign(domain, ASSIGN_FRAMES, 0xb0, 0x1_0000),
        assign(domain, ASSIGN_FRAMES, 0xf_ec00, 1),
        assign(domain, ASSIGN_FRAMES, 0xf_ee00, 1),
        assign(domain, ASSIGN_FRAMES, (1 << 40) - 1, 1),
        // Its timer's, its serial line's, the clock's, that of power management, and one that there is not.
        assign(domain, ASSIGN_LINES, 0, 1),
        assign(domain, ASSIGN_LINES, 2, 1),
        assign(domain, ASSIGN_LINES, 4, 1),
        assign(domain, ASSIGN_LINES, 8, 1),
        assign(domain, ASSIGN_LINES, 9, 1),
        assign(domain, ASSIGN_LINES, 95, 1),
        assign(domain, ASSIGN_PORTS, 0x20, 1),
        assign(domain, ASSIGN_PORTS, 0x3f8, 1),
        assign(domain, ASSIGN_PORTS, 0xcfc, 4),
        assign(domain, ASSIGN_PORTS, 0, 0x1_0000),
        // The way to all other functions.
        assign(domain, ASSIGN_PCI, 0, 1),
    ];
    probe.all_refused("sysctl.assign_device", Errno::Acces, &nobodys);
    let bad = [
        assign(domain, 9, DISPLAY, 1),
        assign(domain, ASSIGN_FRAMES, DISPLAY, 0),
        assign(domain, ASSIGN_FRAMES, u64::MAX, 2),
        assign(domain, ASSIGN_FRAMES, 1 << 40, 1),
        assign(domain, ASSIGN_PORTS, 0xffff, 2),
        assign(domain, ASSIGN_LINES, 96, 1),
        assign(domain, ASSIGN_PCI, DISKS, 2),
        assign(domain, ASSIGN_PCI, 0xffff, 1),
        assign(domain, ASSIGN_PCI, 0x1_0000, 1),
        assign(DomId::new(0), ASSIGN_FRAMES, DISPLAY, 1),
    ];
    probe.all_refused("sysctl.assign_device", Errno::Inval, &bad);
    let nobody = assign(NOBODY, ASSIGN_FRAMES, DISPLAY, 1);
    probe.refused("sysctl.assign_device", Errno::Srch, nobody);
    probe.faults("sysctl.assign_device", Direction::In, |at| {
        ask(ControlOp::AssignDevice, at)
    });
}

/// Writes an entry of domain 0's that may lead to a frame of `owner`'s, by `mmu_update`.
fn by_list(maddr: u64, entry: u64, owner: DomId) -> Answer {
    let request = MmuUpdate {
        ptr: maddr,
        val: entry,
    };
    call(
        Hypercall::MmuUpdate,
        [input(&request), 1, 0, u64::from(owner.raw())],
    )
}

pub(crate) fn wanted(domain: DomId) -> CreateDomain {
    let mut name = [0; 32];
    for (to, from) in name.iter_mut().zip(b"made") {
        *to = *from;
    }
    CreateDomain {
        domain,
        weight: 256,
        vcpus: 2,
        limit: FRAMES as u64,
        cpus: u64::MAX,
        name,
        ..CreateDomain::ZERO
    }
}

pub(crate) fn create_domain(wanted: &CreateDomain) -> Result<DomId, Answer> {
    let mut record = *wanted;
    let answer = ask(ControlOp::CreateDomain, in_out(&mut record));
    if answer == Ok(0) {
        Ok(record.domain)
    } else {
        Err(answer)
    }
}

fn create(probe: &mut Probe) {
    let refused = |wanted: CreateDomain| create_domain(&wanted).err().unwrap_or(Ok(0));
    let any = wanted(DomId::INVALID);
    probe.all_refused(
        "sysctl.create_domain",
        Errno::Inval,
        &[
            refused(CreateDomain { weight: 0, ..any }),
            refused(CreateDomain { vcpus: 0, ..any }),
            refused(CreateDomain { vcpus: 33, ..any }),
            refused(CreateDomain { cpus: 0, ..any }),
            refused(CreateDomain { reserved: 1, ..any }),
            refused(CreateDomain {
                name: [0xff; 32],
                ..any
            }),
            refused(wanted(DomId::SELF)),
        ],
    );
    let taken = [0, 1].map(|id| refused(wanted(DomId::new(id))));
    probe.all_refused("sysctl.create_domain", Errno::Exist, &taken);
    // What cannot be written back is refused for what it says, if that is nothing.
    probe.faults("sysctl.create_domain", Direction::In, |at| {
        ask(ControlOp::CreateDomain, at)
    });
}

pub(crate) fn info(from: DomId) -> (Answer, DomainInfo) {
    let mut record = DomainInfo {
        domain: from,
        ..DomainInfo::ZERO
    };
    let answer = ask(ControlOp::DomainInfo, in_out(&mut record));
    (answer, record)
}

fn infos(probe: &mut Probe, domain: DomId) {
    let (answer, found) = info(domain);
    let is_right = answer == Ok(0)
        && found.domain == domain
        && found.name.starts_with(b"made\0")
        && (found.state, found.vcpus, found.online) == (STATE_BUILDING, 2, 0)
        && (found.pages, found.limit) == (0, FRAMES as u64);
    probe.good(
        "sysctl.domain_info",
        if is_right { Ok(()) } else { Err((answer, found)) },
    );
    let beyond = [DomId::new(domain.raw().wrapping_add(1)), DomId::SELF].map(|id| info(id).0);
    probe.all_refused("sysctl.domain_info", Errno::Srch, &beyond);
    probe.faults("sysctl.domain_info", Direction::InOut, |at| {
        ask(ControlOp::DomainInfo, at)
    });
}

fn limits(probe: &mut Probe, domain: DomId) {
    let set = |domain, limit| ask(ControlOp::SetLimit, input(&SetLimit { domain, limit }));
    let more = set(domain, 64);
    let seen = info(domain).1.limit;
    let back = set(domain, FRAMES as u64);
    let is_right = (more, seen, back) == (Ok(0), 64, Ok(0));
    probe.good(
        "sysctl.set_limit",
        if is_right { Ok(()) } else { Err((more, seen, back)) },
    );
    probe.refused("sysctl.set_limit", Errno::Srch, set(NOBODY, 64));
    probe.faults("sysctl.set_limit", Direction::In, |at| {
        ask(ControlOp::SetLimit, at)
    });
}

fn copy(domain: DomId, direction: u16, frame: u64, bytes: &mut [u8]) -> Answer {
    let record = CopyMemory {
        domain,
        direction,
        offset: 0,
        len: bytes.len() as u64,
        frame,
        buffer: in_out(bytes),
    };
    ask(ControlOp::CopyMemory, input(&record))
}

/// Gives the domain its frames and their contents: a program, and a table of each level. Answers their numbers.
fn fill(domain: DomId) -> Result<[u64; FRAMES], Answer> {
    let mut frames = [0, 1, 2, 3, 4];
    let reservation = MemoryReservation {
        extent_start: in_out(&mut frames),
        nr_extents: FRAMES as u64,
        domid: domain,
        ..MemoryReservation::ZERO
    };
    let op = u64::from(MemoryOp::PopulatePhysmap.raw());
    let populated = call(Hypercall::MemoryOp, [op, input(&reservation)]);
    if populated != Ok(FRAMES as u64) {
        return Err(populated);
    }
    let [program, l1, l2, l3, l4] = frames;
    let mut page = Box::new([0; PAGE_SIZE]);
    for (to, from) in page.iter_mut().zip(CODE) {
        *to = *from;
    }
    if let Some(end) = page.last_chunk_mut() {
        *end = REBOOT.to_le_bytes();
    }
    let mut done = copy(domain, COPY_TO, program, page.as_mut_slice());
    for (table, slot, target) in [(l1, 0, program), (l2, 2_usize, l1), (l3, 0, l2), (l4, 0, l3)] {
        let entry: u64 = target << 12 | pte::PRESENT | pte::USER;
        *page = [0; PAGE_SIZE];
        for (to, from) in page.iter_mut().skip(slot << 3).zip(entry.to_le_bytes()) {
            *to = from;
        }
        done = done.and(copy(domain, COPY_TO, table, page.as_mut_slice()));
    }
    let pinned = pin(domain, MmuExtOp::PinL4Table, l4);
    match done.and(pinned) {
        Ok(_) => Ok(frames),
        refused => Err(refused),
    }
}

/// Domain 0 pins or unpins a table of another domain's.
fn pin(domain: DomId, op: MmuExtOp, frame: u64) -> Answer {
    let record = MmuExt {
        cmd: op.raw(),
        arg1: frame,
        ..MmuExt::ZERO
    };
    let foreign = ForeignDom {
        page_owner: domain,
        table_owner: None,
    };
    call(
        Hypercall::MmuextOp,
        [input(&record), 1, 0, u64::from(foreign.raw())],
    )
}

fn copies(probe: &mut Probe, domain: DomId, frames: &[u64; FRAMES]) {
    let [program, l1, ..] = *frames;
    let mut bytes = [0; 32];
    let read = copy(domain, COPY_FROM, program, &mut bytes);
    let zeroed = ask(
        ControlOp::CopyMemory,
        input(&CopyMemory {
            domain,
            direction: COPY_ZEROS,
            offset: 2048,
            len: 1024,
            frame: program,
            buffer: 0,
        }),
    );
    let is_same = bytes.starts_with(CODE);
    let is_right = (read, zeroed, is_same) == (Ok(0), Ok(0), true);
    probe.law(
        "what-is-copied-to-a-domain-is-there",
        if is_right {
            Ok(())
        } else {
            Err((read, zeroed, bytes))
        },
    );
    let mut page = Box::new([0; PAGE_SIZE + 1]);
    let whole = page.get_mut(..PAGE_SIZE).unwrap_or_default();
    let read = copy(domain, COPY_FROM, program, whole);
    let is_whole = read == Ok(0) && whole.starts_with(CODE) && whole.ends_with(&REBOOT.to_le_bytes());
    probe.law(
        "a-whole-page-of-a-domain-is-read",
        if is_whole { Ok(()) } else { Err(read) },
    );
    let refusals = [
        copy(domain, 3, program, &mut bytes),
        copy(domain, COPY_FROM, program, page.as_mut_slice()),
        copy(domain, COPY_FROM, u64::MAX, &mut bytes),
        // It is a page table now.
        copy(domain, COPY_TO, l1, &mut bytes),
        copy(DomId::new(0), COPY_FROM, program, &mut bytes),
        copy(DomId::new(1), COPY_FROM, program, &mut bytes),
    ];
    probe.all_refused("sysctl.copy_memory", Errno::Inval, &refusals);
    probe.refused(
        "sysctl.copy_memory",
        Errno::Srch,
        copy(NOBODY, COPY_FROM, program, &mut bytes),
    );
    probe.faults("sysctl.copy_memory", Direction::In, |at| {
        ask(ControlOp::CopyMemory, at)
    });
}

fn states(probe: &mut Probe, domain: DomId, frames: &[u64; FRAMES]) {
    let [program, .., l4] = *frames;
    let mut context = Box::new(VcpuGuestContext::ZERO);
    context.flags = VGCF_IN_KERNEL | VGCF_ONLINE;
    context.user_regs.rip = PROGRAM;
    context.user_regs.cs = selectors::FLAT_RING3_CS64;
    context.user_regs.ss = selectors::FLAT_RING3_SS.into();
    if let Some(root) = context.ctrlreg.get_mut(3) {
        *root = l4 << 12;
    }
    let set = |domain: DomId, vcpu: u32, context: &VcpuGuestContext| {
        ask(
            ControlOp::SetVcpu,
            input(&VcpuState {
                domain,
                vcpu,
                context: input(context),
            }),
        )
    };
    let mut wrong = context.clone();
    if let Some(root) = wrong.ctrlreg.get_mut(3) {
        *root = program << 12;
    }
    probe.all_refused(
        "sysctl.set_vcpu",
        Errno::Inval,
        &[set(domain, 0, &wrong), set(DomId::new(0), 1, &context)],
    );
    probe.good("sysctl.set_vcpu", set(domain, 0, &context));
    probe.refused("sysctl.set_vcpu", Errno::Exist, set(domain, 0, &context));
    probe.refused("sysctl.set_vcpu", Errno::NoEnt, set(domain, 2, &context));
    probe.refused("sysctl.set_vcpu", Errno::Srch, set(NOBODY, 0, &context));
    probe.faults("sysctl.set_vcpu", Direction::In, |at| ask(ControlOp::SetVcpu, at));
    reads(probe, domain, &context);
}

fn get_state(domain: DomId, vcpu: u32, into: u64) -> Answer {
    ask(
        ControlOp::GetVcpu,
        input(&VcpuState {
            domain,
            vcpu,
            context: into,
        }),
    )
}

/// What the new domain's vCPU was given is read again.
fn reads(probe: &mut Probe, domain: DomId, given: &VcpuGuestContext) {
    let mut seen = Box::new(VcpuGuestContext::ZERO);
    let answer = get_state(domain, 0, in_out(&mut *seen));
    let is_same = (seen.flags, seen.ctrlreg.get(3), seen.user_regs.rip)
        == (given.flags, given.ctrlreg.get(3), given.user_regs.rip);
    probe.good(
        "sysctl.get_vcpu",
        if answer == Ok(0) && is_same {
            Ok(())
        } else {
            Err((answer, seen.flags, seen.user_regs.rip))
        },
    );
    let mut get = |domain, vcpu| get_state(domain, vcpu, in_out(&mut *seen));
    probe.refused("sysctl.get_vcpu", Errno::NoData, get(domain, 1));
    probe.refused("sysctl.get_vcpu", Errno::NoEnt, get(domain, 2));
    probe.refused("sysctl.get_vcpu", Errno::Srch, get(NOBODY, 0));
    // The other probe's first vCPU runs.
    probe.refused("sysctl.get_vcpu", Errno::Busy, get(DomId::new(1), 0));
    let own = [get(DomId::new(0), 0), get(DomId::SELF, 0)];
    probe.all_refused("sysctl.get_vcpu", Errno::Inval, &own);
    // Neither the record nor the place that it names.
    probe.faults("sysctl.get_vcpu", Direction::In, |at| ask(ControlOp::GetVcpu, at));
    probe.faults("sysctl.get_vcpu", Direction::InOut, |at| get_state(domain, 0, at));
}

pub(crate) fn tell(op: ControlOp, domain: DomId) -> Answer {
    ask(op, input(&DomainRef { domain, reserved: 0 }))
}

/// It runs when it is let, ends as its program wants, and leaves nothing behind.
fn lives(probe: &mut Probe, domain: DomId, [program, ..]: [u64; FRAMES], told: u32) {
    for (name, op) in [
        ("sysctl.pause_domain", ControlOp::PauseDomain),
        ("sysctl.unpause_domain", ControlOp::UnpauseDomain),
        ("sysctl.destroy_domain", ControlOp::DestroyDomain),
    ] {
        probe.refused(name, Errno::Srch, tell(op, NOBODY));
        let reserved = DomainRef { domain, reserved: 1 };
        let own = [
            tell(op, DomId::new(0)),
            tell(op, DomId::SELF),
            ask(op, input(&reserved)),
        ];
        probe.all_refused(name, Errno::Inval, &own);
        probe.faults(name, Direction::In, |at| ask(op, at));
    }
    // The other probe runs, and is none the worse for it.
    let neighbour = DomId::new(1);
    let paused = tell(ControlOp::PauseDomain, neighbour);
    let seen = info(neighbour).1.state;
    let resumed = tell(ControlOp::UnpauseDomain, neighbour);
    let after = info(neighbour).1.state;
    let is_right = [paused, resumed] == [Ok(0); 2] && seen != STATE_RUNNING && after != STATE_PAUSED;
    probe.good(
        "sysctl.pause_domain",
        if is_right {
            Ok(())
        } else {
            Err((paused, seen, resumed, after))
        },
    );

    let started = tell(ControlOp::UnpauseDomain, domain);
    let is_heard = is_told(told);
    probe.law(
        "domain-0-is-told-that-a-domain-has-ended",
        if is_heard { Ok(()) } else { Err(told) },
    );
    let deadline = Instant::now().as_nanos().saturating_add(PATIENCE_NS);
    let mut last = info(domain).1;
    while last.state != STATE_SHUT_DOWN && Instant::now().as_nanos() < deadline {
        last = info(domain).1;
    }
    let is_right = (started, last.state, last.reason) == (Ok(0), STATE_SHUT_DOWN, REBOOT);
    probe.good(
        "sysctl.unpause_domain",
        if is_right { Ok(()) } else { Err((started, last)) },
    );

    let dying = Dying::meet(domain, program);
    let dying = dying.map(|dying| {
        let mapped = dying.has_ended(probe);
        (dying, mapped)
    });
    let mut ended = Box::new(VcpuGuestContext::ZERO);
    let answer = get_state(domain, 0, in_out(&mut *ended));
    let rip = ended.user_regs.rip;
    let is_there = rip > PROGRAM && rip <= PROGRAM.wrapping_add(CODE.len() as u64);
    probe.law(
        "a-vcpu-of-a-domain-that-has-ended-tells-where",
        if answer == Ok(0) && is_there {
            Ok(())
        } else {
            Err((answer, rip))
        },
    );

    let before = last.machine_free;
    let destroyed = tell(ControlOp::DestroyDomain, domain);
    let gone = info(domain).0;
    let free = info(DomId::new(0)).1.machine_free;
    // Other domains take and give back frames meanwhile, a few at a time.
    let is_right = destroyed == Ok(0) && gone.is_err() && free.saturating_add(64) > before;
    probe.good(
        "sysctl.destroy_domain",
        if is_right {
            Ok(())
        } else {
            Err((destroyed, gone, before, free))
        },
    );
    match dying {
        Ok((dying, mapped)) => dying.bury(probe, &mapped),
        Err(refused) => probe.law("a-domain-that-has-ended-is-still-there", Err::<(), _>(refused)),
    }
    probe.refused(
        "sysctl.destroy_domain",
        Errno::Srch,
        tell(ControlOp::DestroyDomain, domain),
    );
}
