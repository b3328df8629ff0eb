//! Devices of the machine: functions on PCI, by class or by address.

use super::{Setting, Should, list, should};
use crate::value::Value;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

/// Where a PCI function is: bus, device and function, written as in `00:03.0`. There is one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress(u16);

impl PciAddress {
    /// The function whose bus is in bits 8 to 15, its device in bits 3 to 7, itself in bits 0 to 2.
    #[must_use]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The address as a number, as [`from_raw`](Self::from_raw) takes it.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// The address that `text` is: two hexadecimal digits, a colon, two more below 20, a point, a digit below 8.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (bus, rest) = text.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        let is_plain = [bus, device, function]
            .iter()
            .all(|part| part.bytes().all(|b| b.is_ascii_hexdigit()));
        if !is_plain || (bus.len(), device.len(), function.len()) != (2, 2, 1) {
            return None;
        }
        let number = |digits| u16::from_str_radix(digits, 16).ok();
        let (bus, device, function) = (number(bus)?, number(device)?, number(function)?);
        (device < 32 && function < 8).then_some(Self(bus << 8 | device << 3 | function))
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(raw) = self;
        write!(f, "{:02x}:{:02x}.{}", raw >> 8, raw >> 3 & 31, raw & 7)
    }
}

/// What kind of device a driver has all of, but for those that another has by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceClass {
    /// Network controllers.
    Net,
    /// Controllers of disks.
    Block,
}

/// A device, or all of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// All of this kind.
    Class(DeviceClass),
    /// The one that is there.
    Address(PciAddress),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class(DeviceClass::Net) => f.write_str("net"),
            Self::Class(DeviceClass::Block) => f.write_str("block"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Device {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        match value.text() {
            Some("net") => Ok(Self::Class(DeviceClass::Net)),
            Some("block") => Ok(Self::Class(DeviceClass::Block)),
            text => match text.and_then(PciAddress::parse) {
                Some(address) => Ok(Self::Address(address)),
                None => should(format!(
                    "have \"net\", \"block\" or an address such as \"00:03.0\", not {value}"
                )),
            },
        }
    }
}

/// The devices of a driver: one at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices(Vec<Device>);

impl Devices {
    /// No devices, where what was said was wrong.
    pub(crate) const fn none() -> Self {
        Self(Vec::new())
    }
}

impl Deref for Devices {
    type Target = [Device];

    fn deref(&self) -> &[Device] {
        &self.0
    }
}

impl Setting for Devices {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let devices = list(value, "[\"net\", \"block\"]", Device::read)?;
        if devices.is_empty() {
            return should("have one part at least, such as \"block\"");
        }
        Ok(Self(devices))
    }
}

/// The word for them on the shell.
impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, device) in self.iter().enumerate() {
            write!(f, "{}{device}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_bus_device_and_function() {
        assert_eq!(PciAddress::parse("00:03.0").map(PciAddress::raw), Some(0x18));
        assert_eq!(PciAddress::parse("fF:1f.7").map(PciAddress::raw), Some(0xffff));
        for none in [
            "",
            "00:03",
            "00:20.0",
            "00:03.8",
            "0:3.0",
            "0000:00:03.0",
            "00:+3.0",
            "gg:03.0",
        ] {
            assert_eq!(PciAddress::parse(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn an_address_that_is_shown_is_read_again(raw: u16) {
            let address = PciAddress::from_raw(raw);
            prop_assert_eq!(PciAddress::parse(&address.to_string()), Some(address));
        }
    }
}
