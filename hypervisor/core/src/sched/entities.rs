//! The table of a queue: its vCPUs, found by slot or by id.

use alloc::vec::Vec;

use super::entity::Entity;
use super::heap::Slot;

/// The vCPUs of a queue.
///
/// A vCPU keeps its slot while it is in the queue. Finding a slot by id is a binary search; adding and removing a vCPU also
/// moves part of the list of ids, a few words for each vCPU.
#[derive(Debug)]
pub(super) struct Entities<Id> {
    slots: Vec<Option<Entity<Id>>>,
    /// Slots without a vCPU.
    free: Vec<Slot>,
    /// Sorted by id.
    by_id: Vec<(Id, Slot)>,
}

impl<Id: Copy + Ord> Entities<Id> {
    pub(super) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_id: Vec::new(),
        }
    }

    /// The slot of `id`.
    pub(super) fn find(&self, id: Id) -> Option<Slot> {
        let at = self.by_id.binary_search_by_key(&id, |&(id, _)| id).ok()?;
        self.by_id.get(at).map(|&(_, slot)| slot)
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Entity<Id>> {
        self.slots.get(slot.index())?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Entity<Id>> {
        self.slots.get_mut(slot.index())?.as_mut()
    }

    /// How many slots there must be room for if one more vCPU is added; `None` if slots cannot be numbered so far.
    pub(super) fn slots_with_one_more(&self) -> Option<usize> {
        let slots = self.slots.len().checked_add(usize::from(self.free.is_empty()))?;
        u32::try_from(slots).is_ok().then_some(slots)
    }

    /// Adds a vCPU whose id is not there yet; `None` if memory is short.
    pub(super) fn add(&mut self, entity: Entity<Id>) -> Option<Slot> {
        let id = entity.id;
        let at = self.by_id.binary_search_by_key(&id, |&(id, _)| id).err()?;
        if self.free.is_empty() {
            let new = Slot(u32::try_from(self.slots.len()).ok()?);
            self.slots.try_reserve(1).ok()?;
            self.by_id.try_reserve(1).ok()?;
            // One for every slot, so that a removal never allocates.
            self.free.try_reserve(self.slots.len().checked_add(1)?).ok()?;
            self.slots.push(None);
            self.free.push(new);
        }
        let slot = self.free.pop()?;
        *self.slots.get_mut(slot.index())? = Some(entity);
        self.by_id.insert(at, (id, slot));
        Some(slot)
    }

    /// Makes slots, so that there are at least `slots`; `None` if memory is short.
    pub(super) fn reserve(&mut self, slots: usize) -> Option<()> {
        let more = slots.saturating_sub(self.slots.len());
        self.slots.try_reserve(more).ok()?;
        self.by_id
            .try_reserve(slots.saturating_sub(self.by_id.len()))
            .ok()?;
        self.free
            .try_reserve(slots.saturating_sub(self.free.len()))
            .ok()?;
        for _ in 0..more {
            let new = Slot(u32::try_from(self.slots.len()).ok()?);
            self.slots.push(None);
            self.free.push(new);
        }
        Some(())
    }

    /// Takes out the vCPU in `slot`.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<Entity<Id>> {
        let entity = self.slots.get_mut(slot.index())?.take()?;
        if let Ok(at) = self.by_id.binary_search_by_key(&entity.id, |&(id, _)| id) {
            self.by_id.remove(at);
        }
        self.free.push(slot);
        Some(entity)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Entity<Id>)> + '_ {
        self.by_id
            .iter()
            .filter_map(|&(_, slot)| Some((slot, self.get(slot)?)))
    }

    /// Checks that ids are sorted and name their slots, and that every other slot is free.
    ///
    /// # Panics
    ///
    /// If it is not so.
    pub(super) fn invariants(&self) {
        assert!(self.by_id.is_sorted_by(|(a, _), (b, _)| a < b), "ids are sorted");
        assert!(
            self.by_id
                .iter()
                .all(|&(id, slot)| self.get(slot).is_some_and(|entity| entity.id == id))
        );
        assert_eq!(self.by_id.len().saturating_add(self.free.len()), self.slots.len());
        assert!(self.free.iter().all(|&slot| self.get(slot).is_none()));
        assert!(
            self.free.capacity() >= self.slots.len(),
            "a removal could allocate"
        );
    }
}
