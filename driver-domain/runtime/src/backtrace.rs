//! Backtraces by frame pointers, which every image is built with.
//!
//! Only addresses are printed: the image's symbol file turns them into names outside the guest.

use core::{arch::asm, ops::Range};

use crate::vcpu;

/// More frames than this are a runaway recursion or a damaged stack.
const MAX_FRAMES: usize = 32;

/// The frame pointer of the caller.
#[inline(always)]
pub(crate) fn frame_pointer() -> usize {
    let rbp;
    // SAFETY: copies a register and touches nothing else.
    unsafe { asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
    rbp
}

/// Prints the return addresses on the stack, innermost first, from the frame at `frame_pointer` on.
pub(crate) fn print(frame_pointer: usize) {
    crate::println!("backtrace:");
    let stack = vcpu::stack();
    let mut frame = frame_pointer;
    for depth in 0..MAX_FRAMES {
        let Some((caller_frame, return_address)) = read_frame(&stack, frame) else {
            return;
        };
        if return_address == 0 {
            return;
        }
        crate::println!("  {depth:2}: {return_address:#018x}");
        // Callers' frames lie above their callees'; anything else is a loop or garbage.
        if caller_frame <= frame {
            return;
        }
        frame = caller_frame;
    }
}

/// The saved frame pointer and return address of the frame at `frame`, if it lies on the stack.
fn read_frame(stack: &Range<usize>, frame: usize) -> Option<(usize, usize)> {
    let end = frame.checked_add(size_of::<[usize; 2]>())?;
    if !frame.is_multiple_of(align_of::<usize>()) || frame < stack.start || end > stack.end {
        return None;
    }
    let words = core::ptr::with_exposed_provenance::<[usize; 2]>(frame);
    // SAFETY: the address is aligned and both words lie on a vCPU's stack, which is mapped for the whole
    // life of the guest; a volatile read of a live stack slot sees some value and asks no more of it.
    let [caller_frame, return_address] = unsafe { words.read_volatile() };
    Some((caller_frame, return_address))
}
