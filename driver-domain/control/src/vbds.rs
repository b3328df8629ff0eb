//! Virtual block devices: which part of a real disk each is, and what stands of it in xenstore beside what [`offers`](crate::offers) writes.
//!
//! Source: the guest ABI's section 14.2. What is our own is told in `driver-domain/docs/control.md`.

use alloc::{format, string::String};

use bulkhead_abi::DomId;
use bulkhead_config::{PciAddress, Right};

use crate::offers::{Device, Keys};

/// The number of the first disk: `xvda`.
const FIRST: u32 = 51712;

/// How many numbers each disk has, for itself and its partitions.
const STEP: u32 = 16;

/// How many disks a guest can have: `xvda` to `xvdp`.
pub const MOST: usize = bulkhead_config::MAX_LIST;

/// The number of the guest's disk in this place, from 0.
#[must_use]
pub fn number(place: usize) -> u32 {
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    place.saturating_mul(STEP).saturating_add(FIRST)
}

/// The lowest number that none of a guest's disks has, if there is one.
#[must_use]
pub fn free_number(disks: &[Vbd]) -> Option<u32> {
    let is_free = |number: &u32| disks.iter().all(|disk| disk.number != *number);
    (0..MOST).map(number).find(is_free)
}

/// What a guest calls the disk with this number.
#[must_use]
pub fn name(number: u32) -> String {
    let place = number.saturating_sub(FIRST) / STEP;
    let letter = u8::try_from(place).ok().and_then(|place| b'a'.checked_add(place));
    format!("xvd{}", char::from(letter.unwrap_or(b'?')))
}

/// A part of a real disk: where a virtual one lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The disk, by its controller.
    pub disk: PciAddress,
    /// The first sector, of 512 bytes.
    pub first: u64,
    /// How many sectors.
    pub sectors: u64,
}

impl Extent {
    /// Whether the two have a sector in common.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let end = |extent: &Self| extent.first.saturating_add(extent.sectors);
        self.disk == other.disk && self.first < end(other) && other.first < end(self)
    }
}

/// A disk of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vbd {
    /// The guest's domain.
    pub guest: DomId,
    /// The driver's.
    pub driver: DomId,
    /// The disk's number.
    pub number: u32,
    /// What of a real disk it is, as the configuration has it.
    pub part: String,
    /// Where that lies.
    pub extent: Extent,
    /// What the guest may do.
    pub right: Right,
}

impl Vbd {
    /// Whether a guest that has this disk, and one that has that part of that driver's with that right, disturb each other.
    #[must_use]
    pub fn disturbs(&self, driver: DomId, extent: &Extent, right: Right) -> bool {
        self.driver == driver && self.extent.meets(extent) && self.right.conflicts(right)
    }
}

impl Device for Vbd {
    const KIND: &'static str = "vbd";

    fn guest(&self) -> DomId {
        self.guest
    }

    fn driver(&self) -> DomId {
        self.driver
    }

    fn number(&self) -> u32 {
        self.number
    }

    fn front_keys(&self) -> Keys {
        alloc::vec![
            ("virtual-device", format!("{}", self.number)),
            ("device-type", "disk".into()),
        ]
    }

    fn back_keys(&self) -> Keys {
        let Extent { disk, first, sectors } = self.extent;
        let mode = match self.right {
            Right::ReadOnly => "r",
            Right::ReadWrite => "w",
        };
        alloc::vec![
            ("removable", "0".into()),
            ("bootable", "1".into()),
            ("dev", name(self.number)),
            ("type", "phy".into()),
            ("mode", mode.into()),
            ("device-type", "disk".into()),
            ("params", self.part.clone()),
            ("extents", format!("{disk} {first} {sectors}")),
        ]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A disk of domain 5.
    pub(crate) fn vbd() -> Vbd {
        Vbd {
            guest: DomId::new(5),
            driver: DomId::new(1000),
            number: 51728,
            part: "web-data".into(),
            extent: Extent {
                disk: PciAddress::from_raw(0x20),
                first: 2048,
                sectors: 131_072,
            },
            right: Right::ReadOnly,
        }
    }

    #[test]
    fn disks_are_numbered_and_named_as_linux_does() {
        assert_eq!([0, 1, 15].map(number), [51712, 51728, 51952]);
        assert_eq!(
            [0, 1, 15].map(|place| name(number(place))),
            ["xvda", "xvdb", "xvdp"]
        );
        let disk = |number| Vbd { number, ..vbd() };
        assert_eq!(free_number(&[disk(51712), disk(51744)]), Some(51728));
        let all: Vec<Vbd> = (0..MOST).map(number).map(disk).collect();
        assert_eq!(free_number(&all), None);
    }

    #[test]
    fn who_writes_disturbs_all_who_have_a_sector_of_it() {
        let vbd = vbd();
        let Extent { disk, first, sectors } = vbd.extent;
        let whole = Extent {
            disk,
            first: 0,
            sectors: 1 << 30,
        };
        let behind = Extent {
            disk,
            first: first + sectors,
            sectors,
        };
        assert!(vbd.disturbs(vbd.driver, &whole, Right::ReadWrite));
        assert!(!vbd.disturbs(vbd.driver, &whole, Right::ReadOnly), "both read");
        assert!(!vbd.disturbs(vbd.driver, &behind, Right::ReadWrite));
        assert!(!vbd.disturbs(DomId::new(1001), &whole, Right::ReadWrite));
    }

    #[test]
    fn extents_meet_where_they_have_a_sector_in_common() {
        let extent = |first, sectors| Extent {
            disk: PciAddress::from_raw(0x20),
            first,
            sectors,
        };
        assert!(extent(0, 10).meets(&extent(9, 1)));
        assert!(!extent(0, 10).meets(&extent(10, 1)));
        assert!(extent(5, 1).meets(&extent(0, 10)));
        let other = Extent {
            disk: PciAddress::from_raw(0x28),
            ..extent(0, 10)
        };
        assert!(!extent(0, 10).meets(&other));
    }
}
