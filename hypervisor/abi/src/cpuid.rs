//! CPUID leaves by which a guest finds the hypervisor.
//!
//! CPUID does not trap in ring 3; a guest kernel asks by the forced-emulation prefix.

/// Prefix (an invalid opcode and the letters "xen") that makes the following CPUID trap.
pub const FORCED_EMULATION_PREFIX: [u8; 5] = [0x0f, 0x0b, b'x', b'e', b'n'];

/// Bit 31 of leaf 1's ecx: there is a hypervisor.
pub const HYPERVISOR_PRESENT: u32 = 1 << 31;

/// The signature, as ebx, ecx, edx of the base leaf spell it.
pub const SIGNATURE: &[u8; 12] = b"XenVMMXenVMM";
/// ebx of the base leaf.
pub const SIGNATURE_EBX: u32 = 0x566e_6558;
/// ecx of the base leaf.
pub const SIGNATURE_ECX: u32 = 0x6558_4d4d;
/// edx of the base leaf.
pub const SIGNATURE_EDX: u32 = 0x4d4d_566e;

/// Base leaf: eax is the largest hypervisor leaf; the other registers are the signature.
pub const LEAF_BASE: u32 = 0x4000_0000;
/// Version leaf: eax is major << 16 | minor.
pub const LEAF_VERSION: u32 = 0x4000_0001;
/// Features leaf: eax is the number of hypercall pages, ebx the MSR that places them, ecx features.
pub const LEAF_FEATURES: u32 = 0x4000_0002;
/// Time leaf: modes and scales of the TSC, by sub-leaf.
pub const LEAF_TIME: u32 = 0x4000_0003;
/// HVM leaf: zero for PV.
pub const LEAF_HVM: u32 = 0x4000_0004;
/// PV leaf: the low byte of ebx is the width of machine addresses, in bits.
pub const LEAF_PV: u32 = 0x4000_0005;
/// The largest leaf.
pub const LEAF_MAX: u32 = LEAF_PV;

/// [`LEAF_FEATURES`], ecx: `mmu_update` can preserve accessed and dirty bits.
pub const FEATURES_ECX_PRESERVE_AD: u32 = 1 << 0;
/// [`LEAF_TIME`] sub-leaf 0, eax: the TSC is emulated.
pub const TIME_EAX_TSC_EMULATED: u32 = 1 << 0;
/// The same: the TSCs of all CPUs show the same at any moment.
pub const TIME_EAX_TSC_RELIABLE: u32 = 1 << 1;
/// [`LEAF_TIME`] sub-leaf 0, ebx: guests read the TSC itself, and never another in its place. Linux uses it without the hypervisor's clock then, if it is invariant.
pub const TIME_EBX_TSC_NATIVE: u32 = 2;
/// [`LEAF_PV`], low byte of ebx: above this width Linux wants grant tables of version 2.
pub const GRANT_V1_ADDRESS_BITS: u8 = 44;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registers_spell_the_signature() {
        let words = [SIGNATURE_EBX, SIGNATURE_ECX, SIGNATURE_EDX].map(u32::to_le_bytes);
        assert_eq!(words.as_flattened(), SIGNATURE);
    }
}
