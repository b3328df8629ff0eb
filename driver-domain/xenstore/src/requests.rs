//! What domains ask for, whether by message or, domain 0, directly.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::{PAYLOAD_MAX, StoreError};
use bulkhead_bus::wire::{Access, End, Path, Perms, Place, Request, Special, TOKEN_MAX, WatchPath};

use crate::store::{Action, Store};
use crate::transaction::Transaction;
use crate::tree::Node;

/// The answer to what needs none.
const OK: &[u8] = b"OK\0";

impl Store {
    /// Does a request; gives the payload of the reply.
    pub(crate) fn request(
        &mut self,
        domain: DomId,
        tx: u32,
        request: Request<'_>,
    ) -> Result<Vec<u8>, StoreError> {
        let connection = self.connections.get(&domain).ok_or(StoreError::Inval)?;
        if tx != 0 && !connection.transactions.contains_key(&tx) {
            return Err(StoreError::NoEnt);
        }
        let done = match request {
            Request::Read(path) => return self.do_read(domain, tx, &path).map(|value| value.to_vec()),
            Request::Directory(path) => return self.do_directory(domain, tx, &path, joined),
            Request::DirectoryPart(path, offset) => {
                return self.do_directory(domain, tx, &path, |node| part(node, offset));
            }
            Request::GetPerms(place) => {
                return self
                    .do_perms(domain, tx, &place)
                    .map(|perms| perms.to_text().into_bytes());
            }
            Request::TransactionStart => {
                return self.do_start(domain, tx).map(|id| format!("{id}\0").into_bytes());
            }
            Request::GetDomainPath(domain) => return Ok(format!("{}\0", Path::home(domain)).into_bytes()),
            Request::IsDomainIntroduced(domain) => {
                let is_introduced = self.is_introduced(domain);
                return Ok(if is_introduced { b"T\0" } else { b"F\0" }.to_vec());
            }
            Request::Control(command) => return control(domain, command),
            Request::Write(path, value) => self.do_write(domain, tx, &path, value),
            Request::Mkdir(path) => self.do_mkdir(domain, tx, &path),
            Request::Rm(path) => self.do_rm(domain, tx, &path),
            Request::SetPerms(place, perms) => self.do_set_perms(domain, tx, &place, perms),
            Request::TransactionEnd(end) => self.do_end(domain, tx, end),
            Request::Watch(path, token) => self.do_watch(domain, path, token),
            Request::Unwatch(path, token) => self.do_unwatch(domain, &path.place, token),
            Request::ResetWatches => {
                self.reset(domain);
                Ok(())
            }
            Request::Introduce {
                domain: guest,
                mfn,
                port,
            } => self.do_introduce(domain, guest, mfn, port),
            Request::Release(guest) => self.do_release(domain, guest),
            Request::Resume(guest) => {
                privileged(domain)?;
                self.connected(guest)?;
                self.actions.push_back(Action::Resume(guest));
                Ok(())
            }
            Request::SetTarget(guest, target) => {
                privileged(domain)?;
                self.connected(target)?;
                self.connected(guest)?;
                if let Some(connection) = self.connections.get_mut(&guest) {
                    connection.target = Some(target);
                }
                Ok(())
            }
        };
        done.map(|()| OK.to_vec())
    }

    pub(crate) fn do_read(&mut self, domain: DomId, tx: u32, path: &Path) -> Result<Arc<[u8]>, StoreError> {
        self.view(domain, tx, |view| {
            view.find(path, Access::Read).map(|node| node.value.clone())
        })
    }

    /// Lets `list` make of a node's children what it wants.
    pub(crate) fn do_directory<R>(
        &mut self,
        domain: DomId,
        tx: u32,
        path: &Path,
        list: impl FnOnce(&Node) -> R,
    ) -> Result<R, StoreError> {
        self.view(domain, tx, |view| view.list(path).map(list))
    }

    pub(crate) fn do_perms(&mut self, domain: DomId, tx: u32, place: &Place) -> Result<Perms, StoreError> {
        match place {
            Place::Node(path) => self.view(domain, tx, |view| {
                view.find(path, Access::Read).map(|node| (*node.perms).clone())
            }),
            Place::Special(special) => {
                privileged(domain)?;
                Ok(self.special_perms(*special).clone())
            }
        }
    }

    pub(crate) fn do_write(
        &mut self,
        domain: DomId,
        tx: u32,
        path: &Path,
        value: &[u8],
    ) -> Result<(), StoreError> {
        let replaced = self.view(domain, tx, |view| view.write(path, value))?;
        if tx == 0 {
            self.retire(replaced);
            self.fire_written(path);
        }
        Ok(())
    }

    pub(crate) fn do_mkdir(&mut self, domain: DomId, tx: u32, path: &Path) -> Result<(), StoreError> {
        let was_there = self.tree.get(path).is_some();
        let replaced = self.view(domain, tx, |view| view.mkdir(path))?;
        if tx == 0 && !was_there {
            self.retire(replaced);
            self.fire_written(path);
        }
        Ok(())
    }

    fn fire_written(&mut self, path: &Path) {
        if let Some(perms) = self.tree.get(path).map(|node| node.perms.clone()) {
            self.fire(path, &[&perms], None);
        }
    }

    pub(crate) fn do_rm(&mut self, domain: DomId, tx: u32, path: &Path) -> Result<(), StoreError> {
        let removed = self.view(domain, tx, |view| view.rm(path))?;
        if tx == 0
            && let Some((node, replaced)) = removed
        {
            self.retire(replaced);
            self.fire(path, &[&node.perms], Some(&node));
        }
        Ok(())
    }

    pub(crate) fn do_set_perms(
        &mut self,
        domain: DomId,
        tx: u32,
        place: &Place,
        perms: Perms,
    ) -> Result<(), StoreError> {
        match place {
            Place::Node(path) => {
                let after = perms.clone();
                let (before, replaced) = self.view(domain, tx, |view| view.set_perms(path, perms))?;
                if tx == 0 {
                    self.retire(replaced);
                    self.fire(path, &[&before, &after], None);
                }
            }
            Place::Special(special) => {
                privileged(domain)?;
                *self.special_perms(*special) = perms;
            }
        }
        Ok(())
    }

    pub(crate) fn do_start(&mut self, domain: DomId, tx: u32) -> Result<u32, StoreError> {
        if tx != 0 {
            return Err(StoreError::Busy);
        }
        let quotas = self.quotas_of(domain);
        let connection = self.connections.get_mut(&domain).ok_or(StoreError::Inval)?;
        if connection.transactions.len() >= quotas.transactions {
            return Err(StoreError::NoSpc);
        }
        let id = connection.unused_transaction();
        let transaction = Transaction::new(&self.tree, quotas.transaction_bytes, self.replaced);
        connection.transactions.insert(id, transaction);
        Ok(id)
    }

    pub(crate) fn do_end(&mut self, domain: DomId, tx: u32, end: End) -> Result<(), StoreError> {
        let quotas = self.quotas_of(domain);
        let connection = self.connections.get_mut(&domain).ok_or(StoreError::Inval)?;
        let transaction = connection.transactions.remove(&tx).ok_or(StoreError::NoEnt)?;
        if end == End::Abandon {
            return Ok(());
        }
        self.clock = self.clock.wrapping_add(1);
        let committed = transaction.commit(&self.tree, self.clock)?;
        // Let go of its snapshots before they count as somebody's.
        drop(transaction);
        let owns = committed.tree.owned(domain);
        if owns > quotas.nodes && owns > self.tree.owned(domain) {
            return Err(StoreError::NoSpc);
        }
        let before = core::mem::replace(&mut self.tree, committed.tree);
        self.retire(committed.replaced);
        for (path, removed) in &committed.changes {
            let [old, new] = [&before, &self.tree].map(|tree| tree.get(path).map(|node| node.perms.clone()));
            let perms: Vec<&Perms> = [&old, &new].into_iter().flatten().map(|perms| &**perms).collect();
            self.fire(path, &perms, removed.as_deref());
        }
        Ok(())
    }

    pub(crate) fn do_watch(
        &mut self,
        domain: DomId,
        path: WatchPath,
        token: &[u8],
    ) -> Result<(), StoreError> {
        if token.len() > TOKEN_MAX {
            return Err(StoreError::TooBig);
        }
        let quotas = self.quotas_of(domain);
        let connection = self.connections.get_mut(&domain).ok_or(StoreError::Inval)?;
        let watch: (Arc<str>, Arc<[u8]>) = (shared(path.place), Arc::from(token));
        if connection.watches.contains(&watch) {
            return Err(StoreError::Exist);
        }
        if connection.watches.len() >= quotas.watches {
            return Err(StoreError::NoSpc);
        }
        connection.watches.insert(watch.clone());
        let (place, token) = watch;
        let watch = self.watches.add(place, domain, token, path.is_relative);
        // So that who watches need not look before.
        self.push_event(domain, &watch, &watch.place);
        Ok(())
    }

    pub(crate) fn do_unwatch(
        &mut self,
        domain: DomId,
        place: &Place,
        token: &[u8],
    ) -> Result<(), StoreError> {
        let connection = self.connections.get_mut(&domain).ok_or(StoreError::Inval)?;
        let watch: (Arc<str>, Arc<[u8]>) = (shared(place.clone()), Arc::from(token));
        if !connection.watches.remove(&watch) {
            return Err(StoreError::NoEnt);
        }
        let (place, token) = watch;
        if let Some(watch) = self.watches.remove(&place, domain, token) {
            connection.events.forget(&watch);
        }
        Ok(())
    }

    fn do_introduce(&mut self, domain: DomId, guest: DomId, mfn: u64, port: u32) -> Result<(), StoreError> {
        privileged(domain)?;
        if guest.raw() == 0 || guest.is_reserved() {
            return Err(StoreError::Inval);
        }
        if self.introduce(guest).is_err() {
            self.reconnect(guest);
        }
        self.actions.push_back(Action::Introduce {
            domain: guest,
            mfn,
            port,
        });
        Ok(())
    }

    fn do_release(&mut self, domain: DomId, guest: DomId) -> Result<(), StoreError> {
        privileged(domain)?;
        if guest.raw() == 0 {
            return Err(StoreError::Inval);
        }
        if !self.release(guest) {
            return Err(StoreError::NoEnt);
        }
        self.actions.push_back(Action::Release(guest));
        Ok(())
    }

    fn connected(&self, domain: DomId) -> Result<(), StoreError> {
        if self.is_introduced(domain) {
            Ok(())
        } else {
            Err(StoreError::NoEnt)
        }
    }
}

fn privileged(domain: DomId) -> Result<(), StoreError> {
    if domain.raw() == 0 {
        Ok(())
    } else {
        Err(StoreError::Acces)
    }
}

fn shared(place: Place) -> Arc<str> {
    match place {
        Place::Node(path) => path.into(),
        Place::Special(special) => Arc::from(Special::name(special)),
    }
}

/// The names of the children, each with a NUL at its end. Nobody wants more than fits in a message, and one more.
fn joined(node: &Node) -> Vec<u8> {
    let mut list = Vec::new();
    for name in node.children.keys() {
        if list.len() > PAYLOAD_MAX {
            break;
        }
        list.extend_from_slice(name.as_bytes());
        list.push(0);
    }
    list
}

/// As many names as fit, from the first that starts at byte `offset` of the whole list or later, after a number that differs
/// when the list does. An empty name ends the last part.
fn part(node: &Node, offset: u64) -> Vec<u8> {
    let mut part = format!("{}\0", node.listed).into_bytes();
    let mut at = 0_u64;
    for name in node.children.keys() {
        let is_wanted = at >= offset;
        at = at
            .saturating_add(u64::try_from(name.len()).unwrap_or(u64::MAX))
            .saturating_add(1);
        if !is_wanted {
            continue;
        }
        // With its NUL, and that of the empty name.
        if part.len().saturating_add(name.len()).saturating_add(2) > PAYLOAD_MAX {
            return part;
        }
        part.extend_from_slice(name.as_bytes());
        part.push(0);
    }
    part.push(0);
    part
}

/// Commands to the server. There is one so far, which tells so.
fn control(domain: DomId, command: &[u8]) -> Result<Vec<u8>, StoreError> {
    privileged(domain)?;
    match command {
        b"help\0" => Ok(b"commands: help\0".to_vec()),
        _ => Err(StoreError::Inval),
    }
}
