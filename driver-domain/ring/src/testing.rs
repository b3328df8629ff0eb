//! Pages for tests, and ends that die.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "whoever leaves the page fails the test"
)]

extern crate std;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::vec::Vec;

use crate::SharedPage;

/// A page in private memory; clones are the same page.
#[derive(Clone, Debug)]
pub struct Page(Rc<RefCell<Vec<u8>>>);

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

impl Page {
    /// A page of zeros.
    #[must_use]
    pub fn new() -> Self {
        Self(Rc::new(RefCell::new(std::vec![0; 4096])))
    }
}

/// Panics if a range leaves the page.
impl SharedPage for Page {
    fn load(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.0.borrow()[offset..offset + 4].try_into().unwrap())
    }

    fn store(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.0.borrow()[offset..offset + to.len()]);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        self.0.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
    }
}

/// How much longer a back-end lives.
#[derive(Clone, Debug)]
pub struct Life(Rc<Cell<u64>>);

impl Life {
    /// One of so many steps; clones are the same one.
    #[must_use]
    pub fn of(steps: u64) -> Self {
        Self(Rc::new(Cell::new(steps)))
    }

    /// Takes a step. Whether it can.
    pub fn step(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }

    /// Whether there are no steps left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.get() == 0
    }
}

/// A page that a back-end has; nothing arrives there when its life is over.
#[derive(Clone, Debug)]
pub struct MortalPage(pub Page, pub Life);

impl SharedPage for MortalPage {
    fn load(&self, offset: usize) -> u32 {
        self.0.load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        if self.1.step() {
            self.0.store(offset, value);
        }
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        self.0.read(offset, to);
    }

    /// A copy can end in the middle.
    fn write(&self, offset: usize, from: &[u8]) {
        for (at, part) in (0..).step_by(4).zip(from.chunks(4)) {
            if self.1.step() {
                self.0.write(offset + at, part);
            }
        }
    }
}
