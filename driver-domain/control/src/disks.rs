//! Guests' disks: found on what drivers serve.

use alloc::{format, rc::Rc, string::String, vec::Vec};
use core::{cell::RefCell, fmt::Display};

use bulkhead_config::{Disk, Disks, Guest};
use bulkhead_control::{
    served::{self, RealDisk, Server},
    vbds::{self, Extent, Vbd},
};
use bulkhead_runtime::{DomId, time::Instant};
use bulkhead_shell::show::{DiskRow, DiskUser, DriverState};

use crate::{
    Control,
    devices::{self, Kept, PATIENCE},
    drivers,
    guests::Record,
};

impl Kept for Vbd {
    const NOUN: &'static str = "disk";
    const LIST: &'static str = "disk list";
    const DETACH: &'static str = "disk detach";

    fn of(record: &Record) -> &RefCell<Vec<Self>> {
        &record.vbds
    }

    fn name(&self) -> impl Display {
        vbds::name(self.number)
    }

    fn give(&mut self, guest: DomId) {
        self.guest = guest;
    }

    fn unwant(&self, guest: &mut Guest) {
        let mut disks = guest.disks.to_vec();
        // Of two of the same name, which are of different drivers, the first goes.
        if let Some(place) = disks
            .iter()
            .position(|disk| format!("{}", disk.part) == self.part)
        {
            disks.remove(place);
        }
        if let Ok(disks) = Disks::new(disks) {
            guest.disks = disks.into();
        }
    }
}

/// The drivers that may have a disk.
fn asked(control: &Control, disk: &Disk) -> Vec<Rc<Record>> {
    let mut drivers = control.guests.drivers();
    let named = disk.driver.as_ref();
    drivers.retain(|record| named.is_none_or(|name| name.as_str() == record.name));
    drivers
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
/// In a sentence.
pub(crate) async fn reserve(control: &Control, record: &Record) -> Result<(), String> {
    let wanted = record.wanted.borrow().disks.clone();
    let deadline = Instant::now().saturating_add(PATIENCE);
    for disk in wanted.iter() {
        for driver in asked(control, disk) {
            drivers::await_settled(control, &driver, deadline).await;
        }
    }
    for disk in wanted.iter() {
        let vbd = find(control, record, disk)?;
        record.vbds.borrow_mut().push(vbd);
    }
    Ok(())
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
    devices::offer_one(control, &vbd)?;
    let name = vbds::name(vbd.number);
    record.vbds.borrow_mut().push(vbd);
    record.wanted.borrow_mut().disks = disks.into();
    Ok(name)
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
