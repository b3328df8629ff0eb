//! Walks the chain of frame pointers, and gives addresses names.

use core::fmt;

use bulkhead_machine::layout::{PAGE_SHIFT, STACK_STRIDE, Stack, cpu_area};
use bulkhead_machine::portable::symbols::Symbols;

use crate::archive;
use crate::boot::entry::boot_stack;

/// Most frames that are followed: a chain that goes in circles ends too.
const MAX_FRAMES: usize = 32;

/// The file of the boot archive that holds the symbol table.
const SYMBOL_FILE: &str = "bulkhead.sym";

/// The return addresses of a chain of frames, innermost first.
pub(super) struct Frames {
    cpu: usize,
    rbp: u64,
    left: usize,
}

impl Frames {
    /// The chain that begins at `rbp`, on the stacks of CPU `cpu`.
    pub(super) const fn new(cpu: usize, rbp: u64) -> Self {
        Self {
            cpu,
            rbp,
            left: MAX_FRAMES,
        }
    }
}

impl Iterator for Frames {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if !is_on_a_stack(self.cpu, self.rbp) {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let frame: *const [u64; 2] = core::ptr::with_exposed_provenance(usize::try_from(self.rbp).ok()?);
        // SAFETY: both words are aligned and on a mapped page of one of this CPU's stacks, checked above. What
        // they hold may be anything; it is only printed, or checked again.
        let [outer, return_address] = unsafe { frame.read_volatile() };
        self.rbp = outer;
        (return_address != 0).then_some(return_address)
    }
}

/// Whether a frame (saved frame pointer and return address) at `rbp` lies wholly on a mapped stack page of CPU
/// `cpu`, or on the boot stack.
fn is_on_a_stack(cpu: usize, rbp: u64) -> bool {
    let Some(last) = rbp.checked_add(15) else {
        return false;
    };
    if !rbp.is_multiple_of(8) {
        return false;
    }
    let boot = boot_stack();
    if boot.contains(&rbp) && boot.contains(&last) {
        return true;
    }
    let offset = |address: u64| {
        address
            .checked_sub(cpu_area(cpu))
            .filter(|&offset| offset < STACK_STRIDE)
    };
    let (Some(first), Some(last)) = (offset(rbp), offset(last)) else {
        return false;
    };
    Stack::ALL.iter().any(|stack| {
        let pages = stack.pages();
        pages.contains(&(first >> PAGE_SHIFT)) && pages.contains(&(last >> PAGE_SHIFT))
    })
}

/// The name of the function that holds an address, if there are symbols.
pub(super) fn describe(address: u64) -> impl fmt::Display {
    Description(address)
}

struct Description(u64);

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let symbols = archive::file(SYMBOL_FILE).and_then(Symbols::new);
        match symbols.and_then(|symbols| symbols.find(self.0)) {
            Some(place) => write!(f, "{}+{:#x}", place.name, place.offset),
            None => f.write_str("?"),
        }
    }
}
