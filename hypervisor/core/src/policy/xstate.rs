//! Extended state: which parts of it the hypervisor keeps for its vCPUs, and what a guest may enable in XCR0.
//!
//! Kept are x87, SSE and AVX, which fill the fixed room of a [`FpuState`](crate::vcpu::FpuState). All that is beyond (AVX-512,
//! protection keys, tiles) is not: guests are not shown it and cannot enable it. Source: Intel SDM volume 1, chapter 13.

/// XCR0: x87. Always enabled.
pub const X87: u64 = 1 << 0;
/// XCR0: SSE.
pub const SSE: u64 = 1 << 1;
/// XCR0: the upper halves of the AVX registers.
pub const AVX: u64 = 1 << 2;

/// Bytes of the format of XSAVE with x87 and SSE alone: that of FXSAVE, and a header.
pub const BASE_BYTES: u32 = 576;
/// Bytes that AVX adds, directly behind.
pub const AVX_BYTES: u32 = 256;
/// Bytes of all that is kept.
pub const MAX_BYTES: u32 = BASE_BYTES + AVX_BYTES;

/// The leaf of CPUID that tells of extended state.
pub const LEAF: u32 = 0xd;
/// Leaf 1 ECX: XSAVE; AVX.
const HAS_XSAVE: u32 = 1 << 26;
const HAS_AVX: u32 = 1 << 28;
/// Sub-leaf 1 EAX: XSAVEOPT, XSAVEC, XGETBV of what is in use. They need no privilege.
const INSTRUCTIONS: u32 = 0b111;
/// Sub-leaf of a component, ECX: it is aligned to 64 bytes in the compacted format.
const IS_ALIGNED: u32 = 1 << 1;

/// The parts that are kept on a processor whose CPUID answers so; none if it has no XSAVE.
#[must_use]
pub fn kept(cpuid: impl Fn(u32, u32) -> [u32; 4]) -> u64 {
    let [_, _, features, _] = cpuid(1, 0);
    if features & HAS_XSAVE == 0 {
        return 0;
    }
    let [supported, ..] = cpuid(LEAF, 0);
    let [size, offset, ..] = cpuid(LEAF, 2);
    let has_room = (size, offset) == (AVX_BYTES, BASE_BYTES);
    let avx = if features & HAS_AVX != 0 && has_room {
        AVX
    } else {
        0
    };
    (X87 | SSE | avx) & u64::from(supported)
}

/// Whether a guest may have `xcr0`, where `kept` is kept.
#[must_use]
pub const fn is_valid(xcr0: u64, kept: u64) -> bool {
    let has_sse_for_avx = xcr0 & AVX == 0 || xcr0 & SSE != 0;
    xcr0 & X87 != 0 && xcr0 & !kept == 0 && has_sse_for_avx
}

/// What a guest with `xcr0` is told about extended state.
#[must_use]
pub const fn answer(subleaf: u32, hardware: [u32; 4], kept: u64, xcr0: u64) -> [u32; 4] {
    let [eax, _, ecx, _] = hardware;
    match subleaf {
        _ if kept == 0 => [0; 4],
        0 => [low(kept), bytes(xcr0), bytes(kept), 0],
        // The compacted format of these parts is as long; there are no supervisor states (XSAVES).
        1 => [eax & INSTRUCTIONS, bytes(xcr0), 0, 0],
        2 if kept & AVX != 0 => [AVX_BYTES, BASE_BYTES, ecx & IS_ALIGNED, 0],
        _ => [0; 4],
    }
}

/// How much room `components` take.
const fn bytes(components: u64) -> u32 {
    if components & AVX != 0 {
        MAX_BYTES
    } else {
        BASE_BYTES
    }
}

#[expect(clippy::cast_possible_truncation, reason = "no part above bit 2 is kept")]
const fn low(components: u64) -> u32 {
    components as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = X87 | SSE | AVX;

    #[test]
    fn what_does_not_lie_where_there_is_room_is_not_kept() {
        let processor = |features: u32, avx_at: u32| {
            move |leaf, subleaf| match (leaf, subleaf) {
                (1, _) => [0, 0, features, 0],
                (LEAF, 0) => [0xffff_ffff; 4],
                (LEAF, 2) => [256, avx_at, 0, 0],
                _ => [0; 4],
            }
        };
        assert_eq!(kept(processor(HAS_XSAVE | HAS_AVX, 576)), ALL);
        assert_eq!(kept(processor(HAS_XSAVE | HAS_AVX, 1024)), X87 | SSE);
        assert_eq!(kept(processor(HAS_XSAVE, 576)), X87 | SSE);
        assert_eq!(kept(processor(HAS_AVX, 576)), 0);
    }

    #[test]
    fn a_guest_enables_what_is_kept_in_combinations_that_a_cpu_takes() {
        for xcr0 in [X87, X87 | SSE, ALL] {
            assert!(is_valid(xcr0, ALL), "{xcr0:#x}");
        }
        for xcr0 in [
            0,
            SSE,
            SSE | AVX,
            X87 | AVX,
            ALL | 1 << 5,
            ALL | 1 << 9,
            ALL | 1 << 63,
        ] {
            assert!(!is_valid(xcr0, ALL), "{xcr0:#x}");
        }
        assert!(!is_valid(ALL, X87 | SSE) && !is_valid(X87, 0));
    }

    #[test]
    fn a_guest_is_told_of_the_parts_that_are_kept_alone() {
        let all_ones = [u32::MAX; 4];
        assert_eq!(answer(0, all_ones, ALL, X87 | SSE), [7, 576, 832, 0]);
        assert_eq!(answer(0, all_ones, ALL, ALL), [7, 832, 832, 0]);
        assert_eq!(answer(1, all_ones, ALL, ALL), [7, 832, 0, 0], "no XSAVES");
        assert_eq!(answer(2, all_ones, ALL, X87), [256, 576, 2, 0]);
        for subleaf in [3, 5, 9, 62, u32::MAX] {
            assert_eq!(answer(subleaf, all_ones, ALL, ALL), [0; 4], "{subleaf}");
        }
        assert_eq!(answer(0, all_ones, 0, X87), [0; 4]);
    }
}
