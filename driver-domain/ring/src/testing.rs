//! A page for tests.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "whoever leaves the page fails the test"
)]

extern crate std;

use std::cell::RefCell;
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
