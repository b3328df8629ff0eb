//! One domain's view of the nodes, in a transaction or outside: who may do what, and what the quotas leave.

use alloc::sync::Arc;

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::StoreError;
use bulkhead_bus::wire::{Access, Path, Perms};

use crate::quotas::Quotas;
use crate::transaction::Log;
use crate::tree::{Node, Replaced, Tree};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) domain: DomId,
    /// The domain whose rights it has beside its own.
    pub(crate) target: Option<DomId>,
}

impl Caller {
    pub(crate) fn is_privileged(self) -> bool {
        self.domain == DomId::new(0)
    }

    /// Whether it may do that to a node with these permissions.
    pub(crate) fn may(self, perms: &Perms, wanted: Access) -> bool {
        self.is_privileged()
            || perms.access(self.domain).allows(wanted)
            || self
                .target
                .is_some_and(|target| perms.access(target).allows(wanted))
    }

    fn owns(self, perms: &Perms) -> bool {
        let owner = perms.owner.domain;
        self.is_privileged() || owner == self.domain || Some(owner) == self.target
    }
}

/// The nodes as a caller sees them.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) caller: Caller,
    pub(crate) quotas: Quotas,
    pub(crate) tree: &'a mut Tree,
    /// In a transaction, where it notes what it does.
    pub(crate) log: Option<&'a mut Log>,
    /// When this is: no two requests have the same number.
    pub(crate) now: u64,
}

impl View<'_> {
    /// A node to which the caller has this access.
    ///
    /// Where it is missing, the nearest ancestor decides whether the caller may know that.
    pub(crate) fn find(&mut self, path: &Path, wanted: Access) -> Result<&Node, StoreError> {
        if let Some(log) = &mut self.log {
            log.saw(self.tree, path)?;
        }
        let (found, node) = self.tree.nearest(path);
        if !self.caller.may(&node.perms, wanted) {
            return Err(StoreError::Acces);
        }
        if found < path.parts().count() {
            return Err(StoreError::NoEnt);
        }
        Ok(node)
    }

    /// A node whose children the caller may list.
    pub(crate) fn list(&mut self, path: &Path) -> Result<&Node, StoreError> {
        self.find(path, Access::Read)?;
        if let Some(log) = &mut self.log {
            log.saw_list(path)?;
        }
        self.find(path, Access::Read)
    }

    /// Writes a value, and makes the node and its ancestors if they are missing.
    pub(crate) fn write(&mut self, path: &Path, value: &[u8]) -> Result<Replaced, StoreError> {
        match self.find(path, Access::Write).map(|node| node.perms.clone()) {
            Ok(perms) => self.put(path, value, perms),
            Err(StoreError::NoEnt) => self.make(path, value),
            Err(error) => Err(error),
        }
    }

    /// Makes the node, if it is missing, and its ancestors.
    pub(crate) fn mkdir(&mut self, path: &Path) -> Result<Replaced, StoreError> {
        match self.find(path, Access::Write) {
            Ok(_) => Ok(Replaced(0)),
            Err(StoreError::NoEnt) => self.make(path, &[]),
            Err(error) => Err(error),
        }
    }

    /// Makes a node that is missing, with the permissions of the nearest ancestor but owned by the caller. Domain 0
    /// makes nodes for others, and takes the ancestor's owner too.
    fn make(&mut self, path: &Path, value: &[u8]) -> Result<Replaced, StoreError> {
        let (found, ancestor) = self.tree.nearest(path);
        let mut perms = ancestor.perms.clone();
        if !self.caller.is_privileged() && perms.owner.domain != self.caller.domain {
            Arc::make_mut(&mut perms).owner.domain = self.caller.domain;
        }
        let made = path.parts().count().saturating_sub(found);
        let owned = self.tree.owned(self.caller.domain);
        let room = self.quotas.nodes.saturating_sub(owned);
        if u32::try_from(made).map_or(true, |made| made > room) {
            return Err(StoreError::NoSpc);
        }
        for name in path.parts().rev().take(made).skip(1) {
            self.check_size(name, &[], &perms)?;
        }
        self.put(path, value, perms)
    }

    fn put(&mut self, path: &Path, value: &[u8], perms: Arc<Perms>) -> Result<Replaced, StoreError> {
        self.check_size(path.parts().next_back().unwrap_or_default(), value, &perms)?;
        if let Some(log) = &mut self.log {
            log.writes(self.tree, path, value)?;
        }
        Ok(self.tree.put(path, Arc::from(value), perms, self.now))
    }

    fn check_size(&self, name: &str, value: &[u8], perms: &Perms) -> Result<(), StoreError> {
        let bytes = perms
            .entries()
            .count()
            .saturating_mul(4)
            .saturating_add(name.len())
            .saturating_add(value.len());
        if bytes > self.quotas.node_bytes {
            Err(StoreError::NoSpc)
        } else {
            Ok(())
        }
    }

    /// Removes a node and all below it; `None` if it was missing and its parent is there.
    pub(crate) fn rm(&mut self, path: &Path) -> Result<Option<(Arc<Node>, Replaced)>, StoreError> {
        let Some((parent, _)) = path.split() else {
            return Err(StoreError::Inval);
        };
        match self.find(path, Access::Write).map(|_| ()) {
            Ok(()) => {
                if let Some(log) = &mut self.log {
                    log.removes(path)?;
                }
                Ok(self.tree.remove(path, self.now))
            }
            Err(StoreError::NoEnt) if self.tree.get(&parent).is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets permissions; gives those of before.
    pub(crate) fn set_perms(
        &mut self,
        path: &Path,
        perms: Perms,
    ) -> Result<(Arc<Perms>, Replaced), StoreError> {
        let (caller, most) = (self.caller, self.quotas.perms);
        let node = self.find(path, Access::Write)?;
        if !caller.owns(&node.perms) {
            return Err(StoreError::Acces);
        }
        if !caller.is_privileged() && perms.owner.domain != node.perms.owner.domain {
            return Err(StoreError::Perm);
        }
        if perms.entries().count() > most {
            return Err(StoreError::NoSpc);
        }
        let (value, before) = (node.value.clone(), node.perms.clone());
        self.put(path, &value, Arc::new(perms))
            .map(|replaced| (before, replaced))
    }
}
