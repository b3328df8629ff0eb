//! The store for domain 0, which shares an address space with it: methods in place of messages.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::StoreError;
use bulkhead_bus::wire::{End, Path, Perms, Place, WatchPath};

use crate::store::Store;

const CONTROL: DomId = DomId::new(0);

/// A transaction of domain 0, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tx(u32);

impl Tx {
    /// Outside any transaction: what is written takes effect at once.
    pub const NONE: Self = Self(0);
}

/// Something changed that domain 0 watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What changed: the watched place or a node below it. After very many changes it is the watched place, and stands for
    /// all of them.
    pub path: String,
    /// What domain 0 gave with the watch.
    pub token: Vec<u8>,
}

/// Domain 0 may read and write every node, whatever its permissions, and has no quotas. All of these may be refused with
/// [`StoreError::NoEnt`] if the transaction is not open.
impl Store {
    /// A node's value.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoEnt`] if it is missing.
    pub fn read(&mut self, tx: Tx, path: &Path) -> Result<Arc<[u8]>, StoreError> {
        self.do_read(CONTROL, tx.0, path)
    }

    /// Gives a node a value. It and its ancestors are made if they are missing, with the permissions of the nearest
    /// ancestor that is there.
    ///
    /// # Errors
    ///
    /// If the transaction is not open.
    pub fn write(&mut self, tx: Tx, path: &Path, value: &[u8]) -> Result<(), StoreError> {
        self.do_write(CONTROL, tx.0, path, value)
    }

    /// Makes a node, if it is missing, and its ancestors.
    ///
    /// # Errors
    ///
    /// If the transaction is not open.
    pub fn mkdir(&mut self, tx: Tx, path: &Path) -> Result<(), StoreError> {
        self.do_mkdir(CONTROL, tx.0, path)
    }

    /// Removes a node and all below it.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoEnt`] if its parent is missing too, [`StoreError::Inval`] for the root.
    pub fn rm(&mut self, tx: Tx, path: &Path) -> Result<(), StoreError> {
        self.do_rm(CONTROL, tx.0, path)
    }

    /// The names of a node's children, sorted.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoEnt`] if it is missing.
    pub fn directory(&mut self, tx: Tx, path: &Path) -> Result<Vec<Arc<str>>, StoreError> {
        self.do_directory(CONTROL, tx.0, path, |node| {
            node.children.keys().cloned().collect()
        })
    }

    /// A node's permissions, or those of a special watch.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoEnt`] if it is missing.
    pub fn perms(&mut self, tx: Tx, place: &Place) -> Result<Perms, StoreError> {
        self.do_perms(CONTROL, tx.0, place)
    }

    /// Sets a node's permissions, or those of a special watch: who may read it is told of domains that come or go.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoEnt`] if it is missing.
    pub fn set_perms(&mut self, tx: Tx, place: &Place, perms: Perms) -> Result<(), StoreError> {
        self.do_set_perms(CONTROL, tx.0, place, perms)
    }

    /// Starts a transaction. It is to be ended, and keeps the nodes of its start in memory until then.
    pub fn start(&mut self) -> Tx {
        // Domain 0 is connected, in no transaction now, and has no quota of them.
        self.do_start(CONTROL, 0).map_or(Tx::NONE, Tx)
    }

    /// Ends a transaction.
    ///
    /// # Errors
    ///
    /// [`StoreError::Again`] if something that it looked at has changed meanwhile; nothing of it took effect then.
    pub fn end(&mut self, tx: Tx, end: End) -> Result<(), StoreError> {
        self.do_end(CONTROL, tx.0, end)
    }

    /// Watches a path or a special name; the first event waits at once. `token` comes with each event.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exist`] if the same is watched with this token; [`StoreError::TooBig`] if it has more than 1022 bytes.
    pub fn watch(&mut self, place: Place, token: &[u8]) -> Result<(), StoreError> {
        let path = WatchPath {
            place,
            is_relative: false,
        };
        self.do_watch(CONTROL, path, token)
    }

    /// Ends a watch; drops its events.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoEnt`] if there is no such watch.
    pub fn unwatch(&mut self, place: &Place, token: &[u8]) -> Result<(), StoreError> {
        self.do_unwatch(CONTROL, place, token)
    }

    /// The next event of domain 0's watches.
    pub fn next_event(&mut self) -> Option<Event> {
        let event = self.connections.get_mut(&CONTROL)?.events.pop()?;
        Some(Event {
            path: event.path(CONTROL),
            token: event.watch.token.to_vec(),
        })
    }
}
