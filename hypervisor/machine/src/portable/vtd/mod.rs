//! VT-d, Intel's DMA remapping, as far as it is bytes and numbers: tables, registers, descriptors.
//!
//! - [`dmar`]: the ACPI table that lists the units.
//! - [`capabilities`]: what a unit can do, and whether that is enough.
//! - [`entries`]: what tells a unit which function uses which address space.
//! - [`space`]: an address space for devices, a tree of tables.
//! - [`interrupts`]: what tells a unit which function raises which vector.
//! - [`invalidation`]: what a unit is told to forget.
//! - [`faults`]: what a unit reports, and how much of it is worth hearing.
//!
//! Source of all numbers: Intel, "Virtualization Technology for Directed I/O", revision 3.3 ("the specification" below).

pub mod capabilities;
pub mod dmar;
pub mod entries;
pub mod faults;
pub mod interrupts;
pub mod invalidation;
pub mod space;

use core::fmt;

/// The number by which a PCI function is known on the bus, of the first segment: bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Function(u16);

impl Function {
    /// The function with this number: `bus << 8 | device << 3 | function`.
    #[must_use]
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// The function with this place on its bus.
    #[must_use]
    pub const fn at(bus: u8, device: u8, function: u8) -> Self {
        Self(u16::from_be_bytes([bus, (device & 31) << 3 | function & 7]))
    }

    /// The number itself.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Its bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Its place on the bus: `device << 3 | function`.
    #[must_use]
    pub const fn on_bus(self) -> u8 {
        self.0.to_be_bytes()[1]
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, function) = (self.on_bus() >> 3, self.on_bus() & 7);
        write!(f, "{:02x}:{device:02x}.{function}", self.bus())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn a_function_is_written_as_operators_write_it() {
        let function = Function::at(0x3a, 0x1f, 6);
        assert_eq!(std::format!("{function}"), "3a:1f.6");
        assert_eq!(function, Function::new(0x3afe));
        assert_eq!((function.bus(), function.on_bus()), (0x3a, 0xfe));
    }
}
