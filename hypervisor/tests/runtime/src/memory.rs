//! All memory is there, and no page allows more than its use needs.

use alloc::{format, string::String, vec, vec::Vec};

use bulkhead_runtime::{
    Environment, Vector, control,
    memory::{self, Page, Pfn, machine_frame, pseudo_physical_frame},
    report::Checks,
    trap::{Fault, probe_read, probe_write},
};

const PAGE_SIZE: u64 = 4096;

/// Error code of a write to a page that is there.
const WRITE_TO_PRESENT: u64 = 0b11;
/// Error code of a read where nothing is.
const READ_OF_ABSENT: u64 = 0;

static CONSTANT: u64 = 0x0123_4567_89ab_cdef;

pub(super) fn check(checks: &mut Checks, environment: &Environment) {
    checks.equal(
        "constants-are-read-only",
        write_to((&raw const CONSTANT).addr()),
        page_fault(WRITE_TO_PRESENT),
    );
    checks.equal(
        "code-is-read-only",
        write_to(check as *const () as usize),
        page_fault(WRITE_TO_PRESENT),
    );
    checks.equal(
        "address-0-is-unmapped",
        probe_read(0).err(),
        page_fault(READ_OF_ABSENT),
    );
    checks.report("every-frame-is-mapped", every_frame_is_mapped(environment));
    checks.report("m2p-inverts-p2m", m2p_inverts_p2m(environment));
    checks.report("pages-are-apart", pages_are_apart());
    checks.report("memory-is-given-and-taken-back", balloon(environment));
    checks.report(
        "much-memory-can-be-allocated",
        much_memory_can_be_allocated(environment),
    );
    if environment.is_initial_domain() {
        checks.report("memory-is-borrowed-and-returned", borrowing());
    }
}

fn page_fault(error_code: u64) -> Option<Fault> {
    Some(Fault {
        vector: Vector::PageFault,
        error_code,
    })
}

/// The fault that writing to `address` meets.
fn write_to(address: usize) -> Option<Fault> {
    // SAFETY: if the write succeeds where it must not, the check has failed and the guest ends soon; the
    // value written is the one that was there.
    probe_read(address)
        .and_then(|value| unsafe { probe_write(address, value) })
        .err()
}

fn frames(environment: &Environment) -> impl Iterator<Item = Pfn> {
    (0..environment.memory().total / PAGE_SIZE).filter_map(Pfn::new)
}

/// All but the guard page can be read.
fn every_frame_is_mapped(environment: &Environment) -> Result<(), usize> {
    let unmapped = frames(environment)
        .filter(|pfn| probe_read(pfn.address()).is_err())
        .count();
    if unmapped == 1 { Ok(()) } else { Err(unmapped) }
}

fn m2p_inverts_p2m(environment: &Environment) -> Result<(), Pfn> {
    match frames(environment).find(|pfn| machine_frame(*pfn).and_then(pseudo_physical_frame) != Some(*pfn)) {
        None => Ok(()),
        Some(pfn) => Err(pfn),
    }
}

/// Pages hold what was written to each of them, and come back when dropped.
fn pages_are_apart() -> Result<(), &'static str> {
    let pages: Vec<Page> = (0..100).map_while(|_| Page::zeroed()).collect();
    if pages.len() != 100 {
        return Err("out of pages");
    }
    for (number, page) in (0_u64..).zip(&pages) {
        let mut before = [0xff; 8];
        page.read(4088, &mut before)
            .ok_or("the end of a page cannot be read")?;
        if before != [0; 8] {
            return Err("a new page is not zero");
        }
        page.write(4088, &number.to_le_bytes())
            .ok_or("the end of a page cannot be written")?;
    }
    for (number, page) in (0_u64..).zip(&pages) {
        let mut bytes = [0; 8];
        page.read(4088, &mut bytes)
            .ok_or("the end of a page cannot be read")?;
        if u64::from_le_bytes(bytes) != number {
            return Err("a page holds another page's bytes");
        }
    }
    if pages.iter().any(|page| page.read(4089, &mut [0; 8]).is_some()) {
        Err("a read left its page")
    } else {
        Ok(())
    }
}

/// A block of half of the free memory, twice in a row: the heap grows, and what is freed can be used again.
fn much_memory_can_be_allocated(environment: &Environment) -> Result<(), &'static str> {
    let bytes = usize::try_from(environment.memory().free / 2).map_err(|_| "too much memory")?;
    for value in [0x5a, 0xa5] {
        let mut block: Vec<u8> = Vec::new();
        block
            .try_reserve_exact(bytes)
            .map_err(|_| "half of what is free cannot be had")?;
        block.resize(bytes, value);
        if block.iter().step_by(1021).any(|byte| *byte != value) {
            return Err("a byte was lost");
        }
    }
    Ok(())
}

/// A block larger than the domain, and more small ones than it has room for: both are of the machine's memory. The block goes back.
fn borrowing() -> Result<(), String> {
    const LARGE: usize = 48 << 20;
    const SMALL: usize = 64 << 10;
    let told = |error| format!("{error}");
    memory::borrow().map_err(told)?;
    let free = || control::machine().map(|machine| machine.free).map_err(told);
    let before = free()?;
    let mut block = vec![0_u8; LARGE];
    let during = free()?;
    for (n, byte) in (0_u8..=u8::MAX).cycle().zip(block.iter_mut().step_by(4096)) {
        if *byte != 0 {
            return Err("a new block is not zero".into());
        }
        *byte = n;
    }
    let is_kept = (0_u8..=u8::MAX)
        .cycle()
        .zip(block.iter().step_by(4096))
        .all(|(n, byte)| n == *byte);
    block.truncate(LARGE / 2);
    block.shrink_to_fit();
    let is_smaller = block.iter().step_by(4096).nth(77) == Some(&77);
    drop(block);
    let after = free()?;
    if !is_kept || !is_smaller || after != before || before.saturating_sub(during) < LARGE as u64 / PAGE_SIZE
    {
        return Err(format!(
            "{before} frames free, then {during}, then {after}; kept: {is_kept}, {is_smaller}"
        ));
    }
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    for n in (0_u8..=u8::MAX).cycle().take(LARGE / SMALL) {
        blocks.push(vec![n; SMALL]);
    }
    let is_apart = |(n, block): (u8, &Vec<u8>)| block.iter().step_by(97).all(|byte| *byte == n);
    if (0_u8..=u8::MAX).cycle().zip(&blocks).all(is_apart) {
        Ok(())
    } else {
        Err("small blocks are not apart".into())
    }
}

/// A balloon of 4 MiB: what was given is gone, and what comes back can be used.
fn balloon(environment: &Environment) -> Result<(), (u64, u64)> {
    const PAGES: u64 = 1024;
    let whole = environment.memory().total / PAGE_SIZE;
    let lacking = || {
        frames(environment)
            .filter(|&pfn| machine_frame(pfn).is_none())
            .count() as u64
    };
    let smaller = memory::balloon(whole.saturating_sub(PAGES));
    if smaller.checked_add(PAGES) != Some(whole) || lacking() != PAGES {
        return Err((smaller, lacking()));
    }
    let whole_again = memory::balloon(u64::MAX);
    if whole_again != whole || lacking() != 0 {
        return Err((whole_again, lacking()));
    }
    // The guard page alone is not mapped, and M2P agrees.
    every_frame_is_mapped(environment).map_err(|unmapped| (whole, unmapped as u64))?;
    m2p_inverts_p2m(environment).map_err(|pfn| (whole, pfn.raw()))
}
