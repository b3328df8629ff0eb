//! Virtual block devices in xenstore: the two directories by which a guest and its driver find each other.
//!
//! Source: the guest ABI's sections 12.4, 12.5, 14.2 and 15.5. What is our own is told in `driver-domain/docs/control.md`.

use alloc::{format, string::String};

use bulkhead_abi::{DomId, xenstore::StoreError};
use bulkhead_config::{PciAddress, Right};
use bulkhead_xenstore::{Access, End, Path, Perms, Place, Store, Tx};

/// The control domain.
const CONTROL: DomId = DomId::new(0);

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

/// [States](https://xenbits.xen.org/docs/4.17-testing/hypercall/x86_64/include,public,io,xenbus.h.html) of either end.
pub mod state {
    /// It is there, and has done nothing.
    pub const INITIALISING: u8 = 1;
    /// The back-end waits for the front-end.
    pub const INIT_WAIT: u8 = 2;
    /// They are connected.
    pub const CONNECTED: u8 = 4;
    /// It is to end, or is about to.
    pub const CLOSING: u8 = 5;
    /// It has ended.
    pub const CLOSED: u8 = 6;
}

impl Vbd {
    /// Whether a guest that has this disk, and one that has that part of that driver's with that right, disturb each other.
    #[must_use]
    pub fn disturbs(&self, driver: DomId, extent: &Extent, right: Right) -> bool {
        self.driver == driver && self.extent.meets(extent) && self.right.conflicts(right)
    }

    /// The directory of the guest's end.
    #[must_use]
    pub fn front_end(&self) -> String {
        format!("/local/domain/{}/device/vbd/{}", self.guest.raw(), self.number)
    }

    /// The directory of the driver's end.
    #[must_use]
    pub fn back_end(&self) -> String {
        let (driver, guest) = (self.driver.raw(), self.guest.raw());
        format!("/local/domain/{driver}/backend/vbd/{guest}/{}", self.number)
    }

    /// Who has what of the guest's end.
    fn front_perms(&self) -> Perms {
        Perms::private(self.guest).with(Access::Read, self.driver)
    }

    fn back_perms(&self) -> Perms {
        Perms::private(self.driver).with(Access::Read, self.guest)
    }

    fn front_keys(&self) -> [(&'static str, String); 6] {
        [
            ("backend", self.back_end()),
            ("backend-id", format!("{}", self.driver.raw())),
            ("virtual-device", format!("{}", self.number)),
            ("device-type", "disk".into()),
            ("trusted", "1".into()),
            ("state", format!("{}", state::INITIALISING)),
        ]
    }

    fn back_keys(&self) -> [(&'static str, String); 12] {
        let Extent { disk, first, sectors } = self.extent;
        let mode = match self.right {
            Right::ReadOnly => "r",
            Right::ReadWrite => "w",
        };
        [
            ("frontend", self.front_end()),
            ("frontend-id", format!("{}", self.guest.raw())),
            ("online", "1".into()),
            ("removable", "0".into()),
            ("bootable", "1".into()),
            ("dev", name(self.number)),
            ("type", "phy".into()),
            ("mode", mode.into()),
            ("device-type", "disk".into()),
            ("params", self.part.clone()),
            ("extents", format!("{disk} {first} {sectors}")),
            ("state", format!("{}", state::INITIALISING)),
        ]
    }
}

/// Does `act` in one transaction, which takes effect as a whole or, if it fails, not at all.
fn at_once(
    store: &mut Store,
    act: impl FnOnce(&mut Store, Tx) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let tx = store.start();
    let done = act(store, tx);
    let end = if done.is_ok() { End::Commit } else { End::Abandon };
    store.end(tx, end)?;
    done
}

fn path(text: &str) -> Result<Path, StoreError> {
    Ok(Path::parse(text.as_bytes(), CONTROL)?)
}

/// Writes a directory: its keys in the order given.
fn put(
    store: &mut Store,
    tx: Tx,
    directory: &str,
    keys: &[(&'static str, String)],
    perms: &Perms,
) -> Result<(), StoreError> {
    let directory = path(directory)?;
    store.mkdir(tx, &directory)?;
    store.set_perms(tx, &Place::Node(directory.clone()), perms.clone())?;
    for (key, value) in keys {
        let key = directory.join(key)?;
        store.write(tx, &key, value.as_bytes())?;
        store.set_perms(tx, &Place::Node(key), perms.clone())?;
    }
    Ok(())
}

/// Writes the driver's end. What is above it is the driver's, so that it may watch it.
fn put_back_end(store: &mut Store, tx: Tx, vbd: &Vbd) -> Result<(), StoreError> {
    let driver = vbd.driver.raw();
    let home = format!("/local/domain/{driver}/backend");
    let above = [
        home.clone(),
        format!("{home}/vbd"),
        format!("{home}/vbd/{}", vbd.guest.raw()),
    ];
    for directory in above {
        put(store, tx, &directory, &[], &Perms::private(vbd.driver))?;
    }
    put(store, tx, &vbd.back_end(), &vbd.back_keys(), &vbd.back_perms())
}

/// Offers a guest a disk: writes both ends.
///
/// # Errors
///
/// None, unless the store is not as it should be.
pub fn offer(store: &mut Store, vbd: &Vbd) -> Result<(), StoreError> {
    at_once(store, |store, tx| {
        put(store, tx, &vbd.front_end(), &vbd.front_keys(), &vbd.front_perms())?;
        put_back_end(store, tx, vbd)
    })
}

/// Offers a guest's disk to a driver that was made anew: the driver's end is as at first, and the driver may read all of the guest's, which stays
/// as it is.
///
/// # Errors
///
/// [`StoreError::NoEnt`] if the guest has removed its end: then there is nothing to be served.
pub fn offer_again(store: &mut Store, vbd: &Vbd) -> Result<(), StoreError> {
    at_once(store, |store, tx| {
        let mut waiting = alloc::vec![path(&vbd.front_end())?];
        while let Some(at) = waiting.pop() {
            store.set_perms(tx, &Place::Node(at.clone()), vbd.front_perms())?;
            let names = store.directory(tx, &at)?;
            waiting.extend(names.iter().filter_map(|name| at.join(name).ok()));
        }
        remove_node(store, tx, &vbd.back_end())?;
        put_back_end(store, tx, vbd)
    })
}

/// Asks both ends to close: the driver's closes when the guest's has.
///
/// # Errors
///
/// [`StoreError::NoEnt`] if the driver has removed its end.
pub fn close(store: &mut Store, vbd: &Vbd) -> Result<(), StoreError> {
    let directory = path(&vbd.back_end())?;
    at_once(store, |store, tx| {
        // What is not there is not made.
        store.read(tx, &directory.join("state")?)?;
        store.write(tx, &directory.join("online")?, b"0")?;
        let closing = format!("{}", state::CLOSING);
        store.write(tx, &directory.join("state")?, closing.as_bytes())
    })
}

/// Removes both ends, the driver's with the directory above it if that was the guest's last.
///
/// # Errors
///
/// None, unless the store is not as it should be.
pub fn remove(store: &mut Store, vbd: &Vbd) -> Result<(), StoreError> {
    at_once(store, |store, tx| {
        remove_node(store, tx, &vbd.back_end())?;
        remove_node(store, tx, &vbd.front_end())?;
        let (driver, guest) = (vbd.driver.raw(), vbd.guest.raw());
        let above = format!("/local/domain/{driver}/backend/vbd/{guest}");
        match store.directory(tx, &path(&above)?) {
            Ok(left) if left.is_empty() => remove_node(store, tx, &above),
            Ok(_) | Err(_) => Ok(()),
        }
    })
}

fn remove_node(store: &mut Store, tx: Tx, node: &str) -> Result<(), StoreError> {
    match store.rm(tx, &path(node)?) {
        Err(StoreError::NoEnt) => Ok(()),
        done => done,
    }
}

/// The state of the driver's end; `None` if it has none that makes sense.
pub fn back_end_state(store: &mut Store, vbd: &Vbd) -> Option<u8> {
    let path = path(&format!("{}/state", vbd.back_end())).ok()?;
    let value = store.read(Tx::NONE, &path).ok()?;
    str::from_utf8(&value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vbd() -> Vbd {
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

    fn read(store: &mut Store, text: &str) -> Result<String, StoreError> {
        let value = store.read(Tx::NONE, &path(text).unwrap())?;
        Ok(String::from_utf8(value.to_vec()).unwrap())
    }

    fn perms(store: &mut Store, text: &str) -> String {
        let place = Place::Node(path(text).unwrap());
        store
            .perms(Tx::NONE, &place)
            .unwrap()
            .to_text()
            .replace('\0', ",")
    }

    const FRONT: &str = "/local/domain/5/device/vbd/51728";
    const BACK: &str = "/local/domain/1000/backend/vbd/5/51728";

    #[test]
    fn both_ends_find_what_the_abi_and_our_driver_want() {
        let mut store = Store::new();
        offer(&mut store, &vbd()).unwrap();
        for (key, value) in [
            ("backend", BACK),
            ("backend-id", "1000"),
            ("virtual-device", "51728"),
            ("device-type", "disk"),
            ("state", "1"),
        ] {
            assert_eq!(
                read(&mut store, &format!("{FRONT}/{key}")).as_deref(),
                Ok(value),
                "{key}"
            );
            assert_eq!(perms(&mut store, &format!("{FRONT}/{key}")), "n5,r1000,", "{key}");
        }
        for (key, value) in [
            ("frontend", FRONT),
            ("frontend-id", "5"),
            ("online", "1"),
            ("mode", "r"),
            ("dev", "xvdb"),
            ("params", "web-data"),
            ("extents", "00:04.0 2048 131072"),
            ("state", "1"),
        ] {
            assert_eq!(
                read(&mut store, &format!("{BACK}/{key}")).as_deref(),
                Ok(value),
                "{key}"
            );
            assert_eq!(perms(&mut store, &format!("{BACK}/{key}")), "n1000,r5,", "{key}");
        }
        assert_eq!(perms(&mut store, FRONT), "n5,r1000,");
        assert_eq!(perms(&mut store, BACK), "n1000,r5,");
        assert_eq!(perms(&mut store, "/local/domain/1000/backend/vbd"), "n1000,");
        assert_eq!(back_end_state(&mut store, &vbd()), Some(state::INITIALISING));
    }

    #[test]
    fn a_successor_is_offered_the_disk_as_at_first_and_the_guests_end_stays_as_it_is() {
        let mut store = Store::new();
        offer(&mut store, &vbd()).unwrap();
        let write = |store: &mut Store, at: &str, value: &str| {
            store
                .write(Tx::NONE, &path(at).unwrap(), value.as_bytes())
                .unwrap();
        };
        // Both are connected; the guest has two queues, and keeps the driver from reading one of them.
        write(&mut store, &format!("{FRONT}/state"), "4");
        write(&mut store, &format!("{FRONT}/queue-1/ring-ref"), "9");
        write(&mut store, &format!("{BACK}/state"), "4");
        write(&mut store, &format!("{BACK}/sectors"), "131072");
        let hidden = Place::Node(path(&format!("{FRONT}/queue-1/ring-ref")).unwrap());
        let guests = Perms::private(DomId::new(5));
        store.set_perms(Tx::NONE, &hidden, guests).unwrap();
        offer_again(&mut store, &vbd()).unwrap();
        assert_eq!(read(&mut store, &format!("{FRONT}/state")).as_deref(), Ok("4"));
        let ring = format!("{FRONT}/queue-1/ring-ref");
        assert_eq!(read(&mut store, &ring).as_deref(), Ok("9"));
        assert_eq!(perms(&mut store, &ring), "n5,r1000,");
        assert_eq!(back_end_state(&mut store, &vbd()), Some(1));
        assert_eq!(
            read(&mut store, &format!("{BACK}/sectors")),
            Err(StoreError::NoEnt)
        );
        assert_eq!(perms(&mut store, BACK), "n1000,r5,");
    }

    #[test]
    fn what_the_guest_has_removed_is_not_offered_again() {
        let mut store = Store::new();
        offer(&mut store, &vbd()).unwrap();
        store.rm(Tx::NONE, &path(FRONT).unwrap()).unwrap();
        assert_eq!(offer_again(&mut store, &vbd()), Err(StoreError::NoEnt));
        assert_eq!(read(&mut store, FRONT), Err(StoreError::NoEnt));
        assert_eq!(back_end_state(&mut store, &vbd()), Some(1), "as it was");
    }

    #[test]
    fn a_disk_is_closed_and_then_gone_and_another_stays() {
        let mut store = Store::new();
        let other = Vbd {
            number: 51712,
            ..vbd()
        };
        offer(&mut store, &vbd()).unwrap();
        offer(&mut store, &other).unwrap();
        close(&mut store, &vbd()).unwrap();
        assert_eq!(read(&mut store, &format!("{BACK}/online")).as_deref(), Ok("0"));
        assert_eq!(back_end_state(&mut store, &vbd()), Some(state::CLOSING));
        remove(&mut store, &vbd()).unwrap();
        assert_eq!(read(&mut store, FRONT), Err(StoreError::NoEnt));
        assert_eq!(read(&mut store, BACK), Err(StoreError::NoEnt));
        assert_eq!(close(&mut store, &vbd()), Err(StoreError::NoEnt));
        assert_eq!(back_end_state(&mut store, &other), Some(1));
        remove(&mut store, &other).unwrap();
        assert_eq!(
            read(&mut store, "/local/domain/1000/backend/vbd/5"),
            Err(StoreError::NoEnt)
        );
        assert!(read(&mut store, "/local/domain/1000/backend/vbd").is_ok());
        remove(&mut store, &other).unwrap();
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
