//! Registers, mapped.

use core::sync::atomic::{Ordering, fence};

use bulkhead_abi::layout::PAGE_SIZE;
use bulkhead_devices::function::{Denied, Registers};

use crate::{
    hypercall,
    memory::{Mfn, Rights, frame::to_usize, window::WindowPages},
};

/// Registers of a device, uncached. They are unmapped when this is dropped.
#[derive(Debug)]
pub struct MappedRegisters {
    /// `None` when they are unmapped.
    pages: Option<WindowPages>,
    /// The first one's address.
    start: usize,
    bytes: usize,
}

impl MappedRegisters {
    /// Maps `bytes` bytes from machine address `maddr` on.
    pub(super) fn map(maddr: u64, bytes: usize) -> Result<Self, Denied> {
        let in_page = to_usize(maddr) % PAGE_SIZE;
        let count = in_page
            .checked_add(bytes)
            .filter(|_| bytes != 0)
            .ok_or(Denied::Registers)?
            .div_ceil(PAGE_SIZE);
        let first = Mfn::at_maddr(maddr).ok_or(Denied::Registers)?;
        let pages = WindowPages::take(count).ok_or(Denied::Registers)?;
        let mut registers = Self {
            start: pages.address().wrapping_add(in_page),
            bytes,
            pages: Some(pages),
        };
        match registers.fill(first) {
            Ok(()) => Ok(registers),
            Err(denied) => {
                // What was mapped goes now, as nobody has seen it.
                registers.unmap();
                Err(denied)
            }
        }
    }

    fn fill(&mut self, first: Mfn) -> Result<(), Denied> {
        let addresses = self.pages.iter().flat_map(WindowPages::addresses);
        for (address, raw) in addresses.zip(first.raw()..) {
            let mfn = Mfn::new(raw).ok_or(Denied::Registers)?;
            // The domain's own memory has numbers too: through these functions none of it may be seen.
            if crate::memory::pseudo_physical_frame(mfn).is_some() {
                return Err(Denied::Registers);
            }
            // SAFETY: the page of the window is ours, and nothing is mapped there. What the frame holds is nobody's memory: none of this domain's,
            // as was checked, and the hypervisor maps no other but those of its devices.
            unsafe { hypercall::update_va_mapping(address, Rights::Registers.entry(mfn.maddr())) }
                .map_err(|_| Denied::Registers)?;
        }
        Ok(())
    }

    fn unmap(&mut self) {
        let Some(pages) = self.pages.take() else { return };
        let mut is_empty = true;
        for address in pages.addresses() {
            // SAFETY: the registers are not used any more: nothing that was lent outlives them.
            is_empty &= unsafe { hypercall::update_va_mapping(address, 0) }.is_ok();
        }
        if is_empty {
            pages.release();
        } else {
            log::error!("registers stay mapped at {:#x}", pages.address());
        }
    }

    /// A pointer to a register of type `T`; `None` if it is not aligned or not one of these.
    fn place<T>(&self, offset: usize) -> Option<*mut T> {
        let address = self.start.wrapping_add(offset);
        let fits = offset
            .checked_add(size_of::<T>())
            .is_some_and(|end| end <= self.bytes);
        (fits && address.is_multiple_of(size_of::<T>()))
            .then(|| core::ptr::with_exposed_provenance_mut(address))
    }
}

macro_rules! accesses {
    ($($read:ident $write:ident $int:ty),+) => {
        impl Registers for MappedRegisters {
            fn bytes(&self) -> usize {
                self.bytes
            }

            $(
                #[inline]
                fn $read(&self, offset: usize) -> $int {
                    let Some(place) = self.place::<$int>(offset) else {
                        return <$int>::MAX;
                    };
                    // SAFETY: aligned and in what is mapped while `self` lives; any bits are an integer. Registers are no memory of Rust's.
                    let value = unsafe { place.read_volatile() };
                    // What the device has written to memory before it answered is loaded afterwards.
                    fence(Ordering::Acquire);
                    value
                }

                #[inline]
                fn $write(&self, offset: usize, value: $int) {
                    let Some(place) = self.place::<$int>(offset) else { return };
                    // What was stored to memory before is there when the device sees this. Uncached stores wait for all before them.
                    fence(Ordering::Release);
                    // SAFETY: as above.
                    unsafe { place.write_volatile(value) };
                }
            )+
        }
    };
}

accesses!(read8 write8 u8, read16 write16 u16, read32 write32 u32, read64 write64 u64);

impl Drop for MappedRegisters {
    fn drop(&mut self) {
        self.unmap();
    }
}
