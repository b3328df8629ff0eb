//! Functions on PCI, as the control domain gives them to drivers.

use alloc::{format, string::String};
use core::fmt::{self, Write as _};

use bulkhead_config::{DeviceClass, PciAddress};
use bulkhead_pci::{Class, ConfigSpace, FunctionInfo, enumerate};

/// Base class of storage: source of this and the others is the PCI Code and ID Assignment Specification.
const STORAGE: u8 = 1;
/// Base class of network controllers.
const NETWORK: u8 = 2;
/// Base class of bridges.
const BRIDGE: u8 = 6;

/// Where in configuration space the interrupt line is, with its pin in the next byte.
const LINE: u8 = 0x3c;

/// What the register says that has no line.
const NO_LINE: u8 = 0xff;

/// How a function interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// By messages.
    Message,
    /// By a line, with the number of its global system interrupt.
    ///
    /// This is what the firmware has written into the function's register. It is right where the firmware counts lines as the interrupt
    /// controllers do; where it counts as a PC of 1981 did, and nothing but the ACPI's byte code tells the other number, the function is not served.
    Line(u8),
    /// It cannot.
    None,
}

impl fmt::Display for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message => f.write_str("message"),
            Self::Line(line) => write!(f, "line {line}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// A function that a driver can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: PciAddress,
    /// What kind of device it is, as it says itself.
    pub class: Class,
    /// Who made it, and what it is by that one's count.
    pub id: (u16, u16),
    /// How it interrupts.
    pub interrupt: Interrupt,
}

impl Function {
    fn of(info: &FunctionInfo, space: &impl ConfigSpace) -> Self {
        let [line, pin, ..] = space.read(info.address, LINE).to_le_bytes();
        let interrupt = if info.msi.is_some() || info.msix.is_some() {
            Interrupt::Message
        } else if pin != 0 && line != NO_LINE {
            Interrupt::Line(line)
        } else {
            Interrupt::None
        };
        Self {
            address: PciAddress::from_raw(info.address.raw()),
            class: info.class,
            id: (info.vendor, info.device),
            interrupt,
        }
    }

    /// The class by which a driver can have it.
    #[must_use]
    pub const fn kind(&self) -> Option<DeviceClass> {
        match self.class.base {
            STORAGE => Some(DeviceClass::Block),
            NETWORK => Some(DeviceClass::Net),
            _ => None,
        }
    }

    /// What kind of device it is, for people.
    #[must_use]
    pub fn class_name(&self) -> String {
        let Class { base, sub, interface } = self.class;
        match self.kind() {
            Some(DeviceClass::Block) => "block".into(),
            Some(DeviceClass::Net) => "net".into(),
            None => format!("{base:02x}.{sub:02x}.{interface:02x}"),
        }
    }
}

/// All functions of a machine that drivers can have: no bridges, nor what the chipset has beside one.
pub fn all(space: &impl ConfigSpace) -> impl Iterator<Item = Function> {
    let is_device = |info: &FunctionInfo| info.bridge.is_none() && info.class.base != BRIDGE;
    let functions = enumerate(space).into_iter().filter(is_device);
    functions.map(|info| Function::of(&info, space))
}

/// A driver's command line: a word for each of its functions, and what the operator has to add.
///
/// The word is `device=ADDRESS`; of a function that interrupts by a line, `device=ADDRESS,line=N`.
#[must_use]
pub fn command_line(functions: &[Function], more: &str) -> String {
    let mut line = String::new();
    for Function {
        address, interrupt, ..
    } in functions
    {
        let line_of = fmt::from_fn(|f| match interrupt {
            Interrupt::Line(line) => write!(f, ",line={line}"),
            Interrupt::Message | Interrupt::None => Ok(()),
        });
        // Writing to a string does not fail.
        let _ = write!(line, "device={address}{line_of} ");
    }
    line.push_str(more);
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use bulkhead_pci::testing::{FakeConfig, FakeSpace};

    use super::*;

    fn machine() -> Vec<Function> {
        let space = FakeSpace::new();
        let put = |address: &str, config| space.put(address.parse().unwrap(), config);
        put("00:00.0", FakeConfig::new(0x8086, 0x29c0, [6, 0, 0]));
        put("00:01.0", FakeConfig::bridge(1));
        let mut net = FakeConfig::new(0x8086, 0x100e, [2, 0, 0]);
        net.set(LINE, 0x010b);
        put("00:03.0", net);
        let mut silent = FakeConfig::new(0x8086, 0x2934, [0xc, 3, 0]);
        silent.set(LINE, 0x01ff);
        put("00:1d.0", silent);
        let disk = FakeConfig::new(0x1b36, 0x10, [1, 8, 2])
            .with_memory(0, 0xfeb0_0000, 0x4000)
            .with_msix(65, 0, 0x2000);
        put("01:00.0", disk);
        all(&space).collect()
    }

    #[test]
    fn devices_are_found_with_what_drivers_need_of_them_and_bridges_are_none() {
        let found: Vec<_> = machine()
            .iter()
            .map(|function| {
                (
                    function.address.to_string(),
                    function.class_name(),
                    function.interrupt,
                )
            })
            .collect();
        let expected = [
            ("00:03.0", "net", Interrupt::Line(11)),
            ("00:1d.0", "0c.03.00", Interrupt::None),
            ("01:00.0", "block", Interrupt::Message),
        ];
        let expected = expected.map(|(address, class, interrupt)| (address.into(), class.into(), interrupt));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_driver_is_told_its_devices_and_the_lines_of_those_that_have_no_messages() {
        let machine = machine();
        assert_eq!(
            command_line(&machine, "trace loud"),
            "device=00:03.0,line=11 device=00:1d.0 device=01:00.0 trace loud"
        );
        assert_eq!(command_line(&machine[2..], ""), "device=01:00.0");
        assert_eq!(command_line(&[], ""), "");
    }
}
