//! Transactions: a snapshot, what was done to it, and what was looked at.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use bulkhead_abi::xenstore::StoreError;
use bulkhead_bus::wire::Path;

use crate::tree::{Node, Replaced, Tree};

/// An open transaction.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// All nodes as they were at the start.
    pub(crate) base: Tree,
    /// The same with what the transaction wrote.
    pub(crate) tree: Tree,
    pub(crate) log: Log,
    /// How much the store had replaced at the start.
    pub(crate) started: u64,
    /// Whether it can only end with EAGAIN.
    pub(crate) is_doomed: bool,
}

/// What a transaction looked at, and what of it it wrote.
#[derive(Debug, Default)]
pub(crate) struct Log {
    touched: BTreeMap<Path, Touch>,
    /// Bytes that count against the quota.
    bytes: usize,
    limit: usize,
    writes: usize,
}

/// What the transaction knows of a node: at least its value and permissions, or that it is missing.
#[derive(Clone, Copy, Debug, Default)]
struct Touch {
    /// It looked at the list of children, too.
    saw_list: bool,
    /// It removed what was there with all below.
    removed: bool,
    /// It made the node on its way to one below, and tells nobody.
    made: bool,
    /// It wrote here; the greatest is the latest.
    written: Option<usize>,
}

impl Log {
    /// Bytes that a touched path counts beside its own.
    const TOUCH: usize = 64;

    fn touch(&mut self, path: &Path) -> Result<&mut Touch, StoreError> {
        if !self.touched.contains_key(path) {
            self.charge(path.as_str().len().saturating_add(Self::TOUCH))?;
        }
        Ok(self.touched.entry(path.clone()).or_default())
    }

    /// How much of the quota is used.
    #[cfg(any(test, fuzzing))]
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn charge(&mut self, bytes: usize) -> Result<(), StoreError> {
        let sum = self.bytes.saturating_add(bytes);
        if sum > self.limit {
            return Err(StoreError::NoSpc);
        }
        self.bytes = sum;
        Ok(())
    }

    /// The transaction looks for a node. If it is missing, it saw where the way there ends.
    pub(crate) fn saw(&mut self, tree: &Tree, path: &Path) -> Result<(), StoreError> {
        let (found, _) = tree.nearest(path);
        self.touch(&path.truncated(found))?;
        self.touch(&path.truncated(found.saturating_add(1)))?;
        Ok(())
    }

    /// The transaction looks at a node's list of children.
    pub(crate) fn saw_list(&mut self, path: &Path) -> Result<(), StoreError> {
        self.touch(path)?.saw_list = true;
        Ok(())
    }

    /// The transaction is about to write `value` to a node, and to make the ancestors that are missing.
    pub(crate) fn writes(&mut self, tree: &Tree, path: &Path, value: &[u8]) -> Result<(), StoreError> {
        self.charge(value.len())?;
        let (found, _) = tree.nearest(path);
        let names = path.parts().count();
        for made in found.saturating_add(1)..names {
            self.touch(&path.truncated(made))?.made = true;
        }
        self.wrote(path)
    }

    /// The transaction is about to remove a node and all below.
    pub(crate) fn removes(&mut self, path: &Path) -> Result<(), StoreError> {
        self.touch(path)?.removed = true;
        self.wrote(path)
    }

    fn wrote(&mut self, path: &Path) -> Result<(), StoreError> {
        self.writes = self.writes.saturating_add(1);
        let writes = self.writes;
        self.touch(path)?.written = Some(writes);
        Ok(())
    }
}

/// What a transaction leaves behind.
#[derive(Debug)]
pub(crate) struct Committed {
    /// The store with what it wrote.
    pub(crate) tree: Tree,
    /// What changed, in the order of the last change, and what was removed there.
    pub(crate) changes: Vec<(Path, Option<alloc::sync::Arc<Node>>)>,
    pub(crate) replaced: Replaced,
}

impl Transaction {
    /// Starts on the nodes of `tree`; may touch so many bytes.
    pub(crate) fn new(tree: &Tree, limit: usize, started: u64) -> Self {
        Self {
            base: tree.clone(),
            tree: tree.clone(),
            log: Log {
                limit,
                ..Log::default()
            },
            started,
            is_doomed: false,
        }
    }

    /// Lets go of old nodes: goes on with those of `tree`, and will end with EAGAIN.
    pub(crate) fn doom(&mut self, tree: &Tree, started: u64) {
        let limit = self.log.limit;
        *self = Self::new(tree, limit, started);
        self.is_doomed = true;
    }

    /// Does to the nodes of `current` what the transaction did to those of its start.
    ///
    /// # Errors
    ///
    /// [`StoreError::Again`] if what it looked at is not as it was.
    pub(crate) fn commit(&self, current: &Tree, now: u64) -> Result<Committed, StoreError> {
        if self.is_doomed || self.has_conflict(current) {
            return Err(StoreError::Again);
        }
        let mut tree = current.clone();
        let mut cost = 0_u64;
        let mut changes = Vec::new();
        // An ancestor sorts before what is below it.
        for (path, touch) in &self.log.touched {
            if !touch.made && touch.written.is_none() {
                continue;
            }
            let mut removed = None;
            if touch.removed
                && let Some((node, Replaced(bytes))) = tree.remove(path, now)
            {
                removed = Some(node);
                cost = cost.saturating_add(bytes);
            }
            // What was written and removed again is missing in both, and never was.
            let node = self.tree.get(path);
            if let Some(node) = node {
                let Replaced(bytes) = tree.put(path, node.value.clone(), node.perms.clone(), now);
                cost = cost.saturating_add(bytes);
            }
            if let Some(order) = touch.written
                && (node.is_some() || removed.is_some())
            {
                changes.push((order, path.clone(), removed));
            }
        }
        changes.sort_unstable_by_key(|(order, ..)| *order);
        Ok(Committed {
            tree,
            changes: changes
                .into_iter()
                .map(|(_, path, removed)| (path, removed))
                .collect(),
            replaced: Replaced(cost),
        })
    }

    fn has_conflict(&self, current: &Tree) -> bool {
        self.log.touched.iter().any(|(path, touch)| {
            let [before, now] = [&self.base, current].map(|tree| tree.get(path));
            let is_same_list =
                !touch.saw_list || before.map(|node| node.listed) == now.map(|node| node.listed);
            before.map(|node| node.changed) != now.map(|node| node.changed) || !is_same_list
        })
    }
}
