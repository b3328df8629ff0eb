//! What a domain is still to be told.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bulkhead_abi::DomId;
use bulkhead_bus::wire::Path;

use crate::watches::Watch;

/// Something changed where a domain watches.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) watch: Arc<Watch>,
    /// What changed.
    path: Arc<str>,
}

impl Pending {
    /// The path as the watcher, this domain, wants it.
    pub(crate) fn path(&self, domain: DomId) -> String {
        let home = Path::home(domain);
        let relative = self
            .path
            .strip_prefix(home.as_str())
            .and_then(|rest| rest.strip_prefix('/'));
        String::from(relative.filter(|_| self.watch.is_relative).unwrap_or(&self.path))
    }
}

/// A queue of events in which none waits twice.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// By their turn.
    order: BTreeMap<u64, Pending>,
    /// By the number of the watch, and by path.
    turns: BTreeMap<(u64, Arc<str>), u64>,
    next: u64,
    /// Of all paths.
    bytes: usize,
}

impl Events {
    /// Adds an event, unless an equal one waits. If there are then more than `most`, or more than `most_bytes` of paths,
    /// those of the same watch become one, for the watched place itself. So at most `most` and one for each watch wait.
    pub(crate) fn push(&mut self, watch: &Arc<Watch>, path: &Arc<str>, most: usize, most_bytes: usize) {
        let bytes = self.bytes.saturating_add(path.len());
        if self.order.len() < most && bytes <= most_bytes {
            self.insert(watch, path);
        } else if !self.turns.contains_key(&(watch.id, watch.place.clone())) {
            self.forget(watch);
            self.insert(watch, &watch.place);
        }
        // Else one waits that stands for this one too. It keeps its turn, or changes without end would keep it from
        // ever having one.
    }

    fn insert(&mut self, watch: &Arc<Watch>, path: &Arc<str>) {
        if let Entry::Vacant(turn) = self.turns.entry((watch.id, path.clone())) {
            turn.insert(self.next);
            let event = Pending {
                watch: watch.clone(),
                path: path.clone(),
            };
            self.order.insert(self.next, event);
            self.next = self.next.wrapping_add(1);
            self.bytes = self.bytes.saturating_add(path.len());
        }
    }

    /// Drops the events of a watch.
    pub(crate) fn forget(&mut self, watch: &Watch) {
        let of_watch = (watch.id, Arc::from(""))..(watch.id.saturating_add(1), Arc::from(""));
        let turns: Vec<u64> = self.turns.range(of_watch).map(|(_, turn)| *turn).collect();
        for turn in turns {
            self.remove(turn);
        }
    }

    /// The event that waits longest.
    pub(crate) fn pop(&mut self) -> Option<Pending> {
        let turn = *self.order.first_key_value()?.0;
        self.remove(turn)
    }

    fn remove(&mut self, turn: u64) -> Option<Pending> {
        let event = self.order.remove(&turn)?;
        self.turns.remove(&(event.watch.id, event.path.clone()));
        self.bytes = self.bytes.saturating_sub(event.path.len());
        Some(event)
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Drops all.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many wait, which is the same by both indices.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn count(&self) -> usize {
        assert_eq!(
            self.order.len(),
            self.turns.len(),
            "two indices of the same events"
        );
        let bytes: usize = self.order.values().map(|event| event.path.len()).sum();
        assert_eq!(self.bytes, bytes, "bytes are counted");
        self.order.len()
    }
}
