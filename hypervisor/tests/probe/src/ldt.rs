//! Local descriptors: how a table is given and taken away, and that its descriptors are the caller's alone.
//!
//! The processor tells by LSL what stands behind a selector, without loading it.

use core::arch::asm;

use bulkhead_abi::{
    Errno, Hypercall,
    layout::{HYPERVISOR, PAGE_SIZE},
    mmu::MmuExtOp,
    msr,
    sched::SchedOp,
    vcpu::SegmentBase,
};

use crate::{
    calls::{Answer, call, refusal, tidy},
    frames::{Frame, READ_ONLY, WRITABLE, show},
    pins::extended,
    privileged::rdmsr,
    probe::Probe,
    window::Window,
};

/// A call gate to ring 0, present: no guest may have one.
const CALL_GATE: u64 = 0x0000_ec00_e008_0000;

/// How often the other domain may run in between.
const YIELDS: u32 = 20;

/// A data segment of 32 bits with this limit, in bytes.
const fn data(limit: u16) -> u64 {
    0x0040_f300_0000_0000 | limit as u64
}

/// The selector of local descriptor `index`.
const fn selector(index: u16) -> u16 {
    index << 3 | 7
}

/// The limit of the segment that `selector` names; `None` if it names none.
fn limit(selector: u16) -> Option<u32> {
    let (found, limit): (u8, u32);
    // SAFETY: reads a descriptor, if there is one.
    unsafe {
        asm!(
            "lsl {limit:e}, {selector:e}", "setz {found}",
            selector = in(reg) u32::from(selector), limit = out(reg) limit, found = out(reg_byte) found,
            options(nostack)
        );
    }
    (found != 0).then_some(limit)
}

fn set(address: u64, entries: u64) -> Answer {
    extended(MmuExtOp::SetLdt, address, entries)
}

pub(crate) fn check(probe: &mut Probe, window: &mut Window) {
    // Both domains have a table at the same time, each with limits of its own.
    let own = if probe.is_control() { 0x1000 } else { 0x2000 };
    let page = Frame::table(&[0, data(own), data(own | 1), data(own | 2)]);
    let set_it = set(page.address(), 3);
    let found = [1, 2, 3].map(|index| limit(selector(index)));
    let expected = [Some(u32::from(own)), Some(u32::from(own) | 1), None];
    probe.good("mmuext_op.set_ldt", equal((set_it, found), &(Ok(0), expected)));
    refusals(probe, window, &page);
    probe.law(
        "a-refused-local-table-changes-nothing",
        equal(limit(selector(1)), &Some(u32::from(own))),
    );
    let changed = call(Hypercall::UpdateDescriptor, [page.word_maddr(2), data(own | 8)]);
    probe.law(
        "a-local-descriptor-is-changed-by-hypercall",
        equal(
            (changed, limit(selector(2)), page.try_set(2, 0)),
            &(Ok(0), Some(u32::from(own) | 8), false),
        ),
    );
    probe.law(
        "a-gate-in-a-local-table-is-refused",
        equal(
            call(Hypercall::UpdateDescriptor, [page.word_maddr(2), CALL_GATE]),
            &refusal(Errno::Inval),
        ),
    );
    probe.law(
        "local-descriptors-go-with-their-vcpu",
        equal(kept_across_switches(), &(selector(1), Some(u32::from(own)))),
    );
    probe.law(
        "gs-is-loaded-for-programs-and-the-kernel-keeps-its-base",
        equal(gs_for_programs(&page), &([(selector(1), BASE), (0, 0)], true)),
    );
    let two = second_page(window, own);
    probe.law(
        "a-local-table-of-two-pages-has-both",
        equal(two, &(Ok(0), [None, Some(u32::from(own) | 9)])),
    );
    let gone = set(0, 0);
    probe.law(
        "a-local-table-that-is-taken-away-is-ordinary-memory",
        equal(
            (gone, limit(selector(1)), page.remap(WRITABLE)),
            &(Ok(0), None, Ok(0)),
        ),
    );
}

fn refusals(probe: &mut Probe, window: &mut Window, page: &Frame) {
    let gate = Frame::table(&[CALL_GATE]);
    let writable = Frame::new();
    let nothing = Window::address(window.skip());
    let bad = [
        set(page.address().wrapping_add(8), 16),
        set(page.address(), 8193),
        set(page.address(), u64::MAX),
        set(gate.address(), 1),
        set(writable.address(), 1),
        set(nothing, 1),
        // The first page would do.
        set(page.address(), 8192),
        set(HYPERVISOR.start, 512),
        set(1 << 47, 1),
    ];
    probe.all_refused("mmuext_op.set_ldt", Errno::Inval, &bad);
}

/// Where the segment begins that is loaded for programs.
const BASE: u64 = 0x12_3450;

/// Loads local descriptor 1 into the GS of programs, and then one of ring 0: the selector and the base that come of it, and whether the base
/// in force is as before.
fn gs_for_programs(page: &Frame) -> ([(u16, u64); 2], bool) {
    let set = |which: SegmentBase, value: u64| {
        tidy([call(Hypercall::SetSegmentBase, [u64::from(which.raw()), value])]);
    };
    let before = rdmsr(msr::GS_BASE);
    tidy([call(
        Hypercall::UpdateDescriptor,
        [page.word_maddr(1), data(0xfff) | BASE << 16],
    )]);
    let found = [u64::from(selector(1)), 0xe010].map(|wanted| {
        set(SegmentBase::GsUser, 0);
        set(SegmentBase::GsUserSel, wanted);
        let gs: u16;
        // SAFETY: reads a selector.
        unsafe { asm!("mov {:x}, gs", out(reg) gs, options(nomem, nostack, preserves_flags)) };
        (gs, rdmsr(msr::KERNEL_GS_BASE).unwrap_or(1))
    });
    let is_kept = rdmsr(msr::GS_BASE) == before;
    set(SegmentBase::GsUserSel, 0);
    set(SegmentBase::GsUser, 0);
    (found, is_kept)
}

/// Loads a local selector, lets others run, and looks at it again.
fn kept_across_switches() -> (u16, Option<u32>) {
    let mut kept = (selector(1), limit(selector(1)));
    for _ in 0..YIELDS {
        // SAFETY: ES means nothing in 64-bit mode, but that its selector is there.
        unsafe { asm!("mov es, {:e}", in(reg) u32::from(selector(1)), options(nostack, preserves_flags)) };
        tidy([call(Hypercall::SchedOp, [u64::from(SchedOp::Yield.raw())])]);
        let found: u16;
        // SAFETY: reads a selector, and loads the null selector that was there before.
        unsafe {
            asm!("mov {0:x}, es", "mov es, {1:e}", out(reg) found, in(reg) 0, options(nostack, preserves_flags));
        }
        let now = (found, limit(selector(1)));
        if now.0 != selector(1) || now.1 != kept.1 {
            kept = now;
            break;
        }
    }
    kept
}

/// A table of 514 entries in two pages of the window, which lie elsewhere in memory.
fn second_page(window: &mut Window, own: u16) -> (Answer, [Option<u32>; 2]) {
    let pages = [Frame::table(&[0]), Frame::table(&[0, data(own | 9)])];
    let first = window.skip();
    for (n, page) in pages.iter().enumerate() {
        tidy([show(
            Window::address(first.wrapping_add(n)),
            page.entry(READ_ONLY),
        )]);
    }
    let _ = window.skip();
    let answer = set(Window::address(first), 514);
    (answer, [1, 513].map(|index| limit(selector(index))))
}

fn equal<T: PartialEq>(found: T, expected: &T) -> Result<(), T> {
    if found == *expected { Ok(()) } else { Err(found) }
}

const _: () = assert!(PAGE_SIZE == 512 * 8);
