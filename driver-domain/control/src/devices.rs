//! What guests' disks and interfaces have in common: offered to both ends, offered again to a driver that was made anew, and withdrawn.

use alloc::{format, string::String, vec::Vec};
use core::{cell::RefCell, fmt::Display};

use bulkhead_abi::xenstore::StoreError;
use bulkhead_config::Guest;
use bulkhead_control::{
    networks::Vif,
    offers::{self, Device, state},
    vbds::Vbd,
};
use bulkhead_runtime::{DomId, time::Instant};
use bulkhead_xenstore::Store;
use embassy_futures::select::select;
use embassy_time::{Duration, with_deadline, with_timeout};

use crate::{Control, guests::Record};

/// How long a guest waits for a driver to be ready, and how long for its devices to be served.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a guest may take to let go of a device.
const DETACHING: Duration = Duration::from_secs(10);

/// A device that a guest's record keeps.
pub(crate) trait Kept: Device + Clone + PartialEq {
    /// What the operator calls such a device.
    const NOUN: &'static str;
    /// The command that shows who has which.
    const LIST: &'static str;
    /// The command that takes one away.
    const DETACH: &'static str;

    /// All of a guest's domain, or of the one that is being made.
    fn of(record: &Record) -> &RefCell<Vec<Self>>;
    /// What the operator calls this one among the guest's.
    fn name(&self) -> impl Display;
    /// It is this domain's.
    fn give(&mut self, guest: DomId);
    /// The guest is to have it no more when it is started again.
    fn unwant(&self, guest: &mut Guest);
}

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

/// The state of the driver's end, if it has one that makes sense.
pub(crate) fn state_of(control: &Control, device: &impl Device) -> Option<u8> {
    control
        .store
        .act(control, |store| offers::back_end_state(store, device))
}

/// Offers a guest's new domain its interfaces and disks, and waits until their drivers wait for it, but not for ever: a front-end may take what it
/// finds at its start for all that there will be.
///
/// # Errors
///
/// In a sentence.
pub(crate) async fn offer(control: &Control, record: &Record, guest: DomId) -> Result<(), String> {
    offer_all::<Vif>(control, record, guest).await?;
    offer_all::<Vbd>(control, record, guest).await
}

async fn offer_all<D: Kept>(control: &Control, record: &Record, guest: DomId) -> Result<(), String> {
    let devices = {
        let mut devices = D::of(record).borrow_mut();
        devices.iter_mut().for_each(|device| device.give(guest));
        devices.clone()
    };
    for device in &devices {
        offer_one(control, device)?;
    }
    let deadline = Instant::now().saturating_add(PATIENCE);
    for device in &devices {
        let is_served = || {
            let is_gone = record.id() != Some(guest);
            let is_waiting = state_of(control, device).is_some_and(|state| state > state::INITIALISING);
            (is_gone || is_waiting).then_some(())
        };
        let served = with_deadline(deadline, until(control, &device.back_end(), is_served)).await;
        if served.is_err() {
            control.tell(&format!(
                "{}: its {} {} is not served yet; it starts without",
                record.name,
                D::NOUN,
                device.name()
            ));
        }
    }
    Ok(())
}

/// Offers one device to both ends.
///
/// # Errors
///
/// In a sentence.
pub(crate) fn offer_one<D: Kept>(control: &Control, device: &D) -> Result<(), String> {
    control
        .store
        .act(control, |store| offers::offer(store, device))
        .map_err(|error| format!("xenstore refuses its {} {}: {error}", D::NOUN, device.name()))
}

/// Offers what guests have of a driver to its new domain.
pub(crate) fn offer_again(control: &Control, store: &mut Store, driver: DomId) {
    for record in control.guests.all() {
        offer_all_again::<Vbd>(&record, store, driver);
        offer_all_again::<Vif>(&record, store, driver);
    }
}

fn offer_all_again<D: Kept>(record: &Record, store: &mut Store, driver: DomId) {
    for device in D::of(record).borrow().iter() {
        // One that is being made has none yet.
        if device.driver() != driver || device.guest().is_reserved() {
            continue;
        }
        match offers::offer_again(store, device) {
            // It does not want it any more.
            Ok(()) | Err(StoreError::NoEnt) => {}
            Err(error) => log::error!("{} has no {} {}: {error}", record.name, D::NOUN, device.name()),
        }
    }
}

/// Takes all devices from a guest whose domain ends.
pub(crate) fn withdraw(control: &Control, record: &Record) {
    for vbd in record.vbds.take() {
        take_away(control, &vbd);
    }
    for vif in record.vifs.take() {
        take_away(control, &vif);
    }
}

fn take_away<D: Kept>(control: &Control, device: &D) {
    if let Err(error) = control.store.act(control, |store| offers::remove(store, device)) {
        let guest = device.guest().raw();
        log::error!(
            "xenstore keeps the {} {} of domain {guest}: {error}",
            D::NOUN,
            device.name()
        );
    }
}

/// Takes a device from a guest: when the guest has let go of it or, by `force`, at once.
///
/// # Errors
///
/// In a sentence: also if the guest does not let go. It can then be done again.
pub(crate) async fn detach<D: Kept>(
    control: &Control,
    record: &Record,
    name: impl Display,
    force: bool,
) -> Result<(), String> {
    let (noun, guest, name) = (D::NOUN, &record.name, format!("{name}"));
    let missing = || format!("{guest} has no {noun} {name}; `{}` shows who has which", D::LIST);
    let is_named = |device: &&D| format!("{}", device.name()) == name;
    let found = D::of(record).borrow().iter().find(is_named).cloned();
    let device = found.ok_or_else(missing)?;
    // Without an end of its own, the driver has let go.
    if !force
        && control
            .store
            .act(control, |store| offers::close(store, &device))
            .is_ok()
    {
        let is_closed = || {
            let state = state_of(control, &device);
            state.is_none_or(|state| state == state::CLOSED).then_some(())
        };
        let closed = with_timeout(DETACHING, until(control, &device.back_end(), is_closed)).await;
        if closed.is_err() {
            return Err(format!(
                "{guest} has not let go of {noun} {name} yet; `{} {guest} {name}` looks again, and with --force does not wait",
                D::DETACH
            ));
        }
    }
    // It may have ended meanwhile, and others may have done the same.
    let place = D::of(record).borrow().iter().position(|other| *other == device);
    D::of(record).borrow_mut().remove(place.ok_or_else(missing)?);
    take_away(control, &device);
    device.unwant(&mut record.wanted.borrow_mut());
    Ok(())
}
