//! A box whose allocation may fail.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

/// A value on the hypervisor's heap, of which there may not be enough.
#[derive(Clone, Debug)]
pub struct TryBox<T>(Box<[T; 1]>);

impl<T> TryBox<T> {
    /// Moves `value` to the heap, or drops it and returns `None` if there is no room.
    #[must_use]
    pub fn new(value: T) -> Option<Self> {
        let mut one = Vec::new();
        one.try_reserve_exact(1).ok()?;
        one.push(value);
        // The vector has just the capacity that it needs, so this moves nothing.
        one.into_boxed_slice().try_into().ok().map(Self)
    }
}

impl<T> Deref for TryBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        let [value] = &*self.0;
        value
    }
}

impl<T> DerefMut for TryBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        let [value] = &mut *self.0;
        value
    }
}
