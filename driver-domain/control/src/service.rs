//! xenstore, for guests over their rings and for the control domain itself.

use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    rc::Rc,
    string::String,
    vec::Vec,
};
use core::{
    cell::{Cell, RefCell},
    time::Duration,
};

use bulkhead_abi::xenstore::{RingError, StoreError};
use bulkhead_builder::Built;
use bulkhead_control::{
    directory::{self, Facts},
    served,
};
use bulkhead_ring::IndexError;
use bulkhead_runtime::{DomId, random::Random, time::read_tsc};
use bulkhead_xenstore::{Path, Place, Store, Tx};
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, signal::Signal};

use crate::{
    Control, devices,
    guests::{Record, Resident},
    interfaces,
};

/// The most entries that one listing shows.
pub(crate) const MAX_LISTED: usize = 10_000;

/// How many changes wait for whoever watches.
const MAX_WAITING: usize = 256;

/// The service.
pub(crate) struct Service {
    store: RefCell<Store>,
    /// The control domain's own watches, by their tokens.
    watches: RefCell<BTreeMap<u64, Rc<Seen>>>,
    next_token: Cell<u64>,
    /// For numbers by which guests are known for ever.
    random: RefCell<Random>,
}

/// What a watch of the control domain's has seen.
struct Seen {
    paths: RefCell<VecDeque<String>>,
    /// How many changes there was no room for.
    left_out: Cell<u64>,
    has_more: Signal<NoopRawMutex, ()>,
}

impl Service {
    /// A store with nothing in it.
    pub(crate) fn new() -> Self {
        Self {
            store: RefCell::new(Store::new()),
            watches: RefCell::default(),
            next_token: Cell::new(0),
            random: RefCell::new(Random::new(read_tsc())),
        }
    }

    /// A number by which a new guest is known for ever.
    pub(crate) fn new_uuid(&self) -> u128 {
        let mut random = self.random.borrow_mut();
        let [high, low] = [random.next(), random.next()].map(u128::from);
        high << 64 | low
    }

    /// Writes what there is to be known of a new domain, which was asked for at `asked` of the wall clock, and connects it.
    pub(crate) fn introduce(
        &self,
        control: &Control,
        resident: &Resident,
        (record, asked): (&Record, Duration),
        built: &Built,
    ) -> Result<(), String> {
        let wanted = record.wanted.borrow();
        let facts = Facts {
            domain: resident.id,
            name: wanted.name.as_str(),
            uuid: record.uuid,
            asked,
            vcpus: wanted.vcpus.get(),
            memory: wanted.memory().bytes() >> 10,
            max_memory: wanted.max_memory().bytes() >> 10,
            store: (built.store_frame, built.store_port),
            console: (built.console_frame, built.console_port),
        };
        {
            let mut store = self.store.borrow_mut();
            directory::write(&mut store, &facts).map_err(|error| format!("{error}"))?;
            if record.driver.is_some() {
                store.set_service(resident.id);
                served::prepare(&mut store, resident.id).map_err(|error| format!("{error}"))?;
                interfaces::set_up(control, &mut store, record).map_err(|error| format!("{error}"))?;
                devices::offer_again(control, &mut store, resident.id);
            }
            store.introduce(resident.id).map_err(|error| format!("{error}"))?;
        }
        self.tell_others(control);
        Ok(())
    }

    /// Does something with the store, and has others told of it.
    pub(crate) fn act<T>(&self, control: &Control, act: impl FnOnce(&mut Store) -> T) -> T {
        let done = act(&mut self.store.borrow_mut());
        self.tell_others(control);
        done
    }

    /// Disconnects a domain that is gone, and removes what there was of it. What there was of a driver stays for its successor.
    pub(crate) fn forget(&self, control: &Control, domain: DomId, is_driver: bool) {
        {
            let mut store = self.store.borrow_mut();
            store.release(domain);
            if !is_driver && let Err(error) = directory::remove(&mut store, domain) {
                log::error!("xenstore keeps what it has of domain {}: {error}", domain.raw());
            }
        }
        self.tell_others(control);
    }

    /// Moves what a guest asks to the store, and answers to the guest, once. Returns how many bytes were moved.
    pub(crate) fn serve(&self, control: &Control, resident: &Resident) -> u64 {
        let moved = match self.exchange(resident) {
            Ok(moved) => moved,
            Err(_) => {
                Self::give_up(resident, RingError::RingIdx);
                0
            }
        };
        if self.store.borrow().broken(resident.id).is_some() {
            Self::give_up(resident, RingError::Proto);
        }
        self.tell_others(control);
        moved
    }

    fn exchange(&self, resident: &Resident) -> Result<u64, IndexError> {
        let mut rings = resident.store.borrow_mut();
        let Some(rings) = rings.as_mut() else { return Ok(0) };
        let mut store = self.store.borrow_mut();
        let mut bytes = [0; 1024];
        let room = rings.room()?.min(bytes.len());
        let answered = store.take_output(resident.id, bytes.get_mut(..room).unwrap_or_default());
        let mut moved = rings.send(bytes.get(..answered).unwrap_or_default())?;
        if store.wants_input(resident.id) {
            let asked = rings.receive(&mut bytes)?;
            store.feed(resident.id, bytes.get(..asked).unwrap_or_default());
            moved = moved.saturating_add(asked);
        }
        if moved != 0 {
            // There is nobody to be told that it failed.
            let _ = resident.store_port.notify();
        }
        Ok(moved as u64)
    }

    /// A guest that breaks the protocol is not listened to any more, and its page says why.
    fn give_up(resident: &Resident, why: RingError) {
        if let Some(rings) = resident.store.take() {
            rings.mark_broken(why);
            let _ = resident.store_port.notify();
            log::warn!("domain {} breaks xenstore's protocol: {why}", resident.id.raw());
        }
    }

    /// Has others told what was done: each by its own task, in its own turn.
    fn tell_others(&self, control: &Control) {
        loop {
            let next = self.store.borrow_mut().next_ready();
            let Some(domain) = next else { return };
            if domain == DomId::new(0) {
                self.note_events();
            } else if let Some((_, resident)) = control.guests.resident(domain) {
                resident.store_told.signal(());
            }
        }
    }

    /// Gives the control domain's own watches what they have seen.
    fn note_events(&self) {
        let watches = self.watches.borrow();
        while let Some(event) = self.store.borrow_mut().next_event() {
            let token = event.token.first_chunk().copied().map(u64::from_le_bytes);
            let Some(seen) = token.and_then(|token| watches.get(&token)) else {
                continue;
            };
            let mut paths = seen.paths.borrow_mut();
            if paths.len() < MAX_WAITING {
                paths.push_back(event.path);
            } else {
                seen.left_out.set(seen.left_out.get().saturating_add(1));
            }
            seen.has_more.signal(());
        }
    }

    /// The value at a path.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        let at = parsed(path)?;
        let value = self.store.borrow_mut().read(Tx::NONE, &at);
        value
            .map(|value| value.to_vec())
            .map_err(|error| refused(path, error))
    }

    /// Writes a value.
    pub(crate) fn write(&self, control: &Control, path: &str, value: &[u8]) -> Result<(), String> {
        let at = parsed(path)?;
        let written = self.store.borrow_mut().write(Tx::NONE, &at, value);
        self.tell_others(control);
        written.map_err(|error| refused(path, error))
    }

    /// Removes a path and all below it.
    pub(crate) fn remove(&self, control: &Control, path: &str) -> Result<(), String> {
        let at = parsed(path)?;
        let removed = self.store.borrow_mut().rm(Tx::NONE, &at);
        self.tell_others(control);
        removed.map_err(|error| refused(path, error))
    }

    /// The paths at and below a path, in order; the first so many, if there are more.
    pub(crate) fn paths(&self, path: &str) -> Result<Vec<Path>, String> {
        let first = parsed(path)?;
        let mut store = self.store.borrow_mut();
        store
            .read(Tx::NONE, &first)
            .map_err(|error| refused(path, error))?;
        let mut found = Vec::new();
        // What is still to be listed: the next last.
        let mut waiting = alloc::vec![first];
        while let Some(at) = waiting.pop()
            && found.len() < MAX_LISTED
        {
            let children = store.directory(Tx::NONE, &at).unwrap_or_default();
            let children = children.iter().rev().filter_map(|name| at.join(name).ok());
            waiting.extend(children);
            if !at.is_root() {
                found.push(at);
            }
        }
        Ok(found)
    }

    /// Watches a path, and all below it.
    pub(crate) fn watch<'a>(&'a self, control: &Control, path: &str) -> Result<Watch<'a>, String> {
        let place =
            Place::parse(path.as_bytes(), DomId::new(0)).map_err(|error| format!("{path}: {error}"))?;
        let token = self.next_token.get();
        self.next_token.set(token.wrapping_add(1));
        let seen = Rc::new(Seen {
            paths: RefCell::default(),
            left_out: Cell::new(0),
            has_more: Signal::new(),
        });
        self.watches.borrow_mut().insert(token, Rc::clone(&seen));
        let watched = self.store.borrow_mut().watch(place.clone(), &token.to_le_bytes());
        let watch = Watch {
            service: self,
            place,
            token,
            seen,
        };
        watched.map_err(|error| refused(path, error))?;
        self.tell_others(control);
        Ok(watch)
    }
}

/// A watch of the control domain's. It ends when it is dropped.
pub(crate) struct Watch<'a> {
    service: &'a Service,
    place: Place,
    token: u64,
    seen: Rc<Seen>,
}

impl Watch<'_> {
    /// Waits for the next change, and returns how many were left out lately, and what has changed.
    pub(crate) async fn next(&self) -> (u64, String) {
        loop {
            if let Some(path) = self.seen.paths.borrow_mut().pop_front() {
                return (self.seen.left_out.take(), path);
            }
            self.seen.has_more.wait().await;
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.service.watches.borrow_mut().remove(&self.token);
        // It may not have been set.
        let _ = self
            .service
            .store
            .borrow_mut()
            .unwatch(&self.place, &self.token.to_le_bytes());
    }
}

fn parsed(path: &str) -> Result<Path, String> {
    Path::parse(path.as_bytes(), DomId::new(0)).map_err(|error| format!("{path}: {error}"))
}

fn refused(path: &str, error: StoreError) -> String {
    if error == StoreError::NoEnt {
        format!("there is no {path} in xenstore")
    } else {
        format!("{path}: xenstore answers {error}")
    }
}
