//! Which handler a port has.
//!
//! A handler runs outside the table's lock, so it may bind and close ports, its own included. While it runs
//! its place holds [`Slot::Running`]; it goes back only if that is still there. If the port was closed
//! meanwhile, and perhaps bound again with another handler, the old handler is dropped.

use alloc::{boxed::Box, vec::Vec};

/// What a port does when it fires.
pub(super) type Handler = Box<dyn FnMut() + Send>;

/// A port's place in the table.
enum Slot {
    /// Nobody's port.
    Vacant,
    /// Waiting to fire.
    Idle(Handler),
    /// Its handler is at work.
    Running,
}

/// Handlers by port number.
pub(super) struct HandlerTable {
    slots: Vec<Slot>,
}

impl HandlerTable {
    pub(super) const fn new() -> Self {
        Self { slots: Vec::new() }
    }

    /// Gives `port` its handler.
    pub(super) fn insert(&mut self, port: usize, handler: Handler) {
        if self.slots.len() <= port {
            self.slots.resize_with(port.saturating_add(1), || Slot::Vacant);
        }
        self.replace(port, Slot::Idle(handler));
    }

    /// Takes the handler of `port` away. What is returned should be dropped outside the lock.
    pub(super) fn remove(&mut self, port: usize) -> Option<Handler> {
        self.replace(port, Slot::Vacant)
    }

    /// Takes the handler of `port` out to run it.
    pub(super) fn start(&mut self, port: usize) -> Option<Handler> {
        match self.slots.get_mut(port)? {
            slot @ Slot::Idle(_) => match core::mem::replace(slot, Slot::Running) {
                Slot::Idle(handler) => Some(handler),
                Slot::Vacant | Slot::Running => None,
            },
            Slot::Vacant | Slot::Running => None,
        }
    }

    /// Puts a handler back that ran, or returns it to be dropped if its port is no longer its own.
    pub(super) fn finish(&mut self, port: usize, handler: Handler) -> Option<Handler> {
        match self.slots.get(port) {
            Some(Slot::Running) => self.replace(port, Slot::Idle(handler)),
            Some(Slot::Vacant | Slot::Idle(_)) | None => Some(handler),
        }
    }

    fn replace(&mut self, port: usize, slot: Slot) -> Option<Handler> {
        match core::mem::replace(self.slots.get_mut(port)?, slot) {
            Slot::Idle(handler) => Some(handler),
            Slot::Vacant | Slot::Running => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    /// A handler that adds `amount` to `counter`.
    fn adder(counter: &Arc<AtomicU32>, amount: u32) -> Handler {
        let counter = Arc::clone(counter);
        Box::new(move || {
            counter.fetch_add(amount, Ordering::Relaxed);
        })
    }

    #[test]
    fn a_handler_stays_with_its_port() {
        let (mut table, counter) = (HandlerTable::new(), Arc::new(AtomicU32::new(0)));
        table.insert(7, adder(&counter, 1));
        for _ in 0..3 {
            let mut handler = table.start(7).unwrap();
            handler();
            assert!(table.finish(7, handler).is_none());
        }
        assert_eq!(counter.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_handler_that_closed_its_port_is_given_back() {
        let (mut table, counter) = (HandlerTable::new(), Arc::new(AtomicU32::new(0)));
        table.insert(1, adder(&counter, 1));
        let handler = table.start(1).unwrap();
        assert!(table.remove(1).is_none());
        assert!(table.finish(1, handler).is_some());
        assert!(table.start(1).is_none());
    }

    #[test]
    fn a_port_bound_again_keeps_its_new_handler() {
        let (mut table, counter) = (HandlerTable::new(), Arc::new(AtomicU32::new(0)));
        table.insert(1, adder(&counter, 1));
        let old = table.start(1).unwrap();
        assert!(table.remove(1).is_none());
        table.insert(1, adder(&counter, 100));
        assert!(table.finish(1, old).is_some());
        table.start(1).unwrap()();
        assert_eq!(counter.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn a_handler_does_not_run_inside_itself() {
        let (mut table, counter) = (HandlerTable::new(), Arc::new(AtomicU32::new(0)));
        table.insert(1, adder(&counter, 1));
        assert!(table.start(1).is_some());
        assert!(table.start(1).is_none());
    }

    #[test]
    fn an_unknown_port_has_no_handler() {
        let mut table = HandlerTable::new();
        assert!(table.start(4095).is_none());
        assert!(table.remove(4095).is_none());
    }
}
