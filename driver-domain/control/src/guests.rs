//! The guests: what the operator wants of each, and the domain that it is at present.

use alloc::{collections::BTreeMap, rc::Rc, string::String, vec::Vec};
use core::cell::{Cell, RefCell};

use bulkhead_config::{Action, Driver, Guest, MAX_DRIVERS, PciAddress};
use bulkhead_control::{functions::Function, log::Log, restarts::Restarts, vbds::Vbd};
use bulkhead_runtime::{DomId, ShutdownReason, event::Port, time::Instant};
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, signal::Signal};

use crate::{
    changes::Changes,
    rings::{Rings, Typed},
};

/// How many guests are remembered that have no domain any more, with what they printed.
const REMEMBERED: usize = 64;

/// A guest's domain, as long as it exists.
pub(crate) struct Resident {
    /// Its number.
    pub(crate) id: DomId,
    /// When it was started.
    pub(crate) started: Instant,
    /// `None` when it is being taken down: nothing of it may be mapped then.
    pub(crate) console: RefCell<Option<Rings>>,
    /// Tells of its console.
    pub(crate) console_port: Port,
    /// What waits for room in its console.
    pub(crate) typed: RefCell<Typed>,
    /// Its connection to xenstore, likewise.
    pub(crate) store: RefCell<Option<Rings>>,
    /// Tells of that.
    pub(crate) store_port: Port,
    /// There may be something for it that is none of its own doing.
    pub(crate) store_told: Signal<NoopRawMutex, ()>,
    /// The task of its console is to end.
    pub(crate) console_ends: Signal<NoopRawMutex, ()>,
    /// The task of its connection to xenstore is to end.
    pub(crate) store_ends: Signal<NoopRawMutex, ()>,
    /// Its end has been seen to.
    pub(crate) has_ended: Cell<bool>,
}

impl Resident {
    /// Lets go of all that is mapped of it, and has its tasks end.
    pub(crate) fn let_go(&self) {
        self.console.take();
        self.store.take();
        self.console_ends.signal(());
        self.store_ends.signal(());
    }
}

/// What a guest is doing, beside what its domain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing: it has no domain.
    Idle,
    /// Its domain is being made.
    Making,
    /// It has one.
    Resident,
    /// It has ended, and will be made again after a pause.
    Pausing,
    /// It ended too often, and is not made again unless the operator says so.
    Held,
}

/// What a guest's domain was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// How it is to end.
    pub(crate) how: ShutdownReason,
    /// What is to be done then, if not what the configuration says.
    pub(crate) then: Option<Action>,
}

/// What a driver has beside what every guest has. It stays when its domain goes.
pub(crate) struct DriverPart {
    /// Which of the drivers it is, from 0.
    place: u16,
    /// What the operator wants.
    pub(crate) wanted: RefCell<Driver>,
    /// What it owns.
    pub(crate) functions: RefCell<Vec<Function>>,
    /// Those of them that its domain was given, and whether they were reset then.
    pub(crate) resets: RefCell<Vec<(PciAddress, bool)>>,
    /// Its program, unpacked, and the name of its file.
    pub(crate) image: RefCell<Option<(String, Rc<Vec<u8>>)>>,
    /// The memory that is kept for it, as a power of two of frames.
    pub(crate) kept: Cell<Option<u32>>,
    /// Pages that are lent to it.
    pub(crate) state: RefCell<Vec<bulkhead_runtime::grant::Grant>>,
}

/// The number of the first driver's domain. Other domains have the lowest that are free, and never come so far.
const FIRST_DRIVER: u16 = 1000;

impl DriverPart {
    /// The number of its domain: the same each time that it is made, so that what guests gave it stays valid.
    pub(crate) const fn domain(&self) -> DomId {
        DomId::new(FIRST_DRIVER.saturating_add(self.place))
    }

    /// Its program, if it was unpacked of this file.
    pub(crate) fn image_of(&self, file: &str) -> Option<Rc<Vec<u8>>> {
        let image = self.image.borrow();
        let (_, image) = image.as_ref().filter(|(name, _)| name == file)?;
        Some(Rc::clone(image))
    }

    /// The number of the memory that is kept for it.
    pub(crate) fn extent(&self) -> u32 {
        u32::from(self.place).saturating_add(1)
    }
}

/// A guest, or a driver.
pub(crate) struct Record {
    /// Its name.
    pub(crate) name: String,
    /// What makes a driver of it.
    pub(crate) driver: Option<DriverPart>,
    /// What the operator wants.
    pub(crate) wanted: RefCell<Guest>,
    /// What it is doing.
    pub(crate) phase: Cell<Phase>,
    /// Its domain.
    pub(crate) resident: RefCell<Option<Rc<Resident>>>,
    /// What it has printed.
    pub(crate) log: RefCell<Log>,
    /// How often it was started again lately.
    pub(crate) restarts: RefCell<Restarts>,
    /// What its domain was asked for last.
    pub(crate) asked: Cell<Option<Asked>>,
    /// The number by which the machine knows it, for ever.
    pub(crate) uuid: u128,
    /// See [`Record::used`].
    used: Cell<u64>,
    /// What its balloon was asked for, in bytes.
    pub(crate) target: Cell<Option<u64>>,
    /// The disks of its domain, or of the one that is being made.
    pub(crate) vbds: RefCell<Vec<Vbd>>,
    /// Its interfaces.
    pub(crate) vifs: RefCell<Vec<bulkhead_control::networks::Vif>>,
}

impl Record {
    /// A guest without a domain.
    fn new(wanted: Guest, uuid: u128, driver: Option<DriverPart>) -> Self {
        Self {
            driver,
            name: wanted.name.as_str().into(),
            wanted: RefCell::new(wanted),
            phase: Cell::new(Phase::Idle),
            resident: RefCell::new(None),
            log: RefCell::new(Log::default()),
            restarts: RefCell::new(Restarts::default()),
            asked: Cell::new(None),
            uuid,
            used: Cell::new(0),
            target: Cell::new(None),
            vbds: RefCell::default(),
            vifs: RefCell::default(),
        }
    }

    /// When it was last made: each time has a higher number.
    pub(crate) fn used(&self) -> u64 {
        self.used.get()
    }

    /// The number of its domain.
    pub(crate) fn id(&self) -> Option<DomId> {
        self.resident.borrow().as_ref().map(|resident| resident.id)
    }
}

/// All guests, by their names.
#[derive(Default)]
pub(crate) struct Guests {
    records: RefCell<BTreeMap<String, Rc<Record>>>,
    /// How often a guest was made.
    uses: Cell<u64>,
    /// Told whenever a guest's phase changes.
    pub(crate) changes: Changes,
}

impl Guests {
    /// The guest called `name`.
    pub(crate) fn named(&self, name: &str) -> Option<Rc<Record>> {
        self.records.borrow().get(name).cloned()
    }

    /// The guest whose domain has the number `id`, with that domain.
    pub(crate) fn resident(&self, id: DomId) -> Option<(Rc<Record>, Rc<Resident>)> {
        let records = self.records.borrow();
        records.values().find_map(|record| {
            let resident = record.resident.borrow().clone()?;
            (resident.id == id).then(|| (Rc::clone(record), resident))
        })
    }

    /// Whether the guest called `name` is being made.
    pub(crate) fn is_made(&self, name: &str) -> bool {
        self.named(name)
            .is_some_and(|record| record.phase.get() == Phase::Making)
    }

    /// All guests that have domains, with those.
    pub(crate) fn residents(&self) -> Vec<(Rc<Record>, Rc<Resident>)> {
        let records = self.records.borrow();
        let with_domain = records
            .values()
            .filter_map(|record| Some((Rc::clone(record), record.resident.borrow().clone()?)));
        with_domain.collect()
    }

    /// All guests.
    pub(crate) fn all(&self) -> Vec<Rc<Record>> {
        self.records.borrow().values().cloned().collect()
    }

    /// The record of the guest that `wanted` describes, which has no domain: the one that there is, or a new one with the number `uuid`. With
    /// what was wanted of it before.
    pub(crate) fn enter(&self, wanted: Guest, uuid: u128) -> (Rc<Record>, Guest) {
        let mut records = self.records.borrow_mut();
        self.uses.set(self.uses.get().wrapping_add(1));
        if let Some(known) = records.get(wanted.name.as_str()) {
            known.used.set(self.uses.get());
            let before = known.wanted.replace(wanted);
            return (Rc::clone(known), before);
        }
        let idle = || {
            records
                .values()
                .filter(|record| record.phase.get() == Phase::Idle && record.driver.is_none())
        };
        if idle().count() >= REMEMBERED
            && let Some(oldest) = idle()
                .min_by_key(|record| record.used.get())
                .map(|record| record.name.clone())
        {
            records.remove(&oldest);
        }
        let before = wanted.clone();
        let record = Rc::new(Record::new(wanted, uuid, None));
        record.used.set(self.uses.get());
        records.insert(record.name.clone(), Rc::clone(&record));
        (record, before)
    }

    /// All drivers, in the order of their numbers.
    pub(crate) fn drivers(&self) -> Vec<Rc<Record>> {
        let mut drivers = self.all();
        drivers.retain(|record| record.driver.is_some());
        drivers.sort_by_key(|record| record.driver.as_ref().map(|driver| driver.place));
        drivers
    }

    /// The record of a driver, whose domain is to be as `guest`: the one that there is, or a new one with the number `uuid`. `None` if there
    /// are as many as there can be.
    pub(crate) fn enter_driver(&self, wanted: &Driver, guest: Guest, uuid: u128) -> Option<Rc<Record>> {
        let name = wanted.name.as_str();
        if let Some(known) = self.named(name)
            && let Some(driver) = &known.driver
        {
            *driver.wanted.borrow_mut() = wanted.clone();
            *known.wanted.borrow_mut() = guest;
            return Some(known);
        }
        let drivers = self.drivers();
        let is_free = |place: &u16| {
            let mut parts = drivers.iter().filter_map(|record| record.driver.as_ref());
            parts.all(|driver| driver.place != *place)
        };
        let places = u16::try_from(MAX_DRIVERS).unwrap_or(u16::MAX);
        let part = DriverPart {
            place: (0..places).find(is_free)?,
            wanted: RefCell::new(wanted.clone()),
            functions: RefCell::default(),
            resets: RefCell::default(),
            image: RefCell::default(),
            kept: Cell::new(None),
            state: RefCell::default(),
        };
        let record = Rc::new(Record::new(guest, uuid, Some(part)));
        self.records.borrow_mut().insert(name.into(), Rc::clone(&record));
        Some(record)
    }

    /// Forgets a driver that has no domain.
    pub(crate) fn forget(&self, driver: &Record) {
        self.records.borrow_mut().remove(&driver.name);
    }

    /// Notes what a guest is doing now.
    pub(crate) fn set_phase(&self, record: &Record, phase: Phase) {
        record.phase.set(phase);
        self.changes.tell();
    }
}
