//! A domain in private memory, and its store, for tests.
#![expect(clippy::unwrap_used, reason = "a test that goes wrong fails")]

extern crate std;

mod store;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

use bulkhead_ring::SharedPage;
use bulkhead_ring::testing;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embassy_sync::signal::Signal;

use crate::domain::{Access, Domain, Flips, Port, Withdrawn};

pub use bulkhead_ring::testing::Page;
pub use store::{GUEST, Machine, run, together};

/// A domain with a grant table and one port. Clones are the same domain.
#[derive(Clone, Debug, Default)]
pub struct Memory(Rc<RefCell<Table>>);

#[derive(Debug, Default)]
struct Table {
    grants: BTreeMap<u32, Entry>,
    last: u32,
    /// How many more pages and grants there are; `None` if they never end.
    pages_left: Option<u32>,
    grants_left: Option<u32>,
    /// By the numbers that grants have, too.
    offers: BTreeMap<u32, Offered>,
    ports: Vec<Bell>,
}

/// A page that the back-end may have.
#[derive(Debug)]
struct Offered {
    page: testing::Page,
    is_exchanged: bool,
    /// An exchange does not come to its end.
    is_stuck: bool,
}

impl Table {
    /// A number that nothing has, if there may be one more.
    fn number(&mut self) -> Option<u32> {
        take_one(&mut self.grants_left)?;
        self.last = self.last.wrapping_add(1);
        Some(self.last)
    }

    /// There may be one more again.
    fn give_back(&mut self) {
        if let Some(left) = &mut self.grants_left {
            *left = left.saturating_add(1);
        }
    }
}

#[derive(Debug)]
struct Entry {
    page: testing::Page,
    access: Access,
    in_use: bool,
}

impl Memory {
    /// A domain with nothing granted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The page of a grant, as the back-end sees it, if it may use it so.
    #[must_use]
    pub fn page_for(&self, reference: u32, access: Access) -> Option<testing::Page> {
        let table = self.0.borrow();
        let entry = table.grants.get(&reference)?;
        (access == Access::ReadOnly || entry.access == Access::ReadWrite).then(|| entry.page.clone())
    }

    /// The back-end begins, or ends, to use a grant. Nothing if there is none.
    pub fn set_in_use(&self, reference: u32, in_use: bool) {
        if let Some(entry) = self.0.borrow_mut().grants.get_mut(&reference) {
            entry.in_use = in_use;
        }
    }

    /// The back-end gives a page for one that is offered, which it has then. The page, if it is not.
    ///
    /// # Errors
    ///
    /// The page that was to be given.
    pub fn flip(&self, reference: u32, page: testing::Page) -> Result<testing::Page, testing::Page> {
        let mut table = self.0.borrow_mut();
        match table.offers.get_mut(&reference) {
            Some(offered) if !offered.is_exchanged => {
                offered.is_exchanged = true;
                Ok(core::mem::replace(&mut offered.page, page))
            }
            _ => Err(page),
        }
    }

    /// The back-end begins, or ends, to exchange a page that is offered, and goes no further. Nothing if there is none.
    pub fn set_stuck(&self, reference: u32, is_stuck: bool) {
        if let Some(offered) = self.0.borrow_mut().offers.get_mut(&reference) {
            offered.is_stuck = is_stuck;
        }
    }

    /// How many offers there are.
    #[must_use]
    pub fn offers(&self) -> usize {
        self.0.borrow().offers.len()
    }

    /// How many grants there are.
    #[must_use]
    pub fn grants(&self) -> usize {
        self.0.borrow().grants.len()
    }

    /// There are so many more pages, and so many more grants.
    pub fn limit(&self, pages: Option<u32>, grants: Option<u32>) {
        let mut table = self.0.borrow_mut();
        (table.pages_left, table.grants_left) = (pages, grants);
    }

    /// The port with this number.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn bell(&self, number: u32) -> Bell {
        let found = self
            .0
            .borrow()
            .ports
            .iter()
            .find(|bell| bell.number() == number)
            .cloned();
        found.unwrap()
    }
}

/// Takes one of so many.
fn take_one(left: &mut Option<u32>) -> Option<()> {
    if let Some(left) = left {
        *left = left.checked_sub(1)?;
    }
    Some(())
}

/// A granted page. Dropping it ends the grant, unless it is in use.
#[derive(Debug)]
pub struct Grant {
    page: testing::Page,
    reference: u32,
    memory: Memory,
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut table = self.memory.0.borrow_mut();
        if table
            .grants
            .get(&self.reference)
            .is_some_and(|entry| !entry.in_use)
        {
            table.grants.remove(&self.reference);
            table.give_back();
        }
    }
}

impl SharedPage for Grant {
    fn load(&self, offset: usize) -> u32 {
        self.page.load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        self.page.store(offset, value);
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        self.page.read(offset, to);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        self.page.write(offset, from);
    }
}

impl Domain for Memory {
    type Page = testing::Page;
    type Grant = Grant;
    type Port = Bell;

    fn page(&self) -> Option<testing::Page> {
        take_one(&mut self.0.borrow_mut().pages_left)?;
        Some(testing::Page::new())
    }

    fn grant(&self, page: testing::Page, access: Access) -> Result<Grant, testing::Page> {
        let mut table = self.0.borrow_mut();
        let Some(reference) = table.number() else {
            return Err(page);
        };
        let entry = Entry {
            page: page.clone(),
            access,
            in_use: false,
        };
        table.grants.insert(reference, entry);
        Ok(Grant {
            page,
            reference,
            memory: self.clone(),
        })
    }

    fn reference(&self, grant: &Grant) -> u32 {
        grant.reference
    }

    fn revoke(&self, grant: Grant) -> Result<testing::Page, Grant> {
        let in_use = self
            .0
            .borrow()
            .grants
            .get(&grant.reference)
            .is_some_and(|entry| entry.in_use);
        if in_use {
            return Err(grant);
        }
        // Dropped, it ends.
        Ok(grant.page.clone())
    }

    fn port(&self) -> Option<Bell> {
        let mut table = self.0.borrow_mut();
        let number = u32::try_from(table.ports.len()).ok()?.checked_add(10)?;
        let bell = Bell(Rc::new(Channel {
            number,
            front: Signal::new(),
            back: Signal::new(),
        }));
        table.ports.push(bell.clone());
        Some(bell)
    }
}

/// A page that is offered. Dropping it ends the offer.
#[derive(Debug)]
pub struct Offer {
    reference: u32,
    memory: Memory,
}

impl Drop for Offer {
    fn drop(&mut self) {
        let mut table = self.memory.0.borrow_mut();
        let offered = table.offers.get(&self.reference);
        if offered.is_some_and(|offered| !offered.is_stuck) {
            table.offers.remove(&self.reference);
            table.give_back();
        }
    }
}

impl Flips for Memory {
    type Offer = Offer;

    fn can_flip(&self) -> bool {
        true
    }

    fn offer(&self, page: testing::Page) -> Result<Offer, testing::Page> {
        let mut table = self.0.borrow_mut();
        let Some(reference) = table.number() else {
            return Err(page);
        };
        let offered = Offered {
            page,
            is_exchanged: false,
            is_stuck: false,
        };
        table.offers.insert(reference, offered);
        Ok(Offer {
            reference,
            memory: self.clone(),
        })
    }

    fn offered(&self, offer: &Offer) -> u32 {
        offer.reference
    }

    fn withdraw(&self, offer: Offer) -> Result<Withdrawn<testing::Page>, Offer> {
        let table = self.0.borrow();
        let Some(offered) = table
            .offers
            .get(&offer.reference)
            .filter(|offered| !offered.is_stuck)
        else {
            drop(table);
            return Err(offer);
        };
        let page = offered.page.clone();
        let withdrawn = if offered.is_exchanged {
            Withdrawn::Other(page)
        } else {
            Withdrawn::Same(page)
        };
        // Dropped, it ends.
        drop(table);
        Ok(withdrawn)
    }
}

/// Both ends of an event channel. Clones are the same channel.
#[derive(Clone)]
pub struct Bell(Rc<Channel>);

struct Channel {
    number: u32,
    /// The end of the front-end has fired.
    front: Signal<NoopRawMutex, ()>,
    /// That of the back-end has.
    back: Signal<NoopRawMutex, ()>,
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Bell").field(&self.0.number).finish()
    }
}

impl Bell {
    /// The back-end notifies the front-end.
    pub fn ring(&self) {
        self.0.front.signal(());
    }

    /// The back-end waits until it is notified.
    pub async fn rung(&self) {
        self.0.back.wait().await;
    }
}

impl Port for Bell {
    fn number(&self) -> u32 {
        self.0.number
    }

    fn notify(&self) {
        self.0.back.signal(());
    }

    fn notified(&self) -> impl Future<Output = ()> {
        self.0.front.wait()
    }
}
