//! What is on a machine's PCI buses: functions, their classes, registers and capabilities.
//!
//! The control domain [enumerates](enumerate) the machine, and a driver domain [looks at](inspect) the functions that it was given. Both read
//! configuration space through [`ConfigSpace`], of which the first 256 bytes are used.
//!
//! What a function says of itself is hostile input: a list of capabilities may lead in circles, a BAR may have any size. No answer makes this
//! crate panic or read without end; what makes no sense is left out of the result.
//!
//! Header and capabilities are taken apart by `pci_types`. BARs are sized here, as that crate counts on sizes that make sense.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

mod access;
mod address;
mod bar;
mod info;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(test)]
mod tests;
mod walk;

pub use address::{Address, NoAddress};
pub use bar::Bar;
pub use info::{Bridge, Class, FunctionInfo, Msi, Msix, inspect};
pub use walk::{MAX_FUNCTIONS, enumerate};

/// The way to configuration space.
pub trait ConfigSpace {
    /// Reads four bytes, at a multiple of 4. Where no function answers, all bits are ones.
    fn read(&self, function: Address, offset: u8) -> u32;

    /// Writes four bytes, at a multiple of 4.
    fn write(&self, function: Address, offset: u8, value: u32);
}

impl<C: ConfigSpace + ?Sized> ConfigSpace for &C {
    fn read(&self, function: Address, offset: u8) -> u32 {
        (**self).read(function, offset)
    }

    fn write(&self, function: Address, offset: u8, value: u32) {
        (**self).write(function, offset, value);
    }
}

/// Offsets in configuration space that drivers use themselves.
pub mod offset {
    /// Vendor and device.
    pub const ID: u8 = 0;
    /// Command in the lower half, status in the upper.
    pub const COMMAND: u8 = 4;
}

/// Bits of the command register.
pub mod command {
    /// The function answers at the addresses of its memory BARs.
    pub const MEMORY: u32 = 1 << 1;
    /// The function reaches memory by itself, and may raise interrupts by messages.
    pub const BUS_MASTER: u32 = 1 << 2;
    /// The function does not use its interrupt line.
    pub const NO_LINE: u32 = 1 << 10;
}
