//! Where the hypervisor's image is: linker symbols, as addresses.

use core::ops::Range;

use bulkhead_machine::layout::{PAGE_SHIFT, TEXT};

unsafe extern "C" {
    static boot_start: u8;
    static boot_end: u8;
    static text_start: u8;
    static text_end: u8;
    static rodata_start: u8;
    static rodata_end: u8;
    static build_id_start: u8;
    static build_id_end: u8;
    static data_start: u8;
    static data_end: u8;
}

/// The virtual addresses of a segment of the image, page-aligned.
pub(crate) type Segment = Range<u64>;

/// Code: read and execute.
pub(crate) fn text() -> Segment {
    address(&raw const text_start)..address(&raw const text_end)
}

/// Constants: read only.
pub(crate) fn rodata() -> Segment {
    address(&raw const rodata_start)..address(&raw const rodata_end)
}

/// Variables, zeroed ones included: read and write.
pub(crate) fn data() -> Segment {
    address(&raw const data_start)..address(&raw const data_end)
}

/// The frames of the entry stub and the early page tables.
pub(crate) fn boot_frames() -> Range<u64> {
    address(&raw const boot_start) >> PAGE_SHIFT..address(&raw const boot_end) >> PAGE_SHIFT
}

/// The frames of all that runs at the link address.
pub(crate) fn high_frames() -> Range<u64> {
    frames(&(text().start..data().end))
}

/// The bytes by which the linker tells this image from others, if it has left any: an ELF note with a name of four bytes.
pub(crate) fn build_id() -> Option<&'static [u8]> {
    const HEADER: usize = 16;
    let start = &raw const build_id_start;
    let len = (&raw const build_id_end).addr().saturating_sub(start.addr());
    // SAFETY: the link script puts the two symbols around bytes of the image's constants, which nobody writes.
    let note = unsafe { core::slice::from_raw_parts(start, len) };
    note.get(HEADER..).filter(|id| !id.is_empty())
}

/// The frames behind a segment.
pub(crate) fn frames(segment: &Segment) -> Range<u64> {
    physical(segment.start) >> PAGE_SHIFT..physical(segment.end) >> PAGE_SHIFT
}

/// The physical address of a byte of the image.
pub(crate) fn physical(address: u64) -> u64 {
    address.wrapping_sub(TEXT)
}

fn address(symbol: *const u8) -> u64 {
    symbol.addr() as u64
}
