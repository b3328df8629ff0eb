//! Guests' disks: found on what drivers serve, offered to both, and withdrawn.

use alloc::{format, rc::Rc, string::String, vec::Vec};

use bulkhead_abi::xenstore::StoreError;
use bulkhead_config::{Disk, Disks};
use bulkhead_control::{
    offers::{self, Device as _, state},
    served::{self, RealDisk, Server},
    vbds::{self, Extent, Vbd},
};
use bulkhead_runtime::{DomId, time::Instant};
use bulkhead_shell::show::{DiskRow, DiskUser, DriverState};
use bulkhead_xenstore::Store;
use embassy_futures::select::select;
use embassy_time::{Duration, with_deadline, with_timeout};

use crate::{Control, drivers, guests::Record};

/// How long a guest waits for a driver to be ready, and how long for its disks to be served.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a guest may take to let go of a disk.
const DETACHING: Duration = Duration::from_secs(10);

/// Waits until `is_so` returns something; it is asked now, after each change at or below `path` in xenstore, and whenever a guest's phase changes.
pub(crate) async fn until<T>(
    control: &Control,
    path: &str,
    mut is_so: impl FnMut() -> Option<T>,
) -> Result<T, String> {
    let watch = control.store.watch(control, path)?;
    loop {
        if let Some(result) = is_so() {
            return Ok(result);
        }
        let mut is_first = true;
        let other = control
            .guests
            .changes
            .until(|| (!core::mem::replace(&mut is_first, false)).then_some(()));
        select(watch.next(), other).await;
    }
}

/// The drivers that may have a disk.
fn asked(control: &Control, disk: &Disk) -> Vec<Rc<Record>> {
    let mut drivers = control.guests.drivers();
    let named = disk.driver.as_ref();
    drivers.retain(|record| named.is_none_or(|name| name.as_str() == record.name));
    drivers
}

/// Waits until a driver is ready or will not be soon, or the `deadline` has come. One that was started long ago is not waited for.
pub(crate) async fn await_driver(control: &Control, record: &Record, deadline: Instant) {
    let Some(part) = &record.driver else { return };
    let is_settled = || match drivers::state(control, record) {
        DriverState::Starting | DriverState::Pausing => None,
        DriverState::Ready
        | DriverState::Failed
        | DriverState::Held
        | DriverState::Ended
        | DriverState::Absent => Some(()),
    };
    let started = record.resident.borrow().as_ref().map(|resident| resident.started);
    let deadline = started.map_or(deadline, |started| deadline.min(started.saturating_add(PATIENCE)));
    let path = format!("/local/domain/{}/driver", part.domain().raw());
    // What has become of it is looked at in any case.
    let _ = with_deadline(deadline, until(control, &path, is_settled)).await;
}

/// The drivers that serve, with their disks.
fn servers(control: &Control) -> Vec<Server> {
    let server = |record: Rc<Record>| {
        let id = record.id()?;
        let is_ready = drivers::state(control, &record) == DriverState::Ready;
        is_ready.then(|| Server {
            name: record.name.clone(),
            id,
            disks: control.store.act(control, |store| served::disks(store, id)),
        })
    };
    control.guests.drivers().into_iter().filter_map(server).collect()
}

/// Finds a disk for a guest, which may have it beside what it and others have.
///
/// # Errors
///
/// In a sentence.
fn find(control: &Control, record: &Record, wanted: &Disk) -> Result<Vbd, String> {
    let site = served::find(&servers(control), wanted).map_err(|error| {
        let mut error = error;
        for driver in asked(control, wanted) {
            let state = drivers::state(control, &driver);
            if state != DriverState::Ready {
                let why = drivers::failure(control, &driver);
                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                error.push_str(&format!("; the driver {} is {state}{why}", driver.name));
            }
        }
        error
    })?;
    for other in control.guests.all() {
        let vbds = other.vbds.borrow();
        let mut clashing = vbds
            .iter()
            .filter(|vbd| vbd.disturbs(site.driver, &site.extent, wanted.right));
        if let Some(vbd) = clashing.next() {
            return Err(format!(
                "{} cannot be had with :{}: {} has {} with :{}, and only who reads can share",
                wanted.part, wanted.right, other.name, vbd.part, vbd.right
            ));
        }
    }
    let number = vbds::free_number(&record.vbds.borrow());
    Ok(Vbd {
        guest: DomId::INVALID,
        driver: site.driver,
        number: number.ok_or_else(|| format!("it has {} disks, and no room for more", vbds::MOST))?,
        part: format!("{}", wanted.part),
        extent: site.extent,
        right: wanted.right,
    })
}

/// Finds the disks of a guest that is to be made, and keeps others from them. Waits for the drivers that may have them, but not for ever.
///
/// # Errors
///
/// In a sentence; nothing is kept then.
pub(crate) async fn reserve(control: &Control, record: &Record) -> Result<(), String> {
    let wanted = record.wanted.borrow().disks.clone();
    let deadline = Instant::now().saturating_add(PATIENCE);
    for disk in wanted.iter() {
        for driver in asked(control, disk) {
            await_driver(control, &driver, deadline).await;
        }
    }
    record.vbds.take();
    for disk in wanted.iter() {
        match find(control, record, disk) {
            Ok(vbd) => record.vbds.borrow_mut().push(vbd),
            Err(error) => {
                record.vbds.take();
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Offers a guest's new domain its disks, and waits until their drivers wait for it, but not for ever: a front-end may take what it finds at
/// its start for all that there will be.
///
/// # Errors
///
/// In a sentence.
pub(crate) async fn offer(control: &Control, record: &Record, guest: DomId) -> Result<(), String> {
    let vbds = {
        let mut vbds = record.vbds.borrow_mut();
        vbds.iter_mut().for_each(|vbd| vbd.guest = guest);
        vbds.clone()
    };
    for vbd in &vbds {
        offer_one(control, vbd)?;
    }
    let deadline = Instant::now().saturating_add(PATIENCE);
    for vbd in &vbds {
        let is_served = || {
            let state = control
                .store
                .act(control, |store| offers::back_end_state(store, vbd));
            let is_gone = record.id() != Some(guest);
            (is_gone || state.is_some_and(|state| state > state::INITIALISING)).then_some(())
        };
        let served = with_deadline(deadline, until(control, &vbd.back_end(), is_served)).await;
        if served.is_err() {
            control.tell(&format!(
                "{}: its disk {} is not served yet; it starts without",
                record.name,
                vbds::name(vbd.number)
            ));
        }
    }
    Ok(())
}

fn offer_one(control: &Control, vbd: &Vbd) -> Result<(), String> {
    control
        .store
        .act(control, |store| offers::offer(store, vbd))
        .map_err(|error| format!("xenstore refuses its disk {}: {error}", vbds::name(vbd.number)))
}

/// Offers the disks that guests have of a driver to its new domain.
pub(crate) fn offer_again(control: &Control, store: &mut Store, driver: DomId) {
    for record in control.guests.all() {
        for vbd in record.vbds.borrow().iter() {
            // One that is being made has none yet.
            if vbd.driver != driver || vbd.guest.is_reserved() {
                continue;
            }
            match offers::offer_again(store, vbd) {
                // It does not want it any more.
                Ok(()) | Err(StoreError::NoEnt) => {}
                Err(error) => log::error!("{} has no disk {}: {error}", record.name, vbds::name(vbd.number)),
            }
        }
    }
}

/// Takes all disks from a guest whose domain ends.
pub(crate) fn withdraw(control: &Control, record: &Record) {
    for vbd in record.vbds.take() {
        take_away(control, &vbd);
    }
}

fn take_away(control: &Control, vbd: &Vbd) {
    if let Err(error) = control.store.act(control, |store| offers::remove(store, vbd)) {
        log::error!("xenstore keeps a disk of domain {}: {error}", vbd.guest.raw());
    }
}

/// Gives a guest that runs another disk. Returns what the guest calls it.
///
/// # Errors
///
/// In a sentence.
pub(crate) fn attach(
    control: &Control,
    record: &Record,
    guest: DomId,
    disk: &Disk,
) -> Result<String, String> {
    let vbd = Vbd {
        guest,
        ..find(control, record, disk)?
    };
    let mut disks = record.wanted.borrow().disks.to_vec();
    disks.push(disk.clone());
    let disks = Disks::new(disks).map_err(|should| format!("the disks of {} {should}", record.name))?;
    offer_one(control, &vbd)?;
    let name = vbds::name(vbd.number);
    record.vbds.borrow_mut().push(vbd);
    record.wanted.borrow_mut().disks = disks.into();
    Ok(name)
}

/// Takes the disk that a guest calls `name` from it: when the guest has let go of it or, by `force`, at once.
///
/// # Errors
///
/// In a sentence: also if the guest does not let go. It can then be done again.
pub(crate) async fn detach(
    control: &Control,
    record: &Record,
    name: &str,
    force: bool,
) -> Result<(), String> {
    let place = || {
        let vbds = record.vbds.borrow();
        vbds.iter().position(|vbd| vbds::name(vbd.number) == name)
    };
    let missing = || {
        format!(
            "{} has no disk {name}; `disk list` shows who has which",
            record.name
        )
    };
    let vbd = place().and_then(|place| record.vbds.borrow().get(place).cloned());
    let vbd = vbd.ok_or_else(missing)?;
    if !force {
        let closing = control.store.act(control, |store| offers::close(store, &vbd));
        // Without an end of its own, the driver has let go.
        if closing.is_ok() {
            let is_closed = || {
                let state = control
                    .store
                    .act(control, |store| offers::back_end_state(store, &vbd));
                state.is_none_or(|state| state == state::CLOSED).then_some(())
            };
            let closed = with_timeout(DETACHING, until(control, &vbd.back_end(), is_closed)).await;
            if closed.is_err() {
                return Err(format!(
                    "{} has not let go of {name} yet; `disk detach {} {name}` looks again, and with --force does not wait",
                    record.name, record.name
                ));
            }
        }
    }
    // It may have ended meanwhile, and others may have done the same.
    let place = place().filter(|&place| record.vbds.borrow().get(place) == Some(&vbd));
    let place = place.ok_or_else(missing)?;
    record.vbds.borrow_mut().remove(place);
    take_away(control, &vbd);
    let mut disks = record.wanted.borrow().disks.to_vec();
    // Of two of the same name, which are of different drivers, the first goes: this is for the next start only.
    if let Some(place) = disks.iter().position(|disk| format!("{}", disk.part) == vbd.part) {
        disks.remove(place);
    }
    if let Ok(disks) = Disks::new(disks) {
        record.wanted.borrow_mut().disks = disks.into();
    }
    Ok(())
}

/// The disks that there are, their partitions, and who has them.
pub(crate) fn rows(control: &Control) -> Vec<DiskRow> {
    let mut rows = Vec::new();
    for server in servers(control) {
        for RealDisk {
            address,
            sectors,
            is_read_only: _,
            error,
            partitions,
        } in server.disks
        {
            let mut row = |name: String, first, sectors, error| {
                let extent = Extent {
                    disk: address,
                    first,
                    sectors,
                };
                rows.push(DiskRow {
                    name,
                    driver: server.name.clone(),
                    address: format!("{address}"),
                    first,
                    sectors,
                    error,
                    users: users(control, server.id, extent),
                });
            };
            row(format!("@{address}"), 0, sectors, error);
            for partition in partitions {
                row(
                    served::plain(&partition.name),
                    partition.first,
                    partition.sectors,
                    None,
                );
            }
        }
    }
    rows
}

/// Who has just this of a driver's disks.
fn users(control: &Control, driver: DomId, extent: Extent) -> Vec<DiskUser> {
    let mut users = Vec::new();
    for record in control.guests.all() {
        for vbd in record.vbds.borrow().iter() {
            if (vbd.driver, vbd.extent) == (driver, extent) {
                users.push(DiskUser {
                    guest: record.name.clone(),
                    device: vbds::name(vbd.number),
                    right: format!("{}", vbd.right),
                });
            }
        }
    }
    users
}
