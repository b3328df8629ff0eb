//! PCI functions: their configuration space, by ports, and their tables of messages, in memory.
//!
//! Source: PCI Local Bus Specification 3.0, section 3.2.2.3.2 (configuration mechanism 1).

use core::ptr::NonNull;

use bulkhead_core::pci::{FunctionId, MAX_FUNCTIONS};
use bulkhead_machine::layout::PAGE_SIZE;
use heapless::Vec;
use spin::Mutex;
use x86_64::instructions::port::Port;

use crate::memory::map_mmio;

/// Two ports are needed for each access, so one CPU at a time may come: where to access, and what is there.
static PORTS: Mutex<(Port<u32>, Port<u32>)> = Mutex::new((Port::new(0xcf8), Port::new(0xcfc)));

/// Where configuration space is accessed: enabled, the function, the offset.
fn address(function: FunctionId, offset: u8) -> u32 {
    1 << 31 | u32::from(function.raw()) << 8 | u32::from(offset & 0xfc)
}

/// Reads four bytes of configuration space, at a multiple of 4. Ones, if there is no such function.
pub(crate) fn config_read(function: FunctionId, offset: u8) -> u32 {
    let (at, data) = &mut *PORTS.lock();
    // SAFETY: these are the ports for configuration space on every PC, the lock lets nobody come between, and no domain owns them. What is read there
    // does nothing but be read.
    unsafe {
        at.write(address(function, offset));
        data.read()
    }
}

/// Writes four bytes likewise.
pub(crate) fn config_write(function: FunctionId, offset: u8, value: u32) {
    let (at, data) = &mut *PORTS.lock();
    // SAFETY: as in `config_read`. The core writes base addresses as firmware chose them, and lets a function at memory for its owner alone, whose
    // memory an IOMMU confines it to, if there is one.
    unsafe {
        at.write(address(function, offset));
        data.write(value);
    }
}

/// Pages with tables of messages, where they are mapped. A table may have more than one.
static TABLES: Mutex<Vec<(u64, NonNullPage), { 2 * MAX_FUNCTIONS }>> = Mutex::new(Vec::new());

/// A page of device registers, mapped for good.
#[derive(Clone, Copy, Debug)]
struct NonNullPage(NonNull<u8>);

// SAFETY: the pointer is to device registers, mapped for good, which any CPU may use; the lock around all of them lets one at a time.
unsafe impl Send for NonNullPage {}

/// Shows the word of a table of messages at this machine address, a multiple of 4, to `act`. `None` if it cannot be mapped.
fn with_register<T>(address: u64, act: impl FnOnce(NonNull<u32>) -> T) -> Option<T> {
    let offset = address & (PAGE_SIZE as u64).wrapping_sub(4);
    let page = address & !(PAGE_SIZE as u64).wrapping_sub(1);
    let mut tables = TABLES.lock();
    let known = tables.iter().find(|(known, _)| *known == page);
    let mapped = match known {
        Some(&(_, mapped)) => mapped,
        None => {
            let mapped = NonNullPage(map_mmio(page, PAGE_SIZE as u64).ok()?);
            tables.push((page, mapped)).ok()?;
            mapped
        }
    };
    // SAFETY: the offset is a multiple of 4 within the page.
    let register = unsafe { mapped.0.add(usize::try_from(offset).ok()?) };
    Some(act(register.cast()))
}

/// Reads a word of a table of messages by its machine address. Ones, if it cannot be reached.
pub(crate) fn register_read(address: u64) -> u32 {
    // SAFETY: the word is mapped, and a table of messages, by the function's own word: to read it does nothing but that.
    with_register(address, |register| unsafe { register.read_volatile() }).unwrap_or(u32::MAX)
}

/// Writes one likewise.
pub(crate) fn register_write(address: u64, value: u32) {
    // SAFETY: as in `register_read`; what is written are entries that are masked, or lead to a vector that has a handler on every CPU.
    with_register(address, |register| unsafe { register.write_volatile(value) });
}
