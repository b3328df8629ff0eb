//! The shared-info page: events, time, and wall clock, in memory that guest and hypervisor share.
//!
//! Both sides access it atomically, at the offsets of [`offset`]; the records are its layout, and fit
//! for private copies only. The scaling arithmetic of the clock is here too: [`TscScale`].

use crate::record;

pub use crate::pvclock::{TscScale, scale_delta};

/// vCPUs that have a slot in the page; the others must register theirs.
pub const LEGACY_VCPUS: usize = 32;
/// Words of the pending and mask bitmaps.
pub const EVENT_WORDS: usize = 64;

record! {
    /// Where a vCPU learns of events and time; one in the page per vCPU, or where the guest registered it.
    pub struct VcpuInfo: 64 {
        /// Both: non-zero if an upcall is due. The hypervisor sets it, the guest clears it.
        0 => pub evtchn_upcall_pending: u8,
        /// Both: non-zero if upcalls are masked. The hypervisor sets it on entry to the guest kernel and
        /// by iret.
        1 => pub evtchn_upcall_mask: u8,
        /// Both: one bit per word of the pending bitmap. The hypervisor sets, the guest clears.
        8 => pub evtchn_pending_sel: u64,
        /// Hypervisor: the faulting address of the last page fault. (The guest may write it too.)
        16 => pub cr2: u64,
        /// Unused.
        24 => pub reserved: u64,
        /// Hypervisor: the clock.
        32 => pub time: VcpuTimeInfo,
    }
}

record! {
    /// A vCPU's clock: system time = `system_time_ns` + [`scale_delta`] of the TSC since `tsc_timestamp`.
    pub struct VcpuTimeInfo: 32 {
        /// Hypervisor: odd while the record changes. Readers retry if it is odd or has changed.
        0 => pub version: u32,
        /// Unused.
        4 => pub reserved: u32,
        /// Hypervisor: the TSC when `system_time_ns` was true.
        8 => pub tsc_timestamp: u64,
        /// Hypervisor: ns since boot.
        16 => pub system_time_ns: u64,
        /// Hypervisor: [`TscScale::mul`].
        24 => pub tsc_to_system_mul: u32,
        /// Hypervisor: [`TscScale::shift`].
        28 => pub tsc_shift: i8,
        /// Hypervisor: [`TSC_STABLE`] or 0.
        29 => pub flags: u8,
    }
}

impl VcpuTimeInfo {
    /// System time in ns at TSC value `tsc`. For a copy that was read between two equal, even versions.
    #[must_use]
    #[inline]
    pub const fn system_time_ns_at(&self, tsc: u64) -> u64 {
        let delta = tsc.wrapping_sub(self.tsc_timestamp);
        self.system_time_ns
            .wrapping_add(scale_delta(delta, self.tsc_to_system_mul, self.tsc_shift))
    }
}

/// Clock flag: all physical CPUs' TSCs are invariant and synchronous.
pub const TSC_STABLE: u8 = 1 << 0;

record! {
    /// The page's layout. The rest of the page is unused.
    pub struct SharedInfo: 3136 {
        /// Slots of the first vCPUs.
        0 => pub vcpu_info: [VcpuInfo; LEGACY_VCPUS],
        /// Both: one bit per port. The sender sets, the guest clears.
        2048 => pub evtchn_pending: [u64; EVENT_WORDS],
        /// Guest: one bit per port that must not raise an upcall. (`unmask` clears it for the guest.)
        2560 => pub evtchn_mask: [u64; EVENT_WORDS],
        /// Hypervisor: odd while the wall clock changes.
        3072 => pub wc_version: u32,
        /// Hypervisor: wall-clock seconds at system time 0, low half.
        3076 => pub wc_sec: u32,
        /// Hypervisor: and nanoseconds.
        3080 => pub wc_nsec: u32,
        /// Hypervisor: seconds, high half.
        3084 => pub wc_sec_hi: u32,
        /// Guest: PFNs that its p2m list covers.
        3088 => pub max_pfn: u64,
        /// Guest: MFN of the top of the frame-list tree that tools read.
        3096 => pub pfn_to_mfn_frame_list_list: u64,
        /// Hypervisor: why an NMI was raised (first domain only).
        3104 => pub nmi_reason: u64,
        /// Guest: CR3 under which the linear p2m is valid; 0 if there is none.
        3112 => pub p2m_cr3: u64,
        /// Guest: va of the linear p2m.
        3120 => pub p2m_vaddr: u64,
        /// Guest: changes before and after each change of the p2m's mapping.
        3128 => pub p2m_generation: u64,
    }
}

/// Byte offsets, for atomic accesses.
pub mod offset {
    use core::mem::offset_of;

    use super::{SharedInfo, VcpuInfo, VcpuTimeInfo};

    /// In the page: the first vCPU slot.
    pub const VCPU_INFO: usize = offset_of!(SharedInfo, vcpu_info);
    /// In the page: the pending bitmap.
    pub const EVTCHN_PENDING: usize = offset_of!(SharedInfo, evtchn_pending);
    /// In the page: the mask bitmap.
    pub const EVTCHN_MASK: usize = offset_of!(SharedInfo, evtchn_mask);
    /// In the page: the wall clock's version (u32).
    pub const WC_VERSION: usize = offset_of!(SharedInfo, wc_version);
    /// In the page: the wall clock's seconds, low half (u32).
    pub const WC_SEC: usize = offset_of!(SharedInfo, wc_sec);
    /// In the page: the wall clock's nanoseconds (u32).
    pub const WC_NSEC: usize = offset_of!(SharedInfo, wc_nsec);
    /// In the page: the wall clock's seconds, high half (u32).
    pub const WC_SEC_HI: usize = offset_of!(SharedInfo, wc_sec_hi);
    /// The number of pages that the guest has given itself.
    pub const MAX_PFN: usize = offset_of!(SharedInfo, max_pfn);

    /// In a vCPU's slot: upcall pending (u8).
    pub const UPCALL_PENDING: usize = offset_of!(VcpuInfo, evtchn_upcall_pending);
    /// In a vCPU's slot: upcall mask (u8).
    pub const UPCALL_MASK: usize = offset_of!(VcpuInfo, evtchn_upcall_mask);
    /// In a vCPU's slot: pending selector (u64).
    pub const PENDING_SEL: usize = offset_of!(VcpuInfo, evtchn_pending_sel);
    /// In a vCPU's slot: faulting address (u64).
    pub const CR2: usize = offset_of!(VcpuInfo, cr2);
    /// In a vCPU's slot: the clock.
    pub const TIME: usize = offset_of!(VcpuInfo, time);

    /// In the clock: version (u32).
    pub const TIME_VERSION: usize = offset_of!(VcpuTimeInfo, version);
    /// In the clock: TSC timestamp (u64).
    pub const TIME_TSC_TIMESTAMP: usize = offset_of!(VcpuTimeInfo, tsc_timestamp);
    /// In the clock: system time (u64).
    pub const TIME_SYSTEM_TIME: usize = offset_of!(VcpuTimeInfo, system_time_ns);
    /// In the clock: multiplier (u32).
    pub const TIME_TSC_TO_SYSTEM_MUL: usize = offset_of!(VcpuTimeInfo, tsc_to_system_mul);
    /// In the clock: shift (i8).
    pub const TIME_TSC_SHIFT: usize = offset_of!(VcpuTimeInfo, tsc_shift);
    /// In the clock: flags (u8).
    pub const TIME_FLAGS: usize = offset_of!(VcpuTimeInfo, flags);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_that_of_the_timestamp_plus_the_scaled_ticks_since() {
        let scale = TscScale::from_hz(2_000_000_000).unwrap();
        let time = VcpuTimeInfo {
            tsc_timestamp: 5_000,
            system_time_ns: 1_000_000,
            tsc_to_system_mul: scale.mul,
            tsc_shift: scale.shift,
            ..VcpuTimeInfo::default()
        };
        assert_eq!(time.system_time_ns_at(5_000), 1_000_000);
        assert_eq!(time.system_time_ns_at(7_000), 1_001_000);
    }
}
