//! Calls that are as long as a guest can make them, alone and in lists: none may keep the processor from other guests and interrupts for long.
//!
//! How long it was away is what the hypervisor measures, and says when it stops. Here the calls are made, and end well.

use alloc::vec::Vec;

use bulkhead_abi::{
    DomId, Errno, Hypercall,
    mmu::{MmuExt, MmuExtOp, MmuUpdate},
    multicall::MulticallEntry,
    selectors::{DESCRIPTORS_PER_PAGE, MAX_GDT_ENTRIES, MAX_LDT_ENTRIES},
};

use crate::{
    calls::{Answer, call, in_out, input, refusal, tidy},
    frames::{Frame, READ_ONLY, TABLE, WRITABLE, show},
    pins::{pin, unpin},
    probe::Probe,
    segments::{DATA, set_gdt},
    vcpus,
    window::{EMPTY_SLOT, Window},
};

/// Level-1 tables in the tree, each full of entries that allow writes.
const LEAVES: usize = 16;
/// Calls in a list.
const CALLS: usize = 32;
/// Pages of the largest descriptor table.
const GDT_PAGES: usize = MAX_GDT_ENTRIES as usize / DESCRIPTORS_PER_PAGE;
/// Pages of the largest table of local descriptors.
const LDT_PAGES: usize = MAX_LDT_ENTRIES as usize / DESCRIPTORS_PER_PAGE;

const OWN: u64 = DomId::SELF.raw() as u64;

pub(crate) fn check(probe: &mut Probe, window: &Window) {
    descriptors(probe);
    let page = Frame::new();
    let leaves: Vec<Frame> = (0..LEAVES)
        .map(|_| Frame::table(&[page.entry(WRITABLE); 512]))
        .collect();
    let entries: Vec<u64> = leaves.iter().map(|leaf| leaf.entry(TABLE)).collect();
    let level2 = Frame::table(&entries);
    let level3 = Frame::table(&[level2.entry(TABLE)]);
    root(probe, &level3);
    multicall(probe, &level3);
    updates(probe, window, &level3);
    let tables = leaves.iter().chain([&level2, &level3]);
    let written = tables
        .into_iter()
        .try_for_each(|table| table.remap(WRITABLE).map(|_| ()));
    probe.law("what-was-a-large-tree-can-be-written-at-once", written);
}

/// As many pages of descriptors as there may be, none of which was one before; and again, as they are.
fn descriptors(probe: &mut Probe) {
    let pages = [(); GDT_PAGES].map(|()| Frame::table(&[DATA; DESCRIPTORS_PER_PAGE]));
    let list = pages.each_ref().map(Frame::mfn);
    let all = u64::from(MAX_GDT_ENTRIES);
    let set = [set_gdt(&list, all), set_gdt(&list, all), set_gdt(&[], 0)];
    let written = pages.iter().try_for_each(|page| page.remap(WRITABLE).map(|_| ()));
    let result = if set == [Ok(0); 3] && written.is_ok() {
        Ok(())
    } else {
        Err((set, written))
    };
    probe.law("a-descriptor-table-may-have-all-its-pages", result);
}

/// A first state for the second vCPU that names as many pages of descriptors as there may be, none of which was one before. It is refused
/// for something else when all have been looked at; and again, as they are.
pub(crate) fn first_state(probe: &mut Probe, window: &mut Window) {
    let page = || Frame::table(&[DATA; DESCRIPTORS_PER_PAGE]);
    let global = [(); GDT_PAGES].map(|()| page());
    let local = [(); LDT_PAGES].map(|()| page());
    let mut state = vcpus::state(window);
    for (place, frame) in state.gdt_frames.iter_mut().zip(&global) {
        *place = frame.mfn();
    }
    state.gdt_ents = u64::from(MAX_GDT_ENTRIES);
    let places = local.each_ref().map(|frame| {
        let address = Window::address(window.skip());
        tidy([show(address, frame.entry(READ_ONLY))]);
        address
    });
    let [first, ..] = places;
    (state.ldt_base, state.ldt_ents) = (first, u64::from(MAX_LDT_ENTRIES));
    state.event_callback_eip = 1 << 47;
    let refused = [(); 2].map(|()| vcpus::initialise(1, &state));
    tidy(places.map(|address| show(address, 0)));
    let written = global
        .iter()
        .chain(&local)
        .try_for_each(|page| page.remap(WRITABLE).map(|_| ()));
    let result = if refused == [refusal(Errno::Inval); 2] && written.is_ok() {
        Ok(())
    } else {
        Err((refused, written))
    };
    probe.law(
        "a-first-state-with-all-its-pages-is-looked-at-whole-and-let-go",
        result,
    );
}

/// The tree below most entries of a level-4 table.
fn root(probe: &mut Probe, level3: &Frame) {
    let level4 = Frame::table(&[level3.entry(TABLE); 256]);
    let made = [pin(4, level4.mfn()), unpin(level4.mfn())];
    let result = if made == [Ok(0); 2] { Ok(()) } else { Err(made) };
    probe.law("a-large-address-space-can-be-pinned", result);
}

/// Long calls in one list.
fn multicall(probe: &mut Probe, level3: &Frame) {
    let ops = [MmuExtOp::PinL3Table, MmuExtOp::UnpinTable].map(|op| MmuExt {
        cmd: op.raw(),
        arg1: level3.mfn(),
        arg2: 0,
    });
    let entry = |op: &MmuExt| MulticallEntry {
        op: Hypercall::MmuextOp.raw(),
        result: -1,
        args: [input(op), 1, 0, OWN, 0, 0],
    };
    let mut list: Vec<MulticallEntry> = ops.iter().cycle().take(CALLS).map(entry).collect();
    let made = call(
        Hypercall::Multicall,
        [in_out(list.as_mut_slice()), list.len() as u64],
    );
    let bad = list.iter().position(|entry| entry.result != 0);
    let result = if made == Ok(0) && bad.is_none() {
        Ok(())
    } else {
        Err((made, bad))
    };
    probe.law("a-list-of-long-calls-is-made", result);
}

/// The tree comes into the running address space and goes again, in one list.
fn updates(probe: &mut Probe, window: &Window, level3: &Frame) {
    let changes = [level3.entry(TABLE), 0].map(|val| MmuUpdate {
        ptr: window.root_word(EMPTY_SLOT),
        val,
    });
    let list: Vec<MmuUpdate> = changes.into_iter().cycle().take(CALLS).collect();
    let mut done = 0_u32;
    let made: Answer = call(
        Hypercall::MmuUpdate,
        [input(list.as_slice()), list.len() as u64, in_out(&mut done), OWN],
    );
    let result = if made == Ok(0) && done as usize == CALLS {
        Ok(())
    } else {
        Err((made, done))
    };
    probe.law("a-list-of-large-changes-is-made", result);
}
