//! Where a function is.

use core::fmt;
use core::str::FromStr;

/// Where a function is: bus, device, function. Written `bb:dd.f` in hexadecimal, as in `00:1f.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    bus: u8,
    devfn: u8,
}

impl Address {
    /// Function `function` (0 to 7) of device `device` (0 to 31) on a bus; `None` if the numbers are none.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 {
            Some(Self::from_devfn(bus, device << 3 | function))
        } else {
            None
        }
    }

    /// The function with this number, `device << 3 | function`, on a bus.
    #[must_use]
    pub const fn from_devfn(bus: u8, devfn: u8) -> Self {
        Self { bus, devfn }
    }

    /// The function with the number `bus << 8 | devfn`.
    #[must_use]
    pub const fn from_raw(raw: u16) -> Self {
        let [bus, devfn] = raw.to_be_bytes();
        Self { bus, devfn }
    }

    /// The number `bus << 8 | devfn`, by which functions are assigned.
    #[must_use]
    pub const fn raw(self) -> u16 {
        u16::from_be_bytes([self.bus, self.devfn])
    }

    /// The bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// Device and function in one number.
    #[must_use]
    pub const fn devfn(self) -> u8 {
        self.devfn
    }

    /// The device, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.devfn >> 3
    }

    /// The function, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.devfn & 7
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device(), self.function())
    }
}

/// That a text is no [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAddress;

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a PCI address is bus, device and function in hexadecimal, as in 00:1f.2")
    }
}

impl core::error::Error for NoAddress {}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let number = |text: &str, max_digits: usize| {
            let is_number =
                (1..=max_digits).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
            is_number.then(|| u8::from_str_radix(text, 16).ok()).flatten()
        };
        let parse = || {
            let (bus, rest) = text.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            Self::new(number(bus, 2)?, number(device, 2)?, number(function, 1)?)
        };
        parse().ok_or(NoAddress)
    }
}
