//! Memory that a device reaches.

use core::slice;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use bulkhead_abi::{
    DomId,
    grant::CopyEnd,
    layout::{PAGE_SHIFT, PAGE_SIZE},
};
use bulkhead_devices::{BusAddress, function::DmaMemory};

use crate::extension::{self, DMA_PINS, DeviceAccess};
use crate::memory::{Contiguous, Mfn};

/// Memory of this domain for its devices, which reach it for as long as it lives.
#[derive(Debug)]
pub struct DeviceMemory {
    memory: Contiguous,
    /// The frames that are pinned: the first, and how many.
    pinned: (Mfn, u64),
}

impl DeviceMemory {
    /// Takes memory, and pins it for devices where the hypervisor knows of pins; where it does not, they reach it anyway. `None` if there is not so much in
    /// one piece, or it cannot be pinned, which the log says.
    pub(super) fn take(bytes: usize) -> Option<Self> {
        let memory = Contiguous::zeroed(bytes)?;
        let (first, frames) = memory.machine_frames();
        // From here on, what has been pinned is unpinned when this is dropped.
        let mut taken = Self {
            memory,
            pinned: (first, 0),
        };
        if extension::features() & DMA_PINS != 0 {
            let result = extension::pin_for_devices(first, frames, DeviceAccess::ReadWrite);
            taken.pinned.1 = result.map_or_else(|error| error.done, |()| frames);
            if let Err(error) = result {
                log::error!("memory cannot be pinned for devices: {error}");
                return None;
            }
        }
        Some(taken)
    }

    /// Our side of a copy of `len` bytes from `offset` on; `None` if they are not all in the memory.
    pub(crate) fn end(&self, offset: usize, len: u16) -> Option<CopyEnd> {
        let is_in = offset.checked_add(len.into())? <= self.memory.bytes();
        let maddr = self.memory.maddr().checked_add(offset as u64)?;
        is_in.then_some(CopyEnd {
            frame: maddr >> PAGE_SHIFT,
            domid: DomId::SELF,
            offset: u16::try_from(offset % PAGE_SIZE).ok()?,
        })
    }

    /// So many words of eight bytes from `offset` on; none if it is no multiple of 8, or they are not all in the memory.
    #[inline]
    fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        let place = self.memory.place(offset, size_of::<u64>(), count);
        // SAFETY: aligned and all in the memory, which lives as long as `self` and is accessed by atomics alone.
        place.map_or(&[], |place| unsafe {
            slice::from_raw_parts(place.as_ptr().cast(), count)
        })
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        let (first, frames) = self.pinned;
        if frames != 0
            && let Err(error) = extension::unpin_for_devices(first, frames)
        {
            // Devices reach it still, which harms this domain alone.
            log::error!("memory of devices stays pinned: {error}");
        }
    }
}

macro_rules! accesses {
    ($($load:ident $store:ident $int:ident $atomic:ident),+) => {
        /// On this machine, loads in order and stores in order cost nothing.
        impl DmaMemory for DeviceMemory {
            fn address(&self) -> BusAddress {
                BusAddress(self.memory.maddr())
            }

            fn bytes(&self) -> usize {
                self.memory.bytes()
            }

            fn load_words(&self, offset: usize, to: &mut [[u8; 8]]) {
                let words = self.words(offset, to.len());
                if words.is_empty() {
                    to.fill([0; 8]);
                }
                for (to, word) in to.iter_mut().zip(words) {
                    *to = word.load(Ordering::Acquire).to_le_bytes();
                }
            }

            fn store_words(&self, offset: usize, from: &[[u8; 8]]) {
                for (from, word) in from.iter().zip(self.words(offset, from.len())) {
                    word.store(u64::from_le_bytes(*from), Ordering::Release);
                }
            }

            $(
                #[inline]
                fn $load(&self, offset: usize) -> $int {
                    let place = self.memory.place(offset, size_of::<$int>(), 1);
                    // SAFETY: aligned and in the piece, which lives as long as `self` and is accessed by atomics alone.
                    place.map_or(0, |place| unsafe { $atomic::from_ptr(place.as_ptr().cast()) }.load(Ordering::Acquire))
                }

                #[inline]
                fn $store(&self, offset: usize, value: $int) {
                    if let Some(place) = self.memory.place(offset, size_of::<$int>(), 1) {
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
