//! The crossings between a guest's kernel and its programs that go by without Rust: [`bulkhead_machine::portable::crossing`] on this
//! machine.

use bulkhead_machine::crossing_code;
use bulkhead_machine::layout::DIRECT_MAP;

use super::guest_memory::SMAP;
use super::info::{CONTEXT, KEPT_R11, KEPT_RCX};

unsafe extern "C" {
    static crossing_call_start: u8;
    static crossing_call_end: u8;
    static crossing_call_fixup: u8;
    static crossing_return_start: u8;
    static crossing_return_end: u8;
    static crossing_return_fixup: u8;
    static crossing_fault_start: u8;
    static crossing_fault_end: u8;
    static crossing_fault_fixup: u8;
}

/// If `rip` may fault on a guest's account: where it goes on.
pub(super) fn fixup(rip: u64) -> Option<u64> {
    let parts = [
        (
            &raw const crossing_call_start,
            &raw const crossing_call_end,
            &raw const crossing_call_fixup,
        ),
        (
            &raw const crossing_return_start,
            &raw const crossing_return_end,
            &raw const crossing_return_fixup,
        ),
        (
            &raw const crossing_fault_start,
            &raw const crossing_fault_end,
            &raw const crossing_fault_fixup,
        ),
    ];
    parts
        .into_iter()
        .find(|(start, end, _)| (start.addr() as u64..end.addr() as u64).contains(&rip))
        .map(|(_, _, fixup)| fixup.addr() as u64)
}

crossing_code! {
    {
        ".macro load_root root",
        "mov cr3, \\root",
        ".endm",
        ".macro swap_gs",
        "swapgs",
        ".endm",
        ".macro allow_guest_memory",
        "cmp byte ptr [rip + {SMAP}], 0",
        "je 2f",
        "stac",
        "2:",
        ".endm",
        ".macro forbid_guest_memory",
        "cmp byte ptr [rip + {SMAP}], 0",
        "je 2f",
        "clac",
        "2:",
        ".endm",
        ".macro return_by_sysret",
        "sysretq",
        ".endm",
        ".macro read_cr2 to",
        "mov \\to, cr2",
        ".endm",
        ".macro write_cr2 from",
        "mov cr2, \\from",
        ".endm",
        ".macro set_fs_base",
        "mov rdx, rax",
        "shr rdx, 32",
        "mov ecx, {FS_BASE}",
        "wrmsr",
        ".endm",
        // If it faults, the CPU's frame and what handles it lie further below.
        ".macro load_other_gs",
        "call load_guest_gs",
        ".endm",
    }
    SMAP = sym SMAP,
    FS_BASE = const bulkhead_abi::msr::FS_BASE,
    CONTEXT = const CONTEXT,
    KEPT_RCX = const KEPT_RCX,
    KEPT_R11 = const KEPT_R11,
    FRAMES = const DIRECT_MAP,
}
