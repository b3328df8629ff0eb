//! Drivers: domains that own devices. They are made, watched and made anew as guests are, of what is kept for them.

use alloc::{format, rc::Rc, string::String, vec::Vec};

use bulkhead_abi::control::{CONFINED_DMA, CONFINED_INTERRUPTS, FAULTS_SILENCED, MachineInfo};
use bulkhead_config::{CommandLine, Driver, Guest, PciAddress, Setting as _};
use bulkhead_control::{
    functions::{self, Interrupt},
    served::{self, Readiness},
};
use bulkhead_runtime::{DomId, Errno, Failure, control, domains, time::Instant};
use bulkhead_shell::show::{DriverDevice, DriverRow, DriverState, Drivers, FunctionRow};
use embassy_time::with_deadline;

use crate::{
    Control,
    devices::{PATIENCE, until},
    guests::{DriverPart, Phase, Record},
    life,
};

/// A driver comes soon when it wakes, for a while, as the control domain does: guests wait for it.
const WARP_NS: u32 = 20_000_000;
const WARP_LIMIT_NS: u32 = 10_000_000;
const UNWARP_NS: u32 = 50_000_000;

/// Whether devices reach only what their domains own and are granted.
pub(crate) const fn is_dma_confined(machine: &MachineInfo) -> bool {
    machine.flags & CONFINED_DMA != 0
}

/// Whether devices raise only the interrupts that were set up for them.
const fn are_interrupts_confined(machine: &MachineInfo) -> bool {
    machine.flags & CONFINED_INTERRUPTS != 0
}

/// Makes a driver's domain and lets it run. Its devices are those that it has among `drivers`.
///
/// # Errors
///
/// In a sentence.
pub(crate) async fn start(
    control: &'static Control,
    driver: &Driver,
    drivers: &[Driver],
) -> Result<DomId, String> {
    let record = enter(control, driver, drivers)?;
    let wanted = record.wanted.borrow().clone();
    life::start(control, wanted).await
}

/// Notes what is wanted of a driver, for when it is made next.
///
/// # Errors
///
/// In a sentence: it cannot be.
pub(crate) fn enter(control: &Control, driver: &Driver, drivers: &[Driver]) -> Result<Rc<Record>, String> {
    let name = driver.name.as_str();
    let mut functions = control.functions().to_vec();
    functions.retain(|function| driver.has(function.address, function.kind(), drivers));
    let line = functions::command_line(&functions, driver.command_line.as_str());
    let mut guest = Guest::new(
        (*driver.name).clone(),
        (*driver.kernel).clone(),
        driver.memory.memory(),
    );
    guest.command_line = CommandLine::parse(&line)
        .map_err(|should| format!("{name}: its command line, with its devices, {should}"))?;
    guest.weight = driver.weight;
    guest.console = driver.console;
    for action in [&mut guest.on_poweroff, &mut guest.on_reboot, &mut guest.on_crash] {
        *action = driver.on_crash;
    }
    let is_guest = |record: &Record| record.driver.is_none() && record.phase.get() != Phase::Idle;
    if control.guests.named(name).is_some_and(|record| is_guest(&record)) {
        return Err(format!("{name} is a guest; a driver should have another name"));
    }
    let record = control
        .guests
        .enter_driver(driver, guest, control.store.new_uuid())
        .ok_or_else(|| format!("{name}: there are as many drivers as there can be"))?;
    if let Some(part) = &record.driver {
        *part.functions.borrow_mut() = functions;
    }
    Ok(record)
}

/// Forgets the drivers that have no domain and are not wanted any more, and gives their memory back.
pub(crate) fn forget_all_but(control: &Control, wanted: &[Driver]) {
    for record in control.guests.drivers() {
        let is_wanted = wanted.iter().any(|driver| driver.name.as_str() == record.name);
        if let Some(part) = &record.driver
            && !is_wanted
            && record.phase.get() == Phase::Idle
        {
            if part.kept.take().is_some()
                && let Err(error) = domains::release_extent(part.extent())
            {
                log::error!("the memory of {} stays kept: {error}", record.name);
            }
            control.guests.forget(&record);
        }
    }
}

/// Sees to it that there is memory kept for a driver that has no domain, as much as is wanted.
///
/// # Errors
///
/// In a sentence.
pub(crate) fn keep_memory(driver: &DriverPart) -> Result<(), String> {
    let memory = *driver.wanted.borrow().memory;
    let order = memory.order();
    if driver.kept.get() == Some(order) {
        return Ok(());
    }
    if driver.kept.take().is_some() {
        domains::release_extent(driver.extent())
            .map_err(|error| format!("its memory, which is to be another, is still in use: {error}"))?;
    }
    domains::keep_extent(driver.extent(), order).map_err(|error| {
        if error == Failure::Errno(Errno::NoMem) {
            format!("the machine has no {memory} left for it in one piece below 4 GiB")
        } else {
            format!("the hypervisor refused to keep memory for it: {error}")
        }
    })?;
    driver.kept.set(Some(order));
    Ok(())
}

/// Gives a driver's new domain its devices, and has it come soon when it wakes.
///
/// # Errors
///
/// In a sentence.
pub(crate) fn equip(driver: &DriverPart, domain: DomId) -> Result<(), String> {
    driver.resets.borrow_mut().clear();
    for function in driver.functions.borrow().iter() {
        let address = function.address;
        let told = |what: &str, error: Failure| match error {
            Failure::Errno(Errno::Exist) => format!("{what} is another's"),
            Failure::Errno(_) | Failure::Unknown(_) => format!("{what} cannot be assigned: {error}"),
        };
        let was_reset = domains::assign_function(domain, address.raw())
            .map_err(|error| told(&format!("the device at {address}"), error))?;
        driver.resets.borrow_mut().push((address, was_reset));
        if let Interrupt::Line(line) = function.interrupt {
            domains::assign_line(domain, line.into()).map_err(|error| {
                told(
                    &format!("interrupt line {line} of the device at {address}"),
                    error,
                )
            })?;
        }
    }
    let warp = || {
        let mut schedule = control::schedule(domain)?;
        schedule.warp_ns = WARP_NS;
        schedule.warp_limit_ns = WARP_LIMIT_NS;
        schedule.unwarp_ns = UNWARP_NS;
        control::set_schedule(&schedule)
    };
    warp().map_err(|error: Failure| format!("its share of the CPUs cannot be set: {error}"))
}

/// What a driver does.
pub(crate) fn state(control: &Control, record: &Record) -> DriverState {
    let resident = record.resident.borrow();
    match (record.phase.get(), resident.as_ref()) {
        (Phase::Making, _) => DriverState::Starting,
        (Phase::Pausing, _) => DriverState::Pausing,
        (Phase::Held, _) => DriverState::Held,
        (Phase::Resident, Some(resident)) if life::has_ended(resident.id) => DriverState::Ended,
        (Phase::Resident, Some(resident)) => {
            match control
                .store
                .act(control, |store| served::readiness(store, resident.id))
            {
                Readiness::Starting => DriverState::Starting,
                Readiness::Ready => DriverState::Ready,
                Readiness::Failed(_) => DriverState::Failed,
            }
        }
        (Phase::Idle | Phase::Resident, _) => DriverState::Absent,
    }
}

/// How a function was reset when its driver was given it.
fn reset_of(driver: &DriverPart, address: PciAddress) -> Option<String> {
    let resets = driver.resets.borrow();
    let (_, was_reset) = resets.iter().find(|(function, _)| *function == address)?;
    Some(if *was_reset { "function" } else { "driver" }.into())
}

/// The drivers as the operator sees them.
pub(crate) fn rows(control: &Control) -> Drivers {
    let machine = control::machine().unwrap_or_default();
    let row = |record: Rc<Record>| {
        let part = record.driver.as_ref()?;
        let device = |function: &functions::Function| {
            let address = function.address;
            let report = control
                .store
                .act(control, |store| served::report(store, part.domain(), address));
            let found = control::function_faults(address.raw()).unwrap_or_default();
            // Those of an earlier owner are not this one's.
            let faults = Some(found)
                .filter(|faults| faults.domain == part.domain())
                .unwrap_or_default();
            DriverDevice {
                address: format!("{address}"),
                driver: report.driver,
                reset: reset_of(part, address),
                faults: faults.count,
                faults_silenced: faults.flags & FAULTS_SILENCED != 0,
                error: report.error,
            }
        };
        Some(DriverRow {
            name: record.name.clone(),
            id: part.domain().raw(),
            state: state(control, &record),
            restarts: record.restarts.borrow().count(Instant::now().as_nanos()),
            devices: part.functions.borrow().iter().map(device).collect(),
        })
    };
    Drivers {
        dma_confined: is_dma_confined(&machine),
        interrupts_confined: are_interrupts_confined(&machine),
        drivers: control.guests.drivers().into_iter().filter_map(row).collect(),
    }
}

/// The machine's devices as the operator sees them.
pub(crate) fn function_rows(control: &Control) -> Vec<FunctionRow> {
    let drivers = control.guests.drivers();
    let owner = |function: &functions::Function| {
        let has = |record: &&Rc<Record>| {
            let part = record.driver.as_ref();
            let is_its = part.is_some_and(|part| part.functions.borrow().contains(function));
            record.id().is_some() && is_its
        };
        drivers.iter().find(has).map(|record| record.name.clone())
    };
    let row = |function: &functions::Function| FunctionRow {
        address: format!("{}", function.address),
        class: function.class_name(),
        id: format!("{:04x}:{:04x}", function.id.0, function.id.1),
        interrupt: format!("{}", function.interrupt),
        owner: owner(function),
    };
    control.functions().iter().map(row).collect()
}

/// Why a driver cannot serve, if it says so.
pub(crate) fn failure(control: &Control, record: &Record) -> Option<String> {
    let id = record.id()?;
    match control.store.act(control, |store| served::readiness(store, id)) {
        Readiness::Failed(why) => Some(why),
        Readiness::Starting | Readiness::Ready => None,
    }
}

/// Waits until a driver is ready or will not be soon, or the `deadline` has come. One that was started long ago is not waited for.
pub(crate) async fn await_settled(control: &Control, record: &Record, deadline: Instant) {
    let Some(part) = &record.driver else { return };
    let is_settled = || match state(control, record) {
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
