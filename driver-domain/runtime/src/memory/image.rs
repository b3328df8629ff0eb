//! Where the image lies: the link script's symbols as ranges.

use core::ops::Range;

use super::frame::Pfn;

// Only the addresses mean anything; the bytes behind them belong to whatever lies there.
unsafe extern "C" {
    static __image_start: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __shared_info: u8;
    static __stack_guard: u8;
    static __stack_bottom: u8;
    /// One past the highest byte of the stack.
    pub(crate) static __stack_top: u8;
    static __image_end: u8;
}

/// What each frame of the image is for.
#[derive(Debug)]
pub(super) struct Image {
    /// All of it.
    pub(super) whole: Range<Pfn>,
    /// Constants, up to the code.
    pub(super) constants: Range<Pfn>,
    /// Code. What follows is data.
    pub(super) code: Range<Pfn>,
    /// The page that must stay unmapped, so that a stack overflow faults.
    pub(super) stack_guard: Pfn,
    /// The page whose address shows shared_info instead of its own frame.
    pub(super) shared_info: Pfn,
}

impl Image {
    /// The running image, or `None` if it does not lie in the linear mapping.
    pub(super) fn running() -> Option<Self> {
        let [start, text, data, guard, shared_info, end] = [
            (&raw const __image_start).addr(),
            (&raw const __text_start).addr(),
            (&raw const __text_end).addr(),
            (&raw const __stack_guard).addr(),
            (&raw const __shared_info).addr(),
            (&raw const __image_end).addr(),
        ]
        .map(Pfn::at_address);
        Some(Self {
            whole: start?..end?,
            constants: start?..text?,
            code: text?..data?,
            stack_guard: guard?,
            shared_info: shared_info?,
        })
    }
}

/// Addresses of the stack, lowest to one past the highest.
pub(crate) fn stack() -> Range<usize> {
    (&raw const __stack_bottom).addr()..(&raw const __stack_top).addr()
}

/// The page whose address shows the shared_info frame.
pub(crate) fn shared_info() -> *mut u8 {
    (&raw const __shared_info).cast_mut()
}
