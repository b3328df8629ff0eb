//! I/O ports: whether a guest's code may use one, and whether its domain owns it.
//!
//! These are two questions. The first is the guest kernel's own affair: its I/O privilege level and its bitmap say what it and its
//! programs may try; who may not gets a fault. The second is the hypervisor's: [`PortSet`], and what has been [assigned](crate::devices) since. At a port that the domain does not own
//! nothing answers: reads see lines that float high, writes are lost. So a kernel that looks for devices of old finds none. Only at those for configuration
//! space the hypervisor itself does: see [`crate::pci::config`].
//! Source: the guest ABI's section 6.8.

use crate::emulate::Width;
use crate::emulate::privileged::{PortSource, PortTarget};
use crate::hypervisor::{Current, Hypervisor};
use crate::machine::Machine;
use crate::privileged::Performed;
use crate::sync::Ordering;
use crate::traps::Exception;
use crate::vcpu::debug::CR4_DE;
use crate::vcpu::{Mode, Regs};
use bulkhead_abi::layout;
use bulkhead_abi::trap::{PF_USER, PF_WRITE, Vector};
use core::ops::RangeInclusive;
use heapless::Vec;

/// The ports that a domain owns, as ranges with both ends in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Vec<(u16, u16), MAX_RANGES>);

/// How many ranges of ports a domain can own.
pub const MAX_RANGES: usize = 8;

impl PortSet {
    /// No port.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds the ports from `first` to `last`. Says whether there was room for them, and the range is one.
    pub fn insert(&mut self, first: u16, last: u16) -> bool {
        first <= last && self.0.push((first, last)).is_ok()
    }

    /// Whether this port is in it.
    #[must_use]
    pub fn has(&self, port: u16) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&port))
    }

    /// Its ranges.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        self.0
            .iter()
            .map(|&(first, last)| u64::from(first)..=u64::from(last))
    }

    /// Whether all of the ports of an access are in it.
    #[must_use]
    pub fn owns(&self, access: Access) -> bool {
        access.all(|port| self.has(port))
    }
}

/// The ports that a guest kernel lets its programs use: a bit for each, of which a clear one permits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoBitmap {
    /// Where it lies in the kernel's address space.
    pub address: u64,
    /// How many ports it covers; beyond it nothing is permitted.
    pub ports: u32,
}

/// What is accessed: as many ports as it has bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The first port.
    pub port: u16,
    /// How many bytes.
    pub width: Width,
}

impl Access {
    /// Whether all of its ports satisfy `test`. None does beyond the last port that there is.
    pub(crate) fn all(self, test: impl Fn(u16) -> bool) -> bool {
        (0..u16::from(self.width.bytes())).all(|n| self.port.checked_add(n).is_some_and(&test))
    }
}

impl<M: Machine> Hypervisor<M> {
    /// A guest reads from ports, into its accumulator or its memory.
    pub(crate) fn port_in(
        &self,
        current: &Current,
        regs: &mut Regs,
        access: Access,
        into: PortTarget,
    ) -> Performed {
        if !self.may_use(current, access) {
            return Performed::Refused;
        }
        let read = || {
            if self.owns_ports(&current.domain, access) {
                self.machine().read_port(access.port, access.width)
            } else {
                let config = self.config_port_in(&current.domain, access);
                config.unwrap_or_else(|| access.width.mask())
            }
        };
        match into {
            PortTarget::Accumulator(register) => register.store(regs, read()),
            PortTarget::Memory(address) => {
                let len = usize::from(access.width.bytes());
                let write = |bytes: [u8; 8]| {
                    let bytes = bytes.get(..len).unwrap_or_default();
                    layout::is_guest_range(address, len as u64)
                        .then(|| self.machine().copy_to_guest(address, bytes))
                };
                // The place is tried first: what was read from a device is not to be had again.
                match write([0; 8]) {
                    None => return Performed::Refused,
                    Some(Err(fault)) => return page_fault(fault.0, PF_WRITE),
                    Some(Ok(())) => {}
                }
                if let Some(Err(fault)) = write(read().to_le_bytes()) {
                    return page_fault(fault.0, PF_WRITE);
                }
            }
        }
        Self::met_breakpoints(current, access)
    }

    /// A guest writes to ports, from its accumulator or its memory.
    pub(crate) fn port_out(&self, current: &Current, access: Access, from: PortSource) -> Performed {
        if !self.may_use(current, access) {
            return Performed::Refused;
        }
        let value = match from {
            PortSource::Value(value) => value,
            PortSource::Memory(address) => {
                let mut bytes = [0; 4];
                let len = usize::from(access.width.bytes());
                let room = bytes.get_mut(..len).unwrap_or_default();
                if !layout::is_guest_range(address, len as u64) {
                    return Performed::Refused;
                }
                if let Err(fault) = self.machine().copy_from_guest(address, room) {
                    return page_fault(fault.0, 0);
                }
                u32::from_le_bytes(bytes)
            }
        };
        if self.owns_ports(&current.domain, access) {
            self.machine().write_port(access.port, access.width, value);
        } else {
            self.config_port_out(&current.domain, access, value);
        }
        Self::met_breakpoints(current, access)
    }

    fn met_breakpoints(current: &Current, Access { port, width }: Access) -> Performed {
        let context = &current.context;
        match context.debug.met_by_port(port, width.bytes()) {
            met if met != 0 && context.cr4 & CR4_DE != 0 => Performed::Trapped(met),
            _ => Performed::Done,
        }
    }

    /// Whether the guest's kernel lets the code that runs use ports. A kernel counts as level 1.
    fn may_use(&self, current: &Current, access: Access) -> bool {
        let level = match current.context.mode {
            Mode::Kernel => 1,
            Mode::User => 3,
        };
        current.context.iopl >= level || access.all(|port| self.is_open(current, port))
    }

    /// Whether the vCPU's bitmap permits a port. A bitmap that cannot be read permits none.
    fn is_open(&self, current: &Current, port: u16) -> bool {
        let IoBitmap { address, ports } = current.context.io_bitmap;
        let at = address.wrapping_add(u64::from(port >> 3));
        u32::from(port) < ports
            && self
                .kernel_byte(current, at)
                .is_some_and(|byte| byte >> (port & 7) & 1 == 0)
    }

    /// A byte of the running vCPU's domain, by its address in the kernel's address space, whichever is in force.
    fn kernel_byte(&self, current: &Current, address: u64) -> Option<u8> {
        let memory = &self.memory;
        let mfn = memory.frame_at(current.context.roots.kernel(), address).ok()?;
        // What was found may be somebody else's by now: only the domain's own is read.
        memory.get(mfn, current.domain.id).ok()?;
        let index = usize::try_from(address >> 3 & 0x1ff).unwrap_or(0);
        let word = self
            .machine()
            .frame(mfn)
            .get(index)
            .map(|word| word.load(Ordering::Relaxed));
        memory.put(mfn);
        let bytes = word?.to_le_bytes();
        bytes.get(usize::try_from(address & 7).unwrap_or(0)).copied()
    }
}

/// What the CPU would have said of an access to memory by INS or OUTS.
const fn page_fault(address: u64, access: u32) -> Performed {
    Performed::Instead(Exception {
        vector: Vector::PageFault.raw(),
        error_code: PF_USER | access,
        address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_is_owned_if_each_of_its_ports_is() {
        let mut set = PortSet::new();
        assert!(set.insert(0x3f8, 0x3fb) && set.insert(0x3fc, 0x3ff) && set.insert(0xffff, 0xffff));
        for (port, width, is_owned) in [
            (0x3f8, Width::Dword, true),
            (0x3fb, Width::Word, true),
            (0x3ff, Width::Byte, true),
            (0x3ff, Width::Word, false),
            (0x3f7, Width::Word, false),
            (0xffff, Width::Byte, true),
            (0xffff, Width::Word, false),
        ] {
            assert_eq!(set.owns(Access { port, width }), is_owned, "{port:#x} {width:?}");
        }
        assert!(!PortSet::new().owns(Access {
            port: 0,
            width: Width::Byte
        }));
    }

    #[test]
    fn a_set_takes_no_more_ranges_than_it_has_room_for_and_none_that_ends_before_it_begins() {
        let mut set = PortSet::new();
        assert!(!set.insert(2, 1));
        assert!((0..8).all(|n| set.insert(n, n)) && !set.insert(9, 9));
    }
}
