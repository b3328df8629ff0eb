//! Single entries: `mmu_update` and `update_va_mapping`.

use bulkhead_abi::{
    DomId, Errno, Hypercall,
    memory::MemoryOp,
    mmu::{MmuCommand, MmuUpdate, UVMF_ALL, UVMF_INVLPG, UVMF_TLB_FLUSH},
    pte,
};
use bulkhead_runtime::trap::{probe_read, probe_write};

use crate::{
    calls::{Answer, call, in_out, input, refusal, tidy},
    frames::{Frame, READ_ONLY, TABLE, WRITABLE, show},
    probe::{Direction, Probe},
    window::{Window, update, update_by},
};

pub(crate) fn check(probe: &mut Probe, window: &mut Window) {
    let foreign = foreign_frames(probe, window);
    lists(probe, window, foreign);
    addresses(probe, window, foreign);
    bits(probe, window);
}

/// No frame but the domain's own can be mapped, even to be read. Returns one that is somebody else's.
fn foreign_frames(probe: &mut Probe, window: &mut Window) -> u64 {
    /// How far to look past the end of the machine's memory.
    const BEYOND: u64 = 4096;
    let last = call(
        Hypercall::MemoryOp,
        [u64::from(MemoryOp::MaximumRamPage.raw()), 0],
    )
    .unwrap_or(0);
    // Two frames without a number are the domain's all the same: what it shares with the hypervisor.
    let shared = [
        (window.level1.get(crate::shared::PAGE) & pte::FRAME_MASK) >> 12,
        crate::grants::table_frame(),
    ];
    let index = window.skip();
    let slot = window.level1.word_maddr(index);
    let (mut busy, mut invalid, mut wrong) = (0_u64, 0_u64, None);
    let mut foreign = 0;
    for mfn in (0..last.wrapping_add(BEYOND)).filter(|mfn| !shared.contains(mfn) && !is_own(*mfn)) {
        match update(slot, mfn << 12 | READ_ONLY) {
            answer if answer == refusal(Errno::Busy) => {
                busy = busy.wrapping_add(1);
                foreign = mfn;
            }
            answer if answer == refusal(Errno::Inval) => invalid = invalid.wrapping_add(1),
            answer => wrong = wrong.or(Some((mfn, answer))),
        }
    }
    let result = if busy == 0 || invalid == 0 || wrong.is_some() {
        Err((busy, invalid, wrong))
    } else {
        Ok(())
    };
    probe.law("no-frame-but-ones-own-can-be-mapped", result);
    foreign
}

/// Whether the frame is one of the domain's numbered ones.
fn is_own(mfn: u64) -> bool {
    let entry = bulkhead_abi::layout::M2P.start.wrapping_add(mfn.wrapping_mul(8));
    read(entry).is_some_and(|pfn| pfn != bulkhead_abi::layout::INVALID_M2P_ENTRY)
}

fn lists(probe: &mut Probe, window: &mut Window, foreign: u64) {
    let own = u64::from(DomId::SELF.raw());
    let (first, second) = (window.skip(), window.skip());
    let frame = Frame::table(&[0x5a]);
    let request = |index: usize, entry: u64| MmuUpdate {
        ptr: window.level1.word_maddr(index),
        val: entry,
    };
    let list = [
        request(first, frame.entry(READ_ONLY)),
        request(second, frame.entry(WRITABLE)),
    ];
    let mut done = 0_u32;
    let made = call(Hypercall::MmuUpdate, [input(&list), 2, in_out(&mut done), own]);
    let seen = [first, second].map(|index| read(Window::address(index)));
    let result = if made == Ok(0) && done == 2 && seen == [Some(0x5a); 2] {
        Ok(())
    } else {
        Err((made, done, seen))
    };
    probe.good("mmu_update", result);

    probe.faults("mmu_update", Direction::In, |at| {
        call(Hypercall::MmuUpdate, [at, 1, 0, own])
    });
    probe.faults("mmu_update", Direction::InOut, |done| {
        call(Hypercall::MmuUpdate, [input(&list), 1, done, own])
    });
    probe.law(
        "a-list-tells-how-far-it-came",
        match (
            call(
                Hypercall::MmuUpdate,
                [
                    input(&[request(first, 0), request(second, foreign << 12 | READ_ONLY)]),
                    2,
                    in_out(&mut done),
                    own,
                ],
            ),
            done,
        ) {
            (answer, 1) if answer == refusal(Errno::Busy) => Ok(()),
            other => Err(other),
        },
    );
    let slot = window.level1.word_maddr(first);
    let bad = [
        update(foreign << 12, 0),
        update((1 << 52) - 4096, 0),
        update(slot, frame.entry(WRITABLE | pte::CACHE_DISABLE)),
        update(slot, (1 << 51) | READ_ONLY),
        update(window.root_word(256), 0),
        update_by(MmuCommand::MachphysUpdate, foreign << 12, 1),
    ];
    probe.all_refused("mmu_update", Errno::Inval, &bad);
    probe.refused("mmu_update", Errno::Busy, update(slot, foreign << 12 | READ_ONLY));
    let about = |dom: u64| call(Hypercall::MmuUpdate, [input(&list), 2, 0, dom]);
    if probe.is_control() {
        // Neither as the owner of pages nor as that of tables.
        probe.all_refused("mmu_update", Errno::Srch, &[about(77), about(78 << 16 | own)]);
    } else {
        probe.all_refused("mmu_update", Errno::Perm, &[about(0), about(1 << 16 | own)]);
    }
    tidy([update(window.level1.word_maddr(second), 0)]);

    let m2p = bulkhead_abi::layout::M2P
        .start
        .wrapping_add(frame.mfn().wrapping_mul(8));
    let renumbered = update_by(MmuCommand::MachphysUpdate, frame.maddr(), 0x1234).map(|_| read(m2p));
    let back = update_by(MmuCommand::MachphysUpdate, frame.maddr(), frame.pfn()).map(|_| read(m2p));
    let result = if renumbered == Ok(Some(0x1234)) && back == Ok(Some(frame.pfn())) {
        Ok(())
    } else {
        Err((renumbered, back))
    };
    probe.law("a-frame-can-be-given-another-number", result);

    let plain = Frame::new();
    let written = update(plain.word_maddr(7), 0x77).map(|_| plain.get(7));
    probe.law(
        "a-word-of-a-plain-frame-is-just-written",
        if written == Ok(0x77) { Ok(()) } else { Err(written) },
    );
}

fn addresses(probe: &mut Probe, window: &mut Window, foreign: u64) {
    let address = Window::address(window.skip());
    let frame = Frame::table(&[0x66]);
    let set = |va: u64, entry: u64, flags: u64| call(Hypercall::UpdateVaMapping, [va, entry, flags]);
    let entry = frame.entry(READ_ONLY);
    let made = [
        UVMF_INVLPG,
        0,
        UVMF_TLB_FLUSH,
        UVMF_INVLPG | UVMF_ALL,
        UVMF_TLB_FLUSH | UVMF_ALL,
    ]
    .map(|flags| set(address, entry, flags));
    let seen = read(address);
    let result = if made == [Ok(0); 5] && seen == Some(0x66) {
        Ok(())
    } else {
        Err((made, seen))
    };
    probe.good("update_va_mapping", result);
    let bad = [
        set(0x1000, entry, UVMF_INVLPG),
        set(1 << 47, entry, UVMF_INVLPG),
        set(bulkhead_abi::layout::M2P.start, entry, UVMF_INVLPG),
        set(0xffff_87ff_ffff_f000, 0, UVMF_INVLPG),
        set(address, window.level1.entry(WRITABLE), UVMF_INVLPG),
        set(address, frame.entry(READ_ONLY | pte::PAT), UVMF_INVLPG),
        set(address, entry, 3),
    ];
    probe.all_refused("update_va_mapping", Errno::Inval, &bad);
    let vcpus = [u64::MAX];
    let named = set(address, entry, UVMF_INVLPG | input(&vcpus));
    probe.law("a-mapping-is-forgotten-by-the-vcpus-that-are-named", named);
    let unreadable = [
        set(address, 0, UVMF_INVLPG | bulkhead_abi::layout::HYPERVISOR.start),
        set(address, 0, UVMF_TLB_FLUSH | 1 << 47),
    ];
    probe.all_refused("update_va_mapping", Errno::Fault, &unreadable);
    probe.law(
        "a-mapping-stays-if-it-cannot-be-said-whose-it-is",
        if read(address) == Some(0x66) {
            Ok(())
        } else {
            Err(read(address))
        },
    );
    probe.refused(
        "update_va_mapping",
        Errno::Busy,
        set(address, foreign << 12 | READ_ONLY, UVMF_INVLPG),
    );
}

/// What a guest writes into an entry, and what it finds there.
fn bits(probe: &mut Probe, window: &mut Window) {
    let index = window.skip();
    let (slot, address) = (window.level1.word_maddr(index), Window::address(index));
    let frame = Frame::table(&[]);

    let garbage = 0xdead_beef_cafe_f00e;
    let mut tables = [(&window.level1, index), (&window.level2, 5), (&window.level3, 5)]
        .map(|(table, index)| {
            let written = update(table.word_maddr(index), garbage).map(|_| table.get(index));
            tidy([update(table.word_maddr(index), 0)]);
            written
        })
        .to_vec();
    let top = update(window.root_word(crate::window::EMPTY_SLOT), garbage)
        .map(|_| window.root_entry(crate::window::EMPTY_SLOT));
    tables.push(top);
    tidy([update(window.root_word(crate::window::EMPTY_SLOT), 0)]);
    let result = if tables.iter().all(|entry| *entry == Ok(garbage)) {
        Ok(())
    } else {
        Err(tables)
    };
    probe.law("an-entry-that-is-not-present-stands-as-written", result);

    let marked = update(slot, frame.entry(READ_ONLY)).map(|_| window.level1.get(index));
    let expected = frame.entry(READ_ONLY | pte::USER | pte::GUEST_KERNEL);
    probe.law(
        "a-kernels-page-is-marked",
        if marked == Ok(expected) {
            Ok(())
        } else {
            Err(marked)
        },
    );

    let used = pte::ACCESSED | pte::DIRTY;
    let touch = || {
        show(address, frame.entry(pte::PRESENT | pte::WRITABLE))?;
        let at = usize::try_from(address).unwrap_or(0);
        // SAFETY: the page shows a frame of the probe's.
        let _ = unsafe { probe_write(at, 1) };
        Ok(window.level1.get(index) & used)
    };
    let new = frame.entry(pte::PRESENT | pte::WRITABLE);
    let kept = touch().and_then(|before| {
        update_by(MmuCommand::PtUpdatePreserveAd, slot, new)
            .map(|_| (before, window.level1.get(index) & used))
    });
    probe.law(
        "accessed-and-dirty-are-kept-on-request",
        if kept == Ok((used, used)) {
            Ok(())
        } else {
            Err(kept)
        },
    );
    let replaced: Answer = touch()
        .and_then(|_| update(slot, new))
        .map(|_| window.level1.get(index) & used);
    probe.law(
        "accessed-and-dirty-are-replaced-otherwise",
        if replaced == Ok(0) { Ok(()) } else { Err(replaced) },
    );
    tidy([update(slot, 0)]);

    // A table that is shown twice: both addresses see the frame.
    let twice = update(window.level2.word_maddr(1), window.level1.entry(TABLE));
    let other = Window::address(crate::shared::PAGE).wrapping_add(1 << pte::L2_SHIFT);
    let seen = (twice, read(other).is_some());
    probe.law(
        "a-level-1-table-may-be-in-use-twice",
        if seen == (Ok(0), true) { Ok(()) } else { Err(seen) },
    );
    tidy([update(window.level2.word_maddr(1), 0)]);
}

/// The word at `address`, if it can be read.
pub(crate) fn read(address: u64) -> Option<u64> {
    probe_read(usize::try_from(address).ok()?).ok()
}
