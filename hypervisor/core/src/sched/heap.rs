//! A binary heap from which any member can be taken: [`IndexedHeap`].
//!
//! Members are slots of the queue's table. The heap remembers where each stands, so that a vCPU that blocks is taken out
//! in logarithmic time. It allocates in [`IndexedHeap::reserve`] only.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

/// A place in a queue's table of vCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) u32);

impl Slot {
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Slots in the order of their keys, the least first.
#[derive(Debug)]
pub(super) struct IndexedHeap<K> {
    /// No element is less than its parent, which is at half its position.
    items: Vec<(K, Slot)>,
    /// For each slot its position in `items`.
    positions: Vec<Option<usize>>,
}

impl<K: Copy + Ord> IndexedHeap<K> {
    pub(super) const fn new() -> Self {
        Self {
            items: Vec::new(),
            positions: Vec::new(),
        }
    }

    /// Makes room for slots below `slots`.
    pub(super) fn reserve(&mut self, slots: usize) -> Result<(), TryReserveError> {
        self.items
            .try_reserve_exact(slots.saturating_sub(self.items.len()))?;
        if let Some(more) = slots.checked_sub(self.positions.len()) {
            self.positions.try_reserve(more)?;
            self.positions.resize(slots, None);
        }
        Ok(())
    }

    /// Adds `slot`, for which room was reserved, and which is not a member.
    pub(super) fn push(&mut self, slot: Slot, key: K) {
        let position = self.items.len();
        self.items.push((key, slot));
        self.note(position);
        self.sift_up(position);
    }

    /// Takes `slot` out, and says whether it was a member.
    pub(super) fn remove(&mut self, slot: Slot) -> bool {
        let Some(position) = self.positions.get_mut(slot.index()).and_then(Option::take) else {
            return false;
        };
        self.items.swap_remove(position);
        if position < self.items.len() {
            // The last member took its place, and may belong on either side of it.
            self.note(position);
            self.sift_up(position);
            self.sift_down(position);
        }
        true
    }

    /// The member with the least key.
    pub(super) fn first(&self) -> Option<(K, Slot)> {
        self.items.first().copied()
    }

    /// All members: the least first, the others such that small keys tend to come early.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, Slot)> + '_ {
        self.items.iter().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn sift_up(&mut self, mut position: usize) {
        while let Some(parent) = position.checked_sub(1).map(|above| above / 2) {
            if !self.is_less(position, parent) {
                break;
            }
            self.swap(position, parent);
            position = parent;
        }
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let left = position.saturating_mul(2).saturating_add(1);
            let right = left.saturating_add(1);
            let child = if self.is_less(right, left) { right } else { left };
            if !self.is_less(child, position) {
                break;
            }
            self.swap(position, child);
            position = child;
        }
    }

    /// Whether the key at position `a` is less than that at `b`; not if there is nothing at `a`.
    fn is_less(&self, a: usize, b: usize) -> bool {
        match (self.items.get(a), self.items.get(b)) {
            (Some(a), Some(b)) => a < b,
            (None, _) | (_, None) => false,
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.items.swap(a, b);
        self.note(a);
        self.note(b);
    }

    /// Writes down that the member at `position` stands there.
    fn note(&mut self, position: usize) {
        if let Some(&(_, slot)) = self.items.get(position)
            && let Some(place) = self.positions.get_mut(slot.index())
        {
            *place = Some(position);
        }
    }

    /// Checks the order and the positions.
    ///
    /// # Panics
    ///
    /// If either is wrong.
    pub(super) fn invariants(&self) {
        for (position, &(_, slot)) in self.items.iter().enumerate() {
            assert!(
                !position
                    .checked_sub(1)
                    .is_some_and(|above| self.is_less(position, above / 2))
            );
            assert_eq!(self.positions.get(slot.index()), Some(&Some(position)));
        }
        assert_eq!(self.positions.iter().flatten().count(), self.items.len());
        assert!(
            self.items.capacity() >= self.positions.len(),
            "a push could allocate"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_out_in_order_whatever_was_taken_out_of_the_middle() {
        let mut heap = IndexedHeap::new();
        heap.reserve(200).unwrap();
        for slot in 0..200 {
            heap.push(Slot(slot), slot * 7919 % 211);
            heap.invariants();
        }
        for slot in (0..200).step_by(3) {
            assert!(heap.remove(Slot(slot)) && !heap.remove(Slot(slot)));
            heap.invariants();
        }
        let mut last = 0;
        while let Some((key, slot)) = heap.first() {
            assert!(key >= last && slot.0 % 3 != 0);
            last = key;
            heap.remove(slot);
        }
    }

    #[test]
    fn a_slot_beyond_the_room_is_no_member() {
        let mut heap = IndexedHeap::<u32>::new();
        assert!(!heap.remove(Slot(5)) && heap.is_empty());
    }
}
