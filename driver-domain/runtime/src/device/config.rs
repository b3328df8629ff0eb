//! Configuration space, by the two ports that PCs have for it. The hypervisor answers there.

use core::arch::asm;

use bulkhead_abi::errno::Failure;
use bulkhead_pci::{Address, ConfigSpace};
use spin::Mutex;

use crate::hypercall;

/// Where function and offset are chosen.
const SELECT: u16 = 0xcf8;
/// Where what was chosen is read and written.
const DATA: u16 = 0xcfc;

/// Held between choosing and accessing.
static PORTS: Mutex<()> = Mutex::new(());

/// The way to configuration space. A domain sees the functions that are its own, the control domain all.
#[derive(Clone, Copy, Debug)]
pub struct ConfigPorts(());

impl ConfigPorts {
    /// Opens it, for this vCPU.
    ///
    /// # Errors
    ///
    /// None that are known of.
    pub fn open() -> Result<Self, Failure> {
        hypercall::physdev::allow_ports()?;
        Ok(Self(()))
    }
}

impl ConfigSpace for ConfigPorts {
    fn read(&self, function: Address, offset: u8) -> u32 {
        let _held = PORTS.lock();
        let value: u32;
        // SAFETY: `allow_ports` was called, so the instructions do not fault. The hypervisor emulates them at these ports; reading there
        // changes no memory.
        unsafe {
            asm!("out dx, eax", in("dx") SELECT, in("eax") selection(function, offset), options(nomem, nostack, preserves_flags));
            asm!("in eax, dx", in("dx") DATA, out("eax") value, options(nomem, nostack, preserves_flags));
        }
        value
    }

    fn write(&self, function: Address, offset: u8, value: u32) {
        let _held = PORTS.lock();
        // SAFETY: as above. What is written reaches functions of this domain's alone, and moves no BAR, so that mappings of registers show
        // what they showed. A function that may then reach memory is under its driver (the module's header).
        unsafe {
            asm!("out dx, eax", in("dx") SELECT, in("eax") selection(function, offset), options(nostack, preserves_flags));
            asm!("out dx, eax", in("dx") DATA, in("eax") value, options(nostack, preserves_flags));
        }
    }
}

/// What chooses four bytes of configuration space.
fn selection(function: Address, offset: u8) -> u32 {
    const ENABLE: u32 = 1 << 31;
    ENABLE | u32::from(function.raw()) << 8 | u32::from(offset & !3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_chosen_by_bus_device_and_function() {
        let address = "5a:1f.3".parse().unwrap();
        assert_eq!(selection(address, 0x34), 0x805a_fb34);
        assert_eq!(selection(address, 0xff), 0x805a_fbfc);
    }
}
