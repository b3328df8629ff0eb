//! Model-specific registers as guests see them. Source: the guest ABI's section 6.12.

use crate::ids::VcpuId;
use crate::vcpu::Base;
use bulkhead_abi::{layout, msr};

/// What a guest that reads a register gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// This value.
    Value(u64),
    /// A segment base of its own.
    Base(Base),
    /// A general protection fault.
    Refused,
}

/// What happens when a guest writes a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Nothing, silently.
    Ignored,
    /// A segment base of its own changes.
    Base(Base),
    /// A general protection fault.
    Refused,
}

/// EFER: system calls, long mode enabled and active, no-execute.
const EFER_VALUE: u64 = 0xd01;
/// APIC_BASE: the usual address, enabled.
const APIC_BASE_VALUE: u64 = 0xfee0_0800;
/// APIC_BASE: this is the boot processor.
const APIC_BASE_BSP: u64 = 1 << 8;
/// MISC_ENABLE: no branch trace store, no event-based sampling.
const MISC_ENABLE_VALUE: u64 = 1 << 11 | 1 << 12 | 1;

/// The answer to a read of register `index` on `vcpu`.
#[must_use]
pub fn read(index: u32, vcpu: VcpuId) -> Read {
    match index {
        msr::FS_BASE => Read::Base(Base::Fs),
        msr::GS_BASE => Read::Base(Base::Gs),
        msr::KERNEL_GS_BASE => Read::Base(Base::OtherGs),
        msr::EFER => Read::Value(EFER_VALUE),
        msr::APIC_BASE if vcpu == VcpuId::BOOT => Read::Value(APIC_BASE_VALUE | APIC_BASE_BSP),
        msr::APIC_BASE => Read::Value(APIC_BASE_VALUE),
        msr::PAT => Read::Value(msr::PAT_VALUE),
        msr::MISC_ENABLE => Read::Value(MISC_ENABLE_VALUE),
        // No microcode revision is told, no feature can be switched, and no bank reports machine checks.
        msr::UCODE_REV
        | msr::MISC_FEATURES_ENABLES
        | msr::MCG_CAP
        | msr::MCG_STATUS
        | msr::HWCR
        | msr::NB_CFG => Read::Value(0),
        _ => Read::Refused,
    }
}

/// What a write of `value` to register `index` on `vcpu` does.
#[must_use]
pub fn write(index: u32, value: u64, vcpu: VcpuId) -> Write {
    match (index, read(index, vcpu)) {
        (_, Read::Base(base)) if layout::is_canonical(value) => Write::Base(base),
        (_, Read::Base(_)) => Write::Refused,
        // Those that guests write at boot to no purpose; elsewhere only what stands there already may be written.
        (msr::UCODE_REV | msr::MISC_ENABLE | msr::HWCR | msr::NB_CFG, _) => Write::Ignored,
        (_, Read::Value(same)) if same == value => Write::Ignored,
        (_, Read::Value(_) | Read::Refused) => Write::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: VcpuId = VcpuId::BOOT;

    #[test]
    fn segment_bases_take_canonical_values_only() {
        assert_eq!(
            write(msr::GS_BASE, 0xffff_8880_0000_0000, BOOT),
            Write::Base(Base::Gs)
        );
        assert_eq!(write(msr::FS_BASE, 0x8000_0000_0000_0000, BOOT), Write::Refused);
        assert_eq!(read(msr::KERNEL_GS_BASE, BOOT), Read::Base(Base::OtherGs));
    }

    #[test]
    fn the_same_value_may_be_written_to_efer_and_no_other() {
        assert_eq!(write(msr::EFER, EFER_VALUE, BOOT), Write::Ignored);
        assert_eq!(write(msr::EFER, EFER_VALUE & !(1 << 11), BOOT), Write::Refused);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for index in [msr::SPEC_CTRL, msr::FEATURE_CONTROL, 0x2ff, 0xc000_0082, u32::MAX] {
            assert_eq!(read(index, BOOT), Read::Refused, "{index:#x}");
            assert_eq!(write(index, 0, BOOT), Write::Refused, "{index:#x}");
        }
    }

    /// A kernel that is refused these takes it for broken hardware, and panics.
    #[test]
    fn no_machine_check_is_in_progress_and_no_bank_reports_any() {
        for index in [msr::MCG_CAP, msr::MCG_STATUS] {
            assert_eq!(read(index, BOOT), Read::Value(0), "{index:#x}");
        }
    }

    #[test]
    fn only_the_first_vcpu_is_the_boot_processor() {
        assert_eq!(read(msr::APIC_BASE, BOOT), Read::Value(0xfee0_0900));
        assert_eq!(read(msr::APIC_BASE, VcpuId::new(1)), Read::Value(0xfee0_0800));
    }
}
