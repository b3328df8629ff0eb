//! Which domain owns what of devices: ranges of I/O ports, of frames that are no RAM, and of interrupt lines.
//!
//! The control domain assigns them, each to one domain at a time, and they are that domain's until it is destroyed: then nobody's, before
//! any of its frames comes free. [`Machine::may_assign`] says what can be assigned at all: never RAM, and never what the hypervisor works
//! with itself.
//!
//! A frame of a device has no record in the frame table that counts anything. So an entry that leads to one holds nothing; it is let stand
//! because the frame is its table's owner's. When that changes, the domain's vCPUs have stopped for good and every TLB has forgotten its entries: what
//! its tables still say of devices is never looked at again. The ports that a domain of the boot list owns are its [`PortSet`].

use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::ports::{Access, PortSet};
use bulkhead_abi::{DomId, Errno};
use core::ops::RangeInclusive;
use heapless::Vec;

/// What can be assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// I/O ports, by number.
    Ports,
    /// Frames that are no RAM, by number.
    Frames,
    /// Interrupt lines, by the numbers of global system interrupts. What becomes of one is told in [`crate::irq`].
    Lines,
}

/// How many ranges can be assigned, on the whole machine.
pub const MAX_ASSIGNED: usize = 128;

/// A range that somebody owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Who.
    pub owner: DomId,
    /// Of what.
    pub what: Resource,
    /// Which.
    pub range: RangeInclusive<u64>,
}

/// All that is assigned on the machine.
#[derive(Debug, Default)]
pub struct Assignments(Vec<Assigned, MAX_ASSIGNED>);

impl Assignments {
    /// Nothing is assigned.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Assigns a range, none of which is.
    ///
    /// # Errors
    ///
    /// [`Errno::Exist`] if some of it is somebody's, [`Errno::NoSpc`] if there are too many ranges.
    pub fn insert(&mut self, assigned: Assigned) -> Result<(), Errno> {
        let overlaps = |other: &Assigned| {
            let (start, end) = (*assigned.range.start(), *assigned.range.end());
            other.what == assigned.what && start <= *other.range.end() && *other.range.start() <= end
        };
        if self.0.iter().any(overlaps) && !mutant!(AssignedTwice) {
            return Err(Errno::Exist);
        }
        self.0.push(assigned).map_err(|_| Errno::NoSpc)
    }

    /// Whether this is `owner`'s.
    #[must_use]
    pub fn owns(&self, owner: DomId, what: Resource, number: u64) -> bool {
        let is_it = |assigned: &Assigned| {
            (assigned.owner == owner || mutant!(DevicesAreEverybodys))
                && assigned.what == what
                && assigned.range.contains(&number)
        };
        self.0.iter().any(is_it)
    }

    /// Takes all that it owns from a domain.
    pub fn release(&mut self, owner: DomId) {
        self.0.retain(|assigned| assigned.owner != owner);
    }

    /// All that is assigned.
    pub fn iter(&self) -> impl Iterator<Item = &Assigned> {
        self.0.iter()
    }
}

impl<M: Machine> Memory<M> {
    /// Whether a frame of a device is `owner`'s.
    pub(crate) fn owns_device(&self, owner: DomId, frame: u64) -> bool {
        self.devices.read().owns(owner, Resource::Frames, frame)
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Assigns a range to a domain that is not being destroyed, and cannot be while the caller looks at it.
    ///
    /// # Errors
    ///
    /// [`Errno::Acces`] if some of it nobody may have, and as [`Assignments::insert`].
    pub(crate) fn assign(&self, assigned: Assigned) -> Result<(), Errno> {
        let has_table = assigned.what == Resource::Frames && self.holds_table(&assigned.range);
        if has_table || !self.machine().may_assign(assigned.what, assigned.range.clone()) {
            return Err(Errno::Acces);
        }
        self.memory.devices.write().insert(assigned)
    }

    /// Assigns ranges of one function, all or none.
    ///
    /// # Errors
    ///
    /// As [`Hypervisor::assign`].
    pub(crate) fn assign_all(&self, ranges: &[Assigned]) -> Result<(), Errno> {
        let may = |one: &Assigned| self.machine().may_assign(one.what, one.range.clone());
        if !ranges.iter().all(may) {
            return Err(Errno::Acces);
        }
        let mut devices = self.memory.devices.write();
        for (done, one) in ranges.iter().enumerate() {
            if let Err(error) = devices.insert(one.clone()) {
                devices
                    .0
                    .retain(|assigned| !ranges.iter().take(done).any(|undone| undone == assigned));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Sees to it that no port that a domain has by the boot list is assigned to another, as long as that domain lives.
    pub(crate) fn reserve_ports(&self, owner: DomId, ports: &PortSet) {
        let mut devices = self.memory.devices.write();
        for range in ports.ranges() {
            let what = Resource::Ports;
            // The list may name a port twice, and is believed; more ranges than there is room for are reserved in vain.
            let _ = devices.insert(Assigned { owner, what, range });
        }
    }

    /// Whether all ports of an access are `domain`'s.
    pub(crate) fn owns_ports(&self, domain: &crate::domains::Domain, access: Access) -> bool {
        if domain.ports.owns(access) {
            return true;
        }
        let devices = self.memory.devices.read();
        access.all(|port| domain.ports.has(port) || devices.owns(domain.id, Resource::Ports, port.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(owner: u16, range: RangeInclusive<u64>) -> Assigned {
        Assigned {
            owner: DomId::new(owner),
            what: Resource::Ports,
            range,
        }
    }

    #[test]
    fn what_is_somebodys_is_nobody_elses_until_he_is_gone() {
        let mut all = Assignments::new();
        assert_eq!(all.insert(ports(1, 0x10..=0x1f)), Ok(()));
        for range in [0x1f..=0x1f, 0..=0x10, 0x14..=0x15, 0..=0xffff] {
            assert_eq!(all.insert(ports(2, range.clone())), Err(Errno::Exist));
            assert_eq!(all.insert(ports(1, range)), Err(Errno::Exist));
        }
        assert_eq!(all.insert(ports(2, 0x20..=0x20)), Ok(()));
        let frames = Assigned {
            what: Resource::Frames,
            ..ports(2, 0x10..=0x1f)
        };
        assert_eq!(all.insert(frames), Ok(()), "numbers of another kind");
        let owns = |all: &Assignments, id, n| all.owns(DomId::new(id), Resource::Ports, n);
        assert!(owns(&all, 1, 0x1f) && !owns(&all, 1, 0x20) && !owns(&all, 2, 0x1f));
        all.release(DomId::new(1));
        assert!(!owns(&all, 1, 0x1f) && owns(&all, 2, 0x20));
        assert_eq!(all.insert(ports(2, 0x1f..=0x1f)), Ok(()));
    }

    #[test]
    fn there_is_an_end_to_what_can_be_assigned() {
        let mut all = Assignments::new();
        for n in 0..MAX_ASSIGNED as u64 {
            assert_eq!(all.insert(ports(1, n..=n)), Ok(()));
        }
        assert_eq!(all.insert(ports(1, 500..=500)), Err(Errno::NoSpc));
    }
}
