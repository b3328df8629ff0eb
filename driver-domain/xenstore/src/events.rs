//! What a domain is still to be told.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

/// Something changed where a domain watches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pending {
    /// What is watched.
    pub(crate) place: Arc<str>,
    /// The watch's token.
    pub(crate) token: Arc<[u8]>,
    /// What changed.
    pub(crate) path: Arc<str>,
    /// Whether the domain wants its path relative.
    pub(crate) is_relative: bool,
}

/// A queue of events in which none waits twice.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// By their turn.
    order: BTreeMap<u64, Pending>,
    turns: BTreeMap<Pending, u64>,
    next: u64,
    /// Of all paths.
    bytes: usize,
}

impl Events {
    /// Adds an event, unless an equal one waits. If there are then more than `most`, or more than `most_bytes` of paths,
    /// those of the same watch become one, for the watched place itself. So at most `most` and one for each watch wait.
    pub(crate) fn push(&mut self, event: Pending, most: usize, most_bytes: usize) {
        if self.turns.contains_key(&event) {
            return;
        }
        let bytes = self.bytes.saturating_add(event.path.len());
        if self.order.len() < most && bytes <= most_bytes {
            self.insert(event);
            return;
        }
        let all = Pending {
            path: event.place.clone(),
            ..event
        };
        // One that waits already keeps its turn, or changes without end would keep it from ever having one.
        if !self.turns.contains_key(&all) {
            self.forget(&all.place, &all.token);
            self.insert(all);
        }
    }

    fn insert(&mut self, event: Pending) {
        self.bytes = self.bytes.saturating_add(event.path.len());
        self.turns.insert(event.clone(), self.next);
        self.order.insert(self.next, event);
        self.next = self.next.wrapping_add(1);
    }

    /// Drops the events of a watch.
    pub(crate) fn forget(&mut self, place: &Arc<str>, token: &Arc<[u8]>) {
        let first = Pending {
            place: place.clone(),
            token: token.clone(),
            path: Arc::from(""),
            is_relative: false,
        };
        let of_watch = self
            .turns
            .range(first..)
            .take_while(|(event, _)| event.place == *place && event.token == *token);
        let turns: alloc::vec::Vec<u64> = of_watch.map(|(_, turn)| *turn).collect();
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
        self.turns.remove(&event);
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
        let bytes: usize = self.turns.keys().map(|event| event.path.len()).sum();
        assert_eq!(self.bytes, bytes, "bytes are counted");
        self.order.len()
    }
}
