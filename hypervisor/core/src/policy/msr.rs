//! Model-specific registers as guests see them: what each reads as, what becomes of a write, and why. Source: the guest ABI's section 6.12.
//!
//! A register that is in no row is not known, and refused.

use crate::ids::VcpuId;
use crate::vcpu::Base;
use bulkhead_abi::{layout, msr};
use core::ops::RangeInclusive;

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
    /// What RDTSCP and RDPID tell it changes to this.
    TscAux(u32),
    /// A general protection fault.
    Refused,
}

/// The vCPU, as far as the answers depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its number.
    pub vcpu: VcpuId,
    /// What RDTSCP and RDPID tell it; `None` if the processor has neither.
    pub tsc_aux: Option<u32>,
}

/// How a register is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    /// It is a segment base of the vCPU's: canonical values may be written.
    Segment(Base),
    /// It reads as this, and that may be written, which changes nothing.
    Fixed(u64),
    /// It reads as this, and whatever is written is forgotten.
    Forgetful(u64),
    /// As [`Policy::Fixed`], but the first vCPU is shown to be the boot processor.
    ApicBase,
    /// It is the vCPU's own, where the processor has it: 32 bits.
    TscAux,
    /// It is none of a guest's.
    Refused,
}

/// Some registers with consecutive numbers, what the manuals call them, how they are treated, and why.
struct Row {
    numbers: RangeInclusive<u32>,
    #[cfg_attr(not(test), expect(dead_code, reason = "for who reads the table"))]
    name: &'static str,
    policy: Policy,
    #[cfg_attr(not(test), expect(dead_code, reason = "for who reads the table"))]
    why: &'static str,
}

const fn row(first: u32, last: u32, name: &'static str, policy: Policy, why: &'static str) -> Row {
    Row {
        numbers: first..=last,
        name,
        policy,
        why,
    }
}

const fn one(number: u32, name: &'static str, policy: Policy, why: &'static str) -> Row {
    row(number, number, name, policy, why)
}

/// EFER: system calls, long mode enabled and active, no-execute.
const EFER_VALUE: u64 = 0xd01;
/// APIC_BASE: the usual address, enabled.
const APIC_BASE_VALUE: u64 = 0xfee0_0800;
/// APIC_BASE: this is the boot processor.
const APIC_BASE_BSP: u64 = 1 << 8;
/// MISC_ENABLE: no branch trace store, no event-based sampling.
const MISC_ENABLE_VALUE: u64 = 1 << 11 | 1 << 12 | 1;

use Policy::{ApicBase, Fixed, Forgetful, Refused, Segment, TscAux};

/// Every register that a guest is known to ask for, by number.
const TABLE: &[Row] = &[
    one(
        0x10,
        "TIME_STAMP_COUNTER",
        Refused,
        "RDTSC reads it, and its value is the machine's",
    ),
    one(
        msr::APIC_BASE,
        "APIC_BASE",
        ApicBase,
        "the feature bit is shown; nothing is behind the address",
    ),
    one(msr::SMI_COUNT, "SMI_COUNT", Refused, "it tells of the firmware"),
    one(
        msr::FEATURE_CONTROL,
        "FEATURE_CONTROL",
        Refused,
        "VMX and SGX are not shown",
    ),
    one(
        msr::SPEC_CTRL,
        "SPEC_CTRL",
        Refused,
        "IBRS, STIBP and SSBD are not shown",
    ),
    one(msr::PRED_CMD, "PRED_CMD", Refused, "IBPB is not shown"),
    one(
        msr::UCODE_REV,
        "BIOS_SIGN_ID",
        Forgetful(0),
        "kernels write 0 before they read; no revision is told",
    ),
    one(
        msr::PLATFORM_INFO,
        "PLATFORM_INFO",
        Refused,
        "it tells of the machine",
    ),
    one(
        msr::ARCH_CAPABILITIES,
        "ARCH_CAPABILITIES",
        Refused,
        "its feature bit is not shown",
    ),
    one(msr::FLUSH_CMD, "FLUSH_CMD", Refused, "L1D_FLUSH is not shown"),
    one(
        msr::MISC_FEATURES_ENABLES,
        "MISC_FEATURES_ENABLES",
        Fixed(0),
        "CPUID faulting cannot be switched on",
    ),
    row(
        0x174,
        0x176,
        "SYSENTER_*",
        Refused,
        "a kernel registers a callback instead",
    ),
    one(
        msr::MCG_CAP,
        "MCG_CAP",
        Fixed(0),
        "no bank reports machine checks: those are the hypervisor's",
    ),
    one(
        msr::MCG_STATUS,
        "MCG_STATUS",
        Fixed(0),
        "a kernel that is refused it takes it for broken hardware, and panics",
    ),
    one(
        msr::MISC_ENABLE,
        "MISC_ENABLE",
        Forgetful(MISC_ENABLE_VALUE),
        "kernels switch bits off at boot; nothing that it switches is theirs",
    ),
    row(0x200, 0x26f, "MTRR_*", Refused, "MTRRs are not shown"),
    one(
        msr::PAT,
        "PAT",
        Fixed(msr::PAT_VALUE),
        "one for all, by the ABI: entries of page tables are chosen by it",
    ),
    one(0x2ff, "MTRR_DEF_TYPE", Refused, "MTRRs are not shown"),
    row(
        msr::MC0_CTL,
        0x47f,
        "MC*",
        Refused,
        "MCG_CAP says that there are none",
    ),
    row(0x800, 0x8ff, "x2APIC", Refused, "x2APIC is not shown"),
    one(0xda0, "XSS", Refused, "XSAVES is not shown"),
    one(
        msr::EFER,
        "EFER",
        Fixed(EFER_VALUE),
        "system calls and no-execute are on, and stay so",
    ),
    row(
        0xc000_0081,
        0xc000_0084,
        "STAR, LSTAR, CSTAR, SFMASK",
        Refused,
        "a kernel registers callbacks instead",
    ),
    one(
        msr::FS_BASE,
        "FS_BASE",
        Segment(Base::Fs),
        "a kernel's first instructions set bases by these",
    ),
    one(msr::GS_BASE, "GS_BASE", Segment(Base::Gs), "likewise"),
    one(
        msr::KERNEL_GS_BASE,
        "KERNEL_GS_BASE",
        Segment(Base::OtherGs),
        "likewise: while the kernel runs it is its programs'",
    ),
    one(
        msr::TSC_AUX,
        "TSC_AUX",
        TscAux,
        "RDTSCP and RDPID are shown, and kernels have them tell a program its processor",
    ),
    row(
        msr::K7_EVNTSEL0,
        msr::K7_PERFCTR3,
        "PERF_CTL*, PERF_CTR*",
        Refused,
        "there is no PMU",
    ),
    one(
        msr::HWCR,
        "HWCR",
        Forgetful(0),
        "kernels of AMD's processors set bits at boot; none is needed",
    ),
    one(msr::NB_CFG, "NB_CFG", Forgetful(0), "likewise"),
    one(
        msr::INT_PENDING_MSG,
        "INT_PENDING_MSG",
        Refused,
        "a vCPU has no C-states",
    ),
    row(
        0xc001_0114,
        0xc001_0117,
        "VM_CR, VM_HSAVE_PA",
        Refused,
        "SVM is not shown",
    ),
    one(msr::FP_CFG, "FP_CFG", Refused, "it is the machine's"),
    one(msr::DE_CFG, "DE_CFG", Refused, "it is the machine's"),
];

fn policy(index: u32) -> Policy {
    // The first that does not end before it.
    let at = TABLE.partition_point(|row| *row.numbers.end() < index);
    match TABLE.get(at) {
        Some(row) if row.numbers.contains(&index) => row.policy,
        _ => Refused,
    }
}

/// The answer to a read of register `index`.
#[must_use]
pub fn read(index: u32, facts: Facts) -> Read {
    match policy(index) {
        Segment(base) => Read::Base(base),
        Fixed(value) | Forgetful(value) => Read::Value(value),
        ApicBase => Read::Value(apic_base(facts.vcpu)),
        TscAux => facts
            .tsc_aux
            .map_or(Read::Refused, |value| Read::Value(value.into())),
        Refused => Read::Refused,
    }
}

/// What a write of `value` to register `index` does.
#[must_use]
pub fn write(index: u32, value: u64, facts: Facts) -> Write {
    let is_allowed = match policy(index) {
        Segment(base) if layout::is_canonical(value) => return Write::Base(base),
        TscAux if facts.tsc_aux.is_some() => {
            return u32::try_from(value).map_or(Write::Refused, Write::TscAux);
        }
        Segment(_) | TscAux | Refused => false,
        Fixed(same) => value == same,
        ApicBase => value == apic_base(facts.vcpu),
        Forgetful(_) => true,
    };
    if is_allowed {
        Write::Ignored
    } else {
        Write::Refused
    }
}

fn apic_base(vcpu: VcpuId) -> u64 {
    if vcpu == VcpuId::BOOT {
        APIC_BASE_VALUE | APIC_BASE_BSP
    } else {
        APIC_BASE_VALUE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Facts = Facts {
        vcpu: VcpuId::BOOT,
        tsc_aux: Some(7),
    };

    #[test]
    fn each_register_has_one_row_at_most_and_each_row_a_name_and_a_reason() {
        for pair in TABLE.windows(2) {
            let [before, after] = pair else { continue };
            assert!(before.numbers.end() < after.numbers.start(), "{}", after.name);
        }
        for row in TABLE {
            assert!(
                !row.numbers.is_empty() && !row.name.is_empty() && !row.why.is_empty(),
                "{}",
                row.name
            );
        }
    }

    #[test]
    fn each_row_is_treated_as_it_says_to_its_first_and_last_number() {
        for row in TABLE {
            for index in [*row.numbers.start(), *row.numbers.end()] {
                let found = read(index, BOOT);
                let [zero, other] = [0, 0x1234_5678_0000].map(|value| write(index, value, BOOT));
                let expected = match row.policy {
                    Segment(base) => (Read::Base(base), Write::Base(base), Write::Base(base)),
                    Fixed(0) => (Read::Value(0), Write::Ignored, Write::Refused),
                    Fixed(value) => (Read::Value(value), Write::Refused, Write::Refused),
                    Forgetful(value) => (Read::Value(value), Write::Ignored, Write::Ignored),
                    ApicBase => (Read::Value(0xfee0_0900), Write::Refused, Write::Refused),
                    TscAux => (Read::Value(7), Write::TscAux(0), Write::Refused),
                    Refused => (Read::Refused, Write::Refused, Write::Refused),
                };
                assert_eq!((found, zero, other), expected, "{} {index:#x}", row.name);
                if let Read::Value(same) = found {
                    assert_ne!(write(index, same, BOOT), Write::Refused, "{}", row.name);
                }
            }
        }
    }

    #[test]
    fn what_is_in_no_row_is_refused() {
        let is_known = |index: u32| TABLE.iter().any(|row| row.numbers.contains(&index));
        let edges = TABLE.iter().flat_map(|row| {
            let (first, last) = (*row.numbers.start(), *row.numbers.end());
            [first.saturating_sub(1), last.saturating_add(1)]
        });
        for index in edges
            .chain([0, 1, 0x4000_0000, u32::MAX])
            .filter(|&index| !is_known(index))
        {
            assert_eq!(read(index, BOOT), Read::Refused, "{index:#x}");
            assert_eq!(write(index, 0, BOOT), Write::Refused, "{index:#x}");
        }
    }

    #[test]
    fn what_rdtscp_tells_is_32_bits_wide_and_there_where_that_is() {
        assert_eq!(
            write(msr::TSC_AUX, u32::MAX.into(), BOOT),
            Write::TscAux(u32::MAX)
        );
        assert_eq!(write(msr::TSC_AUX, 1 << 32, BOOT), Write::Refused);
        let without = Facts {
            tsc_aux: None,
            ..BOOT
        };
        assert_eq!(read(msr::TSC_AUX, without), Read::Refused);
        assert_eq!(write(msr::TSC_AUX, 0, without), Write::Refused);
    }

    #[test]
    fn segment_bases_take_canonical_values_only() {
        assert_eq!(
            write(msr::GS_BASE, 0xffff_8880_0000_0000, BOOT),
            Write::Base(Base::Gs)
        );
        assert_eq!(write(msr::FS_BASE, 0x8000_0000_0000_0000, BOOT), Write::Refused);
    }

    #[test]
    fn only_the_first_vcpu_is_the_boot_processor() {
        assert_eq!(read(msr::APIC_BASE, BOOT), Read::Value(0xfee0_0900));
        let second = Facts {
            vcpu: VcpuId::new(1),
            ..BOOT
        };
        assert_eq!(read(msr::APIC_BASE, second), Read::Value(0xfee0_0800));
    }
}
