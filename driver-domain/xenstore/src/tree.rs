//! The tree: persistent, so that a snapshot costs nothing, and never walked by recursion.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use bulkhead_abi::DomId;
use bulkhead_bus::wire::{Path, Perms};

/// A node. Two versions of a node differ in [`changed`](Self::changed) if value or permissions may differ, in
/// [`listed`](Self::listed) if the names of children may.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Arc<[u8]>,
    pub(crate) perms: Arc<Perms>,
    /// When value or permissions were last set.
    pub(crate) changed: u64,
    /// When a child was last added or removed.
    pub(crate) listed: u64,
    /// In the order of their names.
    pub(crate) children: BTreeMap<Arc<str>, Arc<Node>>,
}

impl Node {
    fn new(value: Arc<[u8]>, perms: Arc<Perms>, now: u64) -> Self {
        Self {
            value,
            perms,
            changed: now,
            listed: now,
            children: BTreeMap::new(),
        }
    }

    /// The descendant that these names lead to.
    pub(crate) fn descendant<'a>(&self, names: impl Iterator<Item = &'a str>) -> Option<&Self> {
        let mut names = names;
        names.try_fold(self, |node, name| node.children.get(name).map(|child| &**child))
    }

    /// What a copy of the node alone costs, in bytes, about.
    fn cost(&self) -> u64 {
        let list = self.children.len().saturating_mul(32);
        u64::try_from(self.value.len().saturating_add(list).saturating_add(128)).unwrap_or(u64::MAX)
    }
}

/// A chain of nodes is as long as a path has slashes: dropped node by node, not by recursion.
impl Drop for Node {
    fn drop(&mut self) {
        if self.children.is_empty() {
            return;
        }
        let mut pile: Vec<Arc<Self>> = mem::take(&mut self.children).into_values().collect();
        while let Some(node) = pile.pop() {
            if let Some(mut last) = Arc::into_inner(node) {
                pile.extend(mem::take(&mut last.children).into_values());
            }
        }
    }
}

/// All nodes, and how many each domain owns. A clone is a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) root: Arc<Node>,
    pub(crate) owned: Arc<BTreeMap<DomId, u32>>,
}

/// What a change let go of.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "snapshots keep it alive"]
pub(crate) struct Replaced(pub(crate) u64);

impl Tree {
    /// A root that only domain 0 has access to.
    pub(crate) fn new() -> Self {
        let owner = DomId::new(0);
        let perms = Arc::new(Perms::private(owner));
        Self {
            root: Arc::new(Node::new(Arc::from([]), perms, 0)),
            owned: Arc::new(BTreeMap::from([(owner, 1)])),
        }
    }

    /// The node at `path`.
    pub(crate) fn get(&self, path: &Path) -> Option<&Node> {
        self.root.descendant(path.parts())
    }

    /// The nearest node to `path` that is there, itself or an ancestor, and how many names lead to it.
    pub(crate) fn nearest(&self, path: &Path) -> (usize, &Node) {
        let mut found = (0_usize, &*self.root);
        for name in path.parts() {
            match found.1.children.get(name) {
                Some(child) => found = (found.0.saturating_add(1), child),
                None => break,
            }
        }
        found
    }

    /// How many nodes `domain` owns.
    pub(crate) fn owned(&self, domain: DomId) -> u32 {
        self.owned.get(&domain).copied().unwrap_or_default()
    }

    /// Sets a node's value and permissions. If it is missing it is made, and so are its ancestors, empty and with the same
    /// permissions.
    pub(crate) fn put(&mut self, path: &Path, value: Arc<[u8]>, perms: Arc<Perms>, now: u64) -> Replaced {
        let (found, nearest) = self.nearest(path);
        let before = nearest.perms.owner.domain;
        let missing = path.parts().count().saturating_sub(found);
        let owner = perms.owner.domain;
        // From the node up to what is to hang below the nearest ancestor.
        let mut chain: Option<(&str, Node)> = None;
        for name in path.parts().rev().take(missing) {
            let node = match chain {
                None => Node::new(value.clone(), perms.clone(), now),
                Some((below, child)) => {
                    let mut node = Node::new(Arc::from([]), perms.clone(), now);
                    node.children.insert(Arc::from(below), Arc::new(child));
                    node
                }
            };
            chain = Some((name, node));
        }
        let Some((node, replaced)) = self.reach(&path.truncated(found)) else {
            debug_assert!(false, "what was found is there");
            return Replaced(0);
        };
        match chain {
            None => {
                node.value = value;
                node.perms = perms;
                node.changed = now;
                self.disown(before);
            }
            Some((name, child)) => {
                node.children.insert(Arc::from(name), Arc::new(child));
                node.listed = now;
            }
        }
        let made = u32::try_from(missing.max(1)).unwrap_or(u32::MAX);
        let count = Arc::make_mut(&mut self.owned).entry(owner).or_default();
        *count = count.saturating_add(made);
        replaced
    }

    /// Removes a node and all below it, and gives them. `None` if it is missing or the root.
    pub(crate) fn remove(&mut self, path: &Path, now: u64) -> Option<(Arc<Node>, Replaced)> {
        let (parent, name) = path.split()?;
        self.get(path)?;
        let (parent, Replaced(mut cost)) = self.reach(&parent)?;
        let removed = parent.children.remove(name)?;
        parent.listed = now;
        let mut pile: Vec<&Node> = alloc::vec![&removed];
        while let Some(node) = pile.pop() {
            self.disown(node.perms.owner.domain);
            cost = cost.saturating_add(node.cost());
            pile.extend(node.children.values().map(|child| &**child));
        }
        Some((removed, Replaced(cost)))
    }

    /// A node that is there, to be changed: what snapshots share on the way is copied, once. The numbers of nodes will be
    /// copied too, as every change may change them.
    fn reach(&mut self, path: &Path) -> Option<(&mut Node, Replaced)> {
        let mut cost = 0_u64;
        if Arc::strong_count(&self.owned) > 1 {
            let bytes = self.owned.len().saturating_mul(16);
            cost = u64::try_from(bytes).unwrap_or(u64::MAX);
        }
        let mut at = &mut self.root;
        let mut names = path.parts();
        loop {
            if Arc::strong_count(at) > 1 {
                cost = cost.saturating_add(at.cost());
            }
            let node = Arc::make_mut(at);
            match names.next() {
                None => return Some((node, Replaced(cost))),
                Some(name) => at = node.children.get_mut(name)?,
            }
        }
    }

    fn disown(&mut self, owner: DomId) {
        let owned = Arc::make_mut(&mut self.owned);
        if let Some(count) = owned.get_mut(&owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                owned.remove(&owner);
            }
        }
    }
}
