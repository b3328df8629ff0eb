//! Memory that a device reaches.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use bulkhead_devices::{BusAddress, function::DmaMemory};

use crate::memory::Contiguous;

/// Memory of this domain for one of its devices.
#[derive(Debug)]
pub struct DeviceMemory(Contiguous);

impl DeviceMemory {
    /// Takes memory; `None` if there is not so much in one piece.
    pub(super) fn take(bytes: usize) -> Option<Self> {
        Contiguous::zeroed(bytes).map(Self)
    }
}

macro_rules! accesses {
    ($($load:ident $store:ident $int:ident $atomic:ident),+) => {
        /// On this machine, loads in order and stores in order cost nothing.
        impl DmaMemory for DeviceMemory {
            fn address(&self) -> BusAddress {
                BusAddress(self.0.maddr())
            }

            fn bytes(&self) -> usize {
                self.0.bytes()
            }

            $(
                #[inline]
                fn $load(&self, offset: usize) -> $int {
                    let place = self.0.place(offset, size_of::<$int>());
                    // SAFETY: aligned and in the piece, which lives as long as `self` and is accessed by atomics alone.
                    place.map_or(0, |place| unsafe { $atomic::from_ptr(place.as_ptr().cast()) }.load(Ordering::Acquire))
                }

                #[inline]
                fn $store(&self, offset: usize, value: $int) {
                    if let Some(place) = self.0.place(offset, size_of::<$int>()) {
                        // SAFETY: as above.
                        unsafe { $atomic::from_ptr(place.as_ptr().cast()) }.store(value, Ordering::Release);
                    }
                }
            )+
        }
    };
}

accesses!(
    load8 store8 u8 AtomicU8,
    load16 store16 u16 AtomicU16,
    load32 store32 u32 AtomicU32,
    load64 store64 u64 AtomicU64
);
