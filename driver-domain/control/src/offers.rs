//! Virtual devices in xenstore: the two directories by which a guest and its driver find each other, whatever the kind of device.
//!
//! Source: the guest ABI's sections 12.4, 12.5 and 15.5. What is our own is told in `driver-domain/docs/control.md`.

use alloc::{format, string::String, vec::Vec};

use bulkhead_abi::{DomId, xenstore::StoreError};
use bulkhead_xenstore::{Access, End, Path, Perms, Place, Store, Tx};

/// The control domain.
const CONTROL: DomId = DomId::new(0);

/// Keys of a directory with their values, in the order in which they are written.
pub type Keys = Vec<(&'static str, String)>;

/// A virtual device of a guest, which a driver serves.
pub trait Device {
    /// What its kind is called in paths.
    const KIND: &'static str;

    /// The guest's domain.
    fn guest(&self) -> DomId;
    /// The driver's.
    fn driver(&self) -> DomId;
    /// Which of the guest's devices of this kind it is.
    fn number(&self) -> u32;
    /// What the guest's end has besides what every device has.
    fn front_keys(&self) -> Keys;
    /// What the driver's end has besides.
    fn back_keys(&self) -> Keys;

    /// The directory of the guest's end.
    fn front_end(&self) -> String {
        let (guest, number) = (self.guest().raw(), self.number());
        format!("/local/domain/{guest}/device/{}/{number}", Self::KIND)
    }

    /// The directory of the driver's end.
    fn back_end(&self) -> String {
        let (driver, guest) = (self.driver().raw(), self.guest().raw());
        format!(
            "/local/domain/{driver}/backend/{}/{guest}/{}",
            Self::KIND,
            self.number()
        )
    }
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

/// Does `act` in one transaction, which takes effect as a whole or, if it fails, not at all.
pub(crate) fn at_once(
    store: &mut Store,
    act: impl FnOnce(&mut Store, Tx) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let tx = store.start();
    let done = act(store, tx);
    let end = if done.is_ok() { End::Commit } else { End::Abandon };
    store.end(tx, end)?;
    done
}

pub(crate) fn path(text: &str) -> Result<Path, StoreError> {
    Ok(Path::parse(text.as_bytes(), CONTROL)?)
}

/// Writes a directory: its keys in the order given.
pub(crate) fn put(
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

/// Who has what of the guest's end.
fn front_perms(device: &impl Device) -> Perms {
    Perms::private(device.guest()).with(Access::Read, device.driver())
}

const fn kind_of<D: Device>(_: &D) -> &'static str {
    D::KIND
}

/// Writes the driver's end. What is above it is the driver's, so that it may watch it.
fn put_back_end(store: &mut Store, tx: Tx, device: &impl Device) -> Result<(), StoreError> {
    let driver = device.driver().raw();
    let home = format!("/local/domain/{driver}/backend");
    let own = format!("{home}/{}", kind_of(device));
    let above = [home, own.clone(), format!("{own}/{}", device.guest().raw())];
    for directory in above {
        put(store, tx, &directory, &[], &Perms::private(device.driver()))?;
    }
    let guest = device.guest();
    let mut keys = alloc::vec![
        ("frontend", device.front_end()),
        ("frontend-id", format!("{}", guest.raw())),
        ("online", "1".into()),
    ];
    keys.extend(device.back_keys());
    // The last: who sees it finds the others.
    keys.push(("state", format!("{}", state::INITIALISING)));
    let perms = Perms::private(device.driver()).with(Access::Read, guest);
    put(store, tx, &device.back_end(), &keys, &perms)
}

/// Offers a guest a device: writes both ends.
///
/// # Errors
///
/// None, unless the store is not as it should be.
pub fn offer(store: &mut Store, device: &impl Device) -> Result<(), StoreError> {
    at_once(store, |store, tx| {
        let mut keys = alloc::vec![
            ("backend", device.back_end()),
            ("backend-id", format!("{}", device.driver().raw())),
            ("trusted", "1".into()),
        ];
        keys.extend(device.front_keys());
        keys.push(("state", format!("{}", state::INITIALISING)));
        put(store, tx, &device.front_end(), &keys, &front_perms(device))?;
        put_back_end(store, tx, device)
    })
}

/// Offers a guest's device to a driver that was made anew: the driver's end is as at first, and the driver may read all of the guest's, which stays
/// as it is.
///
/// # Errors
///
/// [`StoreError::NoEnt`] if the guest has removed its end: then there is nothing to be served.
pub fn offer_again(store: &mut Store, device: &impl Device) -> Result<(), StoreError> {
    at_once(store, |store, tx| {
        let mut waiting = alloc::vec![path(&device.front_end())?];
        while let Some(at) = waiting.pop() {
            store.set_perms(tx, &Place::Node(at.clone()), front_perms(device))?;
            let names = store.directory(tx, &at)?;
            waiting.extend(names.iter().filter_map(|name| at.join(name).ok()));
        }
        remove_node(store, tx, &device.back_end())?;
        put_back_end(store, tx, device)
    })
}

/// Asks both ends to close: the driver's closes when the guest's has.
///
/// # Errors
///
/// [`StoreError::NoEnt`] if the driver has removed its end.
pub fn close(store: &mut Store, device: &impl Device) -> Result<(), StoreError> {
    let directory = path(&device.back_end())?;
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
pub fn remove(store: &mut Store, device: &impl Device) -> Result<(), StoreError> {
    at_once(store, |store, tx| {
        remove_node(store, tx, &device.back_end())?;
        remove_node(store, tx, &device.front_end())?;
        let (driver, guest) = (device.driver().raw(), device.guest().raw());
        let above = format!("/local/domain/{driver}/backend/{}/{guest}", kind_of(device));
        match store.directory(tx, &path(&above)?) {
            Ok(left) if left.is_empty() => remove_node(store, tx, &above),
            Ok(_) | Err(_) => Ok(()),
        }
    })
}

pub(crate) fn remove_node(store: &mut Store, tx: Tx, node: &str) -> Result<(), StoreError> {
    match store.rm(tx, &path(node)?) {
        Err(StoreError::NoEnt) => Ok(()),
        done => done,
    }
}

/// The state of the driver's end; `None` if it has none that makes sense.
pub fn back_end_state(store: &mut Store, device: &impl Device) -> Option<u8> {
    let path = path(&format!("{}/state", device.back_end())).ok()?;
    let value = store.read(Tx::NONE, &path).ok()?;
    str::from_utf8(&value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vbds::{Vbd, tests::vbd};

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
}
