//! PCI functions: what a domain sees and may change of one, who owns it, and how its messages become interrupts.

use core::fmt;

/// A function of a device on the PCI buses of segment 0: bus, device and function in 8, 5 and 3 bits, as they identify the source of what the
/// device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionId(u16);

impl FunctionId {
    /// The function with these 16 bits.
    #[must_use]
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// Its 16 bits.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Its bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Device and function on the bus.
    #[must_use]
    pub const fn devfn(self) -> u8 {
        self.0.to_be_bytes()[1]
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:02x}:{:02x}.{}",
            self.bus(),
            self.devfn() >> 3,
            self.devfn() & 7
        )
    }
}
