//! Descriptor tables and segment bases.

use core::arch::asm;

use bulkhead_abi::{Errno, Hypercall, vcpu::SegmentBase};

use crate::{
    calls::{Answer, call, input, tidy},
    frames::{Frame, WRITABLE},
    probe::{Direction, Probe},
};

/// Flat 64-bit code for ring 0, which the hypervisor makes ring 3's.
const CODE: u64 = 0x00af_9a00_0000_ffff;
/// Flat data for ring 3.
pub(crate) const DATA: u64 = 0x00cf_f200_0000_ffff;
/// A present interrupt gate, which no guest may have.
const GATE: u64 = 0x0000_8e00_0000_0000;
/// The bits of a descriptor that say ring 3.
const RING_3: u64 = 3 << 45;

pub(crate) fn check(probe: &mut Probe) {
    descriptors(probe);
    bases(probe);
}

/// Gives this vCPU the descriptor table of so many entries in these frames.
pub(crate) fn set_gdt(frames: &[u64], entries: u64) -> Answer {
    call(Hypercall::SetGdt, [input(frames), entries])
}

fn update(maddr: u64, descriptor: u64) -> Answer {
    call(Hypercall::UpdateDescriptor, [maddr, descriptor])
}

fn descriptors(probe: &mut Probe) {
    let page = Frame::table(&[0, CODE]);
    let set = set_gdt(&[page.mfn()], 16);
    let is_ring_3 = page.get(1) & RING_3 == RING_3;
    let result = set
        .map_err(|_| set)
        .and(is_ring_3.then_some(()).ok_or(Ok(page.get(1))));
    probe.good("set_gdt", result);
    probe.law(
        "a-page-of-descriptors-cannot-be-mapped-writable",
        refused_as_invalid(page.remap(WRITABLE)),
    );
    let gate = Frame::table(&[0, GATE]);
    let writable = Frame::new();
    let none = [u64::MAX >> 13];
    let bad = [
        set_gdt(&[page.mfn(); 15], 7169),
        set_gdt(&[gate.mfn()], 16),
        set_gdt(&[writable.mfn()], 16),
        set_gdt(&none, 16),
        set_gdt(&[page.mfn(), gate.mfn()], 1024),
        set_gdt(&[u64::MAX], 16),
    ];
    probe.all_refused("set_gdt", Errno::Inval, &bad);
    probe.faults("set_gdt", Direction::In, |at| call(Hypercall::SetGdt, [at, 16]));

    let plain = Frame::new();
    let good = update(page.word_maddr(2), CODE)
        .and_then(|_| update(plain.word_maddr(511), CODE))
        .and_then(|_| update(page.word_maddr(3), 0));
    let stands = page.get(2) & RING_3 == RING_3 && plain.get(511) & RING_3 == RING_3;
    probe.good(
        "update_descriptor",
        good.map_err(|_| good).and(stands.then_some(()).ok_or(good)),
    );
    let table = Frame::table(&[]);
    let pinned = crate::pins::pin(1, table.mfn());
    let bad = [
        update(page.word_maddr(2).wrapping_add(1), CODE),
        update(page.word_maddr(2), GATE),
        update(plain.word_maddr(2), GATE),
        update(!7, CODE),
        update(table.maddr(), CODE),
    ];
    probe.all_refused("update_descriptor", Errno::Inval, &bad);
    tidy([pinned, crate::pins::unpin(table.mfn())]);

    let released = set_gdt(&[], 0).and_then(|_| page.remap(WRITABLE));
    probe.law(
        "a-page-of-descriptors-that-is-none-any-more-can-be-written",
        released,
    );
}

/// What a refusal must be that a law asks for.
fn refused_as_invalid(answer: Answer) -> Result<(), Answer> {
    if answer == crate::calls::refusal(Errno::Inval) {
        Ok(())
    } else {
        Err(answer)
    }
}

fn bases(probe: &mut Probe) {
    let set = |which: u32, base: u64| call(Hypercall::SetSegmentBase, [u64::from(which), base]);
    let words = [0x1234_5678_9abc_def0_u64];
    let good = set(SegmentBase::Fs.raw(), input(&words)).map(|_| {
        let found: u64;
        // SAFETY: FS starts at `words`, so this reads its only element; nothing else uses FS.
        unsafe { asm!("mov {found}, fs:[0]", found = lateout(reg) found, options(nostack, readonly)) };
        found == words[0]
    });
    let others = set(SegmentBase::GsUser.raw(), 0)
        .and_then(|_| set(SegmentBase::GsKernel.raw(), 0))
        .and_then(|_| set(SegmentBase::GsUserSel.raw(), 0xffff))
        .and_then(|_| set(SegmentBase::Fs.raw(), 0));
    let result = if good == Ok(true) && others == Ok(0) {
        Ok(())
    } else {
        Err((good, others))
    };
    probe.good("set_segment_base", result);
    let bad = [
        set(SegmentBase::Fs.raw(), 1 << 47),
        set(SegmentBase::GsUser.raw(), 1 << 63),
        set(SegmentBase::GsKernel.raw(), 0xffff_7fff_ffff_ffff),
        set(4, 0),
        set(u32::MAX, 0),
    ];
    probe.all_refused("set_segment_base", Errno::Inval, &bad);
}
