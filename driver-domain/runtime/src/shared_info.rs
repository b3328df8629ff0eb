//! The shared_info page: what hypervisor and guest write for each other.
//!
//! The page appears at an address inside the image that the link script keeps for it. Its words are only ever
//! seen as atomics, because the hypervisor may write any of them at any time.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use bulkhead_abi::{
    layout::PAGE_SIZE,
    shared_info::{EVENT_WORDS, LEGACY_VCPUS, VcpuInfo, offset},
};

use crate::{
    event::EventBits,
    hypercall,
    memory::{Rights, image},
    time::{TimeRecord, WallClockRecord},
    vcpu,
};

/// The page at its address.
///
/// Before [`map`](Self::map) it shows the zeroed frame of the image that lies there, so an early look is
/// wrong but harmless.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedInfo(());

/// Offset of vCPU 0's time.
const TIME: usize = offset::VCPU_INFO + offset::TIME;

impl SharedInfo {
    /// Maps the frame at machine address `maddr`, which start_info names.
    pub(crate) fn map(maddr: u64) -> Self {
        // SAFETY: the page at `image::shared_info` is set aside by the link script for this mapping; what
        // uses it are the atomics below, for which one zeroed or shared frame is as good as another.
        let mapped =
            unsafe { hypercall::update_va_mapping(image::shared_info().addr(), Rights::Data.entry(maddr)) };
        if let Err(error) = mapped {
            panic!("shared_info at {maddr:#x} cannot be mapped: {error}");
        }
        Self(())
    }

    /// The page that [`map`](Self::map) mapped at start.
    pub(crate) const fn get() -> Self {
        Self(())
    }

    /// The words by which events are told to a vCPU.
    pub(crate) fn event_bits(self, vcpu: u32) -> EventBits<'static> {
        let record = self.vcpu(vcpu);
        EventBits {
            upcall_pending: &record.upcall_pending,
            selector: &record.selector,
            pending: self.port_words::<{ offset::EVTCHN_PENDING }>(),
            mask: self.port_words::<{ offset::EVTCHN_MASK }>(),
        }
    }

    /// Keeps upcalls from being delivered to this vCPU.
    pub(crate) fn mask_upcalls(self) {
        self.vcpu(vcpu::current()).upcall_mask.store(1, Ordering::SeqCst);
    }

    /// The address of this vCPU's last page fault.
    pub(crate) fn fault_address(self) -> u64 {
        // Written by the hypervisor on this CPU before it enters the handler.
        self.vcpu(vcpu::current()).fault_address.load(Ordering::Relaxed)
    }

    /// The words of a vCPU's record; those of the first for a vCPU that has none here.
    fn vcpu(self, vcpu: u32) -> &'static VcpuRecord {
        // SAFETY: see `field`; a record is made of atomics, as an array of them is.
        let [first, others @ ..] = unsafe { &*field::<[VcpuRecord; LEGACY_VCPUS], { offset::VCPU_INFO }>() };
        let index = usize::try_from(vcpu).ok().and_then(|vcpu| vcpu.checked_sub(1));
        index.and_then(|index| others.get(index)).unwrap_or(first)
    }

    /// The first vCPU's time, which is that of all.
    pub(crate) fn time(self) -> TimeRecord<'static> {
        TimeRecord {
            version: self.word32::<{ TIME + offset::TIME_VERSION }>(),
            tsc_timestamp: self.word64::<{ TIME + offset::TIME_TSC_TIMESTAMP }>(),
            system_time_ns: self.word64::<{ TIME + offset::TIME_SYSTEM_TIME }>(),
            tsc_to_system_mul: self.word32::<{ TIME + offset::TIME_TSC_TO_SYSTEM_MUL }>(),
            tsc_shift: self.byte::<{ TIME + offset::TIME_TSC_SHIFT }>(),
        }
    }

    /// The wall clock.
    pub(crate) fn wall_clock(self) -> WallClockRecord<'static> {
        WallClockRecord {
            version: self.word32::<{ offset::WC_VERSION }>(),
            seconds_low: self.word32::<{ offset::WC_SEC }>(),
            seconds_high: self.word32::<{ offset::WC_SEC_HI }>(),
            nanoseconds: self.word32::<{ offset::WC_NSEC }>(),
        }
    }

    fn byte<const OFFSET: usize>(self) -> &'static AtomicU8 {
        // SAFETY: see `field`; AtomicU8 has the layout of u8.
        unsafe { AtomicU8::from_ptr(field::<u8, OFFSET>()) }
    }

    fn word32<const OFFSET: usize>(self) -> &'static AtomicU32 {
        // SAFETY: see `field`; AtomicU32 has the size and alignment of u32.
        unsafe { AtomicU32::from_ptr(field::<u32, OFFSET>()) }
    }

    fn word64<const OFFSET: usize>(self) -> &'static AtomicU64 {
        // SAFETY: see `field`; AtomicU64 has the size and, on x86-64, the alignment of u64.
        unsafe { AtomicU64::from_ptr(field::<u64, OFFSET>()) }
    }

    fn port_words<const OFFSET: usize>(self) -> &'static [AtomicU64; EVENT_WORDS] {
        // SAFETY: see `field`; an array of AtomicU64 has the layout of an array of u64.
        unsafe { &*field::<[AtomicU64; EVENT_WORDS], OFFSET>() }
    }
}

/// A vCPU's record, as far as events and traps go.
#[derive(Debug)]
#[repr(C)]
struct VcpuRecord {
    upcall_pending: AtomicU8,
    upcall_mask: AtomicU8,
    reserved: [AtomicU8; 6],
    selector: AtomicU64,
    fault_address: AtomicU64,
    others: [AtomicU64; 5],
}

const _: () = {
    assert!(size_of::<VcpuRecord>() == size_of::<VcpuInfo>());
    assert!(offset_of!(VcpuRecord, upcall_pending) == offset::UPCALL_PENDING);
    assert!(offset_of!(VcpuRecord, upcall_mask) == offset::UPCALL_MASK);
    assert!(offset_of!(VcpuRecord, selector) == offset::PENDING_SEL);
    assert!(offset_of!(VcpuRecord, fault_address) == offset::CR2);
};

/// A pointer to the `T` at `OFFSET` in the page.
///
/// It is aligned and lies in the page, which is checked here; the page stays mapped writable for the life of
/// the guest; and everybody accesses it atomically, the hypervisor too. That is what a reference to an atomic
/// needs.
fn field<T, const OFFSET: usize>() -> *mut T {
    const {
        assert!(OFFSET.is_multiple_of(align_of::<T>()));
        assert!(OFFSET + size_of::<T>() <= PAGE_SIZE);
    }
    image::shared_info().wrapping_add(OFFSET).cast::<T>()
}
